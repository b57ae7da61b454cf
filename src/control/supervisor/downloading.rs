//! What the shards tell of downloads, what threads have done for their files, and whom they are told to connect to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::Supervisor;
use super::folders::{Of, Resolved};
use crate::control::announce::Found;
use crate::control::checks::Progress;
use crate::control::config::display_size;
use crate::control::downloads;
use crate::control::resolver::Resolver;
use crate::control::torrents::State;
use crate::proto::InfoHash;
use crate::shard::{Command, Event, Torrent};

/// How often the names of peers are looked up again.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);
/// Names of one folder's peers that are looked up at a time: a quarter of what the resolver does at once.
const TOGETHER_MAX: usize = 4;
/// The age from which an answer is not believed when nobody is where it has led.
const UNREACHABLE_AGE: Duration = Duration::from_secs(5);
/// How long a download rests whose files became doubtful, before they are checked.
const DOUBT_FOR: Duration = Duration::from_secs(60);
/// The same where something else is in their place, which may be on its way still.
const STRANGE_FOR: Duration = Duration::from_secs(10);

/// How often it is asked whether the session can be read again.
const UNREAD_FOR: Duration = Duration::from_secs(5);

/// A download of which nobody knows what is on the disk, or whose it is.
#[derive(Debug)]
pub(super) struct Doubtful {
    torrent: Arc<Torrent>,
    /// When it is to be checked.
    at: Instant,
    /// Whether what is known of it may be relied on then.
    trust: bool,
    /// Whether that leads to nothing while the session cannot be read.
    is_unknown: bool,
}

