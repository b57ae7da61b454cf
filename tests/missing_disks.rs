//! Data folders that are not there: a disk that is not mounted at the start, that is unmounted while it is served and while
//! it is written to, another in its place, and a folder that is moved away. Their torrents wait, nothing is made on what
//! shows in the place of the disk, and they go on by themselves when it is back, without a byte read to be checked.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use support::btd::{Btd, Config};
use support::ctl::{Home, REFUSED};
use support::leech::{Leech, SECONDS, Source};
use support::payload::Payload;
use support::stub_tracker::StubTracker;
use support::torrent::Torrent;
use support::{age, cannot, private_net, rot, wait_for, within};

/// What is promised of a disk that comes back. Looks are much more frequent.
const BACK_WITHIN: u64 = 30;
const PIECE_LEN: u32 = 64 << 10;

/// An ext4 in a file, which is mounted and unmounted as the test says.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes one, which is not mounted. Where that cannot be done, it is said so.
    fn make(image: PathBuf, at: &Path) -> Option<Disk> {
        let made = fs::File::create(&image).and_then(|image| image.set_len(64 << 20));
        made.expect("make an image file");
        let mkfs = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
        let disk = Disk {
            image,
            at: at.to_owned(),
        };
        match mkfs.is_ok_and(|status| status.success()) {
            true => Some(disk),
            false => {
                cannot("no image of a filesystem can be made here");
                None
            }
        }
    }

    /// The same with the disk that the data folder of `home` is on.
    fn mounted(home: &Home) -> Option<Disk> {
        let disk = Disk::make(home.path().join("image"), &home.data)?;
        match disk.mount() {
            true => Some(disk),
            false => {
                cannot("no image of a filesystem can be mounted here");
                None
            }
        }
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

fn log_count(btd: &Btd, text: &str) -> usize {
    btd.process.log().matches(text).count()
}

/// A payload that a check can rely on the times of.
fn payload(data: &Path, name: &str, seed: u64) -> Payload {
    let payload = Payload::make(data, name, seed, &[(name.to_owned(), 3_000_000)]);
    age(&data.join(name));
    payload
}

/// A payload in the data folder, with its torrent in the watch folder.
fn torrent(home: &Home, name: &str, seed: u64) -> (Payload, Torrent) {
    let payload = payload(&home.data, name, seed);
    let path = home.watch.join(format!("{name}.torrent"));
    let torrent = Torrent::create(&payload.path(), PIECE_LEN, path);
    (payload, torrent)
}

/// A torrent beside the watch folder, whose payload is elsewhere.
fn torrent_without_payload(home: &Home, name: &str, seed: u64) -> Torrent {
    let payload = payload(&home.scratch.dir("elsewhere"), name, seed);
    Torrent::create(&payload.path(), PIECE_LEN, home.path().join(format!("{name}.torrent")))
}

/// Somebody is said to have what is missing.
fn downloading(home: &Home) -> Config {
    Config {
        peers: vec![([127, 0, 0, 1], 9).into()],
        ..home.config("")
    }
}

#[test]
fn disk_that_is_not_mounted_at_the_start_is_waited_for_and_nothing_is_made_in_its_place() {
    let test = "disk_that_is_not_mounted_at_the_start_is_waited_for_and_nothing_is_made_in_its_place";
    with_disks(test, || {
        let home = Home::new("absent-disk");
        let Some(disk) = Disk::mounted(&home) else { return };
        let (whole, _) = torrent(&home, "whole", 1);
        let lacking = torrent_without_payload(&home, "lacking", 2);
        fs::copy(&lacking.path, home.watch.join("lacking.torrent")).expect("copy a torrent");
        let config = Config {
            log_level: "debug",
            ..downloading(&home)
        };
        let btd = Btd::start(home.path(), &config);
        wait_state(&btd, "seeding", 1.0);
        wait_state(&btd, "downloading", 1.0);
        btd.stop();
        disk.unmount();

        let btd = Btd::start(home.path(), &config);
        wait_state(&btd, "unavailable", 2.0);
        btd.wait_log("so that its disk seems not to be mounted");
        let list = home.ctl(&["list"]).out;
        assert_eq!(list.matches("unavailable").count(), 2, "{list}");
        // Also after it was looked at anew, and asked for.
        home.ctl(&["verify", "--all"]).assert_done();
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
        whole.assert_same(&home.data, true);
        btd.stop();
    });
}

#[test]
fn disk_that_is_unmounted_while_it_is_served_is_let_go_and_taken_back_and_another_is_not_taken_for_it() {
    let test = "disk_that_is_unmounted_while_it_is_served_is_let_go_and_taken_back_and_another_is_not_taken_for_it";
    with_disks(test, || {
        let home = Home::new("lost-disk");
        let Some(other) = Disk::make(home.path().join("other-image"), &home.data) else {
            return;
        };
        let Some(disk) = Disk::mounted(&home) else { return };
        let tracker = StubTracker::saying("d8:intervali1800e5:peers0:e");
        let served = payload(&home.data, "served", 1);
        let torrent = Torrent::create(&served.path(), PIECE_LEN, home.path().join("plain.torrent"));
        torrent.with_tracker(&tracker.url(), home.watch.join("served.torrent"));
        let btd = Btd::start(home.path(), &home.config("[announce]\nallow-private = true\n"));
        wait_state(&btd, "seeding", 1.0);
        wait_for("it is announced", within(SECONDS), || {
            (!tracker.with_event("started").is_empty()).then_some(())
        });
        let read = btd.metric("btd_check_read_bytes_total");

        disk.unmount();
        wait_state(&btd, "unavailable", 1.0);
        btd.wait_log("so that its disk seems not to be mounted");
        wait_for("it is taken off its tracker", within(SECONDS), || {
            (!tracker.with_event("stopped").is_empty()).then_some(())
        });
        // Another disk in its place, with what looks like the payload.
        assert!(other.mount());
        payload(&home.data, "served", 2);
        wait_for("the log tells of the other disk", within(BACK_WITHIN), || {
            (log_count(&btd, "so that its disk seems not to be mounted") == 2).then_some(())
        });
        home.ctl(&["verify", "--all"]).assert_done();
        wait_state(&btd, "unavailable", 1.0);
        let remove = home.ctl(&["remove", &torrent.info_hash_hex(), "--with-data"]);
        assert!(
            remove.err.contains("nothing was removed"),
            "{}{}",
            remove.out,
            remove.err
        );
        other.unmount();

        assert!(disk.mount());
        wait_state(&btd, "seeding", 1.0);
        let again = btd.metric("btd_check_read_bytes_total") - read;
        assert_eq!(again, 3_000_000.0, "read as somebody has asked, and once");
        assert!(tracker.with_event("started").len() >= 2 || wait_started_again(&tracker));
        let leech = Leech::from(&home.scratch, "leech", &torrent, vec![btd.peers]);
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
        let home = Home::new("moved-disk");
        let Some(new) = Disk::make(home.path().join("new-image"), &home.data) else {
            return;
        };
        let Some(old) = Disk::mounted(&home) else { return };
        torrent(&home, "served", 1);
        let btd = home.start();
        wait_state(&btd, "seeding", 1.0);
        btd.stop();
        old.unmount();
        assert!(new.mount());
        payload(&home.data, "served", 1);
        let btd = home.start();
        wait_state(&btd, "unavailable", 1.0);
        btd.wait_log(&format!("`btd ctl moved {}` says so", home.data.display()));
        home.ctl(&["moved", "/nowhere"]).assert_fails(REFUSED, "/nowhere");
        home.ctl(&["moved", home.data.to_str().expect("UTF-8")]).assert_done();
        wait_state(&btd, "seeding", 1.0);
        btd.stop();
        // And that is remembered.
        let btd = home.start();
        wait_state(&btd, "seeding", 1.0);
        btd.stop();
        new.unmount();
        let btd = home.start();
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
        let home = Home::new("lost-download-leech");
        let Some(disk) = Disk::mounted(&home) else { return };
        fs::copy(&source.torrent.path, home.watch.join("t.torrent")).expect("copy a torrent");
        let config = Config {
            peers: vec![source.btd.peers],
            ..home.config("")
        };
        let btd = Btd::start(home.path(), &config);
        wait_for("something is written", within(SECONDS), || {
            (btd.metric("btd_pieces_written_total") >= 10.0).then_some(())
        });
        disk.unmount();
        wait_state(&btd, "unavailable", 1.0);
        let written = btd.metric("btd_pieces_written_total");
        disk.shows_nothing();
        // Over a restart, too.
        btd.stop();
        let btd = Btd::start(home.path(), &config);
        wait_state(&btd, "unavailable", 1.0);
        disk.shows_nothing();
        assert!(disk.mount());
        wait_for("btd has everything", within(SECONDS), || {
            (btd.metric("btd_torrents{state=\"seeding\"}") == 1.0).then_some(())
        });
        source.payload.assert_same(&home.data, true);
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
    let home = Home::new("moved-folder");
    torrent(&home, "served", 1);
    let btd = home.start();
    wait_state(&btd, "seeding", 1.0);
    let read = btd.metric("btd_check_read_bytes_total");
    let (data, away) = (&home.data, home.path().join("away"));
    fs::rename(data, &away).expect("move the folder");
    wait_state(&btd, "unavailable", 1.0);
    btd.wait_log("is not there (hint: mount its disk, or make the folder");
    assert!(!data.exists(), "it was made");
    let health = home.ctl(&["health"]);
    health.assert_done();
    let absent = format!("the data folder {} is not there", data.display());
    assert!(health.out.contains(&absent), "{}", health.out);
    fs::rename(&away, data).expect("move it back");
    wait_state(&btd, "seeding", 1.0);
    assert_eq!(home.ctl(&["health"]).out, "healthy\n");
    assert_eq!(btd.metric("btd_check_read_bytes_total"), read, "it was checked again");
    btd.stop();
    // And at a start.
    fs::rename(data, &away).expect("move the folder");
    let btd = home.start();
    wait_state(&btd, "unavailable", 1.0);
    assert!(!data.exists(), "it was made");
    // Nobody knows how much of it there is, paused or not.
    let done = || {
        let row = home.json(&["list"]).row();
        assert!(row["done"].is_null(), "{row}");
    };
    done();
    home.ctl(&["pause", "--all"]).assert_done();
    wait_state(&btd, "paused", 1.0);
    done();
    home.ctl(&["resume", "--all"]).assert_done();
    wait_state(&btd, "unavailable", 1.0);
    fs::rename(&away, data).expect("move it back");
    wait_state(&btd, "seeding", 1.0);
    assert_eq!(btd.metric("btd_check_read_bytes_total"), 0.0, "it was checked again");
    btd.stop();
}

/// Somebody may ask for what is not needed: what was found there holds.
#[test]
fn folder_that_is_said_to_have_moved_and_has_not_is_bound_to_its_disk_as_before() {
    let test = "folder_that_is_said_to_have_moved_and_has_not_is_bound_to_its_disk_as_before";
    with_disks(test, || {
        let home = Home::new("not-moved");
        let Some(disk) = Disk::mounted(&home) else { return };
        torrent(&home, "served", 1);
        let btd = home.start();
        wait_state(&btd, "seeding", 1.0);
        home.ctl(&["moved", home.data.to_str().expect("UTF-8")]).assert_done();
        // The next look is what has it bound again; what comes of that is told by nobody but the next start.
        btd.wait_log("is bound to its filesystem again");
        btd.stop();
        disk.unmount();
        let btd = home.start();
        wait_state(&btd, "unavailable", 1.0);
        btd.stop();
    });
}

#[test]
fn torrent_that_is_paused_keeps_its_files_from_a_download_after_its_disk_was_away() {
    let home = Home::new("paused-rival");
    let (paused, paused_torrent) = torrent(&home, "shared", 1);
    let wanted = torrent_without_payload(&home, "shared", 2);
    let btd = Btd::start(home.path(), &downloading(&home));
    wait_state(&btd, "seeding", 1.0);
    home.ctl(&["pause", &paused_torrent.info_hash_hex()]).assert_done();
    let away = home.path().join("away");
    fs::rename(&home.data, &away).expect("move the folder");
    btd.wait_log("is not there (hint: mount its disk, or make the folder");
    fs::rename(&away, &home.data).expect("move it back");
    btd.wait_log("is there: its torrents are looked at");
    wait_for("it is known again what there is of it", within(BACK_WITHIN), || {
        let row = home.json(&["list"]).row();
        (row["state"] == "paused" && !row["done"].is_null()).then_some(())
    });
    fs::copy(&wanted.path, home.watch.join("wanted.torrent")).expect("copy a torrent");
    wait_state(&btd, "error", 1.0);
    btd.wait_log("downloading it would overwrite that one's");
    paused.assert_same(&home.data, true);
    btd.stop();
}

/// A first start knows no better than to take what is there, and is not held to a folder in which nothing was ever found.
#[test]
fn folder_in_which_nothing_was_found_may_be_on_another_disk_the_next_time() {
    let test = "folder_in_which_nothing_was_found_may_be_on_another_disk_the_next_time";
    with_disks(test, || {
        let home = Home::new("first-start");
        let Some(disk) = Disk::mounted(&home) else { return };
        torrent(&home, "served", 1);
        disk.unmount();
        let btd = home.start();
        wait_state(&btd, "missing", 1.0);
        assert!(disk.mount());
        // Nothing tells btd: what is missing is looked for every half minute.
        btd.wait_torrents("seeding", 1);
        btd.stop();
    });
}

/// Somebody asks for everything to be read while the folder is away: it is, when the folder is back.
#[test]
fn check_that_is_asked_for_while_the_folder_is_away_is_made_when_it_is_back() {
    let home = Home::new("verify-away");
    let (_, torrent) = torrent(&home, "whole", 1);
    let btd = home.start();
    wait_state(&btd, "seeding", 1.0);
    let away = home.path().join("away");
    fs::rename(&home.data, &away).expect("move the folder");
    wait_state(&btd, "unavailable", 1.0);
    rot(&away.join("whole"), 20_000);
    home.ctl(&["verify", &torrent.info_hash_hex()]).assert_done();
    wait_state(&btd, "unavailable", 1.0);
    fs::rename(&away, &home.data).expect("move it back");
    wait_state(&btd, "partial", 1.0);
    btd.stop();
}

/// What is downloaded has `.part` behind its name until it is complete, and another torrent's file may be called so.
#[test]
fn torrent_whose_file_is_called_as_a_download_is_until_it_is_complete_keeps_it() {
    let home = Home::new("part-rival");
    let (held, _) = torrent(&home, "shared.part", 1);
    let wanted = torrent_without_payload(&home, "shared", 2);
    let btd = Btd::start(home.path(), &downloading(&home));
    wait_state(&btd, "seeding", 1.0);
    fs::copy(&wanted.path, home.watch.join("wanted.torrent")).expect("copy a torrent");
    wait_state(&btd, "error", 1.0);
    btd.wait_log("downloading it would overwrite that one's");
    held.assert_same(&home.data, true);
    btd.stop();
}
