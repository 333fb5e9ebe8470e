//! Imports between the rooms point one way. The table is ARCHITECTURE.md's.

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Which rooms a room may import.
const ARROWS: &[(&str, &[&str])] = &[
    ("agent", &["api", "packet", "program", "sys"]),
    ("api", &["packet"]),
    ("bench", &["agent", "api", "controller", "packet", "program", "sys", "vswitch", "vtep"]),
    ("cli", &["agent", "api", "bench", "controller", "packet", "program", "sys", "vswitch"]),
    ("controller", &["api", "packet"]),
    ("packet", &["sys"]),
    ("program", &["packet"]),
    ("sys", &[]),
    ("tests", &["agent", "api", "bench", "cli", "controller", "packet", "program", "sys", "vswitch", "vtep"]),
    ("vswitch", &["packet", "program", "sys", "vtep"]),
    ("vtep", &["packet"]),
];

#[test]
fn every_import_between_rooms_is_an_arrow_of_the_table() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata runs");
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let room = package.name.strip_prefix("weft-").expect("every room's crate is weft-ROOM");
        let Some(allowed) = arrows.get(room) else {
            wrong.push(format!("room {room} is not in the table"));
            continue;
        };
        for dependency in package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development) {
            let Some(target) = dependency.name.strip_prefix("weft-") else { continue };
            if !allowed.contains(&target) {
                wrong.push(format!("{room} imports {target}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_member_takes_its_versions_from_the_one_table() {
    let root = MetadataCommand::new().no_deps().exec().expect("cargo metadata runs").workspace_root;
    for (room, _) in ARROWS {
        let manifest = std::fs::read_to_string(root.join(room).join("Cargo.toml")).expect("a room has a manifest");
        let own_version =
            manifest.lines().find(|l| l.contains("version = \"") || l.contains("= \"0.") || l.contains("= \"1"));
        assert_eq!(own_version, None, "{room}/Cargo.toml states a version: put it into the root's table");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{room} has lints of its own");
    }
}
