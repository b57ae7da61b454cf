//! The shard on the memory driver: whole connections, byte by byte, without a kernel.

mod downloading;
mod early;
mod early_harm;
mod files;
mod fixture;
mod floods;
mod gone;
mod leeching;
mod lending;
mod misbehaving;
mod pacing;
mod pressure;
mod resting;
mod tracker;

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::io::{Ending, OpKind};
use crate::proto::geometry::BLOCK_LEN;
use crate::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved};
use crate::proto::wire::{self, Message};
use crate::storage::extents::EXTENT_LEN;
use fixture::{FAST, Far, Fixture, GATHER_WAIT, PIECE_LEN, PLAIN, bytes};

#[test]
fn handshake_comes_alone_for_a_peer_that_owes_a_message() {
    let mut fixture = Fixture::single(100_000, 4);
    let mut far = fixture.far(FAST);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.handshake.len(), HANDSHAKE_LEN);
    assert!(far.said.is_empty(), "aria2 bans for this: {:?}", far.said);
    fixture.say(&far, &Message::HaveNone);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.said, ["HaveAll"]);
}

#[test]
fn pieces_are_told_to_a_silent_peer_in_the_end() {
    let mut fixture = Fixture::single(100_000, 4);
    let mut far = fixture.far(FAST);
    fixture.settle();
    fixture.pass(1.0);
    fixture.hear(&mut far);
    assert!(far.said.is_empty());
    fixture.pass(1.5);
    fixture.hear(&mut far);
    assert_eq!(far.said, ["HaveAll"]);
}

#[test]
fn peer_without_the_fast_extension_gets_its_bitfield_at_once() {
    let mut fixture = Fixture::single(100_000, 4);
    let mut far = fixture.far(PLAIN);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.said, ["Bitfield([192])"]);
}

#[test]
fn extension_handshake_is_sent_to_who_speaks_it() {
    let mut fixture = Fixture::single(100_000, 4);
    let mut far = fixture.far(Reserved::OURS);
    fixture.say(&far, &Message::HaveNone);
    fixture.settle();
    fixture.hear(&mut far);
    assert_eq!(far.said, ["HaveAll", "Extended"]);
}

#[test]
fn whole_torrent_is_served() {
    for reserved in [FAST, PLAIN] {
        let mut fixture = Fixture::single(1_000_001, 4);
        let mut far = fixture.unchoked(reserved);
        fixture.download(&mut far);
        assert_eq!(fixture.shard.counters.uploaded_bytes, 1_000_001);
        assert_eq!(fixture.shard.request_latency.count(), far.blocks.len() as u64);
    }
}

/// The same torrent on two shards: what each has sent is told to the other's readers at its next tick, once.
#[test]
fn uploaded_bytes_of_a_torrent_are_summed_over_shards_once_a_tick() {
    let mut first = Fixture::single(1_000_001, 4);
    let mut second = Fixture::single(1_000_001, 4);
    second.shard.add(first.torrent.clone());
    for fixture in [&mut first, &mut second] {
        let mut far = fixture.unchoked(FAST);
        fixture.download(&mut far);
    }
    let torrent = first.torrent.clone();
    assert_eq!(torrent.uploaded(), 0, "no tick has passed");
    first.pass(0.1);
    assert_eq!(torrent.uploaded(), 1_000_001);
    second.pass(0.1);
    first.pass(0.1);
    assert_eq!(torrent.uploaded(), 2_000_002);
}

/// A shard that stops between two ticks tells what it has sent since the last one.
#[test]
fn uploaded_bytes_are_told_at_the_end() {
    let mut fixture = Fixture::single(300_000, 4);
    let mut far = fixture.unchoked(FAST);
    fixture.download(&mut far);
    fixture.commands.send(Command::Stop).unwrap();
    fixture.world.ring();
    while fixture.turn() == Flow::Continue {}
    assert_eq!(fixture.torrent.uploaded(), 300_000);
}

