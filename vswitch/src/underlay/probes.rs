//! Probes on this host's sockets: one state for all workers, behind a lock that no frame of a guest ever takes.
//!
//! An answer arrives at whichever worker the kernel picks, and that worker acts on it. Worker 0 wakes for what is due
//! later; another worker wakes only for what it began itself, which is over in a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use weft_packet::{DropReason, Vni};
use weft_program::RemoteId;
use weft_program::message::{DropSource, RemoteRung, Rung};
use weft_vtep::encap;
use weft_vtep::probe::{Grade, Prober, Send};

use super::{Carriage, Departure, Tunnel, kind};
use crate::execute::Outputs;
use crate::tables::Tables;

/// What all workers share.
#[derive(Debug)]
pub(super) struct Probes {
    best: Rung,
    prober: Mutex<Prober>,
    /// The prober's; workers look at it once per round.
    version: AtomicU64,
}

/// What a worker has for itself.
#[derive(Debug, Default)]
pub(super) struct WorkerProbes {
    version: u64,
    grades: HashMap<RemoteId, Grade, FixedState>,
    out: Vec<Send>,
    wake: Option<Instant>,
}

impl Probes {
    pub(super) fn new(best: Rung) -> Self {
        let grade = match best {
            Rung::Single | Rung::Batch => None,
            Rung::Segment => Some(Grade::Segment),
            Rung::Tunnel => Some(Grade::Tunnel),
        };
        let prober = Mutex::new(Prober::new(grade, 0));
        Self { best, prober, version: AtomicU64::new(0) }
    }

    /// Before there are remotes.
    pub(super) fn seed(&self, seed: u64) {
        self.lock().seed(seed);
    }

    /// The ways to all remotes may be others.
    pub(super) fn probe_all(&self, now: Instant) {
        self.lock().probe_all(now);
    }

    /// The rung towards each remote.
    pub(super) fn reports(&self) -> Vec<RemoteRung> {
        let base = self.best.min(Rung::Batch);
        let rung = |grade| match grade {
            None => base,
            Some(Grade::Segment) => Rung::Segment,
            Some(Grade::Tunnel) => Rung::Tunnel,
        };
        let prober = self.lock();
        prober
            .reports()
            .map(|r| RemoteRung { remote: RemoteId(r.remote), rung: rung(r.grade), reason: r.reason })
            .collect()
    }

    /// Runs it, and lets the workers know when a rung changed.
    fn with<T>(&self, run: impl FnOnce(&mut Prober) -> T) -> (T, Option<Instant>) {
        let mut prober = self.lock();
        let result = run(&mut prober);
        self.version.store(prober.version(), Ordering::Relaxed);
        (result, prober.next_wake())
    }

    fn lock(&self) -> MutexGuard<'_, Prober> {
        self.prober.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkerProbes {
    /// Takes over what other workers found out.
    #[inline]
    pub(super) fn refresh(&mut self, probes: &Probes) {
        if probes.version.load(Ordering::Relaxed) != self.version {
            let prober = probes.lock();
            self.version = prober.version();
            self.grades = prober.grades().map(|(remote, grade)| (RemoteId(remote), grade)).collect();
        }
    }

    #[inline]
    pub(super) fn grade(&self, remote: RemoteId) -> Option<Grade> {
        self.grades.get(&remote).copied()
    }

    /// One frame of the probe VNI.
    pub(super) fn receive(
        &mut self,
        probes: &Probes,
        remote: u32,
        frame: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let (received, wake) = probes.with(|prober| prober.receive(remote, frame, now, &mut self.out));
        // Earlier than what this worker waits for: nobody else knows.
        if wake.is_some_and(|at| at < now + SOON && self.wake.is_none_or(|mine| at < mine)) {
            self.wake = wake;
        }
        received
    }
}

impl Tunnel {
    /// When a probe has something to do.
    pub(crate) const fn next_wake(&self) -> Option<Instant> {
        self.prober.wake
    }

    /// Tells the prober which remotes there are.
    pub(super) fn declare_peers(&mut self, tables: &Tables, now: Instant) {
        let remotes = tables.remotes().map(|remote| (remote.id.0, kind(remote.kind), remote.addr));
        ((), self.prober.wake) = self.attached.probes.with(|prober| prober.set_remotes(remotes, now));
    }

    /// Does what is due.
    fn probe(&mut self, now: Instant) {
        let (able, mtu) = (self.able(), self.inner_mtu());
        let Self { attached, prober, worker, .. } = self;
        let ((), wake) = attached.probes.with(|p| p.handle(now, able, mtu, &mut prober.out));
        prober.wake = wake.filter(|at| *worker == 0 || *at < now + SOON);
    }
}

impl Outputs {
    /// Probes what is due.
    pub(crate) fn probe(&mut self, tables: &Tables, now: Instant) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.probe(now);
            self.send_probes(tables);
        }
    }

    /// Sends what the prober wants sent. The queues are empty before and after: a probe leaves in one message.
    pub(crate) fn send_probes(&mut self, tables: &Tables) {
        let Some(tunnel) = self.tunnel.as_mut().filter(|tunnel| !tunnel.prober.out.is_empty()) else { return };
        let out = std::mem::take(&mut tunnel.prober.out);
        for send in out {
            let Some(remote) = tables.remote(RemoteId(send.remote)) else { continue };
            let to = std::net::SocketAddr::new(remote.addr, remote.udp_port);
            let carriage = match send.grade {
                None => Carriage::Alone,
                Some(Grade::Segment) => Carriage::MustJoin,
                Some(Grade::Tunnel) => Carriage::MustBeWhole,
            };
            let cut = send.offload.gso.map(|gso| gso.size);
            for bytes in &send.frames {
                let (Some(tunnel), Some(mut frame)) = (&mut self.tunnel, self.pool.take()) else { break };
                frame.fill(bytes);
                frame.offload = send.offload;
                if cut.is_none() {
                    encap::encap(&mut frame, Vni::PROBE);
                }
                self.counters.ledger.originated += 1;
                let (source, vni) = (DropSource::Own, Vni::PROBE);
                tunnel.queue(0, Departure { frame, source, to, tos: 0, vni, cut, carriage });
                self.count_queued();
            }
            self.flush();
        }
    }
}

/// What a worker other than the first waits for itself.
const SOON: Duration = Duration::from_secs(1);
