//! End-to-end probes: whether one UDP_SEGMENT send to a remote arrives as the packets that were sent.
//!
//! A probe is a row of equally long packets and a shorter last one, in a VNI of its own ([`weft_packet::Vni::PROBE`]). Whoever
//! receives all of them intact says so at once; otherwise the prober asks what arrived, so the receiver needs no timer.
//! Questions and answers are plain packets: silence means that the remote is away, not that segments are lost. The
//! hash finds what a path breaks, not a forger; the nonce keeps those who cannot see the probe from answering it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_packet::DropReason;
use weft_packet::vxlan::HEADER_LEN;

use crate::admission::{RemoteId, RemoteKind};
use crate::mtu::AnswerLimiter;
use crate::plan::SEND_LEN_MAX;
use crate::probe_packet::{Kind, LEN_MIN, Probe};

/// The probes of one host: to its remotes, and its answers to theirs.
#[derive(Debug)]
pub struct Prober {
    /// Whether segments may be sent at all; answers are given in any case.
    probing: bool,
    random: u64,
    peers: BTreeMap<RemoteId, Peer>,
    flights: usize,
    version: u64,
}

/// Packets to send to a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// To whom.
    pub remote: RemoteId,
    /// The inner frames, in order.
    pub frames: Vec<Vec<u8>>,
    /// All in one UDP_SEGMENT send, or not at all.
    pub segmented: bool,
}

/// What is known of the way to a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The remote.
    pub remote: RemoteId,
    /// Whether UDP_SEGMENT may be used towards it.
    pub segment: bool,
    /// Why not; empty when it may.
    pub reason: String,
}

#[derive(Debug)]
struct Peer {
    addr: IpAddr,
    kind: RemoteKind,
    segment: bool,
    reason: String,
    /// Tries that failed in a row.
    tries: u32,
    flight: Option<Flight>,
    /// When to do something again.
    next: Instant,
    /// Nothing at all came back the last time.
    silent: bool,
    /// A probe of its own shows that a silent peer is back: not before this is it believed again.
    trust_at: Instant,
    reception: Reception,
    answers: AnswerLimiter,
}

/// A probe that is under way.
#[derive(Debug)]
struct Flight {
    nonce: u64,
    count: u8,
    sent: Instant,
    asked: bool,
    answered: bool,
    intact: u64,
}

/// What arrived of a peer's last probe.
#[derive(Debug, Default)]
struct Reception {
    nonce: u64,
    intact: u64,
}

impl Prober {
    /// `probing`: whether segments may be sent at all. The nonces follow from the seed.
    pub const fn new(probing: bool, seed: u64) -> Self {
        Self { probing, random: seed, peers: BTreeMap::new(), flights: 0, version: 0 }
    }

    /// Starts the nonces anew.
    pub const fn seed(&mut self, seed: u64) {
        self.random = seed;
    }

    /// Declares the remotes in place of those before; a new one, or one with another address, is probed at once.
    pub fn set_remotes(&mut self, remotes: impl IntoIterator<Item = (RemoteId, RemoteKind, IpAddr)>, now: Instant) {
        let mut former = std::mem::take(&mut self.peers);
        for (id, kind, addr) in remotes {
            let known = former.remove(&id).filter(|peer| (peer.kind, peer.addr) == (kind, addr));
            self.peers.insert(id, known.unwrap_or_else(|| Peer::new(kind, addr, self.probing, now)));
        }
        self.flights = self.peers.values().filter(|peer| peer.flight.is_some()).count();
        self.version += 1;
    }

