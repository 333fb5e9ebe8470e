//! The hands on real devices, with a vswitch that only remembers what it was given.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::config::Security;
use weft_program::connection::Connection;
use weft_program::message::{self, Hello, PROTOCOL, Request, Response, Status};
use weft_program::{Bundle, MacAddr, Position};
use weft_sys::netlink::Netlink;
use weft_sys::{netns, process};

/// What a vswitch was given.
#[derive(Default)]
struct Given {
    ports: Vec<(PortDevice, Vec<OwnedFd>)>,
    underlay: Option<(Underlay, Vec<OwnedFd>)>,
    position: Position,
}

/// A vswitch that serves one connection at a time, in this process, until it is dropped.
struct Vswitch {
    given: Arc<Mutex<Given>>,
    path: PathBuf,
}

impl Vswitch {
    fn start(path: &Path, instance: &str) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let given = Arc::new(Mutex::new(Given::default()));
        let (shared, instance) = (given.clone(), instance.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut connection = Connection::new(stream.unwrap(), Duration::from_secs(5));
                while let Ok((request, fds)) = connection.receive::<Request>(None) {
                    for (response, fds) in answer(&shared, &instance, request, fds) {
                        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                        connection.send(&response, &fds).unwrap();
                    }
                }
            }
        });
        Self { given, path: path.to_owned() }
    }

    /// As after its death: its descriptors are closed and nobody listens.
    fn die(self) {
        std::fs::remove_file(&self.path).unwrap();
        *self.given.lock().unwrap() = Given::default();
    }
}

fn answer(given: &Mutex<Given>, instance: &str, request: Request, fds: Vec<OwnedFd>) -> Vec<(Response, Vec<OwnedFd>)> {
    let mut given = given.lock().unwrap();
    let dup = |fds: &[OwnedFd]| fds.iter().map(|fd| fd.try_clone().unwrap()).collect::<Vec<_>>();
    let plain = |response| vec![(response, Vec::new())];
    match request {
        Request::Hello(_) => plain(Response::Hello(Hello {
            protocol: PROTOCOL,
            features: Vec::new(),
            instance: instance.to_owned(),
            build: String::new(),
        })),
        Request::Attach(device) => {
            given.ports.push((device, fds));
            plain(Response::Done)
        }
        Request::Detach(id) => {
            given.ports.retain(|(device, _)| device.id != id);
            plain(Response::Done)
        }
        Request::AttachUnderlay(underlay) => {
            given.underlay = Some((underlay, fds));
            plain(Response::Done)
        }
        Request::UnderlayChanged(mtu) => {
            given.underlay.as_mut().unwrap().0.mtu = mtu;
            plain(Response::Done)
        }
        Request::Inventory => {
            let ports = given.ports.iter().map(|(device, fds)| (Response::Attached(device.clone()), dup(fds)));
            let underlay = given.underlay.iter().map(|(u, fds)| (Response::AttachedUnderlay(u.clone()), dup(fds)));
            ports.chain(underlay).chain([(Response::Done, Vec::new())]).collect()
        }
        Request::Apply(bundle) => {
            given.position = bundle.position;
            plain(Response::Done)
        }
        Request::Status => plain(Response::Status(Status {
            position: given.position.clone(),
            workers: 1,
            pid: std::process::id(),
            ..Status::default()
        })),
        Request::Ports => {
            let report = |(device, _): &(PortDevice, Vec<OwnedFd>)| message::PortReport {
                device: device.clone(),
                live: true,
                gone: false,
                rx_frames: 0,
                rx_bytes: 0,
                tx_frames: 0,
                tx_bytes: 0,
                drops: Vec::new(),
                device_drops: Vec::new(),
            };
            plain(Response::Ports(given.ports.iter().map(report).collect()))
        }
        other => panic!("{other:?}"),
    }
}

fn hands(dir: &Path) -> Hands {
    let (events, _) = tokio::sync::mpsc::channel(8);
    let control = dir.join("vswitch.sock");
    let config = Config {
        host: "h1".into(),
        controller: "http://127.0.0.1:1".into(),
        security: Security::Insecure,
        state_dir: dir.to_owned(),
        control: control.clone(),
        underlay: [127, 0, 0, 1].into(),
        udp_port: 4789,
        workers: 1,
        spin_us: None,
        rung: None,
        vswitch: vec!["/bin/false".into()],
    };
    let keeper = Keeper {
        control,
        command: config.vswitch.clone(),
        workers: 1,
        spin_us: None,
        instance: "agent-1".into(),
        build: String::new(),
        events,
    };
    Hands::new(config, keeper, 7)
}

fn started(done: Done) -> Started {
    match done {
        Done::Started(Ok(started)) => started,
        other => panic!("{other:?}"),
    }
}

fn request(netns: &Path, mtu: u16) -> Work {
    let place = Place::Tap { netns: Some(netns.to_owned()), ifname: "eth0".into() };
    Work::Open(PortRequest { id: PortId(3), name: "red/a".into(), place, mac: MacAddr([2, 0, 0, 0, 0, 5]), mtu })
}

