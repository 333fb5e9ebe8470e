//! What a port, a flow, a rule and an address weigh, as the allocator was asked for it.
//!
//! The program must have the counting allocator; without it every figure is zero, and none is given.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use weft_packet::{Field, FlowKey, MacAddr};
use weft_program::{Bundle, Fdb, FdbKey, Location, Op, PortConfig, PortId, SegmentId};
use weft_sys::alloc_count::held;
use weft_vswitch::Inline;
use weft_vswitch::cache::Lookup;
use weft_vswitch::control::Control;
use weft_vswitch::learn::{Learned, Second};
use weft_vswitch::limits::{LIMITS, Limits};
use weft_vswitch::tables::Tables;

use super::guests::{FROM_PORT, TO_PORT, device, program};
use super::row::{Figure, Row};
use super::rules::{KINDS, Numbers, rules};

const MANY: u32 = 10_000;
const RULES: usize = 100_000;

/// All of them, in bytes.
pub(super) fn rows() -> Result<Vec<Row>> {
    ensure!(weighed(|| black_box(vec![0_u8; 100])).0 >= 100, "this program's allocator does not count");
    let each = |bytes: i64, count: usize| bytes as f64 / count as f64;
    let figure = |name: &str, bytes: f64| Row::from(Figure::new(name, bytes, "bytes"));
    let tables = Tables::new(1).apply(&program()).map_err(|errors| anyhow!("refused: {errors:?}"))?;
    let (ports, attached) = attached(MANY as usize)?;
    let (addresses, pinned) = applied(&tables, (0..MANY).map(pinned).collect())?;
    let (listed, _) = applied(&tables, (3..MANY + 3).map(port).collect())?;
    let (rule, _) = applied(&tables, rules(&KINDS[0], RULES, &mut Numbers(1)).into_iter().map(Op::PutRule).collect())?;
    drop(attached);
    Ok(vec![
        figure("memory, a port attached, one worker", each(ports, MANY as usize)),
        figure("memory, a port in the program", each(listed, MANY as usize)),
        figure("memory, a pinned address", each(addresses, MANY as usize)),
        figure("memory, a rule of 100,000", each(rule, RULES)),
        figure("memory, an entry of the exact level", exact_entry()),
        figure("memory, an entry of the wildcard level", wildcard_entry(&pinned)),
        figure("memory, caches of a worker with nothing in them", weighed(|| Lookup::new(1, &LIMITS)).0 as f64),
    ])
}

/// What `make` keeps.
fn weighed<T>(make: impl FnOnce() -> T) -> (i64, T) {
    let before = held();
    let made = make();
    (held() - before, made)
}

/// Ports of one vswitch with one worker.
fn attached(count: usize) -> Result<(i64, Control<Inline>)> {
    let mut vswitch = Control::inline(1, 1, Instant::now())?;
    let mut attach = || (1..=count as u32).try_for_each(|id| vswitch.attach_memory(device(PortId(id)), 0).map(drop));
    let (bytes, done) = weighed(&mut attach);
    done.map_err(|why| anyhow!("refused: {why:?}"))?;
    Ok((bytes, vswitch))
}

/// What a bundle adds to the snapshot; the bundle itself is made before.
fn applied(tables: &Tables, ops: Vec<Op>) -> Result<(i64, Tables)> {
    let bundle = Bundle { ops, ..Bundle::default() };
    let (bytes, made) = weighed(|| tables.apply(&bundle));
    Ok((bytes, made.map_err(|errors| anyhow!("refused: {errors:?}"))?))
}

fn port(id: u32) -> Op {
    let owner = "port".into();
    Op::PutPort(PortConfig { id: PortId(id), segment: SegmentId(1), live: true, learn: false, owner })
}

fn mac(number: u32) -> MacAddr {
    MacAddr::from_u64(0x0200_0100_0000 + u64::from(number))
}

fn pinned(number: u32) -> Op {
    let key = FdbKey { segment: SegmentId(1), mac: mac(number) };
    Op::PutFdb(Fdb { key, location: Location::Local(TO_PORT), owner: "port".into() })
}

fn exact_entry() -> f64 {
    let entries = LIMITS.exact_entries;
    let twice = Limits { exact_entries: 2 * entries, ..LIMITS };
    let (one, two) = (weighed(|| Lookup::new(1, &LIMITS)).0, weighed(|| Lookup::new(1, &twice)).0);
    (two - one) as f64 / entries as f64
}

/// Frames to different stations, each an entry of its own.
fn wildcard_entry(tables: &Tables) -> f64 {
    let learned = Learned::new(Instant::now(), &LIMITS);
    let mut lookup = Lookup::new(1, &LIMITS);
    let (bytes, ()) = weighed(|| {
        for number in 0..MANY {
            let key = FlowKey::ZERO
                .with(Field::InPort, FROM_PORT.0.into())
                .with(Field::EthType, 0x0800)
                .with(Field::EthDst, mac(number).to_u64().into());
            lookup.classify(tables, &learned, &key, 64, Second(1));
        }
    });
    bytes as f64 / f64::from(MANY)
}
