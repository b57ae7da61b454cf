//! The schedule against trackers made up here, with a clock that is turned by hand.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::super::answer::Retry;
use super::super::bucket::PER_SECOND_MAX;
use super::*;

const UNIX: u64 = 1_800_000_000;

/// A schedule and its clock.
struct World {
    schedule: Schedule,
    now: Instant,
    start: Instant,
}

fn url(text: &str) -> Arc<TrackerUrl> {
    Arc::new(TrackerUrl::parse(text).unwrap())
}

fn tiers(tiers: &[&[&str]]) -> Vec<Vec<Arc<TrackerUrl>>> {
    tiers
        .iter()
        .map(|tier| tier.iter().map(|text| url(text)).collect())
        .collect()
}

fn hash(number: u32) -> InfoHash {
    let mut hash = [0; 20];
    hash[..4].copy_from_slice(&number.to_be_bytes());
    InfoHash(hash)
}

fn answer(interval: i64, min_interval: Option<i64>) -> Answer {
    Answer {
        interval: Some(interval),
        min_interval,
        ..Answer::default()
    }
}

fn unreachable() -> Failure {
    Failure::Unreachable("no answer".into())
}

fn refused(retry: Retry) -> Failure {
    let reason = "not registered".into();
    Failure::Refused { reason, retry }
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            schedule: Schedule::new(7, now),
            now,
            start: now,
        }
    }

    fn add(&mut self, number: u32, lists: &[&[&str]]) {
        self.schedule
            .add((hash(number), 0), &tiers(lists), false, (&[], UNIX), self.now);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// The next announce, whenever that is; time passes until then.
    fn next(&mut self) -> Option<Call> {
        loop {
            if let Some(call) = self.schedule.poll(self.now) {
                return Some(call);
            }
            // Nobody answers scrapes here: they have tests of their own.
            if let Some(call) = self.schedule.poll_scrape(self.now) {
                self.schedule.on_scraped(&call, Err(&unreachable()), self.now);
                continue;
            }
            let at = self.schedule.next_at()?;
            assert!(at > self.now, "it is due and not given");
            self.now = at;
        }
    }

    /// How many seconds pass until the next announce, and that.
    fn wait(&mut self) -> (u64, Call) {
        let from = self.now;
        let call = self.next().expect("an announce");
        ((self.now - from).as_secs(), call)
    }

    fn ok(&mut self, call: &Call, answer: &Answer) -> Outcome {
        self.schedule.on_answer(call, Ok(answer), self.now).unwrap()
    }

    fn fail(&mut self, call: &Call, failure: &Failure) -> Outcome {
        self.schedule.on_answer(call, Err(failure), self.now).unwrap()
    }
}

const ONE: &[&[&str]] = &[&["http://one/announce"]];

#[test]
fn a_torrent_is_started_then_announced_at_the_interval_and_stopped() {
    let mut world = World::new();
    world.add(1, ONE);
    let (after, call) = world.wait();
    assert_eq!((after, call.event, call.info_hash), (0, Event::Started, hash(1)));
    let outcome = world.ok(&call, &answer(1000, None));
    assert_eq!(outcome.news, Some(News::Working { swarm: None }));
    for _ in 0..20 {
        let (after, call) = world.wait();
        assert_eq!(call.event, Event::Regular);
        assert!((880..=980).contains(&after), "{after}");
        assert_eq!(world.ok(&call, &answer(1000, None)).news, None);
    }
    world.schedule.remove(hash(1), world.now);
    let (after, call) = world.wait();
    assert_eq!((after, call.event), (0, Event::Stopped));
    let outcome = world.ok(&call, &answer(1000, None));
    assert!(outcome.stopped_told && !outcome.stays);
    assert!(world.schedule.is_empty() && world.next().is_none());
    assert!(world.schedule.trackers.is_empty() && world.schedule.hosts.is_empty());
}

