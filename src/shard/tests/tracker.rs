//! The tracker's side of a shard: deadlines, ends, slow readers, caps, datagrams.

use std::net::IpAddr;

use super::*;
use crate::io::Handle;
use crate::shard::tracker::{Served, Service, Sockets};
use crate::tracker::{self, Kind, Outcome as Ended, Tracker};

/// A shard with a tracker.
struct Site {
    fixture: Fixture,
    http: Handle,
    udp: Handle,
    limits: Arc<Limits>,
    served: Arc<Served>,
}

const CAPS: Caps = Caps {
    connections: 6,
    per_torrent: usize::MAX,
    per_ip: 4,
};

fn site() -> Site {
    let mut fixture = Fixture::single(1000, 4);
    let tracker = Tracker::new(tracker::Settings::default(), [7; 32], fixture.now.get());
    let limits = Arc::new(Limits::new(CAPS));
    let served = Arc::<Served>::default();
    fixture.shard.settings.tracker = Some(Service {
        tracker: Arc::new(tracker),
        limits: Arc::clone(&limits),
        served: Arc::clone(&served),
    });
    let (http, udp) = (fixture.shard.driver.handle(), fixture.shard.driver.handle());
    fixture.shard.open_tracker(Sockets {
        udp: vec![udp.clone()],
        http: vec![http.clone()],
    });
    Site {
        fixture,
        http,
        udp,
        limits,
        served,
    }
}

fn announce(port: u16, version: &str, more: &str) -> String {
    format!(
        "GET /announce?info_hash={}&peer_id=-XX0001-far-far-far-&port={port}&left=0&compact=1 {version}\r\nHost: t\r\n{more}\r\n",
        "%aa".repeat(20)
    )
}

impl Site {
    fn connect(&mut self, last: u8) -> u64 {
        let port = self.fixture.next_port.get() + 1;
        self.fixture.next_port.set(port);
        let peer = SocketAddr::from(([10, 0, 0, last], port));
        let id = self.fixture.world.connect_to(&self.http, peer);
        self.fixture.settle();
        id
    }

    fn say(&mut self, id: u64, text: &str) {
        self.fixture.world.write(id, text.as_bytes());
        self.fixture.settle();
    }

    fn hear(&self, id: u64) -> String {
        String::from_utf8_lossy(&self.fixture.world.read(id)).into_owned()
    }

    /// How many answers that are right were heard.
    fn hear_answers(&self, id: u64) -> usize {
        let heard = self.hear(id);
        assert!(!heard.contains("failure"), "{heard}");
        heard.matches("HTTP/1.1 200 OK").count()
    }

    fn ended(&self, id: u64) -> Option<Ending> {
        self.fixture.world.ended(id)
    }

    fn connections(&self) -> u64 {
        self.fixture.shard.counters.tracker_connections_now
    }

    fn announces(&self) -> u64 {
        self.served.counts().get(Kind::HttpAnnounce, Ended::Answered)
    }
}

#[test]
fn whole_request_is_answered_and_the_connection_kept_for_the_next() {
    let mut site = site();
    let id = site.connect(1);
    for count in 1..=3 {
        site.say(id, &announce(1000 + count, "HTTP/1.1", ""));
        assert_eq!(site.hear_answers(id), 1);
    }
    assert_eq!(site.ended(id), None);
    site.fixture.pass(0.2);
    assert_eq!((site.connections(), site.announces()), (1, 3));
}

#[test]
fn request_that_is_to_be_the_last_is_answered_and_the_connection_closed() {
    for (version, more) in [("HTTP/1.0", ""), ("HTTP/1.1", "Connection: close\r\n")] {
        let mut site = site();
        let id = site.connect(1);
        site.say(id, &announce(1000, version, more));
        assert!(site.hear(id).contains("8:completei1e"));
        assert_eq!(site.ended(id), Some(Ending::Orderly));
        site.fixture.pass(0.2);
        assert_eq!(site.connections(), 0);
        // On a connection that was kept first, the end is heard before the socket is closed.
        let id = site.connect(1);
        site.say(id, &announce(1000, "HTTP/1.1", ""));
        site.say(id, &announce(1000, version, more));
        assert!(site.fixture.world.finished(id));
        assert_eq!(site.ended(id), None);
        site.say(id, "what nobody asked for");
        site.fixture.world.close(id);
        site.fixture.settle();
        assert_eq!(site.ended(id), Some(Ending::Orderly));
    }
}

