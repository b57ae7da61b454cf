//! Provided buffers for multishot receives (kernel 5.19): one ring per shard that all its connections share, so that an
//! idle peer costs no receive buffer.
//!
//! The kernel takes a buffer from the ring when bytes have arrived, and the completion names it. It is ours until it is
//! put back, which happens when its [`RecvBuf`] is dropped: on every path, because it is a value.

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use rustix::io::Errno;
use rustix::mm::{Advice, madvise, munmap};

use super::pool::map_aligned;

/// Length of one receive buffer in bytes: about 240 requests of 17 bytes. An odd number of cache lines: buffers a power of two
/// apart would all begin in the same few sets of the CPU's caches, and each receive of a request would miss them.
pub const RECV_BUF_LEN: usize = 63 * 64;

/// Length of one for blocks: most of the four it holds need not be put together from two receives.
pub(super) const BULK_BUF_LEN: usize = 64 * 1024;

/// Where the fields of `struct io_uring_buf` (linux/io_uring.h) are: `addr` at 0, then `len` and `bid`, 16 bytes in all.
const ENTRY_LEN_AT: usize = 8;
const ENTRY_BID_AT: usize = 12;
const _: () = assert!(size_of::<BufRingEntry>() == 16 && align_of::<BufRingEntry>() == 8);

/// The ring of provided buffers and the buffers themselves, in one mapping: entries first, buffers behind.
pub(super) struct RecvRing {
    base: NonNull<u8>,
    count: u16,
    buf_len: usize,
    /// Where the next entry goes. Only this thread writes it; the kernel reads it from the ring's tail.
    tail: Cell<u16>,
}

impl RecvRing {
    /// Maps a ring of `count` buffers of `buf_len` bytes, all of them available.
    pub(super) fn new(count: u16, buf_len: usize) -> Result<Rc<RecvRing>, Errno> {
        assert!(
            buf_len > 0 && buf_len <= BULK_BUF_LEN,
            "receive buffers of {buf_len} bytes"
        );
        assert!(count.is_power_of_two() && count <= 1 << 15, "{count} receive buffers");
        let len = Self::len(count, buf_len);
        // All buffers are gone through in turn, so each page is wanted: no peer has to wait for its first use. For the same
        // reason they should be few, to be found quickly.
        let base = map_aligned(len)?;
        // SAFETY: the range is the mapping made above, which is not used yet; writing to its pages changes no contents. That
        // they are there already is all that is gained: the kernel may refuse (before 5.14 it does).
        let _ = unsafe { madvise(base.as_ptr().cast(), len, Advice::LinuxPopulateWrite) };
        let ring = RecvRing {
            base,
            count,
            buf_len,
            tail: Cell::new(0),
        };
        for bid in 0..count {
            ring.put(bid);
        }
        Ok(Rc::new(ring))
    }

    fn entries_len(count: u16) -> usize {
        (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(rustix::param::page_size())
    }

    fn len(count: u16, buf_len: usize) -> usize {
        (Self::entries_len(count) + usize::from(count) * buf_len).next_multiple_of(rustix::param::page_size())
    }

    /// The ring's address, as it is registered.
    pub(super) fn addr(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Number of buffers.
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    fn buf_ptr(&self, bid: u16) -> *mut u8 {
        self.base
            .as_ptr()
            .wrapping_add(Self::entries_len(self.count) + usize::from(bid) * self.buf_len)
    }

    /// Makes buffer `bid` available to the kernel.
    fn put(&self, bid: u16) {
        let tail = self.tail.get();
        let index = usize::from(tail & (self.count - 1));
        let entries = self.base.as_ptr().cast::<BufRingEntry>();
        let entry = entries.wrapping_add(index).cast::<u8>();
        // Field by field and never as a whole: the last two bytes of entry 0 are the ring's tail, which the kernel may be
        // reading.
        // SAFETY: `index < count`, so the entry lies in the mapping, and its fields are aligned in it. The kernel reads
        // entries between its head and the published tail only; there are as many entries as buffers, so this one is
        // outside of that range.
        unsafe {
            entry.cast::<u64>().write(self.buf_ptr(bid) as u64);
            entry.add(ENTRY_LEN_AT).cast::<u32>().write(self.buf_len as u32);
            entry.add(ENTRY_BID_AT).cast::<u16>().write(bid);
        }
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: `entries` is the page-aligned start of the ring, which is what `tail` asks for.
        let published = unsafe { BufRingEntry::tail(entries) }.cast_mut();
        // SAFETY: the tail is an aligned 16-bit field in the mapping; only this thread writes it, the kernel reads it.
        let published = unsafe { AtomicU16::from_ptr(published) };
        // Release: the entry is written before it is published.
        published.store(self.tail.get(), Ordering::Release);
    }

    /// The buffer that a completion named, holding `len` bytes.
    pub(super) fn received(self: &Rc<Self>, bid: u16, len: u32) -> RecvBuf {
        assert!(
            bid < self.count && len as usize <= self.buf_len,
            "kernel named receive buffer {bid} of {} with {len} bytes",
            self.count
        );
        RecvBuf(Kind::Ring {
            ring: self.clone(),
            bid,
            start: 0,
            len,
        })
    }
}

impl Drop for RecvRing {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length. Every `RecvBuf` holds the ring by `Rc`, and the driver does so until the
        // ring it is registered with is closed.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), Self::len(self.count, self.buf_len)) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Bytes that were received; the buffer returns to its ring when this is dropped.
pub struct RecvBuf(Kind);

enum Kind {
    /// `len` bytes from `start` on.
    Ring {
        ring: Rc<RecvRing>,
        bid: u16,
        start: u32,
        len: u32,
    },
    Heap(Vec<u8>),
}

impl RecvBuf {
    /// Bytes of the memory driver.
    pub(crate) fn from_vec(bytes: Vec<u8>) -> RecvBuf {
        RecvBuf(Kind::Heap(bytes))
    }

    /// The same without its first `count` bytes.
    pub(super) fn skip(mut self, count: usize) -> RecvBuf {
        assert!(count <= self.len(), "{count} of {} bytes received", self.len());
        match &mut self.0 {
            Kind::Ring { start, len, .. } => {
                *start += count as u32;
                *len -= count as u32;
            }
            Kind::Heap(bytes) => drop(bytes.drain(..count)),
        }
        self
    }
}

impl Deref for RecvBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            // SAFETY: the buffer lies in the ring's mapping, whose bytes are initialised (zeroed when mapped); `start + len`
            // is what was received into it. The kernel does not write to it before `drop` puts it back.
            Kind::Ring { ring, bid, start, len } => unsafe {
                std::slice::from_raw_parts(ring.buf_ptr(*bid).wrapping_add(*start as usize), *len as usize)
            },
            Kind::Heap(bytes) => bytes,
        }
    }
}

impl fmt::Debug for RecvBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvBuf({} bytes)", self.len())
    }
}

impl Drop for RecvBuf {
    fn drop(&mut self) {
        if let Kind::Ring { ring, bid, .. } = &self.0 {
            ring.put(*bid);
        }
    }
}
