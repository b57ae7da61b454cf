//! Pieces that are too long for the write buffer: written as they come, read back, and only then told.

use super::fixture::FAST;
use super::leeching::{Giver, Leeching};
use super::*;
use crate::proto::geometry::BLOCK_LEN;

const LONG: u32 = 2 << 20;
const BUFFER: u64 = 1 << 20;
const LEN: usize = 3 * LONG as usize + 100_001;

fn leeching() -> Leeching {
    Leeching::of_pieces(LEN, LONG, BUFFER)
}

/// What is reserved, and never more than there is.
fn reserved(leeching: &Leeching) -> u64 {
    let reserved = leeching.fixture.shard.assembly.reserved();
    assert!(reserved <= BUFFER, "{reserved} of {BUFFER}");
    reserved
}

#[test]
fn long_pieces_come_with_little_memory_and_each_block_once() {
    for seed in 0..4 {
        let mut leeching = leeching();
        let mut givers: Vec<Giver> = (0..3).map(|at| leeching.giver(2000 + at, FAST)).collect();
        leeching.unchoke(&givers);
        if seed > 0 {
            leeching.fixture.world.shuffle(seed);
        }
        let (mut most, mut idle) = (0, 0);
        while !leeching.is_complete() {
            let given: usize = givers.iter_mut().map(|giver| leeching.give(giver, 5)).sum();
            most = most.max(reserved(&leeching));
            if given == 0 {
                // What was read back last is hashed, by another thread.
                idle += 1;
                assert!(idle < 30, "nobody waits for ever");
                leeching.pass(1);
            }
        }
        assert!(leeching.file() == leeching.fixture.payload, "seed {seed}");
        assert!(most > BUFFER / 4, "the buffer is used: {most}");
        let shard = &leeching.fixture.shard;
        assert_eq!((shard.counters.wasted_bytes, shard.assembly.reserved()), (0, 0));
        let asks: usize = givers.iter().map(|giver| giver.asks).sum();
        assert_eq!(asks, LEN.div_ceil(BLOCK_LEN as usize));
        assert!(shard.counters.disk_writes < asks as u64 / 2, "blocks are gathered");
    }
}

/// Runs of several pieces grow at once, and others are asked for in the place of their blocks, before any of them ends.
#[test]
fn runs_that_end_together_take_no_more_memory_than_there_is_and_hold_up_nobody() {
    for givers in 1..4 {
        let mut leeching = leeching();
        leeching.fixture.world.hold(OpKind::Write);
        let mut givers: Vec<Giver> = (0..givers).map(|at| leeching.giver(2000 + at, FAST)).collect();
        leeching.unchoke(&givers);
        let mut give_one_each = |leeching: &mut Leeching| -> usize {
            let given = givers.iter_mut().map(|giver| leeching.give(giver, 1)).sum();
            reserved(leeching);
            given
        };
        while give_one_each(&mut leeching) > 0 {}
        leeching.fixture.world.release(OpKind::Write);
        leeching.settle();
        let mut idle = 0;
        while !leeching.is_complete() {
            if give_one_each(&mut leeching) == 0 {
                idle += 1;
                assert!(idle < 30, "nobody waits for ever");
                leeching.pass(1);
            }
        }
        assert!(leeching.file() == leeching.fixture.payload);
        assert_eq!(leeching.fixture.shard.counters.wasted_bytes, 0);
    }
}

