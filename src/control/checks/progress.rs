//! How far a check is, and how it is told to give up or to rely on nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Instant;

use tokio::sync::SetOnce;

use crate::control::config::display_size;
use crate::storage;

/// How far a check is. Written by its thread, read by the log; also how it is told to give up.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(super) started: OnceLock<Instant>,
    placed: SetOnce<()>,
    total: u64,
    pub(super) inner: storage::Progress,
    /// Somebody wants all of it read, whatever is known.
    for_all: AtomicBool,
    /// It relies on something that is known, or believed.
    relies: AtomicBool,
}

impl Progress {
    pub(crate) fn new(total: u64) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    /// The bytes that there are to look at.
    pub(in crate::control) fn total(&self) -> u64 {
        self.total
    }

    /// Those that were looked at.
    pub(in crate::control) fn done(&self) -> u64 {
        self.inner.bytes_done()
    }

    /// Nobody wants the result any more.
    pub(in crate::control) fn cancel(&self) {
        self.inner.cancel();
    }

    /// Somebody wants all of the payload read, whatever is known of it. One that has begun otherwise is ended early, and is to be
    /// made again ([`Progress::is_to_be_again`]). Whether that is news.
    pub(in crate::control) fn want_all(&self) -> bool {
        let is_news = !self.for_all.swap(true, SeqCst);
        if is_news && self.relies.load(SeqCst) {
            self.cancel();
        }
        is_news
    }

    /// Whether somebody wants all of it read.
    pub(in crate::control) fn is_for_all(&self) -> bool {
        self.for_all.load(SeqCst)
    }

    pub(super) fn relies(&self, relies: bool) {
        self.relies.store(relies, SeqCst);
    }

    /// Whether the check has relied on what was known when somebody wanted all of it read.
    pub(in crate::control) fn is_to_be_again(&self) -> bool {
        self.is_for_all() && self.relies.load(SeqCst)
    }

    /// It has its place in line, or is over.
    pub(super) fn place(&self) {
        let _ = self.placed.set(()); // It may have been before.
    }

    /// Whether it has had its place in line by now.
    pub(in crate::control) fn is_placed(&self) -> bool {
        self.placed.get().is_some()
    }

    /// Waits for that.
    pub(in crate::control) async fn placed(&self) {
        self.placed.wait().await;
    }

    /// Whether that was said.
    #[cfg(test)]
    pub(in crate::control) fn is_cancelled(&self) -> bool {
        self.inner.is_cancelled()
    }

    /// Whether it does not wait for its turn any more.
    pub(in crate::control) fn has_begun(&self) -> bool {
        self.started.get().is_some()
    }

    /// How long ago it began.
    pub(in crate::control) fn seconds(&self) -> f64 {
        self.started
            .get()
            .map_or(0.0, |started| started.elapsed().as_secs_f64())
    }

    /// `42 % of 12.3 GiB, 1.9 GB/s, 4 s left`, or nothing while it waits for its turn. Paused, it has no rate.
    pub(in crate::control) fn line(&self, paused: bool) -> Option<String> {
        self.started.get()?;
        let seconds = self.seconds();
        Some(match paused {
            true => format!(
                "paused at {} (SIGUSR2 lets it go on)",
                share(self.inner.bytes_done(), self.total)
            ),
            false => line(self.inner.bytes_done(), self.total, seconds),
        })
    }
}

/// `42 % of 12.3 GiB`.
fn share(done: u64, total: u64) -> String {
    let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100);
    format!("{percent} % of {}", display_size(total))
}

fn line(done: u64, total: u64, seconds: f64) -> String {
    let mut line = share(done, total);
    let rate = done as f64 / seconds.max(0.001);
    if rate >= 1.0 {
        let left = total.saturating_sub(done) as f64 / rate;
        // Rates in powers of ten, as disks are sold.
        let (unit, scale) = if rate >= 1e9 { ("GB/s", 1e9) } else { ("MB/s", 1e6) };
        line += &format!(", {:.1} {unit}, {left:.0} s left", rate / scale);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_progress_says_how_far_how_fast_and_how_long() {
        assert_eq!(
            line(5_547_000_000, 13_207_024_435, 2.92),
            "42 % of 12.3 GiB, 1.9 GB/s, 4 s left"
        );
        assert_eq!(line(1 << 20, 4 << 20, 0.5), "25 % of 4 MiB, 2.1 MB/s, 2 s left");
        assert_eq!(line(0, 4 << 20, 0.0), "0 % of 4 MiB");
        assert_eq!(line(0, 0, 0.0), "100 % of 0 B");
    }

    #[test]
    fn a_check_that_waits_has_no_line() {
        assert_eq!(Progress::new(10).line(false), None);
    }
}
