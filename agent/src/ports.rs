//! The host's ports: what each should be, what device it has, and whether it lives.
//!
//! One port never waits for another: a missing namespace is tried again every second and at each update. A new port is dark
//! until the controller says that the other hosts have its policy, or until a second after its own host has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use weft_api::wire::proto::{self, PortState, PortStatus, attach};
use weft_api::wire::{HostProgram, item, mac_from_bytes};
use weft_program::message::PortDevice;
use weft_program::{MacAddr, PortId};

use crate::lower::Names;
use crate::work::{AttachedPort, NotOpened, Place, PortRequest, Work};

/// How long a port may stay dark when nobody says that it may go live.
pub const DARK_MAX: Duration = Duration::from_secs(1);
/// How often a device that is not there is looked for.
pub const RETRY: Duration = Duration::from_secs(1);
/// Devices that are opened or closed at the same time.
pub const UNDER_WAY_MAX: usize = 64;

/// All ports of the host.
#[derive(Debug, Default)]
pub struct Ports {
    ports: BTreeMap<PortId, Port>,
    under_way: usize,
}

#[derive(Debug)]
struct Port {
    name: String,
    /// `None` once the program does not have it any more.
    want: Option<PortRequest>,
    device: Device,
    /// What it was attached to before a change of it failed: the hands may still hold that.
    held: Option<PortRequest>,
    live: bool,
    /// Generation of the program that it first came in.
    since: u64,
    /// When it goes live by itself; set once its program is in force.
    live_at: Option<Instant>,
}

#[derive(Debug)]
enum Device {
    Absent { retry_at: Option<Instant>, state: PortState, why: String },
    Opening,
    Attached(PortRequest),
    Closing,
}

impl Device {
    fn untried(now: Instant) -> Self {
        Self::Absent { retry_at: Some(now), state: PortState::Dark, why: "its device is about to be opened".into() }
    }
}

impl Ports {
    /// Follows an accepted program: new ports are dark, those that are no more lose their device.
    pub fn follow(&mut self, program: &HostProgram, names: &Names, generation: u64, now: Instant) {
        let mut wanted: BTreeMap<PortId, PortRequest> =
            requests(program, names).map(|request| (request.id, request)).collect();
        for (id, port) in &mut self.ports {
            port.want = wanted.remove(id);
            if let Some(want) = port.want.as_ref().filter(|want| want.name != port.name) {
                // The number went around and stands for another port now.
                (port.name, port.live, port.live_at, port.since) = (want.name.clone(), false, None, generation);
            }
            if let Device::Absent { retry_at, .. } = &mut port.device {
                *retry_at = Some(now);
            }
        }
        for (id, request) in wanted {
            let device = Device::untried(now);
            let name = request.name.clone();
            let port =
                Port { name, want: Some(request), device, held: None, live: false, since: generation, live_at: None };
            self.ports.insert(id, port);
        }
        self.sweep();
    }

    /// The program is in force from now on: dark ports go live in [`DARK_MAX`], if nobody says so earlier.
    pub fn in_force(&mut self, now: Instant) {
        for port in self.ports.values_mut().filter(|p| !p.live && p.live_at.is_none()) {
            port.live_at = Some(now + DARK_MAX);
        }
    }

    /// Ports up to this generation may go live.
    pub fn open(&mut self, generation: u64, now: Instant) {
        for port in self.ports.values_mut().filter(|p| !p.live && p.since <= generation) {
            if let Some(at) = &mut port.live_at {
                *at = now;
            }
        }
    }

    /// Makes those live whose time has come; whether there were any.
    pub fn light_up(&mut self, now: Instant) -> bool {
        let mut any = false;
        for port in self.ports.values_mut().filter(|p| !p.live && p.live_at.is_some_and(|at| at <= now)) {
            (port.live, port.live_at) = (true, None);
            any = true;
        }
        any
    }

    /// Marks ports as live, as they were before a restart.
    pub fn restore_live(&mut self, names: &BTreeSet<String>) {
        for port in self.ports.values_mut().filter(|p| names.contains(&p.name)) {
            port.live = true;
        }
    }

    /// A vswitch runs, with these ports attached.
    pub fn vswitch_has(&mut self, attached: &[AttachedPort], now: Instant) {
        for (id, port) in &mut self.ports {
            if matches!(port.device, Device::Opening | Device::Closing) {
                continue;
            }
            let found = attached.iter().find(|a| a.device.id == *id);
            port.live |= found.is_some_and(|a| a.live && port.want.is_some());
            let fits = found.zip(port.want.as_ref()).filter(|(a, want)| is_as_wanted(&a.device, want));
            port.device = match (fits, found) {
                (Some((_, want)), _) => Device::Attached(want.clone()),
                (None, Some(a)) => Device::Attached(as_found(&a.device)),
                (None, None) => Device::untried(now),
            };
        }
        for device in attached.iter().map(|a| &a.device).filter(|d| !self.ports.contains_key(&d.id)).collect::<Vec<_>>()
        {
            let found = Device::Attached(as_found(device));
            let name = device.name.clone();
            let port = Port { name, want: None, device: found, held: None, live: false, since: 0, live_at: None };
            self.ports.insert(device.id, port);
        }
        self.sweep();
    }

