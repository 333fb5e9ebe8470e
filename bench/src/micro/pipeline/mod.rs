//! A whole worker between memory queues: receive, parse, classify, execute, queue, send, count.
//!
//! Only the worker's rounds are timed. What is in them that a kernel or a device would do: a copy of 64 bytes in and out.
//! That every frame arrived, unchanged, and that the books balance is checked for each row.

mod lane;
mod scaling;

use std::time::Instant;

use anyhow::Result;
use weft_program::{Bundle, DomainId, Instruction, Location, Match, Op, Rule, RuleKey, TableId};

use self::lane::{BURST, Bench, Lane, Sink, Source};
use super::guests::{REMOTE, TO_PORT, forwarding};
use super::row::Row;
use super::rules::{KINDS, Numbers, rules};
use super::timer::{is_wanted, time_parts};
pub(super) use scaling::rows as scaling;

/// Flows that the exact level holds, and ten times as many as it does.
const EXACT: u32 = 1_000;
const WILDCARD: u32 = 100_000;
/// Packets in a datagram that UDP_GRO put together.
const GRO: usize = 16;

/// Where frames come from and go to.
#[derive(Debug, Clone, Copy)]
enum Way {
    Local,
    Push,
    Pop(usize),
}

/// Frames that hit the exact level, the wildcard level, and the same with a VXLAN header on and off.
pub(super) fn rows() -> Result<Vec<Row>> {
    let all = [
        ("pipeline, exact", Way::Local, EXACT),
        ("pipeline, wildcard", Way::Local, WILDCARD),
        ("pipeline + VXLAN push, exact", Way::Push, EXACT),
        ("pipeline + VXLAN push, wildcard", Way::Push, WILDCARD),
        ("pipeline + VXLAN pop, exact", Way::Pop(GRO), EXACT),
        ("pipeline + VXLAN pop, wildcard", Way::Pop(GRO), WILDCARD),
        ("pipeline + VXLAN pop, exact, a packet per datagram", Way::Pop(1), EXACT),
    ];
    all.into_iter()
        .filter_map(|(name, way, flows)| row(name, way, flows, |receiver| forwarding(TableId(0), receiver)).transpose())
        .collect()
}

/// What a frame costs with few flows and many, and with few rules and many.
pub(super) fn flatness() -> Result<Vec<Row>> {
    let mut found = Vec::new();
    for flows in [1, 100, 1_000, 10_000, 100_000] {
        let name = format!("flat: {flows} flows");
        found.extend(row(&name, Way::Local, flows, |receiver| forwarding(TableId(0), receiver))?);
    }
    for flows in [EXACT, WILDCARD] {
        for rules in [10, 1_000, 10_000, 100_000] {
            let name = format!("flat: {rules} rules, {flows} flows");
            found.extend(row(&name, Way::Local, flows, |receiver| behind_rules(rules, receiver))?);
        }
    }
    Ok(found)
}

/// Two ports' forwarding, as each worker of a vswitch has it.
fn local() -> Bundle {
    forwarding(TableId(0), Location::Local(TO_PORT))
}

/// The forwarding behind an access list of so many rules. A rule drops or passes; whatever the frames of these benchmarks
/// could meet passes.
fn behind_rules(count: usize, receiver: Location) -> Bundle {
    let mut bundle = forwarding(TableId(1), receiver);
    let pass = |mut rule: Rule| {
        rule.instructions = vec![Instruction::Goto(TableId(1))];
        Op::PutRule(rule)
    };
    let rest = RuleKey { table: TableId(0), priority: 0, matches: Match::ANY };
    let rest = Rule { key: rest, instructions: Vec::new(), owner: "rest".into(), domain: DomainId(1) };
    let listed = rules(&KINDS[0], count, &mut Numbers(count as u64));
    bundle.ops.extend(listed.into_iter().chain([rest]).map(pass));
    bundle
}

fn row(name: &str, way: Way, flows: u32, program: impl FnOnce(Location) -> Bundle) -> Result<Option<Row>> {
    if !is_wanted(name) {
        return Ok(None);
    }
    let now = Instant::now();
    let receiver = if matches!(way, Way::Push) { Location::Remote(REMOTE) } else { Location::Local(TO_PORT) };
    let mut bench = Bench::new(1, program(receiver), now)?;
    let (from, to, underlay) = (bench.from.remove(0), bench.to.remove(0), bench.underlay.clone());
    let (source, sink) = match way {
        Way::Local => (Source::Port(from), Sink::Port(to)),
        Way::Push => (Source::Port(from), Sink::Underlay(underlay)),
        Way::Pop(packets) => (Source::Underlay(underlay, packets), Sink::Port(to)),
    };
    let mut lane = Lane::new(source, sink, 0..flows);
    lane.warm_up(|| bench.vswitch.step(now))?;
    let timed = time_parts(name, BURST, || lane.burst(|| bench.vswitch.step(now)));
    bench.check(lane.check()?, now)?;
    Ok(Some(timed.into()))
}
