//! What btd says to trackers, to which, and when.

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::announce::{ALLOW, Home, SECONDS, config, leech, wait_announced, wait_asked, wait_complete};
use support::btd::{Btd, Config};
use support::process::Process;
use support::scratch::Scratch;
use support::stub_tracker::{StubTracker, parameter, reply};
use support::{wait_for, within};

#[test]
fn a_seed_says_started_and_stopped_with_what_it_has_moved() {
    let scratch = Scratch::new("announce-seed");
    let home = Home::new(&scratch, "seed", 200_000);
    let stub = StubTracker::saying("d8:intervali1800e5:peers0:15:warning message21:key 0123456789 is olde");
    home.with_tracker(&format!("{}?passkey=0123456789", stub.url()));
    let btd = Btd::start(
        &scratch.dir("btd"),
        &config(&[&home], &format!("{ALLOW}hostname = \"client1\"\n")),
    );
    let started = wait_asked(&stub, "started");
    for (name, value) in [
        ("passkey", "0123456789"),
        ("left", "0"),
        ("uploaded", "0"),
        ("downloaded", "0"),
        ("numwant", "0"),
        ("hostname", "client1"),
        ("port", &btd.peers.port().to_string()),
    ] {
        assert_eq!(parameter(&started, name), Some(value), "{started}");
    }
    assert!(parameter(&started, "peer_id").expect("a peer id").starts_with("-BT"));
    let hash: String = home
        .torrent
        .info_hash
        .iter()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => char::from(*byte).to_string(),
            byte => format!("%{byte:02x}"),
        })
        .collect();
    assert_eq!(parameter(&started, "info_hash"), Some(&*hash));
    // Somebody downloads it all.
    let mut with_peer = config(&[], "[announce]\nenabled = false\n");
    with_peer.peers = vec![btd.peers];
    let (leech, data) = leech(&scratch, "leech", &home.torrent, with_peer);
    wait_complete(&leech);
    home.payload.assert_same(&data, true);
    leech.stop();
    // What the socket has taken is counted with the next turn.
    wait_for("the upload is counted", within(10), || {
        (btd.metric("btd_uploaded_bytes_total") >= 200_000.0).then_some(())
    });
    let log = scratch.path().join("btd/btd.log");
    btd.stop();
    assert_eq!(stub.requests().len(), 2, "{:?}", stub.requests());
    let stopped = wait_asked(&stub, "stopped");
    assert_eq!(parameter(&stopped, "uploaded"), Some("200000"));
    assert_eq!(parameter(&stopped, "key"), parameter(&started, "key"));
    assert_eq!(stub.connections(), 1, "the connection is kept");
    let log = fs::read_to_string(log).expect("read a log");
    assert!(
        log.contains("http://127.0.0.1") && log.contains("\"key … is old\"") && !log.contains("0123456789"),
        "{log}"
    );
}

#[test]
fn a_tracker_that_knows_no_names_is_asked_for_them_once_and_then_for_what_it_has() {
    let scratch = Scratch::new("announce-nameless");
    let home = Home::new(&scratch, "seed", 100_000);
    // As opentracker does.
    let stub = StubTracker::start(|target, stream| match parameter(target, "compact") {
        Some("0") => {
            let refusal = b"HTTP/1.1 400 Invalid Request\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(refusal).is_ok()
        }
        _ => reply(stream, b"d8:intervali1800e5:peers0:e"),
    });
    home.with_tracker(&stub.url());
    let btd = Btd::start(
        &scratch.dir("btd"),
        &config(&[&home], &format!("{ALLOW}hostname = \"client1\"\n")),
    );
    wait_announced(&btd);
    btd.stop();
    let requests = stub.requests();
    let asked: Vec<_> = requests
        .iter()
        .map(|request| (parameter(request, "event"), parameter(request, "compact")))
        .collect();
    let expected = [
        (Some("started"), Some("0")),
        (Some("started"), None),
        (Some("stopped"), None),
    ];
    assert_eq!(asked, expected, "{requests:?}");
}

