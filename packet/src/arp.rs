//! ARP for Ethernet and IPv4 (RFC 826).
//!
//! Only that one pair of address types is read; ARP for others is an error of its own, so that a caller can let it
//! pass as an unknown protocol where it must not be called malformed.

use core::net::Ipv4Addr;

use crate::addr::MacAddr;
use crate::ethernet::ETHERTYPE_IPV4;

/// Bytes of an ARP packet for Ethernet and IPv4.
pub const PACKET_LEN: usize = 28;
/// Who has the target address?
pub const OPERATION_REQUEST: u16 = 1;
/// The sender has it.
pub const OPERATION_REPLY: u16 = 2;
const HARDWARE_ETHERNET: u16 = 1;
const FIXED_LEN: usize = 8;

/// Why bytes are not an ARP packet for Ethernet and IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArpError {
    /// Shorter than the packet.
    #[error("ARP: {0} bytes, a packet for Ethernet and IPv4 takes 28")]
    Truncated(usize),
    /// Ethernet and IPv4, but the address lengths are not 6 and 4.
    #[error("ARP: address lengths {hardware} and {protocol}, expected 6 and 4")]
    Lengths {
        /// Hardware address length.
        hardware: u8,
        /// Protocol address length.
        protocol: u8,
    },
    /// Well formed as far as we can tell, but for other kinds of addresses.
    #[error("ARP: hardware type {hardware} and protocol {protocol:#06x} are not Ethernet and IPv4")]
    OtherAddresses {
        /// Hardware type.
        hardware: u16,
        /// Protocol type.
        protocol: u16,
    },
}

/// A checked ARP packet for Ethernet and IPv4.
#[derive(Debug, Clone, Copy)]
pub struct ArpView<'a> {
    packet: &'a [u8; PACKET_LEN],
}

impl<'a> ArpView<'a> {
    /// Checks types and lengths. Padding behind the packet is legal.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ArpError> {
        let fixed: &[u8; FIXED_LEN] = bytes.first_chunk().ok_or(ArpError::Truncated(bytes.len()))?;
        let hardware = u16::from_be_bytes([fixed[0], fixed[1]]);
        let protocol = u16::from_be_bytes([fixed[2], fixed[3]]);
        if hardware != HARDWARE_ETHERNET || protocol != ETHERTYPE_IPV4 {
            return Err(ArpError::OtherAddresses { hardware, protocol });
        }
        if fixed[4] != 6 || fixed[5] != 4 {
            return Err(ArpError::Lengths { hardware: fixed[4], protocol: fixed[5] });
        }
        let packet = bytes.first_chunk().ok_or(ArpError::Truncated(bytes.len()))?;
        Ok(Self { packet })
    }

    /// The operation: [`OPERATION_REQUEST`], [`OPERATION_REPLY`] or one that we do not know.
    #[inline]
    pub fn operation(&self) -> u16 {
        u16::from_be_bytes([self.packet[6], self.packet[7]])
    }

    /// Sender hardware address.
    #[inline]
    pub fn sender_mac(&self) -> MacAddr {
        let p = self.packet;
        MacAddr([p[8], p[9], p[10], p[11], p[12], p[13]])
    }

    /// Sender protocol address; 0.0.0.0 in a probe (RFC 5227).
    #[inline]
    pub fn sender_ip(&self) -> Ipv4Addr {
        let p = self.packet;
        Ipv4Addr::new(p[14], p[15], p[16], p[17])
    }

    /// Target hardware address; means nothing in a request.
    #[inline]
    pub fn target_mac(&self) -> MacAddr {
        let p = self.packet;
        MacAddr([p[18], p[19], p[20], p[21], p[22], p[23]])
    }

    /// Target protocol address.
    #[inline]
    pub fn target_ip(&self) -> Ipv4Addr {
        let p = self.packet;
        Ipv4Addr::new(p[24], p[25], p[26], p[27])
    }

    /// The packet's values.
    pub fn header(&self) -> ArpHeader {
        ArpHeader {
            operation: self.operation(),
            sender_mac: self.sender_mac(),
            sender_ip: self.sender_ip(),
            target_mac: self.target_mac(),
            target_ip: self.target_ip(),
        }
    }
}

/// The values of an ARP packet for Ethernet and IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpHeader {
    /// [`OPERATION_REQUEST`] or [`OPERATION_REPLY`].
    pub operation: u16,
    /// Sender hardware address.
    pub sender_mac: MacAddr,
    /// Sender protocol address.
    pub sender_ip: Ipv4Addr,
    /// Target hardware address.
    pub target_mac: MacAddr,
    /// Target protocol address.
    pub target_ip: Ipv4Addr,
}

impl ArpHeader {
    /// Writes the packet to the front of `out`.
    ///
    /// # Panics
    /// When `out` is shorter than [`PACKET_LEN`]: the caller's bug.
    pub fn emit(&self, out: &mut [u8]) {
        out[..2].copy_from_slice(&HARDWARE_ETHERNET.to_be_bytes());
        out[2..4].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        out[4..6].copy_from_slice(&[6, 4]);
        out[6..8].copy_from_slice(&self.operation.to_be_bytes());
        out[8..14].copy_from_slice(&self.sender_mac.0);
        out[14..18].copy_from_slice(&self.sender_ip.octets());
        out[18..24].copy_from_slice(&self.target_mac.0);
        out[24..28].copy_from_slice(&self.target_ip.octets());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> [u8; PACKET_LEN] {
        let mut bytes = [0; PACKET_LEN];
        let header = ArpHeader {
            operation: OPERATION_REQUEST,
            sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            sender_ip: Ipv4Addr::new(10, 9, 0, 1),
            target_mac: MacAddr::ZERO,
            target_ip: Ipv4Addr::new(10, 9, 0, 2),
        };
        header.emit(&mut bytes);
        assert_eq!(ArpView::parse(&bytes).unwrap().header(), header);
        bytes
    }

    #[test]
    fn each_lie_has_its_own_error() {
        let good = request();
        assert_eq!(ArpView::parse(&good[..27]).err(), Some(ArpError::Truncated(27)));
        let mut bytes = good;
        bytes[4] = 8;
        assert_eq!(ArpView::parse(&bytes).err(), Some(ArpError::Lengths { hardware: 8, protocol: 4 }));
        let mut bytes = good;
        bytes[1] = 6;
        let other = ArpError::OtherAddresses { hardware: 6, protocol: ETHERTYPE_IPV4 };
        assert_eq!(ArpView::parse(&bytes).err(), Some(other));
    }
}
