//! Judging expectations: what each case should show, what the probes showed, and whether silence proves anything.
//!
//! A case that must arrive holds when the named guest received the nonce. One that must not arrive holds when nobody
//! outside the sender's tenant did, the sender demonstrably could send in the same run, and the frame's end is known:
//! delivered within the tenant, or counted as dropped.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use weft_api::DropReason;

use super::expect::{Case, Protocol};
use super::probe;
use super::topology::{Guest, HostKind, Topology};
use super::wire::{Probe, Sightings};
use crate::output::{Printer, Tone, Toned, count};

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// The case.
    #[serde(flatten)]
    pub case: Case,
    /// Tenant of the sender.
    pub from_tenant: Option<String>,
    /// Tenant of the guest that it was meant for.
    pub to_tenant: Option<String>,
    /// Guests that received it.
    pub seen: Vec<String>,
    /// How that is known, or what is wrong.
    pub how: String,
    /// Whether the expectation is met.
    pub met: bool,
}

/// Drop counters by port (`None` for the underlay's) and reason, summed over the hosts.
pub type Drops = BTreeMap<(Option<String>, String), u64>;

/// What a check needs from the running lab.
pub trait World {
    /// Sends probes.
    fn probe(&mut self, probes: Vec<Probe>) -> Result<Vec<Sightings>>;
    /// Reads all drop counters.
    fn drops(&mut self) -> Result<Drops>;
    /// Fresh randomness.
    fn nonce(&mut self) -> Result<[u8; 16]>;
}

/// Lowest source port of probes, above what the kernel picks by itself.
const SOURCE_PORT_MIN: u16 = 61_000;
/// Destination port where the file names none.
const PORT_DEFAULT: u16 = 7;

/// Asks all cases of a topology.
pub fn check(topology: &Topology, world: &mut dyn World) -> Result<Vec<Outcome>> {
    let cases: Vec<Case> = topology.expectations.iter().flat_map(|e| e.cases(topology)).collect();
    let (reach, silent): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(|c| c.reach);
    let mut controls = reach.clone();
    controls.extend(missing_controls(topology, &reach, &silent));
    let found = ask(world, &controls)?;
    let able: Vec<&str> =
        controls.iter().zip(&found).filter(|(c, f)| arrived(c, f)).map(|(c, _)| c.from.as_str()).collect();
    let mut outcomes: Vec<Outcome> =
        reach.iter().zip(&found).map(|(case, found)| judge_reach(topology, case, found)).collect();
    if !silent.is_empty() {
        let before = world.drops()?;
        let found = ask(world, &silent)?;
        let risen = rise(&before, &world.drops()?);
        outcomes.extend(judge_silence(topology, &silent, &found, &able, &risen));
    }
    Ok(outcomes)
}

/// The outcomes as a table.
pub fn table(outcomes: &[Outcome], printer: &Printer) -> String {
    let rows = outcomes.iter().map(|outcome| {
        let case = &outcome.case;
        let tone = if outcome.met { Tone::Good } else { Tone::Bad };
        let tenant = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".into());
        let tenants = match (tenant(&outcome.from_tenant), tenant(&outcome.to_tenant)) {
            (from, to) if from == to => from,
            (from, to) => format!("{from} / {to}"),
        };
        let seen = if outcome.seen.is_empty() { "nobody".into() } else { outcome.seen.join(", ") };
        [
            Toned(tone, if outcome.met { "ok" } else { "FAILED" }.into()),
            case.from.as_str().into(),
            case.to.as_str().into(),
            tenants.into(),
            asked(case).into(),
            Toned(Tone::Quiet, if case.reach { "reach" } else { "no" }.into()),
            Toned(tone, seen),
            outcome.how.as_str().into(),
        ]
    });
    printer.table(&["", "FROM", "TO", "TENANT", "ASKED", "EXPECTED", "SEEN BY", "HOW"], rows)
}

