//! Updates put together: for each torrent what has become of each peer in the end.

use std::collections::BTreeMap;
use std::time::Instant;

use super::member::{member, read_member};
use super::outbox::{Update, What};
use crate::proto::InfoHash;
use crate::tracker::address::Address;
use crate::tracker::store::LIFETIME_UNITS;

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
    /// When it left, if it did so here: by that its age is found out when it is told.
    left_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// It is in the swarm, and was heard of so many units ago.
    Joined {
        is_seeder: bool,
        is_completion: bool,
        age: u8,
    },
    /// It left so many units ago.
    Left { age: u8 },
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
        /// How long ago it left, likewise.
        age: u8,
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
            What::Left => To::Left { age: 0 },
        };
        let change = Change {
            name: update.name,
            to,
            left_at: (update.what == What::Left).then_some(update.at),
        };
        self.peers += usize::from(swarm.peers.insert(update.address, change).is_none());
    }

    /// Adds a peer that has been known for some time.
    pub(super) fn add_known(&mut self, info_hash: InfoHash, address: Address, name: Option<&[u8]>, to: To) {
        let change = Change {
            name: name.map(Box::from),
            to,
            left_at: None,
        };
        let swarm = self.swarms.entry(info_hash).or_default();
        self.peers += usize::from(swarm.peers.insert(address, change).is_none());
    }

    /// Drops those of whom `news` says something: it was taken after this was.
    pub fn leave_out(&mut self, news: &Self) {
        for (info_hash, swarm) in &mut self.swarms {
            if let Some(told) = news.swarms.get(info_hash) {
                let before = swarm.peers.len();
                swarm.peers.retain(|address, _| !told.peers.contains_key(address));
                self.peers -= before - swarm.peers.len();
            }
        }
    }

    /// Whether it says that the peer has left that a member of a torrent's set stands for.
    #[must_use]
    pub fn has_left(&self, info_hash: &InfoHash, member: &[u8]) -> bool {
        let swarm = self.swarms.get(info_hash).filter(|swarm| !swarm.peers.is_empty());
        let change = swarm.and_then(|swarm| swarm.peers.get(&read_member(member)?.0));
        change.is_some_and(Change::is_left)
    }

    /// Says how long ago those have left that have, at the moment `now`. Who left longer ago than anybody is remembered is
    /// dropped.
    pub(super) fn set_ages(&mut self, now: Instant, unit_ms: u64) {
        self.retain(|change| {
            if let (To::Left { age }, Some(at)) = (&mut change.to, change.left_at) {
                let ms = now.saturating_duration_since(at).as_millis();
                *age = u8::try_from(ms / u128::from(unit_ms)).unwrap_or(u8::MAX);
                return *age <= LIFETIME_UNITS;
            }
            true
        });
    }

    /// Drops peers, and torrents of which nothing is said then.
    fn retain(&mut self, mut is_kept: impl FnMut(&mut Change) -> bool) {
        self.swarms.retain(|_, swarm| {
            swarm.peers.retain(|_, change| is_kept(change));
            !swarm.peers.is_empty() || swarm.completions > 0 || swarm.downloaded > 0
        });
        self.peers = self.swarms.values().map(|swarm| swarm.peers.len()).sum();
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
        for swarm in self.swarms.values_mut() {
            swarm.downloaded = 0;
            if are_completions_told {
                swarm.completions = 0;
            }
        }
        self.retain(|change| change.is_left());
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
                To::Left { age } => Peer::Left {
                    members: match name {
                        Some(_) => vec![member(address, None), member(address, name)],
                        None => vec![member(address, None)],
                    },
                    age,
                },
            }
        })
    }
}

impl Change {
    fn is_left(&self) -> bool {
        matches!(self.to, To::Left { .. })
    }

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
