//! What is seen to as time passes, and how btd says how it stands.

use std::time::{Duration, Instant};

use super::Supervisor;
use crate::control::ctl::counted;
use crate::control::metrics;
use crate::control::service_manager;
use crate::control::torrents::{STATE_NAMES, State};

/// Each torrent is measured once in so many ticks, which takes 5 s.
const MEASURE_TURNS: usize = 20;
/// How often a long check says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// How often payload that was not there is looked for again: it may be on a disk that is mounted late.
pub(super) const MISSING_RETRY: Duration = Duration::from_secs(30);
/// How much more time the service manager is asked for while more torrent files are read.
const START_PATIENCE: Duration = Duration::from_secs(120);

impl Supervisor<'_> {
    pub(super) fn on_tick(&mut self) {
        self.shards.flush();
        self.look_at_device();
        self.look_at_addresses();
        self.look_at_rates();
        self.tell_held();
        let now = Instant::now();
        self.downloads.on_tick(now);
        self.totals.on_tick(self.wants_standings(), now);
        for info_hash in self.unread.on_tick(now) {
            self.totals.note_whole(info_hash);
        }
        self.look_at_due();
        self.check_doubtful(now);
        self.look_for_payload(now);
        self.measure(now);
        self.tend_resting(now);
        self.publish_counts();
        if let Some(reporter) = &self.reporter {
            reporter.look_at_shards(now);
        }
        self.watchdog.on_tick(now);
        self.lines.on_tick(now);
        if now.duration_since(self.progress_told) >= PROGRESS_EVERY {
            self.progress_told = now;
            self.tell_progress();
            self.check_changed();
            self.tell_damage();
        }
        if now.duration_since(self.missing_tried) >= MISSING_RETRY {
            self.missing_tried = now;
            for job in std::mem::take(&mut self.missing) {
                if self.torrents.is_missing(job.info_hash, job.generation) {
                    self.look_again(job);
                }
            }
        }
        let status = self.status();
        if self.ready && status != self.status_told {
            service_manager::status(&status);
            self.status_told = status;
        }
        let count = self.torrents.len();
        if !self.ready && count > self.start_told {
            service_manager::starting(&format!("reading torrent files, {count} so far"), START_PATIENCE);
            self.start_told = count;
        }
    }

    /// Takes the rates that those who ask are told.
    pub(super) fn measure(&mut self, now: Instant) {
        let shards = self.shards.counters();
        self.pulse.look(now);
        self.throughput.look(shards.iter().map(|shard| shard.counters()), now);
        if self.throughput.is_moving(now) {
            let (count, top) = (self.torrents.loaded_count() / MEASURE_TURNS + 1, &mut self.top);
            if self.torrents.measure(count, now, |torrent| top.offer(torrent)) {
                self.top.end_round();
            }
        }
    }

    /// One line for each check that takes long, but not a screenful; once in a pause, in which none goes on.
    pub(super) fn tell_progress(&mut self) {
        let [checking, ..] = self.torrents.counts();
        let is_paused = self.throttle.is_paused();
        if checking == 0 || is_paused && self.pause_told {
            return;
        }
        self.pause_told = is_paused;
        let mut told = 0;
        for entry in self.torrents.iter() {
            let State::Checking(progress) = &entry.state else {
                continue;
            };
            let Some(line) = progress.line(is_paused) else {
                continue;
            };
            tracing::info!("checking {:?}: {line}", entry.name);
            told += 1;
        }
        if checking > told {
            let count = (checking - told) as u64;
            let wait = if count == 1 { "waits" } else { "wait" };
            tracing::info!("{} more {wait} to be checked", counted(count, "torrent"));
        }
    }

    /// One line for the service manager: `3 torrents: 2 seeding, 1 checking`.
    pub(super) fn status(&self) -> String {
        let count = self.torrents.len();
        let parts: Vec<String> = std::iter::zip(self.torrents.counts(), STATE_NAMES)
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        let colon = if parts.is_empty() { "" } else { ": " };
        let but = match self.reload.refused() {
            Some(_) => "; the last reload was refused (btd ctl health)",
            None => "",
        };
        format!("{}{colon}{}{but}", counted(count as u64, "torrent"), parts.join(", "))
    }

    pub(super) fn publish_counts(&self) {
        metrics::publish_torrents(&STATE_NAMES, &self.torrents.counts());
    }
}
