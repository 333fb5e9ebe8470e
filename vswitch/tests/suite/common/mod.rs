//! Two vswitches in one process with memory ports and a memory underlay between them.
//!
//! Guests `a` (port 1) and `c` (port 3) are on host 0, `b` (port 2) on host 1; one segment, VNI 42, underlay MTU 1600.

pub(crate) mod real;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use weft_packet::arp::{ArpHeader, OPERATION_REQUEST};
use weft_packet::checksum::Sum;
use weft_packet::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, EthernetHeader};
use weft_packet::ipv4::Ipv4Header;
use weft_packet::{Csum, DropReason, Field, Gso, GsoKind, Layout, MacAddr, Offload, Vni, offload};
use weft_program::message::{
    Ledger, LedgerReport, Offloads, PortDevice, PortKind, PortReport, Request, Response, Rung, Underlay,
};
use weft_program::{
    Action, Bundle, DomainId, Fdb, FdbKey, Flood, FloodId, FloodTargets, Instruction, Location, Match, Miss, Neighbor,
    NeighborKey, Op, PortConfig, PortId, Position, Remote, RemoteId, RemoteKind, Rule, RuleKey, Segment, SegmentId,
    TableId,
};
use weft_vswitch::Inline;
use weft_vswitch::control::Control;
use weft_vswitch::port::MemoryEnd;
use weft_vswitch::underlay::{MemoryDatagram, UnderlayEnd};

pub(crate) const A: Guest = Guest { port: PortId(1), host: 0, last: 1 };
pub(crate) const B: Guest = Guest { port: PortId(2), host: 1, last: 2 };
pub(crate) const C: Guest = Guest { port: PortId(3), host: 0, last: 3 };
pub(crate) const ALL_OFFLOADS: Offloads = Offloads { csum: true, tso: true, tso_ecn: true, uso: true };
pub(crate) const UNDERLAY_MTU: u16 = 1600;
pub(crate) const VNI: u32 = 42;

/// Who has which port and address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest {
    pub(crate) port: PortId,
    pub(crate) host: usize,
    pub(crate) last: u8,
}

impl Guest {
    pub(crate) fn mac(self) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, self.last])
    }

    pub(crate) fn ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 0, self.last)
    }
}

/// One vswitch and the far ends of its ports.
pub(crate) struct Host {
    pub(crate) vswitch: Control<Inline>,
    pub(crate) guests: Vec<(PortId, MemoryEnd)>,
    pub(crate) underlay: UnderlayEnd,
}

pub(crate) struct World {
    pub(crate) hosts: Vec<Host>,
    pub(crate) now: Instant,
    /// Puts equally long datagrams together, as UDP_GRO does.
    pub(crate) gro: bool,
    /// Datagrams that crossed.
    pub(crate) crossed: Vec<MemoryDatagram>,
    /// What the ledgers were when the first probes were over.
    probed: Vec<Ledger>,
}

impl World {
    pub(crate) fn new(workers: usize, rung: Rung, offloads: Offloads) -> Self {
        let now = Instant::now();
        let host = |index: usize| {
            let mut vswitch = Control::inline(workers, 7, now).unwrap();
            let underlay = vswitch.attach_memory_underlay(underlay(index, rung), 4096).unwrap();
            let local = [A, B, C].into_iter().filter(|guest| guest.host == index);
            let guests = local
                .map(|guest| (guest.port, vswitch.attach_memory(device(guest.port, offloads), 4096).unwrap()))
                .collect();
            let mut host = Host { vswitch, guests, underlay };
            assert_eq!(host.ask(now, Request::Apply(program(index))), Response::Done);
            host
        };
        let hosts = vec![host(0), host(1)];
        let mut world =
            Self { hosts, now, gro: rung == Rung::Segment, crossed: Vec::new(), probed: vec![Ledger::default(); 2] };
        world.run();
        world.probed = world.balanced();
        world.crossed.clear();
        world
    }

