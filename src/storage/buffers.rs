//! The buffers of one run over payload: made as they are needed, lent out in slices, filled again.

use bytes::{Bytes, BytesMut};

/// A bounded number of buffers of one length. One that was cut into slices is free again when the last of them is home.
pub(super) struct Buffers {
    free: Vec<BytesMut>,
    /// Those of which slices are out.
    lent: Vec<Bytes>,
    made: usize,
    count_max: usize,
    len: usize,
}

impl Buffers {
    pub(super) fn new(len: usize, count_max: usize) -> Self {
        Self {
            free: Vec::new(),
            lent: Vec::new(),
            made: 0,
            count_max,
            len,
        }
    }

    pub(super) fn any_left(&self) -> bool {
        !self.free.is_empty() || self.made < self.count_max
    }

    /// A buffer of `len` bytes, whatever they are. The one that came home last, as it may still be in a cache.
    pub(super) fn take(&mut self) -> BytesMut {
        self.free.pop().unwrap_or_else(|| {
            assert!(self.made < self.count_max, "any_left() was not asked");
            self.made += 1;
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
            self.free.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_cut_into_slices_is_whole_again_when_the_last_comes_home() {
        let mut buffers = Buffers::new(3000, 2);
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
    }
}
