//! Every metric's name, its meaning, and where its value comes from. Names are fixed: dashboards rely on them.

use metrics::{Unit, describe_counter, describe_gauge};

use crate::stats::{Counters, Histogram, Shared};

type Read<From, To> = fn(&From) -> To;

/// Counters that are summed over the shards.
pub(super) const SHARD_COUNTERS: &[(&str, &str, Read<Counters, u64>)] = &[
    (
        "btd_uploaded_bytes_total",
        "Payload bytes that sockets have taken.",
        |c| c.uploaded_bytes,
    ),
    ("btd_uploaded_blocks_total", "Blocks that sockets have taken.", |c| {
        c.uploaded_blocks
    }),
    (
        "btd_received_bytes_total",
        "Bytes received from peers, of any kind.",
        |c| c.received_bytes,
    ),
    ("btd_received_messages_total", "Messages received from peers.", |c| {
        c.received_messages
    }),
    (
        "btd_requests_refused_total",
        "Requests that were refused: choked, too many, or not to be had.",
        |c| c.requests_refused,
    ),
    ("btd_connections_accepted_total", "Connections accepted.", |c| {
        c.accepted
    }),
    (
        "btd_connections_turned_away_total",
        "Connections turned away at a limit.",
        |c| c.turned_away,
    ),
    (
        "btd_accept_pauses_total",
        "Times accepting was paused for want of file descriptors or memory.",
        |c| c.accept_pauses,
    ),
    ("btd_connections_dialed_total", "Connections begun from here.", |c| {
        c.dialed
    }),
    (
        "btd_downloaded_bytes_total",
        "Payload bytes that came from peers.",
        |c| c.downloaded_bytes,
    ),
    ("btd_downloaded_blocks_total", "Blocks that came from peers.", |c| {
        c.downloaded_blocks
    }),
    (
        "btd_wasted_bytes_total",
        "Payload bytes that came and were of no use: come already, or not asked for.",
        |c| c.wasted_bytes,
    ),
    (
        "btd_requests_taken_over_total",
        "Requests that one peer would have answered late, asked of another instead.",
        |c| c.requests_taken_over,
    ),
    (
        "btd_pieces_written_total",
        "Pieces that were verified and written.",
        |c| c.pieces_written,
    ),
    ("btd_pieces_bad_total", "Pieces that came and were wrong.", |c| {
        c.pieces_bad
    }),
    (
        "btd_peers_banned_total",
        "Peers shut out for sending what is wrong.",
        |c| c.peers_banned,
    ),
    ("btd_disk_written_bytes_total", "Bytes written to payload files.", |c| {
        c.disk_written_bytes
    }),
    ("btd_disk_writes_total", "Writes to payload files.", |c| c.disk_writes),
    (
        "btd_disk_read_bytes_total",
        "Bytes read from payload files to serve them.",
        |c| c.disk_read_bytes,
    ),
    ("btd_disk_reads_total", "Reads from payload files to serve them.", |c| {
        c.disk_reads
    }),
    (
        "btd_uploads_paced_total",
        "Times a connection waited because of upload-rate or upload-rate-per-torrent.",
        |c| c.uploads_paced,
    ),
    (
        "btd_disk_reads_ahead_total",
        "Extents read before anybody asked for them, for peers that go through a piece in order.",
        |c| c.disk_reads_ahead,
    ),
    (
        "btd_lazy_pieces_total",
        "Pieces that were read and verified when they were first asked for (`verify = \"lazy\"`).",
        |c| c.unread_verified + c.unread_wrong,
    ),
    (
        "btd_lazy_pieces_bad_total",
        "Those of them that were wrong, and were withdrawn before any of it was sent.",
        |c| c.unread_wrong,
    ),
    (
        "btd_disk_errors_total",
        "Reads and opens of payload files that failed.",
        |c| c.disk_errors,
    ),
    (
        "btd_cache_hits_total",
        "Extents found in the cache, or being read for another peer.",
        |c| c.cache_hits,
    ),
    ("btd_cache_misses_total", "Extents that had to be read.", |c| {
        c.cache_misses
    }),
    (
        "btd_cache_full_total",
        "Times a connection waited because every buffer was in use.",
        |c| c.cache_full,
    ),
    (
        "btd_short_sends_total",
        "Sends that the socket took only in part.",
        |c| c.short_sends,
    ),
    (
        "btd_reclaimed_sends_total",
        "Sends cancelled to take back the buffers that a slow peer held while others waited for one.",
        |c| c.reclaimed_sends,
    ),
    (
        "btd_tracker_connections_accepted_total",
        "Connections to the tracker accepted.",
        |c| c.tracker_accepted,
    ),
    (
        "btd_tracker_connections_turned_away_total",
        "Connections to the tracker turned away at a limit.",
        |c| c.tracker_turned_away,
    ),
    (
        "btd_tracker_timeouts_total",
        "Connections to the tracker that took too long over a request or a reply.",
        |c| c.tracker_timeouts,
    ),
    (
        "btd_tracker_datagrams_total",
        "Datagrams that came to the tracker.",
        |c| c.tracker_datagrams,
    ),
    (
        "btd_tracker_datagrams_too_long_total",
        "Datagrams to the tracker that were dropped because they were longer than 2 KiB.",
        |c| c.tracker_datagrams_too_long,
    ),
    (
        "btd_tracker_replies_unsent_total",
        "Datagrams of the tracker that its socket did not take.",
        |c| c.tracker_replies_unsent,
    ),
    ("btd_loop_turns_total", "Turns of the shards' loops.", |c| c.turns),
    ("btd_uring_enters_total", "Calls of io_uring_enter.", |c| c.uring_enters),
    ("btd_uring_sqes_total", "Submission queue entries.", |c| c.uring_sqes),
    ("btd_uring_cqes_total", "Completion queue entries.", |c| c.uring_cqes),
    (
        "btd_uring_overflows_total",
        "Turns that found the completion queue overflown.",
        |c| c.uring_overflows,
    ),
    (
        "btd_uring_stale_total",
        "Completions of operations that were no more.",
        |c| c.uring_stale,
    ),
    ("btd_uring_enobufs_total", "Receives that found no free buffer.", |c| {
        c.uring_enobufs
    }),
    (
        "btd_uring_cancelled_unasked_total",
        "Operations cancelled although nobody asked for it.",
        |c| c.uring_cancelled_unasked,
    ),
    (
        "btd_uring_zero_copy_sent_total",
        "Zero-copy sends that copied nothing.",
        |c| c.uring_zero_copy_sent,
    ),
    (
        "btd_uring_zero_copy_copied_total",
        "Zero-copy sends that copied after all.",
        |c| c.uring_zero_copy_copied,
    ),
];

