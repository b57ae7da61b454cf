//! What was read is on the disk: files and folders that were changed lately are synced.

use std::collections::HashMap;
use std::fs::File;
use std::time::SystemTime;

use super::{Payload, YOUNG_SECONDS, unix_seconds};
use crate::proto::path::RelPath;
use crate::storage::folder::{folder_changed, forget_cached, simulated_sync, step, sync_by_file, sync_folders};
use crate::storage::root::{OpenError, Root};
use rustix::io::Errno;

impl Payload<'_> {
    /// Sees to it that what was read of files changed lately would be there after a power cut, for as long as `keep_going`
    /// says; the others have no stamp any more. Once is enough: whoever changes a file again changes its stamp too.
    ///
    /// Their folders are synced too: a name that was given a moment ago, by a process that was killed before its folder was
    /// synced or by one whose sync failed, would be lost with all that is known of the file.
    ///
    /// Gives the files of which nobody knows what is on the disk: what was read of them may have been in the page cache alone,
    /// and the kernel calls such pages clean once it has told the error. They are not read any further.
    pub(in crate::storage) fn sync_young(&mut self, keep_going: impl Fn() -> bool) -> Vec<usize> {
        let (mut lost, mut folders) = (Vec::new(), HashMap::new());
        for index in std::mem::take(&mut self.young) {
            let mut synced = match keep_going() {
                true => self.root.open_file(&self.path(index)).and_then(|file| sync(&file)),
                false => Ok(Synced::No),
            };
            if synced == Ok(Synced::Yes) {
                let mut of = folders_of(&self.files[index as usize].path);
                let sync = |path| {
                    *folders
                        .entry(path)
                        .or_insert_with(|| sync_young_folder(self.root, path, &self.path(index)))
                };
                synced = of.try_for_each(sync).map(|()| Synced::Yes);
            }
            let at = index as usize;
            if synced != Ok(Synced::Yes) {
                self.stamps[at] = None;
                self.unsynced.push(index);
            }
            if let Err(error) = synced {
                self.states[at] = error.into();
                self.readable[at] = 0;
                lost.push(at);
            }
        }
        lost
    }

    /// After [`Payload::sync_young`]: whether a file has the length that it is to have, is as it was when it was first looked
    /// at, and would be so after a power cut.
    pub(in crate::storage) fn is_on_disk(&self, index: usize) -> bool {
        let is_synced = !self.unsynced.contains(&(index as u32)); // No more than a torrent may have files.
        self.states[index].is_ok() && self.modified[index].is_some() && is_synced
    }
}

/// Whether all of a file is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Synced {
    Yes,
    /// Nobody has asked the disk, or its filesystem knows no such thing: those that are never written to.
    No,
}

/// Has the disk take all of a file. Of what it does not take the page cache keeps nothing, so that whoever reads it next sees
/// what there is.
fn sync(file: &File) -> Result<Synced, OpenError> {
    match step().and_then(|()| simulated_sync(file).unwrap_or_else(|| rustix::fs::fdatasync(file))) {
        Ok(()) => Ok(Synced::Yes),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(Synced::No),
        Err(errno) => {
            forget_cached(file);
            Err(OpenError::Other(errno))
        }
    }
}

/// The folders on the way to a file, by their paths; the data folder is the empty one.
fn folders_of(path: &RelPath) -> impl Iterator<Item = &str> {
    let path = path.as_str();
    let inner = path.match_indices('/').map(|(end, _)| &path[..end]);
    std::iter::once("").chain(inner)
}

/// Has the disk take the names in a folder that was changed lately, on the way to this file.
fn sync_young_folder(root: &Root, path: &str, below: &RelPath) -> Result<(), OpenError> {
    let young = unix_seconds(SystemTime::now()).saturating_sub(YOUNG_SECONDS);
    let changed = folder_changed(root, path);
    if changed.is_ok_and(|changed| u64::try_from(changed).is_ok_and(|changed| changed < young)) {
        return Ok(());
    }
    match sync_folders(root, &[path]).first() {
        // Some filesystems know no such thing.
        None | Some((_, OpenError::Other(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))) => Ok(()),
        // One that may not be listed can have been changed all the same, by btd too.
        Some((_, OpenError::Denied)) => sync_by_file(root, path, below),
        Some((_, error)) => Err(*error),
    }
}
