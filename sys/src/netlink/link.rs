//! Network devices (rtnetlink(7), `RTM_*LINK`).

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::{Message, attributes, text, u32_at, u64_at};
use super::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, Netlink, NetlinkError};

/// Facts about a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// Its MAC address, when it has one.
    pub mac: Option<[u8; 6]>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it has a carrier.
    pub running: bool,
    /// Whether the kernel speaks ARP on it.
    pub arp: bool,
    /// Frames that may wait to be sent.
    pub tx_queue_len: u32,
    /// Index of the bridge that it is in.
    pub master: Option<u32>,
    /// What made it, such as `veth`.
    pub kind: Option<String>,
    /// Its counters.
    pub stats: LinkStats,
}

/// Counters of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the kernel's own names")]
pub struct LinkStats {
    pub rx_packets: u64,
    pub tx_packets: u64,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_errors: u64,
    pub tx_errors: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// A kernel vxlan device.
#[derive(Debug, Clone, Copy)]
pub struct Vxlan<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its VNI.
    pub vni: u32,
    /// The address that it sends from and receives at.
    pub local: IpAddr,
    /// The UDP port that it receives at and sends to.
    pub udp_port: u16,
    /// Whether it learns where stations are.
    pub learning: bool,
    /// Whether it fills the outer UDP checksum.
    pub udp_csum: bool,
    /// Whether it accepts zero checksums over IPv6.
    pub udp6_zero_csum_rx: bool,
}

