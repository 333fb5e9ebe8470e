//! What the control socket's requests do, apart from the socket.
//!
//! Generic over the [`Fleet`], so that the same code drives worker threads in the process and plain workers in the
//! simulator. Every change is answered when no worker can act by the old state any more.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_program::message::{
    FDS_MAX, Hello, LedgerReport, PROTOCOL, PortDevice, PortKind, PortReport, RefuseReason, Request, Response, Rung,
    Status, Underlay,
};
use weft_program::{Bundle, PortId};

use crate::counters::PortCounters;
use crate::learn::Learned;
use crate::limits::LIMITS;
use crate::port::Attached;
use crate::publish::{PublishError, Publisher};
use crate::report;
use crate::underlay::AttachedUnderlay;
use crate::worker::{Command, Reply, WorkerReport};

/// The workers, as the control side sees them.
pub trait Fleet {
    /// How many.
    fn workers(&self) -> usize;

    /// Gives every worker the command and waits for all answers, each given between two bursts.
    fn ask(&mut self, command: &Command) -> Result<Vec<Reply>, FleetError>;
}

/// Why the workers did not all answer.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// One did not come to the end of a burst.
    #[error("worker {worker} did not answer within {waited:?}: it hangs, restart the vswitch")]
    Silent {
        /// Which.
        worker: usize,
        /// How long it was given.
        waited: Duration,
    },
}

/// One answer and the descriptors that go with it.
#[derive(Debug)]
pub struct Answer {
    /// What to say.
    pub response: Response,
    /// What to send along.
    pub fds: Vec<OwnedFd>,
}

/// The control side's state.
pub struct Control<F> {
    /// The workers.
    pub fleet: F,
    publisher: Arc<Publisher>,
    learned: Arc<Learned>,
    hello: Hello,
    ports: BTreeMap<PortId, Arc<Attached>>,
    device_drops: BTreeMap<PortId, u64>,
    underlay: Option<Arc<AttachedUnderlay>>,
    ending: bool,
}

impl<F: Fleet> Control<F> {
    /// A vswitch with nothing attached and an empty program. `instance` is new at every start.
    pub fn new(fleet: F, publisher: Arc<Publisher>, learned: Arc<Learned>, instance: String) -> Self {
        let build = env!("CARGO_PKG_VERSION").to_owned();
        let hello = Hello { protocol: PROTOCOL, features: Vec::new(), instance, build };
        let (ports, device_drops) = (BTreeMap::new(), BTreeMap::new());
        Self { fleet, publisher, learned, hello, ports, device_drops, underlay: None, ending: false }
    }

    /// Does what is asked. Everything but an inventory is one answer.
    pub fn handle(&mut self, now: Instant, request: Request, fds: Vec<OwnedFd>) -> Vec<Answer> {
        let wanted = match &request {
            Request::Attach(device) => device.fds,
            Request::AttachUnderlay(underlay) => underlay.fds(),
            _ => 0,
        };
        if fds.len() != wanted {
            return refused(RefuseReason::Descriptors { got: fds.len(), wanted });
        }
        match request {
            Request::Hello(theirs) => self.greet(&theirs),
            Request::Attach(device) => one(self.attach(device, fds)),
            Request::Detach(port) => one(self.detach(port)),
            Request::AttachUnderlay(underlay) => one(self.attach_underlay(underlay, fds)),
            Request::UnderlayChanged(mtu) => one(self.underlay_changed(mtu, now)),
            Request::Inventory => self.inventory(),
            Request::Apply(bundle) => one(self.apply(&bundle)),
            Request::Status => one(self.status().map(Response::Status)),
            Request::Rules => one(self.reports().map(|_| Response::Rules(self.publisher.current().rule_reports()))),
            Request::Fdb => ok(self.fdb(now)),
            Request::Ports => one(self.port_reports().map(Response::Ports)),
            Request::Ledger => one(self.ledger().map(Response::Ledger)),
            Request::Shutdown => {
                self.ending = true;
                ok(Response::Done)
            }
        }
    }

    /// Whether somebody asked for the end.
    pub const fn is_ending(&self) -> bool {
        self.ending
    }

    /// Housekeeping, once per second: forgets learned stations that were silent too long.
    pub fn tick(&mut self, now: Instant) {
        let second = self.learned.second(now);
        self.learned.expire(&self.publisher.current(), second);
    }

