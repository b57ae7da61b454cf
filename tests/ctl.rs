//! `btd ctl` against a btd that runs: each command as an operator types it, and its JSON.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use btd::proto::handshake::Reserved;
use btd::proto::metainfo::Metainfo;
use rustix::process::Signal;
use serde_json::Value;
use support::btd::{Btd, Config};
use support::ctl::{CONFIG, DATA, Home, NOT_RUNNING, PIECE_LEN, REFUSED, SECONDS, USAGE, hash_of, run, torrent};
use support::peer::Peer;
use support::stub_tracker::StubTracker;
use support::{rot, wait_for, within};

#[test]
fn list_show_stats_and_health_tell_what_there_is() {
    let home = Home::new("ctl-list");
    let seed = home.payload("seed", &[("seed/a", 40_000), ("seed/b", 9)]);
    let missing = home.drop_in("gone", &torrent("gone", &[("gone", 20_000)], &[7; 20_000], ""));
    // What is not there at all would be looked for again in the middle of this.
    fs::write(home.data.join("gone"), vec![1; 20_000]).expect("write");
    let btd = home.start();
    home.wait_state(seed.info_hash, "seeding");
    home.wait_state(missing.info_hash, "missing");

    let rows = home.json(&["list"]).rows();
    let hashes: Vec<&str> = rows.iter().filter_map(|row| row["info_hash"].as_str()).collect();
    assert!(hashes.len() == 2 && hashes.is_sorted(), "{hashes:?}");
    let row = rows.iter().find(|row| row["name"] == "seed").expect("listed");
    for (key, value) in [
        ("state", Value::from("seeding")),
        ("paused", false.into()),
        ("size", 40_009.into()),
        ("done", 40_009.into()),
        ("checked", Value::Null),
        ("peers", 0.into()),
        ("upload_rate", 0.into()),
        ("uploaded", 0.into()),
    ] {
        assert_eq!(row[key], value, "{key}");
    }
    let table = home.ctl(&["list"]).out;
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines.len() == 4 && lines[0].starts_with("HASH"),
        "one has a reason: {table}"
    );
    let line = lines.iter().find(|line| line.ends_with("  seed")).expect("listed");
    assert!(
        line.starts_with(&hash_of(&seed)[..12]) && line.contains("seeding") && line.contains("100.0%"),
        "{table}"
    );

    let shown = home.json(&["show", &hash_of(&seed)[..6].to_uppercase()]).row();
    assert_eq!(shown["info_hash"], hash_of(&seed));
    assert_eq!((&shown["piece_count"], &shown["have_count"]), (&3.into(), &3.into()));
    assert_eq!((&shown["file_count"], &shown["private"]), (&2.into(), &false.into()));
    assert_eq!(shown["data_dir"], home.data.to_str().expect("UTF-8"));
    assert_eq!(
        shown["torrent_files"][0],
        home.watch.join("seed.torrent").to_str().expect("UTF-8")
    );
    assert!(shown["completed"].is_u64(), "{shown}");
    let text = home.ctl(&["show", &hash_of(&missing)]).out;
    assert!(
        text.contains("state         missing") && text.contains("why "),
        "{text}"
    );

    let stats = home.json(&["stats"]).row();
    assert_eq!(
        (&stats["torrents"]["seeding"], &stats["torrents"]["missing"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&stats["ready"], &stats["pid"]),
        (&true.into(), &btd.process.pid().into())
    );
    let shards = stats["shards"].as_array().expect("a list");
    assert!(shards.len() == 2 && shards[1]["silent"].as_f64() < Some(5.0), "{stats}");
    assert!(
        home.ctl(&["stats"])
            .out
            .contains("torrents      2: 1 missing, 1 seeding\n")
    );

    let health = home.ctl(&["health"]);
    assert_eq!((health.code, health.out.as_str()), (0, "healthy\n"));
    assert_eq!(home.json(&["health"]).row()["healthy"], true);
    // The configuration and the environment lead to the same socket.
    let mut by_config = Command::new(env!("CARGO_BIN_EXE_btd"));
    by_config
        .args(["ctl", "list", "--config", "btd.toml"])
        .current_dir(home.path());
    assert_eq!(run(&mut by_config).out, table);
    let by_env = Command::new(env!("CARGO_BIN_EXE_btd"))
        .args(["ctl", "list"])
        .env("BTD_STATE_DIR", home.path().join("state"))
        .output()
        .expect("run btd ctl");
    assert_eq!(String::from_utf8_lossy(&by_env.stdout), table);
    btd.stop();
    home.ctl(&["list"])
        .assert_fails(NOT_RUNNING, "btd is not running with this state-dir (state)");
    assert!(!home.socket().exists(), "it is taken away at the end");
}

