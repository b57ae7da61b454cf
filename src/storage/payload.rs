//! The files of one torrent as one run of bytes, read from disk.
//!
//! [`Payload::look`] opens and measures every file once, under its final name or that of what is not complete, so that a
//! torrent whose files are absent costs no read. After that files are opened when their bytes are asked for, and a few are kept open. Nothing found then was promised before:
//! a file may shrink, vanish or stop being readable at any moment, and all of that only changes its [`FileState`].
//!
//! A stretch of the torrent is read in two steps: [`Payload::plan`] says which parts of which files belong where in a
//! buffer, a ring carries that out, and [`Payload::finish`] judges what came of it. Whatever a ring did not do in one go
//! (a short read, an error, an alignment that was refused) is done again plainly, and only that has the last word.
//!
//! Two ways lead to the bytes. What is in the page cache is copied from there, by the hashing workers themselves where a
//! whole piece of it is ([`Payload::cached`]). What is not is read past it with
//! `O_DIRECT`, which costs a tenth of the processor time (PERF.md) and leaves the cache as it was; where that cannot be
//! had, and for small files, the read asks for the same with `RWF_DONTCACHE`.

mod durable;
mod plan;
mod state;

pub(super) use plan::Plan;
pub use state::FileState;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fs::{File, Metadata};
use std::io::IoSliceMut;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::SystemTime;

use super::cached::{CachedBytes, CachedPart};
use super::holes::Stretch;
use super::layout::{Layout, Span};
use super::part::{self, PartNames, Seen};
use super::root::{OpenError, Root};
use crate::io::uring::page_cache;
use crate::proto::metainfo::FileEntry;
use crate::proto::path::RelPath;
use crate::session::FileStamp;
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

/// Failing reads of one file after which the rest of it is left alone: a dying disk takes seconds for each.
const READ_ERRORS_MAX: u32 = 16;

/// The longest tick of a filesystem's clock (FAT).
const TICK_SECONDS: i64 = 2;

/// For how long a file counts as changed lately.
pub(super) const YOUNG_SECONDS: u64 = 120;

/// Files kept open beside those being read.
const FILES_OPEN_MAX: usize = 4;

/// Parts of one stretch at most, each with its file open; further ones are read at once, plainly.
pub(super) const PARTS_MAX: usize = 4;

/// What direct reads are aligned to, in the file and in memory: no filesystem in use asks for more than a page.
pub(super) const ALIGNMENT: usize = 4096;

/// Shorter stretches of a file are not worth a direct read.
const DIRECT_FROM: u64 = 64 << 10;

/// What a buffer needs beyond the stretch it is to hold, so that every part of at least [`DIRECT_FROM`] fits aligned
/// however its file begins.
pub(super) const fn slack(stretch_len: usize) -> usize {
    ALIGNMENT + (stretch_len / DIRECT_FROM as usize + 1) * 3 * ALIGNMENT
}

/// `RWF_DONTCACHE` (Linux 6.14, uncached buffered reads), which rustix does not name yet: what the read had to fetch
/// leaves the page cache again, so that checking a large torrent does not push out what others have there.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// See the head of this file.
pub(super) struct Payload<'a> {
    root: &'a Root,
    layout: &'a Layout,
    files: &'a [FileEntry],
    /// What files are called that are not complete, if they are looked for.
    names: Option<&'a PartNames>,
    /// Which of the files lie under such a name.
    parts: Vec<bool>,
    states: Vec<FileState>,
    /// What each file looked like at first, if another change would be seen by it.
    stamps: Vec<Option<FileStamp>>,
    /// When each file was modified, as it was at first and still is.
    modified: Vec<Option<i64>>,
    /// What lay in the place of each file at first.
    seen: Vec<Seen>,
    /// Files that were changed so lately that not all of them may be on the disk.
    young: Vec<u32>,
    /// Those of them that could not be synced.
    unsynced: Vec<u32>,
    /// How many bytes of each file are worth asking for.
    readable: Vec<u64>,
    /// The one used last at the end.
    open: Vec<OpenFile>,
    /// Failing reads, by file.
    errors: HashMap<u32, u32>,
    /// [`DONTCACHE`] until a filesystem or kernel refuses it.
    read_flags: ReadWriteFlags,
    /// Whether `O_DIRECT` is tried.
    direct: bool,
    /// The hole that was looked for last, or the data there, and in which file.
    stretch: Option<(u32, Stretch)>,
}

