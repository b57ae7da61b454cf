//! Ends everything, within the seconds that are promised.

use std::time::{Duration, Instant};

use super::Supervisor;
use super::error::Error;
use crate::control::ctl::socket;
use crate::control::signals::Request;
use crate::control::torrents::State;
use crate::control::{blocking, service_manager};
use crate::shard::Event;

/// How long the shards may take to stop. With the rest it stays within the 5 s that are promised.
pub(super) const STOP_DEADLINE: Duration = Duration::from_secs(4);
/// Of it, how long trackers are waited for.
const UNANNOUNCE_DEADLINE: Duration = Duration::from_secs(3);

impl Supervisor<'_> {
    /// Ends everything in the order that keeps promises: nobody is sent here any more, then the work ends.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        let started = Instant::now();
        tracing::info!("stopping");
        service_manager::stopping();
        if let Err(error) = self.state_dir.remove_ports() {
            tracing::error!("{error}");
        }
        socket::remove(&self.config.state_dir);
        for task in &self.tasks {
            task.abort();
        }
        self.folders.close_all();
        let scrubs = self.take_scrubs();
        drop(self.scrub_asks); // Who waits for an answer ends.
        drop(self.asked); // Who waits for an answer is told that there will be none.
        self.watched.close();
        self.checks.cancel();
        for entry in self.torrents.iter() {
            if let State::Checking(progress) = &entry.state {
                progress.cancel();
            }
        }
        // The end of the process ends the hashing threads: one may hang on a dead network mount, and is not waited for.
        std::mem::forget(self.pool);
        let lines = self.lines;
        let (checks, session, announcer) = (self.checks, self.session, self.announcer);
        let (mut downloads, mut disk_done, mut events) = (self.downloads, self.disk_done, self.events);
        let (mut totals, shards, sharing, mut unread) = (self.totals, self.shards, self.sharing, self.unread);
        let served = async {
            shards.stop().await;
            // Nothing is announced any more.
            if let Some((task, ending)) = sharing {
                ending.end(task).await;
            }
        };
        let kept = async {
            // A disk that hangs takes its time from nobody else's record.
            let rested = tokio::time::timeout(STOP_DEADLINE / 2, downloads.rest(&mut disk_done));
            let unannounced = announcer.stop(UNANNOUNCE_DEADLINE);
            let scrubbed = async {
                if let Some(scrubs) = scrubs {
                    scrubs.end(STOP_DEADLINE / 2).await;
                }
            };
            let (_, (), _, (), ()) =
                tokio::join!(checks.ended(STOP_DEADLINE / 2), served, rested, unannounced, scrubbed);
            // What the shards have told last.
            while let Ok(event) = events.try_recv() {
                if let Event::Written {
                    info_hash,
                    have,
                    files,
                    complete,
                } = event
                {
                    downloads.on_written(info_hash, have, (files, complete));
                }
            }
            for info_hash in unread.record_all() {
                totals.note_whole(info_hash);
            }
            let settle = downloads.settle();
            let totals = totals.settle();
            // On a thread of its own: a disk that hangs must not delay the stop beyond its time.
            let settled = blocking::run("btd-flush", move || {
                settle();
                totals();
                session.flush()
            });
            let _ = settled.await;
        };
        let stopped = tokio::time::timeout(STOP_DEADLINE, kept);
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                result = &mut stopped => {
                    lines.end();
                    result.map_err(|_| Error::Stop)?;
                    tracing::info!("stopped after {:.2} s", started.elapsed().as_secs_f64());
                    return Ok(());
                }
                request = self.signals.next() => if request == Request::Stop {
                    lines.end();
                    tracing::warn!("stopped at once by a second signal");
                    return Ok(());
                },
            }
        }
    }
}
