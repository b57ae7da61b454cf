//! Whether the payload of a torrent is there and right.
//!
//! [`check`] blocks: it is called on a thread of its own, once per torrent; several at once share one pool. It never
//! fails because of what is on the disk. Nothing is written, truncated or renamed here, whatever it finds.

use std::time::{Duration, Instant};

use super::layout::Layout;
pub use super::payload::FileState;
use super::payload::Payload;
use super::pieces::{self, Error, Means, Progress, Visitor};
use super::root::Root;
use crate::hashing::{Outcome, Then};
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::PieceIndex;
use crate::proto::metainfo::Metainfo;
use crate::session::Record;

/// How long files are synced when somebody wants the check to end.
const SYNC_PATIENCE: Duration = Duration::from_secs(1);

/// What [`check`] found.
#[derive(Debug, Clone)]
pub struct CheckReport {
    /// Pieces whose bytes are right: those that can be served.
    pub have: Bitfield,
    /// Pieces whose bytes were read and are wrong. What is in neither could not be read.
    pub wrong: Bitfield,
    /// What each file of [`Metainfo::files`] is. Padding is always [`FileState::Ok`].
    pub files: Vec<FileState>,
    /// When each of them was modified, in ns since 1970; `None` for what is no file and for one that was written to while
    /// it was checked.
    pub modified: Vec<Option<i64>>,
    /// Pieces that were judged by an earlier check, and not read again.
    pub known_count: u32,
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

/// What was known before, and where to put what is found out.
pub struct Memory<'a> {
    /// Of this torrent. What was judged of files that have not changed since is not read again.
    pub known: Option<Record>,
    /// Takes what is to be known from now on: now and then, when the check is cancelled, and at its end. What it says will
    /// be on the disk of the payload after a power cut.
    pub keep: &'a mut dyn FnMut(Record),
}

/// Reads the payload of `metainfo` below `root` and verifies every piece that can be read.
///
/// # Errors
/// When it was cancelled, the pool stopped, or the ring broke. Never for anything found on the disk.
pub fn check(
    metainfo: &Metainfo,
    root: &Root,
    means: Means<'_>,
    progress: &Progress,
    memory: Option<Memory<'_>>,
) -> Result<CheckReport, Error> {
    let layout = Layout::new(metainfo);
    let payload = Payload::look(root, &layout, &metainfo.files, || !progress.is_cancelled());
    let mut payload = payload.ok_or(Error::Cancelled)?;
    let piece_count = metainfo.geometry.piece_count();
    let (known, keep) = match memory {
        Some(Memory { known, keep }) => (known, Some(keep)),
        None => (None, None),
    };
    let mut verifier = Verifier {
        metainfo,
        have: Bitfield::new(piece_count),
        wrong: Bitfield::new(piece_count),
        known_count: 0,
        progress,
        keep,
    };
    if let Some(record) = known {
        verifier.take_over(&record, &payload);
    }
    if verifier.known_count == piece_count {
        progress.add(metainfo.geometry.total_len());
    } else {
        pieces::run(&metainfo.geometry, &mut payload, means, progress, &mut verifier)?;
    }
    payload.look_again();
    if !payload.states().iter().all(FileState::is_ok) {
        let geometry = &metainfo.geometry;
        for piece in geometry.pieces() {
            if payload.is_lost(geometry.piece_offset(piece), geometry.piece_len(piece).into()) {
                verifier.have.clear(piece);
                verifier.wrong.clear(piece);
            }
        }
    }
    verifier.keep(piece_count, &mut payload);
    let (files, modified) = payload.into_states();
    Ok(CheckReport {
        have: verifier.have,
        wrong: verifier.wrong,
        files,
        modified,
        known_count: verifier.known_count,
    })
}

struct Verifier<'a, 'k> {
    metainfo: &'a Metainfo,
    have: Bitfield,
    wrong: Bitfield,
    known_count: u32,
    progress: &'a Progress,
    keep: Option<&'k mut dyn FnMut(Record)>,
}

impl Verifier<'_, '_> {
    /// Takes over what a record says of pieces whose files are as they were then. A piece that could not be read then may
    /// be readable now.
    fn take_over(&mut self, record: &Record, payload: &Payload<'_>) {
        let unchanged: Vec<bool> = std::iter::zip(&record.files, payload.stamps())
            .map(|(then, now)| then.is_some() && then == now)
            .collect();
        let geometry = &self.metainfo.geometry;
        for piece in geometry.pieces() {
            let judged = match (record.have.get(piece), record.wrong.get(piece)) {
                (true, _) => &mut self.have,
                (_, true) => &mut self.wrong,
                _ => continue,
            };
            let mut files = payload.files_of(geometry.piece_offset(piece), geometry.piece_len(piece).into());
            if files.all(|file| unchanged[file]) {
                judged.set(piece);
                self.known_count += 1;
            }
        }
    }

    /// Gives away what is known now. The files have just been looked at again.
    fn keep(&mut self, judged: u32, payload: &mut Payload<'_>) {
        let Some(keep) = &mut self.keep else { return };
        let began = Instant::now();
        payload.sync_young(|| !self.progress.is_cancelled() || began.elapsed() < SYNC_PATIENCE);
        keep(Record {
            have: self.have.clone(),
            wrong: self.wrong.clone(),
            judged,
            files: payload.stamps().to_vec(),
        });
    }

    fn is_there(&self, piece: PieceIndex, payload: &Payload<'_>) -> bool {
        let geometry = &self.metainfo.geometry;
        payload.is_there(geometry.piece_offset(piece), geometry.piece_len(piece).into())
    }
}

impl Visitor for Verifier<'_, '_> {
    fn wanted(&mut self, piece: PieceIndex, payload: &Payload<'_>) -> Option<Then> {
        let known = self.have.get(piece) || self.wrong.get(piece);
        (!known && self.is_there(piece, payload)).then(|| Then::Verify(*self.metainfo.piece_hashes.get(piece)))
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

    fn settled_below(&mut self, piece: u32, payload: &mut Payload<'_>) {
        if self.keep.is_some() {
            payload.look_again();
            self.keep(piece, payload);
        }
    }
}