struct OpenFile {
    index: u32,
    file: Arc<File>,
    /// The same with `O_DIRECT`, once that was wanted.
    direct: Option<Arc<File>>,
}
impl<'a> Payload<'a> {
    /// Looks at every file; with `names` also under the name that it has while it is not complete. `keep_going` is asked
    /// before each; `None` when it says no.
    pub(super) fn look(
        root: &'a Root,
        layout: &'a Layout,
        files: &'a [FileEntry],
        names: Option<&'a PartNames>,
        keep_going: impl Fn() -> bool,
    ) -> Option<Self> {
        Self::look_until(root, layout, files, names, keep_going, |_| false)
    }

    /// The same. `is_enough` is asked behind each file that is no padding, and `None` when it says yes, too.
    pub(super) fn look_until(
        root: &'a Root,
        layout: &'a Layout,
        files: &'a [FileEntry],
        names: Option<&'a PartNames>,
        keep_going: impl Fn() -> bool,
        mut is_enough: impl FnMut(&FileState) -> bool,
    ) -> Option<Self> {
        let mut parts = Vec::with_capacity(files.len());
        let mut states = Vec::with_capacity(files.len());
        let mut stamps = Vec::with_capacity(files.len());
        let mut modified = Vec::with_capacity(files.len());
        let (mut young, mut seen) = (Vec::new(), Vec::with_capacity(files.len()));
        let now = SystemTime::now();
        for (index, entry) in (0..).zip(files) {
            if !keep_going() {
                return None;
            }
            let (state, metadata) = match entry.pad {
                true => (FileState::Ok, None),
                false => measure(
                    match names {
                        Some(names) => names.find(root, index, entry),
                        None => part::open(root, &entry.path),
                    },
                    entry,
                ),
            };
            if !entry.pad && is_enough(&state) {
                return None;
            }
            parts.push(metadata.as_ref().is_some_and(|found| found.part));
            if metadata
                .as_ref()
                .is_some_and(|found| !found.clean || is_young(&found.metadata, now))
            {
                young.push(index);
            }
            states.push(state);
            seen.push(
                metadata
                    .as_ref()
                    .map_or(Seen::Nothing, |found| Seen::of(&found.metadata, found.part)),
            );
            modified.push(metadata.as_ref().map(|found| stamp(&found.metadata).mtime_ns));
            stamps.push(metadata.and_then(|found| settled_stamp(&found.metadata, now)));
        }
        let readable = files
            .iter()
            .zip(&states)
            .map(|(entry, state)| readable_len(entry, state))
            .collect();
        Some(Self {
            root,
            layout,
            files,
            names,
            parts,
            states,
            stamps,
            modified,
            seen,
            young,
            unsynced: Vec::new(),
            readable,
            open: Vec::new(),
            errors: HashMap::new(),
            read_flags: DONTCACHE,
            direct: true,
            stretch: None,
        })
    }

