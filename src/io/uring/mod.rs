//! The io_uring driver: one ring per shard, made and used in the shard's thread.
//!
//! # Safety
//! The kernel reads and writes our memory between a submission and the operation's last completion. What keeps that
//! sound:
//! - All such memory is owned by the operation's entry in the `op_table`: pool buffers, message headers with their
//!   iovecs, bytes to be written, addresses, path strings, the eight bytes of a doorbell. An entry leaves when its last completion is reaped, which is when
//!   `IORING_CQE_F_MORE` is clear, and for a zero-copy send when the notification has come. Boxed memory does not move.
//! - Registered memory (the [`pool`]) and the provided buffers (`recv_ring`) are held by this driver until the ring is
//!   closed; pool buffers are unique values while something is read into them.
//! - When the driver is dropped, it cancels what is in flight and reaps until the table is empty, then closes the ring,
//!   then frees. Should the kernel keep an operation beyond patience, or a socket what it was lent, all of it is leaked
//!   rather than freed.
//! - A descriptor is closed after the last operation on it, because each operation holds its [`Handle`].
//!
//! A late or foreign completion finds no entry (its generation is another) and is counted and dropped.
//!
//! Deliberately absent: SQPOLL, IOPOLL, splice, links, bundles, incremental buffers. ARCHITECTURE.md has the measured
//! reasons.

mod accepting;
mod completions;
mod datagrams;
pub mod file_reader;
mod files;
mod op_table;
pub mod page_cache;
mod patience;
pub mod pool;
pub mod recv_ring;
mod registered;
pub(crate) mod send;
pub mod setup;
mod source;
mod thread;

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, Fixed, OpenHow, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::datagrams::Datagrams;
use super::handle::Handle;
use super::op::{Completion, Op, Outcome, Received};
use super::token::{OpKind, Owner, Token};
use super::{Counters, Driver, Ending, Wait};
use files::Files;
use op_table::{InFlight, OpTable, OpenArgs};
pub use patience::Patience;
use pool::{BUF_LEN, Pool};
use recv_ring::{RECV_BUF_LEN, RecvRing};
use registered::Registered;
pub use registered::locked;
pub use setup::{Features, SetupError};
pub use source::leave_from;
pub use thread::{block_signals, run_when_idle};

/// The buffer group of everybody, and that of connections that send blocks.
const RECV_GROUP: u16 = 0;
const BULK_GROUP: u16 = 1;

/// The one of datagrams.
const DATAGRAM_GROUP: u16 = 2;

/// Workers for what the kernel cannot do inline (opens of uncached names, statx): few, since none is on the path of a
/// block. io-wq would make four per CPU.
const IOWQ_WORKERS_MAX: [u32; 2] = [4, 4];

/// The same of a shard. Reads of a filesystem behind another process or machine have one each while they wait, and must leave
/// some for the opens of other disks. They are made when they are needed.
const SHARD_WORKERS_MAX: [u32; 2] = [64, 4];

/// How many descriptors of filesystems behind another process or machine are being closed at a time: each takes one of those
/// workers, for as long as its filesystem likes.
const CLOSES_MAX: usize = 8;

/// With a minimum wait, this many completions end it early in any case.
const BATCH_LEN: usize = 64;

/// How long a peer may leave unacknowledged what was sent to it, as long as a shard lets it take nothing.
const UNACKNOWLEDGED_MS_MAX: u32 = 60_000;

/// How long a driver that is dropped waits for its operations to end.
const DROP_PATIENCE: Duration = Duration::from_secs(2);

/// Sizes of a ring and what belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Submission queue entries; the completion queue has four times as many.
    pub entries: u32,
    /// Pool buffers of [`BUF_LEN`] bytes.
    pub pool_bufs: u32,
    /// Rings of this process that have as many: what may be locked is shared by all of them.
    pub pools: u32,
    /// Receive buffers of some 4 KiB; a power of two.
    pub recv_bufs: u16,
    /// Slots of the registered file table.
    pub files: u32,
    /// Features to try.
    pub features: Features,
}

