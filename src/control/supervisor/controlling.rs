//! What the supervisor does for those who control btd while it runs: see [`crate::control::ctl`].
//!
//! Each of these is short, and none waits: whatever may take long is given back as something to wait for elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::{State, Supervisor};
use crate::announcer::TrackerUrl;
use crate::announcer::schedule::{Reannounced, Status};
use crate::control::checks::{Progress, Wait};
use crate::control::contents::Contents;
use crate::control::ctl::api::{Connections, Health, Kind, Refusal, ShardRow, Stats, TorrentRow, check_prefix};
use crate::control::ctl::filter::Filter;
use crate::control::few_lines::FewLines;
use crate::control::history::Moment;
use crate::control::pulse::STUCK_AFTER;
use crate::control::torrents::{Entry, STATE_NAMES};
use crate::proto::InfoHash;
use crate::session::Store;
use crate::shard::{PeersTold, Torrent};
use crate::stats::Counters;
use crate::storage::erase;

/// Torrents that are looked at for those that somebody means, at a time: well below a millisecond.
const LOOKED_AT_MAX: usize = 1024;
/// How many torrents are named where a beginning is that of several.
const NAMED_MAX: usize = 4;

/// Where the contents of a torrent's file are to be had.
pub(in crate::control) enum Source {
    /// Of a torrent that the shards have, or had.
    Served(Arc<Torrent>),
    /// In this file.
    File(PathBuf),
}

/// What is known of a torrent without waiting for a disk.
pub(in crate::control) struct Known {
    /// Its totals lack what is recorded.
    pub(in crate::control) row: TorrentRow,
    /// When they were looked at.
    pub(in crate::control) moment: Moment,
    /// How its check stands, if it is being checked.
    pub(in crate::control) check: Option<CheckStanding>,
    /// That check.
    pub(in crate::control) progress: Option<Arc<Progress>>,
    pub(in crate::control) files: Vec<PathBuf>,
    pub(in crate::control) data_dir: PathBuf,
    pub(in crate::control) torrent: Option<Arc<Torrent>>,
}

/// Some of the torrents that are meant.
pub(in crate::control) struct Page<T> {
    /// In the order of their info-hashes.
    pub(in crate::control) found: Vec<T>,
    /// The one behind which the next page begins; `None` if there is no next.
    pub(in crate::control) last: Option<InfoHash>,
}

/// A check of a torrent that is not over.
#[derive(Clone, Copy, Debug)]
pub(in crate::control) struct CheckStanding {
    /// What it waits for, if it has not begun.
    pub(in crate::control) wait: Option<Wait>,
    pub(in crate::control) has_begun: bool,
    /// All checks are paused.
    pub(in crate::control) is_paused: bool,
}

impl CheckStanding {
    /// Whether it has begun, or it is known how many are before it.
    pub(in crate::control) fn is_placed(&self) -> bool {
        self.has_begun || matches!(self.wait, Some(Wait::InLine(..)))
    }
}

