//! The flow key: every field that a rule can match on, at a fixed place in an array of words.
//!
//! One shape serves keys, masks, matches, the exact cache and the record of what an evaluation read, so the
//! classifier needs no code per field. Words 0..[`EXACT_WORDS`] are the exact-match cache's key; words from there to
//! [`PARSED_WORDS`] come from the frame too but only guard a cached result; the rest is the pipeline's own state.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::{BitAnd, BitOrAssign};

use serde::{Deserialize, Serialize};

use crate::addr::MacAddr;

/// Words of a key.
pub const KEY_WORDS: usize = 20;
/// Words that make up the exact-match cache's key.
pub const EXACT_WORDS: usize = 9;
/// Words that come from the frame; the rest (metadata, registers) starts at zero.
pub const PARSED_WORDS: usize = 15;
/// Registers of the pipeline, 32 bits each.
pub const REGISTERS: usize = 8;

macro_rules! fields {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $word:literal, $shift:literal, $bits:literal;)+) => {
        /// A field of the key. The names in texts are OpenFlow's where it has the field.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum Field { $($(#[doc = $doc])+ $name,)+ }

        impl Field {
            /// All fields, in declaration order: `ALL[f as usize] == f`.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
            const PLACES: &'static [(&'static str, u8, u8, u8)] = &[$(($text, $word, $shift, $bits),)+];
        }
    };
}

fields! {
    /// The port that the frame entered by; 0 when it came out of a tunnel.
    InPort = "in_port", 0, 32, 32;
    /// The remote VTEP that sent it; 0 when it came from a port.
    InRemote = "tunnel_remote", 0, 0, 32;
    /// The VNI it came with; 0 when it came from a port.
    Vni = "tunnel_id", 1, 32, 32;
    /// 0 whole packet, 1 first fragment, 3 later fragment (bit 0: any fragment, bit 1: not the first).
    Fragment = "ip_frag", 1, 24, 8;
    /// DSCP (high 6 bits) and ECN (low 2).
    IpTos = "ip_tos", 1, 16, 8;
    /// IP protocol, the last next-header of IPv6; for ARP the operation.
    IpProto = "ip_proto", 1, 8, 8;
    /// Destination MAC address.
    EthDst = "eth_dst", 2, 16, 48;
    /// Type of the payload, behind any VLAN tag; 0x05ff for LLC.
    EthType = "eth_type", 2, 0, 16;
    /// Source MAC address.
    EthSrc = "eth_src", 3, 16, 48;
    /// VLAN TCI with bit 12 set when there is a tag; 0 when there is none.
    VlanTci = "vlan_tci", 3, 0, 16;
    /// Source port of TCP and UDP, type of ICMP; 0 in later fragments.
    L4Src = "l4_src", 4, 16, 16;
    /// Destination port of TCP and UDP, code of ICMP; 0 in later fragments.
    L4Dst = "l4_dst", 4, 0, 16;
    /// Source address (IPv4 in the low 32 bits), or ARP's sender address.
    IpSrc = "ip_src", 5, 0, 128;
    /// Destination address (IPv4 in the low 32 bits), or ARP's target address.
    IpDst = "ip_dst", 7, 0, 128;
    /// TTL or hop limit.
    IpTtl = "ip_ttl", 9, 0, 8;
    /// TCP flags, FIN in bit 0.
    TcpFlags = "tcp_flags", 9, 8, 16;
    /// ARP sender hardware address, or the link-layer address option of an ND message; 0 when there is none.
    ArpSha = "arp_sha", 10, 0, 48;
    /// ARP target hardware address.
    ArpTha = "arp_tha", 11, 0, 48;
    /// Target address of a neighbour solicitation or advertisement.
    NdTarget = "nd_target", 12, 0, 128;
    /// Flags and number of the link-layer option of an ND message: bits 0..8 ICMPv6 flags octet.
    NdFlags = "nd_flags", 14, 0, 8;
    /// The pipeline's metadata.
    Metadata = "metadata", 15, 0, 64;
    /// Register 0.
    Reg0 = "reg0", 16, 0, 32;
    /// Register 1.
    Reg1 = "reg1", 16, 32, 32;
    /// Register 2.
    Reg2 = "reg2", 17, 0, 32;
    /// Register 3.
    Reg3 = "reg3", 17, 32, 32;
    /// Register 4.
    Reg4 = "reg4", 18, 0, 32;
    /// Register 5.
    Reg5 = "reg5", 18, 32, 32;
    /// Register 6.
    Reg6 = "reg6", 19, 0, 32;
    /// Register 7.
    Reg7 = "reg7", 19, 32, 32;
}

