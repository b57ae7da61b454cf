//! Gives files that are complete their own names, so that they have them after a power cut too.
//!
//! In three goes over the files: all are synced, then all renamed, then their folders synced. File by file each sync would
//! have to wait for the renaming before it to reach the disk.

use std::collections::HashSet;

use super::{Cause, Error, PartNames};
use crate::proto::metainfo::FileEntry;
use crate::proto::path::RelPath;
use crate::storage::folder::{Folder, Syncs, sync_folders};
use crate::storage::root::{OpenError, Root};

/// Finishes the files of these places in the torrent, whose bytes are all right: each is synced, gets its final name,
/// which replaces nothing, and then its folder is synced. `parts` says which files of the torrent lie under their other
/// name. A file that was finished before is synced, and that is all. Many at once cost little more than a few.
///
/// What is given back did not work; every other file is finished, on the disk. It can be tried again.
///
/// # Panics
/// When `parts` is not of this torrent.
pub fn finish(root: &Root, files: &[FileEntry], names: &PartNames, parts: &[bool], complete: &[u32]) -> Vec<Error> {
    assert_eq!(parts.len(), files.len(), "the parts of another torrent");
    let on_disk = complete.iter().filter(|&&index| !files[index as usize].pad);
    let on_disk = on_disk.map(|&index| {
        let entry = &files[index as usize];
        let part = names.get(index, entry).filter(|_| parts[index as usize]);
        Complete { index, entry, part }
    });
    let mut complete: Vec<Complete<'_>> = on_disk.collect();
    complete.sort_by_key(Complete::folder);
    let mut failed = Vec::new();

    let mut syncs = Syncs::of(complete.len());
    each(root, &mut complete, &mut failed, |folder, file| {
        sync(root, folder, &mut syncs, file)
    });
    each(root, &mut complete, &mut failed, |folder, file| {
        rename(root, folder, file)
    });
    let mut folders: Vec<&str> = complete.iter().map(Complete::folder).collect();
    folders.dedup();
    let unsynced = sync_folders(root, &folders);
    if let Some(&(_, error)) = unsynced.first() {
        let unsynced: HashSet<&str> = unsynced.into_iter().map(|(path, _)| path).collect();
        let unsure = complete.iter().filter(|file| unsynced.contains(file.folder()));
        let cause = Cause::of_open(error, 0, root);
        failed.extend(unsure.map(|file| file.error("sync the folder of", cause)));
    }
    failed
}

/// A file to finish.
struct Complete<'a> {
    index: u32,
    entry: &'a FileEntry,
    /// Where it lies, if not under its final name.
    part: Option<RelPath>,
}

impl<'a> Complete<'a> {
    /// The path of its folder; empty for the data folder.
    fn folder(&self) -> &'a str {
        self.entry.path.parent().unwrap_or("")
    }

    fn error(&self, step: &'static str, cause: Cause) -> Error {
        Error {
            file: self.index,
            path: self.part.as_ref().unwrap_or(&self.entry.path).clone(),
            step,
            cause,
        }
    }
}

/// What went wrong with a file: the step, and why.
type Failure = (&'static str, Cause);

/// Does something with each file in its folder. Those that it does not work with leave the list, and are told.
fn each<'a>(
    root: &Root,
    files: &mut Vec<Complete<'a>>,
    failed: &mut Vec<Error>,
    mut work: impl FnMut(&Folder, &mut Complete<'a>) -> Result<(), Failure>,
) {
    let mut open: Option<(&str, Result<Folder, OpenError>)> = None;
    files.retain_mut(|file| {
        let path = file.folder();
        let (_, folder) = match open.take() {
            Some(same) if same.0 == path => open.insert(same),
            _ => open.insert((path, Folder::open(root, file.entry.path.parent()))),
        };
        let done = match folder {
            Ok(folder) => work(folder, file),
            Err(error) => Err(("open the folder of", Cause::of_open(*error, 0, root))),
        };
        done.map_err(|(step, cause)| failed.push(file.error(step, cause)))
            .is_ok()
    });
}

/// Syncs a file, and finds out where it really lies.
fn sync(root: &Root, folder: &Folder, syncs: &mut Syncs, file: &mut Complete<'_>) -> Result<(), Failure> {
    let open = |name: &str| folder.open_file(name);
    let part = file.part.as_ref().map(|part| open(part.file_name()));
    let open = match part {
        None => open(file.entry.path.file_name()),
        Some(Err(OpenError::Missing)) => {
            file.part = None; // It was renamed the last time, and its folder not synced.
            open(file.entry.path.file_name())
        }
        Some(part) => part,
    };
    let open = open.map_err(|error| ("open", Cause::of_open(error, 0, root)))?;
    if open.metadata().map_or(0, |metadata| metadata.len()) < file.entry.len {
        return Err(("finish", Cause::TooShort)); // Another one, which came to lie there.
    }
    // Not fdatasync(2): the session's record of the file holds its time of modification. What a sync of all that is on
    // the filesystem may not tell, an error of this file that somebody else was told of, the shards have met when they
    // synced its last bytes.
    syncs.sync(&open).map_err(|errno| ("sync", Cause::of(errno, 0, root)))
}

fn rename(root: &Root, folder: &Folder, file: &mut Complete<'_>) -> Result<(), Failure> {
    let Some(part) = &file.part else {
        return Ok(());
    };
    folder
        .rename(part.file_name(), file.entry.path.file_name())
        .map_err(|errno| ("give its final name to", Cause::of(errno, 0, root)))
}
