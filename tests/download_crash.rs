//! A download that ends in the middle: by `kill -9`, and by a power cut. What is claimed after it is there, what was told or
//! recorded before it is claimed, and the download goes on from there.
//!
//! Each once with pieces that are put together in memory and once with pieces that are written as they come: these lie in the
//! file before anybody knows whether they are right. `BTD_TEST_KILLS` and `BTD_TEST_IMAGES` say how often it ends.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::btd::{Btd, Config};
use support::claims::{check_claims, claimed, touched};
use support::leech::{EARLY, EARLY_SHARDS, Leech, SECONDS, Source, info_hash, metainfo, wait_for_metric};
use support::mount::Image;
use support::{cannot, wait_for, within};

/// How pieces come to the disk.
#[derive(Clone, Copy)]
struct Manner {
    name: &'static str,
    piece_len: u32,
    shards: u32,
    /// Lines of the configuration.
    more: &'static str,
    /// Bytes a second, at least: what has come of a piece that is not whole is lost.
    rate_min: u64,
}

const WHOLE: Manner = Manner {
    name: "whole",
    piece_len: 64 << 10,
    shards: 2,
    more: "",
    rate_min: 400_000,
};

const AS_THEY_COME: Manner = Manner {
    name: "early",
    piece_len: 1 << 20,
    shards: EARLY_SHARDS,
    more: EARLY,
    rate_min: 1_500_000,
};

impl Manner {
    /// Whether pieces are read back to be hashed.
    fn is_early(&self) -> bool {
        self.more == EARLY
    }

    fn config(&self, watch: Vec<(std::path::PathBuf, std::path::PathBuf)>, peers: Vec<SocketAddr>) -> Config {
        Config {
            shards: self.shards,
            watch,
            peers,
            more: self.more.to_owned(),
            ..Config::default()
        }
    }
}

/// Two files, of so many bytes together.
fn two_files(len: u64) -> [(String, u64); 2] {
    [
        ("folder/a.bin".to_owned(), len / 3 * 2),
        ("folder/b.bin".to_owned(), len / 3 + 1),
    ]
}

fn count(claims: &[bool]) -> usize {
    claims.iter().filter(|claim| **claim).count()
}

#[test]
fn kill_9_at_any_moment_loses_nothing_that_was_recorded_and_claims_nothing_wrong() {
    kill_9(WHOLE);
}

#[test]
fn kill_9_while_pieces_are_written_as_they_come_loses_nothing_that_was_told_and_claims_nothing_wrong() {
    kill_9(AS_THEY_COME);
}

fn kill_9(manner: Manner) {
    let cycles: u64 = std::env::var("BTD_TEST_KILLS").map_or(10, |kills| kills.parse().expect("a number"));
    // So much, and so slow, that it lasts for all cycles, or nearly: each takes half a second of downloading or more.
    let len = (manner.rate_min / 2 * cycles).max(60_000_000);
    let rate = (60_000_000 / cycles).max(manner.rate_min);
    let more = format!("[limits]\nupload-rate = \"{rate} B/s\"\n");
    let name = format!("killed-{}", manner.name);
    let source = Source::start_with(&name, &two_files(len), manner.piece_len, &more);
    let hash = info_hash(&source.torrent);
    let pieces = metainfo(&source.torrent).geometry.piece_count();
    let config = manner.config(Vec::new(), vec![source.btd.peers]);
    let mut leech = Leech::start(&source.scratch, "leech", &source.torrent, config);
    let mut random = 88_172_645_463_325_252_u64;
    let mut before = vec![false; pieces as usize];
    let (mut kills, mut reread, mut done) = (0, 0, false);
    while kills < cycles && !done {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Any moment will do.
        std::thread::sleep(Duration::from_millis(100 + random % 600));
        done = leech.btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0;
        // Every other time it is asked what it has up to the last moment: what it tells, it must not lose.
        let known = count(&before);
        if kills % 2 == 1 {
            let told = claimed(&leech.btd, hash, pieces);
            before = std::iter::zip(before, told)
                .map(|(before, told)| before || told)
                .collect();
        }
        leech.btd.process.signal(Signal::KILL);
        let _ = leech.btd.process.wait(within(10));
        kills += 1;
        let touched = count(&touched(&source.torrent, &leech.data));
        let config = manner.config(leech.config.watch.clone(), leech.config.peers.clone());
        leech.btd = Btd::start(&leech.home, &config);
        wait_for("what is there is checked", within(SECONDS), || {
            (leech.btd.metric("btd_torrents{state=\"checking\"}") == 0.0).then_some(())
        });
        // What was written since the start before is read, and what lies beside holes; `known` has what came in a moment after
        // that start, too. All is read where the end came before what that start found was recorded, which is not the rule.
        let read = leech.btd.metric("btd_check_read_bytes_total") as u64;
        let new = (touched.saturating_sub(known) + 2) as u64 * u64::from(manner.piece_len) + rate / 2;
        reread += u64::from(read > new);
        let claims = claimed(&leech.btd, hash, pieces);
        check_claims(&source.torrent, &leech.data, &claims);
        for (piece, _) in before.iter().enumerate().filter(|(_, before)| **before) {
            assert!(claims[piece], "kill {kills}: piece {piece} was there before");
        }
        before = claims;
    }
    let there = count(&before);
    println!("{kills} kills, {there} of {pieces} pieces there after the last, more read than need be after {reread}");
    leech.check(&source.payload);
    assert!(
        reread * 5 <= kills,
        "after {reread} of {kills} kills more was read than need be"
    );
    if manner.is_early() && !done {
        // What came in the last run was read back, or this was no test of that.
        let downloaded = leech.btd.metric("btd_downloaded_bytes_total");
        assert!(downloaded >= f64::from(manner.piece_len), "{downloaded} bytes");
        wait_for_metric(&leech.btd, "btd_disk_read_bytes_total", |read| read >= downloaded);
    }
}

