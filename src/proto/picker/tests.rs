use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::geometry::BLOCK_LEN;
use super::*;

const BLOCKS: u32 = 4;

/// So many pieces of four blocks, the last a block and a byte long.
fn geometry(pieces: u32) -> Geometry {
    let piece_len = BLOCKS * BLOCK_LEN;
    Geometry::new(
        piece_len,
        u64::from(pieces - 1) * u64::from(piece_len) + u64::from(BLOCK_LEN) + 1,
    )
    .unwrap()
}

fn piece(geometry: &Geometry, index: u32) -> PieceIndex {
    geometry.piece_index(index).unwrap()
}

fn picker(pieces: u32) -> Picker {
    Picker::new(geometry(pieces), Bitfield::new(pieces), 1000, 7)
}

fn bits(pieces: u32, has: &[u32]) -> Pieces {
    let mut bits = Bitfield::new(pieces);
    for &index in has {
        bits.set(piece(&geometry(pieces), index));
    }
    Pieces::Bits(bits)
}

fn pick(picker: &mut Picker, peer: PeerKey, has: &Pieces, count: usize) -> Vec<BlockRequest> {
    let mut out = Vec::new();
    picker.pick(peer, has, Asking::default(), count, &mut out);
    out
}

/// The same for a peer that has been without work for a while.
fn pick_idle(picker: &mut Picker, peer: PeerKey, count: usize) -> Vec<BlockRequest> {
    let mut out = Vec::new();
    let asking = Asking {
        again: Again::OfAnybody,
        ..Asking::default()
    };
    picker.pick(peer, &Pieces::HaveAll, asking, count, &mut out);
    out
}

fn pieces_of(blocks: &[BlockRequest]) -> BTreeSet<u32> {
    blocks.iter().map(|block| block.piece().get()).collect()
}

/// A picker behind its first, random pieces: it has the first four.
fn settled(pieces: u32) -> Picker {
    let Pieces::Bits(have) = bits(pieces, &[0, 1, 2, 3]) else {
        unreachable!()
    };
    Picker::new(geometry(pieces), have, 1000, 7)
}

#[test]
fn every_block_is_asked_for_once_and_then_once_more() {
    let mut picker = picker(10);
    picker.on_pieces(&Pieces::HaveAll);
    let all: BTreeSet<BlockRequest> = geometry(10)
        .pieces()
        .flat_map(|piece| geometry(10).blocks(piece))
        .collect();
    let first = pick(&mut picker, 1, &Pieces::HaveAll, 1000);
    assert_eq!(first.len(), all.len());
    assert_eq!(first.iter().copied().collect::<BTreeSet<_>>(), all);
    assert!(picker.is_endgame());
    assert_eq!(pick(&mut picker, 2, &Pieces::HaveAll, 1000), [], "as long as it comes");
    assert_eq!(pick_idle(&mut picker, 1, 1000), [], "not twice of one peer");
    assert_eq!(pick_idle(&mut picker, 2, 1000).len(), all.len());
    assert_eq!(pick_idle(&mut picker, 3, 1000), [], "of two peers at most");
}

#[test]
fn peer_finishes_what_it_has_begun_and_has_pieces_of_its_own() {
    let mut picker = picker(10);
    let begun = pick(&mut picker, 1, &Pieces::HaveAll, 1);
    let more = pick(&mut picker, 1, &Pieces::HaveAll, 1);
    assert_eq!(pieces_of(&begun), pieces_of(&more));
    assert_ne!(begun, more);
    let others = pick(&mut picker, 2, &Pieces::HaveAll, 1);
    assert_ne!(pieces_of(&begun), pieces_of(&others));
}

#[test]
fn peer_helps_others_when_it_can_begin_nothing() {
    for partials_max in [1, 10] {
        let mut picker = picker(10);
        picker.set_partials_max(partials_max);
        let begun = pick(&mut picker, 1, &Pieces::HaveAll, 1);
        // With room for more it is the only piece that this one has.
        let only = bits(10, &[begun[0].piece().get()]);
        let has = if partials_max == 1 { &Pieces::HaveAll } else { &only };
        let helped = pick(&mut picker, 2, has, 1);
        assert_eq!(pieces_of(&begun), pieces_of(&helped));
        assert_ne!(begun, helped);
    }
}

