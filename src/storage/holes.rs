//! Where a file has nothing on the disk: holes, and what was set aside and not written yet.
//!
//! A file that is being downloaded is mostly that, and a check that read it would hash zeros for minutes.

use std::fs::File;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// A stretch of a file that is a hole throughout, or has no hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Where it was looked for.
    start: u64,
    /// Where the next begins.
    end: u64,
    is_hole: bool,
}

impl Stretch {
    /// The stretch that begins here. Where a filesystem knows no holes, or tells none, all of the file is data.
    pub(super) fn at(file: &File, start: u64) -> Self {
        let data = |end| Self {
            start,
            end,
            is_hole: false,
        };
        let hole = |end| Self {
            start,
            end,
            is_hole: true,
        };
        match rustix::fs::seek(file, SeekFrom::Data(start)) {
            Ok(next) if next > start => hole(next),
            Ok(_) => data(rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(u64::MAX)),
            // No data from here on.
            Err(Errno::NXIO) => hole(u64::MAX),
            Err(_) => data(u64::MAX),
        }
    }

    /// Whether a place of the file lies in it.
    pub(super) fn contains(&self, offset: u64) -> bool {
        (self.start..self.end).contains(&offset)
    }

    /// Where it ends, if it is a hole.
    pub(super) fn end_of_hole(&self) -> Option<u64> {
        self.is_hole.then_some(self.end)
    }

    /// Whether all up to this place lies in a hole.
    pub(super) fn is_hole_until(&self, end: u64) -> bool {
        self.is_hole && end <= self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn data_is_told_from_the_holes_around_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(&[1; 1 << 20], 1 << 20).unwrap();
        let at = |offset| {
            let stretch = Stretch::at(&file, offset);
            (stretch.is_hole, stretch.end)
        };
        if at(0) == (false, u64::MAX) {
            return; // A filesystem that tells none.
        }
        assert_eq!(at(0), (true, 1 << 20));
        assert_eq!(at(1 << 20), (false, 2 << 20));
        assert_eq!(at(2 << 20), (true, u64::MAX));
        let first = Stretch::at(&file, 5);
        assert!(first.contains(5) && !first.contains(4) && !first.contains(1 << 20));
        assert!(first.is_hole_until(1 << 20) && !first.is_hole_until((1 << 20) + 1));
        assert!(!Stretch::at(&file, 1 << 20).is_hole_until((1 << 20) + 1));
    }

    #[test]
    fn what_is_set_aside_and_not_written_is_a_hole() {
        let file = tempfile::tempfile().unwrap();
        if rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).is_ok() {
            assert!(Stretch::at(&file, 0).is_hole_until(1 << 20));
        }
    }
}
