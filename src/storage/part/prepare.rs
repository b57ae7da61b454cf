//! Makes the folders and files of a torrent, before the first byte is written.
//!
//! In three goes over the files: names, then lengths, then folders are synced. Each looks at what is there and does what
//! is missing, so that a go that was interrupted is simply done again.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use super::{Cause, Error, Found, PART_SUFFIX, PartNames, Seen};
use crate::proto::metainfo::FileEntry;
use crate::proto::path::RelPath;
use crate::storage::folder::{Folder, allocate, lengthen, sync_folders};
use crate::storage::payload::YOUNG_SECONDS;
use crate::storage::root::{OpenError, Root};
use rustix::io::Errno;

/// What a block is in `st_blocks`, whatever the filesystem's are: stat(2).
const STAT_BLOCK_LEN: u64 = 512;

/// How a file gets its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preallocate {
    /// Without a byte on the disk, which is taken as bytes are written.
    Sparse,
    /// All of it is set aside at once, so that a disk that is too small is found out now, and the file is in few pieces.
    Full,
}

/// How files are prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// How files get their length.
    pub preallocate: Preallocate,
    /// Whether files that are not complete have another name. Those that have it already keep it until they are.
    pub part_names: bool,
}

/// What became of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// For each file of the torrent, whether it lies under the name of what is not complete.
    pub parts: Vec<bool>,
    /// What the operator may want to know.
    pub notices: Vec<Notice>,
}

/// Something that is not as expected, and does no harm yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The file is longer than the torrent says. It is never cut off.
    Longer {
        /// The file.
        path: RelPath,
        /// Its length.
        have: u64,
        /// What it should be.
        want: u64,
    },
    /// The file lies under its other name, and something else has the final one: it cannot be finished.
    InTheWay {
        /// The final name.
        path: RelPath,
    },
    /// This file's filesystem sets nothing aside: it is sparse, and so are others there.
    Sparse {
        /// The first of them.
        path: RelPath,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Longer { path, have, want } => {
                write!(
                    f,
                    "{path:?} has {have} bytes instead of {want}: it is not cut off, and what is wrong in it is written over"
                )
            }
            Self::InTheWay { path } => write!(
                f,
                "{path:?} is not what the torrent says, and keeps the name from the file that is downloaded \
                 (hint: move it away, or delete it)"
            ),
            Self::Sparse { path } => write!(
                f,
                "{path:?}: its filesystem cannot set space aside, so that it is taken as the file is written"
            ),
        }
    }
}

/// Makes every folder of a torrent below the data folder, and every file that is not there, and gives it its length.
///
/// What is there is kept, under either name. A file under its final name that is too short is what the operator put there:
/// it is not complete, so it gets the other name before it is made longer, and never looks like more than it is. One that
/// has no other name is made longer where it lies.
///
/// `seen` is what was there when the torrent was checked. A file that has come or changed since is not taken for the
/// torrent's: nobody knows what is in it. What is made or taken over is noted there, also where something later does not work.
///
/// # Errors
/// The first thing that did not work. What was done before stays, and is found when it is tried again.
pub fn prepare(
    root: &Root,
    files: &[FileEntry],
    names: &PartNames,
    options: Options,
    seen: &mut [Seen],
) -> Result<Prepared, Error> {
    let mut work = Work {
        root,
        files,
        names,
        options,
        seen,
        open: Vec::new(),
        folders: BTreeMap::new(),
        short: Vec::new(),
        prepared: Prepared {
            parts: vec![false; files.len()],
            notices: Vec::new(),
        },
    };
    for (index, entry) in (0..).zip(files).filter(|(_, entry)| !entry.pad) {
        work.name(index, entry)?;
    }
    if work.is_full() {
        work.ask_for_room()?;
    }
    for file in std::mem::take(&mut work.short) {
        work.set_len(file)?;
    }
    work.sync_folders()?;
    Ok(work.prepared)
}

struct Work<'a> {
    root: &'a Root,
    files: &'a [FileEntry],
    names: &'a PartNames,
    options: Options,
    seen: &'a mut [Seen],
    /// The data folder, and the folders on the way to the file in hand, each with its name.
    open: Vec<(&'a str, Folder)>,
    /// Every folder that files lie in, with one of those, and whether something was made in it. The data folder itself is
    /// the empty path.
    folders: BTreeMap<&'a str, (u32, bool)>,
    /// Files that may lack bytes at their end, or on the disk.
    short: Vec<u32>,
    prepared: Prepared,
}

impl<'a> Work<'a> {
    fn is_full(&self) -> bool {
        self.options.preallocate == Preallocate::Full
    }

