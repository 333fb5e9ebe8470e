//! A bundle does to tables what it does to a plain program, refuses what is wrong, and copies little.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weft_packet::{Field, FlowKey, MacAddr, Vni};
use weft_program::{
    Action, Bundle, BundleError, DomainId, Fdb, FdbKey, FloodId, Instruction, Location, Match, Op, PortConfig, PortId,
    Position, Program, Rule, RuleKey, Segment, SegmentId, TableId,
};

use super::Tables;
use crate::evaluate::evaluate;
use crate::learn::{Learned, Second};
use crate::limits::LIMITS;
use crate::testing::{Dice, whole};

fn bundle(ops: Vec<Op>) -> Bundle {
    Bundle { ops, ..Bundle::default() }
}

fn segment(id: u32, vni: u32) -> Segment {
    let vni = Vni::new(vni).unwrap();
    Segment { id: SegmentId(id), vni, mtu: 1500, domain: DomainId(1), owner: format!("network {id}").into() }
}

fn port(id: u32, segment: u32) -> PortConfig {
    let segment = SegmentId(segment);
    PortConfig { id: PortId(id), segment, live: true, learn: false, owner: format!("port {id}").into() }
}

fn rule(value: u128, actions: Vec<Action>) -> Rule {
    let key = RuleKey { table: TableId(0), priority: 1, matches: Match::ANY.with(Field::IpDst, value) };
    Rule { key, instructions: vec![Instruction::Apply(actions)], owner: "port red/a".into(), domain: DomainId(1) }
}

fn small() -> Tables {
    let ops = vec![Op::PutPort(port(1, 1)), Op::PutSegment(segment(1, 42))];
    Tables::new(1).apply(&bundle(ops)).unwrap()
}

proptest! {
    #[test]
    fn many_bundles_make_what_one_makes(seed: u64, rules in 0usize..100) {
        let mut dice = Dice::new(seed);
        let mut program = dice.program(rules);
        let mut tables = Tables::new(seed).apply(&whole(&program)).unwrap();
        for _ in 0..12 {
            let bundle = dice.bundle(&program, 8);
            let mut wanted = program.clone();
            bundle.ops.iter().for_each(|op| wanted.apply(op.clone()));
            let scratch = Tables::new(!seed).apply(&whole(&wanted));
            let (scratch, next) = match (scratch, tables.apply(&bundle)) {
                (Ok(scratch), Ok(next)) => (scratch, next),
                (scratch, next) => {
                    prop_assert!(scratch.is_err() && next.is_err(), "one way refuses and the other does not");
                    continue;
                }
            };
            (program, tables) = (wanted, next);
            prop_assert_eq!(tables.to_program(), program.clone());
            prop_assert_eq!(tables.rule_count(), program.rules.len());
            let learned = [0, 1].map(|_| Learned::new(Instant::now(), &LIMITS));
            for _ in 0..50 {
                let key = dice.key();
                let a = evaluate(&tables, &learned[0], &key, Second(0));
                let b = evaluate(&scratch, &learned[1], &key, Second(0));
                prop_assert_eq!(a.verdict.steps, b.verdict.steps);
            }
        }
    }
}

#[test]
fn references_are_checked_when_all_is_applied() {
    let errors = Tables::new(1).apply(&bundle(vec![Op::PutPort(port(1, 7))])).err().unwrap();
    assert_eq!(errors, [BundleError::Dangling { what: "port 1".into(), missing: "segment 7".into() }]);
    let errors = small().apply(&bundle(vec![Op::DeleteSegment(SegmentId(1))])).err().unwrap();
    assert_eq!(errors, [BundleError::Dangling { what: "port 1".into(), missing: "segment 1".into() }]);
    let gone = vec![Op::DeleteSegment(SegmentId(1)), Op::DeletePort(PortId(1))];
    assert_eq!(small().apply(&bundle(gone)).unwrap().to_program(), Program::default());
}

