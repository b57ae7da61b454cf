//! Requests that would be answered late are asked of peers that have nothing to do.
//!
//! What a peer is asked for is decided when it is asked, some seconds before it sends it ([`crate::proto::depth`]). By then
//! another may have it too, and nothing else to send: what lies at the end of the first one's queue is then taken from there
//! (a cancel) and asked of the other. Hardly anything comes twice by it, since only blocks are taken that are farther away than the way
//! to the peer and back; where they come all the same, they were on their way already, and farther ones are taken from then on. For a swarm with one seed that is most of what the seed would have sent a second time; at the end of
//! any download it is what a slow peer would have been waited for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Shard;
use super::conn::Conn;
use super::download::Download;
use super::leech::leeching;
use crate::io::{Driver, Owner};
use crate::proto::geometry::BlockRequest;
use crate::proto::picker::PeerKey;
use crate::proto::wire::{self, Message};

/// A block that will not be here before this much time has passed, and that which its peer's nearest one took, is late: what is on
/// its way already is not taken for late. Who takes something over sends it as soon.
pub(super) const LATE_MIN: Duration = Duration::from_millis(250);

/// So far away a block is late of any peer: more than any round trip.
pub(super) const LATE_MAX: Duration = Duration::from_secs(1);

/// Of a download so many blocks and so many free peers are looked at in a tick, whatever the swarm: each with each.
const LATE_BLOCKS_MAX: usize = 2048;
const FREE_MAX: usize = 64;

/// A block that will come late, and who is to send it.
#[derive(Debug, Clone, Copy)]
struct Late {
    block: BlockRequest,
    of: PeerKey,
    owner: Owner,
}

impl<D: Driver> Shard<D> {
    /// Takes what is late from those who have too much to do, for those who have nothing.
    pub(super) fn relieve(&mut self) {
        let now = self.now;
        for (number, mut free) in self.free(now) {
            let Some(download) = self.downloads.get(&number) else {
                continue;
            };
            let mut late = self.late(download, now);
            // Others first each time: the first may have none of it.
            let first = self.tick as usize % free.len();
            free.rotate_left(first);
            for owner in free.into_iter().take(FREE_MAX) {
                if late.is_empty() {
                    break;
                }
                self.take_over(owner, &mut late, now);
            }
        }
    }

    /// Peers that could send something now, and were not found anything to send, by the number of their download.
    fn free(&self, now: Instant) -> BTreeMap<u32, Vec<Owner>> {
        let mut free: BTreeMap<u32, Vec<Owner>> = BTreeMap::new();
        for &owner in &self.hungry {
            let Some(peer) = self.conns.get(owner).and_then(Conn::peer) else {
                continue;
            };
            let number = peer.served.number;
            if let Some(leech) = &peer.leech
                && !peer.peer.peer_choking()
                && leech.could_take(now) > 0
                && self.downloads.get(&number).is_some_and(|it| it.is_proven(leech.key))
            {
                free.entry(number).or_default().push(owner);
            }
        }
        free
    }

    /// What comes late, of each peer the last first.
    fn late(&self, download: &Download, now: Instant) -> Vec<Late> {
        let mut late = Vec::new();
        for &owner in download.peers.values() {
            let peer = self.conns.get(owner).and_then(Conn::peer);
            let Some(leech) = peer.and_then(|peer| peer.leech.as_ref()) else {
                continue;
            };
            let of = leech.key;
            let room = LATE_BLOCKS_MAX - late.len();
            late.extend(leech.late(now).take(room).map(|block| Late { block, of, owner }));
        }
        late
    }

    /// Asks one peer for what it has of what is late.
    fn take_over(&mut self, owner: Owner, late: &mut Vec<Late>, now: Instant) {
        let Some((peer, out, download)) = leeching(&mut self.conns, &mut self.downloads, owner) else {
            return;
        };
        let Some(leech) = &mut peer.leech else { return };
        let mut room = leech.could_take(now);
        let mut taken = Vec::new();
        let mut at = 0;
        while at < late.len() && room > 0 {
            let Late { block, of, owner } = late[at];
            let takes = of != leech.key
                && peer.peer.has(block.piece())
                && !leech.refuses(block.piece())
                && download.picker.hand_over(&block, of, leech.key);
            if takes {
                late.swap_remove(at);
                room -= 1;
                taken.push((block, owner));
                wire::encode(&Message::request(&block), out);
            } else {
                at += 1;
            }
        }
        if taken.is_empty() {
            return;
        }
        leech.on_relief(taken.iter().map(|(block, _)| *block), now);
        self.counters.requests_taken_over += taken.len() as u64;
        self.touch(owner);
        for (block, from) in taken {
            let Some(conn) = self.conns.get_mut(from) else { continue };
            if let Some(leech) = conn.peer_mut().and_then(|peer| peer.leech.as_mut()) {
                leech.no_longer(&block);
            }
            conn.say(&Message::cancel(&block));
            self.touch(from);
        }
    }
}
