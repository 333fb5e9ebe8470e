//! Random programs, bundles and keys from one seed, for property tests here and in other crates.
//!
//! Values come from small pools, so that rules overlap, maps are hit, and the same flow comes back. Two rules of one
//! table never tie: each shape of match has priorities of its own. A rule of a domain matches that domain's ingress
//! only, which is what the contract asks of a compiler.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_packet::key::ip_field;
use weft_packet::{DropReason, Field, FlowKey, MacAddr, Vni};
use weft_program::{
    Action, Bundle, DomainId, Fdb, FdbKey, Flood, FloodId, FloodTargets, Instruction, Label, LabelKey, Location, Match,
    Miss, Neighbor, NeighborKey, Op, PortConfig, PortId, Program, Remote, RemoteId, RemoteKind, Rule, RuleKey, Segment,
    SegmentId, TableId,
};

/// Tables that random programs use.
pub const TABLES: u8 = 4;
const PORTS: u32 = 6;
const REMOTES: u32 = 3;
const SEGMENTS: u32 = 3;
const FLOODS: u32 = 4;

/// Fields that matches are made of, with the bits that count. The first ones pin where a frame came from.
const PIECES: &[(Field, u128)] = &[
    (Field::EthType, 0xffff),
    (Field::EthDst, 0x0100_0000_0000),
    (Field::EthDst, 0xffff_ffff_ffff),
    (Field::EthSrc, 0xffff_ffff_ffff),
    (Field::IpSrc, u128::MAX),
    (Field::IpDst, u128::MAX),
    (Field::IpDst, 0xfe),
    (Field::IpProto, 0xff),
    (Field::L4Dst, 0xffff),
    (Field::L4Dst, 0xfff0),
    (Field::IpTtl, 0xff),
    (Field::TcpFlags, 0x2),
    (Field::NdTarget, u128::MAX),
    (Field::ArpSha, 0xffff_ffff_ffff),
    (Field::Metadata, 0x3),
    (Field::Reg0, 0xffff_ffff),
    (Field::Reg3, 0x1),
];

