//! Anti-spoof rules: what a port may say of itself.
//!
//! A port speaks with its own MAC address and its own IP addresses, and with what hosts must send before they have one:
//! ARP probes (RFC 5227), DHCP requests, duplicate address detection (RFC 4862) and multicast listener reports
//! (RFC 3590). What is neither ARP nor IP has no address to judge and passes with the right MAC address, because a
//! network is a segment of Ethernet. The contents of neighbour discovery (link-layer option, target) are judged one
//! table later: source x target x option in one table would be a cross product.

use std::net::IpAddr;

use weft_api::DropReason;
use weft_api::wire::proto::{Action, Rule};
use weft_api::wire::{Field, HostProgram};

use super::view::{NetworkView, PortView};
use super::{own_addresses, table};

pub(super) const ETHERTYPE_IPV4: u128 = 0x0800;
pub(super) const ETHERTYPE_ARP: u128 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u128 = 0x86dd;
pub(super) const PROTO_ICMPV6: u128 = 58;
pub(super) const NEIGHBOR_SOLICITATION: u128 = 135;
const PROTO_UDP: u128 = 17;
const ROUTER_SOLICITATION: u128 = 133;
const ROUTER_ADVERTISEMENT: u128 = 134;
const NEIGHBOR_ADVERTISEMENT: u128 = 136;
/// MLDv1 report and done, MLDv2 report.
const MLD: [u128; 3] = [131, 132, 143];
const DHCP_CLIENT: u128 = 68;
const DHCP_SERVER: u128 = 67;

const ALLOW: u32 = 100;
const REFUSE_ADDRESS: u32 = 50;
const ALLOW_OTHER: u32 = 45;
const REFUSE_MAC: u32 = 40;
const ND_ALLOW: u32 = 300;
const ND_REFUSE: u32 = 200;

/// Puts the rules of one local port.
pub(super) fn rules(view: &NetworkView<'_>, port: &PortView<'_>, program: &mut HostProgram) {
    let rules = Rules { port, segment: view.segment };
    rules.sources(program);
    rules.refusals(program);
    rules.neighbor_discovery(program);
}

struct Rules<'a> {
    port: &'a PortView<'a>,
    segment: u32,
}

impl Rules<'_> {
    fn rule(&self, table: u32, priority: u32, line: &str) -> Rule {
        Rule::new(table, priority, format!("port {} anti-spoof {line}", self.port.name), self.segment)
            .on_port(&self.port.name)
    }

    fn own_mac(&self, priority: u32, line: &str) -> Rule {
        self.rule(table::ANTI_SPOOF, priority, line).on(Field::EthSrc, self.mac())
    }

    fn mac(&self) -> u128 {
        self.port.mac.to_u64().into()
    }

    /// What passes.
    fn sources(&self, program: &mut HostProgram) {
        let mut allow = |rule: Rule| drop(program.insert(rule.goto(table::RESPOND)));
        let arp =
            |line: &str| self.own_mac(ALLOW, line).on(Field::EthType, ETHERTYPE_ARP).on(Field::ArpSha, self.mac());
        let ipv4 = |line: &str| self.own_mac(ALLOW, line).on(Field::EthType, ETHERTYPE_IPV4);
        let ipv6 = |line: &str| self.own_mac(ALLOW, line).on(Field::EthType, ETHERTYPE_IPV6);
        let icmpv6 =
            |line: &str, kind| ipv6(line).on(Field::IpSrc, 0).on(Field::IpProto, PROTO_ICMPV6).on(Field::L4Src, kind);
        for ip in own_addresses(self.port.mac, &self.port.ips()) {
            match ip {
                IpAddr::V4(v4) => {
                    allow(arp(&format!("arp {v4}")).on(Field::IpSrc, v4.to_bits().into()));
                    allow(ipv4(&format!("ipv4 {v4}")).on(Field::IpSrc, v4.to_bits().into()));
                }
                IpAddr::V6(v6) => allow(ipv6(&format!("ipv6 {v6}")).on(Field::IpSrc, v6.to_bits())),
            }
        }
        allow(arp("arp probe").on(Field::IpSrc, 0));
        let udp = ipv4("dhcp").on(Field::IpSrc, 0).on(Field::IpProto, PROTO_UDP);
        allow(udp.on(Field::L4Src, DHCP_CLIENT).on(Field::L4Dst, DHCP_SERVER));
        for kind in [ROUTER_SOLICITATION, NEIGHBOR_SOLICITATION] {
            allow(icmpv6("nd without address", kind));
        }
        for kind in MLD {
            allow(icmpv6("mld without address", kind));
        }
        allow(self.own_mac(ALLOW_OTHER, "other"));
    }

    /// What does not, by lower priorities.
    fn refusals(&self, program: &mut HostProgram) {
        let kinds = [("arp", ETHERTYPE_ARP), ("ipv4", ETHERTYPE_IPV4), ("ipv6", ETHERTYPE_IPV6)];
        for (line, ethertype) in kinds {
            let rule = self.own_mac(REFUSE_ADDRESS, line).on(Field::EthType, ethertype);
            program.insert(rule.apply(Action::drop_as(DropReason::SpoofedAddress)));
        }
        let rule = self.rule(table::ANTI_SPOOF, REFUSE_MAC, "mac");
        program.insert(rule.apply(Action::drop_as(DropReason::SpoofedMac)));
    }

    /// Link-layer options must name the port's MAC address, advertised targets must be its own addresses.
    fn neighbor_discovery(&self, program: &mut HostProgram) {
        let nd = |priority, line: &str, kind| {
            let rule = self.rule(table::RESPOND, priority, line).on(Field::EthType, ETHERTYPE_IPV6);
            rule.on(Field::IpProto, PROTO_ICMPV6).on(Field::L4Src, kind)
        };
        for option in [0, self.mac()] {
            let answer = nd(ND_ALLOW, "nd solicitation", NEIGHBOR_SOLICITATION).on(Field::ArpSha, option);
            program.insert(answer.apply(Action::answer_neighbor(self.segment)).goto(table::FORWARD));
            for kind in [ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT] {
                program.insert(nd(ND_ALLOW, "nd router", kind).on(Field::ArpSha, option).goto(table::FORWARD));
            }
            for ip in own_addresses(self.port.mac, &self.port.ips()) {
                let IpAddr::V6(v6) = ip else { continue };
                let line = format!("nd advertisement {v6}");
                let advertise = nd(ND_ALLOW, &line, NEIGHBOR_ADVERTISEMENT).on(Field::NdTarget, v6.to_bits());
                program.insert(advertise.on(Field::ArpSha, option).goto(table::FORWARD));
            }
        }
        for kind in [NEIGHBOR_SOLICITATION, ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT] {
            program.insert(nd(ND_REFUSE, "nd option", kind).apply(Action::drop_as(DropReason::SpoofedMac)));
        }
        let advertise = nd(ND_REFUSE, "nd advertisement", NEIGHBOR_ADVERTISEMENT);
        program.insert(advertise.apply(Action::drop_as(DropReason::SpoofedAddress)));
    }
}
