//! ICMP for IPv6 (RFC 4443). Neighbour discovery has a file of its own, [`crate::nd`].

use core::net::Ipv6Addr;

use crate::checksum::Sum;
use crate::ipv6::NEXT_ICMPV6;

/// Bytes of the header: type, code, checksum and the word behind them.
pub const HEADER_LEN: usize = 8;
/// Where the checksum lies in the header.
pub const CHECKSUM_OFFSET: usize = 2;
/// Packet too big.
pub const TYPE_PACKET_TOO_BIG: u8 = 2;
/// Echo request.
pub const TYPE_ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const TYPE_ECHO_REPLY: u8 = 129;
/// Router solicitation (RFC 4861).
pub const TYPE_ROUTER_SOLICITATION: u8 = 133;
/// Router advertisement (RFC 4861).
pub const TYPE_ROUTER_ADVERTISEMENT: u8 = 134;
/// Neighbour solicitation (RFC 4861).
pub const TYPE_NEIGHBOR_SOLICITATION: u8 = 135;
/// Neighbour advertisement (RFC 4861).
pub const TYPE_NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// Redirect (RFC 4861).
pub const TYPE_REDIRECT: u8 = 137;

/// Why bytes are not an ICMPv6 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Icmpv6Error {
    /// Shorter than the header.
    #[error("ICMPv6: {0} bytes, the header takes 8")]
    Truncated(usize),
}

/// Whether no error report may be the answer to the type: error reports and redirects (RFC 4443, section 2.4 e).
pub const fn is_error(kind: u8) -> bool {
    kind < 128 || kind == TYPE_REDIRECT
}

/// A checked ICMPv6 message.
#[derive(Debug, Clone, Copy)]
pub struct Icmpv6View<'a> {
    head: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Icmpv6View<'a> {
    /// Checks the length.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Icmpv6Error> {
        let (head, payload) = bytes.split_first_chunk().ok_or(Icmpv6Error::Truncated(bytes.len()))?;
        Ok(Self { head, payload })
    }

    /// The message's type.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.head[0]
    }

    /// The type's code.
    #[inline]
    pub fn code(&self) -> u8 {
        self.head[1]
    }

    /// The checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.head[2], self.head[3]])
    }

    /// The word behind the checksum; its meaning depends on the type.
    #[inline]
    pub fn word(&self) -> u32 {
        u32::from_be_bytes([self.head[4], self.head[5], self.head[6], self.head[7]])
    }

    /// Everything behind the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the checksum is right for a packet between these addresses.
    pub fn is_checksum_valid(&self, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
        let len = (HEADER_LEN + self.payload.len()) as u32;
        (Sum::pseudo_v6(src, dst, NEXT_ICMPV6, len) + Sum::of(self.head) + Sum::of(self.payload)).is_valid()
    }

    /// The header's values, without checksum.
    pub fn header(&self) -> Icmpv6Header {
        Icmpv6Header { kind: self.kind(), code: self.code(), word: self.word() }
    }
}

/// The values of an ICMPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmpv6Header {
    /// The message's type.
    pub kind: u8,
    /// The type's code.
    pub code: u8,
    /// The word behind the checksum.
    pub word: u32,
}

impl Icmpv6Header {
    /// Writes the header to the front of `message`, then the checksum of it, of the payload that already lies behind
    /// and of the pseudo-header of a packet from `src` to `dst`.
    ///
    /// # Panics
    /// When `message` is shorter than [`HEADER_LEN`]: the caller's bug.
    pub fn emit(&self, src: Ipv6Addr, dst: Ipv6Addr, message: &mut [u8]) {
        message[..4].copy_from_slice(&[self.kind, self.code, 0, 0]);
        message[4..8].copy_from_slice(&self.word.to_be_bytes());
        let pseudo = Sum::pseudo_v6(src, dst, NEXT_ICMPV6, message.len() as u32);
        let check = (pseudo + Sum::of(message)).finish();
        message[CHECKSUM_OFFSET..4].copy_from_slice(&check.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_covers_the_addresses() {
        let (a, b, c) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, Ipv6Addr::from_bits(7));
        let mut message = [9; 11];
        Icmpv6Header { kind: TYPE_ECHO_REQUEST, code: 0, word: 0x0001_0002 }.emit(a, b, &mut message);
        let view = Icmpv6View::parse(&message).unwrap();
        assert!(view.is_checksum_valid(a, b));
        assert!(!view.is_checksum_valid(a, c));
        assert_eq!(Icmpv6View::parse(&message[..7]).err(), Some(Icmpv6Error::Truncated(7)));
    }
}
