//! The Internet checksum (RFC 1071): sums that are kept un-folded until they are needed.
//!
//! A [`Sum`] adds 32-bit lanes in native byte order, which the sum does not mind, and is turned to network order
//! once, when it is folded. The loop is plain Rust that the compiler vectorises for the baseline machine.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::{Add, AddAssign};

/// An un-folded one's complement sum of 16-bit words.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Nothing summed.
    pub const ZERO: Self = Self(0);

    /// The sum over `bytes`, of any alignment; an odd last byte counts as the high half of a word.
    pub fn of(bytes: &[u8]) -> Self {
        let (blocks, tail) = bytes.as_chunks::<64>();
        let mut lanes = [0u64; 8];
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                let word = u64::from_ne_bytes(*word);
                *lane += (word & 0xffff_ffff) + (word >> 32);
            }
        }
        let (words, rest) = tail.as_chunks::<4>();
        let mut total = lanes.iter().sum::<u64>();
        for word in words {
            total += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Self(total + u64::from(u32::from_ne_bytes(last)))
    }

    /// The sum of one word, given as a number.
    pub const fn word(value: u16) -> Self {
        Self(value.to_be() as u64)
    }

    /// The pseudo-header of a TCP, UDP or ICMPv6 packet (RFC 768, RFC 8200 section 8.1). `len` counts from the L4
    /// header to the end of the packet.
    ///
    /// The addresses are of one family; a mixed pair is the caller's bug and sums to something useless.
    pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: u32) -> Self {
        Self::address(src) + Self::address(dst) + Self::pseudo_rest(protocol, len)
    }

    /// [`Self::pseudo`] of IPv4.
    pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Self {
        Self::of(&src.octets()) + Self::of(&dst.octets()) + Self::pseudo_rest(protocol, len.into())
    }

    /// [`Self::pseudo`] of IPv6.
    pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: u32) -> Self {
        Self::of(&src.octets()) + Self::of(&dst.octets()) + Self::pseudo_rest(protocol, len)
    }

    /// The part of the pseudo-header behind the addresses.
    pub fn pseudo_rest(protocol: u8, len: u32) -> Self {
        Self::of(&len.to_be_bytes()) + Self::word(protocol.into())
    }

    fn address(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::of(&v4.octets()),
            IpAddr::V6(v6) => Self::of(&v6.octets()),
        }
    }

    /// Adds the sum of bytes that lie `offset` bytes behind the start of the bytes summed here: at an odd offset
    /// their halves change places.
    #[must_use]
    pub fn combine(self, later: Self, offset: usize) -> Self {
        if offset.is_multiple_of(2) { self + later } else { self + Self::word(later.fold().swap_bytes()) }
    }

    /// The sum folded to 16 bits, not inverted, as a number (store it with `to_be_bytes`).
    pub const fn fold(self) -> u16 {
        let mut sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        u16::from_be(sum as u16)
    }

    /// The check field's value: the folded sum, inverted.
    pub const fn finish(self) -> u16 {
        !self.fold()
    }

    /// Whether this is the sum of bytes that hold their own correct check field.
    pub const fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }
}

impl Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (sum, carry) = self.0.overflowing_add(other.0);
        Self(sum + u64::from(carry))
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// The check field's value for `bytes`, whose own check field is zero (or not among them).
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::of(bytes).finish()
}

/// A complete check field after `old` words became `new` words (RFC 1624, equation 3): `HC' = ~(~HC + ~m + m')`.
///
/// `old` and `new` are of one length and start at an even offset; another pair is the caller's bug.
pub fn update(check: u16, old: &[u8], new: &[u8]) -> u16 {
    debug_assert_eq!(old.len(), new.len());
    !patch(!check, old, new)
}

/// A folded sum that is not inverted (the check field under [`Partial`](crate::Csum::Partial)) after `old` words
/// became `new` words.
pub fn patch(sum: u16, old: &[u8], new: &[u8]) -> u16 {
    (Sum::word(sum) + Sum::word(!Sum::of(old).fold()) + Sum::of(new)).fold()
}

