//! From one received datagram to the packets in it, each admitted, checked and classified.
//!
//! A datagram is (a) several VXLAN packets that the kernel put together, when it came with a GRO stride; (b) one
//! packet; or (c) one super-frame of a kernel VTEP whose segmentation never happened because the path between was
//! virtual: then nothing says so but the inner checksum, which holds the pseudo-header sum only. Taking (c) for (b)
//! corrupts silently. No checksum is ever called verified here: a correct outer one covers an inner one that a sender
//! may have left unfilled or passed on wrong.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use weft_packet::ethernet::{ETHERTYPE_QINQ, ETHERTYPE_VLAN};
use weft_packet::vxlan::{HEADER_LEN, VxlanView};
use weft_packet::{Csum, DropReason, Frame, Gso, GsoKind, Layout, MacAddr, Offload, Vni};

use crate::admission::{Admission, Admitted, RemoteId, RemoteKind};
use crate::ecn;

/// One datagram as the kernel gave it to us.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    /// The UDP payload.
    pub payload: &'a [u8],
    /// The value of the UDP_GRO control message.
    pub stride: Option<usize>,
    /// The kernel cut it off (MSG_TRUNC).
    pub truncated: bool,
    /// The outer source address.
    pub source: IpAddr,
    /// The outer TOS or traffic class.
    pub tos: u8,
}

/// One packet inside a datagram, which may come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub remote: RemoteId,
    /// What the sender is.
    pub kind: RemoteKind,
    /// Its VNI.
    pub vni: Vni,
    /// Where the inner frame lies in the datagram's payload.
    pub range: Range<usize>,
    /// Its offload state.
    pub offload: Offload,
    /// The TOS to write into it, when ECN asks for another than it has.
    pub tos: Option<u8>,
}

impl Packet {
    /// Copies the inner frame out of its datagram.
    pub fn copy_into(&self, payload: &[u8], frame: &mut Frame) {
        frame.fill(&payload[self.range.clone()]);
        self.finish(frame);
    }

    /// Makes the buffer that the datagram was received into the inner frame, without moving a byte.
    pub fn adopt(&self, datagram: &mut Frame) {
        datagram.pull_front(self.range.start);
        datagram.set_len(self.range.len());
        self.finish(datagram);
    }

    fn finish(&self, frame: &mut Frame) {
        frame.offload = self.offload;
        if let Some(tos) = self.tos {
            ecn::set_tos(frame, tos);
        }
    }
}

/// The packets of a datagram, in order; a packet that may not come in is its drop reason.
#[derive(Debug)]
pub struct Packets<'a> {
    datagram: Datagram<'a>,
    admission: &'a Admission,
    now: Instant,
    at: usize,
    step: usize,
    /// The segment size of an inner UDP super-frame, which the kernel reports as if it were the stride.
    inner_size: Option<u16>,
    /// Who the VNI of the packet before was admitted for: those of one datagram are mostly of one.
    admitted: Option<(Vni, Admitted)>,
}

/// Splits a datagram into its packets.
pub fn decap<'a>(datagram: Datagram<'a>, admission: &'a Admission, now: Instant) -> Packets<'a> {
    let whole = datagram.payload.len().max(1);
    let (step, inner_size) = match datagram.stride {
        Some(stride) if stride < whole => match udp_super_frame(datagram.payload) {
            true => (whole, u16::try_from(stride).ok().filter(|size| *size > 0)),
            false => (stride, None),
        },
        _ => (whole, None),
    };
    Packets { datagram, admission, now, at: 0, step, inner_size, admitted: None }
}

impl Iterator for Packets<'_> {
    type Item = Result<Packet, DropReason>;

    fn next(&mut self) -> Option<Self::Item> {
        let len = self.datagram.payload.len();
        if self.at >= len.max(1) {
            return None;
        }
        let shortest = HEADER_LEN + 14;
        if self.datagram.truncated || self.step < shortest && self.step < len {
            self.at = usize::MAX;
            return Some(Err(if self.datagram.truncated { DropReason::RxTruncated } else { DropReason::OuterLength }));
        }
        let range = self.at..(self.at + self.step).min(len);
        let cut = self.at > 0 && range.len() < shortest;
        self.at += self.step;
        Some(if cut { Err(DropReason::OuterLength) } else { self.packet(range) })
    }
}

