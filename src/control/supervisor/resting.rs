//! Torrents that nobody wants just now: what the shards let go of, what they ask for, and when.
//!
//! A whole torrent rests from the start on if the session says that it is whole, and when nobody has been connected for it for
//! a while. It is seeded all the same: its trackers know of it, and the first peer that comes has it woken ([`wakes`]), which
//! compares its files with what is recorded before a byte of them leaves. What is not as it was goes to a check.
//!
//! So that a file that has changed is not found out only when a peer wants it, all that rested at the start are looked at once, a
//! few at a time, after btd is ready; they rest on.
//!
//! Nothing rests whose data folder is not there (`places`), nor that has pieces which nobody has read yet (`unread`): that is
//! known of the torrent as the shards have it. The scrub reads what rests, too: it has it woken.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Supervisor;
use crate::control::announce::Lists;
use crate::control::checks::{Checked, Progress};
use crate::control::config::display_size;
use crate::control::contents::Contents;
use crate::control::metrics;
use crate::control::rivals::near_names;
use crate::control::scrub::NextPlease;
use crate::control::torrents::{Addition, Reach, State};
use crate::control::wakes::{Changed, Wake, Wakes, Woken};
use crate::proto::InfoHash;
use crate::session::Card;
use crate::shard::Torrent;

/// How long nobody is connected for a torrent before it rests.
const IDLE_FOR: Duration = Duration::from_secs(300);
/// Torrents that are held for no one: beyond these, those that were wanted least lately rest at once. At 100 KiB each, which is
/// much, they are 25 MiB.
pub(super) const IDLE_MAX: usize = 256;
/// Torrents that are told to rest, or looked at, in one tick of 250 ms.
const RESTED_MAX: usize = 256;
const LOOKED_MAX: usize = 8;
/// Torrents among which those are looked for.
const PAGE_LEN: usize = 256;
/// How often that is looked at, and after how long a torrent that a shard has kept is told to rest again.
const TENDED_EVERY: Duration = Duration::from_secs(1);
const TOLD_AGAIN: Duration = Duration::from_secs(5);
/// Torrents that are said to be as they were. Of a large library that goes on for an hour, and a line at its end tells of all.
const TOLD_MAX: usize = 100;

/// A torrent that the shards have, and nobody is connected for.
#[derive(Debug)]
struct Idle {
    since: Instant,
    /// What it had uploaded by then.
    uploaded: u64,
    /// When the shards were told to let go of it.
    told: Option<Instant>,
}

/// See the head of this file.
pub(super) struct Resting {
    wakes: Wakes,
    /// Being woken, and whether a peer waits for it.
    waking: HashMap<InfoHash, bool>,
    idle: HashMap<InfoHash, Idle>,
    /// Whether those that rested at the start are still being looked at, and which was the last.
    looks: bool,
    looked_at: Option<InfoHash>,
    /// Scrubs that wait for a torrent to be woken.
    scrubs: Vec<NextPlease>,
    /// Downloads whose files may be those of a torrent that rests, which is woken to see that.
    held_back: Vec<Checked>,
    seen: usize,
    /// Of those, since it was last begun to look at all.
    told: usize,
    tended_at: Instant,
}

impl Resting {
    pub(super) fn new(wakes: Wakes, now: Instant) -> Self {
        Self {
            wakes,
            waking: HashMap::new(),
            idle: HashMap::new(),
            looked_at: None,
            looks: true,
            scrubs: Vec::new(),
            held_back: Vec::new(),
            seen: 0,
            told: 0,
            tended_at: now,
        }
    }
}

