//! The packets of probes, each an Ethernet frame of the EtherType for local experiments (IEEE 802, 0x88b5).
//!
//! Layout behind the Ethernet header: magic (4), version (1), kind (1), index (1), count (1), grade (1), zero (1),
//! length of the whole frame (2), nonce (8), intact (8), hash (8), then a pattern that follows from nonce and index.
//! The hash covers every byte of the frame but itself. A probe of tunnel GSO is these frames one behind the other, as
//! the payload of one TCP super-frame: whoever cuts it cuts it between them.

use std::net::Ipv4Addr;

use weft_packet::ethernet::{ETHERTYPE_IPV4, EthernetHeader};
use weft_packet::ipv4::{self, Ipv4Header, PROTOCOL_TCP};
use weft_packet::offload::{Verdict, verify};
use weft_packet::tcp::{self, TcpHeader};
use weft_packet::{Csum, Gso, GsoKind, Layout, MacAddr, Offload};

use crate::decap::classify;

/// How a row of frames is handed to the kernel, which cuts it or carries it whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// VXLAN packets in one UDP_SEGMENT send.
    Segment,
    /// One VXLAN packet with a TCP super-frame in it (tunnel GSO).
    Tunnel,
}

impl Grade {
    /// All, the better ones last.
    pub const ALL: [Self; 2] = [Self::Segment, Self::Tunnel];
}

/// A parsed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// What it is for.
    pub kind: Kind,
    /// What is being probed.
    pub grade: Grade,
    /// Of a segment: its place in the row.
    pub index: u8,
    /// Of a segment: how many there are, at most 64.
    pub count: u8,
    /// Names the probe.
    pub nonce: u64,
    /// Of an answer: a bit for each segment that arrived intact.
    pub intact: u64,
}

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of the packets that are to arrive.
    Segment,
    /// Which arrived?
    Question,
    /// These did.
    Answer,
}

/// Why bytes are no intact packet of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Too short for the fields.
    #[error("probe: {0} bytes, the fields take {LEN_MIN}")]
    Truncated(usize),
    /// Something else, or of another version.
    #[error("probe: another protocol or version")]
    Unknown,
    /// The hash does not fit, so some bytes changed.
    #[error("probe: changed on its way")]
    Corrupt,
    /// Fields that contradict one another.
    #[error("probe: segment {index} of {count}")]
    Fields {
        /// The place.
        index: u8,
        /// The number.
        count: u8,
    },
}

impl Probe {
    /// No segment of nothing.
    pub const EMPTY: Self =
        Self { kind: Kind::Question, grade: Grade::Segment, index: 0, count: 0, nonce: 0, intact: 0 };

    /// Checks all of it.
    pub fn parse(frame: &[u8]) -> Result<Self, ProbeError> {
        let truncated = ProbeError::Truncated(frame.len());
        let (fields, _) = frame.split_at_checked(LEN_MIN).ok_or(truncated)?;
        let fields: &[u8; FIELDS_LEN] = fields.last_chunk().ok_or(truncated)?;
        let [m0, m1, m2, m3, version, kind, index, count, grade, _, _, _, numbers @ ..] = *fields;
        let [nonce, intact, stated] = [0, 8, 16].map(|at| number(&numbers, at));
        let kind = match kind {
            1 => Kind::Segment,
            2 => Kind::Question,
            3 => Kind::Answer,
            _ => return Err(ProbeError::Unknown),
        };
        let grade = match grade {
            1 => Grade::Segment,
            2 => Grade::Tunnel,
            _ => return Err(ProbeError::Unknown),
        };
        if [m0, m1, m2, m3] != MAGIC || version != VERSION || frame[12..14] != ETHERTYPE.to_be_bytes() {
            return Err(ProbeError::Unknown);
        }
        if hash(frame) != stated {
            return Err(ProbeError::Corrupt);
        }
        if kind == Kind::Segment && (index >= count || count > COUNT_MAX) {
            return Err(ProbeError::Fields { index, count });
        }
        Ok(Self { kind, grade, index, count, nonce, intact })
    }

