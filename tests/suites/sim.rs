//! A seeded world: controller and three hosts on one clock, with everything that may break breaking all the time.
//!
//! `SEED=n` replays one world (`TRACE=1` prints what happens in it), `SEEDS=n` runs so many.

use std::time::{Duration, Instant};

use weft_tests::sim::{Plan, Tally, World};

/// Worlds per run: 0.1 s each.
const SEEDS: u64 = 150;

/// Says which world it was.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("this was SEED={}", self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn live(seed: u64, plan: Plan) -> Tally {
    let named = Named(seed);
    let tally = World::live(seed, plan);
    drop(named);
    tally
}

fn live_many(plan: Plan, seeds: u64) -> Vec<Tally> {
    match number("SEED") {
        Some(seed) => vec![live(seed, plan)],
        None => (1..=number("SEEDS").unwrap_or(seeds)).map(|seed| live(seed, plan)).collect(),
    }
}

#[test]
fn whatever_breaks_all_hosts_end_at_the_last_intent_and_tenants_never_meet() {
    let begin = Instant::now();
    let tallies = live_many(Plan::TROUBLE, SEEDS);
    let sum = |field: fn(&Tally) -> usize| tallies.iter().map(field).sum::<usize>();
    println!(
        "{} worlds in {:?}: {} changes, {} refused, {} sessions, {} cut, {} kills, {} frames sent, {} received, converged in at most {} ms",
        tallies.len(),
        begin.elapsed(),
        sum(|t| t.changes),
        sum(|t| t.refusals),
        sum(|t| t.sessions),
        sum(|t| t.cuts),
        sum(|t| t.kills),
        sum(|t| t.sent),
        sum(|t| t.arrivals as usize),
        tallies.iter().map(|t| t.converged_ms).max().unwrap_or(0),
    );
    assert!(sum(|t| t.refusals) * 5 < sum(|t| t.changes), "a script that is refused tests nothing");
}

#[test]
fn without_faults_every_change_is_in_force_within_seconds() {
    let plan = Plan { trouble: Duration::from_secs(2), faults: false };
    for tally in live_many(plan, SEEDS / 10) {
        assert!(tally.converged_ms <= 2_500, "{tally:?}");
        assert_eq!(tally.answers, tally.queries, "{tally:?}");
    }
}

#[test]
fn a_seed_says_all_that_happens() {
    let seed = number("SEED").unwrap_or(7);
    assert_eq!(live(seed, Plan::TROUBLE), live(seed, Plan::TROUBLE));
}
