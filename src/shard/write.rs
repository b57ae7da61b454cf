//! Writing pieces: one write for each file that a piece lies in, past the page cache where the filesystem allows and the
//! piece is long enough; what of it does not fill whole pages at its ends goes through the page cache.
//!
//! A piece, or a run of its blocks, is handed on when all of it is written. What a disk does not take is kept and tried again
//! by whoever hears of it; nothing is lost on the way. Syncing is not here, since it waits for the disk: the control plane does it.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use super::Torrent;
use super::conn::Served;
use super::slots::Slots;
use super::spares::ALIGNMENT;
use crate::io::{Driver, Errno, Op, Opened, Owner};
use crate::proto::geometry::PieceIndex;
use crate::stats::Counters;
use crate::storage::open_files::{FileKey, Found, OpenFiles};

/// Files held open to be written to.
pub(super) const FILES_MAX: usize = 16;

/// Stretches of a piece that are written at a time: one of a thousand small files would open all of them.
const SPANS_MAX: usize = 16;

/// Tries of an operation that was cancelled unasked (io-wq found no thread) or interrupted.
const TRIES_MAX: u8 = 4;

/// What became of a piece.
#[derive(Debug)]
pub(super) enum Ended {
    /// All of it is written.
    Written {
        number: u32,
        piece: PieceIndex,
        /// What [`Writes::begin`] gave.
        run: Owner,
        bytes: Bytes,
    },
    /// A part of it was refused, and waits for [`Writes::again`] or [`Writes::give_up`].
    Refused { number: u32, span: Owner, refusal: Refusal },
    /// It was given up, and nothing of it is under way any more.
    GivenUp {
        number: u32,
        piece: PieceIndex,
        /// What [`Writes::begin`] gave.
        run: Owner,
    },
}

/// Why a write was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The disk is full, or the quota.
    Full(String),
    /// The file is not there any more.
    Gone(String),
    /// Anything else.
    Failed(String),
}

/// A piece on its way to the disk.
#[derive(Debug)]
struct Piece {
    served: Rc<Served>,
    piece: PieceIndex,
    bytes: Bytes,
    spans_left: usize,
    /// Of them, those that were refused: nothing of these is under way.
    refused: usize,
    given_up: bool,
    /// Those that have not begun.
    waiting: Vec<Owner>,
}

/// A stretch of it that lies in one file.
#[derive(Debug)]
struct Span {
    piece: Owner,
    file: u32,
    offset: u64,
    /// What is left of it.
    bytes: Bytes,
    /// Whether it goes past the page cache.
    direct: bool,
    /// It waits for [`Writes::again`] or [`Writes::give_up`].
    refused: bool,
    tries: u8,
}

#[derive(Debug)]
struct Opening {
    direct: bool,
    key: FileKey,
    served: Rc<Served>,
    tries: u8,
}

/// The writes of a shard.
#[derive(Debug)]
pub(super) struct Writes {
    pieces: Slots<Piece>,
    spans: Slots<Span>,
    openings: Slots<Opening>,
    /// Files that are written to through the page cache, and past it.
    files: [OpenFiles<Owner>; 2],
    /// Whether the filesystems met so far can be written to past the page cache.
    direct: bool,
    /// Whether the kernel and the filesystems met so far take `RWF_DONTCACHE`.
    uncached: bool,
    pub(super) ended: VecDeque<Ended>,
}

impl Writes {
    pub(super) fn new() -> Writes {
        Writes {
            pieces: Slots::new(),
            spans: Slots::new(),
            openings: Slots::new(),
            files: [OpenFiles::new(FILES_MAX / 2), OpenFiles::new(FILES_MAX / 2)],
            direct: true,
            uncached: true,
            ended: VecDeque::new(),
        }
    }

    /// It is so late since the shard began.
    pub(super) fn on_time(&mut self, now: std::time::Duration) {
        self.files.iter_mut().for_each(|files| files.on_time(now));
    }

