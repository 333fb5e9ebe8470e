//! Micro-benchmarks of the data path, alone in a program: `weft-bench-micro --only classify,lookup --json`.

use clap::Parser;
use weft_bench::micro;
use weft_sys::alloc_count::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Measures single stages of the data path on one core.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: micro::Args,
}

fn main() -> anyhow::Result<()> {
    micro::run(&Cli::parse().args)
}