    /// Attaches a device that is open already: memory ports come in this way.
    pub fn attach_device(&mut self, attached: Attached) -> Result<Response, RefuseReason> {
        let id = attached.device.id;
        self.check_id(id)?;
        let attached = Arc::new(attached);
        if let Err(error) = self.tell(&Command::Attach(attached.clone())) {
            self.tell(&Command::Detach(id))?;
            return Err(error);
        }
        self.device_drops.insert(id, 0);
        self.ports.insert(id, attached);
        Ok(Response::Done)
    }

    /// Attaches an underlay that is open already, in place of the one before.
    pub fn attach_open_underlay(&mut self, underlay: AttachedUnderlay) -> Result<Response, RefuseReason> {
        let underlay = Arc::new(underlay);
        self.tell(&Command::AttachUnderlay(underlay.clone()))?;
        self.underlay = Some(underlay);
        Ok(Response::Done)
    }

    fn greet(&self, theirs: &Hello) -> Vec<Answer> {
        if theirs.protocol != PROTOCOL {
            return refused(RefuseReason::Protocol { ours: PROTOCOL, theirs: theirs.protocol });
        }
        ok(Response::Hello(self.hello.clone()))
    }

    fn check_id(&self, id: PortId) -> Result<(), RefuseReason> {
        // Ids index tables, so their bound bounds the number of ports too.
        if id.0 == 0 || id.0 as usize >= LIMITS.ports_max {
            return Err(unusable(format!("{id} is out of range: use 1 to {}", LIMITS.ports_max - 1)));
        }
        if self.ports.contains_key(&id) {
            return Err(unusable(format!("{id} is attached already: detach it first")));
        }
        Ok(())
    }

    fn attach(&mut self, device: PortDevice, fds: Vec<OwnedFd>) -> Result<Response, RefuseReason> {
        let id = device.id;
        if device.kind == PortKind::Memory {
            return Err(unusable(format!("{id}: a memory port cannot come over a socket")));
        }
        if fds.is_empty() {
            return Err(RefuseReason::Descriptors { got: 0, wanted: 1 });
        }
        self.check_id(id)?;
        let attached = Attached::new(device, fds).map_err(|error| unusable(format!("{id}: {error}")))?;
        self.attach_device(attached)
    }

    fn detach(&mut self, port: PortId) -> Result<Response, RefuseReason> {
        if !self.ports.contains_key(&port) {
            return Err(unusable(format!("{port} is not attached")));
        }
        self.tell(&Command::Detach(port))?;
        self.ports.remove(&port);
        self.device_drops.remove(&port);
        Ok(Response::Done)
    }

    fn attach_underlay(&mut self, underlay: Underlay, fds: Vec<OwnedFd>) -> Result<Response, RefuseReason> {
        if underlay.rx_fds != self.fleet.workers() || underlay.tx_fds == 0 || fds.len() > FDS_MAX {
            let workers = self.fleet.workers();
            return Err(unusable(format!(
                "the underlay needs {workers} receiving sockets (one per worker) and at least one to send"
            )));
        }
        self.attach_open_underlay(AttachedUnderlay::new(underlay, fds))
    }

    /// In force with each worker's next frame; what is queued in the sockets stays there.
    fn underlay_changed(&mut self, mtu: u16, now: Instant) -> Result<Response, RefuseReason> {
        let underlay = self.underlay.as_ref().ok_or_else(|| unusable("no underlay is attached".to_owned()))?;
        underlay.changed(mtu, now);
        self.tell(&Command::LookAtTables)?;
        Ok(Response::Done)
    }

