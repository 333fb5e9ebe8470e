//! From queued frames to the kernel, by rung: the tunnel device, UDP_SEGMENT, `sendmmsg`, or one `sendmsg` each.
//!
//! On the upper rungs a super-frame is one message, and so is a row of equally long small packets to one remote; what
//! goes over the device and what goes over the sockets keeps its order. When the kernel refuses a rung, what was to go
//! over it goes over the next one, and nothing that it took is sent again.

use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::io::Errno;
use weft_packet::vxlan::{self, VxlanHeader};
use weft_packet::{DropReason, FramePool};
use weft_program::message::Rung;
use weft_sys::udp::SendBatch;
use weft_vtep::encap;
use weft_vtep::outer;
use weft_vtep::plan::{Plan, SEGMENTS_MAX_OLD};

use super::exit::Exit;
use super::message::{Message, Refusal};
use super::{Carriage, Departure, Queues, Sockets, Tunnel, lock};
use crate::counters::Counters;
use crate::egress;

/// Queues and scratch of one worker's sending side.
#[derive(Debug)]
pub(super) struct Sender {
    /// One queue per socket.
    queues: Vec<Vec<Departure>>,
    /// Sockets with something queued.
    dirty: Vec<usize>,
    scratch: Scratch,
}

#[derive(Debug)]
struct Scratch {
    batch: SendBatch,
    /// One per super-frame of the queue under work.
    plans: Vec<Plan>,
    messages: Vec<Message>,
    /// Why each departure was not taken; `None` when it was.
    refused: Vec<Option<DropReason>>,
    /// The best rung that had a part in what was taken.
    used: Rung,
    /// One message in one piece, for an underlay without a kernel.
    bytes: Vec<u8>,
}

/// How sending a queue ended.
enum Sent {
    /// Every message was taken or refused.
    All,
    /// The device takes no more: nothing from this message on was sent.
    NoTunnel { message: usize, why: io::Error },
    /// The device does not take this one super-frame, which a guest made as it liked.
    NotWhole { message: usize },
    /// The kernel does not do UDP_SEGMENT (for this route): nothing from this message on was sent.
    NoSegment { message: usize, why: io::Error },
    /// The kernel has no `sendmmsg`.
    NoBatch { message: usize, why: io::Error },
}

impl Sender {
    pub(super) fn new(sockets: usize) -> Self {
        let scratch = Scratch {
            batch: SendBatch::new(MESSAGES_MAX, SLICES_MAX),
            plans: Vec::new(),
            messages: Vec::new(),
            refused: Vec::new(),
            used: Rung::Single,
            bytes: Vec::new(),
        };
        Self { queues: (0..sockets).map(|_| Vec::new()).collect(), dirty: Vec::new(), scratch }
    }
}

impl Tunnel {
    /// Queues a frame for the flush.
    pub(crate) fn queue(&mut self, socket: usize, departure: Departure) {
        let queue = &mut self.sender.queues[socket];
        if queue.is_empty() {
            self.sender.dirty.push(socket);
        }
        queue.push(departure);
    }

    /// Sends everything that is queued.
    pub(crate) fn flush(&mut self, pool: &mut FramePool, counters: &mut Counters) {
        while let Some(socket) = self.sender.dirty.pop() {
            let mut queue = mem::take(&mut self.sender.queues[socket]);
            self.send_queue(socket, &mut queue, pool, counters);
            self.sender.queues[socket] = queue;
        }
    }

