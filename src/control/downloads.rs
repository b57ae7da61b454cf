//! What downloads need of a disk that has to be waited for: files are made, synced and given their names, and what is
//! known is recorded. Shards tell what is to be done ([`Event`]); threads do it, one for each torrent at a time.
//!
//! The order is what survives a power cut: bytes are synced first, then the pieces they make are recorded; a file is synced
//! before it has its final name. A record of files that are being written to ([`FileStamp::being_written`]) is on the disk
//! before the first of those writes is asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::UnboundedSender;

use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::proto::path::RelPath;
use crate::session::{Completed, FileStamp, History, Record, Store};
use crate::shard::Torrent;
use crate::storage::PartNames;
use crate::storage::part::{self, Options};

/// Threads at a time. Each waits for a disk for the most part.
const THREADS_MAX: usize = 16;

/// How long after something did not work it is tried again.
const RETRY: Duration = Duration::from_secs(60);

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
    /// Bytes that came from peers since the last time.
    downloaded: u64,
}

impl Work {
    fn is_empty(&self) -> bool {
        !self.prepare && self.have.is_none() && self.files.is_empty() && self.complete.is_empty()
    }
}

#[derive(Debug)]
struct Entry {
    torrent: Arc<Torrent>,
    /// What each file looked like when it was last judged or finished.
    stamps: Vec<Option<FileStamp>>,
    prepared: bool,
    /// A thread is at work for it, and has its stamps.
    busy: bool,
    work: Work,
    /// What did not work is tried again then.
    retry_at: Option<Instant>,
    /// Whether what its threads find out may be recorded: it has not left, and is not being checked anew.
    is_current: Arc<Mutex<bool>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        *lock(&self.is_current) = false;
    }
}

/// What a thread has done.
#[derive(Debug)]
pub(super) struct Done {
    torrent: Arc<Torrent>,
    stamps: Vec<Option<FileStamp>>,
    /// Whether the files are there, if they were to be made.
    prepared: Option<Result<(), part::Error>>,
    notices: Vec<part::Notice>,
    /// What was not synced or recorded, and why.
    unsynced: Option<(Work, String)>,
    /// Files that have not got their names.
    unfinished: Vec<part::Error>,
    /// Why nobody knows what is on the disk.
    doubt: Option<String>,
}

impl Done {
    /// Of which torrent.
    pub(super) fn torrent(&self) -> &Arc<Torrent> {
        &self.torrent
    }
}

/// What the supervisor has to hear of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The files can be written to.
    Prepared(Vec<part::Notice>),
    /// They cannot be made.
    NotPrepared(part::Error),
    /// Something did not work, and is tried again.
    Failed(String),
    /// What was written may not be on the disk: it is to be checked.
    Doubtful(String),
    /// Nothing is missing, and all files have their names.
    Complete,
}

/// All downloads.
#[derive(Debug)]
pub(super) struct Downloads {
    entries: HashMap<InfoHash, Entry>,
    session: Arc<Store>,
    options: Options,
    done: UnboundedSender<Done>,
    /// Threads at work.
    threads: usize,
    /// Those that wait for one.
    waiting: VecDeque<InfoHash>,
}

impl Downloads {
    /// No downloads yet. What threads have done goes to `done`, and from there to [`Downloads::on_done`].
    pub(super) fn new(session: Arc<Store>, options: Options, done: UnboundedSender<Done>) -> Self {
        Self {
            entries: HashMap::new(),
            session,
            options,
            done,
            threads: 0,
            waiting: VecDeque::new(),
        }
    }

    /// A torrent is being downloaded from now on. `stamps` tells of which files what is there was judged, and when.
    pub(super) fn add(&mut self, torrent: Arc<Torrent>, stamps: Vec<Option<FileStamp>>) {
        let entry = Entry {
            stamps,
            prepared: false,
            busy: false,
            work: Work::default(),
            retry_at: None,
            is_current: Arc::new(Mutex::new(true)),
            torrent: Arc::clone(&torrent),
        };
        self.entries.insert(torrent.info_hash(), entry);
    }

    /// A torrent has left, or is checked anew.
    pub(super) fn remove(&mut self, info_hash: InfoHash) {
        self.entries.remove(&info_hash);
    }

    /// Torrents that are being downloaded.
    pub(super) fn torrents(&self) -> impl Iterator<Item = &Arc<Torrent>> {
        self.entries.values().map(|entry| &entry.torrent)
    }

