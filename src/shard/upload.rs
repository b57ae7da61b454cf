//! From a request in a peer's queue to bytes in its socket.
//!
//! Once per turn each connection with something to do is pumped: blocks are taken from its queue into the window
//! (*staged*: their extents are looked up, or reads begun), and those whose bytes are there leave in one vectored send.
//! One send is in flight per connection. A block whose extent is still being read does not hold up those behind it.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use super::Shard;
use super::conn::{Conn, PeerConn, Phase, Served};
use super::deadlines::STALLED_TICKS;
use super::disk::{Disk, Failed, Failure, Waiter, file_extent};
use super::ended::Reason;
use crate::io::{Buf, Driver, Errno, Op, Owner, SendBatch};
use crate::proto::geometry::{BLOCK_LEN_MAX, BlockRequest};
use crate::proto::wire::{self, Message};
use crate::stats::Counters;
use crate::storage::extents::{EXTENT_LEN, ExtentId, ExtentKey, Fill};

/// Bytes staged per connection: at first, and at most. The window doubles when a whole batch is taken at once and
/// halves when it is not, so that fast peers are full and slow ones pin little.
const WINDOW_MIN: u32 = 4 * BLOCK_LEN_MAX;
const WINDOW_MAX: u32 = 32 * BLOCK_LEN_MAX;

/// Blocks staged per connection, however short they are: a window of tiny ones would hold half a million.
const STAGED_MAX: usize = 64;

/// Bytes in one send: at 32 blocks the calls per byte no longer count (PERF.md).
const SEND_LEN_MAX: u64 = 32 * BLOCK_LEN_MAX as u64;

/// Stretches a staged block may have. One of more files is gathered into a buffer of its own, so that a block over a
/// thousand tiny files costs one buffer and not a thousand.
const PARTS_MAX: usize = 4;

/// A stretch of a block.
#[derive(Debug)]
enum Part {
    /// In memory and held.
    Held { buf: Rc<Buf>, start: u32, len: u32 },
    /// Being read.
    Waiting {
        id: ExtentId,
        key: ExtentKey,
        start: u32,
        len: u32,
    },
    /// Of a pad file.
    Zeros { len: u32 },
}

/// A block on its way.
#[derive(Debug)]
struct Staged {
    block: BlockRequest,
    asked_at: Instant,
    parts: [Option<Part>; PARTS_MAX],
}

/// The upload side of a connection.
#[derive(Debug)]
pub(super) struct Upload {
    /// When the requests in the queue arrived: so many at each time, oldest first.
    arrivals: VecDeque<(Instant, u32)>,
    /// Taken from the queue, but no buffer was free. To be staged before the rest of the queue.
    unstaged: VecDeque<(BlockRequest, Instant)>,
    /// A request that was admitted cannot be served, and the peer cannot be told: it would wait for ever.
    unanswerable: bool,
    staged: VecDeque<Staged>,
    staged_len: u32,
    window: u32,
    /// When each block of the send in flight was asked for, and their payload bytes.
    sending: Vec<Instant>,
    sending_len: u64,
    /// Whether the batch in flight was taken in more than one go.
    short: bool,
}

impl Default for Upload {
    fn default() -> Self {
        Upload {
            arrivals: VecDeque::new(),
            unstaged: VecDeque::new(),
            unanswerable: false,
            staged: VecDeque::new(),
            staged_len: 0,
            window: WINDOW_MIN,
            sending: Vec::new(),
            sending_len: 0,
            short: false,
        }
    }
}

/// Why a block could not be staged.
enum NotStaged {
    /// Every buffer is in use.
    Full,
}

/// What became of a staged block's look at its extents.
enum Readiness {
    Ready,
    Waiting,
    /// Its extent has left meanwhile, and every buffer is in use; or the extent is broken. Staged anew.
    Starved,
    /// Its piece has been withdrawn.
    Gone,
}

