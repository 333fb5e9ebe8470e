//! `weft-bench`: the benchmarks as a program of their own. `weft bench` is the same.

use anyhow::Result;
use clap::Parser;

/// Weft against the kernel, Open vSwitch and a bare wire, in interleaved rounds
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    args: weft_bench::Args,
}

fn main() -> Result<()> {
    weft_bench::run(&Cli::parse().args, &[])
}
