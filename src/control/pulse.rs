//! Whether the shards are alive: each ticks at least once a second, and one that has not for a while serves nobody.
//!
//! Only looks, when it is asked to. What follows is for others: `metrics` answers `/health` with it, `watchdog` tells the
//! service manager.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stats::Shared;

/// One that has not ticked for this long serves nobody.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(10);

/// The shards' signs of life.
pub(super) struct Pulse {
    shards: Vec<Beat>,
}

struct Beat {
    shard: Arc<Shared>,
    /// Its last tick, and when that was new.
    tick: Duration,
    seen: Instant,
}

/// A shard that stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Silent {
    /// Which, from 0.
    pub(super) shard: usize,
    /// For how long nothing was seen of it.
    pub(super) time: Duration,
}

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "shard {} has not ticked for {} s", self.shard, self.time.as_secs())
    }
}

impl Pulse {
    /// Follows these shards; `now` counts as their first sign of life.
    pub(super) fn new(shards: Vec<Arc<Shared>>, now: Instant) -> Self {
        let beat = |shard: Arc<Shared>| Beat {
            tick: shard.last_tick(),
            seen: now,
            shard,
        };
        Self {
            shards: shards.into_iter().map(beat).collect(),
        }
    }

    /// Notices which of them have ticked since the last call.
    pub(super) fn look(&mut self, now: Instant) {
        for beat in &mut self.shards {
            let tick = beat.shard.last_tick();
            if tick != beat.tick {
                (beat.tick, beat.seen) = (tick, now);
            }
        }
    }

    /// Counts all of them as alive now, and from now on as before.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.shards.iter_mut().for_each(|beat| beat.seen = now);
    }

    /// For how long nothing was seen of each.
    pub(super) fn silences(&self, now: Instant) -> impl Iterator<Item = Duration> {
        let beats = self.shards.iter();
        beats.map(move |beat| now.saturating_duration_since(beat.seen))
    }

    /// Those of which nothing was seen for longer than `patience`.
    pub(super) fn silent(&self, patience: Duration, now: Instant) -> Vec<Silent> {
        let all = self.silences(now).enumerate();
        let silent = all.map(|(shard, time)| Silent { shard, time });
        silent.filter(|silent| silent.time > patience).collect()
    }
}
