//! From a frame's bytes to its flow key, in one pass: the data plane's first step for every frame.
//!
//! Lengths are checked, checksums are not (see [`crate::ipv4`]): a frame is refused only where the fields behind a
//! lie would be somebody else's bytes. Bytes behind the IP packet are Ethernet padding, a packet may be larger than
//! any MTU (a super-frame), and protocols that we do not know pass with the fields that we do know.

use crate::addr::MacAddr;
use crate::arp::{ArpError, ArpView};
use crate::drop_reason::DropReason;
use crate::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_LLC, ETHERTYPE_MIN, EthernetView};
use crate::frame::FRAME_LEN_MAX;
use crate::icmpv4::{self, Icmpv4View};
use crate::icmpv6::{self, Icmpv6View, TYPE_NEIGHBOR_ADVERTISEMENT, TYPE_NEIGHBOR_SOLICITATION};
use crate::ipv4::{Ipv4View, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::ipv6::{self, Ipv6View, NEXT_ICMPV6};
use crate::key::{Field, FlowKey};
use crate::nd::NdView;
use crate::tcp::TcpView;
use crate::udp::{self, UdpView};
use crate::vlan::{self, VlanView};

/// Value of [`Field::Fragment`]: a whole packet.
pub const FRAGMENT_NONE: u8 = 0;
/// Value of [`Field::Fragment`]: the first fragment.
pub const FRAGMENT_FIRST: u8 = 1;
/// Value of [`Field::Fragment`]: a fragment behind the first.
pub const FRAGMENT_LATER: u8 = 3;

const TAGS_MAX: usize = 2;
const VLAN_TAG_PRESENT: u16 = 0x1000;
const GROUP_BIT: u64 = 1 << 40;

/// Where a frame came from: a port, or a remote's tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ingress {
    /// The port; 0 when the frame came out of a tunnel.
    pub in_port: u32,
    /// The remote; 0 when the frame came from a port.
    pub remote: u32,
    /// The VNI; 0 when the frame came from a port.
    pub vni: u32,
}

/// What one pass over a frame found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// The flow key; metadata and registers are zero.
    pub key: FlowKey,
    /// Where the payload of Ethernet and its tags starts: the IP header, or whatever there is.
    pub l3: u16,
    /// Where the TCP, UDP, ICMP or ICMPv6 header starts; 0 when there is none, as in a later fragment.
    pub l4: u16,
    /// Where the payload of the innermost header that was read starts.
    pub payload: u16,
    /// Bytes of the IP packet from `l3` on, without Ethernet padding; 0 when it is not IP.
    pub ip_len: u32,
}

/// Reads `frame`, which came from `ingress`, or says why it must be dropped.
#[inline]
pub fn parse(frame: &[u8], ingress: Ingress) -> Result<Parsed, DropReason> {
    let mut parsed = Parsed::EMPTY;
    parse_into(frame, ingress, &mut parsed)?;
    Ok(parsed)
}

/// [`parse`] into a place that the caller has already, for the hot path: it saves moving 176 bytes. After an error
/// `parsed` holds what was read up to there.
#[inline]
pub fn parse_into(frame: &[u8], ingress: Ingress, parsed: &mut Parsed) -> Result<(), DropReason> {
    if frame.len() > FRAME_LEN_MAX {
        return Err(DropReason::MalformedEthernet);
    }
    if parsed.read_plain(frame, ingress).is_some() {
        return Ok(());
    }
    parse_any(frame, ingress, parsed)
}

