//! An interface address: an IP address with its prefix length, written `10.9.0.1/24`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address and the length of its network's prefix. Unlike a CIDR it has host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfAddr {
    /// The address.
    pub addr: IpAddr,
    /// Prefix length, in bits.
    pub prefix_len: u8,
}

/// Why a text is not an interface address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address with a prefix length: write it such as 10.9.0.1/24 or fd09::1/64")]
pub struct InvalidIfAddr(String);

impl FromStr for IfAddr {
    type Err = InvalidIfAddr;

    fn from_str(text: &str) -> Result<Self, InvalidIfAddr> {
        let bad = || InvalidIfAddr(text.to_owned());
        let (addr, prefix_len) = text.split_once('/').ok_or_else(bad)?;
        let addr: IpAddr = addr.parse().map_err(|_| bad())?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_| bad())?;
        let max = if addr.is_ipv4() { 32 } else { 128 };
        if prefix_len > max { Err(bad()) } else { Ok(Self { addr, prefix_len }) }
    }
}

impl TryFrom<String> for IfAddr {
    type Error = InvalidIfAddr;

    fn try_from(text: String) -> Result<Self, InvalidIfAddr> {
        text.parse()
    }
}

impl From<IfAddr> for String {
    fn from(address: IfAddr) -> Self {
        address.to_string()
    }
}

impl fmt::Display for IfAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_was_written() {
        for text in ["10.9.0.1/24", "fd09::1/64", "192.0.2.1/32", "::1/128"] {
            assert_eq!(text.parse::<IfAddr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_lacks_a_sane_prefix_is_refused() {
        for text in ["10.9.0.1", "10.9.0.1/33", "fd09::1/129", "10.9.0/24", "/24", "10.9.0.1/-1"] {
            assert!(text.parse::<IfAddr>().is_err(), "{text}");
        }
    }
}
