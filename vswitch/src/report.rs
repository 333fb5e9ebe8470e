//! What all workers counted, added up for people.

use std::collections::BTreeMap;

use weft_program::message::{DropReport, LedgerReport};

use crate::learn::LearnCounts;
use crate::worker::WorkerReport;

/// The ledger per worker, and all other counters summed.
pub(crate) fn ledger(reports: &[WorkerReport], learned: &LearnCounts) -> LedgerReport {
    let mut drops = BTreeMap::<_, u64>::new();
    for row in reports.iter().flat_map(|report| &report.drops) {
        *drops.entry((row.source, row.reason, row.owner.clone())).or_default() += row.frames;
    }
    let drop_report = |((source, reason, owner), frames)| DropReport { source, reason, owner, frames };
    let mut cache = sum(reports.iter().flat_map(|report| report.cache));
    cache.extend([
        ("learn_add".to_owned(), learned.add),
        ("learn_moved".to_owned(), learned.moved),
        ("learn_full".to_owned(), learned.full),
        ("learn_held".to_owned(), learned.held),
        ("learn_refused".to_owned(), learned.refused),
        ("learn_expired".to_owned(), learned.expired),
    ]);
    let overflow = reports.iter().map(|report| report.io.underlay_overflow).sum();
    LedgerReport {
        workers: reports.iter().map(|report| report.ledger).collect(),
        drops: drops.into_iter().map(drop_report).collect(),
        device_drops: if overflow > 0 { vec![("underlay_rxq_overflow".to_owned(), overflow)] } else { Vec::new() },
        cache,
        io: sum(reports.iter().flat_map(|report| report.io.named())),
    }
}

/// Sums by name, in the order in which the names first come.
fn sum(counts: impl Iterator<Item = (&'static str, u64)>) -> Vec<(String, u64)> {
    let mut sums: Vec<(String, u64)> = Vec::new();
    for (name, count) in counts {
        match sums.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += count,
            None => sums.push((name.to_owned(), count)),
        }
    }
    sums
}
