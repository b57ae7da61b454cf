//! What is late of a peer, and what one that takes over is known for.

use super::*;
use crate::proto::geometry::{BLOCK_LEN, Geometry};

/// A peer and the blocks of a torrent of one long piece.
fn leech_and_blocks(now: Instant) -> (Leech, Vec<BlockRequest>) {
    let geometry = Geometry::new(1 << 20, 1 << 20).unwrap();
    let blocks = geometry.pieces().flat_map(|piece| geometry.blocks(piece)).collect();
    (Leech::new(0, now), blocks)
}

/// What is on its way to us is not to be taken back, and how long that may be is learnt.
#[test]
fn the_farther_away_a_peer_is_the_less_of_what_it_was_asked_for_is_late() {
    let start = Instant::now();
    let (mut leech, blocks) = leech_and_blocks(start);
    // Four blocks a second.
    let mut now = start;
    for _ in 0..8 {
        now += Duration::from_millis(250);
        leech.depth.on_block(BLOCK_LEN, now);
    }
    blocks[..12].iter().for_each(|block| leech.on_asked(*block, now));
    leech.nearest = Duration::ZERO;
    for (on_its_way, in_time) in [(250, 1), (500, 2), (1000, 4), (60_000, 4)] {
        leech.on_its_way = Duration::from_millis(on_its_way);
        let late: Vec<BlockRequest> = leech.late(now).collect();
        let expected: Vec<BlockRequest> = blocks[in_time..12].iter().rev().copied().collect();
        assert_eq!(late, expected, "{on_its_way} ms");
    }
    // The way there and back counts as well.
    leech.on_its_way = LATE_MIN;
    leech.nearest = Duration::from_millis(500);
    assert_eq!(leech.late(now).count(), 12 - 3);
}

/// It would be asked for one block each time for ever.
#[test]
fn who_takes_over_a_little_each_tick_is_known_by_what_it_sends_of_that() {
    let mut now = Instant::now();
    let (mut leech, blocks) = leech_and_blocks(now);
    leech.hungry = true;
    leech.nearest = Duration::from_millis(100);
    assert_eq!(leech.could_take(now), 1, "nothing is known of it");
    for block in blocks.chunks(2).take(20) {
        leech.on_relief(block.iter().copied(), now);
        now += Duration::from_millis(100);
        for block in block {
            assert!(leech.on_own(block, now));
        }
    }
    assert_eq!(leech.could_take(now), 7, "20 blocks a second");
}

#[test]
fn who_has_sent_nothing_for_two_seconds_is_silent_and_who_sends_is_not_however_long_its_queue() {
    let start = Instant::now();
    let (mut leech, blocks) = leech_and_blocks(start);
    let after = |millis| start + Duration::from_millis(millis);
    let is_silent = |leech: &Leech, at| leech.is_silent(Duration::from_secs(2), at);
    assert!(!is_silent(&leech, after(5000)), "it was asked for nothing");
    blocks[..12].iter().for_each(|block| leech.on_asked(*block, start));
    assert!(!is_silent(&leech, after(1999)) && is_silent(&leech, after(2000)));
    // Two blocks a second.
    for (block, millis) in blocks.iter().zip((500..=4000).step_by(500)) {
        assert!(leech.on_own(block, after(millis)));
    }
    assert!(!is_silent(&leech, after(4000)));
    // And none any more.
    assert!(!is_silent(&leech, after(5999)) && is_silent(&leech, after(6000)));
}

/// It takes a second for each, whether it is asked for one or many: so its rate is that of what it is asked for.
#[test]
fn who_is_far_away_takes_over_more_each_time_until_something_is_taken_from_it() {
    let mut now = Instant::now();
    let (mut leech, blocks) = leech_and_blocks(now);
    leech.hungry = true;
    let mut left = blocks.iter().copied();
    let mut taken = Vec::new();
    for _ in 0..4 {
        let could = leech.could_take(now);
        let next: Vec<BlockRequest> = left.by_ref().take(could).collect();
        leech.on_relief(next.iter().copied(), now);
        now += Duration::from_millis(100);
        assert_eq!(
            leech.late(now).count(),
            0,
            "it is given time for what it has taken over"
        );
        now += Duration::from_millis(900);
        for block in &next {
            leech.on_own(block, now);
        }
        taken.push(could);
    }
    assert_eq!(taken, [1, 2, 4, 5], "as many as anybody has");
    let next = left.next().unwrap();
    leech.on_relief([next].into_iter(), now);
    leech.no_longer(&next);
    for _ in 0..2 {
        now += Duration::from_millis(500);
        leech.depth.on_tick(true, now);
    }
    assert_eq!(leech.could_take(now), 1);
}
