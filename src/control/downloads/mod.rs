//! What downloads need of a disk that has to be waited for: files are made, synced and given their names, and what is
//! known is recorded. Shards tell what is to be done ([`Event`]); threads do it, one for each torrent at a time.
//!
//! The order is what survives a power cut: bytes are synced first, then the pieces they make are recorded; a file is synced
//! before it has its final name. A record of files that are being written to ([`FileStamp::being_written`]), and that the
//! torrent was begun, are on the disk before the first of those writes is asked for. Where the session cannot be written, a
//! download waits until it can.

mod job;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

pub(crate) use job::Done;
pub(super) use job::recorded as record;

use super::few_lines::FewLines;
use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::session::{FileStamp, Store};
use crate::shard::Torrent;
use crate::storage::part::{self, Options, Seen};
use job::Job;

/// Threads at a time for the torrents of one data folder. Each waits for its disk for the most part, and for ever on a
/// network mount that is dead: the other folders have their own.
const THREADS_MAX: usize = 8;

/// How long after something did not work it is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// Does something on a thread of its own, beside whoever calls it. Only a simulation has other ways to do that.
pub(crate) type Spawn = fn(Box<dyn FnOnce() + Send>) -> std::io::Result<()>;

/// See [`Spawn`].
///
/// # Errors
/// The system gives no thread.
pub(super) fn on_thread(work: Box<dyn FnOnce() + Send>) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("btd-disk".to_owned());
    thread.spawn(work).map(drop)
}

/// What is to be done for a torrent.
#[derive(Clone, Debug, Default)]
struct Work {
    /// Its files are to be made.
    prepare: bool,
    /// Pieces that are written and to be recorded.
    have: Option<Bitfield>,
    /// Files that were written to.
    files: BTreeSet<u32>,
    /// Files that nothing is missing of.
    complete: BTreeSet<u32>,
}

impl Work {
    fn is_empty(&self) -> bool {
        !self.prepare && self.have.is_none() && self.files.is_empty() && self.complete.is_empty()
    }
}

/// What a check has found of the files of a torrent that is to be downloaded.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    /// What each looked like that nothing is missing of.
    pub(crate) stamps: Vec<Option<FileStamp>>,
    /// What lay in the place of each.
    pub(crate) seen: Vec<Seen>,
}

#[derive(Debug)]
struct Entry {
    torrent: Arc<Torrent>,
    /// What each file looked like when it was last judged or finished.
    stamps: Vec<Option<FileStamp>>,
    /// What may be written over.
    seen: Vec<Seen>,
    prepared: bool,
    /// A thread is at work for it, and has its stamps.
    busy: bool,
    work: Work,
    /// What did not work is tried again then.
    retry_at: Option<Instant>,
    /// That it was begun could not be recorded: it goes on when the session can be written, which is tried every few seconds.
    waits_for_session: bool,
    /// Whether what its threads find out may be recorded: it has not left, and is not being checked anew.
    is_current: Arc<Mutex<bool>>,
}

impl Entry {
    /// No file was made since it was checked, nor is one being made.
    fn is_untouched(&self) -> bool {
        !self.prepared && !self.busy && self.work.is_empty()
    }

    /// What a thread was to do is still to be done.
    fn put_back(&mut self, work: Work) {
        self.work.prepare |= work.prepare;
        self.work.have = self.work.have.take().or(work.have);
        self.work.files.extend(work.files);
        self.work.complete.extend(work.complete);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        *lock(&self.is_current) = false;
    }
}

/// What the supervisor has to hear of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The files can be written to.
    Prepared(Vec<part::Notice>),
    /// They cannot be made.
    NotPrepared(part::Error),
    /// It cannot be recorded that they are the torrent's: nothing is written to them until it is.
    NotRecorded {
        /// Why not.
        why: String,
        /// Whether it is the first that waits for the session: thousands may wait for one disk.
        is_first: bool,
    },
    /// Something did not work, and is tried again.
    Failed(String),
    /// What was written may not be on the disk: it is to be checked.
    Doubtful(String),
    /// Something is there that nobody has looked at: it is to be checked before anything is written.
    Unjudged(String),
    /// Nothing is missing, and all files have their names; this is what they looked like.
    Complete(Vec<Option<FileStamp>>),
}

