//! Buffers lent to sockets instead of copied into them.

use super::*;

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
const LEN: usize = 2 << 20;

/// A shard with so many buffers, and an unchoked peer on another machine.
fn with_peer(pool_bufs: u32) -> (Fixture, Far) {
    let mut fixture = Fixture::single(LEN, pool_bufs);
    let far = fixture.far_from(ELSEWHERE, FAST);
    let far = fixture.unchoke(far);
    (fixture, far)
}

fn lent_times(fixture: &Fixture) -> u64 {
    let counters = fixture.shard.driver.counters();
    counters.zero_copy_sent + counters.zero_copy_copied
}

#[test]
fn socket_that_takes_buffers_as_they_are_is_lent_all_that_is_large() {
    let (mut fixture, mut far) = with_peer(64);
    fixture.world.set_zero_copy(false);
    fixture.request(&far, 0, 0, BLOCK_LEN);
    fixture.settle();
    assert_eq!(lent_times(&fixture), 0, "one block is copied");
    fixture.hear(&mut far);
    fixture.download(&mut far);
    let lent = lent_times(&fixture);
    assert!((4..=LEN as u64 / (64 << 10)).contains(&lent), "{lent}");
    assert_eq!(fixture.shard.counters.uploaded_bytes, LEN as u64 + u64::from(BLOCK_LEN));
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
    fixture.world.set_zero_copy(false);
    let mut far = fixture.unchoked(FAST);
    fixture.download(&mut far);
    assert_eq!(lent_times(&fixture), 0);
}

#[test]
fn who_acknowledges_nothing_pins_half_of_the_buffers_at_most_and_is_served_on() {
    let (mut fixture, mut far) = with_peer(256);
    fixture.world.set_zero_copy(false);
    fixture.download(&mut far);
    fixture.world.set_zero_copy(true);
    for _ in 0..4 {
        fixture.download(&mut far);
    }
    let lent = fixture.shard.driver.counters().zero_copy_lent;
    assert!((1..=256 * u64::from(EXTENT_LEN) / 16).contains(&lent), "{lent}");
    // One that comes later finds buffers.
    let mut other = fixture.unchoked(FAST);
    fixture.download(&mut other);
    fixture.world.close(far.id);
    fixture.settle();
    fixture.world.set_zero_copy(false);
    fixture.settle();
    assert_eq!(
        fixture.shard.driver.counters().zero_copy_lent,
        0,
        "they come back to nobody"
    );
}

#[test]
fn rest_of_a_lent_send_follows_in_order() {
    let (mut fixture, mut far) = with_peer(64);
    fixture.world.set_zero_copy(true);
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
}

#[test]
fn kernel_that_cannot_lend_is_asked_to_copy() {
    for errno in [Errno::INVAL, Errno::OPNOTSUPP, Errno::NOBUFS] {
        let (mut fixture, mut far) = with_peer(64);
        let count = fixture.request_all(&far);
        fixture.world.fail_next(crate::io::OpKind::Send, errno);
        fixture.settle();
        fixture.hear(&mut far);
        assert_eq!(far.blocks.len(), count, "{errno}");
        fixture.check(&far);
    }
}
