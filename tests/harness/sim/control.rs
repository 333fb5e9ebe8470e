//! The control plane of the world: the controller's hub, the agents, and the sessions between them.

use std::time::{Duration, Instant};

use weft_agent::core::{Core, Event as AgentEvent, Identity, Output as AgentOutput};
use weft_agent::work::Work;
use weft_controller::compile::compile;
use weft_controller::push::{Hub, Input, Output as HubOutput, SessionId, Wanted};
use weft_controller::store::Store;

use super::link::{Down, Up};
use super::world::{Event, World};

/// An attempt that nobody answers fails after this time; a session that is silently cut off ends after it.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

impl World {
    /// The hub takes what happened.
    pub(super) fn drive_hub(&mut self, input: Input) {
        let now = self.agenda.now();
        let Some(hub) = self.controller.hub.as_mut() else { return };
        for output in hub.handle(now, input) {
            match output {
                HubOutput::Send { session, message } => self.say_down(session, Down::Message(Box::new(message))),
                HubOutput::Close { session } => {
                    self.say_down(session, Down::End("ended by the controller"));
                    if let Some(wire) = self.wires.wire(session) {
                        wire.hub_open = false;
                    }
                    self.wires.sweep(session);
                }
                HubOutput::Answer { .. } => self.tally.answers += 1,
            }
        }
        let deadline = self.controller.hub.as_ref().and_then(Hub::deadline);
        if let Some(at) = deadline.filter(|at| self.controller.wake_at.is_none_or(|known| *at < known)) {
            self.controller.wake_at = Some(at);
            self.agenda.at(at, Event::Hub);
        }
    }

    /// The hub's time has come.
    pub(super) fn wake_hub(&mut self) {
        self.controller.wake_at = None;
        self.drive_hub(Input::Tick);
    }

    /// The controller reads its store and compiles it.
    pub(super) fn read_intent(&mut self) {
        let snapshot = self.controller.store.snapshot();
        let wanted = Wanted::all(compile(&snapshot));
        self.drive_hub(Input::Intent { generation: snapshot.generation, wanted });
    }

    /// A controller starts on the store that there is.
    pub(super) fn start_controller(&mut self) {
        if self.controller.hub.is_some() {
            return;
        }
        self.controller.starts += 1;
        let instance = format!("c{}", self.controller.starts);
        self.controller.hub = Some(Hub::new(self.controller.store.store_id().to_owned(), instance, "sim".into()));
        self.controller.wake_at = None;
        self.read_intent();
    }

    /// The controller is killed; the store stays.
    pub(super) fn kill_controller(&mut self) {
        self.controller.hub = None;
        for session in self.wires.of_host(None) {
            let Some(wire) = self.wires.wire(session) else { continue };
            wire.hub_open = false;
            self.cut(session);
            self.wires.sweep(session);
        }
    }

    /// An agent starts with what is on its disk.
    pub(super) fn start_agent(&mut self, index: usize) {
        let now = self.agenda.now();
        let seed = self.random.bits();
        let host = &mut self.hosts[index];
        if host.agent.is_some() {
            return;
        }
        host.incarnation += 1;
        let identity = Identity {
            instance: format!("{}-a{}", host.name, host.incarnation),
            build: "sim".into(),
            underlay: host.addr,
            udp_port: 4789,
        };
        let (core, restored) = Core::new(identity, seed, host.disk.clone(), now);
        assert_eq!(restored, Ok(()), "{} cannot read what it wrote", host.name);
        host.agent = Some(core);
        self.drive_agent(index, AgentEvent::Tick);
    }

    /// An agent is killed: the kernel closes its session.
    pub(super) fn kill_agent(&mut self, index: usize) {
        self.hosts[index].kill_agent();
        for session in self.wires.of_host(Some(index)) {
            let Some(wire) = self.wires.wire(session) else { continue };
            wire.agent_open = false;
            self.say_up(session, Up::End);
            self.wires.sweep(session);
        }
    }

