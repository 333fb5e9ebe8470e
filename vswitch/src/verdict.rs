//! What is done with a frame: the flat result of an evaluation.
//!
//! Lists are expanded and maps looked up when the tables are evaluated, so that a cached verdict is a few steps
//! without any further decision; whatever they depend on ends the verdict when it changes.

use std::sync::Arc;

use weft_packet::{DropReason, Field, MacAddr, Vni};
use weft_program::{PortId, RemoteId};

use crate::classifier::CompiledRule;

/// One step. Steps are done in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Writes a field of the frame; copies sent by later steps have it.
    SetField {
        /// Which; one of [`WRITABLE`].
        field: Field,
        /// The value, right aligned.
        value: u128,
    },
    /// Sends a copy out of a port: live, and not the one the frame came from.
    Output(PortId),
    /// Sends a copy to a remote, which hosts the VNI; never for a frame that came out of a tunnel.
    Tunnel {
        /// The remote VTEP.
        remote: RemoteId,
        /// The VNI.
        vni: Vni,
    },
    /// Answers an ARP request or a neighbour solicitation to where it came from; the frame ends here.
    Reply {
        /// The address that is given.
        mac: MacAddr,
    },
    /// Drops the frame. The only step then.
    Drop {
        /// Why.
        reason: DropReason,
        /// The owner of the rule that said so; empty when none did.
        owner: Arc<str>,
    },
}

/// What is done with a frame. There is at least one step, and the last one sends, answers or drops.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// In order.
    pub steps: Vec<Step>,
    /// The rules passed, in order.
    pub rules: Vec<Arc<CompiledRule>>,
}

/// Fields of the frame that a rule can write.
pub const WRITABLE: &[Field] = &[
    Field::EthDst,
    Field::EthSrc,
    Field::IpTos,
    Field::IpSrc,
    Field::IpDst,
    Field::IpTtl,
    Field::L4Src,
    Field::L4Dst,
    Field::ArpSha,
    Field::ArpTha,
];
