//! Who is measured: two guests that reach each other, connected by Weft, by a peer or by a bare wire.

use std::net::Ipv4Addr;

use crate::wire::Wire;

/// Contenders that are compared with each other; the first is Weft as users get it.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) contenders: Vec<Contender>,
}

/// One way to connect two guests.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    /// As the tables show it.
    pub(crate) name: String,
    pub(crate) how: How,
    pub(crate) from: Guest,
    pub(crate) to: Guest,
    /// The tests that it takes part in; `None` for all.
    pub(crate) tests: Option<&'static [&'static str]>,
}

/// What connects the guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum How {
    /// A lab of two hosts, no better than the rung; its name.
    Weft { lab: String, rung: Option<&'static str> },
    /// A script of `bench/peers/`.
    Peer { script: &'static str },
    /// One of [`crate::wire`].
    Wire(Wire),
}

/// A guest: a namespace below `/run/netns`, and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(crate) netns: String,
    pub(crate) address: Ipv4Addr,
}

/// Rungs below the best, with the tests in which they show what a rung gains.
const RUNGS: &[(&str, &[&str])] =
    &[("segment", &["tcp-1", "pps-64", "ping-pong"]), ("batch", &["tcp-1", "pps-64"]), ("single", &["tcp-1"])];

/// The comparisons.
pub(crate) fn groups() -> Vec<Group> {
    let mut vxlan = vec![weft("b", 2, None)];
    vxlan.extend(RUNGS.iter().map(|rung| weft("b", 2, Some(*rung))));
    vxlan.extend([peer("kernel", "kernel-vxlan"), peer("ovs", "ovs-vxlan"), wire(Wire::Vxlan)]);
    let local = vec![
        weft("c", 3, None),
        peer("kernel", "kernel-local"),
        peer("ovs", "ovs-local"),
        peer("ovs-tso", "ovs-local-tso"),
        wire(Wire::Local),
    ];
    vec![Group { name: "local", contenders: local }, Group { name: "vxlan", contenders: vxlan }]
}

impl Contender {
    /// Whether it takes part in the test.
    pub(crate) fn joins(&self, test: &str) -> bool {
        self.tests.is_none_or(|tests| tests.contains(&test))
    }
}

/// Guest `a` of the lab, and another one at 10.9.0.`last`.
fn weft(to: &str, last: u8, rung: Option<(&'static str, &'static [&'static str])>) -> Contender {
    let suffix = rung.map(|(name, _)| format!("-{name}")).unwrap_or_default();
    let lab = format!("bench{suffix}");
    let from = guest(format!("weft-{lab}-a"), 1);
    let to = guest(format!("weft-{lab}-{to}"), last);
    let how = How::Weft { lab, rung: rung.map(|(name, _)| name) };
    Contender { name: format!("weft{suffix}"), how, from, to, tests: rung.map(|(_, tests)| tests) }
}

fn peer(name: &str, script: &'static str) -> Contender {
    let [from, to] = ["a", "b"].map(|which| format!("bench-{script}-{which}"));
    Contender { name: name.to_owned(), how: How::Peer { script }, from: guest(from, 1), to: guest(to, 2), tests: None }
}

fn wire(wire: Wire) -> Contender {
    let (from, to) = (guest(wire.netns("a"), 1), guest(wire.netns("b"), 2));
    Contender { name: "wire".to_owned(), how: How::Wire(wire), from, to, tests: None }
}

fn guest(netns: String, last: u8) -> Guest {
    Guest { netns, address: Ipv4Addr::new(10, 9, 0, last) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_begins_with_weft_as_users_get_it_and_names_nobody_twice() {
        for group in groups() {
            assert!(matches!(group.contenders[0].how, How::Weft { rung: None, .. }));
            assert!(group.contenders[0].tests.is_none());
            let names: std::collections::BTreeSet<_> = group.contenders.iter().map(|c| &c.name).collect();
            assert_eq!(names.len(), group.contenders.len());
        }
    }
}
