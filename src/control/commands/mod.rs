//! What the commands do that are not the daemon: one file for each.

pub mod bench;
