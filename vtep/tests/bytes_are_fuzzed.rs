//! Every public function of the crate that takes bytes or a frame is run on a million mutated datagrams and must not
//! panic; a function that nobody entered in the table fails the first test.
//!
//! `SEED=n` replays a run; the seed is printed with every failure.

use std::cell::RefCell;
use std::hint::black_box;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use weft_packet::{Csum, DropReason, Frame, FramePool, Layout, MacAddr, Vni, offload};
use weft_vtep::admission::{Admission, RemoteKind, RemoteVtep};
use weft_vtep::coalesce::Coalescer;
use weft_vtep::decap::{Datagram, Packet, classify, decap};
use weft_vtep::outer::Outer;
use weft_vtep::plan::Plan;
use weft_vtep::probe::Prober;
use weft_vtep::probe_packet::{Grade, Kind, Probe, packets, super_frame};
use weft_vtep::{ecn, encap, mtu, outer};

const MUTATIONS: usize = 1_000_000;

type Entry = fn(&mut World, &[u8]);

/// What an entry is run on, its name, and the functions that it covers.
macro_rules! entries {
    ($($test:ident [$($name:literal),+] => $entry:expr;)+) => {
        const ENTRIES: &[(&[&str], Entry)] = &[$((&[$($name),+], $entry),)+];

        $(#[test]
        fn $test() {
            bombard(stringify!($test), $entry);
        })+
    };
}

entries! {
    decap_and_coalesce ["decap::decap", "decap::copy_into", "decap::adopt", "coalesce::push", "coalesce::adopt"] =>
        |world, bytes| world.receive(bytes);
    classify_frame ["decap::classify"] => |_, bytes| {
        let (offload, len) = classify(bytes, 300, Some(100));
        assert!(len <= bytes.len() && offload.csum != Csum::Verified);
    };
    outer_tos ["ecn::outer_tos", "ecn::decap_tos"] => |_, bytes| {
        let _ = black_box((ecn::outer_tos(bytes, ecn::Dscp::Copy), ecn::decap_tos(bytes, 3)));
    };
    set_tos ["ecn::set_tos"] => |world, bytes| world.with_frame(bytes, |_, frame| ecn::set_tos(frame, 0xff));
    fit ["mtu::fit"] => |world, bytes| world.with_frame(bytes, |_, frame| {
        black_box(mtu::fit(frame, 100));
    });
    parse_probe ["probe_packet::parse", "probe_packet::packets", "probe::receive"] => |world, bytes| {
        world.rounds += 1;
        let grade = Grade::ALL[world.rounds % 2];
        let probe = Probe { kind: Kind::Segment, grade, index: (world.rounds % 9) as u8, count: 9, nonce: 7, intact: 0 };
        let packet = probe.emit(bytes.len().min(120));
        let mut frame = if grade == Grade::Tunnel { super_frame(&[packet.clone(), packet]).0 } else { packet };
        let at = bytes.first().map_or(0, |byte| usize::from(*byte)) % frame.len();
        frame[at] ^= bytes.last().copied().unwrap_or(0);
        let now = world.now + Duration::from_millis(world.rounds as u64);
        for frame in [bytes, &frame] {
            let mut out = Vec::new();
            let _ = black_box((Probe::parse(frame), packets(frame).count(), world.prober.receive(1, frame, now, &mut out)));
            assert!(out.len() <= 1, "at most one answer");
        }
    };
    push_header ["encap::encap"] => |world, bytes| world.with_frame(bytes, |_, frame| {
        encap::encap(frame, vni());
        frame.pull_front(8);
    });
    outer_headers ["outer::takes", "outer::emit"] => |world, bytes| world.with_frame(bytes, |_, frame| {
        let (device, src, dst) = (MacAddr::ZERO, source(), source());
        let outer = Outer { device, src, src_port: 1, dst, dst_port: 2, tos: 0, vni: vni() };
        if outer::takes(frame, false) {
            let headers_len = outer.emit(frame, 100, &mut [0; outer::HEADERS_LEN_MAX]);
            assert_eq!(headers_len, Ok(74), "a classified super-frame is what it says");
        }
    });
    build_plan ["plan::build"] => |world, bytes| world.with_frame(bytes, |plan, frame| {
        let Some(gso) = frame.offload.gso else { return };
        let mtu = match mtu::fit(frame, 200) {
            mtu::Fit::Resegment(size) => size,
            _ => gso.size,
        };
        plan.build(frame, vni(), mtu, 64).expect("a classified super-frame can be cut");
    });
}

