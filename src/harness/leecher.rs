//! One simulated leecher: bytes in, requests out. It has no socket and no clock, so it is tested without them.
//!
//! It asks for a random piece at a time, its blocks in order, and never has one to give. Payload is counted and
//! dropped, except that of sampled pieces, which are put together and hashed.

use std::collections::VecDeque;

use crate::hashing;
use crate::proto::PeerId;
use crate::proto::bitfield::Bitfield;
use crate::proto::extension::ExtensionHandshake;
use crate::proto::geometry::{BlockRequest, PieceIndex};
use crate::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved};
use crate::proto::wire::{self, Message};

use super::Target;
use super::frame::{Frame, Framer};
use super::histogram::Histogram;
use super::random::Random;

/// How a leecher behaves; the same for all of a swarm.
#[derive(Debug, Clone)]
pub(super) struct Habits {
    /// Requests kept outstanding.
    pub(super) queue: usize,
    /// Bytes asked for by one request.
    pub(super) block: u32,
    /// Pieces one after the other, from a place of the leecher's own, in place of random ones.
    pub(super) sequential: bool,
    /// The share of pieces whose SHA-1 is checked.
    pub(super) verify: f64,
    /// Offer the fast extension (BEP 6).
    pub(super) fast: bool,
    /// Offer the extension protocol (BEP 10).
    pub(super) extended: bool,
    /// Ask for nothing, not even to be unchoked.
    pub(super) idle: bool,
}

/// Why a leecher gave up its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    ConnectFailed,
    ClosedInHandshake,
    Closed,
    NotBitTorrent,
    OtherTorrent,
    BadFrame,
    BadMessage,
}

impl Fault {
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::ConnectFailed => "connect failed",
            Fault::ClosedInHandshake => "closed in the handshake",
            Fault::Closed => "closed by the server",
            Fault::NotBitTorrent => "no BitTorrent handshake",
            Fault::OtherTorrent => "handshake for another torrent",
            Fault::BadFrame => "message of an impossible length",
            Fault::BadMessage => "message of a wrong length",
        }
    }
}

/// What all leechers of one thread have counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) bytes: u64,
    pub(super) blocks: u64,
    pub(super) rejects: u64,
    pub(super) chokes: u64,
    /// Blocks that nobody asked for, or of another length than was asked.
    pub(super) unasked: u64,
    pub(super) verified_good: u64,
    pub(super) verified_bad: u64,
    /// Pieces that were to be sampled while the budget for samples was taken.
    pub(super) samples_skipped: u64,
    pub(super) latency: Histogram,
    /// Payload bytes that samples hold now.
    pub(super) sample_bytes: u64,
}

impl Tally {
    /// Adds what another thread's leechers have counted.
    pub(super) fn add(&mut self, other: &Tally) {
        self.bytes += other.bytes;
        self.blocks += other.blocks;
        self.rejects += other.rejects;
        self.chokes += other.chokes;
        self.unasked += other.unasked;
        self.verified_good += other.verified_good;
        self.verified_bad += other.verified_bad;
        self.samples_skipped += other.samples_skipped;
        self.sample_bytes += other.sample_bytes;
        self.latency.merge(&other.latency);
    }
}

/// Samples in assembly may hold this much in all: 2,000 leechers at 16 MiB pieces would otherwise hold 32 GB.
const SAMPLE_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// How often a piece is drawn anew because the last one drawn is under way. A server answers a block that was asked for
/// twice once, so to ask twice would leave a gap in the queue for good.
const CHOICES_MAX: usize = 16;

/// What the leechers of one thread share.
pub(super) struct Context<'a> {
    pub(super) target: &'a Target,
    pub(super) habits: &'a Habits,
    pub(super) tally: &'a mut Tally,
    pub(super) random: &'a mut Random,
}

#[derive(Debug)]
struct Asked {
    block: BlockRequest,
    /// Nanoseconds on the swarm's clock.
    at: u64,
}

/// A piece that will be hashed when it is whole.
#[derive(Debug)]
struct Sample {
    piece: PieceIndex,
    data: Vec<u8>,
    /// Blocks that have not come yet, and which: a block may come twice when its piece was asked for twice.
    missing: usize,
    seen: Vec<bool>,
}

/// Which pieces the server has said it has.
#[derive(Debug)]
enum Offer {
    All,
    Some(Vec<u32>),
}

