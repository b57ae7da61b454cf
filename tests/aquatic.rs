//! btd announces to aquatic's trackers, and is found through them by another.

mod support;

use std::fs;
use std::net::SocketAddr;

use support::aquatic::{Aquatic, scraped};
use support::btd::{Btd, Config};
use support::payload::Payload;
use support::private_net::{self, CLIENTS, SEED};
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{cannot, wait_for, within};

const ALLOW: &str = "[announce]\nallow-private = true\n";

#[test]
fn one_btd_finds_another_through_aquatic_by_datagrams() {
    finds_another("one_btd_finds_another_through_aquatic_by_datagrams", Aquatic::Udp);
}

#[test]
fn one_btd_finds_another_through_aquatic_by_http() {
    finds_another("one_btd_finds_another_through_aquatic_by_http", Aquatic::Http);
}

fn finds_another(name: &str, aquatic: Aquatic) {
    if let Some(why) = aquatic.missing() {
        return cannot(&why);
    }
    private_net::run(name, || {
        let scratch = Scratch::new(name);
        let addr = SocketAddr::new(CLIENTS[0], 6_969);
        let mut tracker = aquatic.start(&scratch.dir("tracker"), addr);
        let [seed_watch, seed_data, watch, data] =
            ["seed-watch", "seed-data", "leech-watch", "leech-data"].map(|folder| scratch.dir(folder));
        let payload = Payload::make(&seed_data, "p.bin", 5, &[("p.bin".to_owned(), 1_500_001)]);
        let plain = Torrent::create(&payload.path(), 64 << 10, scratch.path().join("plain.torrent"));
        let torrent = plain.with_tracker(&aquatic.announce_url(addr), seed_watch.join("t.torrent"));
        let start = |name: &str, listen, watch| {
            let config = Config {
                listen,
                shards: 1,
                watch: vec![watch],
                more: ALLOW.to_owned(),
                ..Config::default()
            };
            Btd::start(&scratch.dir(name), &config)
        };
        let seed = start("seed", SEED, (seed_watch, seed_data));
        wait_for("aquatic has been told", within(30), || {
            (seed.metric("btd_announces_total{result=\"ok\"}") >= 1.0).then_some(())
        });
        fs::copy(&torrent.path, watch.join("t.torrent")).expect("copy a torrent");
        let leech = start("leech", CLIENTS[1], (watch, data.clone()));
        wait_for("btd has everything", within(120), || {
            (leech.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
        });
        payload.assert_same(&data, true);
        let has = |complete: u32| {
            // What it says over UDP is only what was said to it.
            aquatic == Aquatic::Udp
                || scraped(addr, &torrent.info_hash)
                    .is_some_and(|text| text.contains(&format!("8:completei{complete}e")))
        };
        wait_for("both seed", within(30), || has(2).then_some(()));
        leech.stop();
        wait_for("one has left", within(30), || has(1).then_some(()));
        seed.stop();
        tracker.assert_running();
    });
}
