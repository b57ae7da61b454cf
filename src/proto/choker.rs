//! Whom a seed unchokes.
//!
//! A seed gets nothing back, so there is no tit for tat: slots go round ([`Kind::RoundRobin`]) or to those who take
//! fastest ([`Kind::FastestUpload`]). Either way no interested peer stays choked while a slot is free. Where speed decides,
//! one slot is the optimistic unchoke of BEP 3: it goes to a random waiting peer and moves on every 30 s. In a round robin
//! everybody has a turn anyway.
//!
//! Nothing is sent here; the shard carries out the decisions. How many slots there are is the configuration's choice.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

/// How often the slots are given out anew.
pub const RECHOKE_INTERVAL: Duration = Duration::from_secs(10);

/// How long one peer keeps the optimistic slot.
pub const OPTIMISTIC_INTERVAL: Duration = Duration::from_secs(30);

/// In a round robin a turn is over when a peer has had this much and [`TURN_MIN`] has passed ...
pub const TURN_LEN: u64 = 16 << 20;

/// ... so that a fast peer is not choked and unchoked all the time ...
pub const TURN_MIN: Duration = Duration::from_secs(30);

/// ... and in any case now: a peer that takes little shall not hold a slot for ever.
pub const TURN_MAX: Duration = Duration::from_secs(120);

/// Who goes first where there are fewer slots than interested peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Those who have waited longest; a turn ends after [`TURN_LEN`] bytes.
    RoundRobin,
    /// Those who take fastest, so that copies of the payload spread soonest.
    #[default]
    FastestUpload,
}

/// What the choker has to know about a peer.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// The caller's name for it.
    pub key: u32,
    /// Whether it wants something we have.
    pub interested: bool,
    /// Whether it has a slot now.
    pub unchoked: bool,
    /// What it takes, in bytes a second; or what it gives.
    pub rate: u64,
    /// Whether the rate is what it gives: who waits for a slot is worth as much then as who has one.
    pub gives: bool,
    /// What it has had since it was unchoked.
    pub uploaded_since_unchoke: u64,
    /// When it was unchoked; of no meaning while it is choked.
    pub unchoked_at: Instant,
    /// Since when it has been interested and choked; of no meaning while it is not.
    pub waiting_since: Instant,
}

impl Candidate {
    fn turn_is_over(&self, now: Instant) -> bool {
        let taken = now.saturating_duration_since(self.unchoked_at);
        taken >= TURN_MAX || taken >= TURN_MIN && self.uploaded_since_unchoke >= TURN_LEN
    }
}

/// Gives out the upload slots of a seed.
#[derive(Debug)]
pub struct SeedChoker {
    kind: Kind,
    slots: u32,
    /// Who has the optimistic slot, and since when.
    optimistic: Option<(u32, Instant)>,
    rechoked_at: Option<Instant>,
    /// Places of the interested candidates, best first. Kept for its room.
    ranked: Vec<u32>,
}

impl SeedChoker {
    /// A choker of this kind. No slots means no limit.
    pub fn new(kind: Kind, slots: u32) -> Self {
        Self {
            kind,
            slots,
            optimistic: None,
            rechoked_at: None,
            ranked: Vec::new(),
        }
    }

    /// Changes the kind and the number of slots. Those who have one too many lose it when slots are next given out.
    pub fn set(&mut self, kind: Kind, slots: u32) {
        (self.kind, self.slots) = (kind, slots);
    }

    /// Whether a peer that becomes interested can be unchoked at once, while so many are.
    pub fn has_free_slot(&self, unchoked_count: usize) -> bool {
        self.slots == 0 || unchoked_count < self.slots as usize
    }

    /// Whether it is time to call [`rechoke`](Self::rechoke).
    pub fn is_due(&self, now: Instant) -> bool {
        self.rechoked_at
            .is_none_or(|at| now.saturating_duration_since(at) >= RECHOKE_INTERVAL)
    }

    /// Decides anew. `decisions` is emptied, and then has every peer whose state is to change, with whether it is to be
    /// unchoked: chokes first, so that whoever carries them out in order never has more peers unchoked than slots.
    pub fn rechoke(&mut self, now: Instant, candidates: &[Candidate], random: u64, decisions: &mut Vec<(u32, bool)>) {
        self.rechoked_at = Some(now);
        decisions.clear();
        self.rank(now, candidates);
        let unchoked_count = self.choose(now, candidates, random);
        let mut chosen = std::mem::take(&mut self.ranked);
        chosen.truncate(unchoked_count);
        chosen.sort_unstable();
        let mut next = chosen.iter().peekable();
        for (place, candidate) in candidates.iter().enumerate() {
            let unchoke = next.next_if(|chosen| **chosen as usize == place).is_some();
            if unchoke != candidate.unchoked {
                decisions.push((candidate.key, unchoke));
            }
        }
        decisions.sort_by_key(|(_, unchoke)| *unchoke);
        self.ranked = chosen;
    }

