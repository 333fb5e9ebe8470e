//! What we depend on: licenses, sources, and crates that are there twice.
//!
//! cargo-deny would do, but building it costs CI more than the whole of our own code.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{Metadata, MetadataCommand, Package};

/// Licenses that a crate may offer; one of its alternatives must be wholly made of these.
const LICENSES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates known to be there in several versions, with who needs the older one. A new name here needs a reason.
const DUPLICATES: &[&str] = &[
    // tonic keeps 0.22.
    "base64",
    // jsonschema's fancy-regex keeps 0.8 (tests only).
    "bit-vec",
    // smoltcp keeps 1.3 (tests only).
    "bitflags",
    // postcard names two versions of an optional crate that we do not build.
    "embedded-io",
    // petgraph, behind protox and jsonschema, keeps hashbrown 0.15 and its hasher.
    "foldhash",
    "hashbrown",
    // ring keeps 0.2, ahash (tests only) 0.3.
    "getrandom",
    // Procedural macros move to 3 one by one.
    "syn",
    // miette, behind protox, keeps 0.1.
    "unicode-width",
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .other_options(["--filter-platform=x86_64-unknown-linux-gnu".to_owned()])
        .exec()
        .expect("cargo metadata runs")
}

fn foreign(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata.packages.iter().filter(|p| !metadata.workspace_members.contains(&p.id))
}

/// Whether one alternative of an SPDX expression (or the old `A/B` form) consists of allowed licenses.
fn allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    plain.split(" OR ").any(|all| all.split(" AND ").all(|one| LICENSES.contains(&one.trim())))
        || plain.split(" AND ").all(|all| all.split(" OR ").any(|one| LICENSES.contains(&one.trim())))
}

#[test]
fn every_crate_has_a_permissive_license() {
    let metadata = metadata();
    let wrong: Vec<_> = foreign(&metadata)
        .filter(|p| !p.license.as_deref().is_some_and(allowed))
        .map(|p| format!("{} {}: {:?}", p.name, p.version, p.license))
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_crate_comes_from_the_registry() {
    let metadata = metadata();
    let wrong: Vec<_> = foreign(&metadata)
        .filter(|p| !p.source.as_ref().is_some_and(|s| s.is_crates_io()))
        .map(|p| p.name.to_string())
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn no_crate_is_there_in_two_versions_unless_listed() {
    let metadata = metadata();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in foreign(&metadata) {
        versions.entry(package.name.to_string()).or_default().insert(package.version.to_string());
    }
    let twice: Vec<_> = versions.iter().filter(|(n, v)| v.len() > 1 && !DUPLICATES.contains(&n.as_str())).collect();
    assert!(twice.is_empty(), "{twice:#?}");
    let stale: Vec<_> = DUPLICATES.iter().filter(|n| versions.get(**n).is_none_or(|v| v.len() < 2)).collect();
    assert!(stale.is_empty(), "no longer there twice: {stale:?}");
}
