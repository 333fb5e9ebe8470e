//! The path of a frame, apart from waiting: a burst from a queue, then parse, classify, execute.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use weft_packet::{DropReason, Frame, Ingress, Parsed, Vni, parse_into};
use weft_program::message::{DropSource, PortKind};
use weft_program::{PortId, RemoteId};

use super::WorkerReport;
use crate::cache::{CacheCounts, Lookup};
use crate::execute::{Flight, Outputs};
use crate::learn::{Learned, Second};
use crate::limits::LIMITS;
use crate::port::Rx;
use crate::tables::Tables;
use crate::underlay::Tunnel;

/// A frame that was parsed and not classified yet.
#[derive(Clone)]
struct Ahead {
    parsed: Parsed,
    outcome: Result<(), DropReason>,
    /// Where the exact cache has it.
    set: usize,
}

/// The path of a frame, apart from waiting.
pub(super) struct Datapath {
    lookup: Lookup,
    learned: Arc<Learned>,
    pub(super) outputs: Outputs,
    inbox: Vec<(Origin, Frame)>,
    /// Of the frames that are being forwarded.
    ahead: Vec<Ahead>,
    /// Version of the tables' segments and remotes that the tunnel knows.
    endpoints_version: u64,
}

/// What has something to read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ready {
    Port { id: PortId, queue: usize, failed: bool },
    Underlay,
}

/// Where a frame came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Port(PortId),
    Remote { remote: RemoteId, vni: Vni },
}

impl Datapath {
    /// `seed` keys its hash tables.
    pub(super) fn new(seed: u64, learned: Arc<Learned>) -> Self {
        Self {
            lookup: Lookup::new(seed, &LIMITS),
            learned,
            outputs: Outputs::new(),
            inbox: Vec::with_capacity(BURST_FRAMES),
            ahead: vec![Ahead { parsed: Parsed::EMPTY, outcome: Ok(()), set: 0 }; AHEAD],
            endpoints_version: u64::MAX,
        }
    }

    /// Takes these sockets in place of those before.
    pub(super) fn set_tunnel(&mut self, tunnel: Tunnel) {
        self.outputs.tunnel = Some(tunnel);
        self.endpoints_version = u64::MAX;
    }

    /// What is looked at once per round.
    pub(super) fn begin(&mut self, tables: &Tables, now: Instant) -> Second {
        let stale = self.endpoints_version != tables.endpoints_version();
        self.endpoints_version = tables.endpoints_version();
        if let Some(tunnel) = &mut self.outputs.tunnel {
            tunnel.begin(now);
            if stale {
                tunnel.admit(tables, now);
            }
        }
        self.learned.second(now)
    }

    /// Carries one burst of a queue to its end.
    pub(super) fn carry(&mut self, tables: &Tables, second: Second, now: Instant, ready: Ready) {
        match ready {
            Ready::Port { id, queue, failed } => self.receive_port(tables, id, queue, failed),
            Ready::Underlay => self.receive_underlay(now),
        }
        let mut inbox = mem::take(&mut self.inbox);
        self.forward(tables, second, now, &mut inbox);
        self.inbox = inbox;
        self.outputs.flush();
        self.outputs.send_probes(tables);
    }

    /// One burst of one queue into the inbox. Nothing passes a dark port, but its queue is kept empty: what a guest sent
    /// before its policy was there must not come out when it is.
    fn receive_port(&mut self, tables: &Tables, id: PortId, queue: usize, failed: bool) {
        let Outputs { ports, pool, counters, .. } = &mut self.outputs;
        let Some(port) = ports.get_mut(id).filter(|port| !port.gone) else { return };
        let live = tables.port(id).is_some_and(|config| config.live);
        let (mut frames, mut bytes) = (0, 0);
        let expected = port.expected;
        let mut device = port.attached.queue(queue);
        while frames < expected && bytes < BURST_BYTES {
            // Without a buffer the frame stays in the device's queue, where its own counter counts it when it is lost.
            let Some(mut frame) = pool.take() else { break };
            counters.io.port_reads += 1;
            let mut rx = device.receive(&mut frame);
            if rx == Rx::Frame && !live {
                rx = Rx::Bad(DropReason::PortDark);
            }
            if matches!(rx, Rx::Frame | Rx::Bad(_)) {
                frames += 1;
                bytes += frame.len();
                counters.received(id, frame.len());
                counters.io.rx_super_frames += u64::from(frame.offload.gso.is_some());
            }
            match rx {
                Rx::Frame => self.inbox.push((Origin::Port(id), frame)),
                Rx::Bad(reason) => {
                    counters.dropped(DropSource::Port(id), reason, &Arc::default());
                    pool.give(frame);
                }
                Rx::Empty | Rx::Gone => {
                    pool.give(frame);
                    // A TAP reports an error only when it exists no more.
                    let dead = failed && frames == 0 && port.attached.device.kind == PortKind::Tap;
                    port.gone |= rx == Rx::Gone || dead;
                    break;
                }
            }
        }
        // One who sends a frame at a time costs one read each, not a second one that finds nothing.
        port.expected = (if frames == expected { frames * 2 } else { frames }).clamp(1, BURST_FRAMES);
    }

