//! What people do and what breaks, at random.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use weft_api::object::{Kind, Name, Object, ObjectKey};
use weft_controller::manifest::{self, Request, Verb, documents};
use weft_controller::push::Input;
use weft_controller::store::{MemoryStore, Store, Txn};

use super::guest::{Guest, SLOTS, TENANTS};
use super::world::{Event, HOSTS, World};

/// Networks per tenant.
const NETWORKS: usize = 2;

impl World {
    /// Somebody changes intent, and somebody will again.
    pub(super) fn change(&mut self) {
        if self.trouble_is_over {
            return;
        }
        let wait = self.random.micros(2_000, 120_000);
        self.agenda.after(wait, Event::Change);
        // Without a controller there is no API.
        if self.controller.hub.is_none() {
            return;
        }
        let (tenant, network) = (self.random.below(TENANTS.len()), self.random.below(NETWORKS));
        match self.random.below(100) {
            0..50 => {
                let guest = Guest { tenant, slot: self.random.below(SLOTS) };
                let host = self.random.below(HOSTS.len());
                self.put(&[(guest, network, host)]);
            }
            50..62 => self.declare_all(),
            62..78 => self.delete(|key, _| key.kind == Kind::Port, true),
            78..86 => self.delete_network(tenant, network),
            86..92 => {
                let host = self.random.pick(&HOSTS);
                self.delete(|key, object| is_of_host(key, object, host), false);
            }
            92..95 => {
                let tenant = TENANTS[tenant];
                let of_tenant = move |key: &ObjectKey| key.tenant.as_ref().unwrap_or(&key.name).as_str() == tenant;
                self.delete(|key, _| key.kind != Kind::Host && of_tenant(key), false);
            }
            _ => {
                let mtu = 1280 + self.random.below(220);
                let network = json!({"kind": "Network", "tenant": TENANTS[tenant], "name": format!("n{network}"), "spec": {"mtu": mtu}});
                let tenant = json!({"kind": "Tenant", "name": TENANTS[tenant], "spec": {}});
                self.apply(Verb::Put, vec![tenant, network]);
            }
        }
        if self.random.chance(20) {
            self.tally.queries += 1;
            let (query, host) = (self.tally.queries as u64, self.random.pick(&HOSTS).to_owned());
            self.drive_hub(Input::Query { query, host, kind: weft_api::wire::proto::QueryKind::Ports });
        }
    }

    /// Declares every guest, each somewhere.
    pub(super) fn declare_all(&mut self) {
        let placed = |guest| (guest, self.random.below(NETWORKS), self.random.below(HOSTS.len()));
        let all: Vec<_> = Guest::all().map(placed).collect();
        self.put(&all);
    }

    /// Declares guests on networks and hosts, with all that they need.
    fn put(&mut self, guests: &[(Guest, usize, usize)]) {
        let mut all = Vec::new();
        let mut add = |document: Value| {
            if !all.contains(&document) {
                all.push(document);
            }
        };
        for (guest, network, host) in guests {
            let (tenant, network) = (TENANTS[guest.tenant], format!("n{network}"));
            let address = self.hosts[*host].addr;
            add(
                json!({"kind": "Host", "name": HOSTS[*host], "spec": {"kind": "weft", "address": address, "mtu": 1600}}),
            );
            add(json!({"kind": "Tenant", "name": tenant, "spec": {}}));
            add(json!({"kind": "Network", "tenant": tenant, "name": network, "spec": {}}));
            for (name, cidr) in [("v4", "10.9.0.0/24"), ("v6", "fd09::/64")] {
                let spec = json!({"network": network, "cidr": cidr});
                add(json!({"kind": "Subnet", "tenant": tenant, "name": format!("{network}-{name}"), "spec": spec}));
            }
            let mac = guest.mac().map(|byte| format!("{byte:02x}")).join(":");
            add(json!({"kind": "Port", "tenant": tenant, "name": format!("p{}", guest.slot), "spec": {
                "network": network, "host": HOSTS[*host], "mac": mac, "addresses": [guest.ipv4(), guest.ipv6()],
                "attach": {"tap": {"netns": guest.netns(), "ifname": "eth0"}},
            }}));
        }
        self.apply(Verb::Put, all);
    }

    fn delete_network(&mut self, tenant: usize, network: usize) {
        let network = format!("n{network}");
        let of_network = |key: &ObjectKey, object: &Object| {
            let same_tenant = key.tenant.as_ref().is_some_and(|name| name.as_str() == TENANTS[tenant]);
            let on: Option<&Name> = match object {
                Object::Network(_) => Some(&key.name),
                Object::Subnet(subnet) => Some(&subnet.spec.network),
                Object::Port(port) => Some(&port.spec.network),
                _ => None,
            };
            same_tenant && on.is_some_and(|name| name.as_str() == network)
        };
        self.delete(of_network, false);
    }

