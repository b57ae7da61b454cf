//! `btd doctor` on the machine that runs the tests, whatever that is.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::btd::{Btd, Config};
use support::cannot;
use support::scratch::Scratch;

/// Runs it; gives the exit code and what it printed.
fn doctor(home: &Path, mask: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command
        .arg("doctor")
        .args(arguments)
        .env("BTD_URING_MASK", mask)
        .current_dir(home);
    let output = command.output().expect("run btd doctor");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}

/// The findings about a topic: level, what it says, and the remedy.
fn about<'a>(report: &'a Value, topic: &str) -> Vec<(&'a str, &'a str, Option<&'a str>)> {
    let findings = report["findings"].as_array().expect("findings").iter();
    let text = |finding: &'a Value, key: &str| finding[key].as_str();
    let about = findings.filter(|finding| finding["topic"] == topic);
    about
        .map(|finding| {
            let says = text(finding, "says").expect("says");
            (text(finding, "level").expect("a level"), says, text(finding, "remedy"))
        })
        .collect()
}

#[test]
fn machine_that_runs_btd_is_fit_and_its_folders_are_told() {
    let scratch = Scratch::new("doctor");
    let (watch, data) = (scratch.dir("watch"), scratch.dir("data"));
    let config = Config {
        watch: vec![(watch, data.clone())],
        ..Config::default()
    };
    fs::write(scratch.path().join("btd.toml"), config.to_toml()).expect("write a configuration");
    let (code, text) = doctor(scratch.path(), "", &["--config", "btd.toml", "--json"]);
    let report = json(&text);
    // Any machine that runs the other tests; what runs in a fallback there is the machine's affair.
    let by_verdict = match report["verdict"].as_str() {
        Some("ok" | "info") => 0,
        Some("warn") => 1,
        other => panic!("{other:?}:\n{text}"),
    };
    assert_eq!(code, Some(by_verdict), "{text}");
    let real = data.canonicalize().expect("a real path");
    let said = about(&report, "data");
    assert!(
        said.len() == 1 && said[0].1.contains(real.to_str().expect("UTF-8")),
        "{text}"
    );
    assert_eq!(
        fs::read_dir(&data).expect("listed").count(),
        0,
        "nothing is left behind"
    );
    let (_, table) = doctor(scratch.path(), "", &["--config", "btd.toml"]);
    assert!(table.lines().any(|line| line.contains("io_uring")), "{table}");
}

#[test]
fn folder_that_its_user_may_not_enter_is_warned_of() {
    if !rustix::process::geteuid().is_root() {
        return cannot("another user's part of it needs root");
    }
    // Where others may enter.
    let public = tempfile::tempdir().expect("a temporary folder");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    mode(public.path(), 0o755);
    let binary = public.path().join("btd");
    fs::copy(env!("CARGO_BIN_EXE_btd"), &binary).expect("copied");
    let (closed, below) = (public.path().join("closed"), public.path().join("closed/below"));
    fs::create_dir_all(&below).expect("made");
    mode(&closed, 0o700);
    for data in [&closed, &below] {
        let config = public.path().join("btd.toml");
        fs::write(&config, format!("[[watch]]\ndir = {closed:?}\ndata-dir = {data:?}\n")).expect("write");
        let mut command = Command::new(&binary);
        command
            .args(["doctor", "--json", "--config"])
            .arg(&config)
            .uid(65_534)
            .gid(65_534);
        let output = command.output().expect("run btd doctor");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let report = json(&text);
        let said = about(&report, "data");
        assert!(
            said.len() == 1 && said[0].0 == "warn" && said[0].1.contains("may not enter"),
            "{text}"
        );
    }
}

#[test]
fn what_runs_in_a_fallback_is_one_and_what_does_not_run_is_two() {
    let scratch = Scratch::new("doctor-codes");
    let (code, text) = doctor(scratch.path(), "buffers", &["--json"]);
    let report = json(&text);
    let said = about(&report, "io_uring");
    let expected = Some("LimitMEMLOCK=infinity in btd.service, or ulimit -l unlimited");
    assert!(
        said.iter()
            .any(|(level, _, remedy)| *level == "warn" && *remedy == expected),
        "{text}"
    );
    assert_eq!(code, Some(1));

    fs::write(scratch.path().join("btd.toml"), "[limtis]\n").expect("write a configuration");
    let (code, text) = doctor(scratch.path(), "", &["--config", "btd.toml", "--json"]);
    let report = json(&text);
    assert_eq!((code, report["verdict"].as_str()), (Some(2), Some("bad")));
    let said = about(&report, "configuration");
    assert!(said[0].1.contains("[limits]"), "{text}");
    assert_eq!(doctor(scratch.path(), "nonsense", &[]).0, Some(64));
}

#[test]
fn limits_of_a_running_btd_are_told_by_its_number() {
    let scratch = Scratch::new("doctor-pid");
    let mut command = Command::new("prlimit");
    command.args(["--nofile=700:700", "--", env!("CARGO_BIN_EXE_btd")]);
    let btd = Btd::start_within(command, scratch.path(), &Config::default());
    let pid = btd.process.pid().to_string();
    let (code, text) = doctor(scratch.path(), "", &["--config", "btd.toml", "--json", "--pid", &pid]);
    let report = json(&text);
    let said = about(&report, "nofile");
    assert!(said[0].0 == "warn" && said[0].1.starts_with("700 files"), "{text}");
    assert_eq!(code, Some(1));
    btd.stop();
}

#[test]
fn process_that_is_not_there_has_no_limits_to_look_at() {
    let scratch = Scratch::new("doctor-no-pid");
    let mut gone = Command::new("true").spawn().expect("run true");
    let pid = gone.id().to_string();
    gone.wait().expect("it ends");
    let (code, text) = doctor(scratch.path(), "", &["--pid", &pid]);
    assert_eq!((code, text.as_str()), (Some(64), ""));
}
