//! Answers to ARP requests and neighbour solicitations, sent back where they came from.

use weft_packet::ethernet::ETHERTYPE_ARP;
use weft_packet::reply::{self, NoReply};
use weft_packet::{DropReason, Field, Frame, MacAddr};
use weft_program::message::DropSource;

use crate::execute::{Flight, Outputs};
use crate::worker::Origin;

impl Outputs {
    /// Answers `frame`: what it asks about is at `mac`.
    pub(crate) fn reply(&mut self, flight: Flight<'_>, mac: MacAddr, frame: Frame) {
        let source = flight.origin.source();
        let Some(mut answer) = self.pool.take() else {
            return self.drop(source, DropReason::NoBuffer, frame);
        };
        let is_arp = flight.key.field(Field::EthType) as u16 == ETHERTYPE_ARP;
        let made = if is_arp {
            reply::arp_reply(frame.bytes(), mac, &mut answer)
        } else {
            reply::neighbor_advertisement(frame.bytes(), mac, &mut answer)
        };
        if let Err(why) = made {
            self.pool.give(answer);
            return self.drop(source, reason(why, is_arp), frame);
        }
        self.consume(frame);
        match flight.origin {
            Origin::Port(id) => self.output(id, DropSource::Own, answer),
            Origin::Remote { remote, vni } => self.tunnel(flight, remote, vni, DropSource::Own, answer),
        }
    }
}

const fn reason(why: NoReply, is_arp: bool) -> DropReason {
    match why {
        NoReply::Malformed(reason) => reason,
        // An announcement of an address asks nobody.
        NoReply::NotAsked => DropReason::OwnAddressProbe,
        _ if is_arp => DropReason::MalformedArp,
        _ => DropReason::MalformedL4,
    }
}
