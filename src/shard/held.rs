//! When not to listen to a peer.
//!
//! A request beyond the queue is rejected, if the peer speaks the fast extension (BEP 6). One that does not cannot be
//! told: it would wait for the block in vain. rTorrent 0.9.8 does so, with 6,600 requests under way, and stops for good
//! when the rest of its torrent is among those that were dropped. So such a peer is not read from while its queue is
//! full: TCP tells it to wait. What had been received by then is held here.

use super::Shard;
use super::conn::{Conn, PeerConn};
use super::ended::Reason;
use crate::io::{Driver, Owner};
use crate::proto::peer::{REQUEST_QUEUE_MAX, Violation};

/// The peer is listened to again when its queue is down to this.
const LISTEN_AGAIN: usize = REQUEST_QUEUE_MAX / 2;

/// Bytes held at most per connection: 30,000 requests, of which 6,600 are the most that was seen. More than that can come
/// in the turn before the receive is cancelled only from somebody who means harm.
const HELD_LEN_MAX: usize = 512 * 1024;

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

    /// Goes on where [`Shard::hold`] stopped.
    pub(super) fn listen_again(&mut self, owner: Owner) {
        let Some(peer) = self.conns.get_mut(owner).and_then(Conn::peer_mut) else {
            return;
        };
        let held = std::mem::take(&mut peer.held);
        self.on_messages(owner, &held);
        // Armed at the turn's end, if nothing is held again and the cancelled receive has ended; else by what ends last.
        self.unarmed.push(owner);
    }
}

impl PeerConn {
    /// Whether something is held and there is room for it.
    pub(super) fn may_be_heard(&self) -> bool {
        !self.held.is_empty() && self.peer.request_count() <= LISTEN_AGAIN
    }
}

impl Conn {
    /// Whether something is held.
    pub(super) fn is_held(&self) -> bool {
        self.peer().is_some_and(|peer| !peer.held.is_empty())
    }
}
