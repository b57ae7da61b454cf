//! The memory of checks. It is lent to them by downloads, so that what an operator has allowed for payload on its way is
//! allowed once; what downloads had when checks began is theirs until they have written it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What all checks may have where nobody says otherwise.
const DEFAULT_MAX: u64 = 64 << 20;

/// What checks have of a buffer that is not theirs. One is shared by all of them and by those whose buffer it is, who do with
/// so much less meanwhile.
#[derive(Debug)]
pub struct Loan {
    bytes: AtomicU64,
    max: u64,
    #[cfg(test)]
    most: AtomicU64,
}

impl Default for Loan {
    fn default() -> Self {
        Self::new(DEFAULT_MAX)
    }
}

impl Loan {
    /// Of so many bytes at most; a check that would have less than two buffers of them has two.
    #[must_use]
    pub fn new(max: u64) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            max,
            #[cfg(test)]
            most: AtomicU64::new(0),
        }
    }

    /// Bytes that checks have now.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The most that they had at once.
    #[cfg(test)]
    pub(super) fn most(&self) -> u64 {
        self.most.load(Relaxed)
    }

    /// What each of so many checks may have.
    pub(super) fn share(&self, running: usize) -> u64 {
        self.max / running.max(1) as u64
    }

    pub(crate) fn take(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        #[cfg(test)]
        self.most.fetch_max(self.bytes(), Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}
