//! API server, store, compiler, push, status

pub mod compile;
pub mod pki;
pub mod push;
pub mod run;
pub mod status;
pub mod allocate;
pub mod manifest;
pub mod validate;
pub mod store;

pub use run::{ApiTcp, Config, Controller, PushSecurity, RunError, run};
