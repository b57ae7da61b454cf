//! What one thread does for one torrent: its files are made, synced and given their names, and what is known is recorded.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

use super::super::few_lines::FewLines;
use super::super::history;
use super::{Work, lock};
use crate::proto::bitfield::Bitfield;
use crate::proto::path::RelPath;
use crate::session::{FileStamp, Record, Store};
use crate::shard::Torrent;
use crate::storage::PartNames;
use crate::storage::part::{self, Options, Seen};

/// What a thread has done.
#[derive(Debug)]
pub(crate) struct Done {
    pub(super) torrent: Arc<Torrent>,
    pub(super) stamps: Vec<Option<FileStamp>>,
    pub(super) seen: Vec<Seen>,
    /// Whether the files are there, if they were to be made.
    pub(super) prepared: Option<Result<(), part::Error>>,
    pub(super) notices: Vec<part::Notice>,
    /// What is left to do once it is on the disk that the torrent was begun, which could not be written, and why not: until then
    /// nothing is written to its files.
    pub(super) unrecorded: Option<(Work, String)>,
    /// What was not synced or recorded, and why.
    pub(super) unsynced: Option<(Work, String)>,
    /// Files that have not got their names.
    pub(super) unfinished: Vec<part::Error>,
    /// Why nobody knows what is on the disk.
    pub(super) doubt: Option<String>,
}

impl Done {
    /// Of which torrent.
    pub(crate) fn torrent(&self) -> &Arc<Torrent> {
        &self.torrent
    }
}

/// What one thread does.
pub(super) struct Job {
    pub(super) torrent: Arc<Torrent>,
    pub(super) stamps: Vec<Option<FileStamp>>,
    pub(super) seen: Vec<Seen>,
    pub(super) work: Work,
    /// Its files were made before, and may have been written to since.
    pub(super) prepared: bool,
    pub(super) session: Arc<Store>,
    pub(super) options: Options,
    /// Whether what it finds out may be recorded.
    pub(super) is_current: Arc<Mutex<bool>>,
}

impl Job {
    pub(super) fn run(self) -> Done {
        let Self {
            torrent,
            stamps,
            seen,
            work,
            prepared: was_prepared,
            session,
            options,
            is_current,
        } = self;
        // Gives what was recorded, or would have been: without what was withdrawn since it was told. A check that has
        // begun meanwhile knows better, and so nothing is recorded then.
        let put = |have: &Bitfield, stamps: &[Option<FileStamp>]| {
            let left = || have.and(&torrent.verified());
            let is_current = lock(&is_current);
            if *is_current {
                session.put_current(torrent.info_hash(), || record(&torrent, left(), stamps.to_vec()));
            }
            left()
        };
        let info_hash = torrent.info_hash();
        let mut done = Done {
            stamps,
            seen,
            prepared: None,
            notices: Vec::new(),
            unrecorded: None,
            unsynced: None,
            unfinished: Vec::new(),
            doubt: None,
            torrent: Arc::clone(&torrent),
        };
        let Some(names) = torrent.part_names() else {
            return done;
        };
        if work.prepare {
            // What cannot be recorded is not even made, if that is known before.
            if session.trouble().is_some()
                && let Err(why) = session.keep()
            {
                done.unrecorded = Some((work, why));
                return done;
            }
            let prepared = prepare(&torrent, names, options, &mut done);
            let is_ready = prepared.is_ok();
            if is_ready {
                let have = work.have.clone().unwrap_or_else(|| torrent.have());
                // A piece was withdrawn that had been written, and is to be written anew. Of the others nobody may have told yet,
                // and they are recorded here: so they are synced first.
                if was_prepared && let Err(error) = sync(&torrent, &on_disk(&torrent)) {
                    match error.is_doubtful() {
                        true => {
                            done.doubt = Some(lose(&torrent, &on_disk(&torrent), &error));
                        }
                        false => done.unsynced = Some((work, error.to_string())),
                    }
                    return done;
                }
                put(&have, &done.stamps);
                // On the disk before the first byte is written: what `kill -9` or a loss of power leaves of it is the torrent's, though nothing
                // of it be right. Not before the files are made: what somebody else puts there until then would be taken for btd's own.
                history::note_begun(&session, info_hash, || *lock(&is_current));
                if let Err(why) = session.keep() {
                    done.unrecorded = Some((work, why));
                    return done;
                }
            }
            done.prepared = Some(prepared);
            if !is_ready {
                if work.have.is_some() {
                    done.unsynced = Some((work, "its files cannot be made".to_owned()));
                }
                return done;
            }
        }
        let Some(have) = &work.have else { return done };
        if let Err(error) = sync(&torrent, &work.files.difference(&work.complete).copied().collect()) {
            match error.is_doubtful() {
                true => {
                    done.doubt = Some(lose(&torrent, &work.files, &error));
                }
                false => done.unsynced = Some((work, error.to_string())),
            }
            return done;
        }
        if !work.complete.is_empty() {
            let files = &torrent.meta().files;
            let complete: Vec<u32> = work.complete.iter().copied().collect();
            done.unfinished = part::finish(torrent.root(), files, names, &parts_of(&torrent), &complete);
            if let Some(error) = done.unfinished.iter().find(|error| error.is_doubtful()) {
                done.doubt = Some(lose(&torrent, &work.files, error));
                return done;
            }
            let failed: BTreeSet<u32> = done.unfinished.iter().map(|error| error.file).collect();
            for file in complete.into_iter().filter(|file| !failed.contains(file)) {
                torrent.finished(file, None);
                let stamp = stamp_of(&torrent, file);
                torrent.finished(file, stamp.map(|stamp| stamp.mtime_ns));
                done.stamps[file as usize] = stamp;
                done.seen[file as usize] = Seen::Ours { part: false };
            }
        }
        let have = put(have, &done.stamps);
        let is_whole = have.is_full() && done.unfinished.is_empty();
        match is_whole {
            true => {
                history::note_complete(&session, info_hash);
                session.flush();
            }
            false => history::note_begun(&session, info_hash, || *lock(&is_current)),
        }
        done
    }
}

