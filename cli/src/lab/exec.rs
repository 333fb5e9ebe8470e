//! Running a command inside a lab: joins the keeper's namespaces and starts the command as an ordinary child, so that
//! the terminal, signals from it and the exit code are the command's own. What it leaves behind as a daemon becomes
//! the keeper's child, and ends with the lab.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use weft_sys::netns;
use weft_sys::unshare::{self, Namespaces};

use super::build::NETNS_DIR;
use super::registry::Lab;
use super::wire::{Info, NamespaceInfo};

/// Runs a command in a guest, on a host, or in `ctl`; returns its exit code. The process must have one thread only.
pub fn exec(mut lab: Lab, place: &str, command: &[OsString]) -> Result<u8> {
    let info = lab.info()?;
    find(&info, place)?;
    let back = env::current_dir().ok();
    join(&lab)?;
    let netns = netns::open(&Path::new(NETNS_DIR).join(place))?;
    netns::enter(std::os::fd::AsFd::as_fd(&netns)).with_context(|| format!("cannot enter `{place}`"))?;
    // The lab has a /run of its own; a directory below the caller's is not there.
    if back.is_none_or(|dir| env::set_current_dir(dir).is_err()) {
        env::set_current_dir("/")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(command))
}

fn find<'a>(info: &'a Info, place: &str) -> Result<&'a NamespaceInfo> {
    let Some(found) = info.namespaces.iter().find(|n| n.name == place) else {
        let names: Vec<&str> = info.namespaces.iter().map(|n| n.name.as_str()).collect();
        bail!("no `{place}` in lab `{}`: there is {}", info.name, names.join(", "));
    };
    Ok(found)
}

fn join(lab: &Lab) -> Result<()> {
    let own = std::fs::read_link("/proc/self/ns/user");
    let theirs = std::fs::read_link(format!("/proc/{}/ns/user", lab.keeper_pid));
    let user = matches!((own, theirs), (Ok(own), Ok(theirs)) if own != theirs);
    let what = Namespaces { user, mount: true, pid: true, net: false };
    unshare::join(lab.keeper_pid, what).with_context(|| format!("cannot enter lab `{}`", lab.name))
}

async fn run(command: &[OsString]) -> Result<u8> {
    let [program, args @ ..] = command else { bail!("no command given: write it behind `--`") };
    // The terminal sends these to the command as well; what it makes of them decides, so we only outlive them.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = match tokio::process::Command::new(program).args(args).spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("weft: cannot run `{}`: {error}", program.to_string_lossy());
            // As shells do.
            return Ok(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => return Ok(code(status?)),
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = hangup.recv() => {}
            _ = terminate.recv() => pass_on(&child),
        }
    }
}

/// Nobody but us was asked to end, so the command is asked.
fn pass_on(child: &tokio::process::Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_commands_or_that_of_its_signal() {
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
    }
}
