//! The schedule against trackers made up here, with a clock that is turned by hand.

mod kept;
mod leaving;
mod reannounce;
mod scrapes;
mod status;

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
