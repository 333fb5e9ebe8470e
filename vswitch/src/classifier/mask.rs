//! Masks, ready for hashing and comparing; and the coarser mask under which a rule is filed.

use std::cmp::Reverse;
use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use weft_packet::{Field, FlowKey, FlowMask, key::KEY_WORDS};

/// IPv4 prefix lengths that are hashed; a rule between two of them is filed under the shorter one.
const V4_LENGTHS: [u32; 3] = [32, 24, 16];
/// The same for IPv6 prefixes. Host addresses are filed by their low 32 bits.
const V6_LENGTHS: [u32; 3] = [64, 48, 32];
/// Fields that tell few rules apart: compared, never hashed.
const NEVER_HASHED: [Field; 4] = [Field::Fragment, Field::IpTos, Field::IpTtl, Field::TcpFlags];
/// Fields that are hashed only when no address is: rules of one pair of addresses differ in ports and ranges of ports.
const PORTS: [Field; 3] = [Field::IpProto, Field::L4Src, Field::L4Dst];

/// The mask under which rules of this mask are filed: some of its bits, so that many masks share one hash table.
/// A function of the mask alone, so that the order in which rules came decides nothing.
pub(super) fn relax(mask: &FlowMask) -> FlowMask {
    let mut relaxed = *mask;
    NEVER_HASHED.into_iter().for_each(|field| relaxed.set(field, 0));
    let mut hashed = false;
    for field in [Field::IpSrc, Field::IpDst] {
        let kept = relax_address(mask.field(field));
        hashed |= kept != 0;
        relaxed.set(field, kept);
    }
    for field in PORTS {
        if hashed || relaxed.field(field) != field.all_ones() {
            relaxed.set(field, 0);
        }
    }
    relaxed
}

fn relax_address(mask: u128) -> u128 {
    let low = mask as u32;
    if low != 0 {
        let len = V4_LENGTHS.into_iter().find(|len| low.leading_ones() >= *len);
        return len.map_or(0, |len| u128::from(u32::MAX << (32 - len)));
    }
    let len = V6_LENGTHS.into_iter().find(|len| mask.leading_ones() >= *len);
    len.map_or(0, |len| u128::MAX << (128 - len))
}

/// The words of a mask that are not zero, for hashing: few, and beside each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hashed {
    words: Box<[HashedWord]>,
}

// Masks are in the order of their words, and of these the first that differs decides, one that is absent being zero:
// the higher index is the smaller mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct HashedWord {
    index: Reverse<u8>,
    bits: u64,
}

impl Hashed {
    /// Finds the words.
    pub(super) fn new(mask: &FlowMask) -> Self {
        Self { words: words_of(mask).collect() }
    }

    /// Whether it is this mask.
    pub(super) fn is(&self, mask: &FlowMask) -> bool {
        self.words.iter().copied().eq(words_of(mask))
    }

    /// Hash of the key's masked bits: of each word its product with a secret, folded; no word waits for another.
    #[inline]
    pub(super) fn hash(&self, secrets: &Secrets, key: &FlowKey) -> u64 {
        self.words.iter().fold(0, |hash, word| hash ^ secrets.mix(word.at(), key.0[word.at()] & word.bits))
    }

    /// The same, and adds the mask's bits to `read`.
    #[inline]
    pub(super) fn read(&self, secrets: &Secrets, key: &FlowKey, read: &mut FlowMask) -> u64 {
        self.words.iter().for_each(|word| read.0[word.at()] |= word.bits);
        self.hash(secrets, key)
    }
}

/// What outsiders do not know about the hashes: two numbers for each word of a key.
#[derive(Clone)]
pub(super) struct Secrets([(u64, u64); KEY_WORDS]);

impl Secrets {
    /// Drawn from a seed.
    pub(super) fn new(seed: u64) -> Self {
        let state = FixedState::with_seed(seed);
        Self(std::array::from_fn(|word| (state.hash_one(2 * word), state.hash_one(2 * word + 1) | 1)))
    }

    #[inline]
    const fn mix(&self, word: usize, bits: u64) -> u64 {
        let (addend, factor) = self.0[word];
        let product = (bits ^ addend) as u128 * factor as u128;
        (product >> 64) as u64 ^ product as u64
    }
}

impl HashedWord {
    #[inline]
    fn at(self) -> usize {
        usize::from(self.index.0)
    }
}

fn words_of(mask: &FlowMask) -> impl Iterator<Item = HashedWord> {
    let words = mask.0.iter().enumerate().filter(|(_, bits)| **bits != 0);
    words.map(|(index, bits)| HashedWord { index: Reverse(index as u8), bits: *bits })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_filed_under_a_shorter_one_and_ports_only_without_addresses() {
        let v4 = |len: u32| FlowKey::ZERO.with(Field::IpDst, u128::from(u32::MAX.checked_shl(32 - len).unwrap_or(0)));
        for (len, filed) in [(32, 32), (31, 24), (24, 24), (23, 16), (15, 0), (0, 0)] {
            assert_eq!(relax(&v4(len).with(Field::L4Dst, 0xfff0)), v4(filed), "/{len}");
        }
        assert_eq!(relax(&v4(24).with(Field::L4Dst, 0xffff)), v4(24));
        let port = FlowKey::only(Field::L4Dst);
        assert_eq!(relax(&port.with(Field::IpSrc, 0x8000_0000)), port);
        let v6 = |len: u32| FlowKey::ZERO.with(Field::IpDst, u128::MAX << (128 - len));
        assert_eq!(relax(&v6(56)), v6(48));
    }
}
