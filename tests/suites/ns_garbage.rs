//! Promises 3 and 8: whatever guests and the underlay send, every frame ends in one stated way, nobody dies, and others'
//! traffic goes on.

use weft_tests::lab::{Lab, Setup, program, topology};
use weft_tests::may_run;
use weft_tests::traffic::{source, tcp};

weft_tests::on_every_rung!(promise_3_and_8_garbage_is_counted_and_harms_nobody);

/// Resident memory of a lab's processes may not pass this, in KiB.
const RSS_MAX_KIB: u64 = 200 * 1024;

fn promise_3_and_8_garbage_is_counted_and_harms_nobody(setup: Setup) {
    let lab = Lab::up(&topology("two-hosts.yaml"), setup);
    lab.until_ping("c", "10.9.0.2");
    let processes = processes(&lab);
    let before = lab.assert_ledgers();
    for seed in ["1", "2"] {
        source(&lab, "a", &["garbage", "eth0", "20000", "--seed", seed]);
        // Noise to the VTEP, from a known remote and from an address that is none.
        for size in ["7", "40", "900"] {
            source(&lab, "h2", &["udp-source", "192.0.2.1:4789", size, "2000", "--seed", seed]);
        }
        lab.exec("fabric", &["ip", "addr", "replace", "192.0.2.99/24", "dev", "br0"]);
        source(&lab, "fabric", &["udp-source", "192.0.2.1:4789", "100", "2000", "--seed", seed]);
        tcp(&lab, "c", "b", "10.9.0.2", 1_000_000);
    }
    assert!(lab.assert_ledgers() > before + 20_000, "the garbage was received and accounted for");
    let drops = lab.drops("h1");
    for reason in ["MalformedIpv4", "VlanNotAllowed", "RemoteUnknown"] {
        assert!(drops.get(reason).is_some_and(|count| *count > 100), "few drops for {reason}: {drops:?}");
    }
    assert_eq!(self::processes(&lab), processes, "the same processes are there");
    lab.exec("a", &["ping", "-c1", "-W2", "10.9.0.2"]);
}

/// What the device of a guest drops before the vswitch sees it is in no ledger: its own counter says so, by port.
#[test]
fn what_a_guest_loses_in_its_own_queue_is_told() {
    if !may_run() {
        return;
    }
    let lab = Lab::up(&topology("two-hosts.yaml"), Setup::DEFAULT);
    lab.until_ping("a", "10.9.0.3");
    let lost = |lab: &Lab| -> u64 {
        let report = lab.json(&["drops", "h1"]);
        let rows = report[0]["device_drops"].as_array().expect("`weft drops -o json` has what devices lost").clone();
        let of_a = |row: &&serde_json::Value| row["port"] == "red/a" && row["counter"] == "tx_dropped";
        rows.iter().find(of_a).map_or(0, |row| row["frames"].as_u64().expect("a number of frames"))
    };
    assert_eq!(lost(&lab), 0);
    lab.exec("a", &["ip", "link", "set", "eth0", "txqueuelen", "1"]);
    // Each goes to the queue as 21 fragments in one go.
    source(&lab, "a", &["udp-source", "10.9.0.3:9", "30000", "2000"]);
    let link: serde_json::Value =
        serde_json::from_str(&lab.exec("a", &["ip", "-s", "-j", "link", "show", "eth0"])).expect("`ip -j` prints JSON");
    let counted = link[0]["stats64"]["tx"]["dropped"].as_u64().expect("a number of frames");
    assert!(counted > 0, "42,000 fragments went through a queue of one");
    assert!(lost(&lab) >= counted, "`weft drops` tells what was lost so far");
    assert!(lab.assert_ledgers() > 0);
}

/// Process ids of the lab, each with bounded memory.
fn processes(lab: &Lab) -> Vec<u64> {
    let listed = lab.json(&["lab", "ls"]);
    let labs = listed.as_array().expect("a list of labs");
    let mine = labs.iter().find(|l| l["name"] == lab.name()).expect("the lab is listed");
    let places = mine["places"].as_array().expect("a lab has places");
    let mut pids: Vec<u64> = Vec::new();
    for process in places.iter().filter_map(|p| p["processes"].as_array()).flatten() {
        let pid = process["pid"].as_u64().expect("a process has an id");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next());
        let rss: u64 = rss.and_then(|r| r.parse().ok()).unwrap_or_default();
        assert!(rss < RSS_MAX_KIB, "process {pid} of {} holds {rss} KiB", program("weft").display());
        pids.push(pid);
    }
    pids.sort_unstable();
    pids
}
