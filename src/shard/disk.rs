//! Filling extents: opening files, reading them into pool buffers, and telling who waits.
//!
//! A read that cannot be had is an answer like any other: the extent is given up, those who wait are told why, and the
//! pieces they wanted are withdrawn by the shard. Nothing here ends a connection or the shard.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use super::conn::Served;
use super::slots::Slots;
use crate::io::{Buf, Driver, Errno, Op, Opened, Owner};
use crate::proto::geometry::{BLOCK_LEN, PieceIndex};
use crate::stats::Counters;
use crate::storage::device;
use crate::storage::extents::{Acquired, EXTENT_LEN, ExtentId, ExtentKey, Extents};
use crate::storage::file_numbers::{FileId, FileNumbers};
use crate::storage::open_files::{FileKey, Found, OpenFiles};
use crate::storage::read_modes::{How, ReadModes};
use crate::storage::read_queue::ReadQueue;

/// `O_DIRECT` wants offsets, lengths and addresses to be multiples of the device's block: 512 or 4096.
const DIRECT_ALIGN: u64 = 4096;

/// Where in its buffer a gathered block's files are read to, before their bytes are moved to the front.
const GATHER_AT: u32 = EXTENT_LEN / 2;

/// Tries of an operation that was cancelled unasked (io-wq found no thread) or interrupted.
const TRIES_MAX: u8 = 4;

/// Who waits for an extent, and for which piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) conn: Owner,
    pub(super) piece: PieceIndex,
}

/// An extent being filled.
#[derive(Debug)]
struct Fill {
    id: ExtentId,
    served: Rc<Served>,
    key: ExtentKey,
    /// The file's place in the torrent, for the extent of a file.
    file: u32,
    /// The device that reads for it, and how.
    reading: Option<(u64, How)>,
    /// Absent while a read has it.
    buf: Option<Buf>,
    /// Bytes that are there.
    done: u32,
    tries: u8,
}

/// What a fill reads next.
#[derive(Clone, Copy, Debug)]
struct Step {
    file: u32,
    offset: u64,
    len: u32,
}

#[derive(Debug)]
struct Opening {
    key: FileKey,
    served: Rc<Served>,
    tries: u8,
    /// It was asked for by the name of what is not complete.
    part: bool,
    /// It is not there by that name: it is looked for by its final one.
    was_renamed: bool,
    /// It is not there by its final name: it is looked for by that of what is not complete.
    is_renamed: bool,
}

/// Those whose extent could not be read.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) waiters: Vec<Waiter>,
    pub(super) served: Rc<Served>,
    pub(super) what: Failed,
}

/// What a failure says about the payload.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing: descriptors, memory or threads ran out. To be tried again when some time has passed.
    ForNow,
    /// The file is another than was thought when the extent was looked for. To be looked for again.
    Moved,
    /// Some of the extent cannot be read, perhaps not what is wanted of it: its blocks are read one by one from now on.
    Extent,
    /// The block itself cannot be read, and why.
    Block(String),
}

/// Which file was opened, that has `len` bytes as the torrent has it.
fn id_of(opened: &Opened, len: u64) -> FileId {
    FileId {
        device: opened.device,
        inode: opened.inode,
        len,
        modified: opened.modified,
    }
}

/// Whether an error tells of the machine's state rather than of the file.
fn is_for_now(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::CANCELED | Errno::INTR | Errno::AGAIN
    )
}

/// The disk side of a shard.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) extents: Extents<Waiter>,
    files: OpenFiles<Owner>,
    numbers: FileNumbers,
    pub(super) modes: ReadModes,
    queue: ReadQueue<Owner>,
    fills: Slots<Fill>,
    openings: Slots<Opening>,
    /// Extents of files that could not be read whole. No more than the payload has.
    broken: HashSet<ExtentKey>,
    /// Whose extents have come since the shard last looked.
    pub(super) woken: Vec<Waiter>,
    /// Which extents could not be read since the shard last looked.
    pub(super) failures: Vec<Failure>,
}