impl Supervisor<'_> {
    /// Nothing is written to a torrent's files while they are looked at.
    pub(super) fn stop_downloading(&mut self, info_hash: InfoHash) {
        let served = self.torrents.get(info_hash).and_then(|(_, torrent)| torrent);
        if served.is_some_and(|torrent| torrent.home().is_some()) {
            self.shards.remove(info_hash);
            self.downloads.remove(info_hash);
        }
    }

    pub(super) fn on_event(&mut self, event: Event) {
        let name = |info_hash| match self.torrents.get(info_hash) {
            Some((_, Some(torrent))) => torrent.meta().name.clone(),
            _ => String::new(),
        };
        match event {
            Event::Asked(info_hash) => self.on_asked(info_hash),
            Event::Wanted(info_hash) => self.downloads.on_wanted(info_hash),
            Event::Written {
                info_hash,
                have,
                files,
                complete,
            } => self.downloads.on_written(info_hash, have, (files, complete)),
            Event::Stalled { info_hash, why } => {
                self.lines.warn(
                    "downloads that wait for their disk",
                    format_args!(
                        "downloading {:?} ({info_hash}) waits for its disk: {why}",
                        name(info_hash)
                    ),
                );
                self.explain_download(info_hash, Some(format!("it waits for its disk: {why}")));
            }
            Event::Gone { info_hash, why } => self.doubt(info_hash, &why),
            Event::Resumed(info_hash) => {
                self.lines.info(
                    "downloads that go on",
                    format_args!("downloading {:?} ({info_hash}) goes on", name(info_hash)),
                );
                self.explain_download(info_hash, None);
            }
            Event::Banned { info_hash, peer } => {
                self.lines.warn(
                    "peers that have sent wrong bytes",
                    format_args!(
                        "{peer} has sent wrong bytes of {:?} ({info_hash}) and is shut out",
                        name(info_hash)
                    ),
                );
            }
            Event::Unreachable { info_hash, addr } => {
                self.announcer.unreachable(info_hash, addr);
                let folder = self.torrents.get(info_hash).map(|(folder, _)| folder);
                if let Some(folder) =
                    folder.filter(|folder| self.peers.get(folder).is_some_and(|at| at.contains(&addr)))
                {
                    self.folders.on_unreachable(folder);
                }
            }
        }
    }

    pub(super) fn on_disk_done(&mut self, done: downloads::Done) {
        let torrent = Arc::clone(done.torrent());
        let (info_hash, name) = (torrent.info_hash(), &torrent.meta().name);
        for outcome in self.downloads.on_done(done, Instant::now()) {
            match outcome {
                downloads::Outcome::Prepared(notices) => {
                    // What is written from now on has to be found again.
                    self.data_folders.places.bind(torrent.root().path(), torrent.root());
                    for notice in notices {
                        self.lines.warn(
                            "notices of files that are made",
                            format_args!("{name:?} ({info_hash}): {notice}"),
                        );
                    }
                    // What was missing at the check is there now.
                    self.explain_download(info_hash, None);
                    self.shards
                        .tell_home(info_hash, Command::Prepared { info_hash, made: true });
                }
                downloads::Outcome::NotPrepared(error) => {
                    self.lines.warn(
                        "downloads whose files cannot be made",
                        format_args!("cannot download {name:?} ({info_hash}): {error} (tried again in a minute)"),
                    );
                    self.explain_download(info_hash, Some(format!("its files cannot be made: {error}")));
                    self.shards
                        .tell_home(info_hash, Command::Prepared { info_hash, made: false });
                }
                downloads::Outcome::NotRecorded { why, is_first } => {
                    // Where one has to wait, all do that begin.
                    if is_first {
                        tracing::warn!(
                            "downloading {name:?} ({info_hash}) waits until it can be recorded that its files are btd's: {why} \
                             (nothing is written to them before, and it goes on by itself; others that wait for the same are not \
                             told one by one: `btd ctl show` says so of each)"
                        );
                    }
                    self.explain_download(info_hash, Some(format!("it waits until it can be recorded: {why}")));
                }
                downloads::Outcome::Failed(why) => {
                    self.lines.warn(
                        "downloads whose files cannot be kept",
                        format_args!("{name:?} ({info_hash}): {why} (tried again in a minute)"),
                    );
                }
                downloads::Outcome::Doubtful(why) => self.doubt(info_hash, &why),
                downloads::Outcome::Unjudged(why) => self.look_once_more(info_hash, &why),
                downloads::Outcome::Complete(stamps) => {
                    torrent.set_complete();
                    // Of what was there before nobody may have read all.
                    if torrent.unread_count() > 0 {
                        self.unread.add(&torrent, downloads::record(&torrent, stamps));
                    }
                    self.announcer.completed(info_hash);
                    if self.torrents.on_complete(info_hash) {
                        let len = display_size(torrent.geometry().total_len());
                        self.lines.info(
                            "torrents complete",
                            format_args!("{name:?} ({info_hash}) is complete: {len}, on the disk under its final name"),
                        );
                        self.look_at_goals(info_hash);
                    }
                    self.publish_counts();
                }
            }
        }
    }

    /// Why a download does not go on, or that nothing keeps it from that. What is paused, or waits for its folder, has other reasons.
    fn explain_download(&mut self, info_hash: InfoHash, why: Option<String>) {
        let state = self.torrents.entry(info_hash).map(|entry| &entry.state);
        if matches!(state, Some(State::Downloading)) {
            self.torrents.give_reason(info_hash, why);
        }
    }

    /// Nobody knows what of a download is on the disk: it stops, and is checked in a minute.
    fn doubt(&mut self, info_hash: InfoHash, why: &str) {
        let Some((_, Some(torrent))) = self.torrents.get(info_hash) else {
            return;
        };
        let torrent = Arc::clone(torrent);
        let mut doubtful = self.doubtful.iter_mut();
        if let Some(doubtful) = doubtful.find(|doubtful| Arc::ptr_eq(&doubtful.torrent, &torrent)) {
            // A thread and a shard may find out the same, or it was to be looked at for less.
            doubtful.trust = false;
            self.session.remove(info_hash);
            return;
        }
        let name = &torrent.meta().name;
        self.lines.error(
            "downloads that stop",
            format_args!("downloading {name:?} ({info_hash}) stops: {why} (its files are checked again in a minute)"),
        );
        self.stop_downloading(info_hash);
        // What is recorded is what was on the disk before this. What was lost then, nobody can tell.
        self.session.remove(info_hash);
        self.doubtful.push(Doubtful {
            torrent,
            at: Instant::now() + DOUBT_FOR,
            trust: false,
            is_unknown: false,
        });
    }

    /// The disk has not taken what there is of a torrent, or with `is_unknown` the session cannot be read: it is checked in a while, if
    /// nobody has looked at it by then. What is known was taken; that somebody wants all of it read, or had anew, `trust` says.
    pub(super) fn look_later(&mut self, torrent: &Arc<Torrent>, trust: bool, is_unknown: bool) {
        self.doubtful.push(Doubtful {
            torrent: Arc::clone(torrent),
            at: Instant::now() + DOUBT_FOR,
            trust,
            is_unknown,
        });
    }

    /// Something is in the place of a download's files that nobody has looked at: it stops, and is checked soon. What is known of
    /// the other files holds.
    fn look_once_more(&mut self, info_hash: InfoHash, why: &str) {
        let Some((_, Some(torrent))) = self.torrents.get(info_hash) else {
            return;
        };
        let torrent = Arc::clone(torrent);
        let name = &torrent.meta().name;
        self.lines.warn(
            "downloads that stop for something strange",
            format_args!(
                "downloading {name:?} ({info_hash}) stops: {why} (its files are checked again in {} s)",
                STRANGE_FOR.as_secs()
            ),
        );
        self.stop_downloading(info_hash);
        self.doubtful.push(Doubtful {
            torrent,
            at: Instant::now() + STRANGE_FOR,
            trust: true,
            is_unknown: false,
        });
    }

    /// Checks what became doubtful a while ago.
    pub(super) fn check_doubtful(&mut self, now: Instant) {
        let session = &self.session;
        for Doubtful { torrent, trust, .. } in due(&mut self.doubtful, now, || session.is_readable()) {
            let info_hash = torrent.info_hash();
            let progress = Arc::new(Progress::new(torrent.geometry().total_len()));
            // Unless it has left, or been looked at, meanwhile.
            let is_same = |served: Option<&Arc<Torrent>>| served.is_some_and(|served| Arc::ptr_eq(served, &torrent));
            let Some((folder, served)) = self.torrents.get(info_hash) else {
                continue;
            };
            if is_same(served)
                && let Some(generation) = self.torrents.check_anew(info_hash, &progress)
            {
                let meta = torrent.shared_meta();
                self.check(folder, generation, (info_hash, meta.into()), trust, progress);
            }
        }
    }

    /// The configuration's peers of a folder have these addresses.
    pub(super) fn on_resolved(&mut self, of: Of, addrs: Vec<SocketAddr>) {
        // It was on its way when a reload closed the folder, or took these peers from it.
        if !self.folders.is_planned(of) {
            return;
        }
        let (folder, _) = of;
        self.peers.insert(folder, addrs);
        let torrents: Vec<Arc<Torrent>> = self.downloads.torrents().cloned().collect();
        torrents.iter().for_each(|torrent| self.tell_peers(torrent));
    }

    /// The peers that the configuration has named for a folder are no longer looked for: it names others, or none.
    pub(super) fn forget_peers(&mut self, folder: usize) {
        let Some(addrs) = self.peers.remove(&folder) else {
            return;
        };
        let torrents = self.downloads.torrents().map(|torrent| torrent.info_hash());
        for info_hash in torrents.collect::<Vec<_>>() {
            if self.torrents.get(info_hash).is_some_and(|(of, _)| of == folder) {
                let addrs = addrs.clone();
                self.shards.tell_home(info_hash, Command::Forget { info_hash, addrs });
            }
        }
    }

    /// Peers of a torrent may be at these addresses, says a tracker.
    pub(super) fn on_peers_found(&mut self, found: Found) {
        let Found {
            info_hash,
            addrs,
            named,
        } = found;
        let served = self.torrents.get(info_hash).and_then(|(_, served)| served);
        if served.is_some_and(|torrent| torrent.home().is_some()) {
            let peers = Command::Peers {
                info_hash,
                addrs,
                named,
            };
            self.shards.tell_home(info_hash, peers);
        }
    }

    /// Tells the home of a torrent that is being downloaded whom to connect to.
    pub(super) fn tell_peers(&mut self, torrent: &Torrent) {
        let info_hash = torrent.info_hash();
        if torrent.home().is_some()
            && let Some((folder, _)) = self.torrents.get(info_hash)
            && let Some(addrs) = self.peers.get(&folder).cloned()
        {
            let peers = Command::Peers {
                info_hash,
                addrs,
                named: true,
            };
            self.shards.tell_home(info_hash, peers);
        }
    }
}

