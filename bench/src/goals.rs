//! What Weft promises against its peers, and whether a run kept it: medians of ratios, pair by pair.

use std::fmt::Write;

use crate::numbers::median;
use crate::report::Report;

/// One promise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Goal {
    pub(crate) id: &'static str,
    pub(crate) what: &'static str,
    group: &'static str,
    figure: &'static str,
    mine: &'static str,
    against: Against,
    sense: Sense,
    pub(crate) target: f64,
    stretch: Option<f64>,
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Against {
    /// The same figure of another contender: the goal is a ratio.
    Peer(&'static str),
    /// Nobody: the goal is in the figure's own unit.
    Unit(&'static str),
    /// Nobody: the figure is one of Weft's own, in this unit.
    Fact(&'static str),
}

/// Which side of the target is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sense {
    AtLeast,
    AtMost,
}

/// A goal as one run found it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) goal: Goal,
    pub(crate) median: f64,
    /// One per round.
    pub(crate) all: Vec<f64>,
}

/// Every goal that this program measures.
pub(crate) const GOALS: &[Goal] = &[
    ratio("G1", "TAP to TAP, 1 TCP flow", ("local", "tcp-1"), "wire", Sense::AtLeast, 1.05, None),
    ratio("G1", "TAP to TAP, 1 TCP flow", ("local", "tcp-1"), "ovs-tso", Sense::AtLeast, 1.0, None),
    stretch("G1", "TAP to TAP, 1 TCP flow", ("local", "tcp-1"), "kernel", 1.0),
    ratio("G2", "over VXLAN, 1 TCP flow", ("vxlan", "tcp-1"), "wire", Sense::AtLeast, 1.0, None),
    ratio("G2", "over VXLAN, 1 TCP flow", ("vxlan", "tcp-1"), "kernel", Sense::AtLeast, 0.9, Some(1.05)),
    ratio("G2", "over VXLAN, 1 TCP flow", ("vxlan", "tcp-1"), "ovs", Sense::AtLeast, 8.0, None),
    Goal {
        mine: "weft-segment",
        ..ratio("G2", "the same, rung segment", ("vxlan", "tcp-1"), "ovs", Sense::AtLeast, 4.0, None)
    },
    ratio("G3a", "64 B local, delivered", ("local", "pps-64"), "wire", Sense::AtLeast, 1.0, None),
    ratio("G3a", "64 B local, delivered", ("local", "pps-64"), "kernel", Sense::AtLeast, 1.2, Some(2.0)),
    ratio("G3b", "64 B over VXLAN, delivered", ("vxlan", "pps-64"), "kernel", Sense::AtLeast, 2.0, Some(4.0)),
    ratio("G3b", "64 B over VXLAN, delivered", ("vxlan", "pps-64"), "ovs", Sense::AtLeast, 4.0, None),
    ratio("G4", "ping-pong p50, local", ("local", "ping-pong p50"), "kernel", Sense::AtMost, 1.1, Some(1.0)),
    ratio("G4b", "ping-pong p50, over VXLAN", ("vxlan", "ping-pong p50"), "kernel", Sense::AtMost, 1.3, Some(1.0)),
    micros("G4c", "ping-pong p99 beside bulk, local", ("local", "beside-bulk p99"), 1000.0, 300.0),
    micros("G4c", "ping-pong p99 beside bulk, over VXLAN", ("vxlan", "beside-bulk p99"), 1000.0, 300.0),
    fact("G3c", "in memory, exact hits, one core", "pipeline, exact", "Mpps", 15.0, Some(25.0)),
    fact("G3c", "in memory, wildcard hits, one core", "pipeline, wildcard", "Mpps", 8.0, Some(12.0)),
    fact("G3c", "the same + VXLAN push, exact", "pipeline + VXLAN push, exact", "Mpps", 10.0, Some(15.0)),
    fact("G3c", "the same + VXLAN pop, exact", "pipeline + VXLAN pop, exact", "Mpps", 10.0, Some(15.0)),
    fact("Scaling", "two workers in memory", "scaling, two workers against one", "times one", 1.8, None),
    fact("G7", "slow path, 1 k rules, slowest kind", "lookup, 1000 rules", "M/s", 5.0, Some(10.0)),
    fact("G7", "slow path, 10 k rules, slowest kind", "lookup, 10000 rules", "M/s", 3.0, Some(8.0)),
    fact("G7", "slow path, 100 k rules, slowest kind", "lookup, 100000 rules", "M/s", 1.0, Some(5.0)),
    fact(
        "G6c",
        "bulk apply",
        "apply 100,000 rules: from the message to the answer, per rule",
        "M rules/s",
        0.1,
        Some(0.5),
    ),
];

const fn ratio(
    id: &'static str,
    what: &'static str,
    (group, figure): (&'static str, &'static str),
    peer: &'static str,
    sense: Sense,
    target: f64,
    stretch: Option<f64>,
) -> Goal {
    Goal { id, what, group, figure, mine: "weft", against: Against::Peer(peer), sense, target, stretch }
}

/// A ratio that is wished for and not promised: its target is its stretch.
const fn stretch(
    id: &'static str,
    what: &'static str,
    at: (&'static str, &'static str),
    peer: &'static str,
    target: f64,
) -> Goal {
    ratio(id, what, at, peer, Sense::AtLeast, target, Some(target))
}

const fn micros(
    id: &'static str,
    what: &'static str,
    (group, figure): (&'static str, &'static str),
    target: f64,
    stretch: f64,
) -> Goal {
    let against = Against::Unit("us");
    Goal { id, what, group, figure, mine: "weft", against, sense: Sense::AtMost, target, stretch: Some(stretch) }
}

/// A figure that the in-memory benchmarks give.
const fn fact(
    id: &'static str,
    what: &'static str,
    figure: &'static str,
    unit: &'static str,
    target: f64,
    stretch: Option<f64>,
) -> Goal {
    let (group, mine, against) = ("", "weft", Against::Fact(unit));
    Goal { id, what, group, figure, mine, against, sense: Sense::AtLeast, target, stretch }
}

impl Goal {
    /// `None` when the run did not measure it.
    pub(crate) fn judge(self, report: &Report) -> Option<Verdict> {
        let row = || report.row(self.group, self.figure);
        let all: Vec<f64> = match self.against {
            Against::Peer(peer) => row()?.pairs(self.mine, peer).iter().map(|pair| pair.ratio).collect(),
            Against::Unit(_) => row()?.values(self.mine),
            Against::Fact(_) => report.facts.iter().find(|fact| fact.name == self.figure)?.all.clone(),
        };
        (!all.is_empty()).then(|| Verdict { goal: self, median: median(&all), all })
    }

    /// Who against whom, such as `weft / kernel`.
    pub(crate) fn terms(&self) -> String {
        match self.against {
            Against::Peer(peer) => format!("{} / {peer}", self.mine),
            Against::Unit(unit) | Against::Fact(unit) => format!("{}, {unit}", self.mine),
        }
    }

    /// Such as `>= 1.05`, and the stretch behind it.
    pub(crate) fn wanted(&self) -> String {
        let sign = match self.sense {
            Sense::AtLeast => ">=",
            Sense::AtMost => "<=",
        };
        match self.stretch {
            Some(stretch) if self.is_wish() => format!("stretch {sign} {stretch}"),
            Some(stretch) => format!("{sign} {} (stretch {stretch})", self.target),
            None => format!("{sign} {}", self.target),
        }
    }

    /// Whether only the stretch is set: behind it nothing promised is broken.
    pub(crate) fn is_wish(&self) -> bool {
        self.stretch == Some(self.target)
    }

    /// Times as good as the target: 1 and above is met, whichever side is good.
    pub(crate) fn attained(&self, value: f64) -> f64 {
        match self.sense {
            Sense::AtLeast => value / self.target,
            Sense::AtMost => self.target / value,
        }
    }
}

impl Verdict {
    /// `met`, `met, stretch too`, or how far it is behind.
    pub(crate) fn word(&self) -> String {
        let attained = self.goal.attained(self.median);
        let stretch = Goal { target: self.goal.stretch.unwrap_or(f64::NAN), ..self.goal };
        if attained < 1.0 {
            let not = if self.goal.is_wish() { "not yet" } else { "no" };
            format!("{not}: {:.0} % of it", attained * 100.0)
        } else if stretch.attained(self.median) >= 1.0 {
            "met, stretch too".to_owned()
        } else {
            "met".to_owned()
        }
    }
}

/// The goals as a table in Markdown, with what was measured on and what was skipped.
pub(crate) fn markdown(report: &Report) -> String {
    let mut out = format!(
        "{}; {} s per measurement; for stolen time and shared cores {} rounds repeated, {} s waited.\n\n",
        report.machine, report.seconds, report.repeated, report.waited_s
    );
    out += "| goal | what | ratio | target | median | all rounds | met |\n|---|---|---|---|---|---|---|\n";
    for goal in GOALS {
        let (id, what, terms, wanted) = (goal.id, goal.what, goal.terms(), goal.wanted());
        let found = goal.judge(report).map(|verdict| {
            let all: Vec<String> = verdict.all.iter().map(|v| format!("{v:.2}")).collect();
            format!("**{:.2}** | {} | {}", verdict.median, all.join(" "), verdict.word())
        });
        let found = found.unwrap_or_else(|| "| | not measured".to_owned());
        let _ = writeln!(out, "| {id} | {what} | {terms} | {wanted} | {found} |");
    }
    out.push('\n');
    out += "| group | figure | ";
    let mut names: Vec<&String> = Vec::new();
    for name in report.rows.iter().flat_map(|row| &row.contenders) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let _ = writeln!(out, "{} |", names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(" | "));
    let _ = writeln!(out, "|---|---|{}", "---:|".repeat(names.len()));
    for row in &report.rows {
        let cell = |name: &&String| match row.values(name.as_str()) {
            values if values.is_empty() => String::new(),
            values => format!("{:.2}", median(&values)),
        };
        let cells: Vec<String> = names.iter().map(cell).collect();
        let _ = writeln!(out, "| {} | {}, {} | {} |", row.group, row.figure.name, row.figure.unit, cells.join(" | "));
    }
    out.push('\n');
    for one in &report.contenders {
        let rung = one.rung.as_ref().map(|rung| format!("rung {rung}; ")).unwrap_or_default();
        let _ = writeln!(out, "- {} {}: {rung}{}", one.group, one.name, one.offloads);
    }
    for skipped in &report.skipped {
        let _ = writeln!(out, "- SKIPPED {skipped}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    fn goal(figure: &str, peer: &'static str) -> Goal {
        *GOALS.iter().find(|g| g.figure == figure && g.against == Against::Peer(peer)).unwrap()
    }

    #[test]
    fn a_ratio_is_judged_by_the_median_of_its_pairs() {
        let rounds: &[&[f64]] = &[&[9.5, 10.0], &[12.0, 10.0], &[9.0, 10.0]];
        let report = report("vxlan", "tcp-1", &["weft", "kernel"], rounds);
        let verdict = goal("tcp-1", "ovs").judge(&report);
        assert_eq!(verdict, None);
        let verdict = GOALS.iter().filter_map(|g| g.judge(&report)).collect::<Vec<_>>();
        assert_eq!(verdict.len(), 1);
        assert_eq!(verdict[0].median, 0.95);
        assert_eq!(verdict[0].word(), "met");
    }

    #[test]
    fn a_latency_is_good_when_it_is_small() {
        let goal = goal("ping-pong p50", "kernel");
        let verdict = |median| Verdict { goal, median, all: vec![median] };
        assert_eq!(verdict(0.9).word(), "met, stretch too");
        assert_eq!(verdict(1.05).word(), "met");
        assert_eq!(verdict(2.2).word(), "no: 50 % of it");
    }

    #[test]
    fn a_wish_shows_only_its_stretch() {
        let verdict = Verdict { goal: goal("tcp-1", "kernel"), median: 0.5, all: vec![0.5] };
        assert_eq!(verdict.word(), "not yet: 50 % of it");
        assert_eq!(goal("tcp-1", "kernel").wanted(), "stretch >= 1");
        assert_eq!(goal("pps-64", "kernel").wanted(), ">= 1.2 (stretch 2)");
    }

    #[test]
    fn the_markdown_has_a_row_per_goal_measured_or_not() {
        let text = markdown(&report("local", "tcp-1", &["weft", "wire"], &[&[11.0, 10.0]]));
        assert!(
            text.contains("| G1 | TAP to TAP, 1 TCP flow | weft / wire | >= 1.05 | **1.10** | 1.10 | met |"),
            "{text}"
        );
        assert_eq!(text.matches("not measured").count(), GOALS.len() - 1);
        assert!(text.contains("| local | tcp-1, Gbit/s | 11.00 | 10.00 |"), "{text}");
    }
}
