//! The database file: opened, or set aside for a fresh one when it is none of ours; one transaction; one look-up.
//!
//! redb refuses everything once a read or write has failed, and so the file is closed then. The next transaction opens it again,
//! and so does the next look-up: a full disk can be read as a rule. What cannot be read is an error, and never nothing: whoever
//! takes it for nothing writes over what is there.
//!
//! Nobody who reads waits for a disk that takes nothing. A transaction shares the file with those that read, over its sync too, and so
//! does whoever opens or closes it, so that one who reads and would have to wait for either gets an error.
//!
//! Damage is met as the file is opened, and nowhere else. redb trusts a file that was closed in order, and may panic on
//! one that was changed since; a release build of btd would be aborted by that, at every start. So every page is checked
//! against its checksum at the start. That costs 14 to 22 ms and 2.7 MiB of memory for 10,000 torrents of four files (a file
//! of 4.3 MiB, on ext4, in the page cache); loading every record after that 30 to 80 ms and 2 MiB more, most of it the
//! cache below. A transaction of one record took 3.5 ms. The test `open_time_of_ten_thousand_records` measures it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{Builder, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::Error;
use super::writer::{Change, Changes, Kind};
use crate::proto::InfoHash;

/// The name of the database in the state folder.
const FILE_NAME: &str = "session.redb";

/// The name of one that was set aside.
const ASIDE_NAME: &str = "session.redb.bad";

/// The version of what is in the tables. Each record has its own beside it.
const FORMAT: u32 = 1;

/// Where [`FORMAT`] stands in [`META`].
const FORMAT_KEY: &str = "format";

const META: TableDefinition<'_, &str, u32> = TableDefinition::new("meta");

/// Records by info-hash.
const RECORDS: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("records");

/// Histories by info-hash. Databases of the first btd have no such table, and are given it with the first that is written.
const HISTORIES: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("histories");

/// When trackers are to be asked, by info-hash. Likewise.
const ANNOUNCED: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("announced");

/// The info-hashes of those that are paused. Likewise.
const PAUSED: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("paused");

/// The filesystems of data folders, by the digest of their paths. Likewise.
const PLACES: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("places");

/// How far the scrubs of data folders are, likewise.
const SCRUBS: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("scrubs");

/// Cards of .torrent files, by the SHA-1 of their paths. Likewise.
const CARDS: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("cards");

/// How long nobody tries to open the file to read it after one could not, or could not read it: each try may read all of it, and
/// 100,000 torrents may ask.
pub(super) const REOPEN_EVERY: Duration = Duration::from_secs(5);

/// How long the file is opened or closed, as a rule, by somebody else.
const TURN_MAX: Duration = Duration::from_millis(100);

/// What redb may keep of the file in memory, in bytes; its default is 1 GiB. Records are read once each, when their
/// torrent is added, and a transaction writes few of them, so that nothing is won by more.
const CACHE_LEN: usize = 4 << 20;

/// The info-hashes of those that are downloaded again though they were complete. Likewise.
const REPAIRS: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("repairs");

/// The info-hashes of those of which somebody wants all payload to be read. Likewise.
const VERIFIES: TableDefinition<'_, &[u8; 20], &[u8]> = TableDefinition::new("verifies");

/// How redb gets at the file. Tests put one in that fails.
pub(super) type Opener = Box<dyn Fn(&Builder, File) -> Result<redb::Database, DatabaseError> + Send + Sync>;

/// The file as it is.
pub(super) fn plain() -> Opener {
    Box::new(|builder, file| builder.create_with_backend(FileBackend::new(file)?))
}

/// The database of one state folder.
pub(super) struct Database {
    state_dir: PathBuf,
    opener: Opener,
    /// Held for moments by whoever changes it, and shared through a whole transaction.
    inner: RwLock<Inner>,
    /// Held by whoever opens or closes the file, before `inner`.
    turning: Mutex<()>,
    /// In the place of the file.
    #[cfg(any(test, feature = "sim"))]
    simulated: Option<super::simulated::Disk>,
}

