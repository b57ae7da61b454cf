//! What is under test, compiled without the rest of the daemon: it needs none of it, and the targets build in seconds
//! instead of minutes.

#[path = "../../src/announcer/mod.rs"]
pub mod announcer;

#[path = "../../src/hashing/lanes/mod.rs"]
pub mod lanes;

#[path = "../../src/proto/mod.rs"]
pub mod proto;

#[path = "../../src/session/history.rs"]
pub mod history;

#[path = "../../src/session/record.rs"]
pub mod record;

#[path = "../../src/tracker/mod.rs"]
pub mod tracker;

#[path = "../../src/session/announced.rs"]
pub mod announced;

/// What is written of them.
pub fn announced_again(trackers: &[announced::Announced]) -> Vec<u8> {
    announced::encode(trackers)
}

pub mod control;

mod pieces;

/// In the place of the shards' room.
pub mod shard {
    /// As there.
    pub const CACHE_LEN_MIN: u64 = 8 << 20;
}

/// In the place of the storage's room.
pub mod storage {
    pub mod part {
        /// As there.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum Preallocate {
            #[default]
            Sparse,
            Full,
        }
    }
}
