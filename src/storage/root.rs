//! A data folder that nothing named in a torrent can escape from.
//!
//! The folder is held by a descriptor, and files are opened beneath it by `openat2` with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`: the kernel itself refuses `..`, absolute paths and symbolic links in every component, so a
//! folder swapped for a link between a check and the open gains nothing. Where that call is taken away, the same is done name
//! by name. That a path is *plausible* is checked before, by [`RelPath`].
//!
//! Only opens for reading: what is made and renamed below it is the business of `folder`. Who keeps
//! descriptors open, and how many, is the caller's.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use crate::proto::metainfo::FileEntry;
use crate::proto::path::RelPath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

/// How often an open is tried again that the kernel could not finish: `EAGAIN` when something was renamed while
/// `openat2` walked the path, `EINTR` on a signal.
const ATTEMPTS_MAX: u32 = 64;

/// A data folder.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
    /// Its device and inode numbers.
    identity: (u64, u64),
    distant: bool,
}

/// Filesystems whose calls wait for another process or machine, by their numbers (statfs(2)): FUSE, NFS, SMB and CIFS, 9P, Ceph,
/// AFS. What is mounted within a data folder is not looked at.
const DISTANT: [i64; 9] = [
    0x6573_5546,
    0x6969,
    0xfe53_4d42,
    0xff53_4d42,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x6b41_4653,
    0x517b,
];

/// Why a file of a torrent cannot be opened. Says nothing of its name, which the caller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no such file.
    #[error("no such file")]
    Missing,
    /// A name on the way to it belongs to a file.
    #[error("a file stands where a folder of its path should be")]
    NotAFolder,
    /// It, or a folder of its path, is a symbolic link.
    #[error(
        "a symbolic link, which btd does not follow below the data folder (hint: a hard link or a bind mount in its place, or a \
         [[watch]] of its own for the folder that it leads to)"
    )]
    SymbolicLink,
    /// There is something of its name that is not a regular file.
    #[error("{0}, not a regular file")]
    NotRegular(&'static str),
    /// Its path leaves the data folder.
    #[error("its path leaves the data folder")]
    Outside,
    /// The process may not read it.
    #[error("permission denied (hint: btd's user needs to read the file and to enter its folders)")]
    Denied,
    /// This process, or the system, has too many files open.
    #[error("too many open files (hint: raise `LimitNOFILE=` or `ulimit -n`)")]
    TooManyOpen,
    /// Anything else the system says.
    #[error("{}", std::io::Error::from(*.0))]
    Other(Errno),
}

impl OpenError {
    /// The error number that stands for it.
    pub fn errno(self) -> Errno {
        match self {
            Self::Missing => Errno::NOENT,
            Self::NotAFolder => Errno::NOTDIR,
            Self::SymbolicLink => Errno::LOOP,
            Self::NotRegular(_) => Errno::INVAL,
            Self::Outside => Errno::XDEV,
            Self::Denied => Errno::ACCESS,
            Self::TooManyOpen => Errno::MFILE,
            Self::Other(errno) => errno,
        }
    }

    pub(super) fn new(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Missing,
            Errno::NOTDIR => Self::NotAFolder,
            Errno::LOOP => Self::SymbolicLink,
            Errno::XDEV => Self::Outside,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::MFILE | Errno::NFILE => Self::TooManyOpen,
            // Opened for writing.
            Errno::ISDIR => Self::NotRegular("a folder"),
            // open(2): a socket, or a device without a driver.
            Errno::NXIO | Errno::NODEV => Self::NotRegular("a socket or device"),
            other => Self::Other(other),
        }
    }
}