#[derive(Default)]
struct Inner {
    /// `None` after an error.
    database: Option<redb::Database>,
    /// How often it was opened, which tells one that failed from the next.
    opened: u64,
    /// When it could not be opened, or read, by whoever wanted to read it.
    refused_at: Option<Instant>,
    /// Since when it could not, if it was not opened since.
    refused_since: Option<Instant>,
}

impl Inner {
    fn put(&mut self, database: redb::Database) {
        self.database = Some(database);
        self.opened += 1;
        self.refused_since = None;
    }

    fn refuse(&mut self) {
        let now = Instant::now();
        self.refused_at = Some(now);
        self.refused_since.get_or_insert(now);
    }
}

impl Database {
    /// Opens or makes the database. The text says why an earlier one was set aside, if one was.
    pub(super) fn open(state_dir: &Path, opener: Opener) -> Result<(Self, Option<String>), Error> {
        let (opened, notice) = open_or_replace(state_dir, &opener)?;
        let mut inner = Inner::default();
        inner.put(opened);
        let database = Self {
            state_dir: state_dir.to_owned(),
            opener,
            inner: RwLock::new(inner),
            turning: Mutex::new(()),
            #[cfg(any(test, feature = "sim"))]
            simulated: None,
        };
        Ok((database, notice))
    }

