//! What is told late, or in another order than it happened.

use super::*;

/// Of a tracker with the intervals that are the default.
fn units(count: u32) -> Duration {
    Tracker::new(Settings::default(), [1; 32], Instant::now()).time_of_age(1) * count
}

fn worlds() -> (World, World) {
    let (a, mut b) = (World::new(1, named()), World::new(2, named()));
    b.now = a.now;
    (a, b)
}

#[test]
fn who_left_some_time_ago_is_kept_where_it_has_come_back_since_and_gone_where_it_has_not() {
    let (mut a, mut b) = worlds();
    for world in [&mut a, &mut b] {
        for peer in ["10.0.0.1:11", "10.0.0.2:12", "10.0.0.3:13"] {
            world.announce(&HASH, peer, "&left=0");
        }
        world.take();
    }
    a.now += units(1);
    a.announce(&HASH, "10.0.0.1:11", "&left=0&event=stopped");
    a.announce(&HASH, "10.0.0.2:12", "&left=0&event=stopped");
    // Nobody could tell for a while, and one of them has come to the other tracker.
    b.now += units(10);
    b.announce(&HASH, "10.0.0.1:11", "&left=0");
    let (mut batch, _) = a.take();
    let now = a.now + units(11);
    a.tracker.set_ages(&mut batch, now);
    let ages: Vec<Peer> = batch.swarms().flat_map(|(_, swarm)| swarm.peers()).collect();
    assert!(
        matches!(ages[..], [Peer::Left { age: 11, .. }, Peer::Left { age: 11, .. }]),
        "{ages:?}"
    );
    b.now = now;
    let learnt = b.hear(&a.messages(&batch));
    assert_eq!((learnt.taken, learnt.known), (1, 1));
    assert_eq!(b.counts(&HASH), (2, 0, 0));
    let (known, _) = b.known();
    let shared = known.swarms().next().expect("the torrent").1;
    let left: Vec<_> = shared.peers.keys().collect();
    assert_eq!(
        left,
        [&Address::V4([10, 0, 0, 1, 0, 11]), &Address::V4([10, 0, 0, 3, 0, 13])]
    );

    // After a lifetime nobody remembers them anyhow, and an age has no more room.
    let (before, after) = (a.now + a.tracker.lifetime(), a.now + a.tracker.lifetime() * 2);
    a.tracker.set_ages(&mut batch, before);
    assert_eq!(batch.len(), 2);
    a.tracker.set_ages(&mut batch, after);
    assert_eq!((batch.weight(), batch.len()), (0, 0));
}

#[test]
fn who_left_just_now_has_left_whenever_it_was_heard_of() {
    let (mut a, mut b) = worlds();
    a.announce(&HASH, "10.0.0.1:11", "&left=0&event=stopped");
    a.now += units(1) / 2;
    b.now = a.now;
    b.announce(&HASH, "10.0.0.1:11", "&left=0");
    let (mut batch, _) = a.take();
    a.tracker.set_ages(&mut batch, a.now);
    assert_eq!(b.hear(&a.messages(&batch)).taken, 1);
    assert_eq!(b.counts(&HASH), (0, 0, 0));
}

#[test]
fn who_has_come_back_before_it_was_told_is_not_said_to_have_left() {
    let (mut a, _) = worlds();
    a.announce(&HASH, "10.0.0.1:11", "&left=0&event=stopped");
    a.announce(&HASH, "10.0.0.1:11", "&left=0");
    let (mut batch, _) = a.take();
    let late = a.now + units(50);
    a.tracker.set_ages(&mut batch, late);
    let peers: Vec<Peer> = batch.swarms().flat_map(|(_, swarm)| swarm.peers()).collect();
    assert!(matches!(peers[..], [Peer::Joined { age: 0, .. }]), "{peers:?}");
}

#[test]
fn an_old_address_does_not_take_its_name_from_a_younger_one() {
    for by_look_up in [false, true] {
        let (mut a, mut b) = worlds();
        a.announce(&HASH, "10.0.0.1:11", "&left=0&hostname=c.internal");
        b.now += units(10);
        b.announce(&HASH, "10.0.0.2:11", "&left=0&hostname=c.internal");
        a.now += units(12);
        b.now = a.now;
        let (older, younger) = (a.known().0, b.known().0);
        let learn = |to: &mut World, from: &World, batch: &Batch| match by_look_up {
            true => to.look_up(batch),
            false => to.hear(&from.messages(batch)),
        };
        let learnt = learn(&mut b, &a, &older);
        assert_eq!((learnt.taken, learnt.known), (0, 1));
        let learnt = learn(&mut a, &b, &younger);
        assert_eq!((learnt.taken, learnt.known), (1, 0));
        for world in [&mut a, &mut b] {
            assert_eq!((world.counts(&HASH), world.tracker.totals().named), ((1, 0, 0), 1));
            let (known, _) = world.known();
            let shared = known.swarms().next().expect("the torrent").1;
            let address = shared.peers.keys().next();
            assert_eq!(address, Some(&Address::V4([10, 0, 0, 2, 0, 11])));
        }
    }
}

