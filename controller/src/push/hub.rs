//! The hub: all hosts, their sessions and what they were told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use weft_api::object::Name;
use weft_api::wire::proto::{
    AgentHello, AgentMessage, ControllerHello, ControllerMessage, Open, Query, QueryKind, Refuse, Report,
    agent_message, controller_message, report,
};
use weft_api::wire::{FEATURES, PROTOCOL, Position};

use super::host::{HostState, Session};
use super::opening::Openings;
use super::queries::{Queries, QueryFailure};
use super::waiting::Waiting;
use super::{HISTORY_MAX, Input, Output, SessionId, Wanted};

/// See the module's documentation.
#[derive(Debug)]
pub struct Hub {
    store_id: String,
    instance: String,
    build: String,
    generation: u64,
    /// When each generation came, oldest first.
    commits: VecDeque<(u64, Instant)>,
    hosts: BTreeMap<Name, HostState>,
    sessions: BTreeMap<SessionId, Name>,
    waiting: Waiting,
    openings: Openings,
    queries: Queries,
    outputs: Vec<Output>,
}

impl Hub {
    /// A hub without any intent: it refuses every host.
    pub fn new(store_id: String, instance: String, build: String) -> Self {
        Self {
            store_id,
            instance,
            build,
            generation: 0,
            commits: VecDeque::new(),
            hosts: BTreeMap::new(),
            sessions: BTreeMap::new(),
            waiting: Waiting::default(),
            openings: Openings::default(),
            queries: Queries::default(),
            outputs: Vec::new(),
        }
    }

