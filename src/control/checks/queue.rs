//! Torrents that wait to be checked, and which of them is next: the threads come for tasks, and sleep while there is none.
//!
//! Those with something on the disk stand in its line. Those of which nothing is there have nothing to read, and do not wait for
//! others that read, nor for a pause of theirs: some threads are never taken by checks. Whether that is so shows when they are looked at,
//! and those of which nothing is recorded are before their turn.
//!
//! Each change makes room for one task at most, and wakes one thread (`tests/loom` tries all orders).

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Job;
use crate::storage::{Device, Root};

/// Checks at once on one disk that does not seek.
const AT_ONCE: usize = 4;
/// Torrents of one disk of which nothing may be there, at once: each takes a moment, unless the disk hangs.
const BARE_AT_ONCE: usize = 2;

/// Torrents that wait for a thread, and those that wait for their disk.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    bell: Condvar,
    /// Checks at once, over all disks.
    checks_max: usize,
}

#[derive(Debug, Default)]
struct QueueState {
    /// Their disk is not known yet.
    fresh: VecDeque<Job>,
    /// Folders whose disk is being found out: one thread at most waits for a dead network mount.
    placing: HashSet<PathBuf>,
    devices: HashMap<Device, Lane>,
    closed: bool,
}

/// The checks on one disk.
#[derive(Debug, Default)]
struct Lane {
    running: usize,
    waiting: VecDeque<Placed>,
    /// The same of those of which nothing may be there.
    bare_running: usize,
    bare: VecDeque<Placed>,
}

impl Lane {
    fn is_over(&self) -> bool {
        self.running + self.bare_running == 0 && self.waiting.is_empty() && self.bare.is_empty()
    }
}

/// A torrent whose disk is known.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) job: Job,
    pub(super) root: Arc<Root>,
}

/// What a thread is to do next.
pub(super) enum Task {
    /// Find out on which disk this one lies, and whether anything of it is recorded.
    Place(Job),
    /// Check this one if nothing of it is there, as may be; [`Queue::bare_done`] when that is over.
    Bare(Device, Placed),
    /// Check this one; [`Queue::done`] when that is over.
    Check(Device, Placed),
    /// Nothing more.
    Ended,
}

/// What a torrent waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// That somebody looks what is there of it.
    ToBePlaced,
    /// Its turn on this disk: so many are checked before it, or being checked.
    InLine(Device, usize),
}

impl Queue {
    /// For so many checks at once, over all disks. Threads beyond these are for the rest.
    pub(super) fn new(checks_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            bell: Condvar::new(),
            checks_max,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // No state here is broken by a panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a torrent whose disk is not known yet. The queue holds no more than there are torrents.
    pub(super) fn submit(&self, job: Job) {
        self.lock().fresh.push_back(job);
        self.bell.notify_one();
    }

    /// How many torrents wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        let state = self.lock();
        let placed = state.devices.values().map(|lane| lane.waiting.len() + lane.bare.len());
        state.fresh.len() + placed.sum::<usize>()
    }

    /// What the torrent waits for of which this is the job; `None` if that does not wait, or is about to be taken.
    pub(super) fn wait_of(&self, is_it: impl Fn(&Job) -> bool) -> Option<Wait> {
        let state = self.lock();
        if state.fresh.iter().any(&is_it) {
            return Some(Wait::ToBePlaced);
        }
        let running: usize = state.devices.values().map(|lane| lane.running).sum();
        state.devices.iter().find_map(|(device, lane)| {
            let before = lane.waiting.iter().position(|placed| is_it(&placed.job));
            let must_wait =
                |before: &usize| lane.running + before >= at_once(*device) || running + before >= self.checks_max;
            let in_line = before
                .filter(must_wait)
                .map(|before| Wait::InLine(*device, lane.running + before));
            let is_bare = || lane.bare.iter().any(|placed| is_it(&placed.job));
            in_line.or_else(|| is_bare().then_some(Wait::ToBePlaced))
        })
    }

    /// Begins nothing more: every thread that waits is told.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_all();
    }

    /// Waits for something to do.
    pub(super) fn next(&self) -> Task {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Task::Ended;
            }
            // Those that can run come before those that may have to wait, and those that take a moment before all.
            for (device, lane) in &mut state.devices {
                if lane.bare_running < BARE_AT_ONCE
                    && let Some(placed) = lane.bare.pop_front()
                {
                    lane.bare_running += 1;
                    return Task::Bare(*device, placed);
                }
            }
            let running: usize = state.devices.values().map(|lane| lane.running).sum();
            for (device, lane) in &mut state.devices {
                if running < self.checks_max
                    && lane.running < at_once(*device)
                    && let Some(placed) = lane.waiting.pop_front()
                {
                    lane.running += 1;
                    return Task::Check(*device, placed);
                }
            }
            let QueueState { fresh, placing, .. } = &mut *state;
            let free = fresh.iter().position(|job| !placing.contains(&job.data_dir));
            if let Some(job) = free.and_then(|index| fresh.remove(index)) {
                placing.insert(job.data_dir.clone());
                return Task::Place(job);
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A torrent waits for its turn on its disk.
    pub(super) fn place(&self, device: Device, placed: Placed) {
        self.lock().devices.entry(device).or_default().waiting.push_back(placed);
        self.bell.notify_one();
    }

    /// Nothing of a torrent may be there, so that it waits for none of those that read before that is seen.
    pub(super) fn place_bare(&self, device: Device, placed: Placed) {
        self.lock().devices.entry(device).or_default().bare.push_back(placed);
        self.bell.notify_one();
    }

    /// What [`Task::Place`] asked for is done.
    pub(super) fn placed(&self, folder: &Path) {
        self.lock().placing.remove(folder);
        self.bell.notify_one();
    }

    /// What [`Task::Check`] asked for is done.
    pub(super) fn done(&self, device: Device) {
        self.change(device, |lane| lane.running -= 1);
    }

    /// What [`Task::Bare`] asked for is done.
    pub(super) fn bare_done(&self, device: Device) {
        self.change(device, |lane| lane.bare_running -= 1);
    }

    fn change(&self, device: Device, change: impl FnOnce(&mut Lane)) {
        let mut state = self.lock();
        if let Some(lane) = state.devices.get_mut(&device) {
            change(lane);
            if lane.is_over() {
                state.devices.remove(&device);
            }
        }
        drop(state);
        self.bell.notify_one();
    }
}