/// One connection's protocol state.
#[derive(Debug)]
pub(super) struct Leecher {
    framer: Framer,
    /// The server's handshake as far as it has come; gone when it was whole.
    handshake: Option<Vec<u8>>,
    /// Both sides offered the fast extension.
    fast: bool,
    choked: bool,
    offer: Offer,
    /// The piece being asked for and how far.
    current: Option<(PieceIndex, u32)>,
    sequence: u32,
    asked: VecDeque<Asked>,
    /// Rejected blocks. They count as outstanding until the next sweep: asking again at once would make a storm of
    /// requests and rejects out of a queue that is too long for the server.
    rejected: VecDeque<BlockRequest>,
    /// Blocks to be asked for again, before any other.
    again: VecDeque<BlockRequest>,
    samples: Vec<Sample>,
    /// Blocks received.
    pub(super) blocks: u64,
    /// Bytes to be sent.
    pub(super) out: Vec<u8>,
}

impl Leecher {
    /// A leecher whose handshake is the first thing to be sent. `place` (of `count`) is where it begins when sequential.
    pub(super) fn new(peer_id: PeerId, target: &Target, habits: &Habits, place: u32, count: u32) -> Leecher {
        let (extended, fast) = (
            if habits.extended { 0x10 } else { 0 },
            if habits.fast { 0x04 } else { 0 },
        );
        let reserved = Reserved([0, 0, 0, 0, 0, extended, 0, fast]);
        let ours = Handshake {
            reserved,
            info_hash: target.info_hash,
            peer_id,
        };
        let pieces = u64::from(target.geometry.piece_count());
        let first = pieces * u64::from(place) / u64::from(count.max(1));
        Leecher {
            framer: Framer::default(),
            handshake: Some(Vec::new()),
            fast: false,
            choked: true,
            offer: Offer::Some(Vec::new()),
            current: None,
            sequence: u32::try_from(first).expect("a share of a u32"),
            asked: VecDeque::new(),
            rejected: VecDeque::new(),
            again: VecDeque::new(),
            samples: Vec::new(),
            blocks: 0,
            out: ours.encode().to_vec(),
        }
    }

    /// The server's handshake has come.
    pub(super) fn is_open(&self) -> bool {
        self.handshake.is_none()
    }

    /// The server serves it: it may ask, and there is something to ask for.
    pub(super) fn is_ready(&self) -> bool {
        !self.choked && !matches!(&self.offer, Offer::Some(pieces) if pieces.is_empty())
    }

    /// Bytes have come. `now` is when, in nanoseconds on the swarm's clock.
    pub(super) fn on_bytes(&mut self, mut input: &[u8], now: u64, context: &mut Context<'_>) -> Result<(), Fault> {
        if let Some(mut partial) = self.handshake.take() {
            let (part, rest) = input.split_at(input.len().min(HANDSHAKE_LEN - partial.len()));
            partial.extend_from_slice(part);
            input = rest;
            let Ok(whole) = <[u8; HANDSHAKE_LEN]>::try_from(&partial[..]) else {
                self.handshake = Some(partial);
                return Ok(());
            };
            let theirs = Handshake::decode(&whole).map_err(|_| Fault::NotBitTorrent)?;
            self.on_handshake(&theirs, context)?;
        }
        // Taken out, so that a frame that lies in it can be worked on with the rest of `self`.
        let mut framer = std::mem::take(&mut self.framer);
        let result = self.on_frames(&mut framer, &mut input, now, context);
        self.framer = framer;
        result
    }

    fn on_handshake(&mut self, theirs: &Handshake, context: &Context<'_>) -> Result<(), Fault> {
        if theirs.info_hash != context.target.info_hash {
            return Err(Fault::OtherTorrent);
        }
        self.fast = context.habits.fast && theirs.reserved.fast();
        if context.habits.extended && theirs.reserved.extension() {
            let mut payload = Vec::new();
            ExtensionHandshake {
                v: Some("btd bench".to_owned()),
                ..ExtensionHandshake::default()
            }
            .encode(&mut payload);
            wire::encode(
                &Message::Extended {
                    id: 0,
                    payload: &payload,
                },
                &mut self.out,
            );
        }
        if self.fast {
            wire::encode(&Message::HaveNone, &mut self.out);
        }
        // Not before their answer: aria2 bans a peer that sends anything right behind its handshake.
        if !context.habits.idle {
            wire::encode(&Message::Interested, &mut self.out);
        }
        Ok(())
    }

