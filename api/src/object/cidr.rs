//! A subnet's address range. Host bits are refused rather than cleared: whoever writes 10.9.0.5/24 means something else.

use core::fmt;
use core::str::FromStr;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An address range in prefix notation, host bits zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr(IpNet);

/// Why a text is not an address range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCidr {
    /// No address and prefix length.
    #[error("`{0}` is not an address range: write ADDRESS/LENGTH, such as 10.9.0.0/24 or fd09::/64")]
    Form(String),
    /// Bits behind the prefix are set.
    #[error("`{given}` has host bits set: write {meant}")]
    HostBits {
        /// What was given.
        given: String,
        /// The range it lies in.
        meant: String,
    },
}

impl Cidr {
    /// The lowest address.
    pub fn network(&self) -> IpAddr {
        self.0.network()
    }

    /// The highest address, which in IPv4 is the broadcast address.
    pub fn last(&self) -> IpAddr {
        self.0.broadcast()
    }

    /// The prefix length, in bits.
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether the address lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether some address lies in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0.network()) || other.0.contains(&self.0.network())
    }

    /// Whether the range is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }

    /// Whether a guest may have the address: in the range, and neither its network address (in IPv6 the
    /// subnet-router anycast address) nor its broadcast address. Ranges of one or two addresses reserve none
    /// (RFC 3021, RFC 6164).
    pub fn is_assignable(&self, address: IpAddr) -> bool {
        if !self.contains(address) {
            return false;
        }
        if self.0.max_prefix_len() - self.0.prefix_len() <= 1 {
            return true;
        }
        address != self.network() && !(self.is_ipv4() && address == self.last())
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let net: IpNet = text.parse().map_err(|_| InvalidCidr::Form(text.to_owned()))?;
        if net.trunc() != net {
            return Err(InvalidCidr::HostBits { given: text.to_owned(), meant: net.trunc().to_string() });
        }
        Ok(Self(net))
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidCidr;

    fn try_from(text: String) -> Result<Self, InvalidCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_refused_with_the_range_that_was_meant() {
        let error = "10.9.0.5/24".parse::<Cidr>().unwrap_err();
        assert_eq!(error.to_string(), "`10.9.0.5/24` has host bits set: write 10.9.0.0/24");
        for text in ["", "10.9.0.0", "10.9.0.0/33", "fd09::/129", "10.9/16", "x/24"] {
            assert_eq!(text.parse::<Cidr>(), Err(InvalidCidr::Form(text.to_owned())));
        }
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        assert!(cidr("10.0.0.0/8").overlaps(&cidr("10.9.0.0/24")));
        assert!(cidr("10.9.0.0/24").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.9.0.0/24").overlaps(&cidr("10.9.1.0/24")));
        assert!(!cidr("0.0.0.0/0").overlaps(&cidr("::/0")));
    }

    #[test]
    fn network_and_broadcast_addresses_are_not_for_guests() {
        let assignable = |range: &str, address: &str| cidr(range).is_assignable(address.parse().unwrap());
        assert!(!assignable("10.9.0.0/24", "10.9.0.0"));
        assert!(!assignable("10.9.0.0/24", "10.9.0.255"));
        assert!(assignable("10.9.0.0/24", "10.9.0.1"));
        assert!(!assignable("fd09::/64", "fd09::"));
        assert!(assignable("fd09::/64", "fd09::ffff:ffff:ffff:ffff"));
        assert!(assignable("10.9.0.0/31", "10.9.0.0"));
        assert!(assignable("10.9.0.7/32", "10.9.0.7"));
        assert!(!assignable("10.9.0.0/24", "10.9.1.1"));
    }
}
