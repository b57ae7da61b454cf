//! What other trackers say, put into the swarms here: as strictly as if it had been announced here, by the lists of torrents,
//! the rule of names and the cap of memory.
//!
//! What has age 0 was just announced, and counts like an announce here. What is older is from somebody's memory, or from the
//! sets: it takes the place of nothing that is known here to be as young.

use std::time::Instant;

use super::batch::To;
use super::member::{DOWNLOADS, SCORE_LEAST, read_member, read_score};
use super::message::{BadMessage, Message, SenderId};
use crate::proto::InfoHash;
use crate::tracker::address::Address;
use crate::tracker::store::{Joining, LIFETIME_UNITS};
use crate::tracker::{Tracker, Worker};

/// What became of what was heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Learnt {
    /// Peers noted, or taken out.
    pub taken: u64,
    /// Peers of which as much or more was known, or whose time was over.
    pub known: u64,
    /// Peers of torrents that are not served here, and those for whom there is no memory.
    pub refused: u64,
    /// What cannot be a peer.
    pub bad: u64,
}

impl Learnt {
    /// Adds another's counts.
    pub const fn add(&mut self, other: Self) {
        self.taken += other.taken;
        self.known += other.known;
        self.refused += other.refused;
        self.bad += other.bad;
    }
}

impl Tracker {
    /// Takes in a message, unless it comes from `own`: then nothing is learnt.
    ///
    /// # Errors
    /// It is none.
    pub fn learn_message(
        &self,
        worker: &mut Worker,
        own: &SenderId,
        message: &[u8],
        now: Instant,
    ) -> Result<Learnt, BadMessage> {
        let message = Message::parse(message)?;
        let mut learnt = Learnt::default();
        if message.sender == *own {
            return Ok(learnt);
        }
        self.refresh_access(worker);
        let units = |age: u8| {
            let ms = u64::from(age) * u64::from(message.unit_ms);
            // What is from memory stays so where units are longer.
            u8::try_from(ms / self.store.unit_ms())
                .unwrap_or(u8::MAX)
                .max(age.min(1))
        };
        message.visit(|swarm, record| {
            let info_hash = &swarm.info_hash;
            let Some(record) = record else {
                if swarm.downloaded > 0 && worker.access.allows(info_hash) {
                    self.store.raise_downloaded(info_hash, swarm.downloaded);
                }
                return;
            };
            let Some(address) = record.address.checked() else {
                learnt.bad += 1;
                return;
            };
            match record.to {
                To::Left { age } => {
                    let has_left = self
                        .store
                        .learn_left(info_hash, &address, units(age), self.store.stamp(now));
                    learnt.taken += u64::from(has_left);
                    learnt.known += u64::from(!has_left);
                }
                To::Joined {
                    is_seeder,
                    is_completion,
                    age,
                } => {
                    let peer = (address, record.name, is_seeder);
                    self.learn(worker, info_hash, peer, (units(age), is_completion), now, &mut learnt);
                }
            }
        });
        Ok(learnt)
    }

    /// Takes in a member of a torrent's sorted set, at the moment `now_ms` of who wrote it, in milliseconds since 1970.
    pub fn learn_member(
        &self,
        worker: &mut Worker,
        info_hash: &InfoHash,
        (member, score): (&[u8], f64),
        now_ms: u64,
        now: Instant,
    ) -> Learnt {
        self.refresh_access(worker);
        let mut learnt = Learnt::default();
        if member == DOWNLOADS && (0.0..SCORE_LEAST as f64).contains(&score) {
            if worker.access.allows(info_hash) {
                self.store.raise_downloaded(info_hash, score as u32); // Beyond 2^32 - 1 it is that.
            }
            return learnt;
        }
        let (Some((address, name)), Some((left_ms, is_seeder))) = (read_member(member), read_score(score, now_ms))
        else {
            learnt.bad += 1;
            return learnt;
        };
        let lifetime = self.store.unit_ms() * u64::from(LIFETIME_UNITS);
        let age = lifetime.saturating_sub(left_ms) / self.store.unit_ms();
        // Never 0: this is no announce, and what was announced here meanwhile is younger.
        let age = u8::try_from(age).unwrap_or(u8::MAX).max(1);
        self.learn(
            worker,
            info_hash,
            (address, name, is_seeder),
            (age, false),
            now,
            &mut learnt,
        );
        learnt
    }

    fn learn(
        &self,
        worker: &mut Worker,
        info_hash: &InfoHash,
        (address, name, is_seeder): (Address, Option<&[u8]>, bool),
        said: (u8, bool),
        now: Instant,
        learnt: &mut Learnt,
    ) {
        if !worker.access.allows(info_hash) {
            learnt.refused += 1;
            return;
        }
        let peer = Joining {
            address,
            seeder: Some(is_seeder),
            name: name.filter(|name| self.settings.hostname_allow.allows(name)),
            peer_id: None,
        };
        let stamp = self.store.stamp(now);
        match self.store.learn(info_hash, &peer, said, stamp, &mut worker.random) {
            Ok(true) => learnt.taken += 1,
            Ok(false) => learnt.known += 1,
            Err(_full) => learnt.refused += 1,
        }
    }
}
