//! Which torrents there are, which files they come from, and how they do.
//!
//! A plain table without disk, clock or shard: the supervisor asks it what an event means, and acts. One torrent may
//! come from several files; it is added with the first and removed with the last.

mod entry;
mod lost;
mod namesakes;
#[cfg(test)]
mod tests;

pub(super) use entry::{Entry, Reach, STATE_NAMES, State, UNAVAILABLE};
pub(super) use lost::Lost;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::checks::Progress;
use super::origins::Origins;
use crate::proto::InfoHash;
use crate::shard::{Resting, Torrent};
use entry::Rare;
use namesakes::Namesakes;

/// What a file that holds a torrent means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Addition {
    /// A torrent nobody has yet.
    New {
        /// Of the new entry.
        generation: u64,
    },
    /// The same torrent from the same file as before.
    Known,
    /// The same torrent as in another file.
    SameAs(PathBuf),
}

/// What it means that a file is gone.
#[derive(Debug)]
pub(super) enum Removal {
    /// Nothing: it held no torrent, or another file of the same folder still does.
    Nothing,
    /// It was the last file of this torrent.
    Gone(InfoHash, Entry),
    /// The torrent now comes from another watch folder, and its payload with it.
    Moved {
        /// The torrent.
        info_hash: InfoHash,
        /// One of its files, and the watch folder of that.
        file: PathBuf,
        /// See there.
        folder: usize,
    },
}

/// What a check's end changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// Whether the shards have it with what it had before.
    pub(super) was_served: bool,
    /// Whether the state is another one than before.
    pub(super) is_news: bool,
}

/// All torrents.
#[derive(Debug, Default)]
pub(super) struct Torrents {
    /// In order, so that they can be gone through page by page while they come and go.
    by_hash: BTreeMap<InfoHash, Entry>,
    by_file: HashMap<Arc<Path>, InfoHash>,
    /// Those that the shards have with all that is in them.
    loaded: BTreeSet<InfoHash>,
    /// Those that the shards have by name: kept as [`Entry::rests`] says.
    resting: Arc<Resting>,
    counts: [usize; STATE_NAMES.len()],
    generations: u64,
    /// Those that are paused, or will be when they are added.
    paused: HashSet<InfoHash>,
    /// Whose rates were taken last.
    measured: Option<InfoHash>,
    /// Kept while somebody asks for it.
    namesakes: Option<Namesakes>,
}

impl Torrents {
    /// No torrents yet; these are paused when they come. `resting` tells the shards which rest.
    pub(super) fn new(paused: HashSet<InfoHash>, resting: Arc<Resting>) -> Self {
        Self {
            paused,
            resting,
            ..Self::default()
        }
    }

    /// `file`, of a watch folder, holds this torrent now. Gives what that means, and what it means for the torrent that
    /// the file held before.
    pub(super) fn add(
        &mut self,
        folder: usize,
        file: &Path,
        info_hash: InfoHash,
        (name, reach): (&str, Reach),
        progress: &Arc<Progress>,
    ) -> (Addition, Removal) {
        if self.by_file.get(file) == Some(&info_hash) {
            return (Addition::Known, Removal::Nothing);
        }
        let replaced = self.remove(file);
        let file: Arc<Path> = Arc::from(file);
        self.by_file.insert(Arc::clone(&file), info_hash);
        if let Some(entry) = self.by_hash.get_mut(&info_hash) {
            let other = entry.files.first().0.to_path_buf();
            entry.files.insert(file, folder);
            return (Addition::SameAs(other), replaced);
        }
        self.generations += 1;
        let entry = Entry {
            name: Arc::from(name),
            state: State::Checking(Arc::clone(progress)),
            served: None,
            generation: self.generations,
            settled_as: None,
            folder: u32::try_from(folder).expect("fewer watch folders than 2^32"),
            files: Origins::new(file, folder),
            len: progress.total(),
            paused: self.paused.contains(&info_hash),
            is_known: false,
            rests: false,
            reach,
            rare: None,
        };
        self.counts[entry.state.index()] += 1;
        self.by_hash.insert(info_hash, entry);
        if let Some(namesakes) = &mut self.namesakes {
            namesakes.add(name, info_hash);
        }
        (
            Addition::New {
                generation: self.generations,
            },
            replaced,
        )
    }

