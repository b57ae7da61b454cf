//! Trackers that share their swarms, without anything between them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

mod order;

use super::*;
use crate::tracker::{Access, HostnameRule, Settings, Worker};

const HASH: InfoHash = InfoHash([0xa1; 20]);
const OTHER: InfoHash = InfoHash([0xb2; 20]);
const NOW_MS: u64 = 1_800_000_000_000;

struct World {
    tracker: Tracker,
    worker: Worker,
    id: SenderId,
    wakes: Arc<AtomicUsize>,
    now: Instant,
}

impl World {
    fn new(id: u8, settings: Settings) -> Self {
        let now = Instant::now();
        let wakes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&wakes);
        let tracker = Tracker::new(settings, [id; 32], now).shared(move || {
            count.fetch_add(1, Relaxed);
        });
        Self {
            worker: tracker.worker(id.into()),
            tracker,
            id: [id; 16],
            wakes,
            now,
        }
    }

    fn announce(&mut self, info_hash: &InfoHash, from: &str, rest: &str) -> String {
        let from: SocketAddr = from.parse().expect("an address");
        let hash: String = info_hash.0.iter().map(|byte| format!("%{byte:02x}")).collect();
        let request = format!(
            "GET /announce?info_hash={hash}&peer_id=aaaaaaaaaaaaaaaaaaaa&port={}{rest} HTTP/1.1\r\nHost: t\r\n\r\n",
            from.port()
        );
        let mut reply = Vec::new();
        self.tracker
            .on_http(&mut self.worker, from, request.as_bytes(), self.now, &mut reply);
        reply.iter().map(|byte| char::from(*byte)).collect()
    }

    /// What it has to tell, and which torrents it asks for.
    fn take(&mut self) -> (Batch, Vec<InfoHash>) {
        let (mut updates, mut batch) = (Vec::new(), Batch::default());
        self.tracker.take_updates(&mut updates);
        let asked = updates.iter().filter_map(Update::asks_for).collect();
        updates.into_iter().for_each(|update| batch.add(update));
        (batch, asked)
    }

    fn messages(&self, batch: &Batch) -> Vec<Vec<u8>> {
        let unit = self.tracker.time_of_age(1).as_millis();
        encode(batch, &self.id, u32::try_from(unit).expect("a unit"))
    }

    fn hear(&mut self, messages: &[Vec<u8>]) -> Learnt {
        let mut learnt = Learnt::default();
        for message in messages {
            let heard = self
                .tracker
                .learn_message(&mut self.worker, &self.id, message, self.now);
            learnt.add(heard.expect("a message"));
        }
        learnt
    }

    fn counts(&self, info_hash: &InfoHash) -> (usize, usize, u32) {
        let counts = self.tracker.store.scrape(info_hash);
        (counts.complete, counts.incomplete, counts.downloaded)
    }

    /// All that it knows.
    fn known(&mut self) -> (Batch, Vec<InfoHash>) {
        let (mut cursor, mut batch, mut done) = (Cursor::default(), Batch::default(), Vec::new());
        let mut parts = 0;
        while self
            .tracker
            .tell_known(&mut self.worker, &mut cursor, 10, &mut batch, &mut done, self.now)
        {
            parts += 1;
            assert!(parts < 10_000, "it comes to no end");
        }
        (batch, done)
    }

    /// Takes in what a batch puts into a sorted set.
    fn look_up(&mut self, batch: &Batch) -> Learnt {
        let mut learnt = Learnt::default();
        for (info_hash, swarm) in batch.swarms() {
            let lifetime = self.tracker.lifetime();
            for peer in swarm.peers() {
                if let Peer::Joined { member, is_seeder, age } = peer {
                    let left = lifetime - self.tracker.time_of_age(age);
                    let score = score(NOW_MS + left.as_millis() as u64, is_seeder) as f64;
                    let member = (&member[..], score);
                    learnt.add(
                        self.tracker
                            .learn_member(&mut self.worker, info_hash, member, NOW_MS, self.now),
                    );
                }
            }
            let downloads = (DOWNLOADS, f64::from(swarm.downloaded));
            learnt.add(
                self.tracker
                    .learn_member(&mut self.worker, info_hash, downloads, NOW_MS, self.now),
            );
        }
        learnt
    }
}

fn named() -> Settings {
    Settings {
        hostname_allow: HostnameRule::new([".internal"]).expect("a rule"),
        ..Settings::default()
    }
}

fn access(deny: InfoHash) -> Access {
    Access {
        deny: Some(Arc::new(HashSet::from([deny]))),
        ..Access::default()
    }
}

