//! What stands: `status`, `ports`, `flows`, `fdb`, `drops`.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use weft_api::report::{
    DropReport, FabricReport, FdbReport, FlowReport, HostStatus, LedgerReport, LedgerRow, PortReport, RungStatus,
};

use super::block_on;
use crate::args::FlowsArgs;
use crate::client::Client;
use crate::output::{Printer, Tone, Toned, ago};

/// What was dropped on a host, and whether its ledger balances.
#[derive(Debug, Serialize)]
pub struct HostDrops {
    /// The host.
    pub host: String,
    /// Drops, by reason and port.
    pub drops: Vec<DropReport>,
    /// What the ports' devices lost by their own counters, before or behind the vswitch.
    pub device_drops: Vec<DeviceDrops>,
    /// The balance of frames.
    pub ledger: LedgerReport,
}

/// Frames that a port's device lost.
#[derive(Debug, Serialize)]
pub struct DeviceDrops {
    /// The port, as `red/a`.
    pub port: String,
    /// The device's counter.
    pub counter: String,
    /// How many frames.
    pub frames: u64,
}

/// `weft status`.
pub fn status(client: &Client, printer: &Printer) -> Result<()> {
    let report: FabricReport = block_on(client.get("/v1/status"))?;
    printer.print(&report, |p| status_text(&report, p))
}

/// `weft ports`.
pub fn ports(client: &Client, printer: &Printer, host: Option<&str>) -> Result<()> {
    let reports = block_on(each_host::<Vec<PortReport>>(client, host, "ports"))?;
    printer.print(&reports, |p| {
        let rows = reports.iter().flat_map(|(host, ports)| ports.iter().map(move |port| port_row(host, port)));
        let head = [
            "HOST",
            "PORT",
            "STATE",
            "DEVICE",
            "MTU",
            "OFFLOADS",
            "RX FRAMES",
            "RX BYTES",
            "TX FRAMES",
            "TX BYTES",
            "DROPS",
        ];
        p.table(&head, rows)
    })
}

/// `weft flows`.
pub fn flows(client: &Client, printer: &Printer, args: &FlowsArgs) -> Result<()> {
    let mut rules: Vec<FlowReport> = block_on(client.get(&host_path(&args.host, "flows")))?;
    rules.retain(|r| args.owner.as_ref().is_none_or(|text| r.owner.contains(text)) && (!args.hit || r.frames > 0));
    printer.print(&rules, |p| {
        let rows = rules.iter().map(|rule| {
            let tone = if rule.frames == 0 { Tone::Quiet } else { Tone::Plain };
            let matches = if rule.matches.is_empty() { "any".into() } else { rule.matches.join(" ") };
            let table = format!("{} {}", rule.table, rule.table_name);
            let numbers = [rule.priority.to_string(), rule.frames.to_string(), rule.bytes.to_string()];
            let [priority, frames, bytes] = numbers;
            [table, priority, matches, rule.instructions.clone(), rule.owner.clone(), frames, bytes]
                .map(|text| Toned(tone, text))
        });
        p.table(&["TABLE", "PRIORITY", "MATCH", "THEN", "OWNER", "FRAMES", "BYTES"], rows)
    })
}

/// `weft fdb`.
pub fn fdb(client: &Client, printer: &Printer, host: &str) -> Result<()> {
    let entries: Vec<FdbReport> = block_on(client.get(&host_path(host, "fdb")))?;
    printer.print(&entries, |p| {
        let rows = entries.iter().map(|entry| {
            let origin = match (entry.pinned, entry.age_ms) {
                (true, _) => "pinned".into(),
                (false, Some(age)) => format!("seen {} ago", ago(age)),
                (false, None) => "learned".into(),
            };
            [entry.network.clone(), entry.mac.clone(), entry.location.clone(), origin, entry.owner.clone()]
        });
        p.table(&["NETWORK", "MAC", "LOCATION", "ORIGIN", "OWNER"], rows)
    })
}

/// `weft drops`.
pub fn drops(client: &Client, printer: &Printer, host: Option<&str>) -> Result<()> {
    let reports = block_on(read_losses(client, host))?;
    printer.print(&reports, |p| drops_text(&reports, p))
}

