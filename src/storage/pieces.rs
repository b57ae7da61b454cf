//! Reads the pieces of a torrent and has them hashed on the pool, many reads in flight and many pieces at once.
//!
//! One loop on the calling thread: begin reads while there are buffers, take what was read to the pool, collect the
//! pool's answers. The memory in use depends on neither the length of a piece nor that of the torrent: runs hold what
//! their [`Loan`](super::loan::Loan) allows all of them together, in buffers of one stretch each. In which order stretches are read is the business of
//! [`order`](super::order), what they mean on disk that of [`payload`](super::payload), and what is to be done with each
//! piece and its digest that of the [`Visitor`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::order::{Cursor, Next, Order};
use super::payload::{PARTS_MAX, Payload, Plan, slack};
use super::throttle::Throttle;
use crate::hashing::pool::Refused;
use crate::hashing::{Done, Hasher, Job, Outcome, Pool, Source, Then};
use crate::io::Errno;
use crate::io::uring::file_reader::{FileReader, Gather, Part};
use crate::proto::geometry::{Geometry, PieceIndex};
use bytes::{Bytes, BytesMut};
use slab::Slab;

/// In the tag of a job: it is a whole piece that a worker copies for itself.
const WHOLE: u64 = 1 << 32;

/// In the tag of such a job, from this bit on: how many files it keeps open.
const FILES_SHIFT: u32 = 33;

/// Files that such jobs keep open at most; another may go beyond by [`PARTS_MAX`].
const WHOLE_FILES_MAX: usize = 28;

/// What is read at once. Measured from 128 KiB to 1 MiB, pieces of 1 MiB: the longer, the fewer wake-ups (PERF.md).
const STRETCH_LEN: usize = 1 << 20;

/// Stretches in flight at most: 8 MiB keep an NVMe disk busy, and a reading head on its way.
const READS_MAX: usize = 8;

/// Pieces from the page cache that may be with the pool, at least, while others are being read.
const WHOLE_MIN: usize = 32;

/// The same while none are: more than the pool's queue takes. The loop then waits for room there and is woken once for half a
/// queue, where an answer would wake it for each piece.
const WHOLE_ALONE: usize = 1024;

/// Torrents up to this length are read without a ring: making one costs as much.
const RING_FROM: u64 = 1 << 20;

/// How long the loop waits for anything before it looks whether it was cancelled.
const CANCEL_LATENCY: Duration = Duration::from_millis(50);

/// How often a run says which pieces are settled.
const SAVE_EVERY: Duration = Duration::from_secs(10);

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

    /// All of it is gone through once more.
    pub fn begin_anew(&self) {
        self.bytes_done.store(0, Relaxed);
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Relaxed);
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
    /// The ring that payload is read through broke.
    #[error("io_uring failed while payload was read: {}", std::io::Error::from(*.0))]
    Ring(Errno),
    /// There is something of it, and it was to be done only if there is nothing.
    #[error("there is something on the disk, which has to wait for its turn")]
    NotBare,
}

/// What a run works with, and shares with others.
#[derive(Debug, Clone, Copy)]
pub struct Means<'a> {
    /// Who hashes.
    pub pool: &'a Pool,
    /// How fast it may go.
    pub throttle: &'a Throttle,
    /// Whether the disk seeks: then what is not in memory is read from front to back.
    pub seeks: bool,
}

