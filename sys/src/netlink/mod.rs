//! A small blocking netlink client: links, addresses, routes and neighbours of the current namespace.
//!
//! Blocking and without a runtime, because it works in the short-lived threads that enter a guest's namespace. A client
//! belongs to the namespace of the thread that opened it, wherever it is used.

mod address;
mod changes;
mod link;
mod message;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::raw::set_option;
use message::{Message, answers, attributes, text, u32_at};

pub use address::Address;
pub use changes::Changes;
pub use link::{Link, LinkStats, Vxlan};

/// A client.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    sequence: u32,
    buf: Vec<u8>,
}

/// Why the kernel did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No right.
    #[error("{what} needs CAP_NET_ADMIN over the network namespace: run as root, or inside a lab")]
    NotAllowed {
        /// What was asked for.
        what: String,
    },
    /// No such device.
    #[error("{what}: there is no network device {ifname}")]
    NoDevice {
        /// What was asked for.
        what: String,
        /// The device.
        ifname: String,
    },
    /// The kernel refused.
    #[error("{what}: {source}{}", if detail.is_empty() { String::new() } else { format!(" ({detail})") })]
    Refused {
        /// What was asked for.
        what: String,
        /// The error number.
        source: io::Error,
        /// The kernel's own words, where it has some.
        detail: String,
    },
    /// The socket itself failed.
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
}

impl NetlinkError {
    /// Whether the kernel says that it is there already.
    pub fn exists(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    }
}

impl From<rustix::io::Errno> for NetlinkError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Socket(error.into())
    }
}

impl Netlink {
    /// A client for the namespace of this thread.
    pub fn open() -> Result<Self, NetlinkError> {
        // NETLINK_ROUTE is protocol 0.
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        // The kernel answers at once; a bound all the same, so that nothing can hang.
        rustix::net::sockopt::set_socket_timeout(&fd, rustix::net::sockopt::Timeout::Recv, Some(ANSWER_MAX))?;
        set_option(fd.as_fd(), libc::SOL_NETLINK, NETLINK_EXT_ACK, 1i32)?;
        set_option(fd.as_fd(), libc::SOL_NETLINK, NETLINK_CAP_ACK, 1i32)?;
        Ok(Self { fd, sequence: 0, buf: vec![0; BUFFER_LEN] })
    }

    /// Asks for a change.
    fn change(&mut self, what: &str, message: Message) -> Result<(), NetlinkError> {
        self.exchange(what, message, |_, _| ())
    }

    /// Sends a request and gives each answer to `take`, until the kernel says that it is done.
    fn exchange(&mut self, what: &str, message: Message, mut take: impl FnMut(u16, &[u8])) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = message.finish(self.sequence);
        rustix::net::send(&self.fd, &request, SendFlags::empty())?;
        loop {
            let (len, _) = rustix::net::recv(&self.fd, &mut self.buf[..], RecvFlags::empty())?;
            for answer in answers(&self.buf[..len]) {
                if answer.sequence != self.sequence {
                    continue;
                }
                match answer.kind {
                    NLMSG_ERROR => return acknowledged(what, answer.body),
                    NLMSG_DONE => return Ok(()),
                    kind => take(kind, answer.body),
                }
            }
        }
    }
}

fn acknowledged(what: &str, body: &[u8]) -> Result<(), NetlinkError> {
    let code = u32_at(body, 0).map_or(-libc::EBADMSG, |word| word as i32);
    if code == 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(code.saturating_neg());
    if source.raw_os_error() == Some(libc::EPERM) {
        return Err(NetlinkError::NotAllowed { what: what.to_owned() });
    }
    // Behind the error number stands the header of the request, capped by NETLINK_CAP_ACK, then attributes.
    let behind = body.get(4 + 16..).unwrap_or_default();
    let detail = attributes(behind).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, data)| text(data));
    Err(NetlinkError::Refused { what: what.to_owned(), source, detail: detail.unwrap_or_default() })
}

const ANSWER_MAX: Duration = Duration::from_secs(5);
const BUFFER_LEN: usize = 64 * 1024;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
