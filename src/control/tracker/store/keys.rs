//! What lies in the store, and the commands that put it there.
//!
//! - `btd:swarm:<info-hash in hexadecimal>`, a sorted set: the peers of a torrent and the count of its completions, as
//!   [`crate::tracker::sharing`] makes members and scores of them. Who was not heard of for a lifetime is cut off whenever
//!   the key is written to, and the engine forgets the key a lifetime after that: nothing has to be cleaned up.
//! - `btd:swarms:<database>`, a channel: what has changed, for whoever runs. Channels are the same for all databases of an
//!   engine, hence the number.

use std::time::Duration;

use redis::{Cmd, Pipeline, cmd};

use crate::proto::InfoHash;
use crate::tracker::sharing::{Batch, DOWNLOADS, Peer, SCORE_LEAST, Shared, score};

/// Members in one command.
const MEMBERS_MAX: usize = 256;
/// Members that are asked for at once.
pub(super) const PAGE: usize = 512;
// Each with its score, its name and what the protocol has about them.
const _: () = assert!(PAGE * 400 < super::guard::FRAME_LEN_MAX);

/// The channel of a database.
pub(super) fn channel(database: u32) -> String {
    format!("btd:swarms:{database}")
}

fn key(info_hash: &InfoHash) -> String {
    format!("btd:swarm:{info_hash}")
}

/// A command that changes nothing and is refused where nothing may be changed.
pub(super) fn probe() -> Cmd {
    let mut command = cmd("PEXPIRE");
    command.arg("btd:swarm:").arg(1); // No torrent has this key.
    command
}

/// Takes those members out that have not been heard of since they left, which was some time ago. Each is told with the least
/// score that it has if it is younger.
const LEAVE: &str = "for at = 1, #ARGV, 2 do \
                     local score = redis.call('ZSCORE', KEYS[1], ARGV[at]) \
                     if score and tonumber(score) < tonumber(ARGV[at + 1]) then redis.call('ZREM', KEYS[1], ARGV[at]) end \
                     end";

/// The moment a batch is written, by the store's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Milliseconds since 1970.
    pub(super) now_ms: u64,
    /// How long a peer is known.
    pub(super) lifetime: Duration,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The commands that write a batch. With `is_news` it is what was announced just now; otherwise what has been known for some
/// time, which takes the place of nothing younger.
pub(super) fn writes(batch: &Batch, moment: Moment, time_of_age: impl Fn(u8) -> Duration, is_news: bool) -> Vec<Cmd> {
    let mut commands = Vec::new();
    for (info_hash, swarm) in batch.swarms() {
        write_swarm(&mut commands, &key(info_hash), swarm, moment, &time_of_age, is_news);
    }
    commands
}

fn write_swarm(
    commands: &mut Vec<Cmd>,
    key: &str,
    swarm: &Shared,
    Moment { now_ms, lifetime }: Moment,
    time_of_age: &impl Fn(u8) -> Duration,
    is_news: bool,
) {
    let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut left: Vec<Vec<u8>> = Vec::new();
    let mut left_before: Vec<(u64, Vec<u8>)> = Vec::new();
    for peer in swarm.peers() {
        match peer {
            Peer::Joined { member, is_seeder, age } => {
                let expires = now_ms + ms(lifetime.saturating_sub(time_of_age(age)));
                joined.push((score(expires, is_seeder), member));
            }
            Peer::Left { members, age: 0 } => left.extend(members),
            Peer::Left { members, age } => {
                // Ages are rounded, so that scores may be off by a unit: as in a tracker's memory.
                let lives = lifetime.saturating_sub(time_of_age(age - 1));
                let younger = score(now_ms + ms(lives), true) + 1;
                left_before.extend(members.into_iter().map(|member| (younger, member)));
            }
        }
    }
    for members in joined.chunks(MEMBERS_MAX) {
        let mut command = cmd("ZADD");
        command.arg(key);
        if !is_news {
            command.arg("GT");
        }
        for (score, member) in members {
            command.arg(*score).arg(&member[..]);
        }
        commands.push(command);
    }
    for members in left.chunks(MEMBERS_MAX) {
        let mut command = cmd("ZREM");
        command.arg(key);
        for member in members {
            command.arg(&member[..]);
        }
        commands.push(command);
    }
    for members in left_before.chunks(MEMBERS_MAX) {
        let mut command = cmd("EVAL");
        command.arg(LEAVE).arg(1).arg(key);
        for (younger, member) in members {
            command.arg(&member[..]).arg(*younger);
        }
        commands.push(command);
    }
    if swarm.completions > 0 {
        let mut command = cmd("ZINCRBY");
        command.arg(key).arg(swarm.completions).arg(DOWNLOADS);
        commands.push(command);
    }
    if swarm.downloaded > 0 {
        let mut command = cmd("ZADD");
        command.arg(key).arg("GT").arg(swarm.downloaded).arg(DOWNLOADS);
        commands.push(command);
    }
    let mut command = cmd("ZREMRANGEBYSCORE");
    command
        .arg(key)
        .arg(SCORE_LEAST)
        .arg(format!("({}", score(now_ms, false)));
    commands.push(command);
    // The count of completions is known for a lifetime longer than the last peer, here as in a tracker's memory. Without GT,
    // so that the tracker with the shortest interval decides, which is why all should have the same: GT would need NX before
    // it, since a key without an end counts as one that has the latest, and Redis 6.2 has neither.
    let mut command = cmd("PEXPIRE");
    command.arg(key).arg(ms(lifetime.saturating_mul(2)));
    commands.push(command);
}

