//! The shell around the deciding half: a clock, a source of randomness, the carrier, the hands and signals.
//!
//! Ending the agent leaves the vswitch alone: it goes on by the program it has, and a successor finds it.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use weft_api::wire::proto::AgentMessage;
use weft_sys::process::{self, Capability};

use crate::cache;
use crate::config::{Config, ConfigError};
use crate::core::{Core, Event, Identity, Output, WORK_MAX};
use crate::hands::Hands;
use crate::keep::Keeper;
use crate::transport::Carrier;
use crate::work::{Cached, Work};

/// Messages that may wait for a slow controller; acks, status and reports are few and bounded each.
const OUTGOING_MAX: usize = 256;

/// Why an agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory cannot be used.
    #[error("{path}: {source}: the agent keeps its state there; make it writable, or choose another with --state-dir")]
    State {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent of this host runs.
    #[error("another agent runs with the state directory {0}: end it first, or choose another with --state-dir")]
    Running(PathBuf),
    /// Something that every system gives was refused.
    #[error("{what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs the agent until SIGTERM or SIGINT.
pub fn run(config: Config) -> Result<(), RunError> {
    config.check_control()?;
    let carrier = Carrier::new(&config)?;
    let _lock = lock_state(&config)?;
    for capability in Capability::ALL.into_iter().filter(|c| !process::holds(*c)) {
        tracing::warn!("{} is missing: ports and underlay will need it; run the agent as root", capability.name());
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("start the runtime"))?;
    runtime.block_on(Shell::start(config, carrier)?.run())
}

/// The loop's own parts.
struct Shell {
    core: Core,
    carrier: Carrier,
    events: mpsc::Receiver<Event>,
    tell: mpsc::Sender<Event>,
    work: SyncSender<Work>,
    session: Option<(u64, mpsc::Sender<AgentMessage>, JoinHandle<()>)>,
}

impl Shell {
    fn start(config: Config, carrier: Carrier) -> Result<Self, RunError> {
        let (instance, seed) = random().map_err(system("read randomness"))?;
        let build = env!("CARGO_PKG_VERSION").to_owned();
        let (tell, events) = mpsc::channel(WORK_MAX);
        let (work, todo) = sync_channel(WORK_MAX);
        let identity = Identity {
            instance: instance.clone(),
            build: build.clone(),
            underlay: config.underlay,
            udp_port: config.udp_port,
        };
        let file = config.program_file();
        let (core, restored) = Core::new(identity, seed, remembered(&file), Instant::now());
        if let Err(why) = restored {
            tracing::error!("{} is of no use, the controller will send the program: {why}", file.display());
        }
        let keeper = Keeper {
            control: config.control.clone(),
            command: config.vswitch.clone(),
            workers: config.workers,
            spin_us: config.spin_us,
            instance,
            build,
            events: tell.clone(),
        };
        let hands = Hands::new(config, keeper, seed);
        let answers = tell.clone();
        std::thread::Builder::new()
            .name("hands".into())
            .spawn(move || use_hands(hands, &todo, &answers))
            .map_err(system("start a thread"))?;
        Ok(Self { core, carrier, events, tell, work, session: None })
    }

    async fn run(mut self) -> Result<(), RunError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(system("wait for SIGTERM"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("wait for SIGINT"))?;
        let mut event = Event::Tick;
        loop {
            for output in self.core.handle(Instant::now(), event) {
                self.put_out(output);
            }
            let wake = self.core.next_wake();
            event = tokio::select! {
                event = self.events.recv() => event.unwrap_or(Event::Tick),
                () = sleep_until(wake) => Event::Tick,
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            };
        }
    }

    fn put_out(&mut self, output: Output) {
        match output {
            Output::Connect(number) => {
                let (say, outgoing) = mpsc::channel(OUTGOING_MAX);
                let carry = self.carrier.clone().carry(number, outgoing, self.tell.clone());
                self.session = Some((number, say, tokio::spawn(carry)));
            }
            Output::Disconnect(number) => self.disconnect(number),
            Output::Send(number, message) => {
                let Some((current, say, _)) = &self.session else { return };
                if *current == number && say.try_send(*message).is_err() {
                    tracing::warn!("the controller does not take our messages: the session is ended");
                    self.disconnect(number);
                    let tell = self.tell.clone();
                    let event = Event::Disconnected(number, "it took no messages".into());
                    tokio::spawn(async move { tell.send(event).await });
                }
            }
            Output::Do(work) => {
                // The deciding half never has more under way than the channel holds.
                if self.work.try_send(*work).is_err() {
                    tracing::error!("the hands do not take work any more");
                }
            }
        }
    }

    fn disconnect(&mut self, number: u64) {
        if let Some((_, say, carrying)) = self.session.take_if(|(current, ..)| *current == number) {
            drop(say);
            carrying.abort();
        }
    }
}

fn use_hands(mut hands: Hands, todo: &Receiver<Work>, answers: &mpsc::Sender<Event>) {
    while let Ok(work) = todo.recv() {
        if answers.blocking_send(Event::Done(Box::new(hands.work(work)))).is_err() {
            return;
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Makes the state directory and holds it for this process alone.
fn lock_state(config: &Config) -> Result<std::fs::File, RunError> {
    let path = config.state_dir.clone();
    let state = |source| RunError::State { path: path.clone(), source };
    std::fs::create_dir_all(&path).map_err(state)?;
    if let Some(parent) = config.control.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|source| RunError::State { path: parent.to_owned(), source })?;
    }
    let lock = std::fs::File::create(path.join("agent.lock")).map_err(state)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(RunError::Running(path)),
        Err(std::fs::TryLockError::Error(source)) => Err(state(source)),
    }
}

fn remembered(file: &std::path::Path) -> Option<Cached> {
    cache::load(file).unwrap_or_else(|error| {
        tracing::error!("{}: {error}: the controller will send the program", file.display());
        None
    })
}

/// An instance id, and a number that differs from start to start.
fn random() -> io::Result<(String, u64)> {
    let instance = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().to_owned();
    let seed = instance.bytes().fold(0, |sum: u64, byte| sum.rotate_left(5) ^ u64::from(byte));
    Ok((instance, seed))
}

fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}
