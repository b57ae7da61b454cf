//! `btd verify`: whether the payload of a torrent is whole, and what is wrong if not.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Error, print, progress, tell};
use crate::control::config::display_size;
use crate::control::{open_files, torrent_file};
use crate::hashing::{Pool, PoolConfig};
use crate::proto::metainfo::{FileEntry, Metainfo};
use crate::proto::path::escaped;
use crate::storage::{CheckReport, Device, FileState, Layout, Means, PART_SUFFIX, Progress, Root, Throttle, check};
use serde_json::json;

/// Verify the payload of a torrent (exit code 0 whole, 1 not)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The torrent file
    #[arg(value_name = "FILE.torrent")]
    torrent: PathBuf,
    /// The folder that holds the payload: the torrent's file or folder lies in it under the torrent's name. Files that are
    /// not complete yet are found under their names with `.part`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Reads the payload, verifies it and prints what was found.
///
/// # Errors
/// The payload is not whole, or could not be looked at.
pub fn run(args: &Args) -> Result<(), Error> {
    let metainfo = torrent_file::read(&args.torrent).map_err(|error| Error::Torrent {
        path: args.torrent.clone(),
        error,
    })?;
    let root = Root::open(&args.data).map_err(|error| Error::File {
        path: args.data.clone(),
        step: "cannot open the data folder",
        error,
    })?;
    open_files::raise_soft_limit();
    let pool = Pool::start(PoolConfig::default()).map_err(Error::Threads)?;
    let done = Progress::default();
    let total = metainfo.geometry.total_len();
    let means = Means {
        pool: &pool,
        throttle: &Throttle::default(),
        seeks: Device::of(&root).seeks,
    };
    let report = progress::show("verifying", total, &done, || {
        check(&metainfo, &root, means, &done, None)
    })?;
    let findings = Findings::new(&metainfo, &report);
    print(|out| {
        if args.json {
            findings.write_json(out)
        } else {
            findings.write_text(out)
        }
    })?;
    if report.is_whole() {
        return Ok(());
    }
    if let Some(hint) = hint(&metainfo, &report, &args.data) {
        tell(format_args!("hint: {hint}"));
    }
    Err(Error::NotWhole {
        path: args.torrent.clone(),
    })
}

/// The commonest mistake is to name the payload's own folder.
fn hint(metainfo: &Metainfo, report: &CheckReport, data: &Path) -> Option<String> {
    let nothing = report
        .files
        .iter()
        .zip(&metainfo.files)
        .all(|(state, file)| file.pad || *state == FileState::Missing);
    let named_itself = data
        .canonicalize()
        .is_ok_and(|data| data.file_name() == Some(metainfo.name.as_ref()));
    (nothing && named_itself).then(|| {
        format!(
            "--data is the folder that holds `{0}`, not `{0}` itself: try its parent",
            escaped(&metainfo.name)
        )
    })
}

/// What is to be said about a check.
struct Findings<'a> {
    metainfo: &'a Metainfo,
    report: &'a CheckReport,
    /// First and last of each run of pieces whose bytes are wrong.
    wrong: Vec<(u32, u32)>,
    /// The same of pieces that could not be read.
    absent: Vec<(u32, u32)>,
    /// Files that are as long as they should be, and the wrong pieces that they have a part in.
    suspects: BTreeMap<u32, Vec<(u32, u32)>>,
}

