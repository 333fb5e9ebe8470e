//! The stages that every frame passes: parse, classify by each level of the caches, checksum, VXLAN, segments.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use weft_packet::checksum::checksum;
use weft_packet::segment::segment;
use weft_packet::vxlan::HEADER_LEN;
use weft_packet::{Csum, FlowKey, FramePool, Gso, GsoKind, Ingress, Offload, Sum, parse};
use weft_vswitch::cache::Lookup;
use weft_vswitch::learn::{Learned, Second};
use weft_vswitch::limits::LIMITS;
use weft_vswitch::tables::Tables;
use weft_vtep::admission::{Admission, RemoteKind, RemoteVtep};
use weft_vtep::coalesce::Coalescer;
use weft_vtep::decap::{Datagram, Packet, classify, decap};
use weft_vtep::encap::encap;

use super::guests::{FROM_PORT, program, tcp_v4, udp_v4, vni};
use super::timer::{Timed, time};

const SEGMENT: usize = 1448;
const SEGMENTS: usize = 44;
const NOW: Second = Second(1);

/// Parsing a UDP frame of 64 bytes; the sum over a segment and over 64 KB.
pub(super) fn parsing() -> Vec<Timed> {
    let frame = udp_v4(1);
    let ingress = Ingress { in_port: FROM_PORT.0, ..Ingress::default() };
    let bytes = vec![0x5a_u8; 65_536];
    vec![
        time("parse, 64 B UDP over IPv4", 1_000, || {
            (0..1_000).for_each(|_| _ = black_box(parse(black_box(&frame), ingress)));
        }),
        time("checksum, 1,448 B", 100, || {
            (0..100).for_each(|_| _ = black_box(checksum(black_box(&bytes[..SEGMENT]))));
        }),
        time("checksum, 64 KB", 1, || _ = black_box(checksum(black_box(&bytes)))),
    ]
}

/// Classifying keys of 1 to 100,000 flows. Where the exact level is too small the wildcard level answers.
pub(super) fn classifying() -> Result<Vec<Timed>> {
    let tables = Tables::new(1).apply(&program()).map_err(|errors| anyhow!("refused: {errors:?}"))?;
    let learned = Learned::new(Instant::now(), &LIMITS);
    let mut rows = Vec::new();
    for flows in [1, 100, 1_000, 10_000, 100_000] {
        // One flow many times over, so that reading the clock costs nothing beside it.
        let keys = keys(flows)?.repeat(1_000_usize.div_ceil(flows as usize));
        let mut lookup = Lookup::new(1, &LIMITS);
        let pass = |lookup: &mut Lookup| {
            for key in &keys {
                black_box(lookup.classify(&tables, &learned, black_box(key), 64, NOW));
            }
        };
        (0..3).for_each(|_| pass(&mut lookup));
        let before = lookup.counts();
        pass(&mut lookup);
        let exact = (lookup.counts().exact - before.exact) * 100 / keys.len() as u64;
        let name = format!("classify, {flows} flows ({exact} % exact, else wildcard)");
        rows.push(time(&name, keys.len(), || pass(&mut lookup)));
    }
    let keys = keys(1_000)?;
    let mut uncached = Lookup::uncached(1);
    rows.push(time("classify, tables", keys.len(), || {
        for key in &keys {
            black_box(uncached.classify(&tables, &learned, black_box(key), 64, NOW));
        }
    }));
    Ok(rows)
}

fn keys(flows: u32) -> Result<Vec<FlowKey>> {
    let ingress = Ingress { in_port: FROM_PORT.0, ..Ingress::default() };
    let key = |flow| parse(&udp_v4(flow), ingress).map(|parsed| parsed.key);
    (0..flows).map(key).collect::<Result<_, _>>().map_err(|reason| anyhow!("the frame is malformed: {reason:?}"))
}

/// The VXLAN header on and off.
pub(super) fn tunnelling() -> Result<Vec<Timed>> {
    let vni = vni();
    let source = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1));
    let now = Instant::now();
    let mut admission = Admission::new(Duration::from_secs(1));
    admission.set_segments([(vni, 1500)]);
    admission.put(&RemoteVtep { id: 1, addr: source, kind: RemoteKind::Weft, vnis: vec![vni] }, now);
    let mut pool = FramePool::new(1);
    let mut frame = pool.take().ok_or_else(|| anyhow!("no buffer"))?;
    frame.fill(&udp_v4(1));
    let on = time("encap: push the header (and take it off)", 1_000, || {
        for _ in 0..1_000 {
            encap(black_box(&mut frame), vni);
            frame.pull_front(HEADER_LEN);
        }
    });
    encap(&mut frame, vni);
    let datagram = Datagram { payload: frame.bytes(), stride: None, truncated: false, source, tos: 0 };
    ensure!(decap(datagram, &admission, now).all(|packet| packet.is_ok()), "the datagram is refused");
    let off = time("decap: admit one packet of 64 B", 1_000, || {
        for _ in 0..1_000 {
            decap(black_box(datagram), &admission, now).for_each(|packet| drop(black_box(packet)));
        }
    });
    Ok(vec![on, off])
}

/// A TCP super-frame of 44 segments cut up, and put together again; per segment.
pub(super) fn segments() -> Result<Vec<Timed>> {
    let mut pool = FramePool::new(2 * SEGMENTS + 2);
    let mut whole = pool.take().ok_or_else(|| anyhow!("no buffer"))?;
    let mut bytes = tcp_v4(SEGMENT * SEGMENTS);
    let len = (bytes.len() - 34) as u32;
    let address = |at: usize| IpAddr::from([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let sum = Sum::pseudo(address(26), address(30), 6, len).fold();
    bytes[50..52].copy_from_slice(&sum.to_be_bytes());
    whole.fill(&bytes);
    let gso = Some(Gso { kind: GsoKind::TcpV4, size: SEGMENT as u16, ecn: false });
    whole.offload = Offload { csum: Csum::Partial { start: 34, offset: 16 }, gso };
    let mut cut = Vec::new();
    let count = segment(&whole, SEGMENT as u16, &mut pool, &mut cut).map_err(|why| anyhow!("not cut: {why:?}"))?;
    ensure!(count == SEGMENTS, "cut into {count} segments");
    let datagrams: Vec<Vec<u8>> = cut.iter().map(|frame| frame.bytes().to_vec()).collect();
    cut.drain(..).for_each(|frame| pool.give(frame));
    let cutting = time("segment: 44 of 1,448 B, per segment", SEGMENTS, || {
        _ = black_box(segment(&whole, SEGMENT as u16, &mut pool, &mut cut));
        cut.drain(..).for_each(|frame| pool.give(frame));
    });
    let vni = vni();
    let (mut coalescer, mut out) = (Coalescer::new(true), Vec::new());
    let joining = time("verify and coalesce: 44 of 1,448 B, per segment", SEGMENTS, || {
        for bytes in &datagrams {
            let (offload, len) = classify(bytes, 1500, None);
            let packet = Packet { remote: 1, kind: RemoteKind::Weft, vni, range: 0..len, offload, tos: None };
            _ = black_box(coalescer.push(&packet, bytes, &mut pool, &mut out));
        }
        coalescer.flush(&mut out);
        out.drain(..).for_each(|arrival| pool.give(arrival.frame));
    });
    Ok(vec![cutting, joining])
}