#[test]
fn power_cut_on_ext4_leaves_no_false_claim() {
    power_cut("ext4", WHOLE);
}

#[test]
fn power_cut_on_xfs_leaves_no_false_claim() {
    power_cut("xfs", WHOLE);
}

#[test]
fn power_cut_on_ext4_while_pieces_are_written_as_they_come_leaves_no_false_claim() {
    power_cut("ext4", AS_THEY_COME);
}

#[test]
fn power_cut_on_xfs_while_pieces_are_written_as_they_come_leaves_no_false_claim() {
    power_cut("xfs", AS_THEY_COME);
}

/// The disk as it is at some moment of a download, mounted elsewhere: what the kernel had not written is lost. The process
/// stands still while its disk is copied, so that the copy is of one moment as far as btd can tell.
fn power_cut(filesystem: &str, manner: Manner) {
    if !rustix::process::geteuid().is_root() {
        return cannot("mounting needs root");
    }
    let images: u64 = std::env::var("BTD_TEST_IMAGES").map_or(4, |images| images.parse().expect("a number"));
    // Slow enough that some of it is recorded and some is not, at each of them.
    let rate = (60_000_000 / images * 2 / 5).max(400_000);
    let more = format!("[limits]\nupload-rate = \"{rate} B/s\"\n");
    let name = format!("power-{filesystem}-{}", manner.name);
    let source = Source::start_with(&name, &two_files(60_000_000), manner.piece_len, &more);
    let Some(image) = Image::make(&source.scratch, filesystem) else {
        return cannot("no image of a filesystem can be mounted here");
    };
    let hash = info_hash(&source.torrent);
    let pieces = metainfo(&source.torrent).geometry.piece_count();
    let config_in = |root: &Path, peer: SocketAddr| {
        let watch = vec![(root.join("watch"), root.join("data"))];
        manner.config(watch, vec![peer])
    };
    for folder in ["watch", "data", "home"] {
        fs::create_dir(image.mounted_at.join(folder)).expect("make a folder");
    }
    fs::copy(&source.torrent.path, image.mounted_at.join("watch/t.torrent")).expect("copy a torrent");
    rustix::fs::sync();
    let config = config_in(&image.mounted_at, source.btd.peers);
    let btd = Btd::start(&image.mounted_at.join("home"), &config);
    let (mut recorded, mut most) = (0, 0);
    for number in 0..images {
        // Any moment will do.
        std::thread::sleep(Duration::from_millis(1_500));
        btd.process.signal(Signal::STOP);
        let copy = source.scratch.path().join(format!("copy-{number}"));
        let copied = Command::new("cp")
            .arg("--sparse=always")
            .arg(&image.file)
            .arg(&copy)
            .status();
        btd.process.signal(Signal::CONT);
        assert!(copied.expect("run cp").success());
        let after = Image::mount(copy.clone(), source.scratch.dir("after"), filesystem);
        let after = after.expect("the filesystem can be mounted after a power cut");
        // Nobody is at this address: what is claimed is what was there.
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let again = Btd::start(&after.mounted_at.join("home"), &config_in(&after.mounted_at, nobody));
        wait_for("what is there is checked", within(SECONDS), || {
            (again.metric("btd_torrents{state=\"checking\"}") == 0.0).then_some(())
        });
        let claims = claimed(&again, hash, pieces);
        check_claims(&source.torrent, &after.mounted_at.join("data"), &claims);
        let read = again.metric("btd_check_read_bytes_total") as usize;
        let piece_len = manner.piece_len as usize;
        recorded += (count(&claims) * piece_len).saturating_sub(read) / piece_len;
        most = most.max(count(&claims));
        again.stop();
        drop(after);
        fs::remove_file(copy).expect("remove a copy");
    }
    println!("{images} images, {most} of {pieces} pieces there at most, {recorded} known without being read, in all");
    assert!(recorded > 0, "nothing was ever recorded: the test has seen nothing");
    btd.wait_seeding(1);
    source.payload.assert_same(&image.mounted_at.join("data"), true);
    if manner.is_early() {
        let len = source.payload.len() as f64;
        wait_for_metric(&btd, "btd_disk_read_bytes_total", |read| read >= len);
    }
    btd.stop();
}
