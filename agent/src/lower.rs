//! Lowering: a host program, which speaks of names, into a program for the vswitch, which speaks of numbers.
//!
//! Pure but for [`Names`], which gives numbers out and keeps them: a port keeps its number as long as any program
//! names it, also across restarts, because the vswitch holds devices under it. All errors are found, not the first one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_api::wire::proto::{self, action, fdb_lookup, instruction, location};
use weft_api::wire::{HostProgram, MatchRead, field_value, ip_from_bytes, item, mac_from_bytes};
use weft_api::{DropReason, Vni};
use weft_program::{
    Action, DomainId, Fdb, FdbKey, Field, Flood, FloodId, FloodTargets, Instruction, Label, LabelKey, Location, Match,
    Miss, Neighbor, NeighborKey, PortConfig, PortId, Program, Remote, RemoteId, RemoteKind, Rule, RuleKey, Segment,
    SegmentId, TableId,
};

/// The numbers of ports and remotes, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Names {
    ports: Numbers,
    remotes: Numbers,
}

/// Numbers from 1 to [`NUMBER_MAX`]; one that was given back is used again as late as possible.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Numbers {
    by_name: BTreeMap<String, u32>,
    last: u32,
}

/// A vswitch keeps ports in tables indexed by number.
const NUMBER_MAX: u32 = 65_535;

/// What is wrong with an item, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{owner}: {why}")]
pub struct LowerError {
    /// The item's owner or key.
    pub owner: String,
    /// What is wrong.
    pub why: String,
}

impl Names {
    /// The number of a port.
    pub fn known_port(&self, name: &str) -> Option<PortId> {
        self.ports.by_name.get(name).copied().map(PortId)
    }

    /// Takes over a number that a vswitch uses already; false when it stands for another port here.
    pub fn adopt_port(&mut self, name: &str, id: PortId) -> bool {
        let ports = &mut self.ports;
        if let Some(known) = ports.by_name.get(name) {
            return *known == id.0;
        }
        if !(1..=NUMBER_MAX).contains(&id.0) || ports.by_name.values().any(|used| *used == id.0) {
            return false;
        }
        ports.by_name.insert(name.to_owned(), id.0);
        true
    }

    /// The name behind a number.
    pub fn port_name(&self, id: PortId) -> Option<&str> {
        self.ports.name(id.0)
    }

    /// The name behind a number.
    pub fn remote_name(&self, id: RemoteId) -> Option<&str> {
        self.remotes.name(id.0)
    }

    fn known_remote(&self, name: &str) -> Option<RemoteId> {
        self.remotes.by_name.get(name).copied().map(RemoteId)
    }

