//! The deciding half of the agent: events in, outputs out, no I/O, no clock, no randomness of its own.
//!
//! It binds the session, the reconciler, the ports and the supervisor of the vswitch together. A simulator drives it as the
//! real shell does: it gives each event with the time, does the outputs in order, and calls again at `next_wake`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_api::report::QueryKind;
use weft_api::wire::proto::{
    self, AgentMessage, ControllerMessage, agent_message, controller_message, report as wire_report,
};
use weft_api::wire::{PROTOCOL, ip_bytes};
use weft_program::message::{Rung, Underlay};

use crate::reconcile::{Reconciler, to_wire};
use crate::repeats::Repeats;
use crate::report::Labels;
use crate::session::{Session, Wish};
use crate::supervise::Supervisor;
use crate::work::{Cached, Done, NotApplied, NotOpened, Work};

/// Questions of the controller that may be under way.
pub const QUERIES_MAX: usize = 16;
/// After a status, the next waits this long: an operator who waits for a port sees it at once.
pub const STATUS_GAP_MIN: Duration = Duration::from_millis(20);
/// And longer with many ports, since each status names them all.
pub const STATUS_GAP_MAX: Duration = Duration::from_millis(500);
const STATUS_GAP_PER_PORT: Duration = Duration::from_micros(500);
/// Pieces of work that may be under way altogether: devices, questions, and one each of the others.
pub const WORK_MAX: usize = crate::ports::UNDER_WAY_MAX + QUERIES_MAX + 8;

/// Who this agent is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// New at every start.
    pub instance: String,
    /// The build, for people.
    pub build: String,
    /// The underlay as configured, for the hello before it is opened.
    pub underlay: std::net::IpAddr,
    /// Where VXLAN is received.
    pub udp_port: u16,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// Time passed.
    Tick,
    /// A session is open.
    Connected(u64),
    /// A session ended, or could not be opened.
    Disconnected(u64, String),
    /// The controller said something.
    Message(u64, Box<ControllerMessage>),
    /// A piece of work was done.
    Done(Box<Done>),
    /// The vswitch of that instance ended.
    VswitchEnded {
        /// Its instance id.
        instance: String,
        /// How, as far as known.
        why: String,
    },
}

/// Something to do.
#[derive(Debug)]
pub enum Output {
    /// Open a session.
    Connect(u64),
    /// End it.
    Disconnect(u64),
    /// Say something in it.
    Send(u64, Box<AgentMessage>),
    /// Let the hands work.
    Do(Box<Work>),
}

/// The deciding half.
#[derive(Debug)]
pub struct Core {
    identity: Identity,
    session: Session,
    reconciler: Reconciler,
    supervisor: Supervisor,
    queries: usize,
    saving: bool,
    said: Option<proto::Status>,
    status_at: Instant,
    session_failures: Repeats,
    vswitch_failures: Repeats,
    underlay_failures: Repeats,
    out: Vec<Output>,
}

impl Core {
    /// Comes up; `cached` is what an earlier agent remembered, and an error of it is the caller's to print.
    pub fn new(identity: Identity, seed: u64, cached: Option<Cached>, now: Instant) -> (Self, Result<(), String>) {
        let (reconciler, restored) = match cached.map(|cached| Reconciler::restore(cached, now)) {
            None => (Reconciler::default(), Ok(())),
            Some(Ok(reconciler)) => (reconciler, Ok(())),
            Some(Err(why)) => (Reconciler::default(), Err(why)),
        };
        let core = Self {
            identity,
            session: Session::new(seed, now),
            reconciler,
            supervisor: Supervisor::new(now),
            queries: 0,
            saving: false,
            said: None,
            status_at: now,
            session_failures: Repeats::default(),
            vswitch_failures: Repeats::default(),
            underlay_failures: Repeats::default(),
            out: Vec::new(),
        };
        (core, restored)
    }

