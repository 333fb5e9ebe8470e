//! Which VTEP may send which VNI: a frame is accepted only from a remote that hosts its VNI.
//!
//! A VNI or a remote that was withdrawn is accepted a little longer, because frames that left before the sender heard
//! of the change are still on their way. A source address is not authentication: whoever can spoof addresses on the
//! underlay can pose as a remote. The table is a value: change a clone and publish it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use weft_packet::{DropReason, Vni};

/// What a program calls the remote; opaque here.
pub type RemoteId = u32;

/// Who is at the other end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteKind {
    /// Weft: takes part in probes.
    Weft,
    /// A VTEP that knows nothing of Weft.
    Legacy,
}

/// One remote, as the program declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteVtep {
    /// Its key.
    pub id: RemoteId,
    /// The outer source address of its frames.
    pub addr: IpAddr,
    /// Who it is.
    pub kind: RemoteKind,
    /// The VNIs it hosts.
    pub vnis: Vec<Vni>,
}

/// A frame may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Who sent it.
    pub remote: RemoteId,
    /// What the sender is.
    pub kind: RemoteKind,
    /// The segment's MTU, in bytes of IP.
    pub mtu: u16,
}

/// The remotes and the local segments.
#[derive(Debug, Clone)]
pub struct Admission {
    withdraw_delay: Duration,
    /// By outer source address. Sources come from the controller, so a fixed hash seed gives nobody an attack.
    remotes: HashMap<IpAddr, Entry, FixedState>,
    /// The outer source address of each declared remote.
    addresses: HashMap<RemoteId, IpAddr, FixedState>,
    segments: HashMap<Vni, u16, FixedState>,
}

#[derive(Debug, Clone)]
struct Entry {
    id: RemoteId,
    kind: RemoteKind,
    /// Sorted by VNI; with the end of the grace period once withdrawn.
    vnis: Vec<(Vni, Option<Instant>)>,
}

impl Admission {
    /// Admits nobody yet.
    pub fn new(withdraw_delay: Duration) -> Self {
        Self {
            withdraw_delay,
            remotes: HashMap::default(),
            addresses: HashMap::default(),
            segments: HashMap::default(),
        }
    }

    /// Declares the local segments, in place of those before: each VNI with its MTU in bytes of IP.
    pub fn set_segments(&mut self, segments: impl IntoIterator<Item = (Vni, u16)>) {
        self.segments = segments.into_iter().collect();
    }

    /// Declares a remote, in place of the one with the same id. VNIs that it no longer has, and its former address, are
    /// withdrawn. Of two remotes with one address the latest declared stands.
    pub fn put(&mut self, remote: &RemoteVtep, now: Instant) {
        let addr = remote.addr.to_canonical();
        if self.addresses.get(&remote.id).is_some_and(|former| *former != addr) {
            self.delete(remote.id, now);
        }
        self.addresses.insert(remote.id, addr);
        let mut vnis: Vec<_> = remote.vnis.iter().map(|vni| (*vni, None)).collect();
        if let Some(former) = self.remotes.remove(&addr) {
            // The former holder of the address may have moved on already.
            if former.id != remote.id && self.addresses.get(&former.id) == Some(&addr) {
                self.addresses.remove(&former.id);
            }
            let until = now + self.withdraw_delay;
            let gone = former.vnis.into_iter().filter(|(vni, _)| !remote.vnis.contains(vni));
            vnis.extend(gone.map(|(vni, end)| (vni, Some(end.unwrap_or(until)))));
        }
        vnis.sort_unstable_by_key(|(vni, _)| *vni);
        self.remotes.insert(addr, Entry { id: remote.id, kind: remote.kind, vnis });
    }

    /// Withdraws a remote.
    pub fn delete(&mut self, id: RemoteId, now: Instant) {
        let until = now + self.withdraw_delay;
        let Some(addr) = self.addresses.remove(&id) else { return };
        let Some(entry) = self.remotes.get_mut(&addr) else { return };
        for (_, end) in &mut entry.vnis {
            end.get_or_insert(until);
        }
    }

    /// Forgets what was withdrawn long enough ago; to be called now and then.
    pub fn expire(&mut self, now: Instant) {
        self.remotes.retain(|addr, entry| {
            entry.vnis.retain(|(_, end)| end.is_none_or(|end| now < end));
            !entry.vnis.is_empty() || self.addresses.get(&entry.id) == Some(addr)
        });
    }

