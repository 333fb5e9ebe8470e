//! How hosts and generations stand, in the words of the REST API.
//!
//! Everything here is read from the hub and the snapshot at the moment of asking; nothing is kept, so nothing is stale.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_api::object::{Host, HostKind, Name};
use weft_api::report::{
    ApplyStatus, FabricReport, HostApplyStatus, HostStatus, Laggard, PortStatus, PositionReport, RungStatus,
};
use weft_api::wire::proto::{self, PortState};

use crate::push::{HostState, Hub};
use crate::store::Snapshot;

/// How the controller and all hosts stand.
pub fn fabric(hub: &Hub, snapshot: &Snapshot, now: Instant) -> FabricReport {
    FabricReport {
        store_id: hub.store_id().to_owned(),
        generation: snapshot.generation,
        build: hub.build().to_owned(),
        hosts: snapshot.hosts().map(|host| host_status(hub, snapshot, host, now)).collect(),
    }
}

/// How one host stands.
pub fn host_status(hub: &Hub, snapshot: &Snapshot, host: &Host, now: Instant) -> HostStatus {
    let kind = match host.spec.kind {
        HostKind::Weft => "weft",
        HostKind::Vtep => "vtep",
    };
    let plain = HostStatus { host: host.name.as_str().into(), kind: kind.into(), ..Default::default() };
    let Some((_, state)) = hub.hosts().find(|(name, _)| **name == host.name) else { return plain };
    let seen = &state.seen;
    let status = seen.status.as_ref();
    let position = seen.position.as_ref().map(|at| PositionReport {
        store_id: at.store_id.clone(),
        generation: at.generation,
        digest: at.digest.clone(),
    });
    HostStatus {
        connected: state.is_connected(),
        last_contact_ms: last_contact_ms(state, now),
        instance: filled(&seen.instance),
        build: filled(&seen.build),
        position,
        acked_generation: state.acked_generation(),
        error: filled(&seen.error).or_else(|| status.and_then(|s| filled(&s.problem))),
        ports: ports(snapshot, &host.name, status, state.is_connected()),
        rungs: status.map(rungs).unwrap_or_default(),
        vswitch_instance: status.and_then(|s| filled(&s.vswitch_instance)),
        vswitch_pid: status.map(|s| s.vswitch_pid).filter(|pid| *pid != 0),
        ..plain
    }
}

/// How far a generation got.
pub fn apply(hub: &Hub, generation: u64, now: Instant) -> ApplyStatus {
    let committed = hub.committed_at(generation);
    let mut times = Vec::new();
    let mut unknown = 0;
    let mut hosts = Vec::new();
    let mut laggards = Vec::new();
    for (name, state) in hub.hosts() {
        let acked = state.acked_generation().is_some_and(|acked| acked >= generation);
        let ack_ms = acked.then(|| ack_time(state, generation, committed?).map(millis)).flatten();
        let error = filled(&state.seen.error).filter(|_| !acked);
        hosts.push(HostApplyStatus { host: name.as_str().into(), acked, ack_ms, error });
        match (acked, ack_ms) {
            (true, Some(ms)) => times.push(ms),
            (true, None) => unknown += 1,
            (false, _) => laggards.push(Laggard {
                host: name.as_str().into(),
                last_contact_ms: last_contact_ms(state, now),
                acked_generation: state.acked_generation(),
            }),
        }
    }
    times.sort_unstable();
    let of = hosts.len() - unknown;
    let complete = laggards.is_empty() && hub.generation() >= generation;
    ApplyStatus {
        generation,
        complete,
        p50_ms: percentile(&times, of, 50),
        p99_ms: percentile(&times, of, 99),
        hosts,
        laggards,
    }
}

/// From commit to the first acknowledgement of the generation or a later one, where the controller saw both.
fn ack_time(state: &HostState, generation: u64, committed: Instant) -> Option<Duration> {
    let ack = state.seen.acks.iter().find(|ack| ack.generation >= generation)?;
    ack.at.checked_duration_since(committed)
}

