//! Memory that files are read into and sockets are sent from: one region, cut into buffers of one size.
//!
//! The region is on huge pages where they are to be had and is registered with the ring as it is used, so that the kernel
//! neither looks pages up nor pins them for each read. A [`Buf`] is the only way to a buffer: it is unique while something is read
//! into it (it moves into the operation and comes back with the completion) and shared, read-only, behind an `Rc` while
//! it is sent from. When the last owner lets go it returns to the pool. Free buffers are handed out last in, first out:
//! the one used last is the one still in the CPU's cache.

use std::cell::RefCell;
use std::fmt;
use std::ptr::NonNull;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Length of a buffer in bytes. 128 KiB: reads of 64-256 KiB are the cheapest per byte and what was read is still in the
/// second-level cache when it is sent.
pub const BUF_LEN: usize = 128 * 1024;

/// Huge pages of x86-64 and arm64, and what the region is aligned to.
pub(super) const HUGE_PAGE_LEN: usize = 2 * 1024 * 1024;

/// What one registered buffer may hold: 1 GiB is the kernel's limit.
pub(super) const REGISTERED_LEN_MAX: usize = 1024 * 1024 * 1024;

const _: () = assert!(REGISTERED_LEN_MAX.is_multiple_of(BUF_LEN) && HUGE_PAGE_LEN.is_multiple_of(BUF_LEN));

/// A region of buffers. Cloning it gives another reference to the same region.
#[derive(Clone, Debug)]
pub struct Pool(Rc<Region>);

struct Region {
    base: NonNull<u8>,
    len: usize,
    count: u32,
    huge: bool,
    free: RefCell<Vec<u32>>,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("count", &self.count)
            .field("free", &self.free.borrow().len())
            .field("huge", &self.huge)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Maps a region of `count` buffers. With `huge`, reserved huge pages are tried first; without them, or if there are
    /// none, transparent huge pages are asked for.
    ///
    /// # Errors
    /// When the kernel gives no memory.
    pub fn new(count: u32, huge: bool) -> Result<Pool, Errno> {
        assert!(count > 0, "a pool of no buffers");
        let len = (count as usize * BUF_LEN).next_multiple_of(HUGE_PAGE_LEN);
        let (base, huge) = match huge.then(|| map(len, MapFlags::PRIVATE | MapFlags::HUGETLB)) {
            Some(Ok(base)) => (base, true),
            Some(Err(_)) | None => (map_aligned(len)?, false),
        };
        Ok(Pool(Rc::new(Region {
            base,
            len,
            count,
            huge,
            // The lowest is handed out first.
            free: RefCell::new((0..count).rev().collect()),
        })))
    }

    /// Takes a free buffer. What is in it is left over from its last use.
    #[must_use]
    pub fn take(&self) -> Option<Buf> {
        let slot = self.0.free.borrow_mut().pop()?;
        Some(Buf {
            region: self.0.clone(),
            slot,
        })
    }

    /// Buffers nobody holds.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.0.free.borrow().len() as u32
    }

    /// Buffers in all.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// Whether the region is on reserved huge pages.
    #[must_use]
    pub fn huge(&self) -> bool {
        self.0.huge
    }

    /// Bytes of the region: whole huge pages.
    pub(super) fn len(&self) -> usize {
        self.0.len
    }

    /// Where a byte of the region is.
    pub(super) fn at(&self, byte: usize) -> *mut u8 {
        assert!(byte < self.0.len, "byte {byte} of {}", self.0.len);
        self.0.base.as_ptr().wrapping_add(byte)
    }
}

/// Anonymous zeroed memory, not moved or unmapped before [`Region`] is dropped.
fn map(len: usize, flags: MapFlags) -> Result<NonNull<u8>, Errno> {
    // SAFETY: a new anonymous mapping at an address the kernel chooses touches no memory that anybody has.
    let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags)? };
    NonNull::new(base.cast()).ok_or(Errno::NOMEM)
}

/// Like [`map`], aligned so that transparent huge pages fit, which are asked for. Its length is one of whole pages.
pub(super) fn map_aligned(len: usize) -> Result<NonNull<u8>, Errno> {
    let wide_len = len + HUGE_PAGE_LEN;
    let wide = map(wide_len, MapFlags::PRIVATE)?;
    let front = wide.as_ptr().align_offset(HUGE_PAGE_LEN);
    let base = wide.as_ptr().wrapping_add(front);
    if front > 0 {
        // SAFETY: `wide..wide + front` is the front of the mapping made above; nothing refers to it.
        unsafe { munmap(wide.as_ptr().cast(), front)? };
    }
    let back = wide_len - front - len;
    if back > 0 {
        // SAFETY: the last `back` bytes of the mapping made above; nothing refers to them.
        unsafe { munmap(base.wrapping_add(len).cast(), back)? };
    }
    // Advice only: without transparent huge pages the region works on small ones.
    // SAFETY: the range is the mapping made above; the advice changes no contents.
    let _ = unsafe { madvise(base.cast(), len, Advice::LinuxHugepage) };
    NonNull::new(base).ok_or(Errno::NOMEM)
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the region was mapped by `Pool::new` with this length. Every `Buf` holds the region by `Rc`, so none is
        // left; the driver holds it until no operation is in flight.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// One buffer of [`BUF_LEN`] bytes, page-aligned.
pub struct Buf {
    region: Rc<Region>,
    slot: u32,
}

impl fmt::Debug for Buf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buf").field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl Buf {
    /// Where it lies in the region, in bytes.
    pub(super) fn start(&self) -> usize {
        self.slot as usize * BUF_LEN
    }

    /// The buffer's bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        let start = self.region.base.as_ptr().wrapping_add(self.start());
        // SAFETY: the slot lies in the region, which lives as long as `self`; its bytes were zeroed by the kernel when it
        // was mapped. Nobody writes: the kernel does so only while the op table owns the `Buf`, and then no `&Buf` exists.
        unsafe { std::slice::from_raw_parts(start, BUF_LEN) }
    }

    /// The buffer's bytes, to be written.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; `&mut self` on the only `Buf` of this slot makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), BUF_LEN) }
    }

    /// Where the kernel reads to.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.region.base.as_ptr().wrapping_add(self.start())
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.region.free.borrow_mut().push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_distinct_and_come_back() {
        let pool = Pool::new(3, true).unwrap();
        let mut bufs: Vec<Buf> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(bufs.len(), 3);
        for (i, buf) in bufs.iter_mut().enumerate() {
            buf.as_mut_slice().fill(i as u8 + 1);
        }
        for (i, buf) in bufs.iter().enumerate() {
            assert!(buf.as_slice().iter().all(|&b| b == i as u8 + 1));
        }
        drop(bufs);
        assert_eq!(pool.free(), 3);
    }

    #[test]
    fn last_buffer_returned_is_the_first_taken() {
        let pool = Pool::new(4, false).unwrap();
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        let slot = a.slot;
        drop(b);
        drop(a);
        assert_eq!(pool.take().unwrap().slot, slot);
    }

    #[test]
    fn region_outlives_the_pool_while_a_buffer_is_held() {
        let pool = Pool::new(1, false).unwrap();
        let mut buf = pool.take().unwrap();
        drop(pool);
        buf.as_mut_slice()[BUF_LEN - 1] = 7;
        assert_eq!(buf.as_slice()[BUF_LEN - 1], 7);
    }
}