/// How far a torrent has been looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LookUp {
    pub(super) info_hash: InfoHash,
    /// From this score on; nothing at the beginning.
    from: Option<u64>,
    /// How many of those that have it were told.
    skip: usize,
    /// Others are told of what is found.
    pub(super) tells: bool,
}

impl LookUp {
    pub(super) fn new(info_hash: InfoHash, tells: bool) -> Self {
        Self {
            info_hash,
            from: None,
            skip: 0,
            tells,
        }
    }

    /// Adds the commands that ask for the next page: two.
    pub(super) fn ask(&self, pipeline: &mut Pipeline, now_ms: u64) {
        let key = key(&self.info_hash);
        pipeline.add_command({
            let mut command = cmd("ZSCORE");
            command.arg(&key[..]).arg(DOWNLOADS);
            command
        });
        pipeline.add_command({
            let mut command = cmd("ZRANGE");
            command.arg(&key[..]).arg(self.from.unwrap_or(score(now_ms, false)));
            command.arg("+inf").arg("BYSCORE").arg("LIMIT").arg(self.skip).arg(PAGE);
            command.arg("WITHSCORES");
            command
        });
    }

    /// What is to be asked for after a page with these scores, if it was not the last. From the last score on and not by
    /// the count of members: those before it may have gone meanwhile.
    pub(super) fn next(self, scores: &[f64]) -> Option<Self> {
        if scores.len() < PAGE {
            return None;
        }
        let last = *scores.last()?;
        let same = scores.iter().rev().take_while(|score| **score == last).count();
        // A score that is no number is never the start of a page: it would be the last.
        let from = (last.is_finite() && last >= 0.0).then_some(last as u64)?;
        let skip = match self.from {
            Some(before) if before == from => self.skip + same,
            _ => same,
        };
        Some(Self {
            from: Some(from),
            skip,
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::tracker::{Settings, Tracker};

    fn shown(command: &Cmd) -> String {
        String::from_utf8_lossy(&command.get_packed_command())
            .split("\r\n")
            .filter(|part| !part.starts_with(['*', '$']))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn a_page_of_one_score_alone_goes_on_behind_it() {
        let look_up = LookUp::new(InfoHash([1; 20]), false);
        let first = look_up.next(&[7.0; PAGE]).expect("a full page");
        assert_eq!((first.from, first.skip), (Some(7), PAGE));
        let second = first.next(&[7.0; PAGE]).expect("a full page");
        assert_eq!((second.from, second.skip), (Some(7), 2 * PAGE));
        let mut scores = [7.0; PAGE];
        scores[PAGE - 2..].fill(9.0);
        let third = second.next(&scores).expect("a full page");
        assert_eq!((third.from, third.skip), (Some(9), 2));
        assert_eq!(third.next(&[9.0; PAGE - 1]), None);
        assert_eq!(third.next(&[f64::INFINITY; PAGE]), None);
    }

    #[test]
    fn a_count_alone_is_written_with_its_end() {
        let mut batch = Batch::default();
        batch.set_downloaded(InfoHash([0xab; 20]), 5);
        let moment = Moment {
            now_ms: 1_800_000_000_000,
            lifetime: Duration::from_secs(3600),
        };
        let commands = writes(&batch, moment, |_| Duration::ZERO, false);
        let key = format!("btd:swarm:{}", "ab".repeat(20));
        let commands: Vec<String> = commands
            .iter()
            .map(|command| shown(command).trim().to_owned())
            .collect();
        assert_eq!(
            commands,
            [
                format!("ZADD {key} GT 5 downloads"),
                format!("ZREMRANGEBYSCORE {key} 5000000000 (3600000000000"),
                format!("PEXPIRE {key} 7200000"),
            ]
        );
    }
    #[test]
    fn who_left_some_time_ago_is_taken_out_if_it_was_not_heard_of_since() {
        let now = Instant::now();
        let tracker = Tracker::new(Settings::default(), [1; 32], now).shared(|| {});
        let mut worker = tracker.worker(1);
        let hash = "%ab".repeat(20);
        let request = format!("GET /announce?info_hash={hash}&peer_id={hash}&port=258&event=stopped HTTP/1.1\r\n\r\n");
        let from = "10.0.0.1:1".parse().expect("an address");
        tracker.on_http(&mut worker, from, request.as_bytes(), now, &mut Vec::new());
        let (mut updates, mut batch) = (Vec::new(), Batch::default());
        tracker.take_updates(&mut updates);
        updates.into_iter().for_each(|update| batch.add(update));

        let lifetime = tracker.lifetime();
        let moment = Moment {
            now_ms: 1_800_000_000_000,
            lifetime,
        };
        let key = format!("btd:swarm:{}", "ab".repeat(20));
        let member = String::from_utf8_lossy(b"\x04\x0a\0\0\x01\x01\x02").into_owned();
        for (units, expected) in [
            (0, format!("ZREM {key} {member}")),
            // One more than the score of a seeder that was heard of a unit later.
            (
                3,
                format!(
                    "EVAL {LEAVE} 1 {key} {member} {}",
                    (1_800_000_000_000_u64 + 190 * 18_750) * 2 + 2
                ),
            ),
        ] {
            tracker.set_ages(&mut batch, now + tracker.time_of_age(units));
            let commands = writes(&batch, moment, |age| tracker.time_of_age(age), true);
            assert_eq!(shown(&commands[0]).trim(), expected);
            assert_eq!(commands.len(), 3);
        }
    }
}
