//! The seeders of a run, their sockets, and the one epoll that drives them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use crate::proto::PeerId;

use super::super::random::Random;
use super::ledger::Ledger;
use super::link::{Fault, Link, Scene};
use super::path::{Pace, Path};
use super::payload::Torrent;
use super::timeline::Timeline;
use super::{Error, Feed, Way};

/// Requests are 17 bytes: 3,800 of them.
const READ_LEN: usize = 64 * 1024;
const EVENTS_MAX: usize = 256;
/// Set in the event data of a listening socket; no slab grows this far.
const LISTENER: u64 = 1 << 63;
/// Sends to one connection before the others have their turn.
const SENDS_MAX: usize = 4;
/// How often depths are looked at, and the longest sleep.
const LOOK: Duration = Duration::from_millis(100);
/// Clients drop a peer that is silent for two minutes (BEP 3).
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How long after a connection is lost a seeder calls again: the client may not know the torrent yet.
const AGAIN: Duration = Duration::from_millis(500);
/// One block of so many is the last before the connection of a dropping seeder is cut: 8 MiB on the average.
const DROP_EACH: f64 = 512.0;

/// What a seeder is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Honest,
    Liar,
    Slow,
    Dropping,
}

#[derive(Debug)]
struct Seeder {
    kind: Kind,
    peer_id: PeerId,
    pace: Pace,
    /// The address that it calls from, and when; of seeders that listen, never.
    source: Ipv4Addr,
    calls_at: Option<Duration>,
}

struct Slot {
    link: Link,
    stream: TcpStream,
    /// The client's socket has answered.
    connected: bool,
    wants_write: bool,
}

/// What became of the connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Met {
    /// Handshakes.
    pub(super) opened: u32,
    pub(super) lost: BTreeMap<Fault, u32>,
}

/// The seeders of a run.
pub(super) struct Seeders {
    torrent: Torrent,
    client: Option<SocketAddr>,
    reqq: u32,
    busy: bool,
    clock: Instant,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    listeners: Vec<TcpListener>,
    seeders: Vec<Seeder>,
    links: Slab<Slot>,
    /// The connection whose turn on the path is next.
    next: usize,
    path: Path,
    random: Random,
    looked: Duration,
    kept_alive: Duration,
    pub(super) ledger: Ledger,
    pub(super) timeline: Timeline,
    pub(super) met: Met,
}

