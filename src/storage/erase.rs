//! Deletes the files of a torrent, and the folders that are empty then. Only ever called because somebody asked for it.
//!
//! What is deleted is a regular file beneath the data folder, reached through no symbolic link, that has a name and the
//! length of one of the torrent's files; or the name with [`PART_SUFFIX`](super::PART_SUFFIX) that it has while it is
//! downloaded, and that length or none. Everything else stays, and is told: it is not what the torrent describes. What is, and
//! cannot be deleted, is told apart from that. That no other torrent has the same files is for the caller to see to ([`names`]).
//!
//! Blocks on the disk.

use std::collections::{BTreeMap, BTreeSet};

use super::folder::Folder;
use super::part::PartNames;
use super::root::{OpenError, Root};
use crate::proto::metainfo::FileEntry;
use crate::proto::path::RelPath;
use rustix::io::Errno;

/// What has not gone is told of so many files, and no more.
const TOLD_MAX: usize = 100;

/// What has become of a torrent's files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Erased {
    /// Files deleted.
    pub files: u64,
    /// Folders deleted.
    pub folders: u64,
    /// What has the name of one of the files, is something else, and was left alone.
    pub kept: Left,
    /// What is the torrent's and could not be deleted, or not even be looked at.
    pub failed: Left,
}

/// What has not gone, below the data folder, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Left {
    /// The first of it.
    pub told: Vec<(String, String)>,
    /// How much more there is.
    pub more: u64,
}

impl Left {
    fn add(&mut self, path: String, why: impl ToString) {
        match self.told.len() < TOLD_MAX {
            true => self.told.push((path, why.to_string())),
            false => self.more += 1,
        }
    }

    fn add_failed(&mut self, path: String, errno: Errno) {
        self.add(path, std::io::Error::from(errno));
    }
}

/// A name that one of the files may have.
struct Name {
    path: RelPath,
    len: u64,
    part: bool,
}

fn all_names(files: &[FileEntry]) -> impl Iterator<Item = Name> {
    let part_names = PartNames::new(files);
    let on_disk = (0..).zip(files).filter(|(_, entry)| !entry.pad);
    on_disk.flat_map(move |(index, entry)| {
        let name = |path, part| Name {
            path,
            len: entry.len,
            part,
        };
        let part = part_names.get(index, entry).map(|path| name(path, true));
        std::iter::once(name(entry.path.clone(), false)).chain(part)
    })
}

/// Every name that may be deleted for these files, below their data folder.
pub fn names(files: &[FileEntry]) -> impl Iterator<Item = RelPath> {
    all_names(files).map(|name| name.path)
}

/// Whether torrents of these names, in one data folder, may have the same file: all files of a torrent lie below its name, or
/// are it, or are it with [`PART_SUFFIX`](super::PART_SUFFIX).
pub fn may_meet(one: &str, other: &str) -> bool {
    let is_part = |whole: &str, part: &str| part.strip_suffix(super::PART_SUFFIX) == Some(whole);
    one == other || is_part(one, other) || is_part(other, one)
}

/// Deletes them. What is not there is no error.
pub fn erase(root: &Root, files: &[FileEntry]) -> Erased {
    let mut erased = Erased::default();
    let mut by_folder: BTreeMap<Option<String>, Vec<Name>> = BTreeMap::new();
    let mut folders = BTreeSet::new();
    for name in all_names(files) {
        let parent = name.path.parent().map(str::to_owned);
        if let Some(parent) = &parent {
            let ends = parent.match_indices('/').map(|(at, _)| at);
            folders.extend(ends.map(|end| parent[..end].to_owned()));
            folders.insert(parent.clone());
        }
        by_folder.entry(parent).or_default().push(name);
    }
    for (parent, names) in by_folder {
        match Folder::open(root, parent.as_deref()) {
            Ok(folder) => names.iter().for_each(|name| erase_one(&folder, name, &mut erased)),
            Err(OpenError::Missing) => {}
            Err(error) => {
                let left = match error {
                    // Somebody has put something else there.
                    OpenError::NotAFolder | OpenError::SymbolicLink | OpenError::NotRegular(_) | OpenError::Outside => {
                        &mut erased.kept
                    }
                    OpenError::Missing | OpenError::Denied | OpenError::TooManyOpen | OpenError::Other(_) => {
                        &mut erased.failed
                    }
                };
                left.add(parent.unwrap_or_default(), error);
            }
        }
    }
    // What lies within comes before what it lies in: it is longer, and begins like it.
    for path in folders.iter().rev() {
        let (parent, name) = match path.rsplit_once('/') {
            Some((parent, name)) => (Some(parent), name),
            None => (None, path.as_str()),
        };
        let deleted = Folder::open(root, parent).map(|folder| folder.delete_empty_child(name));
        match deleted {
            Ok(Ok(true)) => erased.folders += 1,
            Ok(Ok(false)) | Err(_) => {} // Who cannot open it was told above.
            Ok(Err(errno)) => erased.failed.add_failed(path.clone(), errno),
        }
    }
    erased
}