/// Why trackers' schedule does not know of a torrent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) enum Unannounced {
    /// It will, without anybody's doing.
    Yet(&'static str),
    /// It will not, as things are.
    Ever(&'static str),
}

/// Another torrent that may have the same files as one.
pub(in crate::control) struct Neighbour {
    pub(in crate::control) info_hash: InfoHash,
    pub(in crate::control) name: String,
    /// Where it is to be read which files it has, if it rests.
    pub(in crate::control) file: Option<Arc<Path>>,
    pub(in crate::control) data_dir: PathBuf,
    /// Which files it has, if that is known.
    pub(in crate::control) torrent: Option<Arc<Torrent>>,
}

/// Questions.
impl Supervisor<'_> {
    /// The torrent whose info-hash begins so.
    pub(in crate::control) fn find(&self, prefix: &str) -> Result<InfoHash, Refusal> {
        let (from, to) = bounds(prefix)?;
        let mut found = self.torrents.between(from, to).map(|(info_hash, _)| info_hash);
        let Some(first) = found.next() else {
            return Err(Refusal::new(Kind::NotFound, format!("there is no torrent {prefix}")));
        };
        let mut others = found.take(NAMED_MAX).peekable();
        if others.peek().is_none() {
            return Ok(first);
        }
        let named: Vec<String> = std::iter::once(first)
            .chain(others)
            .map(|hash| hash.to_string())
            .collect();
        let message = format!("{prefix} is the beginning of several info-hashes: {}", named.join(", "));
        Err(Refusal::new(Kind::BadRequest, message))
    }

    /// Torrents behind one that are meant, so many at most. Their totals lack what is recorded, and were looked at at this moment.
    pub(in crate::control) fn page(
        &self,
        after: Option<InfoHash>,
        max: usize,
        filter: &Filter,
    ) -> (Page<(InfoHash, TorrentRow)>, Option<Moment>) {
        let Page { found, last } = self.meant(after, max, filter);
        let (Some((from, _)), Some((to, _))) = (found.first(), found.last()) else {
            let found = Vec::new();
            return (Page { found, last }, None);
        };
        let (unrecorded, moment) = self.totals.unrecorded_between(*from, *to);
        let row = |(info_hash, entry)| {
            let unrecorded = unrecorded.get(&info_hash).copied().unwrap_or_default();
            (info_hash, self.row(info_hash, entry, unrecorded))
        };
        let found = found.into_iter().map(row).collect();
        (Page { found, last }, Some(moment))
    }

    /// The same without their rows.
    pub(in crate::control) fn hashes(&self, after: Option<InfoHash>, max: usize, filter: &Filter) -> Page<InfoHash> {
        let Page { found, last } = self.meant(after, max, filter);
        let found = found.into_iter().map(|(info_hash, _)| info_hash).collect();
        Page { found, last }
    }

    /// The same as they are. A page may have none, and another follow: it ends where enough were looked at.
    fn meant(&self, after: Option<InfoHash>, max: usize, filter: &Filter) -> Page<(InfoHash, &Entry)> {
        let (mut found, mut last) = (Vec::new(), None);
        for (count, (info_hash, entry)) in self.torrents.after(after).enumerate() {
            if found.len() == max || count == LOOKED_AT_MAX {
                return Page { found, last };
            }
            last = Some(info_hash);
            let label = self.folders.plan(entry.folder()).label.as_deref();
            // One that is paused may be checked meanwhile, and is in both states to who asks.
            let paused = entry.is_paused().then(|| State::Paused.name());
            let states = [Some(entry.state.name()), paused];
            if filter.lets_through(&states, label, &entry.name) {
                found.push((info_hash, entry));
            }
        }
        Page { found, last: None }
    }

    /// What people call the watch folders, each once.
    pub(in crate::control) fn labels(&self) -> BTreeSet<String> {
        let labels = self.folders.open_ones().filter_map(|(_, watch)| watch.label.clone());
        labels.collect()
    }

    pub(in crate::control) fn known(&self, info_hash: InfoHash) -> Option<Known> {
        let entry = self.torrents.entry(info_hash)?;
        let (unrecorded, moment) = self.totals.unrecorded(info_hash);
        Some(Known {
            row: self.row(info_hash, entry, unrecorded),
            moment,
            check: match &entry.state {
                State::Checking(progress) => {
                    // In this order: one that had its place in line, and is in none, was taken from there.
                    let is_placed = progress.is_placed();
                    let wait = self.checks.wait_of(info_hash, entry.generation);
                    Some(CheckStanding {
                        wait,
                        has_begun: progress.has_begun() || is_placed && wait.is_none(),
                        is_paused: self.throttle.is_paused(),
                    })
                }
                _ => None,
            },
            progress: match &entry.state {
                State::Checking(progress) => Some(Arc::clone(progress)),
                _ => None,
            },
            files: entry.files().map(Into::into).collect(),
            data_dir: self.folders.plan(entry.folder()).data_dir.clone(),
            torrent: entry.served.clone(),
        })
    }

    /// A torrent in short. Its totals are what is not recorded of them.
    fn row(&self, info_hash: InfoHash, entry: &Entry, unrecorded: (u64, u64)) -> TorrentRow {
        let torrent = entry.served.as_ref();
        let (upload_rate, download_rate) = entry.rates();
        let (uploaded, downloaded) = entry.moved();
        TorrentRow {
            info_hash: info_hash.to_string(),
            name: entry.name.to_string(),
            state: entry.state.name().to_owned(),
            paused: entry.is_paused(),
            size: entry.len(),
            done: match (torrent, &entry.state) {
                (Some(torrent), _) => Some(entry.len() - torrent.left().min(entry.len())),
                (None, State::Seeding) => Some(entry.len()),
                // One that rested, and was paused then.
                (None, State::Paused) if entry.is_known() && entry.was_whole() => Some(entry.len()),
                (None, State::Missing | State::Paused) if entry.is_known() => Some(0),
                (None, _) => None,
            },
            checked: match &entry.state {
                State::Checking(progress) => Some(progress.done()),
                _ => None,
            },
            waits: matches!(&entry.state, State::Checking(progress) if !progress.has_begun()),
            peers: torrent.map_or(0, |torrent| torrent.connections()),
            upload_rate,
            download_rate,
            uploaded,
            downloaded,
            uploaded_ever: Some(unrecorded.0),
            downloaded_ever: Some(unrecorded.1),
            ratio: None,
            added: None,
            label: self.folders.plan(entry.folder()).label.clone(),
            why: entry
                .why()
                .map(str::to_owned)
                .or_else(|| torrent.and_then(|torrent| torrent.fault())),
        }
    }

    /// Where a torrent's contents are to be had.
    pub(in crate::control) fn source(&self, info_hash: InfoHash) -> Option<Source> {
        let entry = self.torrents.entry(info_hash)?;
        match &entry.served {
            Some(torrent) => Some(Source::Served(Arc::clone(torrent))),
            None => Some(Source::File(entry.file().to_path_buf())),
        }
    }

    /// Others of the page behind `after` that may have the same files as the torrent `info_hash` of this name and data
    /// folder, and where the page ends; `None` when that was the last. `is_near` tells of another data folder whether it
    /// overlaps with that.
    pub(in crate::control) fn neighbours(
        &self,
        (info_hash, name, data_dir): (InfoHash, &str, &Path),
        is_near: impl Fn(&Path) -> bool,
        (after, max): (Option<InfoHash>, usize),
    ) -> (Vec<Neighbour>, Option<InfoHash>) {
        let (mut found, mut last, mut count) = (Vec::new(), None, 0);
        for (other, entry) in self.torrents.after(after).take(max) {
            (last, count) = (Some(other), count + 1);
            let dir = &self.folders.plan(entry.folder()).data_dir;
            let is_candidate = match dir == data_dir {
                true => erase::may_meet(&entry.name, name),
                false => is_near(dir),
            };
            if other != info_hash && is_candidate {
                found.push(Neighbour {
                    info_hash: other,
                    name: entry.name.to_string(),
                    file: entry.rests().then(|| Arc::clone(entry.file())),
                    data_dir: dir.clone(),
                    torrent: entry.served.clone(),
                });
            }
        }
        (found, last.filter(|_| count == max))
    }

    /// All data folders.
    pub(in crate::control) fn data_dirs(&self) -> Vec<PathBuf> {
        self.folders
            .open_ones()
            .map(|(_, watch)| watch.data_dir.clone())
            .collect()
    }

    /// All watch folders.
    pub(in crate::control) fn watch_dirs(&self) -> Vec<PathBuf> {
        self.folders.open_ones().map(|(_, watch)| watch.dir.clone()).collect()
    }

    pub(in crate::control) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.session)
    }

    /// How a torrent does with its trackers.
    pub(in crate::control) fn trackers(&self, info_hash: InfoHash) -> oneshot::Receiver<Vec<Status>> {
        self.announcer.status(info_hash)
    }

    /// The trackers of the configuration that a torrent is announced to, be it private or not.
    pub(in crate::control) fn configured_trackers(&self, private: bool) -> Vec<TrackerUrl> {
        self.announcer.configured(private).to_vec()
    }

    /// The answers of all shards.
    pub(in crate::control) fn peers(&mut self, info_hash: InfoHash) -> Vec<oneshot::Receiver<PeersTold>> {
        self.shards.peers_of(info_hash)
    }

    pub(in crate::control) fn stats(&mut self) -> Stats {
        let now = Instant::now();
        self.pulse.look(now);
        let counters: Vec<Counters> = self.shards.counters().iter().map(|shard| shard.counters()).collect();
        let sum = |read: fn(&Counters) -> u64| counters.iter().map(read).sum();
        let (upload_rate, download_rate) = self.throughput.rates(now);
        let (of_peers_max, of_tracker_max) = self.shards.connections_max();
        let shards = counters.iter().zip(self.pulse.silences(now)).enumerate();
        Stats {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs_f64(),
            ready: self.ready,
            torrents: std::iter::zip(STATE_NAMES, self.torrents.counts())
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            upload_rate,
            download_rate,
            uploaded: sum(|shard| shard.uploaded_bytes),
            downloaded: sum(|shard| shard.downloaded_bytes),
            disk_read: sum(|shard| shard.disk_read_bytes),
            disk_written: sum(|shard| shard.disk_written_bytes),
            peers: sum(|shard| shard.peers_now),
            connections: Some(Connections {
                now: sum(|shard| shard.connections_now),
                max: of_peers_max as u64,
                turned_away: sum(|shard| shard.turned_away),
            }),
            tracker_connections: of_tracker_max.map(|max| Connections {
                now: sum(|shard| shard.tracker_connections_now),
                max: max as u64,
                turned_away: sum(|shard| shard.tracker_turned_away),
            }),
            cache_hit_ratio: ratio(sum(|shard| shard.cache_hits), sum(|shard| shard.cache_misses)),
            checks_paused: self.throttle.is_paused(),
            shards: shards
                .map(|(index, (shard, silent))| ShardRow {
                    index,
                    peers: shard.peers_now,
                    downloads: shard.downloads_now,
                    uploaded: shard.uploaded_bytes,
                    downloaded: shard.downloaded_bytes,
                    cache_hit_ratio: ratio(shard.cache_hits, shard.cache_misses),
                    silent: silent.as_secs_f64(),
                })
                .collect(),
        }
    }

    pub(in crate::control) fn health(&mut self) -> Health {
        let mut why = Vec::new();
        if !self.ready {
            why.push("it has not read all of its watch folders yet".to_owned());
        }
        // Now, and not when it was last done: btd may have been stopped as a whole meanwhile.
        let now = Instant::now();
        self.pulse.look(now);
        why.extend(self.pulse.silent(STUCK_AFTER, now).iter().map(ToString::to_string));
        why.extend(self.device_trouble());
        let (addresses, is_all) = self.address_trouble();
        why.extend(addresses.iter().filter(|_| is_all).cloned());
        if self.shards.any_has_ended() {
            why.push("a shard has ended by itself".to_owned());
        }
        let healthy = why.is_empty();
        // Told, and btd works on without it, or without a new start: a container that is not healthy is ended and begun again.
        why.extend(self.data_folders.absences());
        why.extend(addresses.into_iter().filter(|_| !is_all));
        let refused = self.reload.refused();
        why.extend(refused.map(|refused| {
            let refused: Vec<&str> = refused.lines().map(str::trim).collect();
            format!("it goes on with the configuration it had: {}", refused.join("; "))
        }));
        Health { healthy, why }
    }
}