    /// `file` is gone.
    pub(super) fn remove(&mut self, file: &Path) -> Removal {
        let Some(info_hash) = self.by_file.remove(file) else {
            return Removal::Nothing;
        };
        let Some(entry) = self.by_hash.get_mut(&info_hash) else {
            return Removal::Nothing;
        };
        if entry.files.remove(file) {
            let (file, folder) = entry.files.first();
            return match entry.files.iter().any(|(_, folder)| folder == entry.folder()) {
                true => Removal::Nothing,
                false => Removal::Moved {
                    info_hash,
                    file: file.to_path_buf(),
                    folder,
                },
            };
        }
        self.end_rest(info_hash);
        match self.by_hash.remove(&info_hash) {
            Some(entry) => {
                self.counts[entry.state.index()] -= 1;
                self.loaded.remove(&info_hash);
                self.paused.remove(&info_hash);
                Removal::Gone(info_hash, entry)
            }
            None => Removal::Nothing,
        }
    }

    /// A check has ended. `None` if the torrent is gone, or was checked anew since.
    pub(super) fn settle(
        &mut self,
        info_hash: InfoHash,
        generation: u64,
        state: State,
        served: Option<Arc<Torrent>>,
    ) -> Option<Settled> {
        let entry = self
            .by_hash
            .get_mut(&info_hash)
            .filter(|entry| entry.generation == generation)?;
        match served {
            Some(_) => self.loaded.insert(info_hash),
            None => self.loaded.remove(&info_hash),
        };
        let was_served = std::mem::replace(&mut entry.served, served).is_some();
        let is_news = entry.settled_as.replace(state.index() as u8) != Some(state.index() as u8);
        self.counts[entry.state.index()] -= 1;
        self.counts[state.index()] += 1;
        entry.state = state;
        if let Some(rare) = &mut entry.rare {
            rare.moved = (0, 0);
        }
        self.end_rest(info_hash);
        Some(Settled { was_served, is_news })
    }

    /// Many have come, in no order, which leaves a third of the table's room empty: it is packed anew, all at once. For the
    /// end of a start.
    pub(super) fn pack(&mut self) {
        self.by_hash = std::mem::take(&mut self.by_hash).into_iter().collect();
    }

    /// Has a whole torrent rest: of what the shards have of it only the info-hash is left.
    pub(super) fn rest(&mut self, info_hash: InfoHash) {
        let Some(entry) = self.by_hash.get_mut(&info_hash).filter(|entry| !entry.paused) else {
            return;
        };
        let (up, down) = entry.moved();
        let rare = Rare {
            moved: (up, down),
            ..Rare::default()
        };
        entry.rare = ((up, down) != (0, 0)).then(|| Box::new(rare));
        entry.served = None;
        entry.settled_as = Some(State::Seeding.index() as u8);
        entry.rests = true;
        entry.is_known = true;
        self.counts[entry.state.index()] -= 1;
        entry.state = State::Seeding;
        self.counts[entry.state.index()] += 1;
        self.loaded.remove(&info_hash);
        self.resting.insert(info_hash);
    }

    /// The same of one that was paused, or of which a check has not begun: in the place of that.
    pub(super) fn rest_unchecked(&mut self, info_hash: InfoHash) {
        let Some(entry) = self.by_hash.get_mut(&info_hash).filter(|entry| !entry.paused) else {
            return;
        };
        if let State::Checking(progress) = &entry.state {
            progress.cancel();
        }
        self.generations += 1;
        entry.generation = self.generations;
        entry.forget_why();
        self.rest(info_hash);
    }

    /// A torrent that rests is served. False if it does not rest any more.
    pub(super) fn wake(&mut self, info_hash: InfoHash, torrent: &Arc<Torrent>) -> bool {
        let Some(entry) = self.by_hash.get_mut(&info_hash).filter(|entry| entry.rests) else {
            return false;
        };
        entry.served = Some(Arc::clone(torrent));
        entry.rests = false;
        self.loaded.insert(info_hash);
        true
    }

