//! A hub and three agents on one clock, with sessions that end at any message.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weft_api::object::Name;
use weft_api::wire::proto::{
    Ack, AgentHello, AgentMessage, ControllerMessage, Query, QueryKind, Report, Segment, agent_message,
    controller_message, report, update,
};
use weft_api::wire::{Changes, FEATURES, HostProgram, PROTOCOL, Position};

use super::{
    DECLARE_WAIT, HELLO_TIMEOUT, Hub, Input, OPEN_BOUND, Output, QUERY_TIMEOUT, QueryFailure, RETRY_DELAY, SessionId,
    Wanted,
};

const HOSTS: [&str; 3] = ["h1", "h2", "h3"];

/// Applies what it is told, as an agent must.
#[derive(Debug, Default)]
struct Agent {
    program: HostProgram,
    position: Option<Position>,
    opened: u64,
    refuses: u32,
    fulls: u32,
    deltas: u32,
    unchanged: u32,
}

struct Wire {
    id: SessionId,
    down: VecDeque<ControllerMessage>,
    up: VecDeque<AgentMessage>,
    refused: Option<String>,
}

struct World {
    hub: Hub,
    now: Instant,
    agents: BTreeMap<&'static str, Agent>,
    wires: BTreeMap<&'static str, Wire>,
    sessions: u64,
    wanted: BTreeMap<Name, Arc<Wanted>>,
    answers: Vec<(u64, Result<Vec<u8>, QueryFailure>)>,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn program(mtus: &[u32]) -> HostProgram {
    let segment = |(id, mtu): (u32, &u32)| Segment { id, vni: id, mtu: *mtu, domain: id, owner: String::new() }.into();
    (1..).zip(mtus).map(segment).collect()
}

impl World {
    fn new() -> Self {
        Self {
            hub: Hub::new("store-1".into(), "c1".into(), "test".into()),
            now: Instant::now(),
            agents: HOSTS.into_iter().map(|h| (h, Agent::default())).collect(),
            wires: BTreeMap::new(),
            sessions: 0,
            wanted: BTreeMap::new(),
            answers: Vec::new(),
        }
    }

    fn drive(&mut self, input: Input) {
        for output in self.hub.handle(self.now, input) {
            match output {
                Output::Send { session, message } => {
                    if let Some(wire) = self.wires.values_mut().find(|w| w.id == session) {
                        wire.down.push_back(message);
                    }
                }
                Output::Close { session } => {
                    if let Some(wire) = self.wires.values_mut().find(|w| w.id == session) {
                        let last = wire.down.pop_back().and_then(|m| m.kind);
                        let Some(controller_message::Kind::Refuse(refuse)) = last else {
                            panic!("closed without a reason")
                        };
                        wire.refused = Some(refuse.why);
                    }
                }
                Output::Answer { query, result } => self.answers.push((query, result)),
            }
        }
    }

    fn intent(&mut self, generation: u64, programs: &[(&str, HostProgram)]) {
        let programs = programs.iter().map(|(host, program)| (name(host), program.clone())).collect();
        self.wanted = Wanted::all(programs);
        self.drive(Input::Intent { generation, wanted: self.wanted.clone() });
    }

