//! Tells the service manager that btd is alive, for as long as every shard is.
//!
//! With `WatchdogSec=` in the unit, systemd ends and starts a service anew that has not said so in time. A process whose
//! control plane answers while a shard hangs would be the worst of both: it looks well, and a part of its peers wait for
//! ever. So nothing is said while one of them stands still.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pulse::{Pulse, Silent};
use super::service_manager;
use crate::stats::Shared;

/// A shard ticks each second. One that is silent for longer than this hangs, however long the service manager waits ...
const PATIENCE: Duration = Duration::from_secs(10);
/// ... unless that is not long; but for so long a machine may be busy elsewhere.
const PATIENCE_MIN: Duration = Duration::from_secs(2);
/// Signs of life within the time that the service manager gives: two may come late or get lost.
const SIGNS: u32 = 4;

/// See the head of this file.
pub(super) struct Watchdog {
    pulse: Pulse,
    /// How long the service manager waits for a sign of life, if it does.
    period: Option<Duration>,
    told: Option<Instant>,
    looked: Instant,
    is_silent: bool,
}

/// What a look at the shards came to.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// All are alive, and that is to be told again.
    Tell,
    /// All are alive, which has been told lately or interests nobody.
    Fine,
    /// Some have just been found to hang.
    Lost(Vec<Silent>),
    /// They still do.
    Silent,
    /// All of them go on.
    Back,
}

impl Watchdog {
    /// Follows these shards for the service manager that started this process, if one did.
    pub(super) fn new(shards: Vec<Arc<Shared>>, now: Instant) -> Self {
        Self::every(service_manager::watchdog_period(), shards, now)
    }

    fn every(period: Option<Duration>, shards: Vec<Arc<Shared>>, now: Instant) -> Self {
        Self {
            pulse: Pulse::new(shards, now),
            period,
            told: None,
            looked: now,
            is_silent: false,
        }
    }

    /// To be called several times a second.
    pub(super) fn on_tick(&mut self, now: Instant) {
        match self.look(now) {
            Look::Tell => service_manager::alive(),
            Look::Fine | Look::Silent => {}
            Look::Lost(silent) => {
                let who: Vec<String> = silent.iter().map(ToString::to_string).collect();
                let next = match self.period {
                    Some(period) => format!(
                        ": the service manager will start btd anew if that lasts for {:.0} s",
                        period.as_secs_f64()
                    ),
                    None => String::new(),
                };
                tracing::error!("{}{next}", who.join(", "));
            }
            Look::Back => tracing::warn!("all shards go on"),
        }
    }

    fn look(&mut self, now: Instant) -> Look {
        // All of btd has stood still (SIGSTOP, a machine that slept): the shards could not tick either.
        if now.saturating_duration_since(self.looked) > PATIENCE_MIN {
            self.pulse.forgive(now);
        }
        self.looked = now;
        self.pulse.look(now);
        let patience = self
            .period
            .map_or(PATIENCE, |period| (period / SIGNS).clamp(PATIENCE_MIN, PATIENCE));
        let silent = self.pulse.silent(patience, now);
        let was_silent = std::mem::replace(&mut self.is_silent, !silent.is_empty());
        if !silent.is_empty() {
            return if was_silent { Look::Silent } else { Look::Lost(silent) };
        }
        if was_silent {
            self.told = None; // At once: what is left of the time may be short.
            return Look::Back;
        }
        let is_due = |period: Duration| {
            self.told
                .is_none_or(|told| now.saturating_duration_since(told) >= period / SIGNS)
        };
        if !self.period.is_some_and(is_due) {
            return Look::Fine;
        }
        self.told = Some(now);
        Look::Tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Counters, Histogram};

    const SECOND: Duration = Duration::from_secs(1);

    fn tick(shard: &Shared, uptime: Duration) {
        let none = Histogram::default();
        shard.publish(&Counters::default(), &none, &none, uptime);
    }

    /// Looks each second while only `alive` of two shards tick. Gives what came of it.
    fn looks(
        watchdog: &mut Watchdog,
        alive: &[Arc<Shared>],
        from: Instant,
        seconds: std::ops::Range<u32>,
    ) -> Vec<Look> {
        let look = |second: u32| {
            alive.iter().for_each(|shard| tick(shard, SECOND * (second + 1)));
            watchdog.look(from + SECOND * second)
        };
        seconds.map(look).collect()
    }

    #[test]
    fn signs_of_life_come_four_times_in_the_time_that_is_given() {
        let start = Instant::now();
        let shards = vec![Arc::new(Shared::default()), Arc::new(Shared::default())];
        let mut watchdog = Watchdog::every(Some(30 * SECOND), shards.clone(), start);
        let told: Vec<usize> = looks(&mut watchdog, &shards, start, 0..30)
            .iter()
            .enumerate()
            .filter(|(_, look)| **look == Look::Tell)
            .map(|(second, _)| second)
            .collect();
        assert_eq!(told, [0, 8, 16, 24]);
    }

    #[test]
    fn nothing_is_told_while_one_of_two_shards_hangs_and_at_once_when_it_goes_on() {
        let start = Instant::now();
        let shards = vec![Arc::new(Shared::default()), Arc::new(Shared::default())];
        let mut watchdog = Watchdog::every(Some(8 * SECOND), shards.clone(), start);
        assert!(looks(&mut watchdog, &shards, start, 0..4).contains(&Look::Tell));
        let found = looks(&mut watchdog, &shards[..1], start, 4..20);
        let lost = found
            .iter()
            .position(|look| matches!(look, Look::Lost(silent) if silent[0].shard == 1));
        let lost = lost.expect("it is found out");
        assert!(lost <= 3, "its patience is two seconds: {found:?}");
        assert!(found[lost + 1..].iter().all(|look| *look == Look::Silent), "{found:?}");
        assert_eq!(
            looks(&mut watchdog, &shards, start, 20..22),
            [Look::Back, Look::Tell],
            "it goes on"
        );
    }

    #[test]
    fn a_process_that_was_stopped_as_a_whole_finds_no_shard_silent() {
        let start = Instant::now();
        let shards = vec![Arc::new(Shared::default())];
        let mut watchdog = Watchdog::every(Some(30 * SECOND), shards.clone(), start);
        looks(&mut watchdog, &shards, start, 0..2);
        // A minute later the control plane wakes up before the shard.
        assert_eq!(watchdog.look(start + 60 * SECOND), Look::Tell);
        let found = looks(&mut watchdog, &[], start, 61..80);
        assert!(
            found.iter().any(|look| matches!(look, Look::Lost(_))),
            "but it has to wake up"
        );
    }

    #[test]
    fn nobody_is_told_who_has_not_asked() {
        let start = Instant::now();
        let shards = vec![Arc::new(Shared::default())];
        let mut watchdog = Watchdog::every(None, shards.clone(), start);
        let found = looks(&mut watchdog, &shards, start, 0..20);
        assert!(found.iter().all(|look| *look == Look::Fine), "{found:?}");
        let found = looks(&mut watchdog, &[], start, 20..40);
        assert!(found.iter().any(|look| matches!(look, Look::Lost(_))), "{found:?}");
    }
}
