//! The import table of the rooms, as a test.
//!
//! A room may import only from those that its line names. To change the table is to change the design: give it a commit
//! of its own. The check reads the source as text, which is why imports are written as `use crate::room::...`, one for
//! each room.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may import from.
const ROOMS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("io", &[]),
    ("stats", &[]),
    // The pool describes its jobs with the types of `proto`; buffers belong to `io`; delays are counted by `stats`.
    ("hashing", &["proto", "io", "stats"]),
    // Checking payload is reading it and hashing it, unless it is known from before.
    ("storage", &["proto", "io", "hashing", "session"]),
    // Records are made of bitfields; whether they still hold is for others to find out.
    ("session", &["proto"]),
    ("tracker", &["proto", "io"]),
    ("announcer", &["proto", "io"]),
    (
        "shard",
        &["proto", "io", "stats", "storage", "hashing", "tracker", "announcer"],
    ),
    ("harness", &["proto", "hashing"]),
    // The simulator drives what the supervisor drives: of the control plane it uses what checks and downloads do.
    (
        "sim",
        &[
            "proto",
            "io",
            "stats",
            "storage",
            "session",
            "hashing",
            "tracker",
            "announcer",
            "shard",
            "control",
        ],
    ),
    (
        "control",
        &[
            "proto",
            "io",
            "stats",
            "storage",
            "session",
            "hashing",
            "tracker",
            "announcer",
            "shard",
            "harness",
        ],
    ),
];

/// The rooms that may allow unsafe code in one module, and that module. Every other room forbids it as a whole.
const UNSAFE_ROOMS: &[(&str, &str)] = &[("io", "pub mod uring;"), ("hashing", "pub mod lanes;")];

