//! A message of another tracker is taken in as a whole or refused as a whole; and whoever is told all that is known then knows
//! the same peers.

#![no_main]

use std::time::Instant;

use btd_fuzz::tracker::sharing::{Batch, Cursor, MESSAGE_LEN_MAX, encode};
use btd_fuzz::tracker::{HostnameRule, Settings, Tracker};
use libfuzzer_sys::fuzz_target;

const SELF: [u8; 16] = [1; 16];
const OTHER: [u8; 16] = [2; 16];

fn tracker(now: Instant) -> Tracker {
    let settings = Settings {
        hostname_allow: HostnameRule::new([".internal", "client1"]).expect("a rule"),
        ..Settings::default()
    };
    Tracker::new(settings, [1; 32], now)
}

fuzz_target!(|input: &[u8]| {
    let now = Instant::now();
    let heard = tracker(now);
    let mut worker = heard.worker(1);
    let learnt = heard.learn_message(&mut worker, &SELF, input, now);
    let totals = heard.totals();
    let Ok(learnt) = learnt else {
        assert_eq!(totals.swarms, 0, "a part of it was taken in");
        return;
    };
    let peers = totals.peers_v4 + totals.peers_v6;
    assert!(input.len() <= MESSAGE_LEN_MAX && peers as u64 <= learnt.taken && totals.named <= peers);

    let (mut cursor, mut batch, mut done) = (Cursor::default(), Batch::default(), Vec::new());
    while heard.tell_known(&mut worker, &mut cursor, 1000, &mut batch, &mut done, now) {}
    assert_eq!((batch.len(), done.len()), (peers, totals.swarms));
    let unit = u32::try_from(heard.time_of_age(1).as_millis()).expect("a unit");
    let told = tracker(now);
    let mut worker = told.worker(1);
    for message in encode(&batch, &OTHER, unit) {
        assert!(message.len() <= MESSAGE_LEN_MAX);
        let learnt = told.learn_message(&mut worker, &SELF, &message, now).expect("a message of our own");
        assert_eq!((learnt.bad, learnt.refused), (0, 0));
    }
    let again = told.totals();
    assert_eq!(
        (again.peers_v4, again.peers_v6, again.seeders, again.named),
        (totals.peers_v4, totals.peers_v6, totals.seeders, totals.named)
    );
});
