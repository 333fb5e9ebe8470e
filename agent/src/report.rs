//! Reports for people: the vswitch's answers, which speak of numbers, told by name.

use std::collections::BTreeMap;

use weft_api::report::{CounterReport, DropReport, FdbReport, FlowReport, LedgerReport, LedgerRow, PortReport};
use weft_program::message::{self, DropSource, Ledger, Offloads, PortKind};
use weft_program::{
    Action, DropReason, Field, Instruction, Location, Match, Miss, PortId, Program, RemoteId, Rule, SegmentId,
};

use crate::lower::Names;

/// The names behind the numbers of one program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels {
    ports: BTreeMap<PortId, String>,
    remotes: BTreeMap<RemoteId, String>,
    segments: BTreeMap<SegmentId, String>,
}

impl Labels {
    /// The names in use with a program.
    pub fn new(names: &Names, program: &Program) -> Self {
        let port = |id: &PortId| names.port_name(*id).map(|name| (*id, name.to_owned()));
        let remote = |id: &RemoteId| names.remote_name(*id).map(|name| (*id, name.to_owned()));
        let network = |owner: &str| owner.strip_prefix("network ").unwrap_or(owner).to_owned();
        Self {
            ports: program.ports.keys().filter_map(port).collect(),
            remotes: program.remotes.keys().filter_map(remote).collect(),
            segments: program.segments.values().map(|s| (s.id, network(&s.owner))).collect(),
        }
    }

