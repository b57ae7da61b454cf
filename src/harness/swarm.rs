//! The leechers of one thread, their sockets, and the one epoll that drives them.
//!
//! A swarm does not reconnect: a connection that is lost stays lost and is reported, since a server that drops
//! peers must not look like one that keeps them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::proto::wire::{self, Message};

use super::Target;
use super::leecher::{self, Context, Fault, Habits, Leecher, Tally};
use super::random::Random;

/// Handshakes under way at once: fewer than any listen backlog, so that no SYN is dropped and sent again after a second.
const CONNECTING_MAX: usize = 64;
/// A read that fills the second-level cache is cheaper than two, and one that spills out of it dearer.
const READ_LEN: usize = 256 * 1024;
const EVENTS_MAX: usize = 512;
/// How often leechers that were refused or left unserved are looked at.
const SWEEP: Duration = Duration::from_millis(100);
/// Servers drop a peer that is silent for two minutes (BEP 3).
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Where to, how many, and how fast.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) server: SocketAddr,
    /// Leecher `n` of the run connects from this address plus `n`; `None` leaves the source to the kernel.
    pub(super) source: Option<Ipv4Addr>,
    /// The first leecher of this thread, and how many of the run are its own.
    pub(super) first: u32,
    pub(super) count: u32,
    /// Leechers of all threads.
    pub(super) total: u32,
    /// The time between two requests of one leecher; `None` is flat out.
    pub(super) interval: Option<Duration>,
    /// Never sleep while the clock runs.
    pub(super) busy: bool,
    pub(super) seed: u64,
}

struct Slot {
    leecher: Leecher,
    /// Gone when the connection is lost.
    stream: Option<TcpStream>,
    connected: bool,
    wants_write: bool,
    /// Counted as open, and as ready, in the swarm's standing.
    open: bool,
    ready: bool,
}

/// What a thread's part of the swarm can say at any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Not connected yet, or in the handshake.
    pub(super) pending: u32,
    pub(super) open: u32,
    pub(super) ready: u32,
    pub(super) lost: u32,
}

/// The leechers of one thread.
pub(super) struct Swarm<'a> {
    plan: Plan,
    habits: &'a Habits,
    target: &'a Target,
    clock: Instant,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
    slots: Vec<Slot>,
    standing: Standing,
    random: Random,
    timetable: Option<Timetable>,
    running: bool,
    swept: Duration,
    kept_alive: Duration,
    pub(super) tally: Tally,
    pub(super) faults: BTreeMap<Fault, u32>,
    /// Requests that came due while the queue was full or the server choked.
    pub(super) missed: u64,
}

/// All leechers ask at the same rate, so their turns go round in a circle: no heap, one comparison for each request.
#[derive(Debug)]
struct Timetable {
    /// Between two requests of the whole thread.
    step: f64,
    begun: Duration,
    asked: u64,
}

impl Timetable {
    fn due(&self) -> Duration {
        self.begun + Duration::from_secs_f64(self.step * self.asked as f64)
    }
}