    /// Takes what happened and returns what is to be done, in order.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Output> {
        match input {
            Input::Intent { generation, wanted } => self.intent(now, generation, wanted),
            Input::Connected { session, host } => self.connected(now, session, &host),
            Input::Message { session, message } => self.message(now, session, message),
            Input::Closed { session } => self.forget(session),
            Input::Query { query, host, kind } => self.query(now, query, &host, kind),
            Input::Tick => self.tick(now),
        }
        self.open(now);
        std::mem::take(&mut self.outputs)
    }

    /// When [`Input::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let hosts = self.hosts.values().filter_map(HostState::deadline);
        let others = [self.waiting.deadline(), self.openings.deadline(), self.queries.deadline()];
        hosts.chain(others.into_iter().flatten()).min()
    }

    /// The store that the intent is in.
    pub fn store_id(&self) -> &str {
        &self.store_id
    }

    /// The newest generation.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// What this controller calls its build.
    pub fn build(&self) -> &str {
        &self.build
    }

    /// All hosts with an agent.
    pub fn hosts(&self) -> impl Iterator<Item = (&Name, &HostState)> {
        self.hosts.iter()
    }

    /// When a generation, or the first later one that was seen, came; `None` when that is too long ago.
    pub fn committed_at(&self, generation: u64) -> Option<Instant> {
        let oldest = self.commits.front().filter(|(oldest, _)| *oldest <= generation)?;
        self.commits.iter().find(|(seen, _)| *seen >= generation).or(Some(oldest)).map(|(_, at)| *at)
    }

    fn intent(&mut self, now: Instant, generation: u64, wanted: BTreeMap<Name, Arc<Wanted>>) {
        self.generation = generation;
        if self.commits.len() == HISTORY_MAX {
            self.commits.pop_front();
        }
        self.commits.push_back((generation, now));
        let gone: Vec<Name> = self.hosts.keys().filter(|host| !wanted.contains_key(*host)).cloned().collect();
        for host in gone {
            self.end_session_of(&host, &not_declared(host.as_str()));
            self.hosts.remove(&host);
        }
        let mut changed = BTreeSet::new();
        for (name, wanted) in wanted {
            let host = self.hosts.entry(name.clone()).or_insert_with(|| HostState::new(Arc::default()));
            if host.wanted.digest != wanted.digest && host.is_connected() {
                changed.insert(name);
            }
            host.retarget(wanted);
        }
        self.openings.begin(generation, changed, now);
        let hosts: Vec<Name> = self.hosts.keys().cloned().collect();
        hosts.iter().for_each(|host| self.update(now, host));
        let declared = &self.hosts;
        for (session, host, hello) in
            self.waiting.admit(|host| Name::new(host).is_ok_and(|n| declared.contains_key(&n)))
        {
            self.connected(now, session, &host);
            if let Some(hello) = hello {
                self.message(now, session, hello);
            }
        }
    }

    fn connected(&mut self, now: Instant, session: SessionId, host: &str) {
        let declared = Name::new(host).ok().filter(|name| self.hosts.contains_key(name));
        let Some(name) = declared else {
            if !self.waiting.begin(session, host, now) {
                self.refuse(session, not_declared(host));
            }
            return;
        };
        self.end_session_of(&name, "a newer session of the same host began");
        if let Some(state) = self.hosts.get_mut(&name) {
            state.session = Some(Session::new(session, now));
            state.seen.last_contact = Some(now);
        }
        self.sessions.insert(session, name);
        let hello = ControllerHello {
            protocol: PROTOCOL,
            features: FEATURES.iter().map(ToString::to_string).collect(),
            instance: self.instance.clone(),
            build: self.build.clone(),
            store_id: self.store_id.clone(),
        };
        self.send(session, controller_message::Kind::Hello(hello));
    }

    fn message(&mut self, now: Instant, session: SessionId, message: AgentMessage) {
        let Some(name) = self.sessions.get(&session).cloned() else { return self.waiting.hear(session, message) };
        let Some(host) = self.hosts.get_mut(&name) else { return };
        host.seen.last_contact = Some(now);
        let greeted = host.session.as_ref().is_some_and(Session::has_greeted);
        match (greeted, message.kind) {
            (false, Some(agent_message::Kind::Hello(hello))) => self.hello(now, session, &name, hello),
            (false, _) | (true, Some(agent_message::Kind::Hello(_))) => {
                self.end_session_of(&name, "a session begins with one hello, and has no other");
            }
            (true, Some(agent_message::Kind::Ack(ack))) => {
                if let Some(generation) = host.answered(now, ack) {
                    self.openings.settle(&name, generation);
                    self.tell_opened(&name);
                }
                self.update(now, &name);
            }
            (true, Some(agent_message::Kind::Status(status))) => host.seen.status = Some(status),
            (true, Some(agent_message::Kind::Report(report))) => self.report(&name, report),
            // A newer agent may say more than we understand.
            (true, None) => {}
        }
    }

    fn hello(&mut self, now: Instant, session: SessionId, name: &Name, hello: AgentHello) {
        if hello.protocol != PROTOCOL {
            let theirs = hello.protocol;
            let why = format!("the controller speaks protocol {PROTOCOL}, not {theirs}: use builds that share one");
            return self.end_session_of(name, &why);
        }
        let goal = Position { store_id: self.store_id.clone(), generation: self.generation, digest: String::new() };
        let Some(host) = self.hosts.get_mut(name) else { return };
        host.greeted(now, hello, &goal);
        debug_assert_eq!(
            host.session.as_ref().map(|s| s.id),
            Some(session),
            "only a host's own session is mapped to it"
        );
        self.update(now, name);
        if self.hosts.get(name).is_some_and(|host| host.acked_generation() == Some(self.generation)) {
            self.tell_opened(name);
        }
    }

    fn report(&mut self, host: &Name, report: Report) {
        if !self.queries.end(report.query_id, host) {
            return;
        }
        let refused = |why: String| QueryFailure::Refused { host: host.clone(), why };
        let result = match report.result {
            Some(report::Result::Json(json)) => Ok(json),
            Some(report::Result::Error(why)) => Err(refused(why)),
            None => Err(refused("its answer is empty".into())),
        };
        self.outputs.push(Output::Answer { query: report.query_id, result });
    }

    fn query(&mut self, now: Instant, query: u64, host: &str, kind: QueryKind) {
        match self.ask(now, query, host) {
            Ok(session) => self.send(session, controller_message::Kind::Query(Query { id: query, kind: kind.into() })),
            Err(failure) => self.outputs.push(Output::Answer { query, result: Err(failure) }),
        }
    }

    fn ask(&mut self, now: Instant, query: u64, host: &str) -> Result<SessionId, QueryFailure> {
        let no_host = || QueryFailure::NoHost(host.to_owned());
        let name = Name::new(host).map_err(|_| no_host())?;
        let state = self.hosts.get(&name).ok_or_else(no_host)?;
        let session = state.session.as_ref().filter(|s| s.has_greeted()).map(|s| s.id);
        let session = session.ok_or_else(|| QueryFailure::NotConnected(name.clone()))?;
        if !state.answers_queries() {
            return Err(QueryFailure::Unsupported(name));
        }
        if self.queries.begin(query, &name, now) { Ok(session) } else { Err(QueryFailure::Busy(name)) }
    }

    fn tick(&mut self, now: Instant) {
        for (session, host) in self.waiting.expire(now) {
            self.refuse(session, not_declared(&host));
        }
        for (query, host) in self.queries.expire(now) {
            self.outputs.push(Output::Answer { query, result: Err(QueryFailure::Timeout(host)) });
        }
        let due: Vec<Name> = self
            .hosts
            .iter()
            .filter(|(_, h)| h.deadline().is_some_and(|at| at <= now))
            .map(|(n, _)| n.clone())
            .collect();
        for host in due {
            let mute = self.hosts.get(&host).and_then(|h| h.session.as_ref()).is_some_and(|s| s.is_mute(now));
            if mute {
                self.end_session_of(&host, "no hello came");
            } else {
                self.update(now, &host);
            }
        }
    }

    /// Sends a host what brings it to the newest intent, when that is due.
    fn update(&mut self, now: Instant, name: &Name) {
        let Some(host) = self.hosts.get_mut(name) else { return };
        let Some(session) = host.session.as_ref().map(|s| s.id) else { return };
        if let Some(update) = host.update(now, &self.store_id, self.generation) {
            self.send(session, controller_message::Kind::Update(update));
        }
    }

    /// Opens what is due and tells everybody.
    fn open(&mut self, now: Instant) {
        if self.openings.advance(now).is_none() {
            return;
        }
        let hosts: Vec<Name> = self.hosts.keys().cloned().collect();
        hosts.iter().for_each(|host| self.tell_opened(host));
    }

    fn tell_opened(&mut self, host: &Name) {
        let generation = self.openings.opened();
        if let Some(session) = self.hosts.get_mut(host).and_then(|h| h.learns_of(generation)) {
            self.send(session, controller_message::Kind::Open(Open { generation }));
        }
    }

    fn send(&mut self, session: SessionId, kind: controller_message::Kind) {
        self.outputs.push(Output::Send { session, message: ControllerMessage { kind: Some(kind) } });
    }

    fn refuse(&mut self, session: SessionId, why: String) {
        self.send(session, controller_message::Kind::Refuse(Refuse { why }));
        self.outputs.push(Output::Close { session });
    }

    fn end_session_of(&mut self, host: &Name, why: &str) {
        let session = self.hosts.get(host).and_then(|h| h.session.as_ref()).map(|s| s.id);
        if let Some(session) = session {
            self.refuse(session, why.to_owned());
            self.forget(session);
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.waiting.forget(session);
        let Some(name) = self.sessions.remove(&session) else { return };
        if let Some(host) = self.hosts.get_mut(&name) {
            host.session = None;
        }
        self.openings.settle(&name, u64::MAX);
        for query in self.queries.abandon(&name) {
            self.outputs.push(Output::Answer { query, result: Err(QueryFailure::NotConnected(name.clone())) });
        }
    }
}

fn not_declared(host: &str) -> String {
    format!("no host {host} of kind weft is declared: apply a Host object with that name, or stop its agent")
}
