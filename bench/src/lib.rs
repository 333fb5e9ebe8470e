//! Benchmarks side by side: the same two guests on Weft, on the kernel, on Open vSwitch and on a bare wire, in one run.
//!
//! `weft-bench` and `weft bench` are two doors to [`run`]. Everything is built in network namespaces of its own and
//! taken down; a tool or peer that is not installed is skipped, with the reason.

mod chart;
mod contender;
mod generator;
mod goals;
mod in_memory;
mod instructions;
mod iperf;
mod lab;
mod machine;
mod measure;
pub mod micro;
mod numbers;
mod peers;
mod processors;
mod quiet;
mod report;
mod rounds;
mod standing;
mod tcp;
#[cfg(test)]
mod testing;
mod wire;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use weft_sys::process::{Capability, holds};

use machine::Machine;
use peers::Scripts;
use quiet::Quiet;
use report::Report;
use rounds::Effort;
use standing::Tools;
use wire::Wire;

/// What to measure, and where the results go.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The `weft` binary to measure [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    weft: Option<PathBuf>,
    /// Rounds per comparison
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// Seconds per measurement
    #[arg(long, value_name = "N", default_value_t = 2)]
    seconds: u32,
    /// Only these of local, vxlan, lab, instructions, memory
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these tests: tcp-1, tcp-1-cubic, tcp-4, udp, pps-64, pps-64-one, ping-pong, beside-bulk, connect
    #[arg(long, value_name = "TEST", value_delimiter = ',')]
    tests: Vec<String>,
    /// Only these contenders: weft, weft-segment, weft-batch, weft-single, kernel, ovs, ovs-tso, wire
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    contenders: Vec<String>,
    /// Write everything that was measured here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the goals with what was reached here, as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write the goals with what was reached here, as a picture
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Be a bare wire until standard input closes
    #[arg(long, value_enum, hide = true)]
    wire: Option<Wire>,
}

/// Runs the benchmarks. `again` are the words that lead from the running program to this function once more.
pub fn run(args: &Args, again: &[&str]) -> Result<()> {
    if let Some(wire) = args.wire {
        return wire::run(wire);
    }
    ensure!(
        [Capability::NetAdmin, Capability::NetRaw, Capability::SysAdmin].into_iter().all(holds),
        "benchmarks make network namespaces below /run/netns and packet sockets: run them as root"
    );
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let weft = args.weft.clone().unwrap_or_else(|| program.with_file_name("weft"));
    ensure!(weft.exists(), "there is no {}: build it (`cargo build -p weft-cli`), or pass --weft", weft.display());
    let myself = (program, again.iter().map(|word| (*word).to_owned()).collect());
    let tools = Tools { weft, myself, scripts: Scripts::unpack()? };
    let report = measure_all(args, &tools)?;
    print!("{}", report.table());
    write(args.json.as_deref(), &serde_json::to_string_pretty(&report)?)?;
    write(args.markdown.as_deref(), &goals::markdown(&report))?;
    write(args.chart.as_deref(), &chart::svg(&report))
}

fn measure_all(args: &Args, tools: &Tools) -> Result<Report> {
    let mut report = Report::new(Machine::this()?, args.seconds);
    let mut quiet = Quiet::new();
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|o| o == name);
    let effort = Effort {
        rounds: args.rounds,
        seconds: args.seconds,
        tests: args.tests.clone(),
        contenders: args.contenders.clone(),
    };
    for group in contender::groups().iter().filter(|group| wanted(group.name)) {
        rounds::run_group(group, tools, &effort, &mut quiet, &mut report)?;
    }
    (report.repeated, report.waited_s) = quiet.so_far();
    if wanted("lab") {
        report.facts.extend(lab::facts(&tools.weft, args.rounds)?);
    }
    if wanted("instructions") {
        match instructions::facts(&tools.weft.with_file_name("weft-bench-classify")) {
            Ok(facts) => report.facts.extend(facts),
            Err(why) => report.skip(format!("instructions: {why:#}")),
        }
    }
    if wanted("memory") {
        match in_memory::facts(&tools.weft.with_file_name("weft-bench-micro")) {
            Ok(facts) => report.facts.extend(facts),
            Err(why) => report.skip(format!("memory: {why:#}")),
        }
    }
    Ok(report)
}

fn write(path: Option<&Path>, text: &str) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
