//! SHA-1 of pieces: what verifies that payload is what a torrent says it is.
//!
//! - [`digest`]: the one place where the backend is chosen. Nobody else names a hashing crate.
//! - [`pool`]: worker threads at low priority, so that checking a terabyte disturbs no peer being served.
//!
//! This room knows no torrent, no file and no piece: buffers and a digest come in, a verdict goes out. What is read, and
//! in which order, is for [`storage`](crate::storage) to decide.
#![forbid(unsafe_code)]

pub mod digest;
pub mod pool;

pub use digest::{DIGEST_LEN, Hasher, sha1};
pub use pool::{Done, Job, Outcome, Pool, PoolConfig, Then};
