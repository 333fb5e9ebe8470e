//! The slow path: lookups in rule sets of 1,000 to 100,000 rules, and putting rules in force.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use weft_packet::FlowKey;
use weft_program::codec::{HEADER_LEN, decode, encode};
use weft_program::message::{Request, Response};
use weft_program::{Bundle, Op, Rule};
use weft_vswitch::classifier::{CompiledRule, Table};
use weft_vswitch::control::{Answer, Control};
use weft_vswitch::tables::Tables;

use super::rules::{KINDS, Numbers, keys, rules};
use super::timer::{Timed, time, time_parts};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const KEYS: usize = 20_000;
/// Rules changed by a small bundle.
const SMALL: usize = 10;

/// Lookups per kind of rule set and size. The name says in how many hash tables the rules are.
pub(super) fn lookups() -> Vec<Timed> {
    let mut rows = Vec::new();
    for kind in &KINDS {
        for size in SIZES {
            let mut numbers = Numbers(size as u64);
            let rules = rules(kind, size, &mut numbers);
            let keys = keys(&rules, KEYS, &mut numbers);
            let mut table = Table::new(1);
            rules.into_iter().for_each(|rule| table.insert(Arc::new(CompiledRule::new(rule))));
            table.settle();
            let name = format!("lookup, {} {} ({} tables)", kind.name, table.len(), table.masks());
            rows.push(time(&name, KEYS, || {
                for key in &keys {
                    let mut read = FlowKey::ZERO;
                    black_box(table.lookup(black_box(key), &mut read));
                    black_box(&read);
                }
            }));
        }
    }
    rows
}

/// One bundle of 100,000 rules, per rule, in parts and from the message's bytes to the answer; bundles of ten rules on
/// top of it, per bundle.
pub(super) fn apply() -> Result<Vec<Timed>> {
    let mut rules = rules(&KINDS[0], SIZES[2], &mut Numbers(1));
    let late = rules.split_off(rules.len() - SMALL);
    let bundle = bundle_of(&rules);
    let empty = Tables::new(1);
    let full = empty.apply(&bundle).map_err(|errors| anyhow!("the rules were refused: {errors:?}"))?;
    let tables = time_parts("apply 100,000 rules: check and compile, per rule", rules.len(), || {
        let start = Instant::now();
        let made = empty.apply(black_box(&bundle));
        let took = start.elapsed();
        drop(made);
        took
    });
    let late = bundle_of(&late);
    let name = format!("apply {SMALL} rules on top of 100,000, per bundle");
    let small = time(&name, 1, || drop(black_box(full.apply(black_box(&late)))));
    let message = encode(&Request::Apply(bundle))?;
    let body = &message[HEADER_LEN..];
    let mut rows = vec![tables, small, whole_apply(body, rules.len())?];
    rows.push(time_parts("of that, decode the message, per rule", rules.len(), || {
        let start = Instant::now();
        let request = decode::<Request>(black_box(body));
        let took = start.elapsed();
        drop(request);
        took
    }));
    Ok(rows)
}

/// All that a vswitch of two workers does from the bytes of the message to the answer that the bundle is in force.
fn whole_apply(body: &[u8], rules: usize) -> Result<Timed> {
    let run = || -> Result<Duration> {
        let mut control = Control::inline(2, 1, Instant::now())?;
        let start = Instant::now();
        let request = decode(black_box(body))?;
        let answers = control.handle(start, request, Vec::new());
        let took = start.elapsed();
        let done = matches!(answers.as_slice(), [Answer { response: Response::Done, .. }]);
        ensure!(done, "a vswitch refused the rules: {answers:?}");
        Ok(took)
    };
    run()?;
    let name = "apply 100,000 rules: from the message to the answer, per rule";
    Ok(time_parts(name, rules, || run().unwrap_or(Duration::MAX)))
}

fn bundle_of(rules: &[Rule]) -> Bundle {
    Bundle { replace: false, ops: rules.iter().cloned().map(Op::PutRule).collect(), ..Bundle::default() }
}
