//! Data folders that go and come back: see [`crate::control::places`].
//!
//! What is lost is told once for a folder, however many torrents it has. Their torrents leave the shards and their
//! trackers, keep what is known of them in the session, and let go of the folder's descriptor, so that a disk that was
//! unmounted by force is really free. When the folder is back they are checked as at a start: what has not changed is not
//! read again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::Supervisor;
use crate::control::checks::{self, Checked, Found, Progress};
use crate::control::contents::Contents;
use crate::control::ctl::counted;
use crate::control::places::{Absence, BoundAgain, Look, Places, Watching};
use crate::control::torrents::Lost;
use crate::proto::InfoHash;
use crate::session::Store;
use crate::shard::Torrent;

/// The data folders of all watch folders, and what waits for those that are not there.
pub(super) struct DataFolders {
    pub(super) places: Arc<Places>,
    told: UnboundedSender<Look>,
    watched: HashMap<PathBuf, Watched>,
    /// Torrents whose folder is not there.
    waiting: HashMap<InfoHash, Contents>,
    /// What is to be done for folders that have gone or are back, one of each.
    works: VecDeque<Work>,
}

/// What is to be done for the torrents of a folder that has gone or is back.
struct Work {
    path: PathBuf,
    /// The watch folders whose payload is there.
    folders: Vec<usize>,
    step: Step,
    /// The torrent that was looked at last.
    after: Option<InfoHash>,
    /// How many were lost.
    count: usize,
    /// The folder has come back meanwhile.
    is_back: bool,
}

enum Step {
    /// They wait for it, and this is why.
    Lose(String),
    /// They are checked: those that are paused, and then the others.
    Regain { paused: bool },
}

impl Work {
    /// What is to be done when all torrents have been gone through. `folders` are the watch folders by now: a reload may have
    /// opened one meanwhile.
    fn next(self, folders: Vec<usize>) -> Option<Self> {
        let step = match self.step {
            // What is paused comes first: a download has to know whose files it would write to.
            Step::Lose(_) => self.is_back.then_some(Step::Regain { paused: true })?,
            Step::Regain { paused: true } => Step::Regain { paused: false },
            Step::Regain { paused: false } => return None,
        };
        Some(Self { step, folders, ..self })
    }
}

/// Torrents that are looked at in one turn, a few microseconds each.
const SOME: usize = 512;

struct Watched {
    /// `None` if there was no thread to be had: it is tried again when folders change.
    watching: Option<Watching>,
    /// Which folder it was when it was looked at last.
    seen: Option<(u64, u64)>,
    /// Why it cannot be used, as it was told last.
    absent: Option<String>,
    /// Somebody has said that its payload is on another disk, and it was not bound to that one since.
    has_moved: bool,
}

impl DataFolders {
    /// None yet. What is seen of them is received from the other end.
    pub(super) fn new(session: &Arc<Store>) -> (Self, UnboundedReceiver<Look>) {
        let (told, looks) = unbounded_channel(); // One for each folder every few seconds.
        let folders = Self {
            places: Arc::new(Places::new(Arc::clone(session))),
            told,
            watched: HashMap::new(),
            waiting: HashMap::new(),
            works: VecDeque::new(),
        };
        (folders, looks)
    }

    /// Watches these and no others.
    pub(super) fn follow<'a>(&mut self, dirs: impl Iterator<Item = &'a Path>) {
        let dirs: HashSet<&Path> = dirs.collect();
        let places = &self.places;
        self.watched.retain(|path, _| {
            let is_wanted = dirs.contains(path.as_path());
            if !is_wanted {
                places.release(path); // Its disk can be unmounted.
            }
            is_wanted
        });
        for dir in dirs {
            let watched = self.watched.entry(dir.to_owned()).or_insert(Watched {
                watching: None,
                seen: None,
                absent: None,
                has_moved: false,
            });
            if watched.watching.is_none() {
                let watching = self.places.watch(dir.to_owned(), self.told.clone());
                watched.watching = watching
                    .inspect_err(|error| tracing::error!("no thread that looks at {}: {error}", dir.display()))
                    .ok();
            }
        }
    }

    /// A folder that was said to have moved is there, and torrents are served from it: it is bound to the filesystem that it is
    /// on. Whether it is bound by this. A look that was under way when somebody said so tells nothing of that: it waits for the
    /// next then.
    fn bind_moved(&mut self, path: &Path) -> bool {
        let Some(watched) = self.watched.get_mut(path).filter(|watched| watched.has_moved) else {
            return false;
        };
        let bound = self.places.bind_again(path);
        watched.has_moved = bound == BoundAgain::NotYet;
        bound == BoundAgain::Now
    }

    /// A torrent has gone.
    pub(super) fn forget(&mut self, info_hash: InfoHash) {
        self.waiting.remove(&info_hash);
    }

    /// Why folders cannot be used, a line for each of those that cannot.
    pub(super) fn absences(&self) -> Vec<String> {
        let mut absences: Vec<String> = self
            .watched
            .values()
            .filter_map(|watched| watched.absent.clone())
            .collect();
        absences.sort();
        absences
    }

    /// Why a folder cannot be used, if that is so.
    pub(super) fn absent(&self, path: &Path) -> Option<&str> {
        self.watched.get(path)?.absent.as_deref()
    }
}

