//! The outer headers of a super-frame that leaves whole (tunnel GSO): the kernel is told where everything lies, and
//! cuts it as late as the path allows, perhaps never. On all other rungs the outer headers are the kernel's.

use std::net::{IpAddr, Ipv6Addr};

use weft_packet::ethernet::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, EthernetHeader};
use weft_packet::ipv4::{self, Ipv4Header, PROTOCOL_UDP};
use weft_packet::ipv6::{self, Ipv6Header};
use weft_packet::udp::{self, UdpHeader};
use weft_packet::vnet::{TUNNEL_HEADER_LEN, TunnelGso, encode_tunnel};
use weft_packet::vxlan::{self, VxlanHeader};
use weft_packet::{Csum, DropReason, Frame, Gso, GsoKind, Layout, MacAddr, Sum, Vni};

/// Bytes of the vnet header and the outer headers, at most.
pub const HEADERS_LEN_MAX: usize =
    TUNNEL_HEADER_LEN + ethernet::HEADER_LEN + ipv6::HEADER_LEN + udp::HEADER_LEN + vxlan::HEADER_LEN;
/// The longest IP packet.
const IP_LEN_MAX: usize = 65_535;
/// The host itself forwards it, which takes one away.
const TTL: u8 = 65;

/// The way of one super-frame. Both addresses are of one family.
#[derive(Debug, Clone, Copy)]
pub struct Outer {
    /// The MAC address of the device that it is written to.
    pub device: MacAddr,
    /// The host's own address.
    pub src: IpAddr,
    /// Where it comes from, for the sake of the underlay's hashing.
    pub src_port: u16,
    /// The remote.
    pub dst: IpAddr,
    /// Where the remote receives.
    pub dst_port: u16,
    /// Outer TOS or traffic class.
    pub tos: u8,
    /// The network.
    pub vni: Vni,
}

/// Whether a frame can leave so: TCP only (of UDP super-frames the receiving socket takes the inner segment size for
/// its own stride), and not longer than an IP packet when encapsulated.
pub fn takes(frame: &Frame, v6: bool) -> bool {
    let ip = if v6 { 0 } else { ipv4::HEADER_LEN };
    let len = ip + udp::HEADER_LEN + vxlan::HEADER_LEN + frame.len();
    frame.offload.gso.is_some_and(|gso| gso.kind != GsoKind::Udp) && len <= IP_LEN_MAX
}

impl Outer {
    /// Writes the vnet header and the outer headers of `frame`, which [`takes`] said yes to, to be cut into segments of `size`
    /// payload bytes; how many bytes they are. [`DropReason::OffloadInvalid`] when the frame is not what it says.
    pub fn emit(&self, frame: &Frame, size: u16, out: &mut [u8; HEADERS_LEN_MAX]) -> Result<usize, DropReason> {
        let layout = Layout::of(frame.bytes()).ok_or(DropReason::OffloadInvalid)?;
        let payload = layout.payload(frame.bytes()).ok_or(DropReason::OffloadInvalid)?;
        let (Some(gso), Csum::Partial { start, offset }) = (frame.offload.gso, frame.offload.csum) else {
            return Err(DropReason::OffloadInvalid);
        };
        let udp_len = udp::HEADER_LEN + vxlan::HEADER_LEN + frame.len();
        let (vnet, headers) = out.split_at_mut(TUNNEL_HEADER_LEN);
        let l3_len = self.emit_ip(udp_len, &mut headers[ethernet::HEADER_LEN..]);
        let ethertype = if self.dst.is_ipv6() { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        EthernetHeader { dst: self.device, src: SENDER, ethertype }.emit(headers);
        let l4 = ethernet::HEADER_LEN + l3_len;
        // The kernel completes it for each packet that it cuts; a check field of its own per packet is what lets a
        // receiver put them together again.
        let checksum = Sum::pseudo(self.src, self.dst, PROTOCOL_UDP, udp_len as u32).fold();
        let udp = UdpHeader { src: self.src_port, dst: self.dst_port, length: udp_len as u16, checksum };
        udp.emit(&mut headers[l4..]);
        VxlanHeader { vni: self.vni }.emit(&mut headers[l4 + udp::HEADER_LEN..]);
        let inner = l4 + udp::HEADER_LEN + vxlan::HEADER_LEN;
        let at = |offset: usize| (inner + offset) as u16;
        vnet.copy_from_slice(&encode_tunnel(&TunnelGso {
            inner: Gso { size, ..gso },
            outer_l4: l4 as u16,
            inner_l3: at(layout.l3),
            inner_l4: at(start.into()),
            check_offset: offset,
            payload: at(payload),
            outer_v6: self.dst.is_ipv6(),
        }));
        Ok(TUNNEL_HEADER_LEN + inner)
    }

    /// Writes the IP header, whose payload is `len` bytes; how long it is.
    fn emit_ip(&self, len: usize, out: &mut [u8]) -> usize {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let ip = Ipv4Header {
                    tos: self.tos,
                    payload_len: len as u16,
                    identification: 0,
                    dont_fragment: true,
                    more_fragments: false,
                    fragment_offset: 0,
                    ttl: TTL,
                    protocol: PROTOCOL_UDP,
                    src,
                    dst,
                };
                ip.emit(out);
                ipv4::HEADER_LEN
            }
            (src, dst) => {
                let ip = Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: 0,
                    payload_len: len as u16,
                    next_header: PROTOCOL_UDP,
                    hop_limit: TTL,
                    src: v6(src),
                    dst: v6(dst),
                };
                ip.emit(out);
                ipv6::HEADER_LEN
            }
        }
    }
}

