//! What datagrams are answered with.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::tracker::{Access, HostnameRule, Settings};

/// No reply.
const NOTHING: [u8; 0] = [];

struct World {
    tracker: Tracker,
    worker: Worker,
    now: Instant,
}

impl World {
    fn new(settings: Settings) -> Self {
        let now = Instant::now();
        let tracker = Tracker::new(settings, [5; 32], now);
        let worker = tracker.worker(1);
        Self { tracker, worker, now }
    }

    fn send(&mut self, from: &str, datagram: &[u8]) -> Vec<u8> {
        let mut reply = vec![0xee; 3];
        let from = from.parse().expect("an address");
        self.tracker
            .on_datagram(&mut self.worker, from, datagram, self.now, &mut reply);
        reply
    }

    fn connect(&mut self, from: &str) -> u64 {
        let reply = self.send(from, &[&PROTOCOL_ID.to_be_bytes()[..], &[0; 4], &[1, 2, 3, 4]].concat());
        assert_eq!((reply.len(), &reply[..8]), (16, &[0, 0, 0, 0, 1, 2, 3, 4][..]));
        u64::from_be_bytes(*reply.last_chunk().expect("an id"))
    }

    /// An announce with a good connection id.
    fn announce(&mut self, from: &str, announce: &Announce<'_>) -> Vec<u8> {
        let id = self.connect(from);
        self.send(from, &announce.datagram(id))
    }

    fn count(&self, kind: Kind, outcome: Outcome) -> u64 {
        self.worker.counts().get(kind, outcome)
    }
}

#[derive(Clone, Copy)]
struct Announce<'a> {
    torrent: u8,
    left: u64,
    event: u32,
    ip: [u8; 4],
    numwant: i32,
    port: u16,
    options: &'a [u8],
}

const LEECHER: Announce<'_> = Announce {
    torrent: 7,
    left: 1000,
    event: 2,
    ip: [0; 4],
    numwant: -1,
    port: 6881,
    options: &[],
};

impl Announce<'_> {
    fn datagram(&self, connection_id: u64) -> Vec<u8> {
        [
            &connection_id.to_be_bytes()[..],
            &1_u32.to_be_bytes(),
            &[9, 8, 7, 6],
            &[self.torrent; 20],
            b"-XX0001-abcdefghijkl",
            &0_u64.to_be_bytes(),
            &self.left.to_be_bytes(),
            &0_u64.to_be_bytes(),
            &self.event.to_be_bytes(),
            &self.ip,
            &[0; 4],
            &self.numwant.to_be_bytes(),
            &self.port.to_be_bytes(),
            self.options,
        ]
        .concat()
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().expect("four bytes"))
}

/// Interval, leechers, seeders, and the peers' bytes of an announce's reply.
fn read(reply: &[u8]) -> (u32, u32, u32, &[u8]) {
    assert_eq!(&reply[..8], &[0, 0, 0, 1, 9, 8, 7, 6]);
    (
        number(&reply[8..]),
        number(&reply[12..]),
        number(&reply[16..]),
        &reply[20..],
    )
}

/// The text of an error's reply.
fn error(reply: &[u8]) -> &str {
    assert_eq!(&reply[..4], &[0, 0, 0, 3]);
    std::str::from_utf8(&reply[8..]).expect("text")
}

#[test]
fn peers_find_each_other_and_leave() {
    let mut world = World::new(Settings::default());
    assert_eq!(read(&world.announce("10.0.0.1:1000", &LEECHER)), (1800, 1, 0, &[][..]));
    let seeder = Announce {
        left: 0,
        port: 51413,
        ..LEECHER
    };
    let reply = world.announce("10.0.0.2:1000", &seeder);
    assert_eq!(read(&reply), (1800, 1, 1, &[10, 0, 0, 1, 0x1a, 0xe1][..]));
    // The leecher completes: of two seeders neither is told of the other.
    let reply = world.announce(
        "10.0.0.1:1000",
        &Announce {
            left: 0,
            event: 1,
            ..LEECHER
        },
    );
    assert_eq!(read(&reply), (1800, 0, 2, &[][..]));
    let reply = world.announce("10.0.0.2:1000", &Announce { event: 3, ..seeder });
    assert_eq!(read(&reply), (1800, 0, 1, &[][..]));
    let reply = world.announce("10.0.0.3:1000", &LEECHER);
    assert_eq!(read(&reply), (1800, 1, 1, &[10, 0, 0, 1, 0x1a, 0xe1][..]));
}

