//! What is known of one grade towards one remote, and the probe that is under way to find out more.

use std::time::{Duration, Instant};

/// One grade towards one remote.
#[derive(Debug)]
pub(crate) struct State {
    /// Whether it may be used.
    pub(crate) taken: bool,
    /// Why not; empty when it may.
    pub(crate) reason: String,
    /// When to do something again.
    pub(crate) next: Instant,
    /// Tries that failed in a row.
    pub(crate) tries: u32,
    flight: Option<Flight>,
    /// When the last probe left.
    started: Option<Instant>,
    /// Nothing at all came back the last time.
    silent: bool,
    /// A probe of its own shows that a silent peer is back: not before this is it believed again.
    trust_at: Instant,
}

/// A probe that is under way.
#[derive(Debug)]
struct Flight {
    nonce: u64,
    count: u8,
    sent: Instant,
    asked: bool,
    answered: bool,
    intact: u64,
}

impl State {
    /// To be probed at once.
    pub(crate) fn new(now: Instant) -> Self {
        let reason = "no probe has come back yet".to_owned();
        Self { taken: false, reason, next: now, tries: 0, flight: None, started: None, silent: false, trust_at: now }
    }

    pub(crate) const fn is_flying(&self) -> bool {
        self.flight.is_some()
    }

    /// A probe has left.
    pub(crate) fn start(&mut self, nonce: u64, count: u8, now: Instant) {
        self.flight = Some(Flight { nonce, count, sent: now, asked: false, answered: false, intact: 0 });
        self.started = Some(now);
        self.next = now + ASK_AFTER;
    }

    /// This host cannot send so now.
    pub(crate) fn wait(&mut self, now: Instant) {
        self.next = now + REPROBE_EVERY;
    }

    /// To be probed at once, unless that is under way or was so just now.
    pub(crate) fn hurry(&mut self, now: Instant) {
        if self.flight.is_none() {
            let earliest = self.started.map_or(now, |started| now.max(started + HURRY_EVERY));
            self.next = self.next.min(earliest);
        }
    }

    /// The nonce to ask about, if nobody has asked yet.
    pub(crate) fn ask(&mut self) -> Option<u64> {
        let flight = self.flight.as_mut().filter(|flight| !flight.asked)?;
        flight.asked = true;
        self.next = flight.sent + GIVE_UP_AFTER;
        Some(flight.nonce)
    }

    /// Whether the answer says that all arrived.
    pub(crate) fn take_answer(&mut self, nonce: u64, intact: u64) -> bool {
        let Some(flight) = self.flight.as_mut().filter(|flight| flight.nonce == nonce) else { return false };
        flight.answered = true;
        flight.intact |= intact & all(flight.count);
        flight.intact == all(flight.count)
    }

    pub(crate) fn succeed(&mut self, now: Instant, random: u64) {
        (self.flight, self.tries, self.taken, self.silent) = (None, 0, true, false);
        self.reason.clear();
        self.next = now + reprobe_after(random);
    }

    /// The try failed; whether the grade is lost with it.
    pub(crate) fn fail(&mut self, now: Instant, random: u64) -> bool {
        let Some(flight) = self.flight.take() else { return false };
        self.tries += 1;
        if self.tries < TRIES {
            self.next = now + RETRY_AFTER;
            return false;
        }
        self.tries = 0;
        self.next = now + reprobe_after(random);
        self.silent = !flight.answered;
        self.reason = match flight.answered {
            true => format!("{} of {} segments arrived intact", flight.intact.count_ones(), flight.count),
            false => format!("no answer to {TRIES} probes"),
        };
        std::mem::take(&mut self.taken)
    }

    /// The remote sends probes: if it was silent, it is there again.
    pub(crate) fn hear(&mut self, now: Instant) {
        if self.silent && self.flight.is_none() && self.trust_at <= now {
            self.trust_at = now + TRUST_EVERY;
            self.next = now;
        }
    }
}

/// A bit for each of `count` packets.
pub(crate) const fn all(count: u8) -> u64 {
    u64::MAX >> (64 - count as u32)
}

fn reprobe_after(random: u64) -> Duration {
    REPROBE_EVERY + Duration::from_millis(random % 1000)
}

/// Failed tries in a row that make a rung fall.
const TRIES: u32 = 3;
const ASK_AFTER: Duration = Duration::from_millis(100);
const GIVE_UP_AFTER: Duration = Duration::from_millis(300);
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Plus up to a second of jitter.
const REPROBE_EVERY: Duration = Duration::from_secs(10);
/// How often a silent remote's own probes may start one of ours.
const TRUST_EVERY: Duration = Duration::from_secs(1);
/// However often routes change.
const HURRY_EVERY: Duration = Duration::from_secs(2);