    /// Where a file lies, as it was found at first.
    fn path(&self, index: u32) -> Cow<'a, RelPath> {
        let entry = &self.files[index as usize];
        let names = self.names.filter(|_| self.parts[index as usize]);
        match names.and_then(|names| names.get(index, entry)) {
            Some(path) => Cow::Owned(path),
            None => Cow::Borrowed(&entry.path),
        }
    }

    /// What lay in the place of each file when it was looked at first.
    pub(super) fn take_seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// Which files lie under the name of what is not complete.
    pub(super) fn parts(&self) -> &[bool] {
        &self.parts
    }

    /// Whether nothing was ever written of these bytes: all of them lie in holes of files that are not complete, but for
    /// padding. Reading them would give zeros. Of other files nothing is known: their holes are somebody's zeros.
    pub(super) fn is_hole(&mut self, offset: u64, len: u64) -> bool {
        let layout = self.layout;
        let mut found = false;
        for span in layout.spans(offset, len).filter(|span| !span.pad) {
            let known = self
                .stretch
                .filter(|(file, stretch)| *file == span.file && stretch.contains(span.offset));
            let stretch = match known {
                Some((_, stretch)) => stretch,
                None if !self.parts[span.file as usize] => return false,
                None => match self.file(span.file) {
                    Ok(file) => Stretch::at(&file, span.offset),
                    Err(_) => return false,
                },
            };
            self.stretch = Some((span.file, stretch));
            found = stretch.is_hole_until(span.offset + span.len);
            if !found {
                return false;
            }
        }
        found
    }

    /// Whether all files that these bytes lie in reach that far.
    pub(super) fn is_there(&self, offset: u64, len: u64) -> bool {
        self.layout
            .spans(offset, len)
            .all(|span| span.pad || span.offset + span.len <= self.readable[span.file as usize])
    }

    /// The bytes of a piece for whoever is to copy them out of the page cache, and how many files that keeps open beside
    /// the one opened last; `None` unless all of them are there.
    pub(super) fn cached(&mut self, offset: u64, len: u64) -> Option<(CachedBytes, usize)> {
        let layout = self.layout;
        let mut parts = VecDeque::new();
        let last = self.open.last().map(|open| open.index);
        let mut more_files = 0;
        for span in layout.spans(offset, len) {
            let readable = span.pad || span.offset + span.len <= self.readable[span.file as usize];
            if !readable || parts.len() == PARTS_MAX {
                return None;
            }
            let file = match span.pad {
                true => None,
                false => Some(self.file(span.file).ok()?),
            };
            more_files += usize::from(file.is_some() && last != Some(span.file));
            if file
                .as_ref()
                .is_some_and(|file| !page_cache::is_cached(file, span.offset, span.len))
            {
                return None;
            }
            let (offset, len) = (span.offset, span.len);
            parts.push_back(CachedPart { file, offset, len });
        }
        Some((CachedBytes::new(parts, len), more_files))
    }

    /// Whether the first of these bytes are in the page cache, so that no disk has to seek for them.
    pub(super) fn is_cached(&mut self, offset: u64, len: u64) -> bool {
        let Some(span) = self.layout.spans(offset, len).find(|span| !span.pad) else {
            return true;
        };
        let file = self.file(span.file);
        file.is_ok_and(|file| page_cache::is_cached(&file, span.offset, span.len))
    }
    /// Looks at every file once more, after all was read: one that was replaced, removed or cut off meanwhile is what it
    /// is now, whatever was read of it before. What reading has told of a file stays.
    pub(super) fn look_again(&mut self) {
        for (number, entry) in (0..).zip(self.files) {
            let index = number as usize;
            if entry.pad || !matches!(self.states[index], FileState::Ok | FileState::Longer { .. }) {
                continue;
            }
            let (state, found) = measure(part::open(self.root, &self.path(number)), entry);
            // What was read may be older than what is there now, or newer than what the stamp is of.
            let now = found.map(|found| stamp(&found.metadata));
            if now != self.stamps[index] {
                self.stamps[index] = None;
            }
            if now.map(|now| now.mtime_ns) != self.modified[index] {
                self.modified[index] = None;
            }
            let readable = readable_len(entry, &state);
            self.readable[index] = self.readable[index].min(readable);
            self.states[index] = state;
        }
    }

    /// Whether one of these bytes is gone, as far as the files' states tell. That a file could not be read elsewhere says
    /// nothing of them.
    pub(super) fn is_lost(&self, offset: u64, len: u64) -> bool {
        self.layout
            .spans(offset, len)
            .any(|span| match self.states[span.file as usize] {
                FileState::Ok | FileState::Longer { .. } | FileState::Unreadable(_) => false,
                FileState::Shorter { have, .. } => span.offset + span.len > have,
                FileState::Missing | FileState::NotRegular(_) => true,
            })
    }

    /// What each file has turned out to be, in the torrent's order.
    pub(super) fn states(&self) -> &[FileState] {
        &self.states
    }

    /// Whether a file is the one that had this stamp. One that btd itself was writing to is believed by its length: what
    /// was recorded of it was on the disk by then.
    pub(super) fn is_still(&self, index: usize, then: &FileStamp) -> bool {
        let len = match self.states[index] {
            FileState::Ok => self.files[index].len,
            FileState::Longer { have, .. } | FileState::Shorter { have, .. } => have,
            FileState::Missing | FileState::NotRegular(_) | FileState::Unreadable(_) => return false,
        };
        let is_of_then = then.is_being_written() || self.modified[index] == Some(then.mtime_ns);
        len == then.len && is_of_then
    }

    /// The states, when each file was modified (`None` where that changed while it was looked at, and for what is no
    /// file), and which files are not complete by their names.
    pub(super) fn into_states(self) -> (Vec<FileState>, Vec<Option<i64>>, Vec<bool>) {
        (self.states, self.modified, self.parts)
    }

    /// What each file looked like when it was first looked at; `None` for padding and what is no regular file.
    pub(super) fn stamps(&self) -> &[Option<FileStamp>] {
        &self.stamps
    }

    /// The files of these bytes.
    pub(super) fn files_of(&self, offset: u64, len: u64) -> impl Iterator<Item = usize> {
        self.layout
            .spans(offset, len)
            .filter(|span| !span.pad)
            .map(|span| span.file as usize)
    }
    /// Reads a span plainly, but for the first `have` bytes. False when it cannot be had; the state of the file then says
    /// why.
    fn read(&mut self, span: &Span, part: &mut [u8], have: usize) -> bool {
        let index = span.file as usize;
        if span.offset + span.len > self.readable[index] {
            return false; // It was found out while this read was under way.
        }
        let want = self.files[index].len;
        let state = match self.file(span.file) {
            Err(state) => state,
            Ok(file) => {
                let offset = span.offset + have as u64;
                match read_exact_at(&file, &mut part[have..], offset, &mut self.read_flags) {
                    Ok(true) => return true,
                    Ok(false) => {
                        // It was longer a moment ago. What is left of it counts.
                        let have = file.metadata().map_or(0, |metadata| metadata.len());
                        self.readable[index] = have.min(want);
                        // It may even have grown back in between; a short read says that these bytes were not there.
                        let have = have.min(span.offset + span.len - 1);
                        FileState::Shorter { have, want }
                    }
                    Err(errno) => {
                        let errors = self.errors.entry(span.file).or_default();
                        *errors += 1;
                        if *errors >= READ_ERRORS_MAX {
                            self.readable[index] = 0;
                        }
                        FileState::Unreadable(OpenError::Other(errno))
                    }
                }
            }
        };
        self.states[index] = state;
        false
    }

    /// The file, open. An error is its state from now on, and leaves nothing more to be read of it, unless it is for want
    /// of descriptors.
    fn file(&mut self, index: u32) -> Result<Arc<File>, FileState> {
        if let Some(at) = self.open.iter().position(|open| open.index == index) {
            let open = self.open.remove(at);
            let file = Arc::clone(&open.file);
            self.open.push(open);
            return Ok(file);
        }
        let file = self.root.open_file(&self.path(index)).map_err(|error| {
            let state = FileState::from(error);
            self.states[index as usize] = state;
            if error != OpenError::TooManyOpen {
                self.readable[index as usize] = 0;
            }
            state
        })?;
        let file = Arc::new(file);
        if self.open.len() == FILES_OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push(OpenFile {
            index,
            file: Arc::clone(&file),
            direct: None,
        });
        Ok(file)
    }

    /// An open file once more, for direct reads; `None` where its filesystem knows none.
    fn direct_file(&mut self, index: u32) -> Option<Arc<File>> {
        let path = self.path(index);
        let open = self.open.iter_mut().find(|open| open.index == index)?;
        if open.direct.is_none() {
            // Another open, since the flag belongs to all who share one.
            let file = self.root.open_file(&path).ok()?;
            if rustix::fs::fcntl_setfl(&file, OFlags::DIRECT).is_err() {
                self.direct = false;
                return None;
            }
            open.direct = Some(Arc::new(file));
        }
        open.direct.clone()
    }
}