    fn port(&self, id: PortId) -> String {
        self.ports.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    fn remote(&self, id: RemoteId) -> String {
        self.remotes.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    fn segment(&self, id: SegmentId) -> String {
        self.segments.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    /// All rules, by table and falling priority.
    pub fn flows(&self, rules: &[message::RuleReport]) -> Vec<FlowReport> {
        let mut rules: Vec<_> = rules.iter().collect();
        rules.sort_by_key(|r| (r.rule.key.table, u16::MAX - r.rule.key.priority, r.rule.key.matches));
        rules.into_iter().map(|report| self.flow(report)).collect()
    }

    fn flow(&self, report: &message::RuleReport) -> FlowReport {
        let Rule { key, instructions, owner, .. } = &report.rule;
        FlowReport {
            table: key.table.0,
            table_name: TABLES.get(usize::from(key.table.0)).copied().unwrap_or_default().to_owned(),
            priority: key.priority.into(),
            matches: self.matches(&key.matches),
            instructions: instructions.iter().map(|i| self.instruction(i)).collect::<Vec<_>>().join(", "),
            owner: owner.to_string(),
            frames: report.frames,
            bytes: report.bytes,
        }
    }

    fn matches(&self, matches: &Match) -> Vec<String> {
        let used = Field::ALL.iter().filter(|field| matches.mask.field(**field) != 0);
        used.map(|field| {
            let (value, mask) = (matches.value.field(*field), matches.mask.field(*field));
            let text = match field {
                Field::InPort if mask == field.all_ones() && value != 0 => self.port(PortId(value as u32)),
                Field::InRemote if mask == field.all_ones() && value != 0 => self.remote(RemoteId(value as u32)),
                Field::IpSrc | Field::IpDst | Field::NdTarget => address(matches, *field),
                _ => number(*field, value),
            };
            if mask == field.all_ones() || matches!(field, Field::IpSrc | Field::IpDst | Field::NdTarget) {
                return format!("{}={text}", field.name());
            }
            format!("{}={text}/{}", field.name(), number(*field, mask))
        })
        .collect()
    }

    fn instruction(&self, instruction: &Instruction) -> String {
        match instruction {
            Instruction::Apply(actions) => actions.iter().map(|a| self.action(a)).collect::<Vec<_>>().join(", "),
            Instruction::WriteMetadata { value, mask: u64::MAX } => format!("metadata={value}"),
            Instruction::WriteMetadata { value, mask } => format!("metadata={value:#x}/{mask:#x}"),
            Instruction::Goto(table) => format!("goto {}", table.0),
        }
    }

    fn action(&self, action: &Action) -> String {
        match action {
            Action::Output(id) => format!("output {}", self.port(*id)),
            Action::Tunnel { remote, vni } => format!("tunnel to {} vni {}", self.remote(*remote), vni.get()),
            Action::Flood(id) => format!("flood list {}", id.0),
            Action::SetField { field, value } => format!("set {}={}", field.name(), number(*field, *value)),
            Action::Drop(reason) => format!("drop {}", reason.name()),
            Action::Fdb { segment, miss: Miss::Drop } => format!("fdb {}", self.segment(*segment)),
            Action::Fdb { segment, miss: Miss::Flood(id) } => {
                format!("fdb {} else flood list {}", self.segment(*segment), id.0)
            }
            Action::Learn { segment } => format!("learn {}", self.segment(*segment)),
            Action::AnswerNeighbor { segment } => format!("answer neighbour {}", self.segment(*segment)),
            Action::LoadLabel { segment, field, register } => {
                format!("reg{register}=label of {} in {}", field.name(), self.segment(*segment))
            }
            Action::ReplyNeighbor { mac } => format!("reply neighbour {mac}"),
        }
    }

    /// All ports with their counters, by name.
    pub fn port_reports(&self, ports: &[message::PortReport]) -> Vec<PortReport> {
        let mut reports: Vec<_> = ports.iter().map(|port| self.port_report(port)).collect();
        reports.sort_by(|a, b| a.name.cmp(&b.name));
        reports
    }

    fn port_report(&self, port: &message::PortReport) -> PortReport {
        let device = &port.device;
        let source = format!("port {}", device.name);
        let drops = port
            .drops
            .iter()
            .map(|(reason, frames)| drop_report(*reason, Some(device.name.clone()), source.clone(), "", *frames));
        PortReport {
            name: device.name.clone(),
            kind: match device.kind {
                PortKind::Tap => "tap",
                PortKind::Netdev => "netdev",
                PortKind::Memory => "memory",
            }
            .to_owned(),
            netns: device.netns.clone(),
            ifname: device.ifname.clone(),
            mtu: device.mtu,
            offloads: offloads(device.offloads),
            live: port.live,
            gone: port.gone,
            rx_frames: port.rx_frames,
            rx_bytes: port.rx_bytes,
            tx_frames: port.tx_frames,
            tx_bytes: port.tx_bytes,
            drops: drops.collect(),
            device_drops: counters(&port.device_drops),
        }
    }

    /// The forwarding database, by network and MAC address.
    pub fn fdb_reports(&self, entries: &[message::FdbReport]) -> Vec<FdbReport> {
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by_key(|entry| entry.key);
        let report = |entry: &message::FdbReport| FdbReport {
            network: self.segment(entry.key.segment),
            mac: entry.key.mac.to_string(),
            location: match entry.location {
                Location::Local(id) => format!("port {}", self.port(id)),
                Location::Remote(id) => format!("host {}", self.remote(id)),
            },
            pinned: entry.age_ms.is_none(),
            age_ms: entry.age_ms,
            owner: entry.owner.clone(),
        };
        entries.into_iter().map(report).collect()
    }

    /// All drops, summed by reason, by where the frames came from and by the rule that said so; the most frequent first.
    pub fn drop_reports(&self, ledger: &message::LedgerReport) -> Vec<DropReport> {
        let mut sums: BTreeMap<(DropReason, DropSource, &str), u64> = BTreeMap::new();
        for drop in ledger.drops.iter().filter(|drop| drop.frames > 0) {
            *sums.entry((drop.reason, drop.source, drop.owner.as_str())).or_default() += drop.frames;
        }
        let report = |((reason, source, owner), frames)| {
            let port = if let DropSource::Port(id) = source { self.ports.get(&id).cloned() } else { None };
            drop_report(reason, port, self.drop_source(source), owner, frames)
        };
        let mut reports: Vec<_> = sums.into_iter().map(report).collect();
        reports.sort_by_key(|report| std::cmp::Reverse(report.frames));
        reports
    }

    fn drop_source(&self, source: DropSource) -> String {
        match source {
            DropSource::Port(id) if !self.ports.contains_key(&id) => format!("a former port ({id})"),
            DropSource::Port(id) => format!("port {}", self.port(id)),
            // Counters outlive the program that had a name for it.
            DropSource::Remote(id) if !self.remotes.contains_key(&id) => format!("a former host ({id})"),
            DropSource::Remote(id) => format!("host {}", self.remote(id)),
            DropSource::Address(addr) => format!("underlay {addr}"),
            DropSource::Underlay => "underlay".into(),
            DropSource::Own => "vswitch".into(),
        }
    }

    /// The balance of frames.
    pub fn ledger_report(&self, ledger: &message::LedgerReport) -> LedgerReport {
        let mut total = Ledger::default();
        ledger.workers.iter().for_each(|worker| total += *worker);
        LedgerReport {
            total: row(&total),
            workers: ledger.workers.iter().map(row).collect(),
            imbalance: imbalance(&total),
            device_drops: counters(&ledger.device_drops),
            cache: counters(&ledger.cache),
            io: counters(&ledger.io),
        }
    }
}

fn imbalance(ledger: &Ledger) -> i64 {
    let inn = ledger.rx + ledger.originated + ledger.copies + ledger.split;
    let out = ledger.tx + ledger.consumed + ledger.dropped + ledger.merged + ledger.held;
    inn as i64 - out as i64
}

fn row(ledger: &Ledger) -> LedgerRow {
    LedgerRow {
        rx: ledger.rx,
        originated: ledger.originated,
        copies: ledger.copies,
        split: ledger.split,
        tx: ledger.tx,
        consumed: ledger.consumed,
        dropped: ledger.dropped,
        merged: ledger.merged,
        held: ledger.held,
    }
}

fn drop_report(reason: DropReason, port: Option<String>, source: String, owner: &str, frames: u64) -> DropReport {
    let (name, explanation) = (reason.name().into(), reason.explanation().trim().into());
    DropReport { reason: name, explanation, port, source, owner: owner.into(), frames }
}

fn counters(counters: &[(String, u64)]) -> Vec<CounterReport> {
    counters.iter().map(|(name, count)| CounterReport { name: name.clone(), count: *count }).collect()
}

fn offloads(offloads: Offloads) -> Vec<String> {
    let all = [("csum", offloads.csum), ("tso", offloads.tso), ("tso_ecn", offloads.tso_ecn), ("uso", offloads.uso)];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name.to_owned()).collect()
}

/// An address with its prefix length, read by the Ethernet type that the same rule matches on.
fn address(matches: &Match, field: Field) -> String {
    let (value, mask) = (matches.value.field(field), matches.mask.field(field));
    let v6 = field == Field::NdTarget || matches.value.field(Field::EthType) == 0x86dd;
    let bits = if v6 { 128 } else { 32 };
    let ones = if v6 { mask } else { mask & u128::from(u32::MAX) };
    let prefix_len = (ones << (128 - bits)).leading_ones();
    let text = if v6 {
        std::net::Ipv6Addr::from(value).to_string()
    } else {
        std::net::Ipv4Addr::from(value as u32).to_string()
    };
    if ones.count_ones() != prefix_len {
        return format!("{text}/{ones:#x}");
    }
    if prefix_len == bits { text } else { format!("{text}/{prefix_len}") }
}

fn number(field: Field, value: u128) -> String {
    match field {
        Field::EthDst | Field::EthSrc | Field::ArpSha | Field::ArpTha => {
            weft_program::MacAddr::from_u64(value as u64).to_string()
        }
        Field::EthType | Field::TcpFlags | Field::VlanTci => format!("{value:#06x}"),
        _ => value.to_string(),
    }
}

/// The tables of the controller's pipeline, by number.
const TABLES: [&str; 4] = ["classify", "anti_spoof", "respond", "forward"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::lower;
    use crate::testing::{a_port, a_remote, a_segment, program};
    use weft_program::{DomainId, RuleKey, TableId};

    fn labels() -> (Labels, PortId) {
        let mut names = Names::default();
        let program =
            lower(&program(&[a_segment(42), a_port("red/a", 42), a_remote("h2", &[42])]), &mut names).unwrap();
        (Labels::new(&names, &program), names.known_port("red/a").unwrap())
    }

    #[test]
    fn a_rule_is_told_by_name() {
        let (labels, port) = labels();
        let matches = Match::ANY.with(Field::InPort, port.0.into()).with(Field::EthType, 0x0800).with_masked(
            Field::IpSrc,
            0x0a09_0000,
            u128::MAX << 8,
        );
        let rule = Rule {
            key: RuleKey { table: TableId(1), priority: 7, matches },
            instructions: vec![Instruction::Apply(vec![Action::Drop(DropReason::SpoofedAddress)])],
            owner: "port red/a anti-spoof".into(),
            domain: DomainId(42),
        };
        let flow = &labels.flows(&[message::RuleReport { rule, frames: 3, bytes: 300 }])[0];
        assert_eq!(flow.matches, ["in_port=red/a", "eth_type=0x0800", "ip_src=10.9.0.0/24"]);
        assert_eq!((flow.table_name.as_str(), flow.instructions.as_str()), ("anti_spoof", "drop SpoofedAddress"));
    }

    #[test]
    fn drops_are_summed_by_reason_source_and_rule() {
        let (labels, port) = labels();
        let remote = *labels.remotes.keys().next().unwrap();
        let gone = format!("a former host ({})", RemoteId(77));
        let drop = |source, owner: &str, frames| message::DropReport {
            source,
            reason: DropReason::Policy,
            owner: owner.into(),
            frames,
        };
        let drops = vec![
            drop(DropSource::Port(port), "rule one", 1),
            drop(DropSource::Port(port), "rule two", 2),
            drop(DropSource::Port(port), "rule one", 3),
            drop(DropSource::Remote(remote), "", 11),
            drop(DropSource::Remote(RemoteId(77)), "", 10),
            drop(DropSource::Address([192, 0, 2, 77].into()), "", 9),
            drop(DropSource::Underlay, "", 5),
            drop(DropSource::Own, "", 0),
        ];
        let reports = labels.drop_reports(&message::LedgerReport { drops, ..message::LedgerReport::default() });
        let got: Vec<_> = reports.iter().map(|r| (r.source.as_str(), r.owner.as_str(), r.frames)).collect();
        let port = "port red/a";
        let expected = [
            ("host h2", "", 11),
            (gone.as_str(), "", 10),
            ("underlay 192.0.2.77", "", 9),
            ("underlay", "", 5),
            (port, "rule one", 4),
            (port, "rule two", 2),
        ];
        assert_eq!(got, expected);
        assert_eq!(reports[4].port.as_deref(), Some("red/a"));
    }

    #[test]
    fn an_imbalance_shows() {
        let (labels, _) = labels();
        let worker = Ledger { rx: 5, tx: 3, dropped: 1, ..Ledger::default() };
        let report = message::LedgerReport { workers: vec![worker, worker], ..message::LedgerReport::default() };
        assert_eq!(labels.ledger_report(&report).imbalance, 2);
    }
}
