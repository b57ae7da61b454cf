//! What is told of each tracker.

use super::*;

/// A tracker by its host: how it does, whether it is being asked, what it said, and when it is asked next.
type Told = (String, Standing, bool, Option<Box<str>>, Option<u64>);

/// Each tracker of the torrent.
fn told(world: &World) -> Vec<Told> {
    let status = world.schedule.status(hash(1), world.now);
    status
        .into_iter()
        .map(|status| {
            let next = status.next.map(|next| next.as_secs());
            (
                status.url.host().to_owned(),
                status.standing,
                status.asking,
                status.text,
                next,
            )
        })
        .collect()
}

fn new(host: &str, next: Option<u64>) -> Told {
    (host.to_owned(), Standing::New, false, None, next)
}

const THREE: &[&[&str]] = &[&["http://a/"], &["http://b/"], &["http://c/"]];

/// The last one's failure was told of the next one, and nothing of all others.
#[test]
fn each_tracker_tells_its_own_state() {
    let mut world = World::new();
    world.add(1, THREE);
    assert_eq!(told(&world), [new("a", Some(0)), new("b", None), new("c", None)]);
    let call = world.next().unwrap();
    let asked = ("a".to_owned(), Standing::New, true, None, None);
    assert_eq!(told(&world)[0], asked, "it is being asked, which is no next time");
    let outcome = world.fail(&call, &refused(Retry::Never));
    assert_eq!(outcome.news, Some(News::Refused("refused: not registered".into())));
    let dead = (
        "a".to_owned(),
        Standing::Dead,
        false,
        Some("refused: not registered".into()),
        None,
    );
    assert_eq!(told(&world), [dead.clone(), new("b", Some(0)), new("c", None)]);
    let call = world.next().unwrap();
    world.fail(&call, &unreachable());
    let asked = world.schedule.reannounce(hash(1), world.now).unwrap();
    assert!(asked.failure.is_some(), "one that was not asked is next: {asked:?}");
    let call = world.next().unwrap();
    world.ok(&call, &answer(1800, None));
    let [a, b, c] = &told(&world)[..] else {
        panic!("three of them")
    };
    assert_eq!(*a, dead);
    // It is asked before the one that works, and that after it if it fails again.
    assert_eq!((b.1, b.3.as_deref()), (Standing::Failing, Some("no answer")));
    assert_eq!((c.1, c.3.as_deref()), (Standing::Working, None));
    let soon = 1500..=1800;
    assert!(b.4.is_some_and(|next| soon.contains(&next)) && c.4.is_some_and(|next| soon.contains(&next)));
    let (_, call) = world.wait();
    assert_eq!(call.url.host(), "b");
    world.ok(&call, &answer(1800, None));
    let [_, b, c] = &told(&world)[..] else {
        panic!("three of them")
    };
    assert_eq!((b.1, b.3.as_deref()), (Standing::Working, None), "it fails no more");
    assert_eq!((c.1, c.4), (Standing::Waiting, None));
}

/// It was told that none of its trackers wants to be asked again.
#[test]
fn torrent_that_waits_for_what_was_asked_before_it_left_is_asked_as_soon_as_that_is_answered() {
    let mut world = World::new();
    world.add(1, THREE);
    let call = world.next().unwrap();
    world.schedule.remove(hash(1), world.now);
    world.add(1, THREE);
    assert!(world.schedule.poll(world.now).is_none(), "it is held");
    let asked = world.schedule.reannounce(hash(1), world.now).unwrap();
    assert_eq!(asked.wait, Some(Duration::ZERO));
    world.ok(&call, &answer(1800, None));
}

#[test]
fn trackers_that_were_never_asked_wait_for_nobody_who_fails() {
    let mut world = World::new();
    world.add(1, THREE);
    let call = world.next().unwrap();
    world.ok(&call, &answer(1800, None));
    let standings = |world: &World| told(world).iter().map(|told| told.1).collect::<Vec<_>>();
    assert_eq!(
        standings(&world),
        [Standing::Working, Standing::Waiting, Standing::Waiting]
    );
    let (_, call) = world.wait();
    assert_eq!(call.url.host(), "a");
    world.fail(&call, &unreachable());
    assert_eq!(standings(&world), [Standing::Failing, Standing::New, Standing::New]);
}

/// It was told to be new.
#[test]
fn tracker_that_had_failed_is_told_of_so_when_its_torrent_comes_back_until_it_is_asked() {
    let mut world = World::new();
    world.add(1, THREE);
    let call = world.next().unwrap();
    world.fail(&call, &refused(Retry::Never));
    let call = world.next().unwrap();
    world.fail(&call, &unreachable());
    for _ in 0..2 {
        world.schedule.remove(hash(1), world.now);
        assert_eq!(told(&world), []);
        world.add(1, THREE);
        let failing = |host: &str, text: &str, next| {
            let text = Some(text.into());
            (host.to_owned(), Standing::Failing, false, text, next)
        };
        let expected = [
            failing("a", "refused: not registered", Some(0)),
            failing("b", "no answer", told(&world)[1].4),
            new("c", None),
        ];
        assert_eq!(told(&world), expected);
    }
    // It is asked anew, as soon as ever.
    let call = world.schedule.poll(world.now).unwrap();
    assert_eq!((call.url.host(), call.event), ("a", Event::Started));
    world.ok(&call, &answer(1800, None));
    assert_eq!(
        (told(&world)[0].1, told(&world)[0].3.as_deref()),
        (Standing::Working, None)
    );
    world.schedule.remove(hash(1), world.now);
    let call = world.next().unwrap();
    assert_eq!(call.event, Event::Stopped);
    world.ok(&call, &answer(1800, None));
    world.add(1, THREE);
    assert_eq!(told(&world)[0].1, Standing::New, "what works has nothing to tell");
}