impl Disk {
    pub(super) fn new(files_max: usize, first: How) -> Disk {
        Disk {
            extents: Extents::default(),
            files: OpenFiles::new(files_max),
            numbers: FileNumbers::default(),
            modes: ReadModes::new(first),
            queue: ReadQueue::new(device::manners),
            fills: Slots::new(),
            openings: Slots::new(),
            broken: HashSet::new(),
            woken: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// The key under which a stretch of a file is cached, and where the stretch lies in that extent.
    pub(super) fn file_extent(&mut self, served: &Served, file: u32, offset: u64) -> (ExtentKey, u32) {
        let torrent = served.number;
        let key = ExtentKey::File {
            file: self.numbers.get(FileKey { torrent, file }),
            index: (offset / u64::from(EXTENT_LEN)) as u32,
        };
        (key, (offset % u64::from(EXTENT_LEN)) as u32)
    }

    /// Files that have a number.
    #[cfg(test)]
    pub(super) fn known_files(&self) -> usize {
        self.numbers.known()
    }

    /// Files that are open, or being opened.
    #[cfg(test)]
    pub(super) fn open_files(&self) -> usize {
        self.files.len()
    }

    /// Whether heads move where a file is read; as long as it has not been opened nobody knows.
    pub(super) fn seeks(&mut self, served: &Served, file: u32) -> bool {
        let torrent = served.number;
        let device = self.files.device(FileKey { torrent, file });
        device.is_some_and(|device| self.queue.seeks(device))
    }

    /// Every device seeks from now on.
    #[cfg(test)]
    pub(super) fn make_seek(&mut self) {
        self.queue = ReadQueue::new(|_| device::Manners { depth: 64, seeks: true });
    }

    /// It is so late since the shard began.
    pub(super) fn on_time(&mut self, now: Duration) {
        self.files.on_time(now);
    }

    /// Reads that wait for their device.
    pub(super) fn reads_waiting(&self) -> u64 {
        self.queue.waiting()
    }

    /// Whether the key of an extent of a file still leads to that file.
    pub(super) fn is_of(&self, key: &ExtentKey, served: &Served, file: u32) -> bool {
        let torrent = served.number;
        match key {
            ExtentKey::File { file: number, .. } => self.numbers.is(FileKey { torrent, file }, *number),
            ExtentKey::Block { .. } => true,
        }
    }

    /// Finds an extent, or begins to read it; `file` is the file's place in the torrent. `None` when every buffer is in use.
    pub(super) fn acquire<D: Driver>(
        &mut self,
        driver: &mut D,
        counters: &mut Counters,
        served: &Rc<Served>,
        key: ExtentKey,
        file: u32,
        waiter: Waiter,
    ) -> Option<ExtentId> {
        match self.extents.acquire(key, waiter.conn.index, driver.pool()) {
            Acquired::Ready(id) => {
                counters.cache_hits += 1;
                Some(id)
            }
            Acquired::Pending(id) => {
                counters.cache_hits += 1;
                self.extents.wait(id, waiter);
                Some(id)
            }
            Acquired::Fill(id, buf) => {
                counters.cache_misses += 1;
                self.extents.wait(id, waiter);
                self.begin(driver, counters, served, (id, key, file), buf);
                Some(id)
            }
            Acquired::Full => {
                counters.cache_full += 1;
                None
            }
        }
    }

    /// Begins to read an extent of a file that connection `user` will ask for soon, if there is a buffer to spare.
    pub(super) fn read_ahead<D: Driver>(
        &mut self,
        driver: &mut D,
        counters: &mut Counters,
        served: &Rc<Served>,
        key: ExtentKey,
        file: u32,
        user: u32,
    ) {
        if self.extents.holds(&key) || self.is_broken(&key) {
            return;
        }
        if let Acquired::Fill(id, buf) = self.extents.acquire(key, user, driver.pool()) {
            counters.disk_reads_ahead += 1;
            self.begin(driver, counters, served, (id, key, file), buf);
        }
    }

    fn begin<D: Driver>(
        &mut self,
        driver: &mut D,
        counters: &mut Counters,
        served: &Rc<Served>,
        (id, key, file): (ExtentId, ExtentKey, u32),
        buf: Buf,
    ) {
        let owner = self.fills.insert(Fill {
            id,
            served: served.clone(),
            key,
            file,
            reading: None,
            buf: Some(buf),
            done: 0,
            tries: 0,
        });
        self.go_on(driver, counters, owner);
    }

    /// Starts the next read of a fill, opens the file for it, or finishes it.
    fn go_on<D: Driver>(&mut self, driver: &mut D, counters: &mut Counters, owner: Owner) {
        let Some(fill) = self.fills.get_mut(owner) else {
            return;
        };
        if self.extents.get(fill.id).is_none() {
            // Its torrent left while a read was in flight: its files are not opened again.
            self.fills.remove(owner);
            return;
        }
        let Some(step) = fill.next_step() else {
            let fill = self.fills.remove(owner).expect("found above");
            let buf = fill.buf.expect("no read is in flight");
            self.woken.append(&mut self.extents.filled(fill.id, buf));
            return;
        };
        let key = FileKey {
            torrent: fill.served.number,
            file: step.file,
        };
        // It was opened meanwhile and is another than was thought; or its torrent left, and a twin's peers wait for it.
        if let ExtentKey::File { file: number, .. } = fill.key
            && !self.numbers.is(key, number)
        {
            return self.give_up(owner, Failed::Moved);
        }
        match self.files.get(key, owner) {
            Found::Open(file, device) => {
                let place = (self.numbers.get(key), (step.offset / u64::from(EXTENT_LEN)) as u32);
                if !self.queue.begin(device, place, owner) {
                    return;
                }
                let fill = self.fills.get_mut(owner).expect("found above");
                let how = self.modes.get(device);
                fill.reading = Some((device, how));
                let (offset, len, at) = fill.place(step);
                counters.disk_reads += 1;
                driver.submit(
                    owner,
                    Op::Read {
                        file,
                        offset,
                        len,
                        at,
                        buf: fill.buf.take().expect("no read is in flight"),
                        uncached: how == How::Uncached,
                    },
                );
            }
            Found::Opening => {}
            Found::Closed => {
                let served = fill.served.clone();
                let opening = self.openings.insert(Opening {
                    key,
                    served,
                    tries: 0,
                    part: false,
                    was_renamed: false,
                    is_renamed: false,
                });
                self.open(driver, counters, opening);
            }
        }
    }

    fn open<D: Driver>(&mut self, driver: &mut D, counters: &mut Counters, owner: Owner) {
        let opening = self.openings.get_mut(owner).expect("an opening that was just made");
        let torrent = &opening.served.torrent;
        opening.part = torrent.is_part(opening.key.file) && !opening.was_renamed || opening.is_renamed;
        let Some(path) = torrent.path(opening.key.file, opening.part) else {
            // The path rules forbid NUL; a path without a C form is as good as absent.
            return self.on_opened(driver, counters, owner, Err(Errno::NOENT));
        };
        let dir = torrent.root().clone();
        let (write, apart) = (false, dir.is_distant());
        driver.submit(
            owner,
            Op::Open {
                dir,
                path,
                write,
                apart,
            },
        );
    }

    /// An open has ended.
    pub(super) fn on_opened<D: Driver>(
        &mut self,
        driver: &mut D,
        counters: &mut Counters,
        owner: Owner,
        result: Result<Opened, Errno>,
    ) {
        let Some(opening) = self.openings.get_mut(owner) else {
            return;
        };
        if !self.files.is_opening(opening.key) {
            self.openings.remove(owner); // Its torrent left.
            return;
        }
        opening.tries += 1;
        let waiting = match result {
            // Whose renaming has not been told yet is not known to be ours: another may lie there that was in the way.
            Ok(_)
                if match opening.served.torrent.is_part(opening.key.file) {
                    true => !opening.part,
                    false => opening.is_renamed,
                } =>
            {
                let opening = self.openings.remove(owner).expect("found above");
                for fill in self.files.failed(opening.key) {
                    self.fail(fill, None);
                }
                return;
            }
            Ok(opened) if opened.regular && opening.served.torrent.is_as_judged(opening.key.file, opened.modified) => {
                let opening = self.openings.remove(owner).expect("found above");
                let (key, device) = (opening.key, opened.device);
                let len = opening.served.torrent.meta().files[key.file as usize].len;
                self.numbers.opened(key, id_of(&opened, len));
                // Some filesystems have no O_DIRECT (tmpfs before 6.6, some network ones).
                if self.modes.get(device) == How::Direct && driver.set_direct(&opened.file, true).is_err() {
                    self.refused(device, How::Direct);
                }
                self.files.opened(key, opened.file, device)
            }
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) if opening.tries < TRIES_MAX => {
                return self.open(driver, counters, owner);
            }
            // It has got its final name since, or is getting it at this moment. It has no third.
            Err(Errno::NOENT) if opening.part && !opening.is_renamed => {
                opening.was_renamed = true;
                return self.open(driver, counters, owner);
            }
            // What is there of a download has its final name until it is prepared, all files one after the other.
            Err(Errno::NOENT)
                if !opening.was_renamed && !opening.is_renamed && opening.served.torrent.home().is_some() =>
            {
                opening.is_renamed = true;
                return self.open(driver, counters, owner);
            }
            failed => {
                counters.disk_errors += 1;
                let opening = self.openings.remove(owner).expect("found above");
                let path = &opening.served.torrent.meta().files[opening.key.file as usize].path;
                let why = match failed {
                    Ok(opened) if opened.regular => {
                        let why = format!("{path}: was changed after it was checked");
                        opening.served.torrent.withdraw_changed(opening.key.file, &why);
                        // What other names of the file it was are served as before.
                        let len = opening.served.torrent.meta().files[opening.key.file as usize].len;
                        self.numbers.opened(opening.key, id_of(&opened, len));
                        Some(why)
                    }
                    Ok(_) => Some(format!("{path}: not a regular file")),
                    Err(errno) if is_for_now(errno) => None,
                    Err(errno) => Some(format!("{path}: cannot be opened: {errno}")),
                };
                for fill in self.files.failed(opening.key) {
                    let key = self.fills.get(fill).map(|fill| fill.key);
                    match key.is_none_or(|key| self.is_of(&key, &opening.served, opening.key.file)) {
                        true => self.fail(fill, why.clone()),
                        false => self.give_up(fill, Failed::Moved),
                    }
                }
                return;
            }
        };
        for fill in waiting {
            self.go_on(driver, counters, fill);
        }
    }

    /// A read has ended.
    pub(super) fn on_read_done<D: Driver>(
        &mut self,
        driver: &mut D,
        counters: &mut Counters,
        owner: Owner,
        result: Result<u32, Errno>,
        buf: Buf,
    ) {
        let Some(fill) = self.fills.get_mut(owner) else {
            return; // Its torrent left; the buffer returns to the pool.
        };
        fill.buf = Some(buf);
        let (device, how) = fill.reading.take().expect("a read was begun");
        self.queue.ended(device);
        self.on_read_ended(driver, counters, owner, result, (device, how));
        while let Some(next) = self.queue.next(device) {
            self.go_on(driver, counters, next);
        }
    }

    fn on_read_ended<D: Driver>(
        &mut self,
        driver: &mut D,
        counters: &mut Counters,
        owner: Owner,
        result: Result<u32, Errno>,
        (device, how): (u64, How),
    ) {
        let fill = self.fills.get_mut(owner).expect("its read has just ended");
        let step = fill.next_step().expect("a fill that reads has a step");
        match result {
            Ok(read) => {
                counters.disk_read_bytes += u64::from(read);
                if fill.advance(step, read) {
                    fill.tries = 0;
                    return self.go_on(driver, counters, owner);
                }
                counters.disk_errors += 1;
                let path = fill.path(step);
                let why = format!("{path}: ends before byte {}", step.offset + u64::from(step.len));
                self.close_file(owner, step);
                self.fail(owner, Some(why));
            }
            // The device wants another alignment than ours, or the filesystem takes O_DIRECT at open only.
            Err(Errno::INVAL) if how == How::Direct => {
                self.refused(device, how);
                self.close_file(owner, step);
                self.go_on(driver, counters, owner);
            }
            Err(Errno::OPNOTSUPP) if how == How::Uncached => {
                self.refused(device, how);
                self.go_on(driver, counters, owner);
            }
            Err(Errno::INVAL) if fill.tries < TRIES_MAX => {
                // Another fill has found out before us; the file may still be open the old way.
                fill.tries += 1;
                self.close_file(owner, step);
                self.go_on(driver, counters, owner);
            }
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) if fill.tries < TRIES_MAX => {
                fill.tries += 1;
                self.go_on(driver, counters, owner);
            }
            Err(errno) => {
                counters.disk_errors += 1;
                let why = (!is_for_now(errno))
                    .then(|| format!("{}: cannot be read at byte {}: {errno}", fill.path(step), step.offset));
                self.close_file(owner, step);
                self.fail(owner, why);
            }
        }
    }