    /// Takes an event; says what is to be done.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Output> {
        match event {
            Event::Tick => {}
            Event::Connected(number) if self.session.is_current(number) => self.say_hello(number),
            Event::Disconnected(number, why) if self.session.is_current(number) => {
                self.session_ended(&why, now);
            }
            Event::Message(number, message) if self.session.is_current(number) => self.message(number, *message, now),
            Event::Connected(_) | Event::Disconnected(..) | Event::Message(..) => {}
            Event::Done(done) => self.done(*done, now),
            Event::VswitchEnded { instance, why } => {
                if self.supervisor.up().is_some_and(|started| started.instance == instance) {
                    self.vswitch_lost(why, now);
                }
            }
        }
        self.advance(now);
        std::mem::take(&mut self.out)
    }

    /// When to call again with [`Event::Tick`], if nothing happens before.
    pub fn next_wake(&mut self) -> Option<Instant> {
        let up = self.supervisor.up().is_some();
        let ports = if up { self.reconciler.ports().next_wake() } else { None };
        let status = self.session.up().filter(|_| self.status_is_new()).map(|_| self.status_at);
        [self.session.next_wake(), self.supervisor.next_wake(), ports, status].into_iter().flatten().min()
    }

    /// The position of the program that was last in force.
    pub fn position(&self) -> &weft_program::Position {
        self.reconciler.position()
    }

    fn advance(&mut self, now: Instant) {
        match self.session.work(now) {
            Some(Wish::Connect(number)) => self.out.push(Output::Connect(number)),
            Some(Wish::Disconnect(number)) => {
                if self.session_failures.is_news("no answer") {
                    tracing::warn!("the controller does not answer; it is tried again and again");
                }
                self.reconciler.forget_queued();
                self.out.push(Output::Disconnect(number));
            }
            None => {}
        }
        let mut work = self.supervisor.work(now);
        // The program first: a device that is attached before its port is in the program is merely dark.
        work.extend(self.reconciler.work(now));
        if self.supervisor.up().is_some() {
            work.extend(self.reconciler.ports().work(now));
        }
        if !self.saving
            && let Some(cached) = self.reconciler.take_unsaved()
        {
            self.saving = true;
            work.push(Work::Save(Box::new(cached)));
        }
        self.out.extend(work.into_iter().map(|w| Output::Do(Box::new(w))));
        self.report_status(now);
    }

    fn say_hello(&mut self, number: u64) {
        let position = self.reconciler.position();
        let known = *position != weft_program::Position::default();
        let mtu = self.supervisor.underlay().map_or(0, |underlay| underlay.mtu.into());
        let hello = proto::AgentHello {
            protocol: PROTOCOL,
            features: weft_api::wire::FEATURES.iter().map(ToString::to_string).collect(),
            instance: self.identity.instance.clone(),
            build: self.identity.build.clone(),
            position: known.then(|| to_wire(position)),
            underlay: Some(proto::Underlay {
                addresses: vec![ip_bytes(self.identity.underlay)],
                mtu,
                udp_port: self.identity.udp_port.into(),
            }),
        };
        self.send(number, agent_message::Kind::Hello(hello));
    }

    fn message(&mut self, number: u64, message: ControllerMessage, now: Instant) {
        use controller_message::Kind;
        let Some(kind) = message.kind else { return };
        if self.session.up().is_none() && !matches!(kind, Kind::Hello(_) | Kind::Refuse(_)) {
            return;
        }
        match kind {
            Kind::Hello(hello) if hello.protocol == PROTOCOL => {
                tracing::info!(build = hello.build, "session with the controller");
                self.session_failures.forget();
                self.session.greeted();
                (self.said, self.status_at) = (None, now);
            }
            Kind::Hello(hello) => {
                tracing::error!("the controller speaks protocol {}, not {PROTOCOL}: use one build", hello.protocol);
                self.refused(number, now);
            }
            Kind::Refuse(refuse) => {
                if self.session_failures.is_news(&refuse.why) {
                    tracing::warn!("the controller refuses this host: {}", refuse.why);
                }
                self.refused(number, now);
            }
            Kind::Update(update) => {
                if let Some(ack) = self.reconciler.update(update) {
                    self.acknowledge(ack);
                }
            }
            Kind::Open(open) => self.reconciler.ports().open(open.generation, now),
            Kind::Query(query) => self.query(number, &query),
        }
    }

    fn refused(&mut self, number: u64, now: Instant) {
        self.session.refused(now);
        self.reconciler.forget_queued();
        self.out.push(Output::Disconnect(number));
    }

    fn session_ended(&mut self, why: &str, now: Instant) {
        if self.session_failures.is_news(why) {
            tracing::warn!("no session with the controller: {why}; it is tried again and again");
        }
        self.session.ended(now);
        self.reconciler.forget_queued();
    }

    fn query(&mut self, number: u64, query: &proto::Query) {
        let kind = match query.kind() {
            proto::QueryKind::Ports => Ok(QueryKind::Ports),
            proto::QueryKind::Flows => Ok(QueryKind::Flows),
            proto::QueryKind::Fdb => Ok(QueryKind::Fdb),
            proto::QueryKind::Drops => Ok(QueryKind::Drops),
            proto::QueryKind::Ledger => Ok(QueryKind::Ledger),
            proto::QueryKind::Unspecified => Err("this agent does not know that question"),
        };
        let kind = kind.and_then(|kind| match self.supervisor.up() {
            None => Err("the host has no vswitch at the moment"),
            Some(_) if self.queries == QUERIES_MAX => {
                Err("the host answers too many questions at the moment: ask again")
            }
            Some(_) => Ok(kind),
        });
        match kind {
            Ok(kind) => {
                self.queries += 1;
                let (names, program) = self.reconciler.in_force();
                let labels = Arc::new(Labels::new(names, program));
                self.out.push(Output::Do(Box::new(Work::Query { id: query.id, kind, labels })));
            }
            Err(why) => {
                let result = Some(wire_report::Result::Error(why.into()));
                self.send(number, agent_message::Kind::Report(proto::Report { query_id: query.id, result }));
            }
        }
    }

    fn done(&mut self, done: Done, now: Instant) {
        match done {
            Done::Started(result) => {
                match &result {
                    Ok(started) => {
                        tracing::info!(pid = started.pid, ports = started.ports.len(), "the vswitch runs");
                        self.vswitch_failures.forget();
                        self.reconciler.vswitch_up(&started.position, &started.ports, now);
                    }
                    Err(why) if self.vswitch_failures.is_news(why) => {
                        tracing::error!("the vswitch cannot be started: {why}; it is tried again and again");
                    }
                    Err(_) => {}
                }
                self.supervisor.started(result, now);
            }
            Done::Underlay(result) => {
                match &result {
                    Ok(_) => self.underlay_failures.forget(),
                    Err(why) if self.underlay_failures.is_news(why) => {
                        tracing::warn!("no underlay: {why}; it is tried every second");
                    }
                    Err(_) => {}
                }
                self.supervisor.underlay_opened(result, now);
            }
            Done::Opened { id, result } => {
                match &result {
                    Ok(device) => tracing::info!("port {} is attached to {}", device.name, device.ifname),
                    Err(NotOpened::Waiting(why) | NotOpened::Failed(why) | NotOpened::Lost(why)) => {
                        tracing::debug!("{id}: {why}");
                    }
                }
                self.reconciler.ports().opened(id, result, now);
            }
            Done::Closed(id) => self.reconciler.ports().closed(id, now),
            Done::Applied(result) => self.applied(result, now),
            Done::Polled(result) => {
                let failed = result.as_ref().err().cloned();
                for id in self.supervisor.polled(result, now) {
                    self.reconciler.ports().gone(id);
                }
                if let Some(why) = failed {
                    self.vswitch_lost(why, now);
                }
            }
            Done::Queried { id, result } => self.answered(id, result),
            Done::Saved(result) => {
                self.saving = false;
                if let Err(why) = result {
                    tracing::error!("the program cannot be remembered: {why}");
                }
            }
        }
    }

    fn applied(&mut self, result: Result<(), NotApplied>, now: Instant) {
        let lost = match &result {
            Err(NotApplied::Lost(why)) => Some(why.clone()),
            Err(NotApplied::Refused(why)) => {
                tracing::error!("the vswitch refused a program: {why}");
                None
            }
            Ok(()) => None,
        };
        for ack in self.reconciler.applied(result, now) {
            self.acknowledge(ack);
        }
        if let Some(why) = lost {
            self.vswitch_lost(why, now);
        }
    }

    fn vswitch_lost(&mut self, why: String, now: Instant) {
        tracing::warn!("the vswitch is lost: {why}");
        self.supervisor.lost(why, now);
        self.reconciler.vswitch_down();
    }

    fn answered(&mut self, query_id: u64, result: Result<Vec<u8>, String>) {
        self.queries = self.queries.saturating_sub(1);
        let result = Some(match result {
            Ok(json) => wire_report::Result::Json(json),
            Err(why) => wire_report::Result::Error(why),
        });
        if let Some(number) = self.session.up() {
            self.send(number, agent_message::Kind::Report(proto::Report { query_id, result }));
        }
    }

    fn acknowledge(&mut self, ack: proto::Ack) {
        if !ack.error.is_empty() {
            tracing::error!("an update is refused: {}", ack.error);
        }
        if let Some(number) = self.session.up() {
            self.send(number, agent_message::Kind::Ack(ack));
        }
    }

    fn report_status(&mut self, now: Instant) {
        let Some(number) = self.session.up() else { return };
        if now < self.status_at || !self.status_is_new() {
            return;
        }
        let status = self.status();
        let ports = u32::try_from(status.ports.len()).unwrap_or(u32::MAX);
        let gap = STATUS_GAP_PER_PORT.saturating_mul(ports).clamp(STATUS_GAP_MIN, STATUS_GAP_MAX);
        self.said = Some(status.clone());
        self.status_at = now + gap;
        self.send(number, agent_message::Kind::Status(status));
    }

    fn status_is_new(&self) -> bool {
        self.said.as_ref() != Some(&self.status())
    }

    fn status(&self) -> proto::Status {
        let vswitch = self.supervisor.up();
        let problem = match self.reconciler.problem() {
            "" => self.supervisor.problem(),
            problem => problem.to_owned(),
        };
        proto::Status {
            ports: self.reconciler.port_status(vswitch.is_some()),
            vswitch_instance: vswitch.map(|v| v.instance.clone()).unwrap_or_default(),
            vswitch_pid: vswitch.map_or(0, |v| v.pid),
            rungs: self.rungs(),
            problem,
        }
    }

    /// The rung of the host's sockets, the better ones and why not; then the rung in use towards each remote.
    fn rungs(&self) -> Vec<proto::Rung> {
        let (taken, others) = self.supervisor.rungs();
        let rung = |rung, taken, why_not: &str, remote: &str| proto::Rung {
            name: rung_name(rung).to_owned(),
            taken,
            why_not: why_not.to_owned(),
            remote: remote.to_owned(),
        };
        let names = self.reconciler.in_force().0;
        let towards = self.supervisor.remote_rungs().iter().filter_map(|way| {
            let name = names.remote_name(way.remote)?;
            let best = taken.map_or(way.rung, |own| way.rung.min(own));
            Some(rung(best, true, &way.reason, name))
        });
        let own = taken.map(|own| rung(own, true, "", ""));
        let others = others.iter().map(|(other, why)| rung(*other, false, why, ""));
        own.into_iter().chain(others).chain(towards).collect()
    }

    fn send(&mut self, number: u64, kind: agent_message::Kind) {
        self.out.push(Output::Send(number, Box::new(AgentMessage { kind: Some(kind) })));
    }

    /// The underlay that is attached.
    pub fn underlay(&self) -> Option<&Underlay> {
        self.supervisor.underlay()
    }
}

const fn rung_name(rung: Rung) -> &'static str {
    match rung {
        Rung::Single => "single",
        Rung::Batch => "batch",
        Rung::Segment => "segment",
        Rung::Tunnel => "tunnel",
    }
}

#[cfg(test)]
mod tests;
