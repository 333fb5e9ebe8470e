//! Ports: where frames enter and leave the vswitch.
//!
//! An attached device is shared by all workers: each queue is read by one of them, any of them may write any queue (the
//! kernel serialises that), so no frame is ever handed from worker to worker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use weft_packet::{DropReason, Frame};
use weft_program::message::{PortDevice, PortKind};
use weft_sys::packet_socket::PacketSocket;

mod memory;
mod netdev;
mod tap;

pub use memory::{Memory, MemoryEnd, memory};

/// What reading a queue once gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rx {
    /// A frame.
    Frame,
    /// A frame that is good for nothing.
    Bad(DropReason),
    /// Nothing more for now.
    Empty,
    /// The device or its namespace does not exist any more.
    Gone,
}

/// What writing a frame did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tx {
    /// The device took it.
    Sent,
    /// The device did not take it.
    Refused(DropReason),
    /// The device or its namespace does not exist any more.
    Gone,
}

/// An attached device with its queues.
#[derive(Debug)]
pub struct Attached {
    /// As the agent described it.
    pub device: PortDevice,
    queues: Queues,
}

#[derive(Debug)]
enum Queues {
    Tap(Vec<OwnedFd>),
    Netdev(Vec<PacketSocket>),
    Memory(Vec<Memory>),
}

/// One queue of a device, in the hands of a worker for a burst.
#[derive(Debug)]
pub enum Queue<'a> {
    /// A TAP's.
    Tap(BorrowedFd<'a>),
    /// Somebody else's device.
    Netdev(&'a PacketSocket),
    /// Without a kernel.
    Memory(memory::Held<'a>),
}

impl Attached {
    /// A device over the descriptors that came with it; at least one.
    pub fn new(device: PortDevice, fds: Vec<OwnedFd>) -> io::Result<Self> {
        let queues = match device.kind {
            PortKind::Tap => Queues::Tap(fds),
            PortKind::Netdev => {
                Queues::Netdev(fds.into_iter().map(PacketSocket::from_fd).collect::<io::Result<Vec<_>>>()?)
            }
            PortKind::Memory => {
                return Err(io::Error::other("a memory port has no descriptor and lives in its process"));
            }
        };
        Ok(Self { device, queues })
    }

    /// A port without a kernel, with at least one queue.
    pub const fn in_memory(device: PortDevice, queues: Vec<Memory>) -> Self {
        Self { device, queues: Queues::Memory(queues) }
    }

    /// The descriptors, in the order in which they came.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match &self.queues {
            Queues::Tap(queues) => queues.iter().map(AsFd::as_fd).collect(),
            Queues::Netdev(sockets) => sockets.iter().map(AsFd::as_fd).collect(),
            Queues::Memory(_) => Vec::new(),
        }
    }

    /// The queues that `worker` of `workers` reads.
    pub fn rx_queues(&self, worker: usize, workers: usize) -> Vec<usize> {
        (0..self.queue_count()).filter(|queue| queue % workers == worker).collect()
    }

    /// The queue that `worker` writes: its own where it has one, so that the kernel sends a flow's answers back to it.
    pub fn tx_queue(&self, worker: usize) -> usize {
        worker % self.queue_count()
    }

    /// What there is to wait for at this queue; a memory port has to be asked.
    pub fn pollable(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.fds().get(queue).copied()
    }

    /// Whether a read may give something: always, where only the kernel knows.
    pub fn may_be_ready(&self, queue: usize) -> bool {
        match &self.queues {
            Queues::Memory(queues) => queues[queue].is_ready(),
            Queues::Tap(_) | Queues::Netdev(_) => true,
        }
    }

    /// A queue, for a burst.
    pub fn queue(&self, queue: usize) -> Queue<'_> {
        match &self.queues {
            Queues::Tap(queues) => Queue::Tap(queues[queue].as_fd()),
            Queues::Netdev(sockets) => Queue::Netdev(&sockets[queue]),
            Queues::Memory(queues) => Queue::Memory(queues[queue].hold()),
        }
    }

    /// Frames that the device's own queues lost since the last call.
    pub fn device_drops(&self) -> u64 {
        match &self.queues {
            Queues::Netdev(sockets) => sockets.iter().map(|socket| u64::from(socket.drops().unwrap_or(0))).sum(),
            Queues::Tap(_) | Queues::Memory(_) => 0,
        }
    }

    fn queue_count(&self) -> usize {
        match &self.queues {
            Queues::Tap(queues) => queues.len(),
            Queues::Netdev(sockets) => sockets.len(),
            Queues::Memory(queues) => queues.len(),
        }
    }
}

impl Queue<'_> {
    /// Reads one frame into an empty one.
    #[inline]
    pub fn receive(&mut self, frame: &mut Frame) -> Rx {
        match self {
            Self::Tap(fd) => tap::receive(*fd, frame),
            Self::Netdev(socket) => netdev::receive(socket, frame),
            Self::Memory(held) => held.receive(frame),
        }
    }

    /// Writes one frame, whose offload state the device takes. The bytes in front of it are overwritten.
    #[inline]
    pub fn send(&mut self, frame: &mut Frame) -> Tx {
        match self {
            Self::Tap(fd) => tap::send(*fd, frame),
            Self::Netdev(socket) => netdev::send(socket, frame),
            Self::Memory(held) => held.send(frame),
        }
    }
}

/// What a refused write means for the frame.
fn tx_refusal(errno: Option<Errno>) -> Tx {
    match errno {
        Some(Errno::BADFD | Errno::BADF | Errno::NXIO | Errno::NODEV) => Tx::Gone,
        Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Tx::Refused(DropReason::TxFull),
        Some(Errno::MSGSIZE) => Tx::Refused(DropReason::Oversize),
        _ => Tx::Refused(DropReason::TxRefused),
    }
}
