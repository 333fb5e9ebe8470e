//! Two guests joined by a veth, which loses and reorders nothing.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use weft_sys::netlink::Netlink;
use weft_sys::netns;
use weft_sys::process::{Capability, holds};

use crate::generator::Place;

/// Both namespaces, at 10.9.0.1 and 10.9.0.2.
pub(crate) struct Guests {
    namespaces: [OwnedFd; 2],
}

impl Guests {
    /// `None`, and why on standard error, where namespaces may not be made.
    pub(crate) fn new() -> Option<Self> {
        if !Capability::ALL.into_iter().all(holds) {
            eprintln!("SKIPPED: needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN");
            return None;
        }
        let guests = Self { namespaces: [netns::create().unwrap(), netns::create().unwrap()] };
        let [a, b] = &guests.namespaces;
        netns::in_namespace(a.as_fd(), || {
            let mut netlink = Netlink::open().unwrap();
            netlink.add_veth("eth0", "eth1").unwrap();
            netlink.move_link("eth1", b.as_fd()).unwrap();
        })
        .unwrap();
        for (netns, name, last) in [(a, "eth0", 1), (b, "eth1", 2)] {
            netns::in_namespace(netns.as_fd(), || {
                let mut netlink = Netlink::open().unwrap();
                netlink.add_address(name, Ipv4Addr::new(10, 9, 0, last).into(), 24).unwrap();
                netlink.set_up(name).unwrap();
            })
            .unwrap();
        }
        // The kernel switches a carrier on a moment later, and drops what is sent before.
        let runs = || Netlink::open().unwrap().link("eth0").unwrap().unwrap().running;
        while !netns::in_namespace(a.as_fd(), runs).unwrap() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(guests)
    }

    pub(crate) fn places(&self) -> [Place<'_>; 2] {
        let place =
            |at: usize, last| Place { netns: self.namespaces[at].as_fd(), address: Ipv4Addr::new(10, 9, 0, last) };
        [place(0, 1), place(1, 2)]
    }
}
