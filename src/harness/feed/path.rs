//! How fast things go, and how far: a rate that is kept to on the average, and the path between the seeders and the client.
//!
//! All of it is arithmetic on times that are told from outside. A block takes its place on the path when the one before it
//! has left, not when somebody looked: so the rate is exact however seldom the harness gets its turn.

use std::time::Duration;

/// What was not sent for so long may be caught up with. Longer, and a client that did not read for a while would be sent
/// more than the path carries.
const CATCH_UP: Duration = Duration::from_millis(20);

/// One thing after the other, at so many bytes a second.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// Bytes a second; `None` is as fast as it goes.
    rate: Option<f64>,
    free_at: Duration,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>) -> Pace {
        Pace {
            rate: rate.map(|rate| rate as f64),
            free_at: Duration::ZERO,
        }
    }

    /// The earliest time at which what was ready at `ready` can begin.
    pub(super) fn begin(&self, ready: Duration) -> Duration {
        ready.max(self.free_at)
    }

    /// Something begins; gives when its last byte has left.
    pub(super) fn take(&mut self, begin: Duration, len: usize) -> Duration {
        if let Some(rate) = self.rate {
            self.free_at = begin + Duration::from_secs_f64(len as f64 / rate);
            return self.free_at;
        }
        begin
    }
}

/// The path that all seeders share.
#[derive(Debug, Clone)]
pub(super) struct Path {
    /// How long everything takes from one end to the other, in either direction.
    pub(super) delay: Duration,
    pace: Pace,
}

impl Path {
    pub(super) fn new(delay: Duration, rate: Option<u64>) -> Path {
        Path {
            delay,
            pace: Pace::new(rate),
        }
    }

    /// When a block that was ready at `ready` can leave a seeder.
    pub(super) fn begin(&self, seeder: &Pace, ready: Duration) -> Duration {
        seeder.begin(self.pace.begin(ready))
    }

    /// A block leaves a seeder, if its time has come: gives when its last byte arrives.
    pub(super) fn take(&mut self, seeder: &mut Pace, ready: Duration, len: usize, now: Duration) -> Option<Duration> {
        let begin = self.begin(seeder, ready);
        if begin > now {
            return None;
        }
        let begin = begin.max(now.saturating_sub(CATCH_UP));
        Some(self.pace.take(begin, len).max(seeder.take(begin, len)) + self.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn rate_is_kept_to_however_seldom_it_is_looked_at() {
        let (mut path, mut seeder) = (Path::new(50 * MS, Some(1_000_000)), Pace::new(None));
        let (mut bytes, mut last) = (0, Duration::ZERO);
        for turn in 0..200 {
            // Looked at each 7 ms; all was ready at the start.
            while let Some(arrives) = path.take(&mut seeder, Duration::ZERO, 1000, turn * 7 * MS) {
                assert!(arrives > last && arrives >= 51 * MS);
                (bytes, last) = (bytes + 1000, arrives);
            }
        }
        assert_eq!(bytes, 199 * 7 * 1000 + 1000);
        assert_eq!(last, 199 * 7 * MS + 51 * MS);
    }

    #[test]
    fn slower_of_seeder_and_path_decides() {
        for (path, seeder) in [(Some(1000), Some(500)), (Some(500), None), (None, Some(500))] {
            let (mut path, mut seeder) = (Path::new(Duration::ZERO, path), Pace::new(seeder));
            assert_eq!(path.take(&mut seeder, Duration::ZERO, 5, Duration::ZERO), Some(10 * MS));
            assert_eq!(path.take(&mut seeder, Duration::ZERO, 5, 9 * MS), None);
            assert_eq!(path.begin(&seeder, 3 * MS), 10 * MS);
        }
    }

    #[test]
    fn time_in_which_nothing_was_sent_is_not_saved_up() {
        let (mut path, mut seeder) = (Path::new(Duration::ZERO, Some(1000)), Pace::new(None));
        let late = Duration::from_secs(10);
        let mut count = 0;
        while path.take(&mut seeder, Duration::ZERO, 1, late).is_some() {
            count += 1;
        }
        assert_eq!(count, 21);
    }

    #[test]
    fn without_a_rate_only_the_distance_counts() {
        let (mut path, mut seeder) = (Path::new(5 * MS, None), Pace::new(None));
        assert_eq!(path.take(&mut seeder, 3 * MS, 1 << 20, 3 * MS), Some(8 * MS));
        assert_eq!(path.take(&mut seeder, 3 * MS, 1 << 20, 3 * MS), Some(8 * MS));
    }
}
