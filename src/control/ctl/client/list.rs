//! `btd ctl list`: which columns it has, in which order its rows stand, and what is said below those that need somebody.
//!
//! Rows are printed as they come and nothing is kept of them, unless they are to be sorted: then all of those that were asked
//! for are here before the first is shown.

use std::cmp::Reverse;
use std::io::{self, Write};

use serde_json::value::RawValue;

use super::{Client, Error};
use crate::control::config::display_size;
use crate::control::ctl::api::{Limits, Only, Request, TorrentRow};
use crate::control::ctl::args::Sort;
use crate::control::ctl::table::{Column, Width, percent, rate, row, state_name};
use crate::proto::path::escaped;

/// Digits of an info-hash: enough to tell a million torrents from each other.
const HASH_LEN: usize = 12;
/// Characters of a label.
const LABEL_LEN: usize = 12;
/// The states that do not end without somebody's doing, mostly.
const NEEDY: [&str; 4] = ["error", "missing", "unavailable", "partial"];

/// How a list is shown to people.
#[derive(Clone, Copy)]
struct Table {
    /// Whether there is a column of labels.
    has_labels: bool,
    /// Characters in a line of the terminal, if it is one.
    width: Option<usize>,
}

/// Where a row stands: the least first.
type Key = (Reverse<Option<u64>>, String);

impl Client {
    /// Lists the torrents that are meant.
    pub(super) fn list(&mut self, only: Only, sort: Option<Sort>) -> Result<(), Error> {
        // Nobody knows of the first row whether a later one has a label.
        let has_labels = !self.json && self.has_labels()?;
        let width = rustix::termios::tcgetwinsize(io::stdout()).ok();
        let width = width.map(|size| usize::from(size.ws_col)).filter(|width| *width > 0);
        let table = Table { has_labels, width };
        self.owes_head = !self.json;
        let mut asked = self.send(&Request::List { only }, &[])?;
        let mut kept = Vec::new();
        while let Some(row) = self.next(&mut asked, |out| table.head(out))? {
            let Some(sort) = sort else {
                self.show_torrent(table, &row)?;
                continue;
            };
            kept.push((key(sort, &Self::read(&row)?), row));
        }
        kept.sort_by(|(one, _), (other, _)| one.cmp(other));
        kept.iter().try_for_each(|(_, row)| self.show_torrent(table, row))?;
        self.out.flush().map_err(Error::Output)
    }

    fn show_torrent(&mut self, table: Table, row: &RawValue) -> Result<(), Error> {
        let torrent: TorrentRow = Self::read(row)?;
        let written = match self.json {
            true => writeln!(self.out, "{}", row.get()),
            false => table.show(&torrent, &mut self.out),
        };
        written.map_err(Error::Output)
    }

    /// Whether any watch folder has a label.
    fn has_labels(&mut self) -> Result<bool, Error> {
        let as_they_are = Request::Limits {
            upload_rate: None,
            download_rate: None,
        };
        let mut asked = self.send(&as_they_are, &[])?;
        let mut has_labels = false;
        while let Some(row) = self.next(&mut asked, |_| Ok(()))? {
            let limits: Limits = Self::read(&row)?;
            has_labels |= limits.folders.iter().any(|folder| folder.label.is_some());
        }
        Ok(has_labels)
    }
}

/// Names from A on, whatever else from the most or the latest; what is not known comes last. Equals stay in the order of their
/// info-hashes.
fn key(sort: Sort, torrent: &TorrentRow) -> Key {
    let number = match sort {
        Sort::Name => return (Reverse(None), torrent.name.to_lowercase()),
        Sort::Size => Some(torrent.size),
        // Of two numbers that are not negative, the larger has the larger bits.
        Sort::Ratio => torrent.ratio_of_totals().map(f64::to_bits),
        Sort::Up => Some(torrent.upload_rate),
        Sort::Down => Some(torrent.download_rate),
        Sort::Added => torrent.added,
    };
    (Reverse(number), String::new())
}

