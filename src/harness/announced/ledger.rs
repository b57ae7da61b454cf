//! What the trackers were asked: of which torrent, when, and by how many connections.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::proto::InfoHash;

/// Any second is as long as this.
const SECOND: Duration = Duration::from_secs(1);

/// How much has been asked, of all trackers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Announces and scrapes.
    pub requests: u64,
    /// Of these, scrapes.
    pub scrapes: u64,
    /// Of the requests, those by HTTP.
    pub http: u64,
    /// Connections over which they came.
    pub connections: u64,
    /// Connection ids that were given, of UDP.
    pub connection_ids: u64,
    /// What was no request, or of no torrent of the run.
    pub others: u64,
}

impl Sums {
    /// What has been asked since `earlier`.
    pub(super) fn since(&self, earlier: &Sums) -> Sums {
        Sums {
            requests: self.requests - earlier.requests,
            scrapes: self.scrapes - earlier.scrapes,
            http: self.http - earlier.http,
            connections: self.connections - earlier.connections,
            connection_ids: self.connection_ids - earlier.connection_ids,
            others: self.others - earlier.others,
        }
    }
}

/// From one announce of a torrent to the next, while it was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Gaps {
    /// Announces that followed another.
    pub count: u64,
    /// In seconds.
    pub shortest: f64,
    /// In seconds, those included that last still.
    pub longest: f64,
    /// Torrents that were announced later than the interval says, or should have been by now.
    pub late: u64,
}

/// One announce, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Any but the last.
    Comes,
    /// The last.
    Stops,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Ledger {
    number_of: HashMap<InfoHash, usize>,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    sums: Sums,
    torrents: Vec<Torrent>,
    announced: u32,
    stopped: u32,
    /// Of each tracker the times of the last second, and the most that any second had.
    seconds: Vec<(VecDeque<Instant>, usize)>,
    shortest: Option<Duration>,
    longest: Duration,
    gaps: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Torrent {
    last: Option<Instant>,
    /// The longest gap while it was counted.
    longest: Duration,
    stopped: bool,
}

impl Ledger {
    pub(super) fn new(hashes: &[InfoHash], trackers: usize) -> Self {
        Self {
            number_of: hashes.iter().copied().zip(0..).collect(),
            book: Mutex::new(Book {
                sums: Sums::default(),
                torrents: vec![Torrent::default(); hashes.len()],
                announced: 0,
                stopped: 0,
                seconds: vec![(VecDeque::new(), 0); trackers],
                shortest: None,
                longest: Duration::ZERO,
                gaps: 0,
            }),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connected(&self) {
        self.book().sums.connections += 1;
    }

    pub(super) fn gave_connection_id(&self) {
        self.book().sums.connection_ids += 1;
    }

    pub(super) fn other(&self) {
        self.book().sums.others += 1;
    }

    /// A tracker was asked.
    pub(super) fn scraped(&self, tracker: usize, by_http: bool, now: Instant) {
        let mut book = self.book();
        book.sums.scrapes += 1;
        book.asked(tracker, by_http, now);
    }

    /// A tracker was told of a torrent.
    pub(super) fn announced_to(&self, tracker: usize, info_hash: InfoHash, event: Event, by_http: bool, now: Instant) {
        let mut book = self.book();
        let Some(number) = self.number_of.get(&info_hash) else {
            book.sums.others += 1;
            return;
        };
        book.asked(tracker, by_http, now);
        let book = &mut *book;
        let torrent = &mut book.torrents[*number];
        if event == Event::Stops {
            book.stopped += u32::from(!torrent.stopped);
            (torrent.stopped, torrent.last) = (true, None);
            return;
        }
        match torrent.last.replace(now) {
            None => book.announced += 1,
            Some(last) => {
                let gap = now.saturating_duration_since(last);
                torrent.longest = torrent.longest.max(gap);
                book.longest = book.longest.max(gap);
                book.shortest = Some(book.shortest.map_or(gap, |shortest| shortest.min(gap)));
                book.gaps += 1;
            }
        }
    }

    /// Torrents of which a tracker has been told.
    pub(super) fn announced(&self) -> u32 {
        self.book().announced
    }

    /// Those of which it was told that it was the last time.
    pub(super) fn stopped(&self) -> u32 {
        self.book().stopped
    }

    pub(super) fn sums(&self) -> Sums {
        self.book().sums
    }

    /// Of what was asked of one tracker since peaks were forgotten, in any second.
    pub(super) fn most_per_second(&self) -> usize {
        self.book().seconds.iter().map(|(_, most)| *most).max().unwrap_or(0)
    }

    /// From now on it is counted: what was longest or most before is not.
    pub(super) fn forget_peaks(&self) {
        let mut book = self.book();
        book.seconds.iter_mut().for_each(|(times, most)| *most = times.len());
        book.torrents
            .iter_mut()
            .for_each(|torrent| torrent.longest = Duration::ZERO);
        (book.shortest, book.longest, book.gaps) = (None, Duration::ZERO, 0);
    }

    pub(super) fn gaps(&self, interval: Duration, now: Instant) -> Gaps {
        let book = self.book();
        let lasting = |torrent: &Torrent| {
            let last = torrent.last.map(|last| now.saturating_duration_since(last));
            last.unwrap_or_default().max(torrent.longest)
        };
        let longest = book.torrents.iter().map(lasting);
        Gaps {
            count: book.gaps,
            shortest: book.shortest.unwrap_or_default().as_secs_f64(),
            longest: longest.clone().max().unwrap_or_default().as_secs_f64(),
            late: longest.filter(|longest| *longest > interval).count() as u64,
        }
    }
}

impl Book {
    fn asked(&mut self, tracker: usize, by_http: bool, now: Instant) {
        self.sums.requests += 1;
        self.sums.http += u64::from(by_http);
        let (times, most) = &mut self.seconds[tracker];
        times.push_back(now);
        while times
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) >= SECOND)
        {
            times.pop_front();
        }
        *most = (*most).max(times.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_seconds_are_those_of_the_time_that_is_counted() {
        let hashes = [1, 2].map(|byte| InfoHash([byte; 20]));
        let ledger = Ledger::new(&hashes, 1);
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let comes = |number: usize, millis| ledger.announced_to(0, hashes[number], Event::Comes, true, at(millis));
        comes(0, 0);
        assert_eq!(ledger.announced(), 1);
        comes(1, 0);
        comes(0, 50_000);
        ledger.forget_peaks();
        comes(0, 60_000);
        comes(1, 70_000);
        ledger.scraped(0, true, at(70_999));
        assert_eq!((ledger.announced(), ledger.most_per_second()), (2, 2));
        let gaps = ledger.gaps(Duration::from_secs(60), at(80_000));
        let expected = Gaps {
            count: 2,
            shortest: 10.0,
            longest: 70.0,
            late: 1,
        };
        assert_eq!(gaps, expected);
        // One that should have come and has not is late as well.
        assert_eq!(ledger.gaps(Duration::from_secs(60), at(121_000)).late, 2);
    }

    #[test]
    fn a_torrent_stops_once_and_strangers_are_counted_apart() {
        let hashes = [InfoHash([1; 20])];
        let (ledger, now) = (Ledger::new(&hashes, 1), Instant::now());
        for _ in 0..2 {
            ledger.announced_to(0, hashes[0], Event::Stops, false, now);
        }
        ledger.announced_to(0, InfoHash([9; 20]), Event::Comes, false, now);
        let sums = ledger.sums();
        assert_eq!((ledger.stopped(), sums.requests, sums.others), (1, 2, 1));
    }
}
