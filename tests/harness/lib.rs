//! Harness of the end-to-end suites: labs as a user builds them, driven by the `weft` binary of the same build.
//!
//! Nothing here reaches into a process: what a suite knows, a user could know. Every lab asserts at its end that
//! the ledger of every host balances.

pub mod inventory;
pub mod lab;
mod matrix;
pub mod sim;
pub mod skip;
pub mod traffic;

pub use inventory::Inventory;
pub use lab::{Lab, Setup};
pub use skip::{may_run, skip};