#[test]
fn who_asks_a_btd_that_is_not_there_or_nowhere_is_told_so() {
    let home = Home::new("ctl-away");
    home.ctl(&["health"]).assert_fails(NOT_RUNNING, "not running");
    let nowhere = run(Command::new(env!("CARGO_BIN_EXE_btd"))
        .args(["ctl", "list"])
        .current_dir(home.path()));
    nowhere.assert_fails(USAGE, "--state-dir");
    let no_config = run(Command::new(env!("CARGO_BIN_EXE_btd"))
        .args(["ctl", "list", "--config", "none.toml"])
        .current_dir(home.path()));
    no_config.assert_fails(CONFIG, "none.toml");
    // As a shell leaves it behind `=`.
    let unexpanded = run(Command::new(env!("CARGO_BIN_EXE_btd"))
        .args(["ctl", "list", "--state-dir=~/state"])
        .current_dir(home.path()));
    unexpanded.assert_fails(
        USAGE,
        "\"~/state\" begins with \"~\", which stands for a home folder in a shell alone",
    );
    // A socket that a btd has left behind which was killed is nobody's, and the next one's.
    home.kill(home.start());
    assert!(
        fs::symlink_metadata(home.socket())
            .expect("left behind")
            .file_type()
            .is_socket()
    );
    home.ctl(&["list"]).assert_fails(NOT_RUNNING, "not running");
    // One that is killed while it is asked hangs up.
    fs::remove_file(home.socket()).expect("nobody's");
    let killed = UnixListener::bind(home.socket()).expect("listen in its place");
    let asked = std::thread::scope(|scope| {
        scope.spawn(|| drop(killed.accept().expect("asked")));
        home.ctl(&["health"])
    });
    asked.assert_fails(NOT_RUNNING, "it has ended, or hung up");
    drop(killed);
    let btd = home.start();
    assert_eq!(home.ctl(&["health"]).code, 0);
    btd.stop();
}

#[test]
fn beginning_of_several_info_hashes_is_refused_and_names_them() {
    let home = Home::new("ctl-prefix");
    let mut seen: BTreeMap<String, Metainfo> = BTreeMap::new();
    let (one, two) = (0..)
        .find_map(|number| {
            let name = format!("t{number}");
            let meta = Metainfo::parse(&torrent(&name, &[(&name, 10)], &[1; 10], "")).expect("a torrent");
            let other = seen.insert(hash_of(&meta)[..4].to_owned(), meta.clone());
            other.map(|other| (other, meta))
        })
        .expect("two of 65,537 at the latest");
    for meta in [&one, &two] {
        home.drop_in(&meta.name, &torrent(&meta.name, &[(&meta.name, 10)], &[1; 10], ""));
    }
    let btd = home.start();
    let prefix = &hash_of(&one)[..4];
    let ambiguous = home.ctl(&["show", prefix]);
    ambiguous.assert_fails(USAGE, &hash_of(&one));
    ambiguous.assert_fails(USAGE, &hash_of(&two));
    home.ctl(&["remove", prefix]).assert_fails(USAGE, "several");
    assert_eq!(home.json(&["list"]).rows().len(), 2, "neither was removed");
    assert_eq!(home.json(&["show", &hash_of(&one)]).row()["name"], one.name.as_str());
    for (hash, code, why) in [
        ("abc", USAGE, "no info-hash"),
        ("xyzw", USAGE, "no info-hash"),
        ("../../etc", USAGE, "no info-hash"),
        (&"0".repeat(40), REFUSED, "there is no torrent"),
    ] {
        home.ctl(&["show", hash]).assert_fails(code, why);
        home.ctl(&["pause", hash]).assert_fails(code, why);
    }
    // With one that is none, nothing is done to the others either.
    home.ctl(&["pause", &hash_of(&one), "xyzw"])
        .assert_fails(USAGE, "no info-hash");
    let states: Vec<Value> = home
        .json(&["list"])
        .rows()
        .iter()
        .map(|row| row["state"].clone())
        .collect();
    assert!(!states.contains(&"paused".into()), "{states:?}");
    btd.stop();
}

#[test]
fn torrent_that_is_paused_stays_so_over_a_restart_until_it_is_resumed() {
    let home = Home::new("ctl-pause");
    let meta = home.payload("seed", &[("seed", 40_000)]);
    let other = home.payload("other", &[("other", 20_000)]);
    let btd = home.start();
    home.wait_state(meta.info_hash, "seeding");
    home.wait_state(other.info_hash, "seeding");
    let join = |btd: &Btd| Peer::join(btd.peers, Ipv4Addr::LOCALHOST, meta.info_hash, Reserved::OURS);
    let mut peer = join(&btd).expect("it is served");

    let hash = hash_of(&meta);
    let paused = home.json(&["pause", &hash]).row();
    assert_eq!((&paused["changed"], &paused["name"]), (&true.into(), &"seed".into()));
    assert_eq!(home.json(&["pause", &hash]).row()["changed"], false);
    peer.wait_closed("a peer of a torrent that is paused", within(SECONDS));
    let row = home.wait_state(meta.info_hash, "paused");
    assert_eq!((&row["paused"], &row["done"]), (&true.into(), &40_000.into()));
    assert!(join(&btd).is_err(), "it is not served any more");
    assert_eq!(btd.metric("btd_torrents{state=\"paused\"}"), 1.0);

    // What was answered survives a kill.
    home.kill(btd);
    let btd = home.start();
    home.wait_state(other.info_hash, "seeding");
    home.wait_state(meta.info_hash, "paused");
    assert!(join(&btd).is_err(), "it is not served after a restart either");
    // Checked, it stays paused.
    btd.process.signal(Signal::USR1);
    btd.wait_log("SIGUSR1");
    assert_eq!(home.json(&["verify", &hash]).row()["changed"], true);
    for state in ["checking", "paused"] {
        let listed = home.json(&["list", "--state", state]).rows();
        assert_eq!(listed.len(), 1, "{state}: it is both");
    }
    btd.process.signal(Signal::USR2);
    home.wait_state(meta.info_hash, "paused");
    assert!(join(&btd).is_err(), "nor after a check");

    assert_eq!(home.json(&["resume", &hash]).row()["changed"], true);
    home.wait_state(meta.info_hash, "seeding");
    join(&btd).expect("it is served again");
    btd.stop();
    let btd = home.start();
    home.wait_state(meta.info_hash, "seeding");

    let all = home.json(&["pause", "--all"]).row();
    assert_eq!((&all["changed"], &all["unchanged"]), (&2.into(), &0.into()));
    assert_eq!(home.json(&["pause", "--all"]).row()["unchanged"], 2);
    home.wait_state(other.info_hash, "paused");
    let row = home.wait_state(meta.info_hash, "paused");
    assert_eq!(row["done"], 40_000, "whole, as it was while it rested");
    // One that is taken out and comes back was not paused.
    fs::remove_file(home.watch.join("other.torrent")).expect("take a torrent out");
    wait_for("it is gone", within(SECONDS), || {
        (home.json(&["list"]).rows().len() == 1).then_some(())
    });
    home.payload("other", &[("other", 20_000)]);
    home.wait_state(other.info_hash, "seeding");
    assert_eq!(home.json(&["resume", "--all"]).row()["changed"], 1);
    home.wait_state(meta.info_hash, "seeding");
    btd.stop();
}

