//! A worker: takes bursts of frames from its queues and carries each to its end.
//!
//! The path of a frame: [`Worker::round`] -> `Datapath::carry`: `receive_*`, `forward` (parse, classify,
//! `Outputs::execute`), `Outputs::flush`. Run to completion: nothing is left over when a round ends, so every command
//! between two rounds meets a worker at rest. One snapshot of the tables per round.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_program::PortId;
use weft_program::message::{DropReport, Ledger, Rung};
use weft_sys::epoll::{Epoll, Interest, Waker};

use crate::counters::{IoCounters, PortCounters};
use crate::learn::Learned;
use crate::port::Attached;
use crate::publish::{Publisher, Reader};
use crate::underlay::{AttachedUnderlay, Tunnel};

mod datapath;
pub mod inline;
pub(crate) mod ports;
pub mod threads;

pub(crate) use datapath::Origin;

use datapath::{BURST_FRAMES, Datapath, Ready};
use ports::Port;

/// One worker; it belongs to one thread at a time.
pub struct Worker {
    reader: Reader,
    datapath: Datapath,
    epoll: Epoll,
    waker: Arc<Waker>,
    /// Descriptors in `epoll` besides the waker.
    polled: usize,
    /// Queues without a descriptor, asked in each round.
    unpolled: Vec<(PortId, usize)>,
    ready: Vec<Ready>,
    index: usize,
    workers: usize,
    seed: u64,
    /// The segments, remotes or sockets may be others: there is something to do without a frame.
    news: bool,
}

/// What a worker can be told between two rounds.
#[derive(Debug, Clone)]
pub enum Command {
    /// Reads and writes this device from now on.
    Attach(Arc<Attached>),
    /// Lets go of this port.
    Detach(PortId),
    /// Sends and receives over these sockets, in place of those before.
    AttachUnderlay(Arc<AttachedUnderlay>),
    /// Looks at the segments and remotes of the tables now, not with the next frame.
    LookAtTables,
    /// Says what it counted.
    Report,
}

/// What a worker answers.
#[derive(Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// Not done, and why.
    Refused(String),
    /// What it counted.
    Report(Box<WorkerReport>),
}

/// What a worker counted, all at one batch boundary.
#[derive(Debug, Clone)]
pub struct WorkerReport {
    /// The balance of its frames.
    pub ledger: Ledger,
    /// Its part of each port's counters.
    pub ports: BTreeMap<PortId, PortCounters>,
    /// Ports whose device it found gone.
    pub gone: BTreeSet<PortId>,
    /// Its drops.
    pub drops: Vec<DropReport>,
    /// Its system calls.
    pub io: IoCounters,
    /// Frames per cache level, by name.
    pub cache: [(&'static str, u64); 5],
    /// The rung it sends on.
    pub rung: Option<Rung>,
    /// Better rungs, and why they are not taken.
    pub rungs_not_taken: Vec<(Rung, String)>,
}

/// Why a worker stopped waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// There may be frames.
    Frames,
    /// Somebody woke it: there is an order.
    Order,
}

impl Worker {
    /// Worker `index` of `workers`; `seed` keys its hash tables.
    pub fn new(
        index: usize,
        workers: usize,
        publisher: &Arc<Publisher>,
        learned: Arc<Learned>,
        seed: u64,
        waker: Arc<Waker>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(&*waker, TOKEN_WAKER, Interest::Read)?;
        let datapath = Datapath::new(seed, learned);
        let (unpolled, ready) = (Vec::new(), Vec::new());
        let (reader, polled, news) = (publisher.reader(index), 0, false);
        Ok(Self { reader, datapath, epoll, waker, polled, unpolled, ready, index, workers, seed, news })
    }

    /// One round without waiting; how many frames came in.
    pub fn step(&mut self, now: Instant) -> usize {
        self.look();
        if self.polled > 0 && self.wait(Some(Duration::ZERO)).is_err() {
            return 0;
        }
        self.round(now)
    }

