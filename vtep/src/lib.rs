//! VXLAN endpoint (RFC 7348), without I/O: bytes, addresses and the time come in as arguments.
//!
//! Sending: [`mtu::fit`] says whether a frame may go as it is, then either [`encap::encap`] pushes the header of a
//! plain frame, or [`plan::Plan`] cuts a super-frame into blocks for UDP_SEGMENT; [`ecn::outer_tos`] is its outer TOS
//! and [`encap::Entropy`] picks its socket. Receiving: [`decap::decap`] splits a datagram into admitted packets, and
//! [`coalesce::Coalescer`] puts packets of one flow together again. The outer IP and UDP headers are the kernel's, but
//! for a super-frame that leaves whole, whose headers [`outer::Outer`] writes.
//! [`probe::Prober`] finds out which remotes receive the segments of one send intact.

pub mod admission;
pub mod coalesce;
pub mod decap;
pub mod ecn;
pub mod encap;
pub mod mtu;
pub mod outer;
pub mod plan;
pub mod probe;
pub mod probe_packet;
mod probe_state;

#[cfg(test)]
mod testing;