#[test]
fn download_that_is_paused_makes_no_connection_and_goes_on_when_it_is_resumed() {
    let (home, from) = (Home::new("ctl-pause-download"), Home::new("ctl-pause-seed"));
    let meta = from.payload("seed", &[("seed", 3_000_000)]);
    let seed = from.start();
    from.wait_state(meta.info_hash, "seeding");
    home.drop_in("seed", &fs::read(from.watch.join("seed.torrent")).expect("there"));
    let config = Config {
        peers: vec![seed.peers],
        more: "[limits]\ndownload-rate = \"100 kB/s\"\n".to_owned(),
        ..home.config("")
    };
    let btd = Btd::start(home.path(), &config);
    let hash = hash_of(&meta);
    wait_for("some of it has come", within(SECONDS), || {
        (home.json(&["show", &hash]).row()["have_count"].as_u64() >= Some(2)).then_some(())
    });
    home.ctl(&["pause", &hash]);
    let row = home.wait_state(meta.info_hash, "paused");
    let done = row["done"].as_u64().expect("known");
    assert!((1..3_000_000).contains(&done), "{row}");
    wait_for("the seed is left alone", within(SECONDS), || {
        (from.json(&["peers", &hash]).rows().is_empty()).then_some(())
    });
    assert!(home.data.join("seed.part").exists());
    // What limits a download is changed while it runs: at 100 kB/s it would take half a minute.
    let limits = home.json(&["limits", "--download-rate", "unlimited"]).row();
    assert_eq!(limits["download_rate"], Value::Null);
    home.ctl(&["resume", &hash]);
    home.wait_state(meta.info_hash, "seeding");
    assert_eq!(
        fs::read(home.data.join("seed")).expect("complete"),
        fs::read(from.data.join("seed")).expect("the seed's")
    );
    let shown = home.json(&["show", &hash]).row();
    assert!(shown["downloaded_ever"].as_u64() >= Some(3_000_000), "{shown}");
    assert_eq!(shown["why"], Value::Null, "{shown}");
    btd.stop();
    seed.stop();
}

#[test]
fn verify_finds_what_was_changed_behind_its_back() {
    let home = Home::new("ctl-verify");
    let meta = home.payload("seed", &[("seed", 40_000)]);
    let btd = home.start();
    home.wait_state(meta.info_hash, "seeding");
    let file = home.data.join("seed");
    rot(&file, 20_000);
    let hash = hash_of(&meta);
    let done = home.ctl(&["verify", &hash[..8]]);
    assert!(
        done.code == 0 && done.out.contains("is being checked"),
        "{}{}",
        done.out,
        done.err
    );
    home.wait_state(meta.info_hash, "partial");
    assert_eq!(home.json(&["show", &hash]).row()["have_count"], 2);
    // Also of one that nothing is there of.
    fs::remove_file(&file).expect("removed");
    home.ctl(&["verify", &hash]);
    home.wait_state(meta.info_hash, "missing");
    home.payload_without_torrent("seed", &[("seed", 40_000)]);
    let all = home.json(&["verify", "--all"]).row();
    assert_eq!(all["changed"], 1, "{all}");
    home.wait_state(meta.info_hash, "seeding");
    btd.stop();
}