    fn on_frames(
        &mut self,
        framer: &mut Framer,
        input: &mut &[u8],
        now: u64,
        context: &mut Context<'_>,
    ) -> Result<(), Fault> {
        while let Some(frame) = framer.next(input).map_err(|_| Fault::BadFrame)? {
            match frame {
                Frame::KeepAlive => {}
                Frame::Block {
                    piece,
                    begin,
                    length,
                    offset,
                    data,
                } => {
                    self.copy_to_sample(piece, begin.saturating_add(offset), data);
                    if offset as usize + data.len() == length as usize {
                        self.on_block(piece, begin, length, now, context);
                        self.check_sample(piece, begin, context);
                    }
                }
                Frame::Message { id, body } => self.on_message(id, body, context)?,
            }
        }
        Ok(())
    }

    fn on_message(&mut self, id: u8, body: &[u8], context: &mut Context<'_>) -> Result<(), Fault> {
        match (id, body.len()) {
            (0, 0) => self.on_choke(context),
            (1, 0) => self.choked = false,
            (4, 4) => self.on_have(word(body), context),
            (5, _) => {
                let count = context.target.geometry.piece_count();
                let have = Bitfield::from_wire(body, count).map_err(|_| Fault::BadMessage)?;
                let pieces =
                    (0..count).filter(|&n| context.target.geometry.piece_index(n).is_some_and(|p| have.get(p)));
                self.offer = if have.is_full() {
                    Offer::All
                } else {
                    Offer::Some(pieces.collect())
                };
            }
            (14, 0) => self.offer = Offer::All,
            (15, 0) => self.offer = Offer::Some(Vec::new()),
            (16, 12) => self.on_reject(word(body), word(&body[4..]), context),
            (0 | 1 | 4 | 14..=16, _) => return Err(Fault::BadMessage),
            // Interest, suggestions, extensions, ports: nothing that a leecher without a piece would act on.
            _ => {}
        }
        Ok(())
    }

    fn on_choke(&mut self, context: &mut Context<'_>) {
        self.choked = true;
        context.tally.chokes += 1;
        // BEP 6: each request is then rejected by itself. Without it a choke drops them all.
        if !self.fast {
            self.again.extend(self.asked.drain(..).map(|asked| asked.block));
        }
    }

    fn on_have(&mut self, piece: u32, context: &Context<'_>) {
        if let Offer::Some(pieces) = &mut self.offer
            && piece < context.target.geometry.piece_count()
            && !pieces.contains(&piece)
        {
            pieces.push(piece);
        }
    }

    fn on_reject(&mut self, piece: u32, begin: u32, context: &mut Context<'_>) {
        context.tally.rejects += 1;
        if let Some(asked) = self.take_asked(piece, begin) {
            self.rejected.push_back(asked.block);
        }
    }

    fn on_block(&mut self, piece: u32, begin: u32, length: u32, now: u64, context: &mut Context<'_>) {
        let tally = &mut *context.tally;
        match self.take_asked(piece, begin) {
            Some(asked) if asked.block.length() == length => {
                self.blocks += 1;
                tally.blocks += 1;
                tally.bytes += u64::from(length);
                tally.latency.record(now.saturating_sub(asked.at));
            }
            // It was on its way when the choke came.
            None if self
                .again
                .iter()
                .any(|b| b.piece().get() == piece && b.begin() == begin && b.length() == length) =>
            {
                self.again.retain(|b| b.piece().get() != piece || b.begin() != begin);
                self.blocks += 1;
                tally.blocks += 1;
                tally.bytes += u64::from(length);
            }
            Some(_) | None => tally.unasked += 1,
        }
    }

    fn take_asked(&mut self, piece: u32, begin: u32) -> Option<Asked> {
        // Most servers answer in order, so the first is the one.
        let at = self
            .asked
            .iter()
            .position(|a| a.block.piece().get() == piece && a.block.begin() == begin)?;
        self.asked.remove(at)
    }

    fn copy_to_sample(&mut self, piece: u32, at: u32, data: &[u8]) {
        if let Some(sample) = self.samples.iter_mut().find(|sample| sample.piece.get() == piece)
            && let Some(room) = sample.data.get_mut(at as usize..at as usize + data.len())
        {
            room.copy_from_slice(data);
        }
    }

