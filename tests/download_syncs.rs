//! Downloads to disks that do not take what they were given, and say so when they are asked: a sync that fails is not believed
//! the next time that it succeeds. What was lost is not claimed, by whichever of the ways that lead to a sync.

mod support;

use rustix::process::Signal;
use support::btd::Btd;
use support::claims::{check_claims, claimed};
use support::fault_fs::{EIO, FaultFs, Op, Rule};
use support::leech::{SECONDS, info_hash};
use support::ward::Ward;
use support::{skip, wait_for, within};

/// What btd says it has of the sick torrent is there.
fn claims_are_right(ward: &Ward, btd: &Btd) -> usize {
    wait_for("what is there is checked", within(SECONDS), || {
        (btd.metric("btd_torrents{state=\"checking\"}") == 0.0).then_some(())
    });
    let claims = claimed(btd, info_hash(&ward.torrent), ward.pieces());
    check_claims(&ward.torrent, &ward.disk, &claims);
    claims.iter().filter(|claim| **claim).count()
}

/// A start with nobody to download from: what is claimed is what was found.
fn start_alone(ward: &mut Ward) -> Btd {
    // Nobody is there; without any peers it would not be a download.
    let nobody = vec![([127, 0, 0, 1], 9).into()];
    let peers = std::mem::replace(&mut ward.config.peers, nobody);
    let btd = ward.start_again();
    ward.config.peers = peers;
    btd
}

/// While btd runs: the torrent stops, and is checked in a minute.
#[test]
fn sync_that_fails_is_not_believed_and_the_files_are_checked_again() {
    let ward = Ward::open("eio-sync");
    let disk = match FaultFs::mount(&ward.disk) {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let btd = ward.start();
    disk.rules.add(Rule::fail(Op::Sync, EIO));
    ward.stops_alone(&btd, "its files are checked again in a minute");
    disk.rules.clear();
    ward.recovers(btd);
}

/// As btd stops: what is recorded is what was synced before, or nothing.
#[test]
fn sync_that_fails_at_the_end_leaves_nothing_recorded_that_is_not_there() {
    let mut ward = Ward::open("eio-stop");
    let disk = match FaultFs::mount(&ward.disk) {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let btd = ward.start();
    disk.rules.add(Rule::fail(Op::Sync, EIO));
    btd.stop();
    assert!(!disk.rules.refused().is_empty(), "something was to be synced");
    disk.rules.clear();
    let btd = start_alone(&mut ward);
    claims_are_right(&ward, &btd);
    btd.stop();
    ward.recovers(ward.start_again());
}

/// After a kill, in the check of what is not recorded: it is in the page cache, and the disk does not take it.
#[test]
fn what_a_check_cannot_sync_is_not_claimed_then_nor_after_the_next_kill() {
    let mut ward = Ward::open("eio-check");
    let disk = match FaultFs::mount(&ward.disk) {
        Ok(disk) => disk,
        Err(why) => return skip(&why),
    };
    let mut btd = ward.start();
    // More than was recorded: that happens each five seconds, and there are six pieces a tenth of that.
    wait_for("some more is written", within(SECONDS), || {
        (btd.metric("btd_pieces_written_total") >= 30.0).then_some(())
    });
    btd.process.signal(Signal::KILL);
    let _ = btd.process.wait(within(10));
    disk.rules.add(Rule::fail(Op::Sync, EIO));
    let mut btd = start_alone(&mut ward);
    // Nobody is told of anything, and nothing is had anew in the place of what may be right.
    wait_for("it is looked for again", within(SECONDS), || {
        (btd.metric("btd_torrents{state=\"missing\"}") == 1.0).then_some(())
    });
    assert!(!disk.rules.refused().is_empty(), "something was to be synced");
    btd.process.signal(Signal::KILL);
    let _ = btd.process.wait(within(10));
    disk.rules.clear();
    let btd = start_alone(&mut ward);
    let claims = claims_are_right(&ward, &btd);
    println!("{claims} pieces claimed after that");
    btd.stop();
    ward.recovers(ward.start_again());
}
