//! A program and its changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::item::{Fdb, FdbKey, Flood, Label, LabelKey, Neighbor, NeighborKey, PortConfig, Remote, Segment};
use crate::rule::{Rule, RuleKey};
use crate::{FloodId, PortId, RemoteId, SegmentId};

/// Which intent a program came from. Two equal positions mean the same program.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The store that the intent is in; empty before any was installed.
    pub store_id: String,
    /// Its revision of intent.
    pub generation: u64,
    /// SHA-256 of the host program, in hex.
    pub digest: String,
}

/// Everything a vswitch is told to do, by key. The plain form: agents diff it, tests evaluate it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the value types say it")]
pub struct Program {
    pub segments: BTreeMap<SegmentId, Segment>,
    pub ports: BTreeMap<PortId, PortConfig>,
    pub remotes: BTreeMap<RemoteId, Remote>,
    pub floods: BTreeMap<FloodId, Flood>,
    pub rules: BTreeMap<RuleKey, Rule>,
    pub fdb: BTreeMap<FdbKey, Fdb>,
    pub neighbors: BTreeMap<NeighborKey, Neighbor>,
    pub labels: BTreeMap<LabelKey, Label>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the value types say it")]
pub enum Op {
    PutSegment(Segment),
    DeleteSegment(SegmentId),
    PutPort(PortConfig),
    DeletePort(PortId),
    PutRemote(Remote),
    DeleteRemote(RemoteId),
    PutFlood(Flood),
    DeleteFlood(FloodId),
    PutRule(Rule),
    DeleteRule(RuleKey),
    PutFdb(Fdb),
    DeleteFdb(FdbKey),
    PutNeighbor(Neighbor),
    DeleteNeighbor(NeighborKey),
    PutLabel(Label),
    DeleteLabel(LabelKey),
}

/// Changes that are in force together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bundle {
    /// Start from the empty program instead of the one in force. Attached ports stay attached.
    pub replace: bool,
    /// The changes. Their order does not matter for references: these are checked at the end.
    pub ops: Vec<Op>,
    /// The position that the result stands for.
    pub position: Position,
}

/// Why a bundle was refused; nothing of it is in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum BundleError {
    /// Something refers to what the program does not have.
    #[error("{what} refers to {missing}, which the program does not have")]
    Dangling {
        /// Owner or key of the referring item.
        what: String,
        /// What is missing.
        missing: String,
    },
    /// A goto does not go to a later table.
    #[error("rule of {owner} in table {table} goes to table {target}: a goto must go to a later table")]
    Goto {
        /// The rule's owner.
        owner: String,
        /// Its table.
        table: u8,
        /// Where it wanted to go.
        target: u8,
    },
    /// A match has value bits outside its mask, or a field that cannot be written or looked up.
    #[error("rule of {owner} in table {table}: {why}")]
    Rule {
        /// The rule's owner.
        owner: String,
        /// Its table.
        table: u8,
        /// What is wrong.
        why: String,
    },
    /// A bound is passed.
    #[error("{count} {what} are more than the {max} that a vswitch holds")]
    TooMany {
        /// What.
        what: String,
        /// How many the program would have.
        count: usize,
        /// The bound.
        max: usize,
    },
    /// Two segments with one VNI, an id of zero, or the like.
    #[error("{what}: {why}")]
    Conflict {
        /// Which item.
        what: String,
        /// What is wrong.
        why: String,
    },
}

impl Program {
    /// Makes one change. Deleting what is not there is no error: the result is what was asked for.
    pub fn apply(&mut self, op: Op) {
        match op {
            Op::PutSegment(item) => drop(self.segments.insert(item.id, item)),
            Op::DeleteSegment(key) => drop(self.segments.remove(&key)),
            Op::PutPort(item) => drop(self.ports.insert(item.id, item)),
            Op::DeletePort(key) => drop(self.ports.remove(&key)),
            Op::PutRemote(item) => drop(self.remotes.insert(item.id, item)),
            Op::DeleteRemote(key) => drop(self.remotes.remove(&key)),
            Op::PutFlood(item) => drop(self.floods.insert(item.id, item)),
            Op::DeleteFlood(key) => drop(self.floods.remove(&key)),
            Op::PutRule(item) => drop(self.rules.insert(item.key, item)),
            Op::DeleteRule(key) => drop(self.rules.remove(&key)),
            Op::PutFdb(item) => drop(self.fdb.insert(item.key, item)),
            Op::DeleteFdb(key) => drop(self.fdb.remove(&key)),
            Op::PutNeighbor(item) => drop(self.neighbors.insert(item.key, item)),
            Op::DeleteNeighbor(key) => drop(self.neighbors.remove(&key)),
            Op::PutLabel(item) => drop(self.labels.insert(item.key, item)),
            Op::DeleteLabel(key) => drop(self.labels.remove(&key)),
        }
    }

    /// The changes that turn `self` into `wanted`; empty when they are equal.
    pub fn diff(&self, wanted: &Self) -> Vec<Op> {
        let mut ops = Vec::new();
        diff_map(&mut ops, &self.segments, &wanted.segments, Op::PutSegment, Op::DeleteSegment);
        diff_map(&mut ops, &self.ports, &wanted.ports, Op::PutPort, Op::DeletePort);
        diff_map(&mut ops, &self.remotes, &wanted.remotes, Op::PutRemote, Op::DeleteRemote);
        diff_map(&mut ops, &self.floods, &wanted.floods, Op::PutFlood, Op::DeleteFlood);
        diff_map(&mut ops, &self.rules, &wanted.rules, Op::PutRule, Op::DeleteRule);
        diff_map(&mut ops, &self.fdb, &wanted.fdb, Op::PutFdb, Op::DeleteFdb);
        diff_map(&mut ops, &self.neighbors, &wanted.neighbors, Op::PutNeighbor, Op::DeleteNeighbor);
        diff_map(&mut ops, &self.labels, &wanted.labels, Op::PutLabel, Op::DeleteLabel);
        ops
    }
}

fn diff_map<K: Ord + Copy, V: PartialEq + Clone>(
    ops: &mut Vec<Op>,
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    put: impl Fn(V) -> Op,
    delete: impl Fn(K) -> Op,
) {
    ops.extend(old.keys().filter(|k| !new.contains_key(k)).map(|k| delete(*k)));
    ops.extend(new.iter().filter(|(k, v)| old.get(k) != Some(v)).map(|(_, v)| put(v.clone())));
}
