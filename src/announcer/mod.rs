//! The client of trackers: what is asked of them and when, and what their answers mean. Bytes and times in, values out.
//!
//! - [`url`]: a tracker's address; its passkey is in no log.
//! - [`request`]: one announce, and its form as a query (BEP 3, 7, 23) and as a datagram (BEP 15, 41).
//! - [`answer`]: what a tracker says, from bencode and from datagrams, under limits (BEP 23, 24, 31).
//! - [`udp`]: the datagrams.
//! - [`scrape`]: how large the swarms of many torrents are, in one request (BEP 48).
//! - [`schedule`]: all announces of all torrents as one state machine: tiers (BEP 12), intervals, back-off, a bucket of
//!   requests for each tracker host.
//! - [`address`]: which addresses a name, a redirect or a tracker may lead to.
//! - [`text`]: what strangers write, made fit for a log; [`redact`]: without the keys that they repeat.
//!
//! No socket, no name is resolved and no clock is read here: `control/announce` does that.
#![forbid(unsafe_code)]

pub mod address;
pub mod answer;
mod bucket;
pub mod redact;
pub mod request;
pub mod schedule;
pub mod scrape;
pub mod text;
pub mod udp;
pub mod url;

pub use address::Rule;
pub use answer::{Answer, Failure, Retry};
pub use redact::{redacted, redacted_failure};
pub use request::{Event, Request};
pub use schedule::{Call, Kept, News, Outcome, Schedule, ScrapeCall};
pub use scrape::Swarm;
pub use url::TrackerUrl;
