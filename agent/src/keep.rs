//! Keeping a vswitch: finding the one that runs, starting one where none does, seeing it end.
//!
//! A vswitch outlives its agent: it leads a session of its own, holds no pipe of ours, and is watched by a descriptor of
//! its process, which works for a child and for one that an earlier agent started. Only one that does not answer is killed.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;
use weft_program::client::{Client, ClientError};
use weft_program::connection::{Connection, ConnectionError};
use weft_program::message::{Hello, PROTOCOL};
use weft_sys::process::{self, Signal};

use crate::core::Event;

/// How long an answer may take; applying waits for all workers, and a large program for its evaluation.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a vswitch that just started, or that an earlier agent left, may take to say hello.
const HELLO_MAX: Duration = Duration::from_secs(3);
const CONNECT_EVERY: Duration = Duration::from_millis(5);

/// Where the vswitch is and how it is started.
#[derive(Debug, Clone)]
pub struct Keeper {
    /// Its control socket.
    pub control: PathBuf,
    /// The program and its arguments; empty for this executable's own.
    pub command: Vec<OsString>,
    /// Its workers; 0 lets it choose.
    pub workers: usize,
    /// For how long its idle workers look for frames; `None` lets it choose.
    pub spin_us: Option<u32>,
    /// Who we are.
    pub instance: String,
    /// Our build.
    pub build: String,
    /// Who hears of its end.
    pub events: Sender<Event>,
}

/// A vswitch that was found or started.
#[derive(Debug)]
pub struct Kept {
    /// The session with it.
    pub client: Client,
    /// Its process id.
    pub pid: u32,
    /// Whether it was started just now, and so has nothing.
    pub fresh: bool,
}

impl Keeper {
    /// Finds the vswitch or starts one; its end will be told.
    pub fn keep(&self) -> Result<Kept, String> {
        if let Some(client) = self.find()? {
            return self.watch(client, None);
        }
        let child = self.start()?;
        let (client, child) = self.wait_for(child)?;
        self.watch(client, Some(child))
    }

    /// Talks to a vswitch that runs; `None` when nobody listens.
    fn find(&self) -> Result<Option<Client>, String> {
        let connection = match Connection::connect(&self.control, ANSWER_MAX) {
            Ok(connection) => connection,
            Err(ConnectionError::Io(e))
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(self.unreachable(&e)),
        };
        let owner = process::peer(connection.stream()).ok().and_then(|peer| peer.pid);
        match Client::over(connection, self.hello(), ANSWER_MAX) {
            Ok(client) => Ok(Some(client)),
            Err(ClientError::Connection(ConnectionError::TimedOut(_))) => {
                let pid =
                    owner.ok_or("the vswitch does not answer, and its process is hidden from this one: end it")?;
                tracing::error!(pid, "the vswitch does not answer: it is replaced");
                process::open_pid(pid)
                    .and_then(|pidfd| {
                        process::kill(&pidfd, Signal::KILL)?;
                        process::wait_exit(&pidfd, Some(HELLO_MAX))
                    })
                    .map_err(|e| format!("the vswitch (process {pid}) does not answer and cannot be ended: {e}"))?;
                Ok(None)
            }
            Err(ClientError::Connection(ConnectionError::Closed)) => Ok(None),
            Err(e) => Err(self.unreachable(&e)),
        }
    }

    fn start(&self) -> Result<Child, String> {
        let own = std::env::current_exe().map_err(|e| format!("this executable's path: {e}"))?;
        let own = [own.into_os_string(), OsString::from("vswitch")];
        let words = if self.command.is_empty() { &own[..] } else { &self.command[..] };
        let (program, arguments) = words.split_first().ok_or("no program to start as vswitch")?;
        let mut command = Command::new(program);
        command.args(arguments).arg("--control").arg(&self.control).arg("--workers").arg(self.workers.to_string());
        if let Some(spin_us) = self.spin_us {
            command.arg("--spin-us").arg(spin_us.to_string());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        process::detach_session(&mut command);
        command.spawn().map_err(|e| format!("{}: {e}", program.display()))
    }

    /// Waits until a started vswitch answers.
    fn wait_for(&self, mut child: Child) -> Result<(Client, Child), String> {
        let until = Instant::now() + HELLO_MAX;
        loop {
            match Client::connect(&self.control, self.hello(), ANSWER_MAX) {
                Ok(client) => return Ok((client, child)),
                Err(ClientError::Connection(_)) if Instant::now() < until => {}
                Err(e) => {
                    // It is ours and of no use: without this each attempt would leave one behind.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(self.unreachable(&e));
                }
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(format!("it ended at once ({status}): see its messages in this agent's log"));
            }
            std::thread::sleep(CONNECT_EVERY);
        }
    }

    /// Tells of the vswitch's end, from a thread that does nothing else.
    fn watch(&self, mut client: Client, child: Option<Child>) -> Result<Kept, String> {
        let fresh = child.is_some();
        let pid = client.status().map_err(|e| self.unreachable(&e))?.pid;
        let pidfd = process::open_pid(pid).map_err(|e| format!("process {pid} of the vswitch: {e}"))?;
        let (instance, events) = (client.vswitch().instance.clone(), self.events.clone());
        let wait = move || {
            let why = wait_for_end(&pidfd, child);
            // Without a receiver the agent itself ends.
            let _ = events.blocking_send(Event::VswitchEnded { instance, why });
        };
        std::thread::Builder::new().name("vswitch-watch".into()).spawn(wait).map_err(|e| e.to_string())?;
        Ok(Kept { client, pid, fresh })
    }

    fn hello(&self) -> Hello {
        Hello { protocol: PROTOCOL, features: Vec::new(), instance: self.instance.clone(), build: self.build.clone() }
    }

    fn unreachable(&self, error: &dyn std::fmt::Display) -> String {
        format!("vswitch at {}: {error}", self.control.display())
    }
}

fn wait_for_end(pidfd: &OwnedFd, child: Option<Child>) -> String {
    if let Err(error) = process::wait_exit(pidfd, None) {
        return format!("it cannot be watched: {error}");
    }
    match child.map(|mut child| child.wait()) {
        Some(Ok(status)) => format!("it ended ({status})"),
        _ => "it ended".into(),
    }
}