#[test]
fn due_times_are_kept_over_a_restart() {
    let scratch = Scratch::new("announce-restart");
    let homes: Vec<Home> = ["refused", "hangs", "plain", "both"]
        .iter()
        .enumerate()
        .map(|(index, name)| Home::new(&scratch, name, 50_000 + index as u64))
        .collect();
    // One asks to be left alone for an hour, one never answers that btd has stopped, and one is as it should be.
    let refuses = StubTracker::saying("d14:failure reason3:bad8:retry ini60ee");
    let hangs = StubTracker::start(|target, stream| match parameter(target, "event") {
        Some("stopped") => {
            std::thread::sleep(Duration::from_secs(60));
            false
        }
        _ => reply(stream, b"d8:intervali1800e5:peers0:e"),
    });
    let plain = StubTracker::saying("d8:intervali1800e5:peers0:e");
    for (home, stub) in homes.iter().zip([&refuses, &hangs, &plain]) {
        home.with_tracker(&stub.url());
    }
    // One has two trackers, and the first of them wants never to be asked again.
    let never = StubTracker::saying("d14:failure reason3:bad8:retry in5:nevere");
    let beside = StubTracker::saying("d8:intervali1800e5:peers0:e");
    let both = &homes[3];
    create(
        &both.payload.path(),
        &[&never.url(), &beside.url()],
        &both.watch.join("t.torrent"),
    );
    let homes: Vec<&Home> = homes.iter().collect();
    for run in 1..=2 {
        let btd = Btd::start(&scratch.dir("btd"), &config(&homes, ALLOW));
        wait_for("the plain tracker is told", within(30), || {
            (plain.with_event("started").len() == run).then_some(())
        });
        wait_for(
            "who refused is left alone, and who was not heard of is told again",
            within(30),
            || (refuses.requests().len() == 1 && hangs.with_event("started").len() == run).then_some(()),
        );
        wait_for("the second of two trackers is told", within(30), || {
            (beside.with_event("started").len() == run).then_some(())
        });
        wait_for("the answers have come", within(30), || {
            (btd.metric("btd_announces_in_flight") == 0.0).then_some(())
        });
        let from = Instant::now();
        btd.stop();
        assert!(from.elapsed() < Duration::from_secs(5));
        assert_eq!(plain.with_event("stopped").len(), run);
    }
    assert_eq!(refuses.requests().len(), 1, "{:?}", refuses.requests());
    assert_eq!(never.requests().len(), 1, "{:?}", never.requests());
    assert_eq!(
        (hangs.with_event("started").len(), hangs.with_event("stopped").len()),
        (2, 2)
    );
}

#[test]
fn trackers_are_asked_in_the_order_of_their_tiers() {
    let scratch = Scratch::new("announce-tiers");
    let home = Home::new(&scratch, "seed", 40_000);
    let gone = StubTracker::start(|_, _| false);
    let there = StubTracker::saying("d8:intervali1800e5:peers0:e");
    create(
        &home.payload.path(),
        &[&gone.url(), &there.url()],
        &home.watch.join("t.torrent"),
    );
    let btd = Btd::start(&scratch.dir("btd"), &config(&[&home], ALLOW));
    wait_asked(&there, "started");
    assert!(!gone.requests().is_empty());
    btd.stop();
    assert_eq!((there.requests().len(), gone.with_event("stopped").len()), (2, 0));
}

