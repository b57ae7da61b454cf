//! btd: a BitTorrent daemon for Linux seedboxes, on io_uring, one shard per core.
//!
//! The rooms, from the bottom up; each imports only from those that stand above it here:
//! - [`proto`]: BitTorrent as values. Bytes in, values out; no socket, clock, thread or log.
//! - [`io`]: the seam to the machine. Operations out, completions in; knows nothing of BitTorrent.
//! - [`stats`]: counters of a shard, and how others read them.
//! - [`hashing`]: SHA-1 and the pool of threads that does it.
//! - [`session`]: what was found of payload, kept over restarts.
//! - [`storage`]: where the bytes of a torrent lie on disk, and whether they are right.
//! - [`tracker`]: who is in which swarm, and how that is asked over HTTP and UDP. No sockets.
//! - [`announcer`]: when trackers are asked what, and what their answers mean.
//! - [`shard`]: joins the above, one per core: connections, uploads, downloads, timers.
//! - [`harness`]: drives a daemon or a tracker of any make as a swarm would, and measures it.
//! - [`control`]: configuration, start and stop, watch folders, metrics, commands.
//! - `sim`: whole btds in one thread, on a network and disks that fail as a seed says (feature `sim`).
//!
//! `ARCHITECTURE.md` follows one block from the peer's request to the wire. A newcomer reads that, then
//! `proto/wire.rs`, `shard/mod.rs` and `io/mod.rs`.

pub mod announcer;
pub mod control;
pub mod harness;
pub mod hashing;
pub mod io;
pub mod proto;
pub mod session;
pub mod shard;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod stats;
pub mod storage;
pub mod tracker;