#[test]
fn reannounce_asks_the_tracker_again_but_not_before_it_allows_and_keys_are_shown_to_who_asks_only() {
    let home = Home::new("ctl-reannounce");
    let stub = StubTracker::saying("d8:completei5e10:incompletei2e8:intervali1800e12:min intervali2e5:peers0:e");
    let url = format!("{}?passkey=0123456789abcdef", stub.url());
    home.payload_without_torrent("seed", &[("seed", 40_000)]);
    let content = fs::read(home.data.join("seed")).expect("there");
    let meta = home.drop_in("seed", &torrent("seed", &[("seed", 40_000)], &content, &url));
    let lonely = home.payload("lonely", &[("lonely", 10)]);
    let btd = Btd::start(home.path(), &home.config("[announce]\nallow-private = true\n"));
    let hash = hash_of(&meta);
    let tracker = wait_for("the tracker has answered", within(SECONDS), || {
        let tracker = home.json(&["show", &hash]).row()["trackers"][0].take();
        (tracker["state"] == "working").then_some(tracker)
    });
    assert_eq!((&tracker["seeders"], &tracker["leechers"]), (&5.into(), &2.into()));
    for args in [&["show", &hash][..], &["show", &hash, "--json"]] {
        let text = home.ctl(args).out;
        assert!(
            text.contains(&stub.addr.to_string()) && !text.contains("0123456789abcdef"),
            "{text}"
        );
        let text = home.ctl(&[args, &["--secrets"]].concat()).out;
        assert!(text.contains(&url), "{text}");
    }
    assert!(!btd.process.log().contains("0123456789abcdef"));

    // It allows it every two seconds; btd asks once a minute at most.
    let asked = home.json(&["reannounce", &hash]).row();
    assert_eq!(asked["changed"], false, "{asked}");
    assert!(
        asked["note"].as_str().is_some_and(|note| note.contains("again in")),
        "{asked}"
    );
    assert_eq!(stub.requests().len(), 1);
    // What is not to be has an exit code of its own, and of several it is told which.
    let why = "it names no tracker that btd can speak to, and `announce.trackers` has none";
    let run = home.json(&["reannounce", &hash_of(&lonely)]);
    run.assert_fails(REFUSED, &format!("lonely ({}): not done", hash_of(&lonely)));
    assert!(
        run.out.contains("\"refused\":true") && run.out.contains(why),
        "{}",
        run.out
    );
    let run = home.ctl(&["reannounce", &hash_of(&lonely), &hash]);
    run.assert_fails(REFUSED, &format!("lonely ({}): not done", hash_of(&lonely)));
    assert!(
        run.out.contains("again in") && !run.err.contains("seed"),
        "{}{}",
        run.out,
        run.err
    );
    let all = home.json(&["reannounce", "--all"]).row();
    assert_eq!((&all["unchanged"], &all["refused"]), (&2.into(), &1.into()));
    btd.stop();
    let btd = Btd::start(home.path(), &home.config("[announce]\nenabled = false\n"));
    home.wait_state(meta.info_hash, "seeding");
    let run = home.ctl(&["reannounce", "--all"]);
    run.assert_fails(REFUSED, "it could not be done to any torrent");
    assert!(run.out.contains("with 2 others it could not be done"), "{}", run.out);
    home.ctl(&["reannounce", &hash]).assert_fails(REFUSED, "not done");
    btd.stop();
}

/// It said that it is not announced, of one that was about to be.
#[test]
fn reannounce_says_of_a_torrent_that_is_not_announced_why_and_whether_it_will_be() {
    let home = Home::new("ctl-unannounced");
    let stub = StubTracker::saying("d8:intervali1800e5:peers0:e");
    let files = [("seed", 4_000_000)];
    home.payload_without_torrent("seed", &files);
    let content = fs::read(home.data.join("seed")).expect("there");
    let meta = home.drop_in("seed", &torrent("seed", &files, &content, &stub.url()));
    let hash = hash_of(&meta);
    let note = |code: i32| {
        let run = home.json(&["reannounce", &hash]);
        assert_eq!(run.code, code, "{}{}", run.out, run.err);
        let asked: Value = serde_json::from_str(&run.out).expect("a row");
        assert_eq!(asked["changed"], false, "{asked}");
        asked["note"].as_str().expect("a text").to_owned()
    };
    // Its check lasts longer than all of this.
    let slow = "[announce]\nallow-private = true\n[storage]\ncheck-rate = \"100 kB/s\"\n";
    let btd = Btd::start(home.path(), &home.config(slow));
    home.wait_state(meta.info_hash, "checking");
    let until_checked = "it is announced once its payload has been looked at";
    assert_eq!(note(0), until_checked);
    home.json(&["pause", &hash]).row();
    assert_eq!(note(REFUSED), "it is not announced: it is paused");
    home.json(&["resume", &hash]).row();
    assert_eq!(note(0), until_checked);
    assert!(stub.requests().is_empty());
    btd.stop();

    let btd = Btd::start(home.path(), &home.config("[announce]\nallow-private = true\n"));
    home.wait_state(meta.info_hash, "seeding");
    home.json(&["pause", &hash]).row();
    home.json(&["resume", &hash]).row();
    let asked = home.json(&["reannounce", &hash]).row();
    assert!(
        asked["note"]
            .as_str()
            .is_some_and(|note| !note.contains("not announced")),
        "{asked}"
    );
    wait_for("its tracker is told", within(SECONDS), || {
        (!stub.requests().is_empty()).then_some(())
    });
    btd.stop();
}

