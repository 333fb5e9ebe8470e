//! Who is on which network, looked up once for all checks.

use std::collections::BTreeMap;

use weft_api::object::{Host, Name, Network, Port, Subnet};

use crate::store::Snapshot;

/// Tenant and network.
pub(super) type NetworkKey = (Name, Name);

/// Everything that stands on one network.
#[derive(Default)]
pub(super) struct OnNetwork<'a> {
    pub(super) network: Option<&'a Network>,
    pub(super) subnets: Vec<&'a Subnet>,
    pub(super) ports: Vec<&'a Port>,
    /// Each once: of the ports, and of `kind: vtep`.
    pub(super) hosts: BTreeMap<&'a Name, &'a Host>,
}

pub(super) struct Index<'a> {
    pub(super) networks: BTreeMap<NetworkKey, OnNetwork<'a>>,
}

impl<'a> Index<'a> {
    pub(super) fn of(snapshot: &'a Snapshot) -> Self {
        let mut networks: BTreeMap<NetworkKey, OnNetwork<'a>> = BTreeMap::new();
        let key = |tenant: &Name, name: &Name| (tenant.clone(), name.clone());
        for network in snapshot.networks() {
            networks.entry(key(&network.tenant, &network.name)).or_default().network = Some(network);
        }
        for subnet in snapshot.subnets() {
            networks.entry(key(&subnet.tenant, &subnet.spec.network)).or_default().subnets.push(subnet);
        }
        for port in snapshot.ports() {
            let on = networks.entry(key(&port.tenant, &port.spec.network)).or_default();
            on.ports.push(port);
            if let Some(host) = snapshot.host(&port.spec.host) {
                on.hosts.insert(&host.name, host);
            }
        }
        for host in snapshot.hosts() {
            for reference in &host.spec.networks {
                let on = networks.entry(key(&reference.tenant, &reference.network)).or_default();
                on.hosts.insert(&host.name, host);
            }
        }
        Self { networks }
    }
}
