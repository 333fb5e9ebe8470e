//! The topology file: hosts, underlay, guests, manifests and expectations.
//!
//! Every item is read by itself, so that a file with five mistakes yields five errors, each with its field's path.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::address::IfAddr;
use super::expect::Expectation;

/// A whole topology, checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// Name; the lab is called so unless told otherwise.
    pub name: String,
    /// One sentence for people.
    pub description: String,
    /// The network between the hosts.
    pub underlay: Underlay,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The guests.
    pub guests: Vec<Guest>,
    /// API documents, as a user applies them.
    pub manifests: Vec<Value>,
    /// Who reaches whom, and who must not.
    pub expectations: Vec<Expectation>,
}

/// The network between the hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Underlay {
    /// MTU of the hosts' underlay interfaces.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
}

/// A host: a network namespace with one underlay interface, `eth0`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Name.
    pub name: String,
    /// What runs on it.
    #[serde(default)]
    pub kind: HostKind,
    /// Underlay addresses.
    pub addresses: Vec<IfAddr>,
    /// MTU of its underlay interface, where it differs from the underlay's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Kernel VXLAN devices, on a host of kind `vtep`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vxlan: Vec<KernelVxlan>,
}

/// What runs on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostKind {
    /// An agent and its vswitch.
    #[default]
    Weft,
    /// The kernel's own VXLAN device and bridge, which know nothing of Weft.
    Vtep,
}

/// A kernel VXLAN device in a bridge of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelVxlan {
    /// The VNI; its guests name it.
    pub vni: u32,
    /// Where broadcast and unknown frames go; all other hosts' addresses of the same family when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remotes: Option<Vec<IpAddr>>,
}

/// A guest: a network namespace with ports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Name; `netns: NAME` in a manifest's Port means it.
    pub name: String,
    /// The host that it is on.
    pub host: String,
    /// Its interfaces.
    pub ports: Vec<GuestPort>,
}

/// An interface of a guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestPort {
    /// Name inside the guest.
    #[serde(default = "default_ifname")]
    pub ifname: String,
    /// Addresses, which the lab sets as soon as the interface is there.
    #[serde(default)]
    pub addresses: Vec<IfAddr>,
    /// MTU, where the lab shall set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// MAC address of a veth; a TAP gets its own from the Port's manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<weft_api::MacAddr>,
    /// Makes a veth, whose other end has this name on the host, instead of waiting for the agent's TAP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub veth: Option<String>,
    /// The VNI of the kernel VXLAN device that the port is bridged to, on a host of kind `vtep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
}

/// One mistake of a topology file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Mistake {
    /// Where: the field's path.
    pub path: String,
    /// What, and what to do.
    pub message: String,
}

/// A topology file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// It is not YAML.
    #[error("not a YAML document: {0}")]
    Yaml(String),
    /// It has mistakes; all of them.
    #[error("{}", list(.0))]
    Mistakes(Vec<Mistake>),
}

/// Names that the lab uses itself.
pub const RESERVED: [&str; 2] = ["ctl", "fabric"];
/// Hosts and guests of one lab, at most.
pub const NAMESPACES_MAX: usize = 200;
const TOP_FIELDS: [&str; 7] = ["name", "description", "underlay", "hosts", "guests", "manifests", "expectations"];
const NAME_LEN_MAX: usize = 32;
const MTU_MIN: u32 = 1280;
const MTU_MAX: u32 = 65_535;

