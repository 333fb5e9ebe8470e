//! A rung is taken when a probe came through on it, given up when its probes stop doing so, and taken again.

use weft_packet::{DropReason, Vni};
use weft_program::message::{RemoteRung, Request, Response, Rung};
use weft_program::{Bundle, Op, Position, Remote, RemoteId, RemoteKind};

use crate::common::*;

fn rung(world: &mut World, host: usize) -> (Rung, String) {
    let now = world.now;
    let Response::Status(status) = world.hosts[host].ask(now, Request::Status) else { panic!() };
    let [RemoteRung { remote: RemoteId(1), rung, reason }] = &status.remote_rungs[..] else { panic!("{status:?}") };
    (*rung, reason.clone())
}

/// One super-frame from host 0, whole; how many frames it was when it left.
fn transfer(world: &mut World) -> u64 {
    let before = world.balanced()[0].split;
    let payload: Vec<u8> = (0..40_000u32).map(|i| (i * 7) as u8).collect();
    let (frame, offload) = tcp_super(A, B, &payload, 1460);
    world.send(A, &frame, offload);
    world.run();
    assert!(payloads(&world.received(B)) == payload);
    world.balanced()[0].split - before + 1
}

#[test]
fn a_path_that_breaks_the_last_segment_costs_the_rung_and_no_byte() {
    for workers in [1, 2] {
        let mut world = World::new(workers, Rung::Segment, ALL_OFFLOADS);
        assert_eq!([rung(&mut world, 0), rung(&mut world, 1)], [(); 2].map(|()| (Rung::Segment, String::new())));
        assert_eq!(transfer(&mut world), 1);

        world.hosts[0].underlay.break_segments(true);
        world.pass(14);
        assert_eq!(rung(&mut world, 0), (Rung::Batch, "8 of 9 segments arrived intact".to_owned()));
        assert_eq!(rung(&mut world, 1).0, Rung::Segment, "the way back is another way");
        assert_eq!(transfer(&mut world), 28);
        let now = world.now;
        assert!(world.hosts[1].drops(now, DropReason::ProbeRefused) >= 3, "broken probes are counted");

        world.hosts[0].underlay.break_segments(false);
        world.pass(12);
        assert_eq!(rung(&mut world, 0), (Rung::Segment, String::new()));
        assert_eq!(transfer(&mut world), 1);
    }
}

#[test]
fn a_path_that_breaks_super_frames_costs_both_upper_rungs_and_heals() {
    let mut world = World::new(1, Rung::Tunnel, ALL_OFFLOADS);
    assert_eq!(rung(&mut world, 0), (Rung::Tunnel, String::new()));
    assert_eq!(transfer(&mut world), 1);
    world.hosts[0].underlay.break_segments(true);
    world.pass(14);
    let why = "8 of 9 segments arrived intact; tunnel GSO: 8 of 9 segments arrived intact";
    let (fallen, told) = rung(&mut world, 0);
    assert!(fallen == Rung::Batch && why.contains(&told), "{fallen:?} {told}");
    assert_eq!(transfer(&mut world), 28);
    world.hosts[0].underlay.break_segments(false);
    world.pass(2);
    let now = world.now;
    assert_eq!(world.hosts[0].ask(now, Request::UnderlayChanged(UNDERLAY_MTU)), Response::Done);
    world.run();
    assert_eq!(rung(&mut world, 0), (Rung::Tunnel, String::new()), "told of a change, it looks at once");
    assert_eq!(transfer(&mut world), 1);
}

#[test]
fn a_legacy_remote_gets_the_conservative_rung_and_sends_no_probes() {
    let mut world = World::new(1, Rung::Segment, ALL_OFFLOADS);
    let legacy = Op::PutRemote(Remote {
        id: RemoteId(1),
        addr: address(1),
        udp_port: 4789,
        vnis: [Vni::new(VNI).unwrap()].into(),
        kind: RemoteKind::Legacy,
        owner: "host other".into(),
    });
    let position = Position { store_id: "test".into(), generation: 2, digest: "y".into() };
    let now = world.now;
    let bundle = Bundle { replace: false, ops: vec![legacy], position };
    assert_eq!(world.hosts[0].ask(now, Request::Apply(bundle)), Response::Done);
    world.run();
    assert_eq!(rung(&mut world, 0), (Rung::Batch, "legacy VTEP: no probe possible".to_owned()));
    assert_eq!(transfer(&mut world), 28);
    world.pass(12);
    let now = world.now;
    assert!(world.hosts[0].drops(now, DropReason::ProbeRefused) > 0, "its probes are refused");
    world.balanced();
}

#[test]
fn a_forced_rung_is_not_probed_and_says_so() {
    let mut world = World::new(1, Rung::Batch, ALL_OFFLOADS);
    world.pass(12);
    assert_eq!(rung(&mut world, 0), (Rung::Batch, "not probed: the host is kept to a lower rung".to_owned()));
    assert!(world.crossed.is_empty());
}

#[test]
fn an_idle_host_sends_one_probe_per_ten_seconds() {
    let mut world = World::new(1, Rung::Segment, ALL_OFFLOADS);
    world.pass(110);
    let frames = world.balanced()[0].originated;
    assert!((100..=110).contains(&frames), "nine and an answer, ten or eleven times: {frames}");
}
