//! A TAP queue with a 12-byte vnet header: one `read` or `write` per frame, the header in the frame's headroom.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use weft_packet::{DropReason, Frame, vnet};
use weft_sys::tap::VNET_HDR_LEN;

use super::{Rx, Tx, tx_refusal};

pub(super) fn receive(queue: BorrowedFd<'_>, frame: &mut Frame) -> Rx {
    let count = loop {
        match rustix::io::read(queue, frame.rx_space(VNET_HDR_LEN)) {
            Ok(count) => break count,
            Err(Errno::INTR) => {}
            Err(Errno::BADFD | Errno::BADF) => return Rx::Gone,
            Err(_) => return Rx::Empty,
        }
    };
    if count == 0 {
        return Rx::Gone;
    }
    let Some(len) = count.checked_sub(VNET_HDR_LEN) else { return Rx::Bad(DropReason::OffloadInvalid) };
    frame.set_len(len);
    accept(frame)
}

pub(super) fn send(queue: BorrowedFd<'_>, frame: &mut Frame) -> Tx {
    let bytes = with_vnet_header(frame);
    loop {
        match rustix::io::write(queue, bytes) {
            Ok(_) => return Tx::Sent,
            Err(Errno::INTR) => {}
            Err(errno) => return tx_refusal(Some(errno)),
        }
    }
}

/// Reads the vnet header in front of a received frame into its offload state.
pub(super) fn accept(frame: &mut Frame) -> Rx {
    let Some(header) = frame.prefixed(VNET_HDR_LEN).first_chunk() else { return Rx::Bad(DropReason::OffloadInvalid) };
    match vnet::decode(header, frame.bytes()) {
        Ok(offload) => {
            frame.offload = offload;
            Rx::Frame
        }
        Err(reason) => Rx::Bad(reason),
    }
}

/// Writes the offload state into the headroom; the header and the frame.
pub(super) fn with_vnet_header(frame: &mut Frame) -> &[u8] {
    let header = vnet::encode(frame.offload, frame.bytes());
    let bytes = frame.with_prefix(VNET_HDR_LEN);
    bytes[..VNET_HDR_LEN].copy_from_slice(&header);
    bytes
}