/// Gauges that are summed over the shards.
pub(super) const SHARD_GAUGES: &[(&str, &str, Read<Counters, u64>)] = &[
    (
        "btd_connections",
        "Connections, also those still in the handshake.",
        |c| c.connections_now,
    ),
    ("btd_tracker_connections", "HTTP connections to the tracker.", |c| {
        c.tracker_connections_now
    }),
    ("btd_disk_reads_waiting", "Reads that wait for their device.", |c| {
        c.reads_waiting_now
    }),
    ("btd_buffers", "Cache buffers in all.", |c| c.buffers_now),
    ("btd_buffers_free", "Cache buffers that nobody holds.", |c| {
        c.buffers_free_now
    }),
    ("btd_uring_in_flight", "Operations in flight.", |c| {
        c.uring_in_flight_now
    }),
    (
        "btd_shards_gathering",
        "Shards that sleep for shards.gather-wait at least, since many peers ask for little each.",
        |c| c.gathering_now,
    ),
    (
        "btd_shards_gathering_doubled",
        "Those of them that sleep twice as long, since the machine itself keeps peers waiting.",
        |c| c.gathering_doubled_now,
    ),
    ("btd_downloads", "Torrents being downloaded.", |c| c.downloads_now),
    (
        "btd_requests_under_way",
        "Blocks that peers were asked for and have not sent.",
        |c| c.requests_now,
    ),
    (
        "btd_write_buffer_bytes",
        "Memory of pieces that are being put together, hashed or written.",
        |c| c.assembly_now,
    ),
    (
        "btd_uring_zero_copy_lent_bytes",
        "Cache that may not be reused, because sockets were lent it or are about to be.",
        |c| c.uring_zero_copy_lent_now,
    ),
];

/// The values of the label `state` of `btd_peers`. They overlap: an unchoked peer is a connected one too.
pub(super) const PEER_STATES: &[(&str, Read<Counters, u64>)] = &[
    ("connected", |c| c.peers_now),
    ("interested", |c| c.peers_interested_now),
    ("unchoked", |c| c.peers_unchoked_now),
];

/// The values of the label `mode` of `btd_read_devices`.
pub(super) const READ_MODES: &[(&str, Read<Counters, u64>)] = &[
    ("direct", |c| c.devices_direct_now),
    ("uncached", |c| c.devices_uncached_now),
    ("buffered", |c| c.devices_cached_now),
];

/// Histograms, in seconds.
pub(super) const HISTOGRAMS: &[(&str, &str, Read<Shared, Histogram>)] = &[
    (
        "btd_request_latency_seconds",
        "From a request read off the socket to its last byte accepted by the socket.",
        Shared::request_latency,
    ),
    (
        "btd_loop_stall_seconds",
        "How long one turn of a shard's loop worked, while everybody else waited.",
        Shared::loop_stall,
    ),
];

/// The histogram of the hashing pool.
pub(super) const HASH_QUEUE_DELAY: (&str, &str) = (
    "btd_hash_queue_delay_seconds",
    "How long a piece, or a part of one, waited for a worker to hash it.",
);

