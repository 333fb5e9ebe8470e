//! An independent parser reads the same out of valid and mutated frames, and refuses the same ones.
//!
//! Where the two differ on purpose, `excuse` says so; any other difference fails. `SEED=n` replays a run.

mod corpus;

use std::collections::BTreeMap;
use std::net::IpAddr;

use corpus::{Numbers, mutate};
use etherparse::{LinkExtSlice, LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice, VlanId};
use weft_packet::ipv4::Ipv4View;
use weft_packet::ipv6::{Ipv6Error, Ipv6View};
use weft_packet::{DropReason, Field, FlowKey, Ingress, MacAddr, Parsed};

const MUTATIONS: usize = 1_000_000;

#[test]
fn etherparse_reads_every_frame_of_the_corpus_as_we_do() {
    for frame in corpus::frames() {
        let ours = weft_packet::parse(&frame, Ingress::default());
        assert!(ours.is_ok(), "{ours:?} {frame:02x?}");
        assert_eq!(compare(&frame, ours), Ok(()), "{frame:02x?}");
    }
}

#[test]
fn what_etherparse_builds_is_read_by_both_alike() {
    let seed = corpus::seed();
    println!("SEED={seed}");
    let mut numbers = Numbers::new(seed);
    for _ in 0..10_000 {
        let mut byte = || numbers.next() as u8;
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, byte()], [2, 0, 0, 0, 0, byte()]);
        let ip = match byte() % 4 {
            0 => link.ipv4([10, byte(), 0, byte()], [10, 0, byte(), 1], byte()),
            1 => link.ipv6([byte(); 16], [byte(); 16], byte()),
            2 => link.single_vlan(VlanId::try_new(byte().into()).unwrap()).ipv4([1; 4], [byte(); 4], byte()),
            _ => link.single_vlan(VlanId::try_new(byte().into()).unwrap()).ipv6([1; 16], [byte(); 16], byte()),
        };
        let (src, dst, payload) = (byte().into(), byte().into(), vec![byte(); byte().into()]);
        let mut frame = vec![];
        let written = match byte() % 4 {
            0 => ip.tcp(src, dst, 7, 8).syn().write(&mut frame, &payload),
            1 => ip.udp(src, dst).write(&mut frame, &payload),
            2 => ip.icmpv4_echo_request(src, dst).write(&mut frame, &payload),
            _ => ip.icmpv6_echo_request(src, dst).write(&mut frame, &payload),
        };
        // It refuses to build ICMPv6 in IPv4.
        if written.is_err() {
            continue;
        }
        let ours = weft_packet::parse(&frame, Ingress::default());
        if let Err(difference) = compare(&frame, ours) {
            assert!(excuse(&frame, ours).is_some(), "{difference} {frame:02x?}");
        }
    }
}

#[test]
fn etherparse_agrees_on_mutated_frames() {
    let seed = corpus::seed();
    println!("SEED={seed}");
    let mut numbers = Numbers::new(seed);
    let frames = corpus::frames();
    let mut excused = BTreeMap::<_, usize>::new();
    let mut frame = vec![];
    for round in 0..MUTATIONS {
        frame.clear();
        frame.extend(&frames[numbers.below(frames.len())]);
        mutate(&mut frame, &mut numbers);
        let ours = weft_packet::parse(&frame, Ingress::default());
        let Err(difference) = compare(&frame, ours) else { continue };
        let excuse = excuse(&frame, ours);
        let excuse = excuse.unwrap_or_else(|| panic!("SEED={seed} round {round}: {difference}\n{frame:02x?}"));
        *excused.entry(excuse).or_default() += 1;
    }
    println!("{excused:#?}");
    let total: usize = excused.values().sum();
    assert!(total < MUTATIONS / 10, "{total} excused of {MUTATIONS}: {excused:?}");
}