/// All downloads.
#[derive(Debug)]
pub(crate) struct Downloads {
    entries: HashMap<InfoHash, Entry>,
    session: Arc<Store>,
    options: Options,
    done: UnboundedSender<Done>,
    /// Starts a thread.
    spawn: Spawn,
    /// By data folder.
    lanes: HashMap<PathBuf, Lane>,
    /// How many threads are at work for a torrent, be it for an earlier one of its info-hash.
    working: HashMap<InfoHash, usize>,
    /// Those who wait until none is.
    waiting_for_rest: Vec<(InfoHash, oneshot::Sender<()>)>,
    /// No thread is begun any more.
    resting: bool,
    /// Whether it was told that one waits for the session, and some still do.
    waits_are_told: bool,
    /// What is said of each.
    lines: Arc<FewLines>,
}

/// The threads of one data folder.
#[derive(Debug, Default)]
struct Lane {
    /// At work.
    threads: usize,
    /// Torrents that wait for one.
    waiting: VecDeque<InfoHash>,
}

impl Downloads {
    /// No downloads yet. What threads have done goes to `done`, and from there to [`Downloads::on_done`].
    pub(crate) fn new(
        session: Arc<Store>,
        options: Options,
        done: UnboundedSender<Done>,
        (spawn, lines): (Spawn, Arc<FewLines>),
    ) -> Self {
        Self {
            spawn,
            entries: HashMap::new(),
            session,
            options,
            done,
            lanes: HashMap::new(),
            working: HashMap::new(),
            waiting_for_rest: Vec::new(),
            resting: false,
            waits_are_told: false,
            lines,
        }
    }

    /// A torrent is being downloaded from now on. `judged` tells of its files what is there, and when that was so.
    pub(crate) fn add(&mut self, torrent: Arc<Torrent>, judged: Judged) {
        let Judged { stamps, seen } = judged;
        let entry = Entry {
            stamps,
            seen,
            prepared: false,
            busy: false,
            work: Work::default(),
            retry_at: None,
            waits_for_session: false,
            is_current: Arc::new(Mutex::new(true)),
            torrent: Arc::clone(&torrent),
        };
        self.entries.insert(torrent.info_hash(), entry);
    }

    /// A torrent has left, or is checked anew.
    pub(crate) fn remove(&mut self, info_hash: InfoHash) {
        self.entries.remove(&info_hash);
    }

    /// What to wait for before the files of a torrent that has left can be deleted: it ends when no thread is at work for it
    /// any more. `None` if none is.
    pub(super) fn at_rest(&mut self, info_hash: InfoHash) -> Option<oneshot::Receiver<()>> {
        self.working.get(&info_hash)?;
        let (rests, told) = oneshot::channel();
        self.waiting_for_rest.push((info_hash, rests));
        Some(told)
    }

    /// Torrents that are being downloaded.
    pub(super) fn torrents(&self) -> impl Iterator<Item = &Arc<Torrent>> {
        self.entries.values().map(|entry| &entry.torrent)
    }

    /// Those of which no file was made since they were checked, nor is being made.
    pub(super) fn untouched(&self) -> impl Iterator<Item = &Arc<Torrent>> {
        let untouched = self.entries.values().filter(|entry| entry.is_untouched());
        untouched.map(|entry| &entry.torrent)
    }

    /// Whether this is one of them.
    pub(super) fn is_untouched(&self, info_hash: InfoHash) -> bool {
        self.entries.get(&info_hash).is_some_and(Entry::is_untouched)
    }

    /// A peer has something that is missing.
    pub(crate) fn on_wanted(&mut self, info_hash: InfoHash) {
        if let Some(entry) = self.entries.get_mut(&info_hash) {
            entry.work.prepare = true;
            self.go_on(info_hash);
        }
    }