impl<D: Driver> Shard<D> {
    /// Moves a connection on: stages, builds a batch, sends it. While others wait for a buffer it stages nothing but
    /// goes to the end of their line: who asks often must not take what comes free before those who asked first.
    pub(super) fn pump(&mut self, owner: Owner) {
        self.pump_in_line(owner, self.starved.is_empty());
    }

    fn pump_in_line(&mut self, owner: Owner, first: bool) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        conn.touched = false;
        let mut starved = false;
        if let Phase::Peer(peer) = &mut conn.phase {
            starved = match first {
                true => stage(
                    &mut self.driver,
                    &mut self.disk,
                    &mut self.counters,
                    owner,
                    peer,
                    &mut conn.out,
                ),
                false => peer.wants_to_stage(),
            };
            if peer.may_be_heard() {
                self.listenable.push(owner);
            }
        }
        if !conn.sending {
            let mut batch = self.batches.take();
            batch.push_bytes(&conn.out);
            conn.out.clear();
            conn.out.shrink_to(256);
            if let Phase::Peer(peer) = &mut conn.phase {
                // What was read and taken back before its turn came has to be waited for again, or nobody would.
                starved |= collect(
                    &mut self.driver,
                    &mut self.disk,
                    &mut self.counters,
                    owner,
                    peer,
                    &mut batch,
                );
            }
            self.send(owner, batch);
        }
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if conn.peer().is_some_and(|peer| peer.upload.unanswerable) {
            // It comes back, and is told then which pieces there are.
            return self.end(owner, Reason::PieceWithdrawn, None);
        }
        if starved && !conn.starved {
            conn.starved = true;
            self.starved.push_back(owner);
        }
    }

    /// Sends a batch, unless there is nothing in it.
    fn send(&mut self, owner: Owner, batch: Box<SendBatch>) {
        let Some(conn) = self.conns.get_mut(owner) else {
            self.batches.give(batch);
            return;
        };
        if batch.left() == 0 {
            self.batches.give(batch);
            return;
        }
        conn.sending = true;
        conn.sent_at = self.tick;
        let socket = conn.socket.clone();
        let zero_copy = false;
        self.driver.submit(
            owner,
            Op::Send {
                socket,
                batch,
                zero_copy,
            },
        );
        self.wake_at(owner, self.tick + STALLED_TICKS);
    }

    /// A send has ended, perhaps in part.
    pub(super) fn on_sent(&mut self, owner: Owner, result: Result<u32, Errno>, mut batch: Box<SendBatch>) {
        let Some(conn) = self.conns.get_mut(owner) else {
            self.batches.give(batch);
            return;
        };
        match result {
            Ok(taken) => {
                batch.advance(taken);
                conn.sent_at = self.tick;
            }
            // Cancelled unasked, or interrupted: nothing was taken, go on.
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => {
                self.batches.give(batch);
                return self.end(owner, Reason::Reset, Some(errno));
            }
        }
        if batch.left() > 0 {
            if result.is_ok() {
                self.counters.short_sends += 1;
                if let Some(peer) = conn.peer_mut() {
                    peer.upload.short = true;
                }
            }
            let socket = conn.socket.clone();
            let zero_copy = false;
            self.driver.submit(
                owner,
                Op::Send {
                    socket,
                    batch,
                    zero_copy,
                },
            );
            return;
        }
        self.batches.give(batch);
        conn.sending = false;
        if let Phase::Peer(peer) = &mut conn.phase {
            let upload = &mut peer.upload;
            self.counters.uploaded_bytes += upload.sending_len;
            self.counters.uploaded_blocks += upload.sending.len() as u64;
            peer.uploaded_since_unchoke += upload.sending_len;
            peer.rate.add(upload.sending_len, self.now);
            for asked_at in upload.sending.drain(..) {
                let latency = self.now.saturating_duration_since(asked_at);
                self.request_latency.record(latency, 1);
            }
            upload.sending_len = 0;
            upload.window = match std::mem::take(&mut upload.short) {
                true => (upload.window / 2).max(WINDOW_MIN),
                false => (upload.window * 2).min(WINDOW_MAX),
            };
        }
        self.touch(owner);
    }

    /// Buffers may have come free: those who wait for one try again, in order, until one is told to wait once more.
    pub(super) fn feed_starved(&mut self) {
        for _ in 0..self.starved.len() {
            let Some(owner) = self.starved.pop_front() else {
                return;
            };
            let Some(conn) = self.conns.get_mut(owner) else {
                continue;
            };
            conn.starved = false;
            self.pump_in_line(owner, true);
            if self.conns.get(owner).is_some_and(|conn| conn.starved) {
                // The first in line stays the first.
                self.starved.pop_back();
                self.starved.push_front(owner);
                return;
            }
        }
    }

    /// Extents could not be read: what was wanted from them is read another way, or later, or withdrawn.
    pub(super) fn on_disk_failures(&mut self) {
        for Failure { waiters, served, what } in std::mem::take(&mut self.disk.failures) {
            for Waiter { conn, piece } in waiters {
                match &what {
                    Failed::ForNow => {
                        self.later.push(conn);
                        continue;
                    }
                    Failed::Extent => {}
                    // The supervisor tells it once per torrent.
                    Failed::Block(why) => {
                        if served.torrent.withdraw(piece, why) {
                            let torrent = served.torrent.info_hash();
                            tracing::debug!(%torrent, piece = piece.get(), "piece is no longer served: {why}");
                        }
                    }
                }
                self.touch(conn);
            }
        }
    }
}