#[test]
fn nothing_is_said_to_who_has_proven_nothing() {
    let mut world = World::new(Settings::default());
    let id = world.connect("10.0.0.1:1000");
    let announce = LEECHER.datagram(id);
    // Of another address, too short, of another protocol, empty, too long.
    assert_eq!(world.send("10.0.0.2:1000", &announce), NOTHING);
    assert_eq!(world.send("10.0.0.1:1000", &announce[..15]), NOTHING);
    assert_eq!(world.send("10.0.0.1:1000", &[]), NOTHING);
    assert_eq!(world.send("10.0.0.1:1000", &[0; 16]), NOTHING);
    assert_eq!(world.send("10.0.0.1:1000", &[0xff; 2048]), NOTHING);
    assert_eq!(world.send("10.0.0.1:1000", &LEECHER.datagram(PROTOCOL_ID)), NOTHING);
    let long = [announce, vec![0; DATAGRAM_LEN_MAX]].concat();
    assert_eq!(world.send("10.0.0.1:1000", &long), NOTHING);
    assert_eq!(world.tracker.totals().swarms, 0);
    assert_eq!(world.count(Kind::UdpAnnounce, Outcome::Dropped), 2);
    assert_eq!(world.count(Kind::UdpOther, Outcome::Dropped), 4);
    assert_eq!(world.count(Kind::UdpConnect, Outcome::Dropped), 1);
}

#[test]
fn a_connection_id_is_good_from_another_port_and_not_for_ever() {
    let mut world = World::new(Settings::default());
    let id = world.connect("10.0.0.1:1000");
    world.now += Duration::from_secs(120);
    assert!(!world.send("10.0.0.1:2000", &LEECHER.datagram(id)).is_empty());
    world.now += Duration::from_secs(120);
    assert!(world.send("10.0.0.1:1000", &LEECHER.datagram(id)).is_empty());
}

#[test]
fn who_has_proven_its_address_is_told_what_is_wrong() {
    let mut world = World::new(Settings::default());
    let id = world.connect("10.0.0.1:1000");
    let reply = world.send("10.0.0.1:1000", &LEECHER.datagram(id)[..97]);
    assert_eq!(
        (error(&reply), &reply[4..8]),
        ("an announce has 98 bytes", &[9, 8, 7, 6][..])
    );
    let reply = world.send("10.0.0.1:1000", &Announce { port: 0, ..LEECHER }.datagram(id));
    assert_eq!(error(&reply), "port 0 is no port");
    let mut other = LEECHER.datagram(id);
    other[11] = 9;
    assert_eq!(error(&world.send("10.0.0.1:1000", &other)), "unknown action");
    other[11] = 2;
    assert_eq!(
        error(&world.send("10.0.0.1:1000", &other[..35])),
        "a scrape names a torrent"
    );
    assert_eq!(world.count(Kind::UdpAnnounce, Outcome::Bad), 2);
    assert_eq!(world.tracker.totals().swarms, 0);
}

#[test]
fn replies_have_as_many_peers_as_are_wanted_and_allowed() {
    let mut world = World::new(Settings {
        numwant_max: 120,
        ..Settings::default()
    });
    for port in 1..=300 {
        world.announce("10.0.0.1:1000", &Announce { port, ..LEECHER });
    }
    for (numwant, count) in [(0, 0), (1, 1), (80, 80), (-1, 50), (i32::MIN, 50), (i32::MAX, 120)] {
        let reply = world.announce("10.0.0.2:1000", &Announce { numwant, ..LEECHER });
        assert_eq!(read(&reply).3.len(), 6 * count, "{numwant}");
    }
}

