//! What was asked for and sent, over all seeders, and what the client says it has: when it is done, and what was in vain.
//!
//! Kept by cells of 16 KiB, which is what nearly every client asks for at a time; other requests are divided among them.

use std::time::Duration;

use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::{BLOCK_LEN, BlockRequest, Geometry, PieceIndex};

/// 16 KiB of a piece, or its shorter end.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    /// Requests that were taken on and are not answered.
    asked: u16,
    /// Right bytes sent, at most its length.
    sent: u16,
}

/// Counts of what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests received, of whatever kind.
    pub(super) requests: u64,
    /// Those for something that was sent before or is under way.
    pub(super) asked_again: u64,
    /// Those beyond what a seeder's queue takes.
    pub(super) refused: u64,
    /// Those that were cancelled before the block left.
    pub(super) cancelled: u64,
    /// Those that no torrent of this geometry has an answer to.
    pub(super) invalid: u64,
    /// Right bytes sent.
    pub(super) sent_bytes: u64,
    /// Right bytes sent once more.
    pub(super) sent_again_bytes: u64,
    /// Wrong bytes sent.
    pub(super) lied_bytes: u64,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Ledger {
    geometry: Geometry,
    cells_per_piece: u32,
    cells: Vec<Cell>,
    /// Bytes that were not sent yet.
    unsent: u64,
    theirs: Bitfield,
    pub(super) counts: Counts,
    /// When the first handshake, and the first request, was received.
    pub(super) met_at: Option<Duration>,
    pub(super) asked_at: Option<Duration>,
    /// When the last right block was sent that the client had not said it had.
    pub(super) sent_at: Option<Duration>,
    /// When the client said that it has everything.
    pub(super) whole_at: Option<Duration>,
}

impl Ledger {
    pub(super) fn new(geometry: Geometry) -> Ledger {
        let cells_per_piece = geometry.piece_len_max().div_ceil(BLOCK_LEN);
        Ledger {
            geometry,
            cells_per_piece,
            cells: vec![Cell::default(); geometry.piece_count() as usize * cells_per_piece as usize],
            unsent: geometry.total_len(),
            theirs: Bitfield::new(geometry.piece_count()),
            counts: Counts::default(),
            met_at: None,
            asked_at: None,
            sent_at: None,
            whole_at: None,
        }
    }

    /// Whether every byte was sent by somebody who does not lie, or the client has everything from elsewhere.
    pub(super) fn is_fed(&self) -> bool {
        self.unsent == 0 || self.whole_at.is_some()
    }

    /// A peer has shown that it wants this torrent.
    pub(super) fn on_met(&mut self, now: Duration) {
        self.met_at.get_or_insert(now);
    }

    /// A request was received.
    pub(super) fn on_request(&mut self, now: Duration) {
        self.asked_at.get_or_insert(now);
        self.counts.requests += 1;
    }

    /// A request was taken on.
    pub(super) fn on_taken(&mut self, block: &BlockRequest) {
        let (first, _) = self.parts(block);
        let cell = &mut self.cells[first];
        // What begins within a cell may be another part of it.
        let is_whole = block.begin().is_multiple_of(BLOCK_LEN);
        self.counts.asked_again += u64::from(is_whole && (cell.asked > 0 || cell.sent > 0));
        cell.asked = cell.asked.saturating_add(1);
    }

    /// A request that was taken on will not be answered.
    pub(super) fn on_let_go(&mut self, block: &BlockRequest) {
        let (first, _) = self.parts(block);
        let cell = &mut self.cells[first];
        cell.asked = cell.asked.saturating_sub(1);
    }

    /// A block was handed to the client's socket.
    pub(super) fn on_sent(&mut self, block: &BlockRequest, lie: bool, now: Duration) {
        self.on_let_go(block);
        if lie {
            self.counts.lied_bytes += u64::from(block.length());
            return;
        }
        self.counts.sent_bytes += u64::from(block.length());
        if self.whole_at.is_none() {
            self.sent_at = Some(now);
        }
        let (first, len) = self.parts(block);
        self.fill(first, block.piece(), len);
        if len < block.length() {
            self.fill(first + 1, block.piece(), block.length() - len);
        }
    }

