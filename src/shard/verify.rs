//! From the last block of a piece to its bit: hashed by the pool, written, and told to every peer.
//!
//! Nothing is served or announced that is not verified and written: what a peer was told of survives the end of the process.

use bytes::Bytes;

use super::Shard;
use super::deadlines::ticks;
use super::download::{Download, Files, Stall};
use super::ended::Reason;
use super::events::Event;
use super::write::{Ended, Refusal};
use crate::hashing::{Done, Hasher, Job, Outcome, Refused, Then};
use crate::io::{Driver, Owner};
use crate::proto::InfoHash;
use crate::proto::geometry::PieceIndex;
use crate::proto::picker::PeerKey;
use crate::proto::wire::Message;

/// How often what was written is told, so that it is synced and recorded.
const TELL_TICKS: u64 = ticks(5);

/// How long after a disk was full, or has failed, it is tried again.
const FULL_TICKS: u64 = ticks(1);
const FAILED_TICKS: u64 = ticks(60);

/// Writes that are tried again at a time: those of one piece.
const RETRIED_MAX: usize = 16;

/// A piece that nobody was asked for anything of for so long makes way when memory is short, in looks at what is under way.
const STALE_LOOKS: u32 = 20;

/// A job's tag, of a piece of one of the shard's torrents.
pub(super) fn tag(number: u32, piece: PieceIndex) -> u64 {
    u64::from(number) << 32 | u64::from(piece.get())
}

impl<D: Driver> Shard<D> {
    /// Has a piece verified whose blocks are all here.
    pub(super) fn verify(&mut self, number: u32, piece: PieceIndex) {
        let Some(download) = self.downloads.get(&number) else {
            return;
        };
        if download.early {
            self.go_on_early(number, piece, true);
            // A run of padding alone has ended at once.
            return self.on_writes();
        }
        let Some(bytes) = self.assembly.take(number, piece) else {
            return;
        };
        let job = Job {
            tag: tag(number, piece),
            hasher: Hasher::new(),
            buffers: vec![bytes],
            source: None,
            then: Then::Verify(*download.served.torrent.meta().piece_hashes.get(piece)),
            reply: self.verifier.reply.clone(),
        };
        self.submit(job);
    }

    /// Gives a job to the pool.
    pub(super) fn submit(&mut self, job: Job) {
        self.verifier.out += 1;
        if let Err(Refused::Full(job) | Refused::Stopped(job)) = self.verifier.pool.try_submit(job) {
            self.verifier.waiting.push_back(*job);
        }
    }

    /// Verdicts may have come.
    pub(super) fn on_verdicts(&mut self) {
        while let Ok(done) = self.verifier.verdicts.try_recv() {
            self.on_verdict(done);
        }
        while let Some(job) = self.verifier.waiting.pop_front() {
            if let Err(Refused::Full(job) | Refused::Stopped(job)) = self.verifier.pool.try_submit(job) {
                self.verifier.waiting.push_front(*job);
                break;
            }
        }
    }

    fn on_verdict(
        &mut self,
        Done {
            tag,
            mut buffers,
            mut outcome,
        }: Done,
    ) {
        self.verifier.out -= 1;
        let (number, piece) = ((tag >> 32) as u32, tag as u32);
        if self.on_unread_verdict(number, piece, &mut outcome) {
            return;
        }
        let Some(download) = self.downloads.get_mut(&number) else {
            return; // The torrent has left.
        };
        let piece = download.served.torrent.geometry().piece_index(piece);
        let (Some(piece), Some(bytes)) = (piece, buffers.pop()) else {
            return;
        };
        if download.early {
            self.on_early_verdict(number, piece, &mut outcome);
            return;
        }
        match outcome {
            Outcome::Good => {
                let blocks = download.is_suspicious(piece).then(|| download.hashes_of(&bytes));
                let convicted = download.on_good(piece, blocks);
                let served = download.served.clone();
                download.account(&mut self.assembly);
                for key in convicted {
                    self.ban(number, key);
                }
                self.writes
                    .begin(&mut self.driver, &mut self.counters, served, (piece, 0), (bytes, true));
                self.on_writes();
            }
            Outcome::Bad(_) => {
                self.counters.pieces_bad += 1;
                let convicted = download.on_bad(piece, download.hashes_of(&bytes));
                download.account(&mut self.assembly);
                self.assembly.recycle(bytes);
                if let Some(key) = convicted {
                    self.ban(number, key);
                }
                self.feed_hungry();
            }
            // The pool stops: so do we.
            Outcome::Dropped | Outcome::Unread | Outcome::Partial(_) | Outcome::Digest(_) => {}
        }
    }

