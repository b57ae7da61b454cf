//! Pieces that are too long to be put together in memory: of which fewer than four would go into the write buffer. Their
//! blocks are written as they come to their places in the file, and when all of them are there the piece is read back and
//! hashed. Until then nobody is told of it, it is not served, and a restart does not believe it.
//!
//! Blocks that follow each other are gathered into a *run* and written together. Of one piece one run is written at a time:
//! what is had anew (of a peer that lied) lies in the same place, and must not be overtaken by what it replaces. So memory
//! depends on how much is under way, and not on how long pieces are ([`super::download`] counts it).
//!
//! A piece is read back through the cache of extents, as if a peer had asked for it; nothing of it is kept here but one
//! stretch at a time, on its way to the hashing pool.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::Shard;
use super::deadlines::ticks;
use super::disk::{Failed, Waiter};
use super::download::Stall;
use super::events::Event;
use super::spares::Spares;
use super::stage::{Readiness, Staged, look, stage_for};
use super::verify::tag;
use crate::hashing::{Hasher, Job, Outcome, Then};
use crate::io::{Driver, Owner};
use crate::proto::geometry::{BLOCK_LEN, BlockRequest, PieceIndex};

/// What is written at once, at most, and what a piece that was begun takes of memory beside what is under way of it.
pub(super) const RUN_LEN: u32 = 256 * 1024;

/// What is read back is hashed when it is as long as a run, and grows by a block at a time.
const STRETCH_MAX: usize = (RUN_LEN + BLOCK_LEN) as usize;

/// How long after a piece could not be read back, or made way while its disk took nothing, it is asked for again.
const AGAIN_TICKS: u64 = ticks(60);

/// The generation of the owner that extents are read for here: no connection has it.
const READER: u32 = u32::MAX - 1;

/// Which piece: the shard's number for the torrent, and the piece.
type Key = (u32, PieceIndex);

/// Blocks that follow each other.
#[derive(Debug)]
struct Run {
    begin: u32,
    /// As long as the run can become.
    bytes: BytesMut,
    len: u32,
}

/// A piece that was written in part, or is read back.
#[derive(Debug)]
struct Written {
    /// What extents are read for, in place of a connection.
    reader: u32,
    /// Blocks are added to this.
    run: Option<Run>,
    /// Runs that wait for the one before them.
    waiting: VecDeque<(u32, Bytes)>,
    /// The run on its way, as the writes know it.
    writing: Option<(Owner, u32)>,
    /// All of its blocks have come.
    whole: bool,
    back: Option<ReadBack>,
    /// The pool has a stretch of it.
    is_hashed: bool,
}

/// A piece that is read back.
#[derive(Debug)]
struct ReadBack {
    /// How much of it was read.
    at: u32,
    /// Absent while the pool has it, and once the piece is known to be wrong.
    hasher: Option<Hasher>,
    /// What each block is, once that is wanted to find out who lied.
    blocks: Option<Vec<u64>>,
    /// What was read and not hashed.
    stretch: Vec<u8>,
    /// The block that is being read.
    staged: Option<Staged>,
}

