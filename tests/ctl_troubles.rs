//! `btd ctl` where something is in the way: a disk that lets nothing be deleted, a tracker that refuses, payload that comes
//! later than its torrent.

mod support;

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use btd::proto::handshake::Reserved;
use btd::proto::metainfo::Metainfo;
use rustix::mount::{MountFlags, mount_remount};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::Signal;
use serde_json::Value;
use support::btd::{Btd, Config};
use support::ctl::{Home, IO, NOT_RUNNING, PIECE_LEN, REFUSED, SECONDS, hash_of, torrent};
use support::mount::Tmpfs;
use support::peer::Peer;
use support::stub_tracker::StubTracker;
use support::{cannot, wait_for, within};

#[test]
fn files_that_cannot_be_deleted_are_told_where_they_are_and_the_exit_code_says_so() {
    let home = Home::new("ctl-undeleted");
    let at = home.scratch.dir("data/t");
    let mounted = match Tmpfs::mount(&at, c"size=4m") {
        Ok(mounted) => mounted,
        Err(why) => return cannot(&why),
    };
    let meta = home.payload("t", &[("t/a", 40_000), ("t/in/b", 9)]);
    let other = home.payload("other", &[("other", 10)]);
    mount_remount(&at, MountFlags::RDONLY, c"size=4m").expect("mount it for reading only");
    let btd = home.start();
    home.wait_state(meta.info_hash, "seeding");
    home.wait_state(other.info_hash, "seeding");
    let hashes = [&hash_of(&meta), &hash_of(&other)];
    let removed = home.ctl(&["remove", hashes[0], hashes[1], "--with-data"]);
    removed.assert_fails(IO, "t: removed, but not all of its files could be deleted");
    for path in ["a", "in/b"] {
        let line = format!("not deleted: {}: ", at.join(path).display());
        assert!(removed.out.contains(&line) && at.join(path).exists(), "{}", removed.out);
    }
    // The other one goes all the same.
    assert!(
        removed.out.contains("other: removed, 1 file and 0 folders deleted"),
        "{}",
        removed.out
    );
    assert!(!home.data.join("other").exists());
    assert_eq!(home.json(&["list"]).rows(), Vec::<Value>::new());
    btd.stop();
    drop(mounted);
}

/// A connection to a socket, if it has room for one more that waits.
fn connect_at_once(path: &Path) -> Option<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket");
    let addr = SocketAddrUnix::new(path).expect("a short path");
    connect(&socket, &addr).is_ok().then_some(socket)
}

/// Containers are asked for their health and wait five seconds.
#[test]
fn btd_that_stands_still_is_said_to_do_so_within_the_time_that_containers_give() {
    let home = Home::new("ctl-stopped");
    let btd = home.start();
    btd.process.signal(Signal::STOP);
    let began = Instant::now();
    home.ctl(&["health"])
        .assert_fails(NOT_RUNNING, "btd does not answer: nothing came for 4 s");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(4), "{took:?}");
    // Who asks when no more can even wait to be heard.
    let mut waiting = Vec::new();
    while let Some(stream) = connect_at_once(&home.socket()) {
        waiting.push(stream);
    }
    assert!(waiting.len() >= 32, "{}", waiting.len());
    home.ctl(&["health"])
        .assert_fails(NOT_RUNNING, "btd does not answer: nothing came for 4 s");
    drop(waiting);
    btd.process.signal(Signal::CONT);
    wait_for("btd goes on", within(SECONDS), || {
        (home.ctl(&["health"]).code == 0).then_some(())
    });
    btd.stop();
}

#[test]
fn data_folder_that_is_not_there_has_nothing_removed_with_its_data() {
    let home = Home::new("ctl-no-data-folder");
    let meta = home.payload("t", &[("t", 40_000)]);
    let btd = home.start();
    home.wait_state(meta.info_hash, "seeding");
    let elsewhere = home.path().join("elsewhere");
    fs::rename(&home.data, &elsewhere).expect("moved away");
    let refused = home.ctl(&["remove", &hash_of(&meta), "--with-data"]);
    refused.assert_fails(REFUSED, "nothing was removed (hint: without --with-data)");
    assert!(home.watch.join("t.torrent").exists() && elsewhere.join("t").exists());
    btd.stop();
}

