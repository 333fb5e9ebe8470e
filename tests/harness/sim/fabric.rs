//! Vswitches in this process by a manifest, without agents or a controller's process: compiled, lowered, applied, live.
//!
//! For suites that bring guests of their own, such as `smoltcp` hosts. The underlay loses frames by seed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use weft_agent::{Names, lower};
use weft_controller::compile::compile;
use weft_controller::manifest::{Request, Verb, apply, documents};
use weft_controller::store::{MemoryStore, Store};
use weft_program::message::{
    Ledger, LedgerReport, Offloads, PortDevice, PortKind, Request as Ask, Response, Rung, Underlay,
};
use weft_program::{Bundle, Op, Position, Program};
use weft_vswitch::Inline;
use weft_vswitch::control::Control;
use weft_vswitch::port::MemoryEnd;
use weft_vswitch::underlay::{MemoryDatagram, UnderlayEnd};

use super::random::Random;

/// How a fabric is made.
#[derive(Debug, Clone, Copy)]
pub struct Make {
    /// Says what is lost, and keys the hash tables.
    pub seed: u64,
    /// The rung of every underlay.
    pub rung: Rung,
    /// What every guest's device takes off our hands.
    pub offloads: Offloads,
    /// Workers of every vswitch.
    pub workers: usize,
    /// Of 100 datagrams, how many are lost.
    pub loss_percent: usize,
}

/// Vswitches and what is between them.
pub struct Fabric {
    hosts: Vec<Node>,
    guests: BTreeMap<String, MemoryEnd>,
    random: Random,
    loss_percent: usize,
    /// Datagrams that were lost.
    pub lost: u64,
}

struct Node {
    addr: IpAddr,
    vswitch: Control<Inline>,
    underlay: UnderlayEnd,
}

impl Fabric {
    /// Applies the manifest; every host of it gets a vswitch, every port a device.
    ///
    /// # Panics
    /// When any part refuses it.
    pub fn new(make: Make, manifest: &str, now: Instant) -> Self {
        let mut random = Random::new(make.seed);
        let store = MemoryStore::new("fabric");
        let documents = documents(manifest).expect("the manifest is YAML");
        let request = Request { verb: Verb::Put, documents: &documents, revisions: Vec::new(), dry_run: false };
        apply(&store, &request, &mut || random.bits()).expect("the manifest is valid");
        let snapshot = store.snapshot();
        let (mut hosts, mut guests) = (Vec::new(), BTreeMap::new());
        for (name, program) in compile(&snapshot) {
            let addr = snapshot.host(&name).expect("it was compiled from the snapshot").spec.address;
            let mut names = Names::default();
            let mut program = lower(&program, &mut names).expect("what the compiler makes can be lowered");
            let mut vswitch = Control::inline(make.workers, random.bits(), now).expect("epoll and eventfd");
            let rung = make.rung;
            let config = Underlay {
                addr,
                udp_port: 4789,
                rx_fds: 0,
                tx_fds: 0,
                mtu: 1600,
                rung,
                tunnel: None,
                refused: Vec::new(),
            };
            let underlay = vswitch.attach_memory_underlay(config, QUEUE_LEN).expect("the underlay fits");
            for port in program.ports.values_mut() {
                port.live = true;
                let name = names.port_name(port.id).expect("it was lowered by these names").to_owned();
                let device = device(port.id, &name, make.offloads);
                guests.insert(name, vswitch.attach_memory(device, QUEUE_LEN).expect("the port fits"));
            }
            install(&mut vswitch, &program, now);
            hosts.push(Node { addr, vswitch, underlay });
        }
        Self { hosts, guests, random, loss_percent: make.loss_percent, lost: 0 }
    }

    /// The guest's end of a port.
    ///
    /// # Panics
    /// When the manifest has no such port.
    pub fn guest(&self, port: &str) -> MemoryEnd {
        self.guests[port].clone()
    }

    /// Carries all that waits, over the underlay too; how many frames and datagrams moved.
    pub fn step(&mut self, now: Instant) -> usize {
        let mut moved = 0;
        for node in &mut self.hosts {
            moved += std::iter::repeat_with(|| node.vswitch.step(now)).take_while(|frames| *frames > 0).sum::<usize>();
        }
        for from in 0..self.hosts.len() {
            while let Some(datagram) = self.hosts[from].underlay.pop() {
                moved += 1;
                self.carry(from, datagram);
            }
        }
        moved
    }

    fn carry(&mut self, from: usize, datagram: MemoryDatagram) {
        if self.random.chance(self.loss_percent) {
            self.lost += 1;
            return;
        }
        let source = SocketAddr::new(self.hosts[from].addr, 50_000);
        let to = self.hosts.iter().find(|node| node.addr == datagram.addr.ip()).expect("a host of the manifest");
        self.lost += u64::from(!to.underlay.push(MemoryDatagram { addr: source, ..datagram }));
    }

    /// The counters of every host.
    ///
    /// # Panics
    /// When a ledger does not balance.
    pub fn ledgers(&mut self, now: Instant) -> Vec<LedgerReport> {
        let mut reports = Vec::new();
        for node in &mut self.hosts {
            let Response::Ledger(report) = ask(&mut node.vswitch, now, Ask::Ledger) else { panic!("no ledger") };
            let mut sum = Ledger::default();
            report.workers.iter().for_each(|worker| sum += *worker);
            assert_eq!(sum.imbalance(), 0, "{}: {report:?}", node.addr);
            reports.push(report);
        }
        reports
    }
}

fn install(vswitch: &mut Control<Inline>, program: &Program, now: Instant) {
    let position = Position { store_id: "fabric".into(), generation: 1, digest: String::new() };
    let ops: Vec<Op> = Program::default().diff(program);
    let answer = ask(vswitch, now, Ask::Apply(Bundle { replace: true, ops, position }));
    assert_eq!(answer, Response::Done);
}

fn ask(vswitch: &mut Control<Inline>, now: Instant, request: Ask) -> Response {
    vswitch.handle(now, request, Vec::new()).pop().expect("every request is answered").response
}

fn device(id: weft_program::PortId, name: &str, offloads: Offloads) -> PortDevice {
    let (netns, ifname) = (String::new(), String::new());
    PortDevice { id, name: name.into(), kind: PortKind::Memory, fds: 0, mtu: 1500, offloads, netns, ifname }
}

const QUEUE_LEN: usize = 1024;
