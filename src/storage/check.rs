//! Whether the payload of a torrent is there and right.
//!
//! [`check`] blocks: it is called on a thread of its own, once per torrent; several at once share one pool. It never
//! fails because of what is on the disk. Nothing is written, truncated or renamed here, whatever it finds.

use super::layout::Layout;
pub use super::payload::FileState;
use super::payload::Payload;
use super::pieces::{self, Error, Means, Progress, Visitor};
use super::root::Root;
use crate::hashing::{Outcome, Then};
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::PieceIndex;
use crate::proto::metainfo::Metainfo;

/// What [`check`] found.
#[derive(Debug, Clone)]
pub struct CheckReport {
    /// Pieces whose bytes are right: those that can be served.
    pub have: Bitfield,
    /// Pieces whose bytes were read and are wrong. What is in neither could not be read.
    pub wrong: Bitfield,
    /// What each file of [`Metainfo::files`] is. Padding is always [`FileState::Ok`].
    pub files: Vec<FileState>,
}

impl CheckReport {
    /// Whether every piece is right and every file as the torrent says. A torrent can be served in full without that: a
    /// file that is too long, or an empty one that is missing, costs no piece.
    pub fn is_whole(&self) -> bool {
        self.have.is_full() && self.files.iter().all(FileState::is_ok)
    }

    /// Pieces that could not be read.
    pub fn absent_count(&self) -> u32 {
        self.have.piece_count() - self.have.count() - self.wrong.count()
    }
}

/// Reads the payload of `metainfo` below `root` and verifies every piece that can be read.
///
/// # Errors
/// When it was cancelled, or the pool stopped. Never for anything found on the disk.
pub fn check(metainfo: &Metainfo, root: &Root, means: Means<'_>, progress: &Progress) -> Result<CheckReport, Error> {
    let layout = Layout::new(metainfo);
    let payload = Payload::look(root, &layout, &metainfo.files, || !progress.is_cancelled());
    let mut payload = payload.ok_or(Error::Cancelled)?;
    let piece_count = metainfo.geometry.piece_count();
    let mut verifier = Verifier {
        metainfo,
        have: Bitfield::new(piece_count),
        wrong: Bitfield::new(piece_count),
    };
    pieces::run(&metainfo.geometry, &mut payload, means, progress, &mut verifier)?;
    if payload.look_again() {
        for piece in metainfo.geometry.pieces() {
            if !verifier.is_there(piece, &payload) {
                verifier.have.clear(piece);
            }
        }
    }
    Ok(CheckReport {
        have: verifier.have,
        wrong: verifier.wrong,
        files: payload.into_states(),
    })
}

struct Verifier<'a> {
    metainfo: &'a Metainfo,
    have: Bitfield,
    wrong: Bitfield,
}

impl Verifier<'_> {
    fn is_there(&self, piece: PieceIndex, payload: &Payload<'_>) -> bool {
        let geometry = &self.metainfo.geometry;
        payload.is_there(geometry.piece_offset(piece), geometry.piece_len(piece).into())
    }
}

impl Visitor for Verifier<'_> {
    fn wanted(&mut self, piece: PieceIndex, payload: &Payload<'_>) -> Option<Then> {
        self.is_there(piece, payload)
            .then(|| Then::Verify(*self.metainfo.piece_hashes.get(piece)))
    }

    fn unreadable(&mut self, _piece: PieceIndex) {
        // In neither set.
    }

    fn hashed(&mut self, piece: PieceIndex, outcome: Outcome) {
        match outcome {
            Outcome::Good => self.have.set(piece),
            _ => self.wrong.set(piece),
        };
    }

    fn settled_below(&mut self, _piece: u32) {}
}
