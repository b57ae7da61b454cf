//! The limit of open files: raised as far as it goes, and shared out among connections and payload.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Payload files that a shard keeps open, where descriptors are plenty.
const FILES_PER_SHARD_MAX: u64 = 1024;
/// The same where they are not: fewer would be opened and closed all the time.
const FILES_PER_SHARD_MIN: u64 = 16;
/// Descriptors of the process beside those: logs, watches, scrapers, and what trackers are asked by.
const OTHERS: u64 = 48 + super::announce::SOCKETS_MAX as u64;
/// Descriptors of one check of payload: its ring, the files in it, those kept open and those that hashing threads copy from.
const PER_CHECK: u64 = 1 + 32 + 8 + 32;
/// Checks at once, where descriptors are plenty: one for each disk of a large machine.
const CHECKS_MAX: u64 = 16;
/// Descriptors of a shard beside its connections and files: ring, doorbell, listeners, what is being closed, and the files
/// that it writes to.
const OTHERS_PER_SHARD: u64 = 16 + 16;

/// What the limit of open files allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptors {
    /// Connections in all.
    pub(super) connections: usize,
    /// Payload files that each shard may keep open.
    pub(super) files_per_shard: usize,
    /// Checks of payload that may run at once.
    pub(super) checks: usize,
}

/// Raises the soft limit to the hard one.
pub(super) fn raise_soft_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Refused: then it stays as it is.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// Raises the soft limit to the hard one, and shares it out. Says so if it is not enough for so many connections, those of
/// peers and those to the tracker.
pub(super) fn raise((of_peers, of_tracker): (usize, usize), shards: usize) -> Descriptors {
    let connections = of_peers + of_tracker;
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    if limit.current.is_some_and(|current| current < allowed) {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files cannot be raised");
        }
    }
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let descriptors = share_out(now, connections as u64, shards as u64);
    tracing::info!(
        "{}",
        effect(limit.current.unwrap_or(u64::MAX), now, descriptors, shards)
    );
    if descriptors.connections < connections {
        let why = too_few(now, descriptors.connections, (of_peers, of_tracker));
        tracing::warn!("{why}");
    }
    descriptors
}

/// How many of so many connections a limit of open files has room for.
pub(super) fn connections_within(limit: u64, connections: usize, shards: usize) -> usize {
    share_out(limit, connections as u64, shards as u64).connections
}

/// What came of raising it.
fn effect(before: u64, now: u64, descriptors: Descriptors, shards: usize) -> String {
    let of_each = match shards {
        1 => String::new(),
        count => format!(" in each of {count} shards"),
    };
    let raised = match before < now {
        true => format!(" (the limit was raised from {before})"),
        false => String::new(),
    };
    format!(
        "{now} files may be open at once{raised}: {} of payload{of_each}, and {} checks at once",
        descriptors.files_per_shard, descriptors.checks
    )
}

/// The warning, with what its number is made of: nobody has written the sum.
fn too_few(limit: u64, accepted: usize, (of_peers, of_tracker): (usize, usize)) -> String {
    let wanted = match of_tracker {
        0 => format!("the {of_peers} of [peers] max-connections"),
        _ => format!(
            "the {} that are [peers] max-connections, {of_peers}, and [tracker] max-connections, {of_tracker}",
            of_peers + of_tracker
        ),
    };
    format!(
        "only {limit} files may be open at once: at most {accepted} connections are accepted, not {wanted} \
         (hint: LimitNOFILE= in btd.service, ulimit -n, or less of them)"
    )
}

/// Connections come first, but for a quarter of what there is.
fn share_out(limit: u64, connections: u64, shards: u64) -> Descriptors {
    let checks = (limit / 8 / PER_CHECK).clamp(1, CHECKS_MAX);
    let left = limit.saturating_sub(OTHERS + checks * PER_CHECK + shards * OTHERS_PER_SHARD);
    let files = left.saturating_sub(connections).max(left / 4) / shards;
    let files = files.clamp(FILES_PER_SHARD_MIN, FILES_PER_SHARD_MAX);
    // With next to nothing, one connection is tried: accepting pauses when it fails.
    let connections = connections.min(left.saturating_sub(files * shards)).max(1);
    Descriptors {
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
        files_per_shard: usize::try_from(files).unwrap_or(usize::MAX),
        checks: usize::try_from(checks).unwrap_or(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limit: u64, connections: u64, shards: u64) -> (usize, usize) {
        let descriptors = share_out(limit, connections, shards);
        (descriptors.connections, descriptors.files_per_shard)
    }

    #[test]
    fn plenty_is_enough_for_all() {
        assert_eq!(of(u64::MAX, 8000, 2), (8000, 1024));
        assert_eq!(of(65_536, 8000, 32), (8000, 1024));
    }

    #[test]
    fn what_is_given_out_is_there() {
        assert_eq!(of(1024, 8000, 2), (487, 80));
        assert_eq!(of(1024, 400, 2), (400, 123));
        for limit in (520..70_000).step_by(111) {
            for (connections, shards) in [(1, 1), (8000, 2), (200, 4), (1_000_000, 4)] {
                let (connections, files) = of(limit, connections, shards);
                let checks = share_out(limit, 1, shards).checks as u64 * PER_CHECK;
                let all = connections as u64 + files as u64 * shards + checks + OTHERS + OTHERS_PER_SHARD * shards;
                assert!(
                    all <= limit,
                    "{limit}: {connections} connections, {files} files, {shards} shards"
                );
            }
        }
    }

    #[test]
    fn the_warning_says_what_its_number_is_made_of() {
        let both = too_few(1024, 559, (8000, 10_000));
        assert!(
            both.contains("at most 559 connections are accepted, not the 18000 that are [peers] max-connections, 8000, and [tracker] max-connections, 10000 (hint"),
            "{both}"
        );
        let peers = too_few(1024, 559, (8000, 0));
        assert!(
            peers.contains("not the 8000 of [peers] max-connections (hint"),
            "{peers}"
        );
    }

    #[test]
    fn effect_tells_of_the_limit_before_only_where_it_was_raised() {
        let descriptors = share_out(4096, 400, 2);
        assert_eq!(
            effect(1024, 4096, descriptors, 2),
            "4096 files may be open at once (the limit was raised from 1024): 1024 of payload in each of 2 shards, and 7 checks at once"
        );
        assert!(effect(4096, 4096, descriptors, 2).starts_with("4096 files may be open at once: "));
    }

    #[test]
    fn next_to_nothing_is_shared_out_too() {
        assert_eq!(of(10, 8000, 2), (1, 16));
    }
}
