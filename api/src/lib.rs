//! North and south contract: intent objects, host program, protobuf, OpenAPI

mod wire_check;
mod wire_rule;

pub mod wire;

pub mod object;
pub mod report;

pub use weft_packet::addr::{InvalidMac, InvalidVni};
pub use weft_packet::{DropReason, MacAddr, Vni};