    /// Whether a frame for `vni` may come in from `source`: [`DropReason::RemoteUnknown`],
    /// [`DropReason::VniUnknown`] or [`DropReason::VniNotAllowed`] when not.
    pub fn admit(&self, source: IpAddr, vni: Vni, now: Instant) -> Result<Admitted, DropReason> {
        let entry = self.remotes.get(&source.to_canonical()).ok_or(DropReason::RemoteUnknown)?;
        let mtu = *self.segments.get(&vni).ok_or(DropReason::VniUnknown)?;
        let index = entry.vnis.binary_search_by_key(&vni, |(vni, _)| *vni).map_err(|_| DropReason::VniNotAllowed)?;
        match entry.vnis[index].1 {
            Some(end) if now >= end => Err(DropReason::VniNotAllowed),
            _ => Ok(Admitted { remote: entry.id, kind: entry.kind, mtu }),
        }
    }

    /// The remote with this outer source address, whatever it hosts: for probes, which have a VNI of their own.
    pub fn remote(&self, source: IpAddr) -> Option<(RemoteId, RemoteKind)> {
        self.remotes.get(&source.to_canonical()).map(|entry| (entry.id, entry.kind))
    }
}

/// Frames refused by source address: bounded, so that a flood of spoofed sources fills no memory.
#[derive(Debug, Clone, Default)]
pub struct Refusals {
    by_source: HashMap<(IpAddr, DropReason), u64, FixedState>,
    /// By reason, so it is as bounded as reasons are.
    others: HashMap<DropReason, u64, FixedState>,
}

/// The sources that are counted by name.
pub const REFUSED_SOURCES_MAX: usize = 256;

impl Refusals {
    /// Counts one refused frame.
    pub fn count(&mut self, source: IpAddr, reason: DropReason) {
        let key = (source.to_canonical(), reason);
        let full = self.by_source.len() >= REFUSED_SOURCES_MAX;
        match self.by_source.get_mut(&key) {
            Some(count) => *count += 1,
            None if full => *self.others.entry(reason).or_default() += 1,
            None => {
                self.by_source.insert(key, 1);
            }
        }
    }

