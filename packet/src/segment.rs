//! Cutting a TCP or UDP super-frame into the frames that it stands for, checksums complete.
//!
//! [`Cut`] does the arithmetic and writes one segment's headers anywhere, so that a port without offloads (which
//! copies the payload too, see [`segment`]) and a tunnel (which does not) share it. TCP may be cut smaller than the
//! guest asked for, never larger; a UDP super-frame's segments are datagrams, whose size is not ours to choose.

use core::ops::Range;

use crate::checksum::Sum;
use crate::frame::{Csum, Frame, FramePool, Gso, GsoKind};
use crate::ipv4::PROTOCOL_TCP;
use crate::layout::Layout;
use crate::{DropReason, Offload, tcp, udp};

/// Segments that one super-frame may stand for: a guest must not turn one write into 65,000 packets.
pub const SEGMENTS_MAX: usize = 2048;

const FLAG_FIN: u8 = 0x01;
const FLAG_PSH: u8 = 0x08;
const FLAG_CWR: u8 = 0x80;

/// How one super-frame is cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    layout: Layout,
    payload: usize,
    size: usize,
    count: usize,
}

impl Cut {
    /// The cut of a super-frame into segments with at most `size` bytes of L4 payload.
    /// [`DropReason::OffloadInvalid`] when it is no super-frame, not what its offload state says, cannot be cut so, or
    /// makes more than [`SEGMENTS_MAX`].
    pub fn new(frame: &Frame, size: u16) -> Result<Self, DropReason> {
        let gso = frame.offload.gso.ok_or(DropReason::OffloadInvalid)?;
        let size = size.min(gso.size);
        if gso.kind == GsoKind::Udp && size != gso.size {
            return Err(DropReason::OffloadInvalid);
        }
        Self::of(frame.bytes(), Gso { size, ..gso }).ok_or(DropReason::OffloadInvalid)
    }

    /// The cut of a super-frame that is given by its bytes; `None` when they are no such thing.
    pub(crate) fn of(bytes: &[u8], gso: Gso) -> Option<Self> {
        let layout = Layout::of(bytes)?;
        let payload = layout.payload(bytes)?;
        let same_kind = match gso.kind {
            GsoKind::TcpV4 => layout.is_tcp() && !layout.v6,
            GsoKind::TcpV6 => layout.is_tcp() && layout.v6,
            GsoKind::Udp => layout.is_udp(),
        };
        if !same_kind || gso.size == 0 || layout.end != bytes.len() {
            return None;
        }
        let size = usize::from(gso.size);
        let count = (layout.end - payload).div_ceil(size).max(1);
        (count <= SEGMENTS_MAX).then_some(Self { layout, payload, size, count })
    }

    /// How many segments.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all headers, from Ethernet through L4: the same in each segment.
    pub fn headers_len(&self) -> usize {
        self.payload
    }

    /// L4 payload bytes of each segment but the last.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The payload of a segment, in the super-frame.
    pub fn payload(&self, index: usize) -> Range<usize> {
        let start = self.payload + index * self.size;
        start..(start + self.size).min(self.layout.end)
    }

    /// Writes the headers of segment `index` of the super-frame `bytes` to `out`, checksums complete.
    ///
    /// # Panics
    /// When `out` is not [`Self::headers_len`] long, or there is no such segment: the caller's bug.
    pub fn write_headers(&self, bytes: &[u8], index: usize, out: &mut [u8]) {
        assert!(index < self.count, "segment {index} of {}", self.count);
        let (l3, l4) = (self.layout.l3, self.layout.l4);
        let payload = self.payload(index);
        out.copy_from_slice(&bytes[..self.payload]);
        let ip_len = self.payload - l3 + payload.len();
        if self.layout.v6 {
            put(out, l3 + 4, (ip_len - 40) as u16);
        } else {
            let ip_id = u16::from_be_bytes([out[l3 + 4], out[l3 + 5]]);
            put(out, l3 + 2, ip_len as u16);
            put(out, l3 + 4, ip_id.wrapping_add(index as u16));
            put(out, l3 + 10, 0);
            let check = Sum::of(&out[l3..l4]).finish();
            put(out, l3 + 10, check);
        }
        let l4_len = self.payload - l4 + payload.len();
        let check_at = if self.layout.protocol == PROTOCOL_TCP {
            self.write_tcp(index, out);
            l4 + tcp::CHECKSUM_OFFSET
        } else {
            put(out, l4 + 4, l4_len as u16);
            l4 + udp::CHECKSUM_OFFSET
        };
        put(out, check_at, 0);
        let sum = self.layout.pseudo(out, l4_len) + Sum::of(&out[l4..]) + Sum::of(&bytes[payload]);
        let check = match sum.finish() {
            0 if self.layout.protocol != PROTOCOL_TCP => 0xffff,
            check => check,
        };
        put(out, check_at, check);
    }

