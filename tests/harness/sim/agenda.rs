//! The one clock of a simulated world, and what is to happen when.
//!
//! Real time is asked once, for a first instant to count from: everything after it is simulated.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is to happen, in the order of time; what is due at one time happens in the order in which it was put.
#[derive(Debug)]
pub struct Agenda<E> {
    start: Instant,
    now: Instant,
    queue: BTreeMap<(Instant, u64), E>,
    count: u64,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        let start = Instant::now();
        Self { start, now: start, queue: BTreeMap::new(), count: 0 }
    }
}

impl<E> Agenda<E> {
    /// Now.
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Puts an event `wait` from now.
    pub fn after(&mut self, wait: Duration, event: E) {
        self.at(self.now + wait, event);
    }

    /// Puts an event at a time; one in the past happens now.
    pub fn at(&mut self, time: Instant, event: E) {
        self.count += 1;
        self.queue.insert((time.max(self.now), self.count), event);
    }

    /// The next event that is due before `end`; moves the clock to it, or to `end` when there is none.
    pub fn next(&mut self, end: Instant) -> Option<E> {
        match self.queue.first_key_value() {
            Some(((time, _), _)) if *time < end => {
                let ((time, _), event) = self.queue.pop_first()?;
                self.now = time;
                Some(event)
            }
            _ => {
                self.now = end;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_at_one_time_happens_in_the_order_in_which_it_was_put() {
        let mut agenda = Agenda::default();
        let start = agenda.now();
        agenda.after(Duration::from_secs(2), 'c');
        agenda.after(Duration::from_secs(1), 'a');
        agenda.after(Duration::from_secs(1), 'b');
        let end = start + Duration::from_secs(2);
        let early: Vec<_> = std::iter::from_fn(|| agenda.next(end)).collect();
        assert_eq!((early, agenda.now()), (vec!['a', 'b'], end));
    }
}
