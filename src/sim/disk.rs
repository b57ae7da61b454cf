//! A host's disk: real files in a folder of the machine's memory, and beside them what a loss of power would leave.
//!
//! Shards write through the driver, threads of the control plane through `storage`; both tell this disk of each write and
//! each sync. A file is what was synced, and the writes that came since. A folder is the names that it had when it was
//! synced. When the power goes, each name and each write since is kept, lost or torn as chance has it, and the folder is made
//! anew from that. What a failed sync has lost stays readable until somebody drops the page cache, as on Linux.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Timespec, Timestamps};

use super::SECOND;
use super::random::Random;
use crate::io::Errno;
use crate::storage::simulated;

/// When the simulated world began, in seconds since 1970: long before anything real.
pub(super) const BEGAN: i64 = 1_000_000_000;

/// A sector: what of a write reaches a disk reaches it in these.
const SECTOR_LEN: usize = 512;

/// How a process ends in the middle of its work with files. It unwinds with this.
pub(super) struct Killed;

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    modified: u64,
}

#[derive(Clone, Debug)]
struct Write {
    offset: u64,
    bytes: Vec<u8>,
    /// A sync has failed since: it is in the page cache alone, and nobody writes it any more.
    doomed: bool,
}

#[derive(Debug)]
struct Model {
    number: u64,
    synced: Content,
    since: Vec<Write>,
    modified: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    /// By its inode's number.
    File(u64),
}

type Names = BTreeMap<String, Entry>;

#[derive(Debug)]
struct State {
    /// By inode number. Never walked: these numbers are the machine's.
    files: BTreeMap<u64, Model>,
    /// The names that folders had when they were synced, by the path of the folder; the data folder is the empty one.
    folders: BTreeMap<String, Names>,
    next_number: u64,
    now: u64,
    random: Random,
    syncs_fail: bool,
    /// When something was last dropped that only the page cache had.
    lost_at: Option<u64>,
    /// Steps until the process is killed.
    killed_after: Option<u32>,
    steps: u64,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    state: RefCell<State>,
}

