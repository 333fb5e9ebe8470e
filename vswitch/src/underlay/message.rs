//! What one system call sends, how frames share it, and what the kernel's refusal of it means.

use std::io;
use std::ops::Range;

use rustix::io::Errno;
use weft_packet::DropReason;
use weft_program::message::Rung;
use weft_sys::udp::Outgoing;
use weft_vtep::plan::{Plan, SEGMENTS_MAX_OLD, SEND_LEN_MAX};

use super::Departure;

/// What one system call sends, or a part of it.
#[derive(Debug)]
pub(super) struct Message {
    /// The frames in it.
    pub(super) departures: Range<usize>,
    /// For a part of a super-frame: its plan, and which of the plan's sends.
    pub(super) part: Option<(usize, usize)>,
    /// A super-frame for the device, not for the socket.
    pub(super) whole: bool,
    /// The length of each packet but the last.
    pub(super) stride: usize,
    pub(super) len: usize,
    pub(super) packets: usize,
}

impl Message {
    pub(super) const fn plain(index: usize, len: usize) -> Self {
        Self { departures: index..index + 1, part: None, whole: false, stride: len, len, packets: 1 }
    }

    /// Takes the frame behind the last one in, if UDP_SEGMENT can carry it along: to the same remote with the same TOS,
    /// as long as all before it, or shorter and then the last.
    pub(super) fn join(&mut self, queue: &[Departure], index: usize) -> bool {
        let (first, new) = (&queue[self.departures.start], &queue[index]);
        let len = new.frame.len();
        let open = self.len == self.stride * self.packets;
        let fits = self.packets < SEGMENTS_MAX_OLD && self.len + len <= SEND_LEN_MAX && len <= self.stride;
        let same = self.part.is_none()
            && !self.whole
            && self.departures.end == index
            && (first.to, first.tos, first.carriage) == (new.to, new.tos, new.carriage);
        if !(open && fits && same) {
            return false;
        }
        self.departures.end += 1;
        self.len += len;
        self.packets += 1;
        true
    }

    pub(super) fn outgoing(&self, queue: &[Departure]) -> Outgoing {
        let first = &queue[self.departures.start];
        let segment = (self.packets > 1).then_some(self.stride as u16);
        Outgoing { to: first.to, tos: first.tos, segment }
    }

    pub(super) fn slices<'a>(&self, queue: &'a [Departure], plans: &'a [Plan]) -> impl Iterator<Item = &'a [u8]> {
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
pub(super) enum Refusal {
    Again,
    Full,
    NoSegment,
    NoBatch,
    Drop(DropReason),
}

impl Refusal {
    pub(super) fn of(error: &io::Error, rung: Rung, segmented: bool) -> Self {
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
