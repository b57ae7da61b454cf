//! The store's rules, one by one.

use super::*;

const LIFETIME: Duration = Duration::from_secs(3600);
const MIB: usize = 1 << 20;

/// The addresses of a reply.
#[derive(Default)]
struct Reply(Vec<Address>);

impl Sink for Reply {
    const EXTRAS: bool = false;

    fn peer4(&mut self, address: &[u8; 6], _: Option<&Extra>) {
        self.0.push(Address::V4(*address));
    }

    fn peer6(&mut self, address: &[u8; 18], _: Option<&Extra>) {
        self.0.push(Address::V6(*address));
    }
}

struct World {
    store: Store,
    random: Random,
    now: Instant,
}

impl World {
    fn new(memory_max: usize) -> Self {
        let now = Instant::now();
        Self {
            store: Store::new([3; 32], LIFETIME, memory_max, now),
            random: Random::new(9),
            now,
        }
    }

    fn announce(&mut self, torrent: u32, peer: u32, seeder: bool, want: usize) -> Result<Vec<Address>, Full> {
        let peer = Joining {
            address: v4(peer),
            seeder: Some(seeder),
            name: None,
            peer_id: None,
        };
        let wish = Wish {
            want,
            families: Families::Both,
            completed: false,
            learnt: None,
        };
        let mut reply = Reply::default();
        let stamp = self.store.stamp(self.now);
        self.store
            .announce(&info_hash(torrent), &peer, &wish, stamp, &mut self.random, &mut reply)?;
        Ok(reply.0)
    }

    fn join(&mut self, torrent: u32, address: Address, peer_id: Option<&[u8; 20]>) -> Result<SwarmCounts, Full> {
        let peer = Joining {
            address,
            seeder: Some(false),
            name: None,
            peer_id,
        };
        let wish = Wish {
            want: 0,
            families: Families::Both,
            completed: false,
            learnt: None,
        };
        let stamp = self.store.stamp(self.now);
        let sink = &mut Reply::default();
        let announced = self
            .store
            .announce(&info_hash(torrent), &peer, &wish, stamp, &mut self.random, sink)?;
        Ok(announced.counts)
    }

    fn complete(&mut self, torrent: u32, peer: u32) -> SwarmCounts {
        let peer = Joining {
            address: v4(peer),
            seeder: Some(true),
            name: None,
            peer_id: None,
        };
        let wish = Wish {
            want: 0,
            families: Families::V4,
            completed: true,
            learnt: None,
        };
        let stamp = self.store.stamp(self.now);
        let sink = &mut Reply::default();
        let announced = self
            .store
            .announce(&info_hash(torrent), &peer, &wish, stamp, &mut self.random, sink);
        announced.expect("room").counts
    }

    fn leave(&mut self, torrent: u32, peer: u32) -> SwarmCounts {
        self.store
            .leave(&info_hash(torrent), &v4(peer), self.store.stamp(self.now))
            .counts
    }

    fn counts(&self, torrent: u32) -> (usize, usize, u32) {
        let counts = self.store.scrape(&info_hash(torrent));
        (counts.complete, counts.incomplete, counts.downloaded)
    }

    /// Lets time pass, with the sweep as often as a shard calls it.
    fn pass(&mut self, time: Duration) {
        for _ in 0..20 {
            self.now += time / 20;
            self.store.sweep(self.now, 1 << 20);
        }
    }
}

/// Each at a host of its own.
fn v4(peer: u32) -> Address {
    at_port(peer, 1)
}

fn at_port(host: u32, port: u8) -> Address {
    let [a, b, c, d] = host.to_be_bytes();
    Address::V4([a, b, c, d, 1, port])
}

fn v6(peer: u32) -> Address {
    let mut bytes = [0x20; 18];
    bytes[4..8].copy_from_slice(&peer.to_be_bytes());
    Address::V6(bytes)
}

fn info_hash(torrent: u32) -> InfoHash {
    let mut bytes = [0xaa; 20];
    bytes[8..12].copy_from_slice(&torrent.to_be_bytes());
    InfoHash(bytes)
}

