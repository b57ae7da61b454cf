//! Which torrents there are, which files they come from, and how they do.
//!
//! A plain table without disk, clock or shard: the supervisor asks it what an event means, and acts. One torrent may
//! come from several files; it is added with the first and removed with the last.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::checks::Progress;
use super::meter::Meter;
use crate::proto::InfoHash;
use crate::shard::Torrent;

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

/// One torrent.
#[derive(Debug)]
pub(super) struct Entry {
    /// For messages.
    pub(super) name: String,
    /// Where it stands.
    pub(super) state: State,
    /// What the shards have.
    pub(super) served: Option<Arc<Torrent>>,
    /// Tells the check that counts from earlier ones of the same info-hash that may still end.
    pub(super) generation: u64,
    /// What the last check said; `None` when what the next one says is to be told in any case.
    settled_as: Option<usize>,
    /// The watch folder whose data folder the last check looked into.
    folder: usize,
    /// Where it comes from, each with its watch folder. Never empty.
    files: BTreeMap<PathBuf, usize>,
    /// Its length in bytes.
    len: u64,
    paused: bool,
    /// Whether the last check could say what there is of it.
    is_known: bool,
    /// Why it stands as it does, where that wants saying.
    why: Option<Box<str>>,
    meter: Meter,
}

impl Entry {
    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The watch folder whose data folder its payload is looked for in.
    pub(super) fn folder(&self) -> usize {
        self.folder
    }

    /// The files that it comes from.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
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
        self.why.as_deref()
    }

    /// Bytes a second, up and down.
    pub(super) fn rates(&self) -> (u64, u64) {
        self.meter.rates()
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
    by_file: HashMap<PathBuf, InfoHash>,
    counts: [usize; STATE_NAMES.len()],
    generations: u64,
    /// Those that are paused, or will be when they are added.
    paused: HashSet<InfoHash>,
    /// Whose rates were taken last.
    measured: Option<InfoHash>,
}

