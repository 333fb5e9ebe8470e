//! The tunnel device: a TAP of the host's own that takes encapsulated super-frames uncut (Linux 6.17).
//!
//! A UDP socket cannot send such a frame. So it is written to this device as if it had come in over it, and the host
//! routes it out. That wants a few settings, all of the device itself, which go with it: no frame of anybody else is
//! forwarded because of it, and what the whole host has set (`all`, `default`) stays as it was.

use std::io;
use std::os::fd::OwnedFd;

use crate::netlink::{Netlink, NetlinkError};
use crate::raw::{Ifreq, ioctl_value};
use crate::tap::{TUNSETOFFLOAD, TapError, TapOffloads, open_queue};

/// Octets of the vnet header in front of each frame.
pub const VNET_HDR_LEN: usize = 24;

/// An opened device.
#[derive(Debug)]
pub struct Tunnel {
    /// Its only queue; it is written to, and never read.
    pub queue: OwnedFd,
    /// Its name.
    pub ifname: String,
    /// Its MAC address: the destination of what is written.
    pub mac: [u8; 6],
}

/// Why there is none. Everything works without, on a lower rung.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// Older than Linux 6.17.
    #[error("this kernel's TAP devices take no encapsulated super-frames: Linux 6.17 or later does")]
    Kernel,
    /// No TAP at all.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A setting of the device was refused.
    #[error("{path} cannot be set to {value}: {source}; in a container mount /proc/sys/net writable")]
    Setting {
        /// The file.
        path: String,
        /// What it was to hold.
        value: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("tunnel device: {step}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its link could not be set up.
    #[error("tunnel device: {0}")]
    Link(#[from] NetlinkError),
}

/// Makes the device in the current namespace, for an underlay of IPv6 or of IPv4.
pub fn open(v6: bool) -> Result<Tunnel, TunnelError> {
    let step = |step| move |source: io::Error| TunnelError::Step { step, source };
    let (queue, made) = open_queue(NAME, Ifreq::TUNNEL, VNET_HDR_LEN)?;
    let ifname = made.ifname();
    match ioctl_value(&queue, TUNSETOFFLOAD, TapOffloads::ALL_BITS | TUNNEL_BITS) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Err(TunnelError::Kernel),
        other => other.map_err(step("set its offloads"))?,
    }
    let settings: &[(&str, &'static str)] = if v6 {
        &[("ipv6/conf/{}/addr_gen_mode", "1"), ("ipv6/conf/{}/accept_ra", "0"), ("ipv6/conf/{}/force_forwarding", "1")]
    } else {
        &[
            ("ipv6/conf/{}/disable_ipv6", "1"),
            ("ipv4/conf/{}/forwarding", "1"),
            ("ipv4/conf/{}/accept_local", "1"),
            ("ipv4/conf/{}/rp_filter", "0"),
        ]
    };
    for (name, value) in settings {
        let path = format!("/proc/sys/net/{}", name.replace("{}", &ifname));
        match std::fs::write(&path, value) {
            // A kernel without IPv6 has nothing to silence.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.ends_with("disable_ipv6") => {}
            other => other.map_err(|source| TunnelError::Setting { path, value, source })?,
        }
    }
    let mut netlink = Netlink::open()?;
    netlink.set_arp(&ifname, false)?;
    netlink.set_up(&ifname)?;
    let link = netlink.link(&ifname)?;
    let mac = link
        .and_then(|link| link.mac)
        .ok_or(TunnelError::Step { step: "read its MAC address", source: io::ErrorKind::NotFound.into() })?;
    Ok(Tunnel { queue, ifname, mac })
}

/// TUN_F_UDP_TUNNEL_GSO and TUN_F_UDP_TUNNEL_GSO_CSUM.
const TUNNEL_BITS: libc::c_ulong = 0x80 | 0x100;
/// For error texts; the kernel adds a number.
const NAME: &str = "weft-out";

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netns;

    #[test]
    fn a_device_is_silent_forwards_by_its_own_settings_and_goes_with_its_queue() {
        if !crate::may_test_as_root() {
            return;
        }
        for v6 in [false, true] {
            let netns = netns::create().unwrap();
            netns::in_namespace(netns.as_fd(), || {
                let tunnel = match open(v6) {
                    Err(TunnelError::Kernel) => return eprintln!("SKIPPED: {}", TunnelError::Kernel),
                    other => other.unwrap(),
                };
                let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap();
                let mut netlink = Netlink::open().unwrap();
                let link = netlink.link(&tunnel.ifname).unwrap().unwrap();
                assert_eq!((link.up, link.arp, link.mac), (true, false, Some(tunnel.mac)));
                assert_eq!(read("ipv4/ip_forward"), "0\n", "the host forwards nothing else");
                assert_eq!(read("ipv4/conf/all/rp_filter"), read("ipv4/conf/lo/rp_filter"));
                let addresses = netlink.addresses().unwrap();
                assert!(addresses.iter().all(|address| address.ifindex != link.index), "{addresses:?}");
                assert_eq!(rustix::io::read(&tunnel.queue, &mut [0; 100]), Err(rustix::io::Errno::AGAIN));
                let name = tunnel.ifname.clone();
                drop(tunnel);
                assert!(netlink.link(&name).unwrap().is_none());
            })
            .unwrap();
        }
    }
}