impl Supervisor<'_> {
    /// Watches the data folders of the watch folders that there are now.
    pub(super) fn follow_places(&mut self) {
        let dirs = self.folders.open_ones().map(|(_, watch)| watch.data_dir.as_path());
        self.data_folders.follow(dirs);
    }

    /// Somebody has looked at a data folder.
    pub(super) fn on_look(&mut self, Look { path, found }: Look) {
        let Some(watched) = self.data_folders.watched.get_mut(&path) else {
            return; // A reload has taken it away.
        };
        match found {
            Err(absence) => {
                watched.seen = None;
                self.tell_absent(&path, &absence);
            }
            Ok(identity) => {
                let was_absent = watched.absent.take().is_some();
                let is_other = watched.seen.replace(identity).is_some_and(|before| before != identity);
                let has_moved = watched.has_moved;
                if was_absent {
                    tracing::info!(
                        "the data folder {} is there: its torrents are looked at",
                        path.display()
                    );
                    self.regain(&path);
                } else if is_other {
                    tracing::warn!(
                        "the data folder {} is another folder than before: its torrents are looked at again",
                        path.display()
                    );
                    self.lose(&path, "its data folder is another than before");
                    self.regain(&path);
                } else if has_moved && self.is_anything_in(&path) && self.data_folders.bind_moved(&path) {
                    // It has not: what is served from there says that it is the right one.
                    tracing::info!(
                        "the data folder {} has not moved: it is bound to its filesystem again",
                        path.display()
                    );
                }
            }
        }
    }

    /// A data folder cannot be used. It is told when that is new, and so is why.
    pub(super) fn tell_absent(&mut self, path: &Path, absence: &Absence) {
        let why = absence.to_string();
        let Some(watched) = self.data_folders.watched.get_mut(path) else {
            return;
        };
        let before = watched.absent.replace(why.clone());
        if before.as_ref() == Some(&why) {
            return;
        }
        tracing::error!(
            "{why}; meanwhile none of its torrents is served or written to, and what is known of them holds"
        );
        if before.is_none() {
            self.lose(path, &why);
        }
    }

    /// The torrents of a data folder wait for it from now on, be it that they rest. There may be 100,000 of them: those that
    /// [`Supervisor::go_on_with_places`] does not come to at once are told in the turns after this.
    fn lose(&mut self, path: &Path, why: &str) {
        let folders = self.folders_of(path);
        let works = &mut self.data_folders.works;
        works.retain(|work| work.path != path);
        works.push_back(Work {
            path: path.to_owned(),
            folders,
            step: Step::Lose(why.to_owned()),
            after: None,
            count: 0,
            is_back: false,
        });
        self.go_on_with_places();
    }

    /// A data folder is back: the torrents that wait for it are checked, once all that are to wait for it do.
    fn regain(&mut self, path: &Path) {
        let folders = self.folders_of(path);
        let works = &mut self.data_folders.works;
        if let Some(work) = works.iter_mut().find(|work| work.path == path)
            && matches!(work.step, Step::Lose(_))
        {
            work.is_back = true;
            return;
        }
        works.retain(|work| work.path != path);
        works.push_back(Work {
            path: path.to_owned(),
            folders,
            // What is paused comes first: a download has to know whose files it would write to.
            step: Step::Regain { paused: true },
            after: None,
            count: 0,
            is_back: true,
        });
        self.go_on_with_places();
    }

    /// Whether [`Supervisor::go_on_with_places`] has something to do.
    pub(super) fn has_places_to_see_to(&self) -> bool {
        !self.data_folders.works.is_empty()
    }

    /// Does a little of what is to be done for data folders that have gone or are back.
    pub(super) fn go_on_with_places(&mut self) {
        let Some(mut work) = self.data_folders.works.pop_front() else {
            return;
        };
        let page = (work.after, SOME);
        work.after = match &work.step {
            Step::Lose(why) => {
                let (lost, last) = self.torrents.lose((&work.folders, why), page);
                work.count += lost.len();
                lost.into_iter().for_each(|lost| self.lose_one(lost));
                last
            }
            Step::Regain { paused } => {
                let (waiting, last) = self.torrents.unavailable_in((&work.folders, *paused), page);
                waiting.into_iter().for_each(|info_hash| self.regain_one(info_hash));
                last
            }
        };
        self.publish_counts();
        if work.after.is_some() {
            return self.data_folders.works.push_front(work);
        }
        match &work.step {
            Step::Lose(_) => {
                self.data_folders.places.release(&work.path);
                if work.count > 0 {
                    let (path, count) = (work.path.display(), counted(work.count as u64, "torrent"));
                    let wait = if work.count == 1 { "waits" } else { "wait" };
                    tracing::info!("{count} {wait} for the data folder {path}");
                }
            }
            Step::Regain { paused: true } => {}
            Step::Regain { paused: false } => {
                // What was looked for in vain in another folder of this path.
                let missing: Vec<checks::Job> = self.missing.extract_if(.., |job| job.data_dir == work.path).collect();
                for job in missing {
                    if self.torrents.is_missing(job.info_hash, job.generation) {
                        self.look_again(job);
                    }
                }
                self.publish_counts();
            }
        }
        let folders = self.folders_of(&work.path);
        if let Some(next) = work.next(folders) {
            self.data_folders.works.push_front(next);
        }
    }

    fn lose_one(&mut self, lost: Lost) {
        let Lost {
            info_hash,
            contents,
            rested,
        } = lost;
        match rested {
            // Somebody may be waiting for it.
            true => self.shards.refuse(info_hash),
            false => self.shards.remove(info_hash),
        }
        self.downloads.remove(info_hash);
        self.unread.remove(info_hash);
        self.appearing.forget(info_hash); // It holds on to the folder.
        self.announcer.remove(info_hash);
        self.wait_for_place(info_hash, contents);
    }

    fn regain_one(&mut self, info_hash: InfoHash) {
        let Some(contents) = self.data_folders.waiting.remove(&info_hash) else {
            return;
        };
        let Some(entry) = self.torrents.entry(info_hash) else {
            return;
        };
        let (folder, progress) = (entry.folder(), Arc::new(Progress::new(entry.len())));
        if let Some(generation) = self.torrents.check_anew(info_hash, &progress) {
            self.check(folder, generation, (info_hash, contents), true, progress);
        }
    }

    /// What came of a check, unless its data folder has gone meanwhile: then nothing is known. `None` if it was stopped for
    /// that and the folder is back: it is checked again.
    pub(super) fn unless_lost(&mut self, checked: Checked) -> Option<Checked> {
        let Checked { job, result } = checked;
        let is_last = self
            .torrents
            .entry(job.info_hash)
            .is_some_and(|entry| entry.generation == job.generation);
        if !is_last {
            return Some(Checked { job, result });
        }
        let absent = self.data_folders.absent(&job.data_dir);
        let result = match (result, absent) {
            (Err(checks::Error::Unavailable(absence)), _) => {
                self.tell_absent(&job.data_dir, &absence);
                Err(checks::Error::Unavailable(absence))
            }
            (Ok(_) | Err(checks::Error::Stopped(_)), Some(why)) => Err(checks::Error::Lost(why.to_owned())),
            (Ok(found), None) if self.is_of_another_folder(&job.data_dir, &found) => {
                Err(checks::Error::Lost(self.replaced(&job.data_dir)))
            }
            (Err(checks::Error::Stopped(crate::storage::Error::Cancelled)), None) => {
                self.check_once_more(job);
                return None;
            }
            // It came to its end before it could be stopped for that.
            (Ok(_), None) if job.progress.is_to_be_again() => {
                self.check_once_more(job);
                return None;
            }
            (result, _) => result,
        };
        if matches!(result, Err(checks::Error::Unavailable(_) | checks::Error::Lost(_))) {
            self.wait_for_place(job.info_hash, job.contents.clone());
            if !job.trust || job.progress.is_for_all() {
                self.read_all_next(job.info_hash);
            }
        }
        Some(Checked { job, result })
    }

    fn is_of_another_folder(&self, path: &Path, found: &Found) -> bool {
        let torrent = found.torrent.as_ref();
        torrent.is_some_and(|torrent| self.is_in_another_folder(path, torrent))
    }

    /// Whether the folder of this path is another by now than the one that a torrent is in.
    pub(super) fn is_in_another_folder(&self, path: &Path, torrent: &Torrent) -> bool {
        let seen = self.data_folders.watched.get(path).and_then(|watched| watched.seen);
        seen.is_some_and(|seen| seen != torrent.root().identity())
    }

    /// A folder was taken from under a check, and which of the two is there now, the next look tells. Gives why.
    pub(super) fn replaced(&mut self, path: &Path) -> String {
        let why = format!("the data folder {} was replaced meanwhile", path.display());
        if let Some(watched) = self.data_folders.watched.get_mut(path) {
            watched.seen = None;
            watched.absent = Some(why.clone());
            if let Some(watching) = &watched.watching {
                watching.hurry();
            }
        }
        self.lose(path, &why);
        why
    }

    fn wait_for_place(&mut self, info_hash: InfoHash, contents: Contents) {
        // What is paused as well: a download must not write to its files.
        self.data_folders.waiting.insert(info_hash, contents);
    }

    fn check_once_more(&mut self, job: checks::Job) {
        let progress = Arc::new(Progress::new(job.progress.total()));
        // Somebody may have asked for all of it to be read meanwhile.
        let trust = job.trust && !job.progress.is_for_all();
        if !trust {
            progress.want_all();
        }
        if let Some(generation) = self.torrents.check_on(job.info_hash, &progress) {
            self.checks.submit(checks::Job {
                generation,
                progress,
                trust,
                ..job
            });
        }
    }

    /// Whether torrents are served from a data folder, or rest in it.
    fn is_anything_in(&self, path: &Path) -> bool {
        let folders = self.folders_of(path);
        let mut all = self.torrents.iter();
        all.any(|entry| folders.contains(&entry.folder()) && (entry.served.is_some() || entry.rests()))
    }

    /// The watch folders whose payload is in this data folder.
    fn folders_of(&self, path: &Path) -> Vec<usize> {
        let of = self.folders.open_ones().filter(|(_, watch)| watch.data_dir == path);
        of.map(|(number, _)| number).collect()
    }
}

