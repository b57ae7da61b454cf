//! Pieces in memory: being put together, hashed or written.
//!
//! All downloads of a shard share one budget. A piece takes its whole length of it from the first request to the last byte
//! written, so that what has been asked for has room when it comes. Buffers are used again ([`super::spares`]). What checks
//! have borrowed is left out of the budget until it is given back.
//!
//! A buffer lies in memory as its piece lies in its file, modulo a page, so that it can be written past the page cache
//! without being copied.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::early::{Early, RUN_LEN};
use super::spares::Spares;
use crate::proto::geometry::{BLOCK_LEN, BlockRequest, PieceIndex};
use crate::storage::Loan;

/// Pieces of a torrent that go into the buffer at least: with fewer, one slow peer would stop all downloads of the shard.
/// Longer ones are written before they are whole.
const PIECES_MIN: u64 = 4;

/// The least that a shard has: some pieces that are written early, and a few dozen blocks.
pub(super) const BUFFER_MIN: u64 = 4 * RUN_LEN as u64;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Assembly {
    /// By the shard's number for the torrent, and piece.
    pieces: HashMap<(u32, PieceIndex), BytesMut>,
    pub(super) spares: Spares,
    /// Bytes of all pieces that were begun.
    reserved: u64,
    /// Of them, those of pieces that are written early.
    reserved_early: u64,
    max: u64,
    lent: Lent,
    pub(super) early: Early,
}

/// What checks have of all shards' budgets, and how many these are.
#[derive(Debug)]
struct Lent {
    loan: Arc<Loan>,
    shards: u64,
}

impl Assembly {
    /// With so many bytes for all pieces, less the part of one in `shards` of what is lent.
    pub(super) fn new(max: u64, loan: Arc<Loan>, shards: usize) -> Assembly {
        Assembly {
            pieces: HashMap::new(),
            spares: Spares::new(max),
            reserved: 0,
            reserved_early: 0,
            max,
            lent: Lent {
                loan,
                shards: shards.max(1) as u64,
            },
            early: Early::default(),
        }
    }

    /// What of the budget is not lent: half of it in any case. Beyond it no pieces are begun, and spares are given up; those that
    /// were begun go on, since nothing else would make room.
    fn left(&self) -> u64 {
        let lent = self.lent.loan.bytes() / self.lent.shards;
        self.max - lent.min(self.max / 2)
    }

    /// How many more pieces of this length may be begun.
    pub(super) fn room(&self, piece_len: u64) -> usize {
        usize::try_from(self.left().saturating_sub(self.reserved) / piece_len).unwrap_or(usize::MAX)
    }

    /// Whether pieces are so long that they are written before they are whole.
    pub(super) fn is_too_short_for(&self, piece_len: u64) -> bool {
        PIECES_MIN * piece_len > self.max
    }

    /// How many more pieces may be begun that are written early, and how many blocks of these and others asked for. A
    /// quarter is left to the pieces that need room for all of theirs at once.
    pub(super) fn room_early(&self) -> (usize, usize) {
        let (pieces, blocks) = self.room_early_of_all();
        let fit = self.left().saturating_sub(self.reserved) / u64::from(RUN_LEN);
        (pieces.min(fit as usize), blocks)
    }

    /// The same as if nothing was lent.
    fn room_early_of_all(&self) -> (usize, usize) {
        let left = (self.max / 4 * 3).saturating_sub(self.reserved_early);
        let left = left.min(self.max.saturating_sub(self.reserved));
        let run = u64::from(RUN_LEN);
        let pieces = match left / 2 / run {
            0 if self.reserved_early == 0 => left / run,
            // What has come of another counts too, and is no reason to begin none beside it.
            0 if left >= run + run / 2 => 1,
            pieces => pieces,
        };
        let blocks = (left - pieces * run) / u64::from(BLOCK_LEN);
        (pieces as usize, blocks as usize)
    }

    /// Whether there is little room left: what nobody goes on with is to make way. Pieces that are written early never come
    /// to seven eighths by themselves: of them there is little when no other can be begun.
    pub(super) fn is_tight(&self) -> bool {
        self.reserved >= self.max / 8 * 7 || (self.reserved_early > 0 && self.room_early_of_all().0 == 0)
    }