    fn receive_underlay(&mut self, now: Instant) {
        let Outputs { tunnel, pool, counters, .. } = &mut self.outputs;
        if let Some(tunnel) = tunnel {
            tunnel.receive(now, pool, counters, &mut self.inbox);
        }
    }

    /// All frames, some at a time: parse each and ask memory for its cache entry, then classify and execute each.
    fn forward(&mut self, tables: &Tables, second: Second, now: Instant, inbox: &mut Vec<(Origin, Frame)>) {
        let mut frames = inbox.drain(..);
        while !frames.as_slice().is_empty() {
            for (ahead, (origin, frame)) in self.ahead.iter_mut().zip(frames.as_slice()) {
                ahead.outcome = parse_into(frame.bytes(), origin.ingress(), &mut ahead.parsed);
                ahead.set = self.lookup.prefetch(&ahead.parsed.key);
            }
            for (Ahead { parsed, outcome, set }, (origin, frame)) in self.ahead.iter().zip(frames.by_ref()) {
                if let Err(reason) = *outcome {
                    self.outputs.drop(origin.source(), reason, frame);
                    continue;
                }
                let key = &parsed.key;
                let verdict = self.lookup.classify_in(*set, tables, &self.learned, key, frame.len(), second);
                self.outputs.execute(Flight { tables, now, key, origin }, verdict, frame);
            }
        }
    }

    pub(super) fn report(&mut self) -> WorkerReport {
        self.lookup.flush();
        let CacheCounts { exact, wildcard, tables, stale, evicted } = self.lookup.counts();
        let Outputs { counters, ports, tunnel, .. } = &self.outputs;
        WorkerReport {
            ledger: counters.ledger,
            ports: ports.iter().map(|(id, _)| (id, counters.read_port(id))).collect(),
            gone: ports.iter().filter(|(_, port)| port.gone).map(|(id, _)| id).collect(),
            drops: counters.drop_rows(),
            io: counters.io,
            cache: [
                ("exact", exact),
                ("wildcard", wildcard),
                ("tables", tables),
                ("stale", stale),
                ("evicted", evicted),
            ],
            rung: tunnel.as_ref().map(Tunnel::rung),
            rungs_not_taken: tunnel.as_ref().map(Tunnel::rungs_not_taken).unwrap_or_default(),
        }
    }
}

impl Origin {
    pub(crate) const fn source(self) -> DropSource {
        match self {
            Self::Port(id) => DropSource::Port(id),
            Self::Remote { remote, .. } => DropSource::Remote(remote),
        }
    }

    const fn ingress(self) -> Ingress {
        match self {
            Self::Port(id) => Ingress { in_port: id.0, remote: 0, vni: 0 },
            Self::Remote { remote, vni } => Ingress { in_port: 0, remote: remote.0, vni: vni.get() },
        }
    }
}

/// Frames that are parsed before the first of them is classified.
const AHEAD: usize = 32;
/// Frames of one port's burst.
pub(super) const BURST_FRAMES: usize = 256;
/// Bytes of one port's burst, so that super-frames stay in the cache and other ports get their turn. A quarter of it costs a
/// local transfer a tenth, and a ping-pong beside it gains nothing.
const BURST_BYTES: usize = 256 << 10;
