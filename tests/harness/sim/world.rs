//! The world: everything there is, and the loop that lets one thing happen after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_agent::core::Event as AgentEvent;
use weft_agent::work::{Done, Work};
use weft_controller::push::{Hub, SessionId};
use weft_controller::store::MemoryStore;
use weft_packet::FramePool;
use weft_program::message::{Offloads, Rung};
use weft_vswitch::underlay::MemoryDatagram;

use super::agenda::Agenda;
use super::check::Traffic;
use super::guest::Guest;
use super::host::{Host, Setup};
use super::link::Wires;
use super::random::Random;

/// Hosts of every world.
pub const HOSTS: [&str; 3] = ["h1", "h2", "h3"];

/// What happens in a world before it is left in peace.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// For how long intent changes and things break.
    pub trouble: Duration,
    /// Whether things break, or intent merely changes.
    pub faults: bool,
}

impl Plan {
    /// Everything at once.
    pub const TROUBLE: Self = Self { trouble: Duration::from_secs(3), faults: true };
}

/// What happened in a world, to see that a run was worth it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Changes of intent.
    pub changes: usize,
    /// Changes that the controller refused.
    pub refusals: usize,
    /// Sessions opened.
    pub sessions: usize,
    /// Sessions cut.
    pub cuts: usize,
    /// Processes killed.
    pub kills: usize,
    /// Queries asked.
    pub queries: usize,
    /// Queries answered.
    pub answers: usize,
    /// Frames sent by guests.
    pub sent: usize,
    /// Frames received by guests.
    pub arrivals: u64,
    /// Simulated time from the end of all trouble until everything was as intended.
    pub converged_ms: u128,
}

/// The controller: what is on its disk, and its process while it runs.
pub(super) struct Controller {
    pub(super) store: Arc<MemoryStore>,
    pub(super) hub: Option<Hub>,
    pub(super) starts: u64,
    pub(super) wake_at: Option<Instant>,
}

/// A controller, three hosts, their guests, and what is between them.
pub struct World {
    pub(super) agenda: Agenda<Event>,
    pub(super) random: Random,
    pub(super) controller: Controller,
    pub(super) hosts: Vec<Host>,
    pub(super) wires: Wires,
    pub(super) traffic: Traffic,
    /// Until when a host and the controller do not reach each other.
    pub(super) partitions: [Option<Instant>; HOSTS.len()],
    /// Until when two hosts do not reach each other.
    pub(super) torn: BTreeMap<(usize, usize), Instant>,
    /// Whether things may fail.
    pub(super) faults: bool,
    /// Whether intent stays as it is.
    pub(super) trouble_is_over: bool,
    pub(super) tally: Tally,
    /// Buffers of the guests.
    pub(super) pool: FramePool,
    trace: bool,
}

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    Agent { host: usize, incarnation: u64 },
    AgentStart(usize),
    Change,
    Chatter,
    ControllerStart,
    Cut(SessionId),
    Datagram { to: usize, datagram: MemoryDatagram },
    Dial { host: usize, incarnation: u64, number: u64 },
    DialFailed { host: usize, incarnation: u64, number: u64 },
    Done { host: usize, incarnation: u64, done: Box<Done> },
    Down(SessionId),
    Fault,
    Hub,
    Intent,
    NamespaceBack(usize, Guest),
    Second(usize),
    Step(usize),
    Up(SessionId),
    VswitchEnded { host: usize, instance: String },
    Work { host: usize, incarnation: u64, work: Box<Work> },
}

