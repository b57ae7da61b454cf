//! A filesystem that is written to and fails on command: what btd sees when a disk dies under a download. Everything of it
//! is in memory, in one folder.
//!
//! Of a file whose sync fails it keeps what was there at the sync before, and that is read from then on: as of a disk whose
//! page cache was dropped, after the kernel has told the one error that it tells and called all pages clean.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, FileAttr, FileType, Filesystem, MountOption, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
};
use rustix::mount::{UnmountFlags, unmount};

const ROOT: u64 = 1;
/// Nothing is kept in the kernel for longer: what fails is to be seen at once.
const TTL: Duration = Duration::ZERO;
/// `FOPEN_DIRECT_IO`: each write reaches the filesystem, and its error whoever has written.
const DIRECT_IO: u32 = 1;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;

/// Errors to fail with.
pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;
pub const EROFS: i32 = 30;

/// What fails. Names and lookups go on.
#[derive(Default)]
pub struct Faults {
    /// The error, or zero.
    writes: AtomicI32,
    syncs: AtomicI32,
    reads: AtomicI32,
    refused: Mutex<Vec<Instant>>,
    taken: Mutex<Vec<Instant>>,
}

impl Faults {
    pub fn fail_writes(&self, errno: Option<i32>) {
        self.writes.store(errno.unwrap_or(0), Ordering::Relaxed);
    }

    pub fn fail_syncs(&self, errno: Option<i32>) {
        self.syncs.store(errno.unwrap_or(0), Ordering::Relaxed);
    }

    pub fn fail_reads(&self, errno: Option<i32>) {
        self.reads.store(errno.unwrap_or(0), Ordering::Relaxed);
    }

    /// When anything failed, in order.
    pub fn refused(&self) -> Vec<Instant> {
        self.refused.lock().expect("no test panics with it").clone()
    }

    /// When bytes were written, in order.
    pub fn taken(&self) -> Vec<Instant> {
        self.taken.lock().expect("no test panics with it").clone()
    }

    fn failure(&self, errno: &AtomicI32) -> Option<i32> {
        let errno = Some(errno.load(Ordering::Relaxed)).filter(|errno| *errno != 0)?;
        let mut refused = self.refused.lock().expect("no test panics with it");
        refused.push(Instant::now());
        Some(errno)
    }
}

/// Mounted until it is dropped.
pub struct FailingFs {
    pub faults: Arc<Faults>,
    dir: PathBuf,
    _session: BackgroundSession,
}

impl Drop for FailingFs {
    fn drop(&mut self) {
        // Also while a killed process still writes: the session's own way would leave it mounted then.
        if let Err(errno) = unmount(&self.dir, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {errno}", self.dir.display());
        }
    }
}

impl FailingFs {
    /// Mounts an empty one at the empty folder `dir`. `Err` says why that cannot be done here.
    pub fn mount(dir: &Path) -> Result<Self, String> {
        let faults = Arc::new(Faults::default());
        let files = Files {
            names: BTreeMap::new(),
            inodes: BTreeMap::new(),
            last: ROOT,
            faults: faults.clone(),
        };
        let options = [MountOption::FSName("btd-test".to_owned())];
        let session = fuser::spawn_mount2(files, dir, &options).map_err(|error| format!("no FUSE mount: {error}"))?;
        Ok(Self {
            faults,
            dir: dir.to_owned(),
            _session: session,
        })
    }
}

struct Inode {
    contents: Vec<u8>,
    /// What is on the disk.
    synced: Vec<u8>,
    modified: SystemTime,
    links: u32,
}

struct Files {
    names: BTreeMap<OsString, u64>,
    inodes: BTreeMap<u64, Inode>,
    last: u64,
    faults: Arc<Faults>,
}

