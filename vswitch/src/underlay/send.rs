//! From queued frames to the sending sockets, by rung: UDP_SEGMENT, `sendmmsg`, or one `sendmsg` each.
//!
//! On the top rung a super-frame is one message, and so is a row of equally long small packets to one remote. When the
//! kernel refuses a rung, what was to go over it goes over the next one, and nothing that it took is sent again.

use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::io::Errno;
use weft_packet::{DropReason, FramePool};
use weft_program::message::Rung;
use weft_sys::udp::{Outgoing, SendBatch};
use weft_vtep::encap;
use weft_vtep::plan::{Plan, SEGMENTS_MAX_OLD, SEND_LEN_MAX};

use super::{Departure, Joins, MemoryDatagram, Queues, Sockets, Tunnel, lock};
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
    /// Whether a message with more than one packet was taken.
    segmented: bool,
}

/// What one system call sends, or a part of it.
#[derive(Debug)]
struct Message {
    /// The frames in it.
    departures: Range<usize>,
    /// For a part of a super-frame: its plan, and which of the plan's sends.
    part: Option<(usize, usize)>,
    /// The length of each packet but the last.
    stride: usize,
    len: usize,
    packets: usize,
}

/// How sending a queue ended.
enum Sent {
    /// Every message was taken or refused.
    All,
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
            segmented: false,
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
            if rung != Rung::Segment {
                cut_in_software(queue, taken, pool, counters);
            }
            let scratch = &mut self.sender.scratch;
            scratch.plan(queue, rung);
            let sent = match &self.attached.sockets {
                Sockets::Udp { tx, .. } => scratch.send(tx[socket].as_fd(), rung, queue, counters),
                Sockets::Memory(queues) => scratch.send_in_memory(&mut lock(queues), queue, counters),
            };
            let (fall_to, message, why) = match sent {
                Sent::All => {
                    self.ladder.sent(scratch.segmented);
                    return scratch.settle(queue, usize::MAX, pool, counters);
                }
                Sent::NoSegment { message, why } => (Rung::Batch, message, format!("UDP_SEGMENT: {why}")),
                Sent::NoBatch { message, why } => (Rung::Single, message, format!("sendmmsg: {why}")),
            };
            let unsent;
            (unsent, taken) = scratch.unsent(message);
            scratch.settle(queue, unsent, pool, counters);
            self.ladder.fall(fall_to, why);
            counters.io.rung_falls += 1;
        }
    }
}

impl Scratch {
    /// Groups the queue into messages.
    fn plan(&mut self, queue: &[Departure], rung: Rung) {
        self.messages.clear();
        self.segmented = false;
        self.refused.clear();
        self.refused.resize(queue.len(), None);
        let mut plans = 0;
        for (index, departure) in queue.iter().enumerate() {
            if let Some(size) = departure.cut {
                if plans == self.plans.len() {
                    self.plans.push(Plan::default());
                }
                match self.plans[plans].build(&departure.frame, departure.vni, size, SEGMENTS_MAX_OLD) {
                    Ok(()) => self.push_parts(index, plans),
                    Err(reason) => self.refused[index] = Some(reason),
                }
                plans += 1;
                continue;
            }
            let segments = rung == Rung::Segment;
            if departure.joins == Joins::Must && !segments {
                self.refused[index] = Some(DropReason::TxRefused);
                continue;
            }
            let joins = segments && departure.joins != Joins::Never;
            if !(joins && self.messages.last_mut().is_some_and(|last| last.join(queue, index))) {
                let len = departure.frame.len();
                self.messages.push(Message { departures: index..index + 1, part: None, stride: len, len, packets: 1 });
            }
        }
    }

    fn push_parts(&mut self, index: usize, plan: usize) {
        let parts = self.plans[plan].sends().iter().enumerate();
        self.messages.extend(parts.map(|(part, send)| Message {
            departures: index..index + 1,
            part: Some((plan, part)),
            stride: send.stride.into(),
            len: send.len,
            packets: send.blocks.len(),
        }));
    }