impl Packets<'_> {
    fn packet(&mut self, range: Range<usize>) -> Result<Packet, DropReason> {
        let vni = VxlanView::parse(&self.datagram.payload[range.clone()])?.vni();
        if vni == Vni::PROBE {
            return self.probe(range);
        }
        let admitted = match self.admitted {
            Some((same, admitted)) if same == vni => admitted,
            _ => self.admission.admit(self.datagram.source, vni, self.now)?,
        };
        self.admitted = Some((vni, admitted));
        let inner = range.start + HEADER_LEN..range.end;
        let frame = &self.datagram.payload[inner.clone()];
        check_ethernet(frame)?;
        let tos = ecn::decap_tos(frame, self.datagram.tos)?;
        let (offload, len) = classify(frame, admitted.mtu, self.inner_size);
        let range = inner.start..inner.start + len;
        Ok(Packet { remote: admitted.remote, kind: admitted.kind, vni, range, offload, tos })
    }

    /// A packet of the probe VNI, from whoever may send one. It is no guest's frame: nothing in it is looked at here.
    fn probe(&self, range: Range<usize>) -> Result<Packet, DropReason> {
        match self.admission.remote(self.datagram.source) {
            Some((remote, kind @ RemoteKind::Weft)) => {
                let range = range.start + HEADER_LEN..range.end;
                Ok(Packet { remote, kind, vni: Vni::PROBE, range, offload: Offload::default(), tos: None })
            }
            Some((_, RemoteKind::Legacy)) => Err(DropReason::ProbeRefused),
            None => Err(DropReason::RemoteUnknown),
        }
    }
}

/// What a VTEP must not let in: RFC 7348 section 6.1 on tags, and sources that no station may have.
fn check_ethernet(frame: &[u8]) -> Result<(), DropReason> {
    let Some(&[_, _, _, _, _, _, a, b, c, d, e, f, high, low]) = frame.first_chunk::<14>() else {
        return Err(DropReason::MalformedEthernet);
    };
    let source = MacAddr([a, b, c, d, e, f]);
    if source.is_group() {
        return Err(DropReason::GroupSource);
    }
    if source == MacAddr::ZERO {
        return Err(DropReason::ZeroSource);
    }
    match u16::from_be_bytes([high, low]) {
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Err(DropReason::VlanNotAllowed),
        _ => Ok(()),
    }
}

/// The offload state of an inner frame in a segment of `mtu`, and the frame's length without padding when its checksum
/// is partial (the sum runs to the end of the frame). `udp_size` is the datagram size of a UDP super-frame, if known.
///
/// Whether a check field that equals the pseudo-header sum is partial, or complete by chance, makes no difference:
/// finishing it gives the complete checksum in both cases.
pub fn classify(frame: &[u8], mtu: u16, udp_size: Option<u16>) -> (Offload, usize) {
    let unknown = (Offload::default(), frame.len());
    let Some(layout) = Layout::of(frame) else { return unknown };
    let (Some(payload), Some(offset)) = (layout.payload(frame), layout.check_offset()) else { return unknown };
    let at = layout.l4 + offset;
    let check = u16::from_be_bytes([frame[at], frame[at + 1]]);
    let partial = check == layout.pseudo(frame, layout.end - layout.l4).fold();
    let (Ok(start), true) = (u16::try_from(layout.l4), partial) else { return unknown };
    let longest = usize::from(mtu) + 14;
    let gso = if layout.is_udp() {
        udp_size.filter(|size| payload + usize::from(*size) < layout.end).map(|size| (GsoKind::Udp, size))
    } else if layout.end > longest && payload < longest {
        // The sender's own segment size is lost: what the guests may send each other fits for sure.
        let kind = if layout.v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 };
        Some((kind, (longest - payload) as u16))
    } else {
        None
    };
    let cwr = !layout.is_udp() && frame[layout.l4 + 13] & 0x80 != 0;
    let gso = gso.map(|(kind, size)| Gso { kind, size, ecn: cwr });
    (Offload { csum: Csum::Partial { start, offset: offset as u16 }, gso }, layout.end)
}