    /// A torrent rests no more, and is not served when it is asked for.
    pub(super) fn end_rest(&mut self, info_hash: InfoHash) {
        if let Some(entry) = self.by_hash.get_mut(&info_hash) {
            entry.rests = false;
            self.resting.remove(info_hash);
        }
    }

    /// The shards may let go of a torrent, and ask for it again.
    pub(super) fn may_be_asked_for(&self, info_hash: InfoHash) {
        self.resting.insert(info_hash);
    }

    /// Those that the shards have.
    pub(super) fn served(&self) -> impl Iterator<Item = &Arc<Torrent>> {
        self.loaded().filter_map(|entry| entry.served.as_ref())
    }

    /// Whole torrents that the shards have and nobody is connected for, all of which somebody has read.
    pub(super) fn idle(&self) -> impl Iterator<Item = (InfoHash, &Arc<Torrent>)> {
        let loaded = self.loaded.iter().filter_map(|info_hash| {
            let entry = self.by_hash.get(info_hash)?;
            let torrent = entry.served.as_ref()?;
            // What nobody has read yet is known of the torrent that the shards have, and nowhere else.
            let may_rest = matches!(entry.state, State::Seeding)
                && torrent.is_complete()
                && !torrent.is_changed()
                && torrent.unread_count() == 0;
            may_rest.then_some((*info_hash, torrent))
        });
        loaded.filter(|(_, torrent)| torrent.connections() == 0)
    }

    /// How many the shards have with all that is in them.
    pub(super) fn loaded_count(&self) -> usize {
        self.loaded.len()
    }

    /// The entries of those that the shards have.
    fn loaded(&self) -> impl Iterator<Item = &Entry> {
        self.loaded.iter().filter_map(|info_hash| self.by_hash.get(info_hash))
    }

    /// Starts another check of a torrent, whole or not, of which somebody wants to hear, be it the same as before. Gives
    /// its new generation; `None` if it is being checked already.
    pub(super) fn check_anew(&mut self, info_hash: InfoHash, progress: &Arc<Progress>) -> Option<u64> {
        let entry = self.by_hash.get(&info_hash)?;
        if matches!(entry.state, State::Checking(_)) {
            return None;
        }
        self.begin_check(info_hash, progress)
    }

    /// Starts a check of a torrent whose payload is another watch folder's now, in place of one that is under way.
    pub(super) fn check_in(&mut self, folder: usize, info_hash: InfoHash, progress: &Arc<Progress>) -> Option<u64> {
        let entry = self.by_hash.get_mut(&info_hash)?;
        entry.folder = u32::try_from(folder).expect("fewer watch folders than 2^32");
        if let State::Checking(progress) = &entry.state {
            progress.cancel();
        }
        self.end_rest(info_hash); // What is known is of the other folder's payload.
        self.begin_check(info_hash, progress)
    }

    /// Starts another check in place of one that is under way, and says nothing of.
    pub(super) fn check_on(&mut self, info_hash: InfoHash, progress: &Arc<Progress>) -> Option<u64> {
        let settled_as = self.by_hash.get(&info_hash)?.settled_as;
        let generation = self.begin_check(info_hash, progress)?;
        self.by_hash.get_mut(&info_hash)?.settled_as = settled_as;
        Some(generation)
    }

    /// Starts another check of a torrent that is missing, which is told only if it has something new to say.
    pub(super) fn check_again(&mut self, info_hash: InfoHash, progress: &Arc<Progress>) -> Option<u64> {
        let entry = self.by_hash.get(&info_hash)?;
        if !matches!(entry.state, State::Missing) {
            return None;
        }
        let settled_as = entry.settled_as;
        let generation = self.begin_check(info_hash, progress)?;
        self.by_hash.get_mut(&info_hash)?.settled_as = settled_as;
        Some(generation)
    }

