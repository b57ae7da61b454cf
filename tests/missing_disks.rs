//! Data folders that are not there: a disk that is not mounted at the start, that is unmounted while it is served and while
//! it is written to, another in its place, and a folder that is moved away. Their torrents wait, nothing is made on what
//! shows in the place of the disk, and they go on by themselves when it is back, without a byte read to be checked.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use support::btd::{Btd, Config};
use support::leech::{Leech, SECONDS, Source};
use support::payload::Payload;
use support::private_net;
use support::scratch::Scratch;
use support::stub_tracker::StubTracker;
use support::torrent::Torrent;
use support::{age, cannot, wait_for, within};

/// What is promised of a disk that comes back. Looks are much more frequent.
const BACK_WITHIN: u64 = 30;
const PIECE_LEN: u32 = 64 << 10;

/// An ext4 in a file, which is mounted and unmounted as the test says.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn make(scratch: &Scratch, name: &str, at: &Path) -> Option<Disk> {
        let image = scratch.path().join(name);
        let made = fs::File::create(&image).and_then(|image| image.set_len(64 << 20));
        made.expect("make an image file");
        let mkfs = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
        let disk = Disk {
            image,
            at: at.to_owned(),
        };
        mkfs.is_ok_and(|status| status.success()).then_some(disk)
    }

    fn mount(&self) -> bool {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", "loop"]).arg(&self.image).arg(&self.at).status();
        status.is_ok_and(|status| status.success())
    }

    /// As `umount -l`: whoever has files of it open keeps them.
    fn unmount(&self) {
        unmount(&self.at, UnmountFlags::DETACH).expect("it is mounted");
    }

    /// What shows in its place while it is not mounted.
    fn shows_nothing(&self) {
        let entries: Vec<_> = fs::read_dir(&self.at).expect("a mount point").collect();
        assert!(entries.is_empty(), "made on the parent's disk: {entries:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        while unmount(&self.at, UnmountFlags::DETACH).is_ok() {}
    }
}

/// A test with disks, in mounts of its own.
fn with_disks(test: &str, body: impl FnOnce()) {
    private_net::run(test, || match rustix::process::geteuid().is_root() {
        true => body(),
        false => cannot("mounting needs root"),
    });
}

fn wait_state(btd: &Btd, state: &str, count: f64) {
    wait_for(&format!("{count} torrents are {state}"), within(BACK_WITHIN), || {
        (btd.metric(&format!("btd_torrents{{state=\"{state}\"}}")) == count).then_some(())
    });
}

fn wait_log(btd: &Btd, text: &str) {
    wait_for(&format!("the log says {text:?}"), within(BACK_WITHIN), || {
        btd.process.log().contains(text).then_some(())
    });
}

fn log_count(btd: &Btd, text: &str) -> usize {
    btd.process.log().matches(text).count()
}

fn ctl(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btd"));
    let command = command.arg("ctl").args(arguments);
    let command = command.arg("--state-dir").arg(home.join("state"));
    command.output().expect("run btd ctl")
}

/// A payload that a check can rely on the times of.
fn payload(data: &Path, name: &str, seed: u64) -> Payload {
    let payload = Payload::make(data, name, seed, &[(name.to_owned(), 3_000_000)]);
    age(&data.join(name));
    payload
}

fn restart(home: &Path, config: &Config) -> Btd {
    let _ = fs::remove_file(home.join("state/ports.json"));
    Btd::start(home, config)
}

