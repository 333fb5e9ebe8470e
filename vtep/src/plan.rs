//! Cuts a guest's super-frame for UDP_SEGMENT: one private header block per segment, and ranges of the shared payload.
//!
//! The kernel cuts what it is sent at every stride, so all blocks of a send but the last are of one length. Nothing is
//! copied but headers, and nothing is allocated once the scratch has grown.

use core::ops::Range;

use weft_packet::segment::Cut;
use weft_packet::vxlan::{HEADER_LEN, VxlanHeader};
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

impl Block {
    /// Bytes of the datagram that the block becomes.
    pub fn datagram_len(&self) -> usize {
        self.header.len() + self.payload.len()
    }
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
    /// [`mtu::fit`](crate::mtu::fit) said so) and groups them into sends of at most `segments_max` segments. Inner
    /// checksums are complete. [`DropReason::OffloadInvalid`] when the frame cannot be cut so,
    /// [`DropReason::Oversize`] when a segment is longer than any datagram.
    pub fn build(&mut self, frame: &Frame, vni: Vni, size: u16, segments_max: usize) -> Result<(), DropReason> {
        debug_assert!(segments_max > 0, "a send carries at least one segment");
        self.headers.clear();
        self.blocks.clear();
        self.sends.clear();
        let cut = Cut::new(frame, size)?;
        let block_len = HEADER_LEN + cut.headers_len();
        let stride = block_len + cut.size().min(frame.len() - cut.headers_len());
        if stride > SEND_LEN_MAX {
            return Err(DropReason::Oversize);
        }
        self.headers.resize(cut.count() * block_len, 0);
        for (index, block) in self.headers.chunks_exact_mut(block_len).enumerate() {
            let (vxlan, inner) = block.split_at_mut(HEADER_LEN);
            VxlanHeader { vni }.emit(vxlan);
            cut.write_headers(frame.bytes(), index, inner);
            let header = index * block_len..(index + 1) * block_len;
            self.blocks.push(Block { header, payload: cut.payload(index) });
        }
        let blocks_per_send = (SEND_LEN_MAX / stride).min(segments_max).max(1);
        let mut first = 0;
        for blocks in self.blocks.chunks(blocks_per_send) {
            let len = blocks.iter().map(Block::datagram_len).sum();
            self.sends.push(Send { blocks: first..first + blocks.len(), stride: stride as u16, len });
            first += blocks.len();
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_packet::FramePool;
    use weft_packet::segment::segment;

    use super::*;
    use crate::testing::{PacketSpec, any_packet, super_frame};

    /// What the kernel puts on the wire for the sends of a plan.
    fn datagrams(plan: &Plan, frame: &Frame) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        for send in plan.sends() {
            let mut bytes = Vec::new();
            for block in &plan.blocks()[send.blocks.clone()] {
                bytes.extend(&plan.headers()[block.header.clone()]);
                bytes.extend(&frame.bytes()[block.payload.clone()]);
            }
            assert_eq!(bytes.len(), send.len);
            datagrams.extend(bytes.chunks(send.stride.into()).map(<[u8]>::to_vec));
        }
        datagrams
    }

    #[test]
    fn a_full_super_frame_takes_two_sends() {
        let mut packet = PacketSpec::tcp_v4(&[7; 65_495]);
        packet.flags = 0x18;
        let frame = super_frame(&packet, 1400);
        let mut plan = Plan::default();
        plan.build(&frame, Vni::new(42).unwrap(), 1400, SEGMENTS_MAX).unwrap();
        let lens: Vec<_> = plan.sends().iter().map(|s| (s.blocks.clone(), s.stride, s.len)).collect();
        assert_eq!(lens, [(0..44, 1462, 64_328), (44..47, 1462, 62 * 3 + 65_495 - 44 * 1400)]);
        assert_eq!(plan.headers()[..8], [8, 0, 0, 0, 0, 0, 42, 0]);
    }

    #[test]
    fn a_plan_that_failed_sends_nothing() {
        let frame = super_frame(&PacketSpec::udp_v4(&[7; 3000]), 1000);
        let mut plan = Plan::default();
        plan.build(&frame, Vni::new(42).unwrap(), 1000, 2).unwrap();
        assert_eq!(plan.sends().len(), 2);
        assert_eq!(plan.build(&frame, Vni::new(42).unwrap(), 900, 2), Err(DropReason::OffloadInvalid));
        assert!(plan.sends().is_empty() && plan.blocks().is_empty());
    }

    proptest! {
        #[test]
        fn the_datagrams_are_the_software_segments_behind_a_vxlan_header(packet in any_packet(400), gso_size in 1u16..300, size in 1u16..300, segments_max in 1usize..20) {
            let size = if packet.tcp { size.min(gso_size) } else { gso_size };
            let frame = super_frame(&packet, gso_size);
            let mut plan = Plan::default();
            plan.build(&frame, Vni::new(0x12_3456).unwrap(), size, segments_max).unwrap();
            prop_assert!(plan.sends().iter().all(|s| s.blocks.len() <= segments_max && s.len <= SEND_LEN_MAX));
            let (mut pool, mut segments) = (FramePool::new(400), Vec::new());
            segment(&frame, size, &mut pool, &mut segments).unwrap();
            let expected: Vec<_> = segments.iter().map(|s| [&[8, 0, 0, 0, 0x12, 0x34, 0x56, 0], s.bytes()].concat()).collect();
            prop_assert_eq!(datagrams(&plan, &frame), expected);
        }
    }
}
