//! What the log says of trackers: a line when something has changed for a torrent, and not thousands when a tracker goes
//! down that thousands of torrents have.

use std::time::{Duration, Instant};

use crate::announcer::{News, Outcome, Swarm};
use crate::control::few_lines::FewLines;

/// What is announced is announced again and again, for as long as btd runs: so few lines of a kind are in a minute what others
/// have in ten seconds.
const WINDOW: Duration = Duration::from_secs(60);

/// Tells news, as many as anybody reads.
#[derive(Debug)]
pub(super) struct Teller(FewLines);

impl Teller {
    pub(super) fn new() -> Self {
        Self(FewLines::within(WINDOW))
    }

    /// Writes a line, or counts one that is not written.
    pub(super) fn tell(&self, name: &str, outcome: &Outcome, news: &News) {
        let line = line(name, outcome, news);
        let line = format_args!("{line}");
        match news {
            News::Working { .. } => self.0.info("torrents announced", line),
            News::Warning(_) => self.0.warn("warnings of trackers", line),
            News::Failing(_) => self.0.warn("torrents that cannot be announced to a tracker", line),
            News::Refused(_) => self.0.warn("torrents refused by a tracker", line),
            News::Dead(_) => self.0.warn("torrents not announced any more", line),
        }
    }

    /// Time has passed.
    pub(super) fn on_tick(&self, now: Instant) {
        self.0.on_tick(now);
    }

    /// Nothing is announced any more.
    pub(super) fn end(&self) {
        self.0.end();
    }
}

fn line(name: &str, outcome: &Outcome, news: &News) -> String {
    let (url, info_hash) = (&outcome.url, outcome.info_hash);
    match news {
        News::Working { swarm: None } => format!("announced {name:?} ({info_hash}) to {url}"),
        News::Working {
            swarm: Some(Swarm { seeders, leechers }),
        } => {
            let (seeders, leechers) = (counted(*seeders, "seeder"), counted(*leechers, "leecher"));
            format!("announced {name:?} ({info_hash}) to {url}: {seeders}, {leechers}")
        }
        News::Warning(text) => format!("{url} says of {name:?} ({info_hash}): {text:?}"),
        News::Failing(why) => {
            format!("cannot announce {name:?} ({info_hash}) to {url}: {why} (tried again, ever less often)")
        }
        News::Refused(why) => {
            format!("cannot announce {name:?} ({info_hash}) to {url}: {why} (not tried again; its other trackers are)")
        }
        News::Dead(why) => format!(
            "{name:?} ({info_hash}) is not announced any more, {url} was the last of its trackers to refuse it for good: {why}"
        ),
    }
}

/// `1 seeder`, `2 seeders`.
fn counted(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::announcer::TrackerUrl;
    use crate::proto::InfoHash;

    #[test]
    fn one_is_not_told_as_if_it_were_many() {
        let outcome = Outcome {
            info_hash: InfoHash([7; 20]),
            url: Arc::new(TrackerUrl::parse("http://t.example/announce").unwrap()),
            news: None,
            completed_told: false,
            stays: true,
            stopped_told: false,
        };
        let swarm = |seeders, leechers| Some(Swarm { seeders, leechers });
        for (swarm, text) in [
            (swarm(1, 0), ": 1 seeder, 0 leechers"),
            (swarm(2, 1), ": 2 seeders, 1 leecher"),
            (None, "http://t.example/announce"),
        ] {
            let line = line("a", &outcome, &News::Working { swarm });
            assert!(line.ends_with(text), "{line}");
        }
    }
}