/// Checks at once on one disk. One that seeks reads one torrent well, and two badly; of others small torrents overlap
/// their waiting.
fn at_once(device: Device) -> usize {
    if device.seeks { 1 } else { AT_ONCE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::checks::Progress;
    use crate::control::contents::Contents;
    use crate::proto::InfoHash;
    use crate::storage::Unread;
    use crate::storage::strangers::Blanks;

    /// The torrents of a disk that seeks.
    struct Fixture {
        _temp: tempfile::TempDir,
        root: Arc<Root>,
        disk: Device,
        queue: Queue,
    }

    fn fixture(checks_max: usize) -> Fixture {
        let temp = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(temp.path()).unwrap());
        let mut disk = Device::of(&*root);
        disk.seeks = true;
        Fixture {
            _temp: temp,
            disk,
            root,
            queue: Queue::new(checks_max),
        }
    }

    impl Fixture {
        fn placed(&self, generation: u64) -> Placed {
            let job = Job {
                info_hash: InfoHash([0; 20]),
                generation,
                contents: Contents::InFile(Path::new("none").into()),
                data_dir: self.root.path().to_owned(),
                trust: true,
                unread: Unread::Now,
                doubted: None,
                blanks: Blanks::default(),
                home: None,
                progress: Arc::new(Progress::new(0)),
            };
            let root = Arc::clone(&self.root);
            Placed { job, root }
        }

        /// What is next, by its name and generation.
        fn next(&self) -> (&'static str, u64) {
            match self.queue.next() {
                Task::Place(job) => ("place", job.generation),
                Task::Bare(_, placed) => ("bare", placed.job.generation),
                Task::Check(_, placed) => ("check", placed.job.generation),
                Task::Ended => ("ended", 0),
            }
        }

        fn wait_of(&self, generation: u64) -> Option<Wait> {
            self.queue.wait_of(|job| job.generation == generation)
        }
    }

    #[test]
    fn on_a_disk_that_seeks_one_is_checked_at_a_time_and_those_of_which_nothing_is_there_beside_it() {
        let fixture = fixture(16);
        let (queue, disk) = (&fixture.queue, fixture.disk);
        for generation in [1, 2, 3] {
            queue.place(disk, fixture.placed(generation));
        }
        assert_eq!(fixture.next(), ("check", 1));
        for generation in [4, 5, 6] {
            queue.place_bare(disk, fixture.placed(generation));
        }
        queue.submit(fixture.placed(7).job);
        assert_eq!([fixture.next(), fixture.next()], [("bare", 4), ("bare", 5)]);
        assert_eq!(fixture.next(), ("place", 7), "no more of these at once either");
        queue.bare_done(disk);
        assert_eq!(fixture.next(), ("bare", 6));
        queue.done(disk);
        assert_eq!(fixture.next(), ("check", 2));
        assert_eq!(queue.waiting(), 1);
    }

    #[test]
    fn threads_that_may_not_check_any_more_are_there_for_the_rest() {
        let fixture = fixture(1);
        let (queue, disk) = (&fixture.queue, fixture.disk);
        let mut other = disk;
        other.seeks = false;
        queue.place(disk, fixture.placed(1));
        assert_eq!(fixture.next(), ("check", 1));
        queue.place(other, fixture.placed(2));
        queue.submit(fixture.placed(3).job);
        assert_eq!(fixture.next(), ("place", 3));
        assert_eq!(fixture.wait_of(2), Some(Wait::InLine(other, 0)));
        queue.done(disk);
        assert_eq!(fixture.next(), ("check", 2));
    }

    #[test]
    fn who_waits_knows_behind_how_many() {
        let fixture = fixture(16);
        let (queue, disk) = (&fixture.queue, fixture.disk);
        for generation in [1, 2, 3] {
            queue.place(disk, fixture.placed(generation));
        }
        assert_eq!(fixture.next(), ("check", 1));
        queue.place_bare(disk, fixture.placed(4));
        queue.submit(fixture.placed(5).job);
        let waits = [1, 2, 3, 4, 5].map(|generation| fixture.wait_of(generation));
        let in_line = |before| Some(Wait::InLine(disk, before));
        let looked_for = Some(Wait::ToBePlaced);
        assert_eq!(waits, [None, in_line(1), in_line(2), looked_for, looked_for]);
        // There is a thread for the next one, which has yet to take it.
        queue.done(disk);
        assert_eq!([2, 3].map(|generation| fixture.wait_of(generation)), [None, in_line(1)]);
    }
}
