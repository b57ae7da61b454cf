//! Shows how far a long run over payload has come: a bar on a terminal, a line now and then elsewhere.
//!
//! All of it goes to standard error, so that what a command says on standard output can be read by programs.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::tell;
use crate::control::config::display_size;
use crate::storage::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar is drawn anew this often.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// A line is printed this often where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Does `work`, which settles `total` bytes and counts them in `progress`, on a thread of its own, and shows meanwhile
/// how far it is. `doing` is the first word of each line.
pub(super) fn show<T: Send>(
    doing: &'static str,
    total: u64,
    progress: &Progress,
    work: impl FnOnce() -> T + Send,
) -> T {
    let bar = std::io::stderr().is_terminal().then(|| bar(doing, total));
    let interval = if bar.is_some() { BAR_INTERVAL } else { LINE_INTERVAL };
    let started = Instant::now();
    let result = std::thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        let worker = scope.spawn(move || {
            // Dropped when the work ends, also by a panic.
            let _done = done;
            work()
        });
        while let Err(RecvTimeoutError::Timeout) = is_done.recv_timeout(interval) {
            match &bar {
                Some(bar) => bar.set_position(progress.bytes_done()),
                None => tell(format_args!(
                    "{}",
                    line(doing, progress.bytes_done(), total, started.elapsed())
                )),
            }
        }
        worker.join()
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn bar(doing: &'static str, total: u64) -> ProgressBar {
    let style = "{msg} [{wide_bar}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("the template is well-formed");
    ProgressBar::new(total)
        .with_message(doing)
        .with_style(style.progress_chars("=> "))
}

fn line(doing: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100);
    // Whole bytes a second are fine enough.
    let rate = (done as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    let left = total.saturating_sub(done).checked_div(rate);
    let left = left.map_or_else(String::new, |seconds| format!(", {seconds} s left"));
    let (done, total, rate) = (display_size(done), display_size(total), display_size(rate));
    format!("{doing}: {done} of {total} ({percent} %), {rate}/s{left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_how_fast_and_how_long_still() {
        let second = Duration::from_secs(1);
        assert_eq!(
            line("checking", 1 << 20, 4 << 20, second),
            "checking: 1 MiB of 4 MiB (25 %), 1 MiB/s, 3 s left"
        );
        assert_eq!(
            line("checking", 0, 4 << 20, second),
            "checking: 0 B of 4 MiB (0 %), 0 B/s"
        );
    }

    #[test]
    fn the_result_of_the_work_comes_back() {
        assert_eq!(show("checking", 0, &Progress::default(), || 7), 7);
    }
}
