//! The load over HTTP: so many connections, each with one request under way, kept or made anew for each.
//!
//! A connection's source is that of the peer that announces by it. A kept one serves the peers of its source, as a proxy's
//! would. Malformed requests have connections of their own, which end with the first thing that is said to them.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use socket2::{Domain, Protocol, Socket, Type};

use super::reply::{self, Response};
use super::request;
use super::work::{Ask, Work};
use super::{Error, SWEEP, Wire, nanos};

/// A request is lost when its response has not come by then.
const PATIENCE: Duration = Duration::from_secs(10);
const READ_LEN: usize = 16 * 1024;
const EVENTS_MAX: usize = 256;
/// New requests before responses are looked for, so that connecting does not keep responses waiting.
const BURST: usize = 32;

/// What a connection is for just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Nothing: it is kept for the next request.
    Idle,
    /// A request is sent, or about to be.
    Honest(Ask),
    /// A malformed one is.
    Junk,
    /// It has been answered, and the server is to close it.
    Ending,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    source: u32,
    purpose: Use,
    since: Duration,
    /// What is left to be sent.
    out: Vec<u8>,
    received: Vec<u8>,
    watches_write: bool,
}

/// The connections of a load over HTTP.
pub(super) struct Http {
    server: SocketAddrV4,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    /// Kept alive, or one for each request.
    keep: bool,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    /// Kept connections without a request, by source.
    idle: Vec<Vec<usize>>,
    /// Malformed requests that are due.
    junk_due: u32,
    busy: usize,
    honest_max: usize,
    honest: usize,
    swept: Duration,
    out: Vec<u8>,
    buffer: Vec<u8>,
}

impl Http {
    pub(super) fn open(work: &Work<'_>, server: SocketAddrV4, connections: u32, keep: bool) -> Result<Http, Error> {
        // Malformed requests have as many again.
        let places = if work.junk > 0 { 2 } else { 1 } * connections as usize;
        // Sources take turns by chance, so kept connections are more than those that are in use: few have to make way.
        let kept = if keep {
            3 * connections as usize + work.population.sources() as usize
        } else {
            0
        };
        let places = places + kept;
        Ok(Http {
            server,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?,
            events: Vec::with_capacity(EVENTS_MAX),
            keep,
            conns: (0..places).map(|_| None).collect(),
            free: (0..places).rev().collect(),
            idle: vec![Vec::new(); work.population.sources() as usize],
            junk_due: 0,
            busy: 0,
            honest_max: connections as usize,
            honest: 0,
            swept: Duration::ZERO,
            out: Vec::new(),
            buffer: vec![0; READ_LEN],
        })
    }

