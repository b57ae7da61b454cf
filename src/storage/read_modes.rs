//! How the files of each filesystem are read, found out by trying: past the page cache (`O_DIRECT`), else through it
//! without leaving anything there (`RWF_DONTCACHE`, kernel 6.14), else through it.

use std::collections::HashMap;

/// How files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// With `O_DIRECT`.
    Direct,
    /// With `RWF_DONTCACHE`: what was not in the page cache before leaves it after the read.
    Uncached,
    /// Through the page cache.
    Cached,
}

impl How {
    /// What to try when a filesystem refuses this.
    fn next(self) -> How {
        match self {
            How::Direct => How::Uncached,
            How::Uncached | How::Cached => How::Cached,
        }
    }
}

/// What is known of the filesystems, by device number.
#[derive(Debug)]
pub struct ReadModes {
    /// What a filesystem is tried with first.
    first: How,
    by_device: HashMap<u64, How>,
}

impl ReadModes {
    /// Nothing is known; every filesystem is tried with `first`.
    #[must_use]
    pub fn new(first: How) -> ReadModes {
        ReadModes {
            first,
            by_device: HashMap::new(),
        }
    }

    /// How files of a device are read, as far as is known.
    pub fn get(&mut self, device: u64) -> How {
        *self.by_device.entry(device).or_insert(self.first)
    }

    /// The device refused to be read like this. True when that was news.
    pub fn refused(&mut self, device: u64, how: How) -> bool {
        let known = self.by_device.entry(device).or_insert(self.first);
        let news = *known == how && how != How::Cached;
        if news {
            *known = how.next();
        }
        news
    }

    /// Devices read like this.
    #[must_use]
    pub fn count(&self, how: How) -> u64 {
        self.by_device.values().filter(|known| **known == how).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystem_is_read_in_the_best_way_it_does_not_refuse() {
        let mut modes = ReadModes::new(How::Direct);
        assert_eq!(modes.get(1), How::Direct);
        assert!(modes.refused(1, How::Direct));
        assert!(!modes.refused(1, How::Direct), "several reads are refused at once");
        assert_eq!((modes.get(1), modes.get(2)), (How::Uncached, How::Direct));
        assert!(modes.refused(1, How::Uncached));
        assert!(!modes.refused(1, How::Cached), "then it is an error of the read");
        assert_eq!(modes.get(1), How::Cached);
        assert_eq!(
            [How::Direct, How::Uncached, How::Cached].map(|how| modes.count(how)),
            [1, 0, 1]
        );
    }
}