    /// Does what is due. `segments`: whether the sockets take UDP_SEGMENT now; `mtu` is the largest inner IP packet.
    pub fn handle(&mut self, now: Instant, segments: bool, mtu: u16, out: &mut Vec<Send>) {
        let Self { probing: true, random, peers, flights, version } = self else { return };
        for (&remote, peer) in peers.iter_mut().filter(|(_, peer)| peer.is_probed() && peer.next <= now) {
            match &mut peer.flight {
                None if !segments => peer.next = now + REPROBE_EVERY,
                None if *flights >= FLIGHTS_MAX => {}
                None => {
                    let (nonce, frames) = (draw(random), count_of(mtu));
                    peer.start(nonce, frames, now);
                    *flights += 1;
                    out.push(Send { remote, frames: segments_of(nonce, frames, mtu), segmented: true });
                }
                Some(flight) if !flight.asked => {
                    flight.asked = true;
                    peer.next = flight.sent + GIVE_UP_AFTER;
                    let question = Probe { kind: Kind::Question, nonce: flight.nonce, ..Probe::EMPTY };
                    out.push(Send { remote, frames: vec![question.emit(LEN_MIN)], segmented: false });
                }
                Some(_) => {
                    *flights -= 1;
                    *version += u64::from(peer.fail(now, draw(random)));
                }
            }
        }
    }

    /// One frame of the probe VNI. An error is why it is dropped.
    pub fn receive(
        &mut self,
        remote: RemoteId,
        frame: &[u8],
        now: Instant,
        out: &mut Vec<Send>,
    ) -> Result<(), DropReason> {
        let probe = Probe::parse(frame).map_err(|_| DropReason::ProbeRefused)?;
        let Some(peer) = self.peers.get_mut(&remote).filter(|peer| peer.kind == RemoteKind::Weft) else {
            return Err(DropReason::ProbeRefused);
        };
        match probe.kind {
            Kind::Answer => {
                if peer.take_answer(&probe) {
                    self.flights -= 1;
                    self.version += u64::from(!peer.segment);
                    peer.succeed(now, draw(&mut self.random));
                }
                return Ok(());
            }
            Kind::Segment => {
                peer.hear(now);
                if !peer.reception.take(&probe) {
                    return Ok(());
                }
            }
            Kind::Question => peer.hear(now),
        }
        if !peer.answers.allow(now) {
            return Err(DropReason::ReplyLimited);
        }
        let Reception { nonce, intact } = peer.reception;
        let intact = if nonce == probe.nonce { intact } else { 0 };
        let answer = Probe { kind: Kind::Answer, nonce: probe.nonce, intact, ..Probe::EMPTY };
        out.push(Send { remote, frames: vec![answer.emit(LEN_MIN)], segmented: false });
        Ok(())
    }

    /// When [`Self::handle`] is due again.
    pub fn next_wake(&self) -> Option<Instant> {
        let full = self.flights >= FLIGHTS_MAX;
        let waiting = self.peers.values().filter(|peer| peer.is_probed() && (peer.flight.is_some() || !full));
        waiting.map(|peer| peer.next).min().filter(|_| self.probing)
    }

    /// Changes whenever a remote's rung may have.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The remotes towards which UDP_SEGMENT may be used.
    pub fn segment_remotes(&self) -> impl Iterator<Item = RemoteId> + '_ {
        self.peers.iter().filter(|(_, peer)| peer.segment).map(|(id, _)| *id)
    }

    /// What is known of every remote.
    pub fn reports(&self) -> impl Iterator<Item = Report> + '_ {
        let report = |(id, peer): (&RemoteId, &Peer)| (*id, peer.segment, peer.reason.clone());
        self.peers.iter().map(report).map(|(remote, segment, reason)| Report { remote, segment, reason })
    }
}

impl Peer {
    fn new(kind: RemoteKind, addr: IpAddr, probing: bool, now: Instant) -> Self {
        let reason = match kind {
            RemoteKind::Legacy => "legacy VTEP: no probe possible",
            RemoteKind::Weft if !probing => "not probed: the host is kept to a lower rung",
            RemoteKind::Weft => "no probe has come back yet",
        };
        Self {
            addr,
            kind,
            segment: false,
            reason: reason.to_owned(),
            tries: 0,
            flight: None,
            next: now,
            silent: false,
            trust_at: now,
            reception: Reception::default(),
            answers: AnswerLimiter::new(ANSWERS_AT_ONCE, ANSWER_INTERVAL, now),
        }
    }

    fn is_probed(&self) -> bool {
        self.kind == RemoteKind::Weft
    }

