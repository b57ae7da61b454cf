//! Checks of payload: how one begins, what it led to, and what is checked again.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Instant;

use super::Supervisor;
use super::ticking::MISSING_RETRY;
use crate::control::checks::{self, Checked, Found, Job, Progress};
use crate::control::config::{Verify, display_size};
use crate::control::contents::Contents;
use crate::control::ctl::counted;
use crate::control::rivals::{Rival, rival_of};
use crate::control::torrents::{Entry, State};
use crate::proto::InfoHash;
use crate::proto::bitfield::Bitfield;
use crate::proto::geometry::PieceIndex;
use crate::shard::Torrent;
use crate::storage::Unread;
use crate::storage::strangers::Blanks;

/// Behind what is said of a torrent that is not whole, where nothing is done about that.
const NOBODY: &str = "; nobody to download it from: it is announced to no tracker, and its [[watch]] names no `peers`";

/// What lines are of that say that a torrent is seeded.
const SEEDING: &str = "torrents seeding";

impl Supervisor<'_> {
    pub(super) fn check(
        &mut self,
        folder: usize,
        generation: u64,
        of: (InfoHash, Contents),
        trust: bool,
        progress: Arc<Progress>,
    ) {
        self.check_doubting(folder, generation, of, (trust, None), progress);
    }

    /// The same, with pieces that are to be read whatever is known of them.
    pub(super) fn check_doubting(
        &mut self,
        folder: usize,
        generation: u64,
        (info_hash, contents): (InfoHash, Contents),
        (trust, doubted): (bool, Option<Bitfield>),
        progress: Arc<Progress>,
    ) {
        // What shards have found out since the last one is not to be found out again.
        self.unread.remove(info_hash);
        let is_asked_for = self.to_be_read.remove(&info_hash);
        let trust = trust && !is_asked_for;
        if !trust {
            progress.want_all();
            self.session.put_verify(info_hash, true);
        }
        let home = self.home_in(folder, info_hash);
        let unread = match self.folders.plan(folder).verify {
            Verify::Lazy if trust => Unread::Later,
            Verify::Trust if trust => Unread::Never,
            Verify::Full | Verify::Lazy | Verify::Trust => Unread::Now,
        };
        self.checks.submit(Job {
            info_hash,
            generation,
            contents,
            data_dir: self.folders.plan(folder).data_dir.clone(),
            trust,
            unread,
            doubted,
            blanks: Blanks::default(),
            home,
            progress,
        });
    }

    /// The next check of a torrent reads all of it, whatever it is made for, over restarts too.
    pub(super) fn read_all_next(&mut self, info_hash: InfoHash) {
        self.to_be_read.insert(info_hash);
        self.session.put_verify(info_hash, true);
    }

    /// Whether what is missing of a torrent of this folder can be had from anybody.
    pub(super) fn downloads_in(&self, folder: usize, info_hash: InfoHash) -> bool {
        let reach = self.torrents.entry(info_hash).map(Entry::reach);
        !self.folders.plan(folder).peers.is_empty() || reach.is_some_and(|reach| self.announcer.announces(reach))
    }

    /// The shard that a torrent of this folder is downloaded by, if it is.
    pub(super) fn home_in(&self, folder: usize, info_hash: InfoHash) -> Option<u32> {
        self.downloads_in(folder, info_hash)
            .then(|| self.shards.home_of(info_hash))
    }

    pub(super) fn on_checked(&mut self, checked: Checked) {
        let Some(checked) = self.unless_lost(checked) else {
            return;
        };
        let Some(Checked { job, result }) = self.holds_back(checked) else {
            return;
        };
        let Job {
            info_hash, generation, ..
        } = &job;
        let entry = self.torrents.entry(*info_hash);
        let (name, len) = entry.map_or_else(Default::default, |entry| (Arc::clone(&entry.name), entry.len()));
        let len = display_size(len);
        let piece_count = result.as_ref().map_or(0, |found| found.piece_count);
        let result = result.and_then(|found| self.is_its_own(found));
        let (state, served) = match &result {
            Ok(found) if found.stamps.is_some() => (State::Downloading, found.torrent.clone()),
            Ok(found) if found.have_count > 0 && found.have_count == piece_count => {
                (State::Seeding, found.torrent.clone())
            }
            Ok(found) if found.have_count > 0 => (State::Partial, found.torrent.clone()),
            Ok(_) => (State::Missing, None),
            Err(checks::Error::Unavailable(_) | checks::Error::Lost(_)) => (State::Unavailable, None),
            Err(_) => (State::Error, None),
        };
        // What is paused is looked at like the others, and nothing is done with it.
        let is_paused = self.torrents.is_paused(*info_hash);
        let state = if is_paused { State::Paused } else { state };
        let before = self.torrents.entry(*info_hash).and_then(|entry| entry.served.clone());
        let Some(settled) = self
            .torrents
            .settle(*info_hash, *generation, state.clone(), served.clone())
        else {
            // A check that was cancelled because its torrent went has kept what it knew a moment later than that.
            if !self.torrents.has(*info_hash) {
                self.session.remove(*info_hash);
                self.session.put_repair(*info_hash, false);
            }
            return;
        };
        if let (Some(before), Some(now)) = (&before, &served) {
            withdraw_again(before, now, job.doubted.as_ref());
        }
        if settled.was_served {
            self.shards.remove(*info_hash); // What it had then is not what it has now.
        }
        self.downloads.remove(*info_hash);
        self.unread.forget(*info_hash);
        if let Ok(found) = &result {
            self.unread.on_checked(*info_hash, found.is_durable);
            if !found.trusts_next(&job) {
                self.read_all_next(*info_hash);
            }
            // Where nothing is served it is looked for again anyway.
            if let Some(torrent) = served.as_ref().filter(|_| found.is_unsynced) {
                self.look_later(torrent, found.trusts_next(&job), found.is_unknown);
            }
        }
        let was_for_all = job.progress.is_for_all();
        let was_done = match &result {
            Ok(found) => found.trusts_next(&job),
            Err(error) => matches!(error, checks::Error::Taken { .. }),
        };
        match was_done {
            true if was_for_all => self.session.put_verify(*info_hash, false),
            false if was_for_all => self.read_all_next(*info_hash),
            _ => {}
        }
        // Else somebody waits for a download that does not come.
        let has_nobody = job.home.is_none()
            && matches!(state, State::Missing | State::Partial)
            && result.as_ref().is_ok_and(|found| !found.was_whole);
        let nobody = if has_nobody { NOBODY } else { "" };
        let why = match &result {
            Ok(found) if has_nobody => Some(format!(
                "{}{nobody}",
                found.why.as_deref().unwrap_or("not all of it is there")
            )),
            Ok(found) => found.why.clone(),
            Err(error) => Some(error.to_string()),
        };
        self.torrents.explain(*info_hash, result.is_ok(), why);
        match &result {
            Ok(found) if !is_paused => self.appearing.on_checked(*info_hash, found),
            _ => self.appearing.forget(*info_hash),
        }
        if is_paused {
            self.announcer.remove(*info_hash);
            if let Some(why) = self.goals.why(*info_hash) {
                self.torrents.give_reason(*info_hash, Some(why));
            }
            self.lines.info(
                "torrents that are paused",
                format_args!(
                    "{name:?} ({info_hash}) is paused: it is neither served nor downloaded until it is resumed"
                ),
            );
            self.publish_counts();
            return;
        }
        if let (State::Seeding, Some(torrent)) = (&state, &served)
            && self.rests_at_once(torrent)
        {
            // Its trackers are told all the same.
        } else if let Some(torrent) = &served {
            let rate = self.config.limits.upload_rate_per_torrent;
            torrent.keep_to(rate.and_then(NonZeroU64::new), Instant::now());
            if let Some((folder, _)) = self.torrents.get(*info_hash) {
                torrent.keep_to_folder(self.folders.pace(folder));
            }
            if let Ok(Found {
                stamps: Some(stamps), ..
            }) = &result
            {
                self.downloads.add(Arc::clone(torrent), stamps.clone());
            }
            // What is downloaded is recorded with that.
            if let Ok(Found {
                unread: Some((_, recorded)),
                stamps: None,
                ..
            }) = &result
            {
                self.unread.add(torrent, recorded.clone());
            }
            self.totals.follow(torrent);
            self.shards.add(torrent);
            self.tell_peers(torrent);
            // Before it announces itself, perhaps to this very tracker.
            self.tell_held();
            self.announcer.serve(torrent, &name);
        } else {
            self.announcer.remove(*info_hash);
        }
        if matches!(state, State::Seeding) {
            self.look_at_goals(*info_hash);
        }
        match (state, result) {
            // That was said of its folder.
            (State::Unavailable, _) => tracing::debug!("{name:?} ({info_hash}) waits for its data folder"),
            (_, Err(error)) => {
                self.lines.error(
                    error.kind(),
                    format_args!(
                        "cannot serve {name:?} ({info_hash}): {error} (`btd ctl verify {info_hash}` checks it again)"
                    ),
                );
            }
            (
                State::Seeding,
                Ok(Found {
                    unread: Some((count, _)),
                    ..
                }),
            ) => {
                self.lines.info(
                    SEEDING,
                    format_args!(
                        "seeding {name:?} ({info_hash}): {len}, {count} of {piece_count} pieces are verified when they are \
                         first asked for"
                    ),
                );
            }
            (State::Seeding, Ok(Found { known: true, .. })) => {
                self.lines.info(
                    SEEDING,
                    format_args!("seeding {name:?} ({info_hash}): {len}, unchanged since it was checked"),
                );
            }
            (State::Seeding, Ok(Found { trusted: true, .. })) => {
                self.lines.info(
                    SEEDING,
                    format_args!(
                        "seeding {name:?} ({info_hash}): {len}, taken for right as `verify` says: files have their lengths, and \
                         nothing of them was read"
                    ),
                );
            }
            (State::Seeding, Ok(_)) => {
                self.lines.info(
                    SEEDING,
                    format_args!(
                        "seeding {name:?} ({info_hash}): {len}, checked in {:.1} s",
                        job.progress.seconds()
                    ),
                );
            }
            (State::Downloading, Ok(found)) => {
                let had = match found.have_count {
                    0 => "none of it is there".to_owned(),
                    count => format!("{count} of {piece_count} pieces are there"),
                };
                self.lines.info(
                    "torrents downloading",
                    format_args!("downloading {name:?} ({info_hash}): {len}, {had}"),
                );
                if let Some(why) = found.to_write_over {
                    self.lines.warn(
                        "downloads that write over something",
                        format_args!("downloading {name:?} ({info_hash}): {why}"),
                    );
                }
            }
            (State::Missing, Ok(found)) => {
                let trust = found.trusts_next(&job);
                if settled.is_news {
                    let why = found.why.unwrap_or_else(|| match found.wrong_count {
                        0 => "no piece of it could be read".to_owned(),
                        count => format!("{count} of {piece_count} pieces are there, and none is right"),
                    });
                    let next = match found.wrong_count {
                        _ if found.was_whole => {
                            format!("it was complete once; `btd ctl verify {info_hash}` downloads it again")
                        }
                        count if count == 0 || found.held.is_some() => {
                            format!("looked for again every {} s", MISSING_RETRY.as_secs())
                        }
                        _ => format!("`btd ctl verify {info_hash}` checks it again"),
                    };
                    self.lines.warn(
                        "torrents with nothing to seed",
                        format_args!("nothing to seed of {name:?} ({info_hash}): {why} ({next}{nobody})"),
                    );
                }
                // What is there and wrong would be hashed to its end each time.
                if let Some(entry) = self.torrents.entry(*info_hash) {
                    let contents = Contents::InFile(Arc::clone(entry.file()));
                    let job = Job { contents, ..job };
                    if found.held.is_some() || found.is_unsynced {
                        // What is known to be wrong is not read again, as long as it stays as it is.
                        self.missing.push(Job {
                            trust,
                            doubted: None,
                            ..job
                        });
                    } else if found.wrong_count == 0 {
                        self.missing.push(job);
                    } else {
                        self.spoilt.retain(|before| before.info_hash != job.info_hash);
                        self.spoilt.push(job);
                    }
                }
            }
            // It is looked at again and again.
            (_, Ok(found)) if found.is_unknown && !settled.is_news => {}
            (_, Ok(found)) => {
                let why = found.why.map(|why| format!("; {why}")).unwrap_or_default();
                let next = match found.was_whole {
                    true => format!("it was complete once; `btd ctl verify {info_hash}` downloads what is missing"),
                    false => format!("`btd ctl verify {info_hash}` checks it again"),
                };
                self.lines.warn(
                    "torrents seeded in part",
                    format_args!(
                        "seeding a part of {name:?} ({info_hash}): {} of {piece_count} pieces are right, {} wrong{why} \
                         ({next}{nobody})",
                        found.have_count, found.wrong_count,
                    ),
                );
            }
        }
        self.publish_counts();
    }

    /// What was found of a torrent, unless it is to be downloaded over the files of another.
    pub(super) fn is_its_own(&self, found: Found) -> Result<Found, checks::Error> {
        let torrent = found.torrent.as_ref().filter(|_| found.stamps.is_some());
        // Whose it is says more than that it is none of this one's.
        let torrent = torrent.or(found.held.as_ref());
        match torrent.and_then(|torrent| rival_of(torrent, self.torrents.served())) {
            None => Ok(found),
            Some(Rival { path, name, info_hash }) => Err(checks::Error::Taken {
                path,
                name,
                by: info_hash,
            }),
        }
    }

    /// Looks again for payload that was not there.
    pub(super) fn look_again(&mut self, job: Job) {
        // A new one: it tells how far and how long this look is, and can be cancelled.
        let Some(entry) = self.torrents.entry(job.info_hash) else {
            return;
        };
        let progress = Arc::new(Progress::new(entry.len()));
        // There may be peers to have it from since it was looked for last.
        let home = self.home_in(entry.folder(), job.info_hash);
        if let Some(generation) = self.torrents.check_again(job.info_hash, &progress) {
            let is_asked_for = self.to_be_read.remove(&job.info_hash);
            if is_asked_for {
                progress.want_all();
            }
            self.checks.submit(Job {
                generation,
                progress,
                home,
                trust: job.trust && !is_asked_for,
                ..job
            });
        }
    }

    /// Files that were changed after they were checked are checked again; of the others of their torrents is known that
    /// they are as they were.
    pub(super) fn check_changed(&mut self) {
        for (folder, torrent) in self.torrents.changed() {
            let meta = torrent.shared_meta();
            let progress = Arc::new(Progress::new(meta.geometry.total_len()));
            let Some(generation) = self.torrents.check_anew(meta.info_hash, &progress) else {
                continue;
            };
            self.stop_downloading(meta.info_hash);
            let doubted = torrent.wrong();
            match &doubted {
                Some(wrong) => self.lines.warn(
                    "torrents of which pieces are withdrawn",
                    format_args!(
                        "{} of {:?} ({}) withdrawn, as the disk has wrong bytes or none: {}",
                        counted(wrong.count().into(), "piece"),
                        meta.name,
                        meta.info_hash,
                        torrent.fault().unwrap_or_default()
                    ),
                ),
                None => self.lines.warn(
                    "torrents with a file that was changed",
                    format_args!(
                        "a file of {:?} ({}) was changed after it was checked: it is checked again",
                        meta.name, meta.info_hash
                    ),
                ),
            }
            let of = (meta.info_hash, meta.into());
            self.check_doubting(folder, generation, of, (true, doubted), progress);
        }
    }

    /// A disk that fails while serving takes pieces away.
    pub(super) fn tell_damage(&mut self) {
        for torrent in self.torrents.newly_damaged() {
            let (have, count) = (torrent.have_count(), torrent.geometry().piece_count());
            let why = torrent.fault().unwrap_or_default();
            let (name, info_hash) = (&torrent.meta().name, torrent.info_hash());
            // Of one that is read as it is asked for, what can be read still holds.
            if !self.unread.has(info_hash) {
                self.session.remove(info_hash);
            }
            self.lines.warn(
                "torrents no longer whole",
                format_args!(
                    "{name:?} ({info_hash}) is no longer whole, {have} of {count} pieces are left: {why} \
                 (`btd ctl verify {info_hash}` checks it again)"
                ),
            );
            self.publish_counts();
        }
    }
}

