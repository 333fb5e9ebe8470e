//! Whether links, addresses or routes changed: the kernel's notifications, without a thread that waits for them.
//!
//! What changed is not read from the notification. Some may be lost, so whoever is told asks for what it wants to know.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::NetlinkError;

/// Notifications of the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Changes {
    fd: OwnedFd,
}

impl Changes {
    /// Changes from now on.
    pub fn open() -> Result<Self, NetlinkError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self { fd })
    }

    /// Whether there was one since the last call; in doubt there was. Never waits.
    pub fn any(&mut self) -> bool {
        let mut changed = false;
        for _ in 0..READS_MAX {
            // Cut off where it is longer: that there is one is all that counts.
            match rustix::net::recv(&self.fd, &mut [0u8; 64][..], RecvFlags::empty()) {
                Err(Errno::AGAIN) => return changed,
                Ok(_) | Err(_) => changed = true,
            }
        }
        changed
    }
}

const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV6_ROUTE: u32 = 0x400;
const GROUPS: u32 = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
/// More than a socket's buffer holds of small ones; the rest is for the next call.
const READS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netlink::Netlink;
    use crate::netns;

    #[test]
    fn a_change_of_a_link_or_an_address_is_told_once() {
        if !crate::may_test_as_root() {
            return;
        }
        let host = netns::create().unwrap();
        netns::in_namespace(host.as_fd(), || {
            let mut changes = Changes::open().unwrap();
            assert!(!changes.any());
            let mut netlink = Netlink::open().unwrap();
            netlink.set_mtu("lo", 1500).unwrap();
            assert!(changes.any());
            assert!(!changes.any());
            netlink.add_address("lo", [192, 0, 2, 1].into(), 32).unwrap();
            assert!(changes.any());
        })
        .unwrap();
    }
}
