//! A slab whose slots have generations: an answer to someone who has left finds nobody.
//!
//! Values are boxed, so that the slab, which doubles when it is full, wastes a few bytes for each of ten thousand
//! connections and not hundreds.

use slab::Slab;

use crate::io::Owner;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Box<T>,
}

/// The slab. [`Owner`] is its key, since that is what a driver carries.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Slab<Slot<T>>,
    generation: u32,
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Slots {
            slots: Slab::new(),
            generation: 0,
        }
    }

    pub(super) fn insert(&mut self, value: T) -> Owner {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let value = Box::new(value);
        let index = self.slots.insert(Slot { generation, value });
        Owner {
            index: u32::try_from(index).expect("fewer than 2^32 slots"),
            generation,
        }
    }

    pub(super) fn get(&self, owner: Owner) -> Option<&T> {
        let slot = self.slots.get(owner.index as usize)?;
        (slot.generation == owner.generation).then_some(&slot.value)
    }

    pub(super) fn get_mut(&mut self, owner: Owner) -> Option<&mut T> {
        let slot = self.slots.get_mut(owner.index as usize)?;
        (slot.generation == owner.generation).then_some(&mut slot.value)
    }

    pub(super) fn remove(&mut self, owner: Owner) -> Option<T> {
        self.get(owner)?;
        Some(*self.slots.remove(owner.index as usize).value)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Owner, &T)> {
        self.slots.iter().map(|(index, slot)| {
            let owner = Owner {
                index: index as u32,
                generation: slot.generation,
            };
            (owner, &*slot.value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_who_left_does_not_find_his_successor() {
        let mut slots = Slots::new();
        let old = slots.insert('a');
        assert_eq!(slots.remove(old), Some('a'));
        let new = slots.insert('b');
        assert_eq!(old.index, new.index);
        assert_eq!(slots.get(old), None);
        assert_eq!(slots.remove(old), None);
        assert_eq!(slots.get(new), Some(&'b'));
    }
}
