//! Builds a topology's network namespaces and links.
//!
//! `fabric` is one bridge that joins the hosts' underlay links; `ctl` has a bridge of its own to every host for the
//! management traffic, so that a broken underlay never cuts off the controller.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use weft_sys::netlink::{Netlink, Vxlan};
use weft_sys::netns;

use super::topology::{Guest, Host, HostKind, KernelVxlan, Topology};
use super::wire::{NamespaceInfo, PlaceKind};

/// A lab's network namespaces, held by descriptor.
#[derive(Debug, Default)]
pub struct Places {
    list: Vec<Place>,
}

/// A network namespace with its purpose.
#[derive(Debug)]
pub struct Place {
    /// Name.
    pub name: String,
    /// What it is for.
    pub kind: PlaceKind,
    /// The namespace.
    pub netns: OwnedFd,
}

/// Name of a host's underlay interface.
pub const UNDERLAY_IFNAME: &str = "eth0";
/// Name of a host's management interface.
pub const MANAGEMENT_IFNAME: &str = "mgmt0";
/// Where `netns: NAME` of a manifest is looked up, in a lab as on a real host.
pub const NETNS_DIR: &str = "/run/netns";
const BRIDGE: &str = "br0";
const MANAGEMENT_PREFIX_LEN: u8 = 24;
const VXLAN_UDP_PORT: u16 = 4789;

/// The controller's address on the management network.
pub const CONTROLLER_ADDR: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 1);

/// Whether an address is in the management network (the last /24 of the carrier-grade NAT space of RFC 6598).
pub fn is_management(addr: IpAddr) -> bool {
    matches!(addr, IpAddr::V4(v4) if v4.octets()[..3] == CONTROLLER_ADDR.octets()[..3])
}

impl Places {
    /// Makes the namespaces and everything in them but the guests' TAPs, which the agents make.
    pub fn build(topology: &Topology) -> Result<Self> {
        let mut places = Self::default();
        places.add("fabric", PlaceKind::Fabric)?;
        places.add("ctl", PlaceKind::Controller)?;
        for host in &topology.hosts {
            places.add(&host.name, PlaceKind::Host)?;
        }
        for guest in &topology.guests {
            places.add(&guest.name, PlaceKind::Guest)?;
        }
        places.build_bridges(topology)?;
        for (index, host) in topology.hosts.iter().enumerate() {
            places.build_host(topology, index, host).with_context(|| format!("host `{}`", host.name))?;
        }
        for guest in &topology.guests {
            places.build_guest(topology, guest).with_context(|| format!("guest `{}`", guest.name))?;
        }
        Ok(places)
    }

    /// The place of that name.
    pub fn get(&self, name: &str) -> Option<&Place> {
        self.list.iter().find(|p| p.name == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.list.iter()
    }

    /// What to tell about them.
    pub fn infos(&self) -> Vec<NamespaceInfo> {
        let info = |place: &Place| NamespaceInfo {
            name: place.name.clone(),
            kind: place.kind,
            fd: place.netns.as_raw_fd(),
            inode: netns::inode(&place.netns).unwrap_or_default(),
        };
        self.list.iter().map(info).collect()
    }

    fn add(&mut self, name: &str, kind: PlaceKind) -> Result<()> {
        let path = Path::new(NETNS_DIR).join(name);
        let netns = netns::create_at(&path).with_context(|| format!("cannot make the namespace of `{name}`"))?;
        let place = Place { name: name.to_owned(), kind, netns };
        place.inside(move || quiet_ipv6(kind))?;
        place.inside(bridge_only)?;
        self.list.push(place);
        Ok(())
    }

    fn netns(&self, name: &str) -> Result<BorrowedFd<'_>> {
        let place = self.get(name).with_context(|| format!("there is no namespace `{name}` in this lab"))?;
        Ok(place.netns.as_fd())
    }

    fn within<T: Send>(&self, name: &str, f: impl FnOnce(&mut Netlink) -> Result<T> + Send) -> Result<T> {
        netns::in_namespace(self.netns(name)?, || f(&mut Netlink::open()?))?
    }

    fn build_bridges(&self, topology: &Topology) -> Result<()> {
        let mtu = topology.hosts.iter().filter_map(|h| h.mtu).chain([topology.underlay.mtu]).max();
        self.within("fabric", |net| {
            net.add_bridge(BRIDGE)?;
            net.set_mtu(BRIDGE, mtu.unwrap_or(topology.underlay.mtu))?;
            Ok(net.set_up(BRIDGE)?)
        })?;
        self.within("ctl", |net| {
            net.add_bridge(BRIDGE)?;
            net.add_address(BRIDGE, CONTROLLER_ADDR.into(), MANAGEMENT_PREFIX_LEN)?;
            Ok(net.set_up(BRIDGE)?)
        })
    }

    fn build_host(&self, topology: &Topology, index: usize, host: &Host) -> Result<()> {
        let mtu = host.mtu.unwrap_or(topology.underlay.mtu);
        self.plug("fabric", &host.name, &format!("host{index}"), UNDERLAY_IFNAME, mtu)?;
        self.plug("ctl", &host.name, &format!("host{index}"), MANAGEMENT_IFNAME, 1500)?;
        self.within(&host.name, |net| {
            for address in &host.addresses {
                net.add_address(UNDERLAY_IFNAME, address.addr, address.prefix_len)?;
            }
            let management = management_addr(index);
            Ok(net.add_address(MANAGEMENT_IFNAME, management.into(), MANAGEMENT_PREFIX_LEN)?)
        })?;
        for vxlan in &host.vxlan {
            self.build_vxlan(topology, host, vxlan).with_context(|| format!("VXLAN device of VNI {}", vxlan.vni))?;
        }
        Ok(())
    }

