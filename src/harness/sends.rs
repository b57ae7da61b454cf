//! What a bare sender costs: the least that any server has to spend on a TCP connection of this machine, by three ways to send.
//!
//! One thread sends, one receives, each on its CPU. A connection asks for a batch with as many bytes as the requests of its blocks
//! would have, and for as many blocks as have come whenever some have, so that a batch is always under way. The sender reads what it
//! was asked and sends all of that in one call: no protocol is understood, nothing looked up, chosen, counted or kept, no block has a
//! header. So whoever answers the same connections spends at least what the same way to send costs here.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use serde::Serialize;

use super::cores::{round_trip, stay_on};
use super::load::raise_open_files;
use super::random::Random;

/// A block, and what its request has on the wire (BEP 3).
const BLOCK_LEN: usize = 16 * 1024;
const REQUEST_LEN: usize = 17;
/// What lies in memory to be sent from: more than any cache holds.
const STORE_LEN: usize = 1 << 30;
/// The longest batch: a pipe must hold it.
pub const BATCH_MAX: usize = 1 << 20;
const EVENTS_MAX: usize = 512;
/// How long a sender without work waits until it looks whether it is to end.
const STOP_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// A run in which nothing arrives for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a batch comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The same memory each time, copied by `send`: it is in the CPU's cache.
    Hot,
    /// Any stretch of a GiB of memory, copied by `send`.
    Cold,
    /// Any stretch of a GiB of a file in memory, by `splice` through a pipe: nothing is copied.
    Spliced,
}

/// What is to be sent, and where.
#[derive(Clone, Copy, Debug)]
pub struct Sends {
    /// How many connections.
    pub connections: usize,
    /// Bytes of a batch: a multiple of 16 KiB, at most [`BATCH_MAX`].
    pub batch: usize,
    /// Bytes in all, for each source. Without any nothing is sent.
    pub bytes: u64,
    /// The CPU of the thread that sends, and of the one that receives.
    pub cpus: (usize, usize),
}

/// What one source cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Where the bytes came from.
    pub source: Source,
    /// CPU-seconds of the sending thread, user and system, for each GiB.
    pub cpu_seconds_per_gib: f64,
    /// 10^6 bytes in a second.
    pub megabytes_per_second: f64,
}

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Nanoseconds of a cache line from CPU to CPU and back, before the first run and after the last: see [`super::cores`].
    pub round_trip_ns: (u64, u64),
    /// Each source, in the order of [`Source`].
    pub costs: Vec<Cost>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = self.round_trip_ns;
        writeln!(f, "CPU to CPU and back    {before} ns before, {after} ns after")?;
        for cost in &self.costs {
            let source = match cost.source {
                Source::Hot => "copied, hot",
                Source::Cold => "copied, cold",
                Source::Spliced => "spliced, not copied",
            };
            let (cost, rate) = (cost.cpu_seconds_per_gib, cost.megabytes_per_second);
            writeln!(f, "{source:<22} {cost:.3} CPU-s/GiB, {rate:.0} MB/s")?;
        }
        Ok(())
    }
}

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for makes no sense.
    #[error("a batch of {0} bytes: it has to be a multiple of {BLOCK_LEN} and at most {BATCH_MAX}")]
    Batch(usize),
    /// The system refused something.
    #[error("cannot {step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn cannot<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::System {
        step,
        source: error.into(),
    }
}

