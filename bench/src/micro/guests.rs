//! Two guests on one segment: the program, and the frames that one sends to the other.

use weft_packet::checksum::checksum;
use weft_packet::{Field, MacAddr, Vni};
use weft_program::{
    Action, Bundle, DomainId, Fdb, FdbKey, Instruction, Location, Match, Miss, Op, PortConfig, PortId, Rule, RuleKey,
    Segment, SegmentId, TableId,
};

/// The port of the guest that sends.
pub(super) const FROM_PORT: PortId = PortId(1);
/// The port of the guest that receives.
pub(super) const TO_PORT: PortId = PortId(2);
const FROM: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const TO: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// The VNI of their segment.
pub(super) fn vni() -> Vni {
    Vni::new(42).expect("42 has fewer than 24 bits")
}

/// A rule per port, and the receiver's address pinned.
pub(super) fn program() -> Bundle {
    let (segment, domain) = (SegmentId(1), DomainId(1));
    let port = |id| Op::PutPort(PortConfig { id, segment, live: true, learn: false, owner: "port".into() });
    let forward = Instruction::Apply(vec![Action::Fdb { segment, miss: Miss::Drop }]);
    let rule = |port: PortId| {
        let matches = Match::ANY.with(Field::InPort, port.0.into());
        let key = RuleKey { table: TableId(0), priority: 10, matches };
        Op::PutRule(Rule { key, instructions: vec![forward.clone()], owner: "rule".into(), domain })
    };
    let pinned = Fdb { key: FdbKey { segment, mac: TO }, location: Location::Local(TO_PORT), owner: "port".into() };
    let network = Segment { id: segment, vni: vni(), mtu: 1500, domain, owner: "network".into() };
    let ports = [port(FROM_PORT), port(TO_PORT), rule(FROM_PORT), rule(TO_PORT)];
    let ops = [Op::PutSegment(network)].into_iter().chain(ports).chain([Op::PutFdb(pinned)]).collect();
    Bundle { replace: true, ops, ..Bundle::default() }
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
