//! Promise 1: tenants with the same addresses never see each other's frames. By nonce, on every rung; and guests
//! that lie about who they are.

use weft_tests::lab::{Lab, Setup, topology};

weft_tests::on_every_rung!(
    promise_1_nobody_sees_another_tenants_nonce,
    promise_1_a_payload_is_on_the_underlay_under_its_own_vni_only,
    a_guest_that_lies_about_itself_is_dropped_by_name,
);

fn promise_1_nobody_sees_another_tenants_nonce(setup: Setup) {
    println!("rung {:?}, {} workers", setup.rung, setup.workers);
    let lab = Lab::up(&topology("two-tenants-overlapping.yaml"), setup);
    let check = lab.try_weft(&["lab", "check"]);
    let text = format!("{}{}", String::from_utf8_lossy(&check.stdout), String::from_utf8_lossy(&check.stderr));
    assert!(check.status.success(), "{text}\n{}", lab.logs());
    println!("{text}");
}

fn promise_1_a_payload_is_on_the_underlay_under_its_own_vni_only(setup: Setup) {
    let lab = Lab::up(&topology("two-tenants-overlapping.yaml"), setup);
    lab.until_ping("red-a", "10.9.0.2");
    lab.until_ping("green-a", "10.9.0.2");
    // For 1.5 s; -x prints them in hex, from the outer IP header on.
    let capture =
        lab.spawn("h2", &["timeout", "1.5", "tcpdump", "-n", "-l", "-x", "-i", "eth0", "udp", "dst", "port", "4789"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    for (guest, pattern) in [("red-a", "c0ffee01"), ("green-a", "c0ffee02")] {
        lab.exec(guest, &["ping", "-c", "5", "-i", "0.05", "-s", "64", "-p", pattern, "10.9.0.2"]);
    }
    let output = capture.wait_with_output().expect("the capture ends");
    let hex: Vec<String> = packets(&String::from_utf8_lossy(&output.stdout));
    for (pattern, vni, other) in [("c0ffee01", "00002a00", "00002b00"), ("c0ffee02", "00002b00", "00002a00")] {
        let with_pattern: Vec<_> = hex.iter().filter(|p| p.contains(&pattern.repeat(4))).collect();
        assert!(with_pattern.len() >= 5, "{} packets with {pattern}", with_pattern.len());
        // Outer IPv4 (20 bytes), UDP (8), VXLAN flags (4), then VNI and a reserved octet.
        assert!(with_pattern.iter().all(|p| p[64..72] == *vni && p[64..72] != *other), "{pattern} outside VNI {vni}");
    }
}

/// The packets of a `tcpdump -x` output, as hex without spaces.
fn packets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        match line.trim_start().strip_prefix("0x").and_then(|l| l.split_once(':')) {
            Some((_, hex)) => {
                let hex: String = hex.split_whitespace().collect();
                if let Some(packet) = found.last_mut() {
                    let packet: &mut String = packet;
                    packet.push_str(&hex);
                }
            }
            None => found.push(String::new()),
        }
    }
    found
}

fn a_guest_that_lies_about_itself_is_dropped_by_name(setup: Setup) {
    let lab = Lab::up(&topology("two-hosts.yaml"), setup);
    lab.until_ping("a", "10.9.0.2");
    let cases = [
        // An address of another guest, and a MAC address of another guest.
        (
            "SpoofedAddress",
            vec![
                "ip addr add 10.9.0.77/24 dev eth0",
                "ping -c 3 -i 0.1 -W 1 -I 10.9.0.77 10.9.0.2",
                "ip addr del 10.9.0.77/24 dev eth0",
            ],
        ),
        (
            "SpoofedMac",
            vec![
                "ip link set eth0 address 02:00:00:00:00:77",
                "ping -c 3 -i 0.1 -W 1 10.9.0.2",
                "ip link set eth0 address 02:00:00:00:00:01",
            ],
        ),
    ];
    for (reason, commands) in cases {
        let before = lab.drops("h1").get(reason).copied().unwrap_or(0);
        for command in commands {
            let words: Vec<&str> = command.split(' ').collect();
            let output = lab.command("a", &words).output().expect("the command starts");
            assert!(!(words[0] == "ping" && output.status.success()), "{command} was answered");
        }
        let after = lab.drops("h1").get(reason).copied().unwrap_or(0);
        assert!(after > before, "{reason} did not rise: {:?}", lab.drops("h1"));
    }
    lab.until_ping("a", "10.9.0.2");
}
