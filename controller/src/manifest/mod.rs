//! From a manifest to one transaction: read, check, allocate, commit. All of it or nothing.
//!
//! Planning is a pure function of the intent that stands, the documents and a random source; the commit happens only on
//! top of the same generation, and is planned again where somebody else was faster.

mod text;

pub use text::{DOCUMENTS_MAX, Document, TEXT_LEN_MAX, documents};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use weft_api::object::{FieldError, FieldErrors, FieldProblem, Kind, Name, Object, ObjectKey};
use weft_api::report::{ApplyReport, ChangeKind, ObjectChange};

use crate::allocate::{allocate, inherit};
use crate::store::{Snapshot, Store, StoreError, Stored, Txn};
use crate::validate::{Proposal, validate};

/// Mistakes that are told of one request at most.
pub const ERRORS_MAX: usize = 1000;
/// Plans made for one request before giving up against others.
const TRIES_MAX: usize = 16;

/// What a request wants of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Create or replace the object.
    Put,
    /// Delete it; only its kind, tenant and name are read.
    Delete,
}

/// A wish: documents, and what is wanted of them.
#[derive(Debug)]
pub struct Request<'a> {
    /// What is wanted of every document.
    pub verb: Verb,
    /// The documents.
    pub documents: &'a [Document],
    /// Conditions on single objects; `None` is for one that must not exist.
    pub revisions: Vec<(ObjectKey, Option<u64>)>,
    /// Plan, and tell, but do not commit.
    pub dry_run: bool,
}

/// A [`Request`] that owns its documents, to be sent to another thread.
#[derive(Debug)]
#[allow(missing_docs, reason = "as in Request")]
pub struct OwnedRequest {
    pub verb: Verb,
    pub documents: Vec<Document>,
    pub revisions: Vec<(ObjectKey, Option<u64>)>,
    pub dry_run: bool,
}

impl OwnedRequest {
    /// The request.
    pub fn borrowed(&self) -> Request<'_> {
        let Self { verb, documents, revisions, dry_run } = self;
        Request { verb: *verb, documents, revisions: revisions.clone(), dry_run: *dry_run }
    }
}

