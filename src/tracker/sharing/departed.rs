//! Who has left here of late. Others may not have heard of it, since they were away, and tell of such a peer from memory, or
//! put it back into its set: what they say is not taken in, and that it has left is told once more.
//!
//! Bounded: of many the latest are kept.

use std::collections::HashMap;
use std::time::Instant;

use super::outbox::{Update, What};
use crate::proto::InfoHash;
use crate::tracker::address::Address;

/// How many peers are kept, at most twice as many; each takes some 90 bytes.
const GENERATION_MAX: usize = 1 << 15;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Departed {
    young: HashMap<(InfoHash, Address), Left>,
    old: HashMap<(InfoHash, Address), Left>,
    again: Vec<Update>,
}

#[derive(Debug)]
struct Left {
    at: Instant,
    name: Option<Box<[u8]>>,
}

impl Departed {
    /// Takes note of an update, be it of who has left or of who is back.
    pub fn note(&mut self, update: &Update) {
        let peer = (update.info_hash, update.address);
        if update.what != What::Left {
            self.forget(&peer.0, &peer.1);
            return;
        }
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        let name = update.name.clone();
        self.young.insert(peer, Left { at: update.at, name });
    }

    /// Takes what is to be told once more.
    pub fn take_again(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.again)
    }

    /// Whether there is something to be told once more.
    #[must_use]
    pub fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// Somebody has just heard of a peer.
    pub(super) fn forget(&mut self, info_hash: &InfoHash, address: &Address) {
        if !(self.young.is_empty() && self.old.is_empty()) {
            self.young.remove(&(*info_hash, *address));
            self.old.remove(&(*info_hash, *address));
        }
    }

    /// Whether a peer has left here since somebody heard of it `age` units ago; ages are rounded, so that it has if it may
    /// have. Then that is to be told once more.
    pub(super) fn outweighs(
        &mut self,
        info_hash: &InfoHash,
        address: &Address,
        (age, unit_ms): (u8, u64),
        now: Instant,
    ) -> bool {
        let peer = (*info_hash, *address);
        let Some(left) = self.young.get(&peer).or_else(|| self.old.get(&peer)) else {
            return false;
        };
        let units = now.saturating_duration_since(left.at).as_millis() / u128::from(unit_ms);
        if u128::from(age) + 1 < units {
            self.forget(info_hash, address);
            return false;
        }
        if self.again.len() < GENERATION_MAX {
            self.again.push(Update {
                info_hash: *info_hash,
                address: *address,
                name: left.name.clone(),
                what: What::Left,
                at: left.at,
                is_first: false,
            });
        }
        true
    }
}