#[test]
fn a_peer_that_is_not_heard_of_for_two_intervals_is_forgotten() {
    let mut world = World::new(64 * MIB);
    for peer in 0..100 {
        world.announce(1, peer, peer % 2 == 0, 0).expect("room");
    }
    world.pass(LIFETIME / 2);
    for peer in 0..10 {
        world.announce(1, peer, false, 0).expect("room");
    }
    assert_eq!(world.counts(1), (45, 55, 0));
    world.pass(LIFETIME / 2 + LIFETIME / 100);
    assert_eq!(world.counts(1), (0, 10, 0));
    assert_eq!(world.store.totals().swept, 90);
    world.pass(LIFETIME / 2);
    assert_eq!(world.store.totals().swarms, 0);
    assert_eq!(world.store.totals().bytes, World::new(64 * MIB).store.totals().bytes);
}

#[test]
fn a_sweep_that_is_given_nothing_still_keeps_up() {
    let mut world = World::new(64 * MIB);
    for torrent in 0..5000 {
        world.announce(torrent, 1, true, 0).expect("room");
    }
    let late = LIFETIME + LIFETIME / 8;
    for _ in 0..late.as_secs() {
        world.now += Duration::from_secs(1);
        world.store.sweep(world.now, 0);
    }
    assert_eq!(world.store.totals().swarms, 0);
}

#[test]
fn a_sweep_by_a_shard_that_is_behind_forgets_nobody_who_was_heard_of_just_now() {
    let mut world = World::new(64 * MIB);
    // The first moment of a unit, and the last one before it; a sweep that began with the unit before is not over.
    let unit = LIFETIME / 192;
    let boundary = world.now + unit * 20;
    let before = boundary - Duration::from_millis(1);
    world.now = boundary;
    for peer in 0..20 {
        world.announce(1, peer, false, 0).expect("room");
    }
    world.store.sweep(before, 1 << 20);
    assert_eq!(world.counts(1), (0, 20, 0));
    world.now = before;
    assert_eq!(
        world.announce(1, 0, false, 50).expect("a member").len(),
        19,
        "they are told as well"
    );
}

#[test]
fn completions_outlive_the_last_peer_for_two_intervals() {
    let mut world = World::new(64 * MIB);
    world.announce(1, 1, false, 0).expect("room");
    assert_eq!(world.complete(1, 1).downloaded, 1);
    assert_eq!(world.leave(1, 1).downloaded, 1);
    assert_eq!(world.counts(1), (0, 0, 1));
    world.pass(LIFETIME - LIFETIME / 100);
    assert_eq!(world.counts(1), (0, 0, 1));
    world.pass(LIFETIME / 20);
    assert_eq!((world.counts(1), world.store.totals().swarms), ((0, 0, 0), 0));
}

#[test]
fn a_torrent_that_nobody_completed_is_gone_with_its_last_peer() {
    let mut world = World::new(64 * MIB);
    world.announce(1, 1, false, 0).expect("room");
    world.leave(1, 1);
    assert_eq!(world.store.totals().swarms, 0);
}

#[test]
fn a_completion_that_is_told_twice_is_one() {
    let mut world = World::new(64 * MIB);
    world.announce(1, 1, false, 0).expect("room");
    world.complete(1, 1);
    assert_eq!(world.complete(1, 1).downloaded, 1);
    assert_eq!(world.complete(1, 2).downloaded, 2);
}

#[test]
fn who_is_unknown_may_leave() {
    let mut world = World::new(64 * MIB);
    assert_eq!(world.leave(1, 1), SwarmCounts::default());
    world.announce(1, 1, false, 0).expect("room");
    assert_eq!(world.leave(1, 2).incomplete, 1);
}

#[test]
fn replies_are_samples_that_differ() {
    let mut world = World::new(64 * MIB);
    for peer in 0..1000 {
        world.announce(1, peer, peer % 3 == 0, 0).expect("room");
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let reply = world.announce(1, 1, false, 50).expect("room");
        assert_eq!(reply.len(), 50);
        seen.extend(reply);
    }
    assert!(seen.len() > 950, "{} of 999 peers were told in 200 replies", seen.len());
}

