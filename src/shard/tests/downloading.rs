//! Torrents that are not complete: what peers are asked for, and what becomes of what they send.

use std::sync::atomic::Ordering::Relaxed;

use super::fixture::{FAST, PIECE_LEN, PLAIN, bytes};
use super::leeching::{Giver, Leeching};
use super::*;
use crate::proto::geometry::BLOCK_LEN;
use crate::storage::PART_SUFFIX;

#[test]
fn torrent_comes_from_one_peer_and_is_complete_on_disk() {
    for (reserved, len) in [
        (FAST, 1_000_000),
        (PLAIN, 1_000_000),
        (FAST, 1),
        (PLAIN, 3 * PIECE_LEN as usize),
    ] {
        let mut leeching = Leeching::new(len);
        let mut giver = leeching.giver(2000, reserved);
        leeching.hear(&mut giver);
        assert!(giver.said.contains(&"Interested".to_owned()), "{:?}", giver.said);
        leeching.give_all(&mut giver);
        assert!(
            leeching.is_complete(),
            "{:?} {:?}",
            leeching.told(),
            leeching.fixture.drops()
        );
        assert!(leeching.file() == leeching.fixture.payload);
        let last = leeching.told().pop().unwrap();
        assert!(last.contains("Written") && last.contains("complete: [0]"), "{last}");
        assert_eq!(
            giver.asks,
            len.div_ceil(BLOCK_LEN as usize),
            "each block is asked for once"
        );
        assert_eq!(leeching.fixture.drops(), ["both_seeds"]);
        let shard = &leeching.fixture.shard;
        assert_eq!((shard.assembly.reserved(), shard.downloads.len()), (0, 0));
    }
}

#[test]
fn piece_is_told_to_everybody_and_served_only_once_it_is_written() {
    let mut leeching = Leeching::new(4 * PIECE_LEN as usize);
    let mut giver = leeching.giver(2000, FAST);
    // A peer that has nothing.
    let mut far = leeching.taker();
    leeching.settle();
    leeching.fixture.world.hold(OpKind::Write);
    leeching.unchoke([&giver]);
    // Pieces that were begun are finished first: the first four blocks are one piece, or two halves.
    while leeching.give(&mut giver, 1) > 0 && leeching.fixture.shard.writing() == 0 {}
    leeching.fixture.hear(&mut far);
    assert!(!far.said.iter().any(|said| said.starts_with("Have(")), "{:?}", far.said);
    assert_eq!(leeching.fixture.torrent.have_count(), 0);
    leeching.fixture.world.release(OpKind::Write);
    leeching.settle();
    leeching.fixture.hear(&mut far);
    leeching.hear(&mut giver);
    assert_eq!(giver.told.len(), 1, "{:?}", giver.told);
    let piece = giver.told[0];
    assert!(far.said.contains(&format!("Have({piece})")), "{:?}", far.said);
    leeching.fixture.request(&far, piece, 0, BLOCK_LEN);
    leeching.settle();
    leeching.fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), 1);
    leeching.fixture.check(&far);
}

/// An extent of the cache is longer than a piece here: what was read for one must not be served for its neighbour.
#[test]
fn what_was_read_before_a_neighbour_was_written_is_read_again() {
    let mut leeching = Leeching::new(2 * PIECE_LEN as usize);
    let mut giver = leeching.giver(2000, FAST);
    let mut far = leeching.taker();
    let first = leeching.first_piece(&mut giver);
    leeching.fixture.request(&far, first, 0, BLOCK_LEN);
    leeching.settle();
    leeching.give_all(&mut giver);
    assert!(leeching.is_complete());
    leeching.fixture.request(&far, 1 - first, 0, BLOCK_LEN);
    leeching.settle();
    leeching.fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), 2);
    leeching.fixture.check(&far);
}

