//! The load over UDP: a socket for each source, so many requests in flight over all of them.
//!
//! A transaction id says what the datagram was (its two highest bits), and of a request its place in the table and the place's
//! generation: a reply that comes when its request was given up is told from one to the request that has the place now.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use socket2::{Domain, Socket, Type};

use super::reply;
use super::request;
use super::work::{Ask, Event, Work};
use super::{Error, SWEEP, Wire, nanos};

/// A request is lost when its reply has not come by then: on one machine that is long.
const PATIENCE: Duration = Duration::from_secs(2);
/// A connection id is good for two minutes, and to be used for one (BEP 15).
const CONNECTION_TIME: Duration = Duration::from_secs(50);
/// How often a connection id is asked for.
const CONNECT_AGAIN: Duration = Duration::from_millis(500);
/// Sent before replies are looked for.
const BURST: usize = 32;
/// Received from one source before the next.
const RECEIVE_MAX: usize = 64;
/// Of a source's socket: replies that are not taken at once must not be lost here.
const RECEIVE_BUFFER: usize = 1 << 20;
const EVENTS_MAX: usize = 256;

const CLASS_SHIFT: u32 = 30;
const REQUEST: u32 = 0;
const CONNECT: u32 = 1;
const JUNK: u32 = 2;
const JUNK_PROVEN: u32 = 3;
const PLACE_BITS: u32 = 16;
/// The most that can be in flight.
pub(super) const IN_FLIGHT_MAX: u32 = 1 << PLACE_BITS;
const GENERATION_MASK: u32 = (1 << (CLASS_SHIFT - PLACE_BITS)) - 1;

#[derive(Debug)]
struct Source {
    socket: UdpSocket,
    connection_id: Option<u64>,
    connected_at: Duration,
    /// When it was last asked for.
    asked_at: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// What is asked, and since when; nothing when the place is free.
    ask: Option<(Ask, Duration)>,
    generation: u32,
}

/// The sockets of a load over UDP.
pub(super) struct Udp {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    sources: Vec<Source>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Whose turn it is where any source will do.
    turn: usize,
    swept: Duration,
    out: Vec<u8>,
    buffer: Vec<u8>,
}

