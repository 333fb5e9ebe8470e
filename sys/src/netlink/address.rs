//! Addresses, routes and neighbours (rtnetlink(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::message::{Message, attributes, u32_at};
use super::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, Netlink, NetlinkError,
};

/// An address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The device's index.
    pub ifindex: u32,
    /// The address.
    pub addr: IpAddr,
    /// Bits of its network.
    pub prefix_len: u8,
}

impl Netlink {
    /// Gives a device an address, usable at once (IPv6 without duplicate address detection).
    pub fn add_address(&mut self, name: &str, addr: IpAddr, prefix_len: u8) -> Result<(), NetlinkError> {
        let what = format!("give {name} the address {addr}/{prefix_len}");
        let index = self.index(&what, name)?;
        let mut fixed = [family(addr), prefix_len, IFA_F_NODAD, 0, 0, 0, 0, 0];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let bytes = octets(addr);
        let message = Message::new(RTM_NEWADDR, flags, &fixed).put(IFA_LOCAL, &bytes).put(IFA_ADDRESS, &bytes);
        self.change(&what, message)
    }

    /// All addresses of all devices.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut addresses = Vec::new();
        let request = Message::new(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, &[0; 8]);
        self.exchange("list addresses", request, |kind, body| {
            if kind == RTM_NEWADDR {
                addresses.extend(parse(body));
            }
        })?;
        Ok(addresses)
    }

    /// Adds a route by way of a neighbour; the default route when `to` is `None`.
    pub fn add_route(&mut self, to: Option<(IpAddr, u8)>, via: IpAddr) -> Result<(), NetlinkError> {
        let (addr, prefix_len) = to.unwrap_or((via, 0));
        let what =
            format!("add the route to {} via {via}", to.map_or("everywhere".into(), |(a, p)| format!("{a}/{p}")));
        let fixed =
            [family(via), prefix_len, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0, 0, 0, 0];
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let mut message = Message::new(RTM_NEWROUTE, flags, &fixed).put(RTA_GATEWAY, &octets(via));
        if prefix_len > 0 {
            message = message.put(RTA_DST, &octets(addr));
        }
        self.change(&what, message)
    }

    /// Pins a neighbour's MAC address.
    pub fn add_neighbor(&mut self, name: &str, addr: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let what = format!("pin {addr} on {name}");
        let index = self.index(&what, name)?;
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let message = Message::new(RTM_NEWNEIGH, flags, &ndmsg(family(addr), index, 0))
            .put(NDA_DST, &octets(addr))
            .put(NDA_LLADDR, &mac);
        self.change(&what, message)
    }

    /// Tells a vxlan device of one more far end for a MAC address; zero stands for all that is not known.
    pub fn append_fdb(&mut self, name: &str, mac: [u8; 6], remote: IpAddr) -> Result<(), NetlinkError> {
        let what = format!("tell {name} of {remote}");
        let index = self.index(&what, name)?;
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let message = Message::new(RTM_NEWNEIGH, flags, &ndmsg(libc::PF_BRIDGE as u8, index, NTF_SELF))
            .put(NDA_LLADDR, &mac)
            .put(NDA_DST, &octets(remote));
        self.change(&what, message)
    }
}

/// `struct ndmsg` of a permanent entry.
fn ndmsg(family: u8, index: u32, flags: u8) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&(NUD_PERMANENT | NUD_NOARP).to_ne_bytes());
    bytes[10] = flags;
    bytes
}

fn parse(body: &[u8]) -> Option<Address> {
    let (family, prefix_len, ifindex) = (*body.first()?, *body.get(1)?, u32_at(body, 4)?);
    let mut addr = None;
    for (kind, data) in attributes(body.get(8..)?) {
        // Of a point-to-point device IFA_ADDRESS is the far end and IFA_LOCAL our own.
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && addr.is_none()) {
            addr = address(family, data);
        }
    }
    Some(Address { ifindex, addr: addr?, prefix_len })
}

fn address(family: u8, data: &[u8]) -> Option<IpAddr> {
    if i32::from(family) == libc::AF_INET {
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into())
}

fn family(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netns;

    #[test]
    fn addresses_routes_and_neighbours_are_set_over_both_families() {
        if !crate::may_test_as_root() {
            return;
        }
        let netns = netns::create().unwrap();
        netns::in_namespace(netns.as_fd(), || {
            let mut netlink = Netlink::open().unwrap();
            netlink.add_veth("a", "b").unwrap();
            netlink.set_up("a").unwrap();
            for (addr, prefix_len, via, to) in
                [("10.0.0.1", 24, "10.0.0.2", "10.1.0.0"), ("fd00::1", 64, "fd00::2", "fd01::")]
            {
                let (addr, via) = (addr.parse().unwrap(), via.parse().unwrap());
                netlink.add_address("a", addr, prefix_len).unwrap();
                assert!(netlink.add_address("a", addr, prefix_len).unwrap_err().exists());
                assert!(netlink.addresses().unwrap().iter().any(|a| (a.addr, a.prefix_len) == (addr, prefix_len)));
                netlink.add_route(None, via).unwrap();
                netlink.add_route(Some((to.parse().unwrap(), prefix_len)), via).unwrap();
                netlink.add_neighbor("a", via, [2, 0, 0, 0, 0, 9]).unwrap();
            }
        })
        .unwrap();
    }
}
