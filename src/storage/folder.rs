//! A folder beneath a data folder, and what btd changes in it: folders and files made, names given, all of it synced.
//!
//! Names are single ones, so that nothing done here can leave the folder; the folder itself is reached as
//! [`Root`](super::Root) reaches files, through no symbolic link. Nothing that exists is ever replaced or cut off, and only
//! what [`super::erase`] was asked to delete is deleted.
//!
//! Blocks on the disk.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::root::{OpenError, Root, open_beneath, regular};
use crate::proto::path::RelPath;
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// A folder, open.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
}

impl Folder {
    /// The folder of this path below the data folder, or the data folder itself.
    pub(super) fn open(root: &Root, path: Option<&str>) -> Result<Self, OpenError> {
        Self::beneath(root.fd(), path.unwrap_or("."))
    }

    /// A folder in this one.
    pub(super) fn child(&self, name: &str) -> Result<Self, OpenError> {
        Self::beneath(self.fd.as_fd(), name)
    }

    fn beneath(dir: BorrowedFd<'_>, path: &str) -> Result<Self, OpenError> {
        // Not `O_PATH`, as `Root` has it: that cannot be synced.
        let fd = open_beneath(dir, Path::new(path), OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Self { fd })
    }

    /// Makes a folder in this one. Whatever has the name already stays.
    pub(super) fn make_child(&self, name: &str) -> Result<(), Errno> {
        step()?;
        // Less what the process's umask takes away.
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o777)) {
            Err(Errno::EXIST) => Ok(()),
            made => made,
        }
    }

    /// Opens a regular file, for reading and syncing.
    pub(super) fn open_file(&self, name: &str) -> Result<File, OpenError> {
        regular(open_beneath(self.fd.as_fd(), Path::new(name), OFlags::RDONLY)?)
    }

    /// Opens a regular file for writing.
    pub(super) fn open_to_write(&self, name: &str) -> Result<File, OpenError> {
        regular(open_beneath(self.fd.as_fd(), Path::new(name), OFlags::RDWR)?)
    }

    /// Makes a file that is not there yet: `EEXIST` if there is anything of the name.
    pub(super) fn create(&self, name: &str) -> Result<(), OpenError> {
        step().map_err(OpenError::new)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        open_beneath(self.fd.as_fd(), Path::new(name), flags).map(drop)
    }

    /// Gives a file another name that nothing has: `EEXIST` otherwise. If both names are of the same file already, an
    /// earlier call was interrupted, and the old name goes.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        step()?;
        let renamed = match rustix::fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            // NFS, and FUSE filesystems that know rename(2) only.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.link(from, to),
            renamed => renamed,
        };
        match renamed {
            Err(Errno::EXIST) if self.is_one_file(from, to)? => self.remove_link(from),
            renamed => renamed,
        }
    }

    /// Renames by way of a second name. linkat(2) never replaces either.
    fn link(&self, from: &str, to: &str) -> Result<(), Errno> {
        match rustix::fs::linkat(&self.fd, from, &self.fd, to, AtFlags::empty()) {
            Ok(()) => self.remove_link(from),
            // exFAT and its like have one name for a file.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => self.look_and_rename(from, to),
            Err(errno) => Err(errno),
        }
    }

    /// Renames if nothing has the name now. What gets it within the next microseconds would be replaced, and there is no
    /// way left to tell the filesystem not to.
    fn look_and_rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        match rustix::fs::statat(&self.fd, to, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => rustix::fs::renameat(&self.fd, from, &self.fd, to),
            Err(errno) => Err(errno),
            Ok(_) => Err(Errno::EXIST),
        }
    }

    /// Takes one of several names from a file.
    fn remove_link(&self, name: &str) -> Result<(), Errno> {
        step()?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())
    }

    /// What has a name, and how long it is if it is a regular file. A link is looked at, not followed.
    pub(super) fn look(&self, name: &str) -> Result<Option<u64>, Errno> {
        let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        Ok(is_file.then(|| u64::try_from(stat.st_size).unwrap_or(0)))
    }

    /// Deletes a file, or one of its names if it has several.
    pub(super) fn delete(&self, name: &str) -> Result<(), Errno> {
        self.remove_link(name)
    }

    /// Deletes a folder in this one if there is nothing in it. False if there is, or no such folder.
    pub(super) fn delete_empty_child(&self, name: &str) -> Result<bool, Errno> {
        step()?;
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn is_one_file(&self, one: &str, other: &str) -> Result<bool, Errno> {
        let stat = |name| rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
        let (one, other) = (stat(one)?, stat(other)?);
        // Two names at least, or it is a filesystem whose numbers tell nothing.
        Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino) && one.st_nlink > 1)
    }

    /// When the folder was changed, in seconds since 1970.
    pub(super) fn changed(&self) -> Result<i64, Errno> {
        Ok(rustix::fs::fstat(&self.fd)?.st_ctime)
    }
}

