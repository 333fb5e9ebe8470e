//! What goes over the wire between controller and agent: generated messages, and the host program as keyed items.
//!
//! One ordered map of items serves encoding, digest, difference and patch alike. The digest is over the bytes that are
//! sent, so two sides that agree on it agree on every item; protobuf as such has no canonical form, but messages without
//! map fields, written in tag order by one encoder and kept sorted where order means nothing, do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prost::Message;
use sha2::{Digest, Sha256};
pub use weft_packet::Field;
use weft_packet::MacAddr;

pub use crate::wire_check::WireError;
pub use crate::wire_rule::{MatchRead, field_bytes, field_value};

/// The generated messages; `proto/weft.proto` documents them.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod proto {
    tonic::include_proto!("weft.v1");
}

pub use proto::{Item, Key, Position, item, key};

/// The protocol that this build speaks.
pub const PROTOCOL: u32 = 1;
/// Optional parts of the protocol; nobody is sent what it did not name.
pub const FEATURES: &[&str] = &[FEATURE_DELTA, FEATURE_QUERY];
/// Updates may be changes to the program that the agent has.
pub const FEATURE_DELTA: &str = "delta";
/// The agent answers queries.
pub const FEATURE_QUERY: &str = "query";
/// The longest message of either side, in bytes.
pub const MESSAGE_LEN_MAX: usize = 64 << 20;
/// The most items that a host program may have.
pub const ITEMS_MAX: usize = 1 << 20;

/// Everything that one host is told, by key.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostProgram {
    items: BTreeMap<Key, Item>,
}

/// The changes that lead from one host program to another.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Keys that are no more.
    pub deletes: Vec<Key>,
    /// Items that are new or different.
    pub puts: Vec<Item>,
}

impl HostProgram {
    /// Puts an item; one with the same key is replaced and returned.
    ///
    /// # Panics
    /// When the item has no kind or no key, which only a message from outside can lack; [`Self::from_wire`] refuses it.
    pub fn insert(&mut self, item: impl Into<Item>) -> Option<Item> {
        let item = item.into();
        let key = item.key().unwrap_or_else(|| unreachable!("an item made here has a key: {item:?}"));
        self.items.insert(key, item)
    }

    /// All items, referents before what refers to them.
    pub fn items(&self) -> impl Iterator<Item = (&Key, &Item)> {
        self.items.iter()
    }

    /// The kinds of all items, in the same order.
    pub fn kinds(&self) -> impl Iterator<Item = &item::Kind> {
        self.items.values().filter_map(|i| i.kind.as_ref())
    }

