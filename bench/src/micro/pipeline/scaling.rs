//! Two workers against one: each pinned to a CPU, with queues of their own, and all that a vswitch's workers share.

use std::time::{Duration, Instant};

use anyhow::Result;
use weft_sys::process::cpus;
use weft_vswitch::worker::Worker;

use super::lane::{Bench, Lane, Sink, Source};
use super::local;
use crate::micro::row::{Figure, Row};
use crate::numbers::median;
use crate::processors::{Processors, at_once};

const WORKERS: usize = 2;
const FLOWS: u32 = 1_000;
const PAIRS: usize = 9;
/// Pairs that are measured at most, in the hope for [`PAIRS`] on two CPUs that are worth two.
const PAIRS_MAX: usize = 45;
/// What the two CPUs are worth together before and after a pair that counts, in CPUs.
const WORTH_MIN: f64 = 1.8;
const WINDOW: Duration = Duration::from_millis(100);

/// What one pair found: millions of frames per second, and what the CPUs were worth.
struct Pair {
    one: f64,
    two: f64,
    worth: f64,
}

/// Frames per second of one worker and of two, by the clock on the wall and with the guests' side in it, in turns. Pairs count
/// while the CPUs are worth two by plain arithmetic; when too few are, all do.
pub(in crate::micro) fn rows() -> Result<Vec<Row>> {
    if cpus() < WORKERS {
        eprintln!("SKIPPED scaling: there are fewer than {WORKERS} CPUs");
        return Ok(Vec::new());
    }
    let now = Instant::now();
    let mut bench = Bench::new(WORKERS, local(), now)?;
    let mut workers = std::mem::take(&mut bench.vswitch.fleet.workers);
    let ends = bench.from.drain(..).zip(bench.to.drain(..)).zip(0..);
    let mut lanes: Vec<Lane> = ends
        .map(|((from, to), index)| Lane::new(Source::Port(from), Sink::Port(to), FLOWS * index..FLOWS * (index + 1)))
        .collect();
    for (worker, lane) in workers.iter_mut().zip(&mut lanes) {
        lane.warm_up(|| worker.step(now))?;
    }
    let good = |pairs: &[Pair]| pairs.iter().filter(|pair| pair.worth >= WORTH_MIN).count();
    let mut processors = Processors::new(WORKERS);
    // Each is asked once what it does alone, before anything is judged by it.
    processors.worth()?;
    let (mut pairs, mut worth) = (Vec::new(), processors.worth()?);
    while pairs.len() < PAIRS_MAX && good(&pairs) < PAIRS {
        let before = worth;
        let one = rate(&mut workers[..1], &mut lanes[..1], now)?;
        let two = rate(&mut workers, &mut lanes, now)?;
        worth = processors.worth()?;
        pairs.push(Pair { one, two, worth: worth.min(before) });
    }
    bench.vswitch.fleet.workers = workers;
    let frames = lanes.iter().map(Lane::check).sum::<Result<usize>>()?;
    bench.check(frames, now)?;
    let measured = pairs.len();
    if good(&pairs) >= PAIRS {
        pairs.retain(|pair| pair.worth >= WORTH_MIN);
    }
    let figure = |name: &str, value: fn(&Pair) -> f64, unit| {
        Row::from(Figure::new(name, median(&pairs.iter().map(value).collect::<Vec<_>>()), unit))
    };
    Ok(vec![
        figure("scaling, one worker and its guests", |pair| pair.one, "Mpps"),
        figure("scaling, two workers and their guests", |pair| pair.two, "Mpps"),
        figure("scaling, two workers against one", |pair| pair.two / pair.one, "times"),
        figure("scaling, the CPUs by plain arithmetic", |pair| pair.worth, "times"),
        Row::from(Figure::new("scaling, pairs measured for that", measured as f64, "pairs")),
    ])
}

/// Millions of frames per second that these workers carry, each in a thread on its own CPU.
fn rate(workers: &mut [Worker], lanes: &mut [Lane], now: Instant) -> Result<f64> {
    at_once(0, workers.iter_mut().zip(lanes), |(worker, lane)| {
        let (start, before) = (Instant::now(), lane.arrived());
        while start.elapsed() < WINDOW {
            (0..16).for_each(|_| _ = lane.burst(|| worker.step(now)));
        }
        (lane.arrived() - before) as f64 / start.elapsed().as_secs_f64() / 1e6
    })
}
