//! End-to-end probes: whether one large send to a remote arrives as the packets that were sent, grade by grade.
//!
//! A probe is a row of equally long packets and a shorter last one, in a VNI of its own ([`weft_packet::Vni::PROBE`]). Whoever
//! receives all of them intact says so at once; otherwise the prober asks what arrived, so the receiver needs no timer.
//! Questions and answers are plain packets: silence means that the remote is away, not that segments are lost. The
//! hash finds what a path breaks, not a forger; the nonce keeps those who cannot see the probe from answering it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_packet::vxlan::HEADER_LEN;
use weft_packet::{DropReason, Offload};

use crate::admission::{RemoteId, RemoteKind};
use crate::mtu::AnswerLimiter;
use crate::plan::SEND_LEN_MAX;
pub use crate::probe_packet::Grade;
use crate::probe_packet::{Kind, LEN_MIN, Probe, TCP_HEADERS_LEN, packets, super_frame};
use crate::probe_state::{State, all};

/// The probes of one host: to its remotes, and its answers to theirs.
#[derive(Debug)]
pub struct Prober {
    /// The best grade that may be used at all; answers are given in any case.
    best: Option<Grade>,
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
    /// The inner frames, in order; of a [`Grade::Tunnel`] probe, the one super-frame.
    pub frames: Vec<Vec<u8>>,
    /// How they must leave, or not at all; plain packets where absent.
    pub grade: Option<Grade>,
    /// The offload state of each frame.
    pub offload: Offload,
}

/// What is known of the way to a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The remote.
    pub remote: RemoteId,
    /// The best grade that may be used towards it.
    pub grade: Option<Grade>,
    /// Why each better one may not; empty when the best may.
    pub reason: String,
}

#[derive(Debug)]
struct Peer {
    addr: IpAddr,
    kind: RemoteKind,
    /// By [`Grade`].
    states: [State; 2],
    receptions: [Reception; 2],
    answers: AnswerLimiter,
}

/// What arrived of a peer's last probe.
#[derive(Debug, Default)]
struct Reception {
    nonce: u64,
    intact: u64,
}