#[test]
fn intervals_are_kept_within_bounds_and_min_interval_is_obeyed() {
    for (interval, min_interval, from, to) in [
        (Some(0), None, 60, 60),
        (Some(-1), None, 60, 60),
        (Some(i64::MIN), Some(i64::MIN), 60, 60),
        (Some(i64::MAX), None, 19_008, 21_168),
        (None, None, 1584, 1764),
        (Some(100), Some(100), 100, 100),
        (Some(100), Some(500), 500, 500),
        (Some(100), Some(i64::MAX), 21_600, 21_600),
    ] {
        let mut world = World::new();
        world.add(1, ONE);
        let call = world.next().unwrap();
        let said = Answer {
            interval,
            min_interval,
            ..Answer::default()
        };
        world.ok(&call, &said);
        let (after, _) = world.wait();
        assert!((from..=to).contains(&after), "{interval:?} {min_interval:?}: {after}");
    }
}

#[test]
fn completed_is_told_at_once_and_once_and_after_started() {
    let mut world = World::new();
    world.add(1, ONE);
    let call = world.next().unwrap();
    // It completes while it is being announced for the first time.
    world.schedule.completed(hash(1), world.now);
    assert_eq!((call.event, world.next().is_none()), (Event::Started, true));
    assert!(!world.ok(&call, &answer(1000, Some(1000))).completed_told);
    let (after, call) = world.wait();
    assert_eq!((after, call.event), (0, Event::Completed));
    // What fails is told again.
    assert!(!world.fail(&call, &unreachable()).completed_told);
    let (_, call) = world.wait();
    assert_eq!(call.event, Event::Completed);
    assert!(world.ok(&call, &answer(1000, None)).completed_told);
    let (after, call) = world.wait();
    assert!(after >= 880 && call.event == Event::Regular);
}

#[test]
fn completed_is_told_when_both_lists_have_heard() {
    let mut world = World::new();
    for (list, of) in [(0, "http://a/"), (1, "http://b/")] {
        world
            .schedule
            .add((hash(1), list), &tiers(&[&[of]]), true, (&[], UNIX), world.now);
    }
    let mut told = Vec::new();
    for _ in 0..4 {
        let call = world.next().unwrap();
        let outcome = world.ok(&call, &answer(1800, None));
        told.push((call.event, outcome.completed_told));
    }
    told.retain(|(event, _)| *event == Event::Completed);
    assert_eq!(told, [(Event::Completed, false), (Event::Completed, true)]);
}

#[test]
fn tiers_are_tried_in_order_and_the_tracker_that_answers_is_the_first_of_its_own() {
    let mut world = World::new();
    world.add(1, &[&["http://a/", "http://b/", "http://c/"], &["http://d/"]]);
    let mut first: Vec<String> = Vec::new();
    for _ in 0..3 {
        let (after, call) = world.wait();
        assert_eq!((after, call.event), (0, Event::Started));
        first.push(call.url.host().to_owned());
        world.fail(&call, &unreachable());
    }
    first.sort();
    assert_eq!(first, ["a", "b", "c"]);
    let (_, call) = world.wait();
    assert_eq!(call.url.host(), "d");
    world.ok(&call, &answer(1800, None));
    // The first tier is tried again before the second. The one that answers is told that we start there.
    let (_, call) = world.wait();
    assert!(call.event == Event::Started && call.url.host() != "d");
    let stays = call.url.host().to_owned();
    world.ok(&call, &answer(1800, None));
    for _ in 0..5 {
        let call = world.next().unwrap();
        assert_eq!((call.event, call.url.host()), (Event::Regular, &*stays));
        world.ok(&call, &answer(1800, None));
    }
}

#[test]
fn the_order_within_a_tier_is_random_and_a_tracker_is_there_once() {
    let mut firsts = HashSet::new();
    for seed in 0..50 {
        let mut schedule = Schedule::new(seed, Instant::now());
        let list = tiers(&[&["http://a/", "http://b/", "http://a/"], &["http://a/"]]);
        schedule.add((hash(1), 0), &list, false, (&[], UNIX), Instant::now());
        assert_eq!(schedule.jobs[0].places.len(), 2);
        firsts.insert(schedule.poll(Instant::now()).unwrap().url);
    }
    assert_eq!(firsts.len(), 2);
}