    /// Puts the interested candidates into `ranked`, best first.
    fn rank(&mut self, now: Instant, candidates: &[Candidate]) {
        self.ranked.clear();
        let places = 0..candidates.len() as u32;
        self.ranked
            .extend(places.filter(|place| candidates[*place as usize].interested));
        if self.slots == 0 || self.ranked.len() <= self.slots as usize {
            return; // All of them: their order does not matter.
        }
        match self.kind {
            // Who waits takes nothing, so it ranks behind whoever takes anything.
            Kind::FastestUpload => self.ranked.sort_unstable_by_key(|place| {
                let candidate = &candidates[*place as usize];
                let counts = candidate.unchoked || candidate.gives;
                let rate = if counts { candidate.rate } else { 0 };
                (
                    Reverse(rate),
                    candidate.unchoked,
                    candidate.waiting_since,
                    candidate.key,
                )
            }),
            Kind::RoundRobin => self.ranked.sort_unstable_by_key(|place| {
                let candidate = &candidates[*place as usize];
                let (class, since) = match candidate.unchoked {
                    true if !candidate.turn_is_over(now) => (0, candidate.unchoked_at),
                    false => (1, candidate.waiting_since),
                    true => (2, candidate.unchoked_at),
                };
                (class, since, candidate.key)
            }),
        }
    }

