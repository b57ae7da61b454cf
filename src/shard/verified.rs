//! Pieces that were taken for right when their torrent was added, and are read and hashed when they are first asked for:
//! nothing of them leaves before that. A piece that is wrong is withdrawn, and who asked for it is told so.
//!
//! A request for such a piece waits, and with it whatever its peer has asked for after it. Of a shard only a few pieces are
//! read at a time, one stretch of each in memory; further ones wait in line. They are read through the cache of extents,
//! so that what was verified is what is sent, unless the cache had to let it go.
//!
//! Each shard does this by itself: a piece that two of them are asked for at the same moment may be read twice.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;

use super::Shard;
use super::conn::Served;
use super::disk::{Failed, Waiter};
use super::stage::{Readiness, Staged, look, stage_for};
use super::verify::tag;
use crate::hashing::{Hasher, Job, Outcome, Then};
use crate::io::{Driver, Owner};
use crate::proto::geometry::{BLOCK_LEN, PieceIndex};

/// Pieces that are read at a time: enough to keep a disk and the hashing busy.
const PIECES_MAX: usize = 8;

/// What is hashed at a time, but for the end of a piece.
const STRETCH_LEN: usize = 256 * 1024;

/// The generation of the owner that extents are read for here: no connection has it, nor the one of `early`.
const READER: u32 = u32::MAX - 2;

/// Which piece: the shard's number for the torrent, and the piece.
type Key = (u32, PieceIndex);

/// A piece that is being read.
#[derive(Debug)]
struct Reading {
    served: Rc<Served>,
    /// What extents are read for, in place of a connection.
    reader: u32,
    /// Connections that wait for it.
    waiting: Vec<Owner>,
    /// How much of it was read.
    at: u32,
    /// Absent while the pool has it.
    hasher: Option<Hasher>,
    /// What was read and not hashed.
    stretch: Vec<u8>,
    /// The block that is being read.
    staged: Option<Staged>,
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Verifying {
    pieces: BTreeMap<Key, Reading>,
    /// Connections that wait for a place.
    line: VecDeque<Owner>,
    readers: u32,
}

impl Verifying {
    /// Whether pieces that are read are to be looked at again when a tick has passed.
    pub(super) fn waits_for_tick(&self) -> bool {
        !self.pieces.is_empty() || !self.line.is_empty()
    }

    /// A torrent has left, and its connections with it.
    pub(super) fn forget_all(&mut self, torrent: u32) {
        self.pieces.retain(|(of, _), _| *of != torrent);
    }

    /// The piece that an extent is read for.
    fn of_reader(&self, reader: u32) -> Option<Key> {
        let mut pieces = self.pieces.iter();
        pieces
            .find(|(_, reading)| reading.reader == reader)
            .map(|(key, _)| *key)
    }

    fn keys(&self) -> Vec<Key> {
        self.pieces.keys().copied().collect()
    }
}

impl<D: Driver> Shard<D> {
    /// A connection has asked for a piece that nobody has read yet. It is pumped again when that is done.
    pub(super) fn verify_for(&mut self, owner: Owner, piece: PieceIndex) {
        let Some(peer) = self.conns.get_mut(owner).and_then(|conn| conn.peer_mut()) else {
            return;
        };
        peer.upload.held_back = true;
        let key = (peer.served.number, piece);
        let verifying = &mut self.verifying;
        if let Some(reading) = verifying.pieces.get_mut(&key) {
            return reading.waiting.push(owner);
        }
        if verifying.pieces.len() >= PIECES_MAX {
            return verifying.line.push_back(owner);
        }
        verifying.readers = verifying.readers.wrapping_add(1);
        let reading = Reading {
            served: peer.served.clone(),
            reader: verifying.readers,
            waiting: vec![owner],
            at: 0,
            hasher: Some(Hasher::new()),
            stretch: Vec::new(),
            staged: None,
        };
        verifying.pieces.insert(key, reading);
        self.read_unread(key);
    }

    /// An extent has come that was read for this. False if it was not.
    pub(super) fn on_unread_read(&mut self, waiter: Waiter) -> bool {
        if waiter.conn.generation != READER {
            return false;
        }
        if let Some(key) = self.verifying.of_reader(waiter.conn.index) {
            self.read_unread(key);
        }
        true
    }

    /// An extent does not come. False if it was not read for this.
    pub(super) fn on_unread_failed(&mut self, waiter: Waiter, what: &Failed) -> bool {
        if waiter.conn.generation != READER {
            return false;
        }
        let Some(key) = self.verifying.of_reader(waiter.conn.index) else {
            return true;
        };
        match what {
            Failed::ForNow => {} // Looked at again at the next tick.
            Failed::Extent | Failed::Moved => self.read_unread(key),
            Failed::Block(why) => {
                if let Some(reading) = self.verifying.pieces.get(&key)
                    && reading.served.torrent.withdraw(key.1, why)
                {
                    self.on_piece_lost(key.0, key.1);
                }
                self.end_verifying(key);
            }
        }
        true
    }

