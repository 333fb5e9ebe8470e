//! Where the IP and L4 headers of a frame lie: the few offsets that checksums, segmentation and coalescing need.
//!
//! Narrower than a full parse on purpose: it reads no field into a key and says nothing of why a frame is malformed.
//! A frame whose lengths lie has no layout, and whoever asked leaves its bytes alone.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::Sum;
use crate::ethernet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN};
use crate::ipv4::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::ipv6::{EXTENSIONS_MAX, NEXT_DESTINATION, NEXT_FRAGMENT, NEXT_HOP_BY_HOP, NEXT_ICMPV6, NEXT_ROUTING};
use crate::{tcp, udp};

/// Offsets into one frame, from its Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The IP header.
    pub l3: usize,
    /// Behind IPv4 options and IPv6 extension headers: the L4 header, or a fragment's first byte.
    pub l4: usize,
    /// Where the L4 packet ends, by UDP's own length or else by IP's. What follows is padding.
    pub end: usize,
    /// IPv6, not IPv4.
    pub v6: bool,
    /// The L4 protocol.
    pub protocol: u8,
    /// Any fragment: no checksum can be computed over it.
    pub fragment: bool,
    /// A fragment but the first: it has no L4 header.
    pub later_fragment: bool,
}

impl Layout {
    /// The layout of an IPv4 or IPv6 frame (one 802.1Q tag is skipped); `None` when it is neither, is cut short, or
    /// lies about its lengths.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (ethertype, l3) = match word(frame, 12)? {
            ETHERTYPE_VLAN => (word(frame, 16)?, 18),
            other => (other, 14),
        };
        let layout = match ethertype {
            ETHERTYPE_IPV4 => Self::of_v4(frame, l3)?,
            ETHERTYPE_IPV6 => Self::of_v6(frame, l3)?,
            _ => return None,
        };
        layout.trimmed_to_udp(frame)
    }

    fn of_v4(frame: &[u8], l3: usize) -> Option<Self> {
        let header = frame.get(l3..l3 + 20)?;
        let header_len = usize::from(header[0] & 0xf) * 4;
        let total_len = usize::from(word(header, 2)?);
        let lies = header[0] >> 4 != 4
            || header_len < tcp::HEADER_LEN
            || header_len > total_len
            || l3 + total_len > frame.len();
        if lies {
            return None;
        }
        let fragment = word(header, 6)?;
        Some(Self {
            l3,
            l4: l3 + header_len,
            end: l3 + total_len,
            v6: false,
            protocol: header[9],
            fragment: fragment & 0x3fff != 0,
            later_fragment: fragment & 0x1fff != 0,
        })
    }

    fn of_v6(frame: &[u8], l3: usize) -> Option<Self> {
        let header = frame.get(l3..l3 + 40)?;
        let end = l3 + 40 + usize::from(word(header, 4)?);
        if header[0] >> 4 != 6 || end > frame.len() {
            return None;
        }
        let (mut protocol, mut l4, mut fragment, mut later_fragment) = (header[6], l3 + 40, false, false);
        for _ in 0..=EXTENSIONS_MAX {
            let extension = frame.get(l4..end)?;
            let len = match protocol {
                NEXT_HOP_BY_HOP | NEXT_DESTINATION => 8 + 8 * usize::from(*extension.get(1)?),
                // With segments left the final destination is not in the header: the sum is not ours to know.
                NEXT_ROUTING if *extension.get(3)? == 0 => 8 + 8 * usize::from(*extension.get(1)?),
                NEXT_FRAGMENT => {
                    let place = word(extension, 2)?;
                    fragment |= place & 0xfff9 != 0;
                    later_fragment |= place & 0xfff8 != 0;
                    8
                }
                _ => return Some(Self { l3, l4, end, v6: true, protocol, fragment, later_fragment }),
            };
            if len > extension.len() {
                return None;
            }
            protocol = extension[0];
            l4 += len;
            if later_fragment {
                return Some(Self { l3, l4, end, v6: true, protocol, fragment, later_fragment });
            }
        }
        None
    }

    fn trimmed_to_udp(mut self, frame: &[u8]) -> Option<Self> {
        if self.protocol != PROTOCOL_UDP || self.fragment {
            return Some(self);
        }
        let len = usize::from(word(frame.get(self.l4..self.end)?, 4)?);
        if len < 8 || self.l4 + len > self.end {
            return None;
        }
        self.end = self.l4 + len;
        Some(self)
    }

    /// Whether this is a whole TCP packet.
    pub fn is_tcp(&self) -> bool {
        self.protocol == PROTOCOL_TCP && !self.fragment
    }

    /// Whether this is a whole UDP packet.
    pub fn is_udp(&self) -> bool {
        self.protocol == PROTOCOL_UDP && !self.fragment
    }

    /// Where the payload of a whole TCP or UDP packet starts; `None` for anything else and when a header is cut short.
    pub fn payload(&self, frame: &[u8]) -> Option<usize> {
        let len = match self.protocol {
            _ if self.fragment => return None,
            PROTOCOL_UDP => udp::HEADER_LEN,
            PROTOCOL_TCP => usize::from(frame.get(self.l4 + 12)? >> 4) * 4,
            _ => return None,
        };
        let cut = self.protocol == PROTOCOL_TCP && len < tcp::HEADER_LEN || self.l4 + len > self.end;
        (!cut).then_some(self.l4 + len)
    }

    /// How far behind the L4 header its check field lies, for the protocols whose sum covers the pseudo-header.
    pub fn check_offset(&self) -> Option<usize> {
        let offset = match (self.protocol, self.v6) {
            (PROTOCOL_TCP, _) => tcp::CHECKSUM_OFFSET,
            (PROTOCOL_UDP, _) => udp::CHECKSUM_OFFSET,
            (NEXT_ICMPV6, true) => 2,
            _ => return None,
        };
        (!self.later_fragment && self.l4 + offset + 2 <= self.end).then_some(offset)
    }

    /// The sum of the pseudo-header of an L4 packet of `len` bytes between this frame's addresses.
    pub fn pseudo(&self, frame: &[u8], len: usize) -> Sum {
        self.addresses(frame) + Sum::pseudo_rest(self.protocol, len as u32)
    }

    fn addresses(&self, frame: &[u8]) -> Sum {
        Sum::of(if self.v6 { &frame[self.l3 + 8..self.l3 + 40] } else { &frame[self.l3 + 12..self.l3 + 20] })
    }

    /// The octet of DSCP and ECN.
    pub fn tos(&self, frame: &[u8]) -> u8 {
        let header = &frame[self.l3..];
        if self.v6 { header[0] << 4 | header[1] >> 4 } else { header[1] }
    }

    /// IPv4's source and destination; the caller knows the family.
    pub fn addresses_v4(&self, frame: &[u8]) -> (Ipv4Addr, Ipv4Addr) {
        let at = |from: usize| {
            let bytes = &frame[from..from + 4];
            Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
        };
        (at(self.l3 + 12), at(self.l3 + 16))
    }

    /// IPv6's source and destination; the caller knows the family.
    pub fn addresses_v6(&self, frame: &[u8]) -> (Ipv6Addr, Ipv6Addr) {
        let at = |from: usize| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&frame[from..from + 16]);
            Ipv6Addr::from(bytes)
        };
        (at(self.l3 + 8), at(self.l3 + 24))
    }
}

