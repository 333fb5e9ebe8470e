//! The part that all stores share: the snapshot in memory, the check of a transaction, and the watchers.
//!
//! A change is planned, written by the store, and only then published: nobody sees what is not durable.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use weft_api::object::{Object, ObjectKey};

use super::{CHANGES_KEPT_MAX, Change, Committed, OBJECTS_MAX, Snapshot, StoreError, Stored, Txn};

/// The snapshot in memory, and who follows it.
#[derive(Debug)]
pub(super) struct Live {
    shared: Arc<Shared>,
    /// Held over a whole commit, so that transactions are planned and written one after the other.
    commits: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    generation: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    snapshot: Arc<Snapshot>,
    /// The last changes, in order, without a gap.
    changes: VecDeque<Arc<Change>>,
}

impl Live {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let (generation, _) = watch::channel(snapshot.generation);
        let state = Mutex::new(State { snapshot: Arc::new(snapshot), changes: VecDeque::new() });
        Self { shared: Arc::new(Shared { state, generation }), commits: Mutex::new(()) }
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.lock().snapshot.clone()
    }

    pub(super) fn watch(&self, after: u64) -> Watch {
        Watch { shared: self.shared.clone(), wake: self.shared.generation.subscribe(), at: after }
    }

    /// Plans the transaction, has it written, and publishes it.
    pub(super) fn commit(
        &self,
        txn: Txn,
        write: impl FnOnce(&Change) -> Result<(), StoreError>,
    ) -> Result<Committed, StoreError> {
        let _one_at_a_time = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(change) = plan(&self.snapshot(), txn)? else {
            return Ok(Committed { generation: self.snapshot().generation, changed: false });
        };
        write(&change)?;
        let generation = change.generation;
        self.shared.publish(change);
        Ok(Committed { generation, changed: true })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, change: Change) {
        let generation = change.generation;
        {
            let mut state = self.lock();
            Arc::make_mut(&mut state.snapshot).advance(&change);
            if state.changes.len() == CHANGES_KEPT_MAX {
                state.changes.pop_front();
            }
            state.changes.push_back(Arc::new(change));
        }
        self.generation.send_replace(generation);
    }
}

impl Snapshot {
    /// Goes one generation further.
    pub(super) fn advance(&mut self, change: &Change) {
        self.generation = change.generation;
        for key in &change.deletes {
            self.objects.remove(key);
        }
        for object in &change.puts {
            let stored = Stored { revision: change.generation, object: object.clone() };
            self.objects.insert(object.key(), stored);
        }
    }
}

/// Checks the conditions and finds what differs; `None` when nothing does.
fn plan(now: &Snapshot, txn: Txn) -> Result<Option<Change>, StoreError> {
    if let Some(wanted) = txn.generation.filter(|wanted| *wanted != now.generation) {
        return Err(StoreError::Generation { wanted, found: now.generation });
    }
    for (key, wanted) in txn.revisions {
        let found = now.objects.get(&key).map(|stored| stored.revision);
        if found != wanted {
            return Err(StoreError::Revision { key, wanted, found });
        }
    }
    let mut named = BTreeSet::new();
    for key in txn.puts.iter().map(Object::key).chain(txn.deletes.iter().cloned()) {
        if !named.insert(key.clone()) {
            return Err(StoreError::Twice(key));
        }
    }
    let differs = |object: &Object| now.object(&object.key()) != Some(object);
    let puts: Vec<Arc<Object>> = txn.puts.into_iter().filter(differs).map(Arc::new).collect();
    let deletes: Vec<ObjectKey> = txn.deletes.into_iter().filter(|key| now.objects.contains_key(key)).collect();
    if puts.is_empty() && deletes.is_empty() {
        return Ok(None);
    }
    let created = puts.iter().filter(|object| !now.objects.contains_key(&object.key())).count();
    let count = now.objects.len() - deletes.len() + created;
    if count > OBJECTS_MAX {
        return Err(StoreError::Full { count });
    }
    Ok(Some(Change { generation: now.generation + 1, puts, deletes }))
}

/// Follows changes, one generation after the other.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    wake: watch::Receiver<u64>,
    at: u64,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The next generation.
    Change(Arc<Change>),
    /// The watcher is too far behind, or ahead of the store: start again from this snapshot.
    Relist(Arc<Snapshot>),
}

impl Watch {
    /// The next event, if there is one now.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        let state = self.shared.lock();
        let now = state.snapshot.generation;
        if self.at == now {
            return None;
        }
        let oldest = state.changes.front().map_or(now + 1, |change| change.generation);
        let kept = self.at < now && self.at + 1 >= oldest;
        let change = kept.then(|| state.changes.get(usize::try_from(self.at + 1 - oldest).ok()?)).flatten();
        let Some(change) = change else {
            self.at = now;
            return Some(WatchEvent::Relist(state.snapshot.clone()));
        };
        self.at = change.generation;
        Some(WatchEvent::Change(change.clone()))
    }

    /// Waits for the next event; `None` when the store is gone and everything was told. Safe to cancel.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            self.wake.mark_unchanged();
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            self.wake.changed().await.ok()?;
        }
    }

    /// The generation that the watcher has been told of.
    pub fn generation(&self) -> u64 {
        self.at
    }
}