#[test]
fn peer_that_is_idle_is_asked_for_what_slow_ones_have_not_sent() {
    let mut picker = picker(10);
    picker.set_partials_max(1);
    let slow = pick(&mut picker, 1, &Pieces::HaveAll, 1000);
    assert_eq!(
        pick(&mut picker, 2, &Pieces::HaveAll, 1000),
        [],
        "there is no room for another piece"
    );
    assert_eq!(pick_idle(&mut picker, 2, 1000), slow);
    assert_eq!(
        picker.on_block(2, &slow[0]),
        Arrived::New {
            cancel: Some(1),
            whole: slow.len() == 1
        }
    );
}

#[test]
fn what_was_begun_by_one_who_left_is_finished_first() {
    let mut picker = picker(10);
    let begun = pick(&mut picker, 1, &Pieces::HaveAll, 2);
    picker.on_block(1, &begun[0]);
    picker.give_back(1, &begun[1]);
    picker.let_go(1);
    let next = pick(&mut picker, 2, &Pieces::HaveAll, 1);
    assert_eq!(next, [begun[1]]);
}

#[test]
fn rarest_piece_is_begun_first_and_the_first_few_at_random() {
    let mut rarest = settled(20);
    for count in 0..20 {
        // Piece 19 is had by one peer, piece 18 by two ...
        rarest.on_pieces(&bits(20, &(0..=count).collect::<Vec<_>>()));
    }
    assert_eq!(rarest.availability(piece(&geometry(20), 19)), 1);
    assert_eq!(rarest.availability(piece(&geometry(20), 4)), 16);
    for expected in (4..20).rev() {
        let len = if expected == 19 { 2 } else { BLOCKS as usize };
        let picked = pick(&mut rarest, 1, &Pieces::HaveAll, len);
        assert_eq!(pieces_of(&picked), BTreeSet::from([expected]));
    }
    let begun: BTreeSet<u32> = (1..100)
        .flat_map(|seed| {
            let mut picker = Picker::new(geometry(20), Bitfield::new(20), 1000, seed);
            picker.on_pieces(&bits(20, &(0..19).collect::<Vec<_>>()));
            pieces_of(&pick(&mut picker, 1, &Pieces::HaveAll, 1))
        })
        .collect();
    assert!(begun.len() > 10, "{begun:?}");
}

#[test]
fn peer_is_asked_only_for_what_it_has() {
    let mut picker = settled(300);
    let has = bits(300, &[2, 250]);
    picker.on_pieces(&has);
    picker.on_pieces(&Pieces::HaveAll);
    assert!(picker.is_interesting(&has));
    assert_eq!(pieces_of(&pick(&mut picker, 1, &has, 100)), BTreeSet::from([250]));
    assert!(!picker.is_interesting(&bits(300, &[1, 2])));
    assert!(!picker.is_interesting(&Pieces::HaveNone));
    assert_eq!(pick(&mut picker, 1, &Pieces::HaveNone, 100), []);
}

#[test]
fn peer_with_little_is_found_what_it_has_behind_many_rarer_pieces() {
    let mut picker = settled(3000);
    let has = bits(3000, &[1234, 2345]);
    for _ in 0..3 {
        picker.on_pieces(&has);
    }
    assert_eq!(pieces_of(&pick(&mut picker, 1, &has, 8)), BTreeSet::from([1234, 2345]));
}

#[test]
fn suggested_pieces_go_before_the_rarest_and_only_allowed_ones_while_choked() {
    let mut picker = settled(20);
    let (five, six) = (piece(&geometry(20), 5), piece(&geometry(20), 6));
    let mut out = Vec::new();
    let asking = Asking {
        suggested: &[five],
        ..Asking::default()
    };
    picker.pick(1, &Pieces::HaveAll, asking, 1, &mut out);
    assert_eq!(pieces_of(&out), BTreeSet::from([5]));
    out.clear();
    let asking = Asking {
        only: Some(&[six]),
        ..Asking::default()
    };
    picker.pick(2, &Pieces::HaveAll, asking, 100, &mut out);
    assert_eq!(pieces_of(&out), BTreeSet::from([6]), "not even what was begun");
    out.clear();
    picker.pick(2, &Pieces::HaveAll, asking, 100, &mut out);
    assert_eq!(out, []);
}

