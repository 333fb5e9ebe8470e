//! What the agent's decisions ask of its hands, and what these answer.
//!
//! The hands open devices, hold every descriptor and speak with the vswitch; the deciding half never blocks and never sees
//! a descriptor. Each piece of work is answered by exactly one [`Done`], so that the number under way has a bound.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_api::report::QueryKind;
use weft_program::message::{PortDevice, RemoteRung, Rung, Underlay};
use weft_program::{Bundle, MacAddr, PortId, Position};

use crate::lower::Names;
use crate::report::Labels;

/// A port to be opened and attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// Its number.
    pub id: PortId,
    /// Its name, such as `red/a`.
    pub name: String,
    /// Its device.
    pub place: Place,
    /// The guest's MAC address.
    pub mac: MacAddr,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
}

/// Where a port's device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A TAP that we make.
    Tap {
        /// The guest's namespace; `None` for the host's own.
        netns: Option<PathBuf>,
        /// The device's name there.
        ifname: String,
    },
    /// A device of somebody else in the host's own namespace.
    Netdev {
        /// The device's name.
        ifname: String,
    },
}

impl Place {
    /// The namespace as the vswitch is told: empty for the host's own.
    pub fn netns_text(&self) -> String {
        match self {
            Self::Tap { netns: Some(path), .. } => path.display().to_string(),
            Self::Tap { netns: None, .. } | Self::Netdev { .. } => String::new(),
        }
    }

    /// The device's name.
    pub fn ifname(&self) -> &str {
        match self {
            Self::Tap { ifname, .. } | Self::Netdev { ifname } => ifname,
        }
    }
}

/// Something to be done.
#[derive(Debug, Clone)]
pub enum Work {
    /// Find the running vswitch, or start one and give it what is held.
    StartVswitch,
    /// Open the underlay's sockets and attach them.
    OpenUnderlay,
    /// Open the port's device, or change the one that is held, and attach it.
    Open(PortRequest),
    /// Take the port from the vswitch and let its device go.
    Close(PortId),
    /// Change the program.
    Apply(Box<Bundle>),
    /// Look how ports and vswitch are.
    Poll,
    /// Answer a question.
    Query {
        /// The question's number.
        id: u64,
        /// What is asked.
        kind: QueryKind,
        /// The names to answer with.
        labels: Arc<Labels>,
    },
    /// Remember this.
    Save(Box<Cached>),
}

/// What became of a piece of work.
#[derive(Debug)]
pub enum Done {
    /// Of [`Work::StartVswitch`].
    Started(Result<Started, String>),
    /// Of [`Work::OpenUnderlay`].
    Underlay(Result<Underlay, String>),
    /// Of [`Work::Open`].
    Opened {
        /// The port.
        id: PortId,
        /// Its device, or why there is none.
        result: Result<PortDevice, NotOpened>,
    },
    /// Of [`Work::Close`].
    Closed(PortId),
    /// Of [`Work::Apply`].
    Applied(Result<(), NotApplied>),
    /// Of [`Work::Poll`].
    Polled(Result<Polled, String>),
    /// Of [`Work::Query`].
    Queried {
        /// The question's number.
        id: u64,
        /// The answer, JSON.
        result: Result<Vec<u8>, String>,
    },
    /// Of [`Work::Save`].
    Saved(Result<(), String>),
}

/// A vswitch that runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Started {
    /// Its instance id.
    pub instance: String,
    /// Its process id.
    pub pid: u32,
    /// Its workers.
    pub workers: usize,
    /// The program in force there.
    pub position: Position,
    /// Everything attached there.
    pub ports: Vec<AttachedPort>,
    /// The underlay, when it is attached.
    pub underlay: Option<Underlay>,
}

/// A port that a vswitch has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedPort {
    /// Its device.
    pub device: PortDevice,
    /// Whether frames pass.
    pub live: bool,
}

/// Why a port has no device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotOpened {
    /// Its namespace or device is not there yet.
    Waiting(String),
    /// It cannot be opened.
    Failed(String),
    /// The vswitch went away meanwhile.
    Lost(String),
}

/// Why a program is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotApplied {
    /// The vswitch refused it, and keeps the old one.
    Refused(String),
    /// The vswitch went away meanwhile.
    Lost(String),
}

/// How ports and vswitch are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Polled {
    /// Ports whose device is gone.
    pub gone: Vec<PortId>,
    /// The rung in use.
    pub rung: Option<Rung>,
    /// The others, and why not.
    pub rungs_not_taken: Vec<(Rung, String)>,
    /// The rung that probes allow towards each remote.
    pub remote_rungs: Vec<RemoteRung>,
    /// The underlay's MTU, when one is attached.
    pub underlay_mtu: Option<u16>,
    /// What is wrong with the underlay's device or address; empty when nothing is.
    pub underlay_problem: String,
}

/// What outlives the agent: a restarted host comes up from it without a controller.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cached {
    /// The program's position.
    pub position: Position,
    /// The numbers in use.
    pub names: Names,
    /// Ports that were live.
    pub live: BTreeSet<String>,
    /// The host program, as it is on the wire.
    pub program: Vec<u8>,
}
