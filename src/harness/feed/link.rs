//! One connection of a seeder: bytes in, blocks out. It has no socket and no clock, so it is tested without them.
//!
//! What the client sends is on its way for the path's delay before the seeder hears of it, and so is what the seeder sends
//! before the client may read it. Both queues are here, so that a distant seeder needs nothing of the kernel.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use crate::proto::PeerId;
use crate::proto::bitfield::Bitfield;
use crate::proto::extension::{self, ExtensionHandshake, Extensions};
use crate::proto::geometry::BlockRequest;
use crate::proto::handshake::{HANDSHAKE_LEN, Handshake, Reserved};
use crate::proto::wire::{self, Decoder, Message, PIECE_HEADER_LEN};

use super::ledger::Ledger;
use super::path::{Pace, Path};
use super::payload::Torrent;

/// How long after its handshake a seeder tells what it has: aria2 drops a peer that sends both at once.
const GREET_AFTER: Duration = Duration::from_millis(20);
/// Parcels of one send: a header and a block each, which together stay below the kernel's 1,024 vectors.
const SEND_MAX: usize = 64;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    ConnectFailed,
    ClosedInHandshake,
    Closed,
    NotBitTorrent,
    OtherTorrent,
    BadMessage,
    DroppedByUs,
}

impl Fault {
    pub(super) fn name(self) -> &'static str {
        match self {
            Fault::ConnectFailed => "connect failed",
            Fault::ClosedInHandshake => "closed in the handshake",
            Fault::Closed => "closed by the client",
            Fault::NotBitTorrent => "no BitTorrent handshake",
            Fault::OtherTorrent => "handshake for another torrent",
            Fault::BadMessage => "message that is none",
            Fault::DroppedByUs => "dropped by a seeder, as asked for",
        }
    }
}

/// What a seeder is told.
#[derive(Debug, Clone, Copy)]
enum Heard {
    /// The client's handshake, and what it can do.
    Handshake(Reserved),
    Interested,
    Request(BlockRequest),
    Cancel(BlockRequest),
}

/// What a seeder sends, and when it is with the client.
#[derive(Debug)]
struct Parcel {
    due: Duration,
    what: What,
}

#[derive(Debug)]
enum What {
    Words(Vec<u8>),
    Block {
        header: [u8; PIECE_HEADER_LEN],
        block: BlockRequest,
        lie: bool,
    },
}

impl Parcel {
    fn len(&self) -> usize {
        match &self.what {
            What::Words(bytes) => bytes.len(),
            What::Block { header, block, .. } => header.len() + block.length() as usize,
        }
    }
}

/// What all connections share.
pub(super) struct Scene<'a> {
    pub(super) torrent: &'a Torrent,
    pub(super) delay: Duration,
    /// Requests that a seeder's queue takes.
    pub(super) reqq: u32,
    pub(super) ledger: &'a mut Ledger,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Link {
    /// Whose connection it is.
    pub(super) seeder: usize,
    peer_id: PeerId,
    /// Whether the seeder sends other bytes than it was asked for.
    lies: bool,
    we_opened: bool,
    /// The client's handshake as far as it has come; gone when it was whole.
    handshake: Option<Vec<u8>>,
    decoder: Decoder,
    heard: VecDeque<(Duration, Heard)>,
    asked: VecDeque<(Duration, BlockRequest)>,
    out: VecDeque<Parcel>,
    /// Of the first parcel.
    sent: usize,
    fast: bool,
    /// Whether the client wants something of us, by the last we received.
    pub(super) interested: bool,
    /// The socket takes no more.
    pub(super) blocked: bool,
    /// Requests received and not answered, and the most of them since that was last asked.
    outstanding: u32,
    peak: u32,
}

impl Link {
    /// A connection that is made. `we_opened`: the seeder has called the client, and shakes hands first.
    pub(super) fn new(
        seeder: usize,
        peer_id: PeerId,
        lies: bool,
        we_opened: bool,
        now: Duration,
        scene: &Scene<'_>,
    ) -> Link {
        let mut link = Link {
            seeder,
            peer_id,
            lies,
            we_opened,
            handshake: Some(Vec::new()),
            decoder: Decoder::new(wire::len_max(scene.torrent.geometry.piece_count())),
            heard: VecDeque::new(),
            asked: VecDeque::new(),
            out: VecDeque::new(),
            sent: 0,
            fast: false,
            interested: false,
            blocked: false,
            outstanding: 0,
            peak: 0,
        };
        if we_opened {
            link.shake(now + scene.delay, scene);
        }
        link
    }

    /// The client's handshake was whole and right.
    pub(super) fn is_open(&self) -> bool {
        self.handshake.is_none()
    }