/// Takes requests from the peer's queue into its window. True when it has to wait for a free buffer.
fn stage<D: Driver>(
    driver: &mut D,
    disk: &mut Disk,
    counters: &mut Counters,
    owner: Owner,
    peer: &mut PeerConn,
    out: &mut Vec<u8>,
) -> bool {
    while peer.upload.has_window() {
        let Some((block, asked_at)) = peer.next_request() else {
            return false;
        };
        if !peer.served.torrent.has(block.piece()) {
            refuse(counters, peer, out, &block);
            continue;
        }
        match parts_of(driver, disk, counters, owner, &peer.served, &block) {
            Ok(parts) => {
                peer.upload.staged_len += block.length();
                peer.upload.staged.push_back(Staged { block, asked_at, parts });
            }
            Err(NotStaged::Full) => {
                peer.upload.unstaged.push_front((block, asked_at));
                return true;
            }
        }
    }
    false
}

/// Looks up or begins to read all stretches of a block.
fn parts_of<D: Driver>(
    driver: &mut D,
    disk: &mut Disk,
    counters: &mut Counters,
    owner: Owner,
    served: &Rc<Served>,
    block: &BlockRequest,
) -> Result<[Option<Part>; PARTS_MAX], NotStaged> {
    let waiter = Waiter {
        conn: owner,
        piece: block.piece(),
    };
    let offset = served.torrent.geometry().offset(block);
    if part_count(disk, served, offset, block.length()) > PARTS_MAX {
        let key = ExtentKey::Block {
            torrent: served.number,
            offset,
            len: block.length(),
        };
        let id = disk
            .acquire(driver, counters, served, key, waiter)
            .ok_or(NotStaged::Full)?;
        let mut parts = [const { None }; PARTS_MAX];
        parts[0] = Some(waiting(disk, id, key, 0, block.length()));
        return Ok(parts);
    }
    let mut parts = [const { None }; PARTS_MAX];
    let mut free = parts.iter_mut();
    let mut push = |part| *free.next().expect("counted above") = Some(part);
    for span in served.torrent.layout().spans(offset, u64::from(block.length())) {
        if span.pad {
            push(Part::Zeros { len: span.len as u32 });
            continue;
        }
        let (mut at, mut rest) = (span.offset, span.len as u32);
        while rest > 0 {
            let (key, start) = file_extent(served.number, span.file, at);
            let len = rest.min(EXTENT_LEN - start);
            let id = disk
                .acquire(driver, counters, served, key, waiter)
                .ok_or(NotStaged::Full)?;
            push(waiting(disk, id, key, start, len));
            at += u64::from(len);
            rest -= len;
        }
    }
    Ok(parts)
}

