//! Bare wires: what any userspace between two TAPs has to pay, and no switch. They show the ceiling.
//!
//! A wire is a process in a session of its own, as a vswitch is. It ends, with all it made, when its standard input closes: nothing
//! stays behind when the benchmark is interrupted.

mod local;
mod tunnel;

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::io::Errno;
use weft_sys::netlink::Netlink;
use weft_sys::netns;
use weft_sys::tap::{self, TapRequest};

/// Which wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wire {
    /// read() and write() between two TAPs
    Local,
    /// Tunnel-GSO TAP to send, a plain UDP socket to receive
    Vxlan,
}

impl Wire {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Vxlan => "vxlan",
        }
    }

    /// The name of its namespace for guest or host `which`.
    pub(crate) fn netns(self, which: &str) -> String {
        format!("bench-wire-{}-{which}", self.name())
    }
}

/// Builds the wire, says `ready` on standard output, and carries frames until standard input closes.
pub(crate) fn run(wire: Wire) -> Result<()> {
    // Refused to one who leads a group, which whoever started it by hand does.
    let _session = rustix::process::setsid();
    let ready = || {
        let mut out = std::io::stdout();
        writeln!(out, "ready").and_then(|()| out.flush()).context("cannot say that the wire is ready")
    };
    match wire {
        Wire::Local => local::run(ready),
        Wire::Vxlan => tunnel::run(ready),
    }
}

/// A namespace that goes with its value.
struct Netns {
    path: PathBuf,
    fd: OwnedFd,
}

impl Netns {
    fn new(name: &str) -> Result<Self> {
        let path = PathBuf::from("/run/netns").join(name);
        if path.exists() {
            netns::delete_at(&path).with_context(|| format!("cannot remove the old {}", path.display()))?;
        }
        let fd = netns::create_at(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path, fd })
    }

    /// A guest with a TAP that has every offload, at 10.9.0.`last`; the TAP's queue is the wire's end.
    fn guest(wire: Wire, which: &str, last: u8) -> Result<(Self, OwnedFd)> {
        let netns = Self::new(&wire.netns(which))?;
        let request = TapRequest { ifname: "eth0", queues: 1, mac: None, mtu: GUEST_MTU, tx_queue_len: 1000 };
        let tap = tap::open_in(&request, netns.fd.as_fd())?;
        netns::in_namespace(netns.fd.as_fd(), || {
            Netlink::open()?.add_address("eth0", Ipv4Addr::new(10, 9, 0, last).into(), 24)
        })??;
        let queue = tap.queues.into_iter().next().context("a TAP has a queue")?;
        Ok((netns, queue))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = netns::delete_at(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Whether there was nothing to read; any other error is the wire's end.
fn nothing<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        other => other.map(Some),
    }
}

/// Frames that are read from one end before the others have their turn.
const BURST: usize = 32;
/// The longest frame of a TAP with its headers.
const BUF_LEN: usize = 68 * 1024;
/// IP bytes of a guest's packet.
const GUEST_MTU: u16 = 1500;
