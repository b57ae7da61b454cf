//! btd and webtorrent's `bittorrent-tracker`: its client announces to btd, and btd to its tracker.

mod support;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use support::btd::{Btd, Config};
use support::payload::Payload;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{http, skip, wait_for, webtorrent, within};

#[test]
fn its_client_finds_peers_through_btd_and_is_counted_exactly_at_each_step() {
    if let Some(why) = webtorrent::missing() {
        return skip(&why);
    }
    let scratch = Scratch::new("webtorrent-client");
    let more = "[tracker]\nhttp = \"127.0.0.1:0\"\nudp = \"127.0.0.1:0\"\n".to_owned();
    let btd = Btd::start(
        scratch.path(),
        &Config {
            more,
            ..Config::default()
        },
    );
    let (http, udp) = (btd.tracker_http.expect("HTTP"), btd.tracker_udp.expect("UDP"));
    let urls = [format!("http://{http}/announce"), format!("udp://{udp}/announce")];
    for (url, info_hash) in urls.iter().zip(["a1".repeat(20), "b2".repeat(20)]) {
        let steps = webtorrent::announce(url, &info_hash);
        let expected = [
            ("seeder comes", [1, 0], [1, 0, 0], vec![]),
            ("leecher comes", [1, 1], [1, 1, 0], vec!["127.0.0.1:7001"]),
            ("seeder asks", [1, 1], [1, 1, 0], vec!["127.0.0.1:7002"]),
            ("leecher completes", [2, 0], [2, 0, 1], vec![]), // Who has everything is told of nobody who has.
            ("leecher leaves", [1, 0], [1, 0, 1], vec![]),
            ("seeder leaves", [0, 0], [0, 0, 1], vec![]),
        ];
        let expected = expected.map(|(step, answer, scrape, told)| {
            serde_json::json!({ "step": step, "answer": answer, "scrape": scrape, "told": told })
        });
        assert_eq!(steps, expected, "{url}");
    }
    for kind in ["http_announce", "udp_announce"] {
        let requests = |result: &str| {
            btd.metric(&format!(
                "btd_tracker_requests_total{{kind=\"{kind}\",result=\"{result}\"}}"
            ))
        };
        wait_for("its announces are counted", within(10), || {
            (requests("answered") == 6.0).then_some(())
        });
        assert_eq!((requests("bad"), requests("refused")), (0.0, 0.0), "{kind}");
    }
    btd.stop();
}

#[test]
fn one_btd_finds_another_through_its_tracker_by_http_and_by_datagrams() {
    if let Some(why) = webtorrent::missing() {
        return skip(&why);
    }
    let scratch = Scratch::new("webtorrent-tracker");
    let tracker = webtorrent::Tracker::start(&scratch.dir("tracker"), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let allow = "[announce]\nallow-private = true\n";
    for (scheme, at) in [("http", tracker.http), ("udp", tracker.udp)] {
        let home = |name: &str| {
            let name = format!("{scheme}-{name}");
            (
                scratch.dir(&format!("{name}/watch")),
                scratch.dir(&format!("{name}/data")),
            )
        };
        let (watch, data) = home("seed");
        let payload = Payload::make(&data, "payload.bin", 7, &[("payload.bin".to_owned(), 1_000_003)]);
        let plain = Torrent::create(
            &payload.path(),
            64 << 10,
            scratch.path().join(format!("{scheme}.torrent")),
        );
        let torrent = plain.with_tracker(&format!("{scheme}://{at}/announce"), watch.join("t.torrent"));
        let start = |name: &str, watch: (std::path::PathBuf, std::path::PathBuf)| {
            let config = Config {
                shards: 1,
                watch: vec![watch],
                more: allow.to_owned(),
                ..Config::default()
            };
            Btd::start(&scratch.dir(&format!("{scheme}-{name}")), &config)
        };
        let seed = start("seed", (watch, data));
        wait_counted(tracker.http, &torrent, (1, 0));
        let (leech_watch, leech_data) = home("leech");
        fs::copy(&torrent.path, leech_watch.join("t.torrent")).expect("copy a torrent");
        let leech = start("leech", (leech_watch, leech_data.clone()));
        wait_for("btd has everything", within(120), || {
            (leech.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
        });
        payload.assert_same(&leech_data, true);
        wait_counted(tracker.http, &torrent, (2, 0));
        leech.stop();
        wait_counted(tracker.http, &torrent, (1, 0));
        seed.stop();
        wait_counted(tracker.http, &torrent, (0, 0));
    }
}

/// Waits until a scrape says so many seeders and leechers.
fn wait_counted(tracker: SocketAddr, torrent: &Torrent, (complete, incomplete): (u32, u32)) {
    let info_hash: String = torrent.info_hash.iter().map(|byte| format!("%{byte:02x}")).collect();
    let expected = [
        format!("8:completei{complete}e"),
        format!("10:incompletei{incomplete}e"),
    ];
    wait_for(&format!("it counts {complete} and {incomplete}"), within(60), || {
        let text = http::get(tracker, &format!("/scrape?info_hash={info_hash}"))
            .ok()?
            .text();
        expected.iter().all(|part| text.contains(part)).then_some(())
    });
}
