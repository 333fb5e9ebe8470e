//! Packets for tests, built byte by byte with the slowest possible checksums.

use proptest::prelude::*;

use crate::frame::{Csum, Frame, FramePool, Gso, GsoKind};
use crate::ipv4::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::layout::Layout;

/// A whole TCP or UDP packet in an Ethernet frame.
#[derive(Debug, Clone)]
pub(crate) struct PacketSpec {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) src: u128,
    pub(crate) dst: u128,
    pub(crate) ports: (u16, u16),
    pub(crate) tos: u8,
    pub(crate) ip_id: u16,
    pub(crate) dont_fragment: bool,
    /// Words of IPv4 options, or an IPv6 destination options header when not zero.
    pub(crate) extension_words: usize,
    pub(crate) seq: u32,
    pub(crate) flags: u8,
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl PacketSpec {
    pub(crate) fn udp_v4(payload: &[u8]) -> Self {
        Self {
            v6: false,
            tcp: false,
            src: 0x0a09_0001,
            dst: 0x0a09_0002,
            ports: (1111, 2222),
            tos: 0,
            ip_id: 7,
            dont_fragment: true,
            extension_words: 0,
            seq: 0,
            flags: 0,
            tcp_options: Vec::new(),
            payload: payload.to_vec(),
        }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let l4 = self.l4();
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if self.v6 {
            let extension_len = if self.extension_words > 0 { 8 } else { 0 };
            frame.extend([0x86, 0xdd, 0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
            frame.extend(((l4.len() + extension_len) as u16).to_be_bytes());
            frame.extend([if extension_len > 0 { 60 } else { self.protocol() }, 64]);
            frame.extend(self.src.to_be_bytes());
            frame.extend(self.dst.to_be_bytes());
            if extension_len > 0 {
                frame.extend([self.protocol(), 0, 1, 4, 0, 0, 0, 0]);
            }
        } else {
            let header_len = 20 + 4 * self.extension_words;
            frame.extend([0x08, 0x00, 0x40 | (header_len / 4) as u8, self.tos]);
            frame.extend(((header_len + l4.len()) as u16).to_be_bytes());
            frame.extend(self.ip_id.to_be_bytes());
            frame.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, 64, self.protocol(), 0, 0]);
            frame.extend((self.src as u32).to_be_bytes());
            frame.extend((self.dst as u32).to_be_bytes());
            frame.extend(vec![1; 4 * self.extension_words]);
        }
        frame.extend(l4);
        recompute(&mut frame);
        frame
    }

    fn protocol(&self) -> u8 {
        if self.tcp { PROTOCOL_TCP } else { PROTOCOL_UDP }
    }

    fn l4(&self) -> Vec<u8> {
        let mut l4 = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        if self.tcp {
            l4.extend(self.seq.to_be_bytes());
            l4.extend(0x0102_0304u32.to_be_bytes());
            l4.extend([(((20 + self.tcp_options.len()) / 4) << 4) as u8, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            l4.extend(&self.tcp_options);
        } else {
            l4.extend(((8 + self.payload.len()) as u16).to_be_bytes());
            l4.extend([0, 0]);
        }
        l4.extend(&self.payload);
        l4
    }
}

/// Any whole packet that a guest may send as one frame.
pub(crate) fn any_packet() -> impl Strategy<Value = PacketSpec> {
    let l3 = (any::<bool>(), any::<u128>(), any::<u128>(), any::<u8>(), any::<u16>(), any::<bool>(), 0usize..3);
    let l4 = (any::<bool>(), any::<(u16, u16)>(), any::<u32>(), any::<u8>(), 0usize..3);
    (l3, l4, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(l3, l4, payload)| {
        let (v6, src, dst, tos, ip_id, dont_fragment, extension_words) = l3;
        let (tcp, ports, seq, flags, option_words) = l4;
        let tcp_options = vec![1; option_words * 4];
        PacketSpec {
            v6,
            tcp,
            src,
            dst,
            ports,
            tos,
            ip_id,
            dont_fragment,
            extension_words,
            seq,
            flags,
            tcp_options,
            payload,
        }
    })
}

/// Recomputes the IPv4 header checksum and the L4 checksum from nothing, one word at a time.
pub(crate) fn recompute(frame: &mut [u8]) {
    let v6 = frame[12] == 0x86;
    let (l4, protocol) = match (v6, frame.get(20)) {
        (true, Some(60)) => (62, frame[54]),
        (true, _) => (54, frame[20]),
        (false, _) => (14 + usize::from(frame[14] & 15) * 4, frame[23]),
    };
    if !v6 {
        frame[24..26].fill(0);
        let check = slow_checksum(&frame[14..l4]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
    let at = l4 + if protocol == PROTOCOL_TCP { 16 } else { 6 };
    frame[at..at + 2].fill(0);
    let mut covered = if v6 { frame[22..54].to_vec() } else { frame[26..34].to_vec() };
    covered.extend(((frame.len() - l4) as u32).to_be_bytes());
    covered.extend([0, protocol]);
    covered.extend(&frame[l4..]);
    let check = match slow_checksum(&covered) {
        0 if protocol == PROTOCOL_UDP => 0xffff,
        check => check,
    };
    frame[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

fn slow_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The packet as a super-frame in segments of `size`, as a guest's kernel hands it over.
pub(crate) fn super_frame(packet: &PacketSpec, size: u16) -> Frame {
    let mut frame = FramePool::new(1).take().expect("the pool has one");
    frame.fill(&packet.build());
    frame.offload.csum = Csum::Verified;
    let layout = Layout::of(frame.bytes()).expect("a whole packet");
    assert!(crate::offload::set_partial(&mut frame, &layout));
    let kind = match (packet.tcp, packet.v6) {
        (true, false) => GsoKind::TcpV4,
        (true, true) => GsoKind::TcpV6,
        (false, _) => GsoKind::Udp,
    };
    frame.offload.gso = Some(Gso { kind, size, ecn: false });
    frame
}