    /// Closes a file that disappointed, so that it is looked at anew next time.
    fn close_file(&mut self, owner: Owner, step: Step) {
        if let Some(fill) = self.fills.get(owner) {
            self.files.close(FileKey {
                torrent: fill.served.number,
                file: step.file,
            });
        }
    }

    /// Gives a fill up; without a `why` it is for now.
    fn fail(&mut self, owner: Owner, why: Option<String>) {
        let Some(fill) = self.fills.get(owner) else {
            return;
        };
        let what = match (why, fill.key) {
            (None, _) => Failed::ForNow,
            (Some(_), key @ ExtentKey::File { .. }) => {
                self.broken.insert(key);
                Failed::Extent
            }
            (Some(why), ExtentKey::Block { .. }) => Failed::Block(why),
        };
        self.give_up(owner, what);
    }

    fn give_up(&mut self, owner: Owner, what: Failed) {
        let Some(fill) = self.fills.remove(owner) else {
            return;
        };
        let waiters = self.extents.failed(fill.id);
        self.failures.push(Failure {
            waiters,
            served: fill.served,
            what,
        });
    }

    /// A device cannot be read like this; its files are read another way from now on.
    fn refused(&mut self, device: u64, how: How) {
        if self.modes.refused(device, how) {
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            let now = self.modes.get(device);
            tracing::info!("device {major}:{minor} cannot be read as {how:?}, is read as {now:?} from now on");
        }
    }

