//! API server, store, compiler, push, status