impl World {
    /// A world in which everything runs and nothing is intended yet.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut hosts = Vec::new();
        for (index, name) in (1..).zip(HOSTS) {
            let all = Offloads { csum: true, tso: true, tso_ecn: true, uso: true };
            let setup = Setup {
                workers: 1 + random.below(2),
                rung: random.pick(&[Rung::Single, Rung::Batch, Rung::Segment, Rung::Tunnel]),
                offloads: random.pick(&[all, Offloads::default()]),
                seed: random.bits(),
            };
            let namespaces = Guest::all().collect();
            hosts.push(Host::new(name, [192, 0, 2, index].into(), namespaces, setup));
        }
        let store = Arc::new(MemoryStore::new("store-1"));
        let controller = Controller { store, hub: None, starts: 0, wake_at: None };
        let mut world = Self {
            agenda: Agenda::default(),
            random,
            controller,
            hosts,
            wires: Wires::default(),
            traffic: Traffic::default(),
            partitions: [None; HOSTS.len()],
            torn: BTreeMap::new(),
            faults: false,
            trouble_is_over: false,
            tally: Tally::default(),
            pool: FramePool::new(256),
            trace: std::env::var_os("TRACE").is_some(),
        };
        world.start_controller();
        for index in 0..HOSTS.len() {
            world.start_agent(index);
            world.agenda.after(Duration::from_secs(1), Event::Second(index));
        }
        world.agenda.after(Duration::ZERO, Event::Chatter);
        world
    }

    /// A world's whole life: trouble, then peace until everything is as intended.
    ///
    /// # Panics
    /// When anything is not as it must be.
    pub fn live(seed: u64, plan: Plan) -> Tally {
        let mut world = Self::new(seed);
        world.declare_all();
        world.run(Duration::from_millis(300));
        world.faults = plan.faults;
        world.agenda.after(Duration::ZERO, Event::Change);
        if plan.faults {
            world.agenda.after(Duration::from_millis(20), Event::Fault);
        }
        world.run(plan.trouble);
        world.make_peace();
        // Else some worlds would end empty, because what is deleted is deleted whole.
        if world.random.chance(70) {
            world.run(Duration::from_secs(3));
            world.declare_all();
        }
        world.tally.converged_ms = world.converge().as_millis();
        world.check_reach();
        world.tally.sent = world.traffic.count();
        world.tally.arrivals = world.traffic.arrivals;
        world.tally
    }

    /// Lets things happen for a while.
    pub fn run(&mut self, time: Duration) {
        let end = self.agenda.now() + time;
        while let Some(event) = self.agenda.next(end) {
            if self.trace && !matches!(event, Event::Chatter | Event::Step(_) | Event::Datagram { .. }) {
                println!("{:?} {event:?}", self.agenda.elapsed());
            }
            self.happen(event);
        }
    }

    /// Says what happens, when somebody wants to know.
    pub(super) fn say(&self, what: &str) {
        if self.trace {
            println!("{:?} {what}", self.agenda.elapsed());
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Agent { host, incarnation } => {
                if self.hosts[host].incarnation == incarnation {
                    self.hosts[host].wake_at = None;
                    self.drive_agent(host, AgentEvent::Tick);
                }
            }
            Event::AgentStart(host) => self.start_agent(host),
            Event::Change => self.change(),
            Event::Chatter => {
                self.chatter();
                let wait = self.random.micros(100, if self.trouble_is_over { 20_000 } else { 6_000 });
                self.agenda.after(wait, Event::Chatter);
            }
            Event::ControllerStart => self.start_controller(),
            Event::Cut(session) => self.cut(session),
            Event::Datagram { to, datagram } => self.deliver(to, datagram),
            Event::Dial { host, incarnation, number } => self.dial(host, incarnation, number),
            Event::DialFailed { host, incarnation, number } => {
                if self.hosts[host].incarnation == incarnation {
                    self.drive_agent(host, AgentEvent::Disconnected(number, "nobody answers".into()));
                }
            }
            Event::Done { host, incarnation, done } => {
                if self.hosts[host].incarnation == incarnation {
                    self.drive_agent(host, AgentEvent::Done(done));
                }
            }
            Event::Down(session) => self.hear_down(session),
            Event::Fault => self.fault(),
            Event::Hub => self.wake_hub(),
            Event::Intent => self.read_intent(),
            Event::NamespaceBack(host, guest) => self.hosts[host].namespaces.extend([guest]),
            Event::Second(host) => self.second(host),
            Event::Step(host) => self.step(host),
            Event::Up(session) => self.hear_up(session),
            Event::VswitchEnded { host, instance } => {
                self.drive_agent(host, AgentEvent::VswitchEnded { instance, why: "killed".into() });
            }
            Event::Work { host, incarnation, work } => self.do_work(host, incarnation, *work),
        }
    }

    fn second(&mut self, index: usize) {
        let now = self.agenda.now();
        let host = &mut self.hosts[index];
        host.assert_ledger(now);
        if let Some(vswitch) = &mut host.vswitch {
            vswitch.control.tick(now);
        }
        self.touch(index);
        self.agenda.after(Duration::from_secs(1), Event::Second(index));
    }
}
