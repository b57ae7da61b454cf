//! Downloads to a disk that is full: nothing is asked for that has no room, what is there is served, the log says how much is
//! missing of each torrent, and all of them go on by themselves when there is room.

mod support;

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use support::btd::{Btd, Config};
use support::claims::{check_claims, claimed};
use support::ctl::ask;
use support::leech::{Leech, SECONDS, Source, asks_for_nothing, files, info_hash, metainfo};
use support::mount::{Tmpfs, small_disk};
use support::payload::Payload;
use support::rogue::{Manner, Rogue, contents};
use support::torrent::Torrent;
use support::{cannot, wait_for, within};

/// A btd that downloads from the source into this folder.
fn leech_of(source: &Source, data: &Path) -> Leech {
    let config = Config {
        peers: vec![source.btd.peers],
        ..Config::default()
    };
    Leech::start_in(data.to_owned(), &source.scratch, "leech", &source.torrent, config)
}

#[test]
fn a_disk_that_is_full_stops_requests_until_there_is_room() {
    let source = Source::start("full", &files(), 64 << 10);
    let Some((_mounted, data)) = small_disk(&source.scratch, c"size=24m") else {
        return;
    };
    // Of 15.7 MB some 10 fit. At the rate below half of the rest has not been asked for a second later.
    let ballast = data.with_file_name("ballast");
    fs::write(&ballast, vec![1; 14 << 20]).expect("fill the disk");
    let all = contents(&source.torrent, &source.scratch.path().join("seed-data"));
    let blocks = all.len().div_ceil(16 << 10);
    let seed = Rogue::start(Manner::Honest, Ipv4Addr::LOCALHOST, &source.torrent, all, 1);
    let config = Config {
        peers: vec![seed.addr],
        more: "[limits]\ndownload-rate = \"2 MB/s\"\n".to_owned(),
        ..Config::default()
    };
    let Leech { home, btd: leech, .. } =
        Leech::start_in(data.clone(), &source.scratch, "leech", &source.torrent, config);
    leech.wait_log("the disk is full");
    let full_at = Instant::now();
    assert!(
        leech.process.log().contains("MiB of the torrent are missing"),
        "how much is needed"
    );
    let shown = ask(&home, &["show", &info_hash(&source.torrent).to_string()]).out;
    assert!(
        shown.contains("it waits for its disk") && shown.contains("the disk is full"),
        "{shown}"
    );
    let until = |seconds| {
        wait_for(&format!("{seconds} s have passed"), within(SECONDS), || {
            (full_at.elapsed() >= Duration::from_secs(seconds)).then_some(())
        });
    };
    until(1);
    let asked = seed.asked();
    // What is there is served meanwhile.
    let hash = info_hash(&source.torrent);
    let claims = claimed(&leech, hash, metainfo(&source.torrent).geometry.piece_count());
    check_claims(&source.torrent, &data, &claims);
    assert!(claims.contains(&true) && claims.contains(&false));
    until(3);
    assert_eq!(seed.asked(), asked, "nothing is asked for from a second on");
    assert!(asked < blocks * 9 / 10, "{asked} of {blocks} blocks were asked for");
    assert_eq!(leech.metric("btd_requests_under_way"), 0.0);
    fs::remove_file(&ballast).expect("make room");
    leech.wait_seeding(1);
    assert!(leech.process.log().contains("goes on"));
    let shown = ask(&home, &["show", &info_hash(&source.torrent).to_string()]).out;
    assert!(!shown.contains("waits for its disk"), "{shown}");
    source.payload.assert_same(&data, true);
    leech.stop();
}

