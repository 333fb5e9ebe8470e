//! Tests of the replies. The questions are made by the emitters of this crate, which etherparse checks elsewhere.

use super::*;
use crate::addr::MacAddr;
use crate::ethernet::EthernetHeader;
use crate::frame::FramePool;
use crate::icmpv4::Icmpv4View;
use crate::icmpv6::Icmpv6View;
use crate::ipv4::PROTOCOL_UDP;

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const IP4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
const IP6: [Ipv6Addr; 2] = [Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2)];

fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 14];
    EthernetHeader { dst: OTHER, src: ASKER, ethertype }.emit(&mut frame);
    frame.extend(packet);
    frame
}

fn v4(protocol: u8, body: &[u8], change: impl Fn(&mut Ipv4Header)) -> Vec<u8> {
    let mut header = Ipv4Header {
        tos: 0,
        payload_len: body.len() as u16,
        identification: 7,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 3,
        protocol,
        src: IP4[0],
        dst: IP4[1],
    };
    change(&mut header);
    let mut packet = vec![0; ipv4::HEADER_LEN];
    header.emit(&mut packet);
    packet.extend(body);
    frame(ETHERTYPE_IPV4, &packet)
}

fn v6(next_header: u8, src: Ipv6Addr, dst: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let payload_len = body.len() as u16;
    let mut packet = vec![0; ipv6::HEADER_LEN];
    Ipv6Header { traffic_class: 0, flow_label: 0, payload_len, next_header, hop_limit: 255, src, dst }
        .emit(&mut packet);
    packet.extend(body);
    frame(ETHERTYPE_IPV6, &packet)
}

fn udp(len: usize) -> Vec<u8> {
    let mut datagram = vec![0x5a; len];
    crate::udp::UdpHeader { src: 1000, dst: 2000, length: len as u16, checksum: 0 }.emit(&mut datagram);
    datagram
}

fn answer(make: impl FnOnce(&mut Frame) -> Result<(), NoReply>) -> Result<Vec<u8>, NoReply> {
    let mut pool = FramePool::new(1);
    let mut out = pool.take().unwrap();
    out.fill(&[0xff; 3000]);
    make(&mut out).map(|()| out.bytes().to_vec())
}

#[test]
fn an_arp_request_is_answered_with_its_tag() {
    let request = ArpHeader {
        operation: OPERATION_REQUEST,
        sender_mac: ASKER,
        sender_ip: IP4[0],
        target_mac: MacAddr::ZERO,
        target_ip: IP4[1],
    };
    let mut packet = vec![0; crate::arp::PACKET_LEN];
    request.emit(&mut packet);
    let mut asked = frame(0x8100, &[0, 5, 8, 6]);
    asked.extend(&packet);
    let reply = answer(|out| arp_reply(&asked, OTHER, out)).unwrap();
    assert_eq!((&reply[..6], &reply[6..12]), (&ASKER.0[..], &OTHER.0[..]));
    assert_eq!(reply[12..18], [0x81, 0, 0, 5, 8, 6]);
    let want = ArpHeader {
        operation: OPERATION_REPLY,
        sender_mac: OTHER,
        sender_ip: IP4[1],
        target_mac: ASKER,
        target_ip: IP4[0],
    };
    assert_eq!(ArpView::parse(&reply[18..]).unwrap().header(), want);
    assert_eq!(answer(|out| arp_reply(&reply, OTHER, out)), Err(NoReply::NotAsked));

    ArpHeader { sender_ip: IP4[1], ..request }.emit(&mut packet);
    let announcement = frame(ETHERTYPE_ARP, &packet);
    assert_eq!(answer(|out| arp_reply(&announcement, OTHER, out)), Err(NoReply::NotAsked));
}

fn solicitation(src: Ipv6Addr, link_layer: Option<MacAddr>) -> Vec<u8> {
    let asked = NdHeader::Solicitation { target: IP6[1], link_layer };
    let group = nd::solicited_node(IP6[1]);
    let mut message = vec![0; asked.message_len()];
    asked.emit(src, group, &mut message);
    v6(NEXT_ICMPV6, src, group, &message)
}

