//! The pieces that nobody has been asked for yet, rarest first.
//!
//! One array, ordered by how many peers have each piece, and where in it each number of peers begins. One more or one
//! fewer peer moves a piece across one border, which is a swap with the piece that lies there: a HAVE costs the same at ten
//! pieces and at a hundred thousand. Pieces that as many peers have are in random order, so that two downloaders do not
//! want the same one.
//!
//! Peers that have everything are not counted: they change nothing about the order.

use super::super::bitfield::Bitfield;
use super::super::geometry::{Geometry, PieceIndex};
use super::super::peer::Pieces;

/// A piece that is not among them has this place.
const NOWHERE: u32 = u32::MAX;

/// Pieces looked at from the rarest on, for a peer that has some. One that has little is found what it has instead, by its
/// bitfield.
const RAREST_MAX: usize = 256;

/// A peer has little that has less than one piece in so many.
const SPARSE: u64 = 128;

/// Pieces of such a peer of which the rarest is taken.
const FOUND_MAX: usize = 8;

/// See the module's page. 8 bytes and a bit for each piece of the torrent, and 4 for each that is open.
#[derive(Debug)]
pub(super) struct Order {
    geometry: Geometry,
    /// The open pieces, rarest first.
    pieces: Vec<u32>,
    /// Where in `pieces` those begin that so many peers have; the last number goes on to the end.
    starts: Vec<u32>,
    /// Where in `pieces` each piece of the torrent is.
    places: Box<[u32]>,
    /// How many peers have each piece of the torrent.
    peers: Box<[u32]>,
    /// The open pieces once more.
    open: Bitfield,
}

impl Order {
    /// The pieces that `have` lacks, which no peer has yet.
    pub(super) fn new(geometry: Geometry, have: &Bitfield, random: &mut impl FnMut() -> u64) -> Order {
        let count = geometry.piece_count() as usize;
        let mut open = Bitfield::new(geometry.piece_count());
        let mut pieces = Vec::new();
        for piece in geometry.pieces().filter(|&piece| !have.get(piece)) {
            open.set(piece);
            pieces.push(piece.get());
        }
        // Fisher-Yates.
        for i in (1..pieces.len()).rev() {
            pieces.swap(i, (random() % (i as u64 + 1)) as usize);
        }
        let mut places = vec![NOWHERE; count].into_boxed_slice();
        for (place, &piece) in (0..).zip(&pieces) {
            places[piece as usize] = place;
        }
        Order {
            geometry,
            pieces,
            starts: vec![0],
            places,
            peers: vec![0; count].into_boxed_slice(),
            open,
        }
    }

    /// How many pieces are open.
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// How many peers have a piece, those apart that have everything.
    pub(super) fn peers(&self, piece: PieceIndex) -> u32 {
        self.peers[piece.as_usize()]
    }

    /// Whether a piece is open.
    pub(super) fn is_open(&self, piece: PieceIndex) -> bool {
        self.open.get(piece)
    }

    /// One more peer has the piece.
    pub(super) fn add(&mut self, piece: PieceIndex) {
        let had = self.peers[piece.as_usize()];
        self.peers[piece.as_usize()] = had + 1;
        if self.open.get(piece) {
            while self.starts.len() <= had as usize + 1 {
                self.starts.push(self.pieces.len() as u32);
            }
            // It goes to the end of its part, which then ends before it.
            let last = self.starts[had as usize + 1] - 1;
            self.swap(self.places[piece.as_usize()], last);
            self.starts[had as usize + 1] = last;
        }
    }

    /// One peer fewer has the piece.
    pub(super) fn take(&mut self, piece: PieceIndex) {
        let had = self.peers[piece.as_usize()];
        assert!(had > 0, "a peer fewer has piece {} than none", piece.get());
        self.peers[piece.as_usize()] = had - 1;
        if self.open.get(piece) {
            let first = self.starts[had as usize];
            self.swap(self.places[piece.as_usize()], first);
            self.starts[had as usize] = first + 1;
        }
    }

