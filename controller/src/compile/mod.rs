//! The compiler: all intent in, one program per host out.
//!
//! Memoryless: the result depends on the snapshot only, never on what was compiled before. A host gets what it needs
//! for the networks that it has a port on and nothing else. What refers to something missing is left out (fails closed):
//! a port without its network, its host or an address of its own gets no program, so it stays dark.
//!
//! Per network and host the result is a fragment that depends on the network's view and the host's name alone; that is
//! the unit that an incremental compiler would keep.

mod anti_spoof;
mod forward;
#[cfg(test)]
mod states;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use weft_api::MacAddr;
use weft_api::object::{Host, HostKind, Name};
use weft_api::wire::{HostProgram, ip_bytes, proto};

use crate::store::Snapshot;
use view::NetworkView;

/// The program of every host with an agent, by the host's name.
pub type Programs = BTreeMap<Name, HostProgram>;

/// Tables of the pipeline. Every goto leads to a later one.
mod table {
    pub(super) const CLASSIFY: u32 = 0;
    pub(super) const ANTI_SPOOF: u32 = 1;
    pub(super) const RESPOND: u32 = 2;
    pub(super) const FORWARD: u32 = 3;
}

/// Compiles one program per host of `kind: weft`, an empty one where nothing is to be done.
pub fn compile(snapshot: &Snapshot) -> Programs {
    let views = view::networks(snapshot);
    let agents = snapshot.hosts().filter(|host| host.spec.kind == HostKind::Weft);
    agents.map(|host| (host.name.clone(), host_program(host, &views))).collect()
}

fn host_program(host: &Host, views: &[NetworkView<'_>]) -> HostProgram {
    let mut program = HostProgram::default();
    let mut shared: BTreeMap<&Name, (&Host, BTreeSet<u32>)> = BTreeMap::new();
    for view in views.iter().filter(|view| view.is_on(&host.name)) {
        for other in view.others(&host.name) {
            shared.entry(&other.name).or_insert_with(|| (other, BTreeSet::new())).1.insert(view.segment);
        }
        fragment(view, &host.name, &mut program);
    }
    for (other, vnis) in shared.into_values() {
        program.insert(remote(other, vnis));
    }
    program
}

/// What a network puts on a host, all of it keyed by the network's segment or by a port of it.
fn fragment(view: &NetworkView<'_>, host: &Name, program: &mut HostProgram) {
    forward::segment(view, host, program);
    for port in view.ports.iter().filter(|port| port.host == host) {
        forward::local_port(view, port, program);
        anti_spoof::rules(view, port, program);
    }
    for port in &view.ports {
        forward::locations(view, port, host, program);
    }
}

fn remote(host: &Host, vnis: BTreeSet<u32>) -> proto::Remote {
    let kind = match host.spec.kind {
        HostKind::Weft => proto::RemoteKind::Weft,
        HostKind::Vtep => proto::RemoteKind::Legacy,
    };
    proto::Remote {
        name: host.name.as_str().into(),
        address: ip_bytes(host.spec.address),
        udp_port: host.spec.udp_port.into(),
        vnis: vnis.into_iter().collect(),
        kind: kind.into(),
        owner: format!("host {}", host.name),
    }
}

/// The link-local address that a MAC address gives (RFC 4291, appendix A).
fn eui64_link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The addresses that a port may use: the declared ones, then its link-local one.
fn own_addresses(mac: MacAddr, declared: &[IpAddr]) -> BTreeSet<IpAddr> {
    declared.iter().copied().chain([eui64_link_local(mac).into()]).collect()
}
