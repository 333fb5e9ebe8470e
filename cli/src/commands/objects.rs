//! `apply`, `get`, `delete`.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use weft_api::object::Kind;
use weft_api::report::{ApplyReport, ApplyStatus, ChangeKind};

use super::block_on;
use super::live::{self, Unlit};
use crate::args::{ApplyArgs, DeleteArgs, GetArgs};
use crate::client::Client;
use crate::exit::{Late, Refused, Usage};
use crate::output::{Printer, Tone, ago, count};

/// How long the controller is asked to wait at once; less than the client waits for an answer.
const WAIT_STEP: Duration = Duration::from_secs(5);
const YAML: &str = "application/yaml";

/// `weft apply`.
pub fn apply(client: &Client, printer: &Printer, args: &ApplyArgs) -> Result<()> {
    let text = read_all(&args.file)?;
    let applied = block_on(put(client, &text, args.dry_run))?;
    if args.dry_run {
        return printer.print(&applied, |_| format!("{}\nnothing was changed: this was a dry run", describe(&applied)));
    }
    let Some(wait) = args.wait else {
        return printer.print(&applied, |_| describe(&applied));
    };
    printer.say(&describe(&applied))?;
    let waited = block_on(await_all(client, applied.generation, wait))?;
    printer.print(&waited, |p| {
        let rest = live::describe(&waited.not_live, p);
        let gap = if rest.is_empty() { "" } else { "\n" };
        format!("{}{gap}{rest}", p.paint(Tone::Good, &in_force(&waited.status)))
    })
}

/// What stands once an apply was waited for.
#[derive(Debug, Serialize)]
pub struct Waited {
    /// How far the generation got.
    #[serde(flatten)]
    pub status: ApplyStatus,
    /// Ports of connected hosts that wait for something, or failed.
    pub not_live: Vec<Unlit>,
}

/// Waits until every host acknowledged a generation and no port is merely on its way, within one bound.
pub async fn await_all(client: &Client, generation: u64, wait: Duration) -> Result<Waited> {
    let deadline = Instant::now() + wait;
    let status = await_generation(client, generation, wait).await?;
    let not_live = live::await_ports(client, deadline, wait).await?;
    Ok(Waited { status, not_live })
}

/// `weft get`.
pub fn get(client: &Client, printer: &Printer, args: &GetArgs) -> Result<()> {
    let kind = args.kind;
    let mut objects: Vec<Value> = block_on(client.get(&list_path(kind, args.tenant.as_deref())))?;
    objects.retain(|o| args.name.as_ref().is_none_or(|name| o["name"].as_str() == Some(name)));
    if let (Some(name), true) = (&args.name, objects.is_empty()) {
        let tenant = args.tenant.as_ref().map(|t| format!(" of tenant `{t}`")).unwrap_or_default();
        return Err(Refused(format!("there is no {} `{name}`{tenant}", kind.word())).into());
    }
    printer.print(&objects, |p| object_table(kind, &objects, p))
}

/// `weft delete`.
pub fn delete(client: &Client, printer: &Printer, args: &DeleteArgs) -> Result<()> {
    let applied = match (&args.file, &args.kind, &args.name) {
        (Some(file), ..) => {
            let text = read_all(std::slice::from_ref(file))?;
            block_on(client.post::<ApplyReport>("/v1/delete", YAML, text))?
        }
        (None, Some(kind), Some(name)) => {
            let kind = *kind;
            if kind.is_scoped() && args.tenant.is_none() {
                return Err(Usage(format!("whose {}? Name the tenant with --tenant", kind.word())).into());
            }
            let path = list_path(kind, args.tenant.as_deref().filter(|_| kind.is_scoped()));
            block_on(client.delete::<ApplyReport>(&format!("{path}/{name}")))?
        }
        (None, ..) => return Err(Usage("delete what? Give KIND and NAME, or -f FILE".into()).into()),
    };
    printer.print(&applied, |_| describe(&applied))
}

/// Puts the objects of a manifest.
pub async fn put(client: &Client, text: &str, dry_run: bool) -> Result<ApplyReport> {
    let path = if dry_run { "/v1/apply?dry_run=true" } else { "/v1/apply" };
    client.post(path, YAML, text.to_owned()).await
}

/// Waits until every host acknowledged a generation; names those that did not.
async fn await_generation(client: &Client, generation: u64, wait: Duration) -> Result<ApplyStatus> {
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let step = left.min(WAIT_STEP).as_millis();
        let status: ApplyStatus = client.get(&format!("/v1/apply/{generation}/status?wait_ms={step}")).await?;
        if status.complete {
            return Ok(status);
        }
        if left.is_zero() {
            return Err(Late(laggards(&status, wait)).into());
        }
    }
}