#[test]
fn what_is_left_is_told_in_bytes_also_of_a_short_last_piece() {
    let fixture = Fixture::single(2 * PIECE_LEN as usize + 5, 4);
    let torrent = &fixture.torrent;
    let piece = |index| torrent.geometry().piece_index(index).unwrap();
    assert_eq!(torrent.left(), 0);
    torrent.withdraw(piece(2), "gone");
    assert_eq!(torrent.left(), 5);
    torrent.withdraw(piece(0), "gone");
    assert_eq!(torrent.left(), u64::from(PIECE_LEN) + 5);
    torrent.grant(piece(2));
    assert_eq!(torrent.left(), u64::from(PIECE_LEN));
}

#[test]
fn blocks_over_many_files_and_pads_are_served() {
    let mut files = Vec::new();
    for i in 0..200 {
        files.push((format!("tiny/{i}"), bytes(i * 7, i as u64 + 1), false));
        if i % 10 == 0 {
            files.push((format!(".pad/{i}"), vec![0; 500 + i], true));
        }
    }
    files.push(("large".to_owned(), bytes(300_000, 5), false));
    files.push(("empty".to_owned(), Vec::new(), false));
    files.push(("last".to_owned(), bytes(3, 9), false));
    let mut fixture = Fixture::new(files, 16 * 1024, 8);
    let mut far = fixture.unchoked(FAST);
    let count = fixture.request_all(&far);
    for _ in 0..20 {
        fixture.settle();
    }
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), count);
    fixture.check(&far);
}

#[test]
fn peer_that_takes_little_at_a_time_gets_the_right_bytes() {
    let mut fixture = Fixture::single(300_000, 4);
    let mut far = fixture.unchoked(FAST);
    let count = fixture.request_all(&far);
    for room in (1..).map(|i| i * 37 % 9_000) {
        fixture.world.set_room(far.id, Some(room));
        fixture.turn();
        fixture.hear(&mut far);
        if far.blocks.len() == count {
            break;
        }
    }
    fixture.check(&far);
    assert!(fixture.shard.counters.short_sends > 10);
}

#[test]
fn request_while_choked_is_rejected_or_dropped() {
    for (reserved, expected) in [(FAST, 1), (PLAIN, 0)] {
        let mut fixture = Fixture::single(100_000, 4);
        let mut far = fixture.far(reserved);
        if far.fast {
            fixture.say(&far, &Message::HaveNone);
        }
        fixture.request(&far, 0, 0, 16384);
        fixture.settle();
        fixture.hear(&mut far);
        let rejects = far.said.iter().filter(|said| said.starts_with("Reject")).count();
        assert_eq!(rejects, expected);
        assert!(far.blocks.is_empty());
        assert!(fixture.drops().is_empty());
    }
}

#[test]
fn cancelled_request_is_not_sent() {
    let mut fixture = Fixture::single(2_000_000, 1);
    let mut far = fixture.unchoked(FAST);
    fixture.world.hold(OpKind::Read);
    let count = fixture.request_all(&far);
    fixture.settle();
    let (piece, begin, length) = (20, 16384, 16384);
    fixture.say(&far, &Message::Cancel { piece, begin, length });
    fixture.settle();
    fixture.world.release(OpKind::Read);
    for _ in 0..20 {
        fixture.settle();
    }
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), count - 1);
    assert!(!far.blocks.iter().any(|(p, b, _)| (*p, *b) == (piece, begin)));
    assert_eq!(far.said.len(), 1, "BEP 6: a cancel is answered: {:?}", far.said);
    fixture.check(&far);
}

#[test]
fn slots_bound_who_may_ask_and_go_round() {
    let mut fixture = Fixture::single(100_000, 4);
    fixture.shard.choker = SeedChoker::new(choker::Kind::RoundRobin, 2);
    let mut peers: Vec<Far> = (0..5).map(|_| fixture.far(PLAIN)).collect();
    for far in &peers {
        fixture.say(far, &Message::Interested);
    }
    fixture.settle();
    assert_eq!(fixture.shard.unchoked, 2);
    for _ in 0..60 {
        fixture.pass(10.0);
        assert!(fixture.shard.unchoked <= 2);
        for far in &peers {
            fixture.say(far, &Message::KeepAlive);
        }
    }
    for far in &mut peers {
        fixture.hear(far);
        assert!(
            far.said.contains(&"Unchoke".to_owned()),
            "each had its turn: {:?}",
            far.said
        );
    }
}

