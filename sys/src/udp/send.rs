//! Sending many datagrams, gathered from many slices, with one system call.
//!
//! A batch is filled and sent through [`Sending`], whose lifetime binds the slices: the kernel reads them during a
//! call only, and they cannot be gone by then.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::raw::{Control, RawAddr, result};

/// Where a message goes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outgoing {
    /// The destination.
    pub to: SocketAddr,
    /// DSCP and ECN of the outer header.
    pub tos: u8,
    /// Lets the kernel cut the message into datagrams of this length, the last may be shorter (UDP_SEGMENT).
    pub segment: Option<u16>,
}

/// Preallocated headers for one `sendmmsg`.
#[derive(Debug)]
pub struct SendBatch {
    headers: Box<[libc::mmsghdr]>,
    messages: Box<[Message]>,
    slices: Box<[libc::iovec]>,
    messages_len: usize,
    slices_len: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Message {
    addr: RawAddr,
    addr_len: usize,
    control: Control,
    control_len: usize,
    first_slice: usize,
    slices: usize,
}

// SAFETY: the pointers in `headers` and `slices` are read only through a `Sending`, which fills them itself.
unsafe impl Send for SendBatch {}

impl SendBatch {
    /// Room for so many messages, made of so many slices altogether.
    ///
    /// # Panics
    /// When a bound is zero or messages are above 1024: the caller's bug.
    pub fn new(messages_max: usize, slices_max: usize) -> Self {
        assert!((1..=1024).contains(&messages_max) && slices_max > 0, "a batch of {messages_max} messages");
        // SAFETY: `mmsghdr` is integers and pointers, for which zero is legal.
        let header = unsafe { std::mem::zeroed::<libc::mmsghdr>() };
        let slice = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            headers: vec![header; messages_max].into(),
            messages: vec![Message::default(); messages_max].into(),
            slices: vec![slice; slices_max].into(),
            messages_len: 0,
            slices_len: 0,
        }
    }

    /// Starts a new batch; what was in it is forgotten.
    pub fn start<'b>(&mut self) -> Sending<'_, 'b> {
        self.messages_len = 0;
        self.slices_len = 0;
        Sending { batch: self, slices: PhantomData }
    }
}

/// A batch being filled and sent; it borrows the slices until it is dropped.
#[derive(Debug)]
pub struct Sending<'s, 'b> {
    batch: &'s mut SendBatch,
    slices: PhantomData<&'b [u8]>,
}

impl<'b> Sending<'_, 'b> {
    /// Adds a message; false when it does not fit, and then nothing was added.
    pub fn push(&mut self, out: &Outgoing, slices: impl IntoIterator<Item = &'b [u8]>) -> bool {
        let batch = &mut *self.batch;
        if batch.messages_len == batch.messages.len() {
            return false;
        }
        let first_slice = batch.slices_len;
        let mut end = first_slice;
        for slice in slices {
            let Some(slot) = batch.slices.get_mut(end) else { return false };
            *slot = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
            end += 1;
        }
        batch.slices_len = end;
        let message = &mut batch.messages[batch.messages_len];
        (message.addr, message.addr_len) = RawAddr::new(out.to);
        let tos = i32::from(out.tos).to_ne_bytes();
        let (level, kind) =
            if out.to.is_ipv4() { (libc::SOL_IP, libc::IP_TOS) } else { (libc::SOL_IPV6, libc::IPV6_TCLASS) };
        let mut words = 0;
        if out.tos != 0 {
            words = message.control.put(words, level, kind, &tos);
        }
        if let Some(segment) = out.segment {
            words = message.control.put(words, libc::SOL_UDP, super::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        message.control_len = words * 8;
        (message.first_slice, message.slices) = (first_slice, end - first_slice);
        batch.messages_len += 1;
        true
    }

    /// Messages in the batch.
    pub fn len(&self) -> usize {
        self.batch.messages_len
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.batch.messages_len == 0
    }

    /// Sends message `from` and those behind it; says how many the kernel took. An error is about message `from`.
    pub fn send(&mut self, fd: BorrowedFd<'_>, from: usize) -> io::Result<usize> {
        let to = self.batch.messages_len;
        if from >= to {
            return Ok(0);
        }
        self.point(from, to);
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _;
        // SAFETY: `point` has just pointed these headers at the batch's own memory and at slices that `'b` keeps
        // alive; the kernel reads them during the call only, and writes `msg_len` of headers that we own.
        let sent = unsafe {
            let headers = self.batch.headers[from..to].as_mut_ptr();
            libc::sendmmsg(fd.as_raw_fd(), headers, (to - from) as libc::c_uint, flags)
        };
        result(sent)?;
        Ok(sent as usize)
    }

    /// Sends message `index` alone, with the plain call.
    pub fn send_one(&mut self, fd: BorrowedFd<'_>, index: usize) -> io::Result<()> {
        if index >= self.batch.messages_len {
            return Ok(());
        }
        self.point(index, index + 1);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: as in `send`.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const self.batch.headers[index].msg_hdr, flags) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Points the headers at their messages' parts.
    fn point(&mut self, from: usize, to: usize) {
        let batch = &mut *self.batch;
        for (header, message) in batch.headers[from..to].iter_mut().zip(&mut batch.messages[from..to]) {
            let head = &mut header.msg_hdr;
            head.msg_name = (&raw mut message.addr).cast();
            head.msg_namelen = message.addr_len as libc::socklen_t;
            head.msg_iov = batch.slices[message.first_slice..][..message.slices].as_mut_ptr();
            head.msg_iovlen = message.slices;
            head.msg_control = message.control.words.as_mut_ptr().cast();
            head.msg_controllen = message.control_len;
            head.msg_flags = 0;
        }
    }
}