const fn v6(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Of no device: what is written to the device comes from nobody in its network.
const SENDER: MacAddr = MacAddr([0x02, b'w', b'e', b'f', b't', 1]);

#[cfg(test)]
mod tests {
    use weft_packet::udp::UdpView;
    use weft_packet::vxlan::VxlanView;

    use super::*;
    use crate::testing::{PacketSpec, super_frame};

    fn outer(v6: bool) -> Outer {
        let [src, dst] = match v6 {
            false => [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
            true => [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into(), IpAddr::from([0xfd; 16])],
        };
        let vni = Vni::new(42).unwrap();
        Outer { device: MacAddr([2; 6]), src, src_port: 50_000, dst, dst_port: 4789, tos: 2, vni }
    }

    #[test]
    fn every_offset_points_at_what_it_says_in_both_families() {
        for (outer_v6, inner_v6) in [(false, false), (false, true), (true, false), (true, true)] {
            let frame = super_frame(&PacketSpec { v6: inner_v6, ..PacketSpec::tcp_v4(&[9; 10_000]) }, 1400);
            assert!(takes(&frame, outer_v6));
            let mut out = [0; HEADERS_LEN_MAX];
            let len = outer(outer_v6).emit(&frame, 1300, &mut out).unwrap();
            let packet = [&out[TUNNEL_HEADER_LEN..len], frame.bytes()].concat();
            let layout = Layout::of(&packet).unwrap();
            let udp = UdpView::parse(&packet[layout.l4..]).unwrap();
            assert_eq!((layout.end, udp.src(), udp.dst()), (packet.len(), 50_000, 4789));
            assert_eq!(udp.checksum(), layout.pseudo(&packet, packet.len() - layout.l4).fold());
            assert_eq!(VxlanView::parse(udp.payload()).unwrap().vni(), Vni::new(42).unwrap());
            let inner = Layout::of(frame.bytes()).unwrap();
            let at = len - TUNNEL_HEADER_LEN;
            let word = |at: usize| usize::from(u16::from_le_bytes([out[at], out[at + 1]]));
            let family = if outer_v6 { 0x40 } else { 0x20 };
            assert_eq!(out[..2], [9, family | if inner_v6 { 4 } else { 1 }]);
            assert_eq!([word(2), word(4), word(6)], [at + inner.payload(frame.bytes()).unwrap(), 1300, at + inner.l4]);
            assert_eq!([word(8), word(20), word(22)], [16, layout.l4, at + inner.l3]);
        }
    }

    #[test]
    fn udp_and_what_is_too_long_encapsulated_take_another_rung() {
        assert!(!takes(&super_frame(&PacketSpec::udp_v4(&[9; 3000]), 1000), false));
        let longest = |v6, headers: usize| {
            let payload = vec![9; 65_535 - headers - 16 - 54];
            let (fits, beyond) = (PacketSpec::tcp_v4(&payload), PacketSpec::tcp_v4(&[&payload[..], &[9]].concat()));
            (takes(&super_frame(&fits, 1400), v6), takes(&super_frame(&beyond, 1400), v6))
        };
        assert_eq!(longest(false, 20), (true, false));
        assert_eq!(longest(true, 0), (true, false));
    }

    #[test]
    fn a_frame_that_is_none_is_refused() {
        let mut frame = super_frame(&PacketSpec::tcp_v4(&[9; 3000]), 1000);
        let mut out = [0; HEADERS_LEN_MAX];
        frame.bytes_mut()[14] = 0x46;
        frame.bytes_mut()[16] = 0;
        assert_eq!(outer(false).emit(&frame, 1000, &mut out), Err(DropReason::OffloadInvalid));
    }
}
