//! The style that a machine can hold: small files, small functions, unsafe in one room, nothing left open.

use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// What may not stand in production code, and what to do instead. Split so that this file does not find itself.
const BANNED: &[(&str, &str)] = &[
    (concat!("todo", "!("), "finish it or leave it out"),
    (concat!("unimplemented", "!("), "finish it or leave it out"),
    (concat!("FIX", "ME"), "fix it or open an issue"),
    (concat!("XX", "X"), "fix it or open an issue"),
    (concat!("allow(dead", "_code"), "delete what is dead"),
    (concat!("allow(un", "used"), "delete what is unused"),
    (concat!("#[ig", "nore"), "run it or delete it"),
    (concat!("Sys", "temTime::now"), "take the time as an argument (edges: `weft_sys::clock`)"),
];

struct Source {
    path: PathBuf,
    /// Lines before the unit tests.
    production: Vec<String>,
    whole: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the workspace can be read").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let whole = std::fs::read_to_string(&path).expect("a source can be read");
                let production = whole.lines().take_while(|l| *l != "#[cfg(test)]").map(str::to_owned).collect();
                found.push(Source {
                    path: path.strip_prefix(root()).expect("below the root").to_owned(),
                    production,
                    whole,
                });
            }
        }
    }
    found
}

fn is_test_code(path: &Path) -> bool {
    path.components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "benches" | "fuzz")))
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_passes_500_production_lines() {
    let long = |s: &Source| s.production.len() > FILE_LINES_MAX;
    let wrong: Vec<_> = sources()
        .iter()
        .filter(|s| long(s))
        .map(|s| format!("{}: {} lines", s.path.display(), s.production.len()))
        .collect();
    assert_none(&wrong);
}

#[test]
fn no_function_passes_70_lines() {
    let wrong: Vec<_> = sources().iter().flat_map(long_functions).collect();
    assert_none(&wrong);
}

/// A function ends at the closing brace of its own indentation: rustfmt sees to that.
fn long_functions(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut open: Option<(usize, usize, String)> = None;
    for (number, line) in source.production.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim_start();
        match &open {
            None if is_function(text) && !text.ends_with('}') && !text.ends_with(';') => {
                open = Some((number, indent, text.to_owned()))
            }
            Some((start, at, head)) if text.starts_with('}') && indent == *at => {
                let lines = number - start + 1;
                if lines > FUNCTION_LINES_MAX {
                    wrong.push(format!("{}:{}: {lines} lines: {head}", source.path.display(), start + 1));
                }
                open = None;
            }
            _ => {}
        }
    }
    wrong
}

fn is_function(text: &str) -> bool {
    let words = text.split_whitespace().take_while(|w| *w != "fn");
    text.split_whitespace().any(|w| w == "fn")
        && words.clone().all(|w| w.starts_with("pub") || matches!(w, "const" | "async" | "unsafe" | "extern" | "\"C\""))
}

#[test]
fn unsafe_is_in_one_room_and_every_block_says_why() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !s.path.starts_with("sys")) {
        let marks = [
            concat!("unsa", "fe {"),
            concat!("unsa", "fe fn"),
            concat!("unsa", "fe impl"),
            concat!("allow(unsa", "fe_code"),
        ];
        wrong.extend(
            marks.iter().filter(|m| source.whole.contains(**m)).map(|m| format!("{}: {m}", source.path.display())),
        );
    }
    assert_none(&wrong);
}

#[test]
fn nothing_is_left_open() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !s.path.ends_with("tidy.rs")) {
        for (number, line) in source.whole.lines().enumerate() {
            let in_unit_tests = number >= source.production.len();
            let edge = source.path.starts_with("sys") || is_test_code(&source.path) || in_unit_tests;
            let found = BANNED.iter().filter(|(what, _)| line.contains(what) && !(edge && what.starts_with("Sys")));
            wrong.extend(
                found.map(|(what, instead)| format!("{}:{}: {what}: {instead}", source.path.display(), number + 1)),
            );
        }
    }
    assert_none(&wrong);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = |s: &&Source| !s.whole.starts_with("//!") && !s.path.ends_with("build.rs");
    assert_none(&sources().iter().filter(silent).map(|s| s.path.display().to_string()).collect::<Vec<_>>());
}
