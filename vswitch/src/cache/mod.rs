//! A worker's flow cache: exact, then wildcard, then the tables. Nothing in it is shared.
//!
//! Both levels refer to the same entries, so a change of verdict is made once, in place, when the next frame finds
//! the entry out of date. The order is: find by key, check the guards, check that nothing changed. A hit allocates
//! nothing and writes to its entry only.

mod exact;
mod flow;
mod wildcard;

use weft_packet::FlowKey;

use self::exact::{Exact, FlowRef};
use self::flow::Flow;
use self::wildcard::Wildcard;
use crate::epoch::Stamp;
use crate::evaluate::{Evaluation, evaluate};
use crate::learn::{Learned, Second};
use crate::limits::Limits;
use crate::tables::Tables;
use crate::verdict::Verdict;

/// Finds the verdict for a frame.
pub struct Lookup {
    exact: Exact,
    wildcard: Wildcard,
    flows: Vec<Flow>,
    flows_max: usize,
    free: Vec<u32>,
    hand: usize,
    cached: bool,
    counts: CacheCounts,
}

/// Frames by the level that answered them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounts {
    /// Answered by the exact level.
    pub exact: u64,
    /// Answered by the wildcard level.
    pub wildcard: u64,
    /// Answered by the tables.
    pub tables: u64,
    /// Of these, because a known entry was out of date.
    pub stale: u64,
    /// Entries that made room for others.
    pub evicted: u64,
}

/// What a search needs besides the key.
#[derive(Clone, Copy)]
struct Around<'a> {
    tables: &'a Tables,
    learned: &'a Learned,
    now: Second,
}

impl Lookup {
    /// An empty cache; the seed keeps guests from choosing colliding flows.
    pub fn new(seed: u64, limits: &Limits) -> Self {
        assert!(limits.flow_entries_max > 0, "a verdict needs a place");
        Self {
            exact: Exact::new(seed, limits.exact_entries),
            wildcard: Wildcard::new(seed, limits.flow_masks_max),
            flows: Vec::new(),
            flows_max: limits.flow_entries_max,
            free: Vec::new(),
            hand: 0,
            cached: true,
            counts: CacheCounts::default(),
        }
    }

    /// A lookup that evaluates the tables for every frame: the slow twin.
    pub fn uncached(seed: u64) -> Self {
        let limits = Limits { exact_entries: 2, flow_entries_max: 1, flow_masks_max: 1, ..crate::limits::LIMITS };
        let mut lookup = Self::new(seed, &limits);
        lookup.flows.push(Flow::default());
        lookup.cached = false;
        lookup
    }

    /// The verdict for a frame with this key, which enters now. Counts the frame and learns from it.
    #[inline]
    pub fn classify(
        &mut self,
        tables: &Tables,
        learned: &Learned,
        key: &FlowKey,
        frame_len: usize,
        now: Second,
    ) -> &Verdict {
        self.classify_in(self.exact.set(key), tables, learned, key, frame_len, now)
    }

    /// Asks memory for what [`Self::classify_in`] looks at first; the answer is for that.
    #[inline]
    pub fn prefetch(&self, key: &FlowKey) -> usize {
        let set = self.exact.set(key);
        self.exact.prefetch(set);
        set
    }

    /// [`Self::classify`] for a key whose `set` is known.
    #[inline]
    pub fn classify_in(
        &mut self,
        set: usize,
        tables: &Tables,
        learned: &Learned,
        key: &FlowKey,
        frame_len: usize,
        now: Second,
    ) -> &Verdict {
        let around = Around { tables, learned, now };
        let index = if self.cached { self.find(set, around, key) } else { self.find_nothing(around, key) };
        let flow = &mut self.flows[index as usize];
        flow.hit(frame_len, now);
        &flow.evaluation.verdict
    }

    /// Moves the counts of all entries to their rules: when somebody reads these, and before the worker ends.
    pub fn flush(&mut self) {
        self.flows.iter_mut().for_each(Flow::flush);
    }

