//! The torrents of one stripe: info-hashes and their swarms in one open-addressed array, kept fuller than a map of the
//! standard library would be and grown in small steps instead of being doubled.

use super::budget::{Budget, Full};
use super::few::Few;
use super::slots::{self, PAGE_LEN, Slot, Slots};
use super::stamp::Stamp;
use super::swarm::Swarm;
use super::table::home;
use crate::proto::InfoHash;
use crate::tracker::random::Random;
use crate::tracker::siphash::Key;

/// A torrent.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) info_hash: InfoHash,
    pub(super) downloads: Downloads,
    pub(super) swarm: Swarm,
}

/// How many peers have completed a torrent, as far as is remembered, and whether it has been asked for elsewhere: a bit of
/// the same word, since an entry has no other to spare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Downloads(u32);

/// The bit that says that a torrent has been asked for.
const ASKED_FOR: u32 = 1 << 31;

impl Downloads {
    #[inline]
    pub(super) const fn count(self) -> u32 {
        self.0 & !ASKED_FOR
    }

    /// Counts one more, up to 2^31 - 1.
    pub(super) const fn add_one(&mut self) {
        if self.count() < !ASKED_FOR {
            self.0 += 1;
        }
    }

    /// Counts so many, unless there are more.
    pub(super) fn raise(&mut self, count: u32) {
        let count = count.min(!ASKED_FOR).max(self.count());
        self.0 = self.0 & ASKED_FOR | count;
    }

    /// Notes whether it has been asked for. Says whether it was before.
    #[inline]
    pub(super) const fn set_asked_for(&mut self, is: bool) -> bool {
        let was = self.0 & ASKED_FOR != 0;
        self.0 = if is { self.0 | ASKED_FOR } else { self.0 & !ASKED_FOR };
        was
    }
}

/// Three peers, a hash and a count: what most torrents take.
const SLOT_LEN: usize = size_of::<Option<Entry>>();
const _: () = assert!(SLOT_LEN == 48);
const PER_PAGE: usize = PAGE_LEN / SLOT_LEN;

impl Slot for Option<Entry> {
    const EMPTY: Self = None;

    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

/// A map of so many slots may be full to the last.
const SMALL: usize = 8;
/// Beyond that four of five may be in use: 3 are looked at to find a torrent, 13 to find that there is none.
const LOAD: (usize, usize) = (4, 5);
/// How many slots are tried for one that is not empty. Of a map that is full, all are once in 400,000 times.
const TRIES: usize = 8;

/// Info-hashes to swarms.
#[derive(Debug, Default)]
pub(super) struct Map(Slots<Option<Entry>, PER_PAGE>);

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
    let mut capacity = slots::capacity_for::<Option<Entry>, PER_PAGE>(needed);
    while len_max(capacity) < len {
        capacity = slots::capacity_for::<Option<Entry>, PER_PAGE>(capacity + 1); // The load is less beyond `SMALL`.
    }
    capacity
}

impl Map {
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// The slot at this place.
    pub(super) fn at(&mut self, at: usize) -> Option<&mut Entry> {
        self.0.get_mut(at).as_mut()
    }

    /// Where this torrent is.
    #[inline]
    pub(super) fn find(&self, info_hash: &InfoHash, hash: u64) -> Option<usize> {
        for (begin, stretch) in self.0.stretches(home(hash, self.capacity())) {
            for (slot, at) in stretch.iter().zip(begin..) {
                match slot {
                    Some(entry) if entry.info_hash == *info_hash => return Some(at),
                    Some(_) => {}
                    None => return None,
                }
            }
        }
        None
    }

    pub(super) fn get(&self, info_hash: &InfoHash, hash: u64) -> Option<&Entry> {
        self.0.get(self.find(info_hash, hash)?).as_ref()
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
        if self.len() == len_max(self.capacity()) {
            let capacity = capacity_for(self.len() + 1);
            budget.take(slots::heap_len::<Option<Entry>, PER_PAGE>(capacity))?;
            self.move_to(capacity, key, budget);
        }
        let entry = Entry {
            info_hash,
            downloads: Downloads::default(),
            swarm: Swarm::Few(Few::empty(now)),
        };
        Ok(self.0.place(Some(entry), home(hash, self.capacity())))
    }