/// Drops of all hosts, by host.
pub async fn read_drops(client: &Client) -> Result<BTreeMap<String, Vec<DropReport>>> {
    each_host(client, None, "drops").await
}

/// Drops, devices' losses and ledgers of one host or all.
async fn read_losses(client: &Client, host: Option<&str>) -> Result<Vec<HostDrops>> {
    let mut reports = Vec::new();
    for (host, drops) in each_host::<Vec<DropReport>>(client, host, "drops").await? {
        let ports: Vec<PortReport> = client.get(&host_path(&host, "ports")).await?;
        let device_drops = ports.into_iter().flat_map(device_drops).collect();
        let ledger = client.get(&host_path(&host, "ledger")).await?;
        reports.push(HostDrops { host, drops, device_drops, ledger });
    }
    Ok(reports)
}

fn device_drops(port: PortReport) -> impl Iterator<Item = DeviceDrops> {
    let lost = port.device_drops.into_iter().filter(|counter| counter.count > 0);
    lost.map(move |counter| DeviceDrops { port: port.name.clone(), counter: counter.name, frames: counter.count })
}

fn host_path(host: &str, what: &str) -> String {
    format!("/v1/hosts/{host}/{what}")
}

async fn each_host<T: serde::de::DeserializeOwned>(
    client: &Client,
    host: Option<&str>,
    what: &str,
) -> Result<BTreeMap<String, T>> {
    let hosts = match host {
        Some(host) => vec![host.to_owned()],
        None => {
            let fabric: FabricReport = client.get("/v1/status").await?;
            fabric.hosts.into_iter().filter(|h| h.kind == "weft" && h.connected).map(|h| h.host).collect()
        }
    };
    let mut reports = BTreeMap::new();
    for host in hosts {
        let report = client.get(&host_path(&host, what)).await?;
        reports.insert(host, report);
    }
    Ok(reports)
}

fn status_text(report: &FabricReport, printer: &Printer) -> String {
    let mut text = format!("generation {} of store {}\n\n", report.generation, report.store_id);
    let rows = report.hosts.iter().map(|host| host_row(host, report.generation));
    text += &printer.table(&["HOST", "KIND", "SESSION", "IN FORCE", "RUNG", "VSWITCH", "PORTS"], rows);
    let errors = report.hosts.iter().filter_map(|h| Some((h.host.as_str(), h.error.as_ref()?)));
    for (host, error) in errors {
        text += &format!("\n\n{}", printer.paint(Tone::Bad, &format!("{host} could not apply: {error}")));
    }
    let ports = report.hosts.iter().flat_map(|h| h.ports.iter().map(move |p| (h, p)));
    let rows: Vec<[Toned; 4]> = ports
        .map(|(host, port)| {
            let tone = state_tone(&port.state);
            let state = Toned(tone, port.state.clone());
            [host.host.as_str().into(), port.name.as_str().into(), state, port.reason.as_str().into()]
        })
        .collect();
    if !rows.is_empty() {
        text += &format!("\n\n{}", printer.table(&["HOST", "PORT", "STATE", "WHY"], rows));
    }
    let ways = rungs_towards(report);
    if !ways.is_empty() {
        text += &format!("\n\n{}", printer.table(&["HOST", "TOWARDS", "RUNG", "WHY NO BETTER"], ways));
    }
    let refused = report.hosts.iter().flat_map(|h| h.rungs.iter().map(move |r| (h, r)));
    for (host, rung) in refused.filter(|(_, r)| !r.taken && !r.reason.is_empty()) {
        text += &printer.paint(Tone::Quiet, &format!("\n{}: not {}: {}", host.host, rung.rung, rung.reason));
    }
    text
}

/// The rung in use from each host towards each other one, and why no better one is.
fn rungs_towards(report: &FabricReport) -> Vec<[Toned; 4]> {
    let rungs = report.hosts.iter().flat_map(|host| host.rungs.iter().map(move |rung| (host, rung)));
    let row = |(host, rung): (&HostStatus, &RungStatus)| {
        let remote = rung.remote.as_deref()?;
        Some([host.host.as_str(), remote, rung.rung.as_str(), rung.reason.as_str()].map(Toned::from))
    };
    rungs.filter_map(row).collect()
}

