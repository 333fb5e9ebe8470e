//! Sessions of hosts that are not declared yet.
//!
//! Agents are often started before the manifest that names their hosts is applied; a short wait spares them a refusal
//! and the pause after it.

use std::collections::BTreeMap;
use std::time::Instant;

use weft_api::wire::proto::AgentMessage;

use super::{DECLARE_WAIT, SessionId, WAITING_MAX};

#[derive(Debug)]
struct Waiter {
    host: String,
    hello: Option<AgentMessage>,
    due: Instant,
}

/// The sessions that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    waiters: BTreeMap<SessionId, Waiter>,
}

impl Waiting {
    /// A session begins to wait; `false` when too many do.
    pub(super) fn begin(&mut self, session: SessionId, host: &str, now: Instant) -> bool {
        if self.waiters.len() >= WAITING_MAX {
            return false;
        }
        let waiter = Waiter { host: host.to_owned(), hello: None, due: now + DECLARE_WAIT };
        self.waiters.insert(session, waiter);
        true
    }

    /// Keeps what a waiting session says first; what it says before it is answered is not for us.
    pub(super) fn hear(&mut self, session: SessionId, message: AgentMessage) {
        if let Some(waiter) = self.waiters.get_mut(&session) {
            waiter.hello.get_or_insert(message);
        }
    }

    /// The session is gone.
    pub(super) fn forget(&mut self, session: SessionId) {
        self.waiters.remove(&session);
    }

    /// Takes out the sessions whose hosts are declared now, with what they said.
    pub(super) fn admit(&mut self, declared: impl Fn(&str) -> bool) -> Vec<(SessionId, String, Option<AgentMessage>)> {
        let admitted = self.waiters.extract_if(.., |_, waiter| declared(&waiter.host));
        admitted.map(|(session, waiter)| (session, waiter.host, waiter.hello)).collect()
    }

    /// Takes out the sessions that waited long enough.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(SessionId, String)> {
        let expired = self.waiters.extract_if(.., |_, waiter| waiter.due <= now);
        expired.map(|(session, waiter)| (session, waiter.host)).collect()
    }

    /// When the next one has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiters.values().map(|waiter| waiter.due).min()
    }
}
