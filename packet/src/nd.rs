//! Neighbour solicitation and advertisement (RFC 4861, sections 4.3, 4.4, 7.1).
//!
//! A message with two link-layer options of one kind is refused: hosts disagree on which of the two counts, so no
//! anti-spoof rule could judge it.

use core::net::Ipv6Addr;

use crate::addr::MacAddr;
use crate::icmpv6::{self, Icmpv6Header, TYPE_NEIGHBOR_ADVERTISEMENT, TYPE_NEIGHBOR_SOLICITATION};

/// Bytes of a message without options, from the ICMPv6 type on.
pub const MESSAGE_LEN: usize = 24;
/// Bytes of a message with one link-layer option.
pub const MESSAGE_WITH_OPTION_LEN: usize = MESSAGE_LEN + OPTION_LEN;
/// Advertisement: the sender is a router.
pub const FLAG_ROUTER: u8 = 0x80;
/// Advertisement: it answers a solicitation.
pub const FLAG_SOLICITED: u8 = 0x40;
/// Advertisement: it overrides what the receiver knows.
pub const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_LEN: usize = 8;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;

/// Why bytes are not a neighbour solicitation or advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NdError {
    /// Shorter than the message, or an option reaches beyond the end.
    #[error("ND: {0} bytes are cut short")]
    Truncated(usize),
    /// Another type of ICMPv6 message.
    #[error("ND: ICMPv6 type {0} is neither solicitation nor advertisement")]
    Kind(u8),
    /// A code other than zero.
    #[error("ND: code {0}")]
    Code(u8),
    /// A group address cannot be asked for.
    #[error("ND: target {0} is a group")]
    GroupTarget(Ipv6Addr),
    /// An option of length zero.
    #[error("ND: option {0} has length zero")]
    OptionLen(u8),
    /// A link-layer option that does not hold six bytes.
    #[error("ND: link-layer option of {0} bytes, expected 8")]
    LinkLayerLen(usize),
    /// Two link-layer options of one kind.
    #[error("ND: two link-layer options {0}")]
    LinkLayerRepeated(u8),
}

/// A checked neighbour solicitation or advertisement.
#[derive(Debug, Clone, Copy)]
pub struct NdView<'a> {
    head: &'a [u8; MESSAGE_LEN],
    link_layer: Option<MacAddr>,
}

impl<'a> NdView<'a> {
    /// Checks the message, from the ICMPv6 type on, and walks its options. The checksum and the hop limit of 255
    /// (section 7.1) are the IP packet's and up to the caller.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NdError> {
        let (head, mut rest): (&[u8; MESSAGE_LEN], _) =
            bytes.split_first_chunk().ok_or(NdError::Truncated(bytes.len()))?;
        let wanted = match head[0] {
            TYPE_NEIGHBOR_SOLICITATION => OPTION_SOURCE,
            TYPE_NEIGHBOR_ADVERTISEMENT => OPTION_TARGET,
            kind => return Err(NdError::Kind(kind)),
        };
        if head[1] != 0 {
            return Err(NdError::Code(head[1]));
        }
        if head[8] == 0xff {
            return Err(NdError::GroupTarget(target(head)));
        }
        let mut view = Self { head, link_layer: None };
        while !rest.is_empty() {
            let &[kind, units, ..] = rest else { return Err(NdError::Truncated(bytes.len())) };
            let len = usize::from(units) * 8;
            if len == 0 {
                return Err(NdError::OptionLen(kind));
            }
            let (option, behind) = rest.split_at_checked(len).ok_or(NdError::Truncated(bytes.len()))?;
            if kind == wanted {
                view.add_link_layer(option)?;
            }
            rest = behind;
        }
        Ok(view)
    }

    fn add_link_layer(&mut self, option: &[u8]) -> Result<(), NdError> {
        let &[kind, _, a, b, c, d, e, f] = option else { return Err(NdError::LinkLayerLen(option.len())) };
        if self.link_layer.is_some() {
            return Err(NdError::LinkLayerRepeated(kind));
        }
        self.link_layer = Some(MacAddr([a, b, c, d, e, f]));
        Ok(())
    }

    /// Whether it is a solicitation; else it is an advertisement.
    pub fn is_solicitation(&self) -> bool {
        self.head[0] == TYPE_NEIGHBOR_SOLICITATION
    }

    /// The octet behind the checksum: an advertisement's flags, reserved in a solicitation.
    pub fn flags(&self) -> u8 {
        self.head[4]
    }

    /// The address that is asked for, or whose owner speaks.
    pub fn target(&self) -> Ipv6Addr {
        target(self.head)
    }

    /// The source link-layer address option of a solicitation, the target link-layer address option of an
    /// advertisement.
    pub fn link_layer(&self) -> Option<MacAddr> {
        self.link_layer
    }

    /// The message's values.
    pub fn header(&self) -> NdHeader {
        let (target, link_layer) = (self.target(), self.link_layer);
        if self.is_solicitation() {
            NdHeader::Solicitation { target, link_layer }
        } else {
            NdHeader::Advertisement { flags: self.flags(), target, link_layer }
        }
    }
}

