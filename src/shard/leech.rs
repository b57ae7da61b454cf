//! The download side of a connection: what we want of a peer, what it was asked for, and what it sends.
//!
//! Requests go out once per turn, together, when an eighth of what should be under way is missing: one send for many, and
//! the peer is never without work.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Shard;
use super::assembly::Assembly;
use super::conn::{Conn, PeerConn, Phase};
use super::dial::Went;
use super::download::{Download, Files, Who};
use super::ended::Reason;
use super::events::Event;
use super::slots::Slots;
use super::write::skew_of;
use crate::io::{Driver, Owner};
use crate::proto::depth::{DEPTH_MAX, DEPTH_MIN, Depth};
use crate::proto::geometry::{BLOCK_LEN, BlockRequest, PieceIndex};
use crate::proto::picker::{Arrived, Asking, PeerKey};
use crate::proto::rate::Rate;
use crate::proto::wire::{self, Message};
use crate::stats::Counters;

/// Pieces that a peer may allow or suggest. BEP 6 has ten.
const ALLOWED_MAX: usize = 64;

/// Blocks that a peer may send which nobody asked for: those that were under way when it was told so, twice over.
const UNASKED_MAX: u32 = 2 * DEPTH_MAX;

/// A request that is not answered for so long, while others are, was dropped by the peer.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// How long a peer is not asked again for a piece that it would not send, and for how many at most.
const REFUSED_FOR: Duration = Duration::from_secs(10);
const REFUSED_MAX: usize = 64;

/// How long one that was too slow with what it was asked for in the endgame is asked for little.
const OUTRUN_FOR: Duration = Duration::from_secs(10);

/// A peer that has had nothing to do for so long is asked for what others were asked for; sooner when nothing else is
/// missing. Near peers are done before that, and send nothing twice.
const IDLE_AFTER: Duration = Duration::from_secs(2);
const IDLE_AFTER_AT_THE_END: Duration = Duration::from_millis(500);

/// Blocks that it is asked for then at a time.
const TAKEN_OVER_MAX: usize = 32;

/// How often requests are looked at that are not answered, in ticks.
pub(super) const LOOK_TICKS: u64 = 5;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Leech {
    pub(super) key: PeerKey,
    /// What it was asked for and has not sent, oldest first, and since when.
    asked: VecDeque<(BlockRequest, Instant)>,
    pub(super) depth: Depth,
    allowed: Vec<PieceIndex>,
    suggested: Vec<PieceIndex>,
    /// Bytes a second that come from it.
    pub(super) rate: Rate,
    /// It is among those that are told when there is something to ask for again.
    hungry: bool,
    /// It waits for the download rate.
    thirsty: bool,
    /// Since when it has had nothing to do.
    idle_since: Option<Instant>,
    /// Pieces may have been begun for it.
    has_begun: bool,
    /// When somebody else was faster with what it was asked for, if it has sent nothing since.
    outrun_at: Option<Instant>,
    /// What it was asked for and need not send any more, and may have sent before it heard so. The oldest first.
    taken_back: VecDeque<BlockRequest>,
    /// Pieces that it would not send, or did not in a minute, and until when it is not asked for them.
    refused: Vec<(PieceIndex, Instant)>,
    /// Blocks it sent without being asked.
    unasked: u32,
    /// It has sent something we could use.
    pub(super) useful: bool,
}

/// What is to be done about a block, beyond its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Took {
    pub(super) block: BlockRequest,
    /// Somebody else need not send it any more.
    pub(super) cancel: Option<PeerKey>,
    /// Its piece is whole.
    pub(super) whole: bool,
}

impl Leech {
    pub(super) fn new(key: PeerKey, now: Instant) -> Leech {
        Leech {
            key,
            asked: VecDeque::new(),
            depth: Depth::new(now),
            allowed: Vec::new(),
            suggested: Vec::new(),
            rate: Rate::new(now),
            hungry: false,
            thirsty: false,
            idle_since: None,
            has_begun: false,
            outrun_at: None,
            taken_back: VecDeque::new(),
            refused: Vec::new(),
            unasked: 0,
            useful: false,
        }
    }

