//! What a simulation looks at from outside after each turn: how much there is of what is bounded, and who waits for what.

use super::{Shard, write};
use crate::io::{Driver, Owner};

/// See the module's page.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Audit {
    /// Connections, and of them those that are being made.
    pub(crate) connections: usize,
    /// See `connections`.
    pub(crate) half_open: usize,
    /// Bytes reserved for pieces in memory.
    pub(crate) assembly: u64,
    /// Pieces that the pool has, and those that wait for room there.
    pub(crate) verdicts_out: usize,
    /// Files that may be open at a time.
    pub(crate) files_max: usize,
}

impl<D: Driver> Shard<D> {
    /// How it stands.
    pub(crate) fn audit(&self) -> Audit {
        Audit {
            connections: self.conns.len(),
            half_open: self.half_open,
            assembly: self.assembly.reserved(),
            verdicts_out: self.verifier.out,
            files_max: self.settings.files_max + write::FILES_MAX,
        }
    }

    /// Whether there still is a connection.
    pub(crate) fn has_conn(&self, owner: Owner) -> bool {
        self.conns.get(owner).is_some()
    }
}