#[test]
fn peer_that_does_not_take_the_end_of_a_connection_is_not_waited_for() {
    let mut site = site();
    let id = site.connect(1);
    site.say(id, &announce(1000, "HTTP/1.1", ""));
    site.say(id, &announce(1000, "HTTP/1.0", ""));
    site.fixture.pass(1.8);
    assert_eq!(site.ended(id), None);
    site.fixture.pass(0.3);
    assert_eq!(site.ended(id), Some(Ending::Reset));
    // Nor is one that goes on talking.
    let id = site.connect(1);
    site.say(id, &announce(1000, "HTTP/1.1", ""));
    site.say(id, &announce(1000, "HTTP/1.0", ""));
    site.say(id, &"x".repeat(70_000));
    assert_eq!(site.ended(id), Some(Ending::Reset));
}

#[test]
fn request_is_answered_however_it_is_torn() {
    let request = announce(1000, "HTTP/1.1", "User-Agent: torn\r\n");
    let mut site = site();
    let id = site.connect(1);
    for cut in 1..request.len() {
        site.say(id, &request[..cut]);
        assert_eq!(site.hear(id), "", "cut at {cut}");
        site.say(id, &request[cut..]);
        assert_eq!(site.hear_answers(id), 1, "cut at {cut}");
    }
}

#[test]
fn pipelined_requests_are_all_answered_in_order() {
    let mut site = site();
    let id = site.connect(1);
    let requests: String = (0..40).map(|port| announce(1000 + port, "HTTP/1.1", "")).collect();
    // And a torn one behind them.
    let last = announce(2000, "HTTP/1.1", "");
    site.say(id, &format!("{requests}{}", &last[..30]));
    assert_eq!(site.hear_answers(id), 40);
    site.say(id, &last[30..]);
    assert_eq!(site.hear_answers(id), 1);
    // Behind a last one nothing is answered.
    site.say(id, &format!("{}{last}", announce(1, "HTTP/1.0", "")));
    assert_eq!(site.hear_answers(id), 1);
}

#[test]
fn trickling_request_has_five_seconds_and_no_more() {
    let mut site = site();
    let request = announce(1000, "HTTP/1.1", "");
    let fresh = site.connect(1);
    let kept = site.connect(2);
    site.say(kept, &request);
    assert_eq!(site.hear_answers(kept), 1);
    for (tenth, byte) in (0..).zip(request.bytes()) {
        for id in [fresh, kept] {
            if site.ended(id).is_none() {
                site.fixture.world.write(id, &[byte]);
            }
        }
        site.fixture.pass(0.1);
        if tenth == 45 {
            assert_eq!((site.ended(fresh), site.ended(kept)), (None, None));
        }
        if tenth == 52 {
            break;
        }
    }
    assert_eq!(
        (site.ended(fresh), site.ended(kept)),
        (Some(Ending::Reset), Some(Ending::Reset))
    );
    assert_eq!(site.fixture.shard.counters.tracker_timeouts, 2);
    assert_eq!(site.connections(), 0);
}

#[test]
fn silent_connection_has_the_same_time() {
    let mut site = site();
    let id = site.connect(1);
    site.fixture.pass(4.9);
    assert_eq!(site.ended(id), None);
    site.fixture.pass(0.3);
    assert_eq!(site.ended(id), Some(Ending::Reset));
}

#[test]
fn idle_connection_is_kept_for_a_minute_after_its_last_request() {
    let mut site = site();
    let id = site.connect(1);
    let mut waited = 0.0;
    for _ in 0..3 {
        site.say(id, &announce(1000, "HTTP/1.1", ""));
        assert_eq!(site.hear_answers(id), 1);
        for _ in 0..5 {
            site.fixture.pass(10.0);
            waited += 10.0;
        }
        assert_eq!(site.ended(id), None, "after {waited} s");
    }
    site.fixture.pass(9.0);
    assert_eq!(site.ended(id), None);
    site.fixture.pass(1.5);
    assert_eq!(site.ended(id), Some(Ending::Orderly));
    assert_eq!(site.fixture.shard.counters.tracker_timeouts, 0);
}