    /// The frame, of `len` bytes or [`LEN_MIN`] if that is more.
    pub fn emit(&self, len: usize) -> Vec<u8> {
        let mut frame = vec![0; len.max(LEN_MIN)];
        EthernetHeader { dst: NOBODY, src: NOBODY, ethertype: ETHERTYPE }.emit(&mut frame);
        let kind = match self.kind {
            Kind::Segment => 1,
            Kind::Question => 2,
            Kind::Answer => 3,
        };
        frame[14..18].copy_from_slice(&MAGIC);
        let grade = match self.grade {
            Grade::Segment => 1,
            Grade::Tunnel => 2,
        };
        let [high, low] = (frame.len() as u16).to_be_bytes();
        frame[18..LEN_AT + 2].copy_from_slice(&[VERSION, kind, self.index, self.count, grade, 0, high, low]);
        frame[26..34].copy_from_slice(&self.nonce.to_be_bytes());
        frame[34..42].copy_from_slice(&self.intact.to_be_bytes());
        let mut pattern = self.nonce ^ u64::from(self.index) | 1;
        for bytes in frame[LEN_MIN..].chunks_mut(8) {
            pattern = pattern.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            bytes.copy_from_slice(&pattern.to_be_bytes()[..bytes.len()]);
        }
        let hash = hash(&frame);
        frame[HASH_AT..LEN_MIN].copy_from_slice(&hash.to_be_bytes());
        frame
    }
}

/// What is in a frame of the probe VNI: one packet, or those in a TCP segment or super-frame whose checksum is right, or
/// is to be filled in by whoever receives it last.
pub fn packets(frame: &[u8]) -> impl Iterator<Item = Result<Probe, ProbeError>> {
    let mut rest = tcp_payload(frame).unwrap_or(Some(frame));
    std::iter::from_fn(move || {
        let bytes = rest.take()?;
        let stated = bytes.get(LEN_AT..LEN_AT + 2).map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
        let (packet, more) = bytes.split_at_checked(stated.max(LEN_MIN)).unwrap_or((bytes, &[]));
        let parsed = Probe::parse(packet);
        // Where a broken one ends, nobody knows.
        rest = Some(more).filter(|more| parsed.is_ok() && !more.is_empty());
        Some(parsed)
    })
}

/// `None` when the frame is no IPv4; `Some(None)` when it is, and nothing in it can be believed.
fn tcp_payload(frame: &[u8]) -> Option<Option<&[u8]>> {
    if frame.get(12..14)? != ETHERTYPE_IPV4.to_be_bytes() {
        return None;
    }
    let layout = Layout::of(frame).filter(Layout::is_tcp);
    let checked = layout.filter(|layout| {
        let (offload, _) = classify(frame, MTU_ANY, None);
        matches!(offload.csum, Csum::Partial { .. }) || verify(frame, layout) == Verdict::Good
    });
    Some(checked.and_then(|layout| Some(&frame[layout.payload(frame)?..layout.end])))
}

/// One TCP super-frame with `packets` as its payload; all but the last are as long as the first.
pub fn super_frame(packets: &[Vec<u8>]) -> (Vec<u8>, Offload) {
    let payload_len: usize = packets.iter().map(Vec::len).sum();
    let mut frame = vec![0; TCP_HEADERS_LEN];
    EthernetHeader { dst: NOBODY, src: NOBODY, ethertype: ETHERTYPE_IPV4 }.emit(&mut frame);
    let (src, dst) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let ip = Ipv4Header {
        tos: 0,
        payload_len: (tcp::HEADER_LEN + payload_len) as u16,
        identification: 1,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: PROTOCOL_TCP,
        src,
        dst,
    };
    ip.emit(&mut frame[14..]);
    let l4 = 14 + ipv4::HEADER_LEN;
    let (sequence, acknowledgment, flags) = (1, 1, tcp::FLAG_ACK);
    let tcp = TcpHeader { src: 1, dst: 1, sequence, acknowledgment, flags, window: 1, checksum: 0, urgent: 0 };
    tcp.emit(&mut frame[l4..]);
    packets.iter().for_each(|packet| frame.extend(packet));
    let pseudo = Layout::of(&frame).map_or(0, |layout| layout.pseudo(&frame, frame.len() - l4).fold());
    frame[l4 + tcp::CHECKSUM_OFFSET..l4 + tcp::CHECKSUM_OFFSET + 2].copy_from_slice(&pseudo.to_be_bytes());
    let size = packets.first().map_or(1, Vec::len) as u16;
    let csum = Csum::Partial { start: l4 as u16, offset: tcp::CHECKSUM_OFFSET as u16 };
    (frame, Offload { csum, gso: Some(Gso { kind: GsoKind::TcpV4, size, ecn: false }) })
}

