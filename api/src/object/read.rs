//! Reads documents from JSON values and keeps going after a mistake, so that every bad field is told at once.

use core::fmt;
use core::str::FromStr;
use std::net::IpAddr;

use serde_json::{Map, Value};
use weft_packet::{MacAddr, Vni};

use super::spec::{udp_port_default, underlay_mtu_default};
use super::{
    Attach, Cidr, HOST_NETWORKS_MAX, Host, HostKind, HostSpec, Kind, Name, NetdevAttach, Network, NetworkRef,
    NetworkSpec, Object, ObjectKey, PORT_ADDRESSES_MAX, Port, PortSpec, Subnet, SubnetSpec, TapAttach, Tenant,
    TenantSpec,
};

/// A mistake in one field of one document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldProblem {
    /// The field, as in `spec.addresses[1]`; empty for the document as a whole.
    pub path: String,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.path, self.why, self.fix)
    }
}

impl Object {
    /// Reads a document `{kind, tenant?, name, spec}`.
    pub fn from_value(value: &Value) -> Result<Self, Vec<FieldProblem>> {
        match Self::read(value) {
            (Some(object), problems) if problems.is_empty() => Ok(object),
            (_, problems) => Err(problems),
        }
    }

    /// Reads a document as far as it can be read. An object with problems lacks the fields that are bad; it is there
    /// to look for more mistakes in it.
    pub fn read(value: &Value) -> (Option<Self>, Vec<FieldProblem>) {
        let mut problems = Vec::new();
        (read_document(value, &mut problems), problems)
    }

    /// What a document calls itself, as far as it can be read: `port red/a`, `port`, or nothing.
    pub fn label_of(value: &Value) -> String {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let Some(kind) = text("kind").and_then(Kind::from_name) else { return String::new() };
        match (text("tenant"), text("name")) {
            (Some(tenant), Some(name)) if kind.is_scoped() => format!("{} {tenant}/{name}", kind.word()),
            (_, Some(name)) => format!("{} {name}", kind.word()),
            _ => kind.word().to_owned(),
        }
    }
}

impl ObjectKey {
    /// Reads whose key a document has; its spec is not looked at.
    pub fn from_value(value: &Value) -> Result<Self, Vec<FieldProblem>> {
        let mut problems = Vec::new();
        let key = Fields::open(value, "", &mut problems).and_then(|mut fields| {
            let kind = fields.required("kind", read_kind)?;
            let tenant = if kind.is_scoped() { Some(fields.required("tenant", parse::<Name>)) } else { None };
            let name = fields.required("name", parse::<Name>)?;
            Some(Self { kind, tenant: tenant.map_or(Some(None), |tenant| tenant.map(Some))?, name })
        });
        key.ok_or(problems)
    }
}

fn read_document(value: &Value, problems: &mut Vec<FieldProblem>) -> Option<Object> {
    let mut fields = Fields::open(value, "", problems)?;
    let Some(kind) = fields.required("kind", read_kind) else {
        // Without a kind nobody can say which fields belong.
        return None;
    };
    let tenant = if kind.is_scoped() { fields.required("tenant", parse::<Name>) } else { None };
    let name = fields.required("name", parse::<Name>);
    let spec = fields.take("spec").cloned().or_else(|| {
        // A tenant says nothing but its name.
        let optional = kind == Kind::Tenant;
        if !optional {
            fields.problem("spec", "is missing", "add it");
        }
        optional.then(|| Value::Object(Map::new()))
    });
    if !kind.is_scoped() && fields.object.contains_key("tenant") {
        let why = format!("a {} belongs to no tenant", kind.name());
        fields.take("tenant");
        fields.problem("tenant", &why, "leave it out");
    }
    fields.close();
    let spec = Fields::open(&spec?, "spec", problems).and_then(|fields| read_spec(kind, fields))?;
    let name = name?;
    Some(match spec {
        Spec::Tenant(spec) => Tenant { name, spec }.into(),
        Spec::Network(spec) => Network { tenant: tenant?, name, spec }.into(),
        Spec::Subnet(spec) => Subnet { tenant: tenant?, name, spec }.into(),
        Spec::Host(spec) => Host { name, spec }.into(),
        Spec::Port(spec) => Port { tenant: tenant?, name, spec }.into(),
    })
}