/// Memory is short, so that several give blocks of one piece: who is not known yet gives some of one, until that is verified.
#[test]
fn peer_that_may_have_part_in_one_piece_is_asked_for_no_other_before_that_is_verified() {
    let mut picker = settled(20);
    picker.set_partials_max(2);
    let one = Asking {
        stakes_max: 1,
        ..Asking::default()
    };
    let ask = |picker: &mut Picker, peer, count, asking| {
        let mut out = Vec::new();
        picker.pick(peer, &Pieces::HaveAll, asking, count, &mut out);
        out
    };
    let first = ask(&mut picker, 1, 1000, one);
    assert_eq!(first.len(), BLOCKS as usize, "one piece");
    // Another helps with the one, or begins another, and has no part in a third.
    let second = ask(&mut picker, 2, 2, one);
    let both = ask(&mut picker, 3, 1000, one);
    assert_eq!((pieces_of(&second).len(), pieces_of(&both)), (1, pieces_of(&second)));
    assert_eq!(ask(&mut picker, 3, 1000, one), []);
    let idle = Asking {
        again: Again::OfAnybody,
        ..one
    };
    let again = ask(&mut picker, 3, 1000, idle);
    assert_eq!(
        pieces_of(&again),
        pieces_of(&second),
        "not what the first was asked for"
    );
    // Whoever gives back all that it was asked for has no part any more.
    first.iter().for_each(|block| assert!(picker.give_back(1, block)));
    let anew = ask(&mut picker, 1, 1, one);
    assert_eq!(anew.len(), 1);
    let piece = second[0].piece();
    for block in geometry(20).blocks(piece) {
        let giver = if second.contains(&block) { 2 } else { 3 };
        picker.on_block(giver, &block);
    }
    assert_eq!(ask(&mut picker, 2, 1, one), [], "it is not verified");
    picker.on_verified(piece);
    assert_eq!(ask(&mut picker, 2, 1, one).len(), 1);
    // A suspect's one piece is its own, whatever it has given of others before.
    let suspect = Asking { alone: true, ..one };
    picker.set_partials_max(5);
    assert_eq!(ask(&mut picker, 2, 1000, suspect).len(), BLOCKS as usize);
    assert_eq!(ask(&mut picker, 2, 1000, suspect), []);
}

/// What it has begun before may have to wait for somebody who is not suspected, and there may be nobody.
#[test]
fn suspect_is_asked_for_a_piece_of_its_own_however_many_it_has_begun_before() {
    let mut picker = settled(20);
    let asking = Asking {
        begun_max: 2,
        ..Asking::default()
    };
    let mut before = Vec::new();
    picker.pick(1, &Pieces::HaveAll, asking, 2 * BLOCKS as usize - 1, &mut before);
    assert_eq!(pieces_of(&before).len(), 2);
    let alone = Asking { alone: true, ..asking };
    let mut own = Vec::new();
    picker.pick(1, &Pieces::HaveAll, alone, 1000, &mut own);
    assert_eq!(pieces_of(&own).len(), 2, "as many again, and no third");
    assert!(pieces_of(&own).is_disjoint(&pieces_of(&before)));
}

/// Found by the simulated swarm: of the one piece that was missing somebody had sent some and left, and who was left was suspected.
#[test]
fn suspect_begins_anew_what_nobody_is_asked_for_any_more_when_nothing_else_is_missing() {
    let mut picker = picker(1);
    let begun = pick(&mut picker, 1, &Pieces::HaveAll, 1);
    let alone = Asking {
        alone: true,
        ..Asking::default()
    };
    let ask = |picker: &mut Picker| {
        let mut asked = Vec::new();
        picker.pick(2, &Pieces::HaveAll, alone, 1000, &mut asked);
        asked
    };
    assert_eq!(ask(&mut picker), []);
    assert_eq!(picker.give_up_for(&Pieces::HaveAll, alone), None, "it is asked for");
    picker.on_block(1, &begun[0]);
    picker.let_go(1);
    assert_eq!(picker.give_up_for(&Pieces::HaveNone, alone), None, "it has not got it");
    assert_eq!(picker.give_up_for(&Pieces::HaveAll, alone), Some(begun[0].piece()));
    assert_eq!(ask(&mut picker).len(), 2, "all of it");
    assert_eq!(picker.give_up_for(&Pieces::HaveAll, alone), None, "it is its own");
}

