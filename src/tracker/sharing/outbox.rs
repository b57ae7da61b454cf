//! Updates that wait to be taken: a queue of bounded length, which threads that serve announces put into.
//!
//! A lock for each update, held for the length of a push. Whoever takes them is woken by the first only, so that a busy
//! tracker does not wake it a hundred thousand times a second.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::proto::InfoHash;
use crate::tracker::address::Address;

/// How many updates wait at most, each of some 90 bytes and its name. Beyond that the newest are dropped: a peer of whom an
/// update is lost announces again.
pub const OUTBOX_MAX: usize = 1 << 16;

/// An announce that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    pub(super) info_hash: InfoHash,
    pub(super) address: Address,
    pub(super) name: Option<Box<[u8]>>,
    pub(super) what: What,
    /// When it was.
    pub(super) at: Instant,
    /// The torrent has not been asked for elsewhere.
    pub(super) is_first: bool,
}

/// What became of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Joined { is_seeder: bool, is_completion: bool },
    Left,
}

impl Update {
    /// The torrent, if it is to be looked up elsewhere.
    #[must_use]
    pub fn asks_for(&self) -> Option<InfoHash> {
        self.is_first.then_some(self.info_hash)
    }

    /// Whether it says what no later one says again.
    #[must_use]
    pub const fn is_told_once(&self) -> bool {
        matches!(
            self.what,
            What::Left
                | What::Joined {
                    is_completion: true,
                    ..
                }
        )
    }
}

/// The queue.
pub(in crate::tracker) struct Outbox {
    queue: Mutex<Vec<Update>>,
    dropped: AtomicU64,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Outbox {
    pub(super) fn new(wake: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            queue: Mutex::new(Vec::with_capacity(OUTBOX_MAX)),
            dropped: AtomicU64::new(0),
            wake,
        }
    }

    /// Adds one, unless there are too many. Whether it did.
    pub(super) fn push(&self, update: Update) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() == OUTBOX_MAX {
            self.dropped.fetch_add(1, Relaxed);
            return false;
        }
        let was_empty = queue.is_empty();
        queue.push(update);
        drop(queue);
        if was_empty {
            (self.wake)();
        }
        true
    }

    /// Exchanges the queue for an empty one.
    pub(super) fn take(&self, into: &mut Vec<Update>) {
        into.reserve(OUTBOX_MAX); // Once: the two go to and fro.
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *queue, into);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}