    /// A connection from this source. On loopback it is there when this returns, though the kernel says that it is not.
    fn connect(&mut self, ip: std::net::Ipv4Addr, index: usize) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddrV4::new(ip, 0).into())?;
        match socket.connect(&self.server.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
        Ok(socket.into())
    }

    /// A place for a new connection: a free one, or that of one that is kept and idle, of any source.
    fn place(&mut self) -> Option<usize> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = self.idle.iter_mut().find_map(Vec::pop)?;
        self.conns[index] = None;
        Some(index)
    }

    /// Begins a request, for which `out` is what is to be said.
    fn begin(&mut self, work: &mut Work<'_>, source: u32, purpose: Use, now: Duration) {
        let kept = match purpose {
            Use::Honest(_) => self.idle[source as usize].pop(),
            Use::Junk | Use::Idle | Use::Ending => None,
        };
        let index = match kept {
            Some(index) => index,
            None => {
                let Some(index) = self.place() else {
                    return self.fail(work, purpose);
                };
                match self.connect(work.population.source_ip(source), index) {
                    Ok(stream) => {
                        self.conns[index] = Some(Conn {
                            stream,
                            source,
                            purpose,
                            since: now,
                            out: Vec::new(),
                            received: Vec::new(),
                            watches_write: false,
                        });
                    }
                    Err(_) => {
                        self.free.push(index);
                        return self.fail(work, purpose);
                    }
                }
                index
            }
        };
        let conn = self.conns[index].as_mut().expect("a place in use");
        conn.purpose = purpose;
        conn.since = now;
        conn.out.clear();
        conn.out.extend_from_slice(&self.out);
        self.busy += 1;
        self.honest += usize::from(matches!(purpose, Use::Honest(_)));
        self.pump(work, index);
    }

    fn fail(&mut self, work: &mut Work<'_>, purpose: Use) {
        work.tally.unconnected += 1;
        if let Use::Honest(ask) = purpose {
            work.lose(ask);
        }
    }

    /// Sends what is to be sent.
    fn pump(&mut self, work: &mut Work<'_>, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        while !conn.out.is_empty() {
            match conn.stream.write(&conn.out) {
                Ok(len) => drop(conn.out.drain(..len)),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => break,
                Err(_) => return self.end(work, index),
            }
        }
        let wants = !conn.out.is_empty();
        if wants != conn.watches_write {
            conn.watches_write = wants;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, wants);
            let data = epoll::EventData::new_u64(index as u64);
            if epoll::modify(&self.epoll, &conn.stream, data, flags).is_err() {
                self.end(work, index);
            }
        }
    }

    /// The connection is over. A request on it that was not answered is lost.
    fn end(&mut self, work: &mut Work<'_>, index: usize) {
        let Some(conn) = self.conns[index].take() else { return };
        self.free.push(index);
        match conn.purpose {
            Use::Idle => self.idle[conn.source as usize].retain(|other| *other != index),
            Use::Honest(ask) => {
                self.release(conn.purpose);
                work.lose(ask);
            }
            Use::Junk => self.release(conn.purpose),
            Use::Ending => self.busy -= 1,
        }
    }

    fn release(&mut self, purpose: Use) {
        self.busy -= 1;
        self.honest -= usize::from(matches!(purpose, Use::Honest(_)));
    }

    fn receive(&mut self, work: &mut Work<'_>, index: usize, clock: &dyn Fn() -> Duration) {
        loop {
            let Some(conn) = &mut self.conns[index] else { return };
            let (len, ended) = match conn.stream.read(&mut self.buffer) {
                Ok(len) => (len, len == 0),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
                Err(_) => (0, true),
            };
            match conn.purpose {
                Use::Junk => {
                    work.tally.junk_answered += u64::from(len > 0);
                    return self.end(work, index);
                }
                Use::Idle | Use::Ending if ended => return self.end(work, index),
                Use::Ending => {}
                // Nothing was asked.
                Use::Idle => {
                    work.tally.stray += 1;
                    return self.end(work, index);
                }
                Use::Honest(ask) => {
                    // Mostly the whole response has come at once.
                    let whole = conn.received.is_empty();
                    if !whole || ended {
                        conn.received.extend_from_slice(&self.buffer[..len]);
                    }
                    let received = if whole && !ended {
                        &self.buffer[..len]
                    } else {
                        &conn.received[..]
                    };
                    match reply::response(received, ended) {
                        Response::Incomplete => {
                            if whole {
                                conn.received.extend_from_slice(&self.buffer[..len]);
                            }
                        }
                        Response::Broken if ended => return self.end(work, index),
                        Response::Broken => {
                            work.tally.implausible += 1;
                            self.answered(index);
                            return self.end(work, index);
                        }
                        Response::Whole { status, body } => {
                            let Ask::Announce { peer, .. } = ask else {
                                unreachable!("scrapes go by UDP")
                            };
                            let taken = clock() - conn.since;
                            work.on_response(peer, status, &received[body], nanos(taken));
                            conn.received.clear();
                            self.answered(index);
                            if ended {
                                return self.end(work, index);
                            }
                            if self.keep {
                                return;
                            }
                            // The end mostly comes with the response: once more.
                        }
                    }
                }
            }
        }
    }

    /// A request has its answer: the connection is idle, or about to end.
    fn answered(&mut self, index: usize) {
        let Some(conn) = &mut self.conns[index] else { return };
        let purpose = conn.purpose;
        if self.keep {
            conn.purpose = Use::Idle;
            self.idle[conn.source as usize].push(index);
            self.release(purpose);
        } else {
            conn.purpose = Use::Ending;
            self.honest -= usize::from(matches!(purpose, Use::Honest(_)));
        }
    }

    fn ask(&mut self, work: &mut Work<'_>, clock: &dyn Fn() -> Duration) {
        for _ in 0..BURST {
            // Junk has the places that honest requests leave.
            if self.junk_due > 0 && self.busy - self.honest < self.honest_max {
                self.junk_due -= 1;
                let mut out = std::mem::take(&mut self.out);
                request::junk_http(&mut out, &mut work.random);
                self.out = out;
                work.tally.junk += 1;
                let source = work.random.below(work.population.sources());
                self.begin(work, source, Use::Junk, clock());
                continue;
            }
            if self.junk_due > 0 || self.honest >= self.honest_max || (!self.keep && self.busy >= self.conns.len()) {
                return;
            }
            let Some(ask) = work.next() else { return };
            let Ask::Announce { peer, event } = ask else {
                unreachable!("scrapes go by UDP")
            };
            self.junk_due = work.junk_due();
            request::http_announce(&mut self.out, &work.announce(peer, event), !self.keep);
            self.begin(work, work.population.source_of(peer), Use::Honest(ask), clock());
        }
    }

    fn sweep(&mut self, work: &mut Work<'_>, now: Duration) {
        for index in 0..self.conns.len() {
            if let Some(conn) = &self.conns[index]
                && conn.purpose != Use::Idle
                && now.saturating_sub(conn.since) >= PATIENCE
            {
                self.end(work, index);
            }
        }
    }
}

impl Wire for Http {
    fn turn(&mut self, work: &mut Work<'_>, clock: &dyn Fn() -> Duration) -> io::Result<()> {
        let now = clock();
        if now - self.swept >= SWEEP {
            self.swept = now;
            self.sweep(work, now);
        }
        self.ask(work, clock);
        self.events.clear();
        let events = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, events, Some(&Timespec::default())) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for at in 0..self.events.len() {
            let epoll::Event { flags, data } = self.events[at];
            let index = usize::try_from(data.u64()).expect("an index of ours");
            if flags.contains(epoll::EventFlags::OUT) {
                self.pump(work, index);
            }
            let readable = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            if flags.intersects(readable) {
                self.receive(work, index, clock);
            }
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        true
    }

    fn in_flight(&self) -> usize {
        self.honest
    }
}
