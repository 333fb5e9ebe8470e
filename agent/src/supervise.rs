//! Watching over the vswitch and its underlay: when to start one, when to look, when to try again.
//!
//! A vswitch that ran for a while is replaced at once; one that keeps dying is replaced less and less often. Its own
//! forwarding never depends on us: nothing here ends a vswitch that answers.

use std::time::{Duration, Instant};

use weft_program::PortId;
use weft_program::message::{RemoteRung, Rung, Underlay};

use crate::work::{Polled, Started, Work};

/// How often ports and vswitch are looked at.
pub const POLL_EVERY: Duration = Duration::from_secs(1);
/// How often an underlay that cannot be opened is tried again.
pub const UNDERLAY_RETRY: Duration = Duration::from_secs(1);
/// The longest wait before the next vswitch is started.
pub const RESTART_MAX: Duration = Duration::from_secs(5);
/// A vswitch that ran so long was a good one.
pub const GOOD_AFTER: Duration = Duration::from_secs(10);
const RESTART_MIN: Duration = Duration::from_millis(50);

/// The vswitch as the agent knows it.
#[derive(Debug)]
pub struct Supervisor {
    state: State,
    failures: u32,
    underlay: UnderlayState,
    poll_at: Instant,
    polling: bool,
    polled: Polled,
}

#[derive(Debug)]
enum State {
    Down { start_at: Instant, why: String },
    Starting,
    Up { started: Box<Started>, since: Instant },
}

#[derive(Debug)]
enum UnderlayState {
    Wanted { at: Instant, why: String },
    Opening,
    Attached(Underlay),
}

