//! A port without a kernel: queues between a worker and whoever holds the other end.
//!
//! For tests, the simulator, in-process hosts and the benchmarks of the worker. The far end sees what a guest's device
//! would: bytes and offload state. A worker holds its queue for a whole burst, and the queue keeps its memory, so a
//! frame costs one copy and neither a lock nor an allocation.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_packet::{DropReason, Frame, Offload};

use super::{Rx, Tx};
use crate::ring::Ring;

/// The vswitch's end of one queue.
#[derive(Debug, Clone)]
pub struct Memory {
    shared: Arc<Mutex<Queues>>,
}

/// The guest's end of one queue.
#[derive(Debug, Clone)]
pub struct MemoryEnd {
    shared: Arc<Mutex<Queues>>,
}

/// The vswitch's end, in the hands of one worker.
#[derive(Debug)]
pub struct Held<'a>(MutexGuard<'a, Queues>);

#[derive(Debug)]
struct Queues {
    to_vswitch: Ring<(Vec<u8>, Offload)>,
    to_guest: Ring<(Vec<u8>, Offload)>,
    gone: bool,
}

/// Both ends; either direction holds at most `len_max` frames.
pub fn memory(len_max: usize) -> (Memory, MemoryEnd) {
    let queues = Queues { to_vswitch: Ring::new(len_max), to_guest: Ring::new(len_max), gone: false };
    let shared = Arc::new(Mutex::new(queues));
    (Memory { shared: shared.clone() }, MemoryEnd { shared })
}

impl Memory {
    pub(super) fn hold(&self) -> Held<'_> {
        Held(lock(&self.shared))
    }

    /// Whether a frame waits.
    pub fn is_ready(&self) -> bool {
        let queues = lock(&self.shared);
        queues.gone || !queues.to_vswitch.is_empty()
    }
}

impl Held<'_> {
    #[inline]
    pub(super) fn receive(&mut self, frame: &mut Frame) -> Rx {
        if self.0.gone {
            return Rx::Gone;
        }
        let Some((bytes, offload)) = self.0.to_vswitch.pop() else { return Rx::Empty };
        frame.fill(bytes);
        frame.offload = *offload;
        Rx::Frame
    }

    #[inline]
    pub(super) fn send(&mut self, frame: &Frame) -> Tx {
        if self.0.gone {
            return Tx::Gone;
        }
        let Some(slot) = self.0.to_guest.push() else { return Tx::Refused(DropReason::TxFull) };
        fill(slot, frame.bytes(), frame.offload);
        Tx::Sent
    }
}

impl MemoryEnd {
    /// Sends a frame into the vswitch; `false` when the queue is full or the frame longer than any may be.
    pub fn push(&self, bytes: &[u8], offload: Offload) -> bool {
        if bytes.len() > weft_packet::frame::FRAME_LEN_MAX {
            return false;
        }
        lock(&self.shared).to_vswitch.push().map(|slot| fill(slot, bytes, offload)).is_some()
    }

    /// The next frame that came out of the vswitch.
    pub fn pop(&self) -> Option<(Vec<u8>, Offload)> {
        lock(&self.shared).to_guest.pop().map(std::mem::take)
    }

    /// Looks at every frame that came out of the vswitch, and leaves the memory to the queue; how many there were.
    pub fn drain(&self, mut look: impl FnMut(&[u8], Offload)) -> usize {
        let mut queues = lock(&self.shared);
        let frames = std::iter::from_fn(|| queues.to_guest.pop().map(|(bytes, offload)| look(bytes, *offload)));
        frames.count()
    }

    /// Takes the device away, as a deleted namespace does.
    pub fn remove(&self) {
        lock(&self.shared).gone = true;
    }
}

fn fill((kept, state): &mut (Vec<u8>, Offload), bytes: &[u8], offload: Offload) {
    kept.clear();
    kept.extend_from_slice(bytes);
    *state = offload;
}

fn lock(shared: &Mutex<Queues>) -> MutexGuard<'_, Queues> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