/// What the system says of a regular file.
struct Found {
    metadata: Metadata,
    /// See [`page_cache::is_clean`].
    clean: bool,
    /// It is not complete, by its name.
    part: bool,
}

/// What a file is that was opened, or could not be.
fn measure(opened: Result<part::Found, OpenError>, entry: &FileEntry) -> (FileState, Option<Found>) {
    match opened {
        Err(error) => (error.into(), None),
        Ok(part::Found {
            file, metadata, part, ..
        }) => {
            let state = FileState::of_len(metadata.len(), entry.len);
            let clean = page_cache::is_clean(&file);
            (state, Some(Found { metadata, clean, part }))
        }
    }
}

fn stamp(metadata: &Metadata) -> FileStamp {
    FileStamp {
        len: metadata.len(),
        // Beyond the year 2262 all times look alike.
        mtime_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
    }
}
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The stamp of a file that was not changed within the last moments: filesystems count time in ticks, up to two seconds
/// long, and another change within the same tick would not be seen.
fn settled_stamp(metadata: &Metadata, now: SystemTime) -> Option<FileStamp> {
    let now = unix_seconds(now);
    let settled = metadata.mtime().saturating_add(TICK_SECONDS) < i64::try_from(now).unwrap_or(i64::MAX);
    settled.then(|| stamp(metadata))
}

