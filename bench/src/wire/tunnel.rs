//! Two hosts joined by a bridge: VXLAN over a tunnel-GSO TAP outwards, and from a plain UDP socket inwards.
//!
//! Nothing is cut on the way: a guest's super-frame gets 50 bytes in front and leaves whole. The peer's socket gets it as
//! one datagram without a word about segments, and with the inner check field holding the pseudo-header sum only.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::RecvFlags;
use weft_packet::Sum;
use weft_sys::netlink::Netlink;
use weft_sys::udp::{self, UdpRequest};
use weft_sys::{netns, tap, tunnel};

use super::{BUF_LEN, BURST, GUEST_MTU, Netns, Wire, nothing};

/// One host: its guest's TAP, its tunnel device, its socket.
struct Host {
    guest: OwnedFd,
    out: OwnedFd,
    socket: OwnedFd,
    /// Outer headers but for what each frame's length changes.
    outer: [u8; OUTER_LEN],
    /// The sum of the outer IP header without its length.
    ip_sum: Sum,
    _namespaces: [Netns; 2],
}

pub(super) fn run(ready: impl Fn() -> Result<()>) -> Result<()> {
    let left = Netns::new(&Wire::Vxlan.netns("h1"))?;
    let right = Netns::new(&Wire::Vxlan.netns("h2"))?;
    let fabric = Netns::new(&Wire::Vxlan.netns("fabric"))?;
    join(&fabric, &[(&left, "u1"), (&right, "u2")])?;
    let hosts = [Host::new(left, "u1", 1)?, Host::new(right, "u2", 2)?];
    let stdin = std::io::stdin();
    let mut buf = vec![0; BUF_LEN];
    ready()?;
    loop {
        let watch = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let [a, b] = &hosts;
        let fds = [a.guest.as_fd(), a.socket.as_fd(), b.guest.as_fd(), b.socket.as_fd(), stdin.as_fd()];
        let mut fds = fds.map(watch);
        poll(&mut fds, None)?;
        let [a_out, a_in, b_out, b_in, end] = fds.map(|fd| !fd.revents().is_empty());
        if end {
            return Ok(());
        }
        for (host, outwards, inwards) in [(a, a_out, a_in), (b, b_out, b_in)] {
            if outwards {
                host.send(&mut buf)?;
            }
            if inwards {
                host.receive(&mut buf)?;
            }
        }
    }
}

