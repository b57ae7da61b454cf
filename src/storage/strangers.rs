//! Files that have a torrent's name and nothing of the torrent in them. Somebody has put them there for another purpose, and a
//! download must not write over them.
//!
//! What is called `.part` is looked at as well: browsers and other clients call so what they have not got to its end.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::check::{CheckReport, FileState};
use super::holes::Stretch;
use super::layout::Layout;
use super::part::{self, PartNames};
use super::pieces::{Error, Progress};
use super::root::{OpenError, Root};
use super::throttle::Throttle;
use crate::proto::bitfield::Bitfield;
use crate::proto::metainfo::Metainfo;
use crate::proto::path::RelPath;

/// What is read of a file at a time to see whether there is anything but zeros.
const READ_LEN: usize = 64 << 10;

/// How long to wait before it is looked again whether to go on.
const PAUSE: Duration = Duration::from_millis(50);

/// How long ago a file was written to by somebody who may be writing to it still.
const AT_WORK: Duration = Duration::from_secs(20);

/// What a file looked like when it was judged. Inode numbers do not tell: some filesystems give new ones as they like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    len: u64,
    /// When it was modified, in seconds and nanoseconds since 1970.
    modified: (i64, i64),
}

impl Look {
    fn of(metadata: &Metadata) -> Self {
        Self {
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// A file that a download is not to write over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Its place in the torrent.
    pub file: u32,
    /// Where it lies: under its final name, or that of what is not complete.
    pub path: RelPath,
    look: Look,
}

impl Stranger {
    /// Whether it is still there and as it was when it was judged, or being written at this moment: that would be judged anew each time
    /// until it is all there. Blocks on the disk.
    pub fn is_still(&self, root: &Root) -> bool {
        match part::open(root, &self.path) {
            Ok(found) => Look::of(&found.metadata) == self.look || is_at_work(&found.metadata),
            // What cannot be opened now may be there as it was.
            Err(error) => !matches!(
                error,
                OpenError::Missing | OpenError::NotAFolder | OpenError::SymbolicLink | OpenError::NotRegular(_)
            ),
        }
    }
}

/// What was found of files of one torrent that were read to see whether they are all zeros, which takes long: as long as they look
/// the same they are not read again.
#[derive(Debug, Clone, Default)]
pub struct Blanks(Arc<Mutex<HashMap<u32, (Look, bool)>>>);

/// What looking at files goes by.
#[derive(Debug, Clone, Copy)]
pub struct Looking<'a> {
    /// How fast they may be read.
    pub throttle: &'a Throttle,
    /// When to give up.
    pub progress: &'a Progress,
    /// What is known of them.
    pub blanks: &'a Blanks,
}

/// The files that a download is not to write over. With `is_begun` btd has made the torrent's
/// files itself: then a file is not its own only where it lies beside the one that btd has made. Blocks on the disk.
///
/// A file is a stranger if no piece that lies in it was read and is right (or is to be trusted unread), and
/// - it is longer or shorter than the torrent says, or
/// - a piece of it was read and is wrong, which is not the fault of another file that has right pieces.
///
/// Where neither can be said, as of a short file whose only piece lies in one that is missing too, it is taken for the
/// torrent's. One that is all zeros has nothing to lose: other clients set space aside that way.
///
/// # Errors
/// Nobody wants to know any more.
pub fn strangers(
    metainfo: &Metainfo,
    root: &Root,
    report: &CheckReport,
    is_begun: bool,
    looking: Looking<'_>,
) -> Result<Vec<Stranger>, Error> {
    let names = PartNames::new(&metainfo.files);
    let geometry = &metainfo.geometry;
    let layout = Layout::new(metainfo);
    let files_of = |piece| {
        let spans = layout.spans(geometry.piece_offset(piece), geometry.piece_len(piece).into());
        spans.filter(|span| !span.pad).map(|span| span.file as usize)
    };
    let mut has_right = vec![false; metainfo.files.len()];
    // What was taken for right by the length of its file says nothing of whose it is.
    let is_right = |piece| report.have.get(piece) && !report.unread.get(piece);
    for piece in geometry.pieces().filter(|piece| is_right(*piece)) {
        files_of(piece).for_each(|file| has_right[file] = true);
    }
    let mut is_wrong: Vec<bool> = report
        .files
        .iter()
        .map(|state| matches!(state, FileState::Shorter { .. } | FileState::Longer { .. }))
        .collect();
    for piece in geometry.pieces().filter(|piece| report.wrong.get(*piece)) {
        if files_of(piece).all(|file| !has_right[file]) {
            files_of(piece).for_each(|file| is_wrong[file] = true);
        }
    }
    let mut strangers = Vec::new();
    for (index, entry) in (0..).zip(&metainfo.files) {
        let at = index as usize;
        let is_there = matches!(
            report.files[at],
            FileState::Ok | FileState::Shorter { .. } | FileState::Longer { .. }
        );
        if entry.pad || entry.len == 0 || !is_there || has_right[at] || !is_wrong[at] {
            continue;
        }
        let other = names.get(index, entry);
        let path = match (report.parts[at], is_begun) {
            (true, true) => continue,
            (false, true) if !is_beside(root, other.as_ref()) => continue,
            (true, false) => other.unwrap_or_else(|| entry.path.clone()),
            (false, _) => entry.path.clone(),
        };
        let Ok(found) = part::open(root, &path) else {
            continue; // It has gone this moment.
        };
        let look = Look::of(&found.metadata);
        if !is_known_blank(index, &found.file, look, looking)? {
            strangers.push(Stranger {
                file: index,
                path,
                look,
            });
        }
    }
    Ok(strangers)
}

/// The pieces of these files that were taken for right and nobody has read.
pub fn unread_in(metainfo: &Metainfo, report: &CheckReport, strangers: &[Stranger]) -> Bitfield {
    let (layout, geometry) = (Layout::new(metainfo), &metainfo.geometry);
    let mut unread = Bitfield::new(geometry.piece_count());
    for piece in report.unread.pieces() {
        let mut spans = layout.spans(geometry.piece_offset(piece), geometry.piece_len(piece).into());
        if spans.any(|span| strangers.iter().any(|stranger| stranger.file == span.file)) {
            unread.set(piece);
        }
    }
    unread
}

/// Of each file that was taken for right by its length alone, a piece: whose the file is shows what is in it.
pub fn samples(metainfo: &Metainfo, report: &CheckReport) -> Bitfield {
    let (layout, geometry) = (Layout::new(metainfo), &metainfo.geometry);
    let files_of = |piece| {
        let spans = layout.spans(geometry.piece_offset(piece), geometry.piece_len(piece).into());
        spans.filter(|span| !span.pad).map(|span| span.file as usize)
    };
    let mut is_read = vec![false; metainfo.files.len()];
    let was_read = |piece| (report.have.get(piece) && !report.unread.get(piece)) || report.wrong.get(piece);
    for piece in geometry.pieces().filter(|piece| was_read(*piece)) {
        files_of(piece).for_each(|file| is_read[file] = true);
    }
    let mut samples = Bitfield::new(geometry.piece_count());
    for piece in report.unread.pieces() {
        if files_of(piece).any(|file| !is_read[file]) {
            samples.set(piece);
            files_of(piece).for_each(|file| is_read[file] = true);
        }
    }
    samples
}

/// Whether somebody was writing to a file a moment ago.
fn is_at_work(metadata: &Metadata) -> bool {
    let age = metadata
        .modified()
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age < AT_WORK)
}