fn erase_one(folder: &Folder, name: &Name, erased: &mut Erased) {
    let file_name = name.path.file_name();
    let path = || name.path.as_str().to_owned();
    match folder.look(file_name) {
        Ok(Some(len)) if len == name.len || name.part && len == 0 => match folder.delete(file_name) {
            Ok(()) => erased.files += 1,
            Err(Errno::NOENT) => {}
            Err(errno) => erased.failed.add_failed(path(), errno),
        },
        Ok(Some(len)) => erased.kept.add(
            path(),
            format_args!("it has {len} bytes, the torrent's has {}", name.len),
        ),
        Ok(None) => erased.kept.add(path(), "not a regular file"),
        Err(Errno::NOENT) => {}
        Err(errno) => erased.failed.add_failed(path(), errno),
    }
}

#[cfg(test)]
mod tests {
    use super::super::folder::steps;
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn file(path: &str, len: u64) -> FileEntry {
        FileEntry {
            path: RelPath::parse(path).unwrap(),
            len,
            offset: 0,
            pad: path.contains(".pad/"),
        }
    }

    fn write(dir: &std::path::Path, path: &str, len: usize) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![1; len]).unwrap();
    }

    fn there(dir: &std::path::Path, path: &str) -> bool {
        dir.join(path).symlink_metadata().is_ok()
    }

    #[test]
    fn files_of_the_torrent_and_empty_folders_go_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        for (path, len) in [
            ("t/a", 3),
            ("t/in/b.part", 4),
            ("t/in/deep/c", 5),
            ("t/other/d", 6),
            ("t/other/mine", 1),
            ("beside", 3),
        ] {
            write(dir, path, len);
        }
        let root = Root::open(dir).unwrap();
        let files = [
            file("t/a", 3),
            file("t/in/b", 4),
            file("t/in/deep/c", 5),
            file("t/other/d", 6),
            file("t/.pad/9", 9),
            file("t/gone", 1),
        ];
        let erased = erase(&root, &files);
        assert_eq!((erased.files, erased.folders), (4, 2), "{erased:?}");
        assert_eq!((erased.kept, erased.failed), (Left::default(), Left::default()));
        assert!(there(dir, "t/other/mine") && there(dir, "beside"));
        for gone in ["t/a", "t/in", "t/other/d"] {
            assert!(!there(dir, gone), "{gone}");
        }
        assert_eq!(erase(&root, &files), Erased::default(), "there is nothing left");
    }

    #[test]
    fn what_could_not_be_deleted_is_told_apart_from_what_is_somebody_elses() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        write(dir, "t/a", 3);
        write(dir, "t/b", 3);
        write(dir, "t/longer", 4);
        write(dir, "t/in/c", 3);
        let root = Root::open(dir).unwrap();
        let files = ["a", "b", "longer", "in/c"].map(|name| file(&format!("t/{name}"), 3));
        // The first is deleted, and then the disk takes no more.
        let (erased, wanted_more) = steps::stop_after(1, || erase(&root, &files));
        assert!(wanted_more && (erased.files, erased.folders) == (1, 0), "{erased:?}");
        let paths = |left: &Left| left.told.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(&erased.kept), ["t/longer"]);
        assert_eq!(paths(&erased.failed), ["t/b", "t/in/c", "t/in", "t"]);
        assert!(there(dir, "t/b") && there(dir, "t/in/c"));
    }

    #[test]
    fn torrents_meet_by_their_name_and_by_the_one_that_a_file_has_meanwhile() {
        for (one, other) in [("x", "x"), ("x", "x.part"), ("x.part", "x"), ("x.part", "x.part.part")] {
            assert!(may_meet(one, other), "{one} {other}");
        }
        for (one, other) in [("x", "y"), ("x", "x.parts"), ("x", "x.part.part"), ("x.part", "y")] {
            assert!(!may_meet(one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_not_as_the_torrent_says_stays_and_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, outside) = (temp.path().join("data"), temp.path().join("outside"));
        write(&dir, "t/longer", 4);
        write(&dir, "t/shorter.part", 2);
        write(&dir, "t/empty.part", 0);
        write(&dir, "t/folder/x", 1);
        write(&outside, "secret", 3);
        symlink(outside.join("secret"), dir.join("t/link")).unwrap();
        symlink(&outside, dir.join("t/away")).unwrap();
        let root = Root::open(&dir).unwrap();
        let files = ["longer", "shorter", "empty", "folder", "link", "away/secret"];
        let files = files.map(|name| file(&format!("t/{name}"), 3));
        let erased = erase(&root, &files);
        assert_eq!((erased.files, erased.folders), (1, 0), "{erased:?}");
        assert_eq!(erased.failed, Left::default());
        let mut kept: Vec<&str> = erased.kept.told.iter().map(|(path, _)| path.as_str()).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["t/away", "t/folder", "t/link", "t/longer", "t/shorter.part"]);
        assert!(outside.join("secret").exists() && there(&dir, "t/link") && there(&dir, "t/longer"));
        assert!(!there(&dir, "t/empty.part"));
    }
}
