//! The end of a run: all trackers are told that it was the last time, as far as that can be done in the time there is.
//!
//! Over UDP that is some thousands in a second. Over HTTP each answer is waited for, so that it is as many as there are
//! connections in each round trip: 64 to one tracker, 192 in all. Those torrents come first of which most peers would go on
//! being sent here. Of the rest trackers forget this btd by themselves, since it does not come back in time.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::known::unix;
use super::task::{Leaving, Task};

/// How long after the stop a tracker of which nothing has been heard may still answer: it may have us in its list.
const GRACE: Duration = Duration::from_secs(1);
/// So many torrents are told of over the connections there are.
const FEW: usize = 64;
/// How much of the time there is may go by before the last is sent: the rest is for its answer.
const SENDING: f64 = 0.75;

impl Task {
    /// Tells all trackers that it was the last time.
    pub(super) async fn stop(&mut self, deadline: Instant) {
        let now = Instant::now();
        self.schedule.note_all();
        self.keep();
        self.failed = self.schedule.failed(now, unix());
        self.is_stopping.store(true, Relaxed);
        if self.schedule.len() > FEW {
            self.http.part();
        }
        self.udp.part();
        self.schedule
            .remove_all(deadline.saturating_duration_since(now).mul_f64(SENDING), now);
        let mut give_up_at = Some(now + GRACE);
        self.leaving.extend(
            self.torrents
                .drain()
                .map(|(info_hash, entry)| (info_hash, Leaving::new(entry, now))),
        );
        loop {
            self.send();
            if self.schedule.is_empty() {
                return;
            }
            if give_up_at.is_some_and(|at| at <= Instant::now()) {
                give_up_at = None;
                for call in self.schedule.give_up(Instant::now()) {
                    if let Some(handle) = self.handles.remove(&call) {
                        handle.abort();
                    }
                }
                continue;
            }
            let wakes = [self.schedule.next_at(), give_up_at, Some(deadline)];
            let next = wakes.into_iter().flatten().min().unwrap_or(deadline);
            tokio::select! {
                // One that was given up is none that is done.
                Some(done) = self.calls.join_next() => if let Ok((call, result)) = done {
                    self.on_done(&call, result);
                },
                () = tokio::time::sleep_until(next.into()) => if Instant::now() >= deadline {
                    tracing::info!(
                        "{} torrents could not be taken back from their trackers in time: they forget btd by themselves, or \
                         hear of it again at the next start",
                        self.schedule.len()
                    );
                    return;
                },
            }
        }
    }
}
