//! What requests are answered with.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::proto::bencode::{Limits, scan};
use crate::tracker::{Access, HostnameRule, Settings};

struct World {
    tracker: Tracker,
    worker: Worker,
    now: Instant,
}

/// A response, taken apart.
#[derive(Debug)]
struct Response {
    head: String,
    body: Vec<u8>,
    keep_alive: bool,
}

impl Response {
    fn status(&self) -> u16 {
        let status = self.head.split(' ').nth(1).expect("a status");
        status.parse().expect("a number")
    }

    /// The body, if it is text.
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The failure's reason in the body.
    fn failure(&self) -> String {
        let scanned = scan(&self.body, Limits::MESSAGE).expect("bencode");
        let dict = scanned.value.as_dict().expect("a dictionary");
        let reason = dict.get(b"failure reason").expect("a failure").as_str();
        reason.expect("text").to_owned()
    }
}

/// Takes the first response apart, which must be all there is.
fn read(reply: &[u8], keep_alive: bool) -> Response {
    let end = reply.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(reply[..end].to_vec()).expect("ASCII");
    let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let body = reply[end..].to_vec();
    assert_eq!(len.map(str::parse), Some(Ok(body.len())), "{head}");
    assert!(head.starts_with("HTTP/1.1 "), "{head}");
    assert_eq!(!head.contains("\r\nConnection: close\r\n"), keep_alive, "{head}");
    Response { head, body, keep_alive }
}

impl World {
    fn new(settings: Settings) -> Self {
        let now = Instant::now();
        let tracker = Tracker::new(settings, [5; 32], now);
        let worker = tracker.worker(1);
        Self { tracker, worker, now }
    }

    /// What is answered to these bytes, and how many of them that was for.
    fn raw(&mut self, from: &str, received: &[u8]) -> Option<(Response, usize)> {
        let from = from.parse().expect("an address");
        let mut reply = Vec::new();
        match self
            .tracker
            .on_http(&mut self.worker, from, received, self.now, &mut reply)
        {
            Http::Incomplete => {
                assert!(reply.is_empty());
                None
            }
            Http::Answered { consumed, keep_alive } => Some((read(&reply, keep_alive), consumed)),
        }
    }

    /// The response to a whole request.
    fn send(&mut self, request: &str) -> Response {
        let (response, consumed) = self.raw("10.0.0.1:1000", request.as_bytes()).expect("a response");
        assert_eq!(consumed, request.len());
        response
    }

    /// The response to a GET of this path and query.
    fn get(&mut self, from: &str, target: &str) -> Response {
        let request = format!("GET {target} HTTP/1.1\r\nHost: tracker\r\n\r\n");
        let (response, consumed) = self.raw(from, request.as_bytes()).expect("a response");
        assert_eq!(consumed, request.len());
        response
    }

    /// The body of the answer to an announce for torrent 7.
    fn announce(&mut self, from: &str, rest: &str) -> String {
        let response = self.get(from, &announce(rest));
        assert_eq!(response.status(), 200);
        assert!(
            scan(&response.body, Limits::MESSAGE)
                .expect("bencode")
                .unsorted_at
                .is_none()
        );
        let as_text = response.body.iter().map(|byte| char::from(*byte));
        as_text.collect()
    }

    fn count(&self, kind: Kind, outcome: Outcome) -> u64 {
        self.worker.counts().get(kind, outcome)
    }
}

fn hash(byte: u8) -> String {
    format!("%{byte:02x}").repeat(20)
}

fn announce(rest: &str) -> String {
    format!("/announce?info_hash={}&peer_id=-XX0001-abcdefghijkl&{rest}", hash(7))
}

fn named(entries: &[&str]) -> Settings {
    Settings {
        hostname_allow: HostnameRule::new(entries.iter().copied()).expect("a rule"),
        ..Settings::default()
    }
}

#[test]
fn a_compact_reply_is_the_default() {
    let mut world = World::new(Settings::default());
    assert_eq!(
        world.announce("10.0.0.1:1", "port=6881&left=5&uploaded=0&downloaded=0&event=started"),
        "d8:completei0e11:external ip4:\n\0\0\u{1}10:incompletei1e8:intervali1800e12:min intervali900e5:peers0:e"
    );
    assert_eq!(
        world.announce("10.0.0.2:1", "port=6882&left=0&compact=1"),
        "d8:completei1e11:external ip4:\n\0\0\u{2}10:incompletei1e8:intervali1800e12:min intervali900e\
         5:peers6:\n\0\0\u{1}\u{1a}\u{e1}e"
    );
}