    fn begin_check(&mut self, info_hash: InfoHash, progress: &Arc<Progress>) -> Option<u64> {
        let entry = self.by_hash.get_mut(&info_hash)?;
        self.generations += 1;
        entry.generation = self.generations;
        entry.settled_as = None;
        entry.forget_why();
        let state = State::Checking(Arc::clone(progress));
        self.counts[entry.state.index()] -= 1;
        self.counts[state.index()] += 1;
        entry.state = state;
        Some(self.generations)
    }

    /// Whether that check found nothing, and is still the last word.
    pub(super) fn is_missing(&self, info_hash: InfoHash, generation: u64) -> bool {
        let entry = self
            .by_hash
            .get(&info_hash)
            .filter(|entry| entry.generation == generation);
        entry.is_some_and(|entry| matches!(entry.state, State::Missing))
    }

    /// Torrents of which a file was changed after it was checked, each with the watch folder it was found in.
    pub(super) fn changed(&self) -> Vec<(usize, Arc<Torrent>)> {
        let settled = self.loaded().filter(|entry| !matches!(entry.state, State::Checking(_)));
        settled
            .filter_map(|entry| Some((entry.folder(), entry.served.clone()?)))
            .filter(|(_, torrent)| torrent.is_changed())
            .collect()
    }

    /// Torrents of which a part is served, each with the watch folder it was found in.
    pub(super) fn partial(&self) -> Vec<(usize, Arc<Torrent>)> {
        let partial = self.loaded().filter(|entry| matches!(entry.state, State::Partial));
        partial
            .filter_map(|entry| Some((entry.folder(), entry.served.clone()?)))
            .collect()
    }

    /// The files of a watch folder that hold torrents.
    pub(super) fn files_in(&self, folder: usize) -> Vec<Arc<Path>> {
        let files = self.by_hash.values().flat_map(|entry| entry.files.iter());
        files
            .filter(|(_, of)| *of == folder)
            .map(|(file, _)| Arc::clone(file))
            .collect()
    }

    /// The files of all watch folders that hold torrents.
    pub(super) fn all_files(&self) -> Vec<Arc<Path>> {
        self.by_file.keys().cloned().collect()
    }

    /// Torrents that were whole and of which pieces can no longer be read. Each is given once.
    pub(super) fn newly_damaged(&mut self) -> Vec<Arc<Torrent>> {
        let mut damaged = Vec::new();
        for info_hash in &self.loaded {
            let Some(entry) = self.by_hash.get_mut(info_hash) else {
                continue;
            };
            let Some(torrent) = entry.served.as_ref().filter(|torrent| !torrent.is_complete()) else {
                continue;
            };
            if matches!(entry.state, State::Seeding) {
                damaged.push(Arc::clone(torrent));
                self.counts[entry.state.index()] -= 1;
                entry.state = State::Partial;
                self.counts[entry.state.index()] += 1;
            }
        }
        damaged
    }

    /// Nothing is missing any more of a torrent that was being downloaded. False if it is no longer that one.
    pub(super) fn on_complete(&mut self, info_hash: InfoHash) -> bool {
        let Some(entry) = self.by_hash.get_mut(&info_hash) else {
            return false;
        };
        let is_downloading = matches!(entry.state, State::Downloading);
        if is_downloading {
            self.counts[entry.state.index()] -= 1;
            entry.state = State::Seeding;
            entry.forget_why();
            entry.settled_as = Some(entry.state.index() as u8);
            self.counts[entry.state.index()] += 1;
        }
        is_downloading
    }

    /// Pauses a torrent, or ends its pause. `None` if there is no such torrent, else whether that is news. One that is being
    /// checked stays so; any other is in the state of those that are paused until it is checked again.
    pub(super) fn set_paused(&mut self, info_hash: InfoHash, paused: bool) -> Option<bool> {
        let entry = self.by_hash.get_mut(&info_hash)?;
        let is_news = std::mem::replace(&mut entry.paused, paused) != paused;
        match paused {
            true => self.paused.insert(info_hash),
            false => self.paused.remove(&info_hash),
        };
        if paused && !matches!(entry.state, State::Checking(_)) {
            self.counts[entry.state.index()] -= 1;
            entry.state = State::Paused;
            self.counts[entry.state.index()] += 1;
        }
        if paused {
            self.end_rest(info_hash);
        }
        Some(is_news)
    }