#[test]
fn a_solicitation_is_answered_solicited_and_overriding() {
    let reply = answer(|out| neighbor_advertisement(&solicitation(IP6[0], Some(ASKER)), OTHER, out)).unwrap();
    let ip = Ipv6View::parse(&reply[14..]).unwrap();
    assert_eq!((ip.src(), ip.dst(), ip.hop_limit()), (IP6[1], IP6[0], 255));
    assert!(Icmpv6View::parse(ip.payload()).unwrap().is_checksum_valid(ip.src(), ip.dst()));
    let want = NdHeader::Advertisement { flags: 0x60, target: IP6[1], link_layer: Some(OTHER) };
    assert_eq!(NdView::parse(ip.payload()).unwrap().header(), want);
    assert_eq!(reply[..6], ASKER.0);
    assert_eq!(answer(|out| neighbor_advertisement(&reply, OTHER, out)), Err(NoReply::NotAsked));
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes() {
    let reply = answer(|out| neighbor_advertisement(&solicitation(Ipv6Addr::UNSPECIFIED, None), OTHER, out)).unwrap();
    let ip = Ipv6View::parse(&reply[14..]).unwrap();
    assert_eq!((ip.src(), ip.dst()), (IP6[1], ALL_NODES));
    assert_eq!(NdView::parse(ip.payload()).unwrap().flags(), 0x20);
    assert_eq!(reply[..6], [0x33, 0x33, 0, 0, 0, 1]);
    let odd = solicitation(Ipv6Addr::UNSPECIFIED, Some(ASKER));
    assert_eq!(answer(|out| neighbor_advertisement(&odd, OTHER, out)), Err(NoReply::NotAsked));
    let mut routed = solicitation(IP6[0], None);
    routed[14 + 7] = 254;
    assert_eq!(answer(|out| neighbor_advertisement(&routed, OTHER, out)), Err(NoReply::NotAsked));
}

#[test]
fn an_oversize_ipv4_packet_is_reported_and_quoted() {
    let asked = v4(PROTOCOL_UDP, &udp(2000), |_| ());
    let reply = answer(|out| fragmentation_needed(&asked, 1450, out)).unwrap();
    assert_eq!((&reply[..6], &reply[6..12]), (&ASKER.0[..], &OTHER.0[..]));
    let ip = Ipv4View::parse(&reply[14..]).unwrap();
    assert!(ip.is_checksum_valid());
    assert_eq!((ip.src(), ip.dst(), ip.total_len()), (IP4[1], IP4[0], 576));
    let icmp = Icmpv4View::parse(ip.payload()).unwrap();
    assert!(icmp.is_checksum_valid());
    assert_eq!((icmp.kind(), icmp.code(), icmp.word()), (3, 4, 1450));
    assert_eq!(icmp.payload(), &asked[14..14 + 548]);
}

#[test]
fn an_oversize_ipv6_packet_is_reported_and_quoted() {
    let asked = v6(PROTOCOL_UDP, IP6[0], IP6[1], &udp(2000));
    let reply = answer(|out| packet_too_big(&asked, 1430, out)).unwrap();
    let ip = Ipv6View::parse(&reply[14..]).unwrap();
    assert_eq!((ip.src(), ip.dst(), ip.payload().len()), (IP6[1], IP6[0], 1240));
    let icmp = Icmpv6View::parse(ip.payload()).unwrap();
    assert!(icmp.is_checksum_valid(ip.src(), ip.dst()));
    assert_eq!((icmp.kind(), icmp.code(), icmp.word()), (2, 0, 1430));
    assert_eq!(icmp.payload(), &asked[14..14 + 1232]);
}

#[test]
fn reports_about_errors_groups_and_later_fragments_are_refused() {
    let needed = |frame: &[u8]| answer(|out| fragmentation_needed(frame, 1450, out)).err();
    let too_big = |frame: &[u8]| answer(|out| packet_too_big(frame, 1430, out)).err();
    let echo = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &[0; 2000]].concat();

    assert_eq!(needed(&v4(PROTOCOL_ICMP, &echo(8), |_| ())), None);
    for kind in [3, 4, 5, 11, 12] {
        assert_eq!(needed(&v4(PROTOCOL_ICMP, &echo(kind), |_| ())), Some(NoReply::IsError));
    }
    let datagram = udp(2000);
    let with = |change: &dyn Fn(&mut Ipv4Header)| needed(&v4(PROTOCOL_UDP, &datagram, change));
    assert_eq!(with(&|h| h.fragment_offset = 8), Some(NoReply::LaterFragment));
    assert_eq!(with(&|h| h.dont_fragment = false), Some(NoReply::MayBeFragmented));
    assert_eq!(with(&|h| h.dst = Ipv4Addr::new(224, 0, 0, 9)), Some(NoReply::NotOneHost));
    assert_eq!(with(&|h| h.dst = Ipv4Addr::BROADCAST), Some(NoReply::NotOneHost));
    assert_eq!(with(&|h| h.src = Ipv4Addr::UNSPECIFIED), Some(NoReply::NotOneHost));
    let mut group = v4(PROTOCOL_UDP, &datagram, |_| ());
    group[..6].fill(0xff);
    assert_eq!(needed(&group), Some(NoReply::NotOneHost));

    assert_eq!(too_big(&v6(NEXT_ICMPV6, IP6[0], IP6[1], &echo(128))), None);
    assert_eq!(too_big(&v6(NEXT_ICMPV6, IP6[0], IP6[1], &echo(1))), Some(NoReply::IsError));
    assert_eq!(too_big(&v6(NEXT_ICMPV6, IP6[0], IP6[1], &echo(137))), Some(NoReply::IsError));
    assert_eq!(too_big(&v6(PROTOCOL_UDP, IP6[0], ALL_NODES, &datagram)), Some(NoReply::NotOneHost));
    assert_eq!(too_big(&v6(PROTOCOL_UDP, Ipv6Addr::UNSPECIFIED, IP6[1], &datagram)), Some(NoReply::NotOneHost));
    let later = [&[PROTOCOL_UDP, 0, 0, 8, 0, 0, 0, 1][..], &datagram].concat();
    assert_eq!(too_big(&v6(44, IP6[0], IP6[1], &later)), Some(NoReply::LaterFragment));
}
