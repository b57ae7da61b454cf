//! btd downloads from itself and from the harness: alone, in chains and in swarms. Other people's clients are in
//! `download_clients`, peers that mean harm in `download_liars`. What `kill -9` and a power cut leave of a download is in
//! `download_crash`; disks that fail are in `download_disks` and `download_syncs`, full ones in `download_full`, and pieces that
//! are too long for the write buffer in `download_early`.

mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use btd::proto::handshake::Reserved;
use btd::session::Store;
use support::btd::{Btd, Config};
use support::leech::{Leech, SECONDS, Source, files, info_hash, wait_for_metric};
use support::payload::Payload;
use support::peer::Peer;
use support::process::Process;
use support::scratch::Scratch;
use support::torrent::Torrent;
use support::{wait_for, within};

#[test]
fn a_torrent_comes_from_another_btd_on_any_number_of_shards() {
    let source = Source::start("from-btd", &files(), 64 << 10);
    for shards in [1, 2, 4] {
        let config = Config {
            shards,
            peers: vec![source.btd.peers],
            ..Config::default()
        };
        let leech = Leech::start(&source.scratch, &format!("leech-{shards}"), &source.torrent, config);
        leech.check(&source.payload);
        let len = source.payload.len() as f64;
        wait_for_metric(&leech.btd, "btd_downloaded_bytes_total", |bytes| bytes >= len);
        let downloaded = leech.btd.metric("btd_downloaded_bytes_total");
        assert_eq!(downloaded, len, "nothing comes twice");
        assert_eq!(leech.btd.metric("btd_torrents{state=\"downloading\"}"), 0.0);
        leech.btd.stop();
    }
}

/// More files than are synced one by one, all of them written to at the same time and none complete.
#[test]
fn what_is_written_of_many_files_is_recorded_at_the_end() {
    // Whole pieces each: of a page that two share, a hole does not tell which of them was written.
    let files: Vec<(String, u64)> = (0..100).map(|at| (format!("folder/{at:03}"), 3 << 16)).collect();
    let source = Source::start_with("many", &files, 64 << 10, "[limits]\nupload-rate = \"2 MB/s\"\n");
    let Leech {
        home,
        config,
        btd,
        data,
    } = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    wait_for_metric(&btd, "btd_pieces_written_total", |pieces| pieces >= 60.0);
    btd.stop();
    let again = Btd::start(&home, &config);
    again.wait_seeding(1);
    assert_eq!(
        again.metric("btd_check_read_bytes_total"),
        0.0,
        "all that was written was known"
    );
    source.payload.assert_same(&data, true);
    again.stop();
}

/// Both ends, over two runs of each: what was moved is added up, and what is at rest is not written.
#[test]
fn what_was_uploaded_and_downloaded_is_kept_over_restarts() {
    let source = Source::start("totals", &files(), 64 << 10);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    leech.check(&source.payload);
    leech.btd.stop();
    let Source {
        scratch,
        payload,
        torrent,
        btd,
    } = source;
    btd.stop();
    let (len, hash) = (payload.len(), info_hash(&torrent));
    let history = |home: &Path| {
        let (store, notice) = Store::open(&home.join("state")).expect("a session");
        assert_eq!(notice, None);
        store.load_history(&hash).expect("a history")
    };
    let (seed, leeched) = (history(&scratch.path().join("seed")), history(&leech.home));
    assert_eq!((seed.uploaded, seed.downloaded), (len, 0));
    assert_eq!((leeched.uploaded, leeched.downloaded), (0, len));
    assert!(seed.completed.is_some_and(|completed| completed.announced));
    assert!(leeched.completed.is_some_and(|completed| !completed.announced));
    // The one that has downloaded seeds now.
    let btd = Btd::start(&leech.home, &leech.config);
    btd.wait_seeding(1);
    let third = Leech::from(&scratch, "third", &torrent, vec![btd.peers]);
    third.check(&payload);
    third.btd.stop();
    btd.stop();
    let leeched = history(&leech.home);
    assert_eq!((leeched.uploaded, leeched.downloaded), (len, len));
}

/// The harness's own seeders: some lie, are slow, or cut connections.
#[test]
fn harness_feeds_btd_and_tells_what_it_cost() {
    let scratch = Scratch::new("fed");
    let data = scratch.dir("seed-data");
    let payload = Payload::make(&data, "folder", 5, &files());
    let torrent = Torrent::create(&payload.path(), 64 << 10, scratch.path().join("t.torrent"));
    let leech_data = scratch.path().join("leech/data");
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    command.args([
        "bench",
        "leech",
        "--json",
        "--sleep",
        "--seeders",
        "6",
        "--liars",
        "1",
        "--slow",
        "1",
    ]);
    command.args(["--dropping", "2", "--reqq", "100", "--seconds", "100", "--torrent"]);
    command
        .arg(&torrent.path)
        .arg("--data")
        .arg(&data)
        .arg("--watch-data")
        .arg(&leech_data);
    let mut harness = Process::spawn("the harness", &mut command, &scratch.path().join("harness.log"));
    let line = |harness: &Process, at: usize| {
        let log = harness.log();
        let line = log.lines().nth(at)?;
        serde_json::from_str::<serde_json::Value>(line).ok()
    };
    let started = wait_for("the harness listens", within(20), || line(&harness, 0));
    let seeders = started["seeders"].as_array().expect("a list of addresses");
    let peers = seeders
        .iter()
        .map(|addr| addr.as_str().and_then(|addr| addr.parse().ok()).expect("an address"));
    let leech = Leech::from(&scratch, "leech", &torrent, peers.collect());
    leech.check(&payload);
    assert!(harness.wait(within(20)).success(), "{}", harness.log());
    let report = line(&harness, 1).expect("a report");
    assert_eq!(report["ended"], "whole", "{report}");
    assert!(report["bytes"].as_u64() >= Some(payload.len()), "{report}");
    wait_for_metric(&leech.btd, "btd_peers_banned_total", |banned| banned == 1.0);
    assert!(leech.btd.metric("btd_pieces_bad_total") <= 2.0);
    leech.btd.stop();
}