#[test]
fn failures_put_a_tracker_off_longer_and_longer_up_to_six_hours() {
    let mut world = World::new();
    world.add(1, ONE);
    let mut before = 0;
    for failures in 1..=20_u32 {
        let (after, call) = world.wait();
        let nominal = if failures == 1 {
            0
        } else {
            (30 << (failures - 2).min(12)).min(21_600)
        };
        // After three in a row the host rests by itself, and both have their jitter.
        assert!(
            after <= 21_600 && after as f64 >= nominal as f64 * 0.76,
            "{failures}: {after}"
        );
        assert!(after as f64 >= before as f64 * 0.75);
        before = after;
        world.fail(&call, &unreachable());
    }
    let (after, call) = world.wait();
    assert!(after > 16_000, "{after}");
    world.ok(&call, &answer(1800, None));
    let call = world.next().unwrap();
    world.fail(&call, &unreachable());
    let (after, _) = world.wait();
    assert!((26..=34).contains(&after), "it begins anew: {after}");
}

#[test]
fn what_could_not_be_sent_is_no_failure_of_the_tracker() {
    let mut world = World::new();
    world.add(1, ONE);
    for _ in 0..20 {
        let call = world.next().unwrap();
        assert_eq!(world.fail(&call, &Failure::Busy).news, None);
        let (after, call) = world.wait();
        assert!((9..=13).contains(&after), "{after}");
        world.fail(&call, &Failure::Busy);
    }
    assert!(world.schedule.hosts.iter().all(|(_, host)| !host.is_proven()));
}

#[test]
fn a_refusal_rests_as_long_as_the_tracker_says() {
    for (retry, from, to) in [
        (Retry::Unsaid, 300, 375),
        (Retry::After(Duration::from_secs(7200)), 7200, 7650),
        (Retry::After(Duration::ZERO), 60, 64),
        (Retry::After(Duration::MAX), 86_400, 91_800),
    ] {
        let mut world = World::new();
        world.add(1, ONE);
        let call = world.next().unwrap();
        let outcome = world.fail(&call, &refused(retry));
        assert_eq!(outcome.news, Some(News::Failing("refused: not registered".into())));
        let (after, call) = world.wait();
        assert!((from..=to).contains(&after), "{retry:?}: {after}");
        // The same again is no news.
        assert_eq!(world.fail(&call, &refused(retry)).news, None);
    }
    let mut world = World::new();
    world.add(1, ONE);
    let call = world.next().unwrap();
    let outcome = world.fail(&call, &refused(Retry::Never));
    assert_eq!(outcome.news, Some(News::Dead("refused: not registered".into())));
    assert!(world.next().is_none());
    world.pass(1_000_000);
    assert_eq!(world.schedule.overdue(world.now), 0);
    assert_eq!(world.schedule.status(hash(1), world.now)[0].standing, Standing::Dead);
    world.schedule.remove(hash(1), world.now);
    assert!(world.schedule.is_empty());
}

#[test]
fn a_dead_host_costs_a_thousand_torrents_few_requests_and_the_next_tier_has_them() {
    let mut world = World::new();
    for number in 0..1000 {
        world.add(number, &[&["http://dead/"], &["http://alive/"]]);
    }
    let (mut dead, mut alive, mut taken) = (0, HashSet::new(), Duration::ZERO);
    // The dead one takes half a minute each time.
    let mut hanging: VecDeque<(Instant, Call)> = VecDeque::new();
    while alive.len() < 1000 {
        while let Some(call) = world.schedule.poll(world.now) {
            if call.url.host() == "dead" {
                dead += 1;
                hanging.push_back((world.now + Duration::from_secs(30), call));
            } else {
                world.ok(&call, &answer(1800, None));
                alive.insert(call.info_hash);
                taken = world.now - world.start;
            }
        }
        let next = [world.schedule.next_at(), hanging.front().map(|(at, _)| *at)];
        world.now = next
            .into_iter()
            .flatten()
            .min()
            .expect("something to wait for")
            .max(world.now);
        while let Some((_, call)) = hanging.pop_front_if(|(at, _)| *at <= world.now) {
            world.fail(&call, &unreachable());
        }
    }
    assert!(dead <= 6, "{dead} requests to a host that is dead");
    assert!(
        taken < Duration::from_secs(120),
        "{taken:?}, {dead} requests to the dead one"
    );
}

