//! What a store has in common with those of other trackers: peers that they have heard of come in with their age, and all
//! that is known here can be gone through, a page at a time.
//!
//! What comes in is held to the same memory as what is announced here, and never makes a peer older than it is known to be,
//! nor a name that of a peer who had it before.

use super::many::{Many, Pair, Place};
use super::stamp::Stamp;
use super::swarm::Swarm;
use super::table::{AddressKey, Table};
use super::{Extra, Families, Full, Joining, STRIPES, Sink, Store, Wish, lock};
use crate::proto::InfoHash;
use crate::tracker::address::Address;
use crate::tracker::random::Random;

/// A peer as a page has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tracker) struct Known<'a> {
    pub(in crate::tracker) address: Address,
    pub(in crate::tracker) is_seeder: bool,
    /// How long ago it was heard of, in units of the clock.
    pub(in crate::tracker) age: u8,
    pub(in crate::tracker) name: Option<&'a [u8]>,
}

/// Nobody is told of anybody.
struct Nowhere;

impl Sink for Nowhere {
    const EXTRAS: bool = false;

    fn peer4(&mut self, _: &[u8; 6], _: Option<&Extra>) {}

    fn peer6(&mut self, _: &[u8; 18], _: Option<&Extra>) {}
}

impl Store {
    /// From now on swarms are shared with other trackers.
    pub(in crate::tracker) const fn set_shared(&mut self) {
        self.is_shared = true;
    }

    /// How long a unit of age is, in milliseconds.
    pub(in crate::tracker) const fn unit_ms(&self) -> u64 {
        self.clock.unit_ms()
    }

    /// Notes a peer that another tracker has heard of `age` units ago, or just now if that is 0. Otherwise one of whom as much
    /// is known already stays as it is, and one whose name somebody younger has by now is not noted: then, and if it is to be
    /// forgotten at once, the answer is false. Its peer id, which trackers do not tell each other, stays what was heard here.
    pub(in crate::tracker) fn learn(
        &self,
        info_hash: &InfoHash,
        peer: &Joining<'_>,
        (age, completed): (u8, bool),
        now: Stamp,
        random: &mut Random,
    ) -> Result<bool, Full> {
        if now.has_outlived(now.before(age).0) {
            return Ok(false);
        }
        let mut peer_id = None;
        let hash = self.hash_key.hash_1_3(&info_hash.0);
        if let Some(entry) = self.shelf(hash).map.get(info_hash, hash) {
            let swarm = &entry.swarm;
            if age > 0 && swarm.is_ahead_of(peer, age, now, self.address_key) {
                return Ok(false);
            }
            peer_id = swarm.extra_of(&peer.address).and_then(|extra| extra.peer_id);
        }
        let peer = &Joining {
            peer_id: peer_id.as_ref(),
            ..*peer
        };
        let wish = Wish {
            want: 0,
            families: Families::Both,
            completed,
            learnt: Some(age),
        };
        self.announce(info_hash, peer, &wish, now, random, &mut Nowhere)?;
        Ok(true)
    }

    /// Takes a peer out that has left elsewhere `age` units ago, unless it has been heard of since: ages are rounded, so that
    /// it goes if it may have been just before. Whether it is gone.
    pub(in crate::tracker) fn learn_left(&self, info_hash: &InfoHash, address: &Address, age: u8, now: Stamp) -> bool {
        let hash = self.hash_key.hash_1_3(&info_hash.0);
        let stamp = {
            let shelf = self.shelf(hash);
            let entry = shelf.map.get(info_hash, hash);
            entry.and_then(|entry| entry.swarm.stamp_of(address, self.address_key))
        };
        if stamp.is_some_and(|stamp| now.age(stamp.0).saturating_add(1) < age) {
            return false;
        }
        self.leave(info_hash, address, now);
        true
    }