    /// Pieces that are not written yet.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Writes what begins at `begin` of a piece: all of it, once it was verified, or a run of its blocks. `lies_alike`: it was put
    /// into memory as it lies in its file. What was not may do so by accident, and is not to be written in another way for that.
    pub(super) fn begin<D: Driver>(
        &mut self,
        driver: &mut D,
        counters: &mut Counters,
        served: Rc<Served>,
        (piece, begin): (PieceIndex, u32),
        (bytes, lies_alike): (Bytes, bool),
    ) -> Owner {
        let torrent = served.torrent.clone();
        // Where FUSE had cut writes past the page cache short, as where a disk is full, files were called complete that had wrong bytes
        // (Linux 6.18). Presumably the ring goes on with the rest in the wrong place; that was not traced.
        let direct = self.direct && lies_alike && !torrent.root().is_distant();
        let geometry = torrent.geometry();
        let spans = torrent
            .layout()
            .spans(geometry.piece_offset(piece) + u64::from(begin), bytes.len() as u64);
        let owner = self.pieces.insert(Piece {
            served,
            piece,
            bytes: bytes.clone(),
            spans_left: 0,
            refused: 0,
            given_up: false,
            waiting: Vec::new(),
        });
        let (mut begun, mut at) = (Vec::new(), 0);
        for span in spans {
            let len = usize::try_from(span.len).expect("a piece fits in memory");
            if !span.pad {
                for (part, direct) in parts_of(span.offset, &bytes[at..at + len], direct) {
                    begun.push(self.spans.insert(Span {
                        piece: owner,
                        file: span.file,
                        offset: span.offset + part.start as u64,
                        bytes: bytes.slice(at + part.start..at + part.end),
                        direct,
                        refused: false,
                        tries: 0,
                    }));
                }
            }
            at += len;
        }
        drop(bytes);
        if let Some(piece) = self.pieces.get_mut(owner) {
            piece.spans_left = begun.len();
            piece.waiting = begun.split_off(begun.len().min(SPANS_MAX));
            piece.waiting.reverse();
        }
        match begun.is_empty() {
            true => self.end_piece(owner),
            false => begun.into_iter().for_each(|span| self.go_on(driver, counters, span)),
        }
        owner
    }

    /// Tries a stretch again that was refused.
    pub(super) fn again<D: Driver>(&mut self, driver: &mut D, counters: &mut Counters, span: Owner) {
        if let Some(span) = self.spans.get_mut(span) {
            span.tries = 0;
            if std::mem::take(&mut span.refused)
                && let Some(piece) = self.pieces.get_mut(span.piece)
            {
                piece.refused -= 1;
            }
        }
        self.go_on(driver, counters, span);
    }

    /// Which piece on its way a stretch belongs to.
    pub(super) fn piece_of(&self, span: Owner) -> Option<Owner> {
        Some(self.spans.get(span)?.piece)
    }

    /// Nobody wants a stretch any more that was refused, nor its piece. Gives which that is, and what
    /// [`Writes::begin`] gave for it, the first time. Other stretches may be under way, and overwrite what is written in
    /// their place meanwhile: when none is any more, [`Ended::GivenUp`] tells it.
    pub(super) fn give_up(&mut self, span: Owner) -> Option<(PieceIndex, Owner)> {
        let span = self.spans.remove(span)?;
        let piece = self.pieces.get_mut(span.piece)?;
        piece.refused -= usize::from(span.refused);
        piece.spans_left -= 1 + piece.waiting.len();
        for waiting in std::mem::take(&mut piece.waiting) {
            self.spans.remove(waiting);
        }
        let is_news = !std::mem::replace(&mut piece.given_up, true);
        let index = piece.piece;
        self.end_given_up(span.piece);
        is_news.then_some((index, span.piece))
    }

    /// Forgets a piece that was given up, if nothing of it is under way.
    fn end_given_up(&mut self, run: Owner) {
        let is_over = |piece: &Piece| piece.given_up && piece.spans_left == piece.refused;
        if self.pieces.get(run).is_some_and(is_over)
            && let Some(Piece { served, piece, .. }) = self.pieces.remove(run)
        {
            let number = served.number;
            self.ended.push_back(Ended::GivenUp { number, piece, run });
        }
    }

    /// A torrent has left: its files are closed.
    pub(super) fn forget(&mut self, torrent: u32) {
        for files in [0, 1] {
            for span in self.files[files].forget(torrent) {
                let _ = self.give_up(span);
            }
        }
    }

    fn go_on<D: Driver>(&mut self, driver: &mut D, counters: &mut Counters, owner: Owner) {
        let Some(span) = self.spans.get(owner) else { return };
        let Some(piece) = self.pieces.get(span.piece) else {
            self.spans.remove(owner); // Its torrent left.
            return;
        };
        if piece.given_up {
            let _ = self.give_up(owner);
            return;
        }
        let key = FileKey {
            torrent: piece.served.number,
            file: span.file,
        };
        let direct = span.direct;
        match self.files[usize::from(direct)].get(key, owner) {
            Found::Open(file, _) => {
                counters.disk_writes += 1;
                driver.submit(
                    owner,
                    Op::Write {
                        file,
                        offset: span.offset,
                        bytes: span.bytes.clone(),
                        uncached: self.uncached && !direct,
                    },
                );
            }
            Found::Opening => {}
            Found::Closed => {
                let served = piece.served.clone();
                let opening = self.openings.insert(Opening {
                    direct,
                    key,
                    served,
                    tries: 0,
                });
                self.open(driver, counters, opening);
            }
        }
    }