    /// One whose tables lie on a simulated disk.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn simulated(disk: super::simulated::Disk) -> Self {
        Self {
            state_dir: PathBuf::new(),
            opener: plain(),
            inner: RwLock::default(),
            turning: Mutex::new(()),
            simulated: Some(disk),
        }
    }

    /// What is stored for a torrent. An error if that cannot be told.
    pub(super) fn get(&self, kind: Kind, info_hash: &InfoHash) -> Result<Option<Vec<u8>>, Error> {
        #[cfg(any(test, feature = "sim"))]
        if let Some(disk) = &self.simulated {
            return disk.get(kind, info_hash);
        }
        self.read(|database| get(database, kind, info_hash))
    }

    /// The info-hashes of which something of this kind is stored. Likewise.
    pub(super) fn info_hashes(&self, kind: Kind) -> Result<Vec<InfoHash>, Error> {
        #[cfg(any(test, feature = "sim"))]
        if let Some(disk) = &self.simulated {
            return disk.info_hashes(kind);
        }
        self.read(|database| info_hashes(database, kind))
    }

    /// Looks something up in what is open, or can be opened.
    fn read<T>(&self, look: impl FnOnce(&redb::Database) -> Result<T, redb::Error>) -> Result<T, Error> {
        let mut inner = self.shared();
        if inner.database.is_none() {
            drop(inner);
            self.open_to_read()?;
            inner = self.shared();
        }
        let Some(database) = &inner.database else {
            return Err(self.unreadable("it was closed a moment ago")); // A transaction has failed meanwhile.
        };
        let (found, opened) = (look(database), inner.opened);
        drop(inner);
        found.map_err(|error| {
            // Of a table that is not as it should be the next look-up learns no more.
            if !is_about_tables(&error) {
                self.close_if_idle(opened);
            }
            self.io("read", error)
        })
    }

    /// Opens the file for whoever wants to read it. It is not made, nor is anything set aside for it: a transaction does that.
    fn open_to_read(&self) -> Result<(), Error> {
        let Ok(_turning) = self.turning.try_lock() else {
            // Whoever is at it may have to wait for the disk. It was done a moment ago if it is open.
            return match self.is_open() {
                true => Ok(()),
                false => Err(self.unreadable("it is being opened or closed")),
            };
        };
        {
            let inner = self.shared();
            if inner.database.is_some() {
                return Ok(());
            }
            if inner.refused_at.is_some_and(|at| at.elapsed() < REOPEN_EVERY) {
                return Err(self.unreadable("it could not be opened or read a moment ago"));
            }
        }
        match open(&self.state_dir.join(FILE_NAME), &self.opener, false) {
            Ok(opened) => {
                self.alone().put(opened);
                Ok(())
            }
            Err(refusal) => {
                self.alone().refuse();
                Err(match refusal {
                    Refusal::Fatal(error) => error,
                    Refusal::Foreign(reason) => self.unreadable(&reason),
                })
            }
        }
    }

    /// Closes what was opened so many times ago and could not be read, unless that was done and another is open by now. Not while
    /// others have it, a transaction perhaps whose sync has no end: redb refuses those that come, and the next of them closes it.
    fn close_if_idle(&self, opened: u64) {
        let Ok(_turning) = self.turning.try_lock() else { return };
        let closed = match self.inner.try_write() {
            Ok(mut inner) if inner.opened == opened => {
                inner.refuse();
                inner.database.take()
            }
            _ => None,
        };
        drop(closed); // It writes, perhaps, and so while nobody waits for it.
    }

    /// The same after a transaction, which waits for those that read.
    fn close(&self, opened: u64) {
        let _turning = self.turn();
        let mut inner = self.alone();
        let closed = match inner.opened == opened {
            true => inner.database.take(),
            false => None,
        };
        drop(inner);
        drop(closed);
    }

    /// Whether it is open, as far as anybody knows: it can be read then. Never waits for a disk.
    pub(super) fn is_open(&self) -> bool {
        #[cfg(any(test, feature = "sim"))]
        if let Some(disk) = &self.simulated {
            return disk.is_readable();
        }
        self.shared().database.is_some()
    }

    /// Puts all changes on the disk, or none. After an error the file is closed, and the next call opens it again.
    pub(super) fn commit(&self, changes: &Changes) -> Result<(), Error> {
        #[cfg(any(test, feature = "sim"))]
        if let Some(disk) = &self.simulated {
            return disk.commit(changes);
        }
        self.reopen()?;
        let inner = self.shared();
        let Some(database) = &inner.database else {
            return Err(self.unreadable("it was closed a moment ago")); // Somebody could not read it meanwhile.
        };
        let (committed, opened) = (commit(database, changes), inner.opened);
        drop(inner);
        committed.map_err(|error| {
            self.close(opened);
            self.io("write", error)
        })
    }

    /// Opens the file if it is closed, for a transaction. One that is damaged is set aside, and one that is gone made anew.
    pub(super) fn reopen(&self) -> Result<(), Error> {
        #[cfg(any(test, feature = "sim"))]
        if self.simulated.is_some() {
            return Ok(());
        }
        if self.is_open() {
            return Ok(());
        }
        let _turning = self.turn();
        if !self.is_open() {
            let (opened, notice) = open_or_replace(&self.state_dir, &self.opener)?;
            if let Some(notice) = notice {
                tracing::warn!("{notice}");
            }
            self.alone().put(opened);
        }
        Ok(())
    }

    /// How long whoever could not read it waits at best before another try; `None` if it could not be read for so long that nobody
    /// is to wait. Never waits itself.
    pub(super) fn patience(&self) -> Option<Duration> {
        #[cfg(any(test, feature = "sim"))]
        if let Some(disk) = &self.simulated {
            return disk.patience();
        }
        let inner = self.shared();
        if inner
            .refused_since
            .is_some_and(|since| since.elapsed() > 2 * REOPEN_EVERY)
        {
            return None;
        }
        let left = inner.refused_at.map(|at| REOPEN_EVERY.saturating_sub(at.elapsed()));
        Some(left.unwrap_or_default().max(TURN_MAX))
    }

    /// As after a transaction that has failed.
    #[cfg(test)]
    pub(super) fn close_for_tests(&self) {
        let opened = self.shared().opened;
        self.close(opened);
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&self, reason: &str) -> Error {
        Error::Unreadable {
            path: self.state_dir.join(FILE_NAME),
            reason: reason.to_owned(),
        }
    }

    fn io(&self, step: &'static str, error: redb::Error) -> Error {
        Error::Io {
            step,
            path: self.state_dir.join(FILE_NAME),
            source: io_error(error),
        }
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("state_dir", &self.state_dir)
            .finish_non_exhaustive()
    }
}

