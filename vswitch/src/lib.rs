//! Data plane: ports, workers, caches, tables, maps, counters.
//!
//! Two halves: what is decided about a frame (tables, maps, caches), and what carries it (ports, underlay, workers).
//! They meet in [`verdict::Verdict`]. [`run()`] is the process; [`Inline`] is the same vswitch without threads or sockets.

pub mod cache;
pub mod classifier;
pub mod control;
pub mod counters;
pub mod cow;
mod egress;
pub mod epoch;
pub mod evaluate;
mod execute;
pub mod learn;
pub mod limits;
pub mod maps;
pub mod port;
pub mod publish;
mod reply;
mod report;
mod ring;
mod run;
pub mod tables;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tunnel;
pub mod underlay;
pub mod verdict;
pub mod worker;

pub use run::{Config, RunError, run};
pub use worker::inline::Inline;