    /// A peer has something that is missing.
    pub(super) fn on_wanted(&mut self, info_hash: InfoHash) {
        if let Some(entry) = self.entries.get_mut(&info_hash) {
            entry.work.prepare = true;
            self.go_on(info_hash);
        }
    }

    /// Pieces were written.
    pub(super) fn on_written(
        &mut self,
        info_hash: InfoHash,
        have: Bitfield,
        (files, complete): (Vec<u32>, Vec<u32>),
        downloaded: u64,
    ) {
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return;
        };
        // Files that were complete already may never have been made: those without bytes.
        entry.work.prepare |= !entry.prepared;
        entry.work.have = Some(have);
        entry.work.files.extend(files);
        entry.work.complete.extend(complete);
        entry.work.downloaded += downloaded;
        self.go_on(info_hash);
    }

    /// Tries again what did not work and is due.
    pub(super) fn on_tick(&mut self, now: Instant) {
        let due = |entry: &Entry| entry.retry_at.is_some_and(|at| at <= now);
        let due: Vec<InfoHash> = self
            .entries
            .iter()
            .filter(|(_, entry)| due(entry))
            .map(|(hash, _)| *hash)
            .collect();
        for info_hash in due {
            if let Some(entry) = self.entries.get_mut(&info_hash) {
                entry.retry_at = None;
            }
            self.go_on(info_hash);
        }
    }

    /// Starts a thread for what is to be done, unless one is at work.
    fn go_on(&mut self, info_hash: InfoHash) {
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return;
        };
        if entry.busy || entry.retry_at.is_some() || entry.work.is_empty() {
            return;
        }
        if self.threads >= THREADS_MAX {
            if !self.waiting.contains(&info_hash) {
                self.waiting.push_back(info_hash);
            }
            return;
        }
        entry.busy = true;
        let job = Job {
            torrent: Arc::clone(&entry.torrent),
            stamps: entry.stamps.clone(),
            work: entry.work.clone(),
            session: Arc::clone(&self.session),
            options: self.options,
            is_current: Arc::clone(&entry.is_current),
        };
        let done = self.done.clone();
        let begun = std::thread::Builder::new().name("btd-disk".to_owned()).spawn(move || {
            // Nobody waits any more when btd is stopping.
            let _ = done.send(job.run());
        });
        match begun {
            Ok(_) => {
                entry.work = Work::default();
                self.threads += 1;
            }
            Err(error) => {
                entry.busy = false;
                entry.retry_at = Some(Instant::now() + RETRY);
                tracing::error!(
                    "cannot start a thread for the files of {info_hash}: {error} (tried again in a minute)"
                );
            }
        }
    }

    /// A thread has ended. Gives what is to be told.
    pub(super) fn on_done(&mut self, done: Done) -> Vec<Outcome> {
        self.threads -= 1;
        let outcomes = self.take_in(done);
        while self.threads < THREADS_MAX
            && let Some(next) = self.waiting.pop_front()
        {
            self.go_on(next);
        }
        outcomes
    }

    fn take_in(&mut self, done: Done) -> Vec<Outcome> {
        let info_hash = done.torrent.info_hash();
        let Some(entry) = self.entries.get_mut(&info_hash) else {
            return Vec::new();
        };
        if !Arc::ptr_eq(&entry.torrent, &done.torrent) {
            return Vec::new(); // It was of an earlier one of the same info-hash.
        }
        entry.busy = false;
        entry.stamps = done.stamps;
        if let Some(why) = done.doubt {
            return vec![Outcome::Doubtful(why)];
        }
        let mut outcomes = Vec::new();
        match done.prepared {
            Some(Ok(())) => {
                entry.prepared = true;
                outcomes.push(Outcome::Prepared(done.notices));
            }
            Some(Err(error)) => outcomes.push(Outcome::NotPrepared(error)),
            None => {}
        }
        let retry_at = Instant::now() + RETRY;
        if let Some((work, why)) = done.unsynced {
            entry.work.prepare |= work.prepare;
            entry.work.have = entry.work.have.take().or(work.have);
            entry.work.files.extend(work.files);
            entry.work.complete.extend(work.complete);
            entry.work.downloaded += work.downloaded;
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
            self.entries.remove(&info_hash);
            outcomes.push(Outcome::Complete);
        } else {
            self.go_on(info_hash);
        }
        outcomes
    }

    /// What is to be recorded of each at the end, when no shard writes any more. It blocks on the disk.
    pub(super) fn settle(self) -> impl FnOnce() + Send + 'static {
        let Self { entries, session, .. } = self;
        move || {
            // One that a thread has the stamps of is recorded by that thread.
            for (info_hash, entry) in entries.into_iter().filter(|(_, entry)| entry.prepared && !entry.busy) {
                let torrent = &entry.torrent;
                let is_written = |stamp: &Option<FileStamp>| stamp.is_some_and(|stamp| stamp.is_being_written());
                let written = (0..).zip(&entry.stamps).filter(|(_, stamp)| is_written(stamp));
                let written: BTreeSet<u32> = written.map(|(file, _)| file).collect();
                if let Err(error) = sync(torrent, &written) {
                    tracing::warn!("{:?} ({info_hash}): {error}", torrent.meta().name);
                    continue;
                }
                let mut stamps = entry.stamps.clone();
                for (file, stamp) in (0..).zip(&mut stamps) {
                    if written.contains(&file) {
                        *stamp = stamp_of(torrent, file);
                    }
                }
                session.put(info_hash, record(torrent, torrent.have(), stamps));
                add_to_history(&session, info_hash, entry.work.downloaded, false);
            }
        }
    }
}

