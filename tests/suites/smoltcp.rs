//! Guests with a TCP/IP stack that is not Linux's: two `smoltcp` hosts, on one vswitch and on two, in virtual time.
//!
//! With and without offloads (`smoltcp` hands over TCP super-frames and partial checksums as a TAP guest does), over
//! IPv4 and IPv6, over an underlay that loses frames by seed. What arrives is compared by hash, and ledgers balance.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Virtual;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};
use weft_packet::{Csum, FramePool, Gso, GsoKind, Layout, Offload};
use weft_program::message::{Offloads, Rung};
use weft_tests::sim::Random;
use weft_tests::sim::fabric::{Fabric, Make};
use weft_tests::sim::guest::as_sent;
use weft_vswitch::port::MemoryEnd;

const BYTES: usize = 300_000;
/// Virtual time that a transfer may take; with losses it waits for timeouts of a second and more.
const PATIENCE: Duration = Duration::from_secs(300);
const FRAME_LEN_MAX: usize = 1514;
/// As Linux' `gso_max_size`, roughly.
const SUPER_FRAME_LEN_MAX: usize = 60_000;
const ALL: Offloads = Offloads { csum: true, tso: true, tso_ecn: true, uso: true };

/// `a` and `c` on h1, `b` on h2.
const MANIFEST: &str = r#"
- {kind: Tenant, name: red, spec: {}}
- {kind: Network, tenant: red, name: blue, spec: {vni: 42, mtu: 1500}}
- {kind: Subnet, tenant: red, name: v4, spec: {network: blue, cidr: 10.9.0.0/24}}
- {kind: Subnet, tenant: red, name: v6, spec: {network: blue, cidr: "fd09::/64"}}
- {kind: Host, name: h1, spec: {kind: weft, address: 192.0.2.1, mtu: 1600}}
- {kind: Host, name: h2, spec: {kind: weft, address: 192.0.2.2, mtu: 1600}}
- {kind: Port, tenant: red, name: a, spec: {network: blue, host: h1, mac: "02:00:00:00:00:01", addresses: [10.9.0.1, "fd09::1"], attach: {tap: {ifname: a}}}}
- {kind: Port, tenant: red, name: b, spec: {network: blue, host: h2, mac: "02:00:00:00:00:02", addresses: [10.9.0.2, "fd09::2"], attach: {tap: {ifname: b}}}}
- {kind: Port, tenant: red, name: c, spec: {network: blue, host: h1, mac: "02:00:00:00:00:03", addresses: [10.9.0.3, "fd09::3"], attach: {tap: {ifname: c}}}}
"#;

/// A memory port as `smoltcp` sees it.
struct Nic {
    end: MemoryEnd,
    received: VecDeque<Vec<u8>>,
    pool: FramePool,
    /// Whether super-frames and partial checksums are ours to send.
    offloads: bool,
    super_frames: usize,
}

struct Received(Vec<u8>);

struct Sending<'a> {
    nic: &'a mut Nic,
    gso_size: Option<u16>,
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        let offload = if self.nic.offloads { as_a_tap(&mut frame, self.gso_size) } else { Offload::default() };
        self.nic.super_frames += usize::from(offload.gso.is_some());
        // A full queue is a loss like any other.
        self.nic.end.push(&frame, offload);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.gso_size = meta.segmentation_offload_size.map(Into::into);
    }
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Virtual) -> Option<(Received, Sending<'_>)> {
        while let Some((bytes, offload)) = self.end.pop() {
            self.received.extend(as_sent(&mut self.pool, &bytes, offload));
        }
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending { nic: self, gso_size: None }))
    }

    fn transmit(&mut self, _: Virtual) -> Option<Sending<'_>> {
        Some(Sending { nic: self, gso_size: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_LEN_MAX;
        if self.offloads {
            capabilities.checksum.tcp = Checksum::Rx;
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(SUPER_FRAME_LEN_MAX);
            // Not over IPv6: this `smoltcp` takes its own super-frames for too long there and drops them.
        }
        capabilities
    }
}

