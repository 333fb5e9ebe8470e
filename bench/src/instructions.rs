//! Instructions per lookup, counted by valgrind: the same on every machine, busy or not.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::report::Fact;

const LOOKUPS: u32 = 20_000;

/// Instructions per lookup at 10 and at 10,000 rules with the same four masks, and their ratio (at most 1.3).
pub(crate) fn facts(classify: &Path) -> Result<Vec<Fact>> {
    let few = per_lookup(classify, 10)?;
    let many = per_lookup(classify, 10_000)?;
    let fact = |name: &str, unit: &str, figure| Fact {
        name: name.to_owned(),
        unit: unit.to_owned(),
        median: figure,
        all: vec![figure],
    };
    Ok(vec![
        fact("lookup, 10 rules", "instructions", few),
        fact("lookup, 10,000 rules", "instructions", many),
        fact("lookup, 10,000 / 10", "", many / few),
    ])
}

/// The difference of two runs that build the same table: what building costs falls out.
fn per_lookup(classify: &Path, rules: u32) -> Result<f64> {
    let base = count(classify, &[&rules.to_string(), &LOOKUPS.to_string()])?;
    let more = count(classify, &[&rules.to_string(), &(2 * LOOKUPS).to_string()])?;
    Ok((more as f64 - base as f64) / f64::from(LOOKUPS))
}

/// The instructions of one run of a program.
pub(crate) fn count(program: &Path, args: &[&str]) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(args)
        .output()
        .context("cannot start valgrind: apt-get install valgrind")?;
    ensure!(output.status.success(), "{} failed under valgrind", program.display());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|l| l.split_once("Collected : ")).context("valgrind printed no count")?;
    line.1.trim().parse().context("valgrind's count is not a number")
}