    /// Where a slot's torrent belongs.
    fn home_of(key: Key) -> impl Fn(&Option<Entry>, usize) -> usize {
        move |slot, capacity| {
            let entry = slot.as_ref().expect("an empty slot belongs nowhere");
            home(key.hash_1_3(&entry.info_hash.0), capacity)
        }
    }

    fn move_to(&mut self, capacity: usize, key: Key, budget: &Budget) {
        let old_len = self.0.heap_len();
        self.0.move_to(capacity, Self::home_of(key));
        budget.give(old_len);
    }

    /// Takes the torrent at this place out: its swarm has given its memory back. Another may move into the slot: whoever
    /// goes through the map looks at it again.
    pub(super) fn remove(&mut self, removed: usize, key: Key) {
        self.0.remove(removed, Self::home_of(key));
    }

    /// Gives memory back when less than half of the slots are in use.
    pub(super) fn shrink(&mut self, key: Key, budget: &Budget) {
        let target = capacity_for(self.len() + self.len() / 8);
        if 2 * self.len() < self.capacity() && target < self.capacity() {
            budget.take_anyway(slots::heap_len::<Option<Entry>, PER_PAGE>(target));
            self.move_to(target, key, budget);
        }
    }

    /// A random place to look from, where there is a torrent. From any slot, those behind gaps would be met more often than
    /// others: as they are taken out the gaps grow, until there are parts of the map where nothing is met at all.
    pub(super) fn somewhere(&self, random: &mut Random) -> usize {
        let mut at = 0;
        if self.len() > 0 {
            for _ in 0..TRIES {
                at = random.below(self.capacity());
                if self.0.get(at).is_some() {
                    break;
                }
            }
        }
        at
    }

    /// The torrents in up to `count` slots from `from` on and round, with their places.
    pub(super) fn sample(&self, from: usize, count: usize) -> impl Iterator<Item = (usize, &Entry)> {
        let slots = self.0.stretches(from);
        let slots = slots
            .flat_map(|(begin, stretch)| stretch.iter().zip(begin..))
            .take(count);
        slots.filter_map(|(slot, at)| slot.as_ref().map(|entry| (at, entry)))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_count_and_whether_a_torrent_was_asked_for_do_not_touch_each_other() {
        let mut downloads = super::Downloads::default();
        assert!(!downloads.set_asked_for(true) && downloads.set_asked_for(true));
        downloads.add_one();
        downloads.raise(7);
        downloads.raise(3);
        assert_eq!(downloads.count(), 7);
        assert!(downloads.set_asked_for(false) && !downloads.set_asked_for(true));
        downloads.raise(u32::MAX);
        downloads.add_one();
        assert_eq!(downloads.count(), (1 << 31) - 1);
        assert!(downloads.set_asked_for(true));
    }

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
            map.at(at).expect("an entry").downloads.raise(n);
            assert_eq!(budget.used(), map.0.heap_len());
        }
        for n in (0..3000).filter(|n| n % 3 != 0) {
            let at = find(&map, n).expect("a torrent");
            map.remove(at, KEY);
            map.shrink(KEY, &budget);
        }
        assert_eq!(map.len(), 1000);
        assert!(map.capacity() <= 2 * 1000 + 1);
        for n in 0..3000 {
            let downloaded = find(&map, n).map(|at| map.at(at).expect("an entry").downloads.count());
            assert_eq!(downloaded, (n % 3 == 0).then_some(n), "{n}");
        }
    }

    #[test]
    fn torrents_that_make_way_leave_no_part_of_the_map_empty() {
        let mut random = Random::new(5);
        let budget = Budget::new(2000 * SLOT_LEN);
        let mut map = Map::default();
        for n in 0..400_000 {
            let hash = KEY.hash_1_3(&info_hash(n).0);
            if map.insert(info_hash(n), hash, Stamp(0), KEY, &budget).is_err() {
                let from = map.somewhere(&mut random);
                let (victim, _) = map.sample(from, map.capacity()).next().expect("a torrent");
                map.remove(victim, KEY);
                map.insert(info_hash(n), hash, Stamp(0), KEY, &budget)
                    .expect("room for one");
            }
        }
        let (mut gap, mut longest) = (0, 0);
        for at in 0..map.capacity() {
            gap = if map.at(at).is_none() { gap + 1 } else { 0 };
            longest = longest.max(gap);
        }
        assert!(
            map.capacity() > 800 && longest < 32,
            "{longest} of {} slots",
            map.capacity()
        );
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
