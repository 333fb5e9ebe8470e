//! Puts a snapshot in force, and says so only when it is.
//!
//! A worker marks when it starts a burst and when it ends it, and between the two it uses one snapshot. Publishing
//! stores the new snapshot, counts a round, and waits until no worker is in a burst that began before: then no frame
//! meets the old program, in no cache, and what it referred to can go. A worker outside of a burst (asleep) is
//! never waited for. The fences pair: either the publisher sees the mark, or the worker sees the new snapshot.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use weft_program::{Bundle, BundleError};

use crate::tables::Tables;

/// The mark of a worker that is in no burst.
const OUTSIDE: u64 = u64::MAX;
/// How long the publisher sleeps between two looks at a worker's mark.
const LOOK: Duration = Duration::from_micros(20);

/// The snapshot in force, and where each worker is.
pub struct Publisher {
    current: ArcSwap<Tables>,
    round: AtomicU64,
    marks: Box<[Mark]>,
    writer: Mutex<()>,
}

/// Alone on its cache line: a worker writes it twice per burst.
#[repr(align(128))]
struct Mark(AtomicU64);

/// Why a bundle is not in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The bundle is not consistent; nothing changed.
    #[error("the bundle was refused for {} reasons, the first: {}", .0.len(), .0.first().map_or(String::new(), ToString::to_string))]
    Refused(Vec<BundleError>),
    /// The snapshot is stored, but a worker has been in one burst for so long that it may still use the old one.
    #[error("worker {worker} did not finish a burst in {waited:?}: it hangs, restart the vswitch")]
    Laggard {
        /// Which worker.
        worker: usize,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// One worker's side. There must be one only per worker.
pub struct Reader {
    publisher: Arc<Publisher>,
    worker: usize,
}

/// The snapshot of one burst; drop it before sleeping.
pub struct Burst<'a> {
    tables: Guard<Arc<Tables>>,
    mark: &'a AtomicU64,
}

impl Publisher {
    /// Starts with a snapshot, for this many workers.
    pub fn new(tables: Tables, workers: usize) -> Arc<Self> {
        let marks = (0..workers).map(|_| Mark(AtomicU64::new(OUTSIDE))).collect();
        let current = ArcSwap::from_pointee(tables);
        Arc::new(Self { current, round: AtomicU64::new(0), marks, writer: Mutex::new(()) })
    }

    /// The side of worker number `worker`.
    ///
    /// # Panics
    ///
    /// When there is no such worker.
    pub fn reader(self: &Arc<Self>, worker: usize) -> Reader {
        assert!(worker < self.marks.len(), "worker {worker} of {}", self.marks.len());
        Reader { publisher: Arc::clone(self), worker }
    }

    /// The snapshot in force, for whoever is not a worker.
    pub fn current(&self) -> Arc<Tables> {
        self.current.load_full()
    }

    /// Applies a bundle. When it returns `Ok`, no frame meets the old program any more.
    pub fn apply(&self, bundle: &Bundle, patience: Duration) -> Result<Arc<Tables>, PublishError> {
        let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // Held until no worker can be the last to hold it: freeing a large program takes longer than a burst.
        let old = self.current();
        let tables = Arc::new(old.apply(bundle).map_err(PublishError::Refused)?);
        self.current.store(Arc::clone(&tables));
        self.quiesce(patience)?;
        drop(old);
        Ok(tables)
    }

