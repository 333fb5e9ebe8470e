//! API server, store, compiler, push, status

pub mod compile;
pub mod pki;
pub mod push;
pub mod status;
pub mod store;