    /// Waits until there is something to do; none waits for ever. Ports without a descriptor do not wake it.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Wake> {
        self.look();
        let mut wake = Wake::Frames;
        for event in self.epoll.wait(timeout)? {
            match event.token {
                TOKEN_WAKER => {
                    self.waker.drain();
                    wake = Wake::Order;
                }
                TOKEN_UNDERLAY => self.ready.push(Ready::Underlay),
                token => self.ready.push(Ready::Port {
                    id: PortId((token >> 16) as u32),
                    queue: (token & 0xffff) as usize,
                    failed: event.gone,
                }),
            }
        }
        Ok(wake)
    }

    /// When there is something to do though nothing came in.
    pub fn next_wake(&self) -> Option<Instant> {
        self.datapath.outputs.tunnel.as_ref().and_then(Tunnel::next_wake)
    }

    /// Carries one burst of each ready queue to its end; how many frames came in.
    pub fn round(&mut self, now: Instant) -> usize {
        let due = mem::take(&mut self.news) || self.next_wake().is_some_and(|at| at <= now);
        if self.ready.is_empty() && !due {
            return 0;
        }
        let tables = self.reader.begin();
        let second = self.datapath.begin(&tables, now);
        let before = self.datapath.outputs.counters.ledger.rx;
        for ready in self.ready.drain(..) {
            self.datapath.carry(&tables, second, now, ready);
            if let Ready::Port { id, .. } = ready
                && let Some(port) = self.datapath.outputs.ports.get(id).filter(|port| port.gone)
            {
                forget_queues(&self.epoll, &mut self.polled, port);
            }
        }
        if due {
            self.datapath.outputs.probe(&tables, now);
        }
        let counters = &mut self.datapath.outputs.counters;
        let frames = counters.ledger.rx - before;
        counters.io.rounds += u64::from(frames > 0);
        frames as usize
    }

    /// What it did so far.
    pub const fn io(&self) -> &IoCounters {
        &self.datapath.outputs.counters.io
    }

    /// Does what it is told; to be called between two rounds only.
    pub fn command(&mut self, command: &Command) -> Reply {
        // What was seen ready may be another device by the end of this; the kernel tells again.
        self.ready.clear();
        match command {
            Command::Attach(attached) => done(self.attach(attached)),
            Command::Detach(id) => {
                self.detach(*id);
                Reply::Done
            }
            Command::AttachUnderlay(underlay) => done(self.attach_underlay(underlay)),
            Command::LookAtTables => {
                self.news = true;
                Reply::Done
            }
            Command::Report => Reply::Report(Box::new(self.datapath.report())),
        }
    }

    /// Ports and sockets that no descriptor tells about.
    fn look(&mut self) {
        self.ready.clear();
        for &(id, queue) in &self.unpolled {
            let port = self.datapath.outputs.ports.get(id);
            if port.is_some_and(|port| !port.gone && port.attached.may_be_ready(queue)) {
                self.ready.push(Ready::Port { id, queue, failed: false });
            }
        }
        if self.datapath.outputs.tunnel.as_ref().is_some_and(Tunnel::has_memory_input) {
            self.ready.push(Ready::Underlay);
        }
    }

    fn attach(&mut self, attached: &Arc<Attached>) -> io::Result<()> {
        let id = attached.device.id;
        let rx_queues = attached.rx_queues(self.index, self.workers);
        let tx_queue = attached.tx_queue(self.index);
        let port = Port {
            attached: attached.clone(),
            rx_queues: rx_queues.clone(),
            tx_queue,
            gone: false,
            expected: BURST_FRAMES,
            // Grows with its first bursts: most ports of a large host are idle.
            out: Vec::new(),
            answers: None,
        };
        // In the table first: whoever refuses the rest is told to detach it.
        self.datapath.outputs.ports.insert(id, port);
        for queue in rx_queues {
            match attached.pollable(queue) {
                Some(fd) => {
                    self.epoll.add(fd, u64::from(id.0) << 16 | queue as u64, Interest::Read)?;
                    self.polled += 1;
                }
                None => self.unpolled.push((id, queue)),
            }
        }
        Ok(())
    }

    fn detach(&mut self, id: PortId) {
        if let Some(port) = self.datapath.outputs.ports.remove(id) {
            if !port.gone {
                forget_queues(&self.epoll, &mut self.polled, &port);
            }
            self.unpolled.retain(|(unpolled, _)| *unpolled != id);
            self.datapath.outputs.counters.forget_port(id);
        }
    }

