//! Hash tables per mask, the ones with the highest priorities first, and the lists of rules that their buckets hold.

use std::cmp::Reverse;
use std::sync::Arc;

use foldhash::fast::FixedState;
use weft_packet::{FlowKey, FlowMask, key::KEY_WORDS};
use weft_program::RuleKey;

use super::CompiledRule;
use super::gate::Gate;
use super::mask::{MaskWords, relax};
use crate::cow::{CowMap, CowTable};

/// Rules of one bucket that are tried one by one. With more, the bucket becomes a space of exact masks.
const LIST_MAX: usize = 12;

/// Rules by mask.
#[derive(Clone)]
pub(super) struct Space {
    subtables: Vec<Arc<Subtable>>,
    /// Whether rules are filed under coarser masks than their own.
    relaxed: bool,
    len: usize,
}

/// The rules that are filed under one mask.
#[derive(Clone)]
struct Subtable {
    mask: MaskWords,
    gate: Gate,
    /// Words in which the rules' own masks have bits: all that a comparison has to touch. Never shrinks.
    words: Vec<u8>,
    priority_max: u16,
    priorities: CowMap<u16, u32>,
    buckets: CowTable<Bucket>,
}

/// The rules of one filing mask and value, the highest priority first; or the best one, and the space of all.
#[derive(Clone)]
struct Bucket {
    rules: Vec<Arc<CompiledRule>>,
    space: Option<Arc<Space>>,
}

/// A search under way.
pub(super) struct Search<'k, 't> {
    pub(super) state: &'k FixedState,
    pub(super) key: &'k FlowKey,
    pub(super) read: &'k mut FlowMask,
    pub(super) best: Option<&'t Arc<CompiledRule>>,
}

impl Search<'_, '_> {
    #[inline]
    fn is_beaten_by(&self, priority: u16) -> bool {
        self.best.is_none_or(|rule| priority > rule.rule.key.priority)
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

    #[inline]
    pub(super) fn lookup<'t>(&'t self, search: &mut Search<'_, 't>) {
        for subtable in &self.subtables {
            if !search.is_beaten_by(subtable.priority_max) {
                break;
            }
            if let Some(field) = subtable.gate.stops(search.key) {
                search.read.0[field.word] |= field.bits;
                continue;
            }
            *search.read |= subtable.mask.mask();
            if let Some(bucket) = subtable.find(search.state, search.key) {
                bucket.lookup(&subtable.words, search);
            }
        }
    }

    pub(super) fn get(&self, state: &FixedState, key: &RuleKey) -> Option<&Arc<CompiledRule>> {
        self.subtables[self.position(&self.filed(&key.matches.mask))?].find(state, &key.matches.value)?.get(state, key)
    }

    pub(super) fn each<'t>(&'t self, rules: &mut Vec<&'t Arc<CompiledRule>>) {
        for bucket in self.subtables.iter().flat_map(|subtable| subtable.buckets.iter()) {
            match &bucket.space {
                Some(space) => space.each(rules),
                None => rules.extend(&bucket.rules),
            }
        }
    }

    pub(super) fn insert(&mut self, state: &FixedState, rule: Arc<CompiledRule>) {
        let mask = self.filed(&rule.rule.key.matches.mask);
        let position = self.position(&mask).unwrap_or_else(|| {
            self.subtables.push(Arc::new(Subtable::new(mask)));
            self.subtables.len() - 1
        });
        let added = Arc::make_mut(&mut self.subtables[position]).insert(state, rule, self.relaxed);
        self.len += usize::from(added);
    }

    /// Takes out a rule that is there.
    pub(super) fn remove(&mut self, state: &FixedState, key: &RuleKey) {
        let Some(position) = self.position(&self.filed(&key.matches.mask)) else { return };
        Arc::make_mut(&mut self.subtables[position]).remove(state, key);
        self.len -= 1;
    }

    /// Brings the masks in order after changes.
    pub(super) fn settle(&mut self) {
        self.subtables.retain(|subtable| !subtable.buckets.is_empty());
        self.subtables.sort_by_key(|subtable| (Reverse(subtable.priority_max), *subtable.mask.mask()));
    }

    fn filed(&self, mask: &FlowMask) -> FlowMask {
        if self.relaxed { relax(mask) } else { *mask }
    }

    fn position(&self, mask: &FlowMask) -> Option<usize> {
        self.subtables.iter().position(|subtable| subtable.mask.mask() == mask)
    }
}

impl Subtable {
    fn new(mask: FlowMask) -> Self {
        let (words, priorities, buckets) = (Vec::new(), CowMap::new(0), CowTable::new());
        Self { mask: MaskWords::new(mask), gate: Gate::default(), words, priority_max: 0, priorities, buckets }
    }

    #[inline]
    fn find(&self, state: &FixedState, key: &FlowKey) -> Option<&Bucket> {
        self.buckets.find(self.mask.hash(state, key), |bucket| self.mask.same_masked(bucket.value(), key))
    }