#[test]
fn a_plain_query_is_answered_with_dictionaries_of_address_and_port() {
    let mut world = World::new(named(&["client1"]));
    assert_eq!(
        world.announce("10.0.0.1:1", "port=6881&hostname=client1&event=started"),
        "d8:completei0e10:incompletei1e8:intervali1800e5:peerslee"
    );
    assert_eq!(
        world.announce("10.0.0.2:1", "port=6882&hostname=client2&event=started"),
        "d8:completei0e10:incompletei2e8:intervali1800e5:peersld2:ip7:client14:porti6881eeee"
    );
    // A name that is not allowed is no name: the peer is there by its address.
    assert_eq!(
        world.announce("10.0.0.1:1", "port=6881&hostname=client1"),
        "d8:completei0e10:incompletei2e8:intervali1800e5:peersld2:ip8:10.0.0.24:porti6882eeee"
    );
    assert_eq!(world.tracker.totals().named, 1);
}

#[test]
fn who_says_nothing_of_what_is_left_stays_what_it_was() {
    let mut world = World::new(Settings::default());
    let completed = world.announce("10.0.0.1:1", "port=1&event=completed");
    assert_eq!(completed, "d8:completei1e10:incompletei0e8:intervali1800e5:peerslee");
    assert_eq!(world.announce("10.0.0.1:1", "port=1"), completed);
    assert!(world.announce("10.0.0.1:1", "port=1&left=9").contains("8:completei0e"));
}

#[test]
fn compact_askers_get_the_address_that_a_named_peer_came_from() {
    let mut world = World::new(named(&[".internal"]));
    world.announce("10.0.0.1:1", "port=6881&left=0&hostname=a.internal");
    let reply = world.announce("10.0.0.2:1", "port=1&left=1&compact=1");
    assert!(reply.ends_with("5:peers6:\n\0\0\u{1}\u{1a}\u{e1}e"), "{reply:?}");
    let reply = world.announce("10.0.0.2:1", "port=1&left=1&compact=0&no_peer_id=1");
    assert!(
        reply.ends_with("5:peersld2:ip10:a.internal4:porti6881eeee"),
        "{reply:?}"
    );
}

#[test]
fn a_name_that_comes_from_a_new_address_leaves_the_old_one() {
    let mut world = World::new(named(&["client1"]));
    world.announce("10.0.0.1:1", "port=6881&hostname=client1&event=completed");
    world.announce("10.0.0.9:1", "port=6881&hostname=client1");
    let reply = world.announce("10.0.0.2:1", "port=1&compact=1&left=1");
    assert!(reply.ends_with("5:peers6:\n\0\0\u{9}\u{1a}\u{e1}e"), "{reply:?}");
    // It was a seeder and has said nothing else.
    assert!(
        reply.contains("8:completei1e") && reply.contains("10:incompletei1e"),
        "{reply:?}"
    );
    world.announce("10.0.0.8:1", "port=6881&hostname=client1&left=4");
    let reply = world.announce("10.0.0.2:1", "port=1&compact=1&left=1");
    assert!(
        reply.contains("8:completei0e") && reply.contains("10:incompletei2e"),
        "{reply:?}"
    );
}

#[test]
fn peer_ids_are_told_where_they_are_asked_for_and_known() {
    let mut world = World::new(Settings::default());
    world.announce("10.0.0.1:1", "port=1&left=1&compact=0");
    world.announce("10.0.0.2:1", "port=2&left=1&compact=1");
    let reply = world.announce("10.0.0.3:1", "port=3&left=1&compact=0");
    assert!(
        reply.contains("d2:ip8:10.0.0.17:peer id20:-XX0001-abcdefghijkl4:porti1ee"),
        "{reply}"
    );
    assert!(reply.contains("d2:ip8:10.0.0.24:porti2ee"), "{reply}");
    let reply = world.announce("10.0.0.3:1", "port=3&left=1&compact=0&no_peer_id=1");
    assert!(reply.contains("d2:ip8:10.0.0.14:porti1ee"), "{reply}");
}

