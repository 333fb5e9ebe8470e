//! A port without a kernel: two bounded queues between a worker and whoever holds the other end.
//!
//! For tests, the simulator and in-process hosts. The far end sees what a guest's device would: bytes and offload state.
//! A lock per burst is fine here: nothing that is measured runs over it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use weft_packet::{DropReason, Frame, Offload};

use super::{Rx, Tx};

/// The vswitch's end.
#[derive(Debug, Clone)]
pub struct Memory {
    shared: Arc<Mutex<Queues>>,
}

/// The guest's end.
#[derive(Debug, Clone)]
pub struct MemoryEnd {
    shared: Arc<Mutex<Queues>>,
}

#[derive(Debug)]
struct Queues {
    to_vswitch: VecDeque<(Vec<u8>, Offload)>,
    to_guest: VecDeque<(Vec<u8>, Offload)>,
    len_max: usize,
    gone: bool,
}

/// Both ends; each queue holds at most `len_max` frames.
pub fn memory(len_max: usize) -> (Memory, MemoryEnd) {
    let (to_vswitch, to_guest) = (VecDeque::new(), VecDeque::new());
    let shared = Arc::new(Mutex::new(Queues { to_vswitch, to_guest, len_max, gone: false }));
    (Memory { shared: shared.clone() }, MemoryEnd { shared })
}

impl Memory {
    pub(super) fn receive(&self, frame: &mut Frame) -> Rx {
        let mut queues = lock(&self.shared);
        if queues.gone {
            return Rx::Gone;
        }
        let Some((bytes, offload)) = queues.to_vswitch.pop_front() else { return Rx::Empty };
        frame.fill(&bytes);
        frame.offload = offload;
        Rx::Frame
    }

    pub(super) fn send(&self, frame: &Frame) -> Tx {
        let mut queues = lock(&self.shared);
        if queues.gone {
            return Tx::Gone;
        }
        if queues.to_guest.len() >= queues.len_max {
            return Tx::Refused(DropReason::TxFull);
        }
        queues.to_guest.push_back((frame.bytes().to_vec(), frame.offload));
        Tx::Sent
    }

    /// Whether a frame waits.
    pub fn is_ready(&self) -> bool {
        let queues = lock(&self.shared);
        queues.gone || !queues.to_vswitch.is_empty()
    }
}

impl MemoryEnd {
    /// Sends a frame into the vswitch; `false` when the queue is full or the frame longer than any may be.
    pub fn push(&self, bytes: &[u8], offload: Offload) -> bool {
        let mut queues = lock(&self.shared);
        let fits = queues.to_vswitch.len() < queues.len_max && bytes.len() <= weft_packet::frame::FRAME_LEN_MAX;
        if fits {
            queues.to_vswitch.push_back((bytes.to_vec(), offload));
        }
        fits
    }

    /// The next frame that came out of the vswitch.
    pub fn pop(&self) -> Option<(Vec<u8>, Offload)> {
        lock(&self.shared).to_guest.pop_front()
    }

    /// Takes the device away, as a deleted namespace does.
    pub fn remove(&self) {
        lock(&self.shared).gone = true;
    }
}

fn lock(shared: &Mutex<Queues>) -> std::sync::MutexGuard<'_, Queues> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