fn host_row(host: &HostStatus, generation: u64) -> [Toned; 7] {
    let none = || Toned(Tone::Quiet, "-".into());
    if host.kind != "weft" {
        return [host.host.as_str().into(), host.kind.as_str().into(), none(), none(), none(), none(), none()];
    }
    let session = match (host.connected, host.last_contact_ms) {
        (true, _) => Toned(Tone::Good, "connected".into()),
        (false, Some(since)) => Toned(Tone::Bad, format!("lost {} ago", ago(since))),
        (false, None) => Toned(Tone::Bad, "never seen".into()),
    };
    let in_force = match host.acked_generation {
        Some(acked) if acked >= generation => Toned(Tone::Good, acked.to_string()),
        Some(acked) => Toned(Tone::Warn, format!("{acked} of {generation}")),
        None => Toned(Tone::Warn, "nothing".into()),
    };
    let rung = host.rungs.iter().find(|r| r.taken && r.remote.is_none()).map_or_else(none, |r| r.rung.as_str().into());
    let vswitch = host.vswitch_pid.map_or_else(|| Toned(Tone::Bad, "none".into()), |pid| format!("pid {pid}").into());
    let live = host.ports.iter().filter(|p| p.state == "live").count();
    let tone = if live == host.ports.len() { Tone::Good } else { Tone::Warn };
    let ports = Toned(tone, format!("{live} of {} live", host.ports.len()));
    [host.host.as_str().into(), host.kind.as_str().into(), session, in_force, rung, vswitch, ports]
}

fn state_tone(state: &str) -> Tone {
    match state {
        "live" => Tone::Good,
        "failed" => Tone::Bad,
        _ => Tone::Warn,
    }
}

fn port_row(host: &str, port: &PortReport) -> [Toned; 11] {
    let state = match (port.gone, port.live) {
        (true, _) => Toned(Tone::Bad, "gone".into()),
        (false, true) => Toned(Tone::Good, "live".into()),
        (false, false) => Toned(Tone::Warn, "dark".into()),
    };
    let place = if port.netns.is_empty() { String::new() } else { format!("{}:", port.netns) };
    let dropped: u64 = port.drops.iter().map(|d| d.frames).sum();
    let drops = Toned(if dropped > 0 { Tone::Warn } else { Tone::Quiet }, dropped.to_string());
    [
        host.into(),
        port.name.as_str().into(),
        state,
        format!("{} {place}{}", port.kind, port.ifname).into(),
        port.mtu.to_string().into(),
        port.offloads.join(" ").into(),
        port.rx_frames.to_string().into(),
        port.rx_bytes.to_string().into(),
        port.tx_frames.to_string().into(),
        port.tx_bytes.to_string().into(),
        drops,
    ]
}

fn drops_text(reports: &[HostDrops], printer: &Printer) -> String {
    let rows = reports.iter().flat_map(|r| r.drops.iter().map(move |d| (r, d))).map(|(report, drop)| {
        // An agent of an older build names the port only.
        let other = if drop.source.is_empty() { "underlay" } else { &drop.source };
        let from = drop.port.clone().unwrap_or_else(|| other.to_owned());
        let owner = if drop.owner.is_empty() { "-" } else { &drop.owner };
        let frames = drop.frames.to_string();
        [report.host.clone(), drop.reason.clone(), from, owner.to_owned(), frames, drop.explanation.trim().to_owned()]
    });
    let lost = reports.iter().flat_map(|report| {
        let ports =
            report.device_drops.iter().map(|DeviceDrops { port, counter, frames }| (port.as_str(), counter, *frames));
        let sockets = report.ledger.device_drops.iter().filter(|c| c.count > 0).map(|c| ("underlay", &c.name, c.count));
        ports.chain(sockets).map(|(from, counter, frames)| {
            let meaning = device_drops_meaning(counter).to_owned();
            [report.host.clone(), counter.clone(), from.to_owned(), "-".to_owned(), frames.to_string(), meaning]
        })
    });
    let mut text = printer.table(&["HOST", "REASON", "FROM", "RULE OF", "FRAMES", "WHAT IT MEANS"], rows.chain(lost));
    text.push('\n');
    for report in reports {
        text += &format!("\n{}", ledger_line(report, printer));
    }
    text
}

