//! Peers that a download is to survive: those that lie, keep silent, choke, leave, refuse, and send what nobody asked for.

use super::fixture::{FAST, PIECE_LEN, PLAIN};
use super::leeching::{Giver, Leeching};
use super::*;
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::BLOCK_LEN;
use crate::shard::late::{LATE_MAX, LATE_MIN};

#[test]
fn peer_that_sends_a_wrong_piece_is_shut_out_and_the_others_complete_it() {
    let mut leeching = Leeching::new(1_000_000);
    let mut liar = leeching.giver(2000, FAST);
    liar.lies = true;
    leeching.give_all(&mut liar);
    assert_eq!(leeching.fixture.torrent.have_count(), 0);
    assert_eq!(leeching.fixture.drops(), ["banned"]);
    assert!(leeching.told().iter().any(|told| told.starts_with("Banned")));
    assert!(
        leeching.file().iter().all(|byte| *byte == 0),
        "nothing wrong is written"
    );
    // The same peer again, and an honest one of the same address.
    let again = leeching.giver(2000, FAST);
    assert!(leeching.fixture.world.ended(again.id).is_some());
    let mut honest = leeching.giver(2001, FAST);
    leeching.give_all(&mut honest);
    assert!(leeching.is_complete());
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn liar_among_honest_peers_is_found_by_the_blocks_it_sent() {
    let mut leeching = Leeching::new(2_000_000);
    let mut givers: Vec<Giver> = (0..5).map(|at| leeching.giver(2000 + at, FAST)).collect();
    givers[3].lies = true;
    leeching.unchoke(&givers);
    for _ in 0..2000 {
        let mut any = 0;
        for giver in &mut givers {
            if leeching.fixture.world.ended(giver.id).is_none() {
                any += leeching.give(giver, 1);
            }
        }
        if any == 0 {
            break;
        }
    }
    assert!(leeching.is_complete(), "{:?}", leeching.told());
    assert!(leeching.file() == leeching.fixture.payload);
    let banned = leeching.told().iter().filter(|told| told.starts_with("Banned")).count();
    assert_eq!(banned, 1);
    assert!(
        leeching.fixture.shard.counters.pieces_bad <= 2,
        "{}",
        leeching.fixture.shard.counters.pieces_bad
    );
}

#[test]
fn what_a_peer_was_asked_for_is_asked_of_another_when_it_chokes_rejects_or_leaves() {
    for how in ["choke", "reject", "leave"] {
        for reserved in [FAST, PLAIN] {
            if how == "reject" && reserved == PLAIN {
                continue;
            }
            let mut leeching = Leeching::new(300_000);
            let mut first = leeching.giver(2000, reserved);
            leeching.unchoke([&first]);
            leeching.hear(&mut first);
            assert!(first.asked.len() >= 5, "never fewer than five");
            match how {
                "leave" => leeching.fixture.world.close(first.id),
                "choke" => {
                    leeching.say(&first, &Message::Choke);
                    if first.fast {
                        for (piece, begin, length) in first.asked.clone() {
                            leeching.say(&first, &Message::Reject { piece, begin, length });
                        }
                    }
                }
                _ => {
                    for (piece, begin, length) in first.asked.drain(..).collect::<Vec<_>>() {
                        leeching.say(&first, &Message::Reject { piece, begin, length });
                    }
                    leeching.say(&first, &Message::Choke);
                }
            }
            leeching.settle();
            let mut second = leeching.giver(2001, reserved);
            leeching.give_all(&mut second);
            assert!(leeching.is_complete(), "{how}: {:?}", leeching.fixture.drops());
            assert!(leeching.file() == leeching.fixture.payload);
        }
    }
}

#[test]
fn peer_that_sends_nothing_for_a_minute_is_left_one_request() {
    let mut leeching = Leeching::new(300_000);
    let mut silent = leeching.giver(2000, FAST);
    leeching.unchoke([&silent]);
    leeching.hear(&mut silent);
    leeching.pass(70);
    leeching.hear(&mut silent);
    assert_eq!(silent.asked.len(), 1, "{:?}", silent.said);
    let mut other = leeching.giver(2001, FAST);
    leeching.give_all(&mut other);
    assert!(leeching.is_complete(), "nobody waits for the one either");
}

#[test]
fn unasked_blocks_harm_nobody_and_a_flood_of_them_ends_the_connection() {
    let mut leeching = Leeching::new(2_000_000);
    let giver = leeching.giver(2000, FAST);
    let data = bytes(BLOCK_LEN as usize, 5);
    for at in 0..5000_u32 {
        let (piece, begin) = (at % 30, 0);
        leeching.say(
            &giver,
            &Message::Piece {
                piece,
                begin,
                data: &data,
            },
        );
        if at % 100 == 0 {
            leeching.settle();
        }
    }
    leeching.settle();
    assert_eq!(leeching.fixture.drops(), ["block_flood"]);
    let mut other = leeching.giver(2001, FAST);
    leeching.give_all(&mut other);
    assert!(leeching.is_complete());
    assert!(leeching.file() == leeching.fixture.payload);
}

#[test]
fn few_slow_peers_do_not_keep_a_fast_one_from_its_work() {
    let mut leeching = Leeching::with(2_000_000, 4 * u64::from(PIECE_LEN));
    let mut slow: Vec<Giver> = (0..2).map(|at| leeching.giver(2000 + at, FAST)).collect();
    leeching.unchoke(&slow);
    slow.iter_mut().for_each(|giver| leeching.hear(giver));
    let mut fast = leeching.giver(3000, FAST);
    leeching.unchoke([&fast]);
    // Well before the slow ones are given up.
    for _ in 0..30 {
        leeching.pass(1);
        while leeching.give(&mut fast, usize::MAX) > 0 {}
    }
    assert!(
        leeching.is_complete(),
        "{} pieces",
        leeching.fixture.torrent.have_count()
    );
    assert!(leeching.file() == leeching.fixture.payload);
}

/// One that has everything and sends four blocks a second, as is known of it by now.
fn slow_giver(leeching: &mut Leeching) -> Giver {
    let mut slow = leeching.giver(2000, FAST);
    leeching.unchoke([&slow]);
    for _ in 0..10 {
        leeching.give(&mut slow, 4);
        leeching.pass(1);
    }
    leeching.hear(&mut slow);
    slow
}

/// Two have everything, and the one that is slow has been asked for much of it.
#[test]
fn what_a_slow_peer_would_send_late_is_taken_from_it_and_comes_once() {
    let mut leeching = Leeching::new(3_000_000);
    let mut slow = slow_giver(&mut leeching);
    assert!(slow.asked.len() > 8, "three seconds' worth: {}", slow.asked.len());
    let before = slow.asked.len();
    let mut fast = leeching.giver(3000, FAST);
    leeching.give_all(&mut fast);
    leeching.hear(&mut slow);
    assert!(slow.asked.len() >= before && !slow.said.contains(&"Cancel".to_owned()));
    // Before it is asked for the same once more.
    leeching.pass(1);
    leeching.hear(&mut slow);
    leeching.hear(&mut fast);
    let mut taken = fast.asked.len();
    assert!(taken > 0 && slow.asked.iter().all(|asked| !fast.asked.contains(asked)));
    assert_eq!(before, taken + slow.asked.len());
    // As much as it sends in a moment, and again.
    while slow.asked.len() > 1 {
        assert!(leeching.give(&mut fast, usize::MAX) > 0);
        leeching.fixture.pass(0.1);
        leeching.hear(&mut slow);
        leeching.hear(&mut fast);
        taken += fast.asked.len();
    }
    assert_eq!(before, taken + slow.asked.len());
    assert_eq!(slow.asked.len(), 1, "what comes within a quarter of a second stays");
    assert_eq!(leeching.fixture.shard.counters.requests_taken_over, taken as u64);
    leeching.give_all(&mut fast);
    leeching.give(&mut slow, usize::MAX);
    assert!(leeching.is_complete() && leeching.file() == leeching.fixture.payload);
    assert_eq!(leeching.fixture.shard.counters.wasted_bytes, 0);
}

/// What was taken from it was on its way already, and comes.
#[test]
fn what_comes_though_it_was_taken_over_is_kept_and_less_is_taken_from_that_peer() {
    let mut leeching = Leeching::new(3_000_000);
    let slow = slow_giver(&mut leeching);
    let asked = slow.asked.clone();
    let mut fast = leeching.giver(3000, FAST);
    leeching.give_all(&mut fast);
    leeching.fixture.pass(0.1);
    leeching.hear(&mut fast);
    let on_its_way = |leeching: &Leeching| {
        let shard = &leeching.fixture.shard;
        let download = shard.downloads.values().next().unwrap();
        let peers = download
            .peers
            .values()
            .filter_map(|owner| shard.conns.get(*owner)?.peer());
        peers
            .filter_map(|peer| Some(peer.leech.as_ref()?.on_its_way))
            .max()
            .unwrap()
    };
    assert!(!fast.asked.is_empty() && on_its_way(&leeching) == LATE_MIN);
    let taken = fast.asked.clone();
    taken.iter().for_each(|block| leeching.send(&slow, *block));
    leeching.settle();
    assert!(on_its_way(&leeching) > LATE_MIN);
    assert_eq!(
        leeching.fixture.shard.counters.wasted_bytes, 0,
        "it came from one of two"
    );
    for block in asked {
        if !leeching.is_complete() {
            assert!(on_its_way(&leeching) <= LATE_MAX);
        }
        leeching.send(&slow, block);
        leeching.settle();
    }
    assert!(leeching.is_complete() && leeching.file() == leeching.fixture.payload);
}

/// Nobody else has what it has been asked for, until another says so of one piece.
#[test]
fn late_block_is_asked_of_another_as_soon_as_that_has_it() {
    let mut leeching = Leeching::new(3_000_000);
    let mut slow = slow_giver(&mut leeching);
    let mut has = Bitfield::full(leeching.fixture.torrent.geometry().piece_count());
    for (piece, ..) in &slow.asked {
        has.clear(leeching.fixture.torrent.geometry().piece_index(*piece).unwrap());
    }
    let id = leeching.fixture.world.connect(SocketAddr::from(([127, 0, 0, 1], 3000)));
    let mut fast = leeching.greet_with(id, 3000, FAST, &has);
    leeching.give_all(&mut fast);
    assert!(fast.asked.is_empty() && !slow.asked.is_empty());

    let (late, ..) = *slow.asked.back().unwrap();
    leeching.say(&fast, &Message::Have(late));
    leeching.settle();
    leeching.fixture.pass(0.1);
    leeching.hear(&mut fast);
    leeching.hear(&mut slow);
    assert!(!fast.asked.is_empty(), "within a tenth of a second");
    assert!(fast.asked.iter().all(|(piece, ..)| *piece == late));
    assert!(fast.asked.iter().all(|asked| !slow.asked.contains(asked)));
    leeching.give_all(&mut fast);
    while leeching.give(&mut slow, usize::MAX) > 0 {}
    assert!(leeching.is_complete() && leeching.file() == leeching.fixture.payload);
    assert_eq!(leeching.fixture.shard.counters.wasted_bytes, 0);
}

/// Peers that stay connected and send nothing but keep-alives, while another gives all it is asked for.
fn pass_beside(leeching: &mut Leeching, seconds: u64, silent: &[&Giver], giving: &mut Giver) {
    for second in 0..seconds {
        if second % 60 == 0 {
            silent.iter().for_each(|giver| leeching.say(giver, &Message::KeepAlive));
            leeching.say(giving, &Message::KeepAlive);
        }
        leeching.pass(1);
        while leeching.give(giving, usize::MAX) > 0 {}
    }
}

#[test]
fn block_that_two_were_asked_for_who_send_nothing_comes_from_a_third() {
    let mut leeching = Leeching::new(300_000);
    let one = leeching.giver(2000, FAST);
    leeching.unchoke([&one]);
    // Asked for what is left in its turn, it leaves the first one with the last block, and the next with nothing else.
    let mut other = leeching.giver(2001, FAST);
    leeching.give_all(&mut other);
    leeching.fixture.world.close(other.id);
    leeching.settle();
    let two = leeching.giver(2002, FAST);
    leeching.unchoke([&two]);
    leeching.pass(4);
    let mut honest = leeching.giver(2003, FAST);
    leeching.give_all(&mut honest);
    pass_beside(&mut leeching, 70, &[&one, &two], &mut honest);
    assert!(
        leeching.is_complete(),
        "{} pieces",
        leeching.fixture.torrent.have_count()
    );
}

/// Two are suspects, since a piece that came from both was wrong; the first was asked for a piece of its own, and stops.
#[test]
fn suspect_that_goes_silent_or_chokes_does_not_keep_its_piece() {
    for chokes in [false, true] {
        let mut leeching = Leeching::new(300_000);
        let mut suspect = leeching.giver(2000, FAST);
        let mut liar = leeching.giver(3000, FAST);
        liar.lies = true;
        liar.said.clear();
        leeching.unchoke([&suspect]);
        leeching.give(&mut suspect, 3);
        leeching.say(&suspect, &Message::Choke);
        for (piece, begin, length) in suspect.asked.drain(..).collect::<Vec<_>>() {
            leeching.say(&suspect, &Message::Reject { piece, begin, length });
        }
        leeching.unchoke([&liar]);
        while leeching.fixture.shard.counters.pieces_bad == 0 {
            assert!(leeching.give(&mut liar, 1) > 0);
        }
        leeching.fixture.world.close(liar.id);
        leeching.unchoke([&suspect]);
        assert_eq!(leeching.give(&mut suspect, 1), 1, "of a piece of its own");
        if chokes {
            leeching.say(&suspect, &Message::Choke);
        }
        let mut honest = leeching.giver(4000, FAST);
        leeching.give_all(&mut honest);
        pass_beside(&mut leeching, 70, &[&suspect], &mut honest);
        assert!(
            leeching.is_complete(),
            "{} pieces",
            leeching.fixture.torrent.have_count()
        );
    }
}

#[test]
fn blocks_that_a_peer_was_not_asked_for_spoil_nothing() {
    let mut leeching = Leeching::new(300_000);
    let mut giver = leeching.giver(2000, FAST);
    let mut injector = leeching.giver(3000, FAST);
    leeching.unchoke([&giver]);
    while !leeching.is_complete() {
        leeching.hear(&mut giver);
        // The block that is to come next, before it comes.
        if let Some(&(piece, begin, length)) = giver.asked.front() {
            let data = &vec![9; length as usize];
            leeching.say(&injector, &Message::Piece { piece, begin, data });
            leeching.settle();
        }
        assert!(leeching.give(&mut giver, 1) > 0);
    }
    assert_eq!(leeching.fixture.shard.counters.pieces_bad, 0);
    assert_eq!(injector.asks, 0);
    leeching.hear(&mut injector);
    let wasted = leeching.fixture.shard.counters.wasted_bytes;
    assert_eq!(wasted, 300_000, "each was sent twice");
}

#[test]
fn what_a_convict_has_sent_of_other_pieces_is_had_anew() {
    let mut leeching = Leeching::with(4_000_000, 16 << 20);
    let mut liar = leeching.giver(2000, FAST);
    leeching.unchoke([&liar]);
    // Until it is trusted with many at a time.
    while leeching.fixture.torrent.have_count() < 20 {
        assert!(leeching.give(&mut liar, usize::MAX) > 0);
    }
    leeching.hear(&mut liar);
    let asked: Vec<_> = liar.asked.drain(..).collect();
    let first = asked[0].0;
    let mut begun = std::collections::BTreeSet::from([first]);
    let one_of_each: Vec<_> = asked.iter().filter(|(piece, ..)| begun.insert(*piece)).collect();
    let whole: Vec<_> = asked.iter().filter(|(piece, ..)| *piece == first).collect();
    assert!(one_of_each.len() > 4);
    for &(piece, begin, length) in one_of_each.into_iter().chain(whole) {
        let data = &vec![9; length as usize];
        leeching.say(&liar, &Message::Piece { piece, begin, data });
    }
    leeching.settle();
    assert_eq!(leeching.fixture.drops(), ["banned"]);
    let mut honest = leeching.giver(2001, FAST);
    leeching.give_all(&mut honest);
    assert!(leeching.is_complete() && leeching.file() == leeching.fixture.payload);
    // Its piece, and perhaps the last one, which is a block long.
    assert!(leeching.fixture.shard.counters.pieces_bad <= 2);
}

#[test]
fn peer_that_refuses_a_piece_is_not_asked_for_it_over_and_over() {
    let mut leeching = Leeching::new(300_000);
    let mut giver = leeching.giver(2000, FAST);
    leeching.unchoke([&giver]);
    let mut rounds = 0;
    while !leeching.is_complete() {
        leeching.hear(&mut giver);
        let (refused, given): (Vec<_>, Vec<_>) = giver
            .asked
            .drain(..)
            .partition(|(piece, ..)| *piece == 1 && rounds < 20);
        for (piece, begin, length) in refused {
            leeching.say(&giver, &Message::Reject { piece, begin, length });
        }
        giver.asked = given.into();
        leeching.give(&mut giver, usize::MAX);
        leeching.pass(1);
        rounds += 1;
        assert!(rounds < 60);
    }
    let blocks = 300_000_usize.div_ceil(BLOCK_LEN as usize);
    assert!(rounds > 20 && giver.asks < 2 * blocks, "{} for {blocks}", giver.asks);
}

#[test]
fn what_those_who_left_have_begun_makes_way_when_memory_is_short() {
    let mut leeching = Leeching::with(2_000_000, 4 * u64::from(PIECE_LEN));
    let mut givers: Vec<Giver> = (0..4).map(|at| leeching.giver(2000 + at, FAST)).collect();
    for giver in &mut givers {
        leeching.unchoke([&*giver]);
        // Part of a piece.
        leeching.give(giver, 3);
        leeching.fixture.world.close(giver.id);
        leeching.settle();
    }
    assert!(leeching.fixture.shard.assembly.reserved() > 0);
    // All the rest is with others.
    let rest = 3 * i64::from(PIECE_LEN);
    leeching.fixture.shard.assembly.reserve(rest);
    leeching.pass(25);
    let shard = &mut leeching.fixture.shard;
    shard.assembly.reserve(-rest);
    assert_eq!(shard.assembly.reserved(), 0);
    assert_eq!(shard.assembly.room(PIECE_LEN.into()), 4);
    let mut giver = leeching.giver(3000, FAST);
    leeching.give_all(&mut giver);
    assert!(leeching.is_complete() && leeching.file() == leeching.fixture.payload);
}
