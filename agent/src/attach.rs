//! Opening ports' devices: TAPs inside the guests' namespaces, packet sockets on devices of others.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use weft_program::message::{Offloads, PortDevice, PortKind};
use weft_sys::netlink::{Link, Netlink, NetlinkError};
use weft_sys::packet_socket::{self, PacketError, PacketRequest};
use weft_sys::tap::{self, TapRequest};
use weft_sys::{netns, process};

use crate::work::{NotOpened, Place, PortRequest};

/// Frames that may wait for the vswitch in each queue of a TAP, the kernel's own default. A guest that floods fills more
/// than this while the scheduler lets it run; TCP fills no ring, because its own windows are smaller.
const TX_QUEUE_LEN: u32 = 1000;
/// Wanted receive buffer of a packet socket.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A device and its descriptors, one per worker.
#[derive(Debug)]
pub struct Opened {
    /// What the vswitch is told.
    pub device: PortDevice,
    /// What it is given, and we keep.
    pub fds: Vec<OwnedFd>,
}

/// Opens a port's device with a queue or socket per worker.
pub fn open(request: &PortRequest, workers: usize) -> Result<Opened, NotOpened> {
    match &request.place {
        Place::Tap { netns, ifname } => {
            let wanted = TapRequest {
                ifname,
                queues: workers.max(1),
                mac: Some(request.mac.0),
                mtu: request.mtu,
                tx_queue_len: TX_QUEUE_LEN,
            };
            let tap = match netns.as_deref() {
                Some(path) => tap::open_in(&wanted, open_namespace(path)?.as_fd()),
                None => tap::open(&wanted),
            };
            let tap = tap.map_err(|e| NotOpened::Failed(e.to_string()))?;
            let offloads = Offloads {
                csum: tap.offloads.csum,
                tso: tap.offloads.tso,
                tso_ecn: tap.offloads.tso_ecn,
                uso: tap.offloads.uso,
            };
            Ok(Opened {
                device: device(request, PortKind::Tap, request.mtu, offloads, tap.queues.len()),
                fds: tap.queues,
            })
        }
        Place::Netdev { ifname } => open_netdev(request, ifname, workers.max(1)),
    }
}

/// Gives a device that is held already another MAC address and MTU; somebody else's device is left as it is.
pub fn adjust(request: &PortRequest, held: &PortDevice) -> Result<PortDevice, NotOpened> {
    let Place::Tap { netns, ifname } = &request.place else {
        return Ok(PortDevice { name: request.name.clone(), ..held.clone() });
    };
    let set = || {
        let mut netlink = Netlink::open()?;
        netlink.set_mtu(ifname, request.mtu.into())?;
        netlink.set_mac(ifname, request.mac.0)
    };
    inside(netns.as_deref(), set)?.map_err(|e: NetlinkError| NotOpened::Failed(e.to_string()))?;
    Ok(PortDevice { name: request.name.clone(), mtu: request.mtu, ..held.clone() })
}

/// The kernel's own count of frames that a device dropped on their way to the vswitch.
pub fn tx_dropped(device: &PortDevice) -> Option<u64> {
    let netns = (!device.netns.is_empty()).then(|| Path::new(&device.netns));
    let look = || Netlink::open().and_then(|mut netlink| netlink.link(&device.ifname));
    let link = inside(netns, look).ok()?.ok()??;
    Some(link.stats.tx_dropped)
}

/// Looks a device of the host's own namespace up.
pub fn find_netdev(ifname: &str) -> Result<Link, NotOpened> {
    let failed = |e: NetlinkError| NotOpened::Failed(e.to_string());
    let link = Netlink::open().and_then(|mut netlink| netlink.link(ifname)).map_err(failed)?;
    link.ok_or_else(|| packet_error(PacketError::NoDevice { ifname: ifname.to_owned() }))
}

fn open_netdev(request: &PortRequest, ifname: &str, workers: usize) -> Result<Opened, NotOpened> {
    let link = find_netdev(ifname)?;
    let fanout = (workers > 1).then_some(link.index as u16);
    let wanted = PacketRequest { ifname, fanout, receive_buffer: RECEIVE_BUFFER };
    let fds =
        (0..workers).map(|_| packet_socket::open(&wanted)).collect::<Result<Vec<_>, _>>().map_err(packet_error)?;
    let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
    // The kernel finishes checksums and segments for a device that cannot; UDP super-frames it takes from 6.2 on only.
    let offloads = Offloads { csum: true, tso: true, tso_ecn: true, uso: false };
    Ok(Opened { device: device(request, PortKind::Netdev, mtu, offloads, fds.len()), fds })
}

