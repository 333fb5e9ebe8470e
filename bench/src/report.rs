//! What a run found: the table for people and the JSON for programs.
//!
//! Machines are shared and noisy, so the contract is a ratio: in each round contenders take turns, each round gives one
//! ratio of Weft to a peer (a pair), and the median of the pairs counts.

use std::fmt::Write;

use serde::Serialize;

use crate::machine::{Load, Machine};
use crate::measure::Figure;
use crate::numbers::median;

/// Everything that one run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) seconds: u32,
    pub(crate) contenders: Vec<Described>,
    pub(crate) rows: Vec<Row>,
    pub(crate) facts: Vec<Fact>,
    pub(crate) skipped: Vec<String>,
    /// Rounds repeated because the machine was not ours alone.
    pub(crate) repeated: usize,
    /// Seconds waited until it was.
    pub(crate) waited_s: u64,
}

/// What a contender was when it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Described {
    pub(crate) group: String,
    pub(crate) name: String,
    /// The rung of the capability ladder, of Weft only.
    pub(crate) rung: Option<String>,
    /// Offloads of the sending guest's device.
    pub(crate) offloads: String,
}

/// One figure over all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) group: String,
    pub(crate) figure: Figure,
    pub(crate) contenders: Vec<String>,
    /// Per round, a sample per contender; none of one that takes no part or failed.
    pub(crate) rounds: Vec<Vec<Option<Sample>>>,
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    pub(crate) load: Load,
    /// The rung in use, of Weft only.
    pub(crate) rung: Option<String>,
}

/// Two samples of one round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Pair {
    pub(crate) ratio: f64,
    /// How busy the machine was, the mean of both.
    pub(crate) busy: f64,
    /// Stolen time, the worse of both.
    pub(crate) steal: f64,
    /// What all CPUs were worth, the worse of both.
    pub(crate) worth: f64,
}

/// One figure of Weft alone.
#[derive(Debug, Serialize)]
pub(crate) struct Fact {
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) median: f64,
    pub(crate) all: Vec<f64>,
}

impl Report {
    pub(crate) fn new(machine: Machine, seconds: u32) -> Self {
        let (contenders, rows, facts, skipped) = Default::default();
        Self { machine, seconds, contenders, rows, facts, skipped, repeated: 0, waited_s: 0 }
    }

    /// Notes what was not measured, and why, on one line.
    pub(crate) fn skip(&mut self, why: String) {
        self.skipped.push(why.split('\n').map(str::trim).collect::<Vec<_>>().join("; "));
    }

    /// The row of a figure.
    pub(crate) fn row(&self, group: &str, figure: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.group == group && row.figure.name == figure)
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut out = format!("{}, {} s per measurement\n", self.machine, self.seconds);
        let Self { repeated, waited_s, .. } = self;
        let _ = writeln!(out, "for stolen time and shared cores {repeated} rounds repeated, {waited_s} s waited;");
        out += "a pair is ratio/machine busy/stolen/what all CPUs were worth right after it, in CPUs;\n";
        out += "switch and tools: who spent how much of all processors' time, the kernel's on their account included\n";
        for one in &self.contenders {
            let rung = one.rung.as_ref().map(|rung| format!("rung {rung}; ")).unwrap_or_default();
            let _ = writeln!(out, "{} {}: {rung}{}", one.group, one.name, one.offloads);
        }
        self.rows.iter().for_each(|row| row.table(&mut out));
        for Fact { name, unit, median, all } in &self.facts {
            let _ = writeln!(out, "{name:24} median {median:.3} {unit}  all {all:.3?}");
        }
        for skipped in &self.skipped {
            let _ = writeln!(out, "SKIPPED {skipped}");
        }
        out
    }
}

impl Row {
    /// The figures of a contender, of the rounds in which it has one.
    pub(crate) fn values(&self, contender: &str) -> Vec<f64> {
        let Some(at) = self.position(contender) else { return Vec::new() };
        self.rounds.iter().filter_map(|round| Some(round[at].as_ref()?.value)).collect()
    }

