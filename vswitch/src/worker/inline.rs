//! Workers without threads: the caller steps them. For the simulator, tests and in-memory benchmarks.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use weft_program::message::{PortDevice, PortKind, RefuseReason, Response, Underlay};
use weft_sys::epoll::Waker;

use super::{Command, Reply, Worker};
use crate::control::{Control, Fleet, FleetError};
use crate::learn::Learned;
use crate::limits::LIMITS;
use crate::port::{Attached, Memory, MemoryEnd, memory};
use crate::publish::Publisher;
use crate::tables::Tables;
use crate::underlay::{AttachedUnderlay, UnderlayEnd};

/// Workers that run when they are stepped.
pub struct Inline {
    /// The workers.
    pub workers: Vec<Worker>,
}

impl Fleet for Inline {
    fn workers(&self) -> usize {
        self.workers.len()
    }

    fn ask(&mut self, command: &Command) -> Result<Vec<Reply>, FleetError> {
        Ok(self.workers.iter_mut().map(|worker| worker.command(command)).collect())
    }
}

impl Control<Inline> {
    /// A whole vswitch without threads or sockets.
    pub fn inline(workers: usize, seed: u64, now: Instant) -> io::Result<Self> {
        let publisher = Publisher::new(Tables::new(seed), workers);
        let learned = Arc::new(Learned::new(now, &LIMITS));
        let make = |index| Worker::new(index, workers, &publisher, learned.clone(), seed, Arc::new(Waker::new()?));
        let fleet = Inline { workers: (0..workers).map(make).collect::<io::Result<_>>()? };
        Ok(Self::new(fleet, publisher, learned, format!("inline-{seed:x}")))
    }

    /// Attaches a memory port with one queue of `len_max` frames, which worker 0 reads; the guest's end of it.
    pub fn attach_memory(&mut self, device: PortDevice, len_max: usize) -> Result<MemoryEnd, RefuseReason> {
        let (ours, theirs) = memory(len_max);
        self.attach_queues(device, vec![ours])?;
        Ok(theirs)
    }

    /// The same with a queue for each worker; the guest's ends, in the order of the workers.
    pub fn attach_memories(&mut self, device: PortDevice, len_max: usize) -> Result<Vec<MemoryEnd>, RefuseReason> {
        let (ours, theirs) = (0..self.fleet.workers()).map(|_| memory(len_max)).unzip();
        self.attach_queues(device, ours)?;
        Ok(theirs)
    }

    fn attach_queues(&mut self, mut device: PortDevice, queues: Vec<Memory>) -> Result<Response, RefuseReason> {
        (device.kind, device.fds) = (PortKind::Memory, 0);
        self.attach_device(Attached::in_memory(device, queues))
    }

    /// Attaches an underlay of two bounded queues; the far end of it.
    pub fn attach_memory_underlay(&mut self, config: Underlay, len_max: usize) -> Result<UnderlayEnd, RefuseReason> {
        let (ours, theirs) = AttachedUnderlay::in_memory(config, len_max);
        let _: Response = self.attach_open_underlay(ours)?;
        Ok(theirs)
    }

    /// One round of every worker; how many frames came in.
    pub fn step(&mut self, now: Instant) -> usize {
        self.fleet.workers.iter_mut().map(|worker| worker.step(now)).sum()
    }

    /// Rounds until nothing comes in any more, at most `rounds_max`.
    pub fn settle(&mut self, now: Instant, rounds_max: usize) {
        for _ in 0..rounds_max {
            if self.step(now) == 0 {
                return;
            }
        }
    }
}