/// Looks the names of peers up, over and over: behind a name there may be another address next time. At once when it is told
/// that somebody is `unreachable`, by answers that are not too old for that.
pub(super) async fn resolve(
    folder: Of,
    peers: Vec<String>,
    resolver: Arc<Resolver>,
    unreachable: Arc<Notify>,
    found: Resolved,
) {
    let mut told = Vec::new();
    let peers: Arc<[String]> = peers.into();
    let mut due = tokio::time::interval(RESOLVE_EVERY);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let age = tokio::select! {
            _ = due.tick() => RESOLVE_EVERY,
            () = unreachable.notified() => UNREACHABLE_AGE,
        };
        // A name that nobody answers for takes ten seconds. At first each is told as soon as it is known; later none is to be
        // missing in between.
        let is_first = told.is_empty();
        let mut by_name = vec![Vec::new(); peers.len()];
        let (tell, mut heard) = mpsc::unbounded_channel();
        let next = Arc::new(AtomicUsize::new(0));
        let _lookers: JoinSet<()> = (0..TOGETHER_MAX.min(peers.len()))
            .map(|_| {
                let (peers, next) = (Arc::clone(&peers), Arc::clone(&next));
                look_up_each(peers, next, Arc::clone(&resolver), age, tell.clone())
            })
            .collect();
        drop(tell);
        loop {
            let one = heard.recv().await;
            let is_last = one.is_none();
            if let Some((index, addrs)) = one {
                by_name[index] = addrs;
            }
            let addrs: Vec<SocketAddr> = by_name.iter().flatten().copied().collect();
            if (is_last || is_first) && addrs != told {
                told.clone_from(&addrs);
                if found.send((folder, addrs)).is_err() {
                    return;
                }
            }
            if is_last {
                break;
            }
        }
        if age == UNREACHABLE_AGE {
            // Whoever is told of meanwhile is looked up then: thousands of torrents may have the same peers.
            tokio::time::sleep(UNREACHABLE_AGE).await;
        }
    }
}