/// How many stretches of files, cut at the ends of extents, make up a block; counting stops when they are too many. A
/// block in a broken extent counts as too many: gathered by itself, it needs nothing of the extent but its own bytes.
fn part_count(disk: &Disk, served: &Served, offset: u64, len: u32) -> usize {
    let mut count = 0;
    for span in served.torrent.layout().spans(offset, u64::from(len)) {
        if span.pad {
            count += 1;
        } else {
            let (first, start) = file_extent(served.number, span.file, span.offset);
            let (last, _) = file_extent(served.number, span.file, span.offset + span.len - 1);
            if disk.is_broken(&first) || disk.is_broken(&last) {
                return usize::MAX;
            }
            count += (u64::from(start) + span.len).div_ceil(u64::from(EXTENT_LEN)) as usize;
        }
        if count > PARTS_MAX {
            break;
        }
    }
    count
}

/// A stretch of an extent that was found or begun: held if it is there.
fn waiting(disk: &Disk, id: ExtentId, key: ExtentKey, start: u32, len: u32) -> Part {
    match disk.extents.get(id) {
        Some(Fill::Ready(buf)) => Part::Held {
            buf: buf.clone(),
            start,
            len,
        },
        Some(Fill::Pending) | None => Part::Waiting { id, key, start, len },
    }
}

/// Puts the staged blocks that are in memory into the batch, as many as one send takes. Whether one of the others is
/// neither in memory nor on its way, since no buffer is free.
fn collect<D: Driver>(
    driver: &mut D,
    disk: &mut Disk,
    counters: &mut Counters,
    owner: Owner,
    peer: &mut PeerConn,
    batch: &mut SendBatch,
) -> bool {
    let (mut at, mut starved) = (0, false);
    while at < peer.upload.staged.len() && batch.left() < SEND_LEN_MAX && batch.has_room(PARTS_MAX + 1) {
        let staged = &mut peer.upload.staged[at];
        match look(driver, disk, counters, owner, &peer.served, staged) {
            Readiness::Waiting => at += 1,
            // What it holds goes back meanwhile: two that each hold half of what the other needs would wait for ever.
            Readiness::Starved => {
                let staged = peer.upload.staged.remove(at).expect("in range");
                peer.upload.staged_len -= staged.block.length();
                peer.upload.unstaged.push_back((staged.block, staged.asked_at));
                starved = true;
            }
            Readiness::Ready => {
                let staged = peer.upload.staged.remove(at).expect("in range");
                push_block(batch, staged.parts, &staged.block);
                peer.upload.staged_len -= staged.block.length();
                peer.upload.sending.push(staged.asked_at);
                peer.upload.sending_len += u64::from(staged.block.length());
            }
            Readiness::Gone => {
                let staged = peer.upload.staged.remove(at).expect("in range");
                peer.upload.staged_len -= staged.block.length();
                let mut out = Vec::new();
                refuse(counters, peer, &mut out, &staged.block);
                batch.push_bytes(&out);
            }
        }
    }
    starved
}

