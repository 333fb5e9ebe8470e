//! Frames crafted by pnet, which shares no code with us, are read field by field as they were written.

use std::net::{Ipv4Addr, Ipv6Addr};

use pnet_base::MacAddr as PnetMac;
use pnet_packet::arp::{ArpHardwareTypes, ArpOperations, MutableArpPacket};
use pnet_packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, MutableIpv4Packet};
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::tcp::{self, MutableTcpPacket};
use pnet_packet::udp::{self, MutableUdpPacket};

use weft_packet::key::ip_field;
use weft_packet::parse::Ingress;
use weft_packet::{Field, FlowKey, checksum, ipv4::Ipv4View, parse};

const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];
const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2));
const V6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2));

fn mac(octets: [u8; 6]) -> PnetMac {
    let [a, b, c, d, e, f] = octets;
    PnetMac::new(a, b, c, d, e, f)
}

fn ethernet(ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload.len()];
    let mut packet = MutableEthernetPacket::new(&mut frame).expect("a whole header");
    packet.set_source(mac(FROM));
    packet.set_destination(mac(TO));
    packet.set_ethertype(ethertype);
    packet.set_payload(payload);
    frame
}

fn key(frame: &[u8]) -> FlowKey {
    let key = parse(frame, Ingress { in_port: 1, remote: 0, vni: 0 }).expect("pnet made a good frame").key;
    assert_eq!((key.mac(Field::EthSrc).0, key.mac(Field::EthDst).0), (FROM, TO));
    key
}

#[test]
fn tcp_over_ipv4() {
    let mut packet = [0; 20 + 20 + 5];
    let mut segment = MutableTcpPacket::new(&mut packet[20..]).expect("a whole header");
    segment.set_source(1234);
    segment.set_destination(443);
    segment.set_data_offset(5);
    segment.set_flags(0x12);
    segment.set_payload(b"hello");
    segment.set_checksum(tcp::ipv4_checksum(&segment.to_immutable(), &V4.0, &V4.1));
    let mut header = MutableIpv4Packet::new(&mut packet).expect("a whole header");
    header.set_version(4);
    header.set_header_length(5);
    header.set_total_length(45);
    header.set_dscp(10);
    header.set_ttl(61);
    header.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
    header.set_source(V4.0);
    header.set_destination(V4.1);
    header.set_checksum(ipv4::checksum(&header.to_immutable()));
    assert!(Ipv4View::parse(&packet).expect("a good header").is_checksum_valid(), "pnet and we agree on the checksum");
    let key = key(&ethernet(EtherTypes::Ipv4, &packet));
    let wanted = [
        (Field::IpSrc, ip_field(V4.0.into())),
        (Field::IpDst, ip_field(V4.1.into())),
        (Field::IpProto, 6),
        (Field::IpTos, 40),
        (Field::IpTtl, 61),
        (Field::L4Src, 1234),
        (Field::L4Dst, 443),
        (Field::TcpFlags, 0x12),
    ];
    wanted.into_iter().for_each(|(field, value)| assert_eq!(key.field(field), value, "{}", field.name()));
}

#[test]
fn udp_over_ipv6() {
    let mut packet = [0; 40 + 8 + 4];
    let mut datagram = MutableUdpPacket::new(&mut packet[40..]).expect("a whole header");
    datagram.set_source(68);
    datagram.set_destination(4789);
    datagram.set_length(12);
    datagram.set_payload(b"weft");
    let sum = udp::ipv6_checksum(&datagram.to_immutable(), &V6.0, &V6.1);
    datagram.set_checksum(sum);
    let mut header = MutableIpv6Packet::new(&mut packet).expect("a whole header");
    header.set_version(6);
    header.set_payload_length(12);
    header.set_next_header(IpNextHeaderProtocols::Udp);
    header.set_hop_limit(255);
    header.set_source(V6.0);
    header.set_destination(V6.1);
    let pseudo = checksum::Sum::pseudo_v6(V6.0, V6.1, 17, 12);
    assert!((pseudo + checksum::Sum::of(&packet[40..])).is_valid(), "pnet and we agree on the checksum");
    let key = key(&ethernet(EtherTypes::Ipv6, &packet));
    assert_eq!((key.field(Field::IpSrc), key.field(Field::IpDst)), (ip_field(V6.0.into()), ip_field(V6.1.into())));
    assert_eq!((key.field(Field::L4Src), key.field(Field::L4Dst), key.field(Field::IpTtl)), (68, 4789, 255));
}

#[test]
fn an_arp_request() {
    let mut packet = [0; 28];
    let mut arp = MutableArpPacket::new(&mut packet).expect("a whole packet");
    arp.set_hardware_type(ArpHardwareTypes::Ethernet);
    arp.set_protocol_type(EtherTypes::Ipv4);
    arp.set_hw_addr_len(6);
    arp.set_proto_addr_len(4);
    arp.set_operation(ArpOperations::Request);
    arp.set_sender_hw_addr(mac(FROM));
    arp.set_sender_proto_addr(V4.0);
    arp.set_target_proto_addr(V4.1);
    let key = key(&ethernet(EtherTypes::Arp, &packet));
    assert_eq!((key.field(Field::IpProto), key.mac(Field::ArpSha).0), (1, FROM));
    assert_eq!((key.field(Field::IpSrc), key.field(Field::IpDst)), (ip_field(V4.0.into()), ip_field(V4.1.into())));
}
