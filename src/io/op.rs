//! The vocabulary: operations, what they carry, and how they end.

use std::ffi::CString;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use super::datagrams::Datagram;
use super::handle::Handle;
use super::token::{Owner, Token};
use super::uring::pool::Buf;
use super::uring::recv_ring::RecvBuf;
use super::uring::send::Scratch;

/// Something to be done by the machine.
pub enum Op {
    /// Accept connections until cancelled (multishot). Each socket has `TCP_NODELAY` set.
    Accept {
        /// A listening socket.
        listener: Handle,
        /// Its connections are not there for long: putting them into the table of registered files would cost more than it
        /// saves.
        brief: bool,
    },
    /// Connect a socket of [`super::Driver::socket`].
    Connect {
        /// The socket.
        socket: Handle,
        /// The far end.
        addr: SocketAddr,
    },
    /// Receive until the stream ends (multishot), each time into a buffer of the driver's.
    Recv {
        /// A connected socket.
        socket: Handle,
        /// Much comes at a time: into long buffers, of which there are fewer.
        bulk: bool,
    },
    /// Receive once, into a buffer of the driver's: what is the first and perhaps the last that a connection says.
    /// [`Outcome::Received`] is its end too.
    RecvOnce {
        /// A connected socket.
        socket: Handle,
    },
    /// Receive datagrams until cancelled (multishot), each into a buffer of the driver's.
    RecvFrom {
        /// A bound socket.
        socket: Handle,
    },
    /// Send what is left of a batch. At most one a socket may be in flight, or bytes may change places.
    Send {
        /// A connected socket.
        socket: Handle,
        /// What to send. Comes back with the completion.
        batch: Box<SendBatch>,
        /// Lend the batch to the socket, for the network card to read it in place (`SENDMSG_ZC`). [`Outcome::Released`]
        /// follows its result.
        zero_copy: bool,
        /// The stream, or our half of it, is ended as soon as this has been taken: what does not fill a segment waits for that,
        /// and both leave as one (`MSG_MORE`, send(2)).
        last: bool,
    },
    /// Read from a file into a buffer.
    Read {
        /// A file opened for reading.
        file: Handle,
        /// Where in the file, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u32,
        /// Where in the buffer the first byte goes; `at + len` is at most [`super::BUF_LEN`].
        at: u32,
        /// Where to. Comes back with the completion.
        buf: Buf,
        /// Leave nothing in the page cache (`RWF_DONTCACHE`, kernel 6.14; `EOPNOTSUPP` where that cannot be).
        uncached: bool,
    },
    /// Open a regular file that exists, beneath a folder, through no symbolic link.
    Open {
        /// The folder.
        dir: Arc<dyn AsFd + Send + Sync>,
        /// The path relative to it.
        path: CString,
        /// For writing too.
        write: bool,
    },
    /// Write to a file.
    Write {
        /// A file opened for writing.
        file: Handle,
        /// Where in the file, in bytes.
        offset: u64,
        /// What to write. Comes back with the completion.
        bytes: Bytes,
        /// Leave nothing in the page cache (`RWF_DONTCACHE`, kernel 6.14; `EOPNOTSUPP` where that cannot be).
        uncached: bool,
    },
    /// Wait until another thread rings an eventfd.
    Doorbell {
        /// The eventfd.
        event: Handle,
    },
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Accept { listener, .. } => f.debug_struct("Accept").field("listener", listener).finish(),
            Op::RecvOnce { socket } => f.debug_struct("RecvOnce").field("socket", socket).finish(),
            Op::RecvFrom { socket } => f.debug_struct("RecvFrom").field("socket", socket).finish(),
            Op::Recv { socket, bulk } => f
                .debug_struct("Recv")
                .field("socket", socket)
                .field("bulk", bulk)
                .finish(),
            Op::Send { socket, batch, .. } => f
                .debug_struct("Send")
                .field("socket", socket)
                .field("left", &batch.left())
                .finish(),
            Op::Read { file, offset, len, .. } => f
                .debug_struct("Read")
                .field("file", file)
                .field("offset", offset)
                .field("len", len)
                .finish(),
            Op::Open { path, write, .. } => f
                .debug_struct("Open")
                .field("path", path)
                .field("write", write)
                .finish(),
            Op::Connect { addr, .. } => f.debug_struct("Connect").field("addr", addr).finish(),
            Op::Write {
                file, offset, bytes, ..
            } => f
                .debug_struct("Write")
                .field("file", file)
                .field("offset", offset)
                .field("len", &bytes.len())
                .finish(),
            Op::Doorbell { event } => f.debug_struct("Doorbell").field("event", event).finish(),
        }
    }
}