/// The driver.
pub struct Uring {
    /// Closed first, by hand, in `drop`.
    ring: ManuallyDrop<IoUring>,
    ops: ManuallyDrop<OpTable>,
    pool: ManuallyDrop<Pool>,
    /// What of the pool is registered, if that may be.
    registered: Option<Registered>,
    recv_ring: ManuallyDrop<Rc<RecvRing>>,
    /// Made when it is first wanted; `None` for good where it cannot be had.
    bulk_ring: ManuallyDrop<Option<Rc<RecvRing>>>,
    bulk_tried: bool,
    /// Made with the first receive of datagrams.
    datagram_ring: ManuallyDrop<Option<Rc<RecvRing>>>,
    /// It could not be made, and is not tried again.
    datagram_ring_failed: bool,
    sender: datagrams::Sender,
    files: Files,
    features: Features,
    /// Sockets that are made to connect are bound to it, if there is one.
    device: Option<Box<[u8]>>,
    /// What they leave from, if that is certain: of a family that has none here there are no such sockets.
    sources: Box<[IpAddr]>,
    /// Entries that found the submission queue full while the kernel was busy.
    backlog: VecDeque<squeue::Entry>,
    /// Sends that have their result and not their notification.
    lent: usize,
    /// Closes of files that are kept apart.
    closing: usize,
    counters: Counters,
    notices: Vec<String>,
}

