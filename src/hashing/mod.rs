//! SHA-1 of pieces: what verifies that payload is what a torrent says it is.
//!
//! - [`digest`]: one digest, at once or in parts. Nobody else names a hashing crate.
//! - [`lanes`]: many messages at once in vector registers, and the choice of the instructions.
//! - [`pool`]: worker threads at low priority, so that checking a terabyte disturbs no peer being served.
//!
//! This room knows no torrent, no file and no piece: buffers and a digest come in, a verdict goes out. What is read, and
//! in which order, is for [`storage`](crate::storage) to decide.

pub mod digest;
#[allow(unsafe_code)] // One of two exceptions; its safety story is told in hashing/lanes/mod.rs.
pub mod lanes;
pub mod pool;

pub use digest::{DIGEST_LEN, Hasher, sha1};
pub use pool::{Done, Gather, Job, Outcome, Pool, PoolConfig, Refused, Reply, Source, Then};
