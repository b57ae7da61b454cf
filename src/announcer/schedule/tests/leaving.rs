//! Torrents that leave, come back, and are all taken back at the end.

use super::*;

#[test]
fn a_torrent_that_no_tracker_knows_of_leaves_without_a_word() {
    let mut world = World::new();
    world.add(1, ONE);
    world.schedule.remove(hash(1), world.now);
    assert!(world.schedule.is_empty());
    // One that is being announced for the first time is stopped behind that.
    world.add(2, ONE);
    let call = world.next().unwrap();
    world.schedule.remove(hash(2), world.now);
    assert!(world.next().is_none());
    assert!(!world.ok(&call, &answer(1800, None)).stays);
    let call = world.next().unwrap();
    assert_eq!(call.event, Event::Stopped);
    // Whether or not that is heard, it was the last time.
    world.fail(&call, &unreachable());
    assert!(world.schedule.is_empty());
}

#[test]
fn a_torrent_that_comes_again_goes_on_and_with_other_trackers_begins_anew() {
    let mut world = World::new();
    world.add(1, ONE);
    let call = world.next().unwrap();
    world.ok(&call, &answer(1800, None));
    world.add(1, ONE);
    assert_eq!(world.schedule.len(), 1);
    world.add(1, &[&["http://two/"]]);
    let mut events = HashSet::new();
    for _ in 0..2 {
        let (after, call) = world.wait();
        assert_eq!(after, 0);
        world.ok(&call, &answer(1800, None));
        events.insert((call.url.host().to_owned(), call.event.name()));
    }
    assert_eq!(
        events,
        HashSet::from([("one".to_owned(), Some("stopped")), ("two".to_owned(), Some("started"))])
    );
}

#[test]
fn a_torrent_that_comes_again_before_its_tracker_hears_that_it_leaves_has_never_left() {
    let mut world = World::new();
    let list: &[&[&str]] = &[&["http://a/", "http://b/", "http://c/"]];
    world.add(1, list);
    let call = world.next().unwrap();
    world.ok(&call, &answer(1800, Some(60)));
    world.schedule.remove(hash(1), world.now);
    world.add(1, list);
    assert_eq!(world.schedule.len(), 1);
    let (after, again) = world.wait();
    assert_eq!((after, again.event, &again.url), (60, Event::Regular, &call.url));
}

#[test]
fn a_torrent_that_comes_again_waits_until_its_tracker_has_heard_that_it_left() {
    let mut world = World::new();
    world.add(1, ONE);
    let call = world.next().unwrap();
    world.ok(&call, &answer(1800, None));
    world.schedule.remove(hash(1), world.now);
    let stopped = world.next().unwrap();
    assert_eq!(stopped.event, Event::Stopped);
    world.add(1, ONE);
    assert!(world.next().is_none());
    // Whether or not that is heard.
    world.fail(&stopped, &unreachable());
    let (after, call) = world.wait();
    assert_eq!((after, call.event), (0, Event::Started));
    // The same while the first announce is under way.
    world.schedule.remove(hash(1), world.now);
    world.add(1, ONE);
    assert!(world.next().is_none());
    world.ok(&call, &answer(1800, None));
    let stopped = world.next().unwrap();
    assert!(stopped.event == Event::Stopped && world.next().is_none());
    world.ok(&stopped, &answer(1800, None));
    assert_eq!(world.next().unwrap().event, Event::Started);
    assert!(world.next().is_none());
}

#[test]
fn a_torrent_with_many_trackers_some_of_them_twice_goes_on_as_it_is() {
    let mut world = World::new();
    let urls: Vec<String> = (0..100)
        .map(|number| format!("http://a{}/", number / 2 * 2 % 90))
        .chain((0..60).map(|number| format!("http://b{number}/")))
        .collect();
    let list: Vec<Vec<Arc<TrackerUrl>>> = vec![urls.iter().map(|text| url(text)).collect()];
    for _ in 0..2 {
        world.schedule.add((hash(1), 0), &list, false, (&[], UNIX), world.now);
    }
    // Nobody leaves.
    assert_eq!(world.schedule.jobs[0].places.len(), TRACKERS_MAX);
    let call = world.next().unwrap();
    world.schedule.add((hash(1), 0), &list, false, (&[], UNIX), world.now);
    assert!(world.ok(&call, &answer(1800, None)).stays);
    assert_eq!(world.schedule.len(), 1);
}

