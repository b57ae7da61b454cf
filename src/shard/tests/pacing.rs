//! No faster than allowed, and nobody forgotten for it.

use std::num::NonZeroU64;

use super::*;

const LEN: usize = 2_000_000;
const RATE: u64 = 500_000;

fn rate() -> NonZeroU64 {
    NonZeroU64::new(RATE).unwrap()
}

/// A shard that keeps to `RATE`, and so many peers that have asked for everything.
fn limited(peers: usize) -> (Fixture, Vec<Far>) {
    let mut fixture = Fixture::single(LEN, 64);
    let pace = Pace::new(Some(rate()), fixture.now.get());
    fixture.shard.settings.upload_pace = Arc::new(pace);
    let fars: Vec<Far> = (0..peers).map(|_| fixture.unchoked(FAST)).collect();
    for far in &fars {
        fixture.request_all(far);
    }
    (fixture, fars)
}

/// Lets time pass in steps in which a sleeping shard would have woken.
fn pass(fixture: &mut Fixture, seconds: u32) {
    for _ in 0..seconds * 100 {
        fixture.now.set(fixture.now.get() + pace::QUANTUM);
        for _ in 0..4 {
            fixture.turn();
        }
    }
}

fn heard(fixture: &Fixture, far: &mut Far) -> usize {
    fixture.hear(far);
    fixture.check(far);
    far.blocks.iter().map(|(.., data)| data.len()).sum()
}

#[test]
fn peers_share_the_rate_and_together_get_no_more() {
    let (mut fixture, mut fars) = limited(10);
    pass(&mut fixture, 8);
    let each: Vec<usize> = fars.iter_mut().map(|far| heard(&fixture, far)).collect();
    let all: usize = each.iter().sum();
    let exact = 8 * RATE as usize;
    assert!(all.abs_diff(exact) < exact / 25, "{all} of {exact}");
    assert!(each.iter().all(|&one| one > all / 20 && one < all / 5), "{each:?}");
    assert!(fixture.shard.counters.uploads_paced > 0);
}

#[test]
fn all_that_was_asked_for_comes_in_the_end() {
    let (mut fixture, mut fars) = limited(3);
    pass(&mut fixture, 13);
    for far in &mut fars {
        assert_eq!(heard(&fixture, far), LEN);
    }
    assert!(fixture.shard.paced.is_empty());
    assert_eq!(fixture.shard.wait().at_most, SLEEP_MAX, "nobody is looked at in vain");
}

#[test]
fn rate_of_one_torrent_leaves_the_others_alone() {
    let mut fixture = Fixture::single(LEN, 64);
    let other = Fixture::new(vec![("other".to_owned(), fixture.payload.clone(), false)], PIECE_LEN, 1);
    fixture.world.file("other", &fixture.payload);
    other.torrent.keep_to(Some(rate()), fixture.now.get());
    fixture.shard.add(other.torrent.clone());
    let mut free = fixture.unchoked(FAST);
    let own = std::mem::replace(&mut fixture.torrent, other.torrent);
    let mut slow = fixture.unchoked(FAST);
    fixture.request_all(&slow);
    fixture.torrent = own;
    fixture.settle();
    fixture.request_all(&free);
    fixture.settle();
    assert_eq!(heard(&fixture, &mut free), LEN);
    pass(&mut fixture, 2);
    let slowly = heard(&fixture, &mut slow);
    assert!(slowly.abs_diff(2 * RATE as usize) < 60_000, "{slowly}");
}

#[test]
fn what_is_no_payload_does_not_wait() {
    let (mut fixture, mut fars) = limited(1);
    fixture.settle();
    let far = &mut fars[0];
    heard(&fixture, far);
    let (piece, begin, length) = (LEN as u32 / PIECE_LEN, 0, BLOCK_LEN);
    fixture.say(far, &Message::Cancel { piece, begin, length });
    fixture.settle();
    fixture.hear(far);
    assert!(far.said.iter().any(|said| said.starts_with("Reject")), "{:?}", far.said);
}

