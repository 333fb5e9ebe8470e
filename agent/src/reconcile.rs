//! Wanted against installed: takes the controller's updates and leads the vswitch to them, one bundle at a time.
//!
//! A program counts only once the vswitch has it in force; until then the old one is the base of everything. A vswitch whose
//! program we cannot know (it or we are new) gets the whole in one swap. What we have no program for is left alone.

use std::time::Instant;

use prost::Message;
use weft_api::wire::proto::{self, update};
use weft_api::wire::{Changes, HostProgram};
use weft_program::{Bundle, Op, Position, Program};

use crate::lower::{Names, lower};
use crate::ports::Ports;
use crate::work::{AttachedPort, Cached, NotApplied, Work};

/// The host's program, and how far the vswitch is.
#[derive(Debug, Default)]
pub struct Reconciler {
    /// The last program that was in force.
    accepted: Accepted,
    /// The update that is to be in force next.
    pending: Option<Accepted>,
    /// One that came meanwhile; a later one replaces it.
    queued: Option<proto::Update>,
    /// What the vswitch has; `None` when we cannot know.
    installed: Option<Program>,
    applying: Option<Applying>,
    ports: Ports,
    /// What a vswitch has attached that we know no program of.
    found: Vec<AttachedPort>,
    vswitch_is_up: bool,
    /// Ports have gone live that the vswitch was not told of.
    relight: bool,
    unsaved: bool,
    problem: String,
}

#[derive(Debug, Clone, Default)]
struct Accepted {
    position: Position,
    host: HostProgram,
    names: Names,
    program: Program,
}

#[derive(Debug)]
struct Applying {
    program: Program,
    why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Update,
    Restore,
    Live,
}

impl Reconciler {
    /// Comes up with what an earlier agent remembered.
    pub fn restore(cached: Cached, now: Instant) -> Result<Self, String> {
        let message = proto::HostProgram::decode(cached.program.as_slice()).map_err(|e| e.to_string())?;
        let host = HostProgram::from_wire(message).map_err(|e| e.to_string())?;
        if host.digest() != cached.position.digest {
            return Err("its digest is another one than its position says".into());
        }
        let mut names = cached.names;
        let program = lower(&host, &mut names).map_err(|errors| join(&errors))?;
        let position = cached.position;
        let mut reconciler = Self { accepted: Accepted { position, host, names, program }, ..Self::default() };
        reconciler.follow(now);
        reconciler.ports.restore_live(&cached.live);
        Ok(reconciler)
    }

    /// Takes an update; an answer only when it is refused right away.
    pub fn update(&mut self, update: proto::Update) -> Option<proto::Ack> {
        if self.pending.is_some() {
            self.queued = Some(update);
            return None;
        }
        let position = update.position.clone();
        match self.accept(update) {
            Ok(accepted) => {
                self.pending = Some(accepted);
                None
            }
            Err(error) => Some(proto::Ack { position, error }),
        }
    }

    fn accept(&self, update: proto::Update) -> Result<Accepted, String> {
        let position = update.position.map(from_wire).ok_or("an update without a position")?;
        let host = match update.kind.ok_or("an update of no kind")? {
            update::Kind::Full(program) => HostProgram::from_wire(program).map_err(|e| e.to_string())?,
            update::Kind::Delta(delta) => {
                let base = delta.base.map(from_wire).unwrap_or_default();
                if base != self.accepted.position {
                    return Err(format!(
                        "this host stands at {}, not at {}",
                        text(&self.accepted.position),
                        text(&base)
                    ));
                }
                let changes = Changes { deletes: delta.deletes, puts: delta.puts };
                self.accepted.host.patched(changes).map_err(|e| e.to_string())?
            }
            update::Kind::Unchanged(_) => self.accepted.host.clone(),
        };
        if host.digest() != position.digest {
            return Err("the program's digest is another one than its position says".into());
        }
        let mut names = self.accepted.names.clone();
        let program = lower(&host, &mut names).map_err(|errors| join(&errors))?;
        Ok(Accepted { position, host, names, program })
    }

    /// A vswitch runs; what it has attached is kept where it fits.
    pub fn vswitch_up(&mut self, position: &Position, attached: &[AttachedPort], now: Instant) {
        self.vswitch_is_up = true;
        let blank = *position == Position::default();
        self.installed = blank.then(Program::default);
        for device in attached.iter().map(|a| &a.device) {
            self.accepted.names.adopt_port(&device.name, device.id);
        }
        if !self.has_program() {
            // It may forward by a program that we do not know: it goes on until the controller says what is wanted.
            self.found = attached.to_vec();
            return;
        }
        self.installed = None;
        self.follow(now);
        self.ports.vswitch_has(attached, now);
    }

    /// The vswitch is not there any more.
    pub fn vswitch_down(&mut self) {
        self.vswitch_is_up = false;
        self.installed = None;
        self.found.clear();
    }

