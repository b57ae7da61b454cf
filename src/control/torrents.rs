//! Which torrents there are, which files they come from, and how they do.
//!
//! A plain table without disk, clock or shard: the supervisor asks it what an event means, and acts. One torrent may
//! come from several files; it is added with the first and removed with the last.

mod lost;
mod namesakes;

pub(super) use lost::Lost;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::checks::Progress;
use super::meter::Meter;
use super::origins::Origins;
use crate::proto::InfoHash;
use crate::shard::{Resting, Torrent};
use namesakes::Namesakes;

/// Where a torrent stands.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Its payload is being looked at, or waits for that.
    Checking(Arc<Progress>),
    /// All of it is there and served.
    Seeding,
    /// A part of it is there and served, or was until the disk failed.
    Partial,
    /// None of it is there, or nothing that is right.
    Missing,
    /// It cannot be served; the log says why.
    Error,
    /// What is missing of it comes from peers, and what is there is served.
    Downloading,
    /// Somebody wants it to be neither served nor downloaded, until it is resumed.
    Paused,
    /// Its data folder is not there, or on another disk than it was. It is checked when that is back.
    Unavailable,
}

/// The states as metrics name them, in the order of [`Torrents::counts`].
pub(super) const STATE_NAMES: [&str; 8] = [
    "checking",
    "seeding",
    "partial",
    "missing",
    "error",
    "downloading",
    "paused",
    "unavailable",
];

impl State {
    fn index(&self) -> usize {
        match self {
            Self::Checking(_) => 0,
            Self::Seeding => 1,
            Self::Partial => 2,
            Self::Missing => 3,
            Self::Error => 4,
            Self::Downloading => 5,
            Self::Paused => 6,
            Self::Unavailable => 7,
        }
    }

    /// As metrics name it.
    pub(super) fn name(&self) -> &'static str {
        STATE_NAMES[self.index()]
    }
}

/// Who may hear of a torrent, and whom it may be had from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    /// Nobody but its own trackers may hear of it (BEP 27).
    pub(super) private: bool,
    /// It has trackers of its own that btd can speak to.
    pub(super) has_trackers: bool,
}

/// One torrent. There may be 100,000: what only few have is behind a pointer.
#[derive(Debug)]
pub(super) struct Entry {
    /// For messages.
    pub(super) name: Arc<str>,
    /// Where it stands.
    pub(super) state: State,
    /// What the shards have.
    pub(super) served: Option<Arc<Torrent>>,
    /// Tells the check that counts from earlier ones of the same info-hash that may still end.
    pub(super) generation: u64,
    /// What the last check said; `None` when what the next one says is to be told in any case.
    settled_as: Option<u8>,
    /// The watch folder whose data folder the last check looked into.
    folder: u32,
    /// Where it comes from, each with its watch folder.
    files: Origins,
    /// Its length in bytes.
    len: u64,
    paused: bool,
    /// Whether the last check could say what there is of it.
    is_known: bool,
    /// It is whole, and nobody has wanted it lately: the shards have its info-hash alone.
    rests: bool,
    reach: Reach,
    rare: Option<Box<Rare>>,
}

/// What a torrent has that was served in this run, or is not as it should be.
#[derive(Debug, Default)]
struct Rare {
    /// Why it stands as it does, where that wants saying.
    why: Option<Box<str>>,
    meter: Meter,
    /// What it has moved before it rested, up and down.
    moved: (u64, u64),
}

impl Entry {
    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The watch folder whose data folder its payload is looked for in.
    pub(super) fn folder(&self) -> usize {
        self.folder as usize
    }

    /// Whether the shards have its info-hash alone.
    pub(super) fn rests(&self) -> bool {
        self.rests
    }

    /// Who may hear of it.
    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// One of the files that it comes from.
    pub(super) fn file(&self) -> &Arc<Path> {
        self.files.first().0
    }

    /// Payload bytes that peers have taken and sent since it was last checked.
    pub(super) fn moved(&self) -> (u64, u64) {
        let (up, down) = self.rare.as_ref().map_or((0, 0), |rare| rare.moved);
        let served = self.served.as_ref();
        let now = served.map_or((0, 0), |torrent| (torrent.uploaded(), torrent.downloaded()));
        (up + now.0, down + now.1)
    }