impl Supervisor<'_> {
    /// A file holds a torrent, as an earlier btd has read it. If it was `whole` then, it rests.
    pub(super) fn on_known_file(&mut self, folder: usize, file: &Path, card: &Card, whole: bool) {
        let info_hash = card.info_hash;
        let progress = Arc::new(Progress::new(card.total_len));
        let has_trackers = self.announcer.can_speak_to(&card.announce);
        let reach = Reach {
            private: card.private,
            has_trackers,
        };
        let added = self
            .torrents
            .add(folder, file, info_hash, (&card.name, reach), &progress);
        let (addition, replaced) = added;
        self.on_removal(replaced, || format!("{file:?} holds another torrent now"));
        let generation = match addition {
            Addition::New { generation } => generation,
            // It is of the first look at a file since btd started.
            Addition::Known => return,
            Addition::SameAs(other) => return self.on_same((folder, file), &other, info_hash),
        };
        self.on_held_changed();
        self.tell_arrived(info_hash);
        let is_there = self.data_folders.absent(&self.folders.plan(folder).data_dir).is_none();
        let is_to_be_read = self.to_be_read.contains(&info_hash);
        if whole && is_there && !is_to_be_read && !self.torrents.is_paused(info_hash) {
            self.torrents.rest(info_hash);
            self.announce_resting(info_hash, card.announce.clone());
            if !std::mem::replace(&mut self.resting.looks, true) {
                self.resting.looked_at = None; // A folder was opened by a reload.
            }
            self.look_at_goals(info_hash);
            return;
        }
        let contents = Contents::InFile(Arc::from(file));
        self.check(folder, generation, (info_hash, contents), true, progress);
    }

    pub(super) fn tell_same(&self, file: &Path, other: &Path, info_hash: InfoHash) {
        self.lines.info(
            "files of a torrent that another is of too",
            format_args!("{file:?} is the same torrent as {other:?} ({info_hash}): it is served once"),
        );
    }

    pub(super) fn announce_resting(&self, info_hash: InfoHash, announce: Vec<Vec<String>>) {
        if let Some(entry) = self.torrents.entry(info_hash) {
            let private = entry.reach().private;
            let name = Arc::clone(&entry.name);
            self.announcer
                .serve_resting(info_hash, name, Lists { private, announce });
        }
    }

    /// A check has found a torrent whole. If there are many already that nobody wants, it rests at once.
    pub(super) fn rests_at_once(&mut self, torrent: &Arc<Torrent>) -> bool {
        let is_to_be_read = torrent.unread_count() > 0 || torrent.is_changed();
        if self.torrents.loaded_count() <= IDLE_MAX || torrent.home().is_some() || is_to_be_read {
            return false;
        }
        let info_hash = torrent.info_hash();
        self.torrents.rest(info_hash);
        self.announce_resting(info_hash, torrent.meta().announce.clone());
        true
    }

    /// A peer wants a torrent that rests, or one that a shard has let go of.
    pub(super) fn on_asked(&mut self, info_hash: InfoHash) {
        let entry = self.torrents.entry(info_hash);
        let served = entry.and_then(|entry| entry.served.clone());
        match served {
            Some(torrent) if self.is_served(info_hash) => {
                self.resting.idle.remove(&info_hash);
                self.shards.add(&torrent);
            }
            _ if entry.is_some_and(|entry| entry.rests()) => self.wake(info_hash, true),
            _ => self.shards.refuse(info_hash),
        }
    }

    /// Whether the shards have it, or should.
    fn is_served(&self, info_hash: InfoHash) -> bool {
        let entry = self.torrents.entry(info_hash);
        entry.is_some_and(|entry| !entry.is_paused() && !matches!(entry.state, State::Paused | State::Error))
    }

    /// Has a torrent that rests looked at, because it is wanted or to see that it is there.
    pub(super) fn wake(&mut self, info_hash: InfoHash, wanted: bool) {
        let Some(entry) = self.torrents.entry(info_hash).filter(|entry| entry.rests()) else {
            return;
        };
        // One that is only looked at, and wanted meanwhile, is looked at once more, before others.
        let is_known = |before: Option<&bool>| before.is_some_and(|before| *before || !wanted);
        if is_known(self.resting.waking.get(&info_hash)) {
            return;
        }
        self.resting.waking.insert(info_hash, wanted);
        let folder = entry.folder();
        self.resting.wakes.submit(Wake {
            info_hash,
            file: Arc::clone(entry.file()),
            data_dir: self.folders.plan(folder).data_dir.clone(),
            folder,
            wanted,
        });
    }

    /// A torrent that rested was looked at.
    pub(super) fn on_woken(&mut self, Woken { wake, result }: Woken) {
        let info_hash = wake.info_hash;
        let is_awaited = self.resting.waking.get(&info_hash).copied();
        if is_awaited == Some(wake.wanted) {
            self.resting.waking.remove(&info_hash);
        }
        let entry = self.torrents.entry(info_hash);
        let Some(entry) = entry.filter(|entry| entry.rests() && entry.folder() == wake.folder) else {
            // It has gone meanwhile, or is being checked.
            if wake.wanted {
                self.on_asked(info_hash);
            }
            return self.let_waiting_go();
        };
        match result {
            Ok(torrent) if self.is_in_another_folder(&wake.data_dir, &torrent) => {
                drop(torrent); // It holds on to the folder.
                self.replaced(&wake.data_dir);
            }
            // It was seen to be gone meanwhile, and this one is not told of that yet.
            Ok(_) if self.data_folders.absent(&wake.data_dir).is_some() => self.shards.refuse(info_hash),
            Ok(torrent) if wake.wanted => self.serve_woken(&torrent),
            Ok(_) => {
                self.resting.seen += 1;
                let (name, len) = (&entry.name, display_size(entry.len()));
                let line = format_args!("seeding {name:?} ({info_hash}): {len}, unchanged since it was checked");
                self.resting.told += 1;
                match self.resting.told <= TOLD_MAX {
                    true => self.lines.info("torrents that are as they were", line),
                    false => tracing::debug!("{line}"),
                }
            }
            // Nothing is known of it: the next peer may have more luck.
            Err(Changed::Thread(error)) => {
                self.lines.error(
                    "torrents that no thread looks at",
                    format_args!("no thread to look at {:?} ({info_hash}): {error}", entry.name),
                );
                self.shards.refuse(info_hash);
                return self.let_held_back_go(); // Scrubs ask again a second later.
            }
            Err(Changed::Absent(absence)) => {
                self.tell_absent(&wake.data_dir, &absence);
                // If that was known, none of its torrents should have rested.
                if self.torrents.entry(info_hash).is_some_and(|entry| entry.rests()) {
                    self.check_woken(info_hash, &Changed::Absent(absence));
                }
            }
            Err(changed) => self.check_woken(info_hash, &changed),
        }
        self.let_waiting_go();
    }

    /// A scrub waits for a torrent to be woken.
    pub(super) fn scrub_when_woken(&mut self, info_hash: InfoHash, ask: NextPlease) {
        self.resting.scrubs.push(ask);
        self.wake(info_hash, true);
    }

    fn let_waiting_go(&mut self) {
        self.let_scrubs_go();
        self.let_held_back_go();
    }

    fn let_scrubs_go(&mut self) {
        for ask in std::mem::take(&mut self.resting.scrubs) {
            self.on_scrub(ask);
        }
    }

    fn serve_woken(&mut self, torrent: &Arc<Torrent>) {
        let info_hash = torrent.info_hash();
        if !self.torrents.wake(info_hash, torrent) {
            return;
        }
        let rate = self.config.limits.upload_rate_per_torrent;
        torrent.keep_to(rate.and_then(NonZeroU64::new), Instant::now());
        if let Some((folder, _)) = self.torrents.get(info_hash) {
            torrent.keep_to_folder(self.folders.pace(folder));
        }
        self.totals.follow(torrent);
        self.shards.add(torrent);
        self.announcer.wake(torrent);
    }

    /// Something of a torrent that rested is not as it was.
    fn check_woken(&mut self, info_hash: InfoHash, changed: &Changed) {
        let Some(entry) = self.torrents.entry(info_hash) else {
            return;
        };
        let (folder, contents) = (entry.folder(), Contents::InFile(Arc::clone(entry.file())));
        let progress = Arc::new(Progress::new(entry.len()));
        self.lines.warn(
            "torrents that may not be what they were",
            format_args!(
                "{:?} ({info_hash}) may not be what it was when it was checked, and is checked again: {changed}",
                entry.name
            ),
        );
        self.torrents.end_rest(info_hash);
        self.shards.refuse(info_hash);
        if let Some(generation) = self.torrents.check_anew(info_hash, &progress) {
            self.check(folder, generation, (info_hash, contents), true, progress);
        }
        self.publish_counts();
    }

    /// Whether a download has to wait until a torrent is woken whose files it may be about to write to.
    pub(super) fn holds_back(&mut self, checked: Checked) -> Option<Checked> {
        let is_download = |checked: &Checked| {
            let result = checked.result.as_ref();
            result.is_ok_and(|found| found.stamps.is_some() || found.held.is_some())
        };
        let Some(name) = self
            .torrents
            .entry(checked.job.info_hash)
            .filter(|_| is_download(&checked))
            .map(|entry| Arc::clone(&entry.name))
        else {
            return Some(checked);
        };
        // All files of a torrent lie below its name, or are it. Whether their folders are the same is seen when it is awake.
        let mut near = Vec::new();
        for name in near_names(&name) {
            near.extend(self.torrents.resting_namesakes(&name, Instant::now()));
        }
        if near.is_empty() {
            return Some(checked);
        }
        self.resting.held_back.push(checked);
        near.into_iter().for_each(|info_hash| self.wake(info_hash, true));
        None
    }

    /// Those that waited for a torrent to be woken are looked at again.
    fn let_held_back_go(&mut self) {
        for checked in std::mem::take(&mut self.resting.held_back) {
            self.on_checked(checked);
        }
    }

    /// Lets go of what nobody wants, and looks at what rests.
    pub(super) fn tend_resting(&mut self, now: Instant) {
        // Before others are: nobody should have to wait for these.
        let is_busy = !self.ready || self.resting.waking.len() > LOOKED_MAX;
        if self.resting.looks && !is_busy {
            self.look_at_some();
        }
        if now.saturating_duration_since(self.resting.tended_at) >= TENDED_EVERY {
            self.resting.tended_at = now;
            self.let_scrubs_go();
            self.rest_idle(now);
            self.torrents.forget_namesakes(now);
            metrics::publish_loaded(self.torrents.loaded_count());
        }
    }

    /// Looks at one that rests, or at all that do, a few at a time, if many are being looked at.
    pub(super) fn look_soon(&mut self, info_hash: InfoHash) {
        match self.resting.waking.len() < LOOKED_MAX {
            true => self.wake(info_hash, false),
            false => (self.resting.looks, self.resting.looked_at) = (true, None),
        }
    }

    /// Looks at the next few that rest, in the order of their info-hashes.
    fn look_at_some(&mut self) {
        let page: Vec<(InfoHash, bool)> = self
            .torrents
            .after(self.resting.looked_at)
            .take(PAGE_LEN)
            .map(|(info_hash, entry)| (info_hash, entry.rests()))
            .collect();
        let mut left = LOOKED_MAX;
        for (info_hash, rests) in &page {
            self.resting.looked_at = Some(*info_hash);
            if *rests {
                self.wake(*info_hash, false);
                left -= 1;
            }
            if left == 0 {
                return;
            }
        }
        if page.len() < PAGE_LEN {
            self.resting.looks = false;
            self.resting.told = 0;
            if self.resting.seen > 0 {
                let count = self.resting.seen;
                tracing::info!("what rested at the start was looked at: {count} torrents are as they were so far");
            }
        }
    }

    fn rest_idle(&mut self, now: Instant) {
        let mut idle = std::mem::take(&mut self.resting.idle);
        let mut still = HashMap::with_capacity(idle.len());
        let holders = 2 + self.announcer.holders();
        let (mut gone, mut kept) = (Vec::new(), Vec::new());
        for (info_hash, torrent) in self.torrents.idle() {
            let uploaded = torrent.uploaded();
            let is_same = |idle: &Idle| idle.uploaded == uploaded;
            match idle.remove(&info_hash) {
                // The entry has it, who adds up what was moved, and who announces it. Nobody else can come by it: the shards
                // have it from here.
                Some(idle) if idle.told.is_some() && is_same(&idle) && Arc::strong_count(torrent) <= holders => {
                    gone.push(info_hash);
                }
                Some(idle) if is_same(&idle) => {
                    still.insert(info_hash, idle);
                }
                before => {
                    let was_told = before.is_some_and(|idle| idle.told.is_some());
                    kept.extend(was_told.then_some(info_hash));
                    let (since, told) = (now, None);
                    still.insert(info_hash, Idle { since, uploaded, told });
                }
            }
        }
        for info_hash in gone {
            self.torrents.rest(info_hash);
            self.announcer.rest(info_hash);
        }
        // Those that a shard has kept after all: somebody has come.
        let others = idle.into_iter().filter(|(_, idle)| idle.told.is_some());
        kept.extend(others.map(|(info_hash, _)| info_hash));
        for info_hash in kept {
            let served = self.torrents.entry(info_hash).and_then(|entry| entry.served.clone());
            if let Some(torrent) = served.filter(|_| self.is_served(info_hash)) {
                self.shards.add(&torrent);
            }
        }
        let mut longest: Vec<(Instant, InfoHash)> = still
            .iter()
            // A shard that was busy with it then may not be any more.
            .filter(|(_, idle)| {
                idle.told
                    .is_none_or(|told| now.saturating_duration_since(told) >= TOLD_AGAIN)
            })
            .map(|(info_hash, idle)| (idle.since, *info_hash))
            .collect();
        longest.sort_unstable();
        let too_many = longest.len().saturating_sub(IDLE_MAX);
        let due = longest.iter().enumerate();
        let due = due.filter(|(at, (since, _))| *at < too_many || now.saturating_duration_since(*since) >= IDLE_FOR);
        for (_, (_, info_hash)) in due.take(RESTED_MAX) {
            if let Some(idle) = still.get_mut(info_hash) {
                idle.told = Some(now);
            }
            self.torrents.may_be_asked_for(*info_hash);
            self.shards.rest(*info_hash);
        }
        self.resting.idle = still;
    }
}
