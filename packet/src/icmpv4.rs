//! ICMP for IPv4 (RFC 792).
//!
//! Type, code and the word behind the checksum are plain numbers: a switch passes on types that it does not know.

use crate::checksum::Sum;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Where the checksum lies in the header.
pub const CHECKSUM_OFFSET: usize = 2;
/// Echo reply.
pub const TYPE_ECHO_REPLY: u8 = 0;
/// Destination unreachable.
pub const TYPE_UNREACHABLE: u8 = 3;
/// Echo request.
pub const TYPE_ECHO_REQUEST: u8 = 8;
/// Code of [`TYPE_UNREACHABLE`]: fragmentation needed and DF set (RFC 1191).
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;

/// Why bytes are not an ICMP message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Icmpv4Error {
    /// Shorter than the header.
    #[error("ICMP: {0} bytes, the header takes 8")]
    Truncated(usize),
}

/// Whether the type is an error report, to which no error report may be the answer (RFC 1122, section 3.2.2).
/// Source quench and redirect count as such.
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// A checked ICMP message.
#[derive(Debug, Clone, Copy)]
pub struct Icmpv4View<'a> {
    head: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Icmpv4View<'a> {
    /// Checks the length.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Icmpv4Error> {
        let (head, payload) = bytes.split_first_chunk().ok_or(Icmpv4Error::Truncated(bytes.len()))?;
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

    /// Whether the checksum is right.
    pub fn is_checksum_valid(&self) -> bool {
        (Sum::of(self.head) + Sum::of(self.payload)).is_valid()
    }

    /// The header's values, without checksum.
    pub fn header(&self) -> Icmpv4Header {
        Icmpv4Header { kind: self.kind(), code: self.code(), word: self.word() }
    }
}

/// The values of an ICMP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmpv4Header {
    /// The message's type.
    pub kind: u8,
    /// The type's code.
    pub code: u8,
    /// The word behind the checksum.
    pub word: u32,
}

impl Icmpv4Header {
    /// Writes the header to the front of `message`, then the checksum of it and the payload that already lies behind.
    ///
    /// # Panics
    /// When `message` is shorter than [`HEADER_LEN`]: the caller's bug.
    pub fn emit(&self, message: &mut [u8]) {
        message[..4].copy_from_slice(&[self.kind, self.code, 0, 0]);
        message[4..8].copy_from_slice(&self.word.to_be_bytes());
        let check = Sum::of(message).finish();
        message[CHECKSUM_OFFSET..4].copy_from_slice(&check.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emitted_message_has_a_valid_checksum_and_a_changed_one_does_not() {
        let mut message = [9; 11];
        Icmpv4Header { kind: TYPE_ECHO_REQUEST, code: 0, word: 0x0001_0002 }.emit(&mut message);
        assert!(Icmpv4View::parse(&message).unwrap().is_checksum_valid());
        message[10] ^= 1;
        assert!(!Icmpv4View::parse(&message).unwrap().is_checksum_valid());
        assert_eq!(Icmpv4View::parse(&message[..7]).err(), Some(Icmpv4Error::Truncated(7)));
    }
}
