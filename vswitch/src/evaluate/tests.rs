//! What each action does, on a program of one segment with three ports and two remotes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use weft_packet::key::ip_field;
use weft_program::{
    Bundle, DomainId, Fdb, Flood, FloodTargets, Label, Match, Neighbor, Op, PortConfig, Remote, RemoteKind, RuleKey,
    TableId,
};

use super::*;
use crate::limits::LIMITS;

const SEGMENT: SegmentId = SegmentId(7);
const FLOOD: FloodId = FloodId(1);
const EMPTY: FloodId = FloodId(2);
const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);
const NOW: Second = Second(100);

/// Port 3 is dark, port 2 learns; remote 1 is pinned C's host, remote 2 is legacy.
fn world(rules: Vec<Rule>) -> (Tables, Learned) {
    let (vni, domain) = (vni(), DomainId(1));
    let mut ops = vec![Op::PutSegment(Segment { id: SEGMENT, vni, mtu: 1500, domain, owner: "network".into() })];
    for id in [1, 2, 3] {
        let (live, learn) = (id != 3, id == 2);
        ops.push(Op::PutPort(PortConfig { id: PortId(id), segment: SEGMENT, live, learn, owner: "port".into() }));
    }
    for (id, kind) in [(1, RemoteKind::Weft), (2, RemoteKind::Legacy)] {
        let (addr, vnis) = (Ipv4Addr::new(192, 0, 2, id).into(), [vni].into());
        let id = RemoteId(id.into());
        ops.push(Op::PutRemote(Remote { id, addr, udp_port: 4789, vnis, kind, owner: "host".into() }));
    }
    let targets = FloodTargets { ports: [1, 2, 3].map(PortId).into(), remotes: [1, 2].map(RemoteId).into() };
    ops.push(Op::PutFlood(Flood { id: FLOOD, segment: SEGMENT, targets }));
    ops.push(Op::PutFlood(Flood { id: EMPTY, segment: SEGMENT, targets: FloodTargets::default() }));
    for (mac, location) in [(A, local(1)), (B, local(3)), (C, Location::Remote(RemoteId(1)))] {
        ops.push(Op::PutFdb(Fdb { key: FdbKey { segment: SEGMENT, mac }, location, owner: "port".into() }));
    }
    for (ip, mac, location) in [(v4(1), A, local(1)), (v6(1), A, local(1))] {
        let key = NeighborKey { segment: SEGMENT, ip };
        ops.push(Op::PutNeighbor(Neighbor { key, mac, location, owner: "port".into() }));
    }
    let key = LabelKey { segment: SEGMENT, ip: v4(1) };
    ops.push(Op::PutLabel(Label { key, label: 9, owner: "group".into() }));
    ops.extend(rules.into_iter().map(Op::PutRule));
    let tables = Tables::new(1).apply(&Bundle { ops, ..Bundle::default() }).unwrap();
    (tables, Learned::new(Instant::now(), &LIMITS))
}

fn rule(table: u8, matches: Match, instructions: Vec<Instruction>) -> Rule {
    let key = RuleKey { table: TableId(table), priority: 1, matches };
    Rule { key, instructions, owner: "port red/a line".into(), domain: DomainId(1) }
}

/// The steps that these actions make of the frame.
fn steps(actions: &[Action], key: FlowKey) -> Vec<Step> {
    let (tables, learned) = world(vec![rule(0, Match::ANY, vec![Instruction::Apply(actions.to_vec())])]);
    evaluate(&tables, &learned, &key, NOW).verdict.steps
}

fn vni() -> Vni {
    Vni::new(42).unwrap()
}

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 9, 0, last).into()
}

fn v6(last: u16) -> IpAddr {
    Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, last).into()
}

fn local(port: u32) -> Location {
    Location::Local(PortId(port))
}

fn from_port(port: u32) -> FlowKey {
    FlowKey::ZERO.with(Field::InPort, port.into()).with(Field::EthSrc, B.to_u64().into())
}

fn from_remote(remote: u32) -> FlowKey {
    let key = FlowKey::ZERO.with(Field::InRemote, remote.into()).with(Field::Vni, 42);
    key.with(Field::EthSrc, B.to_u64().into())
}

fn to(key: FlowKey, mac: MacAddr) -> FlowKey {
    key.with(Field::EthDst, mac.to_u64().into())
}

fn tunnel(remote: u32) -> Step {
    Step::Tunnel { remote: RemoteId(remote), vni: vni() }
}

fn dropped(reason: DropReason) -> Vec<Step> {
    vec![Step::Drop { reason, owner: "port red/a line".into() }]
}

