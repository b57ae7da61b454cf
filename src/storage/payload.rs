//! The files of one torrent as one run of bytes, read from disk.
//!
//! [`Payload::look`] opens and measures every file once, so that a torrent whose files are absent costs no read. After
//! that files are opened when their bytes are asked for, one at a time, which suits reading from front to back. Nothing
//! found then was promised before: a file may shrink, vanish or stop being readable at any moment, and all of that only
//! changes its [`FileState`].

use std::fs::File;
use std::io::IoSliceMut;
use std::ops::Range;

use super::layout::{Layout, Span};
use super::root::{OpenError, Root};
use crate::proto::metainfo::FileEntry;
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};

/// Failing reads of one file after which the rest of it is left alone: a dying disk takes seconds for each.
const READ_ERRORS_MAX: u32 = 16;

/// Files shorter than this are read whole before the kernel's read-ahead could matter.
const READ_AHEAD_FROM: u64 = 1 << 20;

/// `RWF_DONTCACHE` (Linux 6.14, uncached buffered reads), which rustix does not name yet: what the read had to fetch
/// leaves the page cache again, so that checking a large torrent does not push out what others have there.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// What a file on disk is, compared with what the torrent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// A regular file of the right length. Whether its bytes are right, its pieces tell.
    Ok,
    /// There is no such file.
    Missing,
    /// It ends too early.
    Shorter {
        /// Bytes it has.
        have: u64,
        /// Bytes it should have.
        want: u64,
    },
    /// It goes on after its end. Its pieces are good all the same.
    Longer {
        /// Bytes it has.
        have: u64,
        /// Bytes it should have.
        want: u64,
    },
    /// Something else is in its place: a folder, a symbolic link, a FIFO...
    NotRegular(OpenError),
    /// The system refused to open it or to read from it.
    Unreadable(OpenError),
}

impl FileState {
    /// Whether the file is as it should be, as far as can be seen from outside.
    pub fn is_ok(&self) -> bool {
        *self == Self::Ok
    }

    fn of_len(have: u64, want: u64) -> Self {
        match have.cmp(&want) {
            std::cmp::Ordering::Less => Self::Shorter { have, want },
            std::cmp::Ordering::Equal => Self::Ok,
            std::cmp::Ordering::Greater => Self::Longer { have, want },
        }
    }
}

impl std::fmt::Display for FileState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Missing => f.write_str("missing"),
            Self::Shorter { have, want } => write!(f, "too short: {have} of {want} bytes"),
            Self::Longer { have, want } => write!(f, "too long: {have} bytes instead of {want}"),
            Self::NotRegular(error) | Self::Unreadable(error) => write!(f, "{error}"),
        }
    }
}

impl From<OpenError> for FileState {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Missing => Self::Missing,
            OpenError::NotAFolder | OpenError::SymbolicLink | OpenError::NotRegular(_) | OpenError::Outside => {
                Self::NotRegular(error)
            }
            OpenError::Denied | OpenError::TooManyOpen | OpenError::Other(_) => Self::Unreadable(error),
        }
    }
}

/// See the head of this file.
pub(super) struct Payload<'a> {
    root: &'a Root,
    layout: &'a Layout,
    files: &'a [FileEntry],
    states: Vec<FileState>,
    /// How many bytes of each file are worth asking for.
    readable: Vec<u64>,
    open: Option<OpenFile>,
    /// [`DONTCACHE`] until a filesystem or kernel refuses it.
    read_flags: ReadWriteFlags,
}

struct OpenFile {
    index: u32,
    file: File,
    errors: u32,
}

