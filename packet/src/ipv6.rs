//! IPv6 headers and their extension headers (RFC 8200).
//!
//! The chain is walked once, over at most [`EXTENSIONS_MAX`] headers, and ends at the first header that is not an
//! extension, at the body of a later fragment, or at ESP, behind which nothing can be read. Jumbograms (RFC 2675)
//! are refused: no link of ours carries one, and a length of zero would otherwise mean "trust nobody".

use core::net::Ipv6Addr;

use crate::ipv4::{PROTOCOL_TCP, PROTOCOL_UDP};

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;
/// The MTU that every IPv6 link has at least (RFC 8200, section 5).
pub const MTU_MIN: usize = 1280;
/// The longest chain of extension headers that is walked.
pub const EXTENSIONS_MAX: usize = 8;
/// ICMPv6.
pub const NEXT_ICMPV6: u8 = 58;
/// Nothing behind this header.
pub const NEXT_NONE: u8 = 59;
pub(crate) const NEXT_HOP_BY_HOP: u8 = 0;
pub(crate) const NEXT_ROUTING: u8 = 43;
pub(crate) const NEXT_FRAGMENT: u8 = 44;
const NEXT_AUTHENTICATION: u8 = 51;
pub(crate) const NEXT_DESTINATION: u8 = 60;

/// Why bytes are not an IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ipv6Error {
    /// Shorter than the header.
    #[error("IPv6: {0} bytes, the header takes 40")]
    Truncated(usize),
    /// Not version 6.
    #[error("IPv6: version {0}")]
    Version(u8),
    /// A payload length beyond the bytes that are there.
    #[error("IPv6: payload length {len} of {present} bytes")]
    PayloadLen {
        /// What the header says.
        len: usize,
        /// What is there.
        present: usize,
    },
    /// A payload length of zero with a hop-by-hop header.
    #[error("IPv6: a jumbogram")]
    Jumbogram,
    /// An extension header that reaches beyond the packet.
    #[error("IPv6: extension header {0} is cut short")]
    ExtensionTruncated(u8),
    /// Hop-by-hop options anywhere but right behind the fixed header (RFC 8200, section 4.1).
    #[error("IPv6: hop-by-hop options are not the first extension header")]
    HopByHopNotFirst,
    /// A second fragment header.
    #[error("IPv6: two fragment headers")]
    FragmentRepeated,
    /// More than [`EXTENSIONS_MAX`] extension headers.
    #[error("IPv6: more than 8 extension headers")]
    TooManyExtensions,
}

/// A checked IPv6 header and its payload, extension headers included.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6View<'a> {
    head: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Ipv6View<'a> {
    /// Checks version and length. Bytes behind the payload length are Ethernet padding and left out.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv6Error> {
        let (head, rest): (&[u8; HEADER_LEN], _) =
            bytes.split_first_chunk().ok_or(Ipv6Error::Truncated(bytes.len()))?;
        if head[0] >> 4 != 6 {
            return Err(Ipv6Error::Version(head[0] >> 4));
        }
        let len = usize::from(u16::from_be_bytes([head[4], head[5]]));
        if len == 0 && head[6] == NEXT_HOP_BY_HOP {
            return Err(Ipv6Error::Jumbogram);
        }
        let payload = rest.get(..len).ok_or(Ipv6Error::PayloadLen { len, present: rest.len() })?;
        Ok(Self { head, payload })
    }

    /// DSCP (high 6 bits) and ECN (low 2).
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        self.head[0] << 4 | self.head[1] >> 4
    }

    /// Flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.head[1] & 0xf, self.head[2], self.head[3]])
    }

    /// Type of the first header behind this one.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.head[6]
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.head[7]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        address(self.head, 8)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        address(self.head, 24)
    }

    /// Everything behind the fixed header, without padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Walks the extension headers of this packet.
    #[inline]
    pub fn chain(&self) -> Result<Ipv6Chain, Ipv6Error> {
        Ipv6Chain::parse(self.next_header(), self.payload)
    }

    /// The header's values.
    pub fn header(&self) -> Ipv6Header {
        Ipv6Header {
            traffic_class: self.traffic_class(),
            flow_label: self.flow_label(),
            payload_len: self.payload.len() as u16,
            next_header: self.next_header(),
            hop_limit: self.hop_limit(),
            src: self.src(),
            dst: self.dst(),
        }
    }
}

/// Where a packet's chain of extension headers ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Chain {
    /// Type of the header that the chain ends at.
    pub protocol: u8,
    /// Bytes from the end of the fixed header to that header.
    pub len: usize,
    /// Set when the packet has a fragment header.
    pub fragment: Option<Ipv6Fragment>,
}

/// What a fragment header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Fragment {
    /// Where the body belongs in the whole packet's, in bytes.
    pub offset: u32,
    /// Whether another fragment follows.
    pub more: bool,
    /// What the fragments of one packet have in common.
    pub identification: u32,
}

impl Ipv6Fragment {
    /// Whether this is the whole packet after all (RFC 6946).
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

impl Ipv6Chain {
    /// Walks the extension headers in `payload`, the first of which is of type `next_header`.
    #[inline]
    pub fn parse(next_header: u8, payload: &[u8]) -> Result<Self, Ipv6Error> {
        match next_header {
            PROTOCOL_TCP | PROTOCOL_UDP | NEXT_ICMPV6 => Ok(Self { protocol: next_header, len: 0, fragment: None }),
            _ => Self::walk(next_header, payload),
        }
    }