    /// Returns when every burst that is under way now has ended.
    pub fn quiesce(&self, patience: Duration) -> Result<(), PublishError> {
        let round = self.round.fetch_add(1, Ordering::SeqCst) + 1;
        fence(Ordering::SeqCst);
        let start = Instant::now();
        for (worker, mark) in self.marks.iter().enumerate() {
            while mark.0.load(Ordering::Acquire) < round {
                let waited = start.elapsed();
                if waited > patience {
                    return Err(PublishError::Laggard { worker, waited });
                }
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }
}

impl Reader {
    /// Starts a burst.
    #[inline]
    pub fn begin(&mut self) -> Burst<'_> {
        let mark = &self.publisher.marks[self.worker].0;
        mark.store(self.publisher.round.load(Ordering::SeqCst), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Burst { tables: self.publisher.current.load(), mark }
    }
}

impl Deref for Burst<'_> {
    type Target = Tables;

    #[inline]
    fn deref(&self) -> &Tables {
        &self.tables
    }
}

impl Drop for Burst<'_> {
    #[inline]
    fn drop(&mut self) {
        self.mark.store(OUTSIDE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use weft_packet::{DropReason, Field, FlowKey, Vni};
    use weft_program::{
        Action, DomainId, Instruction, Match, PortConfig, PortId, Position, Program, Rule, RuleKey, Segment, SegmentId,
        TableId,
    };

    use super::*;
    use crate::cache::Lookup;
    use crate::learn::{Learned, Second};
    use crate::limits::LIMITS;
    use crate::testing::{Dice, whole};
    use crate::verdict::Step;

    const PATIENCE: Duration = Duration::from_millis(20);

    fn bundle(generation: u64) -> Bundle {
        Bundle { position: Position { generation, ..Position::default() }, ..Bundle::default() }
    }

    #[test]
    fn a_change_waits_for_the_burst_under_way_and_not_for_a_sleeper() {
        let publisher = Publisher::new(Tables::new(1), 2);
        let (mut busy, _asleep) = (publisher.reader(0), publisher.reader(1));
        let burst = busy.begin();
        let refused = publisher.apply(&bundle(1), PATIENCE);
        assert!(matches!(refused, Err(PublishError::Laggard { worker: 0, .. })));
        assert_eq!(burst.position().generation, 0, "a burst sees one snapshot");
        drop(burst);
        assert!(publisher.apply(&bundle(2), PATIENCE).is_ok());
        let burst = busy.begin();
        assert_eq!(burst.position().generation, 2);
    }

    #[test]
    fn a_burst_that_began_after_the_change_is_not_waited_for() {
        let publisher = Publisher::new(Tables::new(1), 1);
        let other = Arc::clone(&publisher);
        let worker = thread::spawn(move || {
            let mut reader = other.reader(0);
            while reader.begin().position().generation < 100 {}
        });
        (1..=100).for_each(|generation| drop(publisher.apply(&bundle(generation), Duration::from_secs(10)).unwrap()));
        worker.join().unwrap();
    }

    /// Table 0 writes the tag, table 3 checks it: what passes goes out of the port numbered by the program.
    fn tagging(tag: u64, generation: u64) -> Bundle {
        let mut program = Program::default();
        let (segment, domain) = (SegmentId(1), DomainId(1));
        let vni = Vni::new(42).unwrap();
        program.segments.insert(segment, Segment { id: segment, vni, mtu: 1500, domain, owner: "network".into() });
        for id in (1..=3).map(PortId) {
            let port = PortConfig { id, segment, live: true, learn: false, owner: "port".into() };
            program.ports.insert(id, port);
        }
        let mut rule = |table, priority, matches, instructions| {
            let key = RuleKey { table: TableId(table), priority, matches };
            program.rules.insert(key, Rule { key, instructions, owner: "rule".into(), domain });
        };
        let write = Instruction::WriteMetadata { value: tag, mask: u64::MAX };
        rule(0, 1, Match::ANY.with(Field::InPort, 1), vec![write, Instruction::Goto(TableId(3))]);
        let out = Instruction::Apply(vec![Action::Output(PortId(tag as u32))]);
        rule(3, 2, Match::ANY.with(Field::Metadata, tag.into()), vec![out]);
        rule(3, 1, Match::ANY, vec![Instruction::Apply(vec![Action::Drop(DropReason::MixedProgram)])]);
        Bundle { position: Position { generation, ..Position::default() }, ..whole(&program) }
    }

    /// Forwards until told to stop; returns how many frames each program forwarded.
    fn forward(
        publisher: &Arc<Publisher>,
        worker: usize,
        learned: &Learned,
        in_force: &AtomicU64,
        stop: &AtomicBool,
    ) -> [u64; 2] {
        let mut dice = Dice::new(worker as u64);
        let keys: Vec<_> = (0..64).map(|_| dice.key().with(Field::InPort, 1).with(Field::InRemote, 0)).collect();
        let (mut reader, mut lookup) = (publisher.reader(worker), Lookup::new(9, &LIMITS));
        let mut forwarded = [0; 2];
        while !stop.load(Ordering::Relaxed) {
            let acknowledged = in_force.load(Ordering::SeqCst);
            let burst = reader.begin();
            assert!(burst.position().generation >= acknowledged, "an acknowledged change is not in force");
            let tag = 2 + burst.position().generation % 2;
            for key in (0..32).map(|_| dice.pick::<FlowKey>(&keys)) {
                let steps = &lookup.classify(&burst, learned, &key, 60, Second(0)).steps;
                assert_eq!(*steps, [Step::Output(PortId(tag as u32))]);
                forwarded[tag as usize - 2] += 1;
            }
        }
        forwarded
    }

    #[test]
    fn no_frame_meets_two_programs_in_a_thousand_swaps_under_traffic() {
        let publisher = Publisher::new(Tables::new(1).apply(&tagging(2, 0)).unwrap(), 2);
        let learned = Learned::new(Instant::now(), &LIMITS);
        let (in_force, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let forwarded = thread::scope(|scope| {
            let workers = [0, 1].map(|worker| {
                let (publisher, learned, in_force, stop) = (&publisher, &learned, &in_force, &stop);
                scope.spawn(move || forward(publisher, worker, learned, in_force, stop))
            });
            let swapped = (1..=1000).try_for_each(|generation| {
                publisher.apply(&tagging(2 + generation % 2, generation), Duration::from_secs(10))?;
                in_force.store(generation, Ordering::SeqCst);
                Ok::<_, PublishError>(())
            });
            stop.store(true, Ordering::Relaxed);
            let forwarded = workers.map(|worker| worker.join().unwrap());
            swapped.unwrap();
            forwarded
        });
        assert!(forwarded.iter().flatten().all(|frames| *frames > 1000), "{forwarded:?}");
    }
}
