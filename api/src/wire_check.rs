//! What can be wrong with an item that another process sent, judged by the item alone.
//!
//! References between items are not judged here: the vswitch does that when it takes the whole, and it must anyway.

use weft_packet::{DropReason, Field, Vni};

use crate::wire::proto::{
    AddressKey, FdbEntry, Flood, Instruction, Item, Label, Location, MacKey, Neighbor, Port, Remote, RemoteKind, Rule,
    Segment, action, fdb_lookup, instruction, item,
};
use crate::wire::{ip_from_bytes, mac_from_bytes};
use crate::wire_rule::field_value;

/// Why a message of the other side was refused. The sender has a defect or speaks another version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// An item, a key or an action says nothing.
    #[error("an item, key or action without content: the other side speaks a newer protocol or is damaged")]
    Empty,
    /// A name is missing.
    #[error("a {0} without a name")]
    Nameless(&'static str),
    /// An unknown field name.
    #[error("`{0}` is no field that can be matched or set")]
    Field(String),
    /// A value that does not fit its field.
    #[error("the value or mask of `{0}` does not fit it")]
    Value(String),
    /// An unknown reason.
    #[error("`{0}` is no reason to drop a frame")]
    Reason(String),
    /// Octets of the wrong number.
    #[error("a {what} of {got} octets")]
    Length {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
    },
    /// A number out of its range.
    #[error("{what} {got} is out of range")]
    Range {
        /// Of what.
        what: &'static str,
        /// The number.
        got: u64,
    },
    /// A list is not sorted, or has something twice.
    #[error("the list of {0} is not in ascending order")]
    Unsorted(&'static str),
    /// One key is there twice.
    #[error("{0} is there twice")]
    Twice(String),
    /// A change deletes what is not there.
    #[error("{0} is to be deleted but is not there")]
    Unknown(String),
    /// Too many items.
    #[error("more than {} items for one host", crate::wire::ITEMS_MAX)]
    TooMany,
}

impl Item {
    /// Refuses what cannot be lowered.
    pub fn check(&self) -> Result<(), WireError> {
        match self.kind.as_ref().ok_or(WireError::Empty)? {
            item::Kind::Segment(segment) => check_segment(segment),
            item::Kind::Port(port) => check_port(port),
            item::Kind::Remote(remote) => check_remote(remote),
            item::Kind::Flood(flood) => check_flood(flood),
            item::Kind::Rule(rule) => check_rule(rule),
            item::Kind::Fdb(entry) => check_fdb(entry),
            item::Kind::Neighbor(neighbor) => check_neighbor(neighbor),
            item::Kind::Label(label) => check_label(label),
        }
    }
}

fn check_segment(segment: &Segment) -> Result<(), WireError> {
    range("segment", segment.id.into(), 1, u32::MAX.into())?;
    range("VNI", segment.vni.into(), 1, Vni::MAX.into())?;
    range("MTU", segment.mtu.into(), 68, u16::MAX.into())
}

fn check_port(port: &Port) -> Result<(), WireError> {
    named("port", &port.name)?;
    mac_from_bytes(&port.mac)?;
    for address in &port.addresses {
        let bits_max = if ip_from_bytes(&address.ip)?.is_ipv4() { 32 } else { 128 };
        range("prefix length", address.prefix_len.into(), 0, bits_max)?;
    }
    Ok(())
}

fn check_remote(remote: &Remote) -> Result<(), WireError> {
    named("remote", &remote.name)?;
    ip_from_bytes(&remote.address)?;
    range("UDP port", remote.udp_port.into(), 1, u16::MAX.into())?;
    for vni in &remote.vnis {
        range("VNI", (*vni).into(), 1, Vni::MAX.into())?;
    }
    sorted("VNIs", &remote.vnis)?;
    match remote.kind() {
        RemoteKind::Unspecified => Err(WireError::Range { what: "kind of remote", got: 0 }),
        RemoteKind::Weft | RemoteKind::Legacy => Ok(()),
    }
}

fn check_flood(flood: &Flood) -> Result<(), WireError> {
    sorted("ports", &flood.ports)?;
    sorted("remotes", &flood.remotes)
}

fn check_fdb(entry: &FdbEntry) -> Result<(), WireError> {
    check_mac_key(entry.key.as_ref())?;
    check_location(entry.location.as_ref())
}

fn check_neighbor(neighbor: &Neighbor) -> Result<(), WireError> {
    check_address_key(neighbor.key.as_ref())?;
    mac_from_bytes(&neighbor.mac)?;
    check_location(neighbor.location.as_ref())
}

fn check_label(label: &Label) -> Result<(), WireError> {
    check_address_key(label.key.as_ref())?;
    range("label", label.label.into(), 1, u32::MAX.into())
}

fn check_rule(rule: &Rule) -> Result<(), WireError> {
    let key = rule.key.as_ref().ok_or(WireError::Empty)?;
    range("table", key.table.into(), 0, u8::MAX.into())?;
    range("priority", key.priority.into(), 0, u16::MAX.into())?;
    if !key.matches.is_sorted_by(|a, b| a.field < b.field) {
        return Err(WireError::Unsorted("matches"));
    }
    for matched in &key.matches {
        matched.read()?;
    }
    rule.instructions.iter().try_for_each(check_instruction)
}

fn check_instruction(instruction: &Instruction) -> Result<(), WireError> {
    match instruction.kind.as_ref().ok_or(WireError::Empty)? {
        instruction::Kind::Apply(apply) => {
            apply.actions.iter().try_for_each(|a| check_action(a.kind.as_ref().ok_or(WireError::Empty)?))
        }
        instruction::Kind::WriteMetadata(_) => Ok(()),
        instruction::Kind::GotoTable(table) => range("table", (*table).into(), 0, u8::MAX.into()),
    }
}

fn check_action(kind: &action::Kind) -> Result<(), WireError> {
    match kind {
        action::Kind::Output(port) => named("port", port),
        action::Kind::Tunnel(to) => {
            named("remote", &to.remote)?;
            range("VNI", to.vni.into(), 1, Vni::MAX.into())
        }
        action::Kind::SetField(set) => field_value(field(&set.field)?, &set.bits).map(drop),
        action::Kind::Drop(reason) => {
            DropReason::from_name(reason).map(drop).ok_or_else(|| WireError::Reason(reason.clone()))
        }
        action::Kind::Fdb(lookup) => match lookup.miss {
            Some(fdb_lookup::Miss::Drop(_) | fdb_lookup::Miss::Flood(_)) => Ok(()),
            None => Err(WireError::Empty),
        },
        action::Kind::LoadLabel(load) => {
            field(&load.field)?;
            range("register", load.register.into(), 0, weft_packet::key::REGISTERS as u64 - 1)
        }
        action::Kind::ReplyNeighbor(mac) => mac_from_bytes(mac).map(drop),
        action::Kind::Flood(_) | action::Kind::Learn(_) | action::Kind::AnswerNeighbor(_) => Ok(()),
    }
}

fn check_mac_key(key: Option<&MacKey>) -> Result<(), WireError> {
    mac_from_bytes(&key.ok_or(WireError::Empty)?.mac).map(drop)
}

fn check_address_key(key: Option<&AddressKey>) -> Result<(), WireError> {
    ip_from_bytes(&key.ok_or(WireError::Empty)?.ip).map(drop)
}

fn check_location(location: Option<&Location>) -> Result<(), WireError> {
    location.and_then(|l| l.kind.as_ref()).map(drop).ok_or(WireError::Empty)
}

fn field(name: &str) -> Result<Field, WireError> {
    Field::from_name(name).ok_or_else(|| WireError::Field(name.to_owned()))
}

fn named(what: &'static str, name: &str) -> Result<(), WireError> {
    if name.is_empty() { Err(WireError::Nameless(what)) } else { Ok(()) }
}

fn sorted<T: PartialOrd>(what: &'static str, list: &[T]) -> Result<(), WireError> {
    if list.is_sorted_by(|a, b| a < b) { Ok(()) } else { Err(WireError::Unsorted(what)) }
}

fn range(what: &'static str, got: u64, min: u64, max: u64) -> Result<(), WireError> {
    if (min..=max).contains(&got) { Ok(()) } else { Err(WireError::Range { what, got }) }
}
