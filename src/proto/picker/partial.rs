//! A piece that is being downloaded: of which peers its blocks have been asked, and who has sent them.

use super::super::geometry::{BLOCK_LEN, BlockRequest, Geometry, PieceIndex};
use super::{Again, PeerKey};

/// One block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// To be asked for.
    Open,
    /// Asked of one peer, in the endgame of two.
    Asked(PeerKey, Option<PeerKey>),
    /// Here, and who sent it.
    Here(PeerKey),
}

/// A piece of which somebody was asked for a block.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) piece: PieceIndex,
    blocks: Box<[Block]>,
    /// Blocks before this one are not open.
    open_from: u32,
    open: u32,
    missing: u32,
    /// The only peer that may be asked for it: a suspect that is to prove itself.
    pub(super) only: Option<PeerKey>,
    /// The peer that it was begun for, as long as that is there.
    pub(super) of: Option<PeerKey>,
    /// Who was asked for any of it, or has sent some.
    parts: Vec<PeerKey>,
    /// How often it was looked at while nobody was asked for any of it.
    pub(super) looks: u32,
}

/// What became of a block that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It was missing. Another peer had been asked for it too.
    New { other: Option<PeerKey> },
    /// It was here.
    Again,
}

impl Partial {
    pub(super) fn new(geometry: &Geometry, piece: PieceIndex, of: PeerKey) -> Partial {
        let count = geometry.piece_len(piece).div_ceil(BLOCK_LEN);
        Partial {
            piece,
            blocks: vec![Block::Open; count as usize].into(),
            open_from: 0,
            open: count,
            missing: count,
            only: None,
            of: Some(of),
            parts: vec![of],
            looks: 0,
        }
    }

    /// Blocks that nobody was asked for.
    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// Blocks that somebody was asked for and that are not here.
    pub(super) fn asked(&self) -> u32 {
        self.missing - self.open
    }

    /// Whether somebody was asked for a block that is not here.
    pub(super) fn is_asked(&self) -> bool {
        self.asked() > 0
    }

    /// Whether all blocks are here.
    pub(super) fn is_here(&self) -> bool {
        self.missing == 0
    }

    /// Whether nothing of it is here and nobody was asked.
    pub(super) fn is_untouched(&self) -> bool {
        self.open as usize == self.blocks.len()
    }

    /// Whether this peer may be asked for it. `alone`: only if nobody else is, nor was.
    pub(super) fn is_for(&self, peer: PeerKey, alone: bool) -> bool {
        match self.only {
            Some(only) => only == peer,
            None => !alone,
        }
    }

    /// Whether a peer was asked for any of it, or has sent some, or had been when [`Partial::leave`] was called last.
    pub(super) fn has_part(&self, peer: PeerKey) -> bool {
        self.parts.contains(&peer)
    }

    /// A peer is asked for some of it. Whether it had no part in it before.
    pub(super) fn join(&mut self, peer: PeerKey) -> bool {
        let is_new = !self.has_part(peer);
        if is_new {
            self.parts.push(peer);
        }
        is_new
    }

    /// A peer has no part in it any more, unless it has sent some or is to.
    pub(super) fn leave(&mut self, peer: PeerKey) {
        if !self.has_part(peer) {
            return;
        }
        let is_its = |block: &Block| match block {
            Block::Open => false,
            Block::Asked(first, second) => *first == peer || *second == Some(peer),
            Block::Here(giver) => *giver == peer,
        };
        if !self.blocks.iter().any(is_its) {
            self.parts.retain(|part| *part != peer);
        }
    }

    /// The number of a block as we ask for it. `None` if it is another stretch of the piece.
    fn number(&self, geometry: &Geometry, block: &BlockRequest) -> Option<usize> {
        let number = block.begin() / BLOCK_LEN;
        let ours = block.begin().is_multiple_of(BLOCK_LEN) && *block == block_at(geometry, self.piece, number);
        ours.then_some(number as usize)
    }

