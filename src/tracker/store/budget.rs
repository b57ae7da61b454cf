//! How much memory the store may take, and what lengths allocations have.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The bytes in use, shared by all stripes, and a cap. It is touched when something grows or shrinks, not by an announce
/// that finds its peer.
#[derive(Debug)]
pub(super) struct Budget {
    used: Arc<AtomicUsize>,
    cap: usize,
}

/// One count of bytes with a cap for each purpose, so that what is cheap to make up never takes what swarms need that have
/// shown that they are real.
#[derive(Debug)]
pub(super) struct Budgets {
    /// For torrents to be known at all: five eighths. Theirs is not given back when one makes way for another.
    pub(super) torrents: Budget,
    /// For the tables of a swarm's first peers, and for names and peer ids: three quarters.
    pub(super) first: Budget,
    /// For swarms that have more peers than that, but are small: seven eighths.
    pub(super) small: Budget,
    /// For large ones: all.
    pub(super) all: Budget,
}

impl Budgets {
    pub(super) fn new(cap: usize) -> Self {
        let all = Budget::new(cap);
        Self {
            torrents: all.with_cap(cap / 8 * 5),
            first: all.with_cap(cap / 4 * 3),
            small: all.with_cap(cap / 8 * 7),
            all,
        }
    }
}

/// There is no memory left for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tracker) struct Full;

impl Budget {
    pub(super) fn new(cap: usize) -> Self {
        Self {
            used: Arc::default(),
            cap,
        }
    }

    /// The same bytes under a cap of what is in use now, if that is more: for what takes the place of something else.
    pub(super) fn as_full_as_now(&self) -> Self {
        self.with_cap(self.cap.max(self.used()))
    }

    /// The same bytes under another cap.
    fn with_cap(&self, cap: usize) -> Self {
        Self {
            used: Arc::clone(&self.used),
            cap,
        }
    }

    /// Takes so many bytes, if the cap allows.
    pub(super) fn take(&self, len: usize) -> Result<(), Full> {
        // Relaxed: it is a number and guards nothing. Two that take at once may both be refused, never both admitted.
        if self.used.fetch_add(len, Relaxed).saturating_add(len) > self.cap {
            self.used.fetch_sub(len, Relaxed);
            return Err(Full);
        }
        Ok(())
    }

    /// Takes so many bytes whatever the cap: for what gives back more at once.
    pub(super) fn take_anyway(&self, len: usize) {
        self.used.fetch_add(len, Relaxed);
    }

    /// Gives bytes back.
    pub(super) fn give(&self, len: usize) {
        let before = self.used.fetch_sub(len, Relaxed);
        debug_assert!(before >= len, "{len} bytes given back of {before}");
    }

    /// The bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

/// The length to allocate where `len` bytes are needed: what an allocator with classes of sizes (mimalloc's are these: four
/// for each power of two) would take for it anyway. Tables use all of it, and grow from one class to the next.
pub(super) const fn good_len(len: usize) -> usize {
    if len <= 16 {
        return len.next_multiple_of(8);
    }
    let step = 1 << ((len - 1).ilog2() - 2);
    len.next_multiple_of(if step < 16 { 16 } else { step })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_not_counted() {
        let budget = Budget::new(100);
        assert_eq!(
            (budget.take(60), budget.take(41), budget.used()),
            (Ok(()), Err(Full), 60)
        );
        assert_eq!((budget.take(40), budget.take(1)), (Ok(()), Err(Full)));
        budget.give(60);
        assert_eq!((budget.take(usize::MAX), budget.used()), (Err(Full), 40));
        budget.take_anyway(1000);
        assert_eq!(budget.used(), 1040);
    }

    #[test]
    fn what_is_for_torrents_and_first_peers_leaves_a_rest_for_others() {
        let budgets = Budgets::new(800);
        assert_eq!(
            (budgets.torrents.take(500), budgets.torrents.take(1)),
            (Ok(()), Err(Full))
        );
        assert_eq!((budgets.first.take(100), budgets.first.take(1)), (Ok(()), Err(Full)));
        assert_eq!((budgets.small.take(100), budgets.small.take(1)), (Ok(()), Err(Full)));
        assert_eq!((budgets.all.take(100), budgets.all.take(1)), (Ok(()), Err(Full)));
        // What makes way has its place taken, and no more than that.
        let instead = budgets.first.as_full_as_now();
        budgets.first.give(50);
        assert_eq!((instead.take(51), instead.take(50)), (Err(Full), Ok(())));
        budgets.first.give(800);
        assert_eq!(budgets.all.used(), 0);
    }

    #[test]
    fn lengths_are_rounded_to_classes() {
        let pairs = [
            (1, 8),
            (9, 16),
            (17, 32),
            (33, 48),
            (65, 80),
            (128, 128),
            (129, 160),
            (257, 320),
            (1025, 1280),
        ];
        for (len, good) in pairs {
            assert_eq!(good_len(len), good, "{len}");
        }
        for len in 1..100_000 {
            let good = good_len(len);
            assert!(
                good >= len && good_len(good) == good && good <= len + len / 4 + 16,
                "{len} to {good}"
            );
        }
    }
}