impl Topology {
    /// Reads and checks a topology file's text.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        // YAML 1.2: a host may be called `n`, which older YAML takes for `no`.
        let options = serde_saphyr::options! { strict_booleans: true };
        let value: Value =
            serde_saphyr::from_str_with_options(text, options).map_err(|e| TopologyError::Yaml(e.to_string()))?;
        let mut reader = Reader { top: value, mistakes: Vec::new() };
        reader.check_top();
        let topology = Self {
            name: reader.one("name").unwrap_or_default(),
            description: reader.one_or_default("description"),
            underlay: reader.one_or("underlay", Underlay { mtu: default_mtu() }),
            hosts: reader.items("hosts"),
            guests: reader.items("guests"),
            manifests: reader.items("manifests"),
            expectations: reader.items("expectations"),
        };
        let mut mistakes = reader.mistakes;
        topology.check(&mut mistakes);
        if mistakes.is_empty() { Ok(topology) } else { Err(TopologyError::Mistakes(mistakes)) }
    }

    /// The guest of that name.
    pub fn guest(&self, name: &str) -> Option<&Guest> {
        self.guests.iter().find(|g| g.name == name)
    }

    /// The host of that name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|h| h.name == name)
    }

    /// The tenant that a guest belongs to, by the manifests: that of the Port on its namespace or veth, or, behind a
    /// kernel VTEP, that of the Network with its VNI.
    pub fn tenant_of(&self, guest: &Guest) -> Option<&str> {
        let veths: Vec<&str> = guest.ports.iter().filter_map(|p| p.veth.as_deref()).collect();
        let vnis: Vec<u64> = guest.ports.iter().filter_map(|p| p.vni.map(u64::from)).collect();
        let document = self.manifests.iter().find(|m| {
            let attach = &m["spec"]["attach"];
            let tap = attach["tap"]["netns"].as_str() == Some(&guest.name);
            let netdev = m["spec"]["host"].as_str() == Some(&guest.host)
                && attach["netdev"]["name"].as_str().is_some_and(|n| veths.contains(&n));
            let network = m["spec"]["vni"].as_u64().is_some_and(|v| vnis.contains(&v));
            match m["kind"].as_str() {
                Some("Port") => tap || netdev,
                Some("Network") => network,
                _ => false,
            }
        })?;
        document["tenant"].as_str()
    }

    fn check(&self, mistakes: &mut Vec<Mistake>) {
        let mut say = |path: String, message: String| mistakes.push(Mistake { path, message });
        if let Err(why) = check_name(&self.name) {
            say("name".into(), why);
        }
        if !(MTU_MIN..=MTU_MAX).contains(&self.underlay.mtu) {
            say("underlay.mtu".into(), format!("{} is not between {MTU_MIN} and {MTU_MAX}", self.underlay.mtu));
        }
        if self.hosts.len() + self.guests.len() > NAMESPACES_MAX {
            say("hosts".into(), format!("more than {NAMESPACES_MAX} hosts and guests: make two labs of it"));
        }
        let mut seen = BTreeMap::new();
        let hosts = self.hosts.iter().enumerate().map(|(i, h)| (format!("hosts[{i}].name"), &h.name));
        let guests = self.guests.iter().enumerate().map(|(i, g)| (format!("guests[{i}].name"), &g.name));
        for (path, name) in hosts.chain(guests) {
            if let Err(why) = check_name(name) {
                say(path.clone(), why);
            }
            if RESERVED.contains(&name.as_str()) {
                say(path.clone(), format!("`{name}` is a namespace of the lab itself: choose another name"));
            }
            if let Some(first) = seen.insert(name, path.clone()) {
                say(path, format!("`{name}` is already the name at {first}: hosts and guests share one set of names"));
            }
        }
        for (i, host) in self.hosts.iter().enumerate() {
            self.check_host(host, &format!("hosts[{i}]"), &mut say);
        }
        for (i, guest) in self.guests.iter().enumerate() {
            self.check_guest(guest, &format!("guests[{i}]"), &mut say);
        }
        for (i, manifest) in self.manifests.iter().enumerate() {
            for field in ["kind", "name"] {
                if manifest[field].as_str().is_none() {
                    say(format!("manifests[{i}].{field}"), "is missing or not a string".into());
                }
            }
        }
        for (i, expectation) in self.expectations.iter().enumerate() {
            expectation.check(self, &format!("expectations[{i}]"), &mut say);
        }
    }

    fn check_host(&self, host: &Host, path: &str, say: &mut impl FnMut(String, String)) {
        if host.addresses.is_empty() {
            say(format!("{path}.addresses"), "is empty: give at least one, such as 192.0.2.1/24".into());
        }
        for (i, address) in host.addresses.iter().enumerate() {
            let twice = self.hosts.iter().filter(|h| h.addresses.iter().any(|a| a.addr == address.addr)).count() > 1;
            if twice {
                say(format!("{path}.addresses[{i}]"), format!("{} is on another host, too", address.addr));
            }
            if super::build::is_management(address.addr) {
                say(format!("{path}.addresses[{i}]"), "is in the lab's own management network: choose another".into());
            }
        }
        if host.mtu.is_some_and(|m| !(MTU_MIN..=MTU_MAX).contains(&m)) {
            say(format!("{path}.mtu"), format!("is not between {MTU_MIN} and {MTU_MAX}"));
        }
        if host.kind == HostKind::Weft && !host.vxlan.is_empty() {
            say(format!("{path}.vxlan"), "is for hosts of `kind: vtep` only: the agent makes no kernel device".into());
        }
        for (i, vxlan) in host.vxlan.iter().enumerate() {
            if weft_api::Vni::new(vxlan.vni).is_err() {
                say(format!("{path}.vxlan[{i}].vni"), format!("{} is not a VNI: use 1 to 16777215", vxlan.vni));
            }
        }
    }

    fn check_guest(&self, guest: &Guest, path: &str, say: &mut impl FnMut(String, String)) {
        let Some(host) = self.host(&guest.host) else {
            let known: Vec<&str> = self.hosts.iter().map(|h| h.name.as_str()).collect();
            return say(format!("{path}.host"), format!("no host `{}`: there is {}", guest.host, known.join(", ")));
        };
        let mut ifnames = Vec::new();
        for (i, port) in guest.ports.iter().enumerate() {
            let path = format!("{path}.ports[{i}]");
            if !is_ifname(&port.ifname) || port.ifname == "lo" {
                say(format!("{path}.ifname"), format!("`{}` is not an interface name (1 to 15 letters)", port.ifname));
            }
            if ifnames.contains(&&port.ifname) {
                say(format!("{path}.ifname"), format!("the guest has `{}` already", port.ifname));
            }
            ifnames.push(&port.ifname);
            if port.veth.as_ref().is_some_and(|v| !is_ifname(v) || v == "eth0" || v == "mgmt0") {
                say(format!("{path}.veth"), "is not usable as an interface name on the host".into());
            }
            match (host.kind, port.vni) {
                (HostKind::Weft, Some(_)) => {
                    say(
                        format!("{path}.vni"),
                        format!("`{}` is not of `kind: vtep`: a Port's manifest binds it", host.name),
                    );
                }
                (HostKind::Vtep, None) => {
                    say(format!("{path}.vni"), "is missing: say which VXLAN device it joins".into())
                }
                (HostKind::Vtep, Some(vni)) if !host.vxlan.iter().any(|v| v.vni == vni) => {
                    say(format!("{path}.vni"), format!("`{}` has no VXLAN device with VNI {vni}", host.name));
                }
                _ => {}
            }
        }
    }
}

