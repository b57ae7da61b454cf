//! An eventfd, as a shard's ring reads it: a counter that a read waits for and takes.

use crate::io::Errno;
use crate::sync::{Arc, Condvar, Mutex};

#[derive(Debug)]
struct Counter {
    rings: Mutex<u64>,
    rung: Condvar,
}

/// In the place of `io::Bell`.
#[derive(Clone, Debug)]
pub struct Bell(Arc<Counter>);

/// The end that the shard's ring reads.
#[derive(Debug)]
pub struct OwnedFd(Arc<Counter>);

impl Bell {
    pub fn new() -> Result<(Bell, OwnedFd), Errno> {
        let counter = Arc::new(Counter {
            rings: Mutex::new(0),
            rung: Condvar::new(),
        });
        Ok((Bell(Arc::clone(&counter)), OwnedFd(counter)))
    }

    pub fn ring(&self) {
        *self.0.rings.lock().unwrap() += 1;
        self.0.rung.notify_one();
    }
}

impl OwnedFd {
    /// What the read of a doorbell does: waits until it was rung since the last time.
    pub fn wait(&self) {
        let rings = self.0.rings.lock().unwrap();
        let mut rings = self.0.rung.wait_while(rings, |rings| *rings == 0).unwrap();
        *rings = 0;
    }
}
