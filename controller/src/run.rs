//! The controller as a process: store -> compile -> hub -> sessions, and the API beside it.
//!
//! Crash-only: everything that must survive is in the store before anybody is told, so kill -9 at any time is a way to
//! stop like any other. Everything else is found again: intent from the store, positions from the agents' hellos.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::compile::compile;
use crate::push::service::{self, Security, Sessions};
use crate::push::{Hub, Wanted};
use crate::rest::{self, ApiState, LiveFabric, ServeError, TlsApi, TlsConfig, UnixApi};
use crate::store::{RedbStore, Store, StoreError, store_id_from};

/// What is still open this long after the end was asked for is cut off.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
const WORKER_THREADS: usize = 2;

/// Where things are and who may come.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store's file; made when it is missing.
    pub store: PathBuf,
    /// The API's Unix socket, for its owner only; a left-over one is replaced.
    pub api_socket: PathBuf,
    /// The API on TCP as well.
    pub api_tcp: Option<ApiTcp>,
    /// Where agents connect.
    pub push_listen: SocketAddr,
    /// How agents prove who they are.
    pub push_security: PushSecurity,
    /// What this build calls itself.
    pub build: String,
}

/// The API on TCP: with TLS and a bearer token, or not at all.
#[derive(Debug, Clone)]
pub struct ApiTcp {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The controller's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The file with the token.
    pub token_file: PathBuf,
}

/// How agents prove who they are.
#[derive(Debug, Clone)]
pub enum PushSecurity {
    /// By a certificate of the fabric's authority.
    Tls {
        /// The controller's certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// The authority's certificate.
        ca: PathBuf,
    },
    /// They do not. Refused unless the listening address is a loopback one.
    Insecure,
}

/// Why the controller does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The API cannot be served.
    #[error(transparent)]
    Api(#[from] ServeError),
    /// The agents' address cannot be had.
    #[error("cannot listen for agents at {at}: {source}: free it, or choose another")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Plain text in the open.
    #[error(
        "agents without certificates are accepted on a loopback address only, not on {0}: use `weft pki init` and TLS"
    )]
    Insecure(SocketAddr),
    /// A file cannot be used.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the fabric's authority is not there.
    #[error("{path}: {source}: make it with `weft pki init`, or name its directory with --pki")]
    Pki {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error("the certificates for agents cannot be used: {0}: make new ones with `weft pki init`")]
    Tls(tonic::transport::Error),
    /// The process cannot start its threads or handle signals.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
pub fn run(config: Config) -> Result<(), RunError> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(WORKER_THREADS).enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Controller::open(config).await?.serve(stop).await
    });
    runtime.shutdown_timeout(STOP_TIMEOUT);
    result
}

/// A controller with its store open and its addresses bound.
pub struct Controller {
    store: Arc<dyn Store>,
    sessions: Arc<Sessions>,
    push: TcpListener,
    security: Security,
    api_unix: UnixApi,
    api_tcp: Option<TlsApi>,
    seed: u64,
}

impl Controller {
    /// Opens the store and binds everything, so that what can be wrong with a configuration is wrong at the start.
    pub async fn open(config: Config) -> Result<Self, RunError> {
        if matches!(config.push_security, PushSecurity::Insecure) && !config.push_listen.ip().is_loopback() {
            return Err(RunError::Insecure(config.push_listen));
        }
        // Another part of the process may have chosen already; both know ring only.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let security = read_security(&config.push_security)?;
        make_parent(&config.store)?;
        make_parent(&config.api_socket)?;
        let (id, instance) = (store_id_from(random()?), store_id_from(random()?));
        let store: Arc<dyn Store> = Arc::new(RedbStore::open(&config.store, || id)?);
        let listen = |source| RunError::Listen { at: config.push_listen, source };
        let push = TcpListener::bind(config.push_listen).await.map_err(listen)?;
        let api_unix = UnixApi::bind(&config.api_socket).await?;
        let api_tcp = match &config.api_tcp {
            Some(tcp) => Some(TlsApi::bind(&read_api_tcp(tcp)?).await?),
            None => None,
        };
        let sessions = Sessions::new(Hub::new(store.store_id().to_owned(), instance, config.build));
        let seed = random()? as u64;
        Ok(Self { store, sessions, push, security, api_unix, api_tcp, seed })
    }

