//! Tuple-space search: one hash table per mask, the masks with the highest priorities first.
//!
//! The search stops when no later mask can hold a higher priority, and reports the bits it looked at: these, and no
//! others, decided the outcome. Between equal priorities the earlier mask wins. What all rules of a mask have in common is
//! looked at first, field by field: a key that fails there has shown nothing but that field, so a rule about ICMPv6
//! types does not make every UDP port a cached result of its own (the staged lookup of NSDI'15, section 5.3).

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use weft_packet::{Field, FlowKey, FlowMask, key::KEY_WORDS};
use weft_program::{Rule, RuleKey};

use crate::cow::CowTable;

/// A rule with its counters. Snapshots that have the same rule share it, so its counters survive other changes.
#[derive(Debug)]
pub struct CompiledRule {
    /// As it was given.
    pub rule: Rule,
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl CompiledRule {
    /// A new rule, nothing counted.
    pub const fn new(rule: Rule) -> Self {
        Self { rule, frames: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Adds to the counters.
    pub fn count(&self, frames: u64, bytes: u64) {
        self.frames.fetch_add(frames, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Frames and their bytes so far.
    pub fn counted(&self) -> (u64, u64) {
        (self.frames.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// A mask and the words in which it is not zero, which are all that hashing and comparing has to touch.
#[derive(Debug, Clone)]
pub struct MaskWords {
    mask: FlowMask,
    words: [u8; KEY_WORDS],
    len: u8,
}

impl MaskWords {
    /// Finds the words.
    pub fn new(mask: FlowMask) -> Self {
        let mut words = [0; KEY_WORDS];
        let mut len = 0;
        for index in (0..KEY_WORDS).filter(|index| mask.0[*index] != 0) {
            words[usize::from(len)] = index as u8;
            len += 1;
        }
        Self { mask, words, len }
    }

    /// The mask.
    #[inline]
    pub const fn mask(&self) -> &FlowMask {
        &self.mask
    }

    #[inline]
    fn each(&self) -> impl Iterator<Item = usize> + '_ {
        self.words[..usize::from(self.len)].iter().map(|index| usize::from(*index))
    }

    /// Hash of the key's masked bits.
    #[inline]
    pub fn hash(&self, state: &FixedState, key: &FlowKey) -> u64 {
        let mut hasher = state.build_hasher();
        self.each().for_each(|index| hasher.write_u64(key.0[index] & self.mask.0[index]));
        hasher.finish()
    }

    /// Whether the key's masked bits are these.
    #[inline]
    pub fn same(&self, value: &FlowKey, key: &FlowKey) -> bool {
        self.each().all(|index| key.0[index] & self.mask.0[index] == value.0[index])
    }
}

/// One table of rules.
#[derive(Clone)]
pub struct Table {
    subtables: Vec<Arc<Subtable>>,
    state: FixedState,
    len: usize,
}

/// The rules of one mask.
#[derive(Clone)]
struct Subtable {
    mask: MaskWords,
    gate: Gate,
    priority_max: u16,
    priorities: BTreeMap<u16, usize>,
    slots: CowTable<Slot>,
}

/// What all rules of a mask have in common, or once had: it narrows with each rule that comes.
#[derive(Debug, Clone, Default)]
struct Gate {
    /// Common bits; all of the mask's before the first rule.
    common: Option<FlowMask>,
    value: FlowKey,
    fields: Vec<GateField>,
}

/// The common bits of one field.
#[derive(Debug, Clone, Copy)]
struct GateField {
    word: usize,
    bits: u64,
    value: u64,
}

/// The rules of one mask and value: they differ in priority.
#[derive(Clone)]
struct Slot {
    best: Arc<CompiledRule>,
    lower: Vec<Arc<CompiledRule>>,
}

impl Table {
    /// An empty table; the seed keeps outsiders from choosing colliding keys.
    pub fn new(seed: u64) -> Self {
        Self { subtables: Vec::new(), state: FixedState::with_seed(seed), len: 0 }
    }

    /// Number of rules.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of different masks.
    pub const fn masks(&self) -> usize {
        self.subtables.len()
    }

    /// The rule that the key meets. Adds to `read` the bits that decided it.
    #[inline]
    pub fn lookup(&self, key: &FlowKey, read: &mut FlowMask) -> Option<&Arc<CompiledRule>> {
        let mut best: Option<&Arc<CompiledRule>> = None;
        for subtable in &self.subtables {
            if best.is_some_and(|rule| rule.rule.key.priority >= subtable.priority_max) {
                break;
            }
            if let Some(field) = subtable.gate.stops(key) {
                read.0[field.word] |= field.bits;
                continue;
            }
            *read |= subtable.mask.mask();
            let Some(slot) = subtable.find(&self.state, key) else { continue };
            if best.is_none_or(|rule| slot.best.rule.key.priority > rule.rule.key.priority) {
                best = Some(&slot.best);
            }
        }
        best
    }

    /// The rule with this key.
    pub fn get(&self, key: &RuleKey) -> Option<&Arc<CompiledRule>> {
        let subtable = &self.subtables[self.position(&key.matches.mask)?];
        subtable.find(&self.state, &key.matches.value)?.get(key.priority)
    }

    /// All rules, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledRule>> {
        let slots = self.subtables.iter().flat_map(|subtable| subtable.slots.iter());
        slots.flat_map(|slot| std::iter::once(&slot.best).chain(&slot.lower))
    }

    /// Puts a rule in place of the one with its key, if there is one. [`Self::settle`] must follow.
    pub fn insert(&mut self, rule: Arc<CompiledRule>) {
        let mask = rule.rule.key.matches.mask;
        let position = self.position(&mask).unwrap_or_else(|| {
            self.subtables.push(Arc::new(Subtable::new(mask)));
            self.subtables.len() - 1
        });
        let added = Arc::make_mut(&mut self.subtables[position]).insert(&self.state, rule);
        self.len += usize::from(added);
    }

    /// Takes a rule out. [`Self::settle`] must follow.
    pub fn remove(&mut self, key: &RuleKey) {
        if self.get(key).is_none() {
            return;
        }
        let Some(position) = self.position(&key.matches.mask) else { return };
        Arc::make_mut(&mut self.subtables[position]).remove(&self.state, key);
        self.len -= 1;
    }

    /// Brings the masks in order after changes.
    pub fn settle(&mut self) {
        self.subtables.retain(|subtable| !subtable.slots.is_empty());
        for subtable in &mut self.subtables {
            let max = subtable.priorities.last_key_value().map_or(0, |(priority, _)| *priority);
            if subtable.priority_max != max {
                Arc::make_mut(subtable).priority_max = max;
            }
        }
        self.subtables
            .sort_by(|a, b| b.priority_max.cmp(&a.priority_max).then_with(|| a.mask.mask().cmp(b.mask.mask())));
    }

    fn position(&self, mask: &FlowMask) -> Option<usize> {
        self.subtables.iter().position(|subtable| subtable.mask.mask() == mask)
    }
}

impl Subtable {
    fn new(mask: FlowMask) -> Self {
        let gate = Gate::default();
        Self { mask: MaskWords::new(mask), gate, priority_max: 0, priorities: BTreeMap::new(), slots: CowTable::new() }
    }

    #[inline]
    fn find(&self, state: &FixedState, key: &FlowKey) -> Option<&Slot> {
        let hash = self.mask.hash(state, key);
        self.slots.find(hash, |slot| self.mask.same(slot.value(), key))
    }

    fn insert(&mut self, state: &FixedState, rule: Arc<CompiledRule>) -> bool {
        let (value, priority) = (rule.rule.key.matches.value, rule.rule.key.priority);
        let hash = self.mask.hash(state, &value);
        self.gate.admit(self.mask.mask(), &value);
        let added = match self.slots.find_mut(hash, |slot| *slot.value() == value) {
            Some(slot) => slot.insert(rule),
            None => {
                self.slots.insert_unique(hash, Slot { best: rule, lower: Vec::new() });
                true
            }
        };
        if added {
            *self.priorities.entry(priority).or_default() += 1;
        }
        added
    }

    fn remove(&mut self, state: &FixedState, key: &RuleKey) {
        let value = &key.matches.value;
        let hash = self.mask.hash(state, value);
        let Some(slot) = self.slots.find_mut(hash, |slot| slot.value() == value) else { return };
        if slot.lower.is_empty() {
            self.slots.remove(hash, |slot| slot.value() == value);
        } else {
            slot.remove(key.priority);
        }
        if let Some(count) = self.priorities.get_mut(&key.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&key.priority);
            }
        }
    }
}

impl Gate {
    /// The field that keeps the key away from every rule.
    #[inline]
    fn stops(&self, key: &FlowKey) -> Option<&GateField> {
        self.fields.iter().find(|field| key.0[field.word] & field.bits != field.value)
    }

    /// Lets the keys of one more rule pass.
    fn admit(&mut self, mask: &FlowMask, value: &FlowKey) {
        let former = self.common;
        let common = former.map_or(*mask, |common| {
            FlowKey(std::array::from_fn(|word| common.0[word] & !(self.value.0[word] ^ value.0[word])))
        });
        if former == Some(common) {
            return;
        }
        (self.common, self.value) = (Some(common), *value);
        self.fields.clear();
        // The EtherType first: it says which of the others mean anything.
        for field in [&Field::EthType].into_iter().chain(Field::ALL.iter().filter(|field| **field != Field::EthType)) {
            let all = FlowKey::ZERO.with(*field, field.all_ones());
            let words = (0..KEY_WORDS).filter(|word| all.0[*word] & common.0[*word] != 0);
            self.fields.extend(words.map(|word| {
                let bits = all.0[word] & common.0[word];
                GateField { word, bits, value: value.0[word] & bits }
            }));
        }
    }
}

impl Slot {
    fn value(&self) -> &FlowKey {
        &self.best.rule.key.matches.value
    }

    fn get(&self, priority: u16) -> Option<&Arc<CompiledRule>> {
        std::iter::once(&self.best).chain(&self.lower).find(|rule| rule.rule.key.priority == priority)
    }

    fn insert(&mut self, rule: Arc<CompiledRule>) -> bool {
        let priority = rule.rule.key.priority;
        let known = std::iter::once(&mut self.best).chain(&mut self.lower);
        if let Some(known) = known.into_iter().find(|known| known.rule.key.priority == priority) {
            *known = rule;
            return false;
        }
        self.lower.push(rule);
        self.order();
        true
    }

    fn remove(&mut self, priority: u16) {
        if self.best.rule.key.priority == priority {
            self.best = self.lower.swap_remove(0);
            self.order();
            return;
        }
        self.lower.retain(|rule| rule.rule.key.priority != priority);
    }

    fn order(&mut self) {
        for rule in &mut self.lower {
            if rule.rule.key.priority > self.best.rule.key.priority {
                std::mem::swap(rule, &mut self.best);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use weft_program::Match;

    use super::*;
    use crate::testing::Dice;

    /// The slow twin.
    fn scan<'a>(rules: &'a [Arc<CompiledRule>], key: &FlowKey) -> Option<&'a Arc<CompiledRule>> {
        let hits = rules.iter().filter(|rule| rule.rule.key.matches.covers(key));
        hits.max_by_key(|rule| rule.rule.key.priority)
    }

    proptest! {
        #[test]
        fn it_finds_what_a_linear_scan_finds(seed: u64, len in 0usize..200) {
            let mut dice = Dice::new(seed);
            let mut table = Table::new(seed);
            let mut rules: Vec<Arc<CompiledRule>> = Vec::new();
            for number in 0..len {
                if dice.one_in(4) && !rules.is_empty() {
                    let gone = rules.swap_remove(dice.below(rules.len()));
                    table.remove(&gone.rule.key);
                }
                let rule = Arc::new(CompiledRule::new(dice.rule_of_priority(number as u16)));
                table.insert(rule.clone());
                rules.push(rule);
            }
            table.settle();
            prop_assert_eq!(table.len(), rules.len());
            prop_assert_eq!(table.iter().count(), rules.len());
            for _ in 0..200 {
                let key = dice.key();
                let mut read = FlowKey::ZERO;
                let found = table.lookup(&key, &mut read);
                prop_assert_eq!(found.map(|rule| &rule.rule), scan(&rules, &key).map(|rule| &rule.rule));
                let noise = FlowKey(std::array::from_fn(|_| dice.next()));
                let other = FlowKey(std::array::from_fn(|i| key.0[i] & read.0[i] | noise.0[i] & !read.0[i]));
                let same = table.lookup(&other, &mut FlowKey::ZERO.clone());
                prop_assert_eq!(found.map(|rule| &rule.rule), same.map(|rule| &rule.rule), "unread bits decided");
            }
        }
    }

    #[test]
    fn a_key_that_fails_what_all_rules_share_has_shown_that_field_only() {
        let mut table = Table::new(1);
        for kind in [133, 135] {
            let mut rule = Dice::new(1).rule_of_priority(1);
            rule.key.matches =
                Match::ANY.with(Field::EthType, 0x86dd).with(Field::IpProto, 58).with(Field::L4Src, kind);
            table.insert(Arc::new(CompiledRule::new(rule)));
        }
        table.settle();
        let key = |ethertype, proto, kind| {
            FlowKey::ZERO.with(Field::EthType, ethertype).with(Field::IpProto, proto).with(Field::L4Src, kind)
        };
        let all = |field: Field| FlowKey::ZERO.with(field, field.all_ones());
        let mut whole = all(Field::EthType);
        whole |= &all(Field::IpProto);
        whole |= &all(Field::L4Src);
        for (key, shown, found) in [
            (key(0x0800, 17, 999), all(Field::EthType), false),
            (key(0x86dd, 17, 999), all(Field::IpProto), false),
            // All but the one bit in which the two types differ.
            (key(0x86dd, 58, 999), FlowKey::ZERO.with(Field::L4Src, 0xfffd), false),
            (key(0x86dd, 58, 135), whole, true),
        ] {
            let mut read = FlowKey::ZERO;
            assert_eq!((table.lookup(&key, &mut read).is_some(), read), (found, shown));
        }
    }

    #[test]
    fn rules_of_one_match_come_and_go_by_priority() {
        let mut dice = Dice::new(3);
        let mut table = Table::new(3);
        let mut rule = dice.rule_of_priority(1);
        let key = rule.key.matches.value;
        for priority in [5, 9, 2, 7] {
            rule.key.priority = priority;
            table.insert(Arc::new(CompiledRule::new(rule.clone())));
        }
        for best in [9, 7, 5, 2] {
            table.settle();
            let mut at = rule.key;
            at.priority = best;
            assert_eq!(table.lookup(&key, &mut FlowKey::ZERO.clone()).unwrap().rule.key.priority, best);
            assert!(table.get(&at).is_some());
            table.remove(&at);
        }
        table.settle();
        assert_eq!((table.len(), table.masks()), (0, 0));
    }
}