/// Why a request was refused. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The documents are wrong.
    #[error(transparent)]
    Fields(#[from] FieldErrors),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A planned transaction.
#[derive(Debug)]
pub struct Plan {
    /// What to commit.
    pub txn: Txn,
    /// What it will have done.
    pub report: ApplyReport,
}

/// Plans the request on what stands, and commits it.
pub fn apply(
    store: &dyn Store,
    request: &Request<'_>,
    random: &mut dyn FnMut() -> u64,
) -> Result<ApplyReport, ApplyError> {
    for tries_left in (0..TRIES_MAX).rev() {
        let now = store.snapshot();
        let Plan { txn, mut report } = plan(&now, request, random)?;
        if request.dry_run {
            return Ok(report);
        }
        match store.commit(txn) {
            Ok(committed) => {
                report.generation = committed.generation;
                return Ok(report);
            }
            Err(StoreError::Generation { .. }) if tries_left > 0 => {}
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the last try returns")
}

/// Makes one transaction of the request, or tells every mistake in it.
pub fn plan(now: &Snapshot, request: &Request<'_>, random: &mut dyn FnMut() -> u64) -> Result<Plan, FieldErrors> {
    let mut reading = Reading::default();
    for (index, document) in request.documents.iter().enumerate() {
        reading.read(index, document, request.verb);
    }
    let Reading { objects, deletes, origins, unreadable, loose, mut errors } = reading;
    let locate = |key: &ObjectKey, problem: FieldProblem| {
        let origin = origins.get(key).map(|index| (*index, &request.documents[*index]));
        field_error(origin, key.to_string(), problem)
    };

    let mut after = now.clone();
    for key in &deletes {
        after.objects.remove(key);
    }
    let puts: BTreeSet<ObjectKey> = objects.iter().map(Object::key).collect();
    for mut object in objects {
        let key = object.key();
        let before = now.objects.get(&key);
        if let Some(before) = before {
            inherit(&mut object, &before.object);
        }
        let revision = before.map_or(0, |before| before.revision);
        after.objects.insert(key, Stored { revision, object: Arc::new(object) });
    }
    let mut proposal = Proposal { after, before: now.clone(), puts, deletes, unreadable, loose };
    errors.extend(validate(&proposal).into_iter().map(|mistake| {
        let problem = FieldProblem { path: mistake.path, why: mistake.why, fix: mistake.fix };
        locate(&mistake.key, problem)
    }));
    if errors.is_empty() {
        let problems = allocate(&mut proposal.after, random);
        errors.extend(problems.into_iter().map(|(key, problem)| locate(&key, problem)));
    }
    if errors.is_empty() { Ok(difference(&proposal, request)) } else { Err(bounded(errors)) }
}

/// The transaction that leads from before to after.
fn difference(proposal: &Proposal, request: &Request<'_>) -> Plan {
    let mut txn =
        Txn { generation: Some(proposal.before.generation), revisions: request.revisions.clone(), ..Txn::default() };
    let mut changes = Vec::new();
    let mut note = |key: &ObjectKey, change| changes.push(ObjectChange { object: key.to_string(), change });
    // Allocation may fill in objects that the request does not name: ports whose network got its first subnet.
    for (key, stored) in &proposal.after.objects {
        match proposal.before.object(key) {
            Some(before) if *before == *stored.object => {
                if proposal.puts.contains(key) {
                    note(key, ChangeKind::Unchanged);
                }
                continue;
            }
            Some(_) => note(key, ChangeKind::Updated),
            None => note(key, ChangeKind::Created),
        }
        txn.puts.push(Object::clone(&stored.object));
    }
    for key in &proposal.deletes {
        if proposal.before.objects.contains_key(key) {
            note(key, ChangeKind::Deleted);
            txn.deletes.push(key.clone());
        } else {
            note(key, ChangeKind::Unchanged);
        }
    }
    Plan { txn, report: ApplyReport { generation: proposal.before.generation, dry_run: request.dry_run, changes } }
}

/// Documents, sorted by what they turned out to be.
#[derive(Default)]
struct Reading {
    objects: Vec<Object>,
    deletes: BTreeSet<ObjectKey>,
    /// Which document brought an object.
    origins: BTreeMap<ObjectKey, usize>,
    unreadable: BTreeSet<ObjectKey>,
    loose: Vec<(ObjectKey, String, ObjectKey)>,
    errors: Vec<FieldError>,
}

impl Reading {
    fn read(&mut self, index: usize, document: &Document, verb: Verb) {
        let (key, key_problems) = match ObjectKey::from_value(&document.value) {
            Ok(key) => (Some(key), Vec::new()),
            Err(problems) => (None, problems),
        };
        let (object, problems) = match verb {
            Verb::Put => Object::read(&document.value),
            Verb::Delete => (None, key_problems),
        };
        let label = Object::label_of(&document.value);
        let told = problems.into_iter().map(|problem| field_error(Some((index, document)), label.clone(), problem));
        self.errors.extend(told);
        let Some(key) = key else { return };
        if let Some(first) = self.origins.insert(key.clone(), index) {
            let why = format!("{key} is already in document {}", first + 1);
            let problem = FieldProblem { path: "name".to_owned(), why, fix: "keep one of them".to_owned() };
            self.errors.push(field_error(Some((index, document)), key.to_string(), problem));
            return;
        }
        match (verb, object) {
            (Verb::Delete, _) => {
                self.deletes.insert(key);
            }
            (Verb::Put, Some(object)) => self.objects.push(object),
            (Verb::Put, None) => {
                self.loose.extend(loose_references(&key, &document.value));
                self.unreadable.insert(key);
            }
        }
    }
}

/// What a document that is no object refers to, as far as it can be seen.
fn loose_references(key: &ObjectKey, value: &Value) -> Vec<(ObjectKey, String, ObjectKey)> {
    let named = |field: &str| value.get("spec")?.get(field)?.as_str()?.parse::<Name>().ok();
    let tenant = key.tenant.as_ref();
    let network = tenant.zip(named("network")).map(|(tenant, name)| ObjectKey::scoped(Kind::Network, tenant, &name));
    let host = named("host").map(|name| ObjectKey::global(Kind::Host, &name));
    [
        ("tenant", tenant.map(|tenant| ObjectKey::global(Kind::Tenant, tenant))),
        ("spec.network", network),
        ("spec.host", host),
    ]
    .into_iter()
    .filter_map(|(path, to)| Some((key.clone(), path.to_owned(), to?)))
    .collect()
}

fn field_error(origin: Option<(usize, &Document)>, object: String, problem: FieldProblem) -> FieldError {
    let FieldProblem { path, why, fix } = problem;
    let line = origin.and_then(|(_, document)| document.line(&path));
    FieldError { document: origin.map(|(index, _)| index), line, object, path, why, fix }
}

fn bounded(mut errors: Vec<FieldError>) -> FieldErrors {
    errors.sort();
    errors.dedup();
    let more = errors.len().saturating_sub(ERRORS_MAX);
    errors.truncate(ERRORS_MAX);
    if more > 0 {
        errors.push(FieldError {
            document: None,
            line: None,
            object: String::new(),
            path: String::new(),
            why: format!("there are {more} more mistakes"),
            fix: "correct these first".to_owned(),
        });
    }
    FieldErrors(errors)
}

#[cfg(test)]
mod bad_manifests;
#[cfg(test)]
mod tests;
