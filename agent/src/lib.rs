//! Per-host daemon: session, lower, reconcile, attach, keep
