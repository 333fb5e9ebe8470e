//! Per-host daemon: session, lower, reconcile, attach, keep

pub mod config;
pub mod lower;
#[cfg(test)]
mod testing;
