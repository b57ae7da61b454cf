//! The message header and iovecs of a vectored send, which the kernel reads after the submission has returned.

use super::super::op::{SEGMENTS_MAX, SendBatch};

/// Room for one `msghdr` and its iovecs. It lies inside the boxed batch, so it does not move while the kernel reads it.
pub(crate) struct Scratch {
    iovecs: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch {
            iovecs: Vec::new(),
            // SAFETY: all fields of `msghdr` are integers and pointers, for which zero is a value ("none").
            header: unsafe { std::mem::zeroed() },
        }
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scratch({} iovecs)", self.iovecs.len())
    }
}

/// Writes down what is left of the batch and returns the header to give the kernel. The pointer is good for as long as
/// the box is neither dropped nor touched.
pub(super) fn prepare(batch: &mut Box<SendBatch>) -> *const libc::msghdr {
    let mut iovecs = std::mem::take(&mut batch.scratch.iovecs);
    iovecs.clear();
    batch.for_each_left(|bytes| {
        if !bytes.is_empty() {
            iovecs.push(libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            });
        }
    });
    assert!(iovecs.len() <= SEGMENTS_MAX, "{} stretches in one send", iovecs.len());
    let scratch = &mut batch.scratch;
    scratch.iovecs = iovecs;
    scratch.header.msg_iov = scratch.iovecs.as_mut_ptr();
    scratch.header.msg_iovlen = scratch.iovecs.len();
    &raw const scratch.header
}
