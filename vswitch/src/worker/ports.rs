//! One worker's view of the attached ports: which queues it reads, and what waits to be written.

use std::sync::Arc;

use weft_packet::Frame;
use weft_program::PortId;
use weft_program::message::DropSource;
use weft_vtep::mtu::AnswerLimiter;

use crate::port::Attached;

/// A port as one worker sees it.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) attached: Arc<Attached>,
    /// The queues that this worker reads.
    pub(crate) rx_queues: Vec<usize>,
    /// The queue that this worker writes.
    pub(crate) tx_queue: usize,
    /// The device does not exist any more.
    pub(crate) gone: bool,
    /// Frames that the next burst is likely to find.
    pub(crate) expected: usize,
    /// What this burst has for it.
    pub(crate) out: Vec<Queued>,
    /// Bounds the ICMP errors that its guest is sent.
    pub(crate) answers: Option<AnswerLimiter>,
}

/// A frame on its way out.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) frame: Frame,
    /// Where it came from, for the books.
    pub(crate) source: DropSource,
}

/// All attached ports by id: a table lookup per frame, because ids are small (`LIMITS.ports_max`).
#[derive(Debug, Default)]
pub(crate) struct Ports {
    slots: Vec<Option<Box<Port>>>,
}

impl Ports {
    #[inline]
    pub(crate) fn get(&self, id: PortId) -> Option<&Port> {
        self.slots.get(id.0 as usize)?.as_deref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.slots.get_mut(id.0 as usize)?.as_deref_mut()
    }

    pub(crate) fn insert(&mut self, id: PortId, port: Port) {
        let index = id.0 as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        self.slots[index] = Some(Box::new(port));
    }

    pub(crate) fn remove(&mut self, id: PortId) -> Option<Box<Port>> {
        self.slots.get_mut(id.0 as usize)?.take()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PortId, &Port)> {
        self.slots.iter().enumerate().filter_map(|(id, port)| Some((PortId(id as u32), port.as_deref()?)))
    }
}
