//! The way out for uncut super-frames: the tunnel device.

use std::net::IpAddr;

use weft_vtep::outer::{self, Outer};

use super::{Carriage, Departure, Device};

/// The way out for uncut super-frames of one socket's flows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exit<'a> {
    pub(super) device: &'a Device,
    pub(super) socket: usize,
    pub(super) src: IpAddr,
}

impl Exit<'_> {
    pub(super) fn outer(&self, departure: &Departure) -> Outer {
        Outer {
            device: self.device.mac,
            src: self.src,
            src_port: self.device.ports[self.socket],
            dst: departure.to.ip(),
            dst_port: departure.to.port(),
            tos: departure.tos,
            vni: departure.vni,
        }
    }
}

impl Departure {
    /// Whether it is a super-frame that the device takes, and may take.
    pub(super) fn goes_whole(&self) -> bool {
        matches!(self.carriage, Carriage::Whole | Carriage::MustBeWhole) && outer::takes(&self.frame, self.to.is_ipv6())
    }
}
