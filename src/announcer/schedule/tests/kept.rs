//! What of the schedule is kept over a restart.

use super::super::leaving::RETURNS_MAX;
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

/// What is kept of a torrent whose trackers have failed so often, from the moment of the last time.
fn kept_of_failing(list: &[&[&str]], failures: usize, failure: &Failure) -> Vec<Kept> {
    let mut world = World::new();
    world.add(1, list);
    for _ in 0..failures {
        let call = world.next().unwrap();
        world.fail(&call, failure);
    }
    world.schedule.take_changed(world.now, UNIX)[0].1.clone()
}

/// It was told to be new.
#[test]
fn a_tracker_that_failed_before_a_restart_is_told_of_so_when_its_torrent_leaves_and_comes_back() {
    let kept = kept_of_failing(ONE, 2, &unreachable());
    let mut world = World::new();
    world
        .schedule
        .add((hash(1), 0), &tiers(ONE), false, (&kept, UNIX + 20), world.now);
    world.schedule.remove(hash(1), world.now);
    world.add(1, ONE);
    let told = world.schedule.status(hash(1), world.now)[0].clone();
    let text = Some("it failed the last 2 times before this start");
    assert_eq!((told.standing, told.text.as_deref()), (Standing::Failing, text));
}

#[test]
fn failures_of_torrents_that_do_not_come_back_are_bounded_and_the_last_are_kept() {
    let mut world = World::new();
    world.add(1, ONE);
    let call = world.next().unwrap();
    world.fail(&call, &unreachable());
    for other in 0..RETURNS_MAX as u64 {
        world
            .schedule
            .failed_before
            .insert((hash(2), other), Arc::from("no answer"));
    }
    world.schedule.remove(hash(1), world.now);
    assert!((1..=RETURNS_MAX).contains(&world.schedule.failed_before.len()));
    world.add(1, ONE);
    let told = world.schedule.status(hash(1), world.now)[0].clone();
    assert_eq!(
        (told.standing, told.text.as_deref()),
        (Standing::Failing, Some("no answer"))
    );
}

/// It rested for hours, and was told to be new.
#[test]
fn a_tracker_that_failed_is_asked_once_soon_after_a_restart_and_that_it_failed_is_told() {
    let kept = kept_of_failing(ONE, 9, &unreachable());
    assert!(!kept[0].is_said && kept[0].failures == 9, "{kept:?}");
    let mut world = World::new();
    world
        .schedule
        .add((hash(1), 0), &tiers(ONE), false, (&kept, UNIX + 20), world.now);
    let status = |world: &World| world.schedule.status(hash(1), world.now)[0].clone();
    let told = status(&world);
    assert_eq!(
        (told.standing, told.text.as_deref(), told.next),
        (
            Standing::Failing,
            Some("it failed the last 9 times before this start"),
            Some(Duration::from_secs(40))
        ),
        "a minute after the last time"
    );
    // Nobody who asks has it asked sooner.
    let asked = world.schedule.reannounce(hash(1), world.now).unwrap();
    assert_eq!(
        (asked.wait, asked.failure.as_deref()),
        (Some(Duration::from_secs(40)), told.text.as_deref())
    );
    let (after, call) = world.wait();
    assert_eq!((after, call.event), (40, Event::Started));
    world.fail(&call, &unreachable());
    let told = status(&world);
    assert_eq!(told.text.as_deref(), Some("no answer"));
    assert!(told.next > Some(Duration::from_secs(3600)), "it rests on: {told:?}");
    // A start a year later, and one after the clock was set back.
    for (unix, expected) in [(UNIX + 31_536_000, 0), (UNIX - 31_536_000, 60)] {
        let mut world = World::new();
        world
            .schedule
            .add((hash(1), 0), &tiers(ONE), false, (&kept, unix), world.now);
        assert_eq!(world.wait().0, expected);
    }
    let once = kept_of_failing(ONE, 1, &unreachable());
    let mut world = World::new();
    world
        .schedule
        .add((hash(1), 0), &tiers(ONE), false, (&once, UNIX), world.now);
    assert_eq!(
        status(&world).text.as_deref(),
        Some("it failed the last time before this start")
    );
}

#[test]
fn what_earlier_versions_kept_of_a_tracker_that_failed_has_it_asked_within_a_minute() {
    let kept = Kept {
        due: UNIX + 5 * 60 * 60,
        ..kept_of_failing(ONE, 9, &unreachable())[0]
    };
    let mut world = World::new();
    world
        .schedule
        .add((hash(1), 0), &tiers(ONE), false, (&[kept], UNIX), world.now);
    assert_eq!(world.wait().0, 60);
}

