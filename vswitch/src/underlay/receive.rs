//! From the receiving socket to inner frames: one `recvmmsg`, then each datagram's packets.

use std::io::{self, IoSliceMut};
use std::sync::Arc;
use std::time::Instant;

use weft_packet::{Frame, FramePool, Vni};
use weft_program::RemoteId;
use weft_sys::udp::{Datagram, RecvBatch};
use weft_vtep::coalesce::{Arrival, Coalescer, Push};
use weft_vtep::decap::{self, Packet};

use super::{Sockets, Tunnel, lock};
use crate::counters::Counters;
use crate::worker::Origin;

/// Buffers and scratch of one worker's receiving side.
#[derive(Debug)]
pub(super) struct Receiver {
    batch: RecvBatch,
    /// Buffers that datagrams are received into; a large one becomes the inner frame.
    buffers: Vec<Frame>,
    datagrams: Vec<Datagram>,
    coalescer: Coalescer,
    arrivals: Vec<Arrival>,
    overflow: u32,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self {
            batch: RecvBatch::new(DATAGRAMS),
            buffers: Vec::with_capacity(DATAGRAMS),
            datagrams: Vec::with_capacity(DATAGRAMS),
            coalescer: Coalescer::new(true),
            arrivals: Vec::new(),
            overflow: 0,
        }
    }
}

impl Tunnel {
    /// One burst of datagrams into the inbox.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        pool: &mut FramePool,
        counters: &mut Counters,
        inbox: &mut Vec<(Origin, Frame)>,
    ) {
        let receiver = &mut self.receiver;
        while receiver.buffers.len() < DATAGRAMS {
            let Some(frame) = pool.take() else { break };
            receiver.buffers.push(frame);
        }
        if receiver.buffers.is_empty() {
            return;
        }
        counters.io.underlay_reads += 1;
        // An error is one that a router reported to the socket: reading it cleared it, and it loses no datagram.
        if self.fill().is_err() {
            return;
        }
        for index in 0..self.receiver.datagrams.len() {
            self.unpack(index, now, pool, counters);
        }
        let receiver = &mut self.receiver;
        receiver.coalescer.flush(&mut receiver.arrivals);
        for Arrival { remote, vni, frame } in receiver.arrivals.drain(..) {
            counters.io.rx_super_frames += u64::from(frame.offload.gso.is_some());
            inbox.push((origin(remote, vni), frame));
        }
    }

    /// Gives the receiving buffers back, before the tunnel goes.
    pub(crate) fn release(&mut self, pool: &mut FramePool) {
        self.receiver.buffers.drain(..).for_each(|frame| pool.give(frame));
    }

    /// Receives into the buffers.
    fn fill(&mut self) -> io::Result<()> {
        let receiver = &mut self.receiver;
        receiver.datagrams.clear();
        match &self.attached.sockets {
            Sockets::Udp { rx, .. } => {
                let Some(fd) = rx.get(self.worker) else { return Ok(()) };
                let count = receiver.buffers.len();
                let mut buffers = receiver.buffers.iter_mut();
                let mut slices: [IoSliceMut<'_>; DATAGRAMS] =
                    std::array::from_fn(|_| IoSliceMut::new(buffers.next().map_or(&mut [], |frame| frame.rx_space(0))));
                let got = receiver.batch.recv(std::os::fd::AsFd::as_fd(fd), &mut slices[..count])?;
                receiver.datagrams.extend((0..got).map(|index| receiver.batch.datagram(index)));
            }
            Sockets::Memory(queues) => {
                let mut queues = lock(queues);
                for buffer in &mut receiver.buffers {
                    let Some(datagram) = queues.incoming.pop() else { break };
                    let space = buffer.rx_space(0);
                    let len = datagram.payload.len().min(space.len());
                    space[..len].copy_from_slice(&datagram.payload[..len]);
                    receiver.datagrams.push(Datagram {
                        len,
                        source: datagram.addr,
                        stride: datagram.stride,
                        tos: datagram.tos,
                        truncated: len < datagram.payload.len(),
                        overflow: None,
                    });
                }
            }
        }
        for (buffer, datagram) in receiver.buffers.iter_mut().zip(&receiver.datagrams) {
            buffer.set_len(datagram.len);
        }
        Ok(())
    }

    /// The packets of one received datagram, to `arrivals`.
    fn unpack(&mut self, index: usize, now: Instant, pool: &mut FramePool, counters: &mut Counters) {
        let datagram = self.receiver.datagrams[index];
        counters.io.underlay_rx_datagrams += 1;
        if let Some(overflow) = datagram.overflow {
            counters.io.underlay_overflow += u64::from(overflow.wrapping_sub(self.receiver.overflow));
            self.receiver.overflow = overflow;
        }
        let whole = self.take_whole(index, now, pool);
        if let Some(packet) = whole {
            counters.ledger.rx += 1;
            let receiver = &mut self.receiver;
            receiver.coalescer.flush(&mut receiver.arrivals);
            // `take_whole` saw a buffer to replace it.
            let Some(fresh) = pool.take() else { return };
            let mut frame = std::mem::replace(&mut receiver.buffers[index], fresh);
            packet.adopt(&mut frame);
            receiver.arrivals.push(Arrival { remote: packet.remote, vni: packet.vni, frame });
            return;
        }
        let source = self.source(datagram.source.ip());
        let receiver = &mut self.receiver;
        let payload = receiver.buffers[index].bytes();
        for packet in decap::decap(describe(&datagram, payload), &self.admission, now) {
            counters.ledger.rx += 1;
            if let Ok(probe) = &packet
                && probe.vni == Vni::PROBE
            {
                match self.prober.receive(&self.attached.probes, probe.remote, &payload[probe.range.clone()], now) {
                    Ok(()) => counters.ledger.consumed += 1,
                    Err(reason) => counters.dropped(source, reason, &Arc::default()),
                }
                continue;
            }
            let pushed =
                packet.and_then(|packet| receiver.coalescer.push(&packet, payload, pool, &mut receiver.arrivals));
            match pushed {
                Ok(Push::Frame) => {}
                Ok(Push::Merged) => counters.ledger.merged += 1,
                Err(reason) => counters.dropped(source, reason, &Arc::default()),
            }
        }
    }

    /// The one large packet of a datagram, whose buffer can become the frame without a copy.
    fn take_whole(&self, index: usize, now: Instant, pool: &mut FramePool) -> Option<Packet> {
        let datagram = &self.receiver.datagrams[index];
        if datagram.stride.is_some() || datagram.len < WHOLE_LEN_MIN || !pool.has_free() {
            return None;
        }
        let payload = self.receiver.buffers[index].bytes();
        decap::decap(describe(datagram, payload), &self.admission, now).next()?.ok().filter(|p| p.vni != Vni::PROBE)
    }
}

fn describe<'a>(datagram: &Datagram, payload: &'a [u8]) -> decap::Datagram<'a> {
    decap::Datagram {
        payload,
        stride: datagram.stride.map(usize::from),
        truncated: datagram.truncated,
        source: datagram.source.ip(),
        tos: datagram.tos,
    }
}

const fn origin(remote: u32, vni: Vni) -> Origin {
    Origin::Remote { remote: RemoteId(remote), vni }
}

/// Datagrams that one `recvmmsg` takes.
const DATAGRAMS: usize = 8;
/// A datagram of one packet that is at least this long is not copied out of its buffer.
const WHOLE_LEN_MIN: usize = 4096;