#[test]
fn disk_that_is_not_mounted_at_the_start_is_waited_for_and_nothing_is_made_in_its_place() {
    let test = "disk_that_is_not_mounted_at_the_start_is_waited_for_and_nothing_is_made_in_its_place";
    with_disks(test, || {
        let scratch = Scratch::new("absent-disk");
        let (at, watch, other) = (scratch.dir("disk"), scratch.dir("watch"), scratch.dir("other"));
        let Some(disk) = Disk::make(&scratch, "image", &at) else {
            return cannot("no image of a filesystem can be made here");
        };
        if !disk.mount() {
            return cannot("no image of a filesystem can be mounted here");
        }
        let whole = payload(&at, "whole", 1);
        Torrent::create(&whole.path(), PIECE_LEN, watch.join("whole.torrent"));
        // One that would be downloaded: somebody is said to have it.
        let lacking = payload(&other, "lacking", 2);
        Torrent::create(&lacking.path(), PIECE_LEN, watch.join("lacking.torrent"));
        let config = Config {
            watch: vec![(watch, at.clone())],
            peers: vec![([127, 0, 0, 1], 9).into()],
            log_level: "debug",
            ..Config::default()
        };
        let btd = Btd::start(scratch.path(), &config);
        wait_state(&btd, "seeding", 1.0);
        wait_state(&btd, "downloading", 1.0);
        btd.stop();
        disk.unmount();

        let btd = restart(scratch.path(), &config);
        wait_state(&btd, "unavailable", 2.0);
        wait_log(&btd, "so that its disk seems not to be mounted");
        let list = ctl(scratch.path(), &["list"]);
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        assert_eq!(list.matches("unavailable").count(), 2, "{list}");
        // Also after it was looked at anew, and asked for.
        let verify = ctl(scratch.path(), &["verify", "--all"]);
        assert!(verify.status.success(), "{verify:?}");
        wait_state(&btd, "unavailable", 2.0);
        assert_eq!(log_count(&btd, "so that its disk seems not to be mounted"), 1);
        disk.shows_nothing();

        assert!(disk.mount());
        let began = Instant::now();
        wait_state(&btd, "seeding", 1.0);
        wait_state(&btd, "downloading", 1.0);
        assert!(began.elapsed() < Duration::from_secs(BACK_WITHIN));
        let read = btd.metric("btd_check_read_bytes_total");
        assert_eq!(read, 3_000_000.0, "read as somebody has asked, and once");
        whole.assert_same(&at, true);
        btd.stop();
    });
}

#[test]
fn disk_that_is_unmounted_while_it_is_served_is_let_go_and_taken_back_and_another_is_not_taken_for_it() {
    let test = "disk_that_is_unmounted_while_it_is_served_is_let_go_and_taken_back_and_another_is_not_taken_for_it";
    with_disks(test, || {
        let scratch = Scratch::new("lost-disk");
        let (at, watch) = (scratch.dir("disk"), scratch.dir("watch"));
        let (Some(disk), Some(other)) = (
            Disk::make(&scratch, "image", &at),
            Disk::make(&scratch, "other-image", &at),
        ) else {
            return cannot("no image of a filesystem can be made here");
        };
        if !disk.mount() {
            return cannot("no image of a filesystem can be mounted here");
        }
        let tracker = StubTracker::saying("d8:intervali1800e5:peers0:e");
        let served = payload(&at, "served", 1);
        let torrent = Torrent::create(&served.path(), PIECE_LEN, scratch.path().join("plain.torrent"));
        torrent.with_tracker(&tracker.url(), watch.join("served.torrent"));
        let config = Config {
            watch: vec![(watch, at.clone())],
            more: "[announce]\nallow-private = true\n".to_owned(),
            ..Config::default()
        };
        let btd = Btd::start(scratch.path(), &config);
        wait_state(&btd, "seeding", 1.0);
        wait_for("it is announced", within(SECONDS), || {
            (!tracker.with_event("started").is_empty()).then_some(())
        });
        let read = btd.metric("btd_check_read_bytes_total");

        disk.unmount();
        wait_state(&btd, "unavailable", 1.0);
        wait_log(&btd, "so that its disk seems not to be mounted");
        wait_for("it is taken off its tracker", within(SECONDS), || {
            (!tracker.with_event("stopped").is_empty()).then_some(())
        });
        // Another disk in its place, with what looks like the payload.
        assert!(other.mount());
        payload(&at, "served", 2);
        wait_for("the log tells of the other disk", within(BACK_WITHIN), || {
            (log_count(&btd, "so that its disk seems not to be mounted") == 2).then_some(())
        });
        let verify = ctl(scratch.path(), &["verify", "--all"]);
        assert!(verify.status.success(), "{verify:?}");
        wait_state(&btd, "unavailable", 1.0);
        let remove = ctl(scratch.path(), &["remove", &torrent.info_hash_hex(), "--with-data"]);
        let refused = String::from_utf8_lossy(&remove.stderr).into_owned();
        assert!(refused.contains("nothing was removed"), "{remove:?}");
        other.unmount();

        assert!(disk.mount());
        wait_state(&btd, "seeding", 1.0);
        let again = btd.metric("btd_check_read_bytes_total") - read;
        assert_eq!(again, 3_000_000.0, "read as somebody has asked, and once");
        assert!(tracker.with_event("started").len() >= 2 || wait_started_again(&tracker));
        let leech = Leech::from(&scratch, "leech", &torrent, vec![btd.peers]);
        leech.check(&served);
        leech.btd.stop();
        btd.stop();
    });
}

