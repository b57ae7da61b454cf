//! The task that has the schedule: takes orders, sends what is due, and hears what came of it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::{AbortHandle, JoinSet};

use super::http::Http;
use super::known::Loaded;
use super::names::{ByName, Named};
use super::tell::Teller;
use super::udp::Udp;
use super::{Found, Lists, Order};
use crate::announcer::schedule::{CallId, Swarms};
use crate::announcer::url::Scheme;
use crate::announcer::{
    Answer, Call, Event, Failure, Kept, Request, Rule, Schedule, ScrapeCall, Swarm, TrackerUrl, redacted,
    redacted_failure,
};
use crate::control::blocking;
use crate::control::config::Announce;
use crate::control::history::note_announced;
use crate::control::resolver::Resolver;
use crate::proto::{InfoHash, PeerId};
use crate::session::Store;
use crate::shard::Torrent;

/// A download that has as many connections asks for no more peers.
const PEERS_WANTED: u32 = 100;
/// A swarm may have grown since it was counted: to twice as many peers and some more.
const SWARM_MORE: u32 = 20;
/// How often what has changed of what is kept over a restart is written.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// How often metrics are brought up to date.
const TICK: Duration = Duration::from_secs(5);
/// How often names of peers are asked for again while their torrent is downloaded: behind one that cannot be connected to
/// there may be another address by then. The resolver remembers for longer, so that most of these cost nothing.
const NAMES_EVERY: Duration = Duration::from_secs(10);
/// How long what a torrent has moved is known after it has left, for the last announce.
const LEAVING_FOR: Duration = Duration::from_secs(300);
/// How long the torrent itself is held on to then: shards may still add what they have moved last. It keeps its data folder
/// open, whose disk somebody may want to unmount.
const LET_GO_AFTER: Duration = Duration::from_secs(2);

/// A scrape, and what came of it.
type Scraped = (ScrapeCall, Result<Vec<Option<Swarm>>, Failure>);

/// A torrent that is announced.
#[derive(Debug)]
pub(super) struct Entry {
    /// `None` while it rests: then it is whole.
    pub(super) torrent: Option<Arc<Torrent>>,
    /// For messages.
    pub(super) name: Arc<str>,
    /// Nobody but its own trackers may hear of it.
    pub(super) private: bool,
    /// What was moved before `torrent`, which is a new one after each check and each rest, up and down; `None` if nothing was.
    before: Option<Box<(u64, u64)>>,
    /// Peers that its trackers have told of by name.
    pub(super) by_name: Option<Box<ByName>>,
}

impl Entry {
    /// All that was moved, up and down.
    fn moved(&self) -> (u64, u64) {
        let torrent = self.torrent.as_ref();
        let (up, down) = torrent.map_or((0, 0), |torrent| (torrent.uploaded(), torrent.downloaded()));
        let before = self.before.as_deref().copied().unwrap_or_default();
        (before.0 + up, before.1 + down)
    }

    /// What is moved from now on is told of another torrent, or none.
    fn set(&mut self, torrent: Option<Arc<Torrent>>) {
        let moved = self.moved();
        self.before = (moved != (0, 0)).then(|| Box::new(moved));
        self.torrent = torrent;
    }
}

/// A torrent that has left, of which trackers may still have to be told.
pub(super) struct Leaving {
    entry: Entry,
    since: Instant,
    /// Bytes that were missing, once the torrent itself was let go of.
    left: u64,
}

impl Leaving {
    pub(super) fn new(entry: Entry, since: Instant) -> Self {
        let left = 0;
        Self { entry, since, left }
    }

    /// Time has passed. Whether it is still to be known.
    fn is_known(&mut self, now: Instant) -> bool {
        if now >= self.since + LET_GO_AFTER && self.entry.torrent.is_some() {
            self.left = self.left();
            self.entry.set(None);
        }
        now < self.since + LEAVING_FOR
    }

    fn left(&self) -> u64 {
        let torrent = self.entry.torrent.as_ref();
        torrent.map_or(self.left, |torrent| torrent.left())
    }
}

