//! Micro-benchmarks: what one operation takes on one core, without a kernel, a device or a namespace.
//!
//! A table for people, or a line of JSON per figure. No figure here is one of a whole vswitch at work: these say which
//! stage costs what, and whether a change of one paid.

mod fast;
mod guests;
mod pipeline;
mod rules;
mod slow;
mod timer;

use anyhow::Result;
use timer::Timed;

/// What to measure, and how to print it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these of parse, classify, tunnel, segment, pipeline, lookup, apply
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    only: Vec<String>,
    /// Print a line of JSON per figure
    #[arg(long)]
    json: bool,
}

/// A name for `--only`, and what measures it.
type Group = (&'static str, fn() -> Result<Vec<Timed>>);

/// Measures, and prints each group as soon as it is done.
pub fn run(args: &Args) -> Result<()> {
    let groups: [Group; 7] = [
        ("parse", || Ok(fast::parsing())),
        ("classify", fast::classifying),
        ("tunnel", fast::tunnelling),
        ("segment", fast::segments),
        ("pipeline", pipeline::rows),
        ("lookup", || Ok(slow::lookups())),
        ("apply", slow::apply),
    ];
    for (name, group) in groups {
        if args.only.is_empty() || args.only.iter().any(|only| only == name) {
            group()?.iter().try_for_each(|row| print(row, args.json))?;
        }
    }
    Ok(())
}

fn print(row: &Timed, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(row)?);
    } else {
        println!("{:<56} {:>12.1} ns {:>10.3} M/s   (best {:.1} ns)", row.name, row.ns, row.mops, row.ns_min);
    }
    Ok(())
}
