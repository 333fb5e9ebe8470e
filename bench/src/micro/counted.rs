//! Instructions per operation: this program again, under valgrind, with a row's batch done once and twice as often.
//!
//! The difference is the row's alone, whatever it takes to prepare it, and the same on every machine, busy or not.

use anyhow::{Context, Result};

use super::row::Row;
use crate::instructions;

/// Operations that are counted, at least.
const OPERATIONS: usize = 5_000;

/// Fills in the instructions of a group's rows.
pub(super) fn count(group: &str, rows: &mut [Row]) -> Result<()> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    for row in rows {
        let Row::Timed(timed) = row else { continue };
        let batches = OPERATIONS.div_ceil(timed.operations);
        let run = |batches: usize| {
            instructions::count(&program, &["--only", group, "--run", &timed.name, "--batches", &batches.to_string()])
        };
        let (once, twice) = (run(batches)?, run(2 * batches)?);
        timed.instructions = Some((twice as f64 - once as f64) / (batches * timed.operations) as f64);
    }
    Ok(())
}
