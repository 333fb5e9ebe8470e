//! What guests send, and what they may get to see.
//!
//! Both tenants use the same addresses, every second guest even the same MAC address. Each frame carries a nonce, so
//! that whatever arrives anywhere can be traced to who sent it. Frames are built by `etherparse`, not by our own code.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder, VlanId};
use weft_packet::offload::complete_checksum;
use weft_packet::segment::segment;
use weft_packet::{Frame, FramePool, Offload};

/// Names of the tenants.
pub const TENANTS: [&str; 2] = ["red", "green"];
/// Guests per tenant.
pub const SLOTS: usize = 4;

/// A guest: tenant and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guest {
    /// Index into [`TENANTS`].
    pub tenant: usize,
    /// Which of the tenant's.
    pub slot: usize,
}

/// What kind of frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 UDP to a guest.
    Udp4,
    /// IPv6 UDP to a guest.
    Udp6,
    /// IPv4 UDP to everybody.
    Broadcast,
    /// Who has a guest's address? Answered on the host where it is known.
    Arp,
    /// IPv4 UDP with somebody else's source address: must arrive nowhere.
    SpoofedAddress,
    /// With somebody else's MAC address: must arrive nowhere.
    SpoofedMac,
    /// With a VLAN tag: must arrive nowhere.
    Tagged,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Udp4, Self::Udp6, Self::Broadcast, Self::Arp, Self::SpoofedAddress, Self::SpoofedMac, Self::Tagged];

    /// Whether it may arrive at somebody.
    pub const fn may_arrive(self) -> bool {
        !matches!(self, Self::SpoofedAddress | Self::SpoofedMac | Self::Tagged)
    }

    /// Whether it is for one guest.
    pub const fn is_unicast(self) -> bool {
        !matches!(self, Self::Broadcast | Self::Arp)
    }
}

impl Guest {
    /// All guests.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..TENANTS.len()).flat_map(|tenant| (0..SLOTS).map(move |slot| Self { tenant, slot }))
    }

    /// Its port's name.
    pub fn port(self) -> String {
        format!("{}/p{}", TENANTS[self.tenant], self.slot)
    }

    /// Its namespace.
    pub fn netns(self) -> String {
        format!("{}-{}", TENANTS[self.tenant], self.slot)
    }

    /// Its MAC address: the other tenant's guest of an even number has the same.
    pub const fn mac(self) -> [u8; 6] {
        let tenant = if self.slot.is_multiple_of(2) { 0 } else { self.tenant };
        [2, 0, 0, 0, tenant as u8, 1 + self.slot as u8]
    }

    /// Its IPv4 address, which the other tenant's guest has too.
    pub const fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 9, 0, 1 + self.slot as u8)
    }

    /// Its IPv6 address, which the other tenant's guest has too.
    pub const fn ipv6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1 + self.slot as u16)
    }

    /// A frame of this guest to another of its tenant.
    ///
    /// # Panics
    /// Never: the frames are well-formed.
    pub fn frame(self, kind: Kind, to: Self, nonce: u64) -> Vec<u8> {
        let stranger = Self { slot: (self.slot + 1) % SLOTS, ..self };
        let payload = [MAGIC.as_slice(), &nonce.to_be_bytes()].concat();
        let mut frame = Vec::with_capacity(128);
        let (mac, dst) = (self.mac(), to.mac());
        let (ip, to_ip) = (self.ipv4().octets(), to.ipv4().octets());
        let udp = |source, dst, ip| PacketBuilder::ethernet2(source, dst).ipv4(ip, to_ip, 64).udp(1111, 2222);
        let written = match kind {
            Kind::Udp4 => udp(mac, dst, ip).write(&mut frame, &payload),
            Kind::Udp6 => PacketBuilder::ethernet2(mac, dst)
                .ipv6(self.ipv6().octets(), to.ipv6().octets(), 64)
                .udp(1111, 2222)
                .write(&mut frame, &payload),
            Kind::Broadcast => PacketBuilder::ethernet2(mac, [0xff; 6])
                .ipv4(ip, [10, 9, 0, 255], 64)
                .udp(1111, 2222)
                .write(&mut frame, &payload),
            Kind::SpoofedAddress => udp(mac, dst, stranger.ipv4().octets()).write(&mut frame, &payload),
            Kind::SpoofedMac => udp([2, 0, 0, 0, 9, 9], dst, ip).write(&mut frame, &payload),
            Kind::Tagged => PacketBuilder::ethernet2(mac, dst)
                .single_vlan(VlanId::try_new(7).expect("7 is a VLAN"))
                .ipv4(ip, to_ip, 64)
                .udp(1111, 2222)
                .write(&mut frame, &payload),
            Kind::Arp => return arp_request(mac, ip, to_ip, &payload),
        };
        written.expect("a frame fits into memory");
        frame
    }
}