#[test]
fn a_seeder_among_many_is_told_of_the_few_leechers() {
    let mut world = World::new(64 * MIB);
    for peer in 0..5000 {
        world.announce(1, peer, peer >= 7, 0).expect("room");
    }
    let mut reply = world.announce(1, 100, true, 50).expect("room");
    reply.sort_unstable();
    assert_eq!(reply, (0..7).map(v4).collect::<Vec<_>>());
}

#[test]
fn made_up_hashes_stay_within_the_memory_and_push_each_other_out() {
    let memory_max = 2 * MIB;
    let mut world = World::new(memory_max);
    // An honest swarm, from before the flood.
    for peer in 0..50 {
        world.announce(u32::MAX, peer, false, 0).expect("room");
    }
    let mut refused = 0;
    for torrent in 0..200_000 {
        refused += u32::from(world.announce(torrent, torrent, false, 50).is_err());
        if torrent % 1000 == 0 {
            assert!(world.store.totals().bytes <= memory_max);
        }
    }
    let totals = world.store.totals();
    assert!(totals.bytes <= memory_max && totals.swarms > 15_000, "{totals:?}");
    assert!(
        totals.evicted > 150_000 && refused < 100,
        "{totals:?}, {refused} refused"
    );
    assert_eq!(world.counts(u32::MAX), (0, 50, 0));
    // The latest are there, most of the first are not.
    assert!(
        (199_000..200_000)
            .filter(|torrent| world.counts(*torrent) == (0, 1, 0))
            .count()
            > 500
    );
}

/// An honest swarm of 50, then a flood of made-up torrents of one or two such peers, then ten more in the honest swarm, and
/// honest torrents that begin.
fn after_a_flood(peers_of: impl Fn(u32) -> Vec<Address>, peer_id: Option<[u8; 20]>) {
    let memory_max = 4 * MIB;
    let mut world = World::new(memory_max);
    for peer in 0..50 {
        world.announce(u32::MAX, peer, false, 0).expect("room");
    }
    let mut refused = 0;
    for torrent in 0..100_000 {
        for address in peers_of(torrent) {
            let joined = world.join(torrent, address, peer_id.as_ref());
            refused += u32::from(joined.is_err() && torrent > 50_000);
        }
        if torrent % 1000 == 0 {
            assert!(world.store.totals().bytes <= memory_max);
        }
    }
    let totals = world.store.totals();
    assert!(totals.bytes <= memory_max && totals.evicted > 10_000, "{totals:?}");
    assert!(refused < 1000, "{refused} of the second half refused, {totals:?}");
    for peer in 50..60 {
        let reply = world.announce(u32::MAX, peer, false, 100).expect("room for one more");
        assert_eq!(reply.len(), peer as usize);
    }
    assert_eq!(world.counts(u32::MAX), (0, 60, 0));
    // New torrents find a place, and grow to any size.
    let mut began = 0;
    for torrent in 200_000..200_020 {
        let joined = (0..20).filter(|peer| world.announce(torrent, *peer, false, 0).is_ok());
        began += usize::from(joined.count() == 20);
    }
    assert!(began >= 18, "{began} of 20, {:?}", world.store.totals());
    // By IPv6 as well, where others that have tables make way.
    for torrent in 300_000..300_020 {
        began += usize::from((0..20).all(|peer| world.join(torrent, v6(peer), None).is_ok()));
    }
    assert!(began >= 32, "{began} of 40, {:?}", world.store.totals());
}

#[test]
fn after_a_flood_of_made_up_hashes_swarms_grow() {
    after_a_flood(|n| vec![v4(n)], None);
}

#[test]
fn after_a_flood_by_ipv6_swarms_grow() {
    after_a_flood(|n| vec![v6(n)], None);
    after_a_flood(|n| vec![v6(n), v4(n)], None);
}

#[test]
fn after_a_flood_with_peer_ids_swarms_grow() {
    after_a_flood(|n| vec![v4(n)], Some([7; 20]));
    after_a_flood(|n| vec![v6(n)], Some([7; 20]));
}

