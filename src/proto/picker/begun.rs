//! The pieces that were begun, found by their numbers.
//!
//! Each choice of a block and each block that comes looks one up: by an array, at 4 bytes for each piece of the torrent. They
//! lie side by side in no order.

use super::super::geometry::PieceIndex;
use super::partial::Partial;

/// A piece that was not begun has this place.
const NOWHERE: u32 = u32::MAX;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Begun {
    partials: Vec<Partial>,
    /// Where in `partials` each piece of the torrent is.
    places: Box<[u32]>,
}

impl Begun {
    /// None of a torrent of so many pieces.
    pub(super) fn new(piece_count: u32) -> Begun {
        Begun {
            partials: Vec::new(),
            places: vec![NOWHERE; piece_count as usize].into(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.partials.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    pub(super) fn contains(&self, piece: PieceIndex) -> bool {
        self.places[piece.as_usize()] != NOWHERE
    }

    pub(super) fn get(&self, piece: PieceIndex) -> Option<&Partial> {
        self.partials.get(self.places[piece.as_usize()] as usize)
    }

    pub(super) fn get_mut(&mut self, piece: PieceIndex) -> Option<&mut Partial> {
        self.partials.get_mut(self.places[piece.as_usize()] as usize)
    }

    /// # Panics
    /// When the piece was begun already.
    pub(super) fn insert(&mut self, partial: Partial) {
        let piece = partial.piece;
        assert!(!self.contains(piece), "piece {} is begun twice", piece.get());
        self.places[piece.as_usize()] = self.partials.len() as u32; // No more than there are pieces.
        self.partials.push(partial);
    }

    pub(super) fn remove(&mut self, piece: PieceIndex) -> Option<Partial> {
        let place = std::mem::replace(&mut self.places[piece.as_usize()], NOWHERE);
        if place == NOWHERE {
            return None;
        }
        let partial = self.partials.swap_remove(place as usize);
        // The last one lies there now.
        if let Some(moved) = self.partials.get(place as usize) {
            self.places[moved.piece.as_usize()] = place;
        }
        Some(partial)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Partial> {
        self.partials.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Partial> {
        self.partials.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::geometry::{BLOCK_LEN, Geometry};
    use super::*;

    #[test]
    fn pieces_are_found_though_others_were_taken_out_before_them() {
        let geometry = Geometry::new(BLOCK_LEN, 5 * u64::from(BLOCK_LEN)).unwrap();
        let pieces: Vec<PieceIndex> = geometry.pieces().collect();
        let mut begun = Begun::new(5);
        for piece in [3, 0, 4, 1] {
            begun.insert(Partial::new(&geometry, pieces[piece], 7));
        }
        assert_eq!(begun.remove(pieces[2]).map(|partial| partial.piece), None);
        for (removed, left) in [(3, vec![0, 1, 4]), (4, vec![0, 1]), (1, vec![0]), (0, vec![])] {
            assert_eq!(
                begun.remove(pieces[removed]).map(|partial| partial.piece),
                Some(pieces[removed])
            );
            for (at, &piece) in pieces.iter().enumerate() {
                let found = begun.get(piece).map(|partial| partial.piece);
                assert_eq!(found, left.contains(&at).then_some(piece));
                assert_eq!(begun.contains(piece), found.is_some());
            }
            assert_eq!((begun.len(), begun.is_empty()), (left.len(), left.is_empty()));
        }
    }
}