fn get(database: &redb::Database, kind: Kind, info_hash: &InfoHash) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = match (database.begin_read()?.open_table(table(kind)), kind) {
        (
            Err(TableError::TableDoesNotExist(_)),
            Kind::History
            | Kind::Announced
            | Kind::Paused
            | Kind::Place
            | Kind::Scrub
            | Kind::Card
            | Kind::Repair
            | Kind::Verify,
        ) => {
            return Ok(None);
        }
        (table, _) => table?,
    };
    Ok(table.get(&info_hash.0)?.map(|bytes| bytes.value().to_vec()))
}

fn info_hashes(database: &redb::Database, kind: Kind) -> Result<Vec<InfoHash>, redb::Error> {
    let table = match database.begin_read()?.open_table(table(kind)) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let mut found = Vec::new();
    for entry in table.iter()? {
        let (info_hash, _) = entry?;
        found.push(InfoHash(*info_hash.value()));
    }
    Ok(found)
}

fn table(kind: Kind) -> TableDefinition<'static, &'static [u8; 20], &'static [u8]> {
    match kind {
        Kind::Record => RECORDS,
        Kind::History => HISTORIES,
        Kind::Announced => ANNOUNCED,
        Kind::Paused => PAUSED,
        Kind::Place => PLACES,
        Kind::Scrub => SCRUBS,
        Kind::Card => CARDS,
        Kind::Repair => REPAIRS,
        Kind::Verify => VERIFIES,
    }
}

/// Each has a table of its own.
const KINDS: [Kind; 9] = [
    Kind::Record,
    Kind::History,
    Kind::Announced,
    Kind::Paused,
    Kind::Place,
    Kind::Scrub,
    Kind::Card,
    Kind::Repair,
    Kind::Verify,
];

fn commit(database: &redb::Database, changes: &Changes) -> Result<(), redb::Error> {
    let mut write = database.begin_write()?;
    write.set_durability(Durability::Immediate)?; // Synced when `commit` returns. The default, but a promise here.
    for kind in KINDS {
        let mut of_kind = changes.iter().filter(|((is, _), _)| *is == kind).peekable();
        if of_kind.peek().is_none() {
            continue;
        }
        let mut table = write.open_table(table(kind))?;
        for ((_, info_hash), change) in of_kind {
            match change {
                Change::Put(bytes) => drop(table.insert(&info_hash.0, &bytes[..])?),
                Change::Remove => drop(table.remove(&info_hash.0)?),
                Change::Add(_) => unreachable!("the writer puts the sum"),
            }
        }
    }
    write.commit()?;
    Ok(())
}

/// Why a file is not opened.
enum Refusal {
    /// For what is in it.
    Foreign(String),
    /// For something that another file in its place would not change.
    Fatal(Error),
}

fn open_or_replace(state_dir: &Path, opener: &Opener) -> Result<(redb::Database, Option<String>), Error> {
    let path = state_dir.join(FILE_NAME);
    let reason = match open(&path, opener, true) {
        Ok(database) => return Ok((database, None)),
        Err(Refusal::Fatal(error)) => return Err(error),
        Err(Refusal::Foreign(reason)) => reason,
    };
    let aside = state_dir.join(ASIDE_NAME);
    set_aside(&path, &aside).map_err(|source| Error::Io {
        step: "set aside",
        path: path.clone(),
        source,
    })?;
    let database = open(&path, opener, true).map_err(|refusal| match refusal {
        Refusal::Fatal(error) => error,
        Refusal::Foreign(reason) => Error::Unusable {
            path: path.clone(),
            reason,
        },
    })?;
    let notice = format!(
        "the session database {} cannot be used ({reason}): it is kept as {ASIDE_NAME} and a new one begun, so that all \
         payload is checked again and what was uploaded and downloaded is counted from 0 (hint: nothing has to be done; the old one can be deleted)",
        path.display()
    );
    Ok((database, Some(notice)))
}