#[test]
fn file_that_is_added_is_served_and_lies_in_the_watch_folder_it_was_put_into() {
    let home = Home::new("ctl-add");
    let (watch_two, data_two) = (home.scratch.dir("watch-two"), home.scratch.dir("data-two"));
    let mut config = home.config("");
    config.watch.push((watch_two.clone(), data_two));
    let first = home.payload_without_torrent("seed", &[("seed", 40_000)]);
    let meta = Metainfo::parse(&first).expect("a torrent");
    let elsewhere = home.scratch.dir("elsewhere");
    fs::write(elsewhere.join("A name.torrent"), &first).expect("written");
    let btd = Btd::start(home.path(), &config);

    let added = home.json(&["add", "elsewhere/A name.torrent"]).row();
    let put = home.watch.join("A name.torrent");
    assert_eq!(
        (&added["info_hash"], &added["name"]),
        (&hash_of(&meta).into(), &"seed".into())
    );
    assert_eq!(
        (&added["torrent_file"], &added["loaded"]),
        (&put.to_str().into(), &true.into())
    );
    assert_eq!(fs::read(&put).expect("put there"), first);
    assert!(elsewhere.join("A name.torrent").exists(), "it is a copy");
    home.wait_state(meta.info_hash, "seeding");
    home.ctl(&["add", "elsewhere/A name.torrent"])
        .assert_fails(REFUSED, "there already");

    // A name that is taken, another folder, and several at once of which some are none.
    let other = torrent("other", &[("other", 10)], &[3; 10], "");
    let third = torrent("third", &[("third", 10)], &[4; 10], "");
    fs::write(home.path().join("A name.torrent"), &other).expect("written");
    fs::write(home.path().join("third.torrent"), &third).expect("written");
    fs::write(home.path().join("junk.torrent"), "d4:infode").expect("written");
    let added = home.json(&["add", "A name.torrent"]).row();
    assert_eq!(
        added["torrent_file"],
        home.watch.join("A name-1.torrent").to_str().expect("UTF-8")
    );
    let some = home.ctl(&["add", "junk.torrent", "third.torrent", "--watch", "watch-two"]);
    some.assert_fails(DATA, "junk.torrent");
    assert!(
        some.out.contains("third") && watch_two.join("third.torrent").exists(),
        "{}",
        some.out
    );
    home.ctl(&["add", "junk.torrent", "--watch", "data"])
        .assert_fails(REFUSED, "no watch folder");
    home.ctl(&["add", "/dev/null"]).assert_fails(DATA, "not a regular file");
    home.ctl(&["add", "none.torrent"]).assert_fails(74, "none.torrent");
    assert_eq!(home.json(&["list"]).rows().len(), 3);
    btd.stop();
    let btd = Btd::start(home.path(), &config);
    home.wait_state(meta.info_hash, "seeding");
    assert_eq!(home.json(&["list"]).rows().len(), 3, "it survives a restart");
    let hidden = |dir: &Path| {
        fs::read_dir(dir)
            .expect("listed")
            .filter(|entry| {
                let name = entry.as_ref().expect("an entry").file_name();
                name.to_string_lossy().starts_with('.')
            })
            .count()
    };
    assert_eq!(
        (hidden(&home.watch), hidden(&watch_two)),
        (0, 0),
        "nothing is left beside"
    );
    btd.stop();
}

#[test]
fn what_is_removed_with_its_data_takes_nothing_else_along() {
    let home = Home::new("ctl-remove");
    let meta = home.payload("t", &[("t/a", 40_000), ("t/in/b", 9), ("t/in/deep/c", 5)]);
    let keeps = home.payload("keeps", &[("keeps", 40_000)]);
    // The same file in two torrents.
    let shared = home.payload("shared", &[("shared/x", 100), ("shared/y", 100)]);
    let sharing = home.drop_in(
        "sharing",
        &torrent(
            "shared",
            &[("shared/x", 100)],
            &fs::read(home.data.join("shared/x")).expect("there"),
            "",
        ),
    );
    let mine = home.data.join("t/in/mine");
    fs::write(&mine, "a note").expect("written");
    fs::write(home.data.join("a"), "beside").expect("written");
    let btd = home.start();
    for meta in [&meta, &keeps, &shared, &sharing] {
        home.wait_state(meta.info_hash, "seeding");
    }
    let mut peer = Peer::join(btd.peers, Ipv4Addr::LOCALHOST, meta.info_hash, Reserved::OURS).expect("served");

    // Without its data.
    let removed = home.json(&["remove", &hash_of(&keeps)]).row();
    assert_eq!((&removed["files"], &removed["name"]), (&0.into(), &"keeps".into()));
    assert!(home.data.join("keeps").exists() && !home.watch.join("keeps.torrent").exists());
    home.ctl(&["show", &hash_of(&keeps)])
        .assert_fails(REFUSED, "there is no torrent");

    let refused = home.ctl(&["remove", &hash_of(&shared), "--with-data"]);
    refused.assert_fails(REFUSED, "shared/x");
    refused.assert_fails(REFUSED, &hash_of(&sharing));
    assert!(home.data.join("shared/x").exists() && home.watch.join("shared.torrent").exists());
    home.wait_state(shared.info_hash, "seeding");

    // One of its files has become another's: longer than the torrent says.
    fs::write(home.data.join("t/in/b"), "mine, and longer").expect("written");
    let removed = home.json(&["remove", &hash_of(&meta), "--with-data"]).row();
    assert_eq!(
        (&removed["files"], &removed["folders"]),
        (&2.into(), &1.into()),
        "{removed}"
    );
    let kept = removed["kept"].as_array().expect("a list");
    assert!(
        kept.len() == 1 && kept[0].as_str().is_some_and(|kept| kept.starts_with("t/in/b")),
        "{removed}"
    );
    peer.wait_closed("a peer of a torrent that was removed", within(SECONDS));
    let there = |path: &str| home.data.join(path).exists();
    assert!(!there("t/a") && !there("t/in/deep") && !home.watch.join("t.torrent").exists());
    assert!(there("t/in/mine") && there("t/in/b") && there("a") && there("keeps") && there("shared/y"));

    // The other one of two that share is gone: now it can be.
    home.ctl(&["remove", &hash_of(&sharing)]);
    let removed = home.json(&["remove", &hash_of(&shared), "--with-data"]).row();
    assert_eq!(
        (&removed["files"], &removed["folders"]),
        (&2.into(), &1.into()),
        "{removed}"
    );
    assert!(!there("shared"));
    assert_eq!(home.json(&["list"]).rows(), Vec::<Value>::new());
    btd.stop();
}

