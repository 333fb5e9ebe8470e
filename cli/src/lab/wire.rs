//! What a lab's keeper is asked and answers: one JSON document per line, one answer after another.

use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::expect::Protocol;
use super::topology::Topology;
use crate::args::{HostProcess, RungName};

/// What a keeper is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Builds the lab; the first request, only on the stream that the keeper was started with.
    Setup(Box<Setup>),
    /// Starts the agents; after the Host objects are there, so that no session is refused.
    StartAgents,
    /// Lets the lab outlive the stream that it was set up on.
    Detach,
    /// Asks what there is.
    Info,
    /// Sends probes and says who saw them.
    Probe(Vec<Probe>),
    /// Ends a process and starts it again, or starts it if it is dead.
    Restart {
        /// A host, or `ctl` for the controller.
        place: String,
        /// Which process of the host.
        process: Option<HostProcess>,
        /// With SIGKILL.
        kill: bool,
    },
    /// Asks for the ends of the logs.
    Logs {
        /// Only of this host.
        place: Option<String>,
        /// Lines of each.
        lines: usize,
    },
    /// Ends the lab.
    Down,
}

/// A lab to be built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Name.
    pub name: String,
    /// What to build.
    pub topology: Topology,
    /// Worker threads per vswitch.
    pub workers: u16,
    /// Best rung allowed.
    pub rung: Option<RungName>,
}

/// What a keeper answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Done,
    /// Not done.
    Failed {
        /// What, where, and what to do.
        message: String,
        /// Ends of logs that tell more.
        logs: Vec<LogTail>,
    },
    /// The answer to `Info`.
    Info(Box<Info>),
    /// The answer to `Logs`.
    Logs(Vec<LogTail>),
    /// The answer to `Probe`.
    Sightings(Vec<Sightings>),
}

/// What there is in a lab.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The lab's name.
    pub name: String,
    /// What it was built from.
    pub topology: Topology,
    /// Whether all of it stands.
    pub ready: bool,
    /// Whether who built it still holds it, and takes it down.
    pub held: bool,
    /// Its network namespaces.
    pub namespaces: Vec<NamespaceInfo>,
    /// Processes that the keeper started.
    pub processes: Vec<ProcessInfo>,
}

/// A network namespace of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceInfo {
    /// Name.
    pub name: String,
    /// What it is for.
    pub kind: PlaceKind,
    /// The keeper's descriptor of it.
    pub fd: i32,
    /// Its inode, by which processes in it are found.
    pub inode: u64,
}

/// What a namespace is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaceKind {
    /// The controller.
    Controller,
    /// The network between the hosts.
    Fabric,
    /// A guest.
    Guest,
    /// A host.
    Host,
}

/// A process that the keeper started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Host, or `ctl`.
    pub place: String,
    /// `controller` or `agent`.
    pub role: String,
    /// Its id as the lab sees it.
    pub pid: u32,
    /// How it ended; `None` while it runs.
    pub ended: Option<String>,
}

/// The end of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTail {
    /// Host, or `ctl`.
    pub place: String,
    /// File name.
    pub name: String,
    /// Its last lines.
    pub text: String,
}

/// Something to send from a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Sending guest.
    pub from: String,
    /// The guest that it is meant for.
    pub to: String,
    /// How.
    pub protocol: Protocol,
    /// Destination address.
    pub address: IpAddr,
    /// Destination UDP or TCP port.
    pub port: u16,
    /// Source UDP or TCP port, or ICMP identifier: different for each probe of a run.
    pub source_port: u16,
    /// What the payload holds, and nothing else in the world does.
    pub nonce: [u8; 16],
    /// Writes the frame by hand to the target's MAC address, so that something leaves the guest even where the
    /// guest's own stack would find no way.
    pub forged: bool,
}

/// Who saw a probe.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sightings {
    /// Guests that received it, and after how many microseconds.
    pub seen: Vec<(String, u64)>,
    /// After how many microseconds the sender had an answer.
    pub answered: Option<u64>,
    /// Why it could not be sent.
    pub error: Option<String>,
}

impl Sightings {
    /// Counts all times from when the probe left instead of from when its batch began.
    pub fn count_from(&mut self, left_at: u64) {
        for at in self.seen.iter_mut().map(|(_, at)| at).chain(&mut self.answered) {
            *at = at.saturating_sub(left_at);
        }
    }
}

/// Documents longer than this are refused.
const LINE_LEN_MAX: u64 = 16 << 20;

/// A stream of documents.
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Lines {
    /// Over a connected stream.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { reader: BufReader::new(stream.try_clone()?), writer: stream })
    }

    /// Gives up on an answer after `timeout`.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.writer.set_read_timeout(timeout)
    }

    /// Sends a document.
    pub fn send<T: Serialize>(&mut self, document: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(document)?;
        line.push(b'\n');
        self.writer.write_all(&line)
    }

    /// Receives a document; `None` at the end. Lines that are none (a panic's message) go to `strange`.
    pub fn receive<T: DeserializeOwned>(&mut self, strange: &mut dyn FnMut(&str)) -> io::Result<Option<T>> {
        loop {
            let mut line = String::new();
            let taken = io::Read::take(&mut self.reader, LINE_LEN_MAX).read_line(&mut line)?;
            if taken == 0 {
                return Ok(None);
            }
            match serde_json::from_str(&line) {
                Ok(document) => return Ok(Some(document)),
                Err(error) if line.starts_with('{') || line.starts_with('"') => return Err(error.into()),
                Err(_) => strange(line.trim_end()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_cross_a_stream_and_strange_lines_are_set_aside() {
        let (a, mut b) = UnixStream::pair().unwrap();
        b.write_all(b"thread main panicked\n\"done\"\n").unwrap();
        drop(b);
        let mut lines = Lines::new(a).unwrap();
        let mut strange = Vec::new();
        let reply: Option<Reply> = lines.receive(&mut |l| strange.push(l.to_owned())).unwrap();
        assert_eq!(reply, Some(Reply::Done));
        assert_eq!(strange, ["thread main panicked"]);
        assert_eq!(lines.receive::<Reply>(&mut |_| {}).unwrap(), None);
    }

    #[test]
    fn a_document_that_is_not_understood_is_an_error() {
        let (a, mut b) = UnixStream::pair().unwrap();
        b.write_all(b"{\"fly\": 1}\n").unwrap();
        assert!(Lines::new(a).unwrap().receive::<Request>(&mut |_| {}).is_err());
    }
}
