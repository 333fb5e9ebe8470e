//! Puts packets of one flow, received together, into one super-frame.
//!
//! No hold timer: runs live for one receive batch. Only packets whose inner checksum we verified, or that came
//! partial, are merged; others pass alone, and nothing overtakes anything of its own flow. Segmenting what comes out
//! gives back what went in, to the byte but for a constant IP-ID (which then counts, as in the kernel).

use weft_packet::ipv4::PROTOCOL_TCP;
use weft_packet::offload::{Verdict, verify};
use weft_packet::{Csum, DropReason, Frame, FramePool, Gso, GsoKind, Layout, Sum, Vni, segment};

use crate::admission::RemoteId;
use crate::decap::Packet;

/// Runs that are open at once; one more closes the oldest.
pub const RUNS_MAX: usize = 8;
/// Datagrams in one UDP run: what every kernel since 4.18 takes.
pub const UDP_SEGMENTS_MAX: usize = 64;

const IP_LEN_MAX: usize = 65_535;
const FLAG_FIN: u8 = 0x01;
const FLAG_PSH: u8 = 0x08;
const FLAG_ACK: u8 = 0x10;
const FLAG_ECE: u8 = 0x40;

/// An inner frame on its way in.
#[derive(Debug)]
pub struct Arrival {
    /// Who sent it.
    pub remote: RemoteId,
    /// Its VNI.
    pub vni: Vni,
    /// The inner frame.
    pub frame: Frame,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// It is a frame of its own, at least for now.
    Frame,
    /// It was appended to a frame that was there: the ledger's `merged`.
    Merged,
}

/// The open runs of one worker's receive batch.
#[derive(Debug)]
pub struct Coalescer {
    udp: bool,
    /// Oldest first.
    runs: Vec<Run>,
}

impl Coalescer {
    /// Merges TCP, and UDP too when `udp` (for ports that take USO frames).
    pub fn new(udp: bool) -> Self {
        Self { udp, runs: Vec::with_capacity(RUNS_MAX) }
    }

    /// Takes one packet out of `payload`, the datagram that it was found in; frames that are done go to `out`.
    /// [`DropReason::NoBuffer`] when the pool is empty: the packet is lost.
    pub fn push(
        &mut self,
        packet: &Packet,
        payload: &[u8],
        pool: &mut FramePool,
        out: &mut Vec<Arrival>,
    ) -> Result<Push, DropReason> {
        let place = self.place(packet, &payload[packet.range.clone()], out);
        if let Place::Merged = place {
            return Ok(Push::Merged);
        }
        let mut frame = pool.take().ok_or(DropReason::NoBuffer)?;
        packet.copy_into(payload, &mut frame);
        self.put(packet, frame, place, out);
        Ok(Push::Frame)
    }

    /// Takes the only packet of a datagram together with the buffer that it was received into: a frame of its own costs
    /// no copy.
    pub fn adopt(
        &mut self,
        packet: &Packet,
        mut datagram: Frame,
        pool: &mut FramePool,
        out: &mut Vec<Arrival>,
    ) -> Push {
        let place = self.place(packet, &datagram.bytes()[packet.range.clone()], out);
        if let Place::Merged = place {
            pool.give(datagram);
            return Push::Merged;
        }
        packet.adopt(&mut datagram);
        self.put(packet, datagram, place, out);
        Push::Frame
    }

    /// Closes all runs: at the end of each receive batch.
    pub fn flush(&mut self, out: &mut Vec<Arrival>) {
        out.extend(self.runs.drain(..).map(Run::close));
    }

    /// Appends the packet to the run of its flow, or says what to do with it once that run is closed.
    fn place(&mut self, packet: &Packet, bytes: &[u8], out: &mut Vec<Arrival>) -> Place {
        let Some(layout) = Layout::of(bytes) else { return Place::Alone };
        let candidate = Candidate::of(packet, bytes, layout, self.udp);
        if let Some(candidate) = &candidate
            && let Some(index) = self.runs.iter().position(|run| run.takes(packet, candidate, bytes))
        {
            if self.runs[index].append(candidate, bytes) {
                out.push(self.runs.remove(index).close());
            }
            return Place::Merged;
        }
        while let Some(index) = self.runs.iter().position(|run| run.is_of_flow(packet, &layout, bytes)) {
            out.push(self.runs.remove(index).close());
        }
        candidate.map_or(Place::Alone, Place::Head)
    }