    fn start(&mut self, nonce: u64, count: u8, now: Instant) {
        self.flight = Some(Flight { nonce, count, sent: now, asked: false, answered: false, intact: 0 });
        self.next = now + ASK_AFTER;
    }

    /// Whether the answer says that all arrived.
    fn take_answer(&mut self, answer: &Probe) -> bool {
        let Some(flight) = self.flight.as_mut().filter(|flight| flight.nonce == answer.nonce) else { return false };
        flight.answered = true;
        flight.intact |= answer.intact & all(flight.count);
        flight.intact == all(flight.count)
    }

    fn succeed(&mut self, now: Instant, random: u64) {
        (self.flight, self.tries, self.segment, self.silent) = (None, 0, true, false);
        self.reason.clear();
        self.next = now + reprobe_after(random);
    }

    /// The try failed; whether the rung changed with it.
    fn fail(&mut self, now: Instant, random: u64) -> bool {
        let Some(flight) = self.flight.take() else { return false };
        self.tries += 1;
        if self.tries < TRIES {
            self.next = now + RETRY_AFTER;
            return false;
        }
        self.tries = 0;
        self.next = now + reprobe_after(random);
        self.silent = !flight.answered;
        self.reason = match flight.answered {
            true => format!("{} of {} segments arrived intact", flight.intact.count_ones(), flight.count),
            false => format!("no answer to {TRIES} probes"),
        };
        std::mem::take(&mut self.segment)
    }

    /// It sends probes: if it was silent, it is there again.
    fn hear(&mut self, now: Instant) {
        if self.silent && self.flight.is_none() && self.trust_at <= now {
            self.trust_at = now + TRUST_EVERY;
            self.next = now;
        }
    }
}

impl Reception {
    /// Whether all packets of the probe are here now.
    fn take(&mut self, probe: &Probe) -> bool {
        if self.nonce != probe.nonce {
            *self = Self { nonce: probe.nonce, intact: 0 };
        }
        self.intact |= 1 << probe.index;
        self.intact == all(probe.count)
    }
}

/// The packets of a probe: as long as the MTU allows, the last one shorter.
fn segments_of(nonce: u64, count: u8, mtu: u16) -> Vec<Vec<u8>> {
    let len = frame_len(mtu);
    let packet = |index| {
        let last = index + 1 == count;
        let probe = Probe { kind: Kind::Segment, index, count, nonce, intact: 0 };
        probe.emit(if last { LEN_MIN + (len - LEN_MIN) / 2 } else { len })
    };
    (0..count).map(packet).collect()
}

fn frame_len(mtu: u16) -> usize {
    (usize::from(mtu) + 14).clamp(LEN_MIN, FRAME_LEN_MAX)
}

fn count_of(mtu: u16) -> u8 {
    (SEND_LEN_MAX / (frame_len(mtu) + HEADER_LEN)).min(PACKETS) as u8
}

const fn all(count: u8) -> u64 {
    u64::MAX >> (64 - count as u32)
}

fn reprobe_after(random: u64) -> Duration {
    REPROBE_EVERY + Duration::from_millis(random % 1000)
}