/// The big-endian word at `at`, when it is there.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn extension_headers_are_walked_and_a_routed_packet_stops_the_walk() {
        let mut frame = vec![0; 14 + 40 + 8 + 8 + 8 + 4];
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
        frame[14] = 0x60;
        frame[18..20].copy_from_slice(&28u16.to_be_bytes());
        frame[20] = 0;
        frame[54] = 43;
        frame[62] = PROTOCOL_UDP;
        frame[74..76].copy_from_slice(&12u16.to_be_bytes());
        let layout = Layout::of(&frame).unwrap();
        assert_eq!((layout.l4, layout.end, layout.protocol), (70, 82, PROTOCOL_UDP));
        assert_eq!(layout.payload(&frame), Some(78));
        frame[65] = 1;
        assert_eq!(Layout::of(&frame).unwrap().protocol, 43);
    }

    #[test]
    fn padding_behind_the_packet_is_not_part_of_it() {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&29u16.to_be_bytes());
        frame[23] = PROTOCOL_UDP;
        frame[38..40].copy_from_slice(&9u16.to_be_bytes());
        let layout = Layout::of(&frame).unwrap();
        assert_eq!((layout.l3, layout.l4, layout.end), (14, 34, 43));
        frame[38..40].copy_from_slice(&10u16.to_be_bytes());
        assert_eq!(Layout::of(&frame), None, "a UDP length beyond the packet is a lie");
    }

    proptest! {
        #[test]
        fn where_a_whole_packet_has_a_layout_the_parser_finds_the_same(packet in crate::testing::any_packet(), pokes in prop::collection::vec((14usize..90, any::<u8>()), 0..3)) {
            let mut frame = packet.build();
            for (at, value) in pokes {
                let at = at % frame.len();
                frame[at] = value;
            }
            let whole = Layout::of(&frame).and_then(|layout| Some((layout, layout.payload(&frame)?)));
            if let (Some((layout, payload)), Ok(parsed)) = (whole, crate::parse(&frame, crate::Ingress::default())) {
                let found = (parsed.l3.into(), parsed.l4.into(), parsed.payload.into());
                prop_assert_eq!((layout.l3, layout.l4, payload), found);
                prop_assert!(layout.end <= layout.l3 + parsed.ip_len as usize);
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0usize..3) {
            if bytes.len() > 14 {
                bytes[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0]][kind]);
                bytes[14] = [0x45, 0x60, 0][kind];
            }
            if let Some(layout) = Layout::of(&bytes) {
                prop_assert!(layout.l3 < layout.l4 && layout.l4 <= layout.end && layout.end <= bytes.len());
                prop_assert!(layout.payload(&bytes).is_none_or(|at| at <= layout.end));
                let _ = (layout.check_offset(), layout.tos(&bytes), layout.pseudo(&bytes, 0));
            }
        }
    }
}