#[test]
fn suspect_is_asked_for_pieces_of_its_own() {
    let mut picker = settled(20);
    let begun = pick(&mut picker, 1, &Pieces::HaveAll, 1);
    let alone = Asking {
        alone: true,
        ..Asking::default()
    };
    let mut own = Vec::new();
    picker.pick(2, &Pieces::HaveAll, alone, 2, &mut own);
    assert!(pieces_of(&begun).is_disjoint(&pieces_of(&own)));
    let mut others = pick(&mut picker, 1, &Pieces::HaveAll, 1000);
    assert!(pieces_of(&others).is_disjoint(&pieces_of(&own)));
    let mut rest = Vec::new();
    picker.pick(2, &Pieces::HaveAll, alone, 2, &mut rest);
    assert_eq!(pieces_of(&rest), pieces_of(&own));
    // It leaves: others may have the rest.
    for block in own.iter().chain(&rest).skip(1) {
        assert!(picker.give_back(2, block));
    }
    picker.on_block(2, &own[0]);
    picker.let_go(2);
    others = pick(&mut picker, 1, &Pieces::HaveAll, 1000);
    assert_eq!(pieces_of(&others), pieces_of(&own));
}

#[test]
fn no_more_pieces_are_begun_than_there_is_memory_for() {
    let mut picker = Picker::new(geometry(20), Bitfield::new(20), 2, 7);
    let picked = pick(&mut picker, 1, &Pieces::HaveAll, 1000);
    assert_eq!(pieces_of(&picked).len(), 2);
    assert_eq!(pick(&mut picker, 2, &Pieces::HaveAll, 1000), [], "this is no endgame");
    for block in &picked {
        picker.on_block(1, block);
    }
    picker.on_verified(picked[0].piece());
    assert_eq!(pieces_of(&pick(&mut picker, 2, &Pieces::HaveAll, 1000)).len(), 1);
}

#[test]
fn block_that_comes_from_one_of_two_is_cancelled_at_the_other() {
    let mut picker = picker(1);
    let first = pick(&mut picker, 1, &Pieces::HaveAll, 10);
    let second = pick_idle(&mut picker, 2, 10);
    assert_eq!(first, second);
    let (cancel, whole) = (Some(1), false);
    assert_eq!(picker.on_block(2, &first[0]), Arrived::New { cancel, whole });
    assert_eq!(picker.on_block(1, &first[0]), Arrived::Again);
    let (cancel, whole) = (Some(2), true);
    assert_eq!(picker.on_block(1, &first[1]), Arrived::New { cancel, whole });
    picker.on_verified(first[0].piece());
    assert!(picker.is_complete() && !picker.is_interesting(&Pieces::HaveAll));
    assert_eq!(picker.on_block(2, &first[1]), Arrived::Again);
}

#[test]
fn block_that_one_was_asked_for_is_handed_over_to_another() {
    let mut picker = picker(1);
    let geometry = geometry(1);
    let blocks = pick(&mut picker, 1, &Pieces::HaveAll, 2);
    assert!(!picker.hand_over(&blocks[0], 2, 3), "it was asked of another");
    assert!(picker.hand_over(&blocks[0], 1, 2));
    assert!(!picker.hand_over(&blocks[0], 1, 2), "not twice");
    assert!(!picker.give_back(1, &blocks[0]));
    // The first sends it all the same.
    let new = |cancel| Arrived::New { cancel, whole: false };
    assert_eq!(picker.on_block(1, &blocks[0]), new(Some(2)));
    assert!(!picker.hand_over(&blocks[0], 2, 1), "it is here");
    assert!(picker.hand_over(&blocks[1], 1, 2) && picker.give_back(2, &blocks[1]));
    assert_eq!(pick(&mut picker, 3, &Pieces::HaveAll, 1), [blocks[1]]);
    assert!(picker.on_failed(piece(&geometry, 0)).contains(&1));
}

