//! Headers, addresses, checksums, frames with their offload state, flow keys and drop reasons.
//!
//! A leaf: it knows bytes and nothing of ports, tables or tenants. Every `parse` takes any bytes and never panics.

pub mod addr;
pub mod arp;
pub mod checksum;
pub mod drop_reason;
pub mod ethernet;
pub mod fragment;
pub mod frame;
pub mod icmpv4;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod key;
pub mod layout;
pub mod nd;
pub mod offload;
pub mod parse;
pub mod reply;
pub mod segment;
pub mod tcp;
pub mod udp;
pub mod vlan;
pub mod vnet;
pub mod vxlan;

#[cfg(test)]
mod testing;

pub use addr::{MacAddr, Vni};
pub use checksum::Sum;
pub use drop_reason::DropReason;
pub use frame::{Csum, Frame, FramePool, Gso, GsoKind, Offload};
pub use key::{Field, FlowKey, FlowMask};
pub use layout::Layout;
pub use parse::{Ingress, Parsed, flow_hash, parse, parse_into};