    /// A block is whole: if it was the last one of a sample, that is hashed.
    fn check_sample(&mut self, piece: u32, begin: u32, context: &mut Context<'_>) {
        let Some(index) = self.samples.iter().position(|sample| sample.piece.get() == piece) else {
            return;
        };
        let sample = &mut self.samples[index];
        match sample.seen.get_mut((begin / context.habits.block) as usize) {
            Some(seen) if !*seen => *seen = true,
            Some(_) | None => return,
        }
        sample.missing -= 1;
        if sample.missing > 0 {
            return;
        }
        let sample = self.samples.swap_remove(index);
        context.tally.sample_bytes -= sample.data.len() as u64;
        if hashing::sha1(&sample.data) == *context.target.hash(sample.piece) {
            context.tally.verified_good += 1;
        } else {
            context.tally.verified_bad += 1;
        }
    }

    /// Lets what was rejected be asked for again.
    pub(super) fn forgive(&mut self) {
        self.again.append(&mut self.rejected);
    }

    /// Asks until the queue is full, if asking is allowed.
    pub(super) fn fill(&mut self, now: u64, context: &mut Context<'_>) {
        while self.ask(now, context) {}
    }

    /// Asks for one more block. False when the server chokes, has nothing, or the queue is full.
    pub(super) fn ask(&mut self, now: u64, context: &mut Context<'_>) -> bool {
        if !self.is_ready() || self.asked.len() + self.rejected.len() >= context.habits.queue {
            return false;
        }
        let Some(block) = self.again.pop_front().or_else(|| self.next_block(context)) else {
            return false;
        };
        let request = Message::Request {
            piece: block.piece().get(),
            begin: block.begin(),
            length: block.length(),
        };
        wire::encode(&request, &mut self.out);
        self.asked.push_back(Asked { block, at: now });
        true
    }

    fn next_block(&mut self, context: &mut Context<'_>) -> Option<BlockRequest> {
        let geometry = &context.target.geometry;
        let (piece, begin) = match self.current {
            Some(current) => current,
            None => (self.next_piece(context)?, 0),
        };
        let piece_len = geometry.piece_len(piece);
        let length = context.habits.block.min(piece_len - begin);
        let end = begin + length;
        self.current = (end < piece_len).then_some((piece, end));
        geometry.check(piece.get(), begin, length)
    }

    fn next_piece(&mut self, context: &mut Context<'_>) -> Option<PieceIndex> {
        let geometry = &context.target.geometry;
        let choices = match &self.offer {
            Offer::All => geometry.piece_count(),
            Offer::Some(pieces) => u32::try_from(pieces.len()).ok()?,
        };
        for _ in 0..CHOICES_MAX {
            let choice = if context.habits.sequential {
                let choice = self.sequence % choices.max(1);
                self.sequence = choice + 1;
                choice
            } else {
                context.random.below(choices)
            };
            let piece = geometry.piece_index(match &self.offer {
                Offer::All => choice,
                Offer::Some(pieces) => *pieces.get(choice as usize)?,
            })?;
            let outstanding = self
                .asked
                .iter()
                .map(|asked| &asked.block)
                .chain(&self.rejected)
                .chain(&self.again);
            if outstanding.into_iter().all(|block| block.piece() != piece) {
                self.sample(piece, context);
                return Some(piece);
            }
        }
        None
    }

    /// Decides whether this piece, about to be asked for, will be hashed.
    fn sample(&mut self, piece: PieceIndex, context: &mut Context<'_>) {
        let tally = &mut *context.tally;
        // A piece that is asked for twice at once cannot be told apart; one sample of it is enough.
        if self.samples.iter().any(|sample| sample.piece == piece) || !context.random.chance(context.habits.verify) {
            return;
        }
        let len = context.target.geometry.piece_len(piece);
        if tally.sample_bytes + u64::from(len) > SAMPLE_BYTES_MAX {
            tally.samples_skipped += 1;
            return;
        }
        tally.sample_bytes += u64::from(len);
        let blocks = len.div_ceil(context.habits.block) as usize;
        self.samples.push(Sample {
            piece,
            data: vec![0; len as usize],
            missing: blocks,
            seen: vec![false; blocks],
        });
    }

    /// The connection is over: what its samples held is free for others.
    pub(super) fn end(&mut self, tally: &mut Tally) {
        for sample in self.samples.drain(..) {
            tally.sample_bytes -= sample.data.len() as u64;
        }
        self.asked.clear();
        self.choked = true;
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The peer id of leecher `index` of a swarm: the id names the maker as other clients' do.
pub(super) fn peer_id(index: u32, seed: u64) -> PeerId {
    let mut id = *b"-BB0001-000000000000";
    let tail = format!("{:04x}{index:08x}", seed & 0xffff);
    id[8..].copy_from_slice(tail.as_bytes());
    PeerId(id)
}

#[cfg(test)]
mod tests;