#[test]
fn long_piece_is_told_and_served_only_once_it_was_read_back() {
    let mut leeching = leeching();
    let mut giver = leeching.giver(2000, FAST);
    leeching.fixture.world.hold(OpKind::Read);
    leeching.give_all(&mut giver);
    assert!(leeching.file() != vec![0; LEN], "it is written");
    assert!(leeching.fixture.shard.assembly.early.is_reading());
    assert_eq!((leeching.fixture.torrent.have_count(), giver.told.len()), (0, 0));
    leeching.fixture.world.release(OpKind::Read);
    while !leeching.is_complete() {
        leeching.settle();
        leeching.give(&mut giver, usize::MAX);
    }
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn liar_is_found_out_by_what_is_read_back() {
    let mut leeching = leeching();
    let mut liar = leeching.giver(2000, FAST);
    liar.lies = true;
    leeching.give_all(&mut liar);
    for _ in 0..20 {
        leeching.settle();
    }
    assert_eq!(leeching.fixture.drops(), ["banned"]);
    assert_eq!(leeching.fixture.torrent.have_count(), 0);
    let mut honest = leeching.giver(2001, FAST);
    leeching.give_all(&mut honest);
    leeching.pass(2);
    while leeching.give(&mut honest, usize::MAX) > 0 {}
    leeching.pass(2);
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
    assert_eq!(leeching.fixture.drops(), ["banned", "both_seeds"]);
}

/// Two give blocks of the same pieces, and one of them lies in some: only it is shut out.
#[test]
fn liar_beside_an_honest_peer_is_told_from_it() {
    let mut leeching = Leeching::of_pieces(LONG as usize, LONG, BUFFER);
    let mut givers: Vec<Giver> = (0..3).map(|at| leeching.giver(2000 + at, FAST)).collect();
    givers[1].lies = true;
    leeching.unchoke(&givers);
    for _ in 0..400 {
        for giver in &mut givers {
            if leeching.fixture.world.ended(giver.id).is_none() {
                leeching.give(giver, 1);
            }
        }
        if leeching.is_complete() {
            break;
        }
    }
    leeching.pass(3);
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
    let banned: Vec<String> = leeching
        .told()
        .into_iter()
        .filter(|told| told.starts_with("Banned"))
        .collect();
    assert!(banned.len() == 1 && banned[0].contains("2001"), "{banned:?}");
}

/// It never gave a whole piece by itself: what convicts it is that its blocks were others than those of the right piece.
#[test]
fn liar_that_has_left_is_convicted_by_its_blocks_once_they_have_come_right() {
    let mut leeching = Leeching::of_pieces(LONG as usize, LONG, BUFFER);
    let mut liar = leeching.giver(2000, FAST);
    liar.lies = true;
    leeching.unchoke([&liar]);
    assert_eq!(leeching.give(&mut liar, 3), 3);
    leeching.fixture.world.close(liar.id);
    leeching.settle();
    let mut honest = leeching.giver(2001, FAST);
    leeching.say(&honest, &Message::Unchoke);
    for _ in 0..10 {
        while leeching.give(&mut honest, usize::MAX) > 0 {}
        leeching.pass(1);
    }
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
    let counters = &leeching.fixture.shard.counters;
    assert_eq!((counters.pieces_bad, counters.peers_banned), (1, 1));
    // It is told of who is shut out and is there.
    assert!(!leeching.told().iter().any(|told| told.starts_with("Banned")));
}

#[test]
fn write_that_fails_is_tried_again_and_nothing_is_lost() {
    let mut leeching = leeching();
    leeching.fixture.world.fail_next(OpKind::Write, Errno::IO);
    let mut giver = leeching.giver(2000, FAST);
    leeching.give_all(&mut giver);
    reserved(&leeching);
    assert!(leeching.told().iter().any(|told| told.starts_with("Stalled")));
    leeching.pass(65);
    assert!(leeching.told().iter().any(|told| told.starts_with("Resumed")));
    while leeching.give(&mut giver, usize::MAX) > 0 {}
    leeching.pass(2);
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
    assert_eq!(
        giver.asks,
        LEN.div_ceil(BLOCK_LEN as usize),
        "nothing is asked for twice"
    );
}

/// The extent cannot be read, and then its block cannot either: the piece is had anew after a minute.
#[test]
fn piece_that_cannot_be_read_back_is_had_again() {
    let mut leeching = leeching();
    leeching.fixture.world.fail_next(OpKind::Read, Errno::IO);
    leeching.fixture.world.fail_next(OpKind::Read, Errno::IO);
    let mut giver = leeching.giver(2000, FAST);
    leeching.give_all(&mut giver);
    leeching.settle();
    let told = leeching.told();
    assert!(
        told.iter()
            .any(|told| told.starts_with("Stalled") && told.contains("cannot be read")),
        "{told:?}"
    );
    let asks = giver.asks;
    leeching.pass(50);
    leeching.hear(&mut giver);
    assert_eq!(giver.asks, asks, "nothing is asked for meanwhile");
    leeching.pass(15);
    while leeching.give(&mut giver, usize::MAX) > 0 {}
    leeching.pass(3);
    while leeching.give(&mut giver, usize::MAX) > 0 {}
    leeching.pass(3);
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn torrent_of_long_pieces_that_is_removed_in_the_middle_leaves_nothing_behind() {
    for held in [OpKind::Write, OpKind::Read] {
        let mut leeching = leeching();
        leeching.fixture.world.hold(held);
        let mut giver = leeching.giver(2000, FAST);
        leeching.give_all(&mut giver);
        assert!(reserved(&leeching) > 0);
        let info_hash = leeching.fixture.torrent.info_hash();
        leeching.fixture.commands.send(Command::Remove(info_hash)).unwrap();
        leeching.settle();
        leeching.fixture.world.release(held);
        leeching.settle();
        let shard = &leeching.fixture.shard;
        assert_eq!(
            (shard.downloads.len(), shard.assembly.reserved(), shard.writing()),
            (0, 0, 0)
        );
        assert!(!shard.assembly.early.is_reading());
        assert_eq!(shard.counters.pieces_written, 0, "no run that ends after it is a piece");
    }
}
