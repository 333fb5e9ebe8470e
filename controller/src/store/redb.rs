//! A store in one file, by redb: one writer, crash safe, a commit is on the disk when it returns.
//!
//! Values are the documents as JSON, so that a file can be read by people and by later builds. After a disk error
//! the store refuses all further commits: what is on the disk is known only after reopening it.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde::{Deserialize, Serialize};
use weft_api::object::Object;

use super::live::{Live, Watch};
use super::{Change, Committed, Snapshot, Store, StoreError, Stored, Txn};

/// By the object's key in print, `port red/a`.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const FACTS: TableDefinition<'_, &str, &str> = TableDefinition::new("facts");
const FACT_STORE_ID: &str = "store_id";
const FACT_GENERATION: &str = "generation";
const FACT_FORMAT: &str = "format";
/// The form of keys and values that this build writes.
const FORMAT: &str = "1";
/// Intent is held in memory, so redb needs little of its own.
const CACHE_BYTES: usize = 8 << 20;

/// A store in one file.
#[derive(Debug)]
pub struct RedbStore {
    id: String,
    live: Live,
    database: Database,
    path: String,
    failed: AtomicBool,
}

#[derive(Serialize, Deserialize)]
struct Value {
    revision: u64,
    object: Object,
}

impl RedbStore {
    /// Opens the file; where it does not exist, makes it, with `fresh_id` as the store's id.
    pub fn open(path: &Path, fresh_id: impl FnOnce() -> String) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        if !path.exists() {
            make(path, fresh_id).map_err(|error| disk(&name, error))?;
        }
        let opened = Database::builder().set_cache_size(CACHE_BYTES).open(path);
        let database = opened.map_err(|error| disk(&name, error.into()))?;
        Self::with_database(database, name, String::new)
    }

    /// As [`Self::open`], over another device than a file.
    pub fn open_backend(backend: impl StorageBackend, fresh_id: impl FnOnce() -> String) -> Result<Self, StoreError> {
        let name = "(backend)".to_owned();
        let opened = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend);
        let database = opened.map_err(|error| disk(&name, error.into()))?;
        Self::with_database(database, name, fresh_id)
    }

    fn with_database(database: Database, path: String, fresh_id: impl FnOnce() -> String) -> Result<Self, StoreError> {
        let content = |what: String| StoreError::Content { path: path.clone(), what };
        let facts = read_facts(&database, fresh_id).map_err(|error| disk(&path, error))?;
        if facts.format != FORMAT {
            return Err(content(format!("format {}, not {FORMAT}", facts.format)));
        }
        let rows = read_objects(&database).map_err(|error| disk(&path, error))?;
        let generation = facts.generation.parse().map_err(|_| content(format!("generation {}", facts.generation)))?;
        let mut snapshot = Snapshot { generation, ..Snapshot::default() };
        for (key, value) in rows {
            let value = serde_json::from_slice(&value).map_err(|error| content(format!("{key}: {error}")))?;
            let Value { revision, object } = value;
            snapshot.objects.insert(object.key(), Stored { revision, object: Arc::new(object) });
        }
        let live = Live::new(snapshot);
        Ok(Self { id: facts.store_id, live, database, path, failed: AtomicBool::new(false) })
    }

    fn write(&self, change: &Change) -> Result<(), StoreError> {
        let mut rows = Vec::with_capacity(change.puts.len());
        for object in &change.puts {
            let value = Value { revision: change.generation, object: Object::clone(object) };
            let content =
                |error: serde_json::Error| StoreError::Content { path: self.path.clone(), what: error.to_string() };
            rows.push((object.key().to_string(), serde_json::to_vec(&value).map_err(content)?));
        }
        write_change(&self.database, change, &rows).map_err(|error| disk(&self.path, error))
    }
}

impl Store for RedbStore {
    fn store_id(&self) -> &str {
        &self.id
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.live.snapshot()
    }

    fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.live.commit(txn, |change| {
            if self.failed.load(Ordering::Relaxed) {
                return Err(disk(&self.path, redb::Error::PreviousIo));
            }
            let written = self.write(change);
            self.failed.store(written.is_err(), Ordering::Relaxed);
            written
        })
    }

    fn watch(&self, after: u64) -> Watch {
        self.live.watch(after)
    }
}