    fn send(&mut self, fd: BorrowedFd<'_>, rung: Rung, queue: &[Departure], counters: &mut Counters) -> Sent {
        let Self { batch, plans, messages, refused, segmented } = self;
        let mut next = 0;
        while next < messages.len() {
            let mut sending = batch.start();
            let first = next;
            while let Some(message) = messages.get(next) {
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
                    Rung::Batch | Rung::Segment => sending.send(fd, sent),
                };
                match result {
                    Ok(count) => {
                        let taken = &messages[message..message + count.max(1)];
                        let packets = taken.iter().map(|m| m.packets).sum::<usize>();
                        *segmented |= packets > taken.len();
                        counters.io.underlay_tx_messages += taken.len() as u64;
                        counters.io.underlay_tx_packets += packets as u64;
                        sent += taken.len();
                    }
                    Err(why) => match Refusal::of(&why, rung, messages[message].packets > 1) {
                        Refusal::Again => {}
                        Refusal::NoSegment => return Sent::NoSegment { message, why },
                        Refusal::NoBatch => return Sent::NoBatch { message, why },
                        Refusal::Full => {
                            let rest = messages[message].departures.start..;
                            refused[rest].iter_mut().for_each(|slot| *slot = slot.or(Some(DropReason::TxFull)));
                            return Sent::All;
                        }
                        Refusal::Drop(reason) => {
                            refused[messages[message].departures.clone()].fill(Some(reason));
                            sent += 1;
                        }
                    },
                }
            }
        }
        Sent::All
    }

    /// An underlay without a kernel: cuts messages as the kernel would.
    fn send_in_memory(&mut self, queues: &mut Queues, queue: &[Departure], counters: &mut Counters) -> Sent {
        for (index, message) in self.messages.iter().enumerate() {
            if message.packets > 1 {
                if queues.segments == 0 {
                    return Sent::NoSegment { message: index, why: Errno::IO.into() };
                }
                queues.segments -= 1;
                self.segmented = true;
            }
            if queues.outgoing.len() + message.packets > queues.len_max {
                self.refused[message.departures.clone()].fill(Some(DropReason::TxFull));
                continue;
            }
            let mut bytes: Vec<u8> = message.slices(queue, &self.plans).flatten().copied().collect();
            if let Some(last) = bytes.last_mut().filter(|_| message.packets > 1 && queues.breaks_segments) {
                *last ^= 1;
            }
            let out = message.outgoing(queue);
            counters.io.underlay_writes += 1;
            counters.io.underlay_tx_messages += 1;
            counters.io.underlay_tx_packets += message.packets as u64;
            for packet in bytes.chunks(message.stride.max(1)) {
                queues.outgoing.push_back(MemoryDatagram {
                    addr: out.to,
                    payload: packet.to_vec(),
                    tos: out.tos,
                    stride: None,
                });
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

impl Message {
    /// Takes the frame behind the last one in, if UDP_SEGMENT can carry it along: to the same remote with the same TOS,
    /// as long as all before it, or shorter and then the last.
    fn join(&mut self, queue: &[Departure], index: usize) -> bool {
        let (first, new) = (&queue[self.departures.start], &queue[index]);
        let len = new.frame.len();
        let open = self.len == self.stride * self.packets;
        let fits = self.packets < SEGMENTS_MAX_OLD && self.len + len <= SEND_LEN_MAX && len <= self.stride;
        let same = self.part.is_none()
            && self.departures.end == index
            && (first.to, first.tos, first.joins) == (new.to, new.tos, new.joins);
        if !(open && fits && same) {
            return false;
        }
        self.departures.end += 1;
        self.len += len;
        self.packets += 1;
        true
    }

    fn outgoing(&self, queue: &[Departure]) -> Outgoing {
        let first = &queue[self.departures.start];
        let segment = (self.packets > 1).then_some(self.stride as u16);
        Outgoing { to: first.to, tos: first.tos, segment }
    }

    fn slices<'a>(&self, queue: &'a [Departure], plans: &'a [Plan]) -> impl Iterator<Item = &'a [u8]> {
        let departures = &queue[self.departures.clone()];
        let plain = self.part.is_none().then(|| departures.iter().map(|departure| departure.frame.bytes()));
        let part = self.part.map(|(plan, send)| {
            let (plan, bytes) = (&plans[plan], departures[0].frame.bytes());
            let blocks = &plan.blocks()[plan.sends()[send].blocks.clone()];
            blocks.iter().flat_map(|block| [&plan.headers()[block.header.clone()], &bytes[block.payload.clone()]])
        });
        plain.into_iter().flatten().chain(part.into_iter().flatten())
    }
}

/// What an error of a send means.
enum Refusal {
    Again,
    Full,
    NoSegment,
    NoBatch,
    Drop(DropReason),
}

impl Refusal {
    fn of(error: &io::Error, rung: Rung, segmented: bool) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::INTR) => Self::Again,
            Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Self::Full,
            Some(Errno::MSGSIZE) => Self::Drop(DropReason::Oversize),
            Some(Errno::INVAL | Errno::IO | Errno::NOPROTOOPT | Errno::OPNOTSUPP) if segmented => Self::NoSegment,
            Some(Errno::NOSYS) if rung != Rung::Single => Self::NoBatch,
            _ => Self::Drop(DropReason::TxRefused),
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
        let Departure { frame, source, to, tos, vni, joins, .. } = departure;
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
            Departure { frame, source, to, tos, vni, cut: None, joins }
        }));
    }
}

/// Messages of one `sendmmsg`.
const MESSAGES_MAX: usize = 64;
/// Slices of one `sendmmsg`: at least two per segment of one message.
const SLICES_MAX: usize = 1024;