    fn attach_underlay(&mut self, attached: &Arc<AttachedUnderlay>) -> io::Result<()> {
        if let Some(mut former) = self.datapath.outputs.tunnel.take() {
            former.release(&mut self.datapath.outputs.pool);
            if former.rx_fd().is_some_and(|fd| self.epoll.remove(fd).is_ok()) {
                self.polled -= 1;
            }
        }
        attached.seed_probes(self.seed);
        let tunnel = Tunnel::new(attached.clone(), self.index);
        if let Some(fd) = tunnel.rx_fd() {
            self.epoll.add(fd, TOKEN_UNDERLAY, Interest::Read)?;
            self.polled += 1;
        }
        self.datapath.set_tunnel(tunnel);
        self.news = true;
        Ok(())
    }
}

impl Reply {
    /// The report, if it is one.
    pub fn report(self) -> Option<WorkerReport> {
        if let Self::Report(report) = self { Some(*report) } else { None }
    }

    /// Why it was not done, if it was not.
    pub fn refusal(self) -> Option<String> {
        if let Self::Refused(why) = self { Some(why) } else { None }
    }
}

fn done(result: io::Result<()>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Refused(format!("a worker cannot wait for the descriptor: {error}")),
    }
}

/// Duplicates of the descriptors are open elsewhere, so closing ours would not take them out of the set.
fn forget_queues(epoll: &Epoll, polled: &mut usize, port: &Port) {
    for fd in port.rx_queues.iter().filter_map(|queue| port.attached.pollable(*queue)) {
        // Refused only when it is not in the set.
        *polled -= usize::from(epoll.remove(fd).is_ok());
    }
}

const TOKEN_WAKER: u64 = u64::MAX;
const TOKEN_UNDERLAY: u64 = u64::MAX - 1;

#[cfg(test)]
mod tests {
    use weft_program::message::{Offloads, PortDevice, PortKind, Request, Response};

    use super::*;
    use crate::control::Control;

    fn vswitch() -> (Control<inline::Inline>, crate::port::MemoryEnd) {
        let mut vswitch = Control::inline(1, 1, Instant::now()).unwrap();
        let (name, netns, ifname) = Default::default();
        let (id, kind, offloads) = (PortId(1), PortKind::Memory, Offloads::default());
        let device = PortDevice { id, name, kind, fds: 0, mtu: 1500, offloads, netns, ifname };
        let end = vswitch.attach_memory(device, 1000).unwrap();
        (vswitch, end)
    }

    fn imbalance(vswitch: &mut Control<inline::Inline>) -> i128 {
        let answer = vswitch.handle(Instant::now(), Request::Ledger, Vec::new()).pop().unwrap();
        let Response::Ledger(report) = answer.response else { panic!("{answer:?}") };
        report.workers.iter().map(Ledger::imbalance).sum()
    }

    #[test]
    fn the_ledger_balances_and_a_sabotaged_counter_is_seen() {
        let (mut vswitch, end) = vswitch();
        for _ in 0..40 {
            assert!(end.push(&[2; 60], weft_packet::Offload::default()));
        }
        vswitch.settle(Instant::now(), 10);
        assert_eq!(imbalance(&mut vswitch), 0);
        vswitch.fleet.workers[0].datapath.outputs.counters.ledger.dropped -= 1;
        assert_eq!(imbalance(&mut vswitch), 1, "one frame ended in no stated way");
    }

    #[test]
    fn a_burst_is_bounded_and_the_rest_waits_for_its_turn() {
        let (mut vswitch, end) = vswitch();
        for _ in 0..BURST_FRAMES + 8 {
            assert!(end.push(&[2; 60], weft_packet::Offload::default()));
        }
        assert_eq!(vswitch.step(Instant::now()), BURST_FRAMES);
        assert_eq!(vswitch.step(Instant::now()), 8);
        assert_eq!(vswitch.step(Instant::now()), 0);
    }

    #[test]
    fn all_buffers_come_back() {
        let (mut vswitch, end) = vswitch();
        for _ in 0..100 {
            assert!(end.push(&[2; 60], weft_packet::Offload::default()));
        }
        vswitch.settle(Instant::now(), 10);
        assert_eq!(vswitch.fleet.workers[0].datapath.outputs.pool.in_use(), 0);
    }
}
