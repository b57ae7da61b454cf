//! The tables of a session on a simulated disk: what was committed stays when the process or the power goes, what was
//! queued does not. Records are encoded, queued and read as ever; only redb and the thread that writes are not there.
//!
//! Nothing of this is in a btd that is built without the feature `sim`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::database::Database;
use super::writer::{self, Change, Changes, Kind, Writer};
use super::{Error, Store};
use crate::proto::InfoHash;

#[derive(Debug, Default)]
struct Tables {
    rows: BTreeMap<(Kind, InfoHash), Vec<u8>>,
    commits: u64,
    fails: bool,
    is_unreadable: bool,
    /// How often it was not read for that.
    refused: u64,
    patience: Option<Duration>,
}

/// The disk. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Tables>>);

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Transactions so far.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// Whether transactions fail from now on.
    pub fn set_failing(&self, fails: bool) {
        self.lock().fails = fails;
    }

    /// Whether nothing can be read from now on. Most that takes no transaction can be.
    pub fn set_unreadable(&self, is_unreadable: bool) {
        self.lock().is_unreadable = is_unreadable;
    }

    /// How often somebody could not read it.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.lock().refused
    }

    /// For how long whoever could not read it waits until another try, from now on. At first nobody does.
    pub fn set_patience(&self, patience: Duration) {
        self.lock().patience = Some(patience);
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        self.lock().patience
    }

    pub(super) fn is_readable(&self) -> bool {
        !self.lock().is_unreadable
    }

    pub(super) fn get(&self, kind: Kind, info_hash: &InfoHash) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.readable()?.rows.get(&(kind, *info_hash)).cloned())
    }

    pub(super) fn info_hashes(&self, kind: Kind) -> Result<Vec<InfoHash>, Error> {
        let tables = self.readable()?;
        let of_kind = tables.rows.keys().filter(|(is, _)| *is == kind);
        Ok(of_kind.map(|(_, info_hash)| *info_hash).collect())
    }

    fn readable(&self) -> Result<MutexGuard<'_, Tables>, Error> {
        let mut tables = self.lock();
        let is_unreadable = tables.is_unreadable;
        tables.refused += u64::from(is_unreadable);
        match is_unreadable {
            true => Err(Error::Unreadable {
                path: PathBuf::from("the simulated session"),
                reason: "it is told to be".to_owned(),
            }),
            false => Ok(tables),
        }
    }

    pub(super) fn commit(&self, changes: &Changes) -> Result<(), Error> {
        let mut tables = self.lock();
        if tables.fails {
            return Err(Error::Io {
                step: "write",
                path: PathBuf::from("the simulated session"),
                source: io::ErrorKind::StorageFull.into(),
            });
        }
        for (key, change) in changes {
            match change {
                Change::Put(bytes) => drop(tables.rows.insert(*key, bytes.clone())),
                Change::Remove => drop(tables.rows.remove(key)),
                Change::Add(_) => unreachable!("the writer puts the sum"),
            }
        }
        tables.commits += 1;
        Ok(())
    }
}

impl Store {
    /// A store on a simulated disk. What is queued is written by [`Store::flush`] alone, and lost when this is dropped.
    #[must_use]
    pub fn simulated(disk: &Disk) -> Self {
        Self {
            writer: Arc::new(Writer::new(Database::simulated(disk.clone()), writer::RETRY)),
            changing: Mutex::new(()),
            thread: None,
        }
    }
}