    /// The item of that key.
    pub fn item(&self, key: &Key) -> Option<&Item> {
        self.items.get(key)
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// SHA-256 over the canonical encoding, in hex.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let mut buffer = Vec::new();
        for item in self.items.values() {
            buffer.clear();
            item.encode_length_delimited(&mut buffer).unwrap_or_else(|_| unreachable!("a Vec grows"));
            hash.update(&buffer);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The message.
    pub fn to_wire(&self) -> proto::HostProgram {
        proto::HostProgram { items: self.items.values().cloned().collect() }
    }

    /// Reads the message of another process: everything that can be wrong with an item by itself is refused here.
    pub fn from_wire(message: proto::HostProgram) -> Result<Self, WireError> {
        let mut program = Self::default();
        for item in message.items {
            program.admit(item)?;
        }
        Ok(program)
    }

    /// The changes that lead from `self` to `wanted`.
    pub fn changes_to(&self, wanted: &Self) -> Changes {
        let gone = self.items.keys().filter(|key| !wanted.items.contains_key(key));
        let put = wanted.items.iter().filter(|(key, item)| self.items.get(key) != Some(item));
        Changes { deletes: gone.cloned().collect(), puts: put.map(|(_, item)| item.clone()).collect() }
    }

    /// The program after some changes of another process. A put key that is also deleted is refused: it has no one meaning.
    pub fn patched(&self, changes: Changes) -> Result<Self, WireError> {
        let mut program = self.clone();
        for key in &changes.deletes {
            program.items.remove(key).ok_or_else(|| WireError::Unknown(format!("{key:?}")))?;
        }
        let mut puts = Self::default();
        for item in changes.puts {
            puts.admit(item)?;
        }
        if let Some(key) = changes.deletes.iter().find(|key| puts.items.contains_key(key)) {
            return Err(WireError::Twice(format!("{key:?}")));
        }
        program.items.append(&mut puts.items);
        if program.len() > ITEMS_MAX { Err(WireError::TooMany) } else { Ok(program) }
    }

    fn admit(&mut self, item: Item) -> Result<(), WireError> {
        item.check()?;
        let key = item.key().ok_or(WireError::Empty)?;
        if self.items.len() == ITEMS_MAX {
            return Err(WireError::TooMany);
        }
        match self.items.insert(key, item) {
            None => Ok(()),
            Some(first) => Err(WireError::Twice(format!("{:?}", first.key()))),
        }
    }
}

impl FromIterator<Item> for HostProgram {
    fn from_iter<I: IntoIterator<Item = Item>>(items: I) -> Self {
        let mut program = Self::default();
        for item in items {
            program.insert(item);
        }
        program
    }
}

impl Item {
    /// What makes the item itself; `None` when a part that belongs to the key is missing.
    pub fn key(&self) -> Option<Key> {
        let kind = match self.kind.as_ref()? {
            item::Kind::Segment(s) => key::Kind::Segment(s.id),
            item::Kind::Port(p) => key::Kind::Port(p.name.clone()),
            item::Kind::Remote(r) => key::Kind::Remote(r.name.clone()),
            item::Kind::Flood(f) => key::Kind::Flood(f.id),
            item::Kind::Rule(r) => key::Kind::Rule(r.key.clone()?),
            item::Kind::Fdb(f) => key::Kind::Fdb(f.key.clone()?),
            item::Kind::Neighbor(n) => key::Kind::Neighbor(n.key.clone()?),
            item::Kind::Label(l) => key::Kind::Label(l.key.clone()?),
        };
        Some(Key { kind: Some(kind) })
    }
}

macro_rules! items {
    ($($kind:ident($message:ident);)+) => {$(
        impl From<proto::$message> for Item {
            fn from(message: proto::$message) -> Self {
                Self { kind: Some(item::Kind::$kind(message)) }
            }
        }
    )+};
}

items! {
    Segment(Segment);
    Port(Port);
    Remote(Remote);
    Flood(Flood);
    Rule(Rule);
    Fdb(FdbEntry);
    Neighbor(Neighbor);
    Label(Label);
}

impl proto::Location {
    /// Behind a port of the host.
    pub fn port(name: impl Into<String>) -> Self {
        Self { kind: Some(proto::location::Kind::Port(name.into())) }
    }

    /// Behind another host's VTEP.
    pub fn remote(name: impl Into<String>) -> Self {
        Self { kind: Some(proto::location::Kind::Remote(name.into())) }
    }
}

impl proto::MacKey {
    /// A MAC address in a segment.
    pub fn new(segment: u32, mac: MacAddr) -> Self {
        Self { segment, mac: mac.0.to_vec() }
    }
}

impl proto::AddressKey {
    /// An IP address in a segment.
    pub fn new(segment: u32, ip: IpAddr) -> Self {
        Self { segment, ip: ip_bytes(ip) }
    }
}

/// An IP address on the wire: 4 or 16 octets.
pub fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Inverse of [`ip_bytes`].
pub fn ip_from_bytes(bytes: &[u8]) -> Result<IpAddr, WireError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    <[u8; 16]>::try_from(bytes)
        .map(IpAddr::from)
        .map_err(|_| WireError::Length { what: "IP address", got: bytes.len() })
}

/// Reads a MAC address.
pub fn mac_from_bytes(bytes: &[u8]) -> Result<MacAddr, WireError> {
    <[u8; 6]>::try_from(bytes).map(MacAddr).map_err(|_| WireError::Length { what: "MAC address", got: bytes.len() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_packet::{DropReason, Field};

    use super::*;

    fn an_item() -> impl Strategy<Value = Item> {
        let name = || prop::sample::select(vec!["red/a", "red/b", "blue/a"]);
        prop_oneof![
            (1..5u32, 576..9000u32).prop_map(|(id, mtu)| {
                proto::Segment { id, vni: id, mtu, domain: id, owner: "network red/n".into() }.into()
            }),
            (name(), any::<bool>()).prop_map(|(name, learn)| {
                proto::Port { name: name.into(), segment: 1, mac: vec![2; 6], learn, ..Default::default() }.into()
            }),
            (1..5u32, name()).prop_map(|(id, port)| {
                proto::Flood { id, segment: 1, ports: vec![port.into()], remotes: vec![] }.into()
            }),
            (0..4u32, 1..9u128, any::<bool>()).prop_map(|(table, vni, stay)| {
                let rule = proto::Rule::new(table, 7, "port red/a", 1).on(Field::Vni, vni);
                if stay { rule.apply(proto::Action::drop_as(DropReason::Policy)) } else { rule.goto(table + 1) }.into()
            }),
            (name(), an_action()).prop_map(|(port, action)| {
                proto::Rule::new(3, 1, "network red/n", 1).on_port(port).write_metadata(1).apply(action).goto(9).into()
            }),
            (name(), prop::collection::btree_set(1..9u32, 0..3), 1..9999u32).prop_map(|(name, vnis, udp_port)| {
                let address = ip_bytes([192, 0, 2, 1].into());
                let (vnis, kind) = (vnis.into_iter().collect(), proto::RemoteKind::Weft.into());
                proto::Remote { name: name.into(), address, udp_port, vnis, kind, owner: "host h2".into() }.into()
            }),
            (any::<std::net::Ipv6Addr>(), name(), 1..9u32).prop_map(|(ip, remote, label)| {
                let key = Some(proto::AddressKey::new(1, ip.into()));
                if label > 4 {
                    return proto::Label { key, label, owner: "x".into() }.into();
                }
                let location = Some(proto::Location::remote(remote));
                proto::Neighbor { key, mac: vec![2; 6], location, owner: "x".into() }.into()
            }),
            (1..3u32, 0..4u8, name()).prop_map(|(segment, mac, port)| {
                let key = proto::MacKey::new(segment, MacAddr([2, 0, 0, 0, 0, mac]));
                let location = Some(proto::Location::port(port));
                proto::FdbEntry { key: Some(key), location, owner: "port red/a".into() }.into()
            }),
        ]
    }

    fn an_action() -> impl Strategy<Value = proto::action::Kind> {
        prop::sample::select(vec![
            proto::Action::output("red/a"),
            proto::Action::tunnel("h2", 42),
            proto::Action::flood(84),
            proto::Action::set_field(Field::Reg3, 7),
            proto::Action::drop_as(DropReason::SpoofedMac),
            proto::Action::fdb_or_drop(42),
            proto::Action::fdb_or_flood(42, 85),
            proto::Action::learn(42),
            proto::Action::answer_neighbor(42),
            proto::Action::load_label(42, Field::IpSrc, 7),
            proto::Action::reply_neighbor(MacAddr([2; 6])),
        ])
    }

    fn a_program() -> impl Strategy<Value = HostProgram> {
        prop::collection::vec(an_item(), 0..20).prop_map(HostProgram::from_iter)
    }

    proptest! {
        #[test]
        fn a_program_reads_back_with_the_same_digest(program in a_program()) {
            let bytes = program.to_wire().encode_to_vec();
            let back = HostProgram::from_wire(proto::HostProgram::decode(bytes.as_slice()).unwrap()).unwrap();
            prop_assert_eq!(back.digest(), program.digest());
            prop_assert_eq!(back, program);
        }

        #[test]
        fn changes_lead_from_any_program_to_any_other(a in a_program(), b in a_program()) {
            let changes = a.changes_to(&b);
            let back = a.patched(changes.clone()).unwrap();
            prop_assert_eq!(back.digest(), b.digest());
            prop_assert_eq!(&back, &b);
            prop_assert_eq!(changes == Changes::default(), a == b);
            prop_assert_eq!(a.digest() == b.digest(), a == b);
        }

        #[test]
        fn the_order_of_insertion_does_not_show(items in prop::collection::vec(an_item(), 0..20)) {
            let mut last: BTreeMap<Key, Item> = BTreeMap::new();
            last.extend(items.iter().map(|i| (i.key().unwrap(), i.clone())));
            let reversed: HostProgram = last.into_values().rev().collect();
            prop_assert_eq!(reversed.digest(), HostProgram::from_iter(items).digest());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8192))]

        #[test]
        fn no_bytes_make_the_decoder_panic(
            program in a_program(),
            hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<Option<prop::sample::Index>>(),
        ) {
            let mut bytes = program.to_wire().encode_to_vec();
            if !bytes.is_empty() {
                for (at, value) in hits {
                    let at = at.index(bytes.len());
                    bytes[at] = value;
                }
                let len = cut.map_or(bytes.len(), |at| at.index(bytes.len()));
                bytes.truncate(len);
            }
            if let Ok(message) = proto::HostProgram::decode(bytes.as_slice())
                && let Ok(read) = HostProgram::from_wire(message) {
                let again = HostProgram::from_wire(read.to_wire()).unwrap();
                prop_assert_eq!(again, read);
            }
            let _ = proto::AgentMessage::decode(bytes.as_slice());
            let _ = proto::ControllerMessage::decode(bytes.as_slice());
        }
    }

    #[test]
    fn a_key_twice_or_an_unknown_key_deleted_is_refused() {
        let item: Item = proto::Segment { id: 1, vni: 1, mtu: 1500, domain: 1, owner: String::new() }.into();
        let twice = proto::HostProgram { items: vec![item.clone(), item.clone()] };
        assert!(matches!(HostProgram::from_wire(twice), Err(WireError::Twice(_))));
        let deletes = vec![item.key().unwrap()];
        let gone = HostProgram::default().patched(Changes { deletes: deletes.clone(), puts: vec![] });
        assert!(matches!(gone, Err(WireError::Unknown(_))));
        let program = HostProgram::from_iter([item.clone()]);
        assert!(matches!(program.patched(Changes { deletes, puts: vec![item] }), Err(WireError::Twice(_))));
    }
}
