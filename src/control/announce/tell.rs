//! What the log says of trackers: a line when something has changed for a torrent, and not thousands when a tracker goes
//! down that thousands of torrents have.

use std::time::{Duration, Instant};

use crate::announcer::{News, Outcome, Swarm};

/// Lines at once, and how long it takes until there may be one more.
const BURST: u32 = 20;
const EVERY: Duration = Duration::from_secs(3);

/// Tells news, as many as anybody reads.
#[derive(Debug)]
pub(super) struct Teller {
    left: u32,
    since: Instant,
    untold: u64,
}

impl Teller {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
            untold: 0,
        }
    }

    /// Writes a line, or counts one that is not written.
    pub(super) fn tell(&mut self, name: &str, outcome: &Outcome, news: &News, now: Instant) {
        if !self.may(now) {
            tracing::debug!("{}", line(name, outcome, news));
            return;
        }
        let line = line(name, outcome, news);
        let more = match std::mem::take(&mut self.untold) {
            0 => String::new(),
            count => format!(" (and {count} more lines like this were left out)"),
        };
        match news {
            News::Working { .. } => tracing::info!("{line}{more}"),
            News::Warning(_) | News::Failing(_) | News::Refused(_) | News::Dead(_) => tracing::warn!("{line}{more}"),
        }
    }

    fn may(&mut self, now: Instant) -> bool {
        while self.left < BURST && now.saturating_duration_since(self.since) >= EVERY {
            self.left += 1;
            self.since += EVERY;
        }
        if self.left == BURST {
            self.since = now;
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        self.untold += u64::from(!may);
        may
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

    #[test]
    fn a_burst_is_told_then_a_line_now_and_then_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut teller = Teller::new(start);
        let told = (0..100).filter(|_| teller.may(start)).count();
        assert_eq!((told, teller.untold), (BURST as usize, 80));
        assert!(!teller.may(start + EVERY / 2));
        assert!(teller.may(start + EVERY) && !teller.may(start + EVERY));
        let later = start + EVERY * 1000;
        let told = (0..100).filter(|_| teller.may(later)).count();
        assert_eq!(told, BURST as usize);
    }
}
