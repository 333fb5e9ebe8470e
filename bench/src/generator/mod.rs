//! Numbered 64-byte frames from one guest to another, as many as the sender can, and what became of them.
//!
//! The sender is a packet socket fed by `sendmmsg`. The receiver is a UDP socket that is emptied every millisecond:
//! nobody waits in it, so that a frame wakes nobody, and its own losses are told apart from the path's.

mod frame;
mod tally;

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use weft_sys::netlink::Netlink;
use weft_sys::packet_socket::{self, PacketRequest};
use weft_sys::udp::{self, RecvBatch, UdpRequest};
use weft_sys::{netns, tap};

use frame::{End, FRAME_LEN, PAYLOAD_LEN, PORT, Template};
pub(crate) use tally::FLOWS_MAX;
use tally::Tally;

/// What a run found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Found {
    /// Thousands of frames per second that arrived, each number once.
    pub(crate) delivered_kpps: f64,
    /// Thousands of frames per second that the sender's device took.
    pub(crate) offered_kpps: f64,
    /// Share of the taken frames that never arrived, with those that the sending guest's own device dropped.
    pub(crate) lost_percent: f64,
    pub(crate) reordered: u64,
    pub(crate) duplicated: u64,
}

/// A guest as the generator needs it.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) netns: BorrowedFd<'a>,
    pub(crate) address: Ipv4Addr,
}

/// Sends for `window` and a short warm-up from one guest to the other.
pub(crate) fn run(from: &Place<'_>, to: &Place<'_>, flows: u64, window: Duration, run: u32) -> Result<Found> {
    let (sender, from_mac) = netns::in_namespace(from.netns, || open_sender(from.address))??;
    let (receiver, to_mac) = netns::in_namespace(to.netns, || open_receiver(to.address))??;
    let template =
        Template::new(run, End { mac: from_mac, address: from.address }, End { mac: to_mac, address: to.address });
    let (stop, stop_receiving) = (AtomicBool::new(false), AtomicBool::new(false));
    let (sent, delivered) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, run, flows, &delivered, &stop_receiving));
        let sending = scope.spawn(|| send(sender.as_fd(), &template, flows, &sent, &stop));
        let look = || (Instant::now(), sent.load(Ordering::Relaxed), delivered.load(Ordering::Relaxed));
        std::thread::sleep(WARM_UP);
        let before = look();
        std::thread::sleep(window);
        let after = look();
        stop.store(true, Ordering::Relaxed);
        let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        stop_receiving.store(true, Ordering::Relaxed);
        let (tally, overflow) = receiving.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
        let sent = sent?;
        ensure!(overflow == 0, "the receiver itself lost {overflow} frames: the figure would be its own");
        ensure!(tally.delivered > 0, "of {sent} frames none arrived");
        let kpps = |count: u64| count as f64 / (after.0 - before.0).as_secs_f64() / 1e3;
        Ok(Found {
            delivered_kpps: kpps(after.2 - before.2),
            offered_kpps: kpps(after.1 - before.1),
            lost_percent: (1.0 - tally.delivered as f64 / sent as f64) * 100.0,
            reordered: tally.reordered,
            duplicated: tally.duplicated,
        })
    })
}

/// The device that has the address, in this thread's namespace: its name and MAC address.
pub(crate) fn device(address: Ipv4Addr) -> Result<(String, [u8; 6])> {
    let mut netlink = Netlink::open()?;
    let index = netlink.addresses()?.iter().find(|a| a.addr == address).map(|a| a.ifindex);
    let link = netlink.links()?.into_iter().find(|l| Some(l.index) == index);
    let link = link.with_context(|| format!("no device of the guest has {address}"))?;
    let mac = link.mac.with_context(|| format!("{} has no MAC address", link.name))?;
    Ok((link.name, mac))
}

