//! Questions to hosts that wait for their answers.

use std::collections::BTreeMap;
use std::time::Instant;

use weft_api::object::Name;

use super::{QUERIES_MAX, QUERY_TIMEOUT};

/// Why a question to a host has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryFailure {
    /// No such host, or one without an agent.
    #[error("there is no host {0} with an agent: `weft get hosts` lists them")]
    NoHost(String),
    /// No session.
    #[error("the agent of host {0} is not connected: see `weft status`")]
    NotConnected(Name),
    /// An agent of another build.
    #[error("the agent of host {0} answers no queries: upgrade it")]
    Unsupported(Name),
    /// Too many at once.
    #[error("host {0} has {QUERIES_MAX} queries to answer already: try again later")]
    Busy(Name),
    /// It took too long.
    #[error("the agent of host {0} did not answer within {seconds} s", seconds = QUERY_TIMEOUT.as_secs())]
    Timeout(Name),
    /// The agent says no.
    #[error("the agent of host {host} cannot answer: {why}")]
    Refused {
        /// Which host.
        host: Name,
        /// What it said.
        why: String,
    },
}

/// The questions that wait.
#[derive(Debug, Default)]
pub(super) struct Queries {
    waiting: BTreeMap<u64, (Name, Instant)>,
}

impl Queries {
    /// Remembers a question; `false` when the host has too many.
    pub(super) fn begin(&mut self, query: u64, host: &Name, now: Instant) -> bool {
        if self.waiting.values().filter(|(of, _)| of == host).count() >= QUERIES_MAX {
            return false;
        }
        self.waiting.insert(query, (host.clone(), now + QUERY_TIMEOUT));
        true
    }

    /// Whether the host was asked that and has not answered; it is forgotten then.
    pub(super) fn end(&mut self, query: u64, host: &Name) -> bool {
        let asked = self.waiting.get(&query).is_some_and(|(of, _)| of == host);
        asked && self.waiting.remove(&query).is_some()
    }

    /// Forgets the questions to a host whose session ended, and names them.
    pub(super) fn abandon(&mut self, host: &Name) -> Vec<u64> {
        self.waiting.extract_if(.., |_, (of, _)| of == host).map(|(query, _)| query).collect()
    }

    /// Forgets the questions that took too long, and names them with their hosts.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(u64, Name)> {
        self.waiting.extract_if(.., |_, (_, due)| *due <= now).map(|(query, (host, _))| (query, host)).collect()
    }

    /// When the next one takes too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|(_, due)| *due).min()
    }
}
