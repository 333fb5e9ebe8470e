//! UDP sockets of the underlay, and their batched input and output.
//!
//! The kernel never fragments for us and never caches a path MTU (PMTUDISC_PROBE): a VTEP must not fragment (RFC 7348,
//! section 4.3) and does its own MTU answers, so a datagram that does not fit is EMSGSIZE here.

mod recv;
mod send;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::packet_socket::set_receive_buffer;
use crate::raw::{option, set_option};

pub use recv::{Datagram, RecvBatch};
pub use send::{Outgoing, SendBatch, Sending};

/// The socket to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpRequest {
    /// Where to bind; port 0 lets the kernel choose.
    pub addr: SocketAddr,
    /// Whether further sockets may share the address, each with its share of the flows.
    pub reuse_port: bool,
    /// Whether many datagrams of one flow may arrive as one.
    pub gro: bool,
    /// Wanted bytes of receive buffer, counted with the kernel's overhead.
    pub receive_buffer: usize,
    /// Wanted bytes of send buffer.
    pub send_buffer: usize,
}

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum UdpError {
    /// Somebody else has the port.
    #[error(
        "UDP {addr} is taken, usually by a kernel vxlan device in the same namespace (see `ip -d link show type vxlan`, \
         else `ss -ulnp sport = :{}`): delete that device, or run Weft with another UDP port on all hosts",
        addr.port()
    )]
    InUse {
        /// Where we wanted to bind.
        addr: SocketAddr,
    },
    /// No interface has the address.
    #[error("no interface of this host has the underlay address {}: add it (`ip addr`), or correct the agent's underlay address", addr.ip())]
    NoSuchAddress {
        /// Where we wanted to bind.
        addr: SocketAddr,
    },
    /// Anything else.
    #[error("UDP socket on {addr}: {step}: {source}")]
    Step {
        /// Where we wanted to bind.
        addr: SocketAddr,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Opens and binds a socket in the current namespace, non-blocking.
pub fn open(request: &UdpRequest) -> Result<OwnedFd, UdpError> {
    let addr = request.addr;
    let step = |step| move |source: io::Error| UdpError::Step { addr, step, source };
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None).map_err(|e| step("open it")(e.into()))?;
    let at = fd.as_fd();
    set_common_options(at, request).map_err(|(what, e)| step(what)(e))?;
    let by_family: &[(&'static str, i32, i32, i32)] = if addr.is_ipv4() {
        &[
            ("ask for TOS", libc::SOL_IP, libc::IP_RECVTOS, 1),
            ("forbid fragments", libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
            ("set the TTL", libc::SOL_IP, libc::IP_TTL, OUTER_TTL),
        ]
    } else {
        &[
            ("bind to IPv6 only", libc::SOL_IPV6, libc::IPV6_V6ONLY, 1),
            ("ask for the traffic class", libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1),
            ("forbid fragments", libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
            ("set the hop limit", libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS, OUTER_TTL),
            ("accept zero checksums", libc::SOL_UDP, UDP_NO_CHECK6_RX, 1),
        ]
    };
    for &(what, level, name, value) in by_family {
        set_option(at, level, name, value).map_err(step(what))?;
    }
    rustix::net::bind(&fd, &addr).map_err(|e| match e {
        rustix::io::Errno::ADDRINUSE => UdpError::InUse { addr },
        rustix::io::Errno::ADDRNOTAVAIL => UdpError::NoSuchAddress { addr },
        other => step("bind it")(other.into()),
    })?;
    Ok(fd)
}

fn set_common_options(at: BorrowedFd<'_>, request: &UdpRequest) -> Result<(), (&'static str, io::Error)> {
    if request.reuse_port {
        set_option(at, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1i32).map_err(|e| ("share the port", e))?;
    }
    set_option(at, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1i32).map_err(|e| ("count its losses", e))?;
    set_receive_buffer(at, request.receive_buffer).map_err(|e| ("set the receive buffer", e))?;
    let send_buffer = i32::try_from(request.send_buffer).unwrap_or(i32::MAX);
    set_option(at, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, send_buffer)
        .or_else(|_| set_option(at, libc::SOL_SOCKET, libc::SO_SNDBUF, send_buffer))
        .map_err(|e| ("set the send buffer", e))?;
    if request.gro {
        set_gro(at, true).map_err(|e| ("let datagrams arrive together (UDP_GRO)", e))?;
    }
    Ok(())
}

/// Lets many datagrams of one flow arrive as one, or not.
pub fn set_gro(fd: impl AsFd, on: bool) -> io::Result<()> {
    set_option(fd.as_fd(), libc::SOL_UDP, UDP_GRO, i32::from(on))
}

/// Whether the kernel can cut one large send into many datagrams on this socket (UDP_SEGMENT).
pub fn can_segment(fd: impl AsFd) -> bool {
    option::<i32>(fd.as_fd(), libc::SOL_UDP, UDP_SEGMENT).is_ok()
}

/// Bytes of receive buffer that the kernel granted.
pub fn receive_buffer(fd: impl AsFd) -> io::Result<usize> {
    Ok(option::<i32>(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF)?.max(0) as usize)
}

/// Where the socket is bound.
pub fn local_addr(fd: impl AsFd) -> io::Result<SocketAddr> {
    let addr = rustix::net::getsockname(fd)?;
    SocketAddr::try_from(addr).map_err(io::Error::from)
}

/// Takes the error that waits on the socket, which would else fail the next call.
pub fn take_error(fd: impl AsFd) -> io::Result<()> {
    rustix::net::sockopt::socket_error(fd)?.map_err(io::Error::from)
}

const OUTER_TTL: i32 = 64;
const UDP_NO_CHECK6_RX: i32 = 102;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;

    use super::*;

    fn socket(addr: &str, gro: bool) -> OwnedFd {
        let addr = addr.parse().unwrap();
        open(&UdpRequest { addr, reuse_port: false, gro, receive_buffer: 1 << 20, send_buffer: 1 << 20 }).unwrap()
    }

    fn receive(batch: &mut RecvBatch, fd: &OwnedFd, bufs: &mut [Vec<u8>]) -> usize {
        let mut slices: Vec<_> = bufs.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        batch.recv(fd.as_fd(), &mut slices).unwrap()
    }

    #[test]
    fn datagrams_arrive_with_their_source_and_tos_over_both_families() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let (rx, tx) = (socket(loopback, false), socket(loopback, false));
            let to = local_addr(&rx).unwrap();
            let mut batch = SendBatch::new(4, 8);
            let mut sending = batch.start();
            for tos in &[0u8, 1, 3] {
                let out = Outgoing { to, tos: *tos, segment: None };
                assert!(sending.push(&out, [&b"abc"[..], std::slice::from_ref(tos)]));
            }
            assert_eq!(sending.send(tx.as_fd(), 0).unwrap(), 3);
            let mut recv = RecvBatch::new(8);
            let mut bufs = vec![vec![0; 100]; 8];
            assert_eq!(receive(&mut recv, &rx, &mut bufs), 3);
            for (index, tos) in [0u8, 1, 3].into_iter().enumerate() {
                let got = recv.datagram(index);
                assert_eq!((got.len, got.tos, got.stride, got.truncated), (4, tos, None, false));
                assert_eq!(got.source, local_addr(&tx).unwrap());
                assert_eq!(bufs[index][..4], [b'a', b'b', b'c', tos]);
            }
        }
    }

    #[test]
    fn a_segmented_send_arrives_as_one_with_its_stride_when_gro_is_on() {
        let (rx, tx) = (socket("127.0.0.1:0", true), socket("127.0.0.1:0", false));
        assert!(can_segment(&tx));
        let to = local_addr(&rx).unwrap();
        let payload = vec![0x5a; 2500];
        let mut batch = SendBatch::new(1, 4);
        let mut sending = batch.start();
        assert!(sending.push(&Outgoing { to, tos: 0, segment: Some(1000) }, [&payload[..1200], &payload[1200..]]));
        sending.send_one(tx.as_fd(), 0).unwrap();
        let mut recv = RecvBatch::new(4);
        let mut bufs = vec![vec![0; 65_535]; 4];
        assert_eq!(receive(&mut recv, &rx, &mut bufs), 1);
        let got = recv.datagram(0);
        assert_eq!((got.len, got.stride), (2500, Some(1000)));
    }

    #[test]
    fn a_datagram_longer_than_its_buffer_says_so() {
        let (rx, tx) = (socket("127.0.0.1:0", false), socket("127.0.0.1:0", false));
        rustix::net::sendto(&tx, &[7; 100], rustix::net::SendFlags::empty(), &local_addr(&rx).unwrap()).unwrap();
        let mut recv = RecvBatch::new(1);
        assert_eq!(receive(&mut recv, &rx, &mut [vec![0; 10]]), 1);
        assert!(recv.datagram(0).truncated);
    }

    #[test]
    fn an_empty_socket_would_block() {
        let rx = socket("127.0.0.1:0", false);
        let mut buf = [0; 10];
        let error = RecvBatch::new(1).recv(rx.as_fd(), &mut [IoSliceMut::new(&mut buf)]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_full_send_batch_refuses_one_more() {
        let mut batch = SendBatch::new(2, 3);
        let out = Outgoing { to: "127.0.0.1:9".parse().unwrap(), tos: 0, segment: None };
        let mut sending = batch.start();
        assert!(sending.push(&out, [&b"a"[..], b"b"]));
        assert!(!sending.push(&out, [&b"a"[..], b"b"]), "four slices do not fit three");
        assert!(sending.push(&out, [&b"a"[..]]));
        assert!(!sending.push(&out, [&b"a"[..]]), "three messages do not fit two");
        assert_eq!(sending.len(), 2);
    }

    #[test]
    fn a_taken_port_and_a_foreign_address_are_named() {
        let first = socket("127.0.0.1:0", false);
        let addr = local_addr(&first).unwrap();
        let request = UdpRequest { addr, reuse_port: false, gro: false, receive_buffer: 4096, send_buffer: 4096 };
        assert!(open(&request).unwrap_err().to_string().contains("kernel vxlan device"));
        let foreign = UdpRequest { addr: "192.0.2.1:4789".parse().unwrap(), ..request };
        assert!(matches!(open(&foreign).unwrap_err(), UdpError::NoSuchAddress { .. }));
    }
}