/// Whether the datagram is one inner UDP super-frame: its first packet's own lengths cover all of it, which no first
/// packet of several can.
fn udp_super_frame(payload: &[u8]) -> bool {
    let Some(frame) = payload.get(HEADER_LEN..) else { return false };
    Layout::of(frame).is_some_and(|layout| layout.is_udp() && layout.end == frame.len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use weft_packet::segment::{Cut, segment};
    use weft_packet::vxlan::VxlanHeader;
    use weft_packet::{FramePool, offload};

    use super::*;
    use crate::admission::RemoteVtep;
    use crate::testing::{PacketSpec, any_packet, super_frame};

    const MTU: u16 = 1450;

    fn vni() -> Vni {
        Vni::new(42).unwrap()
    }

    fn source() -> IpAddr {
        [192, 0, 2, 1].into()
    }

    fn admission() -> Admission {
        let mut admission = Admission::new(Duration::ZERO);
        admission.set_segments([(vni(), MTU)]);
        let remote = RemoteVtep { id: 7, addr: source(), kind: RemoteKind::Legacy, vnis: vec![vni()] };
        admission.put(&remote, Instant::now());
        admission
    }

    fn vxlan(frame: &[u8]) -> Vec<u8> {
        let mut datagram = vec![0; HEADER_LEN];
        VxlanHeader { vni: vni() }.emit(&mut datagram);
        datagram.extend(frame);
        datagram
    }

    fn datagram(payload: &[u8], stride: Option<usize>) -> Datagram<'_> {
        Datagram { payload, stride, truncated: false, source: source(), tos: 0 }
    }

    fn decapped(datagram: Datagram<'_>) -> Vec<Result<Packet, DropReason>> {
        decap(datagram, &admission(), Instant::now()).collect()
    }

    fn refused(frame: &[u8]) -> DropReason {
        decapped(datagram(&vxlan(frame), None)).remove(0).unwrap_err()
    }

    #[test]
    fn one_datagram_is_one_packet_copied_or_adopted() {
        let frame = PacketSpec::tcp_v4(b"hello").build();
        let payload = vxlan(&frame);
        let packets = decapped(datagram(&payload, None));
        let packet = packets[0].as_ref().unwrap();
        assert_eq!((packets.len(), packet.remote, packet.vni), (1, 7, vni()));
        assert_eq!(packet.offload, Offload::default(), "nobody verified the inner checksum");
        let mut pool = FramePool::new(2);
        let (mut copied, mut adopted) = (pool.take().unwrap(), pool.take().unwrap());
        packet.copy_into(&payload, &mut copied);
        adopted.fill(&payload);
        packet.adopt(&mut adopted);
        assert_eq!((copied.bytes(), adopted.bytes()), (&frame[..], &frame[..]));
    }

    #[test]
    fn a_batch_is_split_at_its_stride_and_the_last_may_be_short() {
        let frames = [[1u8; 100], [2; 100], [3; 100]].map(|payload| PacketSpec::udp_v4(&payload).build());
        let short = PacketSpec::udp_v4(b"end").build();
        let stride = vxlan(&frames[0]).len();
        let payload = [vxlan(&frames[0]), vxlan(&frames[1]), vxlan(&frames[2]), vxlan(&short)].concat();
        let packets = decapped(datagram(&payload, Some(stride)));
        let bytes: Vec<_> = packets.into_iter().map(|p| payload[p.unwrap().range].to_vec()).collect();
        assert_eq!(bytes, [&frames[0], &frames[1], &frames[2], &short].map(Vec::clone));
    }

    #[test]
    fn a_batch_that_ends_in_the_middle_of_a_packet_says_so() {
        let frame = PacketSpec::udp_v4(&[1; 100]).build();
        let stride = vxlan(&frame).len();
        let payload = [vxlan(&frame), vec![8, 0, 0, 0, 0, 0, 42, 0, 1]].concat();
        let packets = decapped(datagram(&payload, Some(stride)));
        assert!(packets[0].is_ok());
        assert_eq!(packets[1..], [Err(DropReason::OuterLength)]);
        assert_eq!(decapped(datagram(&payload, Some(21))), [Err(DropReason::OuterLength)]);
        assert_eq!(decapped(datagram(&payload, Some(0))), [Err(DropReason::OuterLength)]);
        let truncated = Datagram { truncated: true, ..datagram(&payload, Some(stride)) };
        assert_eq!(decapped(truncated), [Err(DropReason::RxTruncated)]);
    }

    #[test]
    fn a_super_frame_of_a_kernel_vtep_is_recognised_by_its_partial_checksum() {
        for v6 in [false, true] {
            let whole = PacketSpec { v6, tcp_options: vec![1; 12], ..PacketSpec::tcp_v4(&[7; 30_000]) };
            let sent = super_frame(&whole, 1408);
            let payload = vxlan(sent.bytes());
            let packet = decapped(datagram(&payload, None)).remove(0).unwrap();
            let headers = 14 + if v6 { 40 } else { 20 } + 32;
            let gso = packet.offload.gso.unwrap();
            assert_eq!(gso.size, MTU + 14 - headers, "what the guests may send each other");
            assert_eq!(packet.offload.csum, sent.offload.csum);
            let mut pool = FramePool::new(100);
            let (mut got, mut expected) = (Vec::new(), Vec::new());
            let mut frame = pool.take().unwrap();
            packet.copy_into(&payload, &mut frame);
            segment(&frame, gso.size, &mut pool, &mut got).unwrap();
            segment(&sent, gso.size, &mut pool, &mut expected).unwrap();
            assert!(got.iter().zip(&expected).all(|(a, b)| a.bytes() == b.bytes()) && got.len() == expected.len());
        }
    }

    #[test]
    fn a_long_packet_with_a_complete_checksum_is_no_super_frame() {
        let frame = PacketSpec::tcp_v4(&[7; 8000]).build();
        let packet = decapped(datagram(&vxlan(&frame), None)).remove(0).unwrap();
        assert_eq!(packet.offload, Offload::default());
    }

    #[test]
    fn a_short_packet_with_a_partial_checksum_is_filled_later() {
        for tcp in [false, true] {
            let whole = PacketSpec { tcp, ..PacketSpec::tcp_v4(b"short") };
            let sent = super_frame(&whole, 100);
            let padded = [sent.bytes(), &[0xee; 3]].concat();
            let payload = vxlan(&padded);
            let packet = decapped(datagram(&payload, None)).remove(0).unwrap();
            assert_eq!(packet.offload, Offload { csum: sent.offload.csum, gso: None });
            let mut frame = FramePool::new(1).take().unwrap();
            packet.copy_into(&payload, &mut frame);
            offload::complete_checksum(&mut frame).unwrap();
            assert_eq!(frame.bytes(), whole.build(), "the padding is gone, it would have been summed");
        }
    }

    #[test]
    fn the_segment_size_of_an_inner_udp_super_frame_is_not_taken_for_a_stride() {
        let whole = PacketSpec::udp_v4(&[7; 5000]);
        let sent = super_frame(&whole, 1200);
        let packets = decapped(datagram(&vxlan(sent.bytes()), Some(1200)));
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].as_ref().unwrap().offload, sent.offload);
    }

    #[test]
    fn probes_come_in_from_weft_remotes_only_whatever_they_host() {
        let payload = [&[8, 0, 0, 0, 0xff, 0xff, 0xff, 0], &[0; 40][..]].concat();
        let stranger = Datagram { source: [192, 0, 2, 99].into(), ..datagram(&payload, None) };
        assert_eq!(decapped(stranger), [Err(DropReason::RemoteUnknown)]);
        assert_eq!(decapped(datagram(&payload, None)), [Err(DropReason::ProbeRefused)], "a legacy remote");
        let mut admission = admission();
        let weft = RemoteVtep { id: 9, addr: source(), kind: RemoteKind::Weft, vnis: Vec::new() };
        admission.put(&weft, Instant::now());
        let packet = decap(datagram(&payload, None), &admission, Instant::now()).next().unwrap().unwrap();
        assert_eq!((packet.remote, packet.vni, packet.range), (9, Vni::PROBE, 8..48));
    }

    #[test]
    fn what_a_vtep_must_not_let_in_is_refused_with_its_reason() {
        let frame = PacketSpec::tcp_v4(b"x").build();
        let with = |at: usize, bytes: &[u8]| {
            let mut frame = frame.clone();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            refused(&frame)
        };
        assert_eq!(with(6, &[1]), DropReason::GroupSource);
        assert_eq!(with(6, &[0; 6]), DropReason::ZeroSource);
        assert_eq!(with(12, &[0x81, 0]), DropReason::VlanNotAllowed);
        assert_eq!(with(12, &[0x88, 0xa8]), DropReason::VlanNotAllowed);
        assert_eq!(refused(&frame[..13]), DropReason::MalformedEthernet);
        assert_eq!(decapped(datagram(&[8; 7], None)), [Err(DropReason::VxlanTruncated)]);
        assert_eq!(decapped(datagram(&[], None)), [Err(DropReason::VxlanTruncated)]);
        let payload = vxlan(&frame);
        let stranger = Datagram { source: [192, 0, 2, 9].into(), ..datagram(&payload, None) };
        assert_eq!(decapped(stranger), [Err(DropReason::RemoteUnknown)]);
    }

    #[test]
    fn congestion_outside_is_marked_inside_or_drops_what_cannot_carry_it() {
        let marked = |tos| {
            let frame = PacketSpec { tos, ..PacketSpec::tcp_v4(b"x") };
            let payload = vxlan(&frame.build());
            let packet = decapped(Datagram { tos: 3, ..datagram(&payload, None) }).remove(0)?;
            let mut inner = FramePool::new(1).take().unwrap();
            packet.copy_into(&payload, &mut inner);
            Ok(inner.bytes().to_vec())
        };
        let expected = PacketSpec { tos: 0xb8 | 3, ..PacketSpec::tcp_v4(b"x") }.build();
        assert_eq!(marked(0xb8 | 2), Ok(expected));
        assert_eq!(marked(0xb8), Err(DropReason::EcnInvalid));
    }

    proptest! {
        #[test]
        fn whatever_is_received_is_in_bounds_never_verified_and_can_be_acted_on(
            packet in any_packet(300), size in 10u16..300, partial in any::<bool>(),
            pokes in prop::collection::vec((0usize..120, any::<u8>()), 0..4),
            stride in prop::option::of(0usize..400), mtu in 60u16..300, tos in any::<u8>(),
        ) {
            let bytes = if partial { super_frame(&packet, size).bytes().to_vec() } else { packet.build() };
            let mut payload = [vxlan(&bytes), vxlan(&bytes)].concat();
            for (at, value) in pokes {
                let at = at % payload.len();
                payload[at] = value;
            }
            let mut admission = admission();
            admission.set_segments([(vni(), mtu)]);
            let received = Datagram { tos, ..datagram(&payload, stride) };
            for packet in decap(received, &admission, Instant::now()).flatten() {
                prop_assert_ne!(packet.offload.csum, Csum::Verified);
                let mut frame = FramePool::new(1).take().unwrap();
                packet.copy_into(&payload, &mut frame);
                match packet.offload.gso {
                    Some(gso) => prop_assert!(Cut::new(&frame, gso.size).is_ok_and(|cut| cut.count() > 1)),
                    None => prop_assert!(offload::complete_checksum(&mut frame).is_ok()),
                }
            }
        }
    }
}