    /// The files that it comes from.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(file, _)| &**file)
    }

    /// Whether it is paused, though it may be checked meanwhile.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether the last check could say what there is of it.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// Why it stands as it does, where that wants saying.
    pub(super) fn why(&self) -> Option<&str> {
        self.rare.as_ref()?.why.as_deref()
    }

    fn forget_why(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.why = None;
        }
    }

    /// Bytes a second, up and down.
    pub(super) fn rates(&self) -> (u64, u64) {
        self.rare.as_ref().map_or((0, 0), |rare| rare.meter.rates())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::contents::Contents;
    use crate::proto::bitfield::Bitfield;
    use crate::proto::metainfo::Metainfo;
    use crate::storage::Root;

    const ONE: InfoHash = InfoHash([1; 20]);
    const TWO: InfoHash = InfoHash([2; 20]);

    fn add(torrents: &mut Torrents, file: &str, info_hash: InfoHash) -> (Addition, Option<InfoHash>) {
        let (addition, replaced) = torrents.add(
            0,
            Path::new(file),
            info_hash,
            ("name", Reach::default()),
            &Arc::default(),
        );
        (addition, gone(&replaced))
    }

    /// One that is whole, whatever its info-hash.
    fn torrent() -> (tempfile::TempDir, Arc<Torrent>) {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let meta = Metainfo::parse(&crate::control::watch::testing::torrent("x")).expect("a torrent");
        let root = Arc::new(Root::open(temp.path()).expect("opened"));
        (temp, Torrent::new(meta, root, &Bitfield::full(1), &[None]))
    }

    fn remove(torrents: &mut Torrents, file: &str) -> Option<InfoHash> {
        gone(&torrents.remove(Path::new(file)))
    }

    /// Loses the first folder, one torrent at a time.
    fn lose_all(torrents: &mut Torrents) -> Vec<Lost> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let (lost, last) = torrents.lose((&[0], "it is gone"), (after, 1));
            all.extend(lost);
            match last {
                Some(last) => after = Some(last),
                None => return all,
            }
        }
    }

    fn waits_in(torrents: &Torrents, info_hash: InfoHash, folders: &[usize]) -> bool {
        let waits = |paused| torrents.unavailable_in((folders, paused), (None, 100)).0;
        waits(false).contains(&info_hash) || waits(true).contains(&info_hash)
    }

    fn gone(removal: &Removal) -> Option<InfoHash> {
        match removal {
            Removal::Gone(info_hash, _) => Some(*info_hash),
            Removal::Nothing => None,
            Removal::Moved { .. } => panic!("{removal:?}"),
        }
    }

    #[test]
    fn a_torrent_whose_file_moves_to_another_folder_is_checked_there() {
        let mut torrents = Torrents::default();
        let add = |torrents: &mut Torrents, folder, file| {
            torrents
                .add(
                    folder,
                    Path::new(file),
                    ONE,
                    ("name", Reach::default()),
                    &Arc::default(),
                )
                .0
        };
        assert_eq!(add(&mut torrents, 0, "0/a"), Addition::New { generation: 1 });
        torrents.settle(ONE, 1, State::Seeding, None);
        assert_eq!(add(&mut torrents, 1, "1/a"), Addition::SameAs("0/a".into()));
        let Removal::Moved { file, folder, .. } = torrents.remove(Path::new("0/a")) else {
            panic!("it comes from the other folder now");
        };
        assert_eq!((file, folder), ("1/a".into(), 1));
        assert_eq!(torrents.check_in(1, ONE, &Arc::default()), Some(2));
        assert_eq!(torrents.counts(), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert!(matches!(torrents.remove(Path::new("1/a")), Removal::Gone(ONE, _)));
    }

    #[test]
    fn a_torrent_in_two_files_is_one_and_goes_with_the_last() {
        let mut torrents = Torrents::default();
        assert_eq!(add(&mut torrents, "a", ONE), (Addition::New { generation: 1 }, None));
        assert_eq!(add(&mut torrents, "b", ONE), (Addition::SameAs("a".into()), None));
        assert_eq!(add(&mut torrents, "b", ONE), (Addition::Known, None));
        assert_eq!(torrents.len(), 1);
        assert_eq!(remove(&mut torrents, "a"), None);
        assert_eq!(remove(&mut torrents, "b"), Some(ONE));
        assert_eq!((torrents.len(), torrents.counts()), (0, [0; 8]));
    }

    #[test]
    fn a_file_replaced_by_another_torrent_removes_the_one_it_held() {
        let mut torrents = Torrents::default();
        add(&mut torrents, "a", ONE);
        assert_eq!(
            add(&mut torrents, "a", TWO),
            (Addition::New { generation: 2 }, Some(ONE))
        );
        assert_eq!(torrents.len(), 1);
        assert_eq!(remove(&mut torrents, "a"), Some(TWO));
    }

    #[test]
    fn a_renamed_file_keeps_its_torrent() {
        let mut torrents = Torrents::default();
        add(&mut torrents, "a", ONE);
        add(&mut torrents, "b", ONE);
        assert_eq!(remove(&mut torrents, "a"), None);
        assert_eq!(torrents.len(), 1);
    }

    #[test]
    fn a_check_that_ends_after_its_torrent_went_changes_nothing() {
        let mut torrents = Torrents::default();
        add(&mut torrents, "a", ONE);
        remove(&mut torrents, "a");
        assert!(torrents.settle(ONE, 1, State::Seeding, None).is_none());
        add(&mut torrents, "a", ONE);
        assert!(torrents.settle(ONE, 1, State::Seeding, None).is_none());
        assert_eq!(torrents.counts(), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(
            torrents.settle(ONE, 2, State::Partial, None),
            Some(Settled {
                was_served: false,
                is_news: true
            })
        );
        assert_eq!(torrents.counts(), [0, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_check_that_is_asked_for_is_made_unless_there_is_one() {
        let mut torrents = Torrents::default();
        add(&mut torrents, "a", ONE);
        assert_eq!(torrents.check_anew(ONE, &Arc::default()), None, "it is being checked");
        torrents.settle(ONE, 1, State::Partial, None);
        assert_eq!(torrents.check_again(ONE, &Arc::default()), None, "it is not missing");
        assert_eq!(torrents.check_anew(ONE, &Arc::default()), Some(2));
        assert_eq!(
            torrents.settle(ONE, 1, State::Missing, None),
            None,
            "that check is out of date"
        );
        assert_eq!(
            torrents.settle(ONE, 2, State::Seeding, None),
            Some(Settled {
                was_served: false,
                is_news: true
            })
        );
        assert_eq!(torrents.check_again(ONE, &Arc::default()), None, "it is whole");
        assert_eq!(
            torrents.check_anew(ONE, &Arc::default()),
            Some(3),
            "but it was asked for"
        );
    }

    #[test]
    fn a_missing_torrent_that_is_still_missing_is_no_news_but_for_who_asked() {
        let mut torrents = Torrents::default();
        add(&mut torrents, "a", ONE);
        let mut is_news = |generation| {
            torrents
                .settle(ONE, generation, State::Missing, None)
                .map(|s| s.is_news)
        };
        assert_eq!(is_news(1), Some(true));
        assert_eq!(torrents.check_again(ONE, &Arc::default()), Some(2));
        assert!(torrents.settle(ONE, 1, State::Missing, None).is_none());
        assert_eq!(torrents.counts(), [1, 0, 0, 0, 0, 0, 0, 0], "it is being looked at");
        let mut is_news = |generation| {
            torrents
                .settle(ONE, generation, State::Missing, None)
                .map(|s| s.is_news)
        };
        assert_eq!(is_news(2), Some(false));
        assert_eq!(torrents.check_anew(ONE, &Arc::default()), Some(3));
        let mut is_news = |generation| {
            torrents
                .settle(ONE, generation, State::Missing, None)
                .map(|s| s.is_news)
        };
        assert_eq!(is_news(3), Some(true));
        assert!(torrents.is_missing(ONE, 3) && !torrents.is_missing(ONE, 2));
    }

    #[test]
    fn torrents_of_a_folder_that_is_lost_wait_for_it_unless_they_are_paused_and_the_others_go_on() {
        let mut torrents = Torrents::default();
        for (folder, byte) in [(0, 1), (0, 2), (1, 3), (0, 4)] {
            let (file, hash) = (byte.to_string(), InfoHash([byte; 20]));
            torrents.add(
                folder,
                Path::new(&file),
                hash,
                ("name", Reach::default()),
                &Arc::default(),
            );
        }
        let hash = |byte| InfoHash([byte; 20]);
        for (byte, generation) in [(1, 1), (2, 2), (3, 3)] {
            torrents.settle(hash(byte), generation, State::Seeding, Some(torrent().1));
        }
        torrents.set_paused(hash(2), true);
        let lost = lose_all(&mut torrents);
        assert_eq!(lost.len(), 2);
        assert_eq!(torrents.counts(), [1, 1, 0, 0, 0, 0, 1, 1]);
        let state = |byte| {
            torrents
                .entry(hash(byte))
                .map(|entry| (entry.state.name(), entry.served.is_some()))
        };
        assert_eq!(state(1), Some(("unavailable", false)));
        assert_eq!(state(2), Some(("paused", false)), "it holds on to nothing either");
        assert_eq!(state(3), Some(("seeding", true)), "another folder's");
        let State::Checking(progress) = &torrents.entry(hash(4)).expect("it is there").state else {
            panic!("it is still being checked");
        };
        assert!(progress.is_cancelled());
        assert!(waits_in(&torrents, hash(1), &[0]) && !waits_in(&torrents, hash(1), &[1]));
        assert_eq!(torrents.check_anew(hash(1), &Arc::default()), Some(5));
        assert!(!waits_in(&torrents, hash(1), &[0]));
    }

    #[test]
    fn a_pause_outlives_a_check_and_ends_with_the_torrent() {
        let mut torrents = Torrents::new(HashSet::from([ONE]), Arc::default());
        add(&mut torrents, "a", ONE);
        assert!(torrents.is_paused(ONE), "it was paused before it came");
        assert_eq!(
            torrents.counts(),
            [1, 0, 0, 0, 0, 0, 0, 0],
            "it is checked all the same"
        );
        torrents.settle(ONE, 1, State::Paused, None);
        assert_eq!(torrents.counts(), [0, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(torrents.set_paused(ONE, true), Some(false));
        assert_eq!(torrents.set_paused(ONE, false), Some(true));
        assert_eq!(torrents.set_paused(TWO, false), None);
        torrents.set_paused(ONE, true);
        remove(&mut torrents, "a");
        add(&mut torrents, "a", ONE);
        assert!(!torrents.is_paused(ONE));
    }

    #[test]
    fn torrent_that_rests_is_seeded_and_counted_and_known_to_the_shards_by_name_alone() {
        let resting = Arc::<Resting>::default();
        let mut torrents = Torrents::new(HashSet::new(), Arc::clone(&resting));
        add(&mut torrents, "a", ONE);
        torrents.rest(ONE);
        assert_eq!(torrents.counts(), [0, 1, 0, 0, 0, 0, 0, 0]);
        assert!(resting.contains(ONE) && torrents.entry(ONE).is_some_and(Entry::rests));
        let (_temp, torrent) = torrent();
        assert!(torrents.wake(ONE, &torrent));
        assert!(!torrents.wake(ONE, &torrent), "it is awake");
        assert_eq!(torrents.loaded_count(), 1);
        assert_eq!(torrents.idle().count(), 1, "nobody is connected");
        torrent.count_uploaded(5);
        torrents.rest(ONE);
        assert_eq!(torrents.loaded_count(), 0);
        assert!(torrents.wake(ONE, &torrent));
        assert_eq!(
            torrents.entry(ONE).map(Entry::moved),
            Some((10, 0)),
            "what it moved before counts"
        );
        torrents.rest(ONE);
        // Whatever it does else ends its rest.
        torrents.set_paused(ONE, true);
        assert!(!resting.contains(ONE) && !torrents.wake(ONE, &torrent));
        torrents.set_paused(ONE, false);
        assert_eq!(torrents.check_anew(ONE, &Arc::default()), Some(2));
        torrents.settle(ONE, 2, State::Seeding, None);
        torrents.rest(ONE);
        assert!(resting.contains(ONE));
        remove(&mut torrents, "a");
        assert!(!resting.contains(ONE));
        assert_eq!(torrents.counts(), [0; 8]);
    }

    #[test]
    fn torrent_that_rests_waits_for_its_folder_like_the_others_and_is_not_woken_meanwhile() {
        let resting = Arc::<Resting>::default();
        let mut torrents = Torrents::new(HashSet::new(), Arc::clone(&resting));
        add(&mut torrents, "a", ONE);
        add(&mut torrents, "b", TWO);
        torrents.rest(ONE);
        torrents.rest(TWO);
        let check = Arc::new(Progress::default());
        assert_eq!(torrents.check_anew(TWO, &check), Some(3), "somebody wants to be sure");
        let lost = lose_all(&mut torrents);
        assert!(lost.iter().all(|lost| lost.rested) && lost.len() == 2, "{lost:?}");
        assert!(matches!(&lost[0].contents, Contents::InFile(file) if **file == *Path::new("a")));
        assert!(!resting.contains(ONE) && !resting.contains(TWO));
        assert!(waits_in(&torrents, ONE, &[0]) && check.is_cancelled());
        let entry = torrents.entry(ONE).expect("it is there");
        assert_eq!((entry.why(), entry.is_known()), (Some("it is gone"), false));
        let (_temp, torrent) = torrent();
        assert!(!torrents.wake(ONE, &torrent) && !torrents.wake(TWO, &torrent));
        assert!(lose_all(&mut torrents).is_empty(), "they are lost once");
        assert_eq!(torrents.counts(), [1, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn torrent_that_nobody_has_read_all_of_does_not_rest() {
        let mut torrents = Torrents::default();
        add(&mut torrents, "a", ONE);
        let torrent = torrent().1.with_unread(&Bitfield::full(1));
        torrents.settle(ONE, 1, State::Seeding, Some(Arc::clone(&torrent)));
        assert_eq!(torrents.idle().count(), 0, "what is unread is known of this one alone");
        torrent.grant(torrent.geometry().piece_index(0).expect("a piece"));
        assert_eq!(torrents.idle().count(), 1);
    }

    #[test]
    fn torrent_that_rests_can_be_woken_while_it_is_checked_and_what_the_check_says_holds() {
        let resting = Arc::<Resting>::default();
        let mut torrents = Torrents::new(HashSet::new(), Arc::clone(&resting));
        add(&mut torrents, "a", ONE);
        torrents.rest(ONE);
        let generation = torrents.check_anew(ONE, &Arc::default()).expect("it begins");
        assert!(resting.contains(ONE), "somebody only wants to be sure");
        let (_temp, torrent) = torrent();
        assert!(torrents.wake(ONE, &torrent));
        let settled = torrents.settle(ONE, generation, State::Missing, None).expect("settled");
        assert!(settled.was_served && !resting.contains(ONE));
        assert_eq!((torrents.loaded_count(), torrents.counts()[3]), (0, 1));
    }

    /// What is in here for each torrent is there 100,000 times. Whatever makes it longer should be behind `rare`.
    #[test]
    fn entry_is_no_longer_than_it_was() {
        assert!(size_of::<Entry>() <= 112, "{}", size_of::<Entry>());
    }

    #[test]
    fn pages_go_on_where_the_last_ended_whatever_has_gone_meanwhile() {
        let mut torrents = Torrents::default();
        let hash = |byte| InfoHash([byte; 20]);
        for byte in [5, 1, 9, 3] {
            add(&mut torrents, &byte.to_string(), hash(byte));
        }
        let page = |torrents: &Torrents, after| -> Vec<InfoHash> {
            torrents.after(after).take(2).map(|(info_hash, _)| info_hash).collect()
        };
        assert_eq!(page(&torrents, None), [hash(1), hash(3)]);
        remove(&mut torrents, "3");
        assert_eq!(page(&torrents, Some(hash(3))), [hash(5), hash(9)]);
        assert_eq!(page(&torrents, Some(hash(9))), []);
        let between: Vec<_> = torrents.between(hash(1), hash(5)).map(|(hash, _)| hash).collect();
        assert_eq!(between, [hash(1), hash(5)]);
    }
}
