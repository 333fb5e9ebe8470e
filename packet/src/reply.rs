//! Frames that the host makes in answer to a guest's: ARP replies, neighbour advertisements and the two reports that
//! a packet is too large.
//!
//! The reports come from the packet's own destination address, as the kernel's do for bridged tunnels: the switch has
//! no address of its own in the guest's network. An answer goes back where the frame came from, with its tags.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::addr::MacAddr;
use crate::arp::{ArpHeader, ArpView, OPERATION_REPLY, OPERATION_REQUEST};
use crate::drop_reason::DropReason;
use crate::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use crate::frame::Frame;
use crate::icmpv4::{self, CODE_FRAGMENTATION_NEEDED, Icmpv4Header, TYPE_UNREACHABLE};
use crate::icmpv6::{self, Icmpv6Header, TYPE_PACKET_TOO_BIG};
use crate::ipv4::{self, Ipv4Header, Ipv4View, PROTOCOL_ICMP};
use crate::ipv6::{self, Ipv6Header, Ipv6View, NEXT_ICMPV6};
use crate::key::Field;
use crate::nd::{self, FLAG_OVERRIDE, FLAG_SOLICITED, NdHeader, NdView};
use crate::parse::{FRAGMENT_LATER, Ingress, Parsed, parse};

/// Bytes of the largest ICMP report with its IPv4 header (RFC 1812, section 4.3.2.3).
const REPORT_V4_MAX: usize = 576;
const TTL: u8 = 64;
/// Precedence "internetwork control", as routers set it on their reports (RFC 1812, section 4.3.2.5).
const REPORT_TOS: u8 = 0xc0;
/// What neighbour discovery must arrive with (RFC 4861, section 7.1).
const ND_HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Why no answer was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    /// The frame cannot be read.
    #[error("the frame is malformed ({})", .0.name())]
    Malformed(DropReason),
    /// The frame is not one that this answer is for.
    #[error("the frame does not ask for this answer")]
    NotAsked,
    /// The frame reports an error itself.
    #[error("an error report is never answered by another")]
    IsError,
    /// Only the first fragment is answered.
    #[error("a later fragment is not answered")]
    LaterFragment,
    /// The frame is from or to a group, or from or to no single host.
    #[error("source or destination is not one host")]
    NotOneHost,
    /// IPv4 without DF: to be cut, not refused.
    #[error("the packet may be fragmented")]
    MayBeFragmented,
}

/// Answers an ARP request: its target is at `mac`.
pub fn arp_reply(request: &[u8], mac: MacAddr, out: &mut Frame) -> Result<(), NoReply> {
    let parsed = read(request, ETHERTYPE_ARP)?;
    let arp = ArpView::parse(&request[parsed.l3.into()..]).map_err(|_| NoReply::NotAsked)?;
    // An announcement (RFC 5227, section 1.1) asks nobody.
    if arp.operation() != OPERATION_REQUEST || arp.sender_ip() == arp.target_ip() {
        return Err(NoReply::NotAsked);
    }
    if arp.sender_mac().is_group() || is_not_one_host_v4(arp.target_ip()) {
        return Err(NoReply::NotOneHost);
    }
    let reply = ArpHeader {
        operation: OPERATION_REPLY,
        sender_mac: mac,
        sender_ip: arp.target_ip(),
        target_mac: arp.sender_mac(),
        target_ip: arp.sender_ip(),
    };
    reply.emit(start(request, &parsed, source(&parsed), mac, crate::arp::PACKET_LEN, out));
    Ok(())
}