impl Udp {
    /// A socket for each source of the population, without connection ids yet.
    pub(super) fn open(work: &Work<'_>, server: SocketAddrV4, in_flight: u32) -> Result<Udp, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        let open = |source: u32| -> io::Result<Source> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), None)?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
            socket.bind(&SocketAddrV4::new(work.population.source_ip(source), 0).into())?;
            socket.connect(&server.into())?;
            let data = epoll::EventData::new_u64(source.into());
            epoll::add(&epoll, &socket, data, epoll::EventFlags::IN)?;
            Ok(Source {
                socket: socket.into(),
                connection_id: None,
                connected_at: Duration::ZERO,
                asked_at: None,
            })
        };
        let sources = (0..work.population.sources()).map(open).collect::<io::Result<_>>()?;
        Ok(Udp {
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            sources,
            places: vec![Place::default(); in_flight as usize],
            free: (0..in_flight).rev().collect(),
            turn: 0,
            swept: Duration::ZERO,
            out: Vec::new(),
            buffer: vec![0; 4096],
        })
    }

    /// Asks for connection ids where there is none, or an old one.
    fn connect(&mut self, now: Duration) -> io::Result<()> {
        for (source, number) in self.sources.iter_mut().zip(0_u32..) {
            let old = source.connection_id.is_none() || now - source.connected_at >= CONNECTION_TIME;
            if old && source.asked_at.is_none_or(|at| now - at >= CONNECT_AGAIN) {
                request::udp_connect(&mut self.out, CONNECT << CLASS_SHIFT | number);
                source.asked_at = Some(now);
                sent(source.socket.send(&self.out))?;
            }
        }
        Ok(())
    }

    fn send(&mut self, work: &mut Work<'_>, now: Duration) -> io::Result<()> {
        for _ in 0..BURST {
            let Some(&place) = self.free.last() else { return Ok(()) };
            let Some(ask) = work.next() else { return Ok(()) };
            let number = match ask {
                Ask::Announce { peer, .. } => work.population.source_of(peer) as usize,
                Ask::Scrape { .. } => self.turn % self.sources.len(),
            };
            self.turn = self.turn.wrapping_add(1);
            let source = &self.sources[number];
            let connection_id = source.connection_id.expect("connected before the load began");
            for _ in 0..work.junk_due() {
                let good = work.announce(0, Event::None);
                let transaction = |proven: bool, len: usize| {
                    let class = if proven { JUNK_PROVEN } else { JUNK };
                    class << CLASS_SHIFT | u32::try_from(len).expect("a datagram's length")
                };
                request::junk_datagram(&mut self.out, &mut work.random, connection_id, &good, transaction);
                work.tally.junk += u64::from(sent(source.socket.send(&self.out))?);
            }
            let slot = &mut self.places[place as usize];
            let transaction = REQUEST << CLASS_SHIFT | slot.generation << PLACE_BITS | place;
            match ask {
                Ask::Announce { peer, event } => {
                    request::udp_announce(&mut self.out, connection_id, transaction, &work.announce(peer, event));
                }
                Ask::Scrape { seed } => {
                    let torrents = work.scraped(seed).map(|torrent| work.population.info_hash(torrent));
                    request::udp_scrape(&mut self.out, connection_id, transaction, torrents);
                }
            }
            if !sent(source.socket.send(&self.out))? {
                work.put_back(ask);
                return Ok(());
            }
            slot.ask = Some((ask, now));
            self.free.pop();
        }
        Ok(())
    }

    fn receive(&mut self, work: &mut Work<'_>, clock: &dyn Fn() -> Duration) -> io::Result<()> {
        self.events.clear();
        let events = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, events, Some(&Timespec::default())) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for at in 0..self.events.len() {
            let number = usize::try_from(self.events[at].data.u64()).expect("an index of ours");
            for _ in 0..RECEIVE_MAX {
                let len = match self.sources[number].socket.recv(&mut self.buffer) {
                    Ok(len) => len,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                self.on_datagram(work, number, len, clock());
            }
        }
        Ok(())
    }

    fn on_datagram(&mut self, work: &mut Work<'_>, number: usize, len: usize, now: Duration) {
        let datagram = &self.buffer[..len];
        let Some(transaction) = reply::transaction(datagram) else {
            work.tally.stray += 1;
            return;
        };
        match transaction >> CLASS_SHIFT {
            CONNECT => match reply::connection_id(datagram) {
                Some(id) => {
                    let source = &mut self.sources[number];
                    source.connection_id = Some(id);
                    source.connected_at = now;
                    source.asked_at = None;
                }
                None => work.tally.stray += 1,
            },
            REQUEST => {
                let place = transaction & (IN_FLIGHT_MAX - 1);
                let generation = transaction >> PLACE_BITS;
                let slot = self.places.get_mut(place as usize);
                let Some((slot, (ask, at))) = slot
                    .filter(|slot| slot.generation == generation)
                    .and_then(|slot| slot.ask.take().map(|ask| (slot, ask)))
                else {
                    work.tally.stray += 1;
                    return;
                };
                slot.generation = (slot.generation + 1) & GENERATION_MASK;
                self.free.push(place);
                work.on_datagram(ask, datagram, nanos(now - at));
            }
            class => {
                work.tally.junk_answered += 1;
                let asked_len = transaction & (IN_FLIGHT_MAX - 1);
                work.tally.junk_amplified += u64::from(class == JUNK && len > asked_len as usize);
            }
        }
    }

    fn sweep(&mut self, work: &mut Work<'_>, now: Duration) {
        for (slot, place) in self.places.iter_mut().zip(0..) {
            if let Some((ask, at)) = slot.ask
                && now - at >= PATIENCE
            {
                slot.ask = None;
                slot.generation = (slot.generation + 1) & GENERATION_MASK;
                self.free.push(place);
                work.lose(ask);
            }
        }
    }
}

/// Whether the kernel took a datagram. One it has no room for is to be sent later.
fn sent(result: io::Result<usize>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

impl Wire for Udp {
    fn turn(&mut self, work: &mut Work<'_>, clock: &dyn Fn() -> Duration) -> io::Result<()> {
        let now = clock();
        if now - self.swept >= SWEEP || !self.is_ready() {
            self.swept = now;
            self.connect(now)?;
            self.sweep(work, now);
        }
        if self.is_ready() {
            self.send(work, now)?;
        }
        self.receive(work, clock)
    }

    fn is_ready(&self) -> bool {
        self.sources.iter().all(|source| source.connection_id.is_some())
    }

    fn in_flight(&self) -> usize {
        self.places.len() - self.free.len()
    }
}
