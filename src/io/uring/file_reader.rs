//! Reads of files for a thread that is no shard: many in flight on a ring of its own.
//!
//! Where a shard moves a pool buffer into each read, this reader fills one buffer from several files at once: a
//! [`Gather`]. It owns the buffer and the files until the last part has ended, and then gives them back. Nothing here
//! retries or interprets: a short read and an error are the caller's business.
//!
//! Reads carry the lowest best-effort I/O priority, which disk schedulers that know priorities (bfq, mq-deadline) heed.

use std::collections::VecDeque;
use std::fs::File;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use rustix::io::Errno;
use slab::Slab;

use super::completions::result_of;
use super::registered::LOCKED_BESIDE;
use super::setup::{self, Features, SetupError};
use super::{DROP_PATIENCE, IOWQ_WORKERS_MAX};

/// `IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 7)`, linux/ioprio.h. Not the idle class, which a busy disk never serves.
const LOWEST_BEST_EFFORT: u16 = 2 << 13 | 7;

/// `RWF_DONTCACHE` (Linux 6.14), which neither libc nor rustix names yet.
const DONTCACHE: i32 = 0x80;

/// One stretch of a file that goes to one stretch of a buffer.
#[derive(Debug)]
pub struct Part {
    /// A regular file opened for reading; with `O_DIRECT`, `offset`, `len` and the memory have to be aligned.
    pub file: Arc<File>,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Where in the buffer, in bytes.
    pub at: usize,
    /// How much, in bytes.
    pub len: usize,
    /// What the read has to fetch leaves the page cache again (`RWF_DONTCACHE`).
    pub dont_cache: bool,
    /// Bytes read, once it has ended; fewer than asked at the end of the file, or whenever the kernel likes.
    pub result: Result<usize, Errno>,
}

/// One buffer that is filled by several reads.
#[derive(Debug)]
pub struct Gather {
    /// Chosen by the caller.
    pub tag: u64,
    /// What is filled. Bytes of no part keep their value.
    pub buf: BytesMut,
    /// From where. May not be empty.
    pub parts: Vec<Part>,
}

struct InFlight {
    gather: Gather,
    parts_left: usize,
}

/// See the head of this file. Belongs to the thread that made it.
pub struct FileReader {
    /// Closed first, by hand, in `drop`.
    ring: ManuallyDrop<IoUring>,
    /// Owns what the kernel may touch, until the last part of a gather has ended.
    gathers: ManuallyDrop<Slab<InFlight>>,
    /// Parts that have not been handed over: slot of their gather, and their place in it.
    waiting: VecDeque<(usize, usize)>,
    parts_in_flight: usize,
    entries: usize,
    /// `IORING_SETUP_SINGLE_ISSUER`: only the thread that made the ring may submit.
    _of_this_thread: PhantomData<*const ()>,
}

