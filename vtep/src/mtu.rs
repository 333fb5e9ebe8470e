//! What happens to a frame that has to pass a tunnel: VTEPs never fragment VXLAN (RFC 7348, section 4.3), so a frame
//! that is too long is cut, answered or fragmented inside, or counted. Nothing vanishes for its size alone.

use std::time::{Duration, Instant};

use weft_packet::ipv4::{self, PROTOCOL_ICMP};
use weft_packet::ipv6::{self, NEXT_ICMPV6};
use weft_packet::{Frame, GsoKind, Layout, MacAddr};

/// Outer IPv4, UDP and VXLAN headers and the inner Ethernet header.
pub const OVERHEAD_V4: u16 = 50;
/// The same with an outer IPv6 header.
pub const OVERHEAD_V6: u16 = 70;

/// How a frame gets through a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// As it is; a super-frame in segments of its own size.
    Fits,
    /// A TCP super-frame: in segments with at most this many payload bytes.
    Resegment(u16),
    /// Answer with ICMP fragmentation needed, which names this MTU, and drop.
    AnswerV4(u16),
    /// Answer with ICMPv6 packet too big, which names this MTU, and drop.
    AnswerV6(u16),
    /// Fragment the inner IPv4 packet to this MTU; a UDP super-frame is segmented first, a partial checksum finished.
    FragmentInside(u16),
    /// Drop as [`Oversize`](weft_packet::DropReason::Oversize): it can be neither fragmented nor answered.
    Oversize,
}

/// The largest inner IP packet over an underlay of this MTU; 0 when not even the headers fit.
pub const fn inner_mtu(underlay_mtu: u16, outer_v6: bool) -> u16 {
    underlay_mtu.saturating_sub(if outer_v6 { OVERHEAD_V6 } else { OVERHEAD_V4 })
}

/// How `frame` gets through a tunnel that carries inner IP packets of `mtu` bytes (see [`inner_mtu`]).
pub fn fit(frame: &Frame, mtu: u16) -> Fit {
    let bytes = frame.bytes();
    let longest = usize::from(mtu) + 14;
    if frame.len() <= longest {
        return Fit::Fits;
    }
    let Some(layout) = Layout::of(bytes) else { return Fit::Oversize };
    if let (Some(gso), Some(payload)) = (frame.offload.gso, layout.payload(bytes)) {
        if payload + usize::from(gso.size) <= longest {
            return Fit::Fits;
        }
        if gso.kind != GsoKind::Udp && payload < longest {
            return Fit::Resegment((longest - payload) as u16);
        }
    } else if layout.end <= longest {
        // Only padding is too long. The sender of the outer packet cannot know where the inner one ends.
        return Fit::Oversize;
    }
    too_long(bytes, &layout, mtu)
}

fn too_long(bytes: &[u8], layout: &Layout, mtu: u16) -> Fit {
    let dont_fragment = !layout.v6 && bytes[layout.l3 + 6] & 0x40 != 0;
    if !layout.v6 && !dont_fragment && usize::from(mtu) >= ipv4::MTU_MIN {
        return Fit::FragmentInside(mtu);
    }
    match (answerable(bytes, layout), layout.v6) {
        (true, false) if usize::from(mtu) >= ipv4::MTU_MIN => Fit::AnswerV4(mtu),
        // Hosts ignore an answer that names less (RFC 8201, section 4).
        (true, true) if usize::from(mtu) >= ipv6::MTU_MIN => Fit::AnswerV6(mtu),
        _ => Fit::Oversize,
    }
}

/// RFC 1122 section 3.2.2 and RFC 4443 section 2.4: no answer to an ICMP error, a later fragment, a group, or a source
/// that is no single host.
fn answerable(bytes: &[u8], layout: &Layout) -> bool {
    let destination = MacAddr([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]);
    if destination.is_group() || layout.later_fragment {
        return false;
    }
    let kind = bytes.get(layout.l4).copied();
    if layout.v6 {
        let (src, dst) = layout.addresses_v6(bytes);
        let error = layout.protocol == NEXT_ICMPV6 && kind.is_none_or(|kind| kind < 128);
        return !error && !src.is_unspecified() && !src.is_multicast() && !dst.is_multicast();
    }
    let (src, dst) = layout.addresses_v4(bytes);
    let error = layout.protocol == PROTOCOL_ICMP && kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12));
    let group = |ip: std::net::Ipv4Addr| ip.is_multicast() || ip.is_broadcast();
    !error && !src.is_unspecified() && !src.is_loopback() && !group(src) && !group(dst)
}

/// A token bucket for one port's answers.
#[derive(Debug, Clone)]
pub struct AnswerLimiter {
    interval: Duration,
    burst: u32,
    tokens: u32,
    /// When the last token was due.
    filled: Instant,
}

