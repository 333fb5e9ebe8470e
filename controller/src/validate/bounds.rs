//! Each object by itself: numbers in range, addresses of a usable sort, names that the kernel takes.

use std::net::IpAddr;

use weft_api::object::{
    Attach, Host, IFNAME_LEN_MAX, MTU_MAX, MTU_MIN_IPV4, MTU_MIN_IPV6, Network, Port, Subnet, UNDERLAY_MTU_MAX,
};

use super::Check;

/// The longest name or path of a network namespace.
const NETNS_LEN_MAX: usize = 255;

pub(super) fn check(check: &mut Check<'_>) {
    let after = &check.proposal.after;
    after.networks().for_each(|network| mtu(check, network));
    after.subnets().for_each(|subnet| range(check, subnet));
    after.hosts().for_each(|host| endpoint(check, host));
    after.ports().for_each(|port| guest(check, port));
}

fn mtu(check: &mut Check<'_>, network: &Network) {
    let Some(mtu) = network.spec.mtu else { return };
    if !(MTU_MIN_IPV4..=MTU_MAX).contains(&mtu) {
        let fix = format!("use {MTU_MIN_IPV4} to {MTU_MAX}");
        check.mistake(&network.key(), "spec.mtu", format!("an MTU of {mtu} is out of range"), fix);
    }
}

fn range(check: &mut Check<'_>, subnet: &Subnet) {
    let (key, cidr) = (subnet.key(), subnet.spec.cidr);
    if let Some(sort) = unusable(cidr.network()).filter(|_| cidr.prefix_len() > 0) {
        let why = format!("{cidr} is a range of {sort} addresses");
        check.mistake(&key, "spec.cidr", why, "use a range of unicast addresses, such as 10.9.0.0/24 or fd09::/64");
    }
    if cidr.prefix_len() == 0 {
        check.mistake(&key, "spec.cidr", format!("{cidr} is every address there is"), "use a smaller range");
    }
    let Some(gateway) = subnet.spec.gateway.filter(|gateway| !cidr.is_assignable(*gateway)) else { return };
    let why = if cidr.contains(gateway) {
        format!("{gateway} is the network or broadcast address of {cidr}")
    } else {
        format!("{gateway} is not in {cidr}")
    };
    check.mistake(&key, "spec.gateway", why, format!("use another address of {cidr}, or leave it out"));
}

fn endpoint(check: &mut Check<'_>, host: &Host) {
    let (key, spec) = (host.key(), &host.spec);
    if let Some(sort) = unusable(spec.address).filter(|sort| *sort != LOOPBACK) {
        let why = format!("{} is a {sort} address", spec.address);
        check.mistake(&key, "spec.address", why, "use the unicast address that the host has in the underlay");
    }
    if spec.udp_port == 0 {
        check.mistake(&key, "spec.udp_port", "0 is no UDP port", "use 4789, or leave it out");
    }
    let mtu_min = match spec.address {
        IpAddr::V4(_) => MTU_MIN_IPV4 + spec.overhead(),
        IpAddr::V6(_) => MTU_MIN_IPV6,
    };
    if !(mtu_min..=UNDERLAY_MTU_MAX).contains(&spec.mtu) {
        let why = format!("an underlay MTU of {} is out of range", spec.mtu);
        check.mistake(&key, "spec.mtu", why, format!("use {mtu_min} to {UNDERLAY_MTU_MAX}"));
    }
}

fn guest(check: &mut Check<'_>, port: &Port) {
    let key = port.key();
    if let Some(mac) = port.spec.mac.filter(|mac| !mac.is_unicast()) {
        let sort = if mac.is_group() { "a group address" } else { "zero" };
        let why = format!("{mac} is {sort}, which no guest can have");
        check.mistake(&key, "spec.mac", why, "use an address such as 02:00:00:00:00:01, or leave it out");
    }
    let addresses = port.spec.addresses.as_deref().unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            let path = format!("spec.addresses[{index}]");
            check.mistake(&key, path, format!("{address} comes up twice"), "name it once");
        }
    }
    match &port.spec.attach {
        Attach::Tap(tap) => {
            ifname(check, port, "spec.attach.tap.ifname", &tap.ifname);
            let netns = tap.netns.as_deref().unwrap_or("-");
            if !is_netns(netns) {
                let why = format!("`{}` is no network namespace", netns.escape_debug());
                check.mistake(
                    &key,
                    "spec.attach.tap.netns",
                    why,
                    "write a name that `ip netns` shows, or an absolute path",
                );
            }
        }
        Attach::Netdev(netdev) => ifname(check, port, "spec.attach.netdev.name", &netdev.name),
    }
}

/// What the kernel's `dev_valid_name` takes.
fn ifname(check: &mut Check<'_>, port: &Port, path: &str, name: &str) {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    if (1..=IFNAME_LEN_MAX).contains(&name.len()) && name.chars().all(plain) && !matches!(name, "." | "..") {
        return;
    }
    let why = format!("`{}` is no name of an interface", name.escape_debug());
    check.mistake(&port.key(), path, why, "use 1 to 15 letters, digits, dots, hyphens or underscores");
}

fn is_netns(netns: &str) -> bool {
    let bounded = (1..=NETNS_LEN_MAX).contains(&netns.len()) && !netns.contains(char::is_control);
    let name = !netns.contains('/') && !matches!(netns, "." | "..");
    bounded && (netns.starts_with('/') || name)
}

const LOOPBACK: &str = "loopback";

/// The sort of an address that no guest and no VTEP can have; `None` for those that can be used.
pub(super) fn unusable(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast() || address.octets()[0] >= 240);
    [
        (address.is_unspecified(), "unspecified"),
        (address.is_loopback(), LOOPBACK),
        (address.is_multicast(), "multicast"),
        (broadcast, "reserved"),
        (link_local, "link-local"),
        (mapped, "IPv4-mapped"),
    ]
    .into_iter()
    .find_map(|(is, sort)| is.then_some(sort))
}
