//! Bad manifests and what is told about each: field path, reason, and what to do.

use super::*;
use crate::store::MemoryStore;

/// What stands before each case.
const STANDING: &str = "
{kind: Tenant, name: red}
---
{kind: Tenant, name: green}
---
{kind: Network, tenant: red, name: blue, spec: {vni: 42, mtu: 1450}}
---
{kind: Subnet, tenant: red, name: v4, spec: {network: blue, cidr: 10.9.0.0/24, gateway: 10.9.0.254}}
---
{kind: Host, name: h1, spec: {kind: weft, address: 192.0.2.1}}
---
{kind: Host, name: h6, spec: {kind: weft, address: '2001:db8::1', mtu: 1600}}
---
{kind: Host, name: old, spec: {kind: vtep, address: 192.0.2.9, networks: [red/blue]}}
---
{kind: Port, tenant: red, name: a, spec: {network: blue, host: h1, mac: '02:00:00:00:00:01', addresses: [10.9.0.1], attach: {tap: {netns: a, ifname: eth0}}}}
";

/// A port `red/b` that is fine but for `$rest`, written over its fields.
macro_rules! port {
    ($rest:literal) => {
        concat!("kind: Port\ntenant: red\nname: b\nspec:\n  attach: {netdev: {name: veth-b}}\n", $rest)
    };
}

