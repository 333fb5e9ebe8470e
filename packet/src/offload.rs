//! Changing a frame without making its checksums or its offload state untrue.
//!
//! Under a partial checksum the check field holds the un-inverted pseudo-header sum: an address change patches that
//! sum, and an L4 port change patches nothing, because the ports are summed later. A complete checksum is updated by
//! RFC 1624 in both cases, so a wrong one stays wrong and the receiver can still see it.

use crate::checksum::{Sum, patch, update};
use crate::frame::{Csum, Frame};
use crate::ipv4::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::key::Field;
use crate::layout::Layout;
use crate::{DropReason, MacAddr, udp};

/// What a look at a complete L4 checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
    /// There is none to look at: another protocol, a fragment, or UDP without a checksum.
    Absent,
}

/// Finishes a partial checksum, in a frame that is no super-frame (segment that instead). Others stay as they are.
/// [`DropReason::OffloadInvalid`] when the check field lies outside of the frame.
pub fn complete_checksum(frame: &mut Frame) -> Result<(), DropReason> {
    let Csum::Partial { start, offset } = frame.offload.csum else { return Ok(()) };
    debug_assert!(frame.offload.gso.is_none(), "a super-frame is segmented, not summed");
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    let bytes = frame.bytes_mut();
    if at + 2 > bytes.len() {
        return Err(DropReason::OffloadInvalid);
    }
    let sum = Sum::of(&bytes[start..]).finish();
    // Zero would say "no checksum" in UDP (RFC 768), which is the protocol with its check field here.
    let sum = if usize::from(offset) == udp::CHECKSUM_OFFSET && sum == 0 { 0xffff } else { sum };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame.offload.csum = Csum::Verified;
    Ok(())
}

/// Makes a complete checksum partial, so that a device that sees the frame skips verifying it. `false`, and nothing
/// changed, unless the checksum is [`Csum::Verified`]: what nobody verified is never upgraded.
pub fn set_partial(frame: &mut Frame, layout: &Layout) -> bool {
    let whole = layout.is_tcp() || layout.is_udp();
    // Padding behind the packet would be summed too.
    if frame.offload.csum != Csum::Verified || !whole || layout.end != frame.len() {
        return false;
    }
    let (Some(offset), Ok(start)) = (layout.check_offset(), u16::try_from(layout.l4)) else { return false };
    let at = layout.l4 + offset;
    let bytes = frame.bytes_mut();
    let absent = layout.is_udp() && bytes[at..at + 2] == [0, 0];
    if absent {
        return false;
    }
    let pseudo = layout.pseudo(bytes, layout.end - layout.l4).fold();
    bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    frame.offload.csum = Csum::Partial { start, offset: offset as u16 };
    true
}

/// Looks at a complete TCP, UDP or ICMPv6 checksum.
pub fn verify(bytes: &[u8], layout: &Layout) -> Verdict {
    let Some(offset) = layout.check_offset() else { return Verdict::Absent };
    let at = layout.l4 + offset;
    let absent = layout.protocol == PROTOCOL_UDP && !layout.v6 && bytes[at..at + 2] == [0, 0];
    if layout.fragment || absent {
        return Verdict::Absent;
    }
    let sum = layout.pseudo(bytes, layout.end - layout.l4) + Sum::of(&bytes[layout.l4..layout.end]);
    if sum.is_valid() { Verdict::Good } else { Verdict::Bad }
}

/// [`verify`], remembered in the frame's offload state; a partial checksum is good as it is.
pub fn verify_frame(frame: &mut Frame, layout: &Layout) -> Verdict {
    if frame.offload.csum != Csum::Unknown {
        return Verdict::Good;
    }
    let verdict = verify(frame.bytes(), layout);
    if verdict == Verdict::Good {
        frame.offload.csum = Csum::Verified;
    }
    verdict
}

