//! Valid frames of every kind that the crate reads, for tests that mutate them; and the numbers to mutate them with.

use std::net::{Ipv4Addr, Ipv6Addr};

use weft_packet::arp::{ArpHeader, OPERATION_REQUEST, PACKET_LEN};
use weft_packet::checksum::Sum;
use weft_packet::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader};
use weft_packet::ipv4::{self, Ipv4Header, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};
use weft_packet::ipv6::{self, Ipv6Header, NEXT_ICMPV6};
use weft_packet::nd::NdHeader;
use weft_packet::vxlan::VxlanHeader;
use weft_packet::{MacAddr, Vni, icmpv4, icmpv6, tcp, udp};

const SRC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const DST: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const V4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
const V6: [Ipv6Addr; 2] = [Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2)];

/// xorshift64*: enough for choosing bytes, and the same on every machine.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 32) as usize * bound) >> 32
    }
}

/// The seed of this run: `SEED` in the environment, or the clock's.
pub(crate) fn seed() -> u64 {
    match std::env::var("SEED") {
        Ok(text) => text.parse().expect("SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    }
}

/// Changes up to four bytes, most of them in the first headers, and sometimes the length.
pub(crate) fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..numbers.below(5) {
        if bytes.is_empty() {
            break;
        }
        let near = if numbers.below(4) == 0 { bytes.len() } else { bytes.len().min(64) };
        let at = numbers.below(near);
        bytes[at] = match numbers.below(4) {
            0 => numbers.next() as u8,
            1 => bytes[at] ^ (1 << numbers.below(8)),
            2 => [0, 0xff, 1, 0x7f][numbers.below(4)],
            _ => bytes[at].wrapping_add([1, 0xff][numbers.below(2)]),
        };
    }
    match numbers.below(8) {
        0 => bytes.truncate(numbers.below(bytes.len() + 1)),
        1 => bytes.resize(bytes.len() + numbers.below(16), 0xee),
        _ => {}
    }
}

/// The frames.
pub(crate) fn frames() -> Vec<Vec<u8>> {
    let mut frames = vec![arp(), llc(), tagged(&[0x81, 0, 0, 5]), tagged(&[0x88, 0xa8, 0, 5, 0x81, 0, 0x20, 6])];
    let fragment = |more, offset| move |h: &mut Ipv4Header| (h.more_fragments, h.fragment_offset) = (more, offset);
    let bodies = [(PROTOCOL_TCP, segment()), (PROTOCOL_UDP, datagram(&[7; 9])), (PROTOCOL_ICMP, echo())];
    for (protocol, body) in &bodies {
        frames.push(v4(*protocol, body, &[], |_| ()));
        frames.push(v4(*protocol, body, &[0x94, 4, 0, 0, 7, 3, 4, 1], |_| ()));
        frames.push(v4(*protocol, body, &[], fragment(true, 0)));
        frames.push(v4(*protocol, body, &[], fragment(true, 8)));
        frames.push(v4(*protocol, body, &[], fragment(false, 1480)));
        frames.push(v4(*protocol, body, &[], |h| h.dont_fragment = true));
    }
    let mut vxlan = vec![0; 8];
    VxlanHeader { vni: Vni::new(42).unwrap() }.emit(&mut vxlan);
    vxlan.extend(&frames[4]);
    frames.push(v4(PROTOCOL_UDP, &datagram(&vxlan), &[], |_| ()));
    frames.push(v4(47, &[0; 20], &[], |_| ()));

    let mut padded = v4(PROTOCOL_UDP, &datagram(&[]), &[], |_| ());
    padded.resize(60, 0);
    frames.push(padded);

    let mut ping = vec![1; 16];
    icmpv6::Icmpv6Header { kind: 128, code: 0, word: 5 }.emit(V6[0], V6[1], &mut ping);
    for (next, body) in [(PROTOCOL_TCP, segment()), (PROTOCOL_UDP, datagram(&[7; 9])), (NEXT_ICMPV6, ping)] {
        frames.push(v6(next, &body));
        frames.push(v6(0, &chained(&[next, 0, 1, 4, 0, 0, 0, 0], &body)));
        frames.push(v6(43, &chained(&[next, 0, 4, 0, 0, 0, 0, 0], &body)));
        frames.push(v6(44, &chained(&[next, 0, 0, 1, 0, 0, 0, 9], &body)));
        frames.push(v6(44, &chained(&[next, 0, 0, 0, 0, 0, 0, 9], &body)));
        frames.push(v6(44, &chained(&[next, 0, 0, 9, 0, 0, 0, 9], &body)));
        frames.push(v6(60, &chained(&[51, 0, 1, 4, 0, 0, 0, 0, next, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1], &body)));
    }
    for link_layer in [None, Some(SRC)] {
        frames.push(nd(NdHeader::Solicitation { target: V6[1], link_layer }));
        frames.push(nd(NdHeader::Advertisement { flags: 0x60, target: V6[0], link_layer }));
    }
    frames.push(v6(59, &[]));
    frames
}

fn chained(extension: &[u8], body: &[u8]) -> Vec<u8> {
    [extension, body].concat()
}

fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14];
    EthernetHeader { dst: DST, src: SRC, ethertype }.emit(&mut frame);
    frame.extend(packet);
    frame
}