impl Uring {
    /// Makes the ring and registers what belongs to it. Must be called in the thread that will use it.
    ///
    /// # Errors
    /// With cause and remedy, when btd cannot run here.
    pub fn new(config: UringConfig) -> Result<Uring, SetupError> {
        let mut notices = Vec::new();
        let pool_len = u64::from(config.pool_bufs) * BUF_LEN as u64;
        let locked = locked(pool_len * u64::from(config.pools), config.pools.into());
        let (ring, mut features) = setup::ring(config.entries, config.features, locked)?;
        features.ring_fd = features.ring_fd && ring.submitter().register_ring_fd().is_ok();
        let mut workers = SHARD_WORKERS_MAX;
        ring.submitter()
            .register_iowq_max_workers(&mut workers)
            .map_err(|error| setup::other("bound the ring's worker threads", &error))?;
        let pool = Pool::new(config.pool_bufs, features.huge_pages).map_err(|errno| SetupError::Other {
            step: "map the cache",
            errno,
        })?;
        features.huge_pages = pool.huge();
        let registered = features
            .buffers
            .then(|| Registered::new(&ring, &pool, config.pools, &mut notices));
        let registered = registered.flatten();
        features.buffers = registered.is_some();
        let recv_ring = RecvRing::new(config.recv_bufs, RECV_BUF_LEN).map_err(|errno| SetupError::Other {
            step: "map the receive buffers",
            errno,
        })?;
        // SAFETY: address and length are those of the mapping, which the driver keeps until the ring is closed.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(recv_ring.addr(), recv_ring.count(), RECV_GROUP, 0)
        }
        .map_err(|error| match error.raw_os_error() {
            // It counts as locked memory, as the ring does.
            Some(libc::ENOMEM) => SetupError::memlock(locked),
            _ => SetupError::Kernel {
                missing: "IORING_REGISTER_PBUF_RING",
            },
        })?;
        let files = Files::new(&ring, if features.files { config.files } else { 0 });
        features.files = files.free() > 0;
        let mut driver = Uring {
            ring: ManuallyDrop::new(ring),
            ops: ManuallyDrop::new(OpTable::default()),
            pool: ManuallyDrop::new(pool),
            registered,
            recv_ring: ManuallyDrop::new(recv_ring),
            bulk_ring: ManuallyDrop::new(None),
            bulk_tried: false,
            datagram_ring: ManuallyDrop::new(None),
            datagram_ring_failed: false,
            sender: datagrams::Sender::default(),
            files,
            features,
            device: None,
            sources: Box::default(),
            backlog: VecDeque::new(),
            lent: 0,
            closing: 0,
            counters: Counters::default(),
            notices,
        };
        driver.try_multishot_receive()?;
        driver.counters = Counters::default();
        Ok(driver)
    }

    /// Takes a descriptor over, into the registered file table where there is one.
    pub fn adopt(&mut self, fd: OwnedFd) -> Handle {
        self.files.adopt(&self.ring, fd)
    }

    /// Takes a listening socket over. Not into the table, which the kernel takes down some time after the ring was closed:
    /// until then the port would be taken, and who starts btd again at once would not get it.
    #[must_use]
    pub fn adopt_listener(&self, fd: OwnedFd) -> Handle {
        // Inherited by every connection it accepts, which saves each the calls. Neither can fail on a TCP socket.
        let _ = set_up(&fd);
        Handle::kernel(fd, None)
    }

    /// The same for a listener whose peers speak first: a connection is accepted when it has said something, or after so long
    /// a time (whole seconds).
    #[must_use]
    pub fn adopt_deferred_listener(&self, fd: OwnedFd, at_most: Duration) -> Handle {
        accepting::defer(&fd, at_most);
        self.adopt_listener(fd)
    }

    /// Takes a socket over that is bound for datagrams. Not into the table, for the same reason.
    #[must_use]
    pub fn adopt_datagram_socket(&self, fd: OwnedFd) -> Handle {
        Handle::kernel(fd, None)
    }

    /// Binds every socket that is made to connect from now on to a network device: what is sent leaves by it or not at all.
    /// While there is none of this name there are no such sockets.
    pub fn bind_to_device(&mut self, name: &str) {
        self.device = Some(name.as_bytes().into());
    }

    /// Has every socket that is made to connect from now on leave from that of these addresses which is of its family; there
    /// are no such sockets where none is, or while this machine does not have it. Without any the system chooses.
    pub fn leave_from(&mut self, sources: &[IpAddr]) {
        self.sources = sources.into();
    }

    /// What the kernel gave.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// What was asked for and not given, one line each, with the remedy.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Multishot receive (6.0) has no bit in any probe: it is tried once, on a pair of sockets.
    fn try_multishot_receive(&mut self) -> Result<(), SetupError> {
        let failed = |errno| SetupError::Other {
            step: "try the ring on a pair of sockets",
            errno,
        };
        let owner = Owner {
            index: 0,
            generation: 0,
        };
        let (near, far) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        let socket = self.adopt(near);
        self.submit(owner, Op::Recv { socket, bulk: false });
        rustix::io::write(&far, b"btd").map_err(failed)?;
        drop(far);
        let mut completions = Vec::new();
        let mut received = false;
        let wait = Wait {
            at_most: Duration::from_secs(1),
            ..Wait::POLL
        };
        for _ in 0..4 {
            self.turn(wait, &mut completions).map_err(failed)?;
            for completion in completions.drain(..) {
                if let Outcome::Received { result, .. } = completion.outcome {
                    received |= matches!(result, Ok(Received::Data(bytes)) if *bytes == *b"btd");
                }
            }
            if self.ops.len() == 0 {
                break;
            }
        }
        match received {
            true => Ok(()),
            false => Err(SetupError::Kernel {
                missing: "multishot receive",
            }),
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        // Full: hand over what is there. If the kernel is busy the entry waits its turn; it is never dropped.
        self.backlog.push_back(entry);
        let _ = self.enter(0, &SubmitArgs::new());
        self.push_backlog();
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the op table owns the memory the entry points to until the operation's last completion is reaped.
        let pushed = unsafe { self.ring.submission().push(entry) };
        self.counters.sqes += u64::from(pushed.is_ok());
        pushed.is_ok()
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Has the kernel's threads close what may wait in close(2): a filesystem behind another process or machine is told of
    /// each (`FUSE_FLUSH`; NFS writes back), and answers when it likes.
    fn close_apart(&mut self) {
        while self.closing < CLOSES_MAX {
            let Some(fd) = self.files.to_close() else { return };
            let own = self.ops.insert(OpKind::Close, Owner::NOBODY, InFlight::Close);
            let entry = opcode::Close::new(Fd(fd.into_raw_fd())).build();
            self.closing += 1;
            self.push(entry.flags(flags_of(true)).user_data(own.to_u64()));
        }
    }

    /// One `io_uring_enter`.
    fn enter(&mut self, want: usize, args: &SubmitArgs<'_, '_>) -> Result<(), Errno> {
        self.counters.enters += 1;
        match self.ring.submitter().submit_with_args(want, args) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // ETIME: nothing came in time. EINTR: a signal; the loop goes round. EBUSY and EAGAIN: the kernel wants
                // completions reaped first, which comes next.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            },
        }
    }

    /// Moves all completions out of the queue. Returns whether there were any.
    fn reap(&mut self, out: &mut Vec<Completion>) -> bool {
        let mut any = false;
        loop {
            let Some(cqe) = self.ring.completion().next() else {
                return any;
            };
            any = true;
            self.counters.cqes += 1;
            self.on_cqe(&cqe, out);
        }
    }
}