const FDB: Action = Action::Fdb { segment: SEGMENT, miss: Miss::Drop };

#[test]
fn a_flood_spares_the_ingress_and_dark_ports_and_never_goes_from_tunnel_to_tunnel() {
    let flood = [Action::Flood(FLOOD)];
    assert_eq!(steps(&flood, from_port(1)), [Step::Output(PortId(2)), tunnel(1), tunnel(2)]);
    assert_eq!(steps(&flood, from_remote(1)), [Step::Output(PortId(1)), Step::Output(PortId(2))]);
    assert_eq!(steps(&[Action::Flood(EMPTY)], from_port(1)), dropped(DropReason::EmptyFlood));
}

#[test]
fn unicast_goes_where_the_station_is_pinned_or_is_dropped_with_the_reason() {
    assert_eq!(steps(&[FDB], to(from_port(2), A)), [Step::Output(PortId(1))]);
    assert_eq!(steps(&[FDB], to(from_port(2), C)), [tunnel(1)]);
    assert_eq!(steps(&[FDB], to(from_port(1), A)), dropped(DropReason::Hairpin));
    assert_eq!(steps(&[FDB], to(from_port(1), B)), dropped(DropReason::PortDark));
    assert_eq!(steps(&[FDB], to(from_remote(2), C)), dropped(DropReason::SplitHorizon));
    assert_eq!(steps(&[FDB], to(from_port(1), MacAddr([2; 6]))), dropped(DropReason::UnknownUnicast));
    let flood = Action::Fdb { segment: SEGMENT, miss: Miss::Flood(FLOOD) };
    assert_eq!(steps(&[flood], to(from_port(1), MacAddr([2; 6]))).len(), 3);
}

#[test]
fn a_remote_that_does_not_host_the_vni_gets_nothing() {
    let action = Action::Tunnel { remote: RemoteId(1), vni: Vni::new(43).unwrap() };
    assert_eq!(steps(&[action], from_port(1)), dropped(DropReason::NoDestination));
}

#[test]
fn a_frame_without_any_output_is_dropped_as_policy_and_a_miss_has_no_owner() {
    assert_eq!(steps(&[], from_port(1)), dropped(DropReason::Policy));
    assert_eq!(steps(&[Action::Drop(DropReason::SpoofedMac), FDB], from_port(1)), dropped(DropReason::SpoofedMac));
    let (tables, learned) = world(vec![]);
    let verdict = evaluate(&tables, &learned, &from_port(1), NOW).verdict;
    assert_eq!(verdict.steps, [Step::Drop { reason: DropReason::TableMiss, owner: "".into() }]);
}

#[test]
fn a_drop_after_an_output_takes_nothing_back() {
    let actions = [Action::Output(PortId(2)), Action::Drop(DropReason::Policy)];
    assert_eq!(steps(&actions, from_port(1)), [Step::Output(PortId(2))]);
}

#[test]
fn a_written_field_counts_for_later_copies_and_later_lookups_and_not_for_what_was_read() {
    let write = Action::SetField { field: Field::EthDst, value: A.to_u64().into() };
    let late = Action::SetField { field: Field::IpTtl, value: 9 };
    let apply = Instruction::Apply(vec![Action::Output(PortId(2)), write, late.clone()]);
    let (tables, learned) = world(vec![
        rule(0, Match::ANY, vec![apply, Instruction::Goto(TableId(1))]),
        rule(1, Match::ANY.with(Field::EthDst, A.to_u64().into()), vec![Instruction::Apply(vec![FDB])]),
    ]);
    let result = evaluate(&tables, &learned, &to(from_remote(1), C), NOW);
    let set = |field, value| Step::SetField { field, value };
    let wanted =
        [Step::Output(PortId(2)), set(Field::EthDst, A.to_u64().into()), set(Field::IpTtl, 9), Step::Output(PortId(1))];
    assert_eq!(result.verdict.steps, wanted);
    assert_eq!(result.read.field(Field::EthDst), 0);
    assert_eq!(steps(&[Action::Output(PortId(2)), late], from_port(1)), [Step::Output(PortId(2))]);
}