pub(super) struct Task {
    pub(super) plan: Announce,
    pub(super) rule: Rule,
    pub(super) peer_id: PeerId,
    pub(super) listened: u16,
    pub(super) secret: u64,
    pub(super) schedule: Schedule,
    pub(super) torrents: HashMap<InfoHash, Entry>,
    /// Those that have left.
    pub(super) leaving: HashMap<InfoHash, Leaving>,
    /// All are to leave. Threads that wait for the session ask it.
    pub(super) is_stopping: Arc<AtomicBool>,
    pub(super) http: Http,
    pub(super) udp: Udp,
    pub(super) resolver: Arc<Resolver>,
    pub(super) of_trackers: Arc<Resolver>,
    pub(super) session: Arc<Store>,
    pub(super) calls: JoinSet<(Call, Result<Answer, Failure>)>,
    pub(super) scrapes: JoinSet<Scraped>,
    /// Ends a call before its time.
    pub(super) handles: HashMap<CallId, AbortHandle>,
    /// When all are to leave: what is kept of those of their trackers that fail.
    pub(super) failed: HashMap<InfoHash, Vec<(Arc<TrackerUrl>, Kept)>>,
    /// Torrents of which nothing was loaded yet.
    pub(super) fresh: HashMap<InfoHash, Option<Box<Lists>>>,
    pub(super) loads: JoinSet<Loaded>,
    pub(super) lookups: JoinSet<(InfoHash, Vec<Named>)>,
    pub(super) teller: Teller,
    pub(super) orders: UnboundedReceiver<Order>,
    pub(super) found: UnboundedSender<Found>,
}

