//! Two guests on one segment, or one here and one behind a tunnel: the program, and the frames that one sends to the other.

use std::net::{IpAddr, Ipv4Addr};

use weft_packet::checksum::checksum;
use weft_packet::{Field, MacAddr, Vni};
use weft_program::message::{Offloads, PortDevice, PortKind};
use weft_program::{
    Action, Bundle, DomainId, Fdb, FdbKey, Instruction, Location, Match, Miss, Op, PortConfig, PortId, Remote,
    RemoteId, RemoteKind, Rule, RuleKey, Segment, SegmentId, TableId,
};

/// The port of the guest that sends.
pub(super) const FROM_PORT: PortId = PortId(1);
/// The port of the guest that receives.
pub(super) const TO_PORT: PortId = PortId(2);
/// The other host.
pub(super) const REMOTE: RemoteId = RemoteId(1);
const FROM: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const TO: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const SEGMENT: SegmentId = SegmentId(1);
const DOMAIN: DomainId = DomainId(1);

/// The VNI of their segment.
pub(super) fn vni() -> Vni {
    Vni::new(42).expect("42 has fewer than 24 bits")
}

/// The address of the other host.
pub(super) fn remote_addr() -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 2).into()
}

/// A rule per port, and the receiver's address pinned to its port.
pub(super) fn program() -> Bundle {
    forwarding(TableId(0), Location::Local(TO_PORT))
}

/// The device of a port without a kernel.
pub(super) fn device(id: PortId) -> PortDevice {
    let (name, netns, ifname) = Default::default();
    PortDevice { id, name, kind: PortKind::Memory, fds: 0, mtu: 1500, offloads: Offloads::default(), netns, ifname }
}

/// The same rules in this table for frames of both ports and of the segment's tunnels, and the receiver's address pinned
/// there.
pub(super) fn forwarding(table: TableId, receiver: Location) -> Bundle {
    let port = |id| {
        let owner = "port".into();
        Op::PutPort(PortConfig { id, segment: SEGMENT, live: true, learn: false, owner })
    };
    let forward = Instruction::Apply(vec![Action::Fdb { segment: SEGMENT, miss: Miss::Drop }]);
    let rule = |matches| {
        let key = RuleKey { table, priority: 10, matches };
        Op::PutRule(Rule { key, instructions: vec![forward.clone()], owner: "rule".into(), domain: DOMAIN })
    };
    let of_port = |port: PortId| rule(Match::ANY.with(Field::InPort, port.0.into()));
    let of_tunnel = rule(Match::ANY.with(Field::Vni, vni().get().into()));
    let pinned = Fdb { key: FdbKey { segment: SEGMENT, mac: TO }, location: receiver, owner: "port".into() };
    let network = Segment { id: SEGMENT, vni: vni(), mtu: 1500, domain: DOMAIN, owner: "network".into() };
    let remote = Remote {
        id: REMOTE,
        addr: remote_addr(),
        udp_port: 4789,
        vnis: [vni()].into(),
        kind: RemoteKind::Weft,
        owner: "host".into(),
    };
    let ports = [port(FROM_PORT), port(TO_PORT), of_port(FROM_PORT), of_port(TO_PORT), of_tunnel];
    let ops = [Op::PutSegment(network), Op::PutRemote(remote)].into_iter().chain(ports).chain([Op::PutFdb(pinned)]);
    Bundle { replace: true, ops: ops.collect(), ..Bundle::default() }
}

/// A UDP frame of 64 bytes whose flow depends on the number.
pub(super) fn udp_v4(flow: u32) -> Vec<u8> {
    let mut l4 = vec![0; 30];
    l4[..2].copy_from_slice(&(1024 + (flow % 60_000) as u16).to_be_bytes());
    l4[2..4].copy_from_slice(&(5_000 + (flow / 60_000) as u16).to_be_bytes());
    l4[4..6].copy_from_slice(&30_u16.to_be_bytes());
    ipv4(17, &l4)
}

/// A TCP frame with this much payload and an unfinished checksum.
pub(super) fn tcp_v4(payload: usize) -> Vec<u8> {
    let mut l4 = vec![0; 20 + payload];
    l4[..4].copy_from_slice(&[0x80, 1, 0x14, 0x51]);
    l4[12..14].copy_from_slice(&[5 << 4, 0x10]);
    ipv4(6, &l4)
}

fn ipv4(protocol: u8, l4: &[u8]) -> Vec<u8> {
    let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
    header[2..4].copy_from_slice(&((20 + l4.len()) as u16).to_be_bytes());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&TO.0[..], &FROM.0, &[0x08, 0x00], &header, l4].concat()
}
