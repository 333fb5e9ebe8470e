//! The whole deciding half, driven as a shell would.

use super::*;
use crate::session::GREETING_MAX;
use crate::supervise::POLL_EVERY;
use crate::testing::{a_port, a_segment, device, program};
use crate::work::{Polled, Started};
use weft_program::PortId;

fn core(cached: Option<Cached>) -> (Core, Instant) {
    let identity =
        Identity { instance: "agent-1".into(), build: "test".into(), underlay: [192, 0, 2, 1].into(), udp_port: 4789 };
    let now = Instant::now();
    let (core, restored) = Core::new(identity, 1, cached, now);
    restored.unwrap();
    (core, now)
}

fn underlay() -> Underlay {
    let addr = [192, 0, 2, 1].into();
    Underlay {
        addr,
        udp_port: 4789,
        rx_fds: 1,
        tx_fds: 1,
        mtu: 1600,
        rung: Rung::Batch,
        tunnel: None,
        refused: Vec::new(),
    }
}

/// Does each piece of work as a healthy host would.
fn answer(work: Work) -> Done {
    match work {
        Work::StartVswitch => {
            Done::Started(Ok(Started { instance: "v1".into(), pid: 7, workers: 1, ..Started::default() }))
        }
        Work::OpenUnderlay => Done::Underlay(Ok(underlay())),
        Work::Open(request) => Done::Opened { id: request.id, result: Ok(device(&request)) },
        Work::Close(id) => Done::Closed(id),
        Work::Apply(_) => Done::Applied(Ok(())),
        Work::Poll => Done::Polled(Ok(Polled { rung: Some(Rung::Batch), ..Polled::default() })),
        Work::Query { id, .. } => Done::Queried { id, result: Ok(b"[]".to_vec()) },
        Work::Save(_) => Done::Saved(Ok(())),
    }
}

/// Handles an event and all that follows from it; gives what was said and wished for.
fn settle(core: &mut Core, now: Instant, event: Event) -> Vec<Output> {
    let mut said = Vec::new();
    let mut todo = core.handle(now, event);
    while !todo.is_empty() {
        for output in std::mem::take(&mut todo) {
            match output {
                Output::Do(work) => todo.extend(core.handle(now, Event::Done(Box::new(answer(*work))))),
                other => said.push(other),
            }
        }
    }
    said
}

fn from_controller(kind: controller_message::Kind) -> Event {
    Event::Message(1, Box::new(ControllerMessage { kind: Some(kind) }))
}

fn greet(core: &mut Core, now: Instant) -> Vec<Output> {
    let hello = proto::ControllerHello { protocol: PROTOCOL, ..proto::ControllerHello::default() };
    settle(core, now, Event::Connected(1));
    settle(core, now, from_controller(controller_message::Kind::Hello(hello)))
}

fn full(generation: u64) -> controller_message::Kind {
    let host = program(&[a_segment(1), a_port("red/a", 1)]);
    let position = proto::Position { store_id: "s".into(), generation, digest: host.digest() };
    let kind = Some(proto::update::Kind::Full(host.to_wire()));
    controller_message::Kind::Update(proto::Update { position: Some(position), kind })
}

fn kinds(outputs: &[Output]) -> Vec<&agent_message::Kind> {
    outputs
        .iter()
        .filter_map(|output| match output {
            Output::Send(_, message) => message.kind.as_ref(),
            _ => None,
        })
        .collect()
}

#[test]
fn a_host_comes_up_says_hello_and_acknowledges_its_program() {
    let (mut core, now) = core(None);
    let said = settle(&mut core, now, Event::Tick);
    assert!(matches!(said[..], [Output::Connect(1)]), "{said:?}");
    let hello = settle(&mut core, now, Event::Connected(1));
    let [agent_message::Kind::Hello(hello)] = kinds(&hello)[..] else { panic!("{hello:?}") };
    assert_eq!((hello.position.as_ref(), hello.underlay.as_ref().unwrap().mtu), (None, 1600));
    let said = greet(&mut core, now);
    assert!(matches!(kinds(&said)[..], [agent_message::Kind::Status(_)]), "{said:?}");
    let said = settle(&mut core, now, from_controller(full(3)));
    let [agent_message::Kind::Ack(ack)] = kinds(&said)[..] else { panic!("{said:?}") };
    assert_eq!((ack.position.as_ref().unwrap().generation, ack.error.as_str()), (3, ""));
    let open = proto::Open { generation: 3 };
    assert!(kinds(&settle(&mut core, now, from_controller(controller_message::Kind::Open(open)))).is_empty());
    assert_eq!(core.next_wake(), Some(now + STATUS_GAP_MIN), "the status is not sent more often");
    let said = settle(&mut core, now + STATUS_GAP_MIN, Event::Tick);
    let [agent_message::Kind::Status(status)] = kinds(&said)[..] else { panic!("{said:?}") };
    assert_eq!(status.ports[0].state(), proto::PortState::Live);
    assert_eq!((status.vswitch_pid, status.rungs[0].name.as_str()), (7, "batch"));
}