impl Netlink {
    /// All devices.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut links = Vec::new();
        let request = Message::new(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, &ifinfomsg(0, 0, 0));
        self.exchange("list network devices", request, |kind, body| {
            if kind == RTM_NEWLINK {
                links.extend(parse(body));
            }
        })?;
        Ok(links)
    }

    /// The device of that name; `None` when there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut link = None;
        let request =
            Message::new(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, &ifinfomsg(0, 0, 0)).put_text(IFLA_IFNAME, name);
        let asked = self.exchange(&format!("look {name} up"), request, |kind, body| {
            if kind == RTM_NEWLINK {
                link = parse(body);
            }
        });
        match asked {
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(link),
        }
    }

    /// The device's index, or an error that names it.
    pub fn index(&mut self, what: &str, name: &str) -> Result<u32, NetlinkError> {
        let link = self.link(name)?;
        link.map(|l| l.index).ok_or_else(|| NetlinkError::NoDevice { what: what.to_owned(), ifname: name.to_owned() })
    }

    /// Makes a pair of devices, each the other's far end.
    pub fn add_veth(&mut self, name: &str, peer: &str) -> Result<(), NetlinkError> {
        self.add(name, "veth", |m| m.nest(VETH_INFO_PEER, |m| m.raw(&ifinfomsg(0, 0, 0)).put_text(IFLA_IFNAME, peer)))
    }

    /// Makes a bridge that forwards at once (no spanning tree delay).
    pub fn add_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.add(name, "bridge", |m| m.put(IFLA_BR_FORWARD_DELAY, &0u32.to_ne_bytes()))
    }

    /// Makes a device that swallows everything.
    pub fn add_dummy(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.add(name, "dummy", |m| m)
    }

    /// Makes a kernel vxlan device; its far ends are added by [`Netlink::append_fdb`].
    pub fn add_vxlan(&mut self, vxlan: &Vxlan<'_>) -> Result<(), NetlinkError> {
        let flag = |on: bool| [u8::from(on)];
        self.add(vxlan.name, "vxlan", |m| {
            let m = m.put(IFLA_VXLAN_ID, &vxlan.vni.to_ne_bytes());
            let m = match vxlan.local {
                IpAddr::V4(v4) => m.put(IFLA_VXLAN_LOCAL, &v4.octets()),
                IpAddr::V6(v6) => m.put(IFLA_VXLAN_LOCAL6, &v6.octets()),
            };
            m.put(IFLA_VXLAN_PORT, &vxlan.udp_port.to_be_bytes())
                .put(IFLA_VXLAN_LEARNING, &flag(vxlan.learning))
                .put(IFLA_VXLAN_UDP_CSUM, &flag(vxlan.udp_csum))
                .put(IFLA_VXLAN_UDP_ZERO_CSUM6_RX, &flag(vxlan.udp6_zero_csum_rx))
                .put(IFLA_VXLAN_UDP_ZERO_CSUM6_TX, &flag(false))
        })
    }

    /// Deletes a device.
    pub fn delete_link(&mut self, name: &str) -> Result<(), NetlinkError> {
        let what = format!("delete {name}");
        let index = self.index(&what, name)?;
        self.change(&what, Message::new(RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, &ifinfomsg(index, 0, 0)))
    }

    /// Switches a device on.
    pub fn set_up(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.set(&format!("set {name} up"), name, IFF_UP, IFF_UP, |m| m)
    }

    /// Switches a device off.
    pub fn set_down(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.set(&format!("set {name} down"), name, 0, IFF_UP, |m| m)
    }

    /// Lets the kernel speak ARP on a device, or not.
    pub fn set_arp(&mut self, name: &str, on: bool) -> Result<(), NetlinkError> {
        let flags = if on { 0 } else { IFF_NOARP };
        self.set(&format!("switch ARP on {name}"), name, flags, IFF_NOARP, |m| m)
    }

    /// Sets the largest IP packet.
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        self.set(&format!("set the MTU of {name} to {mtu}"), name, 0, 0, |m| m.put(IFLA_MTU, &mtu.to_ne_bytes()))
    }

    /// Sets the MAC address.
    pub fn set_mac(&mut self, name: &str, mac: [u8; 6]) -> Result<(), NetlinkError> {
        self.set(&format!("set the MAC address of {name}"), name, 0, 0, |m| m.put(IFLA_ADDRESS, &mac))
    }

    /// Puts a device into a bridge, or takes it out.
    pub fn set_master(&mut self, name: &str, master: Option<&str>) -> Result<(), NetlinkError> {
        let what = format!("put {name} into {}", master.unwrap_or("no bridge"));
        let index = master.map_or(Ok(0), |master| self.index(&what, master))?;
        self.set(&what, name, 0, 0, |m| m.put(IFLA_MASTER, &index.to_ne_bytes()))
    }

    /// Sets how many frames may wait to be sent.
    pub fn set_tx_queue_len(&mut self, name: &str, len: u32) -> Result<(), NetlinkError> {
        self.set(&format!("set the queue length of {name}"), name, 0, 0, |m| m.put(IFLA_TXQLEN, &len.to_ne_bytes()))
    }

    /// Gives a device another name; it must be down on older kernels.
    pub fn rename(&mut self, name: &str, new: &str) -> Result<(), NetlinkError> {
        self.set(&format!("rename {name} to {new}"), name, 0, 0, |m| m.put_text(IFLA_IFNAME, new))
    }

    /// Moves a device into another namespace, where it is down.
    pub fn move_link(&mut self, name: &str, netns: BorrowedFd<'_>) -> Result<(), NetlinkError> {
        let fd = netns.as_raw_fd() as u32;
        self.set(&format!("move {name} to another namespace"), name, 0, 0, |m| m.put(IFLA_NET_NS_FD, &fd.to_ne_bytes()))
    }

    /// Moves a device into another namespace under another name, in one step.
    pub fn move_link_as(&mut self, name: &str, netns: BorrowedFd<'_>, new: &str) -> Result<(), NetlinkError> {
        let fd = netns.as_raw_fd() as u32;
        self.set(&format!("move {name} to another namespace as {new}"), name, 0, 0, |m| {
            m.put(IFLA_NET_NS_FD, &fd.to_ne_bytes()).put_text(IFLA_IFNAME, new)
        })
    }

    fn add(&mut self, name: &str, kind: &str, data: impl FnOnce(Message) -> Message) -> Result<(), NetlinkError> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let message = Message::new(RTM_NEWLINK, flags, &ifinfomsg(0, 0, 0))
            .put_text(IFLA_IFNAME, name)
            .nest(IFLA_LINKINFO, |m| m.put_text(IFLA_INFO_KIND, kind).nest(IFLA_INFO_DATA, data));
        self.change(&format!("create the {kind} device {name}"), message)
    }

    fn set(
        &mut self,
        what: &str,
        name: &str,
        flags: u32,
        mask: u32,
        fill: impl FnOnce(Message) -> Message,
    ) -> Result<(), NetlinkError> {
        let index = self.index(what, name)?;
        let message = Message::new(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, &ifinfomsg(index, flags, mask));
        self.change(what, fill(message))
    }
}

