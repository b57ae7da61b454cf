//! What btd knows about payload, kept over restarts, so that a start does not read terabytes to learn what it knew.
//!
//! A [`Store`] holds one [`Record`] and one [`History`] for each info-hash in `session.redb`, an embedded database in the state folder that
//! survives the loss of power at any moment: a transaction is on the disk as a whole or not at all.
//!
//! - [`record`]: what was found of a torrent's payload, and its form as bytes.
//! - [`history`]: what the torrent has been through, likewise.
//! - [`announced`]: when its trackers are to be asked next, likewise.
//! - `place`: which filesystem each data folder lies on, likewise.
//! - `scrub`: how far each data folder was read once more, likewise.
//! - [`catalog`]: what is needed of a .torrent file while nobody wants its torrent, likewise.
//! - `database`: the file; what becomes of one that is damaged or foreign.
//! - `writer`: the queue of changes and the thread that writes them.
//!
//! A record is a memory and not a proof. Whoever loads one compares its [`FileStamp`]s with the files that are there and
//! judges again what differs; that, and looking at files at all, is not done here. Losing every record costs time and
//! never payload, which is why nothing that happens to the database stops the daemon once it runs. Only what is to be downloaded waits for
//! it, before the first byte is written: whose its files are is told by nothing else.
//!
//! What cannot be read is not nothing: a history is added to later, a record is dropped when one of its pieces is doubted, and where it
//! makes a difference ([`Store::find_record`], [`Store::find_history`], [`Store::load_repair`], [`Store::load_place`]) whoever asks is
//! told. A data folder whose filesystem cannot be read is not used: its torrents wait.
#![forbid(unsafe_code)]

pub mod announced;
pub mod catalog;
mod database;
pub mod history;
pub mod pause;
mod place;
pub mod record;
mod scrub;
#[cfg(any(test, feature = "sim"))]
pub mod simulated;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use announced::Announced;
pub use catalog::{Card, FileIdentity};
use database::{Database, Opener};
pub use history::{Completed, History};
pub use pause::Pause;
pub use place::Filesystem;
pub use record::{FileStamp, Malformed, Record};
pub use scrub::ScrubState;
use sha1::{Digest, Sha1};
use writer::{Change, Kind, Writer};