impl Files {
    fn attr(&self, number: u64) -> Option<FileAttr> {
        let (size, modified, links, kind) = match self.inodes.get(&number) {
            Some(inode) => (
                inode.contents.len() as u64,
                inode.modified,
                inode.links,
                FileType::RegularFile,
            ),
            None if number == ROOT => (0, SystemTime::UNIX_EPOCH, 2, FileType::Directory),
            None => return None,
        };
        Some(FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: modified,
            mtime: modified,
            ctime: modified,
            crtime: modified,
            kind,
            perm: 0o755,
            nlink: links,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn named(&self, parent: u64, name: &OsStr) -> Option<u64> {
        self.names.get(name).copied().filter(|_| parent == ROOT)
    }

    /// Takes a name away, and the file when that was its last.
    fn unname(&mut self, name: &OsStr) {
        let Some(number) = self.names.remove(name) else { return };
        if let Some(inode) = self.inodes.get_mut(&number) {
            // What is open stays until the end of the test.
            inode.links -= 1;
        }
    }
}

impl Filesystem for Files {
    fn lookup(&mut self, _req: &Request<'_>, parent: u64, name: &OsStr, reply: ReplyEntry) {
        match self.named(parent, name).and_then(|number| self.attr(number)) {
            Some(attr) => reply.entry(&TTL, &attr, 0),
            None => reply.error(ENOENT),
        }
    }

    fn getattr(&mut self, _req: &Request<'_>, number: u64, _handle: Option<u64>, reply: ReplyAttr) {
        match self.attr(number) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(ENOENT),
        }
    }

    fn setattr(
        &mut self,
        _req: &Request<'_>,
        number: u64,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<u64>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<u32>,
        reply: ReplyAttr,
    ) {
        if let Some(inode) = self.inodes.get_mut(&number) {
            if let Some(size) = size {
                inode.contents.resize(size as usize, 0);
                inode.modified = SystemTime::now();
            }
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => inode.modified = time,
                Some(TimeOrNow::Now) => inode.modified = SystemTime::now(),
                None => {}
            }
        }
        match self.attr(number) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(ENOENT),
        }
    }

    fn create(
        &mut self,
        _req: &Request<'_>,
        parent: u64,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        if parent != ROOT {
            return reply.error(ENOENT);
        }
        if self.names.contains_key(name) {
            return reply.error(EEXIST);
        }
        self.last += 1;
        self.names.insert(name.to_owned(), self.last);
        let inode = Inode {
            contents: Vec::new(),
            synced: Vec::new(),
            modified: SystemTime::now(),
            links: 1,
        };
        self.inodes.insert(self.last, inode);
        let attr = self.attr(self.last).expect("made above");
        reply.created(&TTL, &attr, 0, 0, DIRECT_IO);
    }

    fn open(&mut self, _req: &Request<'_>, _number: u64, _flags: i32, reply: ReplyOpen) {
        reply.opened(0, DIRECT_IO);
    }

    fn read(
        &mut self,
        _req: &Request<'_>,
        number: u64,
        _handle: u64,
        offset: i64,
        size: u32,
        _flags: i32,
        _lock_owner: Option<u64>,
        reply: ReplyData,
    ) {
        if let Some(errno) = self.faults.failure(&self.faults.reads) {
            return reply.error(errno);
        }
        let Some(inode) = self.inodes.get(&number) else {
            return reply.error(ENOENT);
        };
        let start = (offset as usize).min(inode.contents.len());
        let end = (start + size as usize).min(inode.contents.len());
        reply.data(&inode.contents[start..end]);
    }

    fn write(
        &mut self,
        _req: &Request<'_>,
        number: u64,
        _handle: u64,
        offset: i64,
        data: &[u8],
        _write_flags: u32,
        _flags: i32,
        _lock_owner: Option<u64>,
        reply: ReplyWrite,
    ) {
        if let Some(errno) = self.faults.failure(&self.faults.writes) {
            return reply.error(errno);
        }
        self.faults
            .taken
            .lock()
            .expect("no test panics with it")
            .push(Instant::now());
        let Some(inode) = self.inodes.get_mut(&number) else {
            return reply.error(ENOENT);
        };
        let (start, end) = (offset as usize, offset as usize + data.len());
        if inode.contents.len() < end {
            inode.contents.resize(end, 0);
        }
        inode.contents[start..end].copy_from_slice(data);
        inode.modified = SystemTime::now();
        reply.written(data.len() as u32);
    }

    fn fsync(&mut self, _req: &Request<'_>, number: u64, _handle: u64, _datasync: bool, reply: ReplyEmpty) {
        let Some(inode) = self.inodes.get_mut(&number) else {
            return reply.error(ENOENT);
        };
        // Its length is not lost: that was in the journal before.
        inode.synced.resize(inode.contents.len(), 0);
        match self.faults.failure(&self.faults.syncs) {
            Some(errno) => {
                inode.contents.clone_from(&inode.synced);
                reply.error(errno);
            }
            None => {
                inode.synced.clone_from(&inode.contents);
                reply.ok();
            }
        }
    }

    fn fsyncdir(&mut self, _req: &Request<'_>, _number: u64, _handle: u64, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn flush(&mut self, _req: &Request<'_>, _number: u64, _handle: u64, _lock_owner: u64, reply: ReplyEmpty) {
        reply.ok();
    }

    fn unlink(&mut self, _req: &Request<'_>, _parent: u64, name: &OsStr, reply: ReplyEmpty) {
        self.unname(name);
        reply.ok();
    }

    fn link(&mut self, _req: &Request<'_>, number: u64, _parent: u64, name: &OsStr, reply: ReplyEntry) {
        if self.names.contains_key(name) {
            return reply.error(EEXIST);
        }
        let Some(inode) = self.inodes.get_mut(&number) else {
            return reply.error(ENOENT);
        };
        inode.links += 1;
        self.names.insert(name.to_owned(), number);
        let attr = self.attr(number).expect("found above");
        reply.entry(&TTL, &attr, 0);
    }

    fn statfs(&mut self, _req: &Request<'_>, _number: u64, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn readdir(&mut self, _req: &Request<'_>, _number: u64, _handle: u64, offset: i64, mut reply: ReplyDirectory) {
        for (at, (name, number)) in (1..).zip(&self.names).skip(offset as usize) {
            if reply.add(*number, at, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}
