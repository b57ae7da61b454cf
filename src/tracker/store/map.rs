//! The torrents of one stripe: info-hashes and their swarms in one open-addressed array, kept fuller than a map of the
//! standard library would be and grown by an eighth instead of being doubled.

use super::budget::{Budget, Full, good_len};
use super::few::Few;
use super::stamp::Stamp;
use super::swarm::Swarm;
use super::table::home;
use crate::proto::InfoHash;
use crate::tracker::siphash::Key;

/// A torrent.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) info_hash: InfoHash,
    /// How many peers have completed it, as far as is remembered.
    pub(super) downloaded: u32,
    pub(super) swarm: Swarm,
}

type Slot = Option<Entry>;
const SLOT_LEN: usize = size_of::<Slot>();
/// Three peers, a hash and a count: what most torrents take.
const _: () = assert!(SLOT_LEN == 48);

/// A map of so many slots may be full to the last.
const SMALL: usize = 8;
/// Beyond that four of five may be in use: 3 are looked at to find a torrent, 13 to find that there is none.
const LOAD: (usize, usize) = (4, 5);

/// Info-hashes to swarms.
#[derive(Debug, Default)]
pub(super) struct Map {
    slots: Box<[Slot]>,
    len: usize,
}

const fn len_max(capacity: usize) -> usize {
    if capacity <= SMALL {
        capacity
    } else {
        capacity * LOAD.0 / LOAD.1
    }
}

fn capacity_for(len: usize) -> usize {
    let needed = if len <= SMALL {
        len
    } else {
        (len * LOAD.1).div_ceil(LOAD.0)
    };
    let mut capacity = good_len(needed * SLOT_LEN) / SLOT_LEN;
    while len_max(capacity) < len {
        capacity = good_len((capacity + 1) * SLOT_LEN) / SLOT_LEN; // The load is less beyond `SMALL`.
    }
    capacity
}

impl Map {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// The slot at this place.
    pub(super) fn at(&mut self, at: usize) -> Option<&mut Entry> {
        self.slots[at].as_mut()
    }

    /// Where this torrent is.
    #[inline]
    pub(super) fn find(&self, info_hash: &InfoHash, hash: u64) -> Option<usize> {
        let from = home(hash, self.capacity());
        let (before, after) = self.slots.split_at(from);
        for (slot, at) in after.iter().zip(from..).chain(before.iter().zip(0..)) {
            match slot {
                Some(entry) if entry.info_hash == *info_hash => return Some(at),
                Some(_) => {}
                None => return None,
            }
        }
        None
    }

    pub(super) fn get(&self, info_hash: &InfoHash, hash: u64) -> Option<&Entry> {
        self.slots[self.find(info_hash, hash)?].as_ref()
    }

    /// Adds a torrent that is not there, without peers. Returns its place.
    pub(super) fn insert(
        &mut self,
        info_hash: InfoHash,
        hash: u64,
        now: Stamp,
        key: Key,
        budget: &Budget,
    ) -> Result<usize, Full> {
        if self.len == len_max(self.capacity()) {
            let capacity = capacity_for(self.len + 1);
            budget.take(capacity * SLOT_LEN)?;
            self.move_to(capacity, key, budget);
        }
        let entry = Entry {
            info_hash,
            downloaded: 0,
            swarm: Swarm::Few(Few::empty(now)),
        };
        self.len += 1;
        Ok(self.place(entry, hash))
    }

    fn place(&mut self, entry: Entry, hash: u64) -> usize {
        let mut at = home(hash, self.capacity());
        while self.slots[at].is_some() {
            at = self.next(at);
        }
        self.slots[at] = Some(entry);
        at
    }