fn arp_request(mac: [u8; 6], ip: [u8; 4], target: [u8; 4], trailer: &[u8]) -> Vec<u8> {
    let packet =
        ArpPacket::new(ArpHardwareId::ETHERNET, EtherType::IPV4, ArpOperation::REQUEST, &mac, &ip, &[0; 6], &target);
    let mut frame = Vec::with_capacity(64);
    PacketBuilder::ethernet2(mac, [0xff; 6])
        .arp(packet.expect("the lengths are those of Ethernet and IPv4"))
        .write(&mut frame)
        .expect("a frame fits into memory");
    frame.extend(trailer);
    frame
}

/// What a guest received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A guest's frame.
    Nonce(u64),
    /// An ARP answer that a vswitch made: this address is at that MAC address.
    ArpAnswer(Ipv4Addr, [u8; 6]),
    /// Something that nobody should have sent.
    Unexplained,
}

/// Reads what a guest received.
pub fn read(frame: &[u8]) -> Seen {
    if let Some(at) = frame.windows(MAGIC.len()).position(|window| window == MAGIC)
        && let Some(nonce) = frame.get(at + MAGIC.len()..at + MAGIC.len() + 8)
    {
        return Seen::Nonce(u64::from_be_bytes(nonce.try_into().unwrap_or_default()));
    }
    match frame.get(12..42) {
        Some([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2, a, b, c, d, e, f, i, p, v, four, ..]) => {
            Seen::ArpAnswer(Ipv4Addr::new(*i, *p, *v, *four), [*a, *b, *c, *d, *e, *f])
        }
        _ => Seen::Unexplained,
    }
}

/// What a guest's kernel makes of a frame of its device: super-frames are cut, partial checksums finished.
///
/// # Panics
/// When the frame is not what its offload state says.
pub fn as_sent(pool: &mut FramePool, bytes: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let mut frame = pool.take().expect("frames are given back");
    frame.fill(bytes);
    frame.offload = offload;
    let frames = match offload.gso {
        Some(gso) => {
            let mut segments = Vec::new();
            segment(&frame, gso.size, pool, &mut segments).expect("a vswitch sends super-frames that can be cut");
            segments
        }
        None => {
            complete_checksum(&mut frame).expect("a partial checksum lies in its frame");
            vec![pool.copy(&frame).expect("frames are given back")]
        }
    };
    pool.give(frame);
    let give_back = |frame: Frame| {
        let bytes = frame.bytes().to_vec();
        pool.give(frame);
        bytes
    };
    frames.into_iter().map(give_back).collect()
}

const MAGIC: &[u8; 8] = b"WEFTNNCE";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_traced_to_its_nonce() {
        let (from, to) = (Guest { tenant: 0, slot: 1 }, Guest { tenant: 0, slot: 2 });
        for (nonce, kind) in (7..).zip(Kind::ALL) {
            assert_eq!(read(&from.frame(kind, to, nonce)), Seen::Nonce(nonce), "{kind:?}");
        }
    }
}
