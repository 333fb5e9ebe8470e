//! Whether the machine is quiet enough to be measured on: nothing of it stolen, and its CPUs worth what they were at their best.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use weft_sys::process::cpus;

use crate::machine::Load;
use crate::processors::Processors;

/// The largest part of the machine's time that may be stolen during a measurement.
const STEAL_MAX: f64 = 0.02;
/// The least that all CPUs may be worth, in parts of the most that they were in this run.
const WORTH_MIN: f64 = 0.8;
/// How long a run waits at most, all rounds together, and for how long at a time.
const WAIT_MAX: Duration = Duration::from_secs(300);
const WAIT: Duration = Duration::from_secs(1);
/// Rounds that a run repeats at most, all comparisons together.
const REPEATED_MAX: usize = 20;

/// What a run may still wait and repeat.
#[derive(Debug)]
pub(crate) struct Quiet {
    pub(crate) processors: Processors,
    /// The most that they were worth so far; never more than there are.
    best: f64,
    waited: Duration,
    repeated: usize,
}

impl Quiet {
    /// Of all CPUs that this process may run on.
    pub(crate) fn new() -> Self {
        Self { processors: Processors::new(cpus()), best: 0.0, waited: Duration::ZERO, repeated: 0 }
    }

    /// Waits for a quiet moment, as long as the run may.
    pub(crate) fn wait(&mut self) -> Result<()> {
        loop {
            let worth = self.processors.worth()?;
            if self.enough(worth) || self.waited >= WAIT_MAX {
                return Ok(());
            }
            thread::sleep(WAIT);
            self.waited += WAIT;
        }
    }

    /// Whether a round is to be repeated after this load, if the run still may.
    pub(crate) fn disturbed(&mut self, load: &Load) -> bool {
        let enough = self.enough(load.worth);
        self.repeated < REPEATED_MAX && (load.steal > STEAL_MAX || !enough)
    }

    /// Takes note of a round that is repeated.
    pub(crate) const fn repeat(&mut self) {
        self.repeated += 1;
    }

    /// Rounds repeated so far, and seconds waited.
    pub(crate) const fn so_far(&self) -> (usize, u64) {
        (self.repeated, self.waited.as_secs())
    }

    /// Two threads of a core are never worth two; that is no reason to wait where all CPUs are such.
    fn enough(&mut self, worth: f64) -> bool {
        self.best = self.best.max(worth).min(self.processors.count() as f64);
        worth >= WORTH_MIN * self.best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_repeated_for_stolen_time_and_for_weak_cpus_but_not_for_ever() {
        let mut quiet = Quiet { processors: Processors::new(2), ..Quiet::new() };
        let load = |steal, worth| Load { busy: 1.0, steal, switch: 0.5, tools: 0.5, worth };
        assert!(!quiet.disturbed(&load(0.02, 1.2)), "nothing better was seen");
        assert!(!quiet.disturbed(&load(0.0, 2.4)), "one CPU alone had been disturbed");
        assert!(!quiet.disturbed(&load(0.0, 1.6)));
        assert!(quiet.disturbed(&load(0.03, 1.9)));
        assert!(quiet.disturbed(&load(0.0, 1.5)));
        (0..REPEATED_MAX).for_each(|_| quiet.repeat());
        assert!(!quiet.disturbed(&load(0.0, 1.0)));
        assert_eq!(quiet.so_far(), (REPEATED_MAX, 0));
    }
}