/// Runs a test in a network namespace of its own, with a guest's beside it.
fn on_a_host(test: impl FnOnce(&Path, &Path, &OwnedFd) + Send) {
    if !process::holds(process::Capability::SysAdmin) {
        eprintln!("SKIPPED: needs CAP_SYS_ADMIN");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest");
    let guest = netns::create_at(&path).unwrap();
    let host = netns::create().unwrap();
    netns::in_namespace(host.as_fd(), || test(dir.path(), &path, &guest)).unwrap();
    netns::delete_at(&path).unwrap();
}

fn guest_link(guest: &OwnedFd) -> Option<(u32, u32)> {
    let look = || Netlink::open().unwrap().link("eth0").unwrap().map(|link| (link.index, link.mtu));
    netns::in_namespace(guest.as_fd(), look).unwrap()
}

#[test]
fn a_guests_device_outlives_the_vswitch_and_the_next_one_gets_it() {
    on_a_host(|dir, path, guest| {
        let socket = dir.join("vswitch.sock");
        let mut hands = hands(dir);
        let first = Vswitch::start(&socket, "v1");
        assert_eq!(started(hands.work(Work::StartVswitch)).instance, "v1");
        assert!(matches!(hands.work(request(path, 1400)), Done::Opened { result: Ok(_), .. }));
        assert!(matches!(hands.work(Work::OpenUnderlay), Done::Underlay(Ok(_))));
        let before = guest_link(guest).unwrap();
        first.die();
        assert_eq!(guest_link(guest), Some(before));
        let second = Vswitch::start(&socket, "v2");
        let up = started(hands.work(Work::StartVswitch));
        assert_eq!((up.instance.as_str(), up.ports.len(), up.underlay.is_some()), ("v2", 1, true));
        assert_eq!(second.given.lock().unwrap().ports.len(), 1);
        assert_eq!(guest_link(guest), Some(before), "it is the same device");
        hands.work(Work::Close(PortId(3)));
        assert!(guest_link(guest).is_none());
    });
}

#[test]
fn a_successor_gets_duplicates_of_everything_and_opens_nothing() {
    on_a_host(|dir, path, guest| {
        let vswitch = Vswitch::start(&dir.join("vswitch.sock"), "v1");
        let mut first = hands(dir);
        started(first.work(Work::StartVswitch));
        first.work(request(path, 1400));
        first.work(Work::OpenUnderlay);
        let position = Position { store_id: "s".into(), generation: 4, digest: "d".into() };
        first.work(Work::Apply(Box::new(Bundle { position: position.clone(), ..Bundle::default() })));
        drop(first);
        let before = guest_link(guest).unwrap();
        let mut successor = hands(dir);
        let up = started(successor.work(Work::StartVswitch));
        assert_eq!((up.instance.as_str(), &up.position, up.ports[0].live), ("v1", &position, true));
        assert_eq!((up.ports[0].device.name.as_str(), up.underlay.is_some()), ("red/a", true));
        vswitch.die();
        assert_eq!(guest_link(guest), Some(before), "the successor holds it now");
    });
}

#[test]
fn another_mtu_reaches_guest_and_vswitch_with_the_device_in_place() {
    on_a_host(|dir, path, guest| {
        let vswitch = Vswitch::start(&dir.join("vswitch.sock"), "v1");
        let mut hands = hands(dir);
        started(hands.work(Work::StartVswitch));
        hands.work(request(path, 1400));
        let (index, _) = guest_link(guest).unwrap();
        assert!(matches!(hands.work(request(path, 1300)), Done::Opened { result: Ok(_), .. }));
        assert_eq!(guest_link(guest), Some((index, 1300)));
        let given = vswitch.given.lock().unwrap();
        assert_eq!((given.ports.len(), given.ports[0].0.mtu), (1, 1300));
    });
}

#[test]
fn a_later_mtu_of_the_uplink_reaches_the_vswitch_and_its_trouble_is_told() {
    on_a_host(|dir, _, _| {
        let vswitch = Vswitch::start(&dir.join("vswitch.sock"), "v1");
        let mut hands = hands(dir);
        started(hands.work(Work::StartVswitch));
        hands.work(Work::OpenUnderlay);
        let poll = |hands: &mut Hands| match hands.work(Work::Poll) {
            Done::Polled(Ok(polled)) => (polled.underlay_mtu, polled.underlay_problem),
            other => panic!("{other:?}"),
        };
        assert_eq!(poll(&mut hands), (Some(u16::MAX), String::new()));
        let mut netlink = Netlink::open().unwrap();
        netlink.set_mtu("lo", 1500).unwrap();
        assert_eq!(poll(&mut hands), (Some(1500), String::new()));
        assert_eq!(vswitch.given.lock().unwrap().underlay.as_ref().unwrap().0.mtu, 1500);
        netlink.set_down("lo").unwrap();
        assert!(poll(&mut hands).1.contains("is down"));
        netlink.set_mtu("lo", 1600).unwrap();
        netlink.set_up("lo").unwrap();
        assert_eq!(poll(&mut hands), (Some(1600), String::new()));
        assert_eq!(poll(&mut hands), (Some(1600), String::new()));
        let mut successor = self::hands(dir);
        drop(hands);
        netlink.set_mtu("lo", 1700).unwrap();
        assert_eq!(started(successor.work(Work::StartVswitch)).underlay.unwrap().mtu, 1600);
        assert_eq!(poll(&mut successor).0, Some(1700), "what changed while no agent was there");
    });
}

#[test]
fn a_vswitch_that_ends_at_once_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let Done::Started(Err(why)) = hands(dir.path()).work(Work::StartVswitch) else { panic!() };
    assert!(why.contains("ended at once"), "{why}");
}

#[test]
fn without_a_vswitch_work_is_lost_and_not_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut hands = hands(dir.path());
    assert!(matches!(hands.work(Work::Apply(Box::default())), Done::Applied(Err(NotApplied::Lost(_)))));
    assert!(matches!(hands.work(Work::Poll), Done::Polled(Err(_))));
}
