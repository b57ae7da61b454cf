//! The peers of one kind in one swarm: an array of slots that is a hash table and a list at once.
//!
//! A slot is the peer's address as it stands in a reply (IP, then port, both big-endian) and the stamp of when it was last
//! heard of. A port of 0 marks an empty slot: no peer has it. Collisions go to the next slot, a removal moves what follows
//! back, and the array is kept so full that a reply is a run of slots from anywhere. The hash is keyed: an address cannot be
//! chosen so that it collides.
//!
//! The place of a peer grows with its hash, so that a table is moved into a longer one from its beginning to its end.

use std::mem::size_of;

use super::budget::{Budget, Full};
use super::slots::{self, PAGE_LEN, Slot, Slots};
use super::stamp::Stamp;

/// IPv4 peers: 7 bytes each.
pub(super) type Table4 = Table<6, 7, { PAGE_LEN / 7 }>;
/// IPv6 peers: 19 bytes each.
pub(super) type Table6 = Table<18, 19, { PAGE_LEN / 19 }>;

/// Tables of so many slots may be full to the last: 7 slots are looked at on average to find a peer, all of them to find
/// that there is none.
const SMALL: usize = 128;
/// Beyond that, 15 of 16 slots may be in use: 8 are looked at on average to find a peer, which is its cache line and perhaps
/// the next, and 128 to find that there is none, which happens once in a peer's life.
const LOAD: (usize, usize) = (15, 16);

/// Peers whose addresses have `ADDRESS` bytes, in slots of `SLOT`, which is one more, `PER_PAGE` of which fit a page.
#[derive(Debug, Default)]
pub(super) struct Table<const ADDRESS: usize, const SLOT: usize, const PER_PAGE: usize>(Slots<[u8; SLOT], PER_PAGE>);

/// A table is three words: a swarm has two at least.
const _: () = assert!(size_of::<Table4>() == 24);

impl<const SLOT: usize> Slot for [u8; SLOT] {
    const EMPTY: Self = [0; SLOT];

    /// Behind the port there is the stamp.
    #[inline]
    fn is_empty(&self) -> bool {
        self[SLOT - 3] == 0 && self[SLOT - 2] == 0
    }
}

/// Two words that addresses are hashed with.
#[derive(Debug, Clone, Copy)]
pub(super) struct AddressKey(u64, u64);

impl AddressKey {
    pub(super) const fn new(a: u64, b: u64) -> Self {
        Self(a, b | 1) // A multiplier of 0 would hash everything to 0.
    }

