//! What the API asks of the hosts' side of the controller.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use weft_api::report::{ApplyStatus, FabricReport, QueryKind};
use weft_api::wire::proto;

use crate::push::QueryFailure;
use crate::push::service::Sessions;
use crate::status;
use crate::store::Store;

/// How hosts stand, and questions to them.
#[async_trait]
pub trait Fabric: Send + Sync {
    /// How the controller and all hosts stand.
    fn report(&self) -> FabricReport;

    /// How far a generation got; waits up to this long for the hosts that have not acknowledged it.
    async fn applied(&self, generation: u64, wait: Duration) -> ApplyStatus;

    /// Asks a host; the answer is the JSON of the reports that the question's kind names.
    async fn query(&self, host: &str, kind: QueryKind) -> Result<Vec<u8>, QueryFailure>;
}

/// The running controller's sessions.
pub struct LiveFabric {
    sessions: Arc<Sessions>,
    store: Arc<dyn Store>,
}

impl LiveFabric {
    /// Over these sessions and this store.
    pub fn new(sessions: Arc<Sessions>, store: Arc<dyn Store>) -> Self {
        Self { sessions, store }
    }

    /// A generation that the hub does not know yet is committed and on its way to the compiler: not complete.
    fn look(&self, generation: u64) -> ApplyStatus {
        let mut status = self.sessions.read(|hub| status::apply(hub, generation, Instant::now()));
        status.complete &= self.sessions.read(|hub| hub.generation() >= generation);
        status
    }
}

#[async_trait]
impl Fabric for LiveFabric {
    fn report(&self) -> FabricReport {
        let snapshot = self.store.snapshot();
        self.sessions.read(|hub| status::fabric(hub, &snapshot, Instant::now()))
    }

    async fn applied(&self, generation: u64, wait: Duration) -> ApplyStatus {
        let mut progress = self.sessions.progress();
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            progress.mark_unchanged();
            let status = self.look(generation);
            if status.complete {
                return status;
            }
            match tokio::time::timeout_at(deadline, progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return self.look(generation),
            }
        }
    }

    async fn query(&self, host: &str, kind: QueryKind) -> Result<Vec<u8>, QueryFailure> {
        let kind = match kind {
            QueryKind::Flows => proto::QueryKind::Flows,
            QueryKind::Ports => proto::QueryKind::Ports,
            QueryKind::Fdb => proto::QueryKind::Fdb,
            QueryKind::Drops => proto::QueryKind::Drops,
            QueryKind::Ledger => proto::QueryKind::Ledger,
        };
        self.sessions.query(host, kind).await
    }
}
