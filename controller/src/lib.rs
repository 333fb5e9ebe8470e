//! API server, store, compiler, push, status

pub mod compile;
pub mod store;