impl Prober {
    /// `best`: the best grade that may be used at all. The nonces follow from the seed.
    pub const fn new(best: Option<Grade>, seed: u64) -> Self {
        Self { best, random: seed, peers: BTreeMap::new(), flights: 0, version: 0 }
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
            self.peers.insert(id, known.unwrap_or_else(|| Peer::new(kind, addr, now)));
        }
        self.flights = self.peers.values().flat_map(|peer| &peer.states).filter(|state| state.is_flying()).count();
        self.version += 1;
    }

    /// Probes everything anew: the way to the remotes may be another one.
    pub fn probe_all(&mut self, now: Instant) {
        self.peers.values_mut().flat_map(|peer| &mut peer.states).for_each(|state| state.hurry(now));
    }

    /// Does what is due. `able`: the best grade that the sockets and devices take now; `mtu` is the largest inner IP packet.
    pub fn handle(&mut self, now: Instant, able: Option<Grade>, mtu: u16, out: &mut Vec<Send>) {
        let Self { best, random, peers, flights, version } = self;
        for (&remote, peer) in peers.iter_mut().filter(|(_, peer)| peer.is_probed()) {
            for grade in Grade::ALL.into_iter().filter(|grade| Some(*grade) <= *best) {
                let state = &mut peer.states[grade as usize];
                if state.next > now {
                    continue;
                }
                if !state.is_flying() {
                    if Some(grade) > able {
                        state.wait(now);
                    } else if *flights < FLIGHTS_MAX {
                        let (nonce, len, count) = (draw(random), packet_len(grade, mtu), count_of(grade, mtu));
                        state.start(nonce, count, now);
                        *flights += 1;
                        out.push(probe_of(grade, remote, nonce, count, len));
                    }
                } else if let Some(nonce) = state.ask() {
                    let question = Probe { kind: Kind::Question, grade, nonce, ..Probe::EMPTY };
                    out.push(plain(remote, question));
                } else {
                    *flights -= 1;
                    *version += u64::from(state.fail(now, draw(random)));
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
        let (mut result, before) = (Err(DropReason::ProbeRefused), out.len());
        for probe in packets(frame) {
            result = match probe {
                Ok(probe) => self.receive_one(remote, probe, now, out),
                Err(_) => Err(DropReason::ProbeRefused),
            };
            // One answer per frame, whatever else a sender put into it.
            if result.is_err() || out.len() > before {
                break;
            }
        }
        result
    }

    fn receive_one(
        &mut self,
        remote: RemoteId,
        probe: Probe,
        now: Instant,
        out: &mut Vec<Send>,
    ) -> Result<(), DropReason> {
        let Some(peer) = self.peers.get_mut(&remote).filter(|peer| peer.kind == RemoteKind::Weft) else {
            return Err(DropReason::ProbeRefused);
        };
        let (grade, nonce) = (probe.grade, probe.nonce);
        if probe.kind == Kind::Answer {
            let state = &mut peer.states[grade as usize];
            if state.take_answer(nonce, probe.intact) {
                self.flights -= 1;
                self.version += u64::from(!state.taken);
                state.succeed(now, draw(&mut self.random));
            }
            return Ok(());
        }
        peer.states.iter_mut().for_each(|state| state.hear(now));
        let reception = &mut peer.receptions[grade as usize];
        if probe.kind == Kind::Segment && !reception.take(&probe) {
            return Ok(());
        }
        let intact = if reception.nonce == nonce { reception.intact } else { 0 };
        if !peer.answers.allow(now) {
            return Err(DropReason::ReplyLimited);
        }
        out.push(plain(remote, Probe { kind: Kind::Answer, grade, nonce, intact, ..Probe::EMPTY }));
        Ok(())
    }

    /// When [`Self::handle`] is due again.
    pub fn next_wake(&self) -> Option<Instant> {
        let full = self.flights >= FLIGHTS_MAX;
        let best = self.best;
        let states = self.peers.values().filter(|peer| peer.is_probed()).flat_map(|peer| peer.states.iter());
        let probed = states.zip(Grade::ALL.into_iter().cycle()).filter(|(_, grade)| Some(*grade) <= best);
        probed.map(|(state, _)| state).filter(|state| state.is_flying() || !full).map(|state| state.next).min()
    }

    /// Changes whenever a remote's rung may have.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The best grade that may be used towards each remote, where there is one.
    pub fn grades(&self) -> impl Iterator<Item = (RemoteId, Grade)> + '_ {
        self.peers.iter().filter_map(|(id, peer)| Some((*id, peer.grade()?)))
    }

    /// What is known of every remote.
    pub fn reports(&self) -> impl Iterator<Item = Report> + '_ {
        self.peers.iter().map(|(id, peer)| {
            let grade = peer.grade();
            Report { remote: *id, grade, reason: peer.reason(grade, self.best) }
        })
    }
}

impl Peer {
    fn new(kind: RemoteKind, addr: IpAddr, now: Instant) -> Self {
        let answers = AnswerLimiter::new(ANSWERS_AT_ONCE, ANSWER_INTERVAL, now);
        let states = [State::new(now), State::new(now)];
        Self { addr, kind, states, receptions: Default::default(), answers }
    }

    fn is_probed(&self) -> bool {
        self.kind == RemoteKind::Weft
    }

    fn grade(&self) -> Option<Grade> {
        Grade::ALL.into_iter().rev().find(|grade| self.states[*grade as usize].taken)
    }

