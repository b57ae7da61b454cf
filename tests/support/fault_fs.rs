//! A filesystem that fails by rules: which operation, on what path, on which bytes, how often, and what comes of it. What it
//! holds is in memory.
//!
//! Of a file whose sync fails it keeps what was there at the sync before, and that is read from then on: as of a disk whose
//! page cache was dropped, after the kernel has told the one error that it tells and called all pages clean.
//!
//! It does one thing at a time, as a disk with one head: who waits for a delay has all others wait.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use fuser::consts::FUSE_ASYNC_DIO;
use fuser::{
    BackgroundSession, FileAttr, FileType, Filesystem, KernelConfig, MountOption, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
};
use rustix::mount::{UnmountFlags, unmount};

/// The name of the file of [`FaultFs::mount_seed`].
pub const NAME: &str = "sick";

const ROOT: u64 = 1;
/// Nothing is kept in the kernel for longer: what fails is to be seen at once.
const TTL: Duration = Duration::ZERO;
/// But for names of what never changes, as sshfs and NFS have it: a file whose name it knows the kernel opens on the thread
/// that asks for it, and waits for the filesystem.
const SEED_TTL: Duration = Duration::from_secs(3600);
/// `FOPEN_DIRECT_IO`: each read and write reaches the filesystem, and its error whoever has asked.
const DIRECT_IO: u32 = 1;
const O_DIRECT: i32 = 0o40000;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;

/// Errors to fail with.
pub const ENOENT: i32 = 2;
pub const EIO: i32 = 5;
pub const EINVAL: i32 = 22;
pub const ENOSPC: i32 = 28;
pub const EROFS: i32 = 30;

/// What is asked of the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A name is looked for.
    Lookup,
    /// A file that is there is opened.
    Open,
    /// A file or a folder is made.
    Make,
    Read,
    Write,
    /// A write past the page cache (`O_DIRECT`), which is asked about before it is a [`Op::Write`].
    WriteDirect,
    /// A file is given another length.
    Resize,
    /// fsync or fdatasync of a file.
    Sync,
    /// fsync of a folder.
    SyncFolder,
    /// A file is given a name, or one that it has is taken from it.
    Name,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// This error.
    Fail(i32),
    /// Reads and writes of more than two pages do half of it, and not in whole sectors, as a disk would, but anywhere.
    Short,
    /// It takes so much longer.
    Delay(Duration),
}

/// What of is to fail, and how. All of it, unless something else is said.
#[derive(Clone, Debug)]
pub struct Rule {
    op: Op,
    path: Option<&'static str>,
    bytes: Range<u64>,
    after: u32,
    times: u32,
    then: Then,
}

impl Rule {
    fn new(op: Op, then: Then) -> Rule {
        Rule {
            op,
            path: None,
            bytes: 0..u64::MAX,
            after: 0,
            times: u32::MAX,
            then,
        }
    }

    /// It fails with this error. Of a write that begins before the bytes it is about, what lies before them is written, as on a
    /// disk that has room for no more.
    pub fn fail(op: Op, errno: i32) -> Rule {
        Rule::new(op, Then::Fail(errno))
    }

    /// Half of it is done.
    pub fn short(op: Op) -> Rule {
        Rule::new(op, Then::Short)
    }

    /// It takes so long, and is done.
    pub fn delay(op: Op, each: Duration) -> Rule {
        Rule::new(op, Then::Delay(each))
    }

    /// Of what has this path below the mount, in which one `*` stands for anything.
    pub fn of(self, path: &'static str) -> Rule {
        let path = Some(path);
        Rule { path, ..self }
    }

    /// Of reads and writes that touch these bytes.
    pub fn within(self, bytes: Range<u64>) -> Rule {
        Rule { bytes, ..self }
    }

    /// So many of them pass first.
    pub fn after(self, after: u32) -> Rule {
        Rule { after, ..self }
    }

    /// So often, and no more.
    pub fn times(self, times: u32) -> Rule {
        Rule { times, ..self }
    }

