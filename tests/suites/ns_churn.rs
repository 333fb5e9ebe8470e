//! Ports and hosts come and go while traffic runs; what is refused changes nothing.

use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::lab::{Lab, Setup, topology};
use weft_tests::may_run;

weft_tests::on_every_rung!(
    ports_come_and_go_without_a_lost_frame_of_others,
    a_host_is_served_from_when_it_is_declared_until_it_is_deleted,
);

fn port(number: u32, host: &str, guest: &str) -> Value {
    let attach = json!({"tap": {"netns": guest, "ifname": format!("x{number}")}});
    let addresses = json!([format!("10.9.0.{}", 100 + number)]);
    json!({"kind": "Port", "tenant": "red", "name": format!("extra-{number}"),
           "spec": {"network": "blue", "host": host, "addresses": addresses, "attach": attach}})
}

fn ports_come_and_go_without_a_lost_frame_of_others(setup: Setup) {
    let lab = Lab::up(&topology("two-hosts.yaml"), setup);
    lab.until_ping("a", "10.9.0.2");
    let mut ping = lab.spawn("a", &["ping", "-q", "-i", "0.002", "-c", "1000", "-W", "2", "10.9.0.2"]);
    for number in 0..3 {
        lab.apply(&[port(number, "h2", "b"), port(number + 50, "h1", "c")]);
        lab.until(Duration::from_secs(5), "the new device is there", |lab| {
            lab.command("b", &["ip", "link", "show", &format!("x{number}")]).output().is_ok_and(|o| o.status.success())
        });
        for extra in [number, number + 50] {
            let output = lab.try_weft(&["delete", "port", &format!("extra-{extra}"), "--tenant", "red"]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        lab.until(Duration::from_secs(5), "the device is gone", |lab| {
            !lab.command("b", &["ip", "link", "show", &format!("x{number}")]).output().is_ok_and(|o| o.status.success())
        });
    }
    let mut text = String::new();
    ping.stdout.take().expect("output is piped").read_to_string(&mut text).expect("ping prints");
    ping.wait().expect("ping ends");
    assert!(text.contains(" 1000 received"), "{text}\n{}", lab.logs());
}

fn a_host_is_served_from_when_it_is_declared_until_it_is_deleted(setup: Setup) {
    let mut topology = topology("two-hosts.yaml");
    let manifests = topology["manifests"].as_array_mut().expect("a topology has manifests");
    let (late, early): (Vec<Value>, Vec<Value>) =
        manifests.drain(..).partition(|m| m["name"] == "h2" || m["spec"]["host"] == "h2");
    *manifests = early;
    topology["expectations"] = json!([]);
    let lab = Lab::up(&topology, setup);
    lab.until_ping("a", "10.9.0.3");
    lab.apply(&late);
    lab.until_ping("a", "10.9.0.2");
    for (kind, name, tenant) in [("port", "b", Some("red")), ("host", "h2", None)] {
        let mut words = vec!["delete", kind, name];
        words.extend(tenant.iter().flat_map(|t| ["--tenant", *t]));
        let output = lab.try_weft(&words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    lab.until(Duration::from_secs(5), "b is out of reach", |lab| {
        !lab.command("a", &["ping", "-c1", "-W1", "10.9.0.2"]).output().is_ok_and(|o| o.status.success())
    });
    lab.exec("a", &["ping", "-c1", "-W1", "10.9.0.3"]);
}

#[test]
fn promise_5_a_refused_manifest_says_why_and_changes_nothing() {
    if !may_run() {
        return;
    }
    let lab = Lab::up(&topology("two-hosts.yaml"), Setup::DEFAULT);
    let before = lab.json(&["status"])["generation"].clone();
    let bad = tempfile::NamedTempFile::new().expect("a file for the manifest");
    let text = "
kind: Network
tenant: red
name: second
spec: {vni: 42, mtu: 20000, color: green}
---
{kind: Subnet, tenant: red, name: bad, spec: {network: nowhere, cidr: 10.9.0.0/40}}
";
    std::fs::write(bad.path(), text).expect("the manifest can be written");
    let output = lab.try_weft(&["apply", "-f", &bad.path().display().to_string()]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{told}");
    for path in ["spec.mtu", "spec.color", "spec.network", "spec.cidr"] {
        assert!(told.contains(path), "no word of {path} in:\n{told}");
    }
    assert_eq!(lab.json(&["status"])["generation"], before, "nothing changed");
}
