//! Which pieces somebody has, in the form of BEP 3: one bit a piece, the high bit of the first byte for piece 0.
//!
//! It is kept as it goes over the wire, so that sending ours is a copy of bytes and reading a peer's is one check.

use super::geometry::PieceIndex;

/// A set of pieces of one torrent. Bits past its last piece are never set.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    bytes: Box<[u8]>,
    piece_count: u32,
    count: u32,
}

/// Why bytes are not the bitfield of this torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too few or too many bytes.
    #[error("a bitfield of {len} bytes for {piece_count} pieces")]
    Length {
        /// The bytes that came.
        len: usize,
        /// The pieces of the torrent.
        piece_count: u32,
    },
    /// A bit is set for a piece that does not exist.
    #[error("a bitfield with bits set past its {piece_count} pieces")]
    SpareBits {
        /// The pieces of the torrent.
        piece_count: u32,
    },
}

impl Bitfield {
    /// No piece of `piece_count`.
    pub fn new(piece_count: u32) -> Self {
        Self {
            bytes: vec![0; byte_len(piece_count)].into(),
            piece_count,
            count: 0,
        }
    }

    /// Every piece of `piece_count`.
    pub fn full(piece_count: u32) -> Self {
        let mut bytes: Box<[u8]> = vec![0xff; byte_len(piece_count)].into();
        if let Some(last) = bytes.last_mut() {
            *last &= !spare_mask(piece_count);
        }
        Self {
            bytes,
            piece_count,
            count: piece_count,
        }
    }

    /// A peer's bitfield message, which must have exactly the bytes that `piece_count` needs and no spare bit set: BEP 3
    /// asks to drop peers that get this wrong, and it is the first sign of a peer that is on another torrent.
    pub fn from_wire(bytes: &[u8], piece_count: u32) -> Result<Self, Error> {
        if bytes.len() != byte_len(piece_count) {
            return Err(Error::Length {
                len: bytes.len(),
                piece_count,
            });
        }
        if bytes.last().is_some_and(|last| last & spare_mask(piece_count) != 0) {
            return Err(Error::SpareBits { piece_count });
        }
        let count = bytes.iter().map(|byte| byte.count_ones()).sum();
        Ok(Self {
            bytes: bytes.into(),
            piece_count,
            count,
        })
    }

    /// Adds a piece and tells whether it was missing.
    pub fn set(&mut self, piece: PieceIndex) -> bool {
        let (byte, mask) = self.place(piece);
        let missing = self.bytes[byte] & mask == 0;
        self.bytes[byte] |= mask;
        self.count += u32::from(missing);
        missing
    }

    /// Takes a piece out and tells whether it was there.
    pub fn clear(&mut self, piece: PieceIndex) -> bool {
        let (byte, mask) = self.place(piece);
        let there = self.bytes[byte] & mask != 0;
        self.bytes[byte] &= !mask;
        self.count -= u32::from(there);
        there
    }

    /// Whether the piece is in the set.
    pub fn get(&self, piece: PieceIndex) -> bool {
        let (byte, mask) = self.place(piece);
        self.bytes[byte] & mask != 0
    }

    /// How many pieces are in the set.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// How many pieces the torrent has.
    pub const fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// Whether no piece is missing.
    pub const fn is_full(&self) -> bool {
        self.count == self.piece_count
    }