impl FileReader {
    /// Makes a ring for the calling thread that keeps up to `entries` reads in flight.
    ///
    /// # Errors
    /// With cause and remedy, when there is no io_uring to be had.
    pub fn new(entries: u32) -> Result<Self, SetupError> {
        let (ring, _) = setup::ring(entries, Features::ALL, LOCKED_BESIDE)?;
        let mut workers = IOWQ_WORKERS_MAX;
        ring.submitter()
            .register_iowq_max_workers(&mut workers)
            .map_err(|error| setup::other("bound the ring's worker threads", &error))?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            gathers: ManuallyDrop::new(Slab::new()),
            waiting: VecDeque::new(),
            parts_in_flight: 0,
            entries: entries as usize,
            _of_this_thread: PhantomData,
        })
    }

    /// Gathers that have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.gathers.len()
    }

    /// Takes a gather. It starts with the next [`FileReader::turn`].
    ///
    /// # Panics
    /// When it has no part, or a part does not lie in the buffer.
    pub fn submit(&mut self, gather: Gather) {
        let buf_len = gather.buf.len();
        let in_buf = |part: &Part| part.at.checked_add(part.len).is_some_and(|end| end <= buf_len);
        assert!(
            !gather.parts.is_empty() && gather.parts.iter().all(in_buf),
            "parts outside of a buffer of {buf_len} bytes: {:?}",
            gather.parts
        );
        let parts_left = gather.parts.len();
        let slot = self.gathers.insert(InFlight { gather, parts_left });
        self.waiting.extend((0..parts_left).map(|part| (slot, part)));
    }

    /// Starts what was submitted, waits up to `at_most` for a read to end if none has, and appends the gathers that are
    /// over to `out`.
    ///
    /// # Errors
    /// The ring is broken. What is in flight is then given up.
    pub fn turn(&mut self, at_most: Duration, out: &mut Vec<Gather>) -> Result<(), Errno> {
        let mut at_most = Timespec::from(at_most);
        loop {
            self.push_waiting();
            if self.parts_in_flight == 0 {
                return Ok(());
            }
            if !self.ring.completion().is_empty() {
                at_most = Timespec::from(Duration::ZERO);
            }
            self.enter(&at_most)?;
            self.reap(out);
            // Reads of the page cache end at once and make room for those that wait.
            let submission = self.ring.submission();
            let more = submission.cq_overflow() || submission.taskrun();
            drop(submission);
            let full = self.parts_in_flight == self.entries;
            if !more && (self.waiting.is_empty() || full) {
                return Ok(());
            }
            at_most = Timespec::from(Duration::ZERO);
        }
    }

    fn push_waiting(&mut self) {
        while self.parts_in_flight < self.entries
            && let Some((slot, index)) = self.waiting.pop_front()
        {
            let Some(InFlight { gather, .. }) = self.gathers.get_mut(slot) else {
                unreachable!("a gather stays until its parts have ended");
            };
            let part = &gather.parts[index];
            // The range was checked by `submit`.
            let to = gather.buf[part.at..part.at + part.len].as_mut_ptr();
            let len = u32::try_from(part.len).expect("a read is shorter than 4 GiB");
            let entry = opcode::Read::new(Fd(part.file.as_raw_fd()), to, len)
                .offset(part.offset)
                .ioprio(LOWEST_BEST_EFFORT)
                .rw_flags(if part.dont_cache { DONTCACHE } else { 0 })
                .build()
                .user_data((slot as u64) << 32 | index as u64);
            // SAFETY: `gathers` owns the buffer and holds the file open until the completion of this read is reaped; the
            // buffer's memory does not move when the gather does, and nobody looks at it meanwhile.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_err() {
                // Cannot be: there are as many entries as reads in flight. It would wait its turn.
                self.waiting.push_front((slot, index));
                return;
            }
            self.parts_in_flight += 1;
        }
    }

    fn enter(&mut self, at_most: &Timespec) -> Result<(), Errno> {
        let args = SubmitArgs::new().timespec(at_most);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // Nothing came in time; a signal; the kernel wants completions reaped first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            },
        }
    }

    fn reap(&mut self, out: &mut Vec<Gather>) {
        while let Some(cqe) = self.ring.completion().next() {
            let (slot, index) = ((cqe.user_data() >> 32) as usize, cqe.user_data() as u32 as usize);
            let Some(InFlight { gather, parts_left }) = self.gathers.get_mut(slot) else {
                continue; // The end of a cancellation.
            };
            gather.parts[index].result = result_of(cqe.result()).map(|len| len as usize);
            *parts_left -= 1;
            self.parts_in_flight -= 1;
            if *parts_left == 0 {
                out.push(self.gathers.remove(slot).gather);
            }
        }
    }
}

