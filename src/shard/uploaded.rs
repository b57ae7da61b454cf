//! How much of each torrent was uploaded.
//!
//! A shard counts for itself, in a plain number beside its own handle of the torrent, and adds that to the number which all
//! shards share once a tick. Many shards serve one torrent: added for each send, the shared number's cache line would move
//! between cores tens of thousands of times a second. A number for each shard and torrent, padded to a line of its own, would
//! avoid that too, and take 64 bytes for each of them, of which nearly all stay zero; and whoever reads would add them up.
//!
//! Torrents that nothing is sent of cost nothing: only those that something was sent of since the last tick are looked at.

use std::rc::Rc;

use super::conn::Served;

/// Torrents that something was sent of since the last tick.
#[derive(Debug, Default)]
pub(super) struct Uploads(Vec<Rc<Served>>);

impl Uploads {
    /// Sockets took so many bytes of a torrent's payload.
    pub(super) fn count(&mut self, served: &Rc<Served>, bytes: u64) {
        let before = served.uploaded.get();
        served.uploaded.set(before + bytes);
        if before == 0 && bytes > 0 {
            self.0.push(served.clone());
        }
    }

    /// Adds to what all shards share. Once a tick, and at the end.
    pub(super) fn publish(&mut self) {
        for served in self.0.drain(..) {
            served.torrent.count_uploaded(served.uploaded.take());
        }
    }
}
