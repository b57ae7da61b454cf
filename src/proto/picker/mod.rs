//! Which block to ask which peer for next.
//!
//! A peer is asked for pieces of its own as long as there is room for them: who sends a whole piece can be held to it, and
//! one that lies spoils nobody else's. What it has begun is finished first, or what somebody has begun who has left, so that
//! there is soon something to verify and to share. Then comes a piece that the peer itself suggested, then the rarest; where
//! none can be begun, it helps with those of others. The first few are taken at random, since a rare piece comes slowly from the
//! few that have it. Nothing is asked for twice as long as those who were asked send it. But a peer that has been without work
//! for a while is asked for what others have not sent: at the end (the *endgame*, when every missing block has been asked for),
//! or when a few slow ones have begun all pieces that there is memory for. Whoever is slower is sent a cancel.
//!
//! The picker knows what is under way and from whom, but neither bytes nor time: who is too slow, or lies, is found out by
//! [`super::depth`] and [`super::blame`], and what becomes of a whole piece is told to the picker by whoever verified it.
//!
//! Peers are the caller's numbers. What they have is the caller's too ([`Pieces`]), and is told here as it changes.

mod begun;
mod books;
mod order;
mod partial;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::time::Instant;

use super::bitfield::Bitfield;
use super::geometry::{BlockRequest, Geometry, PieceIndex};
use super::peer::Pieces;
use begun::Begun;
use books::Books;
use order::Order;
use partial::{Partial, Put};

/// The caller's number for a peer.
pub type PeerKey = u32;

/// So many pieces are taken at random before the rarest are.
const RANDOM_FIRST: u32 = 4;

/// How a peer may be asked.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// So many pieces of its own it may have that are not verified.
    pub begun_max: usize,
    /// It may have part in so many pieces that are not verified, its own and those of others; of a suspect those count that are
    /// its own alone. Where several give blocks of one piece, one that lies spoils no more.
    pub stakes_max: usize,
    /// So many blocks may be picked that nobody was asked for: each takes memory. What is under way from others has its own.
    pub open_max: usize,
    /// Only these pieces: it chokes us, and allows them all the same (BEP 6).
    pub only: Option<&'a [PieceIndex]>,
    /// Pieces that it would like to be asked for (BEP 6).
    pub suggested: &'a [PieceIndex],
    /// Pieces that it has and would not send, and until when.
    pub refused: &'a [(PieceIndex, Instant)],
    /// Of whom it is asked for what is under way, too.
    pub again: Again<'a>,
    /// It is suspected of lying: it is asked for whole pieces, and nobody else is asked for these.
    pub alone: bool,
}

impl Default for Asking<'_> {
    fn default() -> Self {
        Asking {
            begun_max: usize::MAX,
            stakes_max: usize::MAX,
            open_max: usize::MAX,
            only: None,
            suggested: &[],
            refused: &[],
            again: Again::OfNobody,
            alone: false,
        }
    }
}

/// Whose blocks a peer is asked for, too, which has had nothing to do for a while.
#[derive(Debug, Clone, Copy)]
pub enum Again<'a> {
    /// Nobody's.
    OfNobody,
    /// Those of these, who send nothing.
    Of(&'a [PeerKey]),
    /// Everybody's: nothing else is missing.
    OfAnybody,
}

impl Again<'_> {
    fn is_of(self, peer: PeerKey) -> bool {
        match self {
            Self::OfNobody => false,
            Self::Of(peers) => peers.contains(&peer),
            Self::OfAnybody => true,
        }
    }
}

/// What became of a block that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// It was missing, and is to be kept.
    New {
        /// Who was asked for it as well, and is to be sent a cancel.
        cancel: Option<PeerKey>,
        /// Whether it was the last of its piece, which is to be verified now.
        whole: bool,
    },
    /// It had come already, or its piece had.
    Again,
    /// Nobody was asked for it, or it is another stretch than we ask for.
    Unasked,
}