#[test]
fn ipv6_peers_are_told_beside_the_others() {
    let mut world = World::new(Settings::default());
    world.announce("[2001:db8::1]:1", "port=6881&left=1");
    world.announce("10.0.0.1:1", "port=6881&left=1");
    let reply = world.announce("10.0.0.2:1", "port=1&left=1");
    assert!(
        reply.contains("5:peers6:\n\0\0\u{1}\u{1a}\u{e1}6:peers618: \u{1}\r\u{b8}"),
        "{reply:?}"
    );
    let reply = world.announce("10.0.0.2:1", "port=1&left=1&compact=0");
    assert!(reply.contains("d2:ip11:2001:db8::14:porti6881ee"), "{reply:?}");
    // To an IPv6 peer its own address is told in sixteen bytes.
    let reply = world.announce("[2001:db8::2]:1", "port=1&left=1");
    assert!(reply.contains("11:external ip16: \u{1}"), "{reply:?}");
    // Both families together are as many as are wanted.
    for port in 10..40 {
        world.announce("[2001:db8::1]:1", &format!("port={port}&left=1"));
        world.announce("10.0.0.1:1", &format!("port={port}&left=1"));
    }
    let response = world.get("10.0.0.2:1", &announce("port=1&left=1&numwant=20"));
    let dict = scan(&response.body, Limits::MESSAGE)
        .expect("bencode")
        .value
        .as_dict()
        .expect("a dictionary");
    let len = |key: &[u8]| dict.get(key).expect("a list").as_bytes().expect("bytes").len();
    assert_eq!(len(b"peers") / 6 + len(b"peers6") / 18, 20);
    assert!(len(b"peers6") > 0 && len(b"peers") > 0);
}

#[test]
fn who_has_stopped_is_gone_and_is_told_nobody() {
    let mut world = World::new(Settings::default());
    world.announce("10.0.0.1:1", "port=1&left=0&event=completed");
    world.announce("10.0.0.2:1", "port=1&left=1");
    let reply = world.announce("10.0.0.2:1", "port=1&left=1&event=stopped");
    assert!(reply.contains("8:completei1e") && reply.contains("10:incompletei0e") && reply.contains("5:peers0:"));
    world.announce("10.0.0.1:1", "port=1&left=0&event=stopped");
    let reply = world.get("10.0.0.1:1", &format!("/scrape?info_hash={}", hash(7)));
    assert!(
        reply
            .body
            .ends_with(b"d8:completei0e10:downloadedi1e10:incompletei0eeee")
    );
}

#[test]
fn an_address_in_the_query_is_believed_from_private_sources_only_where_that_is_set() {
    let kept = |trust_ip, from: &str, ip: &str| {
        let mut world = World::new(Settings {
            trust_ip,
            ..Settings::default()
        });
        world.announce(from, &format!("port=1&ip={ip}"));
        let reply = world.announce("10.9.9.9:1", "port=2");
        let (_, ip) = reply.split_once("2:ip").expect("a peer");
        let (len, ip) = ip.split_once(':').expect("a string");
        ip[..len.parse().expect("a length")].to_owned()
    };
    assert_eq!(kept(false, "10.0.0.1:1", "8.8.4.4"), "10.0.0.1");
    assert_eq!(kept(true, "10.0.0.1:1", "8.8.4.4"), "8.8.4.4");
    assert_eq!(kept(true, "[fd00::1]:1", "2001:db8::5"), "2001:db8::5");
    assert_eq!(kept(true, "9.9.9.9:1", "8.8.4.4"), "9.9.9.9");
    assert_eq!(kept(true, "10.0.0.1:1", "224.0.0.1"), "10.0.0.1");
    assert_eq!(kept(true, "10.0.0.1:1", "client1"), "10.0.0.1");
}

#[test]
fn numwant_is_kept_within_what_is_allowed() {
    let mut world = World::new(Settings {
        numwant_max: 60,
        ..Settings::default()
    });
    for port in 1..=100 {
        world.announce("10.0.0.1:1", &format!("port={port}&left=1"));
    }
    for (numwant, count) in [
        ("0", 0),
        ("7", 7),
        ("-1", 50),
        ("x", 50),
        ("9999999999999999999999", 60),
    ] {
        let reply = world.announce("10.0.0.2:1", &format!("port=1&left=1&numwant={numwant}"));
        assert!(
            reply.contains(&format!("5:peers{}:", count * 6)),
            "{numwant}: {reply:?}"
        );
    }
}

