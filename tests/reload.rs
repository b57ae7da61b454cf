//! SIGHUP: what the configuration says is in force at once, and nobody who is connected notices.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::btd::{Btd, Config};
use support::leech::{Leech, Source};
use support::payload::Payload;
use support::process::Process;
use support::scratch::Scratch;
use support::stub_tracker::StubTracker;
use support::torrent::Torrent;
use support::{http, wait_for, within};

/// Long enough for a machine that runs all tests at once.
const SECONDS: u64 = 60;
const OK: &str = "btd_config_reloads_total{result=\"ok\"}";
const REFUSED: &str = "btd_config_reloads_total{result=\"refused\"}";

/// Has btd read this configuration, and waits until it has.
fn reload(btd: &Btd, home: &Path, toml: &str) {
    let before = btd.metric(OK);
    ask(btd, home, toml, OK, before);
    assert_eq!(btd.metric("btd_config_reload_ok"), 1.0);
}

/// The same with one that is refused.
fn refuse(btd: &Btd, home: &Path, toml: &str) {
    let before = btd.metric(REFUSED);
    ask(btd, home, toml, REFUSED, before);
    assert_eq!(btd.metric("btd_config_reload_ok"), 0.0);
}

fn ask(btd: &Btd, home: &Path, toml: &str, counter: &str, before: f64) {
    fs::write(home.join("btd.toml"), toml).expect("write a configuration");
    btd.process.signal(Signal::HUP);
    wait_for(&format!("{counter} grows"), within(SECONDS), || {
        (btd.metric(counter) > before).then_some(())
    });
}

/// `key = value` lines of a section that is written at the end of a configuration.
fn limits(lines: &str) -> String {
    format!("[limits]\n{lines}\n")
}

const MIB: u64 = 1 << 20;

/// One file of so many MiB.
fn files(mib: u64) -> Vec<(String, u64)> {
    vec![("folder/payload.bin".to_owned(), mib * MIB)]
}

#[test]
fn transfer_goes_on_through_ten_reloads_and_each_upload_rate_is_kept_to_from_then_on() {
    const SLOW: u64 = 2_000_000;
    let slow = limits("upload-rate = \"2 MB/s\"");
    let source = Source::start_with("reloads", &files(48), 256 << 10, &slow);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    let home = source.scratch.path().join("seed");
    let seed = Config {
        shards: 1,
        watch: vec![(
            source.scratch.path().join("seed-watch"),
            source.scratch.path().join("seed-data"),
        )],
        ..Config::default()
    };
    let toml = |more: &str| seed.to_toml() + "\n" + more;
    let uploaded = || source.btd.metric("btd_uploaded_bytes_total");
    wait_for("the transfer is under way", within(SECONDS), || {
        (uploaded() > MIB as f64).then_some(())
    });

    // Each of them changes something, and the rate stays.
    let (begun, from) = (Instant::now(), uploaded());
    for round in 0..10 {
        let slots = format!("upload-rate = \"2 MB/s\"\nupload-slots = {}", 10 + round);
        reload(&source.btd, &home, &toml(&limits(&slots)));
    }
    wait_for("three seconds of upload", within(SECONDS), || {
        (uploaded() - from > 3.0 * SLOW as f64).then_some(())
    });
    let rate = (uploaded() - from) / begun.elapsed().as_secs_f64();
    assert!(rate < 1.2 * SLOW as f64, "{rate} bytes a second through ten reloads");
    assert!(
        leech.btd.metric("btd_torrents{state=\"downloading\"}") > 0.0,
        "it is not over yet"
    );

    // Without a limit the rest comes at once: at the old rate it would take more than fifteen seconds.
    reload(&source.btd, &home, &toml(""));
    let (begun, left) = (Instant::now(), 48.0 * MIB as f64 - uploaded());
    leech.check(&source.payload);
    let rate = left / begun.elapsed().as_secs_f64();
    assert!(
        rate > 2.0 * SLOW as f64,
        "{rate} bytes a second of {left} after the limit was lifted"
    );
    assert_eq!(
        source.btd.metric("btd_connections_accepted_total"),
        1.0,
        "nobody had to come again"
    );
    source.btd.stop();
    leech.btd.stop();
}

