//! One peer's state machine, both ways, from behind the handshake to the end of the connection.
//!
//! [`Peer::on_message`] takes what the peer said, keeps the books, and tells what is to be done about it as an
//! [`Event`], or that the peer broke the protocol, as a [`Violation`]. Requests are admitted here: what is in the
//! request queue is in bounds, of a piece we have, asked for while unchoked, and there once.
//!
//! Names are those of BEP 3: `am_choking` is what we do to the peer, `peer_choking` what it does to us.
//!
//! What is deliberately not here: sending (the shard turns events and verbs into messages), deciding whom to unchoke
//! ([`super::choker`]), and which of our own requests are in flight, which is the download's business.

mod violation;

use std::collections::VecDeque;
use std::time::Instant;

use super::bitfield::Bitfield;
use super::extension::{self, ExtensionHandshake, Extensions};
use super::geometry::{BlockRequest, Geometry, PieceIndex};
use super::handshake::Reserved;
use super::wire::{self, Message};

pub use violation::Violation;

/// The longest request queue we keep for a peer: the `reqq` we advertise. At 16 KiB a block this covers 320 ms of round
/// trip at 100 MB/s; clients in use ask for 500 at most, unless told otherwise.
pub const REQUEST_QUEUE_MAX: usize = 2048;

/// How many requests and cancels in a row may come to nothing: refused, asked for twice, cancelled without being queued. A peer that we choke may have a whole
/// queue under way, and one more if it did not look; beyond that it is not listening.
pub const VAIN_REQUESTS_MAX: u16 = 2 * REQUEST_QUEUE_MAX as u16;

/// How many unknown messages are passed over.
pub const UNKNOWN_MAX: u16 = 64;

/// A queue with more room than this gives it back when it is of no use for a while.
const REQUESTS_KEEP: usize = 64;

/// The state of one connection.
#[derive(Debug)]
pub struct Peer {
    requests: VecDeque<BlockRequest>,
    pieces: Pieces,
    /// From its extension handshake. On the heap: most of it is looked at once.
    extension: Option<Box<ExtensionHandshake>>,
    heard_at: Instant,
    /// When `am_choking` last changed.
    choke_changed_at: Instant,
    /// When `peer_interested` last changed.
    interest_changed_at: Instant,
    vain_requests: u16,
    unknown_count: u16,
    fast: bool,
    speaks_extension: bool,
    am_choking: bool,
    am_interested: bool,
    peer_choking: bool,
    peer_interested: bool,
    /// It has said which pieces it has: have-none can come no more.
    pieces_told: bool,
    /// How often it has taken back what it had said it has.
    taken_back: u8,
    /// We have been interested at some time, so blocks may come.
    asked: bool,
}

// Ten thousand idle peers cost 2 MB.
const _: () = assert!(size_of::<Peer>() <= 200);

/// How often a peer may have fewer pieces than before. More of them cost no more than the pieces there are, and aria2 1.36
/// sends its bitfield again and again.
const TAKEN_BACK_MAX: u8 = 16;

/// Which pieces a peer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pieces {
    /// None, or it has not said.
    HaveNone,
    /// Some.
    Bits(Bitfield),
    /// All: it is a seed.
    HaveAll,
}

