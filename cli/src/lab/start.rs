//! Starting a lab: claims its name, starts the keeper and tells it what to build.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::registry::{self, Lab};
use super::topology::{Topology, check_name};
use super::wire::{Lines, Reply, Request, Setup};

/// A lab that ends with this value, unless it is let go.
#[derive(Debug)]
pub struct Builder {
    /// Closed to end the lab.
    lines: Option<Lines>,
    /// The keeper, to wait for its end.
    keeper: Option<OwnedFd>,
    name: String,
    /// What the keeper said that was no answer: a panic's message.
    strange: Vec<String>,
}

/// How long the kernel may take to end what a lab was.
pub const END_TIMEOUT: Duration = Duration::from_secs(10);
const BUILD_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads the topology file.
pub fn read(file: &Path) -> Result<Topology> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        text
    } else {
        fs::read_to_string(file).with_context(|| format!("cannot read the topology {}", file.display()))?
    };
    Topology::parse(&text).map_err(|e| anyhow!("{}: {e}", file.display()))
}

impl Builder {
    /// Builds the lab up to the running controller.
    pub fn start(setup: Setup) -> Result<Self> {
        check_machine()?;
        let name = setup.name.clone();
        check_name(&name).map_err(|why| anyhow!("--name: {why}"))?;
        registry::sweep()?;
        let listener = registry::claim(&name)?;
        let (ours, theirs) = UnixStream::pair()?;
        let stderr = theirs.try_clone()?;
        let mut outer = Command::new(super::program())
            .args(["lab", "keeper", "outer"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(listener)))
            .stderr(Stdio::from(OwnedFd::from(stderr)))
            .spawn()
            .context("cannot start the lab's keeper")?;
        outer.wait()?;
        let lines = Lines::new(ours)?;
        lines.set_timeout(Some(BUILD_TIMEOUT))?;
        let mut builder = Self { lines: Some(lines), keeper: None, name, strange: Vec::new() };
        builder.ask(&Request::Setup(Box::new(setup)))?;
        Ok(builder)
    }

    /// Starts the agents.
    pub fn start_agents(&mut self) -> Result<()> {
        self.ask(&Request::StartAgents)
    }

    /// Lets the lab run on when this process ends.
    pub fn detach(mut self) -> Result<()> {
        self.ask(&Request::Detach)?;
        self.keeper = None;
        Ok(())
    }

    /// Connects to the lab as any other client does.
    pub fn connect(&mut self) -> Result<Lab> {
        let lab = registry::connect(Some(&self.name))?;
        self.keeper = Some(weft_sys::process::open_pid(lab.keeper_pid)?);
        Ok(lab)
    }

    fn ask(&mut self, request: &Request) -> Result<()> {
        // A broken pipe means that the keeper is gone; what it said before is what matters.
        let Some(lines) = &mut self.lines else { bail!("the lab `{}` has ended", self.name) };
        let sent = lines.send(request);
        let strange = &mut self.strange;
        match lines.receive(&mut |line| strange.push(line.to_owned())) {
            Ok(Some(Reply::Done)) if sent.is_ok() => Ok(()),
            Ok(Some(Reply::Failed { message, logs })) => Err(super::with_logs(&message, &logs)),
            Ok(None) | Err(_) if !self.strange.is_empty() => {
                bail!("{}", self.strange.join("\n").trim_start_matches("weft: "))
            }
            Ok(None) => bail!("the keeper of lab `{}` ended without a word", self.name),
            Err(error) => Err(error).context(format!("the keeper of lab `{}` does not answer", self.name)),
            Ok(other) => bail!("the keeper of lab `{}` answered strangely: {other:?}", self.name),
        }
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(keeper) = &self.keeper {
            // Whoever comes next finds the name free and nothing of the lab.
            drop(weft_sys::process::wait_exit(keeper, Some(END_TIMEOUT)));
        }
    }
}

/// Says what is missing before anything is built.
fn check_machine() -> Result<()> {
    let tun = Path::new("/dev/net/tun");
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(tun) {
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                bail!(
                    "there is no /dev/net/tun, which guests' TAPs need: `modprobe tun`, or give the container the device"
                )
            }
            std::io::ErrorKind::PermissionDenied => {
                bail!("/dev/net/tun may not be opened by this user: as root, `chmod 0666 /dev/net/tun`")
            }
            _ => bail!("/dev/net/tun cannot be opened ({error}): is the kernel's tun module there?"),
        }
    }
    if !rustix::process::geteuid().is_root() {
        weft_sys::unshare::check_user_namespaces()?;
    }
    Ok(())
}
