//! A torrent file put into a watch folder, under a name that nothing has: written beside, synced, renamed. btd takes it in
//! from there as it takes in any other, and finds it there again after a restart.
//!
//! Blocks on the disk.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::proto::InfoHash;
use crate::proto::path::NAME_LEN_MAX;

/// The end of a name that watch folders look for.
const SUFFIX: &str = ".torrent";
/// Names that are tried where files of that name are there.
const NAMES_MAX: usize = 100;

/// Writes `content` into `dir`, under the name that somebody gave it or one like it. Gives its path.
///
/// # Errors
/// The filesystem refuses.
pub(super) fn put(dir: &Path, wanted: &str, info_hash: InfoHash, content: &[u8]) -> io::Result<PathBuf> {
    // Watch folders pass over hidden files.
    let beside = dir.join(format!(".{info_hash}.btd-ctl"));
    let placed = write(&beside, content).and_then(|()| place(&beside, dir, wanted, info_hash));
    if placed.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    placed
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    // Left by one that was killed. Two do not write at once: the caller takes them one by one.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn place(beside: &Path, dir: &Path, wanted: &str, info_hash: InfoHash) -> io::Result<PathBuf> {
    for number in 0..NAMES_MAX {
        let path = dir.join(name(wanted, info_hash, number));
        let renamed = match rustix::fs::renameat_with(CWD, beside, CWD, &path, RenameFlags::NOREPLACE) {
            // NFS, and FUSE filesystems that know rename(2) only.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match path.symlink_metadata() {
                Ok(_) => Err(Errno::EXIST),
                Err(_) => rustix::fs::rename(beside, &path),
            },
            renamed => renamed,
        };
        match renamed {
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
            Ok(()) => {
                // The name, too, should outlive a power cut.
                std::fs::File::open(dir)?.sync_all()?;
                return Ok(path);
            }
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        "all names like it are taken",
    ))
}

/// The name of a file as it was wanted, made one that watch folders look for; the `number`th such.
fn name(wanted: &str, info_hash: InfoHash, number: usize) -> String {
    let stem = wanted.rsplit('/').next().unwrap_or_default();
    let stem = match stem.to_ascii_lowercase().strip_suffix(SUFFIX) {
        Some(rest) => &stem[..rest.len()],
        None => stem,
    };
    let stem = stem.trim_start_matches('.').replace('\0', "");
    let end = match number {
        0 => SUFFIX.to_owned(),
        number => format!("-{number}{SUFFIX}"),
    };
    let mut len = stem.len().min(NAME_LEN_MAX - end.len());
    while !stem.is_char_boundary(len) {
        len -= 1;
    }
    match len {
        0 => format!("{info_hash}{end}"),
        len => format!("{}{end}", &stem[..len]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: InfoHash = InfoHash([0xab; 20]);

    #[test]
    fn a_name_becomes_one_that_is_looked_for_and_leads_nowhere_else() {
        let hash = HASH.to_string();
        let long = "é".repeat(200);
        for (wanted, expected) in [
            ("a.torrent", "a.torrent".to_owned()),
            ("A.TORRENT", "A.torrent".to_owned()),
            ("a", "a.torrent".to_owned()),
            ("../../etc/passwd", "passwd.torrent".to_owned()),
            (".hidden.torrent", "hidden.torrent".to_owned()),
            (".torrent", format!("{hash}.torrent")),
            ("..", format!("{hash}.torrent")),
            ("", format!("{hash}.torrent")),
            ("x/", format!("{hash}.torrent")),
            (&long, format!("{}.torrent", "é".repeat(123))),
        ] {
            let name = name(wanted, HASH, 0);
            assert_eq!(name, expected, "{wanted}");
            assert!(name.len() <= NAME_LEN_MAX && !name.contains('/'));
        }
        assert_eq!(name("a.torrent", HASH, 2), "a-2.torrent");
    }

    #[test]
    fn nothing_that_is_there_is_replaced_and_nothing_is_left_beside() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("a.torrent"), "other").expect("written");
        std::fs::write(dir.path().join(format!(".{HASH}.btd-ctl")), "left").expect("written");
        let path = put(dir.path(), "a.torrent", HASH, b"new").expect("put");
        assert_eq!(path, dir.path().join("a-1.torrent"));
        assert_eq!(std::fs::read(path).expect("there"), b"new");
        assert_eq!(std::fs::read(dir.path().join("a.torrent")).expect("there"), b"other");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 2);
        assert!(put(&dir.path().join("gone"), "a", HASH, b"x").is_err());
    }
}
