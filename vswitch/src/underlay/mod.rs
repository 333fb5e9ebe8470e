//! The underlay: plain UDP sockets on the host's own address, and the rung of the ladder that they are on.
//!
//! Each worker reads one receiving socket of the shared group; all workers send over the same sending sockets, picked
//! by the inner flow, so the underlay sees a flow come from one source port whichever worker carried it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_packet::{FlowKey, Frame, MacAddr, Vni, flow_hash};
use weft_program::message::{DropSource, RemoteRung, Rung, Underlay};
use weft_program::{RemoteId, RemoteKind};
use weft_sys::udp;
use weft_vtep::admission::{self, Admission, RemoteVtep};
use weft_vtep::encap::Entropy;
use weft_vtep::mtu;
use weft_vtep::probe::Grade;

use crate::ring::Ring;
use crate::tables::Tables;

mod exit;
mod ladder;
mod message;
pub(crate) mod probes;
mod receive;
mod send;

/// The attached sockets, shared by all workers.
#[derive(Debug)]
pub struct AttachedUnderlay {
    /// As the agent described it, but for the MTU.
    config: Underlay,
    /// Changes while the sockets stay, so workers read it for each frame.
    mtu: AtomicU16,
    sockets: Sockets,
    /// Rungs that the sockets refused from the start.
    refused: Vec<(Rung, String)>,
    probes: probes::Probes,
}

#[derive(Debug)]
enum Sockets {
    Udp { rx: Vec<OwnedFd>, tx: Vec<OwnedFd>, device: Option<Device> },
    Memory(Arc<Mutex<Queues>>),
}

/// The tunnel device, and the source port of each sending socket, which its frames have too.
#[derive(Debug)]
struct Device {
    queue: OwnedFd,
    mac: MacAddr,
    ports: Vec<u16>,
}

/// The far end of an underlay without a kernel.
#[derive(Debug, Clone)]
pub struct UnderlayEnd {
    queues: Arc<Mutex<Queues>>,
}

/// A datagram of an underlay without a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryDatagram {
    /// Who sends it, on its way in; where it goes, on its way out.
    pub addr: SocketAddr,
    /// The UDP payload.
    pub payload: Vec<u8>,
    /// The outer TOS or traffic class.
    pub tos: u8,
    /// As UDP_GRO would say, on its way in; on the way out everything is cut already.
    pub stride: Option<u16>,
}

#[derive(Debug)]
struct Queues {
    incoming: Ring<MemoryDatagram>,
    outgoing: Ring<MemoryDatagram>,
    /// Messages with UDP_SEGMENT that are taken before they are refused.
    segments: u64,
    /// Super-frames that are taken uncut before they are refused.
    super_frames: u64,
    /// Whether a refusal is of the one super-frame, not of the device.
    dislikes: bool,
    /// The last packet of each message with UDP_SEGMENT, and the end of each uncut super-frame, arrives changed.
    breaks_segments: bool,
}

/// One worker's tunnel endpoint.
#[derive(Debug)]
pub(crate) struct Tunnel {
    attached: Arc<AttachedUnderlay>,
    worker: usize,
    entropy: Entropy,
    admission: Admission,
    admitted: BTreeSet<RemoteId>,
    receiver: receive::Receiver,
    sender: send::Sender,
    ladder: ladder::Ladder,
    prober: probes::WorkerProbes,
}

/// A frame on its way to a remote.
#[derive(Debug)]
pub(crate) struct Departure {
    /// Encapsulated, unless it is to be cut.
    pub(crate) frame: Frame,
    pub(crate) source: DropSource,
    pub(crate) to: SocketAddr,
    pub(crate) tos: u8,
    pub(crate) vni: Vni,
    /// Payload bytes of the segments that a super-frame is cut into.
    pub(crate) cut: Option<u16>,
    pub(crate) carriage: Carriage,
}

/// How a frame may travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Carriage {
    /// In a message of its own: its remote does not take segments.
    Alone,
    /// In one message with others to the same remote, as the sockets allow.
    Joined,
    /// A TCP super-frame uncut, over the tunnel device; all else as above.
    Whole,
    /// A part of a probe of just that, which proves nothing in any other way.
    MustJoin,
    /// A probe, as above.
    MustBeWhole,
}

impl Default for MemoryDatagram {
    fn default() -> Self {
        Self { addr: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), payload: Vec::new(), tos: 0, stride: None }
    }
}

