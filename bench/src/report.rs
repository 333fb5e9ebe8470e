//! The table for people and the JSON for programs.

use anyhow::Result;
use serde::Serialize;

use crate::measure::Metric;

/// Everything that one run found.
#[derive(Serialize)]
pub(crate) struct Report {
    kernel: String,
    processors: usize,
    pub(crate) rows: Vec<Row>,
    pub(crate) facts: Vec<Fact>,
    pub(crate) skipped: Vec<String>,
    /// Rounds repeated because of steal.
    pub(crate) repeated: usize,
}

/// One metric over all rounds.
#[derive(Serialize)]
pub(crate) struct Row {
    group: String,
    metric: String,
    unit: String,
    contenders: Vec<String>,
    /// Per round, a figure per contender.
    rounds: Vec<Vec<f64>>,
}

/// One figure of Weft alone.
#[derive(Serialize)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) median: f64,
    pub(crate) all: Vec<f64>,
}

impl Report {
    pub(crate) fn new() -> Result<Self> {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let processors = std::thread::available_parallelism()?.get();
        Ok(Self { kernel, processors, rows: Vec::new(), facts: Vec::new(), skipped: Vec::new(), repeated: 0 })
    }

    pub(crate) fn print(&self) {
        println!("Linux {}, {} processors; rounds repeated for steal: {}", self.kernel, self.processors, self.repeated);
        self.rows.iter().for_each(Row::print);
        for fact in &self.facts {
            println!("{:24} median {:.3} {}  all {:.3?}", fact.name, fact.median, fact.unit, fact.all);
        }
        self.skipped.iter().for_each(|s| println!("SKIPPED {s}"));
    }
}

impl Row {
    pub(crate) fn new(group: &str, metric: &Metric, contenders: Vec<String>, rounds: Vec<Vec<f64>>) -> Self {
        Self {
            group: group.to_owned(),
            metric: metric.name.to_owned(),
            unit: metric.unit.to_owned(),
            contenders,
            rounds,
        }
    }

    fn print(&self) {
        for (index, name) in self.contenders.iter().enumerate() {
            let figures: Vec<f64> = self.rounds.iter().map(|r| r[index]).collect();
            let head = format!("{} {} {name}", self.group, self.metric);
            print!("{head:32} median {:8.2} {:6}", median(&figures), self.unit);
            if index > 0 {
                let ratios: Vec<f64> = self.rounds.iter().map(|r| r[0] / r[index]).collect();
                print!("  weft/{name} {:.2}  all {ratios:.2?}", median(&ratios));
            }
            println!();
        }
    }
}

/// The middle of the figures; not a number when there are none.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
