//! Writes the torrent file, whole or not at all.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::super::Error;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

/// Finds out before the payload is hashed what would keep the result from being written.
pub(super) fn check(path: &Path, force: bool) -> Result<(), Error> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => Err(Error::Usage(format!("{}: a folder, not a file", path.display()))),
        Ok(_) if force => Ok(()),
        Ok(_) => Err(exists(path)),
        Err(_) => {
            let folder = folder(path);
            let is_folder = folder.metadata().and_then(|metadata| match metadata.is_dir() {
                true => Ok(()),
                false => Err(io::ErrorKind::NotADirectory.into()),
            });
            is_folder.map_err(|error| failed(folder, "cannot write here", error))
        }
    }
}

/// Writes `bytes` beside `path` and renames it there, so that a watched folder never holds half a torrent.
pub(super) fn write(path: &Path, bytes: &[u8], force: bool) -> Result<(), Error> {
    let Some(name) = path.file_name() else {
        return Err(Error::Usage(format!("{}: not the name of a file", path.display())));
    };
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    // A long name has no room for more; the process id alone is unique enough within one folder.
    if temporary.len() > 200 {
        temporary = ".btd".into();
    }
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder(path).join(temporary);
    let written = write_new(&temporary, bytes).map_err(|error| failed(&temporary, "cannot write", error));
    let renamed = written.and_then(|()| rename(&temporary, path, force));
    if renamed.is_err() {
        // Whatever is left of it is of no use; that it cannot be removed would not be news.
        let _ = std::fs::remove_file(&temporary);
    }
    renamed
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    // Otherwise a power cut could leave the new name with no bytes.
    file.sync_all()
}

fn rename(from: &Path, to: &Path, force: bool) -> Result<(), Error> {
    let flags = if force {
        RenameFlags::empty()
    } else {
        RenameFlags::NOREPLACE
    };
    let renamed = match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
        // A filesystem that cannot promise not to replace (NFS, some FUSE): a hard link never replaces, either.
        Err(Errno::INVAL | Errno::NOSYS) if !force => {
            rustix::fs::link(from, to).and_then(|()| rustix::fs::unlink(from))
        }
        renamed => renamed,
    };
    renamed.map_err(|errno| match errno {
        Errno::EXIST if !force => exists(to),
        errno => failed(to, "cannot write", errno.into()),
    })
}

/// The folder that a file of this path lies in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn exists(path: &Path) -> Error {
    Error::Usage(format!("{}: exists (hint: `--force` replaces it)", path.display()))
}

fn failed(path: &Path, step: &'static str, error: io::Error) -> Error {
    Error::File {
        path: PathBuf::from(path),
        step,
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let names = dir
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn nothing_but_the_output_is_left() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.torrent");
        write(&path, b"first", false).unwrap();
        assert!(matches!(write(&path, b"second", false), Err(Error::Usage(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        write(&path, b"second", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(names(temp.path()), ["x.torrent"]);
    }

    #[test]
    fn a_name_as_long_as_names_can_be_is_written() {
        let temp = tempfile::tempdir().unwrap();
        let name = "x".repeat(255);
        write(&temp.path().join(&name), b"bytes", false).unwrap();
        assert_eq!(names(temp.path()), [name]);
    }

    #[test]
    fn what_cannot_be_written_is_known_before() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("x.torrent");
        check(&path, false).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(matches!(check(&path, false), Err(Error::Usage(_))));
        check(&path, true).unwrap();
        assert!(matches!(check(temp.path(), true), Err(Error::Usage(_))));
        assert!(matches!(
            check(&temp.path().join("none/x"), false),
            Err(Error::File { .. })
        ));
        assert!(matches!(check(&path.join("x"), false), Err(Error::File { .. })));
    }
}