/// What is to be done about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Nothing.
    None,
    /// The peer stops answering our requests. Without the fast extension those under way are void.
    Choked,
    /// The peer answers our requests from now on.
    Unchoked,
    /// It wants something: unchoke it, if there is a slot.
    Interested,
    /// It wants nothing any more: its slot can go to another.
    NotInterested,
    /// It has one more piece.
    Have(PieceIndex),
    /// It said which pieces it has: see [`Peer::pieces`].
    Pieces,
    /// A request was admitted to the queue: see [`Peer::next_request`].
    Request(BlockRequest),
    /// A request was not admitted. A peer with the fast extension must be sent a reject; others are told nothing.
    Refused {
        /// What it asked for.
        request: BlockRequest,
        /// Why it does not get it.
        why: Refusal,
    },
    /// A request that is in the queue already. It will be answered once, so there is nothing to be told.
    Duplicate(BlockRequest),
    /// A queued request was taken back, and is out of the queue. A peer with the fast extension must be sent a reject.
    Cancelled(BlockRequest),
    /// A request was taken back that is not in the queue: the block is on its way, or the request was refused, and
    /// either is answer enough.
    CancelUnknown(BlockRequest),
    /// A block arrived, of a length and place that exist. Whether it was asked for is to be checked.
    Block {
        /// Which.
        block: BlockRequest,
        /// Its bytes.
        data: &'a [u8],
    },
    /// One of our requests will not be answered.
    Rejected(BlockRequest),
    /// A piece that would suit the peer.
    Suggested(PieceIndex),
    /// A piece we may ask for while choked.
    AllowedFast(PieceIndex),
    /// Its extension handshake arrived: see [`Peer::extension`].
    ExtensionHandshake,
    /// It said whether it will download nothing (BEP 21).
    UploadOnly(bool),
    /// A message of an extension.
    Extended {
        /// The number that we gave the extension.
        id: u8,
        /// What it says.
        payload: &'a [u8],
    },
    /// The port of its DHT node.
    DhtPort(u16),
}

/// Why a request is not admitted. The peer broke no rule: it may not know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// It is choked.
    Choked,
    /// Its request queue has [`REQUEST_QUEUE_MAX`] blocks.
    QueueFull,
    /// We do not have the piece.
    PieceNotHad,
}

impl Refusal {
    /// A name for a metric.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Choked => "choked",
            Self::QueueFull => "queue_full",
            Self::PieceNotHad => "piece_not_had",
        }
    }
}

impl Peer {
    /// A peer whose handshake has just been read. Both sides begin choking and not interested.
    pub fn new(ours: Reserved, theirs: Reserved, now: Instant) -> Self {
        Self {
            requests: VecDeque::new(),
            pieces: Pieces::HaveNone,
            extension: None,
            heard_at: now,
            choke_changed_at: now,
            interest_changed_at: now,
            vain_requests: 0,
            unknown_count: 0,
            fast: ours.fast() && theirs.fast(),
            speaks_extension: ours.extension() && theirs.extension(),
            am_choking: true,
            am_interested: false,
            peer_choking: true,
            peer_interested: false,
            pieces_told: false,
            taken_back: 0,
            asked: false,
        }
    }