fn number(bytes: &[u8; 24], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// FNV-1a over the whole frame, the length first, as if the hash were not there.
fn hash(frame: &[u8]) -> u64 {
    let bytes = frame[..HASH_AT].iter().chain(&frame[LEN_MIN..]);
    let start = 0xcbf2_9ce4_8422_2325 ^ frame.len() as u64;
    bytes.fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Locally administered, and of no guest: a probe is never bridged.
const NOBODY: MacAddr = MacAddr([0x02, b'w', b'e', b'f', b't', 0]);
const ETHERTYPE: u16 = 0x88b5;
const MAGIC: [u8; 4] = *b"WFTP";
const VERSION: u8 = 2;
/// Segments of one probe.
const COUNT_MAX: u8 = 64;
const FIELDS_LEN: usize = 36;
const LEN_AT: usize = 24;
/// Whether a checksum is partial does not depend on it.
const MTU_ANY: u16 = 1500;
const HASH_AT: usize = LEN_MIN - 8;
/// The shortest packet: no pattern.
pub const LEN_MIN: usize = 14 + FIELDS_LEN;
/// Headers in front of the payload of [`super_frame`].
pub const TCP_HEADERS_LEN: usize = 14 + ipv4::HEADER_LEN + tcp::HEADER_LEN;

#[cfg(test)]
mod tests {
    use weft_packet::FramePool;
    use weft_packet::segment::segment;

    use super::*;

    const PROBE: Probe =
        Probe { index: 3, count: 9, nonce: 0x0123_4567_89ab_cdef, kind: Kind::Segment, ..Probe::EMPTY };

    #[test]
    fn what_is_emitted_is_parsed() {
        for (kind, len) in [(Kind::Segment, 1514), (Kind::Question, 0), (Kind::Answer, 51)] {
            let probe = Probe { kind, intact: 5, ..PROBE };
            assert_eq!(Probe::parse(&probe.emit(len)), Ok(probe));
        }
    }

    #[test]
    fn no_single_bit_changes_unseen_and_no_byte_is_missing_unseen() {
        let frame = PROBE.emit(300);
        for bit in 0..frame.len() * 8 {
            let mut broken = frame.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(Probe::parse(&broken).is_err(), "bit {bit}");
        }
        for len in 0..frame.len() {
            assert!(Probe::parse(&frame[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_super_frame_is_read_whole_and_in_segments_and_a_wrong_checksum_spoils_it() {
        let sent: Vec<_> = (0..4).map(|index| Probe { index, count: 4, grade: Grade::Tunnel, ..PROBE }).collect();
        let row: Vec<_> = sent.iter().map(|probe| probe.emit(if probe.index == 3 { 200 } else { 700 })).collect();
        let (bytes, offload) = super_frame(&row);
        let read = |frame: &[u8]| packets(frame).collect::<Result<Vec<_>, _>>();
        assert_eq!(read(&bytes), Ok(sent.clone()));
        let mut pool = FramePool::new(8);
        let mut frame = pool.take().unwrap();
        frame.fill(&bytes);
        frame.offload = offload;
        let mut segments = Vec::new();
        segment(&frame, 700, &mut pool, &mut segments).unwrap();
        assert_eq!(segments.len(), 4);
        for (mut segment, probe) in segments.into_iter().zip(sent) {
            assert_eq!(read(segment.bytes()), Ok(vec![probe]));
            segment.bytes_mut()[50] ^= 1;
            assert_eq!(read(segment.bytes()), Ok(vec![]), "it would not pass a guest's own check either");
        }
        let mut broken = bytes.clone();
        broken[TCP_HEADERS_LEN + 700 + 300] ^= 1;
        let got: Vec<_> = packets(&broken).collect();
        assert_eq!((got.len(), got[1]), (2, Err(ProbeError::Corrupt)));
    }

    #[test]
    fn an_index_beyond_the_count_is_refused() {
        for (index, count) in [(9, 9), (0, 0), (3, 65)] {
            let frame = Probe { index, count, ..PROBE }.emit(100);
            assert_eq!(Probe::parse(&frame), Err(ProbeError::Fields { index, count }));
        }
    }
}
