//! How a node asks the tracker, and the tracker: the real schedule, the real datagrams, the real store; between them a wire
//! that takes its time and may lose what it carries.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::BEGAN;
use super::plan::Kind;
use super::random::Random;
use super::world::{Event, World};
use super::{MILLISECOND, SECOND};
use crate::announcer::{self, Answer, Call, Failure, Kept, Request, Schedule, TrackerUrl, udp};
use crate::proto::{InfoHash, PeerId};
use crate::session::{Announced, Store};
use crate::shard::Torrent;
use crate::tracker::{Settings, Tracker, Worker};

/// Where the tracker is.
const URL: &str = "udp://10.0.0.254:6969/announce";

/// After so long a client gives up.
const PATIENCE: u64 = 15 * SECOND;

/// The tracker of a world.
pub(super) struct Host {
    tracker: Tracker,
    worker: Worker,
    interval: u64,
}

impl Host {
    pub(super) fn new(interval: u64, mut random: Random, now: Instant) -> Self {
        let mut secret = [0; 32];
        secret.copy_from_slice(&random.bytes(32));
        let settings = Settings {
            interval: Duration::from_secs(interval),
            min_interval: Duration::from_secs(interval / 2),
            ..Settings::default()
        };
        let tracker = Tracker::new(settings, secret, now);
        let worker = tracker.worker(random.next());
        Self {
            tracker,
            worker,
            interval,
        }
    }

    fn ask(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Vec<u8> {
        let mut reply = Vec::new();
        self.tracker
            .on_datagram(&mut self.worker, from, datagram, now, &mut reply);
        self.tracker.sweep(now, 1000);
        reply
    }

    /// What an announce brings.
    fn announce(&mut self, from: SocketAddr, request: &Request, now: Instant) -> Result<Answer, Failure> {
        let lost = || Failure::Unreachable("no answer".into());
        let reply = self.ask(from, &udp::connect(1), now);
        let Some((1, udp::Reply::Connection(id))) = udp::read(&reply) else {
            return Err(lost());
        };
        let reply = self.ask(from, &udp::announce(id, 2, request, "/announce"), now);
        match udp::read(&reply) {
            Some((2, udp::Reply::Announce(body))) => {
                udp::read_announce(body, SocketAddr::from((Ipv4Addr::new(10, 0, 0, 254), 6969)))
            }
            Some((2, udp::Reply::Error(body))) => Err(udp::read_error(body)),
            _ => Err(lost()),
        }
    }
}

/// The announcer of a node.
#[derive(Debug)]
pub(super) struct Announcing {
    schedule: Schedule,
    peer_id: PeerId,
    calls: BTreeMap<u64, (Call, bool)>,
    next_call: u64,
    /// When the tracker answered last, and when it may be asked next but for news.
    answered: HashMap<InfoHash, u64>,
    /// For when it looks next.
    looks_at: Option<u64>,
}

impl Announcing {
    pub(super) fn new(seed: u64, now: Instant, peer_id: PeerId) -> Self {
        Self {
            schedule: Schedule::new(seed, now),
            peer_id,
            calls: BTreeMap::new(),
            next_call: 0,
            answered: HashMap::new(),
            looks_at: None,
        }
    }

    /// A torrent is announced from now on.
    pub(super) fn add(&mut self, info_hash: InfoHash, session: &Store, now: Instant, unix: u64) {
        let url = Arc::new(TrackerUrl::parse(URL).expect("an address"));
        let kept: Vec<Kept> = session
            .load_announced(&info_hash)
            .unwrap_or_default()
            .into_iter()
            .map(
                |Announced {
                     tracker,
                     due,
                     failures,
                     told,
                     is_said,
                     is_final,
                 }| Kept {
                    tracker,
                    due,
                    failures,
                    told,
                    is_said,
                    is_final,
                },
            )
            .collect();
        let unix = BEGAN.unsigned_abs() + unix;
        self.schedule
            .add((info_hash, 0), &[vec![url]], false, (&kept, unix), now);
    }