    /// The device of a port is gone.
    pub fn gone(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(&id)
            && let Device::Attached(at) = &mut port.device
        {
            // A request that nothing is like: the device is closed and opened anew.
            at.name.clear();
            at.place = Place::Netdev { ifname: String::new() };
        }
    }

    /// What is to be done now, at most as much as may be under way.
    pub fn work(&mut self, now: Instant) -> Vec<Work> {
        let mut work = Vec::new();
        for (id, port) in &mut self.ports {
            if self.under_way == UNDER_WAY_MAX {
                break;
            }
            match (&port.device, &port.want) {
                // A change failed, and now it is wanted elsewhere or nowhere: what is held of it must not stay.
                (Device::Absent { .. }, want)
                    if port.held.as_ref().is_some_and(|h| want.as_ref().is_none_or(|w| w.place != h.place)) =>
                {
                    work.push(Work::Close(*id));
                    port.device = Device::Closing;
                }
                (Device::Absent { retry_at: Some(at), .. }, Some(want)) if *at <= now => {
                    work.push(Work::Open(want.clone()));
                    port.device = Device::Opening;
                }
                // Another MTU or MAC address: the same device is changed, and keeps the guest's addresses.
                (Device::Attached(have), Some(want)) if have != want && have.place == want.place => {
                    work.push(Work::Open(want.clone()));
                    port.held = Some(have.clone());
                    port.device = Device::Opening;
                }
                (Device::Attached(have), want) if want.as_ref() != Some(have) => {
                    work.push(Work::Close(*id));
                    port.device = Device::Closing;
                }
                _ => continue,
            }
            self.under_way += 1;
        }
        work
    }

    /// A device was opened, or was not.
    pub fn opened(&mut self, request: PortId, result: Result<PortDevice, NotOpened>, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        let Some(port) = self.ports.get_mut(&request) else { return };
        port.held.take_if(|_| result.is_ok());
        port.device = match result {
            Ok(device) => match port.want.as_ref().filter(|want| is_as_wanted(&device, want)) {
                Some(want) => Device::Attached(want.clone()),
                None => Device::Attached(as_found(&device)),
            },
            Err(NotOpened::Waiting(why)) => {
                Device::Absent { retry_at: Some(now + RETRY), state: PortState::Waiting, why }
            }
            Err(NotOpened::Failed(why)) => {
                Device::Absent { retry_at: Some(now + RETRY), state: PortState::Failed, why }
            }
            // The next vswitch brings it up again.
            Err(NotOpened::Lost(why)) => Device::Absent { retry_at: None, state: PortState::Dark, why },
        };
        self.sweep();
    }

    /// A device was let go.
    pub fn closed(&mut self, id: PortId, now: Instant) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(port) = self.ports.get_mut(&id) {
            (port.device, port.held) = (Device::untried(now), None);
        }
        self.sweep();
    }

    /// When something is to be done next.
    pub fn next_wake(&self) -> Option<Instant> {
        let retries = self.ports.values().filter_map(|p| match &p.device {
            Device::Absent { retry_at, .. } if p.want.is_some() => *retry_at,
            _ => None,
        });
        retries.chain(self.ports.values().filter_map(|p| p.live_at)).min()
    }

    /// Whether the port lives.
    pub fn is_live(&self, id: PortId) -> bool {
        self.ports.get(&id).is_some_and(|p| p.live)
    }

    /// The names of those that live.
    pub fn live(&self) -> BTreeSet<String> {
        self.ports.values().filter(|p| p.live).map(|p| p.name.clone()).collect()
    }

    /// What the controller is told. Dark ports are on their way; those that wait need somebody to do something.
    pub fn status(&self, has_vswitch: bool) -> Vec<PortStatus> {
        let wanted = self.ports.values().filter(|p| p.want.is_some());
        wanted
            .map(|port| {
                let (state, reason) = match (&port.device, port.live) {
                    (Device::Absent { state, why, .. }, _) => (*state, why.clone()),
                    (Device::Opening | Device::Closing, _) => (PortState::Dark, "its device is being opened".into()),
                    (Device::Attached(_), _) if !has_vswitch => {
                        (PortState::Dark, "its host has no vswitch at the moment".into())
                    }
                    (Device::Attached(_), true) => (PortState::Live, String::new()),
                    (Device::Attached(_), false) => {
                        (PortState::Dark, "the other hosts of its network do not all have its policy yet".into())
                    }
                };
                PortStatus { name: port.name.clone(), state: state.into(), reason }
            })
            .collect()
    }

    fn sweep(&mut self) {
        self.ports.retain(|_, p| p.want.is_some() || p.held.is_some() || !matches!(p.device, Device::Absent { .. }));
    }
}