enum Spec {
    Tenant(TenantSpec),
    Network(NetworkSpec),
    Subnet(SubnetSpec),
    Host(HostSpec),
    Port(PortSpec),
}

fn read_spec(kind: Kind, fields: Fields<'_>) -> Option<Spec> {
    match kind {
        Kind::Tenant => {
            fields.close();
            Some(Spec::Tenant(TenantSpec {}))
        }
        Kind::Network => read_network(fields).map(Spec::Network),
        Kind::Subnet => read_subnet(fields).map(Spec::Subnet),
        Kind::Host => read_host(fields).map(Spec::Host),
        Kind::Port => read_port(fields).map(Spec::Port),
    }
}

fn read_network(mut fields: Fields<'_>) -> Option<NetworkSpec> {
    let vni = fields.optional("vni", |value| {
        Vni::new(read_number(value)?).map_err(|error| split("is not a VNI", error.to_string()))
    });
    let mtu = fields.optional("mtu", read_number);
    fields.close();
    Some(NetworkSpec { vni, mtu })
}

fn read_subnet(mut fields: Fields<'_>) -> Option<SubnetSpec> {
    let network = fields.required("network", parse::<Name>);
    let cidr = fields.required("cidr", parse::<Cidr>);
    let gateway = fields.optional("gateway", read_address);
    fields.close();
    Some(SubnetSpec { network: network?, cidr: cidr?, gateway })
}

fn read_host(mut fields: Fields<'_>) -> Option<HostSpec> {
    let kind = fields.required_or("kind", "add weft, or vtep where no Weft runs", |value| match read_text(value)? {
        "weft" => Ok(HostKind::Weft),
        "vtep" => Ok(HostKind::Vtep),
        other => Err((format!("`{other}` is no kind of host"), "write weft or vtep".to_owned())),
    });
    let address = fields.required("address", read_address);
    let udp_port = fields.optional("udp_port", read_number);
    let mtu = fields.optional("mtu", read_number);
    let networks = fields.list("networks", HOST_NETWORKS_MAX, parse::<NetworkRef>);
    fields.close();
    Some(HostSpec {
        kind: kind?,
        address: address?,
        udp_port: udp_port.unwrap_or_else(udp_port_default),
        mtu: mtu.unwrap_or_else(underlay_mtu_default),
        networks: networks.unwrap_or_default(),
    })
}

fn read_port(mut fields: Fields<'_>) -> Option<PortSpec> {
    let network = fields.required("network", parse::<Name>);
    let mac = fields.optional("mac", parse::<MacAddr>);
    let addresses = fields.list("addresses", PORT_ADDRESSES_MAX, read_address);
    let host = fields.required("host", parse::<Name>);
    let attach = fields.take("attach").cloned();
    if attach.is_none() {
        fields.problem("attach", "is missing", "add tap: {netns, ifname} or netdev: {name}");
    }
    let path = fields.path("attach");
    let attach = attach.and_then(|value| read_attach(&value, &path, fields.problems));
    fields.close();
    Some(PortSpec { network: network?, mac, addresses, host: host?, attach: attach? })
}

