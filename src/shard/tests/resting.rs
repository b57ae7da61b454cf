//! Torrents that rest, and peers that want them.

use std::sync::Mutex;

use super::*;
use crate::shard::deadlines::HANDSHAKE_TICKS;
use crate::shard::wheel::TICK;

/// A shard that serves nothing and knows one torrent that rests; and which torrents it asks for.
fn resting() -> (Fixture, Arc<Mutex<Vec<InfoHash>>>) {
    let mut fixture = Fixture::single(300_000, 8);
    let asked: Arc<Mutex<Vec<InfoHash>>> = Arc::default();
    let told = Arc::clone(&asked);
    fixture.shard.settings.events = Events::new(move |event| {
        if let Event::Asked(info_hash) = event {
            told.lock().unwrap().push(info_hash);
        }
    });
    let info_hash = fixture.torrent.info_hash();
    fixture.shard.remove(info_hash);
    fixture.shard.settings.resting.insert(info_hash);
    (fixture, asked)
}

fn tell(fixture: &mut Fixture, command: Command) {
    fixture.commands.send(command).unwrap();
    fixture.world.ring();
    fixture.settle();
}

#[test]
fn peers_of_a_torrent_that_rests_wait_until_it_is_there_and_it_is_asked_for_once() {
    let (mut fixture, asked) = resting();
    let (mut one, mut other) = (fixture.far(FAST), fixture.far(PLAIN));
    fixture.settle();
    // What they say meanwhile is not lost.
    fixture.say(&one, &Message::HaveNone);
    fixture.say(&one, &Message::Interested);
    fixture.say(&other, &Message::Interested);
    fixture.settle();
    for far in [&mut one, &mut other] {
        fixture.hear(far);
        assert!(
            far.handshake.is_empty(),
            "nothing is said before it is known what there is"
        );
    }
    assert_eq!(*asked.lock().unwrap(), [fixture.torrent.info_hash()]);
    let torrent = fixture.torrent.clone();
    tell(&mut fixture, Command::Add(torrent));
    for far in [&mut one, &mut other] {
        fixture.hear(far);
        assert!(far.said.contains(&"Unchoke".to_owned()), "{:?}", far.said);
        fixture.download(far);
    }
    assert!(fixture.shard.waiting.is_empty());
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[test]
fn peers_of_a_torrent_that_is_not_as_it_was_are_turned_away_and_the_next_asks_again() {
    let (mut fixture, asked) = resting();
    fixture.far(FAST);
    fixture.settle();
    let info_hash = fixture.torrent.info_hash();
    tell(&mut fixture, Command::Refuse(info_hash));
    assert_eq!(fixture.drops(), ["unknown_info_hash"]);
    assert!(fixture.shard.waiting.is_empty());
    fixture.far(FAST);
    fixture.settle();
    assert_eq!(asked.lock().unwrap().len(), 2);
}

#[test]
fn nobody_waits_for_a_torrent_that_nobody_knows() {
    let (mut fixture, asked) = resting();
    fixture.shard.settings.resting.remove(fixture.torrent.info_hash());
    fixture.far(FAST);
    fixture.settle();
    assert_eq!(fixture.drops(), ["unknown_info_hash"]);
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn whoever_waits_longer_than_a_handshake_may_take_is_let_go() {
    let (mut fixture, asked) = resting();
    fixture.far(FAST);
    fixture.settle();
    fixture.pass((TICK * HANDSHAKE_TICKS as u32).as_secs_f64() - 1.0);
    assert!(fixture.drops().is_empty());
    fixture.pass(1.2);
    assert_eq!(fixture.drops(), ["handshake_timeout"]);
    assert!(fixture.shard.waiting.is_empty());
    fixture.far(FAST);
    fixture.settle();
    assert_eq!(asked.lock().unwrap().len(), 2, "it is asked for again");
}

#[test]
fn whoever_says_too_much_while_he_waits_is_let_go() {
    let (mut fixture, _) = resting();
    let far = fixture.far(FAST);
    fixture.settle();
    for _ in 0..80 {
        fixture.world.write(far.id, &[0; 1024]);
        fixture.settle();
    }
    assert_eq!(fixture.drops(), ["reply_flood"]);
    assert!(fixture.shard.waiting.is_empty());
}

#[test]
fn torrent_is_let_go_only_when_nobody_is_connected_for_it() {
    let (mut fixture, asked) = resting();
    let (torrent, info_hash) = (fixture.torrent.clone(), fixture.torrent.info_hash());
    tell(&mut fixture, Command::Add(torrent.clone()));
    let mut far = fixture.unchoked(FAST);
    fixture.download(&mut far);
    tell(&mut fixture, Command::Rest(info_hash));
    assert!(fixture.shard.torrents.contains_key(&info_hash), "a peer is connected");
    tell(&mut fixture, Command::Add(torrent));
    fixture.say(&far, &Message::KeepAlive);
    fixture.settle();
    assert!(fixture.drops().is_empty(), "to be told of it again ends nothing");
    fixture.world.close(far.id);
    fixture.settle();
    fixture.pass(0.2);
    tell(&mut fixture, Command::Rest(info_hash));
    assert!(!fixture.shard.torrents.contains_key(&info_hash));
    assert_eq!(Arc::strong_count(&fixture.torrent), 1, "nothing of it is kept");
    assert!(asked.lock().unwrap().is_empty());
    fixture.far(FAST);
    fixture.settle();
    assert_eq!(*asked.lock().unwrap(), [info_hash]);
}