#[test]
fn choked_peer_gets_rejects_for_what_was_queued() {
    let mut fixture = Fixture::single(4_000_000, 4);
    let mut far = fixture.unchoked(FAST);
    fixture.world.set_room(far.id, Some(0));
    let count = fixture.request_all(&far);
    fixture.settle();
    let owner = fixture.shard.conns.iter().next().unwrap().0;
    fixture.shard.choke(owner);
    fixture.world.set_room(far.id, None);
    fixture.settle();
    fixture.hear(&mut far);
    let rejects = far.said.iter().filter(|said| said.starts_with("Reject")).count();
    assert!(rejects > 0);
    assert_eq!(rejects + far.blocks.len(), count, "each is answered once");
    fixture.check(&far);
}

#[test]
fn what_is_no_handshake_is_dropped_at_its_first_wrong_byte() {
    let mut fixture = Fixture::single(100_000, 4);
    let id = fixture.connect();
    fixture.world.write(id, b"\x13BitX");
    fixture.settle();
    assert_eq!(fixture.world.ended(id), Some(Ending::Reset));
    assert_eq!(fixture.drops(), ["not_a_handshake"]);
    assert_eq!(fixture.shard.conns.len(), 0);
}

#[test]
fn unknown_torrent_and_our_own_id_are_turned_away() {
    let mut fixture = Fixture::single(100_000, 4);
    let id = fixture.connect();
    let mut other = fixture.handshake(PLAIN);
    other[30] ^= 1;
    fixture.world.write(id, &other);
    let id = fixture.connect();
    let mut own = fixture.handshake(PLAIN);
    own[48..].copy_from_slice(&fixture.shard.settings.peer_id.0);
    fixture.world.write(id, &own);
    fixture.settle();
    assert_eq!(fixture.drops(), ["own_peer_id", "unknown_info_hash"]);
}

#[test]
fn handshake_has_ten_seconds_in_total_however_it_trickles() {
    let mut fixture = Fixture::single(100_000, 4);
    let id = fixture.connect();
    let handshake = fixture.handshake(PLAIN);
    fixture.settle();
    for byte in &handshake[..9] {
        fixture.world.write(id, &[*byte]);
        fixture.pass(1.0);
    }
    assert!(fixture.drops().is_empty());
    fixture.world.write(id, &handshake[9..10]);
    fixture.pass(1.2);
    assert_eq!(fixture.drops(), ["handshake_timeout"]);
}

#[test]
fn silent_peer_is_dropped_and_a_living_one_is_kept() {
    let mut fixture = Fixture::single(100_000, 4);
    let silent = fixture.far(PLAIN);
    let mut living = fixture.far(PLAIN);
    fixture.settle();
    for _ in 0..30 {
        fixture.say(&living, &Message::KeepAlive);
        fixture.pass(10.0);
    }
    assert_eq!(fixture.world.ended(silent.id), Some(Ending::Reset));
    assert_eq!(fixture.world.ended(living.id), None);
    fixture.hear(&mut living);
    let keep_alives = living.said.iter().filter(|said| *said == "KeepAlive").count();
    assert!((2..=4).contains(&keep_alives), "{keep_alives} in 300 s");
    assert_eq!(fixture.drops(), ["idle_timeout"]);
}

#[test]
fn peer_that_takes_nothing_is_dropped() {
    let mut fixture = Fixture::single(1_000_000, 8);
    let far = fixture.unchoked(PLAIN);
    fixture.world.set_room(far.id, Some(0));
    fixture.request_all(&far);
    fixture.settle();
    for _ in 0..5 {
        fixture.pass(10.0);
    }
    assert_eq!(fixture.world.ended(far.id), None);
    fixture.pass(11.0);
    assert_eq!(fixture.world.ended(far.id), Some(Ending::Reset));
    assert_eq!(fixture.drops(), ["stalled"]);
}