/// Whether the kernel may not have written all of a file: it begins after 30 s (vm.dirty_expire_centisecs), and nobody can
/// set a file's change time back, as they can its modification time.
fn is_young(metadata: &Metadata, now: SystemTime) -> bool {
    let now = unix_seconds(now);
    u64::try_from(metadata.ctime()).is_ok_and(|changed| changed.saturating_add(YOUNG_SECONDS) > now)
}

fn readable_len(entry: &FileEntry, state: &FileState) -> u64 {
    match state {
        FileState::Ok | FileState::Longer { .. } => entry.len,
        FileState::Shorter { have, .. } => *have,
        FileState::Missing | FileState::NotRegular(_) | FileState::Unreadable(_) => 0,
    }
}

/// The one place where payload is read in this room. False when the file ends before the buffer does.
fn read_exact_at(
    file: &File,
    mut buffer: &mut [u8],
    mut offset: u64,
    flags: &mut ReadWriteFlags,
) -> Result<bool, Errno> {
    while !buffer.is_empty() {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, *flags) {
            Ok(0) => return Ok(false),
            Ok(len) => {
                buffer = &mut buffer[len..];
                offset += len as u64;
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) if !flags.is_empty() => {
                *flags = ReadWriteFlags::empty();
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::plan::Filled;
    use super::*;
    use std::path::Path;

    fn entry(path: &str, len: u64) -> FileEntry {
        FileEntry {
            path: RelPath::parse(path).unwrap(),
            len,
            offset: 0,
            pad: false,
        }
    }

    /// Reads the first `len` bytes without a ring.
    fn read_all(payload: &mut Payload<'_>, len: u64) -> Filled {
        let mut buffer = vec![0; len as usize + slack(len as usize)];
        let mut plan = payload.plan(0, len, &mut buffer);
        let parts = std::mem::take(&mut plan.parts);
        payload.finish(0, plan, &parts, &mut buffer)
    }

    /// Looks at `len` bytes of `path` below `dir`, does something to them, then reads them all.
    fn read_after(dir: &Path, len: u64, change: impl FnOnce(&mut Payload<'_>)) -> FileState {
        let root = Root::open(dir).unwrap();
        let files = [entry("mem", len)];
        let layout = Layout::of_files(&files);
        let mut payload = Payload::look(&root, &layout, &files, None, || true).unwrap();
        change(&mut payload);
        assert_eq!(read_all(&mut payload, len).ranges(0, len), None);
        payload.states()[0]
    }

    #[test]
    fn a_file_that_shrinks_after_the_first_look_is_too_short() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("mem");
        std::fs::write(&path, [1; 100]).unwrap();
        let shrink = |_: &mut Payload<'_>| std::fs::write(&path, [1; 40]).unwrap();
        let state = read_after(temp.path(), 100, shrink);
        assert_eq!(state, FileState::Shorter { have: 40, want: 100 });
    }

    #[test]
    fn a_file_that_vanishes_after_the_first_look_is_missing() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("mem");
        std::fs::write(&path, [1; 100]).unwrap();
        let state = read_after(temp.path(), 100, |_| std::fs::remove_file(&path).unwrap());
        assert_eq!(state, FileState::Missing);
    }

    #[test]
    fn a_failing_read_is_a_state_of_the_file_and_so_many_of_them_end_the_trying() {
        // Nothing is mapped at address 0 of a process: reading there is the plainest EIO there is.
        let state = read_after(Path::new("/proc/self"), 100, |payload| {
            payload.readable[0] = 100;
            for _ in 1..READ_ERRORS_MAX {
                read_all(payload, 10);
                assert!(payload.is_there(0, 100));
            }
            read_all(payload, 10);
            assert!(!payload.is_there(0, 100));
        });
        assert_eq!(state, FileState::Unreadable(OpenError::Other(Errno::IO)));
    }

    #[test]
    fn a_filesystem_that_refuses_uncached_reads_is_read_through_its_cache() {
        // procfs knows no RWF_DONTCACHE.
        let file = File::open("/proc/self/stat").unwrap();
        let (mut buffer, mut flags) = ([0; 1], DONTCACHE);
        assert_eq!(read_exact_at(&file, &mut buffer, 0, &mut flags), Ok(true));
        assert_eq!(flags, ReadWriteFlags::empty());
    }
}
