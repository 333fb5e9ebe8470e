//! A Bloom filter over the hashes of a table's buckets. Most tables have no bucket for most keys, and the filters of
//! 100,000 rules fit into a core's second cache where the tables do not.
//!
//! All bits of a hash are in one word, so that a look costs one cache line. A removed hash keeps its bits until the
//! filter is made anew.

/// Hashes per word of 64 bits at which the filter doubles: at that, 5 % of other hashes pass.
const HASHES_PER_WORD: usize = 8;

/// Says of a hash that it is not there, or may be.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    /// The word of a filter that has one.
    only: u64,
    /// Words of a larger one, a power of two of them.
    words: Box<[u64]>,
    /// Hashes that came since it was made.
    added: usize,
}

impl Filter {
    /// Whether the hash may be there.
    #[inline]
    pub(super) fn may_have(&self, hash: u64) -> bool {
        let word = if self.words.is_empty() { self.only } else { self.words[place(hash, self.words.len())] };
        let bits = bits(hash);
        word & bits == bits
    }

    /// Whether it has to be made anew before one more hash comes.
    pub(super) const fn is_full(&self) -> bool {
        let words = if self.words.is_empty() { 1 } else { self.words.len() };
        self.added >= words * HASHES_PER_WORD
    }

    /// A filter of `len` hashes, with as much room again.
    pub(super) fn of(len: usize, hashes: impl Iterator<Item = u64>) -> Self {
        let words = (len * 2).div_ceil(HASHES_PER_WORD).next_power_of_two();
        let words = if words > 1 { vec![0; words].into() } else { Box::default() };
        let mut filter = Self { only: 0, words, added: 0 };
        hashes.for_each(|hash| filter.add(hash));
        filter
    }

    /// Adds a hash.
    pub(super) fn add(&mut self, hash: u64) {
        let len = self.words.len();
        let word = if len == 0 { &mut self.only } else { &mut self.words[place(hash, len)] };
        *word |= bits(hash);
        self.added += 1;
    }
}

#[inline]
const fn place(hash: u64, len: usize) -> usize {
    (hash >> 32) as usize & (len - 1)
}

#[inline]
const fn bits(hash: u64) -> u64 {
    1 << (hash & 63) | 1 << (hash >> 6 & 63)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    #[test]
    fn it_has_what_was_added_and_little_else() {
        let mut dice = Dice::new(1);
        let hashes: Vec<u64> = (0..5000).map(|_| dice.next()).collect();
        let mut filter = Filter::default();
        for (index, hash) in hashes.iter().enumerate() {
            if filter.is_full() {
                filter = Filter::of(index, hashes[..index].iter().copied());
            }
            filter.add(*hash);
            assert!(hashes[..=index].iter().rev().take(40).all(|hash| filter.may_have(*hash)));
        }
        assert!(hashes.iter().all(|hash| filter.may_have(*hash)));
        let strangers = (0..10_000).filter(|_| filter.may_have(dice.next())).count();
        assert!(strangers < 600, "{strangers} of 10,000");
    }
}
