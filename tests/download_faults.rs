//! Downloads to a disk that fails in one place, once, or in one kind of call: what is claimed meanwhile is there, and each comes
//! to its end. Disks that fail as a whole are in `download_disks`, all the ways that lead to a sync in `download_syncs`.

mod support;

use support::btd::Btd;
use support::claims::{check_claims, claimed};
use support::fault_fs::{EINVAL, EIO, ENOSPC, FaultFs, Op, Rule};
use support::leech::{SECONDS, info_hash};
use support::ward::Ward;
use support::{skip, wait_for, within};

/// `None` where there is no FUSE.
fn open(name: &str) -> Option<(Ward, FaultFs)> {
    let ward = Ward::open(name);
    match FaultFs::mount(&ward.disk) {
        Ok(disk) => Some((ward, disk)),
        Err(why) => {
            skip(&why);
            None
        }
    }
}

/// What btd says it has of the sick torrent, all of which is there.
fn claims(ward: &Ward, btd: &Btd) -> Vec<bool> {
    let claims = claimed(btd, info_hash(&ward.torrent), ward.pieces());
    check_claims(&ward.torrent, &ward.disk, &claims);
    claims
}

/// Nothing is given to such a disk past the page cache: the rest of what it has cut short would be wrong, and nobody told.
#[test]
fn writes_of_which_the_disk_takes_half_are_gone_on_with() {
    let Some((ward, disk)) = open("short-writes") else {
        return;
    };
    let direct = disk.rules.add(Rule::fail(Op::WriteDirect, EINVAL));
    let short = disk.rules.add(Rule::short(Op::Write));
    let btd = ward.start();
    wait_for("both are whole", within(SECONDS), || {
        (btd.metric("btd_torrents{state=\"seeding\"}") >= 2.0).then_some(())
    });
    assert_eq!(disk.rules.applied(direct), 0, "a write past the page cache");
    // A write each for 180 pieces, at the least.
    assert!(disk.rules.applied(short) >= 180, "{}", disk.rules.applied(short));
    assert!(
        !btd.process.log().contains("waits for its disk"),
        "a short write is no failure"
    );
    assert_eq!(btd.metric("btd_wasted_bytes_total"), 0.0, "nothing came twice");
    ward.recovers(btd);
}

/// As on a disk that is full: the beginning of the file lies there already, the rest has no room.
#[test]
fn disk_without_room_for_the_rest_of_a_file_keeps_what_it_has_and_goes_on_when_there_is_some() {
    const ROOM: u64 = 5_000_000;
    let Some((ward, disk)) = open("no-room-for-the-rest") else {
        return;
    };
    let btd = ward.start();
    wait_for("some of it is written", within(SECONDS), || {
        (disk.rules.taken().len() >= 20).then_some(())
    });
    let full = Rule::fail(Op::Write, ENOSPC).of("sick.part").within(ROOM..u64::MAX);
    let full = disk.rules.add(full);
    ward.stops_alone(&btd, "waits for its disk: sick: the disk is full");
    assert!(disk.rules.applied(full) > 0);
    let claims = claims(&ward, &btd);
    assert!(claims.contains(&true), "what had room is served");
    assert!(claims.contains(&false), "not all of it had");
    disk.rules.clear();
    wait_for("both are whole", within(SECONDS), || {
        (btd.metric("btd_torrents{state=\"seeding\"}") >= 2.0).then_some(())
    });
    assert_eq!(btd.metric("btd_wasted_bytes_total"), 0.0, "what had no room was kept");
    ward.recovers(btd);
}

/// The kernel tells an error once, and the next sync succeeds: what was lost is lost all the same.
#[test]
fn sync_that_fails_once_is_not_made_up_for_by_the_next_that_does_not() {
    let Some((ward, disk)) = open("one-sync") else { return };
    let once = disk.rules.add(Rule::fail(Op::Sync, EIO).of("sick.part").times(1));
    let btd = ward.start();
    ward.stops_alone(&btd, "its files are checked again in a minute");
    assert_eq!(disk.rules.applied(once), 1);
    ward.recovers(btd);
}

/// The file has its final name, and the disk has not taken that: after a loss of power it might have the other. So the torrent is
/// not taken for complete before the folder is synced.
#[test]
fn file_whose_folder_is_not_synced_is_not_taken_for_complete_until_it_is() {
    let Some((ward, disk)) = open("folder-sync") else {
        return;
    };
    let btd = ward.start();
    let failed = disk.rules.add(Rule::fail(Op::SyncFolder, EIO));
    ward.stops_alone(&btd, "the folder");
    assert!(disk.rules.applied(failed) > 0);
    assert_eq!(btd.metric("btd_torrents{state=\"seeding\"}"), 1.0, "the other alone");
    disk.rules.clear();
    ward.recovers(btd);
}

/// Before the first byte: the download begins when its files are there for good.
#[test]
fn folder_that_is_not_synced_when_its_files_are_made_holds_up_its_download_alone() {
    let Some((ward, disk)) = open("folder-sync-first") else {
        return;
    };
    let once = disk.rules.add(Rule::fail(Op::SyncFolder, EIO).times(1));
    let btd = Btd::start(&ward.home, &ward.config);
    ward.stops_alone(&btd, "the folder");
    assert_eq!(disk.rules.applied(once), 1);
    ward.recovers(btd);
}
