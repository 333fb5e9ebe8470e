//! Datagrams that a kernel's vxlan device sent (Linux 6.18, id 42, over a veth), as a UDP socket received them.
//!
//! The kernel is the judge here: it left the inner L4 checksums partial, with GSO and without, and what we push in
//! front of a frame is what it pushed, to the byte.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use weft_packet::offload::{Verdict, complete_checksum, verify};
use weft_packet::{Csum, DropReason, Frame, FramePool, Layout, Offload, Vni};
use weft_vtep::admission::{Admission, RemoteKind, RemoteVtep};
use weft_vtep::decap::{Datagram, Packet, decap};
use weft_vtep::encap::encap;

const UDP_HELLO: &str = "0800000000002a0002000000000202000000000108004500002159fe40004011ccb90a0900010a09000203e801bb\
                         000d143368656c6c6f";
const TCP_SYN: &str = "0800000000002a0002000000000202000000000108004500003c950a40004006919d0a0900010a090002da9801bb9a\
                       8abffe00000000a002fd5c14430000020405820402080a1c1407c6000000000103030a";
const ICMP_ECHO: &str = "0800000000002a00020000000002020000000001080045000054b44d4000400172470a0900010a0900020800cbcd28\
                         18000100df006b000000003efc050000000000101112131415161718191a1b1c1d1e1f202122232425262728292a2b\
                         2c2d2e2f3031323334353637";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn decapped(payload: &[u8], stride: Option<usize>) -> Vec<Result<Packet, DropReason>> {
    let now = Instant::now();
    let source: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
    let vni = Vni::new(42).unwrap();
    let mut admission = Admission::new(Duration::ZERO);
    admission.set_segments([(vni, 1450)]);
    admission.put(&RemoteVtep { id: 1, addr: source, kind: RemoteKind::Legacy, vnis: vec![vni] }, now);
    decap(Datagram { payload, stride, truncated: false, source, tos: 0 }, &admission, now).collect()
}

fn inner(payload: &[u8]) -> Frame {
    let packet = decapped(payload, None).remove(0).unwrap();
    let mut frame = FramePool::new(1).take().unwrap();
    packet.copy_into(payload, &mut frame);
    frame
}

#[test]
fn what_the_kernel_pushed_we_push() {
    for hex in [UDP_HELLO, TCP_SYN, ICMP_ECHO] {
        let datagram = bytes(hex);
        let mut frame = inner(&datagram);
        encap(&mut frame, Vni::new(42).unwrap());
        assert_eq!(frame.bytes(), datagram);
    }
}

#[test]
fn a_checksum_that_the_kernel_left_partial_is_found_and_finished() {
    for (hex, offset) in [(UDP_HELLO, 6), (TCP_SYN, 16)] {
        let mut frame = inner(&bytes(hex));
        assert_eq!(frame.offload.csum, Csum::Partial { start: 34, offset });
        let layout = Layout::of(frame.bytes()).unwrap();
        assert_eq!(verify(frame.bytes(), &layout), Verdict::Bad, "forwarded as it is, the guest would drop it");
        complete_checksum(&mut frame).unwrap();
        assert_eq!(verify(frame.bytes(), &layout), Verdict::Good);
    }
}

#[test]
fn an_icmp_packet_has_no_state_to_find() {
    assert_eq!(inner(&bytes(ICMP_ECHO)).offload, Offload::default());
}

#[test]
fn the_kernel_reports_the_segment_size_of_an_inner_udp_super_frame_as_the_stride() {
    // The kernel's 900 bytes sent with UDP_SEGMENT 200: one datagram of 950 bytes, UDP_GRO 200, check 0x17b2.
    let mut datagram = bytes(UDP_HELLO);
    datagram.truncate(8 + 14 + 20 + 8);
    datagram.extend([b'y'; 900]);
    datagram[24..26].copy_from_slice(&928u16.to_be_bytes());
    datagram[46..50].copy_from_slice(&[0x03, 0x8c, 0x17, 0xb2]);
    let packets = decapped(&datagram, Some(200));
    assert_eq!(packets.len(), 1);
    let offload = packets[0].as_ref().unwrap().offload;
    assert_eq!(offload.gso.map(|gso| gso.size), Some(200));
}
