//! Peers that ask for more, or say more, than is their share.

use super::*;
use crate::shard::deadlines::{CLOCKS_MAX, HANDSHAKE_TICKS};

#[test]
fn requests_beyond_the_advertised_queue_are_rejected() {
    let mut fixture = Fixture::single(4_000_000, 4);
    let mut far = fixture.unchoked(FAST);
    fixture.world.set_room(far.id, Some(0));
    for i in 0..2400_u32 {
        fixture.request(&far, i % 60, i / 60 * 100, 100);
    }
    fixture.settle();
    fixture.world.set_room(far.id, None);
    for _ in 0..20 {
        fixture.settle();
    }
    fixture.hear(&mut far);
    let rejects = far.said.iter().filter(|said| said.starts_with("Reject")).count();
    assert_eq!(rejects + far.blocks.len(), 2400, "each is answered");
    // The queue, and what had left it for the window before it was full.
    assert!((2048..=2048 + 64).contains(&far.blocks.len()), "{rejects} rejected");
    fixture.check(&far);
}

#[test]
fn requests_beyond_the_queue_of_a_peer_that_cannot_be_refused_wait() {
    let mut fixture = Fixture::single(4_000_000, 4);
    let mut far = fixture.unchoked(PLAIN);
    fixture.world.set_room(far.id, Some(0));
    for i in 0..9000_u32 {
        fixture.request(&far, i % 60, i / 60 * 100, 100);
        if i % 1000 == 0 {
            fixture.settle();
        }
    }
    fixture.settle();
    fixture.world.set_room(far.id, None);
    for _ in 0..200 {
        fixture.settle();
    }
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), 9000, "each is served: {:?}", fixture.drops());
    fixture.check(&far);
}

#[test]
fn peer_that_says_much_has_its_share_of_a_turn_and_no_more() {
    for reserved in [FAST, PLAIN] {
        let mut fixture = Fixture::single(2_000_000, 8);
        let mut chatty = fixture.unchoked(reserved);
        let mut other = fixture.unchoked(FAST);
        // 100 receives of 4 KiB, keep-alives for the most part: 102,400 of them.
        fixture.world.write(chatty.id, &[0; 100 * 4096]);
        fixture.request(&chatty, 3, 0, 16384);
        fixture.request(&other, 0, 0, 16384);
        let before = fixture.shard.counters.received_messages;
        fixture.turn();
        let first = fixture.shard.counters.received_messages - before;
        assert_eq!(first, 64 * 1024 + 1, "64 receives of it, and the other's request");
        fixture.settle();
        assert_eq!(fixture.shard.counters.received_messages - before, 100 * 1024 + 2);
        for far in [&mut chatty, &mut other] {
            fixture.hear(far);
            assert_eq!(far.blocks.len(), 1);
            fixture.check(far);
        }
        fixture.request(&chatty, 4, 0, 16384);
        fixture.settle();
        fixture.hear(&mut chatty);
        assert_eq!(chatty.blocks.len(), 2, "it is listened to again");
    }
}

#[test]
fn peer_that_takes_back_from_a_full_queue_has_its_share_of_a_turn_and_no_more() {
    for reserved in [FAST, PLAIN] {
        let mut fixture = Fixture::single(4_000_000, 200);
        let mut busy = fixture.unchoked(reserved);
        let mut other = fixture.unchoked(FAST);
        fixture.world.set_room(busy.id, Some(0));
        for i in 0..2_000_u32 {
            fixture.request(&busy, i % 60, i / 60, 1);
        }
        fixture.settle();
        // 10,000 times the same block: as many messages as a share would be of any that cost nothing.
        let mut bytes = Vec::new();
        for _ in 0..5_000 {
            let (piece, begin, length) = (60, 0, 16384);
            wire::encode(&Message::Request { piece, begin, length }, &mut bytes);
            wire::encode(&Message::Cancel { piece, begin, length }, &mut bytes);
        }
        fixture.world.write(busy.id, &bytes);
        fixture.request(&other, 0, 0, 16384);
        let before = fixture.shard.counters.received_messages;
        fixture.turn();
        let first = fixture.shard.counters.received_messages - before;
        assert!((1_000..3_000).contains(&first), "{first} messages in one turn");
        fixture.settle();
        fixture.hear(&mut other);
        assert_eq!(other.blocks.len(), 1);
        // Nothing is lost of what is held: it goes on as soon as the queue is shorter.
        fixture.world.set_room(busy.id, None);
        for _ in 0..20 {
            fixture.settle();
        }
        assert_eq!(fixture.shard.counters.received_messages - before, 10_001);
        fixture.hear(&mut busy);
        assert_eq!(fixture.drops(), [""; 0]);
    }
}

