//! Files with several names.

use super::*;

/// Another torrent of the same file, and a peer of it.
fn twin(fixture: &mut Fixture) -> (Arc<Torrent>, Far) {
    let other = Fixture::new(vec![("twin".to_owned(), fixture.payload.clone(), false)], PIECE_LEN, 1);
    fixture.world.file("twin", &fixture.payload);
    fixture.world.set_inode("payload", 5);
    fixture.world.set_inode("twin", 5);
    fixture.shard.add(other.torrent.clone());
    let own = std::mem::replace(&mut fixture.torrent, other.torrent.clone());
    let far = fixture.unchoked(FAST);
    fixture.torrent = own;
    (other.torrent, far)
}

#[test]
fn two_names_of_one_file_are_cached_once() {
    let contents = bytes(3 * EXTENT_LEN as usize, 3);
    let files = ["a", "b"].map(|name| (name.to_owned(), contents.clone(), false));
    let mut fixture = Fixture::new(files.into(), PIECE_LEN, 32);
    fixture.world.set_inode("folder/a", 5);
    fixture.world.set_inode("folder/b", 5);
    for _ in 0..2 {
        let mut far = fixture.unchoked(FAST);
        fixture.download(&mut far);
    }
    assert_eq!(fixture.world.reads(), 3);
}

#[test]
fn torrent_that_has_less_of_a_file_does_not_spoil_it_for_one_that_has_more() {
    let mut fixture = Fixture::single(300_000, 8);
    let short = vec![("twin".to_owned(), fixture.payload[..200_000].to_vec(), false)];
    let other = Fixture::new(short, PIECE_LEN, 1);
    fixture.world.file("twin", &fixture.payload);
    fixture.world.set_inode("payload", 5);
    fixture.world.set_inode("twin", 5);
    fixture.shard.add(other.torrent.clone());
    let long = std::mem::replace(&mut fixture.torrent, other.torrent);
    let few = fixture.unchoked(FAST);
    fixture.torrent = long;
    let mut all = fixture.unchoked(FAST);
    // Both are open, so that it is known which file they are.
    fixture.request(&few, 0, 0, BLOCK_LEN);
    fixture.request(&all, 0, 0, BLOCK_LEN);
    fixture.settle();
    fixture.request(&few, 2, 0, BLOCK_LEN);
    fixture.settle();
    fixture.hear(&mut all);
    fixture.download(&mut all);
}

#[test]
fn torrent_that_leaves_does_not_take_along_what_its_twin_waits_for() {
    let mut fixture = Fixture::single(300_000, 8);
    let (torrent, mut far) = twin(&mut fixture);
    let own = fixture.unchoked(FAST);
    // Both names are known to be one file from here on.
    for (torrent, far) in [(&fixture.torrent.clone(), &own), (&torrent, &far)] {
        fixture.torrent = torrent.clone();
        fixture.request(far, 0, 0, 1);
        fixture.settle();
    }
    fixture.world.hold(OpKind::Read);
    fixture.request(&own, 4, 0, BLOCK_LEN);
    fixture.settle();
    let count = 1 + fixture.request_all(&far);
    fixture.settle();
    fixture.shard.remove(own_hash(&fixture, &torrent));
    fixture.settle();
    fixture.world.release(OpKind::Read);
    fixture.pass(0.2);
    fixture.pass(0.2);
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), count);
    fixture.check(&far);
}

/// The info-hash of the torrent that is not the twin.
fn own_hash(fixture: &Fixture, twin: &Torrent) -> InfoHash {
    *fixture
        .shard
        .torrents
        .keys()
        .find(|info_hash| **info_hash != twin.info_hash())
        .expect("two torrents")
}