    /// Counts so many completions of a torrent that is known here, unless there are more.
    pub(in crate::tracker) fn raise_downloaded(&self, info_hash: &InfoHash, count: u32) {
        let hash = self.hash_key.hash_1_3(&info_hash.0);
        let mut shelf = self.shelf(hash);
        if let Some(at) = shelf.map.find(info_hash, hash)
            && let Some(entry) = shelf.map.at(at)
        {
            entry.downloads.raise(count);
        }
    }

    /// Notes whether a torrent has been asked for elsewhere, if it is known here.
    pub(in crate::tracker) fn set_asked_for(&self, info_hash: &InfoHash, is: bool) {
        let hash = self.hash_key.hash_1_3(&info_hash.0);
        let mut shelf = self.shelf(hash);
        if let Some(at) = shelf.map.find(info_hash, hash)
            && let Some(entry) = shelf.map.at(at)
        {
            entry.downloads.set_asked_for(is);
        }
    }

    /// The torrents of the stripe of this number; nothing behind the last.
    pub(in crate::tracker) fn stripe(&self, number: usize) -> Option<Vec<InfoHash>> {
        if number >= STRIPES {
            return None;
        }
        let mut shelf = lock(&self.stripes[number].0);
        let map = &mut shelf.map;
        let slots = 0..map.capacity();
        Some(slots.filter_map(|at| map.at(at).map(|entry| entry.info_hash)).collect())
    }

    /// Goes through a part of a swarm: tells `each` the living among about `slots` slots from `place` on. Returns the count
    /// of completions, and where to go on if there is more. A table that grows or shrinks between two parts moves its peers:
    /// one may be told twice then, or not at all.
    pub(in crate::tracker) fn page(
        &self,
        info_hash: &InfoHash,
        place: Place,
        slots: usize,
        now: Stamp,
        mut each: impl FnMut(Known<'_>),
    ) -> (u32, Option<Place>) {
        let hash = self.hash_key.hash_1_3(&info_hash.0);
        let shelf = self.shelf(hash);
        let Some(entry) = shelf.map.get(info_hash, hash) else {
            return (0, None);
        };
        let mut tell = |address: Address, is_seeder: bool, stamp: Stamp, name: Option<&[u8]>| {
            if !now.has_outlived(stamp.0) {
                let age = now.age(stamp.0);
                each(Known {
                    address,
                    is_seeder,
                    age,
                    name,
                });
            }
        };
        let more = match &entry.swarm {
            Swarm::Few(few) => {
                for (address, is_seeder, stamp) in few.peers() {
                    tell(Address::V4(*address), is_seeder, Stamp(stamp), None);
                }
                None
            }
            Swarm::Many(_, many) => page_of_many(many, place, slots, &mut tell),
        };
        (entry.downloads.count(), more)
    }
}

type Tell<'t> = dyn FnMut(Address, bool, Stamp, Option<&[u8]>) + 't;

fn page_of_many(many: &Many, mut place: Place, mut slots: usize, tell: &mut Tell<'_>) -> Option<Place> {
    let name = |address: &Address| many.extras.as_deref()?.get(address)?.name.as_deref();
    loop {
        let is_seeder = place.table % 2 == 1;
        let mut tell4 = |address: &[u8; 6], stamp| {
            let address = Address::V4(*address);
            tell(address, is_seeder, stamp, name(&address));
        };
        let reached = match (place.table, many.v6.as_deref()) {
            (0, _) => page_of_table(&many.v4.leechers, place.slot, &mut slots, &mut tell4),
            (1, _) => page_of_table(&many.v4.seeders, place.slot, &mut slots, &mut tell4),
            (2..=3, Some(v6)) => {
                let table = if is_seeder { &v6.seeders } else { &v6.leechers };
                page_of_table(table, place.slot, &mut slots, &mut |address: &[u8; 18], stamp| {
                    let address = Address::V6(*address);
                    tell(address, is_seeder, stamp, name(&address));
                })
            }
            _ => return None,
        };
        place = match reached {
            Some(slot) => return Some(Place { slot, ..place }),
            None => Place {
                table: place.table + 1,
                slot: 0,
            },
        };
    }
}

/// Goes through a table as far as `slots` allows. Where to go on, if there is more of it.
fn page_of_table<const ADDRESS: usize, const SLOT: usize, const PER_PAGE: usize>(
    table: &Table<ADDRESS, SLOT, PER_PAGE>,
    from: usize,
    slots: &mut usize,
    tell: &mut impl FnMut(&[u8; ADDRESS], Stamp),
) -> Option<usize> {
    let end = table.capacity().min(from.saturating_add(*slots));
    for (address, stamp) in (from..end).filter_map(|at| table.at(at)) {
        tell(address, stamp);
    }
    *slots = slots.saturating_sub(end.saturating_sub(from));
    (end < table.capacity()).then_some(end)
}

impl Swarm {
    /// When a peer was heard of, if it is there.
    fn stamp_of(&self, address: &Address, key: AddressKey) -> Option<Stamp> {
        match (self, address) {
            (Self::Few(few), Address::V4(address)) => few.stamp(few.find(address)?).map(Stamp),
            (Self::Few(_), Address::V6(_)) => None,
            (Self::Many(_, many), Address::V4(address)) => many.v4.stamp_of(address, key),
            (Self::Many(_, many), Address::V6(address)) => many.v6.as_ref()?.stamp_of(address, key),
        }
    }

