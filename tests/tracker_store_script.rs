//! A tracker whose shared store says what no redis-server can be brought to say at the right moment: refusals, silence, the end
//! of the connection in the middle, answers that are out of date when they come.

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use support::btd::Btd;
use support::scratch::Scratch;
use support::scripted_store::{Answer, ScriptedStore, message, page, published};
use support::shared_tracker::{HASH, OTHER, announce, config, counts, counts_within, key, logged, start, wait_up};
use support::{wait_for, within};

/// The score of a seeder that was heard of just now, by a tracker with the interval that is the default.
fn score_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let expires = now.expect("after 1970") + Duration::from_secs(3600);
    u64::try_from(expires.as_millis()).expect("a moment") * 2 + 1
}

/// Port 2222 of 127.0.0.`host`.
fn address(host: u8) -> [u8; 6] {
    [127, 0, 0, host, 8, 174]
}

/// What stands for it in a set.
fn member(host: u8) -> Vec<u8> {
    [&[4][..], &address(host)].concat()
}

fn is_look_up_of(command: &[Vec<u8>], hash: &[u8; 20]) -> bool {
    command[0] == b"ZRANGE" && command[1] == key(hash)
}

fn dropped(btd: &Btd, what: &str) -> f64 {
    btd.metric(&format!("btd_tracker_store_dropped_total{{what=\"{what}\"}}"))
}

#[test]
fn who_has_left_is_told_again_if_the_connection_ends_before_the_store_has_said_yes() {
    let scratch = Scratch::new("script-left");
    let lost = AtomicBool::new(false);
    let store = ScriptedStore::start(move |command| {
        if command[0] == b"ZREM" && !lost.swap(true, Relaxed) {
            return Answer::End;
        }
        Answer::Usual
    });
    let btd = start(&scratch.dir("a"), &store.url());
    announce(&btd, &HASH, 2, 2222, "&left=0");
    wait_for("it is told", within(5), || {
        (store.count("ZADD", &member(2)) > 0).then_some(())
    });
    announce(&btd, &HASH, 2, 2222, "&left=0&event=stopped");
    wait_for("the store is told again", within(10), || {
        (store.count("ZREM", &member(2)) == 2).then_some(())
    });
    assert_eq!(store.connections(), 2);
    // And so are the others: the record of a peer that has left looks like the member of one that is there.
    wait_for("the others are told", within(5), || {
        (store.count("PUBLISH", &member(2)) > 0).then_some(())
    });
    btd.stop();
}

#[test]
fn a_store_that_refuses_everything_is_away_until_it_does_not() {
    let scratch = Scratch::new("script-refuses");
    let refusal = Arc::new(Mutex::new(Some("LOADING Redis is loading the dataset in memory")));
    let said = Arc::clone(&refusal);
    let store = ScriptedStore::start(move |command| match *said.lock().expect("nobody panicked") {
        Some(text) if !matches!(command[0].as_slice(), b"HELLO" | b"CLIENT" | b"SUBSCRIBE") => {
            Answer::Say(format!("-{text}\r\n").into_bytes())
        }
        Some(_) | None => Answer::Usual,
    });
    let btd = Btd::start(&scratch.dir("a"), &config(&store.url(), ""));
    for text in [
        "LOADING Redis is loading the dataset in memory",
        "READONLY You can't write against a read only replica.",
    ] {
        *refusal.lock().expect("nobody panicked") = Some(text);
        // Something that cannot be told now.
        announce(&btd, &HASH, 2, 2222, "&left=0");
        announce(&btd, &HASH, 3, 2222, "&left=0&event=stopped");
        wait_up(&btd, false);
        let connections = store.connections();
        wait_for("it is tried twice more", within(20), || {
            assert_eq!(btd.metric("btd_tracker_store_up"), 0.0, "{text}");
            (store.connections() >= connections + 2).then_some(())
        });
        let away = format!("is away: it refuses everything: {text}");
        wait_for("it is said once", within(5), || {
            (logged(&btd, &away) == 1).then_some(())
        });
        let told = store.count("ZREM", &member(3)) + store.count("EVAL", &member(3));
        *refusal.lock().expect("nobody panicked") = None;
        wait_up(&btd, true);
        wait_for("what was refused is told", within(5), || {
            (store.count("ZREM", &member(3)) + store.count("EVAL", &member(3)) > told).then_some(())
        });
    }
    assert_eq!(counts(&btd, &HASH), [1, 0, 0]);
    btd.stop();
}