/// The offload state of a frame whose TCP checksum was left to us: the pseudo-header's sum is put in place of it.
fn as_a_tap(frame: &mut [u8], gso_size: Option<u16>) -> Offload {
    let Some(layout) = Layout::of(frame).filter(Layout::is_tcp) else { return Offload::default() };
    let (start, offset) = (layout.l4 as u16, layout.check_offset().expect("TCP has a checksum") as u16);
    let sum = layout.pseudo(frame, frame.len() - layout.l4).fold();
    frame[usize::from(start + offset)..][..2].copy_from_slice(&sum.to_be_bytes());
    let kind = if frame[12..14] == [0x08, 0x00] { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
    let gso = gso_size.map(|size| Gso { kind, size, ecn: false });
    Offload { csum: Csum::Partial { start, offset }, gso }
}

/// A host with one socket.
struct Host {
    nic: Nic,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Host {
    fn new(fabric: &Fabric, port: &str, last: u8, offloads: bool) -> Self {
        let pool = FramePool::new(256);
        let end = fabric.guest(&format!("red/{port}"));
        let mut nic = Nic { end, received: VecDeque::new(), pool, offloads, super_frames: 0 };
        let mut config = Config::new(EthernetAddress([2, 0, 0, 0, 0, last]).into());
        config.random_seed = last.into();
        let mut interface = Interface::new(config, &mut nic, Virtual::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::v4(10, 9, 0, last), 24)).expect("room for two");
            addresses.push(IpCidr::new(address(6, last), 64)).expect("room for two");
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(tcp::Socket::new(buffer(), buffer()));
        Self { nic, interface, sockets, socket }
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    fn poll(&mut self, now: Virtual) {
        self.interface.poll(now, &mut self.nic, &mut self.sockets);
    }
}

fn address(version: u8, last: u8) -> IpAddress {
    match version {
        4 => IpAddress::v4(10, 9, 0, last),
        _ => IpAddress::v6(0xfd09, 0, 0, 0, 0, 0, 0, last.into()),
    }
}

/// Sends from `a` to another guest and says how many datagrams were lost, and how many super-frames were sent.
fn transfer(make: Make, to: &str, last: u8, version: u8) -> (u64, usize) {
    let what = format!("{make:?} to {to} over IPv{version}");
    let start = Instant::now();
    let mut elapsed = Duration::ZERO;
    let mut fabric = Fabric::new(make, MANIFEST, start);
    let offloads = make.offloads.tso;
    let (mut a, mut b) = (Host::new(&fabric, "a", 1, offloads), Host::new(&fabric, to, last, offloads));
    let mut random = Random::new(make.seed);
    let payload: Vec<u8> = (0..BYTES).map(|_| random.bits() as u8).collect();
    b.socket().listen(80).expect("the socket is closed");
    let handle = a.socket;
    let socket = a.sockets.get_mut::<tcp::Socket<'_>>(handle);
    socket.connect(a.interface.context(), (address(version, last), 80), 50_000).expect("the socket is closed");
    let (mut sent, mut received) = (0, Vec::new());
    while received.len() < BYTES {
        let now = Virtual::from_micros(elapsed.as_micros() as i64);
        if a.socket().can_send() && sent < BYTES {
            sent += a.socket().send_slice(&payload[sent..]).expect("it is open");
        }
        a.poll(now);
        b.poll(now);
        while b.socket().can_recv() {
            let taken = b.socket().recv(|bytes| (bytes.len(), bytes.to_vec())).expect("there is something");
            received.extend(taken);
        }
        let moved = fabric.step(start + elapsed);
        // Where nothing moves only time helps.
        let wait = [a.interface.poll_delay(now, &a.sockets), b.interface.poll_delay(now, &b.sockets)];
        let wait = wait.into_iter().flatten().min().map_or(Duration::from_millis(10), Into::into);
        elapsed += if moved > 0 { Duration::from_micros(100) } else { wait.max(Duration::from_micros(100)) };
        let mut drops =
            || fabric.ledgers(start + elapsed).into_iter().flat_map(|report| report.drops).collect::<Vec<_>>();
        assert!(elapsed < PATIENCE, "{what}: {} bytes after {elapsed:?}, drops {:?}", received.len(), drops());
    }
    assert_eq!(Sha256::digest(&received), Sha256::digest(&payload), "{what}");
    let frames: u64 = fabric.ledgers(start + elapsed).iter().flat_map(|r| &r.workers).map(|ledger| ledger.rx).sum();
    assert!(frames > 0, "{what}");
    (fabric.lost, a.nic.super_frames)
}

fn over_everything(loss_percent: usize) {
    let mut lost = 0;
    for version in [4, 6] {
        for rung in [Rung::Single, Rung::Batch, Rung::Segment, Rung::Tunnel] {
            for (workers, offloads) in [(1, Offloads::default()), (2, Offloads::default()), (1, ALL), (2, ALL)] {
                let make = Make { seed: 7, rung, offloads, workers, loss_percent };
                let (lost_here, super_frames) = transfer(make, "b", 2, version);
                lost += lost_here;
                assert_eq!(super_frames > 0, offloads.tso && version == 4, "{make:?}");
            }
        }
    }
    assert_eq!(lost > 0, loss_percent > 0);
}

#[test]
fn two_hosts_on_two_vswitches_exchange_tcp() {
    over_everything(0);
}

#[test]
fn two_hosts_on_two_vswitches_exchange_tcp_while_datagrams_are_lost() {
    over_everything(2);
}

#[test]
fn two_hosts_on_one_vswitch_exchange_tcp() {
    for version in [4, 6] {
        for (workers, offloads) in [(1, Offloads::default()), (2, Offloads::default()), (1, ALL), (2, ALL)] {
            let make = Make { seed: 7, rung: Rung::Batch, offloads, workers, loss_percent: 0 };
            transfer(make, "c", 3, version);
        }
    }
}