/// What we read, in etherparse's words.
fn compare(frame: &[u8], ours: Result<Parsed, DropReason>) -> Result<(), String> {
    let theirs = SlicedPacket::from_ethernet(frame);
    let (ours, theirs) = match (ours, theirs) {
        (Err(DropReason::GroupSource), _) if frame[6] & 1 != 0 => return Ok(()),
        (Err(DropReason::ZeroSource), _) if frame[6..12] == [0; 6] => return Ok(()),
        (Err(_), Err(_)) => return Ok(()),
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (ours, theirs) => return Err(format!("we say {ours:?}, etherparse says {theirs:?}")),
    };
    let mut key = FlowKey::ZERO;
    let payload = read_link(&mut key, &theirs);
    if let Some(net) = &theirs.net {
        read_net(&mut key, net);
    }
    let transport_len = theirs.transport.as_ref().map(|transport| read_transport(&mut key, transport));
    let mut known = ours.key;
    let mut only_ours = vec![Field::NdTarget, Field::NdFlags];
    let is_first_fragment = known.field(Field::Fragment) == 1;
    if is_first_fragment {
        // etherparse reads no L4 there.
        only_ours.extend([Field::L4Src, Field::L4Dst, Field::TcpFlags]);
    }
    for field in only_ours {
        known.set(field, 0);
    }
    if known.field(Field::EthType) != 0x0806 {
        known.set(Field::ArpSha, 0);
    }
    if known != key {
        return Err(format!("we read {known:x?}\netherparse {key:x?}"));
    }
    if let Some(payload) = payload
        && payload != usize::from(ours.l3)
    {
        return Err(format!("l3 at {} and {payload}", ours.l3));
    }
    let header_len = usize::from(ours.payload - ours.l4);
    match transport_len {
        Some(len) if ours.l4 == 0 || len != header_len => Err(format!("L4 of {len}: {ours:?}")),
        None if ours.l4 != 0 && !is_first_fragment => Err(format!("no L4: {ours:?}")),
        _ => Ok(()),
    }
}

/// Why the two may differ on this frame.
fn excuse(frame: &[u8], ours: Result<Parsed, DropReason>) -> Option<&'static str> {
    let mut l3 = 14;
    let mut ethertype = word(frame, 12)?;
    for _ in 0..2 {
        if matches!(ethertype, 0x8100 | 0x88a8) {
            (ethertype, l3) = (word(frame, l3 + 2)?, l3 + 4);
        }
    }
    let packet = frame.get(l3..)?;
    let (protocol, body, fragmented) = match ethertype {
        0x8100 | 0x88a8 | 0x9100 => return Some("etherparse reads 0x9100 and a third tag"),
        0x88e5 => return Some("etherparse reads MACsec"),
        0x0806 => return (packet.get(..6)? != [0, 1, 8, 0, 6, 4]).then_some("ARP for Ethernet and IPv4 only"),
        0x0800 => {
            let ip = Ipv4View::parse(packet).ok()?;
            (ip.protocol(), ip.payload(), ip.is_fragment())
        }
        0x86dd => {
            let ip = match Ipv6View::parse(packet) {
                Err(_) if packet.get(4..6)? == [0, 0] => return Some("IPv6 of length zero reaches to the frame's end"),
                ip => ip.ok()?,
            };
            let chain = match ip.chain() {
                Err(Ipv6Error::FragmentRepeated | Ipv6Error::TooManyExtensions) => {
                    return Some("etherparse has no bound on IPv6 extension headers");
                }
                _ if ip.payload().is_empty() => return Some("IPv6 of length zero reaches to the frame's end"),
                chain => chain.ok()?,
            };
            let fragmented = chain.fragment.is_some_and(|f| !f.is_atomic());
            if chain.fragment.is_some_and(|f| f.offset != 0) {
                return Some("etherparse walks on behind a later fragment header");
            }
            (chain.protocol, &ip.payload()[chain.len..], fragmented)
        }
        _ => return None,
    };
    let v6 = ethertype == 0x86dd;
    match protocol {
        51 if !v6 => Some("etherparse walks AH in IPv4"),
        2 => Some("etherparse checks IGMP"),
        1 if v6 => Some("ICMP belongs to IPv4"),
        58 if !v6 => Some("ICMPv6 belongs to IPv6"),
        1 | 6 | 17 | 58 if fragmented => Some("etherparse reads no L4 in a first fragment"),
        1 if matches!(body.first(), Some(13 | 14)) => Some("etherparse checks the length of timestamps"),
        17 if word(body, 4) == Some(0) => Some("UDP of length zero is for jumbograms"),
        58 if ours.is_err() && matches!(body.first(), Some(135 | 136)) => Some("etherparse does not check ND"),
        _ => None,
    }
}