#[test]
fn after_a_flood_of_two_ports_an_address_swarms_grow() {
    let other_port = |n: u32| at_port(n, 2);
    after_a_flood(|n| vec![v4(n), other_port(n)], None);
    after_a_flood(|n| vec![v4(n), other_port(n)], Some([7; 20]));
}

/// Honest torrents of 1 to 40 peers, each peer at a host of its own; then so many made-up hashes, each with peers at hosts of
/// `flooders`; then the honest peers ask again, and honest torrents begin. Tells how many of the 40 torrents have kept
/// everybody, and how many of 40 new ones grow to 20 peers.
fn beside_a_flood(hashes: u32, flooders: impl Fn(u32) -> Vec<Address>) -> (usize, usize) {
    let memory_max = 4 * MIB;
    let mut world = World::new(memory_max);
    let honest = |torrent: u32, peer: u32| v4(0x0a00_0000 + torrent * 100 + peer);
    let first = u32::MAX - 50;
    for torrent in 1..=40 {
        for peer in 0..torrent {
            world.join(first + torrent, honest(torrent, peer), None).expect("room");
        }
    }
    for torrent in 0..hashes {
        for address in flooders(torrent) {
            let _ = world.join(torrent, address, None); // Some are refused, or not: it is all the same to them.
        }
        if torrent % 1000 == 0 {
            assert!(world.store.totals().bytes <= memory_max);
        }
    }
    let totals = world.store.totals();
    assert!(totals.bytes <= memory_max && totals.evicted > 0, "{totals:?}");
    let kept = (1..=40).filter(|torrent| world.counts(first + torrent) == (0, *torrent as usize, 0));
    let kept = kept.count();
    // Who is in is told of the others.
    let reply = world
        .announce(first + 40, 0x0a00_0000 + 40 * 100, false, 100)
        .expect("a member");
    assert_eq!(reply.len(), 39);
    let grown = (0..40).filter(|torrent| {
        let peers = 0..20;
        let joined = peers.filter(|peer| {
            world
                .join(u32::MAX - 1000 + torrent, honest(100 + torrent, *peer), None)
                .is_ok()
        });
        joined.count() == 20
    });
    let grown = grown.count();
    assert!(world.store.totals().bytes <= memory_max);
    (kept, grown)
}

#[test]
fn beside_a_flood_with_many_ports_of_a_few_hosts_honest_swarms_are_as_they_were() {
    for (hosts, ports) in [(1, 3), (1, 4), (1, 40), (2, 2), (2, 20)] {
        let peers = |n: u32| {
            let at = |port: u8| at_port(0x0b00_0000 + (u32::from(port) + n) % hosts, port);
            (1..=ports * hosts as u8).map(at).collect()
        };
        let (kept, grown) = beside_a_flood(60_000, peers);
        assert!(
            kept == 40 && grown == 40,
            "{hosts} hosts, {ports} ports each: {kept} kept, {grown} grown"
        );
    }
}

#[test]
fn a_flood_that_goes_on_and_on_is_never_refused_and_harms_nobody() {
    // Twenty times as many as there is room for.
    let memory_max = 8 * MIB;
    let mut world = World::new(memory_max);
    for torrent in 1..=40 {
        for peer in 0..8 {
            world
                .join(u32::MAX - torrent, v4(0x0a00_0000 + peer), None)
                .expect("room");
        }
    }
    let joins = (0..1_500_000).filter(|torrent| world.join(*torrent, v4(0x0b00_0000), None).is_ok());
    assert_eq!(joins.count(), 1_500_000, "{:?}", world.store.totals());
    let kept = (1..=40).filter(|torrent| world.counts(u32::MAX - torrent) == (0, 8, 0));
    assert_eq!(kept.count(), 40);
}