    /// A peer has lied.
    pub(super) fn ban(&mut self, number: u32, key: PeerKey) {
        let Some(download) = self.downloads.get_mut(&number) else {
            return;
        };
        self.counters.peers_banned += 1;
        let info_hash = download.served.torrent.info_hash();
        let convict = download.shut_out(key);
        // Pieces of which everything came from it.
        let picker = &download.picker;
        self.assembly
            .early
            .forget_unbegun(number, |piece| picker.is_begun(piece));
        if let Some(owner) = convict {
            if let Some(conn) = self.conns.get(owner) {
                let peer = conn.addr;
                self.settings.events.tell(Event::Banned { info_hash, peer });
            }
            self.end(owner, Reason::Banned, None);
        }
    }

    /// Writes have ended.
    pub(super) fn on_writes(&mut self) {
        // What is written next may end at once: there is nothing to write of pad files.
        while let Some(ended) = self.writes.ended.pop_front() {
            match ended {
                Ended::Written {
                    number,
                    piece,
                    run,
                    bytes,
                } => match self.on_run_written(number, piece, run) {
                    true => {
                        self.assembly.recycle_run(bytes);
                        self.on_disk_takes(number);
                    }
                    false => self.on_piece_written(number, piece, bytes),
                },
                Ended::GivenUp { number, piece, run } => {
                    self.on_run_written(number, piece, run);
                }
                Ended::Refused { number, span, refusal } => {
                    let Some(download) = self.downloads.get_mut(&number) else {
                        self.writes.give_up(span);
                        continue;
                    };
                    download.stuck.push(span);
                    let after = match refusal {
                        Refusal::Full(_) => FULL_TICKS,
                        Refusal::Gone(_) | Refusal::Failed(_) => FAILED_TICKS,
                    };
                    let retry_at = self.tick + after;
                    let stall = Stall {
                        retry_at,
                        asks_anew: false,
                    };
                    let is_news = download.stall.is_none();
                    // Who waits to ask anew waits on: it is tried again then, or when something else is written.
                    if download.stall.is_none_or(|stall| !stall.asks_anew) {
                        download.stall = Some(stall);
                    }
                    let info_hash = download.served.torrent.info_hash();
                    match refusal {
                        // Whatever was wrong before: it is not the file any more.
                        Refusal::Gone(why) => self.settings.events.tell(Event::Gone { info_hash, why }),
                        Refusal::Full(why) if is_news => {
                            let why = format!("{why}, and {}", download.still_missing());
                            self.settings.events.tell(Event::Stalled { info_hash, why });
                        }
                        Refusal::Failed(why) if is_news => {
                            self.settings.events.tell(Event::Stalled { info_hash, why });
                        }
                        Refusal::Full(_) | Refusal::Failed(_) => {}
                    }
                }
            }
        }
    }

    pub(super) fn on_piece_written(&mut self, number: u32, piece: PieceIndex, bytes: Bytes) {
        let Some(download) = self.downloads.get_mut(&number) else {
            return; // The torrent has left, and nobody is told of what was still on its way: a piece, or a run of one.
        };
        self.counters.pieces_written += 1;
        download.on_written(piece);
        download.account(&mut self.assembly);
        let is_lost = !download.served.torrent.has(piece);
        let served = download.served.clone();
        let owners: Vec<_> = download.peers.values().copied().collect();
        self.assembly.recycle(bytes);
        self.disk.written(&served, piece);
        // Of one that is lost, nobody is told: its torrent leaves in a moment, and is checked.
        for owner in owners.into_iter().filter(|_| !is_lost) {
            let Some(conn) = self.conns.get_mut(owner) else {
                continue;
            };
            // Whoever has not been told what we have is told of this with the rest.
            let is_greeted = conn.peer().is_some_and(|peer| peer.greet_at.is_none());
            if is_greeted {
                conn.say(&Message::Have(piece.get()));
            }
            self.touch(owner);
        }
        self.on_disk_takes(number);
        if served.torrent.is_complete() {
            self.complete(number);
        }
    }

    /// A disk has taken what it was given: what it did not take before is tried again, and there is memory again.
    fn on_disk_takes(&mut self, number: u32) {
        if let Some(download) = self.downloads.get_mut(&number) {
            for span in std::mem::take(&mut download.stuck) {
                self.writes.again(&mut self.driver, &mut self.counters, span);
            }
            // That it takes something says nothing of what it did not give.
            if download.stall.take_if(|stall| !stall.asks_anew).is_some() {
                let info_hash = download.served.torrent.info_hash();
                self.settings.events.tell(Event::Resumed(info_hash));
            }
        }
        self.feed_hungry();
    }

    /// The last piece of a torrent is written.
    pub(super) fn complete(&mut self, number: u32) {
        if let Some(mut download) = self.downloads.remove(&number) {
            download.release(&mut self.assembly);
            self.settings.events.tell(download.news());
            self.writes.forget(number);
            self.stop_leeching(download);
        }
    }

    /// No more is written: what was, and nobody was told of.
    pub(super) fn tell_last_news(&mut self) {
        for download in self.downloads.values_mut().filter(|download| download.has_news()) {
            self.settings.events.tell(download.news());
        }
    }