    fn put(&mut self, packet: &Packet, mut frame: Frame, place: Place, out: &mut Vec<Arrival>) {
        if let (Place::Head(_), Csum::Unknown) = (&place, frame.offload.csum) {
            // A candidate's checksum has been verified.
            frame.offload.csum = Csum::Verified;
        }
        let arrival = Arrival { remote: packet.remote, vni: packet.vni, frame };
        match place {
            Place::Head(candidate) if !candidate.ends => {
                if self.runs.len() == RUNS_MAX {
                    out.push(self.runs.remove(0).close());
                }
                self.runs.push(Run::new(arrival, candidate));
            }
            _ => out.push(arrival),
        }
    }
}

enum Place {
    Merged,
    Head(Candidate),
    Alone,
}

/// A packet that may be part of a run.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    layout: Layout,
    /// Where its payload starts; it ends with the frame.
    payload: usize,
    payload_len: usize,
    tos: u8,
    /// Nothing may follow it: PSH or FIN is set.
    ends: bool,
}

impl Candidate {
    fn of(packet: &Packet, bytes: &[u8], layout: Layout, udp: bool) -> Option<Self> {
        let payload = layout.payload(bytes)?;
        let whole = packet.offload.gso.is_none() && layout.end == bytes.len() && payload < layout.end;
        let ends = if layout.protocol == PROTOCOL_TCP {
            let flags = bytes[layout.l4 + 13];
            if flags & !(FLAG_FIN | FLAG_PSH | FLAG_ECE) != FLAG_ACK || bytes[layout.l4 + 12] & 0x0f != 0 {
                return None;
            }
            flags & (FLAG_PSH | FLAG_FIN) != 0
        } else {
            if !udp {
                return None;
            }
            false
        };
        let header_is_right = layout.v6 || Sum::of(&bytes[layout.l3..layout.l4]).is_valid();
        let partial = matches!(packet.offload.csum, Csum::Partial { .. });
        if !whole || !header_is_right || !partial && verify(bytes, &layout) != Verdict::Good {
            return None;
        }
        let tos = packet.tos.unwrap_or_else(|| layout.tos(bytes));
        Some(Self { layout, payload, payload_len: layout.end - payload, tos, ends })
    }
}

/// A super-frame in the making: the first packet's frame, to which payloads are appended.
#[derive(Debug)]
struct Run {
    arrival: Arrival,
    head: Candidate,
    count: usize,
    /// The IP-ID of the last packet, and by how much it rises from packet to packet once that is known.
    ip_id: u16,
    ip_id_step: Option<u16>,
    /// Flags of later packets that go into the head.
    flags: u8,
}

impl Run {
    fn new(arrival: Arrival, head: Candidate) -> Self {
        let ip_id = ip_id(arrival.frame.bytes(), &head.layout);
        Self { arrival, head, count: 1, ip_id, ip_id_step: None, flags: 0 }
    }

    fn is_of_flow(&self, packet: &Packet, layout: &Layout, bytes: &[u8]) -> bool {
        let (head, mine) = (self.arrival.frame.bytes(), &self.head.layout);
        let same = (packet.remote, packet.vni, layout.v6, layout.protocol)
            == (self.arrival.remote, self.arrival.vni, mine.v6, mine.protocol);
        if !same || addresses(head, mine) != addresses(bytes, layout) {
            return false;
        }
        // A fragment, or a packet that is cut short, may be of any flow between the two addresses.
        layout.payload(bytes).is_none() || head[mine.l4..mine.l4 + 4] == bytes[layout.l4..layout.l4 + 4]
    }