    /// The next open block, which is asked of this peer.
    pub(super) fn ask(&mut self, geometry: &Geometry, peer: PeerKey) -> Option<BlockRequest> {
        if self.open == 0 {
            return None;
        }
        let from = self.open_from as usize;
        let at = from + self.blocks[from..].iter().position(|block| *block == Block::Open)?;
        self.blocks[at] = Block::Asked(peer, None);
        self.open_from = at as u32 + 1;
        self.open -= 1;
        Some(block_at(geometry, self.piece, at as u32))
    }

    /// The next block that only one other peer was asked for, one of these, which is asked of this peer too.
    pub(super) fn ask_again(&mut self, geometry: &Geometry, peer: PeerKey, of: Again<'_>) -> Option<BlockRequest> {
        let once = |block: &Block| matches!(block, Block::Asked(other, None) if *other != peer && of.is_of(*other));
        let at = self.blocks.iter().position(once)?;
        if let Block::Asked(_, second) = &mut self.blocks[at] {
            *second = Some(peer);
        }
        Some(block_at(geometry, self.piece, at as u32))
    }

    /// A block has come. `None` if it is none of ours.
    pub(super) fn put(&mut self, geometry: &Geometry, peer: PeerKey, block: &BlockRequest) -> Option<Put> {
        let at = self.number(geometry, block)?;
        let other = match self.blocks[at] {
            Block::Here(_) => return Some(Put::Again),
            Block::Open => {
                self.open -= 1;
                None
            }
            Block::Asked(first, second) => [Some(first), second].into_iter().flatten().find(|&asked| asked != peer),
        };
        self.blocks[at] = Block::Here(peer);
        self.missing -= 1;
        Some(Put::New { other })
    }

    /// A peer will not send a block that it was asked for. False if it was not.
    pub(super) fn give_back(&mut self, geometry: &Geometry, peer: PeerKey, block: &BlockRequest) -> bool {
        let Some(at) = self.number(geometry, block) else {
            return false;
        };
        self.blocks[at] = match self.blocks[at] {
            Block::Asked(first, Some(second)) if first == peer => Block::Asked(second, None),
            Block::Asked(first, Some(second)) if second == peer => Block::Asked(first, None),
            Block::Asked(first, None) if first == peer => {
                self.open += 1;
                self.open_from = self.open_from.min(at as u32);
                Block::Open
            }
            Block::Open | Block::Asked(..) | Block::Here(_) => return false,
        };
        true
    }

    /// A block that one peer was asked for is asked of another instead. False if it is not so.
    pub(super) fn hand_over(&mut self, geometry: &Geometry, block: &BlockRequest, from: PeerKey, to: PeerKey) -> bool {
        match self.number(geometry, block) {
            Some(at) if self.blocks[at] == Block::Asked(from, None) => {
                self.blocks[at] = Block::Asked(to, None);
                self.join(to);
                true
            }
            _ => false,
        }
    }

    /// What a peer has sent is to be had anew.
    pub(super) fn disown(&mut self, peer: PeerKey) {
        let mut count = 0;
        for (at, block) in (0..).zip(&mut self.blocks) {
            if *block == Block::Here(peer) {
                *block = Block::Open;
                self.open_from = self.open_from.min(at);
                count += 1;
            }
        }
        self.open += count;
        self.missing += count;
    }

    /// Who sent each block, of a piece that is here.
    pub(super) fn givers(&self) -> Vec<PeerKey> {
        let giver = |block: &Block| match block {
            Block::Here(peer) => Some(*peer),
            Block::Open | Block::Asked(..) => None,
        };
        self.blocks.iter().filter_map(giver).collect()
    }
}

/// A block as we ask for it.
fn block_at(geometry: &Geometry, piece: PieceIndex, number: u32) -> BlockRequest {
    let begin = number * BLOCK_LEN;
    let len = BLOCK_LEN.min(geometry.piece_len(piece) - begin);
    geometry.check(piece.get(), begin, len).expect("a block of the piece")
}