#[test]
fn more_reads_than_a_device_takes_are_all_served() {
    let mut fixture = Fixture::single(200 * EXTENT_LEN as usize, 220);
    fixture.world.hold(OpKind::Read);
    let mut fars: Vec<Far> = (0..40).map(|_| fixture.unchoked(FAST)).collect();
    for (i, far) in (0..).zip(&fars) {
        // Each in an extent of its own.
        for block in 0..4 {
            fixture.request(far, 10 * i + 2 * block, 0, BLOCK_LEN);
        }
    }
    fixture.settle();
    // As many as are begun on a device that nothing is known of.
    assert_eq!(fixture.shard.driver.in_flight() - 2 - fars.len(), 32);
    assert_eq!(fixture.shard.disk.reads_waiting(), 160 - 32);
    fixture.world.release(OpKind::Read);
    fixture.settle();
    for far in &mut fars {
        fixture.hear(far);
        assert_eq!(far.blocks.len(), 4);
        fixture.check(far);
    }
    assert_eq!(fixture.shard.disk.reads_waiting(), 0);
}

#[test]
fn file_that_was_changed_after_it_was_checked_is_not_served_and_to_be_checked_again() {
    let files = ["a", "b"].map(|name| (name.to_owned(), bytes(2 * PIECE_LEN as usize, 3), false));
    let mut fixture = Fixture::new(files.into(), PIECE_LEN, 32);
    fixture.world.set_modified("folder/b", 1);
    let mut far = fixture.unchoked(FAST);
    fixture.request_all(&far);
    fixture.settle();
    assert!(fixture.torrent.is_changed());
    assert_eq!(fixture.torrent.have_count(), 2);
    fixture.hear(&mut far);
    let blocks_per_piece = (PIECE_LEN / BLOCK_LEN) as usize;
    assert_eq!(far.blocks.len(), 2 * blocks_per_piece);
    assert!(far.blocks.iter().all(|(piece, ..)| *piece < 2));
    assert_eq!(
        far.said.iter().filter(|said| said.starts_with("Reject")).count(),
        2 * blocks_per_piece
    );
}

#[test]
fn extents_are_read_ahead_for_who_goes_through_a_piece_in_order_and_for_nobody_else() {
    const EXTENTS: u32 = 8;
    let in_order: Vec<u32> = (0..EXTENTS * EXTENT_LEN / BLOCK_LEN).collect();
    let back: Vec<u32> = in_order.iter().rev().copied().collect();
    for (order, ahead) in [(in_order, EXTENTS - 2), (back, 0)] {
        let contents = bytes((2 * EXTENTS * EXTENT_LEN) as usize, 3);
        let files = vec![("payload".to_owned(), contents, false)];
        let mut fixture = Fixture::new(files, EXTENTS * EXTENT_LEN, 32);
        let mut far = fixture.unchoked(FAST);
        for block in order {
            fixture.request(&far, 0, block * BLOCK_LEN, BLOCK_LEN);
            fixture.settle();
        }
        fixture.hear(&mut far);
        assert_eq!(far.blocks.len() as u32, EXTENTS * EXTENT_LEN / BLOCK_LEN);
        fixture.check(&far);
        assert_eq!(fixture.shard.counters.disk_reads_ahead, u64::from(ahead));
        assert_eq!(fixture.world.reads(), u64::from(EXTENTS), "the next piece is not begun");
    }
}

#[test]
fn name_whose_file_was_replaced_leaves_the_other_names_of_it_alone() {
    let mut fixture = Fixture::single(300_000, 16);
    let (torrent, mut far) = twin(&mut fixture);
    let own = fixture.unchoked(FAST);
    let own_torrent = std::mem::replace(&mut fixture.torrent, torrent);
    fixture.request(&own, 0, 0, BLOCK_LEN);
    fixture.request(&far, 0, 0, BLOCK_LEN);
    fixture.settle();
    // An error closes the file; when it is opened again, it is another one.
    fixture.world.set_modified("payload", 1);
    fixture.world.set_inode("payload", 6);
    fixture.world.fail_next(OpKind::Read, Errno::IO);
    fixture.request(&own, 2, 0, BLOCK_LEN);
    fixture.settle();
    assert!(own_torrent.is_changed());
    assert!(!own_torrent.has(own_torrent.geometry().piece_index(2).unwrap()));
    let count = 1 + fixture.request_all(&far);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), count);
    fixture.check(&far);
    assert!(fixture.torrent.is_complete() && !fixture.torrent.is_changed());
}