#[test]
fn data_that_another_torrent_may_have_from_a_folder_around_it_is_not_deleted() {
    let home = Home::new("ctl-remove-nested");
    // A second watch folder whose data folder lies in the first one's, so that `in/x` there is `x` here.
    let (watch_two, data_two) = (home.scratch.dir("watch-two"), home.data.join("in"));
    let outer = home.payload("in", &[("in/x", 100)]);
    let inner = torrent(
        "x",
        &[("x", 100)],
        &fs::read(home.data.join("in/x")).expect("there"),
        "",
    );
    fs::write(watch_two.join("x.torrent"), &inner).expect("written");
    let inner = Metainfo::parse(&inner).expect("a torrent");
    let mut config = home.config("");
    config.watch.push((watch_two, data_two));
    let btd = Btd::start(home.path(), &config);
    home.wait_state(outer.info_hash, "seeding");
    home.wait_state(inner.info_hash, "seeding");
    for (meta, other) in [(&outer, &inner), (&inner, &outer)] {
        home.ctl(&["remove", &hash_of(meta), "--with-data"])
            .assert_fails(REFUSED, &hash_of(other));
    }
    assert!(home.data.join("in/x").exists());
    btd.stop();
}

#[test]
fn payload_that_has_the_name_which_a_file_has_meanwhile_is_not_deleted() {
    let home = Home::new("ctl-remove-part");
    // As long as each other: what is deleted with `x` is `x.part` of that length too.
    let whole = home.payload("x", &[("x", 100)]);
    let part = home.payload("x.part", &[("x.part", 100)]);
    let btd = home.start();
    home.wait_state(whole.info_hash, "seeding");
    home.wait_state(part.info_hash, "seeding");
    for (meta, other) in [(&whole, &part), (&part, &whole)] {
        home.ctl(&["remove", &hash_of(meta), "--with-data"])
            .assert_fails(REFUSED, &hash_of(other));
    }
    assert!(home.data.join("x").exists() && home.data.join("x.part").exists());
    btd.stop();
}

#[test]
fn download_that_is_removed_with_its_data_leaves_no_part_and_can_be_added_again() {
    let (home, from) = (Home::new("ctl-remove-download"), Home::new("ctl-remove-seed"));
    let meta = from.payload("t", &[("t/a", 1_000_000), ("t/b", 1_000_000)]);
    let seed = from.start();
    from.wait_state(meta.info_hash, "seeding");
    let file = from.watch.join("t.torrent");
    home.drop_in("t", &fs::read(&file).expect("there"));
    let config = Config {
        peers: vec![seed.peers],
        more: "[limits]\ndownload-rate = \"100 kB/s\"\n".to_owned(),
        ..home.config("")
    };
    let btd = Btd::start(home.path(), &config);
    let hash = hash_of(&meta);
    wait_for("some of it has come", within(SECONDS), || {
        (home.json(&["show", &hash]).row()["have_count"].as_u64() >= Some(1)).then_some(())
    });
    assert!(home.data.join("t/a.part").exists());
    let removed = home.json(&["remove", &hash, "--with-data"]).row();
    assert_eq!(
        (&removed["files"], &removed["folders"]),
        (&2.into(), &1.into()),
        "{removed}"
    );
    assert_eq!(fs::read_dir(&home.data).expect("listed").count(), 0);

    home.ctl(&["limits", "--download-rate", "unlimited"]);
    home.ctl(&["add", file.to_str().expect("UTF-8")]);
    home.wait_state(meta.info_hash, "seeding");
    // Also when it was complete once.
    home.json(&["remove", &hash, "--with-data"]).row();
    assert_eq!(fs::read_dir(&home.data).expect("listed").count(), 0);
    home.ctl(&["add", file.to_str().expect("UTF-8")]);
    home.wait_state(meta.info_hash, "seeding");
    btd.stop();
    seed.stop();
}

