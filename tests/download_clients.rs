//! btd downloads from other people's clients: from each alone, and from all of them at once, when none of them can give all.

mod support;

use support::btd::Config;
use support::client::Client;
use support::leech::{Leech, files, wait_for_metric};
use support::payload::Payload;
use support::private_net::{self, SEED};
use support::process::Process;
use support::relays::{LEAD, Relays};
use support::scratch::Scratch;
use support::skip;
use support::torrent::Torrent;

/// A payload and its torrent.
fn lone(name: &str) -> (Scratch, Payload, Torrent) {
    let scratch = Scratch::new(name);
    let data = scratch.dir("data");
    let payload = Payload::make(&data, "folder", 5, &files());
    let torrent = Torrent::create(&payload.path(), 64 << 10, scratch.path().join("t.torrent"));
    (scratch, payload, torrent)
}

#[test]
fn other_peoples_clients_are_downloaded_from() {
    private_net::run("other_peoples_clients_are_downloaded_from", || {
        let (scratch, payload, torrent) = lone("from-clients");
        for client in Client::ALL {
            if let Some(why) = client.missing() {
                return skip(&why);
            }
            // Transmission 3.00 makes no file for a file of no bytes, and does not miss one either.
            let (_process, addr) = client.seed(scratch.path(), &torrent, &payload.data_dir);
            let config = Config {
                listen: SEED,
                peers: vec![addr],
                ..Config::default()
            };
            let leech = Leech::start(&scratch, &format!("from-{client:?}"), &torrent, config);
            leech.check(&payload);
            leech.btd.stop();
        }
    });
}

/// The fastest would give everything before the slowest lets anybody ask: so none is let get ahead of the others by much.
#[test]
fn all_clients_at_once_are_downloaded_from_and_each_of_them_gives_its_part() {
    private_net::run(
        "all_clients_at_once_are_downloaded_from_and_each_of_them_gives_its_part",
        || {
            let (scratch, payload, torrent) = lone("from-all-clients");
            let mut seeders: Vec<(Process, _)> = Vec::new();
            for client in Client::ALL {
                if let Some(why) = client.missing() {
                    return skip(&why);
                }
                seeders.push(client.seed(scratch.path(), &torrent, &payload.data_dir));
            }
            let addrs: Vec<_> = seeders.iter().map(|(_, addr)| *addr).collect();
            let relays = Relays::start(SEED, &addrs);
            let config = Config {
                listen: SEED,
                peers: relays.addrs.clone(),
                ..Config::default()
            };
            let leech = Leech::start(&scratch, "from-all", &torrent, config);
            leech.check(&payload);
            let len = payload.len();
            wait_for_metric(&leech.btd, "btd_downloaded_bytes_total", |bytes| bytes >= len as f64);
            assert_eq!(leech.btd.metric("btd_peers_banned_total"), 0.0);
            let given = relays.given();
            println!("{:?} gave {given:?} of {len} bytes", Client::ALL);
            // Were it less, the others together could not have given the rest.
            let others = given.len() as u64 - 1;
            let least = (len - others * LEAD) / (others + 1);
            assert!(
                given.iter().all(|given| *given >= least),
                "{given:?}: less than {least} bytes"
            );
            leech.btd.stop();
        },
    );
}
