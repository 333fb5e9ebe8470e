//! What the machine's CPUs are worth together. Two virtual CPUs may be two threads of one core, or share one with a neighbour
//! for some seconds, and no stolen time tells.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use weft_sys::process::pin_to_cpu;

/// Arithmetic that the first `count` CPUs do at once, in times of what one of them does alone, on the mean. Takes
/// `count + 1` windows of 20 ms.
pub(crate) fn together(count: usize) -> Result<f64> {
    let alone = (0..count).map(|cpu| rate(cpu..cpu + 1)).sum::<Result<f64>>()?;
    Ok(rate(0..count)? * count as f64 / alone)
}

/// Steps per second of these CPUs, all at once.
fn rate(cpus: Range<usize>) -> Result<f64> {
    let barrier = Barrier::new(cpus.len());
    let run = |cpu| -> Result<f64> {
        let pinned = pin_to_cpu(cpu);
        barrier.wait();
        pinned?;
        let (start, mut steps) = (Instant::now(), 0_u32);
        let mut chains = [1, 2, 3, 4, 5, 6, 7, 8];
        while start.elapsed() < WINDOW {
            (0..1_000).for_each(|_| step(black_box(&mut chains)));
            steps += 1;
        }
        Ok(f64::from(steps) / start.elapsed().as_secs_f64())
    };
    let run = &run;
    thread::scope(|scope| {
        let threads: Vec<_> = cpus.map(|cpu| scope.spawn(move || run(cpu))).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| anyhow!("a thread of plain arithmetic panicked"))?).sum()
    })
}

/// Eight chains that wait for nothing but themselves: enough to fill a core, so that a second thread on it shows.
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
    fn one_cpu_is_worth_about_itself() {
        let worth = together(1).unwrap();
        assert!(worth > 0.0 && worth.is_finite(), "{worth}");
    }
}
