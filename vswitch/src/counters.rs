//! Counters of one worker: plain numbers that one thread writes.
//!
//! Nobody reads them while they move: a reader asks the worker, which answers between two bursts, so the ledger
//! balances in every answer. Drop rows are bounded; past the bound a drop loses its owner, never its count. Unknown
//! senders have a bound of their own: whoever forges source addresses pushes no port out of the table.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::{Equivalent, HashMap};
use weft_packet::DropReason;
use weft_program::PortId;
use weft_program::message::{DropReport, DropSource, Ledger};
use weft_vtep::admission::Refusals;

/// What one worker counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// The balance of frames.
    pub ledger: Ledger,
    /// System calls and what they moved.
    pub io: IoCounters,
    ports: Vec<PortCounters>,
    drops: HashMap<DropRow, u64, foldhash::fast::FixedState>,
    /// Drops of senders that are no remote.
    refusals: Refusals,
}

/// Frames of one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames from the device.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames that the device took.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// By `DropReason as usize`.
    pub drops: [u64; DropReason::ALL.len()],
}

/// System calls and what they moved; the ratios tell whether batching and offloads are alive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Rounds of the worker that moved something.
    pub rounds: u64,
    /// `read` calls on ports, the one that found nothing included.
    pub port_reads: u64,
    /// `write` calls on ports.
    pub port_writes: u64,
    /// Received super-frames.
    pub rx_super_frames: u64,
    /// Sent super-frames.
    pub tx_super_frames: u64,
    /// Checksums completed in software for a port or datagram that needs it.
    pub checksums: u64,
    /// Super-frames cut in software.
    pub segmentations: u64,
    /// `recvmmsg` calls on the underlay.
    pub underlay_reads: u64,
    /// Datagrams received; one may carry many VXLAN packets.
    pub underlay_rx_datagrams: u64,
    /// `sendmmsg` and `sendmsg` calls on the underlay.
    pub underlay_writes: u64,
    /// Messages sent; one may carry many VXLAN packets.
    pub underlay_tx_messages: u64,
    /// VXLAN packets sent over the sockets.
    pub underlay_tx_packets: u64,
    /// Super-frames sent uncut over the tunnel device.
    pub underlay_tx_whole: u64,
    /// Times that a better rung was given up.
    pub rung_falls: u64,
    /// Datagrams that the receiving sockets had no room for (`SO_RXQ_OVFL`).
    pub underlay_overflow: u64,
}

impl Counters {
    /// The port's counters; they begin when they are first touched.
    #[inline]
    pub fn port(&mut self, port: PortId) -> &mut PortCounters {
        let index = port.0 as usize;
        if index >= self.ports.len() {
            self.ports.resize_with(index + 1, PortCounters::default);
        }
        &mut self.ports[index]
    }

    /// The port's counters as they are.
    pub fn read_port(&self, port: PortId) -> PortCounters {
        self.ports.get(port.0 as usize).cloned().unwrap_or_default()
    }

    /// Starts the port's counters anew, for the next device with this id.
    pub fn forget_port(&mut self, port: PortId) {
        *self.port(port) = PortCounters::default();
    }

    /// A frame that a port's device gave us.
    #[inline]
    pub fn received(&mut self, port: PortId, bytes: usize) {
        self.ledger.rx += 1;
        let counters = self.port(port);
        counters.rx_frames += 1;
        counters.rx_bytes += bytes as u64;
    }

    /// A frame that a port's device took.
    #[inline]
    pub fn sent(&mut self, port: PortId, bytes: usize) {
        self.ledger.tx += 1;
        let counters = self.port(port);
        counters.tx_frames += 1;
        counters.tx_bytes += bytes as u64;
    }

    /// A frame that ends here, on behalf of `owner`'s rule where one said so.
    pub fn dropped(&mut self, source: DropSource, reason: DropReason, owner: &Arc<str>) {
        if let DropSource::Port(port) = source {
            self.port(port).drops[reason as usize] += 1;
        }
        self.count_drop(source, reason, owner);
    }

    /// A frame that `port` was to send and could not.
    pub fn refused(&mut self, port: PortId, source: DropSource, reason: DropReason) {
        self.port(port).drops[reason as usize] += 1;
        self.count_drop(source, reason, &Arc::default());
    }

    /// All drops with their sources and owners.
    pub fn drop_rows(&self) -> Vec<DropReport> {
        let row = |(row, frames): (&DropRow, &u64)| DropReport {
            source: row.source,
            reason: row.reason,
            owner: row.owner.to_string(),
            frames: *frames,
        };
        let refused = |source, reason, frames| DropReport { source, reason, owner: String::new(), frames };
        let addresses = self.refusals.sources().map(|(addr, reason, n)| refused(DropSource::Address(addr), reason, n));
        let others = self.refusals.others().map(|(reason, n)| refused(DropSource::Underlay, reason, n));
        self.drops.iter().map(row).chain(addresses).chain(others).collect()
    }

    fn count_drop(&mut self, source: DropSource, reason: DropReason, owner: &Arc<str>) {
        self.ledger.dropped += 1;
        if let DropSource::Address(addr) = source {
            return self.refusals.count(addr, reason);
        }
        if let Some(count) = self.drops.get_mut(&RowRef { source, reason, owner }) {
            *count += 1;
            return;
        }
        // Full: the row without an owner, then one row per reason, which are few.
        let mut row = DropRow { source, reason, owner: owner.clone() };
        if self.drops.len() >= DROP_ROWS_MAX {
            row.owner = Arc::default();
        }
        if self.drops.len() >= 2 * DROP_ROWS_MAX {
            row.source = DropSource::Underlay;
        }
        *self.drops.entry(row).or_insert(0) += 1;
    }
}

