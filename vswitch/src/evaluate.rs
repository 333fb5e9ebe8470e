//! Walks the tables for one key and writes down the verdict, and everything that it depended on.
//!
//! A field that a rule wrote is no dependency any more, only what was read from the frame itself is. Where the frame
//! came from always is one: it decides whom a copy must not reach.

use std::sync::Arc;

use weft_packet::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV6};
use weft_packet::key::{KEY_WORDS, PARSED_WORDS};
use weft_packet::{DropReason, Field, FlowKey, FlowMask, MacAddr, Vni};
use weft_program::{
    Action, FdbKey, FloodId, Instruction, LabelKey, Location, Miss, NeighborKey, PortId, RemoteId, Rule, Segment,
    SegmentId,
};

use crate::epoch::{Depends, Stamp};
use crate::learn::{Learn, Learned, Second, Seen, is_reachable};
use crate::tables::Tables;
use crate::verdict::{Step, Verdict};

const ARP_REQUEST: u128 = 1;
const PROTO_ICMPV6: u128 = 58;
const NEIGHBOR_SOLICITATION: u128 = 135;
/// The hop limit that shows that an ND message was not routed (RFC 4861, section 7.1.1).
const ND_HOP_LIMIT: u128 = 255;
/// How long a station may count as unknown. Learning it ends that at once; only while a segment changes its domain can
/// a worker that still uses the old snapshot tell the wrong domain.
const MISS_S: u32 = 5;

/// The outcome of one walk, with what ends it.
#[derive(Debug, Clone, Default)]
pub struct Evaluation {
    /// What is done.
    pub verdict: Verdict,
    /// The bits of the frame's own key that decided it.
    pub read: FlowMask,
    /// The domains that decided it.
    pub depends: Depends,
    /// The versions it was made from.
    pub stamp: Stamp,
    /// When it must be made anew, whatever else happens.
    pub until: Second,
    /// The learned entries that each frame refreshes.
    pub sources: Vec<Arc<Seen>>,
}

/// Evaluates, and learns on the way.
pub fn evaluate(tables: &Tables, learned: &Learned, key: &FlowKey, now: Second) -> Evaluation {
    let mut walk = Walk::new(tables, learned, key, now);
    walk.tables();
    walk.finish()
}

struct Walk<'a> {
    tables: &'a Tables,
    learned: &'a Learned,
    now: Second,
    in_port: PortId,
    in_remote: RemoteId,
    key: FlowKey,
    written: FlowMask,
    sent: bool,
    refusal: Option<(DropReason, Arc<str>)>,
    result: Evaluation,
}

/// Whether the walk goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Continue,
    End,
    Table(u8),
}

impl<'a> Walk<'a> {
    fn new(tables: &'a Tables, learned: &'a Learned, key: &FlowKey, now: Second) -> Self {
        let mut start = *key;
        start.0[PARSED_WORDS..].fill(0);
        let mut read = FlowKey::only(Field::InPort);
        read |= &FlowKey::only(Field::InRemote);
        read |= &FlowKey::only(Field::Vni);
        let result = Evaluation {
            verdict: Verdict::default(),
            read,
            depends: Depends::default(),
            stamp: Stamp { program: tables.version(), learned: learned.epochs().version() },
            until: Second(u32::MAX),
            sources: Vec::new(),
        };
        let mut walk = Self {
            tables,
            learned,
            now,
            in_port: PortId(start.field(Field::InPort) as u32),
            in_remote: RemoteId(start.field(Field::InRemote) as u32),
            key: start,
            // What the pipeline starts with is no property of the frame.
            written: FlowKey(std::array::from_fn(|i| if i < PARSED_WORDS { 0 } else { u64::MAX })),
            sent: false,
            refusal: None,
            result,
        };
        walk.depend_on_ingress();
        walk
    }