    /// Gives numbers to the program's ports and remotes and takes back those of all others.
    fn follow(&mut self, program: &HostProgram) -> Result<(), Vec<LowerError>> {
        let ports = program.kinds().filter_map(|kind| match kind {
            item::Kind::Port(port) => Some(port.name.as_str()),
            _ => None,
        });
        let remotes = program.kinds().filter_map(|kind| match kind {
            item::Kind::Remote(remote) => Some(remote.name.as_str()),
            _ => None,
        });
        let (ports, remotes) = (self.ports.follow(ports, "ports"), self.remotes.follow(remotes, "remotes"));
        let errors: Vec<_> = [ports, remotes].into_iter().filter_map(Result::err).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

impl Numbers {
    fn name(&self, number: u32) -> Option<&str> {
        self.by_name.iter().find(|(_, known)| **known == number).map(|(name, _)| name.as_str())
    }

    fn follow<'a>(&mut self, names: impl Iterator<Item = &'a str>, what: &str) -> Result<(), LowerError> {
        let mut old = std::mem::take(&mut self.by_name);
        let used: BTreeSet<u32> = old.values().copied().collect();
        let mut fresh = Vec::new();
        for name in names {
            match old.remove_entry(name) {
                Some((name, number)) => drop(self.by_name.insert(name, number)),
                None => fresh.push(name.to_owned()),
            }
        }
        if used.len() + fresh.len() > NUMBER_MAX as usize {
            let why = format!("there are more than the {NUMBER_MAX} that a host can have");
            return Err(LowerError { owner: what.to_owned(), why });
        }
        for name in fresh {
            // There is a free one, and all numbers given out here lie ahead of it.
            self.last = self.last % NUMBER_MAX + 1;
            while used.contains(&self.last) {
                self.last = self.last % NUMBER_MAX + 1;
            }
            self.by_name.insert(name, self.last);
        }
        Ok(())
    }
}

/// Lowers a program. Ports are dark in it: whether they live is not the controller's program but the agent's to say.
pub fn lower(host: &HostProgram, names: &mut Names) -> Result<Program, Vec<LowerError>> {
    names.follow(host)?;
    let mut lowering = Lowering { names, program: Program::default(), errors: Vec::new() };
    for kind in host.kinds() {
        lowering.item(kind);
    }
    if lowering.errors.is_empty() { Ok(lowering.program) } else { Err(lowering.errors) }
}

/// The owner of an error, and whatever can be its text.
type Step<T> = Result<T, String>;

struct Lowering<'a> {
    names: &'a Names,
    program: Program,
    errors: Vec<LowerError>,
}

