//! Packet sockets: somebody else's network device as a port, with vnet headers and without our own frames.
//!
//! The kernel strips a VLAN tag into auxiliary data; `recv` puts it back, so that the frame is what was on the wire. Kernels
//! before 6.6 speak 10-byte vnet headers only; callers always see 12 bytes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::raw::{Control, Ifreq, ioctl_ifreq, option, result, set_option};
use crate::tap::VNET_HDR_LEN;

/// The device to listen on.
#[derive(Debug, Clone, Copy)]
pub struct PacketRequest<'a> {
    /// Its name in the current namespace.
    pub ifname: &'a str,
    /// Sockets with the same group share the device's frames by flow, one per worker.
    pub fanout: Option<u16>,
    /// Wanted bytes of receive buffer.
    pub receive_buffer: usize,
}

/// Why a packet socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// No right.
    #[error(
        "a packet socket on {ifname} needs CAP_NET_RAW over its network namespace: run the agent as root or with `setcap cap_net_admin,cap_net_raw,cap_sys_admin+ep`"
    )]
    NotAllowed {
        /// The device.
        ifname: String,
    },
    /// No such device.
    #[error(
        "there is no network device {ifname} in that network namespace: create it, or correct `attach.netdev.name`"
    )]
    NoDevice {
        /// The device.
        ifname: String,
    },
    /// Anything else.
    #[error("packet socket on {ifname}: {step}: {source}")]
    Step {
        /// The device.
        ifname: String,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What [`PacketSocket::recv`] got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the frame, without the vnet header.
    pub len: usize,
    /// Whether the frame did not fit the buffer.
    pub truncated: bool,
    /// Whether the kernel vouches for the L4 checksum.
    pub csum_verified: bool,
}

/// A packet socket, however it came to us.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    kernel_hdr_len: usize,
}

/// Opens a socket that receives what enters the device and sends out of it.
pub fn open(request: &PacketRequest<'_>) -> Result<OwnedFd, PacketError> {
    let name = || request.ifname.to_owned();
    let step = |step| move |source: io::Error| PacketError::Step { ifname: request.ifname.to_owned(), step, source };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    // Protocol 0: nothing is received before the socket is bound and its options stand.
    let fd = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None).map_err(|e| {
        if e == rustix::io::Errno::PERM {
            return PacketError::NotAllowed { ifname: name() };
        }
        step("open it")(e.into())
    })?;
    let mut index = Ifreq::new(request.ifname).ok_or_else(|| PacketError::NoDevice { ifname: name() })?;
    ioctl_ifreq(&fd, libc::SIOCGIFINDEX as libc::Ioctl, &mut index).map_err(|e| {
        if e.raw_os_error() == Some(libc::ENODEV) {
            return PacketError::NoDevice { ifname: name() };
        }
        step("look the device up")(e)
    })?;
    let ifindex = index.word();
    let at = fd.as_fd();
    if set_option(at, libc::SOL_PACKET, PACKET_VNET_HDR_SZ, VNET_HDR_LEN as i32).is_err() {
        set_option(at, libc::SOL_PACKET, PACKET_VNET_HDR, 1i32).map_err(step("ask for vnet headers"))?;
    }
    set_option(at, libc::SOL_PACKET, PACKET_AUXDATA, 1i32).map_err(step("ask for VLAN tags"))?;
    set_option(at, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1i32).map_err(step("ignore our own frames"))?;
    set_receive_buffer(at, request.receive_buffer).map_err(step("set the receive buffer"))?;
    let promiscuous = [ifindex, PACKET_MR_PROMISC, 0, 0];
    set_option(at, libc::SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous).map_err(step("make it promiscuous"))?;
    bind(at, ifindex).map_err(step("bind it"))?;
    if let Some(group) = request.fanout {
        let how = u32::from(group) | (PACKET_FANOUT_HASH | PACKET_FANOUT_FLAG_IGNORE_OUTGOING) << 16;
        set_option(at, libc::SOL_PACKET, PACKET_FANOUT, how).map_err(step("join the fanout group"))?;
    }
    Ok(fd)
}

/// Sets the receive buffer beyond the system's limit when we may, up to it when not.
pub(crate) fn set_receive_buffer(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let wanted = i32::try_from(bytes).unwrap_or(i32::MAX);
    set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted)
        .or_else(|_| set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, wanted))
}

fn bind(fd: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain integers, for which zero is legal.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    addr.sll_family = libc::AF_PACKET as u16;
    addr.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    addr.sll_ifindex = ifindex as i32;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of a live `sockaddr_ll`.
    result(unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), len) })
}

