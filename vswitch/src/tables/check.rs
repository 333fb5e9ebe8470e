//! What a bundle is refused for.
//!
//! The shape of an item is checked when it is put; what it refers to, when the whole bundle is applied, so that the
//! order of operations does not matter.

use weft_packet::{Field, FlowKey, MacAddr, key::REGISTERS};
use weft_program::{
    Action, Bundle, BundleError, Fdb, Flood, FloodId, Instruction, Label, Location, Miss, Neighbor, Op, PortConfig,
    PortId, Remote, RemoteId, Rule, Segment, SegmentId,
};

use super::Tables;
use crate::limits::LIMITS;
use crate::verdict::WRITABLE;

/// What something can refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Referent {
    Flood(FloodId),
    Port(PortId),
    Remote(RemoteId),
    Segment(SegmentId),
}

/// What refers to something.
pub(super) trait Refers {
    /// Calls `see` with each reference; one that is there twice is seen twice.
    fn each_reference(&self, see: &mut dyn FnMut(Referent));

    /// For errors.
    fn describe(&self) -> String;
}

/// What is wrong so far, up to a bound.
pub(super) struct Errors(Vec<BundleError>);

impl Errors {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn push(&mut self, error: BundleError) {
        if self.0.len() < LIMITS.bundle_errors_max && !self.0.contains(&error) {
            self.0.push(error);
        }
    }

    pub(super) fn into_result(self) -> Result<(), Vec<BundleError>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }

    fn conflict(&mut self, what: &dyn ToString, why: impl Into<String>) {
        self.push(BundleError::Conflict { what: what.to_string(), why: why.into() });
    }
}

/// Whether something refers to this and it is not there.
pub(super) fn is_dangling(tables: &Tables, referent: &Referent) -> bool {
    !exists(tables, *referent) && tables.references.contains(referent)
}

/// Names what refers to something that is not there: among the items that were put or, where a deletion caused it,
/// among all.
pub(super) fn references(tables: &Tables, bundle: &Bundle, all: bool, errors: &mut Errors) {
    let mut check = |item: &dyn Refers| {
        item.each_reference(&mut |referent| {
            if is_dangling(tables, &referent) {
                errors.push(BundleError::Dangling { what: item.describe(), missing: name(referent) });
            }
        });
    };
    if all {
        tables.ports().for_each(|item| check(item));
        tables.floods.values().for_each(|item| check(&**item));
        tables.rules().for_each(|compiled| check(&compiled.rule));
        tables.maps.fdb.values().for_each(|item| check(item));
        tables.maps.neighbors.values().for_each(|item| check(item));
        tables.maps.labels.values().for_each(|item| check(item));
        return;
    }
    for op in &bundle.ops {
        match op {
            Op::PutPort(item) => check(item),
            Op::PutFlood(item) => check(item),
            Op::PutRule(item) => check(item),
            Op::PutFdb(item) => check(item),
            Op::PutNeighbor(item) => check(item),
            Op::PutLabel(item) => check(item),
            _ => {}
        }
    }
}

/// Nothing is larger than its bound.
pub(super) fn bounds(tables: &Tables, errors: &mut Errors) {
    let counts = [
        ("segments", tables.segments.len(), LIMITS.segments_max),
        ("ports", tables.ports.len(), LIMITS.ports_max),
        ("remotes", tables.remotes.len(), LIMITS.remotes_max),
        ("flood lists", tables.floods.len(), LIMITS.floods_max),
        ("rules", tables.rule_count, LIMITS.rules_max),
        ("fdb entries", tables.maps.fdb.len(), LIMITS.fdb_max),
        ("neighbor entries", tables.maps.neighbors.len(), LIMITS.neighbors_max),
        ("label entries", tables.maps.labels.len(), LIMITS.labels_max),
    ];
    let masks = tables.rules.iter().map(|table| ("masks in one table", table.masks(), LIMITS.masks_per_table_max));
    for (what, count, max) in counts.into_iter().chain(masks) {
        if count > max {
            errors.push(BundleError::TooMany { what: what.into(), count, max });
        }
    }
}

pub(super) fn segment(item: &Segment, errors: &mut Errors) {
    if item.id.0 == 0 {
        errors.conflict(&item.owner, "a segment's id is never zero: that is the metadata of a frame without one");
    }
}

pub(super) fn port(item: &PortConfig, errors: &mut Errors) {
    if item.id.0 == 0 {
        errors.conflict(&item.owner, "a port's id is never zero");
    }
}

pub(super) fn remote(item: &Remote, errors: &mut Errors) {
    if item.id.0 == 0 {
        errors.conflict(&item.owner, "a remote's id is never zero");
    }
    if item.addr.is_multicast() || item.addr.is_unspecified() || item.udp_port == 0 {
        errors.conflict(&item.owner, format!("nobody listens at {} port {}", item.addr, item.udp_port));
    }
}

pub(super) fn flood(item: &Flood, errors: &mut Errors) {
    let (count, max) = (item.targets.ports.len() + item.targets.remotes.len(), LIMITS.flood_targets_max);
    if count > max {
        errors.push(BundleError::TooMany { what: format!("targets of {}", item.id), count, max });
    }
}

pub(super) fn station(mac: MacAddr, owner: &str, errors: &mut Errors) {
    if !mac.is_unicast() {
        errors.conflict(&owner, format!("{mac} is not a station's address"));
    }
}

pub(super) fn label(item: &Label, errors: &mut Errors) {
    if item.label == 0 {
        errors.conflict(&item.owner, "a label is never zero: that is an address without one");
    }
}

