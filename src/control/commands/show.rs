//! `btd show`: what a torrent file says.

use std::io::{self, Write};
use std::path::PathBuf;

use super::{Error, print};
use crate::announcer::redact::{redacted_address, redacted_text};
use crate::control::config::display_size;
use crate::control::torrent_file;
use crate::proto::metainfo::{FileEntry, Metainfo};
use crate::proto::path::escaped;
use serde_json::json;

/// Show what a torrent file says
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The torrent file
    #[arg(value_name = "FILE.torrent")]
    torrent: PathBuf,
    /// List the files, too
    #[arg(long)]
    files: bool,
    /// Print one JSON object, with the files
    #[arg(long)]
    json: bool,
    /// Show the keys in addresses of trackers and web seeds, which are left out otherwise
    #[arg(long)]
    secrets: bool,
}

/// Reads the file and prints it.
///
/// # Errors
/// It cannot be read, or is not a torrent.
pub fn run(args: &Args) -> Result<(), Error> {
    let metainfo = torrent_file::read(&args.torrent).map_err(|error| Error::Torrent {
        path: args.torrent.clone(),
        error,
    })?;
    print(|out| {
        let shown = Shown::of(&metainfo, args.secrets);
        if args.json {
            write_json(out, &metainfo, &shown)
        } else {
            write_text(out, &metainfo, &shown, args.files)
        }
    })
}

/// What may hold a key, as it is shown.
#[derive(Debug)]
struct Shown {
    announce: Vec<Vec<String>>,
    url_list: Vec<String>,
    comment: Option<String>,
    created_by: Option<String>,
}

impl Shown {
    fn of(metainfo: &Metainfo, secrets: bool) -> Self {
        let addresses = || metainfo.announce.iter().flatten().chain(&metainfo.url_list);
        let url = |url: &String| match secrets {
            true => url.clone(),
            false => redacted_address(url),
        };
        let text = |text: &String| match secrets {
            true => text.clone(),
            false => redacted_text(addresses().map(String::as_str), text),
        };
        let tier = |tier: &Vec<String>| tier.iter().map(url).collect();
        Self {
            announce: metainfo.announce.iter().map(tier).collect(),
            url_list: metainfo.url_list.iter().map(url).collect(),
            comment: metainfo.comment.as_ref().map(text),
            created_by: metainfo.created_by.as_ref().map(text),
        }
    }
}

fn write_json(out: &mut dyn Write, metainfo: &Metainfo, shown: &Shown) -> io::Result<()> {
    let file = |file: &FileEntry| json!({ "path": file.path.as_str(), "len": file.len, "pad": file.pad });
    let value = json!({
        "name": metainfo.name,
        "info_hash": metainfo.info_hash.to_string(),
        "total_len": metainfo.geometry.total_len(),
        "piece_len": metainfo.geometry.piece_len_max(),
        "piece_count": metainfo.geometry.piece_count(),
        "private": metainfo.private,
        "hybrid": metainfo.hybrid,
        "announce": shown.announce,
        "url_list": shown.url_list,
        "comment": shown.comment,
        "created_by": shown.created_by,
        "creation_date": metainfo.creation_date,
        "files": metainfo.files.iter().map(file).collect::<Vec<_>>(),
    });
    serde_json::to_writer_pretty(&mut *out, &value)?;
    writeln!(out)
}

fn write_text(out: &mut dyn Write, metainfo: &Metainfo, shown: &Shown, files: bool) -> io::Result<()> {
    let geometry = &metainfo.geometry;
    let mut field = |name: &str, value: &dyn std::fmt::Display| writeln!(out, "{name:<13} {value}");
    field("name", &escaped(&metainfo.name))?;
    field("info-hash", &metainfo.info_hash)?;
    field(
        "size",
        &format_args!(
            "{} ({} bytes)",
            display_size(geometry.total_len()),
            geometry.total_len()
        ),
    )?;
    let piece_len = u64::from(geometry.piece_len_max());
    field(
        "pieces",
        &format_args!(
            "{} of {} ({piece_len} bytes)",
            geometry.piece_count(),
            display_size(piece_len)
        ),
    )?;
    field(
        "private",
        &if metainfo.private {
            "yes: peers come from its trackers only"
        } else {
            "no"
        },
    )?;
    if metainfo.hybrid {
        field("hybrid", &"yes: served as BitTorrent v1")?;
    }
    for (tier, trackers) in (1..).zip(&shown.announce) {
        for tracker in trackers {
            field(&format!("tracker {tier}"), &escaped(tracker))?;
        }
    }
    for url in &shown.url_list {
        field("web seed", &escaped(url))?;
    }
    if let Some(comment) = &shown.comment {
        field("comment", &escaped(comment))?;
    }
    if let Some(created_by) = &shown.created_by {
        field("created by", &escaped(created_by))?;
    }
    if let Some(date) = metainfo.creation_date {
        field("created", &utc(date))?;
    }
    let pads = metainfo.files.iter().filter(|file| file.pad).count();
    let count = metainfo.files.len() - pads;
    if pads > 0 {
        field("files", &format_args!("{count}, and {pads} of padding"))?;
    } else {
        field("files", &count)?;
    }
    if files {
        for file in metainfo.files.iter().filter(|file| !file.pad) {
            writeln!(out, "{:>16} {}", file.len, escaped(file.path.as_str()))?;
        }
    }
    Ok(())
}

/// A Unix time as people write it, in UTC. Times that no calendar has stay numbers.
fn utc(unix: i64) -> String {
    const DAY: i64 = 86_400;
    // Years 0 to 9999.
    if !(-62_167_219_200..253_402_300_800).contains(&unix) {
        return unix.to_string();
    }
    let (days, second) = (unix.div_euclid(DAY), unix.rem_euclid(DAY));
    // The calendar repeats every 400 years, of 146,097 days. Years begin in March here, so that a leap day is the last
    // of its year and months have 153 days every five.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_in_utc() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_709_251_199), "2024-02-29 23:59:59 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(utc(-1), "1969-12-31 23:59:59 UTC");
        assert_eq!(utc(253_402_300_799), "9999-12-31 23:59:59 UTC");
        assert_eq!(utc(i64::MAX), i64::MAX.to_string());
    }
}
