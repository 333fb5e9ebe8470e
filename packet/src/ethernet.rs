//! Ethernet II headers (IEEE 802.3) and the Ethernet types that we know.
//!
//! A type field below 0x600 is an 802.3 length, which we neither check nor need: such a frame is LLC and opaque.

use crate::addr::MacAddr;

/// IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// 802.1Q tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// 802.1ad tag.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Not a type: what stands for one in a frame whose type field is a length (OpenFlow 1.3, table 12).
pub const ETHERTYPE_LLC: u16 = 0x05ff;
/// The smallest type; below it the field is a length.
pub const ETHERTYPE_MIN: u16 = 0x0600;
/// Bytes of the header.
pub const HEADER_LEN: usize = 14;

/// Why bytes are not an Ethernet frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EthernetError {
    /// Shorter than the header.
    #[error("Ethernet: {0} bytes, the header takes 14")]
    Truncated(usize),
}

/// A checked Ethernet header and what is behind it.
#[derive(Debug, Clone, Copy)]
pub struct EthernetView<'a> {
    head: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> EthernetView<'a> {
    /// Checks the length.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EthernetError> {
        let (head, payload) = bytes.split_first_chunk().ok_or(EthernetError::Truncated(bytes.len()))?;
        Ok(Self { head, payload })
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> MacAddr {
        let h = self.head;
        MacAddr([h[0], h[1], h[2], h[3], h[4], h[5]])
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> MacAddr {
        let h = self.head;
        MacAddr([h[6], h[7], h[8], h[9], h[10], h[11]])
    }

    /// Both addresses as [`MacAddr::to_u64`] has them, destination first: two loads instead of twelve.
    #[inline]
    pub(crate) fn addresses(&self) -> (u64, u64) {
        let h = self.head;
        let dst = u64::from_be_bytes([h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]]) >> 16;
        let src = u64::from_be_bytes([h[4], h[5], h[6], h[7], h[8], h[9], h[10], h[11]]) & 0xffff_ffff_ffff;
        (dst, src)
    }

    /// The type field as it stands; a tag's type when there is a tag, a length when it is below [`ETHERTYPE_MIN`].
    #[inline]
    pub fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.head[12], self.head[13]])
    }

    /// Everything behind the type field, padding included.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header's values.
    pub fn header(&self) -> EthernetHeader {
        EthernetHeader { dst: self.dst(), src: self.src(), ethertype: self.ethertype() }
    }
}

/// The values of an Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EthernetHeader {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// Type of the payload.
    pub ethertype: u16,
}

impl EthernetHeader {
    /// Writes the header to the front of `out`.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`]: the caller's bug.
    pub fn emit(&self, out: &mut [u8]) {
        out[..6].copy_from_slice(&self.dst.0);
        out[6..12].copy_from_slice(&self.src.0);
        out[12..14].copy_from_slice(&self.ethertype.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_one_byte_short_is_refused() {
        assert_eq!(EthernetView::parse(&[0; 13]).err(), Some(EthernetError::Truncated(13)));
        assert!(EthernetView::parse(&[0; 14]).unwrap().payload().is_empty());
    }
}