    /// A piece is not put together any more.
    pub(super) fn forget(&mut self, torrent: u32, piece: PieceIndex) {
        self.early.forget(torrent, piece);
        if let Some(buffer) = self.pieces.remove(&(torrent, piece)) {
            self.recycle(buffer.freeze());
        }
    }

    /// So many bytes more, or fewer, belong to pieces that were begun.
    pub(super) fn reserve(&mut self, bytes: i64) {
        self.reserved = self.reserved.saturating_add_signed(bytes);
    }

    /// The same of pieces that are written early.
    pub(super) fn reserve_early(&mut self, bytes: i64) {
        self.reserved_early = self.reserved_early.saturating_add_signed(bytes);
        self.reserve(bytes);
    }

    /// Bytes of all pieces that were begun.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Keeps a block of a piece of `len` bytes. `skew` tells how far its first byte is from an aligned place of its file.
    pub(super) fn put(
        &mut self,
        torrent: u32,
        len: u32,
        skew: impl FnOnce() -> usize,
        block: &BlockRequest,
        data: &[u8],
    ) {
        let (spares, reserved) = (&mut self.spares, self.reserved);
        let piece = self
            .pieces
            .entry((torrent, block.piece()))
            .or_insert_with(|| spares.take(len as usize, skew(), reserved));
        piece[block.begin() as usize..][..data.len()].copy_from_slice(data);
    }

    /// The same of a piece that is written early.
    pub(super) fn put_early(
        &mut self,
        torrent: u32,
        len: u32,
        skew: impl FnOnce() -> usize,
        block: &BlockRequest,
        data: &[u8],
    ) {
        let memory = (&mut self.spares, self.reserved);
        self.early.put(memory, (torrent, len), skew, block, data);
    }

    /// Takes a piece of which all blocks were put.
    pub(super) fn take(&mut self, torrent: u32, piece: PieceIndex) -> Option<Bytes> {
        Some(self.pieces.remove(&(torrent, piece))?.freeze())
    }

    /// Takes the memory of a run back that was written. A short one fits no other.
    pub(super) fn recycle_run(&mut self, bytes: Bytes) {
        if bytes.len() == RUN_LEN as usize {
            self.keep(bytes);
        }
    }

    fn keep(&mut self, bytes: Bytes) {
        self.spares.limit(self.left());
        self.spares.keep(bytes);
    }

    /// Takes the buffer of a piece back that nobody needs any more.
    pub(super) fn recycle(&mut self, bytes: Bytes) {
        self.keep(bytes);
    }

    /// Gives back spares that nobody will use soon: all of them while nothing comes, else those that checks have borrowed.
    pub(super) fn give_up_spares(&mut self, comes: bool) {
        match comes {
            true => self.spares.limit(self.left()),
            false => self.spares.clear(),
        }
    }

