//! What objects refer to is there, and of the right kind.

use std::collections::BTreeMap;

use weft_api::object::{Attach, HostKind, Kind, Name, ObjectKey};

use super::Check;

pub(super) fn check(check: &mut Check<'_>) {
    let after = &check.proposal.after;
    for key in after.objects.keys() {
        if let Some(tenant) = &key.tenant {
            check.refer(key, "tenant", &ObjectKey::global(Kind::Tenant, tenant));
        }
    }
    for (key, path, to) in &check.proposal.loose {
        check.refer(key, path, to);
    }
    for subnet in after.subnets() {
        check.refer(
            &subnet.key(),
            "spec.network",
            &ObjectKey::scoped(Kind::Network, &subnet.tenant, &subnet.spec.network),
        );
    }
    hosts(check);
    ports(check);
    devices(check);
}

fn hosts(check: &mut Check<'_>) {
    for host in check.proposal.after.hosts() {
        let key = host.key();
        for (index, reference) in host.spec.networks.iter().enumerate() {
            let path = format!("spec.networks[{index}]");
            if host.spec.networks[..index].contains(reference) {
                check.mistake(&key, path, format!("{reference} comes up twice"), "name it once");
                continue;
            }
            check.refer(&key, &path, &ObjectKey::scoped(Kind::Network, &reference.tenant, &reference.network));
        }
        if host.spec.kind == HostKind::Weft && !host.spec.networks.is_empty() {
            let why = "the networks of a kind: weft host follow from its ports";
            check.mistake(&key, "spec.networks", why, "leave it out, or make the host kind: vtep");
        }
    }
}

fn ports(check: &mut Check<'_>) {
    for port in check.proposal.after.ports() {
        let key = port.key();
        check.refer(&key, "spec.network", &ObjectKey::scoped(Kind::Network, &port.tenant, &port.spec.network));
        if !check.refer(&key, "spec.host", &ObjectKey::global(Kind::Host, &port.spec.host)) {
            continue;
        }
        let host = check.proposal.after.host(&port.spec.host);
        if host.is_some_and(|host| host.spec.kind == HostKind::Vtep) {
            let why = format!("host {} is of kind: vtep, where no agent could attach a port", port.spec.host);
            let fix =
                format!("name a kind: weft host, or list the network in spec.networks of host {}", port.spec.host);
            check.mistake(&key, "spec.host", why, fix);
        }
    }
}

/// A device is behind one port only.
fn devices(check: &mut Check<'_>) {
    let mut behind: BTreeMap<(&Name, &Attach), ObjectKey> = BTreeMap::new();
    for port in check.proposal.after.ports() {
        let key = port.key();
        let Some(other) = behind.insert((&port.spec.host, &port.spec.attach), key.clone()) else { continue };
        let (blamed, other) = check.blame(&key, &other);
        let why = format!("{other} has the same device of host {}", port.spec.host);
        check.mistake(blamed, "spec.attach", why, "give each port a device of its own");
    }
}
