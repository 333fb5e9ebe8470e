//! What was learned about where stations are, shared between the workers.
//!
//! The pinned map of the program always wins: it is asked first, and a pinned address is never learned. Locks are
//! taken when tables are evaluated only; a cached verdict keeps a handle to its entry and refreshes that with at most
//! one relaxed store per second. One shard holds all of a segment, so that its bound needs no second counter. Moves are
//! rationed, because each ends the cached results of a whole domain: a flapping station must not stop the caches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use weft_packet::MacAddr;
use weft_program::message::FdbReport;
use weft_program::{FdbKey, Location, RemoteKind, Segment, SegmentId};

use crate::epoch::LiveEpochs;
use crate::limits::Limits;
use crate::tables::Tables;

const SHARDS: usize = 64;

/// Seconds since the vswitch started: fine enough for ageing, and it changes rarely enough to be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Second(pub u32);

/// Learned locations.
pub struct Learned {
    start: Instant,
    age_s: u32,
    max: usize,
    per_segment_max: usize,
    moves_per_s: u32,
    shards: Box<[Mutex<Shard>]>,
    len: AtomicUsize,
    epochs: LiveEpochs,
    counters: Counters,
}

type Shard = HashMap<SegmentId, Stations>;

/// A segment's stations.
#[derive(Default)]
struct Stations {
    by_mac: HashMap<MacAddr, Arc<Seen>>,
    /// Moves in the second of the last one.
    moves: (Second, u32),
}

/// One learned location. A move makes a new one.
#[derive(Debug)]
pub struct Seen {
    location: Location,
    last: AtomicU32,
    /// When it came here from elsewhere; `None` for a station that was new.
    moved: Option<Second>,
}

/// What [`Learned::learn`] did.
#[derive(Debug, Clone)]
pub enum Learn {
    /// A station that was not known, or not any more.
    Add(Arc<Seen>),
    /// No room in the segment or in all.
    Full,
    /// It moved in this second already, or too many of its segment did: it stays where it was.
    Held,
    /// It was somewhere else before.
    Move(Arc<Seen>),
    /// It is where it was.
    Refresh(Arc<Seen>),
}

#[derive(Default)]
struct Counters {
    add: AtomicU64,
    moved: AtomicU64,
    full: AtomicU64,
    held: AtomicU64,
    refused: AtomicU64,
    expired: AtomicU64,
}

/// How often learning ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LearnCounts {
    /// New stations.
    pub add: u64,
    /// Stations that moved.
    pub moved: u64,
    /// Stations not learned for want of room.
    pub full: u64,
    /// Moves not followed because there were too many.
    pub held: u64,
    /// Stations not learned because they are pinned elsewhere.
    pub refused: u64,
    /// Stations forgotten: too old, or their port, remote or segment is gone.
    pub expired: u64,
}

impl Seen {
    /// The station was heard of again.
    #[inline]
    pub fn refresh(&self, now: Second) {
        if self.last.load(Ordering::Relaxed) != now.0 {
            self.last.store(now.0, Ordering::Relaxed);
        }
    }

    fn last(&self) -> u32 {
        self.last.load(Ordering::Relaxed)
    }
}

impl Learned {
    /// Knows nothing. `start` is second zero.
    pub fn new(start: Instant, limits: &Limits) -> Self {
        assert!(limits.learned_age_s > 0, "an entry must live for a second at least");
        Self {
            start,
            age_s: limits.learned_age_s,
            max: limits.learned_max,
            per_segment_max: limits.learned_per_segment_max,
            moves_per_s: limits.learned_moves_per_s,
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
            len: AtomicUsize::new(0),
            epochs: LiveEpochs::new(),
            counters: Counters::default(),
        }
    }

    /// The coarse time, to be taken once per burst.
    pub fn second(&self, now: Instant) -> Second {
        Second(now.saturating_duration_since(self.start).as_secs() as u32)
    }

    /// Changes that end cached results.
    #[inline]
    pub const fn epochs(&self) -> &LiveEpochs {
        &self.epochs
    }

