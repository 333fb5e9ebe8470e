//! The lab: a topology's hosts and guests as network namespaces of this machine, with the real daemons in them.
//!
//! `registry` finds labs; `keeper` is the process that a lab hangs on, with `build` (namespaces and links), `process`
//! (daemons), `guest` (addresses) and `probe`; `check` judges what the probes show; `exec` enters a lab.

pub mod address;
pub mod build;
pub mod check;
mod daemon;
pub mod exec;
pub mod expect;
mod guest;
pub mod keeper;
mod probe;
mod probe_frame;
mod process;
pub mod registry;
pub mod start;
pub mod topology;
pub mod wire;

use std::path::PathBuf;

use wire::LogTail;

/// This very binary. By its path where that still leads to it, because processes are listed by their file's name.
fn program() -> PathBuf {
    std::env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| "/proc/self/exe".into())
}

/// An error with the ends of the logs that may tell more.
fn with_logs(message: &str, logs: &[LogTail]) -> anyhow::Error {
    let mut text = message.to_owned();
    for log in logs {
        text.push_str(&format!("\n\n--- {}/{} ---\n{}", log.place, log.name, log.text));
    }
    anyhow::Error::msg(text)
}
