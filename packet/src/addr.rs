//! Link-layer addresses and the VXLAN network identifier.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// An Ethernet address, in wire order (IEEE 802-2014, section 8.2).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// Why a text is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a MAC address: write six hex octets, such as 02:00:00:00:00:01")]
pub struct InvalidMac(pub String);

/// Why a number is not a VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a VNI: use 1 to 16777215")]
pub struct InvalidVni(pub u32);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`, which no station may use as a source.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether the group bit is set (multicast and broadcast).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is a station's address: no group bit, not zero.
    pub const fn is_unicast(self) -> bool {
        !self.is_group() && self.to_u64() != 0
    }

    /// The address as the low 48 bits of a number, first octet highest.
    pub const fn to_u64(self) -> u64 {
        let a = self.0;
        u64::from_be_bytes([0, 0, a[0], a[1], a[2], a[3], a[4], a[5]])
    }

    /// Inverse of [`Self::to_u64`]; the high 16 bits are ignored.
    pub const fn from_u64(value: u64) -> Self {
        let b = value.to_be_bytes();
        Self([b[2], b[3], b[4], b[5], b[6], b[7]])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let bad = || InvalidMac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(bad)?;
            let hex = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            *octet = u8::from_str_radix(part, 16).ok().filter(|_| hex).ok_or_else(bad)?;
        }
        if parts.next().is_some() { Err(bad()) } else { Ok(Self(octets)) }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 6]>::deserialize(d).map(Self)
        }
    }
}

/// A VXLAN network identifier: 24 bits, zero refused (RFC 7348, section 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(core::num::NonZeroU32);

impl Vni {
    /// The largest legal value.
    pub const MAX: u32 = 0xff_ffff;
    /// Reserved in every fabric for probes between hosts; no network has it and nothing in it is ever bridged.
    pub const PROBE: Self = Self(core::num::NonZeroU32::MIN.saturating_add(Self::MAX - 1));

    /// Checks the range.
    pub const fn new(value: u32) -> Result<Self, InvalidVni> {
        match core::num::NonZeroU32::new(value) {
            Some(vni) if value <= Self::MAX => Ok(Self(vni)),
            _ => Err(InvalidVni(value)),
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;

    fn try_from(value: u32) -> Result<Self, InvalidVni> {
        Self::new(value)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.get()
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_reads_back_as_it_was_written() {
        let mac: MacAddr = "02:00:5e:10:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        assert_eq!(MacAddr::from_u64(mac.to_u64()), mac);
        assert!(mac.is_unicast());
    }

    #[test]
    fn a_text_that_is_no_mac_is_refused() {
        for text in [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:g0",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(InvalidMac(text.to_owned())));
        }
    }

    #[test]
    fn vni_zero_and_vni_max_plus_one_are_refused() {
        assert_eq!(Vni::new(0), Err(InvalidVni(0)));
        assert_eq!(Vni::new(Vni::MAX + 1), Err(InvalidVni(Vni::MAX + 1)));
        assert_eq!(Vni::new(Vni::MAX).unwrap().get(), Vni::MAX);
    }
}