/// One end, or with a multishot operation one of several results.
#[derive(Debug)]
pub struct Completion {
    /// Which operation.
    pub token: Token,
    /// Whom it concerns.
    pub owner: Owner,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an operation.
#[derive(Debug)]
pub enum Outcome {
    /// Of [`Op::Accept`].
    Accepted {
        /// A new connection.
        result: Result<Accepted, Errno>,
        /// Whether the operation goes on.
        more: bool,
    },
    /// Of [`Op::Recv`] and [`Op::RecvOnce`].
    Received {
        /// Bytes or the end of the stream.
        result: Result<Received, Errno>,
        /// Whether the operation goes on.
        more: bool,
    },
    /// Of [`Op::RecvFrom`].
    ReceivedFrom {
        /// A datagram. `MSGSIZE` is one that was too long, and is dropped.
        result: Result<Datagram, Errno>,
        /// Whether the operation goes on.
        more: bool,
    },
    /// Of [`Op::Send`].
    Sent {
        /// Bytes the socket took; may be fewer than the batch held.
        result: Result<u32, Errno>,
        /// What it did not take. Of a batch that was lent and taken whole nothing is left: it comes with
        /// [`Outcome::Released`].
        batch: Option<Box<SendBatch>>,
        /// Whether it was lent.
        lent: bool,
    },
    /// Of [`Op::Send`] that was lent, once [`Outcome::Sent`] has come (not always, if that is an error): what the socket took
    /// has left the machine and been acknowledged, or it was copied, and nobody reads from its buffers any more.
    Released {
        /// What the socket took.
        batch: Box<SendBatch>,
        /// Whether the kernel copied after all. Nothing is known of a send of which nothing was taken.
        copied: Option<bool>,
    },
    /// Of [`Op::Read`].
    ReadDone {
        /// Bytes read; fewer than asked at the end of the file.
        result: Result<u32, Errno>,
        /// The buffer.
        buf: Buf,
    },
    /// Of [`Op::Open`].
    Opened {
        /// The file.
        result: Result<Opened, Errno>,
        /// Whether it was to be opened for writing too.
        write: bool,
    },
    /// Of [`Op::Connect`].
    Connected {
        /// Whether there is a connection.
        result: Result<(), Errno>,
    },
    /// Of [`Op::Write`].
    Written {
        /// Bytes written; may be fewer than there were.
        result: Result<u32, Errno>,
        /// All bytes that were to be written.
        bytes: Bytes,
    },
    /// Of [`Op::Doorbell`].
    Rung {
        /// Whether it was rung rather than broken.
        result: Result<(), Errno>,
    },
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket.
    pub socket: Handle,
    /// The other end.
    pub peer: SocketAddr,
}

/// What a receive brought.
#[derive(Debug)]
pub enum Received {
    /// Bytes, at least one.
    Data(RecvBuf),
    /// The peer will send no more.
    Eof,
}

/// A file that was opened, and what `fstat` says of it.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: Handle,
    /// Its length in bytes.
    pub len: u64,
    /// Device number of its filesystem, and its inode number there.
    pub device: u64,
    /// See `device`.
    pub inode: u64,
    /// When it was last written to: nanoseconds of Unix time.
    pub modified: i128,
    /// Whether it is a regular file; anything else must not be read.
    pub regular: bool,
}

