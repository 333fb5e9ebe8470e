//! The machine that is measured on: what it is, how busy it is, how much of it a hypervisor takes away.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::processors::Processors;

/// What every figure depends on.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    /// What a TCP socket gets that does not ask for another one.
    pub(crate) congestion_control: String,
}

/// How busy the machine was during a measurement, in parts of all its processors' time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Load {
    /// Neither idle nor waiting for I/O nor stolen.
    pub(crate) busy: f64,
    /// Taken away by the hypervisor.
    pub(crate) steal: f64,
    /// Spent by the processes that connect the guests; what a kernel does for guests it does on their account.
    pub(crate) switch: f64,
    /// Spent by this process and the tools it started, which send, receive and measure.
    pub(crate) tools: f64,
    /// What all CPUs were worth right after it, in CPUs at their best.
    pub(crate) worth: f64,
}

impl Machine {
    pub(crate) fn this() -> Result<Self> {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
        let processor = model.map_or("of unknown model", |(_, name)| name).to_owned();
        let processors = std::thread::available_parallelism()?.get();
        let congestion_control =
            std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?.trim().to_owned();
        Ok(Self { kernel, processor, processors, congestion_control })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kernel, processor, processors, congestion_control } = self;
        write!(f, "Linux {kernel}, {processors} x {processor}, TCP with {congestion_control}")
    }
}

/// Does `work` and tells how busy the machine was meanwhile.
pub(crate) fn watch<T>(processors: &mut Processors, work: impl FnOnce() -> T) -> Result<(T, Load)> {
    let read = || std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat");
    let (processes_before, before) = (Processes::now()?, read()?);
    let result = work();
    let (after, processes) = (read()?, Processes::now()?);
    let load = load(&before, &after).context("/proc/stat has no line of all processors")?;
    let part = |ticks: u64, earlier: u64| ticks.saturating_sub(earlier) as f64 / load.1;
    let switch = part(processes.switch, processes_before.switch);
    let tools = part(processes.tools, processes_before.tools);
    let worth = processors.worth()?;
    Ok((result, Load { switch, tools, worth, ..load.0 }))
}

/// Processor time so far, in ticks of 10 ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Processes {
    /// Of Weft's, Open vSwitch's and the wires' processes.
    pub(crate) switch: u64,
    /// Of this process and its ended children.
    tools: u64,
}

impl Processes {
    pub(crate) fn now() -> Result<Self> {
        let mut processes = Self::default();
        let own = std::process::id();
        for entry in std::fs::read_dir("/proc").context("cannot list /proc")?.flatten() {
            // `self` and `thread-self` are this process once more.
            if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            // One that has ended meanwhile is in its parent's account.
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            processes.add(&stat, own);
        }
        Ok(processes)
    }

    /// Adds a process by its line (proc_pid_stat(5), fields 14 to 17).
    fn add(&mut self, stat: &str, own: u32) {
        let Some((head, tail)) = stat.rsplit_once(") ") else { return };
        let Some((pid, name)) = head.split_once(" (") else { return };
        let ticks: Vec<u64> = tail.split(' ').skip(11).take(4).map_while(|word| word.parse().ok()).collect();
        if pid == own.to_string() {
            self.tools += ticks.iter().sum::<u64>();
        } else if name.starts_with("weft") || name.starts_with("ovs-vswitchd") {
            self.switch += ticks.iter().take(2).sum::<u64>();
        }
    }
}

/// From two readings of `/proc/stat` (proc_stat(5): user nice system idle iowait irq softirq steal), without who spent it
/// and what CPUs are worth; and the ticks in between.
fn load(before: &str, after: &str) -> Option<(Load, f64)> {
    let ticks = |text: &str| -> Option<Vec<f64>> {
        let words = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let ticks: Vec<f64> = words.take(8).map_while(|w| w.parse().ok()).collect();
        (ticks.len() == 8).then_some(ticks)
    };
    let spent: Vec<f64> = ticks(after)?.iter().zip(ticks(before)?).map(|(a, b)| a - b).collect();
    let total = spent.iter().sum::<f64>().max(1.0);
    let (idle, steal) = (spent[3] + spent[4], spent[7]);
    Some((
        Load { busy: (total - idle - steal) / total, steal: steal / total, switch: 0.0, tools: 0.0, worth: 0.0 },
        total,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_and_stolen_time_are_parts_of_all_time() {
        let before = "cpu  100 0 100 1000 0 0 0 10 0 0\ncpu0 1 2 3\n";
        let after = "cpu  150 0 120 1020 5 0 0 15 0 0\n";
        let load = load(before, after).unwrap();
        assert_eq!(load, (Load { busy: 0.7, steal: 0.05, switch: 0.0, tools: 0.0, worth: 0.0 }, 100.0));
        assert_eq!(super::load("nothing", after), None);
    }

    #[test]
    fn time_is_booked_on_the_switch_or_on_the_tools() {
        let mut processes = Processes::default();
        let line = |pid, name| format!("{pid} ({name}) S 1 1 1 0 -1 0 0 0 0 0 10 20 3 4 20 0 1 0 5 6");
        for (pid, name) in [(7, "weft"), (8, "weft"), (9, "ovs-vswitchd-dp"), (10, "cargo"), (11, "a) (weft")] {
            processes.add(&line(pid, name), 7);
        }
        assert_eq!(processes, Processes { switch: 60, tools: 37 });
        processes.add("garbage", 7);
    }
}