    /// Sees to it that a file is there, under the right name.
    fn name(&mut self, index: u32, entry: &'a FileEntry) -> Result<(), Error> {
        self.enter(index, entry)?;
        let other = self.names.get(index, entry);
        let has_other = self.options.part_names && other.is_some();
        let part = match self.names.find(self.root, index, entry) {
            Ok(found) => {
                if entry.len > 0 && !self.seen[index as usize].is_still(&found) {
                    let path = other.as_ref().filter(|_| found.part).unwrap_or(&entry.path);
                    return Err(error_of(index, path, "write to", Cause::Unjudged));
                }
                self.tell(index, entry, &found);
                let have = found.metadata.len();
                if !found.part && has_other && have < entry.len {
                    self.rename(index, entry)?;
                }
                let part = found.part || (has_other && have < entry.len);
                if have < entry.len || (part && have == entry.len && self.is_full()) {
                    self.short.push(index);
                }
                part
            }
            Err(OpenError::Missing) => {
                let path = other.as_ref().filter(|_| has_other).unwrap_or(&entry.path);
                self.create(index, entry, path)?;
                if entry.len > 0 {
                    self.short.push(index);
                }
                has_other
            }
            Err(error) => {
                let cause = Cause::of_open(error, entry.len, self.root);
                let is_missing = self.root.open_file(&entry.path).err() == Some(OpenError::Missing);
                let path = other.as_ref().filter(|_| is_missing).unwrap_or(&entry.path);
                return Err(error_of(index, path, "open", cause));
            }
        };
        self.prepared.parts[index as usize] = part;
        self.seen[index as usize] = Seen::Ours { part };
        Ok(())
    }

    fn tell(&mut self, index: u32, entry: &FileEntry, found: &Found) {
        let (have, want) = (found.metadata.len(), entry.len);
        if have > want {
            let path = self.path_of(index, found);
            self.prepared.notices.push(Notice::Longer { path, have, want });
        }
        if found.in_the_way {
            let path = entry.path.clone();
            self.prepared.notices.push(Notice::InTheWay { path });
        }
    }

    fn create(&mut self, index: u32, entry: &'a FileEntry, path: &RelPath) -> Result<(), Error> {
        let folder = self.folder();
        let created = folder.create(path.file_name());
        created.map_err(|error| error_of(index, path, "create", Cause::of_open(error, entry.len, self.root)))?;
        self.touch(entry);
        Ok(())
    }

    fn rename(&mut self, index: u32, entry: &'a FileEntry) -> Result<(), Error> {
        let own = entry.path.file_name();
        let renamed = self.folder().rename(own, &format!("{own}{PART_SUFFIX}"));
        renamed.map_err(|errno| {
            let step = "give the name of what is not complete to";
            error_of(index, &entry.path, step, Cause::of(errno, 0, self.root))
        })?;
        self.touch(entry);
        Ok(())
    }

    /// Something was made in the folder of this file.
    fn touch(&mut self, entry: &'a FileEntry) {
        if let Some((_, touched)) = self.folders.get_mut(entry.path.parent().unwrap_or("")) {
            *touched = true;
        }
    }

    /// The folder of the file in hand.
    fn folder(&self) -> &Folder {
        &self.open.last().expect("`enter` has opened the data folder at least").1
    }

    /// Opens the folders on the way to a file, one by one, and makes those that are not there. Those that the file before
    /// it lies in are open already.
    fn enter(&mut self, index: u32, entry: &'a FileEntry) -> Result<(), Error> {
        let parent = entry.path.parent().unwrap_or("");
        if self.open.is_empty() {
            let folder = Folder::open(self.root, None);
            let folder = folder.map_err(|error| self.folder_error(index, "", "open", error))?;
            self.open.push(("", folder));
            self.folders.insert("", (index, false));
        }
        let names = || parent.split('/').filter(|name| !name.is_empty());
        let shared = std::iter::zip(names(), &self.open[1..]).take_while(|(name, (open, _))| name == open);
        let shared = shared.count();
        self.open.truncate(1 + shared);
        let mut end = names().take(shared).map(|name| name.len() + 1).sum::<usize>();
        for name in names().skip(shared) {
            let (above, path) = (&parent[..end.saturating_sub(1)], &parent[..end + name.len()]);
            let mut folder = self.folder().child(name);
            if matches!(folder, Err(OpenError::Missing)) {
                let made = self.folder().make_child(name);
                made.map_err(|errno| self.folder_error(index, path, "make the folder", OpenError::new(errno)))?;
                self.folders.entry(above).or_insert((index, true)).1 = true;
                folder = self.folder().child(name);
            }
            let folder = folder.map_err(|error| self.folder_error(index, path, "open the folder", error))?;
            self.open.push((name, folder));
            self.folders.entry(path).or_insert((index, false));
            end += name.len() + 1;
        }
        Ok(())
    }

    fn folder_error(&self, index: u32, path: &str, step: &'static str, error: OpenError) -> Error {
        // Of the data folder itself, the file tells which torrent wanted it.
        let path = RelPath::parse(path).unwrap_or_else(|_| self.files[index as usize].path.clone());
        error_of(index, &path, step, Cause::of_open(error, 0, self.root))
    }

