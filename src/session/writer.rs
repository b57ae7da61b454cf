//! The queue of changes, and the thread that writes it.
//!
//! Group commit: whatever is queued when the thread is free goes into one transaction. The queue holds one change of a
//! kind for each torrent at most, and the one that is being written another, so that it is bounded by the number of torrents
//! however slow the disk is. With nothing queued the thread sleeps without a deadline.
//!
//! What a torrent has been through grows, and where it cannot be read what it grows by is queued, to be added to what is there. That
//! is read before the transaction, and from then on the sum is what is written: nobody knows of a transaction that failed whether
//! the disk has it, and what is added would be there twice.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Error;
use super::database::Database;
use super::history::History;
use crate::proto::InfoHash;

/// How long after a failed transaction the next is tried, if nobody flushes before.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// What of a torrent is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// What was found of its payload.
    Record,
    /// What it has been through.
    History,
    /// When its trackers are to be asked.
    Announced,
    /// That it is paused.
    Paused,
    /// On which filesystem a data folder lies, in the place of a torrent.
    Place,
    /// How far the scrub of a data folder is, likewise.
    Scrub,
    /// What is needed of a .torrent file, whose path stands where the others have an info-hash.
    Card,
    /// That it is downloaded again though it was complete once.
    Repair,
    /// That all of its payload is to be read, whatever is known of it.
    Verify,
}

/// What is to become of it.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// These bytes.
    Put(Vec<u8>),
    /// None.
    Remove,
    /// This, and what is there, which could not be read. Of histories alone.
    Add(History),
}

impl Change {
    /// What becomes of it when another comes after it.
    fn then(self, later: Self) -> Self {
        match (self, later) {
            (Self::Put(bytes), Self::Add(more)) => Self::Put(more.on_top_of(Some(&bytes)).encode()),
            (Self::Remove, Self::Add(more)) => Self::Put(more.encode()),
            (Self::Add(before), Self::Add(more)) => Self::Add(before.and(more)),
            (_, later @ (Self::Put(_) | Self::Remove)) => later,
        }
    }
}

/// At most one of a kind for each torrent.
pub(super) type Changes = HashMap<(Kind, InfoHash), Change>;

/// What the callers and the thread share.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) database: Database,
    retry: Duration,
    queue: Mutex<Queue>,
    /// For the thread: there is something to do.
    queued: Condvar,
    /// For those that flush: a transaction came to its end.
    finished: Condvar,
}

/// Counts of records that were changed: torrents share them by the first byte of their info-hashes.
const COUNTS: usize = 256;

#[derive(Debug)]
struct Queue {
    pending: Changes,
    /// What the transaction under way writes. It is not in `pending`, but a change that came later may be.
    writing: Arc<Changes>,
    /// Records that were queued or removed so far, by the first byte of their torrents' info-hashes.
    records_changed: Box<[u64; COUNTS]>,
    /// Transactions begun and ended, failed ones among them.
    begun: u64,
    ended: u64,
    /// Why the last transaction failed, if it did.
    failing: Option<String>,
    /// Somebody waits: do not wait to try again.
    hurry: bool,
    /// Somebody wants to read, and it is closed.
    probe: bool,
    stopping: bool,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            pending: Changes::new(),
            writing: Arc::default(),
            records_changed: Box::new([0; COUNTS]),
            begun: 0,
            ended: 0,
            failing: None,
            hurry: false,
            probe: false,
            stopping: false,
        }
    }
}

impl Queue {
    /// The count that a torrent's records go into.
    fn records_changed(&mut self, info_hash: &InfoHash) -> &mut u64 {
        &mut self.records_changed[usize::from(info_hash.0[0])]
    }

    /// How many torrents changes are queued for.
    fn torrents(&self) -> usize {
        let torrents: HashSet<&InfoHash> = self.pending.keys().map(|(_, info_hash)| info_hash).collect();
        torrents.len()
    }

    /// What could not be written is queued again, before what was queued since.
    fn put_back(&mut self, changes: Arc<Changes>) {
        for (key, change) in Arc::unwrap_or_clone(changes) {
            let change = match self.pending.remove(&key) {
                Some(later) => change.then(later),
                None => change,
            };
            self.pending.insert(key, change);
        }
    }

    /// A transaction has come to its end.
    fn note(&mut self, result: &Result<(), Error>, retry: Duration) {
        let why = result.as_ref().err().map(ToString::to_string);
        let failed_before = mem::replace(&mut self.failing, why).is_some();
        tell(result, failed_before, retry);
    }
}

impl Writer {
    pub(super) fn new(database: Database, retry: Duration) -> Self {
        Self {
            database,
            retry,
            queue: Mutex::default(),
            queued: Condvar::new(),
            finished: Condvar::new(),
        }
    }

    /// Queues a change, in the place of one of its kind that is still queued for the torrent, or on top of it.
    pub(super) fn queue(&self, kind: Kind, info_hash: InfoHash, change: Change) {
        let mut queue = self.lock();
        *queue.records_changed(&info_hash) += u64::from(kind == Kind::Record);
        let change = match queue.pending.remove(&(kind, info_hash)) {
            Some(before) => before.then(change),
            None => change,
        };
        queue.pending.insert((kind, info_hash), change);
        self.queued.notify_one();
    }

    /// How many changes there were so far of a torrent's record, and of others that share its count. To be asked before what a
    /// change comes of is looked at.
    pub(super) fn records_changed(&self, info_hash: &InfoHash) -> u64 {
        *self.lock().records_changed(info_hash)
    }

