//! What all rules of a hash table have in common, looked at first, field by field.
//!
//! A key that fails there has shown nothing but that field, so a rule about ICMPv6 types does not make every UDP port a
//! cached result of its own (the staged lookup of NSDI'15, section 5.3).

use weft_packet::{Field, FlowKey, FlowMask, key::KEY_WORDS};

/// What all rules of a mask have in common, or once had: it narrows with each rule that comes.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate {
    /// Common bits; all of the mask's before the first rule.
    common: Option<FlowMask>,
    value: FlowKey,
    fields: Vec<GateField>,
}

/// The common bits of one field.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateField {
    pub(super) word: usize,
    pub(super) bits: u64,
    value: u64,
}

impl Gate {
    /// The field that keeps the key away from every rule.
    #[inline]
    pub(super) fn stops(&self, key: &FlowKey) -> Option<&GateField> {
        self.fields.iter().find(|field| key.0[field.word] & field.bits != field.value)
    }

    /// Lets the keys of one more rule pass.
    pub(super) fn admit(&mut self, mask: &FlowMask, value: &FlowKey) {
        let former = self.common;
        let common = former.map_or(*mask, |common| {
            FlowKey(std::array::from_fn(|word| common.0[word] & mask.0[word] & !(self.value.0[word] ^ value.0[word])))
        });
        if former == Some(common) {
            return;
        }
        (self.common, self.value) = (Some(common), *value);
        self.fields.clear();
        // The EtherType first: it says which of the others mean anything.
        for field in [&Field::EthType].into_iter().chain(Field::ALL.iter().filter(|field| **field != Field::EthType)) {
            let all = FlowKey::ZERO.with(*field, field.all_ones());
            let words = (0..KEY_WORDS).filter(|word| all.0[*word] & common.0[*word] != 0);
            self.fields.extend(words.map(|word| {
                let bits = all.0[word] & common.0[word];
                GateField { word, bits, value: value.0[word] & bits }
            }));
        }
    }
}
