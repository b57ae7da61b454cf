//! Who is in which swarm: the tracker's memory.
//!
//! Swarms lie in stripes by a keyed hash of their info-hash, each behind a mutex of its own: an announce is served on the
//! thread it arrives at, and two rarely want the same stripe. A stripe is a [`map`] of torrents; a swarm of up to three IPv4
//! peers lies in the map itself ([`few`]), a larger one in tables ([`table`]) which are at the same time the lists that
//! replies are cut from. Who has not been heard of for two intervals is forgotten by a sweep in slices ([`sweep`]). Memory
//! is bounded ([`budget`]): a part of it is for torrents and their first peers, a part for small swarms, the rest for those
//! that have more. When its part is taken, a torrent or peer takes the place of a swarm that seems to be made up
//! ([`claim`]); where none is found, it is refused.
//!
//! A torrent that nobody has completed is forgotten with its last peer. One with completions is kept for two intervals
//! longer, so that the count does not vanish while a seeder restarts; then its count is forgotten as well.
//!
//! Where swarms are shared with other trackers, [`share`] is how what those say gets in and what is known here gets out.
//!
//! Deliberately not here: protocols, host names' rules, whom the tracker is for, clocks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

mod budget;
mod claim;
mod extras;
mod few;
mod many;
mod map;
mod share;
mod slots;
mod stamp;
mod swarm;
mod sweep;
mod table;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use super::address::Address;
use super::random::Random;
use super::siphash::Key;
use crate::proto::InfoHash;
use budget::{Budget, Budgets};
use claim::{Claim, FLEETING_MAX, Host, SMALL_MAX};
use many::{Context, Noted};
use map::Map;
use swarm::{Asker, Tally};
use sweep::Sweeper;
use table::AddressKey;

pub(super) use budget::Full;
pub(super) use extras::Extra;
pub(super) use many::Place;
pub(super) use stamp::{Clock, LIFETIME_UNITS, Stamp};
pub(super) use swarm::{Families, Joining, Sink};

/// How many stripes: many times the cores, so that two threads rarely meet, and so that moving a stripe's map into a longer
/// one is short with millions of torrents.
const STRIPES: usize = 1024;
/// How many torrents are looked at for one that can make way for another.
const VICTIM_SAMPLE: usize = 16;
/// In how many slots at most: of those that have tables there may be few among many that have none.
const VICTIM_SLOTS: usize = 128;
/// How many torrents make way for one peer at most.
const VICTIMS_MAX: usize = 4;

/// All swarms.
pub(super) struct Store {
    stripes: Box<[Stripe]>,
    hash_key: Key,
    address_key: AddressKey,
    budgets: Budgets,
    clock: Clock,
    sweeper: Mutex<Sweeper>,
    swept: AtomicU64,
    evicted: AtomicU64,
    /// Whether other trackers have a part in the swarms.
    is_shared: bool,
}

/// A stripe, alone on its cache line.
#[repr(align(64))]
#[derive(Default)]
struct Stripe(Mutex<Shelf>);

/// What is in a stripe.
#[derive(Default)]
struct Shelf {
    map: Map,
    tally: Tally,
}

/// What an announce asks for beside noting the peer.
pub(super) struct Wish {
    /// How many peers at most.
    pub(super) want: usize,
    pub(super) families: Families,
    /// The peer has just completed the torrent.
    pub(super) completed: bool,
    /// Another tracker says so, of a peer that it heard of so many units ago. Nobody is told of others then: `want` is 0.
    pub(super) learnt: Option<u8>,
}

/// What an announce was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) counts: SwarmCounts,
    /// What the peer is taken for now.
    pub(super) is_seeder: bool,
    /// It was counted as one more completion.
    pub(super) is_completion: bool,
    /// The swarm is shared and has not been asked for elsewhere.
    pub(super) is_first: bool,
}

/// What a peer that has left leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) counts: SwarmCounts,
    /// The name it went by, if swarms are shared.
    pub(super) name: Option<Box<[u8]>>,
}

/// The counts of a swarm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SwarmCounts {
    pub(super) complete: usize,
    pub(super) incomplete: usize,
    pub(super) downloaded: u32,
}

/// What is in the store: the figures of [`super::Totals`] that are its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StoreTotals {
    pub(super) swarms: usize,
    pub(super) peers4: usize,
    pub(super) peers6: usize,
    pub(super) seeders: usize,
    pub(super) named: usize,
    pub(super) bytes: usize,
    pub(super) swept: u64,
    pub(super) evicted: u64,
}