    /// A block has come. `None`: the peer sends what nobody wants.
    pub(super) fn on_block(
        &mut self,
        download: &mut Download,
        assembly: &mut Assembly,
        counters: &mut Counters,
        (block, data): (BlockRequest, &[u8]),
        now: Instant,
    ) -> Option<Took> {
        let len = block.length();
        let nothing = Took {
            block,
            cancel: None,
            whole: false,
        };
        counters.downloaded_bytes += u64::from(len);
        counters.downloaded_blocks += 1;
        download.downloaded += u64::from(len);
        if let Some(at) = self.asked.iter().position(|(asked, _)| *asked == block) {
            self.asked.remove(at);
            self.outrun_at = None;
            self.depth.on_block(len, now);
            self.rate.add(len.into(), now);
        } else if let Some(at) = self.taken_back.iter().position(|taken| *taken == block) {
            self.taken_back.remove(at);
        } else {
            // Not even if it is missing: whoever could put blocks into any piece would spoil all of them.
            counters.wasted_bytes += u64::from(len);
            self.unasked += 1;
            return (self.unasked <= UNASKED_MAX).then_some(nothing);
        }
        match download.picker.on_block(self.key, &block) {
            Arrived::New { cancel, whole } => {
                self.useful = true;
                let served = &download.served;
                let piece_len = served.torrent.geometry().piece_len(block.piece());
                let skew = || skew_of(&served.torrent, block.piece());
                match download.early {
                    true => assembly.put_early(served.number, piece_len, skew, &block, data),
                    false => assembly.put(served.number, piece_len, skew, &block, data),
                }
                Some(Took { block, cancel, whole })
            }
            Arrived::Again | Arrived::Unasked => {
                counters.wasted_bytes += u64::from(len);
                Some(nothing)
            }
        }
    }

    /// A peer allows a piece to be asked for though it chokes us.
    pub(super) fn on_allowed_fast(&mut self, piece: PieceIndex) {
        if self.allowed.len() < ALLOWED_MAX && !self.allowed.contains(&piece) {
            self.allowed.push(piece);
        }
    }

    /// A peer would like to be asked for a piece.
    pub(super) fn on_suggested(&mut self, piece: PieceIndex) {
        if self.suggested.len() < ALLOWED_MAX && !self.suggested.contains(&piece) {
            self.suggested.push(piece);
        }
    }

    /// It is asked for a block.
    fn on_asked(&mut self, block: BlockRequest, now: Instant) {
        self.asked.push_back((block, now));
    }

    /// It is asked for what others would have sent later.
    pub(super) fn on_relief(&mut self, blocks: impl Iterator<Item = BlockRequest>, now: Instant) {
        if self.asked.is_empty() {
            self.depth.on_start(now);
        }
        blocks.for_each(|block| self.on_asked(block, now));
        self.idle_since = None;
    }

    /// It is told not to send a block, or does not.
    pub(super) fn no_longer(&mut self, block: &BlockRequest) {
        if let Some(at) = self.asked.iter().position(|(asked, _)| asked == block) {
            self.asked.remove(at);
            self.take_back(*block);
        }
    }

    fn take_back(&mut self, block: BlockRequest) {
        if self.taken_back.len() >= DEPTH_MAX as usize {
            self.taken_back.pop_front();
        }
        self.taken_back.push_back(block);
    }

    /// It does not send a piece: it is not asked for it again so soon. One that refuses many is not asked for anything.
    fn on_refused(&mut self, piece: PieceIndex, now: Instant) {
        if self.refused.len() < REFUSED_MAX && !self.refuses(piece) {
            self.refused.push((piece, now + REFUSED_FOR));
        }
    }

    pub(super) fn refuses(&self, piece: PieceIndex) -> bool {
        self.refused.iter().any(|(refused, _)| *refused == piece)
    }

    fn is_outrun(&self, now: Instant) -> bool {
        let since = |at| now.saturating_duration_since(at);
        self.outrun_at.is_some_and(|at| since(at) < OUTRUN_FOR)
    }

