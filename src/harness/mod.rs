//! The measuring harness: a swarm of leechers that drives a BitTorrent server of any make and a bare server to compare it
//! with, a swarm of seeders that feeds a client of any make, a load for trackers, and trackers for a client that announces.
//!
//! - [`load`]: one run of the swarm, and its [`report`].
//! - [`floor`]: an epoll and sendfile loop that answers the same protocol and does nothing else. It is the yardstick:
//!   absolute figures drift by tens of per cent between machines and hours, ratios in one run do not.
//! - [`sends`]: what a bare sender costs on this machine, which no server can be below; [`cores`]: how far apart its CPUs are.
//! - [`feed`]: one run of the seeders.
//! - [`tracker`]: announces and scrapes for a tracker of any make, and a floor of its own.
//! - [`announced`]: trackers that count what a client asks of them.
//! - `leecher` (one peer, without sockets), `swarm` (their sockets), `frame` (the stream, payload walked past),
//!   [`procfs`] (what the server spends), [`histogram`], `random`.
//!
//! It stands on `proto` and `hashing` alone and shares nothing with the daemon's data path, so that neither can hide
//! the other's mistakes. To peers it speaks plain TCP: no encryption, no uTP.
#![forbid(unsafe_code)]

pub mod announced;
pub mod cores;
pub mod feed;
pub mod floor;
mod frame;
pub mod histogram;
mod leecher;
pub mod load;
pub mod procfs;
mod random;
pub mod report;
pub mod sends;
mod swarm;
mod target;
pub mod tracker;

pub use target::Target;
