//! The store against a map that is as plain as can be: counts exact at every step, and replies what they must be.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const LIFETIME: Duration = Duration::from_secs(3600);

/// A peer in the model.
#[derive(Debug, Clone)]
struct Known {
    seeder: bool,
    heard: Instant,
    name: Option<String>,
    peer_id: Option<[u8; 20]>,
}

#[derive(Debug, Default)]
struct Model {
    peers: BTreeMap<Address, Known>,
    downloaded: u32,
    /// When the last peer left, for a torrent with completions.
    empty_since: Option<Instant>,
}

/// Everything that a reply has.
#[derive(Default)]
struct Reply {
    peers: Vec<(Address, Option<Extra>)>,
}

impl Sink for Reply {
    const EXTRAS: bool = true;

    fn peer4(&mut self, address: &[u8; 6], extra: Option<&Extra>) {
        self.peers.push((Address::V4(*address), extra.cloned()));
    }

    fn peer6(&mut self, address: &[u8; 18], extra: Option<&Extra>) {
        self.peers.push((Address::V6(*address), extra.cloned()));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Announce {
        torrent: u8,
        peer: u8,
        seeder: Option<bool>,
        completed: bool,
        want: usize,
        families: Families,
        name: Option<u8>,
        peer_id: Option<u8>,
    },
    Leave {
        torrent: u8,
        peer: u8,
    },
    Pass(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    let families = prop_oneof![3 => Just(Families::V4), 1 => Just(Families::V6), 2 => Just(Families::Both)];
    let announce = (
        0_u8..3,
        any::<u8>(),
        prop_oneof![4 => any::<bool>().prop_map(Some), 1 => Just(None)],
        prop::bool::weighted(0.1),
        0_usize..80,
        families,
        prop::option::weighted(0.1, 0_u8..6),
        prop::option::weighted(0.2, any::<u8>()),
    );
    prop_oneof![
        12 => announce.prop_map(|(torrent, peer, seeder, completed, want, families, name, peer_id)| Step::Announce {
            torrent,
            peer,
            seeder: if completed { Some(true) } else { seeder },
            completed,
            want,
            families,
            name,
            peer_id,
        }),
        4 => (0_u8..3, any::<u8>()).prop_map(|(torrent, peer)| Step::Leave { torrent, peer }),
        // Less than what the sweep may be late by.
        1 => (0_u64..1100).prop_map(|secs| Step::Pass(Duration::from_secs(secs))),
    ]
}

/// Of 256 peers, every fourth is an IPv6 one. Torrent 2 has few.
fn address(torrent: u8, peer: u8) -> Address {
    let peer = if torrent == 2 { peer % 6 } else { peer };
    if peer % 4 == 3 {
        let mut bytes = [0xfd; 18];
        bytes[15] = peer;
        Address::V6(bytes)
    } else {
        Address::V4([10, 0, 0, peer, 1, 1])
    }
}

fn info_hash(torrent: u8) -> InfoHash {
    InfoHash([torrent; 20])
}

fn is_v4(address: &Address) -> bool {
    matches!(address, Address::V4(_))
}

/// Goes through the steps with both, comparing after each. With so many bytes of memory at most new peers may be refused,
/// members may stay on the side where they are, and peer ids be forgotten; nothing else is any different. Nobody has a name
/// then.
fn play(steps: Vec<Step>, seed: u64, room: Option<usize>) -> Result<(), TestCaseError> {
    let mut now = Instant::now();
    let unit = LIFETIME / 192;
    let memory_max = room.map_or(usize::MAX / 2, |room| STRIPES * size_of::<Stripe>() + room);
    let store = Store::new([7; 32], LIFETIME, memory_max, now);
    let empty = store.totals().bytes;
    let mut random = Random::new(seed);
    let mut models: [Model; 3] = Default::default();
    for step in steps {
        let stamp = store.stamp(now);
        match step {
            Step::Announce {
                torrent,
                peer,
                seeder,
                completed,
                want,
                families,
                name,
                peer_id,
            } => {
                let model = &mut models[usize::from(torrent)];
                let address = address(torrent, peer);
                let name = name.filter(|_| room.is_none()).map(|n| format!("client{n}"));
                let peer_id = peer_id.map(|n| [n; 20]);
                let joining = Joining {
                    address,
                    seeder,
                    name: name.as_deref().map(str::as_bytes),
                    peer_id: peer_id.as_ref(),
                };
                let wish = Wish {
                    want,
                    families,
                    completed,
                    learnt: None,
                };
                let mut reply = Reply::default();
                let announced = store.announce(&info_hash(torrent), &joining, &wish, stamp, &mut random, &mut reply);
                let Ok(Announced { counts, .. }) = announced else {
                    prop_assert!(room.is_some(), "refused, with room for all");
                    prop_assert!(!model.peers.contains_key(&address), "a member was refused");
                    prop_assert!(reply.peers.is_empty(), "who was refused was told of peers");
                    continue;
                };
                // The model.
                let was = model.peers.get(&address).map(|known| known.seeder);
                let port = |address: &Address| *address.bytes().last_chunk::<2>().expect("a port");
                // Who says nothing is what it was, at its old address if it has moved.
                let moved = model.peers.iter().find(|(other, known)| {
                    **other != address && port(other) == port(&address) && name.is_some() && known.name == name
                });
                let moved = moved.map(|(_, known)| known.seeder);
                let mut is = seeder.or(moved).or(was).unwrap_or(false);
                if let Some(name) = &name {
                    model.peers.retain(|other, known| {
                        *other == address || port(other) != port(&address) || known.name.as_ref() != Some(name)
                    });
                }
                model.peers.insert(
                    address,
                    Known {
                        seeder: is,
                        heard: now,
                        name,
                        peer_id,
                    },
                );
                model.downloaded += u32::from(completed && was != Some(true));
                model.empty_since = None;
                let mut complete = model.peers.values().filter(|known| known.seeder).count();
                if let (Some(_), Some(was)) = (room, was)
                    && counts.complete != complete
                {
                    is = was;
                    model.peers.get_mut(&address).expect("noted").seeder = was;
                    complete = model.peers.values().filter(|known| known.seeder).count();
                }
                prop_assert_eq!(
                    counts,
                    SwarmCounts {
                        complete,
                        incomplete: model.peers.len() - complete,
                        downloaded: model.downloaded,
                    }
                );
                // The reply.
                let mut seen = std::collections::BTreeSet::new();
                for (other, extra) in &reply.peers {
                    prop_assert!(*other != address, "the asker is in the reply");
                    prop_assert!(seen.insert(*other), "a peer twice");
                    let known = model.peers.get(other);
                    prop_assert!(known.is_some(), "{:?} is not in the swarm", other);
                    let known = known.expect("a member");
                    prop_assert!(!(is && known.seeder), "a seeder was told of a seeder");
                    prop_assert!(
                        now - known.heard <= LIFETIME + unit,
                        "a peer that has outlived its time"
                    );
                    let name = extra.as_ref().and_then(|extra| extra.name.as_deref());
                    prop_assert_eq!(name, known.name.as_deref().map(str::as_bytes));
                    let peer_id = extra.as_ref().and_then(|extra| extra.peer_id);
                    let is_forgotten = room.is_some() && peer_id.is_none();
                    prop_assert!(is_forgotten || peer_id == known.peer_id, "{:?} of {:?}", peer_id, known);
                    let wanted = match families {
                        Families::V4 => is_v4(other),
                        Families::V6 => !is_v4(other),
                        Families::Both => true,
                    };
                    prop_assert!(wanted, "a family that was not wanted");
                }
                let eligible = |heard_after: Option<Instant>| {
                    let eligible = model.peers.iter().filter(|(other, known)| {
                        let family = match families {
                            Families::V4 => is_v4(other),
                            Families::V6 => !is_v4(other),
                            Families::Both => true,
                        };
                        let alive = heard_after.is_none_or(|after| known.heard >= after);
                        **other != address && !(is && known.seeder) && family && alive
                    });
                    eligible.count()
                };
                prop_assert!(reply.peers.len() <= want.min(eligible(None)));
                // With nobody in it whose time is over, a reply is as long as it can be.
                let all_alive = model.peers.values().all(|known| now - known.heard <= LIFETIME);
                if all_alive {
                    prop_assert_eq!(reply.peers.len(), want.min(eligible(None)));
                }
            }
            Step::Leave { torrent, peer } => {
                let model = &mut models[usize::from(torrent)];
                let address = address(torrent, peer);
                store.leave(&info_hash(torrent), &address, stamp);
                if model.peers.remove(&address).is_some() && model.peers.is_empty() {
                    model.empty_since = Some(now);
                    if model.downloaded == 0 {
                        *model = Model::default();
                    }
                }
            }
            Step::Pass(time) => {
                now += time;
                // A pass that was begun earlier, if it was, and one from here.
                store.sweep(now, usize::MAX);
                let units = |at: Instant| store.clock.units(at);
                let over = |at: Instant| units(now) - units(at) > 192;
                for model in &mut models {
                    let before = model.peers.len();
                    model.peers.retain(|_, known| !over(known.heard));
                    if before > 0 && model.peers.is_empty() {
                        model.empty_since = Some(now);
                    }
                    let forgotten = model.downloaded == 0 || model.empty_since.is_some_and(over);
                    if model.peers.is_empty() && forgotten {
                        *model = Model::default();
                    }
                }
            }
        }
        for (model, torrent) in models.iter().zip(0..) {
            let complete = model.peers.values().filter(|known| known.seeder).count();
            prop_assert_eq!(
                store.scrape(&info_hash(torrent)),
                SwarmCounts {
                    complete,
                    incomplete: model.peers.len() - complete,
                    downloaded: model.downloaded,
                }
            );
        }
        let totals = store.totals();
        let all = || models.iter().flat_map(|model| &model.peers);
        prop_assert_eq!(totals.peers4, all().filter(|(address, _)| is_v4(address)).count());
        prop_assert_eq!(totals.peers6, all().filter(|(address, _)| !is_v4(address)).count());
        prop_assert_eq!(totals.seeders, all().filter(|(_, known)| known.seeder).count());
        prop_assert_eq!(totals.named, all().filter(|(_, known)| known.name.is_some()).count());
        let known = models
            .iter()
            .filter(|model| !model.peers.is_empty() || model.downloaded > 0);
        prop_assert_eq!(totals.swarms, known.count());
        prop_assert!(totals.bytes <= memory_max, "{:?} of {}", totals, memory_max);
    }
    // Everybody leaves, and after two more lifetimes nothing is left of anything.
    for _ in 0..12 {
        now += LIFETIME / 4;
        store.sweep(now, usize::MAX);
    }
    let totals = store.totals();
    prop_assert_eq!((totals.swarms, totals.bytes), (0, empty));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_store_knows_what_a_plain_map_knows(
        steps in prop::collection::vec(step(), 0..300),
        seed in any::<u64>(),
    ) {
        play(steps, seed, None)?;
    }

    #[test]
    fn a_full_store_refuses_and_forgets_nobody(
        steps in prop::collection::vec(step(), 0..300),
        seed in any::<u64>(),
        room in 0_usize..6000,
    ) {
        play(steps, seed, Some(room))?;
    }
}