    /// The hash of an address. Multiplying to 128 bits and folding them is what is cheap and not to be foreseen without
    /// the key; it vouches for nothing else.
    #[inline]
    pub(super) fn hash(self, address: &[u8]) -> u64 {
        let (words, tail) = address.as_chunks::<8>();
        let mut hash = self.0;
        for word in words {
            hash = fold(hash ^ u64::from_le_bytes(*word), self.1);
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        fold(hash ^ u64::from_le_bytes(last), self.1)
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// The slot that a hash belongs to, of so many. It grows with the hash.
#[inline]
pub(super) fn home(hash: u64, capacity: usize) -> usize {
    (((hash >> 32) * capacity as u64) >> 32) as usize
}

/// How many peers may be in so many slots.
const fn len_max(capacity: usize) -> usize {
    if capacity <= SMALL {
        capacity
    } else {
        capacity / LOAD.1 * LOAD.0 + capacity % LOAD.1 * LOAD.0 / LOAD.1
    }
}

impl<const ADDRESS: usize, const SLOT: usize, const PER_PAGE: usize> Table<ADDRESS, SLOT, PER_PAGE> {
    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// How many slots a table for so many peers has.
    fn capacity_for(len: usize) -> usize {
        const { assert!(ADDRESS + 1 == SLOT) };
        let needed = if len <= SMALL {
            len
        } else {
            (len * LOAD.1).div_ceil(LOAD.0)
        };
        let mut capacity = slots::capacity_for::<[u8; SLOT], PER_PAGE>(needed);
        while len_max(capacity) < len {
            capacity = slots::capacity_for::<[u8; SLOT], PER_PAGE>(capacity + 1); // The load is less beyond `SMALL`.
        }
        capacity
    }

    /// Where this peer is.
    #[inline]
    pub(super) fn find(&self, address: &[u8; ADDRESS], hash: u64) -> Option<usize> {
        for (begin, stretch) in self.0.stretches(home(hash, self.capacity())) {
            for (slot, at) in stretch.iter().zip(begin..) {
                if slot[..ADDRESS] == *address {
                    return Some(at);
                }
                if slot.is_empty() {
                    return None;
                }
            }
        }
        None
    }

    /// Notes that the peer in this slot was heard of.
    #[inline]
    pub(super) fn touch(&mut self, at: usize, stamp: Stamp) {
        self.0.get_mut(at)[ADDRESS] = stamp.0;
    }

    /// When the peer in this slot was heard of.
    pub(super) fn stamp(&self, at: usize) -> Stamp {
        Stamp(self.0.get(at)[ADDRESS])
    }

    /// The peer in this slot, if there is one, and when it was heard of.
    pub(super) fn at(&self, at: usize) -> Option<(&[u8; ADDRESS], Stamp)> {
        let slot = self.0.get(at);
        (!slot.is_empty()).then(|| {
            let address = slot.first_chunk().expect("a slot begins with an address");
            (address, Stamp(slot[ADDRESS]))
        })
    }

    /// Adds a peer that is not there.
    pub(super) fn insert(
        &mut self,
        address: &[u8; ADDRESS],
        stamp: Stamp,
        key: AddressKey,
        budget: &Budget,
    ) -> Result<(), Full> {
        debug_assert!(address[ADDRESS - 2..] != [0, 0], "port 0 marks an empty slot");
        if self.len() == len_max(self.capacity()) {
            let capacity = Self::capacity_for(self.len() + 1);
            budget.take(slots::heap_len::<[u8; SLOT], PER_PAGE>(capacity))?;
            self.move_to(capacity, key, budget);
        }
        let mut slot = [stamp.0; SLOT];
        slot[..ADDRESS].copy_from_slice(address);
        self.0.place(slot, home(key.hash(address), self.capacity()));
        Ok(())
    }

    /// Where a slot's peer belongs.
    #[inline]
    fn home_of(key: AddressKey) -> impl Fn(&[u8; SLOT], usize) -> usize {
        move |slot, capacity| {
            let address: &[u8; ADDRESS] = slot.first_chunk().expect("a slot begins with an address");
            home(key.hash(address), capacity)
        }
    }

    /// Moves everybody into an array of another length, which the budget has been asked for.
    fn move_to(&mut self, capacity: usize, key: AddressKey, budget: &Budget) {
        let old_len = self.0.heap_len();
        self.0.move_to(capacity, Self::home_of(key));
        budget.give(old_len);
    }

    /// Takes the peer in this slot out. Another may move into the slot: whoever goes through the table looks at it again.
    pub(super) fn remove(&mut self, removed: usize, key: AddressKey) {
        self.0.remove(removed, Self::home_of(key));
    }

    /// Gives memory back when less than half of the slots are in use.
    pub(super) fn shrink(&mut self, key: AddressKey, budget: &Budget) {
        let target = Self::capacity_for(self.len() + self.len() / 8);
        if 2 * self.len() < self.capacity() && target < self.capacity() {
            budget.take_anyway(slots::heap_len::<[u8; SLOT], PER_PAGE>(target));
            self.move_to(target, key, budget);
        }
    }

    /// Gives all memory back.
    pub(super) fn clear(&mut self, budget: &Budget) {
        budget.give(self.0.heap_len());
        *self = Self::default();
    }

    /// Everybody, with when they were heard of.
    pub(super) fn peers(&self) -> impl Iterator<Item = (&[u8; ADDRESS], u8)> {
        let slots = self.0.stretches(0).flat_map(|(_, stretch)| stretch);
        let taken = slots.filter(|slot| !slot.is_empty());
        taken.map(|slot| {
            (
                slot.first_chunk().expect("a slot begins with an address"),
                slot[ADDRESS],
            )
        })
    }

    /// Hands up to `want` peers on, from the slot `from` on and round: those still alive and not `asker`. It looks at a
    /// bounded number of slots, so that a table in which nearly everybody is to be forgotten costs no more than another.
    #[inline]
    pub(super) fn window(
        &self,
        from: usize,
        want: usize,
        asker: &[u8; ADDRESS],
        now: Stamp,
        mut each: impl FnMut(&[u8; ADDRESS]),
    ) -> usize {
        let mut looked_at_max = want.saturating_mul(8).saturating_add(256);
        let mut left = want;
        for (_, stretch) in self.0.stretches(from) {
            let stretch = &stretch[..stretch.len().min(looked_at_max)];
            looked_at_max -= stretch.len();
            for slot in stretch {
                if left == 0 {
                    return want;
                }
                let address = slot.first_chunk().expect("a slot begins with an address");
                if slot.is_empty() || now.has_outlived(slot[ADDRESS]) || address == asker {
                    continue;
                }
                each(address);
                left -= 1;
            }
            if left == 0 || looked_at_max == 0 {
                break;
            }
        }
        want - left
    }

    /// Goes through up to `budget_slots` slots from `from` on and takes out who is to be forgotten, each of which is told.
    /// Returns how far it came; at the table's end that is its capacity.
    pub(super) fn sweep(
        &mut self,
        from: usize,
        budget_slots: usize,
        now: Stamp,
        key: AddressKey,
        mut forgotten: impl FnMut(&[u8; ADDRESS]),
    ) -> usize {
        let mut at = from;
        let mut left = budget_slots;
        while at < self.capacity() && left > 0 {
            let (_, stretch) = self.0.stretches(at).next().expect("slots behind this one");
            let stretch = &stretch[..stretch.len().min(left)];
            match stretch
                .iter()
                .position(|slot| !slot.is_empty() && now.has_outlived(slot[ADDRESS]))
            {
                Some(ahead) => {
                    at += ahead;
                    left -= ahead + 1;
                    let slot = *self.0.get(at);
                    self.remove(at, key);
                    forgotten(slot.first_chunk().expect("a slot begins with an address"));
                }
                None => {
                    at += stretch.len();
                    left -= stretch.len();
                }
            }
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const KEY: AddressKey = AddressKey::new(0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3211);

    fn address(n: u16) -> [u8; 6] {
        let [a, b] = n.to_be_bytes();
        [10, 0, a, b, 1, 2]
    }

    fn unlimited() -> Budget {
        Budget::new(usize::MAX / 2)
    }

    fn filled(count: u16, budget: &Budget) -> Table4 {
        let mut table = Table4::default();
        for n in 0..count {
            table.insert(&address(n), Stamp(7), KEY, budget).expect("room");
        }
        table
    }

    #[test]
    fn everybody_is_found_at_every_length() {
        let budget = unlimited();
        let mut table = Table4::default();
        for n in 0..2000 {
            let hash = KEY.hash(&address(n));
            assert_eq!(table.find(&address(n), hash), None);
            table.insert(&address(n), Stamp(n as u8), KEY, &budget).expect("room");
            assert!(table.find(&address(n), hash).is_some());
        }
        assert!((0..2000).all(|n| table.find(&address(n), KEY.hash(&address(n))).is_some()));
        assert_eq!(table.peers().count(), 2000);
        assert_eq!(budget.used(), table.0.heap_len());
    }

    #[test]
    fn memory_stays_near_seven_bytes_a_peer() {
        let budget = unlimited();
        let mut table = Table4::default();
        for n in 0..60_000 {
            table.insert(&address(n), Stamp(0), KEY, &budget).expect("room");
            if table.len() > 100 {
                assert!(
                    budget.used() * 10 <= table.len() * 7 * 14,
                    "{} of {}",
                    budget.used(),
                    table.len()
                );
            }
        }
    }

    #[test]
    fn a_table_that_may_not_grow_stays_as_it_is() {
        let budget = Budget::new(100);
        let mut table = Table4::default();
        let mut refused = 0;
        for n in 0..100 {
            refused += usize::from(table.insert(&address(n), Stamp(0), KEY, &budget).is_err());
        }
        assert_eq!(table.len() + refused, 100);
        assert!(refused > 80 && table.len() > 4 && budget.used() <= 100);
        assert_eq!(table.peers().count(), table.len());
    }

    #[test]
    fn a_window_has_as_many_as_are_wanted_and_never_the_asker() {
        let table = filled(300, &unlimited());
        for from in 0..table.capacity() {
            let mut seen = Vec::new();
            let got = table.window(from, 50, &address(3), Stamp(7), |peer| seen.push(*peer));
            assert_eq!((got, seen.len()), (50, 50));
            seen.sort_unstable();
            seen.dedup();
            assert!(seen.len() == 50 && !seen.contains(&address(3)));
        }
        let mut count = 0;
        assert_eq!(table.window(9, 1000, &address(3), Stamp(7), |_| count += 1), 299);
        assert_eq!(count, 299);
    }

    #[test]
    fn who_has_outlived_its_time_is_not_handed_out() {
        let mut table = filled(10, &unlimited());
        let at = table.find(&address(4), KEY.hash(&address(4))).expect("a peer");
        table.touch(at, Stamp(150));
        let mut seen = Vec::new();
        table.window(0, 50, &address(99), Stamp(220), |peer| seen.push(*peer));
        assert_eq!(seen, [address(4)]);
    }

    #[test]
    fn a_table_of_the_dead_costs_a_bounded_search() {
        // From every slot: it ends, and finds nobody.
        let table = filled(20_000, &unlimited());
        assert_eq!(
            table.window(17, 10, &address(1), Stamp(7 + 193), |_| panic!("a dead peer")),
            0
        );
    }

    #[test]
    fn a_sweep_in_slices_forgets_exactly_the_old() {
        let budget = unlimited();
        let mut table = Table4::default();
        for n in 0..1000 {
            let stamp = Stamp(if n % 3 == 0 { 0 } else { 100 });
            table.insert(&address(n), stamp, KEY, &budget).expect("room");
        }
        let (mut at, mut gone, mut slices) = (0, 0, 0);
        while at < table.capacity() {
            at = table.sweep(at, 64, Stamp(193), KEY, |_| gone += 1);
            slices += 1;
        }
        assert!(slices > 15);
        assert_eq!((gone, table.len()), (334, 666));
        for n in 0..1000 {
            let found = table.find(&address(n), KEY.hash(&address(n)));
            assert_eq!(found.is_some(), n % 3 != 0, "{n}");
        }
    }

    #[test]
    fn a_table_that_empties_gives_its_memory_back() {
        let budget = unlimited();
        let mut table = filled(5000, &budget);
        let before = budget.used();
        for n in 0..4900 {
            let at = table.find(&address(n), KEY.hash(&address(n))).expect("a peer");
            table.remove(at, KEY);
            table.shrink(KEY, &budget);
            assert!(table.len() >= table.capacity() / 2);
        }
        assert!(budget.used() < before / 30);
        table.clear(&budget);
        assert_eq!((budget.used(), table.len(), table.capacity()), (0, 0, 0));
    }

    #[test]
    fn ipv6_addresses_have_slots_of_nineteen_bytes() {
        let budget = unlimited();
        let mut table = Table6::default();
        let address = |n: u8| -> [u8; 18] { std::array::from_fn(|at| if at == 15 { n } else { at as u8 }) };
        (0..200).for_each(|n| table.insert(&address(n), Stamp(1), KEY, &budget).expect("room"));
        assert!((0..200).all(|n| table.find(&address(n), KEY.hash(&address(n))).is_some()));
        assert_eq!(table.find(&address(200), KEY.hash(&address(200))), None);
        assert!(budget.used() < 200 * 26);
    }

    proptest! {
        #[test]
        fn a_table_holds_what_a_map_holds(
            steps in prop::collection::vec((0_u16..80, any::<u8>(), 0_u8..4), 0..400),
        ) {
            let budget = unlimited();
            let mut table = Table4::default();
            let mut model = HashMap::new();
            for (n, stamp, step) in steps {
                let address = address(n);
                match (table.find(&address, KEY.hash(&address)), step) {
                    (Some(at), 0..2) => {
                        table.remove(at, KEY);
                        table.shrink(KEY, &budget);
                        model.remove(&address);
                    }
                    (Some(at), _) => {
                        table.touch(at, Stamp(stamp));
                        model.insert(address, stamp);
                    }
                    (None, _) => {
                        prop_assert!(!model.contains_key(&address));
                        table.insert(&address, Stamp(stamp), KEY, &budget).expect("room");
                        model.insert(address, stamp);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(budget.used(), table.0.heap_len());
            }
            let held: HashMap<_, _> = table.peers().map(|(address, stamp)| (*address, stamp)).collect();
            prop_assert_eq!(held, model);
        }
    }
}
