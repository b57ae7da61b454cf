//! Updates put together: for each torrent what has become of each peer in the end.

use std::collections::BTreeMap;

use super::member::member;
use super::outbox::{Update, What};
use crate::proto::InfoHash;
use crate::tracker::address::Address;

/// Changes by torrent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub(super) swarms: BTreeMap<InfoHash, Shared>,
    peers: usize,
}

/// Changes of a torrent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shared {
    pub(super) peers: BTreeMap<Address, Change>,
    /// How many have completed it since.
    pub completions: u32,
    /// How many have completed it in all, as far as it was found out; 0 if it was not.
    pub downloaded: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) name: Option<Box<[u8]>>,
    pub(super) to: To,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// It is in the swarm, and was heard of so many units ago.
    Joined {
        is_seeder: bool,
        is_completion: bool,
        age: u8,
    },
    Left,
}

/// A peer of a batch, by the members that it has in a sorted set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// It is in the swarm.
    Joined {
        /// What stands for it.
        member: Vec<u8>,
        /// Whether it has everything.
        is_seeder: bool,
        /// How long ago it was heard of: see [`crate::tracker::Tracker::time_of_age`].
        age: u8,
    },
    /// It is not.
    Left {
        /// What may stand for it.
        members: Vec<Vec<u8>>,
    },
}

impl Batch {
    /// Adds an update. Of a peer the last one counts, of completions each.
    pub fn add(&mut self, update: Update) {
        let swarm = self.swarms.entry(update.info_hash).or_default();
        let was_completion = swarm.peers.get(&update.address).is_some_and(Change::is_completion);
        let to = match update.what {
            What::Joined {
                is_seeder,
                is_completion,
            } => {
                swarm.completions = swarm.completions.saturating_add(u32::from(is_completion));
                To::Joined {
                    is_seeder,
                    // Who announces twice within a batch has completed the torrent all the same.
                    is_completion: is_completion || was_completion,
                    age: 0,
                }
            }
            What::Left => To::Left,
        };
        let change = Change { name: update.name, to };
        self.peers += usize::from(swarm.peers.insert(update.address, change).is_none());
    }

    /// Adds a peer that has been known for some time.
    pub(super) fn add_known(&mut self, info_hash: InfoHash, address: Address, name: Option<&[u8]>, to: To) {
        let name = name.map(Box::from);
        let swarm = self.swarms.entry(info_hash).or_default();
        self.peers += usize::from(swarm.peers.insert(address, Change { name, to }).is_none());
    }

    /// Says how many have completed a torrent in all.
    pub fn set_downloaded(&mut self, info_hash: InfoHash, downloaded: u32) {
        self.swarms.entry(info_hash).or_default().downloaded = downloaded;
    }

    /// How many peers it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers
    }

    /// How much it is to keep: its peers and its torrents.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.peers + self.swarms.len()
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.swarms.is_empty()
    }

    /// Its torrents.
    pub fn swarms(&self) -> impl Iterator<Item = (&InfoHash, &Shared)> {
        self.swarms.iter()
    }

    /// Drops what will be told once more in any case: who is in a swarm. Left are those that have gone, and completions, but
    /// for those that may have been counted already.
    pub fn keep_what_is_told_once(&mut self, are_completions_told: bool) {
        self.swarms.retain(|_, swarm| {
            swarm.peers.retain(|_, change| change.to == To::Left);
            swarm.downloaded = 0;
            if are_completions_told {
                swarm.completions = 0;
            }
            !swarm.peers.is_empty() || swarm.completions > 0
        });
        self.peers = self.swarms.values().map(|swarm| swarm.peers.len()).sum();
    }
}

impl Shared {
    /// Its peers.
    pub fn peers(&self) -> impl Iterator<Item = Peer> {
        self.peers.iter().map(|(address, change)| {
            let name = change.name.as_deref();
            match change.to {
                To::Joined { is_seeder, age, .. } => Peer::Joined {
                    member: member(address, name),
                    is_seeder,
                    age,
                },
                To::Left => Peer::Left {
                    members: match name {
                        Some(_) => vec![member(address, None), member(address, name)],
                        None => vec![member(address, None)],
                    },
                },
            }
        })
    }
}

impl Change {
    pub(super) fn is_completion(&self) -> bool {
        matches!(
            self.to,
            To::Joined {
                is_completion: true,
                ..
            }
        )
    }
}
