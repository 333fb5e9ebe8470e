//! Hash tables per mask, the ones with the highest priorities first.
//!
//! A bucket is named by its hash alone: rules compare all their bits, so values that share a hash may share a bucket.

use std::cmp::Reverse;
use std::sync::Arc;

use weft_packet::{FlowKey, FlowMask};
use weft_program::RuleKey;

use super::CompiledRule;
use super::bucket::Bucket;
use super::filter::Filter;
use super::gate::Gate;
use super::mask::{Hashed, Secrets, relax};
use super::packed::Packed;
use super::priorities::Priorities;
use crate::cow::CowTable;

/// Rules by mask.
#[derive(Clone)]
pub(super) struct Space {
    subtables: Vec<Ranked>,
    /// Whether rules are filed under coarser masks than their own.
    relaxed: bool,
    len: usize,
}

/// A hash table and the highest priority in it.
#[derive(Clone)]
struct Ranked {
    priority_max: u16,
    subtable: Arc<Subtable>,
}

/// The rules that are filed under one mask.
#[derive(Clone)]
struct Subtable {
    gate: Gate,
    mask: Hashed,
    filter: Filter,
    buckets: CowTable<Bucket>,
    priorities: Priorities,
}

/// A search under way.
pub(super) struct Search<'k, 't> {
    secrets: &'k Secrets,
    key: &'k FlowKey,
    read: &'k mut FlowMask,
    best: Option<&'t Arc<CompiledRule>>,
    /// The best one's, or -1.
    priority: i32,
}

impl<'k, 't> Search<'k, 't> {
    #[inline]
    pub(super) const fn new(secrets: &'k Secrets, key: &'k FlowKey, read: &'k mut FlowMask) -> Self {
        Self { secrets, key, read, best: None, priority: -1 }
    }

    #[inline]
    pub(super) const fn best(&self) -> Option<&'t Arc<CompiledRule>> {
        self.best
    }

    #[inline]
    pub(super) const fn is_beaten_by(&self, priority: u16) -> bool {
        priority as i32 > self.priority
    }

    /// Takes the rule if it is better and matches. Whether no worse rule need be tried.
    #[inline]
    pub(super) fn try_rule(&mut self, rule: &'t Packed) -> bool {
        if !self.is_beaten_by(rule.priority) {
            return true;
        }
        let matches = rule.matches(self.key, self.read);
        if matches {
            (self.best, self.priority) = (Some(&rule.rule), i32::from(rule.priority));
        }
        matches
    }
}

impl Space {
    pub(super) const fn new(relaxed: bool) -> Self {
        Self { subtables: Vec::new(), relaxed, len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn masks(&self) -> usize {
        self.subtables.len()
    }

    /// The highest priority, when the space is settled; 0 when it is empty.
    pub(super) fn priority_max(&self) -> u16 {
        self.subtables.first().map_or(0, |ranked| ranked.priority_max)
    }

    #[inline]
    pub(super) fn lookup<'t>(&'t self, search: &mut Search<'_, 't>) {
        for ranked in &self.subtables {
            if !search.is_beaten_by(ranked.priority_max) {
                break;
            }
            let subtable = &*ranked.subtable;
            if let Some(field) = subtable.gate.stops(search.key) {
                search.read.0[field.word] |= field.bits;
                continue;
            }
            let hash = subtable.mask.read(search.secrets, search.key, search.read);
            if subtable.filter.may_have(hash)
                && let Some(bucket) = subtable.buckets.get(hash)
            {
                bucket.lookup(search);
            }
        }
    }

    pub(super) fn get(&self, secrets: &Secrets, key: &RuleKey) -> Option<&Arc<CompiledRule>> {
        let subtable = &self.subtables[self.position(&self.filed(&key.matches.mask))?].subtable;
        subtable.buckets.get(subtable.mask.hash(secrets, &key.matches.value))?.get(secrets, key)
    }

    pub(super) fn each<'t>(&'t self, rules: &mut Vec<&'t Arc<CompiledRule>>) {
        self.subtables.iter().flat_map(|ranked| ranked.subtable.buckets.iter()).for_each(|bucket| bucket.each(rules));
    }

    pub(super) fn insert(&mut self, secrets: &Secrets, rule: Arc<CompiledRule>) {
        let matches = &rule.rule.key.matches;
        let mask = self.filed(&matches.mask);
        let position = self.position(&mask).unwrap_or_else(|| {
            let subtable = Arc::new(Subtable::new(&mask, Gate::new(&matches.mask, &matches.value)));
            self.subtables.push(Ranked { priority_max: 0, subtable });
            self.subtables.len() - 1
        });
        let added = Arc::make_mut(&mut self.subtables[position].subtable).insert(secrets, rule, self.relaxed);
        self.len += usize::from(added);
    }

    /// Takes out a rule that is there.
    pub(super) fn remove(&mut self, secrets: &Secrets, key: &RuleKey) {
        let Some(position) = self.position(&self.filed(&key.matches.mask)) else { return };
        Arc::make_mut(&mut self.subtables[position].subtable).remove(secrets, key);
        self.len -= 1;
    }

    /// Brings the masks in order after changes.
    pub(super) fn settle(&mut self) {
        self.subtables.retain(|ranked| !ranked.subtable.buckets.is_empty());
        for ranked in &mut self.subtables {
            ranked.priority_max = ranked.subtable.priorities.max().unwrap_or(0);
        }
        self.subtables.sort_by(|a, b| {
            let order = |ranked: &Ranked| Reverse(ranked.priority_max);
            order(a).cmp(&order(b)).then_with(|| a.subtable.mask.cmp(&b.subtable.mask))
        });
    }

    fn filed(&self, mask: &FlowMask) -> FlowMask {
        if self.relaxed { relax(mask) } else { *mask }
    }

    fn position(&self, mask: &FlowMask) -> Option<usize> {
        self.subtables.iter().position(|ranked| ranked.subtable.mask.is(mask))
    }
}

impl Subtable {
    fn new(mask: &FlowMask, gate: Gate) -> Self {
        let (filter, buckets, priorities) = (Filter::default(), CowTable::new(), Priorities::default());
        Self { gate, mask: Hashed::new(mask), filter, buckets, priorities }
    }

    fn insert(&mut self, secrets: &Secrets, rule: Arc<CompiledRule>, may_split: bool) -> bool {
        let key = rule.rule.key;
        let hash = self.mask.hash(secrets, &key.matches.value);
        self.gate.admit(&key.matches.mask, &key.matches.value);
        let added = match self.buckets.get_mut(hash) {
            Some(bucket) => bucket.insert(secrets, rule, may_split),
            None => {
                if self.filter.is_full() {
                    self.filter = Filter::of(self.buckets.len(), self.buckets.hashes());
                }
                self.filter.add(hash);
                self.buckets.insert_unique(hash, Bucket::new(rule));
                true
            }
        };
        if added {
            self.priorities.add(key.priority);
        }
        added
    }

    fn remove(&mut self, secrets: &Secrets, key: &RuleKey) {
        let hash = self.mask.hash(secrets, &key.matches.value);
        let Some(bucket) = self.buckets.get_mut(hash) else { return };
        if bucket.remove(secrets, key) {
            self.buckets.take(hash);
        }
        self.priorities.remove(key.priority);
    }
}