    fn connect(&mut self, host: &'static str) {
        self.lose(host);
        self.sessions += 1;
        let id = SessionId(self.sessions);
        let hello = AgentHello {
            protocol: PROTOCOL,
            features: FEATURES.iter().map(ToString::to_string).collect(),
            instance: format!("a{}", self.sessions),
            position: self.agents[host].position.clone(),
            ..Default::default()
        };
        let up = VecDeque::from([AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) }]);
        self.wires.insert(host, Wire { id, down: VecDeque::new(), up, refused: None });
        self.drive(Input::Connected { session: id, host: host.into() });
    }

    fn lose(&mut self, host: &'static str) {
        if let Some(wire) = self.wires.remove(host) {
            self.drive(Input::Closed { session: wire.id });
        }
    }

    /// The agent reads one message.
    fn down(&mut self, host: &'static str) -> bool {
        let Some(wire) = self.wires.get_mut(host) else { return false };
        let Some(message) = wire.down.pop_front() else { return false };
        let agent = self.agents.get_mut(host).unwrap();
        match message.kind.unwrap() {
            controller_message::Kind::Update(update) => {
                let again = wire.down.iter().any(|m| matches!(m.kind, Some(controller_message::Kind::Update(_))));
                assert!(!again, "a second update while one is unanswered");
                let position = update.position.clone();
                let error = agent.take(update).err().unwrap_or_default();
                wire.up.push_back(AgentMessage { kind: Some(agent_message::Kind::Ack(Ack { position, error })) });
            }
            controller_message::Kind::Open(open) => {
                assert!(
                    open.generation > agent.opened || agent.opened == 0 || open.generation <= self.hub.generation()
                );
                agent.opened = agent.opened.max(open.generation);
            }
            controller_message::Kind::Query(Query { id, .. }) => {
                let report = Report { query_id: id, result: Some(report::Result::Json(b"[]".to_vec())) };
                wire.up.push_back(AgentMessage { kind: Some(agent_message::Kind::Report(report)) });
            }
            controller_message::Kind::Hello(_) | controller_message::Kind::Refuse(_) => {}
        }
        true
    }

    /// The hub reads one message.
    fn up(&mut self, host: &'static str) -> bool {
        let Some(wire) = self.wires.get_mut(host) else { return false };
        let Some(message) = wire.up.pop_front() else { return false };
        let session = wire.id;
        self.drive(Input::Message { session, message });
        true
    }

    fn settle(&mut self) {
        while HOSTS.into_iter().any(|host| self.down(host) || self.up(host)) {}
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.drive(Input::Tick);
    }

    fn check_converged(&self) {
        for (host, wanted) in &self.wanted {
            let agent = &self.agents[host.as_str()];
            let position = Position {
                store_id: "store-1".into(),
                generation: self.hub.generation(),
                digest: wanted.digest.clone(),
            };
            assert_eq!(agent.position.as_ref(), Some(&position), "{host}");
            assert_eq!(agent.program, wanted.program, "{host}");
            assert_eq!(agent.opened, self.hub.generation(), "{host}");
        }
    }
}

impl Agent {
    fn take(&mut self, update: weft_api::wire::proto::Update) -> Result<(), String> {
        if self.refuses > 0 {
            self.refuses -= 1;
            return Err("no".into());
        }
        let position = update.position.unwrap();
        let program = match update.kind.unwrap() {
            update::Kind::Full(full) => {
                self.fulls += 1;
                HostProgram::from_wire(full).map_err(|e| e.to_string())?
            }
            update::Kind::Delta(delta) => {
                self.deltas += 1;
                if delta.base != self.position {
                    return Err("another base".into());
                }
                let changes = Changes { deletes: delta.deletes, puts: delta.puts };
                self.program.patched(changes).map_err(|e| e.to_string())?
            }
            update::Kind::Unchanged(_) => {
                self.unchanged += 1;
                self.program.clone()
            }
        };
        if program.digest() != position.digest {
            return Err("another digest".into());
        }
        self.program = program;
        self.position = Some(position);
        Ok(())
    }
}

/// All hosts connected and at generation 1.
fn settled() -> World {
    let mut world = World::new();
    world.intent(1, &HOSTS.map(|h| (h, program(&[1500]))));
    HOSTS.into_iter().for_each(|host| world.connect(host));
    world.settle();
    world.check_converged();
    world
}

#[test]
fn every_host_acknowledges_every_generation_and_only_changes_travel() {
    let mut world = settled();
    world.intent(2, &[("h1", program(&[1500, 9000])), ("h2", program(&[1500])), ("h3", program(&[1500]))]);
    world.settle();
    world.check_converged();
    let counts = |host| (world.agents[host].fulls, world.agents[host].deltas, world.agents[host].unchanged);
    assert_eq!((counts("h1"), counts("h2"), counts("h3")), ((1, 1, 0), (1, 0, 1), (1, 0, 1)));
}

#[test]
fn what_came_while_an_update_was_unanswered_is_coalesced() {
    let mut world = settled();
    for generation in 2..50 {
        world.intent(generation, &HOSTS.map(|h| (h, program(&[1000 + generation as u32]))));
    }
    world.settle();
    world.check_converged();
    assert_eq!(world.agents["h1"].deltas, 2, "the one in flight, then the newest");
}