/// A stretch of a batch.
#[derive(Debug)]
pub enum Segment {
    /// Bytes of the batch's own `bytes`: message headers and small messages.
    Bytes {
        /// First byte.
        start: u32,
        /// Length in bytes.
        len: u32,
    },
    /// Bytes of a buffer that was read before and is shared by all who send from it.
    Buffer {
        /// The buffer, kept until the batch is cleared.
        buf: Rc<Buf>,
        /// First byte.
        start: u32,
        /// Length in bytes.
        len: u32,
    },
}

impl Segment {
    fn len(&self) -> u32 {
        match self {
            Segment::Bytes { len, .. } | Segment::Buffer { len, .. } => *len,
        }
    }
}

/// What one vectored send carries: headers and blocks in order. Reused from send to send, so that sending does not
/// allocate.
#[derive(Debug, Default)]
pub struct SendBatch {
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    /// First segment that is not wholly sent.
    first: usize,
    /// Bytes of that segment which the socket has taken.
    skip: u32,
    /// Bytes the socket has not taken.
    left: u64,
    /// A note of whoever lends it: for how many buffers it counts meanwhile.
    pub(crate) lent: u32,
    /// The ring's message header and iovecs, which must not move while the kernel reads them.
    pub(crate) scratch: Scratch,
}

/// Segments a batch may hold: half of the kernel's `UIO_MAXIOV`, which is 1024.
pub const SEGMENTS_MAX: usize = 512;

/// Capacity for headers that an emptied batch keeps.
const BYTES_KEPT: usize = 4096;

