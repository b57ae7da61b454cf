//! What a shard counts, and how others read it.
//!
//! A shard counts in plain integers that only it touches, and publishes them into atomics once a tick: no shared cache
//! line on the path of a block. The control plane reads the atomics when it is asked.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

mod histogram;

pub use histogram::{BOUNDS_US, Histogram, Published};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Figures of one shard. Those that end in `_now` are gauges, the others only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        struct Atomics {
            $($name: AtomicU64,)*
        }

        impl Atomics {
            fn store(&self, counters: &Counters) {
                $(self.$name.store(counters.$name, Relaxed);)*
            }

            fn load(&self) -> Counters {
                Counters { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Payload bytes that sockets have taken.
    uploaded_bytes,
    /// Blocks that sockets have taken.
    uploaded_blocks,
    /// Bytes received of any kind.
    received_bytes,
    /// Messages received.
    received_messages,
    /// Requests refused with a reject, or dropped where the peer does not know rejects.
    requests_refused,
    /// Connections accepted.
    accepted,
    /// Connections turned away at a cap.
    turned_away,
    /// Times accepting was paused for want of descriptors or memory.
    accept_pauses,
    /// Connections that were begun from here.
    dialed,
    /// Payload bytes that came from peers.
    downloaded_bytes,
    /// Blocks that came from peers.
    downloaded_blocks,
    /// Payload bytes that came and were of no use: come already, or not asked for.
    wasted_bytes,
    /// Requests that one peer would have answered late, asked of another instead.
    requests_taken_over,
    /// Pieces that were verified and written.
    pieces_written,
    /// Pieces that came and were wrong.
    pieces_bad,
    /// Peers shut out for sending what is wrong.
    peers_banned,
    /// Bytes written to files.
    disk_written_bytes,
    /// Writes to files.
    disk_writes,
    /// Bytes read from files.
    disk_read_bytes,
    /// Reads from files.
    disk_reads,
    /// Times a connection waited for the upload rate.
    uploads_paced,
    /// Extents read before anybody asked for them.
    disk_reads_ahead,
    /// Pieces that were right when they were first asked for, and had not been read before.
    unread_verified,
    /// Those that were wrong.
    unread_wrong,
    /// Reads and opens that failed.
    disk_errors,
    /// Extents found in the cache, or being read for another peer.
    cache_hits,
    /// Extents that had to be read.
    cache_misses,
    /// Times a connection waited because every buffer was in use.
    cache_full,
    /// Sends that the socket took only in part.
    short_sends,
    /// Sends cancelled to take back the buffers that a slow peer held while others waited for one.
    reclaimed_sends,
    /// Turns of the loop.
    turns,
    /// Whether sleeps are as long as it takes to gather requests: 1 for a shard whose are.
    gathering_now,
    /// Whether they are twice as long, since the machine itself is late.
    gathering_doubled_now,
    /// Connections.
    connections_now,
    /// Connections that are past the handshake.
    peers_now,
    /// Peers that want something.
    peers_interested_now,
    /// Peers that may ask.
    peers_unchoked_now,
    /// Torrents served.
    torrents_now,
    /// Filesystems whose files are read past the page cache.
    devices_direct_now,
    /// Filesystems whose files are read through the page cache without leaving anything there.
    devices_uncached_now,
    /// Filesystems whose files are read through the page cache.
    devices_cached_now,
    /// Reads that wait for their device.
    reads_waiting_now,
    /// Pool buffers in all.
    buffers_now,
    /// Pool buffers that nobody holds.
    buffers_free_now,
    /// Calls of `io_uring_enter`.
    uring_enters,
    /// Submission queue entries.
    uring_sqes,
    /// Completion queue entries.
    uring_cqes,
    /// Turns that found the completion queue overflown.
    uring_overflows,
    /// Completions of operations that were no more.
    uring_stale,
    /// Receives that found no free buffer.
    uring_enobufs,
    /// Operations cancelled although nobody asked for it.
    uring_cancelled_unasked,
    /// Zero-copy sends that copied nothing.
    uring_zero_copy_sent,
    /// Zero-copy sends that copied after all.
    uring_zero_copy_copied,
    /// Bytes lent to sockets by zero copy.
    uring_zero_copy_lent_now,
    /// Operations in flight.
    uring_in_flight_now,
    /// Connections to the tracker accepted.
    tracker_accepted,
    /// Connections to the tracker turned away at a cap.
    tracker_turned_away,
    /// Connections to the tracker that took too long over a request or a reply.
    tracker_timeouts,
    /// Datagrams that came to the tracker.
    tracker_datagrams,
    /// Datagrams to the tracker that were too long to be received whole.
    tracker_datagrams_too_long,
    /// Datagrams of the tracker's that the socket did not take.
    tracker_replies_unsent,
    /// Connections to the tracker.
    tracker_connections_now,
    /// Torrents being downloaded.
    downloads_now,
    /// Blocks that peers were asked for and have not sent.
    requests_now,
    /// Bytes of pieces that are being put together, hashed or written.
    assembly_now,
}

/// What a shard has published.
#[derive(Debug, Default)]
pub struct Shared {
    counters: Atomics,
    request_latency: Published,
    loop_stall: Published,
    /// Connections ended, by reason. A lock, since an end is no part of serving a block.
    drops: Mutex<BTreeMap<&'static str, u64>>,
    /// Milliseconds since the shard's start at its last tick.
    last_tick_ms: AtomicU64,
}

impl Shared {
    /// Publishes the counters and histograms of a tick.
    pub fn publish(&self, counters: &Counters, request_latency: &Histogram, loop_stall: &Histogram, uptime: Duration) {
        self.counters.store(counters);
        self.request_latency.store(request_latency);
        self.loop_stall.store(loop_stall);
        let uptime_ms = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        self.last_tick_ms.store(uptime_ms, Relaxed);
    }

    /// Counts the end of a connection.
    pub fn count_drop(&self, reason: &'static str) {
        let mut drops = self.drops.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *drops.entry(reason).or_default() += 1;
    }

    /// The counters as of the last tick.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.load()
    }

    /// From a request's arrival to its last byte accepted by the socket.
    #[must_use]
    pub fn request_latency(&self) -> Histogram {
        self.request_latency.load()
    }

    /// How long one turn of the loop worked.
    #[must_use]
    pub fn loop_stall(&self) -> Histogram {
        self.loop_stall.load()
    }

    /// Connections ended, by reason.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<&'static str, u64> {
        self.drops
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// How long the shard had been running at its last tick. A shard ticks at least once a second, so a value that stands
    /// still for longer tells of one that is stuck.
    #[must_use]
    pub fn last_tick(&self) -> Duration {
        Duration::from_millis(self.last_tick_ms.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_what_is_read() {
        let shared = Shared::default();
        let counters = Counters {
            uploaded_bytes: 3,
            uring_in_flight_now: 9,
            ..Counters::default()
        };
        let mut latency = Histogram::default();
        latency.record(Duration::from_micros(70), 2);
        shared.publish(&counters, &latency, &Histogram::default(), Duration::from_secs(4));
        shared.count_drop("eof");
        shared.count_drop("eof");
        assert_eq!(shared.counters(), counters);
        assert_eq!(shared.request_latency(), latency);
        assert_eq!(shared.drops().get("eof"), Some(&2));
        assert_eq!(shared.last_tick(), Duration::from_secs(4));
    }
}