/// Orders.
impl Supervisor<'_> {
    /// What judges data folders.
    pub(in crate::control) fn places(&self) -> Arc<Places> {
        Arc::clone(&self.data_folders.places)
    }

    /// The payload of a data folder has moved to the filesystem that the folder is on now. False if there is no such folder.
    pub(in crate::control) fn moved(&mut self, path: &Path) -> bool {
        let Some(watched) = self.data_folders.watched.get_mut(path) else {
            return false;
        };
        self.data_folders.places.unbind(path);
        watched.has_moved = true;
        if let Some(watching) = &watched.watching {
            watching.hurry();
        }
        tracing::info!(
            "the data folder {} may be on another disk from now on, as somebody asked for",
            path.display()
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_that_is_back_while_it_is_being_lost_is_regained_for_watch_folders_that_were_opened_meanwhile() {
        let work = |is_back| Work {
            path: PathBuf::from("data"),
            folders: vec![0],
            step: Step::Lose("it is gone".to_owned()),
            after: None,
            count: 0,
            is_back,
        };
        assert!(work(false).next(vec![0]).is_none(), "it is away");
        let paused = work(true).next(vec![0, 3]).expect("it is back");
        assert!(matches!(paused.step, Step::Regain { paused: true }) && paused.folders == [0, 3]);
        let others = paused.next(vec![0, 3]).expect("those that are not paused");
        assert!(matches!(others.step, Step::Regain { paused: false }) && others.folders == [0, 3]);
        assert!(others.next(vec![0, 3]).is_none());
    }

    #[test]
    fn folder_that_was_said_to_have_moved_is_bound_once_it_was_looked_at_and_not_forgotten_before() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let session = Arc::new(Store::open(temp.path()).unwrap().0);
        // Nobody watches it by himself here: when it is looked at is this test's.
        let (mut folders, _looks) = DataFolders::new(&session);
        let watched = Watched {
            watching: None,
            seen: None,
            absent: None,
            has_moved: true,
        };
        folders.watched.insert(data.clone(), watched);
        folders.places.unbind(&data);
        assert!(!folders.bind_moved(&data), "what was seen before says nothing");
        assert_eq!(session.load_place(&data).unwrap(), None);
        folders.places.look(&data).unwrap();
        assert!(folders.bind_moved(&data));
        assert!(session.load_place(&data).unwrap().is_some());
        assert!(!folders.bind_moved(&data), "it is bound");
    }
}