impl<'a> Payload<'a> {
    /// Looks at every file. `keep_going` is asked before each; `None` when it says no.
    pub(super) fn look(
        root: &'a Root,
        layout: &'a Layout,
        files: &'a [FileEntry],
        keep_going: impl Fn() -> bool,
    ) -> Option<Self> {
        let mut states = Vec::with_capacity(files.len());
        for entry in files {
            if !keep_going() {
                return None;
            }
            states.push(if entry.pad { FileState::Ok } else { measure(root, entry) });
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
            states,
            readable,
            open: None,
            read_flags: DONTCACHE,
        })
    }

    /// Whether all files that these bytes lie in reach that far.
    pub(super) fn is_there(&self, offset: u64, len: u64) -> bool {
        self.layout
            .spans(offset, len)
            .all(|span| span.pad || span.offset + span.len <= self.readable[span.file as usize])
    }

    /// Fills `buffer` with the bytes from `offset` on. Ranges of the torrent that could not be read are added to `gaps`;
    /// the states of their files then say why.
    pub(super) fn read(&mut self, offset: u64, buffer: &mut [u8], gaps: &mut Vec<Range<u64>>) {
        let layout = self.layout;
        let mut at = 0;
        for span in layout.spans(offset, buffer.len() as u64) {
            // A span is no longer than the buffer.
            let part = &mut buffer[at..at + span.len as usize];
            if span.pad {
                part.fill(0);
            } else if let Err(state) = self.read_span(&span, part) {
                self.states[span.file as usize] = state;
                let start = offset + at as u64;
                gaps.push(start..start + span.len);
            }
            at += span.len as usize;
        }
    }

    /// What each file has turned out to be, in the torrent's order.
    pub(super) fn states(&self) -> &[FileState] {
        &self.states
    }

    pub(super) fn into_states(self) -> Vec<FileState> {
        self.states
    }

    fn read_span(&mut self, span: &Span, part: &mut [u8]) -> Result<(), FileState> {
        let index = span.file as usize;
        if span.offset + span.len > self.readable[index] {
            return Err(self.states[index]);
        }
        let want = self.files[index].len;
        let mut open = match self.open.take().filter(|open| open.index == span.file) {
            Some(open) => open,
            None => self.open_file(span.file).map_err(|error| {
                self.readable[index] = 0;
                FileState::from(error)
            })?,
        };
        let result = read_exact_at(&open.file, part, span.offset, &mut self.read_flags);
        let result = match result {
            Ok(true) => Ok(()),
            Ok(false) => {
                // It was longer a moment ago. What is left of it counts.
                let have = open.file.metadata().map_or(0, |metadata| metadata.len());
                self.readable[index] = have.min(want);
                // It may even have grown back in between; a short read says that these bytes were not there.
                Err(FileState::Shorter {
                    have: have.min(span.offset + span.len - 1),
                    want,
                })
            }
            Err(errno) => {
                open.errors += 1;
                if open.errors >= READ_ERRORS_MAX {
                    self.readable[index] = 0;
                }
                Err(FileState::Unreadable(OpenError::Other(errno)))
            }
        };
        self.open = Some(open);
        result
    }

    fn open_file(&self, index: u32) -> Result<OpenFile, OpenError> {
        let entry = &self.files[index as usize];
        let file = self.root.open_file(&entry.path)?;
        if entry.len >= READ_AHEAD_FROM {
            // Advice only: some filesystems take none.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        }
        Ok(OpenFile { index, file, errors: 0 })
    }
}

fn measure(root: &Root, entry: &FileEntry) -> FileState {
    match root.open_file(&entry.path) {
        Err(error) => error.into(),
        Ok(file) => match file.metadata() {
            Ok(metadata) => FileState::of_len(metadata.len(), entry.len),
            Err(error) => FileState::Unreadable(OpenError::Other(Errno::from_io_error(&error).unwrap_or(Errno::IO))),
        },
    }
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
    use super::*;
    use crate::proto::path::RelPath;
    use std::path::Path;

    fn entry(path: &str, len: u64) -> FileEntry {
        FileEntry {
            path: RelPath::parse(path).unwrap(),
            len,
            offset: 0,
            pad: false,
        }
    }

    /// Looks at `len` bytes of `path` below `dir`, does something to them, then reads them all.
    fn read_after(dir: &Path, len: u64, change: impl FnOnce(&mut Payload<'_>)) -> FileState {
        let root = Root::open(dir).unwrap();
        let files = [entry("mem", len)];
        let layout = Layout::of_files(&files);
        let mut payload = Payload::look(&root, &layout, &files, || true).unwrap();
        change(&mut payload);
        let mut gaps = Vec::new();
        payload.read(0, &mut vec![0; len as usize], &mut gaps);
        assert_eq!(gaps, vec![Range { start: 0, end: len }]);
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
                payload.read(0, &mut [0; 10], &mut Vec::new());
                assert!(payload.is_there(0, 100));
            }
            payload.read(0, &mut [0; 10], &mut Vec::new());
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