#[test]
fn a_scrape_has_the_torrents_that_are_named_once_and_in_order() {
    let mut world = World::new(Settings::default());
    world.announce("10.0.0.1:1", "port=1&left=0&event=completed");
    world.announce("10.0.0.2:1", "port=1&left=1");
    let response = world.get(
        "10.0.0.1:1",
        &format!(
            "/scrape?info_hash={}&info_hash={}&x=y&info_hash={}",
            hash(0x37),
            hash(7),
            hash(0x37)
        ),
    );
    let seven = "\u{7}".repeat(20);
    let other = "7".repeat(20);
    assert_eq!(
        response.text(),
        format!(
            "d5:filesd20:{seven}d8:completei1e10:downloadedi1e10:incompletei1ee\
             20:{other}d8:completei0e10:downloadedi0e10:incompletei0eeee"
        )
    );
    assert!(response.keep_alive);
}

#[test]
fn there_is_no_scrape_of_everything() {
    let mut world = World::new(Settings::default());
    world.announce("10.0.0.1:1", "port=1");
    for target in ["/scrape", "/scrape?", "/scrape?x=y"] {
        let response = world.get("10.0.0.1:1", target);
        assert_eq!((response.status(), response.keep_alive), (400, false));
        assert_eq!(response.failure(), "info_hash is missing: a scrape names its torrents");
    }
    let response = world.get("10.0.0.1:1", "/scrape?info_hash=short");
    assert_eq!(response.failure(), "info_hash is not 20 bytes");
}

#[test]
fn a_torrent_that_is_not_served_is_refused_and_not_scraped() {
    let mut world = World::new(Settings::default());
    let deny = Some(Arc::new(HashSet::from([InfoHash([7; 20])])));
    world.tracker.set_access(Access {
        deny,
        ..Access::default()
    });
    let response = world.get("10.0.0.1:1", &announce("port=1"));
    assert_eq!(response.failure(), "this torrent is not tracked here");
    assert!(response.keep_alive && response.status() == 200);
    assert_eq!(world.count(Kind::HttpAnnounce, Outcome::Refused), 1);
    let response = world.get("10.0.0.1:1", &format!("/scrape?info_hash={}", hash(7)));
    assert_eq!(response.text(), "d5:filesdee");
}

#[test]
fn who_asks_before_it_is_known_what_is_served_is_told_when_to_come_again() {
    let mut world = World::new(Settings::default());
    let mut access = Access {
        held: Some(Arc::default()),
        is_finding_out: true,
        ..Access::default()
    };
    world.tracker.set_access(access.clone());
    let reply = world.announce("10.0.0.1:1", "port=1");
    let expected = "d14:failure reason59:the tracker has just started and may know this torrent soon8:retry ini1ee";
    assert_eq!(reply, expected);
    access.is_finding_out = false;
    world.tracker.set_access(access);
    let reply = world.announce("10.0.0.1:1", "port=1");
    assert_eq!(reply, "d14:failure reason32:this torrent is not tracked heree");
}

#[test]
fn who_is_refused_for_want_of_memory_is_told_when_to_come_again() {
    let mut world = World::new(Settings {
        memory_max: 0,
        ..Settings::default()
    });
    let reply = world.announce("10.0.0.1:1", "port=1");
    assert_eq!(reply, "d14:failure reason19:the tracker is full8:retry ini5ee");
}

#[test]
fn a_bad_query_is_told_its_reason_and_the_connection_is_closed() {
    let mut world = World::new(Settings::default());
    for (query, reason) in [
        ("port=0", "port is not a number from 1 to 65535"),
        ("", "port is missing"),
        (&*format!("port=1&info_hash={}", hash(7)), "info_hash is there twice"),
    ] {
        let response = world.get("10.0.0.1:1", &announce(query));
        assert_eq!((response.failure().as_str(), response.keep_alive), (reason, false));
    }
    assert_eq!(world.get("10.0.0.1:1", "/announce").failure(), "info_hash is missing");
    assert_eq!(world.count(Kind::HttpAnnounce, Outcome::Bad), 4);
    assert_eq!(world.tracker.totals().swarms, 0);
}

