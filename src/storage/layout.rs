//! Where the bytes of a torrent lie: a range of the torrent becomes ranges of its files, in order.
//!
//! Only arithmetic: no path, no descriptor. A torrent of a million tiny files costs 16 bytes a file here, one binary
//! search per range, and nothing but a step per span.

use crate::proto::metainfo::{FileEntry, Metainfo};

/// The files of one torrent that have bytes, in the torrent's order.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Sorted by `start`, without gaps: each begins where the one before it ends.
    extents: Box<[Extent]>,
    total_len: u64,
}

/// One file that has bytes.
#[derive(Debug, Clone, Copy)]
struct Extent {
    /// Where in the torrent it begins.
    start: u64,
    /// Its place in [`Metainfo::files`].
    file: u32,
    pad: bool,
}

/// A range of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The file's place in [`Metainfo::files`].
    pub file: u32,
    /// Where in the file the range begins.
    pub offset: u64,
    /// How many bytes it has, at least one.
    pub len: u64,
    /// The file is padding (BEP 47): its bytes are zeros and nothing is on disk.
    pub pad: bool,
}

impl Layout {
    /// The layout of a torrent.
    pub fn new(metainfo: &Metainfo) -> Self {
        Self::of_files(&metainfo.files)
    }

    /// The layout of files that follow each other, as those of [`Metainfo::files`] do.
    ///
    /// # Panics
    /// When they do not: a [`Metainfo`] promises it.
    pub fn of_files(files: &[FileEntry]) -> Self {
        let mut total_len = 0u64;
        let mut extents = Vec::with_capacity(files.len());
        for (file, entry) in (0u32..).zip(files) {
            assert!(
                entry.offset == total_len,
                "file {file} at {}, expected at {total_len}",
                entry.offset
            );
            if entry.len > 0 {
                extents.push(Extent {
                    start: total_len,
                    file,
                    pad: entry.pad,
                });
            }
            total_len += entry.len;
        }
        Self {
            extents: extents.into(),
            total_len,
        }
    }

    /// How many bytes the torrent has.
    pub const fn total_len(&self) -> u64 {
        self.total_len
    }

    /// The spans that `len` bytes from `offset` on lie in, in order. They sum to `len`; files without bytes never appear.
    ///
    /// # Panics
    /// When the range does not end within the torrent.
    pub fn spans(&self, offset: u64, len: u64) -> Spans<'_> {
        let end = offset.checked_add(len).filter(|&end| end <= self.total_len);
        let Some(end) = end else {
            panic!("{len} bytes at {offset} of a torrent of {}", self.total_len);
        };
        // The last extent that begins at or before `offset`; the first one begins at 0.
        let after = self.extents.partition_point(|extent| extent.start <= offset);
        Spans {
            extents: &self.extents[after.saturating_sub(1)..],
            total_len: self.total_len,
            at: offset,
            end,
        }
    }
}

/// See [`Layout::spans`].
#[derive(Debug, Clone)]
pub struct Spans<'a> {
    /// The first one holds `at`.
    extents: &'a [Extent],
    total_len: u64,
    at: u64,
    end: u64,
}

impl Iterator for Spans<'_> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        if self.at == self.end {
            return None;
        }
        let (first, rest) = self.extents.split_first()?;
        let extent_end = rest.first().map_or(self.total_len, |next| next.start);
        let len = extent_end.min(self.end) - self.at;
        let span = Span {
            file: first.file,
            offset: self.at - first.start,
            len,
            pad: first.pad,
        };
        self.at += len;
        self.extents = rest;
        Some(span)
    }
}

impl std::iter::FusedIterator for Spans<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::path::RelPath;
    use proptest::prelude::*;

    fn layout(lens: &[u64]) -> Layout {
        let mut offset = 0;
        let files: Vec<FileEntry> = (0..)
            .zip(lens)
            .map(|(index, &len): (u32, _)| {
                let entry = FileEntry {
                    path: RelPath::parse(&format!("t/{index}")).unwrap(),
                    len,
                    offset,
                    pad: index % 5 == 4,
                };
                offset += len;
                entry
            })
            .collect();
        Layout::of_files(&files)
    }

    fn span(file: u32, offset: u64, len: u64, pad: bool) -> Span {
        Span { file, offset, len, pad }
    }

    #[test]
    fn a_range_within_one_file_is_one_span() {
        let layout = layout(&[10]);
        assert!(layout.spans(3, 4).eq([span(0, 3, 4, false)]));
        assert!(layout.spans(0, 10).eq([span(0, 0, 10, false)]));
    }

    #[test]
    fn a_range_over_files_skips_those_without_bytes_and_marks_padding() {
        let layout = layout(&[0, 3, 0, 4, 2, 0, 5, 0]);
        assert!(layout.spans(1, 12).eq([
            span(1, 1, 2, false),
            span(3, 0, 4, false),
            span(4, 0, 2, true),
            span(6, 0, 4, false),
        ]));
        assert!(
            layout.spans(3, 1).eq([span(3, 0, 1, false)]),
            "the first byte of a file is not the one before's"
        );
    }

    #[test]
    fn an_empty_range_has_no_span_wherever_it_is() {
        let layout = layout(&[3, 4]);
        for offset in 0..=7 {
            assert_eq!(layout.spans(offset, 0).next(), None);
        }
    }

    #[test]
    #[should_panic(expected = "5 bytes at 3 of a torrent of 7")]
    fn a_range_past_the_end_is_a_bug_of_the_caller() {
        let _ = layout(&[3, 4]).spans(3, 5);
    }

    #[test]
    fn a_million_tiny_files_are_found_each() {
        let lens: Vec<u64> = (0..1_000_000u64).map(|index| index % 3).collect();
        let layout = layout(&lens);
        assert_eq!(layout.spans(0, layout.total_len()).count(), 666_666);
        let mut offset = 0;
        for (file, len) in (0u32..).zip(lens) {
            if len > 0 {
                assert!(layout.spans(offset, len).eq([span(file, 0, len, file % 5 == 4)]));
            }
            offset += len;
        }
    }

    proptest! {
        #[test]
        fn spans_are_the_range_in_order_each_inside_its_file(
            lens in proptest::collection::vec(prop_oneof![Just(0u64), 1u64..40, 1u64..1 << 40], 1..40),
            from in any::<prop::sample::Index>(),
            to in any::<prop::sample::Index>(),
        ) {
            let layout = layout(&lens);
            let starts: Vec<u64> = lens.iter().scan(0, |at, len| { *at += len; Some(*at - len) }).collect();
            let point = |index: prop::sample::Index| index.index(usize::try_from(layout.total_len()).unwrap() + 1) as u64;
            let (from, to) = (point(from).min(point(to)), point(from).max(point(to)));
            let mut at = from;
            for span in layout.spans(from, to - from) {
                prop_assert!(span.len > 0);
                prop_assert!(span.offset + span.len <= lens[span.file as usize]);
                prop_assert_eq!(starts[span.file as usize] + span.offset, at);
                prop_assert_eq!(span.pad, span.file % 5 == 4);
                at += span.len;
            }
            prop_assert_eq!(at, to);
        }
    }
}