    /// Frames by the level that answered them.
    pub const fn counts(&self) -> CacheCounts {
        self.counts
    }

    #[inline]
    fn find(&mut self, set: usize, around: Around<'_>, key: &FlowKey) -> u32 {
        let live = around.learned.epochs();
        let stamp = Stamp { program: around.tables.version(), learned: live.version() };
        if let Some(index) = self.find_exact(set, key) {
            if !self.flows[index as usize].is_valid(around.tables, live, stamp, around.now) {
                return self.renew(around, key, set, index);
            }
            self.counts.exact += 1;
            return index;
        }
        if let Some(index) = self.wildcard.find(key, &self.flows) {
            if !self.flows[index as usize].is_valid(around.tables, live, stamp, around.now) {
                return self.renew(around, key, set, index);
            }
            self.counts.wildcard += 1;
            self.remember(set, key, index);
            return index;
        }
        self.counts.tables += 1;
        let evaluation = evaluate(around.tables, around.learned, key, around.now);
        let index = self.allocate();
        self.link(index, key, set, evaluation);
        index
    }

    #[inline]
    fn find_exact(&self, set: usize, key: &FlowKey) -> Option<u32> {
        let FlowRef { index, serial } = self.exact.find(set, key)?;
        let flow = &self.flows[index as usize];
        (flow.serial == serial && flow.guards_hold(key)).then_some(index)
    }

    fn find_nothing(&mut self, around: Around<'_>, key: &FlowKey) -> u32 {
        self.counts.tables += 1;
        let evaluation = evaluate(around.tables, around.learned, key, around.now);
        self.flows[0].end();
        self.flows[0].begin(evaluation, key, 0);
        0
    }

    /// Evaluates anew for an entry that is out of date.
    #[cold]
    fn renew(&mut self, around: Around<'_>, key: &FlowKey, set: usize, index: u32) -> u32 {
        self.counts.tables += 1;
        self.counts.stale += 1;
        let evaluation = evaluate(around.tables, around.learned, key, around.now);
        let flow = &mut self.flows[index as usize];
        flow.flush();
        if flow.evaluation.read == evaluation.read {
            flow.evaluation = evaluation;
            self.remember(set, key, index);
            return index;
        }
        // Other bits decide now: it stands for other flows than before, so references to it must not find it.
        self.wildcard.remove(flow.subtable, &flow.masked, index);
        self.link(index, key, set, evaluation);
        index
    }

    /// Starts an entry and makes both levels refer to it.
    fn link(&mut self, index: u32, key: &FlowKey, set: usize, evaluation: Evaluation) {
        let mut evicted = Vec::new();
        let subtable = self.wildcard.subtable(&evaluation.read, &mut evicted);
        self.flows[index as usize].begin(evaluation, key, subtable);
        let masked = self.flows[index as usize].masked;
        evicted.extend(self.wildcard.insert(subtable, &masked, index, &self.flows));
        for other in evicted {
            self.flows[other as usize].end();
            self.free.push(other);
            self.counts.evicted += 1;
        }
        self.remember(set, key, index);
    }

    fn remember(&mut self, set: usize, key: &FlowKey, index: u32) {
        let serial = self.flows[index as usize].serial;
        self.exact.insert(set, key, FlowRef { index, serial });
    }