/// Text, and what is told: one line per mistake.
const CASES: &[(&str, &str)] = &[
    // Syntax.
    ("kind: Tenant\nname: [red\n", "line 2: this is not YAML that can be read: unclosed bracket"),
    ("kind: Tenant\nname: red\nname: green\n", "line 3: this is not YAML that can be read: duplicate mapping key"),
    ("just a text\n", "line 1: is a text, not an object with fields: write FIELD: VALUE lines"),
    ("[{\"kind\": \"Tenant\"}]", "document 1: tenant: name: is missing: add it"),
    // The envelope.
    ("name: red\n", "line 1: kind: is missing: add it"),
    (
        "kind: Router\nname: r\n",
        "line 1: kind: `Router` is no kind of object: write one of Tenant, Network, Subnet, Host, Port",
    ),
    (
        "kind: Tenant\nname: Red\n",
        "line 2: tenant Red: name: `Red` is not a name: use 1 to 63 lowercase letters, digits and hyphens, with no hyphen at either end",
    ),
    (
        "kind: Tenant\nname: 42\n",
        "line 2: tenant: name: is the number 42, not a text: put it in quotes if you mean a text",
    ),
    (
        "kind: Tenant\nname: x\ncolor: blue\n",
        "line 3: tenant x: color: is an unknown field: the fields here are kind, name, spec",
    ),
    (
        "kind: Tenant\nname: x\nspec:\n  quota: 3\n",
        "line 4: tenant x: spec.quota: is an unknown field: leave it out: there are no fields here",
    ),
    (
        "kind: Host\ntenant: red\nname: x\nspec: {kind: weft, address: 192.0.2.7}\n",
        "line 2: host x: tenant: a Host belongs to no tenant: leave it out",
    ),
    ("kind: Network\nname: x\nspec: {}\n", "line 1: network x: tenant: is missing: add it"),
    ("kind: Network\ntenant: red\nname: x\n", "line 1: network red/x: spec: is missing: add it"),
    (
        "kind: Network\ntenant: red\nname: x\nspec: []\n",
        "line 4: network red/x: spec: is a list, not an object with fields: write FIELD: VALUE lines",
    ),
    (
        "{kind: Tenant, name: x}\n---\n{kind: Tenant, name: x}\n",
        "line 3: tenant x: name: tenant x is already in document 1: keep one of them",
    ),
    // Networks.
    (
        "kind: Network\ntenant: red\nname: x\nspec:\n  vni: 0\n",
        "line 5: network red/x: spec.vni: 0 is not a VNI: use 1 to 16777215",
    ),
    (
        "kind: Network\ntenant: red\nname: x\nspec:\n  vni: 16777216\n",
        "line 5: network red/x: spec.vni: 16777216 is not a VNI: use 1 to 16777215",
    ),
    (
        "kind: Network\ntenant: red\nname: x\nspec:\n  vni: 16777215\n",
        "line 5: network red/x: spec.vni: 16777215 is reserved for probes between hosts: use another, or leave it out",
    ),
    (
        "kind: Network\ntenant: red\nname: x\nspec:\n  vni: '7'\n",
        "line 5: network red/x: spec.vni: is a text, not a whole number: leave the quotes out if you mean a number",
    ),
    (
        "kind: Network\ntenant: red\nname: x\nspec:\n  vni: 42\n",
        "line 5: network red/x: spec.vni: 42 is the VNI of network red/blue: use another, or leave it out",
    ),
    (
        "kind: Network\ntenant: red\nname: x\nspec:\n  mtu: 67\n",
        "line 5: network red/x: spec.mtu: an MTU of 67 is out of range: use 68 to 9000",
    ),
    (
        "kind: Network\ntenant: red\nname: x\nspec:\n  mtu: 70000\n",
        "line 5: network red/x: spec.mtu: 70000 is too large: use at most 65535",
    ),
    (
        "kind: Network\ntenant: none\nname: x\nspec: {}\n",
        "line 2: network none/x: tenant: there is no tenant none: declare it, or correct the name",
    ),
    (
        "kind: Network\ntenant: red\nname: blue\nspec:\n  mtu: 1451\n",
        "line 5: network red/blue: spec.mtu: network red/blue has an MTU of 1451, which with 50 bytes of VXLAN does not fit the underlay MTU 1500 of host h1: lower the network's to 1450 or raise the host's to 1501",
    ),
    (
        "kind: Network\ntenant: red\nname: blue\nspec:\n  mtu: 1200\n---\n{kind: Subnet, tenant: red, name: v6, spec: {network: blue, cidr: 'fd09::/64'}}\n",
        "line 7: subnet red/v6: spec.cidr: IPv6 needs an MTU of 1280, the network's is 1200: give network red/blue an MTU of 1280 or more",
    ),
    // Subnets.
    (
        "kind: Subnet\ntenant: red\nname: x\nspec:\n  network: blue\n  cidr: 10.0.0.0/33\n",
        "line 6: subnet red/x: spec.cidr: `10.0.0.0/33` is not an address range: write ADDRESS/LENGTH, such as 10.9.0.0/24 or fd09::/64",
    ),
    (
        "kind: Subnet\ntenant: red\nname: x\nspec:\n  network: blue\n  cidr: 10.0.0.1/24\n",
        "line 6: subnet red/x: spec.cidr: `10.0.0.1/24` has host bits set: write 10.0.0.0/24",
    ),
    (
        "kind: Subnet\ntenant: red\nname: x\nspec:\n  network: blue\n  cidr: 10.9.0.128/25\n",
        "line 6: subnet red/x: spec.cidr: 10.9.0.128/25 overlaps 10.9.0.0/24 of subnet red/v4: use a range apart, or another network",
    ),
    (
        "kind: Subnet\ntenant: red\nname: x\nspec:\n  network: blue\n  cidr: 224.0.0.0/8\n",
        "line 6: subnet red/x: spec.cidr: 224.0.0.0/8 is a range of multicast addresses: use a range of unicast addresses, such as 10.9.0.0/24 or fd09::/64",
    ),
    (
        "kind: Subnet\ntenant: red\nname: x\nspec:\n  network: lost\n  cidr: 10.0.0.0/24\n",
        "line 5: subnet red/x: spec.network: there is no network red/lost: declare it, or correct the name",
    ),
    (
        "kind: Subnet\ntenant: red\nname: x\nspec:\n  network: blue\n  cidr: 10.0.0.0/24\n  gateway: 10.0.1.1\n",
        "line 7: subnet red/x: spec.gateway: 10.0.1.1 is not in 10.0.0.0/24: use another address of 10.0.0.0/24, or leave it out",
    ),
    (
        "kind: Subnet\ntenant: red\nname: x\nspec:\n  network: blue\n  cidr: 10.0.0.0/24\n  gateway: 10.0.0.255\n",
        "line 7: subnet red/x: spec.gateway: 10.0.0.255 is the network or broadcast address of 10.0.0.0/24: use another address of 10.0.0.0/24, or leave it out",
    ),
    (
        "kind: Subnet\ntenant: red\nname: v4\nspec:\n  network: blue\n  cidr: 10.8.0.0/24\n",
        "port red/a: spec.addresses[0]: 10.9.0.1 is in no subnet of network red/blue: use an address of 10.8.0.0/24, or leave the list out",
    ),
    // Hosts.
    (
        "kind: Host\nname: x\nspec:\n  kind: kernel\n  address: 192.0.2.7\n",
        "line 4: host x: spec.kind: `kernel` is no kind of host: write weft or vtep",
    ),
    (
        "kind: Host\nname: x\nspec:\n  kind: weft\n  address: 192.0.2.7/24\n",
        "line 5: host x: spec.address: `192.0.2.7/24` is not an IP address: write one such as 10.9.0.1 or fd09::1, without a length",
    ),
    (
        "kind: Host\nname: x\nspec:\n  kind: weft\n  address: 239.1.1.1\n",
        "line 5: host x: spec.address: 239.1.1.1 is a multicast address: use the unicast address that the host has in the underlay",
    ),
    (
        "kind: Host\nname: x\nspec:\n  kind: weft\n  address: 192.0.2.1\n",
        "line 5: host x: spec.address: 192.0.2.1 is the address of host h1: use the host's own",
    ),
    (
        "kind: Host\nname: x\nspec:\n  kind: weft\n  address: 192.0.2.7\n  udp_port: 0\n",
        "line 6: host x: spec.udp_port: 0 is no UDP port: use 4789, or leave it out",
    ),
    (
        "kind: Host\nname: x\nspec:\n  kind: weft\n  address: 2001:db8::7\n  mtu: 1279\n",
        "line 6: host x: spec.mtu: an underlay MTU of 1279 is out of range: use 1280 to 9216",
    ),
    (
        "kind: Host\nname: x\nspec:\n  kind: weft\n  address: 192.0.2.7\n  networks: [red/blue]\n",
        "line 6: host x: spec.networks: the networks of a kind: weft host follow from its ports: leave it out, or make the host kind: vtep",
    ),
    (
        "kind: Host\nname: x\nspec:\n  kind: vtep\n  address: 192.0.2.7\n  networks: [blue, red/lost, red/blue, red/blue]\n",
        "line 6: host x: spec.networks[0]: `blue` does not name a network: write TENANT/NETWORK, such as red/blue",
    ),
    (
        "kind: Host\nname: x\nspec:\n  kind: vtep\n  address: 192.0.2.7\n  networks: [red/lost, red/blue, red/blue]\n",
        "line 6: host x: spec.networks[0]: there is no network red/lost: declare it, or correct the name\nline 6: host x: spec.networks[2]: red/blue comes up twice: name it once",
    ),
    (
        "kind: Host\nname: h1\nspec:\n  kind: weft\n  address: 192.0.2.1\n  mtu: 1400\n",
        "line 6: host h1: spec.mtu: network red/blue has an MTU of 1450, which with 50 bytes of VXLAN does not fit the underlay MTU 1400 of host h1: lower the network's to 1350 or raise the host's to 1500",
    ),
    // Ports.
    (
        port!("  network: lost\n  host: lost\n"),
        "line 6: port red/b: spec.network: there is no network red/lost: declare it, or correct the name\nline 7: port red/b: spec.host: there is no host lost: declare it, or correct the name",
    ),
    (
        port!("  network: blue\n  host: old\n"),
        "line 7: port red/b: spec.host: host old is of kind: vtep, where no agent could attach a port: name a kind: weft host, or list the network in spec.networks of host old",
    ),
    (
        port!("  network: blue\n  host: h1\n  mac: 02:00:00:00:00\n"),
        "line 8: port red/b: spec.mac: `02:00:00:00:00` is not a MAC address: write six hex octets, such as 02:00:00:00:00:01",
    ),
    (
        port!("  network: blue\n  host: h1\n  mac: 03:00:00:00:00:01\n"),
        "line 8: port red/b: spec.mac: 03:00:00:00:00:01 is a group address, which no guest can have: use an address such as 02:00:00:00:00:01, or leave it out",
    ),
    (
        port!("  network: blue\n  host: h1\n  mac: 02:00:00:00:00:01\n"),
        "line 8: port red/b: spec.mac: 02:00:00:00:00:01 is the MAC address of port red/a on the same network: use another, or leave it out",
    ),
    (
        port!("  network: blue\n  host: h1\n  addresses: [10.9.1.1]\n"),
        "line 8: port red/b: spec.addresses[0]: 10.9.1.1 is in no subnet of network red/blue: use an address of 10.9.0.0/24, or leave the list out",
    ),
    (
        port!(
            "  network: blue\n  host: h1\n  addresses:\n  - 10.9.0.1\n  - 10.9.0.254\n  - 10.9.0.255\n  - 10.9.0.3\n  - 10.9.0.3\n"
        ),
        "line 9: port red/b: spec.addresses[0]: 10.9.0.1 is an address of port red/a on the same network: use another address, or leave the list out\nline 10: port red/b: spec.addresses[1]: 10.9.0.254 is the gateway of subnet red/v4 on the same network: use another address, or leave the list out\nline 11: port red/b: spec.addresses[2]: 10.9.0.255 is the network or broadcast address of 10.9.0.0/24: use another address\nline 13: port red/b: spec.addresses[4]: 10.9.0.3 comes up twice: name it once",
    ),
    (
        port!("  network: blue\n  host: h1\n  addresses: 10.9.0.7\n"),
        "line 8: port red/b: spec.addresses: is a text, not a list: write [ITEM, ...]",
    ),
    (
        "kind: Port\ntenant: red\nname: b\nspec:\n  network: blue\n  host: h1\n",
        "line 5: port red/b: spec.attach: is missing: add tap: {netns, ifname} or netdev: {name}",
    ),
    (
        "kind: Port\ntenant: red\nname: b\nspec:\n  network: blue\n  host: h1\n  attach: {}\n",
        "line 7: port red/b: spec.attach: has neither tap nor netdev: write one of tap: {netns, ifname} and netdev: {name}",
    ),
    (
        "kind: Port\ntenant: red\nname: b\nspec:\n  network: blue\n  host: h1\n  attach:\n    tap:\n      netns: a\n      ifname: a-very-long-name\n",
        "line 10: port red/b: spec.attach.tap.ifname: `a-very-long-name` is no name of an interface: use 1 to 15 letters, digits, dots, hyphens or underscores",
    ),
    (
        "kind: Port\ntenant: red\nname: b\nspec:\n  network: blue\n  host: h1\n  attach:\n    tap:\n      netns: ../a\n      ifname: eth0\n",
        "line 9: port red/b: spec.attach.tap.netns: `../a` is no network namespace: write a name that `ip netns` shows, or an absolute path",
    ),
    (
        "kind: Port\ntenant: red\nname: b\nspec:\n  network: blue\n  host: h1\n  attach:\n    tap: {netns: a, ifname: eth0}\n",
        "line 8: port red/b: spec.attach: port red/a has the same device of host h1: give each port a device of its own",
    ),
    (
        port!(
            "  network: blue\n  host: h6\n---\n{kind: Network, tenant: red, name: blue, spec: {vni: 42, mtu: 1450}}\n---\n{kind: Host, name: h6, spec: {kind: weft, address: '2001:db8::1', mtu: 1500}}\n"
        ),
        "line 9: network red/blue: spec.mtu: network red/blue has an MTU of 1450, which with 70 bytes of VXLAN does not fit the underlay MTU 1500 of host h6: lower the network's to 1430 or raise the host's to 1520",
    ),
    // A document that cannot be read is not missed by those that refer to it.
    (
        "kind: Network\ntenant: green\nname: n\nspec: {vni: x}\n---\nkind: Subnet\ntenant: green\nname: s\nspec: {network: n, cidr: 10.0.0.0/24}\n",
        "line 4: network green/n: spec.vni: is a text, not a whole number: leave the quotes out if you mean a number",
    ),
];

