//! The time of day. Everything but the edges of a process takes time as an argument; this is where the edges get it.

use std::time::SystemTime;

/// Now, by the wall clock: for certificates and for people. Time spans are measured with `Instant`.
pub fn wall() -> SystemTime {
    SystemTime::now()
}
