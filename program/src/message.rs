//! Messages of the control socket, between an agent (client) and the vswitch (server).
//!
//! A message is a 32-bit little-endian length and a postcard body. Descriptors travel as SCM_RIGHTS with the first
//! byte of the message that names them, and the message says how many. One request, one response, in order.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_packet::{DropReason, MacAddr};

use crate::program::{Bundle, BundleError, Position};
use crate::{FdbKey, Location, PortId, RemoteId};

/// The protocol that this build speaks.
pub const PROTOCOL: u16 = 1;
/// The longest message body, in bytes.
pub const MESSAGE_LEN_MAX: usize = 64 << 20;
/// Descriptors that one message carries at most (the kernel's SCM_MAX_FD is 253).
pub const FDS_MAX: usize = 128;

/// What each side says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u16,
    /// Names of optional parts that the speaker understands; nobody is sent what it did not name.
    pub features: Vec<String>,
    /// New at every start of a process.
    pub instance: String,
    /// The build, for people.
    pub build: String,
}

/// What the agent asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Must be the first.
    Hello(Hello),
    /// Gives a port with its descriptors: for a TAP one per queue, for a netdev one packet socket per worker. Answered by `Done`.
    Attach(PortDevice),
    /// Gives a port's device back; answered by `Done` when no worker touches it any more.
    Detach(PortId),
    /// Gives the underlay's sockets: first the receiving ones, one per worker, then the sending ones, then the tunnel
    /// device's queue where there is one.
    AttachUnderlay(Underlay),
    /// Asks for everything attached, with duplicates of all descriptors; answered by one `Attached` message per port and
    /// underlay (each carries its own descriptors), then `Done`.
    Inventory,
    /// Changes the program; answered by `Done` when no frame meets the old one any more, else `Refused`.
    Apply(Bundle),
    /// Asks where the program stands.
    Status,
    /// Asks for all rules with their counters.
    Rules,
    /// Asks for the forwarding database, pinned and learned.
    Fdb,
    /// Asks for ports with their counters.
    Ports,
    /// Asks for the ledger, per worker and summed, and all drop counters.
    Ledger,
    /// Asks the process to end.
    Shutdown,
    /// Says that links, addresses or routes are others now, and how long the largest outer IP packet is, in bytes. The
    /// sockets stay; every remote is probed anew.
    UnderlayChanged(u16),
}

/// What the vswitch answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// The answer to `Hello`.
    Hello(Hello),
    /// Done, and in force.
    Done,
    /// Refused, with all reasons; nothing changed.
    Refused(Vec<RefuseReason>),
    /// One attached port, with its descriptors.
    Attached(PortDevice),
    /// The attached underlay, with its descriptors.
    AttachedUnderlay(Underlay),
    /// The answer to `Status`.
    Status(Status),
    /// The answer to `Rules`.
    Rules(Vec<RuleReport>),
    /// The answer to `Fdb`.
    Fdb(Vec<FdbReport>),
    /// The answer to `Ports`.
    Ports(Vec<PortReport>),
    /// The answer to `Ledger`.
    Ledger(LedgerReport),
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum RefuseReason {
    /// The bundle is not consistent.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The two sides do not speak the same protocol.
    #[error("the vswitch speaks protocol {ours}, not {theirs}: use an agent and a vswitch of the same build")]
    Protocol {
        /// What the vswitch speaks.
        ours: u16,
        /// What was asked for.
        theirs: u16,
    },
    /// The request needs another number of descriptors.
    #[error("{got} descriptors came with the request, it needs {wanted}")]
    Descriptors {
        /// How many came.
        got: usize,
        /// How many it needs.
        wanted: usize,
    },
    /// A descriptor or an id cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// A port's device, as the agent opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortDevice {
    /// The port.
    pub id: PortId,
    /// The API object's name, for people.
    pub name: String,
    /// What kind of device.
    pub kind: PortKind,
    /// Descriptors that come along.
    pub fds: usize,
    /// The largest IP packet of the device, in bytes.
    pub mtu: u16,
    /// What the device takes off our hands when we send to it.
    pub offloads: Offloads,
    /// Where the device is, for a successor of the agent: network namespace path and interface name.
    pub netns: String,
    /// Interface name there.
    pub ifname: String,
}

/// What kind of device a port is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortKind {
    /// A TAP in the guest's namespace, with a 12-byte vnet header.
    Tap,
    /// Somebody else's network device, over AF_PACKET with a vnet header.
    Netdev,
    /// Two queues inside one process, for the simulator and tests; it cannot be attached over the socket.
    Memory,
}

/// What a device takes when we send to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Offloads {
    /// Partial checksums.
    pub csum: bool,
    /// TCP super-frames over IPv4 and IPv6.
    pub tso: bool,
    /// TCP super-frames with CWR on the first segment only.
    pub tso_ecn: bool,
    /// UDP super-frames.
    pub uso: bool,
}

/// The underlay: plain UDP sockets on the host's own address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underlay {
    /// The host's own address.
    pub addr: IpAddr,
    /// Where VXLAN is received.
    pub udp_port: u16,
    /// Receiving sockets that come along, one per worker.
    pub rx_fds: usize,
    /// Sending sockets that come along, each bound to a port of its own.
    pub tx_fds: usize,
    /// The largest outer IP packet, in bytes.
    pub mtu: u16,
    /// The rung of the capability ladder that may be used.
    pub rung: Rung,
    /// The device that takes encapsulated super-frames, whose queue comes along.
    pub tunnel: Option<TunnelDevice>,
    /// Better rungs that this host cannot have, and why.
    pub refused: Vec<(Rung, String)>,
}

