//! What a shard tells the control plane: what has to be done on a disk that a shard must not wait for.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;

/// Something that has happened to a torrent.
#[derive(Debug)]
pub enum Event {
    /// A peer wants a torrent that rests. [`super::Command::Add`] or [`super::Command::Refuse`] is the answer.
    Asked(InfoHash),
    /// A peer has something that is missing: its files are to be made. [`super::Command::Prepared`] is the answer.
    Wanted(InfoHash),
    /// Pieces were verified and written.
    Written {
        /// The torrent.
        info_hash: InfoHash,
        /// All that is written, not only since the last time.
        have: Bitfield,
        /// Files that were written to since the last time, in order.
        files: Vec<u32>,
        /// Files of which nothing is missing any more since the last time, in order.
        complete: Vec<u32>,
    },
    /// The disk takes nothing; it is tried again until it does.
    Stalled {
        /// The torrent.
        info_hash: InfoHash,
        /// Why.
        why: String,
    },
    /// A file that is written to is not there any more.
    Gone {
        /// The torrent.
        info_hash: InfoHash,
        /// Which, and what was tried.
        why: String,
    },
    /// The disk takes what it is given again.
    Resumed(InfoHash),
    /// A peer has sent what is wrong, and is shut out.
    Banned {
        /// The torrent.
        info_hash: InfoHash,
        /// Where it was.
        peer: SocketAddr,
    },
    /// Nothing has come of a connection to where a peer's name has led.
    Unreachable {
        /// The torrent.
        info_hash: InfoHash,
        /// Where nobody was.
        addr: SocketAddr,
    },
}

/// Where events go. Called on the shard's thread, so it must not wait.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Events are given to `take`.
    pub fn new(take: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(super) fn tell(&self, event: Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