/// Whether there is a file of the name that another has while it is not complete.
fn is_beside(root: &Root, other: Option<&RelPath>) -> bool {
    other.is_some_and(|other| part::open(root, other).is_ok())
}

/// Whether all of a file is zeros, as it was found to be before if it looks as it did then.
fn is_known_blank(index: u32, file: &File, look: Look, looking: Looking<'_>) -> Result<bool, Error> {
    let known = || looking.blanks.0.lock().unwrap_or_else(PoisonError::into_inner);
    let before = known().get(&index).copied();
    if let Some((_, is_blank)) = before.filter(|(then, _)| *then == look) {
        return Ok(is_blank);
    }
    let is_blank = is_blank(file, look.len, looking)?;
    known().insert(index, (look, is_blank));
    Ok(is_blank)
}

/// Whether all of a file is zeros. What cannot be read may be anything.
fn is_blank(file: &File, len: u64, looking: Looking<'_>) -> Result<bool, Error> {
    let (mut buffer, mut at) = (vec![0; READ_LEN], 0);
    while at < len {
        let stretch = Stretch::at(file, at);
        if stretch.is_hole_until(len) {
            return Ok(true);
        }
        if let Some(end) = stretch.end_of_hole() {
            at = end;
            continue;
        }
        wait_for_turn(looking)?;
        let began = Instant::now();
        looking.throttle.spend(READ_LEN as u64, began);
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(true), // It has become shorter.
            Ok(read) if buffer[..read].iter().all(|byte| *byte == 0) => at += read as u64,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return Ok(false),
        }
        let now = Instant::now();
        if looking.throttle.is_beside_peers(now) {
            std::thread::sleep(looking.throttle.rest(now - began));
        }
    }
    Ok(true)
}

/// Waits until more may be read.
fn wait_for_turn(Looking { throttle, progress, .. }: Looking<'_>) -> Result<(), Error> {
    loop {
        if progress.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match throttle.wait(Instant::now()) {
            None => return Ok(()),
            Some(wait) => std::thread::sleep(wait.min(PAUSE)),
        }
    }
}