    /// Whether the packet continues this run: all headers equal but for what differs between segments.
    fn takes(&self, packet: &Packet, next: &Candidate, bytes: &[u8]) -> bool {
        let head = self.arrival.frame.bytes();
        let mine = &self.head;
        let same = (packet.remote, packet.vni) == (self.arrival.remote, self.arrival.vni)
            && (next.layout.l3, next.layout.l4, next.payload) == (mine.layout.l3, mine.layout.l4, mine.payload)
            && next.tos == self.tos()
            && next.payload_len <= mine.payload_len;
        let fits = head.len() - mine.layout.l3 + next.payload_len <= IP_LEN_MAX && self.count < self.count_max();
        same && fits
            && same_ip_headers(head, bytes, mine)
            && self.takes_ip_id(head, bytes)
            && self.takes_l4(head, bytes)
    }

    fn tos(&self) -> u8 {
        self.head.layout.tos(self.arrival.frame.bytes())
    }

    fn count_max(&self) -> usize {
        if self.head.layout.protocol == PROTOCOL_TCP { segment::SEGMENTS_MAX } else { UDP_SEGMENTS_MAX }
    }

    fn takes_ip_id(&self, head: &[u8], bytes: &[u8]) -> bool {
        if self.head.layout.v6 {
            return true;
        }
        let step = ip_id(bytes, &self.head.layout).wrapping_sub(self.ip_id);
        let dont_fragment = head[self.head.layout.l3 + 6] & 0x40 != 0;
        (step == 1 || step == 0 && dont_fragment) && self.ip_id_step.is_none_or(|known| known == step)
    }

    fn takes_l4(&self, head: &[u8], bytes: &[u8]) -> bool {
        let l4 = self.head.layout.l4;
        if self.head.layout.protocol != PROTOCOL_TCP {
            return head[l4..l4 + 4] == bytes[l4..l4 + 4];
        }
        let seq = |bytes: &[u8]| u32::from_be_bytes([bytes[l4 + 4], bytes[l4 + 5], bytes[l4 + 6], bytes[l4 + 7]]);
        let sent = (head.len() - self.head.payload) as u32;
        let flags_differ = (head[l4 + 13] ^ bytes[l4 + 13]) & !(FLAG_FIN | FLAG_PSH);
        seq(bytes) == seq(head).wrapping_add(sent)
            && head[l4..l4 + 4] == bytes[l4..l4 + 4]
            && head[l4 + 8..l4 + 13] == bytes[l4 + 8..l4 + 13]
            && flags_differ == 0
            && head[l4 + 14..l4 + 16] == bytes[l4 + 14..l4 + 16]
            && head[l4 + 18..self.head.payload] == bytes[l4 + 18..self.head.payload]
    }

    /// Appends the payload; `true` when nothing may follow it.
    fn append(&mut self, next: &Candidate, bytes: &[u8]) -> bool {
        let frame = &mut self.arrival.frame;
        let end = frame.len();
        frame.set_len(end + next.payload_len);
        frame.bytes_mut()[end..].copy_from_slice(&bytes[next.payload..]);
        let id = ip_id(bytes, &next.layout);
        self.ip_id_step = Some(id.wrapping_sub(self.ip_id));
        self.ip_id = id;
        self.count += 1;
        if next.layout.protocol == PROTOCOL_TCP {
            self.flags |= bytes[next.layout.l4 + 13];
        }
        next.ends || next.payload_len < self.head.payload_len
    }

    fn close(self) -> Arrival {
        let mut arrival = self.arrival;
        if self.count == 1 {
            return arrival;
        }
        let (layout, frame_len) = (self.head.layout, arrival.frame.len());
        let bytes = arrival.frame.bytes_mut();
        let mut put = |at: usize, value: usize| bytes[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
        let l4_len = frame_len - layout.l4;
        let (check_offset, kind) = match (layout.protocol == PROTOCOL_TCP, layout.v6) {
            (true, false) => (16, GsoKind::TcpV4),
            (true, true) => (16, GsoKind::TcpV6),
            (false, _) => (6, GsoKind::Udp),
        };
        if layout.v6 {
            put(layout.l3 + 4, frame_len - layout.l3 - 40);
        } else {
            put(layout.l3 + 2, frame_len - layout.l3);
            put(layout.l3 + 10, 0);
        }
        if kind == GsoKind::Udp {
            put(layout.l4 + 4, l4_len);
        } else {
            bytes[layout.l4 + 13] |= self.flags;
        }
        if !layout.v6 {
            let check = Sum::of(&bytes[layout.l3..layout.l4]).finish();
            bytes[layout.l3 + 10..layout.l3 + 12].copy_from_slice(&check.to_be_bytes());
        }
        let pseudo = layout.pseudo(bytes, l4_len).fold();
        let at = layout.l4 + check_offset;
        bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        // The headers of one frame from a 64 KiB buffer: the offsets fit.
        arrival.frame.offload.csum = Csum::Partial { start: layout.l4 as u16, offset: check_offset as u16 };
        arrival.frame.offload.gso = Some(Gso { kind, size: self.head.payload_len as u16, ecn: false });
        arrival
    }
}

fn addresses<'a>(bytes: &'a [u8], layout: &Layout) -> &'a [u8] {
    if layout.v6 { &bytes[layout.l3 + 8..layout.l3 + 40] } else { &bytes[layout.l3 + 12..layout.l3 + 20] }
}