/// The binary is a door to this room.
const MAIN_IMPORTS: &[&str] = &["control"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn is_room(name: &str) -> bool {
    ROOMS.iter().any(|(room, _)| *room == name)
}

/// The identifier that a text begins with.
fn identifier(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

/// The part of a line that is not comment. A `//` inside a string is no comment.
fn code(line: &str) -> &str {
    let comment = line
        .match_indices("//")
        .find(|(at, _)| line[..*at].matches('"').count().is_multiple_of(2));
    comment.map_or(line, |(at, _)| &line[..at])
}

/// Whether the text before a path's first word can stand before a path: otherwise the word is the end of a longer one.
fn begins_path(before: &str) -> bool {
    !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$' || c == ':')
}

/// What a file of `room` imports that it may not, with the line. `depth` is how many modules it lies below the crate.
fn offences(room: &str, allowed: &[&str], depth: usize, text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, number) in text.lines().map(code).zip(1..) {
        for (at, _) in line
            .match_indices("crate::")
            .filter(|(at, _)| begins_path(&line[..*at]))
        {
            let path = &line[at + "crate::".len()..];
            let name = identifier(path);
            if name.is_empty() {
                found.push((
                    number,
                    "`use crate::{`: write one `use crate::room::...` for each room".to_owned(),
                ));
            } else if name != room && !allowed.contains(&name) {
                found.push((number, format!("`crate::{name}`")));
            }
        }
        // The way round: up to the crate by `super`.
        for (at, _) in line
            .match_indices("super::")
            .filter(|(at, _)| begins_path(&line[..*at]))
        {
            let name = line[at..].trim_start_matches("super::");
            let ups = (line[at..].len() - name.len()) / "super::".len();
            let name = identifier(name);
            if ups >= depth && is_room(name) && name != room {
                found.push((
                    number,
                    format!("`super::{name}`: write `crate::{name}`, if it is allowed at all"),
                ));
            }
        }
    }
    found
}

/// All Rust files below a folder, in a stable order.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for path in entries.map(|entry| entry.expect("a folder of the source").path()) {
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// How many modules a file lies below the crate: `room/mod.rs` 1, `room/a.rs` and `room/a/mod.rs` 2.
fn depth(file: &Path) -> usize {
    let path = file.strip_prefix(src()).expect("a file of the source");
    path.components().count() - usize::from(path.ends_with("mod.rs"))
}

#[test]
fn rooms_import_only_what_the_table_allows() {
    let mut report = String::new();
    for (room, allowed) in ROOMS {
        let dir = src().join(room);
        for file in if dir.is_dir() { rust_files(&dir) } else { Vec::new() } {
            let shown = file
                .strip_prefix(src())
                .expect("a file of the source")
                .display()
                .to_string();
            for (line, import) in offences(room, allowed, depth(&file), &read(&file)) {
                writeln!(report, "src/{shown}:{line}: {room} may not import {import}").expect("writing to a string");
            }
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn the_binary_imports_control_only() {
    let text = read(&src().join("main.rs"));
    for (line, number) in text.lines().map(code).zip(1..) {
        for (at, _) in line.match_indices("btd::").filter(|(at, _)| begins_path(&line[..*at])) {
            let name = identifier(&line[at + "btd::".len()..]);
            assert!(
                MAIN_IMPORTS.contains(&name),
                "src/main.rs:{number}: main may not import `btd::{name}`"
            );
        }
    }
}

#[test]
fn every_room_is_in_the_table() {
    for entry in fs::read_dir(src()).expect("the source folder") {
        let path = entry.expect("an entry of the source folder").path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .expect("a name in UTF-8")
            .to_owned();
        assert!(
            is_room(&name) && path.is_dir() || ["lib", "main"].contains(&name.as_str()),
            "src/{name} is no room of the table in tests/layers.rs"
        );
    }
}

#[test]
fn every_room_but_two_forbids_unsafe_code_first_of_all() {
    let may = |room: &str| UNSAFE_ROOMS.iter().any(|(unsafe_room, _)| *unsafe_room == room);
    for (room, _) in ROOMS.iter().filter(|(room, _)| !may(room)) {
        let file = src().join(room).join("mod.rs");
        if !file.exists() {
            continue; // Not built yet.
        }
        let text = read(&file);
        let first = text.lines().map(code).find(|line| !line.trim().is_empty());
        assert_eq!(
            first,
            Some("#![forbid(unsafe_code)]"),
            "the first line of code of src/{room}/mod.rs"
        );
    }
}

#[test]
fn unsafe_code_is_allowed_for_two_modules_only() {
    for file in rust_files(&src()) {
        let text = read(&file);
        let lines: Vec<&str> = text.lines().map(code).map(str::trim).collect();
        for (index, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| line.contains("allow(unsafe_code)"))
        {
            let next = lines.get(index + 1).copied().unwrap_or_default();
            let known = UNSAFE_ROOMS
                .iter()
                .any(|(room, module)| file == src().join(room).join("mod.rs") && next == *module);
            assert!(known, "{}:{}: {line} {next}", file.display(), index + 1);
        }
    }
}

#[test]
fn an_import_that_is_not_allowed_is_found() {
    let found = |text: &str| -> Vec<usize> {
        offences("shard", &["proto", "io"], 2, text)
            .into_iter()
            .map(|(line, _)| line)
            .collect()
    };
    assert_eq!(found("use crate::proto::wire;\nuse crate::control::config;\n"), [2]);
    assert_eq!(found("    let plan = crate::control::plan();"), [1]);
    assert_eq!(found("use crate::{proto::wire, control};"), [1]);
    assert_eq!(found("use super::super::control;"), [1]);
    assert_eq!(found("pub(in crate::shard) fn a() {}"), []);
    assert_eq!(
        found("use crate::shard::conn;\nuse super::conn;\nuse super::super::shard;"),
        []
    );
    assert_eq!(found("//! [`crate::control`]\nlet a = 1; // crate::control"), []);
    assert_eq!(found("let url = \"http://x\"; crate::control::go();"), [1]);
    assert_eq!(found("$crate::control!(); mycrate::control();"), []);
}
