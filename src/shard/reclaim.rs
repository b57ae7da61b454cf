//! Taking buffers back from those who do not send them.
//!
//! A buffer in a send belongs to the kernel until the socket has taken it all. Peers that take nothing, or a few bytes a
//! second, would between them pin every buffer there is. While nobody waits for one that harms nobody. When somebody does,
//! the send is cancelled: of its batch the peer keeps a copy of the small messages or of the block it is in the middle of,
//! and the other blocks go back to its queue. Nobody is dropped for being slow.

use super::Shard;
use super::conn::{Conn, Phase};
use super::deadlines::YIELD_TICKS;
use crate::io::{Driver, Owner, Token};

/// Sends that are cancelled in one tick at most: those who wait need some of the buffers, not all.
const AT_ONCE_MAX: usize = 64;

impl<D: Driver> Shard<D> {
    /// Others wait for buffers: who has held some for a while gives them back.
    pub(super) fn reclaim(&mut self) {
        let Some(since) = self.tick.checked_sub(YIELD_TICKS) else {
            return;
        };
        let slow: Vec<(Owner, Token)> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.peer().is_some_and(|peer| peer.upload.has_held_since(since)))
            .filter_map(|(owner, conn)| Some((owner, conn.send?)))
            .take(AT_ONCE_MAX)
            .collect();
        for (owner, send) in slow {
            let Some(Conn { phase, out, .. }) = self.conns.get_mut(owner) else {
                continue;
            };
            if let Phase::Peer(peer) = phase {
                peer.upload.yield_staged();
                peer.refuse_unstaged_if_choked(&mut self.counters, out);
                // The rest follows when the send has ended, as cancelled or as taken in part.
                self.driver.cancel(send);
            }
        }
    }
}
