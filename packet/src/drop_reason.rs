//! Why a frame was dropped. People alert on these names: they are never renamed or reused.

use serde::{Deserialize, Serialize};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a frame was dropped; one counter each, per port.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
            /// All reasons, in declaration order: `ALL[r as usize] == r`.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// One sentence for people.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }

            /// The reason of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|r| r.name() == name)
            }
        }
    };
}

drop_reasons! {
    /// The destination is the port that the frame came from.
    Hairpin,
    /// The frame is shorter than its Ethernet header, or longer than any frame may be.
    MalformedEthernet,
    /// An ARP packet for Ethernet and IPv4 that is cut short or lies about its lengths.
    MalformedArp,
    /// An IPv4 header with a bad version, header length, total length or checksum.
    MalformedIpv4,
    /// An IPv6 header or extension header chain that is cut short, too long, or lies about its lengths.
    MalformedIpv6,
    /// A TCP, UDP or ICMP header that is cut short or lies about its lengths.
    MalformedL4,
    /// The source MAC address has the group bit set.
    GroupSource,
    /// The source MAC address is zero.
    ZeroSource,
    /// A VLAN tag where no trunk port carries it.
    VlanNotAllowed,
    /// The port has no policy installed or no device attached yet, so nothing passes in or out.
    PortDark,
    /// The source MAC address is not one that the port may use.
    SpoofedMac,
    /// The source IP, ARP or ND address is not one that the port may use.
    SpoofedAddress,
    /// No rule of the table matched.
    TableMiss,
    /// A rule says drop.
    Policy,
    /// No location is known for the destination MAC address, and the segment does not flood unknown unicast.
    UnknownUnicast,
    /// The flood list has nobody else on it.
    EmptyFlood,
    /// A frame from a tunnel would have gone back into a tunnel.
    SplitHorizon,
    /// A rule went to a table that does not come after its own, or too many rules were passed.
    GotoLoop,
    /// A frame met rules of two program versions (a test's own reason: it stays at zero).
    MixedProgram,
    /// Nobody hosts the destination any more: the remote, port or flood list is gone.
    NoDestination,
    /// The VXLAN header is cut short.
    VxlanTruncated,
    /// The I flag of the VXLAN header is not set (RFC 7348, section 5).
    VxlanFlags,
    /// The VNI is zero or belongs to no segment of this host.
    VniUnknown,
    /// The outer source address is no known remote.
    RemoteUnknown,
    /// The remote does not host this VNI.
    VniNotAllowed,
    /// A probe of the fabric from somebody who may not send one, or one that is not understood.
    ProbeRefused,
    /// The outer lengths lie, or a received batch ends in the middle of a packet.
    OuterLength,
    /// Congestion was marked outside on a packet that cannot carry the mark (RFC 6040, section 4.2).
    EcnInvalid,
    /// Larger than the way to its destination carries, and not answerable or fragmentable.
    Oversize,
    /// The offload header of the device makes no sense for the frame.
    OffloadInvalid,
    /// The checksum that we were asked to fill or verify is wrong.
    ChecksumBad,
    /// The kernel refused the frame: the device is down or its buffer is full.
    TxRefused,
    /// The kernel has no room for more right now.
    TxFull,
    /// The port's device or namespace is gone.
    PortGone,
    /// No frame buffer was free.
    NoBuffer,
    /// The device cut the frame off because it was longer than a buffer.
    RxTruncated,
    /// A reply of our own was due but its rate limit is used up.
    ReplyLimited,
    /// An address request that its own owner asked: answering would break duplicate address detection.
    OwnAddressProbe,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_found_by_its_name_and_its_number() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(DropReason::from_name(reason.name()), Some(*reason));
        }
    }
}
