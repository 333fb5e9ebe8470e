//! The process `weft vswitch`: a control socket, worker threads, and nothing else.
//!
//! It gives up every capability before it reads its first byte: whatever it needs was opened by the agent and came in
//! over the socket. It outlives its agents; only SIGTERM, SIGKILL or a `Shutdown` request end it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use weft_program::connection::{Connection, ConnectionError};
use weft_program::message::{RefuseReason, Request, Response};
use weft_sys::epoll::{Epoll, Interest, Waker};
use weft_sys::process;

use crate::control::{Answer, Control};
use crate::worker::threads::Threads;

/// How to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the control socket is made (mode 0600).
    pub control: PathBuf,
    /// Worker threads; 0 lets the vswitch choose: one less than the machine has CPUs, at least one.
    pub workers: usize,
    /// How long an idle worker looks for frames before it sleeps; `None` for 50 us where there is a CPU besides the
    /// workers', else not at all.
    pub spin: Option<Duration>,
}

/// Why the vswitch did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Somebody listens there.
    #[error("another vswitch listens at {0}: end it first, or choose another path with --control")]
    InUse(PathBuf),
    /// No socket can be made there.
    #[error("no control socket at {path}: {source}; its directory must exist and be writable")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something that every kernel gives was refused.
    #[error("{what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Runs the vswitch until it is asked to end.
pub fn run(config: Config) -> Result<(), RunError> {
    let listener = bind(&config.control)?;
    let signals = process::termination().map_err(system("take signals"))?;
    process::drop_capabilities().map_err(system("give up all capabilities"))?;
    let workers = if config.workers > 0 { config.workers } else { process::cpus().saturating_sub(1).max(1) };
    let start = Instant::now();
    let (threads, publisher, learned) =
        Threads::start(workers, config.spin, start).map_err(system("start the workers"))?;
    let control = Control::new(threads, publisher, learned, instance());
    tracing::info!(workers, control = %config.control.display(), "the vswitch is up");
    let result = serve(&listener, &signals, control);
    // The socket goes first: a successor may bind while our workers finish.
    let _ = std::fs::remove_file(&config.control);
    result
}

/// State that the main thread and the connections' threads share.
struct Shared {
    control: Mutex<Control<Threads>>,
    connections: AtomicUsize,
    /// Whoever asked for the end has its answer.
    ended: AtomicBool,
    ending: Waker,
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control<Threads>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bind(path: &Path) -> Result<UnixListener, RunError> {
    let refused = |source| RunError::Socket { path: path.to_owned(), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(RunError::InUse(path.to_owned()));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        _ => {}
    }
    listen(path).map_err(|errno| refused(errno.into()))
}

/// The socket's mode is set before it has a name, so nobody else can connect even for a moment; a umask would do that
/// too, but to every thread's files.
fn listen(path: &Path) -> rustix::io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, CONNECTIONS_MAX as i32)?;
    Ok(UnixListener::from(socket))
}

/// Accepts connections, and ticks once per second.
fn serve(listener: &UnixListener, signals: &OwnedFd, control: Control<Threads>) -> Result<(), RunError> {
    let ending = Waker::new().map_err(system("make an eventfd"))?;
    let shared = Arc::new(Shared {
        control: Mutex::new(control),
        connections: AtomicUsize::new(0),
        ended: AtomicBool::new(false),
        ending,
    });
    let mut epoll = Epoll::new().map_err(system("make an epoll instance"))?;
    epoll.add(listener, 0, Interest::Read).map_err(system("wait for the control socket"))?;
    epoll.add(&shared.ending, 1, Interest::Read).map_err(system("wait for an eventfd"))?;
    epoll.add(signals, SIGNAL, Interest::Read).map_err(system("wait for signals"))?;
    loop {
        let events = epoll.wait(Some(TICK)).map_err(system("wait"))?;
        let signalled = events.iter().any(|event| event.token == SIGNAL);
        let mut control = shared.control();
        if signalled || shared.ended.load(Ordering::Acquire) {
            control.fleet.stop();
            return Ok(());
        }
        control.tick(Instant::now());
        drop(control);
        while let Ok((stream, _)) = listener.accept() {
            let shared = shared.clone();
            let connection = Connection::new(stream, MESSAGE_MAX);
            if shared.connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                shared.connections.fetch_sub(1, Ordering::Relaxed);
                refuse(connection);
                continue;
            }
            let serve = move || {
                serve_connection(connection, &shared);
                shared.connections.fetch_sub(1, Ordering::Relaxed);
            };
            if let Err(error) = std::thread::Builder::new().name("control".to_owned()).spawn(serve) {
                tracing::warn!(%error, "no thread for a control connection");
            }
        }
    }
}

/// One connection, from its hello to its end.
fn serve_connection(mut connection: Connection, shared: &Shared) {
    let mut greeted = false;
    loop {
        let mut ends = false;
        let answers = match connection.receive::<Request>(None) {
            Ok((request, fds)) if greeted || matches!(request, Request::Hello(_)) => {
                let mut control = shared.control();
                let answers = control.handle(Instant::now(), request, fds);
                ends = control.is_ending();
                greeted |= answers.iter().any(|answer| matches!(answer.response, Response::Hello(_)));
                answers
            }
            Ok(_) => refusal("the first request must be a hello"),
            Err(ConnectionError::Codec(error)) => refusal(&error.to_string()),
            Err(ConnectionError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "a control connection ended");
                return;
            }
        };
        let answered = answer(&mut connection, answers);
        if ends {
            shared.ended.store(true, Ordering::Release);
            shared.ending.wake();
        }
        if ends || !answered {
            return;
        }
    }
}

/// Whether all answers went out.
fn answer(connection: &mut Connection, answers: Vec<Answer>) -> bool {
    for answer in answers {
        let fds: Vec<_> = answer.fds.iter().map(std::os::fd::AsFd::as_fd).collect();
        let sent = match connection.send(&answer.response, &fds) {
            // Nothing of it went out yet, so a refusal still fits.
            Err(ConnectionError::Codec(error)) => {
                connection.send(&Response::Refused(vec![RefuseReason::Unusable(error.to_string())]), &[])
            }
            sent => sent,
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer did not reach its control connection");
            return false;
        }
    }
    true
}

fn refuse(mut connection: Connection) {
    let why = format!("{CONNECTIONS_MAX} control connections are open, which is the bound: close one");
    answer(&mut connection, refusal(&why));
}

fn refusal(why: &str) -> Vec<Answer> {
    vec![Answer { response: Response::Refused(vec![RefuseReason::Unusable(why.to_owned())]), fds: Vec::new() }]
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// New at every start: the process id and the second it began.
fn instance() -> String {
    let since = weft_sys::clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since.as_micros(), std::process::id())
}

/// The token of a signal.
const SIGNAL: u64 = 2;
/// Control connections at a time: one agent and a few people.
const CONNECTIONS_MAX: usize = 8;
/// How long one message may take to cross.
const MESSAGE_MAX: Duration = Duration::from_secs(10);
/// The longest sleep of the main thread.
const TICK: Duration = Duration::from_secs(1);
