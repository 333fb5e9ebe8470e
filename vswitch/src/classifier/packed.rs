//! A rule as its bucket has it: priority, bits and values side by side, so that a comparison touches one cache line
//! and the rule itself is touched when it has won.

use std::sync::Arc;

use weft_packet::{FlowKey, FlowMask, key::KEY_WORDS};

use super::CompiledRule;

/// Halves of words that are at hand: EtherType, protocol, ports and two IPv4 addresses are five.
const HALVES: usize = 5;

/// A rule, and the first of its bits.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    masks: [u32; HALVES],
    values: [u32; HALVES],
    /// Twice the word's index, plus one for its upper half.
    places: [u8; HALVES],
    len: u8,
    pub(super) priority: u16,
    pub(super) rule: Arc<CompiledRule>,
}

impl Packed {
    pub(super) fn new(rule: Arc<CompiledRule>) -> Self {
        let (mut masks, mut values, mut places, mut len) = ([0; HALVES], [0; HALVES], [0; HALVES], 0);
        let key = &rule.rule.key;
        for place in (0..2 * KEY_WORDS as u8).filter(|place| half(&key.matches.mask, *place) != 0) {
            if usize::from(len) < HALVES {
                let index = usize::from(len);
                masks[index] = half(&key.matches.mask, place);
                values[index] = half(&key.matches.value, place);
                places[index] = place;
            }
            len += 1;
        }
        Self { masks, values, places, len, priority: key.priority, rule }
    }

    /// Whether the rule matches. Adds to `read` what it took to know: all its bits, or one half word that differs.
    #[inline]
    pub(super) fn matches(&self, key: &FlowKey, read: &mut FlowMask) -> bool {
        let len = usize::from(self.len).min(HALVES);
        for index in 0..len {
            if half(key, self.places[index]) & self.masks[index] != self.values[index] {
                add(read, self.places[index], self.masks[index]);
                return false;
            }
        }
        if usize::from(self.len) > HALVES {
            let matches = &self.rule.rule.key.matches;
            let differs = |word: &usize| key.0[*word] & matches.mask.0[*word] != matches.value.0[*word];
            if let Some(word) = (0..KEY_WORDS).find(differs) {
                read.0[word] |= matches.mask.0[word];
                return false;
            }
            *read |= &matches.mask;
            return true;
        }
        (0..len).for_each(|index| add(read, self.places[index], self.masks[index]));
        true
    }
}

#[inline]
fn half(key: &FlowKey, place: u8) -> u32 {
    (key.0[usize::from(place / 2)] >> (u32::from(place % 2) * 32)) as u32
}

#[inline]
fn add(read: &mut FlowMask, place: u8, bits: u32) {
    read.0[usize::from(place / 2)] |= u64::from(bits) << (u32::from(place % 2) * 32);
}