/// Ethernet and IP headers, but for lengths, IP-ID, IPv4 header checksum, and the TOS, which ECN may have changed.
fn same_ip_headers(a: &[u8], b: &[u8], head: &Candidate) -> bool {
    let (l3, l4) = (head.layout.l3, head.layout.l4);
    let same = |from: usize, to: usize| a[from..to] == b[from..to];
    if head.layout.v6 {
        let rest_of_first_word = (a[l3 + 1] ^ b[l3 + 1]) & 0x0f == 0 && same(l3 + 2, l3 + 4);
        return same(0, l3) && rest_of_first_word && same(l3 + 6, l4);
    }
    same(0, l3 + 1) && same(l3 + 6, l3 + 10) && same(l3 + 12, l4)
}

fn ip_id(bytes: &[u8], layout: &Layout) -> u16 {
    if layout.v6 { 0 } else { u16::from_be_bytes([bytes[layout.l3 + 4], bytes[layout.l3 + 5]]) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use weft_packet::offload::complete_checksum;
    use weft_packet::{Offload, segment::segment};

    use super::*;
    use crate::admission::RemoteKind;
    use crate::decap::classify;
    use crate::testing::{PacketSpec, any_packet, super_frame};

    const POOL: usize = 300;

    fn packet(bytes: &[u8]) -> Packet {
        let (offload, len) = classify(bytes, 60_000, None);
        let vni = Vni::new(42).unwrap();
        Packet { remote: 1, kind: RemoteKind::Weft, vni, range: 0..len, offload, tos: None }
    }

    /// Pushes all, by copy or by adoption in turns, and gives the frames that came out and how many were merged.
    fn coalesce(datagrams: &[Vec<u8>]) -> (Vec<Arrival>, usize) {
        let (mut pool, mut out, mut merged) = (FramePool::new(POOL), Vec::new(), 0);
        let mut coalescer = Coalescer::new(true);
        for (index, bytes) in datagrams.iter().enumerate() {
            let packet = packet(bytes);
            let push = if index % 2 == 0 {
                coalescer.push(&packet, bytes, &mut pool, &mut out).unwrap()
            } else {
                let mut datagram = pool.take().unwrap();
                datagram.fill(bytes);
                coalescer.adopt(&packet, datagram, &mut pool, &mut out)
            };
            merged += usize::from(push == Push::Merged);
        }
        coalescer.flush(&mut out);
        assert_eq!((out.len() + merged, pool.in_use()), (datagrams.len(), out.len()));
        (out, merged)
    }

    fn segments_of(frame: &mut Frame) -> Vec<Vec<u8>> {
        let Some(gso) = frame.offload.gso else {
            complete_checksum(frame).unwrap();
            return vec![frame.bytes().to_vec()];
        };
        let (mut pool, mut out) = (FramePool::new(POOL), Vec::new());
        segment(frame, gso.size, &mut pool, &mut out).unwrap();
        out.iter().map(|f| f.bytes().to_vec()).collect()
    }

    fn segmented(arrivals: Vec<Arrival>) -> Vec<Vec<u8>> {
        arrivals.into_iter().flat_map(|mut arrival| segments_of(&mut arrival.frame)).collect()
    }

    fn stream(packet: &PacketSpec, size: u16) -> Vec<Vec<u8>> {
        segments_of(&mut super_frame(packet, size))
    }

    #[test]
    fn the_segments_of_a_super_frame_become_it_again() {
        for v6 in [false, true] {
            for tcp in [false, true] {
                let whole = PacketSpec { v6, tcp, flags: 0x18, ..PacketSpec::tcp_v4(&[9; 10_001]) };
                let (out, merged) = coalesce(&stream(&whole, 1000));
                assert_eq!((out.len(), merged), (1, 10));
                let expected = super_frame(&whole, 1000);
                assert_eq!(out[0].frame.bytes(), expected.bytes());
                assert_eq!(out[0].frame.offload, expected.offload);
            }
        }
    }

    #[test]
    fn a_packet_that_was_verified_here_says_so_and_a_wrong_one_passes_alone() {
        let mut datagrams = stream(&PacketSpec::tcp_v4(&[9; 3000]), 1000);
        datagrams[1][60] ^= 1;
        let (out, merged) = coalesce(&datagrams);
        assert_eq!(merged, 0);
        let states: Vec<_> = out.iter().map(|a| a.frame.offload).collect();
        let verified = Offload { csum: Csum::Verified, gso: None };
        assert_eq!(states, [verified, Offload::default(), verified]);
    }

    #[test]
    fn a_packet_that_breaks_a_rule_is_not_merged() {
        let first = PacketSpec::tcp_v4(&[9; 100]);
        let next = PacketSpec { seq: 101, ip_id: 8, ..first.clone() };
        let merges = |next: &PacketSpec| coalesce(&[first.build(), next.build()]).1 == 1;
        assert!(merges(&next));
        assert!(merges(&PacketSpec { ip_id: 7, ..next.clone() }), "a constant IP-ID with DF");
        assert!(merges(&PacketSpec { flags: 0x19, payload: vec![1], ..next.clone() }), "FIN, PSH and short at the end");
        for (rule, broken) in [
            ("sequence", PacketSpec { seq: 102, ..next.clone() }),
            ("acknowledgment", PacketSpec { ack: 2, ..next.clone() }),
            ("IP-ID", PacketSpec { ip_id: 9, ..next.clone() }),
            ("ECN", PacketSpec { tos: 3, ..next.clone() }),
            ("TTL", PacketSpec { ttl: 63, ..next.clone() }),
            ("DF", PacketSpec { dont_fragment: false, ..next.clone() }),
            ("source port", PacketSpec { l4_src: 1001, ..next.clone() }),
            ("options", PacketSpec { tcp_options: vec![1; 4], ..next.clone() }),
            ("length", PacketSpec { payload: vec![9; 101], ..next.clone() }),
            ("SYN", PacketSpec { flags: 0x12, ..next.clone() }),
            ("RST", PacketSpec { flags: 0x14, ..next.clone() }),
            ("URG", PacketSpec { flags: 0x30, ..next.clone() }),
            ("CWR", PacketSpec { flags: 0x90, ..next.clone() }),
            ("ECE", PacketSpec { flags: 0x50, ..next.clone() }),
            ("no payload", PacketSpec { payload: vec![], ..next.clone() }),
        ] {
            assert!(!merges(&broken), "{rule}");
        }
        let pushed = PacketSpec { flags: 0x18, ..first.clone() };
        assert_eq!(coalesce(&[pushed.build(), next.build()]).1, 0, "nothing follows PSH");
        let short = PacketSpec { payload: vec![9; 50], ..next.clone() };
        let third = PacketSpec { seq: 151, ip_id: 9, payload: vec![9; 50], ..first.clone() };
        assert_eq!(coalesce(&[first.build(), short.build(), third.build()]).1, 1, "nothing follows a short one");
    }

    #[test]
    fn a_udp_packet_without_a_checksum_is_left_alone() {
        let mut datagrams = stream(&PacketSpec::udp_v4(&[9; 200]), 100);
        for datagram in &mut datagrams {
            datagram[40..42].fill(0);
        }
        let (out, merged) = coalesce(&datagrams);
        assert_eq!((segmented(out), merged), (datagrams, 0));
    }

    #[test]
    fn a_run_ends_at_the_largest_packet_of_ip() {
        let first = PacketSpec::tcp_v4(&[9; 30_000]);
        let next = |n: u32| PacketSpec { seq: 1 + 30_000 * n, ip_id: 7 + n as u16, ..first.clone() };
        let datagrams: Vec<_> = (0..4).map(|n| next(n).build()).collect();
        let (out, merged) = coalesce(&datagrams);
        assert_eq!((out.len(), merged), (2, 2));
        assert_eq!(segmented(out), datagrams);
    }

    #[test]
    fn many_flows_at_once_stay_in_order_each() {
        let flows: Vec<_> = (0..2 * RUNS_MAX as u16)
            .map(|l4_src| stream(&PacketSpec { l4_src, ..PacketSpec::tcp_v4(&[9; 400]) }, 100))
            .collect();
        let datagrams: Vec<_> = (0..4).flat_map(|n| flows.iter().map(move |flow| flow[n].clone())).collect();
        assert_eq!(by_flow(segmented(coalesce(&datagrams).0)), by_flow(datagrams));
    }

    fn by_flow(datagrams: Vec<Vec<u8>>) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
        let mut flows = BTreeMap::<_, Vec<_>>::new();
        for datagram in datagrams {
            let layout = Layout::of(&datagram).unwrap();
            let key = [addresses(&datagram, &layout), &datagram[layout.l4..layout.l4 + 2], &[layout.protocol]].concat();
            flows.entry(key).or_default().push(datagram);
        }
        flows
    }

    /// How a packet of a stream is disturbed on its way.
    fn disturb(datagram: &mut [u8], how: u8) {
        let layout = Layout::of(datagram).unwrap();
        match how {
            0 => *datagram.last_mut().unwrap() ^= 1,
            1 if layout.is_tcp() => datagram[layout.l4 + 13] ^= 0x40,
            2 => datagram[layout.l4 + 4] ^= 1,
            3 => datagram[layout.l3 + 5] ^= 1,
            4 => {
                let offset = layout.check_offset().unwrap();
                let pseudo = layout.pseudo(datagram, layout.end - layout.l4).fold();
                datagram[layout.l4 + offset..layout.l4 + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
            }
            _ => {}
        }
    }

    proptest! {
        /// The twin is no coalescing at all: what comes out, segmented, is what went in.
        #[test]
        fn segmenting_what_was_coalesced_gives_back_what_went_in(
            packets in prop::collection::vec((any_packet(300), 20u16..200), 1..5),
            order in any::<u64>(),
            disturbed in prop::collection::vec((0usize..60, 0u8..5), 0..4),
        ) {
            let streams: Vec<_> = packets.into_iter().map(|(mut packet, size)| {
                packet.flags = 0x10 | packet.flags & 0x49;
                stream(&packet, size)
            }).collect();
            let mut cursors: Vec<_> = streams.iter().map(|s| s.iter()).collect();
            let mut datagrams = Vec::new();
            let mut turns = order;
            while !cursors.is_empty() {
                let turn = (turns % cursors.len() as u64) as usize;
                turns = turns.rotate_right(3).wrapping_add(1);
                match cursors[turn].next() {
                    Some(datagram) => datagrams.push(datagram.clone()),
                    None => drop(cursors.remove(turn)),
                }
            }
            for (at, how) in disturbed {
                let at = at % datagrams.len();
                // One that is disturbed twice may be no packet any more.
                if Layout::of(&datagrams[at]).is_some() {
                    disturb(&mut datagrams[at], how);
                }
            }
            datagrams.retain(|datagram| Layout::of(datagram).is_some());
            let (out, _) = coalesce(&datagrams);
            // A partial one is finished on both sides.
            let expected = datagrams.iter().map(|bytes| {
                let mut frame = FramePool::new(1).take().unwrap();
                packet(bytes).copy_into(bytes, &mut frame);
                complete_checksum(&mut frame).unwrap();
                frame.bytes().to_vec()
            });
            prop_assert_eq!(by_flow(segmented(out)), by_flow(expected.collect()));
        }
    }
}
