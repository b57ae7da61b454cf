//! Buffers lent to sockets instead of copied into them.

use super::super::lending::Route;
use super::*;

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
const LEN: usize = 2 << 20;

/// A peer on another machine that is interested and unchoked.
fn peer(fixture: &mut Fixture) -> Far {
    let far = fixture.far_from(ELSEWHERE, FAST);
    fixture.unchoke(far)
}

/// A shard with so many buffers, and such a peer.
fn with_peer(pool_bufs: u32) -> (Fixture, Far) {
    let mut fixture = Fixture::single(LEN, pool_bufs);
    let far = peer(&mut fixture);
    (fixture, far)
}

/// The same, and the peer's socket is known to take buffers as they are. It keeps them from now on.
fn with_borrower(pool_bufs: u32) -> (Fixture, Far) {
    let (mut fixture, mut far) = with_peer(pool_bufs);
    fixture.world.take_as_is();
    fixture.download(&mut far);
    assert!(lent_times(&fixture) > 0 && lent(&fixture) == 0);
    fixture.world.keep_lent(true);
    far.blocks.clear();
    (fixture, far)
}

/// Sends that have lent buffers and had them back.
fn lent_times(fixture: &Fixture) -> u64 {
    let counters = fixture.shard.driver.counters();
    counters.zero_copy_sent + counters.zero_copy_copied
}

/// Buffers that count as lent.
fn lent(fixture: &Fixture) -> u32 {
    (fixture.shard.lent.bytes() / u64::from(EXTENT_LEN)) as u32
}

/// Forgets the torrent, and so all that is held but what is lent: how many buffers that is.
fn truly_lent(fixture: &mut Fixture) -> u32 {
    let remove = Command::Remove(fixture.torrent.info_hash());
    fixture.commands.send(remove).unwrap();
    fixture.world.ring();
    fixture.settle();
    let pool = fixture.shard.driver.pool();
    pool.count() - pool.free()
}

/// Sockets give back what they were lent, whoever is still there: nothing is lent any more.
fn give_back(mut fixture: Fixture) {
    fixture.world.keep_lent(false);
    fixture.settle();
    assert_eq!(lent(&fixture), 0);
    assert_eq!(truly_lent(&mut fixture), 0);
}

#[test]
fn socket_that_takes_buffers_as_they_are_is_lent_all_that_is_large() {
    let (mut fixture, mut far) = with_peer(64);
    fixture.world.take_as_is();
    fixture.request(&far, 0, 0, BLOCK_LEN);
    fixture.settle();
    assert_eq!(lent_times(&fixture), 0, "one block is copied");
    fixture.hear(&mut far);
    fixture.download(&mut far);
    let times = lent_times(&fixture);
    assert!((4..=LEN as u64 / (64 << 10)).contains(&times), "{times}");
    assert_eq!(fixture.shard.counters.uploaded_bytes, LEN as u64 + u64::from(BLOCK_LEN));
    give_back(fixture);
}

#[test]
fn socket_that_copies_after_all_is_tried_once() {
    let (mut fixture, mut far) = with_peer(64);
    fixture.download(&mut far);
    fixture.download(&mut far);
    assert_eq!(lent_times(&fixture), 1);
}

#[test]
fn peer_on_this_machine_is_never_lent_to() {
    let mut fixture = Fixture::single(LEN, 64);
    fixture.world.take_as_is();
    let mut far = fixture.unchoked(FAST);
    fixture.download(&mut far);
    assert_eq!(lent_times(&fixture), 0);
}

#[test]
fn small_messages_alone_are_copied_however_many() {
    let (mut fixture, mut far) = with_peer(64);
    fixture.world.take_as_is();
    let owner = fixture.shard.conns.iter().next().unwrap().0;
    fixture.shard.choke(owner);
    // 67,150 bytes of rejects, most of which leave together.
    fixture.world.set_room(far.id, Some(0));
    for times in 0..3950 {
        fixture.request(&far, times % 30, 0, BLOCK_LEN);
    }
    fixture.settle();
    fixture.world.set_room(far.id, None);
    fixture.settle();
    fixture.hear(&mut far);
    assert!(far.said.len() >= 3950, "{} rejects", far.said.len());
    assert_eq!(lent_times(&fixture), 0);
}

