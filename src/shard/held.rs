//! When not to listen to a peer.
//!
//! A request beyond the queue is rejected, if the peer speaks the fast extension (BEP 6). One that does not cannot be
//! told: it would wait for the block in vain. rTorrent 0.9.8 does so, with 6,600 requests under way, and stops for good
//! when the rest of its torrent is among those that were dropped. So such a peer is not read from while its queue is
//! full: TCP tells it to wait. What had been received by then is held here.
//!
//! The same is done to a peer that says so much in one turn of the loop that the others would wait for it: what is
//! beyond its share is held until the next turn. So it is to one whose requests and cancels have its queue searched so often
//! that they would: twenty that took back the end of a full queue as fast as they could made turns of more than half a second.
//! What all of them have is bounded too ([`Crowd`]): a hundred of them made turns of two.

use super::Shard;
use super::conn::{Conn, PeerConn, Phase};
use super::ended::Reason;
use crate::io::{Driver, Owner};
use crate::proto::peer::{REQUEST_QUEUE_MAX, Violation};
use crate::proto::wire::Message;

/// The peer is listened to again when its queue is down to this.
const LISTEN_AGAIN: usize = REQUEST_QUEUE_MAX / 2;

/// Receives of one connection that are looked at in one turn: 15,000 requests. Of what was held, as many bytes.
const HEARD_MAX: u32 = 64;

/// Bytes of a receive.
const RECEIVE_LEN: usize = 4096;

/// Queued requests that the requests and cancels of one connection may be compared with in one turn: twice as many as if it
/// asked for a whole queue at once. With a full queue that is two thousand messages.
const SEARCHED_MAX: usize = REQUEST_QUEUE_MAX * REQUEST_QUEUE_MAX;

/// How many have all of such a share in one turn, by what all of them together have had of it. Those that come after have as much as
/// any honest peer says in a turn: four receives, or a message for each 64 that a full queue has room for.
const FULL_SHARES: u32 = 4;
const HEARD_SMALL: u32 = 4;
const SEARCHED_SMALL: usize = REQUEST_QUEUE_MAX * (REQUEST_QUEUE_MAX / 64);

/// In [`Conn::heard_count`]: it has had its share of the turn.
const STOPPED: u32 = u32::MAX;

/// What all connections together have had of this turn. So turns do not get longer with the number of those who say as much as
/// they can.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    turn: u64,
    heard: u32,
    searched: usize,
}

impl Crowd {
    /// Receives of one connection that are looked at in this turn.
    pub(super) fn heard_max(&mut self, turn: u64) -> u32 {
        self.go_to(turn);
        match self.heard < FULL_SHARES * HEARD_MAX {
            true => HEARD_MAX,
            false => HEARD_SMALL,
        }
    }

    /// See [`SEARCHED_MAX`].
    pub(super) fn searched_max(&mut self, turn: u64) -> usize {
        self.go_to(turn);
        match self.searched < FULL_SHARES as usize * SEARCHED_MAX {
            true => SEARCHED_MAX,
            false => SEARCHED_SMALL,
        }
    }

    fn on_heard(&mut self, turn: u64, receives: u32) {
        self.go_to(turn);
        self.heard = self.heard.saturating_add(receives);
    }

    /// A message has had so many queued requests searched.
    pub(super) fn on_searched(&mut self, count: usize) {
        self.searched += count;
    }

    fn go_to(&mut self, turn: u64) {
        if turn != self.turn {
            *self = Crowd {
                turn,
                ..Crowd::default()
            };
        }
    }
}

/// How many queued requests a message has searched, of a queue of this length.
pub(super) fn searched_for(message: &Message<'_>, queue_len: usize) -> usize {
    match message {
        Message::Request { .. } | Message::Cancel { .. } => queue_len,
        _ => 0,
    }
}

/// Bytes held at most per connection: 30,000 requests, of which 6,600 are the most that was seen. More than that can come
/// in the turn before the receive is cancelled only from somebody who means harm.
pub(super) const HELD_LEN_MAX: usize = 512 * 1024;

impl<D: Driver> Shard<D> {
    /// Keeps `bytes`, which are not empty, for later, and stops receiving.
    pub(super) fn hold(&mut self, owner: Owner, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        let receive = conn.receive;
        let Some(peer) = conn.peer_mut() else { return };
        if peer.held.len() + bytes.len() > HELD_LEN_MAX {
            return self.end(owner, Reason::Violation(Violation::RequestFlood), None);
        }
        let first = peer.held.is_empty();
        peer.held.extend_from_slice(bytes);
        if first && let Some(token) = receive {
            self.driver.cancel(token);
        }
        self.touch(owner);
    }

    /// Sees to it that what is held is looked at, at the end of this turn or in a later one.
    pub(super) fn look_at_held(&mut self, owner: Owner) {
        let turn = self.counters.turns;
        let heard_max = self.crowd.heard_max(turn);
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if !conn.peer().is_some_and(PeerConn::may_be_heard) {
            return;
        }
        match conn.heard_turn == turn && conn.heard_count >= heard_max {
            true => self.touch(owner),
            false => self.listenable.push(owner),
        }
    }

    /// The rest of what it says waits for another turn: it has had its queue searched too often.
    pub(super) fn stop_hearing(&mut self, owner: Owner, rest: &[u8]) {
        if let Some(conn) = self.conns.get_mut(owner) {
            conn.heard_count = STOPPED;
        }
        self.hold(owner, rest);
    }

    /// Goes on where [`Shard::hold`] stopped.
    pub(super) fn listen_again(&mut self, owner: Owner) {
        let turn = self.counters.turns;
        let heard_max = self.crowd.heard_max(turn);
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        if conn.heard_turn == turn && conn.heard_count >= heard_max {
            return self.touch(owner); // Listed twice.
        }
        conn.heard_turn = turn;
        conn.heard_count = STOPPED;
        conn.searched = 0;
        let Some(peer) = conn.peer_mut() else { return };
        let held = std::mem::take(&mut peer.held);
        let (now, later) = held.split_at(held.len().min(heard_max as usize * RECEIVE_LEN));
        self.crowd.on_heard(turn, now.len().div_ceil(RECEIVE_LEN) as u32);
        self.on_messages(owner, now);
        if !later.is_empty() {
            self.hold(owner, later);
        }
        // Armed at the turn's end, if nothing is held again and the cancelled receive has ended; else by what ends last.
        self.unarmed.push(owner);
    }
}

impl PeerConn {
    /// Whether something is held and there is room for it.
    pub(super) fn may_be_heard(&self) -> bool {
        !self.held.is_empty() && (self.peer.fast() || self.peer.request_count() <= LISTEN_AGAIN)
    }
}

impl Conn {
    /// A receive has come. Whether the connection has had its share of the turn by then, and is not listened to.
    pub(super) fn has_been_heard_enough(&mut self, turn: u64, crowd: &mut Crowd) -> bool {
        let heard_max = crowd.heard_max(turn);
        if self.heard_turn != turn {
            self.heard_turn = turn;
            self.heard_count = 0;
            self.searched = 0;
        }
        // What was asked for is no flood, and is not copied once more.
        let enough = self.heard_count >= heard_max && matches!(self.phase, Phase::Peer(_)) && !self.sends_blocks();
        self.heard_count = if enough {
            STOPPED
        } else {
            self.heard_count.saturating_add(1)
        };
        crowd.on_heard(turn, u32::from(!enough));
        enough
    }

    /// Whether something is held.
    pub(super) fn is_held(&self) -> bool {
        self.peer().is_some_and(|peer| !peer.held.is_empty())
    }
}
