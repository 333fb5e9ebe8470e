//! The command lines of a lab's daemons. They are those of a real host, with the lab's paths.

use std::path::Path;

use super::build::CONTROLLER_ADDR;
use super::keeper::API_SOCKET;
use super::process::RUN_DIR;
use super::topology::Host;
use super::wire::Setup;

/// `weft controller`.
pub(crate) fn controller_args(pki: &Path, south_port: u16) -> Vec<String> {
    words(&[
        "controller",
        "--pki",
        &pki.display().to_string(),
        "--store",
        &format!("{RUN_DIR}/ctl/store.redb"),
        "--listen",
        &format!("{CONTROLLER_ADDR}:{south_port}"),
        "--api-socket",
        API_SOCKET,
    ])
}

/// `weft agent`.
pub(crate) fn agent_args(host: &Host, dir: &Path, south_port: u16, setup: &Setup) -> Vec<String> {
    let underlay = host.addresses.first().map(|a| a.addr.to_string()).unwrap_or_default();
    let mut args = words(&[
        "agent",
        "--host",
        &host.name,
        "--controller",
        &format!("https://{CONTROLLER_ADDR}:{south_port}"),
        "--pki",
        &dir.join("pki").display().to_string(),
        "--address",
        &underlay,
        "--state-dir",
        &dir.display().to_string(),
        "--control",
        &dir.join("vswitch.sock").display().to_string(),
        "--workers",
        &setup.workers.to_string(),
    ]);
    if let Some(rung) = setup.rung {
        args.extend(words(&["--rung", rung.name()]));
    }
    args
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}
