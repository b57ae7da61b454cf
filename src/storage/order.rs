//! In which order the stretches of a torrent are read.
//!
//! Small pieces follow each other, as many as fit a stretch. Large ones are cut into stretches, and several pieces are
//! read side by side, a stretch of each in turn: hashing is fastest with as many pieces as there are lanes, and this way
//! they need a stretch of memory each, however long they are. On a disk that seeks it would halve the rate, so there one
//! piece follows the other.

use std::collections::VecDeque;
use std::iter::Peekable;

use crate::hashing::Then;
use crate::proto::geometry::{Geometry, PieceIndex};

/// What is read next.
#[derive(Debug)]
pub(super) enum Next {
    /// These pieces, which follow each other.
    Pieces(Vec<(PieceIndex, Then)>),
    /// A part of a piece that is longer than a stretch.
    Part(Cursor),
    /// A piece that nobody wants was passed.
    Passed(PieceIndex),
    /// There is no more.
    End,
}

/// Where in a long piece a stretch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) piece: PieceIndex,
    /// In bytes from the beginning of the piece.
    pub(super) begin: u32,
    pub(super) len: u32,
    /// Wanted of the whole piece.
    pub(super) then: Then,
}

/// See the head of this file.
pub(super) struct Order<'a, I: Iterator> {
    geometry: &'a Geometry,
    pieces: Peekable<I>,
    /// Long pieces being read, the one whose turn it is in front: their next stretch.
    window: VecDeque<Cursor>,
    stretch_len: u32,
}

impl<'a, I: Iterator<Item = PieceIndex>> Order<'a, I> {
    /// All of `pieces`, in stretches of at most `stretch_len` bytes.
    pub(super) fn new(geometry: &'a Geometry, pieces: I, stretch_len: u32) -> Self {
        Self {
            geometry,
            pieces: pieces.peekable(),
            window: VecDeque::new(),
            stretch_len,
        }
    }

    /// The piece that is begun next, if it is one's turn.
    pub(super) fn begins_next(&mut self) -> Option<PieceIndex> {
        self.pieces.peek().copied()
    }

    /// Takes the piece that is begun next out of the order.
    pub(super) fn take_whole(&mut self) -> Option<PieceIndex> {
        self.pieces.next()
    }

    /// Whether long pieces are being read.
    pub(super) fn is_under_way(&self) -> bool {
        !self.window.is_empty()
    }

    /// The next stretch. `width` says how many long pieces are to be read side by side at most; `wanted` what is to be
    /// done with a piece, if anything.
    pub(super) fn next(&mut self, width: usize, mut wanted: impl FnMut(PieceIndex) -> Option<Then>) -> Next {
        let mut batch: Vec<(PieceIndex, Then)> = Vec::new();
        let mut batch_len = 0;
        if self.window.is_empty() || self.window.len() < width {
            while let Some(&piece) = self.pieces.peek() {
                let piece_len = self.geometry.piece_len(piece);
                if batch_len > 0 && batch_len + piece_len > self.stretch_len {
                    break;
                }
                let Some(then) = wanted(piece) else {
                    if batch.is_empty() {
                        self.pieces.next();
                        return Next::Passed(piece);
                    }
                    break;
                };
                self.pieces.next();
                if piece_len > self.stretch_len {
                    let len = self.stretch_len;
                    self.window.push_front(Cursor {
                        piece,
                        begin: 0,
                        len,
                        then,
                    });
                    break;
                }
                batch.push((piece, then));
                batch_len += piece_len;
            }
        }
        if !batch.is_empty() {
            return Next::Pieces(batch);
        }
        let Some(cursor) = self.window.pop_front() else {
            return Next::End;
        };
        let begin = cursor.begin + cursor.len;
        let left = self.geometry.piece_len(cursor.piece) - begin;
        if left > 0 {
            let len = left.min(self.stretch_len);
            self.window.push_back(Cursor { begin, len, ..cursor });
        }
        Next::Part(cursor)
    }

    /// The rest of a long piece is not to be read.
    pub(super) fn drop_piece(&mut self, piece: PieceIndex) {
        self.window.retain(|cursor| cursor.piece != piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole order as text: `0,1` for pieces, `3@8+4` for a part, `-2` for one that was passed.
    fn order(piece_len: u32, total_len: u64, stretch_len: u32, width: usize, unwanted: &[u32]) -> String {
        let geometry = Geometry::new(piece_len, total_len).unwrap();
        let mut order = Order::new(&geometry, geometry.pieces(), stretch_len);
        let mut told = Vec::new();
        loop {
            let wanted = |piece: PieceIndex| (!unwanted.contains(&piece.get())).then_some(Then::Finish);
            told.push(match order.next(width, wanted) {
                Next::Pieces(batch) => {
                    let pieces: Vec<String> = batch.iter().map(|(piece, _)| piece.get().to_string()).collect();
                    pieces.join(",")
                }
                Next::Part(Cursor { piece, begin, len, .. }) => format!("{}@{begin}+{len}", piece.get()),
                Next::Passed(piece) => format!("-{}", piece.get()),
                Next::End => return told.join(" "),
            });
        }
    }

    #[test]
    fn short_pieces_are_read_together_as_far_as_they_fit() {
        assert_eq!(order(1024, 5100, 2500, 8, &[]), "0,1 2,3 4");
        assert_eq!(order(1024, 5100, 2500, 8, &[1, 3, 4]), "0 -1 2 -3 -4");
    }

    #[test]
    fn a_long_piece_alone_is_read_from_front_to_back() {
        assert_eq!(
            order(1024, 2500, 400, 1, &[]),
            "0@0+400 0@400+400 0@800+224 1@0+400 1@400+400 1@800+224 2@0+400 2@400+52"
        );
    }

    #[test]
    fn long_pieces_take_turns_and_the_next_comes_in_when_one_is_over() {
        assert_eq!(
            order(1024, 4096, 512, 2, &[1]),
            "0@0+512 -1 2@0+512 0@512+512 3@0+512 2@512+512 3@512+512"
        );
    }
}