#[test]
fn what_one_is_told_the_other_knows() {
    let (mut a, mut b) = (World::new(1, named()), World::new(2, named()));
    a.announce(&HASH, "10.0.0.1:11", "&left=0");
    a.announce(&HASH, "10.0.0.2:12", "&left=5");
    a.announce(&HASH, "[2001:db8::3]:13", "&left=5&hostname=c.internal");
    a.announce(&HASH, "10.0.0.2:12", "&left=0&event=completed");
    let (batch, _) = a.take();
    assert_eq!(b.hear(&a.messages(&batch)).taken, 3);
    assert_eq!((a.counts(&HASH), b.counts(&HASH)), ((2, 1, 1), (2, 1, 1)));
    assert!(
        b.announce(&HASH, "10.0.0.9:9", "")
            .contains("2:ip10:c.internal4:porti13e")
    );

    // The one that has completed is not counted again when it is heard of again.
    b.hear(&a.messages(&batch));
    assert_eq!(b.counts(&HASH), (2, 2, 1));
    b.announce(&HASH, "[2001:db8::3]:13", "&left=5&event=stopped");
    b.announce(&HASH, "10.0.0.1:11", "&left=0&event=stopped");
    let (batch, _) = b.take();
    let left: Vec<Peer> = batch.swarms().flat_map(|(_, swarm)| swarm.peers()).collect();
    // Both forms of the one with a name, which it did not say at the end.
    assert!(
        left.iter()
            .any(|peer| matches!(peer, Peer::Left { members, age: 0 } if members.len() == 2)),
        "{left:?}"
    );
    a.hear(&b.messages(&batch));
    assert_eq!(a.counts(&HASH), (1, 1, 1));
}

#[test]
fn what_is_learnt_is_not_told_on_and_own_messages_are_not_heard() {
    let (mut a, mut b) = (World::new(1, named()), World::new(2, named()));
    a.announce(&HASH, "10.0.0.1:11", "&left=0");
    let (batch, _) = a.take();
    let messages = a.messages(&batch);
    b.hear(&messages);
    assert!(b.take().0.is_empty());
    a.announce(&HASH, "10.0.0.1:11", "&left=0&event=stopped");
    assert_eq!(a.hear(&messages), Learnt::default());
    assert_eq!(a.counts(&HASH), (0, 0, 0));
}

#[test]
fn lists_names_and_memory_hold_for_what_others_say() {
    let mut a = World::new(1, named());
    a.announce(&HASH, "10.0.0.1:11", "&left=0&hostname=c.internal");
    a.announce(&OTHER, "10.0.0.1:11", "&left=0");
    let (batch, _) = a.take();
    let messages = a.messages(&batch);

    let mut strict = World::new(2, Settings::default());
    strict.tracker.set_access(access(OTHER));
    let learnt = strict.hear(&messages);
    assert_eq!((learnt.taken, learnt.refused), (1, 1));
    assert_eq!((strict.counts(&HASH), strict.counts(&OTHER)), ((1, 0, 0), (0, 0, 0)));
    let mut strict = World::new(2, Settings::default());
    strict.tracker.set_access(access(OTHER));
    let learnt = strict.look_up(&batch);
    assert_eq!((learnt.taken, learnt.refused), (1, 1), "{learnt:?}");
    assert!(!strict.announce(&HASH, "10.0.0.9:9", "").contains("internal"));

    let small = Settings {
        memory_max: 1 << 20,
        ..Settings::default()
    };
    let mut small = World::new(3, small);
    let mut refused = 0;
    for n in 0..200_u32 {
        let mut batch = Batch::default();
        for port in 1..=1000_u16 {
            let [.., b, c, d] = n.to_be_bytes();
            let [high, low] = port.to_be_bytes();
            let to = batch::To::Joined {
                is_seeder: false,
                is_completion: false,
                age: 0,
            };
            batch.add_known(HASH, Address::V4([10, b, c, d, high, low]), None, to);
        }
        refused += small.hear(&a.messages(&batch)).refused;
    }
    assert!(refused > 0);
    let totals = small.tracker.totals();
    assert!(totals.bytes <= 1 << 20 && totals.peers_v4 > 10_000, "{totals:?}");
}

#[test]
fn a_torrent_asks_to_be_looked_up_once_until_it_is_said_that_it_was_not() {
    let mut a = World::new(1, named());
    a.announce(&HASH, "10.0.0.1:11", "&left=0");
    a.announce(&HASH, "10.0.0.2:11", "&left=0");
    assert_eq!(a.take().1, [HASH]);
    a.announce(&HASH, "10.0.0.3:11", "&left=0");
    assert!(a.take().1.is_empty());
    a.tracker.ask_again(&HASH);
    a.announce(&HASH, "10.0.0.3:11", "&left=0");
    assert_eq!(a.take().1, [HASH]);
    // One that was only heard of has not been asked for.
    let mut b = World::new(2, named());
    b.announce(&OTHER, "10.0.0.1:11", "&left=0");
    let (batch, _) = b.take();
    a.hear(&b.messages(&batch));
    a.announce(&OTHER, "10.0.0.2:11", "&left=0");
    assert_eq!(a.take().1, [OTHER]);
}