    fn is_about(&self, op: Op, path: &str, bytes: &Range<u64>) -> bool {
        let is_path = self.path.is_none_or(|pattern| match pattern.split_once('*') {
            Some((before, after)) => {
                path.len() >= before.len() + after.len() && path.starts_with(before) && path.ends_with(after)
            }
            None => path == pattern,
        });
        // What has no bytes is about all.
        let touches = bytes.is_empty() || bytes.start < self.bytes.end && self.bytes.start < bytes.end;
        self.op == op && is_path && touches
    }
}

/// What was asked of the filesystem, and when.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: Instant,
    pub op: Op,
    pub path: String,
    pub bytes: Range<u64>,
    /// What it was refused with.
    pub errno: Option<i32>,
}

/// Says which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(usize);

/// The rules that hold now, and what has happened so far.
#[derive(Default)]
pub struct Rules(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// Rules, whether they hold, and how often they have been met.
    rules: Vec<(Rule, bool, u32)>,
    events: Vec<Event>,
}

/// What is to become of an operation.
#[derive(Debug, Default)]
struct Verdict {
    errno: Option<i32>,
    /// What it may do of its bytes; nothing is all.
    len: Option<u64>,
}

impl Rules {
    /// From now on this holds too. Of two that are about the same, the one that was there first does.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut table = self.lock();
        table.rules.push((rule, true, 0));
        RuleId(table.rules.len() - 1)
    }

    /// None holds any more.
    pub fn clear(&self) {
        for (_, holds, _) in &mut self.lock().rules {
            *holds = false;
        }
    }

    /// How often a rule was applied.
    pub fn applied(&self, RuleId(index): RuleId) -> u32 {
        let table = self.lock();
        let (rule, _, met) = &table.rules[index];
        met.saturating_sub(rule.after).min(rule.times)
    }

    /// What was asked so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.lock().events.clone()
    }

    /// When anything failed, in order.
    pub fn refused(&self) -> Vec<Instant> {
        let failed = |event: &Event| event.errno.is_some();
        self.events().into_iter().filter(failed).map(|event| event.at).collect()
    }

    /// When bytes were written, in order.
    pub fn taken(&self) -> Vec<Instant> {
        let taken = |event: &Event| event.op == Op::Write && event.errno.is_none();
        self.events().into_iter().filter(taken).map(|event| event.at).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no test panics with it")
    }

    /// What becomes of an operation, and waits as long as that takes.
    fn judge(&self, op: Op, path: &str, bytes: Range<u64>) -> Verdict {
        let (mut verdict, mut delay) = (Verdict::default(), Duration::ZERO);
        let mut table = self.lock();
        for (rule, holds, met) in &mut table.rules {
            if !*holds || !rule.is_about(op, path, &bytes) {
                continue;
            }
            *met = met.saturating_add(1);
            if *met <= rule.after || *met - rule.after > rule.times {
                continue;
            }
            let len = bytes.end - bytes.start;
            match rule.then {
                Then::Delay(each) => {
                    delay += each;
                    continue;
                }
                Then::Fail(_) if op == Op::Write && bytes.start < rule.bytes.start => {
                    verdict.len = Some(rule.bytes.start - bytes.start);
                }
                Then::Fail(errno) => verdict.errno = Some(errno),
                Then::Short if len > 8_192 => verdict.len = Some(len / 2 - 100),
                Then::Short => {}
            }
            break;
        }
        let event = Event {
            at: Instant::now(),
            op,
            path: path.to_owned(),
            bytes,
            errno: verdict.errno,
        };
        table.events.push(event);
        drop(table);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        verdict
    }
}

/// Mounted until it is dropped.
pub struct FaultFs {
    pub rules: Arc<Rules>,
    dir: PathBuf,
    _session: BackgroundSession,
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        // Also while a killed process still uses it: the session's own way would leave it mounted then.
        if let Err(errno) = unmount(&self.dir, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {errno}", self.dir.display());
        }
    }
}

impl FaultFs {
    /// Mounts an empty one at the empty folder `dir`. `Err` says why that cannot be done here.
    pub fn mount(dir: &Path) -> Result<Self, String> {
        FaultFs::with(dir, Files::new(false), &[])
    }

