//! Does what a verdict says, and keeps the books of it.
//!
//! A frame moves into its last output; only the outputs before that get copies. Whatever is decided about a frame is
//! decided here, so flushing the outputs is I/O and nothing else.

use std::sync::Arc;
use std::time::Instant;

use weft_packet::ethernet::{ETHERTYPE_ARP, EthernetView};
use weft_packet::{DropReason, Field, FlowKey, Frame, FramePool, Layout, MacAddr, offload};
use weft_program::PortId;
use weft_program::message::DropSource;

use crate::counters::Counters;
use crate::port::{Queue, Tx};
use crate::tables::Tables;
use crate::underlay::Tunnel;
use crate::verdict::{Step, Verdict};
use crate::worker::Origin;
use crate::worker::ports::{Port, Ports, Queued};
use crate::{egress, limits::LIMITS};

/// Everything that a frame can end in.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) pool: FramePool,
    pub(crate) ports: Ports,
    pub(crate) tunnel: Option<Tunnel>,
    pub(crate) counters: Counters,
    /// Ports with something in `out`.
    dirty: Vec<PortId>,
    /// Frames in all queues, which hold buffers.
    queued: usize,
    /// Segments and fragments of one frame, on their way into a queue.
    pub(crate) pieces: Vec<Frame>,
}

/// What the frame under execution belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Flight<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) now: Instant,
    pub(crate) key: &'a FlowKey,
    pub(crate) origin: Origin,
}

impl Outputs {
    pub(crate) fn new() -> Self {
        Self {
            pool: FramePool::new(LIMITS.frames_max),
            ports: Ports::default(),
            tunnel: None,
            counters: Counters::default(),
            dirty: Vec::new(),
            queued: 0,
            pieces: Vec::new(),
        }
    }

    /// Carries one frame through its verdict.
    #[inline]
    pub(crate) fn execute(&mut self, flight: Flight<'_>, verdict: &Verdict, mut frame: Frame) {
        let source = flight.origin.source();
        let Some((last, before)) = verdict.steps.split_last() else {
            return self.drop(source, DropReason::Policy, frame);
        };
        for step in before {
            match step {
                Step::SetField { field, value } => {
                    write_field(&mut frame, *field, *value);
                }
                Step::Output(_) | Step::Tunnel { .. } => self.execute_on_copy(flight, step, &frame),
                // Terminal, so never before the end.
                Step::Reply { .. } | Step::Drop { .. } => {}
            }
        }
        self.execute_on(flight, last, frame);
    }

    /// Ends a frame.
    pub(crate) fn drop(&mut self, source: DropSource, reason: DropReason, frame: Frame) {
        self.drop_for(source, reason, &Arc::default(), frame);
    }

    /// Puts a frame into a port's queue.
    #[inline]
    pub(crate) fn output(&mut self, id: PortId, source: DropSource, frame: Frame) {
        // In the program, and its device is not here yet: it waits for its namespace, or for an agent to attach it.
        let Some(port) = self.ports.get_mut(id) else {
            return self.drop(source, DropReason::PortDark, frame);
        };
        if port.out.is_empty() {
            self.dirty.push(id);
        }
        port.out.push(Queued { frame, source });
        self.count_queued();
    }

    /// One more frame holds a buffer until the flush.
    #[inline]
    pub(crate) fn count_queued(&mut self) {
        self.queued += 1;
        if self.queued >= QUEUED_MAX {
            self.flush();
        }
    }

    /// Writes all queues out.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if self.queued == 0 {
            return;
        }
        self.queued = 0;
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.flush(&mut self.pool, &mut self.counters);
        }
        let Self { ports, pool, counters, pieces, dirty, .. } = self;
        for id in dirty.drain(..) {
            if let Some(port) = ports.get_mut(id) {
                flush_port(id, port, pool, counters, pieces);
            }
        }
    }

    fn execute_on_copy(&mut self, flight: Flight<'_>, step: &Step, frame: &Frame) {
        self.counters.ledger.copies += 1;
        match self.pool.copy(frame) {
            Some(copy) => self.execute_on(flight, step, copy),
            None => self.counters.dropped(flight.origin.source(), DropReason::NoBuffer, &Arc::default()),
        }
    }

    #[inline]
    fn execute_on(&mut self, flight: Flight<'_>, step: &Step, frame: Frame) {
        let source = flight.origin.source();
        match step {
            Step::Output(port) => self.output(*port, source, frame),
            Step::Tunnel { remote, vni } => self.tunnel(flight, *remote, *vni, source, frame),
            Step::Reply { mac } => self.reply(flight, *mac, frame),
            Step::Drop { reason, owner } => self.drop_for(source, *reason, owner, frame),
            // A verdict ends with a step that sends, answers or drops.
            Step::SetField { .. } => self.drop(source, DropReason::Policy, frame),
        }
    }

    fn drop_for(&mut self, source: DropSource, reason: DropReason, owner: &Arc<str>, frame: Frame) {
        self.counters.dropped(source, reason, owner);
        self.pool.give(frame);
    }
}

fn write_field(frame: &mut Frame, field: Field, value: u128) {
    let arp = match field {
        Field::ArpSha => 8,
        Field::ArpTha => 18,
        _ => {
            let layout = Layout::of(frame.bytes());
            offload::write_field(frame, layout.as_ref(), field, value);
            return;
        }
    };
    if EthernetView::parse(frame.bytes()).is_ok_and(|ethernet| ethernet.ethertype() == ETHERTYPE_ARP)
        && let Some(place) = frame.bytes_mut().get_mut(14 + arp..14 + arp + 6)
    {
        place.copy_from_slice(&MacAddr::from_u64(value as u64).0);
    }
}

fn flush_port(id: PortId, port: &mut Port, pool: &mut FramePool, counters: &mut Counters, pieces: &mut Vec<Frame>) {
    let Port { attached, out, gone, tx_queue, .. } = port;
    let mut queue = attached.queue(*tx_queue);
    for Queued { frame, source } in out.drain(..) {
        // The whole frame, or its segments; an error says why there are none.
        if let Err(reason) = egress::finish(frame, attached.device.offloads, pool, counters, pieces) {
            counters.refused(id, source, reason);
        }
        for mut piece in pieces.drain(..) {
            match write(&mut queue, gone, &mut piece, counters) {
                Ok(()) => counters.sent(id, piece.len()),
                Err(reason) => counters.refused(id, source, reason),
            }
            pool.give(piece);
        }
    }
}

fn write(queue: &mut Queue<'_>, gone: &mut bool, frame: &mut Frame, counters: &mut Counters) -> Result<(), DropReason> {
    if *gone {
        return Err(DropReason::PortGone);
    }
    counters.io.port_writes += 1;
    match queue.send(frame) {
        Tx::Sent => {
            counters.io.tx_super_frames += u64::from(frame.offload.gso.is_some());
            Ok(())
        }
        Tx::Refused(reason) => Err(reason),
        Tx::Gone => {
            *gone = true;
            Err(DropReason::PortGone)
        }
    }
}

/// Frames that wait for the flush at the end of a burst; a flood to many ports flushes in between.
const QUEUED_MAX: usize = 512;