#[test]
fn connections_that_come_to_another_shard_reach_the_torrents_home() {
    // So slow that it can be asked meanwhile, on whatever shard the kernel chooses.
    let source = Source::start_with("handed", &files(), 64 << 10, "[limits]\nupload-rate = \"2 MB/s\"\n");
    let slow = Config {
        shards: 4,
        peers: vec![source.btd.peers],
        ..Config::default()
    };
    let middle = Leech::start(&source.scratch, "middle", &source.torrent, slow);
    let hash = info_hash(&source.torrent);
    let mut peers: Vec<Peer> = (0..16)
        .map(|last| {
            let from = Ipv4Addr::new(127, 0, 1, last + 1);
            // A shard that has not heard of the torrent yet lets it go.
            wait_for("a connection", within(10), || {
                Peer::join(middle.btd.peers, from, hash, Reserved([0; 8])).ok()
            })
        })
        .collect();
    assert!(
        middle.btd.metric("btd_torrents{state=\"downloading\"}") >= 1.0,
        "it is not complete yet"
    );
    for peer in &mut peers {
        // It is told of pieces as they come.
        let have = peer.hear_id(4).expect("a have");
        assert_eq!(have.len(), 5);
    }
    middle.check(&source.payload);
}

#[test]
fn who_downloads_serves_what_it_has_meanwhile() {
    let source = Source::start_with("chain", &files(), 64 << 10, "[limits]\nupload-rate = \"4 MB/s\"\n");
    let middle = Leech::from(&source.scratch, "middle", &source.torrent, vec![source.btd.peers]);
    let end = Leech::from(&source.scratch, "end", &source.torrent, vec![middle.btd.peers]);
    wait_for("the end has something", within(SECONDS), || {
        (end.btd.metric("btd_pieces_written_total") >= 1.0).then_some(())
    });
    assert_eq!(
        middle.btd.metric("btd_torrents{state=\"downloading\"}"),
        1.0,
        "the middle still downloads"
    );
    end.check(&source.payload);
    middle.check(&source.payload);
    assert!(source.btd.metric("btd_uploaded_bytes_total") < 1.1 * source.payload.len() as f64);
}

#[test]
fn two_finish_as_a_swarm_and_the_seed_gives_little_more_than_one_copy() {
    finish_as_a_swarm(2);
}

#[test]
fn eight_finish_as_a_swarm_and_the_seed_gives_little_more_than_one_copy() {
    finish_as_a_swarm(8);
}

fn finish_as_a_swarm(count: usize) {
    // A copy takes some eight seconds, three of which are asked for ahead, by all together: what one has got first, others have asked
    // the seed for as well. They take it from each other all the same.
    let source = Source::start_with(
        &format!("swarm-{count}"),
        &files(),
        64 << 10,
        "[limits]\nupload-rate = \"2 MB/s\"\n",
    );
    // Each knows the seed and those that were started before it.
    let mut leeches: Vec<Leech> = Vec::new();
    for number in 0..count {
        let mut peers = vec![source.btd.peers];
        peers.extend(leeches.iter().map(|leech| leech.btd.peers));
        let config = Config {
            shards: 1,
            peers,
            ..Config::default()
        };
        leeches.push(Leech::start(
            &source.scratch,
            &format!("leech-{number}"),
            &source.torrent,
            config,
        ));
    }
    for leech in &leeches {
        leech.check(&source.payload);
    }
    let turns = source.btd.metric("btd_loop_turns_total");
    // Published anew since the last of them had everything.
    wait_for_metric(&source.btd, "btd_loop_turns_total", |now| now > turns);
    let copies = source.btd.metric("btd_uploaded_bytes_total") / source.payload.len() as f64;
    let sum = |name: &str| leeches.iter().map(|leech| leech.btd.metric(name)).sum::<f64>();
    println!(
        "the seed gave {copies} copies for {count}, who took {} requests over from each other and had {} bytes twice",
        sum("btd_requests_taken_over_total"),
        sum("btd_wasted_bytes_total")
    );
    assert!(copies <= 1.5, "the seed gave {copies} copies for {count}");
}

#[test]
fn what_was_complete_once_is_not_downloaded_again_by_itself() {
    let source = Source::start("gone", &files(), 64 << 10);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    leech.check(&source.payload);
    let Leech {
        home,
        data,
        config,
        btd,
    } = leech;
    btd.stop();
    fs::remove_dir_all(data.join("folder")).expect("remove the payload");
    let btd = Btd::start(&home, &config);
    wait_for("the payload is missed", within(SECONDS), || {
        btd.process.log().contains("it was complete once").then_some(())
    });
    assert_eq!(btd.metric("btd_torrents{state=\"missing\"}"), 1.0);
    support::touch(&config.watch[0].0.join("t.torrent"));
    btd.wait_seeding(1);
    source.payload.assert_same(&data, true);
    btd.stop();
}