impl Torrents {
    /// No torrents yet; these are paused when they come.
    pub(super) fn new(paused: HashSet<InfoHash>) -> Self {
        Self {
            paused,
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
        name: &str,
        progress: &Arc<Progress>,
    ) -> (Addition, Removal) {
        if self.by_file.get(file) == Some(&info_hash) {
            return (Addition::Known, Removal::Nothing);
        }
        let replaced = self.remove(file);
        self.by_file.insert(file.to_owned(), info_hash);
        if let Some(entry) = self.by_hash.get_mut(&info_hash) {
            let other = entry.files.keys().next().cloned().unwrap_or_default();
            entry.files.insert(file.to_owned(), folder);
            return (Addition::SameAs(other), replaced);
        }
        self.generations += 1;
        let entry = Entry {
            name: name.to_owned(),
            state: State::Checking(Arc::clone(progress)),
            served: None,
            generation: self.generations,
            settled_as: None,
            folder,
            files: BTreeMap::from([(file.to_owned(), folder)]),
            len: progress.total(),
            paused: self.paused.contains(&info_hash),
            is_known: false,
            why: None,
            meter: Meter::default(),
        };
        self.counts[entry.state.index()] += 1;
        self.by_hash.insert(info_hash, entry);
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
        entry.files.remove(file);
        if let Some((file, folder)) = entry.files.iter().next() {
            return match entry.files.values().any(|folder| *folder == entry.folder) {
                true => Removal::Nothing,
                false => Removal::Moved {
                    info_hash,
                    file: file.clone(),
                    folder: *folder,
                },
            };
        }
        match self.by_hash.remove(&info_hash) {
            Some(entry) => {
                self.counts[entry.state.index()] -= 1;
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
        let was_served = std::mem::replace(&mut entry.served, served).is_some();
        let is_news = entry.settled_as.replace(state.index()) != Some(state.index());
        self.counts[entry.state.index()] -= 1;
        self.counts[state.index()] += 1;
        entry.state = state;
        Some(Settled { was_served, is_news })
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
        entry.folder = folder;
        if let State::Checking(progress) = &entry.state {
            progress.cancel();
        }
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
        entry.why = None;
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
        let settled = self
            .by_hash
            .values()
            .filter(|entry| !matches!(entry.state, State::Checking(_)));
        settled
            .filter_map(|entry| Some((entry.folder, entry.served.clone()?)))
            .filter(|(_, torrent)| torrent.is_changed())
            .collect()
    }

    /// Torrents of which a part is served, each with the watch folder it was found in.
    pub(super) fn partial(&self) -> Vec<(usize, Arc<Torrent>)> {
        let partial = self.by_hash.values();
        let partial = partial.filter(|entry| matches!(entry.state, State::Partial));
        partial
            .filter_map(|entry| Some((entry.folder, entry.served.clone()?)))
            .collect()
    }

    /// The files of a watch folder that hold torrents.
    pub(super) fn files_in(&self, folder: usize) -> Vec<PathBuf> {
        let files = self.by_hash.values().flat_map(|entry| &entry.files);
        files
            .filter(|(_, of)| **of == folder)
            .map(|(file, _)| file.clone())
            .collect()
    }

    /// Torrents that were whole and of which pieces can no longer be read. Each is given once.
    pub(super) fn newly_damaged(&mut self) -> Vec<Arc<Torrent>> {
        let mut damaged = Vec::new();
        for entry in self.by_hash.values_mut() {
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
            entry.why = None;
            entry.settled_as = Some(entry.state.index());
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
        if let Some(entry) = self.by_hash.get_mut(&info_hash) {
            entry.why = why.map(String::into_boxed_str);
        }
    }

    /// The data folders of these watch folders are gone. Gives the torrents there that shards have, or had: they have them
    /// no more, and wait for the folder. What is being checked is told to stop, what is paused stays so.
    pub(super) fn lose(&mut self, folders: &[usize], why: &str) -> Vec<Arc<Torrent>> {
        let mut lost = Vec::new();
        for entry in self
            .by_hash
            .values_mut()
            .filter(|entry| folders.contains(&entry.folder))
        {
            let served = entry.served.take();
            if let State::Checking(progress) = &entry.state {
                progress.cancel();
            } else if served.is_some() {
                entry.is_known = false;
                entry.why = Some(why.into());
                if !entry.paused {
                    entry.settled_as = None;
                    self.counts[entry.state.index()] -= 1;
                    entry.state = State::Unavailable;
                    self.counts[entry.state.index()] += 1;
                }
            }
            lost.extend(served);
        }
        lost
    }

    /// Whether this one waits for its data folder, which is that of one of these watch folders.
    pub(super) fn is_unavailable_in(&self, info_hash: InfoHash, folders: &[usize]) -> bool {
        let entry = self.by_hash.get(&info_hash);
        entry.is_some_and(|entry| matches!(entry.state, State::Unavailable) && folders.contains(&entry.folder))
    }

    /// Takes the rates of the next `count` torrents, in turn, and shows each to `look`. Whether these were the last of them all,
    /// and the first are the next.
    pub(super) fn measure(&mut self, count: usize, now: Instant, mut look: impl FnMut(&Arc<Torrent>)) -> bool {
        let from = self.measured.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut last, mut seen) = (None, 0);
        for (info_hash, entry) in self.by_hash.range_mut((from, Bound::Unbounded)).take(count) {
            if let Some(torrent) = &entry.served {
                entry.meter.look((torrent.uploaded(), torrent.downloaded()), now);
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
        Some((entry.folder, entry.served.as_ref()))
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

    const ONE: InfoHash = InfoHash([1; 20]);
    const TWO: InfoHash = InfoHash([2; 20]);

    /// What shards may have of a torrent; its info-hash is not looked at.
    fn served() -> Arc<Torrent> {
        let meta = crate::control::watch::testing::torrent("x");
        let meta = crate::proto::metainfo::Metainfo::parse(&meta).expect("a torrent");
        let root = Arc::new(crate::storage::Root::open("/").expect("a folder"));
        Torrent::new(meta, root, &crate::proto::bitfield::Bitfield::full(1), &[None])
    }

    fn add(torrents: &mut Torrents, file: &str, info_hash: InfoHash) -> (Addition, Option<InfoHash>) {
        let (addition, replaced) = torrents.add(0, Path::new(file), info_hash, "name", &Arc::default());
        (addition, gone(&replaced))
    }

    fn remove(torrents: &mut Torrents, file: &str) -> Option<InfoHash> {
        gone(&torrents.remove(Path::new(file)))
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
            torrents.add(folder, Path::new(file), ONE, "name", &Arc::default()).0
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
            torrents.add(folder, Path::new(&file), hash, "name", &Arc::default());
        }
        let hash = |byte| InfoHash([byte; 20]);
        for (byte, generation) in [(1, 1), (2, 2), (3, 3)] {
            torrents.settle(hash(byte), generation, State::Seeding, Some(served()));
        }
        torrents.set_paused(hash(2), true);
        let lost = torrents.lose(&[0], "it is gone");
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
        assert!(torrents.is_unavailable_in(hash(1), &[0]) && !torrents.is_unavailable_in(hash(1), &[1]));
        assert_eq!(torrents.check_anew(hash(1), &Arc::default()), Some(5));
        assert!(!torrents.is_unavailable_in(hash(1), &[0]));
    }

    #[test]
    fn a_pause_outlives_a_check_and_ends_with_the_torrent() {
        let mut torrents = Torrents::new(HashSet::from([ONE]));
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