impl Root {
    /// Takes hold of a data folder. Its own path is the operator's, who may well use symbolic links in it.
    ///
    /// # Errors
    /// What the system says, for instance that it does not exist or is not a folder.
    pub fn open(path: impl Into<PathBuf>) -> std::io::Result<Self> {
        let path = path.into();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&dir)?;
        let identity = (stat.st_dev, stat.st_ino);
        let distant = rustix::fs::fstatfs(&dir).is_ok_and(|statfs| DISTANT.contains(&statfs.f_type));
        Ok(Self {
            dir,
            path,
            identity,
            distant,
        })
    }

    /// Whether another is the same folder, however its path is spelt.
    #[must_use]
    pub fn is_same(&self, other: &Root) -> bool {
        self.identity == other.identity
    }

    /// Its device and inode numbers: another folder of the same path has others.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Whether its filesystem is that of another process or machine. The kernel tries what it can without waiting, and of these
    /// takes for granted that it can: opens and reads would have a shard wait until somebody answers.
    pub fn is_distant(&self) -> bool {
        self.distant
    }

    /// The path it was opened by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder's descriptor (`O_PATH`), for `openat2` through a ring. Whoever uses it owes the checks of
    /// [`Root::open_file`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Whether all of these files are there, each with its length. Blocks on the disk.
    pub fn has_all(&self, files: &[FileEntry]) -> bool {
        let is_there = |entry: &FileEntry| {
            let file = self.open_file(&entry.path);
            let metadata = file.ok().and_then(|file| file.metadata().ok());
            metadata.is_some_and(|metadata| metadata.len() == entry.len)
        };
        files.iter().filter(|entry| !entry.pad).all(is_there)
    }

    /// What of the path of a file that cannot be opened is the cause of that, if it is one of its folders: a symbolic link, or a
    /// file in the place of a folder. Blocks on the disk.
    pub fn culprit<'a>(&self, path: &'a RelPath) -> Option<&'a str> {
        let path = path.as_str();
        let mut folders = path.match_indices('/').map(|(end, _)| &path[..end]);
        folders.find(|folder| {
            let opened = open_beneath(self.fd(), Path::new(folder), OFlags::PATH | OFlags::DIRECTORY);
            matches!(opened, Err(OpenError::SymbolicLink | OpenError::NotAFolder))
        })
    }

    /// Opens a regular file beneath the folder for reading. Never waits for the other end of a FIFO.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_file(&self, path: &RelPath) -> Result<File, OpenError> {
        regular(open_beneath(self.fd(), path.as_path(), OFlags::RDONLY)?)
    }
}

/// Opens what lies beneath a folder, through no symbolic link, and without waiting for the other end of a FIFO. `flags`
/// say for what.
pub(super) fn open_beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, OpenError> {
    // Not `O_NOFOLLOW`: `RESOLVE_NO_SYMLINKS` is of the last name too, and tells a link from a file with `O_DIRECTORY`.
    let waits = match flags.contains(OFlags::PATH) {
        true => OFlags::empty(), // Nothing is opened that could wait, and openat2(2) takes no such flags then.
        false => OFlags::NONBLOCK | OFlags::NOCTTY,
    };
    let flags = flags | waits | OFlags::CLOEXEC;
    let mode = match flags.contains(OFlags::CREATE) {
        true => Mode::from_raw_mode(0o666), // Less what the process's umask takes away.
        false => Mode::empty(),
    };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = 0;
    loop {
        match rustix::fs::openat2(dir, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempts < ATTEMPTS_MAX => attempts += 1,
            Err(Errno::NOSYS) => return open_by_names(dir, path, flags, mode).map_err(OpenError::new),
            opened => return opened.map_err(OpenError::new),
        }
    }
}

/// The same where `openat2` is taken away. Filters of system calls cannot look into what it is given, so systemd's
/// `RestrictSUIDSGID=` answers that there is no such call, and so do containers that have not heard of it. Each name is opened
/// beneath the folder before it, and never through a link; what a ring opens is not filtered.
fn open_by_names(dir: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let mut names = path.components().peekable();
    let mut folder: Option<OwnedFd> = None;
    loop {
        let name = match names.next() {
            Some(Component::Normal(name)) => name,
            Some(Component::CurDir) => OsStr::new("."),
            Some(Component::ParentDir | Component::RootDir | Component::Prefix(_)) => return Err(Errno::XDEV),
            None => return Err(Errno::NOENT),
        };
        let at = folder.as_ref().map_or(dir, |folder| folder.as_fd());
        let is_last = names.peek().is_none();
        let (flags, mode) = match is_last {
            true => (flags | OFlags::NOFOLLOW, mode),
            false => (
                OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            ),
        };
        let opened = retry_on_intr(|| rustix::fs::openat(at, name, flags, mode));
        let is_link = match &opened {
            // A link is no folder either.
            Err(Errno::NOTDIR) => rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(is_symlink),
            // With this flag the link itself is opened.
            Ok(fd) if flags.contains(OFlags::PATH) => is_symlink(rustix::fs::fstat(fd)?),
            _ => false,
        };
        match opened {
            _ if is_link => return Err(Errno::LOOP),
            Ok(fd) if !is_last => folder = Some(fd),
            opened => return opened,
        }
    }
}

