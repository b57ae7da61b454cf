//! The ring's registered file table: the kernel looks a registered file up without counting references.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::IoUring;

use super::super::handle::{Closing, Handle, Released};

/// Slots of the table, or nothing where it could not be registered.
pub(super) struct Files {
    /// Slots that hold no file.
    free: Vec<u32>,
    /// Slots whose last handle was dropped; the table still holds the file open.
    released: Released,
    /// What is to be closed by the kernel's threads.
    closing: Closing,
}

impl Files {
    /// Registers an empty table of `count` slots; a kernel that refuses gets plain descriptors. Zero asks for none.
    pub(super) fn new(ring: &IoUring, count: u32) -> Files {
        let registered = count > 0 && ring.submitter().register_files_sparse(count).is_ok();
        let count = if registered { count } else { 0 };
        Files {
            free: (0..count).rev().collect(),
            released: Released::default(),
            closing: Closing::default(),
        }
    }

    /// Takes a descriptor over, into the table if there is a slot.
    pub(super) fn adopt(&mut self, ring: &IoUring, fd: OwnedFd) -> Handle {
        let Some(slot) = self.free.pop() else {
            return Handle::kernel(fd, None);
        };
        match ring.submitter().register_files_update(slot, &[fd.as_raw_fd()]) {
            Ok(_) => Handle::kernel(fd, Some((slot, self.released.clone()))),
            Err(_) => {
                self.free.push(slot);
                Handle::kernel(fd, None)
            }
        }
    }

    /// Takes files without a handle out of the table, which closes them. Called once a turn.
    pub(super) fn sweep(&mut self, ring: &IoUring) {
        let mut released = self.released.borrow_mut();
        for slot in released.drain(..) {
            // The slot is ours and the table exists, so the kernel can refuse only for want of memory; the file then stays
            // open until the slot is used again.
            let _ = ring.submitter().register_files_update(slot, &[-1]);
            self.free.push(slot);
        }
    }

    /// Leaves the closing of a file to [`Files::to_close`], and what is done with it to the kernel's threads.
    pub(super) fn set_apart(&self, file: &Handle) {
        file.set_apart(self.closing.clone());
    }

    /// A descriptor that nobody uses any more, and whose close may wait.
    pub(super) fn to_close(&self) -> Option<OwnedFd> {
        self.closing.borrow_mut().pop()
    }

    /// Slots that hold no file.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }
}