impl Store {
    /// An empty store. `secret` is for its hashes; `memory_max` in bytes.
    pub(super) fn new(secret: [u8; 32], lifetime: Duration, memory_max: usize, now: Instant) -> Self {
        let (keys, _) = secret.as_chunks::<16>();
        let (hash_key, address_key) = (Key::from_bytes(keys[0]), Key::from_bytes(keys[1]));
        let fixed = STRIPES * size_of::<Stripe>();
        Self {
            stripes: std::iter::repeat_with(Stripe::default).take(STRIPES).collect(),
            hash_key,
            address_key: AddressKey::new(address_key.0, address_key.1),
            budgets: Budgets::new(memory_max.saturating_sub(fixed)),
            clock: Clock::new(now, lifetime),
            sweeper: Mutex::new(Sweeper::new(now)),
            swept: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            is_shared: false,
        }
    }

    /// The stamp of a moment.
    #[inline]
    pub(super) fn stamp(&self, now: Instant) -> Stamp {
        self.clock.stamp(now)
    }

    /// The low bits say which stripe; where in its map, the high ones.
    #[inline]
    fn shelf(&self, hash: u64) -> MutexGuard<'_, Shelf> {
        lock(&self.stripes[hash as usize % STRIPES].0)
    }

    /// What a swarm of so many peers may take.
    fn context(&self, peers: usize, now: Stamp) -> Context<'_> {
        Context {
            key: self.address_key,
            budget: if peers <= FLEETING_MAX {
                &self.budgets.first
            } else if peers <= SMALL_MAX {
                &self.budgets.small
            } else {
                &self.budgets.all
            },
            extras: &self.budgets.first,
            now,
        }
    }

    /// Notes a peer and tells the sink others of its swarm.
    pub(super) fn announce<S: Sink>(
        &self,
        info_hash: &InfoHash,
        peer: &Joining<'_>,
        wish: &Wish,
        now: Stamp,
        random: &mut Random,
        sink: &mut S,
    ) -> Result<Announced, Full> {
        let hash = self.hash_key.hash_1_3(&info_hash.0);
        let mut shelf = self.shelf(hash);
        let Shelf { map, tally } = &mut *shelf;
        let mut at = match map.find(info_hash, hash) {
            Some(at) => at,
            None => self.add(map, tally, (info_hash, hash), Host::of(&peer.address), random, now)?,
        };
        let entry = map.at(at).expect("a torrent that was found or added");
        let before = entry.swarm.tally();
        let context = self.context(before.peers(), now);
        let mut noted = entry.swarm.note(peer, context);
        if noted.is_err() {
            (at, noted) = self.note_instead(map, tally, (info_hash, hash), peer, random, context);
        }
        let entry = map.at(at).expect("a torrent that does not make way for itself");
        let after = entry.swarm.tally();
        tally.replace(&before, &after);
        let noted = match noted {
            Ok(noted) => noted,
            Err(full) => {
                if after.peers() == 0 && entry.downloads.count() == 0 {
                    map.remove(at, self.hash_key);
                }
                return Err(full);
            }
        };
        // A completion that is told twice, as datagrams are, is one.
        let is_completion = wish.completed && noted.was != Some(true);
        if is_completion {
            entry.downloads.add_one();
        }
        let is_first = self.is_shared && wish.learnt.is_none() && !entry.downloads.set_asked_for(true);
        if wish.want > 0 {
            let asker = Asker {
                address: peer.address,
                is_seeder: noted.is,
                want: wish.want,
                families: wish.families,
            };
            entry.swarm.pick(&asker, now, random, sink);
        } else if let Some(age @ 1..) = wish.learnt {
            entry.swarm.backdate(&peer.address, now.before(age), self.address_key);
        }
        Ok(Announced {
            counts: SwarmCounts {
                complete: after.seeders(),
                incomplete: after.leechers(),
                downloaded: entry.downloads.count(),
            },
            is_seeder: noted.is,
            is_completion,
            is_first,
        })
    }

    /// Adds a torrent; if there is no memory for one more, in the place of another.
    #[cold]
    fn add(
        &self,
        map: &mut Map,
        tally: &mut Tally,
        (info_hash, hash): (&InfoHash, u64),
        asker: Host,
        random: &mut Random,
        now: Stamp,
    ) -> Result<usize, Full> {
        let insert = |map: &mut Map| map.insert(*info_hash, hash, now, self.hash_key, &self.budgets.torrents);
        insert(map).or_else(|full| {
            let sample = map.sample(map.somewhere(random), VICTIM_SLOTS).take(VICTIM_SAMPLE);
            let claims = sample.filter_map(|(at, entry)| Some((entry.swarm.claim(asker, now)?, at)));
            let at = weakest(claims).ok_or(full)?;
            self.evict(map, tally, at, now);
            insert(map)
        })
    }

    /// Notes a peer for whose swarm there was no memory, in the place of torrents that have tables. Says where its torrent
    /// is by then.
    #[cold]
    fn note_instead(
        &self,
        map: &mut Map,
        tally: &mut Tally,
        (info_hash, hash): (&InfoHash, u64),
        peer: &Joining<'_>,
        random: &mut Random,
        context: Context<'_>,
    ) -> (usize, Result<Noted, Full>) {
        let mut noted = Err(Full);
        let asker = Host::of(&peer.address);
        let now = context.now;
        let swarm = map.get(info_hash, hash).map(|entry| &entry.swarm);
        // A swarm that is beyond doubt itself is worth more than a small one.
        let least = match swarm.and_then(|swarm| swarm.claim(asker, now)) {
            None => Claim::Small,
            Some(_) => Claim::Fleeting(0),
        };
        let instead: Budget = context.budget.as_full_as_now();
        let context = Context {
            budget: &instead,
            ..context
        };
        for _ in 0..VICTIMS_MAX {
            let with_tables = map
                .sample(map.somewhere(random), VICTIM_SLOTS)
                .filter(|(_, entry)| entry.swarm.has_tables() && entry.info_hash != *info_hash)
                .take(VICTIM_SAMPLE);
            let claims = with_tables.filter_map(|(at, entry)| Some((entry.swarm.claim(asker, now)?, at)));
            let Some(victim) = weakest(claims.filter(|(claim, _)| *claim >= least)) else {
                break;
            };
            self.evict(map, tally, victim, context.now);
            let at = map.find(info_hash, hash).expect("a torrent that did not make way");
            noted = map.at(at).expect("a torrent that was found").swarm.note(peer, context);
            if noted.is_ok() {
                break;
            }
        }
        let at = map.find(info_hash, hash).expect("a torrent that did not make way");
        (at, noted)
    }

    /// Drops a torrent that makes way for others.
    fn evict(&self, map: &mut Map, tally: &mut Tally, at: usize, now: Stamp) {
        let entry = map.at(at).expect("a torrent that was looked at");
        let before = entry.swarm.tally();
        entry.swarm.release(self.context(before.peers(), now));
        tally.replace(&before, &Tally::default());
        map.remove(at, self.hash_key);
        self.evicted.fetch_add(1, Relaxed);
    }

    /// Takes a peer out of its swarm.
    pub(super) fn leave(&self, info_hash: &InfoHash, address: &Address, now: Stamp) -> Left {
        let hash = self.hash_key.hash_1_3(&info_hash.0);
        let mut shelf = self.shelf(hash);
        let Shelf { map, tally } = &mut *shelf;
        let Some(at) = map.find(info_hash, hash) else {
            return Left {
                counts: SwarmCounts::default(),
                name: None,
            };
        };
        let entry = map.at(at).expect("a torrent that was found");
        let name = if self.is_shared {
            entry.swarm.name_of(address).map(Box::from)
        } else {
            None
        };
        let before = entry.swarm.tally();
        entry.swarm.remove(address, self.context(before.peers(), now));
        let after = entry.swarm.tally();
        tally.replace(&before, &after);
        let counts = SwarmCounts {
            complete: after.seeders(),
            incomplete: after.leechers(),
            downloaded: entry.downloads.count(),
        };
        if after.peers() == 0 && entry.downloads.count() == 0 {
            map.remove(at, self.hash_key);
            map.shrink(self.hash_key, &self.budgets.all);
        }
        Left { counts, name }
    }

    /// The counts of a swarm; zeros if nobody is in it.
    pub(super) fn scrape(&self, info_hash: &InfoHash) -> SwarmCounts {
        let hash = self.hash_key.hash_1_3(&info_hash.0);
        let shelf = self.shelf(hash);
        shelf
            .map
            .get(info_hash, hash)
            .map_or_else(SwarmCounts::default, |entry| {
                let counts = entry.swarm.counts();
                SwarmCounts {
                    complete: counts.seeders as usize,
                    incomplete: counts.leechers as usize,
                    downloaded: entry.downloads.count(),
                }
            })
    }

    /// What is in the store. It looks into every stripe, not into swarms: some 20 us.
    pub(super) fn totals(&self) -> StoreTotals {
        let mut totals = StoreTotals {
            bytes: self.budgets.all.used() + STRIPES * size_of::<Stripe>(),
            swept: self.swept.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            ..StoreTotals::default()
        };
        for stripe in &self.stripes {
            let shelf = lock(&stripe.0);
            totals.swarms += shelf.map.len();
            totals.peers4 += shelf.tally.leechers4 + shelf.tally.seeders4;
            totals.peers6 += shelf.tally.leechers6 + shelf.tally.seeders6;
            totals.seeders += shelf.tally.seeders();
            totals.named += shelf.tally.named;
        }
        totals
    }
}

/// Where the one is that makes way: the first that has no peers or is the asker's own, or the weakest of all.
fn weakest(claims: impl Iterator<Item = (Claim, usize)>) -> Option<usize> {
    let mut weakest = None;
    for (claim, at) in claims {
        if claim >= Claim::Own(0) {
            return Some(at);
        }
        weakest = weakest.max(Some((claim, at)));
    }
    weakest.map(|(_, at)| at)
}

/// A mutex of this room guards no invariant that a panic elsewhere could have broken half way: release builds abort.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