/// Be it more than a share of each, or a little less than one.
#[test]
fn turns_do_not_get_longer_with_the_number_of_those_who_take_back_from_a_full_queue() {
    for pairs in [5_000_u64, 1_000] {
        let mut fixture = Fixture::single(4_000_000, 200);
        let crowd: Vec<_> = (0..40).map(|_| fixture.unchoked(FAST)).collect();
        let mut other = fixture.unchoked(FAST);
        for busy in &crowd {
            fixture.world.set_room(busy.id, Some(0));
            for i in 0..2_000_u32 {
                fixture.request(busy, i % 60, i / 60, 1);
            }
            fixture.settle();
        }
        let mut bytes = Vec::new();
        for _ in 0..pairs {
            let (piece, begin, length) = (60, 0, 16384);
            wire::encode(&Message::Request { piece, begin, length }, &mut bytes);
            wire::encode(&Message::Cancel { piece, begin, length }, &mut bytes);
        }
        for busy in &crowd {
            fixture.world.write(busy.id, &bytes);
        }
        let start = fixture.shard.counters.received_messages;
        let mut before = start;
        for turn in 0..5 {
            if turn == 2 {
                fixture.request(&other, 0, 0, 16384);
            }
            fixture.turn();
            let now = fixture.shard.counters.received_messages;
            let messages = now - std::mem::replace(&mut before, now);
            // Four or five shares of two thousand, and a few dozen of each of the others.
            assert!(
                (5_000..14_000).contains(&messages),
                "{messages} messages in turn {turn}"
            );
            if turn == 3 {
                fixture.hear(&mut other);
                assert_eq!(other.blocks.len(), 1, "who asks for little is heard at once");
            }
        }
        for busy in &crowd {
            fixture.world.set_room(busy.id, None);
        }
        for _ in 0..200 {
            fixture.settle();
        }
        let all = fixture.shard.counters.received_messages - start;
        assert_eq!(all, 40 * 2 * pairs + 1, "nothing is lost");
        assert_eq!(fixture.drops(), [""; 0]);
    }
}

#[test]
fn peer_that_owes_too_many_replies_is_dropped_with_its_interest_counted_once() {
    let mut fixture = Fixture::single(4_000_000, 8);
    let far = fixture.unchoked(FAST);
    fixture.world.set_room(far.id, Some(0));
    for i in 0..1500_u32 {
        fixture.request(&far, i % 60, i / 60 * 16, 16);
    }
    fixture.settle();
    let owner = fixture.shard.conns.iter().next().unwrap().0;
    // Requests that are taken back at once: a reject each, until one more choke is too much.
    let (piece, begin, length) = (20, 9_000, 16);
    while fixture.shard.conns.get(owner).unwrap().out.len() + 17 * 500 < peers::out_len_max(62) {
        for _ in 0..400 {
            fixture.request(&far, piece, begin, length);
            fixture.say(&far, &Message::Cancel { piece, begin, length });
        }
        fixture.settle();
    }
    fixture.say(&far, &Message::NotInterested);
    fixture.settle();
    fixture.shard.choke(owner);
    assert!(fixture.shard.conns.get(owner).unwrap().out.len() > peers::out_len_max(62));
    fixture.say(&far, &Message::Interested);
    fixture.settle();
    assert_eq!(fixture.drops(), ["reply_flood"]);
    assert_eq!(
        (fixture.shard.interested, fixture.shard.unchoked, fixture.shard.peers),
        (0, 0, 0)
    );
}

#[test]
fn tiny_requests_do_not_get_around_the_request_queue() {
    let mut fixture = Fixture::single(4_000_000, 8);
    let far = fixture.unchoked(FAST);
    fixture.world.set_room(far.id, Some(0));
    // Not so many that it is dropped as a flooder.
    for i in 0..5_000_u32 {
        fixture.request(&far, i % 60, i / 60, 1);
        if i % 500 == 0 {
            fixture.settle();
        }
    }
    for _ in 0..5 {
        fixture.settle();
    }
    let owner = fixture.shard.conns.iter().next().unwrap().0;
    let peer = fixture.shard.conns.get(owner).and_then(Conn::peer).unwrap();
    assert!(
        peer.upload.staged_count() <= 64,
        "{} staged",
        peer.upload.staged_count()
    );
    assert!(fixture.shard.counters.requests_refused > 2_800, "the rest is refused");
}

#[test]
fn many_who_are_let_go_at_once_are_let_go_a_few_in_a_turn() {
    let mut fixture = Fixture::single(100_000, 4);
    fixture.shard.settings.limits = Arc::new(Limits::new(Caps {
        connections: 1000,
        per_torrent: 1000,
        per_ip: 1000,
    }));
    for at in 0..75 {
        fixture.connect_from(Ipv4Addr::new(127, 0, 1, at));
        fixture.turn();
    }
    fixture.settle();
    let late = TICK * (HANDSHAKE_TICKS + 1) as u32;
    fixture.now.set(fixture.now.get() + late);
    let dropped = |fixture: &Fixture| fixture.shard.settings.stats.drops().into_values().sum::<u64>();
    fixture.turn();
    assert_eq!(dropped(&fixture), CLOCKS_MAX as u64);
    assert_eq!(
        fixture.shard.wait(),
        Wait::POLL,
        "the others have waited for long enough"
    );
    fixture.turn();
    assert_eq!(dropped(&fixture), 75);
    fixture.settle();
    assert_ne!(fixture.shard.wait(), Wait::POLL);
}
