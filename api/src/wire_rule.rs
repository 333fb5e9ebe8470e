//! Building and reading rules on the wire.
//!
//! Matches stay sorted by field name whatever the order of the calls, so that one rule has one key.

use weft_packet::{DropReason, Field, MacAddr};

use crate::wire::WireError;
use crate::wire::proto::{
    Action, Apply, Drop, FdbLookup, Instruction, LoadLabel, Match, Rule, RuleKey, SetField, TunnelOutput,
    WriteMetadata, action, fdb_lookup, instruction, r#match,
};

/// What a [`Match`] compares, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MatchRead<'a> {
    /// Bits of a field.
    Bits {
        /// Which field.
        field: Field,
        /// The wanted bits; zero outside the mask.
        value: u128,
        /// Which bits count.
        mask: u128,
    },
    /// The frame came from the port of that name.
    Port(&'a str),
    /// The frame came from the remote of that name.
    Remote(&'a str),
}

impl Rule {
    /// A rule that matches every frame and does nothing yet.
    pub fn new(table: u32, priority: u32, owner: impl Into<String>, domain: u32) -> Self {
        let key = Some(RuleKey { table, priority, matches: Vec::new() });
        Self { key, instructions: Vec::new(), owner: owner.into(), domain }
    }

    /// Narrows the rule to one value of a whole field.
    #[must_use]
    pub fn on(self, field: Field, value: u128) -> Self {
        self.narrow(Match {
            field: field.name().into(),
            value: Some(r#match::Value::Bits(field_bytes(field, value))),
            mask: Vec::new(),
        })
    }

    /// Narrows the rule to some bits of a field.
    #[must_use]
    pub fn on_masked(self, field: Field, value: u128, mask: u128) -> Self {
        self.narrow(Match {
            field: field.name().into(),
            value: Some(r#match::Value::Bits(field_bytes(field, value & mask))),
            mask: field_bytes(field, mask),
        })
    }

    /// Narrows the rule to frames from a port.
    #[must_use]
    pub fn on_port(self, name: impl Into<String>) -> Self {
        let value = Some(r#match::Value::Port(name.into()));
        self.narrow(Match { field: Field::InPort.name().into(), value, mask: Vec::new() })
    }

    /// Narrows the rule to frames from a remote.
    #[must_use]
    pub fn on_remote(self, name: impl Into<String>) -> Self {
        let value = Some(r#match::Value::Remote(name.into()));
        self.narrow(Match { field: Field::InRemote.name().into(), value, mask: Vec::new() })
    }

    fn narrow(mut self, wanted: Match) -> Self {
        let matches = &mut self.key.get_or_insert_default().matches;
        match matches.binary_search_by(|m| m.field.cmp(&wanted.field)) {
            Ok(at) => matches[at] = wanted,
            Err(at) => matches.insert(at, wanted),
        }
        self
    }

    /// Adds an action that is done now.
    #[must_use]
    pub fn apply(mut self, kind: action::Kind) -> Self {
        let action = Action { kind: Some(kind) };
        if let Some(Instruction { kind: Some(instruction::Kind::Apply(apply)) }) = self.instructions.last_mut() {
            apply.actions.push(action);
            return self;
        }
        self.then(instruction::Kind::Apply(Apply { actions: vec![action] }))
    }

    /// Sets the whole metadata.
    #[must_use]
    pub fn write_metadata(self, value: u64) -> Self {
        self.then(instruction::Kind::WriteMetadata(WriteMetadata { value, mask: u64::MAX }))
    }

    /// Goes on in a later table.
    #[must_use]
    pub fn goto(self, table: u32) -> Self {
        self.then(instruction::Kind::GotoTable(table))
    }

    fn then(mut self, kind: instruction::Kind) -> Self {
        self.instructions.push(Instruction { kind: Some(kind) });
        self
    }
}

impl Match {
    /// Reads and checks one match.
    pub fn read(&self) -> Result<MatchRead<'_>, WireError> {
        let field = Field::from_name(&self.field).ok_or_else(|| WireError::Field(self.field.clone()))?;
        let bits = match (&self.value, field) {
            (Some(r#match::Value::Port(name)), Field::InPort) if self.mask.is_empty() => {
                return Ok(MatchRead::Port(name));
            }
            (Some(r#match::Value::Remote(name)), Field::InRemote) if self.mask.is_empty() => {
                return Ok(MatchRead::Remote(name));
            }
            (Some(r#match::Value::Bits(bits)), _) => bits,
            _ => return Err(WireError::Value(self.field.clone())),
        };
        let value = field_value(field, bits)?;
        let mask = if self.mask.is_empty() { field.all_ones() } else { field_value(field, &self.mask)? };
        if value & !mask != 0 {
            return Err(WireError::Value(self.field.clone()));
        }
        Ok(MatchRead::Bits { field, value, mask })
    }
}

impl Action {
    /// Sends a copy out of a port.
    pub fn output(port: impl Into<String>) -> action::Kind {
        action::Kind::Output(port.into())
    }

    /// Sends a copy to a remote.
    pub fn tunnel(remote: impl Into<String>, vni: u32) -> action::Kind {
        action::Kind::Tunnel(TunnelOutput { remote: remote.into(), vni })
    }

    /// Sends a copy to everybody on a flood list.
    pub const fn flood(id: u32) -> action::Kind {
        action::Kind::Flood(id)
    }

    /// Writes a field.
    pub fn set_field(field: Field, value: u128) -> action::Kind {
        action::Kind::SetField(SetField { field: field.name().into(), bits: field_bytes(field, value) })
    }

    /// Drops the frame.
    pub fn drop_as(reason: DropReason) -> action::Kind {
        action::Kind::Drop(reason.name().into())
    }

    /// Sends to where the destination MAC lives; unknown ones are dropped.
    pub const fn fdb_or_drop(segment: u32) -> action::Kind {
        action::Kind::Fdb(FdbLookup { segment, miss: Some(fdb_lookup::Miss::Drop(Drop {})) })
    }

    /// Sends to where the destination MAC lives; unknown ones are flooded to a list.
    pub const fn fdb_or_flood(segment: u32, flood: u32) -> action::Kind {
        action::Kind::Fdb(FdbLookup { segment, miss: Some(fdb_lookup::Miss::Flood(flood)) })
    }

    /// Learns the source MAC.
    pub const fn learn(segment: u32) -> action::Kind {
        action::Kind::Learn(segment)
    }

    /// Answers ARP requests and neighbour solicitations.
    pub const fn answer_neighbor(segment: u32) -> action::Kind {
        action::Kind::AnswerNeighbor(segment)
    }

    /// Loads the label of an address field.
    pub fn load_label(segment: u32, field: Field, register: u32) -> action::Kind {
        action::Kind::LoadLabel(LoadLabel { segment, field: field.name().into(), register })
    }

    /// Replies in the name of a MAC address.
    pub fn reply_neighbor(mac: MacAddr) -> action::Kind {
        action::Kind::ReplyNeighbor(mac.0.to_vec())
    }
}

/// A field's value on the wire: big-endian, as many octets as the field needs.
pub fn field_bytes(field: Field, value: u128) -> Vec<u8> {
    let octets = field.bits().div_ceil(8) as usize;
    (value & field.all_ones()).to_be_bytes()[16 - octets..].to_vec()
}

/// Inverse of [`field_bytes`].
pub fn field_value(field: Field, bytes: &[u8]) -> Result<u128, WireError> {
    let octets = field.bits().div_ceil(8) as usize;
    if bytes.len() != octets {
        return Err(WireError::Length { what: field.name(), got: bytes.len() });
    }
    let value = bytes.iter().fold(0, |value, byte| value << 8 | u128::from(*byte));
    if value & !field.all_ones() != 0 { Err(WireError::Value(field.name().into())) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_has_one_key_whatever_the_order_of_its_matches() {
        let a = Rule::new(1, 2, "x", 3).on(Field::EthType, 0x806).on_port("red/a").on(Field::EthSrc, 5);
        let b = Rule::new(1, 2, "x", 3).on(Field::EthSrc, 5).on(Field::EthType, 0x806).on_port("red/a");
        assert_eq!(a, b);
    }

    #[test]
    fn every_field_reads_back() {
        for &field in Field::ALL {
            for value in [0, 1, field.all_ones()] {
                let rule = Rule::new(0, 0, "", 0).on(field, value);
                let read = rule.key.as_ref().unwrap().matches[0].read().unwrap();
                assert_eq!(read, MatchRead::Bits { field, value, mask: field.all_ones() });
            }
            let rule = Rule::new(0, 0, "", 0).on_masked(field, field.all_ones(), 1);
            let read = rule.key.as_ref().unwrap().matches[0].read().unwrap();
            assert_eq!(read, MatchRead::Bits { field, value: 1, mask: 1 });
        }
    }

    #[test]
    fn a_match_with_bits_outside_its_mask_or_a_wrong_length_is_refused() {
        let value = Some(r#match::Value::Bits(vec![0, 3]));
        let outside = Match { field: "eth_type".into(), value: value.clone(), mask: vec![0, 1] };
        assert_eq!(outside.read(), Err(WireError::Value("eth_type".into())));
        let long = Match { field: "eth_src".into(), value, mask: vec![] };
        assert_eq!(long.read(), Err(WireError::Length { what: "eth_src", got: 2 }));
        let misplaced = Match { field: "eth_src".into(), value: Some(r#match::Value::Port("x".into())), mask: vec![] };
        assert_eq!(misplaced.read(), Err(WireError::Value("eth_src".into())));
    }
}
