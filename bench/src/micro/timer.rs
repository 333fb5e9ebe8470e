//! A timer for what takes nanoseconds: the median of many samples, each of many operations.
//!
//! Which rows are wanted, and whether they are timed or only run for somebody who counts their instructions from
//! outside, is the same for a whole process.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::Serialize;

const SAMPLES: usize = 15;
const SAMPLE: Duration = Duration::from_millis(20);

/// What one operation takes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Timed {
    /// What is done.
    pub(super) name: String,
    /// Operations of one batch.
    pub(super) operations: usize,
    /// Nanoseconds per operation, the median of the samples; not a number when the row was not wanted.
    pub(super) ns: f64,
    /// The fastest sample.
    pub(super) ns_min: f64,
    /// Millions of operations per second, at the median.
    pub(super) mops: f64,
    /// Instructions per operation, when they were counted.
    pub(super) instructions: Option<f64>,
}

/// What this process does with its rows.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Only rows with this in their names.
    pub(super) text: String,
    /// Only this row, and its batch only so often, without a look at the clock.
    pub(super) run: Option<(String, usize)>,
}

static WANTED: OnceLock<Wanted> = OnceLock::new();

/// Says what this process does; before the first row.
pub(super) fn want(wanted: Wanted) {
    let _ = WANTED.set(wanted);
}

/// Whether the row is wanted, for those that cost much to prepare.
pub(super) fn is_wanted(name: &str) -> bool {
    WANTED.get().is_none_or(|wanted| match &wanted.run {
        Some((row, _)) => row == name,
        None => name.contains(&wanted.text),
    })
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
    if !is_wanted(name) {
        return Timed::new(name, operations, f64::NAN, f64::NAN);
    }
    if let Some((_, batches)) = WANTED.get().and_then(|wanted| wanted.run.as_ref()) {
        (0..*batches).for_each(|_| _ = batch());
        return Timed::new(name, operations, f64::NAN, f64::NAN);
    }
    let once = batch().max(Duration::from_nanos(1));
    let batches = (SAMPLE.as_nanos() / once.as_nanos()).clamp(1, 1 << 20) as usize;
    let mut sample = || {
        let took: Duration = (0..batches).map(|_| batch()).sum();
        took.as_nanos() as f64 / (batches * operations) as f64
    };
    sample();
    let mut samples: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    samples.sort_by(f64::total_cmp);
    Timed::new(name, operations, samples[SAMPLES / 2], samples[0])
}

impl Timed {
    fn new(name: &str, operations: usize, ns: f64, ns_min: f64) -> Self {
        Self { name: name.to_owned(), operations, ns, ns_min, mops: 1e3 / ns, instructions: None }
    }

    /// Whether it was wanted.
    pub(super) const fn is_measured(&self) -> bool {
        !self.ns.is_nan()
    }
}
