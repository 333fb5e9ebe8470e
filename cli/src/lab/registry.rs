//! Finding labs without files: a keeper listens on the abstract socket `weft-lab/UID/NAME` of the network namespace
//! that it was started from, and the kernel forgets the name together with the keeper.
//!
//! For root, namespaces also get names for `ip netns`: symbolic links under /run/netns to the keeper's descriptors.
//! A killed keeper leaves them dangling, so whoever comes next sweeps them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::wire::{Info, Lines, PlaceKind, Reply, Request};
use crate::exit::Unreachable;

/// A running lab, as seen from outside.
#[derive(Debug)]
pub struct Lab {
    /// Name.
    pub name: String,
    /// The keeper's process id, as the caller sees it.
    pub keeper_pid: u32,
    lines: Lines,
}

/// Where `ip netns` looks.
const NETNS_DIR: &str = "/run/netns";
/// The mode of a /run/netns that we made: the sticky bit tells it from one that was there.
const NETNS_DIR_MODE: u32 = 0o1755;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Takes a lab's name; fails when it is taken.
pub fn claim(name: &str) -> Result<UnixListener> {
    match UnixListener::bind_addr(&address(name)?) {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("a lab `{name}` is running already: `weft lab down {name}`, or choose another name with --name")
        }
        Err(error) => Err(error).context("cannot open the lab's control socket"),
    }
}

/// Names of the caller's running labs.
pub fn names() -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/net/unix").context("cannot read /proc/net/unix, where labs are found")?;
    Ok(parse_names(&table, &prefix()))
}

/// Connects to the lab of that name, or to the only one.
pub fn connect(name: Option<&str>) -> Result<Lab> {
    let running = names()?;
    let list = || running.join(", ");
    let name = match (name, running.as_slice()) {
        (Some(name), _) if running.iter().any(|n| n == name) => name.to_owned(),
        (Some(name), []) => return Err(Unreachable(format!("no lab `{name}`: none is running")).into()),
        (Some(name), _) => return Err(Unreachable(format!("no lab `{name}`: running are {}", list())).into()),
        (None, [only]) => only.clone(),
        (None, []) => return Err(Unreachable("no lab is running: start one with `weft lab up FILE`".into()).into()),
        (None, _) => return Err(Unreachable(format!("which lab? Running are {}", list())).into()),
    };
    Lab::connect(&name)
}

impl Lab {
    fn connect(name: &str) -> Result<Self> {
        let stream = UnixStream::connect_addr(&address(name)?)
            .map_err(|e| Unreachable(format!("the keeper of lab `{name}` does not answer: {e}")))?;
        let peer = weft_sys::process::peer(&stream).context("cannot ask who keeps the lab")?;
        let own = rustix::process::getuid().as_raw();
        let (true, Some(keeper_pid)) = (peer.uid == own, peer.pid) else {
            bail!("what answers as lab `{name}` belongs to another user (uid {}): not talking to it", peer.uid);
        };
        let lines = Lines::new(stream)?;
        lines.set_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { name: name.to_owned(), keeper_pid, lines })
    }

    /// Asks the keeper.
    pub fn ask(&mut self, request: &Request) -> Result<Reply> {
        let gone = |e: io::Error| Unreachable(format!("the keeper of lab `{}` stopped answering: {e}", self.name));
        self.lines.send(request).map_err(gone)?;
        match self.lines.receive(&mut |_| {}).map_err(gone)? {
            Some(Reply::Failed { message, logs }) => Err(super::with_logs(&message, &logs)),
            Some(reply) => Ok(reply),
            None => Err(Unreachable(format!("the keeper of lab `{}` ended", self.name)).into()),
        }
    }

    /// Asks what there is.
    pub fn info(&mut self) -> Result<Info> {
        match self.ask(&Request::Info)? {
            Reply::Info(info) => Ok(*info),
            other => bail!("the keeper of lab `{}` answered strangely: {other:?}", self.name),
        }
    }

    /// A path inside of the lab, as the caller reaches it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.keeper_pid))
    }

    /// Gives the namespaces names for `ip netns`; for root only, since the directory is root's.
    pub fn publish(&self, info: &Info) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let dir = Path::new(NETNS_DIR);
        if !dir.exists() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {NETNS_DIR}"))?;
            fs::set_permissions(dir, fs::Permissions::from_mode(NETNS_DIR_MODE))?;
        }
        let public = info.namespaces.iter().filter(|n| matches!(n.kind, PlaceKind::Guest | PlaceKind::Host));
        for namespace in public {
            let link = dir.join(format!("weft-{}-{}", self.name, namespace.name));
            let target = format!("/proc/{}/fd/{}", self.keeper_pid, namespace.fd);
            symlink(&target, &link).with_context(|| format!("cannot make {}", link.display()))?;
        }
        Ok(())
    }
}