fn requests<'a>(program: &'a HostProgram, names: &'a Names) -> impl Iterator<Item = PortRequest> + 'a {
    let segments: BTreeMap<u32, u16> = program
        .kinds()
        .filter_map(|kind| match kind {
            item::Kind::Segment(s) => Some((s.id, u16::try_from(s.mtu).unwrap_or(u16::MAX))),
            _ => None,
        })
        .collect();
    program.kinds().filter_map(move |kind| {
        let item::Kind::Port(port) = kind else { return None };
        Some(PortRequest {
            id: names.known_port(&port.name)?,
            name: port.name.clone(),
            place: place(port)?,
            mac: mac_from_bytes(&port.mac).ok()?,
            mtu: *segments.get(&port.segment)?,
        })
    })
}

fn place(port: &proto::Port) -> Option<Place> {
    match port.attach.as_ref()?.kind.as_ref()? {
        attach::Kind::Tap(tap) => {
            let netns = match tap.netns.as_str() {
                "" => None,
                path if path.contains('/') => Some(PathBuf::from(path)),
                name => Some(PathBuf::from(NETNS_DIR).join(name)),
            };
            Some(Place::Tap { netns, ifname: tap.ifname.clone() })
        }
        attach::Kind::Netdev(netdev) => Some(Place::Netdev { ifname: netdev.name.clone() }),
    }
}

/// The MAC address is not compared: a vswitch does not know it, and nobody but us sets it.
fn is_as_wanted(device: &PortDevice, want: &PortRequest) -> bool {
    let netdev = matches!(want.place, Place::Netdev { .. });
    let same_place = device.netns == want.place.netns_text() && device.ifname == want.place.ifname();
    same_place && device.name == want.name && (netdev || device.mtu == want.mtu)
}

fn as_found(device: &PortDevice) -> PortRequest {
    let netns = (!device.netns.is_empty()).then(|| PathBuf::from(&device.netns));
    let ifname = device.ifname.clone();
    let place = match device.kind {
        weft_program::message::PortKind::Tap => Place::Tap { netns, ifname },
        weft_program::message::PortKind::Netdev | weft_program::message::PortKind::Memory => Place::Netdev { ifname },
    };
    PortRequest { id: device.id, name: device.name.clone(), place, mac: MacAddr::ZERO, mtu: device.mtu }
}