#[test]
fn no_reply_is_so_long_that_it_would_be_cut() {
    let mut world = World::new(Settings {
        numwant_max: 10_000,
        ..Settings::default()
    });
    for port in 1..=500 {
        world.announce("[2001:db8::1]:1000", &Announce { port, ..LEECHER });
        world.announce("10.0.0.1:1000", &Announce { port, ..LEECHER });
    }
    let announce = Announce {
        numwant: i32::MAX,
        ..LEECHER
    };
    for from in ["[2001:db8::2]:1000", "10.0.0.2:1000"] {
        let reply = world.announce(from, &announce);
        assert!((1200..=REPLY_LEN_MAX).contains(&reply.len()), "{}", reply.len());
    }
}

#[test]
fn a_reply_has_the_family_of_its_socket() {
    let mut world = World::new(Settings::default());
    world.announce("[2001:db8::1]:1000", &LEECHER);
    world.announce("10.0.0.1:1000", &LEECHER);
    let reply = world.announce("10.0.0.2:1000", &LEECHER);
    assert_eq!(read(&reply), (1800, 3, 0, &[10, 0, 0, 1, 0x1a, 0xe1][..]));
    // A socket for both families says an IPv4 address so.
    let reply = world.announce("[::ffff:10.0.0.2]:1000", &LEECHER);
    assert_eq!(read(&reply).3, [10, 0, 0, 1, 0x1a, 0xe1]);
    let reply = world.announce("[2001:db8::2]:1000", &LEECHER);
    let (_, leechers, _, peers) = read(&reply);
    assert_eq!(
        (leechers, peers.len(), &peers[..4]),
        (4, 18, &[0x20, 0x01, 0x0d, 0xb8][..])
    );
}

#[test]
fn an_address_in_the_datagram_is_believed_from_private_sources_only_where_that_is_set() {
    let said = Announce {
        ip: [8, 8, 4, 4],
        ..LEECHER
    };
    let kept = |trust_ip, from: &str| -> [u8; 4] {
        let mut world = World::new(Settings {
            trust_ip,
            ..Settings::default()
        });
        world.announce(from, &said);
        let reply = world.announce("10.9.9.9:1", &LEECHER);
        *read(&reply).3.first_chunk().expect("a peer")
    };
    assert_eq!(kept(false, "10.0.0.1:1"), [10, 0, 0, 1]);
    assert_eq!(kept(true, "10.0.0.1:1"), [8, 8, 4, 4]);
    assert_eq!(kept(true, "9.9.9.9:1"), [9, 9, 9, 9]);
}

#[test]
fn a_scrape_has_the_counts_of_each_torrent_in_order() {
    let mut world = World::new(Settings::default());
    world.announce(
        "10.0.0.1:1",
        &Announce {
            left: 0,
            event: 1,
            ..LEECHER
        },
    );
    world.announce("10.0.0.2:1", &LEECHER);
    let id = world.connect("10.0.0.1:1");
    let header = [&id.to_be_bytes()[..], &[0, 0, 0, 2], &[4, 3, 2, 1]].concat();
    let reply = world.send("10.0.0.1:1", &[&header[..], &[1; 20], &[7; 20], &[0; 11]].concat());
    let expected = [[2_u32, 0x0403_0201].as_slice(), &[0, 0, 0], &[1, 1, 1]].concat();
    assert_eq!(
        reply,
        expected
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect::<Vec<_>>()
    );
    // As many as fit.
    let reply = world.send("10.0.0.1:1", &[&header[..], &[7; 20 * 90]].concat());
    assert_eq!(reply.len(), 8 + 12 * 74);
}

#[test]
fn a_torrent_that_is_not_served_is_refused_and_scraped_as_nothing() {
    let mut world = World::new(Settings::default());
    world.announce("10.0.0.1:1", &LEECHER);
    let deny = Some(Arc::new(HashSet::from([InfoHash([7; 20])])));
    world.tracker.set_access(Access {
        deny,
        ..Access::default()
    });
    assert_eq!(
        error(&world.announce("10.0.0.1:1", &LEECHER)),
        "this torrent is not tracked here"
    );
    assert_eq!(world.count(Kind::UdpAnnounce, Outcome::Refused), 1);
    let id = world.connect("10.0.0.1:1");
    let reply = world.send(
        "10.0.0.1:1",
        &[&id.to_be_bytes()[..], &[0, 0, 0, 2], &[0; 4], &[7; 20]].concat(),
    );
    assert_eq!(reply[8..], [0; 12]);
    world.tracker.set_access(Access::default());
    assert_eq!(read(&world.announce("10.0.0.1:1", &LEECHER)).1, 1);
}

