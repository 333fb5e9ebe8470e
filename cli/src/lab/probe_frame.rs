//! A probe's bytes: writing them, and telling from a received frame whether it is one.
//!
//! A probe is known by its nonce alone, wherever in a frame it is: addresses are what tenants may share.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::expect::Protocol;
use super::wire::Probe;

const TTL: u8 = 64;

/// Whether `frame` carries the probe's nonce: as a whole packet, as a fragment, or as damaged goods.
pub(crate) fn carries(frame: &[u8], probe: &Probe) -> bool {
    frame.windows(probe.nonce.len()).any(|w| w == probe.nonce)
}

/// Whether `frame` is an echo request, which is no answer even if it comes back.
pub(crate) fn is_echo_request(frame: &[u8]) -> bool {
    match SlicedPacket::from_ethernet(frame).ok().and_then(|p| p.transport) {
        Some(TransportSlice::Icmpv4(icmp)) => matches!(icmp.icmp_type(), Icmpv4Type::EchoRequest(_)),
        Some(TransportSlice::Icmpv6(icmp)) => matches!(icmp.icmp_type(), Icmpv6Type::EchoRequest(_)),
        _ => false,
    }
}

/// A whole frame from the sender's address to the target's MAC address.
pub(crate) fn forge(probe: &Probe, source: IpAddr, from: [u8; 6], to: [u8; 6]) -> Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(from, to);
    let ip = match (source, probe.address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(a.octets(), b.octets(), TTL),
        (IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(a.octets(), b.octets(), TTL),
        _ => bail!("guest `{}` has no address of the family of {}", probe.from, probe.address),
    };
    let mut bytes = Vec::new();
    let written = match (probe.protocol, probe.address) {
        (Protocol::Udp, _) => ip.udp(probe.source_port, probe.port).write(&mut bytes, &probe.nonce),
        // Data in a SYN is legal (RFC 9293, section 3.4) and lets the nonce travel in the first segment.
        (Protocol::Tcp, _) => ip.tcp(probe.source_port, probe.port, 1, 1024).syn().write(&mut bytes, &probe.nonce),
        (Protocol::Icmp, IpAddr::V4(_)) => ip.icmpv4_echo_request(probe.source_port, 1).write(&mut bytes, &probe.nonce),
        (Protocol::Icmp, IpAddr::V6(_)) => ip.icmpv6_echo_request(probe.source_port, 1).write(&mut bytes, &probe.nonce),
    };
    written.context("cannot write the probe")?;
    Ok(bytes)
}

/// An ICMP message for a raw socket, which adds the IP header and, for ICMPv6, the checksum.
pub(crate) fn echo_request(probe: &Probe) -> Vec<u8> {
    let echo = IcmpEchoHeader { id: probe.source_port, seq: 1 };
    let mut packet = match probe.address {
        IpAddr::V4(_) => {
            etherparse::Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &probe.nonce).to_bytes().to_vec()
        }
        IpAddr::V6(_) => etherparse::Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).to_bytes().to_vec(),
    };
    packet.extend(probe.nonce);
    packet
}

/// A raw socket for ICMP of the address's family.
pub(crate) fn echo_socket(address: IpAddr) -> rustix::io::Result<OwnedFd> {
    let (family, protocol) = match address {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(protocol: Protocol, address: &str) -> Probe {
        Probe {
            from: "a".into(),
            to: "b".into(),
            protocol,
            address: address.parse().unwrap(),
            port: 7000,
            source_port: 40_000,
            nonce: *b"0123456789abcdef",
            forged: true,
        }
    }

    #[test]
    fn a_forged_probe_is_recognised_and_no_other() {
        for (source, address) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
            for protocol in [Protocol::Icmp, Protocol::Udp, Protocol::Tcp] {
                let probe = probe(protocol, address);
                let frame = forge(&probe, source.parse().unwrap(), [2; 6], [4; 6]).unwrap();
                assert!(carries(&frame, &probe), "{protocol:?} {address}");
                assert_eq!(is_echo_request(&frame), protocol == Protocol::Icmp);
                let other = Probe { nonce: *b"fedcba9876543210", ..probe };
                assert!(!carries(&frame, &other));
            }
        }
    }

    #[test]
    fn a_family_that_the_sender_lacks_is_refused() {
        assert!(forge(&probe(Protocol::Udp, "fd09::2"), "10.9.0.1".parse().unwrap(), [2; 6], [4; 6]).is_err());
    }

    #[test]
    fn a_reply_is_no_request() {
        let probe = probe(Protocol::Icmp, "10.9.0.2");
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2([4; 6], [2; 6]).ipv4([10, 9, 0, 2], [10, 9, 0, 1], 64);
        builder.icmpv4_echo_reply(40_000, 1).write(&mut bytes, &probe.nonce).unwrap();
        assert!(carries(&bytes, &probe) && !is_echo_request(&bytes));
    }

    #[test]
    fn a_frame_that_is_no_packet_but_holds_the_nonce_still_carries_it() {
        let probe = probe(Protocol::Udp, "10.9.0.2");
        assert!(carries(b"xx0123456789abcdefxx", &probe));
        assert!(!carries(b"", &probe));
    }
}
