//! The process as an agent sees it: requests over the socket, descriptors in and out, worker threads, real devices.

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

use crate::common::real::*;
use crate::common::*;
use weft_program::client::{Client, ClientError};
use weft_program::message::{PROTOCOL, PortDevice, PortKind, Request, Response, Rung, Underlay};
use weft_program::{Op, PortId};
use weft_sys::netlink::Netlink;
use weft_sys::netns;
use weft_vswitch::{Config, RunError, run};

fn refused(error: ClientError) -> String {
    assert!(matches!(error, ClientError::Refused(_)), "{error}");
    error.to_string()
}

#[test]
fn a_session_attaches_applies_reads_and_ends() {
    let process = Process::start(2);
    let mut client = process.client();
    assert_eq!(std::fs::metadata(process.path()).unwrap().permissions().mode() & 0o777, 0o600);
    // A datagram socket reads and writes whole frames, as a TAP does.
    let (guest_a, ours_a) = UnixDatagram::pair().unwrap();
    let (guest_c, ours_c) = UnixDatagram::pair().unwrap();
    for socket in [&ours_a, &ours_c] {
        socket.set_nonblocking(true).unwrap();
    }
    client.attach(tap_device(A.port, 1), &[ours_a.as_fd()]).unwrap();
    client.attach(tap_device(C.port, 1), &[ours_c.as_fd()]).unwrap();
    client.apply(program(0)).unwrap();
    guest_c.set_read_timeout(Some(LONG)).unwrap();
    let frame = [&[0; 12][..], &udp(A, C, b"over threads", true)].concat();
    guest_a.send(&frame).unwrap();
    let mut buffer = [0; 2000];
    let len = guest_c.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..len], frame);

    let status = client.status().unwrap();
    assert_eq!((status.workers, status.position.generation, status.pid), (2, 1, std::process::id()));
    assert_eq!(
        client.ports().unwrap().iter().map(|port| (port.rx_frames, port.tx_frames)).collect::<Vec<_>>(),
        [(1, 0), (0, 1)]
    );
    assert_eq!(sum(&client.ledger().unwrap()).imbalance(), 0);
    assert!(client.rules().unwrap().iter().any(|rule| rule.frames == 1));
    assert_eq!(client.fdb().unwrap().len(), 3);
    client.detach(A.port).unwrap();
    assert_eq!(client.ports().unwrap().len(), 1);
    drop(client);
    process.end();
}

