//! 802.1Q and 802.1ad tags (IEEE 802.1Q, clause 9).
//!
//! A view starts behind the tag's own type field, because that field is the Ethernet header's (or the outer tag's).

use crate::ethernet::{ETHERTYPE_QINQ, ETHERTYPE_VLAN};

/// Bytes of a tag behind its type field: the control information and the next type.
pub const TAG_LEN: usize = 4;

/// Why bytes are not a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VlanError {
    /// Shorter than a tag.
    #[error("VLAN tag: {0} bytes, a tag takes 4")]
    Truncated(usize),
}

/// Whether `ethertype` announces a tag.
#[inline]
pub const fn is_tag(ethertype: u16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_QINQ
}

/// A checked tag and what is behind it.
#[derive(Debug, Clone, Copy)]
pub struct VlanView<'a> {
    head: &'a [u8; TAG_LEN],
    payload: &'a [u8],
}

impl<'a> VlanView<'a> {
    /// Checks the length.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, VlanError> {
        let (head, payload) = bytes.split_first_chunk().ok_or(VlanError::Truncated(bytes.len()))?;
        Ok(Self { head, payload })
    }

    /// The whole control information.
    #[inline]
    pub fn tci(&self) -> u16 {
        u16::from_be_bytes([self.head[0], self.head[1]])
    }

    /// Type of the payload; another tag's when there is one.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.head[2], self.head[3]])
    }

    /// Everything behind the tag.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The tag's values.
    pub fn header(&self) -> VlanHeader {
        let tci = self.tci();
        VlanHeader {
            priority: (tci >> 13) as u8,
            drop_eligible: tci & 0x1000 != 0,
            id: tci & 0x0fff,
            ethertype: self.ethertype(),
        }
    }
}

/// The values of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanHeader {
    /// Priority code point, 3 bits.
    pub priority: u8,
    /// Drop eligible indicator.
    pub drop_eligible: bool,
    /// VLAN identifier, 12 bits.
    pub id: u16,
    /// Type of the payload.
    pub ethertype: u16,
}

impl VlanHeader {
    /// Writes the tag, without its type field, to the front of `out`. Bits beyond a field's width are left out.
    ///
    /// # Panics
    /// When `out` is shorter than [`TAG_LEN`]: the caller's bug.
    pub fn emit(&self, out: &mut [u8]) {
        let tci = u16::from(self.priority & 7) << 13 | u16::from(self.drop_eligible) << 12 | self.id & 0x0fff;
        out[..2].copy_from_slice(&tci.to_be_bytes());
        out[2..4].copy_from_slice(&self.ethertype.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_parts_of_the_control_information_are_told_apart() {
        let tag = VlanView::parse(&[0xb0, 0x2a, 0x08, 0x00, 9]).unwrap();
        let header = VlanHeader { priority: 5, drop_eligible: true, id: 42, ethertype: 0x0800 };
        assert_eq!((tag.header(), tag.payload()), (header, &[9][..]));
        assert_eq!(VlanView::parse(&[0; 3]).err(), Some(VlanError::Truncated(3)));
    }
}