    /// A piece was written: what was read of those stretches before was not it.
    pub(super) fn written(&mut self, served: &Served, piece: PieceIndex) {
        let torrent = &served.torrent;
        let geometry = torrent.geometry();
        let (start, piece_len) = (geometry.piece_offset(piece), geometry.piece_len(piece));
        // Blocks that were gathered each by itself, over many files or past a place that could not be read. Only our own
        // reads come before a piece is there, and they are of these.
        for begin in (0..piece_len).step_by(BLOCK_LEN as usize) {
            let key = ExtentKey::Block {
                torrent: served.number,
                offset: start + u64::from(begin),
                len: BLOCK_LEN.min(piece_len - begin),
            };
            self.woken.append(&mut self.extents.forget_one(&key));
        }
        let spans = torrent.layout().spans(start, piece_len.into());
        for span in spans.filter(|span| !span.pad) {
            let Some(file) = self.numbers.find(FileKey {
                torrent: served.number,
                file: span.file,
            }) else {
                continue; // Nobody has read of it.
            };
            let first = span.offset / u64::from(EXTENT_LEN);
            let last = (span.offset + span.len - 1) / u64::from(EXTENT_LEN);
            for index in (first..=last).map(|index| index as u32) {
                let key = ExtentKey::File { file, index };
                self.woken.append(&mut self.extents.forget_one(&key));
                if self.has_broken() {
                    self.broken.remove(&key);
                }
            }
        }
    }

