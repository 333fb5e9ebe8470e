//! What people say about each object.
//!
//! A field that may be left out and is then allocated by the controller (MAC, addresses, VNI) is an `Option`: in the
//! store it is always there. A field with a default is filled in when it is read.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_packet::{MacAddr, Vni};

use super::{Cidr, Name, NetworkRef};

/// The UDP port of VXLAN (RFC 7348, section 5).
pub const UDP_PORT_DEFAULT: u16 = 4789;
/// The underlay's MTU where nothing is said, in bytes.
pub const UNDERLAY_MTU_DEFAULT: u16 = 1500;
/// The longest interface name (IFNAMSIZ less its terminator).
pub const IFNAME_LEN_MAX: usize = 15;
/// The smallest MTU that IPv4 works over (RFC 791, section 3.2).
pub const MTU_MIN_IPV4: u16 = 68;
/// The smallest MTU that IPv6 works over (RFC 8200, section 5).
pub const MTU_MIN_IPV6: u16 = 1280;
/// The largest MTU of a network.
pub const MTU_MAX: u16 = 9000;
/// The largest MTU of an underlay: room for a network's largest and the outer headers.
pub const UNDERLAY_MTU_MAX: u16 = 9216;
/// Addresses of one port at most.
pub const PORT_ADDRESSES_MAX: usize = 64;
/// Networks of one `kind: vtep` host at most.
pub const HOST_NETWORKS_MAX: usize = 4096;

/// Whose networks and ports are kept apart from everybody else's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantSpec {}

/// A layer 2 network: one VNI.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// The VXLAN network identifier, unique in the fabric; allocated where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 16_777_215)]
    pub vni: Option<Vni>,
    /// The largest IP packet of its guests, in bytes; where it is left out, what all underlays of its hosts carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 68, maximum = 9000)]
    pub mtu: Option<u16>,
}

/// An address range of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubnetSpec {
    /// The network, of the same tenant.
    #[schema(value_type = String)]
    pub network: Name,
    /// The range; those of one network do not overlap.
    #[schema(value_type = String, example = "10.9.0.0/24")]
    pub cidr: Cidr,
    /// The router's address, which no port gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "10.9.0.254")]
    pub gateway: Option<IpAddr>,
}

/// A guest's attachment to a network, on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The network, of the same tenant.
    #[schema(value_type = String)]
    pub network: Name,
    /// The guest's MAC address, unique in the network; allocated where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "02:00:00:00:00:01")]
    pub mac: Option<MacAddr>,
    /// The guest's addresses, unique in the network; one of each subnet where the list is left out. An empty list
    /// stands for a guest without addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, max_items = 64)]
    pub addresses: Option<Vec<IpAddr>>,
    /// The host that the guest is on, of `kind: weft`.
    #[schema(value_type = String)]
    pub host: Name,
    /// The device.
    pub attach: Attach,
}

/// The device behind a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Attach {
    /// A TAP that Weft makes.
    Tap(TapAttach),
    /// A network device of the host that somebody else made: a veth, QEMU's TAP, a NIC.
    Netdev(NetdevAttach),
}

/// A TAP that Weft makes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TapAttach {
    /// The guest's network namespace: a name as `ip netns` shows it, or a path. The host's own where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The interface's name there.
    #[schema(min_length = 1, max_length = 15)]
    pub ifname: String,
}

/// A network device that somebody else made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetdevAttach {
    /// The interface's name, in the host's namespace.
    #[schema(min_length = 1, max_length = 15)]
    pub name: String,
}

/// A machine with a VTEP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Who runs the VTEP.
    pub kind: HostKind,
    /// The VTEP's address in the underlay, IPv4 or IPv6.
    #[schema(value_type = String, example = "192.0.2.1")]
    pub address: IpAddr,
    /// The UDP port that the VTEP receives on.
    #[serde(default = "udp_port_default")]
    #[schema(minimum = 1, default = 4789)]
    pub udp_port: u16,
    /// The largest outer IP packet, in bytes.
    #[serde(default = "underlay_mtu_default")]
    #[schema(minimum = 118, maximum = 9216, default = 1500)]
    pub mtu: u16,
    /// The networks that a `kind: vtep` host has; those of a `kind: weft` host follow from its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, max_items = 4096, example = json!(["red/blue"]))]
    pub networks: Vec<NetworkRef>,
}

/// Who runs a host's VTEP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// A Weft agent.
    Weft,
    /// Somebody else: a kernel's VXLAN device, a hardware switch.
    Vtep,
}

impl HostSpec {
    /// The largest guest IP packet where no host says otherwise: the default underlay, over IPv4.
    pub const GUEST_MTU_DEFAULT: u16 = UNDERLAY_MTU_DEFAULT - 50;

    /// Bytes that VXLAN adds in front of a guest's IP packet, outer IP header included: 50 over IPv4, 70 over IPv6.
    pub const fn overhead(&self) -> u16 {
        match self.address {
            IpAddr::V4(_) => 50,
            IpAddr::V6(_) => 70,
        }
    }

    /// The largest guest IP packet that the underlay carries whole.
    pub const fn guest_mtu_max(&self) -> u16 {
        self.mtu.saturating_sub(self.overhead())
    }
}

/// Default of [`HostSpec::udp_port`].
pub(super) const fn udp_port_default() -> u16 {
    UDP_PORT_DEFAULT
}

/// Default of [`HostSpec::mtu`].
pub(super) const fn underlay_mtu_default() -> u16 {
    UNDERLAY_MTU_DEFAULT
}
