//! What `btd ctl` needs to find a btd, and what its trackers hear of what is asked.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::btd::{Btd, Config};
use support::leech::{SECONDS, info_hash};
use support::payload::Payload;
use support::scratch::Scratch;
use support::stub_tracker::StubTracker;
use support::torrent::Torrent;
use support::{wait_for, within};

fn ctl(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.arg("ctl").args(args).output().expect("run btd ctl")
}

/// The only row of an answer.
fn row(state_dir: &Path, args: &[&str]) -> Value {
    let state_dir = state_dir.to_str().expect("UTF-8");
    let output = ctl(&[&["--json", "--state-dir", state_dir], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one row")
}

/// Issue 7: it was hidden from its tracker for up to `min interval`.
#[test]
fn torrent_that_is_resumed_is_announced_at_once_and_it_is_told_when_it_is_next() {
    let scratch = Scratch::new("resume-announce");
    let (data, watch, state) = (scratch.dir("data"), scratch.dir("watch"), scratch.path().join("state"));
    let tracker = StubTracker::saying("d8:intervali1800e12:min intervali900e5:peers0:e");
    let payload = Payload::make(&data, "payload", 1, &[("payload".to_owned(), 100_000)]);
    let torrent = Torrent::create(&payload.path(), 16 << 10, watch.join("t.torrent"));
    let hash = info_hash(&torrent).to_string();
    let config = Config {
        watch: vec![(watch, data)],
        more: format!("[announce]\nallow-private = true\ntrackers = [\"{}\"]\n", tracker.url()),
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    let heard = |event: &str, count: usize| {
        wait_for(&format!("{event} is announced"), within(SECONDS), || {
            (tracker.with_event(event).len() == count).then_some(())
        });
    };
    heard("started", 1);
    row(&state, &["pause", &hash]);
    heard("stopped", 1);
    row(&state, &["resume", &hash]);
    heard("started", 2);
    let next = wait_for("it is told when it is announced next", within(SECONDS), || {
        let mut shown = row(&state, &["show", &hash]);
        let told = shown["trackers"][0].take();
        (told["state"] == "working")
            .then(|| told["next_announce"].as_u64())
            .flatten()
    });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let wait = next.saturating_sub(now.expect("after 1970").as_secs());
    assert!((800..=1800).contains(&wait), "{wait}");
    let shown = ctl(&["show", &hash, "--state-dir", state.to_str().expect("UTF-8")]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("next announce"), "{shown}");
    btd.stop();
}

/// Issue 7: nothing could be asked before the file was mended.
#[test]
fn configuration_with_a_mistake_still_says_where_a_btd_is() {
    let scratch = Scratch::new("mistaken");
    let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
    let config = Config {
        watch: vec![(watch, data)],
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    let file = scratch.path().join("btd.toml");
    let ask = || ctl(&["health", "--config", file.to_str().expect("UTF-8")]);
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let output = ask();
    assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
    for mistake in [
        "[limits]\nupload-rat = \"1 MB/s\"\n",
        "[limits\n",
        "[limits]\nupload-rate = \"1 MB/s\n",
    ] {
        fs::write(&file, config.to_toml() + mistake).expect("write a configuration");
        let output = ask();
        assert!(output.status.success(), "{mistake:?}: {}", said(&output));
        let line = config.to_toml().lines().count() + 1;
        let place = (line..line + 3).any(|line| said(&output).contains(&format!("btd.toml:{line}: ")));
        assert!(place, "it is told: {}", said(&output));
    }
    // It may be the very thing that is asked for.
    let mistaken = config.to_toml().replace("state-dir", "state-dri");
    fs::write(&file, mistaken).expect("write a configuration");
    let output = ask();
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    btd.stop();
}
