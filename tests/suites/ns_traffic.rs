//! Guests' traffic over two hosts, on every rung, with one and with two workers; every payload compared by hash.

use weft_tests::lab::{Lab, Setup, topology};
use weft_tests::traffic::{PORT, sink, socket, source, tcp, udp};

weft_tests::on_every_rung!(everything_that_guests_send_arrives);

fn everything_that_guests_send_arrives(setup: Setup) {
    println!("rung {:?}, {} workers", setup.rung, setup.workers);
    let lab = Lab::up(&topology("two-hosts.yaml"), setup);
    for (to, v4, v6) in [("b", "10.9.0.2", "fd09::2"), ("c", "10.9.0.3", "fd09::3")] {
        lab.until_ping("a", v4);
        lab.exec("a", &["ping", "-c", "5", "-i", "0.05", "-W", "2", v6]);
        for address in [v4, v6] {
            tcp(&lab, "a", to, address, 20_000_000);
            for size in [1, 18, 512, 1200, 1452] {
                udp(&lab, "a", to, address, size, 40);
            }
            // Larger than the guest's MTU: the guest fragments, and fragments carry no ports.
            for size in [1480, 4000, 9000, 30_000] {
                udp(&lab, "a", to, address, size, 5);
            }
        }
    }
    tcp(&lab, "b", "a", "10.9.0.1", 20_000_000);
    tcp(&lab, "b", "c", "fd09::3", 20_000_000);
    every_ping_size_is_answered(&lab);
    group_traffic_reaches_all_others(&lab);
    assert!(lab.assert_ledgers() > 1000, "the ledgers saw the traffic");
}

fn every_ping_size_is_answered(lab: &Lab) {
    for size in ["0", "22", "1000", "1472", "1473", "8000"] {
        lab.exec("a", &["ping", "-c", "2", "-i", "0.05", "-W", "2", "-s", size, "10.9.0.2"]);
        lab.exec("a", &["ping", "-c", "2", "-i", "0.05", "-W", "2", "-s", size, "fd09::2"]);
    }
}

fn group_traffic_reaches_all_others(lab: &Lab) {
    for guest in ["a", "b", "c"] {
        lab.exec(guest, &["ip", "route", "replace", "239.0.0.0/8", "dev", "eth0"]);
    }
    for (group, join) in [("10.9.0.255", None), ("239.9.9.9", Some("239.9.9.9"))] {
        let mut words = vec!["udp-sink", PORT, "10"];
        words.extend(join.iter().flat_map(|g| ["--group", *g]));
        let sinks: Vec<_> = ["b", "c"].iter().map(|guest| sink(lab, guest, &words)).collect();
        let sent = source(lab, "a", &["udp-source", &socket(group), "300", "10", "--gap-us", "1000"]);
        for sink in sinks {
            let got = sink.finish();
            assert_eq!((&got[0], &got[2]), (&sent[0], &sent[2]), "to group {group}");
        }
    }
}
