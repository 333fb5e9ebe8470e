//! Waiting for ports: an acknowledged program is not yet a port that carries frames.
//!
//! Only what comes by itself is waited for. A port whose namespace is not there waits for somebody to make it, so it is
//! told and not waited for; so is one that failed, and all of a host that is not connected.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use weft_api::report::{FabricReport, HostStatus, PortStatus};

use crate::client::Client;
use crate::exit::Late;
use crate::output::{Printer, Tone, ago, count};

/// How often is looked.
const POLL: Duration = Duration::from_millis(25);

/// A port that is not live, and is not going to be by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unlit {
    /// The host.
    pub host: String,
    /// The port.
    pub port: String,
    /// `dark`, `waiting` or `failed`.
    pub state: String,
    /// Why.
    pub reason: String,
}

/// Waits until no port of a connected host is merely on its way; gives those that stay as they are.
pub async fn await_ports(client: &Client, deadline: Instant, wait: Duration) -> Result<Vec<Unlit>> {
    loop {
        let report: FabricReport = client.get("/v1/status").await?;
        let (coming, staying) = unlit(&report);
        if coming.is_empty() {
            return Ok(staying);
        }
        if Instant::now() >= deadline {
            let wait = ago(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            let head = format!("{} not live within {wait}:", are(coming.len(), "port"));
            return Err(Late(lines(head, &coming)).into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What is to be told of ports that are not waited for; empty when there are none.
pub fn describe(staying: &[Unlit], printer: &Printer) -> String {
    let of = |state: &str| staying.iter().filter(|p| p.state == state).cloned().collect::<Vec<_>>();
    let (waiting, failed) = (of("waiting"), of("failed"));
    let mut text = Vec::new();
    if !waiting.is_empty() {
        let verb = if waiting.len() == 1 { "waits" } else { "wait" };
        let told = lines(format!("{} {verb}:", count(waiting.len(), "port")), &waiting);
        text.push(printer.paint(Tone::Warn, &told));
    }
    if !failed.is_empty() {
        text.push(printer.paint(Tone::Bad, &lines(format!("{} failed:", count(failed.len(), "port")), &failed)));
    }
    text.join("\n")
}

/// Those that come by themselves, and those that do not.
fn unlit(report: &FabricReport) -> (Vec<Unlit>, Vec<Unlit>) {
    let connected = report.hosts.iter().filter(|h| h.connected);
    let ports = connected.flat_map(|h| h.ports.iter().map(move |p| (h, p))).filter(|(_, p)| p.state != "live");
    let tell = |(host, port): (&HostStatus, &PortStatus)| Unlit {
        host: host.host.clone(),
        port: port.name.clone(),
        state: port.state.clone(),
        reason: port.reason.clone(),
    };
    ports.map(tell).partition(|port| port.state == "dark")
}

fn are(number: usize, what: &str) -> String {
    format!("{} {}", count(number, what), if number == 1 { "is" } else { "are" })
}

/// One port goes on the line, several below it.
fn lines(head: String, ports: &[Unlit]) -> String {
    let tell = |p: &Unlit| format!("{} on {}: {}", p.port, p.host, p.reason);
    match ports {
        [only] => format!("{head} {}", tell(only)),
        many => many.iter().fold(head, |text, port| format!("{text}\n  {}", tell(port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    fn port(name: &str, state: &str) -> PortStatus {
        PortStatus { name: name.into(), state: state.into(), reason: "because".into() }
    }

    #[test]
    fn only_what_comes_by_itself_is_waited_for() {
        let ports =
            vec![port("red/a", "live"), port("red/b", "dark"), port("red/c", "waiting"), port("red/d", "failed")];
        let here = HostStatus { host: "h1".into(), connected: true, ports: ports.clone(), ..HostStatus::default() };
        let gone = HostStatus { host: "h2".into(), ports, ..HostStatus::default() };
        let (coming, staying) = unlit(&FabricReport { hosts: vec![here, gone], ..FabricReport::default() });
        let names = |ports: &[Unlit]| ports.iter().map(|p| format!("{} {}", p.host, p.port)).collect::<Vec<_>>();
        assert_eq!(names(&coming), ["h1 red/b"]);
        assert_eq!(names(&staying), ["h1 red/c", "h1 red/d"]);
        let printer = Printer::new(&Cli::parse_from(["weft", "--color", "never", "status"]).global);
        let told = describe(&staying, &printer);
        assert_eq!(told, "1 port waits: red/c on h1: because\n1 port failed: red/d on h1: because");
    }
}