#[test]
fn peers_of_a_torrent_that_is_not_there_are_an_error_and_no_table() {
    let home = Home::new("ctl-no-peers");
    let meta = home.payload("t", &[("t", 40_000)]);
    let btd = home.start();
    home.wait_state(meta.info_hash, "seeding");
    let run = home.ctl(&["peers", &"0".repeat(40)]);
    run.assert_fails(REFUSED, "there is no torrent");
    assert_eq!(run.out, "");
    // One that nobody is connected for has a table without rows.
    let table = home.ctl(&["peers", &hash_of(&meta)]).out;
    assert!(table.lines().count() == 1 && table.starts_with("FLAGS"), "{table}");
    btd.stop();
}

#[test]
fn tracker_that_has_refused_is_asked_again_a_minute_later_and_what_it_said_is_told() {
    let home = Home::new("ctl-refused");
    let stub = StubTracker::saying("d14:failure reason18:unregistered, so 3e");
    home.payload_without_torrent("seed", &[("seed", 40_000)]);
    let content = fs::read(home.data.join("seed")).expect("there");
    let meta = home.drop_in("seed", &torrent("seed", &[("seed", 40_000)], &content, &stub.url()));
    let btd = Btd::start(home.path(), &home.config("[announce]\nallow-private = true\n"));
    let hash = hash_of(&meta);
    wait_for("the tracker has refused", within(SECONDS), || {
        (home.json(&["show", &hash]).row()["trackers"][0]["state"] == "failing").then_some(())
    });
    let asked = home.json(&["reannounce", &hash]).row();
    let note = asked["note"].as_str().expect("a text");
    assert!(
        note.ends_with("s, and will be (the last time: refused: unregistered, so 3)"),
        "{note}"
    );
    let seconds = note.split_whitespace().find_map(|word| word.parse::<u32>().ok());
    // Without being asked to it would have waited for five minutes.
    assert!(
        asked["changed"] == false && seconds.is_some_and(|seconds| seconds <= 60),
        "{note}"
    );
    btd.stop();
}

/// It was told to be new.
#[test]
fn tracker_that_failed_before_a_restart_is_told_of_as_one_that_did() {
    let home = Home::new("ctl-failed-before");
    let stub = StubTracker::saying("d14:failure reason18:unregistered, so 3e");
    home.payload_without_torrent("seed", &[("seed", 40_000)]);
    let content = fs::read(home.data.join("seed")).expect("there");
    let meta = home.drop_in("seed", &torrent("seed", &[("seed", 40_000)], &content, &stub.url()));
    let hash = hash_of(&meta);
    let told = |text: &str| {
        wait_for(text, within(SECONDS), || {
            let row = home.json(&["show", &hash]).row()["trackers"][0].take();
            row["text"].as_str().is_some_and(|said| said == text).then_some(row)
        })
    };
    let config = home.config("[announce]\nallow-private = true\n");
    let btd = Btd::start(home.path(), &config);
    told("refused: unregistered, so 3");
    let failed_at = Instant::now();
    btd.stop();
    let btd = Btd::start(home.path(), &config);
    let row = told("it failed the last time before this start");
    assert_eq!(row["state"], "failing");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let wait = row["next_announce"].as_u64().expect("a time") as i64 - now.expect("after 1970").as_secs() as i64;
    assert!((0..=60).contains(&wait), "{wait} s");
    // A minute after the last time at the earliest.
    assert!(stub.requests().len() == 1 || failed_at.elapsed() >= Duration::from_secs(58));
    btd.stop();
}

