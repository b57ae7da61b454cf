//! Payload read once more, long after it was judged, to find out what a disk has lost: one piece at a time, one read after
//! the other, past the page cache, since it is the disk that is asked.
//!
//! Blocks, and gives way to checks' and peers' reads by the [`Throttle`] of the checks. Nothing is decided here about what
//! becomes of a piece that is wrong.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::layout::Layout;
use super::root::{OpenError, Root};
use super::throttle::Throttle;
use crate::hashing::Hasher;
use crate::proto::geometry::PieceIndex;
use crate::proto::metainfo::Metainfo;
use rustix::fs::{Advice, OFlags};
use rustix::io::Errno;

/// What is read at once.
const READ_LEN: usize = 1 << 20;

/// What direct reads are aligned to, in the file and in memory.
const ALIGNMENT: usize = 4096;

/// How long to wait before it is looked again whether to go on.
const PAUSE: Duration = Duration::from_millis(100);

/// What a piece was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reread {
    /// Right.
    Right,
    /// Wrong.
    Wrong,
    /// It cannot be read, and why.
    Unreadable(String),
    /// Nobody wants to know any more.
    Stopped,
}

/// Reads pieces of one torrent.
#[derive(Debug)]
pub struct Rereader<'a> {
    root: &'a Root,
    meta: &'a Metainfo,
    layout: Layout,
    buffer: Vec<u8>,
    /// The file that was read last, and whether it is read past the page cache.
    open: Option<(u32, File, bool)>,
}

impl<'a> Rereader<'a> {
    /// Of this torrent, below this folder.
    #[must_use]
    pub fn new(root: &'a Root, meta: &'a Metainfo) -> Self {
        Self {
            root,
            meta,
            layout: Layout::new(meta),
            buffer: vec![0; READ_LEN + 3 * ALIGNMENT],
            open: None,
        }
    }

    /// What a file looks like now: its length, and when it was modified, in ns since 1970.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn look(&self, file: u32) -> Result<(u64, i64), OpenError> {
        let file = self.root.open_file(&self.meta.files[file as usize].path)?;
        let found = file
            .metadata()
            .map_err(|error| OpenError::Other(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        let modified = found
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(found.mtime_nsec());
        Ok((found.len(), modified))
    }

    /// Reads a piece and hashes it, as long as `keep_going` says so. Rests between reads while others read.
    pub fn reread(&mut self, piece: PieceIndex, throttle: &Throttle, keep_going: &dyn Fn() -> bool) -> Reread {
        let geometry = &self.meta.geometry;
        let (offset, len) = (geometry.piece_offset(piece), u64::from(geometry.piece_len(piece)));
        let spans: Vec<_> = self.layout.spans(offset, len).collect();
        let mut hasher = Hasher::new();
        for span in spans {
            let (mut at, mut left) = (span.offset, span.len);
            while left > 0 {
                while throttle.is_paused() && keep_going() {
                    std::thread::sleep(PAUSE);
                }
                if !keep_going() {
                    return Reread::Stopped;
                }
                let len = left.min(READ_LEN as u64) as usize;
                if span.pad {
                    self.buffer[..len].fill(0);
                    hasher.update(&self.buffer[..len]);
                } else {
                    let began = Instant::now();
                    match self.read(span.file, at, len) {
                        Ok(from) => hasher.update(&self.buffer[from..from + len]),
                        Err(error) => {
                            self.open = None;
                            let path = &self.meta.files[span.file as usize].path;
                            return Reread::Unreadable(format!("{path}: {error}"));
                        }
                    }
                    let now = Instant::now();
                    if throttle.is_beside_peers(now) {
                        std::thread::sleep(throttle.rest(now - began));
                    }
                }
                (at, left) = (at + len as u64, left - len as u64);
            }
        }
        match hasher.finish() == *self.meta.piece_hashes.get(piece) {
            true => Reread::Right,
            false => Reread::Wrong,
        }
    }

    /// Reads a stretch of a file from the disk. Gives where in the buffer it is.
    fn read(&mut self, index: u32, offset: u64, len: usize) -> Result<usize, OpenError> {
        if self.open.as_ref().is_none_or(|(open, _, _)| *open != index) {
            let file = self.root.open_file(&self.meta.files[index as usize].path)?;
            let direct = rustix::fs::fcntl_setfl(&file, OFlags::DIRECT).is_ok();
            self.open = Some((index, file, direct));
        }
        let Some((_, file, direct)) = &mut self.open else {
            return Err(OpenError::Missing); // Opened above.
        };
        if *direct {
            match read_aligned(file, &mut self.buffer, offset, len) {
                Err(OpenError::Other(Errno::INVAL)) => {
                    // It asks for another alignment, or takes the flag at an open only.
                    rustix::fs::fcntl_setfl(&*file, OFlags::empty()).map_err(OpenError::Other)?;
                    *direct = false;
                }
                read => return read,
            }
        }
        // What is in the page cache says nothing of the disk. What is dirty stays there, and is young.
        let forget =
            |file: &File| rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(len as u64), Advice::DontNeed);
        let _ = forget(file);
        fill(file, &mut self.buffer[..len], offset, len)?;
        let _ = forget(file);
        Ok(0)
    }
}

fn read_aligned(file: &File, buffer: &mut [u8], offset: u64, len: usize) -> Result<usize, OpenError> {
    let base = buffer.as_ptr().align_offset(ALIGNMENT);
    let lead = (offset % ALIGNMENT as u64) as usize;
    let whole = (lead + len).next_multiple_of(ALIGNMENT);
    fill(file, &mut buffer[base..base + whole], offset - lead as u64, lead + len)?;
    Ok(base + lead)
}

/// Reads until at least `enough` bytes are there.
fn fill(file: &File, buffer: &mut [u8], offset: u64, enough: usize) -> Result<(), OpenError> {
    let mut done = 0;
    while done < enough {
        // Of a direct read what follows a short one has to begin aligned, too.
        match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
            Ok(0) => return Err(OpenError::Other(Errno::NODATA)),
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(OpenError::Other(errno)),
        }
    }
    Ok(())
}
