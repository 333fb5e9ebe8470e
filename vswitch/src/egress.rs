//! What a frame needs before its device or tunnel can take it: segmentation and checksums, done only where the taker
//! does not do them itself.

use weft_packet::{Csum, DropReason, Frame, FramePool, Gso, GsoKind, Layout, offload, segment};
use weft_program::message::Offloads;

use crate::counters::Counters;

/// Appends the frame to `pieces` as a device with these offloads takes it: whole, or in segments. On an error the
/// frame has ended and the caller counts why.
#[inline]
pub(crate) fn finish(
    mut frame: Frame,
    offloads: Offloads,
    pool: &mut FramePool,
    counters: &mut Counters,
    pieces: &mut Vec<Frame>,
) -> Result<(), DropReason> {
    if let Some(gso) = frame.offload.gso {
        if takes(offloads, gso) {
            pieces.push(frame);
            return Ok(());
        }
        return segment(frame, gso.size, pool, counters, pieces);
    }
    match frame.offload.csum {
        Csum::Partial { .. } if !offloads.csum => {
            if let Err(reason) = complete(&mut frame, counters) {
                pool.give(frame);
                return Err(reason);
            }
        }
        // Spares the receiver a second look at every byte.
        Csum::Verified if offloads.csum => {
            if let Some(layout) = Layout::of(frame.bytes()) {
                offload::set_partial(&mut frame, &layout);
            }
        }
        _ => {}
    }
    pieces.push(frame);
    Ok(())
}

/// Appends the segments of a super-frame, with at most `size` payload bytes each and complete checksums; any other frame
/// as it is. On an error the frame has ended and the caller counts why.
pub(crate) fn segment(
    frame: Frame,
    size: u16,
    pool: &mut FramePool,
    counters: &mut Counters,
    pieces: &mut Vec<Frame>,
) -> Result<(), DropReason> {
    if frame.offload.gso.is_none() {
        pieces.push(frame);
        return Ok(());
    }
    counters.io.segmentations += 1;
    let made = segment::segment(&frame, size, pool, pieces);
    pool.give(frame);
    counters.ledger.split += made? as u64 - 1;
    Ok(())
}

/// Completes a partial checksum.
pub(crate) fn complete(frame: &mut Frame, counters: &mut Counters) -> Result<(), DropReason> {
    counters.io.checksums += u64::from(matches!(frame.offload.csum, Csum::Partial { .. }));
    offload::complete_checksum(frame)
}

fn takes(offloads: Offloads, gso: Gso) -> bool {
    offloads.csum
        && match gso.kind {
            GsoKind::TcpV4 | GsoKind::TcpV6 => offloads.tso && (offloads.tso_ecn || !gso.ecn),
            GsoKind::Udp => offloads.uso,
        }
}