#[test]
fn configuration_with_a_mistake_changes_nothing_and_is_told_with_its_line() {
    let slow = limits("upload-rate = \"1 MB/s\"");
    let source = Source::start_with("typo", &files(1), 256 << 10, &slow);
    let home = source.scratch.path().join("seed");
    let good = fs::read_to_string(home.join("btd.toml")).expect("read the configuration");
    assert_eq!(
        source.btd.metric("btd_config_reload_ok"),
        1.0,
        "that of the start is good"
    );
    // Its watch folder is gone as well: nothing of it is taken over.
    let bad = good
        .replace("[[watch]]", "[[watsch]]")
        .replace("upload-rate", "uplaod-rate");
    let line = bad
        .lines()
        .position(|line| line.contains("uplaod-rate"))
        .expect("a line")
        + 1;
    refuse(&source.btd, &home, &bad);
    source.btd.wait_log("btd goes on with the configuration it had");
    source.btd.wait_log(&format!("btd.toml:{line}"));
    source.btd.wait_log("did you mean \"upload-rate\"?");
    let health = support::ctl::ask(&home, &["health"]);
    health.assert_done();
    let told = health
        .out
        .starts_with("healthy\nit goes on with the configuration it had: ");
    assert!(
        told && health.out.contains(&format!("btd.toml:{line}")),
        "{}",
        health.out
    );
    assert_eq!(source.btd.metric("btd_torrents{state=\"seeding\"}"), 1.0);

    fs::remove_file(home.join("btd.toml")).expect("remove the configuration");
    let before = source.btd.metric(REFUSED);
    source.btd.process.signal(Signal::HUP);
    wait_for("a file that is gone is refused", within(SECONDS), || {
        (source.btd.metric(REFUSED) > before).then_some(())
    });
    reload(&source.btd, &home, &good);
    assert_eq!(support::ctl::ask(&home, &["health"]).out, "healthy\n");
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    leech.check(&source.payload);
    source.btd.stop();
    leech.btd.stop();
}

/// A btd of a test's own, and folders for it.
struct Home {
    scratch: Scratch,
}

impl Home {
    fn new(name: &str) -> Self {
        Self {
            scratch: Scratch::new(name),
        }
    }

    /// A watch folder with one torrent, and its data folder with or without the payload. The payload's seed is in its name.
    fn watch(&self, name: &str, has_payload: bool) -> (PathBuf, PathBuf) {
        let (watch, data) = (
            self.scratch.dir(&format!("{name}-watch")),
            self.scratch.dir(&format!("{name}-data")),
        );
        let source = self.scratch.dir("source");
        let seed = name.bytes().map(u64::from).sum();
        let payload = Payload::make(&source, name, seed, &[(name.to_owned(), 3 * MIB)]);
        Torrent::create(&payload.path(), 64 << 10, watch.join(format!("{name}.torrent")));
        if has_payload {
            fs::copy(payload.path(), data.join(name)).expect("copy a payload");
        }
        (watch, data)
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }
}

fn config(watch: &[&(PathBuf, PathBuf)], more: &str) -> Config {
    Config {
        watch: watch.iter().copied().cloned().collect(),
        more: more.to_owned(),
        ..Config::default()
    }
}

