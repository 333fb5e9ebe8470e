//! The table of what is fuzzed: one plain function of bytes for each name, and with it one test.
//!
//! The first column names the test, the second what it is for: `file::Type::function`, as the scan of the sources
//! finds it. An entry reads every field, because an accessor must not panic either.

use std::cell::RefCell;
use std::hint::black_box;

use weft_packet::arp::ArpView;
use weft_packet::ethernet::EthernetView;
use weft_packet::fragment::Fragments;
use weft_packet::icmpv4::Icmpv4View;
use weft_packet::icmpv6::Icmpv6View;
use weft_packet::ipv4::Ipv4View;
use weft_packet::ipv6::{Ipv6Chain, Ipv6View};
use weft_packet::nd::NdView;
use weft_packet::tcp::TcpView;
use weft_packet::udp::UdpView;
use weft_packet::vlan::VlanView;
use weft_packet::vxlan::VxlanView;
use weft_packet::{Frame, FramePool, Ingress, Layout, MacAddr, Parsed, reply, vnet};

macro_rules! entries {
    ($($test:ident $name:literal => $entry:expr;)+) => {
        /// All entries.
        pub(crate) const ENTRIES: &[(&str, fn(&[u8]))] = &[$(($name, $entry),)+];

        $(#[test]
        fn $test() {
            crate::bombard($name, $entry);
        })+
    };
}

entries! {
    arp "arp::ArpView::parse" => |bytes| {
        let _ = ArpView::parse(bytes).map(|v| black_box(v.header()));
    };
    ethernet "ethernet::EthernetView::parse" => |bytes| {
        let _ = EthernetView::parse(bytes).map(|v| black_box((v.header(), v.payload())));
    };
    icmpv4 "icmpv4::Icmpv4View::parse" => |bytes| {
        let _ = Icmpv4View::parse(bytes).map(|v| black_box((v.header(), v.checksum(), v.is_checksum_valid())));
    };
    icmpv6 "icmpv6::Icmpv6View::parse" => |bytes| {
        let there = std::net::Ipv6Addr::LOCALHOST;
        let _ = Icmpv6View::parse(bytes)
            .map(|v| black_box((v.header(), v.checksum(), v.is_checksum_valid(there, there))));
    };
    ipv4 "ipv4::Ipv4View::parse" => |bytes| {
        let _ = Ipv4View::parse(bytes).map(|v| {
            let lens = (v.header_len(), v.total_len(), v.options(), v.payload());
            black_box((v.header(), lens, v.is_fragment(), v.is_checksum_valid()))
        });
    };
    ipv6 "ipv6::Ipv6View::parse" => |bytes| {
        let _ = Ipv6View::parse(bytes).map(|v| black_box((v.header(), v.payload(), v.chain())));
    };
    ipv6_chain "ipv6::Ipv6Chain::parse" => |bytes| {
        let Some((next_header, payload)) = bytes.split_first() else { return };
        for kind in [0, 43, 44, 51, 60, *next_header] {
            if let Ok(chain) = Ipv6Chain::parse(kind, payload) {
                black_box(&payload[chain.len..]);
            }
        }
    };
    nd "nd::NdView::parse" => |bytes| {
        let _ = NdView::parse(bytes).map(|v| black_box(v.header()));
    };
    tcp "tcp::TcpView::parse" => |bytes| {
        let _ = TcpView::parse(bytes).map(|v| black_box((v.header(), v.header_len(), v.options(), v.payload())));
    };
    udp "udp::UdpView::parse" => |bytes| {
        let _ = UdpView::parse(bytes).map(|v| black_box((v.header(), v.payload())));
    };
    udp_first_fragment "udp::UdpView::parse_first_fragment" => |bytes| {
        let _ = UdpView::parse_first_fragment(bytes).map(|v| black_box((v.header(), v.payload())));
    };
    vlan "vlan::VlanView::parse" => |bytes| {
        let _ = VlanView::parse(bytes).map(|v| black_box((v.header(), v.payload())));
    };
    vxlan "vxlan::VxlanView::parse" => |bytes| {
        let _ = VxlanView::parse(bytes).map(|v| black_box((v.header(), v.payload())));
    };
    frame "parse::parse" => |bytes| {
        let Ok(parsed) = weft_packet::parse(bytes, Ingress::default()) else { return };
        black_box(weft_packet::flow_hash(&parsed.key));
        let (l3, l4, payload) = (parsed.l3.into(), parsed.l4.into(), parsed.payload.into());
        black_box((&bytes[l3..], &bytes[l4..], &bytes[payload..], &bytes[l3..l3 + parsed.ip_len as usize]));
        assert!(l3 <= payload && (l4 == 0 || (l3 < l4 && l4 < payload)));
    };
    frame_into "parse::parse_into" => |bytes| {
        let mut used = Parsed { l3: 1, l4: 2, payload: 3, ip_len: 4, ..Parsed::EMPTY };
        let outcome = weft_packet::parse_into(bytes, Ingress::default(), &mut used);
        assert_eq!(outcome.map(|()| used), weft_packet::parse(bytes, Ingress::default()));
    };
    layout "layout::Layout::of" => |bytes| {
        black_box(Layout::of(bytes));
    };
    vnet "vnet::decode" => |bytes| {
        let Some((header, frame)) = bytes.split_first_chunk() else { return };
        let _ = vnet::decode(header, frame).map(|offload| black_box(vnet::encode(offload, frame)));
        // Small numbers in a header are what makes sense for a frame, and random bytes rarely are.
        let small = header.map(|byte| byte & 0x47);
        let _ = vnet::decode(&small, bytes).map(|offload| black_box(vnet::encode(offload, bytes)));
    };
    arp_reply "reply::arp_reply" => |bytes| {
        with_frame(|out| _ = reply::arp_reply(bytes, MacAddr([2; 6]), out));
    };
    neighbor_advertisement "reply::neighbor_advertisement" => |bytes| {
        with_frame(|out| _ = reply::neighbor_advertisement(bytes, MacAddr([2; 6]), out));
    };
    fragmentation_needed "reply::fragmentation_needed" => |bytes| {
        with_frame(|out| _ = reply::fragmentation_needed(bytes, 1450, out));
    };
    packet_too_big "reply::packet_too_big" => |bytes| {
        with_frame(|out| _ = reply::packet_too_big(bytes, 1430, out));
    };
    fragments "fragment::Fragments::of_bytes" => |bytes| {
        let Ok(fragments) = Fragments::of_bytes(bytes, 68) else { return };
        with_frame(|out| fragments.for_each(|fragment| fragment.write(out)));
    };
}

fn with_frame(run: impl FnOnce(&mut Frame)) {
    thread_local! {
        static OUT: RefCell<Frame> = RefCell::new(FramePool::new(1).take().unwrap());
    }
    OUT.with_borrow_mut(run);
}
