//! What of the schedule is kept over a restart.

use super::*;

#[test]
fn what_was_not_asked_for_a_reason_of_our_own_is_asked_at_the_next_start() {
    let mut world = World::new();
    world.add(1, &[&["http://a/"]]);
    let call = world.next().unwrap();
    world.fail(&call, &Failure::Forbidden("a private address".into()));
    let kept = world.schedule.take_changed(world.now, UNIX);
    assert!(kept.iter().all(|(_, kept)| kept.is_empty()), "{kept:?}");
}

#[test]
fn due_times_and_failures_are_kept_over_a_restart() {
    let mut world = World::new();
    let list: &[&[&str]] = &[&["http://a/", "http://b/", "http://c/"]];
    world.add(1, list);
    let call = world.next().unwrap();
    world.fail(&call, &refused(Retry::After(Duration::from_secs(3600))));
    let failed = call.url.clone();
    let call = world.next().unwrap();
    world.ok(&call, &answer(1800, None));
    let works = call.url.clone();
    world.pass(600);
    let kept = world.schedule.take_changed(world.now, UNIX + 600);
    assert_eq!((kept.len(), kept[0].0), (1, hash(1)));
    let kept = kept[0].1.clone();
    assert_eq!(kept.len(), 2);
    assert!(world.schedule.take_changed(world.now, UNIX).is_empty());

    let mut world = World::new();
    world
        .schedule
        .add((hash(1), 0), &tiers(list), false, (&kept, UNIX + 700), world.now);
    let (after, call) = world.wait();
    // The tracker that has us in its list is asked when it was to be; to it this is another run.
    assert!(
        call.url == works && call.event == Event::Started && (880..=1100).contains(&after),
        "{after}"
    );
    world.fail(&call, &unreachable());
    let (_, call) = world.wait();
    assert!(
        call.url != works && call.url != failed,
        "neither the one that failed before the restart"
    );
    // What is of other trackers has no meaning.
    let mut world = World::new();
    world
        .schedule
        .add((hash(1), 0), &tiers(&[&["http://d/"]]), false, (&kept, UNIX), world.now);
    assert_eq!(world.wait().0, 0);
}

#[test]
fn announces_that_change_nothing_but_the_time_are_kept_once() {
    let mut world = World::new();
    world.add(1, ONE);
    let changed = |world: &mut World| world.schedule.take_changed(world.now, UNIX).len();
    let call = world.next().unwrap();
    world.ok(&call, &answer(1800, None));
    assert_eq!(changed(&mut world), 1, "the tracker has us now");
    for _ in 0..3 {
        let (_, call) = world.wait();
        world.ok(&call, &answer(1800, None));
        assert_eq!(changed(&mut world), 0);
    }
    let (_, call) = world.wait();
    world.fail(&call, &unreachable());
    assert_eq!(changed(&mut world), 1, "it fails");
    let (_, call) = world.wait();
    world.ok(&call, &answer(1800, None));
    assert_eq!(changed(&mut world), 1, "it works again");
    let (_, call) = world.wait();
    world.ok(&call, &answer(1800, None));
    assert_eq!(changed(&mut world), 0);
    world.schedule.completed(hash(1), world.now);
    let (_, call) = world.wait();
    assert_eq!(call.event, Event::Completed);
    world.ok(&call, &answer(1800, None));
    assert_eq!(changed(&mut world), 1);
    let (_, call) = world.wait();
    world.fail(&call, &Failure::Busy);
    assert_eq!(changed(&mut world), 1, "it is due in seconds");
    let (_, call) = world.wait();
    world.ok(&call, &answer(1800, None));
    assert_eq!(changed(&mut world), 1, "and in half an hour again");
    world.schedule.network_is_back(true, world.now);
    assert_eq!(changed(&mut world), 1, "it is due at once");
    let (_, call) = world.wait();
    world.ok(&call, &answer(1800, None));
    assert_eq!(changed(&mut world), 1, "and in half an hour again");
    let (_, call) = world.wait();
    world.ok(&call, &answer(1800, None));
    assert_eq!(changed(&mut world), 0);
    world.schedule.note_all();
    assert_eq!(changed(&mut world), 1, "btd stops");
}

#[test]
fn a_clock_that_was_set_back_puts_nothing_off_longer_than_a_tracker_could() {
    let mut world = World::new();
    world.add(1, ONE);
    let call = world.next().unwrap();
    world.ok(&call, &answer(1800, None));
    let kept = world.schedule.take_changed(world.now, UNIX + 1_000_000)[0].1.clone();
    let mut world = World::new();
    world
        .schedule
        .add((hash(1), 0), &tiers(ONE), false, (&kept, UNIX), world.now);
    assert_eq!(world.wait().0, 6 * 60 * 60);
}
