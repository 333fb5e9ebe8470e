//! A contender that is built, until it is dropped.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weft_sys::netns;

use crate::contender::{Contender, Guest, How};
use crate::generator::Place;
use crate::peers::Scripts;
use crate::wire::Wire;

/// How the programs of a run are started.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The `weft` binary that is measured.
    pub(crate) weft: PathBuf,
    /// This program, and the words that make it run a benchmark.
    pub(crate) myself: (PathBuf, Vec<String>),
    pub(crate) scripts: Scripts,
}

/// What stands.
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) contender: &'a Contender,
    built: Built<'a>,
    from: OwnedFd,
    to: OwnedFd,
}

/// What goes with its value.
#[derive(Debug)]
enum Built<'a> {
    Weft { weft: &'a Path, lab: &'a str },
    Peer { scripts: &'a Scripts, script: &'a str },
    Wire(Child),
}

impl<'a> Standing<'a> {
    /// Builds it and waits until the guests reach each other, over the rung that was asked for.
    pub(crate) fn up(contender: &'a Contender, tools: &'a Tools) -> Result<Self> {
        let built = match &contender.how {
            How::Weft { lab, rung } => Built::weft(&tools.weft, lab, *rung)?,
            How::Peer { script } => Built::peer(&tools.scripts, script)?,
            How::Wire(wire) => Built::wire(&tools.myself, *wire)?,
        };
        let open = |guest: &Guest| {
            let path = Path::new("/run/netns").join(&guest.netns);
            netns::open(&path).with_context(|| format!("there is no {}", path.display()))
        };
        let (from, to) = (open(&contender.from)?, open(&contender.to)?);
        let standing = Self { contender, built, from, to };
        standing.wait_for_ping()?;
        standing.wait_for_rung()?;
        Ok(standing)
    }

    /// The sending guest.
    pub(crate) fn from(&self) -> Place<'_> {
        Place { netns: self.from.as_fd(), address: self.contender.from.address }
    }

    /// The receiving guest.
    pub(crate) fn to(&self) -> Place<'_> {
        Place { netns: self.to.as_fd(), address: self.contender.to.address }
    }

    /// The rung that Weft uses between its two hosts at this moment; `None` for others.
    pub(crate) fn rung(&self) -> Result<Option<String>> {
        let Built::Weft { weft, lab } = &self.built else { return Ok(None) };
        let output = Command::new(weft).args(["--lab", lab, "status", "-o", "json"]).output()?;
        let status: Value = serde_json::from_slice(&output.stdout).context("weft status printed no JSON")?;
        Ok(rung_towards_a_host(&status))
    }

    /// What the guests' devices take off their stacks' hands: the lines of `ethtool -k` that matter.
    pub(crate) fn offloads(&self) -> String {
        let mut command = Command::new("ethtool");
        let device = netns::in_namespace(self.from.as_fd(), || crate::generator::device(self.contender.from.address));
        let Ok(Ok((ifname, _))) = device else { return "unknown: the guest's device was not found".to_owned() };
        let output = netns::in_namespace(self.from.as_fd(), || command.args(["-k", &ifname]).output());
        match output {
            Ok(Ok(output)) => offloads(&String::from_utf8_lossy(&output.stdout)),
            _ => "unknown: apt-get install ethtool".to_owned(),
        }
    }

    fn wait_for_ping(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let address = self.contender.to.address.to_string();
        while Instant::now() < end {
            let mut ping = Command::new("ping");
            let ping = ping.args(["-c1", "-W1", &address]).stdout(Stdio::null()).stderr(Stdio::null());
            let status = netns::in_namespace(self.from.as_fd(), || ping.status())?;
            if status.context("cannot start ping: apt-get install iputils-ping")?.success() {
                return Ok(());
            }
        }
        bail!("the guests do not reach each other within {} s", PATIENCE.as_secs());
    }

    /// A rung is taken after a probe has come back: waits for the one that was asked for, or for the first above `batch`.
    fn wait_for_rung(&self) -> Result<()> {
        let How::Weft { rung: wanted, .. } = &self.contender.how else { return Ok(()) };
        let end = Instant::now() + PATIENCE;
        let mut rung = self.rung()?;
        let settled = |rung: &Option<String>| match (rung.as_deref(), wanted) {
            (Some(rung), Some(wanted)) => rung == *wanted,
            (Some(rung), None) => !matches!(rung, "single" | "batch"),
            (None, _) => false,
        };
        while !settled(&rung) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(200));
            rung = self.rung()?;
        }
        // A host whose best is less says so in the table.
        ensure!(wanted.is_none() || settled(&rung), "the rung in use is {rung:?}");
        Ok(())
    }
}