fn wait_started_again(tracker: &StubTracker) -> bool {
    wait_for("it is announced again", within(SECONDS), || {
        (tracker.with_event("started").len() >= 2).then_some(true)
    })
}

#[test]
fn payload_that_has_moved_to_another_disk_is_taken_once_somebody_says_so() {
    let test = "payload_that_has_moved_to_another_disk_is_taken_once_somebody_says_so";
    with_disks(test, || {
        let scratch = Scratch::new("moved-disk");
        let (at, watch) = (scratch.dir("disk"), scratch.dir("watch"));
        let (Some(old), Some(new)) = (
            Disk::make(&scratch, "old-image", &at),
            Disk::make(&scratch, "new-image", &at),
        ) else {
            return cannot("no image of a filesystem can be made here");
        };
        if !old.mount() {
            return cannot("no image of a filesystem can be mounted here");
        }
        let served = payload(&at, "served", 1);
        Torrent::create(&served.path(), PIECE_LEN, watch.join("served.torrent"));
        let config = Config {
            watch: vec![(watch, at.clone())],
            ..Config::default()
        };
        let btd = Btd::start(scratch.path(), &config);
        wait_state(&btd, "seeding", 1.0);
        btd.stop();
        old.unmount();
        assert!(new.mount());
        payload(&at, "served", 1);
        let btd = restart(scratch.path(), &config);
        wait_state(&btd, "unavailable", 1.0);
        let hint = format!("`btd ctl moved {}` says so", at.display());
        wait_log(&btd, &hint);
        let wrong = ctl(scratch.path(), &["moved", "/nowhere"]);
        assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
        let moved = ctl(scratch.path(), &["moved", at.to_str().expect("UTF-8")]);
        assert!(moved.status.success(), "{moved:?}");
        wait_state(&btd, "seeding", 1.0);
        btd.stop();
        // And that is remembered.
        let btd = restart(scratch.path(), &config);
        wait_state(&btd, "seeding", 1.0);
        btd.stop();
        new.unmount();
        let btd = restart(scratch.path(), &config);
        wait_state(&btd, "unavailable", 1.0);
        btd.stop();
    });
}

#[test]
fn disk_that_is_unmounted_under_a_download_is_waited_for_and_the_download_goes_on() {
    let test = "disk_that_is_unmounted_under_a_download_is_waited_for_and_the_download_goes_on";
    with_disks(test, || {
        let files = [("folder/a.bin".to_owned(), 12_000_000)];
        let limit = "[limits]\nupload-rate = \"1 MB/s\"\n";
        let source = Source::start_with("lost-download", &files, PIECE_LEN, limit);
        let scratch = &source.scratch;
        let (at, watch, home) = (scratch.dir("disk"), scratch.dir("watch"), scratch.dir("leech"));
        let Some(disk) = Disk::make(scratch, "image", &at) else {
            return cannot("no image of a filesystem can be made here");
        };
        if !disk.mount() {
            return cannot("no image of a filesystem can be mounted here");
        }
        fs::copy(&source.torrent.path, watch.join("t.torrent")).expect("copy a torrent");
        let config = Config {
            watch: vec![(watch, at.clone())],
            peers: vec![source.btd.peers],
            ..Config::default()
        };
        let btd = Btd::start(&home, &config);
        wait_for("something is written", within(SECONDS), || {
            (btd.metric("btd_pieces_written_total") >= 10.0).then_some(())
        });
        disk.unmount();
        wait_state(&btd, "unavailable", 1.0);
        let written = btd.metric("btd_pieces_written_total");
        disk.shows_nothing();
        // Over a restart, too.
        btd.stop();
        let btd = restart(&home, &config);
        wait_state(&btd, "unavailable", 1.0);
        disk.shows_nothing();
        assert!(disk.mount());
        wait_for("btd has everything", within(SECONDS), || {
            (btd.metric("btd_torrents{state=\"seeding\"}") == 1.0).then_some(())
        });
        source.payload.assert_same(&at, true);
        let pieces = f64::from(12_000_000_u32.div_ceil(PIECE_LEN));
        let again = btd.metric("btd_pieces_written_total");
        assert!(
            again <= pieces - written + 10.0,
            "{written} of {pieces} pieces were written before, {again} afterwards"
        );
        btd.stop();
        source.btd.stop();
    });
}

