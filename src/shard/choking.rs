//! Carrying out what the choker decides.

use super::Shard;
use crate::io::{Driver, Owner};
use crate::proto::choker::Candidate;
use crate::proto::wire::Message;

impl<D: Driver> Shard<D> {
    /// A peer wants something: it may ask at once while slots are free.
    pub(super) fn on_interested(&mut self, owner: Owner) {
        self.interested += 1;
        if self.choker.has_free_slot(self.unchoked as usize) {
            self.unchoke(owner);
        }
    }

    /// A peer wants nothing any more. Its slot goes to another at the next rechoke.
    pub(super) fn on_not_interested(&mut self) {
        self.interested -= 1;
    }

    /// Gives the slots out anew.
    pub(super) fn rechoke(&mut self) {
        let now = self.now;
        self.candidates.clear();
        // In the order of their indices, as the slots are walked.
        let mut owners: Vec<Owner> = Vec::with_capacity(self.peers as usize);
        for (owner, conn) in self.conns.iter() {
            let Some(peer) = conn.peer() else { continue };
            if peer.peer.am_choking() && !peer.peer.peer_interested() {
                continue;
            }
            self.candidates.push(Candidate {
                // The same at the next rechoke, when the one with the optimistic slot is looked for.
                key: owner.index,
                interested: peer.peer.peer_interested(),
                unchoked: !peer.peer.am_choking(),
                rate: match &peer.leech {
                    // Tit for tat: slots go to those who give most.
                    Some(leech) => leech.rate.bytes_per_second(now),
                    None => peer.rate.bytes_per_second(now),
                },
                gives: peer.leech.is_some(),
                uploaded_since_unchoke: peer.uploaded_since_unchoke,
                unchoked_at: peer.peer.unchoked_at(),
                waiting_since: peer.peer.waiting_since(),
            });
            owners.push(owner);
        }
        let random = self.next_random();
        let mut decisions = std::mem::take(&mut self.decisions);
        self.choker.rechoke(now, &self.candidates, random, &mut decisions);
        for (key, unchoke) in decisions.drain(..) {
            let Ok(place) = owners.binary_search_by_key(&key, |owner| owner.index) else {
                continue;
            };
            let owner = owners[place];
            match unchoke {
                true => self.unchoke(owner),
                false => self.choke(owner),
            }
        }
        self.decisions = decisions;
    }

    fn unchoke(&mut self, owner: Owner) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        let Some(peer) = conn.peer_mut() else { return };
        if peer.peer.unchoke(now) {
            peer.uploaded_since_unchoke = 0;
            self.unchoked += 1;
            conn.say(&Message::Unchoke);
            self.touch(owner);
        }
    }

    pub(super) fn choke(&mut self, owner: Owner) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        let Some(peer) = conn.peer_mut() else { return };
        if peer.peer.am_choking() {
            return;
        }
        self.unchoked -= 1;
        let mut rejects = peer.peer.choke(now);
        // Those that were taken from the queue and not staged are as good as queued.
        let unstaged = peer.upload.on_choke();
        rejects.extend(unstaged.filter(|_| peer.peer.fast()));
        self.counters.requests_refused += rejects.len() as u64;
        conn.say(&Message::Choke);
        for block in &rejects {
            conn.say(&Message::reject(block));
        }
        self.touch(owner);
    }
}