#[test]
fn peers_are_told_with_what_they_are_and_do() {
    let home = Home::new("ctl-peers");
    let meta = home.payload("seed", &[("seed", 40_000)]);
    let btd = home.start();
    home.wait_state(meta.info_hash, "seeding");
    let hash = hash_of(&meta);
    assert_eq!(home.json(&["peers", &hash]).rows(), Vec::<Value>::new());
    let mut peer = Peer::join(btd.peers, Ipv4Addr::LOCALHOST, meta.info_hash, Reserved::default()).expect("served");
    peer.hear_id(1).expect("unchoked");
    peer.fetch(0, 0, PIECE_LEN).expect("served");
    let rows = wait_for("the rate is told", within(SECONDS), || {
        let rows = home.json(&["peers", &hash]).rows();
        (rows.first()?["upload_rate"].as_u64()? > 0).then_some(rows)
    });
    let row = &rows[0];
    assert_eq!(rows.len(), 1);
    let local = peer.stream().local_addr().expect("connected").to_string();
    for (key, value) in [
        ("address", Value::from(local.clone())),
        ("client", "-TE0001-".into()),
        ("peer_id", "-TE0001-tester-peers".into()),
        ("outgoing", false.into()),
        ("interested", true.into()),
        ("unchoked", true.into()),
        ("we_are_interested", false.into()),
        ("have_count", 0.into()),
        ("piece_count", 3.into()),
    ] {
        assert_eq!(row[key], value, "{key}: {row}");
    }
    let table = home.ctl(&["peers", &hash]).out;
    let line = table.lines().nth(1).unwrap_or_default();
    assert!(
        line.starts_with("IU ") && line.ends_with(&local) && line.contains("0.0%"),
        "{table}"
    );
    assert_eq!(home.json(&["show", &hash]).row()["peers"], 1);
    let stats = wait_for("the shards have told of the upload", within(SECONDS), || {
        let stats = home.json(&["stats"]).row();
        (stats["uploaded"].as_u64()? >= PIECE_LEN.into()).then_some(stats)
    });
    assert_eq!(stats["peers"], 1);
    wait_for("the list tells the rate", within(SECONDS), || {
        peer.fetch(1, 0, PIECE_LEN).expect("served");
        let row = home.json(&["list"]).row();
        (row["upload_rate"].as_u64()? > 0).then_some(())
    });
    assert!(home.json(&["stats"]).row()["upload_rate"].as_u64() > Some(0));
    assert!(stats["cache_hit_ratio"].is_f64(), "{stats}");
    btd.stop();
}

#[test]
fn limits_hold_as_soon_as_they_are_set_and_until_the_next_start() {
    const RATE: usize = 200_000;
    let home = Home::new("ctl-limits");
    let meta = home.payload("seed", &[("seed", 400_000)]);
    let btd = home.start();
    home.wait_state(meta.info_hash, "seeding");
    let all = home.json(&["limits"]).row();
    assert_eq!(
        (&all["upload_rate"], &all["download_rate"]),
        (&Value::Null, &Value::Null)
    );
    let set = home.json(&["limits", "--upload-rate", "200 kB/s"]).row();
    assert_eq!(
        (&set["upload_rate"], &set["download_rate"]),
        (&RATE.into(), &Value::Null)
    );
    assert!(home.ctl(&["limits"]).out.contains("upload-rate   200.0 kB/s"));

    let mut peer = Peer::join(btd.peers, Ipv4Addr::LOCALHOST, meta.info_hash, Reserved::default()).expect("served");
    peer.hear_id(1).expect("unchoked");
    let fetch = |peer: &mut Peer| {
        let started = Instant::now();
        for piece in 0..20 {
            peer.fetch(piece, 0, PIECE_LEN).expect("served");
        }
        started.elapsed()
    };
    // The first block and what may be made up for come for nothing.
    let least = Duration::from_secs_f64(19.0 * f64::from(PIECE_LEN) / RATE as f64 - 0.2);
    let took = fetch(&mut peer);
    assert!(took >= least, "{took:?}, at least {least:?}");
    home.ctl(&["limits", "--upload-rate", "unlimited"]);
    let took = fetch(&mut peer);
    assert!(took < least, "{took:?} without a limit");
    home.ctl(&["limits", "--upload-rate", "1 kB/s"])
        .assert_fails(USAGE, "at least 16384");
    home.ctl(&["limits", "--upload-rate", "1 MB/s"]);
    btd.stop();
    let btd = home.start();
    assert_eq!(home.json(&["limits"]).row()["upload_rate"], Value::Null);
    btd.stop();
}

/// More torrents than are checked at once on any disk.
const CROWD: usize = 6;

/// Torrents with their payload, and the rows of those that wait in line while checks are paused.
fn wait_for_some_in_line(home: &Home) -> Vec<Value> {
    wait_for("some wait in line", within(SECONDS), || {
        let mut rows = home.json(&["list"]).rows();
        let is_all = rows.iter().filter(|row| row["state"] == "checking").count() == CROWD;
        rows.retain(|row| row["waits"] == true);
        (is_all && !rows.is_empty() && rows.len() < CROWD).then_some(rows)
    })
}

#[test]
fn new_download_begins_while_checks_are_paused_and_what_waits_in_line_says_so() {
    let home = Home::new("ctl-line");
    let config = Config {
        peers: vec![([127, 0, 0, 1], 9).into()],
        ..home.config("")
    };
    let btd = Btd::start(home.path(), &config);
    btd.process.signal(Signal::USR1);
    btd.wait_log("SIGUSR1");
    let names: Vec<String> = (0..CROWD).map(|number| format!("there-{number}")).collect();
    let there: Vec<Metainfo> = names
        .iter()
        .map(|name| home.payload(name, &[(name.as_str(), 40_000)]))
        .collect();
    let waiting = wait_for_some_in_line(&home);
    for row in waiting {
        let why = home.json(&["show", row["info_hash"].as_str().expect("a text")]).row()["why"].to_string();
        assert!(
            why.contains("it waits to be checked, behind ") && why.contains("; checks are paused (SIGUSR2"),
            "{why}"
        );
    }
    let table = home.ctl(&["list"]).out;
    assert!(
        table.contains("  waiting  ") && table.contains("  checking  "),
        "{table}"
    );

    let new = home.drop_in("new", &torrent("new", &[("new", 20_000)], &[7; 20_000], ""));
    home.wait_state(new.info_hash, "downloading");
    wait_for_some_in_line(&home);
    btd.process.signal(Signal::USR2);
    for meta in there {
        let row = home.wait_state(meta.info_hash, "seeding");
        assert_eq!(row["waits"], false);
    }
    btd.stop();
}