    /// Mounts one that can only be read and has one file, [`NAME`], which was not changed within the last hour.
    pub fn mount_seed(dir: &Path, contents: Vec<u8>) -> Result<Self, String> {
        let mut files = Files::new(true);
        files.names_for = SEED_TTL;
        let number = files.make(ROOT, OsStr::new(NAME), Kind::file());
        let node = files.nodes.get_mut(&number).expect("made above");
        node.modified = SystemTime::now() - Duration::from_secs(3600);
        node.kind = Kind::File {
            synced: contents.clone(),
            contents,
        };
        FaultFs::with(dir, files, &[MountOption::RO])
    }

    fn with(dir: &Path, files: Files, options: &[MountOption]) -> Result<Self, String> {
        let rules = files.rules.clone();
        let mut options = options.to_vec();
        options.push(MountOption::FSName("btd-test".to_owned()));
        let session = fuser::spawn_mount2(files, dir, &options).map_err(|error| format!("no FUSE mount: {error}"))?;
        Ok(Self {
            rules,
            dir: dir.to_owned(),
            _session: session,
        })
    }
}

enum Kind {
    Folder(BTreeMap<OsString, u64>),
    File {
        contents: Vec<u8>,
        /// What is on the disk.
        synced: Vec<u8>,
    },
}

impl Kind {
    fn file() -> Kind {
        Kind::File {
            contents: Vec::new(),
            synced: Vec::new(),
        }
    }
}

struct Node {
    /// Below the mount: the last that it was given.
    path: String,
    kind: Kind,
    modified: SystemTime,
    links: u32,
}

struct Files {
    nodes: BTreeMap<u64, Node>,
    last: u64,
    rules: Arc<Rules>,
    /// Reads of a ring go on beside each other.
    is_async: bool,
    /// How long the kernel may remember names.
    names_for: Duration,
}

impl Files {
    fn new(is_async: bool) -> Files {
        let root = Node {
            path: String::new(),
            kind: Kind::Folder(BTreeMap::new()),
            modified: SystemTime::now(),
            links: 2,
        };
        Files {
            nodes: BTreeMap::from([(ROOT, root)]),
            last: ROOT,
            rules: Arc::default(),
            is_async,
            names_for: TTL,
        }
    }

    fn attr(&self, number: u64) -> Option<FileAttr> {
        let node = self.nodes.get(&number)?;
        let (size, kind) = match &node.kind {
            Kind::File { contents, .. } => (contents.len() as u64, FileType::RegularFile),
            Kind::Folder(_) => (0, FileType::Directory),
        };
        Some(FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: node.modified,
            mtime: node.modified,
            ctime: node.modified,
            crtime: node.modified,
            kind,
            perm: 0o755,
            nlink: node.links,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn names(&mut self, folder: u64) -> Option<&mut BTreeMap<OsString, u64>> {
        match &mut self.nodes.get_mut(&folder)?.kind {
            Kind::Folder(names) => Some(names),
            Kind::File { .. } => None,
        }
    }

    fn path(&self, number: u64) -> String {
        self.nodes
            .get(&number)
            .map_or_else(String::new, |node| node.path.clone())
    }

    fn path_in(&self, folder: u64, name: &OsStr) -> String {
        let name = name.to_string_lossy();
        match self.path(folder) {
            path if path.is_empty() => name.into_owned(),
            path => format!("{path}/{name}"),
        }
    }

    fn make(&mut self, folder: u64, name: &OsStr, kind: Kind) -> u64 {
        self.last += 1;
        let (number, path) = (self.last, self.path_in(folder, name));
        let node = Node {
            path,
            kind,
            modified: SystemTime::now(),
            links: 1,
        };
        self.nodes.insert(number, node);
        let names = self.names(folder).expect("looked at before");
        names.insert(name.to_owned(), number);
        number
    }

    /// Whether something may be made under this name, or with which error not.
    fn may_make(&mut self, op: Op, folder: u64, name: &OsStr) -> Result<(), i32> {
        let verdict = self.rules.judge(op, &self.path_in(folder, name), 0..0);
        if let Some(errno) = verdict.errno {
            return Err(errno);
        }
        match self.names(folder) {
            None => Err(ENOTDIR),
            Some(names) if names.contains_key(name) => Err(EEXIST),
            Some(_) => Ok(()),
        }
    }

    fn reply_entry(&self, number: u64, reply: ReplyEntry) {
        match self.attr(number) {
            Some(attr) => reply.entry(&self.names_for, &attr, 0),
            None => reply.error(ENOENT),
        }
    }

    fn reply_attr(&self, number: u64, reply: ReplyAttr) {
        match self.attr(number) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(ENOENT),
        }
    }

    fn remove(&mut self, folder: u64, name: &OsStr, reply: ReplyEmpty) {
        let verdict = self.rules.judge(Op::Name, &self.path_in(folder, name), 0..0);
        if let Some(errno) = verdict.errno {
            return reply.error(errno);
        }
        let removed = self.names(folder).and_then(|names| names.remove(name));
        if let Some(node) = removed.and_then(|number| self.nodes.get_mut(&number)) {
            // What is open stays until the end of the test.
            node.links -= 1;
        }
        reply.ok();
    }
}

/// What a read or write is about.
fn span(offset: i64, len: usize) -> Range<u64> {
    let start = u64::try_from(offset).expect("no byte lies before the first");
    start..start + len as u64
}

impl Filesystem for Files {
    fn init(&mut self, _req: &Request<'_>, config: &mut KernelConfig) -> Result<(), i32> {
        if !self.is_async {
            // A write that came short would be an error with it, and whoever wrote would not learn how short. Without it that is told
            // right where the write does not go past the page cache ([`Op::WriteDirect`]).
            return Ok(());
        }
        // As libfuse does. Without it the kernel (6.18) reads on for a ring after a short read of its own accord, and from
        // the wrong place.
        config.add_capabilities(FUSE_ASYNC_DIO).map_err(|_| EIO)
    }