/// `struct ifinfomsg`.
fn ifinfomsg(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn parse(body: &[u8]) -> Option<Link> {
    let flags = u32_at(body, 8)?;
    let mut link = Link {
        index: u32_at(body, 4)?,
        up: flags & IFF_UP != 0,
        running: flags & IFF_RUNNING != 0,
        arp: flags & IFF_NOARP == 0,
        ..Link::default()
    };
    for (kind, data) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(data),
            IFLA_MTU => link.mtu = u32_at(data, 0)?,
            IFLA_ADDRESS => link.mac = data.try_into().ok(),
            IFLA_TXQLEN => link.tx_queue_len = u32_at(data, 0)?,
            IFLA_MASTER => link.master = u32_at(data, 0),
            IFLA_STATS64 => link.stats = parse_stats(data)?,
            IFLA_LINKINFO => {
                link.kind = attributes(data).find(|(kind, _)| *kind == IFLA_INFO_KIND).map(|(_, data)| text(data));
            }
            _ => {}
        }
    }
    Some(link)
}

/// The first eight words of `struct rtnl_link_stats64`.
fn parse_stats(data: &[u8]) -> Option<LinkStats> {
    let word = |index: usize| u64_at(data, index * 8);
    Some(LinkStats {
        rx_packets: word(0)?,
        tx_packets: word(1)?,
        rx_bytes: word(2)?,
        tx_bytes: word(3)?,
        rx_errors: word(4)?,
        tx_errors: word(5)?,
        rx_dropped: word(6)?,
        tx_dropped: word(7)?,
    })
}

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;
const IFF_NOARP: u32 = 0x80;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_UDP_CSUM: u16 = 18;
const IFLA_VXLAN_UDP_ZERO_CSUM6_TX: u16 = 19;
const IFLA_VXLAN_UDP_ZERO_CSUM6_RX: u16 = 20;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netns;

    #[test]
    fn devices_are_made_changed_moved_and_deleted() {
        if !crate::may_test_as_root() {
            return;
        }
        let (here, there) = (netns::create().unwrap(), netns::create().unwrap());
        netns::in_namespace(here.as_fd(), || {
            let mut netlink = Netlink::open().unwrap();
            netlink.add_veth("a", "b").unwrap();
            netlink.add_bridge("br").unwrap();
            assert!(netlink.add_bridge("br").unwrap_err().exists());
            netlink.set_mtu("a", 1400).unwrap();
            netlink.set_mac("a", [2, 0, 0, 0, 0, 7]).unwrap();
            netlink.set_tx_queue_len("a", 77).unwrap();
            netlink.set_master("a", Some("br")).unwrap();
            netlink.set_up("a").unwrap();
            let bridge = netlink.link("br").unwrap().unwrap();
            let a = netlink.link("a").unwrap().unwrap();
            assert_eq!((a.mtu, a.mac, a.tx_queue_len, a.up), (1400, Some([2, 0, 0, 0, 0, 7]), 77, true));
            assert_eq!(
                (a.master, a.kind.as_deref(), bridge.kind.as_deref()),
                (Some(bridge.index), Some("veth"), Some("bridge"))
            );
            netlink.set_arp("a", false).unwrap();
            assert!(a.arp && !netlink.link("a").unwrap().unwrap().arp);
            netlink.set_master("a", None).unwrap();
            netlink.set_down("a").unwrap();
            netlink.rename("a", "c").unwrap();
            netlink.move_link("b", there.as_fd()).unwrap();
            assert!(netlink.link("b").unwrap().is_none());
            let names: Vec<_> = netlink.links().unwrap().into_iter().map(|link| link.name).collect();
            assert!(names.contains(&"c".to_owned()) && names.contains(&"lo".to_owned()), "{names:?}");
        })
        .unwrap();
        netns::in_namespace(there.as_fd(), || {
            let mut netlink = Netlink::open().unwrap();
            netlink.delete_link("b").unwrap();
            assert!(netlink.delete_link("b").unwrap_err().to_string().contains("no network device b"));
        })
        .unwrap();
    }

    #[test]
    fn a_vxlan_device_knows_its_far_ends() {
        if !crate::may_test_as_root() {
            return;
        }
        let netns = netns::create().unwrap();
        netns::in_namespace(netns.as_fd(), || {
            let mut netlink = Netlink::open().unwrap();
            for (name, local, remote) in [("vx4", "127.0.0.1", "192.0.2.2"), ("vx6", "::1", "2001:db8::2")] {
                let local = local.parse().unwrap();
                let vxlan = Vxlan {
                    name,
                    vni: 42,
                    local,
                    udp_port: 4789,
                    learning: true,
                    udp_csum: true,
                    udp6_zero_csum_rx: true,
                };
                netlink.add_vxlan(&vxlan).unwrap();
                netlink.append_fdb(name, [0; 6], remote.parse().unwrap()).unwrap();
                assert_eq!(netlink.link(name).unwrap().unwrap().kind.as_deref(), Some("vxlan"));
            }
        })
        .unwrap();
    }
}