/// What was withdrawn of a torrent while it was checked may have been believed by the check: it is withdrawn of what came of that,
/// and so read once more. `doubted` was read.
fn withdraw_again(before: &Torrent, now: &Torrent, doubted: Option<&Bitfield>) {
    let Some(wrong) = before.wrong() else { return };
    let why = before.fault().unwrap_or_default();
    let was_read = |piece: &PieceIndex| doubted.is_some_and(|doubted| doubted.get(*piece));
    for piece in wrong.pieces().filter(|piece| !was_read(piece) && now.has(*piece)) {
        now.withdraw_wrong(piece, &why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::metainfo::Metainfo;
    use crate::storage::Root;

    #[test]
    fn piece_that_is_withdrawn_during_a_check_is_not_served_after_it_unless_the_check_has_read_it() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let meta = Metainfo::parse(&crate::control::watch::testing::torrent("x")).expect("a torrent");
        let root = Arc::new(Root::open(temp.path()).expect("opened"));
        let torrent = || Torrent::new(meta.clone(), Arc::clone(&root), &Bitfield::full(1), &[None]);
        let (before, now) = (torrent(), torrent());
        let piece = before.geometry().piece_index(0).expect("a piece");
        withdraw_again(&before, &now, None);
        assert!(now.is_complete() && !now.is_changed());
        before.withdraw_wrong(piece, "it is wrong");
        withdraw_again(&before, &now, Some(&Bitfield::full(1)));
        assert!(now.is_complete(), "it was read");
        withdraw_again(&before, &now, None);
        assert!(!now.has(piece) && now.is_changed(), "it is read once more");
    }
}