    fn insert(&mut self, state: &FixedState, rule: Arc<CompiledRule>, may_split: bool) -> bool {
        let key = rule.rule.key;
        let hash = self.mask.hash(state, &key.matches.value);
        self.gate.admit(&key.matches.mask, &key.matches.value);
        for word in (0..KEY_WORDS).filter(|word| key.matches.mask.0[*word] != 0).map(|word| word as u8) {
            if !self.words.contains(&word) {
                self.words.push(word);
            }
        }
        let mask = &self.mask;
        let added = match self.buckets.find_mut(hash, |bucket| mask.same_masked(bucket.value(), &key.matches.value)) {
            Some(bucket) => bucket.insert(state, rule, may_split),
            None => {
                self.buckets.insert_unique(hash, Bucket { rules: vec![rule], space: None });
                true
            }
        };
        if added {
            let count = self.priorities.get(&key.priority).map_or(1, |count| count + 1);
            self.priorities.insert(key.priority, count);
            self.priority_max = self.priority_max.max(key.priority);
        }
        added
    }

    fn remove(&mut self, state: &FixedState, key: &RuleKey) {
        let value = &key.matches.value;
        let hash = self.mask.hash(state, value);
        let mask = &self.mask;
        let same = |bucket: &Bucket| mask.same_masked(bucket.value(), value);
        let Some(bucket) = self.buckets.find_mut(hash, same) else { return };
        if bucket.rules.len() == 1 && bucket.space.is_none() {
            self.buckets.remove(hash, same);
        } else {
            bucket.remove(state, key);
        }
        match self.priorities.get(&key.priority) {
            Some(count) if *count > 1 => drop(self.priorities.insert(key.priority, count - 1)),
            _ => drop(self.priorities.remove(&key.priority)),
        }
        let left = (0..=self.priority_max).rev().find(|priority| self.priorities.contains(priority));
        self.priority_max = left.unwrap_or(0);
    }
}

impl Bucket {
    fn best(&self) -> &Arc<CompiledRule> {
        &self.rules[0]
    }

    fn value(&self) -> &FlowKey {
        &self.best().rule.key.matches.value
    }

    /// Goes down the list to the first rule that matches. Of each before it one word that does not was enough to know.
    #[inline]
    fn lookup<'t>(&'t self, words: &[u8], search: &mut Search<'_, 't>) {
        for rule in &self.rules {
            let key = &rule.rule.key;
            if !search.is_beaten_by(key.priority) {
                return;
            }
            let (mask, value) = (&key.matches.mask.0, &key.matches.value.0);
            let differs = words.iter().map(|word| usize::from(*word));
            match differs.into_iter().find(|word| search.key.0[*word] & mask[*word] != value[*word]) {
                Some(word) => search.read.0[word] |= mask[word],
                None => {
                    *search.read |= &key.matches.mask;
                    search.best = Some(rule);
                    return;
                }
            }
        }
        if let Some(space) = &self.space {
            space.lookup(search);
        }
    }

    fn get(&self, state: &FixedState, key: &RuleKey) -> Option<&Arc<CompiledRule>> {
        match &self.space {
            Some(space) => space.get(state, key),
            None => self.rules.iter().find(|rule| is_at(rule, key)),
        }
    }

    fn insert(&mut self, state: &FixedState, rule: Arc<CompiledRule>, may_split: bool) -> bool {
        if let Some(space) = &mut self.space {
            if order(&rule) <= order(&self.rules[0]) {
                self.rules[0] = Arc::clone(&rule);
            }
            let space = Arc::make_mut(space);
            let before = space.len();
            space.insert(state, rule);
            space.settle();
            return space.len() > before;
        }
        if let Some(known) = self.rules.iter_mut().find(|known| is_at(known, &rule.rule.key)) {
            *known = rule;
            return false;
        }
        let place = self.rules.partition_point(|known| order(known) < order(&rule));
        self.rules.insert(place, rule);
        if may_split && self.rules.len() > LIST_MAX {
            let mut space = Space::new(false);
            self.rules.iter().for_each(|rule| space.insert(state, Arc::clone(rule)));
            space.settle();
            self.space = Some(Arc::new(space));
            self.rules.truncate(1);
            self.rules.shrink_to_fit();
        }
        true
    }

    fn remove(&mut self, state: &FixedState, key: &RuleKey) {
        let Some(space) = &mut self.space else {
            return self.rules.retain(|rule| !is_at(rule, key));
        };
        let space = Arc::make_mut(space);
        space.remove(state, key);
        space.settle();
        if space.len() > LIST_MAX && !is_at(&self.rules[0], key) {
            return;
        }
        let mut rules = Vec::with_capacity(space.len());
        space.each(&mut rules);
        rules.sort_by(|a, b| order(a).cmp(&order(b)));
        let list = space.len() <= LIST_MAX;
        self.rules = rules.into_iter().take(if list { LIST_MAX } else { 1 }).cloned().collect();
        if list {
            self.space = None;
        }
    }
}

fn is_at(rule: &CompiledRule, key: &RuleKey) -> bool {
    rule.rule.key.priority == key.priority && rule.rule.key.matches == key.matches
}

/// Between equal priorities the smaller mask is first.
fn order(rule: &CompiledRule) -> (Reverse<u16>, &FlowMask, &FlowKey) {
    let key = &rule.rule.key;
    (Reverse(key.priority), &key.matches.mask, &key.matches.value)
}