impl ReadBack {
    fn new(blocks: Option<Vec<u64>>) -> ReadBack {
        ReadBack {
            at: 0,
            hasher: Some(Hasher::new()),
            blocks,
            stretch: Vec::with_capacity(STRETCH_MAX),
            staged: None,
        }
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Early {
    pieces: HashMap<Key, Written>,
    readers: u32,
    /// Bytes of blocks that are not written yet, of each torrent.
    bytes: HashMap<u32, u64>,
}

impl Early {
    /// Keeps a block of a torrent's piece of `len` bytes until it is written, in memory of these spares beside so many bytes
    /// that are reserved. `skew`: see [`super::assembly::Assembly::put`].
    pub(super) fn put(
        &mut self,
        (spares, reserved): (&mut Spares, u64),
        (torrent, len): (u32, u32),
        skew: impl FnOnce() -> usize,
        block: &BlockRequest,
        data: &[u8],
    ) {
        let readers = &mut self.readers;
        let written = self.pieces.entry((torrent, block.piece())).or_insert_with(|| {
            *readers = readers.wrapping_add(1);
            Written {
                reader: *readers,
                run: None,
                waiting: VecDeque::new(),
                writing: None,
                whole: false,
                back: None,
                is_hashed: false,
            }
        });
        *self.bytes.entry(torrent).or_default() += u64::from(block.length());
        if written
            .run
            .as_ref()
            .is_some_and(|run| run.begin + run.len != block.begin())
        {
            written.end_run(spares);
        }
        let run = written.run.get_or_insert_with(|| {
            let begin = block.begin();
            // Runs end where extents do, if pieces begin so.
            let room = (RUN_LEN - begin % RUN_LEN).min(len - begin) as usize;
            Run {
                begin,
                bytes: spares.take(room, skew(), reserved),
                len: 0,
            }
        });
        run.bytes[run.len as usize..][..data.len()].copy_from_slice(data);
        run.len += block.length();
        if run.len as usize == run.bytes.len() {
            written.end_run(spares);
        }
    }

    /// Bytes of a torrent's blocks that are not written yet. Those of a run that goes on are among them, though it has memory for
    /// all that it can become: when it ends, another has that, and others may have been asked for by then in the place of its blocks.
    pub(super) fn bytes(&self, torrent: u32) -> u64 {
        self.bytes.get(&torrent).copied().unwrap_or(0)
    }

    /// A piece is not put together any more. What of it is being written or hashed is waited for all the same.
    pub(super) fn forget(&mut self, torrent: u32, piece: PieceIndex) {
        let Some(written) = self.pieces.get_mut(&(torrent, piece)) else {
            return;
        };
        let dropped: u64 = written.waiting.drain(..).map(|(_, run)| run.len() as u64).sum();
        let dropped = dropped + written.going_on();
        if let Some(bytes) = self.bytes.get_mut(&torrent) {
            *bytes -= dropped;
        }
        (written.run, written.whole, written.back) = (None, false, None);
        if written.writing.is_none() && !written.is_hashed {
            self.pieces.remove(&(torrent, piece));
        }
    }

    /// The same of all pieces of a torrent that nothing is here of any more.
    pub(super) fn forget_unbegun(&mut self, torrent: u32, is_begun: impl Fn(PieceIndex) -> bool) {
        let of_it = self
            .pieces
            .keys()
            .filter(|(of, piece)| *of == torrent && !is_begun(*piece));
        let unbegun: Vec<PieceIndex> = of_it.map(|(_, piece)| *piece).collect();
        unbegun.into_iter().for_each(|piece| self.forget(torrent, piece));
    }

    /// A torrent has left.
    pub(super) fn forget_all(&mut self, torrent: u32) {
        self.pieces.retain(|(of, _), _| *of != torrent);
        self.bytes.remove(&torrent);
    }

    /// Whether nothing is here of any piece.
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Pieces that something is here of.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.pieces.len()
    }

    /// Whether pieces are being read back.
    #[cfg(test)]
    pub(super) fn is_reading(&self) -> bool {
        !self.read_back().is_empty()
    }

    /// Whether this run of a piece is on its way.
    fn is_writing(&self, key: Key, run: Owner) -> bool {
        let writing = self.pieces.get(&key).and_then(|written| written.writing);
        writing.is_some_and(|(owner, _)| owner == run)
    }

    /// Pieces being read back for which no buffer was free.
    fn starved(&self) -> Vec<Key> {
        self.in_order(|written| {
            let unstaged = |back: &ReadBack| back.staged.is_none();
            !written.is_hashed && written.back.as_ref().is_some_and(unstaged)
        })
    }

    /// Those of them, always in the same order: a table's is another in each process, and who is first has the buffer.
    fn in_order(&self, wanted: impl Fn(&Written) -> bool) -> Vec<Key> {
        let wanted = self.pieces.iter().filter(|(_, written)| wanted(written));
        let mut keys: Vec<Key> = wanted.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// Whether a piece that is read back is to be looked at again when a tick has passed.
    pub(super) fn waits_for_tick(&self) -> bool {
        let is_read = |written: &Written| written.back.is_some() && !written.is_hashed;
        self.pieces.values().any(is_read)
    }

    /// Pieces of a torrent with a run that waits for more blocks, of which nothing waits to be written or is, if all that has come
    /// of the torrent waits like that, and is no less than `asked` bytes that are on their way.
    fn idle_runs(&self, torrent: u32, asked: u64) -> Vec<PieceIndex> {
        let of_it = || self.pieces.iter().filter(|((of, _), _)| *of == torrent);
        let going_on: u64 = of_it().map(|(_, written)| written.going_on()).sum();
        if going_on == 0 || going_on < asked || going_on < self.bytes(torrent) {
            return Vec::new();
        }
        let idle = self.in_order(|written| written.going_on() > 0);
        let of_it = idle.into_iter().filter(|(of, _)| *of == torrent);
        of_it.map(|(_, piece)| piece).collect()
    }

    /// The run on its way is not any more. False if it is of none of these.
    fn end_write(&mut self, key: Key, run: Owner) -> bool {
        let Some(written) = self.pieces.get_mut(&key) else {
            return false;
        };
        let Some((_, len)) = written.writing.take_if(|(owner, _)| *owner == run) else {
            return false;
        };
        if let Some(bytes) = self.bytes.get_mut(&key.0) {
            *bytes -= u64::from(len);
        }
        true
    }

    /// The piece that an extent is read for.
    fn of_reader(&self, reader: u32) -> Option<Key> {
        let is_its = |written: &Written| written.reader == reader;
        self.pieces
            .iter()
            .find(|(_, written)| is_its(written))
            .map(|(key, _)| *key)
    }

    /// Pieces that are being read back.
    fn read_back(&self) -> Vec<Key> {
        self.in_order(|written| written.back.is_some())
    }
}

impl Written {
    /// Bytes of the run that more are added to.
    fn going_on(&self) -> u64 {
        self.run.as_ref().map_or(0, |run| run.len.into())
    }

    /// Nothing is added to the run any more. Gives to `spares` the memory that it does not need.
    fn end_run(&mut self, spares: &mut Spares) {
        let Some(run) = self.run.take() else { return };
        let bytes = match run.len as usize == run.bytes.len() {
            true => run.bytes.freeze(),
            // A short one must not keep the memory of a long one.
            false => {
                let short = Bytes::copy_from_slice(&run.bytes[..run.len as usize]);
                if run.bytes.len() == RUN_LEN as usize {
                    spares.keep(run.bytes.freeze());
                }
                short
            }
        };
        self.waiting.push_back((run.begin, bytes));
    }
}

impl<D: Driver> Shard<D> {
    /// Blocks of a piece have come, all of them if it is `whole`: writes what is to be written, and reads it back when
    /// nothing is.
    pub(super) fn go_on_early(&mut self, number: u32, piece: PieceIndex, whole: bool) {
        let Some(download) = self.downloads.get(&number) else {
            return;
        };
        let served = download.served.clone();
        let early = &mut self.assembly.early;
        let Some(written) = early.pieces.get_mut(&(number, piece)) else {
            return;
        };
        written.whole |= whole;
        if whole {
            written.end_run(&mut self.assembly.spares);
        }
        if written.writing.is_some() || written.back.is_some() || written.is_hashed {
            return;
        }
        if let Some((begin, bytes)) = written.waiting.pop_front() {
            let len = u32::try_from(bytes.len()).expect("no longer than a run");
            // A short one was copied.
            let end = begin + len;
            let is_full = end.is_multiple_of(RUN_LEN) || end == served.torrent.geometry().piece_len(piece);
            let (driver, counters) = (&mut self.driver, &mut self.counters);
            let run = self
                .writes
                .begin(driver, counters, served, (piece, begin), (bytes, is_full));
            written.writing = Some((run, len));
        } else if written.whole {
            let blocks = download.is_suspicious(piece).then(Vec::new);
            written.back = Some(ReadBack::new(blocks));
            // What was read of these places before is not what lies there now.
            self.disk.written(&served, piece);
            self.read_on(number, piece);
        }
    }

    /// A run is written, or was given up and is not under way any more. False if it is none.
    pub(super) fn on_run_written(&mut self, number: u32, piece: PieceIndex, run: Owner) -> bool {
        if !self.assembly.early.end_write((number, piece), run) {
            return false;
        }
        let is_begun = |download: &super::download::Download| download.picker.is_begun(piece);
        match self.downloads.get(&number).is_some_and(is_begun) {
            true => self.go_on_early(number, piece, false),
            false => self.assembly.early.forget(number, piece),
        }
        if let Some(download) = self.downloads.get_mut(&number) {
            download.account(&mut self.assembly);
        }
        true
    }

    /// A run is not to be written any more: its piece is had anew. False if it is none. Some of it may be under way still,
    /// and nothing of the piece is written before that has ended.
    pub(super) fn on_run_given_up(&mut self, number: u32, piece: PieceIndex, run: Owner) -> bool {
        let is_run = self.assembly.early.is_writing((number, piece), run);
        if is_run {
            self.assembly.early.forget(number, piece);
            if let Some(download) = self.downloads.get_mut(&number) {
                download.picker.on_failed(piece);
                download.account(&mut self.assembly);
                let retry_at = self.tick + AGAIN_TICKS;
                let asks_anew = true;
                download.stall = Some(Stall { retry_at, asks_anew });
            }
        }
        is_run
    }

    /// An extent has come that a connection has not asked for. False if one has.
    pub(super) fn on_early_read(&mut self, waiter: Waiter) -> bool {
        if waiter.conn.generation != READER {
            return false;
        }
        if let Some((number, piece)) = self.assembly.early.of_reader(waiter.conn.index) {
            self.read_on(number, piece);
        }
        true
    }

    /// An extent does not come. False if a connection has asked for it.
    pub(super) fn on_early_unread(&mut self, waiter: Waiter, what: &Failed) -> bool {
        if waiter.conn.generation != READER {
            return false;
        }
        let Some((number, piece)) = self.assembly.early.of_reader(waiter.conn.index) else {
            return true;
        };
        match what {
            Failed::ForNow => {} // Looked at again at the next tick.
            Failed::Extent | Failed::Moved => self.read_on(number, piece),
            Failed::Block(why) => {
                self.assembly.early.forget(number, piece);
                if let Some(download) = self.downloads.get_mut(&number) {
                    download.picker.on_failed(piece);
                    download.account(&mut self.assembly);
                    let retry_at = self.tick + AGAIN_TICKS;
                    let is_news = download
                        .stall
                        .replace(Stall {
                            retry_at,
                            asks_anew: true,
                        })
                        .is_none();
                    if is_news {
                        let (info_hash, why) = (download.served.torrent.info_hash(), why.clone());
                        self.settings.events.tell(Event::Stalled { info_hash, why });
                    }
                }
            }
        }
        true
    }

    /// When nothing more can be asked for, for want of memory, and all that has come waits for the blocks that follow it, it is
    /// written as it is: nothing else would make room for those.
    pub(super) fn write_idle_runs(&mut self) {
        if self.assembly.early.is_empty() || self.assembly.room_early().1 > 0 {
            return;
        }
        let early = self.downloads.values().filter(|download| download.early);
        let idle = early.map(|download| {
            let (number, asked) = (download.served.number, download.picker.asked_blocks());
            let asked = u64::from(asked) * u64::from(BLOCK_LEN);
            (number, self.assembly.early.idle_runs(number, asked))
        });
        for (number, pieces) in idle.collect::<Vec<_>>() {
            for piece in pieces {
                if let Some(written) = self.assembly.early.pieces.get_mut(&(number, piece)) {
                    written.end_run(&mut self.assembly.spares);
                }
                self.go_on_early(number, piece, false);
            }
        }
        self.on_writes();
    }

    /// Buffers may have come free, and those who waited in line have had theirs.
    pub(super) fn feed_early(&mut self) {
        for (number, piece) in self.assembly.early.starved() {
            self.read_on(number, piece);
        }
    }

    /// A tick has passed: what could not be read for want of something else is looked at again.
    pub(super) fn tend_early(&mut self) {
        for (number, piece) in self.assembly.early.read_back() {
            self.read_on(number, piece);
        }
    }

    /// Reads back what is there, a stretch after the other.
    fn read_on(&mut self, number: u32, piece: PieceIndex) {
        let Some(download) = self.downloads.get(&number) else {
            return;
        };
        let served = download.served.clone();
        let piece_len = served.torrent.geometry().piece_len(piece);
        loop {
            let Some(written) = self.assembly.early.pieces.get_mut(&(number, piece)) else {
                return;
            };
            let reader = Owner {
                index: written.reader,
                generation: READER,
            };
            let Some(back) = &mut written.back else { return };
            if written.is_hashed {
                return; // The pool has the last stretch.
            }
            if back.stretch.len() >= RUN_LEN as usize || back.at == piece_len {
                break;
            }
            let len = BLOCK_LEN.min(piece_len - back.at);
            let block = served.torrent.geometry().check(piece.get(), back.at, len);
            let block = block.expect("a block of the piece");
            let mut staged = match back.staged.take() {
                Some(staged) => staged,
                None => {
                    let (driver, disk) = (&mut self.driver, &mut self.disk);
                    match stage_for(driver, disk, &mut self.counters, reader, &served, &block, self.now) {
                        Some(staged) => staged,
                        None => return, // No buffer is free: it waits for the next turn.
                    }
                }
            };
            let (driver, disk) = (&mut self.driver, &mut self.disk);
            match look(driver, disk, &mut self.counters, reader, &served, &mut staged) {
                Readiness::Ready => {
                    let from = back.stretch.len();
                    staged.copy_to(&mut back.stretch);
                    back.at += len;
                    if let Some(blocks) = &mut back.blocks
                        && let Some(download) = self.downloads.get(&number)
                    {
                        blocks.push(download.hash_of(&back.stretch[from..]));
                    }
                    if back.hasher.is_none() {
                        back.stretch.clear(); // It is wrong, and only its blocks are wanted.
                    }
                }
                Readiness::Waiting => {
                    back.staged = Some(staged);
                    return;
                }
                // Another has taken the buffers meanwhile.
                Readiness::Starved => return,
                // The extent was there and has left, or could not be read whole: it is looked for anew.
                Readiness::Gone => {}
            }
        }
        self.hash_stretch(number, piece, piece_len);
    }

    /// Has hashed what was read back last; of a piece that is known to be wrong its blocks are, by now.
    fn hash_stretch(&mut self, number: u32, piece: PieceIndex, piece_len: u32) {
        let Some(download) = self.downloads.get(&number) else {
            return;
        };
        let Some(written) = self.assembly.early.pieces.get_mut(&(number, piece)) else {
            return;
        };
        let Some(back) = &mut written.back else { return };
        let is_last = back.at == piece_len;
        let Some(hasher) = back.hasher.take() else {
            return self.on_early_bad(number, piece);
        };
        let next = if is_last {
            Vec::new()
        } else {
            Vec::with_capacity(STRETCH_MAX)
        };
        written.is_hashed = true;
        let job = Job {
            tag: tag(number, piece),
            hasher,
            buffers: vec![Bytes::from(std::mem::replace(&mut back.stretch, next))],
            source: None,
            then: match is_last {
                true => Then::Verify(*download.served.torrent.meta().piece_hashes.get(piece)),
                false => Then::Continue,
            },
            reply: self.verifier.reply.clone(),
        };
        self.submit(job);
    }

    /// The pool has hashed a stretch. False if that was of none of these.
    pub(super) fn on_early_verdict(&mut self, number: u32, piece: PieceIndex, outcome: &mut Outcome) -> bool {
        let Some(written) = self.assembly.early.pieces.get_mut(&(number, piece)) else {
            return false;
        };
        if !std::mem::take(&mut written.is_hashed) {
            return false;
        }
        let Some(back) = &mut written.back else {
            // It was given up meanwhile, and may have come once more.
            self.go_on_early(number, piece, false);
            self.on_writes();
            return true;
        };
        match std::mem::replace(outcome, Outcome::Dropped) {
            Outcome::Partial(hasher) => {
                back.hasher = Some(hasher);
                self.read_on(number, piece);
            }
            Outcome::Good => {
                let blocks = back.blocks.take();
                self.assembly.early.forget(number, piece);
                if let Some(download) = self.downloads.get_mut(&number) {
                    let convicted = download.on_good(piece, blocks);
                    for key in convicted {
                        self.ban(number, key);
                    }
                    self.on_piece_written(number, piece, Bytes::new());
                }
            }
            Outcome::Bad(_) if back.blocks.is_some() => self.on_early_bad(number, piece),
            Outcome::Bad(_) => {
                // Once more, to see what each of its blocks is.
                let anew = ReadBack::new(Some(Vec::new()));
                *back = ReadBack { hasher: None, ..anew };
                self.read_on(number, piece);
            }
            // The pool stops: so do we.
            Outcome::Dropped | Outcome::Unread | Outcome::Digest(_) => {}
        }
        true
    }

    /// A piece is wrong, and what each of its blocks is is known.
    fn on_early_bad(&mut self, number: u32, piece: PieceIndex) {
        let written = self.assembly.early.pieces.get_mut(&(number, piece));
        let back = written.and_then(|written| written.back.take());
        self.assembly.early.forget(number, piece);
        let (Some(download), Some(blocks)) = (self.downloads.get_mut(&number), back.and_then(|back| back.blocks))
        else {
            return;
        };
        self.counters.pieces_bad += 1;
        let convicted = download.on_bad(piece, blocks);
        download.account(&mut self.assembly);
        if let Some(key) = convicted {
            self.ban(number, key);
        }
        self.feed_hungry();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::spares::ALIGNMENT;
    use super::*;
    use crate::proto::geometry::Geometry;

    /// A piece comes in order, and another after it: the memory of the first's runs is used for the second's.
    #[test]
    fn runs_that_were_written_lend_their_memory_to_the_next() {
        const LEN: u32 = 4 * RUN_LEN;
        let geometry = Geometry::new(LEN, 2 * u64::from(LEN)).unwrap();
        let (mut early, mut spares) = (Early::default(), Spares::new(LEN.into()));
        let put = |early: &mut Early, spares: &mut Spares, piece: u32, byte: u8| {
            for begin in (0..LEN).step_by(BLOCK_LEN as usize) {
                let block = geometry.check(piece, begin, BLOCK_LEN).unwrap();
                let data = [byte; BLOCK_LEN as usize];
                early.put((spares, LEN.into()), (7, LEN), || 100, &block, &data);
            }
            let key = (7, geometry.piece_index(piece).unwrap());
            let runs = early.pieces.remove(&key).unwrap().waiting;
            runs.into_iter().map(|(_, run)| run).collect::<Vec<Bytes>>()
        };
        let first = put(&mut early, &mut spares, 0, 1);
        let places: HashSet<_> = first.iter().map(|run| run.as_ptr()).collect();
        first.into_iter().for_each(|run| spares.keep(run));
        let second = put(&mut early, &mut spares, 1, 2);
        assert_eq!((second.len(), spares.count()), (4, 0));
        assert_eq!(second.iter().map(|run| run.as_ptr()).collect::<HashSet<_>>(), places);
        for run in &second {
            assert!(run.iter().all(|byte| *byte == 2) && run.len() == RUN_LEN as usize);
            assert_eq!(run.as_ptr().addr() % ALIGNMENT, 100);
        }
    }

    /// Two peers take turns at far ends of a piece: each block is a run of its own.
    #[test]
    fn run_that_ends_early_takes_no_more_memory_than_it_has_bytes() {
        const LEN: u32 = 4 * RUN_LEN;
        let geometry = Geometry::new(LEN, LEN.into()).unwrap();
        let piece = geometry.piece_index(0).unwrap();
        let (mut early, mut spares) = (Early::default(), Spares::new(LEN.into()));
        for number in 0..8 {
            let begin = (number / 2 + number % 2 * 32) * BLOCK_LEN;
            let block = geometry.check(0, begin, BLOCK_LEN).unwrap();
            let data = [number as u8; BLOCK_LEN as usize];
            early.put((&mut spares, LEN.into()), (7, LEN), || 0, &block, &data);
        }
        assert_eq!(early.bytes(7), 8 * u64::from(BLOCK_LEN));
        for (_, run) in early.pieces.remove(&(7, piece)).unwrap().waiting {
            let run = run.try_into_mut().expect("nobody else has it");
            assert_eq!((run.len(), run.capacity()), (BLOCK_LEN as usize, BLOCK_LEN as usize));
        }
    }
}