impl Table {
    fn columns(self) -> Vec<Column> {
        use Width::{Last, Left, Right};
        let mut columns = vec![
            ("HASH", Left(HASH_LEN)),
            ("STATE", Left(11)),
            ("DONE", Right(6)),
            ("SIZE", Right(10)),
            ("UP", Right(10)),
            ("DOWN", Right(10)),
            ("PEERS", Right(5)),
            ("UPLOADED", Right(10)),
            ("RATIO", Right(6)),
        ];
        columns.extend(self.has_labels.then_some(("LABEL", Left(LABEL_LEN))));
        columns.push(("NAME", Last));
        columns
    }

    fn head(self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.columns();
        let heads = columns.iter().map(|(head, _)| (*head).to_owned());
        row(out, &columns, heads)
    }

    fn show(self, torrent: &TorrentRow, out: &mut dyn Write) -> io::Result<()> {
        let mut cells = vec![
            torrent.info_hash.chars().take(HASH_LEN).collect(),
            state_name(torrent).to_owned(),
            match (torrent.checked, torrent.done) {
                (Some(checked), _) => percent(checked, torrent.size),
                (None, Some(done)) => percent(done, torrent.size),
                (None, None) => "-".to_owned(),
            },
            display_size(torrent.size),
            rate(torrent.upload_rate),
            rate(torrent.download_rate),
            torrent.peers.to_string(),
            torrent.uploaded_ever.map_or_else(|| "?".to_owned(), display_size),
            match (torrent.ratio_of_totals(), torrent.uploaded_ever) {
                (Some(ratio), _) if ratio < 1000.0 => format!("{ratio:.2}"),
                (Some(ratio), _) => format!("{ratio:.0}"),
                (None, Some(_)) => "-".to_owned(),
                (None, None) => "?".to_owned(),
            },
        ];
        if self.has_labels {
            let label = torrent.label.as_deref().unwrap_or("-");
            cells.push(cut(&escaped(label).to_string(), LABEL_LEN));
        }
        cells.push(escaped(&torrent.name).to_string());
        row(out, &self.columns(), cells.into_iter())?;
        // Behind the name, which is as long as it is, nobody would see it.
        match torrent
            .why
            .as_deref()
            .filter(|_| NEEDY.contains(&torrent.state.as_str()))
        {
            Some(why) => {
                let line = format!("{:HASH_LEN$}  why: {}", "", escaped(why));
                writeln!(out, "{}", cut(&line, self.width.unwrap_or(usize::MAX)))
            }
            None => Ok(()),
        }
    }
}