/// Whether all of a staged block is in memory by now.
fn look<D: Driver>(
    driver: &mut D,
    disk: &mut Disk,
    counters: &mut Counters,
    owner: Owner,
    served: &Rc<Served>,
    staged: &mut Staged,
) -> Readiness {
    let waiter = Waiter {
        conn: owner,
        piece: staged.block.piece(),
    };
    let mut readiness = Readiness::Ready;
    for part in staged.parts.iter_mut().flatten() {
        let Part::Waiting { id, key, start, len } = *part else {
            continue;
        };
        match disk.extents.get(id) {
            Some(Fill::Ready(buf)) => {
                *part = Part::Held {
                    buf: buf.clone(),
                    start,
                    len,
                };
            }
            Some(Fill::Pending) => readiness = Readiness::Waiting,
            // Failed, and then the piece is withdrawn; or read and taken back before this connection had its turn.
            None if !served.torrent.has(staged.block.piece()) => return Readiness::Gone,
            // To be staged anew, without the extent.
            None if disk.is_broken(&key) => return Readiness::Starved,
            None => match disk.acquire(driver, counters, served, key, waiter) {
                Some(id) => {
                    *part = waiting(disk, id, key, start, len);
                    if matches!(part, Part::Waiting { .. }) {
                        readiness = Readiness::Waiting;
                    }
                }
                None => readiness = Readiness::Starved,
            },
        }
    }
    readiness
}

fn push_block(batch: &mut SendBatch, parts: [Option<Part>; PARTS_MAX], block: &BlockRequest) {
    batch.push_bytes(&wire::piece_header(block));
    for part in parts.into_iter().flatten() {
        match part {
            Part::Held { buf, start, len } => batch.push_buffer(buf, start, len),
            Part::Zeros { len } => {
                const ZEROS: [u8; BLOCK_LEN_MAX as usize] = [0; BLOCK_LEN_MAX as usize];
                batch.push_bytes(&ZEROS[..len as usize]);
            }
            Part::Waiting { id, .. } => unreachable!("{id:?} is not there"),
        }
    }
}

/// Answers a request that will not be served.
fn refuse(counters: &mut Counters, peer: &mut PeerConn, out: &mut Vec<u8>, block: &BlockRequest) {
    counters.requests_refused += 1;
    match peer.peer.fast() {
        true => wire::encode(&Message::reject(block), out),
        false => peer.upload.unanswerable = true,
    }
}

impl Upload {
    /// A request was admitted to the peer's queue.
    pub(super) fn on_request(&mut self, now: Instant) {
        match self.arrivals.back_mut() {
            Some((at, count)) if *at == now => *count += 1,
            _ => self.arrivals.push_back((now, 1)),
        }
    }

    /// A request left the queue unserved; which one does not matter for a histogram.
    pub(super) fn on_cancel(&mut self) {
        self.pop_arrival();
    }

    /// The queue was emptied. Gives the blocks that had left it and were not staged: they are not sent either.
    pub(super) fn on_choke(&mut self) -> impl Iterator<Item = BlockRequest> + use<> {
        self.arrivals = VecDeque::new();
        std::mem::take(&mut self.unstaged).into_iter().map(|(block, _)| block)
    }

    fn has_window(&self) -> bool {
        self.staged_len < self.window && self.staged.len() < STAGED_MAX
    }

    /// Blocks in the window.
    #[cfg(test)]
    pub(super) fn staged_count(&self) -> usize {
        self.staged.len()
    }

    fn pop_arrival(&mut self) -> Option<Instant> {
        let (at, count) = self.arrivals.front_mut()?;
        let arrived = *at;
        *count -= 1;
        if *count == 0 {
            self.arrivals.pop_front();
        }
        Some(arrived)
    }
}

impl PeerConn {
    /// Whether there is a request that the window has room for.
    fn wants_to_stage(&self) -> bool {
        let upload = &self.upload;
        upload.has_window() && (!upload.unstaged.is_empty() || self.peer.request_count() > 0)
    }

    /// The next block to stage, and when it was asked for.
    fn next_request(&mut self) -> Option<(BlockRequest, Instant)> {
        if let Some(unstaged) = self.upload.unstaged.pop_front() {
            return Some(unstaged);
        }
        let block = self.peer.next_request()?;
        let arrived = self.upload.pop_arrival().unwrap_or(self.peer.heard_at());
        Some((block, arrived))
    }
}

impl Conn {
    /// Queues a small message.
    pub(super) fn say(&mut self, message: &Message<'_>) {
        wire::encode(message, &mut self.out);
    }
}
