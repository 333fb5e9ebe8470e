//! The process that a lab hangs on: init of its own pid and mount namespace, owner of every network namespace.
//!
//! When it ends, however it ends, the kernel removes processes, namespaces, links and files of the lab. New pid and
//! user namespaces hold for the next child only, so the binary starts itself twice: `outer` makes the namespaces,
//! `init` lives in them. Standard input is the stream to whoever builds the lab, standard output the listening socket.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use weft_sys::unshare::{self, Namespaces};

use super::build::{CONTROLLER_ADDR, NETNS_DIR, Places};
use super::process::{self, Processes, RUN_DIR, Spec};
use super::topology::{HostKind, Topology};
use super::wire::{Info, Lines, LogTail, Reply, Request, Setup};
use super::{guest, probe};
use crate::args::HostProcess;

/// Where the controller's API listens, inside of the lab.
pub const API_SOCKET: &str = "/run/weft/api.sock";
/// Where agents connect.
const SOUTH_PORT: u16 = 6640;
const PKI_DIR: &str = "/run/weft/pki";
const START_TIMEOUT: Duration = Duration::from_secs(20);
const START_POLL: Duration = Duration::from_millis(5);
/// Lines of each log that go along with an error.
const LOG_LINES: usize = 12;
/// Clients that are served at once.
const CLIENTS_MAX: usize = 32;

/// A lab in the making and standing.
struct Keeper {
    setup: Setup,
    /// Shared with the thread that watches the guests.
    places: Arc<Places>,
    processes: &'static Processes,
    ready: AtomicBool,
    held: AtomicBool,
}

/// First step: makes the namespaces and starts the second step in them.
pub fn outer() -> Result<()> {
    rustix::process::setsid().context("cannot leave the terminal's session")?;
    let user = !rustix::process::geteuid().is_root();
    unshare::unshare(Namespaces { user, mount: true, pid: true, net: false })?;
    let [stdin, stdout] = inherited()?;
    Command::new(super::program())
        .args(["lab", "keeper", "init"])
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .spawn()
        .context("cannot start the lab's keeper")?;
    Ok(())
}

/// Second step: builds the lab and serves it until told to end.
pub fn init() -> Result<()> {
    let [stream, listener] = inherited()?;
    let mut builder = Lines::new(UnixStream::from(stream))?;
    let listener = UnixListener::from(listener);
    // Again, so that who connects learns this process's id, not that of the one that claimed the name.
    rustix::net::listen(&listener, 128).context("cannot listen on the lab's control socket")?;
    detach_output()?;
    let processes: &'static Processes = Box::leak(Box::default());
    thread::Builder::new().name("reap".into()).spawn(|| processes.reap())?;
    let keeper: Arc<OnceLock<Keeper>> = Arc::default();
    let served = keeper.clone();
    thread::Builder::new().name("accept".into()).spawn(move || accept(&listener, &served))?;

    let mut detached = false;
    while let Some(request) = builder.receive::<Request>(&mut |_| {})? {
        let reply = match (request, keeper.get()) {
            (Request::Setup(setup), None) => match Keeper::build(*setup, processes) {
                Ok(built) => {
                    let _ = keeper.set(built);
                    Reply::Done
                }
                Err(error) => failed(&error),
            },
            (Request::Setup(_), Some(_)) => failed(&anyhow::anyhow!("the lab is set up already")),
            (_, None) => failed(&anyhow::anyhow!("the lab is not set up yet")),
            (Request::Detach, Some(keeper)) => {
                detached = true;
                keeper.held.store(false, Ordering::Release);
                Reply::Done
            }
            (request, Some(keeper)) => keeper.answer(request),
        };
        builder.send(&reply)?;
    }
    if !detached {
        // Whoever built the lab is gone before it was handed over: an interrupted `run` or `up`.
        std::process::exit(0);
    }
    log_errors_to_file()?;
    loop {
        thread::park();
    }
}

fn accept(listener: &UnixListener, keeper: &Arc<OnceLock<Keeper>>) {
    let clients = Arc::new(());
    for stream in listener.incoming() {
        let (Ok(stream), true) = (stream, Arc::strong_count(&clients) <= CLIENTS_MAX) else { continue };
        let (keeper, client) = (keeper.clone(), clients.clone());
        let serve = move || {
            // A client that breaks off is its own affair.
            drop(serve(stream, &keeper));
            drop(client);
        };
        drop(thread::Builder::new().name("client".into()).spawn(serve));
    }
}

fn serve(stream: UnixStream, keeper: &OnceLock<Keeper>) -> Result<()> {
    let peer = weft_sys::process::peer(&stream)?;
    let mut lines = Lines::new(stream)?;
    if peer.uid != rustix::process::getuid().as_raw() {
        return Ok(lines.send(&failed(&anyhow::anyhow!("this lab belongs to another user")))?);
    }
    while let Some(request) = lines.receive::<Request>(&mut |_| {})? {
        let reply = match (request, keeper.get()) {
            (Request::Down, _) => {
                lines.send(&Reply::Done)?;
                std::process::exit(0);
            }
            (Request::Logs { place, lines }, None) => Reply::Logs(process::logs(place.as_deref(), lines)),
            (_, None) => failed(&anyhow::anyhow!("the lab is still being built: try again in a moment")),
            (request, Some(keeper)) => keeper.answer(request),
        };
        lines.send(&reply)?;
    }
    Ok(())
}

impl Keeper {
    fn build(setup: Setup, processes: &'static Processes) -> Result<Self> {
        own_files()?;
        let places = Arc::new(Places::build(&setup.topology)?);
        let keeper = Self { setup, places, processes, ready: AtomicBool::new(false), held: AtomicBool::new(true) };
        keeper.watch_guests()?;
        keeper.start_controller()?;
        Ok(keeper)
    }

