//! One worker's way from a source to a sink, both of which are bounded queues in memory.
//!
//! The guests' side (writing a burst into the source's queue, looking at what arrived) is done between two bursts, as
//! a device's DMA would have done it meanwhile. Every frame that is sent is accounted for at the sink.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use weft_packet::Offload;
use weft_packet::vxlan::{HEADER_LEN, VxlanHeader};
use weft_program::Bundle;
use weft_program::message::{Ledger, Request, Response, Rung, Underlay};
use weft_vswitch::Inline;
use weft_vswitch::control::Control;
use weft_vswitch::port::MemoryEnd;
use weft_vswitch::underlay::{MemoryDatagram, UnderlayEnd};

use crate::micro::guests::{FROM_PORT, TO_PORT, device, remote_addr, udp_v4, vni};

/// Frames of one burst.
pub(super) const BURST: usize = 64;

/// Where frames come from.
pub(super) enum Source {
    Port(MemoryEnd),
    /// Out of a tunnel, so many packets in each datagram, as UDP_GRO puts them together.
    Underlay(UnderlayEnd, usize),
}

/// Where they go.
pub(super) enum Sink {
    Port(MemoryEnd),
    Underlay(UnderlayEnd),
}

/// A source with its flows, and a sink.
pub(super) struct Lane {
    source: Source,
    sink: Sink,
    /// One frame per flow, sent in turn.
    flows: Vec<Vec<u8>>,
    next: usize,
    sent: usize,
    arrived: usize,
}

impl Lane {
    /// The flows have these numbers.
    pub(super) fn new(source: Source, sink: Sink, flows: Range<u32>) -> Self {
        let flows = flows.map(udp_v4).collect();
        Self { source, sink, flows, next: 0, sent: 0, arrived: 0 }
    }

    /// Sends two frames of each flow and compares all that arrives, byte by byte.
    pub(super) fn warm_up(&mut self, mut step: impl FnMut() -> usize) -> Result<()> {
        for _ in 0..(2 * self.flows.len()).div_ceil(BURST).max(4) {
            let mut expected = self.next;
            self.send();
            while step() > 0 {}
            let (flows, mut differ, mut arrived) = (&self.flows, 0, 0);
            let mut look = |bytes: &[u8]| {
                differ += usize::from(bytes != flows[expected]);
                expected = (expected + 1) % flows.len();
                arrived += 1;
            };
            match &self.sink {
                Sink::Port(end) => end.drain(|bytes, _| look(bytes)),
                Sink::Underlay(end) => end.drain(|datagram| look(&datagram.payload[HEADER_LEN..])),
            };
            self.arrived += arrived;
            ensure!(arrived == BURST && differ == 0, "of {BURST} frames {arrived} arrived, {differ} of them changed");
        }
        Ok(())
    }

    /// One burst; how long the worker took for it.
    pub(super) fn burst(&mut self, mut step: impl FnMut() -> usize) -> Duration {
        self.send();
        let start = Instant::now();
        while step() > 0 {}
        let took = start.elapsed();
        self.arrived += match &self.sink {
            Sink::Port(end) => end.drain(|_, _| ()),
            Sink::Underlay(end) => end.drain(|_| ()),
        };
        took
    }

    /// How many frames were sent; an error when not all of them arrived.
    pub(super) fn check(&self) -> Result<usize> {
        ensure!(self.sent == self.arrived, "of {} frames {} arrived", self.sent, self.arrived);
        Ok(self.sent)
    }

    /// Frames that came out so far.
    pub(super) const fn arrived(&self) -> usize {
        self.arrived
    }

    fn send(&mut self) {
        match &self.source {
            Source::Port(end) => {
                for _ in 0..BURST {
                    self.sent += usize::from(end.push(&self.flows[self.next], Offload::default()));
                    self.next = (self.next + 1) % self.flows.len();
                }
            }
            Source::Underlay(end, packets) => {
                for _ in 0..BURST / packets {
                    let mut payload = Vec::new();
                    for _ in 0..*packets {
                        let mut header = [0; HEADER_LEN];
                        VxlanHeader { vni: vni() }.emit(&mut header);
                        payload.extend(header);
                        payload.extend(&self.flows[self.next]);
                        self.next = (self.next + 1) % self.flows.len();
                    }
                    let stride = (*packets > 1).then_some((payload.len() / packets) as u16);
                    let datagram = MemoryDatagram { addr: (remote_addr(), 50_000).into(), payload, tos: 0, stride };
                    self.sent += if end.push(datagram) { *packets } else { 0 };
                }
            }
        }
    }
}

/// A vswitch that runs the program, with the two guests' ports (a queue for each worker) and an underlay.
pub(super) struct Bench {
    pub(super) vswitch: Control<Inline>,
    pub(super) from: Vec<MemoryEnd>,
    pub(super) to: Vec<MemoryEnd>,
    pub(super) underlay: UnderlayEnd,
}

impl Bench {
    pub(super) fn new(workers: usize, program: Bundle, now: Instant) -> Result<Self> {
        let mut vswitch = Control::inline(workers, 7, now)?;
        let refused = |why| anyhow!("refused: {why:?}");
        let from = vswitch.attach_memories(device(FROM_PORT), 2 * BURST).map_err(refused)?;
        let to = vswitch.attach_memories(device(TO_PORT), 2 * BURST).map_err(refused)?;
        let underlay = Underlay {
            addr: [192, 0, 2, 1].into(),
            udp_port: 4789,
            rx_fds: 0,
            tx_fds: 0,
            mtu: 1600,
            rung: Rung::Batch,
            tunnel: None,
            refused: Vec::new(),
        };
        let underlay = vswitch.attach_memory_underlay(underlay, 2 * BURST).map_err(refused)?;
        let answer = vswitch.handle(now, Request::Apply(program), Vec::new()).pop();
        ensure!(answer.is_some_and(|answer| answer.response == Response::Done), "the program was refused");
        Ok(Self { vswitch, from, to, underlay })
    }

    /// An error when the books do not say that exactly so many frames came in and went out.
    pub(super) fn check(&mut self, frames: usize, now: Instant) -> Result<()> {
        let answer = self.vswitch.handle(now, Request::Ledger, Vec::new()).pop();
        let Some(Response::Ledger(report)) = answer.map(|answer| answer.response) else {
            return Err(anyhow!("there is no ledger"));
        };
        let sum = |part: fn(&Ledger) -> u64| report.workers.iter().map(part).sum::<u64>();
        let (rx, tx) = (sum(|ledger| ledger.rx), sum(|ledger| ledger.tx));
        ensure!(report.workers.iter().all(|ledger| ledger.imbalance() == 0), "the ledger does not balance");
        ensure!((rx, tx) == (frames as u64, frames as u64), "of {frames} frames {rx} came in and {tx} went out");
        Ok(())
    }
}
