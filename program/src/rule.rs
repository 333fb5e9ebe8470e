//! Rules: OpenFlow 1.3's matches and instructions (OpenFlow Switch Specification 1.3.5, sections 5.3 and 5.9), where it has them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_packet::{DropReason, Field, FlowKey, FlowMask, MacAddr, Vni};

use crate::{DomainId, FloodId, PortId, RemoteId, SegmentId, TableId};

/// Bits to compare: a frame matches when its key has the value's bits wherever the mask is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Match {
    /// The wanted bits; zero outside the mask.
    pub value: FlowKey,
    /// Which bits count.
    pub mask: FlowMask,
}

impl Match {
    /// Matches every frame.
    pub const ANY: Self = Self { value: FlowKey::ZERO, mask: FlowKey::ZERO };

    /// Narrows the match to one value of a whole field.
    #[must_use]
    pub const fn with(self, field: Field, value: u128) -> Self {
        self.with_masked(field, value, field.all_ones())
    }

    /// Narrows the match to some bits of a field.
    #[must_use]
    pub const fn with_masked(self, field: Field, value: u128, mask: u128) -> Self {
        Self { value: self.value.with(field, value & mask), mask: self.mask.with(field, mask) }
    }

    /// Whether the key has the wanted bits.
    pub fn covers(&self, key: &FlowKey) -> bool {
        self.value.matches(&self.mask, key)
    }
}

/// What makes a rule itself: a second rule with the same key replaces the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleKey {
    /// The table it is in.
    pub table: TableId,
    /// The highest wins; between equal ones that both match, which one wins is not stated.
    pub priority: u16,
    /// What it matches.
    pub matches: Match,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Table, priority, match.
    pub key: RuleKey,
    /// Done in order.
    pub instructions: Vec<Instruction>,
    /// The API object and rule line behind it.
    pub owner: Arc<str>,
    /// Whose cached results a change of this rule ends: it matches only frames that entered by a port or with a VNI of
    /// this domain's segments. A rule that others can match too, such as a table's default, says 0.
    pub domain: DomainId,
}

/// What a matching rule does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instruction {
    /// Does the actions, now and in order.
    Apply(Vec<Action>),
    /// Sets the bits of the metadata where the mask is one.
    WriteMetadata {
        /// The bits.
        value: u64,
        /// Which bits.
        mask: u64,
    },
    /// Goes on in a later table. Without it the evaluation ends here.
    Goto(TableId),
}

/// What is done to a frame. A frame whose evaluation ends without output, reply or drop is dropped as `Policy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Sends a copy, as it is now, out of a port; never out of the one it came from.
    Output(PortId),
    /// Sends a copy to a remote in VXLAN; never when it came out of a tunnel.
    Tunnel {
        /// The remote VTEP.
        remote: RemoteId,
        /// The VNI.
        vni: Vni,
    },
    /// Sends a copy to everybody on the list except where it came from; to remotes only when it came from a port.
    Flood(FloodId),
    /// Writes a field of the frame, or a register or the metadata.
    SetField {
        /// Which.
        field: Field,
        /// The value, right aligned.
        value: u128,
    },
    /// Ends the evaluation; the frame is dropped, with this reason, unless it was sent before.
    Drop(DropReason),
    /// Sends to where the destination MAC lives, by the `fdb` map, and ends the evaluation.
    Fdb {
        /// In which segment.
        segment: SegmentId,
        /// When the map has no such entry.
        miss: Miss,
    },
    /// Learns the source MAC at the port or remote it came from; only where that is declared `learn`.
    Learn {
        /// In which segment.
        segment: SegmentId,
    },
    /// Answers an ARP request or a neighbour solicitation from the `neighbor` map and ends the evaluation; does nothing
    /// when the map has no entry for the target, when the entry is of the asking port itself (its duplicate address
    /// detection must not be answered), or when the frame asks nothing.
    AnswerNeighbor {
        /// In which segment.
        segment: SegmentId,
    },
    /// Sets a register to the label of an address field, zero when the `label` map has none.
    LoadLabel {
        /// In which segment.
        segment: SegmentId,
        /// `ip_src` or `ip_dst`.
        field: Field,
        /// Which register gets the label.
        register: u8,
    },
    /// Sends an ARP or ND reply in the name of `mac` back to where the frame came from, and ends the evaluation.
    ReplyNeighbor {
        /// Whose address is given.
        mac: MacAddr,
    },
}

/// What becomes of a frame to a MAC address that the `fdb` map does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Miss {
    /// Dropped as `UnknownUnicast`: all locations are known.
    Drop,
    /// Flooded to these (the learning members of the segment).
    Flood(FloodId),
}