    /// Whether every piece is missing.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether no piece is in both sets, which have to be of one torrent.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        assert_eq!(self.piece_count, other.piece_count, "bitfields of two torrents");
        std::iter::zip(&self.bytes, &other.bytes).all(|(a, b)| a & b == 0)
    }

    /// Whether a piece is in this set and not in the other, both of one torrent.
    pub fn has_beside(&self, other: &Self) -> bool {
        assert_eq!(self.piece_count, other.piece_count, "bitfields of two torrents");
        std::iter::zip(&self.bytes, &other.bytes).any(|(a, b)| a & !b != 0)
    }

    /// The pieces that both have, of one torrent.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = Self::new(self.piece_count());
        self.common(other, 0).for_each(|piece| {
            both.set(piece);
        });
        both
    }

    /// The pieces that are in this set and not in the other, both of one torrent, in order.
    pub fn beside<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = PieceIndex> + 'a {
        assert_eq!(self.piece_count, other.piece_count, "bitfields of two torrents");
        let bytes = (0..).zip(std::iter::zip(&self.bytes, &other.bytes));
        bytes.filter(|(_, (a, b))| **a & !**b != 0).flat_map(|(at, (a, b))| {
            let of_byte = (0..8).filter(move |bit| a & !b & (0x80 >> bit) != 0);
            of_byte.map(move |bit| PieceIndex::new(at * 8 + bit))
        })
    }

    /// The pieces of the set, in order.
    pub fn pieces(&self) -> impl Iterator<Item = PieceIndex> {
        self.common(self, 0)
    }

    /// The pieces from `from` on that are in both sets, which have to be of one torrent, in order. Eight bytes are looked at
    /// together.
    pub fn common<'a>(&'a self, other: &'a Self, from: u32) -> Common<'a> {
        assert_eq!(self.piece_count, other.piece_count, "bitfields of two torrents");
        let (a, rest_of_a) = self.bytes.as_chunks();
        let (b, rest_of_b) = other.bytes.as_chunks();
        let mut common = Common {
            sets: [a, b],
            last: last_word(rest_of_a) & last_word(rest_of_b),
            word: from as usize / 64,
            both: 0,
        };
        common.both = common.look() & (u64::MAX >> (from % 64));
        common
    }

    /// The payload of a bitfield message.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn place(&self, piece: PieceIndex) -> (usize, u8) {
        let piece = piece.get();
        assert!(
            piece < self.piece_count,
            "piece {piece} of a bitfield of {}",
            self.piece_count
        );
        (piece as usize / 8, 0x80 >> (piece % 8))
    }
}

/// The pieces that two sets have in common ([`Bitfield::common`]).
#[derive(Debug, Clone)]
pub struct Common<'a> {
    /// The words of each, but the last if that is short.
    sets: [&'a [[u8; 8]]; 2],
    /// The last of both, if it is short.
    last: u64,
    /// The number of the word that is looked at.
    word: usize,
    /// What was not given of it.
    both: u64,
}

impl Common<'_> {
    /// The word that is looked at, of both; zero past the end.
    fn look(&self) -> u64 {
        match (self.sets[0].get(self.word), self.sets[1].get(self.word)) {
            (Some(a), Some(b)) => u64::from_be_bytes(*a) & u64::from_be_bytes(*b),
            _ if self.word == self.sets[0].len() => self.last,
            _ => 0,
        }
    }
}

impl Iterator for Common<'_> {
    type Item = PieceIndex;

    fn next(&mut self) -> Option<PieceIndex> {
        if self.both == 0 {
            // Of sets with little in common, hundreds of words are looked at for each piece: this loop is all of the work.
            let [a, b] = self.sets.map(|set| set.get(self.word + 1..).unwrap_or_default());
            let both = std::iter::zip(a, b).map(|(a, b)| u64::from_ne_bytes(*a) & u64::from_ne_bytes(*b));
            let found = (0..).zip(both).find(|(_, both)| *both != 0);
            match found {
                Some((empty, both)) => {
                    self.word += 1 + empty;
                    self.both = u64::from_be(both);
                }
                None if self.word < self.sets[0].len() && self.last != 0 => {
                    self.word = self.sets[0].len();
                    self.both = self.last;
                }
                None => return None,
            }
        }
        let bit = self.both.leading_zeros();
        self.both ^= (1 << 63) >> bit;
        Some(PieceIndex::new(self.word as u32 * 64 + bit))
    }
}

/// What is left of a set behind its last whole word, as a word.
fn last_word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_be_bytes(word)
}