/// A bridge with a link to each host, as in the fabric of a lab.
fn join(fabric: &Netns, hosts: &[(&Netns, &str)]) -> Result<()> {
    netns::in_namespace(fabric.fd.as_fd(), || {
        // Absent where nothing filters bridged frames.
        drop(std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0"));
        let mut netlink = Netlink::open()?;
        netlink.add_bridge("br0")?;
        netlink.set_mtu("br0", UNDERLAY_MTU)?;
        for (host, uplink) in hosts {
            let here = format!("{uplink}-0");
            netlink.add_veth(&here, uplink)?;
            netlink.set_mtu(&here, UNDERLAY_MTU)?;
            netlink.set_master(&here, Some("br0"))?;
            netlink.set_up(&here)?;
            netlink.move_link(uplink, host.fd.as_fd())?;
        }
        anyhow::Ok(netlink.set_up("br0")?)
    })?
}

impl Host {
    fn new(host: Netns, uplink: &str, number: u8) -> Result<Self> {
        let address = |number| Ipv4Addr::new(192, 168, 9, number);
        let (own, remote) = (address(number), address(3 - number));
        let (socket, device) = netns::in_namespace(host.fd.as_fd(), || {
            let mut netlink = Netlink::open()?;
            netlink.set_mtu(uplink, UNDERLAY_MTU)?;
            netlink.add_address(uplink, own.into(), 24)?;
            netlink.set_up(uplink)?;
            let addr = SocketAddr::new(own.into(), VXLAN_PORT);
            let request =
                UdpRequest { addr, reuse_port: false, gro: false, receive_buffer: 32 << 20, send_buffer: 4096 };
            anyhow::Ok((udp::open(&request)?, tunnel::open(false)?))
        })??;
        let (guest_netns, guest) = Netns::guest(Wire::Vxlan, if number == 1 { "a" } else { "b" }, number)?;
        let mut outer = [0; OUTER_LEN];
        outer[..6].copy_from_slice(&device.mac);
        outer[6..14].copy_from_slice(&[2, 0, 0, 0, 0, number, 8, 0]);
        outer[14..26].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        outer[26..30].copy_from_slice(&own.octets());
        outer[30..34].copy_from_slice(&remote.octets());
        outer[34..36].copy_from_slice(&SOURCE_PORT.to_be_bytes());
        outer[36..38].copy_from_slice(&VXLAN_PORT.to_be_bytes());
        outer[42..50].copy_from_slice(&[8, 0, 0, 0, 0, 0, 42, 0]);
        let ip_sum = Sum::of(&outer[14..34]);
        Ok(Self { guest, out: device.queue, socket, outer, ip_sum, _namespaces: [host, guest_netns] })
    }

    /// What the guest sends goes out: `[24 vnet][50 outer][frame]`, read to where it leaves from.
    fn send(&self, buf: &mut [u8]) -> Result<()> {
        const AT: usize = HEADROOM - tap::VNET_HDR_LEN;
        for _ in 0..BURST {
            let Some(len) = nothing(rustix::io::read(&self.guest, &mut buf[AT..]))? else { break };
            let frame_len = len.checked_sub(tap::VNET_HDR_LEN).context("a TAP gave less than a vnet header")?;
            let Some(ip_len) = u16::try_from(frame_len + OUTER_LEN - 14).ok() else { continue };
            let vnet = outer_vnet(&buf[AT..HEADROOM]);
            buf[..VNET].copy_from_slice(&vnet);
            buf[VNET..HEADROOM].copy_from_slice(&self.outer);
            let ip = &mut buf[VNET + 14..];
            ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
            let check = (self.ip_sum + Sum::word(ip_len)).finish();
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            ip[24..26].copy_from_slice(&(ip_len - 20).to_be_bytes());
            // What the kernel refuses is lost, as on any wire.
            let _refused = rustix::io::write(&self.out, &buf[..HEADROOM + frame_len]);
        }
        Ok(())
    }

    /// What comes from the peer goes to the guest: the vnet header takes the place of the VXLAN header.
    fn receive(&self, buf: &mut [u8]) -> Result<()> {
        const AT: usize = tap::VNET_HDR_LEN - VXLAN_LEN;
        for _ in 0..BURST {
            let got = nothing(rustix::net::recv(&self.socket, &mut buf[AT..], RecvFlags::empty()))?;
            let Some((len, _)) = got else { break };
            if len < VXLAN_LEN {
                continue;
            }
            let (vnet, frame) = buf[..AT + len].split_at_mut(tap::VNET_HDR_LEN);
            vnet.copy_from_slice(&inner_vnet(frame));
            let _refused = rustix::io::write(&self.guest, &buf[..AT + len]);
        }
        Ok(())
    }
}

/// The guest's vnet header, moved behind the outer headers.
fn outer_vnet(guest: &[u8]) -> [u8; VNET] {
    let mut vnet = [0; VNET];
    vnet[..10].copy_from_slice(&guest[..10]);
    let mut shift = |at: usize| {
        let moved = u16::from_le_bytes([vnet[at], vnet[at + 1]]).wrapping_add(OUTER_LEN as u16);
        vnet[at..at + 2].copy_from_slice(&moved.to_le_bytes());
    };
    if guest[0] & NEEDS_CSUM != 0 {
        shift(6);
    }
    if guest[1] != 0 {
        shift(2);
        vnet[1] |= GSO_UDP_TUNNEL_IPV4;
        vnet[20..22].copy_from_slice(&34u16.to_le_bytes());
        vnet[22..24].copy_from_slice(&(OUTER_LEN as u16 + 14).to_le_bytes());
    }
    vnet
}

/// What to tell the guest of a frame whose offload state nobody told us: a check field that equals the pseudo-header's
/// sum is one that the sender left to its device; a TCP frame longer than the guest's MTU is a super-frame.
fn inner_vnet(frame: &[u8]) -> [u8; tap::VNET_HDR_LEN] {
    described(frame).unwrap_or_default()
}

fn described(frame: &[u8]) -> Option<[u8; tap::VNET_HDR_LEN]> {
    let ip = frame.get(12..)?.strip_prefix(&[8, 0])?;
    let header_len = usize::from(ip.first()? & 0x0f) * 4;
    let (protocol, total) = (*ip.get(9)?, usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?])));
    let check_offset = match protocol {
        6 => 16,
        17 => 6,
        _ => return None,
    };
    let l4 = ip.get(header_len..total)?;
    let check = u16::from_be_bytes([*l4.get(check_offset)?, *l4.get(check_offset + 1)?]);
    let pseudo = Sum::of(&ip[12..20]) + Sum::pseudo_rest(protocol, l4.len() as u32);
    if check != pseudo.fold() {
        return None;
    }
    let mut vnet = [0; tap::VNET_HDR_LEN];
    let mut put = |at: usize, value: usize| vnet[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
    put(6, 14 + header_len);
    put(8, check_offset);
    if protocol == 6 && total > usize::from(GUEST_MTU) {
        let tcp_len = usize::from(*l4.get(12)? >> 4) * 4;
        put(2, 14 + header_len + tcp_len);
        put(4, usize::from(GUEST_MTU) - header_len - tcp_len);
        vnet[1] = GSO_TCPV4;
    }
    vnet[0] = NEEDS_CSUM;
    Some(vnet)
}