#[test]
fn all_are_stopped_at_the_end_as_fast_as_the_rate_allows() {
    let mut world = World::new();
    for number in 0..100 {
        world.add(number, ONE);
        let call = world.next().unwrap();
        world.ok(&call, &answer(1800, None));
    }
    let three = Duration::from_secs(3);
    world.schedule.remove_all(three, world.now);
    let from = world.now;
    while let Some(call) = world.next() {
        assert_eq!(call.event, Event::Stopped);
        world.ok(&call, &answer(1800, None));
    }
    assert!(world.schedule.is_empty() && world.now - from < three);
}

#[test]
fn twenty_thousand_are_stopped_in_time_those_first_whom_most_would_ask_for() {
    let mut world = World::new();
    let hosts = ["http://a/", "http://b/", "udp://c:1/"];
    for number in 0..20_000_u32 {
        world.add(number, &[&[hosts[number as usize % 3]]]);
        let call = world.next().unwrap();
        let leechers = number * 7919 % 1000;
        let said = Answer {
            complete: Some(1),
            incomplete: Some(leechers),
            ..answer(21_600, None)
        };
        world.ok(&call, &said);
    }
    let (time, answered_after) = (Duration::from_millis(2250), Duration::from_millis(20));
    let from = world.now;
    world.schedule.remove_all(time, world.now);
    let mut under_way: VecDeque<(Instant, Call)> = VecDeque::new();
    let mut told: HashMap<String, Vec<u32>> = HashMap::new();
    let mut most: HashMap<String, usize> = HashMap::new();
    while !world.schedule.is_empty() {
        while let Some(call) = world.schedule.poll(world.now) {
            assert_eq!(call.event, Event::Stopped);
            let [a, b, c, d, ..] = call.info_hash.0;
            let number = u32::from_be_bytes([a, b, c, d]);
            told.entry(call.url.host().to_owned())
                .or_default()
                .push(number * 7919 % 1000);
            under_way.push_back((world.now + answered_after, call));
        }
        for host in ["a", "b", "c"] {
            let count = under_way.iter().filter(|(_, call)| call.url.host() == host).count();
            let most = most.entry(host.to_owned()).or_default();
            *most = count.max(*most);
        }
        let next = [world.schedule.next_at(), under_way.front().map(|(at, _)| *at)];
        world.now = next.into_iter().flatten().min().expect("something").max(world.now);
        while let Some((_, call)) = under_way.pop_front_if(|(at, _)| *at <= world.now) {
            world.ok(&call, &answer(1800, None));
        }
    }
    assert!(world.now - from < time * 5 / 4, "{:?}", world.now - from);
    assert_eq!(told.values().map(Vec::len).sum::<usize>(), 20_000);
    assert!(told.values().all(|told| told.is_sorted_by(|one, next| one >= next)));
    // Each has a connection of its own over HTTP.
    assert!(
        most["a"] <= PARTING_HOST_MAX && most["b"] <= PARTING_HOST_MAX,
        "{most:?}"
    );
}

#[test]
fn however_many_hosts_are_dead_those_that_answer_are_asked_and_told_at_the_end() {
    let mut world = World::new();
    for number in 0..100 {
        world.add(number, &[&["http://alive/"]]);
    }
    for number in 100..600 {
        let dead = format!("udp://dead{}:1/", number % 200);
        world.add(number, &[&[&dead]]);
    }
    // The dead ones hold what is sent to them for longer than this test takes.
    let (mut hanging, mut told) = (Vec::new(), 0);
    while told < 100 {
        let call = world.next().expect("those that answer are asked");
        match call.url.host() {
            "alive" => {
                world.ok(&call, &answer(21_600, None));
                told += 1;
            }
            _ => hanging.push(call),
        }
    }
    assert!(world.now - world.start < Duration::from_secs(4));
    assert_eq!(hanging.len(), TRIALS_MAX);
    assert!(world.schedule.poll(world.now).is_none());

    let given_up: HashSet<CallId> = {
        world.schedule.remove_all(Duration::from_secs(3), world.now);
        world.schedule.give_up(world.now).into_iter().collect()
    };
    assert_eq!(given_up, hanging.iter().map(|call| call.id).collect());
    assert_eq!((world.schedule.in_flight(), world.schedule.len()), (0, 100));
    let from = world.now;
    while let Some(call) = world.next() {
        assert_eq!((call.event, call.url.host()), (Event::Stopped, "alive"));
        world.ok(&call, &answer(1800, None));
    }
    assert!(world.schedule.is_empty() && world.now - from < Duration::from_secs(3));
    for call in &hanging {
        assert!(world.schedule.on_answer(call, Err(&unreachable()), world.now).is_none());
    }
}

