//! Micro-benchmarks: what one operation takes on one core, without a kernel, a device or a namespace.
//!
//! A table for people, or a line of JSON per figure. No figure here is one of a whole vswitch at work: these say which
//! stage costs what, and whether a change of one paid.

mod counted;
mod fast;
mod guests;
mod memory;
mod pipeline;
mod row;
mod rules;
mod slow;
mod timer;

use anyhow::Result;
use row::Row;
use timer::{Timed, Wanted};

/// What to measure, and how to print it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these of parse, classify, tunnel, segment, pipeline, flat, scaling, memory, lookup, apply
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    only: Vec<String>,
    /// Only figures with this in their names
    #[arg(long, value_name = "TEXT", default_value = "")]
    rows: String,
    /// Print a line of JSON per figure
    #[arg(long)]
    json: bool,
    /// Count instructions too, with valgrind, of parse, classify, tunnel and segment
    #[arg(long)]
    instructions: bool,
    /// Only do the batch of this row so often, for somebody who counts
    #[arg(long, hide = true, value_name = "ROW")]
    run: Option<String>,
    #[arg(long, hide = true, default_value_t = 0)]
    batches: usize,
}

/// A name for `--only`, and what measures it.
type Group = (&'static str, fn() -> Result<Vec<Row>>);

const GROUPS: [Group; 10] = [
    ("parse", || Ok(times(fast::parsing()))),
    ("classify", || fast::classifying().map(times)),
    ("tunnel", || fast::tunnelling().map(times)),
    ("segment", || fast::segments().map(times)),
    ("pipeline", pipeline::rows),
    ("flat", pipeline::flatness),
    ("scaling", pipeline::scaling),
    ("memory", memory::rows),
    ("lookup", || Ok(times(slow::lookups()))),
    ("apply", || slow::apply().map(times)),
];

/// The stages whose instructions can be counted.
const COUNTED: [&str; 4] = ["parse", "classify", "tunnel", "segment"];

/// Measures, and prints each group as soon as it is done.
pub fn run(args: &Args) -> Result<()> {
    timer::want(Wanted { text: args.rows.clone(), run: args.run.clone().map(|row| (row, args.batches)) });
    for (name, group) in GROUPS.iter().filter(|(name, _)| args.only.is_empty() || args.only.iter().any(|o| o == name)) {
        let mut rows = group()?;
        rows.retain(Row::is_measured);
        if args.instructions
            && COUNTED.contains(name)
            && let Err(why) = counted::count(name, &mut rows)
        {
            eprintln!("SKIPPED instructions of {name}: {why:#}");
        }
        rows.iter().try_for_each(|row| print(row, args.json))?;
    }
    Ok(())
}

fn times(rows: Vec<Timed>) -> Vec<Row> {
    rows.into_iter().map(Row::from).collect()
}

fn print(row: &Row, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(row)?);
    } else {
        println!("{}", row.line());
    }
    Ok(())
}