    /// The next change for the vswitch, when none is under way and there is one.
    pub fn work(&mut self, now: Instant) -> Option<Work> {
        if !self.vswitch_is_up || self.applying.is_some() {
            return None;
        }
        if self.ports.light_up(now) {
            (self.relight, self.unsaved) = (true, true);
        }
        let (next, why) = match (&self.pending, &self.installed) {
            (Some(pending), _) => (pending, Why::Update),
            (None, None) if self.has_program() => (&self.accepted, Why::Restore),
            (None, Some(_)) if self.relight => (&self.accepted, Why::Live),
            _ => return None,
        };
        let mut program = next.program.clone();
        for (id, port) in &mut program.ports {
            let was_live = self.found.iter().any(|found| found.device.id == *id && found.live);
            port.live = was_live || self.ports.is_live(*id);
        }
        let (replace, ops) = match &self.installed {
            Some(installed) => (false, installed.diff(&program)),
            None => (true, whole(&program)),
        };
        self.relight = false;
        let bundle = Bundle { replace, ops, position: next.position.clone() };
        self.applying = Some(Applying { program, why });
        Some(Work::Apply(Box::new(bundle)))
    }

    /// What became of the change; says what the controller is told.
    pub fn applied(&mut self, result: Result<(), NotApplied>, now: Instant) -> Vec<proto::Ack> {
        let Some(applying) = self.applying.take() else { return Vec::new() };
        let mut acks = Vec::new();
        match (result, applying.why) {
            (Ok(()), why) => {
                if self.vswitch_is_up {
                    self.installed = Some(applying.program);
                }
                if why == Why::Update {
                    acks.extend(self.commit(now));
                }
                if why != Why::Live {
                    self.ports.in_force(now);
                    self.problem.clear();
                }
            }
            (Err(NotApplied::Refused(error)), Why::Update) => {
                let refused = self.pending.take();
                acks.extend(refused.map(|p| proto::Ack { position: Some(to_wire(&p.position)), error }));
            }
            (Err(NotApplied::Refused(error)), Why::Restore) => {
                // Without a position the controller sends the whole; until then the vswitch keeps what it has.
                self.problem = format!("the vswitch refused the program that was in force: {error}");
                self.accepted.position = Position::default();
            }
            (Err(NotApplied::Refused(error)), Why::Live) => {
                self.problem = format!("the vswitch refused to let ports go live: {error}");
                self.installed = None;
            }
            (Err(NotApplied::Lost(_)), _) => {}
        }
        if self.pending.is_none()
            && let Some(queued) = self.queued.take()
        {
            acks.extend(self.update(queued));
        }
        acks
    }

    fn commit(&mut self, now: Instant) -> Option<proto::Ack> {
        self.accepted = self.pending.take()?;
        self.follow(now);
        let found = std::mem::take(&mut self.found);
        if !found.is_empty() {
            self.ports.vswitch_has(&found, now);
        }
        self.unsaved = true;
        Some(proto::Ack { position: Some(to_wire(&self.accepted.position)), error: String::new() })
    }

    fn follow(&mut self, now: Instant) {
        let Accepted { position, host, names, .. } = &self.accepted;
        self.ports.follow(host, names, position.generation, now);
    }

    /// The session ended: what waits in the queue will come again.
    pub fn forget_queued(&mut self) {
        self.queued = None;
    }

    /// What is to be remembered, when it changed since the last call.
    pub fn take_unsaved(&mut self) -> Option<Cached> {
        if !std::mem::take(&mut self.unsaved) || !self.has_program() {
            return None;
        }
        let Accepted { position, host, names, .. } = &self.accepted;
        Some(Cached {
            position: position.clone(),
            names: names.clone(),
            live: self.ports.live(),
            program: host.to_wire().encode_to_vec(),
        })
    }

    /// The host's ports.
    pub fn ports(&mut self) -> &mut Ports {
        &mut self.ports
    }

    /// How the ports stand, for the controller; without a vswitch none is live.
    pub fn port_status(&self, has_vswitch: bool) -> Vec<proto::PortStatus> {
        self.ports.status(has_vswitch)
    }

    /// The position of the program that was last in force.
    pub fn position(&self) -> &Position {
        &self.accepted.position
    }

    /// The numbers in use and the program that they are used in.
    pub fn in_force(&self) -> (&Names, &Program) {
        (&self.accepted.names, &self.accepted.program)
    }

    /// What is wrong with the program; empty when nothing is.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    fn has_program(&self) -> bool {
        self.accepted.position != Position::default()
    }
}

/// A position on the wire.
pub fn to_wire(position: &Position) -> proto::Position {
    let Position { store_id, generation, digest } = position.clone();
    proto::Position { store_id, generation, digest }
}

fn from_wire(position: proto::Position) -> Position {
    Position { store_id: position.store_id, generation: position.generation, digest: position.digest }
}

fn whole(program: &Program) -> Vec<Op> {
    Program::default().diff(program)
}

fn text(position: &Position) -> String {
    if *position == Position::default() {
        return "no program".into();
    }
    format!("generation {} of store {}", position.generation, position.store_id)
}

fn join<T: std::fmt::Display>(errors: &[T]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
