//! The machine that is measured on: what it is, how busy it is, how much of it a hypervisor takes away.

use anyhow::{Context, Result};
use serde::Serialize;

/// What every figure depends on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
}

/// How busy the machine was during a measurement, in parts of all its processors' time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Load {
    /// Neither idle nor waiting for I/O nor stolen.
    pub(crate) busy: f64,
    /// Taken away by the hypervisor.
    pub(crate) steal: f64,
}

impl Machine {
    pub(crate) fn this() -> Result<Self> {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
        let processor = model.map_or("of unknown model", |(_, name)| name).to_owned();
        Ok(Self { kernel, processor, processors: std::thread::available_parallelism()?.get() })
    }
}

/// Does `work` and tells how busy the machine was meanwhile.
pub(crate) fn watch<T>(work: impl FnOnce() -> T) -> Result<(T, Load)> {
    let read = || std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat");
    let before = read()?;
    let result = work();
    let load = load(&before, &read()?).context("/proc/stat has no line of all processors")?;
    Ok((result, load))
}

/// From two readings of `/proc/stat` (proc_stat(5): user nice system idle iowait irq softirq steal).
fn load(before: &str, after: &str) -> Option<Load> {
    let ticks = |text: &str| -> Option<Vec<f64>> {
        let words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let ticks: Vec<f64> = words.take(8).map_while(|w| w.parse().ok()).collect();
        (ticks.len() == 8).then_some(ticks)
    };
    let spent: Vec<f64> = ticks(after)?.iter().zip(ticks(before)?).map(|(a, b)| a - b).collect();
    let total = spent.iter().sum::<f64>().max(1.0);
    let (idle, steal) = (spent[3] + spent[4], spent[7]);
    Some(Load { busy: (total - idle - steal) / total, steal: steal / total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_and_stolen_time_are_parts_of_all_time() {
        let before = "cpu  100 0 100 1000 0 0 0 10 0 0\ncpu0 1 2 3\n";
        let after = "cpu  150 0 120 1020 5 0 0 15 0 0\n";
        let load = load(before, after).unwrap();
        assert_eq!(load, Load { busy: 0.7, steal: 0.05 });
        assert_eq!(super::load("nothing", after), None);
    }
}
