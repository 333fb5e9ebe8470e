//! Traffic between guests whose payload is compared by hash.

use std::io::{BufRead, BufReader, Read};
use std::process::Child;

use crate::lab::{Lab, program};

/// The port that sinks listen on.
pub const PORT: &str = "7777";

/// What a source sent or a sink received: `count bytes hash` or `bytes hash`, as printed.
pub type Summary = Vec<String>;

/// A sink that is ready.
#[derive(Debug)]
pub struct Sink {
    child: Child,
    rest: BufReader<std::process::ChildStdout>,
}

/// Starts a sink in a guest and waits until it listens.
///
/// # Panics
/// When it does not.
pub fn sink(lab: &Lab, guest: &str, words: &[&str]) -> Sink {
    let path = program("weft-test-traffic").display().to_string();
    let mut child = lab.spawn(guest, &[&[path.as_str()], words].concat());
    let mut rest = BufReader::new(child.stdout.take().expect("output is piped"));
    let mut line = String::new();
    rest.read_line(&mut line).expect("a sink says that it is ready");
    assert_eq!(line.trim(), "ready", "sink in {guest}");
    Sink { child, rest }
}

impl Sink {
    /// Waits for its end and returns what it received.
    ///
    /// # Panics
    /// When it failed.
    pub fn finish(mut self) -> Summary {
        let mut text = String::new();
        self.rest.read_to_string(&mut text).expect("a sink prints a summary");
        assert!(self.child.wait().expect("a sink ends").success(), "the sink failed: {text}");
        words(&text)
    }
}

/// Runs a source in a guest to its end.
pub fn source(lab: &Lab, guest: &str, arguments: &[&str]) -> Summary {
    let path = program("weft-test-traffic").display().to_string();
    words(&lab.exec(guest, &[&[path.as_str()], arguments].concat()))
}

/// TCP of `bytes` from a guest to another at `address`; what was sent must be what arrived.
///
/// # Panics
/// When it is not.
pub fn tcp(lab: &Lab, from: &str, to: &str, address: &str, bytes: u64) {
    let sink = sink(lab, to, &["tcp-sink", PORT]);
    let sent = source(lab, from, &["tcp-source", &socket(address), &bytes.to_string()]);
    assert_eq!(sink.finish(), sent, "TCP {from} -> {to} {address}");
}

/// `count` datagrams of `size` bytes, slowly enough that none may be lost; all must arrive as sent.
///
/// # Panics
/// When one does not.
pub fn udp(lab: &Lab, from: &str, to: &str, address: &str, size: usize, count: usize) {
    let count = count.to_string();
    let sink = sink(lab, to, &["udp-sink", PORT, &count]);
    let sent = source(lab, from, &["udp-source", &socket(address), &size.to_string(), &count, "--gap-us", "500"]);
    let got = sink.finish();
    assert_eq!((&got[0], &got[2]), (&sent[0], &sent[2]), "UDP of {size} bytes {from} -> {to} {address}");
}

/// `address:port`, with brackets where IPv6 needs them.
pub fn socket(address: &str) -> String {
    if address.contains(':') { format!("[{address}]:{PORT}") } else { format!("{address}:{PORT}") }
}

fn words(text: &str) -> Summary {
    text.split_whitespace().map(str::to_owned).collect()
}
