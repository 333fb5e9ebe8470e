//! TAP devices: multi-queue, with a 12-byte little-endian vnet header and as many offloads as the kernel has.
//!
//! A queue keeps the namespace alive that it was opened in. So a guest's device is made outside with all its queues, and
//! moved in when it is complete: a guest that goes takes its namespace and the device along, and the queues say so.
//! Later queues are impossible then: TUNSETIFF by name from outside would silently create a second device.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketType};

use crate::netlink::{Netlink, NetlinkError};
use crate::raw::{Ifreq, ioctl_ifreq, ioctl_int, ioctl_value};

/// Octets of the vnet header in front of each frame.
pub const VNET_HDR_LEN: usize = 12;
/// Queues of one device at most (the kernel's MAX_TAP_QUEUES is 256).
pub const QUEUES_MAX: usize = 64;

/// The device to make.
#[derive(Debug, Clone, Copy)]
pub struct TapRequest<'a> {
    /// Its name in the current namespace.
    pub ifname: &'a str,
    /// How many queues, one per worker.
    pub queues: usize,
    /// The guest's MAC address; the kernel picks one when absent.
    pub mac: Option<[u8; 6]>,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// Frames that may wait for us per queue before the kernel drops.
    pub tx_queue_len: u32,
}

/// An opened device.
#[derive(Debug)]
pub struct Tap {
    /// Its queues, non-blocking.
    pub queues: Vec<OwnedFd>,
    /// Its index in its namespace.
    pub ifindex: u32,
    /// What the kernel granted.
    pub offloads: TapOffloads,
}

/// What the guest's side of the device takes off our hands, and may hand to us unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TapOffloads {
    /// Partial checksums.
    pub csum: bool,
    /// TCP super-frames over IPv4 and IPv6.
    pub tso: bool,
    /// TCP super-frames with CWR on the first segment only.
    pub tso_ecn: bool,
    /// UDP super-frames.
    pub uso: bool,
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The tun driver is not there.
    #[error("/dev/net/tun is missing: load the driver (`modprobe tun`); in a container pass `--device /dev/net/tun`")]
    NoDriver,
    /// The device node refuses us.
    #[error(
        "/dev/net/tun may not be opened by this user: make it accessible (`chmod 0666 /dev/net/tun`), or run as root"
    )]
    DriverDenied,
    /// No right over this network namespace.
    #[error(
        "TAP {ifname} cannot be made: CAP_NET_ADMIN over its network namespace is missing; run the agent as root or with `setcap cap_net_admin,cap_net_raw,cap_sys_admin+ep`"
    )]
    NotAllowed {
        /// The device.
        ifname: String,
    },
    /// The name belongs to something else.
    #[error(
        "{ifname} exists there already: delete it (`ip link del {ifname}`), or give this port another `attach.tap.ifname`"
    )]
    NameTaken {
        /// The device.
        ifname: String,
    },
    /// No interface can have that name.
    #[error("`{ifname}` is no interface name: use 1 to 15 letters without blanks and slashes")]
    Name {
        /// The name.
        ifname: String,
    },
    /// Anything else.
    #[error("TAP {ifname}: {step}: {source}")]
    Step {
        /// The device.
        ifname: String,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes the device in the current namespace and sets it up.
pub fn open(request: &TapRequest<'_>) -> Result<Tap, TapError> {
    let (tap, made) = create(request)?;
    let mut netlink = Netlink::open().map_err(netlink_error(request.ifname, "open a netlink socket"))?;
    netlink.rename(&made, request.ifname).map_err(netlink_error(request.ifname, "name it"))?;
    set_up(request.ifname, tap)
}

/// Makes the device in another namespace and sets it up there.
pub fn open_in(request: &TapRequest<'_>, netns: BorrowedFd<'_>) -> Result<Tap, TapError> {
    let (tap, made) = create(request)?;
    let mut netlink = Netlink::open().map_err(netlink_error(request.ifname, "open a netlink socket"))?;
    netlink
        .move_link_as(&made, netns, request.ifname)
        .map_err(netlink_error(request.ifname, "move it into the guest's namespace"))?;
    crate::netns::in_namespace(netns, || set_up(request.ifname, tap)).map_err(|source| TapError::Step {
        ifname: request.ifname.to_owned(),
        step: "enter the guest's namespace",
        source,
    })?
}

/// Makes the device, complete but for its name: whoever waits for that finds it ready. A guest that sets it up before it
/// has its MAC address would make its link-local address from another one.
fn create(request: &TapRequest<'_>) -> Result<(Tap, String), TapError> {
    let ifname = request.ifname;
    let step = |step| move |source: io::Error| TapError::Step { ifname: ifname.to_owned(), step, source };
    Ifreq::new(ifname).ok_or_else(|| TapError::Name { ifname: ifname.to_owned() })?;
    let (first, made) = open_queue(ifname, Ifreq::GUEST, VNET_HDR_LEN)?;
    let offloads = probe_offloads(&first).map_err(step("set its offloads"))?;
    let control = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)
        .map_err(|e| step("open a control socket")(e.into()))?;
    let set = |what, code, bytes: &[u8]| ioctl_ifreq(&control, code, &mut made.with(bytes)).map_err(step(what));
    if let Some([a, b, c, d, e, f]) = request.mac {
        let [low, high] = libc::ARPHRD_ETHER.to_ne_bytes();
        set("set its MAC address", libc::SIOCSIFHWADDR as libc::Ioctl, &[low, high, a, b, c, d, e, f])?;
    }
    set("set its MTU", libc::SIOCSIFMTU as libc::Ioctl, &i32::from(request.mtu).to_ne_bytes())?;
    // Not by SIOCSIFTXQLEN, which the kernel grants to the first user namespace only.
    let mut netlink = Netlink::open().map_err(netlink_error(ifname, "open a netlink socket"))?;
    netlink
        .set_tx_queue_len(&made.ifname(), request.tx_queue_len)
        .map_err(netlink_error(ifname, "set its queue length"))?;
    let mut queues = vec![first];
    while queues.len() < request.queues.clamp(1, QUEUES_MAX) {
        queues.push(open_queue(ifname, made, VNET_HDR_LEN)?.0);
    }
    Ok((Tap { queues, ifindex: 0, offloads }, made.ifname()))
}

