//! Benchmarks side by side: the same two guests on Weft, on the kernel and on Open vSwitch, in one run.
//!
//! Machines are shared and noisy, so the contract is a ratio: contenders take turns, each round gives one ratio, and
//! the median of the ratios counts. A round in which the hypervisor took more than 2 % of the time away is repeated.

mod contender;
mod instructions;
mod lab;
mod measure;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

use contender::{Contender, Group};
use report::{Report, Row};

/// Weft against its peers, in interleaved rounds.
#[derive(Parser)]
struct Args {
    /// The `weft` binary to measure.
    #[arg(long)]
    weft: PathBuf,
    /// Rounds per comparison.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Where the JSON goes.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only these groups.
    #[arg(long)]
    only: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let mut report = Report::new()?;
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|o| o == name);
    for group in contender::groups(&args.weft)? {
        if wanted(group.name) {
            run_group(&group, &args, &mut report)?;
        }
    }
    if wanted("lab") {
        report.facts.extend(lab::facts(&args.weft, args.rounds)?);
    }
    if wanted("instructions") {
        report.facts.extend(instructions::facts(&args.weft.with_file_name("weft-bench-classify"))?);
    }
    report.print();
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Builds every contender of the group, lets them take turns, removes them.
fn run_group(group: &Group, args: &Args, report: &mut Report) -> Result<()> {
    let mut standing: Vec<&Contender> = Vec::new();
    for contender in &group.contenders {
        match contender.up() {
            Ok(()) => standing.push(contender),
            Err(why) => report.skipped.push(format!("{} {}: {why:#}", group.name, contender.name)),
        }
    }
    for metric in measure::METRICS {
        let mut rounds = Vec::new();
        while rounds.len() < args.rounds {
            eprintln!("{} {} round {}", group.name, metric.name, rounds.len() + 1);
            let (round, steal) = measure::with_steal(|| {
                standing.iter().map(|c| metric.run(c, args.seconds)).collect::<Result<Vec<_>>>()
            })?;
            if steal > measure::STEAL_MAX && report.repeated < measure::REPEATED_MAX {
                report.repeated += 1;
                continue;
            }
            rounds.push(round?);
        }
        let names = standing.iter().map(|c| c.name.to_owned()).collect();
        report.rows.push(Row::new(group.name, metric, names, rounds));
    }
    standing.iter().try_for_each(|c| c.down())
}
