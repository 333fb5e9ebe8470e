//! A running lab, and what a user can ask of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How a lab's vswitches are set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Worker threads of every vswitch.
    pub workers: u16,
    /// The best rung that may be used; `None` for no bound.
    pub rung: Option<&'static str>,
}

impl Setup {
    /// As users get it.
    pub const DEFAULT: Self = Self { workers: 1, rung: None };

    /// Every rung with one and with two workers.
    pub const MATRIX: [Self; 8] = [
        Self { workers: 1, rung: Some("single") },
        Self { workers: 2, rung: Some("single") },
        Self { workers: 1, rung: Some("batch") },
        Self { workers: 2, rung: Some("batch") },
        Self { workers: 1, rung: Some("segment") },
        Self { workers: 2, rung: Some("segment") },
        Self { workers: 1, rung: Some("tunnel") },
        Self { workers: 2, rung: Some("tunnel") },
    ];
}

/// A lab that is taken down, with its ledgers checked, when it is dropped.
#[derive(Debug)]
pub struct Lab {
    name: String,
    /// Set when the test broke the lab on purpose, so that there is nothing to balance.
    broken: bool,
}

/// The workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace")
}

/// A program of the same build, next to the test's own folder.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let path = test.parent().and_then(Path::parent).expect("a test is in target/PROFILE/deps").join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace (make test does)", path.display());
    path
}

/// `weft` with these arguments.
pub fn weft(args: &[&str]) -> Command {
    let mut command = Command::new(program("weft"));
    command.args(args).env_remove("WEFT_LAB").env_remove("WEFT_API");
    command
}