    /// The counts by source and reason, in no order.
    pub fn sources(&self) -> impl Iterator<Item = (IpAddr, DropReason, u64)> + '_ {
        self.by_source.iter().map(|((source, reason), count)| (*source, *reason, *count))
    }

    /// Frames of sources beyond the first [`REFUSED_SOURCES_MAX`] by reason, in no order.
    pub fn others(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        self.others.iter().map(|(reason, count)| (*reason, *count))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const DELAY: Duration = Duration::from_millis(500);

    fn vni(value: u32) -> Vni {
        Vni::new(value).unwrap()
    }

    fn addr(host: u8) -> IpAddr {
        [192, 0, 2, host].into()
    }

    fn remote(id: RemoteId, host: u8, vnis: &[u32]) -> RemoteVtep {
        let vnis = vnis.iter().map(|v| vni(*v)).collect();
        RemoteVtep { id, addr: addr(host), kind: RemoteKind::Weft, vnis }
    }

    fn table() -> Admission {
        let mut table = Admission::new(DELAY);
        table.set_segments((1..=9).map(|v| (vni(v), 1450)));
        table
    }

    #[test]
    fn a_frame_is_admitted_from_a_remote_that_hosts_its_vni_only() {
        let now = Instant::now();
        let mut table = table();
        table.put(&remote(7, 1, &[3, 1]), now);
        assert_eq!(table.admit(addr(1), vni(3), now), Ok(Admitted { remote: 7, kind: RemoteKind::Weft, mtu: 1450 }));
        assert_eq!(table.admit(addr(1), vni(2), now), Err(DropReason::VniNotAllowed));
        assert_eq!(table.admit(addr(1), vni(10), now), Err(DropReason::VniUnknown));
        assert_eq!(table.admit(addr(2), vni(3), now), Err(DropReason::RemoteUnknown));
    }

    #[test]
    fn a_mapped_ipv4_source_is_the_ipv4_remote() {
        let now = Instant::now();
        let mut table = table();
        table.put(&remote(7, 1, &[1]), now);
        let mapped = IpAddr::V6(std::net::Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
        assert!(table.admit(mapped, vni(1), now).is_ok());
    }

    #[test]
    fn what_was_withdrawn_is_admitted_for_the_delay_and_then_forgotten() {
        let now = Instant::now();
        let mut table = table();
        table.put(&remote(7, 1, &[1, 2]), now);
        table.put(&remote(7, 1, &[2]), now);
        let (last, over) = (now + DELAY - Duration::from_nanos(1), now + DELAY);
        assert!(table.admit(addr(1), vni(1), last).is_ok());
        assert_eq!(table.admit(addr(1), vni(1), over), Err(DropReason::VniNotAllowed));
        table.delete(7, now);
        assert!(table.admit(addr(1), vni(2), last).is_ok());
        assert!(table.admit(addr(1), vni(2), over).is_err());
        table.expire(over);
        assert_eq!(table.admit(addr(1), vni(2), over), Err(DropReason::RemoteUnknown));
    }

    #[test]
    fn a_remote_that_moved_is_admitted_at_both_addresses_for_the_delay() {
        let now = Instant::now();
        let mut table = table();
        table.put(&remote(7, 1, &[1]), now);
        table.put(&remote(7, 2, &[1]), now);
        assert!(table.admit(addr(1), vni(1), now).is_ok());
        assert!(table.admit(addr(1), vni(1), now + DELAY).is_err());
        assert!(table.admit(addr(2), vni(1), now + DELAY).is_ok());
    }

    #[test]
    fn two_remotes_may_swap_their_addresses() {
        let now = Instant::now();
        let mut table = table();
        table.put(&remote(7, 1, &[1]), now);
        table.put(&remote(8, 2, &[2]), now);
        table.put(&remote(7, 2, &[1]), now);
        table.put(&remote(8, 1, &[2]), now);
        let over = now + DELAY;
        table.expire(over);
        assert_eq!(table.admit(addr(2), vni(1), over).map(|a| a.remote), Ok(7));
        assert_eq!(table.admit(addr(1), vni(2), over).map(|a| a.remote), Ok(8));
        assert!(table.admit(addr(1), vni(1), over).is_err());
        table.delete(7, over);
        assert!(table.admit(addr(2), vni(1), over + DELAY).is_err());
    }

    #[test]
    fn refusals_are_bounded() {
        let mut refusals = Refusals::default();
        for source in 0..1000u32 {
            refusals.count(std::net::Ipv4Addr::from(source).into(), DropReason::RemoteUnknown);
        }
        refusals.count(std::net::Ipv4Addr::from(0).into(), DropReason::RemoteUnknown);
        assert_eq!(refusals.sources().count(), REFUSED_SOURCES_MAX);
        assert_eq!(refusals.others().collect::<Vec<_>>(), [(DropReason::RemoteUnknown, 744)]);
    }

    proptest! {
        /// The twin: for each address and VNI the moment until which it is admitted, `None` for ever.
        #[test]
        fn the_table_admits_what_a_map_of_moments_admits(script in prop::collection::vec((0u32..4, 0u64..400, prop::collection::vec(1u32..5, 0..4), any::<bool>()), 1..20)) {
            let mut now = Instant::now();
            let mut table = table();
            let mut twin = BTreeMap::<(u32, u32), Option<Instant>>::new();
            for (id, wait, vnis, delete) in script {
                now += Duration::from_millis(wait);
                for ((of, vni), end) in &mut twin {
                    if *of == id && (delete || !vnis.contains(vni)) {
                        end.get_or_insert(now + DELAY);
                    }
                }
                if delete {
                    table.delete(id, now);
                } else {
                    twin.extend(vnis.iter().map(|vni| ((id, *vni), None)));
                    table.put(&remote(id, id as u8, &vnis), now);
                }
                table.expire(now);
                for (id, v) in (0..4).flat_map(|id| (1..5).map(move |v| (id, v))) {
                    let expected = twin.get(&(id, v)).is_some_and(|end| end.is_none_or(|end| now < end));
                    prop_assert_eq!(table.admit(addr(id as u8), vni(v), now).is_ok(), expected);
                }
            }
        }
    }
}