impl Underlay {
    /// Descriptors that come along.
    pub fn fds(&self) -> usize {
        self.rx_fds.saturating_add(self.tx_fds).saturating_add(usize::from(self.tunnel.is_some()))
    }

    /// Keeps to `rung`, because this host cannot have `refused`.
    pub fn refuse(&mut self, refused: Rung, rung: Rung, why: &str) {
        self.refused.push((refused, why.to_owned()));
        self.rung = rung;
    }
}

/// A TAP device of the host's own, with a 24-byte vnet header: what is written to it is routed as if it had come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelDevice {
    /// Its name, for people.
    pub ifname: String,
    /// Its MAC address: the destination of what is written.
    pub mac: MacAddr,
}

/// A rung of the capability ladder, the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rung {
    /// One datagram per system call.
    Single,
    /// Many datagrams per system call: sendmmsg and recvmmsg.
    Batch,
    /// Many segments per datagram: UDP_SEGMENT and UDP_GRO.
    Segment,
    /// Besides, TCP super-frames leave encapsulated and uncut over a device of the host's own (Linux 6.17).
    Tunnel,
}

/// Where the vswitch stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Position of the program in force.
    pub position: Position,
    /// Rules in force.
    pub rules: usize,
    /// Workers running.
    pub workers: usize,
    /// The process's id.
    pub pid: u32,
    /// The rung in use, and why each better one is not.
    pub rung: Option<Rung>,
    /// Rungs not taken, with the reason.
    pub rungs_not_taken: Vec<(Rung, String)>,
    /// The rung that probes allow towards each remote; the lower of it and `rung` is in use.
    pub remote_rungs: Vec<RemoteRung>,
}

/// The way to one remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteRung {
    /// The remote.
    pub remote: RemoteId,
    /// The best rung that a probe came through on.
    pub rung: Rung,
    /// Why no better one; empty when there is none.
    pub reason: String,
}

/// A rule and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleReport {
    /// The rule.
    pub rule: crate::Rule,
    /// Frames that it matched; a super-frame counts as one.
    pub frames: u64,
    /// Bytes of these frames.
    pub bytes: u64,
}

/// One entry of the forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbReport {
    /// Segment and MAC address.
    pub key: FdbKey,
    /// Where it lives.
    pub location: Location,
    /// Time since it was last seen; `None` when it is pinned.
    pub age_ms: Option<u64>,
    /// The API object; empty when it was learned.
    pub owner: String,
}

/// A port and its counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// The device.
    pub device: PortDevice,
    /// Whether frames pass.
    pub live: bool,
    /// Whether the device is gone.
    pub gone: bool,
    /// Frames from the device.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that the device took.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Drops of frames that came from this port, or that were to go out of it and were refused.
    pub drops: Vec<(DropReason, u64)>,
    /// Losses outside of us: the device's own counters, by name.
    pub device_drops: Vec<(String, u64)>,
}

/// The balance of frames: `rx + originated + copies + split = tx + consumed + dropped + merged + held`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Frames that a device gave us; a received batch of VXLAN packets counts each.
    pub rx: u64,
    /// Frames that we made: replies, ICMP errors, probes.
    pub originated: u64,
    /// Further copies made for flooding and multiple outputs.
    pub copies: u64,
    /// Further frames made by cutting a frame into segments or fragments.
    pub split: u64,
    /// Frames that the kernel or a ring took.
    pub tx: u64,
    /// Frames that ended here because they were for us: answered requests, probes.
    pub consumed: u64,
    /// Frames that were dropped, with a reason.
    pub dropped: u64,
    /// Frames that became part of another by coalescing.
    pub merged: u64,
    /// Frames that wait inside.
    pub held: u64,
}

impl Ledger {
    /// What is missing on the right side: zero when every frame ended in one stated way.
    pub const fn imbalance(&self) -> i128 {
        let inn = self.rx as i128 + self.originated as i128 + self.copies as i128 + self.split as i128;
        let out =
            self.tx as i128 + self.consumed as i128 + self.dropped as i128 + self.merged as i128 + self.held as i128;
        inn - out
    }
}

impl core::ops::AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.rx += other.rx;
        self.originated += other.originated;
        self.copies += other.copies;
        self.split += other.split;
        self.tx += other.tx;
        self.consumed += other.consumed;
        self.dropped += other.dropped;
        self.merged += other.merged;
        self.held += other.held;
    }
}

/// The ledger, and why what was dropped was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LedgerReport {
    /// One per worker, each read at a batch boundary.
    pub workers: Vec<Ledger>,
    /// Drops by where the frame came from.
    pub drops: Vec<DropReport>,
    /// Losses outside of us that belong to no port: the underlay sockets' own, by name.
    pub device_drops: Vec<(String, u64)>,
    /// Frames per cache level, by name: exact, wildcard, tables.
    pub cache: Vec<(String, u64)>,
    /// System calls and the frames they moved, by name.
    pub io: Vec<(String, u64)>,
}

/// Drops of one reason from one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropReport {
    /// Where the frames came from.
    pub source: DropSource,
    /// Why.
    pub reason: DropReason,
    /// The owner of the rule that said so; empty when no rule did.
    pub owner: String,
    /// How many.
    pub frames: u64,
}

/// Where a dropped frame came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DropSource {
    /// A port.
    Port(PortId),
    /// A known remote.
    Remote(RemoteId),
    /// The underlay, from unknown addresses beyond those that are counted one by one.
    Underlay,
    /// Ourselves: a reply or an ICMP error.
    Own,
    /// The underlay, from this address, which is no remote's.
    Address(IpAddr),
}