impl Task {
    pub(super) async fn run(mut self) {
        let interval = |every| {
            let mut interval = tokio::time::interval(every);
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            interval
        };
        let (mut keep, mut tick, mut names) = (interval(KEEP_EVERY), interval(TICK), interval(NAMES_EVERY));
        loop {
            let next = self.schedule.next_at();
            let next_call = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Serve(torrent, name)) => {
                        let (info_hash, private) = (torrent.info_hash(), torrent.meta().private);
                        self.serve(info_hash, Some(torrent), (name, private), None);
                    }
                    Some(Order::ServeResting(info_hash, name, lists)) => {
                        self.serve(info_hash, None, (name, lists.private), Some(lists));
                    }
                    Some(Order::Wake(torrent)) => self.wake(torrent),
                    Some(Order::Rest(info_hash)) => self.rest(info_hash),
                    Some(Order::Completed(info_hash)) => self.schedule.completed(info_hash, Instant::now()),
                    Some(Order::Remove(info_hash)) => self.remove(info_hash),
                    // Whoever asks may have gone.
                    Some(Order::Reannounce(info_hash, answer)) => {
                        let _ = answer.send(self.schedule.reannounce(info_hash, Instant::now()));
                    }
                    Some(Order::Status(info_hash, answer)) => {
                        let _ = answer.send(self.schedule.status(info_hash, Instant::now()));
                    }
                    Some(Order::Unreachable(info_hash, addr)) => self.on_unreachable(info_hash, addr),
                    Some(Order::Plan(plan)) => self.take_over(*plan),
                    Some(Order::Back(all)) => {
                        if all {
                            self.http.renew();
                        }
                        self.of_trackers.forget_failures();
                        self.schedule.network_is_back(all, Instant::now());
                    }
                    Some(Order::Stop(deadline, done)) => {
                        self.stop(deadline).await;
                        self.teller.end();
                        let _ = done.send(()); // It has waited long enough.
                        return;
                    }
                    None => return,
                },
                Some(Ok((call, result))) = self.calls.join_next() => self.on_done(&call, result),
                Some(Ok(scraped)) = self.scrapes.join_next() => self.on_scraped(&scraped),
                Some(loaded) = self.loads.join_next() => self.on_loaded(loaded.unwrap_or_default()),
                Some(Ok((info_hash, led))) = self.lookups.join_next() => self.on_looked_up(info_hash, led),
                () = next_call => {}
                _ = keep.tick() => self.keep(),
                _ = names.tick() => self.look_up_names(),
                _ = tick.tick() => self.on_tick(),
            }
            self.load();
            self.send();
            self.scrape();
        }
    }

    fn serve(
        &mut self,
        info_hash: InfoHash,
        torrent: Option<Arc<Torrent>>,
        (name, private): (Arc<str>, bool),
        lists: Option<Box<Lists>>,
    ) {
        let mut entry = Entry {
            torrent,
            name,
            private,
            before: None,
            by_name: None,
        };
        if let Some(mut before) = self.torrents.remove(&info_hash) {
            // To trackers it is the same one.
            before.set(None);
            (entry.before, entry.by_name) = (before.before, before.by_name);
        }
        self.torrents.insert(info_hash, entry);
        self.fresh.insert(info_hash, lists);
    }

    fn wake(&mut self, torrent: Arc<Torrent>) {
        if let Some(entry) = self.torrents.get_mut(&torrent.info_hash()) {
            entry.set(Some(torrent));
        }
    }

    fn rest(&mut self, info_hash: InfoHash) {
        // It may not have been looked at yet.
        if let Some(None) = self.fresh.get(&info_hash) {
            let lists = self.lists_of(info_hash);
            self.fresh.insert(info_hash, lists);
        }
        if let Some(entry) = self.torrents.get_mut(&info_hash) {
            entry.set(None);
        }
    }

    fn take_over(&mut self, plan: Announce) {
        if plan.trackers != self.plan.trackers {
            // As if they had just come: those lists that stay the same go on as they are.
            for info_hash in self.torrents.keys() {
                self.fresh.entry(*info_hash).or_default();
            }
        }
        self.plan = plan;
    }

    fn remove(&mut self, info_hash: InfoHash) {
        self.fresh.remove(&info_hash);
        if let Some(entry) = self.torrents.remove(&info_hash) {
            let now = Instant::now();
            self.schedule.remove(info_hash, now);
            self.session.put_announced(info_hash, &[]);
            self.leaving.insert(info_hash, Leaving::new(entry, now));
        }
    }

    /// Sends what is due.
    pub(super) fn send(&mut self) {
        while let Some(call) = self.schedule.poll(Instant::now()) {
            let request = self.request(&call);
            let (http, udp) = (self.http.clone(), self.udp.clone());
            tracing::debug!("announcing {} to {}: {:?}", call.info_hash, call.url, call.event);
            if self.is_stopping.load(Relaxed) && call.event == Event::Stopped {
                // Answered or not (its own tracker ends with this btd): the next start does not take it that we are known.
                self.keep_failed(call.info_hash);
            }
            let id = call.id;
            let handle = self.calls.spawn(async move {
                let result = match call.url.scheme() {
                    Scheme::Http | Scheme::Https => http.announce(&call.url, &request).await,
                    Scheme::Udp => udp.announce(&call.url, &request).await,
                };
                let result = redacted(&call.url, result);
                (call, result)
            });
            self.handles.insert(id, handle);
        }
        ::metrics::gauge!("btd_announces_in_flight").set(self.schedule.in_flight() as f64);
    }

    /// Sends the scrapes that are due.
    fn scrape(&mut self) {
        while let Some(call) = self.schedule.poll_scrape(Instant::now()) {
            let (http, udp) = (self.http.clone(), self.udp.clone());
            tracing::debug!("scraping {} torrents of {}", call.hashes.len(), call.url);
            self.scrapes.spawn(async move {
                let result = match call.url.scheme() {
                    Scheme::Http | Scheme::Https => http.scrape(&call.url, &call.hashes).await,
                    Scheme::Udp => udp.scrape(&call.url, &call.hashes).await,
                };
                let result = result.map_err(|failure| redacted_failure(&call.url, failure));
                (call, result)
            });
        }
    }

    fn on_scraped(&mut self, (call, result): &Scraped) {
        let kind = result.as_ref().map_or_else(Failure::kind, |_| "ok");
        ::metrics::counter!("btd_scrapes_total", "result" => kind).increment(1);
        // Nobody has to act on it: the sizes of swarms are a help and no need.
        if let Err(failure) = result {
            tracing::debug!("cannot scrape {}: {failure}", call.url);
        }
        self.schedule.on_scraped(call, result.as_deref(), Instant::now());
    }

    fn request(&self, call: &Call) -> Request {
        let info_hash = call.info_hash;
        let leaving = self.leaving.get(&info_hash);
        let here = self.torrents.get(&info_hash);
        let entry = here.or_else(|| leaving.map(|leaving| &leaving.entry));
        let (uploaded, downloaded, left, numwant) = entry.map_or((0, 0, 0, 0), |entry| {
            let torrent = entry.torrent.as_ref();
            let wanted = match torrent.filter(|torrent| torrent.home().is_some()) {
                Some(torrent) if call.event != Event::Stopped => wanted(torrent.connections(), call.swarm),
                _ => 0,
            };
            let (uploaded, downloaded) = entry.moved();
            let gone = leaving.filter(|_| here.is_none());
            let left = gone.map_or_else(|| torrent.map_or(0, |torrent| torrent.left()), Leaving::left);
            (uploaded, downloaded, left, wanted)
        });
        Request {
            info_hash,
            peer_id: self.peer_id,
            port: match self.plan.port {
                0 => self.listened,
                port => port,
            },
            uploaded,
            downloaded,
            left,
            event: call.event,
            numwant,
            key: key_of(self.secret, info_hash),
            ip: self.plan.ip,
            hostname: self.plan.hostname.clone().map(String::into_boxed_str),
            tracker_id: call.tracker_id.clone(),
        }
    }

    pub(super) fn on_done(&mut self, call: &Call, result: Result<Answer, Failure>) {
        self.handles.remove(&call.id);
        let kind = result.as_ref().map_or_else(Failure::kind, |_| "ok");
        ::metrics::counter!("btd_announces_total", "result" => kind).increment(1);
        let Some(outcome) = self.schedule.on_answer(call, result.as_ref(), Instant::now()) else {
            return;
        };
        let info_hash = outcome.info_hash;
        // One that has come again meanwhile is kept as it is now.
        if outcome.stopped_told && !self.torrents.contains_key(&info_hash) {
            if let Some(failed) = self.failed.get_mut(&info_hash) {
                failed.retain(|(url, _)| *url != outcome.url); // It is back.
            }
            self.keep_failed(info_hash);
        }
        if outcome.completed_told {
            let session = Arc::clone(&self.session);
            // It reads before it writes.
            let noted = blocking::run("btd-announce", move || note_announced(&session, info_hash));
            tokio::task::spawn_local(noted);
        }
        let Some(entry) = self.torrents.get_mut(&info_hash).filter(|_| outcome.stays) else {
            return;
        };
        if let Some(news) = &outcome.news {
            self.teller.tell(&entry.name, &outcome, news);
        }
        let Ok(answer) = result else { return };
        if entry.torrent.as_ref().and_then(|torrent| torrent.home()).is_none() {
            return; // Whoever lacks something connects to us.
        }
        let addrs: Vec<SocketAddr> = answer
            .peers
            .into_iter()
            .filter(|addr| self.rule.permits(addr.ip()))
            .collect();
        if !addrs.is_empty() {
            let _ = self.found.send(Found {
                info_hash,
                addrs,
                named: false,
            }); // Nobody listens when btd is stopping.
        }
        if !answer.names.is_empty() {
            entry.by_name.get_or_insert_default().names = answer.names;
            self.look_up(info_hash, None, false);
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.teller.on_tick(now);
        self.leaving.retain(|_, leaving| leaving.is_known(now));
        ::metrics::gauge!("btd_announces_overdue").set(self.schedule.overdue(now) as f64);
        let Swarms {
            known,
            seeders,
            leechers,
        } = self.schedule.swarms();
        ::metrics::gauge!("btd_swarms_known").set(known as f64);
        for (kind, count) in [("seeder", seeders), ("leecher", leechers)] {
            ::metrics::gauge!("btd_swarm_peers", "kind" => kind).set(count as f64);
        }
    }
}