/// Orders. `None` where there is no such torrent.
impl Supervisor<'_> {
    /// Whether it was not paused before.
    pub(in crate::control) fn pause(&mut self, info_hash: InfoHash) -> Option<bool> {
        let is_news = self.torrents.set_paused(info_hash, true)?;
        if is_news {
            self.session.put_paused(info_hash, true);
            if self
                .torrents
                .entry(info_hash)
                .is_some_and(|entry| entry.served.is_some())
            {
                self.shards.remove(info_hash);
            }
            self.downloads.remove(info_hash);
            self.unread.remove(info_hash);
            self.appearing.forget(info_hash);
            self.announcer.remove(info_hash);
            self.publish_counts();
            let line = format_args!("paused {:?} ({info_hash})", self.name_of(info_hash));
            self.lines.info("torrents paused", line);
        }
        Some(is_news)
    }

    /// Whether it was paused before, or has not gone on since: then [`Supervisor::go_on`] is to follow.
    pub(in crate::control) fn resume(&mut self, info_hash: InfoHash) -> Option<bool> {
        let is_news = self.torrents.set_paused(info_hash, false)?;
        if is_news {
            self.session.put_paused(info_hash, false);
            self.on_resumed(info_hash);
            self.torrents.give_reason(info_hash, None);
            let line = format_args!("resumed {:?} ({info_hash})", self.name_of(info_hash));
            self.lines.info("torrents resumed", line);
        }
        // Its file may not have been readable the last time.
        let entry = self.torrents.entry(info_hash)?;
        Some(is_news || matches!(entry.state, State::Paused))
    }

    /// A torrent that was paused goes on as at a start. One that is recorded as `whole`, which is given with its own trackers, rests: it
    /// is seeded at once, and its files are compared with the record meanwhile. What is there of any other is looked at in its turn,
    /// unless it is being looked at anyway. `None` if it has gone.
    pub(in crate::control) fn go_on(&mut self, info_hash: InfoHash, whole: Option<Vec<Vec<String>>>) -> Option<()> {
        let entry = self.torrents.entry(info_hash)?;
        match whole.filter(|_| self.may_rest_unchecked(info_hash, entry)) {
            Some(announce) => {
                self.torrents.rest_unchecked(info_hash);
                self.announce_resting(info_hash, announce);
                self.look_at_goals(info_hash);
                self.look_soon(info_hash);
                self.publish_counts();
            }
            None => {
                self.check_known(info_hash, true)?;
            }
        }
        Some(())
    }

    /// Whether nothing but the record of a torrent is to be asked, should that say that it is whole.
    fn may_rest_unchecked(&self, info_hash: InfoHash, entry: &Entry) -> bool {
        let is_idle = match &entry.state {
            State::Paused => true,
            State::Checking(progress) => !progress.has_begun() && !progress.is_for_all(),
            _ => false,
        };
        // What the shards have found out last may not be recorded yet.
        let is_as_recorded = |torrent: &Arc<Torrent>| torrent.is_complete() && !torrent.is_changed();
        let data_dir = &self.folders.plan(entry.folder()).data_dir;
        is_idle
            && !entry.is_paused()
            && !self.to_be_read.contains(&info_hash)
            && entry.served.as_ref().is_none_or(is_as_recorded)
            && self.data_folders.absent(data_dir).is_none()
    }

    /// Has a torrent checked; with `trust`, only what is not known. Whether it was not being checked that way.
    pub(in crate::control) fn check_known(&mut self, info_hash: InfoHash, trust: bool) -> Option<bool> {
        let entry = self.torrents.entry(info_hash)?;
        let (folder, progress) = (entry.folder(), Arc::new(Progress::new(entry.len())));
        let contents = match &entry.served {
            Some(torrent) => Contents::Here(torrent.shared_meta()),
            None => Contents::InFile(Arc::clone(entry.file())),
        };
        let Some(generation) = self.torrents.check_anew(info_hash, &progress) else {
            return Some(!trust && self.read_all(info_hash));
        };
        self.stop_downloading(info_hash);
        self.check(folder, generation, (info_hash, contents), trust, progress);
        self.publish_counts();
        Some(true)
    }

    /// A torrent is being checked, and somebody wants all of it read. Whether that is news.
    pub(super) fn read_all(&self, info_hash: InfoHash) -> bool {
        let state = self.torrents.entry(info_hash).map(|entry| &entry.state);
        let is_news = matches!(state, Some(State::Checking(progress)) if progress.want_all());
        if is_news {
            self.session.put_verify(info_hash, true);
        }
        is_news
    }

    /// When it will be announced. The receiver gets `None` if it is not announced at all.
    pub(in crate::control) fn reannounce(&self, info_hash: InfoHash) -> oneshot::Receiver<Option<Reannounced>> {
        self.announcer.reannounce(info_hash)
    }

    /// Why trackers' schedule does not know of a torrent.
    pub(in crate::control) fn why_unannounced(&self, info_hash: InfoHash) -> Option<Unannounced> {
        let entry = self.torrents.entry(info_hash)?;
        if let Some(why) = self.announcer.why_not(entry.reach()) {
            return Some(Unannounced::Ever(why));
        }
        Some(match &entry.state {
            _ if entry.is_paused() => Unannounced::Ever("it is not announced: it is paused"),
            State::Checking(_) => Unannounced::Yet("it is announced once its payload has been looked at"),
            // What is known of its trackers is being read.
            State::Seeding | State::Partial | State::Downloading => Unannounced::Yet("it is about to be announced"),
            State::Missing => Unannounced::Ever("it is not announced: its payload is missing"),
            State::Unavailable => Unannounced::Ever("it is not announced: its data folder is not there"),
            State::Error => Unannounced::Ever("it is not announced: it cannot be served"),
            State::Paused => Unannounced::Ever("it is not announced: it has not gone on since it was resumed"),
        })
    }

    /// A torrent is about to be added by somebody who wants it to be served. What is given ends when it is there.
    pub(in crate::control) fn expect(&mut self, info_hash: InfoHash) -> oneshot::Receiver<()> {
        if self.torrents.forget_paused(info_hash) {
            self.session.put_paused(info_hash, false);
        }
        let (arrived, told) = oneshot::channel();
        self.expected.retain(|(_, arrived)| !arrived.is_closed());
        self.expected.push((info_hash, arrived));
        told
    }

    /// A torrent is there.
    pub(super) fn tell_arrived(&mut self, info_hash: InfoHash) {
        // Whoever waits looks for the end of the channel.
        self.expected.retain(|(expected, _)| *expected != info_hash);
    }

    /// The files that a torrent came from were deleted. Whether it is gone, and what to wait for before its payload can be
    /// deleted.
    pub(in crate::control) fn took_out(
        &mut self,
        info_hash: InfoHash,
        files: &[PathBuf],
    ) -> (bool, Option<oneshot::Receiver<()>>) {
        for file in files {
            let removal = self.torrents.remove(file);
            self.on_removal(removal, || "somebody asked for it".to_owned());
        }
        self.publish_counts();
        (!self.torrents.has(info_hash), self.downloads.at_rest(info_hash))
    }

    /// Nothing is to be known any more of a torrent that is gone with its payload.
    pub(in crate::control) fn forget(&mut self, info_hash: InfoHash) {
        if !self.torrents.has(info_hash) {
            self.totals.forget(info_hash);
        }
    }

    /// Where what is said of each torrent is said.
    pub(in crate::control) fn lines(&self) -> Arc<FewLines> {
        Arc::clone(&self.lines)
    }

    pub(super) fn name_of(&self, info_hash: InfoHash) -> &str {
        self.torrents.entry(info_hash).map_or("", |entry| &entry.name)
    }
}