#[test]
fn blocks_that_were_taken_are_counted_before_their_batch_is() {
    let mut fixture = Fixture::single(100_000, 4);
    let far = fixture.unchoked(FAST);
    for begin in [0, 16384, 32768] {
        fixture.request(&far, 0, begin, 16384);
    }
    fixture.world.set_room(far.id, Some(2 * (16384 + 13) + 5));
    fixture.settle();
    assert_eq!(fixture.shard.counters.uploaded_blocks, 2);
    assert_eq!(fixture.shard.counters.uploaded_bytes, 2 * 16384);
    assert_eq!(fixture.shard.request_latency.count(), 2);
}

#[test]
fn no_descriptor_left_pauses_accepting_and_does_not_spin() {
    let mut fixture = Fixture::single(100_000, 4);
    fixture.world.fail_next(OpKind::Accept, Errno::MFILE);
    let id = fixture.connect();
    fixture.settle();
    assert_eq!(fixture.shard.conns.len(), 0);
    assert_eq!(fixture.shard.counters.accept_pauses, 1);
    fixture.pass(0.5);
    assert_eq!(fixture.shard.conns.len(), 0, "still paused");
    fixture.pass(1.0);
    assert_eq!(fixture.shard.conns.len(), 1);
    assert_eq!(fixture.world.ended(id), None);
    assert_eq!(fixture.shard.counters.accept_pauses, 1);
}

#[test]
fn connections_beyond_the_caps_are_turned_away() {
    let mut fixture = Fixture::single(100_000, 4);
    let ids: Vec<u64> = (0..81).map(|_| fixture.connect()).collect();
    fixture.settle();
    fixture.settle();
    assert_eq!(fixture.world.ended(ids[79]), None);
    assert_eq!(fixture.world.ended(ids[80]), Some(Ending::Reset), "80 of one address");
    for i in 0..21 {
        fixture.connect_from(Ipv4Addr::new(127, 0, 1, i));
    }
    fixture.settle();
    assert_eq!(fixture.shard.conns.len(), 100);
    assert_eq!(fixture.shard.counters.turned_away, 2);
    fixture.world.close(ids[0]);
    fixture.settle();
    fixture.connect_from(Ipv4Addr::new(127, 0, 2, 1));
    fixture.settle();
    assert_eq!(fixture.shard.conns.len(), 100, "a place that was left is taken");
}

#[test]
fn who_says_nothing_makes_way_when_all_places_are_taken_and_peers_do_not() {
    let mut fixture = Fixture::single(100_000, 4);
    let mut peer = fixture.far(FAST);
    fixture.settle();
    fixture.hear(&mut peer);
    let ids: Vec<u64> = (0..99)
        .map(|at| {
            let id = fixture.connect_from(Ipv4Addr::new(127, 0, 1, at));
            if at % 33 == 32 {
                fixture.settle();
                fixture.pass(0.2);
            }
            id
        })
        .collect();
    fixture.settle();
    assert_eq!(fixture.shard.conns.len(), 100);
    let turned_away = |fixture: &mut Fixture, from| {
        let id = fixture.connect_from(Ipv4Addr::new(127, 0, 2, from));
        fixture.settle();
        fixture.settle();
        fixture.world.ended(id).is_some()
    };
    assert!(turned_away(&mut fixture, 0), "they have a second");
    // Only those that came first have had it.
    fixture.pass(0.5);
    for from in 1..=33 {
        assert!(!turned_away(&mut fixture, from), "{from}");
    }
    assert!(turned_away(&mut fixture, 34));
    let ended = |fixture: &Fixture| ids.iter().filter(|id| fixture.world.ended(**id).is_some()).count();
    assert_eq!(ended(&fixture), 33);
    assert!(
        ids[..33]
            .iter()
            .all(|id| fixture.world.ended(*id) == Some(Ending::Reset))
    );
    assert_eq!(fixture.drops(), ["crowded"]);
    fixture.pass(1.2);
    for from in 35..=134 {
        turned_away(&mut fixture, from);
    }
    assert_eq!(ended(&fixture), 33 + 64, "so many are looked for in a tick");
    fixture.pass(0.1);
    for from in 135..=144 {
        turned_away(&mut fixture, from);
    }
    assert_eq!(ended(&fixture), 99);
    assert_eq!(fixture.world.ended(peer.id), None);
    assert_eq!(fixture.shard.conns.len(), 100);
}