impl AttachedUnderlay {
    /// The sockets that came with the description: receiving ones first.
    pub fn new(config: Underlay, mut fds: Vec<OwnedFd>) -> Self {
        let mut tx = fds.split_off(config.rx_fds.min(fds.len()));
        let queue = tx.split_off(config.tx_fds.min(tx.len())).pop();
        let mut refused = config.refused.clone();
        for rx in &fds {
            if let Err(error) = udp::set_gro(rx, config.rung >= Rung::Segment) {
                refused.push((Rung::Segment, format!("UDP_GRO: {error}")));
            }
        }
        let port = |fd: &OwnedFd| udp::local_addr(fd).map_or(config.udp_port, |addr| addr.port());
        let device = config.tunnel.as_ref().zip(queue);
        let device =
            device.map(|(tunnel, queue)| Device { queue, mac: tunnel.mac, ports: tx.iter().map(port).collect() });
        let probes = probes::Probes::new(config.rung);
        let sockets = Sockets::Udp { rx: fds, tx, device };
        Self { mtu: AtomicU16::new(config.mtu), config, sockets, refused, probes }
    }

    /// An underlay without a kernel, with queues of `len_max` datagrams.
    pub fn in_memory(config: Underlay, len_max: usize) -> (Self, UnderlayEnd) {
        let (incoming, outgoing) = (Ring::new(len_max), Ring::new(len_max));
        let (segments, super_frames, dislikes, breaks_segments) = (u64::MAX, u64::MAX, false, false);
        let queues = Queues { incoming, outgoing, segments, super_frames, dislikes, breaks_segments };
        let queues = Arc::new(Mutex::new(queues));
        let end = UnderlayEnd { queues: queues.clone() };
        let (mtu, probes) = (AtomicU16::new(config.mtu), probes::Probes::new(config.rung));
        (Self { config, mtu, sockets: Sockets::Memory(queues), refused: Vec::new(), probes }, end)
    }

    /// As the agent described it, with what it said of the MTU since.
    pub fn config(&self) -> Underlay {
        Underlay { mtu: self.mtu.load(Ordering::Relaxed), ..self.config.clone() }
    }

    /// The largest outer IP packet is this long now, in bytes, and the ways to the remotes may be others.
    pub fn changed(&self, mtu: u16, now: Instant) {
        self.mtu.store(mtu, Ordering::Relaxed);
        self.probes.probe_all(now);
    }

    /// The descriptors, in the order in which they came.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match &self.sockets {
            Sockets::Udp { rx, tx, device } => {
                let queue = device.iter().map(|device| device.queue.as_fd());
                rx.iter().chain(tx).map(AsFd::as_fd).chain(queue).collect()
            }
            Sockets::Memory(_) => Vec::new(),
        }
    }

    /// Nobody outside can guess what follows from the seed.
    pub(crate) fn seed_probes(&self, seed: u64) {
        self.probes.seed(seed);
    }

    /// The rung towards each remote as its probes say, and why no better one.
    pub fn remote_rungs(&self) -> Vec<RemoteRung> {
        self.probes.reports()
    }

    fn tx_count(&self) -> usize {
        match &self.sockets {
            Sockets::Udp { tx, .. } => tx.len(),
            Sockets::Memory(_) => 1,
        }
    }
}

impl UnderlayEnd {
    /// Puts a datagram in front of the vswitch; `false` when its queue is full.
    pub fn push(&self, datagram: MemoryDatagram) -> bool {
        lock(&self.queues).incoming.push().map(|slot| *slot = datagram).is_some()
    }

    /// Takes so many more messages with UDP_SEGMENT, then refuses them as a kernel or a route without it does.
    pub fn take_segments(&self, messages: u64) {
        lock(&self.queues).segments = messages;
    }

    /// Takes so many more super-frames uncut, then refuses them as a device that went away does, or, when it `dislikes`
    /// them, as the kernel does with one that is not what it says.
    pub fn take_super_frames(&self, super_frames: u64, dislikes: bool) {
        let mut queues = lock(&self.queues);
        (queues.super_frames, queues.dislikes) = (super_frames, dislikes);
    }

    /// From now on a message with UDP_SEGMENT, and an uncut super-frame, arrives with its last packet changed, as on a path
    /// with a broken device.
    pub fn break_segments(&self, breaks: bool) {
        lock(&self.queues).breaks_segments = breaks;
    }

    /// The next datagram that the vswitch sent.
    pub fn pop(&self) -> Option<MemoryDatagram> {
        lock(&self.queues).outgoing.pop().map(std::mem::take)
    }

    /// Looks at every datagram that the vswitch sent, and leaves the memory to the queue; how many there were.
    pub fn drain(&self, mut look: impl FnMut(&MemoryDatagram)) -> usize {
        let mut queues = lock(&self.queues);
        std::iter::from_fn(|| queues.outgoing.pop().map(|datagram| look(datagram))).count()
    }
}

