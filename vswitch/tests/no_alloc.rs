//! What happens for every frame asks for no memory. A binary of its own, because its allocator counts.

use std::time::Instant;

use weft_packet::{Field, FlowKey, MacAddr, Offload, Vni};
use weft_program::message::{Offloads, PortDevice, PortKind, Request, Response};
use weft_program::{
    Action, Bundle, DomainId, Fdb, FdbKey, Instruction, Location, Match, Miss, Op, PortConfig, PortId, Rule, RuleKey,
    Segment, SegmentId, TableId,
};
use weft_sys::alloc_count::{CountingAllocator, allocations};
use weft_vswitch::Inline;
use weft_vswitch::cache::Lookup;
use weft_vswitch::control::Control;
use weft_vswitch::learn::{Learned, Second};
use weft_vswitch::limits::LIMITS;
use weft_vswitch::port::MemoryEnd;
use weft_vswitch::tables::Tables;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const FRAMES: u64 = 1_000_000;
const BURST: u64 = 32;
const IN: PortId = PortId(1);
const OUT: PortId = PortId(2);
const FROM: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const TO: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Two ports of one segment; what port 1 sends is forwarded by the pinned FDB, and port 2's sender is learned.
fn program() -> Bundle {
    let (segment, domain) = (SegmentId(1), DomainId(1));
    let port = |id| Op::PutPort(PortConfig { id, segment, live: true, learn: true, owner: "port".into() });
    let fdb = Instruction::Apply(vec![Action::Learn { segment }, Action::Fdb { segment, miss: Miss::Drop }]);
    let rule = |port: PortId| {
        let matches = Match::ANY.with(Field::InPort, port.0.into());
        let key = RuleKey { table: TableId(0), priority: 10, matches };
        Op::PutRule(Rule { key, instructions: vec![fdb.clone()], owner: "rule".into(), domain })
    };
    let vni = Vni::new(42).unwrap();
    let pinned = Fdb { key: FdbKey { segment, mac: TO }, location: Location::Local(OUT), owner: "port".into() };
    let network = Segment { id: segment, vni, mtu: 1500, domain, owner: "network".into() };
    let ops = vec![Op::PutSegment(network), port(IN), port(OUT), rule(IN), rule(OUT), Op::PutFdb(pinned)];
    Bundle { replace: true, ops, ..Bundle::default() }
}

/// A frame of its own flow for each number.
fn key(flow: u64) -> FlowKey {
    let mut key = FlowKey::ZERO;
    key.set(Field::InPort, IN.0.into());
    key.set(Field::EthSrc, FROM.to_u64().into());
    key.set(Field::EthDst, TO.to_u64().into());
    key.set(Field::EthType, 0x0800);
    key.set(Field::IpSrc, u128::from(flow));
    key
}

/// Memory asked for while `lookup` classifies the keys of these flows.
fn allocated(lookup: &mut Lookup, tables: &Tables, learned: &Learned, flows: impl Iterator<Item = u64>) -> u64 {
    let before = allocations();
    for flow in flows {
        let verdict = lookup.classify(tables, learned, &key(flow), 1500, Second(1));
        assert_eq!(verdict.steps.len(), 1);
    }
    allocations() - before
}

#[test]
fn a_cache_hit_allocates_nothing() {
    let tables = Tables::new(1).apply(&program()).unwrap();
    let learned = Learned::new(Instant::now(), &LIMITS);
    let mut lookup = Lookup::new(1, &LIMITS);
    let first = allocated(&mut lookup, &tables, &learned, 0..1);
    assert!(first > 0, "it is looked up in the tables, and the second too: learning the first's sender was a change");
    allocated(&mut lookup, &tables, &learned, 0..1);
    assert_eq!(allocated(&mut lookup, &tables, &learned, (0..FRAMES).map(|_| 0)), 0);
    assert_eq!((lookup.counts().exact, lookup.counts().wildcard), (FRAMES, 0));
    assert_eq!(allocated(&mut lookup, &tables, &learned, 1..=FRAMES), 0);
    assert_eq!((lookup.counts().exact, lookup.counts().wildcard), (FRAMES, FRAMES));
    assert_eq!(lookup.counts().tables, 2);
}

fn vswitch(now: Instant) -> (Control<Inline>, MemoryEnd, MemoryEnd) {
    let mut vswitch = Control::inline(1, 7, now).unwrap();
    let device = |id| {
        let (name, netns, ifname) = Default::default();
        PortDevice { id, name, kind: PortKind::Memory, fds: 0, mtu: 1500, offloads: Offloads::default(), netns, ifname }
    };
    let guest = vswitch.attach_memory(device(IN), 64).unwrap();
    let other = vswitch.attach_memory(device(OUT), 64).unwrap();
    let answer = vswitch.handle(now, Request::Apply(program()), Vec::new()).pop().unwrap();
    assert_eq!(answer.response, Response::Done);
    (vswitch, guest, other)
}

/// A frame of each kind that guests send, by name.
fn kinds() -> [(&'static str, Vec<u8>); 5] {
    let frame = |ethertype: u16, rest: &[&[u8]]| {
        let ethertype = ethertype.to_be_bytes();
        let parts = [&TO.0[..], &FROM.0, &ethertype].into_iter().chain(rest.iter().copied());
        parts.flatten().copied().chain([7; 18]).collect::<Vec<u8>>()
    };
    let v4 = |protocol: u8, fragment: u16, len: u16| {
        let mut header = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
        header[2..4].copy_from_slice(&(20 + len).to_be_bytes());
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header
    };
    let mut v6 = [0; 40];
    v6[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 20 + 18, 6, 64]);
    (v6[8], v6[23], v6[24], v6[39]) = (0xfd, 1, 0xfd, 2);
    let udp = [0, 7, 0, 9, 0, 26, 0, 0];
    let tcp = [0, 7, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0, 1, 0, 0, 0, 0];
    [
        ("another protocol", frame(0x88b5, &[])),
        ("UDP over IPv4", frame(0x0800, &[&v4(17, 0x4000, 26), &udp])),
        ("TCP over IPv4", frame(0x0800, &[&v4(6, 0x4000, 38), &tcp])),
        ("a later fragment", frame(0x0800, &[&v4(17, 100, 18)])),
        ("TCP over IPv6", frame(0x86dd, &[&v6, &tcp])),
    ]
}

/// Bursts through a whole worker; the memory that its steps asked for, and the frames that came out.
fn carried(frame: &[u8], frames: u64) -> (u64, u64) {
    let now = Instant::now();
    let (mut vswitch, guest, other) = vswitch(now);
    let (mut asked, mut out) = (0, 0);
    for burst in 0..frames / BURST + 2 {
        for _ in 0..BURST {
            assert!(guest.push(frame, Offload::default()));
        }
        let before = allocations();
        assert_eq!(vswitch.step(now) as u64, BURST);
        let (allocated, arrived) = (allocations() - before, other.drain(|_, _| ()) as u64);
        // The first bursts fill the pool, every scratch, and each place of the ports' queues.
        if burst > 1 {
            asked += allocated;
            out += arrived;
        }
    }
    (asked, out)
}

#[test]
fn a_worker_allocates_nothing_for_a_frame() {
    for (kind, frame) in kinds() {
        assert_eq!(carried(&frame, FRAMES), (0, FRAMES), "{kind}");
    }
}