fn prepare(torrent: &Torrent, names: &PartNames, options: Options, done: &mut Done) -> Result<(), part::Error> {
    let files = &torrent.meta().files;
    let prepared = part::prepare(torrent.root(), files, names, options, &mut done.seen)?;
    torrent.set_parts(&prepared.parts);
    done.notices = prepared.notices;
    for (stamp, entry) in std::iter::zip(&mut done.stamps, files) {
        // What is complete keeps the stamp that it was judged with.
        if stamp.is_none() && !entry.pad {
            *stamp = Some(FileStamp::being_written(entry.len));
        }
    }
    Ok(())
}

/// What is recorded of a torrent that nobody writes to any more, with files that look like this.
pub(in crate::control) fn recorded(torrent: &Torrent, stamps: Vec<Option<FileStamp>>) -> Record {
    record(torrent, torrent.verified(), stamps)
}

/// A record of pieces that are on the disk.
fn record(torrent: &Torrent, have: Bitfield, files: Vec<Option<FileStamp>>) -> Record {
    let piece_count = have.piece_count();
    Record {
        have,
        wrong: Bitfield::new(piece_count),
        judged: piece_count,
        files: match files.is_empty() {
            true => vec![None; torrent.meta().files.len()],
            false => files,
        },
    }
}

/// Records what there is of a torrent that nobody writes to any more.
pub(super) fn settle(session: &Store, torrent: &Torrent, mut stamps: Vec<Option<FileStamp>>, lines: &FewLines) {
    let info_hash = torrent.info_hash();
    let is_written = |stamp: &Option<FileStamp>| stamp.is_some_and(|stamp| stamp.is_being_written());
    let written = (0..).zip(&stamps).filter(|(_, stamp)| is_written(stamp));
    let written: BTreeSet<u32> = written.map(|(file, _)| file).collect();
    if let Err(error) = sync(torrent, &written) {
        if error.is_doubtful() {
            forget_cached(torrent, &written);
            session.remove(info_hash); // The next start checks it.
        }
        lines.warn(
            "downloads whose files cannot be kept",
            format_args!("{:?} ({info_hash}): {error}", torrent.meta().name),
        );
        return;
    }
    for file in written {
        stamps[file as usize] = stamp_of(torrent, file);
    }
    session.put_current(info_hash, || recorded(torrent, stamps.clone()));
    history::note_begun(session, info_hash, || true);
}

/// Which files have the names of parts.
fn parts_of(torrent: &Torrent) -> Vec<bool> {
    let files = (0..).zip(&torrent.meta().files);
    files.map(|(file, _)| torrent.is_part(file)).collect()
}

/// The files that have bytes on the disk.
fn on_disk(torrent: &Torrent) -> BTreeSet<u32> {
    let files = (0..).zip(&torrent.meta().files);
    files
        .filter(|(_, entry)| !entry.pad && entry.len > 0)
        .map(|(file, _)| file)
        .collect()
}

/// Where a file lies now.
fn path_of(torrent: &Torrent, file: u32) -> RelPath {
    let entry = &torrent.meta().files[file as usize];
    let part = torrent.part_names().filter(|_| torrent.is_part(file));
    part.and_then(|names| names.get(file, entry))
        .unwrap_or_else(|| entry.path.clone())
}

/// Has what was written to these files be on the disk.
fn sync(torrent: &Torrent, written: &BTreeSet<u32>) -> Result<(), part::Error> {
    let Some(names) = torrent.part_names() else {
        return Ok(());
    };
    let files = &torrent.meta().files;
    let written: Vec<u32> = written.iter().copied().collect();
    part::sync(torrent.root(), files, names, &parts_of(torrent), &written)
}

/// What was written to these files may be gone: it is neither said to be there any more nor served, and then what is read of them
/// is read from the disk. In this order, since whoever asked for a piece between the two would get what the disk has. Gives why.
fn lose(torrent: &Torrent, written: &BTreeSet<u32>, error: &part::Error) -> String {
    let why = error.to_string();
    torrent.lose(written.iter().copied(), &why);
    forget_cached(torrent, written);
    why
}

/// What is read of these files from now on is read from the disk.
fn forget_cached(torrent: &Torrent, written: &BTreeSet<u32>) {
    if let Some(names) = torrent.part_names() {
        let files = &torrent.meta().files;
        let written: Vec<u32> = written.iter().copied().collect();
        part::forget_cached(torrent.root(), files, names, &written);
    }
}

/// What a file looks like now.
fn stamp_of(torrent: &Torrent, file: u32) -> Option<FileStamp> {
    let entry = &torrent.meta().files[file as usize];
    let metadata = torrent
        .root()
        .open_file(&path_of(torrent, file))
        .ok()?
        .metadata()
        .ok()?;
    (metadata.len() >= entry.len).then(|| FileStamp {
        len: metadata.len(),
        mtime_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
    })
}