/// It was forgotten.
#[test]
fn verify_that_waits_in_line_is_made_after_a_restart() {
    let home = Home::new("ctl-verify-line");
    let names: Vec<String> = (0..CROWD).map(|number| format!("there-{number}")).collect();
    let there: Vec<Metainfo> = names
        .iter()
        .map(|name| home.payload(name, &[(name.as_str(), 40_000)]))
        .collect();
    let wait_all = |btd: Btd| {
        for meta in &there {
            home.wait_state(meta.info_hash, "seeding");
        }
        btd
    };
    let btd = wait_all(home.start());
    btd.process.signal(Signal::USR1);
    btd.wait_log("SIGUSR1");
    let mut said = Vec::new();
    for meta in &there {
        let run = home.ctl(&["verify", &hash_of(meta)]);
        run.assert_done();
        said.push(run.out);
    }
    let (first, last) = (&said[0], &said[CROWD - 1]);
    assert!(
        first.contains("is being checked; checks are paused (SIGUSR2"),
        "{first}"
    );
    assert!(
        last.contains("it waits to be checked, behind ") && !last.contains("is being checked"),
        "{last}"
    );
    wait_for_some_in_line(&home);
    btd.stop();
    let btd = wait_all(home.start());
    wait_for("all are read", within(SECONDS), || {
        (btd.metric("btd_check_read_bytes_total") == (CROWD * 40_000) as f64).then_some(())
    });
    btd.stop();
    let btd = wait_all(home.start());
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0, "they are made once");
    btd.stop();
}

/// It was put in line, so that it was away for as long as checks took that were before it.
#[test]
fn seed_that_is_resumed_waits_for_no_check_unless_its_files_have_changed() {
    let home = Home::new("ctl-resume-line");
    let seed = home.payload("seed", &[("seed", 40_000)]);
    let changed = home.payload("changed", &[("changed", 40_000)]);
    let btd = home.start();
    for meta in [&seed, &changed] {
        home.wait_state(meta.info_hash, "seeding");
        home.ctl(&["pause", &hash_of(meta)]).assert_done();
    }
    fs::write(home.data.join("changed"), vec![7; 40_000]).expect("written");
    btd.process.signal(Signal::USR1);
    btd.wait_log("SIGUSR1");
    for name in (0..CROWD).map(|number| format!("there-{number}")) {
        home.payload(&name, &[(name.as_str(), 40_000)]);
    }
    wait_for_some_in_line(&home);
    home.ctl(&["resume", &hash_of(&seed)]).assert_done();
    let row = home.wait_state(seed.info_hash, "seeding");
    assert_eq!((&row["done"], &row["paused"]), (&40_000.into(), &false.into()));
    let mut peer = Peer::join(btd.peers, Ipv4Addr::LOCALHOST, seed.info_hash, Reserved::default()).expect("served");
    peer.hear_id(1).expect("unchoked");
    peer.fetch(0, 0, PIECE_LEN).expect("served");
    btd.wait_log("unchanged since it was checked");
    home.ctl(&["resume", &hash_of(&changed)]).assert_done();
    home.wait_state(changed.info_hash, "checking");
    assert_eq!(home.json(&["show", &hash_of(&changed)]).row()["waits"], true);
    btd.process.signal(Signal::USR2);
    home.wait_state(changed.info_hash, "missing");
    home.wait_state(seed.info_hash, "seeding");
    btd.stop();
}

/// A line for each came every five seconds.
#[test]
fn what_waits_for_the_end_of_a_pause_is_told_once() {
    let home = Home::new("ctl-pause-told");
    let btd = home.start();
    btd.process.signal(Signal::USR1);
    btd.wait_log("SIGUSR1");
    let meta = home.payload("seed", &[("seed", 40_000)]);
    btd.wait_log("checking \"seed\": paused at 0 %");
    let uptime = || home.json(&["stats"]).row()["uptime"].as_f64().expect("a number");
    let told_at = uptime();
    wait_for("it could have been told twice more", within(SECONDS), || {
        (uptime() > told_at + 11.0).then_some(())
    });
    let log = btd.process.log();
    assert_eq!(log.matches("checking \"seed\": paused").count(), 1, "{log}");
    btd.process.signal(Signal::USR2);
    home.wait_state(meta.info_hash, "seeding");
    btd.stop();
}

/// It was kept for good, and made when the torrent came back for another reason.
#[test]
fn verify_of_a_torrent_that_goes_while_btd_is_down_is_forgotten() {
    let home = Home::new("ctl-verify-gone");
    let stays = home.payload("stays", &[("stays", 40_000)]);
    let goes = home.payload("goes", &[("goes", 40_000)]);
    let btd = home.start();
    for meta in [&stays, &goes] {
        home.wait_state(meta.info_hash, "seeding");
    }
    btd.process.signal(Signal::USR1);
    btd.wait_log("SIGUSR1");
    home.ctl(&["verify", &hash_of(&goes)]).assert_done();
    home.kill(btd);
    let (file, aside) = (home.watch.join("goes.torrent"), home.path().join("goes"));
    fs::rename(&file, &aside).expect("taken away");
    let btd = home.start();
    home.wait_state(stays.info_hash, "seeding");
    btd.stop();
    fs::rename(&aside, &file).expect("put back");
    let btd = home.start();
    home.wait_state(goes.info_hash, "seeding");
    btd.wait_log("unchanged since it was checked");
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0);
    btd.stop();
}