/// Tells the recorder what each means.
pub(super) fn describe() {
    for (name, help, _) in SHARD_COUNTERS {
        describe_counter!(*name, *help);
    }
    for (name, help, _) in SHARD_GAUGES {
        describe_gauge!(*name, *help);
    }
    describe_gauge!(
        "btd_config_reload_ok",
        "1 if the configuration was good when it was read last, 0 if btd goes on with an older one."
    );
    describe_counter!(
        "btd_scrub_bytes_total",
        Unit::Bytes,
        "Payload that the scrub has read once more, by disk."
    );
    describe_counter!(
        "btd_scrub_errors_total",
        "Pieces that the scrub found to be wrong twice (lasting), could not read twice (unreadable), or only the first time (transient), by disk."
    );
    describe_gauge!(
        "btd_scrub_completed_seconds",
        "When the scrub of a data folder last came to its end, in seconds since 1970."
    );
    describe_gauge!(
        "btd_bind_device_up",
        "1 while something can leave by peers.bind-device, 0 while nothing leaves at all. Not there without such a device."
    );
    describe_gauge!(
        "btd_bind_address_up",
        "1 while this machine has all addresses of peers.bind-address, 0 while one is away. Not there without such addresses."
    );
    describe_counter!("btd_config_reloads_total", "Times the configuration was read again.");
    describe_gauge!(
        "btd_connections_max",
        "Connections of peers that there may be at once, by the configuration, open files and memory."
    );
    describe_gauge!("btd_build_info", "Always 1; the labels tell which btd this is.");
    describe_counter!(
        "btd_tracker_requests_total",
        "Requests to the tracker, by kind and by how they ended."
    );
    describe_gauge!("btd_tracker_peers", "Peers that the tracker knows. The kinds overlap.");
    describe_gauge!("btd_tracker_swarms", "Torrents that the tracker knows.");
    describe_gauge!("btd_tracker_bytes", Unit::Bytes, "Memory of the tracker's swarms.");
    describe_counter!(
        "btd_tracker_swept_total",
        "Peers forgotten because they were not heard of."
    );
    describe_counter!(
        "btd_tracker_evicted_total",
        "Torrents that had to make way for others for want of memory."
    );
    describe_gauge!(
        "btd_tracker_store_up",
        "1 while there is a connection to the tracker's shared store, else 0."
    );
    describe_counter!(
        "btd_tracker_store_batches_total",
        "Batches of peers written to the tracker's shared store."
    );
    describe_counter!(
        "btd_tracker_store_sent_total",
        "Peers that the tracker's shared store was told of."
    );
    describe_counter!(
        "btd_tracker_store_received_total",
        "Peers that were learnt from the tracker's shared store."
    );
    describe_counter!(
        "btd_tracker_store_bad_total",
        "What the tracker's shared store said that was no peer or no message."
    );
    describe_counter!(
        "btd_tracker_store_dropped_total",
        "Updates and messages of the tracker's shared store that were lost because there were too many at once."
    );
    describe_counter!(
        "btd_tracker_store_errors_total",
        "How often the tracker's shared store refused something, could not be reached or went away."
    );
    describe_gauge!(
        "btd_peers",
        "Peers past the handshake, by what they do. The states overlap."
    );
    describe_gauge!(
        "btd_read_devices",
        "Filesystems that payload is read from, by how: past the page cache, through it without a trace, through it."
    );
    describe_gauge!("btd_torrents", "Torrents, by how much of their payload is there.");
    describe_gauge!(
        "btd_torrents_loaded",
        "Torrents whose contents are in memory; the others rest until somebody wants them."
    );
    describe_counter!(
        "btd_announces_total",
        "Announces to trackers, by result: ok, or why not."
    );
    describe_gauge!(
        "btd_announces_in_flight",
        "Announces that trackers have not answered yet."
    );
    describe_gauge!(
        "btd_announces_overdue",
        "Announces that were due a minute ago and have not come about since."
    );
    describe_counter!(
        "btd_scrapes_total",
        "Requests to trackers for the sizes of many swarms, by result: ok, or why not."
    );
    describe_gauge!(
        "btd_swarms_known",
        "Torrents whose tracker has said how large their swarm is, once for each list of trackers."
    );
    describe_gauge!(
        "btd_swarm_peers",
        "Peers in all those swarms, by kind, as their trackers count them: this btd is among them."
    );
    describe_counter!("btd_peer_drops_total", "Connections that ended, by reason.");
    describe_counter!("btd_hash_bytes_total", Unit::Bytes, "Bytes of payload hashed.");
    describe_counter!(
        "btd_check_read_bytes_total",
        Unit::Bytes,
        "Bytes of payload that checks have begun to read."
    );
    describe_gauge!("btd_checks_paused", "1 while checks are paused by SIGUSR1.");
    describe_counter!("btd_hash_failures_total", "Pieces that did not match their hash.");
    describe_counter!(
        "btd_hash_lane_blocks_total",
        "Blocks of 64 bytes hashed side by side. Divided by the slots: how full the lanes were."
    );
    describe_counter!(
        "btd_hash_lane_slots_total",
        "Blocks of 64 bytes that full lanes would have hashed in the same steps."
    );
    describe_counter!(
        "btd_hash_single_blocks_total",
        "Blocks of 64 bytes hashed on their own."
    );
}