    fn move_to(&mut self, capacity: usize, key: Key, budget: &Budget) {
        let slots = std::iter::repeat_with(|| None).take(capacity).collect();
        let old = std::mem::replace(&mut self.slots, slots);
        let old_len = old.len() * SLOT_LEN;
        for entry in old.into_iter().flatten() {
            let hash = key.hash_1_3(&entry.info_hash.0);
            self.place(entry, hash);
        }
        budget.give(old_len);
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        if at + 1 == self.capacity() { 0 } else { at + 1 }
    }

    /// Takes the torrent at this place out: its swarm has given its memory back. What was found behind it because its own
    /// slots were taken moves back, into this slot as well: whoever goes through the map looks at it again.
    pub(super) fn remove(&mut self, removed: usize, key: Key) {
        let capacity = self.capacity();
        let distance = |from: usize, to: usize| if to >= from { to - from } else { to + capacity - from };
        let (mut hole, mut at) = (removed, self.next(removed));
        self.slots[removed] = None;
        while at != removed
            && let Some(entry) = &self.slots[at]
        {
            let home = home(key.hash_1_3(&entry.info_hash.0), capacity);
            if distance(home, at) >= distance(hole, at) {
                self.slots[hole] = self.slots[at].take();
                hole = at;
            }
            at = self.next(at);
        }
        self.len -= 1;
    }

    /// Gives memory back when less than half of the slots are in use.
    pub(super) fn shrink(&mut self, key: Key, budget: &Budget) {
        let target = capacity_for(self.len + self.len / 8);
        if self.len < self.capacity() / 2 && target < self.capacity() {
            budget.take_anyway(target * SLOT_LEN);
            self.move_to(target, key, budget);
        }
    }

    /// The torrents in up to `count` slots from `from` on and round, with their places.
    pub(super) fn sample(&self, from: usize, count: usize) -> impl Iterator<Item = (usize, &Entry)> {
        let (before, after) = self.slots.split_at(from);
        let turned = after.iter().zip(from..).chain(before.iter().zip(0..));
        turned
            .take(count)
            .filter_map(|(slot, at)| slot.as_ref().map(|entry| (at, entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key(3, 5);

    fn info_hash(n: u32) -> InfoHash {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        InfoHash(bytes)
    }

    fn find(map: &Map, n: u32) -> Option<usize> {
        map.find(&info_hash(n), KEY.hash_1_3(&info_hash(n).0))
    }

    #[test]
    fn torrents_are_found_until_they_are_removed() {
        let budget = Budget::new(usize::MAX / 2);
        let mut map = Map::default();
        for n in 0..3000 {
            assert_eq!(find(&map, n), None);
            let hash = KEY.hash_1_3(&info_hash(n).0);
            let at = map.insert(info_hash(n), hash, Stamp(0), KEY, &budget).expect("room");
            assert_eq!(find(&map, n), Some(at));
            map.at(at).expect("an entry").downloaded = n;
            assert_eq!(budget.used(), map.capacity() * SLOT_LEN);
        }
        for n in (0..3000).filter(|n| n % 3 != 0) {
            let at = find(&map, n).expect("a torrent");
            map.remove(at, KEY);
            map.shrink(KEY, &budget);
        }
        assert_eq!(map.len(), 1000);
        assert!(map.capacity() <= 2 * 1000 + 1);
        for n in 0..3000 {
            let downloaded = find(&map, n).map(|at| map.at(at).expect("an entry").downloaded);
            assert_eq!(downloaded, (n % 3 == 0).then_some(n), "{n}");
        }
    }

    #[test]
    fn a_map_that_may_not_grow_says_so_and_keeps_what_it_has() {
        let budget = Budget::new(10 * SLOT_LEN);
        let mut map = Map::default();
        let mut kept = Vec::new();
        for n in 0..100 {
            let hash = KEY.hash_1_3(&info_hash(n).0);
            if map.insert(info_hash(n), hash, Stamp(0), KEY, &budget).is_ok() {
                kept.push(n);
            }
        }
        assert!((2..10).contains(&kept.len()) && map.len() == kept.len());
        assert!(kept.iter().all(|n| find(&map, *n).is_some()));
    }
}
