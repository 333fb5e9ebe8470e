//! A timer for what takes nanoseconds: the median of many samples, each of many operations.

use std::time::{Duration, Instant};

use serde::Serialize;

const SAMPLES: usize = 15;
const SAMPLE: Duration = Duration::from_millis(20);

/// What one operation takes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Timed {
    /// What is done.
    pub(super) name: String,
    /// Nanoseconds per operation, the median of the samples.
    pub(super) ns: f64,
    /// The fastest sample.
    pub(super) ns_min: f64,
    /// Millions of operations per second, at the median.
    pub(super) mops: f64,
}

/// Times `batch`, which does `operations` of them each time it is called.
pub(super) fn time(name: &str, operations: usize, mut batch: impl FnMut()) -> Timed {
    time_parts(name, operations, || {
        let start = Instant::now();
        batch();
        start.elapsed()
    })
}

/// The same, for a batch that says how long the part of it took that counts.
pub(super) fn time_parts(name: &str, operations: usize, mut batch: impl FnMut() -> Duration) -> Timed {
    let once = batch().max(Duration::from_nanos(1));
    let batches = (SAMPLE.as_nanos() / once.as_nanos()).clamp(1, 1 << 20) as usize;
    let mut sample = || {
        let took: Duration = (0..batches).map(|_| batch()).sum();
        took.as_nanos() as f64 / (batches * operations) as f64
    };
    sample();
    let mut samples: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    samples.sort_by(f64::total_cmp);
    let ns = samples[SAMPLES / 2];
    Timed { name: name.to_owned(), ns, ns_min: samples[0], mops: 1e3 / ns }
}