/// Whoever sends what it was asked for would send it twice.
#[test]
fn of_those_who_send_nothing_alone_is_taken_what_is_under_way() {
    let mut picker = picker(10);
    picker.set_partials_max(2);
    let sends = pick(&mut picker, 1, &Pieces::HaveAll, BLOCKS as usize);
    let silent = pick(&mut picker, 2, &Pieces::HaveAll, BLOCKS as usize);
    let mut again = |of| {
        let asking = Asking {
            again: of,
            ..Asking::default()
        };
        let mut out = Vec::new();
        picker.pick(3, &Pieces::HaveAll, asking, 1000, &mut out);
        out
    };
    assert_eq!(again(Again::Of(&[])), []);
    assert_eq!(again(Again::Of(&[2, 7])), silent);
    assert_eq!(again(Again::OfAnybody), sends);
}

#[test]
fn block_that_is_given_back_is_asked_for_again() {
    let mut picker = picker(1);
    let blocks = pick(&mut picker, 1, &Pieces::HaveAll, 10);
    assert!(picker.give_back(1, &blocks[0]));
    assert!(!picker.give_back(1, &blocks[0]), "once");
    assert!(!picker.give_back(2, &blocks[1]), "by whom it was asked of");
    assert!(!picker.is_endgame());
    assert_eq!(
        pick_idle(&mut picker, 2, 10),
        [blocks[0], blocks[1]],
        "then the endgame"
    );
    // It comes late all the same, from the one that gave it back.
    let (cancel, whole) = (Some(2), false);
    assert_eq!(picker.on_block(1, &blocks[0]), Arrived::New { cancel, whole });
}

#[test]
fn piece_that_is_wrong_is_downloaded_anew_and_tells_who_sent_it() {
    let mut picker = picker(1);
    let blocks = pick(&mut picker, 1, &Pieces::HaveAll, 1);
    let rest = pick(&mut picker, 2, &Pieces::HaveAll, 1);
    picker.on_block(2, &rest[0]);
    picker.on_block(1, &blocks[0]);
    assert_eq!(picker.on_failed(blocks[0].piece()), [1, 2]);
    assert_eq!(pick(&mut picker, 3, &Pieces::HaveAll, 10).len(), 2);
    picker.on_lost(blocks[0].piece());
    assert_eq!(picker.partial_count(), 1, "it was not had");
}

#[test]
fn what_nobody_asked_for_is_not_taken() {
    let mut picker = picker(2);
    let geometry = geometry(2);
    let blocks = pick(&mut picker, 1, &Pieces::HaveAll, 1);
    let index = blocks[0].piece().get();
    let other = geometry.check(1 - index, 0, BLOCK_LEN).unwrap();
    assert_eq!(picker.on_block(1, &other), Arrived::Unasked);
    for (begin, len) in [(1, 100), (0, 100), (BLOCK_LEN - 1, 2)] {
        let odd = geometry.check(index, begin, len).unwrap();
        assert_eq!(picker.on_block(1, &odd), Arrived::Unasked);
        assert!(!picker.give_back(1, &odd));
    }
}

/// A peer of the model: what it has, and what it was asked for.
#[derive(Default)]
struct Model {
    has: BTreeSet<u32>,
    asked: BTreeSet<BlockRequest>,
}