/// Takes those that are to be checked now. Of those that wait for the session, peers are not dropped for a look that leads to nothing:
/// they wait on if it cannot be read.
fn due(doubtful: &mut Vec<Doubtful>, now: Instant, is_readable: impl Fn() -> bool) -> Vec<Doubtful> {
    let (mut due, mut later): (Vec<_>, Vec<_>) = std::mem::take(doubtful)
        .into_iter()
        .partition(|doubtful| doubtful.at <= now);
    if due.iter().any(|doubtful| doubtful.is_unknown) && !is_readable() {
        let (mut waiting, ready): (Vec<_>, Vec<_>) = due.into_iter().partition(|doubtful| doubtful.is_unknown);
        waiting.iter_mut().for_each(|doubtful| doubtful.at = now + UNREAD_FOR);
        later.append(&mut waiting);
        due = ready;
    }
    *doubtful = later;
    due
}

/// Looks up one name after the other, from where `next` says, and tells what each has led to, by its place.
async fn look_up_each(
    peers: Arc<[String]>,
    next: Arc<AtomicUsize>,
    resolver: Arc<Resolver>,
    age: Duration,
    tell: mpsc::UnboundedSender<(usize, Vec<SocketAddr>)>,
) {
    loop {
        let index = next.fetch_add(1, Relaxed);
        let Some(peer) = peers.get(index) else { return };
        // The configuration was read, so that each has a name and a port.
        let Some((name, port)) = peer.rsplit_once(':') else {
            continue;
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().unwrap_or(0);
        let addrs = match resolver.addresses_since(name, age).await {
            Ok(ips) => ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
            Err(error) => {
                if age == RESOLVE_EVERY {
                    tracing::warn!("cannot look up the peer {name:?}: {error} (tried again in a minute)");
                } else {
                    tracing::debug!("cannot look up the peer {name:?}: {error}");
                }
                Vec::new()
            }
        };
        // Nobody listens when the folder was closed.
        let _ = tell.send((index, addrs));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::bitfield::Bitfield;
    use crate::proto::metainfo::Metainfo;
    use crate::storage::Root;

    /// They were looked at once a minute, and lost their peers each time.
    #[test]
    fn torrents_that_wait_for_the_session_are_not_looked_at_while_it_cannot_be_read() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let meta = Metainfo::parse(&crate::control::watch::testing::torrent("x")).expect("a torrent");
        let root = Arc::new(Root::open(temp.path()).expect("opened"));
        let torrent = Torrent::new(meta, root, &Bitfield::full(1), &[None]);
        let start = Instant::now();
        let doubtful = |is_unknown: bool, seconds| Doubtful {
            torrent: Arc::clone(&torrent),
            at: start + Duration::from_secs(seconds),
            trust: !is_unknown,
            is_unknown,
        };
        let mut all = vec![doubtful(true, 0), doubtful(false, 0), doubtful(false, 60)];
        let taken = due(&mut all, start, || false);
        assert!(taken.len() == 1 && taken[0].trust && all.len() == 2);
        let never = || panic!("not asked each time");
        assert!(due(&mut all, start, never).is_empty());
        let taken = due(&mut all, start + UNREAD_FOR, || true);
        assert!(taken.len() == 1 && taken[0].is_unknown && !taken[0].trust);
        assert_eq!(all.len(), 1);
    }
}
