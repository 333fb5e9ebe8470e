//! The kernel's own vxlan device at the other end: it judges what we send, and sends what no Weft sends.
//!
//! Over veth its super-frames reach our socket whole, with a partial inner checksum and nothing that says so.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use crate::common::real::*;
use crate::common::*;
use weft_program::message::{Rung, Underlay};
use weft_sys::netlink::{Netlink, Vxlan};
use weft_sys::{netns, udp};

/// Underlay addresses are those of the program: 192.0.2.1 is ours, 192.0.2.2 the kernel's.
struct Wire {
    ours: OwnedFd,
    /// The kernel's namespace, where guest `b` lives too.
    kernel: OwnedFd,
}

impl Wire {
    fn new(udp_csum: bool) -> Self {
        let (ours, kernel) = (netns::create().unwrap(), netns::create().unwrap());
        netns::in_namespace(ours.as_fd(), || {
            let mut netlink = Netlink::open().unwrap();
            netlink.add_veth("u0", "u1").unwrap();
            netlink.move_link("u1", kernel.as_fd()).unwrap();
            set_up(&mut netlink, "u0", 0);
        })
        .unwrap();
        netns::in_namespace(kernel.as_fd(), || {
            let mut netlink = Netlink::open().unwrap();
            set_up(&mut netlink, "u1", 1);
            let (local, name) = (address(1), "vx");
            let vxlan =
                Vxlan { name, vni: VNI, local, udp_port: 4789, learning: false, udp_csum, udp6_zero_csum_rx: false };
            netlink.add_vxlan(&vxlan).unwrap();
            netlink.set_mac(name, B.mac().0).unwrap();
            netlink.set_mtu(name, 1500).unwrap();
            netlink.set_up(name).unwrap();
            netlink.add_address(name, B.ip().into(), 24).unwrap();
            netlink.append_fdb(name, [0; 6], address(0)).unwrap();
        })
        .unwrap();
        Self { ours, kernel }
    }

    /// One receiving socket, then four to send.
    fn sockets(&self) -> Vec<OwnedFd> {
        let open = |port: u16, receiving: bool| {
            let addr = SocketAddr::new(address(0), port);
            let (reuse_port, gro) = (receiving, receiving);
            udp::open(&udp::UdpRequest { addr, reuse_port, gro, receive_buffer: 8 << 20, send_buffer: 4 << 20 })
                .unwrap()
        };
        let all = || [4789, 50_000, 50_001, 50_002, 50_003].into_iter().map(|port| open(port, port == 4789)).collect();
        netns::in_namespace(self.ours.as_fd(), all).unwrap()
    }
}

fn set_up(netlink: &mut Netlink, name: &str, host: usize) {
    netlink.set_mtu(name, UNDERLAY_MTU.into()).unwrap();
    netlink.set_up(name).unwrap();
    let IpAddr::V4(ip) = address(host) else { unreachable!("the test's underlay is IPv4") };
    netlink.add_address(name, Ipv4Addr::into(ip), 24).unwrap();
}

#[test]
fn the_kernel_and_we_understand_each_other_on_every_rung() {
    if !may_make_devices() {
        return;
    }
    let payload: Vec<u8> = (0..6_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (rung, udp_csum) in [(Rung::Single, true), (Rung::Batch, false), (Rung::Segment, true), (Rung::Segment, false)]
    {
        let wire = Wire::new(udp_csum);
        let a = Real::new(A, 1);
        let process = Process::start(1);
        let mut client = process.client();
        a.attach(&mut client, A);
        let sockets = wire.sockets();
        let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        client.attach_underlay(Underlay { rx_fds: 1, tx_fds: 4, ..underlay(0, rung) }, &fds).unwrap();
        client.apply(program(0)).unwrap();
        assert!(transfer(&a.netns, &wire.kernel, B, &payload) == payload, "{rung:?} to the kernel");
        assert!(transfer(&wire.kernel, &a.netns, A, &payload) == payload, "{rung:?} from the kernel");
        let report = client.ledger().unwrap();
        assert_eq!(sum(&report).imbalance(), 0);
        assert!(report.drops.iter().map(|row| row.frames).sum::<u64>() < 10, "{:?}", report.drops);
        eprintln!("{rung:?} udp_csum={udp_csum} {:?} {:?}", sum(&report), report.io);
        drop(client);
        process.end();
    }
}