    fn answer(&self, request: Request) -> Reply {
        let result = match request {
            Request::Info => return Reply::Info(Box::new(self.info())),
            Request::Logs { place, lines } => return Reply::Logs(process::logs(place.as_deref(), lines)),
            Request::Probe(probes) => match probe::run(&self.setup.topology, &self.places, &probes) {
                Ok(sightings) => return Reply::Sightings(sightings),
                Err(error) => Err(error),
            },
            Request::StartAgents => match self.start_agents() {
                Ok(()) => return Reply::Done,
                Err(error) => return failed(&error),
            },
            Request::Restart { place, process, kill } => self.restart(&place, process, kill),
            Request::Down => std::process::exit(0),
            Request::Setup(_) | Request::Detach => Err(anyhow::anyhow!("only who builds the lab may ask that")),
        };
        match result {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed { message: crate::exit::tell(&error), logs: Vec::new() },
        }
    }

    fn info(&self) -> Info {
        Info {
            name: self.setup.name.clone(),
            topology: self.setup.topology.clone(),
            ready: self.ready.load(Ordering::Acquire),
            held: self.held.load(Ordering::Acquire),
            namespaces: self.places.infos(),
            processes: self.processes.infos(),
        }
    }

    fn topology(&self) -> &Topology {
        &self.setup.topology
    }

    fn watch_guests(&self) -> Result<()> {
        let (topology, places) = (self.topology().clone(), self.places.clone());
        let watch = guest::Watch::new(&topology, &places)?;
        let complain = |text: String| eprintln!("{text}");
        let run = move || {
            if let Err(error) = watch.run(&topology, &places, complain) {
                complain(format!("guests are not looked after any more: {error:#}"));
            }
        };
        thread::Builder::new().name("guests".into()).spawn(run)?;
        Ok(())
    }

    fn start_controller(&self) -> Result<()> {
        crate::commands::pki::init_at(Path::new(PKI_DIR), &[CONTROLLER_ADDR.to_string()])?;
        let place = self.places.get("ctl").context("the lab has no `ctl`")?;
        let args = super::daemon::controller_args(Path::new(PKI_DIR), SOUTH_PORT);
        self.processes.start(place, Spec { place: "ctl".into(), role: "controller".into(), args })?;
        self.await_controller()
    }

    /// The socket answers once the controller serves.
    fn await_controller(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while UnixStream::connect(API_SOCKET).is_err() {
            if let Some(how) = self.processes.ended("ctl", "controller") {
                bail!("the controller {how}");
            }
            if Instant::now() > deadline {
                bail!("the controller opened no {API_SOCKET} within {} s", START_TIMEOUT.as_secs());
            }
            thread::sleep(START_POLL);
        }
        Ok(())
    }

    fn start_agents(&self) -> Result<()> {
        let weft_hosts = self.topology().hosts.iter().filter(|h| h.kind == HostKind::Weft);
        for host in weft_hosts {
            let name = &host.name;
            let place = self.places.get(name).with_context(|| format!("host `{name}` has no namespace"))?;
            let dir = Path::new(RUN_DIR).join(name);
            crate::commands::pki::enroll_at(Path::new(PKI_DIR), name, &dir.join("pki"))?;
            let args = super::daemon::agent_args(host, &dir, SOUTH_PORT, &self.setup);
            self.processes.start(place, Spec { place: name.clone(), role: "agent".into(), args })?;
        }
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    fn restart(&self, name: &str, process: Option<HostProcess>, kill: bool) -> Result<()> {
        let name = if name == "controller" { "ctl" } else { name };
        let place = self.places.get(name).with_context(|| format!("no host `{name}` in this lab"))?;
        match (name, process) {
            ("ctl", None) => {
                self.processes.restart(place, "controller", kill)?;
                self.await_controller()
            }
            ("ctl", Some(_)) => bail!("`ctl` runs the controller alone: say `weft lab restart controller`"),
            (_, Some(HostProcess::Agent)) => self.processes.restart(place, "agent", kill),
            (_, Some(HostProcess::Vswitch)) => process::end_vswitch(weft_sys::netns::inode(&place.netns)?, name, kill),
            (_, None) => bail!("which process of `{name}`? `weft lab restart {name} agent` or `{name} vswitch`"),
        }
    }
}

/// A /proc of the lab's processes and an empty /run: whatever the lab writes goes there and ends with it.
fn own_files() -> Result<()> {
    unshare::mounts_private().context("cannot separate the lab's mounts")?;
    unshare::mount_proc(Path::new("/proc")).context(
        "cannot mount the lab's /proc: a container with a masked /proc forbids it; run it with an unmasked one",
    )?;
    unshare::mount_tmpfs(Path::new("/run")).context("cannot mount the lab's /run")?;
    fs::create_dir_all(NETNS_DIR)?;
    Ok(fs::create_dir_all(RUN_DIR)?)
}

/// Standard input and output as descriptors of their own.
fn inherited() -> Result<[OwnedFd; 2]> {
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let stdout = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    Ok([stdin, stdout])
}

/// Keeps nothing of the caller's standard streams; standard error stays the builder's until the lab is handed over.
fn detach_output() -> Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(rustix::stdio::dup2_stdout(&null)?)
}

fn log_errors_to_file() -> Result<()> {
    let path = process::log_path("ctl", "keeper");
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok(rustix::stdio::dup2_stderr(&file)?)
}

/// A failure to build: the logs go with the lab, so their ends are told now.
fn failed(error: &anyhow::Error) -> Reply {
    let logs: Vec<LogTail> = process::logs(None, LOG_LINES).into_iter().filter(|l| !l.text.is_empty()).collect();
    Reply::Failed { message: crate::exit::tell(error), logs }
}