/// What one thread does.
struct Job {
    torrent: Arc<Torrent>,
    stamps: Vec<Option<FileStamp>>,
    work: Work,
    session: Arc<Store>,
    options: Options,
    is_current: Arc<Mutex<bool>>,
}

impl Job {
    fn run(self) -> Done {
        let Self {
            torrent,
            stamps,
            work,
            session,
            options,
            is_current,
        } = self;
        let put = |have: &Bitfield, stamps: &[Option<FileStamp>]| {
            // What was withdrawn since it was told is not recorded. A check that has begun meanwhile knows better.
            let is_current = lock(&is_current);
            if *is_current {
                let have = have.and(&torrent.have());
                session.put(torrent.info_hash(), record(&torrent, have, stamps.to_vec()));
            }
        };
        let info_hash = torrent.info_hash();
        let mut done = Done {
            stamps,
            prepared: None,
            notices: Vec::new(),
            unsynced: None,
            unfinished: Vec::new(),
            doubt: None,
            torrent: Arc::clone(&torrent),
        };
        let Some(names) = torrent.part_names() else {
            return done;
        };
        if work.prepare {
            let prepared = prepare(&torrent, names, options, &mut done);
            let is_ready = prepared.is_ok();
            if is_ready {
                let have = work.have.clone().unwrap_or_else(|| torrent.have());
                put(&have, &done.stamps);
                session.flush();
            }
            done.prepared = Some(prepared);
            if !is_ready {
                if work.have.is_some() {
                    done.unsynced = Some((work, "its files cannot be made".to_owned()));
                }
                return done;
            }
        }
        let Some(have) = &work.have else { return done };
        if let Err(error) = sync(&torrent, &work.files.difference(&work.complete).copied().collect()) {
            match error.is_doubtful() {
                true => {
                    forget_cached(&torrent, &work.files);
                    done.doubt = Some(error.to_string());
                }
                false => done.unsynced = Some((work, error.to_string())),
            }
            return done;
        }
        if !work.complete.is_empty() {
            let files = &torrent.meta().files;
            let complete: Vec<u32> = work.complete.iter().copied().collect();
            let parts: Vec<bool> = (0..).zip(files).map(|(file, _)| torrent.is_part(file)).collect();
            done.unfinished = part::finish(torrent.root(), files, names, &parts, &complete);
            if let Some(error) = done.unfinished.iter().find(|error| error.is_doubtful()) {
                done.doubt = Some(error.to_string());
                forget_cached(&torrent, &work.files);
                return done;
            }
            let failed: BTreeSet<u32> = done.unfinished.iter().map(|error| error.file).collect();
            for file in complete.into_iter().filter(|file| !failed.contains(file)) {
                torrent.finished(file, None);
                let stamp = stamp_of(&torrent, file);
                torrent.finished(file, stamp.map(|stamp| stamp.mtime_ns));
                done.stamps[file as usize] = stamp;
            }
        }
        put(have, &done.stamps);
        let is_whole = have.is_full() && done.unfinished.is_empty();
        add_to_history(&session, info_hash, work.downloaded, is_whole);
        if is_whole {
            session.flush();
        }
        done
    }
}