    /// Queues a record if none of its count was changed since there were so many changes. False if one was: what this one comes of
    /// may not be so any more.
    pub(super) fn queue_record_if(&self, records_changed: u64, info_hash: InfoHash, change: Change) -> bool {
        let mut queue = self.lock();
        let count = queue.records_changed(&info_hash);
        if *count != records_changed {
            return false;
        }
        *count += 1;
        queue.pending.insert((Kind::Record, info_hash), change);
        self.queued.notify_one();
        true
    }

    /// What is queued for a torrent or being written.
    pub(super) fn queued(&self, kind: Kind, info_hash: &InfoHash) -> Option<Change> {
        let (queue, key) = (self.lock(), (kind, *info_hash));
        let pending = queue.pending.get(&key).cloned();
        match (queue.writing.get(&key).cloned(), pending) {
            (Some(writing), Some(pending)) => Some(writing.then(pending)),
            (writing, pending) => pending.or(writing),
        }
    }

    /// Waits for a try to write what is queued now, and tells whether it is on the disk.
    pub(super) fn flush(&self) -> bool {
        let mut queue = self.lock();
        let wanted = if !queue.pending.is_empty() {
            queue.begun + 1
        } else if !queue.writing.is_empty() {
            queue.begun
        } else {
            return true;
        };
        queue.hurry = true;
        self.queued.notify_one();
        let ended = self.finished.wait_while(queue, |queue| queue.ended < wanted);
        ended.unwrap_or_else(PoisonError::into_inner).failing.is_none()
    }

    /// Why the last transaction failed, if it did: then it is tried again and again.
    pub(super) fn trouble(&self) -> Option<String> {
        self.lock().failing.clone()
    }

    /// How many changes are held.
    #[cfg(test)]
    pub(super) fn queue_len(&self) -> usize {
        let queue = self.lock();
        queue.pending.len() + queue.writing.len()
    }

    /// Writes what is queued, on the thread that calls: there is no other.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn write_by_hand(&self) -> bool {
        let mut changes = Arc::new(mem::take(&mut self.lock().pending));
        if changes.is_empty() {
            return true;
        }
        let result = self.write(&mut changes);
        let mut queue = self.lock();
        queue.note(&result, self.retry);
        queue.writing = Arc::default();
        if result.is_err() {
            queue.put_back(changes);
        }
        result.is_ok()
    }

    /// Has the thread open the database, if it has nothing to write: it is opened for that anyway.
    pub(super) fn probe(&self) {
        self.lock().probe = true;
        self.queued.notify_one();
    }

    /// Lets the thread end after one more try to write what is queued.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.queued.notify_one();
    }

    /// The thread.
    pub(super) fn run(&self) {
        let mut queue = self.lock();
        loop {
            queue = self
                .queued
                .wait_while(queue, |queue| {
                    queue.pending.is_empty() && !queue.probe && !queue.stopping
                })
                .unwrap_or_else(PoisonError::into_inner);
            let probes = mem::take(&mut queue.probe);
            if queue.pending.is_empty() && queue.stopping {
                return;
            }
            if queue.pending.is_empty() {
                drop(queue);
                if probes && let Err(error) = self.database.reopen() {
                    tracing::debug!("{error}");
                }
                queue = self.lock();
                continue;
            }
            let last = queue.stopping;
            let mut changes = Arc::new(mem::take(&mut queue.pending));
            queue.writing = Arc::clone(&changes);
            queue.begun += 1;
            queue.hurry = false;
            drop(queue);

            let result = self.write(&mut changes);

            queue = self.lock();
            queue.writing = Arc::default();
            queue.ended = queue.begun;
            queue.note(&result, self.retry);
            if result.is_err() {
                queue.put_back(changes);
            }
            self.finished.notify_all();
            if queue.failing.is_some() && last {
                tracing::warn!(
                    "what is known of {} torrents could not be recorded before the end: their payload is checked again \
                     at the next start, and what they have uploaded and downloaded since is not counted",
                    queue.torrents()
                );
                return;
            }
            if queue.failing.is_some() {
                queue = self
                    .queued
                    .wait_timeout_while(queue, self.retry, |queue| !queue.hurry && !queue.stopping)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
    }

    /// One transaction. What is to be added to what is there is a sum after it, whatever came of it.
    fn write(&self, changes: &mut Arc<Changes>) -> Result<(), Error> {
        let added = changes.iter().filter_map(|(key, change)| match change {
            Change::Add(more) => Some((*key, *more)),
            Change::Put(_) | Change::Remove => None,
        });
        let added: Vec<((Kind, InfoHash), History)> = added.collect();
        if !added.is_empty() {
            self.database.reopen()?;
            let mut sums = Vec::with_capacity(added.len());
            for ((kind, info_hash), more) in added {
                let before = self.database.get(kind, &info_hash)?;
                let sum = Change::Put(more.on_top_of(before.as_deref()).encode());
                sums.push(((kind, info_hash), sum));
            }
            // Whoever looks while it is written neither misses it nor finds it twice.
            let mut queue = self.lock();
            queue.writing = Arc::default(); // Else all of it would be copied.
            Arc::make_mut(changes).extend(sums);
            queue.writing = Arc::clone(changes);
        }
        self.database.commit(changes)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing is left half done under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says once that writing fails, and once that it works again.
fn tell(result: &Result<(), Error>, failed_before: bool, retry: Duration) {
    match result {
        Err(error) if !failed_before => tracing::warn!(
            "{error}: what is found of payload is kept in memory and written later, a try every {} s; what btd does not \
             get to write is checked again after a restart (hint: make room in the state folder, or look after its disk)",
            retry.as_secs()
        ),
        Ok(()) if failed_before => tracing::info!("the session database can be written again, and nothing was lost"),
        _ => {}
    }
}