    fn write_tcp(&self, index: usize, out: &mut [u8]) {
        let l4 = self.layout.l4;
        let seq = u32::from_be_bytes([out[l4 + 4], out[l4 + 5], out[l4 + 6], out[l4 + 7]]);
        let seq = seq.wrapping_add((index * self.size) as u32);
        out[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
        if index + 1 != self.count {
            out[l4 + 13] &= !(FLAG_FIN | FLAG_PSH);
        }
        if index != 0 {
            out[l4 + 13] &= !FLAG_CWR;
        }
    }
}

fn put(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Appends to `out` the segments of a super-frame, in buffers of `pool`, and says how many there are (the ledger's
/// `split` is one less). The super-frame stays with the caller. All or nothing: [`DropReason::NoBuffer`] when the pool
/// has too few buffers, else what [`Cut::new`] says.
pub fn segment(frame: &Frame, size: u16, pool: &mut FramePool, out: &mut Vec<Frame>) -> Result<usize, DropReason> {
    let cut = Cut::new(frame, size)?;
    let first = out.len();
    for index in 0..cut.count() {
        let Some(mut segment) = pool.take() else {
            out.drain(first..).for_each(|frame| pool.give(frame));
            return Err(DropReason::NoBuffer);
        };
        let payload = &frame.bytes()[cut.payload(index)];
        segment.set_len(cut.headers_len() + payload.len());
        let (headers, rest) = segment.bytes_mut().split_at_mut(cut.headers_len());
        cut.write_headers(frame.bytes(), index, headers);
        rest.copy_from_slice(payload);
        segment.offload = Offload { csum: Csum::Verified, gso: None };
        out.push(segment);
    }
    Ok(cut.count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{PacketSpec, any_packet, super_frame};

    /// The twin: builds each segment as a packet of its own.
    fn slow(whole: &PacketSpec, size: usize) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = whole.payload.chunks(size).collect();
        let last = chunks.len() - 1;
        let segments = chunks.iter().enumerate().map(|(index, chunk)| {
            let mut packet = whole.clone();
            packet.payload = chunk.to_vec();
            packet.ip_id = whole.ip_id.wrapping_add(index as u16);
            packet.seq = whole.seq.wrapping_add((index * size) as u32);
            for (flag, kept) in [(FLAG_FIN, index == last), (FLAG_PSH, index == last), (FLAG_CWR, index == 0)] {
                if !kept {
                    packet.flags &= !flag;
                }
            }
            packet.build()
        });
        segments.collect()
    }

    #[test]
    fn the_longest_super_frame_is_cut() {
        let mut packet = PacketSpec::udp_v4(&[7; 65_495]);
        packet.tcp = true;
        let frame = super_frame(&packet, 1448);
        let mut pool = FramePool::new(64);
        let mut out = Vec::new();
        assert_eq!(segment(&frame, 1448, &mut pool, &mut out), Ok(46));
        let bytes: Vec<_> = out.iter().map(|f| f.bytes().to_vec()).collect();
        assert_eq!(bytes, slow(&packet, 1448));
    }

    #[test]
    fn too_few_buffers_leave_none_in_use() {
        let frame = super_frame(&PacketSpec::udp_v4(&[7; 100]), 10);
        let mut pool = FramePool::new(9);
        let mut out = Vec::new();
        assert_eq!(segment(&frame, 10, &mut pool, &mut out), Err(DropReason::NoBuffer));
        assert_eq!((out.len(), pool.in_use()), (0, 0));
    }

    #[test]
    fn what_is_no_such_super_frame_is_refused() {
        let udp = PacketSpec::udp_v4(&[7; 5000]);
        let mut frame = super_frame(&udp, 1000);
        assert_eq!(Cut::new(&frame, 999).unwrap_err(), DropReason::OffloadInvalid, "UDP is not cut smaller");
        let gso = frame.offload.gso.unwrap();
        for wrong in [
            None,
            Some(Gso { kind: GsoKind::TcpV4, ..gso }),
            Some(Gso { size: 0, ..gso }),
            Some(Gso { size: 2, ..gso }),
        ] {
            frame.offload.gso = wrong;
            assert_eq!(Cut::new(&frame, 1000).unwrap_err(), DropReason::OffloadInvalid, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn the_segments_are_the_packets_of_the_slow_twin(packet in any_packet(), gso_size in 1u16..250, size in 1u16..250) {
            prop_assume!(!packet.payload.is_empty());
            let size = if packet.tcp { size.min(gso_size) } else { gso_size };
            let frame = super_frame(&packet, gso_size);
            let mut pool = FramePool::new(256);
            let mut out = Vec::new();
            let count = segment(&frame, size, &mut pool, &mut out).unwrap();
            let expected = slow(&packet, size.into());
            prop_assert_eq!(count, expected.len());
            for (frame, expected) in out.iter().zip(&expected) {
                prop_assert_eq!(frame.bytes(), &expected[..]);
                prop_assert_eq!(frame.offload, Offload { csum: Csum::Verified, gso: None });
            }
        }
    }
}