fn device(request: &PortRequest, kind: PortKind, mtu: u16, offloads: Offloads, fds: usize) -> PortDevice {
    PortDevice {
        id: request.id,
        name: request.name.clone(),
        kind,
        fds,
        mtu,
        offloads,
        netns: request.place.netns_text(),
        ifname: request.place.ifname().to_owned(),
    }
}

fn inside<T: Send>(netns: Option<&Path>, work: impl FnOnce() -> T + Send) -> Result<T, NotOpened> {
    let Some(path) = netns else { return Ok(work()) };
    netns::in_namespace(open_namespace(path)?.as_fd(), work).map_err(|e| namespace_error(path, &e))
}

fn open_namespace(path: &Path) -> Result<OwnedFd, NotOpened> {
    netns::open(path).map_err(|e| namespace_error(path, &e))
}

fn namespace_error(path: &Path, error: &io::Error) -> NotOpened {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => NotOpened::Waiting(format!(
            "waiting for the network namespace {path}: start the guest, or make it with `ip netns add`"
        )),
        io::ErrorKind::PermissionDenied => {
            let missing = if process::holds(process::Capability::SysAdmin) {
                "the rights over it are missing (it belongs to another user namespace)"
            } else {
                "CAP_SYS_ADMIN is missing: run the agent as root"
            };
            NotOpened::Failed(format!("the network namespace {path} cannot be entered: {missing}"))
        }
        _ => NotOpened::Failed(format!("the network namespace {path} cannot be entered: {error}")),
    }
}

fn packet_error(error: PacketError) -> NotOpened {
    match error {
        PacketError::NoDevice { ifname } => NotOpened::Waiting(format!(
            "waiting for the network device {ifname}: create it in the host's namespace, or correct `attach.netdev.name`"
        )),
        other => NotOpened::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_program::{MacAddr, PortId};

    fn request(place: Place) -> PortRequest {
        PortRequest { id: PortId(1), name: "red/a".into(), place, mac: MacAddr([2, 0, 0, 0, 0, 7]), mtu: 1400 }
    }

    fn may_test() -> bool {
        let may = process::holds(process::Capability::SysAdmin) && process::holds(process::Capability::NetAdmin);
        if !may {
            eprintln!("SKIPPED: needs CAP_SYS_ADMIN and CAP_NET_ADMIN");
        }
        may
    }

    #[test]
    fn a_tap_is_opened_in_the_guests_namespace_and_changed_in_place() {
        if !may_test() {
            return;
        }
        let path = std::env::temp_dir().join(format!("weft-attach-{}", std::process::id()));
        let guest = netns::create_at(&path).unwrap();
        let tap = |mtu| PortRequest { mtu, ..request(Place::Tap { netns: Some(path.clone()), ifname: "eth0".into() }) };
        let link = || netns::in_namespace(guest.as_fd(), || Netlink::open().unwrap().link("eth0").unwrap()).unwrap();
        let opened = open(&tap(1400), 2).unwrap();
        assert_eq!((opened.fds.len(), opened.device.fds, opened.device.mtu), (2, 2, 1400));
        assert_eq!(link().unwrap().mac, Some([2, 0, 0, 0, 0, 7]));
        let adjusted = adjust(&tap(1300), &opened.device).unwrap();
        assert_eq!((adjusted.mtu, link().unwrap().mtu), (1300, 1300));
        assert_eq!(tx_dropped(&adjusted), Some(0));
        drop(opened);
        assert!(link().is_none());
        netns::delete_at(&path).unwrap();
    }

    #[test]
    fn what_is_not_there_yet_is_waited_for() {
        if !may_test() {
            return;
        }
        let tap = request(Place::Tap { netns: Some("/run/netns/weft-no-such".into()), ifname: "eth0".into() });
        assert!(matches!(open(&tap, 1), Err(NotOpened::Waiting(why)) if why.contains("/run/netns/weft-no-such")));
        let netdev = request(Place::Netdev { ifname: "weft-no-such".into() });
        assert!(matches!(open(&netdev, 1), Err(NotOpened::Waiting(why)) if why.contains("weft-no-such")));
    }

    #[test]
    fn a_packet_socket_per_worker_shares_a_device() {
        if !may_test() {
            return;
        }
        let host = netns::create().unwrap();
        let opened = netns::in_namespace(host.as_fd(), || {
            Netlink::open().unwrap().add_veth("va", "vb").unwrap();
            open(&request(Place::Netdev { ifname: "va".into() }), 2)
        });
        let opened = opened.unwrap().unwrap();
        assert_eq!((opened.fds.len(), opened.device.mtu, opened.device.kind), (2, 1500, PortKind::Netdev));
    }
}
