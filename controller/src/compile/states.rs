//! States in, programs out. Each list of states is run five ways (as Calico's Felix tests its graph): in order, in
//! reverse, torn down between, each alone, and squashed; a host that follows by changes must end where a fresh compile is.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use weft_api::object::Object;
use weft_api::wire::{HostProgram, Item, Key, item, key, proto};

use super::{Programs, compile};
use crate::store::{Snapshot, Stored};

type State = Vec<Object>;

fn object(document: Value) -> Object {
    Object::from_value(&document).unwrap_or_else(|problems| panic!("{document}: {problems:?}"))
}

fn tenant(name: &str) -> Object {
    object(json!({"kind": "Tenant", "name": name, "spec": {}}))
}

fn network(tenant: &str, name: &str, vni: u32) -> Object {
    object(json!({"kind": "Network", "tenant": tenant, "name": name, "spec": {"vni": vni}}))
}

fn subnet(tenant: &str, name: &str, network: &str, cidr: &str) -> Object {
    object(json!({"kind": "Subnet", "tenant": tenant, "name": name, "spec": {"network": network, "cidr": cidr}}))
}

fn host(number: u8) -> Object {
    let spec = json!({"kind": "weft", "address": format!("192.0.2.{number}"), "mtu": 1600});
    object(json!({"kind": "Host", "name": format!("h{number}"), "spec": spec}))
}

fn vtep(number: u8, networks: &[&str]) -> Object {
    let spec = json!({"kind": "vtep", "address": format!("192.0.2.{number}"), "networks": networks});
    object(json!({"kind": "Host", "name": format!("h{number}"), "spec": spec}))
}

fn port(tenant: &str, name: &str, network: &str, station: u8, host: u8) -> Object {
    let spec = json!({
        "network": network,
        "mac": format!("02:00:00:00:00:{station:02x}"),
        "addresses": [format!("10.9.0.{station}"), format!("fd09::{station}")],
        "host": format!("h{host}"),
        "attach": {"tap": {"netns": name, "ifname": "eth0"}},
    });
    object(json!({"kind": "Port", "tenant": tenant, "name": name, "spec": spec}))
}

fn snapshot(state: &[Object]) -> Snapshot {
    let stored = |object: &Object| (object.key(), Stored { revision: 1, object: Arc::new(object.clone()) });
    Snapshot { generation: 1, objects: state.iter().map(stored).collect() }
}

fn base(tenants: &[(&str, u32)]) -> State {
    let mut state: State = (1..=3).map(host).collect();
    for (name, vni) in tenants {
        state.extend([tenant(name), network(name, "n", *vni), subnet(name, "v4", "n", "10.9.0.0/24")]);
    }
    state
}

fn with(mut state: State, more: impl IntoIterator<Item = Object>) -> State {
    state.extend(more);
    state
}

/// Two tenants with the same addresses on the same hosts, and what may happen to them.
fn states() -> Vec<State> {
    let two = base(&[("red", 42), ("blue", 43)]);
    let placed = with(
        two.clone(),
        [
            port("red", "a", "n", 1, 1),
            port("red", "b", "n", 2, 2),
            port("blue", "a", "n", 1, 1),
            port("blue", "b", "n", 2, 2),
        ],
    );
    let moved: State = placed.iter().filter(|o| o.key().to_string() != "port red/b").cloned().collect();
    vec![
        two.clone(),
        placed.clone(),
        with(moved, [port("red", "b", "n", 2, 3)]),
        with(placed.clone(), [vtep(9, &["red/n"])]),
        with(two, [port("red", "c", "n", 3, 1), port("red", "d", "n", 4, 1)]),
        placed.into_iter().filter(|o| o.key().to_string() != "host h2").collect(),
    ]
}

/// Lets each host follow the states by changes only, and checks it against a fresh compile after each.
fn follow(states: &[State]) -> Programs {
    let mut followers: Programs = BTreeMap::new();
    for state in states {
        let compiled = compile(&snapshot(state));
        followers.retain(|host, _| compiled.contains_key(host));
        for (host, wanted) in &compiled {
            let held = followers.remove(host).unwrap_or_default();
            let after = held.patched(held.changes_to(wanted)).unwrap();
            assert_eq!(after.digest(), wanted.digest(), "{host}");
            check_separate(&after);
            followers.insert(host.clone(), after);
        }
        assert_eq!(followers, compiled);
    }
    followers
}

#[test]
fn states_reached_in_any_way_give_the_same_programs() {
    let states = states();
    let last = follow(&states);
    let mut reversed = states.clone();
    reversed.reverse();
    assert_eq!(follow(&reversed), compile(&snapshot(&states[0])));
    let torn_down: Vec<State> = states.iter().flat_map(|s| [s.clone(), State::new()]).collect();
    assert!(follow(&torn_down).is_empty());
    for state in &states {
        assert_eq!(follow(std::slice::from_ref(state)), compile(&snapshot(state)));
    }
    assert_eq!(follow(&states[states.len() - 1..]), last);
}