proptest! {
    /// Peers come, get pieces, are asked, answer, refuse, lie, say anew what they have and go, in any order: nobody is asked for what it lacks or what
    /// we have, no block of more than two, the order stays an order, and in the end everything is there.
    #[test]
    fn any_swarm_ends_with_everything(
        pieces in 2u32..90,
        seed in any::<u64>(),
        steps in proptest::collection::vec((0u32..8, 0u8..10, any::<u32>()), 0..300),
    ) {
        let geometry = geometry(pieces);
        let mut picker = Picker::new(geometry, Bitfield::new(pieces), 5, seed);
        let mut peers: BTreeMap<u32, Model> = BTreeMap::new();
        let told = |model: &Model| match model.has.len() as u32 {
            0 => Pieces::HaveNone,
            count if count == pieces => Pieces::HaveAll,
            _ => bits(pieces, &model.has.iter().copied().collect::<Vec<_>>()),
        };
        for (key, what, number) in steps {
            let model = peers.entry(key).or_default();
            match what {
                // It gets a piece.
                0..=2 => {
                    let index = number % pieces;
                    if model.has.insert(index) {
                        match model.has.len() as u32 == pieces {
                            true => picker.on_last_have(piece(&geometry, index)),
                            false => picker.on_have(piece(&geometry, index)),
                        }
                    }
                }
                // It is asked.
                3 | 4 => {
                    let mut out = Vec::new();
                    let stakes_max = if number % 3 == 0 { 1 } else { usize::MAX };
                    let alone = what == 4 && number % 5 == 0;
                    let asking = Asking { alone, stakes_max, ..Asking::default() };
                    let parts = picker.partials.iter().filter(|partial| partial.has_part(key));
                    let before: BTreeSet<u32> = parts.map(|partial| partial.piece.get()).collect();
                    picker.pick(key, &told(model), asking, number as usize % 12, &mut out);
                    let new = pieces_of(&out).difference(&before).count();
                    prop_assert!(new <= stakes_max, "{new} pieces at once");
                    for block in out {
                        prop_assert!(model.has.contains(&block.piece().get()));
                        prop_assert!(!picker.have().get(block.piece()));
                        prop_assert!(model.asked.insert(block), "twice of one peer");
                    }
                }
                // It answers, and what is whole is right or wrong.
                5 | 6 => {
                    if let Some(block) = model.asked.pop_first()
                        && let Arrived::New { whole: true, .. } = picker.on_block(key, &block)
                    {
                        match number % 4 == 0 {
                            true => {
                                for other in peers.values_mut() {
                                    other.asked.retain(|asked| asked.piece() != block.piece());
                                }
                                let givers = picker.on_failed(block.piece());
                                prop_assert_eq!(givers.len(), geometry.blocks(block.piece()).len());
                            }
                            false => picker.on_verified(block.piece()),
                        }
                    }
                }
                // It refuses.
                7 => {
                    if let Some(block) = model.asked.pop_last() {
                        picker.give_back(key, &block);
                    }
                }
                // It says anew which it has.
                8 => {
                    let had = told(model);
                    let has = |index: &u32| match number % 4 {
                        0 => number % 8 == 0,
                        _ => number.rotate_left(*index) & 4 != 0,
                    };
                    model.has = (0..pieces).filter(has).collect();
                    picker.on_pieces_told(&had, &told(model));
                }
                // It goes.
                _ => {
                    let model = peers.remove(&key).unwrap();
                    for block in &model.asked {
                        picker.give_back(key, block);
                    }
                    picker.let_go(key);
                    picker.on_pieces_gone(&told(&model));
                }
            }
            picker.order.check();
            picker.books.check(&picker.partials);
            prop_assert!(picker.partial_count() <= 5);
            for index in 0..pieces {
                let having = peers.values().filter(|model| model.has.contains(&index)).count();
                prop_assert_eq!(picker.availability(piece(&geometry, index)), having as u32);
            }
        }
        // Everybody goes, and a seed comes.
        for (key, model) in peers {
            for block in &model.asked {
                picker.give_back(key, block);
            }
            picker.let_go(key);
            picker.on_pieces_gone(&told(&model));
        }
        picker.on_pieces(&Pieces::HaveAll);
        for _ in 0..pieces * BLOCKS {
            for block in pick(&mut picker, 100, &Pieces::HaveAll, 3) {
                if let Arrived::New { whole: true, .. } = picker.on_block(100, &block) {
                    picker.on_verified(block.piece());
                }
            }
        }
        prop_assert!(picker.is_complete(), "{picker:?}");
        prop_assert_eq!(picker.partial_count(), 0);
    }
}

#[test]
fn peer_for_whose_blocks_there_is_no_memory_is_asked_for_those_of_others_alone() {
    let mut picker = picker(2);
    let others = pick(&mut picker, 1, &Pieces::HaveAll, 2);
    let asking = Asking {
        again: Again::OfAnybody,
        open_max: 0,
        ..Asking::default()
    };
    let mut out = Vec::new();
    picker.pick(2, &Pieces::HaveAll, asking, 100, &mut out);
    assert_eq!(out, others);
    assert_eq!((picker.asked_blocks(), picker.partial_count()), (2, 1));
    out.clear();
    let asking = Asking { open_max: 1, ..asking };
    picker.pick(3, &Pieces::HaveAll, asking, 1, &mut out);
    assert_eq!((out.len(), picker.asked_blocks()), (1, 3));
}