impl<'a> Swarm<'a> {
    /// A swarm of which nothing is connected yet. `clock` is shared by all threads of a run.
    pub(super) fn new(plan: Plan, habits: &'a Habits, target: &'a Target, clock: Instant) -> io::Result<Swarm<'a>> {
        let standing = Standing {
            pending: plan.count,
            open: 0,
            ready: 0,
            lost: 0,
        };
        let random = Random::new(plan.seed ^ (u64::from(plan.first) << 32));
        Ok(Swarm {
            plan,
            habits,
            target,
            clock,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS_MAX),
            buffer: vec![0; READ_LEN],
            slots: Vec::new(),
            standing,
            random,
            timetable: None,
            running: false,
            swept: Duration::ZERO,
            kept_alive: Duration::ZERO,
            tally: Tally::default(),
            faults: BTreeMap::new(),
            missed: 0,
        })
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing
    }

    /// Leechers that received at least one block.
    pub(super) fn served(&self) -> u32 {
        u32::try_from(self.slots.iter().filter(|slot| slot.leecher.blocks > 0).count()).expect("counted by a u32")
    }

    /// The clock runs: everything ready asks, and whatever becomes ready later does so then.
    pub(super) fn start(&mut self) {
        self.running = true;
        let begun = self.clock.elapsed();
        self.timetable = self.plan.interval.map(|interval| Timetable {
            step: interval.as_secs_f64() / f64::from(self.plan.count),
            begun,
            asked: 0,
        });
        if self.timetable.is_none() {
            (0..self.slots.len()).for_each(|index| self.refill(index));
        }
    }

    /// One turn: connect some, wait for events, serve them, ask what the timetable says.
    pub(super) fn turn(&mut self) -> io::Result<()> {
        self.connect_some();
        let timeout = self.timeout();
        self.events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for at in 0..self.events.len() {
            let event = self.events[at];
            self.on_event(
                usize::try_from(event.data.u64()).expect("an index of ours"),
                event.flags,
            );
        }
        self.ask_what_is_due();
        let now = self.clock.elapsed();
        if now - self.swept >= SWEEP {
            self.swept = now;
            self.sweep(now);
        }
        Ok(())
    }

    fn timeout(&self) -> Timespec {
        let wait = if self.running && self.plan.busy {
            Duration::ZERO
        } else if let Some(timetable) = &self.timetable {
            timetable.due().saturating_sub(self.clock.elapsed()).min(SWEEP)
        } else {
            SWEEP
        };
        Timespec {
            tv_sec: 0,
            tv_nsec: wait.subsec_nanos().into(),
        }
    }

    fn connect_some(&mut self) {
        while self.slots.len() < self.plan.count as usize {
            let settled = self.standing.open + self.standing.lost;
            if self.slots.len() >= settled as usize + CONNECTING_MAX {
                return;
            }
            let index = self.slots.len();
            let number = self.plan.first + u32::try_from(index).expect("at most the plan's count");
            let peer_id = leecher::peer_id(number, self.plan.seed);
            let leecher = Leecher::new(peer_id, self.target, self.habits, number, self.plan.total);
            let stream = self.connect(number).and_then(|stream| {
                let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
                epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(index as u64), flags)?;
                Ok(stream)
            });
            self.slots.push(Slot {
                leecher,
                stream: None,
                connected: false,
                wants_write: true,
                open: false,
                ready: false,
            });
            match stream {
                Ok(stream) => self.slots[index].stream = Some(stream),
                Err(_) => self.lose(index, Fault::ConnectFailed),
            }
        }
    }

    fn connect(&self, number: u32) -> io::Result<TcpStream> {
        let socket = Socket::new(
            Domain::for_address(self.plan.server),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.set_tcp_nodelay(true)?;
        if let Some(base) = self.plan.source {
            let source = Ipv4Addr::from_bits(base.to_bits().wrapping_add(number));
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        match socket.connect(&self.plan.server.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
            Ok(()) | Err(_) => Ok(socket.into()),
        }
    }

    fn on_event(&mut self, index: usize, flags: epoll::EventFlags) {
        let slot = &mut self.slots[index];
        let Some(stream) = &slot.stream else { return };
        if !slot.connected {
            match stream.take_error() {
                Ok(None) => slot.connected = true,
                Ok(Some(_)) | Err(_) => return self.lose(index, Fault::ConnectFailed),
            }
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            self.receive(index);
        }
        // What the bytes gave rise to leaves in one send.
        self.flush(index);
    }

    fn receive(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(mut stream) = slot.stream.as_ref() else { return };
        let closed = if slot.open {
            Fault::Closed
        } else {
            Fault::ClosedInHandshake
        };
        let len = match stream.read(&mut self.buffer) {
            Ok(0) => return self.lose(index, closed),
            Ok(len) => len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(_) => return self.lose(index, closed),
        };
        let now = nanos(self.clock.elapsed());
        let mut context = Context {
            target: self.target,
            habits: self.habits,
            tally: &mut self.tally,
            random: &mut self.random,
        };
        if let Err(fault) = slot.leecher.on_bytes(&self.buffer[..len], now, &mut context) {
            return self.lose(index, fault);
        }
        if !slot.open && slot.leecher.is_open() {
            slot.open = true;
            self.standing.pending -= 1;
            self.standing.open += 1;
        }
        if slot.ready != slot.leecher.is_ready() {
            slot.ready = !slot.ready;
            self.standing.ready = if slot.ready {
                self.standing.ready + 1
            } else {
                self.standing.ready - 1
            };
        }
        if self.running && self.timetable.is_none() {
            slot.leecher.fill(now, &mut context);
        }
    }

    fn refill(&mut self, index: usize) {
        let now = nanos(self.clock.elapsed());
        let mut context = Context {
            target: self.target,
            habits: self.habits,
            tally: &mut self.tally,
            random: &mut self.random,
        };
        self.slots[index].leecher.fill(now, &mut context);
        self.flush(index);
    }

    fn ask_what_is_due(&mut self) {
        let Some(mut timetable) = self.timetable.take() else {
            return;
        };
        let now = self.clock.elapsed();
        while timetable.due() <= now {
            let index = usize::try_from(timetable.asked % u64::from(self.plan.count)).expect("an index of ours");
            timetable.asked += 1;
            let Some(slot) = self.slots.get_mut(index) else {
                continue;
            };
            let mut context = Context {
                target: self.target,
                habits: self.habits,
                tally: &mut self.tally,
                random: &mut self.random,
            };
            if slot.leecher.ask(nanos(now), &mut context) {
                self.flush(index);
            } else {
                self.missed += 1;
            }
        }
        self.timetable = Some(timetable);
    }

    fn sweep(&mut self, now: Duration) {
        let keep_alive = now - self.kept_alive >= KEEP_ALIVE;
        if keep_alive {
            self.kept_alive = now;
        }
        for index in 0..self.slots.len() {
            if keep_alive && self.slots[index].leecher.is_open() {
                wire::encode(&Message::KeepAlive, &mut self.slots[index].leecher.out);
                self.flush(index);
            }
            self.slots[index].leecher.forgive();
            if self.running && self.timetable.is_none() {
                self.refill(index);
            }
        }
    }

    fn flush(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(mut stream) = slot.stream.as_ref() else { return };
        if !slot.connected {
            return;
        }
        while !slot.leecher.out.is_empty() {
            match stream.write(&slot.leecher.out) {
                Ok(len) => drop(slot.leecher.out.drain(..len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    let closed = if slot.open {
                        Fault::Closed
                    } else {
                        Fault::ClosedInHandshake
                    };
                    return self.lose(index, closed);
                }
            }
        }
        let wants_write = !slot.leecher.out.is_empty();
        if wants_write != slot.wants_write {
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, wants_write);
            if epoll::modify(&self.epoll, stream, epoll::EventData::new_u64(index as u64), flags).is_err() {
                return self.lose(index, Fault::Closed);
            }
            slot.wants_write = wants_write;
        }
    }

    fn lose(&mut self, index: usize, fault: Fault) {
        let slot = &mut self.slots[index];
        // Closing takes it out of the epoll set.
        slot.stream = None;
        slot.leecher.end(&mut self.tally);
        if slot.open {
            self.standing.open -= 1;
        } else {
            self.standing.pending -= 1;
        }
        if std::mem::take(&mut slot.ready) {
            self.standing.ready -= 1;
        }
        self.standing.lost += 1;
        *self.faults.entry(fault).or_default() += 1;
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a run of less than 584 years")
}