impl PortCounters {
    /// The drops that happened, by reason.
    pub fn drop_counts(&self) -> Vec<(DropReason, u64)> {
        let counts = DropReason::ALL.iter().map(|reason| (*reason, self.drops[*reason as usize]));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

impl Default for PortCounters {
    fn default() -> Self {
        Self { rx_frames: 0, rx_bytes: 0, tx_frames: 0, tx_bytes: 0, drops: [0; DropReason::ALL.len()] }
    }
}

impl std::ops::AddAssign<&Self> for PortCounters {
    fn add_assign(&mut self, other: &Self) {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        for (sum, more) in self.drops.iter_mut().zip(other.drops) {
            *sum += more;
        }
    }
}

impl IoCounters {
    /// By name, for reports.
    pub const fn named(&self) -> [(&'static str, u64); 15] {
        [
            ("rounds", self.rounds),
            ("port_reads", self.port_reads),
            ("port_writes", self.port_writes),
            ("rx_super_frames", self.rx_super_frames),
            ("tx_super_frames", self.tx_super_frames),
            ("checksums", self.checksums),
            ("segmentations", self.segmentations),
            ("underlay_reads", self.underlay_reads),
            ("underlay_rx_datagrams", self.underlay_rx_datagrams),
            ("underlay_writes", self.underlay_writes),
            ("underlay_tx_messages", self.underlay_tx_messages),
            ("underlay_tx_packets", self.underlay_tx_packets),
            ("underlay_tx_whole", self.underlay_tx_whole),
            ("rung_falls", self.rung_falls),
            ("underlay_overflow", self.underlay_overflow),
        ]
    }
}

#[derive(Debug, PartialEq, Eq)]
struct DropRow {
    source: DropSource,
    reason: DropReason,
    owner: Arc<str>,
}

/// A row's key without owning its text: a drop of a known row clones nothing.
struct RowRef<'a> {
    source: DropSource,
    reason: DropReason,
    owner: &'a Arc<str>,
}

impl Hash for DropRow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.source, self.reason, &*self.owner).hash(state);
    }
}

impl Hash for RowRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.source, self.reason, &**self.owner).hash(state);
    }
}

impl Equivalent<DropRow> for RowRef<'_> {
    fn equivalent(&self, row: &DropRow) -> bool {
        self.source == row.source && self.reason == row.reason && *self.owner == row.owner
    }
}

/// Rows of the drop table, per worker.
const DROP_ROWS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use weft_vtep::admission::REFUSED_SOURCES_MAX;

    use super::*;

    #[test]
    fn a_drop_is_counted_for_its_port_its_reason_and_its_owner() {
        let mut counters = Counters::default();
        let owner: Arc<str> = "port red/a anti-spoof".into();
        for _ in 0..3 {
            counters.dropped(DropSource::Port(PortId(2)), DropReason::SpoofedMac, &owner);
        }
        assert_eq!(counters.read_port(PortId(2)).drop_counts(), [(DropReason::SpoofedMac, 3)]);
        let rows = counters.drop_rows();
        assert_eq!((rows.len(), rows[0].frames, rows[0].owner.as_str()), (1, 3, "port red/a anti-spoof"));
        assert_eq!(counters.ledger.dropped, 3);
    }

    #[test]
    fn a_refused_frame_is_its_outputs_drop_and_its_sources_row() {
        let mut counters = Counters::default();
        counters.refused(PortId(9), DropSource::Port(PortId(2)), DropReason::TxFull);
        assert_eq!(counters.read_port(PortId(9)).drop_counts(), [(DropReason::TxFull, 1)]);
        assert_eq!(counters.read_port(PortId(2)).drop_counts(), []);
        assert_eq!(counters.drop_rows()[0].source, DropSource::Port(PortId(2)));
    }

    #[test]
    fn unknown_senders_are_counted_one_by_one_and_push_nobody_out() {
        let mut counters = Counters::default();
        for sender in 0..20_000u32 {
            let source = DropSource::Address(std::net::Ipv4Addr::from(sender % 10_000).into());
            counters.dropped(source, DropReason::RemoteUnknown, &Arc::default());
        }
        let owner: Arc<str> = "port red/a anti-spoof".into();
        counters.dropped(DropSource::Port(PortId(2)), DropReason::SpoofedMac, &owner);
        let rows = counters.drop_rows();
        assert_eq!(rows.len(), REFUSED_SOURCES_MAX + 2);
        assert!(rows.iter().any(|row| row.owner == *owner && row.frames == 1));
        let others = rows.iter().find(|row| row.source == DropSource::Underlay).unwrap();
        assert_eq!(others.frames, 20_000 - 2 * REFUSED_SOURCES_MAX as u64);
        assert_eq!(rows.iter().map(|row| row.frames).sum::<u64>(), counters.ledger.dropped);
    }

    #[test]
    fn a_full_drop_table_loses_owners_and_no_count() {
        let mut counters = Counters::default();
        for index in 0..DROP_ROWS_MAX * 3 {
            let owner: Arc<str> = format!("rule {index}").into();
            counters.dropped(DropSource::Port(PortId(index as u32 % 7)), DropReason::Policy, &owner);
        }
        let rows = counters.drop_rows();
        assert!(rows.len() <= DROP_ROWS_MAX + 7);
        assert_eq!(rows.iter().map(|row| row.frames).sum::<u64>(), DROP_ROWS_MAX as u64 * 3);
    }
}