/// Answers a neighbour solicitation: its target is at `mac`. A solicitation from `::` (duplicate address detection)
/// is answered to all nodes, unsolicited (RFC 4861, section 7.2.4). Its checksum is not verified: on a wrong one the
/// answer is at worst about an address that nobody asked for.
pub fn neighbor_advertisement(solicitation: &[u8], mac: MacAddr, out: &mut Frame) -> Result<(), NoReply> {
    let parsed = read(solicitation, ETHERTYPE_IPV6)?;
    let ip = Ipv6View::parse(&solicitation[parsed.l3.into()..]).map_err(|_| NoReply::NotAsked)?;
    if parsed.l4 == 0 || parsed.key.field(Field::IpProto) as u8 != NEXT_ICMPV6 || ip.hop_limit() != ND_HOP_LIMIT {
        return Err(NoReply::NotAsked);
    }
    let end = usize::from(parsed.l3) + parsed.ip_len as usize;
    let asked = NdView::parse(&solicitation[parsed.l4.into()..end]).map_err(|_| NoReply::NotAsked)?;
    if !asked.is_solicitation() {
        return Err(NoReply::NotAsked);
    }
    if ip.src().is_multicast() {
        return Err(NoReply::NotOneHost);
    }
    let target = asked.target();
    let (flags, to, to_mac) = if ip.src().is_unspecified() {
        // Section 7.1.1: such a solicitation goes to the solicited-node group and names no link-layer address.
        if asked.link_layer().is_some() || ip.dst() != nd::solicited_node(target) {
            return Err(NoReply::NotAsked);
        }
        (FLAG_OVERRIDE, ALL_NODES, nd::group_mac(ALL_NODES))
    } else {
        (FLAG_SOLICITED | FLAG_OVERRIDE, ip.src(), source(&parsed))
    };
    let len = nd::MESSAGE_WITH_OPTION_LEN;
    let packet = start(solicitation, &parsed, to_mac, mac, ipv6::HEADER_LEN + len, out);
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: len as u16,
        next_header: NEXT_ICMPV6,
        hop_limit: ND_HOP_LIMIT,
        src: target,
        dst: to,
    };
    header.emit(packet);
    let advertisement = NdHeader::Advertisement { flags, target, link_layer: Some(mac) };
    advertisement.emit(target, to, &mut packet[ipv6::HEADER_LEN..]);
    Ok(())
}

/// Tells the sender of an IPv4 packet with DF that only `mtu` bytes fit (RFC 1191, section 4).
pub fn fragmentation_needed(frame: &[u8], mtu: u16, out: &mut Frame) -> Result<(), NoReply> {
    let parsed = read(frame, ETHERTYPE_IPV4)?;
    let ip = Ipv4View::parse(&frame[parsed.l3.into()..]).map_err(|_| NoReply::NotAsked)?;
    refuse_report(&parsed, ip.protocol() == PROTOCOL_ICMP, icmpv4::is_error)?;
    if is_not_one_host_v4(ip.src()) || is_not_one_host_v4(ip.dst()) {
        return Err(NoReply::NotOneHost);
    }
    if !ip.dont_fragment() {
        return Err(NoReply::MayBeFragmented);
    }
    let head_len = ipv4::HEADER_LEN + icmpv4::HEADER_LEN;
    let quote = quote(frame, &parsed, REPORT_V4_MAX - head_len);
    let packet = start(frame, &parsed, source(&parsed), destination(&parsed), head_len + quote.len(), out);
    packet[head_len..].copy_from_slice(quote);
    let header = Ipv4Header {
        tos: REPORT_TOS,
        payload_len: (packet.len() - ipv4::HEADER_LEN) as u16,
        // Atomic by DF, so the identification means nothing (RFC 6864, section 4.1).
        identification: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: TTL,
        protocol: PROTOCOL_ICMP,
        src: ip.dst(),
        dst: ip.src(),
    };
    header.emit(packet);
    let report = Icmpv4Header { kind: TYPE_UNREACHABLE, code: CODE_FRAGMENTATION_NEEDED, word: mtu.into() };
    report.emit(&mut packet[ipv4::HEADER_LEN..]);
    Ok(())
}

