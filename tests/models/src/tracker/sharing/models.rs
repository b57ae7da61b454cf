//! Updates for other trackers: many threads put them in a queue, one task takes them all, and sleeps while there is none.

use super::outbox::{Outbox, Update, What};
use crate::proto::InfoHash;
use crate::sync::{Arc, Condvar, Mutex, explore};
use crate::thread;
use crate::tracker::address::Address;
use std::time::Instant;

/// As tokio's `Notify`: one permit is kept.
#[derive(Default)]
struct Notify {
    permit: Mutex<bool>,
    given: Condvar,
}

impl Notify {
    fn notify_one(&self) {
        *self.permit.lock().unwrap() = true;
        self.given.notify_one();
    }

    fn notified(&self) {
        let permit = self.permit.lock().unwrap();
        *self.given.wait_while(permit, |permit| !*permit).unwrap() = false;
    }
}

#[test]
fn every_update_is_taken_though_only_the_first_wakes_who_takes_them() {
    explore(|| {
        let notify = Arc::new(Notify::default());
        let wake = Arc::clone(&notify);
        let outbox = Arc::new(Outbox::new(Box::new(move || wake.notify_one())));
        let others = [1, 2].map(|number| {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || {
                let update = Update {
                    info_hash: InfoHash([number; 20]),
                    address: Address::V4([127, 0, 0, number, 1, 1]),
                    name: None,
                    what: What::Left,
                    at: Instant::now(),
                    is_first: false,
                };
                assert!(outbox.push(update));
            })
        });
        let (mut taken, mut updates) = (0, Vec::new());
        while taken < 2 {
            notify.notified();
            outbox.take(&mut updates);
            taken += updates.drain(..).count();
        }
        for other in others {
            other.join().unwrap();
        }
    });
}