/// Writes one header field and keeps every checksum as right, or as wrong, as it was: MAC addresses, IP addresses,
/// TOS, TTL, and the L4 ports of TCP and UDP.
///
/// `false`, and nothing changed, when the frame has no such field or it is none of these. `layout` is needed for all
/// but the MAC addresses.
pub fn write_field(frame: &mut Frame, layout: Option<&Layout>, field: Field, value: u128) -> bool {
    match field {
        Field::EthDst => return write_mac(frame, 0, value),
        Field::EthSrc => return write_mac(frame, 6, value),
        _ => {}
    }
    let Some(layout) = layout else { return false };
    match field {
        Field::IpSrc => write_address(frame, layout, layout.l3 + if layout.v6 { 8 } else { 12 }, value),
        Field::IpDst => write_address(frame, layout, layout.l3 + if layout.v6 { 24 } else { 16 }, value),
        Field::IpTos => write_tos(frame.bytes_mut(), layout, value as u8),
        Field::IpTtl => write_ttl(frame.bytes_mut(), layout, value as u8),
        Field::L4Src => return write_port(frame, layout, layout.l4, value as u16),
        Field::L4Dst => return write_port(frame, layout, layout.l4 + 2, value as u16),
        _ => return false,
    }
    true
}

fn write_mac(frame: &mut Frame, at: usize, value: u128) -> bool {
    let Some(place) = frame.bytes_mut().get_mut(at..at + 6) else { return false };
    place.copy_from_slice(&MacAddr::from_u64(value as u64).0);
    true
}

fn write_address(frame: &mut Frame, layout: &Layout, at: usize, value: u128) {
    let (wide, narrow) = (value.to_be_bytes(), (value as u32).to_be_bytes());
    let new: &[u8] = if layout.v6 { &wide } else { &narrow };
    let mut old = [0; 16];
    let old = &mut old[..new.len()];
    old.copy_from_slice(&frame.bytes()[at..at + new.len()]);
    update_l4(frame, layout, old, new, Covers::PseudoHeader);
    let bytes = frame.bytes_mut();
    if !layout.v6 {
        update_ipv4_header(bytes, layout, old, new);
    }
    bytes[at..at + new.len()].copy_from_slice(new);
}

fn write_tos(bytes: &mut [u8], layout: &Layout, tos: u8) {
    let l3 = layout.l3;
    if layout.v6 {
        bytes[l3] = 0x60 | tos >> 4;
        bytes[l3 + 1] = bytes[l3 + 1] & 0x0f | tos << 4;
        return;
    }
    let old = [bytes[l3], bytes[l3 + 1]];
    update_ipv4_header(bytes, layout, &old, &[old[0], tos]);
    bytes[l3 + 1] = tos;
}

fn write_ttl(bytes: &mut [u8], layout: &Layout, ttl: u8) {
    if layout.v6 {
        bytes[layout.l3 + 7] = ttl;
        return;
    }
    let at = layout.l3 + 8;
    let old = [bytes[at], bytes[at + 1]];
    update_ipv4_header(bytes, layout, &old, &[ttl, old[1]]);
    bytes[at] = ttl;
}

fn write_port(frame: &mut Frame, layout: &Layout, at: usize, value: u16) -> bool {
    let known = matches!(layout.protocol, PROTOCOL_TCP | PROTOCOL_UDP) && layout.check_offset().is_some();
    if !known {
        return false;
    }
    let old = [frame.bytes()[at], frame.bytes()[at + 1]];
    update_l4(frame, layout, &old, &value.to_be_bytes(), Covers::L4Header);
    frame.bytes_mut()[at..at + 2].copy_from_slice(&value.to_be_bytes());
    true
}

fn update_ipv4_header(bytes: &mut [u8], layout: &Layout, old: &[u8], new: &[u8]) {
    let at = layout.l3 + 10;
    let check = update(u16::from_be_bytes([bytes[at], bytes[at + 1]]), old, new);
    bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

/// Which part of what an L4 checksum covers has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Covers {
    PseudoHeader,
    L4Header,
}

