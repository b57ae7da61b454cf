//! The extent cache of a shard: stretches of payload in pool buffers, shared by all connections that send from them.
//!
//! An extent is filled once however many peers wait for it, and stays until its buffer is needed for another. Which one
//! leaves is decided by S3-FIFO (Yang and others, SOSP 2023): what is new waits in a small queue, a tenth of the cache,
//! and leaves from there unless a second connection has asked for it; the others move on to the main queue, where they
//! stay as long as they are asked for. A peer that walks through a torrent nobody else wants, or a thousand of them,
//! therefore turns a tenth of the cache over and leaves the rest alone. What left the small queue is remembered by its
//! fingerprint for a while, and goes to the main queue if it is asked for again.
//!
//! The small queue is never so small that a peer's extent leaves before the peer is through with it: four extents for each
//! peer that may ask.
//!
//! What is done to fill an extent is the shard's business; this is the book of who has what.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

use slab::Slab;

use crate::io::{BUF_LEN, Buf, Pool};

/// Length of an extent in bytes: a pool buffer.
pub const EXTENT_LEN: u32 = BUF_LEN as u32;

/// What an extent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtentKey {
    /// Bytes `[index * EXTENT_LEN, (index + 1) * EXTENT_LEN)` of a file, as far as the file goes.
    File {
        /// The file's number, the same for all names it has ([`super::file_numbers`]).
        file: u32,
        /// Which extent of the file.
        index: u32,
    },
    /// One block, gathered from more files than are worth a buffer each.
    Block {
        /// The shard's own number for the torrent, never used twice.
        torrent: u32,
        /// First byte, in the torrent.
        offset: u64,
        /// Length in bytes.
        len: u32,
    },
}

