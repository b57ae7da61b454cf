//! What Prometheus reads: the shards' counters, the hashing pool's and the torrents', under the names of the manual.
//!
//! Counters are gathered when somebody asks, not on a clock. Histograms are counted by the shards in buckets of their
//! own and written here as they are: recording every request once more, one by one, would cost more than serving it.

mod names;
mod process;
pub mod server;
pub mod top;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::pulse::{Pulse, STUCK_AFTER};
use crate::hashing::Pool;
use crate::hashing::lanes::Work;
use crate::hashing::pool::PoolStats;
use crate::shard::tracker::Served;
use crate::stats::{BOUNDS_US, Counters, Histogram, Shared};
use crate::storage::Throttle;
use crate::tracker::{Counts, Kind, Outcome, Totals, Tracker};

/// The tracker, and what each shard has served for it.
type TrackerFigures = (Arc<Tracker>, Vec<Arc<Served>>);

/// Gathers and writes everything.
pub struct Reporter {
    shards: Vec<Arc<Shared>>,
    pools: Vec<Arc<Pool>>,
    checks: Arc<Throttle>,
    tracker: Option<TrackerFigures>,
    recorder: PrometheusHandle,
    top: top::Picked,
    pulse: Mutex<Pulse>,
}

impl Reporter {
    /// Installs the recorder of the process.
    #[must_use]
    pub fn new(
        shards: Vec<Arc<Shared>>,
        pools: Vec<Arc<Pool>>,
        checks: Arc<Throttle>,
        tracker: Option<TrackerFigures>,
        top: top::Picked,
    ) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        // A second one in one process (tests) records nothing, and is no harm.
        let _ = ::metrics::set_global_recorder(recorder);
        names::describe();
        ::metrics::gauge!("btd_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
        let pulse = Mutex::new(Pulse::new(shards.clone(), Instant::now()));
        Self {
            shards,
            pools,
            checks,
            tracker,
            recorder: handle,
            top,
            pulse,
        }
    }

    /// Notices which shards have ticked since the last call.
    pub fn look_at_shards(&self, now: Instant) {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner).look(now);
    }

    fn health_at(&self, now: Instant) -> Result<(), String> {
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        pulse.look(now);
        let silent = pulse.silent(STUCK_AFTER, now);
        let lines: Vec<String> = silent.iter().map(ToString::to_string).collect();
        match lines.is_empty() {
            true => Ok(()),
            false => Err(lines.join("\n")),
        }
    }

    fn gather(&self) {
        let counters: Vec<Counters> = self.shards.iter().map(|shard| shard.counters()).collect();
        for (name, _, read) in names::SHARD_COUNTERS {
            ::metrics::counter!(*name).absolute(counters.iter().map(read).sum());
        }
        for (name, _, read) in names::SHARD_GAUGES {
            ::metrics::gauge!(*name).set(counters.iter().map(read).sum::<u64>() as f64);
        }
        for (state, read) in names::PEER_STATES {
            ::metrics::gauge!("btd_peers", "state" => *state).set(counters.iter().map(read).sum::<u64>() as f64);
        }
        for (mode, read) in names::READ_MODES {
            // Every shard finds out for itself; they are the same filesystems.
            let devices = counters.iter().map(read).max().unwrap_or(0);
            ::metrics::gauge!("btd_read_devices", "mode" => *mode).set(devices as f64);
        }
        let mut drops: BTreeMap<&str, u64> = BTreeMap::new();
        for (reason, count) in self.shards.iter().flat_map(|shard| shard.drops()) {
            *drops.entry(reason).or_default() += count;
        }
        for (reason, count) in drops {
            ::metrics::counter!("btd_peer_drops_total", "reason" => reason).absolute(count);
        }
        if let Some((tracker, served)) = &self.tracker {
            gather_tracker(&tracker.totals(), served);
        }
        let hashed: Vec<PoolStats> = self.pools.iter().map(|pool| pool.stats()).collect();
        let of_pools = |read: fn(&PoolStats) -> u64| hashed.iter().map(read).sum();
        ::metrics::counter!("btd_hash_bytes_total").absolute(of_pools(|pool| pool.bytes));
        ::metrics::counter!("btd_hash_failures_total").absolute(of_pools(|pool| pool.failures));
        ::metrics::counter!("btd_check_read_bytes_total").absolute(self.checks.bytes_begun());
        ::metrics::gauge!("btd_checks_paused").set(f64::from(u8::from(self.checks.is_paused())));
        let workers = || hashed.iter().flat_map(|pool| &pool.workers);
        let of_workers = |read: fn(&Work) -> u64| workers().map(|worker| read(&worker.work)).sum();
        ::metrics::counter!("btd_hash_lane_blocks_total").absolute(of_workers(|work| work.lane_blocks));
        ::metrics::counter!("btd_hash_lane_slots_total").absolute(of_workers(|work| work.lane_slots));
        ::metrics::counter!("btd_hash_single_blocks_total").absolute(of_workers(|work| work.single_blocks));
    }
}