/// Reads fields of the top level and collects what is wrong with each.
struct Reader {
    top: Value,
    mistakes: Vec<Mistake>,
}

impl Reader {
    fn check_top(&mut self) {
        let Value::Object(fields) = &self.top else {
            return self.mistakes.push(Mistake { path: "(file)".into(), message: "is not a mapping of fields".into() });
        };
        for field in fields.keys().filter(|f| !TOP_FIELDS.contains(&f.as_str())) {
            let message = format!("unknown field; known are {}", TOP_FIELDS.join(", "));
            self.mistakes.push(Mistake { path: field.clone(), message });
        }
        for field in ["name", "hosts"].iter().filter(|f| !fields.contains_key(**f)) {
            self.mistakes.push(Mistake { path: (*field).into(), message: "is missing".into() });
        }
    }

    fn one<T: DeserializeOwned>(&mut self, field: &str) -> Option<T> {
        let value = self.top.get(field)?.clone();
        self.read(field, value)
    }

    fn one_or<T: DeserializeOwned>(&mut self, field: &str, or: T) -> T {
        self.one(field).unwrap_or(or)
    }

    fn one_or_default<T: DeserializeOwned + Default>(&mut self, field: &str) -> T {
        self.one(field).unwrap_or_default()
    }

    fn items<T: DeserializeOwned>(&mut self, field: &str) -> Vec<T> {
        match self.top.get(field).cloned() {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items
                .into_iter()
                .enumerate()
                .filter_map(|(i, item)| self.read(&format!("{field}[{i}]"), item))
                .collect(),
            Some(_) => {
                self.mistakes.push(Mistake { path: field.into(), message: "is not a list".into() });
                Vec::new()
            }
        }
    }

