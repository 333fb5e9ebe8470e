//! Between objects: what must be unique is unique, addresses lie in subnets, sizes fit through the underlay.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_api::object::{Host, Kind, MTU_MIN_IPV6, Name, Object, ObjectKey, Port};
use weft_api::{MacAddr, Vni};

use super::Check;
use super::index::{Index, OnNetwork};

/// Subnets of one network at most: a port gets an address of each.
const SUBNETS_MAX: usize = 16;

pub(super) fn check(check: &mut Check<'_>, index: &Index<'_>) {
    vnis(check);
    host_addresses(check);
    for (key, on) in &index.networks {
        subnets(check, on);
        stations(check, on);
        placed(check, on, key);
        sizes(check, on);
    }
}

fn vnis(check: &mut Check<'_>) {
    let mut by_vni: BTreeMap<Vni, ObjectKey> = BTreeMap::new();
    for network in check.proposal.after.networks() {
        let Some(vni) = network.spec.vni else { continue };
        let key = network.key();
        if vni == Vni::PROBE {
            let why = format!("{vni} is reserved for probes between hosts");
            check.mistake(&key, "spec.vni", why, "use another, or leave it out");
        }
        let Some(other) = by_vni.insert(vni, key.clone()) else { continue };
        let (blamed, other) = check.blame(&key, &other);
        check.mistake(blamed, "spec.vni", format!("{vni} is the VNI of {other}"), "use another, or leave it out");
    }
}

fn host_addresses(check: &mut Check<'_>) {
    let mut by_address: BTreeMap<IpAddr, ObjectKey> = BTreeMap::new();
    for host in check.proposal.after.hosts() {
        let (key, address) = (host.key(), host.spec.address);
        let Some(other) = by_address.insert(address, key.clone()) else { continue };
        let (blamed, other) = check.blame(&key, &other);
        check.mistake(blamed, "spec.address", format!("{address} is the address of {other}"), "use the host's own");
    }
}

/// Subnets of one network do not overlap. Sorted by range, only neighbours can.
fn subnets(check: &mut Check<'_>, on: &OnNetwork<'_>) {
    let mut sorted = on.subnets.clone();
    sorted.sort_by_key(|subnet| (subnet.spec.cidr.network(), subnet.spec.cidr.prefix_len()));
    for (index, subnet) in sorted.iter().enumerate() {
        let Some(other) = sorted[..index].iter().rev().find(|other| other.spec.cidr.overlaps(&subnet.spec.cidr)) else {
            continue;
        };
        let (keys, cidrs) = ((subnet.key(), other.key()), (subnet.spec.cidr, other.spec.cidr));
        let (blamed, innocent) = check.blame(&keys.0, &keys.1);
        let (own, others) = if *blamed == keys.0 { cidrs } else { (cidrs.1, cidrs.0) };
        let why = format!("{own} overlaps {others} of {innocent}");
        check.mistake(blamed, "spec.cidr", why, "use a range apart, or another network");
    }
    let Some(last) = on.subnets.last().filter(|_| on.subnets.len() > SUBNETS_MAX) else { return };
    let why = format!("the network has {} subnets", on.subnets.len());
    check.mistake(&last.key(), "spec.network", why, format!("{SUBNETS_MAX} are allowed"));
}

/// MAC and IP addresses are unique in a network, the gateways' included.
fn stations(check: &mut Check<'_>, on: &OnNetwork<'_>) {
    let mut by_mac: BTreeMap<MacAddr, ObjectKey> = BTreeMap::new();
    let mut by_ip: BTreeMap<IpAddr, (ObjectKey, String)> = BTreeMap::new();
    for subnet in &on.subnets {
        if let Some(gateway) = subnet.spec.gateway {
            by_ip.insert(gateway, (subnet.key(), "spec.gateway".to_owned()));
        }
    }
    for port in &on.ports {
        let key = port.key();
        if let Some(mac) = port.spec.mac
            && let Some(other) = by_mac.insert(mac, key.clone())
        {
            let (blamed, other) = check.blame(&key, &other);
            let why = format!("{mac} is the MAC address of {other} on the same network");
            check.mistake(blamed, "spec.mac", why, "use another, or leave it out");
        }
        for (index, address) in port.spec.addresses.iter().flatten().enumerate() {
            let path = format!("spec.addresses[{index}]");
            let Some((other, other_path)) = by_ip.insert(*address, (key.clone(), path.clone())) else { continue };
            if other == key {
                continue;
            }
            let (blamed, innocent) = check.blame(&key, &other);
            let what = if innocent.kind == Kind::Subnet { "the gateway" } else { "an address" };
            let path = if *blamed == key { path } else { other_path };
            let why = format!("{address} is {what} of {innocent} on the same network");
            check.mistake(blamed, path, why, "use another address, or leave the list out");
        }
    }
}

