//! Blocks on their way from a peer's queue to a batch: what they wait for, and what they hold.

use std::rc::Rc;
use std::time::Instant;

use super::conn::{PeerConn, Served};
use super::disk::{Disk, Waiter};
use super::upload::Sending;
use crate::io::{Buf, Driver, Owner, SendBatch};
use crate::proto::geometry::{BLOCK_LEN_MAX, BlockRequest, PieceIndex};
use crate::proto::wire;
use crate::stats::Counters;
use crate::storage::extents::{EXTENT_LEN, ExtentId, ExtentKey, Fill};

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
        /// The file's place in the torrent, for the extent of a file.
        file: u32,
        start: u32,
        len: u32,
    },
    /// Of a pad file.
    Zeros { len: u32 },
}

/// A block on its way.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) block: BlockRequest,
    pub(super) asked_at: Instant,
    parts: [Option<Part>; PARTS_MAX],
}

/// Why a block could not be staged.
enum NotStaged {
    /// Every buffer is in use.
    Full,
}

/// What became of a staged block's look at its extents.
pub(super) enum Readiness {
    Ready,
    Waiting,
    /// Its extent has left meanwhile, and every buffer is in use; or the extent is broken. Staged anew.
    Starved,
    /// It cannot be read any more, and its piece is not there.
    Gone,
}

/// Why no more requests are taken from a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// There are none, or the window is full.
    Enough,
    /// Every buffer is in use.
    Full,
    /// The next one is for a piece that has to be verified first.
    Unread(PieceIndex),
}

/// Takes requests from the peer's queue into its window, as far as that goes.
pub(super) fn stage<D: Driver>(
    driver: &mut D,
    disk: &mut Disk,
    counters: &mut Counters,
    owner: Owner,
    peer: &mut PeerConn,
    out: &mut Vec<u8>,
) -> Stopped {
    while peer.upload.has_window() {
        let Some((block, asked_at)) = peer.next_request() else {
            return Stopped::Enough;
        };
        if !peer.served.torrent.has(block.piece()) {
            refuse(counters, peer, out, &block);
            continue;
        }
        if peer.served.torrent.is_unread(block.piece()) {
            peer.upload.unstaged.push_front((block, asked_at));
            return Stopped::Unread(block.piece());
        }
        // Asked once more: it may have been judged wrong by another shard between the two.
        if !peer.served.torrent.has(block.piece()) {
            refuse(counters, peer, out, &block);
            continue;
        }
        let misses = counters.cache_misses;
        match parts_of(driver, disk, counters, owner, &peer.served, &block) {
            Ok(parts) => {
                let missed = counters.cache_misses > misses;
                read_ahead(driver, disk, counters, owner, peer, &block, missed);
                peer.upload.staged_len += block.length();
                peer.upload.staged.push_back(Staged { block, asked_at, parts });
            }
            Err(NotStaged::Full) => {
                peer.upload.unstaged.push_front((block, asked_at));
                return Stopped::Full;
            }
        }
    }
    Stopped::Enough
}

/// Looks up or begins to read all stretches of a block that no peer has asked for. `None`: every buffer is in use.
pub(super) fn stage_for<D: Driver>(
    driver: &mut D,
    disk: &mut Disk,
    counters: &mut Counters,
    reader: Owner,
    served: &Rc<Served>,
    block: &BlockRequest,
    now: Instant,
) -> Option<Staged> {
    let parts = parts_of(driver, disk, counters, reader, served, block).ok()?;
    Some(Staged {
        block: *block,
        asked_at: now,
        parts,
    })
}

impl Staged {
    /// Appends its bytes, of a block that is ready.
    pub(super) fn copy_to(&self, out: &mut Vec<u8>) {
        for part in self.parts.iter().flatten() {
            match part {
                Part::Held { buf, start, len } => {
                    out.extend_from_slice(&buf.as_slice()[*start as usize..][..*len as usize]);
                }
                Part::Zeros { len } => out.resize(out.len() + *len as usize, 0),
                Part::Waiting { id, .. } => unreachable!("{id:?} is not there"),
            }
        }
    }
}

/// Extents read at once where heads move, 1 MiB: half as long as the way there takes.
const STRETCH: u64 = 8;

