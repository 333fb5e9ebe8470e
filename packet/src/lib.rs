//! Headers, addresses, checksums, frames with their offload state, flow keys and drop reasons.
//!
//! A leaf: it knows bytes and nothing of ports, tables or tenants. Every `parse` takes any bytes and never panics.

pub mod addr;
pub mod checksum;
pub mod drop_reason;
pub mod ethernet;
pub mod frame;
pub mod key;

pub use addr::{MacAddr, Vni};
pub use checksum::Sum;
pub use drop_reason::DropReason;
pub use frame::{Csum, Frame, FramePool, Gso, GsoKind, Offload};
pub use key::{Field, FlowKey, FlowMask};
