//! iperf3, the tool that users know: bulk TCP and UDP, and what its JSON says.

use std::os::fd::BorrowedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use weft_sys::netns;

use crate::generator::Place;

/// What flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// That many TCP flows, with the congestion control that the machine gives every socket.
    Tcp(u32),
    /// One TCP flow with CUBIC, which sends as fast as it is acknowledged.
    Cubic,
    /// Datagrams of [`DATAGRAM_LEN`] bytes as fast as the sender can.
    Udp,
}

/// Payload of a UDP datagram.
const DATAGRAM_LEN: u32 = 1400;

/// A client and its server, both running.
pub(crate) struct Running {
    traffic: Traffic,
    server: Child,
    client: Option<Child>,
}

impl Running {
    /// Starts the server, waits until it listens, starts the client for that many seconds.
    pub(crate) fn start(from: &Place<'_>, to: &Place<'_>, traffic: Traffic, seconds: u32) -> Result<Self> {
        Command::new("iperf3").arg("--version").output().context(MISSING)?;
        let mut server = command(&["-s", "-1"]);
        let server = server.stdout(Stdio::null()).stderr(Stdio::null());
        let server = netns::in_namespace(to.netns, || server.spawn())?.context(NO_SESSION)?;
        let mut running = Self { traffic, server, client: None };
        wait_for_listener(to.netns)?;
        let (address, seconds, length) = (to.address.to_string(), seconds.to_string(), DATAGRAM_LEN.to_string());
        let flows = if let Traffic::Tcp(flows) = traffic { flows.to_string() } else { "1".to_owned() };
        let mut words = vec!["-J", "-c", &address, "-t", &seconds, "-P", &flows, "--connect-timeout", "3000"];
        match traffic {
            Traffic::Tcp(_) => {}
            Traffic::Cubic => words.extend(["-C", "cubic"]),
            Traffic::Udp => words.extend(["-u", "-b", "0", "-l", &length]),
        }
        let mut client = command(&words);
        let client = client.stdout(Stdio::piped()).stderr(Stdio::null());
        running.client = Some(netns::in_namespace(from.netns, || client.spawn())?.context(NO_SESSION)?);
        Ok(running)
    }

    /// Waits for the client's end; Gbit/s that arrived.
    pub(crate) fn finish(mut self) -> Result<f64> {
        let client = self.client.take().context("the client was started")?;
        let output = client.wait_with_output()?;
        gigabits(&serde_json::from_slice(&output.stdout).context("iperf3 printed no JSON")?, self.traffic)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in self.client.iter_mut().chain([&mut self.server]) {
            // An error says that it has ended by itself.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Starts a client, waits for its end; Gbit/s that arrived.
pub(crate) fn run(from: &Place<'_>, to: &Place<'_>, traffic: Traffic, seconds: u32) -> Result<f64> {
    Running::start(from, to, traffic, seconds)?.finish()
}

/// In a session of its own: the kernel shares CPUs between sessions first (`CONFIG_SCHED_AUTOGROUP`), and guests are no more
/// one with each other than with a switch.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new("setsid");
    command.arg("iperf3").args(words).stdin(Stdio::null());
    command
}

/// Gbit/s of payload that arrived, from `iperf3 -J`.
fn gigabits(report: &Value, traffic: Traffic) -> Result<f64> {
    if let Some(error) = report["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let end = &report["end"];
    let number = |at: &Value, key: &str| at[key].as_f64().with_context(|| format!("iperf3 told no {key}"));
    match traffic {
        Traffic::Tcp(_) | Traffic::Cubic => Ok(number(&end["sum_received"], "bits_per_second")? / 1e9),
        Traffic::Udp => {
            let sum = &end["sum"];
            let arrived = number(sum, "packets")? - number(sum, "lost_packets")?;
            let seconds = number(sum, "seconds")?;
            ensure!(seconds > 0.0, "iperf3 ran for no time");
            Ok(arrived * f64::from(DATAGRAM_LEN) * 8.0 / seconds / 1e9)
        }
    }
}

/// Waits until somebody listens on iperf3's port.
fn wait_for_listener(netns: BorrowedFd<'_>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
        let listens = netns::in_namespace(netns, || {
            tables.iter().filter_map(|path| std::fs::read_to_string(path).ok()).any(|text| listens(&text, PORT))
        })?;
        if listens {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("iperf3 -s does not listen within 5 s");
}

/// Whether a table of sockets (proc_net_tcp(5)) has a listener on the port.
fn listens(table: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) == Some("0A")
    })
}

const PORT: u16 = 5201;
const MISSING: &str = "cannot start iperf3: apt-get install iperf3";
const NO_SESSION: &str = "cannot start setsid: apt-get install util-linux";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_is_read_from_the_report() {
        let tcp = serde_json::json!({"end": {"sum_received": {"bits_per_second": 12.5e9}}});
        assert_eq!(gigabits(&tcp, Traffic::Tcp(4)).unwrap(), 12.5);
        let udp = serde_json::json!({"end": {"sum": {"packets": 1_000_000, "lost_packets": 500_000, "seconds": 2.0}}});
        assert_eq!(gigabits(&udp, Traffic::Udp).unwrap(), 2.8);
    }

    #[test]
    fn an_error_of_iperf_is_told_and_a_report_without_figures_too() {
        let refused = serde_json::json!({"error": "unable to connect"});
        assert!(gigabits(&refused, Traffic::Tcp(1)).unwrap_err().to_string().contains("unable to connect"));
        assert!(gigabits(&serde_json::json!({}), Traffic::Udp).unwrap_err().to_string().contains("packets"));
    }

    #[test]
    fn a_listener_is_found_in_the_table_of_sockets() {
        let table = "  sl  local_address rem_address   st\n   0: 00000000:1451 00000000:0000 0A 0 0\n";
        assert!(listens(table, 5201));
        assert!(!listens(table, 5202));
        assert!(!listens(&table.replace("0A", "01"), 5201));
    }
}
