//! Everything of a network on a host but anti-spoof: where frames enter, who is answered, where they go.
//!
//! Every rule matches a port of the network, its VNI or its segment, so no frame of one network meets a rule of another.

use weft_api::DropReason;
use weft_api::object::{Attach, Name};
use weft_api::wire::proto::{self, Action, Rule};
use weft_api::wire::{Field, HostProgram, ip_bytes};

use super::anti_spoof::ETHERTYPE_ARP;
use super::view::{NetworkView, PortView};
use super::{own_addresses, table};

const ARP_REQUEST: u128 = 1;
const VLAN_PRESENT: u128 = 1 << 12;
const GROUP_BIT: u128 = 1 << 40;
/// Addresses that no bridge forwards (IEEE 802.1Q-2014, table 8-1), and the bits that they share.
const RESERVED_GROUP: u128 = 0x0180_c200_0000;
const RESERVED_GROUP_MASK: u128 = 0xffff_ffff_fff0;

const REFUSE: u32 = 200;
const RESERVED: u32 = 150;
const WANTED: u32 = 100;
const UNICAST: u32 = 50;
const DEFAULT: u32 = 0;

/// The flood list of broadcast and multicast.
pub(super) const fn flood_all(segment: u32) -> u32 {
    segment * 2
}

/// The flood list of unknown unicast: whose stations are not known, which are the learning remotes.
pub(super) const fn flood_unknown(segment: u32) -> u32 {
    segment * 2 + 1
}

/// Puts the segment, its flood lists and its rules.
pub(super) fn segment(view: &NetworkView<'_>, host: &Name, program: &mut HostProgram) {
    let id = view.segment;
    program.insert(proto::Segment { id, vni: id, mtu: view.mtu, domain: id, owner: view.owner() });
    let local = view.ports.iter().filter(|port| port.host == host);
    program.insert(proto::Flood {
        id: flood_all(id),
        segment: id,
        ports: sorted(local.map(|port| port.name.clone())),
        remotes: sorted(view.others(host).map(|other| other.name.as_str().to_owned())),
    });
    if !view.legacy.is_empty() {
        let remotes = sorted(view.legacy.iter().map(|legacy| legacy.name.as_str().to_owned()));
        program.insert(proto::Flood { id: flood_unknown(id), segment: id, ports: Vec::new(), remotes });
    }
    segment_rules(view, program);
}

fn segment_rules(view: &NetworkView<'_>, program: &mut HostProgram) {
    let id = view.segment;
    let rule = |table, priority, line: &str| Rule::new(table, priority, format!("{} {line}", view.owner()), id);
    let here = |table, priority, line: &str| rule(table, priority, line).on(Field::Metadata, id.into());

    let tunnel = |priority, line: &str| rule(table::CLASSIFY, priority, line).on(Field::Vni, id.into());
    let tagged = tunnel(REFUSE, "vlan").on_masked(Field::VlanTci, VLAN_PRESENT, VLAN_PRESENT);
    program.insert(tagged.apply(Action::drop_as(DropReason::VlanNotAllowed)));
    program.insert(tunnel(WANTED, "tunnel").write_metadata(id.into()).goto(table::FORWARD));

    let request = here(table::RESPOND, WANTED, "arp").on(Field::EthType, ETHERTYPE_ARP);
    let request = request.on(Field::IpProto, ARP_REQUEST);
    program.insert(request.apply(Action::answer_neighbor(id)).goto(table::FORWARD));
    program.insert(here(table::RESPOND, DEFAULT, "default").goto(table::FORWARD));

    let learns = !view.legacy.is_empty();
    let learn = |rule: Rule| if learns { rule.apply(Action::learn(id)) } else { rule };
    let reserved = here(table::FORWARD, RESERVED, "reserved group");
    let reserved = reserved.on_masked(Field::EthDst, RESERVED_GROUP, RESERVED_GROUP_MASK);
    program.insert(reserved.apply(Action::drop_as(DropReason::Policy)));
    let group = here(table::FORWARD, WANTED, "flood").on_masked(Field::EthDst, GROUP_BIT, GROUP_BIT);
    program.insert(learn(group).apply(Action::flood(flood_all(id))));
    let lookup = if learns { Action::fdb_or_flood(id, flood_unknown(id)) } else { Action::fdb_or_drop(id) };
    program.insert(learn(here(table::FORWARD, UNICAST, "unicast")).apply(lookup));
}

/// Puts a port of this host and the rules by which its frames enter.
pub(super) fn local_port(view: &NetworkView<'_>, port: &PortView<'_>, program: &mut HostProgram) {
    let id = view.segment;
    program.insert(proto::Port {
        name: port.name.clone(),
        segment: id,
        mac: port.mac.0.to_vec(),
        addresses: port
            .addresses
            .iter()
            .map(|(ip, prefix_len)| proto::Address { ip: ip_bytes(*ip), prefix_len: (*prefix_len).into() })
            .collect(),
        attach: Some(attach(port.attach)),
        learn: false,
        owner: port.owner(),
    });
    let enter = |priority, line: &str| {
        Rule::new(table::CLASSIFY, priority, format!("{} {line}", port.owner()), id).on_port(&port.name)
    };
    let tagged = enter(REFUSE, "vlan").on_masked(Field::VlanTci, VLAN_PRESENT, VLAN_PRESENT);
    program.insert(tagged.apply(Action::drop_as(DropReason::VlanNotAllowed)));
    program.insert(enter(WANTED, "classify").write_metadata(id.into()).goto(table::ANTI_SPOOF));
}

/// Puts where a port of the network lives, seen from a host, and what is answered for its addresses.
pub(super) fn locations(view: &NetworkView<'_>, port: &PortView<'_>, host: &Name, program: &mut HostProgram) {
    let location =
        if port.host == host { proto::Location::port(&port.name) } else { proto::Location::remote(port.host.as_str()) };
    program.insert(proto::FdbEntry {
        key: Some(proto::MacKey::new(view.segment, port.mac)),
        location: Some(location.clone()),
        owner: port.owner(),
    });
    for ip in own_addresses(port.mac, &port.ips()) {
        program.insert(proto::Neighbor {
            key: Some(proto::AddressKey::new(view.segment, ip)),
            mac: port.mac.0.to_vec(),
            location: Some(location.clone()),
            owner: port.owner(),
        });
    }
}

fn attach(attach: &Attach) -> proto::Attach {
    let kind = match attach {
        Attach::Tap(tap) => proto::attach::Kind::Tap(proto::Tap {
            netns: tap.netns.clone().unwrap_or_default(),
            ifname: tap.ifname.clone(),
        }),
        Attach::Netdev(netdev) => proto::attach::Kind::Netdev(proto::Netdev { name: netdev.name.clone() }),
    };
    proto::Attach { kind: Some(kind) }
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}