/// The last file gets its name, and the torrent is told to be complete, between the asking for a file and its opening.
#[test]
fn file_that_is_opened_by_the_name_it_had_a_moment_ago_is_opened_by_the_other_and_stays_served() {
    let mut leeching = Leeching::new(2 * PIECE_LEN as usize);
    let mut giver = leeching.giver(2000, FAST);
    let mut far = leeching.taker();
    leeching.give_all(&mut giver);
    assert!(leeching.is_complete());
    leeching.fixture.world.hold(OpKind::Open);
    leeching.fixture.request(&far, 0, 0, BLOCK_LEN);
    leeching.settle();
    let whole = leeching.file();
    let world = &leeching.fixture.world;
    world.remove_file(&format!("payload{PART_SUFFIX}"));
    world.file("payload", &whole);
    leeching.fixture.torrent.finished(0, Some(0));
    leeching.fixture.torrent.set_complete();
    leeching.fixture.world.release(OpKind::Open);
    leeching.settle();
    leeching.fixture.hear(&mut far);
    assert!(leeching.is_complete(), "{:?}", leeching.fixture.torrent.fault());
    assert_eq!(far.blocks.len(), 1);
    leeching.fixture.check(&far);
}

/// Some of it was written before a sync has failed, and may be gone, and the rest is written after that.
#[test]
fn piece_that_is_whole_after_its_disk_has_lost_something_is_neither_told_nor_served() {
    let mut leeching = Leeching::new(2 * PIECE_LEN as usize);
    let mut giver = leeching.giver(2000, FAST);
    leeching.first_piece(&mut giver);
    leeching.fixture.world.hold(OpKind::Write);
    while leeching.give(&mut giver, 1) > 0 {}
    leeching.hear(&mut giver);
    assert_eq!((leeching.fixture.shard.writing(), giver.told.len()), (1, 1));
    leeching.fixture.torrent.lose([0], "it cannot be synced");
    assert_eq!(leeching.fixture.torrent.have_count(), 0);
    leeching.fixture.world.release(OpKind::Write);
    leeching.settle();
    leeching.hear(&mut giver);
    assert_eq!((leeching.fixture.shard.writing(), giver.told.len()), (0, 1));
    assert_eq!(leeching.fixture.torrent.have_count(), 0);
}

/// Found by the simulated swarm: a piece was there when it was to be told of, the send before took its time, and a sync failed
/// meanwhile. What is left of a send is not sent either.
#[test]
fn what_waits_to_be_told_is_not_told_any_more_when_the_disk_has_lost_it() {
    // How much of the send before is taken at first, and how many of two pieces the peer is told of by the end.
    for (is_lost, room, told) in [(false, Some(3), 2), (true, None, 1), (true, Some(3), 0)] {
        let mut leeching = Leeching::new(3 * PIECE_LEN as usize);
        let mut giver = leeching.giver(2000, FAST);
        let mut far = leeching.taker();
        leeching.settle();
        let world = leeching.fixture.world.clone();
        world.set_room(far.id, Some(0));
        leeching.first_piece(&mut giver);
        while leeching.fixture.torrent.have_count() < 2 {
            assert!(leeching.give(&mut giver, 1) > 0);
        }
        if is_lost {
            leeching.fixture.torrent.lose([0], "it cannot be synced");
        }
        world.set_room(far.id, room);
        leeching.settle();
        world.set_room(far.id, None);
        leeching.settle();
        leeching.fixture.hear(&mut far);
        let haves = far.said.iter().filter(|said| said.starts_with("Have(")).count();
        assert_eq!(haves, told, "{room:?}: {:?}", far.said);
        let ended = is_lost.then_some(Ending::Orderly);
        assert_eq!(world.ended(far.id), ended, "{room:?}");
    }
}

/// Found by the simulated swarm: it was there when it was asked for, and its sync failed while it was read. What came is what the
/// disk has.
#[test]
fn piece_that_is_read_while_its_disk_loses_it_is_not_sent() {
    for is_lost in [false, true] {
        let mut leeching = Leeching::new(2 * PIECE_LEN as usize);
        let mut giver = leeching.giver(2000, FAST);
        let mut far = leeching.taker();
        let piece = leeching.first_piece(&mut giver);
        leeching.settle();
        let world = leeching.fixture.world.clone();
        world.hold(OpKind::Read);
        leeching.fixture.request(&far, piece, 0, BLOCK_LEN);
        leeching.settle();
        if is_lost {
            leeching.fixture.torrent.lose([0], "it cannot be synced");
        }
        world.release(OpKind::Read);
        leeching.settle();
        leeching.fixture.hear(&mut far);
        assert_eq!(far.blocks.len(), usize::from(!is_lost), "{:?}", far.said);
    }
}