    fn reason(&self, grade: Option<Grade>, best: Option<Grade>) -> String {
        match (self.kind, best) {
            (RemoteKind::Legacy, _) => "legacy VTEP: no probe possible".to_owned(),
            (RemoteKind::Weft, None) => "not probed: the host is kept to a lower rung".to_owned(),
            (RemoteKind::Weft, Some(_)) => {
                let better = Grade::ALL.into_iter().filter(|better| Some(*better) > grade && Some(*better) <= best);
                let reasons: Vec<_> =
                    better.map(|better| (better, self.states[better as usize].reason.as_str())).collect();
                match reasons[..] {
                    [(_, same), (_, other)] if same == other => same.to_owned(),
                    _ => reasons.into_iter().map(|(grade, why)| tell(grade, why)).collect::<Vec<_>>().join("; "),
                }
            }
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

fn tell(grade: Grade, why: &str) -> String {
    match grade {
        Grade::Segment => why.to_owned(),
        Grade::Tunnel => format!("tunnel GSO: {why}"),
    }
}

fn plain(remote: RemoteId, probe: Probe) -> Send {
    Send { remote, frames: vec![probe.emit(LEN_MIN)], grade: None, offload: Offload::default() }
}

/// The packets of a probe: `len` bytes each, the last one shorter.
fn probe_of(grade: Grade, remote: RemoteId, nonce: u64, count: u8, len: usize) -> Send {
    let packet = |index| {
        let last = index + 1 == count;
        let probe = Probe { kind: Kind::Segment, grade, index, count, nonce, intact: 0 };
        probe.emit(if last { LEN_MIN + (len - LEN_MIN) / 2 } else { len })
    };
    let row: Vec<_> = (0..count).map(packet).collect();
    let (frames, offload) = match grade {
        Grade::Segment => (row, Offload::default()),
        Grade::Tunnel => {
            let (frame, offload) = super_frame(&row);
            (vec![frame], offload)
        }
    };
    Send { remote, frames, grade: Some(grade), offload }
}

/// As long as the MTU allows.
fn packet_len(grade: Grade, mtu: u16) -> usize {
    let frame_len = usize::from(mtu) + 14;
    match grade {
        Grade::Segment => frame_len.clamp(LEN_MIN, PACKET_LEN_MAX),
        Grade::Tunnel => frame_len.saturating_sub(TCP_HEADERS_LEN).clamp(LEN_MIN, PACKET_LEN_MAX),
    }
}

/// [`PACKETS`], or as many as one send carries.
fn count_of(grade: Grade, mtu: u16) -> u8 {
    ((SEND_LEN_MAX - TCP_HEADERS_LEN) / (packet_len(grade, mtu) + HEADER_LEN)).min(PACKETS) as u8
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
const PACKET_LEN_MAX: usize = 16_000;
/// Probes under way at a time; further ones wait.
const FLIGHTS_MAX: usize = 64;
/// Answers that a remote gets at once.
const ANSWERS_AT_ONCE: u32 = 20;
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
        best: Grade,
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
            Self::able(Grade::Segment)
        }

        fn able(best: Grade) -> Self {
            let now = Instant::now();
            let host = |seed| {
                let mut prober = Prober::new(Some(best), seed);
                prober.set_remotes([(1, RemoteKind::Weft, [192, 0, 2, 1].into())], now);
                prober
            };
            Self { hosts: [host(1), host(2)], best, start: now, now, segmented: 0 }
        }

        /// Runs for so long, in steps of 10 ms; `away` of the two is not there.
        fn run(&mut self, time: Duration, path: Path, away: Option<usize>) {
            let end = self.now + time;
            while self.now < end {
                self.now += Duration::from_millis(10);
                for host in (0..2).filter(|host| Some(*host) != away) {
                    let mut out = Vec::new();
                    self.hosts[host].handle(self.now, Some(self.best), MTU, &mut out);
                    self.deliver(host, out, path, away);
                    assert!(self.hosts[host].next_wake().is_some_and(|at| at > self.now), "no busy waiting");
                }
            }
        }

        fn deliver(&mut self, from: usize, out: Vec<Send>, path: Path, away: Option<usize>) {
            for send in out {
                self.segmented += u64::from(send.grade.is_some());
                for (index, frame) in send.frames.into_iter().enumerate() {
                    let arrives = if send.grade.is_some() { path(index, frame) } else { Some(frame) };
                    let Some(frame) = arrives.filter(|_| away != Some(1 - from)) else { continue };
                    let mut answers = Vec::new();
                    let _ = self.hosts[1 - from].receive(1, &frame, self.now, &mut answers);
                    self.deliver(1 - from, answers, path, away);
                }
            }
        }

        fn report(&self, host: usize) -> (bool, String) {
            self.hosts[host].reports().map(|report| (report.grade.is_some(), report.reason)).next().unwrap()
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
        while world.hosts[0].peers[&1].states[0].tries == 0 {
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
        let mut prober = Prober::new(None, 1);
        let addr = [192, 0, 2, 1].into();
        prober.set_remotes([(1, RemoteKind::Weft, addr), (2, RemoteKind::Legacy, addr)], now);
        prober.handle(now, Some(Grade::Segment), MTU, &mut out);
        assert!(out.is_empty() && prober.next_wake().is_none());
        for frame in probe_of(Grade::Segment, 1, 7, 9, 1000).frames {
            assert_eq!(prober.receive(2, &frame, now, &mut out), Err(DropReason::ProbeRefused));
            prober.receive(1, &frame, now, &mut out).unwrap();
        }
        assert_eq!(out.len(), 1);
        assert_eq!(Probe::parse(&out[0].frames[0]).unwrap().intact, all(9));
        let mut prober = Prober::new(Some(Grade::Segment), 1);
        prober.set_remotes([(2, RemoteKind::Legacy, addr)], now);
        prober.handle(now, Some(Grade::Segment), MTU, &mut out);
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
        world.hosts[0].handle(world.now, Some(Grade::Segment), MTU, &mut out);
        let answer = Probe { kind: Kind::Answer, nonce: 3, intact: u64::MAX, ..Probe::EMPTY }.emit(LEN_MIN);
        world.hosts[0].receive(1, &answer, world.now, &mut out).unwrap();
        assert!(!world.report(0).0);
    }

    #[test]
    fn probes_under_way_are_bounded_and_nothing_is_forgotten() {
        let start = Instant::now();
        let mut prober = Prober::new(Some(Grade::Segment), 1);
        prober.set_remotes((0..200).map(|id| (id, RemoteKind::Weft, [192, 0, 2, 1].into())), start);
        let (mut out, mut now) = (Vec::new(), start);
        let mut probed = std::collections::BTreeSet::new();
        while let Some(at) = prober.next_wake().filter(|at| *at < start + ms(9_000)) {
            now = now.max(at);
            prober.handle(now, Some(Grade::Segment), MTU, &mut out);
            assert!(prober.flights <= FLIGHTS_MAX);
            probed.extend(out.drain(..).filter(|send| send.grade.is_some()).map(|send| send.remote));
        }
        assert_eq!(probed.len(), 200);
    }

    #[test]
    fn a_probe_fits_one_send_at_every_mtu() {
        for mtu in [0, 576, 1450, 8_950, 16_000, 65_485] {
            for grade in Grade::ALL {
                let count = count_of(grade, mtu);
                let send = probe_of(grade, 1, 7, count, packet_len(grade, mtu));
                let bytes: usize = send.frames.iter().map(|frame| frame.len() + HEADER_LEN).sum();
                assert!(count >= 3 && bytes <= SEND_LEN_MAX, "{grade:?} {mtu}: {count} packets, {bytes} bytes");
                assert!(send.frames.windows(2).all(|pair| pair[1].len() <= pair[0].len()));
                let got: Vec<_> = send.frames.iter().flat_map(|frame| packets(frame)).map(Result::unwrap).collect();
                assert!(got.iter().map(|probe| probe.index).eq(0..count) && got[0].grade == grade);
            }
        }
    }

    #[test]
    fn each_grade_is_taken_and_lost_by_itself() {
        let swallow: Path = |_, frame| (frame[12] != 0x08).then_some(frame);
        let mut world = World::able(Grade::Tunnel);
        assert_eq!(world.report(0).1, "no probe has come back yet");
        world.run(ms(1000), clean, None);
        assert_eq!(world.hosts[0].reports().next().unwrap().grade, Some(Grade::Tunnel));
        world.run(ms(14_000), swallow, None);
        let report = world.hosts[0].reports().next().unwrap();
        let why = "tunnel GSO: 0 of 9 segments arrived intact".to_owned();
        assert_eq!((report.grade, report.reason), (Some(Grade::Segment), why));
        world.run(ms(2000), swallow, None);
        world.hosts[0].probe_all(world.now);
        world.run(ms(50), clean, None);
        assert_eq!(world.hosts[0].reports().next().unwrap().grade, Some(Grade::Tunnel), "at once when told to look");
        let probes = world.segmented;
        for _ in 0..100 {
            world.hosts[0].probe_all(world.now);
            world.run(ms(10), clean, None);
        }
        assert_eq!(world.segmented, probes, "not again within two seconds");
    }
}