impl AnswerLimiter {
    /// `burst` answers at once, and one more each `interval`. Starts full.
    ///
    /// # Panics
    /// When `burst` or `interval` is zero: the caller's bug.
    pub fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        assert!(burst > 0 && !interval.is_zero(), "a limiter that never allows, or always");
        Self { interval, burst, tokens: burst, filled: now }
    }

    /// Takes a token; `false` means [`ReplyLimited`](weft_packet::DropReason::ReplyLimited).
    pub fn allow(&mut self, now: Instant) -> bool {
        let due = now.saturating_duration_since(self.filled).as_nanos() / self.interval.as_nanos();
        if due >= u128::from(self.burst - self.tokens) {
            self.tokens = self.burst;
            self.filled = now;
        } else {
            self.tokens += due as u32;
            self.filled += self.interval * due as u32;
        }
        let allowed = self.tokens > 0;
        self.tokens -= u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use weft_packet::{Csum, FramePool, Gso, Offload};

    use super::*;

    fn v4(len: usize, dont_fragment: bool, protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 14 + len];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&(len as u16).to_be_bytes());
        frame[20] = if dont_fragment { 0x40 } else { 0 };
        frame[23] = protocol;
        frame[26..34].copy_from_slice(&[10, 9, 0, 1, 10, 9, 0, 2]);
        match protocol {
            6 => frame[46] = 0x50,
            17 => frame[38..40].copy_from_slice(&(len as u16 - 20).to_be_bytes()),
            1 => frame[34] = 8,
            _ => {}
        }
        frame
    }

    fn v6(len: usize, protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 14 + len];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[14] = 0x60;
        frame[18..20].copy_from_slice(&(len as u16 - 40).to_be_bytes());
        frame[20] = protocol;
        frame[22..54].copy_from_slice(&[0xfd; 32]);
        match protocol {
            6 => frame[66] = 0x50,
            17 => frame[58..60].copy_from_slice(&(len as u16 - 40).to_be_bytes()),
            58 => frame[54] = 128,
            _ => {}
        }
        frame
    }

    fn fit_of(bytes: &[u8], gso: Option<(GsoKind, u16)>, mtu: u16) -> Fit {
        let mut pool = FramePool::new(1);
        let mut frame = pool.take().unwrap();
        frame.fill(bytes);
        if let Some((kind, size)) = gso {
            let csum = Csum::Partial { start: 34, offset: 16 };
            frame.offload = Offload { csum, gso: Some(Gso { kind, size, ecn: false }) };
        }
        fit(&frame, mtu)
    }

    #[test]
    fn the_guest_mtu_is_the_underlays_less_the_headers() {
        assert_eq!((inner_mtu(1600, false), inner_mtu(1600, true), inner_mtu(40, false)), (1550, 1530, 0));
    }

    #[test]
    fn a_plain_frame_is_passed_answered_fragmented_or_counted() {
        assert_eq!(fit_of(&v4(1450, true, 17), None, 1450), Fit::Fits);
        assert_eq!(fit_of(&v4(1451, true, 17), None, 1450), Fit::AnswerV4(1450));
        assert_eq!(fit_of(&v4(1451, false, 17), None, 1450), Fit::FragmentInside(1450));
        assert_eq!(fit_of(&v6(1451, 17), None, 1450), Fit::AnswerV6(1450));
        assert_eq!(fit_of(&v6(1279, 17), None, 1230), Fit::Oversize, "a host ignores an MTU under 1280");
        assert_eq!(fit_of(&[0; 1500], None, 1450), Fit::Oversize, "not IP");
    }

    #[test]
    fn nobody_answers_an_icmp_error_a_group_or_an_unspecified_source() {
        let mut error = v4(1451, true, 1);
        assert_eq!(fit_of(&error, None, 1450), Fit::AnswerV4(1450));
        error[34] = 3;
        assert_eq!(fit_of(&error, None, 1450), Fit::Oversize);
        let mut group = v4(1451, true, 17);
        group[0] = 1;
        assert_eq!(fit_of(&group, None, 1450), Fit::Oversize);
        let mut unspecified = v6(1451, 58);
        assert_eq!(fit_of(&unspecified, None, 1450), Fit::AnswerV6(1450));
        unspecified[22..38].fill(0);
        assert_eq!(fit_of(&unspecified, None, 1450), Fit::Oversize);
    }

    #[test]
    fn a_tcp_super_frame_is_cut_smaller_and_a_udp_one_never() {
        assert_eq!(fit_of(&v4(40_000, true, 6), Some((GsoKind::TcpV4, 1410)), 1450), Fit::Fits);
        assert_eq!(fit_of(&v4(40_000, true, 6), Some((GsoKind::TcpV4, 1460)), 1450), Fit::Resegment(1410));
        assert_eq!(fit_of(&v6(40_000, 6), Some((GsoKind::TcpV6, 1440)), 1230), Fit::Resegment(1170));
        assert_eq!(fit_of(&v4(40_000, true, 17), Some((GsoKind::Udp, 1422)), 1450), Fit::Fits);
        assert_eq!(fit_of(&v4(40_000, true, 17), Some((GsoKind::Udp, 1472)), 1450), Fit::AnswerV4(1450));
        assert_eq!(fit_of(&v4(40_000, false, 17), Some((GsoKind::Udp, 1472)), 1450), Fit::FragmentInside(1450));
    }

    #[test]
    fn the_limiter_allows_a_burst_and_then_its_rate() {
        let start = Instant::now();
        let interval = Duration::from_millis(10);
        let mut limiter = AnswerLimiter::new(3, interval, start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!([0, 0, 0, 0, 9].map(|ms| limiter.allow(at(ms))), [true, true, true, false, false]);
        assert_eq!([10, 10, 25, 30, 30].map(|ms| limiter.allow(at(ms))), [true, false, true, true, false]);
        assert_eq!([9000, 9000, 9000, 9000].map(|ms| limiter.allow(at(ms))), [true, true, true, false]);
    }
}
