//! Swarms of more peers than fit an entry of the map, with IPv6 peers, or with peers that are more than an address.
//!
//! Seeders and leechers are in tables of their own: their counts are the tables' lengths, and a seeder's reply is as cheap
//! and as full as a leecher's, whatever the swarm is made of.

use super::budget::{Budget, Full};
use super::extras::Extras;
use super::few::Few;
use super::slots::PAGE_LEN;
use super::stamp::Stamp;
use super::table::{AddressKey, Table, Table4, Table6};
use crate::tracker::address::Address;

/// What everything in the store needs of it.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) key: AddressKey,
    /// For addresses.
    pub(super) budget: &'a Budget,
    /// For what peers are beside them.
    pub(super) extras: &'a Budget,
    pub(super) now: Stamp,
}

/// What a peer was before it was noted (none: not in the swarm), and what it is now: `true` is a seeder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) was: Option<bool>,
    pub(super) is: bool,
}

/// The peers of one family.
#[derive(Debug, Default)]
pub(super) struct Pair<const ADDRESS: usize, const SLOT: usize, const PER_PAGE: usize> {
    pub(super) leechers: Table<ADDRESS, SLOT, PER_PAGE>,
    pub(super) seeders: Table<ADDRESS, SLOT, PER_PAGE>,
}

pub(super) type Pair4 = Pair<6, 7, { PAGE_LEN / 7 }>;
pub(super) type Pair6 = Pair<18, 19, { PAGE_LEN / 19 }>;

/// A swarm of any size.
#[derive(Debug, Default)]
pub(super) struct Many {
    pub(super) v4: Pair4,
    pub(super) v6: Option<Box<Pair6>>,
    pub(super) extras: Option<Box<Extras>>,
}

/// Where a sweep of a swarm has come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::tracker) struct Place {
    pub(super) table: u8,
    pub(super) slot: usize,
}

const PAIR6_LEN: usize = size_of::<Pair6>();
const EXTRAS_LEN: usize = size_of::<Extras>();

impl<const ADDRESS: usize, const SLOT: usize, const PER_PAGE: usize> Pair<ADDRESS, SLOT, PER_PAGE> {
    /// Notes that a peer was heard of, as a seeder or not; without either it stays what it is, and is a leecher if it is
    /// new. If it would change sides and there is no memory for that, it stays on its side until there is.
    #[inline]
    fn note(&mut self, address: &[u8; ADDRESS], seeder: Option<bool>, context: Context<'_>) -> Result<Noted, Full> {
        let Context { key, budget, now, .. } = context;
        let hash = key.hash(address);
        let is = seeder.unwrap_or(false);
        let (side, other) = if is {
            (&mut self.seeders, &mut self.leechers)
        } else {
            (&mut self.leechers, &mut self.seeders)
        };
        if let Some(at) = side.find(address, hash) {
            side.touch(at, now);
            return Ok(Noted { was: Some(is), is });
        }
        let Some(at) = other.find(address, hash) else {
            side.insert(address, now, key, budget)?;
            return Ok(Noted { was: None, is });
        };
        let was = Some(!is);
        if seeder.is_none() || side.insert(address, now, key, budget).is_err() {
            other.touch(at, now);
            return Ok(Noted { was, is: !is });
        }
        other.remove(at, key);
        other.shrink(key, budget);
        Ok(Noted { was, is })
    }

    fn remove(&mut self, address: &[u8; ADDRESS], context: Context<'_>) -> bool {
        let hash = context.key.hash(address);
        for table in [&mut self.leechers, &mut self.seeders] {
            if let Some(at) = table.find(address, hash) {
                table.remove(at, context.key);
                table.shrink(context.key, context.budget);
                return true;
            }
        }
        false
    }

    fn len(&self) -> usize {
        self.leechers.len() + self.seeders.len()
    }

    fn clear(&mut self, budget: &Budget) {
        self.leechers.clear(budget);
        self.seeders.clear(budget);
    }

