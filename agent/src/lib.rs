//! Per-host daemon: session, lower, reconcile, attach, keep

pub mod config;
pub mod core;
pub mod lower;
pub mod ports;
pub mod reconcile;
pub mod report;
pub mod session;
pub mod supervise;
#[cfg(test)]
mod testing;
pub mod work;
