//! Reads the pieces of a torrent from front to back and has them hashed on the pool, many in flight.
//!
//! One loop on the calling thread: read while there are buffers, collect answers when there are none. Small pieces are
//! read many at a time, large ones in segments whose digest goes on where the segment before ended, so that the memory
//! in use depends on neither the length of a piece nor that of the torrent: at most [`BUFFER_COUNT_MAX`] buffers of
//! [`SEGMENT_LEN`]. What is to be done with each piece, and with its digest, is the [`Visitor`]'s business.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use super::payload::Payload;
use crate::hashing::pool::Refused;
use crate::hashing::{Done, Hasher, Job, Outcome, Pool, Then};
use crate::proto::geometry::{Geometry, PieceIndex};
use bytes::{Bytes, BytesMut};

/// One read: large enough to cost few system calls and little seeking, small enough to stay in the processor's cache.
pub(super) const SEGMENT_LEN: usize = 1 << 20;

/// Buffers one run may hold at most: pieces of 16 MiB then keep four lanes busy.
const BUFFER_COUNT_MAX: usize = 64;
/// Buffers one run may hold at least, so that reading and hashing overlap.
const BUFFER_COUNT_MIN: usize = 8;

/// How long the loop waits for anything before it looks whether it was cancelled.
const CANCEL_LATENCY: Duration = Duration::from_millis(50);

/// How far a check has come, for whoever watches, and the means to end it early.
#[derive(Debug, Default)]
pub struct Progress {
    bytes_done: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// Bytes of the torrent that are settled, whether they were good, bad or not there. Ends at the torrent's length.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Relaxed)
    }

    /// Makes the check end soon, with [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether [`Progress::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }
}

/// Why a run over the pieces came to no end. What is wrong with files and pieces is a result, no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// [`Progress::cancel`] was called.
    #[error("cancelled")]
    Cancelled,
    /// The hashing pool was stopped meanwhile.
    #[error("the hashing pool was stopped before all pieces were hashed")]
    PoolStopped,
}

/// What a run does with the pieces.
pub(super) trait Visitor {
    /// What is wanted once the piece has been read; `None` leaves it out.
    fn wanted(&mut self, piece: PieceIndex, payload: &Payload<'_>) -> Option<Then>;
    /// The piece could not be read.
    fn unreadable(&mut self, piece: PieceIndex);
    /// What was wanted.
    fn hashed(&mut self, piece: PieceIndex, outcome: Outcome);
}

/// Takes every piece through the visitor.
pub(super) fn run(
    geometry: &Geometry,
    payload: &mut Payload<'_>,
    pool: &Pool,
    progress: &Progress,
    visitor: &mut impl Visitor,
) -> Result<(), Error> {
    let (reply, replies) = channel();
    let mut run = Run {
        geometry,
        pool,
        progress,
        visitor,
        reply,
        replies,
        large: HashMap::new(),
        buffers: Buffers::new(
            segment_len(geometry),
            buffer_count(geometry, pool.workers() * pool.lanes()),
        ),
        jobs_out: 0,
    };
    run.all(payload)
}

/// How much is read at once: whole pieces where more than one fits, no more than the torrent has.
fn segment_len(geometry: &Geometry) -> usize {
    let piece_len = geometry.piece_len_max() as usize;
    let len = if piece_len < SEGMENT_LEN {
        SEGMENT_LEN / piece_len * piece_len
    } else {
        SEGMENT_LEN
    };
    usize::try_from(geometry.total_len()).map_or(len, |total| len.min(total))
}

/// How many buffers a run may hold: two pieces for each lane of all workers, so that the lanes are full while the next
/// pieces are read, within bounds. Several runs may be under way at once.
fn buffer_count(geometry: &Geometry, lanes: usize) -> usize {
    let piece_len = geometry.piece_len_max() as usize;
    let pieces_len = (2 * lanes).saturating_mul(piece_len);
    pieces_len
        .div_ceil(SEGMENT_LEN)
        .clamp(BUFFER_COUNT_MIN, BUFFER_COUNT_MAX)
}

struct Run<'a, V> {
    geometry: &'a Geometry,
    pool: &'a Pool,
    progress: &'a Progress,
    visitor: &'a mut V,
    reply: Sender<Done>,
    replies: Receiver<Done>,
    /// Pieces longer than a segment that have been begun, by index.
    large: HashMap<u32, Large>,
    buffers: Buffers,
    jobs_out: usize,
}

/// A piece longer than a segment.
struct Large {
    then: Then,
    /// At home; `None` while the pool has it.
    hasher: Option<Hasher>,
    /// Read, and waiting for the hasher to come home.
    waiting: VecDeque<Bytes>,
    read_to_end: bool,
    /// A segment of it could not be read.
    failed: bool,
}

/// A part of one large piece that is to be read next.
struct Cursor {
    piece: PieceIndex,
    begin: u32,
}