#[test]
fn metadata_registers_and_labels_steer_and_leave_no_step() {
    let label = Action::LoadLabel { segment: SEGMENT, field: Field::IpSrc, register: 3 };
    let write = Instruction::WriteMetadata { value: 0xff05, mask: 0xff };
    let seen = Match::ANY.with(Field::Metadata, 5).with(Field::Reg3, 9);
    let (tables, learned) = world(vec![
        rule(0, Match::ANY, vec![Instruction::Apply(vec![label]), write, Instruction::Goto(TableId(2))]),
        rule(2, seen, vec![Instruction::Apply(vec![Action::Output(PortId(2))])]),
    ]);
    let key = from_port(1).with(Field::EthType, 0x0800).with(Field::IpSrc, ip_field(v4(1)));
    let result = evaluate(&tables, &learned, &key, NOW);
    assert_eq!(result.verdict.steps, [Step::Output(PortId(2))]);
    assert_eq!(result.verdict.rules.len(), 2);
    assert_eq!(result.read.0[PARSED_WORDS..], [0; KEY_WORDS - PARSED_WORDS], "the pipeline's own state is not read");
    assert_eq!(result.read.field(Field::IpSrc), u128::MAX);
}

#[test]
fn address_requests_are_answered_except_to_the_owner() {
    let answer = [Action::AnswerNeighbor { segment: SEGMENT }, Action::Flood(FLOOD)];
    let arp = |port, op| {
        let key = from_port(port).with(Field::EthType, 0x0806).with(Field::IpProto, op);
        key.with(Field::IpDst, ip_field(v4(1)))
    };
    assert_eq!(steps(&answer, arp(2, 1)), [Step::Reply { mac: A }]);
    assert_eq!(steps(&answer, arp(2, 2)).len(), 3, "an ARP reply asks nothing");
    assert_eq!(steps(&answer, arp(1, 1)).len(), 3, "the owner probes its own address");
    let solicit = |port, hop_limit| {
        let key = from_port(port).with(Field::EthType, 0x86dd).with(Field::IpProto, 58).with(Field::L4Src, 135);
        key.with(Field::IpTtl, hop_limit).with(Field::NdTarget, ip_field(v6(1)))
    };
    assert_eq!(steps(&answer, solicit(2, 255)), [Step::Reply { mac: A }]);
    assert_eq!(steps(&answer, solicit(2, 64)).len(), 3, "a routed solicitation is void");
    assert_eq!(steps(&answer, solicit(1, 255)).len(), 3);
}

#[test]
fn stations_are_learned_only_where_that_is_declared_and_never_against_a_pin() {
    let learn = Instruction::Apply(vec![Action::Learn { segment: SEGMENT }, FDB]);
    let (tables, learned) = world(vec![rule(0, Match::ANY, vec![learn])]);
    let new = MacAddr([2, 0, 0, 0, 0, 0x77]);
    let from = |key: FlowKey, mac: MacAddr| key.with(Field::EthSrc, mac.to_u64().into());
    let run = |key| evaluate(&tables, &learned, &key, NOW);
    for key in [from(from_port(1), new), from(from_remote(1), new), from(from_port(2), A)] {
        run(key);
    }
    assert!(learned.is_empty(), "ports without `learn`, Weft's own remotes and pinned stations teach nothing");
    assert_eq!(learned.counts().refused, 1);
    assert_eq!(run(to(from_port(1), new)).until, Second(NOW.0 + MISS_S));
    run(from(from_port(2), new));
    assert_eq!(run(to(from_port(1), new)).verdict.steps, [Step::Output(PortId(2))]);
    assert_eq!(run(to(from_port(1), new)).until, Second(NOW.0 + LIMITS.learned_age_s));
    run(from(from_remote(2), new));
    assert_eq!(run(to(from_port(1), new)).verdict.steps, [tunnel(2)]);
    assert_eq!(run(to(from_port(1), A)).verdict.steps, dropped(DropReason::Hairpin));
}

#[test]
fn what_was_learned_at_a_port_is_void_when_the_port_is_in_another_segment() {
    let learn = Instruction::Apply(vec![Action::Learn { segment: SEGMENT }, FDB]);
    let (tables, learned) = world(vec![rule(0, Match::ANY, vec![learn])]);
    evaluate(&tables, &learned, &from_port(2).with(Field::EthSrc, 0x0200_0000_0077), NOW);
    let other = Segment { id: SegmentId(8), vni: Vni::new(8).unwrap(), ..tables.segment(SEGMENT).unwrap().clone() };
    let moved = PortConfig { segment: other.id, ..tables.port(PortId(2)).unwrap().clone() };
    let ops = vec![Op::PutSegment(other), Op::PutPort(moved)];
    let tables = tables.apply(&Bundle { ops, ..Bundle::default() }).unwrap();
    let result = evaluate(&tables, &learned, &from_port(1).with(Field::EthDst, 0x0200_0000_0077), NOW);
    assert_eq!(result.verdict.steps, dropped(DropReason::UnknownUnicast));
    learned.expire(&tables, NOW);
    assert!(learned.is_empty());
}