/// One of the shipped topologies, to be changed and then built.
///
/// # Panics
/// When the file cannot be read.
pub fn topology(file: &str) -> Value {
    let path = root().join("topologies").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The object of that kind and name among a topology's manifests.
///
/// # Panics
/// When there is none.
pub fn manifest<'a>(topology: &'a mut Value, kind: &str, name: &str) -> &'a mut Value {
    let manifests = topology["manifests"].as_array_mut().expect("a topology has manifests");
    manifests.iter_mut().find(|m| m["kind"] == kind && m["name"] == name).unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn text(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Lab {
    /// Builds a topology, under a name of this process's own.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn up(topology: &Value, setup: Setup) -> Self {
        let name = format!("t{}", std::process::id());
        let workers = setup.workers.to_string();
        let mut args = vec!["lab", "up", "-", "--name", &name, "--workers", &workers];
        if let Some(rung) = setup.rung {
            args.extend(["--rung", rung]);
        }
        let mut child = weft(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("weft starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(topology.to_string().as_bytes()).expect("weft reads the topology");
        drop(stdin);
        let output = child.wait_with_output().expect("weft ends");
        let lab = Self { name, broken: false };
        assert!(output.status.success(), "lab up: {}\n{}", text(&output), lab.logs());
        lab
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says that its ledgers cannot be asked any more.
    pub fn broken_on_purpose(&mut self) {
        self.broken = true;
    }

    /// The tail of every process's log.
    pub fn logs(&self) -> String {
        weft(&["lab", "logs", "--lab", &self.name, "-n", "40"]).output().map(|o| text(&o)).unwrap_or_default()
    }

    /// `weft --lab NAME` with these arguments, whatever becomes of it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_weft(&self, args: &[&str]) -> Output {
        weft(&["--lab", &self.name]).args(args).output().expect("weft starts")
    }

    /// The same, read as JSON.
    ///
    /// # Panics
    /// When it fails or prints something else.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.try_weft(&[args, &["-o", "json"]].concat());
        assert!(output.status.success(), "weft {}: {}", args.join(" "), text(&output));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("weft {}: {e}: {}", args.join(" "), text(&output)))
    }

    /// A command in a guest, on a host or in `ctl`.
    pub fn command(&self, place: &str, words: &[&str]) -> Command {
        let mut command = weft(&["--lab", &self.name, "lab", "exec", place, "--"]);
        command.args(words);
        command
    }

    /// Runs a command in a place and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn exec(&self, place: &str, words: &[&str]) -> String {
        let output = self.command(place, words).output().expect("weft starts");
        assert!(output.status.success(), "{place}: {}: {}\n{}", words.join(" "), text(&output), self.logs());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a command in a place with its output piped.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, place: &str, words: &[&str]) -> Child {
        self.command(place, words).stdout(Stdio::piped()).spawn().expect("weft starts")
    }

    /// Applies documents and waits until every host has them in force.
    ///
    /// # Panics
    /// When they are refused or a host does not acknowledge.
    pub fn apply(&self, documents: &[Value]) {
        let mut child = weft(&["--lab", &self.name, "apply", "-f", "-", "--wait"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("weft starts");
        let list = Value::from(documents.to_vec()).to_string();
        child.stdin.take().expect("stdin is piped").write_all(list.as_bytes()).expect("weft reads the manifests");
        let output = child.wait_with_output().expect("weft ends");
        assert!(output.status.success(), "apply: {}\n{}", text(&output), self.logs());
    }

    /// Waits until `what` holds.
    ///
    /// # Panics
    /// When it does not within `wait`.
    pub fn until(&self, wait: Duration, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + wait;
        while !holds(self) {
            assert!(Instant::now() < end, "not within {wait:?}: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Pings until one comes through.
    pub fn until_ping(&self, from: &str, address: &str) {
        self.until(Duration::from_secs(10), &format!("{from} pings {address}"), |lab| {
            lab.command(from, &["ping", "-c1", "-W1", address]).output().is_ok_and(|o| o.status.success())
        });
    }

    /// The hosts that run Weft.
    pub fn hosts(&self) -> Vec<String> {
        let status = self.json(&["status"]);
        let hosts = status["hosts"].as_array().expect("status lists hosts");
        hosts
            .iter()
            .filter(|h| h["kind"] == "weft")
            .map(|h| h["host"].as_str().expect("a host has a name").to_owned())
            .collect()
    }

    /// Drops of a host by reason, all ports together.
    pub fn drops(&self, host: &str) -> BTreeMap<String, u64> {
        let report = self.json(&["drops", host]);
        let mut sum = BTreeMap::new();
        let mut rows = vec![&report];
        while let Some(value) = rows.pop() {
            match value {
                Value::Array(items) => rows.extend(items),
                Value::Object(fields) => {
                    match (fields.get("reason").and_then(Value::as_str), fields.get("frames").and_then(Value::as_u64)) {
                        (Some(reason), Some(frames)) => *sum.entry(reason.to_owned()).or_default() += frames,
                        _ => rows.extend(fields.values()),
                    }
                }
                _ => {}
            }
        }
        sum
    }

    /// Asserts that every host's ledger balances, and returns how many frames came in altogether.
    ///
    /// # Panics
    /// When one does not.
    pub fn assert_ledgers(&self) -> u64 {
        let mut frames = 0;
        for host in self.hosts() {
            let ledger = self.ledger(&host);
            assert_eq!(ledger["imbalance"], 0, "the ledger of {host} does not balance: {ledger:#}");
            frames += ledger["total"]["rx"].as_u64().expect("a ledger counts received frames");
        }
        frames
    }

    /// The ledger of a host.
    pub fn ledger(&self, host: &str) -> Value {
        let mut report = self.json(&["drops", host]);
        for _ in 0..3 {
            if report.get("ledger").is_some() {
                return report["ledger"].take();
            }
            report = report
                .as_array_mut()
                .and_then(Vec::pop)
                .or_else(|| report.get_mut(host).map(Value::take))
                .unwrap_or_default();
        }
        panic!("`weft drops -o json` has no ledger");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.broken && !std::thread::panicking() {
            self.assert_ledgers();
        }
        let down = weft(&["lab", "down", &self.name]).output();
        if !std::thread::panicking() {
            let down = down.expect("weft starts");
            // There is nothing to take down where the test killed the keeper; the sweep is what counts then.
            assert!(down.status.success() || self.broken, "lab down: {}", text(&down));
        }
    }
}