#[test]
fn who_reads_slowly_is_answered_as_he_reads_and_holds_a_bounded_amount() {
    let mut site = site();
    let id = site.connect(1);
    site.say(id, &announce(1, "HTTP/1.1", ""));
    assert_eq!(site.hear_answers(id), 1);
    site.fixture.world.set_room(id, Some(0));
    let request = announce(1000, "HTTP/1.1", "");
    let asked = 200;
    for _ in 0..asked {
        site.say(id, &request);
    }
    assert_eq!(site.ended(id), None);
    let in_time = site.announces();
    site.fixture.pass(0.1);
    assert!(site.announces() < 50, "{} answered, {in_time} before", site.announces());
    let mut heard = String::new();
    for room in (1..20_000).map(|i| i * 37 % 900) {
        site.fixture.world.set_room(id, Some(room));
        site.fixture.turn();
        heard += &site.hear(id);
        if heard.matches("HTTP/1.1 200 OK").count() == asked && heard.ends_with('e') {
            break;
        }
    }
    assert_eq!(heard.matches("HTTP/1.1 200 OK").count(), asked);
    site.fixture.pass(0.2);
    assert_eq!((site.ended(id), site.announces()), (None, 1 + asked as u64));
}

#[test]
fn who_takes_a_reply_byte_by_byte_has_a_minute_for_it() {
    let mut site = site();
    let id = site.connect(1);
    site.fixture.world.set_room(id, Some(0));
    site.say(id, &announce(1000, "HTTP/1.1", ""));
    for second in 0..59 {
        site.fixture.world.set_room(id, Some(1));
        site.fixture.pass(1.0);
        assert_eq!(site.ended(id), None, "after {second} s");
    }
    site.fixture.world.set_room(id, Some(1));
    site.fixture.pass(1.5);
    assert_eq!(site.ended(id), Some(Ending::Reset));
    site.fixture.pass(0.2);
    assert_eq!(site.connections(), 0);
}

#[test]
fn who_takes_nothing_is_given_up_and_so_is_who_floods() {
    let mut site = site();
    let id = site.connect(1);
    site.fixture.world.set_room(id, Some(0));
    site.say(id, &announce(1000, "HTTP/1.1", ""));
    for _ in 0..29 {
        site.fixture.pass(1.0);
    }
    assert_eq!(site.ended(id), None);
    site.fixture.pass(1.5);
    assert_eq!(site.ended(id), Some(Ending::Reset));
    let id = site.connect(1);
    site.fixture.world.set_room(id, Some(0));
    site.say(id, &announce(1000, "HTTP/1.1", ""));
    // All in one turn, before the receive can end.
    site.say(id, &"x".repeat(300_000));
    assert_eq!(site.ended(id), Some(Ending::Reset));
    // What waits for a reply to be taken is bounded, and the rest stays in the socket.
    let id = site.connect(1);
    site.fixture.world.set_room(id, Some(0));
    site.say(id, &announce(1000, "HTTP/1.1", ""));
    for _ in 0..20 {
        site.say(id, &"x".repeat(2000));
    }
    site.fixture.pass(0.2);
    assert_eq!((site.ended(id), site.connections()), (None, 1));
    let id = site.connect(1);
    site.say(id, &announce(1, "HTTP/1.1", ""));
    site.fixture.world.set_room(id, Some(0));
    site.say(id, &announce(1, "HTTP/1.1", ""));
    site.say(id, &"x".repeat(140_000));
    assert_eq!(site.ended(id), Some(Ending::Reset));
}

#[test]
fn request_of_who_then_ends_his_half_is_answered() {
    let mut site = site();
    let id = site.connect(1);
    site.fixture.world.write(id, announce(1000, "HTTP/1.1", "").as_bytes());
    site.fixture.world.close(id);
    site.fixture.settle();
    assert_eq!(site.hear_answers(id), 1);
    assert_eq!(site.ended(id), Some(Ending::Orderly));
    // A half of a request is none.
    let id = site.connect(1);
    site.say(id, "GET /ann");
    site.fixture.world.close(id);
    site.fixture.settle();
    assert_eq!(site.hear(id), "");
    assert_eq!(site.ended(id), Some(Ending::Orderly));
}

