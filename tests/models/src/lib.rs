//! Models of what threads of btd do together, each tried in every order that loom finds.
//!
//! The code under test is btd's own: `tests/loom` copies its files in among these, with [`sync`], [`thread`] and [`fd`] in the
//! place of the standard library's. The rest of this crate stands for what is around that code, and does as little as it can.
//! A model is a test in `models.rs` beside the code that it is about.

// What is copied in is there as a whole, and is used in part.
#![allow(dead_code, unused_imports, unreachable_pub)]

pub mod fd;
pub mod sync;
pub mod thread;

pub mod proto;

pub mod hashing {
    pub mod digest;
    pub mod lanes;
    #[cfg(test)]
    mod models;
    pub mod pool;

    pub use digest::{DIGEST_LEN, Hasher, sha1};
    pub use pool::{Done, Gather, Job, Outcome, Pool, PoolConfig, Refused, Reply, Source, Then};
}

pub mod io {
    pub use crate::fd::Bell;
    pub use rustix::io::Errno;

    pub mod uring {
        pub fn run_when_idle() {}
    }
}

pub mod stats {
    mod histogram;
    pub use histogram::Histogram;
}

pub mod session {
    pub mod database;
    pub mod history;
    #[cfg(test)]
    mod models;
    pub mod writer;

    pub use database::Error;

    /// What was found of a torrent: nothing here.
    pub struct Record {
        pub have: crate::proto::bitfield::Bitfield,
    }

    #[derive(Debug)]
    pub struct Store;

    impl Store {
        pub fn load(&self, _: &crate::proto::InfoHash, _: u32, _: usize) -> Option<Record> {
            None
        }
    }
}

pub mod shard {
    pub mod mailbox;
    #[cfg(test)]
    mod models;
    pub mod pace;
    pub mod torrent;

    pub use torrent::Torrent;

    pub mod handover {
        #[derive(Debug)]
        pub struct Handed;
    }

    pub mod report {
        #[derive(Debug)]
        pub struct PeersReply;
    }

    /// What the documentation of commands names.
    pub enum Event {}
}

pub mod storage {
    /// A disk, by its number.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Device {
        pub id: u64,
        pub seeks: bool,
    }

    pub use root::Root;

    pub fn unchanged(
        _: &crate::proto::metainfo::Metainfo,
        _: &Root,
        _: &crate::session::Record,
    ) -> Result<Vec<Option<i64>>, String> {
        Err("nobody has looked at it".to_owned())
    }

    pub mod root {
        #[derive(Debug)]
        pub struct Root;
    }

    pub mod layout {
        #[derive(Debug)]
        pub struct Layout;

        impl Layout {
            pub fn new(_: &crate::proto::metainfo::Metainfo) -> Self {
                Self
            }
        }
    }

    #[derive(Debug)]
    pub struct PartNames;

    impl PartNames {
        pub fn new(_: &[crate::proto::metainfo::FileEntry]) -> Self {
            Self
        }

        pub fn get(&self, _: u32, _: &crate::proto::metainfo::FileEntry) -> Option<crate::proto::path::RelPath> {
            None
        }
    }
}

pub mod tracker {
    pub mod address;

    pub mod sharing {
        #[cfg(test)]
        mod models;
        pub mod outbox;
    }
}

pub mod control {
    #[cfg(test)]
    mod models;
    pub mod wakes;

    pub mod contents {
        use std::path::Path;

        use crate::proto::InfoHash;
        use crate::proto::metainfo::Metainfo;
        use crate::sync::Arc;

        #[derive(Debug, thiserror::Error)]
        #[error("it is not there")]
        pub struct Unread;

        pub enum Contents {
            InFile(Arc<Path>),
        }

        impl Contents {
            pub fn get(&self, _: InfoHash) -> Result<Arc<Metainfo>, Unread> {
                Err(Unread)
            }
        }
    }

    pub mod places {
        use std::path::Path;

        use crate::storage::Root;
        use crate::sync::Arc;

        #[derive(Debug, thiserror::Error)]
        #[error("it is away")]
        pub struct Absence;

        #[derive(Debug)]
        pub struct Places;

        impl Places {
            pub fn open(&self, _: &Path) -> Result<Arc<Root>, Absence> {
                Err(Absence)
            }

            pub fn bind(&self, _: &Path, _: &Root) {}
        }
    }

    pub mod checks {
        #[cfg(test)]
        mod models;
        pub mod queue;

        /// A torrent that waits to be checked: of it the queue looks at the folder alone.
        #[derive(Debug)]
        pub struct Job {
            pub data_dir: std::path::PathBuf,
        }
    }
}
