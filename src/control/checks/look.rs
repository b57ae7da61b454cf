//! One check: what the disk has of a torrent, what is known of it, and what is to be made of both.

use std::sync::Arc;

use super::{Error, Job};
use crate::control::downloads::Judged;
use crate::control::history;
use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::proto::metainfo::Metainfo;
use crate::session::{self, FileStamp, Record, Store};
use crate::shard::Torrent;
use crate::storage::part::Seen;
use crate::storage::strangers::{self, Stranger};
use crate::storage::{self, CheckReport, FileState, Layout, Means, Memory, PART_SUFFIX, Root, Unread};

/// What there is of a torrent's payload.
#[derive(Debug)]
pub(crate) struct Found {
    /// Pieces of the torrent.
    pub(crate) piece_count: u32,
    /// Pieces that are right and can be served.
    pub(crate) have_count: u32,
    /// Pieces that are there and wrong.
    pub(crate) wrong_count: u32,
    /// Whether all of it was known from an earlier check, and nothing was read.
    pub(crate) known: bool,
    /// Whether what was not known of it was taken for right, and is not to be verified later.
    pub(crate) trusted: bool,
    /// What the first file that is not as it should be is, and how many more there are.
    pub(crate) why: Option<String>,
    /// For the shards, if any piece is right, or the rest is to be downloaded.
    pub(crate) torrent: Option<Arc<Torrent>>,
    /// What its files look like; only of a torrent that is to be downloaded.
    pub(crate) stamps: Option<Judged>,
    /// What of the files that are there it will write over, if it is downloaded.
    pub(crate) to_write_over: Option<String>,
    /// As it would be downloaded: it is not, as it would be written over files that have nothing of it. `why` says which.
    pub(crate) held: Option<Arc<Torrent>>,
    /// These files.
    pub(crate) strangers: Vec<Stranger>,
    /// It was complete once, and is not downloaded again by itself.
    pub(crate) was_whole: bool,
    /// How many of the pieces nobody has read yet, and what was recorded of the others.
    pub(crate) unread: Option<(u32, Record)>,
    /// The disk took all files and their names that it may not have had.
    pub(crate) is_durable: bool,
    /// The disk did not take files that may be right, or it cannot be read whose the files are: nothing is downloaded over them, and they
    /// are to be looked at again in a while.
    pub(crate) is_unsynced: bool,
    /// It cannot be read whose the files are, and what was asked for is still to be done.
    pub(crate) is_unknown: bool,
}

impl Found {
    /// Whether what is known is relied on when it is looked at again in a while, after a look that was asked for like this. What was
    /// found is recorded; but that all of it is to be read, and had anew, is not done with before it is known whose it is.
    pub(crate) fn trusts_next(&self, job: &Job) -> bool {
        !self.is_unknown || job.trust && !job.progress.is_for_all()
    }
}

/// How often a check is made anew, at most, to see whose the files are: with a piece of each that was believed, and with all
/// pieces of those in which something is wrong.
const ROUNDS: u32 = 3;

/// Whether it is known that btd has begun to download a torrent, so that its files are btd's own. `kept` is what is recorded of it.
/// Blocks on the disk.
///
/// # Errors
/// It cannot be read what the torrent has been through.
pub(crate) fn is_begun(session: &Store, info_hash: InfoHash, kept: Option<&Record>) -> Result<bool, session::Error> {
    let is_being_written = |kept: &Record| kept.files.iter().flatten().any(FileStamp::is_being_written);
    if kept.is_some_and(is_being_written) {
        return Ok(true);
    }
    let history = session.find_history(&info_hash)?;
    Ok(history.is_some_and(|history| history.is_begun()))
}

/// What was found, or as much as nothing; then `unknown` says why.
fn if_known<T: Default>(found: Result<T, session::Error>, unknown: &mut Option<session::Error>) -> T {
    found.unwrap_or_else(|error| {
        unknown.get_or_insert(error);
        T::default()
    })
}

/// One check, on the thread that called.
pub(crate) fn look(job: &Job, root: Arc<Root>, means: Means<'_>, session: &Store) -> Result<Found, Error> {
    look_at(job, root, means, session, false)
}

/// The same of a torrent of which nothing is there, so that nothing is read; `None` if something is.
pub(super) fn look_if_bare(
    job: &Job,
    root: Arc<Root>,
    means: Means<'_>,
    session: &Store,
) -> Option<Result<Found, Error>> {
    match look_at(job, root, means, session, true) {
        Err(Error::Stopped(storage::Error::NotBare)) => {
            job.progress.relies(false); // Nothing of it holds before its turn.
            None
        }
        looked => Some(looked),
    }
}

