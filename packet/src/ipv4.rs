//! IPv4 headers (RFC 791).
//!
//! Parsing checks version and lengths but not the header checksum: the receiving host does, a switch that does not
//! rewrite has no reason to, and the hot path pays for every sum. Who answers or rewrites asks
//! [`Ipv4View::is_checksum_valid`].

use core::net::Ipv4Addr;

use crate::checksum::Sum;

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Bytes of the longest header.
pub const HEADER_LEN_MAX: usize = 60;
/// The MTU that every IPv4 link has at least (RFC 791, section 3.2).
pub const MTU_MIN: usize = 68;
/// ICMP.
pub const PROTOCOL_ICMP: u8 = 1;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;

pub(crate) const FLAG_DONT_FRAGMENT: u16 = 0x4000;
pub(crate) const FLAG_MORE_FRAGMENTS: u16 = 0x2000;
pub(crate) const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Why bytes are not an IPv4 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ipv4Error {
    /// Shorter than the header.
    #[error("IPv4: {0} bytes are shorter than the header")]
    Truncated(usize),
    /// Not version 4.
    #[error("IPv4: version {0}")]
    Version(u8),
    /// A header length below 20 bytes, or beyond the total length.
    #[error("IPv4: header length {0}")]
    HeaderLen(usize),
    /// A total length beyond the bytes that are there.
    #[error("IPv4: total length {total} of {present} bytes")]
    TotalLen {
        /// What the header says.
        total: usize,
        /// What is there.
        present: usize,
    },
}

/// A checked IPv4 header, its options and its payload.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4View<'a> {
    head: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4View<'a> {
    /// Checks version and lengths. Bytes behind the total length are Ethernet padding and left out.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv4Error> {
        let present = bytes.len();
        let head: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Ipv4Error::Truncated(present))?;
        if head[0] >> 4 != 4 {
            return Err(Ipv4Error::Version(head[0] >> 4));
        }
        let header_len = usize::from(head[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if header_len < HEADER_LEN || header_len > total {
            return Err(Ipv4Error::HeaderLen(header_len));
        }
        let packet = bytes.get(..total).ok_or(Ipv4Error::TotalLen { total, present })?;
        Ok(Self { head, options: &packet[HEADER_LEN..header_len], payload: &packet[header_len..] })
    }

    /// Bytes of the header, options included.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// DSCP (high 6 bits) and ECN (low 2).
    #[inline]
    pub fn tos(&self) -> u8 {
        self.head[1]
    }

    /// Bytes of the packet.
    #[inline]
    pub fn total_len(&self) -> u16 {
        u16::from_be_bytes([self.head[2], self.head[3]])
    }

    /// What the fragments of one packet have in common.
    #[inline]
    pub fn identification(&self) -> u16 {
        u16::from_be_bytes([self.head[4], self.head[5]])
    }

    /// Flags (high 3 bits) and fragment offset in units of 8 bytes.
    #[inline]
    pub fn fragment_word(&self) -> u16 {
        u16::from_be_bytes([self.head[6], self.head[7]])
    }

    /// Whether the DF flag is set.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.fragment_word() & FLAG_DONT_FRAGMENT != 0
    }

    /// Whether the MF flag is set.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.fragment_word() & FLAG_MORE_FRAGMENTS != 0
    }

    /// Where the payload belongs in the whole packet's, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u32 {
        u32::from(self.fragment_word() & FRAGMENT_OFFSET) * 8
    }

    /// Whether this is a piece of a packet: the first, one between or the last.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.fragment_word() & (FLAG_MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.head[8]
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.head[9]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        let h = self.head;
        Ipv4Addr::new(h[12], h[13], h[14], h[15])
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        let h = self.head;
        Ipv4Addr::new(h[16], h[17], h[18], h[19])
    }

    /// The options, as they stand.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The packet's payload, without padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the header checksum is right.
    pub fn is_checksum_valid(&self) -> bool {
        (Sum::of(self.head) + Sum::of(self.options)).is_valid()
    }

    /// The header's values, without options and checksum.
    pub fn header(&self) -> Ipv4Header {
        Ipv4Header {
            tos: self.tos(),
            payload_len: self.payload.len() as u16,
            identification: self.identification(),
            dont_fragment: self.dont_fragment(),
            more_fragments: self.more_fragments(),
            fragment_offset: self.fragment_offset() as u16,
            ttl: self.ttl(),
            protocol: self.protocol(),
            src: self.src(),
            dst: self.dst(),
        }
    }
}

/// The values of an IPv4 header without options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Header {
    /// DSCP and ECN.
    pub tos: u8,
    /// Bytes behind the header.
    pub payload_len: u16,
    /// What the fragments of one packet have in common.
    pub identification: u16,
    /// DF.
    pub dont_fragment: bool,
    /// MF.
    pub more_fragments: bool,
    /// In bytes, a multiple of 8.
    pub fragment_offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

impl Ipv4Header {
    /// Writes the header, checksum included, to the front of `out`.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`], or the packet would be longer than 65,535: the caller's bug.
    pub fn emit(&self, out: &mut [u8]) {
        assert!(usize::from(self.payload_len) + HEADER_LEN <= 0xffff, "payload too long for IPv4");
        debug_assert!(self.fragment_offset.is_multiple_of(8), "fragments are cut at multiples of 8");
        let out = &mut out[..HEADER_LEN];
        let flags = [(self.dont_fragment, FLAG_DONT_FRAGMENT), (self.more_fragments, FLAG_MORE_FRAGMENTS)];
        let flags = flags.iter().filter(|(set, _)| *set).fold(0, |word, (_, flag)| word | flag);
        out[..2].copy_from_slice(&[0x45, self.tos]);
        out[2..4].copy_from_slice(&(self.payload_len + HEADER_LEN as u16).to_be_bytes());
        out[4..6].copy_from_slice(&self.identification.to_be_bytes());
        out[6..8].copy_from_slice(&(flags | (self.fragment_offset / 8)).to_be_bytes());
        out[8..10].copy_from_slice(&[self.ttl, self.protocol]);
        out[12..16].copy_from_slice(&self.src.octets());
        out[16..20].copy_from_slice(&self.dst.octets());
        fill_checksum(out);
    }
}

/// Computes and stores the checksum of `header`: one whole IPv4 header, options included.
///
/// # Panics
/// When `header` is shorter than [`HEADER_LEN`]: the caller's bug.
pub fn fill_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let check = Sum::of(header).finish();
    header[10..12].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lie_has_its_own_error() {
        let mut good = [0; 24];
        good[0] = 0x46;
        good[3] = 24;
        assert_eq!(Ipv4View::parse(&good).unwrap().header_len(), 24);
        assert_eq!(Ipv4View::parse(&good[..19]).err(), Some(Ipv4Error::Truncated(19)));
        assert_eq!(Ipv4View::parse(&good[..23]).err(), Some(Ipv4Error::TotalLen { total: 24, present: 23 }));
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            Ipv4View::parse(&bytes).err()
        };
        assert_eq!(with(0, 0x66), Some(Ipv4Error::Version(6)));
        assert_eq!(with(0, 0x44), Some(Ipv4Error::HeaderLen(16)));
        assert_eq!(with(3, 23), Some(Ipv4Error::HeaderLen(24)));
    }

    #[test]
    fn bytes_behind_the_total_length_are_padding() {
        let mut bytes = [0; 46];
        bytes[0] = 0x45;
        bytes[3] = 22;
        assert_eq!(Ipv4View::parse(&bytes).unwrap().payload().len(), 2);
    }
}
