//! In the place of the session's database: what was written, and how often that fails first.

use std::collections::HashMap;

use super::writer::{Change, Changes, Kind};
use crate::proto::InfoHash;
use crate::sync::{Condvar, Mutex};

#[derive(Debug, thiserror::Error)]
#[error("the disk takes nothing")]
pub struct Error;

#[derive(Debug)]
pub struct Database {
    inner: Mutex<Inner>,
    written: Condvar,
}

#[derive(Debug)]
struct Inner {
    values: HashMap<(Kind, InfoHash), Vec<u8>>,
    failures: u32,
}

impl Database {
    /// So many transactions fail before one does not.
    pub(super) fn failing(failures: u32) -> Self {
        let values = HashMap::new();
        Self {
            inner: Mutex::new(Inner { values, failures }),
            written: Condvar::new(),
        }
    }

    pub(super) fn commit(&self, changes: &Changes) -> Result<(), Error> {
        let mut inner = self.inner.lock().unwrap();
        for (key, change) in changes {
            match change {
                Change::Put(value) => _ = inner.values.insert(*key, value.clone()),
                Change::Remove => _ = inner.values.remove(key),
                Change::Add(_) => unreachable!("the writer puts the sum"),
            }
        }
        // Of a transaction that failed nobody knows what is on the disk.
        if inner.failures > 0 {
            inner.failures -= 1;
            return Err(Error);
        }
        drop(inner);
        self.written.notify_all();
        Ok(())
    }

    /// Waits until something is there.
    pub(super) fn wait_for(&self, kind: Kind, info_hash: InfoHash) {
        let inner = self.inner.lock().unwrap();
        let is_missing = |inner: &mut Inner| !inner.values.contains_key(&(kind, info_hash));
        drop(self.written.wait_while(inner, is_missing).unwrap());
    }

    pub(super) fn get(&self, kind: Kind, info_hash: &InfoHash) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.inner.lock().unwrap().values.get(&(kind, *info_hash)).cloned())
    }

    /// It is never closed.
    pub(super) fn reopen(&self) -> Result<(), Error> {
        Ok(())
    }
}
