//! btd: a BitTorrent daemon for Linux seedboxes, on io_uring, one shard per core.

pub mod control;
pub mod io;
pub mod proto;
