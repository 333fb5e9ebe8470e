//! What is true in the end: every host stands at the last generation, both sides with the same digest, every port lives,
//! every pair of guests on one network reaches each other, and nobody reaches anybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_api::object::{HostKind, Port};
use weft_api::wire::proto::PortState;
use weft_controller::compile::compile;
use weft_controller::push::HostState;
use weft_controller::store::Store;
use weft_program::Position;

use super::check::Place;
use super::guest::{Guest, Kind, SLOTS, TENANTS};
use super::world::{HOSTS, World};

/// The longest time from the end of all trouble until everything is as intended.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A guest's port as it is intended: where, and on which network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Intended {
    place: Place,
    network: String,
}

impl World {
    /// Runs until everything is as intended; how long that took.
    ///
    /// # Panics
    /// When it does not get there.
    pub(super) fn converge(&mut self) -> Duration {
        let begin = self.agenda.now();
        loop {
            let wrong = self.not_converged();
            let took = self.agenda.now() - begin;
            if wrong.is_empty() {
                return took;
            }
            assert!(took < PATIENCE, "not converged after {took:?}:\n{}", wrong.join("\n"));
            self.run(LOOK_EVERY);
        }
    }

    /// What is not as intended yet.
    fn not_converged(&mut self) -> Vec<String> {
        let snapshot = self.controller.store.snapshot();
        let generation = snapshot.generation;
        let store_id = self.controller.store.store_id().to_owned();
        let intended = self.intended();
        let now = self.agenda.now();
        let mut wrong = Vec::new();
        for (name, program) in compile(&snapshot) {
            let Some(index) = HOSTS.iter().position(|host| *host == name.as_str()) else { continue };
            let goal = Position { store_id: store_id.clone(), generation, digest: program.digest() };
            let ports: BTreeSet<String> =
                intended.values().filter(|port| port.place.host == index).map(|port| port.place.guest.port()).collect();
            let seen = self.controller.hub.as_ref().and_then(|hub| hub.hosts().find(|(host, _)| **host == name));
            if let Some(why) = seen.map_or(Some("no controller".into()), |(_, state)| unseen(state, &goal, &ports)) {
                wrong.push(format!("{name}: the controller sees {why}"));
            }
            let host = &mut self.hosts[index];
            let at = host.agent.as_ref().map(|core| core.position().clone());
            if at.as_ref() != Some(&goal) {
                wrong.push(format!("{name}: the agent stands at {at:?}, not at {goal:?}"));
            }
            let at = host.status(now).map(|status| status.position);
            if at.as_ref() != Some(&goal) {
                wrong.push(format!("{name}: the vswitch stands at {at:?}, not at {goal:?}"));
            }
            let attached = host.ports(now);
            let live: BTreeSet<String> =
                attached.iter().filter(|port| port.live && !port.gone).map(|port| port.device.name.clone()).collect();
            if live != ports || attached.len() != ports.len() {
                wrong.push(format!("{name}: live are {live:?} of {} ports, not {ports:?}", attached.len()));
            }
            if host.vswitch.as_ref().is_none_or(|vswitch| vswitch.underlay.is_none()) {
                wrong.push(format!("{name} has no underlay"));
            }
        }
        wrong
    }

    /// Whether nobody declares the host.
    fn is_stray(&self, host: usize) -> bool {
        self.controller.store.snapshot().hosts().all(|declared| declared.name.as_str() != HOSTS[host])
    }

    fn intended(&self) -> BTreeMap<Guest, Intended> {
        let snapshot = self.controller.store.snapshot();
        let agents: BTreeSet<&str> =
            snapshot.hosts().filter(|host| host.spec.kind == HostKind::Weft).map(|host| host.name.as_str()).collect();
        let of = |port: &Port| {
            let host = HOSTS.iter().position(|host| *host == port.spec.host.as_str())?;
            let guest = Guest::all().find(|guest| guest.port() == format!("{}/{}", port.tenant, port.name))?;
            let place = Place { host, guest };
            let network = format!("{}/{}", port.tenant, port.spec.network);
            agents.contains(HOSTS[host]).then_some((guest, Intended { place, network }))
        };
        snapshot.ports().filter_map(of).collect()
    }

    /// Everybody sends to everybody. Exactly who is on the same network receives it.
    ///
    /// # Panics
    /// When somebody does not, or somebody else does.
    pub(super) fn check_reach(&mut self) {
        let intended = self.intended();
        // What a withdrawn remote still had under way is accepted for a while.
        self.run(Duration::from_secs(2));
        self.traffic.forget_answers();
        let mut nonces = Vec::new();
        for from in self.places() {
            for slot in (0..SLOTS).filter(|slot| *slot != from.guest.slot) {
                for kind in Kind::ALL {
                    nonces.push(self.send(from, Guest { slot, ..from.guest }, kind));
                }
                self.run(Duration::from_millis(1));
            }
        }
        self.run(Duration::from_millis(100));
        for nonce in nonces {
            self.check_reached(&intended, nonce);
        }
        let now = self.agenda.now();
        self.hosts.iter_mut().for_each(|host| host.assert_ledger(now));
    }

    fn check_reached(&self, intended: &BTreeMap<Guest, Intended>, nonce: u64) {
        let sent = self.traffic.sent(nonce);
        let network = intended.get(&sent.from.guest).filter(|own| own.place == sent.from).map(|own| &own.network);
        let neighbours = intended.values().filter(|other| Some(&other.network) == network && other.place != sent.from);
        let neighbours: BTreeSet<Place> = neighbours.map(|other| other.place).collect();
        let to: BTreeSet<Place> = neighbours.iter().copied().filter(|place| place.guest == sent.to).collect();
        let expected = match sent.kind {
            Kind::Udp4 | Kind::Udp6 => to,
            Kind::Broadcast => neighbours,
            Kind::Arp if to.is_empty() => neighbours,
            Kind::Arp => {
                assert!(self.traffic.was_answered(sent.from, sent.to.ipv4()), "nobody answered {sent:?}");
                BTreeSet::new()
            }
            Kind::SpoofedAddress | Kind::SpoofedMac | Kind::Tagged => BTreeSet::new(),
        };
        // Hosts that are not declared any more go on by their last program, among themselves.
        let astray = |place: &Place| self.is_stray(sent.from.host) && self.is_stray(place.host);
        let arrived: BTreeSet<Place> = sent.arrived.iter().copied().filter(|place| !astray(place)).collect();
        let tenant = TENANTS[sent.from.guest.tenant];
        assert_eq!(arrived, expected, "nonce {nonce} of tenant {tenant}, network {network:?}: {sent:?}");
    }
}

/// What the controller does not see as it must.
fn unseen(state: &HostState, goal: &Position, ports: &BTreeSet<String>) -> Option<String> {
    if !state.is_connected() {
        return Some("no session".into());
    }
    let at = state.seen.position.as_ref().map(|at| (at.store_id.as_str(), at.generation, at.digest.as_str()));
    if at != Some((&goal.store_id, goal.generation, &goal.digest)) || state.acked_generation() != Some(goal.generation)
    {
        return Some(format!("{at:?} and acknowledged {:?}", state.acked_generation()));
    }
    let status = state.seen.status.as_ref()?;
    let live = status.ports.iter().filter(|port| port.state() == PortState::Live).map(|port| port.name.clone());
    let live: BTreeSet<String> = live.collect();
    (live != *ports || !status.problem.is_empty()).then(|| format!("{status:?}"))
}