#[test]
fn small_blocks_from_here_and_there_are_copied() {
    let (mut fixture, mut far) = with_borrower(256);
    // 64 KiB, of 16 buffers.
    for piece in (0..32).step_by(2) {
        for begin in [0, 1024, 2048, 3072] {
            fixture.request(&far, piece, begin, 1024);
        }
    }
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), 64);
    assert_eq!(lent(&fixture), 0);
}

#[test]
fn who_acknowledges_nothing_pins_an_eighth_of_the_buffers_at_most_and_is_served_on() {
    let (mut fixture, mut far) = with_borrower(64);
    for _ in 0..4 {
        fixture.download(&mut far);
    }
    assert!((1..=64 / 8).contains(&lent(&fixture)), "{}", lent(&fixture));
    assert!(truly_lent(&mut fixture) <= 64 / 8);
    give_back(fixture);
}

#[test]
fn all_who_acknowledge_nothing_pin_half_of_the_buffers_at_most() {
    let mut fixture = Fixture::single(4 * LEN, 64);
    fixture.world.take_as_is();
    let mut fars: Vec<Far> = (0..10).map(|_| peer(&mut fixture)).collect();
    for far in &mut fars {
        fixture.download(far);
    }
    fixture.world.keep_lent(true);
    for far in &mut fars {
        fixture.download(far);
    }
    assert!((64 / 2 - 4..=64 / 2).contains(&lent(&fixture)), "{}", lent(&fixture));
    // One that comes later finds buffers.
    let mut other = fixture.unchoked(FAST);
    fixture.download(&mut other);
    assert!(truly_lent(&mut fixture) <= 64 / 2);
    give_back(fixture);
}

#[test]
fn rest_of_a_lent_send_follows_in_order_and_is_lent_too() {
    let (mut fixture, mut far) = with_borrower(256);
    let count = fixture.request_all(&far);
    for room in [100_000, 7, 1, 333_333].into_iter().cycle().take(40) {
        fixture.world.set_room(far.id, Some(room));
        fixture.settle();
    }
    fixture.world.set_room(far.id, None);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), count);
    fixture.check(&far);
    assert!(lent(&fixture) > 4);
    give_back(fixture);
}

#[test]
fn what_a_lent_send_has_not_had_taken_can_be_taken_back() {
    let (mut fixture, mut far) = with_borrower(64);
    let count = fixture.request_all(&far);
    fixture.world.set_room(far.id, Some(70_000));
    fixture.settle();
    let owner = fixture.shard.conns.iter().next().unwrap().0;
    assert!(lent(&fixture) > 0);
    // Somebody waits for a buffer, and so the send is cancelled.
    fixture.now.set(fixture.now.get() + Duration::from_secs(2));
    fixture.turn();
    fixture.shard.reclaim();
    fixture.settle();
    assert_eq!(fixture.shard.counters.reclaimed_sends, 1);
    fixture.shard.disk.extents.forget(|_| true);
    let pool = fixture.shard.driver.pool();
    assert_eq!(pool.count() - pool.free(), 1, "the one that was taken from");
    fixture.world.set_room(far.id, None);
    fixture.shard.touch(owner);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), count);
    fixture.check(&far);
    give_back(fixture);
}

#[test]
fn trial_that_is_cancelled_tells_nothing_of_the_socket() {
    let (mut fixture, mut far) = with_peer(64);
    fixture.world.take_as_is();
    fixture.world.set_room(far.id, Some(0));
    let count = fixture.request_all(&far);
    fixture.settle();
    let owner = fixture.shard.conns.iter().next().unwrap().0;
    let route = |fixture: &mut Fixture| fixture.shard.conns.get_mut(owner).unwrap().route;
    assert_eq!(route(&mut fixture), Route::Tried);
    fixture.now.set(fixture.now.get() + Duration::from_secs(2));
    fixture.turn();
    fixture.shard.reclaim();
    fixture.turn();
    assert_ne!(route(&mut fixture), Route::Copies);
    fixture.world.set_room(far.id, None);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), count);
    assert_eq!(route(&mut fixture), Route::Lends);
    give_back(fixture);
}