fn read_attach(value: &Value, path: &str, problems: &mut Vec<FieldProblem>) -> Option<Attach> {
    let mut fields = Fields::open(value, path, problems)?;
    let (tap, netdev) = (fields.take("tap").cloned(), fields.take("netdev").cloned());
    if tap.is_some() == netdev.is_some() {
        let why = if tap.is_some() { "has both tap and netdev" } else { "has neither tap nor netdev" };
        fields.problem("", why, "write one of tap: {netns, ifname} and netdev: {name}");
    }
    fields.close();
    if let Some(tap) = tap {
        let mut fields = Fields::open(&tap, &format!("{path}.tap"), problems)?;
        let netns = fields.optional("netns", |value| read_text(value).map(str::to_owned));
        let ifname = fields.required("ifname", |value| read_text(value).map(str::to_owned));
        fields.close();
        return Some(Attach::Tap(TapAttach { netns, ifname: ifname? }));
    }
    let mut fields = Fields::open(&netdev?, &format!("{path}.netdev"), problems)?;
    let name = fields.required("name", |value| read_text(value).map(str::to_owned));
    fields.close();
    Some(Attach::Netdev(NetdevAttach { name: name? }))
}

/// What is wrong with a value, and what to do.
type Wrong = (String, String);

/// The fields of one object, taken one by one; what is left at the end is unknown.
struct Fields<'a> {
    object: Map<String, Value>,
    taken: Option<Value>,
    known: Vec<&'static str>,
    path: String,
    problems: &'a mut Vec<FieldProblem>,
}

impl<'a> Fields<'a> {
    fn open(value: &Value, path: &str, problems: &'a mut Vec<FieldProblem>) -> Option<Self> {
        let Value::Object(object) = value else {
            let (why, fix) = mistyped("an object with fields", value);
            problems.push(FieldProblem { path: path.to_owned(), why, fix });
            return None;
        };
        Some(Self { object: object.clone(), taken: None, known: Vec::new(), path: path.to_owned(), problems })
    }

    /// Takes a field out; `null` stands for a field that is left out.
    fn take(&mut self, field: &'static str) -> Option<&Value> {
        self.known.push(field);
        self.taken = self.object.remove(field).filter(|value| !value.is_null());
        self.taken.as_ref()
    }

    /// Reads a field that must be there.
    fn required<T>(&mut self, field: &'static str, read: impl FnOnce(&Value) -> Result<T, Wrong>) -> Option<T> {
        self.required_or(field, "add it", read)
    }

    /// As [`Self::required`], with what to add when it is missing.
    fn required_or<T>(
        &mut self,
        field: &'static str,
        fix: &str,
        read: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        let Some(value) = self.take(field) else {
            self.problem(field, "is missing", fix);
            return None;
        };
        read(value).map_err(|(why, fix)| self.problem(field, &why, &fix)).ok()
    }

    /// Reads a field that may be left out; one that is bad counts as left out from here on.
    fn optional<T>(&mut self, field: &'static str, read: impl FnOnce(&Value) -> Result<T, Wrong>) -> Option<T> {
        read(self.take(field)?).map_err(|(why, fix)| self.problem(field, &why, &fix)).ok()
    }

    /// As [`Self::optional`], for a list; each bad item is a problem of its own.
    fn list<T>(
        &mut self,
        field: &'static str,
        len_max: usize,
        read: impl Fn(&Value) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        let items = match self.take(field)? {
            Value::Array(items) => items.clone(),
            other => {
                let (why, fix) = mistyped("a list", other);
                self.problem(field, &why, &fix);
                return None;
            }
        };
        if items.len() > len_max {
            self.problem(field, &format!("has {} items", items.len()), &format!("{len_max} are allowed"));
            return None;
        }
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            match read(item) {
                Ok(item) => list.push(item),
                Err((why, fix)) => self.problem(&format!("{field}[{index}]"), &why, &fix),
            }
        }
        (list.len() == items.len()).then_some(list)
    }

    fn path(&self, field: &str) -> String {
        match (self.path.as_str(), field) {
            (path, "") => path.to_owned(),
            ("", field) => field.to_owned(),
            (path, field) => format!("{path}.{field}"),
        }
    }

    fn problem(&mut self, field: &str, why: &str, fix: &str) {
        let path = self.path(field);
        self.problems.push(FieldProblem { path, why: why.to_owned(), fix: fix.to_owned() });
    }

    /// Reports every field that nobody took.
    fn close(mut self) {
        let fix = match self.known.as_slice() {
            [] => "leave it out: there are no fields here".to_owned(),
            known => format!("the fields here are {}", known.join(", ")),
        };
        for field in core::mem::take(&mut self.object).keys() {
            self.problem(field, "is an unknown field", &fix);
        }
    }
}