fn is_symlink(stat: Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// What was opened, if it is a regular file.
pub(super) fn regular(file: OwnedFd) -> Result<File, OpenError> {
    let stat = rustix::fs::fstat(&file).map_err(OpenError::new)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            // Only the open needed it. Left on, io_uring would answer `EAGAIN` on some filesystems instead of waiting.
            rustix::fs::fcntl_setfl(&file, OFlags::empty()).map_err(OpenError::new)?;
            return Ok(File::from(file));
        }
        FileType::Directory => "a folder",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Symlink => return Err(OpenError::SymbolicLink),
        _ => "something else",
    };
    Err(OpenError::NotRegular(kind))
}

/// For operations of a ring, which take the folder along.
impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A data folder with `in/file`, and a secret beside it.
    fn root() -> (TempDir, Root) {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        std::fs::create_dir_all(data.join("in")).unwrap();
        std::fs::write(data.join("in/file"), "payload").unwrap();
        std::fs::create_dir(temp.path().join("outside")).unwrap();
        std::fs::write(temp.path().join("outside/secret"), "secret").unwrap();
        let root = Root::open(&data).unwrap();
        (temp, root)
    }

    fn open(root: &Root, path: &str) -> Result<File, OpenError> {
        root.open_file(&RelPath::parse(path).unwrap())
    }

    #[test]
    fn a_regular_file_is_opened_and_its_reads_wait() {
        let (_temp, root) = root();
        let mut file = open(&root, "in/file").unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "payload");
        let flags = rustix::fs::fcntl_getfl(&file).unwrap();
        assert!(!flags.contains(OFlags::NONBLOCK));
    }

    #[test]
    fn what_is_missing_is_told_from_what_is_something_else() {
        let (_temp, root) = root();
        let dir = root.path();
        rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
        assert_eq!(open(&root, "none").unwrap_err(), OpenError::Missing);
        assert_eq!(open(&root, "none/none").unwrap_err(), OpenError::Missing);
        assert_eq!(open(&root, "in/file/none").unwrap_err(), OpenError::NotAFolder);
        assert_eq!(open(&root, "in").unwrap_err(), OpenError::NotRegular("a folder"));
        // Would wait for a writer for ever without O_NONBLOCK.
        assert_eq!(open(&root, "fifo").unwrap_err(), OpenError::NotRegular("a FIFO"));
        assert_eq!(
            open(&root, "socket").unwrap_err(),
            OpenError::NotRegular("a socket or device")
        );
    }

    #[test]
    fn symbolic_links_are_refused_wherever_they_stand_and_lead() {
        let (temp, root) = root();
        let dir = root.path();
        symlink("in/file", dir.join("final")).unwrap();
        symlink("in", dir.join("folder")).unwrap();
        symlink(temp.path().join("outside"), dir.join("away")).unwrap();
        symlink("/proc/self/root", dir.join("magic")).unwrap();
        for path in ["final", "folder/file", "away/secret", "magic/etc/passwd"] {
            assert_eq!(open(&root, path).unwrap_err(), OpenError::SymbolicLink, "{path}");
            let path = RelPath::parse(path).unwrap();
            let folder = path.as_str().split_once('/').map(|(folder, _)| folder);
            assert_eq!(
                root.culprit(&path),
                folder,
                "the link is told, and not what is behind it"
            );
        }
    }

    #[test]
    fn the_kernel_refuses_to_leave_the_folder_even_if_the_path_was_not_checked() {
        let (temp, root) = root();
        let absolute = temp.path().join("outside/secret");
        for path in [
            Path::new("../outside/secret"),
            Path::new("in/../../outside/secret"),
            &absolute,
        ] {
            assert_eq!(
                open_beneath(root.fd(), path, OFlags::RDONLY).unwrap_err(),
                OpenError::Outside,
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn a_folder_swapped_for_a_link_under_our_feet_never_leads_outside() {
        let (temp, root) = root();
        let (inner, real, link) = (
            root.path().join("in"),
            temp.path().join("real"),
            temp.path().join("link"),
        );
        symlink(temp.path().join("outside"), &link).unwrap();
        std::fs::write(root.path().join("in/secret"), "payload").unwrap();
        std::thread::scope(|scope| {
            let flips = scope.spawn(|| {
                for _ in 0..2_000 {
                    std::fs::rename(&inner, &real).unwrap();
                    std::fs::rename(&link, &inner).unwrap();
                    std::fs::rename(&inner, &link).unwrap();
                    std::fs::rename(&real, &inner).unwrap();
                }
            });
            while !flips.is_finished() {
                let path = Path::new("in/secret");
                let by_names = open_by_names(root.fd(), path, OFlags::RDONLY, Mode::empty());
                for mut file in open(&root, "in/secret").into_iter().chain(by_names.map(File::from)) {
                    let mut text = String::new();
                    file.read_to_string(&mut text).unwrap();
                    assert_eq!(text, "payload");
                }
            }
        });
    }

    /// What the open of a path comes to: the file that is opened, or why none is.
    fn outcome(opened: Result<OwnedFd, Errno>) -> Result<u64, OpenError> {
        let fd = opened.map_err(OpenError::new)?;
        Ok(rustix::fs::fstat(fd).unwrap().st_ino)
    }

    #[test]
    fn without_openat2_everything_is_opened_or_refused_as_with_it() {
        let (temp, root) = root();
        let dir = root.path();
        std::fs::create_dir(dir.join("in/deep")).unwrap();
        std::fs::write(dir.join("in/deep/file"), "payload").unwrap();
        symlink("in/file", dir.join("final")).unwrap();
        symlink("in", dir.join("folder")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        symlink(temp.path().join("outside"), dir.join("in/away")).unwrap();
        symlink("/proc/self/root", dir.join("magic")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, dir.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let reading = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let absolute = temp.path().join("outside/secret");
        let absolute = absolute.to_str().unwrap();
        for path in [
            ".",
            "in",
            "in/file",
            "in/deep",
            "in/deep/file",
            "in/file/none",
            "in/none",
            "none",
            "none/none",
            "final",
            "folder",
            "folder/file",
            "dangling",
            "in/away",
            "in/away/secret",
            "magic",
            "magic/etc/passwd",
            "fifo",
            "fifo/none",
            "socket",
            "../outside/secret",
            "..",
            "",
            absolute,
        ] {
            for flags in [
                reading | OFlags::RDONLY,
                reading | OFlags::RDWR,
                reading | OFlags::RDONLY | OFlags::DIRECTORY,
                OFlags::PATH | OFlags::CLOEXEC,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            ] {
                let with = rustix::fs::openat2(&root, path, flags, Mode::empty(), within);
                let without = open_by_names(root.fd(), Path::new(path), flags, Mode::empty());
                assert_eq!(outcome(with), outcome(without), "{path:?} {flags:?}");
            }
        }
        // What is made is made, once, and not by way of a link.
        let making = reading | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let make = |path: &str| outcome(open_by_names(root.fd(), Path::new(path), making, Mode::RUSR));
        assert!(make("in/new").is_ok() && make("in/new").is_err() && make("dangling").is_err());
        assert_eq!(make("in/away/new"), Err(OpenError::SymbolicLink));
        assert!(!temp.path().join("outside/new").exists());
    }

    #[test]
    fn the_data_folder_itself_may_be_reached_by_a_link_and_must_be_a_folder() {
        let (temp, root) = root();
        symlink(root.path(), temp.path().join("link")).unwrap();
        let linked = Root::open(temp.path().join("link")).unwrap();
        assert!(open(&linked, "in/file").is_ok());
        assert!(Root::open(temp.path().join("none")).is_err());
        assert!(Root::open(temp.path().join("outside/secret")).is_err());
    }
}