#[test]
fn another_store_forces_the_whole_program_even_with_the_same_digest() {
    let mut world = settled();
    world.hub = Hub::new("store-2".into(), "c2".into(), "test".into());
    let programs = HOSTS.map(|h| (h, program(&[1500])));
    world.intent(1, &programs);
    HOSTS.into_iter().for_each(|host| world.connect(host));
    world.settle();
    for agent in world.agents.values() {
        assert_eq!(agent.fulls, 2);
        assert_eq!(agent.position.as_ref().unwrap().store_id, "store-2");
    }
}

#[test]
fn a_controller_that_starts_anew_sends_nothing_to_who_has_it_all() {
    let mut world = settled();
    world.hub = Hub::new("store-1".into(), "c2".into(), "test".into());
    world.intent(1, &HOSTS.map(|h| (h, program(&[1500]))));
    HOSTS.into_iter().for_each(|host| world.connect(host));
    world.settle();
    assert!(world.agents.values().all(|a| (a.fulls, a.deltas, a.unchanged) == (1, 0, 0)));
    assert!(world.hub.hosts().all(|(_, h)| h.acked_generation() == Some(1)));
}

#[test]
fn a_generation_opens_when_the_changed_hosts_have_it_or_after_the_bound() {
    let mut world = settled();
    world.intent(2, &[("h1", program(&[9000])), ("h2", program(&[9000])), ("h3", program(&[1500]))]);
    let exchange = |world: &mut World, host| while world.down(host) || world.up(host) {};
    exchange(&mut world, "h1");
    exchange(&mut world, "h3");
    assert_eq!(world.agents["h1"].opened, 1, "h2 has not acknowledged yet");
    exchange(&mut world, "h2");
    world.settle();
    assert_eq!(world.agents["h1"].opened, 2);

    world.intent(3, &HOSTS.map(|h| (h, program(&[1400]))));
    exchange(&mut world, "h1");
    assert_eq!(world.hub.deadline(), Some(world.now + OPEN_BOUND));
    world.pass(OPEN_BOUND);
    exchange(&mut world, "h1");
    assert_eq!(world.agents["h1"].opened, 3, "a silent host does not block for longer");

    world.intent(4, &HOSTS.map(|h| (h, program(&[1300]))));
    exchange(&mut world, "h1");
    exchange(&mut world, "h2");
    world.lose("h3");
    world.settle();
    assert_eq!(world.agents["h1"].opened, 4, "a host that is gone does not block");
}

#[test]
fn an_undeclared_host_is_refused_and_a_deleted_one_loses_its_session() {
    let mut world = settled();
    world.intent(2, &[("h1", program(&[1500])), ("h2", program(&[1500]))]);
    let why = world.wires["h3"].refused.clone().unwrap();
    assert!(why.contains("no host h3 of kind weft is declared"), "{why}");
    world.connect("h3");
    world.settle();
    assert!(world.wires["h3"].refused.is_none(), "it may be declared any moment");
    world.pass(DECLARE_WAIT);
    assert!(world.wires["h3"].refused.is_some());
    assert!(world.wires["h1"].refused.is_none());
}

#[test]
fn an_agent_that_was_started_before_its_host_was_declared_is_served_at_once() {
    let mut world = World::new();
    HOSTS.into_iter().for_each(|host| world.connect(host));
    world.settle();
    world.intent(1, &HOSTS.map(|h| (h, program(&[1500]))));
    world.settle();
    world.check_converged();
}

#[test]
fn the_newest_session_of_a_host_wins() {
    let mut world = settled();
    let old = world.wires.remove("h1").unwrap();
    world.sessions += 1;
    let id = SessionId(world.sessions);
    let outputs = world.hub.handle(world.now, Input::Connected { session: id, host: "h1".into() });
    assert!(outputs.contains(&Output::Close { session: old.id }));
    let late = world.hub.handle(world.now, Input::Closed { session: old.id });
    assert_eq!(late, []);
    assert!(world.hub.hosts().any(|(n, h)| n.as_str() == "h1" && h.session.as_ref().is_some_and(|s| s.id == id)));
}