#[test]
fn signal_that_comes_while_btd_starts_has_the_configuration_read_once_it_has() {
    let home = Home::new("early");
    let state = home.path().join("state");
    fs::create_dir(&state).expect("make the state folder");
    // Another process has the lock, and btd waits for it to end.
    let lock = fs::File::create(state.join("lock")).expect("make the lock");
    lock.lock().expect("taken");
    let config = Config::default();
    fs::write(home.path().join("btd.toml"), config.to_toml()).expect("write the configuration");
    let log = home.path().join("btd.log");
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.args(["--config", "btd.toml"]).current_dir(home.path());
    let mut process = Process::spawn("btd", &mut command, &log);
    wait_for("btd starts", within(SECONDS), || {
        process.log().contains("starts as process").then_some(())
    });
    for signal in [Signal::USR1, Signal::USR2, Signal::HUP] {
        process.signal(signal);
    }
    drop(lock);
    wait_for("the configuration is read again", within(SECONDS), || {
        process.assert_running();
        process.log().contains("the configuration was read again").then_some(())
    });
    process.signal(Signal::TERM);
    process.wait_success(within(SECONDS));
}

#[test]
fn watch_folders_come_go_and_change_their_payload() {
    let home = Home::new("folders");
    let (one, two) = (home.watch("one", true), home.watch("two", true));
    let btd = Btd::start(home.path(), &config(&[&one], ""));
    btd.wait_seeding(1);
    // Another one is served, also to who watches it later.
    reload(&btd, home.path(), &config(&[&one, &two], "").to_toml());
    btd.wait_torrents("seeding", 2);
    let three = home.watch("three", true);
    fs::copy(three.0.join("three.torrent"), two.0.join("three.torrent")).expect("copy a torrent");
    fs::copy(three.1.join("three"), two.1.join("three")).expect("copy a payload");
    btd.wait_torrents("seeding", 3);
    // One that is gone is served no more, and what happens in it is nobody's business.
    reload(&btd, home.path(), &config(&[&two], "").to_toml());
    btd.wait_torrents("seeding", 2);
    btd.wait_log("removed \"one\"");
    fs::copy(three.0.join("three.torrent"), one.0.join("three.torrent")).expect("copy a torrent");
    // Its payload is elsewhere: what is known of it is forgotten, and it is looked for there.
    let moved = (two.0.clone(), three.1.clone());
    reload(&btd, home.path(), &config(&[&moved], "").to_toml());
    btd.wait_torrents("missing", 1);
    btd.wait_torrents("seeding", 1);
    btd.wait_log("nothing to seed of \"two\"");
    // And one that comes back is served as if it had never been away. Of two that have the same torrent, either may come first.
    fs::remove_file(one.0.join("three.torrent")).expect("remove a torrent");
    reload(&btd, home.path(), &config(&[&one, &two], "").to_toml());
    btd.wait_torrents("seeding", 3);
    btd.stop();
}

#[test]
fn torrents_that_are_paused_stay_so_when_a_reload_moves_their_payload_or_their_folder_comes_back() {
    let home = Home::new("paused");
    let (one, two) = (home.watch("one", true), home.watch("two", true));
    let btd = Btd::start(home.path(), &config(&[&one, &two], ""));
    btd.wait_seeding(2);
    support::ctl::ask(home.path(), &["pause", "--all"]).assert_done();
    btd.wait_torrents("paused", 2);
    let moved = (one.0.clone(), two.1.clone());
    reload(&btd, home.path(), &config(&[&moved, &two], "").to_toml());
    btd.wait_log("removed \"one\"");
    btd.wait_torrents("paused", 2);
    reload(&btd, home.path(), &config(&[&moved], "").to_toml());
    btd.wait_torrents("paused", 1);
    reload(&btd, home.path(), &config(&[&moved, &two], "").to_toml());
    btd.wait_torrents("paused", 2);
    btd.stop();
}