#[test]
fn all_that_is_known_is_told_with_its_age_and_makes_nobody_older() {
    let mut a = World::new(1, named());
    for port in 1..=400 {
        a.announce(&HASH, &format!("10.0.0.1:{port}"), &format!("&left={}", port % 2));
    }
    a.announce(&HASH, "10.0.0.1:1", "&left=0&event=completed");
    a.announce(&OTHER, "[2001:db8::3]:13", "&left=5&hostname=c.internal");
    a.announce(&InfoHash([9; 20]), "10.0.0.1:1", "&left=5");
    a.now += a.tracker.lifetime() / 2;
    a.announce(&HASH, "10.0.0.1:7", "&left=1");
    let (known, done) = a.known();
    assert_eq!((known.len(), done.len()), (402, 3));

    let mut b = World::new(2, named());
    b.now = a.now;
    b.announce(&HASH, "10.0.0.1:9", "&left=1");
    let learnt = b.hear(&a.messages(&known));
    assert_eq!((learnt.taken, learnt.known), (401, 1));
    assert_eq!(b.counts(&HASH), (201, 199, 1));
    assert_eq!(b.counts(&OTHER), (0, 1, 0));
    // The same from the store, for one that begins now.
    let mut c = World::new(3, named());
    c.now = a.now;
    c.announce(&HASH, "10.0.0.1:9", "&left=1");
    let learnt = c.look_up(&known);
    assert_eq!((learnt.taken, learnt.known), (401, 1));
    assert_eq!(c.counts(&HASH), (201, 199, 1));

    // Those that have not been heard of since are forgotten when their own time is over.
    for world in [&mut b, &mut c] {
        for _ in 0..100 {
            world.now += world.tracker.lifetime() / 150;
            world.tracker.sweep(world.now, 1 << 20);
        }
        assert_eq!(world.counts(&HASH), (0, 2, 1));
    }
}

#[test]
fn ages_are_told_in_units_of_who_tells_them() {
    let short = Settings {
        interval: Settings::default().interval / 10,
        ..Settings::default()
    };
    let (mut a, mut b) = (World::new(1, short), World::new(2, Settings::default()));
    a.announce(&HASH, "10.0.0.1:11", "&left=0");
    a.now += a.tracker.lifetime() / 2;
    let (known, _) = a.known();
    b.hear(&a.messages(&known));
    let (known, _) = b.known();
    let peers: Vec<Peer> = known.swarms().flat_map(|(_, swarm)| swarm.peers()).collect();
    assert!(
        matches!(peers[..], [Peer::Joined { age: 9, .. }]),
        "a twentieth of 192: {peers:?}"
    );
}

#[test]
fn an_outbox_that_is_full_drops_the_newest_and_whoever_takes_it_is_woken_once() {
    let mut a = World::new(1, named());
    for n in 0..OUTBOX_MAX + 10 {
        let (high, low) = (n / 250 % 250, n % 250);
        a.announce(
            &HASH,
            &format!("10.0.{high}.{low}:{}", n / 62_500 + 1),
            "&left=0&numwant=0",
        );
    }
    a.announce(&OTHER, "10.0.0.1:1", "&left=0");
    assert_eq!(a.tracker.updates_dropped(), 11);
    assert_eq!(a.wakes.load(Relaxed), 1);
    assert_eq!(a.take().0.len(), OUTBOX_MAX);
    // What could not ask asks again.
    a.announce(&OTHER, "10.0.0.1:1", "&left=0");
    assert_eq!(a.take().1, [OTHER]);
    assert_eq!(a.wakes.load(Relaxed), 2);
}

#[test]
fn what_cannot_be_told_now_is_reduced_to_what_is_told_once() {
    let mut a = World::new(1, named());
    a.announce(&HASH, "10.0.0.1:11", "&left=5");
    a.announce(&HASH, "10.0.0.1:11", "&left=0&event=completed");
    a.announce(&OTHER, "10.0.0.2:12", "&left=0");
    a.announce(&OTHER, "10.0.0.3:13", "&left=0&event=stopped");
    let (mut batch, _) = a.take();
    batch.keep_what_is_told_once(false);
    let kept: Vec<_> = batch
        .swarms()
        .map(|(hash, swarm)| (*hash, swarm.completions, swarm.peers().count()))
        .collect();
    assert_eq!(kept, [(HASH, 1, 0), (OTHER, 0, 1)]);
    assert_eq!((batch.len(), batch.weight()), (1, 3));
    batch.keep_what_is_told_once(true);
    assert_eq!(batch.swarms().count(), 1);
    // Who has come back is not said to have left.
    a.announce(&OTHER, "10.0.0.3:13", "&left=0");
    let mut updates = Vec::new();
    a.tracker.take_updates(&mut updates);
    updates.into_iter().for_each(|update| batch.add(update));
    batch.keep_what_is_told_once(true);
    assert!(batch.is_empty());
}

#[test]
fn a_tracker_that_shares_nothing_leaves_no_updates() {
    let tracker = Tracker::new(Settings::default(), [1; 32], Instant::now());
    let mut world = World {
        worker: tracker.worker(1),
        tracker,
        ..World::new(1, Settings::default())
    };
    world.announce(&HASH, "10.0.0.1:11", "&left=0");
    assert!(world.take().0.is_empty());
}