/// Asks notifications to say whether the data was copied (`IORING_SEND_ZC_REPORT_USAGE`, 6.2).
const SEND_ZC_REPORT_USAGE: u16 = 1 << 3;

/// How an entry is submitted: left to the kernel's threads from the start, or tried at once.
fn flags_of(apart: bool) -> squeue::Flags {
    match apart {
        true => squeue::Flags::ASYNC,
        false => squeue::Flags::empty(),
    }
}

/// What every connection's socket is told.
fn set_up(socket: &OwnedFd) -> Result<(), Errno> {
    // A batch is one send already; Nagle would hold its tail back for the peer's delayed ACK (42 ms).
    rustix::net::sockopt::set_tcp_nodelay(socket, true)?;
    // What is lent to the socket is had back when it is acknowledged, or when the kernel gives the connection up: after a
    // quarter of an hour if it is not told otherwise.
    rustix::net::sockopt::set_tcp_user_timeout(socket, UNACKNOWLEDGED_MS_MAX)
}

/// Evaluates an opcode builder with the handle's registered slot or its descriptor.
macro_rules! on {
    ($handle:expr, |$fd:ident| $build:expr) => {
        match $handle.slot() {
            Some(slot) => {
                let $fd = Fixed(slot);
                $build
            }
            None => {
                let $fd = Fd($handle.raw_fd());
                $build
            }
        }
    };
}

