//! Our software segmentation against the kernel's own: a super-frame is sent out of a TAP that has no offloads, and what
//! comes out of the TAP's queue must be, byte for byte, what [`segment`] makes of the same super-frame.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use weft_packet::segment::segment;
use weft_packet::{Csum, Frame, FramePool, Gso, GsoKind, Layout, vnet};
use weft_sys::netns;
use weft_sys::packet_socket::{self, PacketRequest, PacketSocket};
use weft_sys::process::{Capability, holds};
use weft_sys::tap::{self, TapOffloads, TapRequest, VNET_HDR_LEN};

const DESTINATION: [u8; 6] = [2, 0, 0, 0, 0, 2];
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

#[derive(Debug, Clone, Copy)]
struct Case {
    v6: bool,
    /// The flags of TCP; `None` for UDP.
    tcp: Option<u8>,
    /// Octets of TCP options.
    options: usize,
    ip_id: u16,
    tos: u8,
    dont_fragment: bool,
    payload_len: usize,
    size: u16,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for v6 in [false, true] {
        for (payload_len, size) in [(7300, 1460), (7301, 1448), (2897, 1448), (63_000, 1400), (1000, 100)] {
            let udp = Case { v6, tcp: None, options: 0, ip_id: 0xfffe, tos: 0, dont_fragment: true, payload_len, size };
            cases.push(udp);
            cases.push(Case { tos: 0xb9, dont_fragment: false, ..udp });
            for flags in [ACK, ACK | PSH, ACK | FIN | PSH, ACK | ECE, ACK | CWR, ACK | CWR | ECE | PSH] {
                cases.push(Case { tcp: Some(flags), options: usize::from(flags & PSH) * 3 / 2, ..udp });
            }
        }
    }
    cases
}

impl Case {
    /// The super-frame, as a guest's kernel hands it over: a partial checksum, and nothing else unfinished.
    fn build(&self, pool: &mut FramePool) -> Frame {
        let l4_header = if self.tcp.is_some() { 20 + self.options } else { 8 };
        let l4_len = l4_header + self.payload_len;
        let protocol = if self.tcp.is_some() { 6 } else { 17 };
        let mut bytes = [&DESTINATION[..], &[2, 0, 0, 0, 0, 1]].concat();
        if self.v6 {
            bytes.extend([0x86, 0xdd, 0x60 | self.tos >> 4, self.tos << 4 | 0x0a, 0x5e, 0x7e]);
            bytes.extend((l4_len as u16).to_be_bytes());
            bytes.extend([protocol, 64]);
            for host in [1, 2] {
                bytes.extend([0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
            }
        } else {
            bytes.extend([0x08, 0x00, 0x45, self.tos]);
            bytes.extend(((20 + l4_len) as u16).to_be_bytes());
            bytes.extend(self.ip_id.to_be_bytes());
            bytes.extend([u8::from(self.dont_fragment) << 6, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
            let check = weft_packet::checksum::checksum(&bytes[14..34]);
            bytes[24..26].copy_from_slice(&check.to_be_bytes());
        }
        bytes.extend([0x9e, 0xa9, 0x01, 0xbb]);
        match self.tcp {
            Some(flags) => {
                // The sequence number wraps in the middle.
                bytes.extend([0xff, 0xff, 0xff, 0x00, 0, 0, 3, 0xe9, (l4_header as u8 / 4) << 4, flags, 0xfa, 0xf0]);
                bytes.extend([0; 4]);
                bytes.extend(std::iter::repeat_n(1, self.options));
            }
            None => {
                bytes.extend((l4_len as u16).to_be_bytes());
                bytes.extend([0; 2]);
            }
        }
        bytes.extend((0..self.payload_len).map(|at| (at * 31 + at / 251) as u8));
        let layout = Layout::of(&bytes).unwrap();
        let offset = layout.check_offset().unwrap();
        let pseudo = layout.pseudo(&bytes, l4_len).fold();
        bytes[layout.l4 + offset..layout.l4 + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
        let kind = match (self.tcp, self.v6) {
            (None, _) => GsoKind::Udp,
            (Some(_), false) => GsoKind::TcpV4,
            (Some(_), true) => GsoKind::TcpV6,
        };
        let mut frame = pool.take().unwrap();
        frame.fill(&bytes);
        frame.offload.csum = Csum::Partial { start: layout.l4 as u16, offset: offset as u16 };
        frame.offload.gso = Some(Gso { kind, size: self.size, ecn: self.tcp.is_some_and(|flags| flags & CWR != 0) });
        frame
    }
}

/// A TAP without offloads, and a socket that sends out of it.
fn bare_tap() -> (File, PacketSocket) {
    let netns = netns::create().unwrap();
    let opened = netns::in_namespace(netns.as_fd(), || {
        let tap = tap::open(&TapRequest { ifname: "t0", queues: 1, mac: None, mtu: 1500, tx_queue_len: 1000 }).unwrap();
        tap::set_offloads(tap.queues[0].as_fd(), TapOffloads::default()).unwrap();
        let request = PacketRequest { ifname: "t0", fanout: None, receive_buffer: 1 << 20 };
        let socket = PacketSocket::from_fd(packet_socket::open(&request).unwrap()).unwrap();
        (tap.queues.into_iter().next().unwrap(), socket)
    });
    let (queue, socket) = opened.unwrap();
    (File::from(queue), socket)
}

/// The next frames to our destination: others are the host's own, such as its router solicitations.
fn read(queue: &mut File, count: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut buffer = [0; 70_000];
    let start = Instant::now();
    while frames.len() < count && start.elapsed() < Duration::from_secs(2) {
        match queue.read(&mut buffer) {
            Ok(len) if buffer[VNET_HDR_LEN..].starts_with(&DESTINATION) => {
                assert_eq!(buffer[..VNET_HDR_LEN - 2], [0; VNET_HDR_LEN - 2], "the kernel left something to us");
                frames.push(buffer[VNET_HDR_LEN..len].to_vec());
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
    frames
}

#[test]
fn our_segments_are_the_kernels_own() {
    if !holds(Capability::NetAdmin) || !holds(Capability::SysAdmin) {
        eprintln!("SKIPPED: needs CAP_NET_ADMIN and CAP_SYS_ADMIN for a namespace and a TAP");
        return;
    }
    let (mut queue, socket) = bare_tap();
    let mut pool = FramePool::new(64);
    for case in cases() {
        let mut frame = case.build(&mut pool);
        let header = vnet::encode(frame.offload, frame.bytes());
        let bytes = frame.with_prefix(VNET_HDR_LEN);
        bytes[..VNET_HDR_LEN].copy_from_slice(&header);
        socket.send(bytes).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        let mut ours = Vec::new();
        segment(&frame, case.size, &mut pool, &mut ours).unwrap();
        let theirs = read(&mut queue, ours.len());
        assert_eq!(theirs.len(), ours.len(), "{case:?}");
        for (index, (our, their)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(our.bytes(), &their[..], "segment {index} of {case:?}");
        }
        ours.into_iter().for_each(|frame| pool.give(frame));
        pool.give(frame);
    }
}
