//! Downloads and the disks they are written to: pieces that memory is too small for, many files, and disks that fail. What
//! fails stops its own torrent with the reason, is tried again each minute, and goes on by itself.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use support::btd::{Btd, Config};
use support::failing_fs::{EIO, EROFS, FailingFs};
use support::leech::{Leech, SECONDS, Source, files};
use support::payload::Payload;
use support::torrent::Torrent;
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
            peak <= idle + BUFFER / 10 * 11 + (4 << 20),
            "from {idle} to {peak} bytes with pieces of {piece_len}"
        );
        btd.stop();
        source.btd.stop();
    }
}

/// From the last byte to the last name: files that become complete together are synced together.
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

/// A btd that downloads a torrent to a disk that fails and another to one that does not.
struct Ward {
    source: Source,
    /// Where the failing disk is mounted, or the folder that is to go.
    disk: PathBuf,
    sick: Payload,
    well: PathBuf,
    config: Config,
    home: PathBuf,
}

impl Ward {
    /// The sick torrent is slow enough that it is not over before its disk fails.
    fn open(name: &str) -> Ward {
        let source = Source::start_with(
            name,
            &files(),
            64 << 10,
            "[limits]\nupload-rate-per-torrent = \"3 MB/s\"\n",
        );
        let scratch = &source.scratch;
        let sick_data = scratch.dir("sick-seed-data");
        let sick = Payload::make(&sick_data, "sick", 9, &[("sick".to_owned(), 12_000_000)]);
        let torrent = Torrent::create(&sick.path(), 64 << 10, scratch.path().join("sick.torrent"));
        let (disk, well) = (scratch.dir("disk"), scratch.dir("well"));
        let (sick_watch, well_watch) = (scratch.dir("sick-watch"), scratch.dir("well-watch"));
        fs::copy(&torrent.path, sick_watch.join("sick.torrent")).expect("copy a torrent");
        fs::copy(&source.torrent.path, well_watch.join("well.torrent")).expect("copy a torrent");
        // A second seed, of the sick one.
        let seed_watch = scratch.path().join("seed-watch");
        fs::copy(sick.path(), scratch.path().join("seed-data/sick")).expect("copy payload");
        fs::copy(&torrent.path, seed_watch.join("sick.torrent")).expect("copy a torrent");
        source.btd.wait_seeding(2);
        let config = Config {
            watch: vec![(sick_watch, disk.clone()), (well_watch, well.clone())],
            peers: vec![source.btd.peers],
            ..Config::default()
        };
        let home = scratch.dir("leech");
        Ward {
            disk,
            sick,
            well,
            config,
            home,
            source,
        }
    }

    fn start(&self) -> Btd {
        let btd = Btd::start(&self.home, &self.config);
        // Some of the sick one is there.
        wait_for("something is written", within(SECONDS), || {
            let some = |file: &Path| fs::metadata(file).is_ok_and(|part| part.len() > 0);
            let is_there = some(&self.disk.join("sick.part")) || some(&self.disk.join("folder/sick.part"));
            (is_there && btd.metric("btd_pieces_written_total") >= 3.0).then_some(())
        });
        btd
    }

    /// The log says why the sick one stopped; the other is whole.
    fn stops_alone(&self, btd: &Btd, why: &str) {
        wait_for(&format!("the log says {why:?}"), within(SECONDS), || {
            btd.process.log().contains(why).then_some(())
        });
        wait_for("the other torrent is whole", within(SECONDS), || {
            (btd.metric("btd_torrents{state=\"seeding\"}") >= 1.0).then_some(())
        });
        self.source.payload.assert_same(&self.well, true);
    }

    /// Both are whole.
    fn recovers(&self, btd: Btd) {
        wait_for("the sick torrent is whole too", within(SECONDS), || {
            (btd.metric("btd_torrents{state=\"seeding\"}") >= 2.0).then_some(())
        });
        self.sick.assert_same(&self.disk, true);
        btd.stop();
    }
}

#[test]
fn writes_that_fail_stop_their_torrent_alone_and_are_tried_again() {
    writes_fail("eio", EIO);
}

/// As on a filesystem that somebody has mounted read-only, and then writable again.
#[test]
fn writes_to_what_is_read_only_stop_their_torrent_alone_and_are_tried_again() {
    writes_fail("erofs", EROFS);
}

fn writes_fail(name: &str, errno: i32) {
    let ward = Ward::open(name);
    let disk = match FailingFs::mount(&ward.disk) {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let btd = ward.start();
    disk.faults.fail_writes(Some(errno));
    ward.stops_alone(&btd, "cannot be written");
    assert!(
        btd.process.log().contains("waits for its disk"),
        "{}",
        btd.process.log()
    );
    disk.faults.fail_writes(None);
    ward.recovers(btd);
}

#[test]
fn sync_that_fails_is_not_believed_and_the_files_are_checked_again() {
    let ward = Ward::open("eio-sync");
    let disk = match FailingFs::mount(&ward.disk) {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let btd = ward.start();
    disk.faults.fail_syncs(Some(EIO));
    ward.stops_alone(&btd, "its files are checked again in a minute");
    disk.faults.fail_syncs(None);
    ward.recovers(btd);
}

/// Unmounts, whatever becomes of the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// What ext4 does of itself when it finds itself damaged (`errors=remount-ro`). It stays so until it is mounted anew, which
/// nobody can do under a running btd that has it open.
#[test]
fn filesystem_that_makes_itself_read_only_stops_its_torrent_alone() {
    if !rustix::process::geteuid().is_root() {
        return cannot("mounting needs root");
    }
    let ward = Ward::open("read-only");
    let image = ward.source.scratch.path().join("image");
    let made = fs::File::create(&image).and_then(|image| image.set_len(64 << 20));
    made.expect("make an image file");
    let run = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    let mounted = run(Command::new("mkfs.ext4").arg("-q").arg(&image))
        && run(Command::new("mount")
            .args(["-o", "loop,errors=remount-ro"])
            .arg(&image)
            .arg(&ward.disk));
    if !mounted {
        return cannot("no image of a filesystem can be mounted here");
    }
    let _mounted = Mounted(ward.disk.clone());
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read the mounts");
    let at = ward.disk.display().to_string();
    let device = mounts
        .lines()
        .find(|line| line.contains(&at))
        .and_then(|line| line.split(' ').next());
    let device = device
        .and_then(|device| device.strip_prefix("/dev/"))
        .expect("a loop device");
    let trigger = PathBuf::from(format!("/sys/fs/ext4/{device}/trigger_fs_error"));
    let mut btd = ward.start();
    if let Err(error) = fs::write(&trigger, "a test") {
        return cannot(&format!("{} cannot be written: {error}", trigger.display()));
    }
    ward.stops_alone(&btd, "cannot be written");
    btd.process.assert_running();
    btd.stop();
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
    ward.stops_alone(&btd, "its files are checked again in a minute");
    fs::create_dir(&folder).expect("make the folder again");
    ward.recovers(btd);
}