    /// What it will not have sent after this time, the last first. The first is never among it: it proves by that what it can.
    pub(super) fn late(&self, after: Duration, now: Instant) -> impl Iterator<Item = BlockRequest> {
        let since = self.asked.front().map_or(now, |(_, since)| *since);
        let in_time = match self.depth.blocks_within(after) {
            // Nothing has come yet, which says nothing as long as nothing could.
            0 if now.saturating_duration_since(since) < after => usize::MAX,
            in_time => in_time.max(1),
        };
        let late = self.asked.len().saturating_sub(in_time);
        self.asked.iter().rev().take(late).map(|(block, _)| *block)
    }

    /// How many more blocks it could send within this time, of one that found too little to ask for.
    pub(super) fn could_take(&self, within: Duration, now: Instant) -> usize {
        if self.is_outrun(now) || !self.hungry {
            return 0;
        }
        let target = self.depth.target() as usize;
        let within = self.depth.blocks_within(within).max(DEPTH_MIN as usize).min(target);
        within.saturating_sub(self.asked.len())
    }

    /// Requests under way.
    pub(super) fn under_way(&self) -> usize {
        self.asked.len()
    }

    /// Takes back all that it was asked for.
    fn give_back_all(&mut self, download: &mut Download, assembly: &mut Assembly) -> bool {
        let any = !self.asked.is_empty();
        for (block, _) in std::mem::take(&mut self.asked) {
            download.give_back(assembly, self.key, &block);
            self.take_back(block);
        }
        any
    }
}

/// A connection of a torrent that is being downloaded, what waits to be sent to it, and the download.
pub(super) fn leeching<'a>(
    conns: &'a mut Slots<Conn>,
    downloads: &'a mut BTreeMap<u32, Download>,
    owner: Owner,
) -> Option<(&'a mut PeerConn, &'a mut Vec<u8>, &'a mut Download)> {
    let Conn { phase, out, .. } = conns.get_mut(owner)?;
    let Phase::Peer(peer) = phase else { return None };
    let download = downloads.get_mut(&peer.served.number)?;
    peer.leech.is_some().then_some((peer, out, download))
}

impl<D: Driver> Shard<D> {
    /// A peer of a torrent that is being downloaded has come. False if it must not stay.
    pub(super) fn begin_leeching(&mut self, owner: Owner, who: Who) -> Result<(), Reason> {
        let now = self.now;
        let our_id = self.settings.peer_id;
        let Some(conn) = self.conns.get_mut(owner) else {
            return Ok(());
        };
        let we_dialed = conn.dialed.is_some();
        let Some(peer) = conn.peer_mut() else { return Ok(()) };
        let Some(download) = self.downloads.get_mut(&peer.served.number) else {
            return Ok(());
        };
        let key = download.key_of(who).ok_or(Reason::Banned)?;
        let twin = download.peers.get(&key).copied();
        let twin_dialed = twin.and_then(|twin| Some(self.conns.get(twin)?.dialed.is_some()));
        if let Some(twin_dialed) = twin_dialed {
            // Both ends find the same one: that which the end with the greater id has made.
            let keeps_ours = our_id.0 > who.id.0;
            if twin_dialed == we_dialed || we_dialed != keeps_ours {
                return Err(Reason::Duplicate);
            }
        }
        if let Some(twin) = twin {
            self.end(twin, Reason::Duplicate, None);
        }
        let Some(peer) = self.conns.get_mut(owner).and_then(Conn::peer_mut) else {
            return Ok(());
        };
        peer.leech = Some(Box::new(Leech::new(key, now)));
        if let Some(download) = self.downloads.get_mut(&peer.served.number) {
            download.peers.insert(key, owner);
        }
        Ok(())
    }

    /// A connection has ended: what it was asked for is asked of others.
    pub(super) fn end_leeching(&mut self, peer: &mut PeerConn) {
        let Some(mut leech) = peer.leech.take() else { return };
        let Some(download) = self.downloads.get_mut(&peer.served.number) else {
            return;
        };
        let any = leech.give_back_all(download, &mut self.assembly);
        download.picker.let_go(leech.key);
        download.picker.on_pieces_gone(peer.peer.pieces());
        download.peers.remove(&leech.key);
        download.account(&mut self.assembly);
        if any {
            self.feed_hungry();
        }
    }

