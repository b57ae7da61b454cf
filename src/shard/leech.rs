//! The download side of a connection: what we want of a peer, what it was asked for, and what it sends.
//!
//! Requests go out once per turn, together, when an eighth of what should be under way is missing: one send for many, and
//! the peer is never without work ([`asking`]).

pub(super) mod asking;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::Shard;
use super::assembly::Assembly;
use super::conn::{Conn, PeerConn, Phase};
use super::dial::Went;
use super::download::{Download, Who};
use super::ended::Reason;
use super::events::Event;
use super::late::{LATE_MAX, LATE_MIN};
use super::slots::Slots;
use super::write::skew_of;
use crate::io::{Driver, Owner};
use crate::proto::depth::{DEPTH_MAX, DEPTH_MIN, Depth};
use crate::proto::geometry::{BlockRequest, PieceIndex};
use crate::proto::picker::{Arrived, PeerKey};
use crate::proto::rate::Rate;
use crate::proto::wire::{self, Message};
use crate::stats::Counters;

/// Pieces that a peer may allow or suggest. BEP 6 has ten.
const ALLOWED_MAX: usize = 64;

/// Blocks that a peer may send which nobody asked for: those that were under way when it was told so, twice over.
const UNASKED_MAX: u32 = 2 * DEPTH_MAX;

/// How long a peer is not asked again for a piece that it would not send, and for how many at most.
const REFUSED_FOR: Duration = Duration::from_secs(10);
const REFUSED_MAX: usize = 64;

/// How long one that was too slow with what it was asked for in the endgame is asked for little.
const OUTRUN_FOR: Duration = Duration::from_secs(10);

/// A block that a peer was asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    block: BlockRequest,
    since: Instant,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Leech {
    pub(super) key: PeerKey,
    /// What it was asked for and has not sent, oldest first.
    asked: VecDeque<Asked>,
    /// The shortest time from a request to its block: the way there and back is no longer.
    nearest: Duration,
    /// What comes so much later than the nearest is not on its way yet: as far as it is known, which is learnt by what came though
    /// it was taken back.
    pub(super) on_its_way: Duration,
    /// So many blocks it may take over at once, whatever its rate.
    ready_for: usize,
    /// When it last sent something that it was asked for.
    sent_at: Option<Instant>,
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
            nearest: LATE_MAX,
            on_its_way: LATE_MIN,
            ready_for: 1,
            sent_at: None,
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
        if self.on_own(&block, now) {
            self.rate.add(len.into(), now);
        } else if let Some(at) = self.taken_back.iter().position(|taken| *taken == block) {
            self.taken_back.remove(at);
            self.on_its_way = (self.on_its_way * 2).min(LATE_MAX);
        } else {
            // Not even if it is missing: whoever could put blocks into any piece would spoil all of them.
            counters.wasted_bytes += u64::from(len);
            self.unasked += 1;
            return (self.unasked <= UNASKED_MAX).then_some(nothing);
        }
        match download.picker.on_block(self.key, &block) {
            Arrived::New { cancel, whole } => {
                download.new_block_at = Some(now);
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

    /// A block has come. Whether it was asked for it.
    fn on_own(&mut self, block: &BlockRequest, now: Instant) -> bool {
        let Some(asked) = self.take_asked(block) else {
            return false;
        };
        let took = now.saturating_duration_since(asked.since);
        // If it was taken back before, it may be what was asked for then that came.
        if took < self.nearest && !self.taken_back.contains(block) {
            self.nearest = took;
        }
        self.outrun_at = None;
        self.sent_at = Some(now);
        if self.asked.is_empty() {
            self.ready_for = (self.ready_for * 2).min(DEPTH_MIN as usize);
        }
        self.depth.on_block(block.length(), now);
        true
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
        self.asked.push_back(Asked { block, since: now });
    }

    /// It is not asked for a block any more. `None` if it was not.
    fn take_asked(&mut self, block: &BlockRequest) -> Option<Asked> {
        let at = self.asked.iter().position(|asked| asked.block == *block)?;
        self.asked.remove(at)
    }

    /// It is asked for what others would have sent later.
    pub(super) fn on_relief(&mut self, blocks: impl Iterator<Item = BlockRequest>, now: Instant) {
        // Its rate goes on being taken: were it taken anew with each few, it would be asked for no more than a few for ever.
        self.asked.extend(blocks.map(|block| Asked { block, since: now }));
        self.idle_since = None;
    }

    /// It is told not to send a block, or does not.
    pub(super) fn no_longer(&mut self, block: &BlockRequest) {
        if self.take_asked(block).is_some() {
            self.take_back(*block);
        }
    }

    fn take_back(&mut self, block: BlockRequest) {
        self.ready_for = 1;
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

    /// Whether it has sent nothing for so long that it was asked for, and was asked for something before; whether it chokes us or not.
    fn is_silent(&self, after: Duration, now: Instant) -> bool {
        let is_past = |at: Instant| now.saturating_duration_since(at) >= after;
        self.sent_at.is_none_or(is_past) && self.asked.front().is_some_and(|asked| is_past(asked.since))
    }

    /// What it will send so late that another, who has nothing to do, sends it sooner and it hears in time that it need not; the
    /// last first. The first is never among it: it proves by that what it can. Nor, as long as it keeps its rate, is what it took over
    /// itself ([`Leech::could_take`]).
    pub(super) fn late(&self, now: Instant) -> impl Iterator<Item = BlockRequest> {
        let after = (self.nearest + self.on_its_way).min(LATE_MAX);
        let since = self.asked.front().map_or(now, |asked| asked.since);
        let is_young = now.saturating_duration_since(since) < after;
        let in_time = match self.depth.blocks_within(after) {
            // Nothing has come yet, which says nothing as long as nothing could.
            0 if is_young => usize::MAX,
            in_time if is_young => in_time.max(self.ready_for),
            in_time => in_time.max(1),
        };
        let late = self.asked.len().saturating_sub(in_time);
        self.asked.iter().rev().take(late).map(|asked| asked.block)
    }

    /// How many more blocks it could have under way, of one that found too little to ask for: what it sends in time, and as many as
    /// anybody has if it has sent all that it was asked for: how fast it could be cannot be told by what it sends of one at a time.
    pub(super) fn could_take(&self, now: Instant) -> usize {
        if self.is_outrun(now) || !self.hungry {
            return 0;
        }
        let within = self.depth.blocks_within((self.nearest + LATE_MIN).min(LATE_MAX));
        let within = within.max(self.ready_for).min(self.depth.target() as usize);
        within.saturating_sub(self.asked.len())
    }

    /// Requests under way.
    pub(super) fn under_way(&self) -> usize {
        self.asked.len()
    }

    /// Takes back all that it was asked for.
    fn give_back_all(&mut self, download: &mut Download, assembly: &mut Assembly) -> bool {
        let any = !self.asked.is_empty();
        for asked in std::mem::take(&mut self.asked) {
            download.give_back(assembly, self.key, &asked.block);
            self.take_back(asked.block);
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
        if download.dial.ended(dialed.addr, went, self.tick, random) {
            let (info_hash, addr) = (dialed.served.torrent.info_hash(), dialed.addr);
            self.settings.events.tell(Event::Unreachable { info_hash, addr });
        }
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
            // It ends, and is armed again with long buffers.
            if let Some(token) = self.conns.get(owner).and_then(|conn| conn.receive) {
                self.driver.cancel(token);
            }
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
        if leech.take_asked(block).is_some() {
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
