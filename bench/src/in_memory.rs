//! The figures of `weft-bench-micro` that goals are set for, from its JSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::report::Fact;

const GROUPS: &str = "pipeline,scaling,lookup,apply";

/// A line of it: a rate, or a figure with a unit.
#[derive(Debug, Deserialize)]
struct Line {
    name: String,
    mops: Option<f64>,
    value: Option<f64>,
    unit: Option<String>,
}

/// Runs it; its figures, and per size of rule set the lookups of the slowest kind.
pub(crate) fn facts(program: &Path) -> Result<Vec<Fact>> {
    eprintln!("in memory: {GROUPS}");
    let output = Command::new(program).args(["--json", "--only", GROUPS]).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(output.status.success(), "{} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    read(&String::from_utf8_lossy(&output.stdout))
}

fn read(text: &str) -> Result<Vec<Fact>> {
    let mut facts = Vec::new();
    let mut slowest: BTreeMap<usize, f64> = BTreeMap::new();
    for line in text.lines() {
        let Line { name, mops, value, unit } = serde_json::from_str(line).context("not a line of figures")?;
        let figure = mops.or(value).with_context(|| format!("{name} has no figure"))?;
        if let Some(size) = rule_set(&name) {
            let slowest = slowest.entry(size).or_insert(f64::INFINITY);
            *slowest = slowest.min(figure);
        }
        facts.push(fact(name, unit.unwrap_or_else(|| "M/s".to_owned()), figure));
    }
    facts.extend(
        slowest.into_iter().map(|(size, figure)| fact(format!("lookup, {size} rules"), "M/s".to_owned(), figure)),
    );
    Ok(facts)
}

fn fact(name: String, unit: String, figure: f64) -> Fact {
    Fact { name, unit, median: figure, all: vec![figure] }
}

/// The size of the rule set that a row looks up in, as it was asked for: the set has a few rules less, of which there were
/// two.
fn rule_set(name: &str) -> Option<usize> {
    let len: usize = name.strip_prefix("lookup, ")?.split(' ').nth(1)?.parse().ok()?;
    [1_000, 10_000, 100_000].into_iter().find(|size| len <= *size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_kind_of_a_size_counts() {
        let text = r#"{"name":"lookup, acl 999 (20 tables)","ns":100.0,"ns_min":90.0,"mops":10.0}
            {"name":"lookup, fw 1000 (20 tables)","ns":200.0,"ns_min":190.0,"mops":5.0}
            {"name":"scaling, two workers against one","value":1.9,"unit":"times"}"#;
        let facts = read(text).unwrap();
        let found: Vec<_> = facts.iter().map(|fact| (fact.name.as_str(), fact.median)).collect();
        assert_eq!(found[2..], [("scaling, two workers against one", 1.9), ("lookup, 1000 rules", 5.0)]);
    }
}