    /// How a connection went, for whoever may make it again.
    pub(super) fn tell_dial(&mut self, conn: &Conn, useful: bool, reason: Reason) {
        let Some(dialed) = &conn.dialed else { return };
        let random = self.next_random();
        let Some(download) = self.downloads.get_mut(&dialed.served.number) else {
            return;
        };
        let went = match reason {
            Reason::OwnPeerId | Reason::Banned => Went::Wrong,
            _ if useful => Went::Well,
            _ => Went::Nowhere,
        };
        download.dial.ended(dialed.addr, went, self.tick, random);
    }

    /// A peer has said something of what it has: whether we want any of it.
    pub(super) fn look_for_interest(&mut self, owner: Owner) {
        let Some((peer, out, download)) = leeching(&mut self.conns, &mut self.downloads, owner) else {
            return;
        };
        if !peer.peer.am_interested() && download.picker.is_interesting(peer.peer.pieces()) {
            peer.peer.set_interested(true);
            wire::encode(&Message::Interested, out);
        }
    }

    /// A peer has one more piece.
    pub(super) fn on_peer_has(&mut self, owner: Owner, piece: PieceIndex) {
        let Some((peer, out, download)) = leeching(&mut self.conns, &mut self.downloads, owner) else {
            return;
        };
        match peer.peer.is_seed() {
            true => download.picker.on_last_have(piece),
            false => download.picker.on_have(piece),
        }
        if !peer.peer.am_interested() && !download.picker.have().get(piece) {
            peer.peer.set_interested(true);
            wire::encode(&Message::Interested, out);
        }
    }

    /// A peer answers no more, or only what it allows.
    pub(super) fn on_choked(&mut self, owner: Owner) {
        let Some((peer, _, download)) = leeching(&mut self.conns, &mut self.downloads, owner) else {
            return;
        };
        let fast = peer.peer.fast();
        if let Some(leech) = &mut peer.leech {
            // With the fast extension each request is answered, if only by a reject.
            let any = !fast && leech.give_back_all(download, &mut self.assembly);
            download.account(&mut self.assembly);
            if any {
                self.feed_hungry();
            }
        }
    }

    /// A peer answers from now on.
    pub(super) fn on_unchoked(&mut self, owner: Owner) {
        let now = self.now;
        if let Some((peer, ..)) = leeching(&mut self.conns, &mut self.downloads, owner)
            && let Some(leech) = &mut peer.leech
        {
            leech.depth.on_start(now);
        }
        // It ends, and is armed again with long buffers.
        if let Some(token) = self.conns.get(owner).and_then(|conn| conn.receive) {
            self.driver.cancel(token);
        }
    }

    /// A peer will not send a block.
    pub(super) fn on_rejected(&mut self, owner: Owner, block: &BlockRequest) {
        let now = self.now;
        let Some((peer, _, download)) = leeching(&mut self.conns, &mut self.downloads, owner) else {
            return;
        };
        let Some(leech) = &mut peer.leech else { return };
        leech.allowed.retain(|piece| *piece != block.piece());
        if let Some(at) = leech.asked.iter().position(|(asked, _)| asked == block) {
            leech.asked.remove(at);
            download.give_back(&mut self.assembly, leech.key, block);
            if !peer.peer.peer_choking() {
                leech.on_refused(block.piece(), now);
            }
            download.account(&mut self.assembly);
            self.feed_hungry();
        }
    }

    /// What a block that was taken means for others.
    pub(super) fn on_took(&mut self, owner: Owner, Took { block, cancel, whole }: Took) {
        let now = self.now;
        let Some((peer, _, download)) = leeching(&mut self.conns, &mut self.downloads, owner) else {
            return;
        };
        let number = peer.served.number;
        let other = cancel.and_then(|key| download.peers.get(&key).copied());
        if let Some(other) = other
            && let Some(conn) = self.conns.get_mut(other)
        {
            if let Some(leech) = conn.peer_mut().and_then(|peer| peer.leech.as_mut()) {
                leech.no_longer(&block);
                leech.outrun_at = Some(now);
            }
            conn.say(&Message::cancel(&block));
            self.touch(other);
        }
        if whole {
            self.verify(number, block.piece());
        } else if self.downloads.get(&number).is_some_and(|download| download.early) {
            self.go_on_early(number, block.piece(), false);
            self.on_writes();
        }
    }

