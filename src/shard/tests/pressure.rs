//! When buffers are fewer than what is wanted: everybody is served, and nobody keeps them for long.

use super::*;

#[test]
fn who_sends_nothing_gives_its_buffers_to_those_who_wait_and_is_kept() {
    let mut fixture = Fixture::single(4_000_000, 2);
    let mut slow = fixture.unchoked(PLAIN);
    fixture.world.set_room(slow.id, Some(0));
    fixture.request(&slow, 0, 0, 16384);
    fixture.request(&slow, 4, 0, 16384);
    fixture.settle();
    let mut hungry = fixture.unchoked(PLAIN);
    fixture.request(&hungry, 20, 0, 16384);
    fixture.pass(0.5);
    fixture.hear(&mut hungry);
    assert!(hungry.blocks.is_empty(), "both buffers are held");
    fixture.pass(0.7);
    fixture.pass(0.2);
    fixture.hear(&mut hungry);
    assert_eq!(hungry.blocks.len(), 1);
    fixture.check(&hungry);
    assert_eq!(fixture.shard.counters.reclaimed_sends, 1);
    fixture.world.set_room(slow.id, None);
    fixture.settle();
    fixture.hear(&mut slow);
    assert_eq!(slow.blocks.len(), 2);
    fixture.check(&slow);
    assert!(fixture.drops().is_empty());
}

#[test]
fn peers_that_take_a_few_bytes_now_and_then_do_not_keep_the_buffers() {
    let mut fixture = Fixture::single(16 * EXTENT_LEN as usize, 4);
    let mut slow: Vec<Far> = (0..4).map(|_| fixture.unchoked(FAST)).collect();
    for (far, first) in slow.iter().zip((0..).step_by(4)) {
        fixture.world.set_room(far.id, Some(0));
        for extent in first..first + 4 {
            fixture.request(far, extent * (EXTENT_LEN / PIECE_LEN), 0, 16384);
        }
    }
    let mut hungry = fixture.unchoked(FAST);
    let count = fixture.request_all(&hungry);
    for _ in 0..200 {
        for far in &slow {
            fixture.world.set_room(far.id, Some(100));
        }
        fixture.pass(0.5);
    }
    fixture.hear(&mut hungry);
    assert_eq!(hungry.blocks.len(), count);
    fixture.check(&hungry);
    assert!(fixture.shard.counters.reclaimed_sends > 0);
    for far in &slow {
        fixture.world.set_room(far.id, None);
    }
    for _ in 0..200 {
        fixture.settle();
    }
    assert!(fixture.drops().is_empty(), "{:?}", fixture.drops());
    for far in &mut slow {
        fixture.hear(far);
        assert_eq!(far.blocks.len(), 4, "each is answered once");
        fixture.check(far);
    }
}

/// A fixture of two buffers, both held by a peer that takes nothing and to whom one block was given back after its send was
/// cancelled, and another that has got one of them.
fn after_a_reclaim(reserved: Reserved) -> (Fixture, Far) {
    let mut fixture = Fixture::single(4_000_000, 2);
    let slow = fixture.unchoked(reserved);
    fixture.world.set_room(slow.id, Some(100));
    for piece in [0, 4] {
        fixture.request(&slow, piece, 0, 16384);
    }
    fixture.settle();
    let mut hungry = fixture.unchoked(FAST);
    fixture.request(&hungry, 20, 0, 16384);
    for _ in 0..4 {
        fixture.pass(0.5);
    }
    fixture.hear(&mut hungry);
    assert_eq!(hungry.blocks.len(), 1);
    (fixture, slow)
}

#[test]
fn block_that_was_given_back_can_be_cancelled() {
    let (mut fixture, mut slow) = after_a_reclaim(FAST);
    let (piece, begin, length) = (4, 0, 16384);
    fixture.say(&slow, &Message::Cancel { piece, begin, length });
    fixture.settle();
    fixture.world.set_room(slow.id, None);
    fixture.settle();
    fixture.hear(&mut slow);
    assert_eq!(slow.blocks.len(), 1);
    assert_eq!(slow.said, ["Reject { piece: 4, begin: 0, length: 16384 }"]);
    fixture.check(&slow);
}