impl Driver for Uring {
    fn submit(&mut self, owner: Owner, op: Op) -> Token {
        let (token, entry) = match op {
            Op::Accept { listener, brief } => {
                let entry = on!(listener, |fd| opcode::AcceptMulti::new(fd)
                    .flags(libc::SOCK_CLOEXEC)
                    .build());
                let op = InFlight::Accept { listener, brief };
                (self.ops.insert(OpKind::Accept, owner, op), entry)
            }
            Op::Recv { socket, bulk } => {
                let bulk = bulk && self.has_bulk();
                let group = if bulk { BULK_GROUP } else { RECV_GROUP };
                let entry = on!(socket, |fd| opcode::RecvMulti::new(fd, group).build());
                let token = self.ops.insert(OpKind::Recv, owner, InFlight::Recv { socket, bulk });
                (token, entry)
            }
            Op::RecvOnce { socket } => {
                let entry = on!(socket, |fd| opcode::Recv::new(
                    fd,
                    std::ptr::null_mut(),
                    RECV_BUF_LEN as u32
                )
                .buf_group(RECV_GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT));
                let bulk = false;
                let token = self.ops.insert(OpKind::Recv, owner, InFlight::Recv { socket, bulk });
                (token, entry)
            }
            Op::RecvFrom { socket } => {
                self.make_datagram_ring();
                let header = datagrams::receive_header();
                let entry = on!(socket, |fd| opcode::RecvMsgMulti::new(
                    fd,
                    &raw const *header,
                    DATAGRAM_GROUP
                )
                .build());
                let op = InFlight::RecvFrom { socket, header };
                (self.ops.insert(OpKind::RecvFrom, owner, op), entry)
            }
            Op::Send {
                socket,
                mut batch,
                zero_copy,
                last,
            } => {
                let header = send::prepare(&mut batch);
                let flags = (libc::MSG_NOSIGNAL | if last { libc::MSG_MORE } else { 0 }) as u32;
                let zero_copy = zero_copy && self.features.zero_copy;
                let entry = match zero_copy {
                    true => on!(socket, |fd| opcode::SendMsgZc::new(fd, header)
                        .flags(flags)
                        .ioprio(SEND_ZC_REPORT_USAGE)
                        .build()),
                    false => on!(socket, |fd| opcode::SendMsg::new(fd, header).flags(flags).build()),
                };
                let op = InFlight::Send {
                    socket: Some(socket),
                    batch,
                    zero_copy,
                    lent: None,
                };
                (self.ops.insert(OpKind::Send, owner, op), entry)
            }
            Op::Read {
                file,
                offset,
                len,
                at,
                mut buf,
                uncached,
            } => {
                assert!(
                    at as usize + len as usize <= BUF_LEN,
                    "read of {len} bytes to {at} of a buffer of {BUF_LEN}"
                );
                let to = buf.as_mut_ptr().wrapping_add(at as usize);
                let registered = self.registered.as_mut();
                let index = registered.and_then(|known| known.index(&self.ring, &self.pool, &buf));
                let flags = if uncached { libc::RWF_DONTCACHE } else { 0 };
                let entry = match index {
                    Some(index) => on!(file, |fd| opcode::ReadFixed::new(fd, to, len, index)
                        .offset(offset)
                        .rw_flags(flags)
                        .build()),
                    None => on!(file, |fd| opcode::Read::new(fd, to, len)
                        .offset(offset)
                        .rw_flags(flags)
                        .build()),
                };
                let entry = entry.flags(flags_of(file.is_apart()));
                let token = self.ops.insert(OpKind::Read, owner, InFlight::Read { file, buf });
                (token, entry)
            }
            Op::Connect { socket, addr } => {
                let addr = Box::new(SockAddr::from(addr));
                let entry = on!(socket, |fd| opcode::Connect::new(fd, addr.as_ptr().cast(), addr.len())
                    .build());
                let op = InFlight::Connect { socket, addr };
                (self.ops.insert(OpKind::Connect, owner, op), entry)
            }
            Op::Write {
                file,
                offset,
                bytes,
                uncached,
            } => {
                let len = u32::try_from(bytes.len()).expect("no write of 4 GiB");
                let flags = if uncached { libc::RWF_DONTCACHE } else { 0 };
                let entry = on!(file, |fd| opcode::Write::new(fd, bytes.as_ptr(), len)
                    .offset(offset)
                    .rw_flags(flags)
                    .build());
                let entry = entry.flags(flags_of(file.is_apart()));
                let op = InFlight::Write { file, bytes };
                (self.ops.insert(OpKind::Write, owner, op), entry)
            }
            Op::Open {
                dir,
                path,
                write,
                apart,
            } => {
                // O_NONBLOCK: a FIFO in the payload's place must not hang the open. The folder cannot be left.
                let access = if write { libc::O_RDWR } else { libc::O_RDONLY };
                let flags = access | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK;
                let how = OpenHow::new()
                    .flags(flags as u64)
                    .resolve(libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS);
                let args = Box::new(OpenArgs {
                    dir,
                    path,
                    how,
                    write,
                    apart,
                });
                let dir = Fd(args.dir.as_fd().as_raw_fd());
                let entry = opcode::OpenAt2::new(dir, args.path.as_ptr(), &raw const args.how).build();
                let entry = entry.flags(flags_of(apart));
                (self.ops.insert(OpKind::Open, owner, InFlight::Open(args)), entry)
            }
            Op::Doorbell { event } => {
                let mut value = Box::new([0_u8; 8]);
                let to = value.as_mut_ptr();
                let entry = on!(event, |fd| opcode::Read::new(fd, to, 8).build());
                let op = InFlight::Doorbell { event, value };
                (self.ops.insert(OpKind::Doorbell, owner, op), entry)
            }
        };
        self.push(entry.user_data(token.to_u64()));
        token
    }

    fn cancel(&mut self, token: Token) {
        self.ops.mark_cancelled(token);
        let own = self.ops.insert(OpKind::Cancel, Owner::NOBODY, InFlight::Cancel);
        let entry = opcode::AsyncCancel::new(token.to_u64()).build().user_data(own.to_u64());
        self.push(entry);
    }

    fn turn(&mut self, wait: Wait, out: &mut Vec<Completion>) -> Result<(), Errno> {
        self.files.sweep(&self.ring);
        self.push_backlog();
        self.close_apart();
        // Completions that are there already are not waited for, nor is anything while entries are held back.
        let ready = !self.ring.completion().is_empty() || !self.backlog.is_empty();
        let at_most = Timespec::from(if ready { Duration::ZERO } else { wait.at_most });
        let mut args = SubmitArgs::new().timespec(&at_most);
        let mut want = 1_usize;
        if !ready && self.features.min_wait && !wait.at_least.is_zero() && wait.at_least < wait.at_most {
            args = args.min_wait_usec(u32::try_from(wait.at_least.as_micros()).unwrap_or(u32::MAX));
            want = (self.ring.submission().len() + wait.enough).min(BATCH_LEN);
        }
        self.enter(want, &args)?;
        // Deferred task work comes in portions, and an overflown queue is refilled by the kernel as it is drained: go on
        // until nothing is left.
        let now = Timespec::from(Duration::ZERO);
        while self.reap(out) {
            let submission = self.ring.submission();
            let (overflown, taskrun) = (submission.cq_overflow(), submission.taskrun());
            drop(submission);
            if !overflown && !taskrun {
                break;
            }
            self.counters.overflows += u64::from(overflown);
            self.enter(1, &SubmitArgs::new().timespec(&now))?;
        }
        Ok(())
    }

