//! Announces torrents to their trackers: does what [`crate::announcer::schedule`] says is to be done.
//!
//! One task on the control plane's thread has the schedule ([`task`], with [`known`], [`names`] and [`parting`]); each
//! announce or scrape is a task of its own, over [`http`] or by [`udp`]. What has to wait for a disk (what is kept over
//! restarts) is done on threads. The supervisor tells which torrents there are and hears where their peers are, by two
//! queues; it never waits for a tracker.
//!
//! Whatever trackers and torrent files say, nothing is sent to addresses that `allow-private` does not allow: see
//! [`connect`].

mod connect;
mod http;
mod known;
mod names;
mod parting;
mod sources;
mod task;
mod tell;
mod udp;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::config::Announce;
use super::resolver::Resolver;
use super::torrents::Reach;
use crate::announcer::schedule::{Reannounced, Status};
use crate::announcer::{Rule, Schedule, TrackerUrl};
use crate::proto::{InfoHash, PeerId};
use crate::session::Store;
use crate::shard::Torrent;
use http::Http;
pub(super) use http::SOCKETS_MAX;
pub(super) use sources::Sources;
use task::Task;
use tell::Teller;
use udp::Udp;

/// Peers of a torrent may be at these addresses.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) info_hash: InfoHash,
    pub(super) addrs: Vec<SocketAddr>,
    /// Whether a name has led there.
    pub(super) named: bool,
}

/// Of a torrent's file what announcing it takes.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    /// Nobody but its own trackers may hear of it (BEP 27).
    pub(super) private: bool,
    /// Its own trackers, in tiers.
    pub(super) announce: Vec<Vec<String>>,
}

#[derive(Debug)]
enum Order {
    Serve(Arc<Torrent>, Arc<str>),
    /// The same of one that rests, whose contents nobody has.
    ServeResting(InfoHash, Arc<str>, Box<Lists>),
    Wake(Arc<Torrent>),
    Rest(InfoHash),
    Completed(InfoHash),
    Remove(InfoHash),
    Reannounce(InfoHash, oneshot::Sender<Option<Reannounced>>),
    Status(InfoHash, oneshot::Sender<Vec<Status>>),
    Unreachable(InfoHash, SocketAddr),
    Plan(Box<Announce>),
    Back(bool),
    Stop(Instant, oneshot::Sender<()>),
}

/// The supervisor's end.
#[derive(Debug)]
pub(super) struct Announcer {
    plan: Announce,
    orders: UnboundedSender<Order>,
}

