//! The shipped topologies as a user runs them, and what they leave behind: nothing (promise 7).

use std::process::Command;

use weft_tests::inventory::Inventory;
use weft_tests::lab::{Lab, Setup, root, topology, weft};
use weft_tests::{may_run, skip};

const TOPOLOGIES: [&str; 4] =
    ["two-hosts.yaml", "two-tenants-overlapping.yaml", "three-hosts-ipv6-underlay.yaml", "legacy-kernel-vtep.yaml"];

fn run(file: &str, before: &Inventory) {
    let path = root().join("topologies").join(file);
    let output = weft(&["lab", "run", &path.display().to_string(), "--name", &format!("r{}", std::process::id())])
        .output()
        .expect("weft starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{file}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    Inventory::assert_same(before);
}

#[test]
fn promise_7_every_topology_runs_and_leaves_nothing() {
    if !may_run() {
        return;
    }
    let before = Inventory::take();
    for file in TOPOLOGIES {
        run(file, &before);
    }
}

#[test]
fn promise_7_down_leaves_nothing_after_kill_9_of_everything() {
    if !may_run() {
        return;
    }
    let before = Inventory::take();
    let mut lab = Lab::up(&topology("two-hosts.yaml"), Setup::DEFAULT);
    lab.broken_on_purpose();
    lab.until_ping("a", "10.9.0.2");
    let listed = lab.json(&["lab", "ls"]);
    let pid = keeper_pid(&listed, lab.name());
    kill_9(pid);
    drop(lab);
    Inventory::assert_same(&before);
}

#[test]
fn an_ordinary_user_runs_two_hosts() {
    if !may_run() {
        return;
    }
    // A device node of our own in a private mount namespace stands for "/dev/net/tun is accessible".
    let script = r#"
        set -e
        mount --make-rprivate /
        node=$(mktemp -d); mknod "$node/tun" c 10 200; chmod 666 "$node/tun"; mount --bind "$node/tun" /dev/net/tun; rm -rf "$node"
        cd /
        exec setpriv --reuid 65534 --regid 65534 --clear-groups env -u XDG_RUNTIME_DIR HOME=/nonexistent "$0" lab run "$1"
    "#;
    let copy = tempfile::tempdir().expect("a folder for a program that everybody may run");
    let program = copy.path().join("weft");
    std::fs::copy(weft_tests::lab::program("weft"), &program).expect("the program can be copied");
    let file = copy.path().join("two-hosts.yaml");
    std::fs::copy(root().join("topologies/two-hosts.yaml"), &file).expect("the topology can be copied");
    for (path, mode) in [(copy.path(), 0o755), (&program, 0o755), (&file, 0o644)] {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, permissions).expect("modes can be set");
    }
    let before = Inventory::take();
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .args([&program, &file])
        .output()
        .expect("unshare starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if text.contains("user namespaces") && text.contains("restrict") {
        skip("this system restricts user namespaces");
        return;
    }
    assert!(output.status.success(), "{}\n{text}", output.status);
    Inventory::assert_same(&before);
}

/// The keeper's process id, from `weft lab ls -o json`.
fn keeper_pid(listed: &serde_json::Value, name: &str) -> u64 {
    let labs = listed.as_array().or_else(|| listed["labs"].as_array()).expect("a list of labs");
    let lab = labs.iter().find(|l| l["name"] == name).expect("the lab is listed");
    lab["pid"].as_u64().or_else(|| lab["keeper_pid"].as_u64()).expect("a lab has a keeper")
}

fn kill_9(pid: u64) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill starts");
    assert!(status.success(), "kill -9 {pid}");
}