impl<V: Visitor> Run<'_, V> {
    fn all(&mut self, payload: &mut Payload<'_>) -> Result<(), Error> {
        let mut pieces = self.geometry.pieces().peekable();
        let mut cursor: Option<Cursor> = None;
        loop {
            if self.progress.is_cancelled() {
                return Err(Error::Cancelled);
            }
            while let Ok(done) = self.replies.try_recv() {
                self.on_done(done)?;
            }
            let more = cursor.is_some() || pieces.peek().is_some();
            if more && self.buffers.any_left() {
                match cursor.take() {
                    Some(at) => cursor = self.read_segment(at, payload)?,
                    None => cursor = self.begin_pieces(&mut pieces, payload)?,
                }
            } else if self.jobs_out > 0 {
                match self.replies.recv_timeout(CANCEL_LATENCY) {
                    Ok(done) => self.on_done(done)?,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => unreachable!("`self.reply` is a sender"),
                }
            } else {
                assert!(!more, "all buffers are out and no job that would bring one back");
                return Ok(());
            }
        }
    }

    /// Skips what is not wanted, then reads as many small pieces as follow each other and fit a buffer, or begins a
    /// large one.
    fn begin_pieces(
        &mut self,
        pieces: &mut std::iter::Peekable<impl Iterator<Item = PieceIndex>>,
        payload: &mut Payload<'_>,
    ) -> Result<Option<Cursor>, Error> {
        let mut batch: Vec<(PieceIndex, Then)> = Vec::new();
        let mut batch_len = 0;
        while let Some(&piece) = pieces.peek() {
            let piece_len = self.geometry.piece_len(piece) as usize;
            if batch_len > 0 && batch_len + piece_len > self.buffers.len {
                break;
            }
            pieces.next();
            let Some(then) = self.visitor.wanted(piece, payload) else {
                self.settle(piece);
                if batch.is_empty() {
                    // Back to the loop, which looks for cancellation: a million absent pieces are passed here.
                    return Ok(None);
                }
                break;
            };
            if piece_len > self.buffers.len {
                let hasher = Some(Hasher::new());
                let large = Large {
                    then,
                    hasher,
                    waiting: VecDeque::new(),
                    read_to_end: false,
                    failed: false,
                };
                self.large.insert(piece.get(), large);
                return Ok(Some(Cursor { piece, begin: 0 }));
            }
            batch.push((piece, then));
            batch_len += piece_len;
        }
        self.read_small(&batch, batch_len, payload)?;
        Ok(None)
    }

    fn read_small(&mut self, batch: &[(PieceIndex, Then)], len: usize, payload: &mut Payload<'_>) -> Result<(), Error> {
        let Some(&(first, _)) = batch.first() else {
            return Ok(());
        };
        let start = self.geometry.piece_offset(first);
        let mut gaps: Vec<Range<u64>> = Vec::new();
        let mut buffer = self.buffers.take();
        payload.read(start, &mut buffer[..len], &mut gaps);
        let buffer = buffer.freeze();
        for &(piece, then) in batch {
            let offset = self.geometry.piece_offset(piece);
            let end = offset + u64::from(self.geometry.piece_len(piece));
            if gaps.iter().any(|gap| gap.start < end && offset < gap.end) {
                self.visitor.unreadable(piece);
                self.settle(piece);
            } else {
                // Both lie in the buffer.
                let bytes = buffer.slice((offset - start) as usize..(end - start) as usize);
                self.submit(piece, Hasher::new(), vec![bytes], then)?;
            }
        }
        self.buffers.give_back(buffer);
        Ok(())
    }

    /// Reads the next segment of a large piece. Returns where to go on, if there is more of it.
    fn read_segment(&mut self, at: Cursor, payload: &mut Payload<'_>) -> Result<Option<Cursor>, Error> {
        let left = (self.geometry.piece_len(at.piece) - at.begin) as usize;
        let len = left.min(self.buffers.len);
        let mut gaps = Vec::new();
        let mut buffer = self.buffers.take();
        payload.read(
            self.geometry.piece_offset(at.piece) + u64::from(at.begin),
            &mut buffer[..len],
            &mut gaps,
        );
        let bytes = buffer.freeze().slice(..len);
        let large = self.large_mut(at.piece);
        if gaps.is_empty() {
            large.waiting.push_back(bytes);
            large.read_to_end = len == left;
        } else {
            large.failed = true;
            self.buffers.give_back(bytes);
        }
        let go_on = gaps.is_empty() && len < left;
        self.pump(at.piece)?;
        // `len` is at most a piece's length.
        Ok(go_on.then_some(Cursor {
            piece: at.piece,
            begin: at.begin + len as u32,
        }))
    }

    /// Gives the pool what has been read of a large piece, if its hasher is at home; ends the piece if it failed.
    fn pump(&mut self, piece: PieceIndex) -> Result<(), Error> {
        let large = self.large_mut(piece);
        let Some(hasher) = large.hasher.take() else {
            return Ok(());
        };
        let bytes: Vec<Bytes> = std::mem::take(&mut large.waiting).into();
        if large.failed {
            self.large.remove(&piece.get());
            for bytes in bytes {
                self.buffers.give_back(bytes);
            }
            self.visitor.unreadable(piece);
            self.settle(piece);
        } else if bytes.is_empty() {
            large.hasher = Some(hasher);
        } else {
            let then = if large.read_to_end { large.then } else { Then::Continue };
            self.submit(piece, hasher, bytes, then)?;
        }
        Ok(())
    }

    fn large_mut(&mut self, piece: PieceIndex) -> &mut Large {
        self.large
            .get_mut(&piece.get())
            .expect("a large piece is listed until it is settled")
    }

    fn submit(&mut self, piece: PieceIndex, hasher: Hasher, buffers: Vec<Bytes>, then: Then) -> Result<(), Error> {
        let reply = self.reply.clone();
        let mut job = Job {
            tag: u64::from(piece.get()),
            hasher,
            buffers,
            then,
            reply,
        };
        // The queue may be full of other torrents' pieces: wait for room, but not for longer than a cancel may take.
        while let Err(refused) = self.pool.submit_timeout(job, CANCEL_LATENCY) {
            match refused {
                Refused::Full(back) => job = *back,
                Refused::Stopped(_) => return Err(Error::PoolStopped),
            }
            if self.progress.is_cancelled() {
                return Err(Error::Cancelled);
            }
        }
        self.jobs_out += 1;
        Ok(())
    }

    fn on_done(&mut self, done: Done) -> Result<(), Error> {
        self.jobs_out -= 1;
        for buffer in done.buffers {
            self.buffers.give_back(buffer);
        }
        let piece = u32::try_from(done.tag)
            .ok()
            .and_then(|index| self.geometry.piece_index(index));
        let piece = piece.expect("the tag is the index of a piece");
        match done.outcome {
            Outcome::Dropped => return Err(Error::PoolStopped),
            Outcome::Partial(hasher) => {
                self.large_mut(piece).hasher = Some(hasher);
                return self.pump(piece);
            }
            outcome @ (Outcome::Good | Outcome::Bad(_) | Outcome::Digest(_)) => {
                self.large.remove(&piece.get());
                self.visitor.hashed(piece, outcome);
            }
        }
        self.settle(piece);
        Ok(())
    }

    fn settle(&self, piece: PieceIndex) {
        let len = u64::from(self.geometry.piece_len(piece));
        self.progress.bytes_done.fetch_add(len, Relaxed);
    }
}

