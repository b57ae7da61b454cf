//! Where a stretch of the torrent goes in a buffer, what a ring has to read for it, and what of it is there then.

use std::ops::Range;

use super::{ALIGNMENT, DIRECT_FROM, DONTCACHE, PARTS_MAX, Payload};
use crate::io::uring::file_reader::Part;
use crate::io::uring::page_cache;
use crate::storage::layout::Span;
use rustix::io::Errno;

/// Where a stretch of the torrent lies in a buffer, and what has to be read for that.
#[derive(Debug, Default)]
pub(in crate::storage) struct Plan {
    /// For the ring.
    pub(in crate::storage) parts: Vec<Part>,
    /// The stretch, in order and without gaps.
    places: Vec<Place>,
    /// The first place of the buffer that is aligned.
    base: usize,
}

/// A range of one file, and its place in a buffer.
#[derive(Debug)]
struct Place {
    span: Span,
    /// Where in the buffer its first byte is.
    at: usize,
    origin: Origin,
}

#[derive(Debug, Clone, Copy)]
enum Origin {
    /// It is in the buffer.
    Here,
    /// It comes with this part, whose first byte lies so many bytes before.
    Part { index: usize, lead: usize, direct: bool },
    /// It cannot be had.
    Gap,
}

/// What of a stretch is in a buffer: ranges of the buffer with the bytes of the torrent in order, or nothing where a byte
/// could not be read.
#[derive(Debug)]
pub(in crate::storage) struct Filled {
    /// Where in the torrent it begins.
    offset: u64,
    places: Vec<Place>,
}

impl Filled {
    /// Where in the buffer these bytes of the torrent are; `None` if one of them could not be read.
    pub(in crate::storage) fn ranges(&self, offset: u64, len: u64) -> Option<Vec<Range<usize>>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut from = self.offset;
        for place in &self.places {
            let (start, end) = (from.max(offset), (from + place.span.len).min(offset + len));
            if start < end {
                if matches!(place.origin, Origin::Gap) {
                    return None;
                }
                // Both are within the place, which is shorter than the buffer.
                let at = place.at + (start - from) as usize;
                let end = place.at + (end - from) as usize;
                match ranges.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => ranges.push(at..end),
                }
            }
            from += place.span.len;
        }
        Some(ranges)
    }
}

impl Payload<'_> {
    /// Says what is to be read where for the bytes from `offset` on. `buffer` has [`slack`] to spare; zeros of padding,
    /// and what is not worth a place in a ring, are put there at once.
    pub(in crate::storage) fn plan(&mut self, offset: u64, len: u64, buffer: &mut [u8]) -> Plan {
        let layout = self.layout;
        let base = buffer.as_ptr().align_offset(ALIGNMENT);
        let mut plan = Plan {
            base,
            ..Plan::default()
        };
        let mut free = base;
        let mut len_left = len as usize;
        for span in layout.spans(offset, len) {
            let span_len = span.len as usize; // No longer than the buffer.
            len_left -= span_len;
            let (at, origin, end) = if span.pad {
                buffer[free..free + span_len].fill(0);
                (free, Origin::Here, free + span_len)
            } else {
                self.place(&span, free, buffer, len_left, &mut plan)
            };
            plan.places.push(Place { span, at, origin });
            free = end;
        }
        plan
    }

    /// Finds a place for a span from `free` on, and what is to be read for it. Also gives where the next may begin.
    fn place(
        &mut self,
        span: &Span,
        free: usize,
        buffer: &mut [u8],
        len_left: usize,
        plan: &mut Plan,
    ) -> (usize, Origin, usize) {
        let len = span.len as usize;
        let gap = (free, Origin::Gap, free);
        if span.offset + span.len > self.readable[span.file as usize] {
            return gap;
        }
        let Ok(file) = self.file(span.file) else { return gap };
        let index = plan.parts.len();
        if index == PARTS_MAX {
            let read = self.read(span, &mut buffer[free..free + len], 0);
            return if read { (free, Origin::Here, free + len) } else { gap };
        }
        let lead = (span.offset % ALIGNMENT as u64) as usize;
        let at = plan.base + (free - plan.base).next_multiple_of(ALIGNMENT);
        let read_len = (lead + len).next_multiple_of(ALIGNMENT);
        let wanted = self.direct && span.len >= DIRECT_FROM && at + read_len + len_left <= buffer.len();
        if wanted
            && !page_cache::is_cached(&file, span.offset, span.len)
            && let Some(file) = self.direct_file(span.file)
        {
            plan.parts.push(Part {
                file,
                offset: span.offset - lead as u64,
                at,
                len: read_len,
                dont_cache: false,
                result: Ok(0),
            });
            let direct = true;
            // A disk writes whole sectors to memory, also beyond the end of the file.
            return (at + lead, Origin::Part { index, lead, direct }, at + read_len);
        }
        plan.parts.push(Part {
            file,
            offset: span.offset,
            at: free,
            len,
            dont_cache: self.read_flags == DONTCACHE,
            result: Ok(0),
        });
        let (lead, direct) = (0, false);
        (free, Origin::Part { index, lead, direct }, free + len)
    }

    /// Judges what was read for a plan. `parts` are those of the plan, with their results.
    pub(in crate::storage) fn finish(&mut self, offset: u64, plan: Plan, parts: &[Part], buffer: &mut [u8]) -> Filled {
        let mut places = plan.places;
        for place in &mut places {
            let Origin::Part { index, lead, direct } = place.origin else {
                continue;
            };
            let part = &parts[index];
            if direct && part.result == Err(Errno::INVAL) {
                self.direct = false; // It asks for another alignment.
            }
            let len = place.span.len as usize;
            let have = part.result.map_or(0, |read| read.saturating_sub(lead).min(len));
            let whole = have == len || self.read(&place.span, &mut buffer[place.at..place.at + len], have);
            place.origin = if whole { Origin::Here } else { Origin::Gap };
        }
        Filled { offset, places }
    }
}