    pub(super) fn remove(&mut self, info_hash: InfoHash, now: Instant) {
        self.schedule.remove(info_hash, now);
    }

    pub(super) fn completed(&mut self, info_hash: InfoHash, now: Instant) {
        self.schedule.completed(info_hash, now);
    }

    /// Sends what is due.
    pub(super) fn poll(&mut self, world: &mut World, host: usize) {
        let (now, time, epoch) = (world.instant(), world.now, world.hosts[host].epoch);
        if self.looks_at.is_some_and(|at| at <= time) {
            self.looks_at = None;
        }
        while let Some(call) = self.schedule.poll(now) {
            self.next_call += 1;
            let lost = world.fails(host, Kind::NoTracker) || world.strikes(host, Kind::Losses, 60);
            let after = match lost {
                true => PATIENCE,
                false => world.random.within(MILLISECOND, 200 * MILLISECOND),
            };
            let is_news = call.event != announcer::Event::Regular;
            world
                .trace
                .step(time, host, "announce", (self.next_call, u64::from(is_news)));
            // What a tracker has asked for is kept to, unless there is news.
            let earliest = self.answered.get(&call.info_hash).copied().unwrap_or(0);
            if !is_news && time < earliest {
                world.violate(|| {
                    let early = (earliest - time) as f64 / SECOND as f64;
                    format!("node {host} announces {early:.1} s before the tracker has asked it to")
                });
            }
            self.calls.insert(self.next_call, (call, lost));
            let call = self.next_call;
            world.after(after, Event::Answer { host, epoch, call });
        }
        // Nobody is scraped: this tracker tells sizes.
        while let Some(call) = self.schedule.poll_scrape(now) {
            self.schedule.on_scraped(&call, Err(&Failure::Busy), now);
        }
        let next = self
            .schedule
            .next_at()
            .map(|at| world.time_of(at).max(time + MILLISECOND));
        if let Some(next) = next
            && self.looks_at.is_none_or(|at| next < at)
        {
            self.looks_at = Some(next);
            world.at(next, Event::Announce { host, epoch });
        }
    }

    /// An answer is there, or never will be. Gives where peers are.
    pub(super) fn on_answer(
        &mut self,
        (world, tracker): (&mut World, &mut Host),
        host: usize,
        call: u64,
        (torrent, session): (Option<&Torrent>, &Store),
    ) -> Vec<SocketAddr> {
        let Some((call, lost)) = self.calls.remove(&call) else {
            return Vec::new();
        };
        let (now, time) = (world.instant(), world.now);
        let request = Request {
            info_hash: call.info_hash,
            peer_id: self.peer_id,
            port: world.hosts[host].addr.port(),
            uploaded: torrent.map_or(0, Torrent::uploaded),
            downloaded: torrent.map_or(0, Torrent::downloaded),
            left: torrent.map_or(0, Torrent::left),
            event: call.event,
            numwant: 50,
            key: 1,
            ip: None,
            hostname: None,
            tracker_id: None,
        };
        let result = match lost {
            true => Err(Failure::Unreachable("no answer in time".into())),
            false => tracker.announce(world.hosts[host].addr, &request, now),
        };
        let outcome = self.schedule.on_answer(&call, result.as_ref(), now);
        if result.is_ok() {
            self.answered
                .insert(call.info_hash, time + tracker.interval * SECOND * 87 / 100);
        }
        let unix = BEGAN.unsigned_abs() + time / SECOND;
        for (info_hash, kept) in self.schedule.take_changed(now, unix) {
            let from = |Kept {
                            tracker,
                            due,
                            failures,
                            told,
                            is_said,
                            is_final,
                        }| Announced {
                tracker,
                due,
                failures,
                told,
                is_said,
                is_final,
            };
            let kept: Vec<Announced> = kept.into_iter().map(from).collect();
            session.put_announced(info_hash, &kept);
        }
        let stays = outcome.is_some_and(|outcome| outcome.stays);
        match result {
            Ok(answer) if stays => answer.peers,
            _ => Vec::new(),
        }
    }
}