    fn lookup(&mut self, _req: &Request<'_>, folder: u64, name: &OsStr, reply: ReplyEntry) {
        let verdict = self.rules.judge(Op::Lookup, &self.path_in(folder, name), 0..0);
        if let Some(errno) = verdict.errno {
            return reply.error(errno);
        }
        match self.names(folder).and_then(|names| names.get(name).copied()) {
            Some(number) => self.reply_entry(number, reply),
            None => reply.error(ENOENT),
        }
    }

    fn getattr(&mut self, _req: &Request<'_>, number: u64, _handle: Option<u64>, reply: ReplyAttr) {
        self.reply_attr(number, reply);
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
        if size.is_some()
            && let Some(errno) = self.rules.judge(Op::Resize, &self.path(number), 0..0).errno
        {
            return reply.error(errno);
        }
        if let Some(node) = self.nodes.get_mut(&number) {
            if let (Some(size), Kind::File { contents, .. }) = (size, &mut node.kind) {
                contents.resize(size as usize, 0);
                node.modified = SystemTime::now();
            }
            match mtime {
                Some(TimeOrNow::SpecificTime(time)) => node.modified = time,
                Some(TimeOrNow::Now) => node.modified = SystemTime::now(),
                None => {}
            }
        }
        self.reply_attr(number, reply);
    }

    fn mkdir(&mut self, _req: &Request<'_>, folder: u64, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        if let Err(errno) = self.may_make(Op::Make, folder, name) {
            return reply.error(errno);
        }
        let number = self.make(folder, name, Kind::Folder(BTreeMap::new()));
        self.reply_entry(number, reply);
    }

    fn create(
        &mut self,
        _req: &Request<'_>,
        folder: u64,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        if let Err(errno) = self.may_make(Op::Make, folder, name) {
            return reply.error(errno);
        }
        let number = self.make(folder, name, Kind::file());
        let attr = self.attr(number).expect("made above");
        reply.created(&TTL, &attr, 0, 0, DIRECT_IO);
    }

    fn open(&mut self, _req: &Request<'_>, number: u64, _flags: i32, reply: ReplyOpen) {
        match self.rules.judge(Op::Open, &self.path(number), 0..0).errno {
            Some(errno) => reply.error(errno),
            None => reply.opened(0, DIRECT_IO),
        }
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
        let len = match self.nodes.get(&number).map(|node| &node.kind) {
            Some(Kind::File { contents, .. }) => contents.len() as u64,
            _ => return reply.error(ENOENT),
        };
        let asked = span(offset, size as usize);
        let there = asked.start.min(len)..asked.end.min(len);
        let verdict = self.rules.judge(Op::Read, &self.path(number), there.clone());
        if let Some(errno) = verdict.errno {
            return reply.error(errno);
        }
        let end = verdict.len.map_or(there.end, |len| there.start + len);
        match &self.nodes[&number].kind {
            Kind::File { contents, .. } => reply.data(&contents[there.start as usize..end as usize]),
            Kind::Folder(_) => reply.error(ENOENT),
        }
    }