#[test]
fn who_leaves_while_waiting_takes_nothing_from_the_others() {
    let (mut fixture, mut fars) = limited(4);
    fixture.settle();
    for far in &fars[..3] {
        fixture.world.close(far.id);
    }
    pass(&mut fixture, 5);
    assert_eq!(heard(&fixture, &mut fars[3]), LEN);
    assert_eq!(fixture.shard.conns.len(), 1);
}

#[test]
fn buffers_are_taken_back_from_the_slow_while_a_rate_is_kept_to() {
    let mut fixture = Fixture::single(LEN, 2);
    let pace = Pace::new(Some(rate()), fixture.now.get());
    fixture.shard.settings.upload_pace = Arc::new(pace);
    for piece in [0, 4] {
        let slow = fixture.unchoked(FAST);
        fixture.world.set_room(slow.id, Some(0));
        fixture.request(&slow, piece, 0, BLOCK_LEN);
    }
    pass(&mut fixture, 1);
    let mut hungry: Vec<Far> = (0..4).map(|_| fixture.unchoked(FAST)).collect();
    for far in &hungry {
        fixture.request_all(far);
    }
    pass(&mut fixture, 20);
    for far in &mut hungry {
        assert_eq!(heard(&fixture, far), LEN);
    }
}

#[test]
fn those_who_wait_go_on_when_the_limit_is_lifted_and_wait_again_when_it_is_back() {
    let (mut fixture, mut fars) = limited(3);
    pass(&mut fixture, 2);
    let pace = Arc::clone(&fixture.shard.settings.upload_pace);
    pace.set(None, fixture.now.get());
    pass(&mut fixture, 1);
    for far in &mut fars {
        assert_eq!(heard(&fixture, far), LEN, "nobody is left in the line");
    }
    assert!(fixture.shard.paced.is_empty());
    pace.set(Some(rate()), fixture.now.get());
    for far in &mut fars {
        far.blocks.clear();
        fixture.request_all(far);
    }
    pass(&mut fixture, 4);
    let all: usize = fars.iter_mut().map(|far| heard(&fixture, far)).sum();
    let exact = 4 * RATE as usize;
    assert!(all.abs_diff(exact) < exact / 20, "{all} of {exact}");
}

#[test]
fn peers_of_a_folder_keep_to_its_rate_beside_that_of_all_and_the_slower_of_both_counts() {
    let mut fixture = Fixture::single(LEN, 64);
    let now = fixture.now.get();
    let folder = Arc::new(FolderPace::new(now));
    fixture.torrent.keep_to_folder(&folder);
    let mut fars: Vec<Far> = (0..3).map(|_| fixture.unchoked(FAST)).collect();
    let passed = |fixture: &mut Fixture, fars: &mut [Far]| {
        for far in fars.iter_mut() {
            far.blocks.clear();
            fixture.request_all(far);
        }
        pass(fixture, 4);
        let all: usize = fars.iter_mut().map(|far| heard(fixture, far)).sum();
        pass(fixture, 60); // The rest of it.
        fars.iter_mut().for_each(|far| _ = heard(fixture, far));
        all
    };
    assert_eq!(passed(&mut fixture, &mut fars), 3 * LEN, "there is no limit yet");
    for (of_folder, of_all) in [
        (Some(rate()), None),
        (Some(rate()), NonZeroU64::new(4 * RATE)),
        (NonZeroU64::new(4 * RATE), Some(rate())),
    ] {
        let now = fixture.now.get();
        folder.upload.set(of_folder, now);
        fixture.shard.settings.upload_pace.set(of_all, now);
        let all = passed(&mut fixture, &mut fars);
        let exact = 4 * RATE as usize;
        assert!(
            all.abs_diff(exact) < exact / 20,
            "{all} of {exact}: {of_folder:?} {of_all:?}"
        );
    }
}
