//! Two vswitches exchange frames over VXLAN, on every rung and with one and two workers, and their ledgers balance.

use crate::common::*;
use weft_packet::{Csum, DropReason, Layout, Offload};
use weft_program::message::{DropSource, Offloads, Request, Response, Rung};

const PLAIN: Offload = Offload { csum: Csum::Unknown, gso: None };
const RUNGS: [Rung; 4] = [Rung::Single, Rung::Batch, Rung::Segment, Rung::Tunnel];

#[test]
fn a_unicast_frame_crosses_the_tunnel() {
    for (rung, workers) in RUNGS.into_iter().zip([1, 2, 1, 2]) {
        let mut world = World::new(workers, rung, ALL_OFFLOADS);
        let frame = udp(A, B, b"hello", true);
        world.send(A, &frame, PLAIN);
        world.run();
        let received = world.received(B);
        assert_eq!(payloads(&received), b"hello");
        assert_eq!(received[0].0[..40], frame[..40], "all but the checksum, which may have become partial");
        assert_eq!(world.crossed[0].payload[..8], [8, 0, 0, 0, 0, 0, 42, 0]);
        assert_eq!(world.crossed[0].payload[8..], frame);
        let ledgers = world.balanced();
        assert_eq!((ledgers[0].rx, ledgers[0].tx, ledgers[1].rx, ledgers[1].tx), (1, 1, 1, 1));
    }
}

#[test]
fn a_broadcast_reaches_everybody_else_once_and_copies_are_counted() {
    let mut world = World::new(1, Rung::Batch, ALL_OFFLOADS);
    let mut frame = udp(A, B, b"all", true);
    frame[..6].fill(0xff);
    world.send(A, &frame, PLAIN);
    world.run();
    assert_eq!((world.received(A).len(), world.received(B).len(), world.received(C).len()), (0, 1, 1));
    let ledgers = world.balanced();
    assert_eq!((ledgers[0].copies, ledgers[0].tx, ledgers[1].copies), (1, 2, 0));
}

#[test]
fn an_arp_request_is_answered_on_the_spot() {
    let mut world = World::new(1, Rung::Batch, ALL_OFFLOADS);
    world.send(A, &arp(A, B.ip()), PLAIN);
    world.run();
    let answers = world.received(A);
    assert_eq!(answers.len(), 1);
    assert_eq!((&answers[0].0[..6], &answers[0].0[6..12]), (&A.mac().0[..], &B.mac().0[..]));
    assert!(world.crossed.is_empty(), "nothing floods");
    let ledger = world.balanced()[0];
    assert_eq!((ledger.rx, ledger.consumed, ledger.originated, ledger.tx), (1, 1, 1, 1));
}

#[test]
fn a_tcp_super_frame_arrives_whole_in_bytes_on_every_rung() {
    let payload: Vec<u8> = (0..40_000u32).map(|i| (i * 7) as u8).collect();
    for rung in RUNGS {
        let mut world = World::new(1, rung, ALL_OFFLOADS);
        let (frame, offload) = tcp_super(A, B, &payload, 1460);
        world.send(A, &frame, offload);
        world.run();
        let frames = world.received(B);
        assert!(payloads(&frames) == payload, "{rung:?}");
        let fits = world.crossed.iter().all(|datagram| datagram.payload.len() + 28 <= UNDERLAY_MTU.into());
        assert_eq!(fits, rung < Rung::Tunnel);
        let ledgers = world.balanced();
        if rung >= Rung::Segment {
            assert!(frames.len() < 5, "coalesced again, or never cut: {} frames", frames.len());
            assert_eq!((ledgers[0].split, ledgers[0].tx), (0, 1));
        } else {
            assert_eq!((ledgers[0].split, ledgers[0].tx), (27, 28));
        }
    }
}

#[test]
fn a_super_frame_to_a_port_without_offloads_is_cut_and_summed() {
    let payload = vec![9; 10_000];
    let mut world = World::new(1, Rung::Batch, Offloads::default());
    let (frame, offload) = tcp_super(A, C, &payload, 1460);
    world.send(A, &frame, offload);
    world.run();
    let frames = world.received(C);
    assert_eq!(frames.len(), 7);
    assert!(payloads(&frames) == payload);
    assert!(frames.iter().all(|(_, offload)| offload.gso.is_none() && !matches!(offload.csum, Csum::Partial { .. })));
    assert_eq!(world.balanced()[0].split, 6);
}

