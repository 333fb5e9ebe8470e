//! A vswitch in threads of the test's process, and guests with real TAPs.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_program::client::Client;
use weft_program::connection::Connection;
use weft_program::message::{Hello, PROTOCOL, PortDevice, PortKind};
use weft_program::{Bundle, Op, PortId};
use weft_sys::process::{self, Capability};
use weft_sys::{netlink::Netlink, netns, tap, udp};
use weft_vswitch::{Config, RunError, run};

use super::*;

pub(crate) const LONG: Duration = Duration::from_secs(5);

/// A vswitch in threads of this process.
pub(crate) struct Process {
    dir: tempfile::TempDir,
    thread: Option<JoinHandle<Result<(), RunError>>>,
}

impl Process {
    pub(crate) fn start(workers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let control = dir.path().join("vswitch.sock");
        let thread = std::thread::spawn(move || run(Config { control, workers, spin: None }));
        Self { dir, thread: Some(thread) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("vswitch.sock")
    }

    pub(crate) fn connection(&self) -> Connection {
        let start = Instant::now();
        loop {
            match Connection::connect(&self.path(), LONG) {
                Ok(connection) => return connection,
                Err(error) => assert!(start.elapsed() < LONG, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::over(self.connection(), hello(PROTOCOL), LONG).unwrap()
    }

    pub(crate) fn end(mut self) {
        self.client().shutdown().unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
        assert!(!self.path().exists(), "the socket is left behind");
    }
}

pub(crate) fn hello(protocol: u16) -> Hello {
    Hello { protocol, features: Vec::new(), instance: "test".into(), build: "test".into() }
}

pub(crate) fn tap_device(id: PortId, fds: usize) -> PortDevice {
    PortDevice { kind: PortKind::Tap, fds, ..device(id, ALL_OFFLOADS) }
}

/// Whether namespaces and TAPs can be made here; prints why not.
pub(crate) fn may_make_devices() -> bool {
    let may = process::holds(Capability::NetAdmin) && process::holds(Capability::SysAdmin);
    if !may {
        eprintln!("SKIPPED: needs CAP_NET_ADMIN and CAP_SYS_ADMIN for namespaces and TAPs");
    }
    may
}

/// A guest in a namespace of its own, with a TAP.
pub(crate) struct Real {
    pub(crate) netns: OwnedFd,
    pub(crate) tap: tap::Tap,
}

impl Real {
    pub(crate) fn new(guest: Guest, queues: usize) -> Self {
        let netns = netns::create().unwrap();
        let tap = netns::in_namespace(netns.as_fd(), || {
            let (mac, mtu) = (Some(guest.mac().0), 1500);
            let request = tap::TapRequest { ifname: "eth0", queues, mac, mtu, tx_queue_len: 500 };
            let tap = tap::open(&request).unwrap();
            let mut netlink = Netlink::open().unwrap();
            netlink.set_up("eth0").unwrap();
            netlink.add_address("eth0", guest.ip().into(), 24).unwrap();
            tap
        });
        Self { netns, tap: tap.unwrap() }
    }

    pub(crate) fn attach(&self, client: &mut Client, guest: Guest) {
        let fds: Vec<BorrowedFd<'_>> = self.tap.queues.iter().map(AsFd::as_fd).collect();
        client.attach(tap_device(guest.port, fds.len()), &fds).unwrap();
    }
}

pub(crate) fn underlay_sockets(netns: &OwnedFd, host: usize, workers: usize) -> Vec<OwnedFd> {
    let open = |port: u16, gro: bool| {
        let addr = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 1 + host as u8).into(), port);
        let (receive_buffer, send_buffer) = (4 << 20, 4 << 20);
        udp::open(&udp::UdpRequest { addr, reuse_port: gro, gro, receive_buffer, send_buffer }).unwrap()
    };
    netns::in_namespace(netns.as_fd(), || {
        (0..workers).map(|_| open(4789, true)).chain((0..4).map(|index| open(50_000 + index, false))).collect()
    })
    .unwrap()
}

/// The program of `host` with the underlay's addresses on loopback.
pub(crate) fn on_loopback(host: usize) -> Bundle {
    let mut bundle = program(host);
    for op in &mut bundle.ops {
        if let Op::PutRemote(remote) = op {
            remote.addr = Ipv4Addr::new(127, 0, 0, 2 - host as u8).into();
        }
    }
    bundle
}

/// Sends `payload` over one TCP connection and reads it back out on the other side.
pub(crate) fn transfer(from: &OwnedFd, to: &OwnedFd, to_guest: Guest, payload: &[u8]) -> Vec<u8> {
    let listener = netns::in_namespace(to.as_fd(), || TcpListener::bind((to_guest.ip(), 7000)).unwrap()).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            all
        });
        let address = SocketAddr::new(to_guest.ip().into(), 7000);
        let mut stream =
            netns::in_namespace(from.as_fd(), || TcpStream::connect_timeout(&address, LONG).unwrap()).unwrap();
        stream.write_all(payload).unwrap();
        drop(stream);
        reader.join().unwrap()
    })
}

/// Whether the process's CPU time is this test's alone, as under nextest; prints why not.
pub(crate) fn has_process_alone() -> bool {
    let alone = std::env::var_os("NEXTEST").is_some();
    if !alone {
        eprintln!("SKIPPED: other tests of this process use CPU time too, run it with cargo nextest");
    }
    alone
}

/// What this process, and the vswitch in its threads, used so far.
pub(crate) fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> = stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // Behind the name come the state (a letter), then ten numbers, then utime and stime in ticks of 10 ms.
    Duration::from_millis((fields[10] + fields[11]) * 10)
}
