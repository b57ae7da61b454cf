//! Multi-buffer SHA-1: many messages at once, each in a lane of its own.
//!
//! SHA-1 of one message is a chain of additions that leaves most of a processor idle. Messages do not depend on each
//! other, so one vector instruction can do the same step for 8 or 16 of them.
//!
//! - [`State`]: one message's hash so far; also the single-stream path.
//! - [`run`]: takes messages from a source and gives each back when it ends, keeping lanes busy in between (`batch`).
//! - [`Backend`]: the widest instructions to use, found at run time or named in `BTD_SHA1`.
//! - `plan`: how many lanes have to be filled for a kernel to be worth its while, measured once.
//! - The kernels `avx512` (16 messages), `avx2` (8) and `shani` (3 or 2) advance as many states over blocks of 64 bytes. The
//!   arithmetic of the first two is in `rounds`, which tests run on plain arrays too. Everything else (one message, or
//!   another processor) is the `sha1` crate's compression function.
//!
//! This module knows no files, threads or queues; [`pool`](super::pool) does.
//!
//! # Safety
//! The only unsafe code is in the kernels: the call of a function that needs instructions which were asked for one
//! line before; loads through references to arrays of just that length; and vectors taken as arrays of the same length.
//! Nobody outside can break that, as kernels take slices and check their lengths.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
mod batch;
mod lane;
#[cfg(test)]
mod model;
mod plan;
#[cfg(any(test, target_arch = "x86_64"))]
mod rounds;
#[cfg(target_arch = "x86_64")]
mod shani;
#[cfg(target_arch = "x86_64")]
mod spread;
mod state;
#[cfg(test)]
mod tests;

pub use backend::{Backend, VARIABLE, WrongBackend};
pub use batch::{Message, Work, run};
pub use plan::Plan;
pub use state::{DIGEST_LEN, State};

/// What SHA-1 takes in at a time.
type Block = [u8; BLOCK_LEN];

/// Bytes of a [`Block`].
const BLOCK_LEN: usize = 64;

/// From one array for each message to one for each of the five words.
#[cfg(any(test, target_arch = "x86_64"))]
fn by_word<const N: usize>(states: &[[u32; 5]; N]) -> [[u32; N]; 5] {
    std::array::from_fn(|word| std::array::from_fn(|lane| states[lane][word]))
}

/// From one array for each of the five words to one for each message.
#[cfg(any(test, target_arch = "x86_64"))]
fn by_message<const N: usize>(words: [[u32; N]; 5]) -> [[u32; 5]; N] {
    std::array::from_fn(|lane| std::array::from_fn(|word| words[word][lane]))
}