/// How many peers a download with so many connections asks for, in a swarm of which the tracker has said how large it is.
fn wanted(connections: u32, swarm: Option<Swarm>) -> u32 {
    let need = PEERS_WANTED.saturating_sub(connections);
    swarm.map_or(need, |swarm| {
        need.min(swarm.peers().saturating_mul(2).saturating_add(SWARM_MORE))
    })
}

/// What a tracker tells us by should our address change: another for each torrent and each run.
fn key_of(secret: u64, info_hash: InfoHash) -> u32 {
    let InfoHash([a, b, c, d, e, f, g, h, ..]) = info_hash;
    let mixed = (secret ^ u64::from_be_bytes([a, b, c, d, e, f, g, h])).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torrent_that_has_left_keeps_its_folder_open_for_a_moment_only_and_what_it_has_moved_is_still_told() {
        use crate::proto::bitfield::Bitfield;
        use crate::proto::metainfo::Metainfo;
        let temp = tempfile::tempdir().expect("a temporary folder");
        let root = Arc::new(crate::storage::Root::open(temp.path()).expect("opened"));
        let meta = Metainfo::parse(&crate::control::watch::testing::torrent("x")).expect("a torrent");
        let torrent = Torrent::new(meta, Arc::clone(&root), &Bitfield::new(1), &[None]);
        let total = torrent.geometry().total_len();
        let entry = Entry {
            name: "x".into(),
            private: false,
            before: None,
            by_name: None,
            torrent: Some(Arc::clone(&torrent)),
        };
        let now = Instant::now();
        let mut leaving = Leaving::new(entry, now);
        // Shards tell a moment later.
        torrent.count_uploaded(5);
        assert!(leaving.is_known(now + LET_GO_AFTER));
        assert_eq!((leaving.entry.moved(), leaving.left()), ((5, 0), total));
        drop(torrent);
        assert_eq!(Arc::strong_count(&root), 1, "nobody has the folder open");
        assert!(leaving.is_known(now + LEAVING_FOR / 2) && !leaving.is_known(now + LEAVING_FOR));
    }

    #[test]
    fn no_more_peers_are_asked_for_than_are_needed_and_there_may_be() {
        let swarm = |seeders, leechers| Some(Swarm { seeders, leechers });
        for (connections, swarm, expected) in [
            (0, None, 100),
            (70, None, 30),
            (100, None, 0),
            (500, None, 0),
            (0, swarm(1, 0), 22),
            (90, swarm(1, 0), 10),
            (0, swarm(30, 10), 100),
            (0, swarm(u32::MAX, u32::MAX), 100),
        ] {
            assert_eq!(wanted(connections, swarm), expected, "{connections} {swarm:?}");
        }
    }
}