#[test]
fn block_that_was_given_back_and_is_asked_for_again_is_sent_once() {
    let (mut fixture, mut slow) = after_a_reclaim(PLAIN);
    fixture.request(&slow, 4, 0, 16384);
    fixture.settle();
    fixture.world.set_room(slow.id, None);
    fixture.settle();
    fixture.hear(&mut slow);
    assert_eq!(slow.blocks.len(), 2);
    fixture.check(&slow);
}

#[test]
fn peer_choked_while_its_send_is_cancelled_is_sent_what_was_begun_and_no_more() {
    for (reserved, rejects) in [(FAST, 1), (PLAIN, 0)] {
        let mut fixture = Fixture::single(4_000_000, 2);
        let mut slow = fixture.unchoked(reserved);
        fixture.world.set_room(slow.id, Some(100));
        for piece in [0, 4] {
            fixture.request(&slow, piece, 0, 16384);
        }
        fixture.settle();
        let owner = fixture.shard.conns.iter().next().unwrap().0;
        let hungry = fixture.unchoked(FAST);
        fixture.request(&hungry, 20, 0, 16384);
        fixture.settle();
        // The send is cancelled in this turn and ends in the next; in between the peer is choked.
        fixture.now.set(fixture.now.get() + Duration::from_secs(2));
        fixture.turn();
        fixture.shard.choke(owner);
        fixture.settle();
        fixture.world.set_room(slow.id, None);
        fixture.settle();
        fixture.hear(&mut slow);
        assert_eq!(slow.blocks.len(), 1);
        let rejected = slow.said.iter().filter(|said| said.starts_with("Reject")).count();
        assert_eq!(rejected, rejects);
        fixture.check(&slow);
    }
}

#[test]
fn who_takes_nothing_at_all_is_dropped_however_often_its_send_is_cancelled() {
    let mut fixture = Fixture::single(4_000_000, 1);
    let dead = fixture.unchoked(PLAIN);
    fixture.world.set_room(dead.id, Some(0));
    fixture.request(&dead, 0, 0, 16384);
    fixture.settle();
    let mut hungry = fixture.unchoked(FAST);
    for piece in (0..124).cycle().take(124) {
        fixture.request(&hungry, piece % 61, piece / 61 * 16384, 16384);
        fixture.pass(0.5);
        fixture.hear(&mut hungry);
    }
    assert_eq!(fixture.drops(), ["stalled"]);
    assert!(fixture.shard.counters.reclaimed_sends > 1);
}

#[test]
fn few_buffers_serve_many_peers() {
    let mut fixture = Fixture::single(8 * EXTENT_LEN as usize, 1);
    let mut peers: Vec<Far> = (0..20).map(|_| fixture.unchoked(FAST)).collect();
    let counts: Vec<usize> = peers.iter().map(|far| fixture.request_all(far)).collect();
    for _ in 0..200 {
        fixture.settle();
    }
    for (far, count) in peers.iter_mut().zip(counts) {
        fixture.hear(far);
        assert_eq!(far.blocks.len(), count);
        fixture.check(far);
    }
    assert!(fixture.shard.counters.cache_full > 0);
}

#[test]
fn peers_with_one_request_each_are_all_served_through_one_buffer() {
    let mut fixture = Fixture::single(8 * EXTENT_LEN as usize, 1);
    let mut peers: Vec<Far> = (0..8).map(|_| fixture.unchoked(FAST)).collect();
    for (extent, far) in (0..).zip(&peers) {
        fixture.request(far, extent * (EXTENT_LEN / PIECE_LEN), 0, 16384);
    }
    fixture.settle();
    for far in &mut peers {
        fixture.hear(far);
        assert_eq!(far.blocks.len(), 1);
        fixture.check(far);
    }
}

