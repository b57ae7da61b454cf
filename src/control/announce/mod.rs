//! Announces torrents to their trackers: does what [`crate::announcer::schedule`] says is to be done.
//!
//! One task on the control plane's thread has the schedule; each announce is a task of its own, over [`http`] or by
//! [`udp`]. What has to wait for a disk (what is kept over restarts) is done on threads. The supervisor tells which
//! torrents there are and hears where their peers are, by two queues; it never waits for a tracker.
//!
//! Whatever trackers and torrent files say, nothing is sent to addresses that `allow-private` does not allow: see
//! [`connect`].

mod connect;
mod http;
mod tell;
mod udp;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use super::blocking;
use super::config::Announce;
use super::history::note_announced;
use super::resolver::Resolver;
use crate::announcer::schedule::{CallId, Status};
use crate::announcer::url::Scheme;
use crate::announcer::{Answer, Call, Event, Failure, Kept, Request, Rule, Schedule, TrackerUrl, redacted};
use crate::proto::metainfo::Metainfo;
use crate::proto::{InfoHash, PeerId};
use crate::session::{Announced, Store};
use crate::shard::Torrent;
use http::Http;
pub(super) use http::SOCKETS_MAX;
use tell::Teller;
use udp::Udp;

/// A download that has as many connections asks for no more peers.
const PEERS_WANTED: u32 = 100;
/// How often what is kept over a restart is written: after `kill -9` what was announced since is announced again.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// How often metrics are brought up to date.
const TICK: Duration = Duration::from_secs(5);
/// How often names of peers are asked for again while their torrent is downloaded: behind one that cannot be connected to
/// there may be another address by then. The resolver remembers for longer, so that most of these cost nothing.
const NAMES_EVERY: Duration = Duration::from_secs(10);
/// The age from which an answer is asked for anew when nothing has come since the last time.
const IDLE_AGE: Duration = Duration::from_secs(5);
/// How long after the stop a tracker of which nothing has been heard may still answer: it may have us in its list.
const GRACE: Duration = Duration::from_secs(1);
/// How long what a torrent has moved is known after it has left, for the last announce.
const LEAVING_FOR: Duration = Duration::from_secs(300);

/// The lists of trackers that a torrent may have.
const OWN: u8 = 0;
const CONFIGURED: u8 = 1;

/// Where peers are listened for, because trackers take the address of a request for that of the peer: over a family that
/// is not listened on they would hand out an address where nobody is.
#[derive(Clone, Debug)]
pub(super) struct Sources(Vec<IpAddr>);

impl Sources {
    /// From where peers connect to.
    pub(super) fn new(listen: &[SocketAddr]) -> Self {
        Self(listen.iter().map(SocketAddr::ip).collect())
    }

    /// The address to ask from, if only one of this family is listened on.
    fn of(&self, to: IpAddr) -> Option<IpAddr> {
        let mut of_family = self.0.iter().copied().filter(|ip| ip.is_ipv4() == to.is_ipv4());
        match of_family.clone().any(|ip| ip.is_unspecified()) {
            true => None,
            false => of_family.next(),
        }
    }

    /// Those of a tracker's addresses that are of a family that is listened on; all of them if none is, since a tracker
    /// tells peers all the same.
    fn choose(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        let is_heard = |to: &IpAddr| self.0.iter().any(|ip| ip.is_ipv4() == to.is_ipv4());
        let heard: Vec<IpAddr> = addresses.iter().copied().filter(is_heard).collect();
        if heard.is_empty() { addresses.to_vec() } else { heard }
    }
}

/// Peers of a torrent may be at these addresses.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) info_hash: InfoHash,
    pub(super) addrs: Vec<SocketAddr>,
}

#[derive(Debug)]
enum Order {
    Serve(Arc<Torrent>),
    Completed(InfoHash),
    Remove(InfoHash),
    Reannounce(InfoHash, oneshot::Sender<Option<Duration>>),
    Status(InfoHash, oneshot::Sender<Vec<Status>>),
    Stop(Instant, oneshot::Sender<()>),
}

