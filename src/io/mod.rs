//! The seam between a shard and the machine: operations go out, completions come in.
//!
//! A shard never touches the kernel. It hands an [`Op`] to a [`Driver`] together with an [`Owner`] (its own note of whom
//! the answer concerns) and meets the answer as a [`Completion`] in one of the next turns. Everything the kernel may
//! still touch (buffers, message headers, path strings, file handles) is *moved* into the op and comes back with its
//! last completion, so that use-after-free is a type error and not a matter of care.
//!
//! This room knows submission and completion queues and nothing of BitTorrent. [`uring`] drives the kernel's io_uring;
//! [`memory`] is a small world inside the process, for tests of the shard without a kernel ring.
//!
//! Next: [`op`] for the vocabulary, then [`uring`] for how it is carried out, then the room `shard`, which uses it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

mod bell;
pub mod datagrams;
pub mod handle;
pub mod memory;
pub mod op;
pub mod token;
#[allow(unsafe_code)] // One of two exceptions; its safety story is told in io/uring/mod.rs.
pub mod uring;

pub use bell::Bell;
pub use datagrams::{DATAGRAM_LEN_MAX, Datagram, Datagrams};
pub use handle::Handle;
pub use op::{Accepted, Completion, Op, Opened, Outcome, Received, Segment, SendBatch};
pub use rustix::io::Errno;
pub use token::{OpKind, Owner, Token};
pub use uring::pool::{BUF_LEN, Buf, Pool};
pub use uring::recv_ring::{RECV_BUF_LEN, RecvBuf};

/// How long a turn may sleep for its first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Longest sleep; zero polls.
    pub at_most: Duration,
    /// Sleep at least this long, to collect a batch, unless `enough` completions come sooner (`min_wait`, kernel 6.12;
    /// ignored where missing). Zero wakes at the first completion.
    pub at_least: Duration,
    /// How many completions are a batch, besides one for each operation that begins with this turn: most of those are sends, which
    /// end at once. A driver may take fewer for enough.
    pub enough: usize,
}

impl Wait {
    /// Collect what is there, without sleeping.
    pub const POLL: Wait = Wait {
        at_most: Duration::ZERO,
        at_least: Duration::ZERO,
        enough: 1,
    };
}

/// How a socket is ended, or half of it, by [`Driver::shutdown`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What was sent still arrives, then the end of the stream.
    Orderly,
    /// No more is sent, and the peer is told; what it still says is read.
    Half,
    /// The connection is reset: what the peer has not taken is thrown away with the kernel memory it holds.
    Reset,
}

/// What a driver has done since it started. Plain counts; the shard publishes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Submission queue entries handed over.
    pub sqes: u64,
    /// Completion queue entries reaped.
    pub cqes: u64,
    /// Turns that found the completion queue overflown.
    pub overflows: u64,
    /// Completions of operations that are no more (dropped, never indexed).
    pub stale: u64,
    /// Receives ended because no provided buffer was free.
    pub recv_starved: u64,
    /// Operations cancelled although nobody asked for it (io-wq found no thread).
    pub cancelled_unasked: u64,
    /// Datagrams that were too long to be received whole, and were dropped.
    pub datagrams_too_long: u64,
    /// Datagrams that a socket did not take.
    pub datagrams_unsent: u64,
    /// Zero-copy sends whose notification said that nothing was copied.
    pub zero_copy_sent: u64,
    /// Zero-copy sends whose notification said that the kernel copied after all.
    pub zero_copy_copied: u64,
}

/// Carries operations out. Generic, not `dyn`: the seam costs nothing.
pub trait Driver {
    /// Takes an operation. It starts with the next [`turn`](Driver::turn) at the latest, and ends in one completion, or
    /// for the multishot ones ([`Op::Accept`], [`Op::Recv`], [`Op::RecvFrom`]) in several of which the last says so. A send with zero copy has
    /// [`Outcome::Released`] besides.
    fn submit(&mut self, owner: Owner, op: Op) -> Token;

    /// Asks for an operation to end early. Its own completion is the only proof that it did; the request has none.
    fn cancel(&mut self, token: Token);

    /// Starts what was submitted, sleeps as `wait` says if nothing has completed, and appends all completions to `out`.
    ///
    /// # Errors
    /// Only what ends the shard: the ring itself is broken.
    fn turn(&mut self, wait: Wait, out: &mut Vec<Completion>) -> Result<(), Errno>;

    /// Makes a socket to connect to an address with [`Op::Connect`].
    ///
    /// # Errors
    /// When the machine has no descriptors or no such address family.
    fn socket(&mut self, to: SocketAddr) -> Result<Handle, Errno>;

    /// Takes a descriptor over that another driver had: see [`Handle::duplicate`].
    fn take_over(&mut self, fd: OwnedFd) -> Handle;

    /// Takes a listening socket over.
    fn take_over_listener(&mut self, fd: OwnedFd) -> Handle {
        self.take_over(fd)
    }

    /// Gives a batch of datagrams to a socket at once, and empties it. What the socket does not take is lost and counted.
    fn send_datagrams(&mut self, socket: &Handle, batch: &mut Datagrams);

    /// Ends a socket, both ways or one; operations on what has ended complete. The socket is closed when its last handle is
    /// dropped.
    fn shutdown(&mut self, socket: &Handle, ending: Ending);

    /// Lets go of a socket that no operation is in flight on: what was sent still arrives, then the end of the stream.
    fn close(&mut self, socket: Handle);

    /// Lets a file be read past the page cache (`O_DIRECT`) from now on, or through it.
    ///
    /// # Errors
    /// `EINVAL` where the filesystem cannot.
    fn set_direct(&mut self, file: &Handle, direct: bool) -> Result<(), Errno>;

    /// Memory for reads.
    fn pool(&self) -> &Pool;

    /// Operations that have not had their result. One that has lent its memory to a socket has.
    fn in_flight(&self) -> usize;

    /// What was done so far.
    fn counters(&self) -> Counters;
}