#[test]
fn every_public_function_of_bytes_has_a_fuzz_entry() {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        found.extend(functions_of_bytes(&stem, &std::fs::read_to_string(&path).unwrap()));
    }
    assert!(found.len() >= 12, "the scan finds the functions: {found:?}");
    let entered = |name: &String| ENTRIES.iter().any(|(names, _)| names.contains(&name.as_str()));
    let missing: Vec<_> = found.iter().filter(|name| !entered(name)).collect();
    assert!(missing.is_empty(), "add to the table: {missing:?}");
}

#[test]
fn a_function_of_bytes_is_found_in_a_source_text() {
    let source = "    pub fn one(\n        &self,\n        b: &[u8],\n    ) -> u8 {\n    }\npub fn two(f: &mut Frame) {\n\
                  pub fn three(n: u8) -> &[u8] {\nfn four(b: &[u8]) {\n#[cfg(test)]\npub fn five(b: &[u8]) {\n";
    assert_eq!(functions_of_bytes("file", source), ["file::one", "file::two"]);
}

/// The public functions with bytes, a frame or a datagram among their arguments, in front of the tests.
fn functions_of_bytes(file: &str, source: &str) -> Vec<String> {
    let production = source.split("#[cfg(test)]").next().unwrap_or_default();
    let heads = production.match_indices("pub fn ").map(|(at, _)| &production[at + 7..]);
    let named = heads.filter_map(|head| head.split_once('('));
    let takes_bytes = |arguments: &str| {
        let arguments = arguments.split([')', '{']).next().unwrap_or_default();
        ["&[u8]", ": &Frame", "&mut Frame,", "&mut Frame", ": Frame", "Datagram"]
            .iter()
            .any(|kind| arguments.replace("&mut FramePool", "").contains(kind))
    };
    named
        .filter(|(_, arguments)| takes_bytes(arguments))
        .map(|(name, _)| format!("{file}::{}", name.split('<').next().unwrap_or(name)))
        .collect()
}

/// What the entries work on; made once per run.
struct World {
    admission: Admission,
    now: Instant,
    pool: FramePool,
    coalescer: Coalescer,
    plan: Plan,
    prober: Prober,
    rounds: usize,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let mut admission = Admission::new(Duration::ZERO);
        admission.set_segments([(vni(), 200)]);
        admission.put(&RemoteVtep { id: 1, addr: source(), kind: RemoteKind::Weft, vnis: vec![vni()] }, now);
        let (pool, coalescer) = (FramePool::new(64), Coalescer::new(true));
        let mut prober = Prober::new(Some(Grade::Tunnel), 1);
        prober.set_remotes([(1, RemoteKind::Weft, source())], now);
        Self { admission, now, pool, coalescer, plan: Plan::default(), prober, rounds: 0 }
    }

    fn receive(&mut self, payload: &[u8]) {
        self.rounds += 1;
        let stride = [None, Some(90), Some(payload.len() / 2), Some(7)][self.rounds % 4];
        let received =
            Datagram { payload, stride, truncated: false, source: source(), tos: (self.rounds / 4 % 4) as u8 };
        let packets: Vec<Result<Packet, DropReason>> = decap(received, &self.admission, self.now).take(32).collect();
        let mut out = Vec::new();
        for packet in packets.iter().flatten() {
            if let [Ok(only)] = &packets[..] {
                let mut buffer = self.pool.take().expect("the pool is large enough");
                buffer.fill(payload);
                self.coalescer.adopt(only, buffer, &mut self.pool, &mut out);
            } else {
                self.coalescer.push(packet, payload, &mut self.pool, &mut out).expect("the pool is large enough");
            }
        }
        if self.rounds.is_multiple_of(3) || self.pool.in_use() > 30 {
            self.coalescer.flush(&mut out);
        }
        for mut arrival in out {
            if arrival.frame.offload.gso.is_none() {
                offload::complete_checksum(&mut arrival.frame).expect("the check field is in the frame");
            }
            self.pool.give(arrival.frame);
        }
    }

    fn with_frame(&mut self, bytes: &[u8], run: impl FnOnce(&mut Plan, &mut Frame)) {
        let mut frame = self.pool.take().expect("the pool is large enough");
        frame.fill(bytes);
        let (offload, len) = classify(bytes, 200, None);
        frame.set_len(len);
        frame.offload = offload;
        run(&mut self.plan, &mut frame);
        self.pool.give(frame);
    }
}