    // A rule's domain says whose frames it can match. That is where a frame came from, so a new rule ends the right
    // results even when no rule of its domain was passed before.
    fn depend_on_ingress(&mut self) {
        let segment = match self.in_port.0 {
            0 => self.ingress_tunnel(),
            _ => self.tables.port(self.in_port).and_then(|port| self.tables.segment(port.segment)),
        };
        match segment {
            Some(segment) => self.result.depends.add(segment.domain),
            None => self.result.depends.add_everything(),
        }
    }

    fn ingress_tunnel(&self) -> Option<&'a Segment> {
        let vni = Vni::new(self.key.field(Field::Vni) as u32).ok()?;
        let hosts = self.tables.remote(self.in_remote)?.vnis.contains(&vni);
        self.tables.segment_of_vni(vni).filter(|_| hosts)
    }

    fn tables(&mut self) {
        let mut id = 0;
        loop {
            let mut probed = FlowKey::ZERO;
            let rule = self.tables.table(id).and_then(|table| table.lookup(&self.key, &mut probed));
            self.see(&probed);
            let Some(rule) = rule else {
                self.refuse(DropReason::TableMiss, &"".into());
                return;
            };
            self.result.depends.add(rule.rule.domain);
            self.result.verdict.rules.push(Arc::clone(rule));
            match self.rule(&rule.rule) {
                Next::Table(next) if next > id => id = next,
                _ => return,
            }
        }
    }

    fn rule(&mut self, rule: &Rule) -> Next {
        for instruction in &rule.instructions {
            match instruction {
                Instruction::Apply(actions) => {
                    for action in actions {
                        if self.action(action, &rule.owner) == Next::End {
                            return Next::End;
                        }
                    }
                }
                Instruction::WriteMetadata { value, mask } => {
                    let metadata = self.key.field(Field::Metadata) as u64;
                    self.key.set(Field::Metadata, u128::from(metadata & !mask | value & mask));
                }
                Instruction::Goto(table) => return Next::Table(table.0),
            }
        }
        Next::End
    }

    fn action(&mut self, action: &Action, owner: &Arc<str>) -> Next {
        match *action {
            Action::Output(port) => self.output(port, owner),
            Action::Tunnel { remote, vni } => self.tunnel(remote, vni, owner),
            Action::Flood(flood) => self.flood(flood, owner),
            Action::SetField { field, value } => self.set_field(field, value),
            Action::Drop(reason) => {
                self.refuse(reason, owner);
                return Next::End;
            }
            Action::Fdb { segment, miss } => {
                self.fdb(segment, miss, owner);
                return Next::End;
            }
            Action::Learn { segment } => self.learn(segment),
            Action::AnswerNeighbor { segment } => return self.answer_neighbor(segment),
            Action::LoadLabel { segment, field, register } => self.load_label(segment, field, register),
            Action::ReplyNeighbor { mac } => {
                if self.asks_for().is_some() {
                    return self.reply(mac);
                }
            }
        }
        Next::Continue
    }

    fn output(&mut self, port: PortId, owner: &Arc<str>) {
        if port == self.in_port {
            return self.refuse(DropReason::Hairpin, owner);
        }
        if !self.is_live(port) {
            return self.refuse(DropReason::PortDark, owner);
        }
        self.send(Step::Output(port));
    }

    fn tunnel(&mut self, remote: RemoteId, vni: Vni, owner: &Arc<str>) {
        match self.tables.segment_of_vni(vni) {
            Some(segment) => self.result.depends.add(segment.domain),
            None => self.result.depends.add_everything(),
        }
        if self.is_from_tunnel() {
            return self.refuse(DropReason::SplitHorizon, owner);
        }
        if !self.tables.remote(remote).is_some_and(|remote| remote.vnis.contains(&vni)) {
            return self.refuse(DropReason::NoDestination, owner);
        }
        self.send(Step::Tunnel { remote, vni });
    }

    fn flood(&mut self, id: FloodId, owner: &Arc<str>) {
        let tables = self.tables;
        let flood = tables.flood(id);
        let Some((flood, segment)) = flood.and_then(|f| Some((f, self.segment(f.segment)?))) else {
            return self.refuse(DropReason::NoDestination, owner);
        };
        let steps = self.result.verdict.steps.len();
        for port in &flood.targets.ports {
            if *port != self.in_port && self.is_live(*port) {
                self.send(Step::Output(*port));
            }
        }
        if !self.is_from_tunnel() {
            for remote in &flood.targets.remotes {
                if tables.remote(*remote).is_some_and(|remote| remote.vnis.contains(&segment.vni)) {
                    self.send(Step::Tunnel { remote: *remote, vni: segment.vni });
                }
            }
        }
        if self.result.verdict.steps.len() == steps {
            self.refuse(DropReason::EmptyFlood, owner);
        }
    }

    fn set_field(&mut self, field: Field, value: u128) {
        self.key.set(field, value);
        if (field as u8) < Field::Metadata as u8 {
            self.written |= &FlowKey::only(field);
            self.result.verdict.steps.push(Step::SetField { field, value });
        }
    }

    fn fdb(&mut self, id: SegmentId, miss: Miss, owner: &Arc<str>) {
        let mac = self.mac(Field::EthDst);
        let Some(segment) = self.segment(id) else { return self.refuse(DropReason::NoDestination, owner) };
        let location = match self.tables.maps().fdb.get(&FdbKey { segment: id, mac }) {
            Some(pinned) => Some(pinned.location),
            None => self.learned(segment, mac),
        };
        match location {
            Some(Location::Local(port)) => self.output(port, owner),
            Some(Location::Remote(remote)) => self.tunnel(remote, segment.vni, owner),
            None => match miss {
                Miss::Drop => self.refuse(DropReason::UnknownUnicast, owner),
                Miss::Flood(flood) => self.flood(flood, owner),
            },
        }
    }

    fn learned(&mut self, segment: &Segment, mac: MacAddr) -> Option<Location> {
        let Some((location, until)) = self.learned.lookup(FdbKey { segment: segment.id, mac }, self.now) else {
            self.must_be_asked_in(MISS_S);
            return None;
        };
        self.result.until = self.result.until.min(until);
        if let Location::Local(port) = location {
            self.depend_on_port(port);
        }
        is_reachable(self.tables, segment, location).then_some(location)
    }

    fn learn(&mut self, id: SegmentId) {
        let Some(segment) = self.segment(id) else { return };
        let location =
            if self.is_from_tunnel() { Location::Remote(self.in_remote) } else { Location::Local(self.in_port) };
        let mac = self.mac(Field::EthSrc);
        if !mac.is_unicast() || !is_reachable(self.tables, segment, location) {
            return;
        }
        if let Some(pinned) = self.tables.maps().fdb.get(&FdbKey { segment: id, mac }) {
            if pinned.location != location {
                self.learned.refuse();
            }
            return;
        }
        match self.learned.learn(segment, mac, location, self.now) {
            Learn::Full | Learn::Held => self.must_be_asked_in(1),
            Learn::Add(seen) | Learn::Move(seen) | Learn::Refresh(seen) => {
                self.must_be_asked_in(self.learned.age_s());
                self.result.sources.push(seen);
            }
        }
    }

    fn answer_neighbor(&mut self, id: SegmentId) -> Next {
        if self.segment(id).is_none() {
            return Next::Continue;
        }
        let Some(ip) = self.asks_for() else { return Next::Continue };
        let Some(neighbor) = self.tables.maps().neighbors.get(&NeighborKey { segment: id, ip }) else {
            return Next::Continue;
        };
        let own = match neighbor.location {
            Location::Local(port) => port == self.in_port,
            Location::Remote(remote) => remote == self.in_remote,
        };
        if own { Next::Continue } else { self.reply(neighbor.mac) }
    }

    fn load_label(&mut self, id: SegmentId, field: Field, register: u8) {
        // The segment is read for its domain: its labels are what changes.
        let known = self.segment(id).is_some();
        self.see(&FlowKey::only(Field::EthType));
        self.see(&FlowKey::only(field));
        let ip = self.key.ip(field).filter(|_| known);
        let label = ip.and_then(|ip| self.tables.maps().labels.get(&LabelKey { segment: id, ip }));
        if let Some(register) = Field::register(usize::from(register)) {
            self.key.set(register, label.map_or(0, |label| label.label.into()));
        }
    }

    /// The address whose owner an ARP request or a neighbour solicitation asks for.
    fn asks_for(&mut self) -> Option<std::net::IpAddr> {
        match self.field(Field::EthType) as u16 {
            ETHERTYPE_ARP => {
                let asks = self.field(Field::IpProto) == ARP_REQUEST;
                let target = self.field(Field::IpDst);
                asks.then(|| std::net::Ipv4Addr::from_bits(target as u32).into())
            }
            ETHERTYPE_IPV6 => {
                let asks = self.field(Field::IpProto) == PROTO_ICMPV6
                    && self.field(Field::L4Src) == NEIGHBOR_SOLICITATION
                    && self.field(Field::IpTtl) == ND_HOP_LIMIT;
                if !asks {
                    return None;
                }
                Some(std::net::Ipv6Addr::from_bits(self.field(Field::NdTarget)).into())
            }
            _ => None,
        }
    }

    fn reply(&mut self, mac: MacAddr) -> Next {
        self.send(Step::Reply { mac });
        Next::End
    }

    fn send(&mut self, step: Step) {
        self.result.verdict.steps.push(step);
        self.sent = true;
    }

    fn refuse(&mut self, reason: DropReason, owner: &Arc<str>) {
        self.refusal = Some((reason, Arc::clone(owner)));
    }

    fn is_from_tunnel(&self) -> bool {
        self.in_port.0 == 0
    }

    fn is_live(&mut self, port: PortId) -> bool {
        self.depend_on_port(port);
        self.tables.port(port).is_some_and(|port| port.live)
    }

    fn depend_on_port(&mut self, port: PortId) {
        match self.tables.port(port).and_then(|port| self.tables.segment(port.segment)) {
            Some(segment) => self.result.depends.add(segment.domain),
            None => self.result.depends.add_everything(),
        }
    }

    fn segment(&mut self, id: SegmentId) -> Option<&'a Segment> {
        let segment = self.tables.segment(id);
        match segment {
            Some(segment) => self.result.depends.add(segment.domain),
            None => self.result.depends.add_everything(),
        }
        segment
    }

    fn must_be_asked_in(&mut self, seconds: u32) {
        self.result.until = self.result.until.min(Second(self.now.0.saturating_add(seconds)));
    }

    fn mac(&mut self, field: Field) -> MacAddr {
        MacAddr::from_u64(self.field(field) as u64)
    }

    fn field(&mut self, field: Field) -> u128 {
        self.see(&FlowKey::only(field));
        self.key.field(field)
    }

    fn see(&mut self, mask: &FlowMask) {
        for index in 0..KEY_WORDS {
            self.result.read.0[index] |= mask.0[index] & !self.written.0[index];
        }
    }

    fn finish(mut self) -> Evaluation {
        let steps = &mut self.result.verdict.steps;
        if self.sent {
            // A field written after the last copy was sent is seen by nobody.
            while matches!(steps.last(), Some(Step::SetField { .. })) {
                steps.pop();
            }
            return self.result;
        }
        let last = self.result.verdict.rules.last();
        let policy = || (DropReason::Policy, last.map_or_else(|| "".into(), |rule| Arc::clone(&rule.rule.owner)));
        let (reason, owner) = self.refusal.unwrap_or_else(policy);
        *steps = vec![Step::Drop { reason, owner }];
        self.result
    }
}

#[cfg(test)]
mod tests;
