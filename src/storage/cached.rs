//! A piece in the page cache, for the hashing worker that copies it from there and hashes it while it is in its own cache.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::hashing::Source;

/// Bytes in the page cache, to be copied by a hashing worker. Should they have left it since, the copy waits for the disk.
#[derive(Debug)]
pub(super) struct CachedBytes {
    parts: VecDeque<CachedPart>,
    left: u64,
}

/// A range of one file.
#[derive(Debug)]
pub(super) struct CachedPart {
    /// None for padding.
    pub(super) file: Option<Arc<File>>,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl CachedBytes {
    /// The bytes of these parts, `len` in all.
    pub(super) fn new(parts: VecDeque<CachedPart>, len: u64) -> Self {
        Self { parts, left: len }
    }
}

impl Source for CachedBytes {
    fn left(&self) -> u64 {
        self.left
    }

    fn read(&mut self, mut buffer: &mut [u8]) -> bool {
        while !buffer.is_empty() {
            let Some(part) = self.parts.front_mut() else {
                return false;
            };
            let (now, rest) = buffer.split_at_mut(part.len.min(buffer.len() as u64) as usize);
            match &part.file {
                None => now.fill(0),
                Some(file) => match file.read_exact_at(now, part.offset) {
                    Ok(()) => {}
                    Err(_) => return false, // Who reads it plainly finds out why.
                },
            }
            part.offset += now.len() as u64;
            part.len -= now.len() as u64;
            self.left -= now.len() as u64;
            if part.len == 0 {
                self.parts.pop_front();
            }
            buffer = rest;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> Option<Arc<File>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Some(Arc::new(file))
    }

    fn of(parts: Vec<(Option<Arc<File>>, u64, u64)>) -> CachedBytes {
        let len = parts.iter().map(|part| part.2).sum();
        let part = |(file, offset, len)| CachedPart { file, offset, len };
        CachedBytes::new(parts.into_iter().map(part).collect(), len)
    }

    #[test]
    fn parts_are_copied_in_order_in_stretches_of_any_length() {
        for stretch in 1..12 {
            let mut bytes = of(vec![(file(b"0123456789"), 2, 5), (None, 0, 3), (file(b"abc"), 0, 3)]);
            let mut all = Vec::new();
            while bytes.left() > 0 {
                let mut buffer = vec![b'-'; stretch.min(bytes.left() as usize)];
                assert!(bytes.read(&mut buffer));
                all.extend(buffer);
            }
            assert_eq!(all, b"23456\0\0\0abc");
        }
    }

    #[test]
    fn a_file_that_has_become_shorter_gives_nothing() {
        let mut bytes = of(vec![(file(b"0123"), 0, 5)]);
        assert!(!bytes.read(&mut [0; 5]));
    }
}
