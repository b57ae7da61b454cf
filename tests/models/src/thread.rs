//! In the place of `std::thread`: loom's, whose threads are given a stack that hashing fits in.

use std::io;
use std::num::NonZeroUsize;

pub use loom::thread::{JoinHandle, yield_now};

/// In words.
const STACK_LEN: usize = 1 << 16;

pub struct Builder(loom::thread::Builder);

impl Builder {
    #[expect(clippy::new_without_default, reason = "the standard library's has none")]
    pub fn new() -> Self {
        Self(loom::thread::Builder::new().stack_size(STACK_LEN))
    }

    pub fn name(self, name: String) -> Self {
        Self(self.0.name(name))
    }

    pub fn spawn<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
        self.0.spawn(work)
    }
}

/// For a model's own threads.
pub fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().spawn(work).unwrap()
}

pub fn available_parallelism() -> io::Result<NonZeroUsize> {
    Ok(NonZeroUsize::MIN)
}