#[test]
fn a_torrent_that_asks_a_dead_tracker_at_the_end_is_taken_back_from_the_one_that_has_it() {
    let mut world = World::new();
    world.add(1, &[&["http://a/"], &["udp://b:1/"]]);
    let call = world.next().unwrap();
    world.ok(&call, &answer(60, None));
    let call = world.next().unwrap();
    world.fail(&call, &unreachable());
    let call = world.next().unwrap();
    assert_eq!(call.url.host(), "b");
    world.schedule.remove_all(Duration::from_secs(3), world.now);
    assert!(world.schedule.poll(world.now).is_none(), "it may still be answered");
    assert_eq!(world.schedule.give_up(world.now), [call.id]);
    let (after, call) = world.wait();
    assert_eq!((after, call.event, call.url.host()), (0, Event::Stopped, "a"));
}

#[test]
fn a_torrent_whose_first_announce_is_under_way_at_the_end_is_taken_back() {
    let mut world = World::new();
    world.add(1, ONE);
    let call = world.next().unwrap();
    world.schedule.remove_all(Duration::from_secs(3), world.now);
    assert_eq!(world.schedule.len(), 1);
    world.ok(&call, &answer(1800, None));
    let call = world.next().unwrap();
    assert_eq!(call.event, Event::Stopped);
    world.ok(&call, &answer(1800, None));
    assert!(world.schedule.is_empty());
}

/// Has a torrent leave and come back, `answered_before` or after its tracker has heard that it leaves. Gives how many seconds later it
/// is announced.
fn leave_and_come_back(world: &mut World, said: &Answer, answered_before: bool) -> u64 {
    world.schedule.remove(hash(1), world.now);
    let (after, call) = world.wait();
    assert_eq!((after, call.event), (0, Event::Stopped));
    if answered_before {
        world.ok(&call, said);
        world.add(1, ONE);
    } else {
        world.add(1, ONE);
        world.ok(&call, said);
    }
    let next = world.schedule.status(hash(1), world.now)[0].next;
    let (after, call) = world.wait();
    assert_eq!(call.event, Event::Started);
    assert_eq!(next.map(|next| next.as_secs()), Some(after), "and that is what is told");
    world.ok(&call, said);
    after
}

/// Issue 7: it was hidden from its tracker until `min interval` was over.
#[test]
fn a_torrent_that_leaves_and_comes_back_is_announced_at_once_and_once_a_minute_or_in_the_least_interval() {
    // Where the tracker names none, and where it does: how long the second return waits, after 20 s.
    for (least, wait) in [(None, 40), (Some(30), 40), (Some(900), 880)] {
        for answered_before in [true, false] {
            let (mut world, said) = (World::new(), answer(1800, least));
            world.add(1, ONE);
            let (_, call) = world.wait();
            world.ok(&call, &said);
            world.pass(100);
            assert_eq!(leave_and_come_back(&mut world, &said, answered_before), 0);
            world.pass(20);
            assert_eq!(
                leave_and_come_back(&mut world, &said, answered_before),
                wait,
                "{least:?}"
            );
            world.pass(901);
            assert_eq!(leave_and_come_back(&mut world, &said, answered_before), 0);
            // One that stays keeps to what its tracker has said.
            let (after, call) = world.wait();
            assert!(after >= 900 && call.event == Event::Regular, "{after}");
        }
    }
}

#[test]
fn a_torrent_that_has_come_back_too_often_is_announced_when_somebody_asks_for_it() {
    let (mut world, said) = (World::new(), answer(1800, Some(900)));
    world.add(1, ONE);
    let (_, call) = world.wait();
    world.ok(&call, &said);
    world.pass(100);
    leave_and_come_back(&mut world, &said, true);
    world.pass(20);
    world.schedule.remove(hash(1), world.now);
    let (_, call) = world.wait();
    world.ok(&call, &said);
    world.add(1, ONE);
    assert_eq!(
        world.schedule.status(hash(1), world.now)[0].next,
        Some(Duration::from_secs(880))
    );
    let asked = world.schedule.reannounce(hash(1), world.now).expect("it is announced");
    assert_eq!(asked.wait, Some(Duration::from_secs(40)), "a minute after the last");
    let (after, call) = world.wait();
    assert_eq!((after, call.event), (40, Event::Started));
}
