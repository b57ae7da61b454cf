//! What people are shown: rows in columns of a fixed width, since rows are shown as they come; single things as a list of
//! their fields.

use std::io::{self, Write};
use std::time::Duration;

use super::api::{
    Added, AllDone, Connections, Detail, Done, FolderLimits, Health, Limits, Moved, PeerRow, Removed, Stats, TorrentRow,
};
use crate::control::config::display_size;
use crate::proto::path::escaped;

/// Characters of a client's name in a list.
const CLIENT_LEN: usize = 24;

/// A column: its head and its width; the last has none.
pub(super) type Column = (&'static str, Width);

#[derive(Clone, Copy)]
pub(super) enum Width {
    Left(usize),
    Right(usize),
    Last,
}
use Width::{Last, Left, Right};

const PEERS: &[Column] = &[
    ("FLAGS", Left(6)),
    ("DONE", Right(6)),
    ("UP", Right(10)),
    ("DOWN", Right(10)),
    ("CLIENT", Left(CLIENT_LEN)),
    ("ADDRESS", Last),
];

/// Something that people are shown.
pub(super) trait Shown {
    /// The columns, if it is a row of many.
    const COLUMNS: &'static [Column] = &[];

    fn show(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// The heads of the columns.
pub(super) fn head<R: Shown>(out: &mut dyn Write) -> io::Result<()> {
    let heads = R::COLUMNS.iter().map(|(head, _)| (*head).to_owned());
    row(out, R::COLUMNS, heads)
}

/// A row of cells in these columns.
pub(super) fn row(out: &mut dyn Write, columns: &[Column], cells: impl Iterator<Item = String>) -> io::Result<()> {
    for ((_, width), cell) in std::iter::zip(columns, cells) {
        match width {
            Left(width) => write!(out, "{cell:<width$}  ")?,
            Right(width) => write!(out, "{cell:>width$}  ")?,
            Last => write!(out, "{cell}")?,
        }
    }
    writeln!(out)
}

fn field(out: &mut dyn Write, name: &str, value: impl std::fmt::Display) -> io::Result<()> {
    writeln!(out, "{name:<13} {value}")
}

/// `1 torrent`, `2 torrents`.
pub(in crate::control) fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// Rates in powers of ten, as lines are sold.
pub(in crate::control) fn rate(bytes_per_second: u64) -> String {
    match bytes_per_second {
        0 => "-".to_owned(),
        1..1_000_000 => format!("{:.1} kB/s", bytes_per_second as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB/s", bytes_per_second as f64 / 1e6),
        _ => format!("{:.2} GB/s", bytes_per_second as f64 / 1e9),
    }
}

/// `99.9%`: the whole is 100 % only when nothing is missing.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let tenths = (u128::from(part) * 1000).checked_div(u128::from(whole)).unwrap_or(1000);
    format!("{}.{}%", tenths / 10, tenths % 10)
}

/// `3d 04:05:06`
fn time(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let days = match days {
        0 => String::new(),
        days => format!("{days}d "),
    };
    format!("{days}{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// A moment, in the only form that needs no time zone: the date and time in UTC.
fn moment(unix: u64) -> String {
    // Days since 1970 to a date, by Howard Hinnant's "chrono-compatible low-level date algorithms".
    let (days, seconds) = (unix / 86_400 + 719_468, unix % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3600, seconds / 60 % 60);
    format!(
        "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02} UTC",
        seconds % 60
    )
}

/// What people are told a torrent does.
pub(super) fn state_name(row: &TorrentRow) -> &str {
    if row.waits { "waiting" } else { &row.state }
}

fn state(row: &TorrentRow) -> String {
    let state = state_name(row);
    match row.paused && row.state != "paused" {
        true => format!("{state} (paused)"),
        false => state.to_owned(),
    }
}

/// What a torrent has moved in all of its life.
fn in_all(moved: Option<u64>) -> String {
    match moved {
        Some(moved) => format!("{} in all", display_size(moved)),
        None => "in all it is not known, as the session cannot be read".to_owned(),
    }
}

impl Shown for Detail {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let row = &self.row;
        field(out, "name", escaped(&row.name))?;
        field(out, "info-hash", &row.info_hash)?;
        field(out, "state", state(row))?;
        if let Some(why) = &row.why {
            field(out, "why", escaped(why))?;
        }
        field(
            out,
            "size",
            format_args!("{} ({} bytes)", display_size(row.size), row.size),
        )?;
        if let Some(done) = row.done {
            field(
                out,
                "done",
                format_args!("{} ({})", percent(done, row.size), display_size(done)),
            )?;
        }
        if let Some(checked) = row.checked {
            field(out, "checked", percent(checked, row.size))?;
        }
        if let (Some(count), Some(len)) = (self.piece_count, self.piece_len) {
            let have = self.have_count.map(|have| format!("{have} of ")).unwrap_or_default();
            field(
                out,
                "pieces",
                format_args!("{have}{count}, of {}", display_size(len.into())),
            )?;
        }
        if let Some(count) = self.file_count {
            field(out, "files", count)?;
        }
        if let Some(private) = self.private {
            field(out, "private", if private { "yes" } else { "no" })?;
        }
        field(out, "peers", row.peers)?;
        field(
            out,
            "up",
            format_args!("{}, {}", rate(row.upload_rate), in_all(row.uploaded_ever)),
        )?;
        field(
            out,
            "down",
            format_args!("{}, {}", rate(row.download_rate), in_all(row.downloaded_ever)),
        )?;
        if let Some(ratio) = row.ratio_of_totals() {
            field(
                out,
                "ratio",
                format_args!("{ratio:.2} (uploaded, in sizes of the torrent)"),
            )?;
        }
        for (name, at) in [("added", row.added), ("completed", self.completed)] {
            if let Some(at) = at {
                field(out, name, moment(at))?;
            }
        }
        if let Some(label) = &row.label {
            field(out, "label", escaped(label))?;
        }
        field(out, "data folder", escaped(&self.data_dir))?;
        for file in &self.torrent_files {
            field(out, "torrent file", escaped(file))?;
        }
        for tracker in &self.trackers {
            let swarm = match (tracker.seeders, tracker.leechers) {
                (Some(seeders), Some(leechers)) => format!(
                    ", {}, {}",
                    counted(seeders.into(), "seeder"),
                    counted(leechers.into(), "leecher")
                ),
                _ => String::new(),
            };
            let asking = if tracker.asking { ", being asked now" } else { "" };
            let text = tracker.text.as_deref().map(|text| format!(": {}", escaped(text)));
            let text = text.unwrap_or_default();
            field(
                out,
                "tracker",
                format_args!("{} {}{asking}{swarm}{text}", escaped(&tracker.url), tracker.state),
            )?;
            if let Some(at) = tracker.next_announce {
                field(out, "next announce", moment(at))?;
            }
        }
        Ok(())
    }
}

impl Shown for PeerRow {
    const COLUMNS: &'static [Column] = PEERS;

    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let flags = [
            (self.interested, 'I'),
            (self.unchoked, 'U'),
            (self.we_are_interested, 'i'),
            (self.we_are_unchoked, 'u'),
            (self.piece_count > 0 && self.have_count == self.piece_count, 'S'),
            (self.outgoing, 'O'),
        ];
        let cells = [
            flags
                .iter()
                .filter(|(is_set, _)| *is_set)
                .map(|(_, flag)| *flag)
                .collect(),
            percent(self.have_count.into(), self.piece_count.into()),
            rate(self.upload_rate),
            rate(self.download_rate),
            escaped(&self.client).to_string().chars().take(CLIENT_LEN).collect(),
            self.address.clone(),
        ];
        row(out, PEERS, cells.into_iter())
    }
}

impl Shown for Added {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let later = if self.loaded { "" } else { " (not taken in yet)" };
        let (name, file) = (escaped(&self.name), escaped(&self.torrent_file));
        writeln!(out, "{}  {name}: added as {file}{later}", self.info_hash)
    }
}

impl Shown for Removed {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let deleted = match (self.files, self.folders) {
            (0, 0) => String::new(),
            (files, folders) => format!(
                ", {} and {} deleted",
                counted(files, "file"),
                counted(folders, "folder")
            ),
        };
        writeln!(out, "{}  {}: removed{deleted}", self.info_hash, escaped(&self.name))?;
        for (what, left) in [("left alone", &self.kept), ("not deleted", &self.failed)] {
            left.iter()
                .try_for_each(|left| writeln!(out, "{what}: {}", escaped(left)))?;
        }
        Ok(())
    }
}

impl Shown for Done {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}  {}: {}", self.info_hash, escaped(&self.name), self.note)
    }
}