impl Sends {
    /// Runs all three.
    pub fn run(&self) -> Result<Report, Error> {
        if self.batch == 0 || self.batch > BATCH_MAX || !self.batch.is_multiple_of(BLOCK_LEN) {
            return Err(Error::Batch(self.batch));
        }
        raise_open_files();
        let apart = || {
            let took = round_trip(self.cpus.0, self.cpus.1).map_err(cannot("use both CPUs"))?;
            Ok(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
        };
        let before = apart()?;
        let mut costs = Vec::new();
        if self.bytes > 0 {
            for source in [Source::Hot, Source::Cold, Source::Spliced] {
                costs.push(self.measure(source)?);
            }
        }
        Ok(Report {
            round_trip_ns: (before, apart()?),
            costs,
        })
    }

    fn measure(&self, source: Source) -> Result<Cost, Error> {
        let store = Store::new(source, self.batch)?;
        let mut sender = Sender::new(store, self.batch)?;
        let mut receivers = Vec::with_capacity(self.connections);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(cannot("listen"))?;
        let address = listener.local_addr().map_err(cannot("listen"))?;
        for _ in 0..self.connections {
            let receiver = TcpStream::connect(address).map_err(cannot("connect"))?;
            let (accepted, _) = listener.accept().map_err(cannot("accept"))?;
            sender.add(accepted).map_err(cannot("make a connection"))?;
            receivers.push(receiver);
        }
        let (stop, ready) = (AtomicBool::new(false), Barrier::new(2));
        let ((spent, sent), took) = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let placed = stay_on(self.cpus.0);
                ready.wait();
                placed.map_err(cannot("use the sender's CPU"))?;
                let before = cpu_time();
                let sent = sender.run(&stop);
                let spent = cpu_time().saturating_sub(before);
                sent.map_err(cannot("send")).map(|()| (spent, sender.sent))
            });
            let receiving = scope.spawn(|| {
                let placed = stay_on(self.cpus.1);
                ready.wait();
                let started = Instant::now();
                let received = placed.and_then(|()| receive(&receivers, self.batch, self.bytes));
                stop.store(true, Ordering::Relaxed);
                received.map_err(cannot("receive")).map(|()| started.elapsed())
            });
            let took = receiving.join().expect("the receiver does not panic");
            let spent = sending.join().expect("the sender does not panic");
            Ok::<_, Error>((spent?, took?))
        })?;
        // More than was asked for: what is under way when the last byte is received was sent as well.
        let gib = sent as f64 / f64::from(1 << 30);
        Ok(Cost {
            source,
            cpu_seconds_per_gib: spent.as_secs_f64() / gib,
            megabytes_per_second: self.bytes as f64 / took.as_secs_f64() / 1e6,
        })
    }
}

/// CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// What is sent.
enum Store {
    Memory(Vec<u8>),
    File(OwnedFd),
}

impl Store {
    fn new(source: Source, batch: usize) -> Result<Store, Error> {
        // Pages that were never written to are all the same one.
        let filled = |len: usize| vec![0x5a_u8; len];
        Ok(match source {
            Source::Hot => Store::Memory(filled(batch)),
            Source::Cold => Store::Memory(filled(STORE_LEN)),
            Source::Spliced => {
                let failed = "make a file in memory";
                let file = memfd_create("btd-bench-sends", MemfdFlags::CLOEXEC).map_err(cannot(failed))?;
                let mut file = std::fs::File::from(file);
                let some = filled(BATCH_MAX);
                for _ in 0..STORE_LEN / BATCH_MAX {
                    file.write_all(&some).map_err(cannot(failed))?;
                }
                Store::File(file.into())
            }
        })
    }

    /// How many batches lie in it.
    fn batches(&self, batch: usize) -> u32 {
        let len = match self {
            Store::Memory(memory) => memory.len(),
            Store::File(_) => STORE_LEN,
        };
        u32::try_from(len / batch).expect("a GiB has at most 2^16 blocks")
    }
}

struct Sender {
    store: Store,
    batch: usize,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    random: Random,
    /// Bytes that the sockets have taken.
    sent: u64,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of requests that have come.
    asked: usize,
    /// Of what is being sent: where the rest of it lies, how long that is, and how much of it is in the pipe.
    at: usize,
    left: usize,
    piped: usize,
    pipe: Option<(OwnedFd, OwnedFd)>,
    blocked: bool,
}

impl Sender {
    fn new(store: Store, batch: usize) -> Result<Sender, Error> {
        Ok(Sender {
            store,
            batch,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(cannot("make an epoll"))?,
            connections: Vec::new(),
            random: Random::new(1),
            sent: 0,
        })
    }

