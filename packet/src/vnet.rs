//! The virtio-net header in front of a frame of a TAP, a packet socket or a virtqueue (virtio 1.2, section 5.1.6), in
//! its little-endian form of 12 bytes.
//!
//! A guest may write anything here, so a decoded [`Offload`] is one that the frame bears out: whoever acts on it later
//! checks nothing again. The header's own length fields are hints and are not believed.

use crate::DropReason;
use crate::frame::{Csum, Gso, GsoKind, Offload};
use crate::layout::Layout;
use crate::segment::Cut;

/// Bytes of the header.
pub const HEADER_LEN: usize = 12;
/// Bytes of the header of a device that takes tunnel GSO (Linux 6.17, `virtio_net_hdr_v1_hash_tunnel`).
pub const TUNNEL_HEADER_LEN: usize = 24;
/// Datagrams that one UDP super-frame may stand for (the kernel's UDP_MAX_SEGMENTS).
pub const UDP_SEGMENTS_MAX: usize = 128;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const UDP_TUNNEL_CSUM: u8 = 8;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
const GSO_UDP_TUNNEL_IPV6: u8 = 0x40;
const GSO_ECN: u8 = 0x80;

/// What the kernel has to know of an encapsulated super-frame; offsets in bytes from the outer Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelGso {
    /// The inner super-frame.
    pub inner: Gso,
    /// Where the outer UDP header is.
    pub outer_l4: u16,
    /// Where the inner IP header is.
    pub inner_l3: u16,
    /// Where the inner L4 header is: its check field holds the pseudo-header sum only.
    pub inner_l4: u16,
    /// Where the inner check field is, from there.
    pub check_offset: u16,
    /// Where the inner payload is.
    pub payload: u16,
    /// Whether the outer IP is version 6.
    pub outer_v6: bool,
}

/// The header of an encapsulated super-frame whose outer check field holds the pseudo-header sum.
pub fn encode_tunnel(gso: &TunnelGso) -> [u8; TUNNEL_HEADER_LEN] {
    let kind = match gso.inner.kind {
        GsoKind::TcpV4 => GSO_TCPV4,
        GsoKind::TcpV6 => GSO_TCPV6,
        GsoKind::Udp => GSO_UDP_L4,
    };
    let tunnel = if gso.outer_v6 { GSO_UDP_TUNNEL_IPV6 } else { GSO_UDP_TUNNEL_IPV4 };
    let ecn = if gso.inner.ecn { GSO_ECN } else { 0 };
    let mut header = [0; TUNNEL_HEADER_LEN];
    header[..2].copy_from_slice(&[NEEDS_CSUM | UDP_TUNNEL_CSUM, kind | tunnel | ecn]);
    let mut put = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    put(2, gso.payload);
    put(4, gso.inner.size);
    put(6, gso.inner_l4);
    put(8, gso.check_offset);
    put(20, gso.outer_l4);
    put(22, gso.inner_l3);
    header
}

/// The offload state that `header` gives `frame`: [`DropReason::OffloadInvalid`] when the two do not fit together.
pub fn decode(header: &[u8; HEADER_LEN], frame: &[u8]) -> Result<Offload, DropReason> {
    let &[flags, gso_type, _, _, size_low, size_high, start_low, start_high, offset_low, offset_high, _, _] = header;
    if flags & UDP_TUNNEL_CSUM != 0 {
        return Err(DropReason::OffloadInvalid);
    }
    if flags & NEEDS_CSUM == 0 {
        let csum = if flags & DATA_VALID != 0 { Csum::Verified } else { Csum::Unknown };
        return if gso_type == GSO_NONE { Ok(Offload { csum, gso: None }) } else { Err(DropReason::OffloadInvalid) };
    }
    let start = u16::from_le_bytes([start_low, start_high]);
    let offset = u16::from_le_bytes([offset_low, offset_high]);
    let beyond = usize::from(start) + usize::from(offset) + 2 > frame.len();
    if start < 14 || beyond {
        return Err(DropReason::OffloadInvalid);
    }
    let csum = Csum::Partial { start, offset };
    if gso_type == GSO_NONE {
        return Ok(Offload { csum, gso: None });
    }
    let kind = match gso_type & !GSO_ECN {
        GSO_TCPV4 => GsoKind::TcpV4,
        GSO_TCPV6 => GsoKind::TcpV6,
        GSO_UDP_L4 => GsoKind::Udp,
        // UFO (3) makes fragments with an id that the guest cannot choose; tunnel types are never offered.
        _ => return Err(DropReason::OffloadInvalid),
    };
    let gso = Gso { kind, size: u16::from_le_bytes([size_low, size_high]), ecn: gso_type & GSO_ECN != 0 };
    let gso = checked_gso(gso, start, offset, frame).ok_or(DropReason::OffloadInvalid)?;
    Ok(Offload { csum, gso })
}

/// `Some(None)` when the frame is one segment only, which is no super-frame.
fn checked_gso(gso: Gso, start: u16, offset: u16, frame: &[u8]) -> Option<Option<Gso>> {
    let layout = Layout::of(frame)?;
    let cut = Cut::of(frame, gso)?;
    let same_checksum = usize::from(start) == layout.l4 && layout.check_offset() == Some(offset.into());
    let udp = gso.kind == GsoKind::Udp;
    let refused = !same_checksum || gso.size == u16::MAX || udp && (gso.ecn || cut.count() > UDP_SEGMENTS_MAX);
    (!refused).then(|| (cut.count() > 1).then_some(gso))
}

