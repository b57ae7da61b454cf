//! The torrents that move most, each with series of its own: only if that is asked for, and no more than are asked for.
//!
//! Those are listed that have moved most since they were last checked, up and down together: an order that seldom changes, so that
//! few series begin and end. They are picked while the rates of torrents are taken anyway, a part of them at a time; a scrape looks
//! at none but those that were picked.

use std::cmp::Reverse;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::proto::path::escaped;
use crate::shard::Torrent;

/// More would be what series of single torrents are off for.
pub const TOP_TORRENTS_MAX: usize = 100;
/// Characters of a name that are shown. Whoever made the torrent has chosen it.
const NAME_LEN_MAX: usize = 128;

type Read = fn(&Torrent) -> u64;

const SERIES: [(&str, &str, &str, Read); 3] = [
    (
        "btd_torrent_uploaded_bytes_total",
        "counter",
        "Payload bytes that peers of a torrent have taken since it was last checked. Of the torrents that move most only.",
        Torrent::uploaded,
    ),
    (
        "btd_torrent_downloaded_bytes_total",
        "counter",
        "Payload bytes that peers of a torrent have sent since it was last checked. Likewise.",
        Torrent::downloaded,
    ),
    (
        "btd_torrent_peers",
        "gauge",
        "Connections of a torrent past the handshake. Likewise.",
        |torrent| torrent.connections().into(),
    ),
];

/// Those that were picked last, for who writes them down.
pub type Picked = Arc<Mutex<Vec<Weak<Torrent>>>>;

/// Picks them.
#[derive(Debug)]
pub struct Top {
    max: usize,
    /// The best of those that were looked at in this round, the most first.
    best: Vec<(u64, Weak<Torrent>)>,
    picked: Picked,
}

impl Top {
    /// So many.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max: max.min(TOP_TORRENTS_MAX),
            best: Vec::new(),
            picked: Picked::default(),
        }
    }

    /// Where those that are picked are to be had.
    #[must_use]
    pub fn picked(&self) -> Picked {
        Arc::clone(&self.picked)
    }

    /// This is one of them all.
    pub fn offer(&mut self, torrent: &Arc<Torrent>) {
        if self.max == 0 {
            return;
        }
        let moved = torrent.uploaded().saturating_add(torrent.downloaded());
        let least = self.best.last().filter(|_| self.best.len() >= self.max);
        if moved == 0 || least.is_some_and(|(least, _)| *least >= moved) {
            return;
        }
        let at = self.best.partition_point(|(other, _)| *other >= moved);
        self.best.insert(at, (moved, Arc::downgrade(torrent)));
        self.best.truncate(self.max);
    }

    /// All have been offered, and are from now on offered again.
    pub fn end_round(&mut self) {
        if self.max > 0 {
            let best = std::mem::take(&mut self.best);
            let mut picked = self.picked.lock().unwrap_or_else(PoisonError::into_inner);
            *picked = best.into_iter().map(|(_, torrent)| torrent).collect();
        }
    }
}

/// Writes their series, as they stand now, in the text format.
pub(super) fn write(text: &mut String, picked: &Picked) {
    let picked = picked.lock().unwrap_or_else(PoisonError::into_inner);
    let mut torrents: Vec<Arc<Torrent>> = picked.iter().filter_map(Weak::upgrade).collect();
    drop(picked);
    // Two of one info-hash would be two series of one name: one that was checked anew, and the one before.
    torrents.sort_by_key(|torrent| (torrent.info_hash(), Reverse(torrent.uploaded())));
    torrents.dedup_by_key(|torrent| torrent.info_hash());
    if torrents.is_empty() {
        return;
    }
    for (name, kind, help, read) in SERIES {
        // Writing to a string does not fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for torrent in &torrents {
            let (info_hash, label) = (torrent.info_hash(), Label(&torrent.meta().name));
            let _ = writeln!(
                text,
                "{name}{{info_hash=\"{info_hash}\",name=\"{label}\"}} {}",
                read(torrent)
            );
        }
        text.push('\n');
    }
}

/// A stranger's text as a label's value: on one line, and within its quotation marks.
struct Label<'a>(&'a str);