    /// An agent takes what happened.
    pub(super) fn drive_agent(&mut self, index: usize, event: AgentEvent) {
        let now = self.agenda.now();
        let host = &mut self.hosts[index];
        let incarnation = host.incarnation;
        let Some(core) = host.agent.as_mut() else { return };
        let outputs = core.handle(now, event);
        let wake = core.next_wake();
        for output in outputs {
            match output {
                AgentOutput::Connect(number) => {
                    let wait = self.random.micros(100, 5_000);
                    self.agenda.after(wait, Event::Dial { host: index, incarnation, number });
                }
                AgentOutput::Disconnect(number) => {
                    let Some(session) = self.wires.of_agent(index, incarnation, number) else { continue };
                    self.say_up(session, Up::End);
                    if let Some(wire) = self.wires.wire(session) {
                        wire.agent_open = false;
                    }
                    self.wires.sweep(session);
                }
                AgentOutput::Send(number, message) => {
                    if let Some(session) = self.wires.of_agent(index, incarnation, number) {
                        self.say_up(session, Up::Message(message));
                    }
                }
                AgentOutput::Do(work) => self.begin_work(index, work),
            }
        }
        let host = &mut self.hosts[index];
        // Never at once: time has to pass in a world whose agent wants to be woken for something that is due.
        let at = wake.map(|at| at.max(now + Duration::from_millis(1)));
        if let Some(at) = at.filter(|at| host.wake_at.is_none_or(|known| *at < known)) {
            host.wake_at = Some(at);
            self.agenda.at(at, Event::Agent { host: index, incarnation });
        }
    }

    /// The hands do one thing after the other.
    fn begin_work(&mut self, index: usize, work: Box<Work>) {
        let now = self.agenda.now();
        let longest = if self.faults && self.random.chance(10) { 300_000 } else { 2_000 };
        let takes = self.random.micros(20, longest);
        let host = &mut self.hosts[index];
        let at = host.busy_until.map_or(now, |busy| busy.max(now)) + takes;
        host.busy_until = Some(at);
        let incarnation = host.incarnation;
        self.agenda.at(at, Event::Work { host: index, incarnation, work });
    }

    /// A piece of work takes effect; the agent hears of it a little later.
    pub(super) fn do_work(&mut self, index: usize, incarnation: u64, work: Work) {
        let now = self.agenda.now();
        let host = &mut self.hosts[index];
        if host.incarnation != incarnation {
            return;
        }
        let done = Box::new(host.work(now, work, self.faults, &mut self.random));
        // In the order in which it was done, as answers on one socket come.
        let wait = Duration::from_micros(10);
        self.agenda.after(wait, Event::Done { host: index, incarnation, done });
        self.touch(index);
    }

    /// An agent dials.
    pub(super) fn dial(&mut self, index: usize, incarnation: u64, number: u64) {
        let now = self.agenda.now();
        if self.hosts[index].incarnation != incarnation {
            return;
        }
        if self.partition_of(index).is_some() {
            return self.agenda.after(KEEP_ALIVE, Event::DialFailed { host: index, incarnation, number });
        }
        if self.controller.hub.is_none() {
            let wait = self.random.micros(100, 2_000);
            return self.agenda.after(wait, Event::DialFailed { host: index, incarnation, number });
        }
        self.tally.sessions += 1;
        let session = self.wires.open(index, incarnation, number, now);
        self.say_down(session, Down::Opened);
        let host = self.hosts[index].name.clone();
        self.drive_hub(Input::Connected { session, host });
    }

    /// The time until which a host cannot be reached from the controller.
    pub(super) fn partition_of(&self, index: usize) -> Option<Instant> {
        self.partitions[index].filter(|until| *until > self.agenda.now())
    }

