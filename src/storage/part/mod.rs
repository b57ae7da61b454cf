//! Files that are not complete: what they are called, where they are made, and how they get their own names.
//!
//! A file that btd downloads lies under its name plus [`PART_SUFFIX`] until all of its bytes are right, so that whoever
//! looks into the folder, an indexer or a person, takes nothing for complete that is not.
//!
//! - [`PartNames`]: what each file of a torrent is called while it is not complete.
//! - [`prepare()`]: makes folders and files, before the first byte is written.
//! - [`sync()`]: has what was written be on the disk.
//! - [`finish()`]: gives files that are complete their own names, on the disk.
//!
//! Both can be interrupted anywhere, by `kill -9` or a power cut, and come to the same end when they are done again. What
//! is there already is kept: no file is cut off or replaced. (What a download then writes goes over what is wrong within
//! it.) Both block on the disk, and no shard calls them.
//!
//! Writing payload is not here; that is what shards do, through their rings.

mod error;
mod finish;
mod prepare;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;

pub use error::{Cause, Error};
pub use finish::finish;
pub use prepare::{Notice, Options, Preallocate, Prepared, prepare};
pub use sync::{forget_cached, sync};

use super::root::{OpenError, Root};
use crate::proto::metainfo::FileEntry;
use crate::proto::path::RelPath;
use rustix::io::Errno;

/// What a file is called beyond its own name while it is not complete.
pub const PART_SUFFIX: &str = ".part";

/// Which files of a torrent have a name of their own while they are not complete. These have none, and lie under their
/// final name from the beginning:
///
/// - those whose name would be longer than a filesystem takes;
/// - those whose other name the torrent itself has given away: of `x` and `x.part`, or `x` and `x.part/y`, the file `x`;
/// - those without bytes, which are complete as soon as they are there;
/// - padding, which is never on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartNames {
    /// The files whose other name is given away, in order. Nearly every torrent has none.
    given_away: Box<[u32]>,
}

impl PartNames {
    /// Of the files of a torrent.
    pub fn new(files: &[FileEntry]) -> Self {
        let on_disk = || (0..).zip(files).filter(|(_, entry)| !entry.pad);
        // In lower case, as two names that differ in that only are one on some filesystems.
        let mut stems = HashSet::new();
        for (_, entry) in on_disk() {
            stems.extend(stems_of(entry.path.as_str()).map(str::to_lowercase));
        }
        let given_away = match stems.is_empty() {
            true => Vec::new(),
            false => on_disk()
                .filter(|(_, entry)| stems.contains(&entry.path.as_str().to_lowercase()))
                .map(|(index, _)| index)
                .collect(),
        };
        Self {
            given_away: given_away.into(),
        }
    }

    /// Where a file lies while it is not complete; `None` if that is where it always lies.
    pub fn get(&self, index: u32, entry: &FileEntry) -> Option<RelPath> {
        if entry.pad || entry.len == 0 || self.given_away.binary_search(&index).is_ok() {
            return None;
        }
        // An error: it would be too long.
        RelPath::parse(&format!("{}{PART_SUFFIX}", entry.path.as_str())).ok()
    }

    /// Opens a file under the name that counts. That is its final name if it is of the right length there, the other one
    /// if there is such a file, and else the final one again.
    pub(super) fn find(&self, root: &Root, index: u32, entry: &FileEntry) -> Result<Found, OpenError> {
        let own = open(root, &entry.path);
        // A file of several names may be one whose renaming was interrupted: then the other name has to go.
        let is_right = |found: &Found| found.metadata.len() == entry.len;
        if matches!(&own, Ok(found) if is_right(found) && found.metadata.nlink() < 2) {
            return own;
        }
        let Some(path) = self.get(index, entry) else {
            return own;
        };
        match (open(root, &path), own) {
            (Ok(part), own) => {
                let is_one_file = matches!(&own, Ok(own) if own.id() == part.id());
                match own {
                    Ok(own) if is_right(&own) && !is_one_file => Ok(own),
                    own => Ok(Found {
                        part: true,
                        in_the_way: !is_one_file && own.err() != Some(OpenError::Missing),
                        ..part
                    }),
                }
            }
            (Err(error), Err(OpenError::Missing)) => Err(error),
            (Err(_), own) => own,
        }
    }
}

/// What the folders and files that this path names would be the other name of: of `a.part/b.part/c`, `a` and `a.part/b`.
fn stems_of(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.filter_map(|end| {
        let (stem, suffix) = path[..end].split_at_checked(end.checked_sub(PART_SUFFIX.len())?)?;
        (suffix.eq_ignore_ascii_case(PART_SUFFIX) && !stem.is_empty() && !stem.ends_with('/')).then_some(stem)
    })
}

/// What a download may write over, as it was when somebody looked: whatever has come or changed since then is another's, for all
/// that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// There was no file, or none that can be opened.
    Nothing,
    /// A file that was judged.
    File {
        /// It lay under the name of what is not complete.
        part: bool,
        /// Its length and when it was modified, in ns since 1970.
        len: u64,
        /// See there.
        mtime_ns: i64,
    },
    /// The download has made it or taken it over, and writes to it.
    Ours {
        /// It lies under the name of what is not complete.
        part: bool,
    },
}

impl Seen {
    /// Of a file that was opened.
    pub(super) fn of(metadata: &Metadata, part: bool) -> Self {
        let nanoseconds = metadata.mtime().saturating_mul(1_000_000_000);
        Self::File {
            part,
            len: metadata.len(),
            mtime_ns: nanoseconds.saturating_add(metadata.mtime_nsec()),
        }
    }

    /// Whether what is there now is what was there. Inode numbers do not tell: some filesystems give new ones as they like. To what btd
    /// has made, what was on its way when it was looked at may have come since.
    fn is_still(self, now: &Found) -> bool {
        match self {
            Self::Nothing => false,
            Self::File { .. } => self == Self::of(&now.metadata, now.part),
            Self::Ours { part } => part == now.part,
        }
    }
}

/// A file of a torrent, under one of its names.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: File,
    pub(super) metadata: Metadata,
    /// It lies under the name of what is not complete.
    pub(super) part: bool,
    /// It does, and something else has its final name.
    pub(super) in_the_way: bool,
}

impl Found {
    fn id(&self) -> (u64, u64) {
        (self.metadata.dev(), self.metadata.ino())
    }
}

/// Opens and measures a file under its final name.
pub(super) fn open(root: &Root, path: &RelPath) -> Result<Found, OpenError> {
    let file = root.open_file(path)?;
    let metadata = file
        .metadata()
        .map_err(|error| OpenError::Other(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    Ok(Found {
        file,
        metadata,
        part: false,
        in_the_way: false,
    })
}
