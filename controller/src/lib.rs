//! API server, store, compiler, push, status

pub mod allocate;
pub mod compile;
pub mod manifest;
pub mod pki;
pub mod push;
pub mod rest;
pub mod run;
pub mod status;
pub mod store;
pub mod validate;

pub use run::{ApiTcp, Config, Controller, PushSecurity, RunError, run};