fn read_text(value: &Value) -> Result<&str, Wrong> {
    value.as_str().ok_or_else(|| mistyped("a text", value))
}

fn read_number<T: TryFrom<u64>>(value: &Value) -> Result<T, Wrong> {
    let Some(number) = value.as_u64() else { return Err(mistyped("a whole number", value)) };
    let largest = u64::MAX >> (64 - 8 * size_of::<T>());
    T::try_from(number).map_err(|_| (format!("{number} is too large"), format!("use at most {largest}")))
}

fn read_address(value: &Value) -> Result<IpAddr, Wrong> {
    let text = read_text(value)?;
    text.parse().map_err(|_| {
        (format!("`{text}` is not an IP address"), "write one such as 10.9.0.1 or fd09::1, without a length".to_owned())
    })
}

fn read_kind(value: &Value) -> Result<Kind, Wrong> {
    let text = read_text(value)?;
    Kind::from_name(text).ok_or_else(|| {
        let all: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        (format!("`{text}` is no kind of object"), format!("write one of {}", all.join(", ")))
    })
}

/// Reads a text whose type says itself what is wrong and, after a colon, what to do.
fn parse<T: FromStr<Err: fmt::Display>>(value: &Value) -> Result<T, Wrong> {
    read_text(value)?.parse().map_err(|error: T::Err| split("is refused", error.to_string()))
}

/// Splits `WHY: FIX`. What precedes the last `: ` may hold colons of its own, but none before a space.
fn split(fallback: &str, message: String) -> Wrong {
    match message.split_once(": ") {
        Some((why, fix)) => (why.to_owned(), fix.to_owned()),
        None => (fallback.to_owned(), message),
    }
}