/// Makes an empty store under another name first: a file cut off while it is made could not be opened again.
fn make(path: &Path, fresh_id: impl FnOnce() -> String) -> Result<(), redb::Error> {
    let unfinished = path.with_extension("unfinished");
    if unfinished.exists() {
        std::fs::remove_file(&unfinished)?;
    }
    // Who the tenants are and where is for the controller's user only.
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let database = Database::create(&unfinished)?;
    read_facts(&database, fresh_id)?;
    drop(database);
    std::fs::rename(&unfinished, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

/// What is known of a store besides its objects.
struct Facts {
    store_id: String,
    generation: String,
    format: String,
}

/// Reads what is known of the store; in a new file, writes it.
fn read_facts(database: &Database, fresh_id: impl FnOnce() -> String) -> Result<Facts, redb::Error> {
    let write = database.begin_write()?;
    let found = {
        let facts = write.open_table(FACTS)?;
        let fact = |name| facts.get(name).map(|fact| fact.map(|fact| fact.value().to_owned()));
        fact(FACT_STORE_ID)?.zip(fact(FACT_GENERATION)?).zip(fact(FACT_FORMAT)?)
    };
    if let Some(((store_id, generation), format)) = found {
        write.abort()?;
        return Ok(Facts { store_id, generation, format });
    }
    let fresh = Facts { store_id: fresh_id(), generation: "0".to_owned(), format: FORMAT.to_owned() };
    {
        write.open_table(OBJECTS)?;
        let mut facts = write.open_table(FACTS)?;
        facts.insert(FACT_STORE_ID, fresh.store_id.as_str())?;
        facts.insert(FACT_GENERATION, fresh.generation.as_str())?;
        facts.insert(FACT_FORMAT, fresh.format.as_str())?;
    }
    write.commit()?;
    Ok(fresh)
}

fn read_objects(database: &Database) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
    let read = database.begin_read()?;
    let mut rows = Vec::new();
    for entry in read.open_table(OBJECTS)?.iter()? {
        let (key, value) = entry?;
        rows.push((key.value().to_owned(), value.value().to_owned()));
    }
    Ok(rows)
}

fn write_change(database: &Database, change: &Change, rows: &[(String, Vec<u8>)]) -> Result<(), redb::Error> {
    let mut write = database.begin_write()?;
    write.set_durability(Durability::Immediate)?;
    {
        let mut objects = write.open_table(OBJECTS)?;
        for key in &change.deletes {
            objects.remove(key.to_string().as_str())?;
        }
        for (key, value) in rows {
            objects.insert(key.as_str(), value.as_slice())?;
        }
        let mut facts = write.open_table(FACTS)?;
        facts.insert(FACT_GENERATION, change.generation.to_string().as_str())?;
    }
    write.commit()?;
    Ok(())
}

fn disk(path: &str, source: redb::Error) -> StoreError {
    let path = path.to_owned();
    match source {
        redb::Error::DatabaseAlreadyOpen => StoreError::Busy { path },
        source => StoreError::Disk { path, source: Box::new(source) },
    }
}

#[cfg(test)]
mod tests {
    use weft_api::object::{Kind, Name, ObjectKey, Tenant, TenantSpec};

    use super::*;

    #[test]
    fn a_file_keeps_its_id_its_generation_and_its_objects() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let name = Name::new("red").unwrap();
        let object: Object = Tenant { name: name.clone(), spec: TenantSpec {} }.into();
        let before = {
            let store = RedbStore::open(&path, || "first".to_owned()).unwrap();
            store.commit(Txn { puts: vec![object], ..Txn::default() }).unwrap();
            store.snapshot()
        };
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "for its owner only");
        let store = RedbStore::open(&path, || "second".to_owned()).unwrap();
        assert_eq!(store.store_id(), "first");
        assert_eq!(store.snapshot(), before);
        let deletes = vec![ObjectKey::global(Kind::Tenant, &name)];
        assert_eq!(store.commit(Txn { deletes, ..Txn::default() }).unwrap().generation, 2);
    }

    #[test]
    fn a_file_that_is_in_use_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let _in_use = RedbStore::open(&path, String::new).unwrap();
        let told = RedbStore::open(&path, String::new).unwrap_err().to_string();
        assert!(told.contains("is in use by another controller"), "{told}");
    }

    #[test]
    fn a_file_that_was_cut_off_while_it_was_made_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        std::fs::write(path.with_extension("unfinished"), "cut off").unwrap();
        assert_eq!(RedbStore::open(&path, || "id".to_owned()).unwrap().store_id(), "id");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        std::fs::write(&path, "not a database, but long enough to look at").unwrap();
        let told = RedbStore::open(&path, String::new).unwrap_err().to_string();
        assert!(told.contains("store.redb"), "{told}");
    }
}
