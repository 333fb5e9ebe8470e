//! The first level: frames of one flow, found by the fields that make it a flow.
//!
//! Two ways per set. A newcomer takes the first way and pushes its holder to the second, so that a flow seen twice
//! survives a burst of flows seen once.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use weft_packet::FlowKey;
use weft_packet::key::EXACT_WORDS;
use weft_sys::prefetch::prefetch;

/// Which flow entry, and which life of it: entries are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FlowRef {
    pub(super) index: u32,
    pub(super) serial: u32,
}

pub(super) struct Exact {
    state: FixedState,
    sets: Box<[[Way; 2]]>,
}

/// Serial 0 is nobody's: an empty way refers to no flow.
#[derive(Clone, Copy, Default)]
struct Way {
    words: [u64; EXACT_WORDS],
    flow: FlowRef,
}

impl Exact {
    pub(super) fn new(seed: u64, entries: usize) -> Self {
        assert!(entries.is_power_of_two() && entries >= 2, "sets are chosen by bits of the hash");
        Self { state: FixedState::with_seed(seed), sets: vec![[Way::default(); 2]; entries / 2].into() }
    }

    /// The set of a key.
    #[inline]
    pub(super) fn set(&self, key: &FlowKey) -> usize {
        let mut hasher = self.state.build_hasher();
        key.0[..EXACT_WORDS].iter().for_each(|word| hasher.write_u64(*word));
        hasher.finish() as usize & (self.sets.len() - 1)
    }

    /// Both ways of a set, which are three cache lines at most.
    #[inline]
    pub(super) fn prefetch(&self, set: usize) {
        let [first, second] = &self.sets[set];
        prefetch(first);
        prefetch(second);
        prefetch(&second.flow);
    }

    #[inline]
    pub(super) fn find(&self, set: usize, key: &FlowKey) -> Option<FlowRef> {
        self.sets[set].iter().find(|way| way.is_of(key)).map(|way| way.flow)
    }

    pub(super) fn insert(&mut self, set: usize, key: &FlowKey, flow: FlowRef) {
        let [first, second] = &mut self.sets[set];
        if second.is_of(key) {
            second.flow = flow;
            return;
        }
        if !first.is_of(key) {
            *second = *first;
            first.words.copy_from_slice(&key.0[..EXACT_WORDS]);
        }
        first.flow = flow;
    }
}

impl Way {
    #[inline]
    fn is_of(&self, key: &FlowKey) -> bool {
        self.flow.serial != 0 && self.words == key.0[..EXACT_WORDS]
    }
}
