//! The files that a new torrent is to hold: what they are called, how long they are, and whether they stay so.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::Error;
use crate::proto::metainfo::FILE_COUNT_MAX;
use crate::proto::path::{RelPath, check_name, escaped};

/// Folders within folders: far more than [`RelPath`] could spell, and a bound for the stack of names.
const DEPTH_MAX: usize = 1_000;

/// What was found under a path.
#[derive(Debug)]
pub(super) struct Tree {
    /// The torrent's name.
    pub(super) name: String,
    /// Whether the path is a folder.
    pub(super) is_folder: bool,
    /// Where the files' paths begin.
    pub(super) root: PathBuf,
    /// In the order of the bytes of their paths.
    pub(super) files: Vec<Found>,
    /// What is not a file, with the reason for leaving it out.
    pub(super) left_out: Vec<String>,
}

/// A file.
#[derive(Debug)]
pub(super) struct Found {
    /// Below [`Tree::root`].
    pub(super) path: RelPath,
    pub(super) len: u64,
    identity: Identity,
}

/// Differs if a file was written to or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Tree {
    /// Looks at everything below `path` but the torrent file itself, which may lie there from an earlier run.
    pub(super) fn look(path: &Path, output: &Path) -> Result<Self, Error> {
        let look = |error| file_error(path, "cannot be read", error);
        let real = path.canonicalize().map_err(look)?;
        let metadata = real.metadata().map_err(look)?;
        // `.` has a name only once it is resolved; a link to the payload gives the torrent the link's name.
        let name = path.file_name().or(real.file_name());
        let name = name
            .and_then(|name| name.to_str())
            .ok_or_else(|| unfit(path, "its name is not UTF-8, or it has none"))?;
        check_name(name).map_err(|error| unfit(path, &error.to_string()))?;
        let mut tree = Self {
            name: name.to_owned(),
            is_folder: metadata.is_dir(),
            root: real,
            files: Vec::new(),
            left_out: Vec::new(),
        };
        if tree.is_folder {
            let output = output.symlink_metadata().ok();
            tree.walk(output.map(|output| (output.dev(), output.ino())))?;
            // Two files of one torrent never have the same path, so the order is one and the same everywhere.
            tree.files.sort_unstable_by(|a, b| a.path.as_str().cmp(b.path.as_str()));
        } else if metadata.is_file() {
            // Opened through its folder, and by its own name if `path` was a link.
            let own_name = tree.root.file_name().and_then(|name| name.to_str());
            let own_name = own_name.ok_or_else(|| unfit(path, "its name is not UTF-8"))?;
            let relative = RelPath::parse(own_name).map_err(|error| unfit(path, &error.to_string()))?;
            tree.files.push(Found {
                path: relative,
                len: metadata.len(),
                identity: Identity::from(&metadata),
            });
            tree.root.pop();
        } else {
            return Err(unfit(path, "neither a file nor a folder"));
        }
        Ok(tree)
    }

    /// Whether all files are still what they were.
    pub(super) fn check_unchanged(&self) -> Result<(), Error> {
        for file in &self.files {
            let path = self.root.join(file.path.as_path());
            let metadata = path
                .symlink_metadata()
                .map_err(|error| file_error(&path, "vanished meanwhile", error))?;
            if Identity::from(&metadata) != file.identity {
                return Err(unfit(
                    &path,
                    "changed while it was hashed (hint: try again when nothing writes to it)",
                ));
            }
        }
        Ok(())
    }

    fn walk(&mut self, output: Option<(u64, u64)>) -> Result<(), Error> {
        // Folders yet to be read, below the root. A list and not recursion: depth is the filesystem's choice.
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let full = self.root.join(&folder);
            let entries = full
                .read_dir()
                .map_err(|error| file_error(&full, "cannot read the folder", error))?;
            for entry in entries {
                let entry = entry.map_err(|error| file_error(&full, "cannot read the folder", error))?;
                let relative = folder.join(entry.file_name());
                let path = self.root.join(&relative);
                // Of the entry itself, not of what a link leads to.
                let metadata = entry
                    .metadata()
                    .map_err(|error| file_error(&path, "cannot be read", error))?;
                if metadata.is_dir() {
                    if relative.components().count() > DEPTH_MAX {
                        return Err(unfit(&path, "more folders within each other than a path can spell"));
                    }
                    folders.push(relative);
                } else if metadata.is_file() && output == Some((metadata.dev(), metadata.ino())) {
                    self.leave_out(&relative, "the torrent file itself");
                } else if metadata.is_file() {
                    self.files.push(found(&path, &relative, &metadata)?);
                    if self.files.len() > FILE_COUNT_MAX {
                        return Err(unfit(&self.root, &format!("more than {FILE_COUNT_MAX} files")));
                    }
                } else if metadata.is_symlink() {
                    self.leave_out(&relative, "a symbolic link");
                } else {
                    self.leave_out(&relative, "not a regular file");
                }
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &Path, what: &str) {
        self.left_out
            .push(format!("{} ({what})", escaped(&path.to_string_lossy())));
    }
}

