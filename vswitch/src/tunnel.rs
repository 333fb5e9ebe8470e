//! Frames that go to another host: fit them to the underlay's MTU, or answer the sender.
//!
//! Nothing vanishes for its size alone: it is cut, fragmented inside, answered, or counted as `Oversize`.

use std::net::SocketAddr;
use std::time::Duration;

use weft_packet::fragment::Fragments;
use weft_packet::{DropReason, Frame, Vni, reply};
use weft_program::message::DropSource;
use weft_program::{PortId, RemoteId};
use weft_vtep::ecn::{self, Dscp};
use weft_vtep::encap;
use weft_vtep::mtu::{self, AnswerLimiter, Fit};

use crate::egress;
use crate::execute::{Flight, Outputs};
use crate::underlay::{Carriage, Departure};
use crate::worker::Origin;

/// The way to a remote, for one frame and all that is cut from it.
#[derive(Debug, Clone, Copy)]
struct Way {
    to: SocketAddr,
    vni: Vni,
    socket: usize,
    source: DropSource,
    carriage: Carriage,
}

impl Way {
    const fn departure(self, frame: Frame, tos: u8, cut: Option<u16>) -> Departure {
        Departure { frame, source: self.source, to: self.to, tos, vni: self.vni, cut, carriage: self.carriage }
    }
}

impl Outputs {
    /// Sends a frame to a remote.
    pub(crate) fn tunnel(&mut self, flight: Flight<'_>, remote: RemoteId, vni: Vni, source: DropSource, frame: Frame) {
        let (Some(tunnel), Some(remote)) = (&self.tunnel, flight.tables.remote(remote)) else {
            return self.drop(source, DropReason::NoDestination, frame);
        };
        let way = Way {
            to: SocketAddr::new(remote.addr, remote.udp_port),
            vni,
            socket: tunnel.socket(flight.key),
            source,
            carriage: tunnel.carriage(remote.id),
        };
        let size = frame.offload.gso.map_or(0, |gso| gso.size);
        match mtu::fit(&frame, tunnel.inner_mtu()) {
            Fit::Fits => self.depart(way, frame, size),
            Fit::Resegment(smaller) => self.depart(way, frame, smaller),
            Fit::FragmentInside(mtu) => self.fragment(way, frame, mtu),
            Fit::AnswerV4(mtu) | Fit::AnswerV6(mtu) => self.answer_too_long(flight, mtu, frame),
            Fit::Oversize => self.drop(source, DropReason::Oversize, frame),
        }
    }

    /// Queues a frame that fits; a super-frame in segments of `size` payload bytes.
    fn depart(&mut self, way: Way, frame: Frame, size: u16) {
        if frame.offload.gso.is_none() {
            return self.depart_plain(way, frame);
        }
        // The sockets or the device cut it.
        if way.carriage != Carriage::Alone {
            let tos = ecn::outer_tos(frame.bytes(), Dscp::Copy);
            return self.queue(way, way.departure(frame, tos, Some(size)));
        }
        let mut pieces = std::mem::take(&mut self.pieces);
        match egress::segment(frame, size, &mut self.pool, &mut self.counters, &mut pieces) {
            Ok(()) => pieces.drain(..).for_each(|piece| self.depart_plain(way, piece)),
            Err(reason) => self.counters.dropped(way.source, reason, &Default::default()),
        }
        self.pieces = pieces;
    }

    fn depart_plain(&mut self, way: Way, mut frame: Frame) {
        if let Err(reason) = egress::complete(&mut frame, &mut self.counters) {
            return self.drop(way.source, reason, frame);
        }
        let tos = ecn::outer_tos(frame.bytes(), Dscp::Copy);
        encap::encap(&mut frame, way.vni);
        self.queue(way, way.departure(frame, tos, None));
    }

    fn queue(&mut self, way: Way, departure: Departure) {
        match &mut self.tunnel {
            Some(tunnel) => tunnel.queue(way.socket, departure),
            None => return self.drop(way.source, DropReason::NoDestination, departure.frame),
        }
        self.count_queued();
    }

    /// Cuts an IPv4 packet that allows it; a UDP super-frame into its datagrams first.
    fn fragment(&mut self, way: Way, frame: Frame, mtu: u16) {
        let mut pieces = std::mem::take(&mut self.pieces);
        let size = frame.offload.gso.map_or(0, |gso| gso.size);
        if let Err(reason) = egress::segment(frame, size, &mut self.pool, &mut self.counters, &mut pieces) {
            self.counters.dropped(way.source, reason, &Default::default());
        }
        for mut piece in pieces.drain(..) {
            let completed = egress::complete(&mut piece, &mut self.counters);
            let made = completed.and_then(|()| self.fragment_plain(way, &piece, mtu));
            match made {
                // The fragments stand for the piece: one of them is no further frame.
                Ok(count) => {
                    self.counters.ledger.split += count - 1;
                    self.pool.give(piece);
                }
                Err(reason) => self.drop(way.source, reason, piece),
            }
        }
        self.pieces = pieces;
    }

    /// Queues the fragments; how many there are, those without a buffer included.
    fn fragment_plain(&mut self, way: Way, piece: &Frame, mtu: u16) -> Result<u64, DropReason> {
        let fragments = Fragments::new(piece, mtu).map_err(|_| DropReason::Oversize)?;
        let mut count = 0;
        for fragment in fragments {
            count += 1;
            match self.pool.take() {
                Some(mut frame) => {
                    fragment.write(&mut frame);
                    self.depart_plain(way, frame);
                }
                None => self.counters.dropped(way.source, DropReason::NoBuffer, &Default::default()),
            }
        }
        Ok(count)
    }

    /// Tells a guest the MTU instead of sending its packet.
    fn answer_too_long(&mut self, flight: Flight<'_>, mtu: u16, frame: Frame) {
        let source = flight.origin.source();
        let Origin::Port(id) = flight.origin else {
            return self.drop(source, DropReason::Oversize, frame);
        };
        if !self.may_answer(flight, id) {
            return self.drop(source, DropReason::ReplyLimited, frame);
        }
        let Some(mut answer) = self.pool.take() else {
            return self.drop(source, DropReason::NoBuffer, frame);
        };
        let made = reply::fragmentation_needed(frame.bytes(), mtu, &mut answer)
            .or_else(|_| reply::packet_too_big(frame.bytes(), mtu.into(), &mut answer));
        if made.is_err() {
            self.pool.give(answer);
            return self.drop(source, DropReason::Oversize, frame);
        }
        self.consume(frame);
        self.output(id, DropSource::Own, answer);
    }

    fn may_answer(&mut self, flight: Flight<'_>, id: PortId) -> bool {
        let Some(port) = self.ports.get_mut(id) else { return false };
        let limiter = || AnswerLimiter::new(ANSWERS_AT_ONCE, ANSWER_INTERVAL, flight.now);
        port.answers.get_or_insert_with(limiter).allow(flight.now)
    }

    /// A frame that was answered: it ends, and the answer begins.
    pub(crate) fn consume(&mut self, frame: Frame) {
        self.counters.ledger.consumed += 1;
        self.counters.ledger.originated += 1;
        self.pool.give(frame);
    }
}

/// ICMP errors that a port is sent at once.
const ANSWERS_AT_ONCE: u32 = 32;
/// Time for one more: 100 per second.
const ANSWER_INTERVAL: Duration = Duration::from_millis(10);