fn set_up(ifname: &str, tap: Tap) -> Result<Tap, TapError> {
    let mut netlink = Netlink::open().map_err(netlink_error(ifname, "open a netlink socket"))?;
    netlink.set_up(ifname).map_err(netlink_error(ifname, "set it up"))?;
    let ifindex = netlink.index("read its index", ifname).map_err(netlink_error(ifname, "read its index"))?;
    Ok(Tap { ifindex, ..tap })
}

fn netlink_error(ifname: &str, step: &'static str) -> impl Fn(NetlinkError) -> TapError {
    let ifname = ifname.to_owned();
    move |error| match error {
        taken if taken.exists() => TapError::NameTaken { ifname: ifname.clone() },
        NetlinkError::NotAllowed { .. } => TapError::NotAllowed { ifname: ifname.clone() },
        other => TapError::Step { ifname: ifname.clone(), step, source: io::Error::other(other) },
    }
}

/// Limits what the device takes and hands over, for all of its queues.
pub fn set_offloads(queue: BorrowedFd<'_>, wanted: TapOffloads) -> io::Result<()> {
    ioctl_value(queue, TUNSETOFFLOAD, wanted.bits())
}

/// Opens a queue of the device; gives its name too, which the kernel chose when asked by a pattern.
pub(crate) fn open_queue(ifname: &str, ifreq: Ifreq, vnet_hdr_len: usize) -> Result<(OwnedFd, Ifreq), TapError> {
    let name = || ifname.to_owned();
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let queue = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|e| match io::Error::from(e) {
        e if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) => TapError::NoDriver,
        e if e.kind() == io::ErrorKind::PermissionDenied => TapError::DriverDenied,
        source => TapError::Step { ifname: name(), step: "open /dev/net/tun", source },
    })?;
    // The tunnel device has one queue that all workers write to.
    let queues = if vnet_hdr_len == VNET_HDR_LEN { IFF_MULTI_QUEUE } else { 0 };
    let wanted = (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | queues).to_ne_bytes();
    let mut named = ifreq.with(&wanted);
    ioctl_ifreq(&queue, TUNSETIFF, &mut named).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => TapError::NotAllowed { ifname: name() },
        _ => TapError::Step { ifname: name(), step: "create it", source: e },
    })?;
    let step = |step| move |source| TapError::Step { ifname: ifname.to_owned(), step, source };
    ioctl_int(&queue, TUNSETVNETHDRSZ, vnet_hdr_len as i32).map_err(step("set the vnet header's length"))?;
    ioctl_int(&queue, TUNSETVNETLE, 1).map_err(step("set the vnet header's byte order"))?;
    Ok((queue, named))
}

fn probe_offloads(queue: &OwnedFd) -> io::Result<TapOffloads> {
    // From the most that any kernel has downwards: an older one answers EINVAL to a bit that it does not know.
    for bits in [TapOffloads::ALL_BITS, 0x0f, 0x07, 0x01, 0] {
        match ioctl_value(queue, TUNSETOFFLOAD, bits) {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && bits != 0 => {}
            Err(e) => return Err(e),
            Ok(()) => return Ok(TapOffloads::from_bits(bits)),
        }
    }
    Ok(TapOffloads::default())
}

impl TapOffloads {
    /// The most that any kernel has for frames that are not encapsulated.
    pub(crate) const ALL_BITS: libc::c_ulong = 0x6f;