/// A torrent of whose payload there is what `spoil` leaves of it, and nobody to have the rest from, until a reload names one.
fn is_downloaded_from_who_is_named(name: &str, state: &str, spoil: impl FnOnce(&mut Vec<u8>)) {
    let home = Home::new(name);
    let (there, lacking) = (
        home.watch("payload", true),
        (home.scratch.dir("watch"), home.scratch.dir("data")),
    );
    fs::copy(there.0.join("payload.torrent"), lacking.0.join("payload.torrent")).expect("copy a torrent");
    let payload = fs::read(there.1.join("payload")).expect("read a payload");
    let mut spoilt = payload.clone();
    spoil(&mut spoilt);
    fs::write(lacking.1.join("payload"), spoilt).expect("write a payload");
    let seed = Btd::start(&home.scratch.dir("seed"), &config(&[&there], ""));
    seed.wait_seeding(1);
    let mut plan = config(&[&lacking], "");
    let btd = Btd::start(home.path(), &plan);
    btd.wait_torrents(state, 1);
    plan.peers = vec![seed.peers];
    reload(&btd, home.path(), &plan.to_toml());
    btd.wait_seeding(1);
    assert!(fs::read(lacking.1.join("payload")).expect("read a payload") == payload);
    btd.stop();
    seed.stop();
}

/// A part of it is served meanwhile.
#[test]
fn peers_that_a_reload_names_are_downloaded_from() {
    is_downloaded_from_who_is_named("peers", "partial", |payload| payload.truncate(payload.len() / 2));
}

/// Nothing of it is right, so that it is not looked at again by itself.
#[test]
fn payload_of_which_nothing_is_right_is_had_from_peers_that_a_reload_names() {
    is_downloaded_from_who_is_named("spoilt", "missing", |payload| payload.fill(0));
}

#[test]
fn trackers_of_the_configuration_are_told_when_they_come_and_when_they_go() {
    let reply = "d8:intervali1800e5:peers0:e";
    let (first, second) = (StubTracker::saying(reply), StubTracker::saying(reply));
    let home = Home::new("trackers");
    let watch = home.watch("payload", true);
    let announce = |trackers: &[&StubTracker]| {
        let urls: Vec<String> = trackers.iter().map(|tracker| tracker.url()).collect();
        config(
            &[&watch],
            &format!("[announce]\nallow-private = true\ntrackers = {urls:?}\n"),
        )
    };
    let heard = |tracker: &StubTracker, event: &str| {
        wait_for(event, within(SECONDS), || {
            (!tracker.with_event(event).is_empty()).then_some(())
        });
    };
    let btd = Btd::start(home.path(), &announce(&[&first]));
    heard(&first, "started");
    reload(&btd, home.path(), &announce(&[&second]).to_toml());
    heard(&second, "started");
    heard(&first, "stopped");
    assert!(second.with_event("stopped").is_empty());
    // What stays the same is not told anew.
    reload(&btd, home.path(), &announce(&[&second]).to_toml());
    reload(&btd, home.path(), &announce(&[]).to_toml());
    heard(&second, "stopped");
    assert_eq!(
        (second.with_event("started").len(), second.with_event("stopped").len()),
        (1, 1)
    );
    btd.stop();
}

#[test]
fn tracker_is_for_the_torrents_of_the_list_that_a_reload_names() {
    let home = Home::new("lists");
    let list = |name: &str, hash: &str| fs::write(home.path().join(name), hash.repeat(20)).expect("write a list");
    list("one", "01");
    list("two", "02");
    let plan = |more: &str| config(&[], &format!("[tracker]\nhttp = \"127.0.0.1:0\"\n{more}\n"));
    let btd = Btd::start(home.path(), &plan("allow = \"one\""));
    let tracker = btd.tracker_http.expect("a tracker");
    let serves = |hash: &str| {
        let path = format!(
            "/announce?info_hash={}&peer_id={}&port=1",
            hash.repeat(20),
            "%07".repeat(20)
        );
        !http::get(tracker, &path)
            .expect("the tracker answers")
            .text()
            .contains("failure")
    };
    let becomes = |one: bool, two: bool| {
        wait_for(&format!("torrents are served: {one} {two}"), within(SECONDS), || {
            (serves("%01") == one && serves("%02") == two).then_some(())
        });
    };
    becomes(true, false);
    reload(&btd, home.path(), &plan("allow = \"two\"").to_toml());
    becomes(false, true);
    // A list that cannot be read is refused, and the tracker stays as it is.
    refuse(&btd, home.path(), &plan("allow = \"nowhere\"").to_toml());
    becomes(false, true);
    reload(&btd, home.path(), &plan("deny = \"two\"").to_toml());
    becomes(true, false);
    reload(&btd, home.path(), &plan("private = true").to_toml());
    becomes(false, false);
    reload(&btd, home.path(), &plan("").to_toml());
    becomes(true, true);
    btd.stop();
}