    /// Notes that a peer was heard of earlier than it was noted.
    pub(super) fn backdate(&mut self, address: &Address, then: Stamp, key: AddressKey) {
        match (self, address) {
            (Self::Few(few), Address::V4(address)) => {
                if let Some(at) = few.find(address) {
                    few.touch(at, then);
                }
            }
            (Self::Few(_), Address::V6(_)) => {}
            (Self::Many(_, many), Address::V4(address)) => many.v4.backdate(address, then, key),
            (Self::Many(_, many), Address::V6(address)) => {
                if let Some(v6) = &mut many.v6 {
                    v6.backdate(address, then, key);
                }
            }
        }
    }

    /// Whether as much is known of a peer as somebody says who has heard of it `age` units ago, or somebody younger has its
    /// name by now. Of two who are equally old the one that is told later has it: pages of a set come in the order of age.
    fn is_ahead_of(&self, peer: &Joining<'_>, age: u8, now: Stamp, key: AddressKey) -> bool {
        let known = |address| self.stamp_of(address, key).map(|stamp| now.age(stamp.0));
        let holder = match (self, peer.name) {
            (Self::Many(_, many), Some(name)) => many
                .extras
                .as_ref()
                .and_then(|extras| extras.holder(name, &peer.address)),
            (Self::Few(_), _) | (_, None) => None,
        };
        known(&peer.address).is_some_and(|known| known <= age)
            || holder.is_some_and(|holder| *holder != peer.address && known(holder).is_some_and(|known| known < age))
    }

    /// What a peer is beside its address.
    fn extra_of(&self, address: &Address) -> Option<&Extra> {
        match self {
            Self::Few(_) => None,
            Self::Many(_, many) => many.extras.as_ref()?.get(address),
        }
    }

    /// The name that a peer goes by.
    pub(super) fn name_of(&self, address: &Address) -> Option<&[u8]> {
        self.extra_of(address)?.name.as_deref()
    }
}

impl<const ADDRESS: usize, const SLOT: usize, const PER_PAGE: usize> Pair<ADDRESS, SLOT, PER_PAGE> {
    fn stamp_of(&self, address: &[u8; ADDRESS], key: AddressKey) -> Option<Stamp> {
        let hash = key.hash(address);
        let mut tables = [&self.leechers, &self.seeders].into_iter();
        tables.find_map(|table| table.find(address, hash).map(|at| table.stamp(at)))
    }

    fn backdate(&mut self, address: &[u8; ADDRESS], then: Stamp, key: AddressKey) {
        let hash = key.hash(address);
        for table in [&mut self.leechers, &mut self.seeders] {
            if let Some(at) = table.find(address, hash) {
                table.touch(at, then);
            }
        }
    }
}
