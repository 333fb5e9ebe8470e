//! One host: the program that it should have, what is known of it, and its session.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use weft_api::wire::proto::{self, AgentHello, Update, update};
use weft_api::wire::{FEATURE_DELTA, FEATURE_QUERY, MESSAGE_LEN_MAX, Position};

use super::{HELLO_TIMEOUT, HISTORY_MAX, RETRY_DELAY, SessionId, Wanted};

/// What a message needs besides its program.
const MESSAGE_OVERHEAD: usize = 4096;

/// A generation in force on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Which.
    pub generation: u64,
    /// When the controller heard of it.
    pub at: Instant,
}

/// What is known of a host. It outlives sessions.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// When its agent was last heard.
    pub last_contact: Option<Instant>,
    /// The agent's instance.
    pub instance: String,
    /// The agent's build.
    pub build: String,
    /// The program in force, as the agent last said.
    pub position: Option<Position>,
    /// Acknowledgements, oldest first.
    pub acks: VecDeque<Ack>,
    /// Why the last update was refused; empty when it was not.
    pub error: String,
    /// What the agent last said of ports and rungs.
    pub status: Option<proto::Status>,
}

/// One host.
#[derive(Debug)]
pub struct HostState {
    pub(super) wanted: Arc<Wanted>,
    pub(super) session: Option<Session>,
    /// What is known of it.
    pub seen: Seen,
    /// The last program that is known to be in force there: the base of changes.
    held: Option<Arc<Wanted>>,
}

/// A host's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    began: Instant,
    /// What the agent named; `None` before its hello.
    features: Option<BTreeSet<String>>,
    at: Option<Position>,
    in_flight: Option<InFlight>,
    /// After a refusal nothing but the whole program helps.
    whole: bool,
    retry: Option<Instant>,
    opened: u64,
}

#[derive(Debug)]
struct InFlight {
    position: Position,
    wanted: Arc<Wanted>,
    whole: bool,
}

impl HostState {
    pub(super) fn new(wanted: Arc<Wanted>) -> Self {
        Self { wanted, session: None, seen: Seen::default(), held: None }
    }

    /// Whether an agent has a session and said hello.
    pub fn is_connected(&self) -> bool {
        self.session.as_ref().is_some_and(|s| s.features.is_some())
    }

    /// The last generation known to be in force.
    pub fn acked_generation(&self) -> Option<u64> {
        self.seen.acks.back().map(|ack| ack.generation)
    }

    pub(super) fn answers_queries(&self) -> bool {
        self.session.as_ref().and_then(|s| s.features.as_ref()).is_some_and(|f| f.contains(FEATURE_QUERY))
    }

    /// An agent's first message.
    pub(super) fn greeted(&mut self, now: Instant, hello: AgentHello, goal: &Position) {
        let Some(session) = self.session.as_mut() else { return };
        session.features = Some(hello.features.into_iter().collect());
        session.at.clone_from(&hello.position);
        self.seen.instance = hello.instance;
        self.seen.build = hello.build;
        self.seen.position.clone_from(&hello.position);
        let at = hello.position.filter(|at| at.store_id == goal.store_id);
        let generation = at.map_or(0, |at| at.generation);
        self.seen.acks.retain(|ack| ack.generation <= generation);
        if generation > self.acked_generation().unwrap_or(0) {
            self.record(now, generation);
        }
    }

    /// The answer to an update. Returns the generation that is in force by it.
    pub(super) fn answered(&mut self, now: Instant, ack: proto::Ack) -> Option<u64> {
        let session = self.session.as_mut()?;
        let in_flight = session.in_flight.take_if(|f| Some(&f.position) == ack.position.as_ref())?;
        if !ack.error.is_empty() {
            session.retry = in_flight.whole.then(|| now + RETRY_DELAY);
            session.whole = true;
            self.seen.error = ack.error;
            return None;
        }
        session.whole = false;
        session.retry = None;
        session.at = Some(in_flight.position.clone());
        let generation = in_flight.position.generation;
        self.held = Some(in_flight.wanted);
        self.seen.error.clear();
        self.seen.position = Some(in_flight.position);
        self.record(now, generation);
        Some(generation)
    }