impl Disk {
    /// An empty disk.
    pub(super) fn new(dir: PathBuf, random: Random) -> Self {
        fs::create_dir_all(&dir).expect("a folder for a disk");
        Self {
            dir,
            state: RefCell::new(State {
                files: BTreeMap::new(),
                folders: BTreeMap::new(),
                next_number: 1,
                now: 0,
                random,
                syncs_fail: false,
                lost_at: None,
                killed_after: None,
                steps: 0,
            }),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// When it was last found out that something is gone.
    pub(super) fn lost_at(&self) -> Option<u64> {
        self.state.borrow().lost_at
    }

    pub(super) fn set_now(&self, now: u64) {
        self.state.borrow_mut().now = now;
    }

    pub(super) fn fail_syncs(&self, fail: bool) {
        self.state.borrow_mut().syncs_fail = fail;
    }

    pub(super) fn kill_after(&self, steps: Option<u32>) {
        self.state.borrow_mut().killed_after = steps;
    }

    pub(super) fn steps(&self) -> u64 {
        self.state.borrow().steps
    }

    /// Puts a file there that has always been there.
    pub(super) fn put(&self, path: &str, bytes: &[u8]) {
        let at = self.dir.join(path);
        fs::create_dir_all(at.parent().expect("a path below a folder")).expect("a folder on a disk");
        fs::write(&at, bytes).expect("a file on a disk");
        let content = Content {
            bytes: bytes.to_vec(),
            modified: 0,
        };
        set_modified(File::open(&at).expect("just made"), 0);
        let number = fs::metadata(&at).expect("just made").ino();
        let mut state = self.state.borrow_mut();
        state.model(number).synced = content;
        let mut below = Path::new(path);
        let mut entry = Entry::File(number);
        while let (Some(parent), Some(name)) = (below.parent(), below.file_name()) {
            let names = state.folders.entry(text(parent)).or_default();
            names.insert(text(Path::new(name)), entry);
            (below, entry) = (parent, Entry::Folder);
        }
    }

    /// What a file is known by, and when it was modified: ns since 1970.
    pub(super) fn look(&self, file: &File) -> (u64, i128) {
        let metadata = file.metadata().expect("an open file");
        let number = self.state.borrow_mut().model(metadata.ino()).number;
        let modified = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        (number, modified)
    }

    /// Writes to an open file.
    pub(super) fn write(&self, file: BorrowedFd<'_>, offset: u64, bytes: &[u8]) {
        let file = File::from(file.try_clone_to_owned().expect("a descriptor"));
        file.write_all_at(bytes, offset)
            .expect("a file in memory takes what it is given");
        let mut state = self.state.borrow_mut();
        let now = state.now;
        set_modified(&file, now);
        let model = state.model(file.metadata().expect("an open file").ino());
        model.modified = now;
        model.since.push(Write {
            offset,
            bytes: bytes.to_vec(),
            doomed: false,
        });
    }

    /// What is in a file now, page cache and all.
    pub(super) fn read(&self, path: &str, offset: u64, len: usize) -> Option<Vec<u8>> {
        let file = File::open(self.dir.join(path)).ok()?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// What would be in a file if the power went now and all that was not synced was lost.
    pub(super) fn read_synced(&self, path: &str, offset: u64, len: usize) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        let path = Path::new(path);
        let (mut folder, mut found) = (String::new(), None);
        for name in path.iter() {
            let name = text(Path::new(name));
            found = state.folders.get(&folder)?.get(&name).copied();
            found?;
            folder = if folder.is_empty() {
                name
            } else {
                format!("{folder}/{name}")
            };
        }
        let Some(Entry::File(number)) = found else { return None };
        let bytes = &state.files.get(&number)?.synced.bytes;
        let start = usize::try_from(offset).ok()?;
        bytes.get(start..start + len).map(<[u8]>::to_vec)
    }

    /// Files that the real clock has stamped since are stamped by the simulated one.
    pub(super) fn restamp(&self) {
        let now = self.state.borrow().now;
        self.each_file(&mut |path: &Path| {
            let Ok(file) = File::open(path) else { return };
            if file
                .metadata()
                .is_ok_and(|metadata| metadata.mtime() > BEGAN + 100_000_000)
            {
                set_modified(&file, now);
                let number = file.metadata().expect("an open file").ino();
                self.state.borrow_mut().model(number).modified = now;
            }
        });
    }

    fn each_file(&self, visit: &mut impl FnMut(&Path)) {
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            for (name, entry) in self.names(&folder) {
                let path = if folder.is_empty() {
                    name
                } else {
                    format!("{folder}/{name}")
                };
                match entry {
                    Entry::Folder => folders.push(path),
                    Entry::File(_) => visit(&self.dir.join(&path)),
                }
            }
        }
    }

    /// The names in a folder now.
    fn names(&self, folder: &str) -> Names {
        let entries = fs::read_dir(self.dir.join(folder)).into_iter().flatten().flatten();
        entries
            .map(|entry| {
                let metadata = entry.metadata().expect("a file on a disk");
                let kind = match metadata.is_dir() {
                    true => Entry::Folder,
                    false => Entry::File(metadata.ino()),
                };
                (text(Path::new(&entry.file_name())), kind)
            })
            .collect()
    }

    /// The power goes. Nobody has a file open any more.
    pub(super) fn cut_power(&self) {
        let (mut kept, mut folders) = (Vec::new(), vec![String::new()]);
        let mut after: BTreeMap<String, Names> = BTreeMap::new();
        while let Some(folder) = folders.pop() {
            let now = self.names(&folder);
            let mut state = self.state.borrow_mut();
            let synced = state.folders.get(&folder).cloned().unwrap_or_default();
            // A journal has what was done in a folder up to some moment: before, or after.
            let names = match now != synced && state.random.percent(50) {
                true => now,
                false => synced,
            };
            for (name, entry) in &names {
                let path = if folder.is_empty() {
                    name.clone()
                } else {
                    format!("{folder}/{name}")
                };
                match entry {
                    Entry::Folder => folders.push(path),
                    Entry::File(number) => {
                        let len = fs::metadata(self.dir.join(&path))
                            .ok()
                            .filter(|now| now.ino() == *number);
                        let len = len.map(|metadata| metadata.len());
                        let content = state.survives(*number, len);
                        kept.push((path, content));
                    }
                }
            }
            after.insert(folder, names);
        }
        for name in self.names("").into_keys() {
            let at = self.dir.join(name);
            let _ = fs::remove_dir_all(&at).or_else(|_| fs::remove_file(&at));
        }
        for folder in after.keys() {
            fs::create_dir_all(self.dir.join(folder)).expect("a folder on a disk");
        }
        let mut state = self.state.borrow_mut();
        state.files.clear();
        let mut numbers = BTreeMap::new();
        for (path, content) in kept {
            let file = File::create(self.dir.join(&path)).expect("a file on a disk");
            file.set_len(content.bytes.len() as u64).expect("room in memory");
            for (index, page) in content.bytes.chunks(4096).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    file.write_all_at(page, index as u64 * 4096).expect("room in memory");
                }
            }
            set_modified(&file, content.modified);
            let number = file.metadata().expect("just made").ino();
            numbers.insert(path, number);
            let model = state.model(number);
            model.modified = content.modified;
            model.synced = content;
        }
        for (folder, names) in &mut after {
            for (name, entry) in names {
                let path = if folder.is_empty() {
                    name.clone()
                } else {
                    format!("{folder}/{name}")
                };
                if let (Entry::File(number), Some(new)) = (entry, numbers.get(&path)) {
                    *number = *new;
                }
            }
        }
        state.folders = after;
    }
}

