//! Few lines of a kind: what is said of each torrent, and not ten thousand times when ten thousand torrents come at once.
//!
//! The journal drops lines of a service that writes too many, and does not ask which of them mattered. Here the first lines of a
//! kind are written as they are. The others of the same window are counted, and a line at the end of the window says how
//! many they were, at the level that they would have had. A kind is a level and a few words, so that what is said of some
//! keeps nothing else from being said. At debug level each line is written still.
//!
//! What is said once, or of the whole of btd, does not come by here. Whoever keeps a [`FewLines`] sees to it that
//! [`FewLines::on_tick`] is called several times in a window, and [`FewLines::end`] before the process ends.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;

/// How many lines of a kind are written in a window.
pub(super) const LINES_MAX: u64 = 20;
/// How long a window is, which begins with the first line of its kind.
const WINDOW: Duration = Duration::from_secs(10);

/// Writes lines, as many of each kind as anybody reads.
#[derive(Debug)]
pub(crate) struct FewLines(Mutex<Windows>);

impl Default for FewLines {
    fn default() -> Self {
        Self::within(WINDOW)
    }
}

impl FewLines {
    /// With windows of this length.
    pub(super) fn within(window: Duration) -> Self {
        let open = Vec::new();
        Self(Mutex::new(Windows { len: window, open }))
    }

    /// Something that an operator has to act on. `kind` is what such lines are of, in the plural.
    pub(super) fn error(&self, kind: &'static str, line: fmt::Arguments<'_>) {
        self.tell((Level::ERROR, kind), line);
    }

    /// Something that may have to be looked after.
    pub(super) fn warn(&self, kind: &'static str, line: fmt::Arguments<'_>) {
        self.tell((Level::WARN, kind), line);
    }

    /// Something that has happened.
    pub(super) fn info(&self, kind: &'static str, line: fmt::Arguments<'_>) {
        self.tell((Level::INFO, kind), line);
    }

    /// Time has passed: tells how many lines there were in windows that have ended.
    pub(super) fn on_tick(&self, now: Instant) {
        let ended = self.lock().ended(now);
        write_all(&ended);
    }

    /// The process ends: tells the same of those that have not.
    pub(super) fn end(&self) {
        let ended = self.lock().all(Instant::now());
        write_all(&ended);
    }

    fn tell(&self, kind: Kind, line: fmt::Arguments<'_>) {
        let now = Instant::now();
        let (ended, may) = {
            let mut windows = self.lock();
            (windows.ended(now), windows.admits(kind, now))
        };
        write_all(&ended); // It may be long since the last tick.
        write(if may { kind.0 } else { Level::DEBUG }, line);
    }

    /// A panic leaves nothing half done in here.
    fn lock(&self) -> MutexGuard<'_, Windows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The level of a line, and what such lines are of.
type Kind = (Level, &'static str);

/// The windows that are open. No more than there are places in the source that write such lines.
#[derive(Debug)]
struct Windows {
    len: Duration,
    open: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    kind: Kind,
    since: Instant,
    told: u64,
    untold: u64,
}

/// Lines that were not written.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    kind: Kind,
    count: u64,
    time: Duration,
}

impl Windows {
    /// Whether a line of this kind is to be written; else it is counted.
    fn admits(&mut self, kind: Kind, now: Instant) -> bool {
        let known = self.open.iter().position(|window| window.kind == kind);
        let at = known.unwrap_or_else(|| {
            let (since, told, untold) = (now, 0, 0);
            self.open.push(Window {
                kind,
                since,
                told,
                untold,
            });
            self.open.len() - 1
        });
        let window = &mut self.open[at];
        let may = window.told < LINES_MAX;
        *if may { &mut window.told } else { &mut window.untold } += 1;
        may
    }

    /// Closes the windows whose time is over, and gives what was counted in them.
    fn ended(&mut self, now: Instant) -> Vec<Rest> {
        let len = self.len;
        self.close(now, |time| time >= len)
    }

    /// The same with all of them.
    fn all(&mut self, now: Instant) -> Vec<Rest> {
        self.close(now, |_| true)
    }

