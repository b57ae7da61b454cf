//! What wakes a shard that sleeps in its ring: an eventfd, which any thread may ring.
//!
//! Its counter keeps a ring that comes while nobody listens, so that whoever rings has to see to one thing only: what the shard
//! is to find lies there before (`tests/loom` tries all orders).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::Errno;

/// The end that is rung.
#[derive(Clone, Debug)]
pub struct Bell(Arc<OwnedFd>);

impl Bell {
    /// Makes one; the other end is for [`super::Op::Doorbell`].
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> Result<(Bell, OwnedFd), Errno> {
        // Blocking, so that the ring's read of it waits.
        let heard = eventfd(0, EventfdFlags::CLOEXEC)?;
        let rung = heard.try_clone().map_err(|_| Errno::MFILE)?;
        Ok((Bell(Arc::new(rung)), heard))
    }

    /// Wakes the shard.
    pub fn ring(&self) {
        // The counter of an eventfd cannot overflow here, and a shard that has ended needs no waking.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}
