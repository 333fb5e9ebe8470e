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

use crate::admission::{Admission, RemoteId, RemoteKind};
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
    Packets { datagram, admission, now, at: 0, step, inner_size }
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
    fn packet(&self, range: Range<usize>) -> Result<Packet, DropReason> {
        let vni = VxlanView::parse(&self.datagram.payload[range.clone()])?.vni();
        let admitted = self.admission.admit(self.datagram.source, vni, self.now)?;
        let inner = range.start + HEADER_LEN..range.end;
        let frame = &self.datagram.payload[inner.clone()];
        check_ethernet(frame)?;
        let tos = ecn::decap_tos(frame, self.datagram.tos)?;
        let (offload, len) = classify(frame, admitted.mtu, self.inner_size);
        let range = inner.start..inner.start + len;
        Ok(Packet { remote: admitted.remote, kind: admitted.kind, vni, range, offload, tos })
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
