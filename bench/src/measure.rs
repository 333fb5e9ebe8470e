//! What is measured between two guests.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::generator::{self, FLOWS_MAX, Found};
use crate::iperf::{self, Running, Traffic};
use crate::standing::Standing;
use crate::tcp;

/// One measurement of a contender; it gives a value for each of its figures.
pub(crate) struct Test {
    pub(crate) name: &'static str,
    pub(crate) figures: &'static [Figure],
    run: fn(&Standing<'_>, u32, u32) -> Result<Vec<f64>>,
}

/// One figure of a test.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// Whether contenders are compared by it; others explain it.
    pub(crate) compared: bool,
}

/// Every test, in the order of measuring.
pub(crate) const TESTS: &[Test] = &[
    Test { name: "tcp-1", figures: &[compared("tcp-1", "Gbit/s")], run: |s, t, _| bulk(s, t, Traffic::Tcp(1)) },
    Test {
        name: "tcp-1-cubic",
        figures: &[compared("tcp-1-cubic", "Gbit/s")],
        run: |s, t, _| bulk(s, t, Traffic::Cubic),
    },
    Test { name: "tcp-4", figures: &[compared("tcp-4", "Gbit/s")], run: |s, t, _| bulk(s, t, Traffic::Tcp(4)) },
    Test { name: "udp", figures: &[compared("udp", "Gbit/s")], run: |s, t, _| bulk(s, t, Traffic::Udp) },
    Test {
        name: "pps-64",
        figures: &[
            compared("pps-64", "kpps"),
            explaining("pps-64 offered", "kpps"),
            explaining("pps-64 lost", "%"),
            explaining("pps-64 reordered", "frames"),
            explaining("pps-64 duplicated", "frames"),
        ],
        run: |s, t, run| small(s, t, FLOWS_MAX, run),
    },
    Test {
        name: "pps-64-one",
        figures: &[
            compared("pps-64-one", "kpps"),
            explaining("pps-64-one offered", "kpps"),
            explaining("pps-64-one lost", "%"),
            explaining("pps-64-one reordered", "frames"),
            explaining("pps-64-one duplicated", "frames"),
        ],
        run: |s, t, run| small(s, t, 1, run),
    },
    Test {
        name: "ping-pong",
        figures: &[compared("ping-pong p50", "us"), compared("ping-pong p99", "us")],
        run: |s, t, _| {
            let latency = tcp::ping_pong(&s.from(), &s.to(), window(t))?;
            Ok(vec![latency.p50_us, latency.p99_us])
        },
    },
    Test {
        name: "beside-bulk",
        figures: &[
            compared("beside-bulk p99", "us"),
            compared("beside-bulk p50", "us"),
            explaining("beside-bulk tcp-1", "Gbit/s"),
        ],
        run: |s, t, _| beside_bulk(s, t),
    },
    Test {
        name: "connect",
        figures: &[compared("connect", "1/s")],
        run: |s, t, _| Ok(vec![tcp::connect_rate(&s.from(), &s.to(), window(t))?]),
    },
];

impl Test {
    /// Measures for that many seconds; `run` tells this measurement's frames from those of earlier ones.
    pub(crate) fn run(&self, standing: &Standing<'_>, seconds: u32, run: u32) -> Result<Vec<f64>> {
        let name = &standing.contender.name;
        (self.run)(standing, seconds, run).with_context(|| format!("{} of {name}", self.name))
    }
}

const fn compared(name: &'static str, unit: &'static str) -> Figure {
    Figure { name, unit, compared: true }
}

const fn explaining(name: &'static str, unit: &'static str) -> Figure {
    Figure { name, unit, compared: false }
}

fn window(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

fn bulk(standing: &Standing<'_>, seconds: u32, traffic: Traffic) -> Result<Vec<f64>> {
    Ok(vec![iperf::run(&standing.from(), &standing.to(), traffic, seconds)?])
}

fn small(standing: &Standing<'_>, seconds: u32, flows: u64, run: u32) -> Result<Vec<f64>> {
    let found = generator::run(&standing.from(), &standing.to(), flows, window(seconds), run)?;
    let Found { delivered_kpps, offered_kpps, lost_percent, reordered, duplicated } = found;
    Ok(vec![delivered_kpps, offered_kpps, lost_percent, reordered as f64, duplicated as f64])
}

/// Ping-pong in the midst of a bulk flow, which begins a moment before and ends a moment after.
fn beside_bulk(standing: &Standing<'_>, seconds: u32) -> Result<Vec<f64>> {
    let bulk = Running::start(&standing.from(), &standing.to(), Traffic::Tcp(1), seconds + 1)?;
    std::thread::sleep(Duration::from_millis(400));
    let latency = tcp::ping_pong(&standing.from(), &standing.to(), window(seconds))?;
    Ok(vec![latency.p99_us, latency.p50_us, bulk.finish()?])
}
