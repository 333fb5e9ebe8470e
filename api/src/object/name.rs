//! Names of objects, and references that cross a tenant's border.

use core::fmt;
use core::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name, in characters (a DNS label's bound, RFC 1035, section 2.3.4).
pub const NAME_LEN_MAX: usize = 63;

/// What an object is called: lowercase letters, digits and hyphens, as in a DNS label.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a name: use 1 to 63 lowercase letters, digits and hyphens, with no hyphen at either end")]
pub struct InvalidName(pub String);

impl Name {
    /// Checks the form.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let bytes = text.as_bytes();
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inside = bytes.iter().all(|b| plain(b) || *b == b'-');
        let ends = bytes.first().is_some_and(plain) && bytes.last().is_some_and(plain);
        if inside && ends && bytes.len() <= NAME_LEN_MAX {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName(text.into()))
        }
    }

    /// The first of all names in order, where a range of names begins.
    pub fn least() -> Self {
        Self("0".into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A network, named from outside its tenant: `red/blue` is tenant red's network blue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkRef {
    /// Whose.
    pub tenant: Name,
    /// Which.
    pub network: Name,
}

/// Why a text is not a reference to a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not name a network: write TENANT/NETWORK, such as red/blue")]
pub struct InvalidNetworkRef(pub String);

impl FromStr for NetworkRef {
    type Err = InvalidNetworkRef;

    fn from_str(text: &str) -> Result<Self, InvalidNetworkRef> {
        let bad = || InvalidNetworkRef(text.to_owned());
        let (tenant, network) = text.split_once('/').ok_or_else(bad)?;
        let tenant = Name::new(tenant).map_err(|_| bad())?;
        let network = Name::new(network).map_err(|_| bad())?;
        Ok(Self { tenant, network })
    }
}

impl TryFrom<String> for NetworkRef {
    type Error = InvalidNetworkRef;

    fn try_from(text: String) -> Result<Self, InvalidNetworkRef> {
        text.parse()
    }
}

impl From<NetworkRef> for String {
    fn from(reference: NetworkRef) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for NetworkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_form_of_a_dns_label() {
        let longest = "a".repeat(NAME_LEN_MAX);
        for good in ["a", "h1", "web-01", "0", longest.as_str()] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        let too_long = "a".repeat(NAME_LEN_MAX + 1);
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "ä", too_long.as_str()] {
            assert_eq!(Name::new(bad), Err(InvalidName(bad.to_owned())));
        }
    }

    #[test]
    fn a_network_reference_reads_back_as_it_was_written() {
        let reference: NetworkRef = "red/blue".parse().unwrap();
        assert_eq!((reference.tenant.as_str(), reference.network.as_str()), ("red", "blue"));
        assert_eq!(reference.to_string(), "red/blue");
        for bad in ["", "red", "red/", "/blue", "red/blue/green", "Red/blue"] {
            assert_eq!(bad.parse::<NetworkRef>(), Err(InvalidNetworkRef(bad.to_owned())));
        }
    }
}
