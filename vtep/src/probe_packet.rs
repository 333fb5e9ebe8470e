//! The packets of probes, each an Ethernet frame of the EtherType for local experiments (IEEE 802, 0x88b5).
//!
//! Layout behind the Ethernet header: magic (4), version (1), kind (1), index (1), count (1), nonce (8), intact (8),
//! hash (8), then a pattern that follows from nonce and index. The hash covers every byte of the frame but itself.

use weft_packet::MacAddr;
use weft_packet::ethernet::EthernetHeader;

/// A parsed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// What it is for.
    pub kind: Kind,
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
    pub const EMPTY: Self = Self { kind: Kind::Question, index: 0, count: 0, nonce: 0, intact: 0 };

    /// Checks all of it.
    pub fn parse(frame: &[u8]) -> Result<Self, ProbeError> {
        let truncated = ProbeError::Truncated(frame.len());
        let (fields, _) = frame.split_at_checked(LEN_MIN).ok_or(truncated)?;
        let fields: &[u8; FIELDS_LEN] = fields.last_chunk().ok_or(truncated)?;
        let [m0, m1, m2, m3, version, kind, index, count, numbers @ ..] = *fields;
        let [nonce, intact, stated] = [0, 8, 16].map(|at| number(&numbers, at));
        let kind = match kind {
            1 => Kind::Segment,
            2 => Kind::Question,
            3 => Kind::Answer,
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
        Ok(Self { kind, index, count, nonce, intact })
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
        frame[18..22].copy_from_slice(&[VERSION, kind, self.index, self.count]);
        frame[22..30].copy_from_slice(&self.nonce.to_be_bytes());
        frame[30..38].copy_from_slice(&self.intact.to_be_bytes());
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
const VERSION: u8 = 1;
/// Segments of one probe.
const COUNT_MAX: u8 = 64;
const FIELDS_LEN: usize = 32;
const HASH_AT: usize = LEN_MIN - 8;
/// The shortest packet: no pattern.
pub const LEN_MIN: usize = 14 + FIELDS_LEN;

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Probe = Probe { kind: Kind::Segment, index: 3, count: 9, nonce: 0x0123_4567_89ab_cdef, intact: 0 };

    #[test]
    fn what_is_emitted_is_parsed() {
        for (kind, len) in [(Kind::Segment, 1514), (Kind::Question, 0), (Kind::Answer, 47)] {
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
    fn an_index_beyond_the_count_is_refused() {
        for (index, count) in [(9, 9), (0, 0), (3, 65)] {
            let frame = Probe { index, count, ..PROBE }.emit(100);
            assert_eq!(Probe::parse(&frame), Err(ProbeError::Fields { index, count }));
        }
    }
}
