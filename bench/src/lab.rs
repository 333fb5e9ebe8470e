//! The lab's own figures: how long a run takes, what an idle lab costs.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::machine::Processes;
use crate::numbers::median;
use crate::report::Fact;
use crate::standing::TOPOLOGY;

/// Seconds that the idle lab is watched.
const IDLE_S: u64 = 10;

/// Time of `lab run` and processor share of an idle lab.
pub(crate) fn facts(weft: &Path, rounds: usize) -> Result<Vec<Fact>> {
    let mut runs = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        lab(weft, "run")?;
        runs.push(start.elapsed().as_secs_f64());
    }
    lab(weft, "up")?;
    std::thread::sleep(Duration::from_secs(3));
    let before = Processes::now()?.switch;
    std::thread::sleep(Duration::from_secs(IDLE_S));
    let idle = (Processes::now()?.switch - before) as f64 / IDLE_S as f64;
    ensure!(Command::new(weft).args(["lab", "down", "bench"]).output()?.status.success(), "lab down failed");
    Ok(vec![
        Fact { name: "lab run".to_owned(), unit: "s".to_owned(), median: median(&runs), all: runs },
        Fact { name: "idle lab".to_owned(), unit: "% of a core".to_owned(), median: idle, all: vec![idle] },
    ])
}

/// `weft lab VERB` of the topology that is measured.
fn lab(weft: &Path, verb: &str) -> Result<()> {
    let mut command = Command::new(weft);
    command.args(["lab", verb, "-", "--name", "bench"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn()?;
    child.stdin.take().context("stdin is piped")?.write_all(TOPOLOGY.as_bytes())?;
    ensure!(child.wait()?.success(), "weft lab {verb} failed");
    Ok(())
}
