//! What SECURITY.md and TESTING.md say of tests is so: each that they name exists, and each fuzz target is among those they tell of.
//! Each folder of the sources is on ARCHITECTURE.md's map, each breakage on purpose has its place in the sources, and
//! release builds abort at a panic.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("list a folder").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of all functions in the sources and the tests.
fn functions() -> BTreeSet<String> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    rust_files(&root().join("tests"), &mut files);
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for file in files {
        let text = read(&file);
        for (at, _) in text.match_indices("fn ") {
            let name: String = text[at + 3..].chars().take_while(|c| is_of_name(*c)).collect();
            names.insert(name);
        }
    }
    names
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether this is named like a test: a sentence.
fn is_sentence(name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.chars().all(is_word) && name.matches('_').count() >= 4
}

#[test]
fn every_breakage_has_one_place_in_the_sources() {
    let tables = [
        ("tests/mutations/table.toml", "mutant"),
        ("tests/models/broken.toml", "broken"),
    ];
    let breakages = tables.map(|(file, key)| {
        let table: toml::Table = read(&root().join(file)).parse().expect("a table of breakages");
        table[key].as_array().expect("a list").clone()
    });
    assert!(breakages.iter().all(|breakages| breakages.len() > 30));
    for mutant in breakages.iter().flatten() {
        let also = mutant.get("also").and_then(|also| also.as_array());
        for place in std::iter::once(mutant).chain(also.into_iter().flatten()) {
            let text = |key| place.get(key).and_then(toml::Value::as_str).expect("a text");
            let count = read(&root().join(text("file"))).matches(text("old")).count();
            assert_eq!(count, 1, "{} in {}: {}", mutant["name"], text("file"), text("old"));
        }
    }
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let functions = functions();
    for document in ["SECURITY.md", "TESTING.md"] {
        let text = read(&root().join(document));
        let named: Vec<&str> = quoted(&text).filter(|name| is_sentence(name)).collect();
        assert!(named.len() > 30, "{document} names {} tests", named.len());
        let missing: Vec<_> = named.iter().filter(|name| !functions.contains(**name)).collect();
        assert!(
            missing.is_empty(),
            "{document} names tests that are not there: {missing:?}"
        );
    }
}

#[test]
fn every_fuzz_target_is_told_of_built_and_has_seeds() {
    let testing = read(&root().join("TESTING.md"));
    let manifest = read(&root().join("fuzz/Cargo.toml"));
    let mut targets = Vec::new();
    rust_files(&root().join("fuzz/targets"), &mut targets);
    assert!(targets.len() >= 20, "{} targets", targets.len());
    for target in targets {
        let name = target.file_stem().and_then(|name| name.to_str()).expect("a name");
        assert!(
            quoted(&testing).any(|word| word == name),
            "TESTING.md does not tell of {name}"
        );
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not built");
        let seeds = fs::read_dir(root().join("fuzz/seeds").join(name));
        assert!(seeds.is_ok_and(|seeds| seeds.count() > 0), "{name} has no seeds");
    }
}

/// The keys of the shipped configuration, each with its section.
fn keys() -> BTreeSet<String> {
    let (mut section, mut keys) = (String::new(), BTreeSet::new());
    for line in read(&root().join("config/seed.toml")).lines() {
        let is_comment = line.starts_with("# ");
        // What is off as it is shipped has no blank behind its #.
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(head) = line.strip_prefix('[') {
            section = head.trim_matches(['[', ']']).to_owned() + ".";
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| !is_comment) {
            keys.insert(format!("{section}{name}"));
        }
    }
    keys
}

#[test]
fn every_key_of_the_configuration_has_tests_that_testing_md_tells_of() {
    let text = read(&root().join("TESTING.md"));
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with("Keys of the configuration"));
    let rows = section.expect("a table").lines().filter(|line| line.starts_with("| `"));
    let mut told = BTreeSet::new();
    for row in rows {
        let mut cells = row.split(" | ");
        let (keys, tests) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
        assert!(quoted(tests).any(is_sentence), "no test in {row}");
        for key in quoted(keys) {
            assert!(told.insert(key.to_owned()), "{key} is there twice");
        }
    }
    let keys = keys();
    assert!(keys.len() > 50, "{} keys", keys.len());
    assert_eq!(told, keys);
}

/// What is said of panics (row 40) is said of release builds.
#[test]
fn release_builds_abort_at_a_panic_and_panic_at_a_number_that_overflows() {
    let manifest: toml::Table = read(&root().join("Cargo.toml")).parse().expect("a manifest");
    let release = &manifest["profile"]["release"];
    assert_eq!(release.get("panic").and_then(toml::Value::as_str), Some("abort"));
    assert_eq!(
        release.get("overflow-checks").and_then(toml::Value::as_bool),
        Some(true)
    );
}

/// No shell, no hook, no plug-in.
#[test]
fn btd_runs_no_other_program() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    for file in files {
        // Tests of its own may.
        let within = file.strip_prefix(root()).unwrap_or(&file);
        if within.iter().any(|part| part == "tests" || part == "tests.rs") {
            continue;
        }
        let text = read(&file);
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for way in [
            "process::Command",
            "Command::new(",
            "execv",
            "posix_spawn",
            "libc::fork",
            "libc::system",
        ] {
            assert!(!text.contains(way), "{} has {way}", file.display());
        }
    }
}

/// All folders below this one but those of tests, as paths below the sources.
fn folders(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.expect("list a folder").path();
        if path.is_dir() && !path.ends_with("tests") {
            let below = path.strip_prefix(root().join("src")).expect("below the sources");
            found.push(below.to_str().expect("UTF-8").to_owned());
            folders(&path, found);
        }
    }
}

#[test]
fn every_folder_of_the_sources_is_on_the_map() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let map = text.split("\n## ").find(|section| section.starts_with("The rooms"));
    let named: BTreeSet<&str> = quoted(map.expect("a map")).collect();
    let mut found = Vec::new();
    folders(&root().join("src"), &mut found);
    assert!(found.len() > 30, "{} folders", found.len());
    for folder in &found {
        assert!(named.contains(&**folder), "ARCHITECTURE.md does not name src/{folder}");
    }
}