/// Removes names for `ip netns` whose keeper is gone, and /run/netns if we made it and it is empty.
/// Returns how many names were removed.
pub fn sweep() -> Result<usize> {
    if !rustix::process::geteuid().is_root() {
        return Ok(0);
    }
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Ok(0) };
    let mut keepers = Vec::new();
    for name in names()? {
        if let Ok(lab) = Lab::connect(&name) {
            keepers.push((format!("weft-{name}-"), lab.keeper_pid));
        }
    }
    let mut removed = 0;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = fs::read_link(entry.path()).ok().and_then(|target| keeper_of(&target)) else { continue };
        let kept = keepers.iter().any(|(prefix, keeper)| name.starts_with(prefix) && *keeper == pid);
        if name.starts_with("weft-") && !kept && fs::remove_file(entry.path()).is_ok() {
            removed += 1;
        }
    }
    let ours = fs::metadata(NETNS_DIR).is_ok_and(|m| m.permissions().mode() & 0o7777 == NETNS_DIR_MODE);
    if ours && fs::read_dir(NETNS_DIR).is_ok_and(|mut d| d.next().is_none()) {
        // Busy when somebody's `ip netns add` has made a mount of it meanwhile: then it is theirs.
        drop(fs::remove_dir(NETNS_DIR));
    }
    Ok(removed)
}

/// Processes in a lab's namespaces, by namespace inode: process ids as the caller sees them, with their command lines.
pub fn processes(keeper_pid: u32) -> BTreeMap<u64, Vec<(u32, String)>> {
    let link = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let Some(lab) = link(keeper_pid, "pid") else { return BTreeMap::new() };
    let mut found: BTreeMap<u64, Vec<(u32, String)>> = BTreeMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    let pids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|&pid| link(pid, "pid").as_ref() == Some(&lab)) {
        let netns = link(pid, "net").and_then(|l| l.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok());
        let Ok(command) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let words: Vec<String> = command
            .split(|b| *b == 0)
            .filter(|w| !w.is_empty())
            .map(|w| String::from_utf8_lossy(w).into_owned())
            .collect();
        if let Some(netns) = netns {
            found.entry(netns).or_default().push((pid, words.join(" ")));
        }
    }
    found
}

fn keeper_of(target: &Path) -> Option<u32> {
    let rest = target.to_str()?.strip_prefix("/proc/")?;
    let (pid, fd) = rest.split_once("/fd/")?;
    fd.parse::<u32>().ok()?;
    pid.parse().ok()
}

fn prefix() -> String {
    format!("weft-lab/{}/", rustix::process::getuid().as_raw())
}

fn address(name: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::from_abstract_name(format!("{}{name}", prefix()))?)
}

fn parse_names(table: &str, prefix: &str) -> Vec<String> {
    // Num RefCount Protocol Flags Type St Inode Path; a listening socket has the flag 0x10000 (__SO_ACCEPTCON).
    let mut names: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let listening = *words.get(3)? == "00010000";
            let name = words.get(7)?.strip_prefix('@')?.strip_prefix(prefix)?;
            (listening && super::topology::check_name(name).is_ok()).then(|| name.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Num       RefCount Protocol Flags    Type St Inode Path
00000000: 00000002 00000000 00010000 0001 01 11111 @weft-lab/0/two-hosts
00000000: 00000003 00000000 00000000 0001 03 11112 @weft-lab/0/two-hosts
00000000: 00000002 00000000 00010000 0001 01 11113 @weft-lab/1000/other
00000000: 00000002 00000000 00010000 0001 01 11114 @weft-lab/0/../x
00000000: 00000002 00000000 00010000 0001 01 11115 /run/weft/api.sock
00000000: 00000002 00000000 00010000 0001 01 11116
";

    #[test]
    fn only_own_listening_well_named_labs_are_found() {
        assert_eq!(parse_names(TABLE, "weft-lab/0/"), ["two-hosts"]);
    }

    #[test]
    fn only_links_to_descriptors_of_processes_are_ours() {
        assert_eq!(keeper_of(Path::new("/proc/12/fd/7")), Some(12));
        for other in ["/proc/12/ns/net", "/var/run/x", "/proc/self/fd/7", "/proc/12/fd/x"] {
            assert_eq!(keeper_of(Path::new(other)), None, "{other}");
        }
    }
}