    fn inventory(&self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let duplicate = |fds: Vec<std::os::fd::BorrowedFd<'_>>| {
            fds.into_iter().map(|fd| fd.as_fd().try_clone_to_owned()).collect::<std::io::Result<Vec<_>>>()
        };
        let ports = self.ports.values().map(|port| (Response::Attached(port.device.clone()), duplicate(port.fds())));
        let underlay = self.underlay.iter().map(|u| (Response::AttachedUnderlay(u.config()), duplicate(u.fds())));
        for (response, fds) in ports.chain(underlay) {
            match fds {
                Ok(fds) => answers.push(Answer { response, fds }),
                Err(error) => return refused(unusable(format!("no duplicate of a descriptor: {error}"))),
            }
        }
        answers.extend(ok(Response::Done));
        answers
    }

    fn apply(&mut self, bundle: &Bundle) -> Result<Response, Vec<RefuseReason>> {
        let endpoints = self.publisher.current().endpoints_version();
        match self.publisher.apply(bundle, IN_FORCE_MAX) {
            Ok(_) if self.publisher.current().endpoints_version() != endpoints => {
                // New remotes are probed before the first frame goes there.
                self.tell(&Command::LookAtTables).map(|()| Response::Done).map_err(|reason| vec![reason])
            }
            Ok(_) => Ok(Response::Done),
            Err(PublishError::Refused(reasons)) => Err(reasons.into_iter().map(RefuseReason::Bundle).collect()),
            Err(error) => Err(vec![unusable(error.to_string())]),
        }
    }

    fn status(&mut self) -> Result<Status, RefuseReason> {
        let reports = self.reports()?;
        let tables = self.publisher.current();
        let (rung, rungs_not_taken) = rungs(&reports);
        Ok(Status {
            position: tables.position().clone(),
            rules: tables.rule_count(),
            workers: self.fleet.workers(),
            pid: std::process::id(),
            rung,
            rungs_not_taken,
            remote_rungs: self.underlay.as_ref().map(|underlay| underlay.remote_rungs()).unwrap_or_default(),
        })
    }

    fn fdb(&self, now: Instant) -> Response {
        let mut entries = self.publisher.current().fdb_reports();
        entries.extend(self.learned.reports(self.learned.second(now)));
        Response::Fdb(entries)
    }

    fn port_reports(&mut self) -> Result<Vec<PortReport>, RefuseReason> {
        let reports = self.reports()?;
        let tables = self.publisher.current();
        let mut all = Vec::with_capacity(self.ports.len());
        for (id, port) in &self.ports {
            let mut sum = PortCounters::default();
            reports.iter().filter_map(|report| report.ports.get(id)).for_each(|counters| sum += counters);
            let lost = self.device_drops.entry(*id).or_default();
            *lost += port.device_drops();
            all.push(PortReport {
                device: port.device.clone(),
                live: tables.port(*id).is_some_and(|config| config.live),
                gone: reports.iter().any(|report| report.gone.contains(id)),
                rx_frames: sum.rx_frames,
                rx_bytes: sum.rx_bytes,
                tx_frames: sum.tx_frames,
                tx_bytes: sum.tx_bytes,
                drops: sum.drop_counts(),
                device_drops: if *lost > 0 { vec![("packet_socket".to_owned(), *lost)] } else { Vec::new() },
            });
        }
        Ok(all)
    }

    fn ledger(&mut self) -> Result<LedgerReport, RefuseReason> {
        Ok(report::ledger(&self.reports()?, &self.learned.counts()))
    }

    fn reports(&mut self) -> Result<Vec<WorkerReport>, RefuseReason> {
        let replies = self.fleet.ask(&Command::Report).map_err(|error| unusable(error.to_string()))?;
        Ok(replies.into_iter().filter_map(Reply::report).collect())
    }

    fn tell(&mut self, command: &Command) -> Result<(), RefuseReason> {
        let replies = self.fleet.ask(command).map_err(|error| unusable(error.to_string()))?;
        match replies.into_iter().find_map(Reply::refusal) {
            Some(why) => Err(unusable(why)),
            None => Ok(()),
        }
    }
}

/// The rung that all workers are on, and why no better one.
fn rungs(reports: &[WorkerReport]) -> (Option<Rung>, Vec<(Rung, String)>) {
    let rung = reports.iter().filter_map(|report| report.rung).min();
    let reasons: BTreeSet<_> = reports.iter().flat_map(|report| report.rungs_not_taken.iter().cloned()).collect();
    (rung, reasons.into_iter().collect())
}

fn one<E: Into<Reasons>>(result: Result<Response, E>) -> Vec<Answer> {
    ok(result.unwrap_or_else(|reasons| Response::Refused(reasons.into().0)))
}

fn ok(response: Response) -> Vec<Answer> {
    vec![Answer { response, fds: Vec::new() }]
}

fn refused(reason: RefuseReason) -> Vec<Answer> {
    ok(Response::Refused(vec![reason]))
}

const fn unusable(why: String) -> RefuseReason {
    RefuseReason::Unusable(why)
}

struct Reasons(Vec<RefuseReason>);

impl From<RefuseReason> for Reasons {
    fn from(reason: RefuseReason) -> Self {
        Self(vec![reason])
    }
}

impl From<Vec<RefuseReason>> for Reasons {
    fn from(reasons: Vec<RefuseReason>) -> Self {
        Self(reasons)
    }
}

/// How long a program change may take to be in force; a burst takes well under a millisecond.
const IN_FORCE_MAX: Duration = Duration::from_secs(2);