    /// Buffers may have come free, or a tick has passed: what could not be read for want of something is looked at again.
    pub(super) fn tend_verifying(&mut self) {
        for key in self.verifying.keys() {
            self.read_unread(key);
        }
        self.next_in_line();
    }

    /// Reads on, up to a stretch that is worth hashing.
    fn read_unread(&mut self, key: Key) {
        let (_, piece) = key;
        let Some(reading) = self.verifying.pieces.get_mut(&key) else {
            return;
        };
        if reading.hasher.is_none() {
            return; // The pool has what was read last.
        }
        let served = reading.served.clone();
        let geometry = served.torrent.geometry();
        let piece_len = geometry.piece_len(piece);
        let reader = Owner {
            index: reading.reader,
            generation: READER,
        };
        while reading.at < piece_len && reading.stretch.len() < STRETCH_LEN {
            let len = BLOCK_LEN.min(piece_len - reading.at);
            let block = geometry.check(piece.get(), reading.at, len);
            let block = block.expect("a block of the piece");
            let (driver, disk, counters) = (&mut self.driver, &mut self.disk, &mut self.counters);
            let staged = reading.staged.take();
            let staged = staged.or_else(|| stage_for(driver, disk, counters, reader, &served, &block, self.now));
            // Where no buffer is free it waits for one.
            let Some(mut staged) = staged else { return };
            match look(driver, disk, counters, reader, &served, &mut staged) {
                Readiness::Ready => {
                    staged.copy_to(&mut reading.stretch);
                    reading.at += len;
                }
                Readiness::Waiting => {
                    reading.staged = Some(staged);
                    return;
                }
                // Another has taken the buffers meanwhile.
                Readiness::Starved => return,
                // It was withdrawn meanwhile: by another shard, or since its file has changed.
                Readiness::Gone => return self.end_verifying(key),
            }
        }
        let Some(hasher) = reading.hasher.take() else { return };
        let job = Job {
            tag: tag(key.0, piece),
            hasher,
            buffers: vec![Bytes::from(std::mem::take(&mut reading.stretch))],
            source: None,
            then: match reading.at == piece_len {
                true => Then::Verify(*served.torrent.meta().piece_hashes.get(piece)),
                false => Then::Continue,
            },
            reply: self.verifier.reply.clone(),
        };
        self.submit(job);
    }

    /// The pool has hashed a stretch. False if that was of none of these.
    pub(super) fn on_unread_verdict(&mut self, number: u32, piece: u32, outcome: &mut Outcome) -> bool {
        let mut keys = self.verifying.pieces.keys();
        let Some(&key) = keys.find(|(of, index)| *of == number && index.get() == piece) else {
            return false;
        };
        let piece = key.1;
        let Some(reading) = self
            .verifying
            .pieces
            .get_mut(&key)
            .filter(|reading| reading.hasher.is_none())
        else {
            return false;
        };
        match std::mem::replace(outcome, Outcome::Dropped) {
            Outcome::Partial(hasher) => {
                reading.hasher = Some(hasher);
                self.read_unread(key);
            }
            Outcome::Good => {
                if reading.served.torrent.judged(piece) {
                    self.counters.unread_verified += 1;
                }
                self.end_verifying(key);
            }
            Outcome::Bad(_) => {
                let torrent = &reading.served.torrent;
                let why = format!(
                    "piece {} is wrong, as was found when it was first asked for",
                    piece.get()
                );
                // In this order: another shard may look at any moment, and what is neither had nor unread is refused.
                torrent.withdraw_wrong(piece, &why);
                if torrent.judged(piece) {
                    self.counters.unread_wrong += 1;
                }
                self.end_verifying(key);
            }
            // The pool stops: so do we.
            Outcome::Dropped | Outcome::Unread | Outcome::Digest(_) => {}
        }
        true
    }

    /// A piece was judged, or cannot be: those who wait for it go on.
    fn end_verifying(&mut self, key: Key) {
        let Some(reading) = self.verifying.pieces.remove(&key) else {
            return;
        };
        for owner in reading.waiting {
            self.go_on_after(owner);
        }
        self.next_in_line();
    }

    /// Those who wait for a place go on, as many as there are places.
    fn next_in_line(&mut self) {
        let free = PIECES_MAX.saturating_sub(self.verifying.pieces.len());
        for _ in 0..free {
            let Some(owner) = self.verifying.line.pop_front() else {
                return;
            };
            self.go_on_after(owner);
        }
    }

    fn go_on_after(&mut self, owner: Owner) {
        if let Some(peer) = self.conns.get_mut(owner).and_then(|conn| conn.peer_mut()) {
            peer.upload.held_back = false;
            self.touch(owner);
        }
    }
}
