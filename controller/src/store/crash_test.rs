//! The store over a device that fails: after a failure at any operation it reopens at the last acknowledged generation.
//!
//! Two kinds of disk are played: one that keeps every write until the failure, and one that keeps only what was
//! synced. The transaction in flight was not acknowledged; it may be there whole or not at all. The making of the file
//! is not part of this: [`RedbStore::open`] makes it under another name and renames it when it is whole.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use weft_api::Vni;
use weft_api::object::{Kind, Name, Network, NetworkSpec, Object, ObjectKey};

use super::{RedbStore, Snapshot, Store, Txn};

const WRITES: u32 = 200;

#[derive(Debug, Default)]
struct Disk {
    live: Vec<u8>,
    synced: Vec<u8>,
    /// Written since the last sync: where, and how much.
    pending: Vec<(usize, usize)>,
    operations: u64,
    fail_at: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct FailingBackend(Arc<Mutex<Disk>>);

impl FailingBackend {
    fn over(image: Vec<u8>, fail_at: Option<u64>) -> Self {
        Self(Arc::new(Mutex::new(Disk { live: image.clone(), synced: image, fail_at, ..Disk::default() })))
    }

    /// Counts an operation that changes the disk; from the fatal one on, nothing works.
    fn operate(&self, act: impl FnOnce(&mut Disk)) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        disk.operations += 1;
        if disk.fail_at.is_some_and(|fatal| disk.operations >= fatal) {
            return Err(io::Error::other("the disk is gone"));
        }
        act(&mut disk);
        Ok(())
    }
}

impl StorageBackend for FailingBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        let bytes = disk.live.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operate(|disk| disk.live.resize(usize::try_from(len).unwrap(), 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operate(|disk| {
            let Disk { live, synced, pending, .. } = disk;
            synced.resize(live.len(), 0);
            for (from, len) in pending.drain(..) {
                let end = live.len().min(from + len);
                synced[from..end].copy_from_slice(&live[from..end]);
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operate(|disk| {
            let from = usize::try_from(offset).unwrap();
            let len = disk.live.len().max(from + data.len());
            disk.live.resize(len, 0);
            disk.live[from..from + data.len()].copy_from_slice(data);
            disk.pending.push((from, data.len()));
        })
    }
}

/// Step `index` of the script: puts, replacements and deletes over twenty networks.
fn step(index: u32) -> Txn {
    let tenant = Name::new("red").unwrap();
    let name = Name::new(&format!("n{}", index % 20)).unwrap();
    if index % 7 == 6 {
        return Txn { deletes: vec![ObjectKey::scoped(Kind::Network, &tenant, &name)], ..Txn::default() };
    }
    let spec = NetworkSpec { vni: Vni::new(index + 1).ok(), mtu: Some(1400) };
    Txn { puts: vec![Object::from(Network { tenant, name, spec })], ..Txn::default() }
}

/// Runs the script until the store refuses; returns the last acknowledged snapshot.
fn run(backend: FailingBackend) -> Snapshot {
    let Ok(store) = RedbStore::open_backend(backend, || "id".to_owned()) else { return Snapshot::default() };
    for index in 0..WRITES {
        if store.commit(step(index)).is_err() {
            break;
        }
    }
    Snapshot::clone(&store.snapshot())
}

/// Every snapshot of the script, by generation.
fn history() -> Vec<Snapshot> {
    let store = super::MemoryStore::new("twin");
    let mut history = vec![Snapshot::default()];
    for index in 0..WRITES {
        if store.commit(step(index)).unwrap().changed {
            history.push(Snapshot::clone(&store.snapshot()));
        }
    }
    history
}

fn check(image: Vec<u8>, acknowledged: &Snapshot, history: &[Snapshot], what: &str) {
    let store = RedbStore::open_backend(FailingBackend::over(image, None), || "id".to_owned())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = store.snapshot();
    let in_flight = found.generation.checked_sub(acknowledged.generation);
    assert!(matches!(in_flight, Some(0 | 1)), "{what}: {} after {}", found.generation, acknowledged.generation);
    assert_eq!(store.store_id(), "id", "{what}");
    let wanted = &history[usize::try_from(found.generation).unwrap()];
    assert_eq!(*found, *wanted, "{what}");
}

#[test]
fn a_store_whose_disk_fails_at_any_operation_reopens_at_the_last_acknowledged_generation() {
    let history = history();
    let empty = FailingBackend::default();
    drop(RedbStore::open_backend(empty.clone(), || "id".to_owned()).unwrap());
    let empty = std::mem::take(&mut empty.0.lock().unwrap().live);
    let whole = FailingBackend::over(empty.clone(), None);
    assert_eq!(run(whole.clone()), history[history.len() - 1]);
    let operations = whole.0.lock().unwrap().operations;
    assert!(operations > u64::from(WRITES), "every write reaches the disk");
    for fatal in 1..=operations {
        let backend = FailingBackend::over(empty.clone(), Some(fatal));
        let acknowledged = run(backend.clone());
        let disk = std::mem::take(&mut *backend.0.lock().unwrap());
        check(disk.live, &acknowledged, &history, &format!("all writes kept, failure at {fatal} of {operations}"));
        check(disk.synced, &acknowledged, &history, &format!("synced writes kept, failure at {fatal} of {operations}"));
    }
}