/// The values of a neighbour solicitation or advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NdHeader {
    /// The target is at the link-layer address.
    Advertisement {
        /// [`FLAG_ROUTER`], [`FLAG_SOLICITED`], [`FLAG_OVERRIDE`].
        flags: u8,
        /// Whose owner speaks.
        target: Ipv6Addr,
        /// The target's link-layer address.
        link_layer: Option<MacAddr>,
    },
    /// Who has the target?
    Solicitation {
        /// The address that is asked for.
        target: Ipv6Addr,
        /// The sender's link-layer address.
        link_layer: Option<MacAddr>,
    },
}

impl NdHeader {
    /// Bytes of the message.
    pub const fn message_len(&self) -> usize {
        match self {
            Self::Advertisement { link_layer: Some(_), .. } | Self::Solicitation { link_layer: Some(_), .. } => {
                MESSAGE_WITH_OPTION_LEN
            }
            _ => MESSAGE_LEN,
        }
    }

    /// Writes the message, its checksum for a packet from `src` to `dst` included, to the front of `out`.
    ///
    /// # Panics
    /// When `out` is shorter than [`Self::message_len`]: the caller's bug.
    pub fn emit(&self, src: Ipv6Addr, dst: Ipv6Addr, out: &mut [u8]) {
        let (kind, flags, target, option, link_layer) = match *self {
            Self::Advertisement { flags, target, link_layer } => {
                (TYPE_NEIGHBOR_ADVERTISEMENT, flags, target, OPTION_TARGET, link_layer)
            }
            Self::Solicitation { target, link_layer } => {
                (TYPE_NEIGHBOR_SOLICITATION, 0, target, OPTION_SOURCE, link_layer)
            }
        };
        let out = &mut out[..self.message_len()];
        out[icmpv6::HEADER_LEN..MESSAGE_LEN].copy_from_slice(&target.octets());
        if let Some(mac) = link_layer {
            out[MESSAGE_LEN..MESSAGE_LEN + 2].copy_from_slice(&[option, 1]);
            out[MESSAGE_LEN + 2..].copy_from_slice(&mac.0);
        }
        Icmpv6Header { kind, code: 0, word: u32::from(flags) << 24 }.emit(src, dst, out);
    }
}

/// The group that a solicitation for `target` is sent to (RFC 4291, section 2.7.1).
pub const fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xff02_0000_0000_0000_0000_0001_ff00_0000 | target.to_bits() & 0xff_ffff)
}

/// The Ethernet address of an IPv6 group (RFC 2464, section 7).
pub const fn group_mac(group: Ipv6Addr) -> MacAddr {
    let octets = group.octets();
    MacAddr([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]])
}

fn target(head: &[u8; MESSAGE_LEN]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&head[8..24]);
    octets.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);

    fn solicitation() -> [u8; MESSAGE_WITH_OPTION_LEN] {
        let mut bytes = [0xaa; MESSAGE_WITH_OPTION_LEN];
        let link_layer = Some(MacAddr([2, 0, 0, 0, 0, 1]));
        NdHeader::Solicitation { target: TARGET, link_layer }.emit(TARGET, TARGET, &mut bytes);
        bytes
    }

    #[test]
    fn each_lie_has_its_own_error() {
        let good = solicitation();
        assert_eq!(NdView::parse(&good[..23]).err(), Some(NdError::Truncated(23)));
        assert_eq!(NdView::parse(&good[..31]).err(), Some(NdError::Truncated(31)));
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            NdView::parse(&bytes).err()
        };
        assert_eq!(with(0, 134), Some(NdError::Kind(134)));
        assert_eq!(with(1, 1), Some(NdError::Code(1)));
        assert!(matches!(with(8, 0xff), Some(NdError::GroupTarget(_))));
        assert_eq!(with(25, 0), Some(NdError::OptionLen(OPTION_SOURCE)));
        let twice = [&good[..], &good[24..]].concat();
        assert_eq!(NdView::parse(&twice).err(), Some(NdError::LinkLayerRepeated(OPTION_SOURCE)));
        let mut long = twice;
        long[25] = 2;
        assert_eq!(NdView::parse(&long).err(), Some(NdError::LinkLayerLen(16)));
    }

    #[test]
    fn an_option_of_another_kind_is_passed_over() {
        let mut bytes = solicitation();
        bytes[24] = OPTION_TARGET;
        assert_eq!(NdView::parse(&bytes).unwrap().link_layer(), None);
    }

    #[test]
    fn the_solicited_node_group_keeps_the_low_24_bits() {
        let group = solicited_node("fd09::12:3456".parse().unwrap());
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!(group_mac(group), "33:33:ff:12:34:56".parse().unwrap());
    }
}
