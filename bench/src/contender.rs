//! Who is measured: two guests that reach each other at 10.9.0.x, built by a script or by the lab.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Contenders that are compared with each other; the first is Weft.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) contenders: Vec<Contender>,
}

/// One way to connect two guests.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    up: Vec<String>,
    down: Vec<String>,
    /// Namespace of the sender, as `ip netns` knows it.
    pub(crate) from: String,
    /// Namespace of the receiver.
    pub(crate) to: String,
    /// The receiver's address.
    pub(crate) address: &'static str,
}

/// The comparisons.
pub(crate) fn groups(weft: &Path) -> Result<Vec<Group>> {
    let root = root()?;
    let group = |name, address, to, kernel, ovs| Group {
        name,
        contenders: vec![weft_lab(weft, &root, to, address), peer(&root, "kernel", kernel), peer(&root, "ovs", ovs)],
    };
    Ok(vec![
        group("local", "10.9.0.3", "c", "kernel-local", "ovs-local"),
        group("vxlan", "10.9.0.2", "b", "kernel-vxlan", "ovs-vxlan"),
    ])
}

/// The folder that holds `bench/` and `topologies/`.
pub(crate) fn root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).context("bench/ is in the workspace")
}

fn weft_lab(weft: &Path, root: &Path, to: &str, address: &'static str) -> Contender {
    let topology = root.join("topologies/two-hosts.yaml").display().to_string();
    let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect();
    let weft = weft.display().to_string();
    Contender {
        name: "weft",
        up: words(&[&weft, "lab", "up", &topology, "--name", "bench"]),
        down: words(&[&weft, "lab", "down", "bench"]),
        from: "weft-bench-a".to_owned(),
        to: format!("weft-bench-{to}"),
        address,
    }
}

fn peer(root: &Path, name: &'static str, script: &str) -> Contender {
    let path = root.join(format!("bench/peers/{script}.sh")).display().to_string();
    Contender {
        name,
        up: vec![path.clone(), "up".to_owned()],
        down: vec![path, "down".to_owned()],
        from: format!("bench-{script}-a"),
        to: format!("bench-{script}-b"),
        address: "10.9.0.2",
    }
}

impl Contender {
    /// Builds it and waits until the guests reach each other.
    pub(crate) fn up(&self) -> Result<()> {
        run(&self.up)?;
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let ping = self.command(&self.from, &["ping", "-c1", "-W1", self.address]).output()?;
            if ping.status.success() {
                return Ok(());
            }
        }
        bail!("the guests do not reach each other within 10 s");
    }

    /// Removes it.
    pub(crate) fn down(&self) -> Result<()> {
        run(&self.down)
    }

    /// A command in a namespace.
    pub(crate) fn command(&self, namespace: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).args(words);
        command
    }
}

fn run(words: &[String]) -> Result<()> {
    let output =
        Command::new(&words[0]).args(&words[1..]).output().with_context(|| format!("cannot start {}", words[0]))?;
    if !output.status.success() {
        bail!("{} failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