#[test]
fn of_addresses_that_are_equally_old_the_one_that_is_told_last_has_the_name() {
    let (_, mut b) = worlds();
    let to = batch::To::Joined {
        is_seeder: false,
        is_completion: false,
        age: 5,
    };
    for last in [1, 2] {
        let mut batch = Batch::default();
        batch.add_known(HASH, Address::V4([10, 0, 0, last, 0, 11]), Some(b"c.internal"), to);
        assert_eq!(b.look_up(&batch).taken, 1);
    }
    assert!(b.tracker.totals().named == 1 && b.counts(&HASH) == (0, 1, 0));
    let (known, _) = b.known();
    let shared = known.swarms().next().expect("the torrent").1;
    assert_eq!(shared.peers.keys().next(), Some(&Address::V4([10, 0, 0, 2, 0, 11])));
}

#[test]
fn what_was_announced_here_meanwhile_outweighs_what_is_looked_up_or_retold() {
    let (mut a, mut b) = worlds();
    a.announce(&HASH, "10.0.0.1:11", "&left=5");
    let (told, _) = a.take();
    let (retold, _) = a.known();
    b.announce(&HASH, "10.0.0.1:11", "&left=0&compact=0");
    assert_eq!(b.look_up(&told).known, 1);
    assert_eq!(b.hear(&a.messages(&retold)).known, 1);
    assert_eq!(b.counts(&HASH), (1, 0, 0));
    // Units of the teller that are shorter do not make it news.
    let short = Settings {
        interval: Settings::default().interval / 10,
        ..Settings::default()
    };
    let mut c = World::new(3, short);
    c.announce(&HASH, "10.0.0.1:11", "&left=5");
    let (retold, _) = c.known();
    assert_eq!(b.hear(&c.messages(&retold)).known, 1);
    // What is heard as it happens counts, as ever.
    assert_eq!(b.hear(&a.messages(&told)).taken, 1);
    assert_eq!(b.counts(&HASH), (0, 1, 0));
}

#[test]
fn a_peer_id_stays_known_when_others_have_heard_of_the_peer() {
    let (mut a, mut b) = worlds();
    b.announce(&HASH, "10.0.0.1:11", "&left=5&compact=0");
    let has_id = |b: &mut World| {
        let reply = b.announce(&HASH, "10.0.0.9:9", "&left=5&compact=0");
        reply.contains("2:ip8:10.0.0.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti11e")
    };
    assert!(has_id(&mut b));
    a.now += units(20);
    b.now = a.now;
    a.announce(&HASH, "10.0.0.1:11", "&left=0");
    let (told, _) = a.take();
    assert_eq!(b.look_up(&told).taken, 1);
    assert!(b.counts(&HASH) == (1, 1, 0) && has_id(&mut b));
    assert_eq!(b.hear(&a.messages(&told)).taken, 1);
    assert!(has_id(&mut b));
}

#[test]
fn a_part_of_what_is_known_says_nothing_that_later_updates_take_back() {
    let (mut a, mut b) = worlds();
    a.announce(&HASH, "10.0.0.1:11", "&left=5");
    a.announce(&HASH, "10.0.0.2:12", "&left=5");
    a.take();
    let (mut part, _) = a.known();
    a.announce(&HASH, "10.0.0.1:11", "&left=5&event=stopped");
    a.announce(&HASH, "10.0.0.2:12", "&left=0&event=completed");
    a.announce(&HASH, "10.0.0.3:13", "&left=0");
    let (news, _) = a.take();
    part.leave_out(&news);
    assert_eq!(part.len(), 0);
    for batch in [&news, &part] {
        b.hear(&a.messages(batch));
        b.look_up(batch);
    }
    assert_eq!(b.counts(&HASH), (2, 0, 1));
    assert!(news.has_left(&HASH, b"\x04\x0a\0\0\x01\0\x0b"));
    for (hash, member) in [
        (&HASH, &b"\x04\x0a\0\0\x02\0\x0c"[..]),
        (&HASH, b"\x04\x0a\0\0\x04\0\x0c"),
        (&HASH, DOWNLOADS),
        (&OTHER, b"\x04\x0a\0\0\x01\0\x0b"),
    ] {
        assert!(!news.has_left(hash, member), "{member:?}");
    }
}

#[test]
fn torrents_without_peers_are_gone_through_in_parts_as_well() {
    let (mut a, _) = worlds();
    for n in 0..500_u16 {
        let mut hash = [7; 20];
        hash[..2].copy_from_slice(&n.to_be_bytes());
        a.announce(&InfoHash(hash), "10.0.0.1:11", "&left=0&event=completed");
        a.announce(&InfoHash(hash), "10.0.0.1:11", "&left=0&event=stopped");
    }
    for tells in [true, false] {
        let (mut cursor, mut batch, mut all) = (Cursor::default(), Batch::default(), HashSet::new());
        loop {
            let mut done = Vec::new();
            let more = match tells {
                true => a
                    .tracker
                    .tell_known(&mut a.worker, &mut cursor, 10, &mut batch, &mut done, a.now),
                false => a.tracker.list_known(&mut a.worker, &mut cursor, 10, &mut done),
            };
            assert!(done.len() <= 10, "{}", done.len());
            all.extend(done);
            if !more {
                break;
            }
        }
        assert_eq!(all.len(), 500);
        assert_eq!(batch.swarms().count(), if tells { 500 } else { 0 });
    }
}
