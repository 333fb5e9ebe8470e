//! Sessions between agents and the controller: delay, loss of the session at any message, silent partitions.
//!
//! A session is a stream: what is said in one direction arrives in order or not at all. Between sessions there is no
//! order. Each side learns of an end by itself, so that one may be gone for the other for seconds.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use weft_api::wire::proto::{AgentMessage, ControllerMessage};
use weft_controller::push::SessionId;

/// What the agent's end hears.
#[derive(Debug)]
pub enum Down {
    /// The session is open.
    Opened,
    /// The controller says something.
    Message(Box<ControllerMessage>),
    /// The stream is at its end.
    End(&'static str),
}

/// What the controller's end hears.
#[derive(Debug)]
pub enum Up {
    /// The agent says something.
    Message(Box<AgentMessage>),
    /// The stream is at its end.
    End,
}

/// One session, with all that is under way in it.
#[derive(Debug)]
pub struct Wire {
    /// Which host.
    pub host: usize,
    /// Which start of its agent.
    pub incarnation: u64,
    /// The agent's number of the session.
    pub number: u64,
    /// Under way to the agent.
    pub down: VecDeque<Down>,
    /// Under way to the controller.
    pub up: VecDeque<Up>,
    /// When the last message of each direction arrives: a later one does not arrive before it.
    pub down_at: Instant,
    /// The same, upwards.
    pub up_at: Instant,
    /// Nothing passes any more, and both ends have yet to learn of it.
    pub cut: bool,
    /// The agent's end is open.
    pub agent_open: bool,
    /// The controller's end is open.
    pub hub_open: bool,
}

/// All sessions.
#[derive(Debug, Default)]
pub struct Wires {
    wires: BTreeMap<SessionId, Wire>,
    count: u64,
}

impl Wires {
    /// A new session.
    pub fn open(&mut self, host: usize, incarnation: u64, number: u64, now: Instant) -> SessionId {
        self.count += 1;
        let id = SessionId(self.count);
        let wire = Wire {
            host,
            incarnation,
            number,
            down: VecDeque::new(),
            up: VecDeque::new(),
            down_at: now,
            up_at: now,
            cut: false,
            agent_open: true,
            hub_open: true,
        };
        self.wires.insert(id, wire);
        id
    }

    /// The session, as long as one end is open.
    pub fn wire(&mut self, id: SessionId) -> Option<&mut Wire> {
        self.wires.get_mut(&id)
    }

    /// The session that an agent knows by that number.
    pub fn of_agent(&self, host: usize, incarnation: u64, number: u64) -> Option<SessionId> {
        let same = |w: &Wire| (w.host, w.incarnation, w.number) == (host, incarnation, number);
        self.wires.iter().find(|(_, wire)| same(wire)).map(|(id, _)| *id)
    }

    /// All sessions of a host, or of all hosts.
    pub fn of_host(&self, host: Option<usize>) -> Vec<SessionId> {
        self.wires.iter().filter(|(_, w)| host.is_none_or(|h| h == w.host)).map(|(id, _)| *id).collect()
    }

    /// Forgets the session when both ends are closed.
    pub fn sweep(&mut self, id: SessionId) {
        if self.wires.get(&id).is_some_and(|w| !w.agent_open && !w.hub_open) {
            self.wires.remove(&id);
        }
    }
}
