//! A store that forgets: for tests and the simulator.

use std::sync::Arc;

use super::live::{Live, Watch};
use super::{Committed, Snapshot, Store, StoreError, Txn};

/// A store that forgets.
#[derive(Debug)]
pub struct MemoryStore {
    id: String,
    live: Live,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), live: Live::new(Snapshot::default()) }
    }
}

impl Store for MemoryStore {
    fn store_id(&self) -> &str {
        &self.id
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.live.snapshot()
    }

    fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.live.commit(txn, |_| Ok(()))
    }

    fn watch(&self, after: u64) -> Watch {
        self.live.watch(after)
    }
}

#[cfg(test)]
mod tests {
    use weft_api::object::{Kind, Name, Object, ObjectKey, Tenant, TenantSpec};

    use super::super::{CHANGES_KEPT_MAX, WatchEvent};
    use super::*;

    fn tenant(name: &str) -> Object {
        Tenant { name: Name::new(name).unwrap(), spec: TenantSpec {} }.into()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::global(Kind::Tenant, &Name::new(name).unwrap())
    }

    fn put(store: &MemoryStore, name: &str) -> u64 {
        store.commit(Txn { puts: vec![tenant(name)], ..Txn::default() }).unwrap().generation
    }

    #[test]
    fn a_transaction_that_changes_nothing_makes_no_generation() {
        let store = MemoryStore::new("s");
        assert_eq!(put(&store, "red"), 1);
        let again = Txn { puts: vec![tenant("red")], deletes: vec![key("blue")], ..Txn::default() };
        assert_eq!(store.commit(again).unwrap(), Committed { generation: 1, changed: false });
        assert_eq!(store.get(&key("red")).unwrap().revision, 1);
    }

    #[test]
    fn a_transaction_on_an_old_generation_or_revision_is_refused_whole() {
        let store = MemoryStore::new("s");
        put(&store, "red");
        let before = store.snapshot();
        let puts = vec![tenant("blue")];
        for (txn, told) in [
            (
                Txn { generation: Some(0), puts: puts.clone(), ..Txn::default() },
                "intent is at generation 1, not 0: read again, and retry",
            ),
            (
                Txn { revisions: vec![(key("red"), None)], puts: puts.clone(), ..Txn::default() },
                "tenant red is at revision 1, not absent: read it again, and retry",
            ),
            (
                Txn { revisions: vec![(key("blue"), Some(3))], puts: puts.clone(), ..Txn::default() },
                "tenant blue is absent, not at revision 3: read it again, and retry",
            ),
            (
                Txn { puts, deletes: vec![key("blue")], ..Txn::default() },
                "tenant blue comes up twice in one transaction: name it once",
            ),
        ] {
            assert_eq!(store.commit(txn).unwrap_err().to_string(), told);
            assert_eq!(store.snapshot(), before);
        }
    }

    #[test]
    fn a_watcher_sees_every_generation_in_order_from_where_it_asks() {
        let store = MemoryStore::new("s");
        for name in ["a", "b", "c"] {
            put(&store, name);
        }
        let mut watch = store.watch(1);
        for generation in [2, 3] {
            let Some(WatchEvent::Change(change)) = watch.try_next() else { panic!("a change is there") };
            assert_eq!(change.generation, generation);
        }
        assert_eq!(watch.try_next(), None);
        store.commit(Txn { deletes: vec![key("a")], ..Txn::default() }).unwrap();
        let Some(WatchEvent::Change(change)) = watch.try_next() else { panic!("a change is there") };
        assert_eq!(change.deletes, [key("a")]);
    }

    #[test]
    fn a_watcher_that_fell_behind_or_comes_from_another_store_lists_again() {
        let store = MemoryStore::new("s");
        let mut behind = store.watch(0);
        let mut ahead = store.watch(9_999_999);
        for index in 0..=CHANGES_KEPT_MAX {
            put(&store, &format!("t{index}"));
        }
        for watch in [&mut behind, &mut ahead] {
            assert_eq!(watch.try_next(), Some(WatchEvent::Relist(store.snapshot())));
            assert_eq!(watch.try_next(), None);
        }
    }

    #[tokio::test]
    async fn a_watcher_sleeps_until_something_changes_and_ends_with_the_store() {
        let store = Arc::new(MemoryStore::new("s"));
        let mut watch = store.watch(0);
        let writer = tokio::spawn({
            let store = store.clone();
            async move { put(&store, "red") }
        });
        let Some(WatchEvent::Change(change)) = watch.next().await else { panic!("a change is there") };
        assert_eq!(change.generation, writer.await.unwrap());
    }
}