impl Lowering<'_> {
    fn item(&mut self, kind: &item::Kind) {
        let (owner, lowered) = match kind {
            item::Kind::Segment(segment) => (segment.owner.clone(), self.segment(segment)),
            item::Kind::Port(port) => (port.owner.clone(), self.port(port)),
            item::Kind::Remote(remote) => (remote.owner.clone(), self.remote(remote)),
            item::Kind::Flood(flood) => (format!("flood list {}", flood.id), self.flood(flood)),
            item::Kind::Rule(rule) => (rule.owner.clone(), self.rule(rule)),
            item::Kind::Fdb(entry) => (entry.owner.clone(), self.fdb(entry)),
            item::Kind::Neighbor(neighbor) => (neighbor.owner.clone(), self.neighbor(neighbor)),
            item::Kind::Label(label) => (label.owner.clone(), self.label(label)),
        };
        if let Err(why) = lowered {
            self.errors.push(LowerError { owner, why });
        }
    }

    fn segment(&mut self, segment: &proto::Segment) -> Step<()> {
        let id = SegmentId(segment.id);
        let vni = vni(segment.vni)?;
        let mtu = u16::try_from(segment.mtu).map_err(|_| format!("an MTU of {} is too large", segment.mtu))?;
        let (domain, owner) = (DomainId(segment.domain), segment.owner.as_str().into());
        self.program.segments.insert(id, Segment { id, vni, mtu, domain, owner });
        Ok(())
    }

    fn port(&mut self, port: &proto::Port) -> Step<()> {
        let id = self.port_id(&port.name)?;
        let (segment, owner) = (SegmentId(port.segment), port.owner.as_str().into());
        self.program.ports.insert(id, PortConfig { id, segment, live: false, learn: port.learn, owner });
        Ok(())
    }

    fn remote(&mut self, remote: &proto::Remote) -> Step<()> {
        let id = self.remote_id(&remote.name)?;
        let addr = ip_from_bytes(&remote.address).map_err(|e| e.to_string())?;
        let udp_port = u16::try_from(remote.udp_port).map_err(|_| format!("{} is no UDP port", remote.udp_port))?;
        let vnis = remote.vnis.iter().map(|v| vni(*v)).collect::<Step<_>>()?;
        let kind = match remote.kind() {
            proto::RemoteKind::Weft => RemoteKind::Weft,
            proto::RemoteKind::Legacy => RemoteKind::Legacy,
            proto::RemoteKind::Unspecified => return Err("a remote of no kind".into()),
        };
        let owner = remote.owner.as_str().into();
        self.program.remotes.insert(id, Remote { id, addr, udp_port, vnis, kind, owner });
        Ok(())
    }

    fn flood(&mut self, flood: &proto::Flood) -> Step<()> {
        let targets = FloodTargets {
            ports: flood.ports.iter().map(|name| self.port_id(name)).collect::<Step<_>>()?,
            remotes: flood.remotes.iter().map(|name| self.remote_id(name)).collect::<Step<_>>()?,
        };
        let id = FloodId(flood.id);
        self.program.floods.insert(id, Flood { id, segment: SegmentId(flood.segment), targets });
        Ok(())
    }

    fn fdb(&mut self, entry: &proto::FdbEntry) -> Step<()> {
        let key = entry.key.as_ref().ok_or("an entry without a key")?;
        let mac = mac_from_bytes(&key.mac).map_err(|e| e.to_string())?;
        let key = FdbKey { segment: SegmentId(key.segment), mac };
        let location = self.location(entry.location.as_ref())?;
        self.program.fdb.insert(key, Fdb { key, location, owner: entry.owner.as_str().into() });
        Ok(())
    }

    fn neighbor(&mut self, neighbor: &proto::Neighbor) -> Step<()> {
        let (segment, ip) = address_key(neighbor.key.as_ref())?;
        let mac = mac_from_bytes(&neighbor.mac).map_err(|e| e.to_string())?;
        let location = self.location(neighbor.location.as_ref())?;
        let (key, owner) = (NeighborKey { segment, ip }, neighbor.owner.as_str().into());
        self.program.neighbors.insert(key, Neighbor { key, mac, location, owner });
        Ok(())
    }

    fn label(&mut self, label: &proto::Label) -> Step<()> {
        let (segment, ip) = address_key(label.key.as_ref())?;
        let (key, owner) = (LabelKey { segment, ip }, label.owner.as_str().into());
        self.program.labels.insert(key, Label { key, label: label.label, owner });
        Ok(())
    }

    fn rule(&mut self, rule: &proto::Rule) -> Step<()> {
        let key = rule.key.as_ref().ok_or("a rule without a key")?;
        let mut matches = Match::ANY;
        for matched in &key.matches {
            matches = match matched.read().map_err(|e| e.to_string())? {
                MatchRead::Bits { field, value, mask } => matches.with_masked(field, value, mask),
                MatchRead::Port(name) => matches.with(Field::InPort, self.port_id(name)?.0.into()),
                MatchRead::Remote(name) => matches.with(Field::InRemote, self.remote_id(name)?.0.into()),
            };
        }
        let priority = u16::try_from(key.priority).map_err(|_| format!("{} is no priority", key.priority))?;
        let key = RuleKey { table: table(key.table)?, priority, matches };
        let instructions = rule.instructions.iter().map(|i| self.instruction(i)).collect::<Step<_>>()?;
        let (owner, domain) = (Arc::from(rule.owner.as_str()), DomainId(rule.domain));
        self.program.rules.insert(key, Rule { key, instructions, owner, domain });
        Ok(())
    }

    fn instruction(&self, instruction: &proto::Instruction) -> Step<Instruction> {
        match instruction.kind.as_ref().ok_or("an instruction of no kind")? {
            instruction::Kind::Apply(apply) => {
                Ok(Instruction::Apply(apply.actions.iter().map(|a| self.action(a)).collect::<Step<_>>()?))
            }
            instruction::Kind::WriteMetadata(write) => {
                Ok(Instruction::WriteMetadata { value: write.value, mask: write.mask })
            }
            instruction::Kind::GotoTable(number) => Ok(Instruction::Goto(table(*number)?)),
        }
    }

    fn action(&self, action: &proto::Action) -> Step<Action> {
        Ok(match action.kind.as_ref().ok_or("an action of no kind")? {
            action::Kind::Output(name) => Action::Output(self.port_id(name)?),
            action::Kind::Tunnel(to) => Action::Tunnel { remote: self.remote_id(&to.remote)?, vni: vni(to.vni)? },
            action::Kind::Flood(id) => Action::Flood(FloodId(*id)),
            action::Kind::SetField(set) => {
                let field = field(&set.field)?;
                Action::SetField { field, value: field_value(field, &set.bits).map_err(|e| e.to_string())? }
            }
            action::Kind::Drop(name) => {
                Action::Drop(DropReason::from_name(name).ok_or_else(|| format!("`{name}` is no drop reason"))?)
            }
            action::Kind::Fdb(lookup) => {
                let miss = match lookup.miss.as_ref().ok_or("an FDB lookup that does not say what to do at a miss")? {
                    fdb_lookup::Miss::Drop(_) => Miss::Drop,
                    fdb_lookup::Miss::Flood(id) => Miss::Flood(FloodId(*id)),
                };
                Action::Fdb { segment: SegmentId(lookup.segment), miss }
            }
            action::Kind::Learn(segment) => Action::Learn { segment: SegmentId(*segment) },
            action::Kind::AnswerNeighbor(segment) => Action::AnswerNeighbor { segment: SegmentId(*segment) },
            action::Kind::LoadLabel(load) => Action::LoadLabel {
                segment: SegmentId(load.segment),
                field: field(&load.field)?,
                register: u8::try_from(load.register).map_err(|_| format!("{} is no register", load.register))?,
            },
            action::Kind::ReplyNeighbor(mac) => {
                Action::ReplyNeighbor { mac: mac_from_bytes(mac).map_err(|e| e.to_string())? }
            }
        })
    }

    fn location(&self, location: Option<&proto::Location>) -> Step<Location> {
        match location.and_then(|l| l.kind.as_ref()).ok_or("a location of no kind")? {
            location::Kind::Port(name) => self.port_id(name).map(Location::Local),
            location::Kind::Remote(name) => self.remote_id(name).map(Location::Remote),
        }
    }

    fn port_id(&self, name: &str) -> Step<PortId> {
        self.names.known_port(name).ok_or_else(|| format!("refers to port {name}, which the program does not have"))
    }

    fn remote_id(&self, name: &str) -> Step<RemoteId> {
        self.names.known_remote(name).ok_or_else(|| format!("refers to host {name}, which the program does not have"))
    }
}

