//! What trackers are asked of swarms between announces.

use super::*;

/// The answers to announces of trackers that say nothing of swarms.
fn silent() -> Answer {
    answer(1800, None)
}

/// Time passes, every announce is answered so, until a scrape is due.
fn next_scrape(world: &mut World, said: &Answer, until: Duration) -> Option<ScrapeCall> {
    let end = world.now + until;
    while world.now < end {
        while let Some(call) = world.schedule.poll(world.now) {
            world.ok(&call, said);
        }
        if let Some(call) = world.schedule.poll_scrape(world.now) {
            return Some(call);
        }
        let at = world.schedule.next_at().expect("announces go on");
        assert!(at > world.now, "it is due and not given");
        world.now = at;
    }
    None
}

#[test]
fn swarms_that_announces_say_nothing_of_are_scraped_together_and_again_after_half_an_hour() {
    let mut world = World::new();
    for number in 0..120 {
        world.add(number, &[&["http://one/announce"]]);
    }
    let hour = Duration::from_secs(3600);
    let mut last: HashMap<InfoHash, Instant> = HashMap::new();
    let mut counts = Vec::new();
    let end = world.now + 4 * hour;
    let swarm = Swarm {
        seeders: 2,
        leechers: 1,
    };
    let next = |world: &mut World| {
        let left = end.saturating_duration_since(world.now);
        next_scrape(world, &silent(), left)
    };
    while let Some(call) = next(&mut world) {
        counts.push(call.hashes.len());
        assert!(call.hashes.len() <= 50);
        for info_hash in &call.hashes {
            if let Some(before) = last.insert(*info_hash, world.now) {
                let gap = world.now - before;
                assert!((hour / 2..hour).contains(&gap), "{gap:?}");
            }
        }
        let swarms = vec![Some(swarm); call.hashes.len()];
        world.schedule.on_scraped(&call, Ok(&swarms), world.now);
    }
    assert_eq!(last.len(), 120);
    // Three for each round, of which there are up to eight.
    assert!((15..=24).contains(&counts.len()), "{counts:?}");
    let expected = Swarms {
        known: 120,
        seeders: 240,
        leechers: 120,
    };
    assert_eq!(world.schedule.swarms(), expected);
    assert_eq!(world.schedule.status(hash(1), world.now)[0].swarm, Some(swarm));
    // An announce that says nothing takes nothing back, and is told with the next.
    let call = world.next().unwrap();
    assert_eq!(call.swarm, Some(swarm));
    world.schedule.remove_all(hour, world.now);
    assert_eq!(world.schedule.swarms(), Swarms { known: 120, ..expected });
}

#[test]
fn a_tracker_that_says_it_with_each_announce_or_has_no_address_for_it_is_not_scraped() {
    for (url, said) in [
        (
            "http://one/announce",
            Answer {
                complete: Some(1),
                ..silent()
            },
        ),
        ("http://one/a", silent()),
    ] {
        let mut world = World::new();
        world.add(1, &[&[url]]);
        let scraped = next_scrape(&mut world, &said, Duration::from_secs(40 * 3600));
        assert!(scraped.is_none(), "{url}");
    }
    // Between two announces that are far apart it is.
    let mut world = World::new();
    world.add(1, &[&["udp://one:1/"]]);
    let said = Answer {
        complete: Some(1),
        ..answer(21_600, None)
    };
    let from = world.now;
    assert!(next_scrape(&mut world, &said, Duration::from_secs(3600)).is_some());
    assert!(world.now - from > Duration::from_secs(30 * 60));
}

#[test]
fn a_tracker_that_refuses_scrapes_is_left_alone_for_a_day_and_one_that_is_away_for_half_an_hour() {
    let forbidden = Failure::Status {
        code: 403,
        retry: Retry::Unsaid,
    };
    for (failure, from, to) in [
        (refused(Retry::Unsaid), 86_400, 87_000),
        (forbidden, 86_400, 87_000),
        (Failure::TooLong(1), 86_400, 87_000),
        (unreachable(), 1800, 1900),
    ] {
        let mut world = World::new();
        world.add(1, &[&["udp://one:1/"]]);
        let call = next_scrape(&mut world, &silent(), Duration::from_secs(100)).expect("a scrape");
        world.schedule.on_scraped(&call, Err(&failure), world.now);
        let before = world.now;
        assert!(next_scrape(&mut world, &silent(), Duration::from_secs(200_000)).is_some());
        let after = (world.now - before).as_secs();
        assert!((from..=to).contains(&after), "{failure:?}: {after}");
    }
}

#[test]
fn what_comes_of_a_scrape_of_torrents_that_have_left_is_nobodys() {
    let mut world = World::new();
    world.add(1, &[&["udp://one:1/"]]);
    let scrape = next_scrape(&mut world, &silent(), Duration::from_secs(100)).expect("a scrape");
    world.schedule.remove(hash(1), world.now);
    let call = world.next().unwrap();
    world.ok(&call, &silent());
    assert!(world.schedule.is_empty() && world.schedule.trackers.is_empty());
    // Another has its numbers.
    world.add(2, &[&["udp://two:1/"]]);
    let call = world.next().unwrap();
    world.ok(&call, &silent());
    let swarm = Some(Swarm {
        seeders: 1,
        leechers: 1,
    });
    world.schedule.on_scraped(&scrape, Ok(&[swarm]), world.now);
    assert_eq!(
        (world.schedule.swarms().known, world.schedule.scrapes_in_flight),
        (0, 0)
    );
    assert!(next_scrape(&mut world, &silent(), Duration::from_secs(100)).is_some());
}
