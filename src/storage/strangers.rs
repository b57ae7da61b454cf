//! Files that have a torrent's name and nothing of the torrent in them. Somebody has put them there for another purpose, and a
//! download must not write over them.
//!
//! Only what lies under its final name is looked at: what is called `.part` is a download, be it another client's.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::check::{CheckReport, FileState};
use super::holes::Stretch;
use super::layout::Layout;
use super::part::{self, PartNames};
use super::root::Root;
use crate::proto::metainfo::{FileEntry, Metainfo};

/// What is read of a file at a time to see whether there is anything but zeros.
const READ_LEN: usize = 64 << 10;

/// The files that a download is not to write over, by their places in the torrent. With `is_begun` btd has made the torrent's
/// files itself: then a file is not its own only where the one that it made lies beside it. Blocks on the disk.
///
/// A file is a stranger if no piece that lies in it is right, and
/// - it is longer or shorter than the torrent says, or
/// - a piece of it was read and is wrong, which is not the fault of another file that has right pieces.
///
/// Where neither can be said, as of a short file whose only piece lies in one that is missing too, it is taken for the
/// torrent's. One that is all zeros has nothing to lose: other clients set space aside that way.
pub fn strangers(metainfo: &Metainfo, root: &Root, report: &CheckReport, is_begun: bool) -> Vec<u32> {
    let (layout, names) = (Layout::new(metainfo), PartNames::new(&metainfo.files));
    let geometry = &metainfo.geometry;
    let files_of = |piece| {
        let spans = layout.spans(geometry.piece_offset(piece), geometry.piece_len(piece).into());
        spans.filter(|span| !span.pad).map(|span| span.file as usize)
    };
    let mut has_right = vec![false; metainfo.files.len()];
    for piece in geometry.pieces().filter(|piece| report.have.get(*piece)) {
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
    let all = (0..).zip(&metainfo.files);
    all.filter(|(index, entry)| {
        let at = *index as usize;
        let is_there = matches!(
            report.files[at],
            FileState::Ok | FileState::Shorter { .. } | FileState::Longer { .. }
        );
        let may_be = !entry.pad && entry.len > 0 && is_there && !report.parts[at] && !has_right[at] && is_wrong[at];
        may_be
            && (!is_begun || has_other(root, &names, *index, entry))
            && !part::open(root, &entry.path).is_ok_and(|found| is_blank(&found.file, found.metadata.len()))
    })
    .map(|(index, _)| index)
    .collect()
}

/// Whether there is a file of the name that this one has while it is not complete.
fn has_other(root: &Root, names: &PartNames, index: u32, entry: &FileEntry) -> bool {
    let other = names.get(index, entry);
    other.is_some_and(|other| part::open(root, &other).is_ok())
}

/// Whether all of a file is zeros. What cannot be read may be anything.
fn is_blank(file: &File, len: u64) -> bool {
    let (mut buffer, mut at) = (vec![0; READ_LEN], 0);
    while at < len {
        let stretch = Stretch::at(file, at);
        if stretch.is_hole_until(len) {
            return true;
        }
        if let Some(end) = stretch.end_of_hole() {
            at = end;
            continue;
        }
        match file.read_at(&mut buffer, at) {
            Ok(0) => return true, // It has become shorter.
            Ok(read) if buffer[..read].iter().all(|byte| *byte == 0) => at += read as u64,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return false,
        }
    }
    true
}
