//! Torrents that nobody wants just now.
//!
//! A torrent that a shard serves costs its piece hashes, its list of files and a place in each shard's table: kilobytes, of
//! which 100,000 idle torrents need none. So of those that are whole, the shards have only the ones that were wanted lately. Of the others
//! all shards share the info-hashes ([`Resting`]). A handshake for one of them makes the shard ask the control plane
//! ([`super::Event::Asked`]), which reads the .torrent, compares the payload's files with what is recorded, and answers with
//! [`super::Command::Add`] or [`super::Command::Refuse`]. The connection waits meanwhile, for no longer than a handshake may
//! take; what it says is kept, up to 64 KiB. A torrent is asked for once, however many wait for it.
//!
//! The other way would be to keep in the shards what serving needs, in a compact form: geometry, spans, times of files. By count
//! of its fields that is 150 bytes for a torrent of one file and hundreds for one of many, where an info-hash in a table is 35;
//! and the files have to be looked at before the first byte in any case, so that somebody has to be waited for.
//!
//! What is let go here is asked for again by the next handshake, so that the control plane may say [`super::Command::Rest`]
//! at any time: whoever has connections keeps the torrent.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{PoisonError, RwLock};

use super::conn::Phase;
use super::ended::Reason;
use super::handover::BYTES_MAX;
use super::{Event, Shard};
use crate::io::{Driver, Owner};
use crate::proto::InfoHash;
use crate::proto::handshake::HANDSHAKE_LEN;

/// The info-hashes of the torrents that are served as soon as anybody asks for them. Read at handshakes only.
#[derive(Debug, Default)]
pub struct Resting(RwLock<HashSet<InfoHash>>);

impl Resting {
    /// This one is served when it is asked for.
    pub fn insert(&self, info_hash: InfoHash) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(info_hash);
    }

    /// This one is not.
    pub fn remove(&self, info_hash: InfoHash) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&info_hash);
    }

    /// Whether it is served when it is asked for.
    #[must_use]
    pub fn contains(&self, info_hash: InfoHash) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&info_hash)
    }
}

impl<D: Driver> Shard<D> {
    /// A peer wants a torrent that this shard does not have.
    pub(super) fn await_torrent(&mut self, owner: Owner, info_hash: InfoHash) {
        let Some(conn) = self.conns.get_mut(owner) else {
            return;
        };
        let is_awaited = self.stopping.is_none() && conn.dialed.is_none() && self.settings.resting.contains(info_hash);
        let bytes = match &conn.phase {
            Phase::Handshake { bytes, .. } if is_awaited => bytes.to_vec(),
            _ => return self.end(owner, Reason::UnknownInfoHash, None),
        };
        conn.phase = Phase::Waiting { info_hash, bytes };
        let waiting = self.waiting.entry(info_hash).or_default();
        waiting.push(owner);
        if waiting.len() == 1 {
            self.settings.events.tell(Event::Asked(info_hash));
        }
    }

    /// More has come of a connection that waits.
    pub(super) fn on_waiting_bytes(&mut self, owner: Owner, more: &[u8]) {
        if let Some(conn) = self.conns.get_mut(owner)
            && let Phase::Waiting { bytes, .. } = &mut conn.phase
        {
            if bytes.len() + more.len() > BYTES_MAX {
                return self.end(owner, Reason::ReplyFlood, None);
            }
            bytes.extend_from_slice(more);
        }
    }

    /// A connection that waited has ended.
    pub(super) fn forget_waiting(&mut self, owner: Owner, info_hash: InfoHash) {
        if let Some(waiting) = self.waiting.get_mut(&info_hash) {
            waiting.retain(|other| *other != owner);
            if waiting.is_empty() {
                self.waiting.remove(&info_hash); // Whoever comes next asks again.
            }
        }
    }

    /// The torrent that these have waited for is here: they go on as if they had just said what they said.
    pub(super) fn let_waiting_in(&mut self, info_hash: InfoHash) {
        for owner in self.waiting.remove(&info_hash).unwrap_or_default() {
            let Some(conn) = self.conns.get_mut(owner) else {
                continue;
            };
            if let Phase::Waiting { bytes, .. } = &mut conn.phase {
                let said = std::mem::take(bytes);
                conn.phase = Phase::Handshake {
                    bytes: [0; HANDSHAKE_LEN],
                    len: 0,
                };
                self.on_bytes(owner, &said);
            }
        }
    }

    /// The torrent that these have waited for is not served.
    pub(super) fn refuse_waiting(&mut self, info_hash: InfoHash) {
        for owner in self.waiting.remove(&info_hash).unwrap_or_default() {
            self.end(owner, Reason::UnknownInfoHash, None);
        }
    }

    /// Lets go of a torrent, unless anybody is connected for it.
    pub(super) fn rest(&mut self, info_hash: InfoHash) {
        let is_unused = |served: &Rc<_>| Rc::strong_count(served) == 1;
        if let Some(served) = self.torrents.get(&info_hash)
            && is_unused(served)
        {
            let number = served.number;
            self.torrents.remove(&info_hash);
            self.disk.forget(number);
            self.writes.forget(number);
        }
    }
}