    /// The most requests that were outstanding since this was last asked.
    pub(super) fn take_peak(&mut self) -> u32 {
        std::mem::replace(&mut self.peak, self.outstanding)
    }

    /// The client's bytes, as they leave it.
    pub(super) fn on_bytes(&mut self, mut bytes: &[u8], now: Duration, scene: &mut Scene<'_>) -> Result<(), Fault> {
        if let Some(mut partial) = self.handshake.take() {
            let (part, rest) = bytes.split_at(bytes.len().min(HANDSHAKE_LEN - partial.len()));
            partial.extend_from_slice(part);
            bytes = rest;
            let Ok(whole) = <&[u8; HANDSHAKE_LEN]>::try_from(&partial[..]) else {
                self.handshake = Some(partial);
                return Ok(());
            };
            let theirs = Handshake::decode(whole).map_err(|_| Fault::NotBitTorrent)?;
            if theirs.info_hash != scene.torrent.info_hash {
                return Err(Fault::OtherTorrent);
            }
            scene.ledger.on_met(now);
            self.heard
                .push_back((now + scene.delay, Heard::Handshake(theirs.reserved)));
        }
        let geometry = &scene.torrent.geometry;
        let due = now + scene.delay;
        while let Some(message) = self.decoder.next(&mut bytes).map_err(|_| Fault::BadMessage)? {
            match message {
                Message::Interested => {
                    self.interested = true;
                    self.heard.push_back((due, Heard::Interested));
                }
                Message::NotInterested => self.interested = false,
                Message::Request { piece, begin, length } => {
                    scene.ledger.on_request(now);
                    match geometry.check(piece, begin, length) {
                        None => scene.ledger.counts.invalid += 1,
                        Some(block) => {
                            self.outstanding += 1;
                            self.peak = self.peak.max(self.outstanding);
                            self.heard.push_back((due, Heard::Request(block)));
                        }
                    }
                }
                Message::Cancel { piece, begin, length } => {
                    if let Some(block) = geometry.check(piece, begin, length) {
                        self.heard.push_back((due, Heard::Cancel(block)));
                    }
                }
                // What the client has is of interest to the report, and not to a seeder: no need to wait.
                Message::Have(piece) => {
                    let piece = geometry.piece_index(piece).ok_or(Fault::BadMessage)?;
                    scene.ledger.on_have(piece, now);
                }
                Message::Bitfield(bits) => {
                    let pieces = Bitfield::from_wire(bits, geometry.piece_count()).map_err(|_| Fault::BadMessage)?;
                    scene.ledger.on_bitfield(&pieces, now);
                }
                Message::HaveAll => scene.ledger.on_bitfield(&scene.torrent.have, now),
                _ => {}
            }
        }
        Ok(())
    }

    /// Time has passed: the seeder hears what has arrived.
    pub(super) fn on_time(&mut self, now: Duration, scene: &mut Scene<'_>) {
        while let Some((due, heard)) = self.heard.front().copied()
            && due <= now
        {
            self.heard.pop_front();
            let arrives = due + scene.delay;
            match heard {
                Heard::Handshake(theirs) => {
                    if !self.we_opened {
                        self.shake(arrives, scene);
                    }
                    self.greet(theirs, arrives + GREET_AFTER, scene);
                }
                Heard::Interested => self.say(&Message::Unchoke, arrives),
                Heard::Request(block) => self.on_request(block, due, now, scene),
                Heard::Cancel(block) => {
                    let Some(at) = self.asked.iter().position(|(_, asked)| *asked == block) else {
                        continue; // It has left.
                    };
                    self.asked.remove(at);
                    scene.ledger.on_let_go(&block);
                    scene.ledger.counts.cancelled += 1;
                    self.refuse(&block, arrives);
                }
            }
        }
    }

    fn on_request(&mut self, block: BlockRequest, due: Duration, now: Duration, scene: &mut Scene<'_>) {
        // What waits for the socket is in the queue still; what is on the path is not.
        let waiting = match self.blocked {
            true => self.out.partition_point(|parcel| parcel.due <= now),
            false => 0,
        };
        if self.asked.len() + waiting >= scene.reqq as usize {
            scene.ledger.counts.refused += 1;
            return self.refuse(&block, due + scene.delay);
        }
        scene.ledger.on_taken(&block);
        self.asked.push_back((due, block));
    }

    /// A request will not be answered. Without the fast extension nobody is told.
    fn refuse(&mut self, block: &BlockRequest, arrives: Duration) {
        self.outstanding -= 1;
        if self.fast {
            self.say(&Message::reject(block), arrives);
        }
    }