/// Begins to read the next extent of the piece for a peer that goes through it in order, when it comes to the start of
/// one: it will be there when it is asked for. Who asks for much at a time has asked for it already.
///
/// Where heads move, what follows in the piece is read with everything that `missed`, as far as the buffers go round.
fn read_ahead<D: Driver>(
    driver: &mut D,
    disk: &mut Disk,
    counters: &mut Counters,
    owner: Owner,
    peer: &mut PeerConn,
    block: &BlockRequest,
    missed: bool,
) {
    let served = &peer.served;
    let geometry = served.torrent.geometry();
    let (start, len) = (geometry.offset(block), u64::from(block.length()));
    let upload = &mut peer.upload;
    upload.run_len = match upload.run_end == start {
        true => upload.run_len + len,
        false => len,
    };
    upload.run_end = start + len;
    let piece_end = geometry.piece_offset(block.piece()) + u64::from(geometry.piece_len(block.piece()));
    let wanted = upload.staged.len() + upload.sending.len() + peer.peer.request_count();
    let sees_far = wanted >= (EXTENT_LEN / BLOCK_LEN_MAX) as usize;
    let goes_on = upload.run_len > u64::from(EXTENT_LEN) && !sees_far;
    if !(missed || goes_on) {
        return;
    }
    let file_at = |at| served.torrent.layout().spans(at, 1).next().expect("within the torrent");
    let here = file_at(start);
    let stretch = match missed && disk.seeks(served, here.file) {
        true => STRETCH.min(disk.extents.ahead_max(driver.pool().count() as usize) as u64),
        false => {
            let begins_extent = here.offset > 0 && here.offset.is_multiple_of(u64::from(EXTENT_LEN));
            u64::from(goes_on && begins_extent) + 1
        }
    };
    // Where the next extent of the file begins.
    let next = start + u64::from(EXTENT_LEN) - here.offset % u64::from(EXTENT_LEN);
    for ahead in (0..stretch.saturating_sub(1)).map(|extents| next + extents * u64::from(EXTENT_LEN)) {
        if ahead >= piece_end {
            return;
        }
        let there = file_at(ahead);
        if there.file != here.file || there.pad {
            return;
        }
        let (key, _) = disk.file_extent(served, there.file, there.offset);
        disk.read_ahead(driver, counters, served, key, there.file, owner.index);
    }
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
            .acquire(driver, counters, served, key, 0, waiter)
            .ok_or(NotStaged::Full)?;
        let mut parts = [const { None }; PARTS_MAX];
        parts[0] = Some(waiting(disk, id, key, 0, (0, block.length())));
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
            let (key, start) = disk.file_extent(served, span.file, at);
            let len = rest.min(EXTENT_LEN - start);
            let id = disk
                .acquire(driver, counters, served, key, span.file, waiter)
                .ok_or(NotStaged::Full)?;
            push(waiting(disk, id, key, span.file, (start, len)));
            at += u64::from(len);
            rest -= len;
        }
    }
    Ok(parts)
}

/// How many stretches of files, cut at the ends of extents, make up a block; counting stops when they are too many. A
/// block in a broken extent counts as too many: gathered by itself, it needs nothing of the extent but its own bytes.
fn part_count(disk: &mut Disk, served: &Served, offset: u64, len: u32) -> usize {
    let mut count = 0;
    for span in served.torrent.layout().spans(offset, u64::from(len)) {
        if span.pad {
            count += 1;
        } else {
            if disk.has_broken() {
                let (first, _) = disk.file_extent(served, span.file, span.offset);
                let (last, _) = disk.file_extent(served, span.file, span.offset + span.len - 1);
                if disk.is_broken(&first) || disk.is_broken(&last) {
                    return usize::MAX;
                }
            }
            let start = span.offset % u64::from(EXTENT_LEN);
            count += (start + span.len).div_ceil(u64::from(EXTENT_LEN)) as usize;
        }
        if count > PARTS_MAX {
            break;
        }
    }
    count
}

/// A stretch of an extent that was found or begun: held if it is there.
fn waiting(disk: &Disk, id: ExtentId, key: ExtentKey, file: u32, (start, len): (u32, u32)) -> Part {
    match disk.extents.get(id) {
        Some(Fill::Ready(buf)) => Part::Held {
            buf: buf.clone(),
            start,
            len,
        },
        Some(Fill::Pending) | None => Part::Waiting {
            id,
            key,
            file,
            start,
            len,
        },
    }
}

/// Puts the staged blocks that are in memory into the batch, as many as one send takes; what is said of the others goes
/// to `out`, so that a batch holds nothing but blocks behind its small messages. Whether one of the others is
/// neither in memory nor on its way, since no buffer is free.
pub(super) fn collect<D: Driver>(
    driver: &mut D,
    disk: &mut Disk,
    counters: &mut Counters,
    owner: Owner,
    peer: &mut PeerConn,
    out: &mut Vec<u8>,
    batch: &mut SendBatch,
) -> bool {
    let (mut at, mut starved) = (0, false);
    // Where the next block begins in the batch, of which nothing has been sent.
    let mut end = batch.left();
    let send_len_max = SEND_LEN_MAX.min(u64::from(peer.upload.share));
    while at < peer.upload.staged.len() && batch.left() < send_len_max && batch.has_room(PARTS_MAX + 1) {
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
                peer.upload.staged_len -= staged.block.length();
                push_block(batch, staged.parts, &staged.block);
                let start = std::mem::replace(&mut end, batch.left());
                peer.upload.sending.push_back(Sending {
                    block: staged.block,
                    asked_at: staged.asked_at,
                    start,
                    end,
                });
            }
            Readiness::Gone => {
                let staged = peer.upload.staged.remove(at).expect("in range");
                peer.upload.staged_len -= staged.block.length();
                refuse(counters, peer, out, &staged.block);
            }
        }
    }
    starved
}

/// Whether all of a staged block is in memory by now.
pub(super) fn look<D: Driver>(
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
        let Part::Waiting {
            id,
            key,
            file,
            start,
            len,
        } = *part
        else {
            continue;
        };
        match disk.extents.get(id) {
            // Withdrawn while it was read, as by a sync that failed: what came may be what the disk has now.
            Some(Fill::Ready(_)) if !served.torrent.has(staged.block.piece()) => return Readiness::Gone,
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
            // To be staged anew, without the extent, or from the one it is in now.
            None if disk.is_broken(&key) || !disk.is_of(&key, served, file) => return Readiness::Starved,
            None => match disk.acquire(driver, counters, served, key, file, waiter) {
                Some(id) => {
                    *part = waiting(disk, id, key, file, (start, len));
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

/// Answers a request for a piece that is gone.
fn refuse(counters: &mut Counters, peer: &mut PeerConn, out: &mut Vec<u8>, block: &BlockRequest) {
    counters.requests_refused += 1;
    peer.upload.unanswerable |= !peer.gone.answer(&peer.peer, block, out);
}
