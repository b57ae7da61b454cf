//! btd's tracker counts exactly: at each step of a swarm's life, by what other people's clients say and by what btd says.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use support::btd::{Btd, Config};
use support::client::{Client, libtorrent};
use support::payload::Payload;
use support::private_net::{self, CLIENTS, SEED};
use support::process::Process;
use support::scrape::{counts, wait_counts};
use support::scratch::Scratch;
use support::stub_tracker::StubTracker;
use support::torrent::Torrent;
use support::{skip, wait_for, within};

/// For what a client does before it ends.
const SECONDS: u64 = 40;

const ALLOW: &str = "[announce]\nallow-private = true\n";

/// A payload and its torrent, without a tracker.
struct Swarm {
    scratch: Scratch,
    data: PathBuf,
    payload: Payload,
    torrent: Torrent,
}

impl Swarm {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let data = scratch.dir("seed-data");
        let payload = Payload::make(&data, "shared.bin", 3, &[("shared.bin".to_owned(), 2_000_001)]);
        let torrent = Torrent::create(&payload.path(), 64 << 10, scratch.path().join("plain.torrent"));
        Self {
            scratch,
            data,
            payload,
            torrent,
        }
    }

    /// btd with a tracker, and whatever is put into the watch folder `tracker-watch` to be seeded.
    fn tracker(&self, more: &str) -> (Btd, SocketAddr) {
        let watch = self.scratch.dir("tracker-watch");
        let config = Config {
            shards: 2,
            watch: vec![(watch, self.data.clone())],
            more: format!("{ALLOW}\n[tracker]\nhttp = \"127.0.0.1:0\"\nudp = \"127.0.0.1:0\"\n{more}"),
            ..Config::default()
        };
        let btd = Btd::start(&self.scratch.dir("tracker"), &config);
        let to = btd.tracker_http.expect("HTTP");
        (btd, to)
    }

    /// btd with nothing but this torrent.
    fn leech(&self, name: &str, torrent: &Torrent, more: &str) -> (Btd, PathBuf) {
        let [watch, data] = ["watch", "data"].map(|folder| self.scratch.dir(&format!("{name}-{folder}")));
        fs::copy(&torrent.path, watch.join("t.torrent")).expect("copy a torrent");
        let config = Config {
            shards: 1,
            watch: vec![(watch, data.clone())],
            more: format!("{ALLOW}{more}"),
            ..Config::default()
        };
        (Btd::start(&self.scratch.dir(name), &config), data)
    }
}