impl Supervisor {
    /// Nothing runs as far as we know.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Down { start_at: now, why: "it was not started yet".into() },
            failures: 0,
            underlay: UnderlayState::Wanted { at: now, why: String::new() },
            poll_at: now,
            polling: false,
            polled: Polled::default(),
        }
    }

    /// What is to be done now.
    pub fn work(&mut self, now: Instant) -> Vec<Work> {
        let mut work = Vec::new();
        match &self.state {
            State::Down { start_at, .. } if *start_at <= now => {
                self.state = State::Starting;
                work.push(Work::StartVswitch);
            }
            State::Down { .. } | State::Starting => {}
            State::Up { .. } => {
                if matches!(&self.underlay, UnderlayState::Wanted { at, .. } if *at <= now) {
                    self.underlay = UnderlayState::Opening;
                    work.push(Work::OpenUnderlay);
                }
                if self.poll_at <= now && !self.polling {
                    self.polling = true;
                    work.push(Work::Poll);
                }
            }
        }
        work
    }

    /// A vswitch runs, or could not be started.
    pub fn started(&mut self, result: Result<Started, String>, now: Instant) {
        match result {
            Ok(started) => {
                self.underlay = match &started.underlay {
                    Some(underlay) => UnderlayState::Attached(underlay.clone()),
                    None => UnderlayState::Wanted { at: now, why: String::new() },
                };
                self.state = State::Up { started: Box::new(started), since: now };
                self.poll_at = now;
            }
            Err(why) => self.back_off(why, now),
        }
    }

    /// The vswitch ended, or does not answer.
    pub fn lost(&mut self, why: String, now: Instant) {
        let State::Up { since, .. } = self.state else { return };
        if now.duration_since(since) >= GOOD_AFTER {
            self.failures = 0;
        }
        self.back_off(why, now);
    }

    /// The underlay is attached, or could not be opened.
    pub fn underlay_opened(&mut self, result: Result<Underlay, String>, now: Instant) {
        self.underlay = match result {
            Ok(underlay) => UnderlayState::Attached(underlay),
            Err(why) => UnderlayState::Wanted { at: now + UNDERLAY_RETRY, why },
        };
    }

    /// The look at ports and vswitch; says whose devices are gone.
    pub fn polled(&mut self, result: Result<Polled, String>, now: Instant) -> Vec<PortId> {
        self.polling = false;
        self.poll_at = now + POLL_EVERY;
        match result {
            Ok(polled) => {
                let gone = polled.gone.clone();
                if let (UnderlayState::Attached(underlay), Some(mtu)) = (&mut self.underlay, polled.underlay_mtu) {
                    underlay.mtu = mtu;
                }
                self.polled = polled;
                gone
            }
            Err(why) => {
                self.lost(why, now);
                Vec::new()
            }
        }
    }

    /// The vswitch that runs.
    pub fn up(&self) -> Option<&Started> {
        match &self.state {
            State::Up { started, .. } => Some(started),
            State::Down { .. } | State::Starting => None,
        }
    }

    /// The underlay that is attached.
    pub fn underlay(&self) -> Option<&Underlay> {
        match &self.underlay {
            UnderlayState::Attached(underlay) => Some(underlay),
            UnderlayState::Wanted { .. } | UnderlayState::Opening => None,
        }
    }

    /// The rung in use, and the others with the reason why not.
    pub fn rungs(&self) -> (Option<Rung>, &[(Rung, String)]) {
        (self.polled.rung, &self.polled.rungs_not_taken)
    }

    /// The rung that probes allow towards each remote.
    pub fn remote_rungs(&self) -> &[RemoteRung] {
        &self.polled.remote_rungs
    }

    /// What keeps the host from working; empty when nothing does.
    pub fn problem(&self) -> String {
        match (&self.state, &self.underlay) {
            (State::Down { why, .. }, _) => format!("there is no vswitch: {why}"),
            (_, UnderlayState::Wanted { why, .. }) => why.clone(),
            (State::Up { .. }, UnderlayState::Attached(_)) => self.polled.underlay_problem.clone(),
            _ => String::new(),
        }
    }

    /// When something is to be done next.
    pub fn next_wake(&self) -> Option<Instant> {
        match (&self.state, &self.underlay) {
            (State::Down { start_at, .. }, _) => Some(*start_at),
            (State::Starting, _) => None,
            (State::Up { .. }, UnderlayState::Wanted { at, .. }) if !self.polling => Some((*at).min(self.poll_at)),
            (State::Up { .. }, UnderlayState::Wanted { at, .. }) => Some(*at),
            (State::Up { .. }, _) => (!self.polling).then_some(self.poll_at),
        }
    }

    fn back_off(&mut self, why: String, now: Instant) {
        let wait = match self.failures {
            0 => Duration::ZERO,
            n => RESTART_MIN.saturating_mul(1 << (n - 1).min(10)).min(RESTART_MAX),
        };
        self.failures = self.failures.saturating_add(1);
        self.state = State::Down { start_at: now + wait, why };
        self.polled = Polled::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_vswitch_is_replaced_at_once_and_a_bad_one_ever_later() {
        let mut now = Instant::now();
        let mut supervisor = Supervisor::new(now);
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert!(matches!(supervisor.work(now)[..], [Work::StartVswitch]));
            supervisor.started(Ok(Started::default()), now);
            supervisor.lost("killed".into(), now);
            waits.push(supervisor.next_wake().unwrap() - now);
            now += waits[waits.len() - 1];
        }
        assert_eq!(waits[0], Duration::ZERO);
        assert!(waits.is_sorted() && waits[11] == RESTART_MAX, "{waits:?}");
        supervisor.work(now);
        supervisor.started(Ok(Started::default()), now);
        now += GOOD_AFTER;
        supervisor.lost("killed".into(), now);
        assert_eq!(supervisor.next_wake(), Some(now));
        assert_eq!(supervisor.problem(), "there is no vswitch: killed");
    }

    #[test]
    fn the_underlay_is_tried_again_and_says_why_it_is_not_there() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(now);
        supervisor.work(now);
        supervisor.started(Ok(Started::default()), now);
        assert!(matches!(supervisor.work(now)[..], [Work::OpenUnderlay, Work::Poll]));
        supervisor.underlay_opened(Err("no such address".into()), now);
        assert_eq!(supervisor.problem(), "no such address");
        assert!(supervisor.work(now).is_empty());
        assert_eq!(supervisor.next_wake(), Some(now + UNDERLAY_RETRY));
        assert!(matches!(supervisor.work(now + UNDERLAY_RETRY)[..], [Work::OpenUnderlay]));
    }

    #[test]
    fn an_underlay_that_changes_keeps_its_sockets_and_its_trouble_is_told() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(now);
        supervisor.work(now);
        let (addr, rung) = ([192, 0, 2, 1].into(), Rung::Batch);
        let underlay =
            Underlay { addr, udp_port: 4789, rx_fds: 1, tx_fds: 1, mtu: 1500, rung, tunnel: None, refused: Vec::new() };
        supervisor.started(Ok(Started { underlay: Some(underlay), ..Started::default() }), now);
        let changed = Polled { underlay_mtu: Some(9000), ..Polled::default() };
        supervisor.polled(Ok(changed.clone()), now);
        assert_eq!(supervisor.underlay().unwrap().mtu, 9000);
        let down = Polled { underlay_problem: "eth0 is down".into(), ..changed.clone() };
        supervisor.polled(Ok(down), now);
        assert_eq!((supervisor.problem().as_str(), supervisor.underlay().is_some()), ("eth0 is down", true));
        supervisor.polled(Ok(changed), now);
        assert_eq!(supervisor.problem(), "");
    }

    #[test]
    fn a_vswitch_that_does_not_answer_counts_as_lost() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(now);
        supervisor.work(now);
        supervisor.started(Ok(Started::default()), now);
        supervisor.work(now);
        supervisor.polled(Err("timed out".into()), now);
        assert!(supervisor.up().is_none());
        assert!(matches!(supervisor.work(now)[..], [Work::StartVswitch]));
    }
}