fn vni() -> Vni {
    Vni::new(42).expect("42 is a VNI")
}

fn source() -> IpAddr {
    [192, 0, 2, 1].into()
}

fn bombard(name: &str, entry: Entry) {
    thread_local! {
        static WORLD: RefCell<World> = RefCell::new(World::new());
    }
    let seed = seed();
    println!("{name}: SEED={seed}");
    let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let pieces = corpus();
    let mut bytes = Vec::new();
    for round in 0..MUTATIONS {
        bytes.clear();
        bytes.extend(&pieces[numbers.below(pieces.len())]);
        mutate(&mut bytes, &mut numbers);
        let run = || WORLD.with_borrow_mut(|world| entry(world, &bytes));
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            panic!("{name} panicked in round {round} of SEED={seed} on {bytes:02x?}");
        }
    }
}

/// TCP and UDP over both versions, complete and partial, short and longer than the segment's MTU; as datagrams and as
/// frames.
fn corpus() -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    for (v6, tcp, partial, len) in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
        .map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0, if n & 8 != 0 { 700 } else { 20 }))
    {
        let frame = frame(v6, tcp, partial, len);
        let datagram = [&[8, 0, 0, 0, 0, 0, 42, 0], &frame[..]].concat();
        pieces.push([&datagram[..], &datagram].concat());
        pieces.extend([datagram, frame]);
    }
    pieces
}

fn frame(v6: bool, tcp: bool, partial: bool, len: usize) -> Vec<u8> {
    let (protocol, header_len, offset) = if tcp { (6, 20, 16) } else { (17, 8, 6) };
    let l4_len = header_len + len;
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, (l4_len >> 8) as u8, l4_len as u8, protocol, 64]);
        frame.extend([0xfd; 32]);
    } else {
        let ip_len = 20 + l4_len;
        frame.extend([8, 0, 0x45, 2, (ip_len >> 8) as u8, ip_len as u8, 0, 1, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([10, 9, 0, 1, 10, 9, 0, 2]);
        let check = weft_packet::checksum::checksum(&frame[14..]).to_be_bytes();
        frame[24..26].copy_from_slice(&check);
    }
    let start = frame.len();
    frame.extend([3, 0xe8, 1, 0xbb]);
    frame.extend(if tcp { vec![0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0] } else { l4_len.to_be_bytes()[6..].to_vec() });
    frame.resize(start + header_len, 0);
    frame.extend(vec![7; len]);
    let layout = Layout::of(&frame).expect("a whole packet");
    let pseudo = layout.pseudo(&frame, l4_len);
    let check = if partial { pseudo.fold() } else { (pseudo + weft_packet::Sum::of(&frame[start..])).finish() };
    frame[start + offset..start + offset + 2].copy_from_slice(&check.to_be_bytes());
    frame
}

/// xorshift64*: enough for choosing bytes, and the same on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 32) as usize * bound) >> 32
    }
}

fn seed() -> u64 {
    match std::env::var("SEED") {
        Ok(text) => text.parse().expect("SEED is a number"),
        Err(_) => std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_nanos() as u64,
    }
}

/// Changes up to three bytes, most of them in the headers, and sometimes the length.
fn mutate(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..numbers.below(4) {
        let near = if numbers.below(4) == 0 { bytes.len() } else { bytes.len().min(90) };
        let at = numbers.below(near);
        bytes[at] = match numbers.below(3) {
            0 => numbers.next() as u8,
            1 => bytes[at] ^ (1 << numbers.below(8)),
            _ => [0, 0xff, 1, 0x7f][numbers.below(4)],
        };
    }
    match numbers.below(8) {
        0 => bytes.truncate(numbers.below(bytes.len() + 1)),
        1 => bytes.extend((0..numbers.below(40)).map(|n| n as u8)),
        _ => {}
    }
}