#[test]
fn a_torrent_that_may_be_served_soon_is_refused_for_now() {
    let mut world = World::new(Settings::default());
    let held = Some(Arc::default());
    world.tracker.set_access(Access {
        held,
        is_finding_out: true,
        ..Access::default()
    });
    assert_eq!(
        error(&world.announce("10.0.0.1:1", &LEECHER)),
        "the tracker has just started, try again in a minute"
    );
}

#[test]
fn a_full_tracker_says_so() {
    let mut world = World::new(Settings {
        memory_max: 0,
        ..Settings::default()
    });
    assert_eq!(
        error(&world.announce("10.0.0.1:1", &LEECHER)),
        "the tracker is full, try again later"
    );
    assert_eq!(world.count(Kind::UdpAnnounce, Outcome::Refused), 1);
}

#[test]
fn options_are_skipped_and_a_url_may_name_the_host() {
    let rule = HostnameRule::new(["client2"]).expect("a rule");
    let mut world = World::new(Settings {
        hostname_allow: rule,
        ..Settings::default()
    });
    let mut named = |options: &[u8]| {
        let reply = world.announce("10.0.0.2:1", &Announce { options, ..LEECHER });
        assert_eq!(read(&reply).1, 1);
        world.tracker.totals().named
    };
    let url = |parts: [&[u8]; 2]| {
        let option = |data: &[u8]| [&[OPTION_URL_DATA, data.len() as u8][..], data].concat();
        [
            &[OPTION_NOP, 77, 2, 0, 0][..],
            &option(parts[0]),
            &option(parts[1]),
            &[OPTION_END, 2],
        ]
        .concat()
    };
    assert_eq!(named(&url([b"/announce?hostn", b"ame=client2&x"])), 1);
    assert_eq!(named(&url([b"/announce?hostn", b"ame=client3&x"])), 0);
    assert_eq!(named(&url([b"/announce?hostn", b"ame=client2"])), 1);
    assert_eq!(named(&[OPTION_URL_DATA, 200, b'/']), 0);
    assert_eq!(named(&[OPTION_URL_DATA]), 0);
    assert_eq!(named(&[]), 0);
}

proptest! {
    #[test]
    fn no_reply_to_an_unproven_source_is_longer_than_what_it_sent(
        datagram in prop::collection::vec(any::<u8>(), 0..200),
        action in 0_u8..5,
        connect in any::<bool>(),
    ) {
        let mut world = World::new(Settings::default());
        let mut datagram = datagram;
        if connect && datagram.len() >= 16 {
            datagram[..8].copy_from_slice(&PROTOCOL_ID.to_be_bytes());
            datagram[8..12].copy_from_slice(&[0, 0, 0, action]);
        }
        let reply = world.send("10.0.0.1:1", &datagram);
        prop_assert!(reply.len() <= datagram.len());
        prop_assert!(reply.is_empty() || reply.len() == 16);
    }

    #[test]
    fn what_a_proven_source_sends_has_a_reply_that_fits(
        rest in prop::collection::vec(any::<u8>(), 4..400),
        action in 1_u8..5,
    ) {
        let rule = HostnameRule::new([".x"]).expect("a rule");
        let mut world = World::new(Settings { hostname_allow: rule, ..Settings::default() });
        let id = world.connect("10.0.0.1:1");
        let datagram = [&id.to_be_bytes()[..], &[0, 0, 0, action], &rest].concat();
        let reply = world.send("10.0.0.1:1", &datagram);
        prop_assert!((8..=REPLY_LEN_MAX).contains(&reply.len()));
        prop_assert_eq!(&reply[4..8], &rest[..4]);
    }
}
