//! Tuple merge: rules are filed in hash tables by a coarser mask than their own, the tables with the highest priorities
//! first.
//!
//! Many masks share one hash table that way (see `mask::relax`), and its buckets are short lists by priority; a bucket
//! that would be long becomes a search over exact masks. The search stops when no later table can hold a higher
//! priority, and reports the bits it looked at: these, and no others, decided the outcome. Between equal priorities the
//! earlier hash table wins, within one the smaller mask.

mod bucket;
mod filter;
mod gate;
mod mask;
mod packed;
mod priorities;
mod space;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_packet::{FlowKey, FlowMask};
use weft_program::{Rule, RuleKey};

pub use self::mask::MaskWords;
use self::mask::Secrets;
use self::space::{Search, Space};

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

/// One table of rules.
#[derive(Clone)]
pub struct Table {
    space: Space,
    secrets: Secrets,
}

impl Table {
    /// An empty table; the seed keeps outsiders from choosing colliding keys.
    pub fn new(seed: u64) -> Self {
        Self { space: Space::new(true), secrets: Secrets::new(seed) }
    }

    /// Number of rules.
    pub const fn len(&self) -> usize {
        self.space.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of hash tables, which is what a lookup may have to probe.
    pub const fn masks(&self) -> usize {
        self.space.masks()
    }

    /// The rule that the key meets. Adds to `read` the bits that decided it.
    #[inline]
    pub fn lookup(&self, key: &FlowKey, read: &mut FlowMask) -> Option<&Arc<CompiledRule>> {
        let mut search = Search::new(&self.secrets, key, read);
        self.space.lookup(&mut search);
        search.best()
    }

    /// The rule with this key.
    pub fn get(&self, key: &RuleKey) -> Option<&Arc<CompiledRule>> {
        self.space.get(&self.secrets, key)
    }

    /// All rules, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledRule>> {
        let mut rules = Vec::with_capacity(self.len());
        self.space.each(&mut rules);
        rules.into_iter()
    }

    /// Puts a rule in place of the one with its key, if there is one. [`Self::settle`] must follow.
    pub fn insert(&mut self, rule: Arc<CompiledRule>) {
        self.space.insert(&self.secrets, rule);
    }

    /// Takes a rule out. [`Self::settle`] must follow.
    pub fn remove(&mut self, key: &RuleKey) {
        if self.get(key).is_some() {
            self.space.remove(&self.secrets, key);
        }
    }

    /// Brings the hash tables in order after changes.
    pub fn settle(&mut self) {
        self.space.settle();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use weft_packet::Field;
    use weft_program::Match;

    use super::*;
    use crate::testing::Dice;

    /// The slow twin.
    fn scan<'a>(rules: &'a [Arc<CompiledRule>], key: &FlowKey) -> Option<&'a Arc<CompiledRule>> {
        let hits = rules.iter().filter(|rule| rule.rule.key.matches.covers(key));
        hits.max_by_key(|rule| rule.rule.key.priority)
    }

    /// A prefix of an address of 32 or 128 bits.
    fn prefix(dice: &mut Dice, of: u128) -> (u128, u128) {
        let (bits, all) = if of >> 32 == 0 { (32, u128::from(u32::MAX)) } else { (128, u128::MAX) };
        let mask = all & all.checked_shl(dice.below(bits + 1) as u32).unwrap_or(0);
        (of & mask, mask)
    }

    /// Addresses from a small pool under prefixes of any length: buckets get long, split and join.
    fn prefixed(dice: &mut Dice, priority: u16) -> Rule {
        let mut rule = dice.rule_of_priority(priority);
        let v6 = dice.one_in(3);
        let mut matches = Match::ANY.with(Field::EthType, if v6 { 0x86dd } else { 0x0800 });
        for field in [Field::IpSrc, Field::IpDst] {
            let address = address(dice, v6);
            let (value, mask) = prefix(dice, address);
            matches = matches.with_masked(field, value, mask);
        }
        if dice.one_in(2) {
            let mask = dice.pick(&[0xffff, 0xfffc, 0xfff0]);
            matches = matches.with_masked(Field::L4Dst, (dice.below(32) & mask) as u128, mask as u128);
        }
        rule.key.matches = matches;
        rule
    }

    fn address(dice: &mut Dice, v6: bool) -> u128 {
        let address = u128::from(dice.pick(&[0x0a09_0801_u32, 0x0a09_0802, 0x0a09_8801, 0xc0a8_0101]));
        if v6 { address << 96 | address << 40 | address } else { address }
    }

    fn prefixed_key(dice: &mut Dice) -> FlowKey {
        let v6 = dice.one_in(3);
        let (src, dst, port) = (address(dice, v6), address(dice, v6), dice.below(32) as u128);
        let ethertype = if v6 { 0x86dd } else { 0x0800 };
        let key = FlowKey::ZERO.with(Field::EthType, ethertype).with(Field::IpSrc, src).with(Field::IpDst, dst);
        key.with(Field::L4Dst, port)
    }

    proptest! {
        #[test]
        fn it_finds_what_a_linear_scan_finds(seed: u64, len in 0usize..200, prefixes: bool) {
            let mut dice = Dice::new(seed);
            let mut table = Table::new(seed);
            let mut rules: Vec<Arc<CompiledRule>> = Vec::new();
            for number in 0..len {
                if dice.one_in(4) && !rules.is_empty() {
                    let gone = rules.swap_remove(dice.below(rules.len()));
                    table.remove(&gone.rule.key);
                }
                let rule = Arc::new(CompiledRule::new(match prefixes {
                    true => prefixed(&mut dice, number as u16),
                    false => dice.rule_of_priority(number as u16),
                }));
                table.insert(rule.clone());
                rules.push(rule);
            }
            table.settle();
            prop_assert!(rules.iter().all(|rule| table.get(&rule.rule.key).is_some_and(|found| Arc::ptr_eq(found, rule))));
            prop_assert_eq!(table.len(), rules.len());
            prop_assert_eq!(table.iter().count(), rules.len());
            for _ in 0..200 {
                let key = if prefixes { prefixed_key(&mut dice) } else { dice.key() };
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

    /// All in one bucket. Looking at every rule to find the next best one would take minutes here.
    #[test]
    fn a_large_bucket_is_taken_down_from_its_best_rule() {
        const RULES: u16 = 20_000;
        let (mut table, mut rule) = (Table::new(5), Dice::new(5).rule_of_priority(0));
        for priority in 0..RULES {
            rule.key.matches = Match::ANY.with_masked(Field::L4Dst, 0, u128::from(priority % 64));
            rule.key.priority = priority;
            table.insert(Arc::new(CompiledRule::new(rule.clone())));
        }
        for best in (0..RULES).rev() {
            table.settle();
            let found = table.lookup(&FlowKey::ZERO, &mut FlowKey::ZERO.clone()).unwrap();
            assert_eq!(found.rule.key.priority, best);
            table.remove(&found.rule.key.clone());
        }
        table.settle();
        assert_eq!((table.len(), table.masks()), (0, 0));
    }
}