#[test]
fn small_packets_to_one_remote_leave_in_one_message() {
    let mut world = World::new(1, Rung::Segment, ALL_OFFLOADS);
    let sent = |world: &mut World| {
        let io = world.hosts[0].ledger(world.now).io;
        ["underlay_tx_messages", "underlay_tx_packets"]
            .map(|name| io.iter().find(|(known, _)| known == name).unwrap().1)
    };
    let before = sent(&mut world);
    for number in 0..20 {
        world.send(A, &udp(A, B, &[number; 64], true), PLAIN);
    }
    world.run();
    let got = world.received(B);
    assert!(payloads(&got) == (0..20).flat_map(|number| [number; 64]).collect::<Vec<_>>());
    let after = sent(&mut world);
    assert_eq!((after[0] - before[0], after[1] - before[1]), (1, 20));
    world.balanced();
}

#[test]
fn a_refused_rung_is_given_up_with_its_reason_and_loses_nothing() {
    let payload: Vec<u8> = (0..30_000u32).map(|i| (i * 3) as u8).collect();
    let mut world = World::new(1, Rung::Segment, ALL_OFFLOADS);
    let now = world.now;
    world.hosts[0].underlay.take_segments(0);
    world.send(A, &udp(A, B, b"first", true), PLAIN);
    let (frame, offload) = tcp_super(A, B, &payload, 1460);
    world.send(A, &frame, offload);
    world.run();
    let (tcp, other): (Vec<_>, Vec<_>) = world.received(B).into_iter().partition(|(bytes, _)| bytes[23] == 6);
    assert_eq!(payloads(&other), b"first");
    assert!(payloads(&tcp) == payload);
    let Response::Status(status) = world.hosts[0].ask(now, Request::Status) else { panic!() };
    assert_eq!(status.rung, Some(Rung::Batch));
    assert_eq!(status.rungs_not_taken.len(), 1);
    assert!(status.rungs_not_taken[0].1.starts_with("UDP_SEGMENT: "), "{:?}", status.rungs_not_taken);
    world.balanced();
}

#[test]
fn a_rung_refused_in_the_middle_of_a_super_frame_sends_nothing_twice_and_is_tried_again() {
    let payload: Vec<u8> = (0..60_000u32).map(|i| (i * 7) as u8).collect();
    let mut world = World::new(1, Rung::Segment, ALL_OFFLOADS);
    // The frame's 120 segments are two messages; the second is refused.
    world.hosts[0].underlay.take_segments(1);
    let (frame, offload) = tcp_super(A, B, &payload, 500);
    world.send(A, &frame, offload);
    world.run();
    assert_eq!(world.crossed.len(), 120);
    assert!(payloads(&world.received(B)) == payload);
    assert_eq!(world.balanced()[0].tx, 120);

    world.hosts[0].underlay.take_segments(u64::MAX);
    for (wait, rung) in [(9, Rung::Batch), (1, Rung::Segment)] {
        world.now += std::time::Duration::from_secs(wait);
        world.send(A, &frame, offload);
        world.run();
        assert!(payloads(&world.received(B)) == payload);
        let now = world.now;
        let Response::Status(status) = world.hosts[0].ask(now, Request::Status) else { panic!() };
        assert_eq!(status.rung, Some(rung));
        assert_eq!(status.rungs_not_taken.is_empty(), rung == Rung::Segment, "{:?}", status.rungs_not_taken);
    }
    world.balanced();
}

#[test]
fn a_tunnel_device_that_refuses_costs_no_frame_and_one_odd_frame_costs_nobody_the_rung() {
    let payload: Vec<u8> = (0..30_000u32).map(|i| (i * 3) as u8).collect();
    let mut world = World::new(1, Rung::Tunnel, ALL_OFFLOADS);
    let (frame, offload) = tcp_super(A, B, &payload, 1460);
    let cases = [(1, false, Rung::Tunnel, 1), (0, true, Rung::Tunnel, 21), (0, false, Rung::Segment, 21)];
    for (taken, dislikes, rung, datagrams) in cases {
        world.hosts[0].underlay.take_super_frames(taken, dislikes);
        world.crossed.clear();
        world.send(A, &frame, offload);
        world.run();
        assert!(payloads(&world.received(B)) == payload);
        let now = world.now;
        let Response::Status(status) = world.hosts[0].ask(now, Request::Status) else { panic!() };
        assert_eq!((status.rung, world.crossed.len()), (Some(rung), datagrams));
        let why = status
            .rungs_not_taken
            .iter()
            .any(|(rung, why)| *rung == Rung::Tunnel && why.starts_with("tunnel device: "));
        assert_eq!(why, rung < Rung::Tunnel, "{:?}", status.rungs_not_taken);
    }
    assert_eq!(world.balanced()[0].tx, 3);
}

#[test]
fn a_packet_that_is_too_long_is_answered_with_the_mtu() {
    let mut world = World::new(1, Rung::Batch, ALL_OFFLOADS);
    world.send(A, &udp(A, B, &[0; 1600], true), PLAIN);
    world.run();
    let answers = world.received(A);
    assert_eq!(answers.len(), 1);
    let answer = &answers[0].0;
    assert_eq!((answer[34], answer[35], u16::from_be_bytes([answer[40], answer[41]])), (3, 4, 1550));
    assert_eq!(answer[26..30], B.ip().octets(), "in the name of the destination");
    assert!(world.received(B).is_empty());
    let ledger = world.balanced()[0];
    assert_eq!((ledger.consumed, ledger.originated, ledger.dropped), (1, 1, 0));
}