#[test]
fn what_is_no_request_is_answered_with_a_failure_and_closed() {
    for junk in [
        "POST /announce HTTP/1.1\r\nHost: t\r\n\r\n",
        "GET /announce HTTP/1.1\r\nHost: t\r\n\r\n",
        "\r\r\r\r\n\n\n\n",
    ] {
        let mut site = site();
        let id = site.connect(1);
        site.say(id, junk);
        let heard = site.hear(id);
        assert!(heard.starts_with("HTTP/1.1 "), "{junk:?}: {heard:?}");
        assert!(site.ended(id).is_some() || site.fixture.world.finished(id), "{junk:?}");
    }
    // A header without end: 431, once.
    let mut site = site();
    let id = site.connect(1);
    site.say(id, &format!("GET /announce?x={} HTTP/1.1\r\n", "x".repeat(10_000)));
    assert!(site.hear(id).starts_with("HTTP/1.1 431 "));
    site.say(id, &"x".repeat(20_000));
    site.fixture.world.close(id);
    site.fixture.settle();
    assert_eq!(site.ended(id), Some(Ending::Orderly));
}

#[test]
fn caps_are_the_trackers_own_and_places_are_given_back() {
    let mut site = site();
    let same: Vec<u64> = (0..5).map(|_| site.connect(1)).collect();
    assert_eq!(site.ended(same[4]), Some(Ending::Reset), "per address");
    let (a, b) = (site.connect(2), site.connect(3));
    assert_eq!((site.ended(a), site.ended(b)), (None, None));
    let full = site.connect(4);
    assert_eq!(site.ended(full), Some(Ending::Reset), "in all");
    assert_eq!(site.fixture.shard.counters.tracker_turned_away, 2);
    // Peers have theirs.
    let mut far = site.fixture.unchoked(FAST);
    site.fixture.download(&mut far);
    site.fixture.world.close(a);
    site.fixture.settle();
    let again = site.connect(4);
    assert_eq!(site.ended(again), None);
    for id in [same[0], same[1], same[2], same[3], b, again] {
        site.fixture.world.close(id);
    }
    site.fixture.settle();
    for last in 0..6 {
        let ip: IpAddr = [10, 0, 1, last].into();
        assert_eq!(site.limits.admit(ip), Ok(()));
    }
}

#[test]
fn receive_that_found_no_buffer_is_armed_again() {
    let mut site = site();
    for _ in 0..3 {
        site.fixture.world.fail_next(OpKind::Recv, Errno::NOBUFS);
    }
    let id = site.connect(1);
    for port in 0..4 {
        site.say(id, &announce(1000 + port, "HTTP/1.1", ""));
        assert_eq!(site.hear_answers(id), 1);
    }
}

#[test]
fn datagrams_of_a_turn_are_answered_in_it() {
    let mut site = site();
    let mut connect = [0; 16];
    connect[..8].copy_from_slice(&0x0417_2710_1980_u64.to_be_bytes());
    for transaction in 0..300_u32 {
        connect[12..].copy_from_slice(&transaction.to_be_bytes());
        let from = SocketAddr::from(([10, 0, 0, 1], 1000 + transaction as u16));
        site.fixture.world.send_to(&site.udp, from, &connect);
        site.fixture.world.send_to(&site.udp, from, b"junk");
    }
    site.fixture.settle();
    let replies = site.fixture.world.datagrams();
    assert_eq!(replies.len(), 300);
    for ((to, reply), transaction) in replies.iter().zip(0_u32..) {
        assert_eq!(to.port(), 1000 + transaction as u16);
        assert_eq!(
            (&reply[..4], &reply[4..8], reply.len()),
            (&[0; 4][..], &transaction.to_be_bytes()[..], 16)
        );
    }
    site.fixture.pass(0.2);
    assert_eq!(site.served.counts().get(Kind::UdpConnect, Ended::Answered), 300);
    assert_eq!(site.fixture.shard.counters.tracker_datagrams, 600);
}

