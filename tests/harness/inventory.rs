//! What a machine has before and after: a lab leaves nothing behind (promise 7).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Everything that a lab could leave: names, not contents.
#[derive(Debug, PartialEq, Eq)]
pub struct Inventory {
    netns: BTreeSet<String>,
    links: BTreeSet<String>,
    mounts: BTreeSet<String>,
    processes: BTreeSet<String>,
    files: BTreeSet<String>,
    sysctls: BTreeSet<String>,
}

impl Inventory {
    /// Takes stock.
    pub fn take() -> Self {
        Self {
            netns: listing(Path::new("/run/netns")),
            links: command("ip", &["-o", "link"])
                .lines()
                .filter_map(|l| l.split(": ").nth(1).map(str::to_owned))
                .collect(),
            mounts: fs::read_to_string("/proc/self/mountinfo")
                .unwrap_or_default()
                .lines()
                .filter_map(mount_point)
                .collect(),
            processes: weft_processes(),
            files: listing(Path::new("/run")).union(&listing(Path::new("/tmp"))).cloned().collect(),
            sysctls: command("sysctl", &["-a", "--pattern", "^net\\.(ipv4\\.(ip_forward|conf)|ipv6\\.conf|core)"])
                .lines()
                .map(str::to_owned)
                .collect(),
        }
    }

    /// Asserts that nothing came and nothing went since `before`, but for what the kernel needs a moment to take apart.
    ///
    /// # Panics
    /// When something did, with its name.
    pub fn assert_same(before: &Self) {
        let end = Instant::now() + Duration::from_secs(3);
        let mut after = Self::take();
        while after != *before && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
            after = Self::take();
        }
        let pairs = [
            ("network namespaces", &before.netns, &after.netns),
            ("links", &before.links, &after.links),
            ("mounts", &before.mounts, &after.mounts),
            ("processes", &before.processes, &after.processes),
            ("files", &before.files, &after.files),
            ("sysctls", &before.sysctls, &after.sysctls),
        ];
        for (what, before, after) in pairs {
            let left: Vec<_> = after.difference(before).collect();
            let lost: Vec<_> = before.difference(after).collect();
            assert!(left.is_empty() && lost.is_empty(), "{what}: left behind {left:?}, gone {lost:?}");
        }
    }
}

fn command(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
}

fn mount_point(line: &str) -> Option<String> {
    line.split(' ').nth(4).map(str::to_owned)
}

/// Names in a folder and one level below, except what other programs keep changing.
fn listing(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        names.insert(path.display().to_string());
        if path.file_name().is_some_and(|n| n.to_string_lossy().contains("weft")) {
            names.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path().display().to_string()));
        }
    }
    names
}

/// Processes whose name is `weft` or a part of it, by name and id. One that has ended and waits for the machine's init
/// to take note is none of ours any more.
fn weft_processes() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else { continue };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status.contains("State:\tZ") {
            continue;
        }
        if name.trim() == "weft" || name.starts_with("weft-v") || name.starts_with("weft-a") {
            found.insert(format!("{} {}", entry.file_name().display(), name.trim()));
        }
    }
    found
}
