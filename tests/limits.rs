//! Rates of single watch folders and of hours, and torrents that are seeded until they have given enough.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::Value;
use support::btd::{Btd, Config};
use support::ctl::row;
use support::leech::Leech;
use support::payload::Payload;
use support::scratch::Scratch;
use support::stub_tracker::StubTracker;
use support::torrent::Torrent;
use support::{wait_for, within};

const SECONDS: u64 = 60;
const MIB: u64 = 1 << 20;

/// A watch folder with one torrent, whose payload is there.
struct Folder {
    watch: PathBuf,
    data: PathBuf,
    payload: Payload,
    torrent: Torrent,
}

impl Folder {
    fn new(scratch: &Scratch, name: &str, seed: u64, mib: u64, tracker: Option<&str>) -> Self {
        let (watch, data) = (
            scratch.dir(&format!("{name}/watch")),
            scratch.dir(&format!("{name}/data")),
        );
        let payload = Payload::make(&data, name, seed, &[(name.to_owned(), mib * MIB)]);
        let plain = Torrent::create(
            &payload.path(),
            64 << 10,
            scratch.path().join(format!("{name}.torrent")),
        );
        let path = watch.join("t.torrent");
        let torrent = match tracker {
            Some(url) => plain.with_tracker(url, path),
            None => {
                fs::copy(&plain.path, &path).expect("copy a torrent");
                Torrent::open(path)
            }
        };
        Self {
            watch,
            data,
            payload,
            torrent,
        }
    }

    /// Its section, with these lines.
    fn section(&self, lines: &str) -> String {
        format!(
            "[[watch]]\ndir = {:?}\ndata-dir = {:?}\n{lines}\n",
            self.watch, self.data
        )
    }
}

fn config(more: String) -> Config {
    Config {
        shards: 2,
        more,
        ..Config::default()
    }
}

#[test]
fn torrents_of_a_folder_keep_to_its_rates_and_those_of_another_do_not_wait_for_them() {
    const RATE: u64 = 500_000;
    let scratch = Scratch::new("folder_rates");
    let (slow, fast) = (
        Folder::new(&scratch, "slow", 1, 4, None),
        Folder::new(&scratch, "fast", 2, 16, None),
    );
    let home = scratch.dir("seed");
    let with = |lines: &str| config(slow.section(lines) + &fast.section("label = \"fast\""));
    let seed = Btd::start(&home, &with("label = \"slow\"\nupload-rate = \"500 kB/s\""));
    seed.wait_seeding(2);
    let limits = row(&home, &["limits"]);
    assert_eq!(
        (&limits["upload_rate"], &limits["upload_why"]),
        (&Value::Null, &"[limits] upload-rate".into())
    );
    assert_eq!(
        (&limits["folders"][0]["label"], &limits["folders"][0]["upload_rate"]),
        (&"slow".into(), &RATE.into())
    );
    assert_eq!(limits["folders"][1]["upload_rate"], Value::Null);
    let shown = row(&home, &["show", &slow.torrent.info_hash_hex()]);
    assert_eq!(shown["label"], "slow");

    let begun = Instant::now();
    let of_slow = Leech::from(&scratch, "of_slow", &slow.torrent, vec![seed.peers]);
    let of_fast = Leech::from(&scratch, "of_fast", &fast.torrent, vec![seed.peers]);
    of_fast.check(&fast.payload);
    assert!(
        of_slow.btd.metric("btd_torrents{state=\"seeding\"}") < 1.0,
        "the other folder's is not done yet"
    );
    of_slow.check(&slow.payload);
    let least = 0.9 * (slow.payload.len() / RATE) as f64;
    assert!(
        begun.elapsed().as_secs_f64() > least,
        "{:?}, at least {least} s",
        begun.elapsed()
    );

    // What a folder downloads, likewise; and a reload changes it while it goes on.
    let into = Folder::new(&scratch, "into", 3, 1, None);
    fs::copy(&fast.torrent.path, into.watch.join("fast.torrent")).expect("copy a torrent");
    let peers = format!("peers = [\"{}\"]\n", seed.peers);
    let home = scratch.dir("leech");
    let limited = into.section(&(peers.clone() + "download-rate = \"500 kB/s\""));
    let leech = Btd::start(&home, &config(limited));
    let downloaded = || leech.metric("btd_downloaded_bytes_total");
    wait_for("it has begun", within(SECONDS), || (downloaded() > 0.0).then_some(()));
    let (begun, from) = (Instant::now(), downloaded());
    wait_for("two seconds' worth", within(SECONDS), || {
        (downloaded() - from > 2.0 * RATE as f64).then_some(())
    });
    let rate = (downloaded() - from) / begun.elapsed().as_secs_f64();
    // Figures are a second old at most.
    assert!(rate < 2.0 * RATE as f64, "{rate} bytes a second");
    fs::write(home.join("btd.toml"), config(into.section(&peers)).to_toml()).expect("write a configuration");
    leech.process.signal(Signal::HUP);
    let (begun, left) = (Instant::now(), 16.0 * MIB as f64 - downloaded());
    leech.wait_seeding(2);
    let rate = left / begun.elapsed().as_secs_f64();
    assert!(rate > 2.0 * RATE as f64, "{rate} bytes a second without a limit");
    leech.stop();
    seed.stop();
}