/// How many files or folders are synced one by one; more are synced with all else on their filesystem. Each sync of its
/// own is a command to the disk, and often a commit of the filesystem's journal: 2,000 files of 100 KB took 1.9 to 2.8 s
/// so, on ext4, and 0.2 to 0.4 s together.
pub(super) const SYNCS_MAX: usize = 32;

/// Has the disk take what was changed in folders below the data folder, and gives back those it did not, and why.
pub(super) fn sync_folders<'a>(root: &Root, paths: &[&'a str]) -> Vec<(&'a str, OpenError)> {
    let mut syncs = Syncs::of(paths.len());
    let mut failed = Vec::new();
    for &path in paths {
        let folder = Folder::open(root, Some(path).filter(|path| !path.is_empty()));
        if let Err(error) = folder.and_then(|folder| syncs.sync(&folder.fd).map_err(OpenError::new)) {
            failed.push((path, error));
        }
    }
    failed
}

/// Has the disk take what was changed in a folder that may be entered and not listed, which cannot be opened to be synced: with all
/// else on its filesystem, by way of a file below it.
pub(super) fn sync_by_file(root: &Root, path: &str, below: &RelPath) -> Result<(), OpenError> {
    let folder = look_at(root, path)?;
    let file = root.open_file(below)?;
    let device = rustix::fs::fstat(&file).map_err(OpenError::new)?.st_dev;
    if device != folder.st_dev {
        return Err(OpenError::Denied); // Another filesystem is mounted on the way to the file.
    }
    step().map_err(OpenError::new)?;
    let synced = simulated_sync(&file).unwrap_or_else(|| rustix::fs::syncfs(&file));
    synced.map_err(OpenError::new)
}

/// When a folder was changed, in seconds since 1970; the data folder is the empty path. It need not be one that may be listed.
pub(super) fn folder_changed(root: &Root, path: &str) -> Result<i64, OpenError> {
    Ok(look_at(root, path)?.st_ctime)
}

/// What the system says of a folder that may not even be listed.
fn look_at(root: &Root, path: &str) -> Result<rustix::fs::Stat, OpenError> {
    let path = if path.is_empty() { "." } else { path };
    let folder = open_beneath(root.fd(), Path::new(path), OFlags::PATH | OFlags::DIRECTORY)?;
    rustix::fs::fstat(&folder).map_err(OpenError::new)
}

/// Syncs files and folders, in the way that is best for so many.
#[derive(Debug)]
pub(super) struct Syncs {
    one_by_one: bool,
    /// What came of syncing whole filesystems, by device.
    done: HashMap<u64, Result<(), Errno>>,
}

impl Syncs {
    /// For so many of them. They have to be as they are to be synced before the first is.
    pub(super) fn of(count: usize) -> Self {
        Self {
            one_by_one: count <= SYNCS_MAX,
            done: HashMap::new(),
        }
    }

    /// Has the disk take all of a file, its length and times too, or what was changed in a folder.
    pub(super) fn sync(&mut self, fd: impl AsFd) -> Result<(), Errno> {
        if !self.one_by_one {
            let device = rustix::fs::fstat(&fd)?.st_dev;
            let done = match self.done.get(&device) {
                Some(done) => *done,
                None => {
                    let synced = step().and_then(|()| match simulated_sync(&fd) {
                        // Nobody syncs a whole simulated disk: each file by itself.
                        Some(_) => Err(Errno::OPNOTSUPP),
                        None => rustix::fs::syncfs(&fd),
                    });
                    self.done.insert(device, synced);
                    synced
                }
            };
            // An error may be of anybody's file, on filesystems that are many disks: then each is asked for its own.
            if done.is_ok() {
                return Ok(());
            }
        }
        step()?;
        simulated_sync(&fd).unwrap_or_else(|| rustix::fs::fsync(&fd))
    }
}

/// Makes a file longer, without a byte on the disk.
pub(super) fn lengthen(file: &File, len: u64) -> Result<(), Errno> {
    step()?;
    rustix::fs::ftruncate(file, len)
}

/// Has the disk set aside the first `len` bytes of a file, and makes it that long if it is shorter. What it holds stays.
pub(super) fn allocate(file: &File, len: u64) -> Result<(), Errno> {
    step()?;
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
            Err(Errno::INTR) => {}
            allocated => return allocated,
        }
    }
}

