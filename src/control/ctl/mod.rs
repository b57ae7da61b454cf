//! Control while btd runs: what `btd ctl` asks, over a Unix socket in the state folder, and who answers.
//!
//! - [`api`]: requests and rows as values, with their form as JSON. No socket, no supervisor.
//! - `filter`: which torrents are meant by a request for several.
//! - `handlers`: what a request means. Knows the supervisor by its `door` and gives rows to a `handlers::Rows`, so
//!   that another transport needs nothing but that trait.
//! - `socket`: the transport: lines of JSON over `ctl.sock`, and its limits.
//! - `add`: a torrent file put into a watch folder.
//! - [`client`]: the other end; [`args`] is its command line, `table` what it shows people.
//!
//! The watch folders stay the truth: what is added is put there, what is removed is taken out there. Nothing is decided
//! here about payload or peers.

mod add;
pub mod api;
pub mod args;
pub mod client;
pub(in crate::control) mod door;
pub(in crate::control) mod filter;
pub(in crate::control) mod handlers;
pub(in crate::control) mod socket;
mod table;

pub use args::Ctl;
pub use client::{Error, Fault, run};
pub(in crate::control) use table::{counted, rate as display_rate};
