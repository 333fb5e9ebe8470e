//! One snapshot of everything a worker decides by. It never changes; a bundle makes the next one.
//!
//! Snapshots share what a bundle did not touch, down to a shard of a hash table and the counters of a rule. What
//! changed, per domain, is recorded in the snapshot itself (see `epoch`).

mod apply;
mod check;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use weft_packet::Vni;
use weft_program::message::{FdbReport, RuleReport};
use weft_program::{Flood, FloodId, PortConfig, PortId, Position, Program, Remote, RemoteId, Segment, SegmentId};

use crate::classifier::{CompiledRule, Table};
use crate::cow::CowMap;
use crate::epoch::Epochs;
use crate::maps::Maps;

/// A snapshot of the program, ready for lookups.
#[derive(Clone)]
pub struct Tables {
    seed: u64,
    version: u64,
    endpoints_version: u64,
    position: Position,
    epochs: Epochs,
    segments: CowMap<SegmentId, Arc<Segment>>,
    segment_of_vni: Arc<CowMap<Vni, SegmentId>>,
    ports: CowMap<PortId, Arc<PortConfig>>,
    remotes: CowMap<RemoteId, Arc<Remote>>,
    remote_of_addr: Arc<CowMap<IpAddr, RemoteId>>,
    floods: CowMap<FloodId, Arc<Flood>>,
    rules: Vec<Arc<Table>>,
    rule_count: usize,
    maps: Maps,
    references: CowMap<check::Referent, u32>,
}

impl Tables {
    /// The empty program: every frame is dropped. The seed, random per process, keeps guests from choosing
    /// colliding keys.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            version: 0,
            endpoints_version: 0,
            position: Position::default(),
            epochs: Epochs::new(),
            segments: CowMap::new(seed),
            segment_of_vni: Arc::new(CowMap::new(seed)),
            ports: CowMap::new(seed),
            remotes: CowMap::new(seed),
            remote_of_addr: Arc::new(CowMap::new(seed)),
            floods: CowMap::new(seed),
            rules: Vec::new(),
            rule_count: 0,
            maps: Maps::new(seed),
            references: CowMap::new(seed),
        }
    }

    /// Number of bundles that led here.
    #[inline]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The version at which segments or remotes last changed: who keeps tables of his own made from them makes them
    /// anew when it differs.
    pub const fn endpoints_version(&self) -> u64 {
        self.endpoints_version
    }

    /// What intent this is.
    pub const fn position(&self) -> &Position {
        &self.position
    }

    /// When each domain last changed.
    #[inline]
    pub const fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// A port's configuration; a port without one is dark.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&PortConfig> {
        self.ports.get(&id).map(|port| &**port)
    }

    /// All configured ports, in no order.
    pub fn ports(&self) -> impl Iterator<Item = &PortConfig> {
        self.ports.values().map(|port| &**port)
    }

    /// A segment.
    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.get(&id).map(|segment| &**segment)
    }

    /// The segment of a VNI.
    pub fn segment_of_vni(&self, vni: Vni) -> Option<&Segment> {
        self.segment(*self.segment_of_vni.get(&vni)?)
    }

    /// All segments, in no order.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.values().map(|segment| &**segment)
    }

    /// A remote VTEP.
    pub fn remote(&self, id: RemoteId) -> Option<&Remote> {
        self.remotes.get(&id).map(|remote| &**remote)
    }

    /// The remote VTEP at an address.
    pub fn remote_of_addr(&self, addr: IpAddr) -> Option<&Remote> {
        self.remote(*self.remote_of_addr.get(&addr)?)
    }

    /// All remote VTEPs, in no order.
    pub fn remotes(&self) -> impl Iterator<Item = &Remote> {
        self.remotes.values().map(|remote| &**remote)
    }

    /// A flood list.
    pub fn flood(&self, id: FloodId) -> Option<&Flood> {
        self.floods.get(&id).map(|flood| &**flood)
    }

    /// The maps.
    pub const fn maps(&self) -> &Maps {
        &self.maps
    }

    /// A table of rules, `None` when it has none.
    #[inline]
    pub fn table(&self, id: u8) -> Option<&Table> {
        self.rules.get(usize::from(id)).map(|table| &**table)
    }

    /// All rules, table by table.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<CompiledRule>> {
        self.rules.iter().flat_map(|table| table.iter())
    }

    /// Number of rules.
    pub const fn rule_count(&self) -> usize {
        self.rule_count
    }

    /// All rules with their counters: by table, the highest priority first. Workers' caches hold counts back until
    /// they are flushed.
    pub fn rule_reports(&self) -> Vec<RuleReport> {
        let mut reports: Vec<_> = self.rules().map(|compiled| report(compiled)).collect();
        reports.sort_by(|a, b| {
            let (a, b) = (&a.rule.key, &b.rule.key);
            a.table.cmp(&b.table).then(b.priority.cmp(&a.priority)).then_with(|| a.matches.cmp(&b.matches))
        });
        reports
    }

    /// All pinned locations, by segment and address.
    pub fn fdb_reports(&self) -> Vec<FdbReport> {
        let pinned = self.maps.fdb.values().map(|fdb| FdbReport {
            key: fdb.key,
            location: fdb.location,
            age_ms: None,
            owner: fdb.owner.to_string(),
        });
        let mut reports: Vec<_> = pinned.collect();
        reports.sort_by_key(|report| report.key);
        reports
    }

    /// The program in its plain form.
    pub fn to_program(&self) -> Program {
        Program {
            segments: self.segments.iter().map(|(key, item)| (*key, (**item).clone())).collect(),
            ports: self.ports.iter().map(|(key, item)| (*key, (**item).clone())).collect(),
            remotes: self.remotes.iter().map(|(key, item)| (*key, (**item).clone())).collect(),
            floods: self.floods.iter().map(|(key, item)| (*key, (**item).clone())).collect(),
            rules: self.rules().map(|compiled| (compiled.rule.key, compiled.rule.clone())).collect(),
            fdb: self.maps.fdb.iter().map(|(key, item)| (*key, item.clone())).collect(),
            neighbors: self.maps.neighbors.iter().map(|(key, item)| (*key, item.clone())).collect(),
            labels: self.maps.labels.iter().map(|(key, item)| (*key, item.clone())).collect(),
        }
    }
}

fn report(compiled: &CompiledRule) -> RuleReport {
    let (frames, bytes) = compiled.counted();
    RuleReport { rule: compiled.rule.clone(), frames, bytes }
}