    /// How long an entry lives that is not refreshed.
    pub const fn age_s(&self) -> u32 {
        self.age_s
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the station is, and when that must be asked anew.
    pub fn lookup(&self, key: FdbKey, now: Second) -> Option<(Location, Second)> {
        let shard = self.shard(key.segment);
        let seen = shard.get(&key.segment)?.by_mac.get(&key.mac)?;
        let until = Second(seen.last().saturating_add(self.age_s));
        (now < until).then_some((seen.location, until))
    }

    /// Records that the station sourced a frame from `location`. The caller asked the pinned map before.
    pub fn learn(&self, segment: &Segment, mac: MacAddr, location: Location, now: Second) -> Learn {
        debug_assert!(mac.is_unicast(), "parse drops frames with a group source");
        let mut shard = self.shard(segment.id);
        let stations = shard.entry(segment.id).or_default();
        let known = stations.by_mac.get(&mac).map(|seen| (Arc::clone(seen), self.is_old(seen, now)));
        let fresh = |moved| Arc::new(Seen { location, last: AtomicU32::new(now.0), moved });
        let outcome = match known {
            Some((seen, false)) if seen.location == location => {
                seen.refresh(now);
                return Learn::Refresh(seen);
            }
            Some((seen, false)) if seen.moved == Some(now) || !stations.may_move(now, self.moves_per_s) => {
                self.counters.held.fetch_add(1, Ordering::Relaxed);
                return Learn::Held;
            }
            Some((_, false)) => Learn::Move(fresh(Some(now))),
            Some((_, true)) => Learn::Add(fresh(None)),
            None if stations.by_mac.len() >= self.per_segment_max || !self.reserve() => {
                self.counters.full.fetch_add(1, Ordering::Relaxed);
                return Learn::Full;
            }
            None => Learn::Add(fresh(None)),
        };
        let (Learn::Add(seen) | Learn::Move(seen)) = &outcome else { return outcome };
        stations.by_mac.insert(mac, Arc::clone(seen));
        drop(shard);
        let moved = matches!(outcome, Learn::Move(_));
        let counter = if moved { &self.counters.moved } else { &self.counters.add };
        counter.fetch_add(1, Ordering::Relaxed);
        self.epochs.touch(segment.domain);
        outcome
    }

    /// Counts a station that was not learned because the program pins it elsewhere.
    pub fn refuse(&self) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets what is too old, and what the program has no place for any more. For one thread, once per second.
    pub fn expire(&self, tables: &Tables, now: Second) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let mut changed = Vec::new();
            shard.retain(|id, stations| {
                let segment = tables.segment(*id);
                let before = stations.by_mac.len();
                stations.by_mac.retain(|_, seen| {
                    !self.is_old(seen, now) && segment.is_some_and(|s| is_reachable(tables, s, seen.location))
                });
                let gone = before - stations.by_mac.len();
                self.len.fetch_sub(gone, Ordering::Relaxed);
                self.counters.expired.fetch_add(gone as u64, Ordering::Relaxed);
                changed.extend(segment.filter(|_| gone > 0).map(|segment| segment.domain));
                !stations.by_mac.is_empty()
            });
            drop(shard);
            changed.into_iter().for_each(|domain| self.epochs.touch(domain));
        }
    }

    /// All entries that live, by segment and address.
    pub fn reports(&self, now: Second) -> Vec<FdbReport> {
        let mut reports = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let all = shard.iter().flat_map(|(segment, stations)| stations.by_mac.iter().map(move |s| (*segment, s)));
            reports.extend(all.filter(|(_, (_, seen))| !self.is_old(seen, now)).map(|(segment, (mac, seen))| {
                let age_s = now.0.saturating_sub(seen.last());
                FdbReport {
                    key: FdbKey { segment, mac: *mac },
                    location: seen.location,
                    age_ms: Some(u64::from(age_s) * 1000),
                    owner: String::new(),
                }
            }));
        }
        reports.sort_by_key(|report| report.key);
        reports
    }

    /// How often learning ended how.
    pub fn counts(&self) -> LearnCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { add, moved, full, held, refused, expired } = &self.counters;
        LearnCounts {
            add: read(add),
            moved: read(moved),
            full: read(full),
            held: read(held),
            refused: read(refused),
            expired: read(expired),
        }
    }

    fn is_old(&self, seen: &Seen, now: Second) -> bool {
        now.0.saturating_sub(seen.last()) >= self.age_s
    }

    fn reserve(&self) -> bool {
        let max = self.max;
        self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |len| (len < max).then_some(len + 1)).is_ok()
    }

    fn shard(&self, segment: SegmentId) -> MutexGuard<'_, Shard> {
        self.shards[segment.0 as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stations {
    /// Whether one more may move in this second; counts it.
    fn may_move(&mut self, now: Second, max: u32) -> bool {
        if self.moves.0 != now {
            self.moves = (now, 0);
        }
        let may = self.moves.1 < max;
        self.moves.1 += u32::from(may);
        may
    }
}

/// Whether frames of the segment may go to a learned location: the port must still be in the segment and the remote
/// must still host it and be one that is learned from. Else the entry counts as absent until it is swept.
pub fn is_reachable(tables: &Tables, segment: &Segment, location: Location) -> bool {
    match location {
        Location::Local(port) => tables.port(port).is_some_and(|port| port.learn && port.segment == segment.id),
        Location::Remote(remote) => tables
            .remote(remote)
            .is_some_and(|remote| remote.kind == RemoteKind::Legacy && remote.vnis.contains(&segment.vni)),
    }
}

#[cfg(test)]
mod tests {
    use weft_packet::Vni;
    use weft_program::{DomainId, PortId};

    use super::*;
    use crate::limits::LIMITS;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const HERE: Location = Location::Local(PortId(1));
    const THERE: Location = Location::Local(PortId(2));

    fn learned(max: usize) -> Learned {
        let limits = Limits { learned_max: max, learned_per_segment_max: 3, ..LIMITS };
        Learned::new(Instant::now(), &limits)
    }

    fn segment(id: u32) -> Segment {
        let vni = Vni::new(id).unwrap();
        Segment { id: SegmentId(id), vni, mtu: 1500, domain: DomainId(id), owner: "network".into() }
    }

    fn key(id: u32, mac: MacAddr) -> FdbKey {
        FdbKey { segment: SegmentId(id), mac }
    }

    #[test]
    fn an_entry_is_forgotten_when_it_ages_out() {
        let learned = learned(10);
        assert!(matches!(learned.learn(&segment(1), A, HERE, Second(0)), Learn::Add(_)));
        assert_eq!(learned.lookup(key(1, A), Second(299)), Some((HERE, Second(300))));
        assert_eq!(learned.lookup(key(1, A), Second(300)), None);
        learned.expire(&Tables::new(1), Second(300));
        assert_eq!((learned.len(), learned.counts().expired), (0, 1));
    }

    #[test]
    fn a_refreshed_entry_lives_on_and_ends_no_cached_result() {
        let learned = learned(10);
        let Learn::Add(seen) = learned.learn(&segment(1), A, HERE, Second(0)) else { panic!("not added") };
        let version = learned.epochs().version();
        seen.refresh(Second(200));
        assert!(matches!(learned.learn(&segment(1), A, HERE, Second(250)), Learn::Refresh(_)));
        assert_eq!(learned.lookup(key(1, A), Second(549)), Some((HERE, Second(550))));
        assert_eq!(learned.epochs().version(), version);
    }

    #[test]
    fn a_move_is_found_at_once_and_ends_cached_results() {
        let learned = learned(10);
        learned.learn(&segment(1), A, HERE, Second(0));
        let version = learned.epochs().version();
        assert!(matches!(learned.learn(&segment(1), A, THERE, Second(1)), Learn::Move(_)));
        assert_eq!(learned.lookup(key(1, A), Second(1)), Some((THERE, Second(301))));
        assert_eq!(learned.epochs().version(), version + 1);
        assert_eq!((learned.len(), learned.counts().moved), (1, 1));
    }

    #[test]
    fn a_flapping_station_ends_cached_results_once_a_second_at_most() {
        let learned = learned(10);
        learned.learn(&segment(1), A, HERE, Second(0));
        let version = learned.epochs().version();
        for frame in 0..10_000 {
            let location = if frame % 2 == 0 { THERE } else { HERE };
            learned.learn(&segment(1), A, location, Second(frame / 1000));
        }
        assert_eq!(learned.epochs().version() - version, 10);
        let counts = learned.counts();
        assert_eq!((counts.moved, counts.held), (10, 5 * (500 + 499)));
        assert_eq!(learned.lookup(key(1, A), Second(10)).map(|(location, _)| location), Some(HERE));
    }

    #[test]
    fn the_stations_of_a_segment_share_a_ration_of_moves_and_other_segments_have_their_own() {
        let mac = |n: u32| MacAddr::from_u64(0x0200_0000_0000 | u64::from(n));
        let learned = Learned::new(Instant::now(), &LIMITS);
        let stations = LIMITS.learned_moves_per_s * 2;
        (0..stations).for_each(|n| drop(learned.learn(&segment(1), mac(n), HERE, Second(0))));
        learned.learn(&segment(2), A, HERE, Second(0));
        (0..stations).for_each(|n| drop(learned.learn(&segment(1), mac(n), THERE, Second(1))));
        assert_eq!(learned.counts().moved, LIMITS.learned_moves_per_s.into());
        assert!(matches!(learned.learn(&segment(2), A, THERE, Second(1)), Learn::Move(_)));
        (0..stations).for_each(|n| drop(learned.learn(&segment(1), mac(n), THERE, Second(2))));
        assert_eq!(learned.counts().moved, 1 + u64::from(stations), "the rest follows in the next second");
    }

    #[test]
    fn a_full_segment_and_a_full_table_learn_no_more() {
        let learned = learned(4);
        let mac = |n| MacAddr([2, 0, 0, 0, 0, n]);
        (0..3).for_each(|n| drop(learned.learn(&segment(1), mac(n), HERE, Second(0))));
        assert!(matches!(learned.learn(&segment(1), mac(3), HERE, Second(0)), Learn::Full));
        assert!(matches!(learned.learn(&segment(2), mac(3), HERE, Second(0)), Learn::Add(_)));
        assert!(matches!(learned.learn(&segment(3), mac(4), HERE, Second(0)), Learn::Full));
        assert!(matches!(learned.learn(&segment(1), mac(0), THERE, Second(0)), Learn::Move(_)), "a move needs no room");
        assert_eq!((learned.len(), learned.counts().full), (4, 2));
    }
}
