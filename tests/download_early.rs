//! Pieces of which fewer than four fit a shard's part of the write buffer, through the whole program: written to their places
//! as they come, read back, and only then told of. Over many files and padding, on a disk that has no room for a while, and
//! beside a torrent of ordinary pieces. How much memory they take is measured in `download_disks`, what a crash leaves of them
//! is in `download_crash`.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use btd::proto::metainfo::{NewContent, NewFile, NewTorrent, encode};
use btd::proto::path::RelPath;
use sha1::{Digest, Sha1};
use support::btd::{Btd, Config};
use support::claims::{check_claims, claimed};
use support::fault_fs::{EIO, ENOSPC, FaultFs, Op, Rule};
use support::leech::{
    EARLY, EARLY_SHARDS, Leech, SECONDS, Source, asks_for_nothing, files, info_hash, metainfo, wait_for_metric,
};
use support::mount::small_disk;
use support::payload::Payload;
use support::torrent::Torrent;
use support::ward::Ward;
use support::{skip, wait_for, within};

const PIECE_LEN: u32 = 1 << 20;

/// All that came was read back, or this was no test of such pieces.
fn wait_read_back(btd: &Btd, len: u64) {
    wait_for_metric(btd, "btd_disk_read_bytes_total", |read| read >= len as f64);
}

/// A torrent of a payload's files in order, behind some of them so many bytes of padding.
fn padded(payload: &Payload, pads: &BTreeMap<String, u64>, path: PathBuf) -> Torrent {
    let (mut entries, mut contents) = (Vec::new(), Vec::new());
    let entry = |path: &str, len, pad| NewFile {
        path: RelPath::parse(path).expect("a path"),
        len,
        pad,
    };
    for (at, (path, file)) in payload.files.iter().enumerate() {
        let below = path.strip_prefix("folder/").expect("a file of the folder");
        entries.push(entry(below, file.len, false));
        contents.extend(fs::read(payload.data_dir.join(path)).expect("read payload"));
        if let Some(&pad) = pads.get(path) {
            entries.push(entry(&format!(".pad/{at}"), pad, true));
            contents.resize(contents.len() + pad as usize, 0);
        }
    }
    let hashes: Vec<[u8; 20]> = contents
        .chunks(PIECE_LEN as usize)
        .map(|piece| Sha1::digest(piece).into())
        .collect();
    let encoded = encode(&NewTorrent::new(
        "folder",
        NewContent::Folder(&entries),
        PIECE_LEN,
        &hashes,
    ));
    fs::write(&path, encoded).expect("write a torrent");
    Torrent::open(path)
}

/// Pieces that lie in hundreds of files, that have padding in the middle and at the end, and that are padding but for a byte.
#[test]
fn long_pieces_over_many_files_and_padding_come_as_they_are() {
    let mut list: Vec<(String, u64)> = (0..300)
        .map(|at| (format!("folder/a/{at:03}"), 1 + at * 97 % 9_000))
        .collect();
    list.extend([
        ("folder/b/long".to_owned(), 5_000_001),
        ("folder/c/byte".to_owned(), 1),
        ("folder/d/empty".to_owned(), 0),
        ("folder/e/whole pieces".to_owned(), 2 << 20),
        ("folder/f/last".to_owned(), 700_000),
    ]);
    let mut pads = BTreeMap::new();
    let mut at = 0;
    for (path, len) in &list {
        at += len;
        let to_the_next = at.next_multiple_of(PIECE_LEN.into()) - at;
        let pad = match path.as_str() {
            // All of a piece but one byte is padding in the last case, which is as much as there may be (BEP 47).
            "folder/a/299" | "folder/b/long" | "folder/c/byte" => to_the_next,
            // The torrent ends in padding, in the middle of a piece and of a block.
            "folder/f/last" => 100_001,
            // Somewhere in the middle of a piece, shorter than a block.
            "folder/a/100" => 5_000,
            _ => continue,
        };
        pads.insert(path.clone(), pad);
        at += pad;
    }
    let source = Source::of("padded", &list, "", |payload, path| padded(payload, &pads, path));
    let config = Config {
        shards: EARLY_SHARDS,
        peers: vec![source.btd.peers],
        more: EARLY.to_owned(),
        ..Config::default()
    };
    let leech = Leech::start(&source.scratch, "leech", &source.torrent, config);
    leech.check(&source.payload);
    let total = metainfo(&source.torrent).geometry.total_len();
    assert_eq!(total, at, "{} of it padding", at - source.payload.len());
    // Padding is neither written nor read.
    wait_read_back(&leech.btd, source.payload.len());
    wait_for_metric(&leech.btd, "btd_downloaded_bytes_total", |bytes| bytes >= total as f64);
    assert_eq!(leech.btd.metric("btd_downloaded_bytes_total"), total as f64);
    assert_eq!(leech.btd.metric("btd_wasted_bytes_total"), 0.0);
    leech.btd.stop();
}