/// Random numbers (SplitMix64), and what is made from them.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub const fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `n` times.
    pub const fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn id(&mut self, max: u32) -> u32 {
        1 + self.below(max as usize) as u32
    }

    /// A key as the parser makes it: from a port or from a tunnel, metadata and registers zero.
    pub fn key(&mut self) -> FlowKey {
        let mut key = FlowKey::ZERO;
        if self.one_in(3) {
            key.set(Field::InRemote, self.id(REMOTES + 1).into());
            key.set(Field::Vni, (10 + self.id(SEGMENTS + 1)).into());
        } else {
            key.set(Field::InPort, self.id(PORTS + 1).into());
        }
        for field in [Field::EthType, Field::EthDst, Field::EthSrc, Field::IpSrc, Field::IpDst, Field::IpTtl] {
            key.set(field, self.value(field));
        }
        match key.field(Field::EthType) {
            0x0806 => {
                key.set(Field::IpProto, self.pick(&[1, 1, 2]));
                key.set(Field::ArpSha, self.value(Field::ArpSha));
                return key;
            }
            0x86dd if self.one_in(2) => {
                key.set(Field::IpProto, 58);
                key.set(Field::L4Src, self.pick(&[135, 135, 136, 128]));
                key.set(Field::NdTarget, self.value(Field::NdTarget));
                return key;
            }
            _ => {}
        }
        for field in [Field::IpProto, Field::L4Src, Field::L4Dst, Field::TcpFlags] {
            key.set(field, self.value(field));
        }
        key
    }

    fn value(&mut self, field: Field) -> u128 {
        match field {
            Field::EthType => self.pick(&[0x0800, 0x0800, 0x86dd, 0x0806]),
            Field::EthDst if self.one_in(4) => MacAddr::BROADCAST.to_u64().into(),
            Field::EthDst | Field::EthSrc | Field::ArpSha => self.mac().to_u64().into(),
            Field::IpSrc | Field::IpDst | Field::NdTarget => ip_field(self.ip()),
            Field::IpProto => self.pick(&[1, 6, 17, 58]),
            Field::IpTtl => self.pick(&[1, 64, 255, 255]),
            Field::L4Src | Field::L4Dst => self.pick(&[22, 23, 80, 135, 4789]),
            Field::TcpFlags => self.pick(&[0x02, 0x10, 0x12, 0x18]),
            _ => self.below(4) as u128,
        }
    }

    fn mac(&mut self) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, self.id(6) as u8])
    }

    fn ip(&mut self) -> IpAddr {
        let last = self.id(6);
        if self.one_in(2) {
            return Ipv4Addr::from_bits(0x0a09_0000 | last).into();
        }
        Ipv6Addr::from_bits(0xfd09 << 112 | u128::from(last)).into()
    }

    /// A rule of table 0 with a random match and this priority.
    pub fn rule_of_priority(&mut self, priority: u16) -> Rule {
        let mut rule = self.rule();
        rule.key.table = TableId(0);
        rule.key.priority = priority;
        rule
    }

    /// A rule that refers to nothing that a random program does not have.
    pub fn rule(&mut self) -> Rule {
        let table = TableId(self.below(usize::from(TABLES)) as u8);
        let (matches, domain, shape) = self.matches();
        let instructions = self.instructions(table);
        let key = RuleKey { table, priority: shape * 4 + self.below(4) as u16, matches };
        Rule { key, instructions, owner: format!("rule {}", self.below(1000)).into(), domain }
    }

    // The shape is a number that differs whenever the mask does.
    fn matches(&mut self) -> (Match, DomainId, u16) {
        let (mut matches, domain, pinned) = match self.below(3) {
            0 => (Match::ANY, DomainId(0), 0),
            1 => {
                let port = self.id(PORTS);
                (Match::ANY.with(Field::InPort, port.into()), domain_of(segment_of(port)), 1)
            }
            _ => {
                let segment = self.id(SEGMENTS);
                (Match::ANY.with(Field::Vni, (10 + segment).into()), domain_of(segment), 2)
            }
        };
        let mut chosen = [PIECES.len(), PIECES.len()];
        for place in &mut chosen[..self.below(3)] {
            *place = self.below(PIECES.len());
        }
        chosen.sort_unstable();
        if chosen[0] == chosen[1] || self.same_field(chosen) {
            chosen[1] = PIECES.len();
        }
        for (field, mask) in chosen.iter().filter_map(|index| PIECES.get(*index)) {
            matches = matches.with_masked(*field, self.value(*field), *mask);
        }
        let base = PIECES.len() as u16 + 1;
        (matches, domain, (chosen[0] as u16 * base + chosen[1] as u16) * 3 + pinned)
    }

    fn same_field(&self, [a, b]: [usize; 2]) -> bool {
        matches!((PIECES.get(a), PIECES.get(b)), (Some(a), Some(b)) if a.0 == b.0)
    }

    fn instructions(&mut self, table: TableId) -> Vec<Instruction> {
        let mut instructions = Vec::new();
        if !self.one_in(3) {
            instructions.push(Instruction::Apply((0..self.below(4)).map(|_| self.action()).collect()));
        }
        if self.one_in(3) {
            instructions.push(Instruction::WriteMetadata { value: self.next(), mask: self.pick(&[1, 3, u64::MAX]) });
        }
        let later = usize::from(TABLES - 1 - table.0);
        if later > 0 && !self.one_in(4) {
            instructions.push(Instruction::Goto(TableId(table.0 + 1 + self.below(later) as u8)));
        }
        instructions
    }

    fn action(&mut self) -> Action {
        let segment = SegmentId(self.id(SEGMENTS));
        match self.below(14) {
            0 | 1 => Action::Output(PortId(self.id(PORTS))),
            2 => Action::Tunnel { remote: RemoteId(self.id(REMOTES)), vni: vni(self.id(SEGMENTS)) },
            3 => Action::Flood(FloodId(self.id(FLOODS))),
            4 => {
                let field = self.pick(&[Field::EthDst, Field::EthSrc, Field::IpDst, Field::L4Dst, Field::IpTtl]);
                Action::SetField { field, value: self.value(field) }
            }
            5 => {
                let field = self.pick(&[Field::Reg0, Field::Reg3, Field::Metadata]);
                Action::SetField { field, value: self.below(4) as u128 }
            }
            6 => Action::Drop(self.pick(&[DropReason::SpoofedMac, DropReason::Policy])),
            7 | 8 => Action::Fdb { segment, miss: Miss::Flood(FloodId(self.id(FLOODS))) },
            9 => Action::Fdb { segment, miss: Miss::Drop },
            10 => Action::Learn { segment },
            11 => Action::AnswerNeighbor { segment },
            12 => {
                let field = self.pick(&[Field::IpSrc, Field::IpDst]);
                Action::LoadLabel { segment, field, register: self.pick(&[0, 3]) }
            }
            _ => Action::ReplyNeighbor { mac: self.mac() },
        }
    }

    fn location(&mut self) -> Location {
        if self.one_in(3) {
            return Location::Remote(RemoteId(self.id(REMOTES)));
        }
        Location::Local(PortId(self.id(PORTS)))
    }

    fn owner(&mut self) -> Arc<str> {
        format!("owner {}", self.below(10)).into()
    }

    fn port(&mut self, id: u32) -> PortConfig {
        let segment = SegmentId(segment_of(id));
        PortConfig { id: PortId(id), segment, live: !self.one_in(5), learn: !self.one_in(3), owner: self.owner() }
    }

    fn remote(&mut self, id: u32) -> Remote {
        let vnis = (1..=SEGMENTS).filter(|_| !self.one_in(4)).map(vni).collect();
        let kind = self.pick(&[RemoteKind::Weft, RemoteKind::Legacy]);
        let addr = Ipv4Addr::from_bits(0xc000_0200 | id).into();
        Remote { id: RemoteId(id), addr, udp_port: 4789, vnis, kind, owner: self.owner() }
    }

    fn flood(&mut self, id: u32) -> Flood {
        let ports = (1..=PORTS).filter(|_| self.one_in(2)).map(PortId).collect();
        let remotes = (1..=REMOTES).filter(|_| self.one_in(2)).map(RemoteId).collect();
        let segment = SegmentId(self.id(SEGMENTS));
        Flood { id: FloodId(id), segment, targets: FloodTargets { ports, remotes } }
    }

    fn map_entry(&mut self) -> Op {
        let segment = SegmentId(self.id(SEGMENTS));
        let (mac, ip, owner) = (self.mac(), self.ip(), self.owner());
        match self.below(3) {
            0 => Op::PutFdb(Fdb { key: FdbKey { segment, mac }, location: self.location(), owner }),
            1 => {
                let key = NeighborKey { segment, ip };
                Op::PutNeighbor(Neighbor { key, mac, location: self.location(), owner })
            }
            _ => Op::PutLabel(Label { key: LabelKey { segment, ip }, label: self.id(3), owner }),
        }
    }

    /// A consistent program with this many rules at most.
    pub fn program(&mut self, rules: usize) -> Program {
        let mut program = Program::default();
        (1..=SEGMENTS).for_each(|id| program.apply(Op::PutSegment(segment(id))));
        (1..=PORTS).for_each(|id| program.apply(Op::PutPort(self.port(id))));
        (1..=REMOTES).for_each(|id| program.apply(Op::PutRemote(self.remote(id))));
        (1..=FLOODS).for_each(|id| program.apply(Op::PutFlood(self.flood(id))));
        (0..rules).for_each(|_| program.apply(Op::PutRule(self.rule())));
        (0..12).for_each(|_| program.apply(self.map_entry()));
        program
    }

    /// A bundle of this many changes of the program at most. Some refer to what is not there and are refused.
    pub fn bundle(&mut self, program: &Program, ops: usize) -> Bundle {
        let ops = (0..1 + self.below(ops)).map(|_| self.op(program)).collect();
        Bundle { replace: false, ops, ..Bundle::default() }
    }

    fn op(&mut self, program: &Program) -> Op {
        match self.below(12) {
            0 => {
                let id = self.id(PORTS);
                Op::PutPort(self.port(id))
            }
            1 => {
                let id = self.id(REMOTES);
                Op::PutRemote(self.remote(id))
            }
            2 => {
                let id = self.id(FLOODS);
                Op::PutFlood(self.flood(id))
            }
            3..=5 => Op::PutRule(self.rule()),
            6 | 7 => self.any_key(&program.rules).map_or_else(|| self.map_entry(), Op::DeleteRule),
            8 => self.any_key(&program.fdb).map_or_else(|| self.map_entry(), Op::DeleteFdb),
            9 => self.any_key(&program.neighbors).map_or_else(|| self.map_entry(), Op::DeleteNeighbor),
            10 if self.one_in(8) => Op::DeletePort(PortId(self.id(PORTS))),
            10 if self.one_in(8) => Op::DeleteFlood(FloodId(self.id(FLOODS))),
            _ => self.map_entry(),
        }
    }

    fn any_key<K: Copy, V>(&mut self, map: &std::collections::BTreeMap<K, V>) -> Option<K> {
        (!map.is_empty()).then(|| self.below(map.len())).and_then(|index| map.keys().nth(index).copied())
    }
}

/// A bundle that makes an empty vswitch run the program.
pub fn whole(program: &Program) -> Bundle {
    Bundle { replace: true, ops: Program::default().diff(program), ..Bundle::default() }
}

/// VNI of a segment of random programs.
pub fn vni(segment: u32) -> Vni {
    Vni::new(10 + segment).expect("small")
}

fn segment(id: u32) -> Segment {
    let owner = format!("network {id}").into();
    Segment { id: SegmentId(id), vni: vni(id), mtu: 1500, domain: domain_of(id), owner }
}

/// Two ports in each segment.
const fn segment_of(port: u32) -> u32 {
    (port - 1) % SEGMENTS + 1
}

/// Segments 1 and 2 are connected.
const fn domain_of(segment: u32) -> DomainId {
    DomainId(if segment <= 2 { 1 } else { 2 })
}
