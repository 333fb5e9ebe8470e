//! What the machine's CPUs are worth at the moment. Virtual CPUs may share a core with each other or with a neighbour, for
//! seconds or minutes, and no stolen time tells.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use weft_sys::process::pin_to_cpu;

/// The first CPUs of the machine, and what was seen of them.
#[derive(Debug)]
pub(crate) struct Processors {
    count: usize,
    /// The next to be asked what it does alone.
    next: usize,
    /// Steps per second that one of them did alone in its best moment.
    best: f64,
}

impl Processors {
    /// The first `count` of those that this process may run on.
    pub(crate) const fn new(count: usize) -> Self {
        Self { count, next: 0, best: 0.0 }
    }

    /// How many CPUs there are.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// What they do at once, in times of what one did alone in the best moment so far. Takes 40 ms.
    pub(crate) fn worth(&mut self) -> Result<f64> {
        self.best = self.best.max(rate(self.next..self.next + 1)?);
        self.next = (self.next + 1) % self.count;
        Ok(rate(0..self.count)? / self.best)
    }
}

/// The sum of what `run` gives for each of these, all at once, each in a thread on a CPU of its own from `first` on.
pub(crate) fn at_once<T: Send>(
    first: usize,
    all: impl ExactSizeIterator<Item = T>,
    run: impl Fn(T) -> f64 + Sync,
) -> Result<f64> {
    let barrier = Barrier::new(all.len());
    let on = |cpu, one| -> Result<f64> {
        let pinned = pin_to_cpu(cpu);
        // Whoever could not be pinned is waited for too.
        barrier.wait();
        pinned?;
        Ok(run(one))
    };
    let on = &on;
    thread::scope(|scope| {
        let threads: Vec<_> = all.zip(first..).map(|(one, cpu)| scope.spawn(move || on(cpu, one))).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| anyhow!("a measured thread panicked"))?).sum()
    })
}

/// Steps per second of these CPUs, all at once.
fn rate(cpus: Range<usize>) -> Result<f64> {
    at_once(cpus.start, cpus, |_| {
        let (start, mut steps) = (Instant::now(), 0_u32);
        let mut chains = [1, 2, 3, 4, 5, 6, 7, 8];
        while start.elapsed() < WINDOW {
            for _ in 0..1_000 {
                step(&mut chains);
            }
            black_box(&mut chains);
            steps += 1;
        }
        f64::from(steps) / start.elapsed().as_secs_f64()
    })
}

/// Eight chains in registers that wait for nothing but themselves: enough to fill a core, so that a second thread on it shows.
#[inline]
fn step(chains: &mut [u64; 8]) {
    for chain in chains {
        *chain = chain.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *chain ^= *chain >> 13;
    }
}

const WINDOW: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cpu_is_worth_is_told_by_its_best_moment() {
        let mut processors = Processors::new(1);
        let worth = processors.worth().unwrap();
        assert!(worth > 0.0 && worth.is_finite(), "{worth}");
        processors.best *= 1000.0;
        assert!(processors.worth().unwrap() < worth);
    }
}