/// splitmix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Packets of a probe, the short one included.
const PACKETS: usize = 9;
/// The longest packet of a probe, so that a few of them fit into one send whatever the MTU.
const FRAME_LEN_MAX: usize = 16_000;
/// Probes under way at a time; further ones wait.
const FLIGHTS_MAX: usize = 64;
/// Failed tries in a row that make a rung fall.
const TRIES: u32 = 3;
const ASK_AFTER: Duration = Duration::from_millis(100);
const GIVE_UP_AFTER: Duration = Duration::from_millis(300);
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Plus up to a second of jitter.
const REPROBE_EVERY: Duration = Duration::from_secs(10);
/// How often a silent remote's own probes may start one of ours.
const TRUST_EVERY: Duration = Duration::from_secs(1);
/// Answers that a remote gets at once.
const ANSWERS_AT_ONCE: u32 = 10;
/// Time for one more: 50 per second.
const ANSWER_INTERVAL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    const MTU: u16 = 1500;

    /// Two hosts, one remote each, and the path between them.
    struct World {
        hosts: [Prober; 2],
        start: Instant,
        now: Instant,
        segmented: u64,
    }

    /// What the path does to one frame of a segmented send; `None` loses it.
    type Path = fn(usize, Vec<u8>) -> Option<Vec<u8>>;

    fn clean(_: usize, frame: Vec<u8>) -> Option<Vec<u8>> {
        Some(frame)
    }

    fn corrupts_the_last(index: usize, mut frame: Vec<u8>) -> Option<Vec<u8>> {
        if index == 8 {
            frame[60] ^= 1;
        }
        Some(frame)
    }

    fn loses_two(index: usize, frame: Vec<u8>) -> Option<Vec<u8>> {
        (index != 3 && index != 5).then_some(frame)
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            let host = |seed| {
                let mut prober = Prober::new(true, seed);
                prober.set_remotes([(1, RemoteKind::Weft, [192, 0, 2, 1].into())], now);
                prober
            };
            Self { hosts: [host(1), host(2)], start: now, now, segmented: 0 }
        }

        /// Runs for so long, in steps of 10 ms; `away` of the two is not there.
        fn run(&mut self, time: Duration, path: Path, away: Option<usize>) {
            let end = self.now + time;
            while self.now < end {
                self.now += Duration::from_millis(10);
                for host in (0..2).filter(|host| Some(*host) != away) {
                    let mut out = Vec::new();
                    self.hosts[host].handle(self.now, true, MTU, &mut out);
                    self.deliver(host, out, path, away);
                    assert!(self.hosts[host].next_wake().is_some_and(|at| at > self.now), "no busy waiting");
                }
            }
        }

        fn deliver(&mut self, from: usize, out: Vec<Send>, path: Path, away: Option<usize>) {
            for send in out {
                self.segmented += u64::from(send.segmented);
                for (index, frame) in send.frames.into_iter().enumerate() {
                    let arrives = if send.segmented { path(index, frame) } else { Some(frame) };
                    let Some(frame) = arrives.filter(|_| away != Some(1 - from)) else { continue };
                    let mut answers = Vec::new();
                    let _ = self.hosts[1 - from].receive(1, &frame, self.now, &mut answers);
                    self.deliver(1 - from, answers, path, away);
                }
            }
        }

        fn report(&self, host: usize) -> (bool, String) {
            self.hosts[host].reports().map(|report| (report.segment, report.reason)).next().unwrap()
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_clean_path_takes_the_rung_at_once_and_is_probed_again_every_ten_seconds() {
        let mut world = World::new();
        assert_eq!(world.report(0), (false, "no probe has come back yet".to_owned()));
        world.run(ms(10), clean, None);
        assert_eq!((world.report(0), world.report(1)), ((true, String::new()), (true, String::new())));
        world.run(ms(9_900), clean, None);
        assert_eq!(world.segmented, 2);
        world.run(ms(90_000), clean, None);
        assert!((18..=20).contains(&world.segmented), "{}", world.segmented);
    }

    #[test]
    fn a_path_that_goes_bad_falls_within_three_seconds_of_its_next_probe_and_heals() {
        for (path, why) in [(corrupts_the_last as Path, "8 of 9"), (loses_two, "7 of 9")] {
            let mut world = World::new();
            world.run(ms(1000), clean, None);
            world.run(ms(13_000), path, None);
            assert_eq!(world.report(0), (false, format!("{why} segments arrived intact")));
            world.run(ms(11_000), clean, None);
            assert_eq!(world.report(0), (true, String::new()));
        }
    }

    #[test]
    fn a_bad_path_never_takes_the_rung_and_one_lost_probe_does_not_cost_it() {
        let mut world = World::new();
        world.run(ms(60_000), corrupts_the_last, None);
        assert_eq!(world.report(0), (false, "8 of 9 segments arrived intact".to_owned()));
        let mut world = World::new();
        world.run(ms(10), clean, None);
        let version = world.hosts[0].version();
        while world.hosts[0].peers[&1].tries == 0 {
            world.run(ms(10), loses_two, None);
        }
        world.run(ms(1000), clean, None);
        assert_eq!((world.report(0).0, world.hosts[0].version()), (true, version));
    }

    #[test]
    fn a_remote_that_comes_late_is_probed_when_it_shows_itself() {
        let mut world = World::new();
        world.run(ms(2000), clean, Some(1));
        assert_eq!(world.report(0), (false, "no answer to 3 probes".to_owned()));
        world.run(ms(500), clean, None);
        assert_eq!((world.report(0).0, world.report(1).0), (true, true));
        assert!(world.now < world.start + ms(2600));
    }

    #[test]
    fn legacy_remotes_and_forced_hosts_are_not_probed_but_probes_are_answered() {
        let now = Instant::now();
        let mut out = Vec::new();
        let mut prober = Prober::new(false, 1);
        let addr = [192, 0, 2, 1].into();
        prober.set_remotes([(1, RemoteKind::Weft, addr), (2, RemoteKind::Legacy, addr)], now);
        prober.handle(now, true, MTU, &mut out);
        assert!(out.is_empty() && prober.next_wake().is_none());
        for frame in segments_of(7, 9, MTU) {
            assert_eq!(prober.receive(2, &frame, now, &mut out), Err(DropReason::ProbeRefused));
            prober.receive(1, &frame, now, &mut out).unwrap();
        }
        assert_eq!(out.len(), 1);
        assert_eq!(Probe::parse(&out[0].frames[0]).unwrap().intact, all(9));
        let mut prober = Prober::new(true, 1);
        prober.set_remotes([(2, RemoteKind::Legacy, addr)], now);
        prober.handle(now, true, MTU, &mut out);
        assert_eq!((out.len(), prober.next_wake()), (1, None));
        assert_eq!(prober.reports().next().unwrap().reason, "legacy VTEP: no probe possible");
    }

    #[test]
    fn answers_are_limited_and_a_wrong_nonce_proves_nothing() {
        let mut world = World::new();
        let mut out = Vec::new();
        let question = Probe { kind: Kind::Question, nonce: 3, ..Probe::EMPTY }.emit(LEN_MIN);
        for _ in 0..1000 {
            let _ = world.hosts[0].receive(1, &question, world.now, &mut out);
        }
        assert_eq!(out.len(), ANSWERS_AT_ONCE as usize);
        out.clear();
        world.hosts[0].handle(world.now, true, MTU, &mut out);
        let answer = Probe { kind: Kind::Answer, nonce: 3, intact: u64::MAX, ..Probe::EMPTY }.emit(LEN_MIN);
        world.hosts[0].receive(1, &answer, world.now, &mut out).unwrap();
        assert!(!world.report(0).0);
    }

    #[test]
    fn probes_under_way_are_bounded_and_nothing_is_forgotten() {
        let start = Instant::now();
        let mut prober = Prober::new(true, 1);
        prober.set_remotes((0..200).map(|id| (id, RemoteKind::Weft, [192, 0, 2, 1].into())), start);
        let (mut out, mut now) = (Vec::new(), start);
        let mut probed = std::collections::BTreeSet::new();
        while let Some(at) = prober.next_wake().filter(|at| *at < start + ms(9_000)) {
            now = now.max(at);
            prober.handle(now, true, MTU, &mut out);
            assert!(prober.flights <= FLIGHTS_MAX);
            probed.extend(out.drain(..).filter(|send| send.segmented).map(|send| send.remote));
        }
        assert_eq!(probed.len(), 200);
    }

    #[test]
    fn a_probe_fits_one_send_at_every_mtu() {
        for mtu in [0, 576, 1450, 8_950, 16_000, 65_485] {
            let frames = segments_of(1, count_of(mtu), mtu);
            let bytes: usize = frames.iter().map(|frame| frame.len() + HEADER_LEN).sum();
            assert!(frames.len() >= 3 && bytes <= SEND_LEN_MAX, "{mtu}: {} frames, {bytes} bytes", frames.len());
            assert!(frames.windows(2).all(|pair| pair[1].len() <= pair[0].len()));
        }
    }
}
