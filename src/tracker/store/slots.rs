//! The array under the store's hash tables: in one piece while it is short, in pages of 1 KiB beyond that.
//!
//! Tables that grow by a sixteenth go through every length there is. As allocations of their own they would leave holes of
//! every length behind, and several times the memory of the peers (measured: 31 bytes a peer of 10 in use); pages are all
//! alike, so what one table gives back the next one takes. And a table that moves into a longer array gives its old pages
//! back one by one while it takes the new ones: it never needs both at once.

use std::mem::size_of;

use super::budget::good_len;

/// Arrays up to this length, in bytes, are in one piece.
const FLAT_LEN_MAX: usize = 4096;
/// What a page takes.
pub(super) const PAGE_LEN: usize = 1024;

/// What is in an array.
pub(super) trait Slot: Sized {
    /// A slot that nothing is in.
    const EMPTY: Self;

    fn is_empty(&self) -> bool;
}

/// An array of slots, and how many are in use. `PER_PAGE` of them fit a page.
///
/// The count stands in either variant, beside the tag, and not beside the enum: so that this is three words and a search
/// begins without a detour.
#[derive(Debug)]
pub(super) enum Slots<T, const PER_PAGE: usize> {
    Flat {
        slots: Box<[T]>,
        len: u32,
    },
    Paged {
        pages: Box<[Option<Box<[T; PER_PAGE]>>]>,
        len: u32,
    },
}

/// What is needed of a length beyond its memory.
pub(super) const fn heap_len<T, const PER_PAGE: usize>(capacity: usize) -> usize {
    if capacity * size_of::<T>() <= FLAT_LEN_MAX {
        capacity * size_of::<T>()
    } else {
        capacity / PER_PAGE * (PAGE_LEN + size_of::<usize>())
    }
}

/// The length to give an array that so many slots are needed of.
pub(super) const fn capacity_for<T, const PER_PAGE: usize>(needed: usize) -> usize {
    const { assert!(PER_PAGE * size_of::<T>() <= PAGE_LEN && FLAT_LEN_MAX.is_multiple_of(PAGE_LEN)) };
    if needed * size_of::<T>() <= FLAT_LEN_MAX {
        return good_len(needed * size_of::<T>()) / size_of::<T>();
    }
    // In steps of a thirty-second to a sixteenth, where that is a page at least.
    let pages = needed.div_ceil(PER_PAGE);
    let step = 1 << pages.ilog2().saturating_sub(4);
    pages.next_multiple_of(step) * PER_PAGE
}

impl<T, const PER_PAGE: usize> Default for Slots<T, PER_PAGE> {
    fn default() -> Self {
        Self::Flat {
            slots: Box::default(),
            len: 0,
        }
    }
}

impl<T: Slot, const PER_PAGE: usize> Slots<T, PER_PAGE> {
    /// An array of empty slots. Its pages are not there until they are written to: see [`Slots::fill`].
    fn new(capacity: usize) -> Self {
        if capacity * size_of::<T>() <= FLAT_LEN_MAX {
            Self::Flat {
                slots: std::iter::repeat_with(|| T::EMPTY).take(capacity).collect(),
                len: 0,
            }
        } else {
            Self::Paged {
                pages: std::iter::repeat_with(|| None).take(capacity / PER_PAGE).collect(),
                len: 0,
            }
        }
    }

    /// How many slots are in use.
    #[inline]
    pub(super) const fn len(&self) -> usize {
        match self {
            Self::Flat { len, .. } | Self::Paged { len, .. } => *len as usize,
        }
    }

    const fn len_mut(&mut self) -> &mut u32 {
        match self {
            Self::Flat { len, .. } | Self::Paged { len, .. } => len,
        }
    }

    #[inline]
    pub(super) fn capacity(&self) -> usize {
        match self {
            Self::Flat { slots, .. } => slots.len(),
            Self::Paged { pages, .. } => pages.len() * PER_PAGE,
        }
    }

    pub(super) fn heap_len(&self) -> usize {
        heap_len::<T, PER_PAGE>(self.capacity())
    }

    #[inline]
    pub(super) fn get(&self, at: usize) -> &T {
        match self {
            Self::Flat { slots, .. } => &slots[at],
            Self::Paged { pages, .. } => {
                let page = pages[at / PER_PAGE].as_deref();
                &page.expect("every page is there")[at % PER_PAGE]
            }
        }
    }

    /// A slot to write to. A page that is not there is made.
    #[inline]
    pub(super) fn get_mut(&mut self, at: usize) -> &mut T {
        match self {
            Self::Flat { slots, .. } => &mut slots[at],
            Self::Paged { pages, .. } => {
                let page = pages[at / PER_PAGE].get_or_insert_with(Self::page);
                &mut page[at % PER_PAGE]
            }
        }
    }

    #[cold]
    fn page() -> Box<[T; PER_PAGE]> {
        Box::new([const { T::EMPTY }; PER_PAGE])
    }

    /// The slot behind this one; behind the last comes the first.
    #[inline]
    pub(super) fn next(&self, at: usize) -> usize {
        if at + 1 == self.capacity() { 0 } else { at + 1 }
    }