fn open_sender(address: Ipv4Addr) -> Result<(OwnedFd, [u8; 6])> {
    let (ifname, mac) = device(address)?;
    Ok((packet_socket::open(&PacketRequest { ifname: &ifname, fanout: None, receive_buffer: 4096 })?, mac))
}

fn open_receiver(address: Ipv4Addr) -> Result<(OwnedFd, [u8; 6])> {
    let addr = SocketAddr::new(address.into(), PORT);
    let request = UdpRequest { addr, reuse_port: false, gro: false, receive_buffer: 64 << 20, send_buffer: 4096 };
    Ok((udp::open(&request)?, device(address)?.1))
}

/// Sends until told to stop; how many frames the device took.
fn send(socket: BorrowedFd<'_>, template: &Template, flows: u64, sent: &AtomicU64, stop: &AtomicBool) -> Result<u64> {
    let no_offload = [0; tap::VNET_HDR_LEN];
    let mut frames = [[0; FRAME_LEN]; BATCH];
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        for (number, frame) in (next..).zip(&mut frames) {
            template.write(number, flows, frame);
        }
        let slices: [_; BATCH] = std::array::from_fn(|i| [IoSlice::new(&no_offload), IoSlice::new(&frames[i])]);
        let mut controls: [_; BATCH] = std::array::from_fn(|_| SendAncillaryBuffer::default());
        let pairs = slices.iter().zip(&mut controls);
        let mut messages: Vec<_> = pairs.map(|(slice, control)| MMsgHdr::new(slice, control)).collect();
        match sendmmsg(socket, &mut messages, SendFlags::empty()) {
            Ok(taken) => next += taken as u64,
            // The device's queue is full: its next free place is what we wait for.
            Err(rustix::io::Errno::NOBUFS) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let timeout = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&timeout))?;
            }
            Err(error) => return Err(error).context("cannot send frames"),
        }
        sent.store(next, Ordering::Relaxed);
    }
    Ok(next)
}

/// Receives until told to stop and nothing has come for a while; the counts, and what this socket lost.
fn receive(
    socket: &OwnedFd,
    run: u32,
    flows: u64,
    delivered: &AtomicU64,
    stop: &AtomicBool,
) -> io::Result<(Tally, u32)> {
    let mut batch = RecvBatch::new(BATCH);
    let mut bufs = [[0; PAYLOAD_LEN + 1]; BATCH];
    let mut tally = Tally::new(flows);
    let (mut overflow, mut quiet) = (0, 0);
    while quiet < QUIET_MS {
        let count = batch.recv(socket.as_fd(), &mut bufs.each_mut().map(|b| IoSliceMut::new(b)));
        match count {
            Ok(count) => {
                for (index, buf) in bufs.iter().enumerate().take(count) {
                    let datagram = batch.datagram(index);
                    overflow = datagram.overflow.unwrap_or(overflow);
                    if let Some(number) = frame::number(&buf[..datagram.len.min(buf.len())], run) {
                        tally.push(number);
                    }
                }
                delivered.store(tally.delivered, Ordering::Relaxed);
                quiet = 0;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
                quiet = if stop.load(Ordering::Relaxed) { quiet + 1 } else { 0 };
            }
            Err(error) => return Err(error),
        }
    }
    Ok((tally, overflow))
}

/// Frames per system call.
const BATCH: usize = 64;
const WARM_UP: Duration = Duration::from_millis(200);
/// Milliseconds without a frame after which none is under way any more.
const QUIET_MS: u32 = 50;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Guests;

    #[test]
    fn over_a_plain_veth_every_frame_arrives_once_and_in_order() {
        let Some(guests) = Guests::new() else { return };
        let [from, to] = guests.places();
        for flows in [1, FLOWS_MAX] {
            let found = super::run(&from, &to, flows, Duration::from_millis(100), 7).unwrap();
            assert_eq!((found.lost_percent, found.reordered, found.duplicated), (0.0, 0, 0), "{found:?}");
            assert!(found.delivered_kpps > 1.0, "{found:?}");
        }
    }
}
