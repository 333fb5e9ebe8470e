//! What all rules of a hash table have in common, looked at first, field by field.
//!
//! A key that fails there has shown nothing but that field, so a rule about ICMPv6 types does not make every UDP port a
//! cached result of its own (the staged lookup of NSDI'15, section 5.3).

use weft_packet::{Field, FlowKey, FlowMask, key::KEY_WORDS};

/// Fields and words of the key where they meet: the word, and the field's bits of it. The EtherType is first: it says
/// which of the others mean anything.
const PARTS: [(usize, u64); FIELDS * 2] = {
    let mut parts = [(0, 0); FIELDS * 2];
    let mut index = 0;
    while index < FIELDS {
        let field = match index {
            0 => Field::EthType,
            _ if index <= Field::EthType as usize => Field::ALL[index - 1],
            _ => Field::ALL[index],
        };
        // No field is in more than two words.
        let (all, mut word, mut part) = (FlowKey::only(field), 0, 2 * index);
        while word < KEY_WORDS {
            if all.0[word] != 0 {
                parts[part] = (word, all.0[word]);
                part += 1;
            }
            word += 1;
        }
        index += 1;
    }
    parts
};
const FIELDS: usize = Field::ALL.len();

/// What all rules of a mask have in common, or once had: it narrows with each rule that comes.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate {
    fields: Box<[GateField]>,
}

/// The common bits of one field, as far as one word of the key has them.
#[derive(Debug, Clone, Copy)]
pub(super) struct GateField {
    pub(super) word: usize,
    pub(super) bits: u64,
    value: u64,
}

impl Gate {
    /// Lets the keys of this rule pass, and no others.
    pub(super) fn new(mask: &FlowMask, value: &FlowKey) -> Self {
        let fields = PARTS.iter().filter(|(word, all)| all & mask.0[*word] != 0).map(|(word, all)| {
            let bits = all & mask.0[*word];
            GateField { word: *word, bits, value: value.0[*word] & bits }
        });
        Self { fields: fields.collect() }
    }

    /// The field that keeps the key away from every rule.
    #[inline]
    pub(super) fn stops(&self, key: &FlowKey) -> Option<&GateField> {
        self.fields.iter().find(|field| key.0[field.word] & field.bits != field.value)
    }

    /// Lets the keys of one more rule pass.
    pub(super) fn admit(&mut self, mask: &FlowMask, value: &FlowKey) {
        let common = |field: &GateField| field.bits & mask.0[field.word] & !(field.value ^ value.0[field.word]);
        if self.fields.iter().any(|field| common(field) != field.bits) {
            let narrowed = self.fields.iter().map(|field| {
                let bits = common(field);
                GateField { word: field.word, bits, value: field.value & bits }
            });
            self.fields = narrowed.filter(|field| field.bits != 0).collect();
        }
    }
}
