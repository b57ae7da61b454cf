//! Has what was written to files be on the disk, before it is recorded.

use super::{Cause, Error, PartNames};
use crate::proto::metainfo::FileEntry;
use crate::proto::path::RelPath;
use crate::storage::folder::{self, Syncs};
use crate::storage::root::Root;

/// Syncs the files of these places in the torrent, wherever they lie. Many at once cost little more than a few.
///
/// An error that [`Error::is_doubtful`] is not to be tried again: the kernel tells it once, and the next sync succeeds
/// although the bytes are lost (fsync(2), `EIO`).
///
/// # Panics
/// When `parts` is not of this torrent.
pub fn sync(root: &Root, files: &[FileEntry], names: &PartNames, parts: &[bool], written: &[u32]) -> Result<(), Error> {
    assert_eq!(parts.len(), files.len(), "the parts of another torrent");
    let mut syncs = Syncs::of(written.len());
    for (index, path) in paths(files, names, parts, written) {
        let error = |step, cause| Error {
            file: index,
            path: path.clone(),
            step,
            cause,
        };
        let file = root
            .open_file(&path)
            .map_err(|failed| error("open", Cause::of_open(failed, 0, root)))?;
        syncs
            .sync(&file)
            .map_err(|errno| error("sync", Cause::of(errno, 0, root)))?;
    }
    Ok(())
}

/// Drops what the page cache holds of these files, so that a check reads what is on the disk: of what could not be written
/// it has bytes that exist nowhere else, and does not say so.
pub fn forget_cached(root: &Root, files: &[FileEntry], names: &PartNames, written: &[u32]) {
    // Under whichever name: one that could not be finished may have either.
    let names_of = |parts: bool| paths(files, names, &vec![parts; files.len()], written).collect::<Vec<_>>();
    for (_, path) in names_of(true).into_iter().chain(names_of(false)) {
        if let Ok(file) = root.open_file(&path) {
            folder::forget_cached(&file);
        }
    }
}

/// Where files lie that have bytes on the disk.
fn paths<'a>(
    files: &'a [FileEntry],
    names: &'a PartNames,
    parts: &'a [bool],
    written: &'a [u32],
) -> impl Iterator<Item = (u32, RelPath)> + 'a {
    let on_disk = written.iter().filter(|&&index| !files[index as usize].pad);
    on_disk.map(|&index| {
        let entry = &files[index as usize];
        let part = names.get(index, entry).filter(|_| parts[index as usize]);
        (index, part.unwrap_or_else(|| entry.path.clone()))
    })
}