#[test]
fn receive_of_datagrams_goes_on_after_whatever_ended_it_and_too_long_ones_are_counted() {
    let mut site = site();
    let mut connect = [0; 16];
    connect[..8].copy_from_slice(&0x0417_2710_1980_u64.to_be_bytes());
    let from = SocketAddr::from(([10, 0, 0, 1], 1000));
    for errno in [Errno::NOBUFS, Errno::CANCELED, Errno::NOMEM] {
        site.fixture.world.fail_next(OpKind::RecvFrom, errno);
        site.fixture.world.send_to(&site.udp, from, &connect);
        site.fixture.settle();
        // At the latest with the next tick, should it bring nothing time and again.
        site.fixture.pass(0.1);
        assert_eq!(site.fixture.world.datagrams().len(), 1, "after {errno:?}");
    }
    site.fixture.world.send_to(&site.udp, from, &[0; 3000]);
    site.fixture.pass(0.1);
    assert!(site.fixture.world.datagrams().is_empty());
    assert_eq!(site.fixture.shard.counters.tracker_datagrams_too_long, 1);
}

#[test]
fn shard_does_not_sleep_past_the_tick_at_which_it_receives_again() {
    let mut site = site();
    let mut connect = [0; 16];
    connect[..8].copy_from_slice(&0x0417_2710_1980_u64.to_be_bytes());
    for _ in 0..2 {
        site.fixture.world.fail_next(OpKind::RecvFrom, Errno::NOBUFS);
    }
    let from = SocketAddr::from(([10, 0, 0, 1], 1000));
    site.fixture.world.send_to(&site.udp, from, &connect);
    site.fixture.settle();
    assert!(site.fixture.world.datagrams().is_empty());
    let sleep = site.fixture.shard.wait().at_most;
    let tick = Duration::from_millis(100);
    assert!(!sleep.is_zero() && sleep <= tick, "{sleep:?}");
    site.fixture.pass(0.1);
    assert_eq!(site.fixture.world.datagrams().len(), 1);
}

#[test]
fn shard_that_stops_ends_the_trackers_connections_and_operations_too() {
    let mut site = site();
    let (idle, torn) = (site.connect(1), site.connect(2));
    site.say(idle, &announce(1000, "HTTP/1.1", ""));
    site.say(torn, "GET /");
    site.fixture.commands.send(Command::Stop).unwrap();
    site.fixture.world.ring();
    for _ in 0..10 {
        if site.fixture.turn() == Flow::Stop {
            assert_eq!(
                (site.ended(idle), site.ended(torn)),
                (Some(Ending::Orderly), Some(Ending::Orderly))
            );
            assert_eq!(site.fixture.shard.driver.in_flight(), 0);
            return;
        }
    }
    panic!(
        "{} operations are still in flight",
        site.fixture.shard.driver.in_flight()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Requests in any pieces, completions in any order, sockets with any room: each request has its answer.
    #[test]
    fn every_request_is_answered_however_it_comes(
        pieces in prop::collection::vec(1_usize..400, 1..60),
        rooms in prop::collection::vec(0_usize..2000, 1..60),
        seed in 1_u64..,
    ) {
        let mut site = site();
        site.fixture.world.shuffle(seed);
        let requests: Vec<String> = (0..20).map(|port| announce(1000 + port, "HTTP/1.1", "")).collect();
        let (all, count) = (requests.concat(), requests.len());
        let id = site.connect(1);
        let mut at = 0;
        let mut heard = String::new();
        for (piece, room) in pieces.iter().cycle().zip(rooms.iter().cycle()).take(all.len()) {
            let end = (at + piece).min(all.len());
            site.fixture.world.write(id, &all.as_bytes()[at..end]);
            at = end;
            site.fixture.world.set_room(id, Some(*room));
            site.fixture.turn();
            heard += &site.hear(id);
            if at == all.len() {
                site.fixture.world.set_room(id, None);
            }
        }
        site.fixture.settle();
        heard += &site.hear(id);
        prop_assert_eq!(heard.matches("HTTP/1.1 200 OK").count(), count);
        prop_assert_eq!(site.ended(id), None);
    }
}