#[test]
fn peers_that_ask_again_at_once_do_not_starve_those_who_wait() {
    let mut fixture = Fixture::single(16 * EXTENT_LEN as usize, 2);
    let pieces_in_extent = EXTENT_LEN / PIECE_LEN;
    let mut peers: Vec<Far> = (0..16).map(|_| fixture.unchoked(FAST)).collect();
    for (extent, far) in (0..).zip(&peers) {
        fixture.request(far, extent * pieces_in_extent, 0, 16384);
    }
    let mut asked = [1; 16];
    for _ in 0..200 {
        fixture.turn();
        for (index, far) in peers.iter_mut().enumerate() {
            fixture.hear(far);
            // Another block of another extent for each that came.
            if far.blocks.len() == asked[index] && asked[index] < 8 {
                let extent = (index as u32 + asked[index] as u32) % 16;
                fixture.request(far, extent * pieces_in_extent, 0, 16384);
                asked[index] += 1;
            }
        }
        let (least, most) = (asked.iter().min().unwrap(), asked.iter().max().unwrap());
        assert!(most - least <= 3, "{asked:?}");
    }
    assert_eq!(asked, [8; 16]);
}

#[test]
fn peers_that_want_the_same_extent_share_one_read() {
    let mut fixture = Fixture::single(EXTENT_LEN as usize, 4);
    let mut peers: Vec<Far> = (0..5).map(|_| fixture.unchoked(PLAIN)).collect();
    for far in &peers {
        fixture.request(far, 0, 0, 16384);
    }
    fixture.settle();
    for far in &mut peers {
        fixture.hear(far);
        assert_eq!(far.blocks.len(), 1);
    }
    assert_eq!(fixture.world.reads(), 1);
}

#[test]
fn blocks_across_extents_do_not_wait_for_each_other_for_ever() {
    // Pieces of 48 KiB: every third begins in one extent and ends in the next.
    let files = vec![("payload".to_owned(), bytes(12 * EXTENT_LEN as usize, 3), false)];
    let mut fixture = Fixture::new(files, 48 * 1024, 2);
    let mut peers: Vec<Far> = (0..6).map(|_| fixture.unchoked(FAST)).collect();
    fixture.world.shuffle(99);
    let counts: Vec<usize> = peers.iter().map(|far| fixture.request_all(far)).collect();
    for _ in 0..200 {
        fixture.settle();
    }
    for (far, count) in peers.iter_mut().zip(counts) {
        fixture.hear(far);
        assert_eq!(far.blocks.len(), count);
        fixture.check(far);
    }
}

#[test]
fn many_peers_that_ask_for_little_are_gathered_and_few_are_not() {
    for (peers, at_least) in [(20, GATHER_WAIT), (4, Duration::ZERO)] {
        let mut fixture = Fixture::single(400_000, 64);
        let fars: Vec<Far> = (0..peers).map(|_| fixture.unchoked(FAST)).collect();
        fixture.pass(0.1);
        // Three thousand turns a second, each with a block.
        for turn in 0..600 {
            fixture.now.set(fixture.now.get() + Duration::from_micros(333));
            fixture.request(&fars[turn % peers], (turn % 6) as u32, 0, BLOCK_LEN);
            fixture.turn();
        }
        fixture.settle();
        assert_eq!(fixture.shard.wait().at_least, at_least, "{peers} peers");
        assert_eq!(
            fixture.shard.counters.gathering_now == 1,
            !at_least.is_zero(),
            "it says so"
        );
        fixture.pass(0.1);
        fixture.pass(1.0);
        assert!(fixture.shard.wait().at_least.is_zero(), "nobody asks any more");
        assert_eq!(fixture.shard.counters.gathering_now, 0, "and that");
    }
}
