//! The shell around the hub: gRPC streams, the clock, and everybody who asks.
//!
//! One lock around the hub, held for one input at a time and never over an await. An agent that does not read its
//! stream fills a bounded queue and loses its session; it gets everything again when it comes back.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use weft_api::object::Name;
use weft_api::wire::MESSAGE_LEN_MAX;
use weft_api::wire::proto::fabric_server::{Fabric, FabricServer};
use weft_api::wire::proto::{AgentMessage, ControllerMessage, QueryKind};

use super::{Hub, Input, Output, QUERIES_MAX, QueryFailure, SessionId, Wanted};
use crate::pki;

/// Messages that wait for one agent: its hello, an update, all its queries, and generations to open.
const SESSION_QUEUE_MAX: usize = QUERIES_MAX + 64;
/// Silent partitions are noticed within twice this time.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Streams of one connection: an agent needs one.
const STREAMS_MAX: u32 = 4;
/// A closed session has this long to read why.
const LINGER: Duration = Duration::from_millis(250);
/// The metadata entry that names a host where there are no certificates.
pub const HOST_METADATA: &str = "weft-host";

/// How hosts prove who they are.
#[derive(Clone)]
pub enum Security {
    /// Mutual TLS: the host is its certificate's URI. PEM each.
    Tls {
        /// The controller's certificate.
        certificate: String,
        /// Its key.
        key: String,
        /// The authority that hosts' certificates must come from.
        ca: String,
    },
    /// Plain text; a host is whoever it says. On loopback only, for laboratories.
    Insecure,
}

/// All sessions of a controller.
pub struct Sessions {
    inner: Mutex<Inner>,
    ids: AtomicU64,
    wake: Notify,
    progress: watch::Sender<u64>,
}

struct Inner {
    hub: Hub,
    pipes: HashMap<SessionId, Pipe>,
    asked: HashMap<u64, oneshot::Sender<Result<Vec<u8>, QueryFailure>>>,
}

struct Pipe {
    down: mpsc::Sender<Result<ControllerMessage, Status>>,
    end: Arc<Notify>,
}

impl Sessions {
    /// Nobody is connected yet.
    pub fn new(hub: Hub) -> Arc<Self> {
        let inner = Mutex::new(Inner { hub, pipes: HashMap::new(), asked: HashMap::new() });
        Arc::new(Self { inner, ids: AtomicU64::new(1), wake: Notify::new(), progress: watch::Sender::new(0) })
    }

    /// Brings all hosts to a new generation.
    pub fn intent(&self, generation: u64, wanted: BTreeMap<Name, Arc<Wanted>>) {
        self.drive(Input::Intent { generation, wanted });
    }

    /// Asks a host and waits for its answer, which always comes or fails.
    pub async fn query(&self, host: &str, kind: QueryKind) -> Result<Vec<u8>, QueryFailure> {
        let query = self.next_id();
        let (answer, answered) = oneshot::channel();
        self.lock().asked.insert(query, answer);
        self.drive(Input::Query { query, host: host.to_owned(), kind });
        answered.await.unwrap_or_else(|_| Err(QueryFailure::NoHost(host.to_owned())))
    }

    /// Looks at the hub.
    pub fn read<T>(&self, look: impl FnOnce(&Hub) -> T) -> T {
        look(&self.lock().hub)
    }

    /// Changes whenever the hub may have.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Ends all sessions: agents come back to whoever listens next.
    pub fn close_all(&self) {
        for (_, pipe) in self.lock().pipes.drain() {
            pipe.end.notify_one();
        }
    }

    /// Gives the hub its time. Runs until it is cancelled.
    pub async fn keep_time(&self) {
        loop {
            let due = self.read(Hub::deadline);
            let woken = self.wake.notified();
            match due {
                Some(due) => drop(tokio::time::timeout_at(due.into(), woken).await),
                None => woken.await,
            }
            if self.read(Hub::deadline).is_some_and(|due| due <= Instant::now()) {
                self.drive(Input::Tick);
            }
        }
    }