#[test]
fn folder_that_is_moved_away_is_waited_for_and_taken_back_as_it_was() {
    let scratch = Scratch::new("moved-folder");
    let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
    let served = payload(&data, "served", 1);
    Torrent::create(&served.path(), PIECE_LEN, watch.join("served.torrent"));
    let config = Config {
        watch: vec![(watch, data.clone())],
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    wait_state(&btd, "seeding", 1.0);
    let read = btd.metric("btd_check_read_bytes_total");
    let away = scratch.path().join("away");
    fs::rename(&data, &away).expect("move the folder");
    wait_state(&btd, "unavailable", 1.0);
    wait_log(&btd, "is not there (hint: mount its disk, or make the folder");
    assert!(!data.exists(), "it was made");
    let health = ctl(scratch.path(), &["health"]);
    let text = String::from_utf8_lossy(&health.stdout).into_owned();
    assert_eq!(health.status.code(), Some(1), "{text}");
    assert!(
        text.contains(&format!("the data folder {} is not there", data.display())),
        "{text}"
    );
    fs::rename(&away, &data).expect("move it back");
    wait_state(&btd, "seeding", 1.0);
    assert!(ctl(scratch.path(), &["health"]).status.success());
    assert_eq!(btd.metric("btd_check_read_bytes_total"), read, "it was checked again");
    btd.stop();
    // And at a start.
    fs::rename(&data, &away).expect("move the folder");
    let btd = restart(scratch.path(), &config);
    wait_state(&btd, "unavailable", 1.0);
    assert!(!data.exists(), "it was made");
    // Nobody knows how much of it there is, paused or not.
    let done = || {
        let list = ctl(scratch.path(), &["list", "--json"]);
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        assert!(list.contains("\"done\":null"), "{list}");
    };
    done();
    assert!(ctl(scratch.path(), &["pause", "--all"]).status.success());
    wait_state(&btd, "paused", 1.0);
    done();
    assert!(ctl(scratch.path(), &["resume", "--all"]).status.success());
    wait_state(&btd, "unavailable", 1.0);
    fs::rename(&away, &data).expect("move it back");
    wait_state(&btd, "seeding", 1.0);
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0, "it was checked again");
    btd.stop();
}

/// Somebody may ask for what is not needed: what was found there holds.
#[test]
fn folder_that_is_said_to_have_moved_and_has_not_is_bound_to_its_disk_as_before() {
    let test = "folder_that_is_said_to_have_moved_and_has_not_is_bound_to_its_disk_as_before";
    with_disks(test, || {
        let scratch = Scratch::new("not-moved");
        let (at, watch) = (scratch.dir("disk"), scratch.dir("watch"));
        let Some(disk) = Disk::make(&scratch, "image", &at) else {
            return cannot("no image of a filesystem can be made here");
        };
        if !disk.mount() {
            return cannot("no image of a filesystem can be mounted here");
        }
        let served = payload(&at, "served", 1);
        Torrent::create(&served.path(), PIECE_LEN, watch.join("served.torrent"));
        let config = Config {
            watch: vec![(watch, at.clone())],
            ..Config::default()
        };
        let btd = Btd::start(scratch.path(), &config);
        wait_state(&btd, "seeding", 1.0);
        let moved = ctl(scratch.path(), &["moved", at.to_str().expect("UTF-8")]);
        assert!(moved.status.success(), "{moved:?}");
        // The next look is what has it bound again; what comes of that is told by nobody but the next start.
        let looked = "is bound to its filesystem again";
        wait_log(&btd, looked);
        btd.stop();
        disk.unmount();
        let btd = restart(scratch.path(), &config);
        wait_state(&btd, "unavailable", 1.0);
        btd.stop();
    });
}

