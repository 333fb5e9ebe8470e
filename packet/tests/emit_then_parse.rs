//! What an emitter wrote, the parser of the same header reads back, whatever was in the buffer before.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use weft_packet::arp::{self, ArpHeader, ArpView};
use weft_packet::ethernet::{self, EthernetHeader, EthernetView};
use weft_packet::icmpv4::{Icmpv4Header, Icmpv4View};
use weft_packet::icmpv6::{Icmpv6Header, Icmpv6View};
use weft_packet::ipv4::{self, Ipv4Header, Ipv4View};
use weft_packet::ipv6::{self, Ipv6Header, Ipv6View};
use weft_packet::nd::{NdHeader, NdView};
use weft_packet::tcp::{self, TcpHeader, TcpView};
use weft_packet::udp::{self, UdpHeader, UdpView};
use weft_packet::vlan::{self, VlanHeader, VlanView};
use weft_packet::vxlan::{self, VxlanHeader, VxlanView};
use weft_packet::{MacAddr, Sum, Vni};

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

fn v4() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from_bits)
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(Ipv6Addr::from_bits)
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

/// Bytes that held something else, `len` of them free and `payload` behind.
fn dirty(len: usize, payload: &[u8]) -> Vec<u8> {
    [&vec![0xa5; len], payload].concat()
}

