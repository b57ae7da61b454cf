//! The extent cache of a shard: stretches of payload in pool buffers, shared by all connections that send from them.
//!
//! An extent is filled once however many peers wait for it, and stays until its buffer is needed for another: the one
//! used longest ago goes first, unless somebody still sends from it. What is done to fill an extent is the shard's
//! business; this is the book of who has what.

use std::collections::HashMap;
use std::rc::Rc;

use slab::Slab;

use crate::io::{BUF_LEN, Buf, Pool};

/// Length of an extent in bytes: a pool buffer.
pub const EXTENT_LEN: u32 = BUF_LEN as u32;

/// What an extent holds. `torrent` is the shard's own number for it, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKey {
    /// Bytes `[index * EXTENT_LEN, (index + 1) * EXTENT_LEN)` of a file, as far as the file goes.
    File {
        /// The torrent.
        torrent: u32,
        /// The file's place in the torrent.
        file: u32,
        /// Which extent of the file.
        index: u32,
    },
    /// One block, gathered from more files than are worth a buffer each.
    Block {
        /// The torrent.
        torrent: u32,
        /// First byte, in the torrent.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
}

impl ExtentKey {
    /// The torrent it belongs to.
    #[must_use]
    pub fn torrent(&self) -> u32 {
        match self {
            ExtentKey::File { torrent, .. } | ExtentKey::Block { torrent, .. } => *torrent,
        }
    }
}

/// An extent of the cache while somebody waits for it or sends from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExtentId {
    index: u32,
    generation: u32,
}

/// How far an extent is.
#[derive(Debug)]
pub enum Fill<'a> {
    /// Being read.
    Pending,
    /// There.
    Ready(&'a Rc<Buf>),
}

/// What [`Extents::acquire`] found.
#[derive(Debug)]
pub enum Acquired {
    /// In memory: a hit.
    Ready(ExtentId),
    /// Being read for somebody else: the wait is shared.
    Pending(ExtentId),
    /// New: the caller has to fill this buffer and then call [`Extents::filled`] or [`Extents::failed`].
    Fill(ExtentId, Buf),
    /// No buffer is free and none can be taken back before somebody has sent what he holds.
    Full,
}

#[derive(Debug)]
struct Extent<W> {
    key: ExtentKey,
    generation: u32,
    /// `None` while it is being filled.
    buf: Option<Rc<Buf>>,
    waiters: Vec<W>,
    /// Neighbours in order of use.
    older: u32,
    newer: u32,
}

const NONE: u32 = u32::MAX;

/// The cache. `W` names who waits for an extent.
#[derive(Debug)]
pub struct Extents<W> {
    by_key: HashMap<ExtentKey, u32>,
    extents: Slab<Extent<W>>,
    oldest: u32,
    newest: u32,
    generation: u32,
}

impl<W> Default for Extents<W> {
    fn default() -> Self {
        Extents {
            by_key: HashMap::new(),
            extents: Slab::new(),
            oldest: NONE,
            newest: NONE,
            generation: 0,
        }
    }
}

impl<W> Extents<W> {
    /// Finds an extent or makes room for it. With [`Acquired::Pending`] and [`Acquired::Fill`] the caller is told by
    /// [`Extents::filled`] if it calls [`Extents::wait`].
    pub fn acquire(&mut self, key: ExtentKey, pool: &Pool) -> Acquired {
        if let Some(&index) = self.by_key.get(&key) {
            self.unlink(index);
            self.link_newest(index);
            let extent = &self.extents[index as usize];
            let id = ExtentId {
                index,
                generation: extent.generation,
            };
            return match extent.buf {
                Some(_) => Acquired::Ready(id),
                None => Acquired::Pending(id),
            };
        }
        let Some(buf) = pool.take().or_else(|| self.evict().then(|| pool.take()).flatten()) else {
            return Acquired::Full;
        };
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let index = self.extents.insert(Extent {
            key,
            generation,
            buf: None,
            waiters: Vec::new(),
            older: NONE,
            newer: NONE,
        }) as u32;
        self.by_key.insert(key, index);
        self.link_newest(index);
        Acquired::Fill(ExtentId { index, generation }, buf)
    }

    /// Notes who is to be told when the extent is filled. Telling somebody twice is the caller's to bear.
    pub fn wait(&mut self, id: ExtentId, waiter: W) {
        if let Some(extent) = self.get_mut(id) {
            extent.waiters.push(waiter);
        }
    }

