//! Where intent lives: an ordered set of objects, changed by transactions, watched from a revision.
//!
//! The generation counts committed transactions that changed something; one that changes nothing is no generation.
//! The trait is synchronous: all intent is held in memory as one shared snapshot (some MB), so reading never waits and
//! only a commit touches the disk.

#[cfg(test)]
mod crash_test;
mod live;
mod memory;
mod redb;
mod snapshot;

pub use self::redb::RedbStore;
pub use live::{Watch, WatchEvent};
pub use memory::MemoryStore;
pub use snapshot::{Snapshot, Stored};

use std::sync::Arc;

use weft_api::object::{Object, ObjectKey};

/// Changes that are remembered for watchers; who fell behind further lists everything again.
pub const CHANGES_KEPT_MAX: usize = 1024;
/// Objects that a store holds at most.
pub const OBJECTS_MAX: usize = 200_000;

/// Where intent lives.
pub trait Store: Send + Sync {
    /// Made once, when the store is created: a host that meets another id takes its whole program anew.
    fn store_id(&self) -> &str;

    /// All intent, now.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Changes intent, all of it or nothing, and returns the generation in which it stands. The change is durable
    /// when this returns. Blocks on the disk.
    fn commit(&self, txn: Txn) -> Result<Committed, StoreError>;

    /// Follows changes after the generation.
    fn watch(&self, after: u64) -> Watch;

    /// The object of that key.
    fn get(&self, key: &ObjectKey) -> Option<Stored> {
        self.snapshot().objects.get(key).cloned()
    }
}

/// A change of intent, and on what condition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// Commit only on top of this generation.
    pub generation: Option<u64>,
    /// Commit only where these objects stand at these revisions; `None` is for an object that must not exist.
    pub revisions: Vec<(ObjectKey, Option<u64>)>,
    /// Objects to create or replace.
    pub puts: Vec<Object>,
    /// Objects to delete.
    pub deletes: Vec<ObjectKey>,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The generation in which the transaction's content stands.
    pub generation: u64,
    /// Whether anything differs from the generation before.
    pub changed: bool,
}

/// What changed from one generation to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// The generation that the change made.
    pub generation: u64,
    /// Objects created or replaced.
    pub puts: Vec<Arc<Object>>,
    /// Objects deleted.
    pub deletes: Vec<ObjectKey>,
}

/// Why a transaction was not committed. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else was faster.
    #[error("intent is at generation {found}, not {wanted}: read again, and retry")]
    Generation {
        /// What the transaction was made on.
        wanted: u64,
        /// What the store is at.
        found: u64,
    },
    /// Somebody else was faster with this object.
    #[error("{key} is {}, not {}: read it again, and retry", revision(*.found), revision(*.wanted))]
    Revision {
        /// Which object.
        key: ObjectKey,
        /// What the transaction was made on.
        wanted: Option<u64>,
        /// What the store has.
        found: Option<u64>,
    },
    /// One transaction names an object twice.
    #[error("{0} comes up twice in one transaction: name it once")]
    Twice(ObjectKey),
    /// The bound is passed.
    #[error("{count} objects are more than the {OBJECTS_MAX} that a store holds: delete some first")]
    Full {
        /// How many there would be.
        count: usize,
    },
    /// Another process has the file open.
    #[error("the store {path} is in use by another controller: stop that one, or choose another file")]
    Busy {
        /// The file.
        path: String,
    },
    /// The disk failed. Whether the transaction is on it is known only after reopening.
    #[error(
        "the store {path} cannot be used: {source}: check the disk and the file's rights, then restart the controller"
    )]
    Disk {
        /// The file.
        path: String,
        /// What the disk said.
        source: Box<::redb::Error>,
    },
    /// The file holds something else.
    #[error(
        "the store {path} holds what this build cannot read ({what}): use the build that wrote it, or restore a backup"
    )]
    Content {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
}

fn revision(revision: Option<u64>) -> String {
    revision.map_or_else(|| "absent".to_owned(), |revision| format!("at revision {revision}"))
}

/// Writes 128 random bits in the form of a UUID of version 4 (RFC 9562, section 5.4), for a store's id.
pub fn store_id_from(random: u128) -> String {
    let bits = random & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_id_is_a_uuid_of_version_4() {
        assert_eq!(store_id_from(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(store_id_from(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
