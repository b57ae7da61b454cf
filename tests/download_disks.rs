//! Downloads and the disks they are written to: pieces that memory is too small for, many files, and disks that fail. What
//! fails stops its own torrent with the reason, is tried again each minute, and goes on by itself. Syncs that fail are in
//! `download_syncs`, full disks in `download_full`.

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use support::btd::{Btd, Config};
use support::claims::{check_claims, claimed};
use support::fault_fs::{EIO, EROFS, FaultFs, Op, Rule};
use support::leech::{Leech, SECONDS, Source, info_hash};
use support::private_net;
use support::ward::Ward;
use support::{cannot, skip, wait_for, within};

/// The memory that a process has now, and the most that it has had, in bytes. What files are mapped is not counted.
fn anonymous(btd: &Btd) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", btd.process.pid())).expect("read a status");
    let bytes = |name: &str| -> u64 {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a line of the status");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    };
    let (now, mapped) = (bytes("RssAnon:"), bytes("RssFile:"));
    (now, bytes("VmHWM:") - mapped)
}

/// Pieces that fit the least write buffer there is, that just do, and that are far too long: what is asked for, waits to be
/// written or is read back stays within the buffer, and the process grows by no more than it and a tenth, and 4 MiB for
/// whatever else is used the first time. The allocator takes whole huge pages and keeps what it was given back for a second,
/// which may be as much again as such a small buffer: not here, since that is not what is counted.
#[test]
fn pieces_of_any_length_are_downloaded_with_the_least_write_buffer() {
    const BUFFER: u64 = 16 << 20;
    /// Memory as far as it was filled, which it is by pieces that are read back.
    const CACHE: u64 = 16 << 20;
    let files = [
        ("folder/a.bin".to_owned(), 150_000_000),
        ("folder/b.bin".to_owned(), 40_000_001),
    ];
    for piece_len in [1 << 20, 4 << 20, 16 << 20, 64 << 20] {
        let source = Source::start(&format!("long-{piece_len}"), &files, piece_len);
        let (home, data, watch) = (
            source.scratch.dir("leech"),
            source.scratch.dir("leech/data"),
            source.scratch.dir("leech/watch"),
        );
        let config = Config {
            shards: 1,
            watch: vec![(watch.clone(), data.clone())],
            peers: vec![source.btd.peers],
            more: "[storage]\ncache-size = \"16 MiB\"\nwrite-buffer = \"16 MiB\"\n".to_owned(),
            ..Config::default()
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
        command.env("MIMALLOC_ALLOW_THP", "0").env("MIMALLOC_PURGE_DELAY", "0");
        let btd = Btd::start_within(command, &home, &config);
        let (idle, _) = anonymous(&btd);
        fs::copy(&source.torrent.path, watch.join("t.torrent")).expect("copy a torrent");
        let mut most = 0.0_f64;
        wait_for("btd has everything", within(SECONDS), || {
            most = most.max(btd.metric("btd_write_buffer_bytes"));
            (btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
        });
        source.payload.assert_same(&data, true);
        assert!(most <= BUFFER as f64, "{most} bytes in pieces of {piece_len}");
        assert_eq!(btd.metric("btd_wasted_bytes_total"), 0.0);
        let (_, peak) = anonymous(&btd);
        println!("pieces of {piece_len}: {idle} bytes, {peak} at most");
        assert!(
            peak <= idle + CACHE + BUFFER / 10 * 11 + (4 << 20),
            "from {idle} to {peak} bytes with pieces of {piece_len}"
        );
        btd.stop();
        source.btd.stop();
    }
}

/// From the last byte to the last name. On a machine that others use too this can see gross delays only, as of a sync for each
/// file; that files which become complete together are synced together is counted beside the code (`storage/part`: two syncs for
/// 2,000 files; `control/downloads`: one thread for all that came meanwhile), and the time is measured in PERF.md.
#[test]
fn two_thousand_files_have_their_names_soon_after_the_last_byte() {
    let files: Vec<(String, u64)> = (0..2_000)
        .map(|at| (format!("folder/{:02}/{at:04}", at % 40), 16_384))
        .collect();
    // A piece lies in sixteen of them.
    let source = Source::start("many", &files, 256 << 10);
    let leech = Leech::from(&source.scratch, "leech", &source.torrent, vec![source.btd.peers]);
    let pieces = (2_000.0_f64 * 16_384.0 / f64::from(256 << 10)).ceil();
    wait_for("the last piece is written", within(SECONDS), || {
        (leech.btd.metric("btd_pieces_written_total") >= pieces).then_some(())
    });
    let written = Instant::now();
    leech.wait_complete();
    let took = written.elapsed();
    leech.check(&source.payload);
    println!("named {took:?} after the last piece was seen written");
    // Less than a fifth of a second as a rule.
    assert!(took < Duration::from_secs(3), "{took:?}");
    leech.btd.stop();
}

#[test]
fn writes_that_fail_stop_their_torrent_alone_and_are_tried_again_after_a_minute() {
    writes_fail("eio", EIO, "Input/output error");
}

/// As on a filesystem that somebody has mounted read-only, and then writable again.
#[test]
fn writes_to_what_is_read_only_stop_their_torrent_alone_and_are_tried_again_after_a_minute() {
    writes_fail("erofs", EROFS, "Read-only file system");
}

fn writes_fail(name: &str, errno: i32, why: &str) {
    let ward = Ward::open(name);
    let disk = match FaultFs::mount(&ward.disk) {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let btd = ward.start();
    disk.rules.add(Rule::fail(Op::Write, errno));
    ward.stops_alone(&btd, &format!("waits for its disk: sick: cannot be written: {why}"));
    disk.rules.clear();
    ward.recovers(btd);
    let last = *disk.rules.refused().last().expect("a write that failed");
    let next = disk.rules.taken().into_iter().find(|at| *at > last).expect("another");
    let seconds = next.duration_since(last).as_secs();
    assert!((55..=75).contains(&seconds), "tried again after {seconds} s");
}

/// What ext4 does of itself when it finds itself damaged (`errors=remount-ro`). It stays so until it is mounted anew, which
/// nobody can do under a running btd that has it open: with the next start the download goes on.
#[test]
fn filesystem_that_makes_itself_read_only_stops_its_torrent_alone() {
    private_net::run("filesystem_that_makes_itself_read_only_stops_its_torrent_alone", || {
        if !rustix::process::geteuid().is_root() {
            return cannot("mounting needs root");
        }
        let ward = Ward::open("read-only");
        let image = ward.source.scratch.path().join("image");
        let made = fs::File::create(&image).and_then(|image| image.set_len(64 << 20));
        made.expect("make an image file");
        let run = |command: &mut Command| command.status().is_ok_and(|status| status.success());
        let mount = || {
            let mut mount = Command::new("mount");
            let mount = mount.args(["-o", "loop,errors=remount-ro"]);
            run(mount.arg(&image).arg(&ward.disk)).then(|| Mounted(ward.disk.clone()))
        };
        if !run(Command::new("mkfs.ext4").arg("-q").arg(&image)) {
            return cannot("no image of a filesystem can be made here");
        }
        let Some(mounted) = mount() else {
            return cannot("no image of a filesystem can be mounted here");
        };
        let btd = ward.start();
        let Some(trigger) = mounted.trigger() else {
            return cannot("the kernel has no `trigger_fs_error` for this filesystem");
        };
        if let Err(error) = fs::write(&trigger, "a test") {
            return cannot(&format!("{} cannot be written: {error}", trigger.display()));
        }
        let why = "waits for its disk: sick: cannot be written: Read-only file system";
        btd.wait_log(why);
        // At once: when what was written before is to be synced, seconds later, nobody knows what is there.
        let claims = claimed(&btd, info_hash(&ward.torrent), ward.pieces());
        check_claims(&ward.torrent, &ward.disk, &claims);
        assert!(claims.contains(&false), "nothing of it was refused");
        ward.stops_alone(&btd, why);
        btd.stop();
        drop(mounted);
        // The kernel has noted that it is damaged, and it has to be looked at before it is written to again.
        let _ = Command::new("e2fsck").arg("-fy").arg(&image).status();
        let _mounted = mount().expect("it can be mounted again");
        ward.recovers(ward.start_again());
    });
}

/// Unmounts, whatever becomes of the test.
struct Mounted(PathBuf);

impl Mounted {
    /// What an ext4 is told by that it is damaged.
    fn trigger(&self) -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
        let at = self.0.display().to_string();
        let line = mounts.lines().find(|line| line.contains(&at))?;
        let device = line.split(' ').next()?.strip_prefix("/dev/")?;
        let trigger = PathBuf::from(format!("/sys/fs/ext4/{device}/trigger_fs_error"));
        trigger.exists().then_some(trigger)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

#[test]
fn folder_that_is_removed_under_a_download_stops_it_alone_and_it_begins_anew() {
    let mut ward = Ward::open("removed");
    // Below the disk, since a data folder that is open stays usable for the kernel though it has no name.
    let folder = ward.disk.join("inner");
    fs::create_dir(&folder).expect("make a folder");
    ward.config.watch[0].1.clone_from(&folder);
    ward.disk = folder.clone();
    let btd = ward.start();
    fs::remove_dir_all(&folder).expect("remove the folder");
    // Whichever is first: the next write, the next sync, or the next look at the folder, which it comes to in any case.
    wait_for("the torrent waits for its folder", within(SECONDS), || {
        (btd.metric("btd_torrents{state=\"unavailable\"}") == 1.0).then_some(())
    });
    assert!(!folder.exists(), "it was made");
    ward.stops_alone(&btd, "");
    fs::create_dir(&folder).expect("make the folder again");
    // And not a minute later.
    ward.recovers(btd);
}
