//! Which torrents have the same name: a download has to know whose files it might write to. Made when that is asked for first,
//! and let go of when nobody has asked for a while: among 100,000 torrents it takes 3 MiB.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::Torrents;
use crate::proto::InfoHash;

/// How long it is kept for the next who asks.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// Torrents that are not in order yet, at most.
const FRESH_MAX: usize = 1024;

/// Info-hashes by the hash of a name. Some of them may be gone by now.
#[derive(Debug)]
pub(super) struct Namesakes {
    /// Names are strangers': nobody should foresee which look alike.
    state: RandomState,
    sorted: Vec<(u64, InfoHash)>,
    fresh: Vec<(u64, InfoHash)>,
    asked: Instant,
}

impl Namesakes {
    fn new(now: Instant) -> Self {
        Self {
            state: RandomState::new(),
            sorted: Vec::new(),
            fresh: Vec::new(),
            asked: now,
        }
    }

    /// A torrent has come.
    pub(super) fn add(&mut self, name: &str, info_hash: InfoHash) {
        self.fresh.push((self.state.hash_one(name), info_hash));
        if self.fresh.len() >= FRESH_MAX {
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.sorted.append(&mut self.fresh);
        self.sorted.sort_unstable();
        self.sorted.dedup(); // One that has gone and come again.
    }

    /// Those that may have this name.
    fn of(&self, name: &str) -> impl Iterator<Item = InfoHash> {
        let hash = self.state.hash_one(name);
        let from = self.sorted.partition_point(|(other, _)| *other < hash);
        let sorted = self.sorted[from..].iter().take_while(move |(other, _)| *other == hash);
        let fresh = self.fresh.iter().filter(move |(other, _)| *other == hash);
        sorted.chain(fresh).map(|(_, info_hash)| *info_hash)
    }
}

impl Torrents {
    /// The torrents of this name that rest.
    pub(in crate::control) fn resting_namesakes(&mut self, name: &str, now: Instant) -> Vec<InfoHash> {
        if self.namesakes.is_none() {
            let mut all = Namesakes::new(now);
            for (info_hash, entry) in self.after(None) {
                all.fresh.push((all.state.hash_one(&*entry.name), info_hash));
            }
            all.sort();
            self.namesakes = Some(all);
        }
        let Some(namesakes) = &mut self.namesakes else {
            return Vec::new();
        };
        namesakes.asked = now;
        let rests = |info_hash: &InfoHash| {
            let entry = self.by_hash.get(info_hash);
            entry.is_some_and(|entry| entry.rests() && &*entry.name == name)
        };
        namesakes.of(name).filter(rests).collect()
    }

    /// Lets go of what was made for [`Torrents::resting_namesakes`], if nobody has asked for a while.
    pub(in crate::control) fn forget_namesakes(&mut self, now: Instant) {
        self.namesakes
            .take_if(|namesakes| now.saturating_duration_since(namesakes.asked) >= KEPT_FOR);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::Reach;
    use super::*;

    fn add(torrents: &mut Torrents, number: u32, name: &str) -> InfoHash {
        let mut hash = InfoHash([0; 20]);
        hash.0[..4].copy_from_slice(&number.to_be_bytes());
        let file = number.to_string();
        torrents.add(0, Path::new(&file), hash, (name, Reach::default()), &Arc::default());
        hash
    }

    #[test]
    fn those_of_a_name_that_rest_are_found_whenever_they_came() {
        let (mut torrents, now) = (Torrents::default(), Instant::now());
        let before = add(&mut torrents, 1, "a");
        add(&mut torrents, 2, "b");
        torrents.rest(before);
        assert_eq!(torrents.resting_namesakes("a", now), [before]);
        let after: Vec<InfoHash> = (10..13).map(|number| add(&mut torrents, number, "a")).collect();
        assert_eq!(torrents.resting_namesakes("a", now), [before], "the others do not rest");
        after.iter().for_each(|info_hash| torrents.rest(*info_hash));
        // Enough of others that those are put in order.
        for number in 100..100 + 2 * FRESH_MAX as u32 {
            let other = add(&mut torrents, number, "b");
            torrents.rest(other);
        }
        let mut found = torrents.resting_namesakes("a", now);
        found.sort_unstable();
        assert_eq!(found, [&[before][..], &after].concat());
        // One that has gone is none, and comes again but once.
        torrents.remove(Path::new("10"));
        torrents.end_rest(after[1]);
        assert_eq!(torrents.resting_namesakes("a", now).len(), 2);
        add(&mut torrents, 10, "a");
        torrents.rest(after[0]);
        torrents.namesakes.as_mut().unwrap().sort();
        assert_eq!(torrents.resting_namesakes("a", now).len(), 3);
        torrents.forget_namesakes(now + KEPT_FOR / 2);
        assert!(torrents.namesakes.is_some());
        torrents.forget_namesakes(now + KEPT_FOR);
        assert!(torrents.namesakes.is_none());
        assert_eq!(torrents.resting_namesakes("a", now).len(), 3);
    }
}
