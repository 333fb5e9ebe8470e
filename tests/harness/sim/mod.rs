//! A whole fabric in one thread: controller and three hosts on one clock and one source of randomness.
//!
//! The code under test is the real one (store, allocation, compiler, hub, agent, vswitch); only what touches a kernel is
//! played: sessions, devices, the underlay, and the death of processes. A seed says all that happens, so a failure is
//! replayed by its seed.

pub mod agenda;
pub mod check;
mod control;
mod converge;
mod data;
pub mod fabric;
pub mod guest;
pub mod host;
pub mod link;
pub mod random;
mod script;
pub mod world;

pub use random::Random;
pub use world::{Plan, Tally, World};