impl Announcer {
    /// Starts the task. Peers are told to `found`, their names looked up by `resolver`. `port` is where they connect to
    /// us, if the plan has no other.
    pub(super) fn start(
        plan: &Announce,
        (peer_id, port, sources): (PeerId, u16, Sources),
        session: &Arc<Store>,
        // That of peers is not that of trackers: its names are strangers'.
        (resolver, of_trackers): (&Arc<Resolver>, Arc<Resolver>),
        found: UnboundedSender<Found>,
    ) -> Self {
        // Holds a few for each torrent at most.
        let (sender, orders) = unbounded_channel();
        if plan.enabled {
            let rule = Rule {
                allow_private: plan.allow_private,
            };
            let now = Instant::now();
            let task = Task {
                http: Http::new(&of_trackers, rule, &sources),
                udp: Udp::new(&of_trackers, rule, &sources),
                resolver: Arc::clone(resolver),
                of_trackers,
                session: Arc::clone(session),
                schedule: Schedule::new(random(), now),
                torrents: HashMap::new(),
                leaving: HashMap::new(),
                is_stopping: Arc::default(),
                calls: JoinSet::new(),
                scrapes: JoinSet::new(),
                handles: HashMap::new(),
                failed: HashMap::new(),
                fresh: HashMap::new(),
                loads: JoinSet::new(),
                lookups: JoinSet::new(),
                teller: Teller::new(),
                secret: random(),
                peer_id,
                listened: port,
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

    /// Trackers are told what this says from now on, and the torrents are announced to those that it names.
    pub(super) fn take_over(&mut self, plan: &Announce) {
        self.plan = plan.clone();
        self.order(Order::Plan(Box::new(plan.clone())));
    }

    /// The network is there again, or is another: nothing of what failed counts, and all are announced as soon as their
    /// trackers allow; without `all` only those that no tracker has answered.
    pub(super) fn network_is_back(&self, all: bool) {
        self.order(Order::Back(all));
    }

    /// Whether a torrent is announced to anybody, so that peers may be found.
    pub(super) fn announces(&self, reach: Reach) -> bool {
        self.why_not(reach).is_none()
    }

    /// Why it is announced to nobody, if that is so.
    pub(super) fn why_not(&self, reach: Reach) -> Option<&'static str> {
        match reach {
            _ if !self.plan.enabled => Some("it is not announced: `announce.enabled` is false"),
            Reach { has_trackers: true, .. } => None,
            Reach { private: true, .. } => {
                Some("it is not announced: it is private, and names no tracker that btd can speak to")
            }
            _ if self.plan.trackers.is_empty() => {
                Some("it is not announced: it names no tracker that btd can speak to, and `announce.trackers` has none")
            }
            _ => None,
        }
    }

    /// Whether any of these trackers is one that btd can speak to.
    pub(super) fn can_speak_to(&self, announce: &[Vec<String>]) -> bool {
        announce.iter().flatten().any(|url| TrackerUrl::parse(url).is_ok())
    }

    /// How many hold a torrent for this.
    pub(super) fn holders(&self) -> usize {
        usize::from(self.plan.enabled && !self.orders.is_closed())
    }

    /// A torrent of this name is served or downloaded from now on.
    pub(super) fn serve(&self, torrent: &Arc<Torrent>, name: &Arc<str>) {
        self.order(Order::Serve(Arc::clone(torrent), Arc::clone(name)));
    }

    /// A whole torrent of this name, which nobody wants just now, is served from now on.
    pub(super) fn serve_resting(&self, info_hash: InfoHash, name: Arc<str>, lists: Lists) {
        self.order(Order::ServeResting(info_hash, name, Box::new(lists)));
    }

    /// A torrent that rested is wanted: what it moves from now on is told of this one.
    pub(super) fn wake(&self, torrent: &Arc<Torrent>) {
        self.order(Order::Wake(Arc::clone(torrent)));
    }

    /// Nobody wants a torrent just now. It is announced all the same.
    pub(super) fn rest(&self, info_hash: InfoHash) {
        self.order(Order::Rest(info_hash));
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
    pub(super) fn reannounce(&self, info_hash: InfoHash) -> oneshot::Receiver<Option<Reannounced>> {
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

    /// Nobody is at this address, to which a peer's name has led.
    pub(super) fn unreachable(&self, info_hash: InfoHash, addr: SocketAddr) {
        self.order(Order::Unreachable(info_hash, addr));
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
    use crate::control::outlet::Outlet;
    use crate::session::simulated;

    /// It waited on, for as long as it would have without.
    #[test]
    fn nobody_waits_for_what_is_known_of_trackers_when_all_are_told_that_it_was_the_last_time() {
        let disk = simulated::Disk::default();
        let session = Arc::new(Store::simulated(&disk));
        disk.set_unreadable(true);
        disk.set_patience(Duration::from_secs(3600));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let until = Instant::now() + Duration::from_secs(30);
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (found, _heard) = unbounded_channel();
            let of = (PeerId([0; 20]), 6881, Sources::new(&[], Outlet::new(None, &[])));
            let resolvers = (&Resolver::new(), Resolver::new());
            let announcer = Announcer::start(&Announce::default(), of, &session, resolvers, found);
            let lists = Lists {
                private: false,
                announce: Vec::new(),
            };
            announcer.serve_resting(InfoHash([1; 20]), Arc::from("x"), lists);
            while disk.refused() == 0 {
                assert!(Instant::now() < until, "nobody reads");
                tokio::task::yield_now().await;
            }
            announcer.stop(Duration::from_secs(10)).await;
        });
        while Arc::strong_count(&session) > 1 {
            assert!(Instant::now() < until, "somebody still waits");
            std::thread::yield_now();
        }
    }
}