    fn bits(self) -> libc::c_ulong {
        let tso = if self.tso { TUN_F_TSO4 | TUN_F_TSO6 } else { 0 };
        let ecn = if self.tso && self.tso_ecn { TUN_F_TSO_ECN } else { 0 };
        let uso = if self.uso { TUN_F_USO4 | TUN_F_USO6 } else { 0 };
        if self.csum { TUN_F_CSUM | tso | ecn | uso } else { 0 }
    }

    fn from_bits(bits: libc::c_ulong) -> Self {
        Self {
            csum: bits & TUN_F_CSUM != 0,
            tso: bits & TUN_F_TSO4 != 0,
            tso_ecn: bits & TUN_F_TSO_ECN != 0,
            uso: bits & TUN_F_USO4 != 0,
        }
    }
}

const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
pub(crate) const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
const TUNSETVNETLE: libc::Ioctl = 0x4004_54dc;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::netns;

    const REQUEST: TapRequest<'static> =
        TapRequest { ifname: "tap0", queues: 2, mac: Some([2, 0, 0, 0, 0, 9]), mtu: 1400, tx_queue_len: 512 };

    #[test]
    fn a_tap_is_up_with_its_address_mtu_and_queues_and_goes_with_its_last_queue() {
        if !crate::may_test_as_root() {
            return;
        }
        let netns = netns::create().unwrap();
        let tap = open_in(&REQUEST, netns.as_fd()).unwrap();
        assert_eq!(tap.queues.len(), 2);
        assert!(tap.offloads.csum && tap.offloads.tso, "{:?}", tap.offloads);
        let look = || netns::in_namespace(netns.as_fd(), || Netlink::open().unwrap().link("tap0").unwrap()).unwrap();
        let link = look().unwrap();
        assert_eq!((link.mtu, link.mac, link.up, link.tx_queue_len), (1400, REQUEST.mac, true, 512));
        assert_eq!(link.index, tap.ifindex);
        set_offloads(tap.queues[0].as_fd(), TapOffloads::default()).unwrap();
        drop(tap);
        assert!(look().is_none());
    }

    #[test]
    fn a_name_taken_by_another_device_is_said() {
        if !crate::may_test_as_root() {
            return;
        }
        let netns = netns::create().unwrap();
        let error = netns::in_namespace(netns.as_fd(), || {
            Netlink::open().unwrap().add_bridge("tap0").unwrap();
            open(&REQUEST).unwrap_err()
        });
        assert!(matches!(error.unwrap(), TapError::NameTaken { .. }));
    }

    #[test]
    fn a_guest_that_sets_the_device_up_as_it_appears_gets_the_right_link_local_address() {
        if !crate::may_test_as_root() {
            return;
        }
        let netns = netns::create().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                netns::in_namespace(netns.as_fd(), || {
                    let mut netlink = Netlink::open().unwrap();
                    while netlink.set_up("tap0").is_err() && !done.load(std::sync::atomic::Ordering::Relaxed) {}
                })
                .unwrap();
            });
            let tap = open_in(&REQUEST, netns.as_fd());
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let addresses =
                netns::in_namespace(netns.as_fd(), || Netlink::open().unwrap().addresses().unwrap()).unwrap();
            let index = tap.unwrap().ifindex;
            let got: Vec<_> = addresses.iter().filter(|a| a.ifindex == index).map(|a| a.addr.to_string()).collect();
            assert!(got.iter().all(|addr| addr == "fe80::ff:fe00:9"), "{got:?}");
        });
    }

    #[test]
    fn a_queue_of_a_deleted_device_says_so() {
        if !crate::may_test_as_root() {
            return;
        }
        let netns = netns::create().unwrap();
        let tap = open_in(&REQUEST, netns.as_fd()).unwrap();
        netns::in_namespace(netns.as_fd(), || Netlink::open().unwrap().delete_link("tap0").unwrap()).unwrap();
        let error = rustix::io::read(&tap.queues[0], &mut [0; 100]).unwrap_err();
        assert_eq!(error, rustix::io::Errno::BADFD);
    }

    #[test]
    fn a_guests_namespace_goes_when_the_guest_does_and_the_queues_say_so() {
        if !crate::may_test_as_root() {
            return;
        }
        let netns = netns::create().unwrap();
        let tap = open_in(&REQUEST, netns.as_fd()).unwrap();
        drop(netns);
        // The kernel takes namespaces apart in the background.
        let gone = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            tap.queues.iter().all(|q| rustix::io::read(q, &mut [0; 2000]) == Err(rustix::io::Errno::BADFD))
        });
        assert!(gone, "the queues keep the namespace alive");
    }

    #[test]
    fn the_offloads_of_a_tap_survive_their_bits() {
        let all = TapOffloads { csum: true, tso: true, tso_ecn: true, uso: true };
        assert_eq!(TapOffloads::from_bits(all.bits()), all);
        let none_without_csum = TapOffloads { csum: false, ..all };
        assert_eq!(none_without_csum.bits(), 0);
    }
}