impl Seeders {
    /// Seeders that listen, or will call the client in their first turn.
    pub(super) fn new(feed: &Feed, torrent: Torrent, clock: Instant) -> Result<Seeders, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| Error::Sockets(errno.into()))?;
        let (first, client) = match feed.way {
            Way::Listen(first) => (*first.ip(), None),
            Way::Connect { client, source } => (source, Some(client)),
        };
        let (mut listeners, mut seeders) = (Vec::new(), Vec::new());
        for number in 0..feed.seeders {
            let own = Ipv4Addr::from_bits(first.to_bits().wrapping_add(number));
            if let Way::Listen(first) = feed.way {
                let listen = SocketAddr::from((own, first.port()));
                let listener = TcpListener::bind(listen).map_err(|error| Error::Listen { listen, error })?;
                listener.set_nonblocking(true).map_err(Error::Sockets)?;
                let data = epoll::EventData::new_u64(LISTENER | u64::from(number));
                let added = epoll::add(&epoll, &listener, data, epoll::EventFlags::IN);
                added.map_err(|errno| Error::Sockets(errno.into()))?;
                listeners.push(listener);
            }
            let kind = kind_of(feed, number);
            let rate = if kind == Kind::Slow {
                Some(feed.slow_rate)
            } else {
                feed.rate
            };
            seeders.push(Seeder {
                kind,
                peer_id: peer_id(number, feed.seed),
                pace: Pace::new(rate),
                source: own,
                calls_at: client.map(|_| Duration::ZERO),
            });
        }
        Ok(Seeders {
            ledger: Ledger::new(torrent.geometry),
            torrent,
            client,
            reqq: feed.reqq,
            busy: feed.busy,
            clock,
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            buffer: vec![0; READ_LEN],
            listeners,
            seeders,
            links: Slab::new(),
            next: 0,
            path: Path::new(feed.delay, feed.path_rate),
            random: Random::new(feed.seed),
            looked: Duration::ZERO,
            kept_alive: Duration::ZERO,
            timeline: Timeline::default(),
            met: Met::default(),
        })
    }

    /// Where they listen.
    pub(super) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    pub(super) fn torrent(&self) -> &Torrent {
        &self.torrent
    }

    /// Whether a client is connected that wants something.
    pub(super) fn is_wanted(&self) -> bool {
        self.links.iter().any(|(_, slot)| slot.link.interested)
    }

    /// One turn: wait for events, hear, send. `latest`: when to be back.
    pub(super) fn turn(&mut self, latest: Duration) -> io::Result<()> {
        self.call(self.clock.elapsed());
        let timeout = self.timeout(latest);
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let now = self.clock.elapsed();
        for at in 0..self.events.len() {
            let epoll::Event { flags, data } = self.events[at];
            let data = data.u64();
            match data & LISTENER {
                0 => self.on_event(usize::try_from(data).expect("an index of ours"), flags, now),
                _ => self.accept(usize::try_from(data & !LISTENER).expect("an index of ours"), now)?,
            }
        }
        self.serve(now);
        if now - self.looked >= LOOK {
            self.looked = now;
            self.look(now);
        }
        Ok(())
    }

    fn timeout(&self, latest: Duration) -> Timespec {
        let now = self.clock.elapsed();
        let wait = if self.busy && self.ledger.met_at.is_some() {
            Duration::ZERO
        } else {
            let links = self.links.iter().filter_map(|(_, slot)| {
                let seeder = &self.seeders[slot.link.seeder];
                slot.link.next_at(&self.path, &seeder.pace)
            });
            let calls = self.seeders.iter().filter_map(|seeder| seeder.calls_at);
            let first = links.chain(calls).min().unwrap_or(Duration::MAX);
            first.min(latest).saturating_sub(now).min(LOOK)
        };
        Timespec {
            tv_sec: 0,
            tv_nsec: wait.subsec_nanos().into(),
        }
    }

    fn accept(&mut self, number: usize, now: Duration) -> io::Result<()> {
        loop {
            match self.listeners[number].accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    self.insert(number, stream, true, now)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client was gone before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Seeders call the client that it is time for.
    fn call(&mut self, now: Duration) {
        let Some(client) = self.client else { return };
        for number in 0..self.seeders.len() {
            let seeder = &mut self.seeders[number];
            if seeder.calls_at.is_none_or(|at| at > now) {
                continue;
            }
            seeder.calls_at = None;
            let called = connect(client, seeder.source).and_then(|stream| self.insert(number, stream, false, now));
            if called.is_err() {
                *self.met.lost.entry(Fault::ConnectFailed).or_default() += 1;
                self.seeders[number].calls_at = Some(now + AGAIN);
            }
        }
    }

    fn insert(&mut self, number: usize, stream: TcpStream, connected: bool, now: Duration) -> io::Result<()> {
        let seeder = &self.seeders[number];
        let scene = Scene {
            torrent: &self.torrent,
            delay: self.path.delay,
            reqq: self.reqq,
            ledger: &mut self.ledger,
        };
        let lies = seeder.kind == Kind::Liar;
        let link = Link::new(number, seeder.peer_id, lies, !connected, now, &scene);
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, !connected);
        let entry = self.links.vacant_entry();
        let data = epoll::EventData::new_u64(entry.key() as u64);
        epoll::add(&self.epoll, &stream, data, flags)?;
        entry.insert(Slot {
            link,
            stream,
            connected,
            wants_write: !connected,
        });
        Ok(())
    }

    fn on_event(&mut self, index: usize, flags: epoll::EventFlags, now: Duration) {
        let Some(slot) = self.links.get_mut(index) else { return };
        if !slot.connected {
            match slot.stream.take_error() {
                Ok(None) => slot.connected = true,
                Ok(Some(_)) | Err(_) => return self.lose(index, Fault::ConnectFailed, now),
            }
        }
        if flags.contains(epoll::EventFlags::OUT) {
            slot.link.blocked = false;
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
            && let Err(fault) = self.receive(index, now)
        {
            self.lose(index, fault, now);
        }
    }

    /// Whether there may be more.
    fn receive(&mut self, index: usize, now: Duration) -> Result<bool, Fault> {
        let slot = &mut self.links[index];
        let was_open = slot.link.is_open();
        let closed = if was_open {
            Fault::Closed
        } else {
            Fault::ClosedInHandshake
        };
        let len = match slot.stream.read(&mut self.buffer) {
            Ok(0) => return Err(closed),
            Ok(len) => len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(_) => return Err(closed),
        };
        let mut scene = Scene {
            torrent: &self.torrent,
            delay: self.path.delay,
            reqq: self.reqq,
            ledger: &mut self.ledger,
        };
        slot.link.on_bytes(&self.buffer[..len], now, &mut scene)?;
        self.met.opened += u32::from(!was_open && slot.link.is_open());
        Ok(true)
    }

    /// All connections hear what has arrived and send what is due.
    fn serve(&mut self, now: Duration) {
        let mut scene = Scene {
            torrent: &self.torrent,
            delay: self.path.delay,
            reqq: self.reqq,
            ledger: &mut self.ledger,
        };
        for (_, slot) in &mut self.links {
            slot.link.on_time(now, &mut scene);
        }
        self.depart(now);
        let mut lost = Vec::new();
        for index in 0..self.links.capacity() {
            if self.links.contains(index)
                && let Err(fault) = self.flush(index, now)
            {
                lost.push((index, fault));
            }
        }
        for (index, fault) in lost {
            // What it said before it hung up is still there to be read.
            if fault == Fault::Closed {
                while let Ok(true) = self.receive(index, now) {}
            }
            self.lose(index, fault, now);
        }
    }

    /// Blocks take their places on the path, one of each connection in turn, as the packets of many flows do.
    fn depart(&mut self, now: Duration) {
        let keys: Vec<usize> = self.links.iter().map(|(key, _)| key).collect();
        let mut idle = 0;
        while idle < keys.len() {
            let link = &mut self.links[keys[self.next % keys.len()]].link;
            self.next = self.next.wrapping_add(1);
            let pace = &mut self.seeders[link.seeder].pace;
            match link.depart(now, &mut self.path, pace) {
                true => idle = 0,
                false => idle += 1,
            }
        }
    }

    fn flush(&mut self, index: usize, now: Duration) -> Result<(), Fault> {
        let Slot {
            link,
            stream,
            connected,
            wants_write,
        } = &mut self.links[index];
        for _ in 0..SENDS_MAX {
            if link.blocked || !*connected {
                break;
            }
            let mut slices = Vec::new();
            link.gather(now, &self.torrent, &mut slices);
            if slices.is_empty() {
                break;
            }
            match stream.write_vectored(&slices) {
                Ok(len) => {
                    let (blocks, bytes) = link.on_sent(len, now, &mut self.ledger);
                    let began = self.ledger.asked_at.unwrap_or(now);
                    self.timeline.add_bytes(now.saturating_sub(began), bytes);
                    let drops = self.seeders[link.seeder].kind == Kind::Dropping;
                    if drops && self.random.chance(f64::from(blocks) / DROP_EACH) {
                        return Err(Fault::DroppedByUs);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => link.blocked = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Fault::Closed),
            }
        }
        let wants = link.blocked || !*connected;
        if wants != *wants_write {
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, wants);
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &*stream, data, flags).map_err(|_| Fault::Closed)?;
            *wants_write = wants;
        }
        Ok(())
    }

    fn look(&mut self, now: Duration) {
        let keep_alive = now - self.kept_alive >= KEEP_ALIVE;
        if keep_alive {
            self.kept_alive = now;
        }
        for (_, slot) in &mut self.links {
            if let Some(began) = self.ledger.asked_at
                && slot.link.is_open()
                && self.ledger.whole_at.is_none()
            {
                self.timeline.add_depth(now - began, slot.link.take_peak());
            }
            if keep_alive && slot.link.is_open() {
                slot.link.keep_alive(now);
            }
        }
    }

    fn lose(&mut self, index: usize, fault: Fault, now: Duration) {
        // Closing takes it out of the epoll set.
        let slot = self.links.remove(index);
        let number = slot.link.seeder;
        slot.link.end(&mut self.ledger);
        *self.met.lost.entry(fault).or_default() += 1;
        if self.client.is_some() {
            self.seeders[number].calls_at = Some(now + AGAIN);
        }
    }
}