#[test]
fn torrent_that_is_paused_keeps_its_files_from_a_download_after_its_disk_was_away() {
    let scratch = Scratch::new("paused-rival");
    let (data, watch, other) = (scratch.dir("data"), scratch.dir("watch"), scratch.dir("other"));
    let paused = payload(&data, "shared", 1);
    let paused_torrent = Torrent::create(&paused.path(), PIECE_LEN, watch.join("paused.torrent"));
    let wanted = payload(&other, "shared", 2);
    let wanted_torrent = Torrent::create(&wanted.path(), PIECE_LEN, scratch.path().join("wanted.torrent"));
    let config = Config {
        watch: vec![(watch.clone(), data.clone())],
        peers: vec![([127, 0, 0, 1], 9).into()],
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    wait_state(&btd, "seeding", 1.0);
    let pause = ctl(scratch.path(), &["pause", &paused_torrent.info_hash_hex()]);
    assert!(pause.status.success(), "{pause:?}");
    let away = scratch.path().join("away");
    fs::rename(&data, &away).expect("move the folder");
    wait_log(&btd, "is not there (hint: mount its disk, or make the folder");
    fs::rename(&away, &data).expect("move it back");
    wait_log(&btd, "is there: its torrents are looked at");
    wait_for("it is known again what there is of it", within(BACK_WITHIN), || {
        let list = ctl(scratch.path(), &["list", "--json"]);
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        (list.contains("\"paused\"") && !list.contains("\"done\":null")).then_some(())
    });
    fs::copy(&wanted_torrent.path, watch.join("wanted.torrent")).expect("copy a torrent");
    wait_state(&btd, "error", 1.0);
    wait_log(&btd, "downloading it would overwrite that one's");
    paused.assert_same(&data, true);
    btd.stop();
}

/// A first start knows no better than to take what is there, and is not held to a folder in which nothing was ever found.
#[test]
fn folder_in_which_nothing_was_found_may_be_on_another_disk_the_next_time() {
    let test = "folder_in_which_nothing_was_found_may_be_on_another_disk_the_next_time";
    with_disks(test, || {
        let scratch = Scratch::new("first-start");
        let (at, watch) = (scratch.dir("disk"), scratch.dir("watch"));
        let Some(disk) = Disk::make(&scratch, "image", &at) else {
            return cannot("no image of a filesystem can be made here");
        };
        if !disk.mount() {
            return cannot("no image of a filesystem can be mounted here");
        }
        let served = payload(&at, "served", 1);
        Torrent::create(&served.path(), PIECE_LEN, watch.join("served.torrent"));
        disk.unmount();
        let config = Config {
            watch: vec![(watch, at.clone())],
            ..Config::default()
        };
        let btd = Btd::start(scratch.path(), &config);
        wait_state(&btd, "missing", 1.0);
        assert!(disk.mount());
        wait_state(&btd, "seeding", 1.0);
        btd.stop();
    });
}

/// Somebody asks for everything to be read while the folder is away: it is, when the folder is back.
#[test]
fn check_that_is_asked_for_while_the_folder_is_away_is_made_when_it_is_back() {
    let scratch = Scratch::new("verify-away");
    let (data, watch) = (scratch.dir("data"), scratch.dir("watch"));
    let whole = payload(&data, "whole", 1);
    let torrent = Torrent::create(&whole.path(), PIECE_LEN, watch.join("whole.torrent"));
    let config = Config {
        watch: vec![(watch, data.clone())],
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    wait_state(&btd, "seeding", 1.0);
    let away = scratch.path().join("away");
    fs::rename(&data, &away).expect("move the folder");
    wait_state(&btd, "unavailable", 1.0);
    // It looks as it did before.
    let file = away.join(whole.path().strip_prefix(&data).expect("below it"));
    let modified = fs::metadata(&file)
        .and_then(|metadata| metadata.modified())
        .expect("there");
    let mut bytes = fs::read(&file).expect("there");
    bytes[20_000] ^= 1;
    fs::write(&file, bytes).expect("written");
    let opened = fs::File::options().append(true).open(&file);
    opened.and_then(|file| file.set_modified(modified)).expect("set");
    let verify = ctl(scratch.path(), &["verify", &torrent.info_hash_hex()]);
    assert!(verify.status.success(), "{verify:?}");
    wait_state(&btd, "unavailable", 1.0);
    fs::rename(&away, &data).expect("move it back");
    wait_state(&btd, "partial", 1.0);
    btd.stop();
}

/// What is downloaded has `.part` behind its name until it is complete, and another torrent's file may be called so.
#[test]
fn torrent_whose_file_is_called_as_a_download_is_until_it_is_complete_keeps_it() {
    let scratch = Scratch::new("part-rival");
    let (data, watch, other) = (scratch.dir("data"), scratch.dir("watch"), scratch.dir("other"));
    let held = payload(&data, "shared.part", 1);
    Torrent::create(&held.path(), PIECE_LEN, watch.join("held.torrent"));
    let wanted = payload(&other, "shared", 2);
    let wanted_torrent = Torrent::create(&wanted.path(), PIECE_LEN, scratch.path().join("wanted.torrent"));
    let config = Config {
        watch: vec![(watch.clone(), data.clone())],
        peers: vec![([127, 0, 0, 1], 9).into()],
        ..Config::default()
    };
    let btd = Btd::start(scratch.path(), &config);
    wait_state(&btd, "seeding", 1.0);
    fs::copy(&wanted_torrent.path, watch.join("wanted.torrent")).expect("copy a torrent");
    wait_state(&btd, "error", 1.0);
    wait_log(&btd, "downloading it would overwrite that one's");
    held.assert_same(&data, true);
    btd.stop();
}