    /// A host and the controller lose each other for a while, silently. Sessions survive a short one.
    pub(super) fn partition(&mut self, index: usize, lasts: Duration) {
        self.partitions[index] = Some(self.agenda.now() + lasts);
        if lasts > KEEP_ALIVE {
            for session in self.wires.of_host(Some(index)) {
                self.agenda.after(KEEP_ALIVE, Event::Cut(session));
            }
        }
    }

    /// Nothing passes in the session any more; its ends learn of it, each in its own time.
    pub(super) fn cut(&mut self, session: SessionId) {
        let waits = [self.random.micros(0, 1_000_000), self.random.micros(0, 1_000_000)];
        let Some(wire) = self.wires.wire(session).filter(|wire| !wire.cut) else { return };
        self.tally.cuts += 1;
        wire.cut = true;
        wire.down.clear();
        wire.up.clear();
        wire.down.push_back(Down::End("the session was lost"));
        wire.up.push_back(Up::End);
        self.agenda.after(waits[0], Event::Down(session));
        self.agenda.after(waits[1], Event::Up(session));
    }

    fn say_down(&mut self, session: SessionId, what: Down) {
        let wait = self.delay();
        let now = self.agenda.now();
        let Some(wire) = self.wires.wire(session).filter(|wire| !wire.cut) else { return };
        wire.down.push_back(what);
        wire.down_at = wire.down_at.max(now + wait);
        self.agenda.at(wire.down_at, Event::Down(session));
    }

    fn say_up(&mut self, session: SessionId, what: Up) {
        let wait = self.delay();
        let now = self.agenda.now();
        let Some(wire) = self.wires.wire(session).filter(|wire| !wire.cut) else { return };
        wire.up.push_back(what);
        wire.up_at = wire.up_at.max(now + wait);
        self.agenda.at(wire.up_at, Event::Up(session));
    }

    fn delay(&mut self) -> Duration {
        let longest = if self.faults && self.random.chance(20) { 400_000 } else { 3_000 };
        self.random.micros(50, longest)
    }

    /// Whether a message of the session waits, or takes the session with it.
    fn is_held_up(&mut self, session: SessionId, again: fn(SessionId) -> Event) -> bool {
        let Some(wire) = self.wires.wire(session) else { return true };
        let (host, cut) = (wire.host, wire.cut);
        if cut {
            return false;
        }
        if let Some(until) = self.partition_of(host) {
            self.agenda.at(until, again(session));
            return true;
        }
        if self.faults && self.random.chance(3) {
            self.cut(session);
            return true;
        }
        false
    }

    /// The agent's end hears the next thing.
    pub(super) fn hear_down(&mut self, session: SessionId) {
        if self.is_held_up(session, Event::Down) {
            return;
        }
        let Some(wire) = self.wires.wire(session) else { return };
        let Some(what) = wire.down.pop_front().filter(|_| wire.agent_open) else { return };
        let (host, number) = (wire.host, wire.number);
        let event = match what {
            Down::Opened => AgentEvent::Connected(number),
            Down::Message(message) => AgentEvent::Message(number, message),
            Down::End(why) => {
                wire.agent_open = false;
                self.say_up(session, Up::End);
                AgentEvent::Disconnected(number, why.into())
            }
        };
        self.wires.sweep(session);
        self.drive_agent(host, event);
    }

    /// The controller's end hears the next thing.
    pub(super) fn hear_up(&mut self, session: SessionId) {
        if self.is_held_up(session, Event::Up) {
            return;
        }
        let Some(wire) = self.wires.wire(session) else { return };
        let Some(what) = wire.up.pop_front().filter(|_| wire.hub_open) else { return };
        let input = match what {
            Up::Message(message) => Input::Message { session, message: *message },
            Up::End => {
                wire.hub_open = false;
                self.say_down(session, Down::End("the controller's end is closed"));
                Input::Closed { session }
            }
        };
        self.wires.sweep(session);
        self.drive_hub(input);
    }
}
