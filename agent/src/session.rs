//! The session to the controller: when to connect, when to give up, how long to wait in between.
//!
//! No message of the program passes here. A session that says nothing at its start is given up; a silent partition
//! later is the transport's to notice, by keep-alives.

use std::time::{Duration, Instant};

/// The longest wait between two attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The wait after a refusal: whoever refused must change something first.
pub const REFUSED_WAIT: Duration = Duration::from_secs(1);
/// How long connecting, and then the controller's hello, may take.
pub const GREETING_MAX: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The state of the session.
#[derive(Debug)]
pub struct Session {
    number: u64,
    state: State,
    failures: u32,
    random: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle { connect_at: Instant },
    Greeting { until: Instant },
    Up,
}

/// What the session wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Open a session of this number.
    Connect(u64),
    /// End the session of this number.
    Disconnect(u64),
}

impl Session {
    /// Connects at once; `seed` spreads the attempts of many agents.
    pub fn new(seed: u64, now: Instant) -> Self {
        Self { number: 0, state: State::Idle { connect_at: now }, failures: 0, random: seed }
    }

    /// What is to be done now.
    pub fn work(&mut self, now: Instant) -> Option<Wish> {
        match self.state {
            State::Idle { connect_at } if connect_at <= now => {
                self.number += 1;
                self.state = State::Greeting { until: now + GREETING_MAX };
                Some(Wish::Connect(self.number))
            }
            State::Greeting { until } if until <= now => {
                self.back_off(now);
                Some(Wish::Disconnect(self.number))
            }
            _ => None,
        }
    }

    /// The controller said hello.
    pub fn greeted(&mut self) {
        self.state = State::Up;
        self.failures = 0;
    }

    /// The session ended, or was never opened.
    pub fn ended(&mut self, now: Instant) {
        if !matches!(self.state, State::Idle { .. }) {
            self.back_off(now);
        }
    }

    /// The controller refused us.
    pub fn refused(&mut self, now: Instant) {
        self.state = State::Idle { connect_at: now + REFUSED_WAIT };
    }

    /// Whether an event of that session is about the present one.
    pub fn is_current(&self, number: u64) -> bool {
        number == self.number && !matches!(self.state, State::Idle { .. })
    }

    /// The number of the session that both sides have greeted in.
    pub fn up(&self) -> Option<u64> {
        (self.state == State::Up).then_some(self.number)
    }

    /// When something is to be done next.
    pub fn next_wake(&self) -> Option<Instant> {
        match self.state {
            State::Idle { connect_at } => Some(connect_at),
            State::Greeting { until } => Some(until),
            State::Up => None,
        }
    }

    fn back_off(&mut self, now: Instant) {
        let whole = BACKOFF_MIN.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        // Between half and all of it: agents that lost one controller must not come back in step.
        let share = 0.5 + 0.5 * (next(&mut self.random) >> 11) as f64 / (1u64 << 53) as f64;
        self.state = State::Idle { connect_at: now + whole.mul_f64(share) };
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_further_apart_until_a_hello_and_never_beyond_the_bound() {
        let mut now = Instant::now();
        let mut session = Session::new(7, now);
        let mut waits = Vec::new();
        for number in 1..=12 {
            assert_eq!(session.work(now), Some(Wish::Connect(number)));
            session.ended(now);
            let at = session.next_wake().unwrap();
            waits.push(at - now);
            assert_eq!(session.work(at - Duration::from_millis(1)), None);
            now = at;
        }
        assert!(waits[0] >= BACKOFF_MIN / 2 && waits[0] <= BACKOFF_MIN, "{waits:?}");
        assert!(waits.iter().all(|w| *w <= BACKOFF_MAX) && waits[11] >= BACKOFF_MAX / 2, "{waits:?}");
        session.work(now);
        session.greeted();
        session.ended(now);
        assert!(session.next_wake().unwrap() - now <= BACKOFF_MIN);
    }

    #[test]
    fn two_agents_do_not_come_back_in_step() {
        let now = Instant::now();
        let wait = |seed| {
            let mut session = Session::new(seed, now);
            session.work(now);
            session.ended(now);
            session.next_wake()
        };
        assert_ne!(wait(1), wait(2));
        assert_eq!(wait(1), wait(1));
    }

    #[test]
    fn a_session_without_a_hello_is_given_up() {
        let now = Instant::now();
        let mut session = Session::new(1, now);
        session.work(now);
        assert!(session.is_current(1) && session.up().is_none());
        assert_eq!(session.work(now + GREETING_MAX), Some(Wish::Disconnect(1)));
        assert!(!session.is_current(1), "what it still says is not heard");
    }

    #[test]
    fn a_refused_agent_waits() {
        let now = Instant::now();
        let mut session = Session::new(1, now);
        session.work(now);
        session.refused(now);
        session.ended(now);
        assert_eq!(session.next_wake(), Some(now + REFUSED_WAIT));
    }
}
