//! The host's own end of the tunnels: receiving sockets on the VXLAN port, sending sockets on ports of their own.
//!
//! A flow sends from one socket, picked by its hash, so that the network between hosts spreads flows over its paths
//! (RFC 7348, section 5). All are opened once: a datagram queued on a socket that is closed is lost. So a later MTU is
//! only told to the vswitch, and sockets outlive an address that goes away and comes back.
//! Where the kernel has it, a device beside them takes encapsulated super-frames uncut.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use weft_program::MacAddr;
use weft_program::message::{Rung, TunnelDevice, Underlay};
use weft_sys::netlink::{Changes, Netlink};
use weft_sys::tunnel;
use weft_sys::udp::{self, UdpError, UdpRequest};

/// Sending sockets of a host.
pub const TX_SOCKETS: usize = 16;
/// The ports that RFC 7348 recommends for the source.
const TX_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// Counted with the kernel's overhead.
const RECEIVE_BUFFER: usize = 16 << 20;
const SEND_BUFFER: usize = 4 << 20;
/// Nothing is meant to arrive at a sending socket.
const NO_BUFFER: usize = 4096;

/// Tells when to look at the underlay's device again.
#[derive(Debug, Default)]
pub struct Watch {
    changes: Option<Changes>,
}

impl Watch {
    /// Whether links, addresses or routes may have changed since the last call. The first time they may, and always where the
    /// kernel does not tell.
    pub fn may_have_changed(&mut self) -> bool {
        match &mut self.changes {
            Some(changes) => changes.any(),
            None => {
                self.changes = Changes::open().ok();
                true
            }
        }
    }
}

/// Opens all sockets, the receiving ones first, and the tunnel device, which comes last. `seed` picks the first source port to try.
pub fn open(
    addr: IpAddr,
    udp_port: u16,
    workers: usize,
    rung: Option<Rung>,
    seed: u64,
) -> Result<(Underlay, Vec<OwnedFd>), String> {
    let best = rung.unwrap_or(Rung::Tunnel);
    let mtu = mtu_of(addr)?;
    let rx = UdpRequest {
        addr: SocketAddr::new(addr, udp_port),
        reuse_port: true,
        gro: best >= Rung::Segment,
        receive_buffer: RECEIVE_BUFFER,
        send_buffer: SEND_BUFFER,
    };
    // Alone first: with SO_REUSEPORT another program of the same user could share the port without an error.
    drop(udp::open(&UdpRequest { reuse_port: false, gro: false, ..rx }).map_err(|e| e.to_string())?);
    let workers = workers.max(1);
    let mut fds = (0..workers).map(|_| udp::open(&rx)).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let tx_fds = open_senders(addr, seed, &mut fds)?;
    let mut underlay =
        Underlay { addr, udp_port, rx_fds: workers, tx_fds, mtu, rung: best, tunnel: None, refused: Vec::new() };
    if best >= Rung::Segment && !fds.iter().all(udp::can_segment) {
        underlay.refuse(Rung::Segment, Rung::Batch, "this kernel has no UDP_SEGMENT: Linux 4.18 or later does");
    }
    if underlay.rung == Rung::Tunnel {
        match tunnel::open(addr.is_ipv6()) {
            Ok(tunnel) => {
                fds.push(tunnel.queue);
                underlay.tunnel = Some(TunnelDevice { ifname: tunnel.ifname, mac: MacAddr(tunnel.mac) });
            }
            Err(error) => underlay.refuse(Rung::Tunnel, Rung::Segment, &error.to_string()),
        }
    }
    Ok((underlay, fds))
}

fn open_senders(addr: IpAddr, seed: u64, fds: &mut Vec<OwnedFd>) -> Result<usize, String> {
    let count = TX_PORTS.len() as u64;
    let mut opened = 0;
    for step in 0..count {
        let port = *TX_PORTS.start() + ((seed + step) % count) as u16;
        let request = UdpRequest {
            addr: SocketAddr::new(addr, port),
            reuse_port: false,
            gro: false,
            receive_buffer: NO_BUFFER,
            send_buffer: SEND_BUFFER,
        };
        match udp::open(&request) {
            Ok(fd) => fds.push(fd),
            Err(UdpError::InUse { .. }) => continue,
            Err(error) => return Err(error.to_string()),
        }
        opened += 1;
        if opened == TX_SOCKETS {
            return Ok(opened);
        }
    }
    Err(format!("fewer than {TX_SOCKETS} UDP ports of {addr} are free among {TX_PORTS:?}"))
}

/// The largest outer packet: that of the device which has the address.
pub fn mtu_of(addr: IpAddr) -> Result<u16, String> {
    let mut netlink = Netlink::open().map_err(|e| e.to_string())?;
    let addresses = netlink.addresses().map_err(|e| e.to_string())?;
    let found = addresses.iter().find(|a| a.addr == addr).ok_or_else(|| {
        format!(
            "no interface of this host has the underlay address {addr}: add it, or correct the agent's underlay address"
        )
    })?;
    let links = netlink.links().map_err(|e| e.to_string())?;
    let link = links.iter().find(|l| l.index == found.ifindex).ok_or("the underlay's device went away just now")?;
    if !link.up {
        return Err(format!("the underlay's device {0} is down: `ip link set {0} up`", link.name));
    }
    Ok(u16::try_from(link.mtu).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use weft_sys::{netns, process};

    /// The tunnel device where the kernel has it.
    fn best_here(underlay: &Underlay) -> Rung {
        if underlay.tunnel.is_some() { Rung::Tunnel } else { Rung::Segment }
    }

    #[test]
    fn sockets_are_opened_on_the_address_and_the_mtu_is_the_devices() {
        if !process::holds(process::Capability::SysAdmin) {
            eprintln!("SKIPPED: needs CAP_SYS_ADMIN");
            return;
        }
        let host = netns::create().unwrap();
        netns::in_namespace(host.as_fd(), || {
            let mut netlink = Netlink::open().unwrap();
            netlink.add_veth("va", "vb").unwrap();
            netlink.set_mtu("va", 1600).unwrap();
            let addr: IpAddr = "192.0.2.1".parse().unwrap();
            netlink.add_address("va", addr, 24).unwrap();
            assert!(open(addr, 4789, 2, None, 7).unwrap_err().contains("is down"));
            netlink.set_up("va").unwrap();
            let (underlay, fds) = open(addr, 4789, 2, None, u64::from(u16::MAX)).unwrap();
            assert_eq!((underlay.rx_fds, underlay.tx_fds, underlay.mtu), (2, TX_SOCKETS, 1600));
            assert_eq!((fds.len(), underlay.rung), (underlay.fds(), best_here(&underlay)));
            let mut ports: Vec<_> =
                fds[2..2 + TX_SOCKETS].iter().map(|fd| udp::local_addr(fd).unwrap().port()).collect();
            assert!(ports.iter().all(|port| TX_PORTS.contains(port)));
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), TX_SOCKETS);
            assert!(open(addr, 4789, 1, None, 7).unwrap_err().contains("kernel vxlan device"));
            assert!(open([192, 0, 2, 9].into(), 4789, 1, None, 7).unwrap_err().contains("192.0.2.9"));
        })
        .unwrap();
    }
}
