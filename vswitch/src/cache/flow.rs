//! Flow entries: a verdict, what ends it, and the only counters that a hit touches.

use weft_packet::FlowKey;
use weft_packet::key::{EXACT_WORDS, PARSED_WORDS};

use crate::epoch::{LiveEpochs, Stamp};
use crate::evaluate::Evaluation;
use crate::learn::Second;
use crate::tables::Tables;

#[derive(Default)]
pub(super) struct Flow {
    pub(super) evaluation: Evaluation,
    /// The key's bits that the evaluation read.
    pub(super) masked: FlowKey,
    pub(super) subtable: u16,
    /// Which life of this entry; 0 before the first.
    pub(super) serial: u32,
    /// Hit since the eviction hand last passed.
    pub(super) used: bool,
    guarded: bool,
    frames: u64,
    bytes: u64,
}

impl Flow {
    /// Starts a new life: who refers to the old one finds a different serial.
    pub(super) fn begin(&mut self, evaluation: Evaluation, key: &FlowKey, subtable: u16) {
        self.masked = key & &evaluation.read;
        self.guarded = evaluation.read.0[EXACT_WORDS..].iter().any(|word| *word != 0);
        self.subtable = subtable;
        self.evaluation = evaluation;
        self.used = true;
        self.next_serial();
    }

    /// Ends a life.
    pub(super) fn end(&mut self) {
        self.flush();
        self.evaluation = Evaluation::default();
        self.used = false;
        self.next_serial();
    }

    // 0 is never used again: it marks empty ways of the exact level.
    fn next_serial(&mut self) {
        self.serial = self.serial.wrapping_add(1).max(1);
    }

    /// Whether the fields that the exact level does not compare are as they were.
    #[inline]
    pub(super) fn guards_hold(&self, key: &FlowKey) -> bool {
        let mask = &self.evaluation.read;
        !self.guarded || (EXACT_WORDS..PARSED_WORDS).all(|i| key.0[i] & mask.0[i] == self.masked.0[i])
    }

    /// Whether nothing happened that ends the verdict.
    #[inline]
    pub(super) fn is_valid(&mut self, tables: &Tables, live: &LiveEpochs, stamp: Stamp, now: Second) -> bool {
        let Evaluation { depends, stamp: made, until, .. } = &mut self.evaluation;
        now < *until && depends.hold(made, stamp, tables.epochs(), live)
    }

    /// Counts a frame, and refreshes where its source was learned.
    #[inline]
    pub(super) fn hit(&mut self, frame_len: usize, now: Second) {
        self.frames += 1;
        self.bytes += frame_len as u64;
        self.used = true;
        self.evaluation.sources.iter().for_each(|seen| seen.refresh(now));
    }

    /// Moves the counts to the rules that were passed.
    pub(super) fn flush(&mut self) {
        if self.frames == 0 {
            return;
        }
        let (frames, bytes) = (std::mem::take(&mut self.frames), std::mem::take(&mut self.bytes));
        self.evaluation.verdict.rules.iter().for_each(|rule| rule.count(frames, bytes));
    }
}
