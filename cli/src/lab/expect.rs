//! Expectations: who reaches whom, and who must not.
//!
//! One line of the file may name several guests and protocols; it stands for every combination, a [`Case`] each.

use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::topology::{Guest, Topology};

/// One line under `expectations`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// What is sent arrives at the named guest.
    Reach(Between),
    /// It does not, and nobody of another tenant sees it either.
    NotReach(Between),
}

/// From whom to whom, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Between {
    /// Sending guests.
    pub from: OneOrMany<String>,
    /// Guests that it is meant for.
    pub to: OneOrMany<String>,
    /// How to ask; ICMP echo when left out.
    #[serde(default)]
    pub protocol: OneOrMany<Protocol>,
    /// Destination addresses; all addresses of the named guest when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<OneOrMany<IpAddr>>,
    /// Destination UDP or TCP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The drop reason that must rise (`not-reach` only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<weft_api::DropReason>,
}

/// How a case is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Echo request.
    #[default]
    Icmp,
    /// One datagram.
    Udp,
    /// A connection and its first bytes.
    Tcp,
}

impl Protocol {
    /// Its name in files and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A value or a list of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    /// All of them.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// By hand, because a derived untagged enum says only that no variant fits, not why.
impl<'de, T: DeserializeOwned> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let read = if value.is_array() {
            serde_json::from_value(value).map(Self::Many)
        } else {
            serde_json::from_value(value).map(Self::One)
        };
        read.map_err(serde::de::Error::custom)
    }
}

impl<T: Default> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::One(T::default())
    }
}

/// One question: does what `from` sends to `address` arrive at `to`?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Sending guest.
    pub from: String,
    /// The guest that it is meant for.
    pub to: String,
    /// How.
    pub protocol: Protocol,
    /// Destination address.
    pub address: IpAddr,
    /// Destination UDP or TCP port; chosen per run when `None`.
    pub port: Option<u16>,
    /// Whether it must arrive.
    pub reach: bool,
    /// The drop reason that must rise.
    pub drop: Option<weft_api::DropReason>,
}

impl Expectation {
    /// From whom to whom.
    pub const fn between(&self) -> &Between {
        match self {
            Self::Reach(between) | Self::NotReach(between) => between,
        }
    }

    /// Whether it must arrive.
    pub const fn is_reach(&self) -> bool {
        matches!(self, Self::Reach(_))
    }

    /// Every combination that the line stands for.
    pub fn cases(&self, topology: &Topology) -> Vec<Case> {
        let between = self.between();
        let mut cases = Vec::new();
        for from in between.from.as_slice() {
            for to in between.to.as_slice().iter().filter(|to| *to != from) {
                let (Some(source), Some(target)) = (topology.guest(from), topology.guest(to)) else { continue };
                for &protocol in between.protocol.as_slice() {
                    for address in self.addresses(source, target) {
                        cases.push(Case {
                            from: from.clone(),
                            to: to.clone(),
                            protocol,
                            address,
                            port: between.port,
                            reach: self.is_reach(),
                            drop: between.drop,
                        });
                    }
                }
            }
        }
        cases
    }

    /// The addresses to ask: those of the line, or those of the target whose family the source has, too.
    fn addresses(&self, source: &Guest, target: &Guest) -> Vec<IpAddr> {
        if let Some(addresses) = &self.between().address {
            return addresses.as_slice().to_vec();
        }
        let has = |v4: bool| source.ports.iter().flat_map(|p| &p.addresses).any(|a| a.addr.is_ipv4() == v4);
        let all = target.ports.iter().flat_map(|p| &p.addresses).map(|a| a.addr);
        all.filter(|a| has(a.is_ipv4())).collect()
    }

    pub(super) fn check(&self, topology: &Topology, path: &str, say: &mut impl FnMut(String, String)) {
        let between = self.between();
        for (field, names) in [("from", &between.from), ("to", &between.to)] {
            for name in names.as_slice().iter().filter(|n| topology.guest(n).is_none()) {
                let known: Vec<&str> = topology.guests.iter().map(|g| g.name.as_str()).collect();
                say(format!("{path}.{field}"), format!("no guest `{name}`: there is {}", known.join(", ")));
            }
        }
        if between.port == Some(0) {
            say(format!("{path}.port"), "0 is not a port: use 1 to 65535".into());
        }
        if between.port.is_some() && between.protocol.as_slice().contains(&Protocol::Icmp) {
            say(format!("{path}.port"), "ICMP has no ports: leave it out, or say `protocol: udp` or `tcp`".into());
        }
        if between.drop.is_some() && self.is_reach() {
            say(format!("{path}.drop"), "only what must not arrive is dropped: leave it out of `reach`".into());
        }
        let guests_known =
            [&between.from, &between.to].iter().all(|n| n.as_slice().iter().all(|n| topology.guest(n).is_some()));
        if guests_known && self.cases(topology).is_empty() {
            say(path.to_owned(), "asks nothing: the guests have no address in common families, give `address`".into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
name: t
hosts: [{name: h1, addresses: [192.0.2.1/24]}]
guests:
  - {name: a, host: h1, ports: [{addresses: [10.9.0.1/24, 'fd09::1/64']}]}
  - {name: b, host: h1, ports: [{addresses: [10.9.0.2/24, 'fd09::2/64']}]}
  - {name: c, host: h1, ports: [{addresses: [10.9.0.3/24]}]}
expectations:
  - reach: {from: [a, b, c], to: [a, b, c], protocol: [icmp, tcp]}
";

    #[test]
    fn a_line_stands_for_every_combination_of_different_guests_in_common_families() {
        let topology = Topology::parse(FILE).unwrap();
        let cases = topology.expectations[0].cases(&topology);
        // a-b and b-a in both families, the four pairs with c in IPv4 alone; two protocols each.
        assert_eq!(cases.len(), 2 * (2 * 2 + 4));
        assert!(cases.iter().all(|c| c.from != c.to && c.reach));
    }

    #[test]
    fn an_expectation_that_makes_no_sense_is_refused() {
        for (line, path) in [
            ("reach: {from: a, to: b, port: 7}", "expectations[0].port"),
            ("reach: {from: a, to: b, drop: TableMiss}", "expectations[0].drop"),
            ("reach: {from: a, to: a}", "expectations[0]"),
            ("perhaps: {from: a, to: b}", "expectations[0]"),
            ("not-reach: {from: a, to: b, drop: Whatever}", "expectations[0].not-reach.drop"),
        ] {
            let head = FILE.split("expectations").next().unwrap();
            let error = Topology::parse(&format!("{head}expectations:\n  - {line}\n")).unwrap_err().to_string();
            assert!(error.contains(&format!("  {path}: ")), "{line}: {error}");
        }
    }
}