proptest! {
    #[test]
    fn ethernet((dst, src, ethertype) in (mac(), mac(), any::<u16>()), payload in payload()) {
        let header = EthernetHeader { dst, src, ethertype };
        let mut bytes = dirty(ethernet::HEADER_LEN, &payload);
        header.emit(&mut bytes);
        let view = EthernetView::parse(&bytes).unwrap();
        prop_assert_eq!((view.header(), view.payload()), (header, &payload[..]));
    }

    #[test]
    fn vlan((priority, drop_eligible, id, ethertype) in (0u8..8, any::<bool>(), 0u16..4096, any::<u16>())) {
        let header = VlanHeader { priority, drop_eligible, id, ethertype };
        let mut bytes = dirty(vlan::TAG_LEN, &[]);
        header.emit(&mut bytes);
        prop_assert_eq!(VlanView::parse(&bytes).unwrap().header(), header);
    }

    #[test]
    fn arp(
        operation: u16, (sender_mac, target_mac) in (mac(), mac()), (sender_ip, target_ip) in (v4(), v4()),
    ) {
        let header = ArpHeader { operation, sender_mac, sender_ip, target_mac, target_ip };
        let mut bytes = dirty(arp::PACKET_LEN, &[0; 18]);
        header.emit(&mut bytes);
        prop_assert_eq!(ArpView::parse(&bytes).unwrap().header(), header);
    }

    #[test]
    fn ipv4(
        (tos, identification, ttl, protocol) in any::<(u8, u16, u8, u8)>(),
        (dont_fragment, more_fragments, offset) in (any::<bool>(), any::<bool>(), 0u16..0x2000),
        (src, dst, payload) in (v4(), v4(), payload()),
    ) {
        let payload_len = payload.len() as u16;
        let header = Ipv4Header {
            tos, payload_len, identification, dont_fragment, more_fragments, fragment_offset: offset * 8, ttl,
            protocol, src, dst,
        };
        let mut bytes = dirty(ipv4::HEADER_LEN, &payload);
        header.emit(&mut bytes);
        bytes.push(0xee);
        let view = Ipv4View::parse(&bytes).unwrap();
        prop_assert_eq!((view.header(), view.payload()), (header, &payload[..]));
        prop_assert!(view.is_checksum_valid());
        prop_assert_eq!(view.is_fragment(), more_fragments || offset != 0);
    }

    #[test]
    fn ipv6(
        (traffic_class, hop_limit, next_header) in (any::<u8>(), any::<u8>(), 1u8..),
        flow_label in 0u32..1 << 20, (src, dst, payload) in (v6(), v6(), payload()),
    ) {
        let payload_len = payload.len() as u16;
        let header = Ipv6Header { traffic_class, flow_label, payload_len, next_header, hop_limit, src, dst };
        let mut bytes = dirty(ipv6::HEADER_LEN, &payload);
        header.emit(&mut bytes);
        bytes.push(0xee);
        let view = Ipv6View::parse(&bytes).unwrap();
        prop_assert_eq!((view.header(), view.payload()), (header, &payload[..]));
    }

    #[test]
    fn icmpv4((kind, code, word) in any::<(u8, u8, u32)>(), payload in payload()) {
        let header = Icmpv4Header { kind, code, word };
        let mut bytes = dirty(8, &payload);
        header.emit(&mut bytes);
        let view = Icmpv4View::parse(&bytes).unwrap();
        prop_assert_eq!((view.header(), view.payload()), (header, &payload[..]));
        prop_assert!(view.is_checksum_valid());
    }

    #[test]
    fn icmpv6((kind, code, word) in any::<(u8, u8, u32)>(), (src, dst, payload) in (v6(), v6(), payload())) {
        let header = Icmpv6Header { kind, code, word };
        let mut bytes = dirty(8, &payload);
        header.emit(src, dst, &mut bytes);
        let view = Icmpv6View::parse(&bytes).unwrap();
        prop_assert_eq!((view.header(), view.payload()), (header, &payload[..]));
        prop_assert!(view.is_checksum_valid(src, dst));
    }

    #[test]
    fn nd(
        (src, dst, flags, advertise) in (v6(), v6(), any::<u8>(), any::<bool>()),
        target in v6().prop_filter("a host", |ip| !ip.is_multicast()), link_layer in proptest::option::of(mac()),
    ) {
        let header = match advertise {
            true => NdHeader::Advertisement { flags, target, link_layer },
            false => NdHeader::Solicitation { target, link_layer },
        };
        let mut bytes = dirty(header.message_len(), &[]);
        header.emit(src, dst, &mut bytes);
        prop_assert_eq!(NdView::parse(&bytes).unwrap().header(), header);
        prop_assert!(Icmpv6View::parse(&bytes).unwrap().is_checksum_valid(src, dst));
    }

    #[test]
    fn udp((src_port, dst_port) in any::<(u16, u16)>(), (src, dst, payload) in (v4(), v4(), payload())) {
        let length = (udp::HEADER_LEN + payload.len()) as u16;
        let header = UdpHeader { src: src_port, dst: dst_port, length, checksum: 0 };
        let mut bytes = dirty(udp::HEADER_LEN, &payload);
        header.emit(&mut bytes);
        let view = UdpView::parse(&bytes).unwrap();
        prop_assert_eq!((view.header(), view.payload()), (header, &payload[..]));
        let pseudo = Sum::pseudo_v4(src, dst, ipv4::PROTOCOL_UDP, length);
        udp::fill_checksum(&mut bytes, pseudo);
        prop_assert!((pseudo + Sum::of(&bytes)).is_valid());
        prop_assert_ne!(UdpView::parse(&bytes).unwrap().checksum(), 0);
    }

    #[test]
    fn tcp(
        (src, dst, sequence, acknowledgment) in any::<(u16, u16, u32, u32)>(),
        (flags, window, checksum, urgent) in (0u16..0x1000, any::<u16>(), any::<u16>(), any::<u16>()),
        payload in payload(),
    ) {
        let header = TcpHeader { src, dst, sequence, acknowledgment, flags, window, checksum, urgent };
        let mut bytes = dirty(tcp::HEADER_LEN, &payload);
        header.emit(&mut bytes);
        let view = TcpView::parse(&bytes).unwrap();
        prop_assert_eq!((view.header(), view.payload()), (header, &payload[..]));
        let pseudo = Sum::pseudo_v6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 6, bytes.len() as u32);
        tcp::fill_checksum(&mut bytes, pseudo);
        prop_assert!((pseudo + Sum::of(&bytes)).is_valid());
    }

    #[test]
    fn vxlan(vni in 1..=Vni::MAX, payload in payload()) {
        let header = VxlanHeader { vni: Vni::new(vni).unwrap() };
        let mut bytes = dirty(vxlan::HEADER_LEN, &payload);
        header.emit(&mut bytes);
        let view = VxlanView::parse(&bytes).unwrap();
        prop_assert_eq!((view.header(), view.payload()), (header, &payload[..]));
    }
}
