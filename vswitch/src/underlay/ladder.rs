//! The rung that one worker sends on, and when a rung that was refused is tried again.
//!
//! A route or a device may refuse UDP_SEGMENT today and take it tomorrow, so a fall is not for ever: after a while the
//! next send is a trial. Until a trial has succeeded, reports name the rung that works and why the better one does not.

use std::time::{Duration, Instant};

use weft_program::message::Rung;

/// One worker's place on the capability ladder.
#[derive(Debug)]
pub(super) struct Ladder {
    /// As high as the agent lets us go.
    best: Rung,
    /// Where the next send is tried.
    rung: Rung,
    /// Where sends succeed; lower than `rung` during a trial.
    proved: Rung,
    not_taken: Vec<(Rung, String)>,
    try_at: Option<Instant>,
    now: Option<Instant>,
}

impl Ladder {
    pub(super) const fn new(best: Rung) -> Self {
        Self { best, rung: best, proved: best, not_taken: Vec::new(), try_at: None, now: None }
    }

    /// A round begins, and with it a trial when it is time for one.
    #[inline]
    pub(super) fn begin(&mut self, now: Instant) {
        self.now = Some(now);
        if self.try_at.is_some_and(|at| at <= now) {
            self.try_at = None;
            self.rung = self.best;
        }
    }

    /// The rung to send on.
    #[inline]
    pub(super) const fn rung(&self) -> Rung {
        self.rung
    }

    /// The best rung known to work.
    pub(super) const fn proved(&self) -> Rung {
        self.proved
    }

    /// Better rungs, and why they are not taken.
    pub(super) fn not_taken(&self) -> &[(Rung, String)] {
        &self.not_taken
    }

    /// What `refused` needs was refused; with it go the better ones.
    pub(super) fn fall(&mut self, refused: Rung, to: Rung, why: String) {
        self.not_taken.retain(|(rung, _)| *rung != refused);
        self.not_taken.push((refused, why));
        (self.rung, self.proved) = (to, to);
        self.try_at = self.now.map(|now| now + TRIAL_EVERY);
    }

    /// Messages went out; `used` is the best rung that had a part in it.
    #[inline]
    pub(super) fn sent(&mut self, used: Rung) {
        if self.proved < self.rung && self.proved < used {
            self.proved = used.min(self.rung);
            self.not_taken.retain(|(rung, _)| *rung > used);
        }
    }
}

/// How long a refused rung is left alone.
const TRIAL_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallen_rung_is_tried_again_and_keeps_its_reason_until_it_works() {
        let start = Instant::now();
        let mut ladder = Ladder::new(Rung::Segment);
        ladder.begin(start);
        ladder.fall(Rung::Segment, Rung::Batch, "EIO".into());
        ladder.begin(start + TRIAL_EVERY - Duration::from_nanos(1));
        assert_eq!((ladder.rung(), ladder.proved()), (Rung::Batch, Rung::Batch));
        ladder.begin(start + TRIAL_EVERY);
        ladder.sent(Rung::Batch);
        assert_eq!((ladder.rung(), ladder.proved(), ladder.not_taken().len()), (Rung::Segment, Rung::Batch, 1));
        ladder.fall(Rung::Segment, Rung::Batch, "EIO again".into());
        assert_eq!(ladder.not_taken(), [(Rung::Segment, "EIO again".to_owned())]);
        ladder.begin(start + TRIAL_EVERY * 2);
        ladder.sent(Rung::Segment);
        assert_eq!((ladder.rung(), ladder.proved(), ladder.not_taken().len()), (Rung::Segment, Rung::Segment, 0));
        ladder.begin(start + TRIAL_EVERY * 9);
        assert_eq!(ladder.rung(), Rung::Segment);
    }

    #[test]
    fn a_trial_begins_at_the_top_and_falls_as_far_as_it_must() {
        let start = Instant::now();
        let mut ladder = Ladder::new(Rung::Segment);
        ladder.begin(start);
        ladder.fall(Rung::Segment, Rung::Batch, "UDP_SEGMENT".into());
        ladder.fall(Rung::Batch, Rung::Single, "sendmmsg".into());
        assert_eq!((ladder.proved(), ladder.not_taken().len()), (Rung::Single, 2));
        ladder.begin(start + TRIAL_EVERY);
        assert_eq!(ladder.rung(), Rung::Segment);
    }

    #[test]
    fn a_rung_between_may_prove_itself_while_the_best_is_still_on_trial() {
        let start = Instant::now();
        let mut ladder = Ladder::new(Rung::Tunnel);
        ladder.begin(start);
        ladder.fall(Rung::Tunnel, Rung::Segment, "EIO".into());
        ladder.fall(Rung::Segment, Rung::Batch, "UDP_SEGMENT".into());
        ladder.begin(start + TRIAL_EVERY);
        ladder.sent(Rung::Segment);
        let reasons = [(Rung::Tunnel, "EIO".to_owned())];
        assert_eq!((ladder.rung(), ladder.proved(), ladder.not_taken()), (Rung::Tunnel, Rung::Segment, &reasons[..]));
        ladder.sent(Rung::Tunnel);
        assert_eq!((ladder.proved(), ladder.not_taken().len()), (Rung::Tunnel, 0));
    }
}
