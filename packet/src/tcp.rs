//! TCP headers (RFC 9293).
//!
//! Only what a switch needs: no option is read, and a segment is not judged by its flags.

use crate::checksum::Sum;

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Bytes of the longest header.
pub const HEADER_LEN_MAX: usize = 60;
/// Where the checksum lies in the header.
pub const CHECKSUM_OFFSET: usize = 16;
/// FIN.
pub const FLAG_FIN: u16 = 0x01;
/// SYN.
pub const FLAG_SYN: u16 = 0x02;
/// RST.
pub const FLAG_RST: u16 = 0x04;
/// PSH.
pub const FLAG_PSH: u16 = 0x08;
/// ACK.
pub const FLAG_ACK: u16 = 0x10;
/// URG.
pub const FLAG_URG: u16 = 0x20;
/// ECE.
pub const FLAG_ECE: u16 = 0x40;
/// CWR.
pub const FLAG_CWR: u16 = 0x80;

/// Why bytes are not a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TcpError {
    /// Shorter than the header without options.
    #[error("TCP: {0} bytes, the header takes at least 20")]
    Truncated(usize),
    /// A data offset below 20 bytes, or beyond the bytes that are there.
    #[error("TCP: data offset {offset} of {present} bytes")]
    DataOffset {
        /// What the header says.
        offset: usize,
        /// What is there.
        present: usize,
    },
}

/// A checked TCP header, its options and its payload.
#[derive(Debug, Clone, Copy)]
pub struct TcpView<'a> {
    head: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> TcpView<'a> {
    /// Checks the lengths.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TcpError> {
        let present = bytes.len();
        let (head, rest): (&[u8; HEADER_LEN], _) = bytes.split_first_chunk().ok_or(TcpError::Truncated(present))?;
        let offset = usize::from(head[12] >> 4) * 4;
        if offset < HEADER_LEN || offset > present {
            return Err(TcpError::DataOffset { offset, present });
        }
        let (options, payload) = rest.split_at(offset - HEADER_LEN);
        Ok(Self { head, options, payload })
    }

    /// Bytes of the header, options included.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
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

    /// Sequence number.
    #[inline]
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.head[4], self.head[5], self.head[6], self.head[7]])
    }

    /// Acknowledgment number.
    #[inline]
    pub fn acknowledgment(&self) -> u32 {
        u32::from_be_bytes([self.head[8], self.head[9], self.head[10], self.head[11]])
    }

    /// The 8 flags and above them the 4 reserved bits.
    #[inline]
    pub fn flags(&self) -> u16 {
        u16::from_be_bytes([self.head[12], self.head[13]]) & 0x0fff
    }

    /// Receive window, unscaled.
    #[inline]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.head[14], self.head[15]])
    }

    /// The checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.head[16], self.head[17]])
    }

    /// Urgent pointer.
    #[inline]
    pub fn urgent(&self) -> u16 {
        u16::from_be_bytes([self.head[18], self.head[19]])
    }

    /// The options, as they stand.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The segment's payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header's values, without options.
    pub fn header(&self) -> TcpHeader {
        TcpHeader {
            src: self.src(),
            dst: self.dst(),
            sequence: self.sequence(),
            acknowledgment: self.acknowledgment(),
            flags: self.flags(),
            window: self.window(),
            checksum: self.checksum(),
            urgent: self.urgent(),
        }
    }
}

/// The values of a TCP header without options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpHeader {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgment number.
    pub acknowledgment: u32,
    /// Flags, 12 bits.
    pub flags: u16,
    /// Receive window, unscaled.
    pub window: u16,
    /// The checksum. [`fill_checksum`] computes it.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

impl TcpHeader {
    /// Writes the header to the front of `out`. Bits beyond a field's width are left out.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`]: the caller's bug.
    pub fn emit(&self, out: &mut [u8]) {
        out[..2].copy_from_slice(&self.src.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst.to_be_bytes());
        out[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        out[8..12].copy_from_slice(&self.acknowledgment.to_be_bytes());
        out[12..14].copy_from_slice(&(5 << 12 | self.flags & 0x0fff).to_be_bytes());
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..18].copy_from_slice(&self.checksum.to_be_bytes());
        out[18..20].copy_from_slice(&self.urgent.to_be_bytes());
    }
}

/// Computes and stores the checksum of a segment; `pseudo` is its pseudo-header's sum.
///
/// # Panics
/// When `segment` is shorter than [`HEADER_LEN`]: the caller's bug.
pub fn fill_checksum(segment: &mut [u8], pseudo: Sum) {
    segment[CHECKSUM_OFFSET..18].fill(0);
    let check = (pseudo + Sum::of(segment)).finish();
    segment[CHECKSUM_OFFSET..18].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_offset_that_lies_is_refused() {
        let mut segment = [0; 24];
        segment[12] = 0x60;
        assert_eq!(TcpView::parse(&segment).unwrap().options().len(), 4);
        segment[12] = 0x70;
        assert_eq!(TcpView::parse(&segment).err(), Some(TcpError::DataOffset { offset: 28, present: 24 }));
        segment[12] = 0x40;
        assert_eq!(TcpView::parse(&segment).err(), Some(TcpError::DataOffset { offset: 16, present: 24 }));
        assert_eq!(TcpView::parse(&segment[..19]).err(), Some(TcpError::Truncated(19)));
    }
}