/// The supervisor's end.
#[derive(Debug)]
pub(super) struct Announcer {
    plan: Announce,
    orders: UnboundedSender<Order>,
}

impl Announcer {
    /// Starts the task. Peers are told to `found`, their names looked up by `resolver`. `port` is where they connect to us, if the plan has no other.
    pub(super) fn start(
        plan: &Announce,
        (peer_id, port, sources): (PeerId, u16, Sources),
        session: &Arc<Store>,
        resolver: &Arc<Resolver>,
        found: UnboundedSender<Found>,
    ) -> Self {
        // Holds a few for each torrent at most.
        let (sender, orders) = unbounded_channel();
        if plan.enabled {
            let rule = Rule {
                allow_private: plan.allow_private,
            };
            let now = Instant::now();
            // Not that of peers, whose names are strangers'.
            let of_trackers = Resolver::new();
            let task = Task {
                http: Http::new(&of_trackers, rule, &sources),
                udp: Udp::new(&of_trackers, rule, &sources),
                resolver: Arc::clone(resolver),
                session: Arc::clone(session),
                schedule: Schedule::new(random(), now),
                torrents: HashMap::new(),
                leaving: HashMap::new(),
                is_stopping: false,
                calls: JoinSet::new(),
                handles: HashMap::new(),
                fresh: HashSet::new(),
                loads: JoinSet::new(),
                lookups: JoinSet::new(),
                teller: Teller::new(now),
                secret: random(),
                peer_id,
                port: if plan.port == 0 { port } else { plan.port },
                plan: plan.clone(),
                rule,
                orders,
                found,
            };
            tokio::task::spawn_local(task.run());
        }
        Self {
            plan: plan.clone(),
            orders: sender,
        }
    }

    /// Whether a torrent is announced to anybody, so that peers may be found.
    pub(super) fn announces(&self, meta: &Metainfo) -> bool {
        let has_own = || meta.announce.iter().flatten().any(|url| TrackerUrl::parse(url).is_ok());
        self.plan.enabled && (!meta.private && !self.plan.trackers.is_empty() || has_own())
    }

    /// A torrent is served or downloaded from now on.
    pub(super) fn serve(&self, torrent: &Arc<Torrent>) {
        self.order(Order::Serve(Arc::clone(torrent)));
    }

    /// Nothing is missing of a torrent any more.
    pub(super) fn completed(&self, info_hash: InfoHash) {
        self.order(Order::Completed(info_hash));
    }

    /// A torrent is neither served nor downloaded any more.
    pub(super) fn remove(&self, info_hash: InfoHash) {
        self.order(Order::Remove(info_hash));
    }

    /// Announces a torrent ahead of its time. Gives how long that has to be waited for, `None` if it is not announced.
    pub(super) fn reannounce(&self, info_hash: InfoHash) -> oneshot::Receiver<Option<Duration>> {
        let (answer, told) = oneshot::channel();
        self.order(Order::Reannounce(info_hash, answer));
        told
    }

    /// How a torrent does with its trackers; nothing if it is not announced.
    pub(super) fn status(&self, info_hash: InfoHash) -> oneshot::Receiver<Vec<Status>> {
        let (answer, told) = oneshot::channel();
        self.order(Order::Status(info_hash, answer));
        told
    }

    /// The trackers that a torrent has beside its own.
    pub(super) fn configured(&self, private: bool) -> &[TrackerUrl] {
        match private {
            true => &[],
            false => &self.plan.trackers,
        }
    }

    fn order(&self, order: Order) {
        // There is nobody when it is turned off.
        let _ = self.orders.send(order);
    }

    /// Tells all trackers that it was the last time, as far as that can be done in so much time.
    pub(super) async fn stop(self, time: Duration) {
        let (done, told) = oneshot::channel();
        self.order(Order::Stop(Instant::now() + time, done));
        let _ = tokio::time::timeout(time, told).await;
    }
}

/// A torrent that is announced.
#[derive(Debug)]
struct Entry {
    torrent: Arc<Torrent>,
    /// What was moved before `torrent`, which is a new one after each check.
    uploaded: u64,
    downloaded: u64,
    /// Peers by name and port, as a tracker gave them last.
    names: Vec<(Box<str>, u16)>,
    is_looking: bool,
    idle: Idle,
}

