//! Who has begun which pieces, and of which of them blocks are open: so that choosing a block looks at those it may come
//! from, and not at every piece that was begun.
//!
//! Nothing is decided here, and nothing is known that does not follow from the pieces themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::PeerKey;
#[cfg(test)]
use super::begun::Begun;
use super::partial::Partial;

/// A piece that was begun, behind the peer that it was begun for, if that is still there.
type Place = (Option<PeerKey>, u32);

/// What of a piece is in the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    of: Option<PeerKey>,
    open: u32,
    asked: u32,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// Pieces of which blocks are open.
    open: BTreeSet<Place>,
    /// How many blocks that is.
    open_blocks: u32,
    /// Blocks that are to come.
    asked_blocks: u32,
    /// How many pieces each peer has begun that are not verified; only of those that have.
    begun: BTreeMap<PeerKey, usize>,
}

impl Partial {
    /// What of it is in the books.
    pub(super) fn entry(&self) -> Entry {
        Entry {
            of: self.of,
            open: self.open(),
            asked: self.asked(),
        }
    }
}

impl Books {
    /// A piece was begun.
    pub(super) fn enter(&mut self, piece: u32, entry: Entry) {
        if let Some(of) = entry.of {
            *self.begun.entry(of).or_default() += 1;
        }
        if entry.open > 0 {
            self.open.insert((entry.of, piece));
        }
        self.open_blocks += entry.open;
        self.asked_blocks += entry.asked;
    }

    /// A piece is not among those that were begun any more.
    pub(super) fn strike(&mut self, piece: u32, entry: Entry) {
        if let Some(of) = entry.of
            && let Some(count) = self.begun.get_mut(&of)
        {
            *count -= 1;
            if *count == 0 {
                self.begun.remove(&of);
            }
        }
        if entry.open > 0 {
            self.open.remove(&(entry.of, piece));
        }
        self.open_blocks -= entry.open;
        self.asked_blocks -= entry.asked;
    }

    /// A piece is another than it was.
    pub(super) fn change(&mut self, piece: u32, before: Entry, after: Entry) {
        let is_in_the_same_place = before.of == after.of && (before.open > 0) == (after.open > 0);
        match is_in_the_same_place {
            true => {
                self.open_blocks = self.open_blocks - before.open + after.open;
                self.asked_blocks = self.asked_blocks - before.asked + after.asked;
            }
            false => {
                self.strike(piece, before);
                self.enter(piece, after);
            }
        }
    }

    /// Blocks that nobody was asked for.
    pub(super) fn open_blocks(&self) -> u32 {
        self.open_blocks
    }

    /// Blocks that somebody was asked for and that have not come.
    pub(super) fn asked_blocks(&self) -> u32 {
        self.asked_blocks
    }

    /// How many pieces a peer has begun that are not verified.
    pub(super) fn begun(&self, peer: PeerKey) -> usize {
        self.begun.get(&peer).copied().unwrap_or(0)
    }

    /// The pieces with open blocks within a range, in the order of the peers that have begun them.
    pub(super) fn open_within(&self, range: RangeInclusive<Place>) -> impl Iterator<Item = Place> {
        self.open.range(range).copied()
    }

    /// What each of these pieces is now.
    #[cfg(test)]
    pub(super) fn check(&self, partials: &Begun) {
        let mut anew = Books::default();
        partials
            .iter()
            .for_each(|partial| anew.enter(partial.piece.get(), partial.entry()));
        assert_eq!((&self.open, self.open_blocks), (&anew.open, anew.open_blocks));
        assert_eq!(self.asked_blocks, anew.asked_blocks);
        assert_eq!(self.begun, anew.begun);
    }
}

/// All that one peer has begun, or nobody who is still there.
pub(super) fn of(peer: Option<PeerKey>) -> RangeInclusive<Place> {
    (peer, 0)..=(peer, u32::MAX)
}

/// All that peers have begun who are still there.
pub(super) fn of_anybody() -> RangeInclusive<Place> {
    (Some(0), 0)..=(Some(PeerKey::MAX), u32::MAX)
}