impl Drop for Built<'_> {
    fn drop(&mut self) {
        let result = match self {
            Self::Weft { weft, lab } => finish(Command::new(weft).args(["lab", "down", lab])),
            Self::Peer { scripts, script } => finish(&mut scripts.command(script, "down")),
            Self::Wire(child) => {
                drop(child.stdin.take());
                child.wait().map(drop).map_err(Into::into)
            }
        };
        if let Err(error) = result {
            eprintln!("left behind: {error:#}");
        }
    }
}

impl<'a> Built<'a> {
    fn weft(weft: &'a Path, lab: &'a str, rung: Option<&str>) -> Result<Self> {
        // Of an interrupted run; there is none as a rule.
        let _none = Command::new(weft).args(["lab", "down", lab]).output()?;
        let mut up = Command::new(weft);
        up.args(["lab", "up", "-", "--name", lab]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(rung) = rung {
            up.args(["--rung", rung]);
        }
        let mut child = up.spawn().with_context(|| format!("cannot start {}", weft.display()))?;
        child.stdin.take().context("stdin is piped")?.write_all(TOPOLOGY.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "weft lab up: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Self::Weft { weft, lab })
    }

    fn peer(scripts: &'a Scripts, script: &'a str) -> Result<Self> {
        let built = Self::Peer { scripts, script };
        finish(&mut scripts.command(script, "up"))?;
        Ok(built)
    }

    fn wire((program, words): &(PathBuf, Vec<String>), wire: Wire) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(words).args(["--wire", wire.name()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start the wire")?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let built = Self::Wire(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the wire ended before it was ready");
        Ok(built)
    }
}

fn finish(command: &mut Command) -> Result<()> {
    let name = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The rung in use from the first host that names a remote, in `weft status -o json`.
fn rung_towards_a_host(status: &Value) -> Option<String> {
    let hosts = status["hosts"].as_array()?;
    let mut rungs = hosts.iter().filter_map(|host| host["rungs"].as_array()).flatten();
    let rung = rungs.find(|rung| rung["taken"] == true && rung["remote"].is_string())?;
    rung["rung"].as_str().map(str::to_owned)
}

/// The features of `ethtool -k` that decide what a benchmark measures, in one line.
fn offloads(text: &str) -> String {
    let value = |feature: &str| {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(feature)?.strip_prefix(": "));
        line.and_then(|v| v.split_whitespace().next()).unwrap_or("unknown").to_owned()
    };
    let short = [
        ("csum", "tx-checksumming"),
        ("tso", "tcp-segmentation-offload"),
        ("uso", "tx-udp-segmentation"),
        ("gso", "generic-segmentation-offload"),
        ("gro", "generic-receive-offload"),
    ];
    short.map(|(name, feature)| format!("{name} {}", value(feature))).join(", ")
}

/// The two hosts that every comparison uses.
pub(crate) const TOPOLOGY: &str = include_str!("../../topologies/two-hosts.yaml");
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rung_is_the_taken_one_towards_a_host() {
        let status = serde_json::json!({"hosts": [{"host": "h1", "rungs": [
            {"rung": "tunnel", "taken": true, "reason": ""},
            {"rung": "tunnel", "taken": false, "remote": "h2", "reason": "no probe came back"},
            {"rung": "segment", "taken": true, "remote": "h2", "reason": ""},
        ]}]});
        assert_eq!(rung_towards_a_host(&status).as_deref(), Some("segment"));
        assert_eq!(rung_towards_a_host(&serde_json::json!({})), None);
    }

    #[test]
    fn offloads_are_told_in_one_line() {
        let text = "Features for eth0:\ntx-checksumming: on\n\ttx-udp-segmentation: off [requested on]\n";
        assert_eq!(offloads(text), "csum on, tso unknown, uso off, gso unknown, gro unknown");
    }
}