impl Shown for Moved {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let dir = escaped(&self.data_dir);
        writeln!(
            out,
            "{dir}: payload is looked for on the disk that is mounted there now"
        )
    }
}

impl Shown for AllDone {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let idle = self.unchanged.saturating_sub(self.refused);
        let (changed, idle) = (counted(self.changed, "torrent"), counted(idle, "other"));
        let refused = match self.refused {
            0 => String::new(),
            count => format!(", and with {} it could not be done", counted(count, "other")),
        };
        writeln!(out, "{changed}; with {idle} there was nothing to do{refused}")
    }
}

impl Shown for Stats {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        field(out, "btd", format_args!("{}, process {}", self.version, self.pid))?;
        let starting = if self.ready { "" } else { " (reading its watch folders)" };
        field(out, "uptime", format_args!("{}{starting}", time(self.uptime)))?;
        let count: usize = self.torrents.values().sum();
        let states = self.torrents.iter().filter(|(_, count)| **count > 0);
        let states: Vec<String> = states.map(|(state, count)| format!("{count} {state}")).collect();
        let colon = if states.is_empty() { "" } else { ": " };
        field(out, "torrents", format_args!("{count}{colon}{}", states.join(", ")))?;
        field(out, "peers", self.peers)?;
        for (name, connections) in [
            ("connections", self.connections),
            ("at tracker", self.tracker_connections),
        ] {
            if let Some(Connections { now, max, turned_away }) = connections {
                let text = format_args!("{now} of at most {max}, {turned_away} turned away since the start");
                field(out, name, text)?;
            }
        }
        field(
            out,
            "up",
            format_args!(
                "{}, {} since the start",
                rate(self.upload_rate),
                display_size(self.uploaded)
            ),
        )?;
        let (down, downloaded) = (rate(self.download_rate), display_size(self.downloaded));
        field(out, "down", format_args!("{down}, {downloaded} since the start"))?;
        let (read, written) = (display_size(self.disk_read), display_size(self.disk_written));
        field(out, "disk", format_args!("{read} read, {written} written"))?;
        field(out, "cache", hits(self.cache_hit_ratio))?;
        if self.checks_paused {
            field(out, "checks", "paused (SIGUSR2 lets them go on)")?;
        }
        for shard in &self.shards {
            field(
                out,
                &format!("shard {}", shard.index),
                format_args!(
                    "{}, {}, {} up, {} down, cache {}, last tick {:.1} s ago",
                    counted(shard.peers, "peer"),
                    counted(shard.downloads, "download"),
                    display_size(shard.uploaded),
                    display_size(shard.downloaded),
                    hits(shard.cache_hit_ratio),
                    shard.silent
                ),
            )?;
        }
        Ok(())
    }
}