    /// Finds out whether all that is to be set aside has room, before any of it is: a disk filled to the brim by a torrent
    /// that cannot be finished serves nobody.
    fn ask_for_room(&mut self) -> Result<(), Error> {
        // By device: there may be mounts below the data folder.
        let mut needed: BTreeMap<u64, (u64, u32, Found)> = BTreeMap::new();
        for &index in &self.short {
            let found = self.find(index)?;
            let lacking = self.lacking(index, &found);
            let device = needed.entry(found.metadata.dev());
            device.or_insert((0, index, found)).0 += lacking;
        }
        for (needed, index, found) in needed.into_values() {
            let Ok(disk) = rustix::fs::fstatvfs(&found.file) else {
                continue;
            };
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            // Some network filesystems say 0 of everything.
            if disk.f_blocks > 0 && needed > free {
                return Err(error_of(
                    index,
                    &self.path_of(index, &found),
                    "set space aside for",
                    Cause::NoSpace { needed, free },
                ));
            }
        }
        Ok(())
    }

    /// How many bytes the disk has yet to set aside for a file.
    fn lacking(&self, index: u32, found: &Found) -> u64 {
        let allocated = found.metadata.blocks().saturating_mul(STAT_BLOCK_LEN);
        self.files[index as usize].len.saturating_sub(allocated)
    }

    /// Where a file was found.
    fn path_of(&self, index: u32, found: &Found) -> RelPath {
        let entry = &self.files[index as usize];
        let other = self.names.get(index, entry).filter(|_| found.part);
        other.unwrap_or_else(|| entry.path.clone())
    }

    fn find(&self, index: u32) -> Result<Found, Error> {
        let entry = &self.files[index as usize];
        let found = self.names.find(self.root, index, entry);
        found.map_err(|error| error_of(index, &entry.path, "open", Cause::of_open(error, 0, self.root)))
    }

    /// Gives a file its length, and has the disk set it aside if that is wanted.
    fn set_len(&mut self, index: u32) -> Result<(), Error> {
        let entry = &self.files[index as usize];
        let found = self.find(index)?;
        let lacking = self.lacking(index, &found);
        let full = self.is_full() && lacking > 0;
        if found.metadata.len() > entry.len || (found.metadata.len() == entry.len && !full) {
            return Ok(());
        }
        let path = self.path_of(index, &found);
        let failed = |step, errno| error_of(index, &path, step, Cause::of(errno, lacking, &found.file));
        let folder = Folder::open(self.root, path.parent());
        let file = folder
            .and_then(|folder| folder.open_to_write(path.file_name()))
            .map_err(|error| error_of(index, &path, "open", Cause::of_open(error, 0, &found.file)))?;
        if full {
            match allocate(&file, entry.len) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.tell_sparse(&entry.path),
                Err(errno) => return Err(failed("set space aside for", errno)),
            }
        }
        // Looked at once more: nothing may be cut off, whoever has written to it meanwhile.
        let have = file.metadata().map_or(u64::MAX, |now| now.len());
        if have < entry.len {
            lengthen(&file, entry.len).map_err(|errno| failed("lengthen", errno))?;
        }
        Ok(())
    }

    fn tell_sparse(&mut self, path: &RelPath) {
        let notices = &mut self.prepared.notices;
        if !notices.iter().any(|notice| matches!(notice, Notice::Sparse { .. })) {
            notices.push(Notice::Sparse { path: path.clone() });
        }
    }

    /// Has the disk take the names of what was made, or what is written to a file later would be lost with its name. One
    /// that was changed lately may be what an interrupted call has made and not synced.
    fn sync_folders(&mut self) -> Result<(), Error> {
        self.open.clear();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let young = i64::try_from(now.map_or(0, |now| now.as_secs()).saturating_sub(YOUNG_SECONDS)).unwrap_or(i64::MAX);
        let is_young = |path| {
            let folder = Folder::open(self.root, Some(path).filter(|path: &&str| !path.is_empty()));
            let changed = folder.map(|folder| folder.changed());
            changed.map_or(true, |changed| changed.is_ok_and(|changed| changed >= young))
        };
        let fresh = self.folders.iter();
        let fresh = fresh.filter(|(path, (_, touched))| *touched || is_young(path));
        let fresh: Vec<&str> = fresh.map(|(path, _)| *path).collect();
        match sync_folders(self.root, &fresh).into_iter().next() {
            None => Ok(()),
            Some((path, error)) => Err(self.folder_error(self.folders[path].0, path, "sync the folder", error)),
        }
    }
}

fn error_of(file: u32, path: &RelPath, step: &'static str, cause: Cause) -> Error {
    let path = path.clone();
    Error {
        file,
        path,
        step,
        cause,
    }
}
