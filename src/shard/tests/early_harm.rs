//! What can go wrong with pieces that are written as they come: liars, disks that take or give nothing for a while, and
//! memory that somebody else has.

use super::fixture::FAST;
use super::leeching::{Giver, Leeching};
use super::*;
use crate::proto::bitfield::Bitfield;
use crate::storage::PART_SUFFIX;

const LONG: u32 = 2 << 20;
const BUFFER: u64 = 1 << 20;
const LEN: usize = 3 * LONG as usize + 100_001;

fn leeching() -> Leeching {
    Leeching::of_pieces(LEN, LONG, BUFFER)
}

/// What lies in the files of a torrent of many, one after the other; zeros for pad files.
fn contents(leeching: &Leeching) -> Vec<u8> {
    let files = &leeching.fixture.torrent.meta().files;
    let read = |path: &str| leeching.fixture.world.contents(&format!("{path}{PART_SUFFIX}"));
    let bytes = files.iter().map(|file| match file.pad {
        true => vec![0; file.len as usize],
        false => read(file.path.as_str()).expect("the file"),
    });
    bytes.collect::<Vec<_>>().concat()
}

fn heard(leeching: &Leeching, what: &str) -> usize {
    leeching.told().iter().filter(|told| told.starts_with(what)).count()
}

/// Lets a peer answer until a piece is read back, and holds that.
fn give_until_read_back(leeching: &mut Leeching, giver: &mut Giver) {
    leeching.unchoke([&*giver]);
    leeching.fixture.world.hold(OpKind::Read);
    while !leeching.fixture.shard.assembly.early.is_reading() {
        assert!(leeching.give(giver, 1) > 0);
    }
}

/// Lets a peer answer until everything is there, for a few seconds.
fn give_the_rest(leeching: &mut Leeching, giver: &mut Giver) {
    leeching.unchoke([&*giver]);
    for _ in 0..60 {
        while leeching.give(giver, usize::MAX) > 0 {}
        if leeching.is_complete() {
            return;
        }
        leeching.pass(1);
    }
    panic!("not complete: {:?}", leeching.told());
}

/// Blocks over many small files are gathered and kept each by itself: they must not outlive what they were read of.
#[test]
fn what_a_liar_gave_for_many_small_files_is_not_held_against_an_honest_peer() {
    let small = |at: u64| (format!("small/{at}"), bytes(1024, at + 2), false);
    let mut files: Vec<_> = (0..200).map(small).collect();
    files.push(("rest".to_owned(), bytes(LONG as usize - 200 * 1024, 1), false));
    // All that is read back of the piece stays in memory.
    let mut leeching = Leeching::with_buffers(files, LONG, BUFFER, 64);
    let mut liar = leeching.giver(2000, FAST);
    liar.lies = true;
    leeching.give_all(&mut liar);
    for _ in 0..200 {
        // Writes to so many files take their time, and it is asked for no more than there is memory for.
        match heard(&leeching, "Banned") {
            0 => _ = leeching.give(&mut liar, usize::MAX),
            _ => leeching.settle(),
        }
    }
    assert_eq!(heard(&leeching, "Banned"), 1);
    let mut honest = leeching.giver(2001, FAST);
    give_the_rest(&mut leeching, &mut honest);
    assert_eq!(heard(&leeching, "Banned"), 1, "{:?}", leeching.told());
    assert!(contents(&leeching) == leeching.fixture.payload);
}

/// A run is refused, and before the disk takes it another piece turns out to be unreadable.
#[test]
fn write_that_was_refused_is_tried_again_though_a_piece_could_not_be_read_meanwhile() {
    let mut leeching = leeching();
    let world = leeching.fixture.world.clone();
    let mut giver = leeching.giver(2000, FAST);
    give_until_read_back(&mut leeching, &mut giver);
    world.fail_next(OpKind::Write, Errno::IO);
    while heard(&leeching, "Stalled") == 0 {
        assert!(leeching.give(&mut giver, 1) > 0);
    }
    world.fail_next(OpKind::Read, Errno::IO);
    world.fail_next(OpKind::Read, Errno::IO);
    world.release(OpKind::Read);
    leeching.settle();
    assert!(!leeching.fixture.shard.assembly.early.is_reading());
    leeching.pass(65);
    give_the_rest(&mut leeching, &mut giver);
    assert!(leeching.file() == leeching.fixture.payload);
}