fn hits(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "not asked".to_owned(), |ratio| format!("{:.1}% hits", ratio * 100.0))
}

impl Shown for Limits {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        let shown = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), rate);
        for (name, rate, why) in [
            ("upload-rate", self.upload_rate, &self.upload_why),
            ("download-rate", self.download_rate, &self.download_why),
        ] {
            field(out, name, format_args!("{} ({})", shown(rate), escaped(why)))?;
        }
        if let Some(each) = self.upload_rate_per_torrent {
            field(out, "each torrent", format_args!("{} up", rate(each)))?;
        }
        let is_limited = |folder: &&FolderLimits| folder.upload_rate.or(folder.download_rate).is_some();
        for folder in self.folders.iter().filter(is_limited) {
            let (up, down) = (shown(folder.upload_rate), shown(folder.download_rate));
            let name = folder.label.as_deref().unwrap_or(&folder.watch);
            field(out, "folder", format_args!("{}: {up} up, {down} down", escaped(name)))?;
        }
        Ok(())
    }
}

impl Shown for Health {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.healthy {
            writeln!(out, "healthy")?;
        }
        self.why.iter().try_for_each(|why| writeln!(out, "{why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_as_people_read_them() {
        assert_eq!(percent(999_999, 1_000_000), "99.9%");
        assert_eq!(
            (percent(5, 5), percent(0, 0)),
            ("100.0%".to_owned(), "100.0%".to_owned())
        );
        assert_eq!(percent(u64::MAX, u64::MAX), "100.0%");
        assert_eq!((rate(0), rate(1500)), ("-".to_owned(), "1.5 kB/s".to_owned()));
        assert_eq!(
            (rate(12_345_678), rate(3_100_000_000)),
            ("12.3 MB/s".to_owned(), "3.10 GB/s".to_owned())
        );
        assert_eq!(
            (time(3.9), time(90_061.0)),
            ("00:00:03".to_owned(), "1d 01:01:01".to_owned())
        );
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(moment(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(moment(1_795_890_896), "2026-11-28 18:34:56 UTC");
    }
}