    /// Sends the next block on its way, if its time has come.
    pub(super) fn depart(&mut self, now: Duration, path: &mut Path, pace: &mut Pace) -> bool {
        if self.blocked {
            return false;
        }
        let Some((ready, block)) = self.asked.front().copied() else {
            return false;
        };
        let len = PIECE_HEADER_LEN + block.length() as usize;
        let Some(due) = path.take(pace, ready, len, now) else {
            return false;
        };
        self.asked.pop_front();
        let what = What::Block {
            header: wire::piece_header(&block),
            block,
            lie: self.lies,
        };
        self.push(what, due);
        true
    }

    /// When there is something to do next, if nothing is received.
    pub(super) fn next_at(&self, path: &Path, pace: &Pace) -> Option<Duration> {
        let heard = self.heard.front().map(|(due, _)| *due);
        let asked = self.asked.front().map(|(ready, _)| path.begin(pace, *ready));
        let out = self.out.front().map(|parcel| parcel.due);
        // Nothing leaves until the socket takes more, which it tells.
        let leaves = [asked, out].into_iter().flatten().min().filter(|_| !self.blocked);
        [heard, leaves].into_iter().flatten().min()
    }

    /// What the client may read by now, of one send.
    pub(super) fn gather<'a>(&'a self, now: Duration, torrent: &'a Torrent, slices: &mut Vec<IoSlice<'a>>) {
        let mut skip = self.sent;
        for parcel in self.out.iter().take(SEND_MAX).take_while(|parcel| parcel.due <= now) {
            let (head, body) = match &parcel.what {
                What::Words(bytes) => (&bytes[..], &[][..]),
                What::Block { header, block, lie } => (&header[..], torrent.block(block, *lie)),
            };
            let of_head = skip.min(head.len());
            let of_body = skip - of_head;
            skip = 0;
            for slice in [&head[of_head..], &body[of_body..]] {
                if !slice.is_empty() {
                    slices.push(IoSlice::new(slice));
                }
            }
        }
    }

    /// The socket took so many bytes. Gives the blocks that left with them, and their bytes.
    pub(super) fn on_sent(&mut self, len: usize, now: Duration, ledger: &mut Ledger) -> (u32, u64) {
        let (mut blocks, mut bytes) = (0, 0);
        self.sent += len;
        while let Some(parcel) = self.out.front()
            && self.sent >= parcel.len()
        {
            self.sent -= parcel.len();
            if let Some(Parcel {
                what: What::Block { block, lie, .. },
                ..
            }) = self.out.pop_front()
            {
                self.outstanding -= 1;
                ledger.on_sent(&block, lie, now);
                blocks += 1;
                bytes += u64::from(block.length());
            }
        }
        (blocks, bytes)
    }

    /// The connection is gone, and what it owed may be asked of others.
    pub(super) fn end(self, ledger: &mut Ledger) {
        let asked = self.asked.iter().map(|(_, block)| block);
        let out = self.out.iter().filter_map(|parcel| match &parcel.what {
            What::Block { block, .. } => Some(block),
            What::Words(_) => None,
        });
        asked.chain(out).for_each(|block| ledger.on_let_go(block));
    }

    /// Says that we are still here.
    pub(super) fn keep_alive(&mut self, now: Duration) {
        self.say(&Message::KeepAlive, now);
    }

    fn shake(&mut self, due: Duration, scene: &Scene<'_>) {
        let ours = Handshake {
            reserved: Reserved::OURS,
            info_hash: scene.torrent.info_hash,
            peer_id: self.peer_id,
        };
        self.push(What::Words(ours.encode().to_vec()), due);
    }

    fn greet(&mut self, theirs: Reserved, due: Duration, scene: &Scene<'_>) {
        self.fast = theirs.fast();
        let all = match self.fast {
            true => Message::HaveAll,
            false => Message::Bitfield(scene.torrent.have.as_bytes()),
        };
        self.say(&all, due);
        if theirs.extension() {
            let mut payload = Vec::new();
            let ours = ExtensionHandshake {
                m: Extensions::default(),
                v: Some(concat!("btd bench ", env!("CARGO_PKG_VERSION")).to_owned()),
                reqq: Some(scene.reqq),
                ..ExtensionHandshake::default()
            };
            ours.encode(&mut payload);
            let (id, payload) = (extension::HANDSHAKE_ID, &payload[..]);
            self.say(&Message::Extended { id, payload }, due);
        }
    }

    fn say(&mut self, message: &Message<'_>, due: Duration) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        self.push(What::Words(bytes), due);
    }

    /// Nothing overtakes on a path.
    fn push(&mut self, what: What, due: Duration) {
        let due = self.out.back().map_or(due, |last| last.due.max(due));
        self.out.push_back(Parcel { due, what });
    }
}

#[cfg(test)]
mod tests;
