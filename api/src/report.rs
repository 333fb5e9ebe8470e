//! What is told to people: how a host and a change of intent stand, and what a data plane does.
//!
//! An agent turns the vswitch's answers, which speak of ids, into these, which speak of names. They are read
//! leniently (unknown fields are skipped), because agents and controllers of different builds exchange them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::object::FieldError;

/// What can be asked of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueryKind {
    /// Answered by a list of [`FlowReport`].
    Flows,
    /// Answered by a list of [`PortReport`].
    Ports,
    /// Answered by a list of [`FdbReport`].
    Fdb,
    /// Answered by a list of [`DropReport`].
    Drops,
    /// Answered by a [`LedgerReport`].
    Ledger,
}

impl QueryKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Flows, Self::Ports, Self::Fdb, Self::Drops, Self::Ledger];

    /// The word in the API's path.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Ports => "ports",
            Self::Fdb => "fdb",
            Self::Drops => "drops",
            Self::Ledger => "ledger",
        }
    }
}

/// A rule in force and what it did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct FlowReport {
    /// The table's number.
    pub table: u8,
    /// What the table is for: `classify`, `anti_spoof`, `respond`, `forward`.
    pub table_name: String,
    /// The highest matching priority wins.
    pub priority: u32,
    /// What it matches, a text per field: `in_port=red/a`.
    pub matches: Vec<String>,
    /// What it does then.
    pub instructions: String,
    /// The API object and rule line it came from: `port red/a anti-spoof ipv4 10.9.0.1`.
    pub owner: String,
    /// Frames that it matched; a super-frame counts as one.
    pub frames: u64,
    /// Bytes of these frames.
    pub bytes: u64,
}

/// A port of a vswitch and its counters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PortReport {
    /// The port object, as `red/a`.
    pub name: String,
    /// `tap` or `netdev`.
    pub kind: String,
    /// The device's network namespace; empty for the host's own.
    pub netns: String,
    /// The device's name there.
    pub ifname: String,
    /// The largest IP packet of the device, in bytes.
    pub mtu: u16,
    /// What the device takes off our hands: `csum`, `tso`, `tso_ecn`, `uso`.
    pub offloads: Vec<String>,
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
    /// Frames that were dropped here.
    pub drops: Vec<DropReport>,
    /// Losses outside of the vswitch, by the device's own counters.
    pub device_drops: Vec<CounterReport>,
}

/// Frames dropped for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct DropReport {
    /// The stable name of the reason.
    pub reason: String,
    /// The reason in one sentence.
    pub explanation: String,
    /// The port, as `red/a`; `None` for the underlay, and for the host as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Where the frames came from: `port red/a`, `host h2`, `underlay 192.0.2.77` for an address that is no host's,
    /// `underlay` for all such addresses beyond the bound, `vswitch` for its own answers. Empty from older agents.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The API object and rule line that said so; empty when no rule did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// How many frames.
    pub frames: u64,
}

/// A named counter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct CounterReport {
    /// Its name.
    pub name: String,
    /// Its value.
    pub count: u64,
}

/// One entry of a forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct FdbReport {
    /// The network, as `red/blue`.
    pub network: String,
    /// Whose location.
    pub mac: String,
    /// Where it lives: `port red/a` or `host h2`.
    pub location: String,
    /// Whether the controller says so; else it was learned.
    pub pinned: bool,
    /// Time since it was last seen; `None` when it is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_ms: Option<u64>,
    /// The API object; empty when it was learned.
    pub owner: String,
}

/// The balance of frames of a vswitch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct LedgerReport {
    /// The sum over all workers.
    pub total: LedgerRow,
    /// One per worker.
    pub workers: Vec<LedgerRow>,
    /// What is missing on the right side: zero when every frame ended in one stated way.
    pub imbalance: i64,
    /// Losses outside of the vswitch.
    pub device_drops: Vec<CounterReport>,
    /// Frames per level of the flow cache.
    #[serde(default)]
    pub cache: Vec<CounterReport>,
    /// System calls and what they moved: their ratios tell whether batching and offloads are alive.
    #[serde(default)]
    pub io: Vec<CounterReport>,
}

/// `rx + originated + copies + split = tx + consumed + dropped + merged + held`, in frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct LedgerRow {
    /// Frames that a device gave.
    pub rx: u64,
    /// Frames that the vswitch made.
    pub originated: u64,
    /// Further copies made for flooding.
    pub copies: u64,
    /// Further frames made by segmentation and fragmentation.
    pub split: u64,
    /// Frames that the kernel or a ring took.
    pub tx: u64,
    /// Frames that were for the vswitch itself.
    pub consumed: u64,
    /// Frames dropped with a reason.
    pub dropped: u64,
    /// Frames that became part of another.
    pub merged: u64,
    /// Frames that wait inside.
    pub held: u64,
}

