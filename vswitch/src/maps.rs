//! Maps that rule actions read: `fdb` (pinned locations), `neighbor` and `label`.
//!
//! Each is one hash table in shards, keyed by segment and address: a change copies one shard, and a lookup is one
//! probe, where a map per segment would need two.

use weft_program::{Fdb, FdbKey, Label, LabelKey, Neighbor, NeighborKey};

use crate::cow::CowMap;

/// The maps of one snapshot.
#[derive(Clone)]
pub struct Maps {
    /// Where stations are pinned.
    pub fdb: CowMap<FdbKey, Fdb>,
    /// What address requests are answered with.
    pub neighbors: CowMap<NeighborKey, Neighbor>,
    /// Labels of addresses.
    pub labels: CowMap<LabelKey, Label>,
}

impl Maps {
    /// Empty maps.
    pub fn new(seed: u64) -> Self {
        Self { fdb: CowMap::new(seed), neighbors: CowMap::new(seed), labels: CowMap::new(seed) }
    }
}