/// The outcomes in one line.
pub fn summary(outcomes: &[Outcome]) -> String {
    let met = outcomes.iter().filter(|o| o.met).count();
    match outcomes.len() - met {
        0 => format!("all {} met", count(met, "expectation")),
        failed => format!("{} of {} not met", failed, count(outcomes.len(), "expectation")),
    }
}

fn asked(case: &Case) -> String {
    match (case.port, case.address) {
        (None, address) => format!("{} {address}", case.protocol.name()),
        (Some(port), std::net::IpAddr::V6(address)) => format!("{} [{address}]:{port}", case.protocol.name()),
        (Some(port), address) => format!("{} {address}:{port}", case.protocol.name()),
    }
}

/// Silence of a sender proves something only if it is heard elsewhere: a case of its own for each that has none.
fn missing_controls(topology: &Topology, reach: &[Case], silent: &[Case]) -> Vec<Case> {
    let mut controls: Vec<Case> = Vec::new();
    for case in silent {
        if reach.iter().chain(&controls).any(|c| c.from == case.from) {
            continue;
        }
        let Some(source) = topology.guest(&case.from) else { continue };
        let tenant = topology.tenant_of(source);
        let family = |g: &Guest| {
            let own: Vec<bool> = source.ports.iter().flat_map(|p| &p.addresses).map(|a| a.addr.is_ipv4()).collect();
            g.ports.iter().flat_map(|p| &p.addresses).map(|a| a.addr).find(|a| own.contains(&a.is_ipv4()))
        };
        let mates = topology.guests.iter().filter(|g| g.name != case.from && topology.tenant_of(g) == tenant);
        let control = mates.filter_map(|g| Some((g.name.clone(), family(g)?))).next();
        controls.extend(control.map(|(to, address)| Case {
            to,
            address,
            protocol: Protocol::Icmp,
            port: None,
            reach: true,
            drop: None,
            ..case.clone()
        }));
    }
    controls
}

fn ask(world: &mut dyn World, cases: &[Case]) -> Result<Vec<Sightings>> {
    let mut found = Vec::new();
    for batch in cases.chunks(probe::PROBES_MAX) {
        let mut probes = Vec::new();
        for (index, case) in batch.iter().enumerate() {
            probes.push(Probe {
                from: case.from.clone(),
                to: case.to.clone(),
                protocol: case.protocol,
                address: case.address,
                port: case.port.unwrap_or(PORT_DEFAULT),
                source_port: SOURCE_PORT_MIN + u16::try_from(index)?,
                nonce: world.nonce()?,
                forged: !case.reach,
            });
        }
        found.extend(world.probe(probes)?);
    }
    Ok(found)
}

fn arrived(case: &Case, found: &Sightings) -> bool {
    found.seen.iter().any(|(guest, _)| *guest == case.to)
}

fn outcome(topology: &Topology, case: &Case, found: &Sightings, verdict: Result<String, String>) -> Outcome {
    let tenant = |name: &str| topology.guest(name).and_then(|g| topology.tenant_of(g)).map(str::to_owned);
    let met = verdict.is_ok();
    Outcome {
        case: case.clone(),
        from_tenant: tenant(&case.from),
        to_tenant: tenant(&case.to),
        seen: found.seen.iter().map(|(guest, _)| guest.clone()).collect(),
        how: verdict.unwrap_or_else(|why| why),
        met,
    }
}

fn judge_reach(topology: &Topology, case: &Case, found: &Sightings) -> Outcome {
    let at = found.seen.iter().find(|(guest, _)| *guest == case.to).map(|(_, micros)| *micros);
    let strangers = foreign(topology, case, found);
    let verdict = match (at, found.answered, &found.error) {
        _ if !strangers.is_empty() => Err(format!("leaked to {}", strangers.join(", "))),
        (Some(_), Some(answered), _) if case.protocol != Protocol::Udp => {
            Ok(format!("answered after {}", millis(answered)))
        }
        (Some(at), _, None) => Ok(format!("arrived after {}", millis(at))),
        (Some(_), _, Some(error)) => Ok(format!("arrived, but {error}")),
        (None, _, Some(error)) => Err(error.clone()),
        (None, _, None) => Err(format!("sent, but {} never received it: see `weft drops`", case.to)),
    };
    outcome(topology, case, found, verdict)
}