/// It has got its final name, and the torrent is not told yet: folders are synced between the two.
#[test]
fn file_that_is_getting_its_final_name_is_served_as_soon_as_it_has_it() {
    let mut leeching = Leeching::new(2 * PIECE_LEN as usize);
    let mut giver = leeching.giver(2000, FAST);
    let mut far = leeching.taker();
    leeching.give_all(&mut giver);
    let whole = leeching.file();
    leeching.fixture.world.remove_file(&format!("payload{PART_SUFFIX}"));
    leeching.fixture.world.file("payload", &whole);
    leeching.fixture.request(&far, 0, 0, BLOCK_LEN);
    leeching.settle();
    leeching.fixture.hear(&mut far);
    assert!(far.blocks.is_empty(), "what lies there may be somebody else's");
    assert!(leeching.is_complete(), "{:?}", leeching.fixture.torrent.fault());
    leeching.fixture.torrent.finished(0, Some(0));
    leeching.fixture.torrent.set_complete();
    leeching.pass(2);
    leeching.fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), 1);
    leeching.fixture.check(&far);
}

/// What is there of a download gets the name of what is not complete, and the torrent is told when all files have it.
#[test]
fn file_that_is_losing_its_final_name_stays_served() {
    let mut leeching = Leeching::new(2 * PIECE_LEN as usize);
    let mut giver = leeching.giver(2000, FAST);
    let mut far = leeching.taker();
    let first = leeching.first_piece(&mut giver);
    // As if it had not been renamed yet; on the disk it has been.
    leeching.fixture.torrent.finished(0, Some(0));
    leeching.fixture.request(&far, first, 0, BLOCK_LEN);
    leeching.settle();
    leeching.fixture.hear(&mut far);
    assert!(far.blocks.is_empty(), "it may be somebody else's");
    assert_eq!(
        leeching.fixture.torrent.have_count(),
        1,
        "{:?}",
        leeching.fixture.torrent.fault()
    );
}

/// Somebody has deleted it: under neither name is there anything, and nothing will be.
#[test]
fn file_of_a_download_that_is_gone_is_withdrawn_under_whichever_name_it_was() {
    for has_final_name in [false, true] {
        let mut leeching = Leeching::new(2 * PIECE_LEN as usize);
        let mut giver = leeching.giver(2000, FAST);
        let far = leeching.taker();
        let first = leeching.first_piece(&mut giver);
        if has_final_name {
            leeching.fixture.torrent.finished(0, Some(0));
        }
        leeching.fixture.world.remove_file(&format!("payload{PART_SUFFIX}"));
        assert!(leeching.fixture.torrent.home().is_some(), "it is being downloaded");
        leeching.fixture.request(&far, first, 0, BLOCK_LEN);
        leeching.pass(1);
        assert_eq!(leeching.fixture.torrent.have_count(), 0);
        let fault = leeching.fixture.torrent.fault().unwrap();
        assert!(fault.contains("payload: cannot be opened"), "{fault}");
    }
}

#[test]
fn memory_stays_within_its_budget() {
    for write_buffer in [4 * u64::from(PIECE_LEN), 9 * u64::from(PIECE_LEN)] {
        let mut leeching = Leeching::with(2_000_000, write_buffer);
        let mut givers: Vec<Giver> = (0..4).map(|at| leeching.giver(2000 + at, FAST)).collect();
        leeching.unchoke(&givers);
        leeching.fixture.world.shuffle(write_buffer);
        while !leeching.is_complete() {
            let given: usize = givers.iter_mut().map(|giver| leeching.give(giver, 3)).sum();
            assert!(given > 0, "nobody waits for ever");
            let reserved = leeching.fixture.shard.assembly.reserved();
            assert!(reserved <= write_buffer, "{reserved}");
        }
        assert!(leeching.file() == leeching.fixture.payload);
    }
}