/// No item of one segment refers to anything of another.
fn check_separate(program: &HostProgram) {
    let ports: BTreeMap<&str, u32> = program
        .kinds()
        .filter_map(|kind| match kind {
            item::Kind::Port(port) => Some((port.name.as_str(), port.segment)),
            _ => None,
        })
        .collect();
    let hosts = |remote: &str, segment: u32| {
        let key = Key { kind: Some(key::Kind::Remote(remote.into())) };
        matches!(program.item(&key), Some(Item { kind: Some(item::Kind::Remote(r)) }) if r.vnis.contains(&segment))
    };
    let at = |location: &Option<proto::Location>, segment| match location.as_ref().unwrap().kind.as_ref().unwrap() {
        proto::location::Kind::Port(name) => assert_eq!(ports.get(name.as_str()), Some(&segment)),
        proto::location::Kind::Remote(name) => assert!(hosts(name, segment)),
    };
    for kind in program.kinds() {
        match kind {
            item::Kind::Flood(flood) => {
                assert!(flood.ports.iter().all(|p| ports.get(p.as_str()) == Some(&flood.segment)));
                assert!(flood.remotes.iter().all(|r| hosts(r, flood.segment)));
                assert_eq!(flood.id / 2, flood.segment);
            }
            item::Kind::Fdb(entry) => at(&entry.location, entry.key.as_ref().unwrap().segment),
            item::Kind::Neighbor(entry) => at(&entry.location, entry.key.as_ref().unwrap().segment),
            item::Kind::Rule(rule) => check_rule(rule, &ports),
            _ => {}
        }
        Item { kind: Some(kind.clone()) }.check().unwrap();
    }
}

/// A rule is pinned to one segment by its match, and acts in that segment only.
fn check_rule(rule: &proto::Rule, ports: &BTreeMap<&str, u32>) {
    let matches = &rule.key.as_ref().unwrap().matches;
    let segment = matches.iter().find_map(|m| match (m.field.as_str(), m.read().unwrap()) {
        ("in_port", weft_api::wire::MatchRead::Port(name)) => ports.get(name).copied(),
        ("metadata" | "tunnel_id", weft_api::wire::MatchRead::Bits { value, .. }) => u32::try_from(value).ok(),
        _ => None,
    });
    let segment = segment.unwrap_or_else(|| panic!("{} matches frames of any network", rule.owner));
    assert_eq!(rule.domain, segment);
    for instruction in &rule.instructions {
        match instruction.kind.as_ref().unwrap() {
            proto::instruction::Kind::WriteMetadata(write) => assert_eq!(write.value, u64::from(segment)),
            proto::instruction::Kind::GotoTable(table) => assert!(*table > rule.key.as_ref().unwrap().table),
            proto::instruction::Kind::Apply(apply) => {
                for action in &apply.actions {
                    let acts_in = match action.kind.as_ref().unwrap() {
                        proto::action::Kind::Flood(id) => id / 2,
                        proto::action::Kind::Fdb(lookup) => lookup.segment,
                        proto::action::Kind::Learn(id) | proto::action::Kind::AnswerNeighbor(id) => *id,
                        _ => segment,
                    };
                    assert_eq!(acts_in, segment, "{}", rule.owner);
                }
            }
        }
    }
}

fn owners(program: &HostProgram) -> Vec<&str> {
    let rules = program.kinds().filter_map(|kind| if let item::Kind::Rule(rule) = kind { Some(rule) } else { None });
    rules.map(|rule| rule.owner.as_str()).collect()
}

fn of(state: &[Object], host: &str) -> HostProgram {
    compile(&snapshot(state)).remove(&host.parse().unwrap()).unwrap()
}

#[test]
fn a_host_gets_nothing_of_networks_that_it_does_not_host() {
    let state = with(base(&[("red", 42), ("blue", 43)]), [port("red", "a", "n", 1, 1), port("blue", "b", "n", 2, 2)]);
    for (name, own, foreign) in [("h1", "red", "blue"), ("h2", "blue", "red")] {
        let text = format!("{:?}", of(&state, name).to_wire());
        assert!(text.contains(own) && !text.contains(foreign), "{name}: {text}");
        assert!(!text.contains("Remote("), "nobody else hosts its network: {text}");
    }
    assert!(of(&state, "h3").is_empty());
}

#[test]
fn a_remote_hosts_the_shared_networks_only() {
    let nets = with(base(&[("red", 42), ("blue", 43)]), [port("red", "a", "n", 1, 1), port("red", "b", "n", 2, 2)]);
    let state = with(nets, [port("blue", "b", "n", 2, 2), port("blue", "c", "n", 3, 3)]);
    let remotes = |host: &str| -> Vec<(String, Vec<u32>)> {
        let program = of(&state, host);
        let remote = |kind: &item::Kind| match kind {
            item::Kind::Remote(remote) => Some((remote.name.clone(), remote.vnis.clone())),
            _ => None,
        };
        program.kinds().filter_map(remote).collect()
    };
    assert_eq!(remotes("h1"), [("h2".into(), vec![42])]);
    assert_eq!(remotes("h2"), [("h1".into(), vec![42]), ("h3".into(), vec![43])]);
    assert_eq!(remotes("h3"), [("h2".into(), vec![43])]);
}

