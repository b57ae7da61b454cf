//! A filesystem of one file that fails on command: what a dying disk answers, without a disk.

use std::ffi::OsStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::consts::FUSE_ASYNC_DIO;
use fuser::{
    BackgroundSession, FileAttr, FileType, Filesystem, KernelConfig, MountOption, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyEntry, ReplyOpen, Request,
};

use rustix::mount::{UnmountFlags, unmount};

/// The file's name.
pub const NAME: &str = "sick";

const ROOT: u64 = 1;
const FILE: u64 = 2;
const TTL: Duration = Duration::from_secs(1);
/// `FOPEN_DIRECT_IO`: what a read brings is what the filesystem gave, not what the page cache makes of it.
const DIRECT_IO: u32 = 1;
const EIO: i32 = 5;
const ENOENT: i32 = 2;

/// What is wrong with the file.
#[derive(Default)]
pub struct Faults {
    /// Reads that touch these bytes fail.
    unreadable: Mutex<Range<u64>>,
    /// Reads bring half of what was asked for.
    short: AtomicBool,
    /// How long each read takes, in milliseconds.
    delay_ms: AtomicU64,
}

impl Faults {
    pub fn make_unreadable(&self, bytes: Range<u64>) {
        *self.unreadable.lock().expect("no test panics with it") = bytes;
    }

    pub fn make_short(&self) {
        self.short.store(true, Ordering::Relaxed);
    }

    /// Each read takes so long, one after the other.
    pub fn make_slow(&self, each: Duration) {
        let each = u64::try_from(each.as_millis()).expect("less than an age");
        self.delay_ms.store(each, Ordering::Relaxed);
    }
}

/// Mounted until it is dropped.
pub struct SickFs {
    pub faults: Arc<Faults>,
    dir: PathBuf,
    _session: BackgroundSession,
}

impl Drop for SickFs {
    fn drop(&mut self) {
        // Also while a killed process still reads: the session's own way would leave it mounted then.
        let unmounted = unmount(&self.dir, UnmountFlags::DETACH);
        if let Err(errno) = unmounted {
            eprintln!("{} stays mounted: {errno}", self.dir.display());
        }
    }
}

impl SickFs {
    /// Mounts a file of these bytes in the empty folder `dir`. `Err` says why that cannot be done here.
    pub fn mount(dir: &Path, contents: Vec<u8>) -> Result<Self, String> {
        let faults = Arc::new(Faults::default());
        let files = Files {
            contents,
            modified: SystemTime::now() - Duration::from_secs(3600),
            faults: faults.clone(),
        };
        let options = [MountOption::RO, MountOption::FSName("btd-test".to_owned())];
        let session = fuser::spawn_mount2(files, dir, &options).map_err(|error| format!("no FUSE mount: {error}"))?;
        Ok(Self {
            faults,
            dir: dir.to_owned(),
            _session: session,
        })
    }
}

struct Files {
    contents: Vec<u8>,
    modified: SystemTime,
    faults: Arc<Faults>,
}

impl Files {
    fn attr(&self, inode: u64) -> FileAttr {
        let size = if inode == FILE { self.contents.len() as u64 } else { 0 };
        FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: self.modified,
            mtime: self.modified,
            ctime: self.modified,
            crtime: self.modified,
            kind: match inode {
                FILE => FileType::RegularFile,
                _ => FileType::Directory,
            },
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Files {
    fn init(&mut self, _req: &Request<'_>, config: &mut KernelConfig) -> Result<(), i32> {
        // As libfuse does. Without it the kernel (6.18) reads on for a ring after a short read of its own accord, and from
        // the wrong place.
        config.add_capabilities(FUSE_ASYNC_DIO).map_err(|_| EIO)
    }

    fn lookup(&mut self, _req: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        match parent == ROOT && name == NAME {
            true => reply.entry(&TTL, &self.attr(FILE), 0),
            false => reply.error(ENOENT),
        }
    }

    fn getattr(&mut self, _req: &Request<'_>, inode: u64, _handle: Option<u64>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(inode));
    }

    fn open(&mut self, _req: &Request<'_>, _inode: u64, _flags: i32, reply: ReplyOpen) {
        reply.opened(0, DIRECT_IO);
    }

    fn read(
        &mut self,
        _req: &Request<'_>,
        _inode: u64,
        _handle: u64,
        offset: i64,
        size: u32,
        _flags: i32,
        _lock_owner: Option<u64>,
        reply: ReplyData,
    ) {
        let delay = self.faults.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            std::thread::sleep(Duration::from_millis(delay));
        }
        let start = usize::try_from(offset).map_or(self.contents.len(), |at| at.min(self.contents.len()));
        let mut end = (start + size as usize).min(self.contents.len());
        let unreadable = self.faults.unreadable.lock().expect("no test panics with it").clone();
        if unreadable.start < end as u64 && (start as u64) < unreadable.end {
            return reply.error(EIO);
        }
        if self.faults.short.load(Ordering::Relaxed) && end - start > 8_192 {
            // Not in whole sectors, as a disk would, but anywhere.
            end = start + (end - start) / 2 - 100;
        }
        reply.data(&self.contents[start..end]);
    }

    fn readdir(&mut self, _req: &Request<'_>, _inode: u64, _handle: u64, offset: i64, mut reply: ReplyDirectory) {
        if offset == 0 {
            let _full = reply.add(FILE, 1, FileType::RegularFile, NAME);
        }
        reply.ok();
    }
}
