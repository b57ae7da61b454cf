//! How many requests a tracker host is sent in a second, whatever the number of torrents.

/// Times are in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// When it was full, or will be. It is empty when that is [`BURST`] intervals ahead.
    full_at: u64,
}

/// Requests in any second.
#[cfg(test)]
pub(super) const PER_SECOND_MAX: u64 = 50;
/// Between requests that follow each other. Some room is left for those that are held up on their way and come close together.
const INTERVAL: u64 = 25;
/// Requests at once, after a pause. With those that follow them within a second there are no more than are promised.
const BURST: u64 = 5;
const _: () = assert!(BURST - 1 + 1000_u64.div_ceil(INTERVAL) <= 50);

impl Bucket {
    pub(super) fn new() -> Self {
        Self { full_at: 0 }
    }

    /// When the next request may be sent.
    pub(super) fn ready_at(&self) -> u64 {
        self.full_at.saturating_sub((BURST - 1) * INTERVAL)
    }

    /// One is sent.
    pub(super) fn take(&mut self, now: u64) {
        self.full_at = self.full_at.max(now) + INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_the_rate_and_the_burst() {
        let mut bucket = Bucket::new();
        let mut sent = Vec::new();
        for now in 100_000..110_000 {
            while bucket.ready_at() <= now {
                bucket.take(now);
                sent.push(now);
            }
        }
        assert!(sent.len() as u64 >= 10_000 / INTERVAL);
        let most = sent
            .iter()
            .map(|from| sent.iter().filter(|at| (*from..from + 1000).contains(*at)).count());
        assert!(most.max().unwrap() as u64 <= PER_SECOND_MAX);
    }
}
