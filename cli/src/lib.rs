//! The weft binary: every subcommand, printing, the lab.
//!
//! A library behind a one-line `main`, so that tests read topologies and judge checks with the same code.

pub mod args;
pub mod client;
pub mod commands;
pub mod exit;
pub mod lab;
pub mod output;

use std::process::ExitCode;

use clap::Parser;

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<exit::Passed>() {
                eprintln!("weft: {}", exit::tell(&error));
            }
            exit::code(&error)
        }
    }
}