/// For how long nothing has come of a torrent, counted in the times that its names were asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Idle {
    downloaded: u64,
    times: u32,
}

impl Idle {
    /// Whether addresses may be wrong and it is time to ask anew: the first, second, fourth, eighth.. time that nothing has
    /// come. What has no peers for hours should not ask for them every few seconds.
    fn asks_anew(&mut self, downloaded: u64) -> bool {
        self.times = match downloaded == self.downloaded {
            true => self.times.saturating_add(1),
            false => 0,
        };
        self.downloaded = downloaded;
        self.times.is_power_of_two()
    }
}

/// What a thread has found out about torrents: what was kept, and whether `completed` is to be told.
type Loaded = Vec<(InfoHash, Vec<Kept>, bool)>;

struct Task {
    plan: Announce,
    rule: Rule,
    peer_id: PeerId,
    port: u16,
    secret: u64,
    schedule: Schedule,
    torrents: HashMap<InfoHash, Entry>,
    /// Those that have left, and when.
    leaving: HashMap<InfoHash, (Entry, Instant)>,
    /// All are to leave.
    is_stopping: bool,
    http: Http,
    udp: Udp,
    resolver: Arc<Resolver>,
    session: Arc<Store>,
    calls: JoinSet<(Call, Result<Answer, Failure>)>,
    /// Ends a call before its time.
    handles: HashMap<CallId, AbortHandle>,
    /// Torrents of which nothing was loaded yet.
    fresh: HashSet<InfoHash>,
    loads: JoinSet<Loaded>,
    lookups: JoinSet<InfoHash>,
    teller: Teller,
    orders: UnboundedReceiver<Order>,
    found: UnboundedSender<Found>,
}