#[test]
fn a_store_whose_channel_may_not_be_heard_is_away() {
    let scratch = Scratch::new("script-channel");
    let may = Arc::new(AtomicBool::new(false));
    let is_allowed = Arc::clone(&may);
    let store = ScriptedStore::start(move |command| match command[0].as_slice() {
        b"SUBSCRIBE" if !is_allowed.load(Relaxed) => {
            Answer::Say(b"-NOPERM No permissions to access a channel\r\n".to_vec())
        }
        _ => Answer::Usual,
    });
    let btd = Btd::start(&scratch.dir("a"), &config(&store.url(), ""));
    announce(&btd, &HASH, 2, 2222, "&left=0");
    wait_for("it is tried three times", within(20), || {
        assert_eq!(btd.metric("btd_tracker_store_up"), 0.0);
        (store.connections() >= 3).then_some(())
    });
    assert_eq!(logged(&btd, "is away: "), 1);
    assert_eq!(logged(&btd, "No permissions to access a channel"), 1);
    assert_eq!(logged(&btd, "is there"), 0);
    assert_eq!(store.count("ZADD", b""), 0, "nothing is told where nothing is heard");
    may.store(true, Relaxed);
    wait_up(&btd, true);
    wait_for("it is told", within(5), || {
        (store.count("ZADD", &member(2)) > 0).then_some(())
    });
    btd.stop();
}

#[test]
fn torrents_are_looked_up_again_when_messages_were_dropped() {
    let scratch = Scratch::new("script-dropped");
    let is_known = Arc::new(AtomicBool::new(false));
    let (is_there, look_ups) = (Arc::clone(&is_known), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&look_ups);
    let store = ScriptedStore::start(move |command| {
        if !is_look_up_of(command, &HASH) {
            return Answer::Usual;
        }
        counted.fetch_add(1, Relaxed);
        match is_there.load(Relaxed) {
            true => Answer::Say(page(&[(&member(9), score_now())])),
            false => Answer::Usual,
        }
    });
    let btd = start(&scratch.dir("a"), &store.url());
    announce(&btd, &HASH, 2, 2222, "&left=5");
    wait_for("it is looked up", within(5), || {
        (look_ups.load(Relaxed) == 1).then_some(())
    });
    // Somebody has announced elsewhere, and the message about it was among those for which there was no room.
    is_known.store(true, Relaxed);
    let flood: Vec<u8> = (0..4000_u16)
        .flat_map(|port| {
            let [high, low] = (port + 1).to_be_bytes();
            published(&message(&OTHER, 0, [127, 0, 0, 3, high, low], 0))
        })
        .collect();
    let since = Instant::now();
    wait_for("there are too many messages", within(20), || {
        store.say(&flood);
        (dropped(&btd, "received") > 0.0).then_some(())
    });
    counts_within(Duration::from_secs(20), &btd, &HASH, [1, 1, 0]);
    let rounds = look_ups.load(Relaxed) - 1;
    assert!(
        rounds as u64 <= 1 + since.elapsed().as_secs() / 5,
        "{rounds} rounds in {:?}",
        since.elapsed()
    );
    btd.stop();
}

