//! The vswitch's contract: what an agent can tell it and ask it.
//!
//! Ports, segments, rules and maps; no tenants. Everything has a key, so a change is a list of put and delete
//! operations, and the same list type serves a one-rule change and a whole program.

pub mod client;
pub mod codec;
pub mod connection;
pub mod item;
pub mod message;
pub mod program;
pub mod rule;

pub use client::{Client, ClientError, Inventory};
pub use connection::{Connection, ConnectionError};
pub use item::{
    Fdb, FdbKey, Flood, FloodTargets, Label, LabelKey, Location, Neighbor, NeighborKey, PortConfig, Remote, RemoteKind,
    Segment,
};
pub use program::{Bundle, BundleError, Op, Position, Program};
pub use rule::{Action, Instruction, Match, Miss, Rule, RuleKey};

pub use weft_packet::{DropReason, Field, MacAddr, Vni};

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[doc = $doc:literal])+ $name:ident($inner:ty), $text:literal;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!($text, "{}"), self.0)
            }
        }
    )+};
}

ids! {
    /// A port of the vswitch, never zero: zero is "not from a port" in the flow key.
    PortId(u32), "port ";
    /// Another host's VTEP, never zero: zero is "not from a tunnel" in the flow key.
    RemoteId(u32), "remote ";
    /// A list of ports and remotes to copy a frame to.
    FloodId(u32), "flood list ";
    /// A network as the data plane sees it.
    SegmentId(u32), "segment ";
    /// A table of rules; evaluation starts at 0 and only goes up.
    TableId(u8), "table ";
    /// A connected component of segments; cached results are valid per domain. 0 stands for all domains.
    DomainId(u32), "domain ";
}