    /// Sends a queue, rung by rung, until every frame was taken or refused.
    fn send_queue(&mut self, socket: usize, queue: &mut Vec<Departure>, pool: &mut FramePool, counters: &mut Counters) {
        // Packets of the first frame that the kernel took before it refused the rest.
        let mut taken = 0;
        while !queue.is_empty() {
            let rung = self.ladder.rung();
            if rung < Rung::Segment {
                cut_in_software(queue, taken, pool, counters);
            }
            let scratch = &mut self.sender.scratch;
            scratch.plan(queue, rung);
            let sent = match &self.attached.sockets {
                Sockets::Udp { tx, device, .. } => {
                    let device = device.as_ref().map(|device| Exit { device, socket, src: self.attached.config.addr });
                    scratch.send(tx[socket].as_fd(), device, rung, queue, counters)
                }
                Sockets::Memory(queues) => scratch.send_in_memory(&mut lock(queues), queue, counters),
            };
            let (refused, fall_to, message, why) = match sent {
                Sent::All => {
                    self.ladder.sent(scratch.used);
                    return scratch.settle(queue, usize::MAX, pool, counters);
                }
                Sent::NotWhole { message } => {
                    let (unsent, _) = scratch.unsent(message);
                    scratch.settle(queue, unsent, pool, counters);
                    if let Some(departure) = queue.first_mut() {
                        departure.carriage = Carriage::Joined;
                    }
                    taken = 0;
                    continue;
                }
                Sent::NoTunnel { message, why } => {
                    (Rung::Tunnel, Rung::Segment, message, format!("tunnel device: {why}"))
                }
                Sent::NoSegment { message, why } => {
                    (Rung::Segment, Rung::Batch, message, format!("UDP_SEGMENT: {why}"))
                }
                Sent::NoBatch { message, why } => (Rung::Batch, Rung::Single, message, format!("sendmmsg: {why}")),
            };
            let unsent;
            (unsent, taken) = scratch.unsent(message);
            scratch.settle(queue, unsent, pool, counters);
            self.ladder.fall(refused, fall_to, why);
            counters.io.rung_falls += 1;
        }
    }
}

impl Scratch {
    /// Groups the queue into messages.
    fn plan(&mut self, queue: &[Departure], rung: Rung) {
        self.messages.clear();
        self.used = rung.min(Rung::Batch);
        self.refused.clear();
        self.refused.resize(queue.len(), None);
        let mut plans = 0;
        for (index, departure) in queue.iter().enumerate() {
            let in_vain = match departure.carriage {
                Carriage::MustJoin => rung < Rung::Segment,
                Carriage::MustBeWhole => rung < Rung::Tunnel,
                Carriage::Alone | Carriage::Joined | Carriage::Whole => false,
            };
            if in_vain {
                self.refused[index] = Some(DropReason::TxRefused);
                continue;
            }
            let Some(size) = departure.cut else {
                let joins = rung >= Rung::Segment && departure.carriage != Carriage::Alone;
                if !(joins && self.messages.last_mut().is_some_and(|last| last.join(queue, index))) {
                    self.messages.push(Message::plain(index, departure.frame.len()));
                }
                continue;
            };
            if rung == Rung::Tunnel && departure.goes_whole() {
                self.messages.push(Message { whole: true, ..Message::plain(index, departure.frame.len()) });
                continue;
            }
            if plans == self.plans.len() {
                self.plans.push(Plan::default());
            }
            match self.plans[plans].build(&departure.frame, departure.vni, size, SEGMENTS_MAX_OLD) {
                Ok(()) => self.push_parts(index, plans),
                Err(reason) => self.refused[index] = Some(reason),
            }
            plans += 1;
        }
    }

    fn push_parts(&mut self, index: usize, plan: usize) {
        let parts = self.plans[plan].sends().iter().enumerate();
        self.messages.extend(parts.map(|(part, send)| Message {
            departures: index..index + 1,
            part: Some((plan, part)),
            whole: false,
            stride: send.stride.into(),
            len: send.len,
            packets: send.blocks.len(),
        }));
    }

    fn send(
        &mut self,
        fd: BorrowedFd<'_>,
        device: Option<Exit<'_>>,
        rung: Rung,
        queue: &[Departure],
        counters: &mut Counters,
    ) -> Sent {
        let mut next = 0;
        while next < self.messages.len() {
            let result = if self.messages[next].whole {
                self.send_whole(device, next, queue, counters)
            } else {
                self.send_batch(fd, rung, next, queue, counters)
            };
            match result {
                Ok(after) => next = after,
                Err(sent) => return sent,
            }
        }
        Sent::All
    }

