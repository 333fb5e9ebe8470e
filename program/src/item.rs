//! What a program is made of besides rules. Each item has a key; putting an item with a known key replaces it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use weft_packet::{MacAddr, Vni};

use crate::{DomainId, FloodId, PortId, RemoteId, SegmentId};

/// A network as the data plane sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Key.
    pub id: SegmentId,
    /// The VNI its frames carry between hosts.
    pub vni: Vni,
    /// The largest IP packet that crosses it, in bytes.
    pub mtu: u16,
    /// Whose cached results a change of it ends.
    pub domain: DomainId,
    /// The API object.
    pub owner: Arc<str>,
}

/// What the program says about an attached port. A port without one is dark: nothing passes in or out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortConfig {
    /// Key.
    pub id: PortId,
    /// Its segment.
    pub segment: SegmentId,
    /// Whether frames pass; a port goes live when its policy is in force everywhere it must be.
    pub live: bool,
    /// Whether source addresses are learned from it.
    pub learn: bool,
    /// The API object.
    pub owner: Arc<str>,
}

/// Another host's VTEP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Key.
    pub id: RemoteId,
    /// Where its VTEP listens.
    pub addr: IpAddr,
    /// The UDP port there.
    pub udp_port: u16,
    /// The VNIs it hosts: frames are accepted from it and sent to it for these only.
    pub vnis: BTreeSet<Vni>,
    /// Who is at the other end.
    pub kind: RemoteKind,
    /// The API object.
    pub owner: Arc<str>,
}

/// Who is at the other end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteKind {
    /// Weft: takes part in probes, its locations are known.
    Weft,
    /// A kernel or hardware VTEP that knows nothing of Weft: its locations are learned from its frames.
    Legacy,
}

/// A list of ports and remotes that get a copy each (head-end replication).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flood {
    /// Key.
    pub id: FloodId,
    /// The segment, whose VNI the copies to remotes carry.
    pub segment: SegmentId,
    /// Who gets a copy.
    pub targets: FloodTargets,
}

/// Who gets a copy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FloodTargets {
    /// Ports of this host.
    pub ports: Vec<PortId>,
    /// Remote VTEPs.
    pub remotes: Vec<RemoteId>,
}

/// Where a station is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Location {
    /// Behind a port of this host.
    Local(PortId),
    /// Behind another host's VTEP.
    Remote(RemoteId),
}

/// Key of the `fdb` map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FdbKey {
    /// In which segment.
    pub segment: SegmentId,
    /// Whose location.
    pub mac: MacAddr,
}

/// A pinned location: it never ages and always wins over what was learned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fdb {
    /// Segment and MAC address.
    pub key: FdbKey,
    /// Where it lives.
    pub location: Location,
    /// The API object.
    pub owner: Arc<str>,
}

/// Key of the `neighbor` map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NeighborKey {
    /// In which segment.
    pub segment: SegmentId,
    /// Whose hardware address.
    pub ip: IpAddr,
}

/// What an ARP request or neighbour solicitation is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbor {
    /// Segment and address.
    pub key: NeighborKey,
    /// The hardware address.
    pub mac: MacAddr,
    /// Where it lives: the owner itself is never answered.
    pub location: Location,
    /// The API object.
    pub owner: Arc<str>,
}

/// Key of the `label` map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LabelKey {
    /// In which segment.
    pub segment: SegmentId,
    /// Whose label.
    pub ip: IpAddr,
}

/// A label of an address, which rules match on instead of the address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Segment and address.
    pub key: LabelKey,
    /// The label, never zero.
    pub label: u32,
    /// The API object.
    pub owner: Arc<str>,
}