fn judge_silence(
    topology: &Topology,
    cases: &[Case],
    found: &[Sightings],
    able: &[&str],
    risen: &Drops,
) -> Vec<Outcome> {
    let copies = probe::COPIES_AT_MS.len() as u64;
    let pairs = || cases.iter().zip(found);
    let judge = |(case, found): (&Case, &Sightings)| {
        let strangers = foreign(topology, case, found);
        // Frames of this sender whose end must be a drop, as there was no other.
        let vanished =
            |c: &Case| pairs().filter(|(o, f)| o.from == c.from && f.seen.is_empty()).count() as u64 * copies;
        let demanded = |c: &Case| pairs().filter(|(o, _)| o.from == c.from && o.drop == c.drop).count() as u64 * copies;
        let verdict = match (&found.error, case.drop) {
            (Some(error), _) => Err(error.clone()),
            _ if arrived(case, found) => Err(format!("arrived at {}", case.to)),
            _ if !strangers.is_empty() => Err(format!("leaked to {}", strangers.join(", "))),
            _ if !able.contains(&case.from.as_str()) => {
                Err("proves nothing: what the same sender may reach did not arrive either".into())
            }
            (None, Some(reason)) => dropped(topology, case, risen, Some(reason), demanded(case)),
            (None, None) if !found.seen.is_empty() => Ok("stayed within the tenant".into()),
            (None, None) => dropped(topology, case, risen, None, vanished(case)),
        };
        outcome(topology, case, found, verdict)
    };
    pairs().map(judge).collect()
}

/// Whether enough frames of the sender were counted as dropped.
fn dropped(
    topology: &Topology,
    case: &Case,
    risen: &Drops,
    reason: Option<DropReason>,
    needed: u64,
) -> Result<String, String> {
    let port = port_of(topology, &case.from);
    let counts = risen.iter().filter(|((at, name), _)| {
        let sender = port.is_none() || at.is_none() || *at == port;
        sender && reason.is_none_or(|r| r.name() == name)
    });
    let (names, frames) = counts.fold((Vec::new(), 0), |(mut names, sum), ((_, name), frames)| {
        if !names.contains(&name.as_str()) {
            names.push(name.as_str());
        }
        (names, sum + frames)
    });
    match reason {
        _ if frames >= needed => Ok(format!("dropped: {}", names.join(", "))),
        Some(reason) => Err(format!("{} rose by {frames}, not by the {needed} frames sent", reason.name())),
        None => Err(format!("proves nothing: {needed} frames vanished, {frames} were counted as dropped")),
    }
}

/// Who saw it and is of another tenant than the sender.
fn foreign(topology: &Topology, case: &Case, found: &Sightings) -> Vec<String> {
    let tenant = |name: &str| topology.guest(name).and_then(|g| topology.tenant_of(g));
    let own = tenant(&case.from);
    found.seen.iter().map(|(guest, _)| guest).filter(|g| tenant(g) != own).cloned().collect()
}

/// The Port object of a guest, as `red/a`; none behind a kernel VTEP.
fn port_of(topology: &Topology, guest: &str) -> Option<String> {
    let guest = topology.guest(guest)?;
    if topology.host(&guest.host)?.kind == HostKind::Vtep {
        return None;
    }
    let document = topology.manifests.iter().find(|m| {
        let attach = &m["spec"]["attach"];
        let veth = attach["netdev"]["name"].as_str();
        let netdev = veth.is_some() && guest.ports.iter().any(|p| p.veth.as_deref() == veth);
        let here = m["spec"]["host"].as_str() == Some(&guest.host);
        m["kind"] == "Port" && here && (attach["tap"]["netns"].as_str() == Some(&guest.name) || netdev)
    })?;
    Some(format!("{}/{}", document["tenant"].as_str()?, document["name"].as_str()?))
}