/// The nearest rank of `of` hosts; `None` while that rank has not acknowledged.
fn percentile(sorted: &[u64], of: usize, percent: usize) -> Option<u64> {
    let rank = (of * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// What the agent said of the host's ports; one that it has not spoken of is on its way, or waits
/// for the agent.
fn ports(snapshot: &Snapshot, host: &Name, status: Option<&proto::Status>, connected: bool) -> Vec<PortStatus> {
    let said: BTreeMap<&str, &proto::PortStatus> =
        status.iter().flat_map(|s| &s.ports).map(|port| (port.name.as_str(), port)).collect();
    let declared = snapshot.ports().filter(|port| port.spec.host == *host);
    declared
        .map(|port| {
            let name = format!("{}/{}", port.tenant, port.name);
            let (state, reason) = match said.get(name.as_str()) {
                Some(said) => (port_state(said.state()), said.reason.clone()),
                None if connected => ("dark", "its host is about to report it".to_owned()),
                None => ("waiting", "its host is not connected: see whether its agent runs".to_owned()),
            };
            PortStatus { name, state: state.into(), reason }
        })
        .collect()
}

const fn port_state(state: PortState) -> &'static str {
    match state {
        PortState::Live => "live",
        PortState::Dark => "dark",
        PortState::Failed => "failed",
        PortState::Waiting | PortState::Unspecified => "waiting",
    }
}

fn rungs(status: &proto::Status) -> Vec<RungStatus> {
    let rung = |rung: &proto::Rung| RungStatus {
        rung: rung.name.clone(),
        taken: rung.taken,
        reason: rung.why_not.clone(),
        remote: filled(&rung.remote),
    };
    status.rungs.iter().map(rung).collect()
}

fn last_contact_ms(state: &HostState, now: Instant) -> Option<u64> {
    state.seen.last_contact.map(|at| millis(now.saturating_duration_since(at)))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_api::wire::proto::{Ack, AgentHello, AgentMessage, agent_message};
    use weft_api::wire::{PROTOCOL, Position};

    use super::*;
    use crate::push::{Input, SessionId, Wanted};

    fn names(hosts: &[&str]) -> BTreeMap<Name, Arc<Wanted>> {
        hosts.iter().map(|h| (h.parse().unwrap(), Arc::new(Wanted::default()))).collect()
    }

    fn say(hub: &mut Hub, now: Instant, session: u64, kind: agent_message::Kind) {
        let message = AgentMessage { kind: Some(kind) };
        hub.handle(now, Input::Message { session: SessionId(session), message });
    }

    #[test]
    fn an_apply_names_its_laggards_and_counts_the_time_of_the_others() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut hub = Hub::new("s".into(), "c".into(), "test".into());
        hub.handle(start, Input::Intent { generation: 7, wanted: names(&["h1", "h2", "h3"]) });
        for (session, host) in [(1, "h1"), (2, "h2")] {
            hub.handle(after(1), Input::Connected { session: SessionId(session), host: host.into() });
            let hello = AgentHello { protocol: PROTOCOL, ..Default::default() };
            say(&mut hub, after(1), session, agent_message::Kind::Hello(hello));
        }
        let position = Position { store_id: "s".into(), generation: 7, digest: String::new() };
        let ack = Ack { position: Some(position), error: String::new() };
        say(&mut hub, after(30), 1, agent_message::Kind::Ack(ack.clone()));
        let early = apply(&hub, 7, after(40));
        assert!(!early.complete);
        assert_eq!((early.p50_ms, early.p99_ms), (None, None), "one of three is less than half");
        say(&mut hub, after(50), 2, agent_message::Kind::Ack(ack));
        let late = apply(&hub, 7, after(100));
        assert_eq!((late.p50_ms, late.p99_ms), (Some(50), None));
        let laggard = Laggard { host: "h3".into(), last_contact_ms: None, acked_generation: None };
        assert_eq!(late.laggards, [laggard]);
        assert_eq!(late.hosts[0].ack_ms, Some(30));
        assert!(!apply(&hub, 8, after(100)).complete, "a generation of the future is not complete");
    }

    #[test]
    fn percentiles_are_nearest_ranks_of_all_hosts() {
        let times: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&times, 100, 50), percentile(&times, 100, 99)), (Some(50), Some(99)));
        assert_eq!((percentile(&[5], 1, 50), percentile(&[5], 1, 99)), (Some(5), Some(5)));
        assert_eq!((percentile(&[], 0, 50), percentile(&[5], 3, 99)), (None, None));
    }
}