fn prepare(torrent: &Torrent, names: &PartNames, options: Options, done: &mut Done) -> Result<(), part::Error> {
    let files = &torrent.meta().files;
    let prepared = part::prepare(torrent.root(), files, names, options)?;
    torrent.set_parts(&prepared.parts);
    done.notices = prepared.notices;
    for (stamp, entry) in std::iter::zip(&mut done.stamps, files) {
        // What is complete keeps the stamp that it was judged with.
        if stamp.is_none() && !entry.pad {
            *stamp = Some(FileStamp::being_written(entry.len));
        }
    }
    Ok(())
}

/// A record of pieces that are on the disk.
fn record(torrent: &Torrent, have: Bitfield, files: Vec<Option<FileStamp>>) -> Record {
    let piece_count = have.piece_count();
    Record {
        have,
        wrong: Bitfield::new(piece_count),
        judged: piece_count,
        files: match files.is_empty() {
            true => vec![None; torrent.meta().files.len()],
            false => files,
        },
    }
}

/// Where a file lies now.
fn path_of(torrent: &Torrent, file: u32) -> RelPath {
    let entry = &torrent.meta().files[file as usize];
    let part = torrent.part_names().filter(|_| torrent.is_part(file));
    part.and_then(|names| names.get(file, entry))
        .unwrap_or_else(|| entry.path.clone())
}

/// Has what was written to these files be on the disk.
fn sync(torrent: &Torrent, written: &BTreeSet<u32>) -> Result<(), part::Error> {
    let Some(names) = torrent.part_names() else {
        return Ok(());
    };
    let files = &torrent.meta().files;
    let written: Vec<u32> = written.iter().copied().collect();
    let parts: Vec<bool> = (0..).zip(files).map(|(file, _)| torrent.is_part(file)).collect();
    part::sync(torrent.root(), files, names, &parts, &written)
}

/// What is read of these files from now on is read from the disk.
fn forget_cached(torrent: &Torrent, written: &BTreeSet<u32>) {
    if let Some(names) = torrent.part_names() {
        let files = &torrent.meta().files;
        let written: Vec<u32> = written.iter().copied().collect();
        let parts: Vec<bool> = (0..).zip(files).map(|(file, _)| torrent.is_part(file)).collect();
        part::forget_cached(torrent.root(), files, names, &parts, &written);
    }
}

/// What a file looks like now.
fn stamp_of(torrent: &Torrent, file: u32) -> Option<FileStamp> {
    let entry = &torrent.meta().files[file as usize];
    let metadata = torrent
        .root()
        .open_file(&path_of(torrent, file))
        .ok()?
        .metadata()
        .ok()?;
    (metadata.len() >= entry.len).then(|| FileStamp {
        len: metadata.len(),
        mtime_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
    })
}

/// A panic leaves nothing half done in here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Adds to what a torrent has been through.
fn add_to_history(session: &Store, info_hash: InfoHash, downloaded: u64, is_complete: bool) {
    let before = session.load_history(&info_hash);
    let mut history = before.unwrap_or(History {
        uploaded: 0,
        downloaded: 0,
        added: now(),
        completed: None,
    });
    history.downloaded = history.downloaded.saturating_add(downloaded);
    if is_complete && history.completed.is_none() {
        history.completed = Some(Completed {
            at: now(),
            announced: false,
        });
    }
    if before != Some(history) {
        session.put_history(info_hash, history);
    }
}

/// A torrent was found complete by a check: it is never downloaded again of itself, should its payload be missing one day.
pub(super) fn note_whole(session: &Store, info_hash: InfoHash) {
    let before = session.load_history(&info_hash);
    if before.is_some_and(|history| history.completed.is_some()) {
        return;
    }
    let at = now();
    let history = before.unwrap_or(History {
        uploaded: 0,
        downloaded: 0,
        added: at,
        completed: None,
    });
    let completed = Some(Completed { at, announced: true });
    session.put_history(info_hash, History { completed, ..history });
}

/// Which peers the configuration names for each folder, resolved.
pub(super) type Peers = BTreeMap<usize, Vec<std::net::SocketAddr>>;

#[cfg(test)]
mod tests;
