//! Starting shards: a thread each, pinned, with its ring and its listening sockets.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::mailbox::{Inbox, Mailbox};
use super::{Command, Full, Settings, Shard, tracker};
use crate::io::uring::{Features, Patience, SetupError, Uring, UringConfig, block_signals};
use crate::io::{BUF_LEN, Errno};
use crate::stats::Shared;

/// Submission queue entries of a shard that may have them: what one turn of a busy shard submits.
pub const RING_ENTRIES_MAX: u32 = 2048;

/// Receive buffers of some 4 KiB: many times the number of peers that say something in one turn.
const RECV_BUFS: u16 = 1024;

/// Buffers a shard needs: a block may have four stretches, and a few connections should get on beside each other.
const BUFS_MIN: u64 = 16;

/// The least memory for extents that a shard gets on with, in bytes.
pub const CACHE_LEN_MIN: u64 = BUFS_MIN * BUF_LEN as u64;

/// What the kernel may keep of datagrams that wait, in bytes: 1,400 announces. It is capped by `net.core.rmem_max`.
pub const DATAGRAM_QUEUE_LEN: usize = 1 << 20;

/// Connections to the tracker that say nothing are accepted after so long a time, to be told so.
const DEFER_MAX: Duration = Duration::from_secs(5);

/// Pending connections per listening socket; the kernel caps it at `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// What one shard is started with.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard, from 0.
    pub index: usize,
    /// Addresses to listen at. All shards listen at the same ones (SO_REUSEPORT): where the first was given port 0, the
    /// others are given the [`Handle::local_addrs`] it got.
    pub listen: Vec<SocketAddr>,
    /// The network device that peers come by and are reached through, if it is to be a certain one. Where it is not there the
    /// shard starts without listening, and is told to by [`Command::Listen`] when it is.
    pub device: Option<String>,
    /// The addresses that peers are reached from, at most one of a family; the system chooses where there are none. Those
    /// that are listened at as well need not be there yet.
    pub sources: Vec<IpAddr>,
    /// Addresses of the tracker, if the settings have one: for datagrams, and for HTTP. Shared like `listen`.
    pub tracker_udp: Vec<SocketAddr>,
    /// See `tracker_udp`.
    pub tracker_http: Vec<SocketAddr>,
    /// The CPU to stay on.
    pub pin_cpu: Option<usize>,
    /// Memory for extents in bytes.
    pub cache_len: u64,
    /// Submission queue entries of its ring: a power of two, at most [`RING_ENTRIES_MAX`].
    pub ring_entries: u32,
    /// Descriptors the shard may hold: connections and files.
    pub descriptors_max: u32,
    /// Ring features to try.
    pub features: Features,
    /// How long there may be no locked memory for the ring.
    pub patience: Patience,
    /// What the shard itself is told.
    pub settings: Settings,
}

