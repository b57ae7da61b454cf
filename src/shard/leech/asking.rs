//! What peers are asked for, and when: as much as each can send in time, as memory and the download rate allow, and what one
//! does not send of others.

use std::time::{Duration, Instant};

use super::{REFUSED_MAX, leeching};
use crate::io::{Driver, Owner};
use crate::proto::geometry::{BLOCK_LEN, BlockRequest};
use crate::proto::picker::{Again, Asking};
use crate::proto::wire::{self, Message};
use crate::shard::Shard;
use crate::shard::conn::{Conn, PeerConn, Phase};
use crate::shard::download::{Download, Files};
use crate::shard::events::{Event, Events};

/// A request that is not answered for so long, while others are, was dropped by the peer.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// A peer that has had nothing to do for so long is asked for what those were asked for who have sent nothing for as long, or whoever
/// it is when nothing else is missing; sooner if then nothing comes. Near peers are done before that, and send nothing twice.
const IDLE_AFTER: Duration = Duration::from_secs(2);
const IDLE_AFTER_AT_THE_END: Duration = Duration::from_millis(500);

/// As long as a block that was missing has come within this time, the end comes by itself, or by what is late
/// ([`super::super::late`]).
const NOTHING_COMES: Duration = Duration::from_millis(200);

/// Blocks that it is asked for then at a time.
const TAKEN_OVER_MAX: usize = 32;

/// How often requests are looked at that are not answered, in ticks.
pub(in crate::shard) const LOOK_TICKS: u64 = 5;

impl<D: Driver> Shard<D> {
    /// Time has passed: those who wait for the download rate ask, in order, until it is used up. One whose folder has used up its
    /// own waits on, behind the others.
    pub(in crate::shard) fn feed_thirsty(&mut self) {
        for _ in 0..self.thirsty.len() {
            let now = self.now;
            if !self.settings.download_pace.is_due(now) {
                return;
            }
            let Some(owner) = self.thirsty.pop_front() else {
                return;
            };
            let Some(peer) = self.conns.get_mut(owner).and_then(Conn::peer_mut) else {
                continue;
            };
            let own = peer.served.torrent.download_pace();
            if own.is_some_and(|pace| !pace.is_due(now)) && peer.leech.is_some() {
                self.thirsty.push_back(owner);
                continue;
            }
            if let Some(leech) = peer.leech.as_mut() {
                leech.thirsty = false;
                self.ask_in_line(owner, true);
                self.touch(owner);
            }
        }
    }

    /// Asks a peer for more, if it has less to do than it could.
    pub(in crate::shard) fn ask(&mut self, owner: Owner) {
        self.ask_in_line(owner, false);
    }

