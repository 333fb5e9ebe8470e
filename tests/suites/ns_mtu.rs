//! Promise 4: no silent size blackhole. Sizes 64..9000 against underlay MTUs 1280..9000: delivered, answered or counted.

use serde_json::{Value, json};
use weft_tests::lab::{Lab, Setup, manifest, topology};
use weft_tests::traffic::{tcp, udp};

weft_tests::on_every_rung!(
    promise_4_underlay_1600,
    promise_4_jumbo_underlay,
    promise_4_underlay_1500_where_1600_was_promised,
    promise_4_underlay_1280_where_1600_was_promised,
);

const SIZES: [u32; 7] = [36, 1182, 1202, 1422, 1472, 5000, 8900];

/// Two hosts whose underlay really has `underlay_mtu`, whatever the Host objects were told.
fn two_hosts(underlay_mtu: u32, told_mtu: u32, guest_mtu: u32) -> Value {
    let mut topology = topology("two-hosts.yaml");
    topology["underlay"]["mtu"] = json!(underlay_mtu);
    for host in ["h1", "h2"] {
        manifest(&mut topology, "Host", host)["spec"]["mtu"] = json!(told_mtu);
    }
    manifest(&mut topology, "Network", "blue")["spec"]["mtu"] = json!(guest_mtu);
    topology
}

/// Pings with DF set: an answer, or a word of why not. Silence is a blackhole.
fn ping_speaks(lab: &Lab, address: &str, size: u32) -> bool {
    let output = lab
        .command("a", &["ping", "-n", "-M", "do", "-c", "2", "-i", "0.02", "-W", "2", "-s", &size.to_string(), address])
        .env("LC_ALL", "C")
        .output()
        .expect("ping starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let answered = output.status.success();
    let told =
        ["Frag needed", "message too long", "Message too long", "Packet too big"].iter().any(|w| text.contains(w));
    assert!(answered || told, "blackhole for {size} bytes to {address}:\n{text}\n{}", lab.logs());
    answered
}

fn every_size_is_delivered_or_answered(setup: Setup, underlay_mtu: u32, told_mtu: u32, guest_mtu: u32) {
    let lab = Lab::up(&two_hosts(underlay_mtu, told_mtu, guest_mtu), setup);
    lab.until_ping("a", "10.9.0.2");
    let fits_v4 = guest_mtu.min(underlay_mtu - 50) - 28;
    for size in SIZES {
        let answered = ping_speaks(&lab, "10.9.0.2", size);
        assert_eq!(answered, size <= fits_v4, "{size} bytes over an underlay of {underlay_mtu}");
        // IPv6 guests below its minimum MTU (underlay 1280) can only be told, never served whole.
        if underlay_mtu - 50 >= 1280 {
            ping_speaks(&lab, "fd09::2", size);
        }
        // Without DF the packet arrives, cut wherever it must be.
        lab.exec("a", &["ping", "-M", "dont", "-c", "1", "-W", "2", "-s", &size.to_string(), "10.9.0.2"]);
    }
    tcp(&lab, "a", "b", "10.9.0.2", 5_000_000);
    tcp(&lab, "b", "a", "10.9.0.1", 5_000_000);
    if underlay_mtu - 50 >= 1280 {
        tcp(&lab, "a", "b", "fd09::2", 5_000_000);
    }
    for size in [64, 1000, 1400, 3000, 9000] {
        udp(&lab, "a", "b", "10.9.0.2", size, 5);
    }
}

fn promise_4_underlay_1600(setup: Setup) {
    every_size_is_delivered_or_answered(setup, 1600, 1600, 1500);
}

fn promise_4_jumbo_underlay(setup: Setup) {
    every_size_is_delivered_or_answered(setup, 9000, 9000, 8950);
}

fn promise_4_underlay_1500_where_1600_was_promised(setup: Setup) {
    every_size_is_delivered_or_answered(setup, 1500, 1600, 1500);
}

fn promise_4_underlay_1280_where_1600_was_promised(setup: Setup) {
    every_size_is_delivered_or_answered(setup, 1280, 1600, 1500);
}