#[test]
fn operations_cancelled_unasked_are_tried_again() {
    for errno in [Errno::CANCELED, Errno::INTR, Errno::AGAIN] {
        let mut fixture = Fixture::single(200_000, 4);
        for kind in [OpKind::Accept, OpKind::Recv, OpKind::Send, OpKind::Open, OpKind::Read] {
            fixture.world.fail_next(kind, errno);
        }
        let mut far = fixture.unchoked(FAST);
        let count = fixture.request_all(&far);
        fixture.settle();
        fixture.hear(&mut far);
        assert_eq!(far.blocks.len(), count, "{errno:?}");
        fixture.check(&far);
    }
}

#[test]
fn receive_without_a_buffer_is_armed_again() {
    let mut fixture = Fixture::single(200_000, 4);
    let mut far = fixture.unchoked(FAST);
    for _ in 0..10 {
        fixture.world.fail_next(OpKind::Recv, Errno::NOBUFS);
        fixture.request(&far, 0, 0, 16384);
        fixture.settle();
    }
    fixture.hear(&mut far);
    assert_eq!(far.blocks.len(), 10);
}

#[test]
fn torrent_that_is_removed_ends_its_connections() {
    let mut fixture = Fixture::single(400_000, 4);
    let far = fixture.unchoked(FAST);
    fixture.world.hold(OpKind::Read);
    fixture.request_all(&far);
    fixture.settle();
    fixture
        .commands
        .send(Command::Remove(fixture.torrent.info_hash()))
        .unwrap();
    fixture.world.ring();
    fixture.settle();
    assert_eq!(fixture.world.ended(far.id), Some(Ending::Orderly));
    assert_eq!(fixture.torrent.connections(), 0);
    fixture.world.release(OpKind::Read);
    fixture.settle();
    assert_eq!(
        fixture.shard.driver.pool().free(),
        4,
        "reads in flight gave their buffers back"
    );
    let again = fixture.far(FAST);
    fixture.settle();
    assert_eq!(fixture.world.ended(again.id), Some(Ending::Reset));
}

#[test]
fn stop_ends_everything_that_is_in_flight() {
    let mut fixture = Fixture::single(400_000, 4);
    let far = fixture.unchoked(FAST);
    fixture.request_all(&far);
    fixture.turn();
    fixture.commands.send(Command::Stop).unwrap();
    fixture.world.ring();
    let stopped = (0..10).any(|_| fixture.turn() == Flow::Stop);
    assert!(stopped);
    assert_eq!(fixture.shard.driver.in_flight(), 0);
    assert_eq!(fixture.world.ended(far.id), Some(Ending::Orderly));
}

