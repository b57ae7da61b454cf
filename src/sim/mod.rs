//! Whole btds in one thread, on a network, disks and a clock that do what one seed says.
//!
//! ```text
//! cargo run --features sim --bin btd-sim -- --seed 7            one run, told step by step
//! cargo run --features sim --bin btd-sim -- --seeds 0..100000   a range, on all cores
//! ```
//!
//! A seed stands for two to six btds (one or two of them have the torrent), scripted bad peers, links, and a handful of
//! faults, each with its time ([`Kind`]). The run ends when nothing goes wrong any more and all have everything. The same
//! seed gives the same run, step for step: [`Report::trace`] is one number for all of it.
//!
//! **What is real**: the shard with everything in it (connections, choker, picker, blame, uploads, downloads, timers), its
//! events and commands, the jobs of downloads (`control/downloads`: files made, synced, named and recorded), the check at
//! a start (`control/checks`), the session's records and their queue, the hashing of the pool, the announcer's schedule
//! and datagrams, the tracker's protocol and store. Files are real files in a folder of the machine's memory, made and renamed
//! by the real code.
//!
//! **What is simulated**: time; the driver (sockets, files as the shard sees them, and everything that a ring may do to a
//! completion); what of a disk survives a loss of power (`disk`); the wire to the tracker; the threads for jobs, which run
//! one after another at times of the seed's; the supervisor, of which `node` has the part that passes things on.
//!
//! **What is not here**: several shards in one btd and what they hand to each other; the tracker's sockets within a shard,
//! and HTTP; names and their resolving; redb and its file (what is committed is kept as a whole); files that are old enough
//! for a check not to sync them; watch folders, reloads, pauses; zero-copy sends that the kernel gives back before their result.
//!
//! What holds at any time is looked at in `tap` (what is said to peers), in `run` (bounds, operations and their owners), in
//! `node` (what is recorded is durable, and what is written to was recorded as begun) and in `announcing` (trackers are not asked early).
#![forbid(unsafe_code)]

mod announcing;
mod disk;
mod driver;
mod network;
mod node;
mod ops;
mod plan;
mod random;
mod run;
mod script;
mod shrink;
mod tap;
#[cfg(test)]
mod tests;
mod torrent;
mod trace;
mod world;

pub use plan::{Fault, Kind};
pub use run::{Options, Report, faults, run};
pub use shrink::shrink;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;
const MINUTE: u64 = 60 * SECOND;
