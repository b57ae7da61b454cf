//! What is under test, compiled without the rest of the daemon: it needs none of it, and the targets build in seconds
//! instead of minutes.

#[path = "../../src/announcer/mod.rs"]
pub mod announcer;

#[path = "../../src/hashing/lanes/mod.rs"]
pub mod lanes;

#[path = "../../src/proto/mod.rs"]
pub mod proto;

#[path = "../../src/session/history.rs"]
pub mod history;

#[path = "../../src/session/record.rs"]
pub mod record;

#[path = "../../src/tracker/mod.rs"]
pub mod tracker;