/// The general way, for frames of any kind.
fn parse_any(frame: &[u8], ingress: Ingress, parsed: &mut Parsed) -> Result<(), DropReason> {
    let ethernet = EthernetView::parse(frame).map_err(|_| DropReason::MalformedEthernet)?;
    let (dst, src) = ethernet.addresses();
    if src & GROUP_BIT != 0 {
        return Err(DropReason::GroupSource);
    }
    if src == 0 {
        return Err(DropReason::ZeroSource);
    }
    let mut link = Link { ethertype: ethernet.ethertype(), tci: 0, packet: ethernet.payload() };
    if vlan::is_tag(link.ethertype) {
        link = link.without_tags()?;
    }
    let l3 = (frame.len() - link.packet.len()) as u16;
    *parsed = Parsed { l3, payload: l3, ..Parsed::EMPTY };
    let key = &mut parsed.key;
    key.set(Field::InPort, ingress.in_port.into());
    key.set(Field::InRemote, ingress.remote.into());
    key.set(Field::Vni, ingress.vni.into());
    key.set(Field::EthDst, dst.into());
    key.set(Field::EthSrc, src.into());
    key.set(Field::EthType, link.ethertype.into());
    key.set(Field::VlanTci, link.tci.into());
    match link.ethertype {
        ETHERTYPE_IPV4 => parsed.read_ipv4(link.packet),
        ETHERTYPE_IPV6 => parsed.read_ipv6(link.packet),
        ETHERTYPE_ARP => parsed.read_arp(link.packet),
        ..ETHERTYPE_MIN => {
            key.set(Field::EthType, ETHERTYPE_LLC.into());
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A number that frames of one flow share and flows spread over, for source ports and queues.
///
/// Made of addresses, protocol and L4 ports; of MAC addresses where there is no IP. All fragments of a packet get the
/// same number, which is why none of them counts its ports. It is not keyed: never use it for a table that a guest
/// could fill.
#[inline]
pub fn flow_hash(key: &FlowKey) -> u32 {
    let (src, dst) = (key.field(Field::IpSrc), key.field(Field::IpDst));
    let mut rest = (key.field(Field::IpProto) as u64) << 32;
    if key.field(Field::Fragment) as u8 == FRAGMENT_NONE {
        rest |= (key.field(Field::L4Src) as u64) << 16 | key.field(Field::L4Dst) as u64;
    }
    let mut macs = 0;
    if !matches!(key.field(Field::EthType) as u16, ETHERTYPE_IPV4 | ETHERTYPE_IPV6) {
        let (to, from) = (key.field(Field::EthDst) as u64, key.field(Field::EthSrc) as u64);
        macs = mix(to ^ HASH_KEYS[4], from ^ HASH_KEYS[5]);
    }
    let addresses = mix(src as u64 ^ HASH_KEYS[0], dst as u64 ^ HASH_KEYS[1])
        ^ mix((src >> 64) as u64 ^ HASH_KEYS[2], (dst >> 64) as u64 ^ HASH_KEYS[3]);
    let hash = mix(addresses ^ macs ^ HASH_KEYS[4], rest ^ HASH_KEYS[5]);
    (hash >> 32) as u32 ^ hash as u32
}

struct Link<'a> {
    ethertype: u16,
    tci: u16,
    packet: &'a [u8],
}

impl Link<'_> {
    #[cold]
    fn without_tags(mut self) -> Result<Self, DropReason> {
        for _ in 0..TAGS_MAX {
            if !vlan::is_tag(self.ethertype) {
                break;
            }
            let tag = VlanView::parse(self.packet).map_err(|_| DropReason::MalformedEthernet)?;
            if self.tci == 0 {
                self.tci = tag.tci() | VLAN_TAG_PRESENT;
            }
            self.ethertype = tag.ethertype();
            self.packet = tag.payload();
        }
        Ok(self)
    }
}

impl Parsed {
    /// Nothing read.
    pub const EMPTY: Self = Self { key: FlowKey::ZERO, l3: 0, l4: 0, payload: 0, ip_len: 0 };

    /// What most traffic is made of, read in one go: TCP or UDP in whole IPv4 packets without tags and options. `None`, and
    /// nothing read, for anything else, also for a frame that is not right: the general way knows why.
    #[inline]
    fn read_plain(&mut self, frame: &[u8], ingress: Ingress) -> Option<()> {
        let (ethernet, packet) = frame.split_first_chunk::<14>()?;
        let ip: &[u8; 20] = packet.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([ip[at], ip[at + 1]]);
        let address = |at: usize| u32::from_be_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, type_high, type_low] = *ethernet;
        let src = u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]);
        let plain = u16::from_be_bytes([type_high, type_low]) == ETHERTYPE_IPV4
            && ip[0] == 0x45
            && word(6) & 0x3fff == 0
            && src & GROUP_BIT == 0
            && src != 0;
        if !plain {
            return None;
        }
        let l4 = packet.get(20..usize::from(word(2)))?;
        let (ports, flags, l4_len) = match ip[9] {
            PROTOCOL_UDP => UdpView::parse(l4).ok().map(|udp| ((udp.src(), udp.dst()), 0, udp::HEADER_LEN))?,
            PROTOCOL_TCP => {
                TcpView::parse(l4).ok().map(|tcp| ((tcp.src(), tcp.dst()), tcp.flags(), tcp.header_len()))?
            }
            _ => return None,
        };
        let key = FlowKey::ZERO
            .with(Field::InPort, ingress.in_port.into())
            .with(Field::InRemote, ingress.remote.into())
            .with(Field::Vni, ingress.vni.into())
            .with(Field::IpTos, ip[1].into())
            .with(Field::IpProto, ip[9].into())
            .with(Field::EthDst, u64::from_be_bytes([0, 0, d0, d1, d2, d3, d4, d5]).into())
            .with(Field::EthType, ETHERTYPE_IPV4.into())
            .with(Field::EthSrc, src.into())
            .with(Field::L4Src, ports.0.into())
            .with(Field::L4Dst, ports.1.into())
            .with(Field::IpSrc, address(12).into())
            .with(Field::IpDst, address(16).into())
            .with(Field::IpTtl, ip[8].into())
            .with(Field::TcpFlags, flags.into());
        *self = Self { key, l3: 14, l4: 34, payload: 34 + l4_len as u16, ip_len: word(2).into() };
        Some(())
    }

    fn read_arp(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        let arp = match ArpView::parse(packet) {
            Ok(arp) => arp,
            Err(ArpError::OtherAddresses { .. }) => return Ok(()),
            Err(ArpError::Truncated(_) | ArpError::Lengths { .. }) => return Err(DropReason::MalformedArp),
        };
        let key = &mut self.key;
        // Operations beyond a byte are experimental (RFC 5494); none of them may pass for a request or reply.
        key.set(Field::IpProto, arp.operation().min(0xff).into());
        key.set(Field::IpSrc, arp.sender_ip().to_bits().into());
        key.set(Field::IpDst, arp.target_ip().to_bits().into());
        key.set(Field::ArpSha, arp.sender_mac().to_u64().into());
        key.set(Field::ArpTha, arp.target_mac().to_u64().into());
        Ok(())
    }

    #[inline]
    fn read_ipv4(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        let ip = Ipv4View::parse(packet).map_err(|_| DropReason::MalformedIpv4)?;
        self.ip_len = ip.total_len().into();
        self.payload += ip.header_len() as u16;
        let fragment = match ip.is_fragment() {
            false => FRAGMENT_NONE,
            true if ip.fragment_offset() == 0 => FRAGMENT_FIRST,
            true => FRAGMENT_LATER,
        };
        let key = &mut self.key;
        key.set(Field::Fragment, fragment.into());
        key.set(Field::IpTos, ip.tos().into());
        key.set(Field::IpProto, ip.protocol().into());
        key.set(Field::IpSrc, ip.src().to_bits().into());
        key.set(Field::IpDst, ip.dst().to_bits().into());
        key.set(Field::IpTtl, ip.ttl().into());
        match ip.protocol() {
            _ if fragment == FRAGMENT_LATER => Ok(()),
            PROTOCOL_TCP => self.read_tcp(ip.payload()),
            PROTOCOL_UDP => self.read_udp(ip.payload(), fragment),
            PROTOCOL_ICMP => self.read_icmpv4(ip.payload()),
            _ => Ok(()),
        }
    }

    #[inline]
    fn read_ipv6(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        let ip = Ipv6View::parse(packet).map_err(|_| DropReason::MalformedIpv6)?;
        let chain = ip.chain().map_err(|_| DropReason::MalformedIpv6)?;
        self.ip_len = (ipv6::HEADER_LEN + ip.payload().len()) as u32;
        self.payload += (ipv6::HEADER_LEN + chain.len) as u16;
        let fragment = match chain.fragment {
            None => FRAGMENT_NONE,
            Some(fragment) if fragment.is_atomic() => FRAGMENT_NONE,
            Some(fragment) if fragment.offset == 0 => FRAGMENT_FIRST,
            Some(_) => FRAGMENT_LATER,
        };
        let key = &mut self.key;
        key.set(Field::Fragment, fragment.into());
        key.set(Field::IpTos, ip.traffic_class().into());
        key.set(Field::IpProto, chain.protocol.into());
        key.set(Field::IpSrc, ip.src().to_bits());
        key.set(Field::IpDst, ip.dst().to_bits());
        key.set(Field::IpTtl, ip.hop_limit().into());
        let body = &ip.payload()[chain.len..];
        match chain.protocol {
            _ if fragment == FRAGMENT_LATER => Ok(()),
            PROTOCOL_TCP => self.read_tcp(body),
            PROTOCOL_UDP => self.read_udp(body, fragment),
            NEXT_ICMPV6 => self.read_icmpv6(body, fragment),
            _ => Ok(()),
        }
    }

    #[inline]
    fn read_tcp(&mut self, segment: &[u8]) -> Result<(), DropReason> {
        let tcp = TcpView::parse(segment).map_err(|_| DropReason::MalformedL4)?;
        self.set_l4(tcp.src(), tcp.dst(), tcp.header_len());
        self.key.set(Field::TcpFlags, tcp.flags().into());
        Ok(())
    }

    #[inline]
    fn read_udp(&mut self, datagram: &[u8], fragment: u8) -> Result<(), DropReason> {
        let udp = match fragment {
            FRAGMENT_NONE => UdpView::parse(datagram),
            _ => UdpView::parse_first_fragment(datagram),
        };
        let udp = udp.map_err(|_| DropReason::MalformedL4)?;
        self.set_l4(udp.src(), udp.dst(), udp::HEADER_LEN);
        Ok(())
    }

    fn read_icmpv4(&mut self, message: &[u8]) -> Result<(), DropReason> {
        let icmp = Icmpv4View::parse(message).map_err(|_| DropReason::MalformedL4)?;
        self.set_l4(icmp.kind().into(), icmp.code().into(), icmpv4::HEADER_LEN);
        Ok(())
    }

    fn read_icmpv6(&mut self, message: &[u8], fragment: u8) -> Result<(), DropReason> {
        let icmp = Icmpv6View::parse(message).map_err(|_| DropReason::MalformedL4)?;
        self.set_l4(icmp.kind().into(), icmp.code().into(), icmpv6::HEADER_LEN);
        if !matches!(icmp.kind(), TYPE_NEIGHBOR_SOLICITATION | TYPE_NEIGHBOR_ADVERTISEMENT) {
            return Ok(());
        }
        // Hosts ignore fragmented ND (RFC 6980, section 5), and no rule could judge the part that we do not see.
        if fragment != FRAGMENT_NONE {
            return Err(DropReason::MalformedL4);
        }
        let nd = NdView::parse(message).map_err(|_| DropReason::MalformedL4)?;
        let key = &mut self.key;
        key.set(Field::NdTarget, nd.target().to_bits());
        key.set(Field::NdFlags, nd.flags().into());
        key.set(Field::ArpSha, nd.link_layer().unwrap_or(MacAddr::ZERO).to_u64().into());
        Ok(())
    }

    #[inline]
    fn set_l4(&mut self, src: u16, dst: u16, header_len: usize) {
        self.key.set(Field::L4Src, src.into());
        self.key.set(Field::L4Dst, dst.into());
        self.l4 = self.payload;
        self.payload += header_len as u16;
    }
}

