//! Peers that are found through trackers: btd by others, others by btd, by address and by name.

mod support;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use support::announce::{ALLOW, Home, SECONDS, config, leech, wait_announced, wait_asked, wait_complete};
use support::btd::{Btd, Config};
use support::client::Client;
use support::private_net::{self, CLIENTS, SEED};
use support::process::Process;
use support::scratch::Scratch;
use support::stub_tracker::{StubTracker, parameter};
use support::tracker::Tracker;
use support::{installed, skip, wait_for, within};

const PORT: u16 = 6_969;

/// opentracker in the private network, btd seeding on another address, and what a client downloads by it alone.
fn with_opentracker(name: &str, run: impl FnOnce(&Scratch, &Home, &Tracker)) {
    private_net::run(name, || {
        if !installed("opentracker") {
            return skip("`opentracker` is not installed (hint: tests/run installs it)");
        }
        let scratch = Scratch::new(name);
        let home = Home::new(&scratch, "seed", 3_000_001);
        let tracker = Tracker::start(
            &scratch.dir("tracker"),
            SocketAddr::new(CLIENTS[0], PORT),
            std::slice::from_ref(&home.torrent),
        );
        run(&scratch, &home, &tracker);
    });
}

#[test]
fn aria2_finds_btd_through_opentracker() {
    with_opentracker("aria2_finds_btd_through_opentracker", |scratch, home, tracker| {
        if !installed("aria2c") {
            return skip("`aria2c` is not installed (hint: tests/run installs it)");
        }
        let torrent = home.with_tracker(&tracker.announce_url());
        let seed = Btd::start(
            &scratch.dir("btd"),
            &Config {
                listen: SEED,
                ..config(&[home], ALLOW)
            },
        );
        wait_announced(&seed);
        let save = scratch.dir("save");
        let mut command = Command::new("aria2c");
        command
            .arg(format!("--dir={}", save.display()))
            .arg(&torrent.path)
            .env("HOME", scratch.path());
        command.arg(format!("--interface={}", CLIENTS[1]));
        command.args([
            "--no-conf",
            "--listen-port=51413",
            "--seed-time=0",
            "--enable-dht=false",
            "--bt-enable-lpd=false",
            "--enable-peer-exchange=false",
            "--file-allocation=none",
        ]);
        let mut aria2 = Process::spawn("aria2", &mut command, &scratch.path().join("aria2.log"));
        aria2.wait_success(within(SECONDS));
        home.payload.assert_same(&save, true);
        seed.stop();
    });
}

#[test]
fn one_btd_finds_another_through_opentracker_by_datagrams() {
    let name = "one_btd_finds_another_through_opentracker_by_datagrams";
    with_opentracker(name, |scratch, home, tracker| {
        let torrent = home.with_tracker(&tracker.udp_url());
        let at = |listen| Config {
            listen,
            ..config(&[home], ALLOW)
        };
        let seed = Btd::start(&scratch.dir("btd"), &at(SEED));
        // The white list is read some time after the tracker answers: it refuses until then.
        wait_announced(&seed);
        let (leech, data) = leech(scratch, "leech", &torrent, at(CLIENTS[1]));
        wait_complete(&leech);
        home.payload.assert_same(&data, true);
        leech.stop();
        seed.stop();
    });
}

#[test]
fn btd_downloads_from_libtorrent_that_a_tracker_has_told_of() {
    let name = "btd_downloads_from_libtorrent_that_a_tracker_has_told_of";
    with_opentracker(name, |scratch, home, tracker| {
        if let Some(why) = Client::Libtorrent.missing() {
            return skip(&why);
        }
        let (_seed, addr) = Client::Libtorrent.seed(scratch.path(), &home.torrent, &home.data);
        tracker.announce_seed(&home.torrent, addr);
        let torrent = home.with_tracker(&tracker.announce_url());
        let more = Config {
            listen: SEED,
            more: ALLOW.to_owned(),
            ..Config::default()
        };
        let (btd, data) = leech(scratch, "leech", &torrent, more);
        wait_complete(&btd);
        home.payload.assert_same(&data, true);
        btd.stop();
    });
}

#[test]
fn a_download_finds_a_peer_by_name_and_says_completed_once_ever() {
    let scratch = Scratch::new("announce-leech");
    let home = Home::new(&scratch, "seed", 1_000_000);
    fs::copy(&home.torrent.path, home.watch.join("t.torrent")).expect("copy a torrent");
    let seed = Btd::start(&scratch.dir("btd"), &config(&[&home], ""));
    seed.wait_seeding(1);
    // An interval of 0, a negative one, and a warning in colours do no harm either.
    let stub = StubTracker::saying(format!(
        "d8:intervali0e12:min intervali-5e5:peersld2:ip9:localhost4:porti{}eee15:warning message14:\x1b[31mwatch oute",
        seed.peers.port()
    ));
    let torrent = home
        .torrent
        .with_tracker(&stub.url(), scratch.path().join("with-tracker.torrent"));
    let (btd, data) = leech(&scratch, "leech", &torrent, config(&[], ALLOW));
    wait_complete(&btd);
    home.payload.assert_same(&data, true);
    let completed = wait_asked(&stub, "completed");
    assert_eq!(
        (parameter(&completed, "left"), parameter(&completed, "numwant")),
        (Some("0"), Some("0"))
    );
    let started = stub.with_event("started");
    assert_eq!((started.len(), parameter(&started[0], "left")), (1, Some("1000000")));
    assert_ne!(parameter(&started[0], "numwant"), Some("0"));
    let log = wait_for("the warning is told", within(10), || {
        Some(btd.process.log()).filter(|log| log.contains("watch out"))
    });
    assert!(!log.contains("\x1b[31mwatch"), "{log}");
    btd.stop();
    assert_eq!(parameter(&wait_asked(&stub, "stopped"), "downloaded"), Some("1000000"));

    let config = Config {
        watch: vec![(scratch.path().join("leech/watch"), data)],
        ..config(&[], ALLOW)
    };
    let btd = Btd::start(&scratch.dir("leech"), &config);
    wait_for("it starts again", within(60), || {
        (stub.with_event("started").len() == 2).then_some(())
    });
    btd.stop();
    assert_eq!(stub.with_event("stopped").len(), 2);
    assert_eq!(stub.with_event("completed").len(), 1);
    seed.stop();
}