    /// `fed`: it has waited for the download rate.
    fn ask_in_line(&mut self, owner: Owner, fed: bool) {
        let now = self.now;
        let tick = self.tick;
        let Conn { phase, out, .. } = match self.conns.get_mut(owner) {
            Some(conn) => conn,
            None => return,
        };
        let Phase::Peer(PeerConn {
            served, peer, leech, ..
        }) = phase
        else {
            return;
        };
        let Some(leech) = leech else { return };
        let Some(download) = self.downloads.get_mut(&served.number) else {
            return;
        };
        if !peer.am_interested() || download.stall.is_some() {
            return;
        }
        let only = match peer.peer_choking() {
            true if leech.allowed.is_empty() => return,
            true => Some(&leech.allowed[..]),
            false => None,
        };
        let under_way = leech.under_way();
        // One that was outrun is to prove itself before it takes up more memory.
        let target = match leech.is_outrun(now) {
            true => 1,
            false => leech.depth.target() as usize,
        };
        if leech.refused.len() >= REFUSED_MAX {
            return;
        }
        // An eighth at a time; the first few at once.
        if under_way + (target / 8).max(1) > target {
            return;
        }
        match download.files {
            Files::Made => {}
            Files::Unmade => return want_files(download, &self.settings.events),
            Files::Failed(at) if at <= tick => return want_files(download, &self.settings.events),
            Files::Asked | Files::Failed(_) => return,
        }
        let piece_len = u64::from(download.served.torrent.geometry().piece_len_max());
        let (room, blocks_max) = match download.early {
            true => self.assembly.room_early(),
            false => (self.assembly.room(piece_len), usize::MAX),
        };
        let begun = download.picker.partial_count();
        download.picker.set_partials_max(begun + room);
        let asking = Asking {
            begun_max: download.begun_max(leech.key),
            stakes_max: download.stakes_max(leech.key, begun + room),
            open_max: blocks_max,
            only,
            suggested: &leech.suggested,
            refused: &leech.refused,
            again: Again::OfNobody,
            alone: download.is_on_parole(leech.key),
        };
        let mut wanted = target - under_way;
        let torrent = &served.torrent;
        let paces = || {
            self.settings
                .download_pace
                .limited()
                .into_iter()
                .chain(torrent.download_pace())
        };
        for pace in paces() {
            // Not before those who wait already, and who are fed in turn.
            if !fed && !leech.thirsty && (!pace.is_due(now) || !self.thirsty.is_empty()) {
                leech.thirsty = true;
                self.thirsty.push_back(owner);
            }
            if leech.thirsty {
                return;
            }
            wanted = wanted.min((pace.share() / u64::from(BLOCK_LEN)).max(1) as usize);
        }
        let picked = &mut self.picked;
        picked.clear();
        download.picker.pick(leech.key, peer.pieces(), asking, wanted, picked);
        // Idle until it has work of its own: what it takes over from others may be all that it gets.
        leech.idle_since = match picked.is_empty() && under_way == 0 {
            true => leech.idle_since.or(Some(now)),
            false if picked.is_empty() => leech.idle_since,
            false => None,
        };
        // That some had nothing to do before, for want of memory, says nothing of those who are asked at the end.
        download.endgame_since = match download.picker.is_endgame() {
            true => download.endgame_since.or(Some(now)),
            false => None,
        };
        let nothing_comes = download
            .new_block_at
            .is_none_or(|at| now.saturating_duration_since(at) >= NOTHING_COMES);
        let idle_after = match download.endgame_since {
            Some(_) if nothing_comes => IDLE_AFTER_AT_THE_END,
            _ => IDLE_AFTER,
        };
        let since = leech.idle_since.max(leech.idle_since.and(download.endgame_since));
        let is_idle = since.is_some_and(|since| now.saturating_duration_since(since) >= idle_after);
        if picked.is_empty() && !leech.is_outrun(now) && is_idle {
            // Before everything is asked for it may be for want of memory alone that it has nothing to do, while others send.
            let again = match download.endgame_since {
                Some(_) => Again::OfAnybody,
                None => Again::Of(&download.silent),
            };
            let asking = Asking { again, ..asking };
            let wanted = wanted.min(TAKEN_OVER_MAX);
            download.picker.pick(leech.key, peer.pieces(), asking, wanted, picked);
            if picked.is_empty()
                && asking.alone
                && under_way == 0
                && let Some(piece) = download.picker.give_up_for(peer.pieces(), asking)
            {
                self.assembly.forget(served.number, piece);
                download.picker.pick(leech.key, peer.pieces(), asking, wanted, picked);
            }
        }
        download.account(&mut self.assembly);
        if under_way == 0 && !picked.is_empty() {
            leech.depth.on_start(now);
        }
        for pace in paces() {
            let asked = picked.iter().map(|block| u64::from(block.length())).sum();
            pace.charge(asked, now);
        }
        leech.has_begun |= !picked.is_empty();
        for block in picked.iter() {
            wire::encode(&Message::request(block), out);
            leech.on_asked(*block, now);
        }
        if picked.len() < wanted && !leech.hungry {
            leech.hungry = true;
            self.hungry.push(owner);
        }
        if leech.asked.is_empty() && !download.picker.is_interesting(peer.pieces()) {
            peer.set_interested(false);
            wire::encode(&Message::NotInterested, out);
        }
    }