impl std::fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let end = self
            .0
            .char_indices()
            .nth(NAME_LEN_MAX)
            .map_or(self.0.len(), |(at, _)| at);
        let shown = escaped(&self.0[..end]).to_string();
        for part in shown.split_inclusive(['\\', '"']) {
            match part.strip_suffix(['\\', '"']) {
                Some(before) => write!(f, "{before}\\{}", &part[before.len()..])?,
                None => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::proto::bitfield::Bitfield;
    use crate::proto::metainfo::Metainfo;
    use crate::storage::Root;

    fn torrents(count: usize) -> Vec<Arc<Torrent>> {
        let temp = tempfile::tempdir().unwrap();
        let root = Arc::new(Root::open(temp.path()).unwrap());
        let make = |number: usize| {
            let meta = Metainfo::parse(&crate::control::watch::testing::torrent(&format!("t{number}"))).unwrap();
            Torrent::new(meta, Arc::clone(&root), &Bitfield::full(1), &[None])
        };
        (0..count).map(make).collect()
    }

    fn written(top: &Top) -> String {
        let mut text = String::new();
        write(&mut text, &top.picked());
        text
    }

    #[test]
    fn those_that_have_moved_most_have_series_and_no_more_than_were_asked_for() {
        let torrents = torrents(5);
        for (torrent, bytes) in torrents.iter().zip([5, 0, 70, 6, 9]) {
            torrent.count_uploaded(bytes);
        }
        torrents[3].count_downloaded(100);
        let mut top = Top::new(2);
        torrents.iter().for_each(|torrent| top.offer(torrent));
        assert_eq!(written(&top), "", "the round is not over");
        top.end_round();
        torrents[2].count_uploaded(7);
        let text = written(&top);
        assert_eq!(
            text.lines()
                .filter(|line| line.starts_with("btd_torrent_uploaded"))
                .count(),
            2
        );
        for line in [
            format!(
                "btd_torrent_uploaded_bytes_total{{info_hash=\"{}\",name=\"t2\"}} 77",
                torrents[2].info_hash()
            ),
            format!(
                "btd_torrent_downloaded_bytes_total{{info_hash=\"{}\",name=\"t3\"}} 100",
                torrents[3].info_hash()
            ),
            "# TYPE btd_torrent_peers gauge".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        // One that has gone has none, nor does it stay in memory for it.
        let (gone, rest) = (torrents[2].info_hash(), torrents);
        drop(rest);
        assert!(!written(&top).contains(&gone.to_string()));
    }

    #[test]
    fn without_being_asked_for_there_are_none_and_what_has_not_moved_is_none() {
        let torrents = torrents(3);
        let mut top = Top::new(3);
        torrents.iter().for_each(|torrent| top.offer(torrent));
        top.end_round();
        assert_eq!(written(&top), "");
        torrents[0].count_uploaded(1);
        let mut top = Top::new(0);
        torrents.iter().for_each(|torrent| top.offer(torrent));
        top.end_round();
        assert_eq!(written(&top), "");
        assert_eq!(Top::new(usize::MAX).max, TOP_TORRENTS_MAX);
    }

    #[test]
    fn names_of_strangers_stay_within_their_quotation_marks() {
        let label = |name: &str| Label(name).to_string();
        assert_eq!(label("a\"} 1\nbtd_x 2\\"), "a\\\"} 1\\\\u{a}btd_x 2\\\\");
        assert_eq!(label(&"é".repeat(500)), "é".repeat(NAME_LEN_MAX));
        assert_eq!(label("\u{202e}x\u{9b}"), "\\\\u{202e}x\\\\u{9b}");
    }

    #[test]
    fn a_hundred_of_ten_thousand_are_written_in_less_than_ten_milliseconds() {
        let torrents = torrents(10_000);
        let mut top = Top::new(100);
        for (bytes, torrent) in (1..).zip(&torrents) {
            torrent.count_uploaded(bytes);
            top.offer(torrent);
        }
        top.end_round();
        // The best of three: other tests run beside it.
        let time = |()| {
            let begun = Instant::now();
            assert_eq!(written(&top).lines().count(), 3 * 103);
            begun.elapsed()
        };
        let best = [(), (), ()].map(time).into_iter().min().unwrap();
        assert!(best < Duration::from_millis(10), "{best:?}");
    }
}