fn gather_tracker(totals: &Totals, served: &[Arc<Served>]) {
    let served: Vec<Counts> = served.iter().map(|served| served.counts()).collect();
    for kind in Kind::ALL {
        for result in Outcome::ALL {
            let count = served.iter().map(|counts| counts.get(*kind, *result)).sum();
            ::metrics::counter!(
                "btd_tracker_requests_total", "kind" => kind.name(), "result" => result.name()
            )
            .absolute(count);
        }
    }
    let peers = [
        ("ipv4", totals.peers_v4),
        ("ipv6", totals.peers_v6),
        ("seeder", totals.seeders),
        ("named", totals.named),
    ];
    for (kind, count) in peers {
        ::metrics::gauge!("btd_tracker_peers", "kind" => kind).set(count as f64);
    }
    ::metrics::gauge!("btd_tracker_swarms").set(totals.swarms as f64);
    ::metrics::gauge!("btd_tracker_bytes").set(totals.bytes as f64);
    ::metrics::counter!("btd_tracker_swept_total").absolute(totals.swept);
    ::metrics::counter!("btd_tracker_evicted_total").absolute(totals.evicted);
}

impl server::Source for Reporter {
    fn metrics(&self) -> String {
        self.gather();
        let mut text = self.recorder.render();
        for (name, help, read) in names::HISTOGRAMS {
            let mut sum = Histogram::default();
            self.shards.iter().for_each(|shard| sum.add(&read(shard)));
            write_histogram(&mut text, name, help, &sum);
        }
        let (name, help) = names::HASH_QUEUE_DELAY;
        let mut sum = Histogram::default();
        let workers: Vec<_> = self.pools.iter().flat_map(|pool| pool.stats().workers).collect();
        workers.iter().for_each(|worker| sum.add(&worker.queue_delay));
        write_histogram(&mut text, name, help, &sum);
        top::write(&mut text, &self.top);
        process::write(&mut text);
        text
    }

    fn health(&self) -> Result<(), String> {
        self.health_at(Instant::now())
    }
}

/// Says that the configuration of the start is in force.
pub(super) fn publish_config() {
    ::metrics::gauge!("btd_config_reload_ok").set(1);
    for result in ["ok", "refused"] {
        ::metrics::counter!("btd_config_reloads_total", "result" => result).absolute(0);
    }
}

/// Says whether something can leave by the network device that everything is bound to.
pub(super) fn publish_device(is_up: bool) {
    ::metrics::gauge!("btd_bind_device_up").set(f64::from(u8::from(is_up)));
}

/// Says whether this machine has all addresses that everything leaves from.
pub(super) fn publish_addresses(are_there: bool) {
    ::metrics::gauge!("btd_bind_address_up").set(f64::from(u8::from(are_there)));
}

