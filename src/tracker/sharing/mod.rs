//! Swarms that several trackers have in common: what is told to the others, and what they tell.
//!
//! Announces are answered from the swarms that are here, always and at once. What was accepted is put into an `outbox`,
//! from which somebody takes it now and then, makes a [`Batch`] of it, and passes it on in two forms: as messages, which
//! trackers that run hear, and as members of a sorted set for each torrent, in which those that start later find it.
//! `learn` takes in what comes from the others, as strictly as if it had been announced here.
//!
//! A torrent that is announced to here and has not been asked for is marked as such in its first update, so that whoever
//! takes that looks it up. `known` goes through all that is here, for others that have lost it.
//!
//! What is told late has an age, be it of who has come or of who has left, and takes the place of nothing younger: not here,
//! not elsewhere, not in the sets.
//!
//! A scrape asks nobody. What others have heard since this tracker runs is here already, and the rest comes with the torrent's
//! first announce. To look it up for a scrape would let anybody have the sets asked for, by 74 made-up torrents a datagram,
//! and there is no entry of such a torrent in which it could be noted that it was.
//!
//! Deliberately not here: connections, and the engine that keeps the sets.

mod batch;
mod known;
mod learn;
mod member;
mod message;
mod outbox;

pub use batch::{Batch, Peer, Shared};
pub use known::Cursor;
pub use learn::Learnt;
pub use member::{DOWNLOADS, SCORE_LEAST, score};
pub use message::{BadMessage, MESSAGE_LEN_MAX, SenderId, encode};
pub use outbox::{OUTBOX_MAX, Update};

pub(super) use outbox::Outbox;

use super::Tracker;
use super::address::Address;
use super::store::{Announced, Joining, LIFETIME_UNITS};
use crate::proto::InfoHash;
use std::time::{Duration, Instant};

impl Tracker {
    /// Shares the swarms with others from now on: every announce leaves an update, and `wake` is called when there is one
    /// and there was none, by the thread that serves the announce.
    #[must_use]
    pub fn shared(mut self, wake: impl Fn() + Send + Sync + 'static) -> Self {
        self.store.set_shared();
        self.outbox = Some(Outbox::new(Box::new(wake)));
        self
    }

    /// Takes all updates since the last call. Their order for a peer is that of its announces, but for those that two shards
    /// served at once.
    pub fn take_updates(&self, into: &mut Vec<Update>) {
        into.clear();
        if let Some(outbox) = &self.outbox {
            outbox.take(into);
        }
    }

    /// How many updates were lost because nobody took the earlier ones in time.
    pub fn updates_dropped(&self) -> u64 {
        self.outbox.as_ref().map_or(0, Outbox::dropped)
    }

    /// Says in a batch that is told now how long ago those have left that have, and drops those whom nobody remembers any more.
    pub fn set_ages(&self, batch: &mut Batch, now: Instant) {
        batch.set_ages(now, self.store.unit_ms());
    }

    /// How long a peer is known after it was heard of.
    pub const fn lifetime(&self) -> Duration {
        Duration::from_millis(self.store.unit_ms().saturating_mul(LIFETIME_UNITS as u64))
    }

    /// How long ago a peer of this age was heard of.
    pub const fn time_of_age(&self, age: u8) -> Duration {
        Duration::from_millis(self.store.unit_ms().saturating_mul(age as u64))
    }

    /// Leaves an update of an announce that was accepted. Without sharing that is one branch.
    #[inline]
    pub(super) fn tell_joined(&self, info_hash: &InfoHash, peer: &Joining<'_>, announced: &Announced, now: Instant) {
        if let Some(outbox) = &self.outbox {
            let pushed = outbox.push(Update {
                info_hash: *info_hash,
                address: peer.address,
                name: peer.name.map(Box::from),
                what: outbox::What::Joined {
                    is_seeder: announced.is_seeder,
                    is_completion: announced.is_completion,
                },
                at: now,
                is_first: announced.is_first,
            });
            if !pushed && announced.is_first {
                self.store.set_asked_for(info_hash, false);
            }
        }
    }

    /// Leaves an update of a peer that has left.
    #[inline]
    pub(super) fn tell_left(&self, info_hash: &InfoHash, address: &Address, name: Option<Box<[u8]>>, now: Instant) {
        if let Some(outbox) = &self.outbox {
            outbox.push(Update {
                info_hash: *info_hash,
                address: *address,
                name,
                what: outbox::What::Left,
                at: now,
                is_first: false,
            });
        }
    }
}

#[cfg(test)]
mod tests;