/// Downloads another torrent of long pieces too; peers ask for that from now on.
fn add_long(leeching: &mut Leeching, name: &str) -> (Arc<Torrent>, Vec<u8>) {
    let other = Fixture::new(vec![(name.to_owned(), bytes(LEN, 77), false)], LONG, 1);
    let meta = other.torrent.meta().clone();
    let none = Bitfield::new(meta.geometry.piece_count());
    let root = leeching.fixture.torrent.root().clone();
    let torrent = Torrent::to_download(meta, root, &none, &[true], 0);
    let world = &leeching.fixture.world;
    world.file(&format!("{name}{PART_SUFFIX}"), &vec![0; LEN]);
    leeching.fixture.shard.add(torrent.clone());
    (
        std::mem::replace(&mut leeching.fixture.torrent, torrent),
        std::mem::replace(&mut leeching.fixture.payload, other.payload),
    )
}

#[test]
fn torrent_whose_disk_is_dead_makes_way_for_another_of_long_pieces() {
    let mut leeching = leeching();
    let part = format!("payload{PART_SUFFIX}");
    leeching.fixture.world.remove_file(&part);
    let mut givers: Vec<Giver> = (0..3).map(|at| leeching.giver(2000 + at, FAST)).collect();
    leeching.unchoke(&givers);
    while givers.iter_mut().map(|giver| leeching.give(giver, 5)).sum::<usize>() > 0 {}
    assert!(heard(&leeching, "Gone") > 0, "{:?}", leeching.told());
    let room = leeching.fixture.shard.assembly.room_early();
    assert_eq!(room.0, 0, "the dead one has the memory");
    let _dead = add_long(&mut leeching, "other");
    let mut giver = leeching.giver(3000, FAST);
    leeching.say(&giver, &Message::Unchoke);
    for _ in 0..40 {
        leeching.pass(1);
        while leeching.give(&mut giver, usize::MAX) > 0 {}
    }
    assert!(leeching.is_complete(), "{:?}", leeching.told());
}

#[test]
fn pieces_begun_for_peers_that_left_make_way_for_others() {
    let mut leeching = leeching();
    for port in [2000, 2001] {
        let mut giver = giver_of_the_unbegun(&mut leeching, port);
        leeching.give(&mut giver, 1);
        leeching.fixture.world.close(giver.id);
        leeching.settle();
    }
    assert_eq!(leeching.fixture.shard.assembly.room_early().0, 0);
    let mut giver = giver_of_the_unbegun(&mut leeching, 3000);
    for _ in 0..40 {
        while leeching.give(&mut giver, usize::MAX) > 0 {}
        leeching.pass(1);
    }
    assert_eq!(leeching.fixture.torrent.have_count(), 2, "asked {} times", giver.asks);
}

/// A peer that has the pieces which nobody has begun.
fn giver_of_the_unbegun(leeching: &mut Leeching, port: u16) -> Giver {
    let geometry = *leeching.fixture.torrent.geometry();
    let mut has = Bitfield::new(geometry.piece_count());
    let picker = &leeching.fixture.shard.downloads.values().next().unwrap().picker;
    for piece in geometry.pieces().filter(|piece| !picker.is_begun(*piece)) {
        has.set(piece);
    }
    let id = leeching.fixture.world.connect(SocketAddr::from(([127, 0, 0, 1], port)));
    let giver = leeching.greet_with(id, port, FAST, &has);
    leeching.unchoke([&giver]);
    giver
}