/// Says whether the configuration that was read again could be taken over.
pub(super) fn publish_reload(is_ok: bool) {
    let result = if is_ok { "ok" } else { "refused" };
    ::metrics::counter!("btd_config_reloads_total", "result" => result).increment(1);
    ::metrics::gauge!("btd_config_reload_ok").set(f64::from(u8::from(is_ok)));
}

/// Says how many connections of peers there may be at once, by the configuration, open files and memory.
pub(super) fn publish_connections_max(count: usize) {
    ::metrics::gauge!("btd_connections_max").set(count as f64);
}

/// Says how many torrents are in each state. Does nothing while there is no metrics server.
pub(super) fn publish_torrents(states: &[&'static str], counts: &[usize]) {
    for (state, count) in std::iter::zip(states, counts) {
        ::metrics::gauge!("btd_torrents", "state" => *state).set(*count as f64);
    }
}

/// So many torrents are held by the shards with all that is in them.
pub(super) fn publish_loaded(count: usize) {
    ::metrics::gauge!("btd_torrents_loaded").set(count as f64);
}

/// The text format: cumulative buckets, bounds in seconds.
fn write_histogram(text: &mut String, name: &str, help: &str, histogram: &Histogram) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
    let mut count = 0;
    for (bound, in_bucket) in std::iter::zip(BOUNDS_US, histogram.buckets) {
        count += in_bucket;
        let _ = writeln!(text, "{name}_bucket{{le=\"{}\"}} {count}", bound as f64 / 1e6);
    }
    let count = histogram.count();
    let sum = histogram.sum_us as f64 / 1e6;
    let _ = writeln!(
        text,
        "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n"
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::metrics::server::Source;
    use crate::hashing::PoolConfig;

    fn reporter(shards: Vec<Arc<Shared>>) -> Reporter {
        let config = PoolConfig {
            workers: 1,
            queue_max: 1,
            nice: 0,
            idle: false,
            gather: None,
        };
        let pool = Arc::new(Pool::start(config).expect("a thread"));
        Reporter::new(shards, vec![pool], Arc::default(), None, Arc::default())
    }

    fn publish(shard: &Shared, uptime: Duration) {
        shard.publish(
            &Counters::default(),
            &Histogram::default(),
            &Histogram::default(),
            uptime,
        );
    }

    #[test]
    fn a_shard_that_stands_still_is_told_after_a_while_and_forgiven_when_it_moves() {
        let shards = vec![Arc::new(Shared::default()), Arc::new(Shared::default())];
        let reporter = reporter(shards.clone());
        let start = Instant::now();
        assert_eq!(reporter.health_at(start), Ok(()));
        let later = start + STUCK_AFTER + Duration::from_secs(2);
        publish(&shards[0], Duration::from_secs(12));
        assert_eq!(
            reporter.health_at(later),
            Err("shard 1 has not ticked for 12 s".to_owned())
        );
        publish(&shards[1], Duration::from_secs(12));
        assert_eq!(reporter.health_at(later), Ok(()));
    }

    #[test]
    fn a_histogram_is_written_cumulative_in_seconds_and_summed_over_the_shards() {
        let shards = vec![Arc::new(Shared::default()), Arc::new(Shared::default())];
        let mut latency = Histogram::default();
        latency.record(Duration::from_micros(40), 2);
        latency.record(Duration::from_micros(900), 1);
        for shard in &shards {
            shard.publish(&Counters::default(), &latency, &Histogram::default(), Duration::ZERO);
        }
        let text = reporter(shards).metrics();
        for line in [
            "# TYPE btd_request_latency_seconds histogram",
            "btd_request_latency_seconds_bucket{le=\"0.00005\"} 4",
            "btd_request_latency_seconds_bucket{le=\"0.0005\"} 4",
            "btd_request_latency_seconds_bucket{le=\"0.001\"} 6",
            "btd_request_latency_seconds_bucket{le=\"+Inf\"} 6",
            "btd_request_latency_seconds_sum 0.00196",
            "btd_request_latency_seconds_count 6",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
    }
}