impl ExtentKey {
    /// Whether the other one is behind this in the same file.
    fn is_before(&self, other: &ExtentKey) -> bool {
        match (*self, *other) {
            (ExtentKey::File { file, index }, ExtentKey::File { file: its, index: next }) => {
                file == its && index.checked_add(1) == Some(next)
            }
            _ => false,
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

/// Which queue an extent is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

/// The small queue's part of the buffers: one in so many.
const SMALL_PART: usize = 10;

/// What a peer has under way: as much as its window. With two, 200 peers with 16 requests each read 1.05 bytes for each
/// that they were sent; with four 0.9, as with the whole cache.
const EXTENTS_PER_USER: usize = 4;

/// Uses beyond this do not count, so that what was loved once does not stay for ever.
const USES_MAX: u8 = 3;

#[derive(Debug)]
struct Extent<W> {
    key: ExtentKey,
    generation: u32,
    /// `None` while it is being filled.
    buf: Option<Rc<Buf>>,
    waiters: Vec<W>,
    queue: Queue,
    /// Times another connection than the last one asked for it. One that takes an extent block by block has used it once.
    uses: u8,
    last_user: u32,
    /// Where the extent behind it in its file was found last, or may be no more.
    behind: u32,
    /// Neighbours in its queue.
    older: u32,
    newer: u32,
}

const NONE: u32 = u32::MAX;

/// Places for what connections asked for last: 16 KiB, which stay in the CPU's cache.
const RECENT_LEN: usize = 4096;

/// Ends of a queue, linked through the extents.
#[derive(Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
    len: usize,
}

impl Default for Ends {
    fn default() -> Self {
        Ends {
            oldest: NONE,
            newest: NONE,
            len: 0,
        }
    }
}

/// Fingerprints of what left the small queue without being asked for twice, as many as the main queue has extents.
#[derive(Debug, Default)]
struct Ghosts {
    in_order: VecDeque<(u64, u32)>,
    /// The stay each belongs to: one that was called back and left again is in `in_order` twice.
    stays: HashMap<u64, u32>,
    stay: u32,
    hasher: RandomState,
}

impl Ghosts {
    fn add(&mut self, key: &ExtentKey, max: usize) {
        let print = self.hasher.hash_one(key);
        self.stay = self.stay.wrapping_add(1);
        self.stays.insert(print, self.stay);
        self.in_order.push_back((print, self.stay));
        while self.in_order.len() > max
            && let Some((print, stay)) = self.in_order.pop_front()
        {
            if self.stays.get(&print) == Some(&stay) {
                self.stays.remove(&print);
            }
        }
    }

    /// Whether it left not long ago; forgets it if so.
    fn call_back(&mut self, key: &ExtentKey) -> bool {
        self.stays.remove(&self.hasher.hash_one(key)).is_some()
    }
}

/// The cache. `W` names who waits for an extent.
#[derive(Debug)]
pub struct Extents<W> {
    by_key: HashMap<ExtentKey, u32>,
    extents: Slab<Extent<W>>,
    small: Ends,
    main: Ends,
    ghosts: Ghosts,
    generation: u32,
    /// Connections that may ask.
    users: usize,
    /// What each connection asked for last, of those that share a place the last. It takes an extent block by block, and the
    /// table of all is so large that who looks there waits for memory three times; who goes through a file in order is led from each
    /// extent to the next.
    recent: Box<[u32]>,
}

impl<W> Default for Extents<W> {
    fn default() -> Self {
        Extents {
            by_key: HashMap::new(),
            extents: Slab::new(),
            small: Ends::default(),
            main: Ends::default(),
            ghosts: Ghosts::default(),
            generation: 0,
            users: 0,
            recent: vec![NONE; RECENT_LEN].into(),
        }
    }
}

impl<W> Extents<W> {
    /// Finds an extent for the connection `user`, or makes room for it. With [`Acquired::Pending`] and [`Acquired::Fill`]
    /// the caller is told by [`Extents::filled`] if it calls [`Extents::wait`].
    pub fn acquire(&mut self, key: ExtentKey, user: u32, pool: &Pool) -> Acquired {
        if let Some(index) = self.find(&key, user) {
            let extent = &mut self.extents[index as usize];
            if extent.last_user != user {
                extent.last_user = user;
                extent.uses = (extent.uses + 1).min(USES_MAX);
            }
            let id = ExtentId {
                index,
                generation: extent.generation,
            };
            return match extent.buf {
                Some(_) => Acquired::Ready(id),
                None => Acquired::Pending(id),
            };
        }
        let buffers = pool.count() as usize;
        let Some(buf) = pool
            .take()
            .or_else(|| self.evict(buffers).then(|| pool.take()).flatten())
        else {
            return Acquired::Full;
        };
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let queue = match self.ghosts.call_back(&key) {
            true => Queue::Main,
            false => Queue::Small,
        };
        let index = self.extents.insert(Extent {
            key,
            generation,
            buf: None,
            waiters: Vec::new(),
            queue,
            uses: 0,
            last_user: user,
            behind: NONE,
            older: NONE,
            newer: NONE,
        }) as u32;
        self.by_key.insert(key, index);
        self.link_newest(index);
        self.note(user, index);
        Acquired::Fill(ExtentId { index, generation }, buf)
    }

    /// The extent of a key: as a rule the one that this connection asked for before, or that behind it.
    fn find(&mut self, key: &ExtentKey, user: u32) -> Option<u32> {
        // Its place, and that of the one behind it, may be another's by now, whose key tells.
        let recent = self.recent[user as usize % RECENT_LEN];
        if let Some(extent) = self.extents.get(recent as usize) {
            if extent.key == *key {
                return Some(recent);
            }
            let behind = extent.behind;
            if let Some(extent) = self.extents.get(behind as usize)
                && extent.key == *key
            {
                self.note(user, behind);
                return Some(behind);
            }
        }
        let index = *self.by_key.get(key)?;
        self.note(user, index);
        if let Some(extent) = self.extents.get_mut(recent as usize)
            && extent.key.is_before(key)
        {
            extent.behind = index;
        }
        Some(index)
    }

    fn note(&mut self, user: u32, index: u32) {
        self.recent[user as usize % RECENT_LEN] = index;
    }

    /// Connections that may ask.
    #[must_use]
    pub fn users(&self) -> usize {
        self.users
    }

    /// So many connections may ask from now on.
    pub fn set_users(&mut self, users: usize) {
        self.users = users;
    }

    /// Whether an extent is there or on its way.
    #[must_use]
    pub fn holds(&self, key: &ExtentKey) -> bool {
        self.by_key.contains_key(key)
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

    /// Gives up all extents that `is_gone` names. What is being sent is kept by its senders. Gives those who wait.
    pub fn forget(&mut self, is_gone: impl Fn(&ExtentKey) -> bool) -> Vec<W> {
        let leaving: Vec<u32> = self
            .extents
            .iter()
            .filter(|(_, extent)| is_gone(&extent.key))
            .map(|(index, _)| index as u32)
            .collect();
        leaving
            .into_iter()
            .flat_map(|index| self.remove(index).waiters)
            .collect()
    }

    /// Forgets one extent, whose bytes are no longer those of the file. Gives who waits for it, if it is being read: they
    /// have to look for it again.
    pub fn forget_one(&mut self, key: &ExtentKey) -> Vec<W> {
        match self.by_key.get(key) {
            Some(&index) => self.remove(index).waiters,
            None => Vec::new(),
        }
    }

    /// Extents that are kept at least of what only one peer has asked for.
    fn small_len(&self, buffers: usize) -> usize {
        let least = (buffers / SMALL_PART).max(self.users * EXTENTS_PER_USER);
        least.clamp(1, buffers - buffers / SMALL_PART)
    }

    /// Extents that a peer may have read before it asks for them, of so many buffers: beyond that some would leave before
    /// they were asked for, and be read twice.
    #[must_use]
    pub fn ahead_max(&self, buffers: usize) -> usize {
        self.small_len(buffers) / self.users.max(1)
    }

    /// Takes back a buffer that nobody sends from.
    fn evict(&mut self, buffers: usize) -> bool {
        // Those in use are few, so that the first looks nearly always suffice; the bounds keep a turn short when they do
        // not. Where everything is wanted by several, somebody has to go all the same.
        const LOOK_MAX: usize = 4096;
        const SPARED_MAX: usize = 64;
        let small_len = self.small_len(buffers);
        // One queue may be all in use.
        let (mut small_held, mut main_held, mut spared) = (0, 0, 0);
        for _ in 0..LOOK_MAX {
            let small_left = self.small.len > small_held;
            let main_left = self.main.len > main_held;
            let queue = match (small_left, main_left) {
                (false, false) => return false,
                (true, true) if self.small.len >= small_len => Queue::Small,
                (true, false) => Queue::Small,
                (_, true) => Queue::Main,
            };
            let index = self.ends(queue).oldest;
            let extent = &mut self.extents[index as usize];
            if extent.buf.as_ref().is_none_or(|buf| Rc::strong_count(buf) > 1) {
                *match queue {
                    Queue::Small => &mut small_held,
                    Queue::Main => &mut main_held,
                } += 1;
                self.move_to(index, queue);
                continue;
            }
            if extent.uses > 0 && spared < SPARED_MAX {
                spared += 1;
                extent.uses = match queue {
                    Queue::Small => 0,
                    Queue::Main => extent.uses - 1,
                };
                self.move_to(index, Queue::Main);
                continue;
            }
            let left = self.remove(index);
            if queue == Queue::Small {
                self.ghosts.add(&left.key, buffers);
            }
            return true;
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

    fn ends(&mut self, queue: Queue) -> &mut Ends {
        match queue {
            Queue::Small => &mut self.small,
            Queue::Main => &mut self.main,
        }
    }

    /// To the young end of a queue.
    fn move_to(&mut self, index: u32, queue: Queue) {
        self.unlink(index);
        self.extents[index as usize].queue = queue;
        self.link_newest(index);
    }

    fn unlink(&mut self, index: u32) {
        let Extent {
            older, newer, queue, ..
        } = self.extents[index as usize];
        match older {
            NONE => self.ends(queue).oldest = newer,
            older => self.extents[older as usize].newer = newer,
        }
        match newer {
            NONE => self.ends(queue).newest = older,
            newer => self.extents[newer as usize].older = older,
        }
        self.ends(queue).len -= 1;
    }

    fn link_newest(&mut self, index: u32) {
        let queue = self.extents[index as usize].queue;
        let ends = self.ends(queue);
        let older = std::mem::replace(&mut ends.newest, index);
        ends.len += 1;
        if older == NONE {
            ends.oldest = index;
        } else {
            self.extents[older as usize].newer = index;
        }
        let extent = &mut self.extents[index as usize];
        extent.older = older;
        extent.newer = NONE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> ExtentKey {
        ExtentKey::File { file: 1, index }
    }

    fn fill(extents: &mut Extents<u32>, pool: &Pool, index: u32) -> ExtentId {
        match extents.acquire(key(index), 0, pool) {
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
        let Acquired::Fill(id, buf) = extents.acquire(key(0), 0, &pool) else {
            panic!("not new");
        };
        extents.wait(id, 1);
        let Acquired::Pending(same) = extents.acquire(key(0), 0, &pool) else {
            panic!("not shared");
        };
        assert_eq!(same, id);
        extents.wait(same, 2);
        assert_eq!(extents.filled(id, buf), [1, 2]);
        assert!(matches!(extents.acquire(key(0), 0, &pool), Acquired::Ready(_)));
    }

    #[test]
    fn first_in_leaves_first_when_nobody_else_asked() {
        let pool = Pool::new(2, false).unwrap();
        let mut extents = Extents::<u32>::default();
        let zero = fill(&mut extents, &pool, 0);
        let one = fill(&mut extents, &pool, 1);
        // The next block of the same extent, for the same peer.
        assert!(matches!(extents.acquire(key(0), 0, &pool), Acquired::Ready(_)));
        fill(&mut extents, &pool, 2);
        assert!(extents.get(zero).is_none());
        assert!(matches!(extents.get(one), Some(Fill::Ready(_))));
    }

    #[test]
    fn scan_turns_the_small_queue_over_and_leaves_alone_what_several_peers_want() {
        let pool = Pool::new(40, false).unwrap();
        let mut extents = Extents::<u32>::default();
        let wanted: Vec<ExtentId> = (0..30).map(|index| fill(&mut extents, &pool, index)).collect();
        for index in 0..30 {
            assert!(matches!(extents.acquire(key(index), 7, &pool), Acquired::Ready(_)));
        }
        for index in 100..1100 {
            fill(&mut extents, &pool, index);
        }
        for id in wanted {
            assert!(matches!(extents.get(id), Some(Fill::Ready(_))));
        }
    }

    #[test]
    fn what_nobody_wants_any_more_leaves_the_main_queue_too() {
        let pool = Pool::new(10, false).unwrap();
        let mut extents = Extents::<u32>::default();
        for round in 0..20 {
            for index in round * 10..round * 10 + 10 {
                fill(&mut extents, &pool, index);
                assert!(matches!(extents.acquire(key(index), 7, &pool), Acquired::Ready(_)));
            }
        }
        let newest = (190..200).filter(|&index| extents.holds(&key(index))).count();
        assert!(newest >= 5, "{newest} of the last ten");
        assert_eq!(pool.free(), 0);
    }

    #[test]
    fn buffer_is_found_at_once_though_all_are_wanted_by_several() {
        let pool = Pool::new(5000, false).unwrap();
        let mut extents = Extents::<u32>::default();
        for index in 0..pool.count() {
            fill(&mut extents, &pool, index);
        }
        // The first rounds bring all into the main queue, the others wear out what evictions take away.
        for round in 0..4 {
            for index in 0..pool.count() {
                for user in [1, 2, 3] {
                    let _ = extents.holds(&key(index))
                        && matches!(extents.acquire(key(index), user, &pool), Acquired::Ready(_));
                }
            }
            fill(&mut extents, &pool, 10_000 + round);
        }
    }

    #[test]
    fn what_is_asked_for_again_after_it_left_goes_to_the_main_queue() {
        let pool = Pool::new(10, false).unwrap();
        let mut extents = Extents::<u32>::default();
        for index in 0..11 {
            fill(&mut extents, &pool, index);
        }
        assert!(!extents.holds(&key(0)));
        let back = fill(&mut extents, &pool, 0);
        for index in 20..120 {
            fill(&mut extents, &pool, index);
        }
        assert!(matches!(extents.get(back), Some(Fill::Ready(_))));
    }

    #[test]
    fn many_peers_keep_what_they_are_in_the_middle_of_beside_what_is_popular() {
        let pool = Pool::new(40, false).unwrap();
        let mut extents = Extents::<u32>::default();
        extents.set_users(10);
        for index in 0..40 {
            fill(&mut extents, &pool, index);
            assert!(matches!(extents.acquire(key(index), 7, &pool), Acquired::Ready(_)));
        }
        for round in 0..20 {
            // Each of ten peers takes two blocks of an extent of its own, between the others'.
            for block in 0..2 {
                for user in 0..10 {
                    let found = extents.acquire(key(1000 + 10 * round + user), user, &pool);
                    match (block, found) {
                        (0, Acquired::Fill(id, buf)) => drop(extents.filled(id, buf)),
                        (1, Acquired::Ready(_)) => {}
                        (_, other) => panic!("round {round}, block {block}: {other:?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn ghosts_are_no_more_than_the_buffers() {
        let pool = Pool::new(10, false).unwrap();
        let mut extents = Extents::<u32>::default();
        for index in 0..1000 {
            let index = index % 17 + index / 50;
            if !extents.holds(&key(index)) {
                fill(&mut extents, &pool, index);
            }
        }
        assert!(extents.ghosts.in_order.len() <= 10 && extents.ghosts.stays.len() <= 10);
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
        let Acquired::Fill(one, one_buf) = extents.acquire(key(1), 0, &pool) else {
            panic!("not new");
        };
        assert!(matches!(extents.acquire(key(2), 0, &pool), Acquired::Full));
        drop(held);
        let Acquired::Fill(two, _) = extents.acquire(key(2), 0, &pool) else {
            panic!("not freed");
        };
        extents.filled(one, one_buf);
        assert_ne!(one, two);
    }

    #[test]
    fn what_a_connection_asked_for_last_is_not_taken_for_what_has_its_place_now() {
        let pool = Pool::new(1, false).unwrap();
        let mut extents = Extents::<u32>::default();
        let zero = fill(&mut extents, &pool, 0);
        let Acquired::Fill(one, buf) = extents.acquire(key(1), 1, &pool) else {
            panic!("not new");
        };
        assert_eq!(zero.index, one.index, "the place is used again");
        extents.filled(one, buf);
        assert!(matches!(extents.acquire(key(0), 0, &pool), Acquired::Fill(..)));
    }

    #[test]
    fn who_goes_on_in_a_file_is_led_to_what_is_behind_and_never_to_what_has_its_place_now() {
        let pool = Pool::new(4, false).unwrap();
        let mut extents = Extents::<u32>::default();
        let ids: Vec<ExtentId> = (0..4).map(|index| fill(&mut extents, &pool, index)).collect();
        let walk = |extents: &mut Extents<u32>, user| {
            for (index, id) in (0..).zip(&ids) {
                let found = extents.acquire(key(index), user, &pool);
                assert!(
                    matches!(&found, Acquired::Ready(found) if found == id),
                    "{index}: {found:?}"
                );
            }
        };
        walk(&mut extents, 1);
        let behind: Vec<u32> = ids.iter().map(|id| extents.extents[id.index as usize].behind).collect();
        assert_eq!(behind, [ids[1].index, ids[2].index, ids[3].index, NONE]);
        walk(&mut extents, 2);

        // The third leaves, and another file's has its place.
        extents.forget_one(&key(2));
        let Acquired::Fill(other, buf) = extents.acquire(ExtentKey::File { file: 2, index: 2 }, 3, &pool) else {
            panic!("not new");
        };
        assert_eq!(other.index, ids[2].index, "the place is used again");
        extents.filled(other, buf);
        assert!(matches!(extents.acquire(key(1), 2, &pool), Acquired::Ready(_)));
        assert!(matches!(
            extents.acquire(key(2), 2, &pool),
            Acquired::Fill(..) | Acquired::Full
        ));
    }

    #[test]
    fn failed_extent_is_read_again_by_the_next_who_asks() {
        let pool = Pool::new(1, false).unwrap();
        let mut extents = Extents::default();
        let Acquired::Fill(id, buf) = extents.acquire(key(0), 0, &pool) else {
            panic!("not new");
        };
        extents.wait(id, 9);
        drop(buf);
        assert_eq!(extents.failed(id), [9]);
        assert!(extents.get(id).is_none());
        assert!(matches!(extents.acquire(key(0), 0, &pool), Acquired::Fill(..)));
    }

    #[test]
    fn torrent_that_leaves_takes_its_extents_along() {
        let pool = Pool::new(2, false).unwrap();
        let mut extents = Extents::default();
        fill(&mut extents, &pool, 0);
        let Acquired::Fill(id, buf) = extents.acquire(key(1), 0, &pool) else {
            panic!("not new");
        };
        extents.wait(id, 4);
        assert_eq!(
            extents.forget(|key| matches!(key, ExtentKey::File { file: 1, .. })),
            [4]
        );
        assert!(extents.filled(id, buf).is_empty(), "a late read finds nobody");
        assert_eq!(pool.free(), 2);
    }
}
