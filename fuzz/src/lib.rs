//! The parsers under test, compiled without the rest of the daemon: they need none of it, and the targets build in
//! seconds instead of minutes.

#[path = "../../src/proto/mod.rs"]
pub mod proto;