#[test]
fn a_refused_change_is_followed_by_the_whole_and_a_refused_whole_is_tried_again_later() {
    let mut world = settled();
    world.agents.get_mut("h1").unwrap().refuses = 2;
    world.intent(2, &HOSTS.map(|h| (h, program(&[9000]))));
    world.settle();
    let error = |world: &World| world.hub.hosts().find(|(n, _)| n.as_str() == "h1").unwrap().1.seen.error.clone();
    assert_eq!(error(&world), "no");
    assert_eq!(world.agents["h1"].position.as_ref().unwrap().generation, 1);
    world.pass(RETRY_DELAY);
    world.settle();
    world.check_converged();
    assert_eq!(error(&world), "");
}

#[test]
fn queries_are_answered_or_fail_with_a_reason() {
    let mut world = settled();
    let ask = |world: &mut World, query, host: &str| {
        world.drive(Input::Query { query, host: host.into(), kind: QueryKind::Ports });
    };
    ask(&mut world, 1, "h1");
    world.settle();
    ask(&mut world, 2, "h2");
    world.lose("h2");
    ask(&mut world, 3, "h2");
    ask(&mut world, 4, "nobody");
    ask(&mut world, 5, "h3");
    world.pass(QUERY_TIMEOUT);
    let failed = |failure| Err(failure);
    assert_eq!(
        world.answers,
        [
            (1, Ok(b"[]".to_vec())),
            (2, failed(QueryFailure::NotConnected(name("h2")))),
            (3, failed(QueryFailure::NotConnected(name("h2")))),
            (4, failed(QueryFailure::NoHost("nobody".into()))),
            (5, failed(QueryFailure::Timeout(name("h3")))),
        ]
    );
}

#[test]
fn a_session_without_a_hello_ends() {
    let mut world = settled();
    world.connect("h1");
    world.pass(HELLO_TIMEOUT);
    assert_eq!(world.wires["h1"].refused.as_deref(), Some("no hello came"));
}

#[derive(Debug, Clone)]
enum Step {
    Intent(Vec<u32>),
    Connect(usize),
    Lose(usize),
    Wipe(usize),
    Refuse(usize),
    Down(usize),
    Up(usize),
    Pass(u64),
}

fn a_step() -> impl Strategy<Value = Step> {
    let host = || 0..HOSTS.len();
    prop_oneof![
        3 => prop::collection::vec(576..9000u32, 0..4).prop_map(Step::Intent),
        2 => host().prop_map(Step::Connect),
        1 => host().prop_map(Step::Lose),
        1 => host().prop_map(Step::Wipe),
        1 => host().prop_map(Step::Refuse),
        8 => host().prop_map(Step::Down),
        8 => host().prop_map(Step::Up),
        2 => (0..700u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_happens_all_hosts_end_at_the_newest_intent(steps in prop::collection::vec(a_step(), 0..120)) {
        let mut world = World::new();
        let mut generation = 1;
        world.intent(generation, &HOSTS.map(|h| (h, program(&[1500]))));
        for step in steps {
            match step {
                Step::Intent(mtus) => {
                    generation += 1;
                    let programs = [("h1", program(&mtus)), ("h2", program(&[1500])), ("h3", program(&mtus))];
                    world.intent(generation, &programs);
                }
                Step::Connect(host) => world.connect(HOSTS[host]),
                Step::Lose(host) => world.lose(HOSTS[host]),
                Step::Wipe(host) => {
                    world.lose(HOSTS[host]);
                    world.agents.insert(HOSTS[host], Agent::default());
                }
                Step::Refuse(host) => world.agents.get_mut(HOSTS[host]).unwrap().refuses = 1,
                Step::Down(host) => drop(world.down(HOSTS[host])),
                Step::Up(host) => drop(world.up(HOSTS[host])),
                Step::Pass(ms) => world.pass(Duration::from_millis(ms)),
            }
        }
        for host in HOSTS {
            if !world.wires.contains_key(host) {
                world.connect(host);
            }
        }
        for _ in 0..4 {
            world.settle();
            world.pass(RETRY_DELAY);
        }
        world.settle();
        world.check_converged();
    }
}
