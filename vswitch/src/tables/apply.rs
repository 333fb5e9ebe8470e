//! Makes the next snapshot from a bundle.
//!
//! An operation that changes nothing touches nothing: no domain, no counter, no shard. References are counted, so
//! that deleting what something still refers to is noticed without walking the program.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use weft_packet::Vni;
use weft_program::{
    Bundle, BundleError, DomainId, Fdb, FdbKey, Flood, FloodId, Label, LabelKey, Neighbor, NeighborKey, Op, PortConfig,
    PortId, Remote, RemoteId, Rule, RuleKey, Segment, SegmentId,
};

use super::Tables;
use super::check::{self, Errors, Referent, Refers};
use crate::classifier::{CompiledRule, Table};
use crate::cow::CowMap;

impl Tables {
    /// The snapshot after the bundle, or everything that is wrong with it.
    pub fn apply(&self, bundle: &Bundle) -> Result<Self, Vec<BundleError>> {
        let mut change = Change::new(self, bundle.replace);
        bundle.ops.iter().for_each(|op| change.apply(op));
        change.finish(bundle)
    }

    fn emptied(&self) -> Self {
        let mut empty = Self::new(self.seed);
        empty.version = self.version;
        empty.epochs = self.epochs.clone();
        empty
    }
}

/// A snapshot in the making.
struct Change<'a> {
    old: &'a Tables,
    new: Tables,
    domains: HashSet<DomainId>,
    segments: HashSet<SegmentId>,
    vnis: HashSet<Vni>,
    tables: BTreeSet<u8>,
    endpoints: bool,
    deleted: HashSet<Referent>,
    errors: Errors,
}

impl<'a> Change<'a> {
    fn new(old: &'a Tables, replace: bool) -> Self {
        let everything = replace.then_some(DomainId(0));
        Self {
            old,
            new: if replace { old.emptied() } else { old.clone() },
            domains: everything.into_iter().collect(),
            segments: HashSet::new(),
            vnis: HashSet::new(),
            tables: BTreeSet::new(),
            endpoints: replace,
            deleted: HashSet::new(),
            errors: Errors::new(),
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::PutSegment(item) => self.put_segment(item),
            Op::DeleteSegment(key) => self.delete_segment(*key),
            Op::PutPort(item) => self.put_port(item),
            Op::DeletePort(key) => self.delete_port(*key),
            Op::PutRemote(item) => self.put_remote(item),
            Op::DeleteRemote(key) => self.delete_remote(*key),
            Op::PutFlood(item) => self.put_flood(item),
            Op::DeleteFlood(key) => self.delete_flood(*key),
            Op::PutRule(item) => self.put_rule(item),
            Op::DeleteRule(key) => self.delete_rule(key),
            Op::PutFdb(item) => self.put_fdb(item),
            Op::DeleteFdb(key) => self.delete_fdb(key),
            Op::PutNeighbor(item) => self.put_neighbor(item),
            Op::DeleteNeighbor(key) => self.delete_neighbor(key),
            Op::PutLabel(item) => self.put_label(item),
            Op::DeleteLabel(key) => self.delete_label(key),
        }
    }

    fn finish(mut self, bundle: &Bundle) -> Result<Tables, Vec<BundleError>> {
        for table in &self.tables {
            Arc::make_mut(&mut self.new.rules[usize::from(*table)]).settle();
        }
        self.new.rule_count = self.new.rules.iter().map(|table| table.len()).sum();
        self.new.version = self.old.version + 1;
        self.new.position = bundle.position.clone();
        if self.endpoints {
            self.new.endpoints_version = self.new.version;
            self.index_endpoints();
        }
        let dangling = self.deleted.iter().any(|referent| check::is_dangling(&self.new, referent));
        check::references(&self.new, bundle, dangling, &mut self.errors);
        check::bounds(&self.new, &mut self.errors);
        self.touch_domains();
        self.errors.into_result().map(|()| self.new)
    }

