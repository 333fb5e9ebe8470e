//! Packets for tests, built byte by byte, and the ways they reach a VTEP.

use proptest::prelude::*;
use weft_packet::offload::set_partial;
use weft_packet::{Csum, Frame, FramePool, Gso, GsoKind, Layout, Sum};

/// A whole TCP or UDP packet in an Ethernet frame.
#[derive(Debug, Clone)]
pub(crate) struct PacketSpec {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) l4_src: u16,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) ip_id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl PacketSpec {
    pub(crate) fn tcp_v4(payload: &[u8]) -> Self {
        Self {
            v6: false,
            tcp: true,
            l4_src: 1000,
            tos: 0,
            ttl: 64,
            ip_id: 7,
            dont_fragment: true,
            seq: 1,
            ack: 1,
            flags: 0x10,
            tcp_options: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    pub(crate) fn udp_v4(payload: &[u8]) -> Self {
        Self { tcp: false, ..Self::tcp_v4(payload) }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let protocol = if self.tcp { 6 } else { 17 };
        let mut l4 = [self.l4_src.to_be_bytes(), 443u16.to_be_bytes()].concat();
        if self.tcp {
            l4.extend(self.seq.to_be_bytes());
            l4.extend(self.ack.to_be_bytes());
            l4.extend([(80 + self.tcp_options.len() * 4) as u8, self.flags, 1, 0, 0, 0, 0, 0]);
            l4.extend(&self.tcp_options);
        } else {
            l4.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            l4.extend([0, 0]);
        }
        l4.extend(&self.payload);
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            frame.extend((l4.len() as u16).to_be_bytes());
            frame.extend([protocol, self.ttl]);
            frame.extend([[0xfd; 15].as_slice(), &[1], &[0xfd; 15], &[2]].concat());
        } else {
            frame.extend([0x08, 0x00, 0x45, self.tos]);
            frame.extend(((20 + l4.len()) as u16).to_be_bytes());
            frame.extend(self.ip_id.to_be_bytes());
            frame.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, self.ttl, protocol, 0, 0]);
            frame.extend([10, 9, 0, 1, 10, 9, 0, 2]);
            let check = Sum::of(&frame[14..]).finish().to_be_bytes();
            frame[24..26].copy_from_slice(&check);
        }
        let start = frame.len();
        frame.extend(l4);
        let layout = Layout::of(&frame).expect("a whole packet");
        let sum = layout.pseudo(&frame, frame.len() - start) + Sum::of(&frame[start..]);
        let check = match sum.finish() {
            0 if !self.tcp => 0xffff,
            check => check,
        };
        let at = start + if self.tcp { 16 } else { 6 };
        frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
        frame
    }
}

/// Any whole packet with 1 to `payload_max` bytes of payload.
pub(crate) fn any_packet(payload_max: usize) -> impl Strategy<Value = PacketSpec> {
    let l3 = (any::<bool>(), any::<u8>(), 1u8.., any::<u16>(), any::<bool>());
    let l4 = (any::<bool>(), 1000u16..1003, any::<u32>(), any::<u8>(), 0usize..3);
    (l3, l4, prop::collection::vec(any::<u8>(), 1..payload_max)).prop_map(|(l3, l4, payload)| {
        let (v6, tos, ttl, ip_id, dont_fragment) = l3;
        let (tcp, l4_src, seq, flags, options) = l4;
        let tcp_options = vec![1; options * 4];
        PacketSpec { v6, tcp, l4_src, tos, ttl, ip_id, dont_fragment, seq, ack: 1, flags, tcp_options, payload }
    })
}

/// The packet as a super-frame in segments of `size`, as a guest's kernel hands it over.
pub(crate) fn super_frame(packet: &PacketSpec, size: u16) -> Frame {
    let mut frame = FramePool::new(1).take().expect("the pool has one");
    frame.fill(&packet.build());
    frame.offload.csum = Csum::Verified;
    let layout = Layout::of(frame.bytes()).expect("a whole packet");
    assert!(set_partial(&mut frame, &layout));
    let kind = match (packet.tcp, packet.v6) {
        (true, false) => GsoKind::TcpV4,
        (true, true) => GsoKind::TcpV6,
        (false, _) => GsoKind::Udp,
    };
    frame.offload.gso = Some(Gso { kind, size, ecn: false });
    frame
}