    /// Somebody is asked for the piece: it is no longer open.
    pub(super) fn close(&mut self, piece: PieceIndex) {
        if !self.open.clear(piece) {
            return;
        }
        let mut hole = self.places[piece.as_usize()];
        // The last of each part goes to where the hole of the one before is, from its own part on.
        for part in self.peers[piece.as_usize()] as usize..self.starts.len() {
            let last = self.starts.get(part + 1).map_or(self.pieces.len() as u32, |end| *end) - 1;
            self.swap(hole, last);
            hole = last;
            if let Some(next) = self.starts.get_mut(part + 1) {
                *next -= 1;
            }
        }
        assert_eq!(self.pieces.pop(), Some(piece.get()), "the hole is at the end");
        self.places[piece.as_usize()] = NOWHERE;
    }

    /// Nobody is asked for the piece any more.
    pub(super) fn reopen(&mut self, piece: PieceIndex) {
        if !self.open.set(piece) {
            return;
        }
        let mut hole = self.pieces.len() as u32;
        let peers = self.peers[piece.as_usize()] as usize;
        while self.starts.len() <= peers {
            self.starts.push(hole);
        }
        self.pieces.push(piece.get());
        self.places[piece.as_usize()] = hole;
        // The first of each part goes to where the hole of the one behind is, down to its own part.
        for part in (peers + 1..self.starts.len()).rev() {
            let first = self.starts[part];
            self.swap(hole, first);
            hole = first;
            self.starts[part] += 1;
        }
    }

    fn swap(&mut self, a: u32, b: u32) {
        self.pieces.swap(a as usize, b as usize);
        self.places[self.pieces[a as usize] as usize] = a;
        self.places[self.pieces[b as usize] as usize] = b;
    }

    /// The rarest open piece that a peer has; of a peer that has little, one of its rarest.
    pub(super) fn rarest(&self, has: &Pieces, random: u64) -> Option<PieceIndex> {
        self.from(has, 0, random)
    }

    /// Any open piece that a peer has.
    pub(super) fn any(&self, has: &Pieces, random: u64) -> Option<PieceIndex> {
        let start = (random % self.pieces.len().max(1) as u64) as usize;
        self.from(has, start, random)
    }

    fn from(&self, has: &Pieces, start: usize, random: u64) -> Option<PieceIndex> {
        let piece = |&piece: &u32| self.geometry.piece_index(piece);
        let bits = match has {
            Pieces::HaveNone => return None,
            Pieces::HaveAll => return self.pieces.get(start).and_then(piece),
            Pieces::Bits(bits) => bits,
        };
        // Of one that has hardly any, the rarest would be looked at in vain, each in another cache line of its bitfield.
        let looked_at = match u64::from(bits.count()) * SPARSE < u64::from(bits.piece_count()) {
            true => 0,
            false => RAREST_MAX,
        };
        let near = self.pieces[start..].iter().take(looked_at).filter_map(piece);
        let found = near.into_iter().find(|&piece| bits.get(piece));
        found.or_else(|| {
            let from = (random % u64::from(self.geometry.piece_count())) as u32;
            let behind = self.open.common(bits, from);
            let before = self.open.common(bits, 0).take_while(|piece| piece.get() < from);
            behind
                .chain(before)
                .take(FOUND_MAX)
                .min_by_key(|piece| self.peers[piece.as_usize()])
        })
    }

    /// Panics if anything here contradicts anything else.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.pieces.is_sorted_by_key(|&piece| self.peers[piece as usize]));
        assert_eq!(self.pieces.len(), self.open.count() as usize);
        for (place, &piece) in (0..).zip(&self.pieces) {
            assert_eq!(self.places[piece as usize], place);
            assert!(self.open.get(self.geometry.piece_index(piece).unwrap()));
        }
        for (peers, &start) in self.starts.iter().enumerate() {
            let fewer = self
                .pieces
                .iter()
                .filter(|&&piece| (self.peers[piece as usize] as usize) < peers);
            assert_eq!(
                start as usize,
                fewer.count(),
                "where those begin that {peers} peers have"
            );
        }
    }
}