    fn index_endpoints(&mut self) {
        let mut vnis = CowMap::new(self.new.seed);
        for segment in self.new.segments.values() {
            if let Some(other) = vnis.insert(segment.vni, segment.id) {
                let why = format!("VNI {} belongs to {other} already", segment.vni);
                self.errors.push(BundleError::Conflict { what: segment.owner.to_string(), why });
            }
        }
        let mut addrs = CowMap::new(self.new.seed);
        for remote in self.new.remotes.values() {
            if let Some(other) = addrs.insert(remote.addr, remote.id) {
                let why = format!("address {} belongs to {other} already", remote.addr);
                self.errors.push(BundleError::Conflict { what: remote.owner.to_string(), why });
            }
        }
        self.new.segment_of_vni = Arc::new(vnis);
        self.new.remote_of_addr = Arc::new(addrs);
    }

    // What a segment's results are is decided by the domain it had and the domain it has.
    fn touch_domains(&mut self) {
        for tables in [self.old, &self.new] {
            let by_vni = self.vnis.iter().filter_map(|vni| tables.segment_of_vni(*vni));
            let by_id = self.segments.iter().filter_map(|id| tables.segment(*id));
            self.domains.extend(by_vni.chain(by_id).map(|segment| segment.domain));
        }
        for domain in &self.domains {
            self.new.epochs.touch(*domain, self.new.version);
        }
    }

    fn count(&mut self, item: &dyn Refers, added: bool) {
        let references = &mut self.new.references;
        item.each_reference(&mut |referent| {
            let known = references.get(&referent).copied().unwrap_or(0);
            match (added, known) {
                (true, _) => drop(references.insert(referent, known + 1)),
                (false, 0 | 1) => drop(references.remove(&referent)),
                (false, _) => drop(references.insert(referent, known - 1)),
            }
        });
    }

    fn put_segment(&mut self, item: &Segment) {
        if self.new.segment(item.id) == Some(item) {
            return;
        }
        check::segment(item, &mut self.errors);
        self.endpoints = true;
        self.domains.insert(item.domain);
        if let Some(old) = self.new.segments.insert(item.id, Arc::new(item.clone())) {
            self.domains.insert(old.domain);
        }
    }

    fn delete_segment(&mut self, key: SegmentId) {
        let Some(old) = self.new.segments.remove(&key) else { return };
        self.endpoints = true;
        self.domains.insert(old.domain);
        self.deleted.insert(Referent::Segment(key));
    }

    fn put_port(&mut self, item: &PortConfig) {
        if self.new.port(item.id) == Some(item) {
            return;
        }
        check::port(item, &mut self.errors);
        self.count(item, true);
        self.segments.insert(item.segment);
        if let Some(old) = self.new.ports.insert(item.id, Arc::new(item.clone())) {
            self.count(&*old, false);
            self.segments.insert(old.segment);
        }
    }

    fn delete_port(&mut self, key: PortId) {
        let Some(old) = self.new.ports.remove(&key) else { return };
        self.count(&*old, false);
        self.segments.insert(old.segment);
        self.deleted.insert(Referent::Port(key));
    }

    // A remote that only hosts more or fewer VNIs than before is news to those alone.
    fn put_remote(&mut self, item: &Remote) {
        if self.new.remote(item.id) == Some(item) {
            return;
        }
        check::remote(item, &mut self.errors);
        self.endpoints = true;
        let Some(old) = self.new.remotes.insert(item.id, Arc::new(item.clone())) else {
            self.vnis.extend(&item.vnis);
            return;
        };
        if (old.addr, old.udp_port, old.kind) == (item.addr, item.udp_port, item.kind) {
            self.vnis.extend(old.vnis.symmetric_difference(&item.vnis));
        } else {
            self.vnis.extend(old.vnis.union(&item.vnis));
        }
    }

    fn delete_remote(&mut self, key: RemoteId) {
        let Some(old) = self.new.remotes.remove(&key) else { return };
        self.endpoints = true;
        self.vnis.extend(&old.vnis);
        self.deleted.insert(Referent::Remote(key));
    }

