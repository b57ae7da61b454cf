//! Announces that somebody asks for, and those that wait for the network.

use super::*;

#[test]
fn announce_that_is_asked_for_comes_at_once_but_not_before_the_tracker_allows() {
    let mut world = World::new();
    world.add(1, &[&["http://a.example/announce"]]);
    assert_eq!(world.schedule.reannounce(hash(2), world.now), None, "nobody knows it");
    let call = world.schedule.poll(world.now).unwrap();
    let asks = |world: &mut World| world.schedule.reannounce(hash(1), world.now).expect("announced").wait;
    assert_eq!(asks(&mut world), Some(Duration::ZERO), "it is being asked");
    world.schedule.on_answer(&call, Ok(&answer(1800, Some(300))), world.now);
    world.pass(100);
    assert_eq!(asks(&mut world), Some(Duration::from_secs(200)));
    assert!(world.schedule.poll(world.now).is_none());
    world.pass(200);
    let call = world.schedule.poll(world.now).unwrap();
    assert_eq!(call.event, Event::Regular);
    // A tracker that names no least interval is left alone for a minute all the same.
    world.schedule.on_answer(&call, Ok(&answer(1800, None)), world.now);
    world.pass(10);
    assert_eq!(asks(&mut world), Some(Duration::from_secs(50)));
    world.pass(50);
    world.schedule.poll(world.now).unwrap();
}

#[test]
fn who_asks_for_an_announce_after_a_refusal_gets_it_a_minute_later_unless_the_tracker_has_said_when() {
    let mut world = World::new();
    world.add(1, ONE);
    let asks = |world: &mut World| world.schedule.reannounce(hash(1), world.now).expect("announced");
    // By itself it would rest for five minutes, and longer each time.
    for _ in 0..5 {
        let call = world.schedule.poll(world.now).expect("it may be asked");
        world.fail(&call, &refused(Retry::Unsaid));
        let asked = asks(&mut world);
        assert_eq!(asked.wait, Some(Duration::from_secs(60)));
        assert_eq!(asked.failure.as_deref(), Some("refused: not registered"));
        world.pass(60);
    }
    let call = world.schedule.poll(world.now).expect("it may be asked");
    world.fail(&call, &refused(Retry::After(Duration::from_secs(900))));
    world.pass(60);
    let asked = asks(&mut world);
    assert!(asked.wait >= Some(Duration::from_secs(840)), "{asked:?}");
    assert!(world.schedule.poll(world.now).is_none());
    world.pass(960);
    let call = world
        .schedule
        .poll(world.now)
        .expect("the time that it has named is over");
    // What it refuses for good it is not asked again.
    world.fail(&call, &refused(Retry::Never));
    world.pass(3600);
    let asked = asks(&mut world);
    assert_eq!(
        (asked.wait, asked.failure.as_deref()),
        (None, Some("refused: not registered"))
    );
}

#[test]
fn who_asks_for_an_announce_to_a_host_that_was_given_up_has_it_tried_once_a_minute_for_all_torrents() {
    let mut world = World::new();
    let count = 20;
    (0..count).for_each(|number| world.add(number, ONE));
    for _ in 0..12 {
        let (_, call) = world.wait();
        world.fail(&call, &unreachable());
    }
    let mut tried = 0;
    let ask_all = |world: &mut World| {
        (0..count).for_each(|number| {
            world.schedule.reannounce(hash(number), world.now).expect("announced");
        });
    };
    // Somebody asks for all of them every second, for ten minutes.
    for _ in 0..600 {
        world.pass(1);
        ask_all(&mut world);
        while let Some(call) = world.schedule.poll(world.now) {
            tried += 1;
            world.fail(&call, &unreachable());
            ask_all(&mut world);
        }
    }
    assert!((9..=11).contains(&tried), "{tried} times in ten minutes");
    // It is back: they follow, those that were asked a minute ago.
    world.pass(61);
    ask_all(&mut world);
    let call = world.schedule.poll(world.now).expect("it may be tried");
    world.ok(&call, &answer(1800, None));
    world.pass(61);
    ask_all(&mut world);
    assert!(world.schedule.poll(world.now).is_some());
}

#[test]
fn when_the_network_is_back_what_failed_for_want_of_it_is_asked_at_once_and_the_rest_as_soon_as_it_may_be() {
    let mut world = World::new();
    world.add(1, ONE);
    // It fails until the host is given up, and the torrent rests for hours.
    for _ in 0..12 {
        let (_, call) = world.wait();
        world.fail(&call, &unreachable());
    }
    world.pass(1);
    assert!(world.schedule.poll(world.now).is_none());
    world.schedule.network_is_back(true, world.now);
    let (after, call) = world.wait();
    assert_eq!(after, 0);
    world.ok(&call, &answer(1800, Some(900)));
    // The tracker has said when it may be asked again.
    world.pass(100);
    world.schedule.network_is_back(true, world.now);
    let (after, call) = world.wait();
    assert_eq!(after, 800);
    // This one has not. A network that comes and goes does not ask it each time.
    world.ok(&call, &answer(1800, None));
    for _ in 0..5 {
        world.pass(1);
        world.schedule.network_is_back(true, world.now);
    }
    let (after, call) = world.wait();
    assert_eq!(after, 10);
    // What works is left alone where only what fails is meant.
    world.ok(&call, &answer(1800, None));
    world.pass(100);
    world.schedule.network_is_back(false, world.now);
    let (after, call) = world.wait();
    assert!(after > 1000, "{after}");
    // What a tracker refuses, it refuses on any network.
    world.fail(&call, &refused(Retry::Unsaid));
    world.schedule.network_is_back(true, world.now);
    let (after, _) = world.wait();
    assert!(after >= 300, "{after}");
}