#[test]
fn everything_wrong_is_said_at_once_and_nothing_is_changed() {
    let mut backward = rule(1, vec![Action::Flood(FloodId(3))]);
    backward.instructions.push(Instruction::Goto(TableId(0)));
    let mut outside = rule(2, vec![Action::SetField { field: Field::EthType, value: 1 }]);
    outside.key.matches.value.set(Field::IpSrc, 5);
    let tables = small();
    let ops =
        vec![Op::PutRule(backward), Op::PutRule(outside), Op::PutPort(port(0, 1)), Op::PutSegment(segment(2, 42))];
    let errors = tables.apply(&bundle(ops)).err().unwrap();
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    for wanted in [
        "a goto must go to a later table",
        "value bits outside of its mask",
        "eth_type cannot be written",
        "a port's id is never zero",
        "VNI 42 belongs to segment",
        "refers to flood list 3",
    ] {
        assert!(texts.iter().any(|text| text.contains(wanted)), "{wanted} is not among {texts:#?}");
    }
    assert_eq!(tables.to_program(), small().to_program());
}

#[test]
fn a_value_that_no_field_holds_and_a_group_address_in_a_map_are_refused() {
    let wide = rule(1, vec![Action::SetField { field: Field::L4Dst, value: 0x1_0000 }]);
    let register = Action::LoadLabel { segment: SegmentId(1), field: Field::IpSrc, register: 8 };
    let label = rule(2, vec![register, Action::LoadLabel { segment: SegmentId(1), field: Field::EthSrc, register: 0 }]);
    let key = FdbKey { segment: SegmentId(1), mac: MacAddr::BROADCAST };
    let fdb = Fdb { key, location: Location::Local(PortId(1)), owner: "port red/a".into() };
    let ops = vec![Op::PutRule(wide), Op::PutRule(label), Op::PutFdb(fdb)];
    assert_eq!(small().apply(&bundle(ops)).err().unwrap().len(), 4);
}

#[test]
fn counters_survive_what_does_not_change_their_rule() {
    let tables = small().apply(&bundle(vec![Op::PutRule(rule(1, vec![])), Op::PutRule(rule(2, vec![]))])).unwrap();
    tables.rules().for_each(|rule| rule.count(10, 600));
    let changed = rule(2, vec![Action::Output(PortId(1))]);
    let next = tables.apply(&bundle(vec![Op::PutRule(rule(1, vec![])), Op::PutRule(changed)])).unwrap();
    let mut program = next.to_program();
    program.apply(Op::PutRule(rule(3, vec![])));
    let replaced = next.apply(&whole(&program)).unwrap();
    let frames = |tables: &Tables| tables.rule_reports().iter().map(|report| report.frames).collect::<Vec<_>>();
    assert_eq!(frames(&next), [10, 0]);
    assert_eq!(frames(&replaced), [10, 0, 0]);
}

#[test]
fn a_bundle_that_changes_nothing_still_moves_the_position() {
    let tables = small();
    let position = Position { store_id: "s".into(), generation: 7, digest: "d".into() };
    let same = Bundle { position: position.clone(), ..bundle(vec![Op::PutPort(port(1, 1))]) };
    let next = tables.apply(&same).unwrap();
    assert_eq!((next.position(), next.version()), (&position, tables.version() + 1));
    assert_eq!(next.endpoints_version(), tables.endpoints_version());
}

#[test]
fn a_small_bundle_does_not_pay_for_a_large_program() {
    let large = |n: u32| {
        let mut ops = vec![Op::PutSegment(segment(1, 42)), Op::PutPort(port(1, 1))];
        ops.extend((0..n).map(|i| Op::PutRule(rule(i.into(), vec![Action::Output(PortId(1))]))));
        bundle(ops)
    };
    let whole = large(100_000);
    let start = Instant::now();
    let tables = Tables::new(1).apply(&whole).unwrap();
    let first = start.elapsed();
    let rounds = 100;
    let start = Instant::now();
    let mut next = tables.clone();
    for i in 0..rounds {
        next = next.apply(&bundle(vec![Op::PutRule(rule(1_000_000 + i, vec![]))])).unwrap();
    }
    let each = start.elapsed() / rounds as u32;
    println!("100,000 rules in {first:?}, one more in {each:?}");
    assert_eq!(next.rule_count(), 100_000 + rounds as usize);
    assert!(first < Duration::from_secs(5), "{first:?}");
    assert!(each < first / 20, "{each:?} against {first:?}");
    let mut read = FlowKey::ZERO;
    let found = next.table(0).unwrap().lookup(&FlowKey::ZERO.with(Field::IpDst, 77), &mut read);
    assert!(Arc::ptr_eq(found.unwrap(), tables.table(0).unwrap().get(&rule(77, vec![]).key).unwrap()));
}
