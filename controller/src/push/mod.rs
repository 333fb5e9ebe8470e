//! Push: one session per host, which keeps the host's program at the newest intent.
//!
//! All decisions are in [`Hub`], a state machine without I/O, clock or threads; [`service`] is a thin shell of gRPC
//! around it. A host always goes straight to the newest intent: what it missed in between is never sent (latest wins),
//! and at most one update is unanswered.
//!
//! ```text
//!   intent ----> +-----+ <---- connected, message, closed   (per session)
//!   query  ----> | Hub |
//!   tick   ----> +-----+ ----> send, close, answer
//! ```

mod host;
mod hub;
mod opening;
mod queries;
pub mod service;
#[cfg(test)]
mod simulation;
mod waiting;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_api::object::Name;
use weft_api::wire::HostProgram;
use weft_api::wire::proto::{AgentMessage, ControllerMessage};

use crate::compile::Programs;

pub use host::{Ack, HostState, Seen};
pub use hub::Hub;
pub use queries::QueryFailure;

/// A session must begin with a hello within this time.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A session of a host that is not declared waits this long for that, then it is refused.
pub const DECLARE_WAIT: Duration = Duration::from_secs(2);
/// Sessions that wait for that.
pub const WAITING_MAX: usize = 256;
/// A generation opens after this time even when a connected host did not acknowledge it: dead hosts never block.
pub const OPEN_BOUND: Duration = Duration::from_millis(500);
/// A host that refused its whole program gets it again after this time.
pub const RETRY_DELAY: Duration = Duration::from_secs(5);
/// A query without an answer fails after this time.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Unanswered queries per host.
pub const QUERIES_MAX: usize = 64;
/// Generations that wait to be opened; the oldest opens when there are more.
pub const OPENINGS_MAX: usize = 64;
/// Acknowledgements that are remembered per host, and commits.
pub const HISTORY_MAX: usize = 1024;

/// Numbers a session, never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A host's program as it should be, with its digest.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wanted {
    /// The program.
    pub program: HostProgram,
    /// Its digest.
    pub digest: String,
}

impl Wanted {
    /// Digests every program. Takes time: do it before the hub is locked.
    pub fn all(programs: Programs) -> BTreeMap<Name, Arc<Self>> {
        let wanted = |program: HostProgram| Arc::new(Self { digest: program.digest(), program });
        programs.into_iter().map(|(host, program)| (host, wanted(program))).collect()
    }
}

/// What happens to a hub.
#[derive(Debug, Clone)]
pub enum Input {
    /// Intent is at a new generation.
    Intent {
        /// Which.
        generation: u64,
        /// The programs of all hosts with an agent. A host that is not in here is not declared.
        wanted: BTreeMap<Name, Arc<Wanted>>,
    },
    /// An agent opened a session and has proved which host it is.
    Connected {
        /// The session.
        session: SessionId,
        /// The host, by certificate.
        host: String,
    },
    /// An agent said something.
    Message {
        /// In which session.
        session: SessionId,
        /// What.
        message: AgentMessage,
    },
    /// A session is gone.
    Closed {
        /// Which.
        session: SessionId,
    },
    /// Somebody asks a host.
    Query {
        /// Numbers the query, never reused within a process.
        query: u64,
        /// Which host.
        host: String,
        /// What is asked.
        kind: weft_api::wire::proto::QueryKind,
    },
    /// Time passed: due at [`Hub::deadline`].
    Tick,
}

/// What a hub wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Say something to an agent.
    Send {
        /// In which session.
        session: SessionId,
        /// What.
        message: ControllerMessage,
    },
    /// End a session, after what was sent.
    Close {
        /// Which.
        session: SessionId,
    },
    /// The answer to a query.
    Answer {
        /// Which.
        query: u64,
        /// The report's JSON, or why there is none.
        result: Result<Vec<u8>, QueryFailure>,
    },
}