impl Drop for FileReader {
    fn drop(&mut self) {
        let deadline = Instant::now() + DROP_PATIENCE;
        self.waiting.clear();
        let mut out = Vec::new();
        while self.parts_in_flight > 0 && Instant::now() < deadline {
            // No gather has this slot.
            let all = opcode::AsyncCancel2::new(CancelBuilder::any())
                .build()
                .user_data(u64::MAX);
            // SAFETY: a cancellation points to no memory.
            let _ = unsafe { self.ring.submission().push(&all) };
            if self.turn(Duration::from_millis(100), &mut out).is_err() {
                break;
            }
        }
        // SAFETY: neither field is used again; the ring is closed before what it points to is freed.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if self.parts_in_flight == 0 {
            // SAFETY: as above. Nothing is in flight, so the kernel touches none of it; otherwise it is leaked.
            unsafe { ManuallyDrop::drop(&mut self.gathers) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    fn part(file: &Arc<File>, offset: u64, at: usize, len: usize) -> Part {
        Part {
            file: Arc::clone(file),
            offset,
            at,
            len,
            dont_cache: false,
            result: Ok(0),
        }
    }

    fn gather(tag: u64, len: usize, parts: Vec<Part>) -> Gather {
        let buf = BytesMut::from(&*vec![b'-'; len]);
        Gather { tag, buf, parts }
    }

    fn all(reader: &mut FileReader) -> Vec<Gather> {
        let mut out = Vec::new();
        while reader.in_flight() > 0 {
            reader.turn(Duration::from_secs(20), &mut out).unwrap();
        }
        out.sort_by_key(|gather| gather.tag);
        out
    }

    #[test]
    fn a_buffer_is_filled_from_several_files_and_says_what_was_short() {
        let (one, two) = (file(b"0123456789"), file(b"abc"));
        let mut reader = FileReader::new(4).unwrap();
        let parts = vec![part(&one, 2, 1, 3), part(&two, 0, 4, 5), part(&two, 9, 9, 2)];
        reader.submit(gather(7, 11, parts));
        let [Gather { tag: 7, buf, parts }] = &all(&mut reader)[..] else {
            panic!("one gather");
        };
        assert_eq!(buf[..], *b"-234abc----");
        let results: Vec<_> = parts.iter().map(|part| part.result).collect();
        assert_eq!(results, [Ok(3), Ok(3), Ok(0)]);
    }

    #[test]
    fn more_reads_than_the_ring_has_entries_take_turns() {
        let bytes: Vec<u8> = (0..=255).collect();
        let one = file(&bytes);
        let mut reader = FileReader::new(2).unwrap();
        for tag in 0..16 {
            let parts = (0..16).map(|at| part(&one, tag * 16 + at as u64, at, 1)).collect();
            reader.submit(gather(tag, 16, parts));
        }
        let read: Vec<u8> = all(&mut reader).into_iter().flat_map(|gather| gather.buf).collect();
        assert_eq!(read, bytes);
    }

    #[test]
    fn an_error_belongs_to_its_part() {
        let (good, bad) = (file(b"good"), Arc::new(File::open("/proc/self/mem").unwrap()));
        let mut reader = FileReader::new(4).unwrap();
        reader.submit(gather(0, 8, vec![part(&bad, 0, 0, 4), part(&good, 0, 4, 4)]));
        let done = all(&mut reader);
        assert_eq!(done[0].parts[0].result, Err(Errno::IO));
        assert_eq!(done[0].parts[1].result, Ok(4));
        assert_eq!(&done[0].buf[4..], b"good");
    }

    #[test]
    fn a_reader_is_dropped_while_reads_are_in_flight() {
        let (read_end, _write_end) = rustix::pipe::pipe().unwrap();
        let never = Arc::new(File::from(read_end));
        let mut reader = FileReader::new(4).unwrap();
        reader.submit(gather(0, 4, vec![part(&never, u64::MAX, 0, 4)]));
        reader.turn(Duration::ZERO, &mut Vec::new()).unwrap();
        assert_eq!(reader.in_flight(), 1);
        drop(reader);
        assert_eq!(Arc::strong_count(&never), 1, "nothing was left behind");
    }

    #[test]
    fn a_turn_ends_while_more_reads_hang_than_the_ring_has_entries() {
        let (read_end, _write_end) = rustix::pipe::pipe().unwrap();
        let never = Arc::new(File::from(read_end));
        let mut reader = FileReader::new(2).unwrap();
        let parts = (0..5).map(|at| part(&never, u64::MAX, at, 1)).collect();
        reader.submit(gather(0, 5, parts));
        let mut out = Vec::new();
        reader.turn(Duration::ZERO, &mut out).unwrap();
        reader.turn(Duration::from_millis(1), &mut out).unwrap();
        assert_eq!((out.len(), reader.in_flight()), (0, 1));
    }

    #[test]
    #[should_panic(expected = "outside of a buffer")]
    fn a_part_outside_of_its_buffer_is_refused() {
        let mut reader = FileReader::new(1).unwrap();
        reader.submit(gather(0, 4, vec![part(&file(b""), 0, 2, 3)]));
    }
}