impl Task {
    async fn run(mut self) {
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
                    Some(Order::Serve(torrent)) => self.serve(torrent),
                    Some(Order::Completed(info_hash)) => self.schedule.completed(info_hash, Instant::now()),
                    Some(Order::Remove(info_hash)) => self.remove(info_hash),
                    // Whoever asks may have gone.
                    Some(Order::Reannounce(info_hash, answer)) => {
                        let _ = answer.send(self.schedule.reannounce(info_hash, Instant::now()));
                    }
                    Some(Order::Status(info_hash, answer)) => {
                        let _ = answer.send(self.schedule.status(info_hash));
                    }
                    Some(Order::Stop(deadline, done)) => {
                        self.stop(deadline).await;
                        let _ = done.send(()); // It has waited long enough.
                        return;
                    }
                    None => return,
                },
                Some(Ok((call, result))) = self.calls.join_next() => self.on_done(&call, result),
                Some(loaded) = self.loads.join_next() => self.on_loaded(loaded.unwrap_or_default()),
                Some(Ok(info_hash)) = self.lookups.join_next() => {
                    if let Some(entry) = self.torrents.get_mut(&info_hash) {
                        entry.is_looking = false;
                    }
                }
                () = next_call => {}
                _ = keep.tick() => self.keep(),
                _ = names.tick() => self.look_up_names(),
                _ = tick.tick() => self.on_tick(),
            }
            self.load();
            self.send();
        }
    }

    fn serve(&mut self, torrent: Arc<Torrent>) {
        let info_hash = torrent.info_hash();
        let mut entry = Entry {
            torrent,
            uploaded: 0,
            downloaded: 0,
            names: Vec::new(),
            is_looking: false,
            idle: Idle::default(),
        };
        if let Some(before) = self.torrents.remove(&info_hash) {
            // To trackers it is the same one.
            entry.uploaded = before.uploaded + before.torrent.uploaded();
            entry.downloaded = before.downloaded + before.torrent.downloaded();
            entry.names = before.names;
        }
        self.torrents.insert(info_hash, entry);
        self.fresh.insert(info_hash);
    }

    fn remove(&mut self, info_hash: InfoHash) {
        self.fresh.remove(&info_hash);
        if let Some(entry) = self.torrents.remove(&info_hash) {
            let now = Instant::now();
            self.schedule.remove(info_hash, now);
            self.session.put_announced(info_hash, &[]);
            self.leaving.insert(info_hash, (entry, now));
        }
    }

    /// Has a thread find out what is known of new torrents: the database may have to be waited for.
    fn load(&mut self) {
        if self.fresh.is_empty() || !self.loads.is_empty() {
            return;
        }
        let fresh: Vec<InfoHash> = self.fresh.drain().collect();
        let session = Arc::clone(&self.session);
        self.loads.spawn(async move {
            let nothing = fresh.iter().map(|info_hash| (*info_hash, Vec::new(), false)).collect();
            let loaded = blocking::run("btd-announce", move || {
                let load = |info_hash: InfoHash| {
                    let history = session.load_history(&info_hash);
                    let completed = history.and_then(|history| history.completed);
                    let kept = session.load_announced(&info_hash).into_iter().map(to_kept);
                    (
                        info_hash,
                        kept.collect(),
                        completed.is_some_and(|completed| !completed.announced),
                    )
                };
                fresh.into_iter().map(load).collect()
            });
            match loaded.await {
                Ok(Some(loaded)) => loaded,
                failed => {
                    tracing::error!("no thread to load what is known of trackers: {:?}", failed.err());
                    nothing
                }
            }
        });
    }

    fn on_loaded(&mut self, loaded: Loaded) {
        let (now, unix) = (Instant::now(), unix());
        for (info_hash, kept, completed) in loaded {
            let Some(entry) = self.torrents.get(&info_hash) else {
                continue; // It has left.
            };
            let meta = entry.torrent.meta();
            let own = read_tiers(&meta.announce);
            let known: HashSet<&Arc<TrackerUrl>> = own.iter().flatten().collect();
            // BEP 27: of a private torrent nobody hears but its own trackers.
            let more = self.plan.trackers.iter().filter(|_| !meta.private);
            let more: Vec<Arc<TrackerUrl>> = more.cloned().map(Arc::new).filter(|url| !known.contains(url)).collect();
            let lists = [(OWN, own.as_slice()), (CONFIGURED, std::slice::from_ref(&more))];
            for (list, tiers) in lists {
                self.schedule
                    .add((info_hash, list), tiers, completed, (&kept, unix), now);
            }
        }
    }

    /// Sends what is due.
    fn send(&mut self) {
        while let Some(call) = self.schedule.poll(Instant::now()) {
            let request = self.request(&call);
            let (http, udp) = (self.http.clone(), self.udp.clone());
            tracing::debug!("announcing {} to {}: {:?}", call.info_hash, call.url, call.event);
            if self.is_stopping && call.event == Event::Stopped {
                // Answered or not (its own tracker ends with this btd): the next start does not take it that we are known.
                self.session.put_announced(call.info_hash, &[]);
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

    fn request(&self, call: &Call) -> Request {
        let info_hash = call.info_hash;
        let leaving = || self.leaving.get(&info_hash).map(|(entry, _)| entry);
        let entry = self.torrents.get(&info_hash).or_else(leaving);
        let (uploaded, downloaded, left, numwant) = entry.map_or((0, 0, 0, 0), |entry| {
            let torrent = &entry.torrent;
            let wanted = match torrent.home() {
                Some(_) if call.event != Event::Stopped => PEERS_WANTED.saturating_sub(torrent.connections()),
                _ => 0,
            };
            let uploaded = entry.uploaded + torrent.uploaded();
            let downloaded = entry.downloaded + torrent.downloaded();
            (uploaded, downloaded, torrent.left(), wanted)
        });
        Request {
            info_hash,
            peer_id: self.peer_id,
            port: self.port,
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

    fn on_done(&mut self, call: &Call, result: Result<Answer, Failure>) {
        self.handles.remove(&call.id);
        let kind = result.as_ref().map_or_else(Failure::kind, |_| "ok");
        ::metrics::counter!("btd_announces_total", "result" => kind).increment(1);
        let Some(outcome) = self.schedule.on_answer(call, result.as_ref(), Instant::now()) else {
            return;
        };
        let info_hash = outcome.info_hash;
        // One that has come again meanwhile is kept as it is now.
        if outcome.stopped_told && !self.torrents.contains_key(&info_hash) {
            self.session.put_announced(info_hash, &[]);
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
            self.teller
                .tell(&entry.torrent.meta().name, &outcome, news, Instant::now());
        }
        let Ok(answer) = result else { return };
        if entry.torrent.home().is_none() {
            return; // Whoever lacks something connects to us.
        }
        let addrs: Vec<SocketAddr> = answer
            .peers
            .into_iter()
            .filter(|addr| self.rule.permits(addr.ip()))
            .collect();
        if !addrs.is_empty() {
            let _ = self.found.send(Found { info_hash, addrs }); // Nobody listens when btd is stopping.
        }
        if !answer.names.is_empty() {
            entry.names = answer.names;
            self.look_up(info_hash, false);
        }
    }

    fn look_up_names(&mut self) {
        let is_due = |entry: &Entry| !entry.names.is_empty() && entry.torrent.home().is_some();
        let due = self.torrents.iter_mut().filter(|(_, entry)| is_due(entry));
        let due = due.map(|(info_hash, entry)| (*info_hash, entry.idle.asks_anew(entry.torrent.downloaded())));
        let due: Vec<(InfoHash, bool)> = due.collect();
        due.into_iter()
            .for_each(|(info_hash, anew)| self.look_up(info_hash, anew));
    }

    /// Looks the names of a torrent's peers up, `anew` where what is remembered has led to nobody.
    fn look_up(&mut self, info_hash: InfoHash, anew: bool) {
        let Some(entry) = self.torrents.get_mut(&info_hash).filter(|entry| !entry.is_looking) else {
            return;
        };
        entry.is_looking = true;
        let (names, resolver, rule) = (entry.names.clone(), Arc::clone(&self.resolver), self.rule);
        let found = self.found.clone();
        self.lookups.spawn(async move {
            for (name, port) in names {
                let looked_up = match anew {
                    true => resolver.addresses_since(&name, IDLE_AGE).await,
                    false => resolver.addresses(&name).await,
                };
                let ips = match looked_up {
                    Ok(ips) => ips,
                    Err(error) => {
                        tracing::debug!("cannot look up the peer {name:?}: {error}");
                        continue;
                    }
                };
                let permitted = ips.iter().filter(|ip| rule.permits(**ip));
                let addrs: Vec<SocketAddr> = permitted.map(|ip| SocketAddr::new(*ip, port)).collect();
                // At once: the next name may take its time.
                if !addrs.is_empty() {
                    let _ = found.send(Found { info_hash, addrs }); // Nobody listens when btd is stopping.
                }
            }
            info_hash
        });
    }

    /// Writes down what has changed.
    fn keep(&mut self) {
        for (info_hash, kept) in self.schedule.take_changed(Instant::now(), unix()) {
            let kept: Vec<Announced> = kept.into_iter().map(from_kept).collect();
            self.session.put_announced(info_hash, &kept);
        }
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.leaving.retain(|_, (_, since)| now < *since + LEAVING_FOR);
        ::metrics::gauge!("btd_announces_overdue").set(self.schedule.overdue(now) as f64);
    }

    /// Tells all trackers that it was the last time.
    async fn stop(&mut self, deadline: Instant) {
        let now = Instant::now();
        self.keep();
        self.is_stopping = true;
        self.schedule.remove_all(now);
        let mut give_up_at = Some(now + GRACE);
        self.leaving.extend(
            self.torrents
                .drain()
                .map(|(info_hash, entry)| (info_hash, (entry, now))),
        );
        loop {
            self.send();
            if self.schedule.untold() == 0 {
                return;
            }
            if give_up_at.is_some_and(|at| at <= Instant::now()) {
                give_up_at = None;
                for call in self.schedule.give_up(Instant::now()) {
                    if let Some(handle) = self.handles.remove(&call) {
                        handle.abort();
                    }
                }
                continue;
            }
            let wakes = [self.schedule.next_at(), give_up_at, Some(deadline)];
            let next = wakes.into_iter().flatten().min().unwrap_or(deadline);
            tokio::select! {
                // One that was given up is none that is done.
                Some(done) = self.calls.join_next() => if let Ok((call, result)) = done {
                    self.on_done(&call, result);
                },
                () = tokio::time::sleep_until(next.into()) => if Instant::now() >= deadline {
                    tracing::info!(
                        "{} torrents could not be taken back from their trackers in time: they forget btd by themselves, or hear of it again at the next start",
                        self.schedule.untold()
                    );
                    return;
                },
            }
        }
    }
}

/// The trackers of a torrent file that btd can speak to. A file may have thousands, which the schedule would not keep.
fn read_tiers(tiers: &[Vec<String>]) -> Vec<Vec<Arc<TrackerUrl>>> {
    let read = |tier: &Vec<String>| {
        let urls = tier.iter().take(crate::announcer::schedule::TRACKERS_MAX);
        urls.filter_map(|url| TrackerUrl::parse(url).ok().map(Arc::new))
            .collect()
    };
    let tiers = tiers.iter().take(crate::announcer::schedule::TRACKERS_MAX).map(read);
    tiers.filter(|tier: &Vec<_>| !tier.is_empty()).collect()
}

/// What a tracker tells us by should our address change: another for each torrent and each run.
fn key_of(secret: u64, info_hash: InfoHash) -> u32 {
    let InfoHash([a, b, c, d, e, f, g, h, ..]) = info_hash;
    let mixed = (secret ^ u64::from_be_bytes([a, b, c, d, e, f, g, h])).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}

fn to_kept(announced: Announced) -> Kept {
    let Announced {
        tracker,
        due,
        failures,
        told,
    } = announced;
    Kept {
        tracker,
        due,
        failures,
        told,
    }
}

fn from_kept(kept: Kept) -> Announced {
    let Kept {
        tracker,
        due,
        failures,
        told,
    } = kept;
    Announced {
        tracker,
        due,
        failures,
        told,
    }
}

/// Seconds since 1970.
fn unix() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// Random bits that nobody can foresee.
fn random() -> u64 {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 8];
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        // The kernel had some for the peer id a moment ago. Then what the standard library has kept.
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trackers_are_asked_from_where_peers_are_heard() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let sources = |listen: &[&str]| {
            let listen: Vec<SocketAddr> = listen.iter().map(|addr| addr.parse().unwrap()).collect();
            Sources::new(&listen)
        };
        let both = [ip("2001:db8::1"), ip("192.0.2.1")];
        let v4 = sources(&["0.0.0.0:6881"]);
        assert_eq!((v4.choose(&both), v4.of(both[1])), (vec![both[1]], None));
        assert_eq!((v4.choose(&both[..1]), v4.of(both[0])), (vec![both[0]], None));
        let one = sources(&["10.0.0.1:6881", "[::]:6881"]);
        assert_eq!(
            (one.choose(&both), one.of(both[1]), one.of(both[0])),
            (both.to_vec(), Some(ip("10.0.0.1")), None)
        );
    }

    #[test]
    fn names_are_asked_for_anew_when_nothing_comes_and_ever_less_often() {
        let mut idle = Idle::default();
        assert!(!idle.asks_anew(5) && !idle.asks_anew(6), "something comes");
        let anew: Vec<u32> = (1..=20).filter(|_| idle.asks_anew(6)).collect();
        assert_eq!(anew, [1, 2, 4, 8, 16]);
        assert!(!idle.asks_anew(7) && idle.asks_anew(7), "from the beginning");
    }

    #[test]
    fn a_file_with_thousands_of_trackers_is_cut() {
        let tier = vec!["http://a/".to_owned(); 1000];
        let tiers = read_tiers(&vec![tier; 1000]);
        assert!(tiers.len() <= 64 && tiers.iter().all(|tier| tier.len() <= 64));
        assert!(read_tiers(&[vec!["wss://x/".to_owned()]]).is_empty());
    }
}