/// Writes a file until the disk is full.
fn fill(ballast: &Path) {
    let mut file = File::create(ballast).expect("make a file");
    let bytes = vec![1; 4096];
    while file.write_all(&bytes).is_ok() {}
}

/// The disk is filled while runs of several pieces are under way, and twice, since what is kept of the first time could stand
/// in the way at the second.
#[test]
fn long_pieces_wait_for_a_disk_that_is_full_and_none_is_stuck() {
    let source = Source::start_with(
        "full-early",
        &files(),
        PIECE_LEN,
        "[limits]\nupload-rate = \"3 MB/s\"\n",
    );
    let Some((_mounted, data)) = small_disk(&source.scratch, c"size=24m") else {
        return;
    };
    let ballast = data.with_file_name("ballast");
    let config = Config {
        shards: EARLY_SHARDS,
        peers: vec![source.btd.peers],
        more: EARLY.to_owned(),
        ..Config::default()
    };
    let leech = Leech::start_in(data.clone(), &source.scratch, "leech", &source.torrent, config).btd;
    let hash = info_hash(&source.torrent);
    let pieces = metainfo(&source.torrent).geometry.piece_count();
    let mut written = 0.0;
    for time in 1..=2 {
        wait_for("some pieces come", within(SECONDS), || {
            (leech.metric("btd_pieces_written_total") >= written + 2.0).then_some(())
        });
        fill(&ballast);
        wait_for("btd says that the disk is full", within(SECONDS), || {
            let log = leech.process.log();
            (log.matches("the disk is full").count() >= time).then_some(())
        });
        assert!(
            leech.process.log().contains("MiB of the torrent are missing"),
            "how much is needed"
        );
        asks_for_nothing(&source.btd, &leech, || {
            // What is there is served meanwhile, and is right.
            let claims = claimed(&leech, hash, pieces);
            check_claims(&source.torrent, &data, &claims);
            assert!(claims.contains(&true) && claims.contains(&false), "{claims:?}");
        });
        written = leech.metric("btd_pieces_written_total");
        fs::remove_file(&ballast).expect("make room");
        wait_for("btd goes on", within(SECONDS), || {
            (leech.process.log().matches("goes on").count() >= time).then_some(())
        });
    }
    leech.wait_seeding(1);
    source.payload.assert_same(&data, true);
    wait_read_back(&leech, source.payload.len());
    let wasted = leech.metric("btd_wasted_bytes_total");
    assert_eq!(wasted, 0.0, "what the disk did not take is kept");
    leech.stop();
}

/// A run of some piece is refused, and all that was asked for waits behind it.
#[test]
fn long_pieces_of_which_a_run_cannot_be_written_are_waited_for_and_none_is_stuck() {
    early_writes_fail(
        "eio-early",
        EIO,
        "waits for its disk: sick: cannot be written: Input/output error",
    );
}

/// The same, and it is tried again each second.
#[test]
fn long_pieces_of_which_a_run_has_no_room_are_waited_for_and_none_is_stuck() {
    early_writes_fail("enospc-early", ENOSPC, "waits for its disk: sick: the disk is full");
}

