//! Payload on disk: where a torrent's bytes lie, how they are opened safely, and whether they are the right ones.
//!
//! - [`layout`]: a range of the torrent -> ranges of its files. Pure arithmetic.
//! - [`root`]: a data folder, held by a descriptor; nothing named in a torrent can be opened outside of it.
//! - [`filesystem_of`]: which filesystem a folder lies on, over restarts.
//! - [`part`]: files that are not complete: made before they are written, given their own names when they are.
//! - [`mod@check`]: reads the payload of a torrent and says which pieces are right and what is wrong with the files.
//! - [`reread`]: reads pieces once more, to find out what a disk has lost.
//! - [`mod@unchanged`]: whether files are still those that a record is about.
//! - [`mod@erase`]: deletes the files of a torrent, and nothing else.
//! - [`digest`]: reads files that are to become a torrent and gives the digest of each piece.
//!
//! Blocking reads live behind one function of `payload`; nothing here runs on a shard. A shard asks [`root`] for
//! descriptors and [`layout`] for spans, and reads through its own ring. Payload is never mapped into memory: a page
//! that cannot be read would be a signal instead of an error.
//!
//! What a shard keeps of payload lies here too: [`extents`], its cache, with [`file_numbers`], which tells that two names
//! are one file, [`open_files`], [`read_modes`] (past the page cache or through it) and [`read_queue`] (how many at once).
//!
//! Writing payload is not here: a shard does that, through its ring. Nor is the session database.
#![forbid(unsafe_code)]

mod buffers;
mod cached;
pub mod check;
pub mod device;
pub mod digest;
pub mod erase;
pub mod extents;
pub mod file_numbers;
mod folder;
mod holes;
pub mod layout;
pub mod loan;
mod mounts;
pub mod open_files;
mod order;
pub mod part;
mod payload;
mod pieces;
pub mod read_modes;
pub mod read_queue;
pub mod reread;
pub mod root;
#[cfg(any(test, feature = "sim"))]
pub(crate) mod simulated;
pub mod strangers;
#[cfg(test)]
mod tests;
pub mod throttle;
pub mod unchanged;

pub use check::{CheckReport, FileState, Memory, Unread, check};
pub use device::Device;
pub use erase::{Erased, erase};
pub use layout::{Layout, Span};
pub use loan::Loan;
pub use mounts::filesystem_of;
pub use part::{PART_SUFFIX, PartNames};
pub use pieces::{Error, Means, Progress};
pub use root::{OpenError, Root};
pub use strangers::{samples, strangers, unread_in};
pub use throttle::Throttle;
pub use unchanged::unchanged;
