//! Whether the payload of a torrent is there and right.
//!
//! A file is looked for under its final name and, if it is not there as it should be, under the one that it has while it is
//! not complete ([`part`](super::part)). What was never written of such a file is not read.
//!
//! [`check`] blocks: it is called on a thread of its own, once per torrent; several at once share one pool. It never
//! fails because of what is on the disk. Nothing is written, truncated or renamed here, whatever it finds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::layout::Layout;
use super::part::{PartNames, Seen};
pub use super::payload::FileState;
use super::payload::Payload;
use super::pieces::{self, Error, Means, Progress, Visitor};
use super::root::Root;
use crate::hashing::{Hasher, Outcome, Then};
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::PieceIndex;
use crate::proto::metainfo::Metainfo;
use crate::session::{FileStamp, Record};

/// How long files are synced when somebody wants the check to end.
const SYNC_PATIENCE: Duration = Duration::from_secs(1);

/// What [`check`] found.
#[derive(Debug, Clone)]
pub struct CheckReport {
    /// Pieces whose bytes are right: those that can be served.
    pub have: Bitfield,
    /// Pieces whose bytes were read and are wrong. What is in neither could not be read, or was never written.
    pub wrong: Bitfield,
    /// What each file of [`Metainfo::files`] is. Padding is always [`FileState::Ok`].
    pub files: Vec<FileState>,
    /// Which of them lie under the name that they have while they are not complete, whatever their bytes are.
    pub parts: Vec<bool>,
    /// When each of them was modified, in ns since 1970; `None` for what is no file and for one that was written to while
    /// it was checked.
    pub modified: Vec<Option<i64>>,
    /// What lay in the place of each when it was looked at first.
    pub seen: Vec<Seen>,
    /// Pieces that were judged by an earlier check, and not read again.
    pub known_count: u32,
    /// Pieces that were taken for right without a look, for ever or for the time being.
    pub believed_count: u32,
    /// Those of `have` that nobody has read yet: see [`Unread::Later`].
    pub unread: Bitfield,
    /// The disk did not take files that may not be on it yet. Their pieces are in neither set, and may be right all the same: who
    /// downloads them anew writes over what may be the only copy.
    pub unsynced: bool,
}

impl CheckReport {
    /// Whether every piece is right and every file as the torrent says, under its final name. A torrent can be served in
    /// full without that: a file that is too long, or an empty one that is missing, costs no piece.
    pub fn is_whole(&self) -> bool {
        self.have.is_full() && self.files.iter().all(FileState::is_ok) && !self.parts.contains(&true)
    }

    /// The pieces that are right and lie in files that have their final names.
    pub fn have_by_final_names(&self, metainfo: &Metainfo) -> Bitfield {
        let mut have = self.have.clone();
        if self.parts.contains(&true) {
            let (layout, geometry) = (Layout::new(metainfo), &metainfo.geometry);
            for piece in geometry.pieces().filter(|piece| self.have.get(*piece)) {
                let mut spans = layout.spans(geometry.piece_offset(piece), geometry.piece_len(piece).into());
                if spans.any(|span| self.parts[span.file as usize]) {
                    have.clear(piece);
                }
            }
        }
        have
    }

    /// Pieces that could not be read, or were never written.
    pub fn absent_count(&self) -> u32 {
        self.have.piece_count() - self.have.count() - self.wrong.count()
    }
}

/// What becomes of pieces that nothing is known of, in files that have the length that they should have and their final names.
/// All others are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unread {
    /// They are read now.
    #[default]
    Now,
    /// They are taken for right for the time being, and whoever serves them has to verify them first. Nothing is recorded.
    Later,
    /// They are taken for right, and recorded so.
    Never,
}

/// What was known before, and where to put what is found out.
pub struct Memory<'a> {
    /// Of this torrent. What was judged of files that have not changed since is not read again.
    pub known: Option<Record>,
    /// What becomes of the others.
    pub unread: Unread,
    /// Pieces that are read in any case, whatever is known of them.
    pub doubted: Option<Bitfield>,
    /// Nothing is to be read now: the check ends at once if there is anything on the disk.
    pub only_bare: bool,
    /// Takes what is to be known from now on: now and then, when the check is cancelled, and at its end. What it says will
    /// be on the disk of the payload after a power cut.
    pub keep: &'a mut dyn FnMut(Record),
}