/// Drops what the page cache holds of a file.
pub(super) fn forget_cached(file: &File) {
    #[cfg(any(test, feature = "sim"))]
    super::simulated::forget_cached(file);
    // Advice; nothing else is to be done when it is not taken.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// Stands before each change and each sync. A test may have it fail from some point on, which leaves behind what `kill -9`
/// would, or a disk that takes nothing any more.
#[cfg(not(any(test, feature = "sim")))]
pub(super) fn step() -> Result<(), Errno> {
    Ok(())
}

#[cfg(all(not(test), feature = "sim"))]
pub(super) fn step() -> Result<(), Errno> {
    super::simulated::step();
    Ok(())
}

/// What a simulated disk answers to a sync, where there is one.
#[cfg(any(test, feature = "sim"))]
pub(super) use super::simulated::sync as simulated_sync;

#[cfg(not(any(test, feature = "sim")))]
pub(super) fn simulated_sync(_: impl AsFd) -> Option<Result<(), Errno>> {
    None
}

#[cfg(test)]
pub(super) use steps::step;

#[cfg(test)]
pub(super) mod steps {
    use super::Errno;
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Whatever `work` does, it gets no further than `count` changes. Says whether it wanted to.
    pub(in crate::storage) fn stop_after<T>(count: u32, work: impl FnOnce() -> T) -> (T, bool) {
        LEFT.set(Some(count + 1));
        let result = work();
        let stopped = LEFT.take() == Some(0);
        (result, stopped)
    }

    pub(in crate::storage) fn step() -> Result<(), Errno> {
        crate::storage::simulated::step();
        let left = LEFT.get().map(|left| left.saturating_sub(1));
        LEFT.set(left);
        match left {
            Some(0) => Err(Errno::IO),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    type Rename = fn(&Folder, &str, &str) -> Result<(), Errno>;

    /// Every way to rename, the last ones for filesystems that know no better.
    const WAYS: [(&str, Rename); 3] = [
        ("rename", Folder::rename),
        ("link", Folder::link),
        ("look", Folder::look_and_rename),
    ];

    fn folder() -> (tempfile::TempDir, Folder) {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::open(temp.path()).unwrap();
        let folder = Folder::open(&root, None).unwrap();
        (temp, folder)
    }

    #[test]
    fn renaming_moves_a_file_and_replaces_nothing() {
        for (way, rename) in WAYS {
            let (temp, folder) = folder();
            let path = |name: &str| temp.path().join(name);
            std::fs::write(path("x.part"), "new").unwrap();
            std::fs::write(path("file"), "old").unwrap();
            std::fs::create_dir(path("folder")).unwrap();
            symlink("nowhere", path("link")).unwrap();
            for name in ["file", "folder", "link"] {
                assert_eq!(rename(&folder, "x.part", name), Err(Errno::EXIST), "{way}: {name}");
            }
            assert_eq!(rename(&folder, "x.part", "x"), Ok(()), "{way}");
            assert_eq!(std::fs::read(path("x")).unwrap(), b"new");
            assert_eq!(std::fs::read(path("file")).unwrap(), b"old");
            assert!(!path("x.part").exists());
            assert_eq!(rename(&folder, "x.part", "y"), Err(Errno::NOENT), "{way}");
        }
    }

    #[test]
    fn a_rename_by_links_that_was_interrupted_is_taken_to_its_end() {
        let (temp, folder) = folder();
        std::fs::write(temp.path().join("x.part"), "new").unwrap();
        let (linked, stopped) = steps::stop_after(0, || folder.link("x.part", "x"));
        assert_eq!((linked, stopped), (Err(Errno::IO), true));
        assert!(temp.path().join("x.part").exists() && temp.path().join("x").exists());
        assert_eq!(folder.rename("x.part", "x"), Ok(()));
        assert!(!temp.path().join("x.part").exists());
        assert_eq!(std::fs::read(temp.path().join("x")).unwrap(), b"new");
    }

    #[test]
    fn a_folder_is_made_once_and_never_reached_through_a_link() {
        let (temp, folder) = folder();
        assert_eq!(folder.child("a").unwrap_err(), OpenError::Missing);
        assert_eq!((folder.make_child("a"), folder.make_child("a")), (Ok(()), Ok(())));
        assert!(folder.child("a").is_ok());
        std::fs::write(temp.path().join("file"), "").unwrap();
        assert_eq!(folder.child("file").unwrap_err(), OpenError::NotAFolder);
        symlink("a", temp.path().join("link")).unwrap();
        assert_eq!(folder.make_child("link"), Ok(()));
        assert_eq!(folder.child("link").unwrap_err(), OpenError::SymbolicLink);
        assert_eq!(folder.child("..").unwrap_err(), OpenError::Outside);
    }

    #[test]
    fn a_file_is_created_once_and_what_is_no_file_is_not_opened_to_write() {
        let (temp, folder) = folder();
        assert_eq!(folder.create("x"), Ok(()));
        assert_eq!(folder.create("x"), Err(OpenError::Other(Errno::EXIST)));
        symlink("x", temp.path().join("link")).unwrap();
        assert_eq!(folder.create("link"), Err(OpenError::Other(Errno::EXIST)));
        assert_eq!(folder.open_to_write("link").unwrap_err(), OpenError::SymbolicLink);
        folder.make_child("folder").unwrap();
        let refused = folder.open_to_write("folder").unwrap_err();
        assert_eq!(refused, OpenError::NotRegular("a folder"));
    }
}