/// The header for a frame with this offload state.
pub fn encode(offload: Offload, frame: &[u8]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let mut put = |at: usize, value: u16| header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    let mut flags = 0;
    match offload.csum {
        Csum::Unknown => {}
        Csum::Verified => flags = DATA_VALID,
        Csum::Partial { start, offset } => {
            flags = NEEDS_CSUM;
            put(2, start.saturating_add(offset).saturating_add(2));
            put(6, start);
            put(8, offset);
        }
    }
    let mut gso_type = GSO_NONE;
    if let Some(gso) = offload.gso {
        let kind = match gso.kind {
            GsoKind::TcpV4 => GSO_TCPV4,
            GsoKind::TcpV6 => GSO_TCPV6,
            GsoKind::Udp => GSO_UDP_L4,
        };
        gso_type = kind | if gso.ecn { GSO_ECN } else { 0 };
        // All headers through L4: newer kernels refuse less (virtio 1.2, section 5.1.6.2.2).
        let headers = Layout::of(frame).and_then(|layout| layout.payload(frame));
        put(2, headers.and_then(|len| u16::try_from(len).ok()).unwrap_or(0));
        put(4, gso.size);
    }
    header[0] = flags;
    header[1] = gso_type;
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{PacketSpec, any_packet, super_frame};

    fn tcp() -> (Vec<u8>, [u8; 12]) {
        let mut packet = PacketSpec::udp_v4(&[1; 3000]);
        packet.tcp = true;
        let frame = super_frame(&packet, 1448);
        (frame.bytes().to_vec(), encode(frame.offload, frame.bytes()))
    }

    #[test]
    fn a_tcp_super_frame_has_the_header_that_linux_writes() {
        let (frame, header) = tcp();
        assert_eq!(header, [1, 1, 54, 0, 0xa8, 0x05, 34, 0, 16, 0, 0, 0]);
        let offload = decode(&header, &frame).unwrap();
        assert_eq!(offload.csum, Csum::Partial { start: 34, offset: 16 });
        assert_eq!(offload.gso, Some(Gso { kind: GsoKind::TcpV4, size: 1448, ecn: false }));
    }

    #[test]
    fn data_valid_is_a_verified_checksum() {
        let header = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(&header, &[]), Ok(Offload { csum: Csum::Verified, gso: None }));
        assert_eq!(decode(&[0; 12], &[]), Ok(Offload::default()));
        assert_eq!(encode(Offload { csum: Csum::Verified, gso: None }, &[]), header);
    }

    #[test]
    fn a_header_that_the_frame_does_not_bear_out_is_refused() {
        let (frame, header) = tcp();
        let lies: [(&str, usize, u8); 14] = [
            ("GSO without NEEDS_CSUM", 0, 0),
            ("GSO with DATA_VALID only", 0, 2),
            ("tunnel checksum", 0, 9),
            ("UFO", 1, 3),
            ("TCP over IPv6", 1, 4),
            ("UDP", 1, 5),
            ("ECN alone", 1, 0x80),
            ("tunnel", 1, 0x21),
            ("AccECN", 1, 0x11),
            ("checksum of another header", 6, 35),
            ("checksum start in the Ethernet header", 6, 13),
            ("another check field", 8, 6),
            ("checksum start beyond the frame", 7, 0xff),
            ("check field beyond the frame", 9, 0xff),
        ];
        for (name, at, value) in lies {
            let mut header = header;
            header[at] = value;
            assert_eq!(decode(&header, &frame), Err(DropReason::OffloadInvalid), "{name}");
        }
        for size in [0u16, 1, u16::MAX] {
            let mut header = header;
            header[4..6].copy_from_slice(&size.to_le_bytes());
            assert_eq!(decode(&header, &frame), Err(DropReason::OffloadInvalid), "size {size}");
        }
        assert_eq!(decode(&header, &frame[..frame.len() - 1]), Err(DropReason::OffloadInvalid), "cut short");
    }

    #[test]
    fn more_datagrams_than_the_kernel_takes_are_refused() {
        let frame = super_frame(&PacketSpec::udp_v4(&[1; 129]), 1);
        let header = encode(frame.offload, frame.bytes());
        assert_eq!(decode(&header, frame.bytes()), Err(DropReason::OffloadInvalid));
    }

    #[test]
    fn a_super_frame_of_one_segment_is_none() {
        let frame = super_frame(&PacketSpec::udp_v4(&[1; 10]), 10);
        let offload = decode(&encode(frame.offload, frame.bytes()), frame.bytes()).unwrap();
        assert_eq!(offload, Offload { csum: frame.offload.csum, gso: None });
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(packet in any_packet(), size in 2u16..200, ecn in any::<bool>()) {
            prop_assume!(packet.payload.len() > size.into());
            let mut frame = super_frame(&packet, size);
            let gso = frame.offload.gso.as_mut().unwrap();
            gso.ecn = ecn && packet.tcp;
            prop_assert_eq!(decode(&encode(frame.offload, frame.bytes()), frame.bytes()), Ok(frame.offload));
        }

        #[test]
        fn what_is_decoded_from_any_bytes_can_be_acted_on(header in any::<[u8; 12]>(), packet in any_packet(), kind in 0u8..8, exact in any::<bool>()) {
            let mut header = header;
            let mut frame = crate::FramePool::new(1).take().unwrap();
            frame.fill(&packet.build());
            if exact {
                let start = Layout::of(frame.bytes()).unwrap().l4 as u8;
                header = [1, kind, 0, 0, header[4], 0, start, 0, if packet.tcp { 16 } else { 6 }, 0, 0, 0];
            }
            if let Ok(offload) = decode(&header, frame.bytes()) {
                frame.offload = offload;
                match offload.gso {
                    Some(gso) => prop_assert!(Cut::new(&frame, gso.size).is_ok_and(|cut| cut.count() > 1)),
                    None => prop_assert_eq!(crate::offload::complete_checksum(&mut frame), Ok(())),
                }
            }
        }
    }
}
