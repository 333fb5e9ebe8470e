//! The second level: tuple space over the bits that evaluations read, so that a new flow that no rule tells apart from
//! an old one needs no evaluation.
//!
//! Entries of different masks never disagree, each is right on its own, so the first one found is taken. Masks that hit
//! most are tried first; their number is bounded, because a search costs a probe per mask.

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use weft_packet::{FlowKey, FlowMask};

use super::flow::Flow;
use crate::classifier::MaskWords;

/// Searches between two orderings of the masks.
const REORDER_EVERY: u32 = 1024;

pub(super) struct Wildcard {
    state: FixedState,
    masks: Vec<Subtable>,
    order: Vec<u16>,
    masks_max: usize,
    searches: u32,
}

/// Flows of one mask, as hash and index. A mask without flows waits to become another.
struct Subtable {
    mask: MaskWords,
    flows: HashTable<(u64, u32)>,
    hits: u64,
}

impl Wildcard {
    pub(super) fn new(seed: u64, masks_max: usize) -> Self {
        assert!((1..=usize::from(u16::MAX)).contains(&masks_max), "masks are numbered by 16 bits");
        Self { state: FixedState::with_seed(seed), masks: Vec::new(), order: Vec::new(), masks_max, searches: 0 }
    }

    pub(super) fn find(&mut self, key: &FlowKey, flows: &[Flow]) -> Option<u32> {
        self.searches += 1;
        if self.searches == REORDER_EVERY {
            self.reorder();
        }
        for id in &self.order {
            let subtable = &mut self.masks[usize::from(*id)];
            let hash = subtable.mask.hash(&self.state, key);
            let same = |(_, index): &(u64, u32)| subtable.mask.same(&flows[*index as usize].masked, key);
            if let Some((_, index)) = subtable.flows.find(hash, same) {
                subtable.hits += 1;
                return Some(*index);
            }
        }
        None
    }

    /// The subtable of a mask, made if need be; `evicted` gets the flows that lost theirs for it.
    pub(super) fn subtable(&mut self, mask: &FlowMask, evicted: &mut Vec<u32>) -> u16 {
        if let Some(id) = self.masks.iter().position(|subtable| subtable.mask.mask() == mask) {
            return id as u16;
        }
        let fresh = Subtable { mask: MaskWords::new(*mask), flows: HashTable::new(), hits: 0 };
        if self.masks.len() < self.masks_max {
            self.masks.push(fresh);
            self.order.push((self.masks.len() - 1) as u16);
            return (self.masks.len() - 1) as u16;
        }
        let weakest = self.masks.iter().enumerate().min_by_key(|(_, s)| (!s.flows.is_empty(), s.hits));
        let id = weakest.map_or(0, |(id, _)| id);
        let old = std::mem::replace(&mut self.masks[id], fresh);
        evicted.extend(old.flows.iter().map(|(_, index)| *index));
        id as u16
    }

    /// Adds a flow; returns the one of the same mask and key that it replaces.
    pub(super) fn insert(&mut self, id: u16, masked: &FlowKey, index: u32, flows: &[Flow]) -> Option<u32> {
        let subtable = &mut self.masks[usize::from(id)];
        let hash = subtable.mask.hash(&self.state, masked);
        let same = |(_, index): &(u64, u32)| flows[*index as usize].masked == *masked;
        if let Some((_, known)) = subtable.flows.find_mut(hash, same) {
            return Some(std::mem::replace(known, index));
        }
        subtable.flows.insert_unique(hash, (hash, index), |(hash, _)| *hash);
        None
    }

    /// Takes a flow out; does nothing when it is not there.
    pub(super) fn remove(&mut self, id: u16, masked: &FlowKey, index: u32) {
        let Some(subtable) = self.masks.get_mut(usize::from(id)) else { return };
        let hash = subtable.mask.hash(&self.state, masked);
        if let Ok(entry) = subtable.flows.find_entry(hash, |(_, known)| *known == index) {
            entry.remove();
        }
    }

    fn reorder(&mut self) {
        self.searches = 0;
        self.order.sort_by_key(|id| std::cmp::Reverse(self.masks[usize::from(*id)].hits));
        self.masks.iter_mut().for_each(|subtable| subtable.hits /= 2);
    }
}