    fn open<D: Driver>(&mut self, driver: &mut D, counters: &mut Counters, owner: Owner) {
        let Some(opening) = self.openings.get(owner) else {
            return;
        };
        let torrent = &opening.served.torrent;
        match torrent.path(opening.key.file, torrent.is_part(opening.key.file)) {
            Some(path) => {
                let (dir, write) = (torrent.root().clone(), true);
                let apart = dir.is_distant();
                driver.submit(
                    owner,
                    Op::Open {
                        dir,
                        path,
                        write,
                        apart,
                    },
                );
            }
            None => self.on_opened(driver, counters, owner, Err(Errno::NOENT)),
        }
    }

    /// An open has ended.
    pub(super) fn on_opened<D: Driver>(
        &mut self,
        driver: &mut D,
        counters: &mut Counters,
        owner: Owner,
        result: Result<Opened, Errno>,
    ) {
        let Some(opening) = self.openings.get_mut(owner) else {
            return;
        };
        let direct = opening.direct;
        if !self.files[usize::from(direct)].is_opening(opening.key) {
            self.openings.remove(owner); // Its torrent left.
            return;
        }
        opening.tries += 1;
        match result {
            Ok(opened) if opened.regular => {
                let key = opening.key;
                self.openings.remove(owner);
                // Some filesystems have no O_DIRECT: then it is as the other.
                if direct && driver.set_direct(&opened.file, true).is_err() {
                    self.direct = false;
                }
                for span in self.files[usize::from(direct)].opened(key, opened.file, opened.device) {
                    self.go_on(driver, counters, span);
                }
            }
            // It may be getting its final name at this moment.
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN | Errno::NOENT) if opening.tries < TRIES_MAX => {
                self.open(driver, counters, owner);
            }
            failed => {
                counters.disk_errors += 1;
                let Some(opening) = self.openings.remove(owner) else {
                    return;
                };
                for span in self.files[usize::from(direct)].failed(opening.key) {
                    self.refuse(span, failed.as_ref().map_or_else(|errno| *errno, |_| Errno::INVAL));
                }
            }
        }
    }

    /// A write has ended.
    pub(super) fn on_written<D: Driver>(
        &mut self,
        driver: &mut D,
        counters: &mut Counters,
        owner: Owner,
        result: Result<u32, Errno>,
        bytes: Bytes,
    ) {
        // So that the piece's bytes are its own again when it is handed on.
        drop(bytes);
        let Some(span) = self.spans.get_mut(owner) else {
            return;
        };
        match result {
            Ok(0) => self.refuse(owner, Errno::IO),
            Ok(written) => {
                counters.disk_written_bytes += u64::from(written);
                let written = (written as usize).min(span.bytes.len());
                let _ = span.bytes.split_to(written);
                span.offset += written as u64;
                if !span.bytes.is_empty() {
                    // The rest may begin anywhere.
                    span.direct = false;
                    return self.go_on(driver, counters, owner);
                }
                let Some(span) = self.spans.remove(owner) else { return };
                let of = span.piece;
                drop(span);
                let Some(piece) = self.pieces.get_mut(of) else {
                    return;
                };
                piece.spans_left -= 1;
                if piece.given_up {
                    self.end_given_up(of);
                } else if let Some(next) = piece.waiting.pop() {
                    self.go_on(driver, counters, next);
                } else if piece.spans_left == 0 {
                    self.end_piece(of);
                }
            }
            // Another alignment than ours, or none at all.
            Err(Errno::OPNOTSUPP | Errno::INVAL) if span.direct => {
                self.direct = false;
                span.direct = false;
                self.go_on(driver, counters, owner);
            }
            Err(Errno::OPNOTSUPP | Errno::INVAL) if self.uncached => {
                self.uncached = false;
                self.go_on(driver, counters, owner);
            }
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN | Errno::OPNOTSUPP) if span.tries < TRIES_MAX => {
                span.tries += 1;
                self.go_on(driver, counters, owner);
            }
            Err(errno) => {
                counters.disk_errors += 1;
                self.refuse(owner, errno);
            }
        }
    }

    fn refuse(&mut self, owner: Owner, errno: Errno) {
        let Some(span) = self.spans.get_mut(owner) else { return };
        let Some(piece) = self.pieces.get_mut(span.piece) else {
            self.spans.remove(owner);
            return;
        };
        if piece.given_up {
            let _ = self.give_up(owner);
            return;
        }
        span.refused = true;
        piece.refused += 1;
        let (number, file) = (piece.served.number, span.file);
        let path = &piece.served.torrent.meta().files[file as usize].path;
        let refusal = match errno {
            Errno::NOSPC => Refusal::Full(format!("{path}: the disk is full")),
            Errno::DQUOT => Refusal::Full(format!("{path}: the disk quota of btd's user is used up")),
            Errno::NOENT => Refusal::Gone(format!("{path}: it is not there any more")),
            errno => Refusal::Failed(format!("{path}: cannot be written: {errno}")),
        };
        // Looked at anew the next time.
        let key = FileKey { torrent: number, file };
        self.files.iter_mut().for_each(|files| files.close(key));
        let span = owner;
        self.ended.push_back(Ended::Refused { number, span, refusal });
    }

    fn end_piece(&mut self, owner: Owner) {
        if let Some(Piece {
            served, piece, bytes, ..
        }) = self.pieces.remove(owner)
        {
            let number = served.number;
            self.ended.push_back(Ended::Written {
                number,
                piece,
                run: owner,
                bytes,
            });
        }
    }
}