/// The first and the last info-hash that begin so.
fn bounds(prefix: &str) -> Result<(InfoHash, InfoHash), Refusal> {
    check_prefix(prefix).map_err(|why| {
        let begin: String = prefix.chars().take(64).collect();
        Refusal::new(Kind::BadRequest, format!("{begin:?} is {why}"))
    })?;
    let parse = |text: String| text.parse().map_err(|_| Refusal::new(Kind::BadRequest, "no info-hash"));
    Ok((parse(format!("{prefix:0<40}"))?, parse(format!("{prefix:f<40}"))?))
}

fn ratio(hits: u64, misses: u64) -> Option<f64> {
    let asked = hits + misses;
    (asked > 0).then(|| hits as f64 / asked as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_stands_for_all_info_hashes_that_begin_so() {
        let (from, to) = bounds("AbC12").expect("digits");
        assert_eq!(from.to_string(), format!("abc12{}", "0".repeat(35)));
        assert_eq!(to.to_string(), format!("abc12{}", "f".repeat(35)));
        let whole = "0123456789abcdef0123456789abcdef01234567";
        let (from, to) = bounds(whole).expect("digits");
        assert_eq!((from.to_string().as_str(), from), (whole, to));
    }

    #[test]
    fn what_is_no_beginning_of_an_info_hash_is_refused() {
        for text in [
            "",
            "abc",
            "abcg",
            "0x12",
            "+123",
            "é123",
            &"a".repeat(41),
            &"9".repeat(8000),
        ] {
            let refusal = bounds(text).expect_err(text);
            assert_eq!(refusal.kind, Kind::BadRequest);
            assert!(refusal.message.len() < 300);
        }
    }
}
