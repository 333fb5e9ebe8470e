//! The lab's processes: starting them in their namespaces, noticing their end, restarting one when told.
//!
//! The keeper is init of the lab's pid namespace, so every orphan becomes its child, and one thread reaps them all.
//! Nobody else waits: a second waiter would steal exit codes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::build::Place;
use super::wire::{LogTail, ProcessInfo};

/// How to start a process, so that it can be started again.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Host, or `ctl`.
    pub place: String,
    /// `controller` or `agent`.
    pub role: String,
    /// Arguments of the weft binary.
    pub args: Vec<String>,
}

/// The lab's processes.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    /// By place and role.
    known: BTreeMap<(String, String), Entry>,
}

#[derive(Debug)]
struct Entry {
    spec: Spec,
    pid: u32,
    ended: Option<String>,
}

/// Where the lab's processes keep sockets, state and logs; a tmpfs of the lab's own.
pub(crate) const RUN_DIR: &str = "/run/weft";
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
const TAIL_LEN_MAX: u64 = 256 << 10;

impl Processes {
    /// Starts a process of this binary in a namespace, its output in a log.
    pub(crate) fn start(&self, place: &Place, spec: Spec) -> Result<()> {
        let log = log_path(&spec.place, &spec.role);
        let what = || format!("cannot start the {} of `{}`", spec.role, spec.place);
        let file = open_log(&log).with_context(what)?;
        let mut command = Command::new(super::program());
        command.args(&spec.args).current_dir("/").stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file);
        // Under the lock, so that the reaper cannot see the end before the beginning is written down.
        let mut table = self.lock();
        let child = place.inside(|| command.spawn())?.with_context(what)?;
        let key = (spec.place.clone(), spec.role.clone());
        table.known.insert(key, Entry { spec, pid: child.id(), ended: None });
        self.changed.notify_all();
        Ok(())
    }

    /// Reaps forever.
    pub(crate) fn reap(&self) -> ! {
        loop {
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => self.note_end(pid, status),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                // No child at all: there is nothing to do until one is started.
                Err(_) => drop(self.changed.wait(self.lock()).unwrap_or_else(PoisonError::into_inner)),
            }
        }
    }

    /// What to tell about them.
    pub(crate) fn infos(&self) -> Vec<ProcessInfo> {
        let table = self.lock();
        let info = |entry: &Entry| ProcessInfo {
            place: entry.spec.place.clone(),
            role: entry.spec.role.clone(),
            pid: entry.pid,
            ended: entry.ended.clone(),
        };
        table.known.values().map(info).collect()
    }

    /// How the process ended, if it did.
    pub(crate) fn ended(&self, place: &str, role: &str) -> Option<String> {
        let table = self.lock();
        table.known.get(&(place.to_owned(), role.to_owned()))?.ended.clone()
    }

    /// Ends a process and starts it again.
    pub(crate) fn restart(&self, place: &Place, role: &str, kill: bool) -> Result<()> {
        let key = (place.name.clone(), role.to_owned());
        let (spec, pid, ended) = {
            let table = self.lock();
            let entry = table.known.get(&key).with_context(|| format!("`{}` has no {role} to restart", place.name))?;
            (entry.spec.clone(), entry.pid, entry.ended.is_some())
        };
        if !ended {
            self.end(&key, pid, kill)?;
        }
        self.start(place, spec)
    }

    fn end(&self, key: &(String, String), pid: u32, kill: bool) -> Result<()> {
        signal(pid, if kill { Signal::KILL } else { Signal::TERM })?;
        if !kill && !self.wait_end(key, ASK_TIMEOUT) {
            signal(pid, Signal::KILL)?;
        }
        if !self.wait_end(key, ASK_TIMEOUT) {
            bail!("the {} of `{}` (pid {pid}) does not end", key.1, key.0);
        }
        Ok(())
    }

    fn wait_end(&self, key: &(String, String), timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut table = self.lock();
        while table.known.get(key).is_some_and(|e| e.ended.is_none()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            table = self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn note_end(&self, pid: Pid, status: WaitStatus) {
        let mut table = self.lock();
        let id = pid.as_raw_nonzero().get().cast_unsigned();
        if let Some(entry) = table.known.values_mut().find(|e| e.pid == id && e.ended.is_none()) {
            entry.ended = Some(describe(status));
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a host's vswitch, which is its agent's child and not ours; the agent starts it anew.
pub(crate) fn end_vswitch(netns_inode: u64, place: &str, kill: bool) -> Result<()> {
    let inside = super::registry::processes(std::process::id());
    let here = inside.get(&netns_inode).map_or(&[][..], Vec::as_slice);
    let is_vswitch = |command: &str| command.split(' ').nth(1) == Some("vswitch");
    let pids: Vec<u32> = here.iter().filter(|(_, command)| is_vswitch(command)).map(|(pid, _)| *pid).collect();
    if pids.is_empty() {
        bail!("no vswitch runs on `{place}`: see `weft lab logs {place}` for why its agent started none");
    }
    for pid in pids {
        signal(pid, if kill { Signal::KILL } else { Signal::TERM })?;
    }
    Ok(())
}

/// The ends of all logs, or those of one place.
pub(crate) fn logs(place: Option<&str>, lines: usize) -> Vec<LogTail> {
    let mut tails = Vec::new();
    let dirs = fs::read_dir(RUN_DIR).into_iter().flatten().flatten();
    for dir in dirs.filter(|d| d.path().is_dir()) {
        let name = dir.file_name().to_string_lossy().into_owned();
        if place.is_some_and(|p| p != name) {
            continue;
        }
        for file in fs::read_dir(dir.path()).into_iter().flatten().flatten() {
            let path = file.path();
            if path.extension().is_some_and(|e| e == "log") {
                let text = tail(&path, lines).unwrap_or_else(|e| format!("(cannot be read: {e})"));
                let file = file.file_name().to_string_lossy().into_owned();
                tails.push(LogTail { place: name.clone(), name: file, text });
            }
        }
    }
    tails.sort_by(|a, b| (&a.place, &a.name).cmp(&(&b.place, &b.name)));
    tails
}

/// Where a process logs to.
pub(crate) fn log_path(place: &str, role: &str) -> PathBuf {
    Path::new(RUN_DIR).join(place).join(format!("{role}.log"))
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

fn tail(path: &Path, lines: usize) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_LEN_MAX)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_LEN_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { bail!("{pid} is not a process id") };
    match rustix::process::kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot signal process {pid:?}")),
    }
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        _ => "ended".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let path = std::env::temp_dir().join(format!("weft-tail-{}", std::process::id()));
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        let both = (tail(&path, 2).unwrap(), tail(&path, 9).unwrap());
        fs::remove_file(&path).unwrap();
        assert_eq!(both, ("two\nthree".into(), "one\ntwo\nthree".into()));
    }
}