/// Tells the sender of an IPv6 packet that only `mtu` bytes fit (RFC 4443, section 3.2).
pub fn packet_too_big(frame: &[u8], mtu: u32, out: &mut Frame) -> Result<(), NoReply> {
    let parsed = read(frame, ETHERTYPE_IPV6)?;
    let ip = Ipv6View::parse(&frame[parsed.l3.into()..]).map_err(|_| NoReply::NotAsked)?;
    let is_icmp = parsed.key.field(Field::IpProto) as u8 == NEXT_ICMPV6;
    refuse_report(&parsed, is_icmp, icmpv6::is_error)?;
    if is_not_one_host_v6(ip.src()) || is_not_one_host_v6(ip.dst()) {
        return Err(NoReply::NotOneHost);
    }
    let head_len = ipv6::HEADER_LEN + icmpv6::HEADER_LEN;
    let quote = quote(frame, &parsed, ipv6::MTU_MIN - head_len);
    let packet = start(frame, &parsed, source(&parsed), destination(&parsed), head_len + quote.len(), out);
    packet[head_len..].copy_from_slice(quote);
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: (packet.len() - ipv6::HEADER_LEN) as u16,
        next_header: NEXT_ICMPV6,
        hop_limit: TTL,
        src: ip.dst(),
        dst: ip.src(),
    };
    header.emit(packet);
    let report = Icmpv6Header { kind: TYPE_PACKET_TOO_BIG, code: 0, word: mtu };
    report.emit(ip.dst(), ip.src(), &mut packet[ipv6::HEADER_LEN..]);
    Ok(())
}

fn read(frame: &[u8], ethertype: u16) -> Result<Parsed, NoReply> {
    let parsed = parse(frame, Ingress::default()).map_err(NoReply::Malformed)?;
    let is_it = parsed.key.field(Field::EthType) as u16 == ethertype;
    if is_it { Ok(parsed) } else { Err(NoReply::NotAsked) }
}

/// The rules that both reports share (RFC 1122, section 3.2.2; RFC 4443, section 2.4 e).
fn refuse_report(parsed: &Parsed, is_icmp: bool, is_error: fn(u8) -> bool) -> Result<(), NoReply> {
    if parsed.key.field(Field::Fragment) as u8 == FRAGMENT_LATER {
        return Err(NoReply::LaterFragment);
    }
    if destination(parsed).is_group() {
        return Err(NoReply::NotOneHost);
    }
    let kind = parsed.key.field(Field::L4Src) as u8;
    if is_icmp && is_error(kind) { Err(NoReply::IsError) } else { Ok(()) }
}

fn is_not_one_host_v4(ip: Ipv4Addr) -> bool {
    let class_e = ip.octets()[0] >= 240;
    ip.octets()[0] == 0 || ip.is_loopback() || ip.is_multicast() || class_e
}

fn is_not_one_host_v6(ip: Ipv6Addr) -> bool {
    ip.is_unspecified() || ip.is_loopback() || ip.is_multicast()
}

fn source(parsed: &Parsed) -> MacAddr {
    parsed.key.mac(Field::EthSrc)
}

fn destination(parsed: &Parsed) -> MacAddr {
    parsed.key.mac(Field::EthDst)
}

fn quote<'a>(frame: &'a [u8], parsed: &Parsed, len_max: usize) -> &'a [u8] {
    let packet = &frame[parsed.l3.into()..];
    &packet[..(parsed.ip_len as usize).min(len_max)]
}

/// Makes `out` a frame with `frame`'s tags and type and room for a packet, which it returns.
fn start<'a>(
    frame: &[u8],
    parsed: &Parsed,
    dst: MacAddr,
    src: MacAddr,
    packet_len: usize,
    out: &'a mut Frame,
) -> &'a mut [u8] {
    let l3 = usize::from(parsed.l3);
    out.fill(&[]);
    out.set_len(l3 + packet_len);
    let (link, packet) = out.bytes_mut().split_at_mut(l3);
    link[..6].copy_from_slice(&dst.0);
    link[6..12].copy_from_slice(&src.0);
    link[12..].copy_from_slice(&frame[12..l3]);
    packet
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