    /// Takes a message in. `have` tells whether we have a piece. After a violation the connection is to be closed.
    pub fn on_message<'a>(
        &mut self,
        message: &Message<'a>,
        geometry: &Geometry,
        have: impl Fn(PieceIndex) -> bool,
        now: Instant,
    ) -> Result<Event<'a>, Violation> {
        self.heard_at = now;
        match *message {
            Message::KeepAlive => Ok(Event::None),
            Message::Choke => Ok(self.on_choke(true)),
            Message::Unchoke => Ok(self.on_choke(false)),
            Message::Interested => Ok(self.on_interest(true, now)),
            Message::NotInterested => Ok(self.on_interest(false, now)),
            Message::Have(piece) => self.on_have(piece, geometry),
            Message::Bitfield(bits) => self.on_bitfield(bits, geometry),
            Message::Request { piece, begin, length } => {
                let bad = Violation::BadRequest { piece, begin, length };
                let request = geometry.check(piece, begin, length).ok_or(bad)?;
                self.on_request(request, have)
            }
            Message::Piece { piece, begin, data } => {
                let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
                let block = self.check_answer(piece, begin, length, geometry)?;
                Ok(Event::Block { block, data })
            }
            Message::Cancel { piece, begin, length } => {
                let bad = Violation::BadRequest { piece, begin, length };
                self.on_cancel(geometry.check(piece, begin, length).ok_or(bad)?)
            }
            Message::Port(port) => Ok(Event::DhtPort(port)),
            Message::Suggest(piece) => {
                self.check_fast()?;
                Ok(Event::Suggested(check_piece(piece, geometry)?))
            }
            Message::HaveAll => self.on_have_all(),
            Message::HaveNone => self.on_have_none(),
            Message::Reject { piece, begin, length } => {
                self.check_fast()?;
                Ok(Event::Rejected(self.check_answer(piece, begin, length, geometry)?))
            }
            Message::AllowedFast(piece) => {
                self.check_fast()?;
                Ok(Event::AllowedFast(check_piece(piece, geometry)?))
            }
            Message::Extended { id, payload } => self.on_extended(id, payload),
            Message::Unknown { id } => self.on_unknown(id),
        }
    }

    fn on_choke(&mut self, choking: bool) -> Event<'static> {
        if self.peer_choking == choking {
            return Event::None;
        }
        self.peer_choking = choking;
        if choking { Event::Choked } else { Event::Unchoked }
    }

    fn on_interest(&mut self, interested: bool, now: Instant) -> Event<'static> {
        if self.peer_interested == interested {
            return Event::None;
        }
        self.peer_interested = interested;
        self.interest_changed_at = now;
        if interested {
            Event::Interested
        } else {
            Event::NotInterested
        }
    }

    fn on_have(&mut self, piece: u32, geometry: &Geometry) -> Result<Event<'static>, Violation> {
        let piece = check_piece(piece, geometry)?;
        self.pieces_told = true;
        let new = match &mut self.pieces {
            Pieces::HaveAll => false,
            Pieces::Bits(bits) => bits.set(piece),
            Pieces::HaveNone => {
                let mut bits = Bitfield::new(geometry.piece_count());
                bits.set(piece);
                self.pieces = Pieces::Bits(bits);
                true
            }
        };
        if matches!(&self.pieces, Pieces::Bits(bits) if bits.is_full()) {
            self.pieces = Pieces::HaveAll;
        }
        Ok(if new { Event::Have(piece) } else { Event::None })
    }

    /// Taken at any time, as the peer's last word: aria2 1.36 sends one in the middle of a connection in place of several
    /// haves, where it is shorter.
    fn on_bitfield(&mut self, bits: &[u8], geometry: &Geometry) -> Result<Event<'static>, Violation> {
        let bits = Bitfield::from_wire(bits, geometry.piece_count()).map_err(Violation::BadBitfield)?;
        self.pieces_told = true;
        let takes_back = match &self.pieces {
            Pieces::HaveNone => false,
            Pieces::Bits(had) => had.has_beside(&bits),
            Pieces::HaveAll => !bits.is_full(),
        };
        self.taken_back += u8::from(takes_back);
        if self.taken_back > TAKEN_BACK_MAX {
            return Err(Violation::PiecesFlood);
        }
        self.pieces = match bits.count() {
            0 => Pieces::HaveNone,
            _ if bits.is_full() => Pieces::HaveAll,
            _ => Pieces::Bits(bits),
        };
        Ok(Event::Pieces)
    }

    /// BEP 6 has it first or never. aria2 1.36 says it once more when its download is complete, which is true.
    fn on_have_all(&mut self) -> Result<Event<'static>, Violation> {
        self.check_fast()?;
        self.pieces_told = true;
        self.pieces = Pieces::HaveAll;
        Ok(Event::Pieces)
    }

    fn on_have_none(&mut self) -> Result<Event<'static>, Violation> {
        self.check_fast()?;
        self.check_pieces_untold()?;
        self.pieces_told = true;
        self.pieces = Pieces::HaveNone;
        Ok(Event::Pieces)
    }

    /// Admits a request to the queue, or says why not.
    fn on_request(
        &mut self,
        request: BlockRequest,
        have: impl Fn(PieceIndex) -> bool,
    ) -> Result<Event<'static>, Violation> {
        let refusal = if self.am_choking {
            Some(Refusal::Choked)
        } else if place_of(&self.requests, request).is_some() {
            None
        } else if self.requests.len() >= REQUEST_QUEUE_MAX {
            Some(Refusal::QueueFull)
        } else if !have(request.piece()) {
            Some(Refusal::PieceNotHad)
        } else {
            self.vain_requests = 0;
            self.requests.push_back(request);
            return Ok(Event::Request(request));
        };
        self.count_vain()?;
        Ok(refusal.map_or(Event::Duplicate(request), |why| Event::Refused { request, why }))
    }

    fn on_cancel(&mut self, request: BlockRequest) -> Result<Event<'static>, Violation> {
        let Some(at) = place_of(&self.requests, request) else {
            // Its block had left, or was never asked for: no more of these than a queue can have under way.
            self.count_vain()?;
            return Ok(Event::CancelUnknown(request));
        };
        self.requests.remove(at);
        Ok(Event::Cancelled(request))
    }

    fn count_vain(&mut self) -> Result<(), Violation> {
        if self.vain_requests == VAIN_REQUESTS_MAX {
            return Err(Violation::RequestFlood);
        }
        self.vain_requests += 1;
        Ok(())
    }

    fn on_extended<'a>(&mut self, id: u8, payload: &'a [u8]) -> Result<Event<'a>, Violation> {
        if !self.speaks_extension {
            return Err(Violation::ExtensionNotNegotiated);
        }
        if id == extension::HANDSHAKE_ID {
            let told = self.extension.get_or_insert_default();
            told.update(payload).map_err(Violation::BadExtensionHandshake)?;
            return Ok(Event::ExtensionHandshake);
        }
        if id == Extensions::OURS.upload_only {
            let upload_only = payload.first().is_some_and(|flag| *flag != 0);
            self.extension.get_or_insert_default().upload_only = upload_only;
            return Ok(Event::UploadOnly(upload_only));
        }
        Ok(Event::Extended { id, payload })
    }

    fn on_unknown(&mut self, id: u8) -> Result<Event<'static>, Violation> {
        if self.unknown_count == UNKNOWN_MAX {
            return Err(Violation::TooManyUnknown { id });
        }
        self.unknown_count += 1;
        Ok(Event::None)
    }

    /// A block or a reject must be about something that we could have asked for.
    fn check_answer(
        &self,
        piece: u32,
        begin: u32,
        length: u32,
        geometry: &Geometry,
    ) -> Result<BlockRequest, Violation> {
        if !self.asked {
            return Err(Violation::AnswerNotAskedFor);
        }
        geometry
            .check(piece, begin, length)
            .ok_or(Violation::BadBlock { piece, begin, length })
    }

    fn check_fast(&self) -> Result<(), Violation> {
        if self.fast {
            Ok(())
        } else {
            Err(Violation::FastNotNegotiated)
        }
    }

    /// BEP 6 wants have-all and have-none first of all. Clients put their extension handshake, a port or their interest
    /// before it, which does no harm; what it may not do is contradict what the peer already said.
    fn check_pieces_untold(&self) -> Result<(), Violation> {
        if self.pieces_told {
            Err(Violation::LateHaveNone)
        } else {
            Ok(())
        }
    }

    /// Chokes the peer and empties its request queue. What is returned must be rejected one by one: a peer with the
    /// fast extension counts on it, and for one without it there is nothing in it. A peer that is choked already has
    /// nothing queued.
    #[must_use = "a peer with the fast extension must be sent rejects"]
    pub fn choke(&mut self, now: Instant) -> VecDeque<BlockRequest> {
        if !self.am_choking {
            self.am_choking = true;
            self.choke_changed_at = now;
        }
        let requests = std::mem::take(&mut self.requests);
        if self.fast { requests } else { VecDeque::new() }
    }

    /// Unchokes the peer, and tells whether it was choked.
    pub fn unchoke(&mut self, now: Instant) -> bool {
        let was_choking = std::mem::replace(&mut self.am_choking, false);
        if was_choking {
            self.choke_changed_at = now;
            self.vain_requests = 0;
        }
        was_choking
    }

    /// Sets whether we want something of the peer, and tells whether that is news to it.
    pub fn set_interested(&mut self, interested: bool) -> bool {
        self.asked |= interested;
        std::mem::replace(&mut self.am_interested, interested) != interested
    }

    /// Takes the next block to be sent off the request queue.
    pub fn next_request(&mut self) -> Option<BlockRequest> {
        self.requests.pop_front()
    }

    /// The block that [`next_request`](Self::next_request) would take.
    pub fn front_request(&self) -> Option<&BlockRequest> {
        self.requests.front()
    }

    /// The request queue, oldest first.
    pub fn requests(&self) -> impl Iterator<Item = &BlockRequest> {
        self.requests.iter()
    }

    /// How many blocks are queued.
    pub fn request_count(&self) -> usize {
        self.requests.len()
    }

    /// Gives back the room of a queue that was long once. To be called now and then for peers that are quiet.
    pub fn shrink(&mut self) {
        if self.requests.is_empty() && self.requests.capacity() > REQUESTS_KEEP {
            self.requests = VecDeque::new();
        }
    }

    /// Whether we do not answer its requests.
    pub const fn am_choking(&self) -> bool {
        self.am_choking
    }

    /// Whether we want something it has.
    pub const fn am_interested(&self) -> bool {
        self.am_interested
    }

    /// Whether it does not answer our requests.
    pub const fn peer_choking(&self) -> bool {
        self.peer_choking
    }

    /// Whether it wants something we have.
    pub const fn peer_interested(&self) -> bool {
        self.peer_interested
    }

    /// Whether both sides speak the fast extension (BEP 6).
    pub const fn fast(&self) -> bool {
        self.fast
    }

    /// Whether both sides speak the extension protocol (BEP 10).
    pub const fn speaks_extension(&self) -> bool {
        self.speaks_extension
    }

    /// What its extension handshake said, if it has come.
    pub fn extension(&self) -> Option<&ExtensionHandshake> {
        self.extension.as_deref()
    }

    /// Says that a piece is gone, if the peer understands that (`lt_donthave`, BEP 54): it would go on asking for it.
    /// Returns whether it was said.
    pub fn say_gone(&self, piece: PieceIndex, out: &mut Vec<u8>) -> bool {
        let id = self.extension().map_or(0, |theirs| theirs.m.lt_donthave);
        if id != 0 {
            let payload = &piece.get().to_be_bytes();
            wire::encode(&Message::Extended { id, payload }, out);
        }
        id != 0
    }

    /// Which pieces it has.
    pub const fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Whether it has this piece.
    pub fn has(&self, piece: PieceIndex) -> bool {
        match &self.pieces {
            Pieces::HaveNone => false,
            Pieces::Bits(bits) => bits.get(piece),
            Pieces::HaveAll => true,
        }
    }

    /// Whether it has every piece.
    pub const fn is_seed(&self) -> bool {
        matches!(self.pieces, Pieces::HaveAll)
    }

    /// Whether it will download nothing: it is a seed, or says so (BEP 21).
    pub fn is_upload_only(&self) -> bool {
        self.is_seed() || self.extension.as_ref().is_some_and(|told| told.upload_only)
    }

    /// When its last message came.
    pub const fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// When it was last unchoked; of no meaning while it is choked.
    pub const fn unchoked_at(&self) -> Instant {
        self.choke_changed_at
    }

    /// Since when it has been both interested and choked; of no meaning while it is not.
    pub fn waiting_since(&self) -> Instant {
        self.choke_changed_at.max(self.interest_changed_at)
    }
}

/// Where in the queue a block is. Looks for it without stopping at each: without the early end the compiler compares many
/// words at a time, which makes a full queue nine times cheaper to ask (`benches/wire.rs`, "admit").
fn place_of(requests: &VecDeque<BlockRequest>, request: BlockRequest) -> Option<usize> {
    const TOGETHER: usize = 64;
    let found = |part: &[BlockRequest]| part.iter().fold(false, |found, queued| found | (*queued == request));
    let within = |part: &[BlockRequest]| {
        let (number, chunk) = part.chunks(TOGETHER).enumerate().find(|(_, chunk)| found(chunk))?;
        Some(number * TOGETHER + chunk.iter().position(|queued| *queued == request)?)
    };
    let (older, newer) = requests.as_slices();
    within(older).or_else(|| Some(older.len() + within(newer)?))
}

fn check_piece(piece: u32, geometry: &Geometry) -> Result<PieceIndex, Violation> {
    geometry.piece_index(piece).ok_or(Violation::BadPiece {
        piece,
        piece_count: geometry.piece_count(),
    })
}

#[cfg(test)]
mod tests;
