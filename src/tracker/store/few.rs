//! Swarms of up to three IPv4 peers, which most are: kept inside the map's entry, without an allocation.

use super::stamp::Stamp;

/// How many peers there is room for.
pub(super) const FEW: usize = 3;

/// Up to three peers: slots as in a table, and for each whether it is a seeder. One without peers remembers since when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Few {
    slots: [[u8; 7]; FEW],
    /// Bits 0 and 1: how many. Bits 2 to 4: who of them is a seeder.
    state: u8,
}

impl Few {
    /// A swarm without peers since this moment.
    pub(super) const fn empty(since: Stamp) -> Self {
        let mut few = Self {
            slots: [[0; 7]; FEW],
            state: 0,
        };
        few.slots[0][6] = since.0;
        few
    }

    /// Since when it has no peers; meaningless when it has some.
    pub(super) const fn empty_since(&self) -> u8 {
        self.slots[0][6]
    }

    pub(super) const fn len(&self) -> usize {
        (self.state & 3) as usize
    }

    pub(super) const fn seeders(&self) -> usize {
        (self.state >> 2).count_ones() as usize
    }

    pub(super) const fn is_seeder(&self, at: usize) -> bool {
        self.state & (4 << at) != 0
    }

    pub(super) const fn set_seeder(&mut self, at: usize, seeder: bool) {
        self.state = self.state & !(4 << at) | (seeder as u8) << (2 + at);
    }

    pub(super) fn find(&self, address: &[u8; 6]) -> Option<usize> {
        self.slots[..self.len()].iter().position(|slot| slot[..6] == *address)
    }

    /// When the peer at this place was heard of, if there is one.
    pub(super) fn stamp(&self, at: usize) -> Option<u8> {
        self.slots[..self.len()].get(at).map(|slot| slot[6])
    }

    pub(super) const fn touch(&mut self, at: usize, stamp: Stamp) {
        self.slots[at][6] = stamp.0;
    }

    /// Adds a peer that is not there, if there is room.
    pub(super) fn push(&mut self, address: &[u8; 6], seeder: bool, stamp: Stamp) -> bool {
        let at = self.len();
        if at == FEW {
            return false;
        }
        self.slots[at][..6].copy_from_slice(address);
        self.slots[at][6] = stamp.0;
        self.state += 1;
        self.set_seeder(at, seeder);
        true
    }

    /// Takes one out; the last takes its place. If none is left, that is since `now`.
    pub(super) const fn remove(&mut self, at: usize, now: Stamp) {
        let last = self.len() - 1;
        self.slots[at] = self.slots[last];
        self.set_seeder(at, self.is_seeder(last));
        self.set_seeder(last, false);
        self.state -= 1;
        if self.state == 0 {
            *self = Self::empty(now);
        }
    }

    /// Each peer: its address, whether it is a seeder, when it was heard of.
    pub(super) fn peers(&self) -> impl DoubleEndedIterator<Item = (&[u8; 6], bool, u8)> + Clone {
        let peers = self.slots[..self.len()].iter().enumerate();
        peers.map(|(at, slot)| {
            let address = slot.first_chunk().expect("a slot begins with an address");
            (address, self.is_seeder(at), slot[6])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(few: &Few) -> Vec<(u8, bool, u8)> {
        few.peers()
            .map(|(address, seeder, stamp)| (address[0], seeder, stamp))
            .collect()
    }

    #[test]
    fn three_peers_fit_and_a_fourth_does_not() {
        let mut few = Few::empty(Stamp(9));
        assert_eq!((few.len(), few.empty_since()), (0, 9));
        for (n, seeder) in [(1, true), (2, false), (3, true)] {
            assert!(few.push(&[n; 6], seeder, Stamp(n + 10)));
        }
        assert!(!few.push(&[4; 6], true, Stamp(1)));
        assert_eq!(held(&few), [(1, true, 11), (2, false, 12), (3, true, 13)]);
        assert_eq!((few.len(), few.seeders()), (3, 2));
        assert_eq!((few.find(&[3; 6]), few.find(&[4; 6])), (Some(2), None));
    }

    #[test]
    fn who_is_removed_takes_its_seeding_along() {
        let mut few = Few::default();
        few.push(&[1; 6], true, Stamp(1));
        few.push(&[2; 6], false, Stamp(2));
        few.push(&[3; 6], true, Stamp(3));
        few.remove(0, Stamp(50));
        assert_eq!(held(&few), [(3, true, 3), (2, false, 2)]);
        few.set_seeder(1, true);
        few.remove(0, Stamp(50));
        assert_eq!(held(&few), [(2, true, 2)]);
        few.remove(0, Stamp(51));
        assert_eq!((few.len(), few.seeders(), few.empty_since()), (0, 0, 51));
    }
}