#[test]
fn every_bad_manifest_is_refused_with_the_field_the_reason_and_the_way_out() {
    assert!(CASES.len() >= 30, "{} cases", CASES.len());
    let store = MemoryStore::new("s");
    let put = |text: &str| {
        let documents = documents(text)?;
        let request = Request { verb: Verb::Put, documents: &documents, revisions: Vec::new(), dry_run: false };
        apply(&store, &request, &mut || 7)
    };
    put(STANDING).unwrap();
    let before = store.snapshot();
    let mut wrong = Vec::new();
    for (text, wanted) in CASES {
        let told = match put(text) {
            Ok(report) => format!("{report:?}"),
            Err(error) => error.to_string(),
        };
        // Only the syntax errors quote the YAML parser, whose words are its own.
        let quotes = wanted.contains("not YAML");
        if told != *wanted && !(quotes && told.starts_with(wanted)) {
            wrong.push(format!("--- the text\n{text}--- wanted\n{wanted}\n--- told\n{told}\n"));
        }
        assert_eq!(store.snapshot(), before, "a refused manifest changes nothing:\n{text}");
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

#[test]
fn mistakes_of_all_sorts_in_several_documents_are_told_at_once() {
    let text = "
kind: Network
tenant: red
name: n
spec: {vni: 0, mtu: big}
---
kind: Subnet
tenant: red
name: s
spec: {network: nowhere, cidr: 10.9.0.7/24}
---
kind: Port
tenant: red
name: p
spec: {network: blue, host: nowhere, attach: {netdev: {name: x}}, colour: red}
";
    let store = MemoryStore::new("s");
    let documents = documents(&format!("{STANDING}---{text}")).unwrap();
    let request = Request { verb: Verb::Put, documents: &documents, revisions: Vec::new(), dry_run: false };
    let Err(ApplyError::Fields(errors)) = apply(&store, &request, &mut || 7) else { panic!("it is refused") };
    let places: Vec<(&str, &str)> = errors.0.iter().map(|e| (e.object.as_str(), e.path.as_str())).collect();
    assert_eq!(
        places,
        [
            ("network red/n", "spec.mtu"),
            ("network red/n", "spec.vni"),
            ("subnet red/s", "spec.cidr"),
            ("subnet red/s", "spec.network"),
            ("port red/p", "spec.colour"),
            ("port red/p", "spec.host"),
        ]
    );
}
