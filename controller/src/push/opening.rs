//! When the ports of a generation may go live: when all connected hosts that it changed have acknowledged it, or after a
//! bound. Generations open in order, because an agent takes "open n" for all generations up to n.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use weft_api::object::Name;

use super::{OPEN_BOUND, OPENINGS_MAX};

#[derive(Debug)]
struct Opening {
    generation: u64,
    waiting: BTreeSet<Name>,
    due: Instant,
}

/// The generations that wait to be opened.
#[derive(Debug, Default)]
pub(super) struct Openings {
    pending: VecDeque<Opening>,
    opened: u64,
}

impl Openings {
    /// A new generation waits for the hosts that it changed.
    pub(super) fn begin(&mut self, generation: u64, waiting: BTreeSet<Name>, now: Instant) {
        self.pending.push_back(Opening { generation, waiting, due: now + OPEN_BOUND });
    }

    /// The host has this generation in force, or will never have it because its session ended.
    pub(super) fn settle(&mut self, host: &Name, generation: u64) {
        for opening in self.pending.iter_mut().filter(|o| o.generation <= generation) {
            opening.waiting.remove(host);
        }
    }

    /// The newest generation that is open now, when it is newer than before.
    pub(super) fn advance(&mut self, now: Instant) -> Option<u64> {
        let before = self.opened;
        while let Some(first) = self.pending.front() {
            if !first.waiting.is_empty() && first.due > now && self.pending.len() <= OPENINGS_MAX {
                break;
            }
            self.opened = first.generation;
            self.pending.pop_front();
        }
        (self.opened != before).then_some(self.opened)
    }

    /// The newest generation that is open.
    pub(super) const fn opened(&self) -> u64 {
        self.opened
    }

    /// When the next one opens at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.front().map(|opening| opening.due)
    }
}
