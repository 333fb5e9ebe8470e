//! Every public `parse` or `decode` function of the crate is run on a million mutated frames and must not panic; a function that
//! nobody entered in the table fails the first test.
//!
//! `SEED=n` replays a run; the seed is printed with every failure.

mod corpus;
mod fuzz_entries;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use corpus::{Numbers, mutate};
use weft_packet::Ingress;

const MUTATIONS: usize = 1_000_000;

#[test]
fn every_public_parse_function_has_a_fuzz_entry() {
    let mut found = vec![];
    scan(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path(), &mut found);
    assert!(found.len() >= 16, "the scan finds the functions: {found:?}");
    let entered = |name: &String| fuzz_entries::ENTRIES.iter().any(|(entry, _)| entry == name);
    let missing: Vec<_> = found.iter().filter(|name| !entered(name)).collect();
    assert!(missing.is_empty(), "add to tests/fuzz_entries/mod.rs: {missing:?}");
}

#[test]
fn a_parse_function_is_found_in_a_source_text() {
    let source = "impl<'a> View<'a> {\n    pub fn parse(b: &[u8]) {}\n    fn parse_inner() {}\n}\n\
                  impl fmt::Debug for Other {\n}\npub const fn parse_it() {}\n#[cfg(test)]\npub fn parse_test() {}\n";
    assert_eq!(parse_functions("file", source), ["file::View::parse", "file::parse_it"]);
}

/// Runs `entry` on mutated pieces of the corpus that start at a header.
fn bombard(name: &str, entry: fn(&[u8])) {
    let seed = corpus::seed();
    println!("{name}: SEED={seed}");
    let mut numbers = Numbers::new(seed);
    let pieces = pieces();
    let mut bytes = vec![];
    for round in 0..MUTATIONS {
        bytes.clear();
        bytes.extend(&pieces[numbers.below(pieces.len())]);
        mutate(&mut bytes, &mut numbers);
        if catch_unwind(AssertUnwindSafe(|| entry(&bytes))).is_err() {
            panic!("{name} panicked in round {round} of SEED={seed} on {bytes:02x?}");
        }
    }
}

fn pieces() -> Vec<Vec<u8>> {
    let starts = |frame: Vec<u8>| {
        let parsed = weft_packet::parse(&frame, Ingress::default()).expect("the corpus is valid");
        let mut starts = vec![0, 14, parsed.l3, parsed.l4, parsed.payload];
        starts.sort_unstable();
        starts.dedup();
        starts.into_iter().map(move |start| frame[start.into()..].to_vec())
    };
    corpus::frames().into_iter().flat_map(starts).collect()
}

fn scan(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            scan(&path, found);
            continue;
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        found.extend(parse_functions(&stem, &std::fs::read_to_string(&path).unwrap()));
    }
}

/// The public functions whose name starts with `parse` or `decode`, as `file::Type::function`, in front of the tests.
fn parse_functions(file: &str, source: &str) -> Vec<String> {
    let mut owner = None;
    let mut found = vec![];
    for line in source.lines().take_while(|line| !line.starts_with("#[cfg(test)]")) {
        if line.starts_with("impl") {
            let head = line.split('{').next().unwrap_or(line).trim_end();
            let name = head.rsplit(' ').next().unwrap_or(head);
            owner = Some(name.split('<').next().unwrap_or(name).to_owned());
        }
        let text = line.trim_start();
        let Some(rest) = text.strip_prefix("pub fn ").or_else(|| text.strip_prefix("pub const fn ")) else { continue };
        if !rest.starts_with("parse") && !rest.starts_with("decode") {
            continue;
        }
        let function = rest.split(['(', '<']).next().unwrap_or(rest);
        let is_method = line.starts_with(' ');
        match owner.as_deref().filter(|_| is_method) {
            Some(owner) => found.push(format!("{file}::{owner}::{function}")),
            None => found.push(format!("{file}::{function}")),
        }
    }
    found
}
