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

/// Whether it says of a torrent of this shape that all of it is right.
pub fn is_whole(bytes: &[u8], piece_count: u32, file_count: u32) -> bool {
    record::is_whole(bytes, piece_count, file_count)
}

#[path = "../../src/tracker/mod.rs"]
pub mod tracker;

#[path = "../../src/session/announced.rs"]
pub mod announced;

/// What is written of them.
pub fn announced_again(trackers: &[announced::Announced]) -> Vec<u8> {
    announced::encode(trackers)
}

#[path = "../../src/session/pause.rs"]
pub mod pause;

#[path = "../../src/session/place.rs"]
pub mod place;

#[path = "../../src/session/scrub.rs"]
pub mod scrub;

/// The filesystem of a folder, as it was recorded, and what is recorded of it then.
pub fn place_again(bytes: &[u8], folder: &std::path::Path) -> Option<(place::Filesystem, Vec<u8>)> {
    let found = place::Filesystem::decode(bytes, folder)?;
    let again = found.encode(folder);
    Some((found, again))
}

/// How far a scrub was, as it was recorded, and what is recorded of it then.
pub fn scrub_again(bytes: &[u8]) -> Option<(scrub::ScrubState, Vec<u8>)> {
    let found = scrub::ScrubState::decode(bytes)?;
    Some((found, found.encode()))
}

/// Why a torrent is paused, as it was recorded, and what is recorded of it then.
pub fn pause_again(bytes: &[u8]) -> (pause::Pause, Vec<u8>) {
    let found = pause::Pause::decode(bytes);
    (found, found.encode())
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