    fn shrink(&mut self, context: Context<'_>) {
        self.leechers.shrink(context.key, context.budget);
        self.seeders.shrink(context.key, context.budget);
    }
}

impl Many {
    /// The swarm that these few are, as one that has room for more.
    pub(super) fn from_few(few: &Few, context: Context<'_>) -> Result<Box<Self>, Full> {
        context.budget.take(size_of::<Self>())?;
        let mut many = Box::new(Self::default());
        for (address, seeder, stamp) in few.peers() {
            let context = Context {
                now: Stamp(stamp),
                ..context
            };
            if let Err(full) = many.v4.note(address, Some(seeder), context) {
                many.release(context.budget);
                return Err(full);
            }
        }
        Ok(many)
    }

    /// The few that it is, if it is that few and no more than addresses.
    pub(super) fn to_few(&self, len_max: usize, now: Stamp) -> Option<Few> {
        if self.v4.len() > len_max || self.v6.is_some() || self.extras.is_some() {
            return None;
        }
        let mut few = Few::empty(now);
        for (table, seeder) in [(&self.v4.leechers, false), (&self.v4.seeders, true)] {
            for (address, stamp) in table.peers() {
                assert!(few.push(address, seeder, Stamp(stamp)), "at most {len_max} peers");
            }
        }
        Some(few)
    }

    /// Notes a peer and what it says of itself. Another address that went by its name leaves.
    #[inline]
    pub(super) fn note(
        &mut self,
        address: &Address,
        seeder: Option<bool>,
        name: Option<&[u8]>,
        peer_id: Option<&[u8; 20]>,
        context: Context<'_>,
    ) -> Result<Noted, Full> {
        // A peer that has moved and says nothing else is what it was.
        let seeder = seeder.or_else(|| self.side_of_name(name?, address, context.key));
        let noted = match address {
            Address::V4(address) => self.v4.note(address, seeder, context)?,
            Address::V6(address) => {
                if self.v6.is_none() {
                    context.budget.take(PAIR6_LEN)?;
                }
                let noted = self.v6.get_or_insert_default().note(address, seeder, context);
                self.tidy(context.budget);
                noted?
            }
        };
        if self.extras.is_some() || name.is_some() || peer_id.is_some() {
            self.note_extra(address, name, peer_id, context);
        }
        Ok(noted)
    }

    /// Whether the peer that goes by a name at another address is a seeder.
    fn side_of_name(&self, name: &[u8], address: &Address, key: AddressKey) -> Option<bool> {
        let other = self.extras.as_ref()?.holder(name, address)?;
        if other == address {
            return None;
        }
        let hash = key.hash(other.bytes());
        Some(match other {
            Address::V4(other) => self.v4.seeders.find(other, hash).is_some(),
            Address::V6(other) => self.v6.as_ref()?.seeders.find(other, hash).is_some(),
        })
    }

    fn note_extra(&mut self, address: &Address, name: Option<&[u8]>, peer_id: Option<&[u8; 20]>, context: Context<'_>) {
        if self.extras.is_none() && context.extras.take(EXTRAS_LEN).is_err() {
            return;
        }
        let extras = self.extras.get_or_insert_default();
        let moved_from = extras.set(*address, name, peer_id, context.extras);
        match moved_from {
            Some(old) => {
                self.remove(&old, context);
            }
            None => self.tidy(context.budget),
        }
    }

    /// Takes a peer out. Whether it was there.
    pub(super) fn remove(&mut self, address: &Address, context: Context<'_>) -> bool {
        let found = match address {
            Address::V4(address) => self.v4.remove(address, context),
            Address::V6(address) => self.v6.as_mut().is_some_and(|v6| v6.remove(address, context)),
        };
        if let Some(extras) = &mut self.extras {
            extras.remove(address, context.budget);
        }
        self.tidy(context.budget);
        found
    }