impl Tunnel {
    /// The endpoint of worker `worker`.
    pub(crate) fn new(attached: Arc<AttachedUnderlay>, worker: usize) -> Self {
        let sockets = attached.tx_count();
        Self {
            worker,
            entropy: Entropy::new(sockets as u32),
            admission: Admission::new(WITHDRAW_DELAY),
            admitted: BTreeSet::new(),
            receiver: receive::Receiver::new(),
            sender: send::Sender::new(sockets),
            ladder: ladder::Ladder::new(attached.config.rung),
            prober: probes::WorkerProbes::default(),
            attached,
        }
    }

    /// The descriptor to wait for, if there is one for this worker.
    pub(crate) fn rx_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.attached.sockets {
            Sockets::Udp { rx, .. } => rx.get(self.worker).map(AsFd::as_fd),
            Sockets::Memory(_) => None,
        }
    }

    /// Whether an underlay without a kernel has something for us.
    pub(crate) fn has_memory_input(&self) -> bool {
        match &self.attached.sockets {
            Sockets::Udp { .. } => false,
            Sockets::Memory(queues) => !lock(queues).incoming.is_empty(),
        }
    }

    /// The largest inner IP packet that crosses.
    pub(crate) fn inner_mtu(&self) -> u16 {
        mtu::inner_mtu(self.attached.mtu.load(Ordering::Relaxed), self.attached.config.addr.is_ipv6())
    }

    /// The sending socket of a flow.
    pub(crate) fn socket(&self, key: &FlowKey) -> usize {
        self.entropy.socket(flow_hash(key))
    }

    /// How frames may travel to this remote: as the sockets and the device allow, and a probe came through.
    pub(crate) fn carriage(&self, remote: RemoteId) -> Carriage {
        match self.prober.grade(remote).zip(self.able()) {
            None => Carriage::Alone,
            Some((Grade::Tunnel, Grade::Tunnel)) => Carriage::Whole,
            Some(_) => Carriage::Joined,
        }
    }

    /// What the sockets and the device take now.
    fn able(&self) -> Option<Grade> {
        match self.ladder.rung() {
            Rung::Single | Rung::Batch => None,
            Rung::Segment => Some(Grade::Segment),
            Rung::Tunnel => Some(Grade::Tunnel),
        }
    }

    /// The best rung that is known to work.
    pub(crate) const fn rung(&self) -> Rung {
        self.ladder.proved()
    }

    /// Why no better one is.
    pub(crate) fn rungs_not_taken(&self) -> Vec<(Rung, String)> {
        self.attached.refused.iter().chain(self.ladder.not_taken()).cloned().collect()
    }

    /// A round begins.
    #[inline]
    pub(crate) fn begin(&mut self, now: Instant) {
        self.ladder.begin(now);
        self.prober.refresh(&self.attached.probes);
    }

    /// Takes over which remotes may send which VNIs.
    pub(crate) fn admit(&mut self, tables: &Tables, now: Instant) {
        self.admission.expire(now);
        self.admission.set_segments(tables.segments().map(|segment| (segment.vni, segment.mtu)));
        let mut declared = BTreeSet::new();
        for remote in tables.remotes() {
            declared.insert(remote.id);
            let kind = kind(remote.kind);
            let vnis = remote.vnis.iter().copied().collect();
            self.admission.put(&RemoteVtep { id: remote.id.0, addr: remote.addr, kind, vnis }, now);
        }
        if self.worker == 0 {
            self.declare_peers(tables, now);
        }
        for withdrawn in self.admitted.difference(&declared) {
            self.admission.delete(withdrawn.0, now);
        }
        self.admitted = declared;
    }

    /// Who a refused datagram is from, as far as we know.
    fn source(&self, addr: IpAddr) -> DropSource {
        let addr = addr.to_canonical();
        self.admission.remote(addr).map_or(DropSource::Address(addr), |(id, _)| DropSource::Remote(RemoteId(id)))
    }
}

const fn kind(kind: RemoteKind) -> admission::RemoteKind {
    match kind {
        RemoteKind::Weft => admission::RemoteKind::Weft,
        RemoteKind::Legacy => admission::RemoteKind::Legacy,
    }
}

fn lock(queues: &Mutex<Queues>) -> MutexGuard<'_, Queues> {
    queues.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a frame of a withdrawn remote or VNI is still accepted: it may have left before its sender heard of it.
const WITHDRAW_DELAY: Duration = Duration::from_secs(1);