#[test]
fn violation_costs_the_connection_and_is_counted() {
    let cases: [(&[u8], &str); 4] = [
        (
            b"\x00\x00\x00\x0d\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            "bad_request",
        ),
        (b"\x00\x00\x00\x05\x04\x7f\x00\x00\x00", "bad_piece"),
        (b"\x00\x00\x00\x03\x05\x00\x00", "bad_bitfield"),
        (b"\x7f\xff\xff\xff\x06", "message_too_long"),
    ];
    for (bytes, reason) in cases {
        let mut fixture = Fixture::single(200_000, 4);
        let mut healthy = fixture.unchoked(FAST);
        let bad = fixture.unchoked(PLAIN);
        fixture.world.write(bad.id, bytes);
        fixture.request(&healthy, 0, 0, 16384);
        fixture.settle();
        assert_eq!(fixture.drops(), [reason]);
        assert_eq!(fixture.world.ended(bad.id), Some(Ending::Reset));
        fixture.hear(&mut healthy);
        assert_eq!(healthy.blocks.len(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Completions in any order, late, failed and cut short; peers that come, write in any pieces and go: what is sent is
    /// the payload, nobody panics, and no buffer is lost.
    #[test]
    fn any_order_of_completions_serves_right_bytes(
        seed in 1_u64..u64::MAX,
        pool_bufs in 1_u32..6,
        steps in proptest::collection::vec((0_u8..12, any::<u8>(), any::<u16>()), 50..400),
    ) {
        let mut fixture = Fixture::single(6 * EXTENT_LEN as usize + 777, pool_bufs);
        fixture.world.shuffle(seed);
        let mut peers: Vec<Far> = Vec::new();
        // Fewer than the tries that an operation has.
        let mut disk_failures_left = 3;
        let piece_count = fixture.torrent.geometry().piece_count();
        for (what, which, value) in steps {
            let at = usize::from(which) % peers.len().max(1);
            let live = peers.get(at).filter(|far| fixture.world.ended(far.id).is_none());
            match (what, live) {
                (0 | 1, _) if peers.len() < 8 => {
                    let far = fixture.far(if value & 1 == 0 { FAST } else { PLAIN });
                    if far.fast {
                        fixture.say(&far, &Message::HaveNone);
                    }
                    fixture.say(&far, &Message::Interested);
                    peers.push(far);
                }
                (2..=5, Some(far)) => {
                    // The last piece is the shorter one.
                    let piece = u32::from(value) % (piece_count - 1);
                    for i in 0..u32::from(which % 8) {
                        fixture.request(far, (piece + i) % (piece_count - 1), u32::from(value % 3) * 16384, 16384);
                    }
                }
                (6, Some(far)) => {
                    let (piece, begin, length) = (u32::from(value) % (piece_count - 1), 0, 16384);
                    fixture.say(far, &Message::Cancel { piece, begin, length });
                }
                (7, Some(far)) => fixture.world.set_room(far.id, Some(usize::from(value))),
                (8, Some(far)) if value % 4 == 0 => fixture.world.close(far.id),
                (9, _) => {
                    let errno = [Errno::CANCELED, Errno::INTR, Errno::NOBUFS, Errno::AGAIN][usize::from(which % 4)];
                    let kind = [OpKind::Recv, OpKind::Send, OpKind::Read, OpKind::Open][usize::from(value % 4)];
                    let on_disk = matches!(kind, OpKind::Read | OpKind::Open);
                    let retried = kind == OpKind::Recv || errno != Errno::NOBUFS;
                    if retried && (!on_disk || disk_failures_left > 0) {
                        disk_failures_left -= i32::from(on_disk);
                        fixture.world.fail_next(kind, errno);
                    }
                }
                (10, Some(far)) => {
                    let message = if value & 1 == 0 { Message::Interested } else { Message::NotInterested };
                    fixture.say(far, &message);
                }
                _ => fixture.now.set(fixture.now.get() + Duration::from_millis(u64::from(value % 500))),
            }
            fixture.turn();
        }
        for far in &peers {
            fixture.world.set_room(far.id, None);
        }
        for _ in 0..40 {
            fixture.settle();
        }
        for far in &mut peers {
            fixture.hear(far);
            fixture.check(far);
        }
        prop_assert_eq!(fixture.shard.counters.disk_errors, 0);
        fixture.commands.send(Command::Remove(fixture.torrent.info_hash())).unwrap();
        fixture.world.ring();
        fixture.settle();
        prop_assert_eq!(fixture.shard.driver.pool().free(), pool_bufs, "a buffer is lost");
        prop_assert_eq!((fixture.shard.peers, fixture.shard.interested, fixture.shard.unchoked), (0, 0, 0));
        prop_assert_eq!(fixture.torrent.connections(), 0);
    }
}