    /// The state of an extent; `None` if it was given up (its read failed, or its torrent left).
    #[must_use]
    pub fn get(&self, id: ExtentId) -> Option<Fill<'_>> {
        let extent = self.extents.get(id.index as usize)?;
        if extent.generation != id.generation {
            return None;
        }
        Some(extent.buf.as_ref().map_or(Fill::Pending, Fill::Ready))
    }

    /// The extent is there; gives those who wait for it.
    pub fn filled(&mut self, id: ExtentId, buf: Buf) -> Vec<W> {
        match self.get_mut(id) {
            Some(extent) => {
                extent.buf = Some(Rc::new(buf));
                std::mem::take(&mut extent.waiters)
            }
            None => Vec::new(), // Given up meanwhile; the buffer returns to the pool.
        }
    }

    /// The extent could not be read and is given up; gives those who wait for it.
    pub fn failed(&mut self, id: ExtentId) -> Vec<W> {
        if self.get_mut(id).is_none() {
            return Vec::new();
        }
        self.remove(id.index).waiters
    }

    /// Gives up all extents of a torrent. What is being sent is kept by its senders. Gives those who wait.
    pub fn forget(&mut self, torrent: u32) -> Vec<W> {
        let leaving: Vec<u32> = self
            .extents
            .iter()
            .filter(|(_, extent)| extent.key.torrent() == torrent)
            .map(|(index, _)| index as u32)
            .collect();
        leaving
            .into_iter()
            .flat_map(|index| self.remove(index).waiters)
            .collect()
    }

    /// Takes back the buffer used longest ago that nobody sends from.
    fn evict(&mut self) -> bool {
        // Those in use are few and recent, so the first look is nearly always the last; the bound keeps a turn short when
        // it is not.
        const LOOK_MAX: usize = 4096;
        let mut at = self.oldest;
        for _ in 0..LOOK_MAX {
            let Some(extent) = self.extents.get(at as usize) else {
                return false;
            };
            if extent.buf.as_ref().is_some_and(|buf| Rc::strong_count(buf) == 1) {
                self.remove(at);
                return true;
            }
            at = extent.newer;
        }
        false
    }

    fn get_mut(&mut self, id: ExtentId) -> Option<&mut Extent<W>> {
        self.extents
            .get_mut(id.index as usize)
            .filter(|extent| extent.generation == id.generation)
    }

    fn remove(&mut self, index: u32) -> Extent<W> {
        self.unlink(index);
        let extent = self.extents.remove(index as usize);
        self.by_key.remove(&extent.key);
        extent
    }

    fn unlink(&mut self, index: u32) {
        let (older, newer) = {
            let extent = &self.extents[index as usize];
            (extent.older, extent.newer)
        };
        match older {
            NONE => self.oldest = newer,
            older => self.extents[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.extents[newer as usize].older = older,
        }
    }

    fn link_newest(&mut self, index: u32) {
        let older = self.newest;
        let extent = &mut self.extents[index as usize];
        extent.older = older;
        extent.newer = NONE;
        match older {
            NONE => self.oldest = index,
            older => self.extents[older as usize].newer = index,
        }
        self.newest = index;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> ExtentKey {
        let (torrent, file) = (1, 0);
        ExtentKey::File { torrent, file, index }
    }

    fn fill(extents: &mut Extents<u32>, pool: &Pool, index: u32) -> ExtentId {
        match extents.acquire(key(index), pool) {
            Acquired::Fill(id, buf) => {
                extents.filled(id, buf);
                id
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn extent_is_filled_once_for_all_who_wait() {
        let pool = Pool::new(1, false).unwrap();
        let mut extents = Extents::default();
        let Acquired::Fill(id, buf) = extents.acquire(key(0), &pool) else {
            panic!("not new");
        };
        extents.wait(id, 1);
        let Acquired::Pending(same) = extents.acquire(key(0), &pool) else {
            panic!("not shared");
        };
        assert_eq!(same, id);
        extents.wait(same, 2);
        assert_eq!(extents.filled(id, buf), [1, 2]);
        assert!(matches!(extents.acquire(key(0), &pool), Acquired::Ready(_)));
    }

    #[test]
    fn extent_used_longest_ago_leaves_first() {
        let pool = Pool::new(2, false).unwrap();
        let mut extents = Extents::<u32>::default();
        let zero = fill(&mut extents, &pool, 0);
        let one = fill(&mut extents, &pool, 1);
        assert!(matches!(extents.acquire(key(0), &pool), Acquired::Ready(_)));
        fill(&mut extents, &pool, 2);
        assert!(extents.get(one).is_none());
        assert!(matches!(extents.get(zero), Some(Fill::Ready(_))));
    }

    #[test]
    fn extent_that_is_sent_from_or_read_is_not_taken_back() {
        let pool = Pool::new(2, false).unwrap();
        let mut extents = Extents::<u32>::default();
        let zero = fill(&mut extents, &pool, 0);
        let Some(Fill::Ready(buf)) = extents.get(zero) else {
            panic!("not there");
        };
        let held = buf.clone();
        let Acquired::Fill(one, one_buf) = extents.acquire(key(1), &pool) else {
            panic!("not new");
        };
        assert!(matches!(extents.acquire(key(2), &pool), Acquired::Full));
        drop(held);
        let Acquired::Fill(two, _) = extents.acquire(key(2), &pool) else {
            panic!("not freed");
        };
        extents.filled(one, one_buf);
        assert_ne!(one, two);
    }

    #[test]
    fn failed_extent_is_read_again_by_the_next_who_asks() {
        let pool = Pool::new(1, false).unwrap();
        let mut extents = Extents::default();
        let Acquired::Fill(id, buf) = extents.acquire(key(0), &pool) else {
            panic!("not new");
        };
        extents.wait(id, 9);
        drop(buf);
        assert_eq!(extents.failed(id), [9]);
        assert!(extents.get(id).is_none());
        assert!(matches!(extents.acquire(key(0), &pool), Acquired::Fill(..)));
    }

    #[test]
    fn torrent_that_leaves_takes_its_extents_along() {
        let pool = Pool::new(2, false).unwrap();
        let mut extents = Extents::default();
        fill(&mut extents, &pool, 0);
        let Acquired::Fill(id, buf) = extents.acquire(key(1), &pool) else {
            panic!("not new");
        };
        extents.wait(id, 4);
        assert_eq!(extents.forget(1), [4]);
        assert!(extents.filled(id, buf).is_empty(), "a late read finds nobody");
        assert_eq!(pool.free(), 2);
    }
}