/// What a run does with the pieces.
pub(super) trait Visitor {
    /// What is wanted once the piece has been read; `None` leaves it out.
    fn wanted(&mut self, piece: PieceIndex, payload: &Payload<'_>) -> Option<Then>;
    /// The piece could not be read.
    fn unreadable(&mut self, piece: PieceIndex);
    /// What was wanted.
    fn hashed(&mut self, piece: PieceIndex, outcome: Outcome);
    /// All pieces below this one are settled. Told now and then, and at last when the run is cancelled.
    fn settled_below(&mut self, piece: u32, payload: &mut Payload<'_>);
}

/// Takes every piece through the visitor.
pub(super) fn run(
    geometry: &Geometry,
    payload: &mut Payload<'_>,
    means: Means<'_>,
    progress: &Progress,
    visitor: &mut impl Visitor,
) -> Result<(), Error> {
    let _running = means.throttle.enter();
    let (reply, replies) = channel();
    let stretch_len = stretch_len(geometry);
    let buffer_len = stretch_len + slack(stretch_len);
    let lanes = means.pool.workers() * means.pool.lanes();
    let wanted = geometry.total_len() > RING_FROM;
    let mut run = Run {
        geometry,
        payload,
        means,
        progress,
        visitor,
        reply,
        replies,
        // Where there is none (a kernel or container without io_uring), payload is read plainly.
        reader: wanted
            .then(|| FileReader::new((READS_MAX * PARTS_MAX) as u32).ok())
            .flatten(),
        order: Order::new(geometry, geometry.pieces(), stretch_len as u32),
        lanes,
        reading: Slab::new(),
        long: HashMap::new(),
        buffers: Buffers::new(buffer_len, Arc::clone(means.throttle.loan())),
        jobs_out: 0,
        held: Vec::new(),
        held_max: 0,
        whole_out: 0,
        whole_max: (2 * lanes).max(WHOLE_MIN),
        whole_files: 0,
        not_cached_below: 0,
        settled: Settled::default(),
        saved_at: Instant::now(),
        rest_until: Instant::now(),
    };
    run.share_memory();
    let result = run.all();
    if result == Err(Error::Cancelled) {
        run.save();
    }
    result
}

/// How much is read at once: whole pieces where they fit, no more than the torrent has.
fn stretch_len(geometry: &Geometry) -> usize {
    let piece_len = geometry.piece_len_max() as usize;
    let len = if piece_len < STRETCH_LEN {
        STRETCH_LEN / piece_len * piece_len
    } else {
        STRETCH_LEN
    };
    usize::try_from(geometry.total_len()).map_or(len, |total| len.min(total))
}

struct Run<'a, 'p, V, I: Iterator> {
    geometry: &'a Geometry,
    payload: &'a mut Payload<'p>,
    means: Means<'a>,
    progress: &'a Progress,
    visitor: &'a mut V,
    reply: Sender<Done>,
    replies: Receiver<Done>,
    reader: Option<FileReader>,
    order: Order<'a, I>,
    /// Pieces that the pool hashes side by side at best.
    lanes: usize,
    /// Stretches in the ring.
    reading: Slab<Stretch>,
    /// Pieces longer than a stretch that have been begun.
    long: HashMap<PieceIndex, Long>,
    buffers: Buffers,
    jobs_out: usize,
    /// What was read and waits until it is enough to fill the lanes of every worker, or nothing more is on its way: one by
    /// one, pieces come slower than they are hashed, and each would be hashed by itself.
    held: Vec<Job>,
    held_max: usize,
    /// Pieces that a worker copies for itself, and how many there may be beside reads.
    whole_out: usize,
    whole_max: usize,
    /// Files that those keep open.
    whole_files: usize,
    /// Bytes of the torrent before this one are not looked for in the page cache once more.
    not_cached_below: u64,
    settled: Settled,
    saved_at: Instant,
    /// Beside peers, no read begins before.
    rest_until: Instant,
}

/// A stretch that is being read.
struct Stretch {
    begun: Instant,
    offset: u64,
    plan: Plan,
    what: What,
}

enum What {
    Pieces(Vec<(PieceIndex, Then)>),
    Part(Cursor),
}

/// A piece longer than a stretch.
struct Long {
    /// At home; `None` while the pool has it.
    hasher: Option<Hasher>,
    /// Up to where its hasher has been given it, in bytes.
    given: u32,
    /// Read, by where in the piece they begin.
    read: BTreeMap<u32, (Cursor, Vec<Bytes>)>,
    /// Stretches of it in the ring.
    reading: usize,
    /// A part of it could not be read.
    failed: bool,
}

/// Which pieces are settled: all below one index, and some beyond it.
#[derive(Default)]
struct Settled {
    below: u32,
    beyond: BTreeSet<u32>,
}

impl Settled {
    fn add(&mut self, piece: u32) {
        self.beyond.insert(piece);
        while self.beyond.remove(&self.below) {
            self.below += 1;
        }
    }
}

impl<V: Visitor, I: Iterator<Item = PieceIndex>> Run<'_, '_, V, I> {
    /// Takes no more memory than is left to it by those who run now.
    fn share_memory(&mut self) {
        let count = 2 * self.lanes + READS_MAX;
        self.buffers.limit(count, self.means.throttle.memory());
        // While these are hashed, others are read, and those that come meanwhile are held.
        self.held_max = self
            .lanes
            .min(self.buffers.count_max().saturating_sub(READS_MAX) * 2 / 3);
    }

    fn all(&mut self) -> Result<(), Error> {
        let (mut ended, mut read) = (false, Vec::new());
        loop {
            if self.progress.is_cancelled() {
                return Err(Error::Cancelled);
            }
            while let Ok(done) = self.replies.try_recv() {
                self.on_done(done)?;
            }
            let now = Instant::now();
            if now - self.saved_at >= SAVE_EVERY {
                self.save();
            }
            self.share_memory();
            let beside_peers = self.means.throttle.is_beside_peers(now);
            let reads_max = if beside_peers { 1 } else { READS_MAX };
            let mut held_up = None;
            while !ended && self.reading.len() < reads_max && self.may_begin() {
                self.pass_unwanted();
                let rest = self.rest_until.saturating_duration_since(now);
                let rest = (beside_peers && !rest.is_zero()).then_some(rest);
                held_up = self
                    .means
                    .throttle
                    .wait(now)
                    .max(rest)
                    .map(|wait| wait.min(CANCEL_LATENCY));
                if held_up.is_some() {
                    break;
                }
                let copied = !beside_peers && self.begin_cached(now)?;
                if copied && !self.order.is_under_way() {
                    continue;
                }
                // Long pieces that are being read go on beside those that are copied, and no further one joins them.
                ended = !self.begin(now, copied)?;
                if self.reader.is_none() {
                    break;
                }
            }
            if let Some(reader) = &mut self.reader
                && reader.in_flight() > 0
            {
                // Not for the pool's answers: the disk would have less to do until the next comes.
                reader
                    .turn(held_up.unwrap_or(CANCEL_LATENCY), &mut read)
                    .map_err(Error::Ring)?;
                for gather in read.drain(..) {
                    let stretch = self.reading.remove(gather.tag as usize);
                    let now = Instant::now();
                    self.rest_until = now + self.means.throttle.rest(now - stretch.begun);
                    self.on_read(stretch, &gather.parts, gather.buf)?;
                }
                // Of long pieces no more comes than a part of each that is under way.
                let all_long = !self.long.is_empty() && self.held.len() >= self.long.len();
                if self.held.len() >= self.held_max || all_long || !self.buffers.any_left() {
                    self.send_held()?;
                }
                continue;
            }
            self.send_held()?;
            if self.jobs_out > 0 {
                let may_begin = self.may_begin();
                if self.reader.is_none() && !ended && held_up.is_none() && may_begin {
                    continue;
                }
                match self.replies.recv_timeout(held_up.unwrap_or(CANCEL_LATENCY)) {
                    Ok(done) => self.on_done(done)?,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => unreachable!("`self.reply` is a sender"),
                }
            } else if let Some(wait) = held_up {
                if self.means.throttle.is_paused() {
                    self.buffers.give_up_free(); // Nobody knows for how long.
                }
                std::thread::sleep(wait);
            } else if ended && self.reading.is_empty() {
                return Ok(());
            }
        }
    }

    /// Has the next piece copied and hashed by a worker, if all of it is in the page cache. False when it has to be read.
    fn begin_cached(&mut self, now: Instant) -> Result<bool, Error> {
        let Some(piece) = self.order.begins_next() else {
            return Ok(false);
        };
        // A stretch of short pieces is cached or not as a whole, more or less.
        let offset = self.geometry.piece_offset(piece);
        if offset < self.not_cached_below {
            return Ok(false);
        }
        let Some(then) = self.visitor.wanted(piece, self.payload) else {
            return Ok(false);
        };
        let len = u64::from(self.geometry.piece_len(piece));
        let Some((source, files)) = self.payload.cached(offset, len) else {
            self.not_cached_below = offset + STRETCH_LEN as u64;
            return Ok(false);
        };
        self.order.take_whole();
        self.means.throttle.spend(len, now);
        self.whole_out += 1;
        self.whole_files += files;
        self.submit(piece, Hasher::new(), Vec::new(), Some((Box::new(source), files)), then)?;
        Ok(true)
    }

    /// Passes pieces that nobody wants, which costs no reading, whatever rate or pause there is.
    fn pass_unwanted(&mut self) {
        while let Some(piece) = self.order.begins_next()
            && self.visitor.wanted(piece, self.payload).is_none()
        {
            self.order.take_whole();
            self.settle(piece);
        }
    }

    fn may_begin(&self) -> bool {
        let whole_max = if self.reading.is_empty() {
            WHOLE_ALONE
        } else {
            self.whole_max
        };
        self.buffers.any_left() && self.whole_out < whole_max && self.whole_files < WHOLE_FILES_MAX
    }

    /// Begins the next stretch, with `alone` none of a piece that is not being read yet. False when there is none.
    fn begin(&mut self, now: Instant, alone: bool) -> Result<bool, Error> {
        let Self {
            geometry,
            payload,
            visitor,
            means,
            lanes,
            order,
            ..
        } = self;
        let width = match order.begins_next() {
            _ if alone => 1,
            Some(piece)
                if means.seeks
                    && !payload.is_cached(geometry.piece_offset(piece), geometry.piece_len(piece).into()) =>
            {
                1
            }
            _ => 2 * *lanes,
        };
        let next = order.next(width, |piece| visitor.wanted(piece, payload));
        let (what, offset, len) = match next {
            Next::End => return Ok(false),
            Next::Passed(piece) => {
                self.settle(piece);
                return Ok(true);
            }
            Next::Pieces(batch) => {
                let first = batch.first().expect("a batch is not empty").0;
                let len = batch
                    .iter()
                    .map(|(piece, _)| u64::from(self.geometry.piece_len(*piece)));
                let len = len.sum();
                (What::Pieces(batch), self.geometry.piece_offset(first), len)
            }
            Next::Part(cursor) => {
                let long = self.long.entry(cursor.piece).or_insert_with(|| Long {
                    hasher: Some(Hasher::new()),
                    given: 0,
                    read: BTreeMap::new(),
                    reading: 0,
                    failed: false,
                });
                long.reading += 1;
                let offset = self.geometry.piece_offset(cursor.piece) + u64::from(cursor.begin);
                (What::Part(cursor), offset, u64::from(cursor.len))
            }
        };
        self.means.throttle.spend(len, now);
        let mut buf = self.buffers.take();
        let mut plan = self.payload.plan(offset, len, &mut buf);
        let parts = std::mem::take(&mut plan.parts);
        let stretch = Stretch {
            begun: Instant::now(),
            offset,
            plan,
            what,
        };
        match &mut self.reader {
            Some(reader) if !parts.is_empty() => {
                let tag = self.reading.insert(stretch) as u64;
                reader.submit(Gather { tag, buf, parts });
            }
            _ => {
                let begun = stretch.begun;
                self.on_read(stretch, &parts, buf)?;
                let now = Instant::now();
                self.rest_until = now + self.means.throttle.rest(now - begun);
            }
        }
        Ok(true)
    }

    /// A stretch has been read, as far as it could be.
    fn on_read(&mut self, stretch: Stretch, parts: &[Part], mut buf: BytesMut) -> Result<(), Error> {
        let Stretch { offset, plan, what, .. } = stretch;
        let filled = self.payload.finish(offset, plan, parts, &mut buf);
        let buf = self.buffers.lend(buf);
        let slices = |offset, len| {
            let ranges = filled.ranges(offset, len)?;
            Some(ranges.into_iter().map(|range| buf.slice(range)).collect::<Vec<Bytes>>())
        };
        match what {
            What::Pieces(batch) => {
                for (piece, then) in batch {
                    let len = self.geometry.piece_len(piece);
                    match slices(self.geometry.piece_offset(piece), len.into()) {
                        Some(bytes) => self.submit(piece, Hasher::new(), bytes, None, then)?,
                        None => {
                            self.visitor.unreadable(piece);
                            self.settle(piece);
                        }
                    }
                }
            }
            What::Part(cursor) => {
                let bytes = slices(offset, cursor.len.into());
                let long = self.long_mut(cursor.piece);
                long.reading -= 1;
                match bytes {
                    Some(bytes) => {
                        long.read.insert(cursor.begin, (cursor, bytes));
                    }
                    None => long.failed = true,
                }
                self.pump(cursor.piece)?;
            }
        }
        self.buffers.give_back(buf);
        Ok(())
    }

    /// Gives the pool what has been read of a long piece, if its hasher is at home; ends the piece if it failed.
    fn pump(&mut self, piece: PieceIndex) -> Result<(), Error> {
        let piece_len = self.geometry.piece_len(piece);
        let long = self.long_mut(piece);
        if long.failed {
            let read = std::mem::take(&mut long.read);
            let over = long.hasher.is_some() && long.reading == 0;
            for (_, bytes) in read.into_values() {
                bytes.into_iter().for_each(|slice| self.buffers.give_back(slice));
            }
            self.order.drop_piece(piece);
            if over {
                self.long.remove(&piece);
                self.visitor.unreadable(piece);
                self.settle(piece);
            }
            return Ok(());
        }
        let (mut given, mut bytes, mut then) = (long.given, Vec::new(), Then::Continue);
        if long.hasher.is_some() {
            while let Some((cursor, slices)) = long.read.remove(&given) {
                given += cursor.len;
                bytes.extend(slices);
                then = if given == piece_len {
                    cursor.then
                } else {
                    Then::Continue
                };
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        long.given = given;
        let hasher = long.hasher.take().expect("looked for above");
        self.submit(piece, hasher, bytes, None, then)
    }

    fn long_mut(&mut self, piece: PieceIndex) -> &mut Long {
        self.long
            .get_mut(&piece)
            .expect("a long piece is listed until it is settled")
    }

    fn submit(
        &mut self,
        piece: PieceIndex,
        hasher: Hasher,
        buffers: Vec<Bytes>,
        source: Option<(Box<dyn Source>, usize)>,
        then: Then,
    ) -> Result<(), Error> {
        let reply = self.reply.clone().into();
        let whole = source
            .as_ref()
            .map_or(0, |(_, files)| WHOLE | (*files as u64) << FILES_SHIFT);
        let job = Job {
            tag: u64::from(piece.get()) | whole,
            hasher,
            buffers,
            source: source.map(|(source, _)| source),
            then,
            reply,
        };
        if whole == 0 {
            self.held.push(job);
            return Ok(());
        }
        self.send(job)
    }

    fn send_held(&mut self) -> Result<(), Error> {
        let mut held = std::mem::take(&mut self.held);
        held.drain(..).try_for_each(|job| self.send(job))?;
        self.held = held;
        Ok(())
    }

    fn send(&mut self, mut job: Job) -> Result<(), Error> {
        // The queue may be full of other torrents' pieces: wait for room, but not for longer than a cancel may take.
        while let Err(refused) = self.means.pool.submit_timeout(job, CANCEL_LATENCY) {
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
        self.whole_out -= usize::from(done.tag & WHOLE != 0);
        self.whole_files -= (done.tag >> FILES_SHIFT) as usize;
        let piece = self.geometry.piece_index(done.tag as u32);
        let piece = piece.expect("the tag is the index of a piece");
        match done.outcome {
            Outcome::Dropped => return Err(Error::PoolStopped),
            Outcome::Unread => self.read_plainly(piece),
            Outcome::Partial(hasher) => {
                self.long_mut(piece).hasher = Some(hasher);
                return self.pump(piece);
            }
            outcome @ (Outcome::Good | Outcome::Bad(_) | Outcome::Digest(_)) => {
                self.long.remove(&piece);
                self.visitor.hashed(piece, outcome);
            }
        }
        self.settle(piece);
        Ok(())
    }

    /// Reads and hashes a piece here and now, which was in the page cache a moment ago and then could not be read.
    fn read_plainly(&mut self, piece: PieceIndex) {
        let Some(then) = self.visitor.wanted(piece, self.payload) else {
            return self.visitor.unreadable(piece);
        };
        let (mut offset, mut left) = (
            self.geometry.piece_offset(piece),
            self.geometry.piece_len(piece) as usize,
        );
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; STRETCH_LEN + slack(STRETCH_LEN)];
        while left > 0 {
            let len = left.min(STRETCH_LEN);
            let mut plan = self.payload.plan(offset, len as u64, &mut buffer);
            let parts = std::mem::take(&mut plan.parts);
            let filled = self.payload.finish(offset, plan, &parts, &mut buffer);
            let Some(ranges) = filled.ranges(offset, len as u64) else {
                return self.visitor.unreadable(piece);
            };
            ranges.into_iter().for_each(|range| hasher.update(&buffer[range]));
            (offset, left) = (offset + len as u64, left - len);
        }
        self.visitor.hashed(piece, Outcome::of(hasher.finish(), then));
    }

    fn settle(&mut self, piece: PieceIndex) {
        let len = u64::from(self.geometry.piece_len(piece));
        self.progress.add(len);
        self.settled.add(piece.get());
    }

    fn save(&mut self) {
        self.saved_at = Instant::now();
        self.visitor.settled_below(self.settled.below, self.payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_whole_pieces_or_a_part_of_one_and_not_more_than_there_is() {
        let len = |piece_len, total_len| stretch_len(&Geometry::new(piece_len, total_len).unwrap());
        assert_eq!(len(16 << 10, 1 << 30), 1 << 20);
        assert_eq!(len(300 << 10, 1 << 30), 900 << 10);
        assert_eq!(len(1 << 20, 1 << 30), 1 << 20);
        assert_eq!(len(16 << 20, 1 << 30), 1 << 20);
        assert_eq!(len(16 << 20, 5), 5);
    }

    #[test]
    fn pieces_settled_out_of_order_count_once_those_before_them_are() {
        let mut settled = Settled::default();
        for (piece, below) in [(1, 0), (3, 0), (0, 2), (2, 4)] {
            settled.add(piece);
            assert_eq!(settled.below, below);
        }
    }
}