#[test]
fn where_heads_move_the_rest_of_the_stretch_is_read_with_what_was_missed() {
    const EXTENTS: u32 = 20;
    let files = vec![("a".to_owned(), bytes((EXTENTS * EXTENT_LEN) as usize, 3), false)];
    let mut fixture = Fixture::new(files, EXTENTS * EXTENT_LEN / 2, 128);
    fixture.shard.disk.make_seek();
    let mut far = fixture.unchoked(FAST);
    let mut reads_for = |begin| {
        let before = fixture.world.reads();
        fixture.request(&far, 0, begin, BLOCK_LEN);
        fixture.settle();
        fixture.hear(&mut far);
        fixture.check(&far);
        fixture.world.reads() - before
    };
    assert_eq!(
        reads_for(9 * EXTENT_LEN),
        1,
        "whether it seeks is known once it is open"
    );
    assert_eq!(reads_for(BLOCK_LEN), 8, "1 MiB");
    assert_eq!(reads_for(7 * EXTENT_LEN), 0);
    assert_eq!(
        reads_for(8 * EXTENT_LEN),
        1,
        "what is there is not read again, nor what the next piece has"
    );
}

#[test]
fn stretch_goes_to_the_end_of_its_piece_wherever_it_begins() {
    const EXTENTS: u32 = 4;
    let files = vec![("a".to_owned(), bytes((EXTENTS * EXTENT_LEN) as usize, 3), false)];
    // A piece and a half, the first of three extents and a half.
    let mut fixture = Fixture::new(files, EXTENTS * EXTENT_LEN - EXTENT_LEN / 2, 64);
    fixture.shard.disk.make_seek();
    let mut far = fixture.unchoked(FAST);
    fixture.request(&far, 0, 0, BLOCK_LEN);
    fixture.settle();
    fixture.request(&far, 0, 2 * EXTENT_LEN - BLOCK_LEN, BLOCK_LEN);
    fixture.settle();
    assert_eq!(fixture.world.reads(), u64::from(EXTENTS));
    fixture.hear(&mut far);
    fixture.check(&far);
}

#[test]
fn what_is_read_ahead_of_a_scan_does_not_push_out_what_several_want() {
    const POPULAR: u32 = 16;
    let len = 128 * EXTENT_LEN;
    let files = vec![("a".to_owned(), bytes(len as usize, 3), false)];
    let mut fixture = Fixture::new(files, 8 * EXTENT_LEN, 64);
    fixture.shard.disk.make_seek();
    let take = |fixture: &mut Fixture, extents: std::ops::Range<u32>| {
        let mut far = fixture.unchoked(FAST);
        for extent in extents {
            for block in 0..EXTENT_LEN / BLOCK_LEN {
                let begin = extent % 8 * EXTENT_LEN + block * BLOCK_LEN;
                fixture.request(&far, extent / 8, begin, BLOCK_LEN);
            }
            fixture.settle();
        }
        fixture.hear(&mut far);
        fixture.check(&far);
    };
    take(&mut fixture, 0..POPULAR);
    take(&mut fixture, 0..POPULAR);
    take(&mut fixture, POPULAR..128);
    assert!(fixture.shard.counters.disk_reads_ahead > 64);
    let before = fixture.world.reads();
    take(&mut fixture, 0..POPULAR);
    assert_eq!(fixture.world.reads(), before, "what two wanted is still there");
}

