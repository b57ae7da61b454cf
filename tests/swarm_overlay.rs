//! A swarm on an overlay network, where peers have names that stay and addresses that do not: a tracker and three peers,
//! each on a machine of its own, all of them btd.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use support::btd::{Btd, Config};
use support::overlay::{Machine, Overlay};
use support::payload::Payload;
use support::scrape::wait_counts;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{private_net, skip, wait_for, within};

/// What is downloaded while all goes well, and what the seed leaves in the middle of, in bytes.
const FIRST_LEN: u64 = 3_000_001;
const SECOND_LEN: u64 = 16 << 20;

/// Starts btd on a machine. Metrics are where the test reaches them.
fn start(machine: &Machine, home: &Path, config: Config) -> Btd {
    let config = Config {
        listen: machine.addr,
        metrics: machine.addr,
        shards: 1,
        ..config
    };
    Btd::start_within(machine.command(Path::new(env!("CARGO_BIN_EXE_btd"))), home, &config)
}

/// A peer, known by its name.
struct Peer {
    btd: Btd,
    watch: PathBuf,
    data: PathBuf,
}

impl Peer {
    fn start(
        scratch: &Scratch,
        machine: &Machine,
        name: &str,
        (watch, data): (PathBuf, PathBuf),
        config: Config,
    ) -> Self {
        let announce = format!("[announce]\nhostname = {name:?}\nallow-private = true\n");
        let config = Config {
            watch: vec![(watch.clone(), data.clone())],
            more: announce + &config.more,
            ..config
        };
        let btd = start(machine, &scratch.dir(&format!("{name}-at-{}", machine.addr)), config);
        Self { btd, watch, data }
    }

    /// One with nothing.
    fn empty(scratch: &Scratch, machine: &Machine, name: &str) -> Self {
        let folders = ["watch", "data"].map(|folder| scratch.dir(&format!("{name}-{folder}")));
        Self::start(scratch, machine, name, folders.into(), Config::default())
    }

    fn add(&self, torrent: &Torrent, name: &str) {
        fs::copy(&torrent.path, self.watch.join(name)).expect("copy a torrent");
    }

    fn wait_complete(&self, count: usize) {
        wait_for("a peer has everything", within(50), || {
            (self.btd.metric("btd_torrents{state=\"seeding\"}") >= count as f64).then_some(())
        });
    }
}

#[test]
fn peers_find_each_other_by_name_and_again_when_one_has_another_address() {
    let name = "peers_find_each_other_by_name_and_again_when_one_has_another_address";
    private_net::run(name, || {
        if let Some(why) = Overlay::missing() {
            return skip(&why);
        }
        let scratch = Scratch::new("swarm-overlay");
        let mut overlay = Overlay::start(&scratch);
        let mut machine = |name: &str, last| {
            let machine = overlay.machine(name, last);
            overlay.name(name, machine.addr);
            machine
        };
        let [at_tracker, at_one, at_two, at_three] =
            [("tracker", 10), ("client1", 1), ("client2", 2), ("client3", 3)].map(|(name, last)| machine(name, last));

        let more = format!(
            "[tracker]\nhttp = \"{}:0\"\nhostname-allow = [\"client1\", \"client2\", \"client3\"]\n",
            at_tracker.addr
        );
        let config = Config {
            more,
            ..Config::default()
        };
        let tracker = start(&at_tracker, &scratch.dir("tracker"), config);
        let to = tracker.tracker_http.expect("HTTP");
        let url = format!("http://tracker:{}/announce", to.port());

        let (watch, data) = (scratch.dir("client1-watch"), scratch.dir("client1-data"));
        let make = |name: &str, len: u64| {
            let payload = Payload::make(&data, name, len, &[(name.to_owned(), len)]);
            let plain = Torrent::create(&payload.path(), 64 << 10, scratch.path().join(format!("{name}.plain")));
            let torrent = plain.with_tracker(&url, watch.join(format!("{name}.torrent")));
            (payload, torrent)
        };
        let ((first, of_first), (second, of_second)) = (make("first.bin", FIRST_LEN), make("second.bin", SECOND_LEN));

        // So slow that it can be taken away in the middle of the second.
        let slow = Config {
            more: "[limits]\nupload-rate = \"2 MB/s\"\n".to_owned(),
            ..Config::default()
        };
        let one = Peer::start(&scratch, &at_one, "client1", (watch.clone(), data.clone()), slow);
        wait_counts(to, &of_first, "client1 seeds", [1, 0, 0]);
        let two = Peer::empty(&scratch, &at_two, "client2");
        let three = Peer::empty(&scratch, &at_three, "client3");
        for peer in [&two, &three] {
            peer.add(&of_first, "first.torrent");
        }
        for peer in [&two, &three] {
            peer.wait_complete(1);
            first.assert_same(&peer.data, true);
        }
        wait_counts(to, &of_first, "all three have it", [3, 0, 2]);
        for (asker, machine) in [("client2", &at_two), ("client3", &at_three)] {
            assert!(
                overlay.times_told(machine, "client1", at_one.addr) > 0,
                "{asker} was told of a name"
            );
        }

        // client2 is in the middle of the second when client1 dies without a word.
        wait_counts(to, &of_second, "client1 seeds the second", [1, 0, 0]);
        two.add(&of_second, "second.torrent");
        // More than could be of the first, were all of it to come twice.
        wait_for("some of the second has come", within(30), || {
            (two.btd.metric("btd_downloaded_bytes_total") > (2 * FIRST_LEN) as f64).then_some(())
        });
        let port = one.btd.peers.port();
        one.btd.process.signal(Signal::KILL);
        drop(one);
        at_one.unplug();
        assert_eq!(
            two.btd.metric("btd_torrents{state=\"downloading\"}"),
            1.0,
            "something is missing"
        );
        wait_counts(to, &of_second, "nobody has left in so many words", [1, 1, 0]);

        // It comes back with its name and port under another address, and knows nothing of its life before.
        let at_one = overlay.machine("client1-again", 101);
        overlay.name("client1", at_one.addr);
        assert_eq!(overlay.times_told(&at_two, "client1", at_one.addr), 0);
        let fixed = Config {
            port,
            ..Config::default()
        };
        let one = Peer::start(&scratch, &at_one, "client1", (watch, data), fixed);
        one.wait_complete(2);
        two.wait_complete(2);
        second.assert_same(&two.data, true);
        assert!(overlay.times_told(&at_two, "client1", at_one.addr) > 0);
        // By its name it is the same peer, counted once.
        wait_counts(to, &of_second, "client2 has the second", [2, 0, 1]);

        // One that is new to the torrent, and has known the name at its old address.
        three.add(&of_second, "second.torrent");
        three.wait_complete(2);
        second.assert_same(&three.data, true);
        wait_counts(to, &of_second, "all three have the second", [3, 0, 2]);

        three.btd.stop();
        wait_counts(to, &of_second, "client3 leaves", [2, 0, 2]);
        two.btd.stop();
        one.btd.stop();
        for torrent in [&of_first, &of_second] {
            wait_counts(to, torrent, "all have left", [0, 0, 2]);
        }
        tracker.stop();
    });
}