#[test]
fn what_a_tracker_has_said_itself_is_kept_to_over_a_restart() {
    let hour = Duration::from_secs(3600);
    let kept = kept_of_failing(ONE, 1, &refused(Retry::After(hour)));
    let mut world = World::new();
    world
        .schedule
        .add((hash(1), 0), &tiers(ONE), false, (&kept, UNIX + 600), world.now);
    let asked = world.schedule.reannounce(hash(1), world.now).unwrap();
    assert!(
        asked.wait >= Some(hour * 5 / 6),
        "nor if somebody asks for it: {asked:?}"
    );
    assert!((3000..=3240).contains(&world.wait().0));

    let kept = kept_of_failing(ONE, 1, &refused(Retry::Never));
    let mut world = World::new();
    world
        .schedule
        .add((hash(1), 0), &tiers(ONE), true, (&kept, UNIX + 31_536_000), world.now);
    let told = world.schedule.status(hash(1), world.now)[0].clone();
    assert_eq!(
        (told.standing, told.text.as_deref(), told.next),
        (Standing::Dead, Some("it refused for good before this start"), None)
    );
    let asked = world.schedule.reannounce(hash(1), world.now).unwrap();
    assert_eq!((asked.wait, asked.failure.as_deref()), (None, told.text.as_deref()));
    assert!(world.next().is_none());
    // It is no reason to tell others again that the torrent is complete.
    let other = tiers(&[&["http://b/"]]);
    world.schedule.add((hash(1), 1), &other, true, (&[], UNIX), world.now);
    for event in [Event::Started, Event::Completed] {
        let call = world.next().unwrap();
        assert_eq!((call.url.host(), call.event), ("b", event));
        let outcome = world.ok(&call, &answer(1800, None));
        assert_eq!(outcome.completed_told, event == Event::Completed);
    }
    // What is written down of it later still says so.
    let kept = world.schedule.take_changed(world.now, UNIX)[0].1.clone();
    assert!(kept.iter().any(|kept| kept.is_final && !kept.told), "{kept:?}");
}

#[test]
fn of_trackers_that_are_told_of_the_end_those_that_fail_are_kept() {
    let mut world = World::new();
    let list: &[&[&str]] = &[&["http://a/"], &["http://b/"]];
    world.add(1, list);
    let call = world.next().unwrap();
    world.fail(&call, &refused(Retry::Never));
    let call = world.next().unwrap();
    world.ok(&call, &answer(7200, None));
    world.add(2, ONE);
    let call = world.next().unwrap();
    world.ok(&call, &answer(1800, None));
    let (_, call) = world.wait();
    world.fail(&call, &unreachable());
    let failed = world.schedule.failed(world.now, UNIX);
    let of = |number: u32| -> Vec<_> {
        let of = failed[&hash(number)].iter();
        of.map(|(url, kept)| (url.host(), kept.failures, kept.told, kept.is_final))
            .collect()
    };
    assert_eq!(of(1), [("a", 1, false, true)], "not the one that works");
    assert_eq!(of(2), [("one", 1, false, false)], "though it had it in its list");
}

/// How often a host is asked in so many seconds after a restart with 20,000 torrents of which it has failed, each failing so or not at all.
fn asked_after_a_restart(seconds: u64, failure: Option<&Failure>) -> Vec<u64> {
    let kept = kept_of_failing(ONE, 9, &unreachable());
    let mut world = World::new();
    for number in 0..20_000 {
        world
            .schedule
            .add((hash(number), 0), &tiers(ONE), false, (&kept, UNIX + 600), world.now);
    }
    let mut asked = Vec::new();
    let mut under_way: VecDeque<(Instant, Call)> = VecDeque::new();
    // It takes its time to fail, and answers at once.
    let takes = Duration::from_secs(if failure.is_some() { 20 } else { 0 });
    let end = world.now + Duration::from_secs(seconds);
    while world.now < end {
        while let Some(call) = world.schedule.poll(world.now) {
            asked.push((world.now - world.start).as_secs());
            under_way.push_back((world.now + takes, call));
        }
        while let Some((_, call)) = under_way.pop_front_if(|(at, _)| *at <= world.now) {
            match failure {
                Some(failure) => world.fail(&call, failure),
                None => world.ok(&call, &answer(1800, None)),
            };
        }
        let next = under_way.front().map(|(at, _)| *at);
        let next = next.into_iter().chain(world.schedule.next_at()).min();
        world.now = next.unwrap_or(end).max(world.now + Duration::from_millis(1));
    }
    asked
}

#[test]
fn a_dead_host_of_twenty_thousand_torrents_is_asked_a_few_times_after_a_restart() {
    let asked = asked_after_a_restart(3600, Some(&unreachable()));
    assert!((4..=12).contains(&asked.len()), "{asked:?}");
    // It is given up before the first minute is over.
    assert!(asked.iter().filter(|at| **at < 60).count() <= 4, "{asked:?}");
}

#[test]
fn a_host_that_is_back_hears_of_twenty_thousand_torrents_after_a_restart_at_its_rate() {
    let asked = asked_after_a_restart(600, None);
    assert_eq!(asked.len(), 20_000);
    let mut in_second = HashMap::<u64, u64>::new();
    asked.iter().for_each(|at| *in_second.entry(*at).or_default() += 1);
    assert!(
        in_second.values().all(|count| *count <= PER_SECOND_MAX),
        "{in_second:?}"
    );
}
