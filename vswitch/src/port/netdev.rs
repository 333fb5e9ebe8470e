//! A packet socket on somebody else's device: the TAP's frame format, plus what auxdata says.
//!
//! A link that is down is no reason to let go of it: only a device that does not exist any more is gone.

use std::io;

use rustix::io::Errno;
use weft_packet::{Csum, DropReason, Frame};
use weft_sys::packet_socket::PacketSocket;
use weft_sys::tap::VNET_HDR_LEN;

use super::{Rx, Tx, tap, tx_refusal};

pub(super) fn receive(socket: &PacketSocket, frame: &mut Frame) -> Rx {
    let received = match socket.recv(frame.rx_space(VNET_HDR_LEN)) {
        Ok(received) => received,
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => return Rx::Gone,
        Err(_) => return Rx::Empty,
    };
    if received.truncated {
        return Rx::Bad(DropReason::RxTruncated);
    }
    frame.set_len(received.len);
    let rx = tap::accept(frame);
    if received.csum_verified && frame.offload.csum == Csum::Unknown {
        frame.offload.csum = Csum::Verified;
    }
    rx
}

pub(super) fn send(socket: &PacketSocket, frame: &mut Frame) -> Tx {
    let bytes = tap::with_vnet_header(frame);
    loop {
        match socket.send(bytes) {
            Ok(()) => return Tx::Sent,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return tx_refusal(Errno::from_io_error(&error)),
        }
    }
}
