//! Processes and threads: rights, sessions, watching, placing.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{CapabilitySet, CapabilitySets, CpuSet};

pub use rustix::process::Signal;

/// A right that Weft's processes may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Over network devices.
    NetAdmin,
    /// Over packet sockets.
    NetRaw,
    /// Over namespaces and mounts.
    SysAdmin,
}

impl Capability {
    /// All that Weft knows of.
    pub const ALL: [Self; 3] = [Self::NetAdmin, Self::NetRaw, Self::SysAdmin];

    /// The kernel's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    const fn set(self) -> CapabilitySet {
        match self {
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
            Self::NetRaw => CapabilitySet::NET_RAW,
            Self::SysAdmin => CapabilitySet::SYS_ADMIN,
        }
    }
}

/// Whether this thread has the right, in its own user namespace.
pub fn holds(capability: Capability) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(capability.set()))
}

/// Gives all rights up, for good: no exec gets them back. Must happen before the process has a second thread.
pub fn drop_capabilities() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::clear_ambient_capability_set().or_else(|e| match e {
        // A kernel without ambient rights has none to clear.
        rustix::io::Errno::INVAL => Ok(()),
        other => Err(other),
    })?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Lets the program start a session of its own: it outlives us, and no terminal's signals reach it.
pub fn detach_session(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only one system call is made, and nothing is allocated or locked.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        })
    }
}

/// Gives the program a descriptor under a number of its own choice, from 3 on.
pub fn inherit_fd(command: &mut Command, fd: OwnedFd, number: RawFd) -> &mut Command {
    // SAFETY: between fork and exec only dup2 or fcntl is called, on a descriptor that the closure owns.
    unsafe {
        command.pre_exec(move || {
            let done = if fd.as_raw_fd() == number {
                // dup2 onto itself would keep the close-on-exec flag.
                libc::fcntl(number, libc::F_SETFD, 0)
            } else {
                libc::dup2(fd.as_raw_fd(), number)
            };
            crate::raw::result(done)
        })
    }
}

/// A descriptor of a running process, readable once it has ended.
pub fn open_pid(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

/// Who is at the other end of a Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The process; `None` when it is in a pid namespace that this process does not see into.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: u32,
}

/// Asks who connected, or who listens. rustix cannot: its process ids are never zero, the kernel's here may be.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    // A `struct ucred`: process, user, group.
    let [pid, uid, _] = crate::raw::option::<[u32; 3]>(socket.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED)?;
    Ok(Peer { pid: Some(pid).filter(|&pid| pid > 0), uid })
}

/// Waits for a process to end; false when it still runs after `timeout`.
pub fn wait_exit(pidfd: impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    let timeout = timeout.map(crate::epoll::timespec);
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| poll(&mut fds, timeout.as_ref()))?;
    Ok(ready > 0)
}

/// Sends a signal to exactly that process, even when its number was given away since.
pub fn kill(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::pidfd_send_signal(pidfd, signal)?)
}

/// A descriptor that becomes readable when SIGTERM or SIGINT arrives, instead of the signal's own effect. To be called
/// before other threads start: a signal goes to any thread that has not blocked it.
pub fn termination() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by `sigemptyset` before anything reads it, and outlives the calls; a new
    // descriptor belongs to nobody else.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        crate::raw::result(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// CPUs that this process may run on.
pub fn cpus() -> usize {
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count().max(1) as usize)
}

/// Ties this thread to the `index`-th of the CPUs that it may run on, counted around.
pub fn pin_to_cpu(index: usize) -> io::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let count = allowed.count().max(1) as usize;
    let Some(cpu) = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).nth(index % count) else {
        return Ok(());
    };
    let mut one = CpuSet::new();
    one.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &one)?)
}

/// Names this thread for `top` and `perf`; the kernel keeps 15 letters.
pub fn name_thread(name: &str) {
    let short: String = name.chars().filter(|c| *c != '\0').take(15).collect();
    if let Ok(short) = CString::new(short) {
        // A name is a courtesy: nothing depends on it.
        let _ = rustix::thread::set_name(&short);
    }
}

/// Makes orphans among our descendants our children.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Takes the ends of children that nobody waits for; says how many.
pub fn reap() -> usize {
    let mut count = 0;
    while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_of_a_socket_pair_is_this_process() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(peer(&a).unwrap(), Peer { pid: Some(std::process::id()), uid: rustix::process::getuid().as_raw() });
    }

    #[test]
    fn the_end_of_a_process_is_seen_and_a_signal_reaches_it() {
        let mut child = detach_session(Command::new("sleep").arg("60")).spawn().unwrap();
        let pidfd = open_pid(child.id()).unwrap();
        assert!(!wait_exit(&pidfd, Some(Duration::ZERO)).unwrap());
        kill(&pidfd, Signal::KILL).unwrap();
        assert!(wait_exit(&pidfd, Some(Duration::from_secs(10))).unwrap());
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_detached_program_leads_its_own_session() {
        let child = detach_session(Command::new("sh").args(["-c", "ps -o sid= -p $$; echo $$"]))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert!(text.split_whitespace().all(|word| word == pid.to_string()), "{text}");
    }

    #[test]
    fn an_inherited_descriptor_has_the_number_asked_for() {
        let (ours, theirs) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        inherit_fd(command.args(["-c", "echo hello >&7"]), theirs.into(), 7);
        command.spawn().unwrap().wait().unwrap();
        drop(command);
        assert_eq!(std::io::read_to_string(ours).unwrap(), "hello\n");
    }

    #[test]
    fn rights_are_gone_for_good_once_dropped() {
        // In a thread of its own: rights are a thread's, and the test's other threads keep theirs.
        std::thread::spawn(|| {
            drop_capabilities().unwrap();
            assert!(Capability::ALL.into_iter().all(|c| !holds(c)));
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_can_be_pinned_and_named() {
        std::thread::spawn(|| {
            pin_to_cpu(cpus() + 1).unwrap();
            assert_eq!(cpus(), 1);
            name_thread("a-very-long-thread-name");
            assert_eq!(rustix::thread::name().unwrap().as_c_str(), c"a-very-long-thr");
        })
        .join()
        .unwrap();
    }
}
