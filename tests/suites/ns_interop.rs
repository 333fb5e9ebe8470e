//! The kernel's own VXLAN device at the other end, and guests without offloads: TCP with the payload compared by hash,
//! on every rung.

use weft_tests::lab::{Lab, Setup, topology};
use weft_tests::traffic::{tcp, udp};

const BYTES: u64 = 10_000_000;

weft_tests::on_every_rung!(kernel_and_weft_exchange_tcp, a_guest_without_offloads_is_served);

fn kernel_and_weft_exchange_tcp(setup: Setup) {
    println!("rung {:?}, {} workers", setup.rung, setup.workers);
    let lab = Lab::up(&topology("legacy-kernel-vtep.yaml"), setup);
    lab.until_ping("k", "10.9.0.1");
    for gso in ["on", "off"] {
        lab.exec("k", &["ethtool", "-K", "eth0", "tso", gso, "gso", gso]);
        for (weft, v4, v6) in [("a", "10.9.0.1", "fd09::1"), ("b", "10.9.0.2", "fd09::2")] {
            tcp(&lab, "k", weft, v4, BYTES);
            tcp(&lab, weft, "k", "10.9.0.9", BYTES);
            tcp(&lab, "k", weft, v6, BYTES);
            tcp(&lab, weft, "k", "fd09::9", BYTES);
        }
        for size in [100, 1400, 6000] {
            udp(&lab, "k", "a", "10.9.0.1", size, 10);
            udp(&lab, "a", "k", "10.9.0.9", size, 10);
        }
    }
}

fn a_guest_without_offloads_is_served(setup: Setup) {
    println!("rung {:?}, {} workers", setup.rung, setup.workers);
    let lab = Lab::up(&topology("two-hosts.yaml"), setup);
    lab.until_ping("a", "10.9.0.2");
    // What the guest no longer offers to do when it sends, and no longer takes when it receives.
    lab.exec("a", &["ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off", "gro", "off"]);
    for (to, v4, v6) in [("b", "10.9.0.2", "fd09::2"), ("c", "10.9.0.3", "fd09::3")] {
        tcp(&lab, "a", to, v4, BYTES);
        tcp(&lab, to, "a", "10.9.0.1", BYTES);
        tcp(&lab, "a", to, v6, BYTES);
        tcp(&lab, to, "a", "fd09::1", BYTES);
        udp(&lab, "a", to, v4, 5000, 10);
        udp(&lab, to, "a", "10.9.0.1", 5000, 10);
    }
}
