//! Namespaces of processes: making them, joining them, and saying why the system refuses.
//!
//! Nothing forks here. A pid namespace begins with the next child, so a program that wants to be inside starts itself
//! once more; a user namespace can be made or joined by a process with one thread only, so both happen first in main.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{Pid, PidfdFlags, getgid, getuid, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

/// Which namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Namespaces {
    /// Users: inside, the caller is root.
    pub user: bool,
    /// Mounts.
    pub mount: bool,
    /// Processes, from the next child on.
    pub pid: bool,
    /// Network.
    pub net: bool,
}

/// Why namespaces cannot be made or joined.
#[derive(Debug, thiserror::Error)]
pub enum UnshareError {
    /// Switched off by Debian's sysctl.
    #[error(
        "this system lets only root make user namespaces: `sysctl -w kernel.unprivileged_userns_clone=1`, or run as root"
    )]
    SwitchedOff,
    /// Their number is limited to none.
    #[error("this system allows no user namespaces: `sysctl -w user.max_user_namespaces=10000`, or run as root")]
    NoneAllowed,
    /// AppArmor takes their rights away.
    #[error(
        "AppArmor takes all rights away from user namespaces of unconfined programs: \
         `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or give the binary an AppArmor profile with `userns,`, or run as root"
    )]
    AppArmor,
    /// Something else refuses them, such as a container's seccomp filter.
    #[error(
        "user namespaces are refused here ({0}), as containers often do: allow them for this container, or run as root"
    )]
    Refused(io::Error),
    /// The other process is gone.
    #[error("process {0} is not there any more")]
    NoSuchProcess(u32),
    /// Anything else.
    #[error("{step}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whether an ordinary user can make a user namespace with rights over a network of its own; tried in a child.
pub fn check_user_namespaces() -> Result<(), UnshareError> {
    let mut probe = Command::new("/proc/self/exe");
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated or locked.
    unsafe {
        probe.pre_exec(|| {
            rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)?;
            // It worked: go no further, the program itself is not wanted.
            Err(io::Error::from_raw_os_error(libc::ECANCELED))
        });
    }
    match probe.spawn() {
        Err(e) if e.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
        Err(e) => Err(why_refused(e)),
        Ok(mut child) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(UnshareError::Refused(io::ErrorKind::Other.into()))
        }
    }
}

fn why_refused(error: io::Error) -> UnshareError {
    let is = |path: &str, value: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        return UnshareError::SwitchedOff;
    }
    if is("/proc/sys/user/max_user_namespaces", "0") {
        return UnshareError::NoneAllowed;
    }
    if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        return UnshareError::AppArmor;
    }
    UnshareError::Refused(error)
}

/// Moves this process, which must have one thread only, into new namespaces.
pub fn unshare(what: Namespaces) -> Result<(), UnshareError> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWUSER, what.user);
    flags.set(UnshareFlags::NEWNS, what.mount);
    flags.set(UnshareFlags::NEWPID, what.pid);
    flags.set(UnshareFlags::NEWNET, what.net);
    // SAFETY: the descriptor table stays shared: FILES is not among the flags.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|e| {
        let step = UnshareError::Step { step: "make namespaces", source: e.into() };
        if what.user && e != rustix::io::Errno::INVAL { why_refused(e.into()) } else { step }
    })?;
    if what.user {
        let write = |path, text: String| {
            std::fs::write(path, text).map_err(|source| UnshareError::Step { step: "map the user", source })
        };
        // Without this the kernel lets no ordinary user write the group map (user_namespaces(7)).
        write("/proc/self/setgroups", "deny".into())?;
        write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
        write("/proc/self/gid_map", format!("0 {gid} 1\n"))?;
    }
    if what.mount {
        mounts_private().map_err(|source| UnshareError::Step { step: "keep mounts to ourselves", source })?;
    }
    Ok(())
}

/// Moves this process, which must have one thread only when it joins users, into those of another.
pub fn join(pid: u32, what: Namespaces) -> Result<(), UnshareError> {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(UnshareError::NoSuchProcess(pid))?;
    let target = pidfd_open(target, PidfdFlags::empty()).map_err(|e| match e {
        rustix::io::Errno::SRCH => UnshareError::NoSuchProcess(pid),
        other => UnshareError::Step { step: "open the other process", source: other.into() },
    })?;
    let mut types = ThreadNameSpaceType::empty();
    types.set(ThreadNameSpaceType::USER, what.user);
    types.set(ThreadNameSpaceType::MOUNT, what.mount);
    types.set(ThreadNameSpaceType::PROCESS_ID, what.pid);
    types.set(ThreadNameSpaceType::NETWORK, what.net);
    rustix::thread::move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&target), types)
        .map_err(|e| UnshareError::Step { step: "join the other process's namespaces", source: e.into() })
}

/// Keeps mounts of this mount namespace from spreading to others.
pub fn mounts_private() -> io::Result<()> {
    let how = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    Ok(rustix::mount::mount_change("/", how)?)
}

/// Mounts an empty file system in memory.
pub fn mount_tmpfs(at: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("tmpfs", at, "tmpfs", flags, Some(c"mode=0755"))?)
}

/// Mounts the view of this pid namespace.
pub fn mount_proc(at: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", at, "proc", flags, None)?)
}

/// Mounts the view of this network namespace's devices.
pub fn mount_sysfs(at: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("sysfs", at, "sysfs", flags, None)?)
}

/// Makes `from` visible at `to`.
pub fn bind(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_bind(from, to)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_namespaces_work_here_or_the_reason_is_said() {
        match check_user_namespaces() {
            Ok(()) => {}
            Err(error) => eprintln!("SKIPPED: {error}"),
        }
    }

    #[test]
    fn joining_a_process_that_is_gone_says_so() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let error = join(pid, Namespaces { net: true, ..Namespaces::default() }).unwrap_err();
        assert!(matches!(error, UnshareError::NoSuchProcess(gone) if gone == pid), "{error}");
    }

    #[test]
    fn a_thread_that_leaves_its_network_sees_an_empty_one() {
        if !crate::may_test_as_root() {
            return;
        }
        let links = std::thread::spawn(|| {
            unshare(Namespaces { net: true, ..Namespaces::default() }).unwrap();
            crate::netlink::Netlink::open().unwrap().links().unwrap()
        });
        assert!(links.join().unwrap().iter().all(|link| !link.up));
    }
}
