//! Pushing the VXLAN header, and the choice of a source port.

use weft_packet::vxlan::{HEADER_LEN, VxlanHeader};
use weft_packet::{Frame, Vni};

/// Pushes the header in front of a frame, whose L4 checksum is complete by then.
pub fn encap(frame: &mut Frame, vni: Vni) {
    VxlanHeader { vni }.emit(frame.push_front(HEADER_LEN));
}

/// Picks one of N sockets, each bound to a source port of its own, by the inner flow: the underlay then spreads flows
/// over its paths and queues, and keeps each flow in order.
#[derive(Debug, Clone, Copy)]
pub struct Entropy {
    sockets: u32,
}

impl Entropy {
    /// For `sockets` sockets.
    ///
    /// # Panics
    /// When there are none: the caller's bug.
    pub fn new(sockets: u32) -> Self {
        assert!(sockets > 0, "an underlay needs at least one socket to send from");
        Self { sockets }
    }

    /// The index of the socket for frames whose key has this [`flow_hash`](weft_packet::flow_hash).
    pub fn socket(self, flow_hash: u32) -> usize {
        ((u64::from(flow_hash) * u64::from(self.sockets)) >> 32) as usize
    }
}

#[cfg(test)]
mod tests {
    use weft_packet::{Field, FlowKey, FramePool, flow_hash};

    use super::*;

    #[test]
    fn the_header_is_the_one_of_the_rfc() {
        let mut pool = FramePool::new(1);
        let mut frame = pool.take().unwrap();
        frame.fill(&[0xaa; 14]);
        encap(&mut frame, Vni::new(0x12_3456).unwrap());
        assert_eq!(frame.bytes()[..10], [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0, 0xaa, 0xaa]);
    }

    #[test]
    fn flows_spread_evenly_over_the_sockets() {
        let entropy = Entropy::new(16);
        let key = FlowKey::ZERO
            .with(Field::EthType, 0x0800)
            .with(Field::IpProto, 6)
            .with(Field::IpSrc, 0x0a09_0001)
            .with(Field::IpDst, 0x0a09_0002)
            .with(Field::L4Dst, 443);
        let mut hits = [0u32; 16];
        for l4_src in 0..16_000 {
            hits[entropy.socket(flow_hash(&key.with(Field::L4Src, l4_src)))] += 1;
        }
        let chi_square: f64 = hits.iter().map(|h| (f64::from(*h) - 1000.0).powi(2) / 1000.0).sum();
        // 15 degrees of freedom: 99.9 % of fair spreads stay under 37.7.
        assert!(chi_square < 37.7, "{chi_square}: {hits:?}");
    }
}
