//! Torrents that wait to be checked, and which of them is next: the threads come for tasks, and sleep while there is none.
//!
//! Each change makes room for one task at most, and wakes one thread (`tests/loom` tries all orders).

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::Job;
use crate::storage::{Device, Root};

/// Checks at once on one disk that does not seek.
const AT_ONCE: usize = 4;

/// Torrents that wait for a thread, and those that wait for their disk.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    bell: Condvar,
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
}

/// A torrent whose disk is known.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) job: Job,
    pub(super) root: Arc<Root>,
}

/// What a thread is to do next.
pub(super) enum Task {
    /// Find out on which disk this one lies.
    Place(Job),
    /// Check this one; [`Queue::done`] when that is over.
    Check(Device, Placed),
    /// Nothing more.
    Ended,
}

impl Queue {
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
        let placed = state.devices.values().map(|lane| lane.waiting.len());
        state.fresh.len() + placed.sum::<usize>()
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
            // Those that can run come before those that may have to wait.
            for (device, lane) in &mut state.devices {
                if lane.running < at_once(*device)
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

    /// What [`Task::Place`] asked for is done.
    pub(super) fn placed(&self, folder: &Path) {
        self.lock().placing.remove(folder);
        self.bell.notify_one();
    }

    /// What [`Task::Check`] asked for is done.
    pub(super) fn done(&self, device: Device) {
        let mut state = self.lock();
        if let Some(lane) = state.devices.get_mut(&device) {
            lane.running -= 1;
            if lane.running == 0 && lane.waiting.is_empty() {
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
