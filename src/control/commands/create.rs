//! `btd create`: makes a torrent file.
//!
//! The `info` dictionary holds only what it must, and files stand in the order of the bytes of their paths (`sub.z`
//! before `sub/y`), as `mktorrent` has them: the same payload and piece length give the same info-hash there, and in
//! libtorrent when it is given the files in that order.
//!
//! Symbolic links are left out, with a line that says so: btd does not follow them when it serves, so a torrent with
//! them could not be seeded from where it was made. The payload must not change meanwhile; if it does, no torrent is
//! written.

mod output;
mod tree;

use std::path::PathBuf;
use std::time::SystemTime;

use super::{Error, print, progress, tell};
use crate::control::config::display_size;
use crate::control::open_files;
use crate::hashing::{Pool, PoolConfig};
use crate::proto::geometry::{Geometry, PIECE_LEN_MAX, TOTAL_LEN_MAX};
use crate::proto::metainfo::{FileEntry, Metainfo, NewContent, NewFile, NewTorrent, encode};
use crate::proto::path::escaped;
use crate::storage::digest::{self, digests};
use crate::storage::{Device, Means, Progress, Root, Throttle};
use tree::Tree;

/// The shortest piece that new torrents should have: one block.
const PIECE_LEN_MIN: u32 = 16 << 10;
/// The longest piece chosen unasked: some clients refuse longer ones.
const AUTO_PIECE_LEN_MAX: u32 = 16 << 20;
/// How many pieces a torrent should have at most if its piece length is chosen for it: 40 KB of hashes.
const AUTO_PIECE_COUNT: u64 = 2_000;

/// Make a torrent file of a file or folder
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file or folder; symbolic links in it are left out
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The torrent file to write
    #[arg(long, short, value_name = "FILE.torrent")]
    output: PathBuf,
    /// A tracker's announce URL; each further one is asked when those before it do not answer
    #[arg(long = "tracker", value_name = "URL")]
    trackers: Vec<String>,
    /// How long a piece is, "256 KiB", "1M" or bytes, a power of two [default: for at most 2,000 pieces]
    #[arg(long, value_name = "N", value_parser = piece_len)]
    piece_length: Option<u32>,
    /// Peers may come from the trackers only
    #[arg(long)]
    private: bool,
    /// A remark for people
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Who publishes it; makes the info-hash another one
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

/// Hashes the payload and writes the torrent file.
///
/// # Errors
/// The payload cannot be read, is nothing a torrent can hold, or changed meanwhile; the output exists or cannot be
/// written.
pub fn run(args: &Args) -> Result<(), Error> {
    check_trackers(&args.trackers)?;
    output::check(&args.output, args.force)?;
    let tree = Tree::look(&args.path, &args.output)?;
    for left_out in &tree.left_out {
        tell(format_args!("left out: {left_out}"));
    }
    let unfit = |reason: String| Error::Payload {
        path: args.path.clone(),
        reason,
    };
    let mut lens = tree.files.iter().map(|file| file.len);
    let total_len = lens
        .try_fold(0_u64, |total, len| total.checked_add(len))
        .ok_or_else(|| unfit(format!("more than {TOTAL_LEN_MAX} bytes in all")))?;
    let piece_len = args.piece_length.unwrap_or_else(|| auto_piece_len(total_len));
    let geometry = Geometry::new(piece_len, total_len).map_err(|error| unfit(error.to_string()))?;
    let piece_hashes = hash(&tree, &geometry)?;
    tree.check_unchanged()?;

    let new_files: Vec<NewFile>;
    let content = if tree.is_folder {
        new_files = tree
            .files
            .iter()
            .map(|file| NewFile {
                path: file.path.clone(),
                len: file.len,
                pad: false,
            })
            .collect();
        NewContent::Folder(&new_files)
    } else {
        NewContent::File(total_len)
    };
    let announce: Vec<Vec<String>> = args.trackers.iter().map(|url| vec![url.clone()]).collect();
    let torrent = encode(&NewTorrent {
        name: &tree.name,
        content,
        piece_len,
        piece_hashes: &piece_hashes,
        private: args.private,
        source: args.source.as_deref(),
        announce: &announce,
        url_list: &[],
        comment: args.comment.as_deref(),
        created_by: Some(concat!("btd/", env!("CARGO_PKG_VERSION"))),
        creation_date: now(),
    });
    // Read back as everybody will: what btd itself would not load is not written.
    let metainfo = Metainfo::parse(&torrent)
        .map_err(|error| unfit(format!("would make a torrent that is refused when loaded: {error}")))?;
    output::write(&args.output, &torrent, args.force)?;
    print(|out| {
        let pieces = if geometry.piece_count() == 1 { "piece" } else { "pieces" };
        let pieces = format!(
            "{} {pieces} of {}",
            geometry.piece_count(),
            display_size(piece_len.into())
        );
        writeln!(out, "{}: {pieces}, {}", args.output.display(), display_size(total_len))?;
        writeln!(out, "{} {}", metainfo.info_hash, escaped(&metainfo.name))
    })
}