/// Opens the file. Where there is none it is made, if it may be.
fn open(path: &Path, opener: &Opener, makes: bool) -> Result<redb::Database, Refusal> {
    let io = |step| {
        move |source| {
            Refusal::Fatal(Error::Io {
                step,
                path: path.to_owned(),
                source,
            })
        }
    };
    let exists = match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => return Err(Refusal::Foreign("it is not a file".to_owned())),
        Ok(found) if found.len() == 0 => return Err(Refusal::Foreign("it is empty".to_owned())),
        Ok(_) => true,
        Err(error) if makes && error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(io("look at")(error)),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(makes)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io("open"))?;
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_LEN).set_check_integrity_on_open(exists);
    let refused = |error| refusal(path, error);
    let database = opener(&builder, file).map_err(|error| refused(error.into()))?;
    if is_new(&database).map_err(refused)? {
        begin(&database).map_err(refused)?;
        // The file is not safe before its name is.
        let state_dir = path.parent().unwrap_or(Path::new("."));
        File::open(state_dir)
            .and_then(|dir| dir.sync_all())
            .map_err(io("sync the folder of"))?;
        return Ok(database);
    }
    match format(&database).map_err(refused)? {
        Some(FORMAT) => Ok(database),
        Some(other) => {
            let reason = format!("it is of format {other}, where this btd knows {FORMAT}");
            Err(Refusal::Foreign(reason))
        }
        None => Err(Refusal::Foreign("it is the database of another program".to_owned())),
    }
}

/// Whether nothing was ever written.
fn is_new(database: &redb::Database) -> Result<bool, redb::Error> {
    let read = database.begin_read()?;
    Ok(read.list_tables()?.next().is_none() && read.list_multimap_tables()?.next().is_none())
}

/// The version of what is in the tables, if they are there as this version has them.
fn format(database: &redb::Database) -> Result<Option<u32>, redb::Error> {
    let read = database.begin_read()?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let format = meta.get(FORMAT_KEY)?.map(|format| format.value());
    if format == Some(FORMAT) {
        read.open_table(RECORDS)?;
        for kind in KINDS {
            match read.open_table(table(kind)) {
                Ok(_) | Err(TableError::TableDoesNotExist(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(format)
}

/// Makes the tables.
fn begin(database: &redb::Database) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    write.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    write.open_table(RECORDS)?;
    write.commit()?;
    Ok(())
}

fn refusal(path: &Path, error: redb::Error) -> Refusal {
    use redb::Error as E;
    match error {
        E::DatabaseAlreadyOpen | E::LockProtocolMismatch => Refusal::Fatal(Error::InUse { path: path.to_owned() }),
        E::Io(source) if !is_damage(&source) => Refusal::Fatal(Error::Io {
            step: "open",
            path: path.to_owned(),
            source,
        }),
        E::Io(_)
        | E::Corrupted(_)
        | E::UpgradeRequired(_)
        | E::RepairAborted
        | E::TableDoesNotExist(_)
        | E::TableIsMultimap(_)
        | E::TableIsNotMultimap(_)
        | E::TableTypeMismatch { .. }
        | E::TypeDefinitionChanged { .. } => Refusal::Foreign(error.to_string()),
        other => Refusal::Fatal(Error::Io {
            step: "open",
            path: path.to_owned(),
            source: io_error(other),
        }),
    }
}

/// Whether an error is about a table that is not there or not of its type, and neither about the file nor about its disk.
const fn is_about_tables(error: &redb::Error) -> bool {
    use redb::Error as E;
    matches!(
        error,
        E::TableDoesNotExist(_)
            | E::TableIsMultimap(_)
            | E::TableIsNotMultimap(_)
            | E::TableTypeMismatch { .. }
            | E::TypeDefinitionChanged { .. }
    )
}

/// Whether an error is about what is in the file, which another file in its place would not have. A full disk or a lack
/// of descriptors is not: for those, nothing that is good is set aside.
fn is_damage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        || Errno::from_io_error(error).is_some_and(|errno| [Errno::IO, Errno::UCLEAN, Errno::BADMSG].contains(&errno))
}

fn io_error(error: redb::Error) -> io::Error {
    match error {
        redb::Error::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

/// Renames, in the place of whatever has that name.
fn set_aside(path: &Path, aside: &Path) -> io::Result<()> {
    // rename(2) replaces a file by a file; a folder it would not.
    match std::fs::symlink_metadata(aside) {
        Ok(older) if older.is_dir() => std::fs::remove_dir_all(aside)?,
        Ok(_) => std::fs::remove_file(aside)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    std::fs::rename(path, aside)
}