    /// Deletes all objects of which it is true, or one of them.
    fn delete(&mut self, which: impl Fn(&ObjectKey, &Object) -> bool, one: bool) {
        let snapshot = self.controller.store.snapshot();
        let found = snapshot.objects.iter().filter(|(key, stored)| which(key, &stored.object));
        let mut found: Vec<Value> = found
            .map(|(key, _)| match &key.tenant {
                Some(tenant) => json!({"kind": key.kind.name(), "tenant": tenant.as_str(), "name": key.name.as_str()}),
                None => json!({"kind": key.kind.name(), "name": key.name.as_str()}),
            })
            .collect();
        if found.is_empty() {
            return;
        }
        if one {
            found = vec![self.random.pick(&found)];
        }
        self.apply(Verb::Delete, found);
    }

    fn apply(&mut self, verb: Verb, wanted: Vec<Value>) {
        let documents = documents(&Value::from(wanted).to_string()).expect("these are documents");
        let request = Request { verb, documents: &documents, revisions: Vec::new(), dry_run: false };
        let random = &mut self.random;
        match manifest::apply(&*self.controller.store, &request, &mut || random.bits()) {
            Ok(_) => self.tally.changes += 1,
            Err(why) => {
                self.tally.refusals += 1;
                self.say(&format!("refused: {why}"));
            }
        }
        let wait = self.random.micros(0, 20_000);
        self.agenda.after(wait, Event::Intent);
    }

    /// Something breaks, and something will again.
    pub(super) fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let wait = self.random.micros(5_000, 150_000);
        self.agenda.after(wait, Event::Fault);
        let host = self.random.below(HOSTS.len());
        match self.random.below(100) {
            0..20 => {
                let sessions = self.wires.of_host(Some(host));
                if !sessions.is_empty() {
                    let session = self.random.pick(&sessions);
                    self.cut(session);
                }
            }
            20..35 => {
                let lasts = self.random.micros(50_000, 5_000_000);
                self.partition(host, lasts);
            }
            35..50 => self.crash_agent(host),
            50..60 => self.crash_vswitch(host),
            60..65 => {
                self.crash_vswitch(host);
                self.crash_agent(host);
            }
            65..76 => self.crash_controller(),
            76..86 => {
                let guest = Guest { tenant: self.random.below(TENANTS.len()), slot: self.random.below(SLOTS) };
                self.hosts[host].delete_namespace(guest);
                let wait = self.random.micros(0, 2_000_000);
                self.agenda.after(wait, Event::NamespaceBack(host, guest));
            }
            _ => {
                let other = (host + 1) % HOSTS.len();
                let until = self.agenda.now() + self.random.micros(10_000, 1_000_000);
                self.torn.insert((host.min(other), host.max(other)), until);
            }
        }
    }

    /// The agent dies and is started again.
    pub(super) fn crash_agent(&mut self, host: usize) {
        self.tally.kills += 1;
        self.kill_agent(host);
        let wait = self.random.micros(0, 1_000_000);
        self.agenda.after(wait, Event::AgentStart(host));
    }

    /// The vswitch dies; its agent hears of it, or finds out.
    pub(super) fn crash_vswitch(&mut self, host: usize) {
        let Some(instance) = self.hosts[host].kill_vswitch(self.agenda.now()) else { return };
        self.tally.kills += 1;
        if self.random.chance(80) {
            let wait = self.random.micros(100, 50_000);
            self.agenda.after(wait, Event::VswitchEnded { host, instance });
        }
    }

    /// The controller dies and is started again, sometimes on a store that was restored under another id.
    pub(super) fn crash_controller(&mut self) {
        if self.controller.hub.is_none() {
            return;
        }
        self.tally.kills += 1;
        self.kill_controller();
        if self.random.chance(20) {
            let snapshot = self.controller.store.snapshot();
            let store = MemoryStore::new(format!("store-{:x}", self.random.bits()));
            let puts: Vec<Object> = snapshot.objects.values().map(|stored| Object::clone(&stored.object)).collect();
            store.commit(Txn { puts, ..Txn::default() }).expect("what one store took the next takes");
            self.controller.store = Arc::new(store);
        }
        let wait = self.random.micros(0, 1_500_000);
        self.agenda.after(wait, Event::ControllerStart);
    }

    /// Nothing breaks any more, nobody changes anything, and what is away comes back.
    pub(super) fn make_peace(&mut self) {
        self.faults = false;
        self.trouble_is_over = true;
        self.partitions.fill(None);
        self.torn.clear();
        for host in &mut self.hosts {
            host.namespaces.extend(Guest::all());
        }
        self.agenda.after(Duration::from_secs(2), Event::ControllerStart);
    }
}

fn is_of_host(key: &ObjectKey, object: &Object, host: &str) -> bool {
    match object {
        Object::Host(_) => key.name.as_str() == host,
        Object::Port(port) => port.spec.host.as_str() == host,
        _ => false,
    }
}