impl<'a> Findings<'a> {
    fn new(metainfo: &'a Metainfo, report: &'a CheckReport) -> Self {
        let (mut wrong, mut absent, mut suspects) = (Vec::new(), Vec::new(), BTreeMap::new());
        let layout = Layout::new(metainfo);
        let geometry = &metainfo.geometry;
        for piece in geometry.pieces() {
            if report.wrong.get(piece) {
                append(&mut wrong, piece.get());
                for span in layout.spans(geometry.piece_offset(piece), geometry.piece_len(piece).into()) {
                    if !span.pad {
                        append(suspects.entry(span.file).or_default(), piece.get());
                    }
                }
            } else if !report.have.get(piece) {
                append(&mut absent, piece.get());
            }
        }
        Self {
            metainfo,
            report,
            wrong,
            absent,
            suspects,
        }
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let name = escaped(&self.metainfo.name);
        let (have, count) = (self.report.have.count(), self.metainfo.geometry.piece_count());
        if self.report.is_whole() {
            let size = display_size(self.metainfo.geometry.total_len());
            let pieces = if count == 1 { "piece" } else { "pieces" };
            return writeln!(out, "{name}: whole ({count} {pieces}, {size})");
        }
        writeln!(out, "{name}: not whole ({have} of {count} pieces are good)")?;
        for (file, state) in self.metainfo.files.iter().zip(&self.report.files) {
            if !state.is_ok() {
                writeln!(out, "  {}: {state}", escaped(file.path.as_str()))?;
            }
        }
        for file in self.parts() {
            let path = escaped(file.path.as_str());
            writeln!(out, "  {path}: not complete, it lies under `{path}{PART_SUFFIX}`")?;
        }
        for (&file, pieces) in &self.suspects {
            let path = escaped(self.metainfo.files[file as usize].path.as_str());
            writeln!(out, "  {path}: wrong bytes in {}", ranges(pieces))?;
        }
        if !self.wrong.is_empty() {
            writeln!(out, "  wrong: {}", ranges(&self.wrong))?;
        }
        if !self.absent.is_empty() {
            writeln!(out, "  not there: {}", ranges(&self.absent))?;
        }
        Ok(())
    }

    /// Files that lie under the name of what is not complete.
    fn parts(&self) -> impl Iterator<Item = &FileEntry> {
        let files = std::iter::zip(&self.metainfo.files, &self.report.parts);
        files.filter(|(_, part)| **part).map(|(file, _)| file)
    }

    fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let files = self
            .metainfo
            .files
            .iter()
            .zip(&self.report.files)
            .filter(|(_, state)| !state.is_ok());
        let files = files.map(|(file, state)| {
            json!({ "path": file.path.as_str(), "state": state_name(state), "detail": state.to_string() })
        });
        let suspects = self.suspects.iter().map(|(&file, pieces)| {
            json!({ "path": self.metainfo.files[file as usize].path.as_str(), "wrong_pieces": pieces })
        });
        let value = json!({
            "name": self.metainfo.name,
            "info_hash": self.metainfo.info_hash.to_string(),
            "whole": self.report.is_whole(),
            "piece_count": self.metainfo.geometry.piece_count(),
            "good_count": self.report.have.count(),
            "wrong_count": self.report.wrong.count(),
            "absent_count": self.report.absent_count(),
            "wrong_pieces": self.wrong,
            "absent_pieces": self.absent,
            "part_files": self.parts().map(|file| file.path.as_str()).collect::<Vec<_>>(),
            "bad_files": files.collect::<Vec<_>>(),
            "suspect_files": suspects.collect::<Vec<_>>(),
        });
        serde_json::to_writer_pretty(&mut *out, &value)?;
        writeln!(out)
    }
}

/// The state as a word for programs.
fn state_name(state: &FileState) -> &'static str {
    match state {
        FileState::Ok => "ok",
        FileState::Missing => "missing",
        FileState::Shorter { .. } => "shorter",
        FileState::Longer { .. } => "longer",
        FileState::NotRegular(_) => "not-regular",
        FileState::Unreadable(_) => "unreadable",
    }
}

/// Adds an index, greater than all before, to runs of indexes.
fn append(runs: &mut Vec<(u32, u32)>, index: u32) {
    match runs.last_mut() {
        Some((_, last)) if *last + 1 == index => *last = index,
        _ => runs.push((index, index)),
    }
}

/// `piece 3`, `pieces 3-5, 9`.
fn ranges(runs: &[(u32, u32)]) -> String {
    let one = |&(first, last): &(u32, u32)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    let list = runs.iter().map(one).collect::<Vec<_>>().join(", ");
    let single = matches!(runs, [(first, last)] if first == last);
    format!("{} {list}", if single { "piece" } else { "pieces" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_told_in_runs() {
        let told = |indexes: &[u32]| {
            let mut runs = Vec::new();
            for &index in indexes {
                append(&mut runs, index);
            }
            ranges(&runs)
        };
        assert_eq!(told(&[3]), "piece 3");
        assert_eq!(told(&[3, 4]), "pieces 3-4");
        assert_eq!(told(&[0, 3, 4, 5, 9]), "pieces 0, 3-5, 9");
    }
}
