//! A hash table whose clones share what did not change.
//!
//! It is cut into shards of about a hundred items behind an `Arc` each, so that a snapshot of 100,000 items costs a
//! thousand reference counts and a change copies one shard. Hashes are kept beside the items: growing never rehashes.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// Items per shard, on average, at which the number of shards doubles.
const SHARD_LEN: usize = 128;

/// Items found by a hash and a comparison that the caller brings.
#[derive(Clone)]
pub struct CowTable<T> {
    shards: Vec<Arc<HashTable<(u64, T)>>>,
    len: usize,
}

/// A map over a [`CowTable`].
#[derive(Clone)]
pub struct CowMap<K, V> {
    table: CowTable<(K, V)>,
    hasher: FixedState,
}

impl<T: Clone> CowTable<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self { shards: vec![Arc::new(HashTable::new())], len: 0 }
    }

    /// Number of items.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All items, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(_, item)| item)
    }

    /// The item with this hash that `same` agrees to.
    #[inline]
    pub fn find(&self, hash: u64, same: impl Fn(&T) -> bool) -> Option<&T> {
        let shard = &self.shards[self.shard_of(hash)];
        shard.find(hash, |(_, item)| same(item)).map(|(_, item)| item)
    }

    /// The item with exactly this hash, where hashes are unique.
    #[inline]
    pub fn get(&self, hash: u64) -> Option<&T> {
        let shard = &self.shards[self.shard_of(hash)];
        shard.find(hash, |(known, _)| *known == hash).map(|(_, item)| item)
    }

    /// The same, for changing. Copies its shard when a clone still has it.
    pub fn get_mut(&mut self, hash: u64) -> Option<&mut T> {
        self.get(hash)?;
        let index = self.shard_of(hash);
        Arc::make_mut(&mut self.shards[index]).find_mut(hash, |(known, _)| *known == hash).map(|(_, item)| item)
    }

    /// Takes out the item with exactly this hash.
    pub fn take(&mut self, hash: u64) -> Option<T> {
        self.get(hash)?;
        let index = self.shard_of(hash);
        let entry = Arc::make_mut(&mut self.shards[index]).find_entry(hash, |(known, _)| *known == hash).ok()?;
        self.len -= 1;
        Some(entry.remove().0.1)
    }

    /// All hashes, in no order.
    pub fn hashes(&self) -> impl Iterator<Item = u64> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(hash, _)| *hash)
    }

    /// The item, for changing. Copies its shard when a clone still has it.
    pub fn find_mut(&mut self, hash: u64, same: impl Fn(&T) -> bool) -> Option<&mut T> {
        self.find(hash, &same)?;
        let index = self.shard_of(hash);
        Arc::make_mut(&mut self.shards[index]).find_mut(hash, |(_, item)| same(item)).map(|(_, item)| item)
    }

    /// Adds an item that is not there yet.
    pub fn insert_unique(&mut self, hash: u64, item: T) {
        if self.len >= self.shards.len() * SHARD_LEN {
            self.grow();
        }
        let index = self.shard_of(hash);
        Arc::make_mut(&mut self.shards[index]).insert_unique(hash, (hash, item), |(hash, _)| *hash);
        self.len += 1;
    }

    /// Takes the item out.
    pub fn remove(&mut self, hash: u64, same: impl Fn(&T) -> bool) -> Option<T> {
        self.find(hash, &same)?;
        let index = self.shard_of(hash);
        let entry = Arc::make_mut(&mut self.shards[index]).find_entry(hash, |(_, item)| same(item)).ok()?;
        self.len -= 1;
        Some(entry.remove().0.1)
    }

    // The table in a shard uses the lowest and the highest bits of the hash; shards use the middle ones.
    #[inline]
    fn shard_of(&self, hash: u64) -> usize {
        (hash >> 24) as usize & (self.shards.len() - 1)
    }

    fn grow(&mut self) {
        let wider = (0..self.shards.len() * 2).map(|_| Arc::new(HashTable::with_capacity(SHARD_LEN))).collect();
        let old = std::mem::replace(&mut self.shards, wider);
        for (hash, item) in old.into_iter().flat_map(Arc::unwrap_or_clone) {
            let index = self.shard_of(hash);
            Arc::make_mut(&mut self.shards[index]).insert_unique(hash, (hash, item), |(hash, _)| *hash);
        }
    }
}

impl<T: Clone> Default for CowTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> CowMap<K, V> {
    /// An empty map; the seed keeps outsiders from choosing colliding keys.
    pub fn new(seed: u64) -> Self {
        Self { table: CowTable::new(), hasher: FixedState::with_seed(seed) }
    }

    /// Number of entries.
    pub const fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.table.iter().map(|(key, value)| (key, value))
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.table.iter().map(|(_, value)| value)
    }

    /// The value of a key.
    #[inline]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.table.find(self.hasher.hash_one(key), |(k, _)| k == key).map(|(_, value)| value)
    }

    /// Whether the key is there.
    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Puts a value; returns the one it replaced.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = self.hasher.hash_one(&key);
        if let Some((_, old)) = self.table.find_mut(hash, |(k, _)| *k == key) {
            return Some(std::mem::replace(old, value));
        }
        self.table.insert_unique(hash, (key, value));
        None
    }

    /// Takes a value out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.table.remove(self.hasher.hash_one(key), |(k, _)| k == key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_plain_map_does_and_its_clones_do_not_notice(
            first in prop::collection::vec((any::<bool>(), 0u16..600, any::<u8>()), 0..2000),
            second in prop::collection::vec((any::<bool>(), 0u16..600, any::<u8>()), 0..200),
        ) {
            let mut plain = HashMap::new();
            let mut cow = CowMap::new(7);
            let step = |cow: &mut CowMap<u16, u8>, plain: &mut HashMap<u16, u8>, (put, key, value)| {
                if put {
                    assert_eq!(cow.insert(key, value), plain.insert(key, value));
                } else {
                    assert_eq!(cow.remove(&key), plain.remove(&key));
                }
            };
            first.into_iter().for_each(|op| step(&mut cow, &mut plain, op));
            let (kept, kept_plain) = (cow.clone(), plain.clone());
            second.into_iter().for_each(|op| step(&mut cow, &mut plain, op));
            for (cow, plain) in [(cow, plain), (kept, kept_plain)] {
                prop_assert_eq!(cow.len(), plain.len());
                prop_assert_eq!(cow.iter().map(|(k, v)| (*k, *v)).collect::<HashMap<_, _>>(), plain.clone());
                (0..600).for_each(|key| assert_eq!(cow.get(&key), plain.get(&key)));
            }
        }
    }

    #[test]
    fn a_change_copies_one_shard() {
        let mut map = CowMap::new(1);
        (0..10_000u32).for_each(|key| assert_eq!(map.insert(key, key), None));
        let before = map.clone();
        map.insert(77, 0);
        let shared = map.table.shards.iter().zip(&before.table.shards).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!(shared, map.table.shards.len() - 1);
    }
}