/// Reads MAC addresses, the outer tag and the type; returns where the payload starts.
fn read_link(key: &mut FlowKey, theirs: &SlicedPacket<'_>) -> Option<usize> {
    let Some(LinkSlice::Ethernet2(ethernet)) = &theirs.link else { panic!("no Ethernet") };
    key.set(Field::EthDst, MacAddr(ethernet.destination()).to_u64().into());
    key.set(Field::EthSrc, MacAddr(ethernet.source()).to_u64().into());
    let mut ethertype = ethernet.ether_type().0;
    let mut start = 14;
    for (index, tag) in theirs.link_exts.iter().enumerate() {
        let LinkExtSlice::Vlan(tag) = tag else { return None };
        if index == 0 {
            let drop_eligible = u16::from(tag.drop_eligible_indicator()) << 12;
            let priority = u16::from(tag.priority_code_point().value()) << 13;
            let tci = priority | drop_eligible | tag.vlan_identifier().value();
            key.set(Field::VlanTci, (tci | 0x1000).into());
        }
        ethertype = tag.ether_type().0;
        start += 4;
    }
    let is_llc = ethertype < 0x600;
    key.set(Field::EthType, if is_llc { 0x05ff } else { ethertype }.into());
    Some(start)
}

fn read_net(key: &mut FlowKey, net: &NetSlice<'_>) {
    let mut ip = |src: IpAddr, dst: IpAddr, tos: u8, ttl: u8, protocol: u8| {
        key.set(Field::IpSrc, weft_packet::key::ip_field(src));
        key.set(Field::IpDst, weft_packet::key::ip_field(dst));
        key.set(Field::IpTos, tos.into());
        key.set(Field::IpTtl, ttl.into());
        key.set(Field::IpProto, protocol.into());
    };
    let (fragmented, first) = match net {
        NetSlice::Ipv4(v4) => {
            let header = v4.header();
            let (src, dst) = (header.source_addr().into(), header.destination_addr().into());
            ip(src, dst, header.slice()[1], header.ttl(), v4.payload().ip_number.0);
            (header.is_fragmenting_payload(), header.fragments_offset().value() == 0)
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header();
            let (src, dst) = (header.source_addr().into(), header.destination_addr().into());
            ip(src, dst, header.traffic_class(), header.hop_limit(), v6.payload().ip_number.0);
            let fragment = v6.extensions().clone().into_iter().find_map(|extension| match extension {
                etherparse::Ipv6ExtensionSlice::Fragment(fragment) => Some(fragment.to_header()),
                _ => None,
            });
            let first = fragment.is_none_or(|f| f.fragment_offset.value() == 0);
            (v6.is_payload_fragmented(), first)
        }
        NetSlice::Arp(arp) => {
            let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u128::from(*b));
            key.set(Field::IpProto, arp.operation().0.min(0xff).into());
            key.set(Field::IpSrc, number(arp.sender_protocol_addr()));
            key.set(Field::IpDst, number(arp.target_protocol_addr()));
            key.set(Field::ArpSha, number(arp.sender_hw_addr()));
            key.set(Field::ArpTha, number(arp.target_hw_addr()));
            return;
        }
    };
    key.set(
        Field::Fragment,
        if !fragmented {
            0
        } else if first {
            1
        } else {
            3
        },
    );
}

/// Reads ports, ICMP type and code, TCP flags; returns the length of the header.
fn read_transport(key: &mut FlowKey, transport: &TransportSlice<'_>) -> usize {
    let (src, dst, len) = match transport {
        TransportSlice::Tcp(tcp) => {
            // etherparse knows NS (bit 8) but not the three reserved bits above it.
            let flags = u16::from_be_bytes([tcp.slice()[12], tcp.slice()[13]]) & 0x0fff;
            assert_eq!((flags & 1 != 0, flags & 2 != 0, flags & 0x10 != 0), (tcp.fin(), tcp.syn(), tcp.ack()));
            key.set(Field::TcpFlags, flags.into());
            (tcp.source_port(), tcp.destination_port(), tcp.header_slice().len())
        }
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port(), 8),
        TransportSlice::Icmpv4(icmp) => (icmp.type_u8().into(), icmp.code_u8().into(), 8),
        TransportSlice::Icmpv6(icmp) => (icmp.type_u8().into(), icmp.code_u8().into(), 8),
        // IGMP: no header of ours, so the comparison fails and must be excused.
        _ => return 0,
    };
    key.set(Field::L4Src, src.into());
    key.set(Field::L4Dst, dst.into());
    len
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