    fn close(&mut self, now: Instant, is_over: impl Fn(Duration) -> bool) -> Vec<Rest> {
        let time = |window: &Window| now.saturating_duration_since(window.since);
        let closed = self.open.extract_if(.., |window| is_over(time(window)));
        let counted = closed.filter(|window| window.untold > 0);
        let rest = |window: Window| Rest {
            kind: window.kind,
            count: window.untold,
            time: time(&window),
        };
        counted.map(rest).collect()
    }
}

/// `... and 9980 more in 10 s: torrents removed (hint: --log-level debug names each)`.
impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs_f64().round().max(1.0);
        write!(f, "... and {} more in {seconds} s: {}", self.count, self.kind.1)?;
        match tracing::enabled!(Level::DEBUG) {
            true => Ok(()), // Each was named.
            false => f.write_str(" (hint: --log-level debug names each)"),
        }
    }
}

fn write_all(rests: &[Rest]) {
    for rest in rests {
        write(rest.kind.0, format_args!("{rest}"));
    }
}

fn write(level: Level, line: fmt::Arguments<'_>) {
    match level {
        Level::ERROR => tracing::error!("{line}"),
        Level::WARN => tracing::warn!("{line}"),
        Level::INFO => tracing::info!("{line}"),
        _ => tracing::debug!("{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOVED: Kind = (Level::INFO, "torrents removed");
    const REFUSED: Kind = (Level::WARN, "files refused");

    fn windows() -> Windows {
        Windows {
            len: WINDOW,
            open: Vec::new(),
        }
    }

    /// How many of so many lines are written.
    fn told(windows: &mut Windows, kind: Kind, count: u64, now: Instant) -> u64 {
        (0..count).filter(|_| windows.admits(kind, now)).count() as u64
    }

    #[test]
    fn first_lines_are_written_and_the_rest_is_told_once_when_the_window_ends_though_nothing_follows() {
        let (start, mut windows) = (Instant::now(), windows());
        assert_eq!(told(&mut windows, REMOVED, 9000, start), LINES_MAX);
        let later = start + WINDOW - Duration::from_millis(1);
        assert_eq!(windows.ended(later), []);
        assert_eq!(told(&mut windows, REMOVED, 1000, later), 0);
        let end = start + WINDOW;
        let rest = Rest {
            kind: REMOVED,
            count: 10_000 - LINES_MAX,
            time: WINDOW,
        };
        assert_eq!(windows.ended(end), [rest]);
        assert_eq!(windows.ended(end + WINDOW), []);
    }

    #[test]
    fn kind_that_has_just_begun_is_hidden_by_no_other_nor_by_its_like_at_another_level() {
        let (start, mut windows) = (Instant::now(), windows());
        told(&mut windows, REMOVED, 500, start);
        assert!(windows.admits(REFUSED, start));
        assert!(windows.admits((Level::ERROR, REMOVED.1), start));
        assert!(!windows.admits(REMOVED, start));
    }

    #[test]
    fn few_lines_are_all_written_and_nothing_is_said_of_them() {
        let (start, mut windows) = (Instant::now(), windows());
        assert_eq!(told(&mut windows, REMOVED, LINES_MAX, start), LINES_MAX);
        assert_eq!(windows.ended(start + WINDOW), []);
        assert_eq!(windows.open.len(), 0);
        // Nor of those of the next window.
        let next = start + WINDOW;
        assert_eq!(told(&mut windows, REMOVED, LINES_MAX, next), LINES_MAX);
        assert_eq!(windows.all(next), []);
    }

    #[test]
    fn what_goes_on_for_long_has_some_lines_in_each_window_and_all_add_up() {
        let (start, mut windows) = (Instant::now(), windows());
        let (mut written, mut counted) = (0, 0);
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            counted += windows.ended(now).iter().map(|rest| rest.count).sum::<u64>();
            written += told(&mut windows, REMOVED, 100, now);
        }
        let end = start + Duration::from_secs(60);
        counted += windows.all(end).iter().map(|rest| rest.count).sum::<u64>();
        assert_eq!((written, written + counted), (6 * LINES_MAX, 6000));
    }

    #[test]
    fn end_tells_what_was_counted_in_a_window_that_is_open() {
        let (start, mut windows) = (Instant::now(), windows());
        told(&mut windows, REMOVED, LINES_MAX + 1, start);
        told(&mut windows, REFUSED, 1, start);
        let rests = windows.all(start + Duration::from_millis(10));
        let [rest] = &rests[..] else { panic!("{rests:?}") };
        let text = rest.to_string();
        assert!(text.starts_with("... and 1 more in 1 s: torrents removed"), "{text}");
    }
}