/// The picker of one torrent.
#[derive(Debug)]
pub struct Picker {
    geometry: Geometry,
    /// What we have, verified.
    have: Bitfield,
    order: Order,
    /// Pieces that were begun.
    partials: Begun,
    /// How many may be begun at a time: each takes memory.
    partials_max: usize,
    /// What is open of them, and who has begun how many.
    books: Books,
    /// Pieces of which the last open block was chosen. Kept for its room.
    used_up: Vec<(u32, books::Entry, books::Entry)>,
    /// Peers that have everything.
    seeds: u32,
    random: u64,
}

impl Picker {
    /// For a torrent of which we have `have`. At most `partials_max` pieces are begun at a time. `seed` is for choices that
    /// need no secrecy.
    pub fn new(geometry: Geometry, have: Bitfield, partials_max: usize, seed: u64) -> Picker {
        let mut state = seed | 1;
        let order = Order::new(geometry, &have, &mut || next(&mut state));
        Picker {
            geometry,
            have,
            order,
            partials: Begun::new(geometry.piece_count()),
            partials_max: partials_max.max(1),
            books: Books::default(),
            used_up: Vec::new(),
            seeds: 0,
            random: state,
        }
    }

    /// At most so many pieces are begun at a time from now on; those that are begun stay.
    pub fn set_partials_max(&mut self, partials_max: usize) {
        self.partials_max = partials_max;
    }

    /// Who has sent each block of a piece that is here as a whole.
    pub fn givers(&self, piece: PieceIndex) -> Vec<PeerKey> {
        self.partials.get(piece).map_or_else(Vec::new, Partial::givers)
    }

    /// What we have, verified.
    pub const fn have(&self) -> &Bitfield {
        &self.have
    }

    /// Whether nothing is missing.
    pub const fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    /// Pieces that were begun and not verified yet.
    pub fn partial_count(&self) -> usize {
        self.partials.len()
    }

    /// Whether a piece was begun and is not verified yet.
    pub fn is_begun(&self, piece: PieceIndex) -> bool {
        self.partials.contains(piece)
    }

    /// Blocks that somebody was asked for and that have not come.
    pub fn asked_blocks(&self) -> u32 {
        self.books.asked_blocks()
    }

    /// Whether every missing block was asked for.
    pub fn is_endgame(&self) -> bool {
        self.books.open_blocks() == 0 && self.order.len() == 0 && !self.partials.is_empty()
    }

    /// How many peers have a piece.
    pub fn availability(&self, piece: PieceIndex) -> u32 {
        self.seeds + self.order.peers(piece)
    }

    /// Whether a peer has something that we lack.
    pub fn is_interesting(&self, has: &Pieces) -> bool {
        match has {
            Pieces::HaveNone => false,
            Pieces::HaveAll => !self.have.is_full(),
            Pieces::Bits(bits) => bits.has_beside(&self.have),
        }
    }

    /// A peer that had some pieces says anew which it has. Costs what has changed.
    pub fn on_pieces_told(&mut self, had: &Pieces, has: &Pieces) {
        match (had, has) {
            (Pieces::Bits(had), Pieces::Bits(has)) => {
                has.beside(had).for_each(|piece| self.order.add(piece));
                had.beside(has).for_each(|piece| self.order.take(piece));
            }
            (had, has) if had == has => {}
            (had, has) => {
                self.on_pieces_gone(had);
                self.on_pieces(has);
            }
        }
    }

    /// A peer has these pieces: it came, and has said nothing else before.
    pub fn on_pieces(&mut self, has: &Pieces) {
        match has {
            Pieces::HaveNone => {}
            Pieces::HaveAll => self.seeds += 1,
            Pieces::Bits(bits) => bits.pieces().for_each(|piece| self.order.add(piece)),
        }
    }

    /// A peer that had these pieces has left, or says anew which it has.
    ///
    /// # Panics
    /// When more peers leave than came.
    pub fn on_pieces_gone(&mut self, had: &Pieces) {
        match had {
            Pieces::HaveNone => {}
            Pieces::HaveAll => self.seeds -= 1,
            Pieces::Bits(bits) => bits.pieces().for_each(|piece| self.order.take(piece)),
        }
    }