impl SendBatch {
    /// Appends bytes, which are copied.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.bytes.len() as u32;
        let len = bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        self.left += u64::from(len);
        // Neighbours become one iovec.
        if let Some(Segment::Bytes {
            start: last_start,
            len: last_len,
        }) = self.segments.last_mut()
            && *last_start + *last_len == start
        {
            *last_len += len;
            return;
        }
        self.segments.push(Segment::Bytes { start, len });
    }

    /// Appends a stretch of a shared buffer, which is not copied.
    ///
    /// # Panics
    /// When the stretch is empty or goes past the buffer.
    pub fn push_buffer(&mut self, buf: Rc<Buf>, start: u32, len: u32) {
        assert!(
            len > 0 && start as usize + len as usize <= super::BUF_LEN,
            "stretch {start}+{len} of a buffer of {} bytes",
            super::BUF_LEN
        );
        self.left += u64::from(len);
        self.segments.push(Segment::Buffer { buf, start, len });
    }

    /// Whether there is room for `count` more segments.
    #[must_use]
    pub fn has_room(&self, count: usize) -> bool {
        self.segments.len() + count <= SEGMENTS_MAX
    }

    /// Bytes not yet taken by the socket.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Whether a shared buffer is held.
    #[must_use]
    pub fn holds_buffers(&self) -> bool {
        self.segments
            .iter()
            .any(|segment| matches!(segment, Segment::Buffer { .. }))
    }

    /// Buffers that what is left keeps from being used for anything else. One that it comes back to counts again.
    #[must_use]
    pub fn pinned(&self) -> u32 {
        let mut last: Option<&Rc<Buf>> = None;
        let mut pinned = 0;
        for segment in &self.segments[self.first..] {
            if let Segment::Buffer { buf, .. } = segment {
                pinned += u32::from(last.is_none_or(|last| !Rc::ptr_eq(last, buf)));
                last = Some(buf);
            }
        }
        pinned
    }

    /// Counts bytes that the socket took; lets go of the buffers that are wholly sent.
    ///
    /// # Panics
    /// When more was taken than there was.
    pub fn advance(&mut self, taken: u32) {
        assert!(
            u64::from(taken) <= self.left,
            "{taken} bytes sent of a batch with {} left",
            self.left
        );
        self.left -= u64::from(taken);
        if self.left == 0 {
            self.clear();
            return;
        }
        let mut taken = taken;
        while taken > 0 {
            let segment = &mut self.segments[self.first];
            let rest = segment.len() - self.skip;
            if taken < rest {
                self.skip += taken;
                return;
            }
            taken -= rest;
            *segment = Segment::Bytes { start: 0, len: 0 };
            self.first += 1;
            self.skip = 0;
        }
    }

    /// Keeps the next `taken` bytes, and what memory they lie in, for a socket that still reads them; what comes after them
    /// is moved to another batch.
    ///
    /// # Panics
    /// When fewer bytes are left.
    #[must_use]
    pub fn split_off(&mut self, taken: u32) -> Box<SendBatch> {
        assert!(
            u64::from(taken) <= self.left,
            "{taken} bytes sent of a batch with {} left",
            self.left
        );
        let mut rest = Box::<SendBatch>::default();
        let mut skip = self.skip + taken;
        for segment in &mut self.segments[self.first..] {
            let segment_len = segment.len();
            if skip >= segment_len {
                skip -= segment_len;
                continue;
            }
            match segment {
                Segment::Bytes { start, len } => {
                    rest.push_bytes(&self.bytes[(*start + skip) as usize..(*start + *len) as usize]);
                    *len = skip;
                }
                Segment::Buffer { buf, start, len } => {
                    rest.push_buffer(buf.clone(), *start + skip, *len - skip);
                    *len = skip;
                }
            }
            if skip == 0 {
                *segment = Segment::Bytes { start: 0, len: 0 };
            }
            skip = 0;
        }
        self.left = u64::from(taken);
        rest
    }

    /// Empties the batch and lets its buffers go; keeps its memory, within reason.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.bytes.clear();
        self.bytes.shrink_to(BYTES_KEPT);
        self.first = 0;
        self.skip = 0;
        self.left = 0;
    }

    /// Keeps only the next `len` bytes of what is left, as a copy, and lets all buffers go.
    ///
    /// # Panics
    /// When fewer bytes are left.
    pub fn keep_copy(&mut self, len: usize) {
        let mut kept = Vec::with_capacity(len);
        self.for_each_left(|part| {
            let wanted = part.len().min(len - kept.len());
            kept.extend_from_slice(&part[..wanted]);
        });
        assert_eq!(kept.len(), len, "bytes to keep of a batch with {} left", self.left);
        self.clear();
        self.push_bytes(&kept);
    }

    /// Calls `visit` with each stretch that is still to be sent, in order.
    pub(crate) fn for_each_left<'a>(&'a self, mut visit: impl FnMut(&'a [u8])) {
        let mut skip = self.skip as usize;
        for segment in &self.segments[self.first..] {
            let bytes = match segment {
                Segment::Bytes { start, len } => &self.bytes[*start as usize..(*start + *len) as usize],
                Segment::Buffer { buf, start, len } => &buf.as_slice()[*start as usize..(*start + *len) as usize],
            };
            visit(&bytes[skip..]);
            skip = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Pool;

    fn left(batch: &SendBatch) -> Vec<u8> {
        let mut out = Vec::new();
        batch.for_each_left(|bytes| out.extend_from_slice(bytes));
        out
    }

    #[test]
    fn batch_sends_on_from_any_byte() {
        let pool = Pool::new(1, false).unwrap();
        let mut buf = pool.take().unwrap();
        buf.as_mut_slice()[..6].copy_from_slice(b"payloa");
        let buf = Rc::new(buf);
        let whole = b"headaylomore".to_vec();
        for cut in 0..whole.len() as u32 {
            let mut batch = SendBatch::default();
            batch.push_bytes(b"he");
            batch.push_bytes(b"ad");
            batch.push_buffer(buf.clone(), 2, 3);
            batch.push_buffer(buf.clone(), 5, 1);
            batch.push_bytes(b"more");
            let expected: Vec<u8> = [b"head".as_slice(), b"ylo", b"a", b"more"].concat();
            assert_eq!(expected.len(), whole.len());
            batch.advance(cut);
            assert_eq!(left(&batch), expected[cut as usize..], "cut at {cut}");
            assert_eq!(batch.left(), (whole.len() as u64) - u64::from(cut));
        }
    }

    #[test]
    fn batch_that_keeps_a_copy_sends_the_next_bytes_and_holds_no_buffer() {
        let pool = Pool::new(1, false).unwrap();
        let mut buf = pool.take().unwrap();
        buf.as_mut_slice()[..6].copy_from_slice(b"payloa");
        let buf = Rc::new(buf);
        let whole = b"headpayloamore";
        for (taken, kept) in (0..=14).flat_map(|taken| (0..=14 - taken).map(move |kept| (taken, kept))) {
            let mut batch = SendBatch::default();
            batch.push_bytes(b"head");
            batch.push_buffer(buf.clone(), 0, 6);
            batch.push_bytes(b"more");
            batch.advance(taken as u32);
            batch.keep_copy(kept);
            assert_eq!(left(&batch), whole[taken..taken + kept]);
            assert_eq!(batch.left(), kept as u64);
            assert_eq!(Rc::strong_count(&buf), 1);
        }
    }

    #[test]
    fn batch_is_split_where_the_socket_stopped() {
        let pool = Pool::new(2, false).unwrap();
        let bufs: Vec<Rc<Buf>> = std::iter::from_fn(|| pool.take()).map(Rc::new).collect();
        for (before, taken) in (0..=18).flat_map(|before| (0..=18 - before).map(move |taken| (before, taken))) {
            let mut batch = SendBatch::default();
            batch.push_bytes(b"head");
            batch.push_buffer(bufs[0].clone(), 0, 6);
            batch.push_bytes(b"more");
            batch.push_buffer(bufs[1].clone(), 0, 4);
            batch.advance(before);
            let whole = left(&batch);
            let rest = batch.split_off(taken);
            let at = taken as usize;
            assert_eq!(left(&rest), whole[at..], "{taken} taken after {before}");
            assert_eq!(rest.left(), (whole.len() - at) as u64);
            assert_eq!(left(&batch), whole[..at], "what the socket still reads");
            assert_eq!(batch.left(), u64::from(taken));
            // What was not taken is not held by what was.
            let end = before + taken;
            let holds = |batch: &SendBatch, buf| {
                batch
                    .segments
                    .iter()
                    .any(|segment| matches!(segment, Segment::Buffer { buf: held, .. } if Rc::ptr_eq(held, buf)))
            };
            assert_eq!(holds(&rest, &bufs[0]), end < 10 && whole.len() > at);
            assert_eq!(holds(&rest, &bufs[1]), end < 18);
            if taken > 0 {
                assert_eq!(holds(&batch, &bufs[1]), end > 14, "{taken} taken after {before}");
            }
        }
    }

    #[test]
    fn batch_pins_each_buffer_of_what_is_left_once() {
        let pool = Pool::new(2, false).unwrap();
        let bufs: Vec<Rc<Buf>> = std::iter::from_fn(|| pool.take()).map(Rc::new).collect();
        let mut batch = SendBatch::default();
        assert_eq!(batch.pinned(), 0);
        for (buf, start) in [(0, 0), (0, 5), (1, 0), (1, 9)] {
            batch.push_bytes(b"head");
            batch.push_buffer(bufs[buf].clone(), start, 5);
        }
        assert_eq!(batch.pinned(), 2);
        batch.advance(17);
        assert_eq!(batch.pinned(), 2, "a byte of the first is left");
        batch.advance(1);
        assert_eq!(batch.pinned(), 1);
    }

    #[test]
    fn batch_lets_its_buffers_go_when_all_is_sent() {
        let pool = Pool::new(1, false).unwrap();
        let buf = Rc::new(pool.take().unwrap());
        let mut batch = SendBatch::default();
        batch.push_buffer(buf.clone(), 0, 10);
        drop(buf);
        assert_eq!(pool.free(), 0);
        batch.advance(10);
        assert_eq!(pool.free(), 1);
    }
}