impl PacketSocket {
    /// Takes a socket that [`open`] made, perhaps in another process.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let long = option::<i32>(fd.as_fd(), libc::SOL_PACKET, PACKET_VNET_HDR_SZ).unwrap_or(0);
        let kernel_hdr_len = if long == VNET_HDR_LEN as i32 { VNET_HDR_LEN } else { SHORT_HDR_LEN };
        Ok(Self { fd, kernel_hdr_len })
    }

    /// Receives one frame into `buf`, behind its 12-byte vnet header; `WouldBlock` when none waits.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<Received> {
        if buf.len() <= VNET_HDR_LEN + TAG_LEN {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let room = buf.len() - TAG_LEN;
        let (header, frame) = buf[..room].split_at_mut(VNET_HDR_LEN);
        header[SHORT_HDR_LEN..].fill(0);
        let mut parts = [IoSliceMut::new(&mut header[..self.kernel_hdr_len]), IoSliceMut::new(frame)];
        let mut control = Control::default();
        let (got, truncated, control_len) = recv_message(self.fd.as_fd(), &mut parts, &mut control)?;
        let mut len = got.saturating_sub(self.kernel_hdr_len);
        let aux = control
            .messages(control_len)
            .find(|(level, kind, _)| (*level, *kind) == (libc::SOL_PACKET, PACKET_AUXDATA))
            .map(|(.., first)| Auxdata::new(first, control.words[4]));
        let aux = aux.unwrap_or_default();
        if let Some(tag) = aux.tag
            && len >= MACS_LEN
        {
            insert_tag(buf, len, tag);
            len += TAG_LEN;
        }
        Ok(Received { len, truncated, csum_verified: aux.csum_verified })
    }

    /// Sends the frame behind the 12-byte vnet header in `buf`; `WouldBlock` when the device's queue is full.
    pub fn send(&self, buf: &[u8]) -> io::Result<()> {
        let Some((header, frame)) = buf.split_at_checked(VNET_HDR_LEN) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let parts = [IoSlice::new(&header[..self.kernel_hdr_len]), IoSlice::new(frame)];
        rustix::io::writev(&self.fd, &parts)?;
        Ok(())
    }

    /// Frames that the kernel dropped for want of buffer since the last call.
    pub fn drops(&self) -> io::Result<u32> {
        let [_packets, drops] = option::<[u32; 2]>(self.fd.as_fd(), libc::SOL_PACKET, PACKET_STATISTICS)?;
        Ok(drops)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What `struct tpacket_auxdata` tells us.
#[derive(Debug, Clone, Copy, Default)]
struct Auxdata {
    tag: Option<[u8; TAG_LEN]>,
    csum_verified: bool,
}

impl Auxdata {
    /// From its first word (status, length) and its third (mac and net offsets come second; then TCI and TPID).
    fn new(first: [u8; 8], third: u64) -> Self {
        let status = u32::from_ne_bytes([first[0], first[1], first[2], first[3]]);
        let b = third.to_ne_bytes();
        let (tci, tpid) = (u16::from_ne_bytes([b[0], b[1]]), u16::from_ne_bytes([b[2], b[3]]));
        let tpid = if status & TP_STATUS_VLAN_TPID_VALID != 0 { tpid } else { ETHERTYPE_VLAN };
        let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
        Self {
            tag: (status & TP_STATUS_VLAN_VALID != 0).then_some([a, b, c, d]),
            csum_verified: status & TP_STATUS_CSUM_VALID != 0,
        }
    }
}

/// Puts the tag behind the MAC addresses and moves a partial checksum's start along.
fn insert_tag(buf: &mut [u8], len: usize, tag: [u8; TAG_LEN]) {
    let at = VNET_HDR_LEN + MACS_LEN;
    buf.copy_within(at..VNET_HDR_LEN + len, at + TAG_LEN);
    buf[at..at + TAG_LEN].copy_from_slice(&tag);
    if buf[0] & VNET_NEEDS_CSUM != 0 {
        let start = u16::from_le_bytes([buf[6], buf[7]]).saturating_add(TAG_LEN as u16);
        buf[6..8].copy_from_slice(&start.to_le_bytes());
    }
}

fn recv_message(
    fd: BorrowedFd<'_>,
    parts: &mut [IoSliceMut<'_>],
    control: &mut Control,
) -> io::Result<(usize, bool, usize)> {
    // SAFETY: `msghdr` is integers and pointers, for which zero is legal.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    // `IoSliceMut` is ABI-compatible with `iovec` on Unix, by its documentation.
    message.msg_iov = parts.as_mut_ptr().cast();
    message.msg_iovlen = parts.len();
    message.msg_control = control.words.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control.words);
    // SAFETY: the pointers in `message` are to live, writable memory of the lengths it says.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, 0) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((got as usize, message.msg_flags & libc::MSG_TRUNC != 0, message.msg_controllen))
}

const SHORT_HDR_LEN: usize = 10;
const TAG_LEN: usize = 4;
const MACS_LEN: usize = 12;
const ETHERTYPE_VLAN: u16 = 0x8100;
const VNET_NEEDS_CSUM: u8 = 1;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_STATISTICS: i32 = 6;
const PACKET_AUXDATA: i32 = 8;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_FANOUT: i32 = 18;
const PACKET_IGNORE_OUTGOING: i32 = 23;
const PACKET_VNET_HDR_SZ: i32 = 24;
const PACKET_MR_PROMISC: u32 = 1;
const PACKET_FANOUT_HASH: u32 = 0;
const PACKET_FANOUT_FLAG_IGNORE_OUTGOING: u32 = 0x4000;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
const TP_STATUS_CSUM_VALID: u32 = 1 << 7;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Netlink;
    use crate::netns;

    fn pair_of_sockets() -> (PacketSocket, PacketSocket) {
        let mut netlink = Netlink::open().unwrap();
        netlink.add_veth("a", "b").unwrap();
        for name in ["a", "b"] {
            // Without ARP and IPv6 of the kernel's own the line is quiet.
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
            netlink.set_up(name).unwrap();
        }
        // The kernel switches a carrier on a moment later, and drops what is sent before.
        while !["a", "b"].iter().all(|name| netlink.link(name).unwrap().unwrap().running) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let open = |ifname| open(&PacketRequest { ifname, fanout: None, receive_buffer: 1 << 20 }).unwrap();
        (PacketSocket::from_fd(open("a")).unwrap(), PacketSocket::from_fd(open("b")).unwrap())
    }

    fn receive(from: &PacketSocket, buf: &mut [u8]) -> Received {
        for _ in 0..1000 {
            match from.recv(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(std::time::Duration::from_millis(1))
                }
                other => return other.unwrap(),
            }
        }
        panic!("no frame came within a second");
    }

    #[test]
    fn a_frame_crosses_a_veth_with_its_vlan_tag() {
        if !crate::may_test_as_root() {
            return;
        }
        let netns = netns::create().unwrap();
        netns::in_namespace(netns.as_fd(), || {
            let (a, b) = pair_of_sockets();
            let mut frame = vec![0; VNET_HDR_LEN];
            frame.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0x00, 0x20, 0x07, 0x88, 0xb5]);
            frame.extend([0x5a; 64]);
            a.send(&frame).unwrap();
            let mut buf = [0; 2048];
            let got = receive(&b, &mut buf);
            assert_eq!(&buf[VNET_HDR_LEN..VNET_HDR_LEN + got.len], &frame[VNET_HDR_LEN..]);
            assert!(!got.truncated);
            assert_eq!(a.recv(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock, "our own frame came back");
            assert_eq!(b.drops().unwrap(), 0);
        })
        .unwrap();
    }

    #[test]
    fn a_frame_longer_than_the_buffer_says_so() {
        if !crate::may_test_as_root() {
            return;
        }
        let netns = netns::create().unwrap();
        netns::in_namespace(netns.as_fd(), || {
            let (a, b) = pair_of_sockets();
            let mut frame = vec![0; VNET_HDR_LEN];
            frame.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
            frame.extend([0x5a; 1000]);
            a.send(&frame).unwrap();
            assert!(receive(&b, &mut [0; 200]).truncated);
        })
        .unwrap();
    }

    #[test]
    fn a_missing_device_is_named() {
        if !crate::may_test_as_root() {
            return;
        }
        let error = open(&PacketRequest { ifname: "no-such", fanout: None, receive_buffer: 4096 }).unwrap_err();
        assert!(error.to_string().contains("no network device no-such"), "{error}");
    }

    #[test]
    fn a_reinserted_tag_moves_the_checksum_start() {
        let mut buf = [0; 64];
        buf[0] = VNET_NEEDS_CSUM;
        buf[6] = 34;
        buf[VNET_HDR_LEN + MACS_LEN] = 8;
        insert_tag(&mut buf, 40, [0x81, 0, 0, 5]);
        assert_eq!(buf[6], 38);
        assert_eq!(&buf[VNET_HDR_LEN + MACS_LEN..][..5], [0x81, 0, 0, 5, 8]);
    }
}