fn mistyped(wanted: &str, value: &Value) -> Wrong {
    let (got, fix) = match value {
        Value::Null => ("nothing".to_owned(), "write it out"),
        Value::Bool(value) => (format!("the truth value {value}"), "put it in quotes if you mean a text"),
        Value::Number(value) => (format!("the number {value}"), "put it in quotes if you mean a text"),
        Value::String(_) => ("a text".to_owned(), "leave the quotes out if you mean a number"),
        Value::Array(_) => ("a list".to_owned(), "leave the dash or the brackets out"),
        Value::Object(_) => ("an object with fields".to_owned(), "write a plain value"),
    };
    let fix = if wanted.starts_with("a list") { "write [ITEM, ...]" } else { fix };
    let fix = if wanted.starts_with("an object") { "write FIELD: VALUE lines" } else { fix };
    (format!("is {got}, not {wanted}"), fix.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(value: Value) -> Vec<String> {
        Object::from_value(&value).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_document_reads_back_as_it_was_written() {
        for document in [
            json!({"kind": "Tenant", "name": "red", "spec": {}}),
            json!({"kind": "Network", "tenant": "red", "name": "blue", "spec": {"vni": 42, "mtu": 1500}}),
            json!({"kind": "Network", "tenant": "red", "name": "blue", "spec": {}}),
            json!({"kind": "Subnet", "tenant": "red", "name": "v4",
                "spec": {"network": "blue", "cidr": "10.9.0.0/24", "gateway": "10.9.0.254"}}),
            json!({"kind": "Host", "name": "h1",
                "spec": {"kind": "weft", "address": "192.0.2.1", "udp_port": 4789, "mtu": 1600}}),
            json!({"kind": "Host", "name": "old", "spec": {"kind": "vtep", "address": "2001:db8::1",
                "udp_port": 8472, "mtu": 1500, "networks": ["red/blue"]}}),
            json!({"kind": "Port", "tenant": "red", "name": "a", "spec": {"network": "blue",
                "mac": "02:00:00:00:00:01", "addresses": ["10.9.0.1", "fd09::1"], "host": "h1",
                "attach": {"tap": {"netns": "a", "ifname": "eth0"}}}}),
            json!({"kind": "Port", "tenant": "red", "name": "b", "spec": {"network": "blue", "addresses": [],
                "host": "h1", "attach": {"netdev": {"name": "veth0"}}}}),
        ] {
            let object = Object::from_value(&document).unwrap();
            assert_eq!(serde_json::to_value(&object).unwrap(), document);
            assert_eq!(serde_json::from_value::<Object>(document.clone()).unwrap(), object);
            assert_eq!(Object::label_of(&document), object.key().to_string());
        }
    }

    #[test]
    fn every_bad_field_of_a_document_is_told() {
        let told = problems(json!({"kind": "Port", "tenant": 7, "name": "A", "color": "red", "spec": {
            "mac": "02", "addresses": ["10.9.0.1/24", 5], "host": "h1", "mtu": 1500,
            "attach": {"tap": {"ifname": ["eth0"], "netns": "a", "queues": 2}}}}));
        assert_eq!(
            told,
            [
                "tenant: is the number 7, not a text: put it in quotes if you mean a text",
                "name: `A` is not a name: use 1 to 63 lowercase letters, digits and hyphens, with no hyphen at either end",
                "color: is an unknown field: the fields here are kind, tenant, name, spec",
                "spec.network: is missing: add it",
                "spec.mac: `02` is not a MAC address: write six hex octets, such as 02:00:00:00:00:01",
                "spec.addresses[0]: `10.9.0.1/24` is not an IP address: write one such as 10.9.0.1 or fd09::1, without a length",
                "spec.addresses[1]: is the number 5, not a text: put it in quotes if you mean a text",
                "spec.attach.tap.ifname: is a list, not a text: leave the dash or the brackets out",
                "spec.attach.tap.queues: is an unknown field: the fields here are netns, ifname",
                "spec.mtu: is an unknown field: the fields here are network, mac, addresses, host, attach",
            ]
        );
    }

    #[test]
    fn a_value_that_is_no_document_says_what_it_should_be() {
        assert_eq!(problems(json!([])), [": is a list, not an object with fields: write FIELD: VALUE lines"]);
        assert_eq!(problems(json!({})), ["kind: is missing: add it"]);
        assert_eq!(
            problems(json!({"kind": "Host", "name": "h1", "spec": {"address": "192.0.2.1", "mtu": 1600}})),
            ["spec.kind: is missing: add weft, or vtep where no Weft runs"]
        );
        assert_eq!(
            problems(json!({"kind": "port"})),
            ["kind: `port` is no kind of object: write one of Tenant, Network, Subnet, Host, Port"]
        );
        assert_eq!(
            problems(json!({"kind": "Host", "tenant": "red", "name": "h"})),
            ["spec: is missing: add it", "tenant: a Host belongs to no tenant: leave it out"]
        );
    }

    /// Serde's derived readers judge the ones written by hand: both accept the same specs.
    #[test]
    fn serde_accepts_what_we_accept() {
        let base = json!({"network": "blue", "mac": "02:00:00:00:00:01", "addresses": ["10.9.0.1"], "host": "h1",
            "attach": {"tap": {"netns": "a", "ifname": "eth0"}}});
        let odd =
            [json!(null), json!(1), json!("x"), json!([]), json!({}), json!(["x"]), json!({"netdev": {"name": "x"}})];
        let fields = ["network", "mac", "addresses", "host", "attach", "unknown"];
        for field in fields {
            for value in &odd {
                // Serde reads a missing `null` attach and an unknown null in its own way.
                let mut spec = base.clone();
                spec[field] = value.clone();
                let document = json!({"kind": "Port", "tenant": "red", "name": "a", "spec": spec.clone()});
                let ours = Object::from_value(&document).is_ok();
                assert_eq!(ours, serde_json::from_value::<PortSpec>(spec).is_ok(), "{field} = {value}");
            }
        }
    }
}