    fn socket(&mut self, to: SocketAddr) -> Result<Handle, Errno> {
        let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let socket =
            Socket::new(Domain::for_address(to), Type::STREAM.cloexec(), Some(Protocol::TCP)).map_err(failed)?;
        if let Some(device) = &self.device {
            socket.bind_device(Some(device)).map_err(failed)?;
        }
        if !self.sources.is_empty() {
            let source = self.sources.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
            leave_from(&socket, *source.ok_or(Errno::AFNOSUPPORT)?).map_err(failed)?;
        }
        let fd = OwnedFd::from(socket);
        set_up(&fd)?;
        Ok(self.adopt(fd))
    }

    fn take_over(&mut self, fd: OwnedFd) -> Handle {
        self.adopt(fd)
    }

    fn take_over_listener(&mut self, fd: OwnedFd) -> Handle {
        self.adopt_listener(fd)
    }

    fn send_datagrams(&mut self, socket: &Handle, batch: &mut Datagrams) {
        self.counters.datagrams_unsent += self.sender.send(socket, batch) as u64;
        batch.clear();
    }

    fn shutdown(&mut self, socket: &Handle, ending: Ending) {
        // Errors mean that the peer was faster; the operations end either way.
        if ending == Ending::Reset {
            let _ = rustix::net::sockopt::set_socket_linger(socket.fd(), Some(Duration::ZERO));
        }
        let how = match ending {
            Ending::Half => rustix::net::Shutdown::Write,
            Ending::Orderly | Ending::Reset => rustix::net::Shutdown::Both,
        };
        let _ = rustix::net::shutdown(socket.fd(), how);
    }

    fn close(&mut self, socket: Handle) {
        drop(socket);
    }

    fn set_direct(&mut self, file: &Handle, direct: bool) -> Result<(), Errno> {
        let mut flags = rustix::fs::fcntl_getfl(file.fd())?;
        flags.set(rustix::fs::OFlags::DIRECT, direct);
        rustix::fs::fcntl_setfl(file.fd(), flags)
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn in_flight(&self) -> usize {
        self.ops.len() - self.lent - self.closing
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let deadline = Instant::now() + DROP_PATIENCE;
        let mut completions = Vec::new();
        self.close_apart();
        // Not for what is lent: that ends when a peer has acknowledged it, in its own time.
        while self.ops.len() > self.lent && Instant::now() < deadline {
            // Each time round: a full queue may have had no room for it, and entries that were held back start only now.
            let all = opcode::AsyncCancel2::new(CancelBuilder::any()).build().user_data(0);
            // SAFETY: a cancellation points to no memory.
            let _ = unsafe { self.ring.submission().push(&all) };
            let wait = Wait {
                at_most: Duration::from_millis(100),
                ..Wait::POLL
            };
            if self.turn(wait, &mut completions).is_err() {
                break;
            }
            completions.clear();
        }
        let ended = self.ops.len() == 0;
        if ended {
            // The kernel takes a ring down in the background, some 30 ms later; until then connections would stay open.
            // Not while something hangs, or is lent: older kernels would wait for it here.
            let _ = self.ring.submitter().unregister_files();
        }
        // A registered ring descriptor is another reference to the ring, held by this thread until it ends.
        let _ = self.ring.submitter().unregister_ring_fd();
        // SAFETY: neither field is used again; the ring is closed before what it points to is freed.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if ended {
            // SAFETY: as above. Nothing is in flight, so the kernel touches none of it.
            unsafe {
                ManuallyDrop::drop(&mut self.ops);
                ManuallyDrop::drop(&mut self.pool);
                ManuallyDrop::drop(&mut self.recv_ring);
                ManuallyDrop::drop(&mut self.bulk_ring);
                ManuallyDrop::drop(&mut self.datagram_ring);
            }
        }
    }
}

#[cfg(test)]
mod tests;
