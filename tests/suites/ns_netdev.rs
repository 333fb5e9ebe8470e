//! Ports on devices of somebody else: a veth, and a TAP that a foreign program owns as QEMU does.
//!
//! The foreign program is this test: `tun-tap` opens the device, `smoltcp` is the guest behind it. Neither knows Weft.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use etherparse::{PacketBuilder, VlanId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Since;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};
use tun_tap::{Iface, Mode};
use weft_tests::lab::{Lab, Setup, topology};
use weft_tests::may_run;
use weft_tests::traffic::{self, PORT};

const BYTES: u64 = 2_000_000;
const PATIENCE: Duration = Duration::from_secs(60);
const QEMU_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

fn port(name: &str, device: &str, last: u8, mac: [u8; 6]) -> Value {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    json!({"kind": "Port", "tenant": "red", "name": name, "spec": {
        "network": "blue", "host": "h1", "mac": mac, "addresses": [format!("10.9.0.{last}")],
        "attach": {"netdev": {"name": device}},
    }})
}

fn delete(lab: &Lab, name: &str) {
    let output = lab.try_weft(&["delete", "port", name, "--tenant", "red"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the host's own stack does on a device.
fn settings(lab: &Lab, device: &str) -> (String, bool, String) {
    let ipv6 = lab.exec("h1", &["cat", &format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6")]);
    let link = lab.exec("h1", &["ip", "-d", "-o", "link", "show", device]);
    let promiscuity = link.split("promiscuity ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("?");
    (ipv6.trim().to_owned(), link.contains("NOARP"), promiscuity.to_owned())
}

#[test]
fn a_veth_port_carries_tcp_and_its_settings_are_put_back() {
    if !may_run() {
        return;
    }
    let mut topology = topology("two-hosts.yaml");
    let guest = json!({"name": "v", "host": "h1", "ports": [
        {"ifname": "eth0", "veth": "vport", "mac": "02:00:00:00:00:11", "addresses": ["10.9.0.17/24"]},
    ]});
    topology["guests"].as_array_mut().expect("a topology has guests").push(guest);
    let lab = Lab::up(&topology, Setup::DEFAULT);
    let before = settings(&lab, "vport");
    assert_eq!((before.0.as_str(), before.1), ("0", false), "{before:?}");
    lab.apply(&[port("v", "vport", 17, [2, 0, 0, 0, 0, 0x11])]);
    lab.until_ping("v", "10.9.0.2");
    let held = settings(&lab, "vport");
    assert_eq!((held.0.as_str(), held.1), ("1", true), "the host is silent on it: {held:?}");
    for (other, address) in [("b", "10.9.0.2"), ("a", "10.9.0.1")] {
        traffic::tcp(&lab, "v", other, address, BYTES);
        traffic::tcp(&lab, other, "v", "10.9.0.17", BYTES);
    }
    delete(&lab, "v");
    lab.until(Duration::from_secs(10), "the device is as before", |lab| settings(lab, "vport") == before);
}

#[test]
fn a_tap_of_a_foreign_program_carries_tcp_and_no_vlan_tags() {
    if !may_run() {
        return;
    }
    let lab = Lab::up(&topology("two-hosts.yaml"), Setup::DEFAULT);
    let tap = foreign_tap(&lab, "qemu0");
    lab.exec("h1", &["ip", "link", "set", "qemu0", "up"]);
    let before = settings(&lab, "qemu0");
    lab.apply(&[port("q", "qemu0", 34, QEMU_MAC)]);
    let mut guest = Guest::new(tap);

    let sink = traffic::sink(&lab, "b", &["tcp-sink", PORT]);
    let sent = guest.send_to(IpAddress::v4(10, 9, 0, 2), BYTES as usize);
    assert_eq!(sink.finish(), [BYTES.to_string(), sent], "to b");

    let path = weft_tests::lab::program("weft-test-traffic").display().to_string();
    let address = traffic::socket("10.9.0.34");
    let source = lab.spawn("b", &[&path, "tcp-source", &address, &BYTES.to_string()]);
    let received = guest.receive(BYTES as usize);
    let output = source.wait_with_output().expect("the source ends");
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(printed, format!("{BYTES} {received}"), "from b");

    let count = |lab: &Lab| lab.drops("h1").get("VlanNotAllowed").copied().unwrap_or(0);
    assert_eq!(count(&lab), 0);
    (0..5).for_each(|_| guest.send_tagged());
    lab.until(Duration::from_secs(5), "five drops as VlanNotAllowed", |lab| count(lab) == 5);

    delete(&lab, "q");
    lab.until(Duration::from_secs(10), "the device is as before", |lab| settings(lab, "qemu0") == before);
}

/// Opens a TAP in the namespace of h1, as its QEMU would.
fn foreign_tap(lab: &Lab, name: &str) -> Iface {
    let netns = PathBuf::from(format!("/run/netns/weft-{}-h1", lab.name()));
    let netns = File::open(&netns).unwrap_or_else(|why| panic!("{}: {why}", netns.display()));
    let open = || Iface::without_packet_info(name, Mode::Tap);
    let tap = weft_sys::netns::in_namespace(netns.as_fd(), open).expect("root enters a namespace");
    let tap = tap.expect("root makes a TAP");
    tap.set_non_blocking().expect("a TAP can be polled");
    tap
}

/// A guest behind a TAP.
struct Guest {
    tap: Tap,
    interface: Interface,
    begin: Instant,
}

struct Tap(Iface);
struct Received(Vec<u8>);
struct Sending<'a>(&'a Iface);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        // A full device loses a frame, as any would.
        let _ = self.0.send(&frame);
        result
    }
}

impl Device for Tap {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Since) -> Option<(Received, Sending<'_>)> {
        let mut buffer = vec![0; 2048];
        let len = self.0.recv(&mut buffer).ok()?;
        buffer.truncate(len);
        Some((Received(buffer), Sending(&self.0)))
    }

    fn transmit(&mut self, _: Since) -> Option<Sending<'_>> {
        Some(Sending(&self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl Guest {
    fn new(tap: Iface) -> Self {
        let mut tap = Tap(tap);
        let config = Config::new(EthernetAddress(QEMU_MAC).into());
        let mut interface = Interface::new(config, &mut tap, Since::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::v4(10, 9, 0, 34), 24)).expect("room for one");
        });
        Self { tap, interface, begin: Instant::now() }
    }

    /// Runs one connection until `done` says so.
    fn run(
        &mut self,
        mut socket: tcp::Socket<'static>,
        connect: Option<IpAddress>,
        done: impl FnMut(&mut tcp::Socket<'_>) -> bool,
    ) {
        let mut done = done;
        let port: u16 = PORT.parse().expect("a port is a number");
        match connect {
            Some(to) => socket.connect(self.interface.context(), (to, port), 50_000).expect("it is closed"),
            None => socket.listen(port).expect("it is closed"),
        }
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        let end = Instant::now() + PATIENCE;
        loop {
            let now = Since::from_micros(self.begin.elapsed().as_micros() as i64);
            self.interface.poll(now, &mut self.tap, &mut sockets);
            if done(sockets.get_mut(handle)) {
                return;
            }
            assert!(
                Instant::now() < end,
                "no end within {PATIENCE:?}: {:?}",
                sockets.get_mut::<tcp::Socket<'_>>(handle).state()
            );
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Sends so many bytes and closes; their hash.
    fn send_to(&mut self, to: IpAddress, bytes: usize) -> String {
        let payload: Vec<u8> = (0..bytes).map(|index| (index * 31 + index / 251) as u8).collect();
        let mut sent = 0;
        self.run(socket(), Some(to), |socket| {
            if socket.can_send() && sent < bytes {
                sent += socket.send_slice(&payload[sent..]).expect("it is open");
            }
            if sent == bytes {
                socket.close();
            }
            sent == bytes && !socket.is_active() || socket.state() == tcp::State::TimeWait
        });
        hex(&Sha256::digest(&payload))
    }

    /// Accepts a connection and receives so many bytes; their hash.
    fn receive(&mut self, bytes: usize) -> String {
        let mut received = Vec::new();
        self.run(socket(), None, |socket| {
            while socket.can_recv() {
                received.extend(socket.recv(|part| (part.len(), part.to_vec())).expect("there is something"));
            }
            if received.len() == bytes {
                socket.close();
            }
            received.len() == bytes && !socket.is_active() || socket.state() == tcp::State::TimeWait
        });
        hex(&Sha256::digest(&received))
    }

    fn send_tagged(&mut self) {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(QEMU_MAC, [2, 0, 0, 0, 0, 2])
            .single_vlan(VlanId::try_new(7).expect("7 is a VLAN"))
            .ipv4([10, 9, 0, 34], [10, 9, 0, 2], 64)
            .udp(1111, 2222)
            .write(&mut frame, b"tagged")
            .expect("a frame fits into memory");
        self.tap.0.send(&frame).expect("the device takes it");
    }
}

fn socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
    tcp::Socket::new(buffer(), buffer())
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