fn update_l4(frame: &mut Frame, layout: &Layout, old: &[u8], new: &[u8], changed: Covers) {
    let Some(offset) = layout.check_offset() else { return };
    let at = layout.l4 + offset;
    // A partial checksum that starts elsewhere belongs to a packet inside of this one, whose own is complete.
    let partial = matches!(frame.offload.csum, Csum::Partial { start, .. } if usize::from(start) == layout.l4);
    let bytes = frame.bytes_mut();
    let check = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let udp = layout.protocol == PROTOCOL_UDP;
    let check = match (partial, changed) {
        (true, Covers::PseudoHeader) => patch(check, old, new),
        (true, Covers::L4Header) => return,
        (false, _) if udp && check == 0 => return,
        (false, _) => match update(check, old, new) {
            0 if udp => 0xffff,
            updated => updated,
        },
    };
    bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::FramePool;
    use crate::testing::{PacketSpec, any_packet, recompute};

    fn frame_of(bytes: &[u8]) -> Frame {
        let mut frame = FramePool::new(1).take().unwrap();
        frame.fill(bytes);
        frame
    }

    fn partial(bytes: &[u8]) -> (Frame, Layout) {
        let mut frame = frame_of(bytes);
        let layout = Layout::of(bytes).unwrap();
        frame.offload.csum = Csum::Verified;
        assert!(set_partial(&mut frame, &layout));
        (frame, layout)
    }

    #[test]
    fn a_udp_checksum_that_comes_out_as_zero_is_written_as_ones() {
        let mut bytes = PacketSpec::udp_v4(&[0, 0]).build();
        let at = bytes.len() - 2;
        let check = u16::from_be_bytes([bytes[40], bytes[41]]);
        // With the complement of its own sum as payload the packet sums to all ones, whose inverse is zero.
        bytes[at..].copy_from_slice(&check.to_be_bytes());
        bytes[40..42].fill(0xff);
        let (mut frame, layout) = partial(&bytes);
        complete_checksum(&mut frame).unwrap();
        assert_eq!(frame.bytes(), bytes);
        assert_eq!(verify(frame.bytes(), &layout), Verdict::Good);
    }

    #[test]
    fn what_nobody_verified_is_not_made_partial() {
        let bytes = PacketSpec::udp_v4(&[1]).build();
        let mut frame = frame_of(&bytes);
        assert!(!set_partial(&mut frame, &Layout::of(&bytes).unwrap()));
        assert_eq!(frame.bytes(), bytes);
    }

    #[test]
    fn a_udp_packet_without_a_checksum_keeps_none() {
        let mut bytes = PacketSpec::udp_v4(&[1, 2, 3]).build();
        bytes[40..42].fill(0);
        let layout = Layout::of(&bytes).unwrap();
        let mut frame = frame_of(&bytes);
        assert_eq!(verify_frame(&mut frame, &layout), Verdict::Absent);
        assert!(write_field(&mut frame, Some(&layout), Field::IpSrc, 0x0102_0304));
        assert!(write_field(&mut frame, Some(&layout), Field::L4Dst, 53));
        assert_eq!(frame.bytes()[40..42], [0, 0]);
        frame.offload.csum = Csum::Verified;
        assert!(!set_partial(&mut frame, &layout));
    }

    #[test]
    fn a_check_field_outside_of_the_frame_is_refused() {
        let mut frame = frame_of(&[0; 40]);
        frame.offload.csum = Csum::Partial { start: 30, offset: 9 };
        assert_eq!(complete_checksum(&mut frame), Err(DropReason::OffloadInvalid));
        frame.offload.csum = Csum::Partial { start: 60_000, offset: 6 };
        assert_eq!(complete_checksum(&mut frame), Err(DropReason::OffloadInvalid));
    }

    fn any_write() -> impl Strategy<Value = (Field, u128)> {
        let fields = [
            Field::EthDst,
            Field::EthSrc,
            Field::IpSrc,
            Field::IpDst,
            Field::IpTos,
            Field::IpTtl,
            Field::L4Src,
            Field::L4Dst,
        ];
        (prop::sample::select(fields.to_vec()), any::<u128>())
    }

    /// The twin: writes the field's bytes alone; the checksums are recomputed from nothing afterwards.
    fn poke(bytes: &mut [u8], layout: &Layout, field: Field, value: u128) {
        let l3 = layout.l3;
        let mut put =
            |at: usize, width: usize| bytes[at..at + width].copy_from_slice(&value.to_be_bytes()[16 - width..]);
        match (field, layout.v6) {
            (Field::EthDst, _) => put(0, 6),
            (Field::EthSrc, _) => put(6, 6),
            (Field::IpSrc, true) => put(l3 + 8, 16),
            (Field::IpDst, true) => put(l3 + 24, 16),
            (Field::IpSrc, false) => put(l3 + 12, 4),
            (Field::IpDst, false) => put(l3 + 16, 4),
            (Field::IpTtl, true) => put(l3 + 7, 1),
            (Field::IpTtl, false) => put(l3 + 8, 1),
            (Field::IpTos, false) => put(l3 + 1, 1),
            (Field::IpTos, true) => {
                let word = u16::from_be_bytes([bytes[l3], bytes[l3 + 1]]) & 0xf00f | (value as u16 & 0xff) << 4;
                bytes[l3..l3 + 2].copy_from_slice(&word.to_be_bytes());
            }
            (Field::L4Src, _) => put(layout.l4, 2),
            (Field::L4Dst, _) => put(layout.l4 + 2, 2),
            _ => unreachable!("not generated"),
        }
    }

    proptest! {
        #[test]
        fn partial_and_finished_is_the_same_frame(packet in any_packet()) {
            let bytes = packet.build();
            let (mut frame, layout) = partial(&bytes);
            prop_assert_ne!(frame.bytes(), &bytes[..]);
            complete_checksum(&mut frame).unwrap();
            prop_assert_eq!(frame.bytes(), &bytes[..]);
            prop_assert_eq!(frame.offload.csum, Csum::Verified);
            prop_assert_eq!(verify(frame.bytes(), &layout), Verdict::Good);
        }

        #[test]
        fn writing_fields_is_poking_bytes_and_summing_again(packet in any_packet(), writes in prop::collection::vec(any_write(), 1..6), is_partial in any::<bool>()) {
            let mut bytes = packet.build();
            let layout = Layout::of(&bytes).unwrap();
            let mut frame = if is_partial { partial(&bytes).0 } else { frame_of(&bytes) };
            for (field, value) in writes {
                poke(&mut bytes, &layout, field, value);
                recompute(&mut bytes);
                prop_assert!(write_field(&mut frame, Some(&layout), field, value));
            }
            complete_checksum(&mut frame).unwrap();
            prop_assert_eq!(frame.bytes(), &bytes[..]);
        }

        #[test]
        fn a_wrong_checksum_stays_wrong(packet in any_packet(), (field, value) in any_write(), error in 1u16..0xffff) {
            let mut bytes = packet.build();
            let layout = Layout::of(&bytes).unwrap();
            let at = layout.l4 + layout.check_offset().unwrap();
            let check = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let wrong = (Sum::word(check) + Sum::word(error)).fold();
            bytes[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
            prop_assume!(verify(&bytes, &layout) == Verdict::Bad);
            let mut frame = frame_of(&bytes);
            write_field(&mut frame, Some(&layout), field, value);
            prop_assert_eq!(verify_frame(&mut frame, &layout), Verdict::Bad);
            prop_assert_eq!(frame.offload.csum, Csum::Unknown);
        }
    }
}
