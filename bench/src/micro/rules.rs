//! Rule sets like ClassBench's, from a seed: access lists, firewalls, and chains of both (acl, fw, ipc).
//!
//! What the sets have of the real ones: their mix of prefix lengths and of ports, networks that nest, and specific
//! rules mostly before general ones. Keys are drawn from inside of rules, as ClassBench's trace generator does.

use std::cmp::Reverse;

use weft_packet::{DropReason, Field, FlowKey};
use weft_program::{Action, DomainId, Instruction, Match, Rule, RuleKey, TableId};

/// A kind of rule set, with the shares of prefix lengths in percent: none, 8 to 15, 16 to 23, 24 to 31, 32.
pub(super) struct Kind {
    /// Its name.
    pub(super) name: &'static str,
    source: [u64; 5],
    destination: [u64; 5],
    /// Percent of rules that ask for a source port.
    source_ports: u64,
}

/// The three kinds.
pub(super) const KINDS: [Kind; 3] = [
    Kind { name: "acl", source: [10, 5, 20, 35, 30], destination: [1, 1, 8, 35, 55], source_ports: 2 },
    Kind { name: "fw", source: [35, 5, 15, 20, 25], destination: [15, 5, 15, 25, 40], source_ports: 20 },
    Kind { name: "ipc", source: [12, 8, 20, 25, 35], destination: [12, 8, 20, 25, 35], source_ports: 10 },
];

/// Random numbers (SplitMix64).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    /// 64 random bits.
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(super) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn prefix_len(&mut self, shares: &[u64; 5]) -> u32 {
        let mut dice = self.below(100);
        for (class, share) in shares.iter().enumerate() {
            if dice < *share {
                return match class {
                    0 => 0,
                    4 => 32,
                    class => (class as u64 * 8 + self.below(8)) as u32,
                };
            }
            dice -= share;
        }
        0
    }

    /// An address of few networks, more of them the deeper one looks.
    fn address(&mut self) -> u32 {
        let [first, second, third, fourth] = [self.below(12), self.below(24), self.below(64), self.below(256)];
        u32::from_be_bytes([10 + first as u8 * 7, second as u8 * 9, third as u8 * 3, fourth as u8])
    }

    /// A port with its mask: a well-known one, or an aligned range.
    fn port(&mut self) -> (u64, u64) {
        match self.below(10) {
            0..=6 => ([22, 25, 53, 80, 110, 123, 143, 161, 443, 1521, 3306, 8080][self.below(12) as usize], 0xffff),
            7 | 8 => (self.below(64) << 10, 0xffff << 10 & 0xffff),
            _ => (self.below(4096) << 4, 0xfff0),
        }
    }
}

/// This many rules of table 0, the first with the highest priority; 65,536 priorities have to do for all.
pub(super) fn rules(kind: &Kind, len: usize, numbers: &mut Numbers) -> Vec<Rule> {
    let mut matches: Vec<(u64, Match)> = (0..len).map(|_| one(kind, numbers)).collect();
    matches.sort_by_key(|(rank, _)| Reverse(*rank));
    matches.dedup_by(|a, b| a.1 == b.1);
    let rule = |(index, (_, matches)): (usize, (u64, Match))| {
        let priority = 65_535 - (index * 65_535 / len) as u16;
        let instructions = vec![Instruction::Apply(vec![Action::Drop(DropReason::Policy)])];
        let key = RuleKey { table: TableId(0), priority, matches };
        Rule { key, instructions, owner: "bench".into(), domain: DomainId(1) }
    };
    matches.into_iter().enumerate().map(rule).collect()
}

fn one(kind: &Kind, numbers: &mut Numbers) -> (u64, Match) {
    let mut matches = Match::ANY.with(Field::EthType, 0x0800);
    // Specific rules come first, but not strictly.
    let mut rank = numbers.below(24);
    for (field, shares) in [(Field::IpSrc, &kind.source), (Field::IpDst, &kind.destination)] {
        let len = numbers.prefix_len(shares);
        let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
        matches = matches.with_masked(field, u128::from(numbers.address() & mask), u128::from(mask));
        rank += u64::from(len);
    }
    let protocol = numbers.below(10);
    if protocol < 9 {
        matches = matches.with(Field::IpProto, if protocol < 7 { 6 } else { 17 });
        if numbers.below(100) < 70 {
            let (value, mask) = numbers.port();
            matches = matches.with_masked(Field::L4Dst, value.into(), mask.into());
        }
        if numbers.below(100) < kind.source_ports {
            let (value, mask) = numbers.port();
            matches = matches.with_masked(Field::L4Src, value.into(), mask.into());
        }
    }
    (rank, matches)
}

/// Keys that rules match: everything that the rule leaves open is random.
pub(super) fn keys(rules: &[Rule], len: usize, numbers: &mut Numbers) -> Vec<FlowKey> {
    let mut key = || {
        let matches = &rules[numbers.below(rules.len() as u64) as usize].key.matches;
        let mut open = FlowKey::ZERO.with(Field::EthType, 0x0800).with(Field::IpProto, 6);
        open.set(Field::IpSrc, numbers.address().into());
        open.set(Field::IpDst, numbers.address().into());
        open.set(Field::L4Src, numbers.below(65_536).into());
        open.set(Field::L4Dst, numbers.below(65_536).into());
        FlowKey(std::array::from_fn(|word| matches.value.0[word] | open.0[word] & !matches.mask.0[word]))
    };
    (0..len).map(|_| key()).collect()
}