fn rise(before: &Drops, after: &Drops) -> Drops {
    let risen = |(key, count): (&(Option<String>, String), &u64)| {
        let rise = count.saturating_sub(before.get(key).copied().unwrap_or_default());
        (rise > 0).then(|| (key.clone(), rise))
    };
    after.iter().filter_map(risen).collect()
}

fn millis(micros: u64) -> String {
    format!("{:.1} ms", micros as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
name: t
hosts: [{name: h1, addresses: [192.0.2.1/24]}]
guests:
  - {name: red-a, host: h1, ports: [{addresses: [10.9.0.1/24]}]}
  - {name: red-b, host: h1, ports: [{addresses: [10.9.0.2/24]}]}
  - {name: green-b, host: h1, ports: [{addresses: [10.9.0.2/24]}]}
manifests:
  - {kind: Port, tenant: red, name: a, spec: {host: h1, attach: {tap: {netns: red-a, ifname: eth0}}}}
  - {kind: Port, tenant: red, name: b, spec: {host: h1, attach: {tap: {netns: red-b, ifname: eth0}}}}
  - {kind: Port, tenant: green, name: b, spec: {host: h1, attach: {tap: {netns: green-b, ifname: eth0}}}}
expectations:
  - reach: {from: red-a, to: red-b}
  - not-reach: {from: red-a, to: green-b}
";

    /// A world in which each probe is seen by whom the test says.
    struct Fake {
        reach_seen: Vec<&'static str>,
        silent_seen: Vec<&'static str>,
        drops_per_read: u64,
        drops: u64,
    }

    impl World for Fake {
        fn probe(&mut self, probes: Vec<Probe>) -> Result<Vec<Sightings>> {
            let see = |probe: Probe| {
                let names = if probe.forged { &self.silent_seen } else { &self.reach_seen };
                Sightings { seen: names.iter().map(|n| ((*n).to_owned(), 100)).collect(), ..Sightings::default() }
            };
            Ok(probes.into_iter().map(see).collect())
        }

        fn drops(&mut self) -> Result<Drops> {
            self.drops += self.drops_per_read;
            Ok([((Some("red/a".into()), "Hairpin".into()), self.drops)].into())
        }

        fn nonce(&mut self) -> Result<[u8; 16]> {
            Ok([7; 16])
        }
    }

    fn verdicts(reach_seen: &[&'static str], silent_seen: &[&'static str], drops_per_read: u64) -> Vec<bool> {
        let mut fake =
            Fake { reach_seen: reach_seen.to_vec(), silent_seen: silent_seen.to_vec(), drops_per_read, drops: 0 };
        let topology = Topology::parse(FILE).unwrap();
        check(&topology, &mut fake).unwrap().iter().map(|o| o.met).collect()
    }

    #[test]
    fn delivery_within_the_tenant_proves_that_nothing_left_it() {
        assert_eq!(verdicts(&["red-b"], &["red-b"], 0), [true, true]);
    }

    #[test]
    fn silence_holds_only_if_the_frames_were_counted_as_dropped() {
        assert_eq!(verdicts(&["red-b"], &[], 3), [true, true]);
        assert_eq!(verdicts(&["red-b"], &[], 2), [true, false]);
        assert_eq!(verdicts(&["red-b"], &[], 0), [true, false]);
    }

    #[test]
    fn silence_of_a_sender_that_cannot_send_proves_nothing() {
        assert_eq!(verdicts(&[], &[], 3), [false, false]);
    }

    #[test]
    fn a_leak_fails_whatever_was_expected() {
        assert_eq!(verdicts(&["red-b", "green-b"], &["red-b", "green-b"], 3), [false, false]);
    }

    #[test]
    fn a_control_is_added_where_the_file_has_none() {
        let topology = Topology::parse(FILE).unwrap();
        let silent: Vec<Case> = topology.expectations[1].cases(&topology);
        let controls = missing_controls(&topology, &[], &silent);
        assert_eq!((controls[0].from.as_str(), controls[0].to.as_str()), ("red-a", "red-b"));
    }
}