/// `btd create` with a tier for each tracker.
fn create(payload: &Path, trackers: &[&str], output: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.arg("create").arg(payload).arg("--output").arg(output);
    for tracker in trackers {
        command.args(["--tracker", tracker]);
    }
    let output = command.output().expect("run btd create");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_a_tracker_does_not_say_of_a_swarm_is_scraped_from_it() {
    let scratch = Scratch::new("announce-scrape");
    let (one, two) = (Home::new(&scratch, "one", 100_000), Home::new(&scratch, "two", 100_001));
    let hashes = [&one, &two].map(|home| home.torrent.info_hash.clone());
    let stub = StubTracker::start(move |target, stream| {
        if !target.starts_with("/x/scrape?k=1&info_hash=") {
            return reply(stream, b"d8:intervali1800e5:peers0:e");
        }
        let mut hashes = hashes.to_vec();
        hashes.sort();
        let mut body = b"d5:filesd".to_vec();
        for hash in hashes {
            body.extend_from_slice(b"20:");
            body.extend_from_slice(&hash);
            body.extend_from_slice(b"d8:completei7e10:downloadedi9e10:incompletei2ee");
        }
        body.extend_from_slice(b"ee");
        reply(stream, &body)
    });
    let url = format!("http://{}/x/announce?k=1", stub.addr);
    for home in [&one, &two] {
        home.with_tracker(&url);
    }
    let btd = Btd::start(&scratch.dir("btd"), &config(&[&one, &two], ALLOW));
    // A minute after the announces, when others would have been announced as well.
    wait_for("both are scraped", within(100), || {
        (btd.metric("btd_swarms_known") == 2.0).then_some(())
    });
    assert_eq!(btd.metric("btd_swarm_peers{kind=\"seeder\"}"), 14.0);
    assert_eq!(btd.metric("btd_swarm_peers{kind=\"leecher\"}"), 4.0);
    assert_eq!(btd.metric("btd_scrapes_total{result=\"ok\"}"), 1.0);
    let scrapes: Vec<String> = stub
        .requests()
        .into_iter()
        .filter(|target| target.contains("scrape"))
        .collect();
    assert!(
        scrapes.len() == 1 && scrapes[0].matches("info_hash=").count() == 2,
        "{scrapes:?}"
    );
    btd.stop();
}

#[test]
fn more_torrents_than_a_tracker_is_told_of_in_five_seconds_are_all_stopped_at_the_end() {
    let scratch = Scratch::new("announce-parting");
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    let [torrents, data] = ["watch", "data"].map(|folder| scratch.dir(folder));
    let pid = scratch.path().join("pid");
    command.args([
        "bench",
        "announcer",
        "--json",
        "--stop",
        "--torrents",
        "700",
        "--http",
        "1",
        "--udp",
        "1",
    ]);
    command.args([
        "--settle",
        "1s",
        "--time",
        "1s",
        "--interval",
        "30m",
        "--start",
        "60s",
        "--torrents-dir",
    ]);
    command
        .arg(&torrents)
        .arg("--data-dir")
        .arg(&data)
        .arg("--pid-file")
        .arg(&pid);
    let mut trackers = Process::spawn("btd bench announcer", &mut command, &scratch.path().join("report"));
    wait_for("the trackers listen", within(20), || {
        trackers.assert_running();
        trackers.log().contains("trackers").then_some(())
    });
    let config = Config {
        shards: 1,
        watch: vec![(torrents, data)],
        more: ALLOW.to_owned(),
        ..Config::default()
    };
    let mut btd = Btd::start(&scratch.dir("btd"), &config);
    let part = scratch.path().join("pid.part");
    fs::write(&part, btd.process.pid().to_string()).expect("write a pid");
    fs::rename(&part, &pid).expect("give the pid");
    trackers.wait_success(within(SECONDS));
    btd.process.wait_success(within(10));
    let log = trackers.log();
    let report: serde_json::Value = serde_json::from_str(log.lines().last().expect("a report")).expect("JSON");
    assert_eq!(report["stopped"]["torrents"], 700, "{report}");
    assert!(report["stopped"]["seconds"].as_f64() < Some(5.0), "{report}");
    assert_eq!(report["start"]["requests"], 700, "{report}");
    for most in ["start_most_per_second", "most_per_second"] {
        assert!(report[most].as_u64() <= Some(50), "{report}");
    }
    // Connections are few, and used again.
    assert!(report["start"]["connections"].as_u64() <= Some(20), "{report}");
}