fn wait_complete(btd: &Btd) {
    wait_for("btd has everything", within(SECONDS), || {
        (btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
    });
}

#[test]
fn other_peoples_clients_are_counted_as_they_come_complete_and_leave() {
    let name = "other_peoples_clients_are_counted_as_they_come_complete_and_leave";
    private_net::run(name, || {
        for client in [Client::Libtorrent, Client::Qbittorrent] {
            if let Some(why) = client.missing() {
                return skip(&why);
            }
        }
        let swarm = Swarm::new("counts-clients");
        let (path, torrent) = (swarm.scratch.path(), &swarm.torrent);
        let config = Config {
            listen: SEED,
            more: format!("[tracker]\nhttp = \"{SEED}:0\"\nudp = \"{SEED}:0\"\n"),
            ..Config::default()
        };
        let btd = Btd::start(&swarm.scratch.dir("tracker"), &config);
        let (to, udp) = (btd.tracker_http.expect("HTTP"), btd.tracker_udp.expect("UDP"));
        let (by_http, by_udp) = (format!("http://{to}/announce"), format!("udp://{udp}/announce"));
        let start = |number: usize, announce: &str, holds: bool| {
            // The addresses from the end: qBittorrent has its own.
            let listen = SocketAddr::new(CLIENTS[4 - number], 51_413);
            let save = match number {
                0 => swarm.data.clone(),
                _ => swarm.scratch.dir(&format!("save-{number}")),
            };
            let log = path.join(format!("libtorrent-{number}.log"));
            (libtorrent::peer(listen, announce, holds, torrent, &save, &log), save)
        };
        let leave = |mut peer: Process| {
            peer.signal(Signal::TERM);
            peer.wait_success(within(SECONDS));
        };

        wait_counts(to, torrent, "nobody", [0, 0, 0]);
        let (seed, _) = start(0, &by_http, false);
        wait_counts(to, torrent, "a seed by HTTP", [1, 0, 0]);
        let (second, saved) = start(1, &by_udp, true);
        wait_counts(to, torrent, "one that lacks all, by UDP", [1, 1, 0]);
        second.signal(Signal::USR1);
        wait_counts(to, torrent, "which has all", [2, 0, 1]);
        let (third, _) = start(2, &by_http, true);
        wait_counts(to, torrent, "one that lacks all, by HTTP", [2, 1, 1]);
        leave(third);
        wait_counts(to, torrent, "which leaves without", [2, 0, 1]);

        let qbittorrent = Client::Qbittorrent.download_by_tracker(path, torrent, &by_udp, within(SECONDS));
        wait_counts(to, torrent, "qBittorrent has come and left", [2, 0, 2]);
        swarm.payload.assert_same(&qbittorrent, true);

        leave(second);
        swarm.payload.assert_same(&saved, true);
        wait_counts(to, torrent, "the second leaves", [1, 0, 2]);
        leave(seed);
        wait_counts(to, torrent, "and the seed", [0, 0, 2]);
        btd.stop();
    });
}

#[test]
fn transmission_is_counted_as_it_comes_completes_and_leaves() {
    let name = "transmission_is_counted_as_it_comes_completes_and_leaves";
    // Version 3.00 has no UDP trackers where it has no µTP, which would have it come back only after minutes.
    private_net::run(name, || is_counted(Client::Transmission, &["http"]));
}

#[test]
fn rtorrent_is_counted_as_it_comes_completes_and_leaves() {
    let name = "rtorrent_is_counted_as_it_comes_completes_and_leaves";
    private_net::run(name, || is_counted(Client::Rtorrent, &["http"]));
}

#[test]
fn aria2_is_counted_as_it_comes_completes_and_leaves() {
    let name = "aria2_is_counted_as_it_comes_completes_and_leaves";
    private_net::run(name, || is_counted(Client::Aria2, &["http"]));
}

/// One client downloads from the btd that has the tracker, so slowly that each step of it is seen.
fn is_counted(client: Client, schemes: &[&str]) {
    if let Some(why) = client.missing() {
        return skip(&why);
    }
    let swarm = Swarm::new(&format!("counts-{client:?}"));
    let watch = swarm.scratch.dir("tracker-watch");
    let config = Config {
        listen: SEED,
        shards: 1,
        watch: vec![(watch.clone(), swarm.data.clone())],
        more: format!(
            "{ALLOW}\n[limits]\nupload-rate = \"600 kB/s\"\n\n[tracker]\nhttp = \"{SEED}:0\"\nudp = \"{SEED}:0\"\n"
        ),
        ..Config::default()
    };
    let btd = Btd::start(&swarm.scratch.dir("tracker"), &config);
    let (to, udp) = (btd.tracker_http.expect("HTTP"), btd.tracker_udp.expect("UDP"));
    // btd announces itself by HTTP, whatever the client does.
    swarm
        .torrent
        .with_tracker(&format!("http://{to}/announce"), watch.join("t.torrent"));
    wait_counts(to, &swarm.torrent, "btd seeds", [1, 0, 0]);
    for (scheme, before) in schemes.iter().zip(0..) {
        let at = if *scheme == "udp" { udp } else { to };
        let announce = format!("{scheme}://{at}/announce");
        let home = swarm.scratch.dir(&format!("by-{scheme}"));
        let save = swarm.scratch.dir(&format!("by-{scheme}/save"));
        let (process, _) = client.seed_announced_to(&announce, &home, &swarm.torrent, &save);
        wait_counts(to, &swarm.torrent, "one that lacks all", [1, 1, before]);
        wait_counts(to, &swarm.torrent, "which has all", [2, 0, before + 1]);
        client.leave(&process);
        wait_counts(to, &swarm.torrent, "which leaves", [1, 0, before + 1]);
        swarm.payload.assert_same(&save, true);
        drop(process);
    }
    btd.stop();
}

#[test]
fn btd_is_counted_by_btd_from_its_first_announce_until_sigterm() {
    let swarm = Swarm::new("counts-btd");
    // Nobody has the torrent at first.
    let (tracker, to) = swarm.tracker("");
    for (scheme, at) in [("http", to), ("udp", tracker.tracker_udp.expect("UDP"))] {
        let url = format!("{scheme}://{at}/announce");
        let torrent = swarm
            .torrent
            .with_tracker(&url, swarm.scratch.path().join(format!("{scheme}.torrent")));
        let before = counts(to, &torrent).downloaded;
        let name = format!("leech-{scheme}");
        let (leech, _) = swarm.leech(&name, &torrent, "");
        wait_counts(to, &torrent, "one that lacks all", [0, 1, before]);
        leech.stop();
        // The stop is over when the tracker has been told: there is nothing to be waited for.
        let now = counts(to, &torrent);
        assert_eq!(
            (now.complete, now.incomplete, now.downloaded),
            (0, 0, before),
            "{scheme}: it has left"
        );

        let seed_watch = swarm.scratch.dir(&format!("seed-watch-{scheme}"));
        fs::copy(&torrent.path, seed_watch.join("t.torrent")).expect("copy a torrent");
        let config = Config {
            shards: 1,
            watch: vec![(seed_watch, swarm.data.clone())],
            more: ALLOW.to_owned(),
            ..Config::default()
        };
        let seed = Btd::start(&swarm.scratch.dir(&format!("seed-{scheme}")), &config);
        wait_counts(to, &torrent, "a seed", [1, 0, before]);
        let (leech, data) = swarm.leech(&format!("{name}-again"), &torrent, "");
        wait_complete(&leech);
        swarm.payload.assert_same(&data, true);
        wait_counts(to, &torrent, "a second seed", [2, 0, before + 1]);
        seed.stop();
        leech.stop();
        let now = counts(to, &torrent);
        assert_eq!(
            (now.complete, now.incomplete, now.downloaded),
            (0, 0, before + 1),
            "{scheme}: all have left"
        );
    }
    tracker.stop();
}

/// The torrent of the swarm as a private one of this tracker's.
fn private(swarm: &Swarm, to: SocketAddr) -> Torrent {
    let path = swarm.scratch.path().join("private.torrent");
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.arg("create").arg(swarm.payload.path());
    let url = format!("http://{to}/announce");
    command.args(["--private", "--tracker", &url, "--output"]).arg(&path);
    let output = command.output().expect("run btd create");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Torrent::open(path)
}

/// Gives a torrent to the btd that has the tracker.
fn give(swarm: &Swarm, torrent: &Torrent) {
    fs::copy(&torrent.path, swarm.scratch.path().join("tracker-watch/t.torrent")).expect("add a torrent");
}

#[test]
fn a_private_torrent_is_had_from_the_tracker_that_seeds_it_and_nobody_else_is_told() {
    let swarm = Swarm::new("counts-private");
    let (tracker, to) = swarm.tracker("");
    let torrent = private(&swarm, to);
    give(&swarm, &torrent);
    wait_counts(to, &torrent, "the tracker seeds", [1, 0, 0]);

    // It knows its tracker by the torrent alone. What is configured for all torrents hears nothing of a private one.
    let stranger = StubTracker::saying("d8:intervali1800e5:peers0:e");
    let more = format!("trackers = [{:?}]\n", stranger.url());
    let (leech, data) = swarm.leech("leech", &torrent, &more);
    wait_complete(&leech);
    swarm.payload.assert_same(&data, true);
    wait_counts(to, &torrent, "the other seeds as well", [2, 0, 1]);
    leech.stop();
    let now = counts(to, &torrent);
    assert_eq!((now.complete, now.incomplete, now.downloaded), (1, 0, 1), "it has left");
    assert_eq!(stranger.connections(), 0);
    tracker.stop();
}

#[test]
fn a_tracker_of_held_torrents_alone_takes_the_announce_of_the_btd_that_holds_them() {
    let swarm = Swarm::new("counts-held");
    let (tracker, to) = swarm.tracker("private = true\n");
    let torrent = private(&swarm, to);
    give(&swarm, &torrent);
    wait_counts(to, &torrent, "the tracker seeds", [1, 0, 0]);
    tracker.stop();
}