    /// Pieces were written.
    pub(crate) fn on_written(&mut self, info_hash: InfoHash, have: Bitfield, (files, complete): (Vec<u32>, Vec<u32>)) {
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return;
        };
        // Files that were complete already may never have been made: those without bytes.
        entry.work.prepare |= !entry.prepared;
        entry.work.have = Some(have);
        entry.work.files.extend(files);
        entry.work.complete.extend(complete);
        self.go_on(info_hash);
    }

    /// Tries again what did not work and is due.
    pub(crate) fn on_tick(&mut self, now: Instant) {
        self.lines.on_tick(now);
        let waiting = self.entries.values().filter(|entry| entry.waits_for_session).count();
        let is_back = waiting > 0 && self.session.trouble().is_none();
        self.waits_are_told &= waiting > 0 && !is_back;
        if is_back {
            tracing::info!("the session can be written again: downloads that waited for it go on ({waiting})");
        }
        let due = |entry: &Entry| entry.retry_at.is_some_and(|at| at <= now) || (entry.waits_for_session && is_back);
        let due: Vec<InfoHash> = self
            .entries
            .iter()
            .filter(|(_, entry)| due(entry))
            .map(|(hash, _)| *hash)
            .collect();
        for info_hash in due {
            if let Some(entry) = self.entries.get_mut(&info_hash) {
                entry.retry_at = None;
                entry.waits_for_session &= !is_back;
            }
            self.go_on(info_hash);
        }
    }

    /// Starts a thread for what is to be done, unless one is at work.
    fn go_on(&mut self, info_hash: InfoHash) {
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return;
        };
        let waits = entry.retry_at.is_some() || entry.waits_for_session;
        if self.resting || entry.busy || waits || entry.work.is_empty() {
            return;
        }
        let lane = self.lanes.entry(folder_of(&entry.torrent).to_owned()).or_default();
        if lane.threads >= THREADS_MAX {
            if !lane.waiting.contains(&info_hash) {
                lane.waiting.push_back(info_hash);
            }
            return;
        }
        entry.busy = true;
        let job = Job {
            torrent: Arc::clone(&entry.torrent),
            stamps: entry.stamps.clone(),
            seen: entry.seen.clone(),
            work: entry.work.clone(),
            prepared: entry.prepared,
            session: Arc::clone(&self.session),
            options: self.options,
            is_current: Arc::clone(&entry.is_current),
        };
        let done = self.done.clone();
        let begun = (self.spawn)(Box::new(move || {
            // Nobody waits any more when btd is stopping.
            let _ = done.send(job.run());
        }));
        match begun {
            Ok(()) => {
                entry.work = Work::default();
                lane.threads += 1;
                *self.working.entry(info_hash).or_default() += 1;
            }
            Err(error) => {
                entry.busy = false;
                entry.retry_at = Some(Instant::now() + RETRY);
                self.lines.error(
                    "downloads without a thread",
                    format_args!(
                        "cannot start a thread for the files of {info_hash}: {error} (tried again in a minute)"
                    ),
                );
            }
        }
    }

    /// A thread has ended. Gives what is to be told.
    pub(crate) fn on_done(&mut self, done: Done, now: Instant) -> Vec<Outcome> {
        let info_hash = done.torrent().info_hash();
        if let Some(count) = self.working.get_mut(&info_hash) {
            *count -= 1;
            if *count == 0 {
                self.working.remove(&info_hash);
                // Whoever waits looks for the end of the channel.
                self.waiting_for_rest.retain(|(of, _)| *of != info_hash);
            }
        }
        let folder = folder_of(done.torrent()).to_owned();
        if let Some(lane) = self.lanes.get_mut(&folder) {
            lane.threads -= 1;
        }
        let outcomes = self.take_in(done, now);
        while let Some(lane) = self.lanes.get_mut(&folder)
            && lane.threads < THREADS_MAX
            && let Some(next) = lane.waiting.pop_front()
        {
            self.go_on(next);
        }
        self.lanes.retain(|_, lane| lane.threads > 0);
        outcomes
    }

    fn take_in(&mut self, done: Done, now: Instant) -> Vec<Outcome> {
        let info_hash = done.torrent.info_hash();
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return Vec::new();
        };
        if !Arc::ptr_eq(&entry.torrent, &done.torrent) {
            return Vec::new(); // It was of an earlier one of the same info-hash.
        }
        entry.busy = false;
        (entry.stamps, entry.seen) = (done.stamps, done.seen);
        if let Some(why) = done.doubt {
            return vec![Outcome::Doubtful(why)];
        }
        let mut outcomes = Vec::new();
        match done.prepared {
            Some(Ok(())) => {
                entry.prepared = true;
                outcomes.push(Outcome::Prepared(done.notices));
            }
            Some(Err(error)) if error.is_unjudged() => return vec![Outcome::Unjudged(error.to_string())],
            Some(Err(error)) => outcomes.push(Outcome::NotPrepared(error)),
            None => {}
        }
        if let Some((work, why)) = done.unrecorded {
            entry.put_back(work);
            entry.waits_for_session = true;
            let is_first = !std::mem::replace(&mut self.waits_are_told, true);
            outcomes.push(Outcome::NotRecorded { why, is_first });
        }
        let retry_at = now + RETRY;
        if let Some((work, why)) = done.unsynced {
            entry.put_back(work);
            entry.retry_at = Some(retry_at);
            outcomes.push(Outcome::Failed(why));
        }
        if !done.unfinished.is_empty() {
            entry
                .work
                .complete
                .extend(done.unfinished.iter().map(|error| error.file));
            entry.work.have.get_or_insert_with(|| entry.torrent.have());
            entry.retry_at = Some(retry_at);
            outcomes.push(Outcome::Failed(done.unfinished[0].to_string()));
        }
        let torrent = &entry.torrent;
        let is_named = |file: u32| !torrent.is_part(file);
        let file_count = u32::try_from(torrent.meta().files.len()).unwrap_or(u32::MAX);
        if torrent.is_complete() && entry.work.is_empty() && entry.prepared && (0..file_count).all(is_named) {
            let stamps = self.entries.remove(&info_hash).map(|entry| entry.stamps.clone());
            outcomes.push(Outcome::Complete(stamps.unwrap_or_default()));
        } else {
            self.go_on(info_hash);
        }
        outcomes
    }

    /// Waits for the threads that are at work, and begins no others: what they have found out is what
    /// [`Downloads::settle`] goes on from.
    pub(super) async fn rest(&mut self, done: &mut UnboundedReceiver<Done>) {
        self.resting = true;
        while self.lanes.values().any(|lane| lane.threads > 0)
            && let Some(done) = done.recv().await
        {
            let info_hash = done.torrent().info_hash();
            for outcome in self.on_done(done, Instant::now()) {
                match outcome {
                    Outcome::Doubtful(why) => {
                        // The next start checks it.
                        self.entries.remove(&info_hash);
                        self.session.remove(info_hash);
                        self.lines.error(
                            "downloads that stop",
                            format_args!(
                                "downloading {info_hash} stops: {why} (its files are checked at the next start)"
                            ),
                        );
                    }
                    Outcome::NotPrepared(error) => self.lines.warn(
                        "downloads whose files cannot be made",
                        format_args!("cannot download {info_hash}: {error}"),
                    ),
                    Outcome::NotRecorded { why, is_first: true } | Outcome::Failed(why) | Outcome::Unjudged(why) => {
                        self.lines.warn(
                            "downloads whose files cannot be kept",
                            format_args!("{info_hash}: {why}"),
                        );
                    }
                    Outcome::Prepared(_) | Outcome::NotRecorded { .. } | Outcome::Complete(_) => {}
                }
            }
        }
    }

    /// What is to be recorded of each at the end, when no shard writes any more. It blocks on the disk.
    ///
    /// One whose thread has not come to its end is left as it was recorded last: the thread has its files.
    pub(crate) fn settle(self) -> impl FnOnce() + Send + 'static {
        let Self {
            entries,
            session,
            lines,
            ..
        } = self;
        move || {
            let at_rest = |entry: &Entry| entry.prepared && !entry.busy;
            for entry in entries.into_values().filter(at_rest) {
                job::settle(&session, &entry.torrent, entry.stamps.clone(), &lines);
            }
            lines.end();
        }
    }
}

/// Where a torrent's files lie.
fn folder_of(torrent: &Torrent) -> &Path {
    torrent.root().path()
}

/// A panic leaves nothing half done in here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which peers the configuration names for each folder, resolved.
pub(super) type Peers = BTreeMap<usize, Vec<std::net::SocketAddr>>;

#[cfg(test)]
mod tests;