impl std::fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitfield({} of {})", self.count, self.piece_count)
    }
}

/// How many bytes the bitfield of so many pieces has.
pub const fn byte_len(piece_count: u32) -> usize {
    piece_count.div_ceil(8) as usize
}

/// The bits of the last byte that stand for no piece.
const fn spare_mask(piece_count: u32) -> u8 {
    match piece_count % 8 {
        0 => 0,
        used => 0xff >> used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::geometry::Geometry;

    fn pieces(count: u32) -> Vec<PieceIndex> {
        Geometry::new(1024, u64::from(count) * 1024).unwrap().pieces().collect()
    }

    #[test]
    fn the_high_bit_of_the_first_byte_is_piece_0() {
        let pieces = pieces(10);
        let mut bits = Bitfield::new(10);
        assert!(bits.set(pieces[0]));
        assert!(bits.set(pieces[9]));
        assert_eq!(bits.as_bytes(), [0b1000_0000, 0b0100_0000]);
        assert!(bits.get(pieces[9]) && !bits.get(pieces[8]));
    }

    #[test]
    fn the_count_follows_every_change_once() {
        let pieces = pieces(3);
        let mut bits = Bitfield::new(3);
        assert!(bits.set(pieces[1]) && !bits.set(pieces[1]));
        assert_eq!(bits.count(), 1);
        assert!(bits.clear(pieces[1]) && !bits.clear(pieces[1]));
        assert!(bits.is_empty());
    }

    #[test]
    fn a_full_bitfield_has_no_spare_bit() {
        assert_eq!(Bitfield::full(8).as_bytes(), [0xff]);
        assert_eq!(Bitfield::full(9).as_bytes(), [0xff, 0x80]);
        for count in 1..40 {
            let full = Bitfield::full(count);
            assert_eq!(Bitfield::from_wire(full.as_bytes(), count), Ok(full.clone()));
            assert!(full.is_full());
        }
    }

    #[test]
    fn sets_are_disjoint_until_they_share_a_piece() {
        let pieces = pieces(10);
        let (mut one, mut other) = (Bitfield::new(10), Bitfield::new(10));
        assert!(one.is_disjoint(&other));
        one.set(pieces[8]);
        other.set(pieces[9]);
        assert!(one.is_disjoint(&other));
        other.set(pieces[8]);
        assert!(!one.is_disjoint(&other) && !other.is_disjoint(&one));
    }

    #[test]
    fn a_bitfield_of_another_torrent_is_refused() {
        assert_eq!(
            Bitfield::from_wire(&[0xff], 9),
            Err(Error::Length { len: 1, piece_count: 9 })
        );
        assert_eq!(
            Bitfield::from_wire(&[0xff, 0], 8),
            Err(Error::Length { len: 2, piece_count: 8 })
        );
        assert_eq!(
            Bitfield::from_wire(&[0xff, 0x40], 9),
            Err(Error::SpareBits { piece_count: 9 })
        );
    }

    #[test]
    fn what_two_sets_have_in_common_is_found_from_any_piece_on_in_any_word() {
        // Whole words alone, a last one that is short, and less than one; full words, sparse ones and long gaps.
        for count in [1, 63, 64, 65, 128, 200, 1024] {
            for step in [1, 2, 7, 63, 64, 101, 900] {
                let pieces = pieces(count);
                let (mut a, mut b) = (Bitfield::new(count), Bitfield::full(count));
                pieces.iter().step_by(step).for_each(|piece| {
                    a.set(*piece);
                });
                b.clear(pieces[count as usize / 2]);
                for from in 0..=count + 64 {
                    let both = |piece: &PieceIndex| a.get(*piece) && b.get(*piece) && piece.get() >= from;
                    let expected: Vec<PieceIndex> = pieces.iter().copied().filter(both).collect();
                    let found: Vec<PieceIndex> = a.common(&b, from).collect();
                    assert_eq!(found, expected, "each {step}th of {count} from {from} on");
                }
            }
        }
    }
}