impl State {
    fn model(&mut self, number: u64) -> &mut Model {
        let next = &mut self.next_number;
        self.files.entry(number).or_insert_with(|| {
            *next += 1;
            Model {
                number: *next,
                synced: Content::default(),
                since: Vec::new(),
                modified: 0,
            }
        })
    }

    /// What is left of a file; `len` is how long it was.
    fn survives(&mut self, number: u64, len: Option<u64>) -> Content {
        let Some(model) = self.files.get(&number) else {
            return Content::default();
        };
        let random = &mut self.random;
        let mut bytes = model.synced.bytes.clone();
        let written = model
            .since
            .iter()
            .map(|write| write.offset + write.bytes.len() as u64)
            .max();
        let now = len.or(written).unwrap_or(bytes.len() as u64) as usize;
        if now != bytes.len() && random.percent(60) {
            bytes.resize(now, 0);
        }
        for write in model.since.iter().filter(|write| !write.doomed) {
            let reaches = match random.below(4) {
                0 => 0,
                1 => random.below(write.bytes.len() / SECTOR_LEN + 1) * SECTOR_LEN,
                _ => write.bytes.len(),
            };
            let start = (write.offset as usize).min(bytes.len());
            let end = (start + reaches).min(bytes.len());
            bytes[start..end].copy_from_slice(&write.bytes[..end - start]);
        }
        let modified = match random.percent(50) {
            true => model.modified,
            false => model.synced.modified,
        };
        Content { bytes, modified }
    }
}

impl simulated::Disk for Disk {
    fn step(&self) {
        let mut state = self.state.borrow_mut();
        state.steps += 1;
        if let Some(left) = state.killed_after {
            state.killed_after = left.checked_sub(1);
            if left == 0 {
                drop(state);
                std::panic::resume_unwind(Box::new(Killed));
            }
        }
    }

    fn sync(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(fd)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return self.sync_folder(fd);
        }
        let mut state = self.state.borrow_mut();
        let (fails, now) = (state.syncs_fail && state.random.percent(50), state.now);
        let model = state.model(stat.st_ino);
        if fails {
            model.since.iter_mut().for_each(|write| write.doomed = true);
            return Err(Errno::IO);
        }
        model
            .synced
            .bytes
            .resize(usize::try_from(stat.st_size).expect("a small file"), 0);
        // What an earlier sync has lost is not written by this one.
        let (doomed, written): (Vec<Write>, Vec<Write>) = std::mem::take(&mut model.since)
            .into_iter()
            .partition(|write| write.doomed);
        model.since = doomed;
        for write in written {
            let start = write.offset as usize;
            model.synced.bytes[start..start + write.bytes.len()].copy_from_slice(&write.bytes);
        }
        model.synced.modified = if model.modified == 0 { now } else { model.modified };
        Ok(())
    }

    fn forget_cached(&self, fd: BorrowedFd<'_>) {
        let Ok(stat) = rustix::fs::fstat(fd) else { return };
        let path = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let mut state = self.state.borrow_mut();
        let model = state.model(stat.st_ino);
        if !model.since.iter().any(|write| write.doomed) {
            return;
        }
        // What the page cache alone had is gone; what is still to be written is not.
        let mut bytes = model.synced.bytes.clone();
        bytes.resize(usize::try_from(stat.st_size).expect("a small file"), 0);
        model.since.retain(|write| !write.doomed);
        for write in &model.since {
            let start = write.offset as usize;
            bytes[start..start + write.bytes.len()].copy_from_slice(&write.bytes);
        }
        let modified = model.modified;
        state.lost_at = Some(state.now);
        drop(state);
        if let Ok(file) = path.and_then(|path| File::options().write(true).open(path)) {
            file.write_all_at(&bytes, 0)
                .expect("a file in memory takes what it is given");
            set_modified(&file, modified);
        }
    }
}

impl Disk {
    fn sync_folder(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let path = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let path = path.map_err(|_| Errno::IO)?;
        let folder = text(path.strip_prefix(&self.dir).expect("a folder of this disk"));
        let names = self.names(&folder);
        let mut state = self.state.borrow_mut();
        if state.syncs_fail && state.random.percent(50) {
            return Err(Errno::IO);
        }
        state.folders.insert(folder, names);
        Ok(())
    }
}

fn set_modified(file: impl AsFd, now: u64) {
    let time = Timespec {
        tv_sec: BEGAN + i64::try_from(now / SECOND).expect("a short life"),
        tv_nsec: (now % SECOND) as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(file, &times).expect("a file of our own");
}

fn text(path: &Path) -> String {
    path.to_str().expect("plain names").to_owned()
}
