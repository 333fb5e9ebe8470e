//! Fills in what people left out: VNI, MAC address, addresses.
//!
//! Runs on a validated snapshot and over everything in it at once, so the indexes here are the unique indexes: what is
//! allocated collides with nothing declared, in this request or before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_api::object::{FieldProblem, Name, Object, ObjectKey, Port, Subnet};
use weft_api::{MacAddr, Vni};

use crate::store::Snapshot;

/// VNIs below are left to people.
pub const VNI_FIRST: u32 = 4096;
/// Random MAC addresses tried before giving up; with 2^46 of them two tries are rare.
const MAC_TRIES_MAX: usize = 64;
/// Random VNIs tried before taking the lowest free one.
const VNI_TRIES_MAX: usize = 64;

type NetworkKey = (Name, Name);

/// Fills in every missing VNI, MAC and address list of the snapshot; returns what could not be allocated.
pub fn allocate(snapshot: &mut Snapshot, random: &mut dyn FnMut() -> u64) -> Vec<(ObjectKey, FieldProblem)> {
    let mut free = Free::of(snapshot);
    let missing: Vec<ObjectKey> = snapshot
        .objects
        .iter()
        .filter(|(_, stored)| free.is_missing(&stored.object))
        .map(|(key, _)| key.clone())
        .collect();
    let mut problems = Vec::new();
    for key in missing {
        let Some(stored) = snapshot.objects.get_mut(&key) else { continue };
        if let Err(problem) = free.fill(Arc::make_mut(&mut stored.object), random) {
            problems.push((key, problem));
        }
    }
    problems
}

/// What is still free.
struct Free {
    vnis: BTreeSet<Vni>,
    vni_next: u32,
    macs: BTreeSet<MacAddr>,
    addresses: BTreeMap<NetworkKey, BTreeSet<IpAddr>>,
    subnets: BTreeMap<NetworkKey, Vec<Pool>>,
}

/// The addresses of one subnet, handed out from the lowest up.
struct Pool {
    subnet: Subnet,
    next: Option<IpAddr>,
}

impl Free {
    fn of(snapshot: &Snapshot) -> Self {
        let mut addresses: BTreeMap<NetworkKey, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut macs = BTreeSet::new();
        for port in snapshot.ports() {
            macs.extend(port.spec.mac);
            let used = addresses.entry(network_of(port)).or_default();
            used.extend(port.spec.addresses.iter().flatten());
        }
        let mut subnets: BTreeMap<NetworkKey, Vec<Pool>> = BTreeMap::new();
        for subnet in snapshot.subnets() {
            let key = (subnet.tenant.clone(), subnet.spec.network.clone());
            addresses.entry(key.clone()).or_default().extend(subnet.spec.gateway);
            let next = Some(subnet.spec.cidr.network());
            subnets.entry(key).or_default().push(Pool { subnet: subnet.clone(), next });
        }
        let vnis = snapshot.networks().filter_map(|network| network.spec.vni).chain([Vni::PROBE]).collect();
        Self { vnis, vni_next: VNI_FIRST, macs, addresses, subnets }
    }

    /// A port on a network without subnets keeps its missing addresses until there are some.
    fn is_missing(&self, object: &Object) -> bool {
        match object {
            Object::Network(network) => network.spec.vni.is_none(),
            Object::Port(port) => {
                let addresses = port.spec.addresses.is_none() && self.subnets.contains_key(&network_of(port));
                port.spec.mac.is_none() || addresses
            }
            _ => false,
        }
    }

    fn fill(&mut self, object: &mut Object, random: &mut dyn FnMut() -> u64) -> Result<(), FieldProblem> {
        match object {
            Object::Network(network) => network.spec.vni = Some(self.take_vni(random)?),
            Object::Port(port) => {
                if port.spec.mac.is_none() {
                    port.spec.mac = Some(self.take_mac(random)?);
                }
                if port.spec.addresses.is_none() {
                    port.spec.addresses = self.take_addresses(&network_of(port))?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A random one: a host that is out of touch goes on with the VNIs of its last program, and must not find another
    /// tenant's network under one of them.
    fn take_vni(&mut self, random: &mut dyn FnMut() -> u64) -> Result<Vni, FieldProblem> {
        for _ in 0..VNI_TRIES_MAX {
            let drawn = VNI_FIRST + (random() % u64::from(Vni::MAX - VNI_FIRST + 1)) as u32;
            if let Some(vni) = Vni::new(drawn).ok().filter(|vni| self.vnis.insert(*vni)) {
                return Ok(vni);
            }
        }
        while let Ok(vni) = Vni::new(self.vni_next) {
            self.vni_next += 1;
            if self.vnis.insert(vni) {
                return Ok(vni);
            }
        }
        Err(problem("spec.vni", "no VNI from 4096 up is free", "give one below, or delete a network"))
    }

    /// A random address with the local bit set and the group bit clear (IEEE 802c), unique in the fabric.
    fn take_mac(&mut self, random: &mut dyn FnMut() -> u64) -> Result<MacAddr, FieldProblem> {
        for _ in 0..MAC_TRIES_MAX {
            let mut mac = MacAddr::from_u64(random());
            mac.0[0] = mac.0[0] & !0x03 | 0x02;
            if self.macs.insert(mac) {
                return Ok(mac);
            }
        }
        Err(problem("spec.mac", "no random MAC address was free", "give one"))
    }

    /// The lowest free address of every subnet of the network.
    fn take_addresses(&mut self, network: &NetworkKey) -> Result<Option<Vec<IpAddr>>, FieldProblem> {
        let Some(pools) = self.subnets.get_mut(network) else { return Ok(None) };
        let used = self.addresses.entry(network.clone()).or_default();
        let mut taken = Vec::with_capacity(pools.len());
        for pool in pools {
            let Some(address) = pool.take(used) else {
                let why = format!("{} ({}) has no free address", pool.subnet.key(), pool.subnet.spec.cidr);
                return Err(problem("spec.addresses", &why, "delete a port, or add a subnet and give addresses of it"));
            };
            taken.push(address);
        }
        Ok(Some(taken))
    }
}

impl Pool {
    fn take(&mut self, used: &mut BTreeSet<IpAddr>) -> Option<IpAddr> {
        let cidr = self.subnet.spec.cidr;
        while let Some(address) = self.next.filter(|address| cidr.contains(*address)) {
            self.next = after(address);
            if cidr.is_assignable(address) && used.insert(address) {
                return Some(address);
            }
        }
        None
    }
}

fn network_of(port: &Port) -> NetworkKey {
    (port.tenant.clone(), port.spec.network.clone())
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(address) => address.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn problem(path: &str, why: &str, fix: &str) -> FieldProblem {
    FieldProblem { path: path.to_owned(), why: why.to_owned(), fix: fix.to_owned() }
}

/// Takes over what was allocated before and is left out now: applying a manifest twice changes nothing. A port that
/// moves to another network starts afresh.
pub fn inherit(object: &mut Object, before: &Object) {
    debug_assert_eq!(object.key(), before.key(), "only an object inherits from itself");
    match (object, before) {
        (Object::Network(network), Object::Network(before)) => network.spec.vni = network.spec.vni.or(before.spec.vni),
        (Object::Port(port), Object::Port(before)) if port.spec.network == before.spec.network => {
            port.spec.mac = port.spec.mac.or(before.spec.mac);
            if port.spec.addresses.is_none() {
                port.spec.addresses.clone_from(&before.spec.addresses);
            }
        }
        _ => {}
    }
}
