//! The agent: what runs on every host between the controller and the vswitch.
//!
//! [`core`] decides and does no I/O; [`hands`] opens devices and speaks with the vswitch; [`run()`] puts a clock, a network
//! and signals around them. The agent is the only privileged process of a host, and invents no policy: it lowers the
//! program that the controller compiled, and keeps the last one for the time without a controller.

pub mod attach;
pub mod cache;
pub mod config;
pub mod core;
pub mod guard;
pub mod hands;
pub mod keep;
pub mod lower;
pub mod ports;
pub mod reconcile;
pub mod repeats;
pub mod report;
pub mod run;
pub mod session;
pub mod supervise;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod underlay;
pub mod work;

pub use config::{Config, ConfigError, Security};
pub use lower::{LowerError, Names, lower};
pub use report::Labels;
pub use run::{RunError, run};
