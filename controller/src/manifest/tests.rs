//! What applying promises: all or nothing, allocated values stay, nothing changed is no generation, no text panics.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weft_api::object::{Kind, Name, Object, ObjectKey};

use super::*;
use crate::store::MemoryStore;

const BASE: &str = "
kind: Tenant
name: red
---
{kind: Network, tenant: red, name: blue, spec: {}}
---
{kind: Subnet, tenant: red, name: v4, spec: {network: blue, cidr: 10.9.0.0/29, gateway: 10.9.0.1}}
---
{kind: Subnet, tenant: red, name: v6, spec: {network: blue, cidr: 'fd09::/64'}}
---
{kind: Host, name: h1, spec: {kind: weft, address: 192.0.2.1}}
---
kind: Port
tenant: red
name: a
spec: {network: blue, host: h1, attach: {tap: {netns: a, ifname: eth0}}}
";

/// A random source for tests (SplitMix64).
fn random(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn run(store: &MemoryStore, verb: Verb, text: &str) -> Result<ApplyReport, ApplyError> {
    let documents = documents(text)?;
    let request = Request { verb, documents: &documents, revisions: Vec::new(), dry_run: false };
    apply(store, &request, &mut random(7))
}

fn put(store: &MemoryStore, text: &str) -> ApplyReport {
    run(store, Verb::Put, text).unwrap()
}

fn port(store: &MemoryStore, name: &str) -> weft_api::object::Port {
    let key = ObjectKey::scoped(Kind::Port, &Name::new("red").unwrap(), &Name::new(name).unwrap());
    match &*store.get(&key).unwrap().object {
        Object::Port(port) => port.clone(),
        other => panic!("{} is no port", other.key()),
    }
}

fn port_text(name: &str, rest: &str) -> String {
    format!(
        "{{kind: Port, tenant: red, name: {name}, spec: {{network: blue, host: h1, attach: {{netdev: {{name: {name}}}}}{rest}}}}}\n"
    )
}

#[test]
fn a_vni_that_was_given_back_is_not_given_out_again_soon() {
    let store = MemoryStore::new("s");
    let mut random = random(7);
    let mut seen = BTreeSet::new();
    for round in 0..100 {
        let network = documents(&format!("{{kind: Network, tenant: red, name: n{round}, spec: {{}}}}")).unwrap();
        put(&store, "{kind: Tenant, name: red, spec: {}}");
        for verb in [Verb::Put, Verb::Delete] {
            let request = Request { verb, documents: &network, revisions: Vec::new(), dry_run: false };
            apply(&store, &request, &mut random).unwrap();
            seen.extend(store.snapshot().networks().filter_map(|network| network.spec.vni));
        }
    }
    assert_eq!(seen.len(), 100, "else a host that has not heard of it yet would bridge two tenants");
}

#[test]
fn what_is_left_out_is_allocated_and_stays_when_it_is_left_out_again() {
    let store = MemoryStore::new("s");
    let report = put(&store, BASE);
    assert_eq!((report.generation, report.of(ChangeKind::Created).count()), (1, 6));
    let first = port(&store, "a").spec;
    let addresses = first.addresses.clone().unwrap();
    assert_eq!(addresses, ["10.9.0.2".parse::<std::net::IpAddr>().unwrap(), "fd09::1".parse().unwrap()]);
    let mac = first.mac.unwrap();
    assert!(mac.is_unicast() && mac.0[0] & 2 == 2, "{mac} is locally administered");
    let snapshot = store.snapshot();
    let vni = snapshot.networks().next().unwrap().spec.vni.unwrap();
    assert!(vni.get() >= 4096, "the lower ones are left to people");

    let again = put(&store, BASE);
    assert_eq!((again.generation, again.of(ChangeKind::Unchanged).count()), (1, 6));
    assert_eq!(port(&store, "a").spec, first);
}

#[test]
fn a_subnet_without_a_free_address_refuses_the_port_and_changes_nothing() {
    let store = MemoryStore::new("s");
    put(&store, BASE);
    for name in ["b", "c", "d", "e"] {
        put(&store, &port_text(name, ""));
    }
    let before = store.snapshot();
    let told = run(&store, Verb::Put, &port_text("f", "")).unwrap_err().to_string();
    assert!(
        told.contains("port red/f: spec.addresses: subnet red/v4 (10.9.0.0/29) has no free address: delete a port")
    );
    assert_eq!(store.snapshot(), before);
    put(&store, &port_text("f", ", addresses: []"));
    assert_eq!(port(&store, "f").spec.addresses, Some(Vec::new()));
}

#[test]
fn what_is_still_used_is_not_deleted_and_the_users_are_named() {
    let store = MemoryStore::new("s");
    put(&store, BASE);
    let before = store.snapshot();
    let refused = |text: &str| run(&store, Verb::Delete, text).unwrap_err().to_string();
    assert!(refused("{kind: Tenant, name: red}").contains(
        "tenant red: tenant red is still used by network red/blue, subnet red/v4, subnet red/v6, port red/a: delete these first"
    ));
    assert!(refused("{kind: Subnet, tenant: red, name: v6}").contains("subnet red/v6 is still used by port red/a"));
    assert!(refused("{kind: Host, name: h1}").contains("host h1 is still used by port red/a"));
    assert_eq!(store.snapshot(), before);
    let report = run(&store, Verb::Delete, BASE).unwrap();
    assert_eq!((report.generation, report.of(ChangeKind::Deleted).count()), (2, 6));
    assert!(store.snapshot().objects.is_empty());
    assert_eq!(run(&store, Verb::Delete, BASE).unwrap().generation, 2);
}

#[test]
fn a_dry_run_tells_what_would_be_done_and_does_nothing() {
    let store = MemoryStore::new("s");
    let documents = documents(BASE).unwrap();
    let request = Request { verb: Verb::Put, documents: &documents, revisions: Vec::new(), dry_run: true };
    let report = apply(&store, &request, &mut random(7)).unwrap();
    assert_eq!((report.generation, report.of(ChangeKind::Created).count(), report.dry_run), (0, 6, true));
    assert!(store.snapshot().objects.is_empty());
}

#[test]
fn ports_of_a_network_get_addresses_when_its_first_subnet_comes() {
    let store = MemoryStore::new("s");
    let without: Vec<&str> = BASE.split("---").filter(|text| !text.contains("Subnet")).collect();
    put(&store, &without.join("---"));
    assert_eq!(port(&store, "a").spec.addresses, None);
    let report = put(&store, "{kind: Subnet, tenant: red, name: v4, spec: {network: blue, cidr: 10.9.0.0/24}}");
    assert_eq!(report.of(ChangeKind::Created).collect::<Vec<_>>(), ["subnet red/v4"]);
    assert_eq!(report.of(ChangeKind::Updated).collect::<Vec<_>>(), ["port red/a"]);
    assert_eq!(port(&store, "a").spec.addresses.unwrap().len(), 1);
}

#[test]
fn ten_thousand_ports_are_one_request() {
    let store = MemoryStore::new("s");
    put(&store, &BASE.replace("10.9.0.0/29", "10.9.0.0/16"));
    let ports: Vec<String> = (0..10_000).map(|index| port_text(&format!("p{index}"), "")).collect();
    let begun = std::time::Instant::now();
    let report = put(&store, &ports.join("---\n"));
    println!("10,000 ports applied in {:?}", begun.elapsed());
    assert_eq!((report.generation, report.of(ChangeKind::Created).count()), (2, 10_000));
    check_unique(&store.snapshot());
    assert_eq!(put(&store, &ports.join("---\n")).generation, 2);
}

/// One step of a random life: put or delete one of a few objects, with values that are often wrong.
fn step() -> impl Strategy<Value = (Verb, String)> {
    let host = (1..3u8, 0..3u8, 100..1700u16).prop_map(|(n, a, mtu)| {
        format!("{{kind: Host, name: h{n}, spec: {{kind: weft, address: 192.0.2.{a}, mtu: {mtu}}}}}")
    });
    let network = (0..3u8, proptest::option::of(0..4u32)).prop_map(|(n, vni)| {
        let vni = vni.map(|vni| format!("vni: {vni}")).unwrap_or_default();
        format!("{{kind: Network, tenant: red, name: n{n}, spec: {{{vni}}}}}")
    });
    let subnet = (0..3u8, 0..3u8, 28..33u8).prop_map(|(n, s, len)| {
        format!("{{kind: Subnet, tenant: red, name: s{s}, spec: {{network: n{n}, cidr: 10.9.0.{}/{len}}}}}", s * 8)
    });
    let port = (0..6u8, 0..3u8, 0..3u8, proptest::option::of(0..24u8)).prop_map(|(p, n, h, address)| {
        let address = address.map(|a| format!(", addresses: [10.9.0.{a}]")).unwrap_or_default();
        format!(
            "{{kind: Port, tenant: red, name: p{p}, spec: {{network: n{n}, host: h{h}, attach: {{netdev: {{name: e{p}}}}}{address}}}}}"
        )
    });
    let tenant = Just("{kind: Tenant, name: red}".to_owned());
    let verb = prop_oneof![3 => Just(Verb::Put), 1 => Just(Verb::Delete)];
    (verb, prop_oneof![1 => tenant, 2 => host, 2 => network, 2 => subnet, 4 => port])
}

/// The unique indexes, checked the slow way.
fn check_unique(snapshot: &Snapshot) {
    let mut seen = BTreeSet::new();
    for network in snapshot.networks() {
        assert!(seen.insert(network.spec.vni.unwrap().to_string()), "{} shares its VNI", network.key());
    }
    for port in snapshot.ports() {
        let on = format!("{}/{}", port.tenant, port.spec.network);
        assert!(seen.insert(format!("{on} {}", port.spec.mac.unwrap())), "{} shares its MAC", port.key());
        for address in port.spec.addresses.iter().flatten() {
            assert!(seen.insert(format!("{on} {address}")), "{} shares {address}", port.key());
            let own = snapshot.subnets().filter(|s| s.tenant == port.tenant && s.spec.network == port.spec.network);
            assert_eq!(own.filter(|s| s.spec.cidr.is_assignable(*address)).count(), 1, "{} {address}", port.key());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any life of steps and groups of steps keeps every invariant; a refused one changes nothing; one that is
    /// accepted is accepted again and then changes nothing.
    #[test]
    fn intent_is_sound_after_every_step(steps in proptest::collection::vec(proptest::collection::vec(step(), 1..5), 1..30)) {
        let store = MemoryStore::new("s");
        put(&store, "{kind: Tenant, name: red}\n---\n{kind: Network, tenant: red, name: n0, spec: {}}\n---\n{kind: Host, name: h0, spec: {kind: weft, address: 192.0.2.0}}");
        let mut seed = 1;
        for group in steps {
            let verb = group[0].0;
            let text: Vec<String> = group.into_iter().map(|(_, text)| text).collect();
            let documents = documents(&text.join("\n---\n")).unwrap();
            let request = Request { verb, documents: &documents, revisions: Vec::new(), dry_run: false };
            let before = store.snapshot();
            seed += 1;
            match apply(&store, &request, &mut random(seed)) {
                Err(error) => {
                    prop_assert!(!error.to_string().is_empty());
                    prop_assert_eq!(store.snapshot(), before);
                }
                Ok(report) => {
                    let after = store.snapshot();
                    check_unique(&after);
                    prop_assert_eq!(report.generation, after.generation);
                    let mistakes = validate(&Proposal { after: (*after).clone(), ..Proposal::default() });
                    prop_assert_eq!(mistakes, Vec::new());
                    let again = apply(&store, &request, &mut random(seed)).unwrap();
                    prop_assert_eq!(again.generation, after.generation);
                    prop_assert_eq!(store.snapshot(), after);
                }
            }
        }
    }
}

/// The fuzz entry of the manifest parser: whatever the bytes, it answers.
fn fuzz_manifest(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(documents) = documents(&text) else { return };
    let request = Request { verb: Verb::Put, documents: &documents, revisions: Vec::new(), dry_run: true };
    let _any_answer_will_do = plan(&Snapshot::default(), &request, &mut random(1));
}

#[test]
fn no_mutation_of_a_manifest_makes_the_parser_panic() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42);
    println!("SEED={seed}");
    let mut random = random(seed);
    let corpus: Vec<&[u8]> =
        BASE.split("---").map(str::as_bytes).chain([br#"[{"kind":"Tenant","name":"x"}, 1]"#.as_slice()]).collect();
    let salt = b"{}[]:-,&*!|>'\"%@`#?\n\t \0\xff~0";
    let mut below = |bound: usize| usize::try_from(random() % bound.max(1) as u64).unwrap();
    for _ in 0..100_000 {
        let mut bytes = corpus[below(corpus.len())].to_vec();
        for _ in 0..=below(4) {
            let at = below(bytes.len() + 1);
            match below(4) {
                0 => bytes.insert(at, salt[below(salt.len())]),
                1 => bytes.truncate(at),
                2 if at < bytes.len() => bytes[at] = salt[below(salt.len())],
                _ => {
                    let other = corpus[below(corpus.len())];
                    let from = below(other.len());
                    bytes.splice(at..at, other[from..other.len().min(from + 20)].iter().copied());
                }
            }
        }
        fuzz_manifest(&bytes);
    }
}