/// How far the first byte of a piece is from an aligned place of the file that it lies in for the most part.
pub(super) fn skew_of(torrent: &Torrent, piece: PieceIndex) -> usize {
    let geometry = torrent.geometry();
    let spans = torrent
        .layout()
        .spans(geometry.piece_offset(piece), geometry.piece_len(piece).into());
    let (mut at, mut longest) = (0, (0, 0));
    for span in spans {
        if !span.pad && span.len > longest.0 {
            // Both are far from the end of the number line.
            longest = (span.len, span.offset.wrapping_sub(at));
        }
        at += span.len;
    }
    (longest.1 % ALIGNMENT as u64) as usize
}

/// The parts of a stretch that begins at this place of its file, and which of them can be written past the page cache:
/// whole pages, which lie in memory as they lie in the file.
fn parts_of(offset: u64, bytes: &[u8], direct: bool) -> impl Iterator<Item = (std::ops::Range<usize>, bool)> {
    let align = ALIGNMENT as u64;
    let len = bytes.len();
    let lead = ((align - offset % align) % align) as usize;
    let lies_alike = bytes.as_ptr().addr() as u64 % align == offset % align;
    let middle = match direct && lies_alike && lead < len {
        true => lead..lead + (len - lead) / ALIGNMENT * ALIGNMENT,
        false => 0..0,
    };
    let parts = match middle.is_empty() {
        true => [(0..len, false), (0..0, false), (0..0, false)],
        false => [
            (0..middle.start, false),
            (middle.clone(), true),
            (middle.end..len, false),
        ],
    };
    parts.into_iter().filter(|(part, _)| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_that_lie_alike_go_past_the_page_cache_and_nothing_is_left_out() {
        let memory = vec![0; 8 * ALIGNMENT];
        let base = ALIGNMENT - memory.as_ptr().addr() % ALIGNMENT;
        for (skew, offset, len) in [
            (0, 0, 8192),
            (100, 100, 20_000),
            (0, 4096, 4095),
            (5, 4096 + 5, 4091),
            (7, 9, 9000),
            (0, 0, 1),
        ] {
            let bytes = &memory[base + skew..][..len];
            for direct in [true, false] {
                let parts: Vec<_> = parts_of(offset, bytes, direct).collect();
                let mut end = 0;
                for (part, is_direct) in parts {
                    assert_eq!(part.start, end, "in order and without gaps");
                    end = part.end;
                    let starts = [
                        offset as usize + part.start,
                        bytes[part.clone()].as_ptr().addr(),
                        part.len(),
                    ];
                    let is_aligned = starts.iter().all(|start| start % ALIGNMENT == 0);
                    assert!(!is_direct || (direct && is_aligned), "{part:?} at {offset}");
                }
                assert_eq!(end, len);
            }
        }
        let whole: Vec<_> = parts_of(4096, &memory[base..base + 8192], true).collect();
        assert_eq!(whole, [(0..8192, true)]);
    }
}