    /// An entry that nothing refers to: a free one, a new one, or one that was not hit for a round of the hand.
    fn allocate(&mut self) -> u32 {
        if let Some(index) = self.free.pop() {
            return index;
        }
        if self.flows.len() < self.flows_max {
            self.flows.push(Flow::default());
            return (self.flows.len() - 1) as u32;
        }
        while std::mem::take(&mut self.flows[self.hand].used) {
            self.hand = (self.hand + 1) % self.flows.len();
        }
        let index = self.hand as u32;
        self.hand = (self.hand + 1) % self.flows.len();
        let flow = &mut self.flows[index as usize];
        self.wildcard.remove(flow.subtable, &flow.masked, index);
        flow.end();
        self.counts.evicted += 1;
        index
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;
    use weft_packet::{DropReason, Field};
    use weft_program::{Action, Bundle, DomainId, Instruction, Match, Op, Rule, RuleKey, TableId};

    use super::*;
    use crate::limits::LIMITS;
    use crate::testing::{Dice, whole};
    use crate::verdict::Step;

    /// One vswitch: tables, what it learned, and a lookup.
    struct Side {
        tables: Tables,
        learned: Learned,
        lookup: Lookup,
    }

    impl Side {
        fn new(seed: u64, lookup: Lookup) -> Self {
            let limits = Limits { learned_per_segment_max: 4, learned_age_s: 30, ..LIMITS };
            Self { tables: Tables::new(seed), learned: Learned::new(Instant::now(), &limits), lookup }
        }

        fn steps(&mut self, key: &FlowKey, len: usize, now: Second) -> Vec<Step> {
            self.lookup.classify(&self.tables, &self.learned, key, len, now).steps.clone()
        }
    }

    /// Few entries, so that they are evicted.
    fn small() -> Limits {
        Limits { exact_entries: 16, flow_entries_max: 24, flow_masks_max: 4, ..LIMITS }
    }

    fn cache_on_is_cache_off(seed: u64, rules: usize, limits: &Limits) -> CacheCounts {
        let mut dice = Dice::new(seed);
        let (mut on, mut off) = (Side::new(seed, Lookup::new(seed, limits)), Side::new(!seed, Lookup::uncached(seed)));
        let program = whole(&dice.program(rules));
        for side in [&mut on, &mut off] {
            side.tables = side.tables.apply(&program).expect("generated programs are consistent");
        }
        let keys: Vec<_> = (0..40).map(|_| dice.key()).collect();
        let mut now = Second(0);
        for _ in 0..600 {
            match dice.below(40) {
                0 => {
                    let bundle = dice.bundle(&on.tables.to_program(), 4);
                    let (a, b) = (on.tables.apply(&bundle), off.tables.apply(&bundle));
                    assert_eq!(a.is_ok(), b.is_ok());
                    if let (Ok(a), Ok(b)) = (a, b) {
                        (on.tables, off.tables) = (a, b);
                    }
                }
                1 => now.0 += dice.below(20) as u32,
                2 => [&on, &off].into_iter().for_each(|side| side.learned.expire(&side.tables, now)),
                _ => {
                    let mut key = dice.pick(&keys);
                    if dice.one_in(8) {
                        key.set(Field::IpTtl, dice.pick(&[1, 64, 255]));
                    }
                    let len = 60 + dice.below(1000);
                    assert_eq!(on.steps(&key, len, now), off.steps(&key, len, now), "{key:?}");
                }
            }
        }
        [&mut on, &mut off].into_iter().for_each(|side| side.lookup.flush());
        assert_eq!(on.tables.rule_reports(), off.tables.rule_reports());
        assert_eq!(on.learned.reports(now), off.learned.reports(now));
        on.lookup.counts()
    }

    proptest! {
        #[test]
        fn cache_on_is_cache_off_and_counts_the_same(seed: u64, rules in 0usize..120) {
            cache_on_is_cache_off(seed, rules, &LIMITS);
        }

        #[test]
        fn cache_on_is_cache_off_when_it_evicts_all_the_time(seed: u64, rules in 0usize..120) {
            cache_on_is_cache_off(seed, rules, &small());
        }
    }

    #[test]
    fn the_property_exercises_every_level() {
        let mut sum = CacheCounts::default();
        for seed in 0..20 {
            let counts = cache_on_is_cache_off(seed, 60, &LIMITS);
            sum.exact += counts.exact;
            sum.wildcard += counts.wildcard;
            sum.stale += counts.stale;
            sum.evicted += cache_on_is_cache_off(seed, 60, &small()).evicted;
        }
        assert!(sum.exact > 1000 && sum.wildcard > 100 && sum.stale > 100 && sum.evicted > 1000, "{sum:?}");
    }

    #[test]
    fn the_bounds_hold_under_a_scan() {
        let mut dice = Dice::new(1);
        let mut side = Side::new(1, Lookup::new(1, &small()));
        side.tables = side.tables.apply(&whole(&dice.program(100))).unwrap();
        for _ in 0..5_000 {
            side.steps(&dice.key(), 60, Second(0));
        }
        assert_eq!(side.lookup.flows.len(), 24);
        assert!(side.lookup.counts().evicted > 1000);
    }

    /// Frames from port 1 (domain 1) and port 3 (domain 2) are dropped, each by a rule of its own; hop limit 1 by
    /// another.
    fn two_domains() -> Side {
        let mut side = Side::new(1, Lookup::new(1, &LIMITS));
        let mut program = Dice::new(1).program(0);
        for (port, domain) in [(1, 1), (3, 2)] {
            program.apply(Op::PutRule(drop_rule(1, Match::ANY.with(Field::InPort, port), domain)));
        }
        program.apply(Op::PutRule(drop_rule(9, Match::ANY.with(Field::IpTtl, 1), 0)));
        side.tables = side.tables.apply(&whole(&program)).unwrap();
        side
    }

    fn drop_rule(priority: u16, matches: Match, domain: u32) -> Rule {
        let key = RuleKey { table: TableId(0), priority, matches };
        let instructions = vec![Instruction::Apply(vec![Action::Drop(DropReason::Policy)])];
        Rule { key, instructions, owner: format!("priority {priority}").into(), domain: DomainId(domain) }
    }

    fn frame(port: u128, ttl: u128, l4_src: u128) -> FlowKey {
        FlowKey::ZERO.with(Field::InPort, port).with(Field::IpTtl, ttl).with(Field::L4Src, l4_src)
    }

    #[test]
    fn a_change_of_one_domain_leaves_the_other_domains_entries_alone() {
        let mut side = two_domains();
        let send = |side: &mut Side| [1, 3].map(|port| side.steps(&frame(port, 64, 0), 60, Second(0)));
        send(&mut side);
        let put = Op::PutRule(drop_rule(5, Match::ANY.with(Field::InPort, 1), 1));
        side.tables = side.tables.apply(&Bundle { ops: vec![put], ..Bundle::default() }).unwrap();
        let [changed, _] = send(&mut side);
        assert!(matches!(&changed[..], [Step::Drop { owner, .. }] if **owner == *"priority 5"));
        assert_eq!((side.lookup.counts().stale, side.lookup.counts().exact), (1, 1));
    }

    #[test]
    fn a_new_flow_that_no_rule_tells_apart_is_answered_by_the_wildcard_level() {
        let mut side = two_domains();
        (0..10).for_each(|l4_src| drop(side.steps(&frame(1, 64, l4_src), 60, Second(0))));
        (0..10).for_each(|l4_src| drop(side.steps(&frame(1, 64, l4_src), 60, Second(0))));
        assert_eq!(side.lookup.counts(), CacheCounts { exact: 10, wildcard: 9, tables: 1, stale: 0, evicted: 0 });
    }

    #[test]
    fn a_field_outside_of_the_exact_key_is_checked_at_each_hit() {
        let mut side = two_domains();
        for ttl in [64, 1, 64, 1] {
            let steps = side.steps(&frame(1, ttl, 0), 60, Second(0));
            let wanted = if ttl == 1 { "priority 9" } else { "priority 1" };
            assert!(matches!(&steps[..], [Step::Drop { owner, .. }] if **owner == *wanted));
        }
    }

    #[test]
    fn a_rule_is_credited_when_the_counts_are_read() {
        let mut side = two_domains();
        (0..5).for_each(|_| drop(side.steps(&frame(1, 64, 0), 100, Second(0))));
        let frames = |side: &Side| side.tables.rule_reports().iter().map(|r| (r.frames, r.bytes)).max();
        assert_eq!(frames(&side), Some((0, 0)));
        side.lookup.flush();
        assert_eq!(frames(&side), Some((5, 500)));
    }
}