/// So many characters of a text; the last one tells if there are more.
fn cut(text: &str, len: usize) -> String {
    match text.chars().nth(len) {
        Some(_) => text.chars().take(len.saturating_sub(1)).chain(['…']).collect(),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn torrent(name: &str) -> TorrentRow {
        TorrentRow {
            info_hash: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            name: name.to_owned(),
            state: "downloading".to_owned(),
            paused: false,
            size: 3 << 30,
            done: Some(1 << 30),
            checked: None,
            waits: false,
            peers: 12,
            upload_rate: 0,
            download_rate: 1_500_000,
            uploaded: 0,
            downloaded: 0,
            uploaded_ever: Some(0),
            downloaded_ever: None,
            ratio: None,
            added: None,
            label: None,
            why: None,
        }
    }

    fn text(table: Table, rows: &[TorrentRow]) -> String {
        let mut out = Vec::new();
        table.head(&mut out).expect("to memory");
        rows.iter()
            .try_for_each(|row| table.show(row, &mut out))
            .expect("to memory");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn columns_stand_below_each_other_and_names_cannot_break_a_line() {
        let row = torrent("a\n\u{1b}[31mb");
        let waiting = TorrentRow {
            state: "checking".to_owned(),
            done: None,
            checked: Some(0),
            waits: true,
            uploaded_ever: None,
            label: Some("a label\nthat is long".to_owned()),
            ..row.clone()
        };
        for has_labels in [false, true] {
            let table = Table {
                has_labels,
                width: Some(60),
            };
            let text = text(table, &[row.clone(), waiting.clone()]);
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 3, "{text}");
            assert!(lines[2].contains("  waiting  ") && !text.contains("checking"), "{text}");
            assert_eq!(text.contains("  a label\\u{a…  "), has_labels, "{text}");
            let at = lines[0].find("NAME").expect("a head");
            for line in &lines[1..] {
                let line: Vec<char> = line.chars().collect();
                let (before, name): (String, String) = (line[..at].iter().collect(), line[at..].iter().collect());
                assert!(before.starts_with("0123456789ab  ") && before.ends_with("  "), "{text}");
                assert!(name.starts_with('a') && !name.contains('\u{1b}'), "{text}");
            }
        }
    }

    #[test]
    fn ratio_has_two_places_as_long_as_there_is_room_and_is_not_made_up() {
        let table = Table {
            has_labels: false,
            width: None,
        };
        let ratio = |uploaded_ever, size| {
            let row = TorrentRow {
                uploaded_ever,
                size,
                ..torrent("a")
            };
            let text = text(table, &[row]);
            let cells: Vec<&str> = text.lines().nth(1).expect("a row").split_whitespace().collect();
            cells[cells.len() - 2].to_owned()
        };
        assert_eq!(ratio(Some(3 << 20), 2 << 20), "1.50");
        assert_eq!(ratio(Some(1 << 40), 1 << 20), "1048576");
        assert_eq!((ratio(None, 1), ratio(Some(0), 0)), ("?".to_owned(), "-".to_owned()));
    }

    #[test]
    fn reason_stands_below_a_torrent_that_needs_somebody_and_is_as_wide_as_the_terminal() {
        let why = Some("the disk says that\u{1b}[2J it has been on fire for a while".to_owned());
        let rows = ["error", "missing", "unavailable", "partial", "seeding"].map(|state| TorrentRow {
            state: state.to_owned(),
            why: why.clone(),
            ..torrent("a")
        });
        let lines = |width| {
            let table = Table {
                has_labels: false,
                width,
            };
            let text = text(table, &rows);
            let lines = text.lines().filter(|line| line.contains("why: "));
            lines.map(str::to_owned).collect::<Vec<String>>()
        };
        let whole = lines(None);
        assert_eq!(whole.len(), 4, "{whole:?}");
        assert!(
            whole[0].starts_with("              why: the disk says") && whole[0].ends_with("for a while"),
            "{whole:?}"
        );
        assert!(!whole[0].contains('\u{1b}'), "{whole:?}");
        let cut = lines(Some(40));
        assert!(
            cut.len() == 4 && cut[0].chars().count() == 40 && cut[0].ends_with('…'),
            "{cut:?}"
        );
        assert_eq!(super::cut("four", 4), "four");
    }

    #[test]
    fn rows_are_sorted_by_what_was_asked_and_those_that_are_not_known_come_last() {
        let mut rows = [torrent("b"), torrent("C"), torrent("a")];
        rows[0].uploaded_ever = None;
        (rows[1].uploaded_ever, rows[1].added, rows[1].upload_rate) = (Some(1 << 30), Some(7), 5);
        (rows[2].uploaded_ever, rows[2].added, rows[2].size) = (Some(5 << 30), Some(9), 5);
        rows[0].download_rate = 0;
        let sorted = |sort| {
            let mut keyed: Vec<(Key, &str)> = rows.iter().map(|row| (key(sort, row), row.name.as_str())).collect();
            keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
            keyed.into_iter().map(|(_, name)| name).collect::<String>()
        };
        assert_eq!(sorted(Sort::Name), "abC");
        assert_eq!(sorted(Sort::Size), "bCa");
        assert_eq!(sorted(Sort::Ratio), "aCb");
        assert_eq!(sorted(Sort::Up), "Cba");
        assert_eq!(sorted(Sort::Down), "Cab");
        assert_eq!(sorted(Sort::Added), "aCb");
    }
}