fn found(path: &Path, relative: &Path, metadata: &Metadata) -> Result<Found, Error> {
    let text = relative
        .to_str()
        .ok_or_else(|| unfit(path, "its name is not UTF-8 (hint: rename it)"))?;
    let relative = RelPath::parse(text).map_err(|error| unfit(path, &error.to_string()))?;
    Ok(Found {
        path: relative,
        len: metadata.len(),
        identity: Identity::from(metadata),
    })
}

fn unfit(path: &Path, reason: &str) -> Error {
    Error::Payload {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

fn file_error(path: &Path, step: &'static str, error: io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        step,
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Files `b`, `sub/y`, `sub.z`, `.hidden` and the empty `sub/e`, and what is no file.
    fn payload() -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("t");
        std::fs::create_dir_all(dir.join("sub/nothing")).unwrap();
        for file in ["b", "sub/y", "sub.z", ".hidden"] {
            std::fs::write(dir.join(file), file).unwrap();
        }
        std::fs::write(dir.join("sub/e"), "").unwrap();
        symlink("b", dir.join("link")).unwrap();
        temp
    }

    fn look(path: &Path) -> Result<Tree, Error> {
        Tree::look(path, Path::new("/nonexistent"))
    }

    #[test]
    fn files_stand_in_the_order_of_the_bytes_of_their_paths() {
        let temp = payload();
        let tree = look(&temp.path().join("t")).unwrap();
        let paths: Vec<&str> = tree.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [".hidden", "b", "sub.z", "sub/e", "sub/y"]);
        assert_eq!((tree.name.as_str(), tree.is_folder), ("t", true));
        assert_eq!(tree.left_out, ["link (a symbolic link)"]);
    }

    #[test]
    fn the_path_itself_may_be_a_link_and_gives_the_name() {
        let temp = payload();
        symlink("t/b", temp.path().join("file")).unwrap();
        symlink("t", temp.path().join("folder")).unwrap();
        let file = look(&temp.path().join("file")).unwrap();
        assert_eq!(
            (file.name.as_str(), file.files[0].path.as_str(), file.is_folder),
            ("file", "b", false)
        );
        let folder = look(&temp.path().join("folder")).unwrap();
        assert_eq!((folder.name.as_str(), folder.files.len()), ("folder", 5));
        let dotted = look(&temp.path().join("t/sub/..")).unwrap();
        assert_eq!(dotted.name, "t");
    }

    #[test]
    fn the_torrent_of_an_earlier_run_is_left_out() {
        let temp = payload();
        let dir = temp.path().join("t");
        let tree = Tree::look(&dir, &dir.join("b")).unwrap();
        assert_eq!(tree.files.len(), 4);
        assert!(tree.left_out.contains(&"b (the torrent file itself)".to_owned()));
    }

    #[test]
    fn a_file_written_to_replaced_or_removed_is_noticed() {
        for change in [
            |path: &Path| std::fs::write(path, "X").unwrap(),
            |path: &Path| {
                std::fs::write(path.with_extension("new"), "b").unwrap();
                std::fs::rename(path.with_extension("new"), path).unwrap();
            },
            |path: &Path| std::fs::remove_file(path).unwrap(),
        ] {
            let temp = payload();
            let tree = look(&temp.path().join("t")).unwrap();
            tree.check_unchanged().unwrap();
            change(&temp.path().join("t/b"));
            assert!(tree.check_unchanged().is_err());
        }
    }

    #[test]
    fn what_no_torrent_can_hold_is_an_error_that_names_it() {
        use std::os::unix::ffi::OsStrExt;
        let temp = payload();
        let bad = temp.path().join("t").join(std::ffi::OsStr::from_bytes(b"\xff"));
        std::fs::write(&bad, "").unwrap();
        let error = look(&temp.path().join("t")).unwrap_err();
        assert!(matches!(error, Error::Payload { path, .. } if path.ends_with(bad.file_name().unwrap())));
        assert!(matches!(look(&temp.path().join("none")), Err(Error::File { .. })));
        assert!(matches!(look(Path::new("/dev/null")), Err(Error::Payload { .. })));
    }
}