    /// There is memory again, or something to ask for: those that had too little look again.
    pub(in crate::shard) fn feed_hungry(&mut self) {
        for owner in std::mem::take(&mut self.hungry) {
            if let Some(leech) = self
                .conns
                .get_mut(owner)
                .and_then(Conn::peer_mut)
                .and_then(|peer| peer.leech.as_mut())
            {
                leech.hungry = false;
                self.touch(owner);
            }
        }
    }

    /// Time has passed for all that was asked for.
    pub(in crate::shard) fn look_at_requests(&mut self) {
        let now = self.now;
        let owners: Vec<Owner> = self
            .downloads
            .values()
            .flat_map(|download| download.peers.values().copied())
            .collect();
        for download in self.downloads.values_mut() {
            download.silent.clear();
        }
        let mut any = false;
        for owner in owners {
            let Some((peer, out, download)) = leeching(&mut self.conns, &mut self.downloads, owner) else {
                continue;
            };
            let waiting = !peer.peer.peer_choking();
            let Some(leech) = &mut peer.leech else { continue };
            let was_snubbed = leech.depth.is_snubbed();
            leech.depth.on_tick(waiting && !leech.asked.is_empty(), now);
            leech.refused.retain(|(_, until)| *until > now);
            let is_snubbed = leech.depth.is_snubbed();
            if leech.is_silent(IDLE_AFTER, now) {
                download.silent.push(leech.key);
            }
            if leech.has_begun && (!waiting || (is_snubbed && !was_snubbed)) {
                // It sends nothing: others may help with what it has begun. Looked at here and not when it chokes us, which
                // it may do as often as it likes.
                leech.has_begun = false;
                download.picker.let_go(leech.key);
            }
            let is_old = |since: Instant| now.saturating_duration_since(since) >= LOST_AFTER;
            // One that sends nothing at all keeps the first, so that it can prove itself, but nobody waits for it.
            let kept = usize::from(is_snubbed && waiting).min(leech.asked.len());
            if let Some(asked) = leech.asked.front().filter(|_| kept > 0) {
                any |= download.give_back(&mut self.assembly, leech.key, &asked.block);
            }
            let lost: Vec<BlockRequest> = leech
                .asked
                .iter()
                .skip(kept)
                .filter(|asked| is_snubbed || is_old(asked.since))
                .map(|asked| asked.block)
                .collect();
            for block in &lost {
                leech.no_longer(block);
                if !is_snubbed {
                    leech.on_refused(block.piece(), now);
                }
                download.give_back(&mut self.assembly, leech.key, block);
                wire::encode(&Message::cancel(block), out);
            }
            any |= !lost.is_empty();
            let is_done = peer.peer.peer_choking() && leech.asked.is_empty() && peer.peer.am_interested();
            if is_done && !download.picker.is_interesting(peer.peer.pieces()) {
                peer.peer.set_interested(false);
                wire::encode(&Message::NotInterested, out);
            }
            download.account(&mut self.assembly);
            self.touch(owner);
        }
        if any {
            self.feed_hungry();
        }
    }

    /// Blocks that peers were asked for and have not sent.
    pub(in crate::shard) fn requests_under_way(&self) -> u64 {
        let owners = self.downloads.values().flat_map(|download| download.peers.values());
        let peers = owners.filter_map(|owner| self.conns.get(*owner)?.peer());
        peers
            .filter_map(|peer| Some(peer.leech.as_ref()?.under_way() as u64))
            .sum()
    }
}

fn want_files(download: &mut Download, events: &Events) {
    download.files = Files::Asked;
    events.tell(Event::Wanted(download.served.torrent.info_hash()));
}