fn look_at(job: &Job, root: Arc<Root>, means: Means<'_>, session: &Store, only_bare: bool) -> Result<Found, Error> {
    let info_hash = job.info_hash;
    let shared = job.contents.get(info_hash)?;
    let meta = &*shared;
    // Whose its files are, and whether it was complete once, is told by nothing else: while that cannot be read nothing is believed,
    // and nothing is downloaded. What is right is served.
    let mut unknown = None;
    let shape = (meta.geometry.piece_count(), meta.files.len());
    // One read that fails is not to have all payload read that is looked at in the next seconds.
    let kept = session.find_record_patiently(&info_hash, shape, || !job.progress.inner.is_cancelled());
    let is_kept_read = kept.is_ok();
    let kept = if_known(kept, &mut unknown);
    let is_known_here = kept.is_some();
    let trust = job.trust && !job.progress.is_for_all();
    // What btd downloads itself is not believed by its length: its files have theirs from the start.
    let is_download = if_known(is_begun(session, info_hash, kept.as_ref()), &mut unknown);
    let is_repair = if_known(session.load_repair(&info_hash), &mut unknown);
    let believed = match is_download || is_repair || !trust || unknown.is_some() {
        true => Unread::Now,
        false => job.unread,
    };
    job.progress.relies((trust && is_known_here) || believed != Unread::Now);
    let mut checking = Checking {
        job,
        meta,
        root: &root,
        session,
        trust,
        believed,
        withdrawn: Bitfield::new(meta.geometry.piece_count()),
        kept,
        is_kept_read,
        last: None,
        only_bare,
    };
    let mut doubted = job
        .doubted
        .clone()
        .unwrap_or_else(|| Bitfield::new(meta.geometry.piece_count()));
    let mut report = checking.check(&doubted, means)?;
    let is_lacking = |report: &CheckReport| !report.have.is_full() || report.parts.contains(&true);
    let history = if_known(session.find_history(&info_hash), &mut unknown).filter(|_| is_lacking(&report));
    // Of what is whole nothing more is asked.
    let unknown = unknown.filter(|_| is_lacking(&report));
    let was_complete = history.is_some_and(|history| history.completed.is_some());
    let was_whole = trust && was_complete && !is_repair && unknown.is_none();
    // A disk that does not even take what is there is not written to.
    let home_of = |report: &CheckReport| {
        job.home
            .filter(|_| is_lacking(report) && !was_whole && !report.unsynced && unknown.is_none())
    };
    // What was complete here once is the torrent's, and whoever wants it downloaded again has asked for that. A torrent that
    // was complete in another folder has nothing here.
    let is_ours = was_complete && (is_known_here || is_repair);
    let mut strangers = Vec::new();
    for round in 0..ROUNDS {
        strangers.clear();
        if home_of(&report).is_none() || is_ours {
            break;
        }
        let by = strangers::Looking {
            throttle: means.throttle,
            progress: &job.progress.inner,
            blanks: &job.blanks,
        };
        strangers = storage::strangers(meta, &root, &report, is_download, by)?;
        // Whose a file is that was believed by its length alone shows what is in it. Of one that has something wrong, all is read
        // before it is taken for somebody else's.
        let mut is_more = false;
        for piece in storage::unread_in(meta, &report, &strangers).pieces() {
            is_more |= doubted.set(piece);
        }
        if round == 0 && !is_download {
            for piece in storage::samples(meta, &report).pieces() {
                is_more |= doubted.set(piece);
            }
        }
        if !is_more || round + 1 == ROUNDS {
            break;
        }
        report = checking.check(&doubted, means)?;
    }
    let home = home_of(&report);
    // Whoever has all of it read wants to have again what is missing: as soon as there is anybody to have it from, over restarts too. What
    // has nothing here is not taken for the torrent's for that.
    let is_asked_for = !trust && is_ours && is_lacking(&report) && unknown.is_none() && !report.unsynced;
    if is_asked_for && job.home.is_none() && !is_repair {
        session.put_repair(info_hash, true);
    }
    let last = checking.last;
    let lacks = match unknown {
        Some(ref error) => Some(format!("it waits until it is known whose its files are: {error}")),
        None => why_not_whole(meta, &root, &report),
    };
    // What the disk does not take, bytes or names, may be gone after a loss of power: it would be had again then.
    let is_lost = |state: &FileState| matches!(state, FileState::Unreadable(_));
    let is_durable = !report.files.iter().any(is_lost);
    if !is_lacking(&report) && is_durable && report.unread.is_empty() {
        history::note_whole(session, info_hash, || !job.progress.inner.is_cancelled());
    }
    let to_download = |root, home| {
        let torrent = Torrent::to_download(Arc::clone(&shared), root, &report.have, &report.parts, home);
        torrent.with_unread(&report.unread)
    };
    let held = home.filter(|_| !strangers.is_empty());
    let held = held.map(|home| to_download(Arc::clone(&root), home));
    if let Some(home) = home.filter(|_| held.is_none()) {
        if was_complete && !is_repair {
            session.put_repair(info_hash, true); // Until it is complete, over restarts too.
        }
        // What is not complete by its name and begun by btd is its own.
        let is_own = is_download || is_repair || is_ours;
        let as_own = |seen: &Seen| match *seen {
            Seen::File { part: true, .. } if is_own => Seen::Ours { part: true },
            seen => seen,
        };
        let judged = Judged {
            stamps: complete_files(meta, &report),
            seen: report.seen.iter().map(as_own).collect(),
        };
        let torrent = to_download(root, home);
        for (file, stamp) in (0..).zip(&judged.stamps) {
            if let Some(stamp) = stamp {
                torrent.finished(file, Some(stamp.mtime_ns));
            }
        }
        let to_write_over = to_write_over(meta, &report);
        return Ok(Found {
            piece_count: meta.geometry.piece_count(),
            have_count: report.have.count(),
            wrong_count: report.wrong.count(),
            known: false,
            trusted: false,
            why: to_write_over.clone().or(lacks),
            to_write_over,
            torrent: Some(torrent),
            stamps: Some(judged),
            held,
            strangers,
            was_whole,
            unread: unread(&report.unread, last),
            is_durable,
            is_unsynced: report.unsynced,
            is_unknown: false,
        });
    }
    // Shards open files by the names that the torrent gives them.
    let have = report.have_by_final_names(meta);
    let have_count = have.count();
    let not_read = report.unread.and(&have);
    let torrent = (have_count > 0)
        .then(|| Torrent::new(Arc::clone(&shared), root, &have, &report.modified).with_unread(&not_read));
    Ok(Found {
        piece_count: meta.geometry.piece_count(),
        stamps: None,
        to_write_over: None,
        why: why_held(&strangers).or(lacks),
        held,
        strangers,
        was_whole,
        have_count,
        wrong_count: report.wrong.count(),
        known: report.known_count == meta.geometry.piece_count(),
        trusted: believed == Unread::Never && report.believed_count > 0,
        torrent,
        unread: unread(&not_read, last),
        is_durable,
        is_unsynced: report.unsynced || unknown.is_some(),
        is_unknown: unknown.is_some(),
    })
}