fn device_drops_meaning(counter: &str) -> &'static str {
    match counter {
        "tx_dropped" => "The device's queue was full: the guest sends faster than it is read. Not in the ledger.",
        "underlay_rxq_overflow" => {
            "The underlay's socket was full: packets come faster than it is read. Not in the ledger."
        }
        "packet_socket" => "The packet socket was full: frames come faster than it is read. Not in the ledger.",
        _ => "Lost by the device, by its own counter. Not in the ledger.",
    }
}

/// `h1: ledger balances: 12 rx + 1 originated + ... = ...`, leaving out what is zero.
fn ledger_line(report: &HostDrops, printer: &Printer) -> String {
    let LedgerRow { rx, originated, copies, split, tx, consumed, dropped, merged, held } = report.ledger.total;
    let side = |terms: &[(u64, &str)]| {
        let shown: Vec<String> = terms.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{n} {name}")).collect();
        if shown.is_empty() { "0".into() } else { shown.join(" + ") }
    };
    let inward = side(&[(rx, "rx"), (originated, "originated"), (copies, "copies"), (split, "split")]);
    let outward = side(&[(tx, "tx"), (consumed, "consumed"), (dropped, "dropped"), (merged, "merged"), (held, "held")]);
    let (tone, verdict) = match report.ledger.imbalance {
        0 => (Tone::Good, "balances".to_owned()),
        missing => (Tone::Bad, format!("DOES NOT BALANCE, {missing} frames are missing")),
    };
    format!("{}: the ledger {}: {inward} = {outward}", report.host, printer.paint(tone, &verdict))
}

#[cfg(test)]
mod tests {
    use weft_api::report::CounterReport;

    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn printer() -> Printer {
        let cli = Cli::parse_from(["weft", "--color", "never", "status"]);
        assert!(matches!(cli.command, Command::Status));
        Printer::new(&cli.global)
    }

    #[test]
    fn the_ledger_line_says_whether_it_balances() {
        let total = LedgerRow { rx: 5, tx: 3, dropped: 1, ..LedgerRow::default() };
        let ledger = LedgerReport { total, imbalance: 1, ..LedgerReport::default() };
        let mut report = HostDrops { host: "h1".into(), drops: Vec::new(), device_drops: Vec::new(), ledger };
        let line = ledger_line(&report, &printer());
        assert_eq!(line, "h1: the ledger DOES NOT BALANCE, 1 frames are missing: 5 rx = 3 tx + 1 dropped");
        report.ledger.imbalance = 0;
        assert!(ledger_line(&report, &printer()).contains("the ledger balances"));
    }

    #[test]
    fn what_a_device_lost_is_told_beside_the_drops() {
        let counter = |name: &str, count| CounterReport { name: name.into(), count };
        let counters = vec![counter("packet_socket", 0), counter("tx_dropped", 58_571)];
        let port = PortReport { name: "red/a".into(), device_drops: counters, ..PortReport::default() };
        let device_drops = device_drops(port).collect();
        let drops = Vec::new();
        let ledger =
            LedgerReport { device_drops: vec![counter("underlay_rxq_overflow", 7)], ..LedgerReport::default() };
        let text = drops_text(&[HostDrops { host: "h1".into(), drops, device_drops, ledger }], &printer());
        let words =
            |of: &str| text.lines().find(|line| line.contains(of)).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(words("red/a")[..5], ["h1", "tx_dropped", "red/a", "-", "58571"], "{text}");
        assert_eq!(words("underlay")[..5], ["h1", "underlay_rxq_overflow", "underlay", "-", "7"], "{text}");
        assert!(!text.contains("packet_socket"), "{text}");
    }

    #[test]
    fn the_status_tells_a_lost_host_and_one_behind() {
        let lost =
            HostStatus { host: "h1".into(), kind: "weft".into(), last_contact_ms: Some(2500), ..HostStatus::default() };
        let behind = HostStatus {
            host: "h2".into(),
            kind: "weft".into(),
            connected: true,
            acked_generation: Some(3),
            ..HostStatus::default()
        };
        let report = FabricReport { generation: 4, hosts: vec![lost, behind], ..FabricReport::default() };
        let text = status_text(&report, &printer());
        assert!(text.contains("lost 2.5 s ago") && text.contains("3 of 4"), "{text}");
    }
}