    /// A torrent has left.
    pub(super) fn forget_all(&mut self, torrent: u32) {
        self.early.forget_all(torrent);
        self.pieces.retain(|(of, _), _| *of != torrent);
        if self.pieces.is_empty() && self.early.is_empty() {
            self.spares.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::geometry::Geometry;

    const PIECE: u32 = 256 * 1024;

    fn block(piece: u32, number: u32) -> BlockRequest {
        let geometry = Geometry::new(PIECE, 10 * u64::from(PIECE)).unwrap();
        geometry.check(piece, number * 16384, 16384).unwrap()
    }

    #[test]
    fn piece_has_its_blocks_in_their_places_whatever_was_in_its_buffer_before() {
        let mut assembly = Assembly::new(1 << 20, Arc::default(), 1);
        for round in 0..3u8 {
            let piece = block(0, 0).piece();
            assembly.reserve(PIECE.into());
            assembly.put(7, PIECE, || 100, &block(0, 1), &[2 * round + 1; 16384]);
            assembly.put(7, PIECE, || 100, &block(0, 0), &[2 * round; 16384]);
            assert_eq!(assembly.take(8, piece), None, "of another torrent");
            let bytes = assembly.take(7, piece).unwrap();
            assert_eq!(
                (bytes.len(), bytes[16383], bytes[16384]),
                (PIECE as usize, 2 * round, 2 * round + 1)
            );
            assembly.reserve(-i64::from(PIECE));
            assembly.recycle(bytes);
            assert_eq!(assembly.spares.count(), 1, "the buffer is used again");
        }
    }

    #[test]
    fn what_is_reserved_and_spare_stays_within_the_budget() {
        let mut assembly = Assembly::new(6 * u64::from(PIECE), Arc::default(), 1);
        assert_eq!(assembly.room(PIECE.into()), 6);
        assert!(!assembly.is_too_short_for(PIECE.into()) && assembly.is_too_short_for(1 << 20));
        let bytes: Vec<Bytes> = (0..7).map(|_| BytesMut::zeroed(PIECE as usize - 1).freeze()).collect();
        bytes.into_iter().for_each(|bytes| assembly.recycle(bytes));
        assert_eq!(assembly.spares.count(), 6, "of pieces a byte shorter");
        // A spare is kept for what is reserved and has not come yet, unless it does not fit what comes.
        assembly.reserve(PIECE.into());
        assert_eq!((assembly.spares.count(), assembly.room(PIECE.into())), (6, 5));
        for piece in 0..2 {
            assembly.reserve(PIECE.into());
            assembly.put(7, PIECE, || 100, &block(piece, 0), &[1; 16384]);
        }
        assert_eq!((assembly.spares.count(), assembly.room(PIECE.into())), (3, 3));
        let bytes = assembly.take(7, block(0, 0).piece()).unwrap();
        let _held = bytes.clone();
        assembly.recycle(bytes);
        assert_eq!(assembly.spares.count(), 3, "somebody reads it still");
    }

    #[test]
    fn what_checks_have_borrowed_is_not_for_pieces_until_it_is_given_back() {
        let loan = Arc::new(Loan::new(16 << 20));
        let (piece, len) = (u64::from(PIECE), PIECE as usize);
        let mut assembly = Assembly::new(64 * piece, Arc::clone(&loan), 4);
        for _ in 0..64 {
            assembly.recycle(BytesMut::zeroed(len).freeze());
        }
        assert_eq!((assembly.room(piece), assembly.spares.count()), (64, 64));
        loan.take(4 * 32 * piece);
        assert_eq!(assembly.room(piece), 32, "a quarter of what is lent is this shard's");
        assert!(!assembly.is_too_short_for(16 * piece), "which lasts for a while only");
        assembly.recycle(BytesMut::zeroed(len).freeze());
        assert_eq!(assembly.spares.count(), 32);
        loan.take(4 * 1000 * piece);
        assert_eq!(assembly.room(piece), 32, "half of it is never lent");
        assembly.reserve(28 * i64::from(PIECE));
        assert_eq!((assembly.room(piece), assembly.is_tight()), (4, false));
        loan.give_back(4 * 1032 * piece);
        assert_eq!(assembly.room(piece), 36);
    }

    /// They were given up only when the next piece was done with.
    #[test]
    fn spares_are_given_up_for_checks_and_all_of_them_while_nothing_comes() {
        let loan = Arc::new(Loan::new(16 << 20));
        let piece = u64::from(PIECE);
        let mut assembly = Assembly::new(8 * piece, Arc::clone(&loan), 1);
        for _ in 0..8 {
            assembly.recycle(BytesMut::zeroed(PIECE as usize).freeze());
        }
        assembly.give_up_spares(true);
        assert_eq!(assembly.spares.count(), 8, "the next pieces use them");
        loan.take(3 * piece);
        assembly.give_up_spares(true);
        assert_eq!(assembly.spares.count(), 5);
        assembly.give_up_spares(false);
        assert_eq!(assembly.spares.count(), 0);
    }

    #[test]
    fn pieces_that_are_written_early_go_on_while_checks_have_borrowed_and_none_is_begun_beside_them() {
        let loan = Arc::new(Loan::new(64 << 20));
        let mut assembly = Assembly::new(64 << 20, Arc::clone(&loan), 1);
        assembly.reserve_early(40 << 20);
        let (pieces, blocks) = assembly.room_early();
        assert!(pieces > 0 && blocks > 0);
        loan.take(32 << 20);
        let (pieces, blocks) = assembly.room_early();
        assert!(pieces == 0 && blocks > 0, "{pieces} pieces, {blocks} blocks");
        loan.give_back(32 << 20);
        assert!(assembly.room_early().0 > 0);
    }
}