    /// A tick has passed for all downloads.
    pub(super) fn tend_downloads(&mut self) {
        let tick = self.tick;
        let numbers: Vec<u32> = self.downloads.keys().copied().collect();
        for number in numbers {
            let Some(download) = self.downloads.get_mut(&number) else {
                continue;
            };
            if download
                .stall
                .is_some_and(|stall| stall.retry_at <= tick && stall.asks_anew)
            {
                download.stall = None;
                for span in std::mem::take(&mut download.stuck) {
                    self.writes.again(&mut self.driver, &mut self.counters, span);
                }
                let info_hash = download.served.torrent.info_hash();
                self.settings.events.tell(Event::Resumed(info_hash));
                let owners: Vec<_> = download.peers.values().copied().collect();
                owners.into_iter().for_each(|owner| self.touch(owner));
                continue;
            }
            if download.stall.is_some_and(|stall| stall.retry_at <= tick) {
                // A few are enough to find out, and when a piece is written the others follow.
                download.stall = Some(Stall {
                    retry_at: tick + FULL_TICKS,
                    asks_anew: false,
                });
                let from = download.stuck.len().saturating_sub(RETRIED_MAX);
                for span in download.stuck.split_off(from) {
                    self.writes.again(&mut self.driver, &mut self.counters, span);
                }
            }
            let Some(download) = self.downloads.get_mut(&number) else {
                continue;
            };
            let is_due = download.told_at + TELL_TICKS <= tick;
            if download.has_complete_files() || (is_due && download.has_news()) {
                download.told_at = tick;
                self.settings.events.tell(download.news());
            }
        }
        self.on_writes();
    }

    /// When memory is short, pieces are given up that take it and do not go on: those that nobody sends the rest of, and
    /// those that a disk does not take, but one whole piece, by which it is found out when it does.
    pub(super) fn make_room(&mut self) {
        if !self.assembly.is_tight() {
            return;
        }
        let (mut any, mut given_up) = (false, Vec::new());
        let goes_on = |download: &Download| download.stall.is_none() && !download.peers.is_empty();
        let others_go_on = self.downloads.values().any(goes_on);
        let (_, blocks) = self.assembly.room_early();
        for (&number, download) in &mut self.downloads {
            // Nobody could be asked for any of it: the disk has the memory, and gives it back when it can.
            let waits_for_disk = blocks == 0 || (download.stall.is_some() && !others_go_on);
            if !(download.early && waits_for_disk) {
                for piece in download.picker.forget_stale(STALE_LOOKS) {
                    self.assembly.forget(number, piece);
                    any = true;
                }
            }
            if download.stall.is_some() && others_go_on && download.early {
                // What waits behind one run may be as much as there is: none is kept, and what is lacking asked for later.
                let stuck = std::mem::take(&mut download.stuck);
                given_up.extend(stuck.into_iter().map(|span| (number, span)));
            } else if download.stall.is_some() && others_go_on {
                let kept = download.stuck.first().and_then(|span| self.writes.piece_of(*span));
                let is_kept = |span: &Owner| self.writes.piece_of(*span) == kept;
                let stuck = std::mem::take(&mut download.stuck);
                let (kept, rest): (Vec<Owner>, Vec<Owner>) = stuck.into_iter().partition(is_kept);
                download.stuck = kept;
                for span in rest {
                    if let Some((piece, _)) = self.writes.give_up(span) {
                        download.on_unwritten(piece);
                        any = true;
                    }
                }
            }
            download.account(&mut self.assembly);
        }
        for (number, span) in given_up {
            if let Some((piece, run)) = self.writes.give_up(span) {
                any |= self.on_run_given_up(number, piece, run);
            }
        }
        self.on_writes();
        if any {
            self.feed_hungry();
        }
    }

    /// Pieces without a verdict.
    #[cfg(test)]
    pub(super) fn hashing(&self) -> usize {
        self.verifier.out
    }

    /// Pieces that are being written.
    #[cfg(test)]
    pub(super) fn writing(&self) -> usize {
        self.writes.pieces()
    }

    /// The files of a torrent can be written to, or not.
    pub(super) fn on_prepared(&mut self, info_hash: InfoHash, made: bool) {
        let Some(number) = self.torrents.get(&info_hash).map(|served| served.number) else {
            return;
        };
        let Some(download) = self.downloads.get_mut(&number) else {
            return;
        };
        download.files = match made {
            true => Files::Made,
            false => Files::Failed(self.tick + FAILED_TICKS),
        };
        let owners: Vec<_> = download.peers.values().copied().collect();
        owners.into_iter().for_each(|owner| self.touch(owner));
    }

    /// A piece that we had cannot be read any more.
    pub(super) fn on_piece_lost(&mut self, number: u32, piece: PieceIndex) {
        if let Some(download) = self.downloads.get_mut(&number) {
            download.on_lost(piece);
            let owners: Vec<_> = download.peers.values().copied().collect();
            for owner in owners {
                self.look_for_interest(owner);
                self.touch(owner);
            }
        }
    }
}
