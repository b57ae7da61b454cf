//! Starting shards: a thread each, pinned, with its ring and its listening sockets.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Instant;

use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Domain, Protocol, Socket, Type};

use super::mailbox::{Inbox, Mailbox};
use super::{Command, Full, Settings, Shard};
use crate::io::uring::{Features, SetupError, Uring, UringConfig, block_signals};
use crate::io::{BUF_LEN, Errno};
use crate::stats::Shared;

/// Submission queue entries of a shard: what one turn of a busy shard submits.
const RING_ENTRIES: u32 = 2048;

/// Receive buffers of 4 KiB: many times the number of peers that say something in one turn.
const RECV_BUFS: u16 = 1024;

/// Buffers a shard needs: a block may have four stretches, and a few connections should get on beside each other.
const BUFS_MIN: u64 = 16;

/// The least memory for extents that a shard gets on with, in bytes.
pub const CACHE_LEN_MIN: u64 = BUFS_MIN * BUF_LEN as u64;

/// Pending connections per listening socket; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// What one shard is started with.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard, from 0.
    pub index: usize,
    /// Addresses to listen at. All shards listen at the same ones (SO_REUSEPORT): where the first was given port 0, the
    /// others are given the [`Handle::local_addrs`] it got.
    pub listen: Vec<SocketAddr>,
    /// The CPU to stay on.
    pub pin_cpu: Option<usize>,
    /// Memory for extents in bytes.
    pub cache_len: u64,
    /// Descriptors the shard may hold: connections and files.
    pub descriptors_max: u32,
    /// Ring features to try.
    pub features: Features,
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

/// Opens a listening socket that several shards may share an address with, and tells where it listens.
///
/// # Errors
/// When the address cannot be had.
fn listen(addr: SocketAddr) -> Result<(OwnedFd, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { addr, source };
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    socket.set_reuse_address(true).map_err(failed)?;
    socket.set_reuse_port(true).map_err(failed)?;
    if addr.is_ipv6() {
        // IPv4 has a socket of its own.
        socket.set_only_v6(true).map_err(failed)?;
    }
    socket.bind(&addr.into()).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?.as_socket().unwrap_or(addr);
    Ok((socket.into(), bound))
}

/// Starts a shard and waits until it listens. `mailbox` and `inbox` are the two ends of its own, see [`super::mailbox`].
///
/// # Errors
/// With cause and remedy.
pub fn spawn(config: ShardConfig, mailbox: Mailbox, inbox: Inbox) -> Result<Handle, StartError> {
    let index = config.index;
    let thread_failed = |source| StartError::Thread { index, source };
    let stats = config.settings.stats.clone();
    let (mut listeners, mut local_addrs) = (Vec::new(), Vec::new());
    for addr in &config.listen {
        let (listener, local_addr) = listen(*addr)?;
        listeners.push(listener);
        local_addrs.push(local_addr);
    }
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
    listeners: Vec<OwnedFd>,
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
    let mut driver = Uring::new(UringConfig {
        entries: RING_ENTRIES,
        pool_bufs: u32::try_from(bufs).unwrap_or(u32::MAX),
        recv_bufs: RECV_BUFS,
        files: config.descriptors_max,
        features: config.features,
    })?;
    notices.extend_from_slice(driver.notices());
    let features = driver.features();
    let listeners = listeners.into_iter().map(|fd| driver.adopt_listener(fd)).collect();
    let bell = driver.adopt(inbox.bell);
    let now = Instant::now();
    let shard = Shard::new(driver, config.settings, listeners, inbox.receiver, bell, seed, now);
    Ok((shard, features, notices))
}