fn early_writes_fail(name: &str, errno: i32, why: &str) {
    let ward = Ward::open_early(name);
    let disk = match FaultFs::mount(&ward.disk) {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let btd = ward.start();
    disk.rules.add(Rule::fail(Op::Write, errno));
    ward.stops_alone(&btd, why);
    // What it has is served, and is there.
    let claims = claimed(&btd, info_hash(&ward.torrent), ward.pieces());
    check_claims(&ward.torrent, &ward.disk, &claims);
    assert!(claims.contains(&false), "{claims:?}");
    disk.rules.clear();
    ward.recovers(btd);
}

/// All of a piece is written, and the disk does not give it back: it is had anew, and is told of only then.
#[test]
fn long_pieces_that_cannot_be_read_back_are_had_anew_and_none_is_stuck() {
    let ward = Ward::open_early("eio-read-back");
    let disk = match FaultFs::mount(&ward.disk) {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let btd = ward.start();
    disk.rules.add(Rule::fail(Op::Read, EIO));
    ward.stops_alone(&btd, "cannot be read");
    let failed = *disk.rules.refused().last().expect("a read that failed");
    disk.rules.clear();
    ward.recovers(btd);
    // Nothing of it was asked for in the meantime, so that nothing was written either.
    let taken = disk.rules.taken();
    let again = taken
        .iter()
        .find(|at| at.duration_since(failed) > Duration::from_secs(5));
    let seconds = again.expect("more is written").duration_since(failed).as_secs();
    assert!((50..=75).contains(&seconds), "had anew after {seconds} s");
}

/// Both share the write buffer of one shard: neither keeps the other from going on.
#[test]
fn a_torrent_of_long_pieces_and_another_of_short_ones_are_downloaded_beside_each_other() {
    const BUFFER: f64 = (16 << 20) as f64;
    let source = Source::start_with(
        "beside",
        &files(),
        64 << 10,
        "[limits]\nupload-rate-per-torrent = \"5 MB/s\"\n",
    );
    let scratch = &source.scratch;
    let long_data = scratch.dir("long-seed-data");
    let long = Payload::make(&long_data, "long", 9, &[("long".to_owned(), 40_000_001)]);
    // Two fit the write buffer.
    let torrent = Torrent::create(&long.path(), 8 << 20, scratch.path().join("long.torrent"));
    fs::copy(long.path(), scratch.path().join("seed-data/long")).expect("copy payload");
    fs::copy(&torrent.path, scratch.path().join("seed-watch/long.torrent")).expect("copy a torrent");
    source.btd.wait_seeding(2);
    let [short_folders, long_folders] = ["short", "long"].map(|name| {
        (
            scratch.dir(&format!("{name}-watch")),
            scratch.dir(&format!("{name}-data")),
        )
    });
    fs::copy(&source.torrent.path, short_folders.0.join("t.torrent")).expect("copy a torrent");
    fs::copy(&torrent.path, long_folders.0.join("t.torrent")).expect("copy a torrent");
    let config = Config {
        shards: 1,
        watch: vec![short_folders.clone(), long_folders.clone()],
        peers: vec![source.btd.peers],
        more: "[storage]\nwrite-buffer = \"16 MiB\"\ncache-size = \"16 MiB\"\n".to_owned(),
        ..Config::default()
    };
    let leech = Btd::start(&scratch.dir("leech"), &config);
    let (mut both, mut most) = (false, 0.0_f64);
    wait_for("both are there", within(SECONDS), || {
        most = most.max(leech.metric("btd_write_buffer_bytes"));
        both |= leech.metric("btd_torrents{state=\"downloading\"}") == 2.0
            && leech.metric("btd_pieces_written_total") >= 1.0
            && leech.metric("btd_disk_read_bytes_total") > 0.0;
        (leech.metric("btd_torrents{state=\"seeding\"}") >= 2.0).then_some(())
    });
    assert!(both, "a long piece was read back while short ones came");
    assert!(most <= BUFFER, "{most} bytes");
    source.payload.assert_same(&short_folders.1, true);
    long.assert_same(&long_folders.1, true);
    wait_read_back(&leech, long.len());
    assert_eq!(leech.metric("btd_wasted_bytes_total"), 0.0);
    leech.stop();
}