/// Who has had nothing to do for a while helps with what others were asked for, and does not take up more memory.
#[test]
fn idle_peers_take_no_more_memory_than_there_is_while_a_disk_is_slow() {
    let mut leeching = Leeching::of_pieces(LONG as usize, LONG, BUFFER);
    let world = leeching.fixture.world.clone();
    let mut givers: Vec<Giver> = (0..20).map(|at| leeching.giver(2000 + at, FAST)).collect();
    world.hold(OpKind::Write);
    givers.iter().for_each(|giver| leeching.say(giver, &Message::Unchoke));
    for _ in 0..10 {
        for giver in &mut givers {
            while leeching.give(giver, usize::MAX) > 0 {}
        }
        leeching.pass(1);
        let reserved = leeching.fixture.shard.assembly.reserved();
        assert!(reserved <= BUFFER, "{reserved} of {BUFFER}");
    }
    world.release(OpKind::Write);
    for _ in 0..20 {
        for giver in &mut givers {
            while leeching.give(giver, usize::MAX) > 0 {}
        }
        leeching.pass(1);
    }
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
}

/// The disk takes what it is given, and does not give one piece back: that is asked for once a minute, whatever else comes.
#[test]
fn piece_that_cannot_be_read_back_is_not_asked_for_at_once_though_another_is_written() {
    let mut leeching = leeching();
    let world = leeching.fixture.world.clone();
    let mut giver = leeching.giver(2000, FAST);
    give_until_read_back(&mut leeching, &mut giver);
    world.hold(OpKind::Write);
    while leeching.fixture.shard.writing() == 0 {
        assert!(leeching.give(&mut giver, 1) > 0);
    }
    world.fail_next(OpKind::Read, Errno::IO);
    world.fail_next(OpKind::Read, Errno::IO);
    world.release(OpKind::Read);
    leeching.settle();
    assert_eq!(heard(&leeching, "Stalled"), 1);
    world.release(OpKind::Write);
    leeching.settle();
    leeching.hear(&mut giver);
    let asks = giver.asks;
    leeching.pass(50);
    leeching.hear(&mut giver);
    assert_eq!((heard(&leeching, "Resumed"), giver.asks), (0, asks));
    leeching.pass(15);
    assert_eq!(heard(&leeching, "Resumed"), 1);
    give_the_rest(&mut leeching, &mut giver);
    assert!(leeching.file() == leeching.fixture.payload);
}

/// A run lies in two files. One stretch of it is refused and the run given up, while the other is still on its way.
#[test]
fn piece_that_was_given_up_is_not_written_anew_before_what_was_under_way_has_ended() {
    const SMALL: usize = 1000;
    let files = vec![
        ("small".to_owned(), bytes(SMALL, 2), false),
        ("rest".to_owned(), bytes(LONG as usize - SMALL, 3), false),
    ];
    let mut leeching = Leeching::of_files(files, LONG, BUFFER);
    let world = leeching.fixture.world.clone();
    let small = format!("{}{PART_SUFFIX}", leeching.fixture.torrent.meta().files[0].path);
    world.remove_file(&small);
    world.hold(OpKind::Write);
    let mut old = leeching.giver(2000, FAST);
    leeching.unchoke([&old]);
    let stuck = |leeching: &Leeching| leeching.fixture.shard.downloads.values().next().unwrap().stuck.clone();
    while stuck(&leeching).is_empty() {
        assert!(leeching.give(&mut old, 1) > 0);
    }
    let writes = leeching.fixture.shard.counters.disk_writes;
    assert!(writes > 0, "one stretch is under way");
    // As if memory were short.
    let shard = &mut leeching.fixture.shard;
    let number = *shard.downloads.keys().next().unwrap();
    for span in std::mem::take(&mut shard.downloads.get_mut(&number).unwrap().stuck) {
        if let Some((piece, run)) = shard.writes.give_up(span) {
            assert!(shard.on_run_given_up(number, piece, run));
        }
    }
    shard.on_writes();
    world.close(old.id);
    world.file(&small, &[0; SMALL]);
    leeching.pass(65);
    let mut giver = leeching.giver(2001, FAST);
    leeching.unchoke([&giver]);
    while leeching.give(&mut giver, usize::MAX) > 0 {}
    assert!(giver.asks >= 16, "the piece comes anew");
    assert_eq!(leeching.fixture.shard.counters.disk_writes, writes, "nothing overtakes");
    world.release(OpKind::Write);
    leeching.settle();
    give_the_rest(&mut leeching, &mut giver);
    assert!(contents(&leeching) == leeching.fixture.payload);
}