    /// Where agents connect: of use where the port was left to the system.
    pub fn push_addr(&self) -> std::io::Result<SocketAddr> {
        self.push.local_addr()
    }

    /// Where intent lives.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// All sessions.
    pub fn sessions(&self) -> Arc<Sessions> {
        self.sessions.clone()
    }

    /// Serves until `stop` resolves. Nobody is let in before the first compile: a host is refused only when it is
    /// really not declared.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        let (store, sessions) = (self.store.clone(), self.sessions.clone());
        let mut watch = store.watch(0);
        bring(&store, &sessions).await;
        let (stopping, stopped) = watch::channel(false);
        let mut servers = self.spawn_servers(&stopped);
        tracing::info!(store = store.store_id(), "controller is up");
        let follow = async {
            while watch.next().await.is_some() {
                while watch.try_next().is_some() {}
                bring(&store, &sessions).await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = sessions.keep_time() => {}
            () = stop => {}
            Some(ended) = servers.join_next() => return flatten(ended),
        }
        tracing::info!("controller stops: hosts keep their programs");
        stopping.send_replace(true);
        sessions.close_all();
        let rest = async {
            while let Some(ended) = servers.join_next().await {
                flatten(ended)?;
            }
            Ok(())
        };
        // What does not end in time is cut off: nothing that matters is in memory only.
        tokio::time::timeout(STOP_TIMEOUT, rest).await.unwrap_or(Ok(()))
    }

    fn spawn_servers(self, stopped: &watch::Receiver<bool>) -> JoinSet<Result<(), RunError>> {
        let fabric = Arc::new(LiveFabric::new(self.sessions.clone(), self.store.clone()));
        let router = rest::router(ApiState::new(self.store, fabric, split_mix(self.seed)));
        let mut servers = JoinSet::new();
        let agents = service::serve(self.sessions, self.push, self.security, until(stopped.clone()));
        servers.spawn(async { agents.await.map_err(RunError::Tls) });
        let unix = self.api_unix.serve(router.clone(), until(stopped.clone()));
        servers.spawn(async { unix.await.map_err(RunError::Start) });
        if let Some(tcp) = self.api_tcp {
            let tcp = tcp.serve(router, until(stopped.clone()));
            servers.spawn(async { tcp.await.map_err(RunError::Start) });
        }
        servers
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn flatten(ended: Result<Result<(), RunError>, tokio::task::JoinError>) -> Result<(), RunError> {
    ended.unwrap_or_else(|failed| Err(RunError::Start(std::io::Error::other(failed))))
}

/// Compiles the newest intent and hands it to the hub, unless it has it.
async fn bring(store: &Arc<dyn Store>, sessions: &Arc<Sessions>) {
    let snapshot = store.snapshot();
    let generation = snapshot.generation;
    if generation != 0 && sessions.read(Hub::generation) == generation {
        return;
    }
    match tokio::task::spawn_blocking(move || Wanted::all(compile(&snapshot))).await {
        Ok(wanted) => sessions.intent(generation, wanted),
        Err(failed) => tracing::error!(generation, %failed, "this intent cannot be compiled: hosts keep the last one"),
    }
}

fn read_security(security: &PushSecurity) -> Result<Security, RunError> {
    match security {
        PushSecurity::Insecure => Ok(Security::Insecure),
        PushSecurity::Tls { certificate, key, ca } => {
            Ok(Security::Tls { certificate: read(certificate)?, key: read(key)?, ca: read(ca)? })
        }
    }
}

fn read_api_tcp(tcp: &ApiTcp) -> Result<TlsConfig, RunError> {
    let token = read(&tcp.token_file)?.trim().to_owned();
    Ok(TlsConfig { listen: tcp.listen, certificate: read(&tcp.certificate)?, key: read(&tcp.key)?, token })
}

fn read(path: &Path) -> Result<String, RunError> {
    std::fs::read_to_string(path).map_err(|source| RunError::Pki { path: path.to_owned(), source })
}

fn make_parent(path: &Path) -> Result<(), RunError> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    std::fs::create_dir_all(parent).map_err(|source| RunError::File { path: parent.to_owned(), source })
}

fn random() -> std::io::Result<u128> {
    let mut random = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(u128::from_le_bytes(random))
}

/// Numbers for allocation, which must be spread but need not be secret (Steele et al., "Fast splittable pseudorandom
/// number generators", 2014).
fn split_mix(mut state: u64) -> impl FnMut() -> u64 + Send {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