    /// Whether there are extents whose blocks have to be read one by one: only on a failing disk.
    pub(super) fn has_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// Whether the blocks of this extent have to be read one by one.
    pub(super) fn is_broken(&self, key: &ExtentKey) -> bool {
        self.has_broken() && self.broken.contains(key)
    }

    /// A torrent is no longer served. Reads in flight end on their own; their buffers come back then.
    pub(super) fn forget(&mut self, torrent: u32) {
        let gone: HashSet<u32> = self.numbers.forget(torrent).into_iter().collect();
        let is_gone = |key: &ExtentKey| match key {
            ExtentKey::File { file, .. } => gone.contains(file),
            ExtentKey::Block { torrent: of, .. } => *of == torrent,
        };
        self.extents.forget(is_gone);
        self.broken.retain(|key| !is_gone(key));
        for fill in self.files.forget(torrent) {
            // Peers of another torrent may wait for the same file.
            self.give_up(fill, Failed::ForNow);
        }
    }
}

impl Fill {
    /// The next stretch of a file to read; `None` when the extent is whole. Pad files have no bytes on disk: their zeros
    /// are written here.
    fn next_step(&mut self) -> Option<Step> {
        match self.key {
            ExtentKey::File { index, .. } => {
                let file = self.file;
                let offset = u64::from(index) * u64::from(EXTENT_LEN);
                let file_len = self.served.torrent.meta().files[file as usize].len;
                let whole = u64::from(EXTENT_LEN).min(file_len - offset) as u32;
                (self.done < whole).then(|| Step {
                    file,
                    offset: offset + u64::from(self.done),
                    len: whole - self.done,
                })
            }
            ExtentKey::Block { offset, len, .. } => {
                let served = self.served.clone();
                loop {
                    let rest = u64::from(len - self.done);
                    let at = offset + u64::from(self.done);
                    let span = served.torrent.layout().spans(at, rest).next()?;
                    if !span.pad {
                        return Some(Step {
                            file: span.file,
                            offset: span.offset,
                            len: span.len as u32,
                        });
                    }
                    let buf = self.buf.as_mut().expect("no read is in flight");
                    let (start, len) = (self.done as usize, span.len as usize);
                    buf.as_mut_slice()[start..start + len].fill(0);
                    self.done += span.len as u32;
                }
            }
        }
    }