    /// Time has passed: those who wait for the download rate ask, in order, until it is used up.
    pub(super) fn feed_thirsty(&mut self) {
        for _ in 0..self.thirsty.len() {
            let now = self.now;
            if self.settings.download_pace().is_some_and(|pace| !pace.is_due(now)) {
                return;
            }
            let Some(owner) = self.thirsty.pop_front() else {
                return;
            };
            let leech = self.conns.get_mut(owner).and_then(Conn::peer_mut);
            if let Some(leech) = leech.and_then(|peer| peer.leech.as_mut()) {
                leech.thirsty = false;
                self.ask_in_line(owner, true);
                self.touch(owner);
            }
        }
    }

    /// Asks a peer for more, if it has less to do than it could.
    pub(super) fn ask(&mut self, owner: Owner) {
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
            open_max: blocks_max,
            only,
            suggested: &leech.suggested,
            refused: &leech.refused,
            idle: false,
            alone: download.is_on_parole(leech.key),
        };
        let mut wanted = target - under_way;
        if let Some(pace) = self.settings.download_pace() {
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
        let (since, idle_after) = match download.endgame_since {
            Some(endgame) => (leech.idle_since.map(|since| since.max(endgame)), IDLE_AFTER_AT_THE_END),
            None => (leech.idle_since, IDLE_AFTER),
        };
        let is_idle = since.is_some_and(|since| now.saturating_duration_since(since) >= idle_after);
        if picked.is_empty() && !leech.is_outrun(now) && is_idle {
            let asking = Asking { idle: true, ..asking };
            let wanted = wanted.min(TAKEN_OVER_MAX);
            download.picker.pick(leech.key, peer.pieces(), asking, wanted, picked);
        }
        download.account(&mut self.assembly);
        if under_way == 0 && !picked.is_empty() {
            leech.depth.on_start(now);
        }
        if let Some(pace) = self.settings.download_pace() {
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
    pub(super) fn feed_hungry(&mut self) {
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
    pub(super) fn look_at_requests(&mut self) {
        let now = self.now;
        let owners: Vec<Owner> = self
            .downloads
            .values()
            .flat_map(|download| download.peers.values().copied())
            .collect();
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
            if leech.has_begun && (!waiting || (is_snubbed && !was_snubbed)) {
                // It sends nothing: others may help with what it has begun. Looked at here and not when it chokes us, which
                // it may do as often as it likes.
                leech.has_begun = false;
                download.picker.let_go(leech.key);
            }
            let is_old = |since: Instant| now.saturating_duration_since(since) >= LOST_AFTER;
            // One that sends nothing at all keeps the first, so that it can prove itself, but nobody waits for it.
            let kept = usize::from(is_snubbed && waiting).min(leech.asked.len());
            if let Some((block, _)) = leech.asked.front().filter(|_| kept > 0) {
                any |= download.give_back(&mut self.assembly, leech.key, block);
            }
            let is_lost = |(_, since): &(BlockRequest, Instant)| is_snubbed || is_old(*since);
            let lost: Vec<BlockRequest> = leech
                .asked
                .iter()
                .skip(kept)
                .filter(|asked| is_lost(asked))
                .map(|(block, _)| *block)
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
    pub(super) fn requests_under_way(&self) -> u64 {
        let owners = self.downloads.values().flat_map(|download| download.peers.values());
        let peers = owners.filter_map(|owner| self.conns.get(*owner)?.peer());
        peers
            .filter_map(|peer| Some(peer.leech.as_ref()?.under_way() as u64))
            .sum()
    }

    /// Nothing is missing: nobody is wanted any more, and seeds can go.
    pub(super) fn stop_leeching(&mut self, download: Download) {
        for owner in download.peers.into_values() {
            let Some(conn) = self.conns.get_mut(owner) else {
                continue;
            };
            let Phase::Peer(peer) = &mut conn.phase else { continue };
            peer.leech = None;
            if peer.peer.is_seed() {
                self.end(owner, Reason::BothSeeds, None);
                continue;
            }
            if peer.peer.set_interested(false) {
                conn.say(&Message::NotInterested);
            }
            self.touch(owner);
        }
    }
}

fn want_files(download: &mut Download, events: &super::Events) {
    download.files = Files::Asked;
    events.tell(Event::Wanted(download.served.torrent.info_hash()));
}