    /// Moves those who get a slot to the front of `ranked`, and tells how many they are.
    fn choose(&mut self, now: Instant, candidates: &[Candidate], random: u64) -> usize {
        let slots = self.slots as usize;
        if slots == 0 || self.ranked.len() <= slots || self.kind == Kind::RoundRobin {
            self.optimistic = None;
            return if slots == 0 {
                self.ranked.len()
            } else {
                self.ranked.len().min(slots)
            };
        }
        let (regular, rest) = self.ranked.split_at_mut(slots - 1);
        let key_of = |place: &u32| candidates[*place as usize].key;
        let kept = self.optimistic.filter(|(key, since)| {
            // One that has become a regular choice makes room for another.
            now.saturating_duration_since(*since) < OPTIMISTIC_INTERVAL && !regular.iter().any(|p| key_of(p) == *key)
        });
        let kept = kept.and_then(|(key, since)| Some((rest.iter().position(|p| key_of(p) == key)?, since)));
        let (at, since) = kept.unwrap_or_else(|| {
            let had_it = self.optimistic.map(|(key, _)| key);
            let waiting = |place: &u32| !candidates[*place as usize].unchoked && Some(key_of(place)) != had_it;
            let waiting_count = rest.iter().filter(|place| waiting(place)).count() as u64;
            let pick = random.checked_rem(waiting_count).map_or(0, |pick| pick as usize);
            let at = rest.iter().enumerate().filter(|(_, place)| waiting(place)).nth(pick);
            (at.map_or(0, |(at, _)| at), now)
        });
        self.optimistic = Some((key_of(&rest[at]), since));
        rest.swap(0, at);
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Peers that all do what they are told, seen over time.
    struct Swarm {
        peers: Vec<Candidate>,
        choker: SeedChoker,
        now: Instant,
        random: u64,
    }

    impl Swarm {
        fn new(kind: Kind, slots: u32, peers: u32) -> Self {
            let now = Instant::now();
            let peer = |key| Candidate {
                key,
                interested: true,
                unchoked: false,
                rate: 0,
                gives: false,
                uploaded_since_unchoke: 0,
                unchoked_at: now,
                waiting_since: now,
            };
            Self {
                peers: (0..peers).map(peer).collect(),
                choker: SeedChoker::new(kind, slots),
                now,
                random: 7,
            }
        }

        /// One interval: decisions, and then every unchoked peer takes `speed(key)`.
        fn round(&mut self, speed: impl Fn(u32) -> u64) -> Vec<u32> {
            let mut decisions = vec![(9999, true)];
            self.random = self
                .random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            self.choker
                .rechoke(self.now, &self.peers, self.random >> 33, &mut decisions);
            for (key, unchoke) in decisions {
                let peer = &mut self.peers[key as usize];
                assert_ne!(peer.unchoked, unchoke, "a decision that changes nothing");
                peer.unchoked = unchoke;
                peer.uploaded_since_unchoke = 0;
                (peer.unchoked_at, peer.waiting_since) = (self.now, self.now);
            }
            self.now += RECHOKE_INTERVAL;
            for peer in &mut self.peers {
                peer.rate = if peer.unchoked { speed(peer.key) } else { 0 };
                peer.uploaded_since_unchoke += peer.rate * RECHOKE_INTERVAL.as_secs();
            }
            self.unchoked()
        }

        fn unchoked(&self) -> Vec<u32> {
            self.peers
                .iter()
                .filter(|peer| peer.unchoked)
                .map(|peer| peer.key)
                .collect()
        }
    }

    /// Tit for tat: what a peer gives counts before it has a slot.
    #[test]
    fn peer_that_gives_gets_the_slot_of_one_that_gives_less() {
        let now = Instant::now();
        let candidate = |key, unchoked, rate| Candidate {
            key,
            interested: true,
            unchoked,
            rate,
            gives: true,
            uploaded_since_unchoke: 0,
            unchoked_at: now,
            waiting_since: now,
        };
        // Two slots, the second of them optimistic.
        let candidates = [candidate(1, true, 10), candidate(2, false, 0), candidate(3, false, 500)];
        let mut choker = SeedChoker::new(Kind::FastestUpload, 2);
        let mut decisions = Vec::new();
        choker.rechoke(now, &candidates, 0, &mut decisions);
        assert!(decisions.contains(&(3, true)), "{decisions:?}");
    }

    #[test]
    fn without_a_limit_every_interested_peer_is_unchoked_and_no_other() {
        let mut swarm = Swarm::new(Kind::FastestUpload, 0, 50);
        swarm.peers[3].interested = false;
        swarm.peers[4].interested = false;
        swarm.peers[4].unchoked = true;
        let unchoked = swarm.round(|_| 1000);
        assert_eq!(unchoked.len(), 48);
        assert!(!unchoked.contains(&3) && !unchoked.contains(&4));
    }

    #[test]
    fn every_interested_peer_is_unchoked_while_slots_are_free() {
        for kind in [Kind::RoundRobin, Kind::FastestUpload] {
            let mut swarm = Swarm::new(kind, 5, 5);
            assert_eq!(swarm.round(|_| 0).len(), 5);
            assert!(!swarm.choker.has_free_slot(5) && swarm.choker.has_free_slot(4));
        }
    }

    #[test]
    fn there_are_never_more_unchoked_than_slots_and_never_fewer() {
        for kind in [Kind::RoundRobin, Kind::FastestUpload] {
            for slots in 1..6 {
                let mut swarm = Swarm::new(kind, slots, 9);
                for _ in 0..60 {
                    assert_eq!(swarm.round(|key| 1000 * u64::from(key % 4)).len(), slots as usize);
                }
            }
        }
    }

    #[test]
    fn the_fastest_keep_their_slots_and_the_optimistic_one_moves() {
        let mut swarm = Swarm::new(Kind::FastestUpload, 3, 8);
        let mut optimistic = std::collections::BTreeSet::new();
        for round in 0..120 {
            let unchoked = swarm.round(|key| 1000 * (u64::from(key) + 1));
            if round > 60 {
                assert!(unchoked.contains(&7) && unchoked.contains(&6), "{round}: {unchoked:?}");
                optimistic.extend(unchoked.into_iter().filter(|key| *key < 6));
            }
        }
        assert!(optimistic.len() >= 4, "{optimistic:?}");
    }

    #[test]
    fn the_optimistic_slot_is_kept_for_30_s() {
        let mut swarm = Swarm::new(Kind::FastestUpload, 2, 6);
        let mut last = None;
        let mut kept = 0;
        for _ in 0..90 {
            swarm.round(|key| if key == 0 { 1_000_000 } else { 10 });
            let (key, since) = swarm.choker.optimistic.unwrap();
            assert!(swarm.peers[key as usize].unchoked);
            if last.is_some_and(|(last_key, _)| last_key != key) && kept > 0 {
                assert_eq!(since, swarm.now - RECHOKE_INTERVAL);
                assert_eq!(kept, 3, "three intervals of 10 s");
            }
            kept = if last == Some((key, since)) { kept + 1 } else { 1 };
            last = Some((key, since));
        }
    }

    #[test]
    fn a_round_robin_reaches_everyone() {
        for slots in [1, 2, 4] {
            let mut swarm = Swarm::new(Kind::RoundRobin, slots, 12);
            let mut served = [0; 12];
            for _ in 0..200 {
                // Half of them take next to nothing, and lose their slot all the same.
                for key in swarm.round(|key| if key % 2 == 0 { 10 << 20 } else { 1 }) {
                    served[key as usize] += 1;
                }
            }
            assert!(served.iter().all(|rounds| *rounds > 0), "{slots}: {served:?}");
        }
    }

    #[test]
    fn a_fast_peer_keeps_its_turn_for_30_s() {
        let mut swarm = Swarm::new(Kind::RoundRobin, 2, 4);
        let first = swarm.round(|_| 100 << 20);
        assert_eq!(swarm.round(|_| 100 << 20), first);
        assert_eq!(swarm.round(|_| 100 << 20), first);
        assert_ne!(swarm.round(|_| 100 << 20), first);
    }

    #[test]
    fn it_is_due_every_10_s() {
        let mut swarm = Swarm::new(Kind::RoundRobin, 1, 1);
        assert!(swarm.choker.is_due(swarm.now));
        swarm.round(|_| 0);
        assert!(!swarm.choker.is_due(swarm.now - SECOND));
        assert!(swarm.choker.is_due(swarm.now));
    }
}
