//! The capability ladder end to end: a rung that the path does not carry is given up with its reason, and taken again.

use std::time::Duration;

use serde_json::Value;
use weft_tests::lab::{Lab, Setup, topology};
use weft_tests::traffic::tcp;

const BYTES: u64 = 20_000_000;
/// Probes go out every 10 s; three in a row have to fail.
const FALL: Duration = Duration::from_secs(15);
/// Told of a change of routes, a host probes at once.
const RISE: Duration = Duration::from_secs(5);

/// The rung from `host` towards its only remote, and why no better one is taken.
fn towards(lab: &Lab, host: &str) -> (String, String) {
    let status = lab.json(&["status"]);
    let hosts = status["hosts"].as_array().expect("status has hosts");
    let found = hosts.iter().find(|found| found["host"] == host).expect("the host is there");
    let rungs = found["rungs"].as_array().expect("a host has rungs");
    let rung = rungs.iter().find(|rung| rung["remote"].is_string()).cloned().unwrap_or(Value::Null);
    let text = |field: &str| rung[field].as_str().unwrap_or_default().to_owned();
    (text("rung"), text("reason"))
}

/// A lab on the best rung; `None`, and why, where the kernel has no tunnel device to offer.
fn lab_on_the_best_rung() -> Option<Lab> {
    if !weft_tests::may_run() {
        return None;
    }
    let lab = Lab::up(&topology("two-hosts.yaml"), Setup::DEFAULT);
    let status = lab.json(&["status"]);
    let rungs = status["hosts"][0]["rungs"].as_array().expect("a host has rungs");
    let refused = rungs.iter().find(|rung| rung["rung"] == "tunnel" && rung["taken"] == false);
    if let Some(why) = refused.and_then(|rung| rung["reason"].as_str()) {
        weft_tests::skip(why);
        return None;
    }
    lab.until(RISE, "the best rung", |lab| towards(lab, "h1").0 == "tunnel");
    Some(lab)
}

/// How often the host did what the counter says.
fn count(lab: &Lab, host: &str, counter: &str) -> u64 {
    let ledger = lab.ledger(host);
    let io = ledger["io"].as_array().expect("a ledger has system calls");
    let found = io.iter().find(|found| found["name"] == counter).unwrap_or_else(|| panic!("{counter} in {io:?}"));
    found["count"].as_u64().expect("a count")
}

/// Another route, of no use to anybody: the host looks at the way out again.
fn touch_routes(lab: &Lab, host: &str) {
    lab.exec(host, &["ip", "route", "replace", "198.51.100.0/24", "dev", "lo"]);
    lab.exec(host, &["ip", "route", "del", "198.51.100.0/24", "dev", "lo"]);
}

#[test]
fn a_host_that_swallows_super_frames_falls_says_so_and_rises_again() {
    let Some(lab) = lab_on_the_best_rung() else { return };
    tcp(&lab, "a", "b", "10.9.0.2", BYTES);
    assert!(count(&lab, "h1", "underlay_tx_whole") > 100, "super-frames leave uncut");

    // What a cautious administrator or a distribution sets: routed frames with our own source address are martians.
    lab.exec("h1", &["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1"]);
    lab.until(FALL, "a lower rung", |lab| towards(lab, "h1").0 == "segment");
    assert_eq!(towards(&lab, "h1").1, "tunnel GSO: 0 of 9 segments arrived intact");
    assert_eq!(towards(&lab, "h2").0, "tunnel", "the way back is another way");
    let before = count(&lab, "h1", "underlay_tx_whole");
    tcp(&lab, "a", "b", "10.9.0.2", BYTES);
    assert_eq!(count(&lab, "h1", "underlay_tx_whole"), before);

    lab.exec("h1", &["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0"]);
    touch_routes(&lab, "h1");
    lab.until(RISE, "the best rung again", |lab| towards(lab, "h1").0 == "tunnel");
}

#[test]
fn a_path_that_corrupts_the_last_segment_is_found_out_and_costs_no_byte() {
    let Some(lab) = lab_on_the_best_rung() else { return };
    // h1's link leaves the bridge; a relay carries its frames to the bridge and back, and harms large sends only.
    lab.exec(
        "fabric",
        &["ip", "link", "add", "relay0", "mtu", "1600", "type", "veth", "peer", "name", "relay1", "mtu", "1600"],
    );
    lab.exec("fabric", &["ip", "link", "set", "relay0", "master", "br0", "up"]);
    lab.exec("fabric", &["ip", "link", "set", "relay1", "up"]);
    lab.exec("fabric", &["ip", "link", "set", "host0", "nomaster"]);
    let program = weft_tests::lab::program("weft-test-traffic");
    let program = program.to_str().expect("a path of text");
    let mut relay = lab.spawn("fabric", &[program, "relay", "host0", "relay1"]);
    for host in ["h1", "h2"] {
        lab.until(FALL, "no better rung", |lab| towards(lab, host).0 == "batch");
        let why = towards(&lab, host).1;
        assert!(why.contains("8 of 9 segments arrived intact"), "{host}: {why}");
    }
    tcp(&lab, "a", "b", "10.9.0.2", BYTES);
    tcp(&lab, "b", "a", "10.9.0.1", BYTES);
    lab.exec("fabric", &["ip", "link", "del", "relay0"]);
    relay.wait().expect("the relay ends with its device");
    lab.exec("fabric", &["ip", "link", "set", "host0", "master", "br0"]);
    for host in ["h1", "h2"] {
        touch_routes(&lab, host);
        lab.until(RISE, "the best rung again", |lab| towards(lab, host).0 == "tunnel");
    }
    tcp(&lab, "a", "b", "10.9.0.2", BYTES);
}