    fn walk(next_header: u8, payload: &[u8]) -> Result<Self, Ipv6Error> {
        let mut chain = Self { protocol: next_header, len: 0, fragment: None };
        for passed in 0..=EXTENSIONS_MAX {
            let rest = &payload[chain.len..];
            let kind = chain.protocol;
            // ESP, mobility, HIP and whatever comes next are an end, like any transport protocol.
            if !matches!(kind, NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_FRAGMENT | NEXT_AUTHENTICATION | NEXT_DESTINATION)
            {
                return Ok(chain);
            }
            if passed == EXTENSIONS_MAX {
                break;
            }
            let head: &[u8; 8] = rest.first_chunk().ok_or(Ipv6Error::ExtensionTruncated(kind))?;
            let len = match kind {
                NEXT_HOP_BY_HOP if passed > 0 => return Err(Ipv6Error::HopByHopNotFirst),
                NEXT_FRAGMENT if chain.fragment.is_some() => return Err(Ipv6Error::FragmentRepeated),
                NEXT_FRAGMENT => 8,
                // RFC 4302, section 2: three words at least.
                NEXT_AUTHENTICATION if head[1] == 0 => return Err(Ipv6Error::ExtensionTruncated(kind)),
                NEXT_AUTHENTICATION => (usize::from(head[1]) + 2) * 4,
                _ => (usize::from(head[1]) + 1) * 8,
            };
            if len > rest.len() {
                return Err(Ipv6Error::ExtensionTruncated(kind));
            }
            chain.len += len;
            chain.protocol = head[0];
            if kind == NEXT_FRAGMENT {
                let word = u16::from_be_bytes([head[2], head[3]]);
                let identification = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                let offset = u32::from(word & 0xfff8);
                chain.fragment = Some(Ipv6Fragment { offset, more: word & 1 != 0, identification });
                if offset != 0 {
                    return Ok(chain);
                }
            }
        }
        Err(Ipv6Error::TooManyExtensions)
    }
}

/// The values of an IPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Bytes behind the header.
    pub payload_len: u16,
    /// Type of the first header behind this one.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
}

impl Ipv6Header {
    /// Writes the header to the front of `out`. Bits beyond a field's width are left out.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`]: the caller's bug.
    pub fn emit(&self, out: &mut [u8]) {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label & 0xf_ffff;
        out[..4].copy_from_slice(&first.to_be_bytes());
        out[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        out[6..8].copy_from_slice(&[self.next_header, self.hop_limit]);
        out[8..24].copy_from_slice(&self.src.octets());
        out[24..40].copy_from_slice(&self.dst.octets());
    }
}

#[inline]
fn address(head: &[u8; HEADER_LEN], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&head[at..at + 16]);
    Ipv6Addr::from(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_of_all_kinds_is_walked_to_its_end() {
        let mut chain = vec![NEXT_DESTINATION, 0, 0, 0, 0, 0, 0, 0];
        chain.extend([NEXT_ROUTING, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend([NEXT_FRAGMENT, 0, 0, 0, 0, 0, 0, 0]);
        chain.extend([NEXT_AUTHENTICATION, 0, 0, 1, 0, 0, 0, 7]);
        chain.extend([PROTOCOL_TCP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let fragment = Ipv6Fragment { offset: 0, more: true, identification: 7 };
        let want = Ipv6Chain { protocol: PROTOCOL_TCP, len: chain.len(), fragment: Some(fragment) };
        assert_eq!(Ipv6Chain::parse(NEXT_HOP_BY_HOP, &chain), Ok(want));
        chain.pop();
        assert_eq!(Ipv6Chain::parse(NEXT_HOP_BY_HOP, &chain), Err(Ipv6Error::ExtensionTruncated(NEXT_AUTHENTICATION)));
    }

    #[test]
    fn eight_extension_headers_pass_and_nine_do_not() {
        let eight = [NEXT_DESTINATION, 0, 0, 0, 0, 0, 0, 0].repeat(8);
        assert_eq!(Ipv6Chain::parse(NEXT_DESTINATION, &eight), Err(Ipv6Error::TooManyExtensions));
        let mut ends = eight.clone();
        ends[56] = PROTOCOL_UDP;
        assert_eq!(Ipv6Chain::parse(NEXT_DESTINATION, &ends).unwrap().len, 64);
    }

    #[test]
    fn nothing_is_read_behind_a_later_fragment_header() {
        let later = [NEXT_DESTINATION, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff];
        let chain = Ipv6Chain::parse(NEXT_FRAGMENT, &later).unwrap();
        assert_eq!((chain.protocol, chain.len, chain.fragment.unwrap().offset), (NEXT_DESTINATION, 8, 8));
    }

    #[test]
    fn odd_chains_and_jumbograms_are_refused() {
        let late_hop_by_hop = [NEXT_HOP_BY_HOP, 0, 0, 0, 0, 0, 0, 0, PROTOCOL_UDP, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Ipv6Chain::parse(NEXT_DESTINATION, &late_hop_by_hop), Err(Ipv6Error::HopByHopNotFirst));
        let two = [NEXT_FRAGMENT, 0, 0, 0, 0, 0, 0, 0, PROTOCOL_UDP, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Ipv6Chain::parse(NEXT_FRAGMENT, &two), Err(Ipv6Error::FragmentRepeated));
        let mut jumbo = [0; 60];
        jumbo[0] = 0x60;
        assert_eq!(Ipv6View::parse(&jumbo).err(), Some(Ipv6Error::Jumbogram));
    }
}
