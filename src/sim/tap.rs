//! Listens to what a btd sends, and knows what it may say.
//!
//! - A block is the torrent's, byte for byte.
//! - A piece that it says it has is on its disk, in the page cache at least, byte for byte: `kill -9` does not make a liar of it.
//! - A block answers a request.

use std::collections::BTreeMap;

use super::SECOND;
use super::plan::Kind;
use super::torrent::Subject;
use super::world::World;
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::PieceIndex;
use crate::proto::handshake::HANDSHAKE_LEN;
use crate::proto::wire::{self, Decoder, Message};

/// How long after its socket has taken something again an end has said what it had to say: completions may be late.
const TOLD_AFTER: u64 = 2 * SECOND;

/// What was heard from one end.
#[derive(Debug)]
pub(super) struct Tap {
    handshake_left: usize,
    decoder: Option<Box<Decoder>>,
    /// Pieces that it has said it has, once it has said what it has.
    told: Option<Bitfield>,
    /// Blocks that this end has asked for, and how often.
    pub(super) asked: BTreeMap<(u32, u32, u32), u32>,
}

/// What is to be judged of a message, apart from the decoder's buffer.
enum Said {
    Block {
        piece: u32,
        begin: u32,
        right: bool,
        len: u32,
    },
    Has(u32),
    Bits(Option<Bitfield>),
    HasAll,
    HasNone,
    Asks(u32, u32, u32),
    Nothing,
}

impl Tap {
    pub(super) fn new(subject: &Subject) -> Self {
        let len_max = wire::len_max(subject.meta.geometry.piece_count());
        Self {
            handshake_left: HANDSHAKE_LEN,
            decoder: Some(Box::new(Decoder::new(len_max.max(1 << 17)))),
            told: None,
            asked: BTreeMap::new(),
        }
    }
}

fn said(message: &Message<'_>, subject: &Subject) -> Said {
    match *message {
        Message::Piece { piece, begin, data } => {
            let geometry = &subject.meta.geometry;
            let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let start = geometry
                .piece_index(piece)
                .map(|index| geometry.piece_offset(index) + u64::from(begin));
            let wanted = start.and_then(|start| subject.payload.get(start as usize..start as usize + data.len()));
            let right = wanted == Some(data);
            Said::Block {
                piece,
                begin,
                right,
                len,
            }
        }
        Message::Have(piece) => Said::Has(piece),
        Message::Bitfield(bytes) => Said::Bits(Bitfield::from_wire(bytes, subject.meta.geometry.piece_count()).ok()),
        Message::HaveAll => Said::HasAll,
        Message::HaveNone => Said::HasNone,
        Message::Request { piece, begin, length } => Said::Asks(piece, begin, length),
        _ => Said::Nothing,
    }
}

impl World {
    /// A btd has sent these bytes from an end, which it gave to the kernel at the time `since`.
    pub(super) fn listen(&mut self, id: u64, bytes: &[u8], since: u64) {
        let (host, peer) = (self.ends[&id].host, self.ends[&id].peer);
        let tap = &mut self.end(id).tap;
        let skipped = tap.handshake_left.min(bytes.len());
        tap.handshake_left -= skipped;
        let mut rest = &bytes[skipped..];
        let Some(mut decoder) = tap.decoder.take() else { return };
        let subject = std::rc::Rc::clone(&self.subject);
        loop {
            let message = match decoder.next(&mut rest) {
                Ok(Some(message)) => said(&message, &subject),
                Ok(None) => break,
                Err(error) => {
                    self.violate(|| format!("node {host} sends what is no message: {error}"));
                    break;
                }
            };
            self.judge((id, peer, host), message, since);
        }
        self.end(id).tap.decoder = Some(decoder);
    }

    fn judge(&mut self, (id, peer, host): (u64, Option<u64>, usize), said: Said, since: u64) {
        match said {
            Said::Block {
                piece,
                begin,
                right,
                len,
            } => {
                if !right && !self.misread[host] {
                    self.violate(|| format!("node {host} sends {len} wrong bytes of piece {piece} at {begin}"));
                }
                let Some(peer) = peer else { return };
                let asked = self.end(peer).tap.asked.get_mut(&(piece, begin, len));
                let was_asked = asked.is_some_and(|count| {
                    let before = *count;
                    *count = before.saturating_sub(1);
                    before > 0
                });
                // What a script asks for is not listened to.
                if !was_asked && !self.hosts[self.ends[&peer].host].scripted {
                    self.violate(|| format!("node {host} sends piece {piece} at {begin}, which nobody asked for"));
                }
            }
            Said::Has(piece) => {
                self.judge_have(host, piece, since);
                let index = self.subject.meta.geometry.piece_index(piece);
                if let (Some(told), Some(index)) = (&mut self.end(id).tap.told, index) {
                    told.set(index);
                }
            }
            Said::Bits(Some(bits)) => {
                bits.pieces()
                    .for_each(|piece| self.judge_have(host, piece.get(), since));
                self.end(id).tap.told = Some(bits);
            }
            Said::HasNone => self.end(id).tap.told = Some(Bitfield::new(self.subject.meta.geometry.piece_count())),
            Said::Bits(None) => self.violate(|| format!("node {host} sends a bitfield of another torrent")),
            Said::HasAll => {
                let pieces = self.subject.meta.geometry.pieces();
                pieces.for_each(|piece| self.judge_have(host, piece.get(), since));
                self.end(id).tap.told = Some(Bitfield::full(self.subject.meta.geometry.piece_count()));
            }
            Said::Asks(piece, begin, len) => {
                *self.end(id).tap.asked.entry((piece, begin, len)).or_default() += 1;
            }
            Said::Nothing => {}
        }
    }

    /// A node has had these pieces for a while: whoever it is connected to has been told.
    pub(super) fn judge_told(&mut self, host: usize, had: &Bitfield) {
        if self.fails(host, Kind::Frozen) {
            return;
        }
        let ends = self.hosts[host].sockets.iter().map(|id| &self.ends[id]);
        // Whose socket took nothing for long is told as soon as it does, and not before.
        let has_waited = |sent_at: u64| sent_at > 0 && self.now < sent_at + TOLD_AFTER;
        let waiting = ends.filter(|end| !end.closed && !end.reset && !end.finished);
        let waiting = waiting.filter(|end| end.send.is_none() && !has_waited(end.sent_at));
        let mut told = waiting.filter_map(|end| end.tap.told.as_ref());
        if told.any(|told| told.and(had) != *had) {
            self.violate(|| format!("node {host} has pieces, and has not said so to a peer for seconds"));
        }
    }

    fn judge_have(&mut self, host: usize, piece: u32, since: u64) {
        // What the kernel had before the disk lost something was so when it was said.
        if self.hosts[host].disk.lost_at().is_some_and(|at| since <= at) {
            return;
        }
        let index: Option<PieceIndex> = self.subject.meta.geometry.piece_index(piece);
        let disk = &self.hosts[host].disk;
        let holds = |piece| {
            self.subject
                .holds(piece, |name, offset, len| disk.read(name, offset, len))
        };
        if !index.is_some_and(holds) {
            self.violate(|| format!("node {host} says that it has piece {piece}, and has not"));
        }
    }
}