fn vni(number: u32) -> Step<Vni> {
    Vni::new(number).map_err(|e| e.to_string())
}

fn table(number: u32) -> Step<TableId> {
    u8::try_from(number).map(TableId).map_err(|_| format!("{number} is no table"))
}

fn field(name: &str) -> Step<Field> {
    Field::from_name(name).ok_or_else(|| format!("`{name}` is no field"))
}

fn address_key(key: Option<&proto::AddressKey>) -> Step<(SegmentId, IpAddr)> {
    let key = key.ok_or("an entry without a key")?;
    Ok((SegmentId(key.segment), ip_from_bytes(&key.ip).map_err(|e| e.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{a_port, a_remote, a_segment, program};
    use weft_api::MacAddr;

    #[test]
    fn names_become_numbers_everywhere() {
        let mut host = program(&[a_segment(42), a_port("red/a", 42), a_remote("h2", &[42])]);
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let location = Some(proto::Location::port("red/a"));
        let key = Some(proto::MacKey::new(42, mac));
        host.insert(proto::FdbEntry { key, location, owner: "port red/a".into() });
        host.insert(
            proto::Rule::new(0, 9, "port red/a", 42)
                .on_port("red/a")
                .on_masked(Field::IpDst, 0xff00, 0xff00)
                .apply(proto::Action::tunnel("h2", 42))
                .apply(proto::Action::drop_as(DropReason::Policy))
                .goto(1),
        );
        let mut names = Names::default();
        let program = lower(&host, &mut names).unwrap();
        let (port, remote) = (names.known_port("red/a").unwrap(), names.known_remote("h2").unwrap());
        assert_eq!(program.ports[&port].segment, SegmentId(42));
        assert!(!program.ports[&port].live);
        assert_eq!(program.fdb[&FdbKey { segment: SegmentId(42), mac }].location, Location::Local(port));
        let rule = program.rules.values().next().unwrap();
        let wanted = Match::ANY.with(Field::InPort, port.0.into()).with_masked(Field::IpDst, 0xff00, 0xff00);
        assert_eq!(rule.key.matches, wanted);
        let tunnel = Action::Tunnel { remote, vni: Vni::new(42).unwrap() };
        let apply = Instruction::Apply(vec![tunnel, Action::Drop(DropReason::Policy)]);
        assert_eq!(rule.instructions, [apply, Instruction::Goto(TableId(1))]);
        assert_eq!((names.port_name(port), names.remote_name(remote)), (Some("red/a"), Some("h2")));
    }

    #[test]
    fn a_port_keeps_its_number_and_a_new_one_never_gets_it() {
        let mut names = Names::default();
        lower(&program(&[a_segment(1), a_port("red/a", 1), a_port("red/b", 1)]), &mut names).unwrap();
        let (a, b) = (names.known_port("red/a").unwrap(), names.known_port("red/b").unwrap());
        lower(&program(&[a_segment(1), a_port("red/b", 1), a_port("red/c", 1)]), &mut names).unwrap();
        assert_eq!(names.known_port("red/a"), None);
        assert_eq!(names.known_port("red/b"), Some(b));
        assert!(![a, b].contains(&names.known_port("red/c").unwrap()));
    }

    #[test]
    fn a_number_in_use_by_a_vswitch_is_adopted_unless_it_stands_for_another_port() {
        let mut names = Names::default();
        assert!(names.adopt_port("red/a", PortId(1)));
        assert!(names.adopt_port("red/a", PortId(1)));
        assert!(!names.adopt_port("red/b", PortId(1)));
        assert!(!names.adopt_port("red/a", PortId(8)));
        assert!(!names.adopt_port("red/c", PortId(0)) && !names.adopt_port("red/c", PortId(70_000)));
        lower(&program(&[a_segment(1), a_port("red/a", 1), a_port("red/b", 1)]), &mut names).unwrap();
        assert_eq!((names.known_port("red/a"), names.known_port("red/b")), (Some(PortId(1)), Some(PortId(2))));
    }

    #[test]
    fn numbers_go_around_without_meeting_those_in_use() {
        let mut numbers = Numbers { last: NUMBER_MAX - 1, ..Numbers::default() };
        numbers.follow(["a", "b"].into_iter(), "ports").unwrap();
        assert_eq!((numbers.by_name["a"], numbers.by_name["b"]), (NUMBER_MAX, 1));
        numbers.last = NUMBER_MAX - 1;
        numbers.follow(["a", "b", "c"].into_iter(), "ports").unwrap();
        assert_eq!(numbers.by_name["c"], 2);
        let many: Vec<String> = (0..=NUMBER_MAX).map(|n| n.to_string()).collect();
        assert!(numbers.follow(many.iter().map(String::as_str), "ports").is_err());
    }

    #[test]
    fn all_errors_are_told_at_once() {
        let mut host = program(&[a_segment(42)]);
        host.insert(proto::Rule::new(0, 1, "rule one", 1).on_port("red/x"));
        host.insert(proto::Rule::new(0, 2, "rule two", 1).apply(proto::Action::tunnel("h9", 42)));
        host.insert(proto::Flood { id: 1, segment: 42, ports: vec!["red/y".into()], remotes: vec![] });
        let errors = lower(&host, &mut Names::default()).unwrap_err();
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        for part in ["red/x", "h9", "red/y", "rule one", "rule two", "flood list 1"] {
            assert!(texts.iter().any(|t| t.contains(part)), "{part} in {texts:?}");
        }
    }
}
