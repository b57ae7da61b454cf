//! What of a file the page cache holds.

use std::fs::File;
use std::os::fd::AsRawFd;

/// `cachestat(2)`, Linux 6.5; the same number on every architecture. libc does not name it on all of them.
const SYS_CACHESTAT: libc::c_long = 451;

const PAGE_LEN: u64 = 4096;

/// `struct cachestat_range`, linux/mman.h.
#[repr(C)]
struct Range {
    offset: u64,
    len: u64,
}

/// `struct cachestat`, linux/mman.h. All fields count pages.
#[repr(C)]
#[derive(Default)]
struct Stat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Whether these bytes of a file are all in the page cache, so that a buffered read costs a copy and no disk. False also
/// where the kernel does not know or does not tell: before Linux 6.5, or of a file that is neither ours nor writable.
#[must_use]
pub fn is_cached(file: &File, offset: u64, len: u64) -> bool {
    let pages = (offset + len).div_ceil(PAGE_LEN) - offset / PAGE_LEN;
    len > 0 && stat(file, offset, len).is_some_and(|stat| stat.cached >= pages)
}

/// Whether the disk has all that was written to a file, as far as the kernel tells: a page that is not known to be clean
/// is none.
#[must_use]
pub fn is_clean(file: &File) -> bool {
    // A length of 0 means to the end.
    stat(file, 0, 0).is_some_and(|stat| stat.dirty == 0 && stat.writeback == 0)
}

fn stat(file: &File, offset: u64, len: u64) -> Option<Stat> {
    let range = Range { offset, len };
    let mut stat = Stat::default();
    // SAFETY: both structures live in this frame and have the layout the call is documented with; it writes to `stat` only.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0) };
    (result == 0).then_some(stat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_was_just_written_is_cached_and_what_is_beyond_the_end_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 10_000]).unwrap();
        // Before 6.5 nothing is known.
        let known = is_cached(&file, 0, 1);
        assert_eq!(is_cached(&file, 0, 10_000), known);
        assert_eq!(is_cached(&file, 4095, 2), known);
        assert!(!is_cached(&file, 0, 20_000));
        assert!(!is_cached(&file, 0, 0));
        file.sync_all().unwrap();
        assert_eq!(is_clean(&file), known);
    }
}