    fn drive(&self, input: Input) {
        let mut inputs = vec![input];
        let mut inner = self.lock();
        while let Some(input) = inputs.pop() {
            let outputs = inner.hub.handle(Instant::now(), input);
            inputs.extend(outputs.into_iter().filter_map(|output| inner.dispatch(output)));
        }
        drop(inner);
        self.progress.send_modify(|count| *count += 1);
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Follows one agent until its stream ends.
    async fn follow(self: Arc<Self>, session: SessionId, mut up: Streaming<AgentMessage>, end: Arc<Notify>) {
        loop {
            let message = tokio::select! {
                message = up.message() => message,
                () = end.notified() => break,
            };
            match message {
                Ok(Some(message)) => self.drive(Input::Message { session, message }),
                Ok(None) => break,
                Err(status) => {
                    tracing::debug!(session = session.0, %status, "session broke");
                    break;
                }
            }
        }
        self.lock().pipes.remove(&session);
        self.drive(Input::Closed { session });
        let rest = async { while up.message().await.is_ok_and(|message| message.is_some()) {} };
        let _ = tokio::time::timeout(LINGER, rest).await;
    }
}

impl Inner {
    /// Does one thing; returns what happens by it.
    fn dispatch(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Send { session, message } => {
                let pipe = self.pipes.get(&session)?;
                if pipe.down.try_send(Ok(message)).is_ok() {
                    return None;
                }
                tracing::warn!(session = session.0, "an agent does not read its stream: its session ends");
                self.end(session);
                Some(Input::Closed { session })
            }
            Output::Close { session } => {
                self.end(session);
                None
            }
            Output::Answer { query, result } => {
                if let Some(asked) = self.asked.remove(&query) {
                    // Whoever asked may have gone.
                    let _ = asked.send(result);
                }
                None
            }
        }
    }

    fn end(&mut self, session: SessionId) {
        if let Some(pipe) = self.pipes.remove(&session) {
            pipe.end.notify_one();
        }
    }
}

struct Service {
    sessions: Arc<Sessions>,
    secure: bool,
}

#[tonic::async_trait]
impl Fabric for Service {
    type SessionStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<ControllerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let host = if self.secure { certified_host(&request) } else { claimed_host(&request) };
        let host = host.inspect_err(|status| tracing::warn!(why = status.message(), "session refused"))?;
        let (down, rest) = mpsc::channel(SESSION_QUEUE_MAX);
        let end = Arc::new(Notify::new());
        let session = SessionId(self.sessions.next_id());
        tracing::info!(%host, session = session.0, "agent connected");
        self.sessions.lock().pipes.insert(session, Pipe { down, end: end.clone() });
        self.sessions.drive(Input::Connected { session, host });
        tokio::spawn(self.sessions.clone().follow(session, request.into_inner(), end));
        Ok(Response::new(Box::pin(ReceiverStream::new(rest))))
    }
}

fn certified_host<T>(request: &Request<T>) -> Result<String, Status> {
    let certificates = request.peer_certs().unwrap_or_default();
    let own = certificates.first().ok_or_else(|| Status::unauthenticated("no certificate came"))?;
    let host = pki::host_of(own).map_err(|why| {
        Status::unauthenticated(format!("the certificate names no host: {why}; make one with `weft host enroll`"))
    })?;
    Ok(host.as_str().to_owned())
}

fn claimed_host<T>(request: &Request<T>) -> Result<String, Status> {
    let claimed = request.metadata().get(HOST_METADATA).and_then(|value| value.to_str().ok());
    claimed.map(str::to_owned).ok_or_else(|| Status::unauthenticated(format!("no metadata {HOST_METADATA} came")))
}

/// Serves agents until `stop` resolves.
pub async fn serve(
    sessions: Arc<Sessions>,
    listener: TcpListener,
    security: Security,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(Some(STREAMS_MAX));
    let secure = matches!(security, Security::Tls { .. });
    if let Security::Tls { certificate, key, ca } = security {
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(ca));
        server = server.tls_config(tls)?;
    }
    let service = FabricServer::new(Service { sessions, secure })
        .max_decoding_message_size(MESSAGE_LEN_MAX)
        .max_encoding_message_size(MESSAGE_LEN_MAX);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    server.add_service(service).serve_with_incoming_shutdown(incoming, stop).await
}