    fn record(&mut self, now: Instant, generation: u64) {
        if self.seen.acks.len() == HISTORY_MAX {
            self.seen.acks.pop_front();
        }
        self.seen.acks.push_back(Ack { generation, at: now });
    }

    /// The program that the host should have changed, or its generation did.
    pub(super) fn retarget(&mut self, wanted: Arc<Wanted>) {
        if wanted.digest != self.wanted.digest {
            self.wanted = wanted;
        }
        if let Some(session) = self.session.as_mut() {
            session.retry = None;
        }
    }

    /// The next update, when one is due and none is unanswered.
    pub(super) fn update(&mut self, now: Instant, store_id: &str, generation: u64) -> Option<Update> {
        let session = self.session.as_ref()?;
        let goal = Position { store_id: store_id.to_owned(), generation, digest: self.wanted.digest.clone() };
        let waits = session.in_flight.is_some() || session.retry.is_some_and(|at| at > now);
        if session.features.is_none() || waits || !session.whole && session.at.as_ref() == Some(&goal) {
            return None;
        }
        let kind = self.way_to(session, &goal);
        let whole = matches!(kind, update::Kind::Full(_));
        let update = Update { position: Some(goal.clone()), kind: Some(kind) };
        if prost_len(&update) + MESSAGE_OVERHEAD > MESSAGE_LEN_MAX {
            self.seen.error =
                format!("the host's program is larger than the {MESSAGE_LEN_MAX} bytes that a message holds");
            return None;
        }
        let session = self.session.as_mut()?;
        session.retry = None;
        session.in_flight = Some(InFlight { position: goal, wanted: self.wanted.clone(), whole });
        Some(update)
    }

    /// Nothing new, changes, or everything: everything where the base is not known for certain.
    fn way_to(&self, session: &Session, goal: &Position) -> update::Kind {
        let whole = || update::Kind::Full(self.wanted.program.to_wire());
        let Some(at) = session.at.as_ref().filter(|at| at.store_id == goal.store_id && !session.whole) else {
            return whole();
        };
        if at.generation > goal.generation {
            return whole();
        }
        if at.digest == goal.digest {
            return update::Kind::Unchanged(proto::Unchanged {});
        }
        let takes_changes = session.features.as_ref().is_some_and(|f| f.contains(FEATURE_DELTA));
        let Some(base) = self.held.as_ref().filter(|held| takes_changes && held.digest == at.digest) else {
            return whole();
        };
        let changes = base.program.changes_to(&self.wanted.program);
        update::Kind::Delta(proto::Delta { base: Some(at.clone()), deletes: changes.deletes, puts: changes.puts })
    }

    /// Whether the session has to be told that `opened` is open: not twice, and not before its own update is in force.
    pub(super) fn learns_of(&mut self, opened: u64) -> Option<SessionId> {
        let connected = self.is_connected();
        let session = self.session.as_mut().filter(|s| connected && s.opened < opened)?;
        session.opened = opened;
        Some(session.id)
    }

    /// When time alone changes something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let session = self.session.as_ref()?;
        if session.features.is_none() { Some(session.began + HELLO_TIMEOUT) } else { session.retry }
    }
}

impl Session {
    pub(super) const fn new(id: SessionId, began: Instant) -> Self {
        Self { id, began, features: None, at: None, in_flight: None, whole: false, retry: None, opened: 0 }
    }

    pub(super) const fn has_greeted(&self) -> bool {
        self.features.is_some()
    }

    pub(super) fn is_mute(&self, now: Instant) -> bool {
        self.features.is_none() && self.began + HELLO_TIMEOUT <= now
    }
}

fn prost_len(update: &Update) -> usize {
    prost::Message::encoded_len(update)
}