    fn read<T: DeserializeOwned>(&mut self, path: &str, value: Value) -> Option<T> {
        match serde_path_to_error::deserialize(value) {
            Ok(item) => Some(item),
            Err(error) => {
                let inner = error.path().to_string();
                let path = if inner == "." { path.to_owned() } else { format!("{path}.{inner}") };
                self.mistakes.push(Mistake { path, message: error.into_inner().to_string() });
                None
            }
        }
    }
}

/// Checks a lab's, host's or guest's name.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        return Ok(());
    }
    Err(format!("`{name}` is not a name: use 1 to {NAME_LEN_MAX} of a-z, 0-9 and -, neither first nor last a -"))
}

fn is_ifname(name: &str) -> bool {
    !name.is_empty() && name.len() <= 15 && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
}

fn list(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes.iter().map(|m| format!("  {m}")).collect();
    format!("{} in the topology:\n{}", count(mistakes.len(), "mistake"), lines.join("\n"))
}

fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

fn default_mtu() -> u32 {
    1600
}

fn default_ifname() -> String {
    "eth0".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
name: t
underlay: {mtu: 1600}
hosts:
  - {name: h1, addresses: [192.0.2.1/24]}
  - {name: k1, kind: vtep, addresses: [192.0.2.3/24], vxlan: [{vni: 42}]}
guests:
  - {name: a, host: h1, ports: [{addresses: [10.9.0.1/24]}]}
  - {name: k, host: k1, ports: [{addresses: [10.9.0.9/24], vni: 42}]}
manifests:
  - {kind: Network, tenant: red, name: n, spec: {vni: 42}}
  - {kind: Port, tenant: red, name: a, spec: {host: h1, attach: {tap: {netns: a}}}}
expectations:
  - reach: {from: a, to: k, protocol: [icmp, udp]}
  - not-reach: {from: k, to: a, protocol: tcp, port: 80}
";

    #[test]
    fn a_good_topology_is_read() {
        let topology = Topology::parse(GOOD).unwrap();
        assert_eq!(topology.hosts[1].kind, HostKind::Vtep);
        assert_eq!(topology.tenant_of(&topology.guests[0]), Some("red"));
        assert_eq!(topology.tenant_of(&topology.guests[1]), Some("red"), "by the network's VNI");
        assert_eq!(topology.expectations.len(), 2);
    }

    #[test]
    fn every_mistake_is_named_with_its_path() {
        let bad = "
name: Bad Name
colour: red
underlay: {mtu: 100}
hosts:
  - {name: h1, addresses: [192.0.2.1/33]}
  - {name: h2, addresses: [], speed: 1}
  - {name: ctl, addresses: [192.0.2.3/24]}
guests:
  - {name: a, host: nowhere, ports: []}
expectations:
  - reach: {from: a, to: ghost}
";
        let Err(TopologyError::Mistakes(mistakes)) = Topology::parse(bad) else { panic!("must be refused") };
        let paths: Vec<&str> = mistakes.iter().map(|m| m.path.as_str()).collect();
        for path in [
            "colour",
            "name",
            "underlay.mtu",
            "hosts[0].addresses[0]",
            "hosts[1].speed",
            "hosts[0].name",
            "guests[0].host",
            "expectations[0].to",
        ] {
            assert!(paths.contains(&path), "no {path} in {mistakes:#?}");
        }
    }

    #[test]
    fn text_that_is_not_yaml_is_refused_as_such() {
        assert!(matches!(Topology::parse("a: [1"), Err(TopologyError::Yaml(_))));
        assert!(matches!(Topology::parse("- 1"), Err(TopologyError::Mistakes(_))));
    }
}