#[test]
fn twenty_thousand_torrents_on_three_hosts_are_each_announced_within_their_interval() {
    let mut world = World::new();
    let hosts = ["http://a/", "http://b/", "http://c/"];
    for number in 0..20_000 {
        world.add(number, &[&[hosts[number as usize % 3]]]);
    }
    let mut sent: HashMap<String, VecDeque<Instant>> = HashMap::new();
    let mut last: HashMap<InfoHash, Instant> = HashMap::new();
    let end = world.now + Duration::from_secs(3 * 1800);
    while let Some(call) = world.next().filter(|_| world.now < end) {
        let of_host = sent.entry(call.url.host().to_owned()).or_default();
        of_host.push_back(world.now);
        while of_host
            .pop_front_if(|at| *at + Duration::from_secs(1) <= world.now)
            .is_some()
        {}
        assert!(of_host.len() as u64 <= PER_SECOND_MAX);
        if let Some(before) = last.insert(call.info_hash, world.now) {
            assert!(
                world.now - before <= Duration::from_secs(1800),
                "{:?}",
                world.now - before
            );
        }
        world.ok(&call, &answer(1800, None));
        assert_eq!(world.schedule.in_flight(), 0);
    }
    assert_eq!(last.len(), 20_000);
    assert!(last.values().all(|at| end - *at <= Duration::from_secs(1800)));
    assert_eq!(world.schedule.overdue(world.now), 0);
}

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

#[test]
fn what_libraries_quote_of_a_tracker_is_clean() {
    let mut world = World::new();
    world.add(1, ONE);
    let call = world.next().unwrap();
    let outcome = world.fail(&call, &Failure::Unreachable("TLS: \x1b[31mred\x07".into()));
    assert_eq!(outcome.news, Some(News::Failing("TLS: red".into())));
    assert_eq!(
        world.schedule.status(hash(1), world.now)[0].text.as_deref(),
        Some("TLS: red")
    );
}

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

#[test]
fn what_cannot_be_asked_for_too_long_is_overdue() {
    let mut world = World::new();
    world.add(1, ONE);
    assert_eq!(world.schedule.overdue(world.now), 0);
    world.pass(61);
    assert_eq!(world.schedule.overdue(world.now), 1);
    let call = world.next().unwrap();
    world.ok(&call, &answer(1800, None));
    assert_eq!(world.schedule.overdue(world.now), 0);
}

#[test]
fn what_rests_after_failures_is_not_overdue() {
    let mut world = World::new();
    world.add(1, ONE);
    for _ in 0..8 {
        let call = world.next().unwrap();
        world.fail(&call, &unreachable());
    }
    world.pass(120);
    assert!(world.schedule.poll(world.now).is_none());
    assert_eq!(world.schedule.overdue(world.now), 0);
}

#[test]
fn a_tracker_id_is_sent_to_the_tracker_that_gave_it() {
    let mut world = World::new();
    world.add(1, &[&["http://a/"], &["http://b/"]]);
    let call = world.next().unwrap();
    let with_id = Answer {
        tracker_id: Some(b"x".as_slice().into()),
        ..Answer::default()
    };
    world.ok(&call, &with_id);
    let call = world.next().unwrap();
    assert_eq!(call.tracker_id.as_deref(), Some(b"x".as_slice()));
    world.fail(&call, &unreachable());
    let call = world.next().unwrap();
    assert_eq!((call.url.host(), call.tracker_id), ("b", None));
}

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

#[test]
fn a_hundred_thousand_torrents_take_little_memory() {
    assert!(
        size_of::<Job>() <= 200 && size_of::<Place>() <= 24,
        "{} {}",
        size_of::<Job>(),
        size_of::<Place>()
    );
}