#[test]
fn kernel_that_cannot_lend_is_asked_to_copy_from_then_on() {
    for errno in [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOBUFS, Errno::NOMEM] {
        let (mut fixture, mut far) = with_peer(64);
        fixture.world.take_as_is();
        let count = fixture.request_all(&far);
        fixture.world.fail_next(crate::io::OpKind::Send, errno);
        fixture.settle();
        fixture.hear(&mut far);
        assert_eq!(far.blocks.len(), count, "{errno}");
        fixture.check(&far);
        fixture.download(&mut far);
        assert_eq!(lent_times(&fixture), 0, "{errno}");
        give_back(fixture);
    }
}

#[test]
fn socket_that_has_lent_and_can_no_longer_is_copied_to() {
    let (mut fixture, mut far) = with_borrower(64);
    let before = lent_times(&fixture);
    let count = fixture.request_all(&far);
    fixture.world.fail_next(crate::io::OpKind::Send, Errno::NOBUFS);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), count);
    fixture.download(&mut far);
    fixture.world.keep_lent(false);
    fixture.settle();
    assert_eq!(lent_times(&fixture), before);
    give_back(fixture);
}

#[test]
fn send_that_was_copied_and_fails_ends_its_connection() {
    let (mut fixture, far) = with_borrower(64);
    fixture.request(&far, 0, 0, BLOCK_LEN);
    fixture.world.fail_next(crate::io::OpKind::Send, Errno::NOBUFS);
    fixture.settle();
    assert_eq!(fixture.drops(), ["reset"]);
}

#[test]
fn peer_may_be_choked_or_leave_or_all_may_stop_while_buffers_are_lent() {
    let (mut fixture, mut far) = with_borrower(64);
    fixture.download(&mut far);
    let owner = fixture.shard.conns.iter().next().unwrap().0;
    assert!(lent(&fixture) > 0);
    fixture.shard.choke(owner);
    fixture.settle();
    fixture.world.close(far.id);
    fixture.settle();
    assert!(lent(&fixture) > 0, "the socket still reads them");
    fixture.commands.send(Command::Stop).unwrap();
    fixture.world.ring();
    let stopped = (0..10).any(|_| fixture.turn() == Flow::Stop);
    assert!(stopped, "nobody waits for the peer to acknowledge");
    fixture.world.keep_lent(false);
    let mut out = Vec::new();
    fixture.shard.driver.turn(Wait::POLL, &mut out).unwrap();
    assert!(!out.is_empty(), "they come back to nobody");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Completions in any order, sockets that take a part and keep what they are lent for any time.
    #[test]
    fn lent_in_any_order_the_payload_is_right_and_every_buffer_comes_back(
        seed in 1u64..,
        steps in proptest::collection::vec((0usize..3, 0usize..300_000, any::<bool>()), 1..40),
    ) {
        let mut fixture = Fixture::single(LEN, 32);
        fixture.world.take_as_is();
        fixture.world.shuffle(seed);
        let mut fars: Vec<Far> = (0..3).map(|_| peer(&mut fixture)).collect();
        let counts: Vec<usize> = fars.iter().map(|far| fixture.request_all(far)).collect();
        for (who, room, keep) in steps {
            fixture.world.set_room(fars[who].id, Some(room));
            fixture.world.keep_lent(keep);
            fixture.pass(0.3);
        }
        for far in &fars {
            fixture.world.set_room(far.id, None);
        }
        fixture.pass(2.0);
        fixture.settle();
        for (far, count) in fars.iter_mut().zip(counts) {
            fixture.hear(far);
            prop_assert_eq!(far.blocks.len(), count);
            fixture.check(far);
        }
        give_back(fixture);
    }
}
