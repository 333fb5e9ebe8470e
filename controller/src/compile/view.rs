//! A network as the compiler sees it: resolved, checked, and free of everything that it does not need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_api::MacAddr;
use weft_api::object::{Attach, Host, HostKind, Kind, Name, Network, NetworkRef, Object, ObjectKey, Port};

use crate::store::Snapshot;

/// A network with all of its referents.
pub(super) struct NetworkView<'a> {
    /// `red/blue`.
    pub(super) name: String,
    /// Segment and domain number: the VNI, which is unique in the fabric and stable.
    pub(super) segment: u32,
    pub(super) mtu: u32,
    /// By name.
    pub(super) ports: Vec<PortView<'a>>,
    /// VTEPs that know nothing of Weft, by name.
    pub(super) legacy: Vec<&'a Host>,
    hosts: BTreeMap<&'a Name, &'a Host>,
}

/// A port with all that a program needs of it.
pub(super) struct PortView<'a> {
    /// `red/a`.
    pub(super) name: String,
    pub(super) mac: MacAddr,
    /// With the prefix length of their subnets.
    pub(super) addresses: Vec<(IpAddr, u8)>,
    pub(super) host: &'a Name,
    pub(super) attach: &'a Attach,
}

impl<'a> NetworkView<'a> {
    /// Whether a port of the network is on the host.
    pub(super) fn is_on(&self, host: &Name) -> bool {
        self.hosts.contains_key(host)
    }

    /// The other hosts that have the network, agents and legacy VTEPs, by name.
    pub(super) fn others(&self, host: &Name) -> impl Iterator<Item = &'a Host> {
        let agents = self.hosts.values().copied();
        let mut others: Vec<&Host> = agents.chain(self.legacy.iter().copied()).filter(|h| h.name != *host).collect();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        others.into_iter()
    }

    /// Owner of what the network asks for.
    pub(super) fn owner(&self) -> String {
        format!("network {}", self.name)
    }
}

impl PortView<'_> {
    /// Owner of what the port asks for.
    pub(super) fn owner(&self) -> String {
        format!("port {}", self.name)
    }

    /// The declared addresses without their prefix lengths.
    pub(super) fn ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(|(ip, _)| *ip).collect()
    }
}

/// All networks that can be compiled. Two networks with one VNI would share a segment, so neither is.
pub(super) fn networks(snapshot: &Snapshot) -> Vec<NetworkView<'_>> {
    let ports = ports_by_network(snapshot);
    let mut uses: BTreeMap<u32, usize> = BTreeMap::new();
    for vni in snapshot.networks().filter_map(|n| n.spec.vni) {
        *uses.entry(vni.get()).or_default() += 1;
    }
    let one_vni = |network: &&Network| network.spec.vni.is_some_and(|vni| uses.get(&vni.get()) == Some(&1));
    let of_tenant = |network: &&Network| snapshot.object(&ObjectKey::global(Kind::Tenant, &network.tenant)).is_some();
    snapshot
        .networks()
        .filter(one_vni)
        .filter(of_tenant)
        .filter_map(|network| view(snapshot, network, ports.get(&(&network.tenant, &network.name))?))
        .collect()
}

type PortsByNetwork<'a> = BTreeMap<(&'a Name, &'a Name), Vec<&'a Port>>;

fn ports_by_network(snapshot: &Snapshot) -> PortsByNetwork<'_> {
    let mut ports = PortsByNetwork::new();
    for port in snapshot.ports() {
        ports.entry((&port.tenant, &port.spec.network)).or_default().push(port);
    }
    ports
}

fn view<'a>(snapshot: &'a Snapshot, network: &'a Network, ports: &[&'a Port]) -> Option<NetworkView<'a>> {
    let own = NetworkRef { tenant: network.tenant.clone(), network: network.name.clone() };
    let mut macs = BTreeSet::new();
    let mut view = NetworkView {
        name: format!("{}/{}", network.tenant, network.name),
        segment: network.spec.vni?.get(),
        mtu: snapshot.network_mtu(network).into(),
        ports: Vec::new(),
        legacy: snapshot
            .hosts()
            .filter(|host| host.spec.kind == HostKind::Vtep && host.spec.networks.contains(&own))
            .collect(),
        hosts: BTreeMap::new(),
    };
    for port in ports {
        let Some(host) = snapshot.host(&port.spec.host).filter(|host| host.spec.kind == HostKind::Weft) else {
            continue;
        };
        let Some(mac) = port.spec.mac.filter(|mac| mac.is_unicast() && macs.insert(*mac)) else { continue };
        view.hosts.insert(&host.name, host);
        view.ports.push(port_view(snapshot, port, mac));
    }
    Some(view)
}

fn port_view<'a>(snapshot: &'a Snapshot, port: &'a Port, mac: MacAddr) -> PortView<'a> {
    let addresses = port.spec.addresses.iter().flatten();
    PortView {
        name: format!("{}/{}", port.tenant, port.name),
        mac,
        addresses: addresses.map(|ip| (*ip, prefix_len(snapshot, port, *ip))).collect(),
        host: &port.spec.host,
        attach: &port.spec.attach,
    }
}

fn prefix_len(snapshot: &Snapshot, port: &Port, ip: IpAddr) -> u8 {
    let mut subnets = snapshot.tenant_objects(Kind::Subnet, &port.tenant);
    let of_subnet = subnets.find_map(|object| match object {
        Object::Subnet(subnet) if subnet.spec.network == port.spec.network && subnet.spec.cidr.contains(ip) => {
            Some(subnet.spec.cidr.prefix_len())
        }
        _ => None,
    });
    of_subnet.unwrap_or(if ip.is_ipv4() { 32 } else { 128 })
}