/// A run over padding is written as soon as it is begun: nothing but what came tells that the piece is whole.
#[test]
fn piece_that_ends_in_padding_alone_waits_for_no_tick() {
    const PAD: usize = 256 * 1024;
    let files = vec![
        ("payload".to_owned(), bytes(LONG as usize - PAD, 3), false),
        (".pad/0".to_owned(), vec![0; PAD], true),
    ];
    let mut leeching = Leeching::of_files(files, LONG, BUFFER);
    let mut giver = leeching.giver(2000, FAST);
    leeching.unchoke([&giver]);
    while leeching.give(&mut giver, 1) > 0 {}
    leeching.settle();
    assert!(leeching.is_complete());
    assert!(contents(&leeching) == leeching.fixture.payload);
}

/// All that has come of a piece was a liar's, and who was asked for the rest leaves.
#[test]
fn piece_of_which_nothing_is_left_but_a_liars_blocks_takes_no_memory() {
    let mut leeching = Leeching::of_pieces(LONG as usize, LONG, BUFFER);
    let mut liar = leeching.giver(2000, FAST);
    leeching.unchoke([&liar]);
    leeching.give(&mut liar, 2);
    let mut other = leeching.giver(2001, FAST);
    leeching.unchoke([&other]);
    leeching.hear(&mut other);
    assert!(!other.asked.is_empty());
    let number = *leeching.fixture.shard.downloads.keys().next().unwrap();
    leeching.fixture.shard.ban(number, 0);
    leeching.settle();
    assert_eq!(
        leeching.fixture.shard.assembly.early.count(),
        1,
        "the other is to send some"
    );
    leeching.fixture.world.close(other.id);
    leeching.settle();
    let assembly = &leeching.fixture.shard.assembly;
    assert_eq!((assembly.early.count(), assembly.reserved()), (0, 0));
}

#[test]
fn piece_is_read_back_as_soon_as_buffers_come_free() {
    let mut leeching = Leeching::of_pieces(LONG as usize, LONG, BUFFER);
    let mut giver = leeching.giver(2000, FAST);
    let pool = leeching.fixture.shard.driver.pool().clone();
    let held: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    leeching.give_all(&mut giver);
    assert!(leeching.fixture.shard.assembly.early.is_reading() && !held.is_empty());
    let wait = leeching.fixture.shard.wait().at_most;
    assert!(wait <= TICK, "{wait:?}");
    drop(held);
    // No time passes.
    leeching.settle();
    assert!(leeching.is_complete());
    assert!(leeching.file() == leeching.fixture.payload);
}

/// The pool had no room, and what made some rang another shard's bell.
#[test]
fn piece_that_the_pool_had_no_room_for_is_hashed_without_a_ring() {
    let mut leeching = Leeching::new(20_000);
    let mut giver = leeching.giver(2000, FAST);
    leeching.unchoke([&giver]);
    leeching.hear(&mut giver);
    let full = super::fixture::pool();
    full.stop(crate::hashing::pool::Waiting::Drop);
    let pool = std::mem::replace(&mut leeching.fixture.shard.verifier.pool, full);
    for block in giver.asked.drain(..).collect::<Vec<_>>() {
        leeching.send(&giver, block);
    }
    leeching.fixture.settle();
    leeching.fixture.shard.verifier.pool = pool;
    assert_eq!(leeching.fixture.shard.verifier.waiting.len(), 1);
    leeching.fixture.pass(0.2);
    assert!(leeching.fixture.shard.verifier.waiting.is_empty());
    let deadline = Instant::now() + Duration::from_secs(10);
    while !leeching.is_complete() {
        assert!(Instant::now() < deadline);
        leeching.fixture.pass(0.1);
    }
}