#[test]
fn who_has_left_elsewhere_while_a_look_up_found_it_is_gone() {
    let scratch = Scratch::new("script-page");
    let store = ScriptedStore::start(|command| {
        if command[0] != b"ZRANGE" {
            return Answer::Usual;
        }
        // The answer and what has happened since, which arrive together.
        let digits = command[1].strip_prefix(b"btd:swarm:").expect("a torrent's key");
        let digits = std::str::from_utf8(digits).expect("hexadecimal");
        let hash = std::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..][..2], 16).expect("two digits"));
        let left = published(&message(&hash, 4, address(9), 0));
        Answer::Say([page(&[(&member(9), score_now())]), left].concat())
    });
    let btd = start(&scratch.dir("a"), &store.url());
    let hashes: Vec<[u8; 20]> = (1..=30).map(|n| [n; 20]).collect();
    for hash in &hashes {
        announce(&btd, hash, 2, 2222, "&left=5");
        // Each alone, so that there are as many chances to get it wrong.
        wait_for("both are taken in", within(5), || {
            (btd.metric("btd_tracker_store_received_total") >= 2.0 * f64::from(hash[0])).then_some(())
        });
    }
    for hash in &hashes {
        assert_eq!(counts(&btd, hash), [0, 1, 0], "torrent {}", hash[0]);
    }
    btd.stop();
}

#[test]
fn who_has_left_here_while_a_look_up_found_it_is_gone() {
    let scratch = Scratch::new("script-page-here");
    let (asked, goes_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (is_asked, may_go_on) = (Arc::clone(&asked), Arc::clone(&goes_on));
    let store = ScriptedStore::start(move |command| {
        if !is_look_up_of(command, &HASH) {
            return Answer::Usual;
        }
        is_asked.store(true, Relaxed);
        wait_for("the test goes on", within(4), || may_go_on.load(Relaxed).then_some(()));
        Answer::Say(page(&[(&member(2), score_now()), (&member(9), score_now())]))
    });
    let btd = start(&scratch.dir("a"), &store.url());
    announce(&btd, &HASH, 2, 2222, "&left=0");
    wait_for("it is looked up", within(4), || asked.load(Relaxed).then_some(()));
    announce(&btd, &HASH, 2, 2222, "&left=0&event=stopped");
    goes_on.store(true, Relaxed);
    wait_for("it is told that it has left", within(5), || {
        (store.count("ZREM", &member(2)) > 0).then_some(())
    });
    assert_eq!(counts(&btd, &HASH), [1, 0, 0], "the other one that was found");
    btd.stop();
}

#[test]
fn what_was_announced_last_is_told_before_btd_ends() {
    let scratch = Scratch::new("script-stop");
    let store = ScriptedStore::start(|_| Answer::Usual);
    let btd = start(&scratch.dir("a"), &store.url());
    announce(&btd, &OTHER, 2, 2222, "&left=0");
    wait_for("it is told", within(5), || {
        (store.count("ZADD", &member(2)) > 0).then_some(())
    });
    announce(&btd, &OTHER, 2, 2222, "&left=0&event=stopped");
    announce(&btd, &HASH, 3, 2222, "&left=0&event=completed");
    btd.stop();
    for (name, part) in [
        ("ZREM", member(2)),
        ("ZADD", member(3)),
        ("ZINCRBY", key(&HASH)),
        ("PUBLISH", member(2)),
        ("PUBLISH", address(3).to_vec()),
    ] {
        assert!(store.count(name, &part) > 0, "{name} {part:?}");
    }
}

#[test]
fn a_store_that_says_nothing_holds_up_no_stop() {
    let scratch = Scratch::new("script-hang");
    let is_silent = Arc::new(AtomicBool::new(false));
    let silence = Arc::clone(&is_silent);
    let store = ScriptedStore::start(move |_| match silence.load(Relaxed) {
        true => Answer::Nothing,
        false => Answer::Usual,
    });
    let home = scratch.dir("a");
    let btd = start(&home, &store.url());
    is_silent.store(true, Relaxed);
    announce(&btd, &HASH, 2, 2222, "&left=0&event=stopped");
    let begun = Instant::now();
    btd.stop();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let log = std::fs::read_to_string(home.join("btd.log")).expect("its log");
    assert!(
        log.contains("the tracker's store does not take what was announced last"),
        "{log}"
    );
}