    /// One super-frame through the device; the message behind it.
    fn send_whole(
        &mut self,
        exit: Option<Exit<'_>>,
        message: usize,
        queue: &[Departure],
        counters: &mut Counters,
    ) -> Result<usize, Sent> {
        let index = self.messages[message].departures.start;
        let no_tunnel = |why| Err(Sent::NoTunnel { message, why });
        let Some(exit) = exit else { return no_tunnel(io::ErrorKind::NotFound.into()) };
        let departure = &queue[index];
        let mut headers = [0; outer::HEADERS_LEN_MAX];
        let emitted = exit.outer(departure).emit(&departure.frame, departure.cut.unwrap_or_default(), &mut headers);
        let headers_len = match emitted {
            Ok(len) => len,
            Err(reason) => {
                self.refused[index] = Some(reason);
                return Ok(message + 1);
            }
        };
        let slices = [IoSlice::new(&headers[..headers_len]), IoSlice::new(departure.frame.bytes())];
        loop {
            counters.io.underlay_writes += 1;
            match rustix::io::writev(&exit.device.queue, &slices) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => {
                    self.refused[index] = Some(DropReason::TxFull);
                    return Ok(message + 1);
                }
                Err(Errno::INVAL) if departure.carriage == Carriage::Whole => return Err(Sent::NotWhole { message }),
                Err(why) => return no_tunnel(why.into()),
            }
        }
        self.used = Rung::Tunnel;
        counters.io.underlay_tx_messages += 1;
        counters.io.underlay_tx_whole += 1;
        Ok(message + 1)
    }

    /// The messages from `first` on, as many as one batch holds or up to one for the device; the message behind them.
    fn send_batch(
        &mut self,
        fd: BorrowedFd<'_>,
        rung: Rung,
        first: usize,
        queue: &[Departure],
        counters: &mut Counters,
    ) -> Result<usize, Sent> {
        let Self { batch, plans, messages, refused, used, .. } = self;
        let mut sending = batch.start();
        let mut next = first;
        while let Some(message) = messages.get(next).filter(|message| !message.whole) {
            if !sending.push(&message.outgoing(queue), message.slices(queue, plans)) {
                break;
            }
            next += 1;
        }
        let mut sent = 0;
        while sent < sending.len() {
            let message = first + sent;
            counters.io.underlay_writes += 1;
            let result = match rung {
                Rung::Single => sending.send_one(fd, sent).map(|()| 1),
                Rung::Batch | Rung::Segment | Rung::Tunnel => sending.send(fd, sent),
            };
            match result {
                Ok(count) => {
                    let taken = &messages[message..message + count.max(1)];
                    let packets = taken.iter().map(|m| m.packets).sum::<usize>();
                    if packets > taken.len() {
                        *used = (*used).max(Rung::Segment);
                    }
                    counters.io.underlay_tx_messages += taken.len() as u64;
                    counters.io.underlay_tx_packets += packets as u64;
                    sent += taken.len();
                }
                Err(why) => match Refusal::of(&why, rung, messages[message].packets > 1) {
                    Refusal::Again => {}
                    Refusal::NoSegment => return Err(Sent::NoSegment { message, why }),
                    Refusal::NoBatch => return Err(Sent::NoBatch { message, why }),
                    Refusal::Full => {
                        let rest = messages[message].departures.start..;
                        refused[rest].iter_mut().for_each(|slot| *slot = slot.or(Some(DropReason::TxFull)));
                        return Err(Sent::All);
                    }
                    Refusal::Drop(reason) => {
                        refused[messages[message].departures.clone()].fill(Some(reason));
                        sent += 1;
                    }
                },
            }
        }
        Ok(next)
    }

    /// An underlay without a kernel: cuts messages as the kernel would.
    fn send_in_memory(&mut self, queues: &mut Queues, queue: &[Departure], counters: &mut Counters) -> Sent {
        for (index, message) in self.messages.iter().enumerate() {
            if message.packets > 1 {
                if queues.segments == 0 {
                    return Sent::NoSegment { message: index, why: Errno::IO.into() };
                }
                queues.segments -= 1;
                self.used = self.used.max(Rung::Segment);
            }
            if message.whole {
                if queues.super_frames == 0 && queues.dislikes {
                    return Sent::NotWhole { message: index };
                }
                if queues.super_frames == 0 {
                    return Sent::NoTunnel { message: index, why: Errno::IO.into() };
                }
                queues.super_frames -= 1;
                self.used = Rung::Tunnel;
            }
            if queues.outgoing.room() < message.packets {
                self.refused[message.departures.clone()].fill(Some(DropReason::TxFull));
                continue;
            }
            let bytes = &mut self.bytes;
            bytes.clear();
            if message.whole {
                bytes.resize(vxlan::HEADER_LEN, 0);
                VxlanHeader { vni: queue[message.departures.start].vni }.emit(bytes);
            }
            message.slices(queue, &self.plans).for_each(|slice| bytes.extend_from_slice(slice));
            let large = message.packets > 1 || message.whole;
            if let Some(last) = bytes.last_mut().filter(|_| large && queues.breaks_segments) {
                *last ^= 1;
            }
            let out = message.outgoing(queue);
            counters.io.underlay_writes += 1;
            counters.io.underlay_tx_messages += 1;
            counters.io.underlay_tx_packets += message.packets as u64;
            let stride = if message.whole { bytes.len() } else { message.stride.max(1) };
            for packet in bytes.chunks(stride) {
                // There is room: it was looked at above.
                let Some(slot) = queues.outgoing.push() else { break };
                (slot.addr, slot.tos, slot.stride) = (out.to, out.tos, None);
                slot.payload.clear();
                slot.payload.extend_from_slice(packet);
            }
        }
        Sent::All
    }

    /// The first departure that was not sent whole when `message` was refused, and how many packets of it were.
    fn unsent(&self, message: usize) -> (usize, usize) {
        let first = self.messages[message].departures.start;
        if self.refused[first].is_some() {
            return (first + 1, 0);
        }
        let parts = self.messages[..message].iter().rev().take_while(|part| part.departures.start == first);
        (first, parts.map(|part| part.packets).sum())
    }

    /// Writes the end of the departures before `until` into the books, and takes them out of the queue.
    fn settle(&self, queue: &mut Vec<Departure>, until: usize, pool: &mut FramePool, counters: &mut Counters) {
        let until = until.min(queue.len());
        for (departure, refused) in queue.drain(..until).zip(&self.refused) {
            match refused {
                None => {
                    counters.ledger.tx += 1;
                    counters.io.tx_super_frames += u64::from(departure.cut.is_some());
                }
                Some(reason) => counters.dropped(departure.source, *reason, &Arc::default()),
            }
            pool.give(departure.frame);
        }
    }
}

