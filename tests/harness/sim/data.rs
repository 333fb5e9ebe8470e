//! The data plane of the world: guests that send, vswitches that are stepped, and an underlay that delays, reorders and loses.

use std::net::SocketAddr;

use weft_packet::{Csum, Offload};
use weft_vswitch::underlay::MemoryDatagram;

use super::check::Place;
use super::guest::{Guest, Kind, SLOTS, as_sent};
use super::host::Host;
use super::world::{Event, World};

/// Rounds that a vswitch runs in one step.
const ROUNDS_MAX: usize = 64;
const PLAIN: Offload = Offload { csum: Csum::Unknown, gso: None };

impl World {
    /// The vswitch will be stepped soon.
    pub(super) fn touch(&mut self, index: usize) {
        if !std::mem::replace(&mut self.hosts[index].step_is_due, true) {
            let wait = self.random.micros(1, 200);
            self.agenda.after(wait, Event::Step(index));
        }
    }

    /// The vswitch carries what waits; what came out is looked at and sent on.
    pub(super) fn step(&mut self, index: usize) {
        let now = self.agenda.now();
        let host = &mut self.hosts[index];
        host.step_is_due = false;
        if let Some(vswitch) = &mut host.vswitch {
            vswitch.control.settle(now, ROUNDS_MAX);
        }
        for (guest, end) in &self.hosts[index].devices {
            while let Some((bytes, offload)) = end.pop() {
                for frame in as_sent(&mut self.pool, &bytes, offload) {
                    self.traffic.arrived(Place { host: index, guest: *guest }, &frame);
                }
            }
        }
        let underlay = self.hosts[index].vswitch.as_ref().and_then(|vswitch| vswitch.underlay.clone());
        while let Some(datagram) = underlay.as_ref().and_then(|end| end.pop()) {
            self.depart(index, datagram);
        }
    }

    fn depart(&mut self, from: usize, datagram: MemoryDatagram) {
        let Some(to) = self.hosts.iter().position(|host| host.addr == datagram.addr.ip()) else { return };
        let now = self.agenda.now();
        let torn = self.torn.get(&(from.min(to), from.max(to))).is_some_and(|until| *until > now);
        if torn || self.faults && self.random.chance(3) {
            return;
        }
        let source = SocketAddr::new(self.hosts[from].addr, 50_000);
        let wait = self.random.micros(20, if self.faults { 20_000 } else { 500 });
        self.agenda.after(wait, Event::Datagram { to, datagram: MemoryDatagram { addr: source, ..datagram } });
    }

    /// A datagram reaches its host.
    pub(super) fn deliver(&mut self, to: usize, datagram: MemoryDatagram) {
        let Some(end) = self.hosts[to].vswitch.as_ref().and_then(|vswitch| vswitch.underlay.as_ref()) else { return };
        end.push(datagram);
        self.touch(to);
    }

    /// All devices that exist.
    pub(super) fn places(&self) -> Vec<Place> {
        let of_host = |(host, state): (usize, &Host)| {
            let guests: Vec<Guest> = state.devices.keys().copied().collect();
            guests.into_iter().map(move |guest| Place { host, guest })
        };
        self.hosts.iter().enumerate().flat_map(of_host).collect()
    }

    /// A guest sends; the frame's nonce.
    pub(super) fn send(&mut self, from: Place, to: Guest, kind: Kind) -> u64 {
        let (nonce, frame) = self.traffic.send(from, to, kind);
        if let Some(end) = self.hosts[from.host].devices.get(&from.guest) {
            end.push(&frame, PLAIN);
        }
        self.touch(from.host);
        nonce
    }

    /// Some guest says something to some other.
    pub(super) fn chatter(&mut self) {
        let places = self.places();
        if places.is_empty() {
            return;
        }
        let from = self.random.pick(&places);
        let slot = (from.guest.slot + 1 + self.random.below(SLOTS - 1)) % SLOTS;
        let kind = self.random.pick(&Kind::ALL);
        self.send(from, Guest { slot, ..from.guest }, kind);
    }
}