#[test]
fn download_rate_of_all_is_kept_to_until_a_reload_lifts_it() {
    const RATE: f64 = 500_000.0;
    let scratch = Scratch::new("download_rate");
    let from = Folder::new(&scratch, "from", 4, 16, None);
    let seed = Btd::start(&scratch.dir("seed"), &config(from.section("")));
    seed.wait_seeding(1);
    let (watch, data) = (scratch.dir("to/watch"), scratch.dir("to/data"));
    fs::copy(&from.torrent.path, watch.join("t.torrent")).expect("copy a torrent");
    let section = format!(
        "[[watch]]\ndir = {watch:?}\ndata-dir = {data:?}\npeers = [\"{}\"]\n",
        seed.peers
    );
    let home = scratch.dir("leech");
    let limited = config(format!("[limits]\ndownload-rate = \"500 kB/s\"\n{section}"));
    let leech = Btd::start(&home, &limited);
    let downloaded = || leech.metric("btd_downloaded_bytes_total");
    wait_for("it has begun", within(SECONDS), || (downloaded() > 0.0).then_some(()));
    let (begun, before) = (Instant::now(), downloaded());
    wait_for("two seconds' worth", within(SECONDS), || {
        (downloaded() - before > 2.0 * RATE).then_some(())
    });
    let rate = (downloaded() - before) / begun.elapsed().as_secs_f64();
    // Figures are a second old at most.
    assert!(rate < 2.0 * RATE, "{rate} bytes a second");
    fs::write(home.join("btd.toml"), config(section).to_toml()).expect("write a configuration");
    leech.process.signal(Signal::HUP);
    let (begun, left) = (Instant::now(), 16.0 * MIB as f64 - downloaded());
    leech.wait_seeding(1);
    let rate = left / begun.elapsed().as_secs_f64();
    assert!(rate > 1.3 * RATE, "{rate} bytes a second without a limit");
    leech.stop();
    seed.stop();
}