    /// A veth from a bridge of `hub` to `spoke`.
    fn plug(&self, hub: &str, spoke: &str, hub_ifname: &str, spoke_ifname: &str, mtu: u32) -> Result<()> {
        let netns = self.netns(spoke)?;
        self.within(hub, |net| {
            net.add_veth(hub_ifname, spoke_ifname)?;
            net.set_mtu(hub_ifname, mtu)?;
            net.set_mtu(spoke_ifname, mtu)?;
            net.set_master(hub_ifname, Some(BRIDGE))?;
            net.set_up(hub_ifname)?;
            Ok(net.move_link(spoke_ifname, netns)?)
        })?;
        self.within(spoke, |net| Ok(net.set_up(spoke_ifname)?))
    }

    /// The kernel's own VXLAN, as an administrator sets it up who never heard of Weft: a bridge, a device that
    /// learns, and one flood entry per remote.
    fn build_vxlan(&self, topology: &Topology, host: &Host, vxlan: &KernelVxlan) -> Result<()> {
        let local = host.addresses.first().context("the host has no address")?.addr;
        let others = topology.hosts.iter().filter(|h| h.name != host.name).flat_map(|h| &h.addresses);
        let others = others.map(|a| a.addr).filter(|a| a.is_ipv4() == local.is_ipv4());
        let remotes: Vec<IpAddr> = vxlan.remotes.clone().unwrap_or_else(|| others.collect());
        let device = vxlan_ifname(vxlan.vni);
        let bridge = bridge_ifname(vxlan.vni);
        self.within(&host.name, |net| {
            net.add_vxlan(&Vxlan {
                name: &device,
                vni: vxlan.vni,
                local,
                udp_port: VXLAN_UDP_PORT,
                learning: true,
                udp_csum: true,
                udp6_zero_csum_rx: true,
            })?;
            net.add_bridge(&bridge)?;
            net.set_master(&device, Some(&bridge))?;
            for remote in remotes {
                net.append_fdb(&device, [0; 6], remote)?;
            }
            net.set_up(&device)?;
            Ok(net.set_up(&bridge)?)
        })
    }

    fn build_guest(&self, topology: &Topology, guest: &Guest) -> Result<()> {
        let host = topology.host(&guest.host).with_context(|| format!("there is no host `{}`", guest.host))?;
        for (index, port) in guest.ports.iter().enumerate() {
            let bridge = port.vni.filter(|_| host.kind == HostKind::Vtep).map(bridge_ifname);
            if bridge.is_none() && port.veth.is_none() {
                continue;
            }
            let outside = port.veth.clone().unwrap_or_else(|| self.veth_ifname(guest, index));
            let netns = self.netns(&guest.name)?;
            // Under a temporary name: the guest's, usually eth0, is that of the host's underlay interface.
            let inside = format!("{}-", &outside[..outside.len().min(14)]);
            self.within(&host.name, |net| {
                net.add_veth(&outside, &inside)?;
                net.set_master(&outside, bridge.as_deref())?;
                for name in [&outside, &inside] {
                    if let Some(mtu) = port.mtu {
                        net.set_mtu(name, mtu)?;
                    }
                }
                net.set_up(&outside)?;
                Ok(net.move_link(&inside, netns)?)
            })?;
            self.within(&guest.name, |net| {
                if let Some(mac) = port.mac {
                    net.set_mac(&inside, mac.0)?;
                }
                net.rename(&inside, &port.ifname)?;
                Ok(net.set_up(&port.ifname)?)
            })?;
        }
        Ok(())
    }

    fn veth_ifname(&self, guest: &Guest, index: usize) -> String {
        let number = self.list.iter().position(|p| p.name == guest.name).unwrap_or_default();
        format!("veth{number}p{index}")
    }
}

impl Place {
    /// Runs `f` inside of the namespace.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        netns::in_namespace(self.netns.as_fd(), f)
            .with_context(|| format!("cannot enter the namespace of `{}`", self.name))
    }
}

/// The management address of the host with that index.
pub fn management_addr(index: usize) -> Ipv4Addr {
    let [a, b, c, _] = CONTROLLER_ADDR.octets();
    // Bounded by NAMESPACES_MAX.
    Ipv4Addr::new(a, b, c, u8::try_from(index + 2).unwrap_or(u8::MAX))
}

fn vxlan_ifname(vni: u32) -> String {
    format!("vxlan{vni}")
}

/// A lab's bridges are wires: where the machine hands bridged frames to its packet filter, these are let off.
fn bridge_only() {
    for name in ["arptables", "iptables", "ip6tables"] {
        // Absent where nothing filters bridged frames.
        drop(std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{name}"), "0"));
    }
}

fn bridge_ifname(vni: u32) -> String {
    format!("br{vni}")
}

/// No waiting for duplicate address detection, and no chatter where IPv6 has no business. A kernel without IPv6 has
/// none of these files, and needs none.
fn quiet_ipv6(kind: PlaceKind) {
    let set = |name: &str, value: &str| drop(std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}"), value));
    for scope in ["all", "default"] {
        set(&format!("{scope}/accept_dad"), "0");
        set(&format!("{scope}/dad_transmits"), "0");
        if matches!(kind, PlaceKind::Fabric | PlaceKind::Controller) {
            set(&format!("{scope}/disable_ipv6"), "1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_a_management_address_of_its_own() {
        let last = management_addr(super::super::topology::NAMESPACES_MAX - 1);
        assert_eq!(management_addr(0), Ipv4Addr::new(100, 127, 255, 2));
        assert_eq!(last, Ipv4Addr::new(100, 127, 255, 201));
        assert!(is_management(last.into()) && is_management(CONTROLLER_ADDR.into()));
        assert!(!is_management("100.127.254.1".parse().unwrap()));
    }
}
