//! Cuts a guest's super-frame for UDP_SEGMENT: one private header block per segment, and ranges of the shared payload.
//!
//! The kernel then cuts the datagram at every stride, so all blocks but the last of a send are of one length. Nothing
//! is copied but headers, and nothing is allocated once the scratch has grown.

use std::ops::Range;

use weft_packet::{DropReason, Frame, Vni};

/// Segments that one send may carry (the kernel's UDP_MAX_SEGMENTS since 6.9).
pub const SEGMENTS_MAX: usize = 128;
/// Segments on kernels before that.
pub const SEGMENTS_MAX_OLD: usize = 64;
/// Bytes that one send may carry.
pub const SEND_LEN_MAX: usize = 65_507;

/// One segment: a range of [`Plan::headers`], then a range of the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// VXLAN header and inner headers, in [`Plan::headers`].
    pub header: Range<usize>,
    /// The payload, in the frame's bytes.
    pub payload: Range<usize>,
}

/// One `sendmsg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// Its blocks, in [`Plan::blocks`].
    pub blocks: Range<usize>,
    /// The UDP_SEGMENT value; not needed when there is one block only.
    pub stride: u16,
    /// Bytes in all.
    pub len: usize,
}

/// The scratch of one worker; each [`Self::build`] replaces what was there.
#[derive(Debug, Default)]
pub struct Plan {
    headers: Vec<u8>,
    blocks: Vec<Block>,
    sends: Vec<Send>,
}

impl Plan {
    /// Cuts `frame` (with `gso`) into segments of at most `size` payload bytes (`gso.size`, or less for TCP when
    /// [`mtu::fit`](crate::mtu::fit) said so) and groups them into sends of at most `segments_max` segments.
    pub fn build(&mut self, frame: &Frame, vni: Vni, size: u16, segments_max: usize) -> Result<(), DropReason> {
        let _ = (frame, vni, size, segments_max);
        self.headers.clear();
        self.blocks.clear();
        self.sends.clear();
        Err(DropReason::OffloadInvalid)
    }

    /// The header blocks, one after the other.
    pub fn headers(&self) -> &[u8] {
        &self.headers
    }

    /// All segments.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The sends, in order.
    pub fn sends(&self) -> &[Send] {
        &self.sends
    }
}