    /// Lets so many seconds pass.
    pub(crate) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 20 {
            self.now += std::time::Duration::from_millis(50);
            self.run();
        }
    }

    pub(crate) fn end(&self, guest: Guest) -> &MemoryEnd {
        &self.hosts[guest.host].guests.iter().find(|(id, _)| *id == guest.port).unwrap().1
    }

    pub(crate) fn send(&mut self, from: Guest, frame: &[u8], offload: Offload) {
        assert!(self.end(from).push(frame, offload));
    }

    pub(crate) fn received(&self, guest: Guest) -> Vec<(Vec<u8>, Offload)> {
        std::iter::from_fn(|| self.end(guest).pop()).collect()
    }

    /// Runs until nothing moves any more.
    pub(crate) fn run(&mut self) {
        for _ in 0..100 {
            let moved: usize = self.hosts.iter_mut().map(|host| host.vswitch.step(self.now)).sum();
            if moved + self.cross() == 0 {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    fn cross(&mut self) -> usize {
        let mut count = 0;
        for index in 0..2 {
            let (source, target) = (address(index), 1 - index);
            let out: Vec<_> = std::iter::from_fn(|| self.hosts[index].underlay.pop()).collect();
            count += out.len();
            self.crossed.extend(out.iter().cloned());
            for mut datagram in if self.gro { gro(out) } else { out } {
                assert_eq!(datagram.addr, SocketAddr::new(address(target), 4789));
                datagram.addr = SocketAddr::new(source, 50_000);
                assert!(self.hosts[target].underlay.push(datagram));
            }
        }
        count
    }

    /// The ledgers of both hosts since the first probes, each balanced.
    pub(crate) fn balanced(&mut self) -> Vec<Ledger> {
        let now = self.now;
        self.hosts
            .iter_mut()
            .map(|host| sum(&host.ledger(now)))
            .inspect(|l| assert_eq!(l.imbalance(), 0, "{l:?}"))
            .zip(&self.probed)
            .map(|(ledger, before)| Ledger {
                rx: ledger.rx - before.rx,
                originated: ledger.originated - before.originated,
                tx: ledger.tx - before.tx,
                consumed: ledger.consumed - before.consumed,
                dropped: ledger.dropped - before.dropped,
                ..ledger
            })
            .collect()
    }
}

impl Host {
    pub(crate) fn ask(&mut self, now: Instant, request: Request) -> Response {
        self.vswitch.handle(now, request, Vec::new()).pop().unwrap().response
    }

    pub(crate) fn ledger(&mut self, now: Instant) -> LedgerReport {
        match self.ask(now, Request::Ledger) {
            Response::Ledger(report) => report,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn port(&mut self, now: Instant, id: PortId) -> PortReport {
        match self.ask(now, Request::Ports) {
            Response::Ports(ports) => ports.into_iter().find(|port| port.device.id == id).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn drops(&mut self, now: Instant, reason: DropReason) -> u64 {
        self.ledger(now).drops.iter().filter(|row| row.reason == reason).map(|row| row.frames).sum()
    }
}

pub(crate) fn sum(report: &LedgerReport) -> Ledger {
    report.workers.iter().fold(Ledger::default(), |mut sum, worker| {
        sum += *worker;
        sum
    })
}

/// What UDP_GRO makes of datagrams that arrive together; a super-frame stays as it is.
fn gro(datagrams: Vec<MemoryDatagram>) -> Vec<MemoryDatagram> {
    let mut merged: Vec<(MemoryDatagram, bool)> = Vec::new();
    for datagram in datagrams {
        if let Some((last, open)) = merged.last_mut() {
            let stride = last.stride.map_or(last.payload.len(), usize::from);
            let whole = stride + 28 > UNDERLAY_MTU.into();
            let fits =
                !whole && last.payload.len() + datagram.payload.len() <= 65_507 && datagram.payload.len() <= stride;
            if *open && fits && (last.addr, last.tos) == (datagram.addr, datagram.tos) {
                *open = datagram.payload.len() == stride;
                last.stride = Some(stride as u16);
                last.payload.extend(datagram.payload);
                continue;
            }
        }
        merged.push((datagram, true));
    }
    merged.into_iter().map(|(datagram, _)| datagram).collect()
}

pub(crate) fn address(host: usize) -> IpAddr {
    IpAddr::from([192, 0, 2, 1 + host as u8])
}

pub(crate) fn underlay(host: usize, rung: Rung) -> Underlay {
    Underlay {
        addr: address(host),
        udp_port: 4789,
        rx_fds: 0,
        tx_fds: 0,
        mtu: UNDERLAY_MTU,
        rung,
        tunnel: None,
        refused: Vec::new(),
    }
}

pub(crate) fn device(id: PortId, offloads: Offloads) -> PortDevice {
    let (name, netns, ifname) = (format!("red/{id}"), String::new(), String::new());
    PortDevice { id, name, kind: PortKind::Memory, fds: 0, mtu: 1500, offloads, netns, ifname }
}

/// The program of one host: in, answer, forward.
pub(crate) fn program(host: usize) -> Bundle {
    let segment = SegmentId(1);
    let remote = RemoteId(1);
    let vni = Vni::new(VNI).unwrap();
    let location = |guest: Guest| {
        if guest.host == host { Location::Local(guest.port) } else { Location::Remote(remote) }
    };
    let mut ops = vec![
        Op::PutSegment(Segment { id: segment, vni, mtu: 1500, domain: DomainId(1), owner: "network red/blue".into() }),
        Op::PutRemote(Remote {
            id: remote,
            addr: address(1 - host),
            udp_port: 4789,
            vnis: [vni].into(),
            kind: RemoteKind::Weft,
            owner: "host other".into(),
        }),
    ];
    let local: Vec<_> = [A, B, C].into_iter().filter(|guest| guest.host == host).collect();
    ops.push(Op::PutFlood(Flood {
        id: FloodId(1),
        segment,
        targets: FloodTargets { ports: local.iter().map(|guest| guest.port).collect(), remotes: vec![remote] },
    }));
    for guest in [A, B, C] {
        let (mac, location) = (guest.mac(), location(guest));
        let owner: std::sync::Arc<str> = format!("port red/{}", guest.last).into();
        ops.push(Op::PutFdb(Fdb { key: FdbKey { segment, mac }, location, owner: owner.clone() }));
        let key = NeighborKey { segment, ip: guest.ip().into() };
        ops.push(Op::PutNeighbor(Neighbor { key, mac, location, owner: owner.clone() }));
    }
    for guest in local {
        let owner: std::sync::Arc<str> = format!("port red/{}", guest.last).into();
        ops.push(Op::PutPort(PortConfig { id: guest.port, segment, live: true, learn: false, owner: owner.clone() }));
        let enter = vec![Instruction::WriteMetadata { value: 1, mask: u64::MAX }, Instruction::Goto(TableId(1))];
        ops.push(rule(0, 10, Match::ANY.with(Field::InPort, guest.port.0.into()), enter, &owner));
        let own = Match::ANY.with(Field::InPort, guest.port.0.into()).with(Field::EthSrc, guest.mac().to_u64().into());
        ops.push(rule(1, 10, own, vec![Instruction::Goto(TableId(2))], &owner));
    }
    let tunnel = vec![Instruction::WriteMetadata { value: 1, mask: u64::MAX }, Instruction::Goto(TableId(3))];
    ops.push(rule(0, 10, Match::ANY.with(Field::Vni, VNI.into()), tunnel, "network red/blue"));
    ops.push(rule(1, 1, Match::ANY, actions(Action::Drop(DropReason::SpoofedMac)), "anti-spoof"));
    let answer = Instruction::Apply(vec![Action::AnswerNeighbor { segment }]);
    let arp = Match::ANY.with(Field::EthType, ETHERTYPE_ARP.into());
    ops.push(rule(2, 10, arp, vec![answer, Instruction::Goto(TableId(3))], "network red/blue arp"));
    ops.push(rule(2, 1, Match::ANY, vec![Instruction::Goto(TableId(3))], "network red/blue"));
    let group = Match::ANY.with_masked(Field::EthDst, 1 << 40, 1 << 40);
    ops.push(rule(3, 10, group, actions(Action::Flood(FloodId(1))), "network red/blue"));
    ops.push(rule(3, 1, Match::ANY, actions(Action::Fdb { segment, miss: Miss::Drop }), "network red/blue"));
    Bundle { replace: true, ops, position: Position { store_id: "test".into(), generation: 1, digest: "x".into() } }
}

fn actions(action: Action) -> Vec<Instruction> {
    vec![Instruction::Apply(vec![action])]
}

fn rule(table: u8, priority: u16, matches: Match, instructions: Vec<Instruction>, owner: &str) -> Op {
    let key = RuleKey { table: TableId(table), priority, matches };
    Op::PutRule(Rule { key, instructions, owner: owner.into(), domain: DomainId(1) })
}

/// A UDP packet with a complete checksum.
pub(crate) fn udp(from: Guest, to: Guest, payload: &[u8], dont_fragment: bool) -> Vec<u8> {
    let mut l4 = [1111u16.to_be_bytes(), 2222u16.to_be_bytes()].concat();
    l4.extend(((8 + payload.len()) as u16).to_be_bytes());
    l4.extend([0, 0]);
    l4.extend(payload);
    ipv4(from, to, 17, &l4, dont_fragment)
}

/// A TCP super-frame as a TAP gives it: partial checksum, segments of `size` bytes.
pub(crate) fn tcp_super(from: Guest, to: Guest, payload: &[u8], size: u16) -> (Vec<u8>, Offload) {
    let mut l4 = [1111u16.to_be_bytes(), 2222u16.to_be_bytes()].concat();
    l4.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend(payload);
    let mut frame = ipv4(from, to, 6, &l4, true);
    let layout = Layout::of(&frame).unwrap();
    let pseudo = layout.pseudo(&frame, l4.len()).fold();
    frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
    let csum = Csum::Partial { start: 34, offset: 16 };
    (frame, Offload { csum, gso: Some(Gso { kind: GsoKind::TcpV4, size, ecn: false }) })
}

/// A UDP super-frame as a TAP gives it: datagrams of `size` bytes, partial checksum.
pub(crate) fn udp_super(from: Guest, to: Guest, payload: &[u8], size: u16) -> (Vec<u8>, Offload) {
    let mut frame = udp(from, to, payload, true);
    let layout = Layout::of(&frame).unwrap();
    let pseudo = layout.pseudo(&frame, 8 + payload.len()).fold();
    frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
    let csum = Csum::Partial { start: 34, offset: 6 };
    (frame, Offload { csum, gso: Some(Gso { kind: GsoKind::Udp, size, ecn: false }) })
}

fn ipv4(from: Guest, to: Guest, protocol: u8, l4: &[u8], dont_fragment: bool) -> Vec<u8> {
    let mut frame = vec![0; 34];
    EthernetHeader { dst: to.mac(), src: from.mac(), ethertype: ETHERTYPE_IPV4 }.emit(&mut frame);
    let header = Ipv4Header {
        tos: 0,
        payload_len: l4.len() as u16,
        identification: 7,
        dont_fragment,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        src: from.ip(),
        dst: to.ip(),
    };
    header.emit(&mut frame[14..]);
    frame.extend(l4);
    let layout = Layout::of(&frame).unwrap();
    let at = layout.l4 + layout.check_offset().unwrap();
    let sum = layout.pseudo(&frame, l4.len()) + Sum::of(&frame[layout.l4..]);
    let check = sum.finish();
    frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
    frame
}

/// Who has `to`'s address?
pub(crate) fn arp(from: Guest, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; 14 + 28];
    EthernetHeader { dst: MacAddr::BROADCAST, src: from.mac(), ethertype: ETHERTYPE_ARP }.emit(&mut frame);
    let request = ArpHeader {
        operation: OPERATION_REQUEST,
        sender_mac: from.mac(),
        sender_ip: from.ip(),
        target_mac: MacAddr::ZERO,
        target_ip: target,
    };
    request.emit(&mut frame[14..]);
    frame
}

/// The L4 payload bytes of received frames, one after the other; checks every checksum that is complete.
pub(crate) fn payloads(frames: &[(Vec<u8>, Offload)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (bytes, state) in frames {
        let layout = Layout::of(bytes).unwrap();
        match state.csum {
            Csum::Partial { start, offset } => {
                let at = usize::from(start + offset);
                let pseudo = layout.pseudo(bytes, layout.end - layout.l4).fold();
                assert_eq!(bytes[at..at + 2], pseudo.to_be_bytes(), "a partial checksum is the pseudo-header's sum");
            }
            _ => assert_eq!(offload::verify(bytes, &layout), offload::Verdict::Good),
        }
        all.extend(&bytes[layout.payload(bytes).unwrap()..layout.end]);
    }
    all
}