fn hash(tree: &Tree, geometry: &Geometry) -> Result<Vec<[u8; 20]>, Error> {
    let root = Root::open(&tree.root).map_err(|error| Error::File {
        path: tree.root.clone(),
        step: "cannot open the folder",
        error,
    })?;
    let mut offset = 0;
    let mut entry = |file: &tree::Found| {
        let entry = FileEntry {
            path: file.path.clone(),
            len: file.len,
            offset,
            pad: false,
        };
        offset += file.len;
        entry
    };
    let entries: Vec<FileEntry> = tree.files.iter().map(&mut entry).collect();
    open_files::raise_soft_limit();
    let pool = Pool::start(PoolConfig::default()).map_err(Error::Threads)?;
    let done = Progress::default();
    let means = Means {
        pool: &pool,
        throttle: &Throttle::default(),
        seeks: Device::of(&root).seeks,
    };
    let work = || digests(&root, &entries, geometry, means, &done);
    progress::show("hashing", geometry.total_len(), &done, work).map_err(|error| match error {
        digest::Error::File { file, state } => Error::Payload {
            path: tree.root.join(entries[file].path.as_path()),
            reason: format!("cannot be hashed, or changed while it was: {state}"),
        },
        error @ digest::Error::Unsteady => Error::Payload {
            path: tree.root.clone(),
            reason: error.to_string(),
        },
        digest::Error::Run(error) => Error::Ended(error),
    })
}

/// A power of two that cuts the payload into [`AUTO_PIECE_COUNT`] pieces or less, within bounds.
fn auto_piece_len(total_len: u64) -> u32 {
    let wanted = total_len.div_ceil(AUTO_PIECE_COUNT).next_power_of_two();
    let len = u32::try_from(wanted)
        .unwrap_or(AUTO_PIECE_LEN_MAX)
        .clamp(PIECE_LEN_MIN, AUTO_PIECE_LEN_MAX);
    // Beyond 32 TiB no smaller one is possible.
    if Geometry::new(len, total_len.max(1)).is_ok() {
        len
    } else {
        PIECE_LEN_MAX
    }
}

/// Reads a piece length: bytes, or a number with `K`, `KiB`, `M` or `MiB`.
fn piece_len(text: &str) -> Result<u32, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        _ => return Err("expected bytes, or a number with KiB or MiB (K, M)".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    let bytes = bytes.and_then(|bytes| u32::try_from(bytes).ok());
    match bytes {
        Some(bytes) if bytes.is_power_of_two() && (PIECE_LEN_MIN..=PIECE_LEN_MAX).contains(&bytes) => Ok(bytes),
        _ => Err("expected a power of two from 16 KiB to 64 MiB".to_owned()),
    }
}

/// Not by clap, which repeats what it refuses: it may hold a key, and end in somebody's log.
fn check_trackers(trackers: &[String]) -> Result<(), Error> {
    match trackers.iter().position(|url| !is_tracker(url)) {
        None => Ok(()),
        Some(at) => {
            let which = match trackers.len() {
                1 => String::new(),
                count => format!(" ({} of {count})", at + 1),
            };
            Err(Error::Usage(format!(
                "invalid value for --tracker{which}: expected a URL like http://HOST:PORT/announce (http, https or udp)"
            )))
        }
    }
}

/// A tracker's URL. Only its beginning is looked at: the rest is between the clients and the tracker.
fn is_tracker(text: &str) -> bool {
    let rest = ["http://", "https://", "udp://"]
        .into_iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let host_follows = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?']));
    host_follows && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Seconds since 1970; none if the clock stands before that.
fn now() -> Option<i64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_lengths_are_read_as_people_write_them() {
        for text in ["16384", "16 KiB", "16K", "16k", "16KiB", "16384 B"] {
            assert_eq!(piece_len(text), Ok(16 << 10), "{text}");
        }
        assert_eq!(piece_len("1M"), Ok(1 << 20));
        assert_eq!(piece_len("64 MiB"), Ok(64 << 20));
        for text in [
            "",
            "K",
            "0",
            "8K",
            "100K",
            "128M",
            "1G",
            "-1",
            "16 kB",
            "99999999999999999999",
            "17179869184M",
        ] {
            assert!(piece_len(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_piece_length_is_chosen_by_the_length_of_the_payload() {
        assert_eq!(auto_piece_len(0), 16 << 10);
        assert_eq!(auto_piece_len(1 << 20), 16 << 10);
        assert_eq!(auto_piece_len(1 << 30), 1 << 20);
        assert_eq!(auto_piece_len(1 << 40), 16 << 20);
        assert_eq!(auto_piece_len(33 << 40), 64 << 20);
    }

    #[test]
    fn trackers_are_urls() {
        for url in [
            "http://127.0.0.1:6969/announce",
            "udp://t.example:80",
            "https://t.example/a?k=1",
        ] {
            assert!(is_tracker(url), "{url}");
        }
        for url in [
            "",
            "t.example:6969",
            "ftp://t.example",
            "http://",
            "http:///announce",
            "http://a b/",
        ] {
            assert!(!is_tracker(url), "{url}");
        }
    }
}