/// The name `client1` in the file of names, which this namespace has for itself as it has its mounts.
struct Name {
    hosts: PathBuf,
}

impl Name {
    fn new(scratch: &Scratch) -> Self {
        let hosts = scratch.path().join("hosts");
        fs::write(&hosts, "").expect("write names");
        let mut mount = Command::new("mount");
        let status = mount.arg("--bind").arg(&hosts).arg("/etc/hosts").status();
        assert!(status.expect("run mount").success());
        Self { hosts }
    }

    fn is_at(&self, addr: IpAddr) {
        let names = format!("127.0.0.1 localhost\n{addr} client1\n");
        fs::write(&self.hosts, names).expect("write names");
    }
}

#[test]
fn a_peer_that_comes_back_under_another_address_is_found_by_its_name() {
    let name = "a_peer_that_comes_back_under_another_address_is_found_by_its_name";
    private_net::run(name, || {
        let scratch = Scratch::new("announce-names");
        let client1 = Name::new(&scratch);
        client1.is_at(CLIENTS[3]); // Nobody is there.
        let home = Home::new(&scratch, "seed", 1_000_000);
        fs::copy(&home.torrent.path, home.watch.join("t.torrent")).expect("copy a torrent");
        let seed = Btd::start(
            &scratch.dir("btd"),
            &Config {
                listen: SEED,
                ..config(&[&home], "")
            },
        );
        seed.wait_seeding(1);
        let peers = format!(
            "d8:intervali1800e5:peersld2:ip7:client14:porti{}eeee",
            seed.peers.port()
        );
        let stub = StubTracker::saying(peers);
        let torrent = home
            .torrent
            .with_tracker(&stub.url(), scratch.path().join("with-tracker.torrent"));
        let (btd, data) = leech(&scratch, "leech", &torrent, config(&[], ALLOW));
        wait_for("the name is looked up and tried", within(30), || {
            (btd.metric("btd_connections_dialed_total") >= 1.0).then_some(())
        });
        client1.is_at(SEED);
        wait_for("the name is looked up again", within(100), || {
            (btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
        });
        home.payload.assert_same(&data, true);
        wait_asked(&stub, "completed");
        // Nothing was asked for between.
        assert_eq!(stub.requests().len(), 2, "{:?}", stub.requests());
        btd.stop();
        seed.stop();
    });
}

#[test]
fn a_name_is_looked_up_again_when_nobody_is_where_it_led_though_others_give() {
    let name = "a_name_is_looked_up_again_when_nobody_is_where_it_led_though_others_give";
    private_net::run(name, || {
        let scratch = Scratch::new("announce-unreachable");
        let client1 = Name::new(&scratch);
        client1.is_at(CLIENTS[3]); // Nobody is there.
        let home = Home::new(&scratch, "seed", 8_000_000);
        fs::copy(&home.torrent.path, home.watch.join("t.torrent")).expect("copy a torrent");
        let seed = |name: &str, listen, port, more: &str| {
            let config = Config {
                listen,
                port,
                ..config(&[&home], more)
            };
            let seed = Btd::start(&scratch.dir(name), &config);
            seed.wait_seeding(1);
            seed
        };
        // It would take more than a minute.
        let slow = seed("slow", SEED, PORT, "[limits]\nupload-rate = \"100 kB/s\"\n");
        let fast = seed("fast", CLIENTS[2], PORT, "");
        let peers = format!(
            "d8:intervali1800e5:peersld2:ip{}:{SEED}4:porti{PORT}eed2:ip7:client14:porti{PORT}eeee",
            SEED.to_string().len()
        );
        let stub = StubTracker::saying(peers);
        let torrent = home
            .torrent
            .with_tracker(&stub.url(), scratch.path().join("with-tracker.torrent"));
        let started = Instant::now();
        let (btd, data) = leech(&scratch, "leech", &torrent, config(&[], ALLOW));
        wait_for(
            "the name is looked up and tried, and the other gives",
            within(30),
            || {
                let (dialed, had) = ("btd_connections_dialed_total", "btd_downloaded_bytes_total");
                (btd.metric(dialed) >= 2.0 && btd.metric(had) > 0.0).then_some(())
            },
        );
        client1.is_at(CLIENTS[2]);
        wait_complete(&btd);
        let taken = started.elapsed();
        assert!(taken < Duration::from_secs(40), "{taken:?}");
        home.payload.assert_same(&data, true);
        wait_for("the fast one tells what it has sent", within(20), || {
            (fast.metric("btd_uploaded_bytes_total") > 4_000_000.0).then_some(())
        });
        assert_eq!(stub.with_event("started").len(), 1);
        for btd in [btd, fast, slow] {
            btd.stop();
        }
    });
}