#[test]
fn stretches_of_many_peers_are_short_enough_to_be_there_when_they_are_asked_for() {
    const PEERS: u32 = 40;
    let files = vec![("a".to_owned(), bytes((PEERS * 16 * EXTENT_LEN) as usize, 3), false)];
    let mut fixture = Fixture::new(files, 16 * EXTENT_LEN, 256);
    fixture.shard.disk.make_seek();
    let mut fars: Vec<Far> = (0..PEERS).map(|_| fixture.unchoked(FAST)).collect();
    fixture.pass(0.2);
    for block in 0..16 * EXTENT_LEN / BLOCK_LEN {
        for (piece, far) in (0..).zip(&fars) {
            fixture.request(far, piece, block * BLOCK_LEN, BLOCK_LEN);
        }
        fixture.turn();
        fixture.turn();
    }
    fixture.settle();
    for far in &mut fars {
        fixture.hear(far);
        assert_eq!(far.blocks.len() as u32, 16 * EXTENT_LEN / BLOCK_LEN);
    }
    assert_eq!(fixture.world.reads(), u64::from(PEERS * 16), "each extent is read once");
}

#[test]
fn padding_is_not_read_ahead() {
    let len = 2 * EXTENT_LEN as usize;
    let files = vec![
        ("a".to_owned(), bytes(len, 3), false),
        (".pad/1".to_owned(), vec![0; 2 * len], true),
    ];
    let mut fixture = Fixture::new(files, 3 * len as u32, 32);
    let mut far = fixture.unchoked(FAST);
    for begin in (0..3 * len as u32).step_by(BLOCK_LEN as usize) {
        fixture.request(&far, 0, begin, BLOCK_LEN);
        fixture.settle();
    }
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), 3 * len / BLOCK_LEN as usize);
    fixture.check(&far);
    assert_eq!(fixture.shard.counters.disk_errors, 0);
}

#[test]
fn file_that_is_changed_while_it_is_open_is_found_out_within_the_minute() {
    let mut fixture = Fixture::single(20 * EXTENT_LEN as usize, 4);
    let mut far = fixture.unchoked(FAST);
    let served = |fixture: &mut Fixture, far: &mut Far, extent: u32| {
        let before = far.blocks.len();
        fixture.request(far, extent * (EXTENT_LEN / PIECE_LEN), 0, BLOCK_LEN);
        fixture.settle();
        fixture.hear(far);
        far.blocks.len() > before
    };
    fixture.pass(0.2);
    assert!(served(&mut fixture, &mut far, 0));
    fixture.world.set_modified("payload", 5);
    fixture.pass(20.0);
    assert!(served(&mut fixture, &mut far, 1), "nobody knows yet");
    fixture.pass(16.0);
    assert!(!served(&mut fixture, &mut far, 2));
    assert!(fixture.torrent.is_changed() && fixture.torrent.have_count() == 0);
}

#[test]
fn file_that_nobody_reads_is_closed_and_opened_again_for_who_does() {
    let mut fixture = Fixture::single(20 * EXTENT_LEN as usize, 4);
    let mut far = fixture.unchoked(FAST);
    fixture.pass(0.2);
    fixture.request(&far, 0, 0, BLOCK_LEN);
    fixture.settle();
    assert_eq!(fixture.shard.disk.open_files(), 1);
    fixture.pass(36.0);
    assert_eq!(
        fixture.shard.disk.open_files(),
        0,
        "one that was removed gives its room back"
    );
    fixture.request(&far, 20, 0, BLOCK_LEN);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!((far.blocks.len(), fixture.shard.disk.open_files()), (2, 1));
    fixture.check(&far);
}

#[test]
fn file_opened_for_a_torrent_that_has_left_is_forgotten() {
    let mut fixture = Fixture::single(100_000, 8);
    fixture.world.hold(OpKind::Open);
    let far = fixture.unchoked(FAST);
    fixture.request_all(&far);
    fixture.settle();
    let info_hash = fixture.torrent.info_hash();
    fixture.shard.remove(info_hash);
    fixture.world.release(OpKind::Open);
    fixture.settle();
    assert_eq!(fixture.shard.disk.known_files(), 0);
    assert_eq!(fixture.shard.driver.pool().free(), 8);
}
