//! Which changes a cached result has to notice.
//!
//! Program changes are numbered by the snapshot's version and recorded inside the snapshot, never in a global that a
//! worker could read too early: a result made from an old snapshot cannot look valid under a new one. Learned changes
//! have a number of their own. Domains share 1,023 slots by their number; a collision costs a re-evaluation, no more.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_program::DomainId;

/// Slots for domains; slot 0 stands for all of them.
const SLOTS: usize = 1024;
/// Domains that one result depends on before it simply depends on every change.
const DEPENDS_MAX: usize = 6;

/// The version of the program at which each domain last changed.
#[derive(Clone)]
pub struct Epochs(Box<[u64; SLOTS]>);

/// The same for what the workers learned, shared between them.
pub struct LiveEpochs {
    version: AtomicU64,
    slots: Box<[AtomicU64]>,
    writer: Mutex<()>,
}

/// The versions that a result was made from, or was last found valid under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// Of the program.
    pub program: u64,
    /// Of what was learned.
    pub learned: u64,
}

/// The domains whose changes end a result; a change of all domains always does.
#[derive(Debug, Clone, Copy, Default)]
pub struct Depends {
    slots: [u16; DEPENDS_MAX],
    len: u8,
    everything: bool,
}

impl Epochs {
    /// Nothing changed yet.
    pub fn new() -> Self {
        Self(Box::new([0; SLOTS]))
    }

    /// Records that a domain changed in this version; domain 0 stands for all.
    pub fn touch(&mut self, domain: DomainId, version: u64) {
        self.0[slot(domain)] = version;
    }
}

impl Default for Epochs {
    fn default() -> Self {
        Self::new()
    }
}

impl LiveEpochs {
    /// Nothing changed yet.
    pub fn new() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { version: AtomicU64::new(0), slots, writer: Mutex::new(()) }
    }

    /// Number of changes so far. Read it before reading what was learned.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Records a change, after it was made. The slot is written before the version, under a lock: who sees the
    /// version sees the slot.
    pub fn touch(&self, domain: DomainId) {
        let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.version.load(Ordering::Relaxed) + 1;
        self.slots[slot(domain)].store(version, Ordering::Relaxed);
        self.version.store(version, Ordering::Release);
    }
}

impl Default for LiveEpochs {
    fn default() -> Self {
        Self::new()
    }
}

impl Depends {
    /// Adds a domain. Domain 0 needs no place: its changes end every result.
    pub fn add(&mut self, domain: DomainId) {
        let slot = slot(domain) as u16;
        let known = &self.slots[..usize::from(self.len)];
        if slot == 0 || known.contains(&slot) {
            return;
        }
        if known.len() == DEPENDS_MAX {
            self.everything = true;
            return;
        }
        self.slots[usize::from(self.len)] = slot;
        self.len += 1;
    }

    /// From now on every change of the program or of what was learned ends the result.
    pub const fn add_everything(&mut self) {
        self.everything = true;
    }

    /// Whether a result of `stamp` still holds; `stamp` is brought forward when it does. `live.version()` must have
    /// been read into `now` before this call.
    #[inline]
    pub fn hold(&self, stamp: &mut Stamp, now: Stamp, epochs: &Epochs, live: &LiveEpochs) -> bool {
        if *stamp == now {
            return true;
        }
        let old =
            |slot: usize| epochs.0[slot] > stamp.program || live.slots[slot].load(Ordering::Relaxed) > stamp.learned;
        if self.everything || old(0) || self.slots[..usize::from(self.len)].iter().any(|s| old(usize::from(*s))) {
            return false;
        }
        *stamp = now;
        true
    }
}

fn slot(domain: DomainId) -> usize {
    match domain.0 {
        0 => 0,
        id => 1 + (id - 1) as usize % (SLOTS - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(depends: &Depends, made: Stamp, version: u64, epochs: &Epochs, live: &LiveEpochs) -> bool {
        let now = Stamp { program: version, learned: live.version() };
        depends.hold(&mut made.clone(), now, epochs, live)
    }

    #[test]
    fn a_result_ends_with_its_own_domain_and_with_all_domains_only() {
        let (mut epochs, live) = (Epochs::new(), LiveEpochs::new());
        let mut depends = Depends::default();
        depends.add(DomainId(5));
        let made = Stamp { program: 1, learned: 0 };
        epochs.touch(DomainId(6), 2);
        live.touch(DomainId(7));
        assert!(holds(&depends, made, 2, &epochs, &live));
        let mut after = epochs.clone();
        after.touch(DomainId(5), 3);
        assert!(!holds(&depends, made, 3, &after, &live));
        let mut after = epochs.clone();
        after.touch(DomainId(0), 3);
        assert!(!holds(&depends, made, 3, &after, &live));
        live.touch(DomainId(5));
        assert!(!holds(&depends, made, 2, &epochs, &live));
    }

    #[test]
    fn a_result_of_too_many_domains_ends_with_every_change() {
        let (epochs, live) = (Epochs::new(), LiveEpochs::new());
        let mut depends = Depends::default();
        (1..=7).for_each(|id| depends.add(DomainId(id)));
        assert!(holds(&depends, Stamp::default(), 0, &epochs, &live));
        assert!(!holds(&depends, Stamp::default(), 1, &epochs, &live));
    }

    #[test]
    fn domains_that_share_a_slot_share_their_changes() {
        let (mut epochs, live) = (Epochs::new(), LiveEpochs::new());
        let mut depends = Depends::default();
        depends.add(DomainId(1));
        epochs.touch(DomainId(SLOTS as u32), 1);
        assert!(!holds(&depends, Stamp::default(), 1, &epochs, &live));
    }
}