    fn add(&mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let pipe = match self.store {
            Store::Memory(_) => None,
            Store::File(_) => {
                let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                fcntl_setpipe_size(&into, self.batch)?;
                Some((out, into))
            }
        };
        let data = epoll::EventData::new_u64(self.connections.len() as u64);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
        self.connections.push(Connection {
            stream,
            asked: 0,
            at: 0,
            left: 0,
            piped: 0,
            pipe,
            blocked: false,
        });
        Ok(())
    }

    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let mut requests = [0; 4096];
        while !stop.load(Ordering::Relaxed) {
            events.clear();
            wait(&self.epoll, &mut events, &STOP_WAIT)?;
            for event in &events {
                let epoll::Event { flags, data } = *event;
                let index = data.u64();
                let connection = &mut self.connections[index as usize];
                if flags.contains(epoll::EventFlags::IN) {
                    match (&connection.stream).read(&mut requests) {
                        // The receiver is through.
                        Ok(0) => return Ok(()),
                        Ok(len) => connection.asked += len,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                let blocked = connection.pump((&self.store, self.batch), &mut self.random, &mut self.sent)?;
                if blocked != connection.blocked {
                    connection.blocked = blocked;
                    let mut flags = epoll::EventFlags::IN;
                    flags.set(epoll::EventFlags::OUT, blocked);
                    let data = epoll::EventData::new_u64(index);
                    epoll::modify(self.epoll.as_fd(), &connection.stream, data, flags)?;
                }
            }
        }
        Ok(())
    }
}

impl Connection {
    /// Sends what is asked for until there is nothing, or the socket takes no more: that is what `true` says.
    fn pump(&mut self, (store, batch): (&Store, usize), random: &mut Random, all: &mut u64) -> io::Result<bool> {
        loop {
            if self.left == 0 {
                let blocks = (self.asked / REQUEST_LEN).min(batch / BLOCK_LEN);
                if blocks == 0 {
                    return Ok(false);
                }
                self.asked -= blocks * REQUEST_LEN;
                self.left = blocks * BLOCK_LEN;
                self.at = random.below(store.batches(batch)) as usize * batch;
            }
            let from = self.at;
            let sent = match (store, &self.pipe) {
                (Store::File(file), Some((out, into))) => {
                    let flags = SpliceFlags::NONBLOCK;
                    if self.piped == 0 {
                        self.piped = splice(file, Some(&mut (from as u64)), into, None, self.left, flags)?;
                    }
                    let sent = splice(out, None, &self.stream, None, self.piped, flags);
                    self.piped -= sent.unwrap_or(0);
                    sent
                }
                (Store::Memory(memory), _) => {
                    rustix::net::send(&self.stream, &memory[from..from + self.left], SendFlags::NOSIGNAL)
                }
                (Store::File(_), None) => unreachable!("each connection of a file has a pipe"),
            };
            match sent {
                Ok(sent) => {
                    self.at += sent;
                    self.left -= sent;
                    *all += sent as u64;
                }
                Err(Errno::AGAIN) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, patience: &Timespec) -> io::Result<()> {
    match epoll::wait(epoll, rustix::buffer::spare_capacity(events), Some(patience)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Asks for batches on each connection and takes them, until so many bytes have come. Never sleeps: a receiver's wake-up is charged to
/// the sender.
fn receive(streams: &[TcpStream], batch: usize, bytes: u64) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let request = vec![0; batch / BLOCK_LEN * REQUEST_LEN];
    for (index, mut stream) in streams.iter().enumerate() {
        stream.set_nodelay(true)?;
        stream.write_all(&request)?;
        stream.set_nonblocking(true)?;
        epoll::add(
            &epoll,
            stream,
            epoll::EventData::new_u64(index as u64),
            epoll::EventFlags::IN,
        )?;
    }
    let mut taken = vec![0; streams.len()];
    let mut buffer = vec![0; 256 * 1024];
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let (mut received, mut heard) = (0, Instant::now());
    while received < bytes {
        events.clear();
        wait(&epoll, &mut events, &AT_ONCE)?;
        match events.is_empty() {
            true if heard.elapsed() > PATIENCE => return Err(io::ErrorKind::TimedOut.into()),
            true => std::hint::spin_loop(),
            false => heard = Instant::now(),
        }
        for event in &events {
            let index = event.data.u64() as usize;
            let mut stream = &streams[index];
            match stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => {
                    received += len as u64;
                    taken[index] += len;
                    let blocks = taken[index] / BLOCK_LEN;
                    taken[index] %= BLOCK_LEN;
                    if blocks > 0 {
                        // A few hundred bytes on a connection whose last ones were taken: there is room.
                        stream.write_all(&request[..blocks * REQUEST_LEN])?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sends(connections: usize, batch: usize, bytes: u64) -> Sends {
        let last = thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1);
        Sends {
            connections,
            batch,
            bytes,
            cpus: (0, last),
        }
    }

    #[test]
    fn every_source_is_sent_to_the_end_and_has_a_cost() {
        let sends = sends(3, 4 * BLOCK_LEN, 8 << 20);
        if sends.cpus.0 == sends.cpus.1 {
            return;
        }
        let report = sends.run().expect("a run");
        let sources: Vec<_> = report.costs.iter().map(|cost| cost.source).collect();
        assert_eq!(sources, [Source::Hot, Source::Cold, Source::Spliced]);
        for cost in report.costs {
            assert!(
                cost.cpu_seconds_per_gib > 0.0 && cost.megabytes_per_second > 0.0,
                "{cost:?}"
            );
        }
    }

    #[test]
    fn a_batch_that_is_no_multiple_of_a_block_is_refused() {
        for batch in [0, 1, BLOCK_LEN + 1, BATCH_MAX + BLOCK_LEN] {
            assert!(matches!(sends(1, batch, 1).run(), Err(Error::Batch(_))), "{batch}");
        }
    }
}