/// After a fall: super-frames that the kernel was to cut become plain packets. Of the first frame's the kernel took
/// `taken` already: both cut in the same places.
fn cut_in_software(queue: &mut Vec<Departure>, mut taken: usize, pool: &mut FramePool, counters: &mut Counters) {
    if queue.iter().all(|departure| departure.cut.is_none()) {
        return;
    }
    for departure in mem::take(queue) {
        let Some(size) = departure.cut else {
            queue.push(departure);
            continue;
        };
        let Departure { frame, source, to, tos, vni, carriage, .. } = departure;
        let mut pieces = Vec::new();
        if let Err(reason) = egress::segment(frame, size, pool, counters, &mut pieces) {
            counters.dropped(source, reason, &Arc::default());
        }
        for sent in pieces.drain(..mem::take(&mut taken).min(pieces.len())) {
            counters.ledger.tx += 1;
            pool.give(sent);
        }
        queue.extend(pieces.into_iter().map(|mut frame| {
            encap::encap(&mut frame, vni);
            Departure { frame, source, to, tos, vni, cut: None, carriage }
        }));
    }
}

/// Messages of one `sendmmsg`.
const MESSAGES_MAX: usize = 64;
/// Slices of one `sendmmsg`: at least two per segment of one message.
const SLICES_MAX: usize = 1024;