    /// Gives back what is there for nobody.
    fn tidy(&mut self, budget: &Budget) {
        if let Some(v6) = &mut self.v6
            && v6.len() == 0
        {
            v6.clear(budget);
            self.v6 = None;
            budget.give(PAIR6_LEN);
        }
        if let Some(extras) = &mut self.extras
            && extras.is_empty()
        {
            self.extras = None;
            budget.give(EXTRAS_LEN);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.as_ref().map_or(0, |v6| v6.len())
    }

    /// Everybody, with when they were heard of.
    pub(super) fn peers(&self) -> impl Iterator<Item = (Address, u8)> {
        let v4 = [&self.v4.leechers, &self.v4.seeders].into_iter();
        let v4 = v4.flat_map(|table| table.peers().map(|(address, stamp)| (Address::V4(*address), stamp)));
        let v6 = self.v6.iter().flat_map(|v6| [&v6.leechers, &v6.seeders]);
        v4.chain(v6.flat_map(|table| table.peers().map(|(address, stamp)| (Address::V6(*address), stamp))))
    }

    /// Gives all memory back, its own as well: it is dropped next.
    pub(super) fn release(&mut self, budget: &Budget) {
        self.v4.clear(budget);
        if let Some(v6) = &mut self.v6 {
            v6.clear(budget);
        }
        if let Some(extras) = &mut self.extras {
            extras.clear(budget);
        }
        self.tidy(budget);
        budget.give(size_of::<Self>());
    }

    /// Forgets who has outlived its time, from `place` on, for as long as `slots_left` lasts. Returns where to go on, or
    /// nothing when it is through.
    pub(super) fn sweep(&mut self, mut place: Place, slots_left: &mut usize, context: Context<'_>) -> Option<Place> {
        let Self { v4, v6, extras, .. } = self;
        let extras = &mut extras.as_deref_mut();
        loop {
            let more = match (place.table, v6.as_deref_mut()) {
                (0, _) => sweep_table4(&mut v4.leechers, extras, &mut place, slots_left, context),
                (1, _) => sweep_table4(&mut v4.seeders, extras, &mut place, slots_left, context),
                (2, Some(v6)) => sweep_table6(&mut v6.leechers, extras, &mut place, slots_left, context),
                (3, Some(v6)) => sweep_table6(&mut v6.seeders, extras, &mut place, slots_left, context),
                _ => break,
            };
            if more {
                return Some(place);
            }
            place = Place {
                table: place.table + 1,
                slot: 0,
            };
        }
        // Not before it is through: the places of a table that shrinks change.
        v4.shrink(context);
        if let Some(v6) = v6 {
            v6.shrink(context);
        }
        self.tidy(context.budget);
        None
    }
}

/// Sweeps a table as far as it may. Whether there is more of it.
fn sweep_table<const ADDRESS: usize, const SLOT: usize, const PER_PAGE: usize>(
    table: &mut Table<ADDRESS, SLOT, PER_PAGE>,
    place: &mut Place,
    slots_left: &mut usize,
    context: Context<'_>,
    forgotten: impl FnMut(&[u8; ADDRESS]),
) -> bool {
    let before = place.slot;
    let len_before = table.len();
    place.slot = table.sweep(before, *slots_left, context.now, context.key, forgotten);
    let looked_at = place.slot.saturating_sub(before) + (len_before - table.len());
    *slots_left = slots_left.saturating_sub(looked_at);
    place.slot < table.capacity()
}

fn sweep_table4(
    table: &mut Table4,
    extras: &mut Option<&mut Extras>,
    place: &mut Place,
    slots_left: &mut usize,
    context: Context<'_>,
) -> bool {
    sweep_table(table, place, slots_left, context, |address| {
        if let Some(extras) = extras {
            extras.remove(&Address::V4(*address), context.budget);
        }
    })
}

fn sweep_table6(
    table: &mut Table6,
    extras: &mut Option<&mut Extras>,
    place: &mut Place,
    slots_left: &mut usize,
    context: Context<'_>,
) -> bool {
    sweep_table(table, place, slots_left, context, |address| {
        if let Some(extras) = extras {
            extras.remove(&Address::V6(*address), context.budget);
        }
    })
}