#[inline]
const fn mix(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}

// Digits of pi, so that nobody had a choice: no operand of a product is zero for an ordinary address.
const HASH_KEYS: [u64; 6] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6c,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn udp_frame(tags: &[u8], fragment_word: u16, udp_len: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        frame.extend(tags);
        frame.extend([0x08, 0x00, 0x45, 0, 0, 30, 0, 7]);
        frame.extend(fragment_word.to_be_bytes());
        frame.extend([64, PROTOCOL_UDP, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
        frame.extend([0x12, 0x34, 0, 53]);
        frame.extend(udp_len.to_be_bytes());
        frame.extend([0, 0, 7, 7]);
        frame
    }

    fn field(frame: &[u8], field: Field) -> u128 {
        parse(frame, Ingress::default()).unwrap().key.field(field)
    }

    #[test]
    fn a_udp_frame_fills_the_key_and_the_offsets() {
        let ingress = Ingress { in_port: 7, remote: 0, vni: 0 };
        let mut frame = udp_frame(&[], 0, 10);
        frame.resize(60, 0xee);
        let parsed = parse(&frame, ingress).unwrap();
        let want = FlowKey::ZERO
            .with(Field::InPort, 7)
            .with(Field::EthDst, 0x0200_0000_0002)
            .with(Field::EthSrc, 0x0200_0000_0001)
            .with(Field::EthType, 0x0800)
            .with(Field::IpProto, 17)
            .with(Field::IpSrc, 0x0a09_0001)
            .with(Field::IpDst, 0x0a09_0002)
            .with(Field::IpTtl, 64)
            .with(Field::L4Src, 0x1234)
            .with(Field::L4Dst, 53);
        assert_eq!(parsed, Parsed { key: want, l3: 14, l4: 34, payload: 42, ip_len: 30 });
    }

    #[test]
    fn two_tags_are_passed_and_the_outer_one_is_kept() {
        let frame = udp_frame(&[0x88, 0xa8, 0x20, 5, 0x81, 0, 0, 6], 0, 10);
        let parsed = parse(&frame, Ingress::default()).unwrap();
        assert_eq!(parsed.key.field(Field::VlanTci), 0x3005);
        assert_eq!((parsed.key.field(Field::EthType), parsed.l3, parsed.l4), (0x0800, 22, 42));
        let three = udp_frame(&[0x81, 0, 0, 0, 0x81, 0, 0, 6, 0x81, 0, 0, 7], 0, 10);
        assert_eq!(field(&three, Field::EthType), 0x8100);
        assert_eq!(field(&three, Field::VlanTci), 0x1000);
        assert_eq!(parse(&three[..16], Ingress::default()), Err(DropReason::MalformedEthernet));
    }

    #[test]
    fn a_first_fragment_may_end_before_its_datagram_and_a_later_one_has_no_l4() {
        assert_eq!(parse(&udp_frame(&[], 0, 11), Ingress::default()), Err(DropReason::MalformedL4));
        let first = udp_frame(&[], 0x2000, 3000);
        assert_eq!((field(&first, Field::Fragment), field(&first, Field::L4Dst)), (1, 53));
        let later = parse(&udp_frame(&[], 0x2001, 3000), Ingress::default()).unwrap();
        assert_eq!((later.key.field(Field::Fragment), later.key.field(Field::L4Dst)), (3, 0));
        assert_eq!((later.l4, later.payload), (0, 34));
        let first = parse(&first, Ingress::default()).unwrap();
        assert_eq!(flow_hash(&first.key), flow_hash(&later.key));
    }

    #[test]
    fn sources_that_no_station_has_are_refused() {
        let mut frame = udp_frame(&[], 0, 10);
        frame[6] = 3;
        assert_eq!(parse(&frame, Ingress::default()), Err(DropReason::GroupSource));
        frame[6..12].fill(0);
        assert_eq!(parse(&frame, Ingress::default()), Err(DropReason::ZeroSource));
    }

    #[test]
    fn the_short_way_is_taken_by_plain_datagrams_and_by_nothing_with_tags_or_in_fragments() {
        let taken = |frame: &[u8]| Parsed::EMPTY.clone().read_plain(frame, Ingress::default()).is_some();
        assert!(taken(&udp_frame(&[], 0, 10)));
        assert!(!taken(&udp_frame(&[0x81, 0, 0, 5], 0, 10)));
        assert!(!taken(&udp_frame(&[], 0x2000, 10)));
    }

    proptest! {
        #[test]
        fn the_short_way_reads_what_the_general_way_reads(packet in crate::testing::any_packet(), pokes in prop::collection::vec((12usize..60, any::<u8>()), 0..3), cut in 0usize..90) {
            let mut frame = packet.build();
            for (at, value) in pokes {
                let at = at % frame.len();
                frame[at] = value;
            }
            if cut < 20 {
                frame.truncate(frame.len() - cut);
            }
            let ingress = Ingress { in_port: 1, remote: 2, vni: 3 };
            let (mut short, mut general) = (Parsed::EMPTY, Parsed::EMPTY);
            let outcome = parse_any(&frame, ingress, &mut general);
            if short.read_plain(&frame, ingress).is_some() {
                prop_assert_eq!((outcome, short), (Ok(()), general));
            }
            let mut either = Parsed::EMPTY;
            prop_assert_eq!(parse_into(&frame, ingress, &mut either), outcome);
            prop_assert!(outcome.is_err() || either == general, "{either:?} {general:?}");
        }
    }

    #[test]
    fn llc_and_unknown_types_pass_without_an_l3() {
        let mut frame = [2; 60];
        frame[12..14].copy_from_slice(&38u16.to_be_bytes());
        assert_eq!(field(&frame, Field::EthType), 0x05ff);
        frame[12..14].copy_from_slice(&0x88ccu16.to_be_bytes());
        assert_eq!(field(&frame, Field::EthType), 0x88cc);
        assert_eq!(parse(&frame, Ingress::default()).unwrap().ip_len, 0);
    }

    #[test]
    fn the_hash_spreads_neighbouring_flows_over_all_buckets() {
        let mut buckets = [0u32; 64];
        for flow in 0..6400u128 {
            let key = FlowKey::ZERO
                .with(Field::EthType, 0x0800)
                .with(Field::IpSrc, 0x0a00_0001 + (flow & 0xff))
                .with(Field::L4Src, 40_000 + (flow >> 8));
            buckets[(flow_hash(&key) % 64) as usize] += 1;
        }
        assert!(buckets.iter().all(|&b| (60..140).contains(&b)), "{buckets:?}");
    }
}
