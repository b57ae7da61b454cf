//! What Prometheus reads: the shards' counters, the pool's and the torrents', under the names of the manual.
//!
//! Counters are gathered when somebody asks, not on a clock. Histograms are counted by the shards in buckets of their
//! own and written here as they are: recording every request once more, one by one, would cost more than serving it.

pub mod server;
