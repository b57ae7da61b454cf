//! Memory of pieces and runs that were written, kept for the next ones: fresh memory costs a page fault for each 4 KiB,
//! several times what filling it does.

use bytes::{Buf, Bytes, BytesMut};

/// What offsets, lengths and addresses of a write past the page cache are multiples of.
pub(super) const ALIGNMENT: usize = 4096;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Spares {
    buffers: Vec<BytesMut>,
    len: u64,
    /// Of these and those in use together.
    max: u64,
}

impl Spares {
    /// No more than so many bytes, those in use included.
    pub(super) fn new(max: u64) -> Spares {
        Spares {
            buffers: Vec::new(),
            len: 0,
            max,
        }
    }

    /// A buffer of `len` bytes that begins `skew` bytes behind an aligned address. What is in it is anything.
    ///
    /// `reserved` bytes belong to those in use and this one. Spares that do not fit make way for it, and only now: most of
    /// what is reserved has not come yet, and needs them when it does.
    pub(super) fn take(&mut self, len: usize, skew: usize, reserved: u64) -> BytesMut {
        let skew = skew % ALIGNMENT;
        let is_long = |spare: &BytesMut| spare.len() == len;
        let fits = |spare: &BytesMut| is_long(spare) && spare.as_ptr().addr() % ALIGNMENT == skew;
        let fitting = self.buffers.iter().rposition(fits);
        if let Some(at) = fitting.or_else(|| self.buffers.iter().rposition(is_long)) {
            self.len -= len as u64;
            let spare = self.buffers.swap_remove(at);
            return if fitting.is_some() { spare } else { moved(spare, skew) };
        }
        while reserved + self.len > self.max && !self.buffers.is_empty() {
            // The oldest: it has fitted nothing since.
            self.len -= self.buffers.remove(0).len() as u64;
        }
        skewed(len, skew)
    }

    /// Keeps a buffer that nobody needs any more. Spares and buffers in use are no more than the budget together, since a
    /// new one is made only when there is room for it beside them.
    pub(super) fn keep(&mut self, bytes: Bytes) {
        if let Ok(spare) = bytes.try_into_mut()
            && self.len + spare.len() as u64 <= self.max
        {
            self.len += spare.len() as u64;
            self.buffers.push(spare);
        }
    }

    /// Changes the bound, and gives the oldest back that are beyond it.
    pub(super) fn limit(&mut self, max: u64) {
        self.max = max;
        while self.len > max && !self.buffers.is_empty() {
            self.len -= self.buffers.remove(0).len() as u64;
        }
    }

    /// Gives all of it back.
    pub(super) fn clear(&mut self) {
        self.buffers = Vec::new();
        self.len = 0;
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.buffers.len()
    }
}

/// A buffer that begins so many bytes behind an aligned address.
fn skewed(len: usize, skew: usize) -> BytesMut {
    cut(BytesMut::zeroed(len + 2 * ALIGNMENT), len, skew)
}

/// The memory of a buffer of [`skewed`] as one that begins elsewhere. Were it given back in exchange for another, the
/// allocator would keep it for a while, and where pieces of two files take turns that is as much again.
fn moved(mut buffer: BytesMut, skew: usize) -> BytesMut {
    let len = buffer.len();
    buffer.clear();
    buffer.reserve(len + 2 * ALIGNMENT); // Takes what lies before it back.
    buffer.resize(len + 2 * ALIGNMENT, 0);
    cut(buffer, len, skew)
}

fn cut(mut buffer: BytesMut, len: usize, skew: usize) -> BytesMut {
    let lead = (skew + ALIGNMENT - buffer.as_ptr().addr() % ALIGNMENT) % ALIGNMENT;
    buffer.advance(lead);
    buffer.truncate(len);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 10_000;

    #[test]
    fn what_was_kept_is_used_again_wherever_it_is_to_begin() {
        let mut spares = Spares::new(2 * LEN as u64);
        let buffer = spares.take(LEN, 100, LEN as u64);
        assert_eq!((buffer.len(), buffer.as_ptr().addr() % ALIGNMENT), (LEN, 100));
        let place = buffer.as_ptr().addr();
        let mut buffer = buffer.freeze();
        for skew in [100, 4096 + 100, 4095, 0, 1] {
            spares.keep(buffer);
            let again = spares.take(LEN, skew, LEN as u64);
            assert_eq!(
                (again.len(), again.as_ptr().addr() % ALIGNMENT),
                (LEN, skew % ALIGNMENT)
            );
            assert!(again.as_ptr().addr().abs_diff(place) < 2 * ALIGNMENT, "the same memory");
            assert_eq!(spares.count(), 0);
            buffer = again.freeze();
        }
        // The first fits as it is.
        let other = spares.take(LEN, 7, LEN as u64);
        let place = other.as_ptr();
        spares.keep(other.freeze());
        spares.keep(buffer);
        assert_eq!(spares.take(LEN, 7, LEN as u64).as_ptr(), place);
    }

    #[test]
    fn what_does_not_fit_makes_way_when_the_budget_is_used_up() {
        let mut spares = Spares::new(3 * LEN as u64);
        let buffers: Vec<Bytes> = (0..3).map(|_| spares.take(LEN, 0, 0).freeze()).collect();
        let held = buffers[0].clone();
        for buffer in buffers {
            spares.keep(buffer);
        }
        assert_eq!(spares.count(), 2, "somebody reads the first");
        spares.keep(held);
        spares.keep(skewed(LEN, 0).freeze());
        assert_eq!(spares.count(), 3, "no more than the budget");
        drop(spares.take(LEN - 1, 0, LEN as u64));
        assert_eq!(spares.count(), 2);
        spares.clear();
        assert_eq!((spares.count(), spares.len), (0, 0));
    }
}