    /// A peer has one more piece. One that has every piece now ([`Pieces::HaveAll`]) counts as a seed: see
    /// [`Picker::on_last_have`].
    pub fn on_have(&mut self, piece: PieceIndex) {
        self.order.add(piece);
    }

    /// A peer has got its last piece, and becomes a seed.
    pub fn on_last_have(&mut self, piece: PieceIndex) {
        for other in self.geometry.pieces().filter(|&other| other != piece) {
            self.order.take(other);
        }
        self.seeds += 1;
    }

    /// Picks up to `count` blocks to ask a peer for, which has `has`, and appends them to `out`. They count as asked for.
    pub fn pick(&mut self, peer: PeerKey, has: &Pieces, asking: Asking<'_>, count: usize, out: &mut Vec<BlockRequest>) {
        let last = out.len() + count;
        let end = out.len() + count.min(asking.open_max);
        let mut stakes = self.stakes_left(peer, asking);
        self.pick_begun(peer, has, asking, (end, &mut stakes), out, books::of(Some(peer)));
        if out.len() < end {
            self.pick_begun(peer, has, asking, (end, &mut stakes), out, books::of(None));
        }
        if out.len() == last {
            return;
        }
        let mut begun = match asking.alone {
            true => self.proofs(peer),
            false => self.books.begun(peer),
        };
        let is_room = |picker: &Picker| picker.partials.len() < picker.partials_max;
        while out.len() < end && is_room(self) && begun < asking.begun_max && stakes > 0 {
            let Some(piece) = self.next_piece(has, asking) else {
                break;
            };
            self.order.close(piece);
            begun += 1;
            stakes -= 1;
            let mut partial = Partial::new(&self.geometry, piece, peer);
            partial.only = asking.alone.then_some(peer);
            while out.len() < end
                && let Some(block) = partial.ask(&self.geometry, peer)
            {
                out.push(block);
            }
            self.books.enter(piece.get(), partial.entry());
            self.partials.insert(partial);
        }
        if out.len() < end && begun < asking.begun_max {
            self.pick_begun(peer, has, asking, (end, &mut stakes), out, books::of_anybody());
        }
        if out.len() < last && !matches!(asking.again, Again::OfNobody | Again::Of([])) && !asking.alone {
            self.pick_again(peer, has, asking, (last, &mut stakes), out);
        }
    }

    /// In how many more pieces a peer may have part.
    fn stakes_left(&mut self, peer: PeerKey, asking: Asking<'_>) -> usize {
        if asking.stakes_max == usize::MAX {
            return usize::MAX; // The usual case, in which nothing is counted.
        }
        let stakes = match asking.alone {
            true => self.proofs(peer),
            false => {
                let has_part = |partial: &mut Partial| {
                    partial.leave(peer);
                    partial.has_part(peer)
                };
                self.partials
                    .iter_mut()
                    .map(has_part)
                    .filter(|has_part| *has_part)
                    .count()
            }
        };
        asking.stakes_max.saturating_sub(stakes)
    }

    /// Pieces with which a peer is to prove itself.
    fn proofs(&mut self, peer: PeerKey) -> usize {
        let is_its = |partial: &&mut Partial| partial.only == Some(peer);
        self.partials.iter_mut().filter(is_its).count()
    }

    /// What is open of pieces that were begun, in this part of the books.
    fn pick_begun(
        &mut self,
        peer: PeerKey,
        has: &Pieces,
        asking: Asking<'_>,
        (end, stakes): (usize, &mut usize),
        out: &mut Vec<BlockRequest>,
        within: RangeInclusive<(Option<PeerKey>, u32)>,
    ) {
        for (_, number) in self.books.open_within(within) {
            if out.len() == end {
                break;
            }
            let piece = self.geometry.piece_index(number).expect("a piece that was begun");
            if !has_piece(has, piece) || !asking.allows(piece) {
                continue;
            }
            let partial = self.partials.get_mut(piece).expect("what the books say was begun");
            if !partial.is_for(peer, asking.alone) || (*stakes == 0 && !partial.has_part(peer)) {
                continue;
            }
            let before = partial.entry();
            *stakes -= usize::from(partial.join(peer));
            while out.len() < end
                && let Some(block) = partial.ask(&self.geometry, peer)
            {
                out.push(block);
            }
            self.used_up.push((number, before, partial.entry()));
        }
        for (number, before, after) in self.used_up.drain(..) {
            self.books.change(number, before, after);
        }
    }