impl Field {
    /// The name in texts and on the wire.
    pub const fn name(self) -> &'static str {
        Self::PLACES[self as usize].0
    }

    /// Width in bits.
    pub const fn bits(self) -> u32 {
        Self::PLACES[self as usize].3 as u32
    }

    /// All ones in the field's width.
    pub const fn all_ones(self) -> u128 {
        u128::MAX >> (128 - self.bits())
    }

    /// The field of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|f| f.name() == name)
    }

    /// Register `index`.
    pub fn register(index: usize) -> Option<Self> {
        (index < REGISTERS).then(|| Self::ALL[Self::Reg0 as usize + index])
    }
}

/// The fields of one frame at one place of the pipeline; also a mask over them, a one for each bit that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct FlowKey(pub [u64; KEY_WORDS]);

/// A mask is a key whose ones say which bits count.
pub type FlowMask = FlowKey;

impl FlowKey {
    /// Nothing set; as a mask, matches everything.
    pub const ZERO: Self = Self([0; KEY_WORDS]);

    /// The field's value, right aligned.
    #[inline]
    pub const fn field(&self, field: Field) -> u128 {
        let (_, word, shift, bits) = Field::PLACES[field as usize];
        if bits == 128 {
            return (self.0[word as usize] as u128) << 64 | self.0[word as usize + 1] as u128;
        }
        ((self.0[word as usize] >> shift) & (u64::MAX >> (64 - bits))) as u128
    }

    /// Sets the field; bits beyond its width are ignored.
    #[inline]
    pub const fn set(&mut self, field: Field, value: u128) {
        let (_, word, shift, bits) = Field::PLACES[field as usize];
        let word = word as usize;
        if bits == 128 {
            self.0[word] = (value >> 64) as u64;
            self.0[word + 1] = value as u64;
            return;
        }
        let ones = u64::MAX >> (64 - bits);
        self.0[word] = self.0[word] & !(ones << shift) | (value as u64 & ones) << shift;
    }

    /// A mask of one whole field.
    pub const fn only(field: Field) -> Self {
        Self::ZERO.with(field, field.all_ones())
    }

    /// The key with the field set, for building matches.
    #[must_use]
    #[inline]
    pub const fn with(mut self, field: Field, value: u128) -> Self {
        self.set(field, value);
        self
    }

    /// Whether no bit is set.
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// Whether `key` has this match's bits where `mask` is one.
    pub fn matches(&self, mask: &Self, key: &Self) -> bool {
        (0..KEY_WORDS).all(|i| key.0[i] & mask.0[i] == self.0[i])
    }

    /// A MAC address field.
    pub const fn mac(&self, field: Field) -> MacAddr {
        MacAddr::from_u64(self.field(field) as u64)
    }

    /// An address field, read by the key's own Ethernet type.
    pub fn ip(&self, field: Field) -> Option<IpAddr> {
        let value = self.field(field);
        match self.field(Field::EthType) as u16 {
            crate::ethernet::ETHERTYPE_IPV4 | crate::ethernet::ETHERTYPE_ARP => {
                Some(Ipv4Addr::from(value as u32).into())
            }
            crate::ethernet::ETHERTYPE_IPV6 => Some(Ipv6Addr::from(value).into()),
            _ => None,
        }
    }
}

/// An address as a field value: IPv4 in the low 32 bits.
pub const fn ip_field(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_bits() as u128,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl BitOrAssign<&Self> for FlowKey {
    fn bitor_assign(&mut self, other: &Self) {
        for (word, with) in self.0.iter_mut().zip(other.0) {
            *word |= with;
        }
    }
}

impl BitAnd for &FlowKey {
    type Output = FlowKey;

    fn bitand(self, mask: Self) -> FlowKey {
        FlowKey(core::array::from_fn(|i| self.0[i] & mask.0[i]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_reads_back_and_touches_no_other() {
        for &field in Field::ALL {
            let mut key = FlowKey([u64::MAX; KEY_WORDS]);
            key.set(field, 0);
            assert_eq!(key.field(field), 0);
            for &other in Field::ALL.iter().filter(|o| **o != field) {
                assert_eq!(key.field(other), other.all_ones(), "{} overlaps {}", field.name(), other.name());
            }
            key.set(field, u128::MAX);
            assert_eq!(key.field(field), field.all_ones());
            assert_eq!(Field::from_name(field.name()), Some(field));
            assert_eq!(Field::ALL[field as usize], field);
        }
    }
}