fn arp() -> Vec<u8> {
    let mut packet = vec![0; PACKET_LEN];
    let header = ArpHeader {
        operation: OPERATION_REQUEST,
        sender_mac: SRC,
        sender_ip: V4[0],
        target_mac: MacAddr::ZERO,
        target_ip: V4[1],
    };
    header.emit(&mut packet);
    frame(ETHERTYPE_ARP, &packet)
}

fn llc() -> Vec<u8> {
    let mut bytes = frame(38, &[0x42; 46]);
    bytes[0] = 1;
    bytes
}

fn tagged(tags: &[u8]) -> Vec<u8> {
    let plain = v4(PROTOCOL_UDP, &datagram(&[3; 20]), &[], |_| ());
    [&plain[..12], tags, &plain[12..]].concat()
}

fn segment() -> Vec<u8> {
    let mut segment = vec![0xa5; 20 + 12 + 30];
    let header = tcp::TcpHeader {
        src: 40_000,
        dst: 443,
        sequence: 1,
        acknowledgment: 2,
        flags: 0x18,
        window: 500,
        checksum: 0,
        urgent: 0,
    };
    header.emit(&mut segment);
    segment[12] = 0x80;
    segment[20..32].copy_from_slice(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    tcp::fill_checksum(&mut segment, Sum::pseudo_v4(V4[0], V4[1], PROTOCOL_TCP, 62));
    segment
}

fn datagram(payload: &[u8]) -> Vec<u8> {
    let length = (udp::HEADER_LEN + payload.len()) as u16;
    let mut bytes = vec![0; udp::HEADER_LEN];
    udp::UdpHeader { src: 50_000, dst: 4789, length, checksum: 0 }.emit(&mut bytes);
    bytes.extend(payload);
    udp::fill_checksum(&mut bytes, Sum::pseudo_v4(V4[0], V4[1], PROTOCOL_UDP, length));
    bytes
}

fn echo() -> Vec<u8> {
    let mut message = vec![1; 40];
    icmpv4::Icmpv4Header { kind: icmpv4::TYPE_ECHO_REQUEST, code: 0, word: 7 }.emit(&mut message);
    message
}

fn v4(protocol: u8, body: &[u8], options: &[u8], change: impl Fn(&mut Ipv4Header)) -> Vec<u8> {
    let mut header = Ipv4Header {
        tos: 0xb9,
        payload_len: (options.len() + body.len()) as u16,
        identification: 7,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol,
        src: V4[0],
        dst: V4[1],
    };
    change(&mut header);
    let mut packet = vec![0; ipv4::HEADER_LEN];
    header.emit(&mut packet);
    packet.extend(options);
    packet[0] += (options.len() / 4) as u8;
    ipv4::fill_checksum(&mut packet);
    packet.extend(body);
    frame(ETHERTYPE_IPV4, &packet)
}

fn v6(next_header: u8, body: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0xb9,
        flow_label: 0x12345,
        payload_len: body.len() as u16,
        next_header,
        hop_limit: 255,
        src: V6[0],
        dst: V6[1],
    };
    let mut packet = vec![0; ipv6::HEADER_LEN];
    header.emit(&mut packet);
    packet.extend(body);
    frame(ETHERTYPE_IPV6, &packet)
}

fn nd(message: NdHeader) -> Vec<u8> {
    let mut body = vec![0; message.message_len()];
    message.emit(V6[0], V6[1], &mut body);
    v6(NEXT_ICMPV6, &body)
}