/// Why a shard did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No ring.
    #[error(transparent)]
    Ring(#[from] SetupError),
    /// An address cannot be listened at.
    #[error("cannot listen at {addr}: {source} (hint: is another client running, or the port below 1024?)")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// No thread, or no eventfd.
    #[error("cannot start shard {index}: {source}")]
    Thread {
        /// Which shard.
        index: usize,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Too few buffers for a shard to get on.
    #[error("cache-size gives shard {index} {len} bytes, at least {CACHE_LEN_MIN} needed")]
    CacheTooSmall {
        /// Which shard.
        index: usize,
        /// Its part of the cache.
        len: u64,
    },
    /// No random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// A shard that runs.
#[derive(Debug)]
pub struct Handle {
    /// Which shard, from 0.
    pub index: usize,
    /// Where it listens.
    pub local_addrs: Vec<SocketAddr>,
    /// Where the tracker's datagrams come to, and its HTTP.
    pub tracker_udp: Vec<SocketAddr>,
    /// See `tracker_udp`.
    pub tracker_http: Vec<SocketAddr>,
    /// Its figures.
    pub stats: Arc<Shared>,
    /// What the kernel gave its ring.
    pub features: Features,
    /// What was asked for and not given, one line each, with the remedy.
    pub notices: Vec<String>,
    mailbox: Mailbox,
    thread: JoinHandle<Result<(), Errno>>,
}

impl Handle {
    /// Tells the shard something.
    ///
    /// # Errors
    /// When its queue is full or it has ended.
    pub fn send(&self, command: Command) -> Result<(), Full> {
        self.mailbox.send(command)
    }

    /// Whether the shard's thread has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the shard to end.
    ///
    /// # Errors
    /// What broke its ring.
    pub fn join(self) -> Result<(), Errno> {
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Lets a socket be bound to an address that this machine does not have (`IP_FREEBIND`, ip(7)): nothing comes by it before it
/// has it, and what comes by then is taken in.
///
/// # Errors
/// The kernel's.
pub fn may_come_later(socket: &Socket, ip: IpAddr) -> std::io::Result<()> {
    match ip {
        IpAddr::V4(_) => socket.set_freebind_v4(true),
        IpAddr::V6(_) => socket.set_freebind_v6(true),
    }
}

/// What a listening socket is told before it has its address.
#[derive(Clone, Copy, Default)]
struct Manner<'a> {
    /// It takes in only what comes by this device.
    device: Option<&'a str>,
    /// See [`may_come_later`].
    may_come_later: bool,
}

/// Opens a listening socket that several shards may share an address with, and tells where it listens.
///
/// # Errors
/// When the address cannot be had, or there is no such device.
fn listen_by(manner: Manner<'_>, addr: SocketAddr) -> Result<(OwnedFd, SocketAddr), StartError> {
    let (socket, bound) = bind(addr, manner, Type::STREAM, Protocol::TCP)?;
    let failed = |source| StartError::Listen { addr, source };
    socket.listen(BACKLOG).map_err(failed)?;
    Ok((socket.into(), bound))
}

fn listen(addr: SocketAddr) -> Result<(OwnedFd, SocketAddr), StartError> {
    listen_by(Manner::default(), addr)
}

/// Sockets for [`Command::Listen`] at these addresses, which several shards may share, by this device. An address of it may come
/// later than the device itself.
///
/// # Errors
/// When an address cannot be had, or there is no such device.
pub fn listeners(device: &str, addrs: &[SocketAddr]) -> Result<Vec<OwnedFd>, StartError> {
    let manner = Manner {
        device: Some(device),
        may_come_later: true,
    };
    let open = |addr: &SocketAddr| listen_by(manner, *addr).map(|(fd, _)| fd);
    addrs.iter().map(open).collect()
}

/// The shortest datagram that asks for something: a `connect` (BEP 15).
const DATAGRAM_LEN_MIN: u32 = 16;

/// A filter in the kernel's classic language: what is too short to ask for anything is dropped before it is queued. An empty
/// datagram would do worse than fill the queue: it ends a multishot receive. The length that the kernel compares is that of
/// the datagram with its UDP header.
const WHOLE_REQUESTS: [SockFilter; 4] = {
    const UDP_HEADER_LEN: u32 = 8;
    [
        SockFilter::new((libc::BPF_LD | libc::BPF_W | libc::BPF_LEN) as u16, 0, 0, 0),
        SockFilter::new(
            (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16,
            0,
            1,
            UDP_HEADER_LEN + DATAGRAM_LEN_MIN,
        ),
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
    ]
};

/// Opens a socket for datagrams, likewise.
///
/// # Errors
/// When the address cannot be had.
fn receive(addr: SocketAddr) -> Result<(OwnedFd, SocketAddr), StartError> {
    let (socket, bound) = bind(addr, Manner::default(), Type::DGRAM, Protocol::UDP)?;
    socket
        .attach_filter(&WHOLE_REQUESTS)
        .map_err(|source| StartError::Listen { addr, source })?;
    // As much as the system allows.
    let _ = socket.set_recv_buffer_size(DATAGRAM_QUEUE_LEN);
    let _ = socket.set_send_buffer_size(DATAGRAM_QUEUE_LEN);
    Ok((socket.into(), bound))
}

fn bind(
    addr: SocketAddr,
    manner: Manner<'_>,
    kind: Type,
    protocol: Protocol,
) -> Result<(Socket, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { addr, source };
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol)).map_err(failed)?;
    socket.set_reuse_address(true).map_err(failed)?;
    socket.set_reuse_port(true).map_err(failed)?;
    if addr.is_ipv6() {
        // IPv4 has a socket of its own.
        socket.set_only_v6(true).map_err(failed)?;
    }
    if let Some(device) = manner.device {
        socket.bind_device(Some(device.as_bytes())).map_err(failed)?;
    }
    if manner.may_come_later {
        may_come_later(&socket, addr.ip()).map_err(failed)?;
    }
    socket.bind(&addr.into()).map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?.as_socket().unwrap_or(addr);
    Ok((socket, bound))
}

/// Sockets that the shard's thread takes over.
struct Opened {
    listeners: Vec<OwnedFd>,
    udp: Vec<OwnedFd>,
    http: Vec<OwnedFd>,
}

type Open = fn(SocketAddr) -> Result<(OwnedFd, SocketAddr), StartError>;

fn open_all(addrs: &[SocketAddr], open: Open) -> Result<(Vec<OwnedFd>, Vec<SocketAddr>), StartError> {
    let opened: Result<Vec<_>, _> = addrs.iter().map(|addr| open(*addr)).collect();
    Ok(opened?.into_iter().unzip())
}

/// Starts a shard and waits until it listens. `mailbox` and `inbox` are the two ends of its own, see [`super::mailbox`].
///
/// # Errors
/// With cause and remedy.
pub fn spawn(config: ShardConfig, mailbox: Mailbox, inbox: Inbox) -> Result<Handle, StartError> {
    let index = config.index;
    let thread_failed = |source| StartError::Thread { index, source };
    let stats = config.settings.stats.clone();
    let opened = config.listen.iter().map(|addr| {
        let manner = Manner {
            device: config.device.as_deref(),
            may_come_later: config.sources.contains(&addr.ip()),
        };
        listen_by(manner, *addr)
    });
    let (listeners, local_addrs) = match opened.collect::<Result<Vec<_>, _>>() {
        // Of binding to a device that is not there, and of nothing else.
        Err(StartError::Listen { source, .. }) if Errno::from_io_error(&source) == Some(Errno::NODEV) => {
            (Vec::new(), config.listen.clone())
        }
        opened => opened?.into_iter().unzip(),
    };
    let (udp, tracker_udp) = open_all(&config.tracker_udp, receive)?;
    let (http, tracker_http) = open_all(&config.tracker_http, listen)?;
    let listeners = Opened { listeners, udp, http };
    let mut seed = [0; 8];
    SystemRandom::new().fill(&mut seed).map_err(|_| StartError::Random)?;
    let (started, outcome) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("btd-shard-{index}"))
        .spawn(move || {
            block_signals();
            match ready(config, listeners, inbox, u64::from_ne_bytes(seed)) {
                Ok((mut shard, features, notices)) => {
                    // The starter waits for this; if it has gone, so be it.
                    let _ = started.send(Ok((features, notices)));
                    shard.run()
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    Ok(())
                }
            }
        })
        .map_err(thread_failed)?;
    let (features, notices) = outcome
        .recv()
        .map_err(|_| thread_failed(std::io::Error::other("its thread ended")))??;
    Ok(Handle {
        index,
        local_addrs,
        tracker_udp,
        tracker_http,
        stats,
        features,
        notices,
        mailbox,
        thread,
    })
}

/// In the shard's thread: the ring, and the shard on it.
fn ready(
    config: ShardConfig,
    opened: Opened,
    inbox: Inbox,
    seed: u64,
) -> Result<(Shard<Uring>, Features, Vec<String>), StartError> {
    let mut notices = Vec::new();
    if let Some(cpu) = config.pin_cpu {
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(cpu);
        if let Err(errno) = rustix::thread::sched_setaffinity(None, &cpus) {
            notices.push(format!("shard {} is not pinned to CPU {cpu}: {errno}", config.index));
        }
    }
    let bufs = config.cache_len / BUF_LEN as u64;
    if config.cache_len < CACHE_LEN_MIN {
        return Err(StartError::CacheTooSmall {
            index: config.index,
            len: config.cache_len,
        });
    }
    let wanted = UringConfig {
        entries: config.ring_entries,
        pool_bufs: u32::try_from(bufs).unwrap_or(u32::MAX),
        pools: u32::try_from(config.settings.mailboxes.len()).unwrap_or(u32::MAX),
        recv_bufs: RECV_BUFS,
        files: config.descriptors_max,
        features: config.features,
    };
    let is_short = |error: &SetupError| matches!(error, SetupError::Memlock { .. });
    let what = format!("shard {}", config.index);
    let mut driver = config.patience.make(&what, is_short, || Uring::new(wanted))?;
    if let Some(device) = &config.device {
        driver.bind_to_device(device);
    }
    driver.leave_from(&config.sources);
    let features = driver.features();
    let Opened { listeners, udp, http } = opened;
    let listeners = listeners.into_iter().map(|fd| driver.adopt_listener(fd)).collect();
    let sockets = tracker::Sockets {
        udp: udp.into_iter().map(|fd| driver.adopt_datagram_socket(fd)).collect(),
        http: http
            .into_iter()
            .map(|fd| driver.adopt_deferred_listener(fd, DEFER_MAX))
            .collect(),
    };
    let bell = driver.adopt(inbox.bell);
    let now = Instant::now();
    let mut shard = Shard::new(driver, config.settings, listeners, inbox.receiver, bell, seed, now);
    shard.open_tracker(sockets);
    notices.extend_from_slice(shard.driver.notices());
    Ok((shard, features, notices))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_that_are_too_short_to_ask_for_anything_do_not_reach_the_queue() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let (fd, addr) = receive(addr.parse().unwrap()).unwrap();
            let near = std::net::UdpSocket::from(fd);
            near.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let far = std::net::UdpSocket::bind((addr.ip(), 0)).unwrap();
            for round in 0..200_u8 {
                for len in [0, 1, 0, 15, 0] {
                    far.send_to(&vec![round; len], addr).unwrap();
                }
                far.send_to(&[round; 16], addr).unwrap();
                far.send_to(&[round; 1400], addr).unwrap();
                // Loopback keeps the order: what was dropped would have come first.
                for len in [16, 1400] {
                    let mut bytes = [0; 2048];
                    assert_eq!(near.recv(&mut bytes).unwrap(), len, "{addr}, round {round}");
                    assert!(bytes[..len].iter().all(|byte| *byte == round));
                }
            }
        }
    }
}