proptest! {
    /// Whatever trackers do, in any order: requests are never more than allowed, nothing is lost, and all ends.
    #[test]
    fn whatever_happens_everything_stays_in_step(
        steps in proptest::collection::vec((0..9_u8, 0..6_u32, 0..400_u64), 1..200),
        seed: u64,
    ) {
        let mut world = World::new();
        world.schedule = Schedule::new(seed, world.now);
        let lists: [&[&[&str]]; 3] = [ONE, &[&["http://a/", "udp://a:1"], &["http://one/announce"]], &[&["http://a/"], &["http://c/"]]];
        let mut calls: Vec<Call> = Vec::new();
        let mut scrapes: Vec<ScrapeCall> = Vec::new();
        for (step, number, amount) in steps {
            match step {
                0 => world.add(number, lists[number as usize % 3]),
                1 => world.schedule.remove(hash(number), world.now),
                2 => world.schedule.completed(hash(number), world.now),
                3 => world.pass(amount),
                4 => while let Some(call) = world.schedule.poll(world.now) { calls.push(call) },
                7 => while let Some(call) = world.schedule.poll_scrape(world.now) { scrapes.push(call) },
                8 if !scrapes.is_empty() => {
                    let call = scrapes.swap_remove(number as usize % scrapes.len());
                    let swarm = Some(Swarm { seeders: number, leechers: 1 });
                    let swarms: Vec<Option<Swarm>> = call.hashes.iter().map(|_| swarm.filter(|_| amount % 3 > 0)).collect();
                    match amount % 5 {
                        0 => world.schedule.on_scraped(&call, Err(&unreachable()), world.now),
                        _ => world.schedule.on_scraped(&call, Ok(&swarms), world.now),
                    }
                }
                5 | 6 if !calls.is_empty() => {
                    let call = calls.swap_remove(number as usize % calls.len());
                    match (step, amount % 4) {
                        (5, _) => { world.ok(&call, &answer(amount as i64 * 10, None)); }
                        (_, 0) => { world.fail(&call, &refused(Retry::Never)); }
                        (_, 1) => { world.fail(&call, &refused(Retry::Unsaid)); }
                        _ => { world.fail(&call, &unreachable()); }
                    }
                    prop_assert!(world.schedule.on_answer(&call, Err(&unreachable()), world.now).is_none());
                }
                _ => {}
            }
            prop_assert_eq!(world.schedule.in_flight(), calls.len());
            prop_assert_eq!(world.schedule.scrapes_in_flight, scrapes.len());
            let jobs = world.schedule.jobs.iter();
            let known = jobs.filter_map(|(_, job)| job.swarm).fold(Swarms::default(), |sum, swarm| Swarms {
                known: sum.known + 1,
                seeders: sum.seeders + u64::from(swarm.seeders),
                leechers: sum.leechers + u64::from(swarm.leechers),
            });
            prop_assert_eq!(world.schedule.swarms(), known);
            let counted = world.schedule.jobs.iter().filter(|(_, job)| job.scrape_at.is_some());
            for (key, job) in counted {
                prop_assert!(!job.leaving && job.told != job::NONE);
                let at = (job.scrape_at.unwrap(), key as u32);
                prop_assert!(world.schedule.trackers[job.told as usize].scrapes.has(at));
            }
            prop_assert_eq!(world.schedule.trials, world.schedule.jobs.iter().filter(|(_, job)| job.in_flight && job.is_trial).count());
            // A tracker never hears of a torrent from two at once.
            let mut asked = HashSet::new();
            let under_way = world.schedule.jobs.iter().filter(|(_, job)| job.in_flight);
            for (_, job) in under_way {
                prop_assert!(asked.insert((job.info_hash, job.places[job.at].url)));
            }
            let waiting: usize = world.schedule.hosts.iter().map(|(_, host)| host.queue.len()).sum();
            let jobs = world.schedule.jobs.iter();
            let expected = jobs.filter(|(_, job)| !job.in_flight && !job.held && (job.leaving || job.places.iter().any(|place| !place.dead))).count();
            prop_assert_eq!(waiting, expected);
        }
        world.schedule.remove_all(Duration::from_secs(3), world.now);
        let given_up = world.schedule.give_up(world.now);
        calls.retain(|call| !given_up.contains(&call.id));
        prop_assert_eq!(world.schedule.in_flight(), calls.len());
        while let Some(call) = calls.pop().or_else(|| world.next()) {
            world.ok(&call, &Answer::default());
        }
        prop_assert!(world.schedule.is_empty() && world.schedule.hosts.is_empty() && world.schedule.wakes.is_empty());
        prop_assert!(world.schedule.leaving_of.is_empty());
        prop_assert!(world.schedule.trial_wakes.is_empty() && world.schedule.trials == 0);
        prop_assert!(world.schedule.scrape_wakes.is_empty());
    }
}

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