#[test]
fn a_successor_gets_the_descriptors_back_and_traffic_goes_on_meanwhile() {
    let process = Process::start(1);
    let mut client = process.client();
    let (guest, ours) = UnixDatagram::pair().unwrap();
    let (guest_c, ours_c) = UnixDatagram::pair().unwrap();
    for socket in [&ours, &ours_c] {
        socket.set_nonblocking(true).unwrap();
    }
    client.attach(tap_device(A.port, 1), &[ours.as_fd()]).unwrap();
    client.attach(tap_device(C.port, 1), &[ours_c.as_fd()]).unwrap();
    client.apply(program(0)).unwrap();
    drop((client, ours, ours_c));
    let frame = [&[0; 12][..], &udp(A, C, b"nobody watches", true)].concat();
    guest.send(&frame).unwrap();
    guest_c.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(guest_c.recv(&mut [0; 2000]).unwrap(), frame.len());

    let mut successor = process.client();
    let inventory = successor.inventory().unwrap();
    let found: Vec<_> = inventory.ports.iter().map(|(device, fds)| (device.id, fds.len())).collect();
    assert_eq!(found, [(A.port, 1), (C.port, 1)]);
    // The duplicate is the same socket: what we write there comes out at the guest.
    let (_, mut fds) = inventory.ports.into_iter().next().unwrap();
    UnixDatagram::from(fds.remove(0)).send(b"same").unwrap();
    assert_eq!(guest.recv(&mut [0; 10]).unwrap(), 4);
    drop(successor);
    process.end();
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason_and_the_session_goes_on() {
    let process = Process::start(1);
    let mut client = process.client();
    let null = std::fs::File::open("/dev/null").unwrap();
    let (_peer, socket) = UnixDatagram::pair().unwrap();
    let error = client.attach(tap_device(PortId(1), 2), &[socket.as_fd()]).unwrap_err();
    assert_eq!(refused(error), "the vswitch refused: 1 descriptors came with the request, it needs 2");
    let error = client.attach(tap_device(PortId(0), 1), &[socket.as_fd()]).unwrap_err();
    assert!(refused(error).contains("out of range"));
    let error = client.attach(tap_device(PortId(1), 1), &[null.as_fd()]).unwrap_err();
    assert!(refused(error).contains("cannot wait"));
    let mut memory = tap_device(PortId(1), 0);
    memory.kind = PortKind::Memory;
    assert!(refused(client.attach(memory, &[]).unwrap_err()).contains("memory"));
    client.attach(tap_device(PortId(1), 1), &[socket.as_fd()]).unwrap();
    assert!(
        refused(client.attach(tap_device(PortId(1), 1), &[socket.as_fd()]).unwrap_err()).contains("attached already")
    );
    assert!(refused(client.detach(PortId(7)).unwrap_err()).contains("not attached"));
    let underlay = Underlay { rx_fds: 1, ..underlay(0, Rung::Batch) };
    assert!(refused(client.attach_underlay(underlay, &[socket.as_fd()]).unwrap_err()).contains("at least one to send"));
    let mut dangling = program(0);
    dangling.ops.retain(|op| !matches!(op, Op::PutSegment(_)));
    assert!(refused(client.apply(dangling).unwrap_err()).contains("refers to"));
    assert_eq!(client.status().unwrap().position, Default::default(), "nothing of it is in force");
    drop(client);
    process.end();
}

#[test]
fn bad_messages_and_too_many_connections_are_refused_and_never_hang_it() {
    let process = Process::start(1);
    let mut early = process.connection();
    early.send(&Request::Status, &[]).unwrap();
    let (response, _) = early.receive::<Response>(Some(LONG)).unwrap();
    assert!(matches!(response, Response::Refused(_)), "{response:?}");
    early.send(&Request::Hello(hello(99)), &[]).unwrap();
    let (response, _) = early.receive::<Response>(Some(LONG)).unwrap();
    assert!(matches!(response, Response::Refused(_)), "{response:?}");
    (&mut early.stream()).write_all(&[3, 0, 0, 0, 0xff, 0xff, 0xff]).unwrap();
    let (response, _) = early.receive::<Response>(Some(LONG)).unwrap();
    assert!(matches!(response, Response::Refused(_)), "{response:?}");
    (&mut early.stream()).write_all(&[0xff; 8]).unwrap();
    assert!(early.receive::<Response>(Some(LONG)).is_err(), "a length past the bound ends the connection");
    // Half a message holds up nobody else.
    let half = UnixStream::connect(process.path()).unwrap();
    (&half).write_all(&[100, 0, 0, 0, 1]).unwrap();
    let mut clients: Vec<_> = (0..7).map(|_| process.client()).collect();
    let mut ninth = process.connection();
    let (response, _) = ninth.receive::<Response>(Some(LONG)).unwrap();
    assert!(matches!(response, Response::Refused(_)), "{response:?}");
    clients.iter_mut().for_each(|client| drop(client.status().unwrap()));
    drop((clients, half));
    std::thread::sleep(Duration::from_millis(50));
    process.end();
}

#[test]
fn a_second_vswitch_at_the_same_socket_is_refused_and_a_stale_socket_is_replaced() {
    let process = Process::start(1);
    drop(process.client());
    assert!(matches!(run(Config { control: process.path(), workers: 1, spin: None }), Err(RunError::InUse(_))));
    process.end();
    let dir = tempfile::tempdir().unwrap();
    let control = dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&control).unwrap());
    let path = control.clone();
    let thread = std::thread::spawn(move || run(Config { control, workers: 1, spin: None }));
    let start = Instant::now();
    let mut client = loop {
        match Client::connect(&path, hello(PROTOCOL), LONG) {
            Ok(client) => break client,
            Err(error) => assert!(start.elapsed() < LONG, "{error}"),
        }
    };
    client.shutdown().unwrap();
    thread.join().unwrap().unwrap();
}