/// Full again and again in the course of one download: `BTD_TEST_FULL_CYCLES` times, three by itself. What was on its way each time
/// is kept, and written when there is room.
#[test]
fn a_disk_that_is_full_again_and_again_leaves_no_piece_stuck() {
    let cycles = std::env::var("BTD_TEST_FULL_CYCLES")
        .ok()
        .and_then(|text| text.parse().ok());
    let cycles: u64 = cycles.unwrap_or(3);
    // What is asked for ahead at this rate, some 3 s of it, is written at once when there is room again.
    let len = 8_000_000 + cycles * 8_000_000;
    let files = [
        ("folder/one".to_owned(), len / 3),
        ("folder/two".to_owned(), len - len / 3),
    ];
    let more = "[limits]\nupload-rate = \"2 MB/s\"\n";
    let source = Source::start_with("full-cycles", &files, 64 << 10, more);
    let options = std::ffi::CString::new(format!("size={}", len + (8 << 20))).expect("no NUL");
    let Some((_mounted, data)) = small_disk(&source.scratch, &options) else {
        return;
    };
    let leech = leech_of(&source, &data).btd;
    let ballast = data.with_file_name("ballast");
    let said = |what: &str| leech.process.log().matches(what).count();
    for cycle in 1..=cycles {
        let (full, goes_on) = (said("the disk is full"), said("goes on"));
        // All that is left of it.
        let mut file = fs::File::create(&ballast).expect("make a file");
        while file.write_all(&[1; 1 << 16]).is_ok() {}
        wait_for(&format!("it is full for the {cycle}. time"), within(SECONDS), || {
            (said("the disk is full") > full).then_some(())
        });
        fs::remove_file(&ballast).expect("make room");
        drop(file);
        wait_for(&format!("it goes on for the {cycle}. time"), within(SECONDS), || {
            (said("goes on") > goes_on).then_some(())
        });
    }
    wait_for("it is whole in the end", within(SECONDS + len / 1_000_000), || {
        (leech.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
    });
    source.payload.assert_same(&data, true);
    assert_eq!(leech.metric("btd_wasted_bytes_total"), 0.0, "nothing came twice");
    leech.stop();
}

/// The log says that a torrent waits for the disk, and how much is missing of it.
fn waits_for_room(btd: &Btd, name: &str) {
    wait_for(&format!("{name} waits for its disk"), within(SECONDS), || {
        let log = btd.process.log();
        let of_it = |line: &&str| line.contains(&format!("downloading {name:?}"));
        let line = log
            .lines()
            .filter(of_it)
            .find(|line| line.contains("the disk is full"))?;
        let missing = line
            .split(", and ")
            .last()?
            .strip_suffix(" MiB of the torrent are missing")?;
        // The whole of it is 15 MiB or less.
        let missing: u32 = missing.parse().expect("a number");
        (1..=15).contains(&missing).then_some(())
    });
}

/// Neither keeps the other from being asked for again, and none is stuck.
#[test]
fn two_torrents_on_a_full_disk_both_stop_and_both_go_on_when_there_is_room() {
    let source = Source::start_with("full-both", &files(), 64 << 10, "[limits]\nupload-rate = \"3 MB/s\"\n");
    let scratch = &source.scratch;
    let other_data = scratch.dir("other-seed-data");
    let other = Payload::make(&other_data, "other", 9, &[("other".to_owned(), 12_000_000)]);
    let torrent = Torrent::create(&other.path(), 256 << 10, scratch.path().join("other.torrent"));
    fs::copy(other.path(), scratch.path().join("seed-data/other")).expect("copy payload");
    fs::copy(&torrent.path, scratch.path().join("seed-watch/other.torrent")).expect("copy a torrent");
    source.btd.wait_seeding(2);
    let Some((_mounted, data)) = small_disk(scratch, c"size=32m") else {
        return;
    };
    // Of 27.7 MB in all some 12 MB fit.
    let ballast = data.with_file_name("ballast");
    fs::write(&ballast, vec![1; 20 << 20]).expect("fill the disk");
    fs::copy(&torrent.path, scratch.dir("leech/watch").join("other.torrent")).expect("copy a torrent");
    let leech = leech_of(&source, &data).btd;
    waits_for_room(&leech, "folder");
    waits_for_room(&leech, "other");
    let given = asks_for_nothing(&source.btd, &leech, || {
        for torrent in [&source.torrent, &torrent] {
            let claims = claimed(&leech, info_hash(torrent), metainfo(torrent).geometry.piece_count());
            check_claims(torrent, &data, &claims);
            assert!(claims.contains(&false), "{claims:?}");
        }
    });
    // Some three seconds' worth had been asked for.
    let all = (source.payload.len() + other.len()) as f64;
    assert!(
        given < 0.9 * all,
        "{given} of {all} bytes, of which the disk took less than half"
    );
    fs::remove_file(&ballast).expect("make room");
    leech.wait_seeding(2);
    for name in ["folder", "other"] {
        let goes_on = |line: &str| line.contains(&format!("downloading {name:?}")) && line.ends_with("goes on");
        assert!(leech.process.log().lines().any(goes_on), "{name}");
    }
    // Both lie in one folder, each beside the other.
    source.payload.assert_same(&data, true);
    other.assert_same(&data, true);
    assert_eq!(
        leech.metric("btd_wasted_bytes_total"),
        0.0,
        "what the disk did not take is kept"
    );
    leech.stop();
}

/// What is left of files by a kill is btd's own if that is recorded, and nobody knows whose it is otherwise.
#[test]
fn download_waits_with_its_first_byte_while_the_session_cannot_be_written_and_goes_on_when_it_can() {
    if !rustix::process::geteuid().is_root() {
        return cannot("mounting needs root");
    }
    let source = Source::start("full-session", &files(), 64 << 10);
    let scratch = &source.scratch;
    let (home, state) = (scratch.dir("leech"), scratch.dir("leech/state"));
    let (data, watch) = (scratch.dir("leech/data"), scratch.dir("leech/watch"));
    let _mounted = match Tmpfs::mount(&state, c"size=16m,mode=700") {
        Ok(mounted) => mounted,
        Err(why) => return cannot(&why),
    };
    let config = Config {
        peers: vec![source.btd.peers],
        watch: vec![(watch.clone(), data.clone())],
        ..Config::default()
    };
    let btd = Btd::start(&home, &config);
    let ballast = state.join("ballast");
    let mut file = fs::File::create(&ballast).expect("make a file");
    for len in [1 << 16, 1] {
        while file.write_all(&vec![1; len]).is_ok() {}
    }
    drop(file);
    fs::copy(&source.torrent.path, watch.join("t.torrent")).expect("copy a torrent");
    btd.wait_log("waits until it can be recorded that its files are btd's");
    let show = || ask(&home, &["show", &info_hash(&source.torrent).to_string()]).out;
    let shown = show();
    assert!(
        shown.contains("it waits until it can be recorded") && shown.contains("session.redb"),
        "{shown}"
    );
    asks_for_nothing(&source.btd, &btd, || {
        assert_eq!(btd.metric("btd_pieces_written_total"), 0.0);
    });
    fs::remove_file(&ballast).expect("make room");
    btd.wait_seeding(1);
    assert!(!show().contains("recorded"), "{}", show());
    source.payload.assert_same(&data, true);
    btd.stop();
}