#[test]
fn log_level_is_that_of_the_configuration_and_what_needs_a_restart_is_named() {
    let home = Home::new("level");
    let watch = home.watch("payload", true);
    let plan = config(&[&watch], "");
    let with = |level: &str, more: &str| format!("log-level = {level:?}\n{}{more}", plan.to_toml());
    fs::write(home.path().join("btd.toml"), with("warn", "")).expect("write a configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command
        .args(["--config", "btd.toml"])
        .env_remove("RUST_LOG")
        .current_dir(home.path());
    let btd = Btd::start_by(&mut command, home.path(), &plan);
    btd.wait_seeding(1);
    assert_eq!(btd.process.log(), "", "there was nothing to warn of");
    reload(
        &btd,
        home.path(),
        &with("debug", "[storage]\ncache-size = \"64 MiB\"\n"),
    );
    btd.wait_log("but for what needs a restart: storage.cache-size");
    support::touch(&watch.0.join("payload.torrent"));
    btd.wait_log("DEBUG");
    btd.wait_log("checking \"payload\"");
    reload(&btd, home.path(), &with("error", ""));
    let len = btd.process.log().len();
    reload(
        &btd,
        home.path(),
        &with("error", "[storage]\ncache-size = \"64 MiB\"\n"),
    );
    assert_eq!(btd.process.log().len(), len, "a warning at the level of errors");
    btd.stop();
}

#[test]
fn hangups_that_come_faster_than_they_are_read_cost_nobody_his_connection() {
    let source = Source::start_with("storm", &files(8), 256 << 10, &limits("upload-rate = \"2 MB/s\""));
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    let until = Instant::now() + Duration::from_secs(2);
    let mut hangups = 0;
    while Instant::now() < until {
        source.btd.process.signal(Signal::HUP);
        leech.btd.process.signal(Signal::HUP);
        hangups += 1;
    }
    leech.check(&source.payload);
    eprintln!("{hangups} hangups were {} reloads", source.btd.metric(OK));
    assert!(source.btd.metric(OK) >= 1.0);
    assert_eq!(source.btd.metric("btd_connections_accepted_total"), 1.0);
    source.btd.stop();
    leech.btd.stop();
}

#[test]
fn peers_that_a_reload_takes_from_a_folder_are_not_called_any_more() {
    let source = Source::start("reload_peers", &files(1), 256 << 10);
    // Nobody of them has anything: each hangs up at once, and is called again after a while.
    let callee = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = std::sync::Arc::clone(&calls);
        std::thread::spawn(move || {
            while listener.accept().is_ok() {
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        (address, calls)
    };
    let ((removed, calls_removed), (kept, calls_kept)) = (callee(), callee());
    let count = |calls: &std::sync::atomic::AtomicUsize| calls.load(std::sync::atomic::Ordering::SeqCst);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![removed, kept]);
    wait_for("both are called", within(SECONDS), || {
        (count(&calls_removed) > 0 && count(&calls_kept) > 0).then_some(())
    });
    let config = Config {
        watch: vec![(source.scratch.path().join("leech/watch"), leech.data.clone())],
        peers: vec![kept],
        ..Config::default()
    };
    reload(&leech.btd, &leech.home, &config.to_toml());
    let (of_removed, of_kept) = (count(&calls_removed), count(&calls_kept));
    wait_for("the other is called three more times", within(120), || {
        (count(&calls_kept) >= of_kept + 3).then_some(())
    });
    assert_eq!(count(&calls_removed), of_removed);
}