/// Every address lies in a subnet of its network.
fn placed(check: &mut Check<'_>, on: &OnNetwork<'_>, key: &(Name, Name)) {
    if on.network.is_none() || check.has_unreadable(Kind::Subnet, &key.0) {
        return;
    }
    for port in &on.ports {
        for (index, address) in port.spec.addresses.iter().flatten().enumerate() {
            let path = format!("spec.addresses[{index}]");
            match on.subnets.iter().find(|subnet| subnet.spec.cidr.contains(*address)) {
                Some(subnet) if subnet.spec.cidr.is_assignable(*address) => {}
                Some(subnet) => {
                    let why = format!("{address} is the network or broadcast address of {}", subnet.spec.cidr);
                    check.mistake(&port.key(), path, why, "use another address");
                }
                None => misplaced(check, on, port, *address, path),
            }
        }
    }
}

fn misplaced(check: &mut Check<'_>, on: &OnNetwork<'_>, port: &Port, address: IpAddr, path: String) {
    let deleted = check.proposal.deletes.iter().find(|key| match check.proposal.before.object(key) {
        Some(Object::Subnet(subnet)) => {
            subnet.tenant == port.tenant
                && subnet.spec.network == port.spec.network
                && subnet.spec.cidr.contains(address)
        }
        _ => false,
    });
    if let Some(deleted) = deleted.cloned() {
        check.referrers.entry(deleted).or_default().insert(port.key());
        return;
    }
    let ranges: Vec<String> = on.subnets.iter().map(|subnet| subnet.spec.cidr.to_string()).collect();
    let fix = match ranges.as_slice() {
        [] => "declare a subnet of the network first".to_owned(),
        ranges => format!("use an address of {}, or leave the list out", ranges.join(" or ")),
    };
    let why = format!("{address} is in no subnet of network {}/{}", port.tenant, port.spec.network);
    check.mistake(&port.key(), path, why, fix);
}

/// A guest's packet of full size, encapsulated, fits into the underlay of every host; IPv6 has its minimum.
fn sizes(check: &mut Check<'_>, on: &OnNetwork<'_>) {
    let Some((network, mtu)) = on.network.and_then(|network| Some((network, network.spec.mtu?))) else { return };
    let key = network.key();
    if mtu < MTU_MIN_IPV6
        && let Some(subnet) = on.subnets.iter().find(|subnet| !subnet.spec.cidr.is_ipv4())
    {
        let (subnet_key, why) = (subnet.key(), format!("IPv6 needs an MTU of {MTU_MIN_IPV6}, the network's is {mtu}"));
        let (blamed, _) = check.blame(&key, &subnet_key);
        let path = if *blamed == key { "spec.mtu" } else { "spec.cidr" };
        check.mistake(blamed, path, why, format!("give {key} an MTU of {MTU_MIN_IPV6} or more"));
    }
    let mut tight: Vec<&Host> = on.hosts.values().copied().filter(|host| mtu > host.spec.guest_mtu_max()).collect();
    tight.sort_by_key(|host| host.spec.guest_mtu_max());
    if check.proposal.puts.contains(&key) {
        // The network is told once: what fits the tightest host fits all.
        tight.truncate(1);
    }
    for host in tight {
        let (host_key, overhead) = (host.key(), host.spec.overhead());
        let blamed = if check.proposal.puts.contains(&key) { &key } else { check.blame(&key, &host_key).0 };
        let why = format!(
            "{key} has an MTU of {mtu}, which with {overhead} bytes of VXLAN does not fit the underlay MTU {} of {host_key}",
            host.spec.mtu
        );
        let fits = host.spec.guest_mtu_max();
        let fix = format!("lower the network's to {fits} or raise the host's to {}", mtu.saturating_add(overhead));
        check.mistake(blamed, "spec.mtu", why, fix);
    }
}