/// Which intent a host's program came from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PositionReport {
    /// The store that the intent is in; empty before any program was installed.
    pub store_id: String,
    /// Its revision of intent.
    pub generation: u64,
    /// SHA-256 of the host program, in hex.
    pub digest: String,
}

/// How a host stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct HostStatus {
    /// The host object's name.
    pub host: String,
    /// `weft` or `vtep`; a `vtep` has no agent and never connects.
    pub kind: String,
    /// Whether its agent has a session.
    pub connected: bool,
    /// Milliseconds since its agent was last heard; `None` when it never was since the controller's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_contact_ms: Option<u64>,
    /// The agent's instance id, new at every start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The agent's build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// The program in force, as the agent last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<PositionReport>,
    /// The last generation that it acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked_generation: Option<u64>,
    /// Why it could not apply the last generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its ports.
    pub ports: Vec<PortStatus>,
    /// The rungs of the capability ladder.
    pub rungs: Vec<RungStatus>,
    /// The vswitch's instance id, new at every start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vswitch_instance: Option<String>,
    /// The vswitch's process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vswitch_pid: Option<u32>,
}

/// How a port stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct PortStatus {
    /// The port object, as `red/a`.
    pub name: String,
    /// `live`, `dark`, `waiting` or `failed`.
    pub state: String,
    /// Why it is not live, and what to do; empty when it is.
    pub reason: String,
}

/// A rung of the capability ladder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct RungStatus {
    /// `single`, `batch` or `segment`.
    pub rung: String,
    /// Whether it is in use.
    pub taken: bool,
    /// Why it is not; empty when it is, or when a better one is. Towards a remote: why no better one is.
    pub reason: String,
    /// The remote host towards which it is; without one, the host's own sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
}

/// How the controller and all hosts stand.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct FabricReport {
    /// The store's identity.
    pub store_id: String,
    /// Its revision of intent.
    pub generation: u64,
    /// The controller's build.
    pub build: String,
    /// All hosts, by name.
    pub hosts: Vec<HostStatus>,
}

/// What a request to change intent did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ApplyReport {
    /// The generation in which the content of the request stands; of a dry run the one it was compared with.
    pub generation: u64,
    /// Whether nothing was done, only planned.
    pub dry_run: bool,
    /// What became of each object.
    pub changes: Vec<ObjectChange>,
}

impl ApplyReport {
    /// The objects of which this became, as printed.
    pub fn of(&self, change: ChangeKind) -> impl Iterator<Item = &str> {
        self.changes.iter().filter(move |one| one.change == change).map(|one| one.object.as_str())
    }
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObjectChange {
    /// The object, as in `port red/a`.
    pub object: String,
    /// What became of it.
    pub change: ChangeKind,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was not there before.
    Created,
    /// It is gone.
    Deleted,
    /// It was as wanted already.
    Unchanged,
    /// It was there and is different now.
    Updated,
}

/// Why a request was refused (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The sort of problem, stable, for programs: `urn:weft:problem:invalid`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The sort of problem, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, and what to do.
    pub detail: String,
    /// Every mistake in the request, where fields are wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// How far a generation of intent got.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct ApplyStatus {
    /// Which.
    pub generation: u64,
    /// Whether every host with an agent acknowledged it, or a later one.
    pub complete: bool,
    /// Every host with an agent, by name.
    pub hosts: Vec<HostApplyStatus>,
    /// Half of the hosts acknowledged within this time; `None` while fewer did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<u64>,
    /// 99 of 100 hosts acknowledged within this time; `None` while fewer did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<u64>,
    /// Hosts that did not acknowledge it.
    pub laggards: Vec<Laggard>,
}

/// How far a generation of intent got on one host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct HostApplyStatus {
    /// The host object's name.
    pub host: String,
    /// Whether it acknowledged the generation, or a later one.
    pub acked: bool,
    /// Milliseconds from commit to acknowledgement, where the controller saw both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_ms: Option<u64>,
    /// Why it could not apply it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A host that did not acknowledge a generation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Laggard {
    /// The host object's name.
    pub host: String,
    /// Milliseconds since its agent was last heard; `None` when it never was since the controller's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_contact_ms: Option<u64>,
    /// The last generation that it acknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acked_generation: Option<u64>,
}
