//! Looks up frames in one table of rules with four masks, and does nothing else: its instructions are counted from outside.

use std::sync::Arc;

use clap::Parser;
use weft_packet::{Field, FlowKey};
use weft_program::{DomainId, Instruction, Match, Rule, RuleKey, TableId};
use weft_vswitch::classifier::{CompiledRule, Table};

/// Builds a table, looks up.
#[derive(Parser)]
struct Args {
    /// Rules in the table, spread over four masks.
    rules: u32,
    /// Lookups, half of them of keys that a rule of the last mask matches.
    lookups: u32,
}

/// A rule whose mask depends on `number % 4` and whose value on `number`.
fn rule(number: u32) -> Rule {
    let value = u128::from(number) + 1;
    let matches = match number % 4 {
        0 => Match::ANY.with(Field::InPort, value),
        1 => Match::ANY.with(Field::EthType, 0x0800).with(Field::IpSrc, value),
        2 => Match::ANY.with(Field::EthType, 0x0800).with(Field::IpDst, value).with(Field::IpProto, 6),
        _ => Match::ANY.with(Field::EthType, 0x0800).with(Field::IpDst, value).with(Field::L4Dst, value),
    };
    let key = RuleKey { table: TableId(0), priority: 10, matches };
    Rule { key, instructions: vec![Instruction::Goto(TableId(1))], owner: "bench".into(), domain: DomainId(1) }
}

fn main() {
    let args = Args::parse();
    let mut table = Table::new(1);
    (0..args.rules).for_each(|number| table.insert(Arc::new(CompiledRule::new(rule(number)))));
    table.settle();
    let mut found = 0_u32;
    for number in 0..args.lookups {
        let wanted = u128::from(number % args.rules.max(1) / 4 * 4 + 4);
        let other = if number % 2 == 0 { wanted } else { wanted + 1_000_000 };
        let key = FlowKey::ZERO.with(Field::EthType, 0x0800).with(Field::IpDst, other).with(Field::L4Dst, other);
        let mut read = FlowKey::ZERO;
        found += u32::from(table.lookup(&key, &mut read).is_some());
    }
    println!("{found} of {} found", args.lookups);
}
