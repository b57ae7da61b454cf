//! btd: a BitTorrent daemon for Linux seedboxes, on io_uring, one shard per core.

pub mod proto;
pub mod io;
