//! One connection: its socket, how far it is, and what lies ready for it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::Torrent;
use super::dial::Dialed;
use super::ended::Reason;
use super::gone::Gone;
use super::leech::Leech;
use super::lending::Route;
use super::upload::Upload;
use crate::io::{Handle, SendBatch, Token};
use crate::proto::handshake::HANDSHAKE_LEN;
use crate::proto::peer::Peer;
use crate::proto::rate::Rate;
use crate::proto::wire::Decoder;
use crate::proto::{InfoHash, PeerId};

/// A torrent as this shard serves it.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) torrent: Arc<Torrent>,
    /// The shard's own number for it, never used twice: keys of the caches.
    pub(super) number: u32,
    /// Payload bytes that sockets took and the other shards were not told of. See [`super::uploaded`].
    pub(super) uploaded: Cell<u64>,
}

impl Served {
    pub(super) fn new(torrent: Arc<Torrent>, number: u32) -> Rc<Served> {
        Rc::new(Served {
            torrent,
            number,
            uploaded: Cell::new(0),
        })
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) socket: Handle,
    /// Whether sends lend their buffers to the socket, and how many buffers are lent.
    pub(super) route: Route,
    pub(super) lent: u32,
    pub(super) addr: SocketAddr,
    /// For which torrent we have made it; `None` for one that was accepted.
    pub(super) dialed: Option<Box<Dialed>>,
    /// The connecting, while it goes on.
    pub(super) connect: Option<Token>,
    pub(super) phase: Phase,
    /// Small messages to be sent before the next block.
    pub(super) out: Vec<u8>,
    /// The send in flight: never two, or bytes would change places.
    pub(super) send: Option<Token>,
    /// The receive, while it is armed.
    pub(super) receive: Option<Token>,
    /// It ends for this reason when what it was sent is taken.
    pub(super) ends: Option<Reason>,
    /// Whether it is in the list of those to be pumped this turn.
    pub(super) touched: bool,
    /// Whether it waits for a free buffer.
    pub(super) starved: bool,
    /// Whether it waits for the upload rate.
    pub(super) paced: bool,
    /// The turn in which it was heard last, and what was heard of it in that turn.
    pub(super) heard_turn: u64,
    pub(super) heard_count: u32,
    /// Queued requests that what it said in that turn was compared with.
    pub(super) searched: usize,
    /// Since when nothing has moved, if a send was cancelled before anything did: the next one goes on counting.
    pub(super) unmoved_since: Option<u64>,
    /// Ticks: start, last bytes received, last send that was begun or moved, and when the wheel wakes it.
    pub(super) started: u64,
    pub(super) received_at: u64,
    pub(super) sent_at: u64,
    pub(super) wake_at: u64,
}

/// How far a connection is.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "hardly any connection is in its handshake")]
pub(super) enum Phase {
    /// The handshake is not whole yet.
    Handshake { bytes: [u8; HANDSHAKE_LEN], len: u8 },
    /// Its torrent is another shard's, which gets it with what the peer has said. See [`super::handover`].
    Leaving { home: u32, bytes: Vec<u8> },
    /// Its torrent rests, and is asked for. Holds what the peer has said. See [`super::resting`].
    Waiting { info_hash: InfoHash, bytes: Vec<u8> },
    /// A peer of a torrent.
    Peer(PeerConn),
}

/// What a connection past the handshake has.
#[derive(Debug)]
pub(super) struct PeerConn {
    pub(super) served: Rc<Served>,
    /// What it calls itself.
    pub(super) id: PeerId,
    pub(super) peer: Peer,
    pub(super) decoder: Decoder,
    /// What it said after its request queue was full, not looked at yet. See [`super::held`].
    pub(super) held: Vec<u8>,
    /// Bitfield and extension handshake are still held back, until the peer speaks or this tick. aria2 1.36 bans a peer
    /// whose handshake comes together with anything else.
    pub(super) greet_at: Option<u64>,
    pub(super) upload: Upload,
    pub(super) gone: Gone,
    pub(super) rate: Rate,
    /// Payload bytes since it was unchoked, for the choker.
    pub(super) uploaded_since_unchoke: u64,
    /// The download side, while its torrent is being downloaded.
    pub(super) leech: Option<Box<Leech>>,
}

impl Conn {
    /// Whether it was accepted and has not said its handshake yet.
    pub(super) fn is_silent(&self) -> bool {
        self.dialed.is_none() && matches!(self.phase, Phase::Handshake { .. })
    }

    pub(super) fn new(socket: Handle, addr: SocketAddr, tick: u64) -> Conn {
        Conn {
            socket,
            route: Route::to(addr.ip()),
            lent: 0,
            addr,
            dialed: None,
            connect: None,
            phase: Phase::Handshake {
                bytes: [0; HANDSHAKE_LEN],
                len: 0,
            },
            out: Vec::new(),
            send: None,
            receive: None,
            ends: None,
            touched: false,
            starved: false,
            paced: false,
            unmoved_since: None,
            heard_turn: 0,
            heard_count: 0,
            searched: 0,
            started: tick,
            received_at: tick,
            sent_at: tick,
            wake_at: u64::MAX,
        }
    }

    /// Whether blocks come from it.
    pub(super) fn sends_blocks(&self) -> bool {
        let leech = self.peer().and_then(|peer| Some((peer, peer.leech.as_ref()?)));
        leech.is_some_and(|(peer, _)| !peer.peer.peer_choking())
    }

    pub(super) fn peer(&self) -> Option<&PeerConn> {
        match &self.phase {
            Phase::Peer(peer) => Some(peer),
            Phase::Handshake { .. } | Phase::Leaving { .. } | Phase::Waiting { .. } => None,
        }
    }

    pub(super) fn peer_mut(&mut self) -> Option<&mut PeerConn> {
        match &mut self.phase {
            Phase::Peer(peer) => Some(peer),
            Phase::Handshake { .. } | Phase::Leaving { .. } | Phase::Waiting { .. } => None,
        }
    }
}

/// Batches that no send uses, kept for the next: sending does not allocate.
#[derive(Debug, Default)]
pub(super) struct SpareBatches(VecDeque<Box<SendBatch>>);

/// Batches kept: as many as a busy shard sends at once.
const SPARE_MAX: usize = 256;

impl SpareBatches {
    pub(super) fn take(&mut self) -> Box<SendBatch> {
        self.0.pop_back().unwrap_or_default()
    }

    pub(super) fn give(&mut self, mut batch: Box<SendBatch>) {
        debug_assert_eq!(batch.lent, 0, "buffers are lent with it");
        batch.clear();
        if self.0.len() < SPARE_MAX {
            self.0.push_back(batch);
        }
    }
}
