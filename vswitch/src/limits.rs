//! Every bound of the data plane, in one table.
//!
//! A bound is passed by refusing or evicting, with a counter or an error that names it; never by growing.

/// Bounds. The names say of what; times have their unit last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Limits {
    // Program.
    pub bundle_errors_max: usize,
    pub fdb_max: usize,
    pub flood_targets_max: usize,
    pub floods_max: usize,
    pub labels_max: usize,
    pub masks_per_table_max: usize,
    pub neighbors_max: usize,
    pub ports_max: usize,
    pub remotes_max: usize,
    pub rule_actions_max: usize,
    pub rules_max: usize,
    pub segments_max: usize,

    // Learning.
    pub learned_age_s: u32,
    pub learned_max: usize,
    pub learned_moves_per_s: u32,
    pub learned_per_segment_max: usize,

    // Flow caches, per worker.
    pub exact_entries: usize,
    pub flow_entries_max: usize,
    pub flow_masks_max: usize,

    // Frame buffers, per worker.
    pub frames_max: usize,
}

/// The bounds in use.
pub const LIMITS: Limits = Limits {
    bundle_errors_max: 64,
    fdb_max: 1 << 20,
    flood_targets_max: 16_384,
    floods_max: 1 << 17,
    labels_max: 1 << 20,
    masks_per_table_max: 512,
    neighbors_max: 1 << 20,
    ports_max: 65_536,
    remotes_max: 65_536,
    rule_actions_max: 64,
    rules_max: 1 << 20,
    segments_max: 65_536,

    learned_age_s: 300,
    learned_max: 1 << 17,
    learned_moves_per_s: 256,
    learned_per_segment_max: 8_192,

    exact_entries: 8_192,
    flow_entries_max: 16_384,
    flow_masks_max: 128,

    frames_max: 1_024,
};
