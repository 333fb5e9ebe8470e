//! What is measured, by tools that users know: iperf3 for bulk, sockperf for ping-pong.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::contender::Contender;

/// The largest part of the time that the hypervisor may take away in a round.
pub(crate) const STEAL_MAX: f64 = 0.02;
/// Rounds that are repeated at most, all comparisons together.
pub(crate) const REPEATED_MAX: usize = 20;

/// One figure of a contender.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    measure: fn(&Contender, u32) -> Result<f64>,
}

/// Every metric, in the order of measuring.
pub(crate) const METRICS: &[Metric] = &[
    Metric { name: "tcp-1", unit: "Gbit/s", measure: |c, s| tcp(c, s, 1) },
    Metric { name: "tcp-4", unit: "Gbit/s", measure: |c, s| tcp(c, s, 4) },
    Metric { name: "ping-pong p50", unit: "us", measure: |c, s| ping_pong(c, s, "50.000") },
];

impl Metric {
    pub(crate) fn run(&self, contender: &Contender, seconds: u32) -> Result<f64> {
        (self.measure)(contender, seconds).with_context(|| format!("{} of {}", self.name, contender.name))
    }
}

/// Runs `work` and tells which part of the machine's time was stolen meanwhile.
pub(crate) fn with_steal<T>(work: impl FnOnce() -> T) -> Result<(T, f64)> {
    let before = cpu_times()?;
    let result = work();
    let after = cpu_times()?;
    let total = (after.0 - before.0).max(1.0);
    Ok((result, (after.1 - before.1) / total))
}

/// Total and stolen ticks of all processors since boot (proc_stat(5)).
fn cpu_times() -> Result<(f64, f64)> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    Ok((ticks.iter().take(8).sum(), ticks.get(7).copied().unwrap_or(0.0)))
}

fn tcp(contender: &Contender, seconds: u32, flows: u32) -> Result<f64> {
    let mut server = contender
        .command(&contender.to, &["iperf3", "-s", "-1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(400));
    let (seconds, flows) = (seconds.to_string(), flows.to_string());
    let words = ["iperf3", "-J", "-c", contender.address, "-t", &seconds, "-P", &flows, "--connect-timeout", "3000"];
    let output = contender.command(&contender.from, &words).output();
    server.kill()?;
    server.wait()?;
    let result: Value = serde_json::from_slice(&output?.stdout).context("iperf3 printed no JSON")?;
    let bits = result["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("iperf3: {}", result["error"]))? / 1e9)
}

fn ping_pong(contender: &Contender, seconds: u32, percentile: &str) -> Result<f64> {
    let mut server = contender
        .command(&contender.to, &["sockperf", "sr", "--tcp", "-p", "11111"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    let seconds = seconds.to_string();
    let words = ["sockperf", "pp", "--tcp", "-i", contender.address, "-p", "11111", "-t", &seconds, "-m", "64"];
    let output = contender.command(&contender.from, &words).output();
    server.kill()?;
    server.wait()?;
    let text = String::from_utf8_lossy(&output?.stdout).into_owned();
    let line = text.lines().find(|l| l.contains(&format!("percentile {percentile}")));
    let last = line.and_then(|l| l.split_whitespace().last()).and_then(|w| w.parse().ok());
    last.context("sockperf printed no percentile")
}