#[test]
fn what_refers_to_nothing_is_left_out() {
    let state = with(
        base(&[("red", 42)]),
        [
            port("red", "good", "n", 1, 1),
            port("red", "nowhere", "n", 2, 77),
            port("red", "netless", "missing", 3, 1),
            network("ghost", "n", 44),
            port("ghost", "a", "n", 4, 1),
            port("red", "on-vtep", "n", 5, 9),
            vtep(9, &[]),
        ],
    );
    let text = format!("{:?}", of(&state, "h1").to_wire());
    assert!(text.contains("red/good"));
    for left_out in ["nowhere", "netless", "ghost", "on-vtep", "h9"] {
        assert!(!text.contains(left_out), "{left_out}: {text}");
    }
    let clash = with(state, [tenant("blue"), network("blue", "n", 42), port("blue", "b", "n", 2, 1)]);
    assert!(of(&clash, "h1").is_empty(), "two networks with one VNI would be one segment");
}

#[test]
fn legacy_vteps_are_learned_from_and_get_unknown_unicast() {
    let plain = with(base(&[("red", 42)]), [port("red", "a", "n", 1, 1), port("red", "b", "n", 2, 2)]);
    let text = |state: &[Object]| format!("{:?}", of(state, "h1").to_wire());
    assert!(!text(&plain).contains("Learn") && text(&plain).contains("miss: Some(Drop"));
    let legacy = with(plain, [vtep(9, &["red/n"])]);
    let program = of(&legacy, "h1");
    assert!(text(&legacy).contains("Learn(42)") && text(&legacy).contains("miss: Some(Flood(85)"));
    let unknown = program.item(&Key { kind: Some(key::Kind::Flood(85)) }).unwrap();
    let flood = proto::Flood { id: 85, segment: 42, ports: vec![], remotes: vec!["h9".into()] };
    assert_eq!(*unknown, flood.into());
    let all = program.item(&Key { kind: Some(key::Kind::Flood(84)) }).unwrap();
    let remotes = vec!["h2".into(), "h9".into()];
    assert_eq!(*all, proto::Flood { id: 84, segment: 42, ports: vec!["red/a".into()], remotes }.into());
}

#[test]
fn every_rule_names_its_object_and_line() {
    let state = with(base(&[("red", 42)]), [port("red", "a", "n", 1, 1)]);
    let program = of(&state, "h1");
    let owners = owners(&program);
    for owner in [
        "port red/a classify",
        "port red/a anti-spoof arp 10.9.0.1",
        "port red/a anti-spoof ipv4 10.9.0.1",
        "port red/a anti-spoof ipv6 fd09::1",
        "port red/a anti-spoof ipv6 fe80::ff:fe00:1",
        "port red/a anti-spoof dhcp",
        "port red/a anti-spoof mac",
        "network red/n tunnel",
        "network red/n unicast",
    ] {
        assert!(owners.contains(&owner), "{owner} is missing in {owners:?}");
    }
    assert!(owners.iter().all(|o| o.starts_with("port red/a ") || o.starts_with("network red/n ")));
}

prop_compose! {
    fn a_state()(
        places in prop::collection::btree_map((0..3usize, 1..12u8), 1..4u8, 0..24),
        legacy in any::<[bool; 3]>(),
    ) -> State {
        let tenants = [("red", 42), ("blue", 43), ("green", 44)];
        let mut state = base(&tenants);
        for ((tenant, station), host) in places {
            state.push(port(tenants[tenant].0, &format!("p{station}"), "n", station, host));
        }
        let nets = tenants.iter().zip(legacy).filter(|(_, on)| *on).map(|((name, _), _)| format!("{name}/n"));
        let nets: Vec<String> = nets.collect();
        state.push(vtep(9, &nets.iter().map(String::as_str).collect::<Vec<_>>()));
        state
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tenants_with_the_same_addresses_never_share_an_entry(state in a_state()) {
        for program in compile(&snapshot(&state)).values() {
            check_separate(program);
        }
    }

    #[test]
    fn the_same_objects_give_the_same_digests(state in a_state()) {
        let mut reversed = state.clone();
        reversed.reverse();
        let digests = |state: &[Object]| compile(&snapshot(state)).values().map(HostProgram::digest).collect::<Vec<_>>();
        prop_assert_eq!(digests(&state), digests(&reversed));
    }

    #[test]
    fn any_state_is_reached_from_any_other(a in a_state(), b in a_state()) {
        follow(&[a, b]);
    }
}