/// A look at the payload, and what is recorded of it meanwhile.
struct Checking<'a> {
    job: &'a Job,
    meta: &'a Metainfo,
    root: &'a Root,
    session: &'a Store,
    trust: bool,
    believed: Unread,
    /// What others have taken out of the record since this began.
    withdrawn: Bitfield,
    /// What is recorded, as far as it is known here.
    kept: Option<Record>,
    /// Whether it could be read when this began, or was recorded since.
    is_kept_read: bool,
    /// What was recorded last of what is verified later.
    last: Option<Record>,
    /// It is over as soon as anything is there.
    only_bare: bool,
}

impl Checking<'_> {
    /// Checks all of it. Of what is known, `doubted` is read all the same.
    fn check(&mut self, doubted: &Bitfield, means: Means<'_>) -> Result<CheckReport, storage::Error> {
        let Self { job, meta, root, .. } = *self;
        job.progress.inner.begin_anew();
        let memory = Memory {
            known: self.kept.clone().filter(|_| self.trust),
            unread: self.believed,
            doubted: Some(doubted.clone()),
            only_bare: self.only_bare,
            keep: &mut |record| self.keep(record),
        };
        storage::check(meta, root, means, &job.progress.inner, Some(memory))
    }

    fn keep(&mut self, mut record: Record) {
        for piece in self.withdrawn.pieces() {
            record.have.clear(piece);
        }
        if self.believed == Unread::Later {
            self.last = Some(record.clone());
        }
        // Payload that is not there is looked for every half minute, and what is known already is on the disk.
        let blank = record.have.is_empty() && record.wrong.is_empty() && self.kept.is_none();
        if !blank && self.kept.as_ref() != Some(&record) {
            let before = match self.is_kept_read {
                true => Ok(self.kept.as_ref()),
                false => Err(session::Unread),
            };
            let put = self.session.put_found(self.job.info_hash, before, &record);
            for piece in record.have.beside(&put.have) {
                self.withdrawn.set(piece);
                if let Some(last) = &mut self.last {
                    last.have.clear(piece);
                }
            }
            self.kept = Some(put);
            self.is_kept_read = true;
        }
    }
}

