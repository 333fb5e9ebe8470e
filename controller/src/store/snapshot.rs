//! All intent at one generation: what the compiler and the validation read.
//!
//! Objects are shared, so that a copy costs pointers. The order is that of [`ObjectKey`]: by kind, tenant, name.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_api::object::{Host, HostSpec, Kind, Name, Network, NetworkRef, Object, ObjectKey, Port, Subnet, Tenant};

/// All intent at one generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Which revision of intent.
    pub generation: u64,
    /// Everything declared.
    pub objects: BTreeMap<ObjectKey, Stored>,
}

/// An object as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The generation that last changed it: what a conditional write compares.
    pub revision: u64,
    /// The object.
    pub object: Arc<Object>,
}

macro_rules! of_kind {
    ($($(#[doc = $doc:literal])+ $all:ident: $kind:ident;)+) => {$(
        $(#[doc = $doc])+
        pub fn $all(&self) -> impl Iterator<Item = &$kind> {
            self.of_kind(Kind::$kind).filter_map(|(_, stored)| match &*stored.object {
                Object::$kind(object) => Some(object),
                _ => None,
            })
        }
    )+};
}

impl Snapshot {
    of_kind! {
        /// All tenants, by name.
        tenants: Tenant;
        /// All networks, by tenant and name.
        networks: Network;
        /// All subnets, by tenant and name.
        subnets: Subnet;
        /// All hosts, by name.
        hosts: Host;
        /// All ports, by tenant and name.
        ports: Port;
    }

    /// The object of that key.
    pub fn object(&self, key: &ObjectKey) -> Option<&Object> {
        self.objects.get(key).map(|stored| &*stored.object)
    }

    /// The network of that name.
    pub fn network(&self, tenant: &Name, name: &Name) -> Option<&Network> {
        match self.object(&ObjectKey::scoped(Kind::Network, tenant, name))? {
            Object::Network(network) => Some(network),
            _ => None,
        }
    }

    /// The host of that name.
    pub fn host(&self, name: &Name) -> Option<&Host> {
        match self.object(&ObjectKey::global(Kind::Host, name))? {
            Object::Host(host) => Some(host),
            _ => None,
        }
    }

    /// The largest IP packet of the network's guests: as declared, else what the underlays of all its hosts carry.
    pub fn network_mtu(&self, network: &Network) -> u16 {
        network.spec.mtu.unwrap_or_else(|| {
            let carried = self.network_hosts(network).map(|host| host.spec.guest_mtu_max()).min();
            carried.unwrap_or(HostSpec::GUEST_MTU_DEFAULT)
        })
    }

    /// The hosts that have the network: those with a port on it, and those of `kind: vtep` that name it. A host may
    /// come up more than once.
    pub fn network_hosts(&self, network: &Network) -> impl Iterator<Item = &Host> {
        let of_ports = self
            .tenant_objects(Kind::Port, &network.tenant)
            .filter_map(|object| match object {
                Object::Port(port) if port.spec.network == network.name => Some(&port.spec.host),
                _ => None,
            })
            .filter_map(|name| self.host(name));
        let own = NetworkRef { tenant: network.tenant.clone(), network: network.name.clone() };
        of_ports.chain(self.hosts().filter(move |host| host.spec.networks.contains(&own)))
    }

    /// All objects of one kind and one tenant, by name.
    pub fn tenant_objects(&self, kind: Kind, tenant: &Name) -> impl Iterator<Item = &Object> {
        let wanted = Some(tenant.clone());
        let least = ObjectKey { kind, tenant: wanted.clone(), name: Name::least() };
        self.objects
            .range(least..)
            .take_while(move |(key, _)| key.kind == kind && key.tenant == wanted)
            .map(|(_, stored)| &*stored.object)
    }

    /// All objects of one kind, by key.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Stored)> {
        let least = ObjectKey { kind, tenant: None, name: Name::least() };
        self.objects.range(least..).take_while(move |(key, _)| key.kind == kind)
    }
}