#[test]
fn before_a_hello_nothing_else_is_heard_and_silence_ends_the_session() {
    let (mut core, now) = core(None);
    settle(&mut core, now, Event::Tick);
    settle(&mut core, now, Event::Connected(1));
    settle(&mut core, now, from_controller(full(1)));
    assert_eq!(core.position().generation, 0);
    let said = settle(&mut core, now + GREETING_MAX, Event::Tick);
    assert!(said.iter().any(|o| matches!(o, Output::Disconnect(1))), "{said:?}");
}

#[test]
fn a_dead_vswitch_is_replaced_and_gets_program_and_ports_again() {
    let (mut core, now) = core(None);
    settle(&mut core, now, Event::Tick);
    greet(&mut core, now);
    settle(&mut core, now, from_controller(full(1)));
    let mut work = Vec::new();
    let ended = Event::VswitchEnded { instance: "v1".into(), why: "killed".into() };
    let mut todo = core.handle(now, ended);
    while let Some(output) = todo.pop() {
        let Output::Do(next) = output else { continue };
        work.push(format!("{next:?}"));
        todo.extend(core.handle(now, Event::Done(Box::new(answer(*next)))));
    }
    let count = |what: &str| work.iter().filter(|w| w.starts_with(what)).count();
    assert_eq!(
        (count("StartVswitch"), count("OpenUnderlay"), count("Apply"), count("Open(")),
        (1, 1, 1, 1),
        "{work:?}"
    );
    let stale = Event::VswitchEnded { instance: "v0".into(), why: "killed".into() };
    assert!(!core.handle(now, stale).iter().any(|o| matches!(o, Output::Do(w) if matches!(**w, Work::StartVswitch))));
}

#[test]
fn no_port_is_called_live_while_there_is_no_vswitch() {
    let (mut core, now) = core(None);
    settle(&mut core, now, Event::Tick);
    greet(&mut core, now);
    settle(&mut core, now, from_controller(full(1)));
    settle(&mut core, now, from_controller(controller_message::Kind::Open(proto::Open { generation: 1 })));
    let state = |said: &[Output]| match kinds(said)[..] {
        [agent_message::Kind::Status(status)] => status.ports[0].state(),
        _ => panic!("{said:?}"),
    };
    let later = now + STATUS_GAP_MIN;
    assert_eq!(state(&settle(&mut core, later, Event::Tick)), proto::PortState::Live);
    let (ended, replaced) = (later + STATUS_GAP_MIN, later + 2 * STATUS_GAP_MIN);
    let killed = Event::VswitchEnded { instance: "v1".into(), why: "killed".into() };
    let outputs = core.handle(ended, killed);
    assert_eq!(state(&outputs), proto::PortState::Dark);
    for output in outputs {
        if let Output::Do(work) = output {
            settle(&mut core, ended, Event::Done(Box::new(answer(*work))));
        }
    }
    assert_eq!(state(&settle(&mut core, replaced, Event::Tick)), proto::PortState::Live);
}

#[test]
fn a_gone_device_is_opened_again() {
    let (mut core, now) = core(None);
    settle(&mut core, now, Event::Tick);
    greet(&mut core, now);
    settle(&mut core, now, from_controller(full(1)));
    let later = now + POLL_EVERY;
    let outputs = core.handle(later, Event::Tick);
    assert!(outputs.iter().any(|o| matches!(o, Output::Do(w) if matches!(**w, Work::Poll))), "{outputs:?}");
    let polled = Polled { gone: vec![PortId(1)], ..Polled::default() };
    let outputs = core.handle(later, Event::Done(Box::new(Done::Polled(Ok(polled)))));
    assert!(outputs.iter().any(|o| matches!(o, Output::Do(w) if matches!(**w, Work::Close(PortId(1))))), "{outputs:?}");
    let outputs = core.handle(later, Event::Done(Box::new(Done::Closed(PortId(1)))));
    assert!(outputs.iter().any(|o| matches!(o, Output::Do(w) if matches!(**w, Work::Open(_)))), "{outputs:?}");
}

#[test]
fn questions_are_answered_up_to_a_bound() {
    let (mut core, now) = core(None);
    settle(&mut core, now, Event::Tick);
    greet(&mut core, now);
    let ask = |id| {
        let query = proto::Query { id, kind: proto::QueryKind::Flows.into() };
        from_controller(controller_message::Kind::Query(query))
    };
    let mut refused = 0;
    for id in 0..QUERIES_MAX as u64 + 3 {
        refused += kinds(&core.handle(now, ask(id))).len();
    }
    assert_eq!(refused, 3);
    let said = core.handle(now, Event::Done(Box::new(Done::Queried { id: 0, result: Ok(b"[]".to_vec()) })));
    assert!(matches!(kinds(&said)[..], [agent_message::Kind::Report(_)]));
}

#[test]
fn a_refused_host_tries_again_later() {
    let (mut core, now) = core(None);
    settle(&mut core, now, Event::Tick);
    settle(&mut core, now, Event::Connected(1));
    let refuse = controller_message::Kind::Refuse(proto::Refuse { why: "unknown host".into() });
    let said = settle(&mut core, now, from_controller(refuse));
    assert!(matches!(said[..], [Output::Disconnect(1)]), "{said:?}");
    let later = now + crate::session::REFUSED_WAIT;
    assert!(settle(&mut core, later, Event::Tick).iter().any(|o| matches!(o, Output::Connect(2))));
}