#[test]
fn what_a_list_says_was_uploaded_is_the_total_over_restarts_and_checks() {
    let home = Home::new("ctl-uploaded");
    let meta = home.payload("seed", &[("seed", 40_000)]);
    let hash = hash_of(&meta);
    let uploaded = |len: u32| {
        wait_for("the upload is told of", within(SECONDS), || {
            let row = home.json(&["list"]).row();
            (row["uploaded_ever"] == len).then_some(row)
        })
    };
    let btd = home.start();
    home.wait_state(meta.info_hash, "seeding");
    let fetch = |btd: &Btd, piece| {
        let mut peer = Peer::join(btd.peers, Ipv4Addr::LOCALHOST, meta.info_hash, Reserved::default()).expect("served");
        peer.hear_id(1).expect("unchoked");
        peer.fetch(piece, 0, PIECE_LEN).expect("served");
    };
    fetch(&btd, 0);
    assert_eq!(uploaded(PIECE_LEN)["uploaded"], PIECE_LEN);
    assert_eq!(home.json(&["verify", &hash]).row()["changed"], true);
    home.wait_state(meta.info_hash, "seeding");
    uploaded(PIECE_LEN);
    btd.stop();
    let btd = home.start();
    home.wait_state(meta.info_hash, "seeding");
    assert_eq!(uploaded(PIECE_LEN)["uploaded"], 0, "since it was checked last");
    fetch(&btd, 1);
    uploaded(2 * PIECE_LEN);
    let table = home.ctl(&["list"]).out;
    let head = table.find("UPLOADED").expect("a column") + "UPLOADED".len();
    assert_eq!(
        table
            .lines()
            .nth(1)
            .map(|line| &line[..head])
            .map(|line| line.ends_with("32 KiB")),
        Some(true),
        "{table}"
    );
    assert_eq!(home.json(&["show", &hash]).row()["uploaded_ever"], 2 * PIECE_LEN);
    btd.stop();
}

/// A torrent that is downloaded from nobody, and its payload elsewhere.
fn without_payload(home: &Home, name: &str) -> Metainfo {
    let meta = home.payload(name, &[(&format!("{name}/a"), 40_000), (&format!("{name}/in/b"), 9)]);
    fs::rename(home.data.join(name), home.path().join(name)).expect("taken away");
    meta
}

fn with_a_peer(home: &Home) -> Config {
    Config {
        // Nobody listens there.
        peers: vec![([127, 0, 0, 1], 1).into()],
        ..home.config("")
    }
}

fn put_back(home: &Home, name: &str) {
    fs::rename(home.path().join(name), home.data.join(name)).expect("put back");
}

fn is_untouched(dir: &Path) -> bool {
    fs::read_dir(dir).expect("listed").all(|entry| {
        let name = entry.expect("an entry").file_name();
        !name.to_string_lossy().ends_with(".part")
    })
}

#[test]
fn payload_that_is_put_in_its_place_later_is_found_by_verify() {
    let home = Home::new("ctl-verify-later");
    let meta = without_payload(&home, "t");
    let btd = Btd::start(home.path(), &with_a_peer(&home));
    home.wait_state(meta.info_hash, "downloading");
    put_back(&home, "t");
    // Half of it is looked at when somebody asks for it, and not before.
    fs::remove_file(home.data.join("t/in/b")).expect("removed");
    assert_eq!(home.json(&["verify", &hash_of(&meta)]).row()["changed"], true);
    wait_for("what is there is found", within(SECONDS), || {
        (home.json(&["show", &hash_of(&meta)]).row()["have_count"] == 2).then_some(())
    });
    fs::write(home.data.join("t/in/b"), b"t/in/bt/i").expect("written");
    home.ctl(&["verify", &hash_of(&meta)]);
    home.wait_state(meta.info_hash, "seeding");
    assert!(is_untouched(&home.data.join("t")));
    btd.stop();
}

#[test]
fn payload_that_is_put_in_its_place_later_is_found_without_being_asked_for() {
    let home = Home::new("ctl-appears");
    let meta = without_payload(&home, "t");
    let absent = home.drop_in("absent", &torrent("absent", &[("absent", 20_000)], &[7; 20_000], ""));
    let btd = Btd::start(home.path(), &with_a_peer(&home));
    home.wait_state(meta.info_hash, "downloading");
    home.wait_state(absent.info_hash, "downloading");
    put_back(&home, "t");
    home.wait_state(meta.info_hash, "seeding");
    assert!(is_untouched(&home.data.join("t")));
    assert!(
        btd.process
            .log()
            .contains("are there now: they are checked before anything is downloaded")
    );
    home.wait_state(absent.info_hash, "downloading");
    btd.stop();
}