#[test]
fn full_disk_stops_requests_and_nothing_is_lost_until_there_is_room() {
    let mut leeching = Leeching::new(2_000_000);
    leeching.fixture.world.set_disk_room(Some(300_000));
    let mut giver = leeching.giver(2000, FAST);
    leeching.give_all(&mut giver);
    assert!(!leeching.is_complete());
    let asks = giver.asks;
    assert!(
        leeching
            .told()
            .iter()
            .any(|told| told.starts_with("Stalled") && told.contains("the disk is full"))
    );
    leeching.pass(5);
    leeching.hear(&mut giver);
    assert_eq!(giver.asks, asks, "nothing is asked for that has no room");
    let stalls = leeching
        .told()
        .iter()
        .filter(|told| told.starts_with("Stalled"))
        .count();
    assert_eq!(stalls, 1, "told once");
    leeching.fixture.world.set_disk_room(None);
    leeching.pass(3);
    assert!(leeching.told().iter().any(|told| told.starts_with("Resumed")));
    while leeching.give(&mut giver, usize::MAX) > 0 {}
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn failing_write_is_tried_again_after_a_minute() {
    let mut leeching = Leeching::new(50_000);
    leeching.fixture.world.fail_next(OpKind::Write, Errno::IO);
    let mut giver = leeching.giver(2000, FAST);
    leeching.give_all(&mut giver);
    leeching.pass(55);
    assert!(leeching.told().iter().any(|told| told.starts_with("Stalled")));
    assert!(!leeching.is_complete());
    leeching.pass(10);
    while leeching.give(&mut giver, usize::MAX) > 0 {}
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
}

/// What waits for the disk makes way for a download that goes on, but for one piece: by all of its stretches, of which there
/// are two here, is found out when the disk takes bytes again.
#[test]
fn piece_that_waits_for_the_disk_is_written_whole_although_memory_is_short() {
    let mut leeching = Leeching::with(5000, 4 * u64::from(PIECE_LEN));
    leeching.fixture.world.fail_next(OpKind::Write, Errno::IO);
    leeching.fixture.world.fail_next(OpKind::Write, Errno::IO);
    let mut giver = leeching.giver(2000, FAST);
    leeching.give_all(&mut giver);
    assert_eq!(leeching.fixture.shard.writes.pieces(), 1);
    let first = leeching.add_other("other", 100_000);
    // All the rest is with a third.
    let rest = 3 * i64::from(PIECE_LEN);
    leeching.fixture.shard.assembly.reserve(rest);
    let _goes_on = leeching.giver(2001, FAST);
    let second = std::mem::replace(&mut leeching.fixture.torrent, first);
    assert!(leeching.fixture.shard.assembly.is_tight() && second.connections.load(Relaxed) == 1);
    leeching.pass(30);
    assert_eq!(leeching.fixture.shard.writes.pieces(), 1, "it still waits");
    leeching.pass(40);
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn nothing_is_asked_for_before_the_files_are_made() {
    let mut leeching = Leeching::new(200_000);
    leeching.prepares = false;
    let mut giver = leeching.giver(2000, FAST);
    leeching.unchoke([&giver]);
    leeching.hear(&mut giver);
    assert_eq!(giver.asks, 0);
    assert_eq!(leeching.told().len(), 1, "asked for once: {:?}", leeching.told());
    let info_hash = leeching.fixture.torrent.info_hash();
    leeching
        .fixture
        .commands
        .send(Command::Prepared { info_hash, made: false })
        .unwrap();
    leeching.pass(58);
    assert_eq!(leeching.told().len(), 1);
    leeching.pass(4);
    assert_eq!(leeching.told().len(), 2, "and again after a minute");
    leeching.prepares = true;
    leeching.settle();
    leeching.give_all(&mut giver);
    assert!(leeching.is_complete());
}

#[test]
fn peers_are_connected_to_and_asked() {
    let mut leeching = Leeching::new(200_000);
    let addr = SocketAddr::from(([127, 0, 0, 1], 7000));
    let nobody = SocketAddr::from(([127, 0, 0, 1], 7001));
    leeching.fixture.world.listen(addr);
    leeching.tell_of(vec![addr, nobody], false);
    leeching.settle();
    let (to, id) = leeching.fixture.world.accept().expect("a connection");
    assert_eq!(to, addr);
    assert_eq!(leeching.fixture.drops(), ["not_connected"]);
    let mut giver = leeching.greet(id, 7000, FAST);
    leeching.give_all(&mut giver);
    assert!(leeching.is_complete());
    // Somebody is there by the time the other address is tried again.
    assert_eq!(leeching.fixture.shard.half_open, 0);
}

#[test]
fn where_nobody_is_is_told_if_a_name_has_led_there_and_again_each_time() {
    let mut leeching = Leeching::new(200_000);
    for (port, named) in [(7001, true), (7002, false)] {
        leeching.tell_of(vec![SocketAddr::from(([127, 0, 0, 1], port))], named);
    }
    leeching.settle();
    let told = leeching.told();
    assert!(
        told.len() == 1 && told[0].starts_with("Unreachable") && told[0].contains(":7001"),
        "{told:?}"
    );
    leeching.pass(10);
    assert_eq!(leeching.told().len(), 2);
}

#[test]
fn ourselves_are_not_connected_to_twice() {
    let mut leeching = Leeching::new(200_000);
    let addr = SocketAddr::from(([127, 0, 0, 1], 7000));
    leeching.fixture.world.listen(addr);
    leeching.tell_of(vec![addr], false);
    leeching.settle();
    let (_, id) = leeching.fixture.world.accept().expect("a connection");
    let ours = Handshake {
        reserved: FAST,
        info_hash: leeching.fixture.torrent.info_hash(),
        peer_id: leeching.fixture.shard.settings.peer_id,
    };
    leeching.fixture.world.write(id, &ours.encode());
    leeching.settle();
    assert_eq!(leeching.fixture.drops(), ["own_peer_id"]);
    leeching.pass(700);
    assert_eq!(leeching.fixture.world.accept(), None);
}

#[test]
fn of_two_connections_to_one_peer_both_ends_keep_the_same() {
    // The other id is greater than ours ("-XX" against "-BD"): the one that it has made stays.
    for theirs_first in [true, false] {
        let mut leeching = Leeching::new(200_000);
        let addr = SocketAddr::from(([127, 0, 0, 1], 7000));
        leeching.fixture.world.listen(addr);
        let mut made_by_it = None;
        if theirs_first {
            made_by_it = Some(leeching.giver(7000, FAST));
        }
        leeching.tell_of(vec![addr], false);
        leeching.settle();
        let (_, id) = leeching.fixture.world.accept().expect("a connection");
        let made_by_us = leeching.greet(id, 7000, FAST);
        let mut made_by_it = made_by_it.unwrap_or_else(|| leeching.giver(7000, FAST));
        assert!(leeching.fixture.world.ended(made_by_us.id).is_some());
        assert!(leeching.fixture.world.ended(made_by_it.id).is_none());
        assert_eq!(leeching.fixture.drops(), ["duplicate"]);
        leeching.give_all(&mut made_by_it);
        assert!(leeching.is_complete());
    }
}

#[test]
fn torrent_that_is_removed_in_the_middle_leaves_nothing_behind() {
    let mut leeching = Leeching::new(2_000_000);
    leeching.fixture.world.hold(OpKind::Write);
    let mut giver = leeching.giver(2000, FAST);
    leeching.unchoke([&giver]);
    for _ in 0..20 {
        leeching.give(&mut giver, 2);
    }
    let info_hash = leeching.fixture.torrent.info_hash();
    leeching.fixture.commands.send(Command::Remove(info_hash)).unwrap();
    leeching.settle();
    leeching.fixture.world.release(OpKind::Write);
    leeching.settle();
    let shard = &leeching.fixture.shard;
    assert_eq!(
        (shard.downloads.len(), shard.assembly.reserved(), shard.writing()),
        (0, 0, 0)
    );
    assert_eq!(
        shard.counters.pieces_written, 0,
        "what ended after it counts for nobody"
    );
    assert_eq!(leeching.fixture.drops(), ["torrent_removed"]);
}

#[test]
fn peers_share_the_download_rate_and_are_asked_for_no_more() {
    share_a_download_rate(|leeching, rate, now| {
        leeching.fixture.shard.settings.download_pace = Arc::new(Pace::new(rate, now));
    });
}

#[test]
fn peers_share_the_download_rate_of_a_folder_and_are_asked_for_no_more() {
    share_a_download_rate(|leeching, rate, now| {
        let folder = Arc::new(FolderPace::new(now));
        folder.download.set(rate, now);
        leeching.fixture.torrent.keep_to_folder(&folder);
    });
}

fn share_a_download_rate(limit: impl FnOnce(&mut Leeching, Option<std::num::NonZeroU64>, Instant)) {
    const RATE: u64 = 500_000;
    let mut leeching = Leeching::with(8_000_000, 8 << 20);
    let now = leeching.fixture.now.get();
    limit(&mut leeching, std::num::NonZeroU64::new(RATE), now);
    let mut givers: Vec<Giver> = (0..3).map(|at| leeching.giver(2000 + at, FAST)).collect();
    leeching.unchoke(&givers);
    for _ in 0..800 {
        leeching.fixture.now.set(leeching.fixture.now.get() + pace::QUANTUM);
        for giver in &mut givers {
            leeching.hear(giver);
            for block in giver.asked.drain(..).collect::<Vec<_>>() {
                leeching.send(giver, block);
            }
        }
        leeching.fixture.turn();
        leeching.wait_for_verdicts();
        leeching.fixture.turn();
    }
    let all = leeching.fixture.shard.counters.downloaded_bytes;
    let exact = 8 * RATE;
    assert!(all.abs_diff(exact) < exact / 20, "{all} of {exact}");
    assert!(givers.iter().all(|giver| giver.asks > 40), "each has its part");
}

#[test]
fn nothing_comes_twice_from_many_peers_that_answer() {
    let mut leeching = Leeching::new(3_000_000);
    let mut givers: Vec<Giver> = (0..8).map(|at| leeching.giver(2000 + at, FAST)).collect();
    leeching.unchoke(&givers);
    while !leeching.is_complete() {
        let given: usize = givers.iter_mut().map(|giver| leeching.give(giver, 2)).sum();
        assert!(given > 0, "nobody waits for anybody");
    }
    assert_eq!(leeching.fixture.shard.counters.wasted_bytes, 0);
    let asks: usize = givers.iter().map(|giver| giver.asks).sum();
    assert_eq!(asks, 3_000_000_usize.div_ceil(BLOCK_LEN as usize));
}

/// What was written since the last time is told before the shard ends.
#[test]
fn last_word_of_a_shard_is_what_was_written() {
    let mut leeching = Leeching::new(5 * PIECE_LEN as usize);
    let mut giver = leeching.giver(2000, FAST);
    leeching.first_piece(&mut giver);
    leeching.events.lock().unwrap().clear();
    leeching.fixture.commands.send(Command::Stop).unwrap();
    leeching.fixture.world.ring();
    assert!((0..10).any(|_| leeching.fixture.turn() == Flow::Stop));
    let events = leeching.events.lock().unwrap();
    let [Event::Written { have, files, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((have.count(), &files[..]), (1, &[0][..]));
    assert_eq!(leeching.fixture.torrent.downloaded(), u64::from(PIECE_LEN));
}

/// Its disk did not take what came, and then the file is gone: that is to be known at once.
#[test]
fn file_that_is_gone_is_told_although_its_disk_is_waited_for() {
    let mut leeching = Leeching::new(3 * PIECE_LEN as usize);
    let world = leeching.fixture.world.clone();
    world.set_disk_room(Some(0));
    let mut giver = leeching.giver(2000, FAST);
    leeching.give_all(&mut giver);
    assert!(leeching.told().iter().any(|told| told.starts_with("Stalled")));
    world.remove_file(&format!("payload{PART_SUFFIX}"));
    leeching.pass(5);
    assert!(
        leeching.told().iter().any(|told| told.starts_with("Gone")),
        "{:?}",
        leeching.told()
    );
}

/// As the end that accepts: it says who it is before it ends the connection, so that the end that has made it does not make
/// it again ([`ourselves_are_not_connected_to_twice`]).
#[test]
fn who_is_ourselves_is_told_so() {
    let mut leeching = Leeching::new(200_000);
    let addr = SocketAddr::from(([127, 0, 0, 1], 7000));
    let id = leeching.fixture.world.connect(addr);
    let ours = Handshake {
        reserved: FAST,
        info_hash: leeching.fixture.torrent.info_hash(),
        peer_id: leeching.fixture.shard.settings.peer_id,
    };
    leeching.fixture.world.write(id, &ours.encode());
    leeching.settle();
    let heard = leeching.fixture.world.read(id);
    let theirs = Handshake::decode(heard[..].try_into().unwrap()).unwrap();
    assert_eq!(theirs.peer_id, leeching.fixture.shard.settings.peer_id);
    assert_eq!(leeching.fixture.drops(), ["own_peer_id"]);
    assert_eq!(leeching.fixture.world.ended(id), Some(Ending::Orderly));
}

/// One torrent has many addresses where nobody is: another's peer is connected to as soon as its turn comes, and not when
/// the first has none left.
#[test]
fn torrents_take_turns_at_connecting_and_few_connections_are_half_open() {
    let mut leeching = Leeching::new(200_000);
    let world = leeching.fixture.world.clone();
    world.hold(OpKind::Connect);
    let nobodies = (0..500).map(|port| SocketAddr::from(([127, 0, 0, 2], 1000 + port)));
    leeching.tell_of(nobodies.collect(), false);
    leeching.settle();
    assert_eq!(leeching.fixture.shard.half_open, 64);
    leeching.add_other("other", 100_000);
    let somebody = SocketAddr::from(([127, 0, 0, 1], 7000));
    world.listen(somebody);
    leeching.tell_of(vec![somebody], false);
    leeching.settle();
    assert_eq!(leeching.fixture.shard.half_open, 64, "it has to wait");
    world.release(OpKind::Connect);
    leeching.settle();
    world.hold(OpKind::Connect);
    leeching.pass(1);
    assert_eq!(leeching.fixture.shard.half_open, 64);
    let dialed = leeching.fixture.shard.counters.dialed;
    assert!(dialed <= 2 * 64, "{dialed}: the first has more addresses than that");
    world.release(OpKind::Connect);
    leeching.settle();
    assert_eq!(world.accept().expect("a connection").0, somebody);
}

/// A piece of a hundred small files is written a few stretches at a time, and whole in the end.
#[test]
fn few_stretches_of_a_piece_are_written_at_a_time() {
    let files: Vec<_> = (0..100)
        .map(|at| (format!("{at}"), bytes(600, at + 1), false))
        .collect();
    let mut leeching = Leeching::of_files(files, PIECE_LEN, 1 << 20);
    let mut giver = leeching.giver(2000, FAST);
    let world = leeching.fixture.world.clone();
    world.hold(OpKind::Write);
    leeching.give_all(&mut giver);
    assert_eq!(leeching.fixture.shard.writing(), 1);
    let begun = leeching.fixture.shard.counters.disk_writes;
    assert!((1..=16).contains(&begun), "{begun} at once");
    world.release(OpKind::Write);
    leeching.settle();
    while !leeching.is_complete() {
        let before = leeching.fixture.shard.counters.disk_writes;
        leeching.settle();
        assert!(leeching.fixture.shard.counters.disk_writes > before, "it goes on");
    }
    let meta = leeching.fixture.torrent.meta();
    let written = meta
        .files
        .iter()
        .flat_map(|file| world.contents(&format!("{}{PART_SUFFIX}", file.path)).unwrap());
    assert!(written.eq(leeching.fixture.payload.iter().copied()));
}

/// It kept them until its next piece was done with, however long that took.
#[test]
fn download_that_rests_gives_its_spare_buffers_back() {
    let mut leeching = Leeching::new(8 * PIECE_LEN as usize);
    let mut giver = leeching.giver(2000, FAST);
    leeching.first_piece(&mut giver);
    leeching.pass(2);
    let spares = |leeching: &Leeching| leeching.fixture.shard.assembly.spares.count();
    leeching.hear(&mut giver);
    assert!(spares(&leeching) > 0 && !giver.asked.is_empty(), "it goes on");
    leeching.say(&giver, &Message::Choke);
    for (piece, begin, length) in std::mem::take(&mut giver.asked) {
        leeching.say(&giver, &Message::Reject { piece, begin, length });
    }
    leeching.settle();
    assert!(spares(&leeching) > 0);
    leeching.pass(2);
    assert_eq!(spares(&leeching), 0);
    // And goes on where it was.
    leeching.give_all(&mut giver);
    assert!(leeching.is_complete() && leeching.file() == leeching.fixture.payload);
}