    /// Whether a torrent that is not there yet will be paused when it comes. Not any more, after this.
    pub(super) fn forget_paused(&mut self, info_hash: InfoHash) -> bool {
        !self.has(info_hash) && self.paused.remove(&info_hash)
    }

    /// One that was removed will be paused when it comes again.
    pub(super) fn stay_paused(&mut self, info_hash: InfoHash) {
        self.paused.insert(info_hash);
    }

    /// Whether there is this one and it is paused.
    pub(super) fn is_paused(&self, info_hash: InfoHash) -> bool {
        self.by_hash.get(&info_hash).is_some_and(Entry::is_paused)
    }

    /// Says why a torrent stands as it does after a check, and whether that could say what there is of it.
    pub(super) fn explain(&mut self, info_hash: InfoHash, is_known: bool, why: Option<String>) {
        if let Some(entry) = self.by_hash.get_mut(&info_hash) {
            entry.is_known = is_known;
        }
        self.give_reason(info_hash, why);
    }

    /// Says why a torrent stands as it does, where nothing was checked.
    pub(super) fn give_reason(&mut self, info_hash: InfoHash, why: Option<String>) {
        let Some(entry) = self.by_hash.get_mut(&info_hash) else {
            return;
        };
        match why {
            Some(why) => entry.rare.get_or_insert_default().why = Some(why.into_boxed_str()),
            None => entry.forget_why(),
        }
    }

    /// Takes the rates of the next `count` torrents, in turn, and shows each to `look`. Whether these were the last of them all,
    /// and the first are the next.
    pub(super) fn measure(&mut self, count: usize, now: Instant, mut look: impl FnMut(&Arc<Torrent>)) -> bool {
        let from = self.measured.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut last, mut seen) = (None, 0);
        for info_hash in self.loaded.range((from, Bound::Unbounded)).take(count) {
            if let Some(entry) = self.by_hash.get_mut(info_hash)
                && let Some(torrent) = &entry.served
            {
                let moved = (torrent.uploaded(), torrent.downloaded());
                entry.rare.get_or_insert_default().meter.look(moved, now);
                look(torrent);
            }
            last = Some(*info_hash);
            seen += 1;
        }
        // From the beginning, after the last.
        self.measured = last.filter(|_| seen == count);
        self.measured.is_none()
    }

    /// All that come after one, or from the first, in the order of their info-hashes.
    pub(super) fn after(&self, info_hash: Option<InfoHash>) -> impl Iterator<Item = (InfoHash, &Entry)> {
        let from = info_hash.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.by_hash.range((from, Bound::Unbounded));
        range.map(|(info_hash, entry)| (*info_hash, entry))
    }

    /// All from one to another, both included.
    pub(super) fn between(&self, from: InfoHash, to: InfoHash) -> impl Iterator<Item = (InfoHash, &Entry)> {
        self.by_hash
            .range(from..=to)
            .map(|(info_hash, entry)| (*info_hash, entry))
    }

    /// This one.
    pub(super) fn entry(&self, info_hash: InfoHash) -> Option<&Entry> {
        self.by_hash.get(&info_hash)
    }

    /// The watch folder that a torrent's payload belongs to, and the torrent as the shards have it.
    pub(super) fn get(&self, info_hash: InfoHash) -> Option<(usize, Option<&Arc<Torrent>>)> {
        let entry = self.by_hash.get(&info_hash)?;
        Some((entry.folder(), entry.served.as_ref()))
    }

    /// How many are in each state of [`STATE_NAMES`].
    pub(super) fn counts(&self) -> [usize; STATE_NAMES.len()] {
        self.counts
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_hash.values()
    }

    /// The info-hashes of all, however they stand.
    pub(super) fn info_hashes(&self) -> impl Iterator<Item = InfoHash> {
        self.by_hash.keys().copied()
    }

    /// Whether there is this one.
    pub(super) fn has(&self, info_hash: InfoHash) -> bool {
        self.by_hash.contains_key(&info_hash)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }
}
