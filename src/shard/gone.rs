//! Requests for pieces that are not there: their file went bad after the peer was told of them.
//!
//! A peer that understands `lt_donthave` (BEP 54) is told, once for each piece, and stops. The others go on asking, if only
//! one block at a time. Either way one that is told too often knows too little of what there is: it is sent away, comes
//! back, and is told all at once by the bitfield.

use crate::proto::geometry::{BlockRequest, PieceIndex};
use crate::proto::peer::Peer;
use crate::proto::wire::{self, Message};

/// Pieces that a peer is told of one by one, or requests of one that cannot be told: those of a piece of 1 MiB.
const TOLD_MAX: u8 = 64;

/// What a peer was told of pieces that are gone.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Which one last, if it understood.
    last: Option<PieceIndex>,
    times: u8,
}

impl Gone {
    /// Answers a request for a piece that is gone. False when the peer is better sent away, perhaps since it knows no
    /// rejects and would wait for ever.
    pub(super) fn answer(&mut self, peer: &Peer, block: &BlockRequest, out: &mut Vec<u8>) -> bool {
        if !peer.fast() {
            return false;
        }
        if self.last != Some(block.piece()) {
            if self.times == TOLD_MAX {
                return false;
            }
            self.times += 1;
            self.last = peer.say_gone(block.piece(), out).then_some(block.piece());
        }
        wire::encode(&Message::reject(block), out);
        true
    }
}