#[test]
fn the_rate_of_an_hour_is_in_force_from_its_first_minute_by_the_clock_on_the_wall() {
    let scratch = Scratch::new("schedule");
    let home = scratch.dir("btd");
    let unix = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970");
    // Three hours east of Greenwich; the next minute but if that is a moment away.
    let local = unix.as_secs() + 3 * 3600;
    let next = (local + 5) / 60 + 1;
    let clock = |minute: u64| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
    let slot = |from, to, rate: &str| {
        let (from, to) = (clock(from), clock(to));
        format!("[[limits.schedule]]\nfrom = \"{from}\"\nto = \"{to}\"\nupload-rate = \"{rate}\"\n")
    };
    let more = format!(
        "[limits]\nupload-rate = \"9 MB/s\"\n{}",
        slot(next, next + 120, "300 kB/s")
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.env("TZ", "<+03>-3");
    let btd = Btd::start_within(command, &home, &config(more));
    let before = row(&home, &["limits"]);
    assert_eq!(
        (&before["upload_rate"], &before["upload_why"]),
        (&9_000_000.into(), &"[limits] upload-rate".into())
    );
    wait_for("the hour begins", Instant::now() + Duration::from_secs(75), || {
        (row(&home, &["limits"])["upload_rate"] == 300_000).then_some(())
    });
    let why = row(&home, &["limits"])["upload_why"]
        .as_str()
        .expect("a text")
        .to_owned();
    assert_eq!(
        why,
        format!("[[limits.schedule]], every day {}-{}", clock(next), clock(next + 120))
    );
    assert!(
        btd.process
            .log()
            .contains("upload-rate is 300.0 kB/s, by [[limits.schedule]]")
    );
    let by_hand = row(&home, &["limits", "--upload-rate", "unlimited"]);
    assert_eq!(by_hand["upload_rate"], Value::Null);
    assert!(
        by_hand["upload_why"]
            .as_str()
            .is_some_and(|why| why.starts_with("btd ctl limits"))
    );
    // Until the configuration is read again: without a schedule this time.
    fs::write(home.join("btd.toml"), config(String::new()).to_toml()).expect("write a configuration");
    btd.process.signal(Signal::HUP);
    wait_for("the schedule is over", within(SECONDS), || {
        (row(&home, &["limits"])["upload_why"] == "[limits] upload-rate").then_some(())
    });
    btd.stop();
}

#[test]
fn a_torrent_is_seeded_until_it_has_given_enough_and_goes_on_for_ever_when_somebody_resumes_it() {
    let scratch = Scratch::new("goals");
    let stub = StubTracker::saying("d8:intervali1800e5:peers0:e");
    let ratio = Folder::new(&scratch, "ratio", 1, 2, Some(&stub.url()));
    let time = Folder::new(&scratch, "time", 2, 1, None);
    let home = scratch.dir("seed");
    let config = config(
        ratio.section("seed-ratio = 0.5") + &time.section("seed-time = \"2s\"") + "[announce]\nallow-private = true\n",
    );
    let show = |torrent: &Torrent| row(&home, &["show", &torrent.info_hash_hex()]);
    let is_finished = |torrent: &Torrent, by: &str| {
        let shown = show(torrent);
        let why = shown["why"].as_str().unwrap_or_default();
        shown["state"] == "paused" && why.starts_with("finished: ") && why.contains(by)
    };
    // Totals are gathered once a minute, but for this.
    let mut often = Command::new(env!("CARGO_BIN_EXE_btd"));
    often.env("BTD_TEST_TOTALS_EVERY", "1");
    let seed = Btd::start_within(often, &home, &config);
    wait_for("the time of one is over", within(SECONDS), || {
        is_finished(&time.torrent, "seed-time").then_some(())
    });
    assert_eq!(show(&ratio.torrent)["state"], "seeding", "it has given nothing yet");
    let leech = Leech::from(&scratch, "leech", &ratio.torrent, vec![seed.peers]);
    leech.check(&ratio.payload);
    wait_for("it has given enough", within(SECONDS), || {
        is_finished(&ratio.torrent, "seed-ratio").then_some(())
    });
    wait_for("its tracker is told", within(SECONDS), || {
        stub.with_event("stopped").pop()
    });
    assert!(
        seed.process
            .log()
            .contains("is finished: it has uploaded as many times its size")
    );
    seed.stop();

    let seed = Btd::start(&home, &config);
    wait_for("both are paused after a restart", within(SECONDS), || {
        (is_finished(&time.torrent, "seed-time") && is_finished(&ratio.torrent, "seed-ratio")).then_some(())
    });
    row(&home, &["resume", &ratio.torrent.info_hash_hex()]);
    seed.wait_seeding(1);
    seed.stop();

    let seed = Btd::start(&home, &config);
    seed.wait_seeding(1);
    // One that comes later is finished, while that one goes on.
    let later = Folder::new(&scratch, "later", 3, 1, None);
    fs::copy(later.payload.path(), time.data.join("later")).expect("copy payload");
    fs::copy(&later.torrent.path, time.watch.join("later.torrent")).expect("copy a torrent");
    wait_for("the time of another is over", within(SECONDS), || {
        let known = ctl_try(&home, &["show", &later.torrent.info_hash_hex()]);
        known.is_some_and(|shown| shown["state"] == "paused").then_some(())
    });
    let shown = show(&ratio.torrent);
    assert_eq!((&shown["state"], &shown["why"]), (&"seeding".into(), &Value::Null));
    assert!(is_finished(&time.torrent, "seed-time"));
    seed.stop();
}

/// The same where there may be no such torrent.
fn ctl_try(home: &Path, arguments: &[&str]) -> Option<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_btd"))
        .args(["ctl", "--json", "--state-dir"])
        .arg(home.join("state"))
        .args(arguments)
        .output()
        .expect("run btd ctl");
    serde_json::from_slice(&output.stdout).ok()
}