const NETNS_DIR: &str = "/run/netns";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::lower;
    use crate::testing::{a_port, a_segment, device, program};

    fn a_host(names: &[&str]) -> (Ports, Names, Instant) {
        let (mut ports, mut known, now) = (Ports::default(), Names::default(), Instant::now());
        follow(&mut ports, &mut known, names, 1, now);
        (ports, known, now)
    }

    fn follow(ports: &mut Ports, known: &mut Names, names: &[&str], generation: u64, now: Instant) {
        let mut items = vec![a_segment(1)];
        items.extend(names.iter().map(|name| a_port(name, 1)));
        let host = program(&items);
        lower(&host, known).unwrap();
        ports.follow(&host, known, generation, now);
    }

    fn opened(ports: &mut Ports, now: Instant) -> Vec<PortRequest> {
        let requests: Vec<_> = ports
            .work(now)
            .into_iter()
            .map(|work| match work {
                Work::Open(request) => request,
                other => panic!("{other:?}"),
            })
            .collect();
        for request in &requests {
            ports.opened(request.id, Ok(device(request)), now);
        }
        requests
    }

    fn states(ports: &Ports) -> Vec<PortState> {
        ports.status(true).iter().map(|s| s.state()).collect()
    }

    #[test]
    fn a_port_is_dark_until_it_is_opened_by_the_controller_or_by_time() {
        let (mut ports, _, now) = a_host(&["red/a"]);
        opened(&mut ports, now);
        ports.open(1, now);
        assert!(!ports.light_up(now + DARK_MAX), "its program is not in force yet");
        ports.in_force(now);
        assert!(!ports.light_up(now));
        ports.open(0, now);
        assert!(!ports.light_up(now), "an earlier generation says nothing about it");
        assert_eq!(states(&ports), [PortState::Dark]);
        assert!(ports.light_up(now + DARK_MAX));
        assert_eq!(states(&ports), [PortState::Live]);

        let (mut ports, _, now) = a_host(&["red/a"]);
        ports.in_force(now);
        ports.open(1, now);
        assert!(ports.light_up(now));
    }

    #[test]
    fn a_missing_namespace_is_tried_again_in_a_second_and_at_an_update() {
        let (mut ports, mut names, now) = a_host(&["red/a", "red/b"]);
        let work = ports.work(now);
        assert_eq!(work.len(), 2);
        let Work::Open(first) = &work[0] else { panic!() };
        let Work::Open(second) = &work[1] else { panic!() };
        ports.opened(first.id, Err(NotOpened::Waiting("no namespace guest".into())), now);
        ports.opened(second.id, Ok(device(second)), now);
        assert_eq!(states(&ports), [PortState::Waiting, PortState::Dark], "the other port does not wait");
        assert_eq!(ports.status(true)[0].reason, "no namespace guest");
        assert!(ports.work(now + RETRY / 2).is_empty());
        assert_eq!(ports.next_wake(), Some(now + RETRY));
        follow(&mut ports, &mut names, &["red/a", "red/b"], 2, now);
        assert_eq!(opened(&mut ports, now), std::slice::from_ref(first));
    }

    #[test]
    fn a_port_that_is_no_more_is_closed_and_forgotten() {
        let (mut ports, mut names, now) = a_host(&["red/a"]);
        let id = opened(&mut ports, now)[0].id;
        follow(&mut ports, &mut names, &[], 2, now);
        assert!(matches!(ports.work(now)[..], [Work::Close(closed)] if closed == id));
        ports.closed(id, now);
        assert!(ports.status(true).is_empty() && ports.ports.is_empty());
    }

    #[test]
    fn a_gone_device_is_closed_and_opened_anew() {
        let (mut ports, _, now) = a_host(&["red/a"]);
        let request = opened(&mut ports, now).remove(0);
        ports.gone(request.id);
        assert!(matches!(ports.work(now)[..], [Work::Close(_)]));
        ports.closed(request.id, now);
        assert_eq!(opened(&mut ports, now), [request]);
    }

    #[test]
    fn another_mtu_changes_the_device_in_place() {
        let (mut ports, names, now) = a_host(&["red/a"]);
        opened(&mut ports, now);
        let segment = proto::Segment { id: 1, vni: 1, mtu: 1400, domain: 1, owner: String::new() };
        ports.follow(&program(&[segment.into(), a_port("red/a", 1)]), &names, 2, now);
        let requests = opened(&mut ports, now);
        assert_eq!(requests[0].mtu, 1400);
        assert!(ports.work(now).is_empty());
    }

    #[test]
    fn a_device_whose_change_failed_is_closed_when_nobody_wants_it_any_more() {
        let (mut ports, mut names, now) = a_host(&["red/a"]);
        let id = opened(&mut ports, now)[0].id;
        let segment = proto::Segment { id: 1, vni: 1, mtu: 1400, domain: 1, owner: String::new() };
        ports.follow(&program(&[segment.into(), a_port("red/a", 1)]), &names, 2, now);
        assert!(matches!(ports.work(now)[..], [Work::Open(_)]));
        ports.opened(id, Err(NotOpened::Failed("no permission".into())), now);
        follow(&mut ports, &mut names, &[], 3, now);
        assert!(matches!(ports.work(now)[..], [Work::Close(closed)] if closed == id));
        ports.closed(id, now);
        assert!(ports.ports.is_empty());
    }

    #[test]
    fn what_a_vswitch_has_is_kept_when_it_fits_and_closed_when_nobody_wants_it() {
        let (mut ports, names, now) = a_host(&["red/a"]);
        let id = names.known_port("red/a").unwrap();
        let want = ports.ports[&id].want.clone().unwrap();
        let stranger = PortDevice { id: PortId(99), name: "red/z".into(), ..device(&want) };
        let attached =
            [AttachedPort { device: device(&want), live: true }, AttachedPort { device: stranger, live: true }];
        ports.vswitch_has(&attached, now);
        assert_eq!(states(&ports), [PortState::Live]);
        assert!(matches!(ports.work(now)[..], [Work::Close(PortId(99))]));
        ports.closed(PortId(99), now);
        ports.vswitch_has(&[], now);
        assert_eq!(opened(&mut ports, now).len(), 1, "a new vswitch without it gets it again");
        assert!(ports.is_live(id));
    }

    #[test]
    fn the_number_of_devices_under_way_is_bounded() {
        let names: Vec<String> = (0..100).map(|n| format!("red/p{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (mut ports, _, now) = a_host(&names);
        assert_eq!(opened(&mut ports, now).len(), UNDER_WAY_MAX);
        assert_eq!(opened(&mut ports, now).len(), 100 - UNDER_WAY_MAX);
        assert!(ports.work(now).is_empty());
    }
}
