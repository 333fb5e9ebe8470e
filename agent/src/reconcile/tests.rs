//! The reconciler against a vswitch that does as it is told, checked by the program that it ends up with.

use super::*;
use crate::ports::DARK_MAX;
use crate::testing::{a_port, a_remote, a_segment, device, program};
use weft_api::wire::Item;
use weft_program::PortId;

/// A vswitch: a program and what is attached.
#[derive(Default)]
struct Vswitch {
    program: Program,
    position: Position,
    attached: Vec<AttachedPort>,
}

impl Vswitch {
    fn take(&mut self, bundle: Bundle) {
        if bundle.replace {
            self.program = Program::default();
        }
        bundle.ops.into_iter().for_each(|op| self.program.apply(op));
        self.position = bundle.position;
    }

    /// Does all there is to do now; gives the acks.
    fn run(&mut self, reconciler: &mut Reconciler, now: Instant) -> Vec<proto::Ack> {
        let mut acks = Vec::new();
        loop {
            if let Some(Work::Apply(bundle)) = reconciler.work(now) {
                self.take(*bundle);
                acks.extend(reconciler.applied(Ok(()), now));
                continue;
            }
            let work = reconciler.ports().work(now);
            if work.is_empty() {
                return acks;
            }
            for work in work {
                match work {
                    Work::Open(request) => {
                        self.attached.push(AttachedPort { device: device(&request), live: false });
                        reconciler.ports().opened(request.id, Ok(device(&request)), now);
                    }
                    Work::Close(id) => {
                        self.attached.retain(|a| a.device.id != id);
                        reconciler.ports().closed(id, now);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

fn full(generation: u64, items: &[Item]) -> proto::Update {
    let host = program(items);
    let position = proto::Position { store_id: "s".into(), generation, digest: host.digest() };
    proto::Update { position: Some(position), kind: Some(update::Kind::Full(host.to_wire())) }
}

fn delta(base: &Position, generation: u64, old: &[Item], new: &[Item]) -> proto::Update {
    let changes = program(old).changes_to(&program(new));
    let position = proto::Position { store_id: "s".into(), generation, digest: program(new).digest() };
    let delta = proto::Delta { base: Some(to_wire(base)), deletes: changes.deletes, puts: changes.puts };
    proto::Update { position: Some(position), kind: Some(update::Kind::Delta(delta)) }
}

fn started() -> (Reconciler, Vswitch, Instant) {
    let (mut reconciler, now) = (Reconciler::default(), Instant::now());
    reconciler.vswitch_up(&Position::default(), &[], now);
    (reconciler, Vswitch::default(), now)
}

fn live(vswitch: &Vswitch) -> usize {
    vswitch.program.ports.values().filter(|p| p.live).count()
}

#[test]
fn an_update_is_acknowledged_when_it_is_in_force_and_its_port_lights_up_later() {
    let (mut reconciler, mut vswitch, now) = started();
    let items = [a_segment(1), a_port("red/a", 1)];
    assert_eq!(reconciler.update(full(3, &items)), None);
    let acks = vswitch.run(&mut reconciler, now);
    assert_eq!(acks.len(), 1);
    assert_eq!((acks[0].position.as_ref().unwrap().generation, acks[0].error.as_str()), (3, ""));
    assert_eq!((vswitch.program.ports.len(), vswitch.attached.len(), live(&vswitch)), (1, 1, 0));
    reconciler.ports().open(3, now);
    vswitch.run(&mut reconciler, now);
    assert_eq!(live(&vswitch), 1);
    let second = [a_segment(1), a_port("red/a", 1), a_port("red/b", 1)];
    reconciler.update(delta(&vswitch.position, 4, &items, &second));
    assert_eq!(vswitch.run(&mut reconciler, now).len(), 1);
    assert_eq!((vswitch.program.ports.len(), live(&vswitch)), (2, 1), "a live port stays live, a new one is dark");
    vswitch.run(&mut reconciler, now + DARK_MAX);
    assert_eq!(live(&vswitch), 2);
}

#[test]
fn an_empty_difference_is_acknowledged_too() {
    let (mut reconciler, mut vswitch, now) = started();
    let items = [a_segment(1)];
    reconciler.update(full(1, &items));
    vswitch.run(&mut reconciler, now);
    let position = proto::Position { store_id: "s".into(), generation: 2, digest: program(&items).digest() };
    reconciler
        .update(proto::Update { position: Some(position), kind: Some(update::Kind::Unchanged(proto::Unchanged {})) });
    assert_eq!(vswitch.run(&mut reconciler, now).len(), 1);
    assert_eq!(vswitch.position.generation, 2);
}

#[test]
fn a_wrong_base_a_wrong_digest_and_a_broken_program_are_refused_and_change_nothing() {
    let (mut reconciler, mut vswitch, now) = started();
    let items = [a_segment(1), a_remote("h2", &[1])];
    reconciler.update(full(1, &items));
    vswitch.run(&mut reconciler, now);
    let before = vswitch.program.clone();
    let wrong_base = delta(&Position { generation: 9, ..vswitch.position.clone() }, 10, &items, &items);
    assert!(reconciler.update(wrong_base).unwrap().error.contains("stands at generation 1"));
    let mut wrong_digest = full(2, &[a_segment(1)]);
    wrong_digest.position.as_mut().unwrap().digest = "00".into();
    assert!(reconciler.update(wrong_digest).unwrap().error.contains("digest"));
    let dangling = proto::Flood { id: 1, segment: 1, ports: vec!["red/x".into()], remotes: vec![] };
    let refused = reconciler.update(full(2, &[a_segment(1), dangling.into()])).unwrap();
    assert!(refused.error.contains("red/x"), "{}", refused.error);
    assert!(vswitch.run(&mut reconciler, now).is_empty());
    assert_eq!(vswitch.program, before);
}

#[test]
fn what_the_vswitch_refuses_is_refused_to_the_controller_and_the_next_update_works() {
    let (mut reconciler, mut vswitch, now) = started();
    reconciler.update(full(1, &[a_segment(1)]));
    assert!(reconciler.work(now).is_some());
    let acks = reconciler.applied(Err(NotApplied::Refused("too many".into())), now);
    assert_eq!(acks[0].error, "too many");
    assert_eq!(reconciler.position(), &Position::default());
    reconciler.update(full(2, &[a_segment(2)]));
    assert_eq!(vswitch.run(&mut reconciler, now).len(), 1);
    assert_eq!(vswitch.position.generation, 2);
}

#[test]
fn of_updates_that_come_meanwhile_the_last_one_counts() {
    let (mut reconciler, mut vswitch, now) = started();
    for generation in 1..=5 {
        reconciler.update(full(generation, &[a_segment(generation as u32)]));
    }
    let acks = vswitch.run(&mut reconciler, now);
    let generations: Vec<_> = acks.iter().map(|a| a.position.as_ref().unwrap().generation).collect();
    assert_eq!(generations, [1, 5]);
}

#[test]
fn a_new_vswitch_gets_the_whole_with_live_ports_live() {
    let (mut reconciler, mut vswitch, now) = started();
    reconciler.update(full(1, &[a_segment(1), a_port("red/a", 1)]));
    vswitch.run(&mut reconciler, now);
    vswitch.run(&mut reconciler, now + DARK_MAX);
    reconciler.vswitch_down();
    assert!(reconciler.work(now).is_none());
    let mut second = Vswitch { attached: vswitch.attached.clone(), ..Vswitch::default() };
    reconciler.vswitch_up(&Position::default(), &second.attached.clone(), now);
    assert!(second.run(&mut reconciler, now).is_empty(), "it was acknowledged before");
    assert_eq!(second.program, vswitch.program);
    assert_eq!((live(&second), second.attached.len()), (1, 1));
}

#[test]
fn an_update_that_met_no_vswitch_is_acknowledged_once_there_is_one() {
    let (mut reconciler, mut vswitch, now) = started();
    reconciler.vswitch_down();
    reconciler.update(full(1, &[a_segment(1)]));
    assert!(vswitch.run(&mut reconciler, now).is_empty());
    reconciler.vswitch_up(&Position::default(), &[], now);
    assert_eq!(vswitch.run(&mut reconciler, now).len(), 1);
    assert_eq!(vswitch.program.segments.len(), 1);
}

#[test]
fn a_restarted_agent_goes_on_with_what_it_remembers() {
    let (mut reconciler, mut vswitch, now) = started();
    reconciler.update(full(1, &[a_segment(1), a_port("red/a", 1), a_remote("h2", &[1])]));
    vswitch.run(&mut reconciler, now);
    vswitch.run(&mut reconciler, now + DARK_MAX);
    let cached = reconciler.take_unsaved().unwrap();
    assert!(reconciler.take_unsaved().is_none());
    let before = vswitch.program.clone();

    let mut successor = Reconciler::restore(cached.clone(), now).unwrap();
    successor.vswitch_up(&vswitch.position.clone(), &vswitch.attached.clone(), now);
    assert!(vswitch.run(&mut successor, now).is_empty());
    assert_eq!(vswitch.program, before);
    assert_eq!(vswitch.attached.len(), 1, "the device was not opened again");

    let mut rebooted = Reconciler::restore(cached, now).unwrap();
    let mut blank = Vswitch::default();
    rebooted.vswitch_up(&Position::default(), &[], now);
    blank.run(&mut rebooted, now);
    assert_eq!((blank.program, blank.attached.len()), (before, 1));
}

#[test]
fn an_agent_without_a_memory_touches_nothing_until_it_is_told() {
    let (mut reconciler, mut vswitch, now) = started();
    let items = [a_segment(1), a_port("red/a", 1)];
    reconciler.update(full(1, &items));
    vswitch.run(&mut reconciler, now);
    vswitch.attached[0].device.id = PortId(7);
    let before = vswitch.program.clone();
    let mut blank = Reconciler::default();
    blank.vswitch_up(&vswitch.position.clone(), &vswitch.attached.clone(), now);
    assert!(vswitch.run(&mut blank, now).is_empty());
    assert_eq!((&vswitch.program, vswitch.attached.len()), (&before, 1));
    blank.update(full(2, &items));
    assert_eq!(vswitch.run(&mut blank, now).len(), 1);
    assert_eq!(vswitch.program.ports.len(), 1);
    assert_eq!(vswitch.attached.len(), 1);
}

#[test]
fn a_damaged_memory_is_refused() {
    let (mut reconciler, mut vswitch, now) = started();
    reconciler.update(full(1, &[a_segment(1)]));
    vswitch.run(&mut reconciler, now);
    let cached = reconciler.take_unsaved().unwrap();
    assert!(Reconciler::restore(Cached { program: vec![1, 2, 3], ..cached.clone() }, now).is_err());
    assert!(Reconciler::restore(Cached { program: Vec::new(), ..cached }, now).is_err());
}