use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::PieceIndex;

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody has it open. The lock of the state folder keeps a second btd out, so this is another program.
    #[error("{} is open in another program (hint: `fuser {}` names it)", path.display(), path.display())]
    InUse {
        /// The database.
        path: PathBuf,
    },
    /// The filesystem refused.
    #[error("cannot {step} {}: {source}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// The filesystem's answer.
        source: io::Error,
    },
    /// It cannot be told what is in it.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The database.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A database that was made a moment ago is not right.
    #[error("{} was made anew and cannot be used: {reason} (hint: look after the disk it is on)", path.display())]
    Unusable {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// It could not be read what is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Unread;

/// How often whoever waits for another try to read asks whether to go on.
const PAUSE: Duration = Duration::from_millis(100);

/// The SHA-1 of a .torrent file's path: as long as the info-hashes that everything else is found by.
pub type CardKey = [u8; 20];

/// The records of all torrents. Dropping it writes what is queued.
#[derive(Debug)]
pub struct Store {
    writer: Arc<Writer>,
    /// Held from reading a history to writing it: several threads add to one.
    changing: Mutex<()>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens `session.redb` in the state folder, or makes it. One that is damaged, of another format or no database at
    /// all is renamed to `session.redb.bad`, in the place of an older one of that name, and a fresh one made; the text
    /// that is returned says so in one line.
    ///
    /// It blocks for as long as reading the whole file takes.
    ///
    /// # Errors
    /// The filesystem refuses, or another program has the database open. A database that cannot be opened for a reason
    /// that lies elsewhere (rights, a full disk, no descriptors left) stays where it is.
    pub fn open(state_dir: &Path) -> Result<(Self, Option<String>), Error> {
        Self::open_with(state_dir, database::plain(), writer::RETRY)
    }

    fn open_with(state_dir: &Path, opener: Opener, retry: Duration) -> Result<(Self, Option<String>), Error> {
        let (database, notice) = Database::open(state_dir, opener)?;
        let writer = Arc::new(Writer::new(database, retry));
        let thread = std::thread::Builder::new()
            .name("btd-session".to_owned())
            .spawn({
                let writer = Arc::clone(&writer);
                move || writer.run()
            })
            .map_err(|source| Error::Io {
                step: "start the thread that writes",
                path: state_dir.to_owned(),
                source,
            })?;
        let thread = Some(thread);
        let changing = Mutex::new(());
        Ok((
            Self {
                writer,
                changing,
                thread,
            },
            notice,
        ))
    }

    /// The record of a torrent that has so many pieces and files. `None` when there is none, or none that is of this
    /// shape, or it cannot be read. What was put is seen at once, on the disk or not. Blocks on the disk.
    pub fn load(&self, info_hash: &InfoHash, piece_count: u32, file_count: usize) -> Option<Record> {
        self.find_record(info_hash, piece_count, file_count).ok().flatten()
    }

    /// The same, for whom it makes a difference that it cannot be read.
    ///
    /// # Errors
    /// It cannot be told whether there is one.
    pub fn find_record(
        &self,
        info_hash: &InfoHash,
        piece_count: u32,
        file_count: usize,
    ) -> Result<Option<Record>, Error> {
        let decode = |bytes: Vec<u8>| {
            Record::decode(&bytes, piece_count, file_count)
                .inspect_err(|error| tracing::debug!("{info_hash}: {error}: its payload is checked"))
                .ok()
        };
        Ok(self.find(Kind::Record, info_hash)?.and_then(decode))
    }

    /// The same, with another try before it is an error, a few seconds later, unless nothing could be read for longer than that: for whom
    /// it makes a great difference, and who may wait for as long as `goes_on` says so.
    ///
    /// # Errors
    /// It cannot be told whether there is one.
    pub fn find_record_patiently(
        &self,
        info_hash: &InfoHash,
        (piece_count, file_count): (u32, usize),
        goes_on: impl Fn() -> bool,
    ) -> Result<Option<Record>, Error> {
        let find = || self.find_record(info_hash, piece_count, file_count);
        find().or_else(|error| match self.wait_to_read(goes_on) {
            true => find(),
            false => Err(error),
        })
    }

    /// Whether there is one, of any torrent that it may have been of. What was put is seen at once. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn has_record(&self, info_hash: &InfoHash) -> Result<bool, Error> {
        Ok(self.find(Kind::Record, info_hash)?.is_some())
    }

    /// For whoever could not read and may wait: waits for a few seconds until another try may lead to more, for as long as `goes_on` says
    /// so. False, and at once, if nothing could be read for longer than that.
    pub fn wait_to_read(&self, goes_on: impl Fn() -> bool) -> bool {
        let Some(patience) = self.writer.database.patience() else {
            return false;
        };
        let until = Instant::now() + patience;
        while goes_on() && Instant::now() < until {
            std::thread::sleep(PAUSE);
        }
        true
    }

    /// What a torrent has been through, as far as that can be read: without that, only what has come since; `None` when nothing is
    /// known of it. What was put is seen at once. Blocks on the disk.
    pub fn load_history(&self, info_hash: &InfoHash) -> Option<History> {
        self.look_up_history(info_hash).0
    }

    /// The same, for whom it makes a difference that it cannot be read.
    ///
    /// # Errors
    /// It cannot be told what is in the database.
    pub fn find_history(&self, info_hash: &InfoHash) -> Result<Option<History>, Error> {
        match self.look_up_history(info_hash) {
            (history, None) => Ok(history),
            (_, Some(error)) => Err(error),
        }
    }

    /// What is known of what a torrent has been through, and why that is not all, if it is not.
    fn look_up_history(&self, info_hash: &InfoHash) -> (Option<History>, Option<Error>) {
        let decode = |bytes: Vec<u8>| {
            History::decode(&bytes)
                .inspect_err(|error| tracing::debug!("{info_hash}: {error}: it begins anew"))
                .ok()
        };
        let queued = || self.writer.queued(Kind::History, info_hash);
        loop {
            let more = match queued() {
                Some(Change::Put(bytes)) => return (decode(bytes), None),
                Some(Change::Remove) => return (None, None),
                Some(Change::Add(more)) => Some(more),
                None => None,
            };
            let stored = self.writer.database.get(Kind::History, info_hash);
            // It may have been added to what is stored just now.
            if more.is_some() && !matches!(queued(), Some(Change::Add(now)) if more == Some(now)) {
                continue;
            }
            return match (stored, more) {
                (Ok(bytes), None) => (bytes.and_then(decode), None),
                (Ok(bytes), Some(more)) => (Some(more.on_top_of(bytes.as_deref())), None),
                (Err(error), more) => (more, Some(error)),
            };
        }
    }

    /// When a torrent's trackers are to be asked next, as far as that is known. What was put is seen at once. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load_announced(&self, info_hash: &InfoHash) -> Result<Vec<Announced>, Error> {
        let bytes = self.find(Kind::Announced, info_hash)?;
        Ok(bytes.and_then(|bytes| announced::decode(&bytes)).unwrap_or_default())
    }

    /// Whether it is recorded that every piece of a torrent that has so many pieces and files is right. Its files are to be
    /// compared with the record before any byte of them is trusted. Blocks on the disk.
    pub fn is_whole(&self, info_hash: &InfoHash, piece_count: u32, file_count: u32) -> bool {
        let bytes = self.get(Kind::Record, info_hash);
        bytes.is_some_and(|bytes| record::is_whole(&bytes, piece_count, file_count))
    }

    /// What was kept of the .torrent file that this key stands for. What was put is seen at once. Blocks on the disk.
    pub fn load_card(&self, key: &CardKey) -> Option<Card> {
        Card::decode(&self.get(Kind::Card, &InfoHash(*key))?)
    }

    /// Queues what is to be kept of a .torrent file to be written, in the place of what was; `None` removes it. Never blocks
    /// on the disk.
    pub fn put_card(&self, key: &CardKey, card: Option<&Card>) {
        let change = match card.and_then(Card::encode) {
            Some(bytes) => Change::Put(bytes),
            None => Change::Remove,
        };
        self.writer.queue(Kind::Card, InfoHash(*key), change);
    }

    /// Queues the removal of what was kept of all other .torrent files, and gives how many those are. Blocks on the disk.
    pub fn keep_cards(&self, keys: &HashSet<CardKey>) -> usize {
        let found = self.writer.database.info_hashes(Kind::Card).unwrap_or_default();
        let others = found.iter().filter(|key| !keys.contains(&key.0));
        others.map(|key| self.put_card(&key.0, None)).count()
    }

    /// What is stored or queued; `None` if that cannot be read, too. For what only costs another look at a file if it is not known.
    fn get(&self, kind: Kind, info_hash: &InfoHash) -> Option<Vec<u8>> {
        self.find(kind, info_hash).unwrap_or_else(|error| {
            tracing::debug!("{info_hash}: {error}: it is as if nothing were known");
            None
        })
    }

    fn find(&self, kind: Kind, info_hash: &InfoHash) -> Result<Option<Vec<u8>>, Error> {
        match self.writer.queued(kind, info_hash) {
            Some(Change::Put(bytes)) => Ok(Some(bytes)),
            Some(Change::Remove) => Ok(None),
            Some(Change::Add(_)) => unreachable!("of histories alone, which are looked up otherwise"),
            None => self.writer.database.get(kind, info_hash),
        }
    }

    /// Queues a record to be written, in the place of one of the same torrent that is still queued. Never blocks on the
    /// disk.
    ///
    /// # Panics
    /// When the record contradicts itself: see [`Record::encode`].
    pub fn put(&self, info_hash: InfoHash, record: Record) {
        self.writer.queue(Kind::Record, info_hash, Change::Put(record.encode()));
    }

    /// Queues what a torrent stands at to be written, likewise. Whatever else is recorded between the look at it and the queueing
    /// has it looked at once more: what somebody has taken out of the record meanwhile is not put back.
    pub fn put_current(&self, info_hash: InfoHash, current: impl Fn() -> Record) {
        self.change_records(info_hash, || Some(Some(current())));
    }

    /// Queues what a check has found to be written, in the place of `before`, which it has seen in the record last. A piece that
    /// somebody has taken out of the record since ([`Store::doubt`]) is not put back, and so none of `before` is if the record is
    /// gone or cannot be read: only what the check has found since. Where it could not be read what was before (`Err`) and a record has
    /// been dropped since, nothing of it is put: nobody knows for which piece. Gives what is recorded. Blocks on the disk.
    pub fn put_found(&self, info_hash: InfoHash, before: Result<Option<&Record>, Unread>, found: &Record) -> Record {
        let (piece_count, file_count) = (found.have.piece_count(), found.files.len());
        let current = || {
            let mut found = found.clone();
            let before = match before {
                Ok(Some(before)) => before,
                Ok(None) => return Some(Some(found)),
                Err(Unread) => {
                    if matches!(self.writer.queued(Kind::Record, &info_hash), Some(Change::Remove)) {
                        found.have = Bitfield::new(piece_count);
                    }
                    return Some(Some(found));
                }
            };
            let now = self.load(&info_hash, piece_count, file_count);
            let nothing = Bitfield::new(piece_count);
            let (have, wrong) = now.as_ref().map_or((&nothing, &nothing), |now| (&now.have, &now.wrong));
            for piece in before.have.beside(have) {
                found.have.clear(piece);
                if wrong.get(piece) {
                    found.wrong.set(piece);
                }
            }
            for piece in wrong.beside(&before.wrong) {
                found.have.clear(piece);
                found.wrong.set(piece);
            }
            Some(Some(found))
        };
        self.change_records(info_hash, current)
            .unwrap_or_else(|| unreachable!("there always is a record to be put"))
    }

    /// Of a torrent of this shape, what is recorded of a piece holds no more: it was read and is `wrong`, or could not be
    /// read. What was put is on the disk when this ends, if the disk takes it. Of a record that cannot be read nothing holds any
    /// more. Blocks on the disk.
    pub fn doubt(&self, info_hash: InfoHash, shape: (u32, usize), piece: PieceIndex, wrong: bool) {
        self.change_record(info_hash, shape, |mut record| {
            record.have.clear(piece);
            record.wrong.clear(piece);
            if wrong {
                record.wrong.set(piece);
            }
            record
        });
        self.flush();
    }

    /// Changes what is recorded of a torrent of this shape, if anything is: `change` is given that, and gives what is so now. It
    /// is asked once more if somebody else has put or removed a record meanwhile, so that neither change is lost. Blocks on the
    /// disk.
    fn change_record(
        &self,
        info_hash: InfoHash,
        (piece_count, file_count): (u32, usize),
        change: impl Fn(Record) -> Record,
    ) {
        self.change_records(info_hash, || {
            match self.find_record(&info_hash, piece_count, file_count) {
                // What is not known is read by the next check.
                Ok(record) => record.map(|record| Some(change(record))),
                // Nor is what is not changed: it would be believed once it can be read again.
                Err(error) => {
                    tracing::debug!("{info_hash}: {error}: its payload is checked");
                    Some(None)
                }
            }
        });
    }

    /// Queues what `record` gives, if it gives anything: a record, which is given, or that there is none. It is asked until no record of
    /// this torrent is queued meanwhile. A few torrents share a count, which has it asked more often than need be, and is not for long: whoever is in the
    /// way has got something done. No lock is held meanwhile, since `put` is not to wait for a disk.
    fn change_records(&self, info_hash: InfoHash, record: impl Fn() -> Option<Option<Record>>) -> Option<Record> {
        loop {
            let records_changed = self.writer.records_changed(&info_hash);
            let record = record()?;
            let change = match &record {
                Some(record) => Change::Put(record.encode()),
                None => Change::Remove,
            };
            if self.writer.queue_record_if(records_changed, info_hash, change) {
                return record;
            }
        }
    }

    /// Queues a history to be written, likewise.
    pub fn put_history(&self, info_hash: InfoHash, history: History) {
        self.writer
            .queue(Kind::History, info_hash, Change::Put(history.encode()));
    }

    /// Queues when a torrent's trackers are to be asked to be written, likewise; without any it is removed.
    pub fn put_announced(&self, info_hash: InfoHash, trackers: &[Announced]) {
        let change = match trackers {
            [] => Change::Remove,
            _ => Change::Put(announced::encode(trackers)),
        };
        self.writer.queue(Kind::Announced, info_hash, change);
    }

    /// The torrents that were paused when the database was opened, or have been since as far as it was written, each with the
    /// reason. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot be read which.
    pub fn load_pauses(&self) -> Result<Vec<(InfoHash, Pause)>, Error> {
        let mut pauses = Vec::new();
        for info_hash in self.writer.database.info_hashes(Kind::Paused)? {
            let pause = self.find(Kind::Paused, &info_hash)?;
            pauses.extend(pause.map(|bytes| (info_hash, Pause::decode(&bytes))));
        }
        Ok(pauses)
    }

    /// Those of them that are paused, for whichever reason. Likewise.
    ///
    /// # Errors
    /// Likewise.
    pub fn load_paused(&self) -> Result<Vec<InfoHash>, Error> {
        let pauses = self.load_pauses()?.into_iter();
        let paused = pauses.filter(|(_, pause)| *pause != Pause::Never);
        Ok(paused.map(|(info_hash, _)| info_hash).collect())
    }

    /// Queues that a torrent is paused as somebody wants, or not any more, to be written. Never blocks on the disk.
    pub fn put_paused(&self, info_hash: InfoHash, paused: bool) {
        self.put_pause(info_hash, paused.then_some(Pause::Asked));
    }

    /// Queues why a torrent is paused, or will not be, to be written; `None` for neither. Never blocks on the disk.
    pub fn put_pause(&self, info_hash: InfoHash, pause: Option<Pause>) {
        let change = pause.map_or(Change::Remove, |pause| Change::Put(pause.encode()));
        self.writer.queue(Kind::Paused, info_hash, change);
    }

    /// Whether a torrent that was complete once is being downloaded again, as somebody wants. What was put is seen at once. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load_repair(&self, info_hash: &InfoHash) -> Result<bool, Error> {
        Ok(self.find(Kind::Repair, info_hash)?.is_some())
    }

    /// Queues that it is, or not any more, to be written. Never blocks on the disk.
    pub fn put_repair(&self, info_hash: InfoHash, repairs: bool) {
        let change = match repairs {
            true => Change::Put(Vec::new()),
            false => Change::Remove,
        };
        self.writer.queue(Kind::Repair, info_hash, change);
    }

    /// Those of which all payload is to be read, as somebody wants, and has not been: also such as no folder has any more, until somebody
    /// has looked into all. Blocks on the disk.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn load_verifies(&self) -> Result<Vec<InfoHash>, Error> {
        let mut wanted = Vec::new();
        for info_hash in self.writer.database.info_hashes(Kind::Verify)? {
            wanted.extend(self.find(Kind::Verify, &info_hash)?.map(|_| info_hash));
        }
        Ok(wanted)
    }

    /// Queues that it is, or not any more, to be written. Never blocks on the disk.
    pub fn put_verify(&self, info_hash: InfoHash, is_wanted: bool) {
        let change = match is_wanted {
            true => Change::Put(Vec::new()),
            false => Change::Remove,
        };
        self.writer.queue(Kind::Verify, info_hash, change);
    }

    /// The filesystem that a data folder is known to lie on, if it was ever recorded. What was put is seen at once. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load_place(&self, folder: &Path) -> Result<Option<Filesystem>, Error> {
        let bytes = self.find(Kind::Place, &place_key(folder))?;
        Ok(bytes.and_then(|bytes| Filesystem::decode(&bytes, folder)))
    }

    /// How far the scrub of a data folder is, if there is one. What was put is seen at once. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load_scrub(&self, folder: &Path) -> Result<Option<ScrubState>, Error> {
        let bytes = self.find(Kind::Scrub, &place_key(folder))?;
        Ok(bytes.and_then(|bytes| ScrubState::decode(&bytes)))
    }

    /// Queues how far the scrub of a data folder is to be written. Never blocks on the disk.
    pub fn put_scrub(&self, folder: &Path, state: &ScrubState) {
        let change = Change::Put(state.encode());
        self.writer.queue(Kind::Scrub, place_key(folder), change);
    }

    /// Queues which filesystem a data folder lies on to be written, or that it may be any. Never blocks on the disk.
    pub fn put_place(&self, folder: &Path, filesystem: Option<&Filesystem>) {
        let change = match filesystem {
            Some(filesystem) => Change::Put(filesystem.encode(folder)),
            None => Change::Remove,
        };
        self.writer.queue(Kind::Place, place_key(folder), change);
    }

    /// Changes what a torrent has been through: `change` is given what is known of it, and gives what is so now, or nothing
    /// if that is not to be changed. Nobody else changes or forgets it meanwhile, and what stays as it was is not written.
    /// Blocks on the disk.
    ///
    /// Where it cannot be read, `change` is given what has come since, and what is new in what it gives is added to what is there
    /// ([`History::and`]) once that can be read.
    pub fn change_history(&self, info_hash: InfoHash, change: impl FnOnce(Option<History>) -> Option<History>) {
        self.change_known_history(info_hash, |history, _| change(history));
    }

    /// The same, where `change` is also told whether what it is given is all: not if it could not be read.
    pub fn change_known_history(
        &self,
        info_hash: InfoHash,
        change: impl FnOnce(Option<History>, bool) -> Option<History>,
    ) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, unread) = self.look_up_history(&info_hash);
        let Some(after) = change(before, unread.is_none()).filter(|after| before.as_ref() != Some(after)) else {
            return;
        };
        // What is to be added may be on its way to the disk.
        let is_part = unread.is_some() || matches!(self.writer.queued(Kind::History, &info_hash), Some(Change::Add(_)));
        match is_part {
            true => {
                let new = before.map_or(after, |before| after.since(&before));
                self.writer.queue(Kind::History, info_hash, Change::Add(new));
            }
            false => self.put_history(info_hash, after),
        }
    }

    /// Queues the removal of a record: what was found of the payload holds no longer. The history stays, whoever adds the
    /// torrent again. Never blocks on the disk.
    pub fn remove(&self, info_hash: InfoHash) {
        self.writer.queue(Kind::Record, info_hash, Change::Remove);
    }

    /// Queues the removal of all that is known of a torrent. Waits for whoever changes a history at this moment.
    pub fn forget(&self, info_hash: InfoHash) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.remove(info_hash);
        self.put_announced(info_hash, &[]);
        self.put_paused(info_hash, false);
        self.put_repair(info_hash, false);
        self.put_verify(info_hash, false);
        self.writer.queue(Kind::History, info_hash, Change::Remove);
    }

    /// Waits until what was queued before is on the disk, and tells whether it is: with a disk that fails it waits for
    /// one try only, since there may never be another end. What failed stays queued.
    pub fn flush(&self) -> bool {
        #[cfg(any(test, feature = "sim"))]
        if self.thread.is_none() {
            return self.writer.write_by_hand();
        }
        self.writer.flush()
    }

    /// Why what was queued could not be written when that was last tried, if it could not: it is tried again until it can. Never
    /// blocks on the disk.
    pub fn trouble(&self) -> Option<String> {
        self.writer.trouble()
    }

    /// Whether what is stored can be read, as far as that is known. If not, it has somebody try to open it, as for a transaction. Never
    /// blocks on the disk.
    pub fn is_readable(&self) -> bool {
        let is_open = self.writer.database.is_open();
        if !is_open {
            self.writer.probe();
        }
        is_open
    }

    /// Like [`Store::flush`], for what must be on the disk before something else is done.
    ///
    /// # Errors
    /// It is not, for this reason.
    pub fn keep(&self) -> Result<(), String> {
        match self.flush() {
            true => Ok(()),
            // It may have been written since.
            false => Err(self
                .trouble()
                .unwrap_or_else(|| "it could not be written for a moment".to_owned())),
        }
    }
}

/// Under which it is kept what is known of a data folder: tables have keys of the length of an info-hash.
fn place_key(folder: &Path) -> InfoHash {
    InfoHash(Sha1::digest(folder.as_os_str().as_bytes()).into())
}

impl Drop for Store {
    fn drop(&mut self) {
        self.writer.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // Err: it panicked, and has said so itself.
        }
    }
}