fn laggards(status: &ApplyStatus, wait: Duration) -> String {
    let mut lines = vec![format!(
        "{} did not acknowledge generation {} within {}; it stays applied, and they get it when they can:",
        count(status.laggards.len(), "host"),
        status.generation,
        ago(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
    )];
    for laggard in &status.laggards {
        let contact =
            laggard.last_contact_ms.map_or_else(|| "never heard".into(), |ms| format!("last heard {} ago", ago(ms)));
        let acked =
            laggard.acked_generation.map_or_else(|| "nothing in force".into(), |g| format!("generation {g} in force"));
        let error = status.hosts.iter().find(|h| h.host == laggard.host).and_then(|h| h.error.clone());
        let error = error.map(|e| format!(", it says: {e}")).unwrap_or_default();
        lines.push(format!("  {}: {contact}, {acked}{error}", laggard.host));
    }
    lines.join("\n")
}

fn in_force(status: &ApplyStatus) -> String {
    let time = match (status.p50_ms, status.p99_ms) {
        (Some(p50), Some(p99)) => format!(" (half of them after {p50} ms, 99 % after {p99} ms)"),
        _ => String::new(),
    };
    format!("generation {} is in force on {}{time}", status.generation, count(status.hosts.len(), "host"))
}

fn describe(applied: &ApplyReport) -> String {
    let mut lines: Vec<String> = applied
        .changes
        .iter()
        .filter(|c| c.change != ChangeKind::Unchanged)
        .map(|c| format!("{} {}", c.object, format!("{:?}", c.change).to_lowercase()))
        .collect();
    let unchanged = applied.changes.len() - lines.len();
    if unchanged > 0 {
        lines.push(format!("{} unchanged", count(unchanged, "object")));
    }
    lines.push(format!("generation {}", applied.generation));
    lines.join("\n")
}

/// The texts of all files as one, each its own YAML documents.
fn read_all(files: &[PathBuf]) -> Result<String> {
    let mut texts = Vec::new();
    for file in files {
        let mut text = String::new();
        if file == Path::new("-") {
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        } else {
            text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        }
        texts.push(text);
    }
    Ok(texts.join("\n---\n"))
}

/// Where the objects of a kind are listed, and below which each is found.
fn list_path(kind: Kind, tenant: Option<&str>) -> String {
    match tenant {
        Some(tenant) if kind.is_scoped() => format!("/v1/tenants/{tenant}/{}s", kind.word()),
        _ => format!("/v1/{}s", kind.word()),
    }
}

fn object_table(kind: Kind, objects: &[Value], printer: &Printer) -> String {
    let columns: &[(&str, &str)] = match kind {
        Kind::Tenant => &[],
        Kind::Network => &[("VNI", "/vni"), ("MTU", "/mtu")],
        Kind::Subnet => &[("NETWORK", "/network"), ("CIDR", "/cidr"), ("GATEWAY", "/gateway")],
        Kind::Host => &[("KIND", "/kind"), ("ADDRESS", "/address"), ("MTU", "/mtu"), ("NETWORKS", "/networks")],
        Kind::Port => &[
            ("NETWORK", "/network"),
            ("HOST", "/host"),
            ("MAC", "/mac"),
            ("ADDRESSES", "/addresses"),
            ("ATTACH", "/attach"),
        ],
    };
    let mut head = vec!["NAME"];
    if kind.is_scoped() {
        head.insert(0, "TENANT");
    }
    head.extend(columns.iter().map(|(title, _)| *title));
    let rows = objects.iter().map(|object| {
        let mut row = vec![cell(&object["name"])];
        if kind.is_scoped() {
            row.insert(0, cell(&object["tenant"]));
        }
        row.extend(columns.iter().map(|(_, path)| cell(object["spec"].pointer(path).unwrap_or(&Value::Null))));
        row
    });
    printer.table(&head, rows)
}

/// A value as short as a table's cell should be.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields.iter().map(|(k, v)| format!("{k} {}", cell(v))).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use weft_api::report::{HostApplyStatus, Laggard, ObjectChange};

    #[test]
    fn laggards_are_named_with_their_last_contact_and_error() {
        let status = ApplyStatus {
            generation: 7,
            laggards: vec![Laggard { host: "h2".into(), last_contact_ms: Some(4000), acked_generation: Some(6) }],
            hosts: vec![HostApplyStatus {
                host: "h2".into(),
                error: Some("no TAP".into()),
                ..HostApplyStatus::default()
            }],
            ..ApplyStatus::default()
        };
        let text = laggards(&status, Duration::from_secs(30));
        assert!(text.starts_with("1 host did not acknowledge generation 7 within 30.0 s"), "{text}");
        assert!(text.ends_with("  h2: last heard 4.0 s ago, generation 6 in force, it says: no TAP"), "{text}");
    }

    #[test]
    fn cells_are_short() {
        assert_eq!(cell(&json!(["10.9.0.1", "fd09::1"])), "10.9.0.1, fd09::1");
        assert_eq!(cell(&json!({"tap": {"netns": "a", "ifname": "eth0"}})), "tap ifname eth0 netns a");
        assert_eq!(cell(&Value::Null), "-");
    }

    #[test]
    fn what_did_not_change_is_only_counted() {
        let change = |object: &str, change| ObjectChange { object: object.into(), change };
        let changes = vec![change("port red/a", ChangeKind::Created), change("host h1", ChangeKind::Unchanged)];
        let report = ApplyReport { generation: 3, dry_run: false, changes };
        assert_eq!(describe(&report), "port red/a created\n1 object unchanged\ngeneration 3");
    }

    #[test]
    fn objects_of_a_tenant_are_found_below_it() {
        assert_eq!(list_path(Kind::Port, Some("red")), "/v1/tenants/red/ports");
        assert_eq!(list_path(Kind::Port, None), "/v1/ports");
        assert_eq!(list_path(Kind::Host, Some("red")), "/v1/hosts", "hosts belong to nobody");
    }
}
