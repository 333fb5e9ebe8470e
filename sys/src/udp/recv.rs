//! Receiving many datagrams with one system call.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::raw::{Control, RawAddr};

/// One received datagram, or many of one flow and one length when `stride` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Bytes in its buffer.
    pub len: usize,
    /// Who sent it.
    pub source: SocketAddr,
    /// The length of each datagram in the buffer but the last (UDP_GRO).
    pub stride: Option<u16>,
    /// DSCP and ECN of the outer header.
    pub tos: u8,
    /// Whether it was longer than its buffer.
    pub truncated: bool,
    /// Datagrams that this socket has lost so far for want of buffer; told only once there are any.
    pub overflow: Option<u32>,
}

/// Preallocated headers for one `recvmmsg`.
#[derive(Debug)]
pub struct RecvBatch {
    headers: Box<[libc::mmsghdr]>,
    addrs: Box<[RawAddr]>,
    controls: Box<[Control]>,
    received: usize,
}

// SAFETY: the pointers in `headers` are written anew before each system call and read by nobody else in between.
unsafe impl Send for RecvBatch {}

impl RecvBatch {
    /// Room for `messages` datagrams a call.
    ///
    /// # Panics
    /// When `messages` is zero or above 1024: the caller's bug.
    pub fn new(messages: usize) -> Self {
        assert!((1..=1024).contains(&messages), "a batch of {messages} datagrams");
        // SAFETY: `mmsghdr` is integers and pointers, for which zero is legal.
        let header = unsafe { std::mem::zeroed::<libc::mmsghdr>() };
        Self {
            headers: vec![header; messages].into(),
            addrs: vec![RawAddr::default(); messages].into(),
            controls: vec![Control::default(); messages].into(),
            received: 0,
        }
    }

    /// Receives up to one datagram per buffer, without waiting; `WouldBlock` when there is none.
    pub fn recv(&mut self, fd: BorrowedFd<'_>, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.received = 0;
        let count = bufs.len().min(self.headers.len());
        let slots = self.headers.iter_mut().zip(&mut self.addrs).zip(&mut self.controls);
        for (((header, addr), control), buf) in slots.zip(bufs.iter_mut()) {
            let message = &mut header.msg_hdr;
            message.msg_name = (addr as *mut RawAddr).cast();
            message.msg_namelen = size_of::<RawAddr>() as libc::socklen_t;
            // `IoSliceMut` is ABI-compatible with `iovec` on Unix, by its documentation.
            message.msg_iov = (buf as *mut IoSliceMut<'_>).cast();
            message.msg_iovlen = 1;
            message.msg_control = control.words.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control.words);
            message.msg_flags = 0;
        }
        let flags = libc::MSG_DONTWAIT as _;
        // SAFETY: the first `count` headers were just pointed at live, writable memory of the lengths they say, all
        // of which outlives the call; no timeout is given.
        let got = unsafe {
            let headers = self.headers.as_mut_ptr();
            libc::recvmmsg(fd.as_raw_fd(), headers, count as libc::c_uint, flags, std::ptr::null_mut())
        };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        self.received = got as usize;
        Ok(self.received)
    }

    /// What arrived in buffer `index` of the last [`Self::recv`].
    ///
    /// # Panics
    /// When no datagram arrived there: the caller's bug.
    pub fn datagram(&self, index: usize) -> Datagram {
        assert!(index < self.received, "datagram {index} of {}", self.received);
        let header = &self.headers[index];
        let mut datagram = Datagram {
            len: header.msg_len as usize,
            source: self.addrs[index].get(),
            stride: None,
            tos: 0,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            overflow: None,
        };
        for (level, kind, data) in self.controls[index].messages(header.msg_hdr.msg_controllen) {
            let word = u32::from_ne_bytes([data[0], data[1], data[2], data[3]]);
            match (level, kind) {
                (libc::SOL_UDP, super::UDP_GRO) => datagram.stride = u16::try_from(word).ok().filter(|s| *s != 0),
                (libc::SOL_IP, libc::IP_TOS) => datagram.tos = data[0],
                (libc::SOL_IPV6, libc::IPV6_TCLASS) => datagram.tos = word as u8,
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => datagram.overflow = Some(word),
                _ => {}
            }
        }
        datagram
    }
}