/// Match, instructions and actions of a rule.
pub(super) fn rule(item: &Rule, errors: &mut Errors) {
    let mut wrong = |why: String| {
        errors.push(BundleError::Rule { owner: item.owner.to_string(), table: item.key.table.0, why });
    };
    let FlowKey(value) = item.key.matches.value;
    let FlowKey(mask) = item.key.matches.mask;
    if value.iter().zip(mask).any(|(value, mask)| value & !mask != 0) {
        wrong("the match has value bits outside of its mask".into());
    }
    let actions = || {
        item.instructions.iter().flat_map(|instruction| match instruction {
            Instruction::Apply(actions) => actions.as_slice(),
            _ => &[],
        })
    };
    if actions().count() > LIMITS.rule_actions_max {
        wrong(format!("it has more than {} actions", LIMITS.rule_actions_max));
    }
    actions().filter_map(action).for_each(&mut wrong);
    for (index, instruction) in item.instructions.iter().enumerate() {
        let Instruction::Goto(target) = instruction else { continue };
        if index + 1 != item.instructions.len() {
            wrong("a goto must be the last instruction".into());
        }
        if *target <= item.key.table {
            let owner = item.owner.to_string();
            errors.push(BundleError::Goto { owner, table: item.key.table.0, target: target.0 });
            return;
        }
    }
}

/// What is wrong with an action.
fn action(action: &Action) -> Option<String> {
    match *action {
        Action::SetField { field, value } => {
            let state = field as u8 >= Field::Metadata as u8;
            if !state && !WRITABLE.contains(&field) {
                return Some(format!("{} cannot be written", field.name()));
            }
            (value & !field.all_ones() != 0).then(|| format!("{value:#x} is too wide for {}", field.name()))
        }
        Action::LoadLabel { field, register, .. } => {
            if !matches!(field, Field::IpSrc | Field::IpDst) {
                return Some(format!("labels are of ip_src and ip_dst, not of {}", field.name()));
            }
            (usize::from(register) >= REGISTERS).then(|| format!("there is no register {register}"))
        }
        Action::ReplyNeighbor { mac } => (!mac.is_unicast()).then(|| format!("{mac} is not a station's address")),
        _ => None,
    }
}

fn exists(tables: &Tables, referent: Referent) -> bool {
    match referent {
        Referent::Flood(id) => tables.floods.contains(&id),
        Referent::Port(id) => tables.ports.contains(&id),
        Referent::Remote(id) => tables.remotes.contains(&id),
        Referent::Segment(id) => tables.segments.contains(&id),
    }
}

fn name(referent: Referent) -> String {
    match referent {
        Referent::Flood(id) => id.to_string(),
        Referent::Port(id) => id.to_string(),
        Referent::Remote(id) => id.to_string(),
        Referent::Segment(id) => id.to_string(),
    }
}

const fn location(location: Location) -> Referent {
    match location {
        Location::Local(port) => Referent::Port(port),
        Location::Remote(remote) => Referent::Remote(remote),
    }
}

impl Refers for PortConfig {
    fn each_reference(&self, see: &mut dyn FnMut(Referent)) {
        see(Referent::Segment(self.segment));
    }

    fn describe(&self) -> String {
        self.owner.to_string()
    }
}

impl Refers for Flood {
    fn each_reference(&self, see: &mut dyn FnMut(Referent)) {
        see(Referent::Segment(self.segment));
        self.targets.ports.iter().for_each(|id| see(Referent::Port(*id)));
        self.targets.remotes.iter().for_each(|id| see(Referent::Remote(*id)));
    }

    fn describe(&self) -> String {
        self.id.to_string()
    }
}

impl Refers for Rule {
    fn each_reference(&self, see: &mut dyn FnMut(Referent)) {
        for instruction in &self.instructions {
            let Instruction::Apply(actions) = instruction else { continue };
            for action in actions {
                match *action {
                    Action::Output(port) => see(Referent::Port(port)),
                    Action::Tunnel { remote, .. } => see(Referent::Remote(remote)),
                    Action::Flood(flood) => see(Referent::Flood(flood)),
                    Action::Fdb { segment, miss } => {
                        see(Referent::Segment(segment));
                        if let Miss::Flood(flood) = miss {
                            see(Referent::Flood(flood));
                        }
                    }
                    Action::Learn { segment }
                    | Action::AnswerNeighbor { segment }
                    | Action::LoadLabel { segment, .. } => see(Referent::Segment(segment)),
                    Action::SetField { .. } | Action::Drop(_) | Action::ReplyNeighbor { .. } => {}
                }
            }
        }
    }

    fn describe(&self) -> String {
        format!("rule of {} in {}", self.owner, self.key.table)
    }
}

impl Refers for Fdb {
    fn each_reference(&self, see: &mut dyn FnMut(Referent)) {
        see(Referent::Segment(self.key.segment));
        see(location(self.location));
    }

    fn describe(&self) -> String {
        format!("fdb entry {} of {}", self.key.mac, self.owner)
    }
}

impl Refers for Neighbor {
    fn each_reference(&self, see: &mut dyn FnMut(Referent)) {
        see(Referent::Segment(self.key.segment));
        see(location(self.location));
    }

    fn describe(&self) -> String {
        format!("neighbor entry {} of {}", self.key.ip, self.owner)
    }
}

impl Refers for Label {
    fn each_reference(&self, see: &mut dyn FnMut(Referent)) {
        see(Referent::Segment(self.key.segment));
    }

    fn describe(&self) -> String {
        format!("label entry {} of {}", self.key.ip, self.owner)
    }
}