#[test]
fn beside_a_flood_by_several_hosts_honest_swarms_are_as_they_were() {
    // Four of eight for each hash.
    let peers = |n: u32| (0..4).map(|at| v4(0x0b00_0000 + (n * 3 + at) % 8)).collect();
    let (kept, grown) = beside_a_flood(60_000, peers);
    assert!(kept >= 39 && grown >= 38, "{kept} kept, {grown} grown");
}

#[test]
fn beside_a_flood_by_a_great_many_hosts_swarms_of_many_are_as_they_were() {
    // Nothing tells these from honest ones, but that they have not grown.
    let peers = |n: u32| (0..4).map(|at| v4(0x0b00_0000 + n * 4 + at)).collect();
    let (kept, grown) = beside_a_flood(60_000, peers);
    assert!(kept >= 40 - 15 && grown >= 30, "{kept} kept, {grown} grown");
}

#[test]
fn beside_a_flood_of_swarms_that_are_left_alone_new_ones_find_room_after_an_interval() {
    let mut world = World::new(2 * MIB);
    let flood = |world: &mut World, from: u32| {
        let joins = (from..from + 20_000).flat_map(|torrent| (0..20).map(move |peer| (torrent, peer)));
        joins
            .filter(|(torrent, peer)| world.join(*torrent, v4(torrent * 32 + peer), None).is_ok())
            .count()
    };
    flood(&mut world, 0);
    world.pass(LIFETIME / 2);
    world.pass(LIFETIME / 6);
    let before = world.store.totals();
    assert!(
        flood(&mut world, 50_000) > 5_000,
        "{before:?}, {:?}",
        world.store.totals()
    );
}

#[test]
#[ignore = "takes minutes: ten million made-up hashes, and forty million announces"]
fn beside_ten_million_made_up_hashes_honest_swarms_are_as_they_were() {
    let one_host = |n: u32| (1..=4).map(|port| at_port(0x0b00_0000, port + (n % 8) as u8)).collect();
    assert_eq!(beside_a_flood(10_000_000, one_host), (40, 40));
    let eight = |n: u32| (0..4).map(|at| v4(0x0b00_0000 + (n * 3 + at) % 8)).collect();
    let (kept, grown) = beside_a_flood(10_000_000, eight);
    assert!(kept >= 35 && grown >= 35, "{kept} kept, {grown} grown");
}

#[test]
fn a_swarm_that_may_not_grow_refuses_new_peers_and_keeps_the_others() {
    let mut world = World::new(STRIPES * size_of::<Stripe>() + 4096);
    let mut kept = Vec::new();
    for peer in 0..2000 {
        if world.announce(1, peer, false, 0).is_ok() {
            kept.push(peer);
        }
    }
    assert!((100..600).contains(&kept.len()), "{}", kept.len());
    assert_eq!(world.counts(1), (0, kept.len(), 0));
    // Whoever is in is served, and becomes a seeder when there is room for it.
    assert_eq!(world.announce(1, kept[0], false, 50).expect("a member").len(), 50);
    for peer in &kept[1..] {
        world.leave(1, *peer);
    }
    world.announce(1, kept[0], true, 50).expect("a member");
    assert_eq!(world.counts(1), (1, 0, 0));
}

#[test]
fn threads_that_share_the_store_lose_nothing() {
    let store = Store::new([3; 32], LIFETIME, 64 * MIB, Instant::now());
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let store = &store;
            scope.spawn(move || {
                let mut random = Random::new(thread.into());
                let stamp = store.stamp(Instant::now());
                for n in 0..5000 {
                    let peer = Joining {
                        address: v4(thread * 5000 + n),
                        seeder: Some(n % 2 == 0),
                        name: None,
                        peer_id: None,
                    };
                    let wish = Wish {
                        want: 10,
                        families: Families::V4,
                        completed: false,
                        learnt: None,
                    };
                    let hash = info_hash(n % 7);
                    store
                        .announce(&hash, &peer, &wish, stamp, &mut random, &mut Reply::default())
                        .expect("room");
                }
                store.sweep(Instant::now(), 1000);
            });
        }
    });
    let totals = store.totals();
    assert_eq!((totals.swarms, totals.peers4, totals.seeders), (7, 20_000, 10_000));
}