/// The buffers of one run. A buffer cut into pieces is free again when the last of them comes home.
struct Buffers {
    free: Vec<BytesMut>,
    made: usize,
    count_max: usize,
    len: usize,
}

impl Buffers {
    fn new(len: usize, count_max: usize) -> Self {
        Self {
            free: Vec::new(),
            made: 0,
            count_max,
            len,
        }
    }

    fn any_left(&self) -> bool {
        !self.free.is_empty() || self.made < self.count_max
    }

    /// A buffer of `self.len` bytes.
    fn take(&mut self) -> BytesMut {
        self.free.pop().unwrap_or_else(|| {
            assert!(self.made < self.count_max, "any_left() was not asked");
            self.made += 1;
            BytesMut::zeroed(self.len)
        })
    }

    fn give_back(&mut self, part: Bytes) {
        // Another part is still with the pool, and will come by here in its turn.
        let Ok(mut buffer) = part.try_into_mut() else { return };
        if buffer.len() != self.len {
            // Makes the part whole again; no bytes are kept, so none are moved and the memory is the same.
            buffer.clear();
            buffer.reserve(self.len);
            buffer.resize(self.len, 0);
        }
        self.free.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_cut_into_pieces_is_whole_again_when_the_last_comes_home() {
        let mut buffers = Buffers::new(3000, 1);
        let mut buffer = buffers.take();
        buffer.fill(1);
        let memory = buffer.as_ptr();
        let whole = buffer.freeze();
        let parts = [whole.slice(2000..), whole.slice(..1000), whole.slice(1000..2000)];
        buffers.give_back(whole);
        for part in parts {
            assert!(buffers.free.is_empty());
            buffers.give_back(part);
        }
        let again = buffers.take();
        assert_eq!((again.len(), again.as_ptr(), buffers.made), (3000, memory, 1));
    }

    #[test]
    fn buffers_are_enough_for_the_workers_and_bounded() {
        let count = |piece_len, lanes| buffer_count(&Geometry::new(piece_len, 1 << 30).unwrap(), lanes);
        assert_eq!(count(16 << 10, 32), 8);
        assert_eq!(count(1 << 20, 2 * 3), 12);
        assert_eq!(count(1 << 20, 2 * 16), 64);
        assert_eq!(count(4 << 20, 4), 32);
        assert_eq!(count(64 << 20, 128), 64);
    }

    #[test]
    fn a_segment_is_whole_pieces_or_a_part_of_one_and_not_more_than_there_is() {
        let len = |piece_len, total_len| segment_len(&Geometry::new(piece_len, total_len).unwrap());
        assert_eq!(len(16 << 10, 1 << 30), 1 << 20);
        assert_eq!(len(300 << 10, 1 << 30), 900 << 10);
        assert_eq!(len(1 << 20, 1 << 30), 1 << 20);
        assert_eq!(len(16 << 20, 1 << 30), 1 << 20);
        assert_eq!(len(16 << 20, 5), 5);
    }
}