    /// Which piece to begin.
    fn next_piece(&mut self, has: &Pieces, asking: Asking<'_>) -> Option<PieceIndex> {
        let is_good =
            |piece: &&PieceIndex| self.order.is_open(**piece) && has_piece(has, **piece) && !asking.refuses(**piece);
        if let Some(only) = asking.only {
            return only.iter().find(is_good).copied();
        }
        if let Some(suggested) = asking.suggested.iter().find(is_good) {
            return Some(*suggested);
        }
        let random = next(&mut self.random);
        let begun = match self.have.count() < RANDOM_FIRST {
            true => self.order.any(has, random),
            false => self.order.rarest(has, random),
        };
        // A peer that refuses what is next has nothing begun for a while, and helps with what others have begun.
        begun.filter(|piece| !asking.refuses(*piece))
    }

    /// What is under way from one other peer.
    fn pick_again(
        &mut self,
        peer: PeerKey,
        has: &Pieces,
        asking: Asking<'_>,
        (end, stakes): (usize, &mut usize),
        out: &mut Vec<BlockRequest>,
    ) {
        for partial in self.partials.iter_mut() {
            let piece = partial.piece;
            if partial.is_here() || !partial.is_for(peer, false) || !has_piece(has, piece) || !asking.allows(piece) {
                continue;
            }
            if *stakes == 0 && !partial.has_part(peer) {
                continue;
            }
            while out.len() < end
                && let Some(block) = partial.ask_again(&self.geometry, peer, asking.again)
            {
                *stakes -= usize::from(partial.join(peer));
                out.push(block);
            }
            if out.len() == end {
                return;
            }
        }
    }

    /// A peer has sent a block. It need not have been asked for, as long as somebody was, or is to be.
    pub fn on_block(&mut self, peer: PeerKey, block: &BlockRequest) -> Arrived {
        if self.have.get(block.piece()) {
            return Arrived::Again;
        }
        let Some(partial) = self.partials.get_mut(block.piece()) else {
            return Arrived::Unasked;
        };
        if partial.only.is_some_and(|only| only != peer) {
            return Arrived::Unasked; // What a suspect is to prove itself with would prove nothing.
        }
        let before = partial.entry();
        match partial.put(&self.geometry, peer, block) {
            None => Arrived::Unasked,
            Some(Put::Again) => Arrived::Again,
            Some(Put::New { other }) => {
                let whole = partial.is_here();
                self.books.change(block.piece().get(), before, partial.entry());
                Arrived::New { cancel: other, whole }
            }
        }
    }

    /// A peer will not send a block that it was asked for: it rejected it, choked us, is too slow, or has left. Whether it
    /// had been asked.
    pub fn give_back(&mut self, peer: PeerKey, block: &BlockRequest) -> bool {
        let piece = block.piece();
        let Some(partial) = self.partials.get_mut(piece) else {
            return false;
        };
        let before = partial.entry();
        let given = partial.give_back(&self.geometry, peer, block);
        let is_untouched = partial.is_untouched();
        self.books.change(piece.get(), before, partial.entry());
        if is_untouched {
            self.forget(piece);
        }
        given
    }

    /// A block that only one peer was asked for is asked of another instead. False if it is here, or is to come from nobody or
    /// from two, or only one peer may be asked for its piece.
    pub fn hand_over(&mut self, block: &BlockRequest, from: PeerKey, to: PeerKey) -> bool {
        let Some(partial) = self.partials.get_mut(block.piece()) else {
            return false;
        };
        partial.only.is_none() && partial.hand_over(&self.geometry, block, from, to)
    }

