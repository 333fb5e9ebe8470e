//! Whether intent makes sense: every mistake of a proposed snapshot at once, by object and field.
//!
//! The snapshot is checked as it would stand after the change, as a whole: what was fine before can be broken by a
//! change elsewhere. A conflict of two objects is told at the one that the request brings.

mod addressing;
mod bounds;
mod index;
mod references;

use std::collections::{BTreeMap, BTreeSet};

use weft_api::object::{Kind, Name, ObjectKey};

use crate::store::Snapshot;

use index::Index;

/// A mistake: at which object and field, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The object.
    pub key: ObjectKey,
    /// The field, as in `spec.addresses[1]`; empty for the object as a whole.
    pub path: String,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// A change of intent, to be judged.
#[derive(Debug, Default)]
pub struct Proposal {
    /// Intent as it would be.
    pub after: Snapshot,
    /// Intent as it is.
    pub before: Snapshot,
    /// Objects that the request brings.
    pub puts: BTreeSet<ObjectKey>,
    /// Objects that the request deletes.
    pub deletes: BTreeSet<ObjectKey>,
    /// Objects of the request that could not be read: what refers to them is not judged.
    pub unreadable: BTreeSet<ObjectKey>,
    /// What objects that could not be read refer to: object, field, and what is named there.
    pub loose: Vec<(ObjectKey, String, ObjectKey)>,
}

/// Finds every mistake.
pub fn validate(proposal: &Proposal) -> Vec<Mistake> {
    let index = Index::of(&proposal.after);
    let mut check = Check { proposal, mistakes: Vec::new(), referrers: BTreeMap::new() };
    bounds::check(&mut check);
    references::check(&mut check);
    addressing::check(&mut check, &index);
    check.close()
}

struct Check<'a> {
    proposal: &'a Proposal,
    mistakes: Vec<Mistake>,
    /// Who still refers to what the request deletes.
    referrers: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl Check<'_> {
    fn mistake(&mut self, key: &ObjectKey, path: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) {
        self.mistakes.push(Mistake { key: key.clone(), path: path.into(), why: why.into(), fix: fix.into() });
    }

    /// Whether the object is there, or would be if it could be read; else says so at who refers to it.
    fn refer(&mut self, from: &ObjectKey, path: &str, to: &ObjectKey) -> bool {
        if self.proposal.after.objects.contains_key(to) {
            return true;
        }
        if self.proposal.unreadable.contains(to) {
            return false;
        }
        if self.proposal.deletes.contains(to) && self.proposal.before.objects.contains_key(to) {
            self.referrers.entry(to.clone()).or_default().insert(from.clone());
            return false;
        }
        self.mistake(from, path, format!("there is no {to}"), "declare it, or correct the name");
        false
    }

    /// Of two objects in conflict, the one to tell it at and the other one: the request's own before what stands, the
    /// later key before the earlier.
    fn blame<'k>(&self, one: &'k ObjectKey, other: &'k ObjectKey) -> (&'k ObjectKey, &'k ObjectKey) {
        let (earlier, later) = if one < other { (one, other) } else { (other, one) };
        let brought = |key: &ObjectKey| self.proposal.puts.contains(key);
        if brought(earlier) && !brought(later) { (earlier, later) } else { (later, earlier) }
    }

    /// Whether some object of that kind and tenant could not be read.
    fn has_unreadable(&self, kind: Kind, tenant: &Name) -> bool {
        self.proposal.unreadable.iter().any(|key| key.kind == kind && key.tenant.as_ref() == Some(tenant))
    }

    fn close(mut self) -> Vec<Mistake> {
        for (deleted, referrers) in std::mem::take(&mut self.referrers) {
            let shown: Vec<String> = referrers.iter().take(REFERRERS_SHOWN_MAX).map(ToString::to_string).collect();
            let more = referrers.len() - shown.len();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let why = format!("{deleted} is still used by {}{more}", shown.join(", "));
            self.mistake(&deleted, "", why, "delete these first, or in the same request");
        }
        self.mistakes
    }
}

/// Referrers that a refused deletion names at most.
const REFERRERS_SHOWN_MAX: usize = 8;