#[test]
fn answers_are_limited_per_port() {
    let mut world = World::new(1, Rung::Batch, ALL_OFFLOADS);
    for _ in 0..50 {
        world.send(A, &udp(A, B, &[0; 1600], true), PLAIN);
    }
    world.run();
    let now = world.now;
    assert_eq!(world.received(A).len(), 32);
    assert_eq!(world.hosts[0].drops(now, DropReason::ReplyLimited), 18);
    world.balanced();
}

#[test]
fn a_packet_that_may_be_fragmented_is_fragmented_inside() {
    let mut world = World::new(1, Rung::Segment, ALL_OFFLOADS);
    let frame = udp(A, B, &[5; 4000], false);
    world.send(A, &frame, PLAIN);
    world.run();
    let fragments = world.received(B);
    assert_eq!(fragments.len(), 3);
    let mut body: Vec<u8> = Vec::new();
    for (bytes, _) in &fragments {
        let layout = Layout::of(bytes).unwrap();
        assert!(layout.fragment && layout.end - layout.l3 <= 1550);
        body.extend(&bytes[layout.l4..layout.end]);
    }
    assert!(body == frame[34..]);
    assert_eq!(world.balanced()[0].split, 2);
}

#[test]
fn drops_say_why_from_where_and_by_whose_rule_and_the_ledger_balances() {
    let mut world = World::new(1, Rung::Batch, ALL_OFFLOADS);
    let now = world.now;
    let mut spoofed = udp(A, B, b"x", true);
    spoofed[11] = 99;
    world.send(A, &spoofed, PLAIN);
    let mut unknown = udp(A, B, b"x", true);
    unknown[5] = 77;
    world.send(A, &unknown, PLAIN);
    world.send(A, &[0; 5], PLAIN);
    let mut datagram = world.crossed.first().cloned().unwrap_or(weft_vswitch::underlay::MemoryDatagram {
        addr: std::net::SocketAddr::new([198, 51, 100, 1].into(), 1),
        payload: [&[8, 0, 0, 0, 0, 0, 42, 0][..], &udp(B, A, b"x", true)].concat(),
        tos: 0,
        stride: None,
    });
    assert!(world.hosts[0].underlay.push(datagram.clone()), "an unknown remote");
    datagram.addr.set_ip(address(1));
    datagram.payload[6] = 43;
    assert!(world.hosts[0].underlay.push(datagram), "an unknown network");
    world.run();
    let reasons = [
        DropReason::SpoofedMac,
        DropReason::UnknownUnicast,
        DropReason::MalformedEthernet,
        DropReason::RemoteUnknown,
        DropReason::VniUnknown,
    ];
    assert_eq!(reasons.map(|reason| world.hosts[0].drops(now, reason)), [1; 5]);
    let rows = world.hosts[0].ledger(now).drops;
    assert!(rows.iter().any(|row| row.reason == DropReason::SpoofedMac && row.owner == "anti-spoof"));
    let port = world.hosts[0].port(now, A.port);
    assert_eq!((port.rx_frames, port.drops.iter().map(|(_, count)| count).sum::<u64>()), (3, 3));
    world.balanced();
}

#[test]
fn a_dark_port_passes_nothing_in_or_out() {
    let mut world = World::new(1, Rung::Batch, ALL_OFFLOADS);
    let now = world.now;
    let mut bundle = program(0);
    for op in &mut bundle.ops {
        if let weft_program::Op::PutPort(port) = op
            && port.id == C.port
        {
            port.live = false;
        }
    }
    assert_eq!(world.hosts[0].ask(now, Request::Apply(bundle)), Response::Done);
    world.send(C, &udp(C, A, b"x", true), PLAIN);
    world.send(A, &udp(A, C, b"x", true), PLAIN);
    world.run();
    assert!(world.received(A).is_empty() && world.received(C).is_empty());
    assert!(world.hosts[0].drops(now, DropReason::PortDark) >= 1);
    world.balanced();
}

#[test]
fn a_port_whose_device_is_gone_is_reported_and_its_frames_are_drops() {
    let mut world = World::new(1, Rung::Batch, ALL_OFFLOADS);
    let now = world.now;
    world.end(C).remove();
    world.send(A, &udp(A, C, b"x", true), PLAIN);
    world.run();
    assert!(world.hosts[0].port(now, C.port).gone);
    assert_eq!(world.hosts[0].drops(now, DropReason::PortGone), 1);
    assert_eq!(world.hosts[0].ask(now, Request::Detach(C.port)), Response::Done);
    world.send(A, &udp(A, C, b"x", true), PLAIN);
    world.run();
    // In the program without a device: as dark as a port that still waits for its namespace.
    assert_eq!(world.hosts[0].drops(now, DropReason::PortDark), 1);
    assert_eq!(world.hosts[0].drops(now, DropReason::NoDestination), 0);
    world.balanced();
}