#[test]
fn tcp_crosses_real_taps_and_real_sockets_on_every_rung() {
    if !may_make_devices() {
        return;
    }
    let payload: Vec<u8> = (0..8_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (rung, workers) in [(Rung::Single, 1), (Rung::Batch, 2), (Rung::Segment, 1), (Rung::Segment, 2)] {
        let wire = netns::create().unwrap();
        let (a, b, c) = (Real::new(A, workers), Real::new(B, workers), Real::new(C, 1));
        let processes = [Process::start(workers), Process::start(workers)];
        let mut clients = processes.each_ref().map(Process::client);
        a.attach(&mut clients[0], A);
        c.attach(&mut clients[0], C);
        b.attach(&mut clients[1], B);
        for (host, client) in clients.iter_mut().enumerate() {
            let sockets = underlay_sockets(&wire, host, workers);
            let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            let addr = Ipv4Addr::new(127, 0, 0, 1 + host as u8).into();
            let config = Underlay { addr, rx_fds: workers, tx_fds: 4, ..underlay(host, rung) };
            client.attach_underlay(config, &fds).unwrap();
            client.apply(on_loopback(host)).unwrap();
        }
        let start = Instant::now();
        assert!(transfer(&a.netns, &b.netns, B, &payload) == payload, "{rung:?}");
        assert!(transfer(&b.netns, &a.netns, A, &payload) == payload, "{rung:?} back");
        assert!(transfer(&a.netns, &c.netns, C, &payload) == payload, "on one host");
        let status = clients[0].status().unwrap();
        assert_eq!(status.rung, Some(rung), "{:?}", status.rungs_not_taken);
        for client in &mut clients {
            let report = client.ledger().unwrap();
            let ledger = sum(&report);
            assert_eq!(ledger.imbalance(), 0, "{ledger:?}");
            eprintln!("{rung:?} x{workers} {:?} {ledger:?} {:?} {:?}", start.elapsed(), report.io, report.drops);
        }
        drop(clients);
        processes.into_iter().for_each(Process::end);
    }
}

#[test]
fn a_veth_port_passes_super_frames_to_and_from_a_tap() {
    if !may_make_devices() {
        return;
    }
    let payload: Vec<u8> = (0..4_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (outside, inside) = (netns::create().unwrap(), netns::create().unwrap());
    let socket = netns::in_namespace(outside.as_fd(), || {
        let mut netlink = Netlink::open().unwrap();
        netlink.add_veth("c-outside", "c-inside").unwrap();
        netlink.set_mac("c-inside", C.mac().0).unwrap();
        netlink.move_link("c-inside", inside.as_fd()).unwrap();
        netlink.set_up("c-outside").unwrap();
        let request =
            weft_sys::packet_socket::PacketRequest { ifname: "c-outside", fanout: None, receive_buffer: 8 << 20 };
        weft_sys::packet_socket::open(&request).unwrap()
    })
    .unwrap();
    netns::in_namespace(inside.as_fd(), || {
        let mut netlink = Netlink::open().unwrap();
        netlink.set_up("c-inside").unwrap();
        netlink.add_address("c-inside", C.ip().into(), 24).unwrap();
    })
    .unwrap();
    let a = Real::new(A, 1);
    let process = Process::start(1);
    let mut client = process.client();
    a.attach(&mut client, A);
    let netdev = PortDevice { kind: PortKind::Netdev, ..tap_device(C.port, 1) };
    client.attach(netdev, &[socket.as_fd()]).unwrap();
    client.apply(program(0)).unwrap();
    assert!(transfer(&a.netns, &inside, C, &payload) == payload);
    assert!(transfer(&inside, &a.netns, A, &payload) == payload);
    let report = client.ledger().unwrap();
    assert_eq!(sum(&report).imbalance(), 0);
    let count = |name: &str| report.io.iter().find(|(known, _)| known == name).unwrap().1;
    assert!(count("rx_super_frames") > 50, "super-frames pass whole: {:?}", report.io);
    assert_eq!(count("segmentations"), 0);
    drop(client);
    process.end();
}

#[test]
fn a_deleted_device_is_reported_gone_and_costs_nothing_from_then_on() {
    if !may_make_devices() || !has_process_alone() {
        return;
    }
    let a = Real::new(A, 1);
    let process = Process::start(1);
    let mut client = process.client();
    a.attach(&mut client, A);
    client.apply(program(0)).unwrap();
    assert!(!client.ports().unwrap()[0].gone);
    netns::in_namespace(a.netns.as_fd(), || Netlink::open().unwrap().delete_link("eth0").unwrap()).unwrap();
    let start = Instant::now();
    while !client.ports().unwrap()[0].gone {
        assert!(start.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(5));
    }
    let before = cpu_time();
    std::thread::sleep(Duration::from_millis(500));
    assert!(cpu_time() - before < Duration::from_millis(50), "a worker spins on the dead queue");
    client.detach(A.port).unwrap();
    drop(client);
    process.end();
}

#[test]
fn an_idle_vswitch_costs_nothing() {
    if !has_process_alone() {
        return;
    }
    let process = Process::start(2);
    let mut client = process.client();
    let (_guest, ours) = UnixDatagram::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    client.attach(tap_device(A.port, 1), &[ours.as_fd()]).unwrap();
    client.apply(program(0)).unwrap();
    let before = cpu_time();
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_time() - before;
    assert!(used < Duration::from_millis(20), "{used:?} in 2 s");
    drop(client);
    process.end();
}