    /// A peer has left, or is silent: nobody waits for it to prove itself any more, and others take over what it has
    /// begun. What it was asked for is given back one by one.
    pub fn let_go(&mut self, peer: PeerKey) {
        for partial in self.partials.iter_mut() {
            let before = partial.entry();
            partial.only = partial.only.filter(|only| *only != peer);
            partial.of = partial.of.filter(|of| *of != peer);
            self.books.change(partial.piece.get(), before, partial.entry());
        }
    }

    /// A peer is convicted of lying: what it has sent of pieces that are not whole is to be had anew.
    pub fn on_convicted(&mut self, peer: PeerKey) {
        let mut untouched = Vec::new();
        for partial in self.partials.iter_mut().filter(|partial| !partial.is_here()) {
            let before = partial.entry();
            partial.disown(peer);
            self.books.change(partial.piece.get(), before, partial.entry());
            if partial.is_untouched() {
                untouched.push(partial.piece);
            }
        }
        untouched.into_iter().for_each(|piece| self.forget(piece));
    }

    /// A suspect has nothing to do: it may be asked for whole pieces alone, and all that is missing of what it has was begun. One of
    /// those is forgotten that nobody is asked for any more, for it to begin; otherwise, if nobody else comes, it would never
    /// prove itself, and nothing would ever come. Gives which.
    pub fn give_up_for(&mut self, has: &Pieces, asking: Asking<'_>) -> Option<PieceIndex> {
        let is_left = |partial: &&mut Partial| partial.only.is_none() && !partial.is_asked() && !partial.is_here();
        let is_wanted = |partial: &&mut Partial| has_piece(has, partial.piece) && asking.allows(partial.piece);
        let piece = self.partials.iter_mut().filter(is_left).find(is_wanted)?.piece;
        self.forget(piece);
        Some(piece)
    }

    /// Counts the looks in a row at which nobody was asked for anything of a piece that was begun, and forgets those that
    /// have had `looks_max`: their memory is wanted for others. Gives which.
    pub fn forget_stale(&mut self, looks_max: u32) -> Vec<PieceIndex> {
        let mut stale = Vec::new();
        for partial in self.partials.iter_mut() {
            partial.looks = match partial.is_asked() || partial.is_here() {
                true => 0,
                false => partial.looks + 1,
            };
            if partial.looks >= looks_max {
                stale.push(partial.piece);
            }
        }
        stale.iter().for_each(|piece| self.forget(*piece));
        stale
    }

    /// A piece was verified, and is ours.
    pub fn on_verified(&mut self, piece: PieceIndex) {
        if let Some(partial) = self.partials.remove(piece) {
            self.books.strike(piece.get(), partial.entry());
        }
        self.order.close(piece);
        self.have.set(piece);
    }

    /// A piece has all its blocks and is wrong: it is to be downloaded anew. What is still under way of it, from those who
    /// were asked in the endgame, is no longer known here. Gives who sent each block.
    pub fn on_failed(&mut self, piece: PieceIndex) -> Vec<PeerKey> {
        let givers = self.givers(piece);
        self.forget(piece);
        givers
    }

    /// A piece that we had is gone: it is to be downloaded again.
    pub fn on_lost(&mut self, piece: PieceIndex) {
        if self.have.clear(piece) {
            self.order.reopen(piece);
        }
    }

    fn forget(&mut self, piece: PieceIndex) {
        if let Some(partial) = self.partials.remove(piece) {
            self.books.strike(piece.get(), partial.entry());
            self.order.reopen(piece);
        }
    }
}

impl Asking<'_> {
    fn allows(&self, piece: PieceIndex) -> bool {
        self.only.is_none_or(|only| only.contains(&piece)) && !self.refuses(piece)
    }

    fn refuses(&self, piece: PieceIndex) -> bool {
        self.refused.iter().any(|(refused, _)| *refused == piece)
    }
}

fn has_piece(has: &Pieces, piece: PieceIndex) -> bool {
    match has {
        Pieces::HaveNone => false,
        Pieces::HaveAll => true,
        Pieces::Bits(bits) => bits.get(piece),
    }
}

/// xorshift64: good enough for choices.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}
