//! UDP headers (RFC 768).
//!
//! The length field may be shorter than the IP payload (RFC 9868 puts options there) but never longer; a super-frame's
//! covers all of its datagrams.

use crate::checksum::Sum;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Where the checksum lies in the header.
pub const CHECKSUM_OFFSET: usize = 6;

/// Why bytes are not a UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UdpError {
    /// Shorter than the header.
    #[error("UDP: {0} bytes, the header takes 8")]
    Truncated(usize),
    /// A length below the header's, or beyond the bytes that are there.
    #[error("UDP: length {len} of {present} bytes")]
    Length {
        /// What the header says.
        len: usize,
        /// What is there.
        present: usize,
    },
}

/// A checked UDP header and its payload.
#[derive(Debug, Clone, Copy)]
pub struct UdpView<'a> {
    head: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> UdpView<'a> {
    /// Checks the lengths of a whole datagram. A first fragment's length covers more than the fragment: see
    /// [`Self::parse_first_fragment`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UdpError> {
        let view = Self::parse_first_fragment(bytes)?;
        let len = usize::from(view.length());
        let datagram = bytes.get(..len).ok_or(UdpError::Length { len, present: bytes.len() })?;
        Ok(Self { payload: &datagram[HEADER_LEN..], ..view })
    }

    /// Checks what can be checked where the end of the datagram is in another fragment.
    #[inline]
    pub fn parse_first_fragment(bytes: &'a [u8]) -> Result<Self, UdpError> {
        let (head, payload) = bytes.split_first_chunk().ok_or(UdpError::Truncated(bytes.len()))?;
        let view = Self { head, payload };
        let len = usize::from(view.length());
        if len < HEADER_LEN {
            return Err(UdpError::Length { len, present: bytes.len() });
        }
        Ok(view)
    }

    /// Source port.
    #[inline]
    pub fn src(&self) -> u16 {
        u16::from_be_bytes([self.head[0], self.head[1]])
    }

    /// Destination port.
    #[inline]
    pub fn dst(&self) -> u16 {
        u16::from_be_bytes([self.head[2], self.head[3]])
    }

    /// Bytes of the datagram, header included.
    #[inline]
    pub fn length(&self) -> u16 {
        u16::from_be_bytes([self.head[4], self.head[5]])
    }

    /// The checksum; zero means none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.head[6], self.head[7]])
    }

    /// The datagram's payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header's values.
    pub fn header(&self) -> UdpHeader {
        UdpHeader { src: self.src(), dst: self.dst(), length: self.length(), checksum: self.checksum() }
    }
}

/// The values of a UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpHeader {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// Bytes of the datagram, header included.
    pub length: u16,
    /// The checksum; zero means none. [`fill_checksum`] computes it.
    pub checksum: u16,
}

impl UdpHeader {
    /// Writes the header to the front of `out`.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`]: the caller's bug.
    pub fn emit(&self, out: &mut [u8]) {
        let words = [self.src, self.dst, self.length, self.checksum];
        for (place, word) in out[..HEADER_LEN].chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
    }
}

/// Computes and stores the checksum of a datagram; `pseudo` is its pseudo-header's sum. A sum of zero is sent as
/// all ones, because zero means none.
///
/// # Panics
/// When `datagram` is shorter than [`HEADER_LEN`]: the caller's bug.
pub fn fill_checksum(datagram: &mut [u8], pseudo: Sum) {
    datagram[CHECKSUM_OFFSET..HEADER_LEN].fill(0);
    let check = match (pseudo + Sum::of(datagram)).finish() {
        0 => 0xffff,
        check => check,
    };
    datagram[CHECKSUM_OFFSET..HEADER_LEN].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_that_lies_is_refused_and_a_shorter_one_cuts_the_payload() {
        let datagram = |len: u8| [0, 1, 0, 2, 0, len, 0, 0, 7, 7];
        assert_eq!(UdpView::parse(&datagram(10)).unwrap().payload(), [7, 7]);
        assert_eq!(UdpView::parse(&datagram(9)).unwrap().payload(), [7]);
        for len in [0, 7, 11] {
            let error = UdpError::Length { len: len.into(), present: 10 };
            assert_eq!(UdpView::parse(&datagram(len)).err(), Some(error));
        }
        assert_eq!(UdpView::parse_first_fragment(&datagram(11)).unwrap().payload(), [7, 7]);
        assert_eq!(UdpView::parse(&[0; 7]).err(), Some(UdpError::Truncated(7)));
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_all_ones() {
        let mut datagram = [0xff, 0xff, 0, 0, 0, 0, 0, 0];
        fill_checksum(&mut datagram, Sum::ZERO);
        assert_eq!(datagram[6..], [0xff, 0xff]);
    }
}