    /// All slots from one on and round, in stretches with the place each begins at.
    #[inline]
    pub(super) fn stretches(&self, from: usize) -> impl Iterator<Item = (usize, &[T])> {
        let (count, offset) = match self {
            Self::Flat { slots, .. } => (usize::from(!slots.is_empty()), from),
            Self::Paged { pages, .. } => (pages.len(), from % PER_PAGE),
        };
        let first = from / PER_PAGE;
        let page = move |number: usize| -> (usize, &[T]) {
            match self {
                Self::Flat { slots, .. } => (0, slots),
                Self::Paged { pages, .. } => {
                    let page = pages[number].as_deref().expect("every page is there");
                    (number * PER_PAGE, page)
                }
            }
        };
        // The first page's end, the other pages, the first page's beginning.
        (0..=count).filter(move |_| count > 0).map(move |turn| {
            let number = first + turn;
            let (begin, slots) = page(if number < count {
                number
            } else {
                number - count.min(number)
            });
            match turn {
                0 => (begin + offset, &slots[offset..]),
                _ if turn == count => (begin, &slots[..offset]),
                _ => (begin, slots),
            }
        })
    }

    /// Moves what is in the slots into an array of another length: `home` says where each belongs, and grows with the order
    /// in which it stands here, but for what has gone round the end.
    pub(super) fn move_to(&mut self, capacity: usize, home: impl Fn(&T, usize) -> usize) {
        let mut moved = Self::new(capacity);
        let mut place = |slot: T| {
            if !slot.is_empty() {
                let home = home(&slot, capacity);
                moved.place(slot, home);
            }
        };
        match std::mem::take(self) {
            Self::Flat { slots, .. } => slots.into_iter().for_each(place),
            // Each page is given back before the next is begun.
            Self::Paged { pages, .. } => pages
                .into_iter()
                .flatten()
                .for_each(|page| page.into_iter().for_each(&mut place)),
        }
        moved.fill();
        *self = moved;
    }

    /// Puts something into the first empty slot from its home on, and returns where that is.
    pub(super) fn place(&mut self, slot: T, home: usize) -> usize {
        let mut at = home;
        while !self.get_mut(at).is_empty() {
            at = self.next(at);
        }
        *self.get_mut(at) = slot;
        *self.len_mut() += 1;
        at
    }

    /// Makes the pages that nothing was written to.
    fn fill(&mut self) {
        if let Self::Paged { pages, .. } = self {
            for page in pages.iter_mut().filter(|page| page.is_none()) {
                *page = Some(Self::page());
            }
        }
    }

    /// Empties a slot, and moves back what is not where it belongs because this slot was taken: into this slot, and then
    /// into those that become empty by that. `home` says where each belongs.
    pub(super) fn remove(&mut self, removed: usize, home: impl Fn(&T, usize) -> usize) -> T {
        let capacity = self.capacity();
        let distance = |from: usize, to: usize| if to >= from { to - from } else { to + capacity - from };
        let taken = std::mem::replace(self.get_mut(removed), T::EMPTY);
        *self.len_mut() -= 1;
        let (mut hole, mut at) = (removed, self.next(removed));
        while at != removed && !self.get(at).is_empty() {
            if distance(home(self.get(at), capacity), at) >= distance(hole, at) {
                *self.get_mut(hole) = std::mem::replace(self.get_mut(at), T::EMPTY);
                hole = at;
            }
            at = self.next(at);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Slot for u64 {
        const EMPTY: Self = 0;

        fn is_empty(&self) -> bool {
            *self == 0
        }
    }

    type Numbers = Slots<u64, 128>;

    #[test]
    fn every_slot_is_met_once_from_wherever_one_begins() {
        for capacity in [1, 2, 100, 512, 640, 1280] {
            let mut slots = Numbers::default();
            slots.move_to(capacity, |_, _| 0);
            assert_eq!(slots.capacity(), capacity);
            for at in 0..capacity {
                *slots.get_mut(at) = at as u64 + 1;
            }
            for from in 0..capacity {
                let met: Vec<u64> = slots
                    .stretches(from)
                    .flat_map(|(begin, stretch)| {
                        stretch.iter().zip(begin..).map(|(slot, at)| {
                            assert_eq!(*slot, at as u64 + 1);
                            *slot
                        })
                    })
                    .collect();
                let expected = (from..capacity).chain(0..from).map(|at| at as u64 + 1);
                assert!(met.into_iter().eq(expected), "{capacity} from {from}");
            }
        }
        assert_eq!(Numbers::default().stretches(0).count(), 0);
    }

    #[test]
    fn long_arrays_have_pages_and_grow_by_a_sixteenth_or_a_page() {
        assert!(matches!(Numbers::new(512), Slots::Flat { .. }));
        assert!(matches!(Numbers::new(640), Slots::Paged { .. }));
        let mut capacity = 512;
        for _ in 0..100 {
            let next = capacity_for::<u64, 128>(capacity + 1);
            assert!(next > capacity && next.is_multiple_of(128), "{capacity} to {next}");
            assert!(next <= capacity + (capacity / 16).max(128), "{capacity} to {next}");
            capacity = next;
        }
        assert_eq!(heap_len::<u64, 128>(512), 4096);
        assert_eq!(heap_len::<u64, 128>(640), 5 * 1032);
    }

    #[test]
    fn what_is_moved_is_all_there() {
        let mut slots = Numbers::default();
        slots.move_to(4000 / 128 * 128, |_, _| 0);
        let home = |slot: &u64, capacity: usize| (*slot as usize * capacity) >> 13;
        for number in (1..8192).step_by(3) {
            let home = home(&number, slots.capacity());
            slots.place(number, home);
        }
        for capacity in [4096, 5120, 8192, 3072] {
            slots.move_to(capacity, home);
            assert_eq!(slots.len(), 2731);
            let mut held: Vec<u64> = slots.stretches(0).flat_map(|(_, stretch)| stretch.to_vec()).collect();
            held.retain(|slot| *slot != 0);
            held.sort_unstable();
            assert!(held.into_iter().eq((1..8192).step_by(3)), "{capacity}");
        }
    }
}
