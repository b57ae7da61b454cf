//! The buffers of one run over payload: made as they are needed, lent out in slices, filled again.

use std::sync::Arc;

use super::loan::Loan;
use bytes::{Bytes, BytesMut};

/// A bounded number of buffers of one length. One that was cut into slices is free again when the last of them is home. The
/// bound may change meanwhile; what is beyond it is given up as it comes home.
pub(super) struct Buffers {
    free: Vec<BytesMut>,
    /// Those of which slices are out.
    lent: Vec<Bytes>,
    made: usize,
    count_max: usize,
    len: usize,
    loan: Arc<Loan>,
}

/// Fewer would have a run wait for each read by itself. Beyond what may be borrowed, if need be.
const COUNT_MIN: usize = 2;

impl Buffers {
    /// Of `len` bytes each, out of a loan; none before [`Buffers::limit`].
    pub(super) fn new(len: usize, loan: Arc<Loan>) -> Self {
        Self {
            free: Vec::new(),
            lent: Vec::new(),
            made: 0,
            count_max: 0,
            len,
            loan,
        }
    }

    /// Sets how many there may be by the bytes that they may take together: two in any case.
    pub(super) fn limit(&mut self, count: usize, bytes: u64) {
        let by_bytes = usize::try_from(bytes / self.len as u64).unwrap_or(usize::MAX);
        self.count_max = count.min(by_bytes).max(COUNT_MIN);
        while self.made > self.count_max && self.free.pop().is_some() {
            self.unmake();
        }
    }

    /// Gives up those that are free.
    pub(super) fn give_up_free(&mut self) {
        while self.free.pop().is_some() {
            self.unmake();
        }
    }

    /// How many there may be.
    pub(super) fn count_max(&self) -> usize {
        self.count_max
    }

    fn unmake(&mut self) {
        self.made -= 1;
        self.loan.give_back(self.len as u64);
    }

    pub(super) fn any_left(&self) -> bool {
        !self.free.is_empty() || self.made < self.count_max
    }

    /// A buffer of `len` bytes, whatever they are. The one that came home last, as it may still be in a cache.
    pub(super) fn take(&mut self) -> BytesMut {
        self.free.pop().unwrap_or_else(|| {
            assert!(self.made < self.count_max, "any_left() was not asked");
            self.made += 1;
            self.loan.take(self.len as u64);
            BytesMut::zeroed(self.len)
        })
    }

    /// Makes a buffer readable by many. Every slice of it, and what this gives, has to come home by
    /// [`Buffers::give_back`].
    pub(super) fn lend(&mut self, buffer: BytesMut) -> Bytes {
        let buffer = buffer.freeze();
        self.lent.push(buffer.clone());
        buffer
    }

    /// Takes a slice back, and the whole buffer if it was the last.
    pub(super) fn give_back(&mut self, slice: Bytes) {
        let at = slice.as_ptr();
        drop(slice);
        // There are no more than a few hundred.
        let home = |whole: &Bytes| whole.as_ptr_range().contains(&at) && whole.is_unique();
        if let Some(index) = self.lent.iter().position(home)
            && let Ok(buffer) = self.lent.swap_remove(index).try_into_mut()
        {
            if self.made > self.count_max {
                self.unmake();
            } else {
                self.free.push(buffer);
            }
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.loan.give_back((self.made * self.len) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_cut_into_slices_is_whole_again_when_the_last_comes_home() {
        let loan = Arc::new(Loan::default());
        let mut buffers = Buffers::new(3000, Arc::clone(&loan));
        buffers.limit(2, u64::MAX);
        let (mut buffer, other) = (buffers.take(), buffers.take());
        buffer.fill(1);
        let memory = buffer.as_ptr();
        let (whole, other) = (buffers.lend(buffer), buffers.lend(other));
        let slices = [whole.slice(2000..), whole.slice(..1000), whole.slice(1000..2000)];
        buffers.give_back(whole);
        for slice in slices {
            assert!(!buffers.any_left());
            buffers.give_back(slice);
        }
        let again = buffers.take();
        assert_eq!((again.len(), again.as_ptr()), (3000, memory));
        assert!(
            again.iter().all(|&byte| byte == 1),
            "nothing was written to it in between"
        );
        assert!(!buffers.any_left());
        buffers.give_back(other);
        assert!(buffers.any_left());
        assert_eq!(loan.bytes(), 6000);
        drop(buffers);
        assert_eq!(loan.bytes(), 0);
    }

    #[test]
    fn what_is_beyond_a_bound_that_has_become_lower_is_given_up_as_it_comes_home() {
        let loan = Arc::new(Loan::default());
        let mut buffers = Buffers::new(1000, Arc::clone(&loan));
        buffers.limit(9, 4999);
        let out: Vec<_> = (0..4)
            .map(|_| {
                let buffer = buffers.take();
                buffers.lend(buffer)
            })
            .collect();
        assert!(!buffers.any_left(), "four fit");
        buffers.limit(9, 3000);
        let mut left = out.into_iter();
        buffers.give_back(left.next().unwrap());
        assert_eq!((loan.bytes(), buffers.any_left()), (3000, false));
        buffers.give_back(left.next().unwrap());
        assert!(buffers.any_left(), "three fit, and it is one of them");
        buffers.limit(9, 0);
        assert_eq!(
            (loan.bytes(), buffers.any_left()),
            (2000, false),
            "two there are in any case"
        );
        left.for_each(|slice| buffers.give_back(slice));
        assert!(buffers.any_left());
        assert_eq!(loan.bytes(), 2000);
        let held = buffers.take();
        buffers.give_up_free();
        assert_eq!((loan.bytes(), buffers.any_left()), (1000, true));
        drop(held);
    }
}