    fn write(
        &mut self,
        _req: &Request<'_>,
        number: u64,
        _handle: u64,
        offset: i64,
        data: &[u8],
        _write_flags: u32,
        flags: i32,
        _lock_owner: Option<u64>,
        reply: ReplyWrite,
    ) {
        let (path, bytes) = (self.path(number), span(offset, data.len()));
        let mut verdict = Verdict::default();
        if flags & O_DIRECT != 0 {
            verdict = self.rules.judge(Op::WriteDirect, &path, bytes.clone());
        }
        if verdict.errno.is_none() {
            verdict = self.rules.judge(Op::Write, &path, bytes);
        }
        if let Some(errno) = verdict.errno {
            return reply.error(errno);
        }
        let data = &data[..verdict.len.map_or(data.len(), |len| len as usize)];
        let Some(node) = self.nodes.get_mut(&number) else {
            return reply.error(ENOENT);
        };
        let Kind::File { contents, .. } = &mut node.kind else {
            return reply.error(ENOENT);
        };
        let (start, end) = (offset as usize, offset as usize + data.len());
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[start..end].copy_from_slice(data);
        node.modified = SystemTime::now();
        reply.written(data.len() as u32);
    }

    fn fsync(&mut self, _req: &Request<'_>, number: u64, _handle: u64, _datasync: bool, reply: ReplyEmpty) {
        let verdict = self.rules.judge(Op::Sync, &self.path(number), 0..0);
        let Some(Kind::File { contents, synced }) = self.nodes.get_mut(&number).map(|node| &mut node.kind) else {
            return reply.error(ENOENT);
        };
        // Its length is not lost: that was in the journal before.
        synced.resize(contents.len(), 0);
        match verdict.errno {
            Some(errno) => {
                contents.clone_from(synced);
                reply.error(errno);
            }
            None => {
                synced.clone_from(contents);
                reply.ok();
            }
        }
    }

    fn fsyncdir(&mut self, _req: &Request<'_>, number: u64, _handle: u64, _datasync: bool, reply: ReplyEmpty) {
        match self.rules.judge(Op::SyncFolder, &self.path(number), 0..0).errno {
            Some(errno) => reply.error(errno),
            None => reply.ok(),
        }
    }

    fn flush(&mut self, _req: &Request<'_>, _number: u64, _handle: u64, _lock_owner: u64, reply: ReplyEmpty) {
        reply.ok();
    }

    fn unlink(&mut self, _req: &Request<'_>, folder: u64, name: &OsStr, reply: ReplyEmpty) {
        self.remove(folder, name, reply);
    }

    fn rmdir(&mut self, _req: &Request<'_>, folder: u64, name: &OsStr, reply: ReplyEmpty) {
        self.remove(folder, name, reply);
    }

    fn link(&mut self, _req: &Request<'_>, number: u64, folder: u64, name: &OsStr, reply: ReplyEntry) {
        if let Err(errno) = self.may_make(Op::Name, folder, name) {
            return reply.error(errno);
        }
        let path = self.path_in(folder, name);
        let Some(node) = self.nodes.get_mut(&number) else {
            return reply.error(ENOENT);
        };
        node.links += 1;
        node.path = path;
        let names = self.names(folder).expect("looked at above");
        names.insert(name.to_owned(), number);
        self.reply_entry(number, reply);
    }

    fn statfs(&mut self, _req: &Request<'_>, _number: u64, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn readdir(&mut self, _req: &Request<'_>, folder: u64, _handle: u64, offset: i64, mut reply: ReplyDirectory) {
        let Some(Kind::Folder(names)) = self.nodes.get(&folder).map(|node| &node.kind) else {
            return reply.error(ENOTDIR);
        };
        for (at, (name, number)) in (1..).zip(names).skip(offset as usize) {
            let kind = match self.nodes[number].kind {
                Kind::File { .. } => FileType::RegularFile,
                Kind::Folder(_) => FileType::Directory,
            };
            if reply.add(*number, at, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
