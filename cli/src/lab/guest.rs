//! Guests' interfaces: address, MTU and up, as soon as they are there.
//!
//! The agent makes a TAP whenever a manifest says so, maybe long after the lab came up; the kernel tells about every
//! new link, so nothing is polled.

use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use weft_sys::epoll::{Epoll, Interest};
use weft_sys::netlink::Netlink;

use super::build::{Place, Places};
use super::topology::{Guest, Topology};

/// Watches the links of all guests.
#[derive(Debug)]
pub(crate) struct Watch {
    epoll: Epoll,
    /// In the order of the topology's guests.
    sockets: Vec<OwnedFd>,
}

/// RTMGRP_LINK of rtnetlink(7).
const GROUP_LINK: u32 = 1;
const RECEIVE_LEN: usize = 32 << 10;

impl Watch {
    /// Begins to watch; later links are not missed.
    pub(crate) fn new(topology: &Topology, places: &Places) -> Result<Self> {
        let epoll = Epoll::new().context("cannot watch the guests' links")?;
        let mut sockets = Vec::new();
        for guest in &topology.guests {
            let place = places.get(&guest.name).with_context(|| format!("guest `{}` has no namespace", guest.name))?;
            let socket = place.inside(link_socket)?.context("cannot watch a guest's links")?;
            epoll.add(&socket, sockets.len() as u64, Interest::Read)?;
            sockets.push(socket);
        }
        Ok(Self { epoll, sockets })
    }

    /// Sets up what appears, forever; `complain` hears of what fails.
    pub(crate) fn run(mut self, topology: &Topology, places: &Places, complain: impl Fn(String)) -> Result<()> {
        for guest in &topology.guests {
            try_configure(guest, places, &complain);
        }
        loop {
            let ready: Vec<usize> = self.epoll.wait(None)?.iter().map(|e| e.token as usize).collect();
            for index in ready {
                drain(&self.sockets[index]);
                try_configure(&topology.guests[index], places, &complain);
            }
        }
    }
}

/// Whether all ports of the guest are there, up, and have their addresses.
pub(crate) fn is_configured(guest: &Guest, place: &Place) -> Result<bool> {
    place.inside(|| {
        let mut net = Netlink::open()?;
        for port in &guest.ports {
            let Some(link) = net.link(&port.ifname)? else { return Ok(false) };
            let present = net.addresses()?;
            let complete =
                port.addresses.iter().all(|a| present.iter().any(|p| p.ifindex == link.index && p.addr == a.addr));
            if !complete || !link.up {
                return Ok(false);
            }
        }
        Ok(true)
    })?
}

fn try_configure(guest: &Guest, places: &Places, complain: &impl Fn(String)) {
    let Some(place) = places.get(&guest.name) else { return };
    let done = place.inside(|| configure(guest)).and_then(|r| r);
    if let Err(error) = done {
        complain(format!("guest `{}`: {}", guest.name, crate::exit::tell(&error)));
    }
}

fn configure(guest: &Guest) -> Result<()> {
    let mut net = Netlink::open()?;
    for port in &guest.ports {
        let Some(link) = net.link(&port.ifname)? else { continue };
        if port.mtu.is_some_and(|mtu| mtu != link.mtu) {
            net.set_mtu(&port.ifname, port.mtu.unwrap_or(link.mtu))?;
        }
        if !link.up {
            net.set_up(&port.ifname)?;
        }
        let present = net.addresses()?;
        for address in &port.addresses {
            if !present.iter().any(|p| p.ifindex == link.index && p.addr == address.addr) {
                net.add_address(&port.ifname, address.addr, address.prefix_len)?;
            }
        }
    }
    Ok(())
}

fn link_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol means NETLINK_ROUTE, whose number is 0.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUP_LINK))?;
    Ok(socket)
}

/// What the messages say does not matter: the links are asked anyway. An overflow is a message like any other.
fn drain(socket: &OwnedFd) {
    let mut buffer = vec![0u8; RECEIVE_LEN];
    loop {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