/// The first are liars, then the slow, then the dropping.
fn kind_of(feed: &Feed, number: u32) -> Kind {
    match number {
        n if n < feed.liars => Kind::Liar,
        n if n < feed.liars + feed.slow => Kind::Slow,
        n if n < feed.liars + feed.slow + feed.dropping => Kind::Dropping,
        _ => Kind::Honest,
    }
}

fn peer_id(number: u32, seed: u64) -> PeerId {
    let text = format!("-BF0001-{:06x}{number:06}", seed & 0xff_ffff);
    PeerId(
        text.as_bytes()
            .try_into()
            .expect("20 characters, as there are at most 4,096 seeders"),
    )
}

fn connect(client: SocketAddr, source: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = Socket::new(
        Domain::for_address(client),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if client.is_ipv4() && client.ip().is_loopback() {
        socket.bind(&SocketAddr::from((source, 0)).into())?;
    }
    match socket.connect(&client.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{listening, single};
    use super::*;
    use crate::proto::handshake::{Handshake, Reserved};
    use crate::proto::wire::{self, Message};

    /// A seeder that was just sending to it had hung up by then, with what it had said unread.
    #[test]
    fn what_a_client_says_before_it_hangs_up_is_heard() {
        let dir = tempfile::tempdir().unwrap();
        let metainfo = single(dir.path(), 1_000_000);
        let slow = Feed {
            rate: Some(100_000),
            ..listening()
        };
        let mut seeders = slow.bind(&metainfo, dir.path()).unwrap().seeders;
        let mut stream = TcpStream::connect(seeders.addresses().unwrap()[0]).unwrap();
        let handshake = Handshake {
            reserved: Reserved::OURS,
            info_hash: metainfo.info_hash,
            peer_id: PeerId([b'c'; 20]),
        };
        let mut out = handshake.encode().to_vec();
        wire::encode(&Message::Interested, &mut out);
        for piece in metainfo.geometry.pieces() {
            let block = metainfo.geometry.blocks(piece).next().unwrap();
            wire::encode(&Message::request(&block), &mut out);
        }
        stream.write_all(&out).unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while seeders.ledger.counts.sent_bytes == 0 {
            assert!(Instant::now() < until, "nothing is sent");
            seeders.turn(Duration::ZERO).unwrap();
        }
        let mut last = Vec::new();
        wire::encode(&Message::HaveAll, &mut last);
        stream.write_all(&last).unwrap();
        drop(stream); // With what it has not read: its end is told at once.
        let later = seeders.clock.elapsed() + Duration::from_secs(5);
        seeders.serve(later);
        assert_eq!(seeders.met.lost.get(&Fault::Closed), Some(&1));
        assert!(seeders.ledger.whole_at.is_some());
    }
}