    /// Offset and length to ask the file for, and where in the buffer: aligned for `O_DIRECT`, past the end if need be.
    fn place(&self, step: Step) -> (u64, u32, u32) {
        let start = step.offset / DIRECT_ALIGN * DIRECT_ALIGN;
        let end = (step.offset + u64::from(step.len)).next_multiple_of(DIRECT_ALIGN);
        match self.key {
            // Extents begin aligned, and what follows a short read does so too or is not asked for.
            ExtentKey::File { .. } => (step.offset, (end - step.offset) as u32, self.done),
            ExtentKey::Block { .. } => (start, (end - start) as u32, GATHER_AT),
        }
    }

    /// Takes what a read brought: one that was cut short is gone on with, from the last byte that a direct read can begin
    /// at. False when it brought nothing to go on with: the file ends there.
    fn advance(&mut self, step: Step, read: u32) -> bool {
        match self.key {
            ExtentKey::File { .. } => {
                let taken = match read >= step.len {
                    true => step.len,
                    false => read / DIRECT_ALIGN as u32 * DIRECT_ALIGN as u32,
                };
                self.done += taken;
                taken > 0
            }
            ExtentKey::Block { .. } => {
                let skip = (step.offset % DIRECT_ALIGN) as u32;
                let taken = read.saturating_sub(skip).min(step.len);
                let from = (GATHER_AT + skip) as usize;
                let buf = self.buf.as_mut().expect("the read is done");
                buf.as_mut_slice()
                    .copy_within(from..from + taken as usize, self.done as usize);
                self.done += taken;
                taken > 0
            }
        }
    }

    fn path(&self, step: Step) -> String {
        self.served.torrent.meta().files[step.file as usize].path.to_string()
    }
}
