//! VXLAN headers (RFC 7348, section 5).
//!
//! "Fields marked R ... MUST be set to zero on transmission and ignored on receipt": a parser that is stricter about
//! them than the RFC breaks interworking, so only the I flag and the VNI are looked at.

use crate::addr::Vni;
use crate::drop_reason::DropReason;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// The port that IANA assigned.
pub const UDP_PORT: u16 = 4789;
/// The I flag: the VNI is valid.
pub const FLAG_I: u8 = 0x08;

/// Why bytes are not a VXLAN packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VxlanError {
    /// Shorter than the header.
    #[error("VXLAN: {0} bytes, the header takes 8")]
    Truncated(usize),
    /// The I flag is not set.
    #[error("VXLAN: flags {0:#04x} without the I flag")]
    Flags(u8),
    /// VNI zero, which names no network.
    #[error("VXLAN: VNI 0")]
    VniZero,
}

impl From<VxlanError> for DropReason {
    fn from(error: VxlanError) -> Self {
        match error {
            VxlanError::Truncated(_) => Self::VxlanTruncated,
            VxlanError::Flags(_) => Self::VxlanFlags,
            VxlanError::VniZero => Self::VniUnknown,
        }
    }
}

/// A checked VXLAN header and the frame behind it.
#[derive(Debug, Clone, Copy)]
pub struct VxlanView<'a> {
    vni: Vni,
    payload: &'a [u8],
}

impl<'a> VxlanView<'a> {
    /// Checks the length, the I flag and the VNI.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, VxlanError> {
        let (head, payload): (&[u8; HEADER_LEN], _) =
            bytes.split_first_chunk().ok_or(VxlanError::Truncated(bytes.len()))?;
        if head[0] & FLAG_I == 0 {
            return Err(VxlanError::Flags(head[0]));
        }
        let vni = u32::from_be_bytes([0, head[4], head[5], head[6]]);
        let vni = Vni::new(vni).map_err(|_| VxlanError::VniZero)?;
        Ok(Self { vni, payload })
    }

    /// The network.
    #[inline]
    pub fn vni(&self) -> Vni {
        self.vni
    }

    /// The inner frame.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header's values.
    pub fn header(&self) -> VxlanHeader {
        VxlanHeader { vni: self.vni }
    }
}

/// The values of a VXLAN header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanHeader {
    /// The network.
    pub vni: Vni,
}

impl VxlanHeader {
    /// Writes the header to the front of `out`: the I flag, the VNI, all else zero.
    ///
    /// # Panics
    /// When `out` is shorter than [`HEADER_LEN`]: the caller's bug.
    pub fn emit(&self, out: &mut [u8]) {
        out[..4].copy_from_slice(&[FLAG_I, 0, 0, 0]);
        out[4..8].copy_from_slice(&(self.vni.get() << 8).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bits_are_zero_on_send_and_ignored_on_receipt() {
        let mut bytes = [0xff; 8];
        VxlanHeader { vni: Vni::new(42).unwrap() }.emit(&mut bytes);
        assert_eq!(bytes, [8, 0, 0, 0, 0, 0, 42, 0]);
        let noisy = [0xff, 0xff, 0xff, 0xff, 0, 0, 42, 0xff];
        assert_eq!(VxlanView::parse(&noisy).unwrap().vni().get(), 42);
    }

    #[test]
    fn each_lie_has_its_own_error_and_its_own_drop_reason() {
        let why = |bytes: &[u8]| VxlanView::parse(bytes).map(|v| v.vni()).map_err(DropReason::from).err();
        assert_eq!(why(&[8, 0, 0, 0, 0, 0, 42]), Some(DropReason::VxlanTruncated));
        assert_eq!(why(&[0xf7, 0, 0, 0, 0, 0, 42, 0]), Some(DropReason::VxlanFlags));
        assert_eq!(why(&[8, 0, 0, 0, 0, 0, 0, 0]), Some(DropReason::VniUnknown));
    }
}