#[test]
fn a_congestion_mark_of_the_underlay_reaches_the_guest() {
    let mut world = World::new(1, Rung::Batch, ALL_OFFLOADS);
    let mut frame = udp(A, B, b"x", true);
    frame[15] = 2;
    let check = weft_packet::checksum::Sum::of(&[&frame[14..24], &[0, 0], &frame[26..34]].concat()).finish();
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    let payload = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &frame].concat();
    let addr = std::net::SocketAddr::new(address(0), 50_000);
    let datagram = weft_vswitch::underlay::MemoryDatagram { addr, payload, tos: 3, stride: None };
    assert!(world.hosts[1].underlay.push(datagram));
    world.run();
    assert_eq!(world.received(B)[0].0[15] & 3, 3);
    world.balanced();
}

#[test]
fn another_underlay_mtu_holds_for_the_next_frame_and_for_the_next_agent() {
    let mut world = World::new(1, Rung::Segment, ALL_OFFLOADS);
    let now = world.now;
    let packet = udp(A, B, &[0; 1400], true);
    world.send(A, &packet, PLAIN);
    world.run();
    assert_eq!((world.received(A).len(), world.received(B).len()), (0, 1));
    assert_eq!(world.hosts[0].ask(now, Request::UnderlayChanged(1400)), Response::Done);
    world.send(A, &packet, PLAIN);
    world.run();
    let answers = world.received(A);
    assert_eq!((answers.len(), world.received(B).len()), (1, 0));
    assert_eq!(answers[0].0[40..42], 1350u16.to_be_bytes(), "what is left inside 1400 bytes");
    let mut inventory = world.hosts[0].vswitch.handle(now, Request::Inventory, Vec::new());
    inventory.retain(|answer| matches!(&answer.response, Response::AttachedUnderlay(underlay) if underlay.mtu == 1400));
    assert_eq!(inventory.len(), 1);
    world.balanced();
}

#[test]
fn forged_senders_are_counted_by_their_address() {
    let mut world = World::new(1, Rung::Batch, ALL_OFFLOADS);
    let now = world.now;
    let payload = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &udp(A, B, b"x", true)].concat();
    for last in [77, 78, 77] {
        let addr = std::net::SocketAddr::from(([192, 0, 2, last], 50_000));
        let datagram = weft_vswitch::underlay::MemoryDatagram { addr, payload: payload.clone(), tos: 0, stride: None };
        assert!(world.hosts[1].underlay.push(datagram));
    }
    world.run();
    assert!(world.received(B).is_empty());
    let rows: Vec<_> = world.hosts[1].ledger(now).drops.into_iter().map(|row| (row.source, row.frames)).collect();
    let from = |last| DropSource::Address([192, 0, 2, last].into());
    assert_eq!(rows, [(from(77), 2), (from(78), 1)]);
    world.balanced();
}

#[test]
fn random_traffic_of_all_kinds_leaves_both_ledgers_balanced() {
    for (seed, rung) in (1..7u64).zip(RUNGS.into_iter().cycle()) {
        let offloads = if seed % 2 == 0 { ALL_OFFLOADS } else { Offloads { csum: true, ..Offloads::default() } };
        let mut world = World::new(1 + seed as usize % 2, rung, offloads);
        let mut state = seed;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        for _ in 0..400 {
            let from = [A, B, C][next(3) as usize];
            let to = [A, B, C][next(3) as usize];
            let payload = vec![next(256) as u8; next(3000) as usize];
            let (mut frame, offload) = match next(4) {
                0 => (arp(from, to.ip()), PLAIN),
                1 if next(2) == 0 => {
                    udp_super(from, to, &vec![1; 3000 + next(20_000) as usize], 500 + next(1400) as u16)
                }
                1 => tcp_super(from, to, &vec![1; 1500 + next(40_000) as usize], 500 + next(1000) as u16),
                kind => (udp(from, to, &payload, kind == 2), PLAIN),
            };
            if next(8) == 0 && offload == PLAIN {
                let at = next(frame.len().min(40) as u64) as usize;
                frame[at] ^= 1 << next(8);
            }
            world.send(from, &frame, offload);
            if next(3) == 0 {
                world.run();
            }
        }
        world.run();
        let ledgers = world.balanced();
        assert!(ledgers[0].tx > 100 && ledgers[0].dropped > 0 && ledgers[0].split > 0, "seed {seed}: {ledgers:?}");
    }
}
