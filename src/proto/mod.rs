//! The BitTorrent protocol as pure code: bytes in, values out.
//!
//! Everything in this room is a function of its arguments. Time comes in as [`std::time::Instant`], randomness as a
//! number, what the shard has to do comes out as a value, so that each part is tested and fuzzed without a socket.
//! Bytes from peers and torrent files are hostile: they lead to an error, never to a panic or an allocation that the
//! sender chose.
//!
//! What is deliberately not here: file descriptors, clocks, threads, logs, and how bytes get in or out (`shard`
//! joins this room to `io`).
//!
//! Where to go next: [`wire`] for what peers say, [`geometry`] for the block type that carries its own proof,
//! [`peer`] for one connection's state.

#![forbid(unsafe_code)]

pub mod bencode;
pub mod bitfield;
pub mod blame;
pub mod choker;
pub mod depth;
pub mod extension;
pub mod geometry;
pub mod handshake;
mod id;
pub mod metainfo;
pub mod path;
pub mod peer;
pub mod picker;
pub mod rate;
pub mod wire;

#[cfg(test)]
mod properties;

pub use id::{InfoHash, ParseInfoHashError, PeerId};