    fn fill(&mut self, index: usize, piece: PieceIndex, len: u32) {
        let of_piece = index as u32 - piece.get() * self.cells_per_piece;
        let cell_len = BLOCK_LEN.min(self.geometry.piece_len(piece) - of_piece * BLOCK_LEN);
        let cell = &mut self.cells[index];
        let missing = cell_len - u32::from(cell.sent);
        let new = len.min(missing);
        cell.sent += u16::try_from(new).expect("at most a cell");
        self.unsent -= u64::from(new);
        self.counts.sent_again_bytes += u64::from(len - new);
    }

    /// The cell that a block begins in, and how much of it lies there.
    fn parts(&self, block: &BlockRequest) -> (usize, u32) {
        let cell = block.piece().get() * self.cells_per_piece + block.begin() / BLOCK_LEN;
        (cell as usize, block.length().min(BLOCK_LEN - block.begin() % BLOCK_LEN))
    }

    /// The client has a piece.
    pub(super) fn on_have(&mut self, piece: PieceIndex, now: Duration) {
        self.theirs.set(piece);
        self.look(now);
    }

    /// The client has these pieces.
    pub(super) fn on_bitfield(&mut self, pieces: &Bitfield, now: Duration) {
        for piece in pieces.pieces() {
            self.theirs.set(piece);
        }
        self.look(now);
    }

    fn look(&mut self, now: Duration) {
        if self.theirs.is_full() {
            self.whole_at.get_or_insert(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn ledger() -> (Ledger, Geometry) {
        let geometry = Geometry::new(40_000, 90_000).unwrap();
        (Ledger::new(geometry), geometry)
    }

    #[test]
    fn everything_is_sent_when_each_byte_was_sent_once_by_whatever_blocks() {
        for step in [16_384, 10_000, 16_000] {
            let (mut ledger, geometry) = ledger();
            for piece in geometry.pieces() {
                let mut begin = 0;
                while begin < geometry.piece_len(piece) {
                    assert!(!ledger.is_fed());
                    let len = step.min(geometry.piece_len(piece) - begin);
                    let block = geometry.check(piece.get(), begin, len).unwrap();
                    ledger.on_taken(&block);
                    ledger.on_sent(&block, false, NOW);
                    begin += len;
                }
            }
            assert!(ledger.is_fed());
            assert_eq!((ledger.counts.sent_bytes, ledger.counts.sent_again_bytes), (90_000, 0));
            assert_eq!(ledger.sent_at, Some(NOW));
        }
    }

    #[test]
    fn block_sent_twice_is_waste_and_a_lie_is_nothing() {
        let (mut ledger, geometry) = ledger();
        let block = geometry.check(1, 16_384, 16_384).unwrap();
        ledger.on_taken(&block);
        ledger.on_sent(&block, true, NOW);
        assert_eq!((ledger.counts.lied_bytes, ledger.counts.sent_bytes), (16_384, 0));
        ledger.on_taken(&block);
        ledger.on_taken(&block);
        assert_eq!(ledger.counts.asked_again, 1);
        ledger.on_sent(&block, false, NOW);
        ledger.on_sent(&block, false, NOW);
        assert_eq!(
            (ledger.counts.sent_bytes, ledger.counts.sent_again_bytes),
            (32_768, 16_384)
        );
        ledger.on_taken(&block);
        assert_eq!(ledger.counts.asked_again, 2);
    }

    #[test]
    fn request_that_was_let_go_may_be_asked_of_another() {
        let (mut ledger, geometry) = ledger();
        let block = geometry.check(0, 0, 16_384).unwrap();
        ledger.on_taken(&block);
        ledger.on_let_go(&block);
        ledger.on_taken(&block);
        assert_eq!(ledger.counts.asked_again, 0);
    }

    #[test]
    fn client_is_whole_when_it_has_told_of_every_piece() {
        let (mut ledger, geometry) = ledger();
        ledger.on_bitfield(&Bitfield::from_wire(&[0xc0], 3).unwrap(), NOW);
        assert_eq!(ledger.whole_at, None);
        ledger.on_have(geometry.piece_index(2).unwrap(), 2 * NOW);
        ledger.on_have(geometry.piece_index(2).unwrap(), 3 * NOW);
        assert_eq!(ledger.whole_at, Some(2 * NOW));
    }
}