    /// One contender against another, round by round.
    pub(crate) fn pairs(&self, mine: &str, other: &str) -> Vec<Pair> {
        let (Some(mine), Some(other)) = (self.position(mine), self.position(other)) else { return Vec::new() };
        let pair = |round: &Vec<Option<Sample>>| {
            let (mine, other) = (round[mine].as_ref()?, round[other].as_ref()?);
            Some(Pair {
                ratio: mine.value / other.value,
                busy: f64::midpoint(mine.load.busy, other.load.busy),
                steal: mine.load.steal.max(other.load.steal),
                worth: mine.load.worth.min(other.load.worth),
            })
        };
        self.rounds.iter().filter_map(pair).collect()
    }

    fn loads(&self, contender: &str, part: fn(&Load) -> f64) -> Vec<f64> {
        let Some(at) = self.position(contender) else { return Vec::new() };
        self.rounds.iter().filter_map(|round| Some(part(&round[at].as_ref()?.load))).collect()
    }

    fn position(&self, contender: &str) -> Option<usize> {
        self.contenders.iter().position(|c| c == contender)
    }

    fn table(&self, out: &mut String) {
        let Figure { name, unit, compared } = self.figure;
        let Some(first) = self.contenders.first() else { return };
        let _ = writeln!(out, "{} {name}, {unit}", self.group);
        for contender in self.contenders.iter().filter(|c| !self.values(c).is_empty()) {
            let _ = write!(out, "  {contender:13} median {:9.2}", median(&self.values(contender)));
            if compared {
                let [switch, tools] = [|load: &Load| load.switch, |load: &Load| load.tools]
                    .map(|part| median(&self.loads(contender, part)) * 100.0);
                let _ = write!(out, "  switch {switch:.0}% tools {tools:.0}%");
            }
            let pairs = self.pairs(first, contender);
            if compared && contender != first && !pairs.is_empty() {
                let ratios: Vec<f64> = pairs.iter().map(|pair| pair.ratio).collect();
                let _ = write!(out, "  {first}/{contender} {:.2}  pairs", median(&ratios));
                for Pair { ratio, busy, steal, worth } in &pairs {
                    let _ = write!(out, " {ratio:.2}/{:.0}%/{:.1}%/{worth:.1}", busy * 100.0, steal * 100.0);
                }
            }
            out.push('\n');
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report of one figure, a sample per contender and round; `NAN` for none.
    pub(crate) fn report(group: &str, name: &'static str, contenders: &[&str], rounds: &[&[f64]]) -> Report {
        let load = Load { busy: 0.9, steal: 0.001, switch: 0.5, tools: 0.4, worth: 1.9 };
        let sample = |value: &f64| (!value.is_nan()).then_some(Sample { value: *value, load, rung: None });
        let machine = Machine {
            kernel: "6.18".to_owned(),
            processor: "test".to_owned(),
            processors: 2,
            congestion_control: "bbr".to_owned(),
        };
        let mut report = Report::new(machine, 2);
        report.rows.push(Row {
            group: group.to_owned(),
            figure: Figure { name, unit: "Gbit/s", compared: true },
            contenders: contenders.iter().map(|c| (*c).to_owned()).collect(),
            rounds: rounds.iter().map(|round| round.iter().map(sample).collect()).collect(),
        });
        report
    }

    #[test]
    fn ratios_are_taken_pair_by_pair_and_only_where_both_were_measured() {
        let rounds: &[&[f64]] = &[&[10.0, 5.0], &[f64::NAN, 5.0], &[9.0, 3.0], &[8.0, 8.0]];
        let report = report("local", "tcp-1", &["weft", "kernel"], rounds);
        let row = report.row("local", "tcp-1").unwrap();
        let ratios: Vec<f64> = row.pairs("weft", "kernel").iter().map(|p| p.ratio).collect();
        assert_eq!(ratios, [2.0, 3.0, 1.0]);
        assert_eq!(row.values("weft"), [10.0, 9.0, 8.0]);
        assert!(row.pairs("weft", "nobody").is_empty());
    }

    #[test]
    fn the_table_shows_the_median_and_every_pair_with_load_and_steal() {
        let report = report("local", "tcp-1", &["weft", "kernel"], &[&[10.0, 5.0], &[9.0, 3.0], &[8.0, 8.0]]);
        let table = report.table();
        assert!(table.contains("  weft          median      9.00  switch 50% tools 40%\n"), "{table}");
        assert!(
            table.contains("weft/kernel 2.00  pairs 2.00/90%/0.1%/1.9 3.00/90%/0.1%/1.9 1.00/90%/0.1%/1.9"),
            "{table}"
        );
    }
}