/// Reads the payload of `metainfo` below `root` and verifies every piece that can be read.
///
/// # Errors
/// When it was cancelled, the pool stopped, or the ring broke. For what is found on the disk only with [`Memory::only_bare`].
pub fn check(
    metainfo: &Metainfo,
    root: &Root,
    means: Means<'_>,
    progress: &Progress,
    memory: Option<Memory<'_>>,
) -> Result<CheckReport, Error> {
    let layout = Layout::new(metainfo);
    let names = PartNames::new(&metainfo.files);
    let piece_count = metainfo.geometry.piece_count();
    let (mut known, mut unread, mut doubted, mut keep) = (None, Unread::Now, None, None);
    let mut only_bare = false;
    if let Some(memory) = memory {
        only_bare = memory.only_bare;
        (known, unread, doubted, keep) = (memory.known, memory.unread, memory.doubted, Some(memory.keep));
    }
    let goes_on = || !progress.is_cancelled();
    let mut is_anything_there = false;
    let payload = Payload::look_until(root, &layout, &metainfo.files, Some(&names), goes_on, |state| {
        is_anything_there = only_bare && !matches!(state, FileState::Missing);
        is_anything_there
    });
    if is_anything_there {
        return Err(Error::NotBare);
    }
    let mut payload = payload.ok_or(Error::Cancelled)?;
    let doubted = doubted.unwrap_or_else(|| Bitfield::new(piece_count));
    if let Some(record) = &mut known {
        for piece in doubted.pieces() {
            record.have.clear(piece);
            record.wrong.clear(piece);
        }
    }
    // What was taken for right without a look was as somebody else had verified it. It is not any more, whatever its length.
    if unread == Unread::Never && known.as_ref().is_some_and(|record| has_changed(record, &payload)) {
        (known, unread) = (None, Unread::Now);
    }
    let mut verifier = Verifier {
        metainfo,
        have: Bitfield::new(piece_count),
        wrong: Bitfield::new(piece_count),
        unwritten: Bitfield::new(piece_count),
        known: Bitfield::new(piece_count),
        unread: Bitfield::new(piece_count),
        lost: BTreeSet::new(),
        written: vec![false; metainfo.files.len()],
        progress,
        keep,
    };
    if let Some(record) = known {
        verifier.take_over(&record, &payload);
    }
    if payload.parts().contains(&true) {
        verifier.find_unwritten(&mut payload);
    }
    let believed = match unread {
        Unread::Now => 0,
        Unread::Later | Unread::Never => verifier.believe(&payload, &doubted, unread == Unread::Later),
    };
    if only_bare && verifier.wants_any(&payload) {
        return Err(Error::NotBare); // Pieces of nothing but padding.
    }
    let is_judged = verifier.known.count() + verifier.unwritten.count() + believed == piece_count;
    // Where there is nothing to read there is nothing to wait for either, be checks paused or not.
    if is_judged || !verifier.wants_any(&payload) {
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
    let unread = verifier.unread.and(&verifier.have);
    let seen = payload.take_seen();
    let (files, modified, parts) = payload.into_states();
    Ok(CheckReport {
        have: verifier.have,
        wrong: verifier.wrong,
        files,
        parts,
        modified,
        seen,
        known_count: verifier.known.count(),
        believed_count: believed,
        unread,
        unsynced: !verifier.lost.is_empty(),
    })
}

/// Whether a file that is there is another than when it was recorded.
fn has_changed(record: &Record, payload: &Payload<'_>) -> bool {
    let is_there = |state: &FileState| {
        matches!(
            state,
            FileState::Ok | FileState::Shorter { .. } | FileState::Longer { .. }
        )
    };
    let files = record.files.iter().zip(payload.states()).enumerate();
    let mut then = files.filter_map(|(index, (then, state))| Some((index, (*then)?)).filter(|_| is_there(state)));
    then.any(|(index, then)| !payload.is_still(index, &then))
}

struct Verifier<'a, 'k> {
    metainfo: &'a Metainfo,
    have: Bitfield,
    wrong: Bitfield,
    /// Pieces of which nothing was ever written, and which are not zeros. They are neither right nor wrong.
    unwritten: Bitfield,
    /// Pieces that were judged by an earlier check.
    known: Bitfield,
    /// Pieces that are to be verified later. They are right, for the time being.
    unread: Bitfield,
    /// Files that the disk does not take. Pieces of them may be on their way through the pool still.
    lost: BTreeSet<usize>,
    /// Files that btd was writing to when the record was made that was taken over, and that are still there.
    written: Vec<bool>,
    progress: &'a Progress,
    keep: Option<&'k mut dyn FnMut(Record)>,
}

impl Verifier<'_, '_> {
    /// Takes over what a record says of pieces whose files are as they were then. A piece that could not be read then may
    /// be readable now.
    fn take_over(&mut self, record: &Record, payload: &Payload<'_>) {
        let unchanged: Vec<bool> = record
            .files
            .iter()
            .enumerate()
            .map(|(index, then)| then.is_some_and(|then| payload.is_still(index, &then)))
            .collect();
        let was_written = |then: &Option<FileStamp>| then.is_some_and(|then| then.is_being_written());
        self.written = std::iter::zip(&record.files, &unchanged)
            .map(|(then, unchanged)| was_written(then) && *unchanged)
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
                self.known.set(piece);
            }
        }
    }

    /// Takes pieces for right that nothing is known of, where their files look as they should. `is_later`: until somebody
    /// verifies them. Gives how many.
    fn believe(&mut self, payload: &Payload<'_>, doubted: &Bitfield, is_later: bool) -> u32 {
        let geometry = &self.metainfo.geometry;
        let looks_whole = |file: usize| payload.states()[file].is_ok() && !payload.parts()[file];
        let mut believed = 0;
        for piece in geometry.pieces().filter(|piece| !doubted.get(*piece)) {
            let mut files = payload.files_of(geometry.piece_offset(piece), geometry.piece_len(piece).into());
            let is_judged = self.have.get(piece) || self.wrong.get(piece) || self.unwritten.get(piece);
            if !is_judged && files.all(looks_whole) {
                believed += 1;
                self.have.set(piece);
                if is_later {
                    self.unread.set(piece);
                }
            }
        }
        believed
    }

    /// Finds the pieces that need no reading since there is nothing to be read. One that is all zeros is read like any
    /// other: it may be right.
    fn find_unwritten(&mut self, payload: &mut Payload<'_>) {
        let geometry = &self.metainfo.geometry;
        // Pieces have one length, but for the last.
        let mut zeros: Option<(u32, [u8; 20])> = None;
        for piece in geometry.pieces() {
            let (offset, len) = (geometry.piece_offset(piece), geometry.piece_len(piece));
            if self.have.get(piece) || self.wrong.get(piece) || self.progress.is_cancelled() {
                continue;
            }
            if !payload.is_there(offset, len.into()) || !payload.is_hole(offset, len.into()) {
                continue;
            }
            let digest = match zeros {
                Some((zeros_len, digest)) if zeros_len == len => digest,
                _ => digest_of_zeros(len),
            };
            zeros = Some((len, digest));
            if digest != *self.metainfo.piece_hashes.get(piece) {
                self.unwritten.set(piece);
            }
        }
    }

    /// Gives away what is known now. The files have just been looked at again.
    fn keep(&mut self, judged: u32, payload: &mut Payload<'_>) {
        if self.keep.is_none() {
            return;
        }
        let began = Instant::now();
        let lost = payload.sync_young(|| !self.progress.is_cancelled() || began.elapsed() < SYNC_PATIENCE);
        self.lost.extend(lost);
        self.doubt(payload);
        let (mut wrong, mut files) = (self.wrong.clone(), payload.stamps().to_vec());
        // What btd was writing to when it was killed a moment ago is too young to be told by its time: it stays what it was,
        // or a second kill, before it is written to again, would have all of it read. Not where nothing is missing: nobody
        // writes to it any more and tells its time then, and its length alone would be believed for ever.
        let is_whole = self.have.is_full();
        for (index, stamp) in files.iter_mut().enumerate() {
            if stamp.is_none() && !is_whole && self.written[index] && payload.is_on_disk(index) {
                *stamp = Some(FileStamp::being_written(self.metainfo.files[index].len));
            }
        }
        // Of such a file only what is right is believed: somebody may put the rest there, and its length would not tell.
        let geometry = &self.metainfo.geometry;
        for piece in self.wrong.pieces() {
            let mut of = payload.files_of(geometry.piece_offset(piece), geometry.piece_len(piece).into());
            if of.any(|file| files[file].is_some_and(|stamp| stamp.is_being_written())) {
                wrong.clear(piece);
            }
        }
        let mut have = self.have.clone();
        for piece in self.unread.pieces() {
            have.clear(piece);
        }
        if let Some(keep) = &mut self.keep {
            keep(Record {
                have,
                wrong,
                judged,
                files,
            });
        }
    }

    /// The disk does not take some files: what was read of them now is neither right nor wrong, and is not served either, since
    /// shards read past the page cache. What was recorded before was on the disk by then.
    fn doubt(&mut self, payload: &Payload<'_>) {
        if self.lost.is_empty() {
            return;
        }
        let geometry = &self.metainfo.geometry;
        for piece in geometry.pieces().filter(|piece| !self.known.get(*piece)) {
            let mut files = payload.files_of(geometry.piece_offset(piece), geometry.piece_len(piece).into());
            if files.any(|file| self.lost.contains(&file)) {
                self.have.clear(piece);
                self.wrong.clear(piece);
            }
        }
    }

    /// Whether there is anything to read.
    fn wants_any(&mut self, payload: &Payload<'_>) -> bool {
        let mut pieces = self.metainfo.geometry.pieces();
        pieces.any(|piece| self.wanted(piece, payload).is_some())
    }

    fn is_there(&self, piece: PieceIndex, payload: &Payload<'_>) -> bool {
        let geometry = &self.metainfo.geometry;
        payload.is_there(geometry.piece_offset(piece), geometry.piece_len(piece).into())
    }
}

impl Visitor for Verifier<'_, '_> {
    fn wanted(&mut self, piece: PieceIndex, payload: &Payload<'_>) -> Option<Then> {
        let known = self.have.get(piece) || self.wrong.get(piece) || self.unwritten.get(piece);
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

fn digest_of_zeros(len: u32) -> [u8; 20] {
    const ZEROS: [u8; 4096] = [0; 4096];
    let (mut hasher, mut left) = (Hasher::new(), len as usize);
    while left > 0 {
        let now = left.min(ZEROS.len());
        hasher.update(&ZEROS[..now]);
        left -= now;
    }
    hasher.finish()
}