    fn put_flood(&mut self, item: &Flood) {
        if self.new.flood(item.id) == Some(item) {
            return;
        }
        check::flood(item, &mut self.errors);
        self.count(item, true);
        self.segments.insert(item.segment);
        if let Some(old) = self.new.floods.insert(item.id, Arc::new(item.clone())) {
            self.count(&*old, false);
            self.segments.insert(old.segment);
        }
    }

    fn delete_flood(&mut self, key: FloodId) {
        let Some(old) = self.new.floods.remove(&key) else { return };
        self.count(&*old, false);
        self.segments.insert(old.segment);
        self.deleted.insert(Referent::Flood(key));
    }

    fn put_rule(&mut self, item: &Rule) {
        let id = item.key.table.0;
        let known = self.new.table(id).and_then(|table| table.get(&item.key)).cloned();
        if known.as_ref().is_some_and(|known| known.rule == *item) {
            return;
        }
        check::rule(item, &mut self.errors);
        self.count(item, true);
        self.domains.insert(item.domain);
        if let Some(known) = &known {
            self.count(&known.rule, false);
            self.domains.insert(known.rule.domain);
        }
        let before = self.old.table(id).and_then(|table| table.get(&item.key)).filter(|before| before.rule == *item);
        let compiled = before.cloned().unwrap_or_else(|| Arc::new(CompiledRule::new(item.clone())));
        self.table_mut(id).insert(compiled);
    }

    fn delete_rule(&mut self, key: &RuleKey) {
        let Some(old) = self.new.table(key.table.0).and_then(|table| table.get(key)).cloned() else { return };
        self.count(&old.rule, false);
        self.domains.insert(old.rule.domain);
        self.table_mut(key.table.0).remove(key);
    }

    fn table_mut(&mut self, id: u8) -> &mut Table {
        let index = usize::from(id);
        while self.new.rules.len() <= index {
            self.new.rules.push(Arc::new(Table::new(self.new.seed)));
        }
        self.tables.insert(id);
        Arc::make_mut(&mut self.new.rules[index])
    }

    fn put_fdb(&mut self, item: &Fdb) {
        if self.new.maps.fdb.get(&item.key) == Some(item) {
            return;
        }
        check::station(item.key.mac, &item.owner, &mut self.errors);
        self.count(item, true);
        self.segments.insert(item.key.segment);
        if let Some(old) = self.new.maps.fdb.insert(item.key, item.clone()) {
            self.count(&old, false);
        }
    }

    fn delete_fdb(&mut self, key: &FdbKey) {
        let Some(old) = self.new.maps.fdb.remove(key) else { return };
        self.count(&old, false);
        self.segments.insert(key.segment);
    }

    fn put_neighbor(&mut self, item: &Neighbor) {
        if self.new.maps.neighbors.get(&item.key) == Some(item) {
            return;
        }
        check::station(item.mac, &item.owner, &mut self.errors);
        self.count(item, true);
        self.segments.insert(item.key.segment);
        if let Some(old) = self.new.maps.neighbors.insert(item.key, item.clone()) {
            self.count(&old, false);
        }
    }

    fn delete_neighbor(&mut self, key: &NeighborKey) {
        let Some(old) = self.new.maps.neighbors.remove(key) else { return };
        self.count(&old, false);
        self.segments.insert(key.segment);
    }

    fn put_label(&mut self, item: &Label) {
        if self.new.maps.labels.get(&item.key) == Some(item) {
            return;
        }
        check::label(item, &mut self.errors);
        self.count(item, true);
        self.segments.insert(item.key.segment);
        if let Some(old) = self.new.maps.labels.insert(item.key, item.clone()) {
            self.count(&old, false);
        }
    }

    fn delete_label(&mut self, key: &LabelKey) {
        let Some(old) = self.new.maps.labels.remove(key) else { return };
        self.count(&old, false);
        self.segments.insert(key.segment);
    }
}
