//! Items for tests.

use weft_api::wire::proto::{self, RemoteKind, attach};
use weft_api::wire::{HostProgram, Item};
use weft_program::message::{Offloads, PortDevice, PortKind};

use crate::work::PortRequest;

pub(crate) fn program(items: &[Item]) -> HostProgram {
    items.iter().cloned().collect()
}

pub(crate) fn a_segment(id: u32) -> Item {
    proto::Segment { id, vni: id, mtu: 1500, domain: id, owner: format!("network red/{id}") }.into()
}

pub(crate) fn a_port(name: &str, segment: u32) -> Item {
    let tap = proto::Tap { netns: "guest".into(), ifname: "eth0".into() };
    proto::Port {
        name: name.into(),
        segment,
        mac: vec![2, 0, 0, 0, 0, 1],
        addresses: Vec::new(),
        attach: Some(proto::Attach { kind: Some(attach::Kind::Tap(tap)) }),
        learn: false,
        owner: format!("port {name}"),
    }
    .into()
}

pub(crate) fn a_remote(name: &str, vnis: &[u32]) -> Item {
    proto::Remote {
        name: name.into(),
        address: vec![192, 0, 2, 2],
        udp_port: 4789,
        vnis: vnis.to_vec(),
        kind: RemoteKind::Weft.into(),
        owner: format!("host {name}"),
    }
    .into()
}

/// The device that a request asks for.
pub(crate) fn device(request: &PortRequest) -> PortDevice {
    PortDevice {
        id: request.id,
        name: request.name.clone(),
        kind: PortKind::Tap,
        fds: 1,
        mtu: request.mtu,
        offloads: Offloads::default(),
        netns: request.place.netns_text(),
        ifname: request.place.ifname().to_owned(),
    }
}