/// [`update`] of one 16-bit word.
pub fn update16(check: u16, old: u16, new: u16) -> u16 {
    update(check, &old.to_be_bytes(), &new.to_be_bytes())
}

/// [`update`] of a 32-bit field, such as an IPv4 address.
pub fn update32(check: u16, old: u32, new: u32) -> u16 {
    update(check, &old.to_be_bytes(), &new.to_be_bytes())
}

/// [`update`] of a 128-bit field, such as an IPv6 address.
pub fn update128(check: u16, old: u128, new: u128) -> u16 {
    update(check, &old.to_be_bytes(), &new.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071_sums_as_it_says() {
        assert_eq!(Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_updates_as_it_says() {
        assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn the_longest_frame_of_ones_does_not_overflow() {
        assert_eq!(Sum::of(&[0xff; 65_536]).fold(), 0xffff);
        assert_eq!((Sum(u64::MAX) + Sum(u64::MAX)).fold(), 0xffff);
    }

    #[test]
    fn a_pseudo_header_sums_like_its_bytes() {
        let v4 = Sum::pseudo_v4([10, 9, 0, 1].into(), [10, 9, 0, 2].into(), 6, 1480);
        assert_eq!(v4.fold(), slow(&[10, 9, 0, 1, 10, 9, 0, 2, 0, 6, 0x05, 0xc8]));
        assert_eq!(v4.fold(), Sum::pseudo([10, 9, 0, 1].into(), [10, 9, 0, 2].into(), 6, 1480).fold());
        let (a, b) = (Ipv6Addr::from(0xfd09_u128 << 112 | 1), Ipv6Addr::from(0xfd09_u128 << 112 | 2));
        let mut bytes = [a.octets(), b.octets()].concat();
        bytes.extend([0, 1, 0, 2, 0, 0, 0, 17]);
        assert_eq!(Sum::pseudo_v6(a, b, 17, 65_538).fold(), slow(&bytes));
        assert_eq!(Sum::pseudo(a.into(), b.into(), 17, 65_538).fold(), slow(&bytes));
    }

    proptest! {
        #[test]
        fn a_sum_equals_the_slow_one_at_any_alignment(bytes in prop::collection::vec(any::<u8>(), 0..300), skip in 0usize..9) {
            let bytes = &bytes[skip.min(bytes.len())..];
            prop_assert_eq!(Sum::of(bytes).fold(), slow(bytes));
        }

        #[test]
        fn two_parts_combine_at_any_offset(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let cut = cut.min(bytes.len());
            let (a, b) = bytes.split_at(cut);
            prop_assert_eq!(Sum::of(a).combine(Sum::of(b), cut).fold(), slow(&bytes));
        }

        #[test]
        fn an_update_leaves_the_bytes_valid(mut bytes in prop::collection::vec(any::<u8>(), 20..64), at in 1usize..5, new in any::<[u8; 16]>(), wide in 0usize..3) {
            let len = [2, 4, 16][wide].min(bytes.len() - 2 * at) & !1;
            bytes[..2].fill(0);
            bytes[2] |= 1;
            let check = checksum(&bytes);
            let field = 2 * at..2 * at + len;
            let updated = update(check, &bytes[field.clone()], &new[..len]);
            let patched = patch(!check, &bytes[field.clone()], &new[..len]);
            bytes[field].copy_from_slice(&new[..len]);
            prop_assert_eq!(patched, !updated);
            bytes[..2].copy_from_slice(&updated.to_be_bytes());
            // All-zero bytes cannot hold a valid non-zero check field; RFC 1624 keeps what the field was then.
            prop_assume!(bytes.iter().any(|b| *b != 0));
            prop_assert!(Sum::of(&bytes).is_valid());
        }

        #[test]
        fn the_sized_updates_are_the_general_one(check in any::<u16>(), old in any::<u128>(), new in any::<u128>()) {
            prop_assert_eq!(update128(check, old, new), update(check, &old.to_be_bytes(), &new.to_be_bytes()));
            let (old, new) = (old as u32, new as u32);
            prop_assert_eq!(update32(check, old, new), update(check, &old.to_be_bytes(), &new.to_be_bytes()));
        }
    }
}