/// What there is to be verified later, if there is anything.
fn unread(pieces: &Bitfield, recorded: Option<Record>) -> Option<(u32, Record)> {
    recorded
        .filter(|_| !pieces.is_empty())
        .map(|record| (pieces.count(), record))
}

/// What each file looked like that nothing is missing of, under its final name.
fn complete_files(meta: &Metainfo, report: &CheckReport) -> Vec<Option<FileStamp>> {
    let (layout, geometry) = (Layout::new(meta), &meta.geometry);
    let mut is_whole: Vec<bool> = std::iter::zip(&report.files, &report.parts)
        .map(|(state, part)| state.is_ok() && !part)
        .collect();
    for piece in geometry.pieces().filter(|piece| !report.have.get(*piece)) {
        for span in layout.spans(geometry.piece_offset(piece), geometry.piece_len(piece).into()) {
            is_whole[span.file as usize] = false;
        }
    }
    let files = std::iter::zip(&meta.files, std::iter::zip(is_whole, &report.modified));
    files
        .map(|(entry, (is_whole, modified))| {
            let mtime_ns = modified.filter(|_| is_whole && !entry.pad)?;
            Some(FileStamp {
                len: entry.len,
                mtime_ns,
            })
        })
        .collect()
}

/// Why a torrent is not downloaded that would be written over these files.
fn why_held(strangers: &[Stranger]) -> Option<String> {
    let (first, others) = strangers.split_first()?;
    let more = match others.len() {
        0 => String::new(),
        count => format!(" (and {count} more like it)"),
    };
    Some(format!(
        "{:?}{more} is there already and has nothing of this torrent in it, so that it is not downloaded over it \
         (hint: move it away, or give the torrent a `data-dir` of its own)",
        first.path.as_str()
    ))
}

/// Files of a piece that are named.
const TOLD_MAX: usize = 4;

/// What a download will write over in files that lie under their final names, if there is anything.
fn to_write_over(meta: &Metainfo, report: &CheckReport) -> Option<String> {
    let (layout, geometry) = (Layout::new(meta), &meta.geometry);
    let (mut first, mut count) = (Vec::new(), 0);
    for piece in geometry.pieces().filter(|piece| report.wrong.get(*piece)) {
        let spans = layout.spans(geometry.piece_offset(piece), geometry.piece_len(piece).into());
        let files = spans.filter(|span| !span.pad && !report.parts[span.file as usize]);
        // Any of them may be the one that was changed.
        let mut paths = files.map(|span| format!("{:?}", meta.files[span.file as usize].path.as_str()));
        let Some(path) = paths.next() else { continue };
        count += 1;
        if first.is_empty() {
            first = std::iter::once(path).chain(paths.take(TOLD_MAX - 1)).collect();
        }
    }
    let paths = first.join(", ");
    match count {
        0 => None,
        1 => Some(format!(
            "a piece of what is there is wrong, and will be written over, in {paths}"
        )),
        count => Some(format!(
            "{count} pieces of what is there are wrong, and will be written over, the first in {paths}"
        )),
    }
}

fn why_not_whole(meta: &Metainfo, root: &Root, report: &CheckReport) -> Option<String> {
    let files = std::iter::zip(&meta.files, std::iter::zip(&report.files, &report.parts));
    let mut wrong = files.filter(|(_, (state, part))| !state.is_ok() || **part);
    let (file, (state, part)) = wrong.next()?;
    let is_in_the_way = matches!(state, FileState::NotRegular(_));
    let state = match (state, part) {
        (FileState::Ok, true) => format!("not complete, as its name with `{PART_SUFFIX}` says"),
        (state, _) => state.to_string(),
    };
    let more = match wrong.count() {
        0 => String::new(),
        count => format!(", and {count} more of its files are not as they should be"),
    };
    let culprit = match is_in_the_way {
        true => root.culprit(&file.path),
        false => None,
    };
    Some(format!("{:?}: {state}{more}", culprit.unwrap_or(file.path.as_str())))
}