const UNDERLAY_MTU: u32 = GUEST_MTU as u32 + 100;
const VNET: usize = tunnel::VNET_HDR_LEN;
const OUTER_LEN: usize = 50;
const HEADROOM: usize = VNET + OUTER_LEN;
const VXLAN_LEN: usize = 8;
const VXLAN_PORT: u16 = 4789;
const SOURCE_PORT: u16 = 50_000;
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(payload: usize, check: impl Fn(&[u8]) -> u16) -> Vec<u8> {
        let total = 40 + payload;
        let mut frame = vec![0; 14 + total];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&(total as u16).to_be_bytes());
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[10, 9, 0, 1, 10, 9, 0, 2]);
        frame[46] = 0x50;
        frame[54..].fill(0x5a);
        let value = check(&frame);
        frame[50..52].copy_from_slice(&value.to_be_bytes());
        frame
    }

    fn pseudo(frame: &[u8]) -> Sum {
        Sum::of(&frame[26..34]) + Sum::pseudo_rest(6, frame.len() as u32 - 34)
    }

    #[test]
    fn a_long_frame_with_the_pseudo_headers_sum_is_a_super_frame_of_the_guests_mtu() {
        let frame = tcp(5000, |f| pseudo(f).fold());
        let vnet = inner_vnet(&frame);
        assert_eq!((vnet[0], vnet[1]), (NEEDS_CSUM, GSO_TCPV4));
        let words: Vec<u16> = vnet[2..10].chunks(2).map(|w| u16::from_le_bytes([w[0], w[1]])).collect();
        assert_eq!(words, [54, 1460, 34, 16]);
    }

    #[test]
    fn a_frame_with_a_complete_checksum_is_left_alone() {
        let frame = tcp(100, |f| (pseudo(f) + Sum::of(&f[34..])).finish());
        assert_eq!(inner_vnet(&frame), [0; tap::VNET_HDR_LEN]);
        assert_eq!(inner_vnet(&frame[..40]), [0; tap::VNET_HDR_LEN]);
        assert_eq!(inner_vnet(&[]), [0; tap::VNET_HDR_LEN]);
    }

    #[test]
    fn a_super_frame_keeps_its_segment_size_behind_the_outer_headers() {
        let guest = [NEEDS_CSUM, GSO_TCPV4, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
        let vnet = outer_vnet(&guest);
        assert_eq!(vnet[..10], [NEEDS_CSUM, 0x21, 116, 0, 0xa8, 5, 84, 0, 16, 0]);
        assert_eq!(vnet[20..], [34, 0, 64, 0]);
        assert_eq!(outer_vnet(&[0; 12]), [0; VNET]);
    }
}