#[test]
fn other_paths_and_methods_are_refused() {
    let mut world = World::new(Settings::default());
    for target in ["/", "/announce/", "/announcex?x", "/stats/x", "*"] {
        let response = world.get("10.0.0.1:1", target);
        assert_eq!((response.status(), response.keep_alive), (404, false), "{target}");
        assert_eq!(response.failure(), "there is /announce, /scrape and /stats");
    }
    for method in ["HEAD", "POST", "PUT", "OPTIONS", "get", "X"] {
        let response = world.send(&format!("{method} /announce HTTP/1.1\r\n\r\n"));
        assert_eq!((response.status(), response.keep_alive), (405, false), "{method}");
        assert!(response.head.contains("\r\nAllow: GET\r\n"));
    }
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_closed() {
    let mut world = World::new(Settings::default());
    for request in [
        "GET /announce\r\n\r\n",
        "GET /announce HTTP/0.9\r\n\r\n",
        "GET /announce HTTP/2.0\r\n\r\n",
        "GET /announce HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET /announce HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        "GET /announce HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n",
        "GET /announce HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "\0\0\x04\x17\x27\x10\x19\x7f",
        "\x16\x03\x01\x02\0\x01\0\x01\x7f\x03\x03",
        "\x13BitTorrent protocol",
    ] {
        let (response, _) = world.raw("10.0.0.1:1", request.as_bytes()).expect("a response");
        assert_eq!((response.status(), response.keep_alive), (400, false), "{request:?}");
        response.failure();
    }
    assert_eq!(world.count(Kind::HttpOther, Outcome::Bad), 10);
}

#[test]
fn a_request_that_has_no_end_is_too_large() {
    let mut world = World::new(Settings::default());
    let endless = format!("GET /announce?{}", "x=y&".repeat(25_000));
    assert!(
        world
            .raw("10.0.0.1:1", &endless.as_bytes()[..REQUEST_LEN_MAX - 1])
            .is_none()
    );
    for len in [REQUEST_LEN_MAX, REQUEST_LEN_MAX + 1, endless.len()] {
        let (response, consumed) = world.raw("10.0.0.1:1", &endless.as_bytes()[..len]).expect("a response");
        assert_eq!((response.status(), response.keep_alive, consumed), (431, false, len));
    }
    let many = format!("GET /stats HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
    let (response, _) = world.raw("10.0.0.1:1", many.as_bytes()).expect("a response");
    assert_eq!(response.status(), 431);
}

#[test]
fn a_connection_is_kept_as_the_version_has_it() {
    let mut world = World::new(Settings::default());
    let target = announce("port=1");
    let mut kept = |version: &str, header: &str| {
        let response = world.send(&format!("GET {target} HTTP/{version}\r\n{header}\r\n"));
        let says = response.head.contains("\r\nConnection: keep-alive\r\n");
        (response.keep_alive, says)
    };
    assert_eq!(kept("1.1", ""), (true, false));
    assert_eq!(kept("1.1", "Connection: Close\r\n"), (false, false));
    assert_eq!(kept("1.1", "connection: x, close\r\n"), (false, false));
    assert_eq!(kept("1.1", "Connection: keep-alive\r\n"), (true, false));
    assert_eq!(kept("1.0", "Connection: Keep-Alive\r\n"), (true, true));
    assert_eq!(
        kept("1.0", "Connection: keep-alive\r\nConnection: close\r\n"),
        (false, false)
    );
    let mut world = World::new(Settings::default());
    let request = format!("GET {target} HTTP/1.0\r\n\r\n");
    assert!(
        !world
            .raw("10.0.0.1:1", request.as_bytes())
            .expect("a response")
            .0
            .keep_alive
    );
}

#[test]
fn requests_that_come_together_are_answered_one_by_one() {
    let mut world = World::new(Settings::default());
    let one = format!("GET {} HTTP/1.1\r\n\r\n", announce("port=1"));
    let two = format!(
        "GET {} HTTP/1.1\r\nConnection: close\r\n\r\n",
        announce("port=2&left=0")
    );
    let both = format!("{one}{two}");
    let (response, consumed) = world.raw("10.0.0.1:1", both.as_bytes()).expect("a response");
    assert_eq!((consumed, response.keep_alive), (one.len(), true));
    let (response, consumed) = world
        .raw("10.0.0.1:1", &both.as_bytes()[consumed..])
        .expect("a response");
    assert_eq!((consumed, response.keep_alive), (two.len(), false));
    assert_eq!(world.tracker.totals().peers_v4, 2);
}

#[test]
fn a_request_that_comes_in_pieces_is_answered_at_its_last_byte() {
    let mut world = World::new(Settings::default());
    let request = format!("GET {} HTTP/1.1\r\nUser-Agent: x\r\n\r\n", announce("port=1"));
    for len in 0..request.len() {
        assert!(world.raw("10.0.0.1:1", &request.as_bytes()[..len]).is_none(), "{len}");
    }
    world.send(&request);
    assert_eq!(world.count(Kind::HttpAnnounce, Outcome::Answered), 1);
}

#[test]
fn there_is_a_page_for_people() {
    let mut world = World::new(named(&["client1"]));
    world.announce("10.0.0.1:1", "port=1&left=0&hostname=client1");
    world.announce("[fd00::1]:1", "port=1&left=9");
    world.now += Duration::from_secs(61);
    let response = world.get("10.0.0.1:1", "/stats");
    let text = response.text();
    assert!(
        text.starts_with("btd tracker, up for 61 s, interval 1800 s\n1 torrent\n"),
        "{text}"
    );
    assert!(
        text.contains("2 peers: 1 seeder, 1 leecher; 1 IPv4, 1 IPv6; 1 by name\n"),
        "{text}"
    );
    assert_eq!(world.count(Kind::HttpStats, Outcome::Answered), 1);
}

#[test]
fn the_page_is_counted_once_a_second_however_often_it_is_asked_for() {
    let mut world = World::new(Settings::default());
    let torrents = |world: &mut World| {
        let page = world.get("10.0.0.1:1", "/stats").text().to_string();
        page.lines().nth(1).map(str::to_owned)
    };
    assert_eq!(torrents(&mut world).as_deref(), Some("0 torrents"));
    world.announce("10.0.0.1:1", "port=1&left=0");
    world.now += Duration::from_millis(999);
    assert_eq!(torrents(&mut world).as_deref(), Some("0 torrents"));
    world.now += Duration::from_millis(1);
    assert_eq!(torrents(&mut world).as_deref(), Some("1 torrent"));
}

#[test]
fn one_response_is_appended_to_what_is_there() {
    let mut world = World::new(Settings::default());
    let mut reply = b"before".to_vec();
    let from = "10.0.0.1:1".parse().expect("an address");
    let request = b"GET /stats HTTP/1.1\r\n\r\nGET /stats HTTP/1.1\r\n\r\n";
    world
        .tracker
        .on_http(&mut world.worker, from, request, world.now, &mut reply);
    assert!(reply.starts_with(b"beforeHTTP/1.1 200 OK\r\n"));
    assert_eq!(reply.windows(8).filter(|eight| eight == b"HTTP/1.1").count(), 1);
}

proptest! {
    #[test]
    fn whatever_comes_is_answered_in_bencode_or_waited_for(
        target in "/(announce|scrape|stats)?[ -~]{0,200}",
        headers in "([A-Za-z-]{1,12}: [ -~]{0,20}\r\n){0,3}",
    ) {
        let rule = HostnameRule::new([".x"]).expect("a rule");
        let mut world = World::new(Settings { hostname_allow: rule, trust_ip: true, ..Settings::default() });
        let request = format!("GET {target} HTTP/1.1\r\n{headers}\r\n");
        if let Some((response, consumed)) = world.raw("10.0.0.1:1", request.as_bytes()) {
            prop_assert!(consumed <= request.len());
            if !target.starts_with("/stats") {
                prop_assert!(scan(&response.body, Limits::MESSAGE).is_ok());
            }
        }
    }

    #[test]
    fn what_is_asked_in_a_query_is_what_is_kept(
        info_hash in prop::array::uniform20(any::<u8>()),
        port in 1_u16..,
        left in any::<u64>(),
    ) {
        let mut world = World::new(Settings::default());
        let escaped: String = info_hash.iter().map(|byte| format!("%{byte:02X}")).collect();
        let target = format!("/announce?port={port}&left={left}&peer_id={}&info_hash={escaped}", hash(1));
        world.get("10.0.0.1:1", &target);
        let response = world.get("10.0.0.2:1", &target);
        let [high, low] = port.to_be_bytes();
        let expected: &[u8] = if left == 0 { b"5:peers0:e" } else { &[b"5:peers6:\n\0\0\x01", &[high, low][..], b"e"].concat() };
        prop_assert!(response.body.ends_with(expected));
        let (complete, incomplete) = if left == 0 { (2, 0) } else { (0, 2) };
        let response = world.get("10.0.0.2:1", &format!("/scrape?info_hash={escaped}"));
        let counts = format!("d8:completei{complete}e10:downloadedi0e10:incompletei{incomplete}eeee");
        let expected = [b"d5:filesd20:", &info_hash[..], counts.as_bytes()].concat();
        prop_assert_eq!(response.body, expected);
    }
}
