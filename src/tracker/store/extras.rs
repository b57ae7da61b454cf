//! What is kept of the few peers that are more than an address: a host name, or a peer id for replies that tell it.
//!
//! A swarm that has none of them has no such table. A peer for which there is no memory left is kept by its address alone.

use std::collections::BTreeMap;

use super::budget::Budget;
use crate::tracker::address::Address;
use crate::tracker::hostname::HOSTNAME_LEN_MAX;

/// What is known of a peer beside its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tracker) struct Extra {
    /// What it calls itself, for replies with peer ids.
    pub(in crate::tracker) peer_id: Option<[u8; 20]>,
    /// The host name it may be reached by.
    pub(in crate::tracker) name: Option<Box<[u8]>>,
}

/// The extras of a swarm.
#[derive(Debug, Default)]
pub(super) struct Extras {
    of: BTreeMap<Address, Extra>,
    /// Who goes by a name and port: [`name_key`]. There is one for each.
    names: BTreeMap<Box<[u8]>, Address>,
}

/// What an entry takes in both maps, beside its name: their nodes are on average two thirds full.
const EXTRA_LEN: usize =
    (size_of::<(Address, Extra)>() + size_of::<(Box<[u8]>, Address)>()) * 3 / 2 + 2 * size_of::<usize>();

impl Extras {
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// How many peers have a name.
    pub(super) fn named(&self) -> usize {
        self.names.len()
    }

    pub(super) fn get(&self, address: &Address) -> Option<&Extra> {
        self.of.get(address)
    }

    /// Who goes by this name, at the port of this address.
    pub(super) fn holder(&self, name: &[u8], address: &Address) -> Option<&Address> {
        let mut buffer = [0; HOSTNAME_LEN_MAX + 2];
        self.names.get(name_key(name, address, &mut buffer))
    }

    /// Notes what a peer said of itself; what it said before is forgotten. If another address went by the same name and
    /// port until now, it is that address that is returned: the peer has moved.
    pub(super) fn set(
        &mut self,
        address: Address,
        name: Option<&[u8]>,
        peer_id: Option<&[u8; 20]>,
        budget: &Budget,
    ) -> Option<Address> {
        if let Some(known) = self.of.get(&address)
            && known.name.as_deref() == name
            && known.peer_id.as_ref() == peer_id
        {
            return None;
        }
        self.remove(&address, budget);
        if name.is_none() && peer_id.is_none() || budget.take(len(name)).is_err() {
            return None;
        }
        let extra = Extra {
            peer_id: peer_id.copied(),
            name: name.map(Box::from),
        };
        self.of.insert(address, extra);
        let mut buffer = [0; HOSTNAME_LEN_MAX + 2];
        self.names
            .insert(Box::from(name_key(name?, &address, &mut buffer)), address)
    }

    /// Forgets a peer.
    pub(super) fn remove(&mut self, address: &Address, budget: &Budget) {
        let Some(extra) = self.of.remove(address) else {
            return;
        };
        budget.give(len(extra.name.as_deref()));
        if let Some(name) = extra.name {
            let mut buffer = [0; HOSTNAME_LEN_MAX + 2];
            let key = name_key(&name, address, &mut buffer);
            // Unless somebody else goes by it by now.
            if self.names.get(key) == Some(address) {
                self.names.remove(key);
            }
        }
    }

    /// Forgets everybody.
    pub(super) fn clear(&mut self, budget: &Budget) {
        let len: usize = self.of.values().map(|extra| len(extra.name.as_deref())).sum();
        budget.give(len);
        *self = Self::default();
    }
}

fn len(name: Option<&[u8]>) -> usize {
    EXTRA_LEN + 2 * name.map_or(0, <[u8]>::len)
}

/// A name in lower case, and the port.
fn name_key<'a>(name: &[u8], address: &Address, buffer: &'a mut [u8; HOSTNAME_LEN_MAX + 2]) -> &'a [u8] {
    let port = address
        .bytes()
        .last_chunk::<2>()
        .expect("an address ends with the port");
    let len = name.len().min(HOSTNAME_LEN_MAX);
    buffer[..len].copy_from_slice(&name[..len]);
    buffer[..len].make_ascii_lowercase();
    buffer[len..len + 2].copy_from_slice(port);
    &buffer[..len + 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Address = Address::V4([10, 0, 0, 1, 1, 1]);
    const B: Address = Address::V4([10, 0, 0, 2, 1, 1]);
    const OTHER_PORT: Address = Address::V4([10, 0, 0, 2, 1, 2]);

    #[test]
    fn a_name_that_comes_from_another_address_has_moved() {
        let (mut extras, budget) = (Extras::default(), Budget::new(10_000));
        assert_eq!(extras.set(A, Some(b"client1"), None, &budget), None);
        assert_eq!(extras.set(A, Some(b"client1"), None, &budget), None);
        assert_eq!(extras.set(OTHER_PORT, Some(b"client1"), None, &budget), None);
        assert_eq!(extras.set(B, Some(b"Client1"), None, &budget), Some(A));
        extras.remove(&A, &budget);
        assert_eq!(extras.named(), 2);
        assert_eq!(
            extras.get(&B).and_then(|extra| extra.name.as_deref()),
            Some(&b"Client1"[..])
        );
    }

    #[test]
    fn what_is_said_last_counts() {
        let (mut extras, budget) = (Extras::default(), Budget::new(10_000));
        extras.set(A, Some(b"client1"), Some(&[7; 20]), &budget);
        extras.set(A, None, Some(&[8; 20]), &budget);
        let expected = Extra {
            peer_id: Some([8; 20]),
            name: None,
        };
        assert_eq!((extras.get(&A), extras.named()), (Some(&expected), 0));
        extras.set(A, None, None, &budget);
        assert!(extras.is_empty() && budget.used() == 0);
    }

    #[test]
    fn without_memory_a_peer_stays_without_a_name() {
        let (mut extras, budget) = (Extras::default(), Budget::new(100));
        assert_eq!(extras.set(A, Some(b"client1"), None, &budget), None);
        assert!(extras.is_empty() && budget.used() == 0);
    }

    #[test]
    fn the_memory_of_all_is_given_back() {
        let (mut extras, budget) = (Extras::default(), Budget::new(10_000));
        extras.set(A, Some(b"client1"), None, &budget);
        extras.set(B, None, Some(&[1; 20]), &budget);
        assert!(budget.used() > 2 * EXTRA_LEN);
        extras.clear(&budget);
        assert_eq!(budget.used(), 0);
    }
}
